//! How do we shake hands? Server and client contexts, rebuilt when one of their secrets changes.
//!
//! `l4` accepts with a [`ServerContext`], `upstream` connects with a [`ClientContext`]. Both are
//! cheap while unused: rustls configurations are built at the first handshake and after a rotation,
//! from parts that are already parsed and shared. A connection keeps what it was built with.
//! Deliberately absent: time-outs (the caller's), reading files, xDS.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use rustls::client::{ResolvesClientCert, Resumption, UnbufferedClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{HandshakeKind, SignatureScheme, SupportedProtocolVersion};

use crate::client_hello::{self, Peek};
use crate::error::HandshakeError;
use crate::peer::{Certificate, CertificateFacts, TlsInfo};
use crate::provider::{group_name, suite_name, version_name};
use crate::secret::{CertificateSecret, Secret, SecretSlot};
use crate::session::{Side, TlsStream};
use crate::socket::Socket;
use crate::verify::{ClientVerifier, PeerRules, Refused, ServerVerifier};

/// Where a certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// Given with the configuration.
    Fixed(Arc<CertificateSecret>),
    /// Delivered by name (SDS).
    Slot(Arc<SecretSlot>),
}

/// Where the rules for the peer's certificate come from.
#[derive(Debug, Clone, Default)]
pub struct ValidationSource {
    /// Given with the configuration (alone, or the default part of a combined context).
    pub fixed: Option<Arc<PeerRules>>,
    /// Delivered by name (SDS). Merged over `fixed`: its roots win, lists are joined.
    pub slot: Option<Arc<SecretSlot>>,
}

/// Envoy's names for certificates that are part of a configuration: with the hash of a name that is empty.
const UNNAMED_CERTIFICATE: &str = "unnamed_cert_e3b0c442";
const UNNAMED_ROOT: &str = "unnamed_ca_cert_e3b0c442";

/// What clients and servers have in common; from a `CommonTlsContext`.
#[derive(Debug, Clone)]
pub struct CommonSpec {
    /// Suites and groups.
    pub provider: Arc<CryptoProvider>,
    /// Protocol versions.
    pub versions: Vec<&'static SupportedProtocolVersion>,
    /// Our certificates.
    pub certificates: Vec<CertificateSource>,
    /// What the peer must show.
    pub validation: ValidationSource,
    /// Application protocols in order of preference.
    pub alpn: Vec<Vec<u8>>,
}

impl CommonSpec {
    /// The secrets in force; `None` when one has not arrived.
    fn inputs(&self) -> Option<Inputs> {
        let slots = self.certificates.iter().filter_map(|c| match c {
            CertificateSource::Slot(s) => Some(s),
            CertificateSource::Fixed(_) => None,
        });
        slots.chain(&self.validation.slot).map(|s| s.load()).collect()
    }

    /// The certificates it holds now by the names that Envoy gives them, with their ends in seconds since 1970; of a bundle of
    /// roots the first.
    fn expiries(&self, each: &mut dyn FnMut(&str, u64)) {
        let mut tell = |name: &str, certificate: &Certificate| {
            let end = certificate.facts().not_after.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
            if let Some(end) = end {
                each(name, end.as_secs());
            }
        };
        for source in &self.certificates {
            match source {
                CertificateSource::Fixed(c) => tell(UNNAMED_CERTIFICATE, &c.certificate),
                CertificateSource::Slot(s) => {
                    if let Some(Secret::Certificate(c)) = s.load().as_deref() {
                        tell(s.name(), &c.certificate);
                    }
                }
            }
        }
        let first = |rules: &PeerRules| rules.roots.as_ref().and_then(|r| r.certificates().first().cloned());
        let root = match &self.validation.slot {
            None => self.validation.fixed.as_deref().and_then(first).map(|root| (UNNAMED_ROOT, root)),
            Some(slot) => match slot.load().as_deref() {
                Some(Secret::Validation(rules)) => first(rules).map(|root| (&**slot.name(), root)),
                _ => None,
            },
        };
        if let Some((name, root)) = root {
            tell(name, &root);
        }
    }

