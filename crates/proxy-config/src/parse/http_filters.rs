//! How are HTTP filters compiled? Dispatch by type, and the filters that do not decide about access.

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::extensions::filters::common::fault::v3 as common_fault;
use protos::envoy::extensions::filters::http as f;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::prost_types::Any;

use super::any::{Typed, no_config};
use super::common::{self, metadata, opt_duration, opt_name, required, runtime_fraction};
use super::{each, headers, http_security as security, matcher, rate_limit, reject};
use crate::Name;
use crate::common::{ConfigSource, Fraction};
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::filters::http::*;
use crate::filters::network::SetFilterState;
use crate::hcm::HttpFilter;
use crate::matcher::HeaderName;

mod matched;

/// One entry of a filter list; `None` for an unknown optional one.
pub(super) fn filter(h: &hcm::HttpFilter) -> Result<Option<HttpFilter>> {
    let any = match &h.config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
        Some(hcm::http_filter::ConfigType::ConfigDiscovery(d)) => {
            let kind = HttpFilterKind::Discovered(Arc::new(discovered(&h.name, d).at("config_discovery")?));
            return Ok(Some(HttpFilter { name: h.name.as_str().into(), kind, disabled: h.disabled }));
        }
        None => return Err(no_config(&h.name)),
    };
    let kind = match http_filter_config(&h.name, any) {
        Err(e) if h.is_optional && matches!(e.reason, crate::Reason::UnknownType { .. }) => {
            return Ok(None);
        }
        other => other.at("typed_config")?,
    };
    Ok(Some(HttpFilter { name: h.name.as_str().into(), kind, disabled: h.disabled }))
}

/// `ExtensionConfigSource`
fn discovered(name: &str, d: &protos::envoy::config::core::v3::ExtensionConfigSource) -> Result<Discovered> {
    let source = d.config_source.as_ref().ok_or_else(|| missing("config_source"))?;
    if d.type_urls.is_empty() {
        return Err(missing("type_urls"));
    }
    if d.apply_default_config_without_warming && d.default_config.is_none() {
        return Err(invalid("Error: filter config without warming needs a default config").at("default_config"));
    }
    Ok(Discovered {
        source: common::streamed_source(source).at("config_source")?,
        default: d.default_config.as_ref().map(|any| http_filter_config(name, any)).transpose().at("default_config")?,
        type_urls: d.type_urls.iter().map(|s| s.as_str().into()).collect(),
        without_warming: d.apply_default_config_without_warming,
    })
}

