//! Which labels does a standard metric carry? The whole set, in the order in which Istio's proxy prints it.
//!
//! Called when a series is met for the first time, never for a request whose series is known.

use std::borrow::Cow;

use proxy_config::common::{Metadata, Value};

use super::peer::Peer;

/// Whose view a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// An outbound listener.
    Client,
    /// An inbound listener.
    Server,
    /// A waypoint, for the workloads behind it.
    Gateway,
}

/// What this proxy says of itself.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// Workload of this node.
    pub workload: Box<str>,
    /// Namespace.
    pub namespace: Box<str>,
    /// Canonical service.
    pub service: Box<str>,
    /// Canonical revision.
    pub revision: Box<str>,
    /// `app` label.
    pub app: Box<str>,
    /// `version` label.
    pub version: Box<str>,
    /// Cluster.
    pub cluster: Box<str>,
}

impl Local {
    /// From the node's metadata.
    pub fn new(node: &Value) -> Self {
        let text = |path: &[&str]| -> Box<str> { node.path(path).and_then(Value::as_str).unwrap_or_default().into() };
        Local {
            workload: text(&["WORKLOAD_NAME"]),
            namespace: text(&["NAMESPACE"]),
            service: text(&["LABELS", "service.istio.io/canonical-name"]),
            revision: text(&["LABELS", "service.istio.io/canonical-revision"]),
            app: text(&["LABELS", "app"]),
            version: text(&["LABELS", "version"]),
            cluster: text(&["CLUSTER_ID"]),
        }
    }
}

/// Whether both ends proved who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Only the server's side can tell.
    Unknown,
    /// Plain text, or one side only.
    None,
    /// Both.
    MutualTls,
}

/// What labels are made from, beside [`Local`].
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// Whose view.
    pub reporter: Reporter,
    /// The other end: downstream for a server, upstream for a client.
    pub peer: Option<&'a Peer>,
    /// The workload behind a gateway.
    pub endpoint: Option<&'a Peer>,
    /// First URI SAN of the peer, or what filter state says instead.
    pub peer_principal: &'a str,
    /// First URI SAN of ours.
    pub local_principal: &'a str,
    /// The request's host, if the configuration lets it name the service.
    pub host: &'a str,
    /// Route name.
    pub route: &'a str,
    /// Cluster name.
    pub cluster: &'a str,
    /// Cluster metadata.
    pub cluster_metadata: Option<&'a Metadata>,
}

/// Labels with their values, in order.
pub type Labels<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// The namespace within `…/ns/NAMESPACE/sa/…`.
fn namespace_of(principal: &str) -> Option<&str> {
    let rest = principal.split_once("/ns/")?.1;
    Some(rest.split('/').next().unwrap_or(rest))
}

/// (host, name, namespace) of the destination service.
fn service<'a>(said: &Said<'a>) -> (&'a str, &'a str, &'a str) {
    let (mut host, mut name, mut namespace) = (said.host, said.host, "");
    match said.route {
        "block_all" => name = "BlackHoleCluster",
        "allow_any" => name = "PassthroughCluster",
        _ => match said.cluster {
            "BlackHoleCluster"
            | "PassthroughCluster"
            | "InboundPassthroughCluster"
            | "InboundPassthroughClusterIpv4"
            | "InboundPassthroughClusterIpv6" => name = said.cluster,
            _ => {
                let services = said.cluster_metadata.and_then(|m| m.get("istio", &["services"]));
                if let Some(Value::List(list)) = services
                    && let Some(first) = list.first()
                {
                    let text = |key: &str| first.get(key).and_then(Value::as_str);
                    host = text("host").unwrap_or(host);
                    namespace = text("namespace").unwrap_or_default();
                    name = text("name").unwrap_or_else(|| host.split('.').next().unwrap_or(host));
                }
            }
        },
    }
    (host, name, namespace)
}

