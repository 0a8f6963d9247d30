//! How does the agent ask the application and the proxy? One connection for one GET: HTTP/1.1, or HTTP/2 where TLS's ALPN
//! chose it. Called by probes and scrapes; keeps nothing, trusts every certificate (as the kubelet does), bounds the body.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Headers that concern one connection only and are not passed on.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "host",
];

/// One GET.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Address or name to connect to, or the path of a Unix socket.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// Over TLS; the protocols to offer.
    pub tls: Option<&'static [&'static str]>,
    /// Source address, where the destination's family allows.
    pub local: Option<IpAddr>,
    /// `Host`.
    pub authority: String,
    /// Path and query, beginning with a slash.
    pub path: String,
    /// Further headers; those of a single connection are left out.
    pub headers: HeaderMap,
    /// Longest body kept.
    pub body_bytes_max: usize,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, at most as long as asked for.
    pub body: Bytes,
    /// The body was longer.
    pub cut: bool,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection.
    #[error("connecting to {0}: {1}")]
    Connect(String, io::Error),
    /// No TLS session.
    #[error("TLS handshake: {0}")]
    Tls(io::Error),
    /// The request cannot be written as one.
    #[error("request: {0}")]
    Request(#[from] http::Error),
    /// No HTTP answer.
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

/// Opens a connection, from `local` where that fits the destination's family and this machine has it.
///
/// # Errors
/// The last address's error; a host that is no name is an error as well.
pub async fn connect(host: &str, port: u16, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let host = if host.is_empty() { "localhost" } else { host };
    let mut last = None;
    for address in tokio::net::lookup_host((host, port)).await? {
        match connect_to(address, local).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
}

async fn connect_to(to: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = || if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = local.filter(|ip| ip.is_ipv4() == to.is_ipv4()).and_then(|ip| {
        let socket = socket().ok()?;
        // A machine without the address (`::6` is not loopback by itself) is asked from wherever it likes.
        socket.bind(SocketAddr::new(ip, 0)).ok().map(|()| socket)
    });
    let stream = match bound {
        Some(socket) => socket.connect(to).await?,
        None => socket()?.connect(to).await?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends the request and reads the answer. Dropping the future closes the connection.
///
/// # Errors
/// What kept the answer away.
pub async fn get(ask: &Ask) -> Result<Answer, AskError> {
    if ask.host.starts_with('/') {
        let stream = tokio::net::UnixStream::connect(&ask.host).await;
        return http1(ask, stream.map_err(|error| AskError::Connect(ask.host.clone(), error))?).await;
    }
    let name = || format!("{}:{}", ask.host, ask.port);
    let stream = connect(&ask.host, ask.port, ask.local).await.map_err(|error| AskError::Connect(name(), error))?;
    let Some(protocols) = ask.tls else {
        return http1(ask, stream).await;
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| AskError::Tls(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let server = ServerName::try_from(ask.host.clone()).map_err(|error| AskError::Tls(io::Error::other(error)))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await.map_err(AskError::Tls)?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") { http2(ask, stream).await } else { http1(ask, stream).await }
}

/// Ends the task that drives a connection.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn headers(ask: &Ask) -> HeaderMap {
    let mut headers = ask.headers.clone();
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}

async fn http1(ask: &Ask, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Answer, AskError> {
    let mut request = Request::get(ask.path.as_str()).body(Empty::<Bytes>::new())?;
    *request.headers_mut() = headers(ask);
    request.headers_mut().insert(HOST, HeaderValue::from_str(&ask.authority).map_err(http::Error::from)?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let _driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    collect(ask, sender.send_request(request).await?).await
}

async fn http2(ask: &Ask, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Answer, AskError> {
    let uri = Uri::builder().scheme("https").authority(ask.authority.as_str()).path_and_query(ask.path.as_str());
    let mut request = Request::get(uri.build()?).body(Empty::<Bytes>::new())?;
    *request.headers_mut() = headers(ask);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let _driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    collect(ask, sender.send_request(request).await?).await
}

async fn collect(ask: &Ask, answer: http::Response<hyper::body::Incoming>) -> Result<Answer, AskError> {
    let (parts, mut incoming) = answer.into_parts();
    let mut body = BytesMut::new();
    let mut cut = false;
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data() {
            let room = ask.body_bytes_max - body.len();
            cut = data.len() > room;
            body.extend_from_slice(&data[..data.len().min(room)]);
            if cut {
                break;
            }
        }
    }
    Ok(Answer { status: parts.status, headers: parts.headers, body: body.freeze(), cut })
}

/// Probes do not ask who answers, only whether.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
