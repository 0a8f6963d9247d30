//! Which limits, timeouts and normalisations does `connectionSettings` of the proxy's configuration ask for? Applied to
//! connection managers, listeners and clusters alike. The `EDGE` profile fills what is not stated, on gateways only.

use api::Duration;
use api::mesh::{
    ConnectionProfile, ConnectionSettings, HeadersWithUnderscoresAction as Underscores,
    PathWithEscapedSlashesAction as Slashes,
};
use names::NodeType;
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use crate::Inputs;
use crate::wire::api_duration;

/// The settings of this proxy; `None` without any.
pub fn settings(inputs: &Inputs) -> Option<ConnectionSettings> {
    let stated = inputs.proxy().config(inputs.mesh(), "/connectionSettings")?;
    let stated: ConnectionSettings = api::from_value(stated).ok()?;
    Some(with_profile(stated, inputs.proxy().node_type))
}

/// The settings with the defaults of their profile. Follows Envoy's advice for edge proxies.
pub fn with_profile(mut s: ConnectionSettings, node: NodeType) -> ConnectionSettings {
    if s.profile != ConnectionProfile::Edge || node != NodeType::Router {
        return s;
    }
    fn or<T>(field: &mut Option<T>, default: T) {
        field.get_or_insert(default);
    }
    or(&mut s.listener_per_connection_buffer_limit_bytes, 32 * 1024);
    or(&mut s.cluster_per_connection_buffer_limit_bytes, 32 * 1024);
    or(&mut s.http_idle_timeout, Duration::from_secs(3600));
    or(&mut s.http_request_timeout, Duration::from_secs(300));
    or(&mut s.http_stream_idle_timeout, Duration::from_secs(300));
    or(&mut s.http_max_concurrent_streams, 100);
    or(&mut s.http2_initial_stream_window_size, 64 * 1024);
    or(&mut s.http2_initial_connection_window_size, 1024 * 1024);
    or(&mut s.http_merge_slashes, true);
    if s.http_headers_with_underscores_action == Underscores::default() {
        s.http_headers_with_underscores_action = Underscores::RejectRequest;
    }
    if s.http_path_with_escaped_slashes_action == Slashes::default() {
        s.http_path_with_escaped_slashes_action = Slashes::UnescapeAndRedirect;
    }
    s
}

fn size(n: Option<i32>) -> Option<u32> {
    n.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
}

/// Buffer limit of downstream connections.
pub(crate) fn listener_buffer(inputs: &Inputs) -> Option<u32> {
    size(settings(inputs)?.listener_per_connection_buffer_limit_bytes)
}

/// Buffer limit of upstream connections.
pub(crate) fn cluster_buffer(inputs: &Inputs) -> Option<u32> {
    size(settings(inputs)?.cluster_per_connection_buffer_limit_bytes)
}

/// Applies the HTTP part to a connection manager.
pub fn to_manager(s: &ConnectionSettings, out: &mut hcm::HttpConnectionManager) {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as Action;
    let set = |field: &mut Option<prost_types::Duration>, stated: Option<Duration>| {
        if let Some(stated) = stated {
            *field = Some(api_duration(stated));
        }
    };
    set(&mut out.stream_idle_timeout, s.http_stream_idle_timeout);
    set(&mut out.request_timeout, s.http_request_timeout);
    set(&mut out.request_headers_timeout, s.http_request_headers_timeout);
    set(&mut out.drain_timeout, s.http_drain_timeout);
    let underscores = match s.http_headers_with_underscores_action {
        Underscores::RejectRequest => core::http_protocol_options::HeadersWithUnderscoresAction::RejectRequest,
        Underscores::DropHeader => core::http_protocol_options::HeadersWithUnderscoresAction::DropHeader,
        _ => core::http_protocol_options::HeadersWithUnderscoresAction::Allow,
    };
    let durations = [s.http_idle_timeout, s.http_max_connection_duration, s.http_max_stream_duration];
    let allow = core::http_protocol_options::HeadersWithUnderscoresAction::Allow;
    if durations.iter().any(Option::is_some) || underscores != allow {
        let common = out.common_http_protocol_options.get_or_insert_default();
        set(&mut common.idle_timeout, s.http_idle_timeout);
        set(&mut common.max_connection_duration, s.http_max_connection_duration);
        set(&mut common.max_stream_duration, s.http_max_stream_duration);
        common.headers_with_underscores_action = underscores as i32;
    }
    let streams = size(s.http_max_concurrent_streams);
    let stream_window = size(s.http2_initial_stream_window_size);
    let connection_window = size(s.http2_initial_connection_window_size);
    if streams.is_some() || stream_window.is_some() || connection_window.is_some() {
        let http2 = out.http2_protocol_options.get_or_insert_default();
        http2.max_concurrent_streams = streams.or(http2.max_concurrent_streams);
        http2.initial_stream_window_size = stream_window.or(http2.initial_stream_window_size);
        http2.initial_connection_window_size = connection_window.or(http2.initial_connection_window_size);
    }
    if let Some(merge) = s.http_merge_slashes {
        out.merge_slashes = merge;
    }
    let slashes = match s.http_path_with_escaped_slashes_action {
        Slashes::KeepUnchanged => Some(Action::KeepUnchanged),
        Slashes::RejectRequest => Some(Action::RejectRequest),
        Slashes::UnescapeAndRedirect => Some(Action::UnescapeAndRedirect),
        Slashes::UnescapeAndForward => Some(Action::UnescapeAndForward),
        _ => None,
    };
    if let Some(action) = slashes {
        out.path_with_escaped_slashes_action = action as i32;
    }
}
