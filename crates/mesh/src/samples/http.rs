//! How do the samples serve HTTP? hyper, HTTP/1.1 and HTTP/2 by prior knowledge on one port.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

/// Most bytes of a request body that a sample keeps.
pub(super) const BODY_MAX: usize = 16 << 20;

pub(super) type Body = BoxBody<Bytes, Infallible>;

/// A response with a known body.
pub(super) fn reply(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::BAD_REQUEST);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Collects a request body up to [`BODY_MAX`]; beyond that, and on a broken body, what is answered is 413 or 400.
pub(super) async fn collect(body: Incoming) -> Result<Bytes, Response<Body>> {
    let limited = http_body_util::Limited::new(body, BODY_MAX);
    match limited.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(reply(413, "text/plain", "request body too large\n"))
        }
        Err(_) => Err(reply(400, "text/plain", "broken request body\n")),
    }
}

/// Listens on all addresses, IPv4 and IPv6 where the machine has both.
pub(super) fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .or_else(|_| std::net::TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))))
        .map_err(|error| io::Error::new(error.kind(), format!("port {port}: {error}")))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves `answer` on `port` until the task is dropped.
pub(super) async fn serve<A, F>(port: u16, answer: A) -> io::Result<()>
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let listener = listen(port)?;
    let answer = Rc::new(answer);
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors: shedding load for a moment beats spinning.
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let answer = Rc::clone(&answer);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let reply = answer(request, peer);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            let mut builder = auto::Builder::new(LocalExecutor);
            builder.http1().keep_alive(true);
            // A client that leaves in the middle is its own business.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Runs HTTP/2 streams on the current thread.
#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