/// The filter of this typed config (also for extension config discovery).
pub fn http_filter_config(name: &str, any: &Any) -> Result<HttpFilterKind> {
    use HttpFilterKind as K;
    let typed = Typed::open(name, any)?;
    let short = typed.message.strip_prefix("envoy.extensions.filters.http.").unwrap_or(&typed.message);
    Ok(match short {
        "router.v3.Router" => K::Router(Arc::new(router(&typed.decode()?)?)),
        "upstream_codec.v3.UpstreamCodec" => K::UpstreamCodec,
        "fault.v3.HTTPFault" => K::Fault(Arc::new(fault(&typed.decode()?)?)),
        "cors.v3.Cors" => K::Cors,
        "rbac.v3.RBAC" => K::Rbac(Arc::new(security::rbac(&typed.decode()?)?)),
        "ext_authz.v3.ExtAuthz" => K::ExtAuthz(Arc::new(security::ext_authz(&typed.decode()?)?)),
        "jwt_authn.v3.JwtAuthentication" => K::JwtAuthn(Arc::new(security::jwt(&typed.decode()?)?)),
        "ext_proc.v3.ExternalProcessor" => K::ExtProc(Arc::new(security::ext_proc(&typed.decode()?)?)),
        "grpc_web.v3.GrpcWeb" => K::GrpcWeb,
        "grpc_stats.v3.FilterConfig" => K::GrpcStats(Arc::new(grpc_stats(&typed.decode()?))),
        "grpc_http1_bridge.v3.Config" => {
            let c: f::grpc_http1_bridge::v3::Config = typed.decode()?;
            reject!(c; ignore_query_parameters);
            K::GrpcHttp1Bridge { upgrade_protobuf: c.upgrade_protobuf_to_grpc }
        }
        "local_ratelimit.v3.LocalRateLimit" => K::LocalRateLimit(Arc::new(local_rate_limit(&typed.decode()?)?)),
        "ratelimit.v3.RateLimit" => K::RateLimit(Arc::new(security::rate_limit(&typed.decode()?)?)),
        "buffer.v3.Buffer" => K::Buffer(buffer(&typed.decode()?)?),
        "compressor.v3.Compressor" => K::Compressor(Arc::new(compressor(&typed.decode()?)?)),
        "decompressor.v3.Decompressor" => K::Decompressor(Arc::new(decompressor(&typed.decode()?)?)),
        "csrf.v3.CsrfPolicy" => K::Csrf(Arc::new(csrf(&typed.decode()?)?)),
        "header_to_metadata.v3.Config" => K::HeaderToMetadata(Arc::new(header_to_metadata(&typed.decode()?)?)),
        "header_mutation.v3.HeaderMutation" => {
            let c: f::header_mutation::v3::HeaderMutation = typed.decode()?;
            let m = c.mutations.unwrap_or_default();
            K::HeaderMutation(Arc::new(header_mutations(&m, c.most_specific_header_mutations_wins).at("mutations")?))
        }
        "set_filter_state.v3.Config" => K::SetFilterState(Arc::new(set_filter_state(&typed.decode()?)?)),
        "set_metadata.v3.Config" => K::SetMetadata(set_metadata(&typed.decode()?)?),
        "stateful_session.v3.StatefulSession" => K::StatefulSession(Arc::new(stateful_session(&typed.decode()?)?)),
        "health_check.v3.HealthCheck" => K::HealthCheck(Arc::new(health_check(&typed.decode()?)?)),
        "dynamic_forward_proxy.v3.FilterConfig" => {
            use f::dynamic_forward_proxy::v3::filter_config::ImplementationSpecifier as S;
            let c: f::dynamic_forward_proxy::v3::FilterConfig = typed.decode()?;
            match &c.implementation_specifier {
                Some(S::DnsCacheConfig(d)) => {
                    K::DynamicForwardProxy(Arc::new(super::cluster::dns_cache(d).at("dns_cache_config")?))
                }
                Some(S::SubClusterConfig(_)) => {
                    return Err(unsupported("this field").at("sub_cluster_config"));
                }
                None => return Err(missing("implementation_specifier")),
            }
        }
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher" => {
            K::Matched(Arc::new(matched::extension(&typed.decode()?)?))
        }
        "composite.v3.Composite" => K::Matched(Arc::new(matched::composite(&typed.decode()?)?)),
        "on_demand.v3.OnDemand" => {
            let c: f::on_demand::v3::OnDemand = typed.decode()?;
            K::OnDemand(Arc::new(on_demand(&c.odcds)?))
        }
        "lua.v3.Lua" => K::Lua(Arc::new(lua(&typed.decode()?)?)),
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => K::Alpn(Arc::new(alpn(&typed.decode()?)?)),
        "io.istio.http.peer_metadata.Config" => K::PeerMetadata(Arc::new(peer_metadata(&typed.decode()?))),
        "stats.PluginConfig" => K::IstioStats(Arc::new(istio_stats(&typed.decode()?)?)),
        _ => return Err(typed.unknown()),
    })
}

fn router(r: &f::router::v3::Router) -> Result<Router> {
    reject!(r; upstream_http_filters);
    Ok(Router {
        dynamic_stats: r.dynamic_stats.unwrap_or(true),
        start_child_span: r.start_child_span,
        upstream_logs: super::access_log::logs(&r.upstream_log)?,
        suppress_envoy_headers: r.suppress_envoy_headers,
        strict_check_headers: r.strict_check_headers.iter().map(|s| s.to_ascii_lowercase().into()).collect(),
        respect_expected_rq_timeout: r.respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats: r.suppress_grpc_request_failure_code_stats,
    })
}

