//! Which destination rule governs a service for a client? Lookup order, merging within a namespace, workload
//! selectors. Follows `pilot/pkg/model/destination_rule.go` and `push_context.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::destination_rule::DestinationRule;
use names::{Hostname, Labels, LabelsExt};

use crate::config::{Config, HostIndex};
use crate::service::Visibility;

/// Rules of one host in one namespace, merged where they may be.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedRule {
    /// The rule; its metadata are those of the oldest.
    pub config: Config<DestinationRule>,
    /// Who sees it.
    pub visibility: Visibility,
    /// `NAMESPACE/NAME` of every resource in it.
    pub from: Vec<String>,
}

type Merged = Vec<Arc<MergedRule>>;

/// All destination rules, by namespace and host.
#[derive(Debug, Default)]
pub struct DestinationRules {
    by_namespace: BTreeMap<Arc<str>, HostIndex<Merged>>,
    root_namespace: String,
}

impl DestinationRules {
    /// Resolves hosts, merges and indexes.
    pub fn new<'a>(
        configs: impl Iterator<Item = &'a Config<DestinationRule>>,
        domain: &str,
        default_export_to: &[String],
        root_namespace: &str,
    ) -> Self {
        let mut sorted: Vec<&Config<DestinationRule>> = configs.collect();
        sorted.sort_by(|a, b| a.age_order(b));
        let mut out = DestinationRules { root_namespace: root_namespace.to_owned(), ..Default::default() };
        for config in sorted {
            let host = Hostname::resolve(&config.spec.host, &config.namespace, domain);
            let mut config = config.clone();
            config.spec.host = host.to_string();
            let visibility = match &config.spec.workload_selector {
                // A rule for chosen workloads stays in its namespace.
                Some(_) => Visibility::Namespaces([config.namespace.clone()].into()),
                None => Visibility::parse(&config.spec.export_to, default_export_to, &config.namespace),
            };
            let index = out.by_namespace.entry(config.namespace.clone()).or_default();
            merge_into(index.entry(&host), config, visibility);
        }
        out
    }

    /// Rules that govern `service` (declared in `service_namespace`) for clients of `client_namespace`.
    pub fn lookup(&self, client_namespace: &str, service: &Hostname, service_namespace: &str) -> Merged {
        let visible = |rules: &Merged, same: bool| -> Option<Merged> {
            let seen: Merged =
                rules.iter().filter(|r| same || r.visibility.allows(client_namespace)).cloned().collect();
            (!seen.is_empty()).then_some(seen)
        };
        let in_namespace = |namespace: &str, local_only: bool| -> Option<Merged> {
            let rules = self.by_namespace.get(namespace)?.most_specific(service)?;
            if local_only {
                let own: Merged = rules.iter().filter(|r| r.visibility != Visibility::Public).cloned().collect();
                return (!own.is_empty()).then_some(own);
            }
            visible(rules, namespace == client_namespace)
        };
        let client_is_root = client_namespace == self.root_namespace;
        // Rules of the root namespace are meant for everybody: for its own proxies they come last, unless private.
        in_namespace(client_namespace, client_is_root)
            .or_else(|| {
                (!service_namespace.is_empty() && service_namespace != client_namespace)
                    .then(|| in_namespace(service_namespace, false))
                    .flatten()
            })
            .or_else(|| in_namespace(&self.root_namespace, false))
            .unwrap_or_default()
    }
}

fn merge_into(rules: &mut Merged, config: Config<DestinationRule>, visibility: Visibility) {
    let key = config.qualified();
    let same = rules
        .iter_mut()
        .find(|r| r.config.spec.workload_selector == config.spec.workload_selector && r.visibility == visibility);
    let Some(existing) = same else {
        rules.push(Arc::new(MergedRule { config, visibility, from: vec![key] }));
        return;
    };
    let existing = Arc::make_mut(existing);
    let subsets = &mut existing.config.spec.subsets;
    for subset in config.spec.subsets {
        if !subsets.iter().any(|s| s.name == subset.name) {
            subsets.push(subset);
        }
    }
    if existing.config.spec.traffic_policy.is_none() {
        existing.config.spec.traffic_policy = config.spec.traffic_policy;
    }
    existing.from.push(key);
}

/// The rule for a workload out of those of its host: one that selects it, else one without selector.
pub fn select<'a>(
    rules: &'a [Arc<MergedRule>],
    namespace: &str,
    labels: &Labels,
    inbound: bool,
) -> Option<&'a Arc<MergedRule>> {
    let selected = rules.iter().find(|r| {
        !inbound
            && *r.config.namespace == *namespace
            && r.config.spec.workload_selector.as_ref().is_some_and(|s| s.match_labels.subset_of(labels))
    });
    selected.or_else(|| rules.iter().rfind(|r| inbound || r.config.spec.workload_selector.is_none()))
}
