//! What status does each resource have? Puts together what validation, the model, translation and the proxies' answers
//! say of it. Debug pages show it when asked; a source that can write puts it over the resource's own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::validate::validate;
use model::findings::{Reason, findings};
use model::status::{self, Code, Condition, Status};
use names::{Kind, ResourceKey};
use serde_json::{Map, Value, json};

use crate::debug::config::view;
use crate::run::Shared;

/// Proxies whose patches are looked at for one page.
const PATCHED_PROXIES_MAX: usize = 64;

/// The status of every Istio resource in force. Costs about as much as what proxies with `EnvoyFilter`s get.
pub fn of(shared: &Shared) -> BTreeMap<ResourceKey, Status> {
    let mut out: BTreeMap<ResourceKey, Status> = BTreeMap::new();
    let refused = shared.world.refused.lock().unwrap_or_else(|e| e.into_inner()).clone();
    let reconciled = reconciled(shared.hub.up_to_date());
    for (key, resource) in shared.world.store().resources().iter().filter(|(key, _)| key.kind.is_istio()) {
        let mut status = Status { generation: resource.meta.generation, ..Status::default() };
        status.add(reconciled.clone());
        let refusal = refused.get(key).map(|d| d.message.clone());
        status.add(Condition {
            kind: status::PASSED_VALIDATION,
            holds: refusal.is_none(),
            reason: if refusal.is_none() { "" } else { "LastGoodVersionInForce" },
            message: refusal.clone().unwrap_or_default(),
        });
        status.messages.extend(refusal.map(|m| (Code::SchemaValidationError, m)));
        let warnings = validate(resource).warnings;
        status.messages.extend(warnings.iter().map(|w| (Code::SchemaWarning, w.to_string())));
        out.insert(key.clone(), status);
    }
    for (key, found) in findings(&shared.world.snapshot()) {
        let Some(status) = out.get_mut(&key) else { continue };
        for f in found {
            let code = match (&key.kind, f.reason) {
                (_, Reason::NotFound) => Some(Code::ReferencedResourceNotFound),
                (Kind::VirtualService, Reason::Shadowed) => Some(Code::ConflictingMeshGatewayVirtualServiceHosts),
                _ => None,
            };
            status.messages.extend(code.map(|c| (c, f.message.clone())));
            status.add(Condition { kind: f.reason.as_str(), holds: true, reason: "", message: f.message });
        }
    }
    for ((filter, position), reason) in unapplied(shared) {
        let key = filter.split_once('/').map(|(namespace, name)| ResourceKey::new(Kind::EnvoyFilter, namespace, name));
        if let Some(status) = key.and_then(|key| out.get_mut(&key)) {
            let message = format!("configPatches[{position}]: {reason}");
            status.add(Condition { kind: status::NOT_APPLIED, holds: true, reason: "", message });
        }
    }
    out
}

fn reconciled((up_to_date, all): (usize, usize)) -> Condition {
    Condition {
        kind: status::RECONCILED,
        holds: up_to_date == all,
        reason: "",
        message: format!("{up_to_date}/{all} proxies up to date."),
    }
}

/// Patches that change nothing of any connected proxy they are for.
fn unapplied(shared: &Shared) -> BTreeMap<(String, usize), &'static str> {
    // A patch counts as applied if one of the proxies shows it.
    let mut unapplied: BTreeMap<(String, usize), &'static str> = BTreeMap::new();
    let mut applied: BTreeSet<(String, usize)> = BTreeSet::new();
    if shared.world.snapshot().envoy_filters.is_empty() {
        return unapplied;
    }
    for node in shared.hub.nodes().iter().take(PATCHED_PROXIES_MAX) {
        let Some(view) = view(shared, node) else {
            continue;
        };
        let inputs = translate::Inputs::new(Arc::new(view));
        let here: BTreeMap<_, _> =
            translate::patch::unapplied(&inputs).into_iter().map(|u| ((u.filter, u.position), u.reason)).collect();
        applied.extend(translate::patch::considered(&inputs).into_iter().filter(|p| !here.contains_key(p)));
        unapplied.extend(here);
    }
    unapplied.retain(|patch, _| !applied.contains(patch));
    unapplied
}

/// What is wrong with resources as the mesh reads them together, by type of condition, and which were refused.
pub fn by_reason(shared: &Shared) -> Value {
    let mut out: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (key, status) in of(shared) {
        for c in status.conditions {
            // These two are told by `syncz` and below.
            if c.kind != status::RECONCILED && c.kind != status::PASSED_VALIDATION {
                out.entry(c.kind).or_default().insert(key.to_string(), json!({"message": c.message}));
            }
        }
    }
    let refused = shared.world.refused.lock().unwrap_or_else(|e| e.into_inner());
    for (key, d) in refused.iter() {
        let entry = json!({"message": d.message, "place": d.place.to_string(), "lastGoodKept": d.last_good_kept});
        out.entry("Refused").or_default().insert(key.to_string(), entry);
    }
    json!(out)
}