/// `HTTPFault`
pub(super) fn fault(x: &f::fault::v3::HttpFault) -> Result<Fault> {
    use common_fault::{fault_delay::FaultDelaySecifier as D, fault_rate_limit::LimitType as L};
    use f::fault::v3::fault_abort::ErrorType as E;
    let fraction = |p: &Option<_>| p.as_ref().map_or(Ok(Fraction::NEVER), common::fraction).at("percentage");
    let delay = match &x.delay {
        None => None,
        Some(d) => Some(FaultDelay {
            fixed: match d.fault_delay_secifier.as_ref().ok_or_else(|| missing("fault_delay_secifier").at("delay"))? {
                D::FixedDelay(t) => Some(common::duration(t).at("fixed_delay").at("delay")?),
                D::HeaderDelay(_) => None,
            },
            fraction: fraction(&d.percentage).at("delay")?,
        }),
    };
    let abort = match &x.abort {
        None => None,
        Some(a) => {
            reject!(a; response_body);
            Some(FaultAbort {
                kind: match a.error_type.as_ref().ok_or_else(|| missing("error_type").at("abort"))? {
                    E::HttpStatus(s) => AbortKind::Http(common::status(*s).at("http_status").at("abort")?),
                    E::GrpcStatus(s) => AbortKind::Grpc(*s),
                    E::HeaderAbort(_) => AbortKind::Header,
                },
                fraction: fraction(&a.percentage).at("abort")?,
            })
        }
    };
    let response_rate_limit = match &x.response_rate_limit {
        None => None,
        Some(r) => Some(FaultRateLimit {
            limit_kbps: match r.limit_type.as_ref().ok_or_else(|| missing("limit_type").at("response_rate_limit"))? {
                L::FixedLimit(l) => Some(l.limit_kbps.max(1)),
                L::HeaderLimit(_) => None,
            },
            fraction: fraction(&r.percentage).at("response_rate_limit")?,
        }),
    };
    Ok(Fault {
        delay,
        abort,
        upstream_cluster: x.upstream_cluster.as_str().into(),
        headers: matcher::headers("headers", &x.headers)?,
        downstream_nodes: x.downstream_nodes.iter().map(|s| s.as_str().into()).collect(),
        max_active_faults: x.max_active_faults,
        response_rate_limit,
        disable_downstream_cluster_stats: x.disable_downstream_cluster_stats,
        filter_metadata: metadata(&None),
    })
}

/// `CorsPolicy`
pub(super) fn cors(c: &f::cors::v3::CorsPolicy) -> Result<crate::route::CorsPolicy> {
    Ok(crate::route::CorsPolicy {
        allow_origin: matcher::strings("allow_origin_string_match", &c.allow_origin_string_match)?,
        allow_methods: c.allow_methods.as_str().into(),
        allow_headers: c.allow_headers.as_str().into(),
        expose_headers: c.expose_headers.as_str().into(),
        max_age: c.max_age.as_str().into(),
        allow_credentials: c.allow_credentials.unwrap_or(false),
        allow_private_network_access: c.allow_private_network_access.unwrap_or(false),
        forward_not_matching_preflights: c.forward_not_matching_preflights.unwrap_or(true),
        enabled: runtime_fraction("filter_enabled", &c.filter_enabled, Fraction::ALWAYS)?,
        shadow_enabled: runtime_fraction("shadow_enabled", &c.shadow_enabled, Fraction::NEVER)?,
    })
}

