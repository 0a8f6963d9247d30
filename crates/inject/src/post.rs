//! What happens around the templates? Before: an earlier injection is taken out. After: the pod's own settings go back
//! on top, probes and metrics are pointed at the agent, the status is written, containers are put in order.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::annotations::{scrape_targets, truth};
use crate::templates::Context;
use crate::{AUTO_IMAGE, INIT, PROXY, VALIDATION, merge, string_map};

mod probes;

pub use probes::{dump as app_probers, point_at_agent, restore as restore_probes, tell_agent};

const STATUS: &str = "sidecar.istio.io/status";
const SCRAPE_ENV: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
const SCRAPE_TARGETS: &str = "prometheus.istio.io/scrape-targets";
const SECURE_MERGED_ENV: &str = "ENVOY_SECURE_MERGED_METRICS_PORT";
const SECURE_PORT: &str = "prometheus.istio.io/secure-port";
const OVERRIDES: &str = "proxy.istio.io/overrides";

fn list<'a>(pod: &'a Value, field: &str) -> &'a [Value] {
    pod["spec"][field].as_array().map_or(&[], Vec::as_slice)
}

/// The proxy's container, wherever it is: beside the application or, as a native sidecar, among the init containers.
pub fn proxy(pod: &Value) -> Option<&Value> {
    find(list(pod, "initContainers"), &PROXY.into()).or_else(|| find(list(pod, "containers"), &PROXY.into()))
}

/// What an earlier injection added, by name, as its status annotation says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Injected {
    /// Containers.
    pub containers: Vec<String>,
    /// Init containers.
    pub init_containers: Vec<String>,
    /// Volumes.
    pub volumes: Vec<String>,
}

impl Injected {
    /// Reads a `sidecar.istio.io/status`; `None`: not one.
    pub fn parse(status: &str) -> Option<Self> {
        let status: Value = serde_json::from_str(status).ok()?;
        let names = |field: &str| {
            let list = status[field].as_array().into_iter().flatten();
            list.filter_map(|name| Some(name.as_str()?.to_owned())).collect()
        };
        Some(Self {
            containers: names("containers"),
            init_containers: names("initContainers"),
            volumes: names("volumes"),
        })
    }
}

fn find<'a>(containers: &'a [Value], name: &Value) -> Option<&'a Value> {
    containers.iter().find(|c| c["name"] == *name)
}

/// The pod as its user wrote it: without containers, volumes and probes of an earlier injection, with the overrides
/// that injection remembered.
pub fn strip(pod: &Value) -> Value {
    let annotations = string_map(&pod["metadata"]["annotations"]);
    let Some(before) = annotations.get(STATUS).and_then(|status| Injected::parse(status)) else {
        return pod.clone();
    };
    let mut out = pod.clone();
    let overrides: Value = annotations.get(OVERRIDES).and_then(|s| serde_json::from_str(s).ok()).unwrap_or(Value::Null);
    probes::restore(&mut out);
    let fields =
        [("containers", &before.containers), ("initContainers", &before.init_containers), ("volumes", &before.volumes)];
    for (field, names) in fields {
        let injected = |item: &Value| names.iter().any(|name| item["name"] == name.as_str());
        let mut kept: Vec<Value> = list(&out, field).iter().filter(|i| !injected(i)).cloned().collect();
        let own = ["containers", "initContainers"].map(|f| (f, overrides[f].as_array()));
        for (from, own) in own.iter().filter_map(|(f, own)| Some((*f, own.as_ref()?))) {
            // A user writes the proxy's settings under `containers`, wherever the template puts the proxy.
            let home = |c: &Value| {
                if c["name"] == PROXY { "containers" } else { from }
            };
            kept.extend(own.iter().filter(|c| home(c) == field).cloned());
        }
        if !kept.is_empty() || out["spec"].get(field).is_some() {
            out["spec"][field] = kept.into();
        }
    }
    let scrape = scrape_configuration(pod);
    if let Some(own) = out["metadata"]["annotations"].as_object_mut() {
        for name in [STATUS, "prometheus.io/port", "prometheus.io/path", "prometheus.io/scrape"] {
            own.shift_remove(name);
        }
        own.extend(scrape);
    }
    out
}

