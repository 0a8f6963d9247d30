//! How does PEM text become DER sections and back? The only place that knows the armour.
//!
//! Text around sections is ignored, as OpenSSL and Go do. Nothing is decrypted.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};

use crate::PkiError;

/// Most certificates read from one PEM text: bundles of public roots have about 150.
pub const CERTIFICATES_MAX: usize = 1024;

/// All certificates of a PEM text, in order. An empty text is an error, sections of other kinds are skipped.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let err = |reason: String| PkiError::Pem { what: "certificate", reason };
    let mut certs = Vec::new();
    for cert in CertificateDer::pem_slice_iter(pem) {
        if certs.len() == CERTIFICATES_MAX {
            return Err(err(format!("more than {CERTIFICATES_MAX} certificates")));
        }
        certs.push(cert.map_err(|e| err(e.to_string()))?);
    }
    if certs.is_empty() {
        return Err(err("no items found".into()));
    }
    Ok(certs)
}

/// The first private key of a PEM text (`PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY`).
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| PkiError::Pem { what: "private key", reason: e.to_string() })
}

/// The first certificate request of a PEM text.
pub fn certificate_request(pem: &[u8]) -> Result<CertificateSigningRequestDer<'static>, PkiError> {
    CertificateSigningRequestDer::from_pem_slice(pem)
        .map_err(|e| PkiError::Pem { what: "certificate request", reason: e.to_string() })
}

/// Armours one DER section under `label`, 64 columns, with a final newline.
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = String::with_capacity(body.len() + body.len() / 64 + 2 * label.len() + 40);
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
    out
}

/// Armours certificates in order.
pub fn encode_certificates<'a>(certs: impl IntoIterator<Item = &'a CertificateDer<'a>>) -> String {
    certs.into_iter().map(|c| encode("CERTIFICATE", c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn armour_round_trips_and_skips_foreign_text() {
        let der: Vec<u8> = (0..=200).collect();
        let text = format!("a comment\n{}trailer", encode("CERTIFICATE", &der));
        assert_eq!(certificates(text.as_bytes()).unwrap()[0].as_ref(), &der[..]);
        assert!(text.lines().all(|l| l.len() <= 64));
    }

    #[test]
    fn nothing_to_read_is_an_error() {
        assert!(matches!(certificates(b""), Err(PkiError::Pem { what: "certificate", .. })));
        assert!(private_key(b"-----BEGIN PRIVATE KEY-----\n!!\n-----END PRIVATE KEY-----\n").is_err());
        assert!(certificate_request(b"x").is_err());
    }
}