    fn certificates(&self, inputs: &Inputs) -> Result<Vec<Arc<CertificateSecret>>, HandshakeError> {
        let mut delivered = inputs.iter();
        self.certificates
            .iter()
            .map(|source| match source {
                CertificateSource::Fixed(c) => Ok(c.clone()),
                CertificateSource::Slot(s) => match delivered.next().map(|s| &**s) {
                    Some(Secret::Certificate(c)) => Ok(c.clone()),
                    _ => Err(HandshakeError::WrongSecret(s.name().clone())),
                },
            })
            .collect()
    }

    fn rules(&self, inputs: &Inputs) -> Result<PeerRules, HandshakeError> {
        let fixed = self.validation.fixed.as_deref().cloned().unwrap_or_default();
        let Some(slot) = &self.validation.slot else {
            return Ok(fixed);
        };
        match inputs.last().map(|s| &**s) {
            Some(Secret::Validation(dynamic)) => Ok(merge(fixed, dynamic)),
            _ => Err(HandshakeError::WrongSecret(slot.name().clone())),
        }
    }
}

/// `CombinedCertificateValidationContext`: the dynamic part is merged into the default one.
fn merge(mut fixed: PeerRules, dynamic: &PeerRules) -> PeerRules {
    if dynamic.roots.is_some() {
        fixed.roots.clone_from(&dynamic.roots);
    }
    fixed.spiffe.extend(dynamic.spiffe.iter().cloned());
    fixed.sans.extend(dynamic.sans.iter().cloned());
    fixed.certificate_hashes.extend(&dynamic.certificate_hashes);
    fixed.spki_hashes.extend(&dynamic.spki_hashes);
    fixed.allow_expired |= dynamic.allow_expired;
    fixed.accept_untrusted |= dynamic.accept_untrusted;
    fixed.leaf_crl_only |= dynamic.leaf_crl_only;
    fixed
}

/// The delivered secrets a configuration was built from: certificates in order, then validation.
type Inputs = Vec<Arc<Secret>>;

fn same(a: &Inputs, b: &Inputs) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Built once and kept until an input changes.
#[derive(Debug)]
struct Cached<T>(ArcSwapOption<(Inputs, T)>);

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Cached(ArcSwapOption::empty())
    }
}

impl<T> Cached<T> {
    fn get(
        &self,
        spec: &CommonSpec,
        build: impl FnOnce(&Inputs) -> Result<T, HandshakeError>,
    ) -> Result<Arc<(Inputs, T)>, HandshakeError> {
        let inputs = spec.inputs().ok_or(HandshakeError::SecretNotReady)?;
        if let Some(built) = &*self.0.load()
            && same(&built.0, &inputs)
        {
            return Ok(built.clone());
        }
        // Two workers may build at the same time; either result serves.
        let built = build(&inputs)?;
        let built = Arc::new((inputs, built));
        self.0.store(Some(built.clone()));
        Ok(built)
    }
}

/// A downstream TLS context.
#[derive(Debug)]
pub struct ServerContext {
    common: CommonSpec,
    require_client_certificate: bool,
    /// Stateless tickets for resumption (`disable_stateless_session_resumption` unset).
    tickets: bool,
    built: Cached<BuiltServer>,
}

#[derive(Debug)]
struct BuiltServer {
    config: Arc<rustls::ServerConfig>,
    /// Without ALPN, for clients whose offer has nothing in common with ours: Envoy goes on without.
    config_without_alpn: OnceLock<Arc<rustls::ServerConfig>>,
    resolver: Arc<ServerCertificates>,
    validates: bool,
}

impl ServerContext {
    /// A context that builds its rustls configuration when first used.
    pub fn new(common: CommonSpec, require_client_certificate: bool, tickets: bool) -> Self {
        ServerContext { common, require_client_certificate, tickets, built: Cached::default() }
    }

