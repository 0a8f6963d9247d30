//! Virtual services as routes and byte-stream filters show them.

use std::collections::BTreeMap;

use api::networking::{HttpMirrorPolicy, HttpRetry, HttpRoute};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::config::route::v3 as route;
use protos::envoy::extensions::filters::http::fault::v3 as fault;
use protos::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use serde_json::{Value, json};

use super::{Outcome, entry, flag, inputs, made, router, sidecar, word};
use crate::common::literal::{self, message, object, same, texts};

/// The expectations of an assertion closure, evaluated on what we made: `g.Expect(policy.FIELD).To(Equal(VALUE))`.
fn assertions(
    code: &str,
    policy: Option<&route::RetryPolicy>,
    default: Option<&route::RetryPolicy>,
) -> Result<(), String> {
    for line in code.lines().map(str::trim).filter(|l| l.starts_with("g.Expect(")) {
        let (subject, rest) = line.trim_start_matches("g.Expect(").split_once(").To(").ok_or(line)?;
        let want = rest.strip_suffix(')').unwrap_or(rest);
        let fail = |got: &dyn std::fmt::Debug| Err(format!("{line}: {got:?}"));
        let Some(p) = policy else {
            if subject == "policy" && want == "BeNil()" {
                continue;
            }
            return fail(&policy);
        };
        let argument = want.strip_prefix("Equal(").and_then(|w| w.strip_suffix(')')).unwrap_or_default();
        // `Equal(retry.DefaultPolicy().FIELD)`: the same field of what holds without settings.
        if let (Some(field), Some(default)) = (argument.strip_prefix("retry.DefaultPolicy()."), default) {
            let equal = match field {
                "RetryOn" => p.retry_on == default.retry_on,
                "NumRetries" => p.num_retries == default.num_retries,
                "RetriableStatusCodes" => p.retriable_status_codes == default.retriable_status_codes,
                "RetryHostPredicate" => p.retry_host_predicate == default.retry_host_predicate,
                "HostSelectionRetryMaxAttempts" => {
                    p.host_selection_retry_max_attempts == default.host_selection_retry_max_attempts
                }
                _ => return fail(p),
            };
            if !equal {
                return fail(p);
            }
            continue;
        }
        let holds = match (subject, want) {
            ("policy", "Not(BeNil())") => true,
            ("policy", "BeNil()") => false,
            ("policy", "Equal(retry.DefaultPolicy())") => Some(p) == default,
            ("policy.RetryOn", _) => argument.trim_matches('"') == p.retry_on,
            ("policy.NumRetries.Value", _) => digits(argument) == p.num_retries.map(u64::from),
            ("policy.PerTryTimeout", _) => seconds(argument) == p.per_try_timeout.map(|d| d.seconds),
            ("policy.RetryBackOff.BaseInterval", _) => {
                seconds(argument) == p.retry_back_off.and_then(|b| b.base_interval).map(|d| d.seconds)
            }
            ("policy.RetriableStatusCodes", _) => codes(argument) == p.retriable_status_codes,
            ("policy.RetryPriority", "BeNil()") => p.retry_priority.is_none(),
            ("policy.RetryPriority", _) => p.retry_priority.is_some(),
            ("policy.RetryPriority.Name", _) => p.retry_priority.is_some(),
            ("policy.RetryHostPredicate", "BeNil()") => p.retry_host_predicate.is_empty(),
            ("policy.RetryHostPredicate", w)
                if w.contains("DefaultPolicy") || w.contains("HaveLen") || w.contains("BeEmpty") =>
            {
                let none = w.contains("BeEmpty") || w.contains("HaveLen(0)");
                p.retry_host_predicate.is_empty() == none
            }
            ("policy.HostSelectionRetryMaxAttempts", w) if w.contains("DefaultPolicy") => {
                Some(p.host_selection_retry_max_attempts) == default.map(|d| d.host_selection_retry_max_attempts)
            }
            ("policy.HostSelectionRetryMaxAttempts", _) => {
                digits(argument) == u64::try_from(p.host_selection_retry_max_attempts).ok()
            }
            // Names and packed messages of extensions.
            _ => continue,
        };
        if !holds {
            return fail(p);
        }
    }
    Ok(())
}

fn digits(text: &str) -> Option<u64> {
    let inner = text.rsplit_once('(').map_or(text, |(_, t)| t);
    inner.trim_end_matches(')').parse().ok()
}

