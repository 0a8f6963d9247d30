//! How is a separate proxy process run? Real Envoy arguments, crash back-off, graceful drain on SIGTERM, its exit
//! code as ours; and where asked for, hot restart: a new epoch takes the sockets over and the old one drains.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::process::{Child, Command};

/// First wait before a crashed proxy is started again; doubled up to [`RESTART_MAX`].
const RESTART_MIN: Duration = Duration::from_millis(10);
/// Longest wait.
const RESTART_MAX: Duration = Duration::from_secs(10);
/// A proxy that lived this long is not crashing in a loop.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Restarts in a row before we give up and let the container restart.
const RESTARTS_MAX: u32 = 10;

/// How to run the proxy.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program.
    pub binary: PathBuf,
    /// The bootstrap file.
    pub config: PathBuf,
    /// Node id and cluster.
    pub node: String,
    /// Service cluster.
    pub cluster: String,
    /// `drainDuration`
    pub drain: Duration,
    /// `parentShutdownDuration`
    pub parent_shutdown: Duration,
    /// `v4` or `v6`
    pub ip_version: &'static str,
    /// `--proxyLogLevel`
    pub log_level: String,
    /// `--proxyComponentLogLevel`
    pub component_log_level: String,
    /// Worker threads; 0: not said.
    pub concurrency: u32,
    /// SIGHUP starts a new epoch (`PROA_HOT_RESTART`); Istio's agent has given that up.
    pub hot_restart: bool,
}

impl Options {
    /// Envoy's command line for an epoch, the first being 0.
    pub fn args(&self, epoch: u32) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["-c".into(), self.config.clone().into()];
        let mut flag = |name: &str, value: String| args.extend([OsString::from(name), value.into()]);
        flag("--restart-epoch", epoch.to_string());
        flag("--drain-time-s", self.drain.as_secs().max(1).to_string());
        flag("--drain-strategy", "immediate".into());
        flag(
            "--parent-shutdown-time-s",
            self.parent_shutdown.max(self.drain + Duration::from_secs(1)).as_secs().to_string(),
        );
        flag("--local-address-ip-version", self.ip_version.into());
        flag("--service-cluster", self.cluster.clone());
        flag("--service-node", self.node.clone());
        flag("--file-flush-interval-msec", "1000".into());
        // Istio's form holds both: "warning,misc:error".
        let (level, components) = self.log_level.split_once(',').unwrap_or((&self.log_level, ""));
        flag("-l", level.to_owned());
        let components: Vec<_> =
            [components, &self.component_log_level].into_iter().filter(|c| !c.is_empty()).collect();
        if !components.is_empty() {
            flag("--component-log-level", components.join(","));
        }
        if self.concurrency > 0 {
            flag("--concurrency", self.concurrency.to_string());
        }
        args.push("--allow-unknown-static-fields".into());
        if !self.hot_restart {
            args.push("--disable-hot-restart".into());
        }
        args
    }

    /// Starts it once.
    pub fn spawn(&self, epoch: u32) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.binary);
        command.args(self.args(epoch)).kill_on_drop(true);
        tracing::info!(target: "default", "Envoy command: {:?}", self.args(epoch));
        command.spawn().with_context(|| format!("starting {}", self.binary.display()))
    }
}

/// Keeps the proxy running until `stop` says to drain; then waits for it. Each time that `renew` resolves a new epoch takes over.
/// Returns its exit code.
pub async fn supervise(
    options: &Options,
    mut stop: impl AsyncFnMut() -> Drain,
    mut renew: impl AsyncFnMut(),
) -> anyhow::Result<u8> {
    let mut wait = RESTART_MIN;
    let mut restarts = 0;
    let mut epoch = 0;
    let mut child = options.spawn(epoch)?;
    loop {
        let started = Instant::now();
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                drain = stop() => return end(child, drain).await,
                () = renew() => {
                    epoch += 1;
                    let old = std::mem::replace(&mut child, options.spawn(epoch)?);
                    retire(old, epoch - 1);
                }
            }
        };
        tracing::error!(target: "default", "Epoch {epoch} exited with error: {status}");
        if started.elapsed() >= HEALTHY_AFTER {
            (wait, restarts) = (RESTART_MIN, 0);
        }
        restarts += 1;
        if restarts > RESTARTS_MAX || status.code() == Some(0) {
            return Ok(code(status));
        }
        tracing::info!(target: "default", "restarting the proxy in {wait:?}");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stop() => return Ok(code(status)),
        }
        wait = (wait * 2).min(RESTART_MAX);
        // Whoever could have handed sockets over is gone.
        epoch = 0;
        child = options.spawn(epoch)?;
    }
}

