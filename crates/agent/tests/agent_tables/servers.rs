//! The applications that the original's tests start: plain and TLS HTTP with a few paths, gRPC health; and a client.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use agent::status::client::{self, Answer, Ask};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Asks the status server.
pub async fn ask(port: u16, path: &str, headers: HeaderMap) -> Result<Answer, String> {
    let ask = Ask {
        host: "127.0.0.1".into(),
        port,
        tls: None,
        local: None,
        authority: format!("localhost:{port}"),
        path: format!("/{}", path.trim_start_matches('/')),
        headers,
        body_bytes_max: 64 << 20,
    };
    client::get(&ask).await.map_err(|e| e.to_string())
}

type Negotiate = fn(&HeaderMap) -> (String, String);

/// An application under construction.
#[derive(Default, Clone)]
pub struct App {
    /// TLS with these protocols.
    pub tls: Option<Vec<String>>,
    /// Answers everything with this page and `Content-Type`.
    pub page: Option<(String, String)>,
    /// Answers by what is accepted.
    pub negotiate: Option<Negotiate>,
    /// Answers everything with this status.
    pub fail: Option<u16>,
}

#[derive(Default)]
struct Seen {
    protocol: String,
    headers: Vec<(String, String)>,
}

/// An application that serves.
pub struct Running {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
}

impl Running {
    /// `HTTP/1.1` or `HTTP/2.0`, empty before the first request.
    pub fn protocol(&self) -> String {
        self.seen.lock().unwrap().protocol.clone()
    }

    /// Headers of the last request.
    pub fn headers(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().headers.clone()
    }
}

impl App {
    /// Listens on both families.
    pub async fn serve(self) -> Running {
        let listener = TcpListener::bind("[::]:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let running = Running { port, seen: Arc::clone(&seen) };
        let acceptor = self.tls.as_ref().map(|alpns| TlsAcceptor::from(tls(alpns)));
        let app = Arc::new(self);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (app, seen, acceptor) = (Arc::clone(&app), Arc::clone(&seen), acceptor.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (app, seen) = (Arc::clone(&app), Arc::clone(&seen));
                        async move { Ok::<_, Infallible>(app.answer(&request, &seen)) }
                    });
                    let http1 = hyper::server::conn::http1::Builder::new();
                    let Some(acceptor) = acceptor else {
                        drop(http1.serve_connection(TokioIo::new(stream), service).await);
                        return;
                    };
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        drop(http2.serve_connection(TokioIo::new(stream), service).await);
                    } else {
                        drop(http1.serve_connection(TokioIo::new(stream), service).await);
                    }
                });
            }
        });
        running
    }

    fn answer(&self, request: &Request<Incoming>, seen: &Mutex<Seen>) -> Response<Full<Bytes>> {
        {
            let mut seen = seen.lock().unwrap();
            let http2 = request.version() == Version::HTTP_2;
            seen.protocol = if http2 { "HTTP/2.0" } else { "HTTP/1.1" }.into();
            let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
            seen.headers = request.headers().iter().map(|(k, v)| (k.to_string(), text(v))).collect();
        }
        let status = |code: u16| Response::builder().status(code);
        let redirect = |to: &str| status(301).header("location", to).body(Full::default()).unwrap();
        if let Some(code) = self.fail {
            return status(code).body(Full::default()).unwrap();
        }
        let negotiated = self.negotiate.map(|negotiate| negotiate(request.headers()));
        if let Some((body, content_type)) = negotiated.or_else(|| self.page.clone()) {
            let content_type = if content_type.is_empty() { "text/plain; charset=utf-8".into() } else { content_type };
            return status(200).header("content-type", content_type).body(Full::from(body)).unwrap();
        }
        let segments: Vec<&str> = request.uri().path().trim_start_matches('/').split('/').collect();
        match segments.as_slice() {
            ["redirect"] => redirect("/"),
            ["redirect-loop"] => redirect("/redirect-loop"),
            ["remote-redirect"] => redirect("http://example.com/foo"),
            ["status", code] => {
                let code = code.parse::<u16>().ok().and_then(|c| StatusCode::from_u16(c).ok()).unwrap_or_default();
                Response::builder().status(code).body(Full::default()).unwrap()
            }
            _ => Response::new(Full::from("welcome, it works")),
        }
    }
}

/// Any certificate will do: probes do not ask whose it is.
fn tls(alpns: &[String]) -> Arc<ServerConfig> {
    let now = std::time::SystemTime::now();
    let own = pki::Authority::self_signed("test", pki::KeyAlgorithm::EcdsaP256, now, [1; 16]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(own.roots().to_vec(), own.key().to_der())
        .unwrap();
    config.alpn_protocols = alpns.iter().map(|p| p.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// Serves `grpc.health.v1.Health/Check` on both families; the port.
pub async fn health() -> u16 {
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection(TokioIo::new(stream), service_fn(check)).await);
            });
        }
    });
    port
}

async fn check(
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let mut body = request.into_body().collect().await.unwrap().to_bytes();
    body.advance(5);
    // One field: the service's name, with its length before it.
    let service = if body.len() > 2 { String::from_utf8_lossy(&body[2..]).into_owned() } else { String::new() };
    // SERVING, UNKNOWN, NOT_SERVING; a service nobody knows is an error.
    let (code, status) = match service.as_str() {
        "" | "serving-svc" => ("0", 1),
        "unknown-svc" => ("0", 0),
        "not-serving-svc" => ("0", 2),
        _ => ("5", 0),
    };
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(2);
    message.put_slice(&[8, status]);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    let body = Full::new(message.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap())
}
