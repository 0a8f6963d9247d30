//! What does the default template add? The rules, the proxy, its volumes, labels and annotations.

use serde_json::{Map, Value, json};

use super::{Context, intercepts};
use crate::{DEFAULT_USER, INIT, PROXY, VALIDATION};

/// The patch.
pub fn render(c: &Context<'_>) -> Value {
    let mut init = Vec::new();
    if intercepts(&c.interception_mode()) {
        init.push(rules(c));
    }
    let mut proxy = proxy(c);
    let mut containers = Vec::new();
    if c.native {
        proxy["restartPolicy"] = "Always".into();
        init.push(proxy);
    } else {
        containers.push(proxy);
    }
    let mut spec = json!({"initContainers": init, "containers": containers, "volumes": c.volumes(true)});
    let secrets = c.image_pull_secrets();
    if !secrets.is_empty() {
        spec["imagePullSecrets"] = secrets.into();
    }
    json!({"metadata": {"annotations": annotations(c), "labels": labels(c)}, "spec": spec})
}

fn labels(c: &Context<'_>) -> Map<String, Value> {
    let mut out = c.canonical_labels();
    let mode = c.labels.get("security.istio.io/tlsMode").map_or("istio", String::as_str);
    out.insert("security.istio.io/tlsMode".into(), mode.into());
    if c.metadata("ISTIO_META_ENABLE_HBONE") == "true" {
        let tunnel = c.labels.get("networking.istio.io/tunnel").filter(|t| !t.is_empty());
        out.insert("networking.istio.io/tunnel".into(), tunnel.map_or("http", String::as_str).into());
    }
    out
}

/// Revision and default container.
pub(super) fn common_annotations(c: &Context<'_>) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("istio.io/rev".into(), c.injector.revision.as_str().into());
    if let Some(first) = c.app_containers().next().and_then(|c| c["name"].as_str()) {
        for name in ["kubectl.kubernetes.io/default-logs-container", "kubectl.kubernetes.io/default-container"] {
            if !c.annotations.contains_key(name) {
                out.insert(name.into(), first.into());
            }
        }
    }
    out
}

fn annotations(c: &Context<'_>) -> Map<String, Value> {
    let mut out = common_annotations(c);
    let mut put = |name: &str, value: String| {
        out.insert(name.to_owned(), value.into());
    };
    if c.flag("/pilot/cni/enabled") {
        if c.text("/pilot/cni/provider") == "multus" {
            let own = c.annotations.get("k8s.v1.cni.cncf.io/networks").map_or("", String::as_str);
            put("k8s.v1.cni.cncf.io/networks", append_multus_network(own, "default/istio-cni"));
        }
        put("sidecar.istio.io/interceptionMode", c.interception_mode());
        for (name, pointer) in [
            ("includeOutboundIPRanges", "/global/proxy/includeIPRanges"),
            ("excludeOutboundIPRanges", "/global/proxy/excludeIPRanges"),
            ("includeOutboundPorts", "/global/proxy/includeOutboundPorts"),
            ("excludeOutboundPorts", "/global/proxy/excludeOutboundPorts"),
        ] {
            let name = format!("traffic.sidecar.istio.io/{name}");
            let value = c.annotation(&name, pointer);
            if !value.is_empty() {
                put(&name, value);
            }
        }
        let included = "traffic.sidecar.istio.io/includeInboundPorts";
        put(included, c.annotation(included, "/global/proxy/includeInboundPorts"));
        put("traffic.sidecar.istio.io/excludeInboundPorts", excluded_inbound(c));
    }
    out
}

/// Adds a network to Multus's annotation, in either of its forms: a list of names, or a JSON list of objects.
/// JSON that cannot be read stays as it is.
pub fn append_multus_network(existing: &str, network: &str) -> String {
    if existing.is_empty() {
        return network.to_owned();
    }
    if let Some(end) = existing.rfind(']') {
        return match serde_json::from_str::<Vec<Map<String, Value>>>(existing) {
            Ok(list) if list.iter().all(|n| n.get("name").is_none_or(|n| n != network)) => {
                let entry = json!({ "name": network }).to_string().replace("\":\"", "\": \"");
                format!("{}, {entry}{}", &existing[..end], &existing[end..])
            }
            _ => existing.to_owned(),
        };
    }
    if existing.split(',').any(|n| n.trim() == network) {
        return existing.to_owned();
    }
    format!("{existing}, {network}")
}