fn seconds(text: &str) -> Option<i64> {
    let (_, after) = text.split_once("time.Second")?;
    Some(after.trim_start_matches([' ', '*']).trim_end_matches(')').trim().parse().unwrap_or(1))
}

fn codes(text: &str) -> Vec<u32> {
    let inner = text.split_once('{').and_then(|(_, t)| t.split_once('}')).map_or("", |(t, _)| t);
    inner.split(',').filter_map(|c| c.trim().parse().ok()).collect()
}

fn retry(v: &Value) -> Result<(), String> {
    let rule: HttpRoute = object(&v["route"])?;
    let hashed = flag(&v["hashPolicy"]) || flag(&v["consistentHash"]) || flag(&v["isConsistentHash"]);
    let got = translate::route::retry::retry(rule.retries.as_ref(), hashed);
    let default = translate::route::retry::retry(None, hashed);
    assertions(word(&v["assertFunc"]["$func"]), got.as_ref(), default.as_ref())
}

fn inbound_retry(v: &Value) -> Result<(), String> {
    let policy: Option<HttpRetry> = if v["retries"].is_null() { None } else { Some(object(&v["retries"])?) };
    let got = translate::route::retry::inbound(policy.as_ref());
    assertions(word(&v["assertFunc"]["$func"]), got.as_ref(), translate::route::retry::inbound(None).as_ref())
}

fn metadata_match(v: &Value) -> Result<(), String> {
    let name = word(&v["name"]);
    let value = literal::plain(&v["in"]);
    let value = if value.is_object() { value } else { json!({"exact": "x"}) };
    let m: api::networking::HttpMatchRequest = object(&json!({"headers": {name: value}}))?;
    let got = translate::route::conditions::route_match(&m).dynamic_metadata;
    let Some(args) = v["want"]["args"].as_array() else {
        return same(got.len(), 0);
    };
    let path: Vec<String> = texts(&args[0]);
    let segments: Vec<String> = got
        .first()
        .into_iter()
        .flat_map(|m| &m.path)
        .filter_map(|s| match &s.segment {
            Some(protos::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment::Key(k)) => {
                Some(k.clone())
            }
            _ => None,
        })
        .collect();
    let mut want = vec!["payload".to_owned()];
    want.extend(path);
    same(segments, want)
}

fn applies(v: &Value, kind: &str) -> Result<(), String> {
    let args = &v["args"];
    let namespace = word(&args["namespace"]).to_owned() + word(&args["proxyNamespace"]);
    let namespace = if namespace.is_empty() { "none".to_owned() } else { namespace };
    let mut m = literal::plain(&args["match"]);
    if kind == "tls" {
        m["sniHosts"] = json!(["web.example.org"]);
    }
    let destination = json!([{"destination": {"host": "other.example.org", "port": {"number": 81}}}]);
    let rule = json!({"match": [m], "route": destination});
    let protocol = match kind {
        "tls" => "TLS",
        "tcp" => "TCP",
        _ => "HTTP",
    };
    let resources = vec![
        entry("web.example.org", "default", &[(80, protocol)], &["10.0.0.1"])?,
        entry("other.example.org", "default", &[(81, protocol)], &["10.0.0.2"])?,
        made("VirtualService", "vs", "default", json!({"hosts": ["web.example.org"], kind: [rule]}))?,
    ];
    let mut proxy = sidecar(&namespace);
    proxy.labels = literal::labels(&args["proxyLabels"]);
    let inputs = inputs(&json!({}), proxy, resources);
    let found = if kind == "http" {
        let routes = translate::routes(&inputs, &["80".to_owned()]);
        let r: route::RouteConfiguration = protos::unpack(&routes[0].resource).map_err(|e| e.to_string())?;
        let host = r.virtual_hosts.iter().find(|h| h.domains.contains(&"web.example.org".to_owned()));
        format!("{:?}", host.map(|h| &h.routes)).contains("||other.example.org")
    } else {
        translate::listeners(&inputs).iter().any(|l| {
            let l: listener::Listener = protos::unpack(&l.resource).expect("a listener");
            let chains = l.filter_chains.iter().chain(&l.default_filter_chain);
            chains.filter(|c| c.metadata.is_some()).flat_map(|c| &c.filters).any(|f| {
                tcp_proxy(f).is_some_and(|t| format!("{:?}", t.cluster_specifier).contains("||other.example.org"))
            })
        })
    };
    same(found, flag(&v["want"]))
}

