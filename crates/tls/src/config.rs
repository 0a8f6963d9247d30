//! What do Envoy's TLS messages mean to rustls? Contexts and secrets from their compiled configuration.
//!
//! Called off the request path by `l4`, `upstream` and the SDS client. Reads the files that data
//! sources name. Deliberately absent: watching those files (the proxy reloads the secret).

use std::sync::Arc;

use proxy_config::common::DataSource;
use proxy_config::tls as config;
use rustls::SupportedProtocolVersion;

use crate::context::{CertificateSource, ClientContext, CommonSpec, ServerContext, ValidationSource};
use crate::provider::provider;
use crate::secret::{CertificateSecret, Secret, SecretError, SecretStore, TrustRoots};
use crate::verify::{PeerRules, SanKind};

/// Where Linux distributions keep the system's trust roots (`system_root_certs`).
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a TLS context or secret cannot be used; `field` is the path inside the message.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct TlsConfigError {
    /// Field path.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn at<E: std::fmt::Display>(field: &'static str) -> impl FnOnce(E) -> TlsConfigError {
    move |e| TlsConfigError { field, reason: e.to_string() }
}

/// The bytes of a data source.
pub fn read(source: &DataSource, field: &'static str) -> Result<Vec<u8>, TlsConfigError> {
    match source {
        DataSource::Inline(bytes) => Ok(bytes.to_vec()),
        DataSource::File { path, .. } => {
            std::fs::read(&**path).map_err(|e| TlsConfigError { field, reason: format!("cannot read {path}: {e}") })
        }
        DataSource::Env(name) => std::env::var(&**name)
            .map(String::into_bytes)
            .map_err(|_| TlsConfigError { field, reason: format!("environment variable {name} is not set") }),
    }
}

/// Loads a `TlsCertificate`.
pub fn certificate(c: &config::Certificate) -> Result<Arc<CertificateSecret>, TlsConfigError> {
    if c.password.is_some() {
        return Err(TlsConfigError { field: "password", reason: "encrypted private keys are not supported".into() });
    }
    let chain = read(&c.chain, "certificate_chain")?;
    let key = read(&c.key, "private_key")?;
    CertificateSecret::from_pem(&chain, &key).map_err(|e| {
        let field = match e {
            SecretError::PrivateKey(_) | SecretError::Mismatch => "private_key",
            _ => "certificate_chain",
        };
        at(field)(e)
    })
}

/// Loads a `CertificateValidationContext`.
pub fn validation(v: &config::ValidationContext) -> Result<PeerRules, TlsConfigError> {
    let crl = v.crl.as_ref().map(|c| read(c, "crl")).transpose()?.unwrap_or_default();
    let roots = match (&v.trusted_ca, v.system_roots) {
        (Some(ca), _) => Some(read(ca, "trusted_ca")?),
        (None, true) => Some(system_roots()?),
        (None, false) => None,
    };
    let roots = roots.map(|pem| TrustRoots::from_pem(&pem, &crl)).transpose().map_err(at("trusted_ca"))?;
    let spiffe = v
        .spiffe_trust_domains
        .iter()
        .map(|(domain, bundle)| {
            let pem = read(bundle, "trust_domains.trust_bundle")?;
            let roots = TrustRoots::from_pem(&pem, b"").map_err(at("trust_domains.trust_bundle"))?;
            Ok((domain.clone(), roots))
        })
        .collect::<Result<_, _>>()?;
    let kind = |t| match t {
        config::SanType::Any => SanKind::Any,
        config::SanType::Dns => SanKind::Dns,
        config::SanType::Uri => SanKind::Uri,
        config::SanType::Email => SanKind::Email,
        config::SanType::Ip => SanKind::Ip,
    };
    Ok(PeerRules {
        roots,
        spiffe,
        sans: v.san_matchers.iter().map(|m| (kind(m.san_type), m.matcher.clone())).collect(),
        certificate_hashes: v.verify_certificate_hash.to_vec(),
        spki_hashes: v.verify_certificate_spki.to_vec(),
        allow_expired: v.allow_expired_certificate,
        accept_untrusted: v.accept_untrusted,
        leaf_crl_only: v.only_verify_leaf_cert_crl,
    })
}