    /// Names and ends of its certificates, for their stats.
    pub fn expiries(&self, each: &mut dyn FnMut(&str, u64)) {
        self.common.expiries(each);
    }

    /// Whether all secrets have arrived.
    pub fn is_ready(&self) -> bool {
        self.common.inputs().is_some()
    }

    /// Our certificates in force, for the admin's `/certs`.
    pub fn certificates(&self) -> Vec<Arc<Certificate>> {
        let all = self.common.inputs().and_then(|i| self.common.certificates(&i).ok());
        all.unwrap_or_default().iter().map(|c| c.certificate.clone()).collect()
    }

    fn build(&self, inputs: &Inputs) -> Result<BuiltServer, HandshakeError> {
        let certificates = self.common.certificates(inputs)?;
        if certificates.is_empty() {
            return Err(HandshakeError::NoCertificate);
        }
        let rules = self.common.rules(inputs)?;
        let provider = &self.common.provider;
        let validates = rules.verifies();
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.common.versions)
            .map_err(HandshakeError::Config)?;
        let builder = if self.require_client_certificate || validates {
            let anchors = rules.roots.iter().flat_map(|r| &r.anchors);
            let hints = anchors.map(|a| rustls::DistinguishedName::from(subject_der(a))).collect();
            builder.with_client_cert_verifier(Arc::new(ClientVerifier {
                rules,
                provider: provider.clone(),
                required: self.require_client_certificate,
                hints,
            }))
        } else {
            builder.with_no_client_auth()
        };
        let resolver = Arc::new(ServerCertificates(certificates));
        let mut config = builder.with_cert_resolver(resolver.clone());
        config.alpn_protocols.clone_from(&self.common.alpn);
        // Session caches are per context and die with it, so that a rotation of roots or rules
        // cannot be escaped by resuming.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        if self.tickets {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(HandshakeError::Config)?;
        }
        Ok(BuiltServer { config: Arc::new(config), config_without_alpn: OnceLock::new(), resolver, validates })
    }

    /// Runs the server side of a handshake. The caller bounds its time and counts its outcome.
    pub async fn accept(&self, socket: Socket) -> Result<TlsStream, HandshakeError> {
        let built = self.built.get(&self.common, |inputs| self.build(inputs))?;
        let built = &built.1;
        let (socket, first, hello) = read_hello(socket).await?;
        let config = if no_common_alpn(&self.common.alpn, &hello.alpn) {
            built.config_without_alpn.get_or_init(|| {
                let mut config = rustls::ServerConfig::clone(&built.config);
                config.alpn_protocols.clear();
                Arc::new(config)
            })
        } else {
            &built.config
        };
        let conn = UnbufferedServerConnection::new(config.clone()).map_err(HandshakeError::Config)?;
        let mut stream = TlsStream::with_received(socket, Side::Server(conn), first);
        stream.handshake().await.map_err(HandshakeError::from_io)?;
        let sni = hello.sni.map(Arc::from);
        let local = built.resolver.pick(sni.as_deref(), None).map(|c| c.certificate.clone());
        let info = info(&stream, sni, local, built.validates);
        stream.set_info(info);
        Ok(stream)
    }
}

/// The subject of a trust anchor as a complete DER name.
fn subject_der(anchor: &rustls::pki_types::TrustAnchor<'_>) -> Vec<u8> {
    let body: &[u8] = anchor.subject.as_ref();
    let mut out = vec![0x30];
    match body.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n @ 0x80..=0xff => out.extend([0x81, n as u8]),
        n => out.extend([0x82, (n >> 8) as u8, n as u8]),
    }
    out.extend_from_slice(body);
    out
}

