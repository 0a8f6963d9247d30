//! What depends on the proxy and the mesh alone: address families, headers, log formats, metadata.

use model::{Proxy, Resolution};
use protos::envoy::config::accesslog::v3 as accesslog;
use protos::envoy::config::cluster::v3 as cluster;
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::access_loggers::file::v3 as file;
use protos::envoy::extensions::filters::http::router::v3::Router;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use serde_json::{Value, json};
use translate::listener::Class;

use super::policy::{clusters, world};
use super::{Outcome, flag, inputs, made, number, service, sidecar, word};
use crate::common::literal::{self, message, same, texts};

/// A proxy literal, or one of the two that the tables make by name.
pub fn proxy(v: &Value) -> Proxy {
    let mut out = sidecar("not-default");
    let ips = texts(&v["IPAddresses"]);
    if word(&v["$call"]) == "getIPv6Proxy" {
        out.ips = vec!["1111:2222::1".to_owned()];
    } else if !ips.is_empty() {
        out.ips = ips;
    }
    out
}

fn dns_family(v: &Value) -> Result<(), String> {
    let mut s = service(&json!({"Hostname": "foo.com", "Attributes": {"Namespace": "bar"},
        "Ports": [{"Name": "p", "Port": 80, "Protocol": "HTTP"}]}));
    s.resolution = if word(&v["discovery"]) == "LOGICAL_DNS" { Resolution::DnsRoundRobin } else { Resolution::DnsLb };
    let all = clusters(&world(&json!({}), proxy(&v["proxy"]), vec![s], Vec::new(), true))?;
    let c = all.get("outbound|80||foo.com").ok_or("no cluster")?;
    let got = cluster::cluster::DnsLookupFamily::try_from(c.dns_lookup_family).map(|f| f.as_str_name());
    same(got.unwrap_or_default(), word(&v["expectedFamily"]))
}

fn bind_address(v: &Value) -> Result<(), String> {
    let all = clusters(&inputs(&json!({}), proxy(&v["proxy"]), Vec::new()))?;
    let c = all.get("InboundPassthroughCluster").ok_or("no cluster")?;
    let bind = c.upstream_bind_config.clone().unwrap_or_default();
    same(bind.source_address.map(|a| a.address).unwrap_or_default().as_str(), word(&v["expectedSrcAddr"]))?;
    let extra = bind.extra_source_addresses.into_iter().next().and_then(|a| a.address).map(|a| a.address);
    same(extra.unwrap_or_default().as_str(), word(&v["expectedExtraSrcAddr"]))
}

fn default_endpoint(v: &Value) -> Result<(), String> {
    let ingress = json!({"ingress": [{"port": {"number": 7443, "protocol": "HTTP", "name": "http"},
        "defaultEndpoint": v["defaultEndpoint"]}]});
    let resource = made("Sidecar", "sc", "not-default", ingress)?;
    let all = clusters(&inputs(&json!({}), proxy(&v["proxy"]), vec![resource]))?;
    let c = all.get("inbound|7443||").ok_or("no cluster")?;
    let text = format!("{:?}", c.load_assignment);
    let (address, port) = (word(&v["expectedAddr"]), number(&v["expectedPort"]));
    same(text.contains(&format!("address: {address:?}")) && text.contains(&format!("PortValue({port})")), true)
        .map_err(|_| text)
}

/// The format of the file logger.
fn format(log: &accesslog::AccessLog) -> Option<core::substitution_format_string::Format> {
    let Some(accesslog::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
        return None;
    };
    let config: file::FileAccessLog = protos::unpack(any).ok()?;
    match config.access_log_format {
        Some(file::file_access_log::AccessLogFormat::LogFormat(f)) => f.format,
        _ => None,
    }
}

