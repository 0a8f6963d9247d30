//! What does an idle connection cost? Thousands are opened, each serves one request and then rests.

use super::process::{Candidate, backend, bootstrap, free_port, request};
use anyhow::{Context, Result};
use std::net::TcpStream;
use std::path::Path;

/// Connections opened.
const CONNECTIONS: usize = 5_000;

/// Prints resident memory before and after.
pub fn run(candidates: &[Candidate], work: &Path) -> Result<()> {
    let backend = backend()?;
    for c in candidates {
        let port = free_port()?;
        let config = work.join("connections.json");
        std::fs::write(&config, bootstrap(port, backend, None)?.to_string())?;
        let proxy = c.start(&config, port)?;
        let before = proxy.rss_kb()?;
        let mut open = Vec::with_capacity(CONNECTIONS);
        for i in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            request(&mut stream).with_context(|| format!("connection {i} of {}", c.name))?;
            open.push(stream);
        }
        std::thread::sleep(std::time::Duration::from_secs(1));
        let with = proxy.rss_kb()?;
        let each = (with.saturating_sub(before) * 1024) as usize / CONNECTIONS;
        println!("connections {:8} idle {before} kB, with {CONNECTIONS} {with} kB, {each} bytes each", c.name);
    }
    Ok(())
}
