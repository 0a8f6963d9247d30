//! What is missing for this request, and who is asked for it? Envoy's `on_demand`: a virtual host that the route table
//! lacks (VHDS), then a cluster that the route names (ODCDS). The request waits, and its route is looked for again in
//! the table that is in force then; without an answer it goes on and fails as it would have.

use std::sync::Arc;
use std::time::Duration;

use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::OnDemand;
use upstream::Wish;

use super::{Answer, FilterCx, FilterState, Step};
use crate::exchange::Exchange;
use crate::{decide, pool, stream};

/// How long a request waits for its virtual host where streams may be idle for ever: a control plane that is away must not
/// hold it.
const HOST_WAIT_MAX: Duration = Duration::from_secs(15);

/// What a request has asked for, each at most once.
#[derive(Default, Clone, Copy)]
pub struct Asked {
    host: bool,
    cluster: bool,
}

fn asked(ex: &mut Exchange) -> &mut Asked {
    let at = ex.filters.iter().position(|s| matches!(s, FilterState::OnDemand(_))).unwrap_or_else(|| {
        ex.filters.push(FilterState::OnDemand(Asked::default()));
        ex.filters.len() - 1
    });
    match &mut ex.filters[at] {
        FilterState::OnDemand(asked) => asked,
        _ => unreachable!("found or pushed just above"),
    }
}

/// Asks for what the request lacks.
pub fn on_request(config: &Arc<OnDemand>, cx: &FilterCx<'_>, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
    let Some(found) = cx.found else { return virtual_host(cx, ex) };
    let config = match over {
        Some(FilterOverride::OnDemand(o)) => o,
        _ => config,
    };
    let Some(odcds) = &config.odcds else { return Step::Continue };
    let Some(name) = decide::cluster_name(found, ex) else { return Step::Continue };
    if pool::cluster(&cx.conn.worker, &name).is_some() || std::mem::replace(&mut asked(ex).cluster, true) {
        return Step::Continue;
    }
    wait(cx, ex, Wish::Cluster { source: odcds.source.clone(), name }, (odcds.timeout, Late::GoOn))
}

fn virtual_host(cx: &FilterCx<'_>, ex: &mut Exchange) -> Step {
    let Some(table) = cx.conn.routes().filter(|t| t.vhds.is_some() && !ex.tls_first) else { return Step::Continue };
    let Ok(host) = std::str::from_utf8(ex.request.authority()) else { return Step::Continue };
    let host: Box<str> = host.to_ascii_lowercase().into();
    // Longer ones match no domain either.
    if host.is_empty()
        || host.len() > proxy_config::vhost::AUTHORITY_BYTES_MAX
        || std::mem::replace(&mut asked(ex).host, true)
    {
        return Step::Continue;
    }
    let idle = cx.conn.manager.config.stream_idle_timeout.filter(|d| !d.is_zero());
    let limit = idle.map_or((HOST_WAIT_MAX, Late::GoOn), |idle| (idle, Late::Idle));
    wait(cx, ex, Wish::VirtualHost { table: table.name.0.clone(), host }, limit)
}

/// What follows when the answer does not come in time.
#[derive(Clone, Copy)]
enum Late {
    /// The request goes on without.
    GoOn,
    /// Its stream was idle for too long.
    Idle,
}

fn wait(cx: &FilterCx<'_>, ex: &Exchange, wish: Wish, (limit, late): (Duration, Late)) -> Step {
    let worker = cx.conn.worker.clone();
    let Some(answer) = worker.upstream.registry().demand().ask(wish) else { return Step::Continue };
    let complete = ex.request_ends_with_head;
    Step::Call(Box::pin(async move {
        tokio::select! {
            biased;
            // An answer that was dropped is none.
            there = answer => match there.unwrap_or(false) {
                true => Box::new(|_: &mut Exchange| Step::Reroute) as Answer,
                false => Box::new(|_: &mut Exchange| Step::Continue),
            },
            () = worker.timers.sleep(limit) => match late {
                Late::GoOn => Box::new(|_: &mut Exchange| Step::Continue) as Answer,
                Late::Idle => Box::new(move |_: &mut Exchange| Step::reply(stream::idle_timeout(complete))),
            },
        }
    }))
}