/// Ports never captured: the user's and the status port.
fn excluded_inbound(c: &Context<'_>) -> String {
    let own = c.annotation("traffic.sidecar.istio.io/excludeInboundPorts", "/global/proxy/excludeInboundPorts");
    exclude_port(&c.status_port(), &own)
}

/// A list of ports with one more, unless that is none (empty, 0) or there already.
pub fn exclude_port(port: &str, listed: &str) -> String {
    let port = port.trim();
    let ports: Vec<&str> = listed.split(',').map(str::trim).filter(|p| !p.is_empty()).collect();
    if port.is_empty() || port == "0" || ports.contains(&port) {
        return listed.to_owned();
    }
    [ports, vec![port]].concat().join(",")
}

/// The container that sets (or, with CNI, checks) the interception rules.
fn rules(c: &Context<'_>) -> Value {
    let cni = c.flag("/pilot/cni/enabled");
    let mut args: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
    args_head(&mut flag, c);
    for (name, annotation, pointer) in [
        ("-q", "traffic.sidecar.istio.io/includeOutboundPorts", "/global/proxy/includeOutboundPorts"),
        ("-o", "traffic.sidecar.istio.io/excludeOutboundPorts", "/global/proxy/excludeOutboundPorts"),
    ] {
        let value = c.annotation(annotation, pointer);
        if c.annotations.contains_key(annotation) || !value.is_empty() {
            flag(name, value);
        }
    }
    let reroute = ["istio.io/reroute-virtual-interfaces", "traffic.sidecar.istio.io/kubevirtInterfaces"];
    if let Some(value) = reroute.iter().find_map(|n| c.annotations.get(*n)) {
        flag("-k", value.clone());
    }
    if let Some(value) = c.annotations.get("traffic.sidecar.istio.io/excludeInterfaces") {
        flag("-c", value.clone());
    }
    args.insert(0, "istio-iptables".into());
    args.push(format!(
        "--log_output_level={}",
        c.annotation("sidecar.istio.io/agentLogLevel", "/global/logging/level")
    ));
    if c.flag("/global/logAsJson") {
        args.push("--log_as_json".into());
    }
    if cni {
        args.extend(["--run-validation".to_owned(), "--skip-rule-apply".to_owned()]);
    } else if c.flag("/global/proxy_init/forceApplyIptables") {
        args.push("--force-apply".into());
    }
    if c.flag("/global/nativeNftables") {
        args.push("--native-nftables".into());
    }
    let mut out = json!({
        "name": if cni { VALIDATION } else { INIT },
        "image": c.init_image(),
        "args": args,
        "resources": c.resources(),
        "securityContext": rules_security(c, cni),
    });
    c.pull_policy(&mut out);
    let env: Vec<Value> = c.proxy_config.proxy_metadata.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
    if !env.is_empty() {
        out["env"] = env.into();
    }
    out
}

fn args_head(flag: &mut impl FnMut(&str, String), c: &Context<'_>) {
    let or = |port: i32, default: i32| if port == 0 { default } else { port }.to_string();
    flag("-p", or(c.injector.mesh.proxy_listen_port, 15001));
    flag("-z", or(c.injector.mesh.proxy_inbound_listen_port, 15006));
    flag("-u", rules_user(c).0.to_string());
    flag("-m", c.interception_mode());
    flag("-i", c.annotation("traffic.sidecar.istio.io/includeOutboundIPRanges", "/global/proxy/includeIPRanges"));
    flag("-x", c.annotation("traffic.sidecar.istio.io/excludeOutboundIPRanges", "/global/proxy/excludeIPRanges"));
    flag("-b", c.annotation("traffic.sidecar.istio.io/includeInboundPorts", "/global/proxy/includeInboundPorts"));
    let excluded = excluded_inbound(c);
    flag("-d", if excluded.is_empty() { "15090,15021".into() } else { format!("15090,15021,{excluded}") });
}

