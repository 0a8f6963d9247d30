//! What do we know about a TLS session and about the certificates on it?
//!
//! Read by access logs, RBAC, `x-forwarded-client-cert` and the admin's `/certs`. A certificate is
//! parsed when somebody first asks, not per connection and never per request.
//! Deliberately absent: trust (see `verify`).

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};

/// Facts of an established TLS session.
#[derive(Debug, Clone, Default)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`, as Envoy prints it.
    pub version: &'static str,
    /// The suite's OpenSSL name, as Envoy prints it.
    pub cipher: &'static str,
    /// The key exchange group by BoringSSL's name (`X25519`), empty when there was none.
    pub group: &'static str,
    /// The peer's signature algorithm (`ecdsa_secp256r1_sha256`), empty when it did not sign.
    pub signature: &'static str,
    /// The name the client asked for.
    pub sni: Option<Arc<str>>,
    /// The protocol agreed on.
    pub alpn: Option<Box<[u8]>>,
    /// The session was resumed from a ticket.
    pub resumed: bool,
    /// The certificate the peer presented. `None`: none was presented.
    pub peer: Option<Arc<Certificate>>,
    /// Whether the peer's certificate was verified against trust roots or pins.
    pub peer_validated: bool,
    /// The certificate we presented.
    pub local: Option<Arc<Certificate>>,
}

/// A certificate with its chain; parsed on first use.
#[derive(Debug)]
pub struct Certificate {
    chain: Box<[CertificateDer<'static>]>,
    facts: OnceLock<CertificateFacts>,
}

/// What a certificate says.
#[derive(Debug, Clone, Default)]
pub struct CertificateFacts {
    /// URI subject alternative names in order.
    pub uri_sans: Vec<String>,
    /// DNS subject alternative names in order.
    pub dns_sans: Vec<String>,
    /// IP subject alternative names in order.
    pub ip_sans: Vec<IpAddr>,
    /// E-mail subject alternative names in order.
    pub email_sans: Vec<String>,
    /// Subject in RFC 2253 form (`CN=x,O=y`).
    pub subject: String,
    /// Issuer in RFC 2253 form.
    pub issuer: String,
    /// Serial number in lower-case hexadecimal.
    pub serial: String,
    /// Start of validity.
    pub not_before: Option<SystemTime>,
    /// End of validity.
    pub not_after: Option<SystemTime>,
}

impl Certificate {
    /// Wraps a chain, leaf first. `None` when it is empty.
    pub fn from_chain(chain: &[CertificateDer<'_>]) -> Option<Arc<Self>> {
        if chain.is_empty() {
            return None;
        }
        let chain = chain.iter().map(|c| c.clone().into_owned()).collect();
        Some(Arc::new(Certificate { chain, facts: OnceLock::new() }))
    }

    /// The leaf in DER.
    pub fn der(&self) -> &[u8] {
        &self.chain[0]
    }

    /// The chain as presented, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// What the leaf says. All empty when it cannot be parsed, which a verified peer's always can.
    pub fn facts(&self) -> &CertificateFacts {
        self.facts.get_or_init(|| CertificateFacts::parse(&self.chain[0]).unwrap_or_default())
    }

    /// SHA-256 of the leaf's DER in lower-case hexadecimal: XFCC's `Hash`.
    pub fn sha256_hex(&self) -> String {
        hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.der()).as_ref())
    }

    /// SHA-1 of the leaf's DER in lower-case hexadecimal.
    pub fn sha1_hex(&self) -> String {
        hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, self.der()).as_ref())
    }

    /// The leaf in PEM, percent-encoded as in XFCC's `Cert`.
    pub fn pem_url_encoded(&self) -> String {
        url_encode(&pem(self.der()))
    }

    /// The chain in PEM, percent-encoded as in XFCC's `Chain`.
    pub fn chain_pem_url_encoded(&self) -> String {
        url_encode(&self.chain.iter().map(|c| pem(c)).collect::<String>())
    }

    /// The first URI name: a mesh peer's principal (`spiffe://…`).
    pub fn principal(&self) -> Option<&str> {
        self.facts().uri_sans.first().map(String::as_str)
    }
}

