//! Which addresses do names in the mesh have? A DNS proxy for the application: the name table answers, everything
//! else goes to the pod's own resolvers, over UDP and TCP.
//!
//! Search domains: the resolver library of the application tries them, so a name is looked up as it comes and
//! with the suffixes of the pod's own namespace. A name of the table without an address of the asked family is
//! an empty answer, not an error.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType, rdata};
use protos::istio::networking::nds::v1::NameTable;
use rand::seq::SliceRandom as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;

/// Seconds that an answer may be kept, as Istio's.
const TTL_S: u32 = 30;
/// Largest UDP message we read; larger answers come over TCP.
const UDP_BYTES_MAX: usize = 4096;
/// Largest UDP answer to a client that does not say what it takes (RFC 1035).
const UDP_ANSWER_DEFAULT: usize = 512;
/// Questions answered at once; more wait in the kernel's buffer.
const QUERIES_MAX: usize = 1024;
/// A TCP client may be silent this long.
const TCP_IDLE_MAX: Duration = Duration::from_secs(10);

/// How the proxy works.
#[derive(Debug, Clone)]
pub struct Options {
    /// The pod's namespace.
    pub namespace: String,
    /// The proxy's DNS domain, `NAMESPACE.svc.cluster.local`.
    pub domain: String,
    /// How long an upstream resolver may take.
    pub forward_timeout: Duration,
    /// Ask all upstream resolvers at once; the first good answer counts.
    pub parallel: bool,
    /// `host:port` to listen on.
    pub listen: String,
}

#[derive(Debug)]
struct Proxy {
    options: Options,
    table: watch::Receiver<Arc<NameTable>>,
    upstreams: Vec<SocketAddr>,
    queries: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// Starts answering.
pub async fn serve(
    options: Options,
    table: watch::Receiver<Arc<NameTable>>,
    metrics: Arc<Metrics>,
) -> std::io::Result<()> {
    let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let upstreams = nameservers(&resolv);
    let addresses: Vec<_> = tokio::net::lookup_host(&options.listen).await?.collect();
    let proxy = Proxy { options, table, upstreams, queries: Arc::new(Semaphore::new(QUERIES_MAX)), metrics };
    let proxy = Arc::new(proxy);
    let mut bound = 0;
    let mut last = None;
    for address in addresses {
        let sockets =
            async { Ok::<_, std::io::Error>((UdpSocket::bind(address).await?, TcpListener::bind(address).await?)) };
        match sockets.await {
            Ok((udp, tcp)) => {
                bound += 1;
                tokio::spawn(serve_udp(Arc::clone(&proxy), Arc::new(udp)));
                tokio::spawn(serve_tcp(Arc::clone(&proxy), tcp));
            }
            // A pod without IPv6 has only one of localhost's addresses.
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if bound == 0 => Err(error),
        _ => {
            tracing::info!(target: "dns", "Starting local DNS server on {}, upstream {:?}", proxy.options.listen, proxy.upstreams);
            Ok(())
        }
    }
}

/// `nameserver` lines of a resolv.conf.
fn nameservers(resolv: &str) -> Vec<SocketAddr> {
    let servers = resolv.lines().filter_map(|l| l.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok());
    servers.map(|ip| SocketAddr::new(ip, 53)).collect()
}

async fn serve_udp(proxy: Arc<Proxy>, socket: Arc<UdpSocket>) {
    let mut buf = vec![0; UDP_BYTES_MAX];
    loop {
        let Ok((len, peer)) = socket.recv_from(&mut buf).await else {
            continue;
        };
        let Ok(permit) = Arc::clone(&proxy.queries).acquire_owned().await else {
            return;
        };
        let (proxy, socket, query) = (Arc::clone(&proxy), Arc::clone(&socket), buf[..len].to_vec());
        tokio::spawn(async move {
            let _permit = permit;
            if let Some(answer) = proxy.answer(&query, false).await {
                let _ = socket.send_to(&answer, peer).await;
            }
        });
    }
}

async fn serve_tcp(proxy: Arc<Proxy>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let Ok(permit) = Arc::clone(&proxy.queries).acquire_owned().await else {
            return;
        };
        let proxy = Arc::clone(&proxy);
        tokio::spawn(async move {
            let _permit = permit;
            let _ = serve_tcp_client(&proxy, stream).await;
        });
    }
}

async fn serve_tcp_client(proxy: &Proxy, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let len = tokio::time::timeout(TCP_IDLE_MAX, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(len)];
        tokio::time::timeout(TCP_IDLE_MAX, stream.read_exact(&mut query)).await??;
        let Some(answer) = proxy.answer(&query, true).await else {
            return Ok(());
        };
        let len = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_all(&[&len.to_be_bytes(), &answer[..]].concat()).await?;
    }
}

