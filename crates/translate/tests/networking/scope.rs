//! What proxies see: scopes, visibility, merged gateways and virtual services, policies by selection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::networking::HttpMatchRequest;
use model::{Change, Config, MeshConfig, Service, SidecarScope, Snapshot, Store, Visibility};
use names::{Hostname, Kind};
use serde_json::{Value, json};

use super::{Outcome, flag, made, number, service, word};
use crate::common::literal::{self, object, same, text, texts};

/// A snapshot that holds exactly these services.
pub fn with_services(base: &Snapshot, services: Vec<Service>) -> Snapshot {
    let mut snapshot = base.clone();
    let services: Vec<Arc<Service>> = services.into_iter().map(Arc::new).collect();
    let mut by_host: BTreeMap<Hostname, BTreeMap<Arc<str>, Arc<Service>>> = BTreeMap::new();
    for s in &services {
        by_host.entry(s.hostname.clone()).or_default().entry(s.namespace.clone()).or_insert_with(|| s.clone());
    }
    snapshot.services = Arc::new(services);
    snapshot.by_host = by_host.into_iter().collect();
    snapshot
}

/// References to elements of other lists, as far as the table itself holds them; ports by the variables that hold them
/// (`port7000[0]`, `port803x[:3]`), which are named after their numbers.
fn resolved(v: &Value, case: &Value) -> Option<Value> {
    let Some(expression) = v["$expr"].as_str() else {
        let mut out = v.clone();
        if let Some(ports) = out.get_mut("Ports") {
            *ports = match ports["$expr"].as_str() {
                Some(expression) => ports_of(expression, case)?.into(),
                None => {
                    let each = literal::elements(ports).into_iter().map(|p| match p["$expr"].as_str() {
                        Some(expression) => ports_of(expression, case),
                        None => Some(vec![p]),
                    });
                    each.collect::<Option<Vec<_>>>()?.concat().into()
                }
            };
        }
        return Some(out);
    };
    let index: usize = expression.split_once('[')?.1.trim_end_matches(']').parse().ok()?;
    resolved(case["services"].get(index)?, case)
}

fn ports_of(expression: &str, case: &Value) -> Option<Vec<Value>> {
    let (name, range) = expression.strip_prefix("port")?.split_once('[').unwrap_or((&expression[4..], ""));
    let range = range.trim_end_matches(']');
    let port = |n: u16| {
        let (name, number) = match name.strip_suffix('x') {
            Some(stem) => (format!("tcp-{n}"), format!("{stem}{n}")),
            None => (format!("p{name}"), name.to_owned()),
        };
        let number = number.parse::<u16>().ok()?;
        // As the row calls this port where it spells it out.
        Some(spelled_out(case, number).unwrap_or_else(|| json!({"Name": name, "Port": number, "Protocol": "TCP"})))
    };
    match range.split_once(':') {
        Some(("", end)) => (1..=end.parse().ok()?).map(port).collect(),
        Some(_) => None,
        None => Some(vec![port(range.parse::<u16>().ok()? + 1)?]),
    }
}

/// The first port of this number in a literal.
fn spelled_out(v: &Value, number: u16) -> Option<Value> {
    match v {
        Value::Object(o) if o.get("Port") == Some(&json!(number)) && o.contains_key("Name") => Some(v.clone()),
        Value::Object(o) => o.values().find_map(|v| spelled_out(v, number)),
        Value::Array(a) => a.iter().find_map(|v| spelled_out(v, number)),
        _ => None,
    }
}

