//! One runner per table: builds what the original's test builds, asks the real server, compares.

mod metrics;
mod servers;
mod values;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use agent::config::ProxyConfig;
use agent::metrics::Metrics;
use agent::status::probes::{Application, Probers};
use agent::status::scrape::{self, Config, Target};
use agent::status::{Options, Status, router};
use http::{HeaderMap, Method};
use serde_json::{Value, json};
use servers::{App, ask};
use values::{resolve, status_code, text};

/// What a case came to; `None`: the table is not served.
pub type Outcome = Option<Result<(), String>>;

/// Runs one case of a table.
pub async fn run(function: &str, case: &Value) -> Outcome {
    Some(match function {
        "TestGetMeshConfig" => proxy_config(case),
        "TestCheckGkeWorkloadCertificate" => workload_files(case),
        "TestExtractCAHeadersFromEnv" => ca_headers(case),
        "TestNewServer" => probers(case),
        "TestParseScrapeTargets" => scrape_targets(case),
        "TestNewServerPrometheusNormalization" => scrape_config(case),
        "TestNegotiateMetricsFormat" => {
            let want = values::go(&case["expected"]);
            equal(scrape::Format::of(&text(&case["contentType"])).content_type(), want.as_str())
        }
        "TestAppProbe" => app_probe(case).await,
        "TestHttpsAppProbe" => https_probe(case).await,
        "TestGRPCAppProbe" => grpc_probe(case, "127.0.0.1").await,
        "TestGRPCAppProbeWithIPV6" => grpc_probe(case, "::1").await,
        "TestProbeHeader" => probe_header(case).await,
        "TestHandleQuit" => quit(case),
        "TestAdditionalProbes" => additional(case).await,
        "TestEnvoyStats" => envoy_stats(case).await,
        "TestStats" => metrics::stats(case).await,
        "TestHTTPCompressionOnStats" => metrics::compression(case).await,
        "TestExcludeProtobufEncoding" => metrics::exclude_protobuf(case).await,
        "TestStatsContentType" => metrics::content_type(case).await,
        "TestStatsError" => metrics::errors(case).await,
        "TestStatsMultiTarget" => metrics::multi_target(case).await,
        "TestScrapeMultipleAppsBodyCap" => metrics::body_cap(case).await,
        _ => return None,
    })
}

/// Equal, or both sides in words.
pub fn equal<T: PartialEq<U> + std::fmt::Debug, U: std::fmt::Debug>(found: T, want: U) -> Result<(), String> {
    if found == want { Ok(()) } else { Err(format!("found {found:?}, want {want:?}")) }
}

/// A status server's options with nothing behind them.
pub fn options(admin: &str) -> Options {
    Options {
        has_proxy: true,
        admin: admin.to_owned(),
        proxy_metrics: Some(admin.to_owned()),
        probers: Probers::default(),
        application: Application {
            address: String::new(),
            local: Some(Ipv4Addr::new(127, 0, 0, 6).into()),
            http2: true,
            status_port: 15020,
        },
        scrape: None,
        app_bytes_max: scrape::APP_BYTES_MAX,
        metrics_local_only: false,
        certificate: None,
        names: None,
        checks: Vec::new(),
        metrics: Arc::new(Metrics::default()),
    }
}

/// Serves; the port.
pub async fn serve(mut options: Options) -> (u16, Arc<Status>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    options.application.status_port = port;
    let status = Status::new(options, Instant::now());
    let app = router(Arc::clone(&status)).into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (port, status)
}

/// The sources of configuration in their order: what a later one says of a field holds, maps are joined.
fn proxy_config(case: &Value) -> Result<(), String> {
    let of = |name: &str| case[name].as_str().unwrap_or_default();
    let (file, environment, annotation) = (of("file"), of("environment"), of("annotation"));
    let found = ProxyConfig::merged(file, environment, annotation).map_err(|e| e.to_string())?;
    let read = |text: &str| api::yaml::parse(text).unwrap_or(Value::Null);
    let mut want = ProxyConfig::defaults().json().clone();
    for source in [read(file)["defaultConfig"].clone(), read(environment), read(annotation)] {
        for (name, value) in source.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
            match (name.as_str(), want.get_mut(name)) {
                ("proxyMetadata", Some(Value::Object(old))) => {
                    old.extend(value.as_object().cloned().unwrap_or_default());
                }
                _ => want[name] = value.clone(),
            }
        }
    }
    for (name, value) in want.as_object().unwrap() {
        // What is no field of the message is left out by the original; ours carries it along unread.
        equal(&found.json()[name], value).map_err(|e| format!("{name}: {e}"))?;
    }
    Ok(())
}

