//! What is counted of virtual clusters? `vhost.<host>.vcluster.<name>.`, for hosts that have some.
//!
//! The scopes are opened with the table, so that their names show before any request; a request takes a handle along.

use std::sync::Arc;

use proxy_config::route::{RouteTable, VirtualCluster, VirtualHost};
use telemetry::stats::envoy::vhost;
use telemetry::stats::{Block, Store};

/// The stats of one virtual cluster.
pub type Counts = Block<vhost::Vcluster>;

/// Opens the scopes of a table that is about to be served.
pub fn open(table: &RouteTable, store: &Arc<Store>) {
    table.virtual_hosts.iter().for_each(|host| open_host(host, store));
}

/// Opens the scopes of one virtual host.
pub fn open_host(host: &VirtualHost, store: &Arc<Store>) {
    for cluster in &host.virtual_clusters {
        // Unlike other scopes, Envoy takes these names as they are.
        let counts: Counts = store.tagged_block(&format!("vhost.{}.vcluster.{}.", host.name, cluster.name), &[]);
        cluster.kept.set(counts);
    }
}

/// The stats of `cluster`, once opened.
pub(crate) fn counts(cluster: &VirtualCluster) -> Option<Counts> {
    cluster.kept.get::<Counts>().cloned()
}

/// Counts a response, made here or by the upstream.
pub(crate) fn charge(counts: &Counts, status: u16) {
    counts.inc(vhost::UPSTREAM_RQ_COMPLETED);
    match status / 100 {
        1 => counts.inc(vhost::UPSTREAM_RQ_1XX),
        2 => counts.inc(vhost::UPSTREAM_RQ_2XX),
        3 => counts.inc(vhost::UPSTREAM_RQ_3XX),
        4 => counts.inc(vhost::UPSTREAM_RQ_4XX),
        5 => counts.inc(vhost::UPSTREAM_RQ_5XX),
        _ => {}
    }
    counts.code(vhost::UPSTREAM_RQ, status);
}
