//! `proxy-config listener`: where does a proxy listen, and where does each match lead?

use serde_json::Value;

use super::dump::{Dump, MISSING, camel, is_a};
use super::route::describe_match;
use super::text;
use crate::context::Failure;
use crate::tabwriter::table;

/// Which listeners are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filter<'a> {
    pub(super) address: Option<&'a str>,
    pub(super) port: Option<u32>,
    pub(super) kind: Option<&'a str>,
}

fn addresses(listener: &Value) -> Vec<String> {
    let of = |address: &Value| {
        let socket = &address["socket_address"]["address"];
        socket.as_str().or_else(|| address["pipe"]["path"].as_str()).map(str::to_owned)
    };
    let more = listener["additional_addresses"].as_array().into_iter().flatten();
    of(&listener["address"]).into_iter().chain(more.filter_map(|entry| of(&entry["address"]))).collect()
}

fn port(listener: &Value) -> u32 {
    listener["address"]["socket_address"]["port_value"].as_u64().and_then(|port| u32::try_from(port).ok()).unwrap_or(0)
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    let chains = listener["filter_chains"].as_array().into_iter().flatten();
    chains.chain(listener.get("default_filter_chain").filter(|chain| chain.is_object()))
}

fn kind(listener: &Value) -> &'static str {
    let (mut http, mut tcp, mut some) = (0, 0, 0);
    for chain in chains(listener) {
        some += 1;
        for filter in chain["filters"].as_array().into_iter().flatten() {
            http += usize::from(filter["name"] == "envoy.filters.network.http_connection_manager");
            tcp += usize::from(
                filter["name"] == "envoy.filters.network.tcp_proxy"
                    && !filter["typed_config"].to_string().contains("BlackHoleCluster"),
            );
        }
    }
    match (some, http > 0, tcp > 0) {
        (0, ..) => "UNKNOWN",
        (_, true, true) => "HTTP+TCP",
        (_, true, false) => "HTTP",
        (_, false, true) => "TCP",
        _ => "UNKNOWN",
    }
}

pub(super) fn select(dump: &Dump, filter: &Filter<'_>) -> Result<Vec<Value>, Failure> {
    let mut listeners = dump.listeners().ok_or_else(|| Failure::Said(MISSING.to_owned()))?;
    listeners.retain(|listener| {
        let address =
            filter.address.is_none_or(|wanted| addresses(listener).iter().any(|one| one.eq_ignore_ascii_case(wanted)));
        address
            && filter.port.is_none_or(|wanted| port(listener) == wanted)
            && filter.kind.is_none_or(|wanted| kind(listener).eq_ignore_ascii_case(wanted))
    });
    listeners.sort_by_key(|listener| (addresses(listener).first().cloned().unwrap_or_default(), port(listener)));
    listeners.sort_by_key(port);
    Ok(listeners.iter().map(|listener| camel(listener, false)).collect())
}

pub(super) fn summary(listeners: &[Value], verbose: bool) -> String {
    let mut rows = Vec::new();
    rows.push(
        if verbose { vec!["ADDRESSES", "PORT", "MATCH", "DESTINATION"] } else { vec!["ADDRESSES", "PORT", "TYPE"] }
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<String>>(),
    );
    for listener in listeners {
        // Selected listeners carry JSON names for printing; the summary reads proto names.
        let Ok(listener) = Dump::read(listener).map(|dump| dump.whole().clone()) else {
            continue;
        };
        let (addresses, port) = (addresses(&listener).join(","), port(&listener).to_string());
        if !verbose {
            rows.push(vec![addresses, port, kind(&listener).to_owned()]);
            continue;
        }
        let mut matches: Vec<(String, String)> =
            chains(&listener).map(|chain| (describe(&chain["filter_chain_match"]), destination(chain))).collect();
        matches.sort_by(|a, b| b.1.cmp(&a.1));
        rows.extend(matches.into_iter().map(|(condition, to)| vec![addresses.clone(), port.clone(), condition, to]));
    }
    table(rows, 1)
}

fn joined(list: &Value) -> Option<String> {
    let items: Vec<&str> = list.as_array()?.iter().map(text).collect();
    (!items.is_empty()).then(|| items.join(","))
}

