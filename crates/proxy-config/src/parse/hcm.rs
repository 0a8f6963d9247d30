//! How is an `HttpConnectionManager` compiled?

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::extensions as ext;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as p;

use super::common::{self, cidr, disabling, opt_duration, opt_name, required, streamed_source};
use super::{each, options, reject};
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::filters::http::HttpFilterKind;
use crate::hcm::*;
use crate::matcher::{CidrSet, HeaderName};
use crate::route::{InternalAddressConfig, UpgradeConfig};

const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const DELAYED_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
const REQUEST_HEADERS_KB: u32 = 60;

/// Compiles an `HttpConnectionManager`.
pub(super) fn hcm(h: &p::HttpConnectionManager) -> Result<Hcm> {
    use p::http_connection_manager::{RouteSpecifier, StripPortMode};
    reject!(h; early_header_mutation_extensions, forward_client_cert_matcher, path_normalization_options,
        proxy_status_config, forward_proto_config, drain_timeout_jitter, http3_protocol_options);
    if let Some(v) = &h.typed_header_validation_config {
        return Err(super::any::no_config(&v.name).at("typed_header_validation_config"));
    }
    let routes = match h.route_specifier.as_ref().ok_or_else(|| missing("route_specifier"))? {
        RouteSpecifier::RouteConfig(r) => RouteSource::Inline(Arc::new(super::route_table(r).at("route_config")?)),
        RouteSpecifier::Rds(r) => RouteSource::Rds {
            name: required("route_config_name", &r.route_config_name).at("rds")?,
            source: streamed_source(r.config_source.as_ref().ok_or_else(|| missing("config_source").at("rds"))?)
                .at("config_source")
                .at("rds")?,
        },
        RouteSpecifier::ScopedRoutes(_) => {
            return Err(unsupported("scoped_routes").at("scoped_routes"));
        }
    };
    let filters = http_filters("http_filters", &h.http_filters)?;
    let (pack_trace_reason, use_request_id_for_trace_sampling) = request_id(&h.request_id_extension)?;
    let common_options = h.common_http_protocol_options.unwrap_or_default();
    let log = h.access_log_options.unwrap_or_default();
    let scheme = h.scheme_header_transformation.clone().unwrap_or_default();
    Ok(Hcm {
        stat_prefix: required("stat_prefix", &h.stat_prefix)?,
        codec: match h.codec_type {
            0 => CodecType::Auto,
            1 => CodecType::Http1,
            2 => CodecType::Http2,
            3 => return Err(unsupported("HTTP3").at("codec_type")),
            n => return Err(invalid(format!("unknown value {n}")).at("codec_type")),
        },
        routes,
        filters,
        access_logs: super::access_log::logs(&h.access_log)?,
        access_log_flush_interval: opt_duration("access_log_flush_interval", &log.access_log_flush_interval)?
            .or(opt_duration("access_log_flush_interval", &h.access_log_flush_interval)?),
        flush_access_log_on_new_request: log.flush_access_log_on_new_request || h.flush_access_log_on_new_request,
        server_name: if h.server_name.is_empty() { "envoy".into() } else { h.server_name.as_str().into() },
        server_header: match h.server_header_transformation {
            0 => ServerHeader::Overwrite,
            1 => ServerHeader::AppendIfAbsent,
            2 => ServerHeader::PassThrough,
            n => return Err(invalid(format!("unknown value {n}")).at("server_header_transformation")),
        },
        use_remote_address: h.use_remote_address.unwrap_or(false),
        xff_num_trusted_hops: h.xff_num_trusted_hops,
        skip_xff_append: h.skip_xff_append,
        original_ip_detection: each(
            "original_ip_detection_extensions",
            &h.original_ip_detection_extensions,
            ip_detection,
        )?,
        internal_addresses: internal(&h.internal_address_config)?,
        via: opt_name(&h.via),
        ipv4_as_mapped: h.represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        xfcc: xfcc(h)?,
        generate_request_id: h.generate_request_id.unwrap_or(true),
        preserve_external_request_id: h.preserve_external_request_id,
        always_set_request_id_in_response: h.always_set_request_id_in_response,
        pack_trace_reason,
        use_request_id_for_trace_sampling,
        proxy_100_continue: h.proxy_100_continue,
        upgrades: each("upgrade_configs", &h.upgrade_configs, |u| {
            let filters = if u.filters.is_empty() { None } else { Some(http_filters("filters", &u.filters)?) };
            Ok(UpgradeConfig {
                upgrade_type: required("upgrade_type", &u.upgrade_type)?.to_ascii_lowercase().into(),
                enabled: u.enabled.unwrap_or(true),
                connect: None,
                filters,
            })
        })?,
        stream_idle_timeout: disabling("stream_idle_timeout", &h.stream_idle_timeout, Some(STREAM_IDLE_TIMEOUT))?,
        stream_flush_timeout: opt_duration("stream_flush_timeout", &h.stream_flush_timeout)?,
        request_timeout: disabling("request_timeout", &h.request_timeout, None)?,
        request_headers_timeout: disabling("request_headers_timeout", &h.request_headers_timeout, None)?,
        drain_timeout: opt_duration("drain_timeout", &h.drain_timeout)?.unwrap_or(DRAIN_TIMEOUT),
        delayed_close_timeout: opt_duration("delayed_close_timeout", &h.delayed_close_timeout)?
            .unwrap_or(DELAYED_CLOSE_TIMEOUT),
        idle_timeout: disabling("idle_timeout", &common_options.idle_timeout, Some(IDLE_TIMEOUT))
            .at("common_http_protocol_options")?,
        common: options::common(&common_options).at("common_http_protocol_options")?,
        path: PathNormalization {
            normalize: h.normalize_path.unwrap_or(false),
            merge_slashes: h.merge_slashes,
            escaped_slashes: match h.path_with_escaped_slashes_action {
                0 | 1 => EscapedSlashes::KeepUnchanged,
                2 => EscapedSlashes::RejectRequest,
                3 => EscapedSlashes::UnescapeAndRedirect,
                4 => EscapedSlashes::UnescapeAndForward,
                n => return Err(invalid(format!("unknown value {n}")).at("path_with_escaped_slashes_action")),
            },
        },
        strip_port: match (h.strip_matching_host_port, &h.strip_port_mode) {
            (true, Some(StripPortMode::StripAnyHostPort(true))) => {
                return Err(invalid(
                    "Error: Only one of `strip_matching_host_port` or `strip_any_host_port` can be set.",
                ));
            }
            (_, Some(StripPortMode::StripAnyHostPort(true))) => StripPort::Any,
            (true, _) => StripPort::Matching,
            (false, _) => StripPort::Keep,
        },
        strip_trailing_host_dot: h.strip_trailing_host_dot,
        http1: options::http1(&h.http_protocol_options.clone().unwrap_or_default(), true)
            .at("http_protocol_options")?,
        http2: options::http2(&h.http2_protocol_options.clone().unwrap_or_default()).at("http2_protocol_options")?,
        max_request_headers_kb: match h.max_request_headers_kb {
            Some(n) if n == 0 || n > 8192 => {
                return Err(invalid("value must be inside range (0, 8192]").at("max_request_headers_kb"));
            }
            n => n.unwrap_or(REQUEST_HEADERS_KB),
        },
        add_user_agent: h.add_user_agent.unwrap_or(false),
        append_x_forwarded_port: h.append_x_forwarded_port,
        add_proxy_protocol_connection_state: h.add_proxy_protocol_connection_state.unwrap_or(true),
        stream_error_on_invalid_http_message: h.stream_error_on_invalid_http_message.unwrap_or(false),
        scheme_to_overwrite: scheme.transformation.map(|t| match t {
            protos::envoy::config::core::v3::scheme_header_transformation::Transformation::SchemeToOverwrite(s) => {
                s.into()
            }
        }),
        scheme_match_upstream: scheme.match_upstream,
        append_local_overload: h.append_local_overload,
        tracing: h.tracing.as_ref().map(super::tracing::hcm).transpose().at("tracing")?.map(Arc::new),
        local_reply: h.local_reply_config.as_ref().map(local_reply).transpose().at("local_reply_config")?.map(Arc::new),
    })
}

