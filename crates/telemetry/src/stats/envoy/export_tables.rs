//! Stats of what leaves for collectors: access log services and tracers.

/// Scopes `access_logs.*.` and `tracing.*.`: each prints the rows that its kind has, once used.
pub mod export {
    crate::stat_schema! { Export;
        counters {
            LOGS_DROPPED = "logs_dropped" lazy,
            LOGS_WRITTEN = "logs_written" lazy,
            REPORTS_DROPPED = "reports_dropped" lazy,
            REPORTS_FAILED = "reports_failed" lazy,
            REPORTS_SENT = "reports_sent" lazy,
            REPORTS_SKIPPED_NO_CLUSTER = "reports_skipped_no_cluster" lazy,
            SPANS_SENT = "spans_sent" lazy,
            TIMER_FLUSHED = "timer_flushed" lazy,
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}
