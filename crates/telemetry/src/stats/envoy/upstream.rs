//! Stats of clusters.
//!
//! Names as stock Envoy 1.40 prints them. `_` stands for `.` in the constants.

/// Scope `cluster.<name>.`: what `ClusterTrafficStats`, `ClusterConfigUpdateStats`, `ClusterLbStats` and `ClusterEndpointStats` hold in Envoy.
pub mod cluster {
    crate::stat_schema! { Cluster;
        counters {
            ASSIGNMENT_STALE = "assignment_stale",
            ASSIGNMENT_TIMEOUT_RECEIVED = "assignment_timeout_received",
            ASSIGNMENT_USE_CACHED = "assignment_use_cached",
            BIND_ERRORS = "bind_errors",
            LB_HEALTHY_PANIC = "lb_healthy_panic",
            LB_LOCAL_CLUSTER_NOT_OK = "lb_local_cluster_not_ok",
            LB_RECALCULATE_ZONE_STRUCTURES = "lb_recalculate_zone_structures",
            LB_SUBSETS_CREATED = "lb_subsets_created",
            LB_SUBSETS_FALLBACK = "lb_subsets_fallback",
            LB_SUBSETS_FALLBACK_PANIC = "lb_subsets_fallback_panic",
            LB_SUBSETS_REMOVED = "lb_subsets_removed",
            LB_SUBSETS_SELECTED = "lb_subsets_selected",
            LB_ZONE_CLUSTER_TOO_SMALL = "lb_zone_cluster_too_small",
            LB_ZONE_NO_CAPACITY_LEFT = "lb_zone_no_capacity_left",
            LB_ZONE_ROUTING_ALL_DIRECTLY = "lb_zone_routing_all_directly",
            LB_ZONE_ROUTING_CROSS_ZONE = "lb_zone_routing_cross_zone",
            LB_ZONE_ROUTING_SAMPLED = "lb_zone_routing_sampled",
            MEMBERSHIP_CHANGE = "membership_change",
            ORIGINAL_DST_HOST_INVALID = "original_dst_host_invalid",
            RETRY_OR_SHADOW_ABANDONED = "retry_or_shadow_abandoned",
            UPDATE_ATTEMPT = "update_attempt",
            UPDATE_EMPTY = "update_empty",
            UPDATE_FAILURE = "update_failure",
            UPDATE_NO_REBUILD = "update_no_rebuild",
            UPDATE_SUCCESS = "update_success",
            UPSTREAM_CX_CLOSE_NOTIFY = "upstream_cx_close_notify",
            UPSTREAM_CX_CONNECT_ATTEMPTS_EXCEEDED = "upstream_cx_connect_attempts_exceeded",
            UPSTREAM_CX_CONNECT_FAIL = "upstream_cx_connect_fail",
            UPSTREAM_CX_CONNECT_TIMEOUT = "upstream_cx_connect_timeout",
            UPSTREAM_CX_CONNECT_WITH_0_RTT = "upstream_cx_connect_with_0_rtt",
            UPSTREAM_CX_DESTROY = "upstream_cx_destroy",
            UPSTREAM_CX_DESTROY_LOCAL = "upstream_cx_destroy_local",
            UPSTREAM_CX_DESTROY_LOCAL_WITH_ACTIVE_RQ = "upstream_cx_destroy_local_with_active_rq",
            UPSTREAM_CX_DESTROY_REMOTE = "upstream_cx_destroy_remote",
            UPSTREAM_CX_DESTROY_REMOTE_WITH_ACTIVE_RQ = "upstream_cx_destroy_remote_with_active_rq",
            UPSTREAM_CX_DESTROY_WITH_ACTIVE_RQ = "upstream_cx_destroy_with_active_rq",
            UPSTREAM_CX_HTTP1_TOTAL = "upstream_cx_http1_total",
            UPSTREAM_CX_HTTP2_TOTAL = "upstream_cx_http2_total",
            UPSTREAM_CX_HTTP3_TOTAL = "upstream_cx_http3_total",
            UPSTREAM_CX_IDLE_TIMEOUT = "upstream_cx_idle_timeout",
            UPSTREAM_CX_MAX_DURATION_REACHED = "upstream_cx_max_duration_reached",
            UPSTREAM_CX_MAX_REQUESTS = "upstream_cx_max_requests",
            UPSTREAM_CX_NONE_HEALTHY = "upstream_cx_none_healthy",
            UPSTREAM_CX_OVERFLOW = "upstream_cx_overflow",
            UPSTREAM_CX_POOL_OVERFLOW = "upstream_cx_pool_overflow",
            UPSTREAM_CX_PRECONNECT_SKIPPED = "upstream_cx_preconnect_skipped",
            UPSTREAM_CX_PROTOCOL_ERROR = "upstream_cx_protocol_error",
            UPSTREAM_CX_RX_BYTES_TOTAL = "upstream_cx_rx_bytes_total",
            UPSTREAM_CX_TOTAL = "upstream_cx_total",
            UPSTREAM_CX_TX_BYTES_TOTAL = "upstream_cx_tx_bytes_total",
            UPSTREAM_FLOW_CONTROL_BACKED_UP_TOTAL = "upstream_flow_control_backed_up_total",
            UPSTREAM_FLOW_CONTROL_DRAINED_TOTAL = "upstream_flow_control_drained_total",
            UPSTREAM_FLOW_CONTROL_PAUSED_READING_TOTAL = "upstream_flow_control_paused_reading_total",
            UPSTREAM_FLOW_CONTROL_RESUMED_READING_TOTAL = "upstream_flow_control_resumed_reading_total",
            UPSTREAM_HTTP3_BROKEN = "upstream_http3_broken",
            UPSTREAM_INTERNAL_REDIRECT_FAILED_TOTAL = "upstream_internal_redirect_failed_total",
            UPSTREAM_INTERNAL_REDIRECT_SUCCEEDED_TOTAL = "upstream_internal_redirect_succeeded_total",
            UPSTREAM_RQ_0RTT = "upstream_rq_0rtt",
            UPSTREAM_RQ_ACTIVE_OVERFLOW = "upstream_rq_active_overflow",
            UPSTREAM_RQ_CANCELLED = "upstream_rq_cancelled",
            UPSTREAM_RQ_MAINTENANCE_MODE = "upstream_rq_maintenance_mode",
            UPSTREAM_RQ_MAX_DURATION_REACHED = "upstream_rq_max_duration_reached",
            UPSTREAM_RQ_PENDING_FAILURE_EJECT = "upstream_rq_pending_failure_eject",
            UPSTREAM_RQ_PENDING_OVERFLOW = "upstream_rq_pending_overflow",
            UPSTREAM_RQ_PENDING_TOTAL = "upstream_rq_pending_total",
            UPSTREAM_RQ_PER_TRY_IDLE_TIMEOUT = "upstream_rq_per_try_idle_timeout",
            UPSTREAM_RQ_PER_TRY_TIMEOUT = "upstream_rq_per_try_timeout",
            UPSTREAM_RQ_RETRY = "upstream_rq_retry",
            UPSTREAM_RQ_RETRY_BACKOFF_EXPONENTIAL = "upstream_rq_retry_backoff_exponential",
            UPSTREAM_RQ_RETRY_BACKOFF_RATELIMITED = "upstream_rq_retry_backoff_ratelimited",
            UPSTREAM_RQ_RETRY_LIMIT_EXCEEDED = "upstream_rq_retry_limit_exceeded",
            UPSTREAM_RQ_RETRY_OVERFLOW = "upstream_rq_retry_overflow",
            UPSTREAM_RQ_RETRY_SUCCESS = "upstream_rq_retry_success",
            UPSTREAM_RQ_RX_RESET = "upstream_rq_rx_reset",
            UPSTREAM_RQ_RX_RESET_NO_ERROR = "upstream_rq_rx_reset_no_error",
            UPSTREAM_RQ_TIMEOUT = "upstream_rq_timeout",
            UPSTREAM_RQ_TOTAL = "upstream_rq_total",
            UPSTREAM_RQ_TX_RESET = "upstream_rq_tx_reset",
            UPSTREAM_RQ_1XX = "upstream_rq_1xx" lazy,
            UPSTREAM_RQ_2XX = "upstream_rq_2xx" lazy,
            UPSTREAM_RQ_3XX = "upstream_rq_3xx" lazy,
            UPSTREAM_RQ_4XX = "upstream_rq_4xx" lazy,
            UPSTREAM_RQ_5XX = "upstream_rq_5xx" lazy,
            UPSTREAM_RQ_COMPLETED = "upstream_rq_completed" lazy,
            EXTERNAL_UPSTREAM_RQ_1XX = "external.upstream_rq_1xx" lazy,
            EXTERNAL_UPSTREAM_RQ_2XX = "external.upstream_rq_2xx" lazy,
            EXTERNAL_UPSTREAM_RQ_3XX = "external.upstream_rq_3xx" lazy,
            EXTERNAL_UPSTREAM_RQ_4XX = "external.upstream_rq_4xx" lazy,
            EXTERNAL_UPSTREAM_RQ_5XX = "external.upstream_rq_5xx" lazy,
            EXTERNAL_UPSTREAM_RQ_COMPLETED = "external.upstream_rq_completed" lazy,
            INTERNAL_UPSTREAM_RQ_1XX = "internal.upstream_rq_1xx" lazy,
            INTERNAL_UPSTREAM_RQ_2XX = "internal.upstream_rq_2xx" lazy,
            INTERNAL_UPSTREAM_RQ_3XX = "internal.upstream_rq_3xx" lazy,
            INTERNAL_UPSTREAM_RQ_4XX = "internal.upstream_rq_4xx" lazy,
            INTERNAL_UPSTREAM_RQ_5XX = "internal.upstream_rq_5xx" lazy,
            INTERNAL_UPSTREAM_RQ_COMPLETED = "internal.upstream_rq_completed" lazy,
            CANARY_UPSTREAM_RQ_1XX = "canary.upstream_rq_1xx" lazy,
            CANARY_UPSTREAM_RQ_2XX = "canary.upstream_rq_2xx" lazy,
            CANARY_UPSTREAM_RQ_3XX = "canary.upstream_rq_3xx" lazy,
            CANARY_UPSTREAM_RQ_4XX = "canary.upstream_rq_4xx" lazy,
            CANARY_UPSTREAM_RQ_5XX = "canary.upstream_rq_5xx" lazy,
            CANARY_UPSTREAM_RQ_COMPLETED = "canary.upstream_rq_completed" lazy,
        }
        gauges {
            LB_SUBSETS_ACTIVE = "lb_subsets_active",
            MAX_HOST_WEIGHT = "max_host_weight",
            MEMBERSHIP_DEGRADED = "membership_degraded",
            MEMBERSHIP_EXCLUDED = "membership_excluded",
            MEMBERSHIP_HEALTHY = "membership_healthy",
            MEMBERSHIP_TOTAL = "membership_total",
            UPSTREAM_CX_ACTIVE = "upstream_cx_active",
            UPSTREAM_CX_RX_BYTES_BUFFERED = "upstream_cx_rx_bytes_buffered",
            UPSTREAM_CX_TX_BYTES_BUFFERED = "upstream_cx_tx_bytes_buffered",
            UPSTREAM_QUEUE_OVERLOADED = "upstream_queue_overloaded",
            UPSTREAM_RQ_ACTIVE = "upstream_rq_active",
            UPSTREAM_RQ_PENDING_ACTIVE = "upstream_rq_pending_active",
            VERSION = "version",
            WARMING_STATE = "warming_state",
        }
        histograms {
            UPSTREAM_CX_CONNECT_MS = "upstream_cx_connect_ms" ms,
            UPSTREAM_CX_LENGTH_MS = "upstream_cx_length_ms" ms,
            UPSTREAM_RQ_PER_CX = "upstream_rq_per_cx" plain,
            UPSTREAM_RQ_TIME = "upstream_rq_time" ms lazy,
            EXTERNAL_UPSTREAM_RQ_TIME = "external.upstream_rq_time" ms lazy,
            INTERNAL_UPSTREAM_RQ_TIME = "internal.upstream_rq_time" ms lazy,
            CANARY_UPSTREAM_RQ_TIME = "canary.upstream_rq_time" ms lazy,
        }
        texts { }
        codes {
            UPSTREAM_RQ = "upstream_rq_",
            EXTERNAL_UPSTREAM_RQ = "external.upstream_rq_",
            INTERNAL_UPSTREAM_RQ = "internal.upstream_rq_",
            CANARY_UPSTREAM_RQ = "canary.upstream_rq_",
        }
    }
}

