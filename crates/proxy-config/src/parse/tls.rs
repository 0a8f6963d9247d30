//! How are TLS contexts and secrets compiled?

use std::sync::Arc;

use base64::Engine as _;
use protos::envoy::extensions::transport_sockets::tls::v3 as p;

use super::common::{data_source, opt_data_source, opt_duration, opt_name, required};
use super::{each, matcher, reject};
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::tls::*;

/// `Secret`
pub fn secret(s: &p::Secret) -> Result<Secret> {
    use p::secret::Type as T;
    let kind = match s.r#type.as_ref().ok_or_else(|| missing("type"))? {
        T::TlsCertificate(c) => SecretKind::Certificate(Arc::new(certificate(c).at("tls_certificate")?)),
        T::ValidationContext(v) => SecretKind::Validation(Arc::new(validation(v).at("validation_context")?)),
        T::SessionTicketKeys(k) => {
            SecretKind::TicketKeys(each("keys", &k.keys, data_source).at("session_ticket_keys")?)
        }
        T::GenericSecret(g) => {
            reject!(g; secrets);
            let d = g.secret.as_ref().ok_or_else(|| missing("secret").at("generic_secret"))?;
            SecretKind::Generic(data_source(d).at("secret").at("generic_secret")?)
        }
    };
    Ok(Secret { name: s.name.as_str().into(), kind })
}

fn certificate(c: &p::TlsCertificate) -> Result<Certificate> {
    reject!(c; pkcs12, private_key_provider, signed_certificate_timestamp, tls_params);
    let watched = c.watched_directory.as_ref().map(|w| crate::Name::from(w.path.as_str()));
    let source = |field: &str, d: &Option<_>| -> Result<_> {
        let mut d = opt_data_source(field, d)?;
        if let (Some(crate::common::DataSource::File { watched_directory, .. }), Some(dir)) = (&mut d, &watched) {
            *watched_directory = Some(dir.clone());
        }
        Ok(d)
    };
    Ok(Certificate {
        chain: source("certificate_chain", &c.certificate_chain)?.ok_or_else(|| missing("certificate_chain"))?,
        key: source("private_key", &c.private_key)?.ok_or_else(|| missing("private_key"))?,
        password: source("password", &c.password)?,
        ocsp_staple: source("ocsp_staple", &c.ocsp_staple)?,
    })
}

fn sha256(text: &str) -> Option<[u8; 32]> {
    let hex: String = text.chars().filter(|c| *c != ':').collect();
    if hex.len() == 64 && hex.is_ascii() {
        let mut out = [0; 32];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
        return Some(out);
    }
    None
}

