//! How does a proxy under test start, and when is it ready?

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the listeners.
const START_MAX: Duration = Duration::from_secs(60);

/// A proxy process with a configuration of its own; killed when dropped.
pub struct Proxy {
    child: Child,
    admin: u16,
}

impl Proxy {
    /// Starts `command` (program and first arguments) on the bootstrap, and waits until it serves.
    pub fn start(command: &[String], name: &str, dir: &Path, admin: u16, bootstrap: &Value) -> Result<Self> {
        let config = dir.join(format!("{name}.json"));
        std::fs::write(&config, bootstrap.to_string())?;
        let log = std::fs::File::create(dir.join(format!("{name}.stderr")))?;
        let (program, args) = command.split_first().context("a proxy's command is not empty")?;
        let child = Command::new(program)
            .args(args)
            .arg("-c")
            .arg(&config)
            .args(["--concurrency", "1", "-l", "error", "--disable-hot-restart", "--file-flush-interval-msec", "10"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| program.clone())?;
        let mut proxy = Self { child, admin };
        proxy.wait(dir, name)?;
        Ok(proxy)
    }

    fn wait(&mut self, dir: &Path, name: &str) -> Result<()> {
        let start = Instant::now();
        while !self.admin("/ready").is_ok_and(|said| said.contains("LIVE")) {
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(dir.join(format!("{name}.stderr"))).unwrap_or_default();
                bail!("{name} refused the configuration ({status}): {}", said.trim());
            }
            if start.elapsed() > START_MAX {
                bail!("{name} does not serve after {START_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether the process lives.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The body of an admin page.
    pub fn admin(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin))?;
        stream.set_read_timeout(Some(START_MAX))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let (response, _) = testkit::http::parse(&bytes, false, true).context("a response of the admin server")?;
        Ok(response.text())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
