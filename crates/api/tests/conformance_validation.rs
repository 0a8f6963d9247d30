//! Do our verdicts equal Istio's? Runs the tables and CRD documents of the conformance folder, which is read from
//! beside the checkout (`../shared/conformance`) or from `PROA_CONFORMANCE`, and is never copied into the project.
//!
//! Prints one JSON line with the counts; `PROA_CONFORMANCE_VERBOSE=1` lists the failures.

use std::collections::BTreeMap;
use std::path::PathBuf;

use api::shape::{Reader, Shape};
use api::validate::virtual_service::Role;
use api::validate::{
    Check, Verdict, common, destination_rule, gateway, http_route, mesh, sidecar, telemetry, virtual_service,
};
use api::{Place, Resource};
use serde_json::{Map, Value, json};

#[derive(Default)]
struct Tally {
    passed: u32,
    failed: Vec<String>,
    allowed: Vec<String>,
    not_served: Vec<String>,
}

#[test]
fn validation() {
    let Some(dir) = folder() else {
        println!("validation: not run, the conformance data is absent (set PROA_CONFORMANCE)");
        println!(
            "{}",
            json!({"area": "validation", "passed": 0, "failed": 0, "allowed": 0, "not_served": 0, "skipped": "no conformance data"})
        );
        return;
    };
    let mut tally = Tally::default();
    tables(&dir, &mut tally);
    crds(&dir, &mut tally);
    if std::env::var_os("PROA_CONFORMANCE_VERBOSE").is_some() {
        for (what, list) in [("FAILED", &tally.failed), ("allowed", &tally.allowed), ("not served", &tally.not_served)]
        {
            list.iter().for_each(|line| println!("{what}: {line}"));
        }
    }
    println!(
        "{}",
        json!({"area": "validation", "passed": tally.passed, "failed": tally.failed.len(), "allowed": tally.allowed.len(),
            "not_served": tally.not_served.len()})
    );
    assert!(tally.failed.is_empty(), "{} cases differ from Istio:\n{}", tally.failed.len(), tally.failed.join("\n"));
}

