//! The tables of merged metrics, and just enough of both text formats' grammar to say whether a page can be read.

use std::collections::BTreeSet;
use std::io::Read as _;

use agent::status::scrape::{Config, Target};
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::Value;

use super::servers::{App, Running, ask};
use super::values::{go, text};
use super::{equal, options, serve};

/// What an application says when it has both formats.
const APP_OPEN_METRICS: &str = "# TYPE jvm info\n# HELP jvm VM version info\njvm_info{runtime=\"OpenJDK\",version=\"16.0.1+9\"} 1.0\n# TYPE jmx_config_reload_success counter\n# HELP jmx_config_reload_success Number of times.\njmx_config_reload_success_total 0.0\njmx_config_reload_success_created 1.623984612719E9\n# EOF\n";
const APP_TEXT: &str =
    "# HELP jvm_info VM version info\n# TYPE jvm_info gauge\njvm_info{runtime=\"OpenJDK\",version=\"16.0.1+9\",} 1.0\n";
const PROXY: &str = "# TYPE my_metric counter\nmy_metric{} 0\n# TYPE my_other_metric counter\nmy_other_metric{} 0\n";

async fn page(body: &str, content_type: &str) -> Running {
    App { page: Some((body.to_owned(), content_type.to_owned())), ..App::default() }.serve().await
}

/// The merged page of a proxy and applications on these ports.
struct Asked {
    headers: HeaderMap,
    status: u16,
    body: Vec<u8>,
    app_errors: u64,
}

impl Asked {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: http::HeaderName) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

async fn merged(
    proxy: u16,
    applications: &[u16],
    headers: HeaderMap,
    bytes_max: Option<usize>,
) -> Result<Asked, String> {
    let mut options = options(&format!("127.0.0.1:{proxy}"));
    let targets: Vec<Target> =
        applications.iter().map(|port| Target { port: port.to_string(), path: "/metrics".into() }).collect();
    if let Some(first) = targets.first() {
        options.scrape = Some(Config { port: first.port.clone(), path: first.path.clone(), targets });
    }
    if let Some(bytes_max) = bytes_max {
        options.app_bytes_max = bytes_max;
    }
    let (port, status) = serve(options).await;
    let answer = ask(port, "/stats/prometheus", headers).await?;
    let app_errors = status.options.metrics.app_scrape_errors.get();
    Ok(Asked { headers: answer.headers, status: answer.status.as_u16(), body: answer.body.to_vec(), app_errors })
}

fn accepting(name: http::HeaderName, value: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if !value.is_empty() {
        headers.insert(name, value.parse().unwrap());
    }
    headers
}

pub async fn stats(case: &Value) -> Result<(), String> {
    let (proxy, app) = (page(&text(&case["envoy"]), "").await, page(&text(&case["app"]), "").await);
    let asked = merged(proxy.port, &[app.port], HeaderMap::new(), None).await?;
    let (body, want) = (asked.text(), text(&case["output"]));
    equal(asked.status, 200)?;
    if !body.contains(&want) {
        return Err(format!("{want:?} not in {body}"));
    }
    parses(&body, false, case["expectParseError"] == true)
}

/// Both grammars share what the tables need: a family is described once, samples have values, OpenMetrics ends with its
/// mark and nothing follows it.
fn parses(body: &str, open_metrics: bool, want_error: bool) -> Result<(), String> {
    match (parse(body, open_metrics), want_error) {
        (Ok(()), false) | (Err(_), true) => Ok(()),
        (Ok(()), true) => Err(format!("a parser accepts {body}")),
        (Err(why), false) => Err(format!("{why}: {body}")),
    }
}

fn parse(body: &str, open_metrics: bool) -> Result<(), String> {
    let mut described = BTreeSet::new();
    let mut ended = false;
    for line in body.lines() {
        if ended {
            return Err("something follows # EOF".into());
        }
        if line == "# EOF" && open_metrics {
            ended = true;
        } else if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let (what, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if what == "TYPE" && !described.insert(name.to_owned()) {
                return Err(format!("second TYPE of {name}"));
            }
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            let after = line.rsplit_once('}').map_or(line, |(_, after)| after);
            let value = after.split_whitespace().find_map(|word| word.parse::<f64>().ok());
            value.ok_or_else(|| format!("no value in {line:?}"))?;
        }
    }
    if open_metrics && !ended { Err("no # EOF".into()) } else { Ok(()) }
}

pub async fn compression(case: &Value) -> Result<(), String> {
    let mut big = PROXY.to_owned();
    for i in 0..20_000 {
        big.push_str(&format!("#TYPE my_other_metric_{i} counter\nmy_other_metric_{i} 0\n"));
    }
    let proxy = page(&big, "").await;
    let headers = accepting(ACCEPT_ENCODING, &text(&case["acceptEncodingHeader"]));
    let asked = merged(proxy.port, &[], headers, None).await?;
    let want = text(&case["expectContentEncoding"]);
    equal(asked.header(CONTENT_ENCODING), want.as_str())?;
    let mut plain = String::new();
    match want.as_str() {
        "gzip" => flate2::read::GzDecoder::new(&*asked.body).read_to_string(&mut plain).map(drop),
        "zstd" => zstd::decode_all(&*asked.body).map(|bytes| plain = String::from_utf8_lossy(&bytes).into_owned()),
        _ => {
            plain = asked.text();
            Ok(())
        }
    }
    .map_err(|e| e.to_string())?;
    if plain.contains(&big) { Ok(()) } else { Err("the proxy's metrics are not on the page".into()) }
}

