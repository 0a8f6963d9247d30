//! Tracing of connection managers. The tables name their meshes, providers and expectations by the functions that make
//! them; what these stand for is stated here.

use protos::envoy::config::trace::v3 as trace;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use serde_json::{Value, json};
use translate::tracing::Settings;

use super::listeners::{listeners, manager};
use super::policy::world;
use super::{Outcome, flag, service, sidecar, word};
use crate::common::literal::{self, message, same};

type Tracing = hcm::http_connection_manager::Tracing;

/// Where every provider of the tables is found.
const COLLECTOR: &str = "testhost";

/// A message packed by name.
fn packed(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/envoy.{kind}"));
    fields
}

/// A provider by the name of the function that makes it, or as it is spelled out.
fn provider(v: &Value) -> Option<Value> {
    if v["$t"].is_string() {
        let mut out = literal::plain(v);
        let fields = out.as_object_mut()?;
        let kind = fields.keys().find(|k| *k != "name")?.clone();
        fields.get_mut(&kind)?["service"] = json!(COLLECTOR);
        return Some(out);
    }
    let zipkin = |more: Value| {
        let mut config = json!({"service": COLLECTOR, "port": 9411, "maxTagLength": 256});
        config.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({"name": "foo", "zipkin": config})
    };
    let otel = |port: u16, more: Value| {
        let mut config = json!({"service": COLLECTOR, "port": port, "maxTagLength": 256});
        config.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({"name": "opentelemetry", "opentelemetry": config})
    };
    let header = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let http = json!({"path": "/v1/traces", "timeout": "3s", "headers": header("custom-header", "custom-value")});
    Some(match word(&v["$call"]) {
        "fakeZipkin" => zipkin(json!({})),
        "fakeZipkinWithEndpoint" => zipkin(json!({"path": "/custom/path/api/v2/spans"})),
        "fakeZipkinEnable64bitTraceID" => zipkin(json!({"enable64bitTraceId": true})),
        "fakeZipkinWithDualHeaders" => zipkin(json!({"traceContextOption": "USE_B3_WITH_W3C_PROPAGATION"})),
        "fakeZipkinWithB3Only" => zipkin(json!({"traceContextOption": "USE_B3"})),
        "fakePrometheus" => json!({"name": "foo", "prometheus": {}}),
        "fakeDatadog" => {
            json!({"name": "datadog", "datadog": {"service": COLLECTOR, "port": 8126, "maxTagLength": 256}})
        }
        "fakeSkywalking" => json!({"name": "foo", "skywalking": {"service": COLLECTOR, "port": 11800}}),
        "fakeOpenTelemetryGrpc" => otel(4317, json!({})),
        "fakeOpenTelemetryGrpcWithInitialMetadata" => {
            let grpc = json!({"timeout": "3s", "initialMetadata": header("Authentication", "token-xxxxx")});
            otel(8090, json!({"grpc": grpc}))
        }
        "fakeOpenTelemetryHTTP" => otel(443, json!({"http": http})),
        "fakeOpenTelemetryResourceDetectors" => {
            otel(443, json!({"http": http, "resourceDetectors": {"environment": {}, "dynatrace": {}}}))
        }
        _ => return None,
    })
}

