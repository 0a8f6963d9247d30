//! What does an HTTP connection manager hold? Codec, headers, filters in Istio's order, routes by name or inline.
//! Follows `listener_builder.go`. Used by all listener kinds.

use model::mesh::PathNormalization;
use names::PortProtocol;
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::config::route::v3::RouteConfiguration;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as h;

use protos::prost::Message as _;

use super::Class;
use crate::Inputs;
use crate::wire::{ads, any, duration, http_filter, network_filter, no_timeout};

/// Name of the network filter.
pub(crate) const HCM: &str = "envoy.filters.network.http_connection_manager";
/// What `server` says on inbound and gateway responses.
const SERVER_NAME: &str = "istio-envoy";

/// Where routes come from.
pub(crate) enum Routes {
    /// By name, over ADS.
    Rds(String),
    /// Inline.
    Inline(Box<RouteConfiguration>),
}

/// What distinguishes one connection manager from another.
pub(crate) struct Options {
    pub(crate) class: Class,
    pub(crate) routes: Routes,
    pub(crate) stat_prefix: String,
    pub(crate) protocol: PortProtocol,
}

fn flag(inputs: &Inputs, pointer: &str) -> Option<bool> {
    inputs.proxy().config(inputs.mesh(), pointer).and_then(serde_json::Value::as_bool)
}

fn word<'a>(inputs: &'a Inputs, pointer: &str) -> &'a str {
    inputs.proxy().config(inputs.mesh(), pointer).and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// The `proxyHeaders` of the proxy's configuration.
pub(crate) struct ProxyHeaders {
    server_name: String,
    server_passthrough: bool,
    pub(crate) attempt_count: bool,
    generate_request_id: Option<bool>,
    suppress_debug: bool,
    /// Whether routes add `x-forwarded-host`.
    pub(crate) forwarded_host: bool,
    forwarded_port: bool,
    /// Whether only calls within the mesh tell who calls.
    peers_in_mesh: bool,
}

impl ProxyHeaders {
    pub(crate) fn new(inputs: &Inputs, class: Class) -> Self {
        let disabled = |what: &str| flag(inputs, &format!("/proxyHeaders/{what}/disabled")) == Some(true);
        let enabled = |what: &str| flag(inputs, &format!("/proxyHeaders/{what}/enabled")) == Some(true);
        let server = word(inputs, "/proxyHeaders/server/value");
        let default = if class == Class::SidecarOutbound { "" } else { SERVER_NAME };
        let off = disabled("server");
        ProxyHeaders {
            server_name: if off {
                String::new()
            } else if server.is_empty() {
                default.to_owned()
            } else {
                server.to_owned()
            },
            server_passthrough: off,
            attempt_count: !disabled("attemptCount"),
            generate_request_id: disabled("requestId").then_some(false),
            suppress_debug: disabled("envoyDebugHeaders"),
            forwarded_host: enabled("xForwardedHost"),
            forwarded_port: enabled("xForwardedPort"),
            peers_in_mesh: word(inputs, "/proxyHeaders/metadataExchangeHeaders/mode") == "IN_MESH",
        }
    }
}

fn forward_client_cert(text: &str, default: h::ForwardClientCertDetails) -> h::ForwardClientCertDetails {
    use h::ForwardClientCertDetails as F;
    match text {
        "SANITIZE" => F::Sanitize,
        "FORWARD_ONLY" => F::ForwardOnly,
        "APPEND_FORWARD" => F::AppendForward,
        "SANITIZE_SET" => F::SanitizeSet,
        "ALWAYS_FORWARD_ONLY" => F::AlwaysForwardOnly,
        _ => default,
    }
}

/// The connection manager as a network filter.
pub(crate) fn filter(inputs: &Inputs, options: Options) -> listener::Filter {
    let Options { class, routes, stat_prefix, protocol } = options;
    let shared = inputs.once.manager(class, protocol, || build(inputs, class, protocol).encode_to_vec());
    let own = hcm::HttpConnectionManager {
        stat_prefix,
        route_specifier: Some(match routes {
            Routes::Rds(name) => h_rds(name),
            Routes::Inline(config) => h::RouteSpecifier::RouteConfig(*config),
        }),
        ..Default::default()
    };
    // Fields of a message may come in any order, and these are in one of the two only.
    let mut value = Vec::with_capacity(own.encoded_len() + shared.len());
    own.encode_raw(&mut value);
    value.extend_from_slice(&shared);
    let type_url = <hcm::HttpConnectionManager as protos::prost::Name>::type_url();
    network_filter(HCM, prost_types::Any { type_url, value })
}

