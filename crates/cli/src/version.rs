//! Which versions are in play? This program's, the control plane's, and how many proxies run which.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::args;
use crate::context::{Failure, Global, print};
use crate::http::fetch;
use crate::output::indented;

const OWN: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn run(context: &Global, args: &args::Version) -> Result<u8, Failure> {
    let remote = if args.remote { remote(context) } else { None };
    let (control_plane, proxies) = remote.unwrap_or_default();
    let count: usize = proxies.values().sum();
    if let Some(format) = &args.output {
        let value =
            json!({"clientVersion": {"version": OWN}, "meshVersion": control_plane, "dataPlaneVersion": proxies});
        let text = if format == "yaml" {
            serde_norway::to_string(&value).unwrap_or_default()
        } else {
            indented(&value) + "\n"
        };
        print(&text)?;
        return Ok(0);
    }
    let mut out =
        if args.short && control_plane.is_empty() { format!("{OWN}\n") } else { format!("client version: {OWN}\n") };
    if !control_plane.is_empty() {
        out.push_str(&format!("control plane version: {control_plane}\n"));
        let list: Vec<String> = proxies.iter().map(|(version, count)| format!("{version} ({count} proxies)")).collect();
        out.push_str(&format!(
            "data plane version: {}\n",
            if count == 0 { "none".to_owned() } else { list.join(", ") }
        ));
    }
    print(&out)?;
    Ok(0)
}

/// The control plane's version and the proxies' by count, if a mesh runs.
fn remote(context: &Global) -> Option<(String, BTreeMap<String, usize>)> {
    let istiod = format!("deploy/istiod.{}", context.istio_namespace);
    let context = Global { namespace: None, ..context.clone() };
    let version = fetch(&context, &istiod, 15014, "GET", "/version").ok()?;
    let text = String::from_utf8_lossy(&version).trim().to_owned();
    let parsed =
        serde_json::from_str::<Value>(&text).ok().and_then(|value| value["version"].as_str().map(str::to_owned));
    let synced = fetch(&context, &istiod, 15014, "GET", "/debug/syncz")
        .ok()
        .and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    let mut proxies = BTreeMap::new();
    for proxy in synced.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let version = proxy["istio_version"].as_str().or_else(|| proxy["version"].as_str()).unwrap_or("unknown");
        *proxies.entry(version.to_owned()).or_default() += 1;
    }
    Some((parsed.unwrap_or(text), proxies))
}