/// The settings of a row, and their provider. `None`: not understood here.
fn settings(v: &Value, formatter: bool, propagation: bool) -> Option<(Settings, Option<Value>)> {
    if v.is_null() {
        return Some((Settings::default(), None));
    }
    let mut out = Settings { stated: true, ..Default::default() };
    if v["$t"].is_string() {
        let spec = &v["ServerSpec"];
        let found = provider(&spec["Provider"]);
        out.disabled = flag(&spec["Disabled"]);
        out.sampling = spec["RandomSamplingPercentage"].as_f64();
        out.by_request_id = Some(flag(&spec["UseRequestIDForTraceSampling"]));
        out.istio_tags = Some(flag(&spec["EnableIstioTags"]));
        out.provider = found.as_ref().map(|p| word(&p["name"]).to_owned());
        return Some((out, found));
    }
    let (call, mut args) = (word(&v["$call"]), v["args"].as_array()?.as_slice());
    let mut found = None;
    if !call.contains("NoProvider") {
        found = Some(provider(&args[0])?);
        args = &args[1..];
    }
    out.provider = found.as_ref().map(|p| word(&p["name"]).to_owned());
    out.sampling = args[0].as_f64();
    out.disabled = flag(&args[1]) || call.contains("ClientOnly");
    out.by_request_id = Some(flag(&args[2]));
    out.istio_tags = Some(args.get(3).is_none_or(flag));
    // Only proxies from 1.30 on are told: versions are not told apart here.
    out.no_propagation = flag(args.get(4).unwrap_or(&Value::Null)) && propagation;
    if !call.contains("NilCustomTag") {
        let tag = |v: Value| api::from_value(&v).expect("a tag");
        out.tags.insert("test".to_owned(), tag(json!({"environment": {"name": "FOO"}})));
        // Only proxies from 1.29 on get tags that are formatted.
        if formatter {
            out.tags.insert("test-formatter".to_owned(), tag(json!({"formatter": {"value": "%REQ(fake-header)%"}})));
        }
    }
    Some((out, found))
}

fn tags(v: &Value) -> Vec<Value> {
    let literal = |name: &str, value: &str| json!({"tag": format!("istio.{name}"), "literal": {"value": value}});
    let policy = |name: &str, key: &str| {
        json!({"tag": format!("istio.authorization.dry_run.{name}"), "metadata": {"kind": {"request": {}},
            "metadataKey": {"key": "envoy.filters.http.rbac", "path": [{"key": key}]}}})
    };
    match word(&v["$call"]) {
        "append" => v["args"].as_array().into_iter().flatten().flat_map(tags).collect(),
        "defaultTracingTags" | "customTracingTags" => vec![
            policy("allow_policy.name", "istio_dry_run_allow_shadow_effective_policy_id"),
            policy("allow_policy.result", "istio_dry_run_allow_shadow_engine_result"),
            policy("deny_policy.name", "istio_dry_run_deny_shadow_effective_policy_id"),
            policy("deny_policy.result", "istio_dry_run_deny_shadow_engine_result"),
            literal("canonical_revision", "latest"),
            literal("canonical_service", "unknown"),
            literal("cluster_id", "unknown"),
            literal("mesh_id", "unknown"),
            literal("namespace", "default"),
        ],
        _ if v.is_array() => v.as_array().into_iter().flatten().flat_map(tags).collect(),
        _ => {
            let mut tag = literal::plain(v);
            if let Some(Value::Object(kind)) = tag.as_object_mut().and_then(|t| t.remove("type")) {
                tag.as_object_mut().expect("an object").extend(kind);
            }
            vec![tag]
        }
    }
}

