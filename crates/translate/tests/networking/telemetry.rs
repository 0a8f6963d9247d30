//! Access logs, tracing and metrics as Telemetry resources ask for them.

use protos::envoy::config::accesslog::v3 as accesslog;
use protos::envoy::config::trace::v3 as trace;
use serde_json::{Value, json};
use translate::listener::Class;

use super::{Outcome, entry, inputs, made, sidecar, word};
use crate::common::literal::{self, message, same, texts};

fn class(v: &Value) -> Class {
    match v["$ref"].as_str().and_then(|r| r.rsplit('.').next()) {
        Some("ListenerClassSidecarInbound") => Class::SidecarInbound,
        Some("ListenerClassGateway") => Class::Gateway,
        _ => Class::SidecarOutbound,
    }
}

/// The providers that the tables' mesh has.
fn providers() -> Value {
    let mut list = vec![
        json!({"name": "envoy", "envoyFileAccessLog": {"path": "/dev/stdout"}}),
        json!({"name": "stackdriver", "stackdriver": {}}),
        json!({"name": "prometheus", "prometheus": {}}),
    ];
    for name in ["envoy-json", "custom-provider", "default-provider", "sidecar-provider"] {
        list.push(json!({"name": name, "envoyFileAccessLog": {"path": "/dev/null"}}));
    }
    Value::Array(list)
}

/// `newTelemetry(namespace, spec)` literals as resources; `None` when one is something else.
fn telemetries(v: &Value) -> Option<Vec<Result<api::Resource, String>>> {
    let list = v.as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .enumerate()
        .map(|(n, t)| {
            if t["$call"] != "newTelemetry" || !literal::is_plain(&t["args"][1]) {
                return None;
            }
            let spec = literal::plain(&t["args"][1]);
            let mut resource = made("Telemetry", &format!("t{n}"), word(&t["args"][0]), spec);
            if let Ok(r) = &resource {
                let mut raw = r.raw.as_ref().clone();
                raw["metadata"]["creationTimestamp"] = json!(format!("2026-01-01T00:00:{:02}Z", n % 60));
                resource = crate::common::pruned(raw, "default");
            }
            Some(resource)
        })
        .collect()
}

fn world(v: &Value, signal: &str) -> Option<Result<translate::Inputs, String>> {
    let cfgs = telemetries(&v["cfgs"])?;
    let mut mesh = json!({"extensionProviders": providers(), "defaultProviders": {"metrics": []}});
    mesh["defaultProviders"][signal] = json!(texts(&v["defaultProviders"]));
    let namespace = word(&v["proxy"]["ConfigNamespace"]).to_owned();
    Some((|| {
        let resources = cfgs.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut proxy = sidecar(&namespace);
        proxy.labels = literal::labels(&v["proxy"]["Labels"]);
        Ok(inputs(&mesh, proxy, resources))
    })())
}

fn access_logging(v: &Value) -> Outcome {
    if !literal::is_plain(&v["want"]) || v["want"].to_string().contains("$ident") {
        return None;
    }
    let world = world(v, "accessLogging")?;
    Some(world.and_then(|inputs| {
        let got = translate::access_log::providers(&inputs, class(&v["class"])).unwrap_or_default();
        same(got, texts(&v["want"]))
    }))
}

fn tracing(v: &Value) -> Outcome {
    let want = &v["want"];
    if want["ClientSpec"].is_object() {
        return both_sides(v);
    }
    let expected = match (want.is_null(), want["$call"].as_str()) {
        (true, _) => None,
        (_, Some("newTracingConfig")) => {
            Some((word(&want["args"][0]).to_owned(), want["args"][1].as_bool().unwrap_or(false)))
        }
        _ => return None,
    };
    let world = world(v, "tracing")?;
    Some(world.and_then(|inputs| {
        let got = translate::tracing::settings(&inputs, Class::SidecarOutbound);
        let said = got.provider.clone().map(|p| (p, got.disabled));
        // The original says nothing where no resource and no default does.
        same(said, expected)
    }))
}

