//! How are resources printed? kubectl's tables and formats.

use mesh::object::{Kind, strings};
use mesh::report::{readiness, table, why};
use serde_json::{Value, json};

use crate::jsonpath;

/// An age as kubectl prints it: `15m`, `3h20m`, `8d`.
pub(crate) fn age(created: &Value) -> String {
    let created = created.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let Some(created) = created else {
        return "<unknown>".to_owned();
    };
    duration((jiff::Timestamp::now().as_second() - created.as_second()).max(0))
}

fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => match seconds % 60 {
            0 => format!("{minutes}m"),
            rest => format!("{minutes}m{rest}s"),
        },
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => match minutes % 60 {
            0 => format!("{hours}h"),
            rest => format!("{hours}h{rest}m"),
        },
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => match hours % 24 {
            0 => format!("{days}d"),
            rest => format!("{days}d{rest}h"),
        },
        () => format!("{days}d"),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> String {
    let items: Vec<String> = value.as_array().into_iter().flatten().map(|item| format!("{item}")).collect();
    if items.is_empty() { String::new() } else { format!("[{}]", items.join(",")) }
}

/// Whether `labels` fit a selector such as `app=a,version!=v1,tier`.
pub(crate) fn fits(selector: &str, labels: &Value) -> bool {
    selector.split(',').map(str::trim).filter(|part| !part.is_empty()).all(|part| {
        if let Some((key, value)) = part.split_once("!=") {
            return labels[key.trim()] != value.trim();
        }
        if let Some((key, value)) = part.split_once('=') {
            return labels[key.trim()] == value.trim_start_matches('=').trim();
        }
        match part.strip_prefix('!') {
            Some(key) => labels.get(key).is_none(),
            None => labels.get(part).is_some(),
        }
    })
}

/// Prints `items` of one kind in `format`; `single` prints an object rather than a list.
pub(crate) fn render(
    kind: &Kind,
    items: &[Value],
    format: Option<&str>,
    single: bool,
    columns: &Columns,
) -> Result<String, String> {
    let whole = || {
        if single {
            items[0].clone()
        } else {
            json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
        }
    };
    match format {
        Some("yaml") => serde_norway::to_string(&whole()).map_err(|error| error.to_string()),
        Some("json") => Ok(indented(&whole()) + "\n"),
        Some("name") => Ok(items
            .iter()
            .map(|item| format!("{}/{}\n", kind.name.to_ascii_lowercase(), text(&item["metadata"]["name"])))
            .collect()),
        None | Some("wide") => Ok(rows(kind, items, format.is_some(), columns)),
        Some(other) => {
            let template = other.strip_prefix("jsonpath=").or_else(|| other.strip_prefix("jsonpath-as-json="));
            let template = template
                .ok_or_else(|| format!("unknown output format {other:?}; use yaml, json, name, wide or jsonpath=…"))?;
            jsonpath::fill(template, &whole())
        }
    }
}

/// JSON with four spaces, as istioctl and kubectl print it.
pub(crate) fn indented(value: &Value) -> String {
    use serde_json::ser::{PrettyFormatter, Serializer};
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    // Writing JSON values to memory cannot fail.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8_lossy(&out).into_owned()
}

/// Which columns a table has besides the kind's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    pub(crate) namespace: bool,
    pub(crate) labels: bool,
    pub(crate) headers: bool,
}

fn rows(kind: &Kind, items: &[Value], wide: bool, columns: &Columns) -> String {
    let mut head = vec!["NAME".to_owned()];
    head.extend(headings(kind, wide).iter().map(|heading| (*heading).to_owned()));
    let mut rows = if columns.headers { vec![head] } else { Vec::new() };
    for item in items {
        let mut row = vec![text(&item["metadata"]["name"])];
        row.extend(cells(kind, item, wide));
        rows.push(row);
    }
    let skip = usize::from(columns.headers);
    if columns.namespace && kind.namespaced {
        for (at, row) in rows.iter_mut().enumerate() {
            let cell =
                if at < skip { "NAMESPACE".to_owned() } else { text(&items[at - skip]["metadata"]["namespace"]) };
            row.insert(0, cell);
        }
    }
    if columns.labels {
        for (at, row) in rows.iter_mut().enumerate() {
            let labels = || {
                strings(&items[at - skip]["metadata"]["labels"])
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect::<Vec<_>>()
                    .join(",")
            };
            row.push(if at < skip { "LABELS".to_owned() } else { labels() });
        }
    }
    table(&rows)
}

