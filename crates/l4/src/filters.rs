//! What do network filters do before the terminal one? RBAC, limits, filter state.
//!
//! Compiled per filter chain, shared by all workers, run by `connection` once per connection in the
//! configured order. Filters whose work needs every byte are the terminal ones (`tcp_proxy`, HCM).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proxy_config::common::Value;
use proxy_config::filters::network::{ConnectionLimit, NetworkRbac, SetFilterState};
use proxy_config::listener::{NetworkFilter, NetworkFilterKind};
use proxy_core::rbac;
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::{connection_limit, network_local_rate_limit, rbac as rbac_stat};
use telemetry::stats::{Block, Store};

use crate::accepted::{About, PeerText};
use crate::bucket::Bucket;
use crate::ext_authz::ExtAuthz;
use crate::metadata_exchange::Exchange;

/// Filter state key that overrides a TCP proxy's cluster.
pub const TCP_PROXY_CLUSTER: &str = "envoy.tcp_proxy.cluster";

/// A network filter that is not terminal.
#[derive(Debug)]
pub enum Filter {
    /// `rbac`, with the counters of its rules and of its shadow rules
    Rbac(Arc<NetworkRbac>, Block<rbac_stat::Rbac>, Block<rbac_stat::Rbac>),
    /// `connection_limit`
    ConnectionLimit(Arc<Limit>),
    /// `local_ratelimit`
    LocalRateLimit(Bucket, Block<network_local_rate_limit::NetworkLocalRateLimit>),
    /// `set_filter_state`
    SetFilterState(Arc<SetFilterState>),
    /// `sni_cluster`
    SniCluster,
    /// `sni_dynamic_forward_proxy`, with the upstream's port
    SniDynamicForwardProxy(u16),
    /// `istio.metadata_exchange`
    MetadataExchange(Box<Exchange>),
    /// `ext_authz`
    ExtAuthz(ExtAuthz),
}

/// A connection limit's count.
#[derive(Debug)]
pub struct Limit {
    config: Arc<ConnectionLimit>,
    active: AtomicU64,
    stats: Block<connection_limit::ConnectionLimit>,
}

/// Holds a place of a connection limit.
#[derive(Debug)]
pub struct Place(Arc<Limit>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
        self.0.stats.gauge_sub(connection_limit::ACTIVE_CONNECTIONS, 1);
    }
}

/// What a filter says.
#[derive(Debug)]
pub enum Verdict {
    /// Go on.
    Continue,
    /// Exchange metadata with the peer, then go on.
    Exchange,
    /// Go on, and keep this until the connection ends.
    Hold(Place),
    /// Close after `delay`.
    Refuse {
        /// What the access log says.
        why: Refusal,
        /// How long the peer is kept waiting.
        delay: Duration,
    },
}

/// Why a connection is refused, in the words of the access log.
#[derive(Debug, Default)]
pub struct Refusal {
    /// `RESPONSE_FLAGS`
    pub flags: ResponseFlags,
    /// `RESPONSE_CODE_DETAILS`
    pub code_details: &'static str,
    /// `CONNECTION_TERMINATION_DETAILS`
    pub termination_details: String,
    /// A limit, before anything is chosen: the log names no cluster, and Istio's metrics do not hear of it.
    pub early: bool,
}

impl Filter {
    /// Compiles a filter. `Ok(None)`: it lets bytes pass and has nothing to do here.
    ///
    /// Errors name filters that are not served yet.
    pub fn new(f: &NetworkFilter, node: &l7::Node, store: &Arc<Store>) -> Result<Option<Self>, String> {
        let prefixed = |prefix: &str, suffix: &str| {
            let dot = if prefix.is_empty() || prefix.ends_with('.') { "" } else { "." };
            format!("{prefix}{dot}{suffix}")
        };
        Ok(Some(match &f.kind {
            NetworkFilterKind::Rbac(c) => {
                let own = prefixed(&c.stat_prefix, "rbac.");
                let shadow = match &*c.config.shadow_rules_stat_prefix {
                    "" => own.clone(),
                    prefix => own.clone() + &prefixed(prefix, ""),
                };
                Filter::Rbac(c.clone(), store.block(&own), store.block(&shadow))
            }
            NetworkFilterKind::ConnectionLimit(c) => Filter::ConnectionLimit(Arc::new(Limit {
                config: c.clone(),
                active: AtomicU64::new(0),
                stats: store.block(&format!("connection_limit.{}.", c.stat_prefix)),
            })),
            NetworkFilterKind::LocalRateLimit(c) => {
                if !c.enabled {
                    return Ok(None);
                }
                let stats = store.block(&format!("local_rate_limit.{}.", c.stat_prefix));
                Filter::LocalRateLimit(Bucket::new(c.bucket), stats)
            }
            NetworkFilterKind::SetFilterState(c) => Filter::SetFilterState(c.clone()),
            NetworkFilterKind::SniCluster => Filter::SniCluster,
            NetworkFilterKind::SniDynamicForwardProxy { port } => Filter::SniDynamicForwardProxy(*port),
            NetworkFilterKind::ExtAuthz(c) => Filter::ExtAuthz(ExtAuthz::new(c.clone(), store)),
            NetworkFilterKind::MetadataExchange(c) => {
                Filter::MetadataExchange(Box::new(Exchange::new(c.clone(), node, store)))
            }
            // Metrics are reported by the terminal filter (`Chain::recorder`).
            NetworkFilterKind::IstioStats(_) => return Ok(None),
            NetworkFilterKind::PassThrough => {
                telemetry::info!(config, "network filter {} lets bytes pass uninterpreted", f.name);
                return Ok(None);
            }
            NetworkFilterKind::Hcm(_)
            | NetworkFilterKind::TcpProxy(_)
            | NetworkFilterKind::Echo
            | NetworkFilterKind::DirectResponse(_) => {
                return Err(format!("network filter {} must be the last one", f.name));
            }
        }))
    }

