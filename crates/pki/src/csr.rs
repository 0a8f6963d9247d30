//! What does a workload ask the CA for, and is the request well formed?
//!
//! The agent builds requests, the CA parses them. The request's names are advisory: the CA decides
//! them from the caller's identity, as Istio does.

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;

use crate::cert::general_names;
use crate::{PkiError, PrivateKey, pem};

/// Largest accepted certificate request in bytes of PEM; a 4096-bit RSA request has about 1.7 kB.
pub const CSR_BYTES_MAX: usize = 64 * 1024;

/// Builds a certificate request as PEM: subject organisation `org`, the given URI and DNS names as
/// subject alternative names (a name with a scheme is a URI).
pub fn create_csr(key: &PrivateKey, org: &str, names: &[String]) -> Result<String, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !org.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, org);
    }
    params.subject_alt_names = names.iter().map(|n| san(n)).collect::<Result<_, _>>()?;
    let csr = params.serialize_request(key.pair()).map_err(|e| PkiError::Csr(e.to_string()))?;
    Ok(pem::encode("CERTIFICATE REQUEST", csr.der()))
}

/// A verified certificate request.
#[derive(Debug, Clone)]
pub struct CertRequest {
    /// The names the caller would like to have; not to be trusted.
    pub requested_names: Vec<String>,
    pub(crate) public_key: SubjectPublicKeyInfo,
}

impl CertRequest {
    /// Parses PEM (or bare DER) and verifies the request's own signature (proof of possession).
    /// Extensions other than names are ignored.
    pub fn parse(text: &[u8]) -> Result<Self, PkiError> {
        if text.len() > CSR_BYTES_MAX {
            return Err(PkiError::Csr(format!("longer than {CSR_BYTES_MAX} bytes")));
        }
        let der = if text.starts_with(&[0x30]) { text.to_vec().into() } else { pem::certificate_request(text)? };
        let (_, csr) = X509CertificationRequest::from_der(&der).map_err(|e| PkiError::Csr(e.to_string()))?;
        csr.verify_signature().map_err(|_| PkiError::Csr("signature is not by the request's key".into()))?;
        let public_key = SubjectPublicKeyInfo::from_der(csr.certification_request_info.subject_pki.raw)
            .map_err(|e| PkiError::Csr(e.to_string()))?;
        let requested_names = csr
            .requested_extensions()
            .into_iter()
            .flatten()
            .filter_map(|ext| match ext {
                ParsedExtension::SubjectAlternativeName(san) => Some(general_names(san)),
                _ => None,
            })
            .flatten()
            .collect();
        Ok(CertRequest { requested_names, public_key })
    }
}

/// A name with a scheme is a URI, one that parses as an address an IP, anything else a DNS name.
pub(crate) fn san(name: &str) -> Result<SanType, PkiError> {
    let ia5 = |s: &str| Ia5String::try_from(s).map_err(|_| PkiError::San(s.to_owned()));
    if name.contains("://") {
        Ok(SanType::URI(ia5(name)?))
    } else if let Ok(ip) = name.parse() {
        Ok(SanType::IpAddress(ip))
    } else {
        Ok(SanType::DnsName(ia5(name)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyAlgorithm;

    #[test]
    fn request_carries_its_names_for_every_key_kind() {
        let names = vec!["spiffe://cluster.local/ns/a/sa/b".to_owned(), "x.example".to_owned(), "10.0.0.1".to_owned()];
        for alg in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Rsa2048] {
            let key = PrivateKey::generate(alg).unwrap();
            let csr = create_csr(&key, "org", &names).unwrap();
            assert_eq!(CertRequest::parse(csr.as_bytes()).unwrap().requested_names, names, "{alg:?}");
        }
    }

    #[test]
    fn a_tampered_request_is_refused() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let csr = create_csr(&key, "", &["spiffe://td/ns/a/sa/b".to_owned()]).unwrap();
        let mut der = pem::certificate_request(csr.as_bytes()).unwrap().to_vec();
        let at = der.windows(4).position(|w| w == b"ns/a").unwrap() + 3;
        der[at] = b'z';
        assert!(matches!(CertRequest::parse(&der), Err(PkiError::Csr(_))));
    }

    #[test]
    fn garbage_is_refused() {
        for bad in [&b""[..], b"\x30\x80", b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"]
        {
            assert!(CertRequest::parse(bad).is_err());
        }
        assert!(CertRequest::parse(&vec![b'a'; CSR_BYTES_MAX + 1]).is_err());
    }
}
