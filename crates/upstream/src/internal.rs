//! How is a listener of this very process reached? Endpoints with `envoy_internal_address`.
//!
//! The worker that connects also serves the other end: `l4` sets [`on_connect`] on its thread, and gets one end of a pipe.
//! Without it (the config thread) internal addresses cannot be reached.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use proxy_config::Name;
use proxy_config::cluster::UpstreamTransport;
use proxy_config::common::{Metadata, Value};
use proxy_config::format::MetadataKind;
use tls::{Pipe, Socket};

/// A connection to an internal listener.
#[derive(Debug)]
pub struct InternalConnection {
    /// The listener's name.
    pub listener: Name,
    /// `endpoint_id`
    pub endpoint_id: Name,
    /// The listener's end.
    pub socket: Socket,
    /// Metadata of host and cluster passed through (`internal_upstream`).
    pub metadata: Vec<(Name, Value)>,
    /// Filter state shared with upstream connections.
    pub state: Vec<(Name, Arc<str>)>,
}

type Accept = Rc<dyn Fn(InternalConnection) -> bool>;

thread_local! {
    static ACCEPT: RefCell<Option<Accept>> = const { RefCell::new(None) };
}

/// Serves this thread's connections to internal listeners. `accept` says whether there is such a listener.
pub fn on_connect(accept: Accept) {
    ACCEPT.with_borrow_mut(|a| *a = Some(accept));
}

/// Connects to a listener of this process. `None`: there is none of that name.
pub(crate) fn connect(
    listener: &Name,
    endpoint_id: &Name,
    metadata: Vec<(Name, Value)>,
    state: &[(Name, Arc<str>)],
) -> Option<Socket> {
    let accept = ACCEPT.with_borrow(Clone::clone)?;
    let (ours, theirs) = Pipe::pair();
    let accepted = accept(InternalConnection {
        listener: listener.clone(),
        endpoint_id: endpoint_id.clone(),
        socket: Socket::Pipe(theirs),
        metadata,
        state: state.to_vec(),
    });
    accepted.then_some(Socket::Pipe(ours))
}

/// The metadata that a transport passes to an internal listener.
pub(crate) fn passed_through(transport: &UpstreamTransport, host: &Metadata, cluster: &Metadata) -> Vec<(Name, Value)> {
    match transport {
        UpstreamTransport::InternalUpstream { passthrough, inner } => {
            let own = passthrough.iter().filter_map(|(kind, name)| {
                let from = if *kind == MetadataKind::Cluster { cluster } else { host };
                Some((name.clone(), from.filter(name)?.clone()))
            });
            own.chain(passed_through(inner, host, cluster)).collect()
        }
        UpstreamTransport::ProxyProtocol { inner, .. } => passed_through(inner, host, cluster),
        UpstreamTransport::Raw | UpstreamTransport::Tls(_) => Vec::new(),
    }
}
