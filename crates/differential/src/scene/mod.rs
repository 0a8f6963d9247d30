//! Which configurations are tried? A scene is one listener with clusters of its own, made from a seed.
//!
//! Only what is deterministic in Envoy is generated: weights of 0 and 100, one host a cluster except where a hash places
//! the request or where all hosts answer alike, no jitter that shows. In the generated text `~` stands for the scene's
//! prefix, so that many scenes share one process and one statistics page.

mod actions;
mod clusters;
mod filters;
mod hcm;
mod listener;
mod matchers;
mod operations;
mod routes;

use crate::rng::Rng;
use crate::tls::Certificates;
use serde_json::{Value, json};

/// Hosts that requests name and virtual hosts claim.
pub const HOSTS: &[&str] =
    &["a.test", "b.test", "x.a.test", "y.x.a.test", "a.org", "a.test:8080", "A.Test", "other", "b.test.", "10.0.0.1"];
/// Paths of requests; prefixes of them are what routes match.
pub const PATHS: &[&str] = &[
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/ab",
    "/a/b/c",
    "/A/b",
    "/a?x=1",
    "/a/b?x=2&y=3",
    "/a//b",
    "/a/./b",
    "/a/../b",
    "/a%2Fb",
    "/a%2fb/c",
    "/%61",
    "/b/c;p=1",
    "/a/b#frag",
    "/c/12345",
    "/a?",
    "/a/b/?x",
    "/very/long/path/with/many/segments",
    "/a/b?x=1&x=2",
    "/users/42/posts/7",
];

/// Prefix of the type URLs of extensions.
const TYPE: &str = "type.googleapis.com/envoy.extensions.";

/// What a scene's listener speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/1 over TLS.
    TlsHttp1,
    /// HTTP/2 over TLS.
    TlsHttp2,
    /// A TCP proxy.
    Tcp,
    /// A TCP proxy behind TLS.
    TlsTcp,
}

impl Protocol {
    /// Whether clients shake hands first.
    pub fn tls(self) -> bool {
        matches!(self, Protocol::TlsHttp1 | Protocol::TlsHttp2 | Protocol::TlsTcp)
    }

    /// Whether there is a connection manager.
    pub fn http(self) -> bool {
        !matches!(self, Protocol::Tcp | Protocol::TlsTcp)
    }
}

/// One listener with its clusters.
pub struct Scene {
    /// All of it follows from this number.
    pub seed: u64,
    /// In front of every name.
    pub prefix: String,
    /// What it speaks.
    pub protocol: Protocol,
    rng: Rng,
}

/// What both proxies are told of their surroundings.
pub struct Surroundings<'a> {
    /// Ports of the upstream servers.
    pub backends: &'a [u16],
    /// A port on which nothing listens.
    pub closed_port: u16,
    /// Certificates.
    pub certificates: &'a Certificates,
}

impl Scene {
    /// The scene of a seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let protocol = match rng.below(20) {
            0..=3 => Protocol::Http2,
            4 => Protocol::TlsHttp1,
            5 => Protocol::TlsHttp2,
            6 => Protocol::Tcp,
            7 => Protocol::TlsTcp,
            _ => Protocol::Http1,
        };
        Self { seed, prefix: format!("s{seed}-"), protocol, rng }
    }

    /// Listener and clusters. The same seed gives the same configuration but for `port` and `log`.
    pub fn resources(&self, port: u16, log: &str, around: &Surroundings<'_>) -> (Value, Vec<Value>) {
        let rng = &mut self.rng.clone();
        let clusters = clusters::all(rng, around);
        let listener = listener::one(rng, self.protocol, port, log, around);
        let both = json!([listener, clusters]).to_string().replace('~', &self.prefix);
        match serde_json::from_str::<Value>(&both) {
            Ok(Value::Array(mut both)) if both.len() == 2 => {
                let clusters = both.pop().and_then(|c| c.as_array().cloned()).unwrap_or_default();
                (both.pop().unwrap_or_default(), clusters)
            }
            _ => unreachable!("what was just written is read again"),
        }
    }
}

/// A bootstrap of many scenes.
pub fn bootstrap(admin: u16, listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({
        "admin": {"address": address(admin)},
        "node": {"id": "differential", "cluster": "differential"},
        "static_resources": {"listeners": listeners, "clusters": clusters}
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// Adds the fields of `from` to `to`.
fn merge(to: &mut Value, from: Value) {
    if let (Some(to), Value::Object(from)) = (to.as_object_mut(), from) {
        to.extend(from);
    }
}
