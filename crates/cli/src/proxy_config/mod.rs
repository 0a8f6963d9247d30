//! What was a proxy told? `proxy-config`: istioctl's tables and JSON from a proxy's admin pages or from a file.

mod bootstrap;
mod cluster;
mod dump;
mod ecds;
mod endpoint;
mod listener;
mod log;
mod route;
mod secret;

use std::fs;
use std::io::Read;

use serde_json::Value;

use crate::args::{ProxyConfig, ProxyConfigKind, Source};
use crate::context::{Failure, Global, print};
use crate::http::fetch;
use crate::output::indented;
use dump::Dump;

/// Reads a config dump from the file or the pod that `source` names.
fn read(context: &Global, source: &Source, path: &str) -> Result<Value, Failure> {
    let text = match (&source.file, &source.pod) {
        (Some(file), _) if file == "-" => {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).map_err(Failure::io("standard input"))?;
            text
        }
        (Some(file), _) => fs::read(file).map_err(Failure::io(file))?,
        (None, Some(pod)) => fetch(context, pod, source.proxy_admin_port, "GET", path)?,
        (None, None) => {
            return Err(Failure::Said("a pod (or deploy/NAME) or a dump with --file is needed".to_owned()));
        }
    };
    serde_json::from_slice(&text).map_err(|error| Failure::Said(format!("the config dump is not JSON: {error}")))
}

fn dump(context: &Global, source: &Source) -> Result<Dump, Failure> {
    Dump::read(&read(context, source, "/config_dump?include_eds")?).map_err(Failure::Said)
}

/// Prints `table` for `short`, or `items` as JSON or YAML.
fn show(output: &str, table: impl FnOnce() -> String, items: impl FnOnce() -> Value) -> Result<u8, Failure> {
    let text = match output {
        "short" | "table" | "" => table(),
        "json" => indented(&items()) + "\n",
        "yaml" => serde_norway::to_string(&items()).unwrap_or_default(),
        other => {
            return Err(Failure::Said(format!("unknown output format {other:?}; use short, json or yaml")));
        }
    };
    print(&text)?;
    Ok(0)
}

pub(crate) fn run(context: &Global, args: &ProxyConfig) -> Result<u8, Failure> {
    match &args.what {
        ProxyConfigKind::Cluster { source, fqdn, direction, subset, port } => {
            let filter = cluster::Filter {
                fqdn: fqdn.as_deref(),
                direction: direction.as_deref(),
                subset: subset.as_deref(),
                port: *port,
            };
            let clusters = cluster::select(&dump(context, source)?, &filter)?;
            show(
                &source.output,
                || cluster::summary(&clusters),
                || clusters.iter().map(|one| one.value.clone()).collect(),
            )
        }
        ProxyConfigKind::Listener { source, address, port, kind, verbose, .. } => {
            let filter = listener::Filter { address: address.as_deref(), port: *port, kind: kind.as_deref() };
            let listeners = listener::select(&dump(context, source)?, &filter)?;
            show(&source.output, || listener::summary(&listeners, *verbose), || listeners.clone().into())
        }
        ProxyConfigKind::Route { source, name, verbose } => {
            let routes = route::select(&dump(context, source)?, name.as_deref())?;
            show(&source.output, || route::summary(&routes, *verbose), || routes.clone().into())
        }
        ProxyConfigKind::Endpoint { source, address, port, cluster, status } => {
            let clusters = read(context, source, "/clusters?format=json")?;
            let filter = endpoint::Filter {
                address: address.as_deref(),
                port: *port,
                cluster: cluster.as_deref(),
                status: status.as_deref(),
            };
            let (kept, rows) = endpoint::select(&clusters, &filter);
            show(&source.output, || endpoint::summary(&rows), || kept.into())
        }
        ProxyConfigKind::Eds { source, address, port, cluster, status } => {
            let filter = endpoint::Filter {
                address: address.as_deref(),
                port: *port,
                cluster: cluster.as_deref(),
                status: status.as_deref(),
            };
            let assignments = endpoint::select_eds(&dump(context, source)?, &filter);
            show(&source.output, || endpoint::eds_summary(&assignments), || assignments.clone().into())
        }
        ProxyConfigKind::Bootstrap { source } => {
            let dump = dump(context, source)?;
            let bootstrap = dump.bootstrap().ok_or_else(|| Failure::Said(dump::MISSING.to_owned()))?.clone();
            if source.output == "short" || source.output == "json" {
                print(&(indented(&bootstrap) + "\n"))?;
                return Ok(0);
            }
            show(&source.output, || bootstrap::version(&bootstrap), || bootstrap.clone())
        }
        ProxyConfigKind::Secret { source } => {
            let dump = dump(context, source)?;
            let now = jiff::Timestamp::now().as_second();
            show(&source.output, || secret::summary(&dump, now), || dump.secrets_dump().clone())
        }
        ProxyConfigKind::Ecds { source } => {
            let dump = dump(context, source)?;
            show(&source.output, || ecds::summary(&dump), || ecds::all(&dump))
        }
        ProxyConfigKind::All { source } => {
            let dump = dump(context, source)?;
            show(&source.output, || all(&dump), || dump.whole().clone())
        }
        ProxyConfigKind::Log { pod, level, reset, proxy_admin_port } => {
            log::run(context, pod, level.as_deref(), *reset, *proxy_admin_port)
        }
    }
}

