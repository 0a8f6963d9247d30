//! How do probes pass the sidecar? The kubelet asks the agent, and the agent asks the application (mTLS would refuse
//! the kubelet). `ISTIO_KUBE_APP_PROBERS` tells the agent what each path stands for.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{list, proxy_mut, set_env};
use crate::PROXY;
use crate::annotations::truth;
use crate::templates::Context;

const ENV: &str = "ISTIO_KUBE_APP_PROBERS";
const PROBES: [(&str, &str); 3] =
    [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")];
const HOOKS: [(&str, &str); 2] = [("postStart", "poststartz"), ("preStop", "prestopz")];

/// Points HTTP, TCP and gRPC probes of applications at the agent, when asked for.
pub fn rewrite(c: &Context<'_>, pod: &mut Value) {
    let annotations = super::annotations(pod);
    let said = annotations.get("sidecar.istio.io/rewriteAppHTTPProbers").and_then(|word| truth(word));
    let wanted = said.unwrap_or_else(|| c.flag("/sidecarInjectorWebhook/rewriteAppHTTPProbe"));
    let port: u16 = c.status_port().parse().unwrap_or_default();
    if !wanted || port == 0 || proxy_mut(pod).is_none() {
        return;
    }
    tell_agent(pod, port);
    point_at_agent(pod, port);
}

/// Says in the proxy's environment what the agent has to ask.
pub fn tell_agent(pod: &mut Value, port: u16) {
    let probers = dump(pod, port);
    if !probers.is_empty() {
        let map: Map<String, Value> = probers.into_iter().collect();
        set_env(pod, ENV, &Value::Object(map).to_string());
    }
}

/// Lets the kubelet ask the agent on `port` instead of the application.
pub fn point_at_agent(pod: &mut Value, port: u16) {
    let captured = Captured::of(pod);
    for_each_probe(pod, |name, suffix, hook, ports, probe| {
        if prober(probe, ports, hook).is_some_and(|p| captured.has(&p)) {
            point(probe, &agent_path(name, suffix, hook), port);
        }
    });
}

fn previous(original: &Value) -> Option<BTreeMap<String, Value>> {
    let env = super::proxy(original)?["env"].as_array()?.iter().find(|e| e["name"] == ENV)?;
    serde_json::from_str(env["value"].as_str()?).ok()
}

fn agent_path(container: &str, suffix: &str, hook: bool) -> String {
    let kind = if hook { "app-lifecycle" } else { "app-health" };
    format!("/{kind}/{container}/{suffix}")
}

/// Undoes a rewrite, as far as the agent's environment says what was there.
pub fn restore(pod: &mut Value) {
    let Some(before) = previous(pod) else { return };
    for_each_probe(pod, |_, _, _, _, probe| {
        let path = probe["httpGet"]["path"].as_str().unwrap_or_default().to_owned();
        if let (Some(map), Some(Value::Object(old))) = (probe.as_object_mut(), before.get(&path)) {
            map.shift_remove("httpGet");
            for (k, v) in old {
                map.insert(k.clone(), v.clone());
            }
        }
    });
}

/// What the agent has to ask, by path.
pub fn dump(pod: &Value, status_port: u16) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    let captured = Captured::of(pod);
    let mut pod = pod.clone();
    for_each_probe(&mut pod, |name, suffix, hook, ports, probe| {
        let already = probe["httpGet"]["port"] == status_port;
        if let Some(prober) = prober(probe, ports, hook).filter(|p| !already && captured.has(p)) {
            out.insert(agent_path(name, suffix, hook), prober);
        }
    });
    out
}