fn log_format(v: &Value) -> Result<(), String> {
    let of = |encoding: &str, stated: &str| {
        let mesh = json!({"accessLogFile": "/dev/stdout", "accessLogEncoding": encoding, "accessLogFormat": stated});
        let inputs = inputs(&mesh, sidecar("default"), Vec::new());
        translate::access_log::http(&inputs, Class::SidecarOutbound).first().and_then(format)
    };
    let got = of(word(&v["encoding"]), word(&v["format"]));
    if v["wantFormat"]["$ident"].is_string() {
        // The default, whatever was stated.
        return same(got, of("JSON", ""));
    }
    let text = match got {
        Some(core::substitution_format_string::Format::TextFormatSource(s)) => s.specifier,
        _ => None,
    };
    let want = core::data_source::Specifier::InlineString(word(&v["wantFormat"]).to_owned());
    same(text, Some(want))
}

fn formatters(v: &Value) -> Result<(), String> {
    use core::substitution_format_string::Format;
    let want: Vec<core::TypedExtensionConfig> =
        v["expected"].as_array().into_iter().flatten().map(message).collect::<Result<_, _>>()?;
    let fields = |v: &Value| model::proxy::from_json(&literal::plain(v));
    let object = |v: &Value| match fields(v).kind {
        Some(prost_types::value::Kind::StructValue(s)) => Format::JsonFormat(s),
        _ => Format::JsonFormat(Default::default()),
    };
    let text = |v: &Value| {
        let specifier = Some(core::data_source::Specifier::InlineString(word(v).to_owned()));
        Format::TextFormatSource(core::DataSource { specifier, ..Default::default() })
    };
    for key in ["json", "labels", "text"] {
        if v[key].is_null() {
            continue;
        }
        let format = if key == "text" { text(&v[key]) } else { object(&v[key]) };
        same(translate::access_log::formatters(&format), want.clone())?;
    }
    Ok(())
}

fn class(v: &Value) -> Class {
    match v["$ref"].as_str().and_then(|r| r.rsplit('.').next()) {
        Some("ListenerClassSidecarInbound") => Class::SidecarInbound,
        Some("ListenerClassGateway") => Class::Gateway,
        _ => Class::SidecarOutbound,
    }
}

/// The manager of a class, from the listeners of a proxy that has one.
fn manager(class: Class, config: &Value) -> Result<hcm::HttpConnectionManager, String> {
    use super::listeners::{listeners, manager};
    let s = service(
        &json!({"Hostname": "app.default.svc.cluster.local", "Attributes": {"Name": "app", "Namespace": "default"},
        "Ports": [{"Name": "p", "Port": 8080, "Protocol": "HTTP"}]}),
    );
    let mut proxy = if class == Class::Gateway { super::router("default") } else { sidecar("default") };
    proxy.proxy_config = literal::plain(config);
    let server = json!({"hosts": ["*"], "port": {"name": "http", "number": 8080, "protocol": "HTTP"}});
    let gateway =
        made("Gateway", "g", "default", json!({"selector": {"istio": "ingressgateway"}, "servers": [server]}))?;
    let mut inputs = world(&json!({}), proxy, vec![s.clone()], vec![gateway], true);
    let port = s.ports[0].clone();
    let target = model::ServiceTarget { service: std::sync::Arc::new(s), port, target_port: 8080 };
    std::sync::Arc::make_mut(&mut inputs.view).targets = vec![target];
    let all = listeners(&inputs);
    let inbound = |l: &&protos::envoy::config::listener::v3::Listener| {
        (l.name == "virtualInbound") == (class == Class::SidecarInbound)
    };
    let chains = all.iter().filter(inbound).flat_map(|l| &l.filter_chains);
    chains.flat_map(|c| &c.filters).find_map(manager).ok_or_else(|| "no manager".to_owned())
}