fn system_roots() -> Result<Vec<u8>, TlsConfigError> {
    SYSTEM_ROOTS.iter().find_map(|p| std::fs::read(p).ok()).ok_or_else(|| TlsConfigError {
        field: "system_root_certs",
        reason: "this system has no bundle of trust roots".into(),
    })
}

impl Secret {
    /// Loads a secret of SDS. `None`: of a kind that TLS contexts do not use.
    pub fn from_config(kind: &config::SecretKind) -> Result<Option<Secret>, TlsConfigError> {
        Ok(Some(match kind {
            config::SecretKind::Certificate(c) => Secret::Certificate(certificate(c)?),
            config::SecretKind::Validation(v) => Secret::Validation(Arc::new(validation(v)?)),
            config::SecretKind::TicketKeys(_) | config::SecretKind::Generic(_) => return Ok(None),
        }))
    }
}

/// `default_max` stands for TLS_AUTO: 1.3 for servers, 1.2 for clients, as in Envoy.
fn versions(
    p: &config::TlsParams,
    default_max: config::TlsVersion,
) -> Result<Vec<&'static SupportedProtocolVersion>, TlsConfigError> {
    use config::TlsVersion::{V1_2, V1_3};
    let (min, max) =
        (p.min_version.unwrap_or(V1_2), p.max_version.unwrap_or(default_max.max(p.min_version.unwrap_or(V1_2))));
    if max < V1_2 {
        return Err(TlsConfigError {
            field: "tls_params.tls_maximum_protocol_version",
            reason: "TLS below 1.2 is not supported".into(),
        });
    }
    if min > max {
        return Err(TlsConfigError {
            field: "tls_params.tls_minimum_protocol_version",
            reason: "is above the maximum".into(),
        });
    }
    let mut all: Vec<&'static SupportedProtocolVersion> = Vec::new();
    if max >= V1_3 {
        all.push(&rustls::version::TLS13);
    }
    if min <= V1_2 {
        all.push(&rustls::version::TLS12);
    }
    Ok(all)
}

fn common(
    c: &config::TlsContext,
    secrets: &SecretStore,
    default_max: config::TlsVersion,
) -> Result<CommonSpec, TlsConfigError> {
    let certificates = c
        .certificates
        .iter()
        .map(|source| match source {
            config::CertificateSource::Inline(c) => certificate(c).map(CertificateSource::Fixed),
            config::CertificateSource::Sds(name) => Ok(CertificateSource::Slot(secrets.slot(name))),
        })
        .collect::<Result<_, _>>()?;
    let fixed = |v: &config::ValidationContext| validation(v).map(Arc::new).map(Some);
    let validation = match &c.validation {
        config::Validation::None => ValidationSource::default(),
        config::Validation::Inline(v) => ValidationSource { fixed: fixed(v)?, slot: None },
        config::Validation::Sds(name) => ValidationSource { fixed: None, slot: Some(secrets.slot(name)) },
        config::Validation::Combined { default, sds } => {
            ValidationSource { fixed: fixed(default)?, slot: Some(secrets.slot(sds)) }
        }
    };
    let provider = provider(&c.params.cipher_suites, &c.params.ecdh_curves).map_err(|name| TlsConfigError {
        field: "tls_params",
        reason: if name.is_empty() {
            "no usable cipher suite remains".into()
        } else {
            format!("unknown cipher suite or curve {name}")
        },
    })?;
    Ok(CommonSpec {
        provider,
        versions: versions(&c.params, default_max)?,
        certificates,
        validation,
        alpn: c.alpn.iter().map(|a| a.as_bytes().to_vec()).collect(),
    })
}

impl ServerContext {
    /// Compiles a `DownstreamTlsContext`.
    pub fn from_config(c: &config::TlsContext, secrets: &SecretStore) -> Result<Self, TlsConfigError> {
        let tickets = !c.disable_stateless_session_resumption;
        Ok(ServerContext::new(common(c, secrets, config::TlsVersion::V1_3)?, c.require_client_certificate, tickets))
    }
}

impl ClientContext {
    /// Compiles an `UpstreamTlsContext`.
    pub fn from_config(c: &config::TlsContext, secrets: &SecretStore) -> Result<Self, TlsConfigError> {
        let keys = c.max_session_keys.unwrap_or(1).min(64) as usize;
        Ok(ClientContext::new(common(c, secrets, config::TlsVersion::V1_2)?, c.sni.clone(), keys))
    }
}
