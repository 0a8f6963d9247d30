//! What has the CA done? Counters under Istio's names, read by the control plane's `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of the certificate service.
#[derive(Debug, Default)]
pub struct Metrics {
    /// `citadel_server_csr_count`
    pub csr: AtomicU64,
    /// `citadel_server_csr_parsing_err_count`
    pub csr_parsing_err: AtomicU64,
    /// `citadel_server_csr_sign_err_count`
    pub csr_sign_err: AtomicU64,
    /// `citadel_server_authentication_failure_count`
    pub authentication_failure: AtomicU64,
    /// `citadel_server_success_cert_issuance_count`
    pub success: AtomicU64,
}

impl Metrics {
    /// Name, help text and value of each counter.
    pub fn counters(&self) -> [(&'static str, &'static str, u64); 5] {
        let read = |c: &AtomicU64| c.load(Ordering::Relaxed);
        [
            ("citadel_server_csr_count", "The number of CSRs received by Citadel server.", read(&self.csr)),
            (
                "citadel_server_csr_parsing_err_count",
                "The number of errors occurred when parsing the CSR.",
                read(&self.csr_parsing_err),
            ),
            (
                "citadel_server_csr_sign_err_count",
                "The number of errors occurred when signing the CSR.",
                read(&self.csr_sign_err),
            ),
            (
                "citadel_server_authentication_failure_count",
                "The number of authentication failures.",
                read(&self.authentication_failure),
            ),
            (
                "citadel_server_success_cert_issuance_count",
                "The number of certificates issuances that have succeeded.",
                read(&self.success),
            ),
        ]
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
