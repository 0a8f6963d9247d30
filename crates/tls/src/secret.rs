//! Which keys, certificates and trust roots are in force now? The store behind SDS, files and inline secrets.
//!
//! The configuration thread parses a secret once and publishes it in its slot; contexts hold slots
//! and notice with a pointer comparison that a slot changed. A thousand clusters that name the same
//! secret share one parsed key and one set of trust anchors.
//! Deliberately absent: xDS subscriptions, file watching (the proxy's wiring), verification.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwapOption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use webpki::{CertRevocationList, OwnedCertRevocationList};

use crate::peer::Certificate;
use crate::provider::default_provider;
use crate::verify::PeerRules;

/// Why secret material was refused.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The PEM text holds no certificate.
    #[error("no certificate found in certificate chain")]
    NoCertificate,
    /// The PEM text holds no private key that we can read.
    #[error("no usable private key: {0}")]
    PrivateKey(String),
    /// Key and certificate do not belong together.
    #[error("private key does not match the certificate")]
    Mismatch,
    /// A certificate in the text is malformed.
    #[error("malformed certificate: {0}")]
    Certificate(String),
    /// The trusted CA text holds no certificate.
    #[error("no certificate found in trusted CA")]
    NoTrustedCa,
    /// A certificate revocation list is malformed.
    #[error("malformed CRL: {0}")]
    Crl(String),
}

/// A certificate with its private key, ready to sign.
#[derive(Debug)]
pub struct CertificateSecret {
    pub(crate) key: Arc<CertifiedKey>,
    /// What the certificate says.
    pub certificate: Arc<Certificate>,
}

impl CertificateSecret {
    /// Reads a PEM chain (leaf first) and the PEM key of its leaf.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Arc<Self>, SecretError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| SecretError::Certificate(e.to_string()))?;
        let certificate = Certificate::from_chain(&chain).ok_or(SecretError::NoCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| SecretError::PrivateKey(e.to_string()))?;
        let key = default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|e| SecretError::PrivateKey(e.to_string()))?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => return Err(SecretError::Mismatch),
            Err(e) => return Err(SecretError::Certificate(e.to_string())),
        }
        Ok(Arc::new(CertificateSecret { key: Arc::new(key), certificate }))
    }
}

/// Trust anchors and revocation lists.
pub struct TrustRoots {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    pub(crate) crls: Vec<CertRevocationList<'static>>,
    certificates: Vec<Arc<Certificate>>,
}

impl std::fmt::Debug for TrustRoots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrustRoots({} anchors, {} CRLs)", self.anchors.len(), self.crls.len())
    }
}

impl TrustRoots {
    /// Reads PEM bundles. An empty `crl` means none.
    pub fn from_pem(trusted_ca: &[u8], crl: &[u8]) -> Result<Arc<Self>, SecretError> {
        let mut anchors = Vec::new();
        let mut certificates = Vec::new();
        for der in CertificateDer::pem_slice_iter(trusted_ca) {
            let der = der.map_err(|e| SecretError::Certificate(e.to_string()))?;
            let anchor =
                webpki::anchor_from_trusted_cert(&der).map_err(|e| SecretError::Certificate(e.to_string()))?.to_owned();
            anchors.push(anchor);
            certificates.extend(Certificate::from_chain(std::slice::from_ref(&der)));
        }
        if anchors.is_empty() {
            return Err(SecretError::NoTrustedCa);
        }
        let crls = CertificateRevocationListDer::pem_slice_iter(crl)
            .map(|der| {
                let der = der.map_err(|e| SecretError::Crl(e.to_string()))?;
                OwnedCertRevocationList::from_der(&der)
                    .map(CertRevocationList::Owned)
                    .map_err(|e| SecretError::Crl(e.to_string()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(TrustRoots { anchors, crls, certificates }))
    }

    /// Whether `leaf` is itself one of the trusted certificates.
    pub(crate) fn is_anchor(&self, leaf: &[u8]) -> bool {
        self.certificates.iter().any(|c| c.der() == leaf)
    }

    /// The trusted certificates, for the admin's `/certs`.
    pub fn certificates(&self) -> &[Arc<Certificate>] {
        &self.certificates
    }
}

/// The parsed content of a secret.
#[derive(Debug, Clone)]
pub enum Secret {
    /// `tls_certificate`.
    Certificate(Arc<CertificateSecret>),
    /// `validation_context`.
    Validation(Arc<PeerRules>),
}

/// A named place whose secret may come later and may change.
#[derive(Debug)]
pub struct SecretSlot {
    name: Arc<str>,
    value: ArcSwapOption<Secret>,
}

impl SecretSlot {
    /// The secret's resource name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The secret in force; `None` until it is delivered.
    pub fn load(&self) -> Option<Arc<Secret>> {
        self.value.load_full()
    }
}

/// All named secrets of this process. One per process, shared.
#[derive(Debug, Default)]
pub struct SecretStore {
    slots: RwLock<HashMap<Arc<str>, Arc<SecretSlot>>>,
}

impl SecretStore {
    /// The slot for `name`, created empty when it is new.
    pub fn slot(&self, name: &str) -> Arc<SecretSlot> {
        if let Some(slot) = self.slots.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return slot.clone();
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = name.into();
        slots
            .entry(name.clone())
            .or_insert_with(|| Arc::new(SecretSlot { name, value: ArcSwapOption::empty() }))
            .clone()
    }

    /// Publishes a new version. Handshakes that start from now on use it; connections are undisturbed.
    pub fn update(&self, name: &str, secret: Secret) {
        self.slot(name).value.store(Some(Arc::new(secret)));
    }

    /// Withdraws a secret; contexts that need it stop accepting.
    pub fn remove(&self, name: &str) {
        self.slot(name).value.store(None);
    }

    /// Every slot, by name: for the admin's `/certs` and `/config_dump`.
    pub fn slots(&self) -> Vec<Arc<SecretSlot>> {
        let mut all: Vec<_> = self.slots.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_and_cert() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["a.b".into()]).unwrap().self_signed(&key).unwrap();
        (cert.pem(), key.serialize_pem())
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        let (cert, key) = key_and_cert();
        let (_, other_key) = key_and_cert();
        assert!(CertificateSecret::from_pem(cert.as_bytes(), key.as_bytes()).is_ok());
        let e = CertificateSecret::from_pem(cert.as_bytes(), other_key.as_bytes()).unwrap_err();
        assert!(matches!(e, SecretError::Mismatch), "{e}");
        let e = CertificateSecret::from_pem(b"", key.as_bytes()).unwrap_err();
        assert!(matches!(e, SecretError::NoCertificate), "{e}");
        let e = CertificateSecret::from_pem(cert.as_bytes(), b"junk").unwrap_err();
        assert!(matches!(e, SecretError::PrivateKey(_)), "{e}");
        assert!(matches!(TrustRoots::from_pem(b"", b"").unwrap_err(), SecretError::NoTrustedCa));
    }

    #[test]
    fn a_slot_is_there_before_its_secret() {
        let store = SecretStore::default();
        let slot = store.slot("default");
        assert!(slot.load().is_none());
        let (cert, key) = key_and_cert();
        let secret = CertificateSecret::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
        store.update("default", Secret::Certificate(secret));
        assert!(slot.load().is_some());
        store.remove("default");
        assert!(slot.load().is_none());
    }
}