/// Reads until the ClientHello is complete, so that its offer is known before rustls judges it.
async fn read_hello(mut socket: Socket) -> Result<(Socket, Vec<u8>, client_hello::ClientHello), HandshakeError> {
    let mut first = Vec::with_capacity(1024);
    loop {
        std::future::poll_fn(|cx| socket.poll_read_ready(cx)).await.map_err(HandshakeError::from_io)?;
        let at = first.len();
        first.resize(at + 2048, 0);
        let read = socket.try_read(&mut first[at..]);
        first.truncate(at + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => return Err(HandshakeError::from_io(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => match client_hello::peek(&first) {
                Peek::More => {}
                Peek::Tls(hello) => return Ok((socket, first, hello)),
                // rustls finds the right words for it.
                Peek::NotTls => return Ok((socket, first, client_hello::ClientHello::default())),
            },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(HandshakeError::from_io(e)),
        }
    }
}

fn no_common_alpn(ours: &[Vec<u8>], theirs: &[Box<[u8]>]) -> bool {
    !ours.is_empty() && !theirs.is_empty() && !ours.iter().any(|o| theirs.iter().any(|t| **t == **o))
}

fn info(stream: &TlsStream, sni: Option<Arc<str>>, local: Option<Arc<Certificate>>, validates: bool) -> TlsInfo {
    let common = stream.common();
    let peer = common.peer_certificates().and_then(Certificate::from_chain);
    TlsInfo {
        version: common.protocol_version().map_or("", version_name),
        cipher: common.negotiated_cipher_suite().map_or("", |s| suite_name(s.suite())),
        group: common.negotiated_key_exchange_group().map_or("", |g| group_name(g.name())),
        signature: stream.info().signature,
        sni,
        alpn: common.alpn_protocol().map(Into::into),
        resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
        peer_validated: peer.is_some() && validates,
        peer,
        local,
    }
}

/// Our server certificates; the best for a name and a key type is chosen as Envoy does.
#[derive(Debug)]
struct ServerCertificates(Vec<Arc<CertificateSecret>>);

impl ServerCertificates {
    /// Exact name first, then wildcard, then the first certificate; ECDSA before RSA within each
    /// as far as the client can check it.
    fn pick(&self, sni: Option<&str>, schemes: Option<&[SignatureScheme]>) -> Option<&Arc<CertificateSecret>> {
        if self.0.len() == 1 {
            return self.0.first();
        }
        let usable = |c: &&Arc<CertificateSecret>| schemes.is_none_or(|s| c.key.key.choose_scheme(s).is_some());
        let named = |want: &str| {
            self.0
                .iter()
                .filter(usable)
                .find(|c| c.certificate.facts().dns_sans.iter().any(|n| n.eq_ignore_ascii_case(want)))
        };
        let by_name = sni.and_then(|name| {
            named(name).or_else(|| {
                let (_, rest) = name.split_once('.')?;
                named(&format!("*.{rest}"))
            })
        });
        by_name.or_else(|| self.0.iter().find(usable)).or_else(|| self.0.first())
    }
}

impl ResolvesServerCert for ServerCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.pick(hello.server_name(), Some(hello.signature_schemes())).map(|c| c.key.clone())
    }
}

/// An upstream TLS context.
#[derive(Debug)]
pub struct ClientContext {
    common: CommonSpec,
    /// SNI to send; `None` or empty sends none.
    sni: Option<Arc<str>>,
    /// Sessions kept for resumption (`max_session_keys`, Envoy's default is 1).
    max_session_keys: usize,
    built: Cached<BuiltClient>,
}

#[derive(Debug)]
struct BuiltClient {
    config: Arc<rustls::ClientConfig>,
    /// For handshakes without SNI.
    config_without_sni: OnceLock<Arc<rustls::ClientConfig>>,
    local: Option<Arc<Certificate>>,
    validates: bool,
}

/// What a single connection changes about its context (`TransportSocketOptions`).
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectOptions<'a> {
    /// Instead of the context's SNI (`auto_sni`, pass-through of the downstream's).
    pub sni: Option<&'a str>,
    /// Instead of the context's ALPN list.
    pub alpn: Option<&'a [Box<[u8]>]>,
    /// Names one of which the server must show, beside the context's rules (`auto_san_validation`).
    pub dns_san: Option<&'a str>,
}

