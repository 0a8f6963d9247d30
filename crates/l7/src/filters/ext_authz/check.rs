//! What is an authorization service told? The `CheckRequest` of an HTTP request or a TCP connection.

use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use http1::{HeaderBlock, HeaderId};
use protos::envoy::config::core::v3 as core;
use protos::envoy::service::auth::v3 as auth;
use protos::envoy::service::auth::v3::attribute_context as ctx;
use protos::prost_types::Timestamp;
use proxy_config::filters::http::{BufferSettings, ExtAuthz};
use proxy_config::matcher::StringMatcher;
use proxy_core::facts::TlsFacts;

use crate::callout::wire;
use crate::exchange::Exchange;
use crate::facts::downstream_tls;
use crate::filters::FilterCx;

/// Says whether the body that was sent is only its beginning.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";

/// The check for a TCP connection, also the frame of one for HTTP.
pub fn connection(
    remote: SocketAddr,
    local: SocketAddr,
    tls: Option<&TlsFacts<'_>>,
    certificate: bool,
    sni: Option<&str>,
) -> auth::AttributeContext {
    let first = |names: &[String]| names.first().cloned();
    let principal = |t: &TlsFacts<'_>| {
        let name = first(t.peer_uri_sans).or_else(|| first(t.peer_dns_sans));
        name.unwrap_or_else(|| t.peer_subject.to_owned())
    };
    let own = |t: &TlsFacts<'_>| {
        let name = first(t.local_uri_sans).or_else(|| first(t.local_dns_sans));
        name.unwrap_or_else(|| t.local_subject.to_owned())
    };
    let peer = |address, principal: Option<String>| ctx::Peer {
        address: Some(wire::address(address)),
        principal: principal.unwrap_or_default(),
        ..Default::default()
    };
    let mut source = peer(remote, tls.map(principal));
    if certificate && let Some(t) = tls {
        source.certificate = t.peer_cert_pem.to_owned();
    }
    auth::AttributeContext {
        source: Some(source),
        destination: Some(peer(local, tls.map(own))),
        tls_session: sni.map(|s| ctx::TlsSession { sni: s.to_owned() }),
        metadata_context: Some(core::Metadata::default()),
        ..Default::default()
    }
}

/// The check for a request. `body`: what is sent of `ex.buffered`.
pub fn request(
    config: &ExtAuthz,
    cx: &FilterCx<'_>,
    ex: &Exchange,
    body: Option<&BufferSettings>,
    extensions: impl Iterator<Item = (String, String)>,
) -> auth::CheckRequest {
    let facts = &cx.conn.facts;
    let tls = downstream_tls(cx.conn);
    let sni = if config.include_tls_session { facts.server_name.as_deref() } else { None };
    let remote = ex.remote.unwrap_or(facts.remote);
    let mut attributes = connection(remote, facts.local, tls.as_ref(), config.include_peer_certificate, sni);
    if let Some(source) = &mut attributes.source {
        source.service = text(ex.request.get(b"x-envoy-downstream-service-cluster").unwrap_or_default());
    }
    let mut http = ctx::HttpRequest {
        id: ex.stream_id.to_string(),
        method: text(ex.request.method()),
        path: text(ex.request.path()),
        host: text(ex.request.authority()),
        scheme: text(ex.request.scheme()),
        size: ex.bytes_received as i64,
        protocol: ex.protocol.as_str().to_owned(),
        ..Default::default()
    };
    headers(config, &ex.request, &mut http);
    if let Some(settings) = body {
        http.size = announced(ex).unwrap_or(http.size);
        let n = ex.buffered.len().min(settings.max_request_bytes as usize);
        let sent = &ex.buffered[..n];
        if settings.pack_as_bytes {
            http.raw_body = sent.to_vec();
        } else {
            http.body = text(sent);
        }
        let partial = (n < ex.buffered.len()).to_string();
        match &mut http.header_map {
            Some(map) => map.headers.push(wire::header(PARTIAL_BODY.as_bytes(), partial.as_bytes(), true)),
            None => {
                http.headers.insert(PARTIAL_BODY.to_owned(), partial);
            }
        }
    }
    let begin = ex.times.begin.unwrap_or_else(tokio::time::Instant::now);
    let since = cx.conn.worker.wall(begin).duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 };
    attributes.request = Some(ctx::Request { time: Some(time), http: Some(http) });
    attributes.context_extensions = extensions.collect();
    let namespaces = config.metadata_context_namespaces.iter();
    let metadata = namespaces.filter_map(|n| Some((n.to_string(), wire::to_struct(ex.metadata.get(n)?))));
    attributes.metadata_context = Some(core::Metadata { filter_metadata: metadata.collect(), ..Default::default() });
    attributes.route_metadata_context = Some(core::Metadata::default());
    if config.include_tls_session {
        attributes.tls_session.get_or_insert_default();
    }
    auth::CheckRequest { attributes: Some(attributes) }
}

/// The length that the request's head states.
fn announced(ex: &Exchange) -> Option<i64> {
    std::str::from_utf8(ex.request.get_id(HeaderId::CONTENT_LENGTH)?).ok()?.parse().ok()
}

fn headers(config: &ExtAuthz, from: &HeaderBlock, http: &mut ctx::HttpRequest) {
    if config.encode_raw_headers {
        let all = from.iter().filter(|(name, _)| sent(config, name));
        let headers = all.map(|(name, value)| wire::header(name, value, true)).collect();
        http.header_map = Some(core::HeaderMap { headers });
        return;
    }
    for (name, value) in from.iter().filter(|(name, _)| sent(config, name)) {
        let slot = http.headers.entry(text(name)).or_default();
        if !slot.is_empty() {
            slot.push(',');
        }
        slot.push_str(&String::from_utf8_lossy(value));
    }
}

/// Whether the service gets to see a header.
fn sent(config: &ExtAuthz, name: &[u8]) -> bool {
    let any = |list: &[StringMatcher]| list.iter().any(|m| m.matches(name));
    let always = matches!(config.service, proxy_config::filters::http::ExtAuthzService::Http(_))
        && matches!(name, b":path" | b":method" | b":authority" | b"authorization");
    let allowed = match &config.allowed_headers {
        _ if always => true,
        Some(list) => any(list),
        None => matches!(config.service, proxy_config::filters::http::ExtAuthzService::Grpc(_)),
    };
    name != PARTIAL_BODY.as_bytes() && allowed && !any(&config.disallowed_headers)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
