//! What does a token say? Parsing of compact JWS tokens, with Envoy's checks in Envoy's order. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use proxy_config::common::Value;

use super::status::Status;

/// base64url with or without padding.
pub const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Signature algorithms that are served.
const ALGORITHMS: [&str; 13] = [
    "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA",
];

/// A parsed token. Nothing in it is verified.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// Header.
    pub header: Value,
    /// Claims.
    pub payload: Value,
    /// Claims as they came, base64url.
    pub payload_base64: Box<str>,
    /// `alg`
    pub alg: Box<str>,
    /// `kid`, empty when absent.
    pub kid: Box<str>,
    /// `iss`, empty when absent.
    pub iss: Box<str>,
    /// `sub`, empty when absent.
    pub sub: Box<str>,
    /// `aud`
    pub audiences: Vec<Box<str>>,
    /// `nbf`, 0 when absent.
    pub nbf: u64,
    /// `exp`, 0 when absent.
    pub exp: u64,
    /// What is signed: `header.payload`.
    pub signed: Box<str>,
    /// Signature.
    pub signature: Vec<u8>,
}

impl Jwt {
    /// Parses a token.
    pub fn parse(text: &str) -> Result<Jwt, Status> {
        let mut parts = text.split('.').filter(|p| !p.is_empty());
        let (Some(head), Some(body), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BadFormat);
        };
        let header = BASE64URL.decode(head).map_err(|_| Status::HeaderBadBase64)?;
        let header = object(&header).ok_or(Status::HeaderBadJson)?;
        let alg = text_of(&header, "alg").ok().flatten().ok_or(Status::HeaderBadAlg)?;
        if !ALGORITHMS.contains(&&*alg) {
            return Err(Status::HeaderNotImplementedAlg);
        }
        let kid = text_of(&header, "kid").map_err(|()| Status::HeaderBadKid)?.unwrap_or_default();
        let payload = BASE64URL.decode(body).map_err(|_| Status::PayloadBadBase64)?;
        let payload = object(&payload).ok_or(Status::PayloadBadJson)?;
        let iss = text_of(&payload, "iss").map_err(|()| Status::IssNotString)?.unwrap_or_default();
        let sub = text_of(&payload, "sub").map_err(|()| Status::SubNotString)?.unwrap_or_default();
        number_of(&payload, "iat", Status::IatNotInteger, Status::IatOutOfRange)?;
        let nbf = number_of(&payload, "nbf", Status::NbfNotInteger, Status::NbfOutOfRange)?;
        let exp = number_of(&payload, "exp", Status::ExpNotInteger, Status::ExpOutOfRange)?;
        text_of(&payload, "jti").map_err(|()| Status::JtiNotString)?;
        let audiences = match payload.get("aud") {
            None => Vec::new(),
            Some(Value::String(s)) => vec![(&**s).into()],
            Some(Value::List(l)) => {
                let texts = l.iter().map(|v| v.as_str().map(Into::into));
                texts.collect::<Option<_>>().ok_or(Status::AudNotString)?
            }
            Some(_) => return Err(Status::AudNotString),
        };
        let signature = BASE64URL.decode(signature).map_err(|_| Status::SignatureBadBase64)?;
        Ok(Jwt {
            header,
            payload,
            payload_base64: body.into(),
            alg,
            kid,
            iss,
            sub,
            audiences,
            nbf,
            exp,
            signed: format!("{head}.{body}").into(),
            signature,
        })
    }

    /// Whether the token is in force at `now`, seconds since 1970, give or take `skew` seconds.
    pub fn in_time(&self, now: u64, skew: u64) -> Result<(), Status> {
        if now.saturating_add(skew) < self.nbf {
            return Err(Status::NotYetValid);
        }
        if self.exp > 0 && now > self.exp.saturating_add(skew) {
            return Err(Status::Expired);
        }
        Ok(())
    }
}

/// A JSON object as a struct value.
pub fn object(json: &[u8]) -> Option<Value> {
    let json: serde_json::Value = serde_json::from_slice(json).ok()?;
    json.is_object().then(|| value(&json))
}

