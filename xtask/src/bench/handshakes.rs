//! What does a full TLS handshake with both certificates cost the server? `openssl s_time` makes them one after another.

use super::process::{Candidate, backend, bootstrap, free_port};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, Stdio};

/// Prints processor time per handshake; rounds alternate between the candidates.
pub fn run(candidates: &[Candidate], rounds: u32, seconds: u32, work: &Path) -> Result<()> {
    certificates(work)?;
    let backend = backend()?;
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); candidates.len()];
    for _ in 0..rounds {
        for (c, costs) in candidates.iter().zip(&mut all) {
            let port = free_port()?;
            let config = work.join("handshakes.json");
            std::fs::write(&config, bootstrap(port, backend, Some(transport(work)))?.to_string())?;
            let proxy = c.start(&config, port)?;
            let before = proxy.cpu()?;
            let made = handshakes(work, port, seconds)?;
            let spent = proxy.cpu()? - before;
            costs.push(spent.as_secs_f64() * 1e6 / f64::from(made));
        }
    }
    for (c, costs) in candidates.iter().zip(&mut all) {
        costs.sort_by(f64::total_cmp);
        println!("handshakes {:8} {:.0} µs each (median of {rounds})", c.name, costs[costs.len() / 2]);
    }
    Ok(())
}

fn transport(work: &Path) -> serde_json::Value {
    let file = |name: &str| serde_json::json!({"filename": work.join(name)});
    serde_json::json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificates": [{"certificate_chain": file("server.pem"), "private_key": file("server.key")}],
                "validation_context": {"trusted_ca": file("ca.pem")}
            }
        }
    })
}

fn openssl(work: &Path, args: &[&str]) -> Result<String> {
    let output = Command::new("openssl").current_dir(work).args(args).stderr(Stdio::piped()).output()?;
    if !output.status.success() {
        bail!("openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn certificates(work: &Path) -> Result<()> {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"];
    let ca = ["ca.key", "-x509", "-out", "ca.pem", "-days", "2", "-subj", "/O=bench"];
    openssl(work, &[&["req"], &key[..], &ca[..]].concat())?;
    for who in ["client", "server"] {
        let (secret, csr, out) = (format!("{who}.key"), format!("{who}.csr"), format!("{who}.pem"));
        openssl(work, &[&["req"], &key[..], &[&secret, "-out", &csr, "-subj", "/CN=bench"]].concat())?;
        let ext = format!("{who}.ext");
        let names = format!("subjectAltName=URI:spiffe://cluster.local/ns/bench/sa/{who}\n");
        std::fs::write(work.join(&ext), names)?;
        let signing = ["x509", "-req", "-in", &csr, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(work, &[&signing[..], &["-days", "2", "-extfile", &ext, "-out", &out]].concat())?;
    }
    Ok(())
}

/// Makes handshakes for that long; how many.
fn handshakes(work: &Path, port: u16, seconds: u32) -> Result<u32> {
    let (to, time) = (format!("127.0.0.1:{port}"), seconds.to_string());
    let args = ["s_time", "-new", "-connect", &to, "-time", &time, "-cert", "client.pem", "-key", "client.key"];
    let said = openssl(work, &args)?;
    let line = said.lines().find(|l| l.contains("connections in") && l.contains("real")).context("openssl s_time")?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}
