//! Which hosts form the subset that a request asks for? Envoy's subset selection by metadata.
//!
//! [`Subsets`] is built with each host set; `upstream` asks it where a request may go and lets the [`Balancer`] of
//! that subset pick.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proxy_config::Name;
use proxy_config::cluster::{LbConfig, LocalityLb, SubsetConfig, SubsetFallback, SubsetSelector};
use proxy_config::common::{Metadata, Value};

use super::{Balancer, HostInfo, LocalityInfo};

/// Subsets of one host set at most; hosts beyond are in none.
const SUBSETS_MAX: usize = 1 << 16;

/// One subset.
#[derive(Debug)]
pub struct Subset {
    /// Its hosts: a balancer's number is a position here, the value the host's number in the whole set.
    pub members: Box<[u32]>,
    /// Picks among them.
    pub balancer: Balancer,
}

/// All subsets of a host set.
#[derive(Debug)]
pub struct Subsets {
    all: Vec<Subset>,
    by_values: HashMap<Box<str>, u32>,
    default: Option<u32>,
    fallback: SubsetFallback,
    selectors: Box<[SubsetSelector]>,
    panic_mode_any: bool,
}

/// Where a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// All hosts.
    Whole,
    /// A subset, by number.
    Subset(u32),
}

/// How the place was found; each has its counter, save for a selector's own fallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The request's metadata name a subset.
    Selected,
    /// The cluster's fallback policy.
    Fallback,
    /// The fallback policy of the selector.
    SelectorFallback,
}

impl Subsets {
    /// Sorts hosts into subsets. `metadata` yields a host's.
    pub fn build<'a>(
        config: &SubsetConfig,
        lb: &LbConfig,
        hosts: &[HostInfo<'_>],
        metadata: &dyn Fn(u32) -> &'a Metadata,
        localities: &[LocalityInfo],
        overprovisioning: u32,
        weighted_priority_health: bool,
    ) -> Subsets {
        let mut members: Vec<Vec<u32>> = Vec::new();
        let mut by_values: HashMap<Box<str>, u32> = HashMap::new();
        for host in 0..hosts.len() as u32 {
            let mut mine: HashSet<Box<str>> = HashSet::new();
            for selector in &config.selectors {
                for text in texts(selector, metadata(host), config.list_as_any) {
                    if !mine.insert(text.clone()) {
                        continue;
                    }
                    let at = match by_values.get(&text) {
                        Some(at) => *at,
                        None if members.len() >= SUBSETS_MAX => continue,
                        None => {
                            members.push(Vec::new());
                            by_values.insert(text, members.len() as u32 - 1);
                            members.len() as u32 - 1
                        }
                    };
                    let list = &mut members[at as usize];
                    if !selector.single_host_per_subset || list.is_empty() {
                        list.push(host);
                    }
                }
            }
        }
        let default = (config.fallback == SubsetFallback::DefaultSubset
            || config.selectors.iter().any(|s| s.fallback == Some(SubsetFallback::DefaultSubset)))
        .then(|| {
            let of = |h: &u32| contains(&config.default_subset, metadata(*h), config.list_as_any);
            members.push((0..hosts.len() as u32).filter(of).collect());
            members.len() as u32 - 1
        });
        let mut lb = lb.clone();
        if lb.locality == LocalityLb::Weighted && !config.locality_weight_aware {
            lb.locality = LocalityLb::None;
        }
        let all = members
            .into_iter()
            .map(|list| {
                let infos: Vec<HostInfo<'_>> = list.iter().map(|h| hosts[*h as usize].clone()).collect();
                let scaled = config.scale_locality_weight.then(|| scale(localities, hosts, &infos));
                let localities = scaled.as_deref().unwrap_or(localities);
                let balancer = Balancer::build(&lb, &infos, localities, overprovisioning, weighted_priority_health);
                Subset { members: list.into(), balancer }
            })
            .collect();
        Subsets {
            all,
            by_values,
            default,
            fallback: config.fallback,
            selectors: config.selectors.clone(),
            panic_mode_any: config.panic_mode_any,
        }
    }

    /// A subset by number.
    pub fn get(&self, subset: u32) -> &Subset {
        &self.all[subset as usize]
    }

    /// Subsets that metadata select.
    pub fn len(&self) -> usize {
        self.by_values.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.by_values.is_empty()
    }

    /// All hosts are used when a fallback finds none (`panic_mode_any`).
    pub fn panics_to_any(&self) -> bool {
        self.panic_mode_any
    }