/// Scope `cluster.<name>.circuit_breakers.<default|high>.`.
pub mod circuit_breakers {
    crate::stat_schema! { CircuitBreakers;
        counters { }
        gauges {
            CX_OPEN = "cx_open",
            CX_POOL_OPEN = "cx_pool_open",
            RQ_OPEN = "rq_open",
            RQ_PENDING_OPEN = "rq_pending_open",
            RQ_RETRY_OPEN = "rq_retry_open",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.circuit_breakers.<default|high>.` with `track_remaining`.
pub mod circuit_breakers_remaining {
    crate::stat_schema! { CircuitBreakersRemaining;
        counters { }
        gauges {
            REMAINING_CX = "remaining_cx",
            REMAINING_CX_POOLS = "remaining_cx_pools",
            REMAINING_PENDING = "remaining_pending",
            REMAINING_RETRIES = "remaining_retries",
            REMAINING_RQ = "remaining_rq",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.outlier_detection.`.
pub mod outlier_detection {
    crate::stat_schema! { OutlierDetection;
        counters {
            EJECTIONS_CONSECUTIVE_5XX = "ejections_consecutive_5xx",
            EJECTIONS_DETECTED_CONSECUTIVE_5XX = "ejections_detected_consecutive_5xx",
            EJECTIONS_DETECTED_CONSECUTIVE_GATEWAY_FAILURE = "ejections_detected_consecutive_gateway_failure",
            EJECTIONS_DETECTED_CONSECUTIVE_LOCAL_ORIGIN_FAILURE = "ejections_detected_consecutive_local_origin_failure",
            EJECTIONS_DETECTED_FAILURE_PERCENTAGE = "ejections_detected_failure_percentage",
            EJECTIONS_DETECTED_LOCAL_ORIGIN_FAILURE_PERCENTAGE = "ejections_detected_local_origin_failure_percentage",
            EJECTIONS_DETECTED_LOCAL_ORIGIN_SUCCESS_RATE = "ejections_detected_local_origin_success_rate",
            EJECTIONS_DETECTED_SUCCESS_RATE = "ejections_detected_success_rate",
            EJECTIONS_ENFORCED_CONSECUTIVE_5XX = "ejections_enforced_consecutive_5xx",
            EJECTIONS_ENFORCED_CONSECUTIVE_GATEWAY_FAILURE = "ejections_enforced_consecutive_gateway_failure",
            EJECTIONS_ENFORCED_CONSECUTIVE_LOCAL_ORIGIN_FAILURE = "ejections_enforced_consecutive_local_origin_failure",
            EJECTIONS_ENFORCED_FAILURE_PERCENTAGE = "ejections_enforced_failure_percentage",
            EJECTIONS_ENFORCED_LOCAL_ORIGIN_FAILURE_PERCENTAGE = "ejections_enforced_local_origin_failure_percentage",
            EJECTIONS_ENFORCED_LOCAL_ORIGIN_SUCCESS_RATE = "ejections_enforced_local_origin_success_rate",
            EJECTIONS_ENFORCED_SUCCESS_RATE = "ejections_enforced_success_rate",
            EJECTIONS_ENFORCED_TOTAL = "ejections_enforced_total",
            EJECTIONS_OVERFLOW = "ejections_overflow",
            EJECTIONS_SUCCESS_RATE = "ejections_success_rate",
            EJECTIONS_TOTAL = "ejections_total",
        }
        gauges {
            EJECTIONS_ACTIVE = "ejections_active",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.health_check.`.
pub mod health_check {
    crate::stat_schema! { HealthCheck;
        counters {
            ATTEMPT = "attempt",
            FAILURE = "failure",
            NETWORK_FAILURE = "network_failure",
            PASSIVE_FAILURE = "passive_failure",
            SUCCESS = "success",
            VERIFY_CLUSTER = "verify_cluster",
        }
        gauges {
            DEGRADED = "degraded",
            HEALTHY = "healthy",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.default.`: transport socket match of the default socket.
pub mod total_match_count {
    crate::stat_schema! { TotalMatchCount;
        counters {
            TOTAL_MATCH_COUNT = "total_match_count",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.ssl.` and `listener.<address>.ssl.`.
pub mod ssl {
    crate::stat_schema! { Ssl;
        counters {
            CONNECTION_ERROR = "connection_error",
            FAIL_VERIFY_CERT_HASH = "fail_verify_cert_hash",
            FAIL_VERIFY_ERROR = "fail_verify_error",
            FAIL_VERIFY_NO_CERT = "fail_verify_no_cert",
            FAIL_VERIFY_SAN = "fail_verify_san",
            HANDSHAKE = "handshake",
            NO_CERTIFICATE = "no_certificate",
            OCSP_STAPLE_FAILED = "ocsp_staple_failed",
            OCSP_STAPLE_OMITTED = "ocsp_staple_omitted",
            OCSP_STAPLE_REQUESTS = "ocsp_staple_requests",
            OCSP_STAPLE_RESPONSES = "ocsp_staple_responses",
            SESSION_REUSED = "session_reused",
            WAS_KEY_USAGE_INVALID = "was_key_usage_invalid",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.ssl.certificate.<certificate>.`, `listener.<address>.ssl.certificate.<certificate>.`; see
/// [`crate::stats::Expiring`].
pub mod ssl_certificate {
    crate::stat_schema! { SslCertificate;
        counters { }
        gauges {
            EXPIRATION_UNIX_TIME_SECONDS = "expiration_unix_time_seconds",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// One counter whose name is all prefix: `cluster.<name>.ssl.versions.TLSv1.3` and the like.
pub mod ssl_named {
    crate::stat_schema! { SslNamed;
        counters {
            TIMES = "",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster.<name>.client_ssl_socket_factory.`, `listener.<address>.server_ssl_socket_factory.`.
pub mod ssl_context {
    crate::stat_schema! { SslContext;
        counters {
            DOWNSTREAM_CONTEXT_SECRETS_NOT_READY = "downstream_context_secrets_not_ready",
            SSL_CONTEXT_UPDATE_BY_SDS = "ssl_context_update_by_sds",
            UPSTREAM_CONTEXT_SECRETS_NOT_READY = "upstream_context_secrets_not_ready",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}
