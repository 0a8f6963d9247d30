//! Which certificate does our TLS port show? Issued by our own CA for istiod's DNS names and renewed in time, or
//! given by files.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use ca::{CurrentAuthority, ServerCertificate};
use pki::{Authority, Bundle, PrivateKey, RotationPolicy, rotation_at};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

/// Life time of our own certificate.
const TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// The certificate in force, exchanged while connections go on.
#[derive(Debug)]
pub struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Names under which proxies reach us.
pub fn dns_names(namespace: &str, domain: &str, revision: &str, custom: &[String]) -> Vec<String> {
    let mut services = vec!["istiod".to_owned(), "istiod-remote".to_owned(), "istio-pilot".to_owned()];
    if revision != "default" {
        services.push(format!("istiod-{revision}"));
    }
    let mut names = custom.to_vec();
    for service in services {
        names.push(format!("{service}.{namespace}.svc"));
        names.push(format!("{service}.{namespace}.svc.{domain}"));
        names.push(format!("{service}.{namespace}"));
    }
    names.push("localhost".to_owned());
    names
}

/// Reads the certificate from files.
pub fn from_files(cert: &Path, key: &Path) -> anyhow::Result<Arc<Current>> {
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    let chain = Bundle::from_pem(&read(cert)?).with_context(|| cert.display().to_string())?;
    let key = PrivateKey::from_pem(&read(key)?).with_context(|| key.display().to_string())?;
    Ok(Arc::new(Current(ArcSwap::from_pointee(certified(&ServerCertificate { key, chain })?))))
}

/// Issues the first certificate; [`keep_fresh`] replaces it.
pub fn issue(authority: &Authority, names: &[String]) -> anyhow::Result<(Arc<Current>, SystemTime)> {
    let certificate = ca::issue_server(authority, names, TTL, SystemTime::now())?;
    let facts = &certificate.chain.facts[0];
    let renew = rotation_at(facts.not_before, facts.not_after, RotationPolicy::default(), 0.5);
    Ok((Arc::new(Current(ArcSwap::from_pointee(certified(&certificate)?))), renew))
}

/// Renews our certificate for as long as the process lives.
/// When its time has come, and when `changed` says that another authority signs.
pub async fn keep_fresh(
    current: Arc<Current>,
    authority: Arc<CurrentAuthority>,
    names: Vec<String>,
    mut renew: SystemTime,
    mut changed: watch::Receiver<u64>,
) {
    loop {
        let wait = renew.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = tokio::time::sleep(wait.max(Duration::from_secs(1))) => {}
            Ok(()) = changed.changed() => {}
        }
        match issue(&authority.load(), &names) {
            Ok((new, next)) => {
                current.0.store(new.0.load_full());
                renew = next;
                tracing::info!(target: "server", "istiod certificate renewed");
            }
            Err(error) => {
                tracing::error!(target: "server", "renewing istiod's certificate: {error:#}");
                renew = SystemTime::now() + Duration::from_secs(60);
            }
        }
    }
}

fn certified(certificate: &ServerCertificate) -> anyhow::Result<CertifiedKey> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = provider.key_provider.load_private_key(certificate.key.to_der())?;
    Ok(CertifiedKey::new(certificate.chain.certs.clone(), key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_find_us_under_every_usual_name() {
        let names = dns_names("istio-system", "cluster.local", "canary", &["my.host".into()]);
        for name in ["istiod.istio-system.svc", "istiod-canary.istio-system.svc.cluster.local", "my.host", "localhost"]
        {
            assert!(names.iter().any(|n| n == name), "{name}");
        }
    }
}
