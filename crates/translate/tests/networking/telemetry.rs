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

/// A file or gRPC logger as its provider describes it.
fn logger(v: &Value) -> Outcome {
    let provider = literal::plain(&v["fp"]);
    if !literal::is_plain(&v["expected"]) || !literal::is_plain(&v["fp"]) || provider.get("envoyOtelAls").is_some() {
        return None;
    }
    let name = word(&provider["name"]).to_owned();
    let mut provider = provider;
    // The format's alternatives are a field of their own in the API.
    if let Some(file) = provider.get_mut("envoyFileAccessLog").and_then(Value::as_object_mut) {
        for key in ["text", "labels"] {
            if let Some(value) = file.remove(key) {
                file.insert("logFormat".to_owned(), json!({key: value}));
            }
        }
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
        "TestFileAccessLogFormat" => {
            Some(same(translate::access_log::text_format(word(&v["formatString"])).as_str(), word(&v["expected"])))
        }
        _ => None,
    }
}
