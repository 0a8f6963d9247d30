//! Literals of the original's tables: Go values as JSON, with what the extraction could not evaluate marked. What is
//! here evaluates those marks, so that runners see API objects, Envoy messages and plain values.
#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;

use protos::prost::{Message, Name};
use serde_json::{Map, Value, json};

/// Groups that the original writes as a field of their own and proto-JSON does not.
const ONEOFS: [&str; 12] = [
    "validationContextType",
    "targetSpecifier",
    "hashAlgorithm",
    "configType",
    "clusterSpecifier",
    "clusterDiscoveryType",
    "lbConfig",
    "specifier",
    "matchPattern",
    "address_",
    "hostIdentifier",
    "upstreamProtocolOptions",
];

/// Field names whose numbers Go spells its own way.
const SPELLED: [(&str, &str); 8] = [
    ("consecutive_5XxErrors", "consecutive5xxErrors"),
    ("consecutive_5Xx", "consecutive5xx"),
    ("enforcingConsecutive_5Xx", "enforcingConsecutive5xx"),
    ("traceId_128Bit", "traceId128bit"),
    ("proxy_100Continue", "proxy100Continue"),
    ("acceptHttp_10", "acceptHttp10"),
    ("http1_1", "http11"),
    ("enable_64BitTraceId", "enable64bitTraceId"),
];

/// A field name as proto-JSON has it.
fn spelled(name: &str) -> String {
    SPELLED.iter().find(|(go, _)| *go == name).map_or(name, |(_, json)| json).to_owned()
}

/// The elements of a named slice type (`{"#0": …, "$t": …}`), or of a plain list.
pub fn elements(v: &Value) -> Vec<Value> {
    match v {
        Value::Array(a) => a.clone(),
        Value::Object(o) => (0..).map_while(|i| o.get(&format!("#{i}")).cloned()).collect(),
        _ => Vec::new(),
    }
}

pub fn texts(v: &Value) -> Vec<String> {
    elements(v).iter().filter_map(|t| plain(t).as_str().map(str::to_owned)).collect()
}

pub fn text(v: &Value) -> String {
    plain(v).as_str().unwrap_or_default().to_owned()
}

/// A text to text map (labels), without its type mark.
pub fn labels(v: &Value) -> BTreeMap<String, String> {
    let entries = v.as_object().into_iter().flatten().filter(|(k, _)| *k != "$t");
    entries.filter_map(|(k, v)| Some((key(k), v.as_str()?.to_owned()))).collect()
}

/// Constants that tables use as keys of maps.
const KEYS: [(&str, &str); 3] = [
    ("IoK8sNetworkingGatewayGatewayName", "gateway.networking.k8s.io/gateway-name"),
    ("PersistentSessionHeaderLabel", "istio.io/persistent-session-header"),
    ("PersistentSessionLabel", "istio.io/persistent-session"),
];

/// A key of a map: itself, or the constant it names.
pub fn key(text: &str) -> String {
    let known = KEYS.iter().find(|(name, _)| text.contains("$ref") && text.contains(name));
    known.map_or(text, |(_, value)| value).to_owned()
}

fn string_matcher(kind: &str, args: &Value) -> Value {
    let ignore = args.get(1).and_then(Value::as_bool).unwrap_or(false);
    let value = if kind == "safeRegex" { json!({"regex": args[0]}) } else { args[0].clone() };
    let mut out = Map::new();
    out.insert(kind.to_owned(), value);
    if ignore {
        out.insert("ignoreCase".to_owned(), true.into());
    }
    Value::Object(out)
}

