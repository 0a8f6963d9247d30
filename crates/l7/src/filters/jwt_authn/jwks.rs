//! Whose signature is it? JSON Web Key Sets, and verification with them. Pure.

use aws_lc_rs::signature as sig;
use aws_lc_rs::{hmac, signature::VerificationAlgorithm};
use base64::Engine as _;
use proxy_config::common::Value;

use super::status::Status;
use super::token::{BASE64URL, Jwt, object};

/// Keys of a set; further ones are not read.
const KEYS_MAX: usize = 1024;

/// A key set.
#[derive(Debug)]
pub struct Jwks {
    keys: Vec<Jwk>,
}

#[derive(Debug)]
struct Jwk {
    kid: Box<str>,
    alg: Box<str>,
    key: Key,
}

#[derive(Debug)]
enum Key {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// A `RSAPublicKey`, DER.
    RsaDer(Vec<u8>),
    Ec {
        curve: Curve,
        point: Vec<u8>,
    },
    Oct(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    fn coordinate_bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }
}

impl Jwks {
    /// Parses a set. Keys that are not usable are left out; `Err` when none remains.
    pub fn parse(text: &[u8]) -> Result<Jwks, Status> {
        let set = object(text).ok_or(Status::JwksParseError)?;
        let list = match set.get("keys") {
            Some(Value::List(l)) => l.clone(),
            Some(_) => return Err(Status::JwksBadKeys),
            None => return certificates(&set).ok_or(Status::JwksNoKeys),
        };
        let keys: Vec<Jwk> = list.iter().take(KEYS_MAX).filter_map(jwk).collect();
        if keys.is_empty() { Err(Status::JwksNoValidKeys) } else { Ok(Jwks { keys }) }
    }

    /// Verifies a token's signature: with the keys of its `kid` and `alg`, or any where either says nothing.
    pub fn verify(&self, jwt: &Jwt) -> Result<(), Status> {
        let mut fits = false;
        for k in &self.keys {
            if !jwt.kid.is_empty() && !k.kid.is_empty() && k.kid != jwt.kid {
                continue;
            }
            if !k.alg.is_empty() && k.alg != jwt.alg {
                continue;
            }
            fits = true;
            if matches!(k.key, Key::Ed25519(_)) && jwt.signature.len() != 64 {
                return Err(Status::Ed25519SignatureWrongLength);
            }
            if k.key.verifies(jwt) {
                return Ok(());
            }
        }
        Err(if fits { Status::VerificationFail } else { Status::JwksKidAlgMismatch })
    }
}

impl Key {
    fn verifies(&self, jwt: &Jwt) -> bool {
        let (signed, signature) = (jwt.signed.as_bytes(), &*jwt.signature);
        match self {
            Key::Rsa { n, e } => rsa(&jwt.alg)
                .is_some_and(|alg| sig::RsaPublicKeyComponents { n, e }.verify(alg, signed, signature).is_ok()),
            Key::RsaDer(der) => {
                rsa(&jwt.alg).is_some_and(|alg| sig::UnparsedPublicKey::new(alg, der).verify(signed, signature).is_ok())
            }
            Key::Ec { curve, point } => {
                let alg: &dyn VerificationAlgorithm = match (curve, &*jwt.alg) {
                    (Curve::P256, "ES256") => &sig::ECDSA_P256_SHA256_FIXED,
                    (Curve::P384, "ES384") => &sig::ECDSA_P384_SHA384_FIXED,
                    (Curve::P521, "ES512") => &sig::ECDSA_P521_SHA512_FIXED,
                    _ => return false,
                };
                sig::UnparsedPublicKey::new(alg, point).verify(signed, signature).is_ok()
            }
            Key::Oct(secret) => {
                let alg = match &*jwt.alg {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(alg, secret), signed, signature).is_ok()
            }
            Key::Ed25519(key) => {
                &*jwt.alg == "EdDSA"
                    && sig::UnparsedPublicKey::new(&sig::ED25519, key).verify(signed, signature).is_ok()
            }
        }
    }
}