impl CertificateFacts {
    /// Reads a DER certificate. `None`: not a certificate.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        let mut facts = CertificateFacts {
            subject: rfc2253(cert.subject()),
            issuer: rfc2253(cert.issuer()),
            serial: {
                let raw = cert.raw_serial();
                let first = raw.iter().position(|b| *b != 0).unwrap_or(raw.len());
                hex(&raw[first..])
            },
            not_before: time(cert.validity().not_before.timestamp()),
            not_after: time(cert.validity().not_after.timestamp()),
            ..Default::default()
        };
        for ext in cert.extensions() {
            let ParsedExtension::SubjectAlternativeName(san) = ext.parsed_extension() else {
                continue;
            };
            for name in &san.general_names {
                match name {
                    GeneralName::URI(s) => facts.uri_sans.push((*s).to_owned()),
                    GeneralName::DNSName(s) => facts.dns_sans.push((*s).to_owned()),
                    GeneralName::RFC822Name(s) => facts.email_sans.push((*s).to_owned()),
                    GeneralName::IPAddress(b) => facts.ip_sans.extend(ip(b)),
                    _ => {}
                }
            }
        }
        Some(facts)
    }
}

fn time(unix_s: i64) -> Option<SystemTime> {
    u64::try_from(unix_s).ok().map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// RFC 2253: most specific name first, specials escaped.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut parts = Vec::new();
    for rdn in name.iter_rdn() {
        let one: Vec<String> = rdn
            .iter()
            .map(|a| {
                let key = match a.attr_type().to_id_string().as_str() {
                    "2.5.4.3" => "CN".to_owned(),
                    "2.5.4.5" => "serialNumber".to_owned(),
                    "2.5.4.6" => "C".to_owned(),
                    "2.5.4.7" => "L".to_owned(),
                    "2.5.4.8" => "ST".to_owned(),
                    "2.5.4.9" => "street".to_owned(),
                    "2.5.4.10" => "O".to_owned(),
                    "2.5.4.11" => "OU".to_owned(),
                    "0.9.2342.19200300.100.1.1" => "UID".to_owned(),
                    "0.9.2342.19200300.100.1.25" => "DC".to_owned(),
                    "1.2.840.113549.1.9.1" => "emailAddress".to_owned(),
                    oid => oid.to_owned(),
                };
                format!("{key}={}", escape_2253(a.as_str().unwrap_or_default()))
            })
            .collect();
        parts.push(one.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn escape_2253(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (i, c) in value.chars().enumerate() {
        let edge = (i == 0 && (c == '#' || c == ' ')) || (i == last && c == ' ');
        if edge || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
    }
    out
}

/// Standard base64 with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().enumerate().fold(0u32, |n, (i, b)| n | u32::from(*b) << (16 - 8 * i));
        for i in 0..4 {
            let c = ALPHABET[(n >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= chunk.len() { char::from(c) } else { '=' });
        }
    }
    out
}

fn pem(der: &[u8]) -> String {
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let body = base64(der);
    for line in body.as_bytes().chunks(64) {
        out.push_str(std::str::from_utf8(line).expect("base64 is ASCII"));
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// Envoy encodes everything but the unreserved characters in XFCC certificates.
fn url_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for b in text.bytes() {
        match b {
            b'\n' => out.push_str("%0A"),
            b' ' => out.push_str("%20"),
            b'+' => out.push_str("%2B"),
            b'/' => out.push_str("%2F"),
            b'=' => out.push_str("%3D"),
            b => out.push(char::from(b)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads() {
        for (input, expect) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(input.as_bytes()), expect);
        }
    }

    #[test]
    fn garbage_is_no_certificate() {
        assert!(CertificateFacts::parse(b"not DER at all").is_none());
        assert!(CertificateFacts::parse(&[]).is_none());
    }

    #[test]
    fn reads_names() {
        let mut params = rcgen::CertificateParams::new(vec!["a.example".into(), "10.1.2.3".into()]).unwrap();
        let uri = "spiffe://cluster.local/ns/n/sa/s";
        params.subject_alt_names.insert(0, rcgen::SanType::URI(uri.try_into().unwrap()));
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Acme, Inc");
        params.distinguished_name.push(rcgen::DnType::CommonName, "leaf");
        params.serial_number = Some(vec![0x0a, 0xff].into());
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let c = Certificate::from_chain(&[cert.der().clone()]).unwrap();
        let f = c.facts();
        assert_eq!(f.uri_sans, [uri]);
        assert_eq!(f.dns_sans, ["a.example"]);
        assert_eq!(f.ip_sans, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(f.subject, "CN=leaf,O=Acme\\, Inc");
        assert_eq!(f.serial, "0aff");
        assert_eq!(c.principal(), Some(uri));
        assert_eq!(c.sha256_hex().len(), 64);
        assert!(c.pem_url_encoded().starts_with("-----BEGIN%20CERTIFICATE-----%0A"));
    }
}