fn validation(v: &p::CertificateValidationContext) -> Result<ValidationContext> {
    reject!(v; ca_certificate_provider_instance, require_signed_certificate_timestamp);
    let mut san = Vec::new();
    for (i, m) in v.match_typed_subject_alt_names.iter().enumerate() {
        let field = "match_typed_subject_alt_names";
        let san_type = match m.san_type {
            1 => SanType::Email,
            2 => SanType::Dns,
            3 => SanType::Uri,
            4 => SanType::Ip,
            _ => {
                return Err(unsupported("this san_type").at("san_type").at_index(field, i));
            }
        };
        let string = m.matcher.as_ref().ok_or_else(|| missing("matcher").at_index(field, i))?;
        san.push(SanMatcher { san_type, matcher: matcher::string(string).at("matcher").at_index(field, i)? });
    }
    for m in matcher::strings("match_subject_alt_names", &v.match_subject_alt_names)? {
        san.push(SanMatcher { san_type: SanType::Any, matcher: m });
    }
    let hashes = each("verify_certificate_hash", &v.verify_certificate_hash, |h: &String| {
        sha256(h).ok_or_else(|| invalid(format!("Invalid hex-encoded SHA-256 {h}")))
    })?;
    let spki = each("verify_certificate_spki", &v.verify_certificate_spki, |h: &String| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(h).ok();
        bytes
            .and_then(|b| <[u8; 32]>::try_from(b).ok())
            .ok_or_else(|| invalid(format!("Invalid base64-encoded SHA-256 {h}")))
    })?;
    let mut trusted_ca = opt_data_source("trusted_ca", &v.trusted_ca)?;
    if let (Some(crate::common::DataSource::File { watched_directory, .. }), Some(dir)) =
        (&mut trusted_ca, &v.watched_directory)
    {
        *watched_directory = Some(dir.path.as_str().into());
    }
    let mut spiffe = Vec::new();
    if let Some(e) = &v.custom_validator_config {
        let any = e.typed_config.as_ref().ok_or_else(|| missing("typed_config").at("custom_validator_config"))?;
        let c: p::SpiffeCertValidatorConfig = super::any::expect(&e.name, any).at("custom_validator_config")?;
        if c.trust_bundles.is_some() {
            return Err(unsupported("this field").at("trust_bundles").at("custom_validator_config"));
        }
        for (i, d) in c.trust_domains.iter().enumerate() {
            let bundle = opt_data_source("trust_bundle", &d.trust_bundle).at_index("trust_domains", i)?;
            let bundle = bundle.ok_or_else(|| missing("trust_bundle").at_index("trust_domains", i))?;
            spiffe.push((required("name", &d.name)?, bundle));
        }
    }
    Ok(ValidationContext {
        trusted_ca,
        crl: opt_data_source("crl", &v.crl)?,
        san_matchers: san.into(),
        verify_certificate_hash: hashes,
        verify_certificate_spki: spki,
        allow_expired_certificate: v.allow_expired_certificate,
        accept_untrusted: v.trust_chain_verification == 1,
        only_verify_leaf_cert_crl: v.only_verify_leaf_cert_crl,
        max_verify_depth: v.max_verify_depth,
        system_roots: v.system_root_certs.is_some(),
        spiffe_trust_domains: spiffe.into(),
    })
}

fn params(t: &p::TlsParameters) -> Result<TlsParams> {
    let version = |field: &str, n: i32| match n {
        0 => Ok(None),
        1 => Ok(Some(TlsVersion::V1_0)),
        2 => Ok(Some(TlsVersion::V1_1)),
        3 => Ok(Some(TlsVersion::V1_2)),
        4 => Ok(Some(TlsVersion::V1_3)),
        n => Err(invalid(format!("unknown value {n}")).at(field)),
    };
    let names = |l: &[String]| l.iter().map(|s| s.as_str().into()).collect();
    let fips = match t.compliance_policies[..] {
        [] => false,
        [0] => true,
        _ => return Err(unsupported("this policy").at("compliance_policies")),
    };
    let params = TlsParams {
        min_version: version("tls_minimum_protocol_version", t.tls_minimum_protocol_version)?,
        max_version: version("tls_maximum_protocol_version", t.tls_maximum_protocol_version)?,
        cipher_suites: names(&t.cipher_suites),
        ecdh_curves: names(&t.ecdh_curves),
        signature_algorithms: names(&t.signature_algorithms),
        fips,
    };
    if params.max_version.is_some_and(|v| v < TlsVersion::V1_2) {
        return Err(unsupported("TLS below 1.2").at("tls_maximum_protocol_version"));
    }
    Ok(params)
}