/// All but the name in statistics and the routes.
fn build(inputs: &Inputs, class: Class, protocol: PortProtocol) -> hcm::HttpConnectionManager {
    use h::{ForwardClientCertDetails as F, PathWithEscapedSlashesAction as Slashes};
    let mesh = inputs.mesh();
    let headers = ProxyHeaders::new(inputs, class);
    let mut out = hcm::HttpConnectionManager {
        codec_type: h::CodecType::Auto as i32,
        use_remote_address: Some(class == Class::Gateway),
        server_name: headers.server_name.clone(),
        generate_request_id: headers.generate_request_id,
        append_x_forwarded_port: headers.forwarded_port,
        proxy_100_continue: true,
        stream_idle_timeout: Some(no_timeout()),
        upgrade_configs: vec![h::UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }],
        path_with_escaped_slashes_action: Slashes::KeepUnchanged as i32,
        normalize_path: Some(mesh.path_normalization != PathNormalization::None),
        merge_slashes: matches!(
            mesh.path_normalization,
            PathNormalization::MergeSlashes | PathNormalization::DecodeAndMergeSlashes
        ),
        ..Default::default()
    };
    if mesh.path_normalization == PathNormalization::DecodeAndMergeSlashes {
        out.path_with_escaped_slashes_action = Slashes::UnescapeAndForward as i32;
    }
    if headers.server_passthrough {
        out.server_header_transformation = h::ServerHeaderTransformation::PassThrough as i32;
    }
    if let Some(idle) = inputs.proxy().idle_timeout {
        out.common_http_protocol_options =
            Some(core::HttpProtocolOptions { idle_timeout: Some(duration(idle)), ..Default::default() });
    }
    match class {
        Class::SidecarInbound => {
            let details = |what: &str, default: bool| {
                flag(inputs, &format!("/proxyHeaders/setCurrentClientCertDetails/{what}")).unwrap_or(default)
            };
            let forward = forward_client_cert(word(inputs, "/proxyHeaders/forwardedClientCert"), F::AppendForward);
            out.forward_client_cert_details = forward as i32;
            out.set_current_client_cert_details = Some(h::SetCurrentClientCertDetails {
                subject: Some(details("subject", true)),
                cert: details("cert", false),
                chain: details("chain", false),
                dns: details("dns", true),
                uri: details("uri", true),
                ..Default::default()
            });
            if protocol.is_http2() {
                out.http2_protocol_options = Some(Default::default());
            }
        }
        Class::Gateway => {
            let topology = |k: &str| format!("/gatewayTopology/{k}");
            let hops = inputs.proxy().config(mesh, &topology("numTrustedProxies")).and_then(serde_json::Value::as_u64);
            out.xff_num_trusted_hops = hops.and_then(|h| u32::try_from(h).ok()).unwrap_or(0);
            let forward = forward_client_cert(word(inputs, &topology("forwardClientCertDetails")), F::SanitizeSet);
            out.forward_client_cert_details = forward as i32;
            if matches!(forward, F::AppendForward | F::SanitizeSet) {
                out.set_current_client_cert_details = Some(h::SetCurrentClientCertDetails {
                    subject: Some(true),
                    cert: true,
                    dns: true,
                    uri: true,
                    ..Default::default()
                });
            }
            out.http_protocol_options = Some(Default::default());
        }
        Class::SidecarOutbound => {
            if protocol == PortProtocol::HttpProxy {
                let http1 = out.http_protocol_options.get_or_insert_default();
                http1.allow_absolute_url = Some(true);
            }
        }
    }
    if let Some(settings) = super::connection::settings(inputs) {
        super::connection::to_manager(&settings, &mut out);
    }
    if inputs.proxy().http10 {
        out.http_protocol_options.get_or_insert_default().accept_http_10 = true;
    }
    out.access_log = crate::access_log::http(inputs, class);
    let sampling_by_request_id = crate::tracing::configure(inputs, &mut out, class);
    out.request_id_extension = Some(request_id(sampling_by_request_id));
    out.http_filters = filters(inputs, class, protocol, &headers);
    out
}

fn h_rds(name: String) -> h::RouteSpecifier {
    h::RouteSpecifier::Rds(hcm::Rds { config_source: Some(ads()), route_config_name: name })
}

fn request_id(use_for_sampling: bool) -> hcm::RequestIdExtension {
    use protos::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
    hcm::RequestIdExtension {
        typed_config: Some(any(&UuidRequestIdConfig {
            use_request_id_for_trace_sampling: Some(use_for_sampling),
            ..Default::default()
        })),
    }
}

