//! How is a private key made, read and written?
//!
//! Used by the CA (its signing key), the agent (workload keys) and tests. Keys are generated with the
//! crypto library's own randomness, the one impurity of this crate.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256};
use rustls_pki_types::PrivateKeyDer;

use crate::{PkiError, pem};

/// Which keys are generated. Others (P-521, Ed25519) are still read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyAlgorithm {
    /// ECDSA over P-256, signatures with SHA-256. The default: small and fast.
    #[default]
    EcdsaP256,
    /// ECDSA over P-384 (Istio's `ECC_SIGNATURE_ALGORITHM=ECDSA`, `ECC_CURVE=P384`).
    EcdsaP384,
    /// RSA with 2048 bits, signatures with SHA-256 (Istio's default).
    Rsa2048,
}

/// A private key that can sign, and its serialised form.
pub struct PrivateKey {
    pair: KeyPair,
    der: PrivateKeyDer<'static>,
}

impl PrivateKey {
    /// A new random key.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, PkiError> {
        let alg = match algorithm {
            KeyAlgorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            KeyAlgorithm::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
            KeyAlgorithm::Rsa2048 => &PKCS_RSA_SHA256,
        };
        let pair = KeyPair::generate_for(alg).map_err(|e| PkiError::Key(e.to_string()))?;
        let der = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
        Ok(PrivateKey { pair, der })
    }

    /// Reads the first private key of a PEM text.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        Self::from_der(pem::private_key(text)?)
    }

    /// Reads a DER key of any of the three encodings.
    pub fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, PkiError> {
        let pair = KeyPair::try_from(&der).map_err(|e| PkiError::Key(e.to_string()))?;
        Ok(PrivateKey { pair, der })
    }

    /// The key as PEM, in the encoding it was read or generated in (generated: PKCS#8).
    pub fn to_pem(&self) -> String {
        let label = match &self.der {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem::encode(label, self.der.secret_der())
    }

    /// A copy of the key for a TLS configuration.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        self.der.clone_key()
    }

    /// The public key as a DER `SubjectPublicKeyInfo`.
    pub fn public_key_der(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.pair)
    }

    /// Signs with the key's own algorithm; ECDSA signatures are ASN.1.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        rcgen::SigningKey::sign(&self.pair, message).map_err(|e| PkiError::Sign(e.to_string()))
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey").field("algorithm", self.pair.algorithm()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generated_kind_is_read_back() {
        for alg in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Rsa2048] {
            let key = PrivateKey::generate(alg).unwrap();
            let again = PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap();
            assert_eq!(key.public_key_der(), again.public_key_der(), "{alg:?}");
        }
    }

    #[test]
    fn refuses_garbage() {
        let text = pem::encode("PRIVATE KEY", b"not a key");
        assert!(matches!(PrivateKey::from_pem(text.as_bytes()), Err(PkiError::Key(_))));
    }

    #[test]
    fn debug_hides_the_secret() {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        assert!(!format!("{key:?}").contains("der"));
    }
}