/// The application's metrics annotations, as an earlier injection handed them to the agent.
fn scrape_configuration(pod: &Value) -> Map<String, Value> {
    let env = proxy(pod).and_then(|p| p["env"].as_array()?.iter().find(|e| e["name"] == SCRAPE_ENV));
    let said = env.and_then(|e| serde_json::from_str::<Value>(e["value"].as_str()?).ok()).unwrap_or(Value::Null);
    let mut out = Map::new();
    for name in ["scrape", "path", "port"] {
        if said[name].as_str().is_some_and(|v| !v.is_empty()) {
            out.insert(format!("prometheus.io/{name}"), said[name].clone());
        }
    }
    let targets = said["targets"].as_array().into_iter().flatten();
    let targets: Vec<String> =
        targets.filter_map(|t| Some(format!("{}:{}", t["port"].as_str()?, t["path"].as_str()?))).collect();
    if !targets.is_empty() {
        out.insert(SCRAPE_TARGETS.into(), targets.join(",").into());
    }
    out
}

/// Applies the pod's own containers of the template's names on top of the template's, and remembers them.
/// `tproxy`: the proxy works transparently.
pub fn reapply_overrides(mut merged: Value, user: &Value, template: &Value, original: &Value, tproxy: bool) -> Value {
    let mut remembered = Map::new();
    for field in ["containers", "initContainers"] {
        let mut overrides = Vec::new();
        for injected in list(template, field) {
            let name = &injected["name"];
            // A sidecar that became an init container may have its settings under `containers`.
            let own = find(list(user, field), name).or_else(|| {
                let other = if field == "containers" { "initContainers" } else { "containers" };
                let elsewhere = find(list(template, other), name).is_some();
                find(list(user, other), name).filter(|_| !elsewhere)
            });
            let Some(own) = own else { continue };
            let mut overlay = own.clone();
            if overlay["image"] == AUTO_IMAGE
                && let Some(map) = overlay.as_object_mut()
            {
                map.shift_remove("image");
            }
            if let Some(items) = merged["spec"][field].as_array_mut() {
                for item in items.iter_mut().filter(|i| i["name"] == *name) {
                    let template_first = merge::apply_container(item, &Value::Object(Map::new()));
                    *item = merge::apply_container(&template_first, &overlay);
                }
            }
            overrides.push(overlay);
        }
        if !overrides.is_empty() {
            remembered.insert(field.to_owned(), overrides.into());
        }
    }
    // The user's container of a name that the template made an init container has moved there.
    let moved: Vec<Value> = list(template, "initContainers")
        .iter()
        .map(|c| c["name"].clone())
        .filter(|name| find(list(template, "containers"), name).is_none())
        .collect();
    if let Some(containers) = merged["spec"]["containers"].as_array_mut() {
        containers.retain(|c| !moved.contains(&c["name"]));
    }
    adjust_user(&mut merged, user, tproxy);
    let injected_before = original["metadata"]["annotations"].get(STATUS).is_some();
    if !remembered.is_empty() && !injected_before {
        merged["metadata"]["annotations"][OVERRIDES] = Value::Object(remembered).to_string().into();
    }
    merged
}

