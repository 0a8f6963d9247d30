//! Is the application alive? The kubelet's probes, which the injector pointed at the agent, asked of the application as the
//! kubelet would have: HTTP, HTTPS without verification, TCP, gRPC. Follows pilot-agent's `/app-health` and `/app-lifecycle`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use http::header::{HOST, LOCATION, USER_AGENT};
use http::{HeaderMap, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tonic::transport::Endpoint;

use super::client::{self, Answer, Ask};

/// Longest body of an application's answer that is passed on.
const BODY_BYTES_MAX: usize = 10 << 10;
/// Redirects followed within the application.
const REDIRECTS_MAX: usize = 10;
/// A probe that does not say how long it may take has Kubernetes' default.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);
/// Last parts of a prober's path.
const KINDS: [&str; 5] = ["livez", "readyz", "startupz", "prestopz", "poststartz"];
/// Protocols offered to an HTTPS application.
const ALPN: &[&str] = &["h2", "http/1.1"];
/// The same with `ISTIO_ENABLE_HTTP2_PROBING=false`.
const ALPN_HTTP1: &[&str] = &["http/1.1"];

/// Why `ISTIO_KUBE_APP_PROBERS` is refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum InvalidProbers {
    /// Not the JSON that it should be.
    #[error("failed to decode app prober err = {reason}, json string = {text}")]
    Json {
        /// What is wrong.
        reason: String,
        /// The whole text.
        text: String,
    },
    /// A path that the injector does not make.
    #[error(
        "invalid path {0:?}, must be in form of /(app-health|app-lifecycle)/CONTAINER/(livez|readyz|startupz|prestopz|poststartz)"
    )]
    Path(String),
    /// None or several actions.
    #[error("invalid prober type, must be one of type httpGet, tcpSocket or gRPC")]
    Kind,
    /// A named port.
    #[error("invalid prober config for {0}, the port must be int type")]
    Port(String),
}

/// One probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Prober {
    /// What is asked.
    pub action: Action,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// `httpGet`
    Http {
        /// Port of the application.
        port: u16,
        /// Path, as given.
        path: String,
        /// `scheme: HTTPS`
        tls: bool,
    },
    /// `tcpSocket`
    Tcp {
        /// Port of the application.
        port: u16,
    },
    /// `grpc`
    Grpc {
        /// Port of the application.
        port: u16,
        /// Service whose health is asked.
        service: String,
    },
}

/// All probes, by the path under which the kubelet asks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probers(BTreeMap<String, Prober>);

/// Where the application is.
#[derive(Debug, Clone)]
pub struct Application {
    /// The pod's address; empty: loopback.
    pub address: String,
    /// Address that probes come from, which the pod's rules spare.
    pub local: Option<IpAddr>,
    /// Offer HTTP/2 to HTTPS applications.
    pub http2: bool,
    /// Port on which the kubelet asked.
    pub status_port: u16,
}

/// The answer to the kubelet.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Status code.
    pub status: StatusCode,
    /// What the application said.
    pub body: bytes::Bytes,
}

impl From<StatusCode> for Verdict {
    fn from(status: StatusCode) -> Self {
        Verdict { status, body: bytes::Bytes::new() }
    }
}

impl Probers {
    /// Reads `ISTIO_KUBE_APP_PROBERS`.
    ///
    /// # Errors
    /// The first prober that cannot be used.
    pub fn parse(text: &str) -> Result<Self, InvalidProbers> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let json = |reason: String| InvalidProbers::Json { reason, text: text.to_owned() };
        let value: Value = serde_json::from_str(text).map_err(|error| json(error.to_string()))?;
        let map = value.as_object().ok_or_else(|| json("not an object".into()))?;
        map.iter().map(|(path, value)| Ok((path.clone(), prober(path, value)?))).collect::<Result<_, _>>().map(Self)
    }

    /// The probe behind a path.
    pub fn get(&self, path: &str) -> Option<&Prober> {
        self.0.get(path)
    }
}

/// A field by name, whatever its case (Go's JSON is read so), null being absent.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let map = value.as_object()?;
    map.iter().find(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_null()).map(|(_, value)| value)
}