/// HTTP filters in Istio's order: peer metadata, custom authorization, tokens, authorization, codecs, faults, CORS,
/// stats, router. Sidecars do not authorize what their own application sends.
fn filters(inputs: &Inputs, class: Class, protocol: PortProtocol, headers: &ProxyHeaders) -> Vec<hcm::HttpFilter> {
    use protos::envoy::extensions::filters::http as f;
    let capabilities = inputs.proxy().capabilities;
    let mut out = Vec::new();
    if class == Class::SidecarOutbound && crate::on_demand::is_on(inputs) {
        // First: what follows goes by the route.
        let config = f::on_demand::v3::OnDemand::default();
        out.push(http_filter("envoy.filters.http.on_demand", any(&config)));
    }
    if capabilities.peer_metadata {
        out.push(peer_metadata(class, headers.peers_in_mesh));
    }
    if class != Class::SidecarOutbound {
        out.extend(crate::authz::custom_http(inputs));
        out.extend(crate::jwt::filter(inputs));
        out.extend(crate::authz::http(inputs));
    }
    if protocol == PortProtocol::GrpcWeb {
        out.push(http_filter("envoy.filters.http.grpc_web", any(&f::grpc_web::v3::GrpcWeb::default())));
    }
    let grpc_stats = f::grpc_stats::v3::FilterConfig {
        emit_filter_state: true,
        per_method_stat_specifier: Some(f::grpc_stats::v3::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
            false,
        )),
        ..Default::default()
    };
    out.push(http_filter("envoy.filters.http.grpc_stats", any(&grpc_stats)));
    if capabilities.istio_alpn && class != Class::SidecarInbound {
        out.push(alpn());
    }
    out.push(http_filter("envoy.filters.http.fault", any(&f::fault::v3::HttpFault::default())));
    out.push(http_filter("envoy.filters.http.cors", any(&f::cors::v3::Cors::default())));
    if capabilities.istio_stats
        && let Some(stats) = crate::telemetry::stats(inputs, class)
    {
        out.push(http_filter("istio.stats", any(&stats)));
    }
    let dynamic = inputs.scope().services.iter().any(|s| s.resolution == model::Resolution::DynamicDns);
    if dynamic && class != Class::SidecarInbound {
        use f::dynamic_forward_proxy::v3::{FilterConfig, filter_config::ImplementationSpecifier};
        let cache = ImplementationSpecifier::DnsCacheConfig(crate::cluster::dns_cache(inputs));
        let config = FilterConfig { implementation_specifier: Some(cache), ..Default::default() };
        out.push(http_filter("envoy.filters.http.dynamic_forward_proxy", any(&config)));
    }
    let router = f::router::v3::Router { suppress_envoy_headers: headers.suppress_debug, ..Default::default() };
    out.push(http_filter("envoy.filters.http.router", any(&router)));
    out
}

fn peer_metadata(class: Class, in_mesh: bool) -> hcm::HttpFilter {
    use pm::config::{
        DiscoveryMethod, IstioHeaders, PropagationMethod, WorkloadDiscovery, discovery_method, propagation_method,
    };
    use protos::io::istio::http::peer_metadata as pm;
    let headers = || DiscoveryMethod {
        method_specifier: Some(discovery_method::MethodSpecifier::IstioHeaders(IstioHeaders::default())),
    };
    let workloads = || DiscoveryMethod {
        method_specifier: Some(discovery_method::MethodSpecifier::WorkloadDiscovery(WorkloadDiscovery {})),
    };
    let propagate = |skip_external_clusters| PropagationMethod {
        method_specifier: Some(propagation_method::MethodSpecifier::IstioHeaders(IstioHeaders {
            skip_external_clusters,
        })),
    };
    let config = if class == Class::SidecarInbound {
        pm::Config {
            downstream_discovery: vec![headers(), workloads()],
            downstream_propagation: vec![propagate(false)],
            ..Default::default()
        }
    } else {
        pm::Config {
            upstream_discovery: vec![headers(), workloads()],
            upstream_propagation: vec![propagate(in_mesh)],
            ..Default::default()
        }
    };
    http_filter("istio.metadata_exchange", any(&config))
}

fn alpn() -> hcm::HttpFilter {
    use protos::istio::envoy::config::filter::http::alpn::v2alpha1 as a;
    let rule = |protocol: a::filter_config::Protocol, alpns: [&str; 3]| a::filter_config::AlpnOverride {
        upstream_protocol: protocol as i32,
        alpn_override: alpns.iter().map(|s| (*s).to_owned()).collect(),
    };
    let config = a::FilterConfig {
        alpn_override: vec![
            rule(a::filter_config::Protocol::Http10, ["istio-http/1.0", "istio", "http/1.0"]),
            rule(a::filter_config::Protocol::Http11, ["istio-http/1.1", "istio", "http/1.1"]),
            rule(a::filter_config::Protocol::Http2, ["istio-h2", "istio", "h2"]),
        ],
    };
    http_filter("istio.alpn", any(&config))
}
