//! How does a connection get from its accept to its terminal filter?
//!
//! The walk: listener filters → hand-over to the listener of the original destination → filter chain →
//! TLS → network filters → TCP proxy, or `l7::serve_connection`. Spawned by `worker`, one task each.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::{listener as stat, listener_worker, ssl_context};
use tls::{Failure, HandshakeError, Stream};

use crate::accepted::{About, Accepted, PeerText};
use crate::filters::{Place, Refusal, Verdict};
use crate::inspect::{self, Rejected};
use crate::listener::{Chain, Listener, Terminal};
use crate::tcp_proxy;
use crate::worker::{Active, Worker};

/// Bytes of a refused connection that are read before it is closed.
const REFUSED_BYTES: usize = 64 * 1024;
/// Bytes that `echo` holds per turn.
const ECHO_BYTES: usize = 16 * 1024;

/// Serves an accepted connection until it is over. Cancel safe: dropping it closes the connection.
///
/// What setting up needs is boxed and gone before the connection is served: an idle connection holds
/// only what serving needs.
pub async fn serve(worker: Rc<Worker>, active: Rc<Active>, conn: Accepted) {
    let Some(ready) = Box::pin(establish(worker, active, conn)).await else { return };
    let Ready { stream, about, chain, listener, worker, _counted, _places } = ready;
    match &chain.terminal {
        Terminal::Tcp(proxy) => proxy.serve(stream, &about, &worker, &listener, chain.recorder.as_deref()).await,
        Terminal::Http(manager) => {
            let logged = (!listener.loggers.is_empty()).then(|| about.clone());
            let facts = http_facts(about, &listener, &chain);
            l7::serve_connection(stream, facts, manager.clone(), worker.http.clone()).await;
            if let Some(about) = logged {
                log_connection(&listener, &about, &worker, Ending::default());
            }
        }
        Terminal::Echo => {
            Box::pin(echo(stream)).await;
            log_connection(&listener, &about, &worker, Ending::default());
        }
        Terminal::DirectResponse(bytes) => {
            Box::pin(respond(stream, bytes)).await;
            log_connection(&listener, &about, &worker, Ending::default());
        }
    }
}

/// A connection whose chain, transport and network filters are done.
struct Ready {
    stream: Stream,
    about: Box<About>,
    chain: Arc<Chain>,
    listener: Arc<Listener>,
    worker: Rc<Worker>,
    _counted: Counted,
    _places: Vec<Place>,
}

/// Takes a connection up to its terminal filter. `None`: it ended before, and has been accounted for.
async fn establish(worker: Rc<Worker>, mut active: Rc<Active>, mut conn: Accepted) -> Option<Ready> {
    let mut listener = active.listener();
    inspected(&listener, &mut conn).await?;
    inspect::restore(&listener, &mut conn);
    if listener.config.use_original_dst
        && conn.about.restored
        && let Some(other) = worker.find(conn.about.local)
        && !Rc::ptr_eq(&other, &active)
    {
        active = other;
        listener = active.listener();
        // The next listener's filters judge anew; addresses stay restored.
        inspected(&listener, &mut conn).await?;
    }
    let Some(chain) = listener.select(&conn.about).cloned() else {
        listener.stats.inc(stat::NO_FILTER_CHAIN_MATCH);
        let flags = ResponseFlags::NO_ROUTE_FOUND;
        let ending = Ending { flags, code_details: "filter_chain_not_found", ..Default::default() };
        log_connection(&listener, &conn.about, &worker, ending);
        return None;
    };
    let counted = Counted::new(&worker, &active, &listener, &chain, conn.about.id);
    let Accepted { socket, mut about } = conn;
    about.filter_chain = (!chain.config.name.is_empty()).then(|| chain.config.name.clone());
    let mut stream = transport(&listener, &chain, socket, &mut about, &worker).await?;
    let places = filtered(&listener, &chain, &mut about, &mut stream, &worker).await?;
    Some(Ready { stream, about, chain, listener, worker, _counted: counted, _places: places })
}