/// User and group whose traffic the rules let pass. A proxy that works transparently runs as root, and its own traffic is
/// told by the group, so that a platform's range of users does not matter.
fn rules_user(c: &Context<'_>) -> (i64, i64) {
    if c.interception_mode() == "TPROXY" { (DEFAULT_USER, DEFAULT_USER) } else { c.injector.proxy_user }
}

fn rules_security(c: &Context<'_>, cni: bool) -> Value {
    let (uid, gid) = rules_user(c);
    let privileged = c.flag("/global/proxy/privileged");
    let mut out = json!({
        "allowPrivilegeEscalation": privileged, "privileged": privileged,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": cni, "runAsNonRoot": cni,
        "runAsGroup": if cni { gid } else { 0 }, "runAsUser": if cni { uid } else { 0 },
    });
    if !cni {
        out["capabilities"]["add"] = json!(["NET_ADMIN", "NET_RAW"]);
    }
    c.seccomp_profile(&mut out);
    out
}

fn proxy(c: &Context<'_>) -> Value {
    let mut out = json!({
        "name": PROXY,
        "image": c.proxy_image(),
        "ports": [{"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"}],
        "args": c.agent_args("sidecar"),
        "env": c.environment(true),
        "securityContext": proxy_security(c),
        "resources": c.resources(),
        "volumeMounts": c.volume_mounts(true),
    });
    c.pull_policy(&mut out);
    if let Some(lifecycle) = lifecycle(c) {
        out["lifecycle"] = lifecycle;
    }
    if let Some(probe) = c.readiness_probe() {
        out["readinessProbe"] = probe;
        if c.flag("/global/proxy/startupProbe/enabled") {
            out["startupProbe"] = json!({
                "httpGet": {"path": "/healthz/ready", "port": 15021}, "periodSeconds": 1, "timeoutSeconds": 3,
                "failureThreshold": c.value("/global/proxy/startupProbe/failureThreshold"),
            });
        }
    }
    out
}

fn lifecycle(c: &Context<'_>) -> Option<Value> {
    let own = c.value("/global/proxy/lifecycle");
    if own.is_object() {
        return Some(own.clone());
    }
    let exec = |command: &[String]| json!({"exec": {"command": command}});
    if c.native {
        let port = format!("--debug-port={}", c.status_port());
        let command = ["pilot-agent", "request", port.as_str(), "POST", "drain"].map(str::to_owned);
        return Some(json!({"preStop": exec(&command)}));
    }
    c.hold_application().then(|| json!({"postStart": exec(&["pilot-agent", "wait"].map(str::to_owned))}))
}

fn proxy_security(c: &Context<'_>) -> Value {
    if c.metadata("IPTABLES_TRACE_LOGGING") == "true" {
        let (_, gid) = c.injector.proxy_user;
        let mut out = json!({
            "allowPrivilegeEscalation": true, "privileged": true,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": true, "runAsGroup": gid, "runAsNonRoot": false, "runAsUser": 0,
        });
        c.seccomp_profile(&mut out);
        return out;
    }
    let (uid, gid) = c.injector.proxy_user;
    let privileged = c.flag("/global/proxy/privileged");
    let tproxy = c.interception_mode() == "TPROXY";
    let bind = c.annotation("sidecar.istio.io/capNetBindService", "/global/proxy/capNetBindService") == "true";
    let mut add = Vec::new();
    add.extend(tproxy.then_some("NET_ADMIN"));
    add.extend(bind.then_some("NET_BIND_SERVICE"));
    let root = tproxy || bind;
    let mut out = json!({
        "allowPrivilegeEscalation": privileged, "privileged": privileged,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": true,
        "runAsGroup": if root { DEFAULT_USER } else { gid }, "runAsNonRoot": !root, "runAsUser": if root { 0 } else { uid },
    });
    if !add.is_empty() {
        out["capabilities"]["add"] = json!(add);
    }
    c.seccomp_profile(&mut out);
    out
}