/// Settings of both sides of the traffic, spelled out.
fn both_sides(v: &Value) -> Outcome {
    let world = world(v, "tracing")?;
    Some(world.and_then(|inputs| {
        for (side, class) in [("ClientSpec", Class::SidecarOutbound), ("ServerSpec", Class::SidecarInbound)] {
            let want = &v["want"][side];
            let got = translate::tracing::settings(&inputs, class);
            same(got.provider.as_deref(), want["Provider"]["name"].as_str())?;
            same(got.disabled, super::flag(&want["Disabled"]))?;
            same(got.sampling, want["RandomSamplingPercentage"].as_f64())?;
            // What is not stated is on.
            same(got.by_request_id.unwrap_or(true), super::flag(&want["UseRequestIDForTraceSampling"]))?;
            if class == Class::SidecarInbound || want.get("EnableIstioTags").is_some() {
                same(got.istio_tags.unwrap_or(true), super::flag(&want["EnableIstioTags"]))?;
            }
            same(got.no_propagation, super::flag(&want["DisableContextPropagation"]))?;
        }
        Ok(())
    }))
}

fn metrics(v: &Value) -> Outcome {
    let wanted = v["want"].as_object()?;
    if wanted.keys().any(|k| k != "istio.stats" && k != "$t") {
        return None;
    }
    // Targets are of the Gateway API.
    if v["cfgs"].to_string().contains("targetRef") {
        return None;
    }
    let text = v["want"]["istio.stats"].as_str();
    let world = world(v, "metrics")?;
    Some(world.and_then(|inputs| {
        let got = translate::telemetry::stats(&inputs, class(&v["class"]));
        let want = match text {
            None => None,
            Some(text) => {
                let json: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
                Some(message::<protos::stats::PluginConfig>(&json)?)
            }
        };
        same(got, want)
    }))
}

fn zipkin(v: &Value) -> Outcome {
    if v.get("expectedConfig").is_none() || !word(&v["endpoint"]).starts_with('/') && !word(&v["endpoint"]).is_empty() {
        return None;
    }
    let mut config = json!({"path": v["endpoint"], "traceContextOption": v["traceContextOption"],
        "enable64bitTraceId": v["enable128BitTraceID"] == false});
    for key in ["timeout", "headers"] {
        let value = literal::plain(&v[key]);
        if !value.is_null() {
            config[key] = value;
        }
    }
    let got = translate::tracing::zipkin(&config, word(&v["cluster"]), word(&v["hostname"]));
    Some(message(&v["expectedConfig"]).and_then(|want: trace::ZipkinConfig| same(got, want)))
}

fn otel_name(v: &Value) -> Outcome {
    let p = &v["proxy"];
    let mut proxy = sidecar("default");
    proxy.labels = literal::labels(&p["Labels"]);
    proxy.pod = word(&p["ID"]).split('.').next().unwrap_or_default().into();
    {
        let (go, name) = ("WorkloadName", "WORKLOAD_NAME");
        proxy.metadata.fields.insert(name.to_owned(), translate::wire::text_value(word(&p["Metadata"][go])));
    }
    for (k, t) in p["Metadata"]["Raw"].as_object().into_iter().flatten() {
        proxy.metadata.fields.insert(k.clone(), translate::wire::text_value(word(t)));
    }
    let annotations = literal::plain(&p["Metadata"]["Annotations"]);
    if annotations.is_object() {
        proxy.metadata.fields.insert("ANNOTATIONS".to_owned(), model::proxy::from_json(&annotations));
    }
    Some(same(translate::tracing::otel_service_name(&proxy).as_str(), word(&v["expected"])))
}