fn rsa(alg: &str) -> Option<&'static sig::RsaParameters> {
    Some(match alg {
        "RS256" => &sig::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        "RS384" => &sig::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &sig::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        "PS256" => &sig::RSA_PSS_2048_8192_SHA256,
        "PS384" => &sig::RSA_PSS_2048_8192_SHA384,
        "PS512" => &sig::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn jwk(v: &Value) -> Option<Jwk> {
    let text = |key: &str| v.get(key).and_then(Value::as_str);
    let bytes = |key: &str| BASE64URL.decode(text(key)?).ok();
    let alg = text("alg").unwrap_or_default();
    let curve = text("crv").unwrap_or_default();
    let fits = |prefixes: &[&str]| alg.is_empty() || prefixes.iter().any(|p| alg.starts_with(p));
    let key = match text("kty")? {
        "RSA" if fits(&["RS", "PS"]) => {
            let strip = |b: Vec<u8>| b.iter().position(|x| *x != 0).map(|i| b[i..].to_vec());
            let (n, e) = (strip(bytes("n")?)?, strip(bytes("e")?)?);
            if e != [3] && e != [1, 0, 1] {
                return None;
            }
            Key::Rsa { n, e }
        }
        "EC" if fits(&["ES"]) => {
            let curve = match (alg, curve) {
                ("ES256" | "", "P-256") | ("ES256", "") | ("", "") => Curve::P256,
                ("ES384" | "", "P-384") | ("ES384", "") => Curve::P384,
                ("ES512" | "", "P-521") | ("ES512", "") => Curve::P521,
                _ => return None,
            };
            let mut point = vec![4];
            for key in ["x", "y"] {
                let coordinate = bytes(key)?;
                let missing = curve.coordinate_bytes().checked_sub(coordinate.len())?;
                point.extend(std::iter::repeat_n(0, missing));
                point.extend_from_slice(&coordinate);
            }
            Key::Ec { curve, point }
        }
        "oct" if matches!(alg, "" | "HS256" | "HS384" | "HS512") => Key::Oct(bytes("k").filter(|k| !k.is_empty())?),
        "OKP" if matches!(alg, "" | "EdDSA") && curve == "Ed25519" => {
            Key::Ed25519(bytes("x").filter(|x| x.len() == 32)?)
        }
        _ => return None,
    };
    Some(Jwk { kid: text("kid").unwrap_or_default().into(), alg: alg.into(), key })
}

/// The form of some providers: an object of `kid` to PEM certificate.
fn certificates(set: &Value) -> Option<Jwks> {
    let Value::Struct(fields) = set else { return None };
    if fields.is_empty() {
        return None;
    }
    let mut keys = Vec::new();
    for (kid, pem) in fields.iter().take(KEYS_MAX) {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_str()?.as_bytes()).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let der = certificate.public_key().subject_public_key.data.to_vec();
        keys.push(Jwk { kid: (&**kid).into(), alg: Box::default(), key: Key::RsaDer(der) });
    }
    Some(Jwks { keys })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn signed(header: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> Jwt {
        let signed = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode("{}"));
        Jwt::parse(&format!("{signed}.{}", BASE64URL.encode(sign(signed.as_bytes())))).unwrap()
    }

    #[test]
    fn every_family_verifies_and_refuses() {
        let b64 = |b: &[u8]| BASE64URL.encode(b);
        let ec = EcdsaKeyPair::generate(&sig::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let ed = Ed25519KeyPair::generate().unwrap();
        let point = ec.public_key().as_ref();
        let set = format!(
            r#"{{"keys":[{{"kty":"bad"}},
            {{"kty":"EC","kid":"e","crv":"P-256","x":"{}","y":"{}"}},
            {{"kty":"oct","kid":"h","k":"{}"}},
            {{"kty":"OKP","kid":"d","crv":"Ed25519","x":"{}"}}]}}"#,
            b64(&point[1..33]),
            b64(&point[33..]),
            b64(b"secret"),
            b64(ed.public_key().as_ref())
        );
        let set = Jwks::parse(set.as_bytes()).unwrap();
        let es = |m: &[u8]| ec.sign(&SystemRandom::new(), m).unwrap().as_ref().to_vec();
        let hs = |m: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"secret"), m).as_ref().to_vec();
        let eddsa = |m: &[u8]| ed.sign(m).as_ref().to_vec();
        assert_eq!(set.verify(&signed(r#"{"alg":"ES256","kid":"e"}"#, es)), Ok(()));
        assert_eq!(set.verify(&signed(r#"{"alg":"ES256"}"#, es)), Ok(()));
        assert_eq!(set.verify(&signed(r#"{"alg":"HS256","kid":"h"}"#, hs)), Ok(()));
        assert_eq!(set.verify(&signed(r#"{"alg":"EdDSA","kid":"d"}"#, eddsa)), Ok(()));
        let unknown = signed(r#"{"alg":"HS256","kid":"x"}"#, hs);
        assert_eq!(set.verify(&unknown), Err(Status::JwksKidAlgMismatch));
        let forged = signed(r#"{"alg":"HS256","kid":"h"}"#, es);
        assert_eq!(set.verify(&forged), Err(Status::VerificationFail));
        let short = signed(r#"{"alg":"EdDSA","kid":"d"}"#, |_| vec![1]);
        assert_eq!(set.verify(&short), Err(Status::Ed25519SignatureWrongLength));
    }

    #[test]
    fn bad_sets() {
        let check = |text: &str, expect: Status| assert_eq!(Jwks::parse(text.as_bytes()).unwrap_err(), expect);
        check("x", Status::JwksParseError);
        check("{}", Status::JwksNoKeys);
        check(r#"{"keys":1}"#, Status::JwksBadKeys);
        check(r#"{"keys":[{"kty":"RSA","n":"AQ","e":"Ag"}]}"#, Status::JwksNoValidKeys);
    }
}