/// As a client library of Prometheus chooses: by weight, protobuf among the choices; wildcards mean text.
fn negotiate(headers: &HeaderMap) -> (String, String) {
    let accept = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut ranges: Vec<(f32, &str)> = accept
        .split(',')
        .map(|range| {
            let q = range.split(';').find_map(|p| p.trim().strip_prefix("q=")?.parse().ok());
            (q.unwrap_or(1.0), range.trim())
        })
        .collect();
    ranges.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, range) in ranges {
        let version = range.split(';').find_map(|p| p.trim().strip_prefix("version=")).unwrap_or("0.0.1");
        match range.split(';').next().unwrap_or_default() {
            "application/vnd.google.protobuf" => return (String::new(), "application/vnd.google.protobuf".into()),
            "application/openmetrics-text" => {
                return (
                    APP_OPEN_METRICS.into(),
                    format!("application/openmetrics-text; version={version}; charset=utf-8"),
                );
            }
            "text/plain" => break,
            _ => {}
        }
    }
    (APP_TEXT.into(), "text/plain; version=0.0.4; charset=utf-8".into())
}

pub async fn exclude_protobuf(case: &Value) -> Result<(), String> {
    let proxy = page(PROXY, "").await;
    let app = App { negotiate: Some(negotiate), ..App::default() }.serve().await;
    let asked = merged(proxy.port, &[app.port], accepting(ACCEPT, &text(&case["acceptHeader"])), None).await?;
    equal(asked.app_errors, 0)?;
    equal(asked.header(CONTENT_TYPE).split(';').next().unwrap_or_default(), text(&case["want"]).as_str())
}

pub async fn content_type(case: &Value) -> Result<(), String> {
    let proxy = page(PROXY, "").await;
    let app = App { negotiate: Some(negotiate), ..App::default() }.serve().await;
    let accept = go(&case["acceptHeader"]);
    let asked = merged(proxy.port, &[app.port], accepting(ACCEPT, &accept), None).await?;
    equal(asked.status, 200)?;
    let open_metrics = asked.header(CONTENT_TYPE).starts_with("application/openmetrics-text");
    equal(open_metrics, accept.starts_with("application/openmetrics-text"))?;
    parses(&asked.text(), open_metrics, case["expectParseError"] == true)
}

pub async fn errors(case: &Value) -> Result<(), String> {
    let server = async |v: &Value| {
        let fail = (v["$ident"] == "failPort").then_some(500);
        App { page: Some(Default::default()), fail, ..App::default() }.serve().await
    };
    let (proxy, app) = (server(&case["envoy"]).await, server(&case["app"]).await);
    let asked = merged(proxy.port, &[app.port], HeaderMap::new(), None).await?;
    equal(asked.app_errors, u64::from(case["app"]["$ident"] == "failPort"))?;
    equal(asked.status, 200)
}

async fn targets(specs: &[Value]) -> Vec<Running> {
    let mut running = Vec::new();
    for spec in specs {
        let page = Some((text(&spec["body"]), go(&spec["contentType"])));
        let fail = (spec["fail"] == true).then_some(500);
        running.push(App { page, fail, ..App::default() }.serve().await);
    }
    running
}

pub async fn multi_target(case: &Value) -> Result<(), String> {
    let specs = case["targets"].as_array().cloned().unwrap_or_default();
    let running = targets(&specs).await;
    let ports: Vec<u16> = running.iter().map(|r| r.port).collect();
    let proxy = page(&text(&case["envoy"]), "").await;
    let asked = merged(proxy.port, &ports, HeaderMap::new(), None).await?;
    let (want, body) = (&case["want"], asked.text());
    equal(asked.status, 200)?;
    if !want["contentType"].is_null() {
        equal(asked.header(CONTENT_TYPE), go(&want["contentType"]).as_str())?;
    }
    let list = |name: &str| want[name].as_array().cloned().unwrap_or_default().iter().map(text).collect::<Vec<_>>();
    let mut from = 0;
    for part in list("ordered") {
        let at = body[from..].find(&part).ok_or_else(|| format!("{part:?} not in order in {body}"))?;
        from += at + part.len();
    }
    for part in list("contains") {
        if !body.contains(&part) {
            return Err(format!("{part:?} not in {body}"));
        }
    }
    for part in list("notContains") {
        if body.contains(&part) {
            return Err(format!("{part:?} in {body}"));
        }
    }
    if let Some(count) = want["eofCount"]["args"][0].as_u64().or(want["eofCount"].as_u64()) {
        equal(body.matches("# EOF").count() as u64, count)?;
    }
    equal(asked.app_errors, want["appScrapeErrorsDelta"].as_u64().unwrap_or(0))?;
    let want_error = want["parseError"] == true;
    if want["parseText"] == true {
        parses(&body, false, want_error)?;
    }
    if want["parseOM"] == true {
        parses(&body, true, want_error)?;
    }
    Ok(())
}

/// Longest page of one application in the original's test.
const BODY_BYTES_MAX: usize = 100;

pub async fn body_cap(case: &Value) -> Result<(), String> {
    let small = serde_json::json!({"body": "small 1\n"});
    let running = targets(&[small, case.clone()]).await;
    let ports: Vec<u16> = running.iter().map(|r| r.port).collect();
    let proxy = page("", "").await;
    let asked = merged(proxy.port, &ports, HeaderMap::new(), Some(BODY_BYTES_MAX)).await?;
    let body = text(&case["body"]);
    let fits = body.len() <= BODY_BYTES_MAX;
    equal(asked.text().contains(&body), fits)?;
    equal(asked.app_errors, u64::from(!fits))
}
