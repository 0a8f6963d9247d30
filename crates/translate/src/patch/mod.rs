//! How do `EnvoyFilter`s change what was translated? Patches are selected and read here, once per translation; `merge`
//! joins messages by field; `cluster`, `listener` and `route` apply them to each type.
//!
//! Order: priority, then root namespace before the workload's own, then age. Follows
//! `pilot/pkg/networking/core/envoyfilter`.

pub(crate) mod cluster;
pub(crate) mod listener;
mod merge;
mod report;
pub(crate) mod route;

pub use report::{Unapplied, considered, unapplied};

use std::sync::Arc;

use api::envoy_filter::{
    ApplyTo, EnvoyConfigObjectMatch, EnvoyFilter, ListenerMatch, Operation, PatchContext, ProxyMatch,
    RouteConfigurationMatch,
};
use model::{Config, Proxy};
use prost_types::Any;
use protos::envoy::config::core::v3 as core;
use protos::prost::{Message, Name};

use crate::{Inputs, NamedResource};

/// Longest expression on proxy versions; longer ones are ignored.
const VERSION_REGEX_MAX: usize = 1024;

/// One patch that may concern this proxy.
#[derive(Clone, Debug)]
pub(crate) struct Patch {
    pub(crate) operation: Operation,
    context: PatchContext,
    matches: EnvoyConfigObjectMatch,
    /// The encoded message; empty for removals.
    value: Vec<u8>,
    /// The filter it is from (`NAMESPACE/NAME`), and its position there.
    from: (String, usize),
}

impl Patch {
    /// The value as the message it is.
    pub(crate) fn value<T: Message + Default>(&self) -> T {
        T::decode(&*self.value).expect("read as this message")
    }

    /// Merges the value into `message`, field by field.
    pub(crate) fn merge_into<T: Message + Name + Default>(&self, message: &mut T) {
        let joined = merge::merge(&T::full_name(), &message.encode_to_vec(), &self.value, self.replaces_lists());
        if let Ok(m) = T::decode(&*joined) {
            *message = m;
        }
    }

    /// Merges a packed message into another; what is patched decides the type.
    pub(crate) fn merge_any(&self, into: &mut Any, from: &Any) {
        into.value = merge::merge(protos::type_name(&into.type_url), &into.value, &from.value, self.replaces_lists());
    }

    pub(crate) fn is_merge(&self) -> bool {
        matches!(self.operation, Operation::Merge | Operation::MergeAndReplaceList)
    }

    fn replaces_lists(&self) -> bool {
        self.operation == Operation::MergeAndReplaceList
    }

    /// Whether it is for this side of the proxy.
    pub(crate) fn is_for(&self, context: PatchContext) -> bool {
        self.context == PatchContext::Any || self.context == context
    }

    /// Whether it adds a whole resource there. Without a context that is the outbound side.
    pub(crate) fn adds(&self, context: PatchContext) -> bool {
        self.operation == Operation::Add
            && self.is_for(context)
            && (self.context != PatchContext::Any || context != PatchContext::SidecarInbound)
    }

    pub(crate) fn listener(&self) -> Option<&ListenerMatch> {
        self.matches.listener.as_ref()
    }

    pub(crate) fn route_configuration(&self) -> Option<&RouteConfigurationMatch> {
        self.matches.route_configuration.as_ref()
    }

    pub(crate) fn cluster(&self) -> Option<&api::envoy_filter::ClusterMatch> {
        self.matches.cluster.as_ref()
    }
}

/// Patches by what they apply to, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patches(Vec<(ApplyTo, Patch)>);

