//! How does a CA sign? A signing key with its certificate, chain and roots; issue is a pure function
//! of the request, the decided names, the time and the serial number.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::csr::san;
use crate::{Bundle, CertRequest, KeyAlgorithm, PkiError, PrivateKey, pem};

/// Life time of a self-signed root, as Istio's (10 years).
pub const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates start this much in the past, so that a peer whose clock is behind accepts them
/// (Istio's `ClockSkewGracePeriod`).
pub const CLOCK_SKEW: Duration = Duration::from_secs(2 * 60);

/// What one certificate is to say.
#[derive(Debug, Clone)]
pub struct Issue<'a> {
    /// Subject alternative names, decided by the CA.
    pub names: &'a [String],
    /// Life time counted from `now`; cut to the signing certificate's.
    pub ttl: Duration,
    /// The time of signing.
    pub now: SystemTime,
    /// Random serial number; the top bit is cleared (RFC 5280: positive, at most 20 bytes).
    pub serial: [u8; 16],
}

/// A certificate authority: signing key, its certificate, the chain above it and the roots.
#[derive(Debug)]
pub struct Authority {
    key: PrivateKey,
    cert: CertificateDer<'static>,
    not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// Makes a new self-signed root with organisation `org` (Istio: the trust domain).
    pub fn self_signed(org: &str, alg: KeyAlgorithm, now: SystemTime, serial: [u8; 16]) -> Result<Self, PkiError> {
        let key = PrivateKey::generate(alg)?;
        let mut params = params(now, ROOT_TTL, serial);
        params.distinguished_name.push(DnType::OrganizationName, org);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(key.pair()).map_err(|e| PkiError::Sign(e.to_string()))?;
        Self::new(key, cert.der().clone(), Vec::new(), Vec::new())
    }

    /// Whether we made the root ourselves, so that we may make the next one.
    pub fn is_self_made(&self) -> bool {
        self.chain.is_empty() && self.roots.contains(&self.cert)
    }

    /// When a self-made root is renewed: a fifth of its life before its end, as Istio's
    /// `CITADEL_SELF_SIGNED_ROOT_CERT_GRACE_PERIOD_PERCENTILE`.
    pub fn renew_at(&self) -> SystemTime {
        self.not_after.checked_sub(ROOT_TTL / 5).unwrap_or(UNIX_EPOCH)
    }

    /// The same root with a new life: same key, same name. What was signed under the old certificate leads to the new one
    /// and the other way round, so that no handshake fails while both are about; the old one stays among the roots
    /// until it ends.
    pub fn renewed(&self, now: SystemTime, serial: [u8; 16]) -> Result<Self, PkiError> {
        let (_, old) = X509Certificate::from_der(&self.cert).map_err(|e| PkiError::Certificate(e.to_string()))?;
        let mut params = params(now, ROOT_TTL, serial);
        for organisation in old.subject().iter_organization().filter_map(|o| o.as_str().ok()) {
            params.distinguished_name.push(DnType::OrganizationName, organisation);
        }
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(self.key.pair()).map_err(|e| PkiError::Sign(e.to_string()))?;
        let cert = cert.der().clone();
        let mut roots = vec![cert.clone()];
        for root in &self.roots {
            if crate::CertFacts::parse(root)?.not_after > now {
                roots.push(root.clone());
            }
        }
        Self::new(PrivateKey::from_pem(self.key.to_pem().as_bytes())?, cert, Vec::new(), roots)
    }

    /// Takes plugged-in material: `ca-key.pem`, `ca-cert.pem`, `cert-chain.pem` (may be empty or repeat
    /// the signing certificate) and `root-cert.pem` (empty: the signing certificate is its own root).
    pub fn from_pem(key: &[u8], cert: &[u8], chain: &[u8], roots: &[u8]) -> Result<Self, PkiError> {
        let optional = |text: &[u8]| {
            if text.trim_ascii().is_empty() { Ok(Vec::new()) } else { pem::certificates(text) }
        };
        let cert = pem::certificates(cert)?.swap_remove(0);
        Self::new(PrivateKey::from_pem(key)?, cert, optional(chain)?, optional(roots)?)
    }

