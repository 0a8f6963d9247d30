//! Which cryptography do we offer? Envoy's parameter names mapped to rustls with aws-lc-rs.
//!
//! The provider is always passed explicitly, never installed for the process.
//! Deliberately absent: suites without forward secrecy or AEAD, TLS 1.0 and 1.1 (rustls has none).

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs as lc;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SignatureScheme, SupportedCipherSuite};

/// The process's default provider: all suites, X25519 before P-256 and P-384.
pub fn default_provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| {
        let mut p = lc::default_provider();
        // Envoy's default curves; the hybrid group costs a kilobyte and half a handshake, so it is
        // offered only when `ecdh_curves` asks for it.
        p.kx_groups = vec![lc::kx_group::X25519, lc::kx_group::SECP256R1, lc::kx_group::SECP384R1];
        p.cipher_suites = SUITES.iter().filter_map(|(id, _)| suite(*id)).collect();
        Arc::new(p)
    })
}

fn suite(id: CipherSuite) -> Option<SupportedCipherSuite> {
    lc::ALL_CIPHER_SUITES.iter().find(|s| s.suite() == id).copied()
}

/// OpenSSL's (and so Envoy's) name of each suite we have, in Envoy's order of preference.
const SUITES: [(CipherSuite, &str); 9] = [
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384"),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305"),
    (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    (CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384"),
];

/// The name Envoy prints for `suite`.
pub fn suite_name(suite: CipherSuite) -> &'static str {
    SUITES.iter().find(|(s, _)| *s == suite).map_or("", |(_, n)| n)
}

/// The name Envoy prints for `version`.
pub fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "",
    }
}

/// The name Envoy counts `group` under.
pub fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::secp521r1 => "P-521",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "",
    }
}

/// The name Envoy counts `scheme` under.
pub fn signature_name(scheme: SignatureScheme) -> &'static str {
    match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        SignatureScheme::ED25519 => "ed25519",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        SignatureScheme::RSA_PKCS1_SHA1 => "rsa_pkcs1_sha1",
        _ => "",
    }
}

/// Whether `name` is a TLS 1.2 suite that Envoy knows and that we cannot offer (CBC, static RSA, PSK).
fn is_known_but_weak(name: &str) -> bool {
    name.ends_with("-SHA") || name.contains("CBC") || name.starts_with("AES") || name == "DES-CBC3-SHA"
}

/// The suites for Envoy's `cipher_suites` (they restrict TLS 1.2 only; 1.3 suites are always offered).
///
/// Names outside our set that Envoy accepts are left out; `Err` names one that nobody knows, or is
/// empty when nothing usable remains.
fn suites(names: &[impl AsRef<str>]) -> Result<Vec<SupportedCipherSuite>, String> {
    let all = lc::ALL_CIPHER_SUITES;
    let mut picked: Vec<SupportedCipherSuite> = all.iter().filter(|s| s.tls13().is_some()).copied().collect();
    let before = picked.len();
    // `[A|B]` groups are equal preference; order inside them does not matter to us.
    for name in names.iter().flat_map(|n| n.as_ref().trim_matches(['[', ']']).split('|')) {
        let Some((id, _)) = SUITES.iter().find(|(id, n)| *n == name || format!("{id:?}") == name) else {
            if is_known_but_weak(name) {
                continue;
            }
            return Err(name.to_owned());
        };
        picked.extend(all.iter().filter(|s| s.suite() == *id && s.tls13().is_none()));
    }
    if picked.len() == before { Err(String::new()) } else { Ok(picked) }
}

fn group(name: &str) -> Option<&'static dyn SupportedKxGroup> {
    Some(match name {
        "X25519" => lc::kx_group::X25519,
        "P-256" | "prime256v1" => lc::kx_group::SECP256R1,
        "P-384" | "secp384r1" => lc::kx_group::SECP384R1,
        "X25519MLKEM768" => lc::kx_group::X25519MLKEM768,
        _ => return None,
    })
}

/// A provider restricted to `cipher_suites` and `ecdh_curves`; empty lists mean the defaults.
///
/// `Err` names the value that cannot be served.
pub fn provider(
    cipher_suites: &[impl AsRef<str>],
    ecdh_curves: &[impl AsRef<str>],
) -> Result<Arc<CryptoProvider>, String> {
    if cipher_suites.is_empty() && ecdh_curves.is_empty() {
        return Ok(default_provider().clone());
    }
    let mut p = CryptoProvider::clone(default_provider());
    if !cipher_suites.is_empty() {
        p.cipher_suites = suites(cipher_suites)?;
    }
    if !ecdh_curves.is_empty() {
        let named = ecdh_curves.iter().map(|n| group(n.as_ref()).ok_or_else(|| n.as_ref().to_owned()));
        p.kx_groups = named.collect::<Result<_, _>>()?;
    }
    Ok(Arc::new(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], expect: Result<usize, &str>) {
        assert_eq!(suites(names).map(|s| s.len() - 3), expect.map_err(str::to_owned), "{names:?}");
    }

    #[test]
    fn cipher_names() {
        check(&["ECDHE-ECDSA-AES256-GCM-SHA384"], Ok(1));
        check(&["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", "AES128-SHA"], Ok(2));
        check(&["NULL-MD5"], Err("NULL-MD5"));
        check(&["AES128-SHA"], Err(""));
        check(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"], Ok(1));
    }

    #[test]
    fn curve_names() {
        let none: [&str; 0] = [];
        assert_eq!(provider(&none, &["X25519MLKEM768", "P-256"]).unwrap().kx_groups.len(), 2);
        assert_eq!(provider(&none, &["brainpool"]).unwrap_err(), "brainpool");
    }
}
