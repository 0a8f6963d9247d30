//! Destination rules and mesh settings as clusters show them.

use std::collections::BTreeMap;

use model::Proxy;
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;
use protos::envoy::extensions::upstreams::http::v3 as upstreams;
use serde_json::{Value, json};

use super::{Outcome, entry, flag, inputs, made, mesh, router, sidecar, word};
use crate::common::literal::{self, message, object, same};

const HOST: &str = "foo.example.org";
const NAME: &str = "outbound|8080||foo.example.org";

type Clusters = BTreeMap<String, cluster::Cluster>;

fn clusters(mesh: &Value, proxy: Proxy, protocol: &str, rule: Value) -> Result<Clusters, String> {
    let mut resources = vec![entry(HOST, "default", &[(8080, protocol)], &["10.0.0.1"])?];
    if !rule.is_null() {
        let mut rule = rule;
        rule["host"] = HOST.into();
        resources.push(made("DestinationRule", "rule", "default", rule)?);
    }
    let inputs = inputs(mesh, proxy, resources);
    translate::clusters(&inputs)
        .iter()
        .map(|c| Ok((c.name.clone(), protos::unpack(&c.resource).map_err(|e| e.to_string())?)))
        .collect()
}

fn one(mesh: &Value, protocol: &str, policy: Value) -> Result<cluster::Cluster, String> {
    let all = clusters(mesh, sidecar("default"), protocol, json!({"trafficPolicy": policy}))?;
    all.get(NAME).cloned().ok_or("no cluster".to_owned())
}

fn http_options(c: &cluster::Cluster) -> Option<upstreams::HttpProtocolOptions> {
    protos::unpack(c.typed_extension_protocol_options.get(translate::cluster::HTTP_OPTIONS)?).ok()
}

fn is_http2(c: &cluster::Cluster) -> bool {
    use upstreams::http_protocol_options::{UpstreamProtocolOptions as U, explicit_http_config::ProtocolConfig as P};
    match http_options(c).and_then(|o| o.upstream_protocol_options) {
        Some(U::ExplicitHttpConfig(e)) => matches!(e.protocol_config, Some(P::Http2ProtocolOptions(_))),
        _ => false,
    }
}

fn outlier(v: &Value) -> Result<(), String> {
    let cfg = literal::plain(&v["cfg"]);
    let policy = if cfg.is_null() { json!({}) } else { json!({"outlierDetection": cfg}) };
    let got = one(&json!({}), "HTTP", policy)?.outlier_detection;
    let want = if v["o"].is_null() { None } else { Some(message::<cluster::OutlierDetection>(&v["o"])?) };
    same(got, want)
}

fn outlier_codes(v: &Value) -> Result<(), String> {
    use protos::envoy::config::common::matcher::v3::match_predicate::Rule;
    let codes = literal::plain(&v["codes"]);
    let c = one(&json!({}), "HTTP", json!({"outlierDetection": {"outlierDetectionHttpErrorCodes": codes}}))?;
    let matcher = http_options(&c).and_then(|o| o.outlier_detection).and_then(|o| o.error_matcher);
    let count = match matcher.and_then(|m| m.rule) {
        Some(Rule::HttpResponseHeadersMatch(m)) => m.headers.len(),
        Some(Rule::OrMatch(set)) => set.rules.len(),
        _ => 0,
    };
    same(count, codes.as_array().map_or(0, Vec::len))
}

fn keepalive(v: &Value) -> Result<(), String> {
    let pool = literal::plain(&v["connectionPool"]);
    let policy = if pool.is_null() { json!({}) } else { json!({"connectionPool": pool}) };
    let got = one(&mesh(&v["mesh"]), "HTTP", policy)?.upstream_connection_options;
    let want = if v["wantConnOpts"].is_null() {
        None
    } else {
        Some(message::<cluster::UpstreamConnectionOptions>(&v["wantConnOpts"])?)
    };
    same(got, want)
}

fn h2_upgrade(v: &Value) -> Result<(), String> {
    let protocol = match word(&v["port"]["Protocol"]) {
        "UnsupportedProtocol" | "" => "",
        p => p,
    };
    let pool = literal::plain(&v["connectionPool"]);
    let policy = if pool.is_null() { json!({}) } else { json!({"connectionPool": pool}) };
    same(is_http2(&one(&mesh(&v["mesh"]), protocol, policy)?), flag(&v["upgrade"]))
}