fn tcp_proxy(f: &listener::Filter) -> Option<tcp::TcpProxy> {
    match &f.config_type {
        Some(listener::filter::ConfigType::TypedConfig(any)) => protos::unpack(any).ok(),
        _ => None,
    }
}

/// The byte-stream filters of a rule's destinations.
fn routed(mesh: &Value, routes: &Value, rule: Option<Value>, proxy: model::Proxy) -> Result<tcp::TcpProxy, String> {
    let routes: Vec<api::networking::RouteDestination> =
        routes.as_array().into_iter().flatten().map(object).collect::<Result<_, _>>()?;
    let mut resources = Vec::new();
    let hosts: std::collections::BTreeSet<String> =
        routes.iter().filter_map(|r| Some(r.destination.as_ref()?.host.clone())).collect();
    for host in &hosts {
        resources.push(entry(host, "ns", &[(9999, "TCP"), (8888, "TCP"), (3128, "TCP"), (443, "TCP")], &["10.0.0.1"])?);
    }
    if let Some(rule) = rule {
        resources.push(made("DestinationRule", "rule", "ns", rule)?);
    }
    let inputs = inputs(mesh, proxy, resources);
    let filters = translate::listener::network::routed(&inputs, &routes, 9999, "test.com.ns", false);
    filters.iter().find_map(tcp_proxy).ok_or("no filter".to_owned())
}

fn stat_prefix(v: &Value) -> Result<(), String> {
    let mesh = json!({"outboundClusterStatName": v["statPattern"]});
    same(routed(&mesh, &v["routes"], None, sidecar("ns"))?.stat_prefix.as_str(), word(&v["expectedStatPrefix"]))
}

/// The byte-stream filter towards an application on port 8888.
fn inbound_stream(mesh: &Value, mut proxy: model::Proxy, idle: &str) -> Result<tcp::TcpProxy, String> {
    proxy.idle_timeout = api::Duration::parse(idle).map(api::Duration::to_std);
    let resources = vec![entry("v0.default.example.org", "default", &[(8888, "TCP")], &["1.1.1.1"])?];
    let inputs = inputs(mesh, proxy, resources);
    let listeners = translate::listeners(&inputs);
    let inbound = listeners.iter().find(|l| l.name == "virtualInbound").ok_or("no listener")?;
    let l: listener::Listener = protos::unpack(&inbound.resource).map_err(|e| e.to_string())?;
    let to_port =
        |c: &&listener::FilterChain| c.filter_chain_match.as_ref().is_some_and(|m| m.destination_port == Some(8888));
    let found = l.filter_chains.iter().filter(to_port).flat_map(|c| &c.filters).find_map(tcp_proxy);
    found.ok_or("no filter".to_owned())
}

fn inbound_stat_prefix(v: &Value) -> Result<(), String> {
    let mesh = json!({"inboundClusterStatName": v["statPattern"]});
    same(inbound_stream(&mesh, sidecar("default"), "")?.stat_prefix.as_str(), word(&v["expectedStatPrefix"]))
}

fn inbound_idle_timeout(v: &Value) -> Result<(), String> {
    let got = inbound_stream(&json!({}), sidecar("default"), word(&v["idleTimeout"]))?.idle_timeout;
    let want = api::Duration::parse(word(&v["expected"])).map(|d| translate::wire::duration(d.to_std()));
    same(got, want)
}

fn tunneling(v: &Value) -> Result<(), String> {
    let rule = literal::plain(&v["destinationRule"]);
    let rule = rule.is_object().then_some(rule);
    let got = routed(&json!({}), &v["routeDestinations"], rule, sidecar("ns"))?.tunneling_config;
    let want = &v["expectedTunnelingConfig"];
    let want = (!want.is_null()).then(|| (word(&want["hostname"]).to_owned(), flag(&want["usePost"])));
    same(got.map(|t| (t.hostname, t.use_post)), want)
}

fn idle_timeout(v: &Value) -> Result<(), String> {
    let mut proxy = sidecar("ns");
    proxy.idle_timeout = api::Duration::parse(word(&v["istioMetaIdleTimeout"])).map(api::Duration::to_std);
    let rule = literal::plain(&v["destRule"]["Spec"]);
    let rule = rule.is_object().then_some(rule);
    let got = routed(&json!({}), &v["routes"], rule, proxy)?.idle_timeout;
    same(got.is_some(), !v["expected"].is_null())
}