fn prober(path: &str, value: &Value) -> Result<Prober, InvalidProbers> {
    let parts: Vec<&str> = path.split('/').collect();
    let known = matches!(parts.as_slice(), ["", "app-health" | "app-lifecycle", container, kind]
        if !container.is_empty() && KINDS.contains(kind));
    if !known {
        return Err(InvalidProbers::Path(path.to_owned()));
    }
    let port = |action: &Value| match field(action, "port") {
        None => Ok(0),
        Some(port) => port.as_u64().and_then(|p| u16::try_from(p).ok()).ok_or(InvalidProbers::Port(path.to_owned())),
    };
    let text = |action: &Value, name: &str| field(action, name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let action = match [field(value, "httpGet"), field(value, "tcpSocket"), field(value, "grpc")] {
        [Some(http), None, None] => {
            Action::Http { port: port(http)?, path: text(http, "path"), tls: text(http, "scheme") == "HTTPS" }
        }
        [None, Some(tcp), None] => Action::Tcp { port: port(tcp)? },
        [None, None, Some(grpc)] => Action::Grpc { port: port(grpc)?, service: text(grpc, "service") },
        _ => return Err(InvalidProbers::Kind),
    };
    let seconds = field(value, "timeoutSeconds").and_then(Value::as_u64).filter(|s| *s > 0);
    Ok(Prober { action, timeout: seconds.map_or(TIMEOUT_DEFAULT, Duration::from_secs) })
}

/// Asks the application; `incoming` are the kubelet's headers, among them those the user gave the probe.
pub async fn run(prober: &Prober, application: &Application, incoming: &HeaderMap) -> Verdict {
    let asked = async {
        match &prober.action {
            Action::Http { port, path, tls } => http(*port, path, *tls, application, incoming).await,
            Action::Tcp { port } => client::connect(&application.address, *port, application.local)
                .await
                .map(|_| StatusCode::OK.into())
                .map_err(|error| error.to_string()),
            Action::Grpc { port, service } => grpc(*port, service, application, incoming).await,
        }
    };
    let reason = match tokio::time::timeout(prober.timeout, asked).await {
        Ok(Ok(verdict)) => return verdict,
        Ok(Err(reason)) => reason,
        Err(_) => format!("no answer within {:?}", prober.timeout),
    };
    tracing::error!(target: "probes", "Request to probe app failed: {reason}, {:?}", prober.action);
    StatusCode::INTERNAL_SERVER_ERROR.into()
}

/// An address in front of a port.
fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn http(
    port: u16,
    path: &str,
    tls: bool,
    application: &Application,
    incoming: &HeaderMap,
) -> Result<Verdict, String> {
    let asked = incoming.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    // The kubelet asked for the status port; the application expects its own.
    let authority = match asked.rsplit_once(':') {
        Some((host, asked_port)) if asked_port.parse() == Ok(application.status_port) => format!("{host}:{port}"),
        _ if asked.is_empty() => join(&application.address, port),
        _ => asked.to_owned(),
    };
    let alpn = if application.http2 { ALPN } else { ALPN_HTTP1 };
    let mut ask = Ask {
        host: application.address.clone(),
        port,
        tls: tls.then_some(alpn),
        local: application.local,
        authority,
        path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
        headers: incoming.clone(),
        body_bytes_max: BODY_BYTES_MAX,
    };
    for _ in 0..=REDIRECTS_MAX {
        let answer = client::get(&ask).await.map_err(|error| error.to_string())?;
        match next(&ask, &answer) {
            Some(next) => ask = next,
            // Somewhere else is no longer the application: that it redirects is answer enough, as for the kubelet.
            None if answer.status.is_redirection() => return Ok(StatusCode::OK.into()),
            None => return Ok(Verdict { status: answer.status, body: answer.body }),
        }
    }
    Err(format!("stopped after {REDIRECTS_MAX} redirects"))
}

/// The request that a redirect within the application asks for.
fn next(ask: &Ask, answer: &Answer) -> Option<Ask> {
    if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers.get(LOCATION)?.to_str().ok().filter(|l| !l.is_empty())?;
    let mut to = ask.clone();
    if let Some(rest) = location.strip_prefix('/')
        && !rest.starts_with('/')
    {
        to.path = location.to_owned();
        return Some(to);
    }
    if !location.contains("//") {
        let folder = ask.path.split('?').next().unwrap_or("/").rsplit_once('/').map_or("", |(folder, _)| folder);
        to.path = format!("{folder}/{location}");
        return Some(to);
    }
    let scheme = if ask.tls.is_some() { "https" } else { "http" };
    let absolute = if location.starts_with("//") { format!("{scheme}:{location}") } else { location.to_owned() };
    let uri: Uri = absolute.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']);
    if host != ask.host {
        return None;
    }
    let tls = uri.scheme_str() == Some("https");
    to.port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    to.tls = tls.then_some(ask.tls.unwrap_or(ALPN));
    to.authority = uri.authority()?.to_string();
    to.path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
    Some(to)
}

/// `grpc.health.v1.HealthCheckRequest`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SERVING`
const SERVING: i32 = 1;

async fn grpc(port: u16, service: &str, application: &Application, incoming: &HeaderMap) -> Result<Verdict, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let mut endpoint = Endpoint::from_shared(format!("http://{}", join(&application.address, port)))
        .or_else(|_| Endpoint::from_shared("http://application.invalid"))
        .map_err(|error| text(&error))?;
    if let Some(agent) = incoming.get(USER_AGENT) {
        endpoint = endpoint.user_agent(agent.clone()).map_err(|error| text(&error))?;
    }
    let (host, local) = (application.address.clone(), application.local);
    let connector = tower::service_fn(move |_: Uri| {
        let host = host.clone();
        async move { client::connect(&host, port, local).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| text(&error))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| text(&error))?;
    let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthRequest { service: service.to_owned() });
    let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
    let answer = client.unary(request, path, codec).await.map_err(|status| match status.code() {
        tonic::Code::Unimplemented => {
            format!("server does not implement the grpc health protocol (grpc.health.v1.Health): {}", status.message())
        }
        code => format!("grpc probe failed: {code}: {}", status.message()),
    })?;
    match answer.into_inner().status {
        SERVING => Ok(StatusCode::OK.into()),
        other => Err(format!("health status {other}, not SERVING")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<Action, &str>) {
        match (Probers::parse(text), expect) {
            (Ok(probers), Ok(action)) => assert_eq!(probers.0.values().next().unwrap().action, action),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expect) => panic!("{text}: {got:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn probers_are_read_and_refused() {
        let one = |action: &str| format!(r#"{{"/app-health/a/livez": {action}}}"#);
        let http = |port, path: &str, tls| Ok(Action::Http { port, path: path.into(), tls });
        check(&one(r#"{"httpGet": {"path": "/x", "port": 80}}"#), http(80, "/x", false));
        check(&one(r#"{"HTTPGet": {"port": 443, "scheme": "HTTPS"}, "tcpSocket": null}"#), http(443, "", true));
        check(&one(r#"{"gRPC": {"port": 9, "service": null}}"#), Ok(Action::Grpc { port: 9, service: String::new() }));
        check(&one(r#"{"httpGet": {"port": "http"}}"#), Err("must be int type"));
        check(&one(r#"{"httpGet": {"port": 1}, "tcpSocket": {"port": 1}}"#), Err("invalid prober type"));
        check(&one("{}"), Err("invalid prober type"));
        check(r#"{"/app-health//livez": {"tcpSocket": {"port": 1}}}"#, Err("invalid path"));
        check(r#"{"/app-health/a/b/livez": {"tcpSocket": {"port": 1}}}"#, Err("invalid path"));
        check(r#"{"/app-lifecycle/a/prestopz": {"tcpSocket": {"port": 1}}}"#, Ok(Action::Tcp { port: 1 }));
        check("[", Err("failed to decode app prober"));
    }

    #[test]
    fn redirects_stay_within_the_application() {
        let ask = Ask {
            host: "10.0.0.1".into(),
            port: 80,
            tls: None,
            local: None,
            authority: "10.0.0.1:80".into(),
            path: "/a/b?c".into(),
            headers: HeaderMap::new(),
            body_bytes_max: 0,
        };
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, location.parse().unwrap());
            let answer = Answer { status: StatusCode::FOUND, headers, body: Default::default(), cut: false };
            next(&ask, &answer).map(|next| (next.port, next.tls.is_some(), next.path))
        };
        assert_eq!(to("/x"), Some((80, false, "/x".into())));
        assert_eq!(to("x"), Some((80, false, "/a/x".into())));
        assert_eq!(to("https://10.0.0.1/x"), Some((443, true, "/x".into())));
        assert_eq!(to("//10.0.0.1:81/x"), Some((81, false, "/x".into())));
        assert_eq!(to("http://example.com/x"), None);
    }
}
