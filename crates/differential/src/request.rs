//! Which requests are sent? Seeded; the same logical request as exact HTTP/1 bytes or as an HTTP/2 stream.

use crate::rng::Rng;
use crate::scene::{HOSTS, PATHS, Protocol, Scene};

/// One request to send to both proxies.
pub struct Case {
    /// Its number in the scene.
    pub number: u64,
    /// How it is sent.
    pub kind: Kind,
    /// TLS around it.
    pub tls: Option<TlsAsk>,
    /// On the connection of the case before, if that can be.
    pub reuse: bool,
    /// Method.
    pub method: &'static str,
    /// Target as written.
    pub target: String,
    /// Authority.
    pub host: String,
    /// HTTP version (HTTP/1 only).
    pub version: &'static str,
    /// Header lines, `name: value`.
    pub headers: Vec<String>,
    /// Body.
    pub body: String,
    /// The body is sent in chunks (HTTP/1 only).
    pub chunked: bool,
    /// Trailers (HTTP/2 only).
    pub trailers: Vec<(&'static str, &'static str)>,
}

/// How a case is sent.
pub enum Kind {
    /// As HTTP/1 bytes. `head`: the response has no body.
    Http1 {
        /// It is a HEAD request.
        head: bool,
    },
    /// As an HTTP/2 stream.
    Http2,
    /// As plain bytes.
    Tcp,
}

/// What the client says in its handshake.
pub struct TlsAsk {
    /// Server name.
    pub server_name: Option<&'static str>,
    /// Protocols offered.
    pub alpn: Vec<&'static str>,
    /// Whether it shows a certificate.
    pub certificate: bool,
}

const HEADERS: &[&str] = &[
    "x-a: 1",
    "x-a: value",
    "x-a: v2",
    "x-a:",
    "x-b: b",
    "x-b: v1,v2",
    "x-n: 5",
    "x-n: 50",
    "x-n: five",
    "x-n: -3",
    "x-cluster: ~two",
    "x-cluster: nowhere",
    "user-agent: test",
    "origin: http://a.test",
    "origin: http://b.test",
    "x-forwarded-for: 1.2.3.4",
    "x-forwarded-for: 10.0.0.1, 10.0.0.2, 8.8.8.8",
    "x-forwarded-for: nonsense",
    "x-forwarded-proto: https",
    "x-request-id: given",
    "x-envoy-internal: true",
    "x-envoy-retry-on: 5xx",
    "x-envoy-retry-grpc-on: unavailable",
    "x-envoy-max-retries: 2",
    "x-envoy-upstream-rq-timeout-ms: 5000",
    "x-envoy-force-trace: 1",
    "x-envoy-original-path: /x",
    "x-forwarded-client-cert: By=a",
    "connection: close",
    "connection: x-b",
    "te: trailers",
    "te: gzip",
    "under_score: 1",
    "cookie: k=1; j=2",
    "cookie: j=2",
    "x-status: 503",
    "x-status: 404",
    "x-status: 204",
    "x-status: 304",
    "x-status: 302",
    "x-status: 503",
    "x-status: 418",
    "x-status: 500",
    "x-reset: 1",
    "x-reset: 3",
    "x-fail: 1",
    "x-fail: 2",
    "x-half: 1",
    "x-hint: 1",
    "x-bad-head: 1",
    "x-chunked: 1",
    "x-chunked: 1",
    "x-reply-header: x-reply: r",
    "x-reply-header: x-retry: 1",
    "x-reply-header: server: mine",
    "x-reply-header: x-envoy-ratelimited: true",
    "x-reply-header: x-envoy-overloaded: true",
    "x-reply-header: set-cookie: a=b",
    "x-reply-header: location: /elsewhere",
    "x-reply-header: connection: close",
    "x-reply-header: date: today",
    "x-reply-header: grpc-status: 14",
    "x-reply-header: content-type: application/grpc",
    "expect: 100-continue",
    "access-control-request-method: POST",
    "access-control-request-private-network: true",
    "content-type: application/grpc",
    "content-type: application/grpc-web",
    "content-type: text/plain",
    "x-envoy-decorator-operation: op",
    "keep-alive: 5",
    "proxy-connection: keep-alive",
    "x-envoy-expected-rq-timeout-ms: 7",
    "x-forwarded-host: f",
    "x-envoy-attempt-count: 9",
    "accept-encoding: gzip",
    "via: 1.1 up",
    "upgrade: websocket",
    "grpc-timeout: 5S",
    "grpc-timeout: 900m",
    "x-retry-me: 1",
    "authorization: Bearer abc",
    "referer: http://a.test/x",
    "x-envoy-fault-abort-request: 429",
    "x-envoy-upstream-rq-per-try-timeout-ms: 6000",
    "x-envoy-retriable-status-codes: 404,418",
    "x-envoy-retriable-header-names: x-reply",
    "x-forwarded-port: 77",
    "x-envoy-hedge-on-per-try-timeout: true",
];