fn sidecar_scope(v: &Value) -> Option<Result<(), String>> {
    const NAMESPACE: &str = "mynamespace";
    let list =
        |key: &str| -> Option<Vec<Value>> { v[key].as_array().into_iter().flatten().map(|s| resolved(s, v)).collect() };
    if !v["expectedDr"].is_null() || v["services"].get("$expr").is_some() {
        return None;
    }
    let (services, expected) = (list("services")?, list("expectedServices")?);
    Some((|| {
        let mut resources = Vec::new();
        for (n, s) in v["virtualServices"].as_array().into_iter().flatten().enumerate() {
            resources.push(literal::resource(s, "VirtualService", &format!("vs{n}"), NAMESPACE)?);
        }
        let mut store = Store::with_config_domain(MeshConfig::default(), "");
        store.apply(resources.into_iter().map(Change::Apply));
        let mut services: Vec<Service> = services.iter().map(service).collect();
        services.sort_by(|a, b| a.age_order(b));
        let snapshot = with_services(&store.snapshot(), services);
        let sidecar = if v["sidecarConfig"].is_null() {
            None
        } else {
            let spec = object(&v["sidecarConfig"]["Spec"])?;
            Some(Arc::new(Config {
                kind: Kind::Sidecar,
                name: "foo".into(),
                namespace: NAMESPACE.into(),
                labels: Default::default(),
                annotations: Default::default(),
                created_us: 0,
                spec,
            }))
        };
        let scope = SidecarScope::new(&snapshot, &NAMESPACE.into(), sidecar);
        let facts = |s: &Service| {
            let mut ports: Vec<(u16, String)> = s.ports.iter().map(|p| (p.number, p.name.to_string())).collect();
            ports.sort();
            (s.hostname.to_string(), s.namespace.to_string(), ports)
        };
        let got: BTreeSet<_> = scope.services.iter().map(|s| facts(s)).collect();
        let want: BTreeSet<_> = expected.iter().map(|s| facts(&service(s))).collect();
        same(got, want)
    })())
}

fn visible(v: &Value) -> Option<Result<(), String>> {
    if !literal::is_plain(&v["service"]) || v["service"].to_string().contains("\"$call\"") {
        // The sets of the original are made by a call over names.
        let exported = exported(&v["service"]["Attributes"]["ExportTo"])?;
        return Some(visibility(v, &exported));
    }
    Some(visibility(v, &texts(&v["service"]["Attributes"]["ExportTo"])))
}

fn exported(v: &Value) -> Option<Vec<String>> {
    let list = v["args"].as_array().or(v.as_array());
    list.into_iter().flatten().map(visibility_word).collect()
}

fn visibility_word(v: &Value) -> Option<String> {
    if let Some(r) = v["$ref"].as_str() {
        return match r.rsplit('.').next()? {
            "Public" => Some("*".to_owned()),
            "Private" => Some(".".to_owned()),
            "None" => Some("~".to_owned()),
            _ => None,
        };
    }
    match v["$call"].as_str() {
        Some("visibility.Instance") => v["args"][0].as_str().map(str::to_owned),
        _ => v.as_str().map(str::to_owned),
    }
}

fn visibility(v: &Value, exported: &[String]) -> Result<(), String> {
    let defaults = &v["pushContext"]["exportToDefaults"]["service"];
    let defaults = self::exported(defaults).unwrap_or_default();
    let namespace = word(&v["service"]["Attributes"]["Namespace"]);
    let got = Visibility::parse(exported, &defaults, namespace).allows("foo");
    same(got, flag(&v["expect"]))
}