fn slow_start(v: &Value) -> Result<(), String> {
    use cluster::cluster::LbConfig;
    let mut lb = json!({"simple": v["lbType"]});
    if flag(&v["enableSlowStartMode"]) {
        lb["warmupDurationSecs"] = "15s".into();
    }
    if let Some(warmup) = v.get("warmup") {
        lb["warmup"] = literal::plain(warmup);
    }
    let c = one(&json!({}), "HTTP", json!({"loadBalancer": lb}))?;
    let got = match c.lb_config {
        Some(LbConfig::RoundRobinLbConfig(c)) => c.slow_start_config,
        Some(LbConfig::LeastRequestLbConfig(c)) => c.slow_start_config,
        _ => None,
    };
    let balances = ["ROUND_ROBIN", "LEAST_REQUEST"].contains(&word(&v["lbType"]));
    let wanted = balances && (flag(&v["enableSlowStartMode"]) || v.get("warmup").is_some());
    same(got.is_some(), wanted)?;
    if let (Some(got), Some(warmup)) = (got, v.get("warmup")) {
        let aggression = got.aggression.map_or(1.0, |a| a.default_value);
        let percent = got.min_weight_percent.map_or(10.0, |p| p.value);
        let want = (warmup["aggression"].as_f64().unwrap_or(1.0), warmup["minimumPercent"].as_f64().unwrap_or(10.0));
        same((aggression, percent), want)?;
    }
    Ok(())
}

/// The conditions of a validation closure: `c.LbPolicy != cluster.Cluster_MAGLEV`, `….TableSize.Value != 10`.
fn ring_hash(v: &Value) -> Result<(), String> {
    use cluster::cluster::{LbConfig, LbPolicy};
    let c = one(&json!({}), "HTTP", json!({"loadBalancer": literal::plain(&v["lb"])}))?;
    let code = word(&v["validate"]["$func"]);
    let after = |mark: &str| {
        code.split(mark).nth(1).map(|r| r.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
    };
    if let Some(policy) = after("c.LbPolicy != cluster.Cluster_") {
        same(LbPolicy::try_from(c.lb_policy).map(|p| p.as_str_name()).unwrap_or_default(), policy.as_str())?;
    }
    if let Some(size) = after("TableSize.Value != ") {
        let got = match &c.lb_config {
            Some(LbConfig::MaglevLbConfig(m)) => m.table_size,
            _ => None,
        };
        same(got.map(|s| s.to_string()), Some(size))?;
    } else if code.contains("c.GetMaglevLbConfig() != nil") {
        same(c.lb_config.is_none(), true)?;
    }
    if let Some(size) = after("MinimumRingSize.Value != ") {
        let got = match &c.lb_config {
            Some(LbConfig::RingHashLbConfig(m)) => m.minimum_ring_size,
            _ => None,
        };
        same(got.map(|s| s.to_string()), Some(size))?;
    }
    Ok(())
}

fn ring_size(v: &Value) -> Result<(), String> {
    let hash = json!({"httpCookie": {"name": "hash-cookie"}, "minimumRingSize": v["ringSize"]});
    let rule = json!({"trafficPolicy": {"loadBalancer": {"consistentHash": hash}}});
    let all = clusters(&json!({}), router("istio-system"), "HTTP", rule)?;
    let got = match all.get(NAME).and_then(|c| c.lb_config.clone()) {
        Some(cluster::cluster::LbConfig::RingHashLbConfig(r)) => r.minimum_ring_size,
        _ => None,
    };
    same(got, v["expectedRingSize"].as_u64())
}

fn mutual_sni(v: &Value) -> Result<(), String> {
    let rule = json!({"subsets": [{"name": "foobar", "labels": {"foo": "bar"},
        "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL", "sni": v["sni"]}}}]});
    let all = clusters(&json!({}), sidecar("default"), "HTTP", rule)?;
    let c = all.get("outbound|8080|foobar|foo.example.org").ok_or("no subset")?;
    let socket = c.transport_socket.clone().or_else(|| c.transport_socket_matches.first()?.transport_socket.clone());
    let any = match socket.and_then(|s| s.config_type) {
        Some(protos::envoy::config::core::v3::transport_socket::ConfigType::TypedConfig(any)) => any,
        _ => return Err("no socket".to_owned()),
    };
    let context: tls::UpstreamTlsContext = protos::unpack(&any).map_err(|e| e.to_string())?;
    same(context.sni.as_str(), word(&v["expected"]))
}

fn default_policy(v: &Value) -> Result<(), String> {
    let mut rule = literal::plain(&v["destRule"]);
    if !rule.is_object() {
        rule = Value::Null;
    }
    let all = clusters(
        &json!({"defaultTrafficPolicy": literal::plain(&v["defaultTrafficPolicy"])}),
        sidecar("default"),
        "HTTP",
        rule,
    )?;
    let c = all.get(NAME).ok_or("no cluster")?;
    let connections =
        |c: &cluster::Cluster| c.circuit_breakers.as_ref().and_then(|b| b.thresholds.first()?.max_connections);
    if let Some(want) = v["wantMaxConnections"].as_u64() {
        same(connections(c).map(u64::from), Some(want))?;
    }
    same(c.outlier_detection.is_some(), flag(&v["wantOutlier"]))?;
    if let Some(want) = v["wantPassthroughMaxConnections"].as_u64() {
        same(all.get("PassthroughCluster").and_then(connections).map(u64::from), Some(want))?;
    }
    Ok(())
}

