//! Which metrics does the workload have? The agent's own, the proxy's and those of the applications on one page, in the
//! applications' format. Follows pilot-agent's merge: bodies one after the other, at most one `# EOF`, and it last.

use std::io::Write as _;
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use super::client::{self, Ask};
use crate::metrics::Metrics;

/// How long a source may take unless Prometheus says (`X-Prometheus-Scrape-Timeout-Seconds`).
const SCRAPE_MAX: Duration = Duration::from_secs(10);
/// Longest page of one application; a longer one is left out.
pub const APP_BYTES_MAX: usize = 10 << 20;
/// Longest page of the proxy.
const PROXY_BYTES_MAX: usize = 256 << 20;
/// Most applications asked for one page.
const TARGETS_MAX: usize = 64;
/// Pages shorter than this are not worth compressing.
const COMPRESS_BYTES_MIN: usize = 1024;
/// Where metrics are when nothing is said.
const PATH_DEFAULT: &str = "/metrics";
const TIMEOUT_HEADER: &str = "x-prometheus-scrape-timeout-seconds";
const PROTOBUF: &str = "application/vnd.google.protobuf";
const OPEN_METRICS: &str = "application/openmetrics-text";
const EOF: &str = "# EOF";

/// Ports that belong to the proxy or the agent, and what they are.
const RESERVED: [(u16, &str); 9] = [
    (15000, "Envoy admin"),
    (15001, "outbound traffic capture"),
    (15004, "pilot debug"),
    (15006, "inbound traffic capture"),
    (15008, "HBONE tunnel"),
    (15020, "pilot-agent status / merged Prometheus"),
    (15021, "Envoy health"),
    (15053, "DNS proxy"),
    (15090, "Envoy Prometheus (already merged)"),
];

/// Why applications cannot be scraped as said.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum InvalidScrape {
    /// Not the JSON that it should be.
    #[error("failed to unmarshal ISTIO_PROMETHEUS_ANNOTATIONS: {0}")]
    Json(String),
    /// `:path`
    #[error("empty port in scrape target {0:?}")]
    EmptyPort(String),
    /// No number, or not one of a port.
    #[error("invalid prometheus scrape configuration: invalid target port {0:?}")]
    Port(String),
    /// Would ask itself.
    #[error(
        "invalid prometheus scrape configuration: application port is the same as agent port, which may lead to a recursive loop. Ensure pod does not have prometheus.io/port={0} label, or that injection is not happening multiple times"
    )]
    Recursive(u16),
    /// Belongs to the data plane.
    #[error(
        "invalid prometheus scrape configuration: target port {port} is reserved for Istio ({what}) and cannot be scraped"
    )]
    Reserved {
        /// As given.
        port: String,
        /// What listens there.
        what: &'static str,
    },
    /// More than anybody needs.
    #[error("invalid prometheus scrape configuration: {0} targets, at most {max} are scraped", max = TARGETS_MAX)]
    TooMany(usize),
}

/// One application's metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Port, as given.
    pub port: String,
    /// Path and query.
    pub path: String,
}

impl Target {
    fn number(&self) -> Result<u16, InvalidScrape> {
        let port = self.port.parse::<u16>().ok().filter(|p| *p > 0 && !self.port.starts_with('+'));
        port.ok_or_else(|| InvalidScrape::Port(self.port.clone()))
    }
}

/// Where the applications' metrics are (`ISTIO_PROMETHEUS_ANNOTATIONS`).
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `prometheus.io/port`, or the first target's.
    pub port: String,
    /// `prometheus.io/path`, or the first target's.
    pub path: String,
    /// What is scraped, in the order of the page.
    pub targets: Vec<Target>,
}

/// Reads `8080:/metrics,9100:/custom`: ports with paths.
///
/// # Errors
/// A target without a port. Whether ports are numbers is [`Config::parse`]'s question.
pub fn parse_targets(text: &str) -> Result<Vec<Target>, InvalidScrape> {
    let target = |entry: &str| {
        let (port, path) = entry.split_once(':').unwrap_or((entry, ""));
        let (port, path) = (port.trim(), path.trim());
        if port.is_empty() {
            return Err(InvalidScrape::EmptyPort(entry.to_owned()));
        }
        let path = if path.is_empty() { PATH_DEFAULT } else { path };
        Ok(Target { port: port.to_owned(), path: path.to_owned() })
    };
    text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(target).collect()
}

