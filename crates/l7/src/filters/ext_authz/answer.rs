//! What did an authorization service say? Answers of gRPC and HTTP services, in one form.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use http1::{HeaderBlock, HeaderId, push_decimal};
use protos::envoy::service::auth::v3 as auth;
use protos::envoy::service::auth::v3::check_response::HttpResponse;
use proxy_config::Name;
use proxy_config::common::{GrpcService, Value};
use proxy_config::filters::http::ExtAuthzHttp;
use proxy_config::matcher::StringMatcher;

use crate::callout::wire::{Action, HeaderEdit};
use crate::callout::{self, CallError, Request, Response, grpc, wire};
use crate::worker::Worker;

/// The method of an authorization service.
pub const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
/// How long a gRPC service is waited for unless configured.
const GRPC_TIMEOUT: Duration = Duration::from_millis(200);

/// An answer.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is decided.
    pub kind: Kind,
    /// Status of a refusal; of an error, if the service names one.
    pub status: Option<u16>,
    /// Body of a refusal.
    pub body: Vec<u8>,
    /// Changes to the request, or the headers of a refusal.
    pub headers: Vec<HeaderEdit>,
    /// Request headers to remove.
    pub remove: Vec<Vec<u8>>,
    /// Changes to the response of an accepted request.
    pub response_headers: Vec<HeaderEdit>,
    /// Query parameters to set.
    pub query_set: Vec<(String, String)>,
    /// Query parameters to remove.
    pub query_remove: Vec<String>,
    /// Dynamic metadata.
    pub metadata: BTreeMap<Name, Value>,
    /// Some header option could not be understood.
    pub invalid: bool,
}

/// What an answer decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The request may pass.
    Ok,
    /// It may not.
    Denied,
    /// Nobody can say.
    #[default]
    Error,
    /// Nobody said in time.
    Timeout,
}

/// Asks a gRPC service.
pub async fn ask_grpc(worker: &Rc<Worker>, service: &GrpcService, check: &auth::CheckRequest) -> Verdict {
    let timeout = service.timeout.unwrap_or(GRPC_TIMEOUT);
    match grpc::unary::<_, auth::CheckResponse>(worker, service, METHOD, check, timeout, &[]).await {
        Ok(response) => of_grpc(response),
        Err(status) => {
            telemetry::debug!(ext_authz, "the service failed: {} {}", status.code, status.message);
            let late = status.code == grpc::Status::DEADLINE_EXCEEDED;
            Verdict { kind: if late { Kind::Timeout } else { Kind::Error }, ..Default::default() }
        }
    }
}

/// Reads a gRPC answer.
pub fn of_grpc(r: auth::CheckResponse) -> Verdict {
    let mut out = Verdict::default();
    let code = r.status.map_or(0, |s| s.code);
    let mut metadata = r.dynamic_metadata;
    let edits = |list: &[protos::envoy::config::core::v3::HeaderValueOption], append: bool, invalid: &mut bool| {
        let read = |o| HeaderEdit::read(o, append);
        let all: Vec<Option<HeaderEdit>> = list.iter().map(read).collect();
        *invalid |= all.iter().any(Option::is_none);
        all.into_iter().flatten().collect::<Vec<_>>()
    };
    match (code, r.http_response) {
        (0, said) => {
            out.kind = Kind::Ok;
            if let Some(HttpResponse::OkResponse(ok)) = said {
                out.headers = edits(&ok.headers, false, &mut out.invalid);
                // Of the request's headers Envoy knows two kinds, those to append and those to set.
                let sets = |a| matches!(a, Action::AddIfAbsent | Action::Overwrite);
                for edit in out.headers.iter_mut() {
                    if sets(edit.action) {
                        edit.action = Action::Set;
                    }
                }
                out.response_headers = edits(&ok.response_headers_to_add, true, &mut out.invalid);
                out.remove = ok.headers_to_remove.iter().map(|n| n.to_ascii_lowercase().into_bytes()).collect();
                out.query_set = ok.query_parameters_to_set.into_iter().map(|p| (p.key, p.value)).collect();
                out.query_remove = ok.query_parameters_to_remove;
                #[allow(deprecated)]
                let own = ok.dynamic_metadata;
                metadata = own.or(metadata);
            }
        }
        (_, Some(HttpResponse::ErrorResponse(e))) => {
            out.kind = Kind::Error;
            out.status = e.status.and_then(|s| u16::try_from(s.code).ok()).filter(|s| *s > 0);
            out.headers = edits(&e.headers, false, &mut out.invalid);
            out.body = e.body.into_bytes();
        }
        (_, said) => {
            out.kind = Kind::Denied;
            out.status = Some(403);
            if let Some(HttpResponse::DeniedResponse(d)) = said {
                let status = d.status.and_then(|s| u16::try_from(s.code).ok()).filter(|s| *s > 0);
                out.status = status.or(out.status);
                out.headers = edits(&d.headers, false, &mut out.invalid);
                out.body = d.body.into_bytes();
            }
        }
    }
    if let Some(m) = &metadata {
        out.metadata = wire::fields(m);
    }
    out
}