/// Which of the two wins, by what the cluster shows.
fn default_policy_blocks(v: &Value) -> Result<(), String> {
    let policy = literal::plain(&v["policy"]);
    let rule = if policy.is_null() { Value::Null } else { json!({"trafficPolicy": policy}) };
    let of = |mesh: Value,
              rule: Value|
     -> Result<(Option<cluster::CircuitBreakers>, Option<cluster::OutlierDetection>), String> {
        let all = clusters(&mesh, sidecar("default"), "HTTP", rule)?;
        let c = all.get(NAME).ok_or("no cluster")?;
        Ok((c.circuit_breakers.clone(), c.outlier_detection.clone()))
    };
    let got = of(json!({"defaultTrafficPolicy": literal::plain(&v["meshDefault"])}), rule)?;
    let mut wanted = json!({});
    for (go, block) in [("wantConnPool", "connectionPool"), ("wantOutlier", "outlierDetection")] {
        let value = literal::plain(&v[go]);
        if value.is_object() {
            wanted[block] = value;
        }
    }
    same(got, of(json!({}), json!({"trafficPolicy": wanted}))?)
}

fn effective_lb(v: &Value) -> Result<(), String> {
    let distribution = super::service(&v["svc"]).traffic_distribution;
    let given = |v: &Value, what: &str| -> Result<Option<Value>, String> {
        let _ = what;
        Ok((!v.is_null()).then(|| tidy(v)))
    };
    let (locality, zone) = (given(&v["meshLocality"], "l")?, given(&v["meshZoneAware"], "z")?);
    let read = |v: Option<&Value>| v.map(object).transpose();
    let mesh_locality: Option<api::destination_rule::LocalityLoadBalancerSetting> = read(locality.as_ref())?;
    let mesh_zone: Option<api::destination_rule::ZoneAwareLoadBalancerSetting> =
        zone.as_ref().map(object).transpose()?;
    let lb = match v["dr"]["$call"].as_str() {
        Some("drLB") => Some(json!({"localityLbSetting": tidy(&v["dr"]["args"][0])})),
        Some("drZA") => Some(json!({"zoneAwareLbSetting": tidy(&v["dr"]["args"][0])})),
        _ => None,
    };
    let lb: Option<api::destination_rule::LoadBalancerSettings> = lb.as_ref().map(object).transpose()?;
    let got = translate::locality::effective(mesh_locality.as_ref(), mesh_zone.as_ref(), lb.as_ref(), distribution);
    let want_locality: Option<api::destination_rule::LocalityLoadBalancerSetting> =
        given(&v["expectedLocality"], "l")?.as_ref().map(object).transpose()?;
    let want_zone: Option<api::destination_rule::ZoneAwareLoadBalancerSetting> =
        given(&v["expectedZoneAware"], "z")?.as_ref().map(object).transpose()?;
    same(
        (got.locality, got.zone_aware, got.force, got.routing),
        (want_locality, want_zone, flag(&v["expectedForce"]), flag(&v["expectedRoutingEnabled"])),
    )
}

/// Without null elements; label constants by their names.
fn tidy(v: &Value) -> Value {
    match v {
        Value::Object(o) if o.contains_key("$ref") => match word(&o["$ref"]) {
            "label.TopologyNetwork.Name" => "topology.istio.io/network".into(),
            "label.TopologySubzone.Name" => "topology.istio.io/subzone".into(),
            other => other.into(),
        },
        Value::Object(o) => {
            let fields = o.iter().filter(|(k, _)| *k != "$t").map(|(k, v)| (k.clone(), tidy(v)));
            Value::Object(fields.collect())
        }
        Value::Array(a) => a.iter().map(|e| if e.is_null() { json!({}) } else { tidy(e) }).collect(),
        other => other.clone(),
    }
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestApplyOutlierDetection" => outlier(v),
        "TestApplyOutlierDetectionErrorCodes" => outlier_codes(v),
        "TestApplyTCPKeepalive" => keepalive(v),
        "TestShouldH2Upgrade" => h2_upgrade(v),
        "TestSlowStartConfig" | "TestWarmup" => slow_start(v),
        "TestApplyRingHashLoadBalancer" => ring_hash(v),
        "TestBuildGatewayClustersWithRingHashLb" => ring_size(v),
        "TestBuildSidecarClustersWithIstioMutualAndSNI" => mutual_sni(v),
        "TestDefaultTrafficPolicy" => default_policy(v),
        "TestApplyDefaultTrafficPolicy" => default_policy_blocks(v),
        "TestGetEffectiveLbSetting" => effective_lb(v),
        _ => return None,
    })
}
