//! Who is at the other end of a byte stream? Istio's exchange of node metadata before the first byte, both ends.
//!
//! It happens when TLS agreed on the exchange's own ALPN protocol. Each end sends `magic, length, Any(Struct)` once;
//! everything after that is the application's. Follows `istio.metadata_exchange`. Differs: both ends send at once and
//! wait for the other's, where Envoy sends with the first byte; the bytes on the wire are the same.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use l7::istio::{KnownPeer, Node};
use protos::prost::Message as _;
use protos::prost_types as pt;
use proxy_config::filters::network as config;
use proxy_core::istio::Peer;
use telemetry::stats::envoy::metadata_exchange as stat;
use telemetry::stats::{Block, Store};
use tls::Stream;

/// First bytes of an exchange.
const MAGIC: u32 = 0x3D23_0467;
/// Magic and length.
const HEAD_BYTES: usize = 8;
/// Bytes of a peer's metadata at most; Istio's own stays below 4 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// How long the other end may take; then the peer stays unknown.
const PATIENCE: Duration = Duration::from_secs(5);
const METADATA: &str = "x-envoy-peer-metadata";
const METADATA_ID: &str = "x-envoy-peer-metadata-id";

/// The filter of one chain or cluster.
#[derive(Debug)]
pub struct Exchange {
    config: Arc<config::MetadataExchange>,
    hello: Box<[u8]>,
    stats: Block<stat::MetadataExchange>,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Met {
    /// The peer, if it told who it is.
    pub peer: Option<Arc<KnownPeer>>,
    /// Bytes read that were not the exchange's.
    pub early: Vec<u8>,
}

impl Exchange {
    /// Compiles the filter.
    pub fn new(config: Arc<config::MetadataExchange>, node: &l7::Node, store: &Arc<Store>) -> Self {
        let node = Node::new(node, &config.additional_labels);
        Exchange { hello: hello(&node).into(), stats: store.block("metadata_exchange."), config }
    }

    /// Exchanges metadata if that was agreed on. An error is the connection's end.
    pub async fn run(&self, stream: &mut Stream) -> io::Result<Met> {
        if stream.alpn() != Some(self.config.protocol.as_bytes()) {
            self.stats.inc(stat::ALPN_PROTOCOL_NOT_FOUND);
            return Ok(Met::default());
        }
        self.stats.inc(stat::ALPN_PROTOCOL_FOUND);
        write_all(stream, &self.hello).await?;
        self.stats.inc(stat::METADATA_ADDED);
        let mut seen = Vec::new();
        let read = async {
            fill(stream, &mut seen, HEAD_BYTES).await?;
            let Some(length) = length(&seen) else { return Ok(None) };
            fill(stream, &mut seen, HEAD_BYTES + length).await?;
            Ok::<_, io::Error>(Some(()))
        };
        match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(Some(()))) => {}
            Ok(Ok(None)) | Err(_) => {
                // Another protocol's bytes: they belong to the application.
                self.stats.inc(stat::INITIAL_HEADER_NOT_FOUND);
                telemetry::warn!(
                    filter,
                    "Incorrect istio-peer-exchange ALPN magic. Peer missing TCP MetadataExchange filter."
                );
                return Ok(Met { peer: None, early: seen });
            }
            Ok(Err(e)) => return Err(e),
        }
        let peer = read_peer(&seen[HEAD_BYTES..], &self.config.additional_labels);
        if peer.is_none() {
            self.stats.inc(stat::HEADER_NOT_FOUND);
        }
        Ok(Met { peer: peer.map(KnownPeer::new), early: Vec::new() })
    }
}

fn hello(node: &Node) -> Vec<u8> {
    let text = |v: &str| pt::Value { kind: Some(pt::value::Kind::StringValue(v.to_owned())) };
    let mut data = pt::Struct::default();
    let said = pt::Value { kind: Some(pt::value::Kind::StructValue(node.peer.message())) };
    data.fields.insert(METADATA.to_owned(), said);
    if !node.id.is_empty() {
        data.fields.insert(METADATA_ID.to_owned(), text(&node.id));
    }
    let any =
        pt::Any { type_url: "type.googleapis.com/google.protobuf.Struct".to_owned(), value: data.encode_to_vec() };
    let body = any.encode_to_vec();
    let mut out = Vec::with_capacity(HEAD_BYTES + body.len());
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// Length of the body that a head announces; `None`: this is no exchange.
fn length(head: &[u8]) -> Option<usize> {
    let (magic, length) = head.get(..HEAD_BYTES)?.split_at(4);
    let number = |b: &[u8]| b.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
    let length = number(length) as usize;
    (number(magic) == MAGIC && length <= BODY_BYTES_MAX).then_some(length)
}

/// The peer that a whole announcement tells of; `None`: this is none.
pub fn read(bytes: &[u8]) -> Option<Peer> {
    let body = bytes.get(HEAD_BYTES..)?;
    read_peer(body.get(..length(bytes)?)?, &[])
}

fn read_peer(body: &[u8], additional: &[proxy_config::Name]) -> Option<Peer> {
    let any = pt::Any::decode(body).ok()?;
    let data = proxy_config::parse::value_of_struct(&pt::Struct::decode(&*any.value).ok()?);
    Some(Peer::from_struct(data.get(METADATA)?, additional))
}

async fn write_all(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.try_write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(e) => return Err(e),
        }
    }
    std::future::poll_fn(|cx| stream.poll_flush_pending(cx)).await
}

/// Reads until `want` bytes are there, and never more.
async fn fill(stream: &mut Stream, seen: &mut Vec<u8>, want: usize) -> io::Result<()> {
    while seen.len() < want {
        let at = seen.len();
        seen.resize(want, 0);
        let read = stream.try_read(&mut seen[at..]);
        seen.truncate(at + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proxy_config::common::Value;

    use super::*;

    #[test]
    fn what_is_said_is_read() {
        let text = |s: &str| Value::String(s.into());
        let labels = BTreeMap::from([("app".into(), text("a")), ("role".into(), text("r"))]);
        let metadata = BTreeMap::from([
            ("NAME".into(), text("pod-1")),
            ("NAMESPACE".into(), text("ns")),
            ("LABELS".into(), Value::Struct(Arc::new(labels))),
        ]);
        let node = l7::Node {
            id: "sidecar~10.0.0.1~pod-1.ns~ns.svc.cluster.local".into(),
            metadata: Some(Arc::new(Value::Struct(Arc::new(metadata)))),
            ..l7::Node::default()
        };
        let bytes = hello(&Node::new(&node, &["role".into()]));
        let length = length(&bytes).expect("announced");
        assert_eq!(bytes.len(), HEAD_BYTES + length);
        let peer = read_peer(&bytes[HEAD_BYTES..], &["role".into()]).expect("decodes");
        assert_eq!((&*peer.instance, &*peer.app, peer.labels.len()), ("pod-1", "a", 1));
    }

    #[test]
    fn strangers_are_not_an_exchange() {
        assert_eq!(length(b"GET / HTTP/1.1"), None);
        assert_eq!(length(&[0x3D, 0x23, 0x04, 0x67, 0xff, 0, 0, 0]), None);
        assert_eq!(length(&[0x3D, 0x23, 0x04]), None);
        assert_eq!(length(&[0x3D, 0x23, 0x04, 0x67, 0, 0, 1, 0]), Some(256));
        assert!(read_peer(b"\xff\xff", &[]).is_none());
    }
}