/// What a tracer is told, by the function that makes it; the cluster is the one of the provider's service here.
fn tracer(v: &Value, cluster: &str) -> Option<Value> {
    if v["$t"].is_string() {
        let mut out = literal::plain(v);
        let config = out.get_mut("typedConfig")?;
        config["grpcService"] = json!({"envoyGrpc": {"clusterName": cluster, "authority": COLLECTOR}});
        return Some(out);
    }
    let args = v["args"].as_array()?;
    let grpc = json!({"envoyGrpc": {"clusterName": cluster, "authority": COLLECTOR}});
    let header = json!({"header": {"key": "custom-header", "value": "custom-value"},
        "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"});
    let http = json!({"httpUri": {"uri": format!("{COLLECTOR}/v1/traces"), "cluster": cluster, "timeout": "3s"},
        "requestHeadersToAdd": [header]});
    let detector = |name: &str, kind: &str| {
        json!({"name": format!("envoy.tracers.opentelemetry.resource_detectors.{name}"), "typedConfig":
            packed(&format!("extensions.tracers.opentelemetry.resource_detectors.v3.{kind}ResourceDetectorConfig"), json!({}))})
    };
    let otel = |fields: Value| ("opentelemetry", packed("config.trace.v3.OpenTelemetryConfig", fields));
    let (name, config) = match word(&v["$call"]) {
        "fakeZipkinProvider" | "fakeZipkinProviderWithTraceContext" => {
            let option = args
                .get(4)
                .and_then(|o| o["$ref"].as_str())
                .map_or("USE_B3", |o| o.split_once("ZipkinConfig_").map_or("USE_B3", |(_, option)| option));
            let fields = json!({"collectorCluster": cluster, "collectorHostname": COLLECTOR,
                "collectorEndpoint": args[2], "collectorEndpointVersion": "HTTP_JSON", "traceId128bit": args[3],
                "sharedSpanContext": false, "traceContextOption": option});
            ("zipkin", packed("config.trace.v3.ZipkinConfig", fields))
        }
        "fakeSkywalkingProvider" => {
            ("skywalking", packed("config.trace.v3.SkyWalkingConfig", json!({"grpcService": grpc})))
        }
        "fakeDatadogProvider" => {
            let fields = json!({"collectorCluster": cluster, "collectorHostname": COLLECTOR, "serviceName": args[0]});
            ("datadog", packed("config.trace.v3.DatadogConfig", fields))
        }
        "fakeOpenTelemetryGrpcProvider" => otel(json!({"grpcService": grpc})),
        "fakeOpenTelemetryGrpcWithInitialMetadataProvider" => {
            otel(json!({"grpcService": {"envoyGrpc": grpc["envoyGrpc"],
            "timeout": "3s", "initialMetadata": [{"key": "Authentication", "value": "token-xxxxx"}]}}))
        }
        "fakeOpenTelemetryHTTPProvider" => otel(json!({"httpService": http})),
        "fakeOpenTelemetryResourceDetectorsProvider" => otel(json!({"httpService": http,
            "resourceDetectors": [detector("environment", "Environment"), detector("dynatrace", "Dynatrace")]})),
        _ => return None,
    };
    Some(json!({"name": format!("envoy.tracers.{name}"), "typedConfig": config}))
}

/// `fakeTracingConfig…(provider, sampling, longest path, tags)`.
fn wanted(v: &Value, cluster: &str) -> Option<Option<Value>> {
    if v.is_null() {
        return Some(None);
    }
    let (call, mut args) = (word(&v["$call"]), v["args"].as_array()?.as_slice());
    let mut out = json!({"clientSampling": {"value": 100}, "overallSampling": {"value": 100}});
    if !call.contains("NoProvider") {
        out["provider"] = tracer(&args[0], cluster)?;
        args = &args[1..];
    }
    out["randomSampling"] = json!({"value": args[0]});
    if args[1].as_u64() != Some(0) {
        out["maxPathTagLength"] = args[1].clone();
    }
    out["customTags"] = tags(&args[2]).into();
    if call.contains("Skywalking") {
        out["spawnUpstreamSpan"] = true.into();
    }
    if call.contains("NoContextPropagation") {
        out["noContextPropagation"] = true.into();
    }
    Some(Some(out))
}

/// Both as JSON: packed messages may have their fields in another order.
fn equal(got: Option<Tracing>, want: Option<Value>) -> Result<(), String> {
    let whole = |tracing| hcm::HttpConnectionManager { tracing, ..Default::default() };
    let want: hcm::HttpConnectionManager = match want {
        Some(want) => message(&json!({"tracing": want}))?,
        None => Default::default(),
    };
    same(protos::json::encode_json(&whole(got)), protos::json::encode_json(&want))
}