/// Sets up the chain's transport socket. `None`: the handshake failed and has been accounted for.
async fn transport(
    listener: &Listener,
    chain: &Chain,
    socket: tls::Socket,
    about: &mut About,
    worker: &Worker,
) -> Option<Stream> {
    let Some(context) = &chain.tls else { return Some(Stream::from(socket)) };
    let handshake = context.accept(socket);
    let outcome = match chain.config.transport_socket_connect_timeout {
        None => Some(handshake.await),
        Some(limit) => tokio::time::timeout(limit, handshake).await.ok(),
    };
    match outcome {
        Some(Ok(stream)) => {
            shaken(listener, about, stream.info());
            Some(Stream::from(stream))
        }
        Some(Err(e)) => {
            not_shaken(listener, &e);
            let reason = e.transport_failure_reason();
            log_connection(listener, about, worker, Ending { transport_failure: &reason, ..Default::default() });
            None
        }
        None => {
            listener.stats.inc(stat::DOWNSTREAM_CX_TRANSPORT_SOCKET_CONNECT_TIMEOUT);
            None
        }
    }
}

/// Runs the listener filters. `None`: the connection ends here, and has been counted.
async fn inspected(listener: &Arc<Listener>, conn: &mut Accepted) -> Option<()> {
    struct Pre<'a>(&'a Listener);
    impl Drop for Pre<'_> {
        fn drop(&mut self) {
            self.0.stats.gauge_sub(stat::DOWNSTREAM_PRE_CX_ACTIVE, 1);
        }
    }
    listener.stats.gauge_add(stat::DOWNSTREAM_PRE_CX_ACTIVE, 1);
    let _pre = Pre(listener);
    let rejected = inspect::run(listener, conn).await.err();
    match rejected {
        None => return Some(()),
        Some(Rejected::Timeout) => listener.stats.inc(stat::DOWNSTREAM_PRE_CX_TIMEOUT),
        Some(Rejected::RemoteClose) => listener.stats.inc(stat::DOWNSTREAM_LISTENER_FILTER_REMOTE_CLOSE),
        Some(Rejected::Error) => listener.stats.inc(stat::DOWNSTREAM_LISTENER_FILTER_ERROR),
        Some(Rejected::RateLimited) => {}
    }
    telemetry::debug!(conn_handler, "[C{}] closed by listener filters: {rejected:?}", conn.about.id);
    None
}

fn shaken(listener: &Listener, about: &mut About, info: &tls::TlsInfo) {
    if let Some(stats) = &listener.ssl {
        stats.shaken(info);
    }
    about.tls = Some(Arc::new(info.clone()));
}

fn not_shaken(listener: &Listener, e: &HandshakeError) {
    match e.failure() {
        Failure::SecretsNotReady => {
            listener.ssl_context.inc(ssl_context::DOWNSTREAM_CONTEXT_SECRETS_NOT_READY);
            return;
        }
        // The peer went away: Envoy counts nothing.
        Failure::Io => return,
        failure => listener.ssl.iter().for_each(|stats| stats.failed(failure)),
    }
    telemetry::debug!(connection, "TLS handshake failed: {}", e.transport_failure_reason());
}

/// Runs the network filters before the terminal one. `None`: the connection was closed.
async fn filtered(
    listener: &Listener,
    chain: &Chain,
    about: &mut About,
    stream: &mut Stream,
    worker: &Rc<Worker>,
) -> Option<Vec<Place>> {
    let mut places = Vec::new();
    if chain.filters.is_empty() {
        return Some(places);
    }
    let text = PeerText::of(about.tls.as_deref());
    for f in &chain.filters {
        match f.on_connection(about, &text, &worker.http).await {
            Verdict::Continue => {}
            Verdict::Exchange => {
                let Some(exchange) = f.exchange() else { continue };
                match exchange.run(stream).await {
                    Ok(met) => (about.peer, about.early) = (met.peer, met.early),
                    Err(e) => {
                        telemetry::debug!(filter, "[C{}] metadata exchange: {e}", about.id);
                        log_connection(listener, about, worker, Ending::default());
                        return None;
                    }
                }
            }
            Verdict::Hold(place) => places.push(place),
            Verdict::Refuse { why, delay } => {
                if let Some(recorder) = chain.recorder.as_ref().filter(|_| !why.early) {
                    tcp_proxy::refused(recorder, about);
                }
                match &chain.terminal {
                    Terminal::Tcp(proxy) => proxy.log_refused(about, worker, listener, &why),
                    _ => {
                        let Refusal { flags, code_details, .. } = why;
                        let termination_details = &why.termination_details;
                        let ending = Ending { flags, code_details, termination_details, ..Default::default() };
                        log_connection(listener, about, worker, ending);
                    }
                }
                refuse(stream, worker, delay).await;
                return None;
            }
        }
    }
    Some(places)
}