fn workload_files(case: &Value) -> Result<(), String> {
    let paths: Vec<PathBuf> = case["paths"].as_array().into_iter().flatten().map(|p| text(p).into()).collect();
    equal(agent::certificate::all_exist(&paths), case["expected"] == true)
}

fn ca_headers(case: &Value) -> Result<(), String> {
    let map = |v: &Value| -> BTreeMap<String, String> {
        v.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect()
    };
    equal(agent::certificate::headers(&map(&case["envVars"]), "CA_HEADER_"), map(&case["expectedCAHeaders"]))
}

fn probers(case: &Value) -> Result<(), String> {
    match (Probers::parse(&text(&case["probe"])), case["err"].as_str().unwrap_or_default()) {
        (Ok(_), "") => Ok(()),
        (Err(error), part) if !part.is_empty() && error.to_string().contains(part) => Ok(()),
        (found, part) => Err(format!("found {found:?}, want {part:?}")),
    }
}

fn targets(v: &Value) -> Vec<Target> {
    let target = |t: &Value| Target { port: text(&t["Port"]), path: text(&t["Path"]) };
    v.as_array().into_iter().flatten().map(target).collect()
}

fn scrape_targets(case: &Value) -> Result<(), String> {
    match scrape::parse_targets(&text(&case["input"])) {
        Ok(found) if case["wantErr"] != true => equal(found, targets(&case["want"])),
        Err(_) if case["wantErr"] == true => Ok(()),
        found => Err(format!("found {found:?}")),
    }
}

fn scrape_config(case: &Value) -> Result<(), String> {
    match Config::parse(&text(&case["envJSON"]), 15020) {
        Err(_) if case["wantErr"] == true => Ok(()),
        Ok(found) if case["wantErr"] != true => {
            equal(found.as_ref().map_or(&[][..], |c| &c.targets), targets(&case["wantTargets"]).as_slice())?;
            match case["wantPort"].as_str() {
                Some(port) => equal(found.map(|c| c.port).as_deref(), Some(port)),
                None => Ok(()),
            }
        }
        found => Err(format!("found {found:?}")),
    }
}

async fn app_probe(case: &Value) -> Result<(), String> {
    let app = App::default().serve().await;
    let ipv6 = case["ipv6"] == true;
    let mut options = options("127.0.0.1:1");
    options.probers = Probers::parse(&resolve(&case["config"], app.port).to_string()).map_err(|e| e.to_string())?;
    options.application.address = text(&case["podIP"]);
    // `::6` is loopback only where the pod's rules made it so.
    options.application.local =
        Some(if ipv6 { IpAddr::from(Ipv6Addr::LOCALHOST) } else { Ipv4Addr::new(127, 0, 0, 6).into() });
    let (port, _) = serve(options).await;
    let answer = ask(port, &text(&case["probePath"]), HeaderMap::new()).await?;
    equal(answer.status.as_u16(), status_code(&case["statusCode"])?)
}

async fn https_probe(case: &Value) -> Result<(), String> {
    let alpns = case["alpns"].as_array().map(|list| list.iter().map(text).collect()).unwrap_or_default();
    let app = App { tls: Some(alpns), ..App::default() }.serve().await;
    let mut options = options("127.0.0.1:1");
    let https = |path: &str| json!({"httpGet": {"path": path, "port": app.port, "scheme": "HTTPS"}});
    let probers = json!({"/app-health/hello-world/readyz": https("/hello/sunnyvale"), "/app-health/hello-world/livez": https("")});
    options.probers = Probers::parse(&probers.to_string()).map_err(|e| e.to_string())?;
    options.application.address = "localhost".into();
    let (port, _) = serve(options).await;
    let answer = ask(port, &text(&case["probePath"]), HeaderMap::new()).await?;
    equal(answer.status.as_u16(), status_code(&case["statusCode"])?)?;
    equal(app.protocol().as_str(), case["expectedProtocol"].as_str().unwrap_or_default())
}

