//! Which keys do token issuers outside of the mesh publish? Fetched here and handed to translation, as proxies cannot
//! reach everywhere the control plane can. Key servers that are services of the mesh are asked by the proxies themselves.
//!
//! One task: what request authentications mention is fetched when it is new and again every twenty minutes; a failed
//! fetch keeps the last good keys and is tried again soon. Absent: what the keys are used for (`translate::jwt`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use model::{Delta, Snapshot};
use names::ResourceKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::run::Shared;
use crate::source::Moved;

/// How often mentions are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long keys count as fresh.
const FRESH: Duration = Duration::from_secs(20 * 60);
/// First and longest wait after a failed fetch.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How long one fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer of a key server.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Key servers asked at most.
const SERVERS_MAX: usize = 256;
/// Where the system keeps its trust anchors.
const ANCHORS: [&str; 2] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// Keys by the URI they are from, or by the issuer whose discovery document named it.
pub type Keys = ArcSwap<BTreeMap<String, String>>;

/// Where keys are to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// From this URI.
    Uri(String),
    /// From the URI that the issuer's discovery document names.
    Issuer(String),
}

impl Origin {
    fn key(&self) -> &str {
        match self {
            Origin::Uri(text) | Origin::Issuer(text) => text,
        }
    }
}

/// What request authentications mention, with the resources that do.
fn mentioned(snapshot: &Snapshot) -> BTreeMap<Origin, BTreeSet<ResourceKey>> {
    let mut out: BTreeMap<Origin, BTreeSet<ResourceKey>> = BTreeMap::new();
    for policy in snapshot.request_authentications.iter() {
        for rule in policy.spec.jwt_rules.iter().filter(|r| r.jwks.is_empty()) {
            let origin = if !rule.jwks_uri.is_empty() {
                if translate::jwt::is_mesh_service(snapshot, &rule.jwks_uri) {
                    continue;
                }
                Origin::Uri(rule.jwks_uri.clone())
            } else if rule.issuer.starts_with("http://") || rule.issuer.starts_with("https://") {
                Origin::Issuer(rule.issuer.clone())
            } else {
                continue;
            };
            if out.len() < SERVERS_MAX || out.contains_key(&origin) {
                let key = ResourceKey::new(policy.kind.clone(), &policy.namespace, &policy.name);
                out.entry(origin).or_default().insert(key);
            }
        }
    }
    out
}

/// When to ask again.
struct Due {
    at: Instant,
    wait: Duration,
}

/// Runs as long as the control plane.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut due: BTreeMap<Origin, Due> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let wanted = mentioned(&shared.world.snapshot());
        due.retain(|origin, _| wanted.contains_key(origin));
        for (origin, resources) in wanted {
            let now = Instant::now();
            let entry = due.entry(origin.clone()).or_insert(Due { at: now, wait: RETRY.0 });
            if entry.at > now {
                continue;
            }
            let fetched = tokio::time::timeout(TIMEOUT, fetch(&origin)).await;
            match fetched.map_err(anyhow::Error::from).and_then(|r| r) {
                Ok(keys) => {
                    *entry = Due { at: now + FRESH, wait: RETRY.0 };
                    keep(&shared, &origin, keys, resources);
                }
                Err(e) => {
                    *entry = Due { at: now + entry.wait, wait: (entry.wait * 2).min(RETRY.1) };
                    tracing::warn!(target: "model", "Failed to fetch public key from {:?}: {e:#}", origin.key());
                }
            }
        }
    }
}

/// Stores keys; proxies of the resources hear of it when they are others than before.
fn keep(shared: &Shared, origin: &Origin, keys: String, resources: BTreeSet<ResourceKey>) {
    let old = shared.world.jwks.load_full();
    if old.get(origin.key()).is_some_and(|o| same_keys(o, &keys)) {
        return;
    }
    let mut next = (*old).clone();
    next.insert(origin.key().to_owned(), keys);
    shared.world.jwks.store(Arc::new(next));
    tracing::info!(target: "model", "JWT public key of {:?} changed", origin.key());
    shared.hub.push(&Moved(Arc::new(Delta { configs: resources, ..Delta::default() })), Instant::now());
}

/// Whether two key sets hold the same keys, in whatever order; texts that are no key sets must be equal.
pub fn same_keys(a: &str, b: &str) -> bool {
    let keys = |text: &str| -> Option<BTreeMap<String, Value>> {
        let set: Value = serde_json::from_str(text).ok()?;
        let list = set.get("keys")?.as_array()?.clone();
        Some(list.into_iter().map(|k| (k.get("kid").map_or_else(|| k.to_string(), Value::to_string), k)).collect())
    };
    match (keys(a), keys(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Whether a text is a key set with at least one key.
pub fn is_key_set(text: &str) -> bool {
    let set: Option<Value> = serde_json::from_str(text).ok();
    set.as_ref().and_then(|s| s.get("keys")?.as_array()).is_some_and(|k| !k.is_empty())
}

/// Addresses that a URI written by a user must not make the control plane ask: metadata services of clouds and what is
/// linked to the host alone.
pub fn is_blocked(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared_space = a == 100 && (64..128).contains(&b);
            ip.is_link_local() || ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || shared_space
        }
        IpAddr::V6(ip) => {
            if let Some(v4) = ip.to_ipv4_mapped() {
                return is_blocked(v4.into());
            }
            // Link-local, and the address of metadata services over IPv6.
            ip.segments()[0] & 0xffc0 == 0xfe80
                || ip.is_unspecified()
                || ip.is_multicast()
                || ip.segments()[..] == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254]
        }
    }
}

