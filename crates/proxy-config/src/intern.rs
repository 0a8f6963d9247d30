//! How do ten thousand clusters share what they have in common? Equal parts become one allocation.
//!
//! The holder of the cluster set (`proxy::config::clusters`, and the bootstrap for its own) keeps one [`Interner`] and passes every
//! parsed cluster through it. Nothing depends on it but memory.

use std::collections::HashSet;
use std::sync::Arc;

use crate::Name;
use crate::cluster::{
    CircuitBreakers, Cluster, ClusterOptions, Discovery, LbConfig, OutlierDetection, UpstreamHttp, UpstreamTransport,
};
use crate::tls::{CertificateSource, TlsContext, Validation};

/// Distinct values of one kind that are compared against; further ones are not shared. Real meshes have a handful.
const DISTINCT_MAX: usize = 64;
/// Names are swept for unused ones whenever there are this many more than after the last sweep.
const SWEEP_EVERY: usize = 4096;
/// Longer names are not shared: they are hardly ever equal.
const NAME_BYTES_MAX: usize = 32;

/// Shared parts seen so far.
#[derive(Debug, Default)]
pub struct Interner {
    names: HashSet<Name>,
    sweep_at: usize,
    lb: Vec<Arc<LbConfig>>,
    http: Vec<Arc<UpstreamHttp>>,
    breakers: Vec<Arc<CircuitBreakers>>,
    outlier: Vec<Arc<OutlierDetection>>,
    options: Vec<Arc<ClusterOptions>>,
}

fn share<T>(seen: &mut Vec<Arc<T>>, value: &mut Arc<T>, equal: impl Fn(&T, &T) -> bool) {
    if let Some(known) = seen.iter().find(|k| equal(k, value)) {
        *value = known.clone();
        return;
    }
    if seen.len() >= DISTINCT_MAX {
        seen.retain(|k| Arc::strong_count(k) > 1);
    }
    if seen.len() < DISTINCT_MAX {
        seen.push(value.clone());
    }
}

impl Interner {
    /// The cluster with its common parts shared.
    #[must_use]
    pub fn cluster(&mut self, mut c: Cluster) -> Cluster {
        let options = Arc::make_mut(&mut c.options);
        share(&mut self.lb, &mut options.lb, PartialEq::eq);
        share(&mut self.http, &mut options.http, same_http);
        if let Some(b) = &mut options.circuit_breakers {
            share(&mut self.breakers, b, PartialEq::eq);
        }
        if let Some(o) = &mut options.outlier_detection {
            share(&mut self.outlier, o, PartialEq::eq);
        }
        share(&mut self.options, &mut c.options, same_options);
        if let Discovery::Eds { service_name, .. } = &mut c.discovery
            && *service_name == c.name
        {
            *service_name = c.name.clone();
        }
        self.transport(&mut c.transport);
        if let Some(matches) = Arc::get_mut(&mut c.transport_matches) {
            for m in matches {
                self.name(&mut m.name);
                for (key, value) in &mut m.criteria {
                    self.name(key);
                    if let crate::common::Value::String(s) = value {
                        self.name(s);
                    }
                }
                self.transport(&mut m.transport);
            }
        }
        c
    }

    fn name(&mut self, name: &mut Name) {
        if name.len() > NAME_BYTES_MAX {
            return;
        }
        if let Some(known) = self.names.get(name) {
            *name = known.clone();
            return;
        }
        if self.names.len() >= self.sweep_at + SWEEP_EVERY {
            self.names.retain(|n| Arc::strong_count(n) > 1);
            self.sweep_at = self.names.len();
        }
        self.names.insert(name.clone());
    }

    fn transport(&mut self, t: &mut UpstreamTransport) {
        match t {
            UpstreamTransport::Raw => {}
            UpstreamTransport::Tls(context) => {
                if let Some(context) = Arc::get_mut(context) {
                    self.tls(context);
                }
            }
            UpstreamTransport::ProxyProtocol { inner, .. } | UpstreamTransport::InternalUpstream { inner, .. } => {
                self.transport(inner)
            }
        }
    }