/// Rules exempt the proxy by its user, so a user that the pod's own proxy container states must reach them. A transparent
/// proxy stays root. Follows: `adjustInitContainerUser`.
fn adjust_user(pod: &mut Value, user: &Value, tproxy: bool) {
    let Some(security) = proxy(user).map(|own| own["securityContext"].clone()) else { return };
    let (run_as, group) = (security["runAsUser"].as_i64(), security["runAsGroup"].as_i64());
    if run_as.is_none() && group.is_none() {
        return;
    }
    if tproxy
        && run_as.is_some()
        && let Some(proxy) = proxy_mut(pod)
    {
        proxy["securityContext"]["runAsUser"] = 0.into();
    }
    let rules = pod["spec"]["initContainers"].as_array_mut().into_iter().flatten();
    for container in rules.filter(|c| c["name"] == INIT || c["name"] == VALIDATION) {
        if container["name"] == VALIDATION && !tproxy {
            for (field, id) in [("runAsUser", run_as), ("runAsGroup", group)] {
                if let Some(id) = id {
                    container["securityContext"][field] = id.into();
                }
            }
        }
        // Rules cannot exempt root.
        if let (Some(id), Some(args)) = (run_as.filter(|id| *id != 0), container["args"].as_array_mut())
            && let Some(at) = args.iter().position(|a| a == "-u")
            && at + 1 < args.len()
        {
            args[at + 1] = id.to_string().into();
        }
    }
}

/// Cluster facts, metrics, probes, metadata, order.
pub fn finish(c: &Context<'_>, mut pod: Value, template: &Value) -> Value {
    network(c, &mut pod);
    prometheus_merge(c, &mut pod);
    secure_port(&mut pod);
    probes::rewrite(c, &mut pod);
    let injected: Vec<(&str, Value)> =
        c.injector.injected_annotations.iter().map(|(k, v)| (k.as_str(), v.as_str().into())).collect();
    for (name, value) in injected {
        pod["metadata"]["annotations"][name] = value;
    }
    pod["metadata"]["annotations"][STATUS] = status(c, template).into();
    reorder(c, &mut pod);
    pod
}

fn proxy_mut(pod: &mut Value) -> Option<&mut Value> {
    let field = ["initContainers", "containers"].into_iter().find(|f| find(list(pod, f), &PROXY.into()).is_some())?;
    pod["spec"][field].as_array_mut()?.iter_mut().find(|c| c["name"] == PROXY)
}

/// Appends a variable to the proxy, or changes it where it is.
fn set_env(pod: &mut Value, name: &str, value: &str) {
    if let Some(proxy) = proxy_mut(pod) {
        set_variable(proxy, name, value);
    }
}

/// Appends a variable to a container, or changes it where it is.
pub fn set_variable(container: &mut Value, name: &str, value: &str) {
    if !container["env"].is_array() {
        container["env"] = json!([]);
    }
    if let Some(env) = container["env"].as_array_mut() {
        match env.iter_mut().find(|e| e["name"] == name) {
            Some(entry) => entry["value"] = value.into(),
            None => env.push(json!({"name": name, "value": value})),
        }
    }
}

fn network(c: &Context<'_>, pod: &mut Value) {
    for (name, value) in &c.injector.proxy_env {
        set_env(pod, name, value);
    }
    let own = c.labels.get("topology.istio.io/network").cloned();
    let given = c.injector.proxy_env.get("ISTIO_META_NETWORK").cloned();
    let network = own.or(given).unwrap_or_else(|| c.text("/global/network"));
    if !network.is_empty() {
        set_env(pod, "ISTIO_META_NETWORK", &network);
        pod["metadata"]["labels"]["topology.istio.io/network"] = network.into();
    }
}