/// A filter list that must end with the router (and have it nowhere else).
fn http_filters(field: &str, list: &[p::HttpFilter]) -> Result<Arc<[HttpFilter]>> {
    let all: Vec<Option<HttpFilter>> = each(field, list, super::http_filters::filter)?;
    let filters: Vec<HttpFilter> = all.into_iter().flatten().collect();
    for (i, f) in filters.iter().enumerate() {
        let terminal = matches!(f.kind, HttpFilterKind::Router(_));
        let last = i + 1 == filters.len();
        if terminal && !last {
            return Err(invalid(format!(
                "Error: terminal filter named {} of type {} must be the last filter in a http filter chain.",
                f.name, f.name
            ))
            .at_index(field, i));
        }
        if last && !terminal {
            return Err(invalid(format!(
                "Error: non-terminal filter named {} of type {} is the last filter in a http filter chain.",
                f.name, f.name
            ))
            .at_index(field, i));
        }
    }
    if filters.is_empty() {
        return Err(missing(field));
    }
    Ok(filters.into())
}

fn request_id(r: &Option<p::RequestIdExtension>) -> Result<(bool, bool)> {
    let Some(any) = r.as_ref().and_then(|r| r.typed_config.as_ref()) else {
        return Ok((true, true));
    };
    let c: ext::request_id::uuid::v3::UuidRequestIdConfig =
        super::any::expect("envoy.request_id.uuid", any).at("request_id_extension")?;
    Ok((c.pack_trace_reason.unwrap_or(true), c.use_request_id_for_trace_sampling.unwrap_or(true)))
}