fn configured(v: &Value) -> Outcome {
    let want_text = v["want"].to_string();
    let (formatter, propagation) = (want_text.contains("test-formatter"), want_text.contains("NoContextPropagation"));
    let (settings, provider) = settings(&v["inSpec"], formatter, propagation)?;
    let (opts, arg) = (word(&v["opts"]["$call"]), &v["opts"]["args"][0]);
    let mut mesh = json!({"defaultProviders": {"metrics": []}});
    let mut own = Value::Null;
    let of_proxy = |tags: Value| json!({"tracing": {"sampling": 55.55, "maxPathTagLength": 13, "customTags": tags}});
    match opts {
        "fakeOptsWithDefaultProviders" => mesh["defaultConfig"] = json!({"tracing": {"sampling": 55.5}}),
        "fakeOptsNoTelemetryAPI" => own = of_proxy(json!({"test": {"environment": {"name": "FOO"}}})),
        "fakeOptsNoTelemetryAPIWithNilCustomTag" => own = of_proxy(json!({})),
        "fakeOptsMeshAndTelemetryAPI" => own = of_proxy(json!({"test": {"environment": {"name": "FOO"}}})),
        // Of the proxy and a mesh that says nothing else.
        _ => {}
    }
    mesh["enableTracing"] = match opts {
        "fakeOptsMeshAndTelemetryAPI" => arg.clone(),
        o => (o.contains("NoTelemetryAPI") || o.contains("DefaultProviders")).into(),
    };
    let mut port = Value::Null;
    if let Some(provider) = provider {
        port = provider.as_object()?.values().find_map(|c| c.get("port")).cloned().unwrap_or_default();
        mesh["extensionProviders"] = json!([provider]);
    }
    let want = wanted(&v["want"], &format!("outbound|{port}||{COLLECTOR}"))?;
    let collector = service(&json!({"Hostname": COLLECTOR, "Attributes": {"Namespace": "default"},
        "Ports": [{"Name": "p", "Port": port.as_u64().unwrap_or(80), "Protocol": "HTTP"}]}));
    let mut proxy = sidecar("default");
    proxy.proxy_config = own;
    name_workload(&mut proxy, &v["proxy"]);
    let inputs = world(&mesh, proxy, vec![collector], Vec::new(), false);
    let mut got = translate::tracing::of_settings(&inputs, &settings);
    if !want_text.contains("serviceName") && !want_text.contains("Datadog") {
        unnamed(&mut got);
    }
    let by_id = &v["wantReqIDExtCtx"];
    Some(equal(got, want).and_then(|()| match (by_id.is_null(), settings.by_request_id) {
        (false, Some(said)) => same(said, flag(&by_id["UseRequestIDForTraceSampling"])),
        _ => Ok(()),
    }))
}

/// Names that a proxy's node carries.
fn name_workload(proxy: &mut model::Proxy, v: &Value) {
    if v.is_null() {
        return;
    }
    let mut fields = json!({"WORKLOAD_NAME": v["Metadata"]["WorkloadName"]});
    if v["Metadata"]["Annotations"].is_object() {
        fields["ANNOTATIONS"] = literal::plain(&v["Metadata"]["Annotations"]);
    }
    for (k, value) in fields.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
        proxy.metadata.fields.insert(k.clone(), model::proxy::from_json(value));
    }
    proxy.pod = word(&v["ID"]).split('.').next().unwrap_or_default().into();
    // Labels that are not about the workload's name in Istio's own tags.
    proxy.labels = literal::labels(&v["Labels"]);
}

/// The tables' proxies have no node to take a service's name from.
fn unnamed(tracing: &mut Option<Tracing>) {
    let Some(provider) = tracing.as_mut().and_then(|t| t.provider.as_mut()) else {
        return;
    };
    if let Some(trace::tracing::http::ConfigType::TypedConfig(any)) = &mut provider.config_type
        && let Ok(mut config) = protos::unpack::<trace::OpenTelemetryConfig>(any)
    {
        config.service_name.clear();
        *any = translate::wire::any(&config);
    }
}

/// The listener for clients that speak to an HTTP proxy, under the tracing of the mesh's proxy configuration.
fn http_proxy(v: &Value) -> Result<(), String> {
    let mut config = literal::plain(&v["in"]);
    if let Some(fields) = config.as_object_mut() {
        fields.retain(|_, v| !v.is_null());
    }
    let mut mesh = model::MeshConfig::from_json(&json!({"enableTracing": true, "proxyHttpPort": 15007,
        "defaultConfig": {"tracing": config}, "defaultProviders": {"metrics": []}}));
    if let Some(percent) = v["envPilotSampling"].as_f64() {
        mesh.set_default_sampling(percent);
    }
    let store = model::Store::new(mesh);
    let view = model::ProxyView::new(&store.snapshot(), &std::sync::Arc::new(sidecar("default")));
    let all = listeners(&translate::Inputs::new(std::sync::Arc::new(view)));
    let l = all.iter().find(|l| l.name == "127.0.0.1_15007").ok_or("no listener")?;
    let got = l.filter_chains.iter().flat_map(|c| &c.filters).find_map(manager).ok_or("no manager")?;
    let mut want = literal::plain(&v["out"]);
    want["customTags"] = tags(&v["out"]["customTags"]).into();
    equal(got.tracing, Some(want))
}

