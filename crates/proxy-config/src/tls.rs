//! Which certificates, trust and parameters does a TLS connection use? Compiled TLS contexts and secrets.
//!
//! Turned into rustls configurations by the `tls` crate, which also resolves secret names.

use std::sync::Arc;

use crate::Name;
use crate::common::DataSource;
use crate::matcher::StringMatcher;

/// `DownstreamTlsContext` or `UpstreamTlsContext` with its `CommonTlsContext`.
#[derive(Debug, Clone)]
pub struct TlsContext {
    /// Certificates to present.
    pub certificates: Box<[CertificateSource]>,
    /// How the peer is validated.
    pub validation: Validation,
    /// ALPN, in order of preference.
    pub alpn: Box<[Name]>,
    /// Versions, ciphers, curves.
    pub params: TlsParams,
    /// Downstream: refuse clients without certificate.
    pub require_client_certificate: bool,
    /// Upstream: server name to send.
    pub sni: Option<Name>,
    /// Upstream: take the SNI from the chosen host's hostname.
    pub auto_host_sni: bool,
    /// Upstream: SAN must match the SNI.
    pub auto_sni_san_validation: bool,
    /// Upstream: renegotiation was asked for (never done here).
    pub max_session_keys: Option<u32>,
    /// Downstream: no session tickets.
    pub disable_stateless_session_resumption: bool,
    /// Downstream: no session ids.
    pub disable_stateful_session_resumption: bool,
    /// Downstream: ticket keys.
    pub session_ticket_keys: Box<[DataSource]>,
    /// Downstream: `session_timeout`.
    pub session_timeout: Option<std::time::Duration>,
    /// `key_log.path`
    pub key_log_path: Option<Name>,
    /// Downstream: full scan of certificates on an SNI mismatch.
    pub full_scan_certs_on_sni_mismatch: bool,
    /// Downstream: `prefer_client_ciphers`
    pub prefer_client_ciphers: bool,
    /// Upstream: `enforce_rsa_key_usage`.
    pub enforce_rsa_key_usage: bool,
}

/// Where a certificate comes from.
#[derive(Debug, Clone)]
pub enum CertificateSource {
    /// Given in the resource.
    Inline(Arc<Certificate>),
    /// `tls_certificate_sds_secret_configs`: a secret by name
    Sds(Name),
}

/// `TlsCertificate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// PEM chain, leaf first.
    pub chain: DataSource,
    /// PEM key.
    pub key: DataSource,
    /// Key password.
    pub password: Option<DataSource>,
    /// OCSP response to staple.
    pub ocsp_staple: Option<DataSource>,
}

/// How the peer's certificate is validated.
#[derive(Debug, Clone)]
pub enum Validation {
    /// Not at all.
    None,
    /// `validation_context`
    Inline(Arc<ValidationContext>),
    /// `validation_context_sds_secret_config`
    Sds(Name),
    /// `combined_validation_context`: the default overlaid with the secret
    Combined {
        /// Given in the resource.
        default: Arc<ValidationContext>,
        /// Secret name.
        sds: Name,
    },
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone, Default)]
pub struct ValidationContext {
    /// Trusted CA bundle, PEM.
    pub trusted_ca: Option<DataSource>,
    /// Revocation lists, PEM.
    pub crl: Option<DataSource>,
    /// SAN matchers; any suffices. Empty: no SAN check.
    pub san_matchers: Box<[SanMatcher]>,
    /// Accepted SHA-256 of the certificate.
    pub verify_certificate_hash: Box<[[u8; 32]]>,
    /// Accepted SHA-256 of the public key.
    pub verify_certificate_spki: Box<[[u8; 32]]>,
    /// Accepts certificates whose time is not now.
    pub allow_expired_certificate: bool,
    /// Accepts untrusted chains (`ACCEPT_UNTRUSTED`), recording that they are.
    pub accept_untrusted: bool,
    /// CRL checks the leaf only.
    pub only_verify_leaf_cert_crl: bool,
    /// Longest chain.
    pub max_verify_depth: Option<u32>,
    /// Trust the system's bundle (`system_root_certs`).
    pub system_roots: bool,
    /// SPIFFE validator (`envoy.tls.cert_validator.spiffe`): trust domain to bundle.
    pub spiffe_trust_domains: Box<[(Name, DataSource)]>,
}

/// `SubjectAltNameMatcher`.
#[derive(Debug, Clone)]
pub struct SanMatcher {
    /// Type of SAN.
    pub san_type: SanType,
    /// Test. An exact DNS matcher also accepts a certificate's wildcard.
    pub matcher: StringMatcher,
}

/// SAN types. `Any` is the deprecated `match_subject_alt_names`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanType {
    /// Any of them.
    Any,
    /// DNS
    Dns,
    /// URI
    Uri,
    /// EMAIL
    Email,
    /// IP_ADDRESS
    Ip,
}

/// `TlsParameters`; `None` and empty mean the default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsParams {
    /// Lowest version (1.2 downstream and upstream by default).
    pub min_version: Option<TlsVersion>,
    /// Highest version (1.3).
    pub max_version: Option<TlsVersion>,
    /// Cipher suites for TLS 1.2, OpenSSL names.
    pub cipher_suites: Box<[Name]>,
    /// Curves, OpenSSL names.
    pub ecdh_curves: Box<[Name]>,
    /// Signature algorithms.
    pub signature_algorithms: Box<[Name]>,
    /// Compliance policies: 0 is FIPS_202205.
    pub fips: bool,
}

/// TLS versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// 1.0
    V1_0,
    /// 1.1
    V1_1,
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// A secret of SDS.
#[derive(Debug, Clone)]
pub struct Secret {
    /// Name.
    pub name: Name,
    /// Content.
    pub kind: SecretKind,
}

/// Kinds of secrets.
#[derive(Debug, Clone)]
pub enum SecretKind {
    /// `tls_certificate`
    Certificate(Arc<Certificate>),
    /// `validation_context`
    Validation(Arc<ValidationContext>),
    /// `session_ticket_keys`
    TicketKeys(Box<[DataSource]>),
    /// `generic_secret`
    Generic(DataSource),
}

impl TlsContext {
    /// Names of the secrets that this context needs before it can be used.
    pub fn secret_names(&self) -> impl Iterator<Item = &Name> {
        let certificates = self.certificates.iter().filter_map(|c| match c {
            CertificateSource::Sds(name) => Some(name),
            CertificateSource::Inline(_) => None,
        });
        let validation = match &self.validation {
            Validation::Sds(name) | Validation::Combined { sds: name, .. } => Some(name),
            Validation::None | Validation::Inline(_) => None,
        };
        certificates.chain(validation)
    }
}