impl Config {
    /// Reads the annotations that the injector passed on. `None`: metrics are not to be scraped.
    ///
    /// # Errors
    /// What keeps a target from being asked.
    pub fn parse(text: &str, status_port: u16) -> Result<Option<Self>, InvalidScrape> {
        let value: Value = serde_json::from_str(text).map_err(|error| InvalidScrape::Json(error.to_string()))?;
        if !value.is_object() {
            return Err(InvalidScrape::Json("not an object".into()));
        }
        // Numbers and booleans are forgiven where text is meant.
        let text = |v: &Value| {
            v.as_str().map_or_else(|| if v.is_null() { String::new() } else { v.to_string() }, str::to_owned)
        };
        if text(&value["scrape"]) == "false" {
            return Ok(None);
        }
        let or = |v: String, default: &str| if v.is_empty() { default.to_owned() } else { v };
        let (port, path) = (text(&value["port"]), text(&value["path"]));
        let list = value["targets"].as_array().map_or(&[][..], Vec::as_slice);
        if list.len() > TARGETS_MAX {
            return Err(InvalidScrape::TooMany(list.len()));
        }
        let mut targets: Vec<Target> =
            list.iter().map(|t| Target { port: text(&t["port"]), path: or(text(&t["path"]), PATH_DEFAULT) }).collect();
        let (port, path) = match targets.first() {
            Some(first) => (or(port, &first.port), or(path, &first.path)),
            None => (or(port, "80"), or(path, PATH_DEFAULT)),
        };
        if targets.is_empty() {
            targets.push(Target { port: port.clone(), path: path.clone() });
        }
        for target in &targets {
            let number = target.number()?;
            if number == status_port {
                return Err(InvalidScrape::Recursive(status_port));
            }
            if let Some((_, what)) = RESERVED.iter().find(|(reserved, _)| *reserved == number) {
                return Err(InvalidScrape::Reserved { port: target.port.clone(), what });
            }
        }
        Ok(Some(Self { port, path, targets }))
    }
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text 0.0.4
    Text,
    /// OpenMetrics 0.0.1
    OpenMetrics001,
    /// OpenMetrics 1.0.0
    OpenMetrics100,
}

impl Format {
    /// The format that an application's `Content-Type` names; anything unknown counts as text.
    pub fn of(content_type: &str) -> Self {
        let mut parts = content_type.split(';').map(str::trim);
        if !parts.next().unwrap_or_default().eq_ignore_ascii_case(OPEN_METRICS) {
            return Self::Text;
        }
        let version = parts.find_map(|p| p.split_once('=').filter(|(k, _)| k.trim().eq_ignore_ascii_case("version")));
        match version.map(|(_, v)| v.trim().trim_matches('"')) {
            Some("1.0.0") => Self::OpenMetrics100,
            Some("0.0.1" | "") | None => Self::OpenMetrics001,
            Some(_) => Self::Text,
        }
    }

    /// As a `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics001 => "application/openmetrics-text; version=0.0.1; charset=utf-8",
            Self::OpenMetrics100 => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The merged page.
#[derive(Debug)]
pub struct Page {
    /// Its `Content-Type`.
    pub format: Format,
    /// Its text.
    pub body: Vec<u8>,
}

/// What a page is made from.
#[derive(Debug, Clone)]
pub struct Sources<'a> {
    /// `host:port` or `unix:PATH` of the proxy's metrics, unless they are left out.
    pub proxy: Option<&'a str>,
    /// The applications.
    pub applications: Option<&'a Config>,
    /// The agent's own metrics.
    pub own: String,
    /// Longest page of one application.
    pub app_bytes_max: usize,
}