    /// How many subsets appeared and vanished since `old`.
    pub fn difference(&self, old: Option<&Subsets>) -> (u64, u64) {
        let Some(old) = old else { return (self.by_values.len() as u64, 0) };
        let new = self.by_values.keys().filter(|k| !old.by_values.contains_key(*k)).count();
        let gone = old.by_values.keys().filter(|k| !self.by_values.contains_key(*k)).count();
        (new as u64, gone as u64)
    }

    /// Where a request that wants these values may go. `None`: nowhere.
    ///
    /// `wanted` is sorted by key. A subset applies when some selector has exactly these keys and some host these values.
    pub fn find(&self, wanted: &[(Name, Value)]) -> Option<(Place, How)> {
        let mut wanted = Cow::Borrowed(wanted);
        // Each selector's fallback keeps fewer keys, so this ends; the bound is for configurations that lie.
        for _ in 0..=self.selectors.len() {
            if wanted.is_empty() {
                break;
            }
            if let Some(at) = self.by_values.get(&text_of(wanted.iter().map(|(k, v)| (k, v)))) {
                return Some((Place::Subset(*at), How::Selected));
            }
            let named = |s: &&SubsetSelector| {
                s.keys.len() == wanted.len() && s.keys.iter().zip(wanted.iter()).all(|(a, (b, _))| a == b)
            };
            let Some(selector) = self.selectors.iter().find(named) else { break };
            match &selector.fallback {
                None => break,
                Some(SubsetFallback::NoFallback) => return None,
                Some(SubsetFallback::AnyEndpoint) => return Some((Place::Whole, How::SelectorFallback)),
                Some(SubsetFallback::DefaultSubset) => {
                    return self.default.map(|d| (Place::Subset(d), How::SelectorFallback));
                }
                Some(SubsetFallback::KeysSubset) => {
                    if selector.keys.iter().all(|k| selector.fallback_keys.contains(k)) {
                        break;
                    }
                    let fewer = wanted.iter().filter(|(k, _)| selector.fallback_keys.contains(k)).cloned().collect();
                    wanted = Cow::Owned(fewer);
                }
            }
        }
        match self.fallback {
            SubsetFallback::AnyEndpoint => Some((Place::Whole, How::Fallback)),
            SubsetFallback::DefaultSubset => self.default.map(|d| (Place::Subset(d), How::Fallback)),
            SubsetFallback::NoFallback | SubsetFallback::KeysSubset => None,
        }
    }
}

/// Keys and values as one text, for the map.
fn text_of<'a>(pairs: impl Iterator<Item = (&'a Name, &'a Value)>) -> Box<str> {
    use std::fmt::Write;
    let mut out = String::new();
    for (key, value) in pairs {
        // Writing to a String cannot fail.
        let _ = write!(out, "{key}\0{value:?}\0");
    }
    out.into()
}

/// The subsets of a selector that a host belongs to: none if it lacks a key, several if a value is a list.
fn texts(selector: &SubsetSelector, metadata: &Metadata, list_as_any: bool) -> Vec<Box<str>> {
    let mut rows: Vec<Vec<(&Name, &Value)>> = vec![Vec::new()];
    for key in &selector.keys {
        let Some(value) = metadata.get("envoy.lb", std::slice::from_ref(key)) else { return Vec::new() };
        let values: Vec<&Value> = match value {
            Value::List(items) if list_as_any => items.iter().collect(),
            other => vec![other],
        };
        rows = rows.iter().flat_map(|row| values.iter().map(move |v| [&row[..], &[(key, *v)][..]].concat())).collect();
    }
    rows.into_iter().map(|row| text_of(row.into_iter())).collect()
}

/// Weights of localities in proportion to the share of their hosts that is in the subset.
fn scale(localities: &[LocalityInfo], whole: &[HostInfo<'_>], part: &[HostInfo<'_>]) -> Arc<[LocalityInfo]> {
    let count = |hosts: &[HostInfo<'_>], l: usize| hosts.iter().filter(|h| h.locality as usize == l).count() as f64;
    localities
        .iter()
        .enumerate()
        .map(|(i, l)| {
            let (all, some) = (count(whole, i), count(part, i));
            let weight = if all > 0.0 { f64::from(l.weight) * some / all } else { 0.0 };
            LocalityInfo { weight: if l.weight > 0 { weight.round().max(1.0) as u32 } else { 0 } }
        })
        .collect()
}

/// True when a host's `envoy.lb` metadata have all of `values` (a list counts as any of its items with `list_as_any`).
pub fn contains(values: &[(Name, Value)], host: &Metadata, list_as_any: bool) -> bool {
    values.iter().all(|(key, want)| match host.get("envoy.lb", &[key]) {
        Some(Value::List(items)) if list_as_any => items.iter().any(|i| i == want),
        Some(have) => have == want,
        None => false,
    })
}
