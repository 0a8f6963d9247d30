//! Which HTTP paths do 8080 and 15014 answer? `/ready`, `/metrics`, `/version` and `/debug/…`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use telemetry::log::istio;

use crate::debug;
use crate::run::Shared;

/// The routes of both ports.
pub fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/healthz/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .route("/scopej", get(scopes))
        .route("/scopej/{scope}", axum::routing::put(set_scope))
        .route("/debug", get(list))
        .route("/debug/{page}", get(page).post(page))
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    if shared.ready.load(Ordering::Acquire) {
        StatusCode::OK.into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "configuration not read yet\n").into_response()
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    // After a change it looks at all connected proxies: not on a thread that serves pushes.
    match tokio::task::spawn_blocking(move || crate::metrics::render(&shared)).await {
        Ok(page) => (kind, page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn version() -> String {
    format!("{}-dev-Clean", crate::VERSION)
}

/// ControlZ's list of scopes.
async fn scopes() -> Response {
    let levels = istio::levels();
    let list = levels.iter().map(|(name, level)| json!({"name": name, "output_level": level.as_str()}));
    json_response(&Value::Array(list.collect()))
}

/// ControlZ's change of one scope: `{"output_level": "debug"}`.
async fn set_scope(Path(scope): Path<String>, body: String) -> Response {
    let level = serde_json::from_str::<Value>(&body).ok();
    let Some(level) = level.and_then(|v| istio::Level::parse(v["output_level"].as_str()?)) else {
        return (StatusCode::BAD_REQUEST, "output_level must be one of none, fatal, error, warn, info, debug\n")
            .into_response();
    };
    let mut levels = istio::levels();
    levels.set(&scope, level);
    istio::set_levels(levels);
    StatusCode::ACCEPTED.into_response()
}

async fn list() -> Response {
    json_response(&debug::list())
}

async fn page(
    State(shared): State<Arc<Shared>>,
    Path(page): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    match debug::page(&shared, &page, &query) {
        Ok(value) => json_response(&value),
        Err(debug::Refused::NoSuchPage) => (StatusCode::NOT_FOUND, "404 page not found\n").into_response(),
        Err(debug::Refused::Missing(what)) => (StatusCode::BAD_REQUEST, format!("{what}\n")).into_response(),
        Err(debug::Refused::NotConnected(proxy)) => {
            (StatusCode::NOT_FOUND, format!("Proxy not connected to this Pilot instance: {proxy}\n")).into_response()
        }
    }
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}