/// Collects the page. A source that fails is left out and counted; the page is always made.
pub async fn page(sources: &Sources<'_>, query: Option<&str>, incoming: &HeaderMap, counts: &Metrics) -> Page {
    let headers = passed_on(incoming);
    let timeout = incoming.get(TIMEOUT_HEADER).and_then(|v| v.to_str().ok()?.parse::<f64>().ok());
    let timeout = timeout.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(SCRAPE_MAX);
    let proxy = async {
        let proxy = sources.proxy?;
        let (host, port) = match proxy.strip_prefix(crate::request::UNIX) {
            Some(socket) => (socket, "0"),
            None => proxy.rsplit_once(':')?,
        };
        let path = query.map_or_else(|| "/stats/prometheus".to_owned(), |q| format!("/stats/prometheus?{q}"));
        match one(host, port.parse().ok()?, &path, &headers, timeout, PROXY_BYTES_MAX).await {
            Ok((_, body)) => Some(body),
            Err(reason) => {
                tracing::error!(target: "default", "failed scraping envoy metrics: {reason}");
                counts.envoy_scrape_errors.add();
                None
            }
        }
    };
    let application = async |target: &Target| {
        let asked = match target.number() {
            Ok(port) => one("localhost", port, &target.path, &headers, timeout, sources.app_bytes_max).await,
            Err(error) => Err(error.to_string()),
        };
        asked
            .inspect_err(|reason| {
                tracing::error!(target: "default", "failed scraping application metrics: {:?}:{:?}: {reason}", target.port, target.path);
                counts.app_scrape_errors.add();
            })
            .ok()
    };
    let targets = sources.applications.map_or(&[][..], |config| &config.targets);
    let (proxy, applications) = tokio::join!(proxy, futures::future::join_all(targets.iter().map(application)));
    let applications: Vec<(Format, Vec<u8>)> = applications.into_iter().flatten().collect();
    // One format for all: where applications differ, the plain one, which says less but is never wrong.
    let mut formats = applications.iter().map(|(format, _)| *format);
    let first = formats.next().unwrap_or(Format::Text);
    let format = if formats.all(|format| format == first) { first } else { Format::Text };
    let mut body = sources.own.clone().into_bytes();
    for text in proxy.iter().chain(applications.iter().map(|(_, body)| body)) {
        append(&mut body, text);
    }
    if format != Format::Text {
        body.extend_from_slice(EOF.as_bytes());
        body.push(b'\n');
    }
    Page { format, body }
}

/// Adds a page without its end mark, on a line of its own.
fn append(page: &mut Vec<u8>, text: &[u8]) {
    let trimmed = text.trim_ascii_end();
    page.extend_from_slice(trimmed.strip_suffix(EOF.as_bytes()).unwrap_or(text));
    if page.last().is_some_and(|last| *last != b'\n') {
        page.push(b'\n');
    }
}

async fn one(
    host: &str,
    port: u16,
    path: &str,
    headers: &HeaderMap,
    timeout: Duration,
    bytes_max: usize,
) -> Result<(Format, Vec<u8>), String> {
    let ask = Ask {
        host: host.to_owned(),
        port,
        tls: None,
        local: None,
        authority: if host.starts_with('/') { "localhost".to_owned() } else { format!("{host}:{port}") },
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: headers.clone(),
        body_bytes_max: bytes_max,
    };
    let answer = tokio::time::timeout(timeout, client::get(&ask)).await;
    let answer = answer.map_err(|_| format!("no answer within {timeout:?}"))?.map_err(|error| error.to_string())?;
    if answer.status != http::StatusCode::OK {
        return Err(format!("status code: {}", answer.status.as_u16()));
    }
    if answer.cut {
        return Err(format!("response exceeds {bytes_max} bytes; dropping target"));
    }
    let content_type = answer.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if content_type.trim_start().starts_with(PROTOBUF) {
        return Err("answered in protobuf, which was not asked for and cannot be merged".into());
    }
    Ok((Format::of(content_type), answer.body.into()))
}