/// Loggers with the filters that Telemetry resources put on them, spelled out.
fn chosen_logs(v: &Value) -> Outcome {
    if !literal::is_plain(&v["excepted"]) {
        return None;
    }
    let mut wanted = Vec::new();
    let mut list = providers().as_array().cloned().unwrap_or_default();
    for e in v["excepted"].as_array()? {
        // The row's own description of the provider takes the place of the table's.
        let mut provider = literal::plain(&e["Provider"]);
        formats(&mut provider);
        list.retain(|p| p["name"] != provider["name"]);
        list.push(provider);
        wanted.push((e["AccessLog"].clone(), word(&e["Filter"]["expression"]).to_owned()));
    }
    let cfgs = telemetries(&v["cfgs"])?;
    let mesh = json!({"extensionProviders": list,
        "defaultProviders": {"metrics": [], "accessLogging": texts(&v["defaultProviders"])}});
    Some((|| {
        let resources = cfgs.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut proxy = sidecar(word(&v["proxy"]["ConfigNamespace"]));
        proxy.labels = literal::labels(&v["proxy"]["Labels"]);
        let got = translate::access_log::http(&inputs(&mesh, proxy, resources), class(&v["class"]));
        same(got.len(), wanted.len())?;
        for (mut got, (want, expression)) in got.into_iter().zip(wanted) {
            same(got.filter.take().and_then(expression_of).unwrap_or_default(), expression)?;
            let want: accesslog::AccessLog = message(&want)?;
            same(protos::json::encode_json(&got), protos::json::encode_json(&want))?;
        }
        Ok(())
    })())
}

fn expression_of(filter: accesslog::AccessLogFilter) -> Option<String> {
    use protos::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
    match filter.filter_specifier? {
        accesslog::access_log_filter::FilterSpecifier::ExtensionFilter(e) => match e.config_type? {
            accesslog::extension_filter::ConfigType::TypedConfig(any) => {
                Some(protos::unpack::<ExpressionFilter>(&any).ok()?.expression)
            }
        },
        _ => None,
    }
}

/// The logs of a connection, request or listener where the mesh logs to a file and Telemetry resources tell workloads
/// apart by their `app`.
fn by_workload(func: &str, v: &Value) -> Result<(), String> {
    let telemetry = |app: &str, logging: Value| {
        made(
            "Telemetry",
            app,
            "default",
            json!({"selector": {"matchLabels": {"app": app}}, "accessLogging": [logging]}),
        )
    };
    let json_provider = json!([{"name": "envoy-json"}]);
    let resources = vec![
        telemetry("test", json!({"providers": json_provider}))?,
        telemetry(
            "test-with-server-accesslog-filter",
            json!({"match": {"mode": "SERVER"}, "providers": json_provider}),
        )?,
        telemetry("test-disable-accesslog", json!({"providers": [{"name": "envoy"}], "disabled": true}))?,
    ];
    let provider = json!({"name": "envoy-json",
        "envoyFileAccessLog": {"path": "/dev/stdout", "logFormat": {"labels": {}}}});
    let mesh = json!({"accessLogFile": "/dev/stdout", "extensionProviders": [provider],
        "defaultProviders": {"metrics": []}});
    let mut proxy = sidecar(word(&v["proxy"]["ConfigNamespace"]));
    proxy.labels = literal::labels(&v["proxy"]["Labels"]);
    let inputs = inputs(&mesh, proxy, resources);
    let class = class(&v["class"]);
    let got = match func {
        "TestSetTCPAccessLog" => translate::access_log::tcp(&inputs, class),
        "TestSetHttpAccessLog" => translate::access_log::http(&inputs, class),
        _ => {
            let name = if class == Class::SidecarInbound { "virtualInbound" } else { "virtualOutbound" };
            let all = super::listeners::listeners(&inputs);
            all.into_iter().find(|l| l.name == name).ok_or("no listener")?.access_log
        }
    };
    let want: Vec<accesslog::AccessLog> =
        v["expected"]["accessLog"].as_array().into_iter().flatten().map(message).collect::<Result<_, _>>()?;
    let json = |l: &[accesslog::AccessLog]| l.iter().map(protos::json::encode_json).collect::<Vec<_>>();
    same(json(&got), json(&want))
}

/// The format's alternatives are a field of their own in the API.
fn formats(provider: &mut Value) {
    if let Some(file) = provider.get_mut("envoyFileAccessLog").and_then(Value::as_object_mut) {
        for key in ["text", "labels"] {
            if let Some(value) = file.remove(key) {
                file.insert("logFormat".to_owned(), json!({key: value}));
            }
        }
    }
}

