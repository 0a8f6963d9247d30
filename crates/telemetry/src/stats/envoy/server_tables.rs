//! Stats of the process, its managers and its subscriptions.
//!
//! Names as stock Envoy 1.40 prints them. `_` stands for `.` in the constants.

/// Scope `extension_config_discovery.http_filter.<name>.`.
pub mod extension_config_discovery {
    crate::stat_schema! { ExtensionConfigDiscovery;
        counters {
            CONFIG_CONFLICT = "config_conflict",
            CONFIG_FAIL = "config_fail",
            CONFIG_RELOAD = "config_reload",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `cluster_manager.`.
pub mod cluster_manager {
    crate::stat_schema! { ClusterManager;
        counters {
            CLUSTER_ADDED = "cluster_added",
            CLUSTER_MODIFIED = "cluster_modified",
            CLUSTER_REMOVED = "cluster_removed",
            CLUSTER_UPDATED = "cluster_updated",
            CLUSTER_UPDATED_VIA_MERGE = "cluster_updated_via_merge",
            UPDATE_MERGE_CANCELLED = "update_merge_cancelled",
            UPDATE_OUT_OF_MERGE_WINDOW = "update_out_of_merge_window",
        }
        gauges {
            ACTIVE_CLUSTERS = "active_clusters",
            WARMING_CLUSTERS = "warming_clusters",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `listener_manager.`.
pub mod listener_manager {
    crate::stat_schema! { ListenerManager;
        counters {
            LISTENER_ADDED = "listener_added",
            LISTENER_CREATE_FAILURE = "listener_create_failure",
            LISTENER_CREATE_SUCCESS = "listener_create_success",
            LISTENER_IN_PLACE_UPDATED = "listener_in_place_updated",
            LISTENER_MODIFIED = "listener_modified",
            LISTENER_REMOVED = "listener_removed",
            LISTENER_STOPPED = "listener_stopped",
        }
        gauges {
            TOTAL_FILTER_CHAINS_DRAINING = "total_filter_chains_draining",
            TOTAL_LISTENERS_ACTIVE = "total_listeners_active",
            TOTAL_LISTENERS_DRAINING = "total_listeners_draining",
            TOTAL_LISTENERS_WARMING = "total_listeners_warming",
            WORKERS_PINNED = "workers_pinned",
            WORKERS_STARTED = "workers_started",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `server.`.
pub mod server {
    crate::stat_schema! { Server;
        counters {
            DEBUG_ASSERTION_FAILURES = "debug_assertion_failures",
            DROPPED_STAT_FLUSHES = "dropped_stat_flushes",
            DYNAMIC_UNKNOWN_FIELDS = "dynamic_unknown_fields",
            ENVOY_BUG_FAILURES = "envoy_bug_failures",
            ENVOY_NOTIFICATIONS = "envoy_notifications",
            STATIC_UNKNOWN_FIELDS = "static_unknown_fields",
            WIP_PROTOS = "wip_protos",
        }
        gauges {
            COMPILATION_SETTINGS_FIPS_MODE = "compilation_settings.fips_mode",
            CONCURRENCY = "concurrency",
            DAYS_UNTIL_FIRST_CERT_EXPIRING = "days_until_first_cert_expiring",
            HOT_RESTART_EPOCH = "hot_restart_epoch",
            LIVE = "live",
            MEMORY_ALLOCATED = "memory_allocated",
            MEMORY_HEAP_SIZE = "memory_heap_size",
            MEMORY_PHYSICAL_SIZE = "memory_physical_size",
            PARENT_CONNECTIONS = "parent_connections",
            SECONDS_UNTIL_FIRST_OCSP_RESPONSE_EXPIRING = "seconds_until_first_ocsp_response_expiring",
            STATE = "state",
            STATS_RECENT_LOOKUPS = "stats_recent_lookups",
            TOTAL_CONNECTIONS = "total_connections",
            UPTIME = "uptime",
            VERSION = "version",
        }
        histograms {
            INITIALIZATION_TIME_MS = "initialization_time_ms" ms,
        }
        texts { }
        codes { }
    }
}

/// Scope `server.main_thread.`, `server.worker_<n>.`, `main_thread.`, `workers.`.
pub mod watchdog {
    crate::stat_schema! { Watchdog;
        counters {
            WATCHDOG_MEGA_MISS = "watchdog_mega_miss",
            WATCHDOG_MISS = "watchdog_miss",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `runtime.`.
pub mod runtime {
    crate::stat_schema! { Runtime;
        counters {
            DEPRECATED_FEATURE_USE = "deprecated_feature_use",
            LOAD_ERROR = "load_error",
            LOAD_SUCCESS = "load_success",
            OVERRIDE_DIR_EXISTS = "override_dir_exists",
            OVERRIDE_DIR_NOT_EXISTS = "override_dir_not_exists",
        }
        gauges {
            ADMIN_OVERRIDES_ACTIVE = "admin_overrides_active",
            DEPRECATED_FEATURE_SEEN_SINCE_PROCESS_START = "deprecated_feature_seen_since_process_start",
            NUM_KEYS = "num_keys",
            NUM_LAYERS = "num_layers",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `filesystem.`.
pub mod filesystem {
    crate::stat_schema! { Filesystem;
        counters {
            FLUSHED_BY_TIMER = "flushed_by_timer",
            REOPEN_FAILED = "reopen_failed",
            WRITE_BUFFERED = "write_buffered",
            WRITE_COMPLETED = "write_completed",
            WRITE_FAILED = "write_failed",
        }
        gauges {
            WRITE_TOTAL_BUFFERED = "write_total_buffered",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `thread_local_cluster_manager.<main_thread|worker_n>.`.
pub mod thread_local_cluster_manager {
    crate::stat_schema! { ThreadLocalClusterManager;
        counters { }
        gauges {
            CLUSTERS_INFLATED = "clusters_inflated",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `overload.`.
pub mod overload {
    crate::stat_schema! { Overload;
        counters { }
        gauges { }
        histograms {
            REFRESH_INTERVAL_DELAY = "refresh_interval_delay" ms,
        }
        texts { }
        codes { }
    }
}

/// Scope `overload.<resource monitor>.`.
pub mod overload_resource {
    crate::stat_schema! { OverloadResource;
        counters {
            FAILED_UPDATES = "failed_updates",
            SKIPPED_UPDATES = "skipped_updates",
        }
        gauges {
            PRESSURE = "pressure",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `overload.<action>.`.
pub mod overload_action {
    crate::stat_schema! { OverloadAction;
        counters { }
        gauges {
            ACTIVE = "active",
            SCALE_PERCENT = "scale_percent",
        }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `envoy.overload_actions.reset_high_memory_stream.`.
pub mod overload_action_count {
    crate::stat_schema! { OverloadActionCount;
        counters {
            COUNT = "count",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `overload.envoy.overload_actions.shrink_heap.`.
pub mod shrink_heap {
    crate::stat_schema! { ShrinkHeap;
        counters {
            SHRINK_COUNT = "shrink_count",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope of one xDS subscription: `cluster_manager.cds.`, `listener_manager.lds.`, `cluster.<name>.` (EDS has these in the cluster table), `sds.<name>.`.
pub mod subscription {
    crate::stat_schema! { Subscription;
        counters {
            INIT_FETCH_TIMEOUT = "init_fetch_timeout",
            UPDATE_ATTEMPT = "update_attempt",
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

/// Scope `sds.<name>.`, beside the subscription.
pub mod secret {
    crate::stat_schema! { Secret;
        counters {
            KEY_ROTATION_FAILED = "key_rotation_failed",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}

/// Scope `control_plane.`.
pub mod control_plane {
    crate::stat_schema! { ControlPlane;
        counters {
            RATE_LIMIT_ENFORCED = "rate_limit_enforced",
        }
        gauges {
            CONNECTED_STATE = "connected_state",
            PENDING_REQUESTS = "pending_requests",
        }
        histograms { }
        texts {
            IDENTIFIER = "identifier",
        }
        codes { }
    }
}

/// Scope `access_logs.grpc_access_log.`.
pub mod access_logs_grpc {
    crate::stat_schema! { AccessLogsGrpc;
        counters {
            LOGS_DROPPED = "logs_dropped",
            LOGS_WRITTEN = "logs_written",
        }
        gauges { }
        histograms { }
        texts { }
        codes { }
    }
}