fn headings(kind: &Kind, wide: bool) -> Vec<&'static str> {
    let mut headings = match kind.name {
        "Namespace" | "Node" => vec!["STATUS", "AGE"],
        "Pod" => vec!["READY", "STATUS", "RESTARTS", "AGE"],
        "Service" => vec!["TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"],
        "Deployment" => vec!["READY", "UP-TO-DATE", "AVAILABLE", "AGE"],
        "VirtualService" => vec!["GATEWAYS", "HOSTS", "AGE"],
        "DestinationRule" => vec!["HOST", "AGE"],
        "ServiceEntry" => vec!["HOSTS", "LOCATION", "RESOLUTION", "AGE"],
        "AuthorizationPolicy" => vec!["ACTION", "AGE"],
        "PeerAuthentication" => vec!["MODE", "AGE"],
        "ConfigMap" => vec!["DATA", "AGE"],
        "Secret" => vec!["TYPE", "DATA", "AGE"],
        _ => vec!["AGE"],
    };
    if wide && kind.name == "Pod" {
        headings.extend(["IP", "NODE", "WAITING FOR"]);
    }
    headings
}

fn cells(kind: &Kind, item: &Value, wide: bool) -> Vec<String> {
    let spec = &item["spec"];
    let age = age(&item["metadata"]["creationTimestamp"]);
    let size = |field: &str| item[field].as_object().map_or(0, serde_json::Map::len).to_string();
    match kind.name {
        "Namespace" => vec!["Active".to_owned(), age],
        "Node" => vec!["Ready".to_owned(), age],
        "Pod" => pod_cells(item, age, wide),
        "Service" => service_cells(spec, age),
        "Deployment" => {
            let status = |field: &str| item["status"][field].as_u64().unwrap_or(0).to_string();
            let wanted = spec["replicas"].as_u64().unwrap_or(1);
            vec![
                format!("{}/{wanted}", status("readyReplicas")),
                status("updatedReplicas"),
                status("availableReplicas"),
                age,
            ]
        }
        "VirtualService" => vec![list(&spec["gateways"]), list(&spec["hosts"]), age],
        "DestinationRule" => vec![text(&spec["host"]), age],
        "ServiceEntry" => vec![list(&spec["hosts"]), text(&spec["location"]), text(&spec["resolution"]), age],
        "AuthorizationPolicy" => vec![text(&spec["action"]), age],
        "PeerAuthentication" => vec![text(&spec["mtls"]["mode"]), age],
        "ConfigMap" => vec![size("data"), age],
        "Secret" => vec![item["type"].as_str().unwrap_or("Opaque").to_owned(), size("data"), age],
        _ => vec![age],
    }
}

fn pod_cells(pod: &Value, age: String, wide: bool) -> Vec<String> {
    let (ready, all) = readiness(pod);
    let statuses = pod["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let restarts = mesh::report::restarts(pod);
    let waiting = statuses.iter().find_map(|status| status["state"]["waiting"]["reason"].as_str());
    let phase = text(&pod["status"]["phase"]);
    let status = match (phase.as_str(), waiting) {
        ("Running", Some("CrashLoopBackOff")) => "CrashLoopBackOff".to_owned(),
        ("Succeeded", _) => "Completed".to_owned(),
        _ => phase,
    };
    let mut cells = vec![format!("{ready}/{all}"), status, restarts.to_string(), age];
    if wide {
        cells.push(text(&pod["status"]["podIP"]));
        cells.push(text(&pod["spec"]["nodeName"]));
        cells.push(if ready == all { "<none>".to_owned() } else { why(pod) });
    }
    cells
}

fn service_cells(spec: &Value, age: String) -> Vec<String> {
    let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    let external = match kind.as_str() {
        "LoadBalancer" => "localhost".to_owned(),
        "ExternalName" => text(&spec["externalName"]),
        _ => "<none>".to_owned(),
    };
    let ports = spec["ports"].as_array().into_iter().flatten();
    let ports: Vec<String> =
        ports.map(|port| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP"))).collect();
    let ports = if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") };
    vec![kind, spec["clusterIP"].as_str().unwrap_or("<none>").to_owned(), external, ports, age]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (seconds, expect) in [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (900, "15m"),
            (7200, "120m"),
            (12_000, "3h20m"),
            (90_000, "25h"),
            (691_200, "8d"),
        ] {
            assert_eq!(duration(seconds), expect, "{seconds}");
        }
    }

    #[test]
    fn selectors() {
        let labels = json!({"app": "a", "version": "v1"});
        for (selector, expect) in [
            ("app=a", true),
            ("app==a,version!=v2", true),
            ("app=b", false),
            ("tier", false),
            ("!tier,app", true),
            ("", true),
        ] {
            assert_eq!(fits(selector, &labels), expect, "{selector}");
        }
    }
}