impl Patches {
    /// Those of the filters that select the proxy. Values that are not the message they patch were refused at the
    /// door and are left out here.
    pub(crate) fn of(inputs: &Inputs, wanted: &[ApplyTo]) -> Self {
        let mut out = Vec::new();
        for filter in selected(inputs) {
            for (position, p) in filter.spec.config_patches.iter().enumerate() {
                if !wanted.contains(&p.apply_to) {
                    continue;
                }
                let (Some(patch), Some(message)) = (&p.patch, message_of(p.apply_to)) else {
                    continue;
                };
                let matches = p.matches.clone().unwrap_or_default();
                if !proxy_matches(matches.proxy.as_ref(), inputs.proxy()) {
                    continue;
                }
                let value = match &patch.value {
                    Some(v) => merge::read(message, &serde_json::Value::Object(v.clone())),
                    None => Some(Vec::new()),
                };
                let Some(value) = value else { continue };
                let from = (filter.qualified(), position);
                let patch = Patch { operation: patch.operation, context: matches.context, matches, value, from };
                out.push((p.apply_to, patch));
            }
        }
        Patches(out)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn to(&self, apply_to: ApplyTo) -> impl Iterator<Item = &Patch> {
        self.0.iter().filter(move |(a, _)| *a == apply_to).map(|(_, p)| p)
    }
}

fn selected(inputs: &Inputs) -> Vec<&Arc<Config<EnvoyFilter>>> {
    let (proxy, root) = (inputs.proxy(), inputs.mesh().root_namespace.as_str());
    let to = model::security::Attachment::of(proxy, root);
    let mut out: Vec<_> = inputs
        .snapshot()
        .envoy_filters
        .iter()
        .filter(|f| {
            let selector = f.spec.workload_selector.as_ref();
            (*f.namespace == *root || f.namespace == proxy.namespace)
                && if f.spec.target_refs.is_empty() {
                    selector.is_none_or(|s| s.labels.iter().all(|(k, v)| proxy.labels.get(k) == Some(v)))
                } else {
                    to.takes(&f.namespace, None, None, &f.spec.target_refs)
                }
        })
        .collect();
    // By age already.
    out.sort_by_key(|f| (f.spec.priority, *f.namespace != *root));
    out
}

/// Whether a patch is for proxies of this version and metadata.
pub fn proxy_matches(m: Option<&ProxyMatch>, proxy: &Proxy) -> bool {
    let Some(m) = m else { return true };
    let stated = |key: &str| match proxy.metadata.fields.get(key).and_then(|v| v.kind.as_ref()) {
        Some(prost_types::value::Kind::StringValue(s)) => Some(s.as_str()),
        _ => None,
    };
    let version = m.proxy_version.is_empty()
        || m.proxy_version.len() <= VERSION_REGEX_MAX
            && stated("ISTIO_VERSION")
                .is_some_and(|v| regex::Regex::new(&m.proxy_version).is_ok_and(|expression| expression.is_match(v)));
    version && m.metadata.iter().all(|(k, v)| stated(k) == Some(v.as_str()))
}

fn message_of(apply_to: ApplyTo) -> Option<&'static str> {
    Some(match apply_to {
        ApplyTo::Listener => "envoy.config.listener.v3.Listener",
        ApplyTo::FilterChain => "envoy.config.listener.v3.FilterChain",
        ApplyTo::ListenerFilter => "envoy.config.listener.v3.ListenerFilter",
        ApplyTo::NetworkFilter => "envoy.config.listener.v3.Filter",
        ApplyTo::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        ApplyTo::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
        ApplyTo::VirtualHost => "envoy.config.route.v3.VirtualHost",
        ApplyTo::HttpRoute => "envoy.config.route.v3.Route",
        ApplyTo::Cluster => "envoy.config.cluster.v3.Cluster",
        ApplyTo::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
        ApplyTo::Bootstrap | ApplyTo::Invalid => return None,
    })
}

/// Inserts, replaces or removes an element of a list. Without a named element, `INSERT_BEFORE` is at the front,
/// `INSERT_AFTER` at the end, and there is nothing to replace or remove.
pub(crate) fn edit<T: Message + Default>(list: &mut Vec<T>, patch: &Patch, named: bool, is_it: impl Fn(&T) -> bool) {
    let at = |list: &[T]| {
        if named { list.iter().position(&is_it) } else { None }
    };
    match patch.operation {
        Operation::Add => list.push(patch.value()),
        Operation::InsertFirst => list.insert(0, patch.value()),
        Operation::InsertBefore if !named => list.insert(0, patch.value()),
        Operation::InsertAfter if !named => list.push(patch.value()),
        Operation::InsertBefore => {
            if let Some(n) = at(list) {
                list.insert(n, patch.value());
            }
        }
        Operation::InsertAfter => {
            if let Some(n) = at(list) {
                list.insert(n + 1, patch.value());
            }
        }
        Operation::Replace => {
            if let Some(n) = at(list) {
                list[n] = patch.value();
            }
        }
        Operation::Remove if named => list.retain(|e| !is_it(e)),
        Operation::Remove | Operation::Merge | Operation::MergeAndReplaceList | Operation::Invalid => {}
    }
}

/// Extension configurations (ECDS) of these names, from `EXTENSION_CONFIG` patches.
pub(crate) fn extension_configs(inputs: &Inputs, names: &[String]) -> Vec<NamedResource> {
    let patches = Patches::of(inputs, &[ApplyTo::ExtensionConfig]);
    let mut out: Vec<NamedResource> = Vec::new();
    for patch in patches.to(ApplyTo::ExtensionConfig) {
        let config: core::TypedExtensionConfig = patch.value();
        let known = out.iter().any(|r| r.name == config.name);
        if patch.operation == Operation::Add && names.contains(&config.name) && !known {
            out.push(NamedResource::new(&config.name, &config));
        }
    }
    out
}

/// Applies the patches that select the proxy to clusters, as after translation.
pub fn apply_to_clusters(inputs: &Inputs, clusters: &mut Vec<protos::envoy::config::cluster::v3::Cluster>) {
    cluster::apply(inputs, &Patches::of(inputs, &cluster::APPLY_TO), clusters);
}

/// Applies the patches that select the proxy to a route configuration of an outbound or gateway listener.
pub fn apply_to_routes(inputs: &Inputs, config: &mut protos::envoy::config::route::v3::RouteConfiguration) {
    route::apply(&Patches::of(inputs, &route::APPLY_TO), crate::route::patch_context(inputs), config);
}