    /// Judges a connection.
    pub async fn on_connection(&self, about: &mut About, text: &PeerText, worker: &Rc<l7::Worker>) -> Verdict {
        match self {
            Filter::ExtAuthz(f) => Box::pin(f.ask(about, text, worker)).await,
            Filter::Rbac(c, stats, shadow) => authorize(c, stats, shadow, about, text),
            Filter::ConnectionLimit(limit) => limit.enter(),
            Filter::LocalRateLimit(bucket, stats) => {
                if bucket.allows() {
                    return Verdict::Continue;
                }
                stats.inc(network_local_rate_limit::RATE_LIMITED);
                // The flag is Envoy's.
                let flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
                Verdict::Refuse { why: Refusal { flags, early: true, ..Default::default() }, delay: Duration::ZERO }
            }
            Filter::SetFilterState(c) => {
                for v in &c.values {
                    let mut out = Vec::new();
                    let absent: &[u8] = if v.omit_empty_values { b"" } else { b"-" };
                    proxy_core::format::text(&v.value, &about.facts(text), absent, &mut out);
                    if !(out.is_empty() && v.skip_if_empty) {
                        let value: Arc<str> = String::from_utf8_lossy(&out).into();
                        about.state.push((v.key.clone(), value.clone()));
                        if v.shared_with_upstream > 0 {
                            about.shared.push((v.key.clone(), value));
                        }
                    }
                }
                Verdict::Continue
            }
            Filter::SniDynamicForwardProxy(port) => {
                if let Some(sni) = about.server_name.clone() {
                    let set = |about: &About, key: &str| about.state_text(key).is_some();
                    if !set(about, "envoy.upstream.dynamic_host") {
                        about.state.push(("envoy.upstream.dynamic_host".into(), sni));
                    }
                    if !set(about, "envoy.upstream.dynamic_port") {
                        about.state.push(("envoy.upstream.dynamic_port".into(), port.to_string().into()));
                    }
                }
                Verdict::Continue
            }
            Filter::SniCluster => {
                if let Some(sni) = &about.server_name {
                    about.state.push((TCP_PROXY_CLUSTER.into(), sni.clone()));
                }
                Verdict::Continue
            }
            Filter::MetadataExchange(_) => Verdict::Exchange,
        }
    }

    /// The exchange that [`Verdict::Exchange`] asks for.
    pub fn exchange(&self) -> Option<&Exchange> {
        match self {
            Filter::MetadataExchange(e) => Some(e),
            _ => None,
        }
    }
}

/// Namespace of the RBAC filter's dynamic metadata.
const RBAC: &str = "envoy.filters.network.rbac";

fn authorize(
    c: &NetworkRbac,
    stats: &Block<rbac_stat::Rbac>,
    shadowed: &Block<rbac_stat::Rbac>,
    about: &mut About,
    text: &PeerText,
) -> Verdict {
    if let Some(shadow) = &c.config.shadow_rules {
        let verdict = rbac::evaluate(shadow, &about.facts(text));
        shadowed.inc(if verdict.allowed { rbac_stat::SHADOW_ALLOWED } else { rbac_stat::SHADOW_DENIED });
        let prefix: &str = &c.config.shadow_rules_stat_prefix;
        let result = if verdict.allowed { "allowed" } else { "denied" };
        let mut note = |key: &str, value: &str| {
            about.set_metadata(&RBAC.into(), &format!("{prefix}{key}").into(), Value::String(value.into()));
        };
        if let Some(policy) = verdict.policy {
            note("shadow_effective_policy_id", policy);
        }
        note("shadow_engine_result", result);
    }
    let facts = about.facts(text);
    let Some(rules) = &c.config.rules else {
        return Verdict::Continue;
    };
    let verdict = rbac::evaluate(rules, &facts);
    if verdict.allowed {
        stats.inc(rbac_stat::ALLOWED);
        return Verdict::Continue;
    }
    stats.inc(rbac_stat::DENIED);
    // As Envoy words it; blanks in policy names become underscores.
    let policy = verdict.policy.unwrap_or("none").replace(' ', "_");
    let details = format!("rbac_access_denied_matched_policy[{policy}]");
    Verdict::Refuse { why: Refusal { termination_details: details, ..Default::default() }, delay: c.delay_deny }
}

impl Limit {
    fn enter(self: &Arc<Self>) -> Verdict {
        if !self.config.enabled {
            return Verdict::Continue;
        }
        let room = self
            .active
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < self.config.max_connections).then_some(n + 1));
        if room.is_ok() {
            self.stats.gauge_add(connection_limit::ACTIVE_CONNECTIONS, 1);
            return Verdict::Hold(Place(self.clone()));
        }
        self.stats.inc(connection_limit::LIMITED_CONNECTIONS);
        Verdict::Refuse { why: Refusal { early: true, ..Default::default() }, delay: self.config.delay }
    }
}
