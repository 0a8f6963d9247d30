//! Which descriptors does a request give to rate limiters, local and global?

use std::net::IpAddr;

use proxy_config::common::Value;
use proxy_config::route::{RateLimit, RateLimitAction, RouteAction};
use proxy_core::matcher;

use super::FilterCx;
use crate::decide::cluster_name;
use crate::exchange::Exchange;

/// Entries of one descriptor, key and value.
pub type Descriptor = Vec<(String, String)>;

/// How limits of the virtual host join those of the route (`VhRateLimitsOptions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfVirtualHost {
    /// Only if the route has none.
    Override,
    /// Always.
    Include,
    /// Never.
    Ignore,
}

impl From<u8> for OfVirtualHost {
    fn from(n: u8) -> Self {
        match n {
            1 => OfVirtualHost::Include,
            2 => OfVirtualHost::Ignore,
            _ => OfVirtualHost::Override,
        }
    }
}

/// The descriptors of a request: by `own` limits if there are some, else by its route's and virtual host's.
pub fn of(cx: &FilterCx<'_>, ex: &Exchange, own: &[RateLimit], stage: u32, vhost: OfVirtualHost) -> Vec<Descriptor> {
    let mut out = Vec::new();
    if !own.is_empty() {
        by(cx, ex, own, None, &mut out);
        return out;
    }
    let Some(found) = cx.found else { return out };
    let RouteAction::Forward(forward) = &found.route().action else { return out };
    let of_route = &forward.rate_limits;
    by(cx, ex, of_route, Some(stage), &mut out);
    let included = match vhost {
        OfVirtualHost::Ignore => forward.include_vh_rate_limits && !of_route.is_empty(),
        OfVirtualHost::Include => true,
        OfVirtualHost::Override => forward.include_vh_rate_limits || of_route.is_empty(),
    };
    if included {
        by(cx, ex, &found.virtual_host().rate_limits, Some(stage), &mut out);
    }
    out
}

fn by(cx: &FilterCx<'_>, ex: &Exchange, limits: &[RateLimit], stage: Option<u32>, out: &mut Vec<Descriptor>) {
    for limit in limits.iter().filter(|l| stage.is_none_or(|s| l.stage == s)) {
        let mut entries = Vec::new();
        let complete = limit.actions.iter().all(|a| entry(cx, ex, a, &mut entries));
        if complete && !entries.is_empty() {
            out.push(entries);
        }
    }
}

/// Appends what an action yields; false drops the descriptor.
fn entry(cx: &FilterCx<'_>, ex: &Exchange, action: &RateLimitAction, entries: &mut Descriptor) -> bool {
    let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
    let remote = || ex.remote.unwrap_or(cx.conn.facts.remote).ip();
    let mut add = |key: &str, value: String| entries.push((key.to_owned(), value));
    match action {
        RateLimitAction::SourceCluster => add("source_cluster", cx.conn.manager.node.cluster.clone()),
        RateLimitAction::DestinationCluster => {
            let name = cx.found.and_then(|f| cluster_name(f, ex));
            add("destination_cluster", name.map(|n| n.to_string()).unwrap_or_default());
        }
        RateLimitAction::RequestHeaders { name, key, skip_if_absent } => {
            match ex.request.get(name.as_str().as_bytes()) {
                Some(v) => add(key, text(v)),
                None => return *skip_if_absent,
            }
        }
        RateLimitAction::QueryParameters { name, key, skip_if_absent } => {
            match matcher::query_value(matcher::query_of(ex.request.path()), name.as_bytes()) {
                Some(v) => add(key, text(&matcher::percent_decoded(v))),
                None => return *skip_if_absent,
            }
        }
        RateLimitAction::RemoteAddress => add("remote_address", remote().to_string()),
        RateLimitAction::MaskedRemoteAddress { v4_prefix, v6_prefix } => {
            let ip = remote();
            let prefix = if ip.is_ipv4() { *v4_prefix } else { *v6_prefix };
            add("masked_remote_address", masked(ip, prefix));
        }
        RateLimitAction::GenericKey { key, value } => add(key, value.to_string()),
        RateLimitAction::HeaderValueMatch { key, value, expect_match, headers } => {
            if matcher::headers(headers, &ex.request) != *expect_match {
                return false;
            }
            add(key, value.to_string());
        }
        RateLimitAction::QueryParameterValueMatch { key, value, expect_match, query } => {
            let given = matcher::query_of(ex.request.path());
            if query.iter().all(|m| matcher::query(m, given)) != *expect_match {
                return false;
            }
            add(key, value.to_string());
        }
        RateLimitAction::Metadata { key, route, filter, path, default, skip_if_absent } => {
            let value = if *route {
                cx.found.and_then(|f| f.route().metadata.get(filter, path))
            } else {
                ex.metadata.get(filter).and_then(|v| v.path(path))
            };
            match (value.and_then(Value::as_str).filter(|s| !s.is_empty()), default) {
                (Some(s), _) => add(key, s.to_owned()),
                (None, Some(d)) => add(key, d.to_string()),
                (None, None) => return *skip_if_absent,
            }
        }
    }
    true
}

/// The network of an address, `10.1.0.0/16`.
fn masked(ip: IpAddr, prefix: u8) -> String {
    let network = match ip {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(a) & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(a) & mask).into())
        }
    };
    format!("{network}/{prefix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 16), "10.1.0.0/16");
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 0), "0.0.0.0/0");
        assert_eq!(masked("2001:db8::1".parse().unwrap(), 32), "2001:db8::/32");
        assert_eq!(masked("10.1.2.3".parse().unwrap(), 32), "10.1.2.3/32");
    }
}
