//! What does a name mean in a pod? The mesh's name server on 10.96.0.10: services and pods itself, the rest from the
//! machine's own resolver through a socket that was opened before the mesh left the machine's network.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use crate::services::Directory;

/// Answers are valid this long, as Kubernetes' are.
const TTL: u32 = 5;
/// Largest message taken over UDP or TCP.
const MESSAGE_MAX: usize = 4096;
/// Most queries waiting for the machine's resolver; older ones are forgotten first.
const FORWARDED_MAX: usize = 512;
const ZONE: &str = "cluster.local";

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_ANY: u16 = 255;
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;
const REFUSED: u8 = 5;

/// The first question of a query.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    name: String,
    kind: u16,
    /// End of the question section, where answers begin.
    end: usize,
}

fn question(message: &[u8]) -> Option<Question> {
    let is_query = message.get(2)? & 0xf8 == 0;
    if !is_query || message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = 12;
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        match length {
            0 => break,
            1..=63 => {
                let label = message.get(at..at + length)?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
                at += length;
            }
            _ => return None,
        }
    }
    let kind = u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?);
    Some(Question { name, kind, end: at + 4 }).filter(|question| message.len() >= question.end)
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len().min(63)).unwrap_or(63));
        out.extend(label.bytes().take(63));
    }
    out.push(0);
    out
}

/// A response to `query` with this code and these records (type, data) for the question's name.
fn response(query: &[u8], end: usize, code: u8, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = query[..end].to_vec();
    let recursion_desired = query[2] & 1;
    out[2] = 0x84 | recursion_desired;
    out[3] = 0x80 | code;
    let count = u16::try_from(records.len()).unwrap_or(u16::MAX);
    out[6..8].copy_from_slice(&count.to_be_bytes());
    out[8..12].fill(0);
    for (kind, data) in records.iter().take(usize::from(count)) {
        out.extend([0xc0, 12]);
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(TTL.to_be_bytes());
        out.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
        out.extend(data);
    }
    out
}

/// What the mesh itself knows; `None` for names outside it.
fn local(directory: &Directory, query: &[u8], question: &Question) -> Option<Vec<u8>> {
    let wants_v4 = matches!(question.kind, TYPE_A | TYPE_ANY);
    if let Some(addresses) = directory.names.get(&question.name) {
        let records = addresses.iter().filter(|_| wants_v4).map(|address| (TYPE_A, address.octets().to_vec()));
        return Some(response(query, question.end, 0, &records.collect::<Vec<_>>()));
    }
    if let Some(alias) = directory.aliases.get(&question.name) {
        return Some(response(query, question.end, 0, &[(TYPE_CNAME, encode_name(alias))]));
    }
    let inside = question.name == ZONE || question.name.ends_with(".cluster.local");
    inside.then(|| response(query, question.end, NXDOMAIN, &[]))
}

/// The name server.
pub(crate) struct NameServer {
    directory: RefCell<Rc<Directory>>,
    upstream: Option<UdpSocket>,
    forwarded: RefCell<HashMap<u16, (SocketAddr, [u8; 2])>>,
    next: RefCell<u16>,
}

impl NameServer {
    /// A server that asks `upstream`, a connected socket, about names that are not the mesh's.
    pub(crate) fn new(upstream: Option<UdpSocket>) -> Rc<Self> {
        Rc::new(Self { directory: RefCell::default(), upstream, forwarded: RefCell::default(), next: RefCell::new(1) })
    }

    pub(crate) fn publish(&self, directory: Rc<Directory>) {
        *self.directory.borrow_mut() = directory;
    }