async fn grpc_probe(case: &Value, address: &str) -> Result<(), String> {
    let app = servers::health().await;
    let mut options = options("127.0.0.1:1");
    let probe = |service: Value| json!({"grpc": {"port": app, "service": service}, "timeoutSeconds": 10});
    let probers = json!({
        "/app-health/foo/livez": probe(Value::Null),
        "/app-health/foo/readyz": probe("not-serving-svc".into()),
        "/app-health/bar/livez": probe("serving-svc".into()),
        "/app-health/bar/readyz": probe("unknown-svc".into()),
    });
    options.probers = Probers::parse(&probers.to_string()).map_err(|e| e.to_string())?;
    options.application.address = address.to_owned();
    if address == "::1" {
        options.application.local = Some(Ipv6Addr::LOCALHOST.into());
    }
    let (port, _) = serve(options).await;
    let path = case["probePath"]["args"][0].as_str().map(|p| p.trim_start_matches(":%v").to_owned());
    let answer = ask(port, &path.unwrap_or_else(|| text(&case["probePath"])), HeaderMap::new()).await?;
    equal(answer.status.as_u16(), status_code(&case["statusCode"])?)
}

async fn probe_header(case: &Value) -> Result<(), String> {
    let app = App::default().serve().await;
    let headers: Vec<Value> = case["proxyHeaders"].as_array().cloned().unwrap_or_default();
    let get = json!({"httpGet": {"port": app.port, "path": "/header", "httpHeaders": headers}});
    let mut options = options("127.0.0.1:1");
    let probers = json!({"/app-health/hello-world/livez": get});
    options.probers = Probers::parse(&probers.to_string()).map_err(|e| e.to_string())?;
    let (port, _) = serve(options).await;
    let mut sent = HeaderMap::new();
    for (name, value) in values::headers(&case["originHeaders"]) {
        sent.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    let answer = ask(port, "app-health/hello-world/livez", sent).await?;
    equal(answer.status.as_u16(), 200)?;
    let seen = app.headers();
    let ignored = ["host", "user-agent", "accept-encoding"];
    let mut seen: Vec<(String, String)> =
        seen.into_iter().filter(|(name, _)| !ignored.contains(&name.as_str())).collect();
    let mut want = values::headers(&case["want"]);
    seen.sort();
    want.sort();
    equal(seen, want)
}

fn quit(case: &Value) -> Result<(), String> {
    let status = Status::new(options("127.0.0.1:1"), Instant::now());
    let peer = text(&case["remoteAddr"]).trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let method: Method = text(&case["method"]).parse().map_err(|_| "method".to_owned())?;
    let verdict = status.quit(peer, &method);
    equal(verdict.as_u16(), status_code(&case["expected"])?)?;
    let told = futures::FutureExt::now_or_never(status.quit.notified()).is_some();
    equal(told, verdict.is_success())
}

/// Statistics of a proxy that is ready.
const LIVE: &str = "cluster_manager.cds.update_success: 1\nlistener_manager.lds.update_success: 1\nlistener_manager.workers_started: 1\nserver.state: 0\n";

async fn verdict(options: Options) -> String {
    let status = Status::new(options, Instant::now());
    let checked = tokio::task::spawn_blocking(move || status.check()).await.unwrap();
    checked.err().map(|why| why.to_string()).unwrap_or_default()
}

async fn additional(case: &Value) -> Result<(), String> {
    let proxy = App { page: Some((LIVE.into(), String::new())), ..App::default() }.serve().await;
    let mut options = options(&format!("127.0.0.1:{}", proxy.port));
    for probe in case["probes"].as_array().into_iter().flatten() {
        let ready = probe["$t"] == "readyProbe";
        options.checks.push(Box::new(move || if ready { Ok(()) } else { Err("not ready".into()) }));
    }
    equal(verdict(options).await.as_str(), case["err"]["$error"].as_str().unwrap_or_default())
}

async fn envoy_stats(case: &Value) -> Result<(), String> {
    let proxy = App { page: Some((text(&case["stats"]), String::new())), ..App::default() }.serve().await;
    let found = verdict(options(&format!("127.0.0.1:{}", proxy.port))).await;
    equal(found.as_str(), case["result"].as_str().unwrap_or_default())
}