fn headers(v: &Value) -> Result<(), String> {
    use hcm::http_connection_manager as h;
    let class = class(&v["class"]);
    let m = manager(class, &v["config"])?;
    let want = &v["expected"];
    same(m.server_name.as_str(), word(&want["ServerName"]))?;
    same(m.generate_request_id, want["GenerateRequestID"].as_bool())?;
    same(m.append_x_forwarded_port, flag(&want["XForwardedPort"]))?;
    let transformation = h::ServerHeaderTransformation::try_from(m.server_header_transformation);
    same(transformation.map(|t| t.as_str_name()).unwrap_or_default(), word(&want["ServerHeaderTransformation"]))?;
    // Outbound nothing is forwarded: the field says what inbound ones do.
    if class == Class::SidecarInbound {
        let forward = h::ForwardClientCertDetails::try_from(m.forward_client_cert_details);
        same(forward.map(|t| t.as_str_name()).unwrap_or_default(), word(&want["ForwardedClientCert"]))?;
    }
    let router = m.http_filters.iter().find_map(|f| match &f.config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => protos::unpack::<Router>(any).ok(),
        _ => None,
    });
    same(router.unwrap_or_default().suppress_envoy_headers, flag(&want["SuppressDebugHeaders"]))
}

fn listener_protocol(v: &Value) -> Result<(), String> {
    let p = names::PortProtocol::parse(match word(&v["protocol"]) {
        "UnsupportedProtocol" => "",
        p => p,
    });
    let got = if p.is_http() {
        "ListenerProtocolHTTP"
    } else if p.is_tcp() {
        "ListenerProtocolTCP"
    } else if p == names::PortProtocol::Unsupported {
        "ListenerProtocolAuto"
    } else {
        "ListenerProtocolUnknown"
    };
    same(got, word(&v["want"]["$ident"]))
}

fn alpn_override(v: &Value) -> Result<(), String> {
    let s = service(&json!({"Hostname": "foo.com", "Attributes": {"Namespace": "bar"},
        "Ports": [{"Name": "p", "Port": 80, "Protocol": "HTTP"}]}));
    let rule = json!({"host": "foo.com", "trafficPolicy": {"tls": {"mode": v["tlsMode"]}}});
    let rule = made("DestinationRule", "r", "bar", rule)?;
    let all = clusters(&world(&json!({}), sidecar("bar"), vec![s], vec![rule], true))?;
    let c = all.get("outbound|80||foo.com").ok_or("no cluster")?;
    let key = |m: &core::Metadata| m.filter_metadata.get("istio").and_then(|s| s.fields.get("alpn_override").cloned());
    let want: core::Metadata = if v["want"].is_null() { Default::default() } else { message(&v["want"])? };
    same(c.metadata.as_ref().and_then(key), key(&want))
}

fn node(v: &Value) -> Result<(), String> {
    let out = &v["out"];
    let id = format!(
        "{}~{}~{}~{}",
        word(&out["Type"]),
        texts(&out["IPAddresses"]).join(","),
        word(&out["ID"]),
        word(&out["DNSDomain"])
    );
    let metadata = match model::proxy::from_json(&literal::plain(&v["metadata"])).kind {
        Some(prost_types::value::Kind::StructValue(s)) => s,
        _ => Default::default(),
    };
    let got = Proxy::from_node(&id, &metadata, "").map_err(|e| format!("{e:?}"))?;
    same(got.ips, texts(&out["IPAddresses"]))?;
    same(got.dns_domain.as_str(), word(&out["DNSDomain"]))?;
    same(got.labels, literal::labels(&out["Metadata"]["Labels"]))
}

pub fn serve(func: &str, v: &Value) -> Outcome {
    Some(match func {
        "TestClusterDnsLookupFamily" => dns_family(v),
        "TestInboundClustersPassThroughBindIPs" => bind_address(v),
        "TestInboundClustersLocalhostDefaultEndpoint" => default_endpoint(v),
        "TestListenerAccessLog" => log_format(v),
        "TestAccessLogJSONFormatters" | "TestAccessLogTextFormatters" | "TestAccessLogFormatters" => formatters(v),
        "TestGetProxyHeadersFromProxyConfig" => headers(v),
        "TestModelProtocolToListenerProtocol" => listener_protocol(v),
        "TestAddALPNOverrideToMetadata" => alpn_override(v),
        "TestParseMetadata" => node(v),
        _ => return None,
    })
}