/// One table from a config dump, for those who have the dump already (tests, the dashboard).
///
/// # Errors
/// A dump without that part, or a `kind` that is none of istioctl's.
pub fn table_of(kind: &str, config_dump: &Value) -> Result<String, String> {
    let dump = Dump::read(config_dump)?;
    let text = |failure: Failure| failure.to_string();
    match kind {
        "cluster" => {
            cluster::select(&dump, &cluster::Filter::default()).map(|found| cluster::summary(&found)).map_err(text)
        }
        "listener" => listener::select(&dump, &listener::Filter::default())
            .map(|found| listener::summary(&found, true))
            .map_err(text),
        "route" => route::select(&dump, None).map(|found| route::summary(&found, true)).map_err(text),
        "eds" => Ok(endpoint::eds_summary(&endpoint::select_eds(&dump, &endpoint::Filter::default()))),
        "ecds" => Ok(ecds::summary(&dump)),
        "secret" => Ok(secret::summary(&dump, jiff::Timestamp::now().as_second())),
        "version" => dump.bootstrap().map(bootstrap::version).ok_or_else(|| dump::MISSING.to_owned()),
        "all" => Ok(all(&dump)),
        other => Err(format!("unknown part {other:?}")),
    }
}

/// The tables of every part, one after the other.
fn all(dump: &Dump) -> String {
    let mut parts = Vec::new();
    if let Ok(clusters) = cluster::select(dump, &cluster::Filter::default()) {
        parts.push(cluster::summary(&clusters));
    }
    if let Ok(listeners) = listener::select(dump, &listener::Filter::default()) {
        parts.push(listener::summary(&listeners, true));
    }
    if let Ok(routes) = route::select(dump, None) {
        parts.push(route::summary(&routes, true));
    }
    parts.push(secret::summary(dump, jiff::Timestamp::now().as_second()));
    if dump.section("EcdsConfigDump").is_some() {
        parts.push(ecds::summary(dump));
    }
    parts.join("\n")
}

/// The name and namespace of the Istio resource that `metadata` points to, `name.namespace`.
fn management(metadata: &Value) -> String {
    let Some(config) = metadata["filter_metadata"]["istio"]["config"].as_str() else {
        return String::new();
    };
    let parts: Vec<&str> = config.split('/').collect();
    match parts[..] {
        ["", "apis", "networking.istio.io", _, "namespaces", namespace, _, name] => format!("{name}.{namespace}"),
        ["", "apis", "networking.istio.io", _, "namespaces", ..] => String::new(),
        _ => "<unknown>".to_owned(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