/// The Dynatrace sampler of a provider that exports over HTTP.
fn sampler(v: &Value) -> Result<(), String> {
    use protos::envoy::extensions::tracers::opentelemetry::samplers::v3::DynatraceSamplerConfig;
    let mut provider = provider(&json!({"$call": "fakeOpenTelemetryHTTP"})).ok_or("no provider")?;
    provider["opentelemetry"]["dynatraceSampler"] =
        json!({"tenant": v["dtTenant"], "clusterId": v["dtClusterID"], "rootSpansPerMinute": 2000});
    let collector = service(&json!({"Hostname": COLLECTOR, "Attributes": {"Namespace": "default"},
        "Ports": [{"Name": "p", "Port": 443, "Protocol": "HTTP"}]}));
    let mesh = json!({"extensionProviders": [provider], "defaultProviders": {"tracing": ["opentelemetry"]}});
    let inputs = world(&mesh, sidecar("default"), vec![collector], Vec::new(), false);
    let settings = translate::tracing::settings(&inputs, translate::listener::Class::SidecarOutbound);
    let got = translate::tracing::of_settings(&inputs, &settings).ok_or("no tracing")?;
    same(got.random_sampling.map(|p| p.value), Some(100.0))?;
    let config = match got.provider.and_then(|p| p.config_type) {
        Some(trace::tracing::http::ConfigType::TypedConfig(any)) => any,
        None => return Err("no provider".to_owned()),
    };
    let config: trace::OpenTelemetryConfig = protos::unpack(&config).map_err(|e| e.to_string())?;
    let packed = config.sampler.and_then(|s| s.typed_config).ok_or("no sampler")?;
    let sampler: DynatraceSamplerConfig = protos::unpack(&packed).map_err(|e| e.to_string())?;
    same(
        (sampler.tenant.as_str(), Some(i64::from(sampler.cluster_id))),
        (word(&v["dtTenant"]), v["dtClusterID"].as_i64()),
    )?;
    let service = sampler.http_service.ok_or("no service")?;
    let headers: Vec<String> = service.request_headers_to_add.into_iter().filter_map(|h| Some(h.header?.key)).collect();
    same(headers, vec!["custom-header".to_owned()])?;
    same(service.http_uri.map(|u| u.uri), v["expectedURI"].as_str().map(str::to_owned))
}

/// Which trace headers a Zipkin provider asks for.
fn trace_context(v: &Value) -> Result<(), String> {
    let name =
        |v: &Value| v["$ref"].as_str().or(v.as_str()).unwrap_or_default().rsplit("USE_").next().map(str::to_owned);
    let stated = name(&v["input"]).map(|n| format!("USE_{n}")).unwrap_or_default();
    let got = translate::tracing::zipkin(&json!({"traceContextOption": stated}), "c", "a").trace_context_option();
    let want = name(&v["expected"]).map(|n| format!("USE_{n}"));
    same(Some(got.as_str_name().to_owned()), want)
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    // Waypoints come later.
    if word(&v["opts"]["$call"]).contains("Waypoint") {
        return None;
    }
    match func {
        "TestConfigureTracing" | "TestOtelConfigWithSemanticConventions" => configured(v),
        "TestHttpProxyListener_Tracing" => Some(http_proxy(v)),
        "TestConfigureDynatraceSampler" => Some(sampler(v)),
        "TestConvertTraceContextOption" => Some(trace_context(v)),
        _ => None,
    }
}
