//! How does a proxy under test start, and when is it ready?

use crate::world::Ports;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for the listener.
const START_MAX: Duration = Duration::from_secs(20);

/// A proxy process with a configuration of its own; killed when dropped.
pub struct Proxy {
    child: Child,
    /// Where it listens.
    pub ports: Ports,
}

impl Proxy {
    /// Starts `command` (program and first arguments) on the bootstrap, and waits until it listens.
    pub fn start(command: &[String], name: &str, dir: &Path, ports: Ports, bootstrap: &Value) -> Result<Self> {
        let config = dir.join(format!("{name}.json"));
        std::fs::write(&config, bootstrap.to_string())?;
        let log = std::fs::File::create(dir.join(format!("{name}.stderr")))?;
        let (program, args) = command.split_first().context("a proxy's command is not empty")?;
        let child = Command::new(program)
            .args(args)
            .arg("-c")
            .arg(&config)
            .args(["--concurrency", "1", "-l", "error", "--disable-hot-restart", "--file-flush-interval-msec", "20"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| program.clone())?;
        let mut proxy = Self { child, ports };
        proxy.wait(dir, name)?;
        Ok(proxy)
    }

    fn wait(&mut self, dir: &Path, name: &str) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.ports.listener)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = std::fs::read_to_string(dir.join(format!("{name}.stderr"))).unwrap_or_default();
                bail!("{name} refused the configuration ({status}): {}", said.trim());
            }
            if start.elapsed() > START_MAX {
                bail!("{name} does not listen after {START_MAX:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Whether the process lives.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The body of an admin page.
    pub fn admin(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.admin))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (_, body) = text.split_once("\r\n\r\n").context("a response of the admin server")?;
        Ok(body.to_owned())
    }

    /// Ends the process as an operator would, so that logs are flushed.
    pub fn stop(mut self) -> Result<()> {
        // SAFETY: plain system call on the id of our own child, which is not yet reaped.
        #[allow(unsafe_code)]
        unsafe {
            libc::kill(self.child.id() as i32, libc::SIGTERM);
        }
        let start = Instant::now();
        while self.child.try_wait()?.is_none() && start.elapsed() < START_MAX {
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
