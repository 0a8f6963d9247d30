//! Does a container answer? HTTP, TCP and exec probes with Kubernetes' fields.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::podspec::{Container, Handler, HttpGet};

/// Most bytes of a probe's answer that are read; the status line is what counts.
const ANSWER_MAX: usize = 4096;

/// Asks once. `exec` handlers are run by `execute`, which says whether the command succeeded.
pub(crate) async fn ask<F>(
    handler: &Handler,
    container: &Container,
    pod: Ipv4Addr,
    timeout: Duration,
    execute: F,
) -> Result<(), String>
where
    F: AsyncFnOnce(Vec<String>) -> Result<(), String>,
{
    let work = async {
        if let Some(exec) = &handler.exec {
            return execute(exec.command.clone()).await;
        }
        if let Some(get) = &handler.http_get {
            let port = container.port(&get.port).ok_or_else(|| format!("httpGet.port {} is not a port", get.port))?;
            return http(get, SocketAddr::from((pod, port))).await;
        }
        if let Some(tcp) = &handler.tcp_socket {
            let port = container.port(&tcp.port).ok_or_else(|| format!("tcpSocket.port {} is not a port", tcp.port))?;
            return TcpStream::connect((pod, port)).await.map(drop).map_err(|error| error.to_string());
        }
        Ok(())
    };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err("timed out".to_owned()))
}

async fn http(get: &HttpGet, address: SocketAddr) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(text)?;
    let host = get.http_headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
    let mut request = format!("GET {} HTTP/1.1\r\n", get.path.as_deref().unwrap_or("/"));
    request.push_str(&format!("Host: {}\r\n", host.map_or_else(|| address.to_string(), |header| header.value.clone())));
    request.push_str("User-Agent: kube-probe/1.32\r\nConnection: close\r\nAccept: */*\r\n");
    for header in get.http_headers.iter().filter(|header| !header.name.eq_ignore_ascii_case("host")) {
        request.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 512];
    while !answer.contains(&b'\n') && answer.len() < ANSWER_MAX {
        match stream.read(&mut buffer).await.map_err(text)? {
            0 => break,
            length => answer.extend_from_slice(&buffer[..length]),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let status = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("status {code}")),
        None => Err("no HTTP answer".to_owned()),
    }
}
