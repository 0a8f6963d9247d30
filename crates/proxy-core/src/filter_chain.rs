//! Which filter chain handles an accepted connection?
//!
//! Called by `l4` once the listener filters are done.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use proxy_config::filter_chain::{CidrLevel, FilterChains, SourcePortLevel, SourceTypeLevel};
use proxy_config::listener::FilterChain;

/// What listener filters found out about a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnFacts<'a> {
    /// Destination, after original-destination restoration; `None` for Unix sockets.
    pub destination: Option<SocketAddr>,
    /// Source after PROXY protocol.
    pub source: Option<SocketAddr>,
    /// The peer of the socket.
    pub direct_source: Option<IpAddr>,
    /// SNI in lower case, empty when unknown.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport_protocol: &'a str,
    /// Protocols that the client offered (ALPN) or that were sniffed.
    pub application_protocols: &'a [&'a [u8]],
}

/// Picks the filter chain for an accepted connection.
///
/// Criteria prune in Envoy's order (port, destination prefix, SNI, transport, ALPN, then sources); each step keeps only
/// the most specific matches and never backtracks. One map lookup per step, no allocation.
///
/// `None`: nothing matched and there is no default chain; the caller closes and counts `no_filter_chain_match`.
///
/// Follows: `envoy.config.listener.v3.FilterChainMatch`.
pub fn select<'a>(chains: &'a FilterChains, conn: &ConnFacts<'_>) -> Option<&'a Arc<FilterChain>> {
    find(chains, conn).and_then(|n| chains.chains.get(n as usize)).or(chains.default.as_ref())
}

fn find(chains: &FilterChains, conn: &ConnFacts<'_>) -> Option<u32> {
    let exact = conn.destination.and_then(|d| chains.index.exact.get(&d.port()));
    let names = exact.unwrap_or(&chains.index.any).find(conn.destination.map(|d| d.ip()))?;
    let alpns = names.find(conn.server_name)?.find(conn.transport_protocol)?;
    let direct = alpns.find(conn.application_protocols.iter().copied())?;
    let types = direct.find(conn.direct_source)?;
    let ports = source(types, conn)?;
    ports.find(conn.source.map_or(0, |s| s.port()))
}

fn source<'a>(types: &'a SourceTypeLevel, conn: &ConnFacts<'_>) -> Option<&'a SourcePortLevel> {
    let ip = conn.source.map(|s| s.ip());
    let of = |level: &'a CidrLevel<SourcePortLevel>| level.find(ip);
    if !types.local.is_empty() || !types.external.is_empty() {
        let chosen = if is_local(conn) { &types.local } else { &types.external };
        if !chosen.is_empty() {
            return of(chosen);
        }
    }
    of(&types.any)
}

