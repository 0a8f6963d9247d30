//! `proxy-config endpoint` and `eds`: which addresses stand behind a cluster, as the proxy sees them and as they were sent.

use serde_json::Value;

use super::dump::{Dump, camel};
use super::text;
use crate::tabwriter::table;

/// Which endpoints are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filter<'a> {
    pub(super) address: Option<&'a str>,
    pub(super) port: Option<u32>,
    pub(super) cluster: Option<&'a str>,
    pub(super) status: Option<&'a str>,
}

impl Filter<'_> {
    fn fits(&self, row: &Row) -> bool {
        self.address.is_none_or(|wanted| row.address.eq_ignore_ascii_case(wanted))
            && self.port.is_none_or(|wanted| row.port == Some(wanted))
            && self.cluster.is_none_or(|wanted| row.cluster == wanted)
            && self.status.is_none_or(|wanted| row.status.eq_ignore_ascii_case(wanted))
    }
}

/// One endpoint of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    address: String,
    port: Option<u32>,
    status: String,
    outlier: &'static str,
    cluster: String,
    locality: String,
}

impl Row {
    fn name(&self) -> String {
        self.port.map_or_else(|| self.address.clone(), |port| format!("{}:{port}", self.address))
    }
}

fn place(address: &Value) -> (String, Option<u32>) {
    let (socket, internal) = (&address["socket_address"], &address["envoy_internal_address"]);
    if let Some(host) = socket["address"].as_str() {
        return (host.to_owned(), socket["port_value"].as_u64().and_then(|port| u32::try_from(port).ok()));
    }
    if let Some(name) = internal["server_listener_name"].as_str() {
        return (format!("envoy://{name}/{}", text(&internal["endpoint_id"])), None);
    }
    (text(&address["pipe"]["path"]).to_owned(), None)
}

/// Reads `/clusters?format=json`: the clusters kept, with only the fitting hosts, and the rows in istioctl's order.
pub(super) fn select(clusters: &Value, filter: &Filter<'_>) -> (Vec<Value>, Vec<Row>) {
    let (mut kept, mut rows) = (Vec::new(), Vec::new());
    for cluster in clusters["cluster_statuses"].as_array().into_iter().flatten() {
        let mut hosts = Vec::new();
        for host in cluster["host_statuses"].as_array().into_iter().flatten() {
            let (address, port) = place(&host["address"]);
            let health = &host["health_status"];
            let failed = health["failed_outlier_check"] == true;
            let healthy = matches!(health["eds_health_status"].as_str(), Some("HEALTHY" | "UNKNOWN") | None)
                && health["failed_active_health_check"] != true;
            let status = match health["eds_health_status"].as_str() {
                Some("DRAINING") => "DRAINING",
                _ if healthy && !failed => "HEALTHY",
                _ => "UNHEALTHY",
            };
            let row = Row {
                address,
                port,
                status: status.to_owned(),
                outlier: if failed { "FAILED" } else { "OK" },
                cluster: text(&cluster["name"]).to_owned(),
                locality: String::new(),
            };
            if filter.fits(&row) {
                rows.push(row);
                hosts.push(host.clone());
            }
        }
        if !hosts.is_empty() {
            let mut cluster = cluster.clone();
            cluster["host_statuses"] = hosts.into();
            kept.push(camel(&cluster, false));
        }
    }
    rows.sort_by_key(|row| (row.address.clone(), row.port, row.cluster.clone()));
    (kept, rows)
}

pub(super) fn summary(rows: &[Row]) -> String {
    let head = ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"].map(str::to_owned).to_vec();
    let rows = rows.iter().map(|row| vec![row.name(), row.status.clone(), row.outlier.to_owned(), row.cluster.clone()]);
    table(std::iter::once(head).chain(rows), 5)
}

fn eds_rows(assignment: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    for locality in assignment["endpoints"].as_array().into_iter().flatten() {
        let parts = ["region", "zone", "sub_zone"].map(|part| text(&locality["locality"][part]));
        for endpoint in locality["lb_endpoints"].as_array().into_iter().flatten() {
            let (address, port) = place(&endpoint["endpoint"]["address"]);
            let status = match endpoint["health_status"].as_str() {
                None | Some("HEALTHY" | "UNKNOWN") => "HEALTHY",
                Some(other) => other,
            };
            rows.push(Row {
                address,
                port,
                status: status.to_owned(),
                outlier: "OK",
                cluster: text(&assignment["cluster_name"]).to_owned(),
                locality: parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/"),
            });
        }
    }
    rows
}

/// Endpoint assignments of the dump, with only the fitting endpoints.
pub(super) fn select_eds(dump: &Dump, filter: &Filter<'_>) -> Vec<Value> {
    let mut found = Vec::new();
    for mut assignment in dump.endpoints().unwrap_or_default() {
        let name = assignment["cluster_name"].clone();
        let fits = |endpoint: &Value| {
            let one = serde_json::json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]});
            eds_rows(&one).iter().all(|row| filter.fits(row))
        };
        for locality in assignment["endpoints"].as_array_mut().into_iter().flatten() {
            if let Some(endpoints) = locality["lb_endpoints"].as_array_mut() {
                endpoints.retain(fits);
            }
        }
        if let Some(localities) = assignment["endpoints"].as_array_mut() {
            localities
                .retain(|locality| locality["lb_endpoints"].as_array().is_some_and(|endpoints| !endpoints.is_empty()));
        }
        if !eds_rows(&assignment).is_empty() {
            found.push(assignment);
        }
    }
    found.sort_by_key(|assignment| {
        let parts: Vec<&str> = text(&assignment["cluster_name"]).split('|').collect();
        let port = parts.get(1).and_then(|port| port.parse::<u32>().ok()).unwrap_or(0);
        (parts.last().copied().unwrap_or_default().to_owned(), port)
    });
    found.iter().map(|assignment| camel(assignment, false)).collect()
}

pub(super) fn eds_summary(assignments: &[Value]) -> String {
    let mut rows = vec![["NAME", "STATUS", "LOCALITY", "CLUSTER"].map(str::to_owned).to_vec()];
    for assignment in assignments {
        let Ok(assignment) = Dump::read(assignment).map(|dump| dump.whole().clone()) else {
            continue;
        };
        rows.extend(
            eds_rows(&assignment).into_iter().map(|row| vec![row.name(), row.status, row.locality, row.cluster]),
        );
    }
    table(rows, 5)
}
