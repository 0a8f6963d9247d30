//! Which certificate does the workload have? Asked of the CA, renewed when half its life is over, kept while the CA
//! is away. Everybody who serves it watches one value.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use pki::{Bundle, KeyAlgorithm, PrivateKey, RotationPolicy, create_csr, rotation_at};
use protos::istio::v1::auth::IstioCertificateRequest;
use protos::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tokio::sync::watch;
use tonic::Request;

use crate::control::Control;

/// First wait after a failed request; doubled until [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest wait between requests.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A workload certificate and what goes with it.
#[derive(Debug)]
pub struct Workload {
    /// The private key.
    pub key: PrivateKey,
    /// Leaf first, without the root.
    pub chain: Bundle,
    /// Trusted roots, as PEM.
    pub roots: String,
}

impl Workload {
    /// When the leaf ends.
    pub fn expires(&self) -> SystemTime {
        self.chain.facts[0].not_after
    }
}

/// What to ask for and where to leave copies.
#[derive(Debug, Clone)]
pub struct Options {
    /// The identity to name in the request; the CA decides itself.
    pub identity: String,
    /// `SECRET_TTL`
    pub ttl: Duration,
    /// `ECC_SIGNATURE_ALGORITHM`, `WORKLOAD_RSA_KEY_SIZE`
    pub key: KeyAlgorithm,
    /// `SECRET_GRACE_PERIOD_RATIO`, `SECRET_GRACE_PERIOD_RATIO_JITTER`
    pub rotation: RotationPolicy,
    /// `OUTPUT_CERTS`: directory for copies (`key.pem`, `cert-chain.pem`, `root-cert.pem`)
    pub output: Option<PathBuf>,
}

/// The certificate in force; `None` until the first one came.
pub type Current = watch::Receiver<Option<Arc<Workload>>>;

/// Starts keeping a certificate.
pub fn keep(control: Arc<Control>, options: Options) -> Current {
    let (sender, current) = watch::channel(None);
    tokio::spawn(async move {
        let mut wait = RETRY_MIN;
        loop {
            match fetch(&control, &options).await {
                Ok(workload) => {
                    wait = RETRY_MIN;
                    let workload = Arc::new(workload);
                    if let Some(dir) = &options.output {
                        write_copies(dir, &workload);
                    }
                    control.set_workload(Arc::clone(&workload));
                    let facts = &workload.chain.facts[0];
                    // Counted from the signing, not from the clock-skew allowance before it.
                    let from = (facts.not_before + pki::authority::CLOCK_SKEW).min(facts.not_after);
                    let at = rotation_at(from, facts.not_after, options.rotation, rand::random());
                    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
                    tracing::info!(target: "sds", "generated new workload certificate, ttl {:?}, next in {left:?}",
                        workload.expires().duration_since(SystemTime::now()).unwrap_or_default());
                    sender.send_replace(Some(workload));
                    tokio::time::sleep(left.max(RETRY_MIN)).await;
                }
                Err(error) => {
                    tracing::warn!(target: "sds", "failed to get a workload certificate, next try in {wait:?}: {error:#}");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
            if sender.is_closed() {
                return;
            }
        }
    });
    current
}

async fn fetch(control: &Arc<Control>, options: &Options) -> anyhow::Result<Workload> {
    let key = PrivateKey::generate(options.key)?;
    let csr = create_csr(&key, "", std::slice::from_ref(&options.identity))?;
    let validity_duration = i64::try_from(options.ttl.as_secs()).unwrap_or(i64::MAX);
    let mut request = Request::new(IstioCertificateRequest { csr, validity_duration, metadata: None });
    if let Some(token) = control.authorization() {
        request.metadata_mut().insert("authorization", token);
    }
    request.set_timeout(Duration::from_secs(10));
    let answer = IstioCertificateServiceClient::new(control.channel()).create_certificate(request).await;
    let mut parts = answer.map_err(|s| anyhow::anyhow!("{}: {}", s.code(), full_message(&s)))?.into_inner().cert_chain;
    // The last part is the root, as Istio's agent takes it.
    let roots = parts.pop().context("the CA's answer is empty")?;
    let chain = Bundle::from_pem(parts.concat().as_bytes()).context("the CA's answer has no certificate")?;
    Ok(Workload { key, chain, roots })
}

/// The message with its causes, which say why a connection failed.
pub fn full_message(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn write_copies(dir: &std::path::Path, workload: &Workload) {
    let files = [
        ("key.pem", workload.key.to_pem()),
        ("cert-chain.pem", workload.chain.to_pem()),
        ("root-cert.pem", workload.roots.clone()),
    ];
    for (name, text) in files {
        let done = std::fs::create_dir_all(dir).and_then(|()| {
            std::fs::write(dir.join(format!(".{name}")), text)?;
            std::fs::rename(dir.join(format!(".{name}")), dir.join(name))
        });
        if let Err(error) = done {
            tracing::error!(target: "sds", "OUTPUT_CERTS: {}: {error}", dir.join(name).display());
        }
    }
}
