//! Stats of the HTTP connection manager and its filters.
//!
//! Names as stock Envoy 1.40 prints them. `_` stands for `.` in the constants.

/// Scope `http.<stat_prefix>.`: `HttpConnectionManagerStats`.
pub mod hcm {
    crate::stat_schema! { Hcm;
        counters {
            DOWNSTREAM_CX_DELAYED_CLOSE_TIMEOUT = "downstream_cx_delayed_close_timeout",
            DOWNSTREAM_CX_DESTROY = "downstream_cx_destroy",
            DOWNSTREAM_CX_DESTROY_ACTIVE_RQ = "downstream_cx_destroy_active_rq",
            DOWNSTREAM_CX_DESTROY_LOCAL = "downstream_cx_destroy_local",
            DOWNSTREAM_CX_DESTROY_LOCAL_ACTIVE_RQ = "downstream_cx_destroy_local_active_rq",
            DOWNSTREAM_CX_DESTROY_REMOTE = "downstream_cx_destroy_remote",
            DOWNSTREAM_CX_DESTROY_REMOTE_ACTIVE_RQ = "downstream_cx_destroy_remote_active_rq",
            DOWNSTREAM_CX_DRAIN_CLOSE = "downstream_cx_drain_close",
            DOWNSTREAM_CX_HTTP1_TOTAL = "downstream_cx_http1_total",
            DOWNSTREAM_CX_HTTP2_TOTAL = "downstream_cx_http2_total",
            DOWNSTREAM_CX_HTTP3_TOTAL = "downstream_cx_http3_total",
            DOWNSTREAM_CX_IDLE_TIMEOUT = "downstream_cx_idle_timeout",
            DOWNSTREAM_CX_MAX_DURATION_REACHED = "downstream_cx_max_duration_reached",
            DOWNSTREAM_CX_MAX_REQUESTS_REACHED = "downstream_cx_max_requests_reached",
            DOWNSTREAM_CX_OVERLOAD_DISABLE_KEEPALIVE = "downstream_cx_overload_disable_keepalive",
            DOWNSTREAM_CX_PROTOCOL_ERROR = "downstream_cx_protocol_error",
            DOWNSTREAM_CX_RX_BYTES_TOTAL = "downstream_cx_rx_bytes_total",
            DOWNSTREAM_CX_SSL_TOTAL = "downstream_cx_ssl_total",
            DOWNSTREAM_CX_TOTAL = "downstream_cx_total",
            DOWNSTREAM_CX_TX_BYTES_TOTAL = "downstream_cx_tx_bytes_total",
            DOWNSTREAM_CX_UPGRADES_TOTAL = "downstream_cx_upgrades_total",
            DOWNSTREAM_FLOW_CONTROL_PAUSED_READING_TOTAL = "downstream_flow_control_paused_reading_total",
            DOWNSTREAM_FLOW_CONTROL_RESUMED_READING_TOTAL = "downstream_flow_control_resumed_reading_total",
            DOWNSTREAM_RQ_1XX = "downstream_rq_1xx",
            DOWNSTREAM_RQ_2XX = "downstream_rq_2xx",
            DOWNSTREAM_RQ_3XX = "downstream_rq_3xx",
            DOWNSTREAM_RQ_4XX = "downstream_rq_4xx",
            DOWNSTREAM_RQ_5XX = "downstream_rq_5xx",
            DOWNSTREAM_RQ_COMPLETED = "downstream_rq_completed",
            DOWNSTREAM_RQ_FAILED_PATH_NORMALIZATION = "downstream_rq_failed_path_normalization",
            DOWNSTREAM_RQ_HEADER_TIMEOUT = "downstream_rq_header_timeout",
            DOWNSTREAM_RQ_HTTP1_TOTAL = "downstream_rq_http1_total",
            DOWNSTREAM_RQ_HTTP2_TOTAL = "downstream_rq_http2_total",
            DOWNSTREAM_RQ_HTTP3_TOTAL = "downstream_rq_http3_total",
            DOWNSTREAM_RQ_IDLE_TIMEOUT = "downstream_rq_idle_timeout",
            DOWNSTREAM_RQ_MAX_DURATION_REACHED = "downstream_rq_max_duration_reached",
            DOWNSTREAM_RQ_NON_RELATIVE_PATH = "downstream_rq_non_relative_path",
            DOWNSTREAM_RQ_OVERLOAD_CLOSE = "downstream_rq_overload_close",
            DOWNSTREAM_RQ_REDIRECTED_WITH_NORMALIZED_PATH = "downstream_rq_redirected_with_normalized_path",
            DOWNSTREAM_RQ_REJECTED_VIA_IP_DETECTION = "downstream_rq_rejected_via_ip_detection",
            DOWNSTREAM_RQ_RESPONSE_BEFORE_RQ_COMPLETE = "downstream_rq_response_before_rq_complete",
            DOWNSTREAM_RQ_RX_RESET = "downstream_rq_rx_reset",
            DOWNSTREAM_RQ_TIMEOUT = "downstream_rq_timeout",
            DOWNSTREAM_RQ_TOO_LARGE = "downstream_rq_too_large",
            DOWNSTREAM_RQ_TOO_MANY_PREMATURE_RESETS = "downstream_rq_too_many_premature_resets",
            DOWNSTREAM_RQ_TOTAL = "downstream_rq_total",
            DOWNSTREAM_RQ_TX_RESET = "downstream_rq_tx_reset",
            DOWNSTREAM_RQ_WS_ON_NON_WS_ROUTE = "downstream_rq_ws_on_non_ws_route",
            RS_TOO_LARGE = "rs_too_large",
        }
        gauges {
            DOWNSTREAM_CX_ACTIVE = "downstream_cx_active",
            DOWNSTREAM_CX_HTTP1_ACTIVE = "downstream_cx_http1_active",
            DOWNSTREAM_CX_HTTP1_SOFT_DRAIN = "downstream_cx_http1_soft_drain",
            DOWNSTREAM_CX_HTTP2_ACTIVE = "downstream_cx_http2_active",
            DOWNSTREAM_CX_HTTP3_ACTIVE = "downstream_cx_http3_active",
            DOWNSTREAM_CX_RX_BYTES_BUFFERED = "downstream_cx_rx_bytes_buffered",
            DOWNSTREAM_CX_SSL_ACTIVE = "downstream_cx_ssl_active",
            DOWNSTREAM_CX_TX_BYTES_BUFFERED = "downstream_cx_tx_bytes_buffered",
            DOWNSTREAM_CX_UPGRADES_ACTIVE = "downstream_cx_upgrades_active",
            DOWNSTREAM_RQ_ACTIVE = "downstream_rq_active",
        }
        histograms {
            DOWNSTREAM_CX_LENGTH_MS = "downstream_cx_length_ms" ms,
            DOWNSTREAM_RQ_TIME = "downstream_rq_time" ms,
        }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.` of the router filter: `FilterStats`.
pub mod router {
    crate::stat_schema! { Router;
        counters {
            NO_CLUSTER = "no_cluster",
            NO_ROUTE = "no_route",
            PASSTHROUGH_INTERNAL_REDIRECT_BAD_LOCATION = "passthrough_internal_redirect_bad_location",
            PASSTHROUGH_INTERNAL_REDIRECT_NO_ROUTE = "passthrough_internal_redirect_no_route",
            PASSTHROUGH_INTERNAL_REDIRECT_PREDICATE = "passthrough_internal_redirect_predicate",
            PASSTHROUGH_INTERNAL_REDIRECT_TOO_MANY_REDIRECTS = "passthrough_internal_redirect_too_many_redirects",
            PASSTHROUGH_INTERNAL_REDIRECT_UNSAFE_SCHEME = "passthrough_internal_redirect_unsafe_scheme",
            RQ_DIRECT_RESPONSE = "rq_direct_response",
            RQ_OVERLOAD_LOCAL_REPLY = "rq_overload_local_reply",
            RQ_REDIRECT = "rq_redirect",
            RQ_RESET_AFTER_DOWNSTREAM_RESPONSE_STARTED = "rq_reset_after_downstream_response_started",
            RQ_TOTAL = "rq_total",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.tracing.`.
pub mod tracing {
    crate::stat_schema! { Tracing;
        counters {
            CLIENT_ENABLED = "client_enabled",
            HEALTH_CHECK = "health_check",
            NOT_TRACEABLE = "not_traceable",
            RANDOM_SAMPLING = "random_sampling",
            SERVICE_FORCED = "service_forced",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.rds.<route name>.`.
pub mod rds {
    crate::stat_schema! { Rds;
        counters {
            CONFIG_RELOAD = "config_reload",
            INIT_FETCH_TIMEOUT = "init_fetch_timeout",
            UPDATE_ATTEMPT = "update_attempt",
            UPDATE_EMPTY = "update_empty",
            UPDATE_FAILURE = "update_failure",
            UPDATE_REJECTED = "update_rejected",
            UPDATE_SUCCESS = "update_success",
        }
        gauges {
            CONFIG_RELOAD_TIME_MS = "config_reload_time_ms",
            UPDATE_TIME = "update_time",
            VERSION = "version",
        }
        histograms {
            UPDATE_DURATION = "update_duration" ms,
        }
        texts {
            VERSION_TEXT = "version_text",
        }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.vhds.<route name>.`.
pub mod vhds {
    crate::stat_schema! { Vhds;
        counters {
            CONFIG_RELOAD = "config_reload",
            INIT_FETCH_TIMEOUT = "init_fetch_timeout",
            UPDATE_ATTEMPT = "update_attempt",
            UPDATE_EMPTY = "update_empty",
            UPDATE_FAILURE = "update_failure",
            UPDATE_REJECTED = "update_rejected",
            UPDATE_SUCCESS = "update_success",
        }
        gauges {
            UPDATE_TIME = "update_time",
            VERSION = "version",
        }
        histograms {
            UPDATE_DURATION = "update_duration" ms,
        }
        texts {
            VERSION_TEXT = "version_text",
        }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.fault.`.
pub mod fault {
    crate::stat_schema! { Fault;
        counters {
            ABORTS_INJECTED = "aborts_injected",
            DELAYS_INJECTED = "delays_injected",
            FAULTS_OVERFLOW = "faults_overflow",
            RESPONSE_RL_INJECTED = "response_rl_injected",
        }
        gauges {
            ACTIVE_FAULTS = "active_faults",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.fault.<downstream cluster>.`.
pub mod fault_by_cluster {
    crate::stat_schema! { FaultByCluster;
        counters {
            ABORTS_INJECTED = "aborts_injected",
            DELAYS_INJECTED = "delays_injected",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.cors.`.
pub mod cors {
    crate::stat_schema! { Cors;
        counters {
            ORIGIN_INVALID = "origin_invalid",
            ORIGIN_VALID = "origin_valid",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.rbac.` and `<network stat_prefix>.rbac.`.
pub mod rbac {
    crate::stat_schema! { Rbac;
        counters {
            ALLOWED = "allowed",
            DENIED = "denied",
            SHADOW_ALLOWED = "shadow_allowed",
            SHADOW_DENIED = "shadow_denied",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.csrf.`.
pub mod csrf {
    crate::stat_schema! { Csrf;
        counters {
            MISSING_SOURCE_ORIGIN = "missing_source_origin",
            REQUEST_INVALID = "request_invalid",
            REQUEST_VALID = "request_valid",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.jwt_authn.`.
pub mod jwt_authn {
    crate::stat_schema! { JwtAuthn;
        counters {
            ALLOWED = "allowed",
            CORS_PREFLIGHT_BYPASSED = "cors_preflight_bypassed",
            DENIED = "denied",
            JWKS_FETCH_FAILED = "jwks_fetch_failed",
            JWKS_FETCH_SUCCESS = "jwks_fetch_success",
            JWT_CACHE_HIT = "jwt_cache_hit",
            JWT_CACHE_MISS = "jwt_cache_miss",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.ext_authz.`.
pub mod ext_authz {
    crate::stat_schema! { ExtAuthz;
        counters {
            DENIED = "denied",
            DISABLED = "disabled",
            ERROR = "error",
            FAILURE_MODE_ALLOWED = "failure_mode_allowed",
            IGNORED_DYNAMIC_METADATA = "ignored_dynamic_metadata",
            INVALID = "invalid",
            OK = "ok",
            OMITTED_RESPONSE_HEADERS = "omitted_response_headers",
            REQUEST_HEADER_LIMITS_REACHED = "request_header_limits_reached",
            RESPONSE_HEADER_LIMITS_REACHED = "response_header_limits_reached",
            TIMEOUT = "timeout",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.ext_authz.`: what became of checks of requests to that cluster.
pub mod cluster_ext_authz {
    crate::stat_schema! { ExtAuthz;
        counters {
            DENIED = "denied" lazy,
            ERROR = "error" lazy,
            FAILURE_MODE_ALLOWED = "failure_mode_allowed" lazy,
            OK = "ok" lazy,
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.ratelimit.`: what became of questions about requests to that cluster.
pub mod cluster_ratelimit {
    crate::stat_schema! { RateLimit;
        counters {
            ERROR = "error" lazy,
            FAILURE_MODE_ALLOWED = "failure_mode_allowed" lazy,
            OK = "ok" lazy,
            OVER_LIMIT = "over_limit" lazy,
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `<stat_prefix>.http_local_rate_limit.`.
pub mod local_rate_limit {
    crate::stat_schema! { LocalRateLimit;
        counters {
            ENABLED = "enabled",
            ENFORCED = "enforced",
            OK = "ok",
            RATE_LIMITED = "rate_limited",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.buffer.`.
pub mod buffer {
    crate::stat_schema! { Buffer;
        counters {
            RQ_TIMEOUT = "rq_timeout",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.ext_proc.`.
pub mod ext_proc {
    crate::stat_schema! { ExtProc;
        counters {
            CLEAR_ROUTE_CACHE_DISABLED = "clear_route_cache_disabled",
            CLEAR_ROUTE_CACHE_IGNORED = "clear_route_cache_ignored",
            FAILURE_MODE_ALLOWED = "failure_mode_allowed",
            IMMEDIATE_RESPONSES_SENT = "immediate_responses_sent",
            MESSAGE_TIMEOUTS = "message_timeouts",
            OVERRIDE_MESSAGE_TIMEOUT_IGNORED = "override_message_timeout_ignored",
            OVERRIDE_MESSAGE_TIMEOUT_RECEIVED = "override_message_timeout_received",
            REJECTED_HEADER_MUTATIONS = "rejected_header_mutations",
            SERVER_HALF_CLOSED = "server_half_closed",
            SPURIOUS_MSGS_RECEIVED = "spurious_msgs_received",
            STREAM_MSGS_RECEIVED = "stream_msgs_received",
            STREAM_MSGS_SENT = "stream_msgs_sent",
            STREAMS_CLOSED = "streams_closed",
            STREAMS_FAILED = "streams_failed",
            STREAMS_STARTED = "streams_started",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.grpc.[<service>.<method>.]`, and the same with `grpc-web`.
pub mod grpc_call {
    crate::stat_schema! { Call;
        counters {
            CODE_0 = "0" lazy,
            CODE_1 = "1" lazy,
            CODE_10 = "10" lazy,
            CODE_11 = "11" lazy,
            CODE_12 = "12" lazy,
            CODE_13 = "13" lazy,
            CODE_14 = "14" lazy,
            CODE_15 = "15" lazy,
            CODE_16 = "16" lazy,
            CODE_2 = "2" lazy,
            CODE_3 = "3" lazy,
            CODE_4 = "4" lazy,
            CODE_5 = "5" lazy,
            CODE_6 = "6" lazy,
            CODE_7 = "7" lazy,
            CODE_8 = "8" lazy,
            CODE_9 = "9" lazy,
            FAILURE = "failure" lazy,
            REQUEST_MESSAGE_COUNT = "request_message_count" lazy,
            RESPONSE_MESSAGE_COUNT = "response_message_count" lazy,
            SUCCESS = "success" lazy,
            TOTAL = "total" lazy,
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }

    /// Counters of the statuses, by number.
    pub const BY_CODE: [crate::stats::Counter<Call>; 17] = [
        CODE_0, CODE_1, CODE_2, CODE_3, CODE_4, CODE_5, CODE_6, CODE_7, CODE_8, CODE_9, CODE_10, CODE_11, CODE_12,
        CODE_13, CODE_14, CODE_15, CODE_16,
    ];
}

/// Scope `http.<stat_prefix>.lua.`.
pub mod lua {
    crate::stat_schema! { Lua;
        counters {
            ERRORS = "errors",
            EXECUTIONS = "executions",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.set_metadata.`.
pub mod set_metadata {
    crate::stat_schema! { SetMetadata;
        counters {
            OVERWRITE_DENIED = "overwrite_denied",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.decompressor.<name>.<library>.request.` and `.response.`.
pub mod decompressor {
    crate::stat_schema! { Decompressor;
        counters {
            DECOMPRESSED = "decompressed",
            NOT_DECOMPRESSED = "not_decompressed",
            TOTAL_COMPRESSED_BYTES = "total_compressed_bytes",
            TOTAL_UNCOMPRESSED_BYTES = "total_uncompressed_bytes",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http.<stat_prefix>.compressor.<name>.<library>.`.
pub mod gzip {
    crate::stat_schema! { Compressor;
        counters {
            COMPRESSED = "compressed",
            CONTENT_LENGTH_TOO_SMALL = "content_length_too_small",
            HEADER_COMPRESSOR_OVERSHADOWED = "header_compressor_overshadowed",
            HEADER_COMPRESSOR_USED = "header_compressor_used",
            HEADER_IDENTITY = "header_identity",
            HEADER_NOT_VALID = "header_not_valid",
            HEADER_WILDCARD = "header_wildcard",
            NO_ACCEPT_HEADER = "no_accept_header",
            NOT_COMPRESSED = "not_compressed",
            NOT_COMPRESSED_ETAG = "not_compressed_etag",
            TOTAL_COMPRESSED_BYTES = "total_compressed_bytes",
            TOTAL_UNCOMPRESSED_BYTES = "total_uncompressed_bytes",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http1.` and `cluster.<name>.http1.`: `Http1::CodecStats`.
pub mod http1 {
    crate::stat_schema! { Http1;
        counters {
            DROPPED_HEADERS_WITH_UNDERSCORES = "dropped_headers_with_underscores",
            METADATA_NOT_SUPPORTED_ERROR = "metadata_not_supported_error",
            REQUESTS_REJECTED_WITH_UNDERSCORES_IN_HEADERS = "requests_rejected_with_underscores_in_headers",
            RESPONSE_FLOOD = "response_flood",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `http2.` and `cluster.<name>.http2.`: `Http2::CodecStats`.
pub mod http2 {
    crate::stat_schema! { Http2;
        counters {
            DROPPED_HEADERS_WITH_UNDERSCORES = "dropped_headers_with_underscores",
            GOAWAY_SENT = "goaway_sent",
            HEADER_OVERFLOW = "header_overflow",
            HEADERS_CB_NO_STREAM = "headers_cb_no_stream",
            INBOUND_EMPTY_FRAMES_FLOOD = "inbound_empty_frames_flood",
            INBOUND_PRIORITY_FRAMES_FLOOD = "inbound_priority_frames_flood",
            INBOUND_WINDOW_UPDATE_FRAMES_FLOOD = "inbound_window_update_frames_flood",
            KEEPALIVE_TIMEOUT = "keepalive_timeout",
            METADATA_EMPTY_FRAMES = "metadata_empty_frames",
            OUTBOUND_CONTROL_FLOOD = "outbound_control_flood",
            OUTBOUND_FLOOD = "outbound_flood",
            REQUESTS_REJECTED_WITH_UNDERSCORES_IN_HEADERS = "requests_rejected_with_underscores_in_headers",
            RX_MESSAGING_ERROR = "rx_messaging_error",
            RX_RESET = "rx_reset",
            STREAM_REFUSED_ERRORS = "stream_refused_errors",
            TRAILERS = "trailers",
            TX_FLUSH_TIMEOUT = "tx_flush_timeout",
            TX_RESET = "tx_reset",
        }
        gauges {
            DEFERRED_STREAM_CLOSE = "deferred_stream_close",
            OUTBOUND_CONTROL_FRAMES_ACTIVE = "outbound_control_frames_active",
            OUTBOUND_FRAMES_ACTIVE = "outbound_frames_active",
            PENDING_SEND_BYTES = "pending_send_bytes",
            STREAMS_ACTIVE = "streams_active",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `vhost.<virtual host>.vcluster.<virtual cluster>.`.
pub mod vhost {
    crate::stat_schema! { Vcluster;
        counters {
            UPSTREAM_RQ_1XX = "upstream_rq_1xx" lazy,
            UPSTREAM_RQ_2XX = "upstream_rq_2xx" lazy,
            UPSTREAM_RQ_3XX = "upstream_rq_3xx" lazy,
            UPSTREAM_RQ_4XX = "upstream_rq_4xx" lazy,
            UPSTREAM_RQ_5XX = "upstream_rq_5xx" lazy,
            UPSTREAM_RQ_COMPLETED = "upstream_rq_completed" lazy,
            UPSTREAM_RQ_RETRY = "upstream_rq_retry",
            UPSTREAM_RQ_RETRY_LIMIT_EXCEEDED = "upstream_rq_retry_limit_exceeded",
            UPSTREAM_RQ_RETRY_OVERFLOW = "upstream_rq_retry_overflow",
            UPSTREAM_RQ_RETRY_SUCCESS = "upstream_rq_retry_success",
            UPSTREAM_RQ_TIMEOUT = "upstream_rq_timeout",
            UPSTREAM_RQ_TOTAL = "upstream_rq_total",
        }
        gauges { }
        histograms { UPSTREAM_RQ_TIME = "upstream_rq_time" ms lazy }
        texts { }
        codes {
            UPSTREAM_RQ = "upstream_rq_",
        }
    }
}
