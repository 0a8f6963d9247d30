//! Who does a bearer token say its holder is? JSON web tokens (ES256) signed with the mesh's own P-256 key,
//! in the shape of Kubernetes service-account tokens, for the local mesh and tests.
//!
//! `sub` is `system:serviceaccount:NAMESPACE:NAME`, `aud` holds `istio-ca`. Signing and verification take
//! the time as a parameter. Deliberately absent: other issuers' tokens and key sets (`ca`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use crate::{PkiError, PrivateKey};

/// The audience of tokens for the CA and xDS.
pub const AUDIENCE: &str = "istio-ca";
/// The issuer named in the local mesh's tokens.
pub const ISSUER: &str = "proa";
/// Longest accepted token; Kubernetes' are about 1 kB.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
const HEADER: &str = r#"{"alg":"ES256","typ":"JWT"}"#;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// Kubernetes namespace of the holder.
    pub namespace: String,
    /// Service account of the holder.
    pub service_account: String,
    /// End of validity.
    pub expires: SystemTime,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// Not three base64url parts with our header and claims.
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
    /// Signed by another key.
    #[error("token signature is invalid")]
    Signature,
    /// Past its end.
    #[error("token has expired")]
    Expired,
    /// Meant for somebody else.
    #[error("token audience is not {AUDIENCE}")]
    Audience,
}

impl TokenClaims {
    /// Signs a token that ends `ttl` after `now`.
    pub fn sign(
        key: &PrivateKey,
        namespace: &str,
        service_account: &str,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<String, PkiError> {
        if [namespace, service_account]
            .iter()
            .any(|s| s.is_empty() || !s.bytes().all(is_name_byte))
        {
            return Err(PkiError::San(format!("{namespace}/{service_account}")));
        }
        let exp = unix(now + ttl);
        let iat = unix(now);
        let claims = format!(
            r#"{{"iss":"{ISSUER}","sub":"system:serviceaccount:{namespace}:{service_account}","aud":["{AUDIENCE}"],"iat":{iat},"exp":{exp}}}"#
        );
        let body = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(HEADER),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = fixed(&key.sign(body.as_bytes())?)
            .ok_or_else(|| PkiError::Key("tokens need a P-256 key".into()))?;
        Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Verifies a token signed by the owner of `public_key` (DER `SubjectPublicKeyInfo` of P-256).
    pub fn verify(token: &str, public_key: &[u8], now: SystemTime) -> Result<Self, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed("too long"));
        }
        let (body, signature) = token
            .rsplit_once('.')
            .ok_or(TokenError::Malformed("not three parts"))?;
        let (header, claims) = body
            .split_once('.')
            .ok_or(TokenError::Malformed("not three parts"))?;
        let decode = |s: &str| {
            URL_SAFE_NO_PAD
                .decode(s)
                .map_err(|_| TokenError::Malformed("not base64url"))
        };
        if decode(header)? != HEADER.as_bytes() {
            return Err(TokenError::Malformed("unknown header"));
        }
        let (_, spki) =
            SubjectPublicKeyInfo::from_der(public_key).map_err(|_| TokenError::Signature)?;
        let point = spki.subject_public_key.data.as_ref();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(body.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        // Only our own signer writes these bytes, so the fixed layout suffices.
        let claims =
            String::from_utf8(decode(claims)?).map_err(|_| TokenError::Malformed("claims"))?;
        let field = |start: &str, end: char| {
            let rest = &claims[claims.find(start)? + start.len()..];
            rest.split(end).next()
        };
        if field(r#""aud":[""#, '"') != Some(AUDIENCE) {
            return Err(TokenError::Audience);
        }
        let exp = field(r#""exp":"#, '}')
            .and_then(|s| s.parse().ok())
            .ok_or(TokenError::Malformed("exp"))?;
        let expires = UNIX_EPOCH
            .checked_add(Duration::from_secs(exp))
            .ok_or(TokenError::Malformed("exp"))?;
        if expires <= now {
            return Err(TokenError::Expired);
        }
        let subject =
            field(r#""sub":"system:serviceaccount:"#, '"').ok_or(TokenError::Malformed("sub"))?;
        let (namespace, service_account) = subject
            .split_once(':')
            .ok_or(TokenError::Malformed("sub"))?;
        Ok(TokenClaims {
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
            expires,
        })
    }
}

/// An ASN.1 ECDSA signature (`SEQUENCE { INTEGER r, INTEGER s }`) as the 64 bytes of a JSON web signature.
fn fixed(asn1: &[u8]) -> Option<[u8; 64]> {
    let rest = asn1.strip_prefix(&[0x30])?.get(1..)?;
    let mut out = [0; 64];
    let mut rest = rest;
    for half in out.chunks_exact_mut(32) {
        let (len, tail) = rest.strip_prefix(&[0x02])?.split_first()?;
        let (int, tail) = tail.split_at_checked(usize::from(*len))?;
        let int = int.strip_prefix(&[0]).unwrap_or(int);
        half[32usize.checked_sub(int.len())?..].copy_from_slice(int);
        rest = tail;
    }
    rest.is_empty().then_some(out)
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'.'
}

fn unix(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyAlgorithm;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_names_its_holder_until_it_ends() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let public = key.public_key_der();
        // Many rounds, because r and s are now and then shorter than 32 bytes.
        for _ in 0..300 {
            let token = TokenClaims::sign(&key, "samples-1", "sleep", now, HOUR).unwrap();
            let claims = TokenClaims::verify(&token, &public, now).unwrap();
            assert_eq!(
                (claims.namespace.as_str(), claims.service_account.as_str()),
                ("samples-1", "sleep")
            );
            assert_eq!(claims.expires, now + HOUR);
        }
        let token = TokenClaims::sign(&key, "samples-1", "sleep", now, HOUR).unwrap();
        assert_eq!(
            TokenClaims::verify(&token, &public, now + HOUR),
            Err(TokenError::Expired)
        );
        assert_eq!(
            TokenClaims::verify(&token, &other.public_key_der(), now),
            Err(TokenError::Signature)
        );
        let forged = token.replacen('.', ".A", 1);
        assert!(TokenClaims::verify(&forged, &public, now).is_err());
        let p384 = PrivateKey::generate(KeyAlgorithm::EcdsaP384).unwrap();
        assert!(TokenClaims::sign(&p384, "a", "b", now, HOUR).is_err());
    }

    #[test]
    fn names_cannot_smuggle_claims() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        for bad in ["", "a\"", "a:b", "a b"] {
            assert!(
                TokenClaims::sign(&key, "ns", bad, UNIX_EPOCH, HOUR).is_err(),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn garbage_is_refused() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        for bad in [
            "",
            ".",
            "..",
            "a.b.c",
            "eyJ.e30.",
            &"x".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            assert!(
                TokenClaims::verify(bad, &key.public_key_der(), UNIX_EPOCH).is_err(),
                "{bad:?}"
            );
        }
    }
}