fn common(c: &p::CommonTlsContext) -> Result<TlsContext> {
    use p::common_tls_context::ValidationContextType as V;
    reject!(c; tls_certificate_provider_instance, custom_tls_certificate_selector,
        tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker);
    let mut certificates = Vec::new();
    for (i, cert) in c.tls_certificates.iter().enumerate() {
        let cert = certificate(cert).at_index("tls_certificates", i)?;
        certificates.push(CertificateSource::Inline(Arc::new(cert)));
    }
    for (i, sds) in c.tls_certificate_sds_secret_configs.iter().enumerate() {
        let name = required("name", &sds.name).at_index("tls_certificate_sds_secret_configs", i)?;
        certificates.push(CertificateSource::Sds(name));
    }
    let validation = match &c.validation_context_type {
        None => Validation::None,
        Some(V::ValidationContext(v)) => Validation::Inline(Arc::new(validation(v).at("validation_context")?)),
        Some(V::ValidationContextSdsSecretConfig(s)) => {
            Validation::Sds(required("name", &s.name).at("validation_context_sds_secret_config")?)
        }
        Some(V::CombinedValidationContext(b)) => {
            reject!(b; validation_context_certificate_provider, validation_context_certificate_provider_instance);
            let default = b.default_validation_context.clone().unwrap_or_default();
            let sds = b.validation_context_sds_secret_config.as_ref();
            let sds =
                sds.ok_or_else(|| missing("validation_context_sds_secret_config").at("combined_validation_context"))?;
            Validation::Combined {
                default: Arc::new(
                    validation(&default).at("default_validation_context").at("combined_validation_context")?,
                ),
                sds: required("name", &sds.name).at("combined_validation_context")?,
            }
        }
        Some(V::ValidationContextCertificateProvider(_) | V::ValidationContextCertificateProviderInstance(_)) => {
            return Err(unsupported("a certificate provider").at("validation_context_certificate_provider"));
        }
    };
    let key_log_path = match &c.key_log {
        None => None,
        Some(k) => {
            reject!(k; local_address_range, remote_address_range);
            opt_name(&k.path)
        }
    };
    Ok(TlsContext {
        certificates: certificates.into(),
        validation,
        alpn: c.alpn_protocols.iter().map(|s| s.as_str().into()).collect(),
        params: c.tls_params.as_ref().map(params).transpose().at("tls_params")?.unwrap_or_default(),
        require_client_certificate: false,
        sni: None,
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: None,
        disable_stateless_session_resumption: false,
        disable_stateful_session_resumption: false,
        session_ticket_keys: Box::default(),
        session_timeout: None,
        key_log_path,
        full_scan_certs_on_sni_mismatch: false,
        prefer_client_ciphers: false,
        enforce_rsa_key_usage: false,
    })
}

/// `DownstreamTlsContext`
pub(super) fn downstream(d: &p::DownstreamTlsContext) -> Result<TlsContext> {
    use p::downstream_tls_context::SessionTicketKeysType as S;
    if d.require_sni == Some(true) {
        return Err(unsupported("this field").at("require_sni"));
    }
    if d.ocsp_staple_policy == 2 {
        return Err(unsupported("MUST_STAPLE").at("ocsp_staple_policy"));
    }
    let base = common(&d.common_tls_context.clone().unwrap_or_default()).at("common_tls_context")?;
    if base.certificates.is_empty() {
        return Err(invalid("No TLS certificates found for server context").at("common_tls_context"));
    }
    let require = d.require_client_certificate.unwrap_or(false);
    let (keys, stateless_off) = match &d.session_ticket_keys_type {
        None => (Box::default(), false),
        Some(S::SessionTicketKeys(k)) => (each("keys", &k.keys, data_source).at("session_ticket_keys")?, false),
        Some(S::DisableStatelessSessionResumption(off)) => (Box::default(), *off),
        Some(S::SessionTicketKeysSdsSecretConfig(_)) => {
            return Err(unsupported("this field").at("session_ticket_keys_sds_secret_config"));
        }
    };
    Ok(TlsContext {
        require_client_certificate: require,
        disable_stateless_session_resumption: stateless_off,
        disable_stateful_session_resumption: d.disable_stateful_session_resumption,
        session_ticket_keys: keys,
        session_timeout: opt_duration("session_timeout", &d.session_timeout)?,
        full_scan_certs_on_sni_mismatch: d.full_scan_certs_on_sni_mismatch.unwrap_or(false),
        prefer_client_ciphers: d.prefer_client_ciphers,
        ..base
    })
}

/// `UpstreamTlsContext`
pub(super) fn upstream(u: &p::UpstreamTlsContext) -> Result<TlsContext> {
    reject!(u; allow_renegotiation);
    let base = common(&u.common_tls_context.clone().unwrap_or_default()).at("common_tls_context")?;
    if base.certificates.len() > 1 {
        return Err(invalid("Multiple TLS certificates are not supported for client contexts").at("common_tls_context"));
    }
    Ok(TlsContext {
        sni: opt_name(&u.sni),
        auto_host_sni: u.auto_host_sni,
        auto_sni_san_validation: u.auto_sni_san_validation,
        max_session_keys: u.max_session_keys,
        enforce_rsa_key_usage: u.enforce_rsa_key_usage.unwrap_or(false),
        ..base
    })
}
