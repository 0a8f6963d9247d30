//! Random resources, sensible and broken, over few names, so that they meet: services and pods, rules that refer to them
//! or to nothing, selectors that select some, values out of range. What `api` refuses is left out, as at the door.

use names::ResourceKey;
use serde_json::{Value, json};

/// A seeded generator.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

const NAMESPACES: [&str; 4] = ["a", "b", "samples", "istio-system"];
const APPS: [&str; 4] = ["web", "client", "httpbin", "ingressgateway"];
const PROTOCOLS: [&str; 9] = ["HTTP", "HTTP2", "GRPC", "TCP", "TLS", "HTTPS", "MONGO", "UDP", "nonsense"];
const PORT_NAMES: [&str; 7] = ["http", "http-x", "tcp", "grpc", "tls", "", "plain"];

fn host(r: &mut Random) -> String {
    match r.below(8) {
        0 => r.one(&APPS).to_owned(),
        1 => format!("{}.{}", r.one(&APPS), r.one(&NAMESPACES)),
        2 => r.one(&["*.example.com", "*", "*.a.svc.cluster.local"]).to_owned(),
        3 => r.one(&["api.example.com", "www.example.com", "Upper.example.com"]).to_owned(),
        4 => r.one(&["nowhere.invalid", "", "bad host", "x..y"]).to_owned(),
        _ => format!("{}.{}.svc.cluster.local", r.one(&APPS), r.one(&NAMESPACES)),
    }
}

fn port(r: &mut Random) -> i64 {
    [80, 80, 443, 8080, 9000, 15001, 0, 70000, -1][r.below(9)]
}

fn good_port(r: &mut Random) -> i64 {
    [80, 443, 8080, 9000][r.below(4)]
}

fn ports(r: &mut Random, kind: &str) -> Value {
    let one = |r: &mut Random| {
        let number = if r.chance(90) { good_port(r) } else { port(r) };
        match kind {
            "Service" => {
                json!({"name": r.one(&PORT_NAMES), "port": number, "targetPort": if r.chance(70) { json!(good_port(r)) } else { json!("named") }})
            }
            _ => json!({"name": format!("p{number}"), "number": number, "protocol": r.one(&PROTOCOLS)}),
        }
    };
    let n = 1 + r.below(3);
    Value::Array((0..n).map(|_| one(r)).collect())
}

fn selector(r: &mut Random) -> Value {
    match r.below(5) {
        0 => json!({}),
        1 => json!({"istio": "ingressgateway"}),
        _ => json!({"app": r.one(&APPS)}),
    }
}

fn export(r: &mut Random) -> Value {
    match r.below(6) {
        0 => json!(["."]),
        1 => json!(["*"]),
        2 => json!(["~"]),
        3 => json!([r.one(&NAMESPACES)]),
        _ => json!([]),
    }
}

fn destination(r: &mut Random) -> Value {
    let mut out = json!({"host": host(r)});
    if r.chance(30) {
        out["subset"] = r.one(&["v1", "v2", "none"]).into();
    }
    if r.chance(40) {
        out["port"] = json!({"number": port(r)});
    }
    out
}

fn address(r: &mut Random) -> String {
    match r.below(8) {
        0 => "10.0.0.3".into(),
        1 => "10.0.0.2".into(),
        2 => "fd00::1".into(),
        3 => "not an address".into(),
        _ => format!("10.1.{}.{}", r.below(3), 1 + r.below(9)),
    }
}

fn traffic_policy(r: &mut Random) -> Value {
    let mut out = json!({});
    if r.chance(40) {
        out["tls"] = json!({"mode": r.one(&["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL", "WRONG"])});
    }
    if r.chance(30) {
        out["loadBalancer"] = match r.below(4) {
            0 => json!({"simple": r.one(&["RANDOM", "LEAST_REQUEST", "PASSTHROUGH"])}),
            1 => json!({"consistentHash": {"httpHeaderName": "x-user"}}),
            2 => json!({"localityLbSetting": {"failoverPriority": ["topology.kubernetes.io/region", "app"]}}),
            _ => json!({"simple": "ROUND_ROBIN", "localityLbSetting": {"enabled": true}}),
        };
    }
    if r.chance(30) {
        out["outlierDetection"] = json!({"consecutive5xxErrors": r.below(5)});
    }
    if r.chance(30) {
        out["connectionPool"] =
            json!({"tcp": {"maxConnections": r.below(100)}, "http": {"http1MaxPendingRequests": 1}});
    }
    if r.chance(20) {
        out["portLevelSettings"] = json!([{"port": {"number": good_port(r)}, "tls": {"mode": "DISABLE"}}]);
    }
    out
}

