//! Which certificate does the workload have? Asked of the CA, renewed when half its life is over, kept while the CA
//! is away. Everybody who serves it watches one value.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use pki::{Bundle, KeyAlgorithm, PrivateKey, RotationPolicy, create_csr, rotation_at};
use protos::istio::v1::auth::IstioCertificateRequest;
use protos::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tokio::sync::watch;
use tonic::Request;

use crate::control::Control;
use crate::last_good::LastGood;
use crate::metrics::Metrics;

/// First wait after a failed request; doubled until [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest wait between requests.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How often a certificate's files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(2);

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

/// Headers for the CA or the control plane from the environment: `CA_HEADER_NAME=value` (or `XDS_HEADER_`).
pub fn headers(environment: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    let header = |(name, value): (&String, &String)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone()));
    environment.iter().filter_map(header).collect()
}

/// Whether all of a certificate's files are there; half a set is none.
pub fn all_exist(files: &[PathBuf]) -> bool {
    !files.is_empty() && files.iter().all(|file| file.exists())
}

/// The certificate in force; `None` until the first one came.
pub type Current = watch::Receiver<Option<Arc<Workload>>>;

/// Starts keeping a certificate. One that was kept of an earlier life is in force at once.
pub fn keep(control: Arc<Control>, options: Options, kept: Option<LastGood>, metrics: Arc<Metrics>) -> Current {
    let before = kept.as_ref().and_then(|kept| kept.workload(SystemTime::now()));
    let (sender, current) = watch::channel(before.clone());
    tokio::spawn(async move {
        let mut wait = RETRY_MIN;
        let mut next = before.map(|workload| {
            control.set_workload(Arc::clone(&workload));
            due(&workload, options.rotation)
        });
        loop {
            if let Some(at) = next.take() {
                let left = at.duration_since(SystemTime::now()).unwrap_or_default();
                tokio::time::sleep(left.max(RETRY_MIN)).await;
            }
            if sender.is_closed() {
                return;
            }
            metrics.csr.add();
            match fetch(&control, &options).await {
                Ok(workload) => {
                    wait = RETRY_MIN;
                    let workload = Arc::new(workload);
                    if let Some(dir) = &options.output {
                        write_copies(dir, &workload);
                    }
                    if let Some(kept) = &kept {
                        kept.keep_workload(&workload);
                    }
                    control.set_workload(Arc::clone(&workload));
                    let at = due(&workload, options.rotation);
                    let from_now = |at: SystemTime| at.duration_since(SystemTime::now()).unwrap_or_default();
                    tracing::info!(target: "sds", "generated new workload certificate, ttl {:?}, next in {:?}",
                        from_now(workload.expires()), from_now(at));
                    sender.send_replace(Some(workload));
                    next = Some(at);
                }
                Err(error) => {
                    metrics.csr_failed.add();
                    tracing::warn!(target: "sds", "failed to get a workload certificate, next try in {wait:?}: {error:#}");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(RETRY_MAX);
                }
            }
        }
    });
    current
}

/// When a certificate is to be renewed. Counted from the signing, not from the clock-skew allowance before it.
fn due(workload: &Workload, rotation: RotationPolicy) -> SystemTime {
    let facts = &workload.chain.facts[0];
    let from = (facts.not_before + pki::authority::CLOCK_SKEW).min(facts.not_after);
    rotation_at(from, facts.not_after, rotation, rand::random())
}

/// A certificate that somebody else puts into files: key, chain, roots.
#[derive(Debug, Clone)]
pub struct Files {
    /// The private key.
    pub key: PathBuf,
    /// Leaf first.
    pub chain: PathBuf,
    /// Trusted roots.
    pub roots: PathBuf,
}

impl Files {
    /// The files in `folder` under the names that Istio gives them, if all are there.
    pub fn find(folder: &Path) -> Option<Self> {
        let files = Files {
            key: folder.join("key.pem"),
            chain: folder.join("cert-chain.pem"),
            roots: folder.join("root-cert.pem"),
        };
        all_exist(&[files.key.clone(), files.chain.clone(), files.roots.clone()]).then_some(files)
    }

    fn read(&self) -> anyhow::Result<Workload> {
        let text = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
        let named = |path: &Path| path.display().to_string();
        Ok(Workload {
            key: PrivateKey::from_pem(text(&self.key)?.as_bytes()).with_context(|| named(&self.key))?,
            chain: Bundle::from_pem(text(&self.chain)?.as_bytes()).with_context(|| named(&self.chain))?,
            roots: text(&self.roots)?,
        })
    }
}

/// Keeps a certificate from files, looking at them every `FILES_EVERY`: what they are replaced by (behind symbolic links,
/// too) is in force then. Half a replacement does not parse, so the certificate before it stays.
pub fn keep_files(control: Arc<Control>, files: Files) -> Current {
    let (sender, current) = watch::channel(None::<Arc<Workload>>);
    tokio::spawn(async move {
        loop {
            match files.read() {
                Ok(found) => {
                    let same =
                        |known: &Arc<Workload>| known.chain.certs == found.chain.certs && known.roots == found.roots;
                    if !sender.borrow().as_ref().is_some_and(same) {
                        let found = Arc::new(found);
                        control.set_workload(Arc::clone(&found));
                        sender.send_replace(Some(found));
                        tracing::info!(target: "sds", "workload certificate from {}", files.chain.display());
                    }
                }
                Err(error) => tracing::warn!(target: "sds", "workload certificate from files: {error:#}"),
            }
            tokio::time::sleep(FILES_EVERY).await;
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
    control.identify(&mut request);
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

fn write_copies(dir: &Path, workload: &Workload) {
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
