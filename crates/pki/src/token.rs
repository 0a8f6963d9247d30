//! Who does a bearer token say its holder is? JSON web tokens (ES256) in the shape of Kubernetes
//! service-account tokens, signed and verified with the local mesh's own P-256 key.
//!
//! The local mesh signs, the CA and the xDS server verify; the time is a parameter. Deliberately absent:
//! tokens of a Kubernetes API server (TokenReview) and of other issuers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use crate::{PkiError, PrivateKey};

/// The audience of tokens for the CA and xDS.
pub const AUDIENCE: &str = "istio-ca";
/// The issuer named in tokens, as a default Kubernetes cluster's.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Longest accepted token in bytes; Kubernetes' have about 1 kB.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// Most keys read from one key set.
pub const KEYS_MAX: usize = 64;
/// An uncompressed P-256 point: a tag byte and two coordinates.
const POINT_BYTES: usize = 65;

/// Whose token this is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceAccount {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Service account.
    pub name: String,
    /// Name and uid of the pod the token is bound to, if it is.
    pub pod: Option<(String, String)>,
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenClaims {
    /// The holder.
    pub account: ServiceAccount,
    /// End of validity.
    pub expires: SystemTime,
}

/// Why a token or key set was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum TokenError {
    /// Not three base64url parts with an ES256 header and service-account claims.
    #[error("token is malformed: {0}")]
    Malformed(&'static str),
    /// Not signed by any of the keys.
    #[error("token signature is invalid")]
    Signature,
    /// Past its end.
    #[error("token has expired")]
    Expired,
    /// Meant for somebody else.
    #[error("token audience is not {AUDIENCE}")]
    Audience,
    /// The key set is no JSON web key set with P-256 keys.
    #[error("JSON web key set: {0}")]
    KeySet(String),
}

/// A public P-256 key that tokens are verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKey {
    point: Vec<u8>,
}

impl TokenKey {
    /// The public half of `key`; `None` unless it is P-256.
    pub fn of(key: &PrivateKey) -> Option<Self> {
        let der = key.public_key_der();
        let (_, spki) = SubjectPublicKeyInfo::from_der(&der).ok()?;
        let point = spki.subject_public_key.data.to_vec();
        (point.len() == POINT_BYTES).then_some(TokenKey { point })
    }

    /// Reads the EC P-256 keys of a JSON web key set; others are skipped, none at all is an error.
    pub fn from_jwks(text: &str) -> Result<Vec<Self>, TokenError> {
        let set: Value = serde_json::from_str(text).map_err(|e| TokenError::KeySet(e.to_string()))?;
        let keys = set["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        let read = |key: &Value| {
            let coordinate = |name: &str| {
                let bytes = URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok()?;
                (bytes.len() == POINT_BYTES / 2).then_some(bytes)
            };
            (key["kty"] == "EC" && key["crv"] == "P-256").then_some(())?;
            Some(TokenKey { point: [vec![4], coordinate("x")?, coordinate("y")?].concat() })
        };
        let keys: Vec<_> = keys.iter().filter_map(read).take(KEYS_MAX).collect();
        if keys.is_empty() { Err(TokenError::KeySet("no EC P-256 key".into())) } else { Ok(keys) }
    }

    /// The key as a JSON web key set.
    pub fn to_jwks(&self) -> String {
        let (x, y) = self.point[1..].split_at(POINT_BYTES / 2);
        let [x, y] = [x, y].map(|c| URL_SAFE_NO_PAD.encode(c));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "mesh", "x": x, "y": y}]})
            .to_string()
    }
}

