//! What does a proxy owe its control plane next? The sans-IO machine behind `xds-client`.
//!
//! A [`Client`] is told what to subscribe to ([`Client::set_names`]), is fed responses ([`Client::on_delta`],
//! [`Client::on_sotw`]) that come back as one [`Update`], and is told the verdict ([`Client::settle`]); it says
//! what to send ([`Client::poll`]). It outlives streams: after [`Client::reconnect`] it subscribes to everything
//! again, by delta with the versions it holds, so that only differences travel.
//!
//! Types are polled in the order of the xDS "make before break" rule: CDS, EDS, LDS, RDS, SDS, others.
//! Absent: sockets, back-off, and what a resource means.

mod subscription;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use protos::envoy::config::core::v3::Node;
use protos::envoy::service::discovery::v3 as discovery;

use subscription::Subscription;
pub use subscription::{Rejection, Resource, Update, resource_name};

/// Most bytes of error detail in one NACK: it must fit logs and the peer's limits (gRPC messages default to 4 MiB).
pub const ERROR_DETAIL_BYTES_MAX: usize = 16 * 1024;

/// Type URLs in the order in which the client speaks.
const ORDER: [&str; 7] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.route.v3.VirtualHost",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
];

/// The two dialects of xDS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `DeltaAggregatedResources`
    Delta,
    /// `StreamAggregatedResources`
    StateOfTheWorld,
}

/// A request to send, in the client's dialect.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// For a delta stream.
    Delta(Box<discovery::DeltaDiscoveryRequest>),
    /// For a state-of-the-world stream.
    StateOfTheWorld(Box<discovery::DiscoveryRequest>),
}

/// The client's end of one aggregated subscription, over any number of streams.
#[derive(Debug)]
pub struct Client {
    protocol: Protocol,
    node: Node,
    /// Send the node on every request instead of the first of a stream.
    node_always: bool,
    node_sent: bool,
    /// By rank, then type URL.
    subscriptions: BTreeMap<(usize, String), Subscription>,
}

fn key(type_url: &str) -> (usize, String) {
    (ORDER.iter().position(|t| *t == type_url).unwrap_or(ORDER.len()), type_url.to_owned())
}

impl Client {
    /// A client that wants nothing yet.
    pub fn new(protocol: Protocol, node: Node) -> Self {
        Self { protocol, node, node_always: false, node_sent: false, subscriptions: BTreeMap::new() }
    }

    /// Sends the node with every request, as `set_node_on_first_message_only: false` asks.
    pub fn with_node_always(mut self, always: bool) -> Self {
        self.node_always = always;
        self
    }

    /// Which dialect is spoken.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// States what is wanted of a type from now on: everything (`wildcard`), and these names. The difference to
    /// before goes out with the next requests.
    pub fn set_names(&mut self, type_url: &str, wildcard: bool, names: BTreeSet<String>) {
        let key = key(type_url);
        if !wildcard && names.is_empty() && !self.subscriptions.contains_key(&key) {
            return;
        }
        self.subscriptions.entry(key).or_default().want(wildcard, names);
    }

    /// Begins to speak of a type although nothing of it is wanted yet, as Envoy does of virtual hosts: its first request
    /// names none, and the server may offer some.
    pub fn open(&mut self, type_url: &str) {
        self.subscriptions.entry(key(type_url)).or_default().open = true;
    }

    /// Names wanted of a type, beside any wildcard.
    pub fn names(&self, type_url: &str) -> impl Iterator<Item = &str> {
        self.subscriptions.get(&key(type_url)).into_iter().flat_map(|s| s.names())
    }

    /// A new stream begins: everything is asked for again, answers owed to the old stream are forgotten.
    pub fn reconnect(&mut self) {
        self.node_sent = false;
        self.subscriptions.values_mut().for_each(Subscription::reconnect);
    }

    /// Takes a delta response. `None`: of a type nobody subscribed to, to be ignored.
    pub fn on_delta(&mut self, response: discovery::DeltaDiscoveryResponse) -> Option<Update> {
        self.subscriptions.contains_key(&key(&response.type_url)).then(|| Update::from_delta(response))
    }

    /// Takes a state-of-the-world response. `None`: of a type nobody subscribed to, to be ignored.
    pub fn on_sotw(&mut self, response: discovery::DiscoveryResponse) -> Option<Update> {
        let subscription = self.subscriptions.get(&key(&response.type_url))?;
        Some(subscription.read_sotw(response))
    }

    /// The verdict on an update: all of it taken, or some of it rejected with the reasons. Siblings of rejected resources count as
    /// taken; the response as a whole is NACKed, as Envoy does.
    pub fn settle(&mut self, update: &Update, verdict: Result<(), Rejection>) {
        if let Some(subscription) = self.subscriptions.get_mut(&key(&update.type_url)) {
            subscription.settle(self.protocol, update, verdict);
        }
    }

    /// The next request to send, if any is due.
    pub fn poll(&mut self) -> Option<Request> {
        for ((_, type_url), subscription) in &mut self.subscriptions {
            let node = (self.node_always || !self.node_sent).then(|| self.node.clone());
            let request = match self.protocol {
                Protocol::Delta => subscription.poll_delta(type_url).map(|mut r| {
                    r.node = node;
                    Request::Delta(Box::new(r))
                }),
                Protocol::StateOfTheWorld => subscription.poll_sotw(type_url).map(|mut r| {
                    r.node = node;
                    Request::StateOfTheWorld(Box::new(r))
                }),
            };
            if request.is_some() {
                self.node_sent = true;
                return request;
            }
        }
        None
    }
}
