//! Which certificates do clients, proxies and upstreams show each other? Made anew for every run.

use anyhow::Result;
use rcgen::{CertificateParams, CertifiedIssuer, DnType, KeyPair, SanType};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::Arc;

/// A certificate with its key.
pub struct Leaf {
    /// PEM of the certificate.
    pub certificate: String,
    /// PEM of the key.
    pub key: String,
    der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Leaf {
    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key_der.clone()))
    }
}

/// All that a run needs.
pub struct Certificates {
    /// PEM of the authority that signed all of them.
    pub root: String,
    /// Shown by the proxies to clients that ask for `a.test` and everything else.
    pub first: Leaf,
    /// Shown by the proxies to clients that ask for `b.test`.
    pub second: Leaf,
    /// Shown by clients.
    pub client: Leaf,
    upstream: Leaf,
    root_der: CertificateDer<'static>,
}

impl Certificates {
    /// Makes an authority and its leaves.
    pub fn make() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "root");
        let root = CertifiedIssuer::self_signed(params, key)?;
        let leaf = |name: &str, names: &[&str], uri: Option<&str>| -> Result<Leaf> {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.distinguished_name.push(DnType::OrganizationName, "Proof, Inc.");
            if let Some(uri) = uri {
                params.subject_alt_names.push(SanType::URI(uri.try_into()?));
            }
            let certificate = params.signed_by(&key, &root)?;
            Ok(Leaf {
                certificate: certificate.pem(),
                key: key.serialize_pem(),
                der: certificate.der().clone(),
                key_der: key.serialize_der(),
            })
        };
        Ok(Certificates {
            root: root.pem(),
            first: leaf("first", &["a.test", "*.a.test"], Some("spiffe://test/ns/a/sa/first"))?,
            second: leaf("second", &["b.test"], None)?,
            client: leaf("client", &["client.test"], Some("spiffe://test/ns/c/sa/client"))?,
            upstream: leaf("upstream", &["up.test"], Some("spiffe://test/ns/u/sa/up"))?,
            root_der: root.der().clone(),
        })
    }

    /// Which of the proxies' certificates it is.
    pub fn name(&self, certificate: &CertificateDer<'_>) -> &'static str {
        match certificate {
            c if *c == self.first.der => "first",
            c if *c == self.second.der => "second",
            _ => "unknown",
        }
    }

    /// What upstream servers show.
    pub fn upstream_server(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider serves the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.upstream.der.clone()], self.upstream.key())
            .expect("key and certificate were made together");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// A client that trusts the authority whatever the name says, with or without a certificate.
    pub fn client(&self, certificate: bool, alpn: &[&str]) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let _ = roots.add(self.root_der.clone());
        let inner = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .expect("the store has a root");
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider serves the default versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyName(inner)));
        let mut config = if certificate {
            builder
                .with_client_auth_cert(vec![self.client.der.clone()], self.client.key())
                .expect("key and certificate were made together")
        } else {
            builder.with_no_client_auth()
        };
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// Judges the chain, not the name: a proxy that shows another name's certificate is a fact to compare.
#[derive(Debug)]
struct AnyName(Arc<rustls::client::WebPkiServerVerifier>);

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &rustls_pki_types::ServerName<'_>,
        ocsp: &[u8],
        now: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
        match self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(rustls::client::danger::ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
