//! How are keys, certificate requests and SPIFFE certificates made and read?
//!
//! Called by the certificate authority (`ca`), the agent's CA client and the local mesh's tokens.
//! Time and serial numbers are parameters, nothing is read or written; only key generation and
//! ECDSA signing draw on the operating system's randomness, inside the crypto library.
//! Deliberately absent: who may have which certificate (`ca`), TLS sessions (`tls`), files.

pub mod authority;
pub mod cert;
pub mod csr;
pub mod key;
pub mod pem;
pub mod rotation;
pub mod token;

pub use authority::{Authority, Issue};
pub use cert::{Bundle, CertFacts, VerifyError, verify_chain};
pub use csr::{CertRequest, create_csr};
pub use key::{KeyAlgorithm, PrivateKey};
pub use rotation::{ROTATION_GRACE, ROTATION_JITTER, RotationPolicy, rotation_at};
pub use token::{ServiceAccount, TokenClaims, TokenError, TokenKey};

/// Why key or certificate material was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum PkiError {
    /// The PEM text holds no section of the wanted kind, or a broken one.
    #[error("{what}: no valid PEM section of this kind: {reason}")]
    Pem {
        /// What was looked for, such as `certificate`.
        what: &'static str,
        /// The parser's reason.
        reason: String,
    },
    /// The private key is of no supported kind (PKCS#8, SEC1 or PKCS#1; P-256, P-384, P-521, RSA, Ed25519).
    #[error("private key: {0}")]
    Key(String),
    /// The certificate request does not parse, or its signature is not by its own key.
    #[error("certificate request: {0}")]
    Csr(String),
    /// The certificate does not parse.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The signing certificate is not a CA, has expired, or does not belong to the signing key.
    #[error("signing certificate: {0}")]
    Authority(String),
    /// A subject alternative name that X.509 cannot carry.
    #[error("subject alternative name {0:?}: not plain ASCII")]
    San(String),
    /// Signing failed.
    #[error("signing: {0}")]
    Sign(String),
}