/// A filter chain's conditions; source conditions are not shown, as in istioctl.
fn describe(condition: &Value) -> String {
    let mut parts = Vec::new();
    parts.extend(joined(&condition["server_names"]).map(|names| format!("SNI: {names}")));
    let transport = text(&condition["transport_protocol"]);
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    parts.extend(joined(&condition["application_protocols"]).map(|names| format!("App: {names}")));
    let port = condition["destination_port"].as_u64().map(|port| format!(":{port}")).unwrap_or_default();
    let ranges: Vec<String> = condition["prefix_ranges"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|range| format!("{}/{}", text(&range["address_prefix"]), range["prefix_len"].as_u64().unwrap_or(0)))
        .collect();
    if !ranges.is_empty() {
        parts.push(format!("Addr: {}{port}", ranges.join(",")));
    } else if !port.is_empty() {
        parts.push(format!("Addr: *{port}"));
    }
    if parts.is_empty() { "ALL".to_owned() } else { parts.join("; ") }
}

fn destination(chain: &Value) -> String {
    for filter in chain["filters"].as_array().into_iter().flatten() {
        let config = &filter["typed_config"];
        if filter["name"] == "envoy.filters.network.http_connection_manager" || is_a(config, "HttpConnectionManager") {
            if config["route_config"].is_object() {
                return inline(&config["route_config"]);
            }
            let name = text(&config["rds"]["route_config_name"]);
            return if name.is_empty() { "HTTP".to_owned() } else { format!("Route: {name}") };
        }
        if (filter["name"] == "envoy.filters.network.tcp_proxy" || is_a(config, "TcpProxy"))
            && !config.to_string().contains("BlackHoleCluster")
        {
            return cluster(text(&config["cluster"]));
        }
    }
    "Non-HTTP/Non-TCP".to_owned()
}

fn cluster(name: &str) -> String {
    if name.contains("Cluster") { name.to_owned() } else { format!("Cluster: {name}") }
}

fn inline(route: &Value) -> String {
    let hosts = route["virtual_hosts"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let [host] = hosts
        && let (Some([domain]), Some([only])) =
            (host["domains"].as_array().map(Vec::as_slice), host["routes"].as_array().map(Vec::as_slice))
        && domain == "*"
        && only["match"]["prefix"] == "/"
        && let Some(name) = only["route"]["cluster"].as_str()
    {
        return cluster(name);
    }
    let described: Vec<String> = hosts
        .iter()
        .map(|host| {
            let routes: Vec<String> =
                host["routes"].as_array().into_iter().flatten().map(|route| describe_match(&route["match"])).collect();
            let domains: Vec<&str> = host["domains"].as_array().into_iter().flatten().map(text).collect();
            match domains[..] {
                ["*"] | [] => routes.join(", "),
                _ => format!("{} {}", domains.join("/"), routes.join(", ")),
            }
        })
        .collect();
    format!("Inline Route: {}", described.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn matches_and_destinations() {
        let listener = |address: &str, port: u32, chains: Value| json!({"active_state": {"listener": {"address": {"socket_address": {"address": address, "port_value": port}}, "filter_chains": chains}}});
        let hcm =
            |config: Value| json!([{"name": "envoy.filters.network.http_connection_manager", "typed_config": config}]);
        let tcp = |name: &str| json!([{"name": "envoy.filters.network.tcp_proxy", "typed_config": {"cluster": name}}]);
        let dump = json!({"configs": [{"@type": "x/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [
            listener("0.0.0.0", 3000, json!([{"filters": hcm(json!({"rds": {"route_config_name": "3000"}}))}])),
            listener("10.96.0.1", 443, json!([{"filters": tcp("outbound|443||kubernetes.default.svc.cluster.local")}])),
            listener("0.0.0.0", 15001, json!([{"filter_chain_match": {"destination_port": 15001}, "filters": tcp("BlackHoleCluster")}, {"filters": tcp("PassthroughCluster")}])),
        ]}]});
        let dump = Dump::read(&dump).expect("an object");
        let all = select(&dump, &Filter::default()).expect("a section");
        assert_eq!(
            summary(&all, true),
            "ADDRESSES PORT  MATCH        DESTINATION\n\
             10.96.0.1 443   ALL          Cluster: outbound|443||kubernetes.default.svc.cluster.local\n\
             0.0.0.0   3000  ALL          Route: 3000\n\
             0.0.0.0   15001 ALL          PassthroughCluster\n\
             0.0.0.0   15001 Addr: *:15001 Non-HTTP/Non-TCP\n"
                .replace("MATCH        ", "MATCH         ")
                .replace("ALL          ", "ALL           ")
        );
        let filter = Filter { address: Some("0.0.0.0"), port: Some(3000), kind: Some("http") };
        assert_eq!(select(&dump, &filter).expect("a section").len(), 1);
    }
}