const METHODS: &[&str] = &["GET", "GET", "GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "PATCH", "FOO"];

/// The cases of a scene.
pub fn generate(scene: &Scene, count: u64) -> Vec<Case> {
    let rng = &mut Rng::new(scene.seed ^ 0x00c0_ffee);
    (0..count).map(|number| one(rng, scene, number)).collect()
}

fn one(rng: &mut Rng, scene: &Scene, number: u64) -> Case {
    let method = rng.pick(METHODS);
    let path = rng.pick(PATHS);
    let host = rng.pick(HOSTS);
    let target = match rng.below(20) {
        0 => format!("http://{host}{path}"),
        1 if method == "OPTIONS" => "*".to_owned(),
        _ => path.to_owned(),
    };
    let version = if rng.one_in(25) { "1.0" } else { "1.1" };
    let headers = (0..rng.below(4)).map(|_| rng.pick(HEADERS).replace('~', &scene.prefix)).collect();
    let mut headers: Vec<String> = headers;
    if rng.one_in(120) {
        // Beyond the short timeouts of routes and tries, so that it does not matter how busy the machine is.
        headers.push("x-delay: 900".to_owned());
    }
    let body = match (method, rng.below(4)) {
        ("POST" | "PUT" | "PATCH", n) => "x".repeat([0, 1, 19, 5000][n]),
        _ => String::new(),
    };
    // HTTP/1.0 knows no codings: we refuse them, Envoy does not (docs/differences.md).
    let chunked = !body.is_empty() && rng.one_in(3) && version != "1.0";
    let reuse = rng.one_in(2);
    let tls = scene.protocol.tls().then(|| TlsAsk {
        server_name: [None, Some("a.test"), Some("b.test"), Some("x.a.test"), Some("other.test")][rng.below(5)],
        alpn: match scene.protocol {
            Protocol::TlsHttp2 => vec!["h2"],
            _ => [vec![], vec!["http/1.1"], vec!["h2", "http/1.1"], vec!["odd"]]
                [rng.below(if scene.protocol == Protocol::TlsTcp { 4 } else { 2 })]
            .clone(),
        },
        certificate: rng.one_in(2),
    });
    let kind = match scene.protocol {
        Protocol::Http2 | Protocol::TlsHttp2 => Kind::Http2,
        Protocol::Tcp | Protocol::TlsTcp => Kind::Tcp,
        _ => Kind::Http1 { head: method == "HEAD" },
    };
    let trailers = if !body.is_empty() && rng.one_in(3) { vec![("x-trailer", "t")] } else { Vec::new() };
    // A session is of one name: connections under TLS are not shared.
    let reuse = reuse && tls.is_none();
    Case { number, kind, tls, reuse, method, target, host: host.to_owned(), version, headers, body, chunked, trailers }
}

/// Fields that HTTP/2 forbids.
const NOT_IN_HTTP2: &[&str] = &["connection", "keep-alive", "proxy-connection", "upgrade", "transfer-encoding"];

impl Case {
    /// The value of `x-case`: who asks (one letter, for the upstream to tell the sides apart) and what.
    pub fn key(&self, side: char, scene: u64) -> String {
        format!("{side}-{scene}-{}", self.number)
    }

    /// The bytes for HTTP/1 and TCP.
    pub fn wire(&self, key: &str) -> Vec<u8> {
        if matches!(self.kind, Kind::Tcp) {
            return format!("TCP {}", self.body).into_bytes();
        }
        let Case { method, target, version, host, body, .. } = self;
        let mut text = format!("{method} {target} HTTP/{version}\r\nHost: {host}\r\nX-Case: {key}\r\n");
        for line in &self.headers {
            text.push_str(line);
            text.push_str("\r\n");
        }
        if self.chunked {
            text.push_str(&format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
        } else if !body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        } else {
            text.push_str("\r\n");
        }
        text.into_bytes()
    }

    /// The head for HTTP/2, with `key` as `x-case`; `None`: it cannot be one.
    pub fn h2(&self, key: &str) -> Option<http::Request<()>> {
        let path = if self.target.starts_with('/') && !self.target.contains('#') { &self.target } else { "/" };
        let uri =
            http::Uri::builder().scheme("http").authority(self.host.as_str()).path_and_query(path).build().ok()?;
        let mut request =
            http::Request::builder().method(self.method).uri(uri).version(http::Version::HTTP_2).header("x-case", key);
        for line in &self.headers {
            let (name, value) = line.split_once(':')?;
            let forbidden = NOT_IN_HTTP2.contains(&name) || name == "te" && value.trim() != "trailers";
            if !forbidden {
                request = request.header(name, value.trim());
            }
        }
        if !self.body.is_empty() && !self.chunked && self.trailers.is_empty() {
            request = request.header("content-length", self.body.len());
        }
        request.body(()).ok()
    }
}
