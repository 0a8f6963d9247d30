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
    /// Subsets that were not taken, as an older rule has one of their name: the subset, and whose it is.
    pub duplicates: Vec<(String, String)>,
}

type Merged = Vec<Arc<MergedRule>>;

/// Rules of one host in one namespace, as written and merged.
#[derive(Clone, Debug, Default)]
struct Group {
    written: Vec<Arc<Config<DestinationRule>>>,
    merged: Merged,
}

/// All destination rules, by namespace and host.
#[derive(Debug, Default)]
pub struct DestinationRules {
    by_namespace: BTreeMap<Arc<str>, HostIndex<Group>>,
    root_namespace: String,
    failover_priority: bool,
}

/// Whether the rule orders endpoints by labels, anywhere in it.
fn orders_by_labels(rule: &DestinationRule) -> bool {
    use api::destination_rule::LoadBalancerSettings;
    let ordered = |lb: Option<&LoadBalancerSettings>| {
        let setting = lb.and_then(|l| l.locality_lb_setting.as_ref());
        setting.is_some_and(|s| !s.failover_priority.is_empty())
    };
    let policies = rule.traffic_policy.iter().chain(rule.subsets.iter().filter_map(|s| s.traffic_policy.as_ref()));
    policies.into_iter().any(|p| {
        ordered(p.load_balancer.as_ref()) || p.port_level_settings.iter().any(|l| ordered(l.load_balancer.as_ref()))
    })
}

impl DestinationRules {
    /// No rules.
    pub(crate) fn empty(root_namespace: &str) -> Self {
        DestinationRules { root_namespace: root_namespace.to_owned(), ..Default::default() }
    }

    /// Merges and indexes rules whose hosts are complete. Groups that hold the same rules as in `old` are not merged
    /// again.
    pub(crate) fn of_resolved<'a>(
        rules: impl Iterator<Item = &'a Arc<Config<DestinationRule>>>,
        default_export_to: &[String],
        root_namespace: &str,
        old: Option<&DestinationRules>,
    ) -> Self {
        let mut sorted: Vec<&Arc<Config<DestinationRule>>> = rules.collect();
        sorted.sort_by(|a, b| a.age_order(b));
        let mut out = DestinationRules::empty(root_namespace);
        for rule in sorted {
            let host = Hostname::from(rule.spec.host.as_str());
            out.failover_priority |= orders_by_labels(&rule.spec);
            let index = out.by_namespace.entry(rule.namespace.clone()).or_default();
            index.entry(&host).written.push(rule.clone());
        }
        for (namespace, index) in &mut out.by_namespace {
            let known = old.and_then(|o| o.by_namespace.get(namespace));
            for (host, group) in index.iter_mut() {
                let same = known.and_then(|k| k.exact(host)).filter(|k| {
                    k.written.len() == group.written.len()
                        && k.written.iter().zip(&group.written).all(|(a, b)| Arc::ptr_eq(a, b))
                });
                match same {
                    Some(same) => group.merged.clone_from(&same.merged),
                    None => {
                        for rule in &group.written {
                            let visibility = match &rule.spec.workload_selector {
                                // A rule for chosen workloads stays in its namespace.
                                Some(_) => Visibility::Namespaces([rule.namespace.clone()].into()),
                                None => Visibility::parse(&rule.spec.export_to, default_export_to, &rule.namespace),
                            };
                            merge_into(&mut group.merged, (**rule).clone(), visibility);
                        }
                        complete_selecting(&mut group.merged);
                    }
                }
            }
        }
        out
    }

    /// Whether any rule orders endpoints by labels of client and endpoint.
    pub fn has_failover_priority(&self) -> bool {
        self.failover_priority
    }

    /// All of them, merged, by namespace and host.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<MergedRule>> {
        self.by_namespace.values().flat_map(HostIndex::values).flat_map(|group| &group.merged)
    }

    /// Rules that govern `service` (declared in `service_namespace`) for clients of `client_namespace`.
    pub fn lookup(&self, client_namespace: &str, service: &Hostname, service_namespace: &str) -> Merged {
        let visible = |rules: &Merged, same: bool| -> Option<Merged> {
            let seen: Merged =
                rules.iter().filter(|r| same || r.visibility.allows(client_namespace)).cloned().collect();
            (!seen.is_empty()).then_some(seen)
        };
        let in_namespace = |namespace: &str, local_only: bool| -> Option<Merged> {
            let rules = &self.by_namespace.get(namespace)?.most_specific(service)?.merged;
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
        rules.push(Arc::new(MergedRule { config, visibility, from: vec![key], duplicates: Vec::new() }));
        return;
    };
    let existing = Arc::make_mut(existing);
    let taken = |name: &String| existing.config.spec.subsets.iter().any(|s| s.name == *name);
    let twice = config.spec.subsets.iter().map(|s| &s.name).filter(|name| taken(name));
    let twice: Vec<_> = twice.map(|name| (name.clone(), key.clone())).collect();
    existing.duplicates.extend(twice);
    add_to(existing, &config.spec, &[key]);
}

/// Subsets that are new, and the traffic policy where there is none.
fn add_to(rule: &mut MergedRule, other: &DestinationRule, from: &[String]) {
    let spec = &mut rule.config.spec;
    for subset in &other.subsets {
        if !spec.subsets.iter().any(|s| s.name == subset.name) {
            spec.subsets.push(subset.clone());
        }
    }
    if spec.traffic_policy.is_none() {
        spec.traffic_policy.clone_from(&other.traffic_policy);
    }
    rule.from.extend_from_slice(from);
}

/// Rules for chosen workloads also hold what the rule for all workloads beside them says: its subsets, and its traffic
/// policy where they have none.
fn complete_selecting(rules: &mut Merged) {
    let (selecting, general): (Vec<usize>, Vec<usize>) =
        (0..rules.len()).partition(|&i| rules[i].config.spec.workload_selector.is_some());
    for &s in &selecting {
        for &g in &general {
            let general = rules[g].clone();
            add_to(Arc::make_mut(&mut rules[s]), &general.config.spec, &general.from);
        }
    }
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