    fn new(
        key: PrivateKey,
        cert: CertificateDer<'static>,
        mut chain: Vec<CertificateDer<'static>>,
        mut roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, PkiError> {
        let refuse = |reason: &str| Err(PkiError::Authority(reason.to_owned()));
        let facts = crate::CertFacts::parse(&cert)?;
        if !facts.is_ca {
            return refuse("basic constraints do not allow signing (CA:TRUE missing)");
        }
        let (_, x509) = X509Certificate::from_der(&cert).map_err(|e| PkiError::Certificate(e.to_string()))?;
        if x509.public_key().raw != key.public_key_der() {
            return refuse("does not belong to the signing key");
        }
        if roots.is_empty() {
            roots.push(cert.clone());
        }
        // What is sent with a leaf: from the signing certificate up, without the roots.
        chain.retain(|c| *c != cert && !roots.contains(c));
        if !roots.contains(&cert) {
            chain.insert(0, cert.clone());
        }
        Ok(Authority { key, not_after: facts.not_after, cert, chain, roots })
    }

    /// Signs a leaf certificate for the request's key; returns the chain, leaf first, without the root.
    pub fn issue(&self, request: &CertRequest, issue: &Issue<'_>) -> Result<Bundle, PkiError> {
        let left = self.not_after.duration_since(issue.now).unwrap_or_default();
        if left.is_zero() {
            return Err(PkiError::Authority("has expired".into()));
        }
        let mut params = params(issue.now, issue.ttl.min(left), issue.serial);
        params.subject_alt_names = issue.names.iter().map(|n| san(n)).collect::<Result<_, _>>()?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let sign_err = |e: rcgen::Error| PkiError::Sign(e.to_string());
        let issuer = Issuer::from_ca_cert_der(&self.cert, self.key.pair()).map_err(sign_err)?;
        let leaf = params.signed_by(&request.public_key, &issuer).map_err(sign_err)?;
        let mut certs = vec![leaf.der().clone()];
        certs.extend(self.chain.iter().cloned());
        Bundle::from_der(certs)
    }

    /// The trusted roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The roots as PEM (`root-cert.pem`, `istio-ca-root-cert`).
    pub fn roots_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    /// The signing certificate as PEM (`ca-cert.pem`).
    pub fn cert_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.cert)
    }

    /// The signing key: tokens of the local mesh are signed with it, and it is stored as `ca-key.pem`.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// When the signing certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

