//! Which of a host's addresses answers first? Happy eyeballs (RFC 8305) over `additional_addresses`.
//!
//! Families alternate, beginning with the first address's; each gets a head start over the next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy_config::common::Address;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::connect::tcp;

/// How long an attempt runs alone: Envoy's and RFC 8305's value.
const HEAD_START: Duration = Duration::from_millis(300);

/// Connects to the first address that answers. Errors: the last attempt's, when all failed.
pub(crate) async fn race(cluster: &Arc<Cluster>, first: SocketAddr, more: &[Address]) -> std::io::Result<TcpStream> {
    let mut waiting = order(first, more.iter().filter_map(Address::socket)).into_iter();
    let mut running = JoinSet::new();
    let mut last = Err(std::io::ErrorKind::AddrNotAvailable.into());
    loop {
        let next = waiting.next();
        let more = next.is_some();
        if let Some(address) = next {
            let cluster = cluster.clone();
            running.spawn_local(async move { tcp(&cluster, address).await });
        }
        let ended = match more {
            true => tokio::time::timeout(HEAD_START, running.join_next()).await.unwrap_or(None),
            false => running.join_next().await,
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(e))) => last = Err(e),
            Some(Err(_)) => {}
            None if more => {}
            None => return last,
        }
    }
}

/// Addresses with alternating families.
fn order(first: SocketAddr, more: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut same, mut other): (Vec<_>, Vec<_>) =
        std::iter::once(first).chain(more).partition(|a| a.is_ipv4() == first.is_ipv4());
    let mut out = Vec::with_capacity(same.len() + other.len());
    while !same.is_empty() || !other.is_empty() {
        out.extend((!same.is_empty()).then(|| same.remove(0)));
        out.extend((!other.is_empty()).then(|| other.remove(0)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let all: Vec<SocketAddr> =
            ["1.1.1.1:1", "2.2.2.2:1", "[::1]:1", "[::2]:1", "[::3]:1"].iter().map(|a| a.parse().unwrap()).collect();
        let got = order(all[0], all[1..].iter().copied());
        assert_eq!(got, [all[0], all[2], all[1], all[3], all[4]]);
    }
}