impl Proxy {
    /// The answer to a message; `None`: it is none of ours (not a query, or unreadable).
    async fn answer(&self, bytes: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(bytes).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        self.metrics.dns_requests.add();
        let table = self.table.borrow().clone();
        if let Some(found) = lookup(&table, &query, &self.options) {
            return encode(found, &query, tcp);
        }
        self.metrics.dns_forwarded.add();
        if let Some(answer) = self.forward(bytes, tcp).await {
            return Some(answer);
        }
        self.metrics.dns_failed.add();
        reply(&query, ResponseCode::ServFail).to_vec().ok()
    }

    /// Asks the upstream resolvers, in order or all at once; the first answer counts, a failing server's only if all fail.
    async fn forward(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let ask = |upstream: SocketAddr| async move {
            let asked = async { if tcp { ask_tcp(upstream, query).await } else { ask_udp(upstream, query).await } };
            match tokio::time::timeout(self.options.forward_timeout, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(target: "dns", "upstream {upstream}: {error}"),
                Err(_) => tracing::debug!(target: "dns", "upstream {upstream}: no answer in time"),
            }
            None
        };
        let mut asked = futures::stream::FuturesUnordered::new();
        let mut waiting = self.upstreams.iter().copied();
        asked.extend(waiting.by_ref().take(if self.options.parallel { usize::MAX } else { 1 }).map(ask));
        let mut failed = None;
        while let Some(answer) = asked.next().await {
            match answer {
                // RCODE is the low half of the fourth byte.
                Some(answer) if answer.get(3).is_some_and(|b| b & 0x0f != 2) => return Some(answer),
                Some(answer) => {
                    failed.get_or_insert(answer);
                }
                None => {}
            }
            asked.extend(waiting.next().map(ask));
        }
        failed
    }
}

async fn ask_udp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if upstream.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut buf = vec![0; UDP_BYTES_MAX];
    loop {
        let len = socket.recv(&mut buf).await?;
        // Somebody else's answer (late or forged) has another id.
        if len >= 12 && buf[..2] == query[..2] {
            buf.truncate(len);
            return Ok(buf);
        }
    }
}

async fn ask_tcp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    let len = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), query].concat()).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(len)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// What the name table alone answers to the bytes of a query; `None`: it is none, or its name is not of the table.
pub fn answer_of_table(table: &NameTable, bytes: &[u8], options: &Options, tcp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(bytes).ok()?;
    encode(lookup(table, &query, options)?, &query, tcp)
}

fn encode(mut found: Message, query: &Message, tcp: bool) -> Option<Vec<u8>> {
    // Clients take the first address; all endpoints of a headless service are to get their share.
    found.answers.shuffle(&mut rand::rng());
    fit(found, if tcp { usize::from(u16::MAX) } else { udp_limit(query) })
}

fn udp_limit(query: &Message) -> usize {
    query
        .edns
        .as_ref()
        .map_or(UDP_ANSWER_DEFAULT, |e| usize::from(e.max_payload()).clamp(UDP_ANSWER_DEFAULT, UDP_BYTES_MAX))
}

/// Encodes; what does not fit is cut and marked, so that the client comes back over TCP.
fn fit(message: Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    let mut short = message;
    short.answers.clear();
    short.metadata.truncation = true;
    short.to_vec().ok()
}

fn reply(query: &Message, code: ResponseCode) -> Message {
    let mut message = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = query.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries = query.queries.clone();
    message
}

/// Answers A and AAAA questions for names of the table. `None`: not ours.
fn lookup(table: &NameTable, query: &Message, options: &Options) -> Option<Message> {
    let [question] = query.queries.as_slice() else {
        return None;
    };
    let kind = question.query_type();
    if !matches!(kind, RecordType::A | RecordType::AAAA) {
        return None;
    }
    let asked = question.name().to_ascii().to_ascii_lowercase();
    let host = asked.trim_end_matches('.');
    let ips = resolve(table, host, options)?;
    let mut message = reply(query, ResponseCode::NoError);
    message.metadata.authoritative = true;
    for ip in ips {
        let data = match (ip, kind) {
            (IpAddr::V4(ip), RecordType::A) => RData::A(rdata::A(ip)),
            (IpAddr::V6(ip), RecordType::AAAA) => RData::AAAA(rdata::AAAA(ip)),
            _ => continue,
        };
        message.answers.push(Record::from_rdata(question.name().clone(), TTL_S, data));
    }
    Some(message)
}

