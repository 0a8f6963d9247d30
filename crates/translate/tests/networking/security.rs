//! Which policies apply to a workload: by selector, by target reference, by namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use model::security::{self, Attachment, MergedPeerAuthentication, MtlsMode};
use model::{Change, MeshConfig, Registry, Service, Snapshot, Store};
use names::Labels;
use serde_json::{Value, json};

use super::{Outcome, flag, word};
use crate::common::literal::{self, object, same};

/// The root namespace of these tables.
const ROOT: &str = "istio-config";

fn snapshot(resources: Vec<api::Resource>) -> Arc<Snapshot> {
    let mut store = Store::new(MeshConfig::from_json(&json!({"rootNamespace": ROOT})));
    store.apply(resources.into_iter().map(Change::Apply));
    store.snapshot()
}

/// All policies that any row of the table expects, each once: together they are the world the table selects from.
fn expected_anywhere(all: &[Value], keys: &[&str]) -> Result<Vec<api::Resource>, String> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for config in all.iter().flat_map(|v| keys.iter().flat_map(|k| v[*k].as_array().into_iter().flatten())) {
        let meta = &config["Meta"];
        let key = [&meta["GroupVersionKind"]["Kind"], &meta["Namespace"], &meta["Name"]].map(ToString::to_string);
        if seen.insert(key) {
            out.push(literal::resource(config, "RequestAuthentication", "p", ROOT)?);
        }
    }
    Ok(out)
}

fn qualified(list: &Value) -> BTreeSet<String> {
    let part = |v: &Value, key: &str| word(if v.get("Meta").is_some() { &v["Meta"][key] } else { &v[key] }).to_owned();
    list.as_array().into_iter().flatten().map(|c| format!("{}/{}", part(c, "Namespace"), part(c, "Name"))).collect()
}

fn mode(v: &Value) -> MtlsMode {
    match word(&v["$ident"]).trim_start_matches("MTLS") {
        "Strict" => MtlsMode::Strict,
        "Disable" => MtlsMode::Disable,
        _ => MtlsMode::Permissive,
    }
}

fn workload_policies(v: &Value, all: &[Value], selectors: bool) -> Result<(), String> {
    let world = snapshot(expected_anywhere(all, &["wantRequestAuthn", "wantPeerAuthn"])?);
    let labels = literal::labels(&v["workloadLabels"]);
    let namespace = word(&v["workloadNamespace"]);
    let service = (!v["WithService"].is_null()).then(|| one_service(&v["WithService"]["Attributes"]));
    let services: Vec<&Service> = service.iter().collect();
    let to = Attachment {
        namespace,
        labels: &labels,
        root_namespace: ROOT,
        waypoint: flag(&v["isWaypoint"]),
        services: &services,
        selectors_for_gateways: selectors,
    };
    if v["wantRequestAuthn"].is_array() {
        let got = security::request_authentications(&world.request_authentications, &to);
        same(got.iter().map(|p| p.qualified()).collect(), qualified(&v["wantRequestAuthn"]))?;
    }
    if v["wantPeerAuthn"].is_array() {
        let merged = |world: &Snapshot, labels: &Labels| -> MergedPeerAuthentication {
            security::peer_authentication(&world.peer_authentications, namespace, labels, ROOT)
        };
        // What the whole world makes of it equals what the selected policies alone make of it.
        let selected = snapshot(expected_anywhere(std::slice::from_ref(v), &["wantPeerAuthn"])?);
        same(merged(&world, &labels), merged(&selected, &labels))?;
        same(merged(&world, &Labels::new()).mode, mode(&v["wantNamespaceMutualTLS"]))?;
    }
    Ok(())
}

fn registry(v: &Value) -> Registry {
    if word(v) == "Kubernetes" { Registry::Kubernetes } else { Registry::External }
}

fn services(v: &Value) -> Vec<Service> {
    v.as_array().into_iter().flatten().map(one_service).collect()
}

fn one_service(v: &Value) -> Service {
    let mut out =
        super::service(&json!({"Hostname": v["Name"], "Attributes": {"Name": v["Name"], "Namespace": v["Namespace"]}}));
    out.registry = registry(if v["Registry"].is_null() { &v["ServiceRegistry"] } else { &v["Registry"] });
    out
}

fn matcher(v: &Value) -> Outcome {
    let selection = &v["selection"];
    // Built by calls that the data does not hold.
    if selection.get("$call").is_some() {
        return None;
    }
    Some((|| {
        let labels = literal::labels(&selection["WorkloadLabels"]);
        let services = services(&selection["Services"]);
        let to = Attachment {
            namespace: word(&selection["WorkloadNamespace"]),
            labels: &labels,
            root_namespace: word(&selection["RootNamespace"]),
            waypoint: flag(&selection["IsWaypoint"]),
            services: &services.iter().collect::<Vec<_>>(),
            selectors_for_gateways: flag(&v["enableSelectorPolicies"]),
        };
        let policy: api::security::RequestAuthentication = object(&v["policy"])?;
        let own = word(&v["policyNamespacedName"]["Namespace"]);
        let own = if own.is_empty() { "default" } else { own };
        let got = to.takes(own, policy.selector.as_ref(), policy.target_ref.as_ref(), &policy.target_refs);
        same(got, flag(&v["expected"]))
    })())
}

fn authorization(v: &Value) -> Result<(), String> {
    let mut resources = Vec::new();
    for c in v["configs"].as_array().into_iter().flatten() {
        let a = &c["args"];
        resources.push(super::made("AuthorizationPolicy", word(&a[0]), word(&a[1]), literal::plain(&a[2]))?);
    }
    let world = snapshot(resources);
    let selection = &v["selectionOpts"];
    let labels = literal::labels(&selection["WorkloadLabels"]);
    let services = services(&selection["Services"]);
    let to = Attachment {
        namespace: word(&selection["WorkloadNamespace"]),
        labels: &labels,
        root_namespace: ROOT,
        waypoint: flag(&selection["IsWaypoint"]),
        services: &services.iter().collect::<Vec<_>>(),
        selectors_for_gateways: true,
    };
    let got = security::authorization_policies(&world.authorization_policies, &to);
    let mut want = BTreeSet::new();
    for key in ["wantAllow", "wantDeny", "wantAudit", "wantCustom"] {
        want.extend(qualified(&v[key]));
    }
    same(got.iter().map(|p| p.qualified()).collect(), want)
}

pub fn serve(func: &str, v: &Value, all: &[Value]) -> Outcome {
    Some(match func {
        "TestGetPoliciesForWorkload" | "TestGetPoliciesForWorkloadWithJwksResolver" => workload_policies(v, all, true),
        "TestGetPoliciesForWorkloadWithoutMeshPeerAuthn" => workload_policies(v, all, true),
        "TestGetPoliciesForGatewayPolicyAttachmentOnly" => workload_policies(v, all, false),
        "TestPolicyMatcher" if v["selection"].is_null() => return None,
        "TestPolicyMatcher" => return matcher(v),
        "TestAuthorizationPolicies_ListAuthorizationPolicies" => authorization(v),
        _ => return None,
    })
}
