//! What came back? One client per proxy: HTTP/1.1 as exact bytes, HTTP/2, plain TCP, each with or without TLS.

use crate::compare::Facts;
use crate::request::{Case, Kind, TlsAsk};
use crate::tls::Certificates;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use testkit::http::Response;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for an answer: beyond any timeout that a scene configures.
const PATIENCE: Duration = Duration::from_secs(20);

/// Anything that bytes go through.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// What came back, before masking.
pub enum Answer {
    /// A response, over either protocol.
    Response {
        /// The response.
        response: Response,
        /// Its trailers.
        trailers: Vec<(String, String)>,
        /// Informational responses before it.
        hints: Vec<u16>,
    },
    /// Plain bytes until the end.
    Bytes(Vec<u8>),
    /// How there was none.
    None(String),
}

/// Asks one proxy; begins without connections.
#[derive(Default)]
pub struct Client {
    configs: BTreeMap<(bool, Vec<&'static str>), Arc<rustls::ClientConfig>>,
    kept: Option<(SocketAddr, Box<dyn Io>)>,
}

impl Client {
    /// Sends a case to the proxy at `to` and notes what came back; handshake facts come first.
    pub async fn ask(&mut self, to: SocketAddr, case: &Case, key: &str, certs: &Certificates) -> (Facts, Answer) {
        let mut facts = Facts::new();
        let answer = match tokio::time::timeout(PATIENCE, self.exchange(to, case, key, certs, &mut facts)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => Answer::None(said(&e)),
            Err(_) => Answer::None("nothing came".into()),
        };
        (facts, answer)
    }

    async fn exchange(
        &mut self,
        to: SocketAddr,
        case: &Case,
        key: &str,
        certs: &Certificates,
        facts: &mut Facts,
    ) -> Result<Answer> {
        let kept = self.kept.take().filter(|(at, _)| case.reuse && *at == to);
        let mut io = match kept {
            Some((_, io)) => io,
            None => self.open(to, case.tls.as_ref(), certs, facts).await?,
        };
        match &case.kind {
            Kind::Http1 { head } => {
                let answer = h1(&mut io, &case.wire(key), *head).await?;
                let closes = |r: &Response| {
                    r.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) || r.status == 101
                };
                if let Answer::Response { response, .. } = &answer
                    && !closes(response)
                {
                    self.kept = Some((to, io));
                }
                Ok(answer)
            }
            Kind::Http2 => h2(io, case, key).await,
            Kind::Tcp => {
                io.write_all(&case.wire(key)).await?;
                io.shutdown().await?;
                let mut all = Vec::new();
                let ended = io.read_to_end(&mut all).await;
                if all.is_empty() {
                    ended?;
                }
                Ok(Answer::Bytes(all))
            }
        }
    }

    async fn open(
        &mut self,
        to: SocketAddr,
        tls: Option<&TlsAsk>,
        certs: &Certificates,
        facts: &mut Facts,
    ) -> Result<Box<dyn Io>> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let Some(ask) = tls else {
            return Ok(Box::new(stream));
        };
        let key = (ask.certificate, ask.alpn.clone());
        let config = self.configs.entry(key).or_insert_with(|| certs.client(ask.certificate, &ask.alpn)).clone();
        let name = ask.server_name.unwrap_or("none.invalid").try_into().map_err(Error::other)?;
        let mut config = config;
        if ask.server_name.is_none() {
            Arc::make_mut(&mut config).enable_sni = false;
        }
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        let session = stream.get_ref().1;
        facts.push(format!("tls {:?} alpn {:?}", session.protocol_version(), session.alpn_protocol().map(text)));
        let peer = session.peer_certificates().and_then(|c| c.first());
        facts.push(format!("certificate {}", peer.map_or("none", |c| certs.name(c))));
        Ok(Box::new(stream))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn said(e: &Error) -> String {
    match e.kind() {
        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => "closed".into(),
        // Whether the alert or the reset comes first depends on who was faster.
        _ if e.to_string().contains("AlertReceived") || e.to_string().contains("received fatal alert") => {
            "closed".into()
        }
        _ => format!("{e}"),
    }
}

async fn h1(io: &mut Box<dyn Io>, wire: &[u8], head: bool) -> Result<Answer> {
    // A peer may answer and close before it has read all: what it answered still counts.
    let _ = io.write_all(wire).await;
    let _ = io.flush().await;
    let mut buffer = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    let mut hints = Vec::new();
    let mut closed = false;
    loop {
        while let Some((response, used)) = testkit::http::parse(&buffer, head, closed) {
            buffer.drain(..used);
            if (100..200).contains(&response.status) && response.status != 101 {
                hints.push(response.status);
                continue;
            }
            return Ok(Answer::Response { response, trailers: Vec::new(), hints });
        }
        if closed {
            let partial = if buffer.is_empty() { "" } else { " in a response" };
            return Ok(Answer::None(format!("closed{partial}")));
        }
        match io.read(&mut chunk).await {
            Ok(0) => closed = true,
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof) => closed = true,
            Err(e) => return Err(e),
        }
    }
}

async fn h2(io: Box<dyn Io>, case: &Case, key: &str) -> Result<Answer> {
    let broken = |e: h2::Error| Answer::None(format!("reset {:?}", e.reason()));
    let (sender, connection) = h2::client::handshake(io).await.map_err(Error::other)?;
    let driver = tokio::spawn(connection);
    let answer = h2_exchange(sender, case, key).await.unwrap_or_else(broken);
    driver.abort();
    Ok(answer)
}

async fn h2_exchange(
    sender: h2::client::SendRequest<Bytes>,
    case: &Case,
    key: &str,
) -> std::result::Result<Answer, h2::Error> {
    let mut sender = sender.ready().await?;
    let Some(request) = case.h2(key) else {
        return Ok(Answer::None("not sent".into()));
    };
    let ends = case.body.is_empty() && case.trailers.is_empty();
    let (response, mut send) = sender.send_request(request, ends)?;
    if !ends {
        let _ = send.send_data(Bytes::copy_from_slice(case.body.as_bytes()), case.trailers.is_empty());
        if !case.trailers.is_empty() {
            let mut map = http::HeaderMap::new();
            for (n, v) in &case.trailers {
                if let (Ok(n), Ok(v)) = (http::HeaderName::try_from(*n), http::HeaderValue::try_from(*v)) {
                    map.append(n, v);
                }
            }
            let _ = send.send_trailers(map);
        }
    }
    let (head, mut body) = response.await?.into_parts();
    let fields = |map: &http::HeaderMap| -> Vec<(String, String)> {
        map.iter().map(|(n, v)| (n.as_str().to_owned(), text(v.as_bytes()))).collect()
    };
    let mut response = Response { status: head.status.as_u16(), headers: fields(&head.headers), body: Vec::new() };
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        response.body.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?.map_or_else(Vec::new, |m| fields(&m));
    Ok(Answer::Response { response, trailers, hints: Vec::new() })
}
