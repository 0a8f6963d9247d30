//! One piece of configuration with what the mesh needs of its metadata. The wire form ends at `api`; here names are
//! shared text and age is a number.

use std::cmp::Ordering;
use std::sync::Arc;

use names::{Hostname, Kind, Labels};

/// A configuration resource of type `T`.
#[derive(Clone, Debug, PartialEq)]
pub struct Config<T> {
    /// Kind, for provenance.
    pub kind: Kind,
    /// Name.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// Labels.
    pub labels: Labels,
    /// Annotations.
    pub annotations: Labels,
    /// Creation time, microseconds since 1970; 0 when unknown.
    pub created_us: i64,
    /// What it says.
    pub spec: T,
}

impl<T> Config<T> {
    /// Order of precedence: older first, then `name.namespace`.
    pub fn age_order(&self, other: &Self) -> Ordering {
        (self.created_us, &self.name, &self.namespace).cmp(&(other.created_us, &other.name, &other.namespace))
    }

    /// `NAMESPACE/NAME`.
    pub fn qualified(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The same metadata with another specification.
    pub fn with<U>(&self, spec: U) -> Config<U> {
        Config {
            kind: self.kind.clone(),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            created_us: self.created_us,
            spec,
        }
    }
}

/// Hosts that something is registered under: exact names by lookup, wildcards most specific first.
#[derive(Clone, Debug, Default)]
pub struct HostIndex<T> {
    exact: std::collections::BTreeMap<Hostname, T>,
    wildcard: Vec<(Hostname, T)>,
}

impl<T> HostIndex<T> {
    /// The entry of exactly this host, created if need be.
    pub fn entry(&mut self, host: &Hostname) -> &mut T
    where
        T: Default,
    {
        if !host.is_wildcard() {
            return self.exact.entry(host.clone()).or_default();
        }
        let at = match self.wildcard.binary_search_by(|(h, _)| h.specificity(host)) {
            Ok(at) => at,
            Err(at) => {
                self.wildcard.insert(at, (host.clone(), T::default()));
                at
            }
        };
        &mut self.wildcard[at].1
    }

    /// The most specific entry that covers `host` (which may be a wildcard itself).
    pub fn most_specific(&self, host: &Hostname) -> Option<&T> {
        if let Some(found) = self.exact.get(host) {
            return Some(found);
        }
        self.wildcard.iter().find(|(h, _)| host.subset_of(h)).map(|(_, t)| t)
    }

    /// The entry of exactly this host.
    pub fn exact(&self, host: &Hostname) -> Option<&T> {
        if !host.is_wildcard() {
            return self.exact.get(host);
        }
        let at = self.wildcard.binary_search_by(|(h, _)| h.specificity(host)).ok()?;
        Some(&self.wildcard[at].1)
    }

    /// Everything registered.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.iter().map(|(_, t)| t))
    }

    /// All entries, for changing.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&Hostname, &mut T)> {
        self.exact.iter_mut().chain(self.wildcard.iter_mut().map(|(h, t)| (&*h, t)))
    }

    /// Whether nothing is registered.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }
}