/// A name as Prometheus spells labels: whoever writes `prometheus.io/port`, `prometheus-io.port` or `prometheus_io_port`
/// means the same.
fn label_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Points Prometheus at the agent, which merges the application's metrics with the proxy's. Without a proxy in the pod only
/// the annotations are written.
fn prometheus_merge(c: &Context<'_>, pod: &mut Value) {
    // Templates may add annotations, so the merged pod is asked.
    let annotations = string_map(&pod["metadata"]["annotations"]);
    let enabled = annotations.get("prometheus.istio.io/merge-metrics").and_then(|word| truth(word));
    if !enabled.unwrap_or(c.injector.mesh.enable_prometheus_merge.unwrap_or(true)) {
        return;
    }
    let target = c.injector.mesh.proxy_config().status_port.to_string();
    let get = |name: &str| {
        let wanted = format!("prometheus_io_{name}");
        annotations.iter().find(|(k, _)| label_name(k) == wanted).map(|(_, v)| v.clone())
    };
    let (scrape, mut path, mut port) = (get("scrape"), get("path"), get("port"));
    if scrape.as_deref().and_then(truth) == Some(false) || port.as_deref() == Some(target.as_str()) {
        return;
    }
    let targets = annotations.get(SCRAPE_TARGETS).and_then(|t| scrape_targets(t).ok()).unwrap_or_default();
    if let Some((first_port, first_path)) = targets.first() {
        port = port.or_else(|| Some(first_port.clone()));
        path = path.or_else(|| Some(first_path.clone()));
    }
    let fields = [("scrape", scrape), ("path", path), ("port", port)];
    let said: Map<String, Value> = fields.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.into()))).collect();
    if !said.is_empty() {
        let text = |k: &str| said.get(k).cloned().unwrap_or_else(|| "".into());
        let mut all = Map::new();
        for k in ["scrape", "path", "port"] {
            all.insert(k.to_owned(), text(k));
        }
        if !targets.is_empty() {
            let list: Vec<Value> = targets.iter().map(|(port, path)| json!({"port": port, "path": path})).collect();
            all.insert("targets".into(), list.into());
        }
        set_env(pod, SCRAPE_ENV, &Value::Object(all).to_string());
    }
    if let Some(map) = pod["metadata"]["annotations"].as_object_mut() {
        let ours = ["prometheus_io_scrape", "prometheus_io_path", "prometheus_io_port"];
        map.retain(|name, _| name != SCRAPE_TARGETS && !ours.contains(&label_name(name).as_str()));
    }
    for (name, value) in [("port", target.as_str()), ("path", "/stats/prometheus"), ("scrape", "true")] {
        pod["metadata"]["annotations"][format!("prometheus.io/{name}")] = value.into();
    }
}

/// Says where Prometheus may scrape the merged metrics over mTLS, when the proxy has such a port and the pod says nothing.
fn secure_port(pod: &mut Value) {
    let env = proxy(pod).and_then(|p| p["env"].as_array()?.iter().find(|e| e["name"] == SECURE_MERGED_ENV));
    let port = env.and_then(|e| e["value"].as_str()).filter(|p| p.parse::<u16>().is_ok_and(|p| p != 0));
    if let Some(port) = port.map(str::to_owned)
        && pod["metadata"]["annotations"].get(SECURE_PORT).is_none()
    {
        pod["metadata"]["annotations"][SECURE_PORT] = port.into();
    }
}

/// What was injected, for the next injection and for people.
fn status(c: &Context<'_>, template: &Value) -> String {
    let names = |field: &str| -> Value {
        let names: Vec<Value> = list(template, field).iter().map(|i| i["name"].clone()).collect();
        if names.is_empty() { Value::Null } else { names.into() }
    };
    let mut out = Map::new();
    for field in ["initContainers", "containers", "volumes", "imagePullSecrets"] {
        out.insert(field.into(), names(field));
    }
    out.insert("revision".into(), c.injector.revision.as_str().into());
    Value::Object(out).to_string()
}

fn move_to(containers: &mut Vec<Value>, name: &str, first: bool) {
    if let Some(at) = containers.iter().position(|c| c["name"] == name) {
        let item = containers.remove(at);
        if first { containers.insert(0, item) } else { containers.push(item) }
    }
}

/// The proxy last (so that `exec` finds the application first) unless applications wait for it; rules and a native
/// sidecar before the application's init containers, rules of a plain sidecar after them.
fn reorder(c: &Context<'_>, pod: &mut Value) {
    if let Some(containers) = pod["spec"]["containers"].as_array_mut() {
        move_to(containers, PROXY, c.hold_application());
    }
    if let Some(init) = pod["spec"]["initContainers"].as_array_mut() {
        let native = init.iter().any(|c| c["name"] == PROXY);
        move_to(init, PROXY, true);
        move_to(init, INIT, native);
        move_to(init, VALIDATION, true);
    }
}

/// Text annotations of a pod.
pub fn annotations(pod: &Value) -> BTreeMap<String, String> {
    string_map(&pod["metadata"]["annotations"])
}
