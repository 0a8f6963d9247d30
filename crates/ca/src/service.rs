//! Serves `istio.v1.auth.IstioCertificateService`: authenticate, decide, sign, answer with the chain and the root.

use std::sync::Arc;
use std::time::SystemTime;

use pki::{CertRequest, Issue};
use protos::istio::v1::auth::istio_certificate_service_server::IstioCertificateService;
use protos::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use crate::metrics::{Metrics, count};
use crate::{Authenticator, CurrentAuthority, PeerCertificates, TtlPolicy};

/// The service; cheap to clone.
#[derive(Debug, Clone)]
pub struct CertificateService {
    authority: Arc<CurrentAuthority>,
    authenticator: Arc<Authenticator>,
    ttl: TtlPolicy,
    metrics: Arc<Metrics>,
}

impl CertificateService {
    /// Signs with `authority` for callers that `authenticator` knows.
    pub fn new(authority: Arc<CurrentAuthority>, authenticator: Arc<Authenticator>, ttl: TtlPolicy) -> Self {
        CertificateService { authority, authenticator, ttl, metrics: Arc::default() }
    }

    /// The counters, shared with the service.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    fn create(
        &self,
        request: &Request<IstioCertificateRequest>,
        now: SystemTime,
    ) -> Result<IstioCertificateResponse, Status> {
        count(&self.metrics.csr);
        let peer = request.extensions().get::<PeerCertificates>();
        let caller = self.authenticator.authenticate(request.metadata(), peer, now).inspect_err(|error| {
            count(&self.metrics.authentication_failure);
            tracing::warn!(target: "serverca", "authentication failed: {error}");
        })?;
        let message = request.get_ref();
        let csr = CertRequest::parse(message.csr.as_bytes()).map_err(|error| {
            count(&self.metrics.csr_parsing_err);
            Status::invalid_argument(format!("CSR signing error: {error}"))
        })?;
        let ttl = self.ttl.decide(message.validity_duration).ok_or_else(|| {
            count(&self.metrics.csr_sign_err);
            let max = self.ttl.max.as_secs();
            Status::invalid_argument(format!(
                "requested TTL {}s is greater than the max allowed TTL {max}s",
                message.validity_duration
            ))
        })?;
        let issue = Issue { names: &caller.identities, ttl, now, serial: crate::random_serial() };
        let authority = self.authority.load();
        let chain = authority.issue(&csr, &issue).map_err(|error| {
            count(&self.metrics.csr_sign_err);
            tracing::error!(target: "serverca", "CSR signing error: {error}");
            Status::internal("CSR signing error")
        })?;
        count(&self.metrics.success);
        tracing::debug!(target: "serverca", "CSR successfully signed, sans {:?}", caller.identities);
        let mut cert_chain: Vec<String> = chain.certs.iter().map(|c| pki::pem::encode("CERTIFICATE", c)).collect();
        cert_chain.push(authority.roots_pem());
        Ok(IstioCertificateResponse { cert_chain })
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.create(&request, SystemTime::now()).map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use pki::{Authority, Bundle, KeyAlgorithm, PrivateKey, ServiceAccount, TokenClaims, TokenKey, create_csr};
    use tonic::Code;

    struct Fixture {
        service: CertificateService,
        authority: Arc<CurrentAuthority>,
        token_key: PrivateKey,
        now: SystemTime,
    }

    fn fixture() -> Fixture {
        let now = SystemTime::now();
        let made = Authority::self_signed("cluster.local", KeyAlgorithm::EcdsaP256, now, [1; 16]).unwrap();
        let authority = CurrentAuthority::new(made);
        let token_key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let keys = vec![TokenKey::of(&token_key).unwrap()];
        let authenticator =
            Arc::new(Authenticator::new("cluster.local", vec!["old.domain".into()], authority.trusted(), keys));
        let service = CertificateService::new(Arc::clone(&authority), authenticator, TtlPolicy::default());
        Fixture { service, authority, token_key, now }
    }

    impl Fixture {
        fn request(&self, ttl: i64) -> Request<IstioCertificateRequest> {
            let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
            // Asks for somebody else's name, which must not be heard.
            let csr = create_csr(&key, "", &["spiffe://cluster.local/ns/kube-system/sa/admin".to_owned()]).unwrap();
            Request::new(IstioCertificateRequest { csr, validity_duration: ttl, metadata: None })
        }

        fn with_token(
            &self,
            mut request: Request<IstioCertificateRequest>,
            ttl: Duration,
        ) -> Request<IstioCertificateRequest> {
            let account = ServiceAccount { namespace: "samples".into(), name: "sleep".into(), pod: None };
            let token = TokenClaims::sign(&self.token_key, &account, self.now, ttl).unwrap();
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
            request
        }

        fn issued(&self, request: &Request<IstioCertificateRequest>) -> Result<Bundle, Code> {
            let response = self.service.create(request, self.now).map_err(|s| s.code())?;
            Ok(Bundle::from_pem(response.cert_chain[0].as_bytes()).unwrap())
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const SLEEP: &str = "spiffe://cluster.local/ns/samples/sa/sleep";

    #[test]
    fn a_token_gets_its_own_identity_and_the_asked_life_time() {
        let f = fixture();
        let leaf = f.issued(&f.with_token(f.request(600), HOUR)).unwrap();
        assert_eq!(leaf.facts[0].names, [SLEEP]);
        assert_eq!(leaf.facts[0].lifetime(), Duration::from_secs(600) + pki::authority::CLOCK_SKEW);
    }

    #[test]
    fn a_certificate_renews_itself() {
        let f = fixture();
        let first = f.issued(&f.with_token(f.request(0), HOUR)).unwrap();
        let mut again = f.request(0);
        again.extensions_mut().insert(PeerCertificates { chain: Arc::new(first.certs), tls: true });
        assert_eq!(f.issued(&again).unwrap().facts[0].names, [SLEEP]);
    }

    #[test]
    fn strangers_get_nothing() {
        let f = fixture();
        assert_eq!(f.issued(&f.request(0)).unwrap_err(), Code::Unauthenticated);
        let mut expired = f.with_token(f.request(0), Duration::ZERO);
        assert_eq!(f.issued(&expired).unwrap_err(), Code::Unauthenticated);
        let foreign = fixture();
        let chain = foreign.issued(&foreign.with_token(foreign.request(0), HOUR)).unwrap();
        expired.extensions_mut().insert(PeerCertificates { chain: Arc::new(chain.certs), tls: true });
        assert_eq!(f.issued(&expired).unwrap_err(), Code::Unauthenticated);
        assert_eq!(f.service.metrics().counters()[3].2, 3);
    }

    #[test]
    fn other_trust_domains_need_an_alias() {
        let f = fixture();
        for (domain, expect) in [("old.domain", Ok(())), ("evil.domain", Err(Code::Unauthenticated))] {
            let server =
                crate::issue_server(&f.authority.load(), &[format!("spiffe://{domain}/ns/a/sa/b")], HOUR, f.now)
                    .unwrap();
            let mut request = f.request(0);
            request.extensions_mut().insert(PeerCertificates { chain: Arc::new(server.chain.certs), tls: true });
            assert_eq!(f.issued(&request).map(drop), expect, "{domain}");
        }
    }

    #[test]
    fn a_leaf_of_before_still_gets_in_when_the_root_was_exchanged() {
        let f = fixture();
        let first = f.issued(&f.with_token(f.request(0), HOUR)).unwrap();
        f.authority.replace(Authority::self_signed("cluster.local", KeyAlgorithm::EcdsaP256, f.now, [9; 16]).unwrap());
        f.service.authenticator.set_roots(f.authority.trusted());
        let mut again = f.request(0);
        again.extensions_mut().insert(PeerCertificates { chain: Arc::new(first.certs), tls: true });
        let second = f.issued(&again).unwrap();
        assert!(pki::verify_chain(&second.certs, f.authority.load().roots(), f.now).is_ok());
    }

    #[test]
    fn bad_requests_are_named() {
        let f = fixture();
        assert_eq!(f.issued(&f.with_token(f.request(i64::MAX), HOUR)).unwrap_err(), Code::InvalidArgument);
        let mut garbage = f.with_token(f.request(0), HOUR);
        garbage.get_mut().csr = "garbage".into();
        assert_eq!(f.issued(&garbage).unwrap_err(), Code::InvalidArgument);
    }
}
