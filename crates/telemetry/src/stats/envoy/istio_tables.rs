//! Istio's standard metrics, and the counts of its metadata exchange.
//!
//! Names as Istio's proxy prints them. Every row is lazy: a series exists once something was counted in it.

/// The standard metrics. Scope `istiocustom.`, labels as explicit tags.
pub mod istio {
    crate::stat_schema! { Istio;
        counters {
            REQUESTS_TOTAL = "istio_requests_total" lazy,
            REQUEST_MESSAGES_TOTAL = "istio_request_messages_total" lazy,
            RESPONSE_MESSAGES_TOTAL = "istio_response_messages_total" lazy,
            TCP_CONNECTIONS_OPENED_TOTAL = "istio_tcp_connections_opened_total" lazy,
            TCP_CONNECTIONS_CLOSED_TOTAL = "istio_tcp_connections_closed_total" lazy,
            TCP_SENT_BYTES_TOTAL = "istio_tcp_sent_bytes_total" lazy,
            TCP_RECEIVED_BYTES_TOTAL = "istio_tcp_received_bytes_total" lazy,
        }
        gauges { BUILD = "istio_build" lazy }
        histograms {
            REQUEST_DURATION_MILLISECONDS = "istio_request_duration_milliseconds" ms lazy,
            REQUEST_BYTES = "istio_request_bytes" bytes lazy,
            RESPONSE_BYTES = "istio_response_bytes" bytes lazy,
        }
        texts { }
        codes { }
    }
}

/// A metric that the configuration defines. Scope: its whole name.
pub mod istio_custom {
    crate::stat_schema! { IstioCustom;
        counters { COUNT = "" lazy }
        gauges { LEVEL = "" lazy }
        histograms { VALUES = "" bytes lazy }
        texts { }
        codes { }
    }
}

/// Scope `metadata_exchange.`.
pub mod metadata_exchange {
    crate::stat_schema! { MetadataExchange;
        counters {
            ALPN_PROTOCOL_FOUND = "alpn_protocol_found",
            ALPN_PROTOCOL_NOT_FOUND = "alpn_protocol_not_found",
            HEADER_NOT_FOUND = "header_not_found",
            INITIAL_HEADER_NOT_FOUND = "initial_header_not_found",
            METADATA_ADDED = "metadata_added",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}
