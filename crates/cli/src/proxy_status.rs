//! Which proxies are in step with the control plane? `proxy-status` from istiod's `/debug/syncz`.

use serde_json::{Value, json};

use crate::args;
use crate::context::{Failure, Global, print};
use crate::http::fetch;
use crate::output::indented;
use crate::tabwriter::table;

/// Types in the order of istioctl's columns.
const TYPES: [(&str, &str); 5] =
    [("cluster", "CDS"), ("listener", "LDS"), ("endpoint", "EDS"), ("route", "RDS"), ("extensionconfig", "ECDS")];

pub(crate) fn run(context: &Global, args: &args::ProxyStatus) -> Result<u8, Failure> {
    let system = Global { namespace: Some(context.istio_namespace.clone()), ..context.clone() };
    let body = fetch(&system, "deploy/istiod", 15014, "GET", "/debug/syncz")?;
    let mut proxies: Vec<Value> =
        serde_json::from_slice(&body).map_err(|error| Failure::Said(format!("/debug/syncz: {error}")))?;
    if let Some(pod) = &args.pod {
        let (name, namespace) = context.pod(pod);
        proxies.retain(|proxy| proxy["proxy"] == format!("{name}.{namespace}"));
        if proxies.is_empty() {
            return Err(Failure::Said(format!(
                "{name}.{namespace} is not connected to the control plane; see: proa logs -n {namespace} {name} -c istio-proxy"
            )));
        }
    }
    proxies.sort_by_key(|proxy| proxy["proxy"].as_str().unwrap_or_default().to_owned());
    let text = match args.output.as_str() {
        "json" => indented(&Value::Array(proxies)) + "\n",
        "yaml" => serde_norway::to_string(&json!(proxies)).unwrap_or_default(),
        _ => summary(&proxies, args.verbosity > 0),
    };
    print(&text)?;
    Ok(0)
}

/// `SYNCED`, `STALE` or `NOT SENT`, by the nonces; a refusal is said as such.
fn state(proxy: &Value, name: &str, short: &str) -> &'static str {
    if proxy["types"][short]["error"].is_string() {
        return "ERROR";
    }
    let (sent, acked) = (&proxy[format!("{name}_sent")], &proxy[format!("{name}_acked")]);
    match (sent.as_str(), acked.as_str()) {
        (None | Some(""), _) => "NOT SENT",
        (sent, acked) if sent == acked => "SYNCED",
        _ => "STALE",
    }
}

fn summary(proxies: &[Value], columns: bool) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut head: Vec<String> = ["NAME", "CLUSTER"].map(str::to_owned).to_vec();
    if columns {
        head.extend(TYPES.iter().map(|(_, short)| (*short).to_owned()));
    }
    head.extend(["ISTIOD", "VERSION"].map(str::to_owned));
    if !columns {
        head.push("SUBSCRIBED TYPES".to_owned());
    }
    let mut rows = vec![head];
    for proxy in proxies {
        let mut row = vec![text(&proxy["proxy"]), text(&proxy["cluster_id"])];
        let states = TYPES.map(|(name, short)| (short, state(proxy, name, short)));
        if columns {
            row.extend(states.iter().map(|(_, state)| (*state).to_owned()));
        }
        row.push(proxy["istiod"].as_str().unwrap_or("istiod").to_owned());
        row.push(text(&proxy["istio_version"]));
        if !columns {
            let subscribed: Vec<&str> =
                states.iter().filter(|(_, state)| *state != "NOT SENT").map(|(short, _)| *short).collect();
            let stale: Vec<String> = states
                .iter()
                .filter(|(_, state)| *state == "STALE" || *state == "ERROR")
                .map(|(short, state)| format!("{short} {state}"))
                .collect();
            let mut cell = subscribed.len().to_string();
            if !subscribed.is_empty() {
                cell.push_str(&format!(" ({})", subscribed.join(",")));
            }
            if !stale.is_empty() {
                cell.push_str(&format!(" {}", stale.join(", ")));
            }
            row.push(cell);
        }
        rows.push(row);
    }
    table(rows, 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_istioctl_prints_it() {
        let proxies = [
            json!({"proxy": "a.default", "cluster_id": "Kubernetes", "istio_version": "1.32", "cluster_sent": "1", "cluster_acked": "1", "listener_sent": "2", "listener_acked": "1"}),
            json!({"proxy": "b.default", "cluster_id": "Kubernetes", "istio_version": "1.32"}),
        ];
        let out = summary(&proxies, false);
        assert!(out.starts_with("NAME          CLUSTER        ISTIOD     VERSION     SUBSCRIBED TYPES\n"), "{out}");
        assert!(out.contains("2 (CDS,LDS) LDS STALE\n") && out.contains("     0\n"), "{out}");
        assert!(summary(&proxies, true).contains("SYNCED       STALE        NOT SENT"), "{}", summary(&proxies, true));
    }
}