fn grpc_stats(c: &f::grpc_stats::v3::FilterConfig) -> GrpcStats {
    use f::grpc_stats::v3::filter_config::PerMethodStatSpecifier as S;
    let (all_methods, allowlist) = match &c.per_method_stat_specifier {
        None => (false, Box::default()),
        Some(S::StatsForAllMethods(b)) => (*b, Box::default()),
        Some(S::IndividualMethodStatsAllowlist(l)) => {
            let services = l.services.iter();
            let list = services
                .map(|s| (s.name.as_str().into(), s.method_names.iter().map(|m| m.as_str().into()).collect()))
                .collect();
            (false, list)
        }
    };
    GrpcStats {
        emit_filter_state: c.emit_filter_state,
        all_methods,
        allowlist,
        enable_upstream_stats: c.enable_upstream_stats,
        replace_dots_in_grpc_service_name: c.replace_dots_in_grpc_service_name,
    }
}

/// HTTP `LocalRateLimit`
pub(super) fn local_rate_limit(r: &f::local_ratelimit::v3::LocalRateLimit) -> Result<LocalRateLimit> {
    reject!(r; local_cluster_rate_limit, enable_retry_after_header);
    Ok(LocalRateLimit {
        stat_prefix: required("stat_prefix", &r.stat_prefix)?,
        status: common::http_status(&r.status, 429, 400),
        bucket: r.token_bucket.as_ref().map(common::token_bucket).transpose().at("token_bucket")?,
        enabled: runtime_fraction("filter_enabled", &r.filter_enabled, Fraction::NEVER)?,
        enforced: runtime_fraction("filter_enforced", &r.filter_enforced, Fraction::NEVER)?,
        response_headers: headers::additions("response_headers_to_add", &r.response_headers_to_add)?,
        request_headers_when_not_enforced: headers::additions(
            "request_headers_to_add_when_not_enforced",
            &r.request_headers_to_add_when_not_enforced,
        )?,
        descriptors: each("descriptors", &r.descriptors, |d| {
            reject!(d; shadow_mode);
            let bucket = d.token_bucket.as_ref().ok_or_else(|| missing("token_bucket"))?;
            Ok(LocalDescriptor {
                entries: d.entries.iter().map(|e| (e.key.as_str().into(), e.value.as_str().into())).collect(),
                bucket: common::token_bucket(bucket).at("token_bucket")?,
            })
        })?,
        stage: r.stage,
        per_downstream_connection: r.local_rate_limit_per_downstream_connection,
        ratelimit_headers: r.enable_x_ratelimit_headers == 1,
        vh_rate_limits: u8::try_from(r.vh_rate_limits).unwrap_or(0),
        always_consume_default_token_bucket: r.always_consume_default_token_bucket.unwrap_or(true),
        rate_limited_as_resource_exhausted: r.rate_limited_as_resource_exhausted,
        rate_limits: rate_limit::limits("rate_limits", &r.rate_limits)?.to_vec().into(),
    })
}

/// `Buffer`
pub(super) fn buffer(b: &f::buffer::v3::Buffer) -> Result<u32> {
    b.max_request_bytes.filter(|n| *n > 0).ok_or_else(|| missing("max_request_bytes"))
}

const COMPRESSIBLE: [&str; 9] = [
    "application/javascript",
    "application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/plain",
    "text/xml",
    "application/x-javascript",
];

fn coding(library: &protos::envoy::config::core::v3::TypedExtensionConfig) -> Result<Coding> {
    let any = library.typed_config.as_ref().ok_or_else(|| no_config(&library.name))?;
    let typed = Typed::open(&library.name, any)?;
    let short = typed.message.strip_prefix("envoy.extensions.compression.").unwrap_or_default();
    match short.split('.').next() {
        Some("gzip") => Ok(Coding::Gzip),
        Some("brotli") => Ok(Coding::Brotli),
        Some("zstd") => Ok(Coding::Zstd),
        _ => Err(typed.unknown()),
    }
}

