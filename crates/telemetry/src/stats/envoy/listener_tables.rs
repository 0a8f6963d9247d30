//! Stats of listeners, listener filters and network filters.
//!
//! Names as stock Envoy 1.40 prints them. `_` stands for `.` in the constants.

/// Scope `listener.<address>.`.
pub mod listener {
    crate::stat_schema! { Listener;
        counters {
            DOWNSTREAM_CX_DESTROY = "downstream_cx_destroy",
            DOWNSTREAM_CX_OVERFLOW = "downstream_cx_overflow",
            DOWNSTREAM_CX_OVERLOAD_REJECT = "downstream_cx_overload_reject",
            DOWNSTREAM_CX_TOTAL = "downstream_cx_total",
            DOWNSTREAM_CX_TRANSPORT_SOCKET_CONNECT_TIMEOUT = "downstream_cx_transport_socket_connect_timeout",
            DOWNSTREAM_GLOBAL_CX_OVERFLOW = "downstream_global_cx_overflow",
            DOWNSTREAM_LISTENER_FILTER_ERROR = "downstream_listener_filter_error",
            DOWNSTREAM_LISTENER_FILTER_REMOTE_CLOSE = "downstream_listener_filter_remote_close",
            DOWNSTREAM_PRE_CX_TIMEOUT = "downstream_pre_cx_timeout",
            EXTENSION_CONFIG_MISSING = "extension_config_missing",
            NETWORK_EXTENSION_CONFIG_MISSING = "network_extension_config_missing",
            NO_FILTER_CHAIN_MATCH = "no_filter_chain_match",
        }
        gauges {
            DOWNSTREAM_CX_ACTIVE = "downstream_cx_active",
            DOWNSTREAM_PRE_CX_ACTIVE = "downstream_pre_cx_active",
        }
        histograms {
            CONNECTIONS_ACCEPTED_PER_SOCKET_EVENT = "connections_accepted_per_socket_event" plain,
            DOWNSTREAM_CX_LENGTH_MS = "downstream_cx_length_ms" ms,
        }
        texts { }
        codes { }
    }
}

