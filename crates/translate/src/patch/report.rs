//! Which patches changed nothing of what this proxy gets? For people, not for pushes: each patch is applied in its turn
//! and what it leaves as it was is reported. Called by debug pages.

use api::envoy_filter::{ApplyTo, Operation};
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::config::route::v3 as route;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::{Patches, merge, message_of, selected};
use crate::Inputs;

/// A patch that had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unapplied {
    /// `NAMESPACE/NAME` of its filter.
    pub filter: String,
    /// Its position in `configPatches`.
    pub position: usize,
    /// Why, as far as can be told.
    pub reason: &'static str,
}

const NOTHING_MATCHED: &str = "nothing it matches exists, or it changes nothing there";
const OTHER_PROXY: &str = "it is for proxies of another version or metadata";
const NOT_ITS_MESSAGE: &str = "its value is not the message it applies to";
const NO_EFFECT: &str = "this applyTo has no effect on a running proxy: it is for the bootstrap";

/// Every patch of the filters that select the proxy: filter and position.
pub fn considered(inputs: &Inputs) -> Vec<(String, usize)> {
    let of = |f: &std::sync::Arc<model::Config<api::envoy_filter::EnvoyFilter>>| {
        let name = f.qualified();
        (0..f.spec.config_patches.len()).map(move |n| (name.clone(), n))
    };
    selected(inputs).into_iter().flat_map(of).collect()
}

/// Patches of the filters that select the proxy, of which nothing can be seen in its resources.
pub fn unapplied(inputs: &Inputs) -> Vec<Unapplied> {
    let mut out = Vec::new();
    for filter in selected(inputs) {
        for (position, p) in filter.spec.config_patches.iter().enumerate() {
            let matches = p.matches.clone().unwrap_or_default();
            let message = message_of(p.apply_to);
            let value = p.patch.as_ref().and_then(|p| p.value.as_ref());
            let readable =
                |m: &str| value.is_none_or(|v| merge::read(m, &serde_json::Value::Object(v.clone())).is_some());
            let reason = match message {
                _ if !super::proxy_matches(matches.proxy.as_ref(), inputs.proxy()) => OTHER_PROXY,
                None => NO_EFFECT,
                Some(m) if !readable(m) => NOT_ITS_MESSAGE,
                Some(_) => continue,
            };
            out.push(Unapplied { filter: filter.qualified(), position, reason });
        }
    }
    let mut clusters = crate::cluster::unpatched(inputs);
    let mut listeners = crate::listener::unpatched(inputs);
    let mut routes: Vec<route::RouteConfiguration> =
        route_names(&listeners).iter().map(|n| crate::route::before_patches(inputs, n)).collect();
    let all = [super::cluster::APPLY_TO.as_slice(), super::listener::APPLY_TO.as_slice()].concat();
    for (apply_to, patch) in Patches::of(inputs, &all).0 {
        let (filter, position) = patch.from.clone();
        let one = Patches(vec![(apply_to, patch)]);
        let before = (clusters.clone(), listeners.clone(), routes.clone());
        match apply_to {
            ApplyTo::Cluster => super::cluster::apply(inputs, &one, &mut clusters),
            _ => super::listener::apply(inputs, &one, &mut listeners),
        }
        if super::route::APPLY_TO.contains(&apply_to) {
            let context = crate::route::patch_context(inputs);
            routes.iter_mut().for_each(|r| super::route::apply(&one, context, r));
        }
        if before == (clusters.clone(), listeners.clone(), routes.clone()) {
            out.push(Unapplied { filter, position, reason: NOTHING_MATCHED });
        }
    }
    let extensions = Patches::of(inputs, &[ApplyTo::ExtensionConfig]).0;
    let ignored = extensions.into_iter().filter(|(_, p)| p.operation != Operation::Add);
    out.extend(ignored.map(|(_, p)| Unapplied { filter: p.from.0, position: p.from.1, reason: NOTHING_MATCHED }));
    out.sort_by(|a, b| (&a.filter, a.position).cmp(&(&b.filter, b.position)));
    out
}

/// Route configurations that listeners ask for.
fn route_names(listeners: &[listener::Listener]) -> Vec<String> {
    use hcm::http_connection_manager::RouteSpecifier;
    let chains = listeners.iter().flat_map(|l| l.filter_chains.iter().chain(&l.default_filter_chain));
    let managers = chains.flat_map(|c| &c.filters).filter_map(|f| match &f.config_type {
        Some(listener::filter::ConfigType::TypedConfig(any)) => protos::unpack::<hcm::HttpConnectionManager>(any).ok(),
        _ => None,
    });
    let mut out: Vec<String> = managers
        .filter_map(|m| match m.route_specifier {
            Some(RouteSpecifier::Rds(rds)) => Some(rds.route_config_name),
            _ => None,
        })
        .collect();
    out.sort();
    out.dedup();
    out
}
