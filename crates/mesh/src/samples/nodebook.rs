//! The seeds' application: two versions of it behind one service show which one a request reached.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response};

use super::http::{Body, reply, serve as serve_http};

/// Longest delay that `/delay/{ms}` grants.
const DELAY_MAX: Duration = Duration::from_secs(60);
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) async fn serve(port: u16, version: String) -> std::io::Result<()> {
    let total = Rc::new(Cell::new(0_u64));
    serve_http(port, move |request, _| answer(request, version.clone(), Rc::clone(&total))).await
}

/// `/total` counts the requests served so far, other than to `/total` itself and to `/healthz`.
async fn answer(request: Request<Incoming>, version: String, total: Rc<Cell<u64>>) -> Response<Body> {
    let start = Instant::now();
    let path = request.uri().path().to_owned();
    let mut response = match path.as_str() {
        "/total" => reply(200, TEXT, total.get().to_string()),
        "/healthz" => reply(200, TEXT, "ok"),
        _ => {
            total.set(total.get() + 1);
            counted(&path, version).await
        }
    };
    let took = format!("{}ms", start.elapsed().as_millis());
    let took = HeaderValue::from_str(&took).expect("digits and letters");
    response.headers_mut().insert("x-response-time", took);
    response
}

async fn counted(path: &str, version: String) -> Response<Body> {
    if path == "/version" || path == "/" {
        return reply(200, TEXT, version);
    }
    if let Some(millis) = path.strip_prefix("/delay/") {
        let Ok(millis) = millis.parse() else {
            return reply(400, TEXT, "usage: /delay/{milliseconds}");
        };
        tokio::time::sleep(Duration::from_millis(millis).min(DELAY_MAX)).await;
        return reply(200, TEXT, version);
    }
    reply(404, TEXT, "Not Found")
}