/// Calls `f(container, path suffix, is a lifecycle hook, named ports, probe)` for each probe of an application.
fn for_each_probe(pod: &mut Value, mut f: impl FnMut(&str, &str, bool, &BTreeMap<String, Value>, &mut Value)) {
    let ports: BTreeMap<String, Value> = list(pod, "containers")
        .iter()
        .chain(list(pod, "initContainers"))
        .flat_map(|c| c["ports"].as_array().into_iter().flatten())
        .filter_map(|p| Some((p["name"].as_str()?.to_owned(), p["containerPort"].clone())))
        .collect();
    for field in ["containers", "initContainers"] {
        let containers = pod["spec"].get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            let sidecar = field == "initContainers" && container["restartPolicy"] != "Always";
            if name == PROXY || sidecar {
                continue;
            }
            // Names of ports are the container's own; the pod's others are only a fallback.
            let mut named = ports.clone();
            for p in container["ports"].as_array().into_iter().flatten() {
                if let Some(n) = p["name"].as_str() {
                    named.insert(n.to_owned(), p["containerPort"].clone());
                }
            }
            for (probe, suffix) in PROBES {
                if let Some(v) = container.get_mut(probe).filter(|v| v.is_object()) {
                    f(&name, suffix, false, &named, v);
                }
            }
            for (hook, suffix) in HOOKS {
                let found = container.get_mut("lifecycle").and_then(|l| l.get_mut(hook));
                if let Some(v) = found.filter(|v| v.is_object()) {
                    f(&name, suffix, true, &named, v);
                }
            }
        }
    }
}

/// Which inbound ports the rules capture, as the pod's annotations say: the kubelet reaches the others by itself.
struct Captured {
    /// `None`: all but the excluded ones.
    included: Option<Vec<u64>>,
    excluded: Vec<u64>,
}

impl Captured {
    fn of(pod: &Value) -> Self {
        let annotations = super::annotations(pod);
        let get = |name: &str| {
            let text = annotations.get(&format!("traffic.sidecar.istio.io/{name}"));
            text.map(|t| t.trim()).filter(|t| !t.is_empty())
        };
        let ports = |text: &str| text.split(',').filter_map(|p| p.trim().parse().ok()).collect::<Vec<u64>>();
        Captured {
            included: get("includeInboundPorts").filter(|t| *t != "*").map(ports),
            excluded: get("excludeInboundPorts").map(ports).unwrap_or_default(),
        }
    }

    fn has(&self, prober: &Value) -> bool {
        let kinds = ["httpGet", "tcpSocket", "grpc"];
        let Some(port) = kinds.iter().find_map(|kind| prober[kind]["port"].as_u64()) else { return true };
        match &self.included {
            // A list of ports stands for itself: what is excluded beside it is not asked.
            Some(included) if !included.is_empty() => included.contains(&port),
            _ => !self.excluded.contains(&port),
        }
    }
}

/// The part of a probe that the agent needs; `None` when the kubelet can go on by itself (exec) or a named port is
/// unknown.
fn prober(probe: &Value, ports: &BTreeMap<String, Value>, hook: bool) -> Option<Value> {
    let mut out = Map::new();
    for kind in ["httpGet", "tcpSocket", "grpc"] {
        if kind == "grpc" && hook {
            continue;
        }
        let Some(action) = probe.get(kind).filter(|a| a.is_object()) else {
            continue;
        };
        let mut action = action.clone();
        if let Some(name) = action["port"].as_str().map(str::to_owned) {
            action["port"] = match (name.parse::<u16>(), ports.get(&name)) {
                (Ok(number), _) => number.into(),
                (_, Some(number)) => number.clone(),
                _ => return None,
            };
        }
        if kind == "grpc" && action.get("service").is_none() {
            action["service"] = Value::Null;
        }
        out.insert(kind.into(), action);
    }
    if out.is_empty() {
        return None;
    }
    if let Some(timeout) = probe.get("timeoutSeconds").filter(|t| **t != json!(0)) {
        out.insert("timeoutSeconds".into(), timeout.clone());
    }
    Some(Value::Object(out))
}

fn point(probe: &mut Value, path: &str, port: u16) {
    let Some(map) = probe.as_object_mut() else {
        return;
    };
    let http = map.get("httpGet").filter(|h| h.is_object()).cloned();
    map.shift_remove("tcpSocket");
    map.shift_remove("grpc");
    let mut http = http.unwrap_or_else(|| json!({}));
    http["path"] = path.into();
    http["port"] = port.into();
    if http["scheme"] == "HTTPS" {
        http["scheme"] = "HTTP".into();
    }
    map.insert("httpGet".into(), http);
}