impl TokenClaims {
    /// Signs a token for `account` that ends `ttl` after `now`. Fails unless `key` is P-256.
    pub fn sign(
        key: &PrivateKey,
        account: &ServiceAccount,
        now: SystemTime,
        ttl: Duration,
    ) -> Result<String, PkiError> {
        let ServiceAccount { namespace, name, pod } = account;
        let mut kubernetes = json!({"namespace": namespace, "serviceaccount": {"name": name}});
        if let Some((pod, uid)) = pod {
            kubernetes["pod"] = json!({"name": pod, "uid": uid});
        }
        let claims = json!({
            "iss": ISSUER,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": [AUDIENCE],
            "iat": unix(now),
            "exp": unix(now + ttl),
            "kubernetes.io": kubernetes,
        });
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "mesh"});
        let [header, claims] = [header, claims].map(|v| URL_SAFE_NO_PAD.encode(v.to_string()));
        let body = format!("{header}.{claims}");
        let signature = fixed(&key.sign(body.as_bytes())?)
            .ok_or_else(|| PkiError::Key("tokens are signed with a P-256 key".into()))?;
        Ok(format!("{body}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Verifies a token against any of `keys` at `now`, for the audience `istio-ca`.
    pub fn verify(token: &str, keys: &[TokenKey], now: SystemTime) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(malformed("too long"));
        }
        let (body, signature) = token.rsplit_once('.').ok_or(malformed("not three parts"))?;
        let (header, claims) = body.split_once('.').ok_or(malformed("not three parts"))?;
        let decode = |s: &str| URL_SAFE_NO_PAD.decode(s).map_err(|_| malformed("not base64url"));
        let object = |s: &str| serde_json::from_slice::<Value>(&decode(s)?).map_err(|_| malformed("not JSON"));
        if object(header)?["alg"] != "ES256" {
            return Err(malformed("algorithm is not ES256"));
        }
        let signature = decode(signature)?;
        let signed = |key: &TokenKey| {
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point);
            public.verify(body.as_bytes(), &signature).is_ok()
        };
        if !keys.iter().any(signed) {
            return Err(TokenError::Signature);
        }
        let claims = object(claims)?;
        let audiences = match &claims["aud"] {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        if !audiences.iter().any(|a| a == AUDIENCE) {
            return Err(TokenError::Audience);
        }
        let exp = claims["exp"].as_u64().ok_or(malformed("exp"))?;
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(exp)).ok_or(malformed("exp"))?;
        if expires <= now {
            return Err(TokenError::Expired);
        }
        let subject = claims["sub"].as_str().and_then(|s| s.strip_prefix("system:serviceaccount:"));
        let (namespace, name) = subject.and_then(|s| s.split_once(':')).ok_or(malformed("sub"))?;
        let pod = &claims["kubernetes.io"]["pod"];
        let pod = pod["name"].as_str().map(|n| (n.to_owned(), pod["uid"].as_str().unwrap_or_default().to_owned()));
        let account = ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned(), pod };
        Ok(TokenClaims { account, expires })
    }
}

/// An ASN.1 ECDSA signature (`SEQUENCE { INTEGER r, INTEGER s }`) as the 64 bytes of a JSON web signature.
fn fixed(asn1: &[u8]) -> Option<[u8; 64]> {
    let mut rest = asn1.strip_prefix(&[0x30])?.get(1..)?;
    let mut out = [0; 64];
    for half in out.chunks_exact_mut(32) {
        let (len, tail) = rest.strip_prefix(&[0x02])?.split_first()?;
        let (int, tail) = tail.split_at_checked(usize::from(*len))?;
        let int = int.strip_prefix(&[0]).unwrap_or(int);
        half[32usize.checked_sub(int.len())?..].copy_from_slice(int);
        rest = tail;
    }
    rest.is_empty().then_some(out)
}

fn unix(t: SystemTime) -> u64 {
    t.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyAlgorithm;

    const HOUR: Duration = Duration::from_secs(3600);

    fn sleep() -> ServiceAccount {
        let pod = Some(("sleep-1".to_owned(), "u-1".to_owned()));
        ServiceAccount { namespace: "samples-1".into(), name: "sleep".into(), pod }
    }

    #[test]
    fn a_token_names_its_holder_until_it_ends() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let other = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let keys = TokenKey::from_jwks(&TokenKey::of(&key).unwrap().to_jwks()).unwrap();
        // Many rounds, because r and s are now and then shorter than 32 bytes.
        for _ in 0..300 {
            let token = TokenClaims::sign(&key, &sleep(), now, HOUR).unwrap();
            let claims = TokenClaims::verify(&token, &keys, now).unwrap();
            assert_eq!(claims, TokenClaims { account: sleep(), expires: now + HOUR });
        }
        let token = TokenClaims::sign(&key, &sleep(), now, HOUR).unwrap();
        assert_eq!(TokenClaims::verify(&token, &keys, now + HOUR), Err(TokenError::Expired));
        assert_eq!(TokenClaims::verify(&token, &[TokenKey::of(&other).unwrap()], now), Err(TokenError::Signature));
        assert_eq!(TokenClaims::verify(&token, &[], now), Err(TokenError::Signature));
        assert!(TokenClaims::verify(&token.replacen('.', ".A", 1), &keys, now).is_err());
    }

    #[test]
    fn only_p256_signs() {
        for alg in [KeyAlgorithm::EcdsaP384, KeyAlgorithm::Rsa2048] {
            let key = PrivateKey::generate(alg).unwrap();
            assert!(TokenKey::of(&key).is_none());
            assert!(TokenClaims::sign(&key, &sleep(), UNIX_EPOCH, HOUR).is_err());
        }
    }

    #[test]
    fn garbage_is_refused() {
        let key = TokenKey::of(&PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap()).unwrap();
        for bad in ["", ".", "..", "a.b.c", "eyJ.e30.", &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(TokenClaims::verify(bad, std::slice::from_ref(&key), UNIX_EPOCH).is_err(), "{bad:?}");
        }
        for bad in ["", "{}", r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}"#] {
            assert!(TokenKey::from_jwks(bad).is_err(), "{bad:?}");
        }
    }
}