    fn tls(&mut self, context: &mut TlsContext) {
        for c in &mut context.certificates {
            if let CertificateSource::Sds(name) = c {
                self.name(name);
            }
        }
        for protocol in &mut context.alpn {
            self.name(protocol);
        }
        if let Validation::Sds(name) | Validation::Combined { sds: name, .. } = &mut context.validation {
            self.name(name);
        }
    }
}

/// Compares what was shared before by identity. Health checks and filters cannot be compared: such options are not shared.
fn same_options(a: &ClusterOptions, b: &ClusterOptions) -> bool {
    let ClusterOptions {
        lb,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        circuit_breakers,
        outlier_detection,
        http,
        health_checks,
        bind,
        tcp_keepalive,
        filters,
        max_requests_per_connection,
        preconnect,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        connection_pool_per_downstream_connection,
        set_local_interface_name,
        track,
    } = a;
    health_checks.is_empty()
        && b.health_checks.is_empty()
        && filters.is_empty()
        && b.filters.is_empty()
        && Arc::ptr_eq(lb, &b.lb)
        && Arc::ptr_eq(http, &b.http)
        && *connect_timeout == b.connect_timeout
        && *per_connection_buffer_limit_bytes == b.per_connection_buffer_limit_bytes
        && *circuit_breakers == b.circuit_breakers
        && *outlier_detection == b.outlier_detection
        && *bind == b.bind
        && *tcp_keepalive == b.tcp_keepalive
        && *max_requests_per_connection == b.max_requests_per_connection
        && *preconnect == b.preconnect
        && *close_connections_on_host_health_failure == b.close_connections_on_host_health_failure
        && *ignore_health_on_host_removal == b.ignore_health_on_host_removal
        && *connection_pool_per_downstream_connection == b.connection_pool_per_downstream_connection
        && *set_local_interface_name == b.set_local_interface_name
        && *track == b.track
}

/// Filters and matchers hold expressions that cannot be compared: such options are not shared.
fn same_http(a: &UpstreamHttp, b: &UpstreamHttp) -> bool {
    let UpstreamHttp {
        protocol,
        common,
        idle_timeout,
        http1,
        http2,
        auto_sni,
        auto_san_validation,
        override_auto_sni_header,
        outlier_error_matcher,
        filters,
    } = a;
    outlier_error_matcher.is_none()
        && b.outlier_error_matcher.is_none()
        && filters.is_empty()
        && b.filters.is_empty()
        && *protocol == b.protocol
        && *common == b.common
        && *idle_timeout == b.idle_timeout
        && *http1 == b.http1
        && *http2 == b.http2
        && *auto_sni == b.auto_sni
        && *auto_san_validation == b.auto_san_validation
        && *override_auto_sni_header == b.override_auto_sni_header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, max_connections: u32) -> Cluster {
        let limits = serde_json::json!({"thresholds": [{"max_connections": max_connections}]});
        let json = serde_json::json!({"name": name, "circuit_breakers": limits});
        crate::parse::cluster(&protos::json::decode_json(&json).unwrap()).unwrap()
    }

    #[test]
    fn equal_parts_are_one_and_others_are_not() {
        let mut interner = Interner::default();
        let [a, b, c] = [("a", 1), ("b", 1), ("c", 2)].map(|(name, max)| interner.cluster(cluster(name, max)));
        let breakers = |c: &Cluster| c.circuit_breakers.clone().unwrap();
        assert!(Arc::ptr_eq(&a.lb, &c.lb) && Arc::ptr_eq(&a.http, &c.http));
        assert!(Arc::ptr_eq(&breakers(&a), &breakers(&b)));
        assert!(!Arc::ptr_eq(&breakers(&a), &breakers(&c)));
        assert!(Arc::ptr_eq(&a.options, &b.options) && !Arc::ptr_eq(&a.options, &c.options));
        assert_eq!(breakers(&c).default.max_connections, breakers(&cluster("c", 2)).default.max_connections);
    }

    #[test]
    fn more_values_than_are_compared_stay_what_they_are() {
        let mut interner = Interner::default();
        let many = DISTINCT_MAX as u32 + 2;
        let all: Vec<_> = (1..=many).map(|n| interner.cluster(cluster("x", n))).collect();
        for (n, c) in (1..).zip(&all) {
            assert_eq!(c.circuit_breakers, cluster("x", n).circuit_breakers);
        }
    }
}