fn folder() -> Option<PathBuf> {
    let dir = match std::env::var_os("PROA_CONFORMANCE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    Some(dir.join("validation")).filter(|d| d.is_dir())
}

fn tables(dir: &std::path::Path, tally: &mut Tally) {
    let text = std::fs::read_to_string(dir.join("tables.json")).expect("tables.json");
    let tables: Vec<Value> = serde_json::from_str(&text).expect("tables.json is JSON");
    for table in &tables {
        let function = table["func"].as_str().unwrap_or_default();
        for (i, case) in table["cases"].as_array().into_iter().flatten().enumerate() {
            let v = simplify(&case["v"]);
            let name = format!("{function}/{i} {}", v.get("name").and_then(Value::as_str).unwrap_or_default());
            if has_unresolved(&v) {
                tally.not_served.push(format!("{name}: needs {}", case["impure"]));
                continue;
            }
            match run(function, &case["v"], &v) {
                Outcome::Same => tally.passed += 1,
                Outcome::Differs(why) => tally.failed.push(format!("{name}: {why}")),
                Outcome::Allowed(why) => tally.allowed.push(format!("{name}: {why}")),
                Outcome::NotServed => tally.not_served.push(name),
            }
        }
    }
}

enum Outcome {
    Same,
    Differs(String),
    Allowed(&'static str),
    NotServed,
}

/// Removes the extraction's annotations and applies its small language.
fn simplify(v: &Value) -> Value {
    let Value::Object(map) = v else {
        return match v {
            Value::Array(items) => Value::Array(items.iter().map(simplify).collect()),
            other => other.clone(),
        };
    };
    if let Some(base) = map.get("$modify") {
        let mut out = simplify(base);
        if let (Value::Object(out), Some(Value::Object(set))) = (&mut out, map["$with"].get("$set")) {
            for (k, v) in set {
                apply(out, k, simplify(v));
            }
        }
        return out;
    }
    if map.get("$call").and_then(Value::as_str) == Some("strings.Repeat") {
        let args = map["args"].as_array().cloned().unwrap_or_default();
        if let (Some(s), Some(n)) = (args[0].as_str(), args[1].as_u64()) {
            return Value::from(s.repeat(n as usize));
        }
    }
    if map.get("$call").and_then(Value::as_str) == Some("fmt.Sprintf") {
        let format = map["args"][0].as_str().unwrap_or_default();
        return Value::from(format.split('%').next().unwrap_or_default());
    }
    if map.get("$ident").and_then(Value::as_str) == Some("durHr") {
        return Value::from("0.000001s");
    }
    let kind = map.get("$t").and_then(Value::as_str).unwrap_or_default();
    if kind == "structpb.Struct" {
        let fields = map.get("fields").and_then(Value::as_object).cloned().unwrap_or_default();
        return Value::Object(fields.iter().map(|(k, v)| (k.clone(), simplify(v))).collect());
    }
    if kind == "structpb.Value" {
        return map.iter().find(|(k, _)| *k != "$t").map_or(Value::Null, |(k, v)| match k.as_str() {
            "listValue" => simplify(v.get("values").unwrap_or(v)),
            _ => simplify(v),
        });
    }
    let mut out = Map::new();
    for (k, v) in map.iter().filter(|(k, _)| *k != "$t") {
        match (k.as_str(), simplify(v)) {
            // Wrapper of a oneof that the extraction left in place.
            ("specifier", Value::Object(inner)) => {
                out.extend(inner.into_iter().map(|(k, v)| (k.trim_end_matches('_').to_owned(), v)));
            }
            // A nil element exists in Go only; a document with one is refused.
            ("match", Value::Array(items)) => {
                out.insert(k.clone(), items.into_iter().filter(|i| !i.is_null()).collect());
            }
            (_, v) => {
                out.insert(k.clone(), v);
            }
        }
    }
    Value::Object(out)
}

/// One Go assignment; oneof wrappers become their field.
fn apply(out: &mut Map<String, Value>, field: &str, value: Value) {
    let mut chars = field.chars();
    let name: String = chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect();
    match (name.as_str(), value) {
        ("clusterName", Value::Object(inner)) => out.extend(inner),
        ("tracing", Value::Object(mut tracing)) => {
            if let Some(Value::Object(tracer)) = tracing.remove("tracer") {
                tracing.extend(tracer);
            }
            out.insert(name, Value::Object(tracing));
        }
        (_, value) => {
            out.insert(name, value);
        }
    }
}

fn has_unresolved(v: &Value) -> bool {
    match v {
        Value::Object(map) => map.iter().any(|(k, v)| (k.starts_with('$') && k != "$error") || has_unresolved(v)),
        Value::Array(items) => items.iter().any(has_unresolved),
        _ => false,
    }
}

/// Reads a fragment and validates it; reading problems are errors too.
fn part<T: Shape>(v: &Value, f: impl FnOnce(&mut Check, &T)) -> Verdict {
    let mut reader = Reader::default();
    let value = T::read(v, &mut reader);
    let mut check = Check::default();
    f(&mut check, &value);
    let mut verdict = check.finish();
    verdict.errors.extend(reader.finish());
    verdict
}

fn optional<T: Shape>(v: &Value, f: impl FnOnce(&mut Check, Option<&T>)) -> Verdict {
    part::<Option<T>>(v, |c, v| f(c, v.as_ref()))
}

fn leaf(result: Result<(), String>) -> Verdict {
    let mut check = Check::default();
    check.result(result);
    check.finish()
}

fn resource(kind: &str, v: &Value, spec: &Value) -> Verdict {
    let group = match kind {
        "AuthorizationPolicy" | "RequestAuthentication" | "PeerAuthentication" => "security.istio.io/v1",
        "Telemetry" => "telemetry.istio.io/v1",
        "WasmPlugin" | "TrafficExtension" => "extensions.istio.io/v1alpha1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        "ProxyConfig" => "networking.istio.io/v1beta1",
        _ => "networking.istio.io/v1",
    };
    let name = v.get("configName").and_then(Value::as_str).unwrap_or("foo");
    let mut metadata = json!({"name": name, "namespace": "default"});
    for field in ["annotations", "labels"] {
        if let Some(map) = v.get(field) {
            metadata[field] = map.clone();
        }
    }
    whole(json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec}))
}

fn whole(raw: Value) -> Verdict {
    match Resource::from_value(raw, None, "default") {
        Ok(resource) => api::validate::validate(&resource),
        Err(rejected) => Verdict { errors: rejected.problems, warnings: Vec::new() },
    }
}

/// Names the type of a case whose value is deliberately of another type: Rust's types rule these out.
fn wrong_type(raw: &Value, want: &str) -> bool {
    raw["in"]["$t"].as_str().is_some_and(|t| !t.ends_with(&format!(".{want}")))
}

