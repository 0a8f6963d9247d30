//! Is the certificate on the other end one that we trust? Chain, pins, names: in that order.
//!
//! The chain is verified by webpki against the context's trust roots; then, as in Envoy's default
//! validator, certificate pins and subject alternative names are compared with what the context
//! lists. SPIFFE identities are URI names, so host-name rules of the Web do not apply.
//! Used by `context`. Deliberately absent: fetching anything; CRLs come with the configuration.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use proxy_config::matcher::StringMatcher;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use webpki::{CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth};
use webpki::{RevocationOptionsBuilder, UnknownStatusPolicy};

use crate::peer::CertificateFacts;
use crate::secret::TrustRoots;

/// Which subject alternative names a matcher looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// Any of them (the deprecated untyped matchers).
    Any,
    /// `URI`.
    Uri,
    /// `DNS`.
    Dns,
    /// `IP_ADDRESS`.
    Ip,
    /// `EMAIL`.
    Email,
}

/// What a peer's certificate must satisfy beyond its chain; from a `CertificateValidationContext`.
#[derive(Debug, Clone, Default)]
pub struct PeerRules {
    /// Trust anchors and CRLs. `None`: the chain is not verified (Envoy without `trusted_ca`).
    pub roots: Option<Arc<TrustRoots>>,
    /// Trust anchors by SPIFFE trust domain (`envoy.tls.cert_validator.spiffe`); used instead of `roots`.
    pub spiffe: Vec<(Arc<str>, Arc<TrustRoots>)>,
    /// One of these must match one name of that kind; empty: any.
    pub sans: Vec<(SanKind, StringMatcher)>,
    /// SHA-256 of the leaf; empty: any.
    pub certificate_hashes: Vec<[u8; 32]>,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo; empty: any. With both pins given one must hold.
    pub spki_hashes: Vec<[u8; 32]>,
    /// `allow_expired_certificate`.
    pub allow_expired: bool,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`.
    pub accept_untrusted: bool,
    /// `only_verify_leaf_cert_crl`.
    pub leaf_crl_only: bool,
}

/// Why a certificate with a valid chain was refused; in Envoy's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// No name matched (`ssl.fail_verify_san`); these are the certificate's.
    San(Box<[String]>),
    /// No pin matched (`ssl.fail_verify_cert_hash`).
    Hash,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::San(names) => write!(f, "SAN matcher, certificate SANs are [{}]", names.join(", ")),
            Refused::Hash => f.write_str("Certificate hash and SPKI matchers"),
        }
    }
}

impl std::error::Error for Refused {}

impl Refused {
    /// None of the certificate's names will do.
    pub(crate) fn names(facts: &CertificateFacts) -> Self {
        let ips = facts.ip_sans.iter().map(|ip| ip.to_string());
        let texts = facts.dns_sans.iter().chain(&facts.uri_sans).chain(&facts.email_sans).cloned();
        Refused::San(texts.chain(ips).collect())
    }
}

impl From<Refused> for Error {
    fn from(r: Refused) -> Self {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(r))))
    }
}

impl PeerRules {
    /// Whether anything at all is asked of the peer's certificate.
    pub fn verifies(&self) -> bool {
        self.roots.is_some()
            || !self.spiffe.is_empty()
            || !self.sans.is_empty()
            || !self.certificate_hashes.is_empty()
            || !self.spki_hashes.is_empty()
    }

    fn check(
        &self,
        provider: &CryptoProvider,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if !self.spiffe.is_empty() {
            let roots = self.spiffe_roots(leaf)?;
            self.check_chain(roots, provider, leaf, intermediates, now, usage)?;
        } else if let Some(roots) = &self.roots
            && !self.accept_untrusted
        {
            self.check_chain(roots, provider, leaf, intermediates, now, usage)?;
        }
        self.check_pins(leaf)?;
        self.check_names(leaf)
    }

    /// The bundle of the trust domain that the leaf claims.
    fn spiffe_roots(&self, leaf: &CertificateDer<'_>) -> Result<&TrustRoots, Error> {
        let facts = CertificateFacts::parse(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let domain = facts.uri_sans.iter().find_map(|uri| uri.strip_prefix("spiffe://")?.split('/').next());
        let bundle = domain.and_then(|d| self.spiffe.iter().find(|(name, _)| **name == *d));
        bundle.map(|(_, roots)| &**roots).ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))
    }

    fn check_chain(
        &self,
        roots: &TrustRoots,
        provider: &CryptoProvider,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if roots.is_anchor(leaf) {
            // A trusted certificate that presents itself: BoringSSL accepts it, webpki has no word for it.
            return check_validity(leaf, now, self.allow_expired);
        }
        let cert = EndEntityCert::try_from(leaf).map_err(webpki_error)?;
        let crls: Vec<&CertRevocationList<'_>> = roots.crls.iter().collect();
        let depth = if self.leaf_crl_only { RevocationCheckDepth::EndEntity } else { RevocationCheckDepth::Chain };
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|b| {
            b.with_depth(depth)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Ignore)
                .build()
        });
        let algorithms = provider.signature_verification_algorithms.all;
        match cert.verify_for_usage(algorithms, &roots.anchors, intermediates, now, usage, revocation, None) {
            Ok(_) => Ok(()),
            Err(webpki::Error::CertExpired { .. }) if self.allow_expired => Ok(()),
            Err(e) => Err(webpki_error(e)),
        }
    }

    fn check_pins(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.certificate_hashes.is_empty() && self.spki_hashes.is_empty() {
            return Ok(());
        }
        let sha256 = |bytes: &[u8]| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let listed = |list: &[[u8; 32]], bytes: &[u8]| {
            let digest = sha256(bytes);
            list.iter().any(|h| h == digest.as_ref())
        };
        if !self.certificate_hashes.is_empty() && listed(&self.certificate_hashes, leaf) {
            return Ok(());
        }
        if !self.spki_hashes.is_empty() {
            let cert = EndEntityCert::try_from(leaf).map_err(webpki_error)?;
            if listed(&self.spki_hashes, &cert.subject_public_key_info()) {
                return Ok(());
            }
        }
        Err(Refused::Hash.into())
    }

    fn check_names(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if self.sans.is_empty() {
            return Ok(());
        }
        let facts = CertificateFacts::parse(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.sans.iter().any(|(kind, matcher)| names_match(&facts, *kind, matcher)) {
            return Ok(());
        }
        Err(Refused::names(&facts).into())
    }
}

/// Whether one of the certificate's names of `kind` matches.
pub fn names_match(facts: &CertificateFacts, kind: SanKind, matcher: &StringMatcher) -> bool {
    let any = |names: &[String]| names.iter().any(|n| matcher.matches(n.as_bytes()));
    match kind {
        SanKind::Any => [SanKind::Uri, SanKind::Dns, SanKind::Ip, SanKind::Email]
            .iter()
            .any(|kind| names_match(facts, *kind, matcher)),
        SanKind::Uri => any(&facts.uri_sans),
        SanKind::Email => any(&facts.email_sans),
        SanKind::Ip => facts.ip_sans.iter().any(|ip| matcher.matches(ip.to_string().as_bytes())),
        SanKind::Dns => match matcher {
            // An exact DNS matcher also accepts a wildcard in the certificate.
            StringMatcher::Exact(want) | StringMatcher::ExactNoCase(want) => {
                facts.dns_sans.iter().any(|n| dns_name_matches(want, n))
            }
            _ => any(&facts.dns_sans),
        },
    }
}

/// Whether `host` (a DNS name or an IP address) is one of the certificate's names.
pub fn host_matches(facts: &CertificateFacts, host: &str) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(ip) => facts.ip_sans.contains(&ip),
        Err(_) => facts.dns_sans.iter().any(|n| dns_name_matches(host, n)),
    }
}

/// Envoy's `dnsNameMatch`: equal without case, or `*` standing for one leftmost label.
fn dns_name_matches(name: &str, pattern: &str) -> bool {
    if name.eq_ignore_ascii_case(pattern) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix("*.") else {
        return false;
    };
    name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix))
}

fn check_validity(leaf: &CertificateDer<'_>, now: UnixTime, allow_expired: bool) -> Result<(), Error> {
    let facts = CertificateFacts::parse(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let now = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
    if facts.not_before.is_some_and(|t| now < t) {
        return Err(Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if !allow_expired && facts.not_after.is_some_and(|t| now > t) {
        return Err(Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

fn webpki_error(e: webpki::Error) -> Error {
    use webpki::Error as W;
    Error::InvalidCertificate(match e {
        W::BadDer | W::BadDerTime | W::TrailingData(_) => CertificateError::BadEncoding,
        W::CertNotValidYet { .. } => CertificateError::NotValidYet,
        W::CertExpired { .. } | W::InvalidCertValidity => CertificateError::Expired,
        W::UnknownIssuer => CertificateError::UnknownIssuer,
        W::CertRevoked => CertificateError::Revoked,
        W::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        W::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        e => CertificateError::Other(OtherError(Arc::new(e))),
    })
}

/// Verifies servers (we are the client).
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub rules: PeerRules,
    pub provider: Arc<CryptoProvider>,
}

/// Verifies clients (we are the server).
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub rules: PeerRules,
    pub provider: Arc<CryptoProvider>,
    pub required: bool,
    pub hints: Vec<DistinguishedName>,
}

thread_local! {
    /// The scheme of the signature verified last on this thread, for the handshake step that is running on it.
    static VERIFIED: Cell<Option<SignatureScheme>> = const { Cell::new(None) };
}

/// Which signature was verified since the last call. rustls tells it to the verifier only, and a step of a handshake does not
/// leave its thread.
pub(crate) fn take_verified() -> Option<SignatureScheme> {
    VERIFIED.take()
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            VERIFIED.set(Some(dss.scheme));
            rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            VERIFIED.set(Some(dss.scheme));
            rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.rules.check(&self.provider, end_entity, intermediates, now, KeyUsage::server_auth())?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.rules.check(&self.provider, end_entity, intermediates, now, KeyUsage::client_auth())?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_label() {
        for (name, pattern, expect) in [
            ("a.example.com", "*.example.com", true),
            ("A.Example.com", "a.example.COM", true),
            ("a.b.example.com", "*.example.com", false),
            ("example.com", "*.example.com", false),
            (".example.com", "*.example.com", false),
        ] {
            assert_eq!(dns_name_matches(name, pattern), expect, "{name} {pattern}");
        }
    }
}