impl ClientContext {
    /// A context that builds its rustls configuration when first used.
    pub fn new(common: CommonSpec, sni: Option<Arc<str>>, max_session_keys: usize) -> Self {
        let sni = sni.filter(|s| !s.is_empty());
        ClientContext { common, sni, max_session_keys, built: Cached::default() }
    }

    /// Names and ends of its certificates, for their stats.
    pub fn expiries(&self, each: &mut dyn FnMut(&str, u64)) {
        self.common.expiries(each);
    }

    /// Whether all secrets have arrived.
    pub fn is_ready(&self) -> bool {
        self.common.inputs().is_some()
    }

    /// The context's application protocols.
    pub fn alpn(&self) -> &[Vec<u8>] {
        &self.common.alpn
    }

    fn build(&self, inputs: &Inputs) -> Result<BuiltClient, HandshakeError> {
        let certificates = self.common.certificates(inputs)?;
        let rules = self.common.rules(inputs)?;
        let provider = &self.common.provider;
        let validates = rules.verifies();
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&self.common.versions)
            .map_err(HandshakeError::Config)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ServerVerifier { rules, provider: provider.clone() }));
        let local = certificates.first().map(|c| c.certificate.clone());
        let mut config = match certificates.into_iter().next() {
            Some(c) => builder.with_client_cert_resolver(Arc::new(OneClientCertificate(c))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.common.alpn);
        config.resumption = match self.max_session_keys {
            0 => Resumption::disabled(),
            n => Resumption::in_memory_sessions(n),
        };
        Ok(BuiltClient { config: Arc::new(config), config_without_sni: OnceLock::new(), local, validates })
    }

    /// Runs the client side of a handshake. The caller bounds its time and counts its outcome.
    pub async fn connect(&self, socket: Socket, options: ConnectOptions<'_>) -> Result<TlsStream, HandshakeError> {
        let built = self.built.get(&self.common, |inputs| self.build(inputs))?;
        let built = &built.1;
        let sni = options.sni.filter(|s| !s.is_empty()).or(self.sni.as_deref());
        let (config, name) = match sni {
            Some(sni) if sni.parse::<std::net::IpAddr>().is_err() => {
                let name =
                    ServerName::try_from(sni.to_owned()).map_err(|_| HandshakeError::InvalidSni(sni.to_owned()))?;
                (&built.config, name)
            }
            _ => {
                let config = built.config_without_sni.get_or_init(|| {
                    let mut config = rustls::ClientConfig::clone(&built.config);
                    config.enable_sni = false;
                    Arc::new(config)
                });
                (config, ServerName::IpAddress(std::net::IpAddr::from([0, 0, 0, 0]).into()))
            }
        };
        let conn = match options.alpn {
            None => UnbufferedClientConnection::new(config.clone(), name),
            Some(alpn) => {
                let alpn = alpn.iter().map(|a| a.to_vec()).collect();
                UnbufferedClientConnection::new_with_alpn(config.clone(), name, alpn)
            }
        }
        .map_err(HandshakeError::Config)?;
        let mut stream = TlsStream::new(socket, Side::Client(conn));
        stream.handshake().await.map_err(HandshakeError::from_io)?;
        let info = info(&stream, sni.map(Arc::from), built.local.clone(), built.validates);
        if let Some(want) = options.dns_san {
            let none = CertificateFacts::default();
            let facts = info.peer.as_ref().map_or(&none, |p| p.facts());
            if !crate::verify::host_matches(facts, want) {
                return Err(HandshakeError::Refused(Refused::names(facts)));
            }
        }
        stream.set_info(info);
        Ok(stream)
    }
}

/// Our one client certificate, whatever issuers the server hints at (as Envoy).
#[derive(Debug)]
struct OneClientCertificate(Arc<CertificateSecret>);

impl ResolvesClientCert for OneClientCertificate {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.key.choose_scheme(schemes)?;
        Some(self.0.key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
