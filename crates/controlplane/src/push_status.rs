//! What of the configuration could proxies not have, counted as Istio counts it? For `/metrics` and
//! `/debug/push_status`: made when somebody asks, and again only after the mesh or the set of proxies changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use model::{Health, Proxy, ProxyView, Resolution, ScopeCache, Snapshot};
use names::{ClusterName, NodeType};
use protos::envoy::config::core::v3::Node;
use serde_json::{Map, Value, json};
use translate::{Inputs, conflicts};

use crate::run::Shared;

/// Proxies that are looked at; what they all lack shows with the first.
const PROXIES_MAX: usize = 1024;

const NO_INSTANCES: &str = "pilot_eds_no_instances";
const DNS_NO_ENDPOINTS: &str = "pilot_dns_cluster_without_endpoints";
const NOT_READY: &str = "pilot_endpoint_not_ready";
const NO_SERVICE: &str = "pilot_no_ip";
const SUBSETS: &str = "pilot_destrule_subsets";
/// Not a gauge of Istio's: its log has it.
const GATEWAY_SERVER: &str = "pilot_conflict_gateway_server";

/// Istio's gauges, which are there also when nothing is wrong, and their help.
pub const GAUGES: [(&str, &str); 9] = [
    (conflicts::INBOUND_LISTENER, "Number of conflicting inbound listeners."),
    (conflicts::OUTBOUND_TCP, "Number of conflicting tcp listeners with current tcp listener."),
    (conflicts::CLUSTERS, "Duplicate envoy clusters caused by service entries with same hostname"),
    (conflicts::DOMAINS, "Virtual services with dup domains."),
    (SUBSETS, "Duplicate subsets across destination rules for same host"),
    (NO_INSTANCES, "Number of clusters without instances."),
    (DNS_NO_ENDPOINTS, "DNS clusters without endpoints."),
    (NOT_READY, "Endpoint found in unready state."),
    (NO_SERVICE, "Pods not found in the endpoint table, possibly invalid."),
];

/// Istio's `ProxyPushStatus`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// A proxy that lacks it; empty when no proxy has a part in it.
    proxy: String,
    message: String,
}