/// Same IP on both sides, or a loopback source.
fn is_local(conn: &ConnFacts<'_>) -> bool {
    match (conn.source, conn.destination) {
        (Some(s), Some(d)) => s.ip().to_canonical() == d.ip().to_canonical() || s.ip().to_canonical().is_loopback(),
        // A Unix socket has a local peer.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proxy_config::filter_chain::{FilterChainMatch, SourceType};
    use proxy_config::listener::DownstreamTransport;

    use super::*;

    fn chains(list: &[(&str, FilterChainMatch)], default: bool) -> FilterChains {
        let chain = |name: &str| {
            Arc::new(FilterChain {
                name: name.into(),
                transport: DownstreamTransport::Raw,
                filters: Box::default(),
                transport_socket_connect_timeout: None,
                metadata: Default::default(),
            })
        };
        let all = list.iter().map(|(n, m)| (m.clone(), chain(n))).collect();
        FilterChains::build(all, default.then(|| chain("default"))).unwrap()
    }

    fn m() -> FilterChainMatch {
        FilterChainMatch::default()
    }

    fn conn<'a>(dest: &str, sni: &'a str, transport: &'a str, source: &str) -> ConnFacts<'a> {
        let source: SocketAddr = source.parse().unwrap();
        ConnFacts {
            destination: Some(dest.parse().unwrap()),
            source: Some(source),
            direct_source: Some(source.ip()),
            server_name: sni,
            transport_protocol: transport,
            application_protocols: &[],
        }
    }

    fn name(c: Option<&Arc<FilterChain>>) -> &str {
        c.map_or("none", |c| &c.name)
    }

    #[test]
    fn port_first_and_no_backtracking() {
        let c = chains(
            &[
                ("8080", FilterChainMatch { destination_port: Some(8080), server_names: vec!["a".into()], ..m() }),
                ("any", m()),
            ],
            true,
        );
        assert_eq!(name(select(&c, &conn("1.1.1.1:8080", "a", "tls", "2.2.2.2:1"))), "8080");
        // Port 8080 has no chain for this name: no falling back to "any".
        assert_eq!(name(select(&c, &conn("1.1.1.1:8080", "b", "tls", "2.2.2.2:1"))), "default");
        assert_eq!(name(select(&c, &conn("1.1.1.1:81", "b", "tls", "2.2.2.2:1"))), "any");
    }

    #[test]
    fn names_and_transport() {
        let sni = |n: &str| FilterChainMatch { server_names: vec![n.into()], ..m() };
        let c = chains(
            &[
                ("exact", sni("a.foo.com")),
                ("wild", sni("*.foo.com")),
                ("com", sni("*.com")),
                ("tls", FilterChainMatch { transport_protocol: "tls".into(), ..m() }),
                ("raw", FilterChainMatch { transport_protocol: "raw_buffer".into(), ..m() }),
            ],
            false,
        );
        let check = |sni, transport, expect| {
            assert_eq!(name(select(&c, &conn("1.1.1.1:1", sni, transport, "2.2.2.2:1"))), expect, "{sni}");
        };
        check("a.foo.com", "tls", "exact");
        check("b.foo.com", "tls", "wild");
        check("x.y.foo.com", "tls", "wild");
        check("bar.com", "tls", "com");
        check("foo.org", "tls", "tls");
        check("", "raw_buffer", "raw");
        check("", "other", "none");
    }

    #[test]
    fn longest_prefix_and_sources() {
        let dest = |n: &str| FilterChainMatch { prefix_ranges: vec![n.parse().unwrap()], ..m() };
        let c = chains(
            &[
                ("8", dest("10.0.0.0/8")),
                ("16", dest("10.1.0.0/16")),
                ("v6", dest("::/0")),
                ("local", FilterChainMatch { source_type: SourceType::SameIpOrLoopback, ..m() }),
                ("ext", FilterChainMatch { source_type: SourceType::External, source_ports: vec![7], ..m() }),
            ],
            true,
        );
        assert_eq!(name(select(&c, &conn("10.1.2.3:1", "", "", "2.2.2.2:1"))), "16");
        assert_eq!(name(select(&c, &conn("10.2.2.3:1", "", "", "2.2.2.2:1"))), "8");
        assert_eq!(name(select(&c, &conn("[fe80::1]:1", "", "", "[fe80::2]:1"))), "v6");
        assert_eq!(name(select(&c, &conn("9.9.9.9:1", "", "", "9.9.9.9:1"))), "local");
        assert_eq!(name(select(&c, &conn("9.9.9.9:1", "", "", "127.0.0.1:1"))), "local");
        assert_eq!(name(select(&c, &conn("9.9.9.9:1", "", "", "8.8.8.8:7"))), "ext");
        assert_eq!(name(select(&c, &conn("9.9.9.9:1", "", "", "8.8.8.8:8"))), "default");
    }

    #[test]
    fn alpn_in_the_clients_order() {
        let alpn = |n: &str| FilterChainMatch { application_protocols: vec![n.into()], ..m() };
        let c = chains(&[("h2", alpn("h2")), ("istio", alpn("istio")), ("any", m())], false);
        let protocols: [&[u8]; 2] = [b"istio", b"h2"];
        let mut f = conn("1.1.1.1:1", "", "tls", "2.2.2.2:1");
        f.application_protocols = &protocols;
        assert_eq!(name(select(&c, &f)), "istio");
        let protocols: [&[u8]; 1] = [b"x"];
        f.application_protocols = &protocols;
        assert_eq!(name(select(&c, &f)), "any");
    }

    #[test]
    fn overlap_is_refused() {
        let e = FilterChains::build(
            vec![
                (m(), chains(&[("a", m())], false).chains[0].clone()),
                (m(), chains(&[("b", m())], false).chains[0].clone()),
            ],
            None,
        );
        assert!(e.unwrap_err().to_string().contains("overlapping"));
    }
}
