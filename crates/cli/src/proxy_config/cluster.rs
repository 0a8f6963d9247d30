//! `proxy-config cluster`: which upstreams does a proxy know?

use serde_json::Value;

use super::dump::{Dump, MISSING, camel};
use super::{management, text};
use crate::context::Failure;
use crate::tabwriter::table;

/// Which clusters are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filter<'a> {
    pub(super) fqdn: Option<&'a str>,
    pub(super) direction: Option<&'a str>,
    pub(super) subset: Option<&'a str>,
    pub(super) port: Option<u32>,
}

/// A cluster with the parts of its name (`outbound|8000|v1|httpbin.samples.svc.cluster.local`).
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    pub(super) value: Value,
    name: Name,
    management: String,
    kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Name {
    fqdn: String,
    subset: String,
    port: u32,
    direction: String,
    /// The name is of Istio's form.
    parsed: bool,
}

fn parse(name: &str) -> Name {
    let parts: Vec<&str> = name.split(if name.contains('|') { '|' } else { '_' }).collect();
    match parts[..] {
        [direction, port, subset, fqdn] if name.contains('|') => Name {
            fqdn: fqdn.to_owned(),
            subset: subset.to_owned(),
            port: port.parse().unwrap_or(0),
            direction: direction.to_owned(),
            parsed: true,
        },
        _ => Name { fqdn: name.to_owned(), ..Name::default() },
    }
}

pub(super) fn select(dump: &Dump, filter: &Filter<'_>) -> Result<Vec<Cluster>, Failure> {
    let clusters = dump.clusters().ok_or_else(|| Failure::Said(MISSING.to_owned()))?;
    let mut found: Vec<Cluster> = clusters
        .into_iter()
        .map(|value| Cluster {
            name: parse(text(&value["name"])),
            management: management(&value["metadata"]),
            kind: kind(&value),
            value: camel(&value, false),
        })
        .filter(|cluster| {
            let Name { fqdn, subset, port, direction, .. } = &cluster.name;
            filter.fqdn.is_none_or(|wanted| fqdn.contains(wanted))
                && filter.direction.is_none_or(|wanted| direction == wanted)
                && filter.subset.is_none_or(|wanted| subset == wanted)
                && filter.port.is_none_or(|wanted| *port == wanted)
        })
        .collect();
    found.sort_by(|a, b| {
        let key =
            |one: &Cluster| (one.name.fqdn.clone(), one.name.subset.clone(), one.name.port, one.name.direction.clone());
        key(a).cmp(&key(b))
    });
    Ok(found)
}

fn kind(cluster: &Value) -> String {
    match cluster["type"].as_str() {
        Some(kind) => kind.to_owned(),
        // STATIC is the enum's zero, which JSON leaves out.
        None => cluster["cluster_type"]["name"].as_str().unwrap_or("STATIC").to_owned(),
    }
}

pub(super) fn summary(clusters: &[Cluster]) -> String {
    let head = ["SERVICE FQDN", "PORT", "DIRECTION", "SUBSET", "TYPE", "DESTINATION RULE"].map(str::to_owned).to_vec();
    let or_dash = |text: &str| {
        if text.is_empty() { "-".to_owned() } else { text.to_owned() }
    };
    let rows = clusters.iter().map(|cluster| {
        let Name { fqdn, subset, port, direction, parsed } = &cluster.name;
        let port = if *port == 0 { "-".to_owned() } else { port.to_string() };
        let (direction, subset) =
            if *parsed { (or_dash(direction), or_dash(subset)) } else { ("-".to_owned(), "-".to_owned()) };
        vec![fqdn.clone(), port, direction, subset, cluster.kind.clone(), cluster.management.clone()]
    });
    table(std::iter::once(head).chain(rows), 5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_sorted_by_host_subset_port() {
        let cluster = |name: &str| json!({"cluster": {"name": name, "type": "EDS", "metadata": {"filter_metadata": {"istio": {"config": "/apis/networking.istio.io/v1alpha3/namespaces/default/destination-rule/nodebook"}}}}});
        let dump = json!({"configs": [{"@type": "x/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": [
            cluster("outbound|3000|v4|nodebook.default.svc.cluster.local"), cluster("outbound|3000||nodebook.default.svc.cluster.local"),
            {"cluster": {"name": "BlackHoleCluster"}}]}]});
        let dump = Dump::read(&dump).expect("an object");
        let all = select(&dump, &Filter::default()).expect("a section");
        assert_eq!(
            summary(&all),
            "SERVICE FQDN                           PORT     DIRECTION     SUBSET     TYPE       DESTINATION RULE\n\
             BlackHoleCluster                       -        -             -          STATIC     \n\
             nodebook.default.svc.cluster.local     3000     outbound      -          EDS        nodebook.default\n\
             nodebook.default.svc.cluster.local     3000     outbound      v4         EDS        nodebook.default\n"
        );
        let filter = Filter { subset: Some("v4"), ..Filter::default() };
        assert_eq!(select(&dump, &filter).expect("a section").len(), 1);
    }
}