/// What is wrong, by gauge and by what it is about.
#[derive(Debug, Default)]
pub struct PushStatus(BTreeMap<&'static str, BTreeMap<String, Entry>>);

/// The last one made, with the version of the mesh and the membership it is of.
pub type Kept = Mutex<Option<((u64, (u64, usize)), Arc<PushStatus>)>>;

/// The status now.
pub fn of(shared: &Shared) -> Arc<PushStatus> {
    let snapshot = shared.world.snapshot();
    let at = (snapshot.version, shared.hub.membership());
    let mut kept = shared.push_status.lock().unwrap_or_else(|e| e.into_inner());
    if let Some((_, known)) = kept.as_ref().filter(|(of, _)| *of == at) {
        return Arc::clone(known);
    }
    let made = Arc::new(PushStatus::new(&snapshot, &shared.hub.nodes(), &shared.world.scopes));
    *kept = Some((at, Arc::clone(&made)));
    made
}

impl PushStatus {
    fn new(snapshot: &Arc<Snapshot>, nodes: &[Node], scopes: &Mutex<ScopeCache>) -> Self {
        let mut out = PushStatus::default();
        out.of_snapshot(snapshot);
        let mut seen = BTreeSet::new();
        for node in nodes.iter().take(PROXIES_MAX) {
            let metadata = node.metadata.clone().unwrap_or_default();
            if let Ok(proxy) = Proxy::from_node(&node.id, &metadata, "") {
                let id = node.id.split('~').nth(2).unwrap_or(&node.id);
                // Pushes want the scopes too: they are held for one view at a time.
                let mut scopes = scopes.lock().unwrap_or_else(|e| e.into_inner());
                let view = ProxyView::with_cache(snapshot, &Arc::new(proxy), &mut scopes);
                drop(scopes);
                // By address: what the cache lets go of meanwhile is at worst looked at twice.
                let first = seen.insert(Arc::as_ptr(&view.scope) as usize);
                out.of_proxy(id, view, first);
            }
        }
        out
    }

    fn add(&mut self, gauge: &'static str, key: String, proxy: &str, message: &str) {
        let entry = Entry { proxy: proxy.to_owned(), message: message.to_owned() };
        self.0.entry(gauge).or_default().insert(key, entry);
    }

    fn of_snapshot(&mut self, snapshot: &Snapshot) {
        for s in snapshot.services.iter() {
            let by_name = matches!(s.resolution, Resolution::DnsLb | Resolution::DnsRoundRobin);
            if !by_name && s.resolution != Resolution::ClientSideLb {
                continue;
            }
            let endpoints = snapshot.endpoints_of(s);
            for port in s.ports.iter().filter(|p| !endpoints.iter().any(|e| e.service_port == p.name)) {
                let cluster = ClusterName::outbound(port.number, "", &s.hostname).to_string();
                if by_name {
                    let message = format!("STRICT_DNS cluster without endpoints {cluster} found while pushing CDS");
                    self.add(DNS_NO_ENDPOINTS, cluster, "", &message);
                } else {
                    self.add(NO_INSTANCES, cluster, "", "");
                }
            }
        }
        for rule in snapshot.destination_rules.iter() {
            let host = &rule.config.spec.host;
            for (subset, _) in &rule.duplicates {
                let message = format!("Duplicate subset {subset} found while merging destination rules for {host}");
                self.add(SUBSETS, host.clone(), "", &message);
            }
        }
    }

    /// `first`: no proxy of the same scope was looked at before.
    fn of_proxy(&mut self, id: &str, view: ProxyView, first: bool) {
        if view.proxy.node_type == NodeType::Sidecar && view.targets.is_empty() {
            self.add(NO_SERVICE, id.to_owned(), id, "");
        }
        let ready = |ip: &String| {
            let keys = view.snapshot.by_address.get(ip.as_str()).into_iter().flatten();
            let mut endpoints = keys.filter_map(|k| view.snapshot.endpoints.get(k)).flat_map(|list| list.iter());
            !endpoints.any(|e| *e.address == **ip && e.health == Health::Unhealthy)
        };
        if !view.proxy.ips.iter().all(ready) {
            self.add(NOT_READY, id.to_owned(), id, "");
        }
        for (what, reason) in view.gateway.iter().flat_map(|g| &g.rejected) {
            self.add(GATEWAY_SERVER, what.clone(), id, reason);
        }
        let inputs = Inputs::new(Arc::new(view));
        let shared = if first { conflicts::of_scope(&inputs) } else { Vec::new() };
        for c in conflicts::of_workload(&inputs).into_iter().chain(shared) {
            let key = if c.key.is_empty() { id.to_owned() } else { c.key };
            self.add(c.metric, key, id, &c.message);
        }
    }

    /// How many things a gauge counts.
    pub fn count(&self, gauge: &str) -> usize {
        self.0.get(gauge).map_or(0, BTreeMap::len)
    }

    /// Istio's `ProxyStatus`; fields that say nothing are left out.
    pub fn to_json(&self) -> Value {
        let entry = |e: &Entry| {
            let fields = [("proxy", &e.proxy), ("message", &e.message)].into_iter().filter(|(_, v)| !v.is_empty());
            Value::Object(fields.map(|(k, v)| (k.to_owned(), v.as_str().into())).collect())
        };
        let of = |list: &BTreeMap<String, Entry>| list.iter().map(|(k, e)| (k.clone(), entry(e))).collect();
        let all = self.0.iter().map(|(gauge, list)| ((*gauge).to_owned(), Value::Object(of(list))));
        json!(all.collect::<Map<_, _>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Change, MeshConfig, Store};

    fn node(ip: &str, app: &str) -> Node {
        let text = |t: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(t.to_owned())) };
        let labels = prost_types::Struct { fields: [("app".to_owned(), text(app))].into() };
        let labels = prost_types::Value { kind: Some(prost_types::value::Kind::StructValue(labels)) };
        let fields = [("LABELS".to_owned(), labels), ("INSTANCE_IPS".to_owned(), text(ip))];
        Node {
            id: format!("sidecar~{ip}~{app}.a~a.svc.cluster.local"),
            metadata: Some(prost_types::Struct { fields: fields.into() }),
            ..Default::default()
        }
    }

    fn status(resources: Vec<Value>, nodes: &[Node]) -> Value {
        let mut store = Store::new(MeshConfig::default());
        let apply = |v| Change::Apply(api::Resource::from_value(v, None, "a").expect("a resource"));
        store.apply(resources.into_iter().map(apply));
        PushStatus::new(&store.snapshot(), nodes, &Mutex::default()).to_json()
    }

    fn service(name: &str, second: u32, port: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "a",
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"clusterIP": format!("10.0.0.{second}"), "selector": {"app": "web"},
                "ports": [{"name": port, "port": 80, "targetPort": 8080}]}})
    }

    fn slice(service: &str, port: &str, ready: bool) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": service, "namespace": "a", "labels": {"kubernetes.io/service-name": service}},
            "endpoints": [{"addresses": ["10.1.0.1"], "conditions": {"ready": ready}}],
            "ports": [{"name": port, "port": 8080}]})
    }

    fn rule(name: &str, second: u32) -> Value {
        json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": name,
            "namespace": "a", "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"host": "web", "subsets": [{"name": "v1", "labels": {"version": name}}]}})
    }

    #[test]
    fn a_mesh_without_faults_has_none() {
        let resources = vec![service("web", 1, "http"), slice("web", "http", true)];
        assert_eq!(status(resources, &[node("10.1.0.1", "web")]), json!({}));
    }

    #[test]
    fn proxies_tell_what_they_lack() {
        let resources = vec![
            service("web", 1, "http"),
            service("raw", 2, "tcp"),
            slice("web", "http", false),
            slice("raw", "tcp", true),
        ];
        let nodes = [node("10.1.0.1", "web"), node("10.1.0.2", "job")];
        let message =
            "Conflicting inbound listener:8080. existing: web.a.svc.cluster.local, incoming: raw.a.svc.cluster.local";
        assert_eq!(
            status(resources, &nodes),
            json!({"pilot_conflict_inbound_listener": {"web.a": {"proxy": "web.a", "message": message}},
                "pilot_endpoint_not_ready": {"web.a": {"proxy": "web.a"}},
                "pilot_no_ip": {"job.a": {"proxy": "job.a"}}})
        );
    }

    #[test]
    fn clusters_and_subsets_are_told_without_proxies() {
        let out = status(vec![service("web", 1, "http"), rule("old", 1), rule("young", 2)], &[]);
        let message = "Duplicate subset v1 found while merging destination rules for web.a.svc.cluster.local";
        assert_eq!(
            out,
            json!({"pilot_eds_no_instances": {"outbound|80||web.a.svc.cluster.local": {}},
                "pilot_destrule_subsets": {"web.a.svc.cluster.local": {"message": message}}})
        );
    }
}