/// The compression level that a library is configured with; 0: its default.
fn level(library: &protos::envoy::config::core::v3::TypedExtensionConfig) -> Result<i32> {
    use protos::envoy::extensions::compression as lib;
    let Some(any) = library.typed_config.as_ref() else { return Ok(0) };
    let typed = Typed::open(&library.name, any)?;
    Ok(match typed.message.as_str() {
        "envoy.extensions.compression.gzip.compressor.v3.Gzip" => {
            // 1 is BEST_SPEED, 2 to 10 are the levels 1 to 9.
            match typed.decode::<lib::gzip::compressor::v3::Gzip>()?.compression_level {
                0 => 0,
                1 => 1,
                n => n - 1,
            }
        }
        "envoy.extensions.compression.brotli.compressor.v3.Brotli" => {
            let c: lib::brotli::compressor::v3::Brotli = typed.decode()?;
            c.quality.map_or(0, |q| i32::try_from(q).unwrap_or(11))
        }
        "envoy.extensions.compression.zstd.compressor.v3.Zstd" => {
            let c: lib::zstd::compressor::v3::Zstd = typed.decode()?;
            c.compression_level.map_or(0, |q| i32::try_from(q).unwrap_or(22))
        }
        _ => 0,
    })
}

fn media_types(list: &[String]) -> Box<[Name]> {
    if list.is_empty() {
        return COMPRESSIBLE.iter().map(|s| Name::from(*s)).collect();
    }
    list.iter().map(|s| s.to_ascii_lowercase().into()).collect()
}

fn compressor(c: &f::compressor::v3::Compressor) -> Result<Compressor> {
    let library = c.compressor_library.as_ref().ok_or_else(|| missing("compressor_library"))?;
    let response = c.response_direction_config.clone().unwrap_or_default();
    reject!(response; weaken_etag_on_compress, uncompressible_response_codes, status_header_enabled);
    let common = response.common_config.clone().unwrap_or_default();
    reject!(common; content_type_matcher);
    let types = if common.content_type.is_empty() { &c.content_type } else { &common.content_type };
    let of_request = c.request_direction_config.clone().unwrap_or_default().common_config.unwrap_or_default();
    let on = |e: &Option<protos::envoy::config::core::v3::RuntimeFeatureFlag>| {
        e.as_ref().and_then(|e| e.default_value).unwrap_or(true)
    };
    Ok(Compressor {
        coding: coding(library).at("compressor_library")?,
        library: library.name.as_str().into(),
        split_stats: c.response_direction_config.is_some(),
        level: level(library).at("compressor_library")?,
        response: if c.response_direction_config.is_some() { on(&common.enabled) } else { on(&c.runtime_enabled) },
        request: c.request_direction_config.as_ref().is_some_and(|r| {
            r.common_config.as_ref().is_some_and(|c| c.enabled.as_ref().and_then(|e| e.default_value) == Some(true))
        }),
        min_content_length: common.min_content_length.or(c.content_length).unwrap_or(30),
        content_types: media_types(types),
        request_min_content_length: of_request.min_content_length.unwrap_or(30),
        request_content_types: media_types(&of_request.content_type),
        disable_on_etag_header: response.disable_on_etag_header || c.disable_on_etag_header,
        remove_accept_encoding_header: response.remove_accept_encoding_header || c.remove_accept_encoding_header,
        choose_first: c.choose_first,
    })
}

fn decompressor(d: &f::decompressor::v3::Decompressor) -> Result<Decompressor> {
    let library = d.decompressor_library.as_ref().ok_or_else(|| missing("decompressor_library"))?;
    let on = |c: Option<&f::decompressor::v3::decompressor::CommonDirectionConfig>| {
        c.and_then(|c| c.enabled.as_ref()).and_then(|e| e.default_value).unwrap_or(true)
    };
    Ok(Decompressor {
        coding: coding(library).at("decompressor_library")?,
        library: library.name.as_str().into(),
        response: on(d.response_direction_config.as_ref().and_then(|r| r.common_config.as_ref())),
        request: on(d.request_direction_config.as_ref().and_then(|r| r.common_config.as_ref())),
        advertise_accept_encoding: d
            .request_direction_config
            .as_ref()
            .and_then(|r| r.advertise_accept_encoding)
            .unwrap_or(true),
    })
}

