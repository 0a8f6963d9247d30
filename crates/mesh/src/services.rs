//! Where does a service address lead? Cluster IPs, the endpoints behind them and the translation rules of the mesh's
//! own network namespace (what kube-proxy does), for those who do not go through a sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::Value;

use crate::egress::{HOST_ADDRESS, HOST_NAME};
use crate::netns::DNS_ADDRESS;
use crate::object::{Key, Object, selects};
use crate::store::Store;

/// Services get 10.96.x.y; the first 256 addresses are left to fixed ones (DNS).
const SERVICE_FIRST: u32 = u32::from_be_bytes([10, 96, 1, 0]);
const SERVICE_LAST: u32 = u32::from_be_bytes([10, 96, 255, 254]);

/// A ready pod as seen by services.
struct Endpoint {
    address: Ipv4Addr,
    pod: Object,
}

/// Gives every service that wants one a cluster IP.
pub(crate) fn assign_addresses(store: &Store) {
    let services = store.list("Service");
    let mut taken: BTreeSet<Ipv4Addr> =
        services.iter().filter_map(|service| service["spec"]["clusterIP"].as_str()?.parse().ok()).collect();
    taken.insert(DNS_ADDRESS);
    for service in services {
        let spec = &service["spec"];
        let external = spec["type"] == "ExternalName";
        if external || spec["clusterIP"].as_str().is_some_and(|address| !address.is_empty()) {
            continue;
        }
        let free = (SERVICE_FIRST..SERVICE_LAST).map(Ipv4Addr::from).find(|address| !taken.contains(address));
        let Some(address) = free else { return };
        taken.insert(address);
        store.update(&key_of(&service), |service| {
            service["spec"]["clusterIP"] = address.to_string().into();
            service["spec"]["clusterIPs"] = serde_json::json!([address.to_string()]);
        });
    }
}

fn key_of(object: &Object) -> Key {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Key {
        kind: text(&object["kind"]),
        namespace: text(&object["metadata"]["namespace"]),
        name: text(&object["metadata"]["name"]),
    }
}

/// Whether a pod's Ready condition is true and it is not on its way out.
pub(crate) fn is_ready(pod: &Object) -> bool {
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(ready))
}

/// Everything that names and addresses in the mesh lead to, computed from one state of the store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    /// Fully qualified names without the trailing dot.
    pub(crate) names: BTreeMap<String, Vec<Ipv4Addr>>,
    /// `ExternalName` services.
    pub(crate) aliases: BTreeMap<String, String>,
    /// Cluster IP and port to ready endpoints, per protocol.
    pub(crate) ports: BTreeMap<(&'static str, SocketAddrV4), Vec<SocketAddrV4>>,
}

impl Directory {
    /// Reads services and pods.
    pub(crate) fn read(store: &Store) -> Self {
        let mut directory = Self::default();
        directory.names.insert(HOST_NAME.to_owned(), vec![HOST_ADDRESS]);
        let mut pods: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for pod in store.list("Pod") {
            let Some(address) = pod["status"]["podIP"].as_str().and_then(|address| address.parse::<Ipv4Addr>().ok())
            else {
                continue;
            };
            let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            let dashed = address.to_string().replace('.', "-");
            directory.names.insert(format!("{dashed}.{namespace}.pod.cluster.local"), vec![address]);
            pods.entry(namespace).or_default().push(Endpoint { address, pod });
        }
        for service in store.list("Service") {
            let namespace = service["metadata"]["namespace"].as_str().unwrap_or_default();
            let none = Vec::new();
            directory.service(&service, namespace, pods.get(namespace).unwrap_or(&none));
        }
        directory
    }