async fn fetch(origin: &Origin) -> anyhow::Result<String> {
    match origin {
        Origin::Uri(uri) => keys_of(uri).await,
        Origin::Issuer(issuer) => keys_of(&discover(issuer).await?).await,
    }
}

/// Where an issuer publishes its keys, by its discovery document (OpenID Connect Discovery 1.0, section 4).
///
/// # Errors
/// The issuer does not answer, or with something else.
pub async fn discover(issuer: &str) -> anyhow::Result<String> {
    let document = get(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
    let document: Value = serde_json::from_str(&document).context("discovery document")?;
    let uri = document.get("jwks_uri").and_then(Value::as_str).filter(|u| !u.is_empty());
    Ok(uri.context("discovery document names no jwks_uri")?.to_owned())
}

/// The key set at a URI, as it is written there.
///
/// # Errors
/// The server does not answer, or with something else than a key set.
pub async fn keys_of(uri: &str) -> anyhow::Result<String> {
    let keys = get(uri).await?;
    if !is_key_set(&keys) {
        bail!("{uri} answers with something else than a key set");
    }
    Ok(keys)
}

/// A URI taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    tls: bool,
    host: &'a str,
    port: u16,
    path: &'a str,
}

fn target(uri: &str) -> Option<Target<'_>> {
    let (tls, rest) = match (uri.strip_prefix("https://"), uri.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return None,
    };
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let default = if tls { 443 } else { 80 };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, default),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let clean = |s: &str| !s.bytes().any(|b| b.is_ascii_control() || b == b' ' || b == b'@');
    (!host.is_empty() && clean(host) && clean(path)).then_some(Target { tls, host, port, path })
}

async fn get(uri: &str) -> anyhow::Result<String> {
    let target = target(uri).with_context(|| format!("{uri} is no http or https URI"))?;
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((target.host, target.port)).await?.collect();
    let allowed = addresses.iter().find(|a| !is_blocked(a.ip()));
    let address = allowed.with_context(|| format!("{} has no address that may be asked", target.host))?;
    let tcp = TcpStream::connect(address).await?;
    if !target.tls {
        return exchange(tcp, &target).await;
    }
    let mut roots = rustls::RootCertStore::empty();
    for path in ANCHORS {
        if let Ok(text) = tokio::fs::read(path).await {
            let certificates = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok);
            roots.add_parsable_certificates(certificates);
        }
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(target.host.to_owned())?;
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    exchange(tls, &target).await
}

/// One HTTP/1.0 exchange: the answer ends with the connection, so it needs no framing.
async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, target: &Target<'_>) -> anyhow::Result<String> {
    let path = if target.path.starts_with('/') { target.path.to_owned() } else { format!("/{}", target.path) };
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.to_owned() };
    let request = format!(
        "GET {path} HTTP/1.0\r\nHost: {host}:{}\r\nAccept: application/json\r\nUser-Agent: proa\r\nConnection: close\r\n\r\n",
        target.port
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let text = String::from_utf8(answer)?;
    let (head, body) = text.split_once("\r\n\r\n").context("answer without an end of its head")?;
    let mut words = head.split(' ');
    match (words.next(), words.next()) {
        (Some(version), Some("200")) if version.starts_with("HTTP/1.") => Ok(body.to_owned()),
        (_, status) => bail!("answer has status {}", status.unwrap_or("none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let t = target("https://keys.example/a?b").unwrap();
        assert_eq!((t.tls, t.host, t.port, t.path), (true, "keys.example", 443, "/a?b"));
        let t = target("http://[::1]:8080").unwrap();
        assert_eq!((t.tls, t.host, t.port, t.path), (false, "::1", 8080, ""));
        for bad in ["ftp://x", "http://", "http://a b/", "http://user@host/", "http://h:x/"] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }

    #[test]
    fn addresses_of_nobodys_business() {
        for (ip, blocked) in [
            ("169.254.169.254", true),
            ("100.100.100.200", true),
            ("::ffff:169.254.169.254", true),
            ("fd00:ec2::254", true),
            ("fe80::1", true),
            ("10.0.0.1", false),
            ("127.0.0.1", false),
            ("8.8.8.8", false),
        ] {
            assert_eq!(is_blocked(ip.parse().unwrap()), blocked, "{ip}");
        }
    }

    #[test]
    fn order_is_no_change() {
        let a = r#"{"keys":[{"kid":"1","n":"x"},{"kid":"2","n":"y"}]}"#;
        let b = r#"{"keys":[{"n":"y","kid":"2"},{"kid":"1","n":"x"}]}"#;
        assert!(same_keys(a, b));
        assert!(!same_keys(a, r#"{"keys":[{"kid":"1","n":"z"},{"kid":"2","n":"y"}]}"#));
        assert!(is_key_set(a) && !is_key_set("<html>") && !is_key_set(r#"{"keys":[]}"#));
    }

    /// A server that answers every connection with the next of these bodies.
    async fn server(bodies: Vec<(&'static str, String)>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for (status, body) in bodies {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn keys_are_found_by_discovery() {
        let keys = r#"{"keys":[{"kty":"RSA","n":"a","e":"b"}]}"#;
        let listener = server(vec![("200 OK", keys.to_owned())]).await;
        let document = format!(r#"{{"jwks_uri":"http://{listener}/keys"}}"#);
        let issuer = server(vec![("200 OK", document)]).await;
        let got = fetch(&Origin::Issuer(format!("http://{issuer}"))).await.unwrap();
        assert_eq!(got, keys);
    }

    #[tokio::test]
    async fn other_answers_are_refused() {
        let address = server(vec![("404 Not Found", String::new()), ("200 OK", "<html>".to_owned())]).await;
        for _ in 0..2 {
            assert!(fetch(&Origin::Uri(format!("http://{address}/"))).await.is_err());
        }
    }
}