/// Keeps the peer waiting before the end.
async fn refuse(stream: &mut Stream, worker: &Worker, delay: std::time::Duration) {
    // What the peer has sent is read, so that it sees an end and not a reset.
    let _ = stream.try_read(&mut vec![0; REFUSED_BYTES]);
    if !delay.is_zero() {
        worker.http.timers.sleep(delay).await;
    }
}

/// How a connection ended, as far as the listener's access log tells.
#[derive(Default)]
struct Ending<'a> {
    flags: ResponseFlags,
    code_details: &'a str,
    termination_details: &'a str,
    transport_failure: &'a str,
}

/// Writes the listener's own access log: one entry for every connection.
fn log_connection(listener: &Listener, about: &About, worker: &Worker, ending: Ending<'_>) {
    if listener.loggers.is_empty() {
        return;
    }
    let text = PeerText::of(about.tls.as_deref());
    let mut facts = about.facts(&text);
    facts.flags = ending.flags;
    facts.response_code_details = ending.code_details;
    facts.connection_termination_details = ending.termination_details;
    facts.downstream_transport_failure = ending.transport_failure;
    facts.log_type = "NotSet";
    facts.marks.total = Some(about.began.elapsed());
    facts.hostname = &listener.node.hostname;
    for logger in &listener.loggers {
        logger.log(&facts, worker.random(), &|| worker.random());
    }
}

fn http_facts(about: Box<About>, listener: &Listener, chain: &Chain) -> l7::ConnFacts {
    let about = *about;
    let some = |n: &proxy_config::Name| (!n.is_empty()).then(|| n.clone());
    l7::ConnFacts {
        id: about.id,
        remote: about.remote,
        direct_remote: about.direct_remote,
        local: about.local,
        direct_local: about.direct_local,
        server_name: about.server_name,
        tls: about.tls,
        filter_chain: some(&chain.config.name),
        listener: some(&listener.config.name),
        state: about.state,
        shared: about.shared,
        restored: about.restored,
        original_src: about.original_src,
    }
}

async fn echo(mut stream: Stream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut buf = vec![0; ECHO_BYTES];
    while let Ok(n @ 1..) = stream.read(&mut buf).await {
        if stream.write_all(&buf[..n]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    // The peer has ended; a failure to say so as well changes nothing.
    let _ = stream.shutdown().await;
}

async fn respond(mut stream: Stream, bytes: &[u8]) {
    use tokio::io::AsyncWriteExt;
    if stream.write_all(bytes).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

/// Counts a connection from the choice of its chain to its end, however it ends.
struct Counted {
    active: Rc<Active>,
    listener: Arc<Listener>,
    began: Instant,
}

impl Counted {
    fn new(worker: &Rc<Worker>, active: &Rc<Active>, listener: &Arc<Listener>, chain: &Arc<Chain>, id: u64) -> Self {
        listener.stats.inc(stat::DOWNSTREAM_CX_TOTAL);
        listener.stats.gauge_add(stat::DOWNSTREAM_CX_ACTIVE, 1);
        active.stats.inc(listener_worker::DOWNSTREAM_CX_TOTAL);
        active.stats.gauge_add(listener_worker::DOWNSTREAM_CX_ACTIVE, 1);
        worker.enter(id, chain);
        Counted { active: active.clone(), listener: listener.clone(), began: Instant::now() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let stats = &self.listener.stats;
        stats.inc(stat::DOWNSTREAM_CX_DESTROY);
        stats.gauge_sub(stat::DOWNSTREAM_CX_ACTIVE, 1);
        stats.record(stat::DOWNSTREAM_CX_LENGTH_MS, self.began.elapsed().as_millis() as u64);
        self.active.stats.gauge_sub(listener_worker::DOWNSTREAM_CX_ACTIVE, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        fn size<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        fn http<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
            size_of::<F>()
        }
        let ours = size(serve) - http(l7::serve_connection);
        assert!(ours <= 512, "{ours} bytes beside the HTTP session");
    }
}