fn internal(c: &Option<p::http_connection_manager::InternalAddressConfig>) -> Result<InternalAddressConfig> {
    let Some(c) = c else {
        // Envoy's default: no network is internal unless configured (RFC 1918 trust ended with 1.33).
        return Ok(InternalAddressConfig::default());
    };
    Ok(InternalAddressConfig {
        unix_sockets: c.unix_sockets,
        cidrs: CidrSet(each("cidr_ranges", &c.cidr_ranges, cidr).at("internal_address_config")?),
    })
}

fn xfcc(h: &p::HttpConnectionManager) -> Result<ForwardClientCert> {
    let set = h.set_current_client_cert_details.unwrap_or_default();
    reject!(set; issuer, format);
    let mode = match h.forward_client_cert_details {
        0 => XfccMode::Sanitize,
        1 => XfccMode::ForwardOnly,
        2 => XfccMode::AppendForward,
        3 => XfccMode::SanitizeSet,
        4 => XfccMode::AlwaysForwardOnly,
        n => return Err(invalid(format!("unknown value {n}")).at("forward_client_cert_details")),
    };
    Ok(ForwardClientCert {
        mode,
        subject: set.subject.unwrap_or(false),
        cert: set.cert,
        chain: set.chain,
        dns: set.dns,
        uri: set.uri,
    })
}

fn ip_detection(e: &protos::envoy::config::core::v3::TypedExtensionConfig) -> Result<IpDetection> {
    use ext::http::original_ip_detection as d;
    let any = e.typed_config.as_ref().ok_or_else(|| super::any::no_config(&e.name))?;
    let typed = super::any::Typed::open(&e.name, any)?;
    match typed.message.as_str() {
        "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig" => {
            let c: d::xff::v3::XffConfig = typed.decode()?;
            let trusted = match &c.xff_trusted_cidrs {
                None => None,
                Some(t) => Some(CidrSet(each("cidrs", &t.cidrs, cidr).at("xff_trusted_cidrs")?)),
            };
            if trusted.is_some() && c.xff_num_trusted_hops > 0 {
                return Err(invalid("Cannot set both xff_num_trusted_hops and xff_trusted_cidrs"));
            }
            Ok(IpDetection::Xff {
                num_trusted_hops: c.xff_num_trusted_hops,
                trusted_cidrs: trusted,
                skip_xff_append: c.skip_xff_append.unwrap_or(true),
            })
        }
        "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig" => {
            let c: d::custom_header::v3::CustomHeaderConfig = typed.decode()?;
            Ok(IpDetection::CustomHeader {
                name: HeaderName::new(&required("header_name", &c.header_name)?),
                allow_trusted: c.allow_extension_to_set_address_as_trusted,
                reject_status: c
                    .reject_with_status
                    .as_ref()
                    .map(|_| common::http_status(&c.reject_with_status, 403, 400)),
            })
        }
        _ => Err(typed.unknown()),
    }
}

fn local_reply(l: &p::LocalReplyConfig) -> Result<LocalReply> {
    Ok(LocalReply {
        mappers: each("mappers", &l.mappers, |m| {
            let filter = m.filter.as_ref().ok_or_else(|| missing("filter"))?;
            Ok(ReplyMapper {
                filter: super::access_log::filter(filter).at("filter")?,
                status: m.status_code.map(common::status).transpose().at("status_code")?,
                body: m.body.as_ref().map(common::inline).transpose().at("body")?,
                body_format: super::format::opt_substitution("body_format_override", &m.body_format_override)?,
                headers: super::headers::additions("headers_to_add", &m.headers_to_add)?,
            })
        })?,
        body_format: super::format::opt_substitution("body_format", &l.body_format)?,
    })
}