    fn service(&mut self, service: &Object, namespace: &str, pods: &[Endpoint]) {
        let spec = &service["spec"];
        let name = service["metadata"]["name"].as_str().unwrap_or_default();
        let host = format!("{name}.{namespace}.svc.cluster.local");
        if let Some(external) = spec["externalName"].as_str() {
            self.aliases.insert(host, external.trim_end_matches('.').to_owned());
            return;
        }
        let early = spec["publishNotReadyAddresses"] == true;
        let members: Vec<&Endpoint> = pods
            .iter()
            .filter(|endpoint| selects(&spec["selector"], &endpoint.pod["metadata"]["labels"]))
            .filter(|endpoint| early || is_ready(&endpoint.pod))
            .collect();
        let Some(address) = spec["clusterIP"].as_str().and_then(|address| address.parse::<Ipv4Addr>().ok()) else {
            for member in &members {
                let pod = member.pod["spec"]["hostname"].as_str().or_else(|| member.pod["metadata"]["name"].as_str());
                self.names.insert(format!("{}.{host}", pod.unwrap_or_default()), vec![member.address]);
            }
            self.names.insert(host, members.iter().map(|member| member.address).collect());
            return;
        };
        self.names.insert(host, vec![address]);
        for port in spec["ports"].as_array().into_iter().flatten() {
            let Some(number) = port["port"].as_u64().and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            let protocol = if port["protocol"] == "UDP" { "udp" } else { "tcp" };
            let targets = members
                .iter()
                .filter_map(|member| Some(SocketAddrV4::new(member.address, target_port(port, number, &member.pod)?)));
            self.ports.insert((protocol, SocketAddrV4::new(address, number)), targets.collect());
        }
    }

    /// The nftables script that leads cluster IPs to endpoints, random pick, pods that call themselves included.
    pub(crate) fn rules(&self) -> String {
        const TABLE: &str = "proa-services";
        let mut script = format!("add table inet {TABLE}\nflush table inet {TABLE}\n");
        for (chain, priority) in [("prerouting", -100), ("output", -100), ("postrouting", 100)] {
            script.push_str(&format!(
                "add chain inet {TABLE} {chain} {{ type nat hook {chain} priority {priority} ; }}\n"
            ));
        }
        script.push_str(&format!("add chain inet {TABLE} services\n"));
        for chain in ["prerouting", "output"] {
            script.push_str(&format!("add rule inet {TABLE} {chain} jump services\n"));
        }
        let mut endpoints = BTreeSet::new();
        for ((protocol, service), targets) in &self.ports {
            let matches = format!("ip daddr {} {protocol} dport {}", service.ip(), service.port());
            for (at, target) in targets.iter().enumerate() {
                let left = targets.len() - at;
                let pick = if left > 1 { format!(" numgen random mod {left} == 0") } else { String::new() };
                script.push_str(&format!("add rule inet {TABLE} services {matches}{pick} dnat ip to {target}\n"));
                endpoints.insert(*target.ip());
            }
        }
        for address in endpoints {
            script.push_str(&format!(
                "add rule inet {TABLE} postrouting ip saddr {address} ip daddr {address} masquerade\n"
            ));
        }
        script
    }
}

fn target_port(port: &Value, number: u16, pod: &Object) -> Option<u16> {
    match &port["targetPort"] {
        Value::Null => Some(number),
        Value::String(name) => {
            let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
            let found = ports.find(|port| port["name"] == name.as_str());
            found.and_then(|port| port["containerPort"].as_u64()).and_then(|port| u16::try_from(port).ok())
        }
        other => other.as_u64().and_then(|port| u16::try_from(port).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Origin;
    use serde_json::json;

    #[test]
    fn directory_of_a_service_with_two_pods() {
        let folder = std::env::temp_dir();
        let store = Store::new(folder);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "x"},
            "spec": {"selector": {"app": "a"}, "ports": [{"port": 80, "targetPort": "http"}]}});
        store.apply(service, "x", Origin::Folder).expect("valid");
        for (number, ready) in [(1, "True"), (2, "True"), (3, "False")] {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("a-{number}"), "namespace": "x", "labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"podIP": format!("10.244.0.{number}"), "conditions": [{"type": "Ready", "status": ready}]}});
            store.apply(pod, "x", Origin::System).expect("valid");
        }
        assign_addresses(&store);
        let directory = Directory::read(&store);
        assert_eq!(directory.names["a.x.svc.cluster.local"], [Ipv4Addr::new(10, 96, 1, 0)]);
        let rules = directory.rules();
        assert!(
            rules.contains("ip daddr 10.96.1.0 tcp dport 80 numgen random mod 2 == 0 dnat ip to 10.244.0.1:8080\n"),
            "{rules}"
        );
        assert!(rules.contains("ip daddr 10.96.1.0 tcp dport 80 dnat ip to 10.244.0.2:8080\n"), "{rules}");
        assert!(!rules.contains("10.244.0.3"));
    }
}