fn run(function: &str, raw: &Value, v: &Value) -> Outcome {
    let input = v.get("in").unwrap_or(&Value::Null);
    let of = |field: &str| v.get(field).unwrap_or(&Value::Null);
    let text = |field: &str| of(field).as_str().unwrap_or_default();
    let kind = match function {
        "TestValidateGateway" => "Gateway",
        "TestValidateVirtualService" | "TestValidateChainingVirtualService" => "VirtualService",
        "TestValidateWorkloadEntry" => "WorkloadEntry",
        "TestValidateWorkloadGroup" => "WorkloadGroup",
        "TestValidateDestinationRule" => "DestinationRule",
        "TestValidateServiceEntries" => "ServiceEntry",
        "TestValidateAuthorizationPolicy" => "AuthorizationPolicy",
        "TestValidateSidecar" => "Sidecar",
        "TestValidateRequestAuthentication" => "RequestAuthentication",
        "TestValidatePeerAuthentication" => "PeerAuthentication",
        "TestValidateTelemetry" => "Telemetry",
        "TestValidateProxyConfig" => "ProxyConfig",
        "TestValidateWasmPlugin" => "WasmPlugin",
        "TestValidateTrafficExtension" => "TrafficExtension",
        "TestValidateEnvoyFilter" => "EnvoyFilter",
        _ => "",
    };
    if !kind.is_empty() {
        if wrong_type(raw, kind) {
            return Outcome::Allowed("a value of another type cannot be passed here");
        }
        return compare(v, &resource(kind, v, input));
    }
    let list = |field: &str| -> Vec<String> {
        of(field).as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect()
    };
    let verdict = match function {
        "TestValidateServer" => part(input, gateway::server),
        "TestValidateServerPort" => part(input, |c, p| gateway::server_port(c, p, text("bind"))),
        "TestValidateTlsOptions" => optional(input, gateway::server_tls),
        "TestStrictValidateHTTPHeaderName" => leaf(common::strict_header_name(text("name"))),
        "TestValidateHTTPHeaderName" => leaf(common::header_name(text("name"))),
        "TestValidateHTTPHeaderValue" => leaf(common::header_value(text("input"))),
        "TestValidateCORSPolicy" => optional(input, http_route::cors_policy),
        "TestValidateHTTPStatus" => leaf(http_route::http_status(input.as_i64().unwrap_or(-1) as i32)),
        "TestValidateHTTPFaultInjectionAbort" => optional(input, http_route::fault_abort),
        "TestValidateHTTPFaultInjectionDelay" => optional(input, http_route::fault_delay),
        "TestValidateHTTPFaultInjection" => part(input, http_route::fault_injection),
        "TestValidateHTTPRetry" => optional(input, http_route::retry),
        "TestValidateHTTPRewrite" => optional(input, http_route::rewrite),
        "TestValidateUriRegexRewrite" => optional(input, http_route::regex_rewrite),
        "TestValidatePortName" => leaf(common::port_name(text("name"))),
        "TestValidatePort" => leaf(common::port(of("port").as_u64().unwrap_or(0) as u32)),
        "TestValidateHTTPRedirect" => optional(of("redirect"), http_route::redirect),
        "TestValidateHTTPDirectResponse" => optional(&encode_bytes(of("directResponse")), http_route::direct_response),
        "TestValidateDestination" => part(of("destination"), virtual_service::destination),
        "TestValidateHTTPRoute" | "TestValidateRootHTTPRoute" => {
            part(of("route"), |c, r| virtual_service::http_route(c, r, Role::Root))
        }
        "TestValidateDelegateHTTPRoute" => part(of("route"), |c, r| virtual_service::http_route(c, r, Role::Delegate)),
        "TestValidateRouteDestination" => part(of("routes"), |c, r: &Vec<_>| virtual_service::l4_destinations(c, r)),
        "TestValidateHTTPRouteDestination" => {
            part(of("routes"), |c, r: &Vec<_>| virtual_service::route_destinations(c, r))
        }
        "TestValidateTrafficPolicy" => optional(input, destination_rule::traffic_policy),
        "TestValidateConnectionPool" => optional(input, destination_rule::connection_pool),
        "TestValidateLoadBalancer" => optional(input, |c, lb| destination_rule::load_balancer(c, lb, None)),
        "TestValidateOutlierDetection" => optional(input, destination_rule::outlier_detection),
        "TestValidateTLS" => optional(of("tls"), destination_rule::client_tls),
        "TestValidateLocalityLbSetting" => {
            optional(input, |c, lb| destination_rule::locality_lb(c, lb, !of("outlier").is_null()))
        }
        "TestValidateZoneAwareLbSetting" => {
            optional(input, |c, lb| destination_rule::zone_aware_lb(c, lb, !of("outlier").is_null()))
        }
        "TestValidateLocalities" => {
            let list = list("localities");
            leaf(destination_rule::localities(&list.iter().map(String::as_str).collect::<Vec<_>>()))
        }
        "Test_validateExportTo" => {
            let mut c = Check::default();
            let flag = |name: &str| of(name).as_bool().unwrap_or(false);
            common::export_to(
                &mut c,
                text("namespace"),
                &list("exportTo"),
                flag("isServiceEntry"),
                flag("isDestinationRuleWithSelector"),
            );
            c.finish()
        }
        "TestValidateTelemetryFilter" => {
            leaf(telemetry::cel_expression(of("filter")["expression"].as_str().unwrap_or_default()))
        }
        "TestValidateExtensionProviderService" => leaf(mesh::provider_service(text("service"))),
        f if f.starts_with("TestValidateExtensionProvider") => provider(f, v),
        "TestValidateFQDN" => leaf(common::fqdn(text("fqdn"))),
        "TestValidateWildcardDomain" => leaf(common::wildcard_domain(text("in"))),
        "TestValidateWildcardDomainForVirtualServiceBoundToGateway" => {
            leaf(common::wildcard_domain_or_sni(text("in"), of("sni").as_bool().unwrap_or(false)))
        }
        "TestParseAutoGeneratedSNIDomain" => leaf(common::sni_domain(text("in")).map(|_| ())),
        "TestValidateTrustDomain" => leaf(mesh::trust_domain(text("in"))),
        "TestValidateControlPlaneAuthPolicy" => {
            let known = of("policy").as_str().is_some_and(|p| p == "NONE" || p == "MUTUAL_TLS")
                || matches!(of("policy").as_i64(), Some(0 | 1));
            leaf(if known { Ok(()) } else { Err("unrecognized".into()) })
        }
        "TestValidateDuration" => optional_duration(of("duration"), common::duration),
        "TestValidateMaxServerConnectionAge" => {
            optional_duration(&seconds(of("duration")), mesh::max_server_connection_age)
        }
        "TestValidateDrainDuration" => optional_duration(of("Drain"), mesh::drain_duration),
        "TestValidateConnectTimeout" => optional_duration(of("duration"), mesh::connect_timeout),
        "TestValidateProtocolDetectionTimeout" => optional_duration(of("duration"), mesh::protocol_detection_timeout),
        "TestValidateMeshConfigProxyConfig" => part(input, mesh::proxy_config),
        "TestValidateMeshConfig" => part(input, mesh::mesh_config),
        "TestValidateMeshConfigDefaultTrafficPolicy" => optional(of("dtp"), mesh::default_traffic_policy),
        "TestValidateMeshConfigDefaultInboundHTTPRetryPolicy" => optional(of("retry"), mesh::inbound_retry),
        "TestValidateMeshNetworks" => part(of("mn"), mesh::mesh_networks),
        "TestValidateConnectionSettings" => part(of("cs"), mesh::connection_settings),
        "TestValidationIPAddress" => leaf(common::ip_address(text("addr"))),
        "TestValidationIPSubnet" => leaf(common::ip_subnet(text("subnet"))),
        "TestServiceSettings" => {
            let mut c = Check::default();
            mesh::service_hosts(&mut c, &list("hosts"));
            c.finish()
        }
        "TestValidateSidecarOutboundTrafficPolicy" => part(input, sidecar::outbound_traffic_policy),
        _ => return Outcome::NotServed,
    };
    compare(v, &verdict)
}