fn params(now: SystemTime, ttl: Duration, mut serial: [u8; 16]) -> CertificateParams {
    serial[0] &= 0x7f;
    serial[0] |= 0x40;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut params = CertificateParams::default();
    params.not_before = epoch + since.saturating_sub(CLOCK_SKEW);
    params.not_after = epoch + since + ttl;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{create_csr, verify_chain};

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        UNIX_EPOCH + NOW
    }

    fn request() -> CertRequest {
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        CertRequest::parse(create_csr(&key, "", &[]).unwrap().as_bytes()).unwrap()
    }

    fn issue<'a>(names: &'a [String], ttl: Duration) -> Issue<'a> {
        Issue { names, ttl, now: now(), serial: [0xff; 16] }
    }

    #[test]
    fn a_leaf_leads_to_its_root_and_says_what_was_decided() {
        let names = vec!["spiffe://cluster.local/ns/default/sa/sleep".to_owned()];
        for alg in [KeyAlgorithm::EcdsaP256, KeyAlgorithm::EcdsaP384, KeyAlgorithm::Rsa2048] {
            let ca = Authority::self_signed("cluster.local", alg, now(), [1; 16]).unwrap();
            let chain = ca.issue(&request(), &issue(&names, DAY)).unwrap();
            assert_eq!(chain.certs.len(), 1, "a root is not sent");
            let facts = verify_chain(&chain.certs, ca.roots(), now()).unwrap();
            assert_eq!(facts.spiffe_id(), Some(names[0].as_str()));
            assert_eq!(facts.not_after, now() + DAY);
            assert_eq!(facts.not_before, now() - CLOCK_SKEW);
            assert!(!facts.is_ca);
        }
    }

    #[test]
    fn time_and_trust_decide() {
        let ca = Authority::self_signed("td", KeyAlgorithm::EcdsaP256, now(), [1; 16]).unwrap();
        let other = Authority::self_signed("td", KeyAlgorithm::EcdsaP256, now(), [2; 16]).unwrap();
        let chain = ca.issue(&request(), &issue(&[], DAY)).unwrap();
        let check = |at, roots: &Authority| verify_chain(&chain.certs, roots.roots(), at).is_ok();
        assert!(check(now() + DAY - Duration::from_secs(1), &ca));
        assert!(!check(now() + DAY + Duration::from_secs(1), &ca));
        assert!(!check(now() - CLOCK_SKEW - Duration::from_secs(1), &ca));
        assert!(!check(now(), &other));
        assert_eq!(verify_chain(&[], ca.roots(), now()), Err(crate::VerifyError::Empty));
    }

    #[test]
    fn a_leaf_never_outlives_its_signer() {
        let ca = Authority::self_signed("td", KeyAlgorithm::EcdsaP256, now() - ROOT_TTL + DAY, [1; 16]).unwrap();
        let chain = ca.issue(&request(), &issue(&[], DAY * 90)).unwrap();
        assert_eq!(chain.facts[0].not_after, ca.not_after());
        let late = Issue { now: now() + DAY * 2, ..issue(&[], DAY) };
        assert!(matches!(ca.issue(&request(), &late), Err(PkiError::Authority(_))));
    }

    #[test]
    fn plugged_in_material_round_trips_and_is_checked() {
        let ca = Authority::self_signed("td", KeyAlgorithm::EcdsaP384, now(), [1; 16]).unwrap();
        let other = Authority::self_signed("td", KeyAlgorithm::EcdsaP256, now(), [1; 16]).unwrap();
        let (key, cert) = (ca.key().to_pem(), ca.cert_pem());
        let again = Authority::from_pem(key.as_bytes(), cert.as_bytes(), b"", cert.as_bytes()).unwrap();
        let chain = again.issue(&request(), &issue(&[], DAY)).unwrap();
        assert!(verify_chain(&chain.certs, ca.roots(), now()).is_ok());
        let wrong = Authority::from_pem(other.key().to_pem().as_bytes(), cert.as_bytes(), b"", b"");
        assert_eq!(wrong.unwrap_err(), PkiError::Authority("does not belong to the signing key".into()));
        let leaf = chain.to_pem();
        assert!(Authority::from_pem(key.as_bytes(), leaf.as_bytes(), b"", b"").is_err());
    }

    #[test]
    fn an_intermediate_sends_itself() {
        let root = Authority::self_signed("root", KeyAlgorithm::EcdsaP256, now(), [1; 16]).unwrap();
        let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
        let mut p = params(now(), DAY * 365, [3; 16]);
        p.distinguished_name.push(DnType::OrganizationName, "intermediate");
        p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        p.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = Issuer::from_ca_cert_der(&root.cert, root.key.pair()).unwrap();
        let cert = pem::encode("CERTIFICATE", p.signed_by(key.pair(), &issuer).unwrap().der());
        let ca = Authority::from_pem(
            key.to_pem().as_bytes(),
            cert.as_bytes(),
            format!("{cert}{}", root.cert_pem()).as_bytes(),
            root.cert_pem().as_bytes(),
        )
        .unwrap();
        let chain = ca.issue(&request(), &issue(&[], DAY)).unwrap();
        assert_eq!(chain.certs.len(), 2);
        assert!(verify_chain(&chain.certs, root.roots(), now()).is_ok());
    }

    #[test]
    fn a_renewed_root_and_the_old_one_vouch_for_each_others_leaves() {
        let old = Authority::self_signed("td", KeyAlgorithm::EcdsaP256, now(), [1; 16]).unwrap();
        assert!(old.is_self_made() && old.renew_at() > now());
        let later = old.renew_at();
        let new = old.renewed(later, [2; 16]).unwrap();
        assert!(new.not_after() > old.not_after() && new.is_self_made());
        assert_eq!(new.roots().len(), 2);
        let names = ["spiffe://td/ns/a/sa/b".to_owned()];
        for (signer, verifier) in [(&old, &new), (&new, &old)] {
            let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256).unwrap();
            let request = CertRequest::parse(create_csr(&key, "", &names).unwrap().as_bytes()).unwrap();
            let issue = Issue { names: &names, ttl: DAY, now: later, serial: [3; 16] };
            let chain = signer.issue(&request, &issue).unwrap();
            // Only the verifier's own certificate is trusted.
            assert!(verify_chain(&chain.certs, &verifier.roots()[..1], later).is_ok());
        }
        // The old one is forgotten when it has ended.
        let last = new.renewed(old.not_after() + DAY, [4; 16]).unwrap();
        assert_eq!(last.roots().len(), 2);
    }
}