/// `CsrfPolicy`
pub(super) fn csrf(c: &f::csrf::v3::CsrfPolicy) -> Result<Csrf> {
    Ok(Csrf {
        enabled: runtime_fraction("filter_enabled", &c.filter_enabled, Fraction::ALWAYS)?,
        shadow_enabled: runtime_fraction("shadow_enabled", &c.shadow_enabled, Fraction::NEVER)?,
        additional_origins: matcher::strings("additional_origins", &c.additional_origins)?,
    })
}

/// `header_to_metadata.Config`
pub(super) fn header_to_metadata(c: &f::header_to_metadata::v3::Config) -> Result<HeaderToMetadata> {
    use f::header_to_metadata::v3::config as p;
    fn pair(kv: &Option<p::KeyValuePair>) -> Result<Option<MetadataPair>> {
        let Some(kv) = kv else { return Ok(None) };
        Ok(Some(MetadataPair {
            namespace: if kv.metadata_namespace.is_empty() {
                "envoy.filters.http.header_to_metadata".into()
            } else {
                kv.metadata_namespace.as_str().into()
            },
            key: required("key", &kv.key)?,
            value: opt_name(&kv.value),
            value_type: u8::try_from(kv.r#type).unwrap_or(0),
            base64: kv.encode == 1,
            rewrite: kv.regex_value_rewrite.as_ref().map(matcher::rewrite).transpose().at("regex_value_rewrite")?,
        }))
    }
    fn rule(r: &p::Rule) -> Result<HeaderToMetadataRule> {
        let (name, cookie) = match (r.header.as_str(), r.cookie.as_str()) {
            ("", "") => {
                return Err(invalid("One of Cookie or Header option needs to be specified"));
            }
            (h, "") => (HeaderName::new(h), false),
            ("", c) => (HeaderName::new(c), true),
            _ => return Err(invalid("Cannot specify both header and cookie")),
        };
        Ok(HeaderToMetadataRule {
            name,
            cookie,
            on_present: pair(&r.on_header_present).at("on_header_present")?,
            on_missing: pair(&r.on_header_missing).at("on_header_missing")?,
            remove: r.remove,
        })
    }
    Ok(HeaderToMetadata {
        request_rules: each("request_rules", &c.request_rules, rule)?,
        response_rules: each("response_rules", &c.response_rules, rule)?,
    })
}

/// `Mutations`
pub(super) fn header_mutations(m: &f::header_mutation::v3::Mutations, wins: bool) -> Result<HeaderMutation> {
    reject!(m; query_parameter_mutations, request_trailers_mutations);
    Ok(HeaderMutation {
        request: headers::mutations("request_mutations", &m.request_mutations)?,
        response: headers::mutations("response_mutations", &m.response_mutations)?,
        response_trailers: headers::mutations("response_trailers_mutations", &m.response_trailers_mutations)?,
        most_specific_wins: wins,
    })
}

/// HTTP `set_filter_state.Config`
pub(super) fn set_filter_state(c: &f::set_filter_state::v3::Config) -> Result<SetFilterState> {
    reject!(c; clear_route_cache);
    super::network::filter_state_values("on_request_headers", &c.on_request_headers)
}

fn set_metadata(c: &f::set_metadata::v3::Config) -> Result<Arc<[SetMetadataEntry]>> {
    let mut out = Vec::new();
    if let Some(s) = &c.value {
        out.push(SetMetadataEntry {
            namespace: required("metadata_namespace", &c.metadata_namespace)?,
            value: common::value_of_struct(s),
            allow_overwrite: false,
            merge: true,
        });
    }
    for (i, m) in c.metadata.iter().enumerate() {
        if m.typed_value.is_some() {
            return Err(unsupported("this field").at("typed_value").at_index("metadata", i));
        }
        out.push(SetMetadataEntry {
            namespace: required("metadata_namespace", &m.metadata_namespace).at_index("metadata", i)?,
            value: m
                .value
                .as_ref()
                .map(common::value_of_struct)
                .ok_or_else(|| missing("value").at_index("metadata", i))?,
            allow_overwrite: m.allow_overwrite,
            merge: false,
        });
    }
    Ok(out.into())
}

/// `StatefulSession`
pub(super) fn stateful_session(s: &f::stateful_session::v3::StatefulSession) -> Result<StatefulSession> {
    use protos::envoy::extensions::http::stateful_session as ext;
    reject!(s; status_on_strict_destination_not_found);
    let state = match &s.session_state {
        None => None,
        Some(e) => {
            let any = e.typed_config.as_ref().ok_or_else(|| no_config(&e.name).at("session_state"))?;
            let typed = Typed::open(&e.name, any).at("session_state")?;
            Some(match typed.message.as_str() {
                "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState" => {
                    let c: ext::cookie::v3::CookieBasedSessionState = typed.decode().at("session_state")?;
                    let c = c.cookie.ok_or_else(|| missing("cookie").at("session_state"))?;
                    SessionState::Cookie {
                        name: required("name", &c.name).at("session_state")?,
                        path: c.path.as_str().into(),
                        ttl: opt_duration("ttl", &c.ttl).at("session_state")?.unwrap_or_default(),
                        attributes: c
                            .attributes
                            .iter()
                            .map(|a| (a.name.as_str().into(), a.value.as_str().into()))
                            .collect(),
                    }
                }
                "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState" => {
                    let c: ext::header::v3::HeaderBasedSessionState = typed.decode().at("session_state")?;
                    SessionState::Header(HeaderName::new(&required("name", &c.name).at("session_state")?))
                }
                _ => return Err(typed.unknown().at("session_state")),
            })
        }
    };
    Ok(StatefulSession { state, strict: s.strict })
}

fn health_check(h: &f::health_check::v3::HealthCheck) -> Result<HealthCheckFilter> {
    Ok(HealthCheckFilter {
        pass_through: h.pass_through_mode.ok_or_else(|| missing("pass_through_mode"))?,
        cache_time: opt_duration("cache_time", &h.cache_time)?.unwrap_or_default(),
        headers: matcher::headers("headers", &h.headers)?,
        cluster_min_healthy_percentages: h
            .cluster_min_healthy_percentages
            .iter()
            .map(|(k, v)| (k.as_str().into(), v.value))
            .collect(),
    })
}

/// `OnDemandCds`
pub(super) fn on_demand(o: &Option<f::on_demand::v3::OnDemandCds>) -> Result<OnDemand> {
    let Some(o) = o else {
        return Ok(OnDemand::default());
    };
    reject!(o; resources_locator);
    let source = o.source.as_ref().ok_or_else(|| missing("source"))?;
    let source = delta_source(source).at("source")?;
    let timeout = opt_duration("timeout", &o.timeout)?.unwrap_or(Duration::from_secs(5));
    Ok(OnDemand { odcds: Some(Odcds { source, timeout }) })
}

/// A source that can be asked for single names at any time: only by delta.
pub(super) fn delta_source(source: &protos::envoy::config::core::v3::ConfigSource) -> Result<ConfigSource> {
    let source = common::config_source(source)?;
    if matches!(source, ConfigSource::Ads { .. } | ConfigSource::Grpc { delta: true, .. }) {
        return Ok(source);
    }
    Err(invalid("only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source."))
}

fn lua(l: &f::lua::v3::Lua) -> Result<Lua> {
    reject!(l; filter_context, package_paths, package_cpaths);
    let default_source = match (&l.default_source_code, l.inline_code.as_str()) {
        (Some(d), _) => Some(common::data_source(d).at("default_source_code")?),
        (None, "") => None,
        (None, code) => Some(crate::common::DataSource::Inline(code.as_bytes().into())),
    };
    let sources = l.source_codes.iter().map(|(name, d)| {
        let source = common::data_source(d).map_err(|e| e.at(&format!("source_codes[\"{name}\"]")))?;
        Ok((name.as_str().into(), source))
    });
    Ok(Lua {
        default_source,
        sources: sources.collect::<Result<Vec<_>>>()?.into(),
        stat_prefix: l.stat_prefix.as_str().into(),
        clear_route_cache: l.clear_route_cache.unwrap_or(true),
    })
}

fn alpn(a: &protos::istio::envoy::config::filter::http::alpn::v2alpha1::FilterConfig) -> Result<Alpn> {
    let mut out = Alpn { http10: Box::default(), http11: Box::default(), http2: Box::default() };
    for (i, o) in a.alpn_override.iter().enumerate() {
        let list = match o.upstream_protocol {
            0 => &mut out.http10,
            1 => &mut out.http11,
            2 => &mut out.http2,
            n => {
                return Err(invalid(format!("unknown value {n}")).at("upstream_protocol").at_index("alpn_override", i));
            }
        };
        *list = o.alpn_override.iter().map(|s| s.as_str().into()).collect();
    }
    Ok(out)
}

fn peer_metadata(c: &protos::io::istio::http::peer_metadata::Config) -> PeerMetadata {
    use p::discovery_method::MethodSpecifier as D;
    use p::propagation_method::MethodSpecifier as P;
    use protos::io::istio::http::peer_metadata::config as p;
    let discovery = |l: &[p::DiscoveryMethod]| {
        l.iter()
            .filter_map(|m| {
                Some(match m.method_specifier.as_ref()? {
                    D::Baggage(_) => PeerDiscovery::Baggage,
                    D::WorkloadDiscovery(_) => PeerDiscovery::WorkloadDiscovery,
                    D::IstioHeaders(_) => PeerDiscovery::IstioHeaders,
                })
            })
            .collect()
    };
    let headers = |l: &[p::PropagationMethod]| l.iter().any(|m| matches!(m.method_specifier, Some(P::IstioHeaders(_))));
    let skip = |l: &[p::PropagationMethod]| {
        l.iter().any(|m| matches!(&m.method_specifier, Some(P::IstioHeaders(h)) if h.skip_external_clusters))
    };
    PeerMetadata {
        downstream_discovery: discovery(&c.downstream_discovery),
        upstream_discovery: discovery(&c.upstream_discovery),
        downstream_propagation: headers(&c.downstream_propagation),
        upstream_propagation: headers(&c.upstream_propagation),
        upstream_baggage: c.upstream_propagation.iter().any(|m| matches!(m.method_specifier, Some(P::Baggage(_)))),
        skip_external_clusters: skip(&c.upstream_propagation),
        shared_with_upstream: c.shared_with_upstream,
        additional_labels: c.additional_labels.iter().map(|s| s.as_str().into()).collect(),
    }
}

/// `stats.PluginConfig`
pub(super) fn istio_stats(c: &protos::stats::PluginConfig) -> Result<IstioStats> {
    Ok(IstioStats {
        reporter: if c.reporter == 1 { IstioReporter::ServerGateway } else { IstioReporter::Unspecified },
        stat_prefix: None,
        metrics: each("metrics", &c.metrics, |m| {
            Ok(IstioMetricOverride {
                name: m.name.as_str().into(),
                dimensions: m.dimensions.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
                tags_to_remove: m.tags_to_remove.iter().map(|s| s.as_str().into()).collect(),
                match_expression: opt_name(&m.r#match),
                drop: m.drop,
            })
        })?,
        definitions: each("definitions", &c.definitions, |d| {
            Ok(IstioMetricDefinition {
                name: required("name", &d.name)?,
                value: required("value", &d.value)?,
                kind: u8::try_from(d.r#type).unwrap_or(0),
            })
        })?,
        disable_host_header_fallback: c.disable_host_header_fallback,
        tcp_reporting_duration: opt_duration("tcp_reporting_duration", &c.tcp_reporting_duration)?,
        rotation_interval: opt_duration("rotation_interval", &c.rotation_interval)?,
        graceful_deletion_interval: opt_duration("graceful_deletion_interval", &c.graceful_deletion_interval)?,
    })
}
