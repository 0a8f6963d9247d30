//! Who may have which certificate? The certificate authority behind `istio.v1.auth.IstioCertificateService`.
//!
//! `controlplane` serves it on 15012. A caller proves who it is by a service-account token or by the
//! certificate it already has; the certificate it gets says exactly that identity, whatever its request
//! asks for. Absent: TLS listeners (`controlplane`), how keys and certificates are made (`pki`).

pub mod caller;
pub mod current;
pub mod metrics;
pub mod policy;
pub mod service;
pub mod store;

pub use caller::{Authenticator, Caller, CallerError, PeerCertificates, Proof};
pub use current::CurrentAuthority;
pub use metrics::Metrics;
pub use policy::TtlPolicy;
pub use service::CertificateService;
pub use store::{StoreError, load, load_or_create, renew};

use std::time::{Duration, SystemTime};

use pki::{Authority, Bundle, CertRequest, Issue, KeyAlgorithm, PkiError, PrivateKey};

/// A server certificate with its key, for our own listeners.
#[derive(Debug)]
pub struct ServerCertificate {
    /// The private key.
    pub key: PrivateKey,
    /// Leaf first.
    pub chain: Bundle,
}

/// Makes a certificate for our own server under `names` (DNS names or SPIFFE URIs).
pub fn issue_server(
    authority: &Authority,
    names: &[String],
    ttl: Duration,
    now: SystemTime,
) -> Result<ServerCertificate, PkiError> {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let request = CertRequest::parse(pki::create_csr(&key, "", names)?.as_bytes())?;
    let chain = authority.issue(&request, &Issue { names, ttl, now, serial: random_serial() })?;
    Ok(ServerCertificate { key, chain })
}

/// A serial number from the operating system's randomness.
pub fn random_serial() -> [u8; 16] {
    let mut serial = [0; 16];
    // Failure means the system has no randomness; the signature would then fail as well.
    let _ = aws_lc_rs::rand::fill(&mut serial);
    serial
}