fn http(r: &mut Random) -> Value {
    let one = |r: &mut Random| {
        let mut out = match r.below(6) {
            0 => json!({"redirect": {"uri": "/x", "authority": "other"}}),
            1 => json!({"directResponse": {"status": 418}}),
            2 => json!({"route": []}),
            3 => {
                json!({"route": [{"destination": destination(r), "weight": 30}, {"destination": destination(r), "weight": 70}]})
            }
            _ => json!({"route": [{"destination": destination(r)}]}),
        };
        if r.chance(50) {
            let mut m = json!({"uri": match r.below(4) {
                0 => json!({"exact": "/exact"}),
                1 => json!({"regex": "/a.*"}),
                2 => json!({"regex": "("}),
                _ => json!({"prefix": "/"}),
            }});
            if r.chance(20) {
                m["sourceLabels"] = json!({"app": r.one(&APPS)});
            }
            if r.chance(20) {
                m["port"] = port(r).into();
            }
            if r.chance(10) {
                m["gateways"] = json!([gateway_name(r)]);
            }
            out["match"] = json!([m]);
        }
        if r.chance(20) {
            out["timeout"] = r.one(&["1s", "0s", "-3s", "soon"]).into();
        }
        if r.chance(20) {
            out["retries"] = json!({"attempts": r.below(4), "retryOn": "5xx"});
        }
        if r.chance(15) {
            out["mirror"] = destination(r);
        }
        if r.chance(10) {
            out["delegate"] = json!({"name": r.one(&["one", "two"]), "namespace": r.one(&NAMESPACES)});
        }
        out
    };
    let n = 1 + r.below(3);
    Value::Array((0..n).map(|_| one(r)).collect())
}

fn gateway_name(r: &mut Random) -> String {
    match r.below(4) {
        0 => "mesh".into(),
        1 => format!("istio-system/{}", r.one(&["one", "two"])),
        _ => r.one(&["one", "two"]).to_owned(),
    }
}

fn virtual_service(r: &mut Random) -> Value {
    let mut spec = json!({"hosts": [host(r)], "exportTo": export(r)});
    if r.chance(30) {
        spec["hosts"] = json!([host(r), host(r)]);
    }
    if r.chance(10) {
        spec["hosts"] = json!([]);
    }
    if r.chance(50) {
        spec["gateways"] = json!([gateway_name(r), gateway_name(r)]);
    }
    if r.chance(80) {
        spec["http"] = http(r);
    }
    if r.chance(20) {
        spec["tcp"] = json!([{"match": [{"port": good_port(r)}], "route": [{"destination": destination(r)}]}]);
    }
    if r.chance(20) {
        spec["tls"] = json!([{"match": [{"port": good_port(r), "sniHosts": [host(r)]}], "route": [{"destination": destination(r)}]}]);
    }
    spec
}

