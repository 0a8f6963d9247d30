//! Which set fields are accepted without effect, and why is that harmless? The complete list.
//!
//! Everything else that a parser does not act on is refused with a field path.

/// One accepted field that has no effect here.
#[derive(Debug, Clone, Copy)]
pub struct Ignored {
    /// Message and field, e.g. `envoy.config.listener.v3.Listener.connection_balance_config`.
    pub field: &'static str,
    /// Why nothing is lost.
    pub why: &'static str,
}

/// All of them.
pub const IGNORED: &[Ignored] = &[
    Ignored {
        field: "envoy.config.listener.v3.Listener.connection_balance_config",
        why: "every worker has its own SO_REUSEPORT accept queue; the kernel balances",
    },
    Ignored { field: "envoy.config.listener.v3.Listener.enable_reuse_port", why: "always on where a listener binds" },
    Ignored {
        field: "envoy.config.listener.v3.Listener.max_connections_to_accept_per_socket_event",
        why: "accept loops are bounded by a constant of their own",
    },
    Ignored { field: "*.stat_prefix of TLS contexts", why: "names only; no behaviour" },
    Ignored {
        field: "RuntimeFractionalPercent.runtime_key",
        why: "there is no mutable runtime layer; the default applies",
    },
    Ignored {
        field: "envoy.config.cluster.v3.Cluster.dns_resolution_config / typed_dns_resolver_config",
        why: "one resolver serves all clusters; options of c-ares do not apply",
    },
    Ignored {
        field: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.tls_certificate_sds_secret_configs[].sds_config",
        why: "secrets come from the process's one secret registry, whatever stream it uses",
    },
];