/// Scope `listener.<address>.worker_<n>.`.
pub mod listener_worker {
    crate::stat_schema! { ListenerWorker;
        counters {
            DOWNSTREAM_CX_TOTAL = "downstream_cx_total",
        }
        gauges {
            DOWNSTREAM_CX_ACTIVE = "downstream_cx_active",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `listener.<address>.http.<stat_prefix>.`.
pub mod listener_http {
    crate::stat_schema! { ListenerHttp;
        counters {
            DOWNSTREAM_RQ_1XX = "downstream_rq_1xx",
            DOWNSTREAM_RQ_2XX = "downstream_rq_2xx",
            DOWNSTREAM_RQ_3XX = "downstream_rq_3xx",
            DOWNSTREAM_RQ_4XX = "downstream_rq_4xx",
            DOWNSTREAM_RQ_5XX = "downstream_rq_5xx",
            DOWNSTREAM_RQ_COMPLETED = "downstream_rq_completed",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `tls_inspector.`.
pub mod tls_inspector {
    crate::stat_schema! { TlsInspector;
        counters {
            ALPN_FOUND = "alpn_found",
            ALPN_NOT_FOUND = "alpn_not_found",
            CLIENT_HELLO_TOO_LARGE = "client_hello_too_large",
            SNI_FOUND = "sni_found",
            SNI_NOT_FOUND = "sni_not_found",
            TLS_FOUND = "tls_found",
            TLS_NOT_FOUND = "tls_not_found",
        }
        gauges { }
        histograms {
            BYTES_PROCESSED = "bytes_processed" bytes,
        }
        texts { }
        codes { }
    }
}

/// Scope `http_inspector.`.
pub mod http_inspector {
    crate::stat_schema! { HttpInspector;
        counters {
            HTTP10_FOUND = "http10_found",
            HTTP11_FOUND = "http11_found",
            HTTP2_FOUND = "http2_found",
            HTTP_NOT_FOUND = "http_not_found",
            READ_ERROR = "read_error",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `tcp.<stat_prefix>.`.
pub mod tcp {
    crate::stat_schema! { Tcp;
        counters {
            DOWNSTREAM_CX_NO_ROUTE = "downstream_cx_no_route",
            DOWNSTREAM_CX_RX_BYTES_TOTAL = "downstream_cx_rx_bytes_total",
            DOWNSTREAM_CX_TOTAL = "downstream_cx_total",
            DOWNSTREAM_CX_TX_BYTES_TOTAL = "downstream_cx_tx_bytes_total",
            DOWNSTREAM_FLOW_CONTROL_PAUSED_READING_TOTAL = "downstream_flow_control_paused_reading_total",
            DOWNSTREAM_FLOW_CONTROL_RESUMED_READING_TOTAL = "downstream_flow_control_resumed_reading_total",
            EARLY_DATA_RECEIVED_COUNT_TOTAL = "early_data_received_count_total",
            IDLE_TIMEOUT = "idle_timeout",
            MAX_DOWNSTREAM_CONNECTION_DURATION = "max_downstream_connection_duration",
            UPSTREAM_FLUSH_TOTAL = "upstream_flush_total",
        }
        gauges {
            DOWNSTREAM_CX_RX_BYTES_BUFFERED = "downstream_cx_rx_bytes_buffered",
            DOWNSTREAM_CX_TX_BYTES_BUFFERED = "downstream_cx_tx_bytes_buffered",
            UPSTREAM_FLUSH_ACTIVE = "upstream_flush_active",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `tcp.<stat_prefix>.`, where clusters are asked for.
pub mod tcp_on_demand {
    crate::stat_schema! { TcpOnDemand;
        counters {
            ON_DEMAND_CLUSTER_ATTEMPT = "on_demand_cluster_attempt",
            ON_DEMAND_CLUSTER_MISSING = "on_demand_cluster_missing",
            ON_DEMAND_CLUSTER_SUCCESS = "on_demand_cluster_success",
            ON_DEMAND_CLUSTER_TIMEOUT = "on_demand_cluster_timeout",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `ext_authz.<stat_prefix>.`.
pub mod ext_authz_network {
    crate::stat_schema! { ExtAuthzNetwork;
        counters {
            CX_CLOSED = "cx_closed",
            DENIED = "denied",
            DISABLED = "disabled",
            ERROR = "error",
            FAILURE_MODE_ALLOWED = "failure_mode_allowed",
            INVALID = "invalid",
            OK = "ok",
            TIMEOUT = "timeout",
            TOTAL = "total",
        }
        gauges {
            ACTIVE = "active",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `proxy_proto.[<stat_prefix>.]`.
pub mod proxy_proto {
    crate::stat_schema! { ProxyProto;
        counters {
            NOT_FOUND_ALLOWED = "not_found_allowed",
            NOT_FOUND_DISALLOWED = "not_found_disallowed",
            V1_DISALLOWED = "versions.v1.disallowed",
            V1_ERROR = "versions.v1.error",
            V1_FOUND = "versions.v1.found",
            V2_DISALLOWED = "versions.v2.disallowed",
            V2_ERROR = "versions.v2.error",
            V2_FOUND = "versions.v2.found",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// The root scope: what all PROXY protocol filters count together.
pub mod proxy_proto_root {
    crate::stat_schema! { Root;
        counters {
            DOWNSTREAM_CX_PROXY_PROTO_ERROR = "downstream_cx_proxy_proto_error",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `connection_limit.<stat_prefix>.`.
pub mod connection_limit {
    crate::stat_schema! { ConnectionLimit;
        counters {
            LIMITED_CONNECTIONS = "limited_connections",
        }
        gauges {
            ACTIVE_CONNECTIONS = "active_connections",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `local_rate_limit.<stat_prefix>.`.
pub mod network_local_rate_limit {
    crate::stat_schema! { NetworkLocalRateLimit;
        counters {
            RATE_LIMITED = "rate_limited",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}