/// The addresses of a host: as written, with wildcards, or completed by the pod's namespace and domain, as a
/// resolver with `ndots` would ask.
fn resolve(table: &NameTable, host: &str, options: &Options) -> Option<Vec<IpAddr>> {
    let parse = |name: &str| {
        let info = table.table.get(name)?;
        Some(info.ips.iter().filter_map(|ip| ip.parse().ok()).collect::<Vec<IpAddr>>())
    };
    let wildcards = |name: &str| {
        // `*.example.com` covers all names below it, the longest suffix first.
        name.match_indices('.').find_map(|(at, _)| parse(&format!("*{}", &name[at..])))
    };
    let find = |name: &str| parse(name).or_else(|| wildcards(name));
    find(host)
        .or_else(|| {
            // What the search list of the pod appended to an outside name is taken off again.
            let (namespace_domain, rest) =
                (options.domain.as_str(), options.domain.split_once('.').map_or("", |(_, r)| r));
            let cluster = rest.split_once('.').map_or("", |(_, r)| r);
            [namespace_domain, rest, cluster].iter().filter(|s| !s.is_empty()).find_map(|suffix| {
                let outer = host.strip_suffix(suffix)?.strip_suffix('.')?;
                outer.contains('.').then(|| find(outer)).flatten()
            })
        })
        .or_else(|| {
            // Kubernetes' short forms of its own services, when the client does not use the search list.
            let dots = host.matches('.').count();
            let full = match dots {
                0 => format!("{host}.{}", options.domain),
                1 => format!("{host}.{}", options.domain.split_once('.')?.1),
                _ => return None,
            };
            parse(&full)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::Name;
    use protos::istio::networking::nds::v1::name_table::NameInfo;

    fn options() -> Options {
        Options {
            namespace: "samples".into(),
            domain: "samples.svc.cluster.local".into(),
            forward_timeout: Duration::from_secs(1),
            parallel: false,
            listen: String::new(),
        }
    }

    fn table() -> NameTable {
        let entry = |name: &str, ips: &[&str]| {
            let ips = ips.iter().map(|s| s.to_string()).collect();
            (name.to_owned(), NameInfo { ips, ..Default::default() })
        };
        NameTable {
            table: [
                entry("httpbin.samples.svc.cluster.local", &["10.96.0.7"]),
                entry("api.example.com", &["240.240.0.1", "2001:2::1"]),
                entry("*.wild.example.com", &["240.240.0.2"]),
            ]
            .into(),
        }
    }

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.queries.push(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn check(name: &str, kind: RecordType, expect: Option<&[&str]>) {
        let found = lookup(&table(), &ask(name, kind), &options());
        let ips = found.map(|m| m.answers.iter().map(|r| r.data.to_string()).collect::<Vec<_>>());
        assert_eq!(
            ips.as_deref().map(|v| v.iter().map(String::as_str).collect::<Vec<_>>()).as_deref(),
            expect,
            "{name}"
        );
    }

    #[test]
    fn names_of_the_table_are_answered() {
        check("httpbin.samples.svc.cluster.local.", RecordType::A, Some(&["10.96.0.7"]));
        check("HTTPBIN.samples.svc.cluster.local", RecordType::A, Some(&["10.96.0.7"]));
        check("httpbin.samples.svc.cluster.local", RecordType::AAAA, Some(&[]));
        check("httpbin", RecordType::A, Some(&["10.96.0.7"]));
        check("httpbin.samples", RecordType::A, Some(&["10.96.0.7"]));
        check("api.example.com", RecordType::A, Some(&["240.240.0.1"]));
        check("api.example.com", RecordType::AAAA, Some(&["2001:2::1"]));
        check("api.example.com.samples.svc.cluster.local", RecordType::A, Some(&["240.240.0.1"]));
        check("a.b.wild.example.com", RecordType::A, Some(&["240.240.0.2"]));
    }

    #[test]
    fn everything_else_is_forwarded() {
        check("wild.example.com", RecordType::A, None);
        check("unknown.example.org", RecordType::A, None);
        check("httpbin.samples.svc.cluster.local", RecordType::TXT, None);
    }

    #[test]
    fn a_long_answer_is_cut_for_udp() {
        let ips: Vec<String> = (0..100).map(|i| format!("10.0.0.{i}")).collect();
        let mut table = table();
        table.table.insert("many.example.com".into(), NameInfo { ips, ..Default::default() });
        let message = lookup(&table, &ask("many.example.com", RecordType::A), &options()).unwrap();
        let cut = Message::from_vec(&fit(message.clone(), 512).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let whole = Message::from_vec(&fit(message, 65_535).unwrap()).unwrap();
        assert_eq!(whole.answers.len(), 100);
    }

    #[test]
    fn resolvers_are_read() {
        let found = nameservers("# x\nnameserver 10.96.0.10\nsearch a b\nnameserver fd00::a\nnameserver nonsense\n");
        assert_eq!(found, ["10.96.0.10:53".parse().unwrap(), "[fd00::a]:53".parse().unwrap()]);
    }
}