fn gateway(r: &mut Random) -> Value {
    let server = |r: &mut Random| {
        let number = if r.chance(90) { good_port(r) } else { port(r) };
        let mut out = json!({"hosts": [host(r)],
            "port": {"number": number, "name": format!("s{number}"), "protocol": r.one(&PROTOCOLS)}});
        if r.chance(50) {
            let mode = r.one(&["SIMPLE", "MUTUAL", "PASSTHROUGH", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL"]);
            out["tls"] = json!({"mode": mode, "credentialName": "cert", "httpsRedirect": r.chance(20)});
        }
        out
    };
    let n = 1 + r.below(3);
    json!({"selector": {"istio": "ingressgateway"}, "servers": (0..n).map(|_| server(r)).collect::<Vec<_>>()})
}

fn service(r: &mut Random) -> Value {
    let mut spec = json!({"ports": ports(r, "Service"), "selector": {"app": r.one(&APPS)}});
    match r.below(6) {
        0 => spec["clusterIP"] = "None".into(),
        1 => {
            spec["type"] = "ExternalName".into();
            spec["externalName"] = host(r).into();
        }
        2 => spec["clusterIP"] = "fd00::10".into(),
        _ => spec["clusterIP"] = format!("10.96.0.{}", 1 + r.below(9)).into(),
    }
    if r.chance(15) {
        spec["trafficDistribution"] = r.one(&["PreferClose", "PreferSameNode"]).into();
    }
    spec
}

fn service_entry(r: &mut Random) -> Value {
    let mut spec = json!({"hosts": [host(r)], "ports": ports(r, "ServiceEntry"), "exportTo": export(r),
        "resolution": r.one(&["NONE", "STATIC", "DNS", "DNS_ROUND_ROBIN", "DYNAMIC_DNS"]),
        "location": r.one(&["MESH_INTERNAL", "MESH_EXTERNAL"])});
    if r.chance(50) {
        spec["addresses"] = json!([r.one(&["240.1.0.1", "10.9.0.0/16", "fd01::5", "oops"])]);
    }
    if r.chance(50) {
        spec["endpoints"] = json!([{"address": address(r), "labels": {"app": r.one(&APPS)}, "weight": r.below(3)}]);
    } else if r.chance(50) {
        spec["workloadSelector"] = json!({"labels": {"app": r.one(&APPS)}});
    }
    spec
}

fn envoy_filter(r: &mut Random) -> Value {
    let (apply_to, value) = match r.below(4) {
        0 => ("CLUSTER", json!({"connect_timeout": "9s"})),
        1 => ("LISTENER", json!({"per_connection_buffer_limit_bytes": 99})),
        2 => ("VIRTUAL_HOST", json!({"include_attempt_count_in_response": true})),
        _ => ("ROUTE_CONFIGURATION", json!({"most_specific_header_mutations_wins": true})),
    };
    let context = r.one(&["ANY", "SIDECAR_OUTBOUND", "SIDECAR_INBOUND", "GATEWAY"]);
    json!({"configPatches": [{"applyTo": apply_to, "match": {"context": context},
        "patch": {"operation": r.one(&["MERGE", "MERGE", "REMOVE"]), "value": value}}]})
}

fn sidecar(r: &mut Random) -> Value {
    let hosts = json!([r.one(&["*/*", "./*", "a/*", "*/web.a.svc.cluster.local", "~a/*", "nonsense"])]);
    let mut spec = json!({"egress": [{"hosts": hosts}]});
    if r.chance(30) {
        spec["egress"] = json!([{"hosts": hosts, "port": {"number": good_port(r), "protocol": "HTTP", "name": "x"}}, {"hosts": ["*/*"]}]);
    }
    if r.chance(40) {
        spec["workloadSelector"] = json!({"labels": {"app": r.one(&APPS)}});
    }
    if r.chance(20) {
        spec["ingress"] = json!([{"port": {"number": 9080, "protocol": "HTTP", "name": "in"}, "defaultEndpoint": r.one(&["127.0.0.1:8080", "0.0.0.0:8080"])}]);
    }
    spec
}

fn authorization(r: &mut Random) -> Value {
    json!({"selector": {"matchLabels": selector(r)}, "action": r.one(&["ALLOW", "DENY", "AUDIT"]),
        "rules": [{"from": [{"source": {"namespaces": [r.one(&NAMESPACES)]}}], "to": [{"operation": {"ports": [good_port(r).to_string()], "paths": [r.one(&["/x", "/{*}", "*"])]}}]}]})
}

fn pod(r: &mut Random) -> (Value, Value) {
    let ip = address(r);
    let spec = json!({"nodeName": r.one(&["n1", "n2"]), "serviceAccountName": r.one(&["sa", "sb"]),
        "containers": [{"name": "app", "ports": [{"name": "named", "containerPort": 8080}]}]});
    let ready = if r.chance(80) { "True" } else { "False" };
    (
        spec,
        json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": ready}]}),
    )
}

/// A resource, or nothing when it was refused.
pub fn resource(r: &mut Random) -> Option<api::Resource> {
    let (version, kind) = match r.below(16) {
        0..3 => ("v1", "Service"),
        3..5 => ("v1", "Pod"),
        5..7 => ("networking.istio.io/v1", "ServiceEntry"),
        7 => ("networking.istio.io/v1", "WorkloadEntry"),
        8..10 => ("networking.istio.io/v1", "VirtualService"),
        10 => ("networking.istio.io/v1", "DestinationRule"),
        11 => ("networking.istio.io/v1", "Gateway"),
        12 => ("networking.istio.io/v1", r.one(&["Sidecar", "Sidecar", "EnvoyFilter"])),
        13 => ("security.istio.io/v1", "AuthorizationPolicy"),
        14 => ("security.istio.io/v1", "PeerAuthentication"),
        _ => ("telemetry.istio.io/v1", "Telemetry"),
    };
    let version = if kind == "EnvoyFilter" { "networking.istio.io/v1alpha3" } else { version };
    let name = match kind {
        "Service" | "Pod" => r.one(&APPS),
        _ => r.one(&["one", "two"]),
    };
    let mut labels = selector(r);
    if r.chance(30) {
        labels["security.istio.io/tlsMode"] = "istio".into();
    }
    let created = format!("2026-01-01T00:00:0{}Z", r.below(3));
    let meta = json!({"name": name, "namespace": r.one(&NAMESPACES), "labels": labels, "creationTimestamp": created});
    let mut out = json!({"apiVersion": version, "kind": kind, "metadata": meta});
    out["spec"] = match kind {
        "Service" => service(r),
        "Pod" => {
            let (spec, status) = pod(r);
            out["status"] = status;
            spec
        }
        "ServiceEntry" => service_entry(r),
        "WorkloadEntry" => json!({"address": address(r), "labels": {"app": r.one(&APPS)}, "serviceAccount": "sa"}),
        "VirtualService" => virtual_service(r),
        "DestinationRule" => json!({"host": host(r), "exportTo": export(r), "trafficPolicy": traffic_policy(r),
            "subsets": [{"name": "v1", "labels": {"app": r.one(&APPS)}, "trafficPolicy": traffic_policy(r)}]}),
        "Gateway" => gateway(r),
        "Sidecar" => sidecar(r),
        "EnvoyFilter" => envoy_filter(r),
        "AuthorizationPolicy" => authorization(r),
        "PeerAuthentication" => json!({"mtls": {"mode": r.one(&["STRICT", "PERMISSIVE", "DISABLE", "UNSET"])}}),
        _ => json!({"accessLogging": [{"providers": [{"name": "envoy"}], "disabled": r.chance(30)}]}),
    };
    // Now and then something is missing altogether.
    if r.chance(2) {
        out["spec"] = json!({});
    }
    api::Resource::from_value(out, None, "default").ok()
}

/// The resource with one part of it another, as people change things: its hosts, its place and its age stay.
pub fn variant(r: &mut Random, resource: &api::Resource) -> Option<api::Resource> {
    let mut out = (*resource.raw).clone();
    let (part, value) = match resource.key().kind.name() {
        "Service" => ("ports", ports(r, "Service")),
        "ServiceEntry" if r.chance(50) => ("endpoints", json!([{"address": address(r)}])),
        "ServiceEntry" => ("ports", ports(r, "ServiceEntry")),
        "VirtualService" => ("http", http(r)),
        "DestinationRule" => ("trafficPolicy", traffic_policy(r)),
        _ => return None,
    };
    out["spec"][part] = value;
    api::Resource::from_value(out, None, "default").ok()
}

/// The key of a resource.
pub fn key(resource: &api::Resource) -> ResourceKey {
    resource.meta.key.clone()
}
