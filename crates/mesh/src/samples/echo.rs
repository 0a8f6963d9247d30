//! Says what arrived: over HTTP as JSON; over gRPC, WebSocket and TCP byte for byte.

use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::http::{Body, collect, listen, reply, serve as serve_http};
use super::httpbin::headers_of;
use super::websocket;

pub(super) async fn serve(port: u16, tcp_ports: Vec<u16>, name: String, hello: bool) -> std::io::Result<()> {
    let name: Rc<str> = name.into();
    for port in tcp_ports {
        let listener = listen(port)?;
        let name = Rc::clone(&name);
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let name = Rc::clone(&name);
                tokio::task::spawn_local(async move {
                    if hello && stream.write_all(format!("hello {name}\n").as_bytes()).await.is_err() {
                        return;
                    }
                    let mut buffer = vec![0; 16 << 10];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        if stream.write_all(&buffer[..length]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
    serve_http(port, move |request, peer| answer(request, peer, Rc::clone(&name))).await
}

/// A gRPC answer: the messages as they came, and a status in the trailers, whatever was called.
fn grpc(messages: Bytes) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static("echoed"));
    // A stream and not a whole, which would be announced by its length: some clients look no further than that.
    let frames = [Ok(Frame::data(messages)), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures::stream::iter(frames)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

async fn answer(mut request: Request<Incoming>, peer: std::net::SocketAddr, name: Rc<str>) -> Response<Body> {
    if let Some(response) = websocket::accept(&mut request) {
        return response;
    }
    let is_grpc = request.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    let (parts, body) = request.into_parts();
    let body = match collect(body).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    if is_grpc {
        return grpc(body);
    }
    let report = serde_json::json!({
        "name": &*name,
        "method": parts.method.as_str(),
        "path": parts.uri.path_and_query().map_or("/", |path| path.as_str()),
        "protocol": format!("{:?}", parts.version),
        "peer": peer.to_string(),
        "headers": headers_of(&parts.headers),
        "body": String::from_utf8_lossy(&body),
    });
    reply(200, "application/json", format!("{report:#}\n"))
}
