//! How is the connection manager configured? A few of its options at a time.

use super::{Protocol, TYPE, filters, merge, routes};
use crate::rng::Rng;
use serde_json::{Value, json};

/// One line of the access log per request, without times and generated ids.
const LOG: &str = "%REQ(X-CASE)%|%REQ(:METHOD)%|%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%|%PROTOCOL%|%RESPONSE_CODE%|\
%RESPONSE_FLAGS%|%RESPONSE_CODE_DETAILS%|%BYTES_RECEIVED%|%REQ(:AUTHORITY)%|%UPSTREAM_CLUSTER%|%UPSTREAM_HOST%|\
%ROUTE_NAME%|%UPSTREAM_REQUEST_ATTEMPT_COUNT%|%VIRTUAL_CLUSTER_NAME%|%RESP(location)%|%UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

pub fn one(rng: &mut Rng, protocol: Protocol, log: &str) -> Value {
    let mut config = json!({
        "@type": format!("{TYPE}filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "~d",
        "route_config": routes::table(rng),
        "http_filters": filters::chain(rng, protocol),
        "access_log": [{"name": "f", "typed_config": {"@type": format!("{TYPE}access_loggers.file.v3.FileAccessLog"),
            "path": log, "log_format": {"text_format_source": {"inline_string": LOG}}}}]
    });
    let options = [
        json!({"use_remote_address": true}),
        json!({"use_remote_address": true, "xff_num_trusted_hops": 1}),
        json!({"use_remote_address": false, "xff_num_trusted_hops": 2}),
        json!({"skip_xff_append": true}),
        json!({"server_name": "custom"}),
        json!({"server_header_transformation": "APPEND_IF_ABSENT"}),
        json!({"server_header_transformation": "PASS_THROUGH"}),
        json!({"normalize_path": true}),
        json!({"normalize_path": true, "merge_slashes": true}),
        json!({"path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD"}),
        json!({"path_with_escaped_slashes_action": "REJECT_REQUEST"}),
        json!({"path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT"}),
        json!({"strip_matching_host_port": true}),
        json!({"strip_any_host_port": true}),
        json!({"strip_trailing_host_dot": true}),
        json!({"generate_request_id": false}),
        json!({"preserve_external_request_id": true}),
        json!({"always_set_request_id_in_response": true}),
        json!({"via": "proxy"}),
        json!({"append_x_forwarded_port": true}),
        json!({"common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"}}),
        json!({"common_http_protocol_options": {"headers_with_underscores_action": "DROP_HEADER"}}),
        json!({"http_protocol_options": {"accept_http_10": true, "default_host_for_http_10": "a.test"}}),
        json!({"http_protocol_options": {"header_key_format": {"proper_case_words": {}}}}),
        json!({"add_user_agent": true}),
        json!({"forward_client_cert_details": "SANITIZE_SET", "set_current_client_cert_details": {"uri": true, "subject": true, "dns": true}}),
        json!({"forward_client_cert_details": "APPEND_FORWARD", "set_current_client_cert_details": {"uri": true}}),
        json!({"forward_client_cert_details": "ALWAYS_FORWARD_ONLY"}),
        json!({"common_http_protocol_options": {"max_headers_count": 9}}),
        json!({"max_request_headers_kb": 1}),
        json!({"proxy_100_continue": true}),
        json!({"upgrade_configs": [{"upgrade_type": "websocket"}]}),
        json!({"http_protocol_options": {"enable_trailers": true}}),
        json!({"http_protocol_options": {"allow_absolute_url": false}}),
        json!({"stream_idle_timeout": "5s"}),
        json!({"request_timeout": "5s"}),
        json!({"internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]}, "use_remote_address": true}),
        json!({"forward_client_cert_details": "APPEND_FORWARD"}),
        json!({"local_reply_config": {"mappers": [{"filter": {"status_code_filter": {"comparison": {"op": "EQ", "value": {"default_value": 503, "runtime_key": "none"}}}},
            "status_code": 599, "body": {"inline_string": "mapped"}, "headers_to_add": [{"header": {"key": "x-mapped", "value": "%RESPONSE_CODE_DETAILS%"}}]}],
            "body_format": {"json_format": {"status": "%RESPONSE_CODE%", "path": "%REQ(:PATH)%", "body": "%LOCAL_REPLY_BODY%"}}}}),
        json!({"local_reply_config": {"body_format": {"text_format_source": {"inline_string": "%RESPONSE_CODE%:%LOCAL_REPLY_BODY%"}}}}),
    ];
    for _ in 0..rng.below(4) {
        merge(&mut config, options[rng.below(options.len())].clone());
    }
    if protocol != Protocol::Http1 && protocol != Protocol::TlsHttp1 {
        merge(&mut config, json!({"codec_type": "HTTP2"}));
    }
    json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": config})
}