fn aliases(v: &Value) -> Result<(), String> {
    let host = |name: &str| format!("{name}.default.svc.cluster.local");
    let mut resources = Vec::new();
    for s in v["input"].as_array().into_iter().flatten() {
        let external = word(&s["ExternalName"]);
        let spec = if external.is_empty() {
            json!({"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]})
        } else {
            json!({"type": "ExternalName", "externalName": host(external), "ports": [{"name": "http", "port": 80}]})
        };
        let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": s["Name"], "namespace": "default"}, "spec": spec});
        resources.push(api::Resource::from_value(value, None, "default").map_err(|e| e.to_string())?);
    }
    let mut store = Store::new(MeshConfig::default());
    store.apply(resources.into_iter().map(Change::Apply));
    let got: BTreeMap<String, Vec<String>> = store
        .snapshot()
        .services
        .iter()
        .map(|s| (s.name.to_string(), s.aliases.iter().map(ToString::to_string).collect()))
        .collect();
    let want: BTreeMap<String, Vec<String>> = v["output"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|s| (text(&s["Name"]), texts(&s["Aliases"]).iter().map(|a| host(a)).collect()))
        .collect();
    same(got, want)
}

fn matches(v: &Value) -> Result<Vec<HttpMatchRequest>, String> {
    v.as_array().into_iter().flatten().map(object).collect()
}

fn merged_matches(v: &Value) -> Result<(), String> {
    let got = model::virtual_service::merge_matches(&matches(&v["root"])?, &matches(&v["delegate"])?);
    same(got.unwrap_or_default(), matches(&v["expected"])?)
}

fn conflict(v: &Value) -> Result<(), String> {
    let (root, leaf): (HttpMatchRequest, HttpMatchRequest) = (object(&v["root"])?, object(&v["leaf"])?);
    same(model::virtual_service::conflicts(&root, &leaf), flag(&v["expected"]))
}

fn gateway_name(v: &Value) -> Result<(), String> {
    same(
        model::virtual_service::gateway_name(word(&v["gateway"]), word(&v["namespace"])).as_str(),
        word(&v["resolved"]),
    )
}

/// `makeConfig(name, namespace, host, portName, portProtocol, portNumber, gatewayLabel, bind, tlsMode, credentials, sa)`.
fn gateway(v: &Value, n: usize) -> Option<Result<api::Resource, String>> {
    if v["$call"] != "makeConfig" {
        return None;
    }
    let a = v["args"].as_array()?;
    let mode = match &a[8] {
        Value::String(s) => s.clone(),
        r => r["$ref"].as_str()?.rsplit('_').next()?.to_owned(),
    };
    let protocol = word(&a[4]).to_ascii_uppercase();
    let mut server = json!({"hosts": [a[2]], "bind": a[7],
        "port": {"name": a[3], "number": a[5], "protocol": protocol}});
    if protocol == "HTTPS" || protocol == "TLS" {
        server["tls"] = json!({"mode": mode, "credentialNames": a[9]});
    }
    let spec = json!({"selector": {"istio": a[6]}, "servers": [server]});
    Some(made("Gateway", &format!("{}-{n}", word(&a[0]).to_lowercase()), word(&a[1]), spec))
}

fn merged_gateways(v: &Value) -> Option<Result<(), String>> {
    let gateways: Vec<_> = v["gwConfig"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(n, g)| gateway(g, n))
        .collect::<Option<_>>()?;
    Some((|| {
        let mut store = Store::new(MeshConfig::default());
        let gateways: Vec<api::Resource> = gateways.into_iter().collect::<Result<_, _>>()?;
        // The table selects the gateways beforehand.
        let gateways = gateways.into_iter().map(|g| {
            let mut value = g.raw.as_ref().clone();
            value["spec"]["selector"] = json!({"istio": "ingressgateway"});
            let namespace = value["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
            crate::common::pruned(value, &namespace)
        });
        store.apply(gateways.collect::<Result<Vec<_>, _>>()?.into_iter().map(Change::Apply));
        let proxy = super::router("istio-system");
        let merged = model::gateway::merge(&store.snapshot().gateways, &proxy, &[]);
        same(merged.ports.len() as u64, v["mergedServersNum"].as_u64().unwrap_or(0))?;
        same(
            merged.by_route.len() as u64,
            v["serverNum"].as_u64().map_or(0, |_| v["serversForRouteNum"].as_object().map_or(0, |o| o.len() as u64)),
        )?;
        for (route, count) in v["serversForRouteNum"].as_object().into_iter().flatten() {
            let got = merged.by_route.get(route).map_or(0, Vec::len);
            if got as u64 != count.as_u64().unwrap_or(0) {
                return Err(format!("{route}: {got}, {count} wanted: {:?}", merged.by_route.keys()));
            }
        }
        Ok(())
    })())
}

fn outbound_policy(v: &Value) -> Option<Result<(), String>> {
    let mesh = match (v["meshConfig"]["$call"].as_str(), v["meshConfig"]["$ident"].as_str()) {
        (Some("mesh.DefaultMeshConfig"), _) => json!({}),
        (_, Some("meshConfigWithRegistryOnly")) => json!({"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}),
        _ => return None,
    };
    Some((|| {
        let mut store = Store::new(MeshConfig::from_json(&mesh));
        if !v["sidecar"].is_null() {
            store.apply([Change::Apply(literal::resource(&v["sidecar"], "Sidecar", "foo", "not-default")?)]);
        }
        let snapshot = store.snapshot();
        let sidecar =
            model::sidecar::select_sidecar(&snapshot.sidecars, "not-default", &Default::default(), "istio-system");
        let scope = SidecarScope::new(&snapshot, &"not-default".into(), sidecar);
        let want = model::OutboundMode::parse(word(&v["outboundTrafficPolicy"]["mode"]));
        same(scope.outbound_mode, want)
    })())
}

fn merged_services(v: &Value) -> Result<(), String> {
    let mut resources = Vec::new();
    for (n, s) in v["virtualServices"].as_array().into_iter().flatten().enumerate() {
        resources.push(literal::resource(s, "VirtualService", &format!("vs{n}"), "default")?);
    }
    let mesh = MeshConfig { default_virtual_service_export_to: texts(&v["defaultExportTo"]), ..MeshConfig::default() };
    let mut store = Store::new(mesh);
    store.apply(resources.into_iter().map(Change::Apply));
    let snapshot = store.snapshot();
    let got: BTreeMap<String, Vec<api::networking::HttpRoute>> =
        snapshot.virtual_services.iter().map(|s| (s.config.qualified(), s.config.spec.http.clone())).collect();
    let mut want = BTreeMap::new();
    for s in v["expectedVirtualServices"].as_array().into_iter().flatten() {
        let spec: api::networking::VirtualService = object(&s["Spec"])?;
        let meta = &s["Meta"];
        let mut http = spec.http;
        // Destinations are completed here as well.
        for d in http.iter_mut().flat_map(|h| &mut h.route).filter_map(|r| r.destination.as_mut()) {
            d.host = Hostname::resolve(&d.host, word(&meta["Namespace"]), "cluster.local").to_string();
        }
        want.insert(format!("{}/{}", word(&meta["Namespace"]), word(&meta["Name"])), http);
    }
    same(got, want)
}

fn route_name(v: &Value) -> Result<(), String> {
    let name = word(&v["args"]["name"]);
    let got = names::parse_gateway_route_name(name);
    let (port, port_name, gateway) = got.unwrap_or_default();
    same(
        (port, port_name.as_str(), gateway.as_str()),
        (number(&v["wantPortNumber"]), word(&v["wantPortName"]), word(&v["wantGateway"])),
    )
}

/// The services that an egress listener imports.
fn egress_services(v: &Value) -> Result<(), String> {
    let namespace = word(&v["namespace"]);
    let hosts: Vec<String> = v["listenerHosts"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(ns, _)| *ns != "$t")
        .flat_map(|(ns, hosts)| {
            let imported = texts(&hosts["allHosts"]).into_iter().map(move |h| format!("{ns}/{h}"));
            imported.chain(texts(&hosts["excludedHosts"]).into_iter().map(move |h| format!("~{ns}/{h}")))
        })
        .collect();
    let services: Vec<Service> = v["services"].as_array().into_iter().flatten().map(service).collect();
    let store = Store::with_config_domain(MeshConfig::default(), "");
    let snapshot = with_services(&store.snapshot(), services);
    let sidecar = Config {
        kind: Kind::Sidecar,
        name: "foo".into(),
        namespace: namespace.into(),
        labels: Default::default(),
        annotations: Default::default(),
        created_us: 0,
        spec: object(&json!({"egress": [{"hosts": hosts}]}))?,
    };
    let scope = SidecarScope::new(&snapshot, &namespace.into(), Some(Arc::new(sidecar)));
    let facts = |s: &Service| {
        let ports: Vec<u16> = s.ports.iter().map(|p| p.number).collect();
        (s.hostname.to_string(), s.namespace.to_string(), ports)
    };
    let got: BTreeSet<_> = scope.egress.iter().flat_map(|l| l.services.iter()).map(|s| facts(s)).collect();
    let want: BTreeSet<_> = v["expected"].as_array().into_iter().flatten().map(|s| facts(&service(s))).collect();
    same(got, want)
}

/// The virtual services that an egress listener imports, of the tables' own: in two namespaces, for one host and for
/// two, and for a wildcard.
fn selected_services(func: &str, v: &Value) -> Result<(), String> {
    const NAMESPACE: &str = "client";
    let excluding = |call: &Value| texts(&call["args"]).into_iter().map(|h| format!("~*/{h}")).collect::<Vec<_>>();
    let by_namespace = &v["hostsByNS"];
    let mut hosts = Vec::new();
    if by_namespace["$call"] == "includeAllExcept" {
        hosts.push("*/*".to_owned());
        hosts.extend(excluding(by_namespace));
    }
    for (ns, class) in
        by_namespace.as_object().into_iter().flatten().filter(|(k, _)| !k.starts_with('$') && *k != "args")
    {
        if class["$call"] == "includeAllExcept" {
            hosts.push(format!("{ns}/*"));
            hosts.extend(excluding(class));
        }
        hosts.extend(texts(&class["allHosts"]).into_iter().map(|h| format!("{ns}/{h}")));
        hosts.extend(texts(&class["excludedHosts"]).into_iter().map(|h| format!("~{ns}/{h}")));
    }
    let rule = |name: &str, namespace: &str, hosts: &[&str]| {
        let route = json!([{"route": [{"destination": {"host": "x.com"}}]}]);
        made("VirtualService", name, namespace, json!({"hosts": hosts, "http": route}))
    };
    let resources = if func.ends_with("Wildcard") {
        vec![rule("vs-exact", "a", &["a.com"])?, rule("vs-wild", "a", &["*.com"])?]
    } else {
        vec![
            rule("vs-a", "a", &["a.com"])?,
            rule("vs-b", "b", &["b.com"])?,
            rule("vs-multi", "c", &["keep.com", "drop.com"])?,
        ]
    };
    let mut store = Store::with_config_domain(MeshConfig::default(), "");
    store.apply(resources.into_iter().map(Change::Apply));
    let sidecar = Config {
        kind: Kind::Sidecar,
        name: "foo".into(),
        namespace: NAMESPACE.into(),
        labels: Default::default(),
        annotations: Default::default(),
        created_us: 0,
        spec: object(&json!({"egress": [{"hosts": hosts}]}))?,
    };
    let scope = SidecarScope::new(&store.snapshot(), &NAMESPACE.into(), Some(Arc::new(sidecar)));
    let imported = scope.egress.iter().flat_map(|l| &l.virtual_services);
    let got: BTreeSet<String> = imported.map(|s| s.config.name.to_string()).collect();
    same(got, texts(&v["expected"]).into_iter().collect())
}

/// Whether a change of a resource can matter to a proxy of namespace `default`.
fn dependencies(v: &Value) -> Result<(), String> {
    let mut resources = Vec::new();
    if v["egress"].is_array() {
        resources.push(made("Sidecar", "foo", "default", json!({"egress": [{"hosts": v["egress"]}]}))?);
    }
    let inputs = super::inputs(&json!({}), super::sidecar("default"), resources);
    for (key, want) in v["contains"].as_object().into_iter().flatten().filter(|(k, _)| *k != "$t") {
        let key: Value = serde_json::from_str(key).map_err(|e| e.to_string())?;
        let name = text(&key["Kind"]);
        let kind = Kind::from_word(&name).ok_or_else(|| format!("no kind {name}"))?;
        let changed = names::ResourceKey::new(kind, word(&key["Namespace"]), word(&key["Name"]));
        let delta = model::Delta { configs: [changed].into(), ..Default::default() };
        if inputs.view.is_affected_by(&delta) != flag(want) {
            return Err(format!("{key}: {want} wanted"));
        }
    }
    Ok(())
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    match func {
        "TestCreateSidecarScope" => sidecar_scope(v),
        "TestIsServiceVisible" => visible(v),
        "TestResolveServiceAliases" => Some(aliases(v)),
        "TestMergeHTTPMatchRequests" => Some(merged_matches(v)),
        "TestHasConflict" => Some(conflict(v)),
        "(var) gatewayNameTests" => Some(gateway_name(v)),
        "TestSelectVirtualServicesExclusion" | "TestSelectVirtualServicesExclusionWildcard" => {
            Some(selected_services(func, v))
        }
        "TestIstioEgressListenerWrapper" => Some(egress_services(v)),
        "TestRootNsSidecarDependencies" => Some(dependencies(v)),
        "TestMergeGateways" => merged_gateways(v),
        "TestSidecarOutboundTrafficPolicy" => outbound_policy(v),
        // Others are built by functions that the table does not show.
        "TestControllerMergeVirtualServices" => {
            let lists = v["virtualServices"].as_array().into_iter().chain(v["expectedVirtualServices"].as_array());
            lists.flatten().all(|s| s["Spec"].is_object()).then(|| merged_services(v))
        }
        "TestParseGatewayRDSRouteName" => Some(route_name(v)),
        _ => None,
    }
}