/// JSON as `google.protobuf.Value`.
pub fn value(json: &serde_json::Value) -> Value {
    use serde_json::Value as J;
    match json {
        J::Null => Value::Null,
        J::Bool(b) => Value::Bool(*b),
        J::Number(n) => Value::Number(n.as_f64().unwrap_or_default()),
        J::String(s) => Value::String(s.as_str().into()),
        J::Array(l) => Value::List(l.iter().map(value).collect()),
        J::Object(m) => {
            let fields: BTreeMap<_, _> = m.iter().map(|(k, v)| (k.as_str().into(), value(v))).collect();
            Value::Struct(Arc::new(fields))
        }
    }
}

/// `google.protobuf.Value` as JSON; whole numbers without a fraction.
pub fn json(value: &Value) -> serde_json::Value {
    use serde_json::Value as J;
    match value {
        Value::Null => J::Null,
        Value::Bool(b) => J::Bool(*b),
        Value::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => (*n as i64).into(),
        Value::Number(n) => (*n).into(),
        Value::String(s) => J::String(s.to_string()),
        Value::List(l) => J::Array(l.iter().map(json).collect()),
        Value::Struct(m) => J::Object(m.iter().map(|(k, v)| (k.to_string(), json(v))).collect()),
    }
}

fn text_of(of: &Value, key: &str) -> Result<Option<Box<str>>, ()> {
    match of.get(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some((&**s).into())),
        Some(_) => Err(()),
    }
}

fn number_of(of: &Value, key: &str, wrong: Status, range: Status) -> Result<u64, Status> {
    match of.get(key) {
        None => Ok(0),
        Some(Value::Number(n)) if *n >= 0.0 && *n < u64::MAX as f64 => Ok(*n as u64),
        Some(Value::Number(_)) => Err(range),
        Some(_) => Err(wrong),
    }
}

/// Scheme and trailing slash do not distinguish audiences.
pub fn audience(text: &str) -> &str {
    let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
    text.strip_suffix('/').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str, signature: &str) -> Result<Jwt, Status> {
        let (h, p) = (BASE64URL.encode(header), BASE64URL.encode(payload));
        Jwt::parse(&format!("{h}.{p}.{signature}"))
    }

    #[test]
    fn refusals() {
        let check = |header: &str, payload: &str, signature: &str, expect: Status| {
            assert_eq!(token(header, payload, signature).unwrap_err(), expect, "{header} {payload}");
        };
        let rs = r#"{"alg":"RS256"}"#;
        assert_eq!(Jwt::parse("a.b").unwrap_err(), Status::BadFormat);
        assert_eq!(Jwt::parse("a.b.c.d").unwrap_err(), Status::BadFormat);
        assert_eq!(Jwt::parse("$.b.c").unwrap_err(), Status::HeaderBadBase64);
        check("x", "{}", "AA", Status::HeaderBadJson);
        check("{}", "{}", "AA", Status::HeaderBadAlg);
        check(r#"{"alg":"none"}"#, "{}", "AA", Status::HeaderNotImplementedAlg);
        check(r#"{"alg":"RS256","kid":1}"#, "{}", "AA", Status::HeaderBadKid);
        check(rs, "[]", "AA", Status::PayloadBadJson);
        check(rs, r#"{"iss":1}"#, "AA", Status::IssNotString);
        check(rs, r#"{"exp":"1"}"#, "AA", Status::ExpNotInteger);
        check(rs, r#"{"exp":-1}"#, "AA", Status::ExpOutOfRange);
        check(rs, r#"{"aud":[1]}"#, "AA", Status::AudNotString);
        check(rs, r#"{}"#, "A$", Status::SignatureBadBase64);
    }

    #[test]
    fn times_and_audiences() {
        let jwt = token(r#"{"alg":"RS256"}"#, r#"{"nbf":100,"exp":200,"aud":"https://a/"}"#, "AA").unwrap();
        assert_eq!(jwt.in_time(39, 60), Err(Status::NotYetValid));
        assert_eq!(jwt.in_time(40, 60), Ok(()));
        assert_eq!(jwt.in_time(260, 60), Ok(()));
        assert_eq!(jwt.in_time(261, 60), Err(Status::Expired));
        assert_eq!(audience(&jwt.audiences[0]), "a");
    }
}
