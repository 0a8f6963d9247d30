//! What does a certificate say, and does it lead to a trusted root?
//!
//! Called by the CA (client-certificate callers), the agent (expiry of what it got) and debug surfaces.
//! SPIFFE names are URIs, which WebPKI name checks ignore, so callers compare names themselves.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension, SubjectAlternativeName};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{PkiError, pem};

/// The facts of one certificate that we act on or show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertFacts {
    /// Subject alternative names: URIs, DNS names and IP addresses, in order.
    pub names: Vec<String>,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Serial number, lower-case hex without separators, as Envoy's `/certs` prints it.
    pub serial: String,
    /// RFC 4514 subject.
    pub subject: String,
    /// RFC 4514 issuer.
    pub issuer: String,
    /// May this certificate sign others?
    pub is_ca: bool,
}

impl CertFacts {
    /// Reads one DER certificate.
    pub fn parse(der: &[u8]) -> Result<Self, PkiError> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| PkiError::Certificate(e.to_string()))?;
        let names = cert
            .extensions()
            .iter()
            .filter_map(|e| match e.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => Some(general_names(san)),
                _ => None,
            })
            .flatten()
            .collect();
        Ok(CertFacts {
            names,
            not_before: system_time(cert.validity().not_before.timestamp()),
            not_after: system_time(cert.validity().not_after.timestamp()),
            serial: cert.raw_serial().iter().skip_while(|b| **b == 0).map(|b| format!("{b:02x}")).collect(),
            subject: cert.subject().to_string(),
            issuer: cert.issuer().to_string(),
            is_ca: cert.is_ca(),
        })
    }

    /// The first SPIFFE name, if there is one.
    pub fn spiffe_id(&self) -> Option<&str> {
        self.names.iter().map(String::as_str).find(|n| n.starts_with("spiffe://"))
    }

    /// Total life time, zero for a certificate that ends before it starts.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}

/// Certificates of one PEM text together with their facts: a chain (leaf first) or a set of roots.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// DER certificates in order.
    pub certs: Vec<CertificateDer<'static>>,
    /// Facts of each, same order.
    pub facts: Vec<CertFacts>,
}

impl Bundle {
    /// Reads all certificates of a PEM text; at least one.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        Self::from_der(pem::certificates(text)?)
    }

    /// Takes DER certificates.
    pub fn from_der(certs: Vec<CertificateDer<'static>>) -> Result<Self, PkiError> {
        let facts = certs.iter().map(|c| CertFacts::parse(c)).collect::<Result<_, _>>()?;
        Ok(Bundle { certs, facts })
    }

    /// The certificates as PEM.
    pub fn to_pem(&self) -> String {
        pem::encode_certificates(&self.certs)
    }

    /// The earliest end of validity of all certificates: when the chain stops working.
    pub fn expires(&self) -> Option<SystemTime> {
        self.facts.iter().map(|f| f.not_after).min()
    }
}

/// Why a peer's chain was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum VerifyError {
    /// The peer sent no certificate.
    #[error("no certificate presented")]
    Empty,
    /// The chain does not lead to a root, has expired, or may not be used this way.
    #[error("certificate chain: {0}")]
    Chain(String),
    /// The leaf certificate does not parse.
    #[error(transparent)]
    Parse(#[from] PkiError),
}

/// Verifies a client's chain (leaf first) against `roots` at `now` and returns the leaf's facts.
///
/// Checks signatures, validity and the client-authentication usage. Names are the caller's business.
pub fn verify_chain(
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<CertFacts, VerifyError> {
    let (leaf, rest) = chain.split_first().ok_or(VerifyError::Empty)?;
    let chain_err = |e: webpki::Error| VerifyError::Chain(e.to_string());
    let anchors = roots.iter().filter_map(|r| anchor_from_trusted_cert(r).ok()).collect::<Vec<_>>();
    let end_entity = EndEntityCert::try_from(leaf).map_err(chain_err)?;
    let at = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    end_entity
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, rest, at, KeyUsage::client_auth(), None, None)
        .map_err(chain_err)?;
    Ok(CertFacts::parse(leaf)?)
}

pub(crate) fn general_names(san: &SubjectAlternativeName<'_>) -> Vec<String> {
    san.general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(s) | GeneralName::DNSName(s) | GeneralName::RFC822Name(s) => Some((*s).to_owned()),
            GeneralName::IPAddress(b) => match b.len() {
                4 => <[u8; 4]>::try_from(*b).ok().map(|a| Ipv4Addr::from(a).to_string()),
                16 => <[u8; 16]>::try_from(*b).ok().map(|a| Ipv6Addr::from(a).to_string()),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

fn system_time(unix: i64) -> SystemTime {
    match u64::try_from(unix) {
        Ok(secs) => UNIX_EPOCH + Duration::from_secs(secs),
        Err(_) => UNIX_EPOCH,
    }
}