fn seconds(v: &Value) -> Value {
    v.as_f64().map_or_else(|| v.clone(), |s| Value::from(format!("{s}s")))
}

fn optional_duration(v: &Value, f: fn(api::Duration) -> Result<(), String>) -> Verdict {
    part::<api::Duration>(v, |c, d| c.result(f(*d)))
}

/// The extraction keeps bytes as text.
fn encode_bytes(v: &Value) -> Value {
    let mut v = v.clone();
    if let Some(bytes) = v.pointer_mut("/body/bytes")
        && let Some(text) = bytes.as_str()
    {
        *bytes = Value::from("A".repeat(text.len() * 4 / 3 + 1));
    }
    v
}

fn provider(function: &str, v: &Value) -> Verdict {
    let field = match function.trim_start_matches("TestValidateExtensionProvider") {
        "TracingZipkin" => "zipkin",
        "TracingLightstep" => "lightstep",
        "TracingDatadog" => "datadog",
        "TracingOpenCensusAgent" => "opencensus",
        "TracingSkyWalking" => "skywalking",
        "TracingOpentelemetry" => "opentelemetry",
        "EnvoyOtelAls" => "envoyOtelAls",
        "EnvoyHTTPAls" => "envoyHttpAls",
        "EnvoyTCPAls" => "envoyTcpAls",
        "MetricsPrometheus" => "prometheus",
        "Stackdriver" => "stackdriver",
        "EnvoyFileAccessLog" => "envoyFileAccessLog",
        "EnvoyExtAuthzHTTP" | "ExtAuthzHTTP" => "envoyExtAuthzHttp",
        "EnvoyExtAuthzGRPC" | "ExtAuthzGRPC" => "envoyExtAuthzGrpc",
        _ => "sds",
    };
    let config = ["config", "provider", "in"].iter().find_map(|f| v.get(*f)).unwrap_or(&Value::Null);
    part(&json!({"name": "x", field: config}), mesh::extension_provider)
}

