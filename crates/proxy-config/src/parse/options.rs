//! How are HTTP protocol options compiled? Shared by the HCM and by clusters.

use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;

use super::common::{disabling, opt_duration, opt_name};
use super::reject;
use crate::error::{At, Result, invalid, missing};
use crate::hcm::{CommonHttp, HeaderCase, Http1Options, Http2Options, Underscores};

/// `HttpProtocolOptions`; the idle timeout is returned apart because its default differs by user.
pub(super) fn common(o: &core::HttpProtocolOptions) -> Result<CommonHttp> {
    reject!(o; max_connection_duration_jitter);
    let underscores = match o.headers_with_underscores_action {
        0 => Underscores::Allow,
        1 => Underscores::RejectRequest,
        2 => Underscores::DropHeader,
        n => {
            return Err(invalid(format!("unknown value {n}")).at("headers_with_underscores_action"));
        }
    };
    Ok(CommonHttp {
        max_connection_duration: disabling("max_connection_duration", &o.max_connection_duration, None)?,
        max_headers_count: o.max_headers_count.unwrap_or(100),
        max_stream_duration: disabling("max_stream_duration", &o.max_stream_duration, None)?,
        underscores,
        max_requests_per_connection: o.max_requests_per_connection.filter(|n| *n > 0),
    })
}

/// `Http1ProtocolOptions`; `absolute_url` is the default of `allow_absolute_url`.
pub(super) fn http1(o: &core::Http1ProtocolOptions, absolute_url: bool) -> Result<Http1Options> {
    use core::http1_protocol_options::header_key_format::HeaderFormat as F;
    reject!(o; ignore_http_11_upgrade);
    let header_case = match o.header_key_format.as_ref().map(|f| f.header_format.as_ref()) {
        None => HeaderCase::Lower,
        Some(Some(F::ProperCaseWords(_))) => HeaderCase::ProperCase,
        Some(Some(F::StatefulFormatter(e))) => {
            let any = e.typed_config.as_ref().ok_or_else(|| missing("typed_config"))?;
            super::any::expect::<PreserveCaseFormatterConfig>(&e.name, any).at("stateful_formatter")?;
            HeaderCase::Preserve
        }
        Some(None) => return Err(missing("header_format").at("header_key_format")),
    };
    Ok(Http1Options {
        allow_absolute_url: o.allow_absolute_url.unwrap_or(absolute_url),
        accept_http_10: o.accept_http_10,
        default_host_for_http_10: opt_name(&o.default_host_for_http_10),
        header_case,
        enable_trailers: o.enable_trailers,
        allow_chunked_length: o.allow_chunked_length,
        stream_error_on_invalid: o.override_stream_error_on_invalid_http_message,
        send_fully_qualified_url: o.send_fully_qualified_url,
        allow_custom_methods: o.allow_custom_methods,
    })
}

/// `Http2ProtocolOptions`
pub(super) fn http2(o: &core::Http2ProtocolOptions) -> Result<Http2Options> {
    reject!(o; allow_metadata, custom_settings_parameters);
    let window = |field: &str, n: Option<u32>, least: u32| match n {
        Some(n) if !(least..=i32::MAX as u32).contains(&n) => {
            Err(invalid(format!("value must be inside range [{least}, 2147483647]")).at(field))
        }
        n => Ok(n),
    };
    let keepalive = o.connection_keepalive.as_ref();
    let keep = |pick: fn(&core::KeepaliveSettings) -> &Option<protos::prost_types::Duration>| {
        keepalive.map_or(Ok(None), |k| opt_duration("connection_keepalive", pick(k)))
    };
    Ok(Http2Options {
        hpack_table_size: o.hpack_table_size,
        max_concurrent_streams: window("max_concurrent_streams", o.max_concurrent_streams, 1)?,
        initial_stream_window_size: window("initial_stream_window_size", o.initial_stream_window_size, 65_535)?,
        initial_connection_window_size: window(
            "initial_connection_window_size",
            o.initial_connection_window_size,
            65_535,
        )?,
        allow_connect: o.allow_connect,
        max_outbound_frames: o.max_outbound_frames,
        keepalive_interval: keep(|k| &k.interval)?,
        keepalive_timeout: keep(|k| &k.timeout)?,
        keepalive_idle_interval: keep(|k| &k.connection_idle_interval)?,
        stream_error_on_invalid: o
            .override_stream_error_on_invalid_http_message
            .or(o.stream_error_on_invalid_http_messaging.then_some(true)),
    })
}