/// A log over OpenTelemetry as its parts describe it.
fn otel_log(v: &Value) -> Outcome {
    let labels = literal::plain(&v["labels"]);
    let (host, port) =
        (word(&v["hostname"]).to_owned(), word(&v["clusterName"]).split('|').nth(1)?.parse::<u16>().ok()?);
    let mut format = json!({"text": v["body"]});
    if labels.is_object() {
        format["labels"] = labels;
    }
    let provider = json!({"name": "otel", "envoyOtelAls":
        {"service": host, "port": port, "logName": v["logName"], "logFormat": format}});
    let mesh = json!({"extensionProviders": [provider], "defaultProviders": {"accessLogging": ["otel"]}});
    Some(entry(&host, "monitoring", &[(port, "GRPC")], &["10.0.0.1"]).and_then(|r| {
        let got = translate::access_log::http(&inputs(&mesh, sidecar("default"), vec![r]), Class::SidecarOutbound);
        let packed = match got.into_iter().next().and_then(|l| l.config_type) {
            Some(accesslog::access_log::ConfigType::TypedConfig(any)) => any,
            None => return Err("no log".to_owned()),
        };
        use protos::envoy::extensions::access_loggers::open_telemetry::v3::OpenTelemetryAccessLogConfig;
        let got: OpenTelemetryAccessLogConfig = protos::unpack(&packed).map_err(|e| e.to_string())?;
        let want: OpenTelemetryAccessLogConfig = message(&v["expected"])?;
        same(protos::json::encode_json(&got), protos::json::encode_json(&want))
    }))
}

/// A file or gRPC logger as its provider describes it.
fn logger(v: &Value) -> Outcome {
    let provider = literal::plain(&v["fp"]);
    if !literal::is_plain(&v["expected"]) || !literal::is_plain(&v["fp"]) {
        return None;
    }
    let name = word(&provider["name"]).to_owned();
    let mut provider = provider;
    formats(&mut provider);
    // The original's lookup gives the same collector whatever is asked for.
    if let Some(otel) = provider.get_mut("envoyOtelAls") {
        otel["service"] = "grpc-als.foo.svc.cluster.local".into();
    }
    let tcp = provider.get("envoyTcpAls").is_some();
    let mut mesh = super::mesh(&v["meshConfig"]);
    // The default format, by its name.
    if let (Some(mesh), true) = (mesh.as_object_mut(), v["meshConfig"]["accessLogFormat"].is_object()) {
        mesh.remove("accessLogFormat");
    }
    mesh["extensionProviders"] = json!([provider]);
    mesh["defaultProviders"] = json!({"accessLogging": [name]});
    let resources = entry("grpc-als.foo.svc.cluster.local", "foo", &[(9811, "GRPC")], &["10.0.0.1"]);
    Some(resources.and_then(|r| {
        let inputs = inputs(&mesh, sidecar("default"), vec![r]);
        let got = if tcp {
            translate::access_log::tcp(&inputs, Class::SidecarOutbound)
        } else {
            translate::access_log::http(&inputs, Class::SidecarOutbound)
        };
        let want: accesslog::AccessLog = message(&v["expected"])?;
        // Packed messages may have their fields in another order.
        same(got.first().map(protos::json::encode_json), Some(protos::json::encode_json(&want)))
    }))
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    match func {
        "TestAccessLogging" => access_logging(v),
        "TestTracing" => tracing(v),
        "TestTelemetryFilters" => metrics(v),
        "TestZipkinConfig" | "TestZipkinConfigWithTimeoutAndHeaders" => zipkin(v),
        "TestOtelServiceName" => otel_name(v),
        "TestTelemetryAccessLog" => logger(v),
        "TestAccessLoggingWithFilter" | "TestTelemetryAccessLogWithFormatter" => chosen_logs(v),
        "TestBuildOpenTelemetryAccessLogConfig" => otel_log(v),
        "TestSetTCPAccessLog" | "TestSetHttpAccessLog" | "TestSetListenerAccessLog" => Some(by_workload(func, v)),
        "TestFileAccessLogFormat" => {
            Some(same(translate::access_log::text_format(word(&v["formatString"])).as_str(), word(&v["expected"])))
        }
        _ => None,
    }
}