/// Asks an HTTP service.
pub async fn ask_http(worker: &Rc<Worker>, service: &ExtAuthzHttp, check: &auth::CheckRequest) -> Verdict {
    let Some(http) = check.attributes.as_ref().and_then(|a| a.request.as_ref()).and_then(|r| r.http.as_ref()) else {
        return Verdict::default();
    };
    let body = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
    let request =
        Request { head: head(service, http, body.len()), body: body.to_vec(), timeout: service.server.timeout };
    match callout::call(worker, &service.server.cluster, request).await {
        Ok(response) => of_http(service, response),
        Err(e) => {
            telemetry::debug!(ext_authz, "the service failed: {e:?}");
            let late = e == CallError::Timeout;
            Verdict { kind: if late { Kind::Timeout } else { Kind::Error }, ..Default::default() }
        }
    }
}

fn head(service: &ExtAuthzHttp, http: &auth::attribute_context::HttpRequest, body: usize) -> HeaderBlock {
    let mut head = HeaderBlock::new();
    // Pseudo headers come first.
    head.add_id(HeaderId::METHOD, http.method.as_bytes());
    head.add_id(HeaderId::PATH, format!("{}{}", service.path_prefix, http.path).as_bytes());
    head.add_id(HeaderId::AUTHORITY, http.host.as_bytes());
    let mut digits = Vec::new();
    push_decimal(&mut digits, body as u64);
    head.add_id(HeaderId::CONTENT_LENGTH, &digits);
    for (name, value) in &http.headers {
        if !name.starts_with(':') && name != "content-length" {
            head.add(name.as_bytes(), value.as_bytes());
        }
    }
    for (name, value) in &service.headers_to_add {
        head.set(name.as_str().as_bytes(), value.as_bytes());
    }
    head
}

/// Reads an HTTP answer.
pub fn of_http(service: &ExtAuthzHttp, r: Response) -> Verdict {
    if r.status >= 500 {
        return Verdict::default();
    }
    let any = |list: &[StringMatcher], name: &[u8]| list.iter().any(|m| m.matches(name));
    let edit = |name: &[u8], value: &[u8], action| HeaderEdit { name: name.to_vec(), value: value.to_vec(), action };
    let ok = r.status == 200;
    let mut out =
        Verdict { kind: if ok { Kind::Ok } else { Kind::Denied }, status: Some(r.status), ..Default::default() };
    for (name, value) in r.head.iter() {
        if name == b"x-envoy-auth-headers-to-remove" {
            let names = value.split(|b| *b == b',').map(|n| n.trim_ascii().to_ascii_lowercase());
            out.remove.extend(names.filter(|n| !n.is_empty()));
            continue;
        }
        if any(&service.dynamic_metadata_from_headers, name) {
            let value = Value::String(String::from_utf8_lossy(value).into());
            out.metadata.insert(String::from_utf8_lossy(name).into(), value);
        }
        if ok {
            if any(&service.allowed_upstream_headers, name) {
                out.headers.push(edit(name, value, Action::Set));
            }
            if any(&service.allowed_upstream_headers_to_append, name) {
                out.headers.push(edit(name, value, Action::Add));
            }
            if any(&service.allowed_client_headers_on_success, name) {
                out.response_headers.push(edit(name, value, Action::Add));
            }
        } else if to_client(service, name) {
            out.headers.push(edit(name, value, Action::Set));
        }
    }
    if !ok {
        out.body = r.body;
    }
    out
}

/// Whether a header of a refusal reaches the client.
fn to_client(service: &ExtAuthzHttp, name: &[u8]) -> bool {
    let list = &service.allowed_client_headers;
    if list.is_empty() {
        return name != b"host" && name != b":authority";
    }
    let always: [&[u8]; 6] =
        [b":status", b"content-length", b"location", b"www-authenticate", b"proxy-authenticate", b":path"];
    always.contains(&name) || list.iter().any(|m| m.matches(name))
}
