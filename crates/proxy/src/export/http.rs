//! How is a batch posted over HTTP/1.1? One request on a connection of its own, through a cluster.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proxy_config::Name;
use proxy_config::common::HttpUri;
use upstream::Registry;

use crate::subscriptions::connect;

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Posts to `path` of `cluster`. An answer outside 2xx is an error.
pub async fn post(
    registry: &Registry,
    cluster: &str,
    host: &str,
    path: &str,
    headers: &[(Name, Name)],
    content_type: &str,
    body: Vec<u8>,
) -> Result<(), String> {
    let io = connect(registry, cluster, Some(b"http/1.1")).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(|e| e.to_string())?;
    let driver = tokio::task::spawn_local(connection);
    let mut request = http::Request::post(path).header("host", host).header("content-type", content_type);
    for (name, value) in headers {
        request = request.header(&**name, &**value);
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status();
        // Read, so that the collector sees an orderly end.
        let _ = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        if status.is_success() { Ok(()) } else { Err(format!("HTTP status {status}")) }
    };
    let outcome = answered.await;
    driver.abort();
    outcome
}

/// Posts to a configured URI.
pub async fn post_uri(
    registry: &Registry,
    uri: &HttpUri,
    headers: &[(Name, Name)],
    content_type: &str,
    body: Vec<u8>,
) -> Result<(), String> {
    // The scheme may be left out: the cluster says how to connect.
    let absolute = if uri.uri.contains("://") { uri.uri.to_string() } else { format!("http://{}", uri.uri) };
    let parsed: http::Uri = absolute.parse().map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let host = parsed.authority().map_or(&*uri.cluster, |a| a.as_str()).to_owned();
    let path = parsed.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    post(registry, &uri.cluster, &host, &path, headers, content_type, body).await
}