/// Whether connections of one client go to one host: the rules of the table's hosts, by what they hash.
fn hashed(v: &Value) -> Result<(), String> {
    let source = json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}});
    let other = json!({"loadBalancer": {"simple": "ROUND_ROBIN"}});
    let subset = |policy: &Value| json!([{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": policy}]);
    let host = word(&v["routes"][0]["destination"]["host"]).to_owned();
    let rule = match host.as_str() {
        "test.com" => json!({"trafficPolicy": source}),
        "subsettest.com" => json!({"subsets": subset(&source)}),
        "subsettestdifferent.com" => json!({"trafficPolicy": source, "subsets": subset(&other)}),
        _ => json!({}),
    };
    let mut rule = rule;
    rule["host"] = host.into();
    let got = routed(&json!({}), &v["routes"], Some(rule), sidecar("ns"))?;
    same(!got.hash_policy.is_empty(), flag(&v["useSourceIP"]))
}

fn gateway_hosts(v: &Value) -> Result<(), String> {
    let mut resources = Vec::new();
    for (n, g) in v["gateways"].as_array().into_iter().flatten().enumerate() {
        resources.push(literal::resource(g, "Gateway", &format!("g{n}"), "default")?);
    }
    for (n, s) in v["virtualServices"].as_array().into_iter().flatten().enumerate() {
        resources.push(literal::resource(s, "VirtualService", &format!("v{n}"), "default")?);
    }
    resources.push(entry("example.org", "default", &[(80, "HTTP"), (443, "HTTP")], &["10.0.0.1"])?);
    let mut proxy = router("default");
    proxy.labels.extend(literal::labels(&v["proxyLabels"]));
    let inputs = inputs(&json!({}), proxy, resources);
    let rds = translate::routes(&inputs, &[word(&v["routeName"]).to_owned()]);
    let r: route::RouteConfiguration = protos::unpack(&rds[0].resource).map_err(|e| e.to_string())?;
    let got: BTreeMap<String, Vec<String>> =
        r.virtual_hosts.iter().map(|h| (h.name.clone(), h.domains.clone())).collect();
    let of = |v: &Value| -> BTreeMap<String, Vec<String>> {
        v.as_object().into_iter().flatten().map(|(k, d)| (k.clone(), texts(d))).collect()
    };
    same(got, of(&v["expectedVirtualHosts"]))?;
    for (name, count) in v["expectedHTTPRoutes"].as_object().into_iter().flatten() {
        let host = r.virtual_hosts.iter().find(|h| h.name == *name).ok_or(name.clone())?;
        same(host.routes.len() as u64, count.as_u64().unwrap_or(0))?;
    }
    if flag(&v["redirect"]) {
        let all = route::virtual_host::TlsRequirementType::All as i32;
        same(r.virtual_hosts.iter().all(|h| h.require_tls == all), true)?;
    }
    Ok(())
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestRetry" => retry(v),
        "TestInboundRetry" => inbound_retry(v),
        "TestTranslateMetadataMatch" => metadata_match(v),
        "TestIsCatchAllRoute" => message(&v["route"])
            .and_then(|r: route::Route| same(translate::route::action::is_catch_all(&r), flag(&v["want"]))),
        "TestMirrorPercent" | "TestMirrorPercentByPolicy" => mirror(func, v),
        "TestTranslateFault" => (|| {
            let given: api::networking::HttpFaultInjection = object(&v["fault"])?;
            let want: Option<fault::HttpFault> = if v["want"].is_null() { None } else { Some(message(&v["want"])?) };
            same(translate::route::action::fault(&given), want)
        })(),
        "TestApplyConnectionSettingsToHCM" => manager_settings(v, false),
        "TestBuildHTTPConnectionManagerWithConnectionSettings" => manager_settings(v, true),
        "TestSourceMatchHTTP" => applies(v, "http"),
        "TestMatchTLS" => applies(v, "tls"),
        "TestMatchTCP" => applies(v, "tcp"),
        "TestInboundNetworkFilterStatPrefix" => inbound_stat_prefix(v),
        "TestInboundNetworkFilterIdleTimeout" => inbound_idle_timeout(v),
        "TestOutboundNetworkFilterStatPrefix" => stat_prefix(v),
        "TestBuildOutboundNetworkFiltersTunnelingConfig" => tunneling(v),
        "TestOutboundNetworkFilterIdleTimeout" => idle_timeout(v),
        "TestGatewayHTTPRouteConfig" => gateway_hosts(v),
        "TestOutboundNetworkFilterWithSourceIPHashing" => hashed(v),
        _ => return None,
    })
}

