//! What did the request look like when it arrived? The part of httpbin that the samples and tests of Istio use.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use hyper::{Request, Response};
use serde_json::{Map, Value, json};

use super::http::{Body, collect, reply, serve as serve_http};

/// Most bytes of `/bytes/{n}` and lines of `/stream/{n}`.
const SIZE_MAX: usize = 100 << 20;
/// Longest `/delay/{s}`, as in httpbin.
const DELAY_MAX: f64 = 10.0;
const JSON: &str = "application/json";

pub(super) async fn serve(port: u16) -> std::io::Result<()> {
    serve_http(port, answer).await
}

/// Headers as httpbin prints them: `X-Request-Id`, several values joined by a comma.
pub(super) fn headers_of(headers: &HeaderMap) -> Map<String, Value> {
    let mut all = Map::new();
    let mut keys: Vec<&HeaderName> = headers.keys().collect();
    keys.sort_by_key(|name| name.as_str());
    for name in keys {
        let title: Vec<String> = name.as_str().split('-').map(capital).collect();
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        all.insert(title.join("-"), values.collect::<Vec<_>>().join(",").into());
    }
    all
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

async fn answer(request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let mut segments = path.trim_start_matches('/').split('/');
    let (first, argument) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let origin = || {
        let forwarded = parts.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
        forwarded.map_or_else(|| peer.ip().to_canonical().to_string(), str::to_owned)
    };
    match first {
        "" => reply(200, "text/html; charset=utf-8", "<!DOCTYPE html><title>httpbin</title><h1>httpbin</h1>\n"),
        "status" => status(argument),
        "delay" => {
            let seconds = argument.parse::<f64>().unwrap_or(0.0).clamp(0.0, DELAY_MAX);
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            described(&parts, body, &origin()).await
        }
        "get" | "post" | "put" | "patch" | "delete" | "anything" | "head" => described(&parts, body, &origin()).await,
        "headers" => pretty(&json!({ "headers": headers_of(&parts.headers) })),
        "ip" => pretty(&json!({ "origin": origin() })),
        "user-agent" => pretty(&json!({ "user-agent": headers_of(&parts.headers).get("User-Agent") })),
        "uuid" => pretty(&json!({ "uuid": format!("{:032x}", rand::random::<u128>()) })),
        "hostname" => pretty(&json!({ "hostname": std::env::var("HOSTNAME").unwrap_or_default() })),
        "bytes" => {
            let length = argument.parse::<usize>().unwrap_or(0).min(SIZE_MAX);
            let bytes: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(31) % 251) as u8).collect();
            reply(200, "application/octet-stream", bytes)
        }
        "stream" | "stream-bytes" | "drip" => {
            stream(argument.parse::<usize>().unwrap_or(1).min(SIZE_MAX), &parts.headers)
        }
        "redirect" | "relative-redirect" => redirect(argument.parse::<u32>().unwrap_or(1)),
        "response-headers" => response_headers(parts.uri.query().unwrap_or_default()),
        "html" => reply(200, "text/html; charset=utf-8", "<!DOCTYPE html><h1>Herman Melville - Moby-Dick</h1>\n"),
        "robots.txt" => reply(200, "text/plain", "User-agent: *\nDisallow: /deny\n"),
        _ => reply(404, "text/plain", format!("no such page: {path}\n")),
    }
}

fn pretty(value: &Value) -> Response<Body> {
    reply(200, JSON, format!("{value:#}\n"))
}

fn status(argument: &str) -> Response<Body> {
    let code = argument.split(',').next().and_then(|code| code.split(':').next()).and_then(|code| code.parse().ok());
    match code {
        Some(418) => reply(418, "text/plain", "\n    -=[ teapot ]=-\n\n"),
        Some(code @ 200..=599) => reply(code, "text/plain", ""),
        _ => reply(400, "text/plain", "usage: /status/{200-599}\n"),
    }
}

async fn described(parts: &hyper::http::request::Parts, body: Incoming, origin: &str) -> Response<Body> {
    let body = match collect(body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let mut query = Map::new();
    for pair in parts.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        query.insert(key.to_owned(), value.into());
    }
    let host =
        parts.uri.authority().map(|authority| authority.as_str()).or_else(|| parts.headers.get("host")?.to_str().ok());
    let url =
        format!("http://{}{}", host.unwrap_or_default(), parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    let data = String::from_utf8_lossy(&body).into_owned();
    pretty(&json!({
        "args": query,
        "data": data,
        "headers": headers_of(&parts.headers),
        "json": serde_json::from_slice::<Value>(&body).unwrap_or(Value::Null),
        "method": parts.method.as_str(),
        "origin": origin,
        "url": url,
    }))
}

/// `n` lines of JSON, each its own chunk.
fn stream(lines: usize, headers: &HeaderMap) -> Response<Body> {
    let headers = headers_of(headers);
    let mut at = 0;
    let frames = std::iter::from_fn(move || {
        (at < lines).then(|| {
            at += 1;
            let line = json!({ "id": at - 1, "headers": headers });
            Frame::data(Bytes::from(format!("{line}\n")))
        })
    });
    let mut response = reply(200, JSON, "");
    *response.body_mut() = Frames(frames).boxed();
    response
}

/// An iterator of frames as a body that is always ready.
struct Frames<I>(I);

impl<I: Iterator<Item = Frame<Bytes>> + Unpin> hyper::body::Body for Frames<I> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        std::task::Poll::Ready(self.0.next().map(Ok))
    }
}

fn redirect(times: u32) -> Response<Body> {
    let to = if times <= 1 { "/get".to_owned() } else { format!("/redirect/{}", times - 1) };
    let mut response = reply(302, "text/plain", "");
    response.headers_mut().insert(LOCATION, HeaderValue::from_str(&to).expect("a path of digits"));
    response
}

fn response_headers(query: &str) -> Response<Body> {
    let mut response = reply(200, JSON, "{}\n");
    for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if let (Ok(key), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            response.headers_mut().append(key, value);
        }
    }
    response
}