/// The labels that tell who talks to whom.
pub fn labels<'a>(local: &'a Local, said: &Said<'a>) -> Labels<'a> {
    let (host, name, service_namespace) = service(said);
    let or = |value: &'a str, other: &'a str| -> &'a str { if value.is_empty() { other } else { value } };
    let of = |peer: Option<&'a Peer>, field: fn(&Peer) -> &str, other: &'a str| -> &'a str {
        or(peer.map(field).unwrap_or_default(), other)
    };
    let peer_principal = match said.reporter {
        Reporter::Client => or(said.peer_principal, said.peer.map_or("", |p| &p.identity)),
        _ => said.peer_principal,
    };
    let peer_namespace = or(namespace_of(peer_principal).unwrap_or_default(), said.peer.map_or("", |p| &p.namespace));
    const UNKNOWN: &str = "unknown";
    let mut out: Labels<'a> = Vec::with_capacity(26);
    let mut add = |key: &'static str, value: &'a str| out.push((Cow::Borrowed(key), Cow::Borrowed(value)));
    add(
        "reporter",
        match said.reporter {
            Reporter::Client => "source",
            Reporter::Server => "destination",
            Reporter::Gateway => "waypoint",
        },
    );
    let peer = said.peer;
    match said.reporter {
        Reporter::Server | Reporter::Gateway => {
            add("source_workload", of(peer, |p| &p.workload, UNKNOWN));
            add("source_canonical_service", of(peer, |p| &p.service, UNKNOWN));
            add("source_canonical_revision", of(peer, |p| &p.revision, "latest"));
            add("source_workload_namespace", or(peer_namespace, UNKNOWN));
            add("source_principal", or(peer_principal, UNKNOWN));
            add("source_app", of(peer, |p| &p.app, UNKNOWN));
            add("source_version", of(peer, |p| &p.version, UNKNOWN));
            add("source_cluster", of(peer, |p| &p.cluster, UNKNOWN));
        }
        Reporter::Client => {
            add("source_workload", &local.workload);
            add("source_canonical_service", &local.service);
            add("source_canonical_revision", &local.revision);
            add("source_workload_namespace", &local.namespace);
            add("source_principal", or(said.local_principal, UNKNOWN));
            add("source_app", &local.app);
            add("source_version", &local.version);
            add("source_cluster", &local.cluster);
        }
    }
    match said.reporter {
        Reporter::Gateway => {
            let end = said.endpoint;
            add("destination_workload", of(end, |p| &p.workload, UNKNOWN));
            add("destination_workload_namespace", of(end, |p| &p.namespace, UNKNOWN));
            add("destination_principal", of(end, |p| &p.identity, UNKNOWN));
            add("destination_app", of(end, |p| &p.app, UNKNOWN));
            add("destination_version", of(end, |p| &p.version, UNKNOWN));
            add("destination_service", or(host, UNKNOWN));
            add("destination_canonical_service", of(end, |p| &p.service, UNKNOWN));
            add("destination_canonical_revision", of(end, |p| &p.revision, UNKNOWN));
            add("destination_service_name", or(name, UNKNOWN));
            add("destination_service_namespace", or(service_namespace, UNKNOWN));
            add("destination_cluster", of(end, |p| &p.cluster, UNKNOWN));
        }
        Reporter::Server => {
            add("destination_workload", &local.workload);
            add("destination_workload_namespace", &local.namespace);
            add("destination_principal", or(said.local_principal, UNKNOWN));
            add("destination_app", &local.app);
            add("destination_version", &local.version);
            add("destination_service", or(host, &local.service));
            add("destination_canonical_service", &local.service);
            add("destination_canonical_revision", &local.revision);
            add("destination_service_name", or(name, &local.service));
            add("destination_service_namespace", &local.namespace);
            add("destination_cluster", &local.cluster);
        }
        Reporter::Client => {
            add("destination_workload", of(peer, |p| &p.workload, UNKNOWN));
            add("destination_workload_namespace", or(peer_namespace, UNKNOWN));
            add("destination_principal", or(peer_principal, UNKNOWN));
            add("destination_app", of(peer, |p| &p.app, UNKNOWN));
            add("destination_version", of(peer, |p| &p.version, UNKNOWN));
            add("destination_service", or(host, UNKNOWN));
            add("destination_canonical_service", of(peer, |p| &p.service, UNKNOWN));
            add("destination_canonical_revision", of(peer, |p| &p.revision, "latest"));
            add("destination_service_name", or(name, UNKNOWN));
            add("destination_service_namespace", or(or(service_namespace, peer_namespace), UNKNOWN));
            add("destination_cluster", of(peer, |p| &p.cluster, UNKNOWN));
        }
    }
    out
}

/// Adds what the end of a request or connection tells.
pub fn add_end<'a>(out: &mut Labels<'a>, flags: String, security: Security) {
    out.push(("response_flags".into(), flags.into()));
    let word = match security {
        Security::Unknown => "unknown",
        Security::None => "none",
        Security::MutualTls => "mutual_tls",
    };
    out.push(("connection_security_policy".into(), word.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(labels: &Labels<'_>, key: &str) -> String {
        labels.iter().find(|l| l.0 == key).map_or("-".into(), |l| l.1.to_string())
    }

    #[test]
    fn client_and_server_views() {
        let local = Local { workload: "client".into(), namespace: "a".into(), ..Local::default() };
        let peer = Peer { workload: "server".into(), namespace: "meta".into(), ..Peer::default() };
        let said = Said {
            reporter: Reporter::Client,
            peer: Some(&peer),
            endpoint: None,
            peer_principal: "spiffe://cluster.local/ns/b/sa/s",
            local_principal: "",
            host: "svc.b:8000",
            route: "",
            cluster: "outbound|8000||svc.b.svc.cluster.local",
            cluster_metadata: None,
        };
        let l = labels(&local, &said);
        assert_eq!(l.len(), 20);
        assert_eq!(text(&l, "destination_workload_namespace"), "b");
        assert_eq!(text(&l, "destination_service"), "svc.b:8000");
        assert_eq!(text(&l, "source_principal"), "unknown");
        assert_eq!(text(&l, "destination_canonical_revision"), "latest");
        let server = labels(&local, &Said { reporter: Reporter::Server, host: "", ..said });
        assert_eq!(text(&server, "source_workload"), "server");
        assert_eq!(text(&server, "destination_service"), "");
        let black = labels(&local, &Said { route: "block_all", ..said });
        assert_eq!(text(&black, "destination_service_name"), "BlackHoleCluster");
    }
}