fn compare(v: &Value, verdict: &Verdict) -> Outcome {
    let errors: Vec<String> = verdict.errors.iter().map(ToString::to_string).collect();
    let warnings: Vec<String> = verdict.warnings.iter().map(ToString::to_string).collect();
    let (found, warned) = (errors.join("; "), warnings.join("; "));
    let field = |names: &[&str]| names.iter().find_map(|n| v.get(*n));
    if let Some(valid) = field(&["valid", "isValid", "Valid", "ok"]).and_then(Value::as_bool) {
        if valid != errors.is_empty() {
            return Outcome::Differs(format!("want valid={valid}, found errors [{found}] in {}", brief(v)));
        }
    } else if let Some(bad) = field(&["wantErr", "err"]).and_then(Value::as_bool) {
        if bad == errors.is_empty() {
            return Outcome::Differs(format!("want error={bad}, found errors [{found}] in {}", brief(v)));
        }
    } else if let Some(fragment) = field(&["out", "err", "error"]).and_then(Value::as_str) {
        if fragment.is_empty() != errors.is_empty() {
            return Outcome::Differs(format!("want {fragment:?}, found [{found}] in {}", brief(v)));
        }
        let json_words = fragment.contains("json:");
        if !json_words && !found.to_lowercase().contains(&fragment.to_lowercase()) {
            return Outcome::Differs(format!("want fragment {fragment:?}, found [{found}]"));
        }
    } else if let Some(expected) = v.get("expected")
        && expected.is_null() != errors.is_empty()
    {
        return Outcome::Differs(format!("want {expected}, found [{found}] in {}", brief(v)));
    }
    match field(&["warning", "Warning", "warn", "wantWarn"]) {
        Some(Value::Bool(true)) if warnings.is_empty() => Outcome::Differs(format!("want a warning in {}", brief(v))),
        Some(Value::String(s)) if !warned.to_lowercase().contains(&s.to_lowercase()) => {
            Outcome::Differs(format!("want warning {s:?}, found [{warned}]"))
        }
        _ => Outcome::Same,
    }
}

fn brief(v: &Value) -> String {
    let text = v.to_string();
    text.chars().take(600).collect()
}

/// Documents with `_err` must be refused, the others accepted.
fn crds(dir: &std::path::Path, tally: &mut Tally) {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(dir.join("crds")).expect("crds").filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a readable file");
        let short = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (i, document) in api::yaml::documents(&text).into_iter().enumerate() {
            let document = document.expect("the data is YAML");
            let mut value: BTreeMap<String, Value> = match document.value.clone() {
                Value::Object(map) => map.into_iter().collect(),
                _ => continue,
            };
            let expected = value.remove("_err");
            let raw = Value::Object(value.into_iter().collect());
            let place = Some(Place { file: short.as_str().into(), line: document.line });
            let known = !matches!(names_kind(&raw), names::Kind::Other(_));
            let name = format!("crds/{short}#{i}");
            if !known {
                tally.not_served.push(name);
                continue;
            }
            let verdict = match Resource::from_value(raw, place, "default") {
                Ok(resource) => api::validate::validate(&resource),
                Err(rejected) => Verdict { errors: rejected.problems, warnings: Vec::new() },
            };
            let errors: Vec<String> = verdict.errors.iter().map(ToString::to_string).collect();
            if expected.is_some() == errors.is_empty() {
                tally.failed.push(format!("{name}: want {expected:?}, found {errors:?}"));
            } else {
                tally.passed += 1;
            }
        }
    }
}

fn names_kind(raw: &Value) -> names::Kind {
    names::Kind::of(raw["apiVersion"].as_str().unwrap_or_default(), raw["kind"].as_str().unwrap_or_default())
}