/// `assert.Equal(t, VALUE, EXPRESSION)` lines on a connection manager.
fn manager_settings(v: &Value, whole: bool) -> Result<(), String> {
    use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    let mut settings: api::mesh::ConnectionSettings = object(&v["cs"])?;
    if whole {
        let node = if word(&v["nodeType"]) == "router" { names::NodeType::Router } else { names::NodeType::Sidecar };
        settings = translate::listener::connection::with_profile(settings, node);
    }
    let mut cm =
        hcm::HttpConnectionManager { stream_idle_timeout: Some(translate::wire::no_timeout()), ..Default::default() };
    translate::listener::connection::to_manager(&settings, &mut cm);
    let seconds = |d: Option<prost_types::Duration>| d.map_or(0, |d| d.seconds).to_string();
    let http2 = cm.http2_protocol_options.clone();
    let common = cm.common_http_protocol_options.unwrap_or_default();
    let number = |n: Option<u32>| n.unwrap_or(0).to_string();
    for line in word(&v["verify"]["$func"]).lines().map(str::trim) {
        let Some(arguments) = line.strip_prefix("assert.Equal(t, ").and_then(|l| l.strip_suffix(')')) else {
            continue;
        };
        let (want, expression) = arguments.rsplit_once(", ").ok_or(line)?;
        let got = match expression {
            "cm.StreamIdleTimeout.GetSeconds()" | "cm.StreamIdleTimeout.AsDuration()" => {
                seconds(cm.stream_idle_timeout)
            }
            "cm.RequestTimeout.GetSeconds()" => seconds(cm.request_timeout),
            "cm.RequestHeadersTimeout.GetSeconds()" => seconds(cm.request_headers_timeout),
            "cm.DrainTimeout.GetSeconds()" => seconds(cm.drain_timeout),
            "cm.CommonHttpProtocolOptions.IdleTimeout.GetSeconds()" => seconds(common.idle_timeout),
            "cm.CommonHttpProtocolOptions.MaxConnectionDuration.GetSeconds()" => {
                seconds(common.max_connection_duration)
            }
            "cm.CommonHttpProtocolOptions.MaxStreamDuration.GetSeconds()" => seconds(common.max_stream_duration),
            "cm.MergeSlashes" => cm.merge_slashes.to_string(),
            "cm.Http2ProtocolOptions" => if http2.is_none() { "nil" } else { "set" }.to_owned(),
            "cm.Http2ProtocolOptions.MaxConcurrentStreams.GetValue()" => {
                number(http2.as_ref().and_then(|h| h.max_concurrent_streams))
            }
            "cm.Http2ProtocolOptions.InitialStreamWindowSize.GetValue()" => {
                number(http2.as_ref().and_then(|h| h.initial_stream_window_size))
            }
            "cm.Http2ProtocolOptions.InitialConnectionWindowSize.GetValue()" => {
                number(http2.as_ref().and_then(|h| h.initial_connection_window_size))
            }
            "cm.CommonHttpProtocolOptions.HeadersWithUnderscoresAction" => {
                common.headers_with_underscores_action().as_str_name().to_owned()
            }
            "cm.PathWithEscapedSlashesAction" => cm.path_with_escaped_slashes_action().as_str_name().to_owned(),
            _ => continue,
        };
        let inner = want.rsplit_once('(').map_or(want, |(_, w)| w).trim_end_matches(')');
        if !(inner == got || inner.ends_with(&format!("_{got}"))) {
            return Err(format!("{line}: {got}"));
        }
    }
    Ok(())
}

fn mirror(func: &str, v: &Value) -> Result<(), String> {
    let got = if func == "TestMirrorPercent" {
        let rule: HttpRoute = object(&v["route"])?;
        translate::route::action::mirror_fraction(rule.mirror_percentage.as_ref(), rule.mirror_percent)
    } else {
        let policy: HttpMirrorPolicy = object(&v["policy"])?;
        translate::route::action::mirror_fraction(policy.percentage.as_ref(), None)
    };
    let want: Option<core::RuntimeFractionalPercent> =
        if v["want"].is_null() { None } else { Some(message(&v["want"])?) };
    same(got.map(translate::wire::runtime_percent), want)
}
