//! How does statsd hear? `name:value|type`, one per datagram, or one per line over TCP.
//!
//! Follows Envoy's statsd sinks. Differs: Envoy sends every histogram value as it is recorded; here the values of one
//! interval are sent by bin (two significant digits) with a sampling rate that carries their number.

use std::fmt::Write;
use std::sync::Arc;

use proxy_config::Name;
use proxy_config::common::Address;
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use upstream::Registry;
use xds_client::BoxIo;

use super::{Deltas, Snapshot, Value};
use crate::subscriptions::connect;

/// Where to.
pub enum To {
    /// An address.
    Udp(Address),
    /// A cluster.
    Tcp(Name),
}

/// Reports every snapshot until no more come.
pub async fn run(to: To, prefix: Name, registry: Arc<Registry>, mut snapshots: mpsc::Receiver<Snapshot>) {
    let mut deltas = Deltas::default();
    let mut stream: Option<BoxIo> = None;
    while let Some(snapshot) = snapshots.recv().await {
        let lines = lines(&prefix, &snapshot, &mut deltas);
        deltas.keep(&snapshot);
        let sent = match &to {
            To::Udp(address) => datagrams(address, &lines).await,
            To::Tcp(cluster) => {
                if stream.is_none() {
                    stream = connect(&registry, cluster, None).await.ok();
                }
                match &mut stream {
                    Some(s) => {
                        let mut text = lines.join("\n");
                        text.push('\n');
                        let written = s.write_all(text.as_bytes()).await;
                        if written.is_err() || s.flush().await.is_err() {
                            stream = None;
                        }
                        written
                    }
                    None => Err(std::io::Error::other(format!("no connection to cluster '{cluster}'"))),
                }
            }
        };
        if let Err(e) = sent {
            telemetry::debug!(main, "statsd: {e}");
        }
    }
}

async fn datagrams(address: &Address, lines: &[String]) -> std::io::Result<()> {
    let Some(to) = address.socket() else {
        return Err(std::io::Error::other("not an IP address"));
    };
    let from: std::net::SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?;
    for line in lines {
        socket.send(line.as_bytes()).await?;
    }
    Ok(())
}

fn lines(prefix: &str, snapshot: &Snapshot, deltas: &mut Deltas) -> Vec<String> {
    let mut out = Vec::with_capacity(snapshot.len());
    for sample in snapshot.iter() {
        // `:` and `|` mean something in the line.
        let name = sample.name.replace([':', '|'], "_");
        match &sample.value {
            Value::Counter(n) => out.push(format!("{prefix}.{name}:{}|c", deltas.of(&sample.name, *n))),
            Value::Gauge(n) => out.push(format!("{prefix}.{name}:{n}|g")),
            Value::Histogram(_, interval) => {
                for (value, _, count) in interval.iter() {
                    let mut line = format!("{prefix}.{name}:{}|ms", value.round());
                    if count > 1 {
                        // Writing to a String cannot fail.
                        let _ = write!(line, "|@{}", 1.0 / count as f64);
                    }
                    out.push(line);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use telemetry::stats::Bins;

    use super::super::Sample;
    use super::*;

    #[test]
    fn lines_as_statsd_reads_them() {
        let mut bins = Bins::default();
        [5, 5, 20].iter().for_each(|v| bins.record(*v));
        let sample = |name: &str, value| Sample { name: name.into(), value, tagged: None };
        let snapshot = Rc::new(vec![
            sample("cluster.a|b.rq", Value::Counter(7)),
            sample("g", Value::Gauge(3)),
            sample("h", Value::Histogram(bins.clone(), bins)),
        ]);
        let mut deltas = Deltas::default();
        let all = lines("envoy", &snapshot, &mut deltas);
        assert_eq!(all, ["envoy.cluster.a_b.rq:7|c", "envoy.g:3|g", "envoy.h:5|ms|@0.5", "envoy.h:20|ms"]);
        assert_eq!(lines("p", &snapshot, &mut deltas)[0], "p.cluster.a_b.rq:0|c");
    }
}