/// Full names of messages that tables pack, by Go type without its package.
const PACKED: [(&str, &str); 18] = [
    ("ReqWithoutQuery", "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery"),
    ("UpstreamTlsContext", "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
    ("DownstreamTlsContext", "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
    ("JwtAuthentication", "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"),
    ("UriTemplateMatchConfig", "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"),
    ("FileAccessLog", "envoy.extensions.access_loggers.file.v3.FileAccessLog"),
    ("HttpGrpcAccessLogConfig", "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig"),
    ("TcpGrpcAccessLogConfig", "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig"),
    ("OpenTelemetryAccessLogConfig", "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig"),
    ("HttpConnectionManager", "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
    ("TcpProxy", "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"),
    ("HttpProtocolOptions", "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"),
    ("ZipkinConfig", "envoy.config.trace.v3.ZipkinConfig"),
    ("OpenTelemetryConfig", "envoy.config.trace.v3.OpenTelemetryConfig"),
    (
        "EnvironmentResourceDetectorConfig",
        "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.EnvironmentResourceDetectorConfig",
    ),
    (
        "DynatraceResourceDetectorConfig",
        "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.DynatraceResourceDetectorConfig",
    ),
    ("DynatraceSamplerConfig", "envoy.extensions.tracers.opentelemetry.samplers.v3.DynatraceSamplerConfig"),
    ("MetadataConfig", "envoy.extensions.formatter.metadata.v3.Metadata"),
];

fn pack(message: &Value) -> Value {
    let go = message["$t"].as_str().unwrap_or_default();
    let short = go.rsplit('.').next().unwrap_or_default();
    let full = PACKED.iter().find(|(s, _)| *s == short).map_or(short, |(_, f)| f);
    let mut out = plain(message);
    if let Some(o) = out.as_object_mut() {
        o.insert("@type".to_owned(), format!("type.googleapis.com/{full}").into());
    }
    out
}

/// What a mark means; `None` for those unknown here.
fn evaluated(call: &str, args: &Value) -> Option<Value> {
    Some(match call {
        "StringMatcherExact" => string_matcher("exact", args),
        "StringMatcherPrefix" => string_matcher("prefix", args),
        "StringMatcherSuffix" => string_matcher("suffix", args),
        "StringMatcherRegex" => string_matcher("safeRegex", args),
        "protoconv.MessageToAny" => pack(&args[0]),
        "protomarshal.Clone" | "v" | "wrapperspb.UInt32" | "cluster.ID" | "visibility.Instance" => plain(&args[0]),
        "mesh.DefaultMeshConfig" => json!({}),
        "route.TranslateRouteMatch" => json!({}),
        "buildPatchStruct" => serde_json::from_str(args[0].as_str().unwrap_or_default()).unwrap_or(Value::Null),
        "yamlPermission" | "yamlPrincipal" | "yamlRule" => {
            serde_norway::from_str(args[1].as_str().unwrap_or_default()).unwrap_or(Value::Null)
        }
        "getDefaultCircuitBreakerThresholds" => json!({"maxRetries": u32::MAX, "maxRequests": u32::MAX,
            "maxConnections": u32::MAX, "maxPendingRequests": u32::MAX, "trackRemaining": true}),
        _ => return None,
    })
}

/// Whether everything in a literal is understood here.
pub fn is_plain(v: &Value) -> bool {
    match v {
        Value::Object(o) => {
            if let Some(call) = o.get("$call").and_then(Value::as_str) {
                return evaluated(call, &o["args"]).is_some();
            }
            !o.keys().any(|k| ["$func", "$expr", "$ident", "$modify"].contains(&k.as_str())) && o.values().all(is_plain)
        }
        Value::Array(a) => a.iter().all(is_plain),
        _ => true,
    }
}

/// A literal without its marks.
pub fn plain(v: &Value) -> Value {
    match v {
        Value::Object(o) => {
            if let Some(call) = o.get("$call").and_then(Value::as_str) {
                return evaluated(call, &o["args"]).unwrap_or(Value::Null);
            }
            if let Some(name) = o.get("$ref").and_then(Value::as_str) {
                return reference(name);
            }
            if o.contains_key("#0") {
                return elements(v).iter().map(plain).collect();
            }
            if o.get("$t").and_then(Value::as_str).is_some_and(|t| t.starts_with("otlpcommon.")) {
                return exported_names(o);
            }
            match o.get("$t").and_then(Value::as_str) {
                Some("structpb.Struct") => {
                    let fields = plain(o.get("fields").unwrap_or(&Value::Null));
                    return if fields.is_object() { fields } else { json!({}) };
                }
                Some("structpb.ListValue") => {
                    return o.get("values").and_then(Value::as_array).into_iter().flatten().map(plain).collect();
                }
                // A value holds one of its kinds, itself a group of one field.
                Some("structpb.Value") => {
                    let group = o.get("kind").and_then(Value::as_object).unwrap_or(o);
                    let kind = group.iter().find(|(k, _)| k.ends_with("Value"));
                    return kind.map_or(Value::Null, |(_, v)| plain(v));
                }
                _ => {}
            }
            let mut out = Map::new();
            for (k, v) in o.iter().filter(|(k, _)| *k != "$t") {
                let value = plain(v);
                match value {
                    Value::Object(inner) if ONEOFS.contains(&k.as_str()) && v.get("$t").is_some() => out.extend(inner),
                    // An enumeration that Go prints as its number.
                    Value::String(n) if k.ends_with("ProtocolVersion") && n.parse::<i32>().is_ok() => {
                        // Named by their minor version: TLSv1_2 is 3.
                        out.insert(k.clone(), (n.parse::<i32>().expect("a number") + 1).into());
                    }
                    value => {
                        out.insert(spelled(&key(k)), value);
                    }
                }
            }
            Value::Object(out)
        }
        Value::Array(a) => a.iter().map(plain).collect(),
        other => other.clone(),
    }
}

/// Messages whose fields the original has by their exported names, and the one kind of a value as a field of its own.
fn exported_names(o: &Map<String, Value>) -> Value {
    let mut out = Map::new();
    for (k, v) in o.iter().filter(|(k, _)| *k != "$t") {
        let group = v["$t"].as_str().is_some_and(|t| t.starts_with("otlpcommon.AnyValue_"));
        match plain(v) {
            Value::Object(kind) if group => out.extend(kind),
            value => {
                let mut name = k.clone();
                name[..1].make_ascii_lowercase();
                out.insert(name, value);
            }
        }
    }
    Value::Object(out)
}

fn reference(name: &str) -> Value {
    match name.rsplit('.').next().unwrap_or_default() {
        "SDSClusterName" => "sds-grpc".into(),
        "SDSRootResourceName" => "ROOTCA".into(),
        "SDSDefaultResourceName" => "default".into(),
        "SDSExternalClusterName" => "sds-external".into(),
        "EnvoyTLSSocketName" | "TransportSocketTLS" => "envoy.transport_sockets.tls".into(),
        "MaxUint32" => u32::MAX.into(),
        "UnixAddressPrefix" => "unix://".into(),
        "Notimeout" => "0s".into(),
        other => other.into(),
    }
}

/// A literal as an Envoy message.
pub fn message<T: Message + Name + Default>(v: &Value) -> Result<T, String> {
    let json = plain(v);
    let bytes = protos::json::from_json(&T::full_name(), &json).map_err(|e| format!("{}: {e:?} in {json}", T::NAME))?;
    T::decode(&*bytes).map_err(|e| e.to_string())
}

/// A literal as an API object.
pub fn object<T: api::Shape + Default>(v: &Value) -> Result<T, String> {
    match plain(v) {
        Value::Null => Ok(T::default()),
        v => api::from_value(&v).map_err(|e| format!("{e:?}")),
    }
}

/// A `config.Config` literal (or a bare specification with its kind) as a resource.
pub fn resource(
    v: &Value,
    default_kind: &str,
    default_name: &str,
    default_namespace: &str,
) -> Result<api::Resource, String> {
    let meta = &v["Meta"];
    let or = |key: &str, default: &str| match meta[key].as_str() {
        Some(t) if !t.is_empty() => t.replace([' ', '_'], "-").to_lowercase(),
        _ => default.to_owned(),
    };
    let kind = meta["GroupVersionKind"]["Kind"].as_str().unwrap_or(default_kind);
    let spec = if v.get("Spec").is_some() { plain(&v["Spec"]) } else { plain(v) };
    let group = match kind {
        "AuthorizationPolicy" | "PeerAuthentication" | "RequestAuthentication" => "security.istio.io/v1",
        "Telemetry" => "telemetry.istio.io/v1",
        "ProxyConfig" => "networking.istio.io/v1beta1",
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        _ => "networking.istio.io/v1",
    };
    let mut metadata = json!({"name": or("Name", default_name), "namespace": or("Namespace", default_namespace)});
    for (go, json) in [("Labels", "labels"), ("Annotations", "annotations")] {
        if meta.get(go).is_some() {
            metadata[json] = plain(&meta[go]);
        }
    }
    if let Some(time) = timestamp(&meta["CreationTimestamp"]) {
        metadata["creationTimestamp"] = time.into();
    }
    let value = json!({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec});
    super::pruned(value, default_namespace)
}

/// `time.Date(2020, 2, 2, 2, 2, 2, 0, UTC)`, `baseTimestamp.Add(n)`, `time.Unix(n, 0)`.
fn timestamp(v: &Value) -> Option<String> {
    let args: Vec<i64> = v["args"].as_array()?.iter().filter_map(Value::as_i64).collect();
    match (v["$call"].as_str()?, args.as_slice()) {
        ("time.Date", [y, mo, d, h, mi, s, ..]) => Some(format!("{y:04}-{mo:02}-{d:02}T{h:02}:{mi:02}:{s:02}Z")),
        (_, [n, ..]) => Some(format!("2026-01-01T00:00:{:02}Z", (5 + n).clamp(0, 59))),
        _ => None,
    }
}

/// What a runner found, printed as one line of counts and one of what was left out.
#[derive(Default)]
pub struct Report {
    pub passed: usize,
    pub allowed: usize,
    pub failed: Vec<String>,
    pub not_served: BTreeMap<String, usize>,
}

impl Report {
    pub fn add(&mut self, table: &str, name: &str, allowed: bool, result: Option<Result<(), String>>) {
        match result {
            None => *self.not_served.entry(table.to_owned()).or_default() += 1,
            Some(Ok(())) => self.passed += 1,
            Some(Err(_)) if allowed => self.allowed += 1,
            Some(Err(e)) => self.failed.push(format!("{table}/{name}: {e}")),
        }
    }

    pub fn finish(self, area: &str) {
        println!(
            "{}",
            json!({"area": area, "passed": self.passed, "failed": self.failed.len(), "allowed": self.allowed,
                "not_served": self.not_served.values().sum::<usize>()})
        );
        println!("not served: {:?}", self.not_served);
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n"));
    }
}

/// `Ok` when equal.
pub fn same<T: PartialEq + std::fmt::Debug>(got: T, want: T) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("{got:?}\n   wanted {want:?}")) }
}

/// The display name of a case.
pub fn case_name(v: &Value) -> String {
    for key in ["name", "Name", "desc", "description", "$key"] {
        if let Some(n) = v[key].as_str() {
            return n.to_owned();
        }
    }
    let short = v.to_string();
    short.chars().take(80).collect()
}
