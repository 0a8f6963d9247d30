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
use tokio::sync::watch;

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

/// How long requests that are under way may take once the sample was told to stop.
const END_MAX: Duration = Duration::from_secs(10);

/// Serves `answer` on `port` until it is told to stop; then finishes what is under way.
pub(super) async fn serve<A, F>(port: u16, answer: A) -> io::Result<()>
where
    A: Fn(Request<Incoming>, SocketAddr) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let listener = listen(port)?;
    let answer = Rc::new(answer);
    println!("listening on {}", listener.local_addr()?);
    // Every connection holds a receiver: the channel is closed when the last one has ended.
    let (ending, _) = watch::channel(false);
    let stop = super::stopped();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (stream, peer) = match accepted {
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
        let mut end = ending.subscribe();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let reply = answer(request, peer);
                async move { Ok::<_, Infallible>(reply.await) }
            });
            let mut builder = auto::Builder::new(LocalExecutor);
            builder.http1().keep_alive(true);
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::pin!(connection);
            // A client that leaves in the middle is its own business.
            tokio::select! {
                _ = &mut connection => {}
                _ = end.wait_for(|ending| *ending) => {
                    connection.as_mut().graceful_shutdown();
                    let _ = connection.await;
                }
            }
        });
    }
    drop(listener);
    ending.send_replace(true);
    let _ = tokio::time::timeout(END_MAX, ending.closed()).await;
    Ok(())
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