/// Prometheus' headers that matter to a source. Protobuf is not asked for: its messages cannot be joined with text.
fn passed_on(incoming: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for name in [USER_AGENT, http::HeaderName::from_static(TIMEOUT_HEADER)] {
        if let Some(value) = incoming.get(&name) {
            out.insert(name, value.clone());
        }
    }
    let accept = incoming.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_protobuf = |range: &&str| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(PROTOBUF);
    let kept: Vec<&str> = accept.split(',').filter(|range| !is_protobuf(range)).collect();
    let kept = kept.join(",");
    let kept = if kept.is_empty() && !accept.is_empty() { "text/plain;version=0.0.4" } else { &kept };
    if let Some(value) = Some(kept).filter(|k| !k.is_empty()).and_then(|k| HeaderValue::from_str(k).ok()) {
        out.insert(ACCEPT, value);
    }
    out
}

/// Compresses a page as `Accept-Encoding` allows: zstd, else gzip, by the client's weights.
pub fn compress(body: Vec<u8>, incoming: &HeaderMap) -> (Option<&'static str>, Vec<u8>) {
    let accepted = incoming.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if body.len() < COMPRESS_BYTES_MIN {
        return (None, body);
    }
    let done = match encoding(accepted) {
        Some("zstd") => zstd::encode_all(&*body, zstd::DEFAULT_COMPRESSION_LEVEL).map(|done| ("zstd", done)),
        Some(_) => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&body).and_then(|()| gzip.finish()).map(|done| ("gzip", done))
        }
        None => return (None, body),
    };
    // Writing to memory does not fail; if it did, the page itself is still right.
    done.map_or((None, body), |(name, done)| (Some(name), done))
}

/// The best encoding of ours that the client takes; of equals, zstd.
fn encoding(accepted: &str) -> Option<&'static str> {
    let weight = |name: &str| {
        let range = accepted
            .split(',')
            .map(str::trim)
            .find(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(name))?;
        let q = range.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q=")?.trim().parse::<f32>().ok());
        Some(q.unwrap_or(1.0)).filter(|q| *q > 0.0)
    };
    match (weight("zstd"), weight("gzip")) {
        (Some(zstd), Some(gzip)) if gzip > zstd => Some("gzip"),
        (Some(_), _) => Some("zstd"),
        (None, Some(_)) => Some("gzip"),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_by_weight() {
        for (accepted, expect) in [
            ("", None),
            ("br, lz4", None),
            ("gzip", Some("gzip")),
            ("gzip, zstd", Some("zstd")),
            ("gzip;q=1.0, zstd;q=0.5", Some("gzip")),
            ("zstd;q=0, gzip;q=0.1", Some("gzip")),
        ] {
            assert_eq!(encoding(accepted), expect, "{accepted}");
        }
    }

    #[test]
    fn protobuf_is_not_asked_for() {
        let check = |accept: &str, expect: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            assert_eq!(passed_on(&headers).get(ACCEPT).map(|v| v.to_str().unwrap()), expect, "{accept}");
        };
        check("application/vnd.google.protobuf;proto=x;q=0.7,text/plain;q=0.3", Some("text/plain;q=0.3"));
        check("application/vnd.google.protobuf", Some("text/plain;version=0.0.4"));
        check("*/*", Some("*/*"));
        check("", None);
    }

    #[test]
    fn ports_of_the_data_plane_are_refused() {
        let check = |text: &str, part: &str| {
            let error = Config::parse(text, 15020).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(r#"{"port": "15020"}"#, "recursive loop");
        check(r#"{"targets": [{"port": "015090"}]}"#, "reserved for Istio (Envoy Prometheus (already merged))");
        check(r#"{"targets": [{"port": "0"}]}"#, "invalid target port \"0\"");
        check("[]", "failed to unmarshal");
        assert_eq!(Config::parse(r#"{"scrape": "false", "port": "x"}"#, 15020), Ok(None));
    }

    #[test]
    fn end_marks_are_taken_off() {
        let mut page = Vec::new();
        for text in ["a 1\n# EOF\r\n", "b 2", "c 3\n"] {
            append(&mut page, text.as_bytes());
        }
        assert_eq!(String::from_utf8(page).unwrap(), "a 1\nb 2\nc 3\n");
    }
}