/// The former epoch ends by itself after `--parent-shutdown-time-s`.
fn retire(mut old: Child, epoch: u32) {
    tokio::spawn(async move {
        if let Ok(status) = old.wait().await {
            tracing::info!(target: "default", "Epoch {epoch} has drained and ended: {status}");
        }
    });
}

/// How to stop: already drained, or at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// How long the process may take to end by itself.
    pub patience: Duration,
}

async fn end(mut child: Child, drain: Drain) -> anyhow::Result<u8> {
    if let Some(pid) = child.id().and_then(|p| i32::try_from(p).ok()) {
        terminate(pid);
    }
    match tokio::time::timeout(drain.patience, child.wait()).await {
        // Asked to go, it went: that is success, as for Istio's agent.
        Ok(status) => Ok(if status?.code().is_some_and(|c| c != 0) { code(child.wait().await?) } else { 0 }),
        Err(_) => {
            tracing::warn!(target: "default", "the proxy did not end within {:?}, killing it", drain.patience);
            child.kill().await?;
            Ok(0)
        }
    }
}

#[allow(unsafe_code)] // kill(2) on our own child; there is no safe call for it in std or tokio.
fn terminate(pid: i32) {
    // SAFETY: no memory is involved; the pid is our child's, which we have not reaped yet.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(binary: &str) -> Options {
        Options {
            binary: binary.into(),
            config: "/etc/istio/proxy/envoy-rev0.json".into(),
            node: "sidecar~1.2.3.4~a.b~b.svc".into(),
            cluster: "a.b".into(),
            drain: Duration::from_secs(45),
            parent_shutdown: Duration::from_secs(60),
            ip_version: "v4",
            log_level: "warning,misc:error".into(),
            component_log_level: "http:debug".into(),
            concurrency: 2,
            hot_restart: false,
        }
    }

    #[test]
    fn arguments_are_envoys() {
        let line = options("envoy").args(0).join(&OsString::from(" ")).into_string().unwrap();
        for part in [
            "-c /etc/istio/proxy/envoy-rev0.json --restart-epoch 0 --drain-time-s 45",
            "--parent-shutdown-time-s 60 --local-address-ip-version v4",
            "--service-node sidecar~1.2.3.4~a.b~b.svc",
            "-l warning --component-log-level misc:error,http:debug --concurrency 2",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[tokio::test]
    async fn the_exit_code_is_the_proxys() {
        // `true` ignores its arguments and ends well; a missing program is an error that names it.
        let never = async || std::future::pending::<Drain>().await;
        let not = async || std::future::pending::<()>().await;
        assert_eq!(supervise(&options("true"), never, not).await.unwrap(), 0);
        let error = supervise(&options("/no/such/envoy"), never, not).await.unwrap_err();
        assert!(error.to_string().contains("/no/such/envoy"));
    }

    #[tokio::test]
    async fn a_new_epoch_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let (program, said) = (dir.path().join("proxy"), dir.path().join("said"));
        let script = format!("#!/bin/sh\necho \"$4\" >> {}\nexec sleep 30\n", said.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let options = Options { hot_restart: true, ..options(program.to_str().unwrap()) };
        assert!(!options.args(1).contains(&OsString::from("--disable-hot-restart")));
        let lines = || std::fs::read_to_string(&said).unwrap_or_default().lines().count();
        let until = async |n: usize| {
            while lines() < n {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let mut asked = 0;
        let stop = async || {
            until(3).await;
            Drain { patience: Duration::from_secs(5) }
        };
        let renew = async || {
            asked += 1;
            until(asked).await;
            if asked > 2 {
                std::future::pending::<()>().await;
            }
        };
        supervise(&options, stop, renew).await.unwrap();
        assert_eq!(std::fs::read_to_string(&said).unwrap(), "0\n1\n2\n");
    }
}
