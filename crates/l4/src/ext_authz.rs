//! Does somebody else allow this connection? Envoy's network `ext_authz`, asking a gRPC service.
//!
//! The service is asked as soon as the connection is there; Envoy waits for its first byte.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use l7::filters::ext_authz::answer::{self, Kind};
use l7::filters::ext_authz::check;
use protos::envoy::service::auth::v3::CheckRequest;
use proxy_config::filters::network::NetworkExtAuthz;
use telemetry::access_log::ResponseFlags;
use telemetry::stats::envoy::ext_authz_network as stat;
use telemetry::stats::{Block, Store};

use crate::accepted::{About, PeerText};
use crate::filters::{Refusal, Verdict};

/// Namespace of the filter's dynamic metadata.
const NAMESPACE: &str = "envoy.filters.network.ext_authz";

/// The filter of one chain.
#[derive(Debug)]
pub struct ExtAuthz {
    config: Arc<NetworkExtAuthz>,
    stats: Block<stat::ExtAuthzNetwork>,
}

impl ExtAuthz {
    /// Compiles the filter.
    pub fn new(config: Arc<NetworkExtAuthz>, store: &Arc<Store>) -> Self {
        ExtAuthz { stats: store.block(&format!("ext_authz.{}.", config.stat_prefix)), config }
    }

    /// Asks about a connection.
    pub async fn ask(&self, about: &mut About, text: &PeerText, worker: &Rc<l7::Worker>) -> Verdict {
        let c = &self.config;
        let wanted = c.filter_enabled_metadata.as_ref().is_none_or(|m| proxy_core::matcher::metadata(m, &*about));
        if !wanted || !c.enabled.hit(worker.random()) {
            self.stats.inc(stat::DISABLED);
            return Verdict::Continue;
        }
        let request = {
            let facts = about.facts(text);
            let tls = facts.downstream_tls.as_ref();
            let sni = about.server_name.as_deref().filter(|_| c.include_tls_session);
            let attributes = check::connection(about.remote, about.local, tls, c.include_peer_certificate, sni);
            CheckRequest { attributes: Some(attributes) }
        };
        self.stats.inc(stat::TOTAL);
        self.stats.gauge_add(stat::ACTIVE, 1);
        let asked = Instant::now();
        let mut said = {
            let _active = Active(&self.stats);
            answer::ask_grpc(worker, &c.service, &request).await
        };
        if said.kind == Kind::Ok {
            let took = proxy_config::common::Value::Number(asked.elapsed().as_millis() as f64);
            said.metadata.insert("ext_authz_duration".into(), took);
        }
        for (key, value) in said.metadata {
            about.set_metadata(&NAMESPACE.into(), &key, value);
        }
        let details = match said.kind {
            Kind::Ok => {
                self.stats.inc(stat::OK);
                return Verdict::Continue;
            }
            Kind::Denied => {
                self.stats.inc(stat::DENIED);
                "ext_authz_denied"
            }
            Kind::Error | Kind::Timeout => {
                self.stats.inc(stat::ERROR);
                if said.kind == Kind::Timeout {
                    self.stats.inc(stat::TIMEOUT);
                }
                if c.failure_mode_allow {
                    self.stats.inc(stat::FAILURE_MODE_ALLOWED);
                    return Verdict::Continue;
                }
                "ext_authz_error"
            }
        };
        self.stats.inc(stat::CX_CLOSED);
        let flags = ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE;
        let why = Refusal { flags, code_details: details, ..Default::default() };
        Verdict::Refuse { why, delay: Duration::ZERO }
    }
}

/// Keeps the gauge right also when the connection goes away meanwhile.
struct Active<'a>(&'a Block<stat::ExtAuthzNetwork>);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.gauge_sub(stat::ACTIVE, 1);
    }
}