    /// Serves UDP and TCP on `address` for as long as the mesh lives.
    pub(crate) async fn serve(self: Rc<Self>, address: Ipv4Addr) -> io::Result<()> {
        let socket = Rc::new(UdpSocket::bind((address, 53)).await?);
        let listener = TcpListener::bind((address, 53)).await?;
        let tcp = Rc::clone(&self);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Rc::clone(&tcp);
                tokio::task::spawn_local(async move {
                    let _ = server.stream(stream).await;
                });
            }
        });
        if self.upstream.is_some() {
            tokio::task::spawn_local(Rc::clone(&self).answers(Rc::clone(&socket)));
        }
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            if let Some(answer) = self.answer(&buffer[..length], Some(peer)) {
                let _ = socket.send_to(&answer, peer).await;
            }
        }
    }

    /// Over TCP only the mesh's own names are answered; others are refused, and resolvers then use UDP.
    async fn stream(&self, mut stream: tokio::net::TcpStream) -> io::Result<()> {
        loop {
            let length = usize::from(stream.read_u16().await?).min(MESSAGE_MAX);
            let mut query = vec![0; length];
            stream.read_exact(&mut query).await?;
            let Some(answer) = self.answer(&query, None) else {
                return Ok(());
            };
            stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
            stream.write_all(&answer).await?;
        }
    }

    /// The answer to send now, or `None` when it will come from upstream or the query is no query.
    fn answer(&self, query: &[u8], peer: Option<SocketAddr>) -> Option<Vec<u8>> {
        let question = question(query)?;
        let directory = Rc::clone(&self.directory.borrow());
        if let Some(answer) = local(&directory, query, &question) {
            return Some(answer);
        }
        let Some(peer) = peer else {
            return Some(response(query, question.end, REFUSED, &[]));
        };
        let Some(upstream) = &self.upstream else {
            return Some(response(query, question.end, SERVFAIL, &[]));
        };
        let mut forwarded = self.forwarded.borrow_mut();
        if forwarded.len() >= FORWARDED_MAX {
            forwarded.clear();
        }
        let mut next = self.next.borrow_mut();
        *next = next.wrapping_add(1);
        forwarded.insert(*next, (peer, [query[0], query[1]]));
        let mut copy = query.to_vec();
        copy[..2].copy_from_slice(&next.to_be_bytes());
        match upstream.try_send(&copy) {
            Ok(_) => None,
            Err(_) => Some(response(query, question.end, SERVFAIL, &[])),
        }
    }

    async fn answers(self: Rc<Self>, socket: Rc<UdpSocket>) {
        let Some(upstream) = &self.upstream else {
            return;
        };
        let mut buffer = vec![0; MESSAGE_MAX];
        loop {
            let length = match upstream.recv(&mut buffer).await {
                Ok(length) if length >= 12 => length,
                Ok(_) => continue,
                Err(_) => {
                    // ICMP errors of a resolver that is down surface here; asking again is the client's part.
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            };
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            let Some((peer, original)) = self.forwarded.borrow_mut().remove(&id) else {
                continue;
            };
            buffer[..2].copy_from_slice(&original);
            let _ = socket.send_to(&buffer[..length], peer).await;
        }
    }
}

/// A socket connected to the machine's first name server, opened in the machine's network.
pub(crate) fn upstream() -> Option<std::net::UdpSocket> {
    let text = std::fs::read_to_string("/etc/resolv.conf").ok()?;
    let server = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .find_map(|rest| rest.trim().parse::<std::net::IpAddr>().ok())?;
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect((server, 53)).ok()?;
    socket.set_nonblocking(true).ok()?;
    Some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut out = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        out.extend(encode_name(name));
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out
    }

    fn check(name: &str, kind: u16, expect: Option<(u8, u16)>) {
        let mut directory = Directory::default();
        directory.names.insert("a.x.svc.cluster.local".into(), vec![Ipv4Addr::new(10, 96, 1, 0)]);
        directory.aliases.insert("e.x.svc.cluster.local".into(), "example.com".into());
        let query = query(name, kind);
        let asked = question(&query).expect("well formed");
        let answer = local(&directory, &query, &asked);
        let got = answer.map(|answer| (answer[3] & 15, u16::from_be_bytes([answer[6], answer[7]])));
        assert_eq!(got, expect, "{name} {kind}");
    }

    #[test]
    fn names_of_the_mesh() {
        check("A.x.svc.cluster.local", TYPE_A, Some((0, 1)));
        check("a.x.svc.cluster.local", 28, Some((0, 0)));
        check("e.x.svc.cluster.local", TYPE_A, Some((0, 1)));
        check("b.x.svc.cluster.local", TYPE_A, Some((NXDOMAIN, 0)));
        check("example.com", TYPE_A, None);
    }

    #[test]
    fn malformed_queries_are_ignored() {
        for cut in 0..query("a.b", TYPE_A).len() {
            assert!(question(&query("a.b", TYPE_A)[..cut]).is_none(), "{cut}");
        }
        let mut pointer = query("a", TYPE_A);
        pointer[12] = 0xc0;
        assert!(question(&pointer).is_none());
    }
}
