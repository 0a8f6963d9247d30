//! The state machine of one ADS stream: requests in, targets in, responses out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use protos::envoy::service::discovery::v3 as discovery;

use super::resource::{is_eds_cluster, version_string};
use super::subscription::{Subscription, WILDCARD};
use super::{Changes, Kind, Push, Resource, ResourceSet, TypeStatus};

/// How long listeners and routes wait for the client to take new clusters and ask for their endpoints.
/// A client that never does so (it needs no endpoints, or a cluster of it never gets warm) still gets everything after
/// this time; clusters first, whose later changes then leave although the earlier ones are not answered.
pub const WARMING_MAX: Duration = Duration::from_secs(2);

/// Most removed clusters that are held back for a client that refuses a listener or route.
pub const HELD_MAX: usize = 1_000;

/// Which of the two xDS protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Only what changed; removals by name.
    Delta,
    /// State of the world.
    Sotw,
}

/// Why a request ends the stream.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum Refused {
    /// We serve no such type.
    #[error("unknown type URL {0:?}")]
    UnknownType(String),
    /// One client asks for too many names.
    #[error("{kind}: more than {max} names subscribed", max = super::subscription::NAMES_MAX)]
    TooManyNames {
        /// The type in question.
        kind: Kind,
    },
}

/// What a request meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its type.
    pub kind: Kind,
    /// The client took (`Ok`) or refused (`Err`, with its reason) the response in flight.
    pub answer: Option<Result<(), String>>,
    /// The client wants other names than before.
    pub subscribed: bool,
    /// The nonce was not the latest; a state-of-the-world request is then ignored.
    pub expired_nonce: bool,
}

/// A type whose target must be made anew.
#[derive(Debug)]
pub struct Want<'a> {
    /// Which type.
    pub kind: Kind,
    /// All that the proxy may see.
    pub wildcard: bool,
    /// These names.
    pub names: &'a BTreeSet<Arc<str>>,
    /// Counts the changes of what is wanted, so that who compares names need not do so again.
    pub asked: u64,
}

/// One ADS stream.
#[derive(Debug)]
pub struct Stream {
    protocol: Protocol,
    subs: BTreeMap<Kind, Subscription>,
    next_nonce: u64,
    /// EDS clusters that were sent and whose endpoints the client has not confirmed, with the number of the
    /// earliest response whose confirmation counts.
    warming: BTreeMap<Arc<str>, u64>,
    /// When endpoints last left that the client did not have.
    warmed_at: Duration,
    /// Time of the first poll after the client began to speak.
    opened: Option<Duration>,
    /// Time of the last poll.
    polled: Duration,
    /// The client brought something along from an earlier stream.
    resumed: bool,
}

impl Stream {
    /// A stream without subscriptions.
    pub fn new(protocol: Protocol) -> Self {
        Stream {
            protocol,
            subs: BTreeMap::new(),
            next_nonce: 1,
            warming: BTreeMap::new(),
            warmed_at: Duration::ZERO,
            opened: None,
            polled: Duration::ZERO,
            resumed: false,
        }
    }

    /// Which protocol the stream speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Takes a request of a delta stream.
    pub fn on_delta(&mut self, request: &discovery::DeltaDiscoveryRequest) -> Result<Event, Refused> {
        let kind = parse_kind(&request.type_url)?;
        let first = !self.subs.contains_key(&kind);
        let known = self.names_of(kind);
        let sub = self.subs.entry(kind).or_insert_with(|| Subscription::new(kind));
        let names = &request.resource_names_subscribe;
        if first {
            sub.resume_versions(&request.initial_resource_versions)?;
            self.resumed |= !request.initial_resource_versions.is_empty();
            sub.wildcard = names.is_empty() && kind.is_wildcard_by_default();
        }
        for name in names {
            sub.subscribe(name, known.as_deref())?;
            if first && sub.base.get(name).is_some() {
                sub.forced.remove(name.as_str());
            }
        }
        for name in &request.resource_names_unsubscribe {
            sub.unsubscribe(name);
            if let (Kind::Endpoint, Some(since)) = (kind, self.warming.get_mut(name.as_str())) {
                // It ignores what is on its way and will ask again.
                *since = self.next_nonce;
            }
        }
        let subscribed = first || !names.is_empty() || !request.resource_names_unsubscribe.is_empty();
        let error = request.error_detail.as_ref().map(|e| e.message.as_str());
        let mut event = Event { kind, answer: None, subscribed, expired_nonce: false };
        if !request.response_nonce.is_empty() {
            self.answer(&mut event, &request.response_nonce, error);
        }
        Ok(event)
    }

    /// Takes a request of a state-of-the-world stream.
    pub fn on_sotw(&mut self, request: &discovery::DiscoveryRequest) -> Result<Event, Refused> {
        let kind = parse_kind(&request.type_url)?;
        let first = !self.subs.contains_key(&kind);
        let known = self.names_of(kind);
        let sub = self.subs.entry(kind).or_insert_with(|| Subscription::new(kind));
        let nonce = request.response_nonce.as_str();
        let mut event = Event { kind, answer: None, subscribed: false, expired_nonce: false };
        if !first && !nonce.is_empty() && !sub.is_latest(nonce) {
            // Names in it are of before; as an answer it counts if it is still owed.
            let error = request.error_detail.as_ref().map(|e| e.message.as_str());
            self.answer(&mut event, nonce, error);
            event.expired_nonce = true;
            return Ok(event);
        }
        let again = !first && nonce.is_empty();
        if first && !request.version_info.is_empty() {
            // The version says nothing of what the client has: it may have taken parts of responses that it refused, and
            // of named resources it may have ignored some. Everything is sent again.
            self.resumed = true;
        }
        let asked: BTreeSet<&str> = request.resource_names.iter().map(String::as_str).collect();
        let wildcard =
            asked.contains(WILDCARD) || asked.is_empty() && (sub.wildcard || first && kind.is_wildcard_by_default());
        let gone: Vec<_> = sub.names.iter().filter(|n| !asked.contains(&***n)).cloned().collect();
        let new: Vec<_> = asked.iter().filter(|n| **n != WILDCARD && (again || !sub.names.contains(**n))).collect();
        event.subscribed = first || again || wildcard != sub.wildcard || !gone.is_empty() || !new.is_empty();
        sub.stale |= event.subscribed;
        sub.wildcard = wildcard;
        for name in gone {
            sub.unsubscribe(&name);
            if let (Kind::Endpoint, Some(since)) = (kind, self.warming.get_mut(&name)) {
                *since = self.next_nonce;
            }
        }
        for name in new {
            sub.subscribe(name, known.as_deref())?;
        }
        if again {
            sub.base = Arc::default();
            sub.fresh = true;
        }
        let error = request.error_detail.as_ref().map(|e| e.message.as_str());
        if !nonce.is_empty() {
            self.answer(&mut event, nonce, error);
        }
        Ok(event)
    }

    /// A set whose names are those that clients ask for in this type.
    fn names_of(&self, kind: Kind) -> Option<Arc<ResourceSet>> {
        (kind == Kind::Endpoint).then(|| self.subs.get(&Kind::Cluster).map(|s| Arc::clone(&s.base))).flatten()
    }

    fn answer(&mut self, event: &mut Event, nonce: &str, error: Option<&str>) {
        let Some(sub) = self.subs.get_mut(&event.kind) else {
            return;
        };
        let Some(answered) = sub.answer(nonce, error) else {
            event.expired_nonce = !sub.is_latest(nonce);
            return;
        };
        event.answer = Some(error.map_or(Ok(()), |e| Err(e.to_owned())));
        // Clusters of a refused response stay: some of them may have been taken and warm.
        if event.kind == Kind::Endpoint {
            let number = u64::from_str_radix(nonce, 16).unwrap_or(0);
            for name in &answered.names {
                if self.warming.get(name).is_some_and(|since| number >= *since) {
                    self.warming.remove(name);
                }
            }
        }
    }

    /// The world changed: these types must be made anew.
    pub fn invalidate(&mut self, concerned: impl Fn(Kind) -> bool) {
        for sub in self.subs.values_mut().filter(|s| concerned(s.kind)) {
            sub.stale = true;
        }
    }

    /// The next type that needs a new target, in push order.
    pub fn wants(&self) -> Option<Want<'_>> {
        let sub = self.subs.values().find(|s| s.stale)?;
        Some(Want { kind: sub.kind, wildcard: sub.wildcard, names: &sub.names, asked: sub.asked })
    }

    /// Gives the set the client should have of `kind`. It may hold more than was asked for.
    pub fn set_target(&mut self, kind: Kind, target: Arc<ResourceSet>) {
        if let Some(sub) = self.subs.get_mut(&kind) {
            sub.set_target(target);
        }
    }

    /// The next response that may leave at `now` (time since any fixed moment). Call until `None`.
    pub fn poll(&mut self, now: Duration) -> Option<Push> {
        if !self.subs.is_empty() {
            self.opened.get_or_insert(now);
        }
        self.polled = now;
        Kind::ALL.iter().find_map(|kind| self.poll_kind(*kind, now))
    }

    fn poll_kind(&mut self, kind: Kind, now: Duration) -> Option<Push> {
        let sub = self.subs.get(&kind)?;
        if let Some(since) = sub.unanswered_since() {
            // A client that warms a cluster may owe its answer for as long as a secret is missing. Its other clusters
            // must not wait for that, nor the listeners that refer to them.
            let overdue = now >= since.max(sub.sent_at) + WARMING_MAX;
            if kind != Kind::Cluster || !overdue {
                return None;
            }
        }
        let target = Arc::clone(sub.target.as_ref().filter(|_| !sub.stale)?);
        let Some(mut changes) = sub.pending(self.protocol) else {
            // Equal content behind another pointer: remember the new one, comparing is then free.
            self.subs.get_mut(&kind)?.settle(target);
            return None;
        };
        if !self.gate_open(kind, now) {
            return None;
        }
        let kept = self.defer_removals(kind, &mut changes, now);
        let sub = self.subs.get_mut(&kind)?;
        if changes.changed.is_empty() && changes.removed.is_empty() && !sub.fresh && !kept.is_empty() {
            return None;
        }
        let base = if kept.is_empty() { target } else { Arc::new(target.with_kept(&sub.base, |n| kept.contains(n))) };
        let version = version_string(sub.version_of(&base, self.protocol));
        let nonce = format!("{:x}", self.next_nonce);
        self.next_nonce += 1;
        let names = changes.changed.iter().map(|r| &r.name).chain(&changes.removed).cloned().collect();
        let mut resources = changes.changed;
        let warm: Vec<_> = match kind {
            Kind::Cluster => resources
                .iter()
                .filter(|r| is_eds_cluster(&r.value.in_one_run()))
                .map(|r| Arc::clone(&r.name))
                .collect(),
            _ => Vec::new(),
        };
        let full = self.protocol == Protocol::Sotw && kind.is_full_state();
        if full {
            resources = base.iter().filter(|r| sub.wants(&r.name)).cloned().collect();
        }
        if kind == Kind::Endpoint {
            // Endpoints the client never had: listeners wait for it to take them.
            let since = self.next_nonce - 1;
            let new = resources.iter().filter(|r| sub.is_new(&r.name));
            for resource in new {
                self.warming.insert(Arc::clone(&resource.name), since);
                self.warmed_at = now;
            }
        }
        sub.settle(base);
        sub.sent(nonce.clone(), version.clone(), names, full, now);
        self.warm(warm);
        Some(Push { kind, nonce, version, resources, removed: changes.removed })
    }

    /// Removals that must wait are taken out of `changes` and returned: a cluster while listeners and routes
    /// may still refer to it, endpoints while their cluster waits.
    fn defer_removals(&self, kind: Kind, changes: &mut Changes, now: Duration) -> BTreeSet<Arc<str>> {
        let mut kept = BTreeSet::new();
        if changes.removed.is_empty() {
            return kept;
        }
        match kind {
            Kind::Cluster if changes.removed.len() <= HELD_MAX && !self.references_settled(now) => {
                // A name just asked for that the client does not have refers to nothing: it is answered at once.
                let sub = self.subs.get(&kind);
                let held = |n: &Arc<str>| sub.is_none_or(|s| s.base.get(n).is_some() || !s.forced.contains(n));
                kept.extend(changes.removed.extract_if(.., |n| held(n)));
            }
            Kind::Endpoint => {
                let Some(clusters) = self.subs.get(&Kind::Cluster) else {
                    return kept;
                };
                let forced = self.subs.get(&kind).map(|s| &s.forced);
                let going = |n: &str| {
                    // A name just asked for is not there: it is answered at once.
                    forced.is_none_or(|f| !f.contains(n))
                        && clusters.base.get(n).is_some()
                        && clusters.target.as_ref().is_some_and(|t| t.get(n).is_none())
                };
                kept.extend(changes.removed.iter().filter(|n| going(n)).cloned());
                changes.removed.retain(|n| !kept.contains(n));
            }
            _ => {}
        }
        kept
    }

    /// Clusters just sent wait for their endpoints; those of known clusters are sent again, because
    /// Envoy warms a changed cluster from scratch without asking.
    fn warm(&mut self, clusters: Vec<Arc<str>>) {
        if let Some(endpoints) = self.subs.get_mut(&Kind::Endpoint) {
            let known = clusters.iter().filter(|n| endpoints.names.contains(*n));
            endpoints.forced.extend(known.cloned());
        }
        let since = self.next_nonce;
        self.warming.extend(clusters.into_iter().map(|n| (n, since)));
    }

    /// May a listener or route leave, as far as the clusters it may refer to are concerned?
    fn gate_open(&self, kind: Kind, now: Duration) -> bool {
        if !matches!(kind, Kind::Listener | Kind::Route | Kind::ScopedRoute | Kind::VirtualHost) {
            return true;
        }
        let Some(clusters) = self.subs.get(&Kind::Cluster) else {
            return self.is_introduced(now);
        };
        // Clusters first, whatever the client owes.
        if clusters.stale || clusters.pending(self.protocol).is_some_and(|c| !c.changed.is_empty()) {
            return false;
        }
        let missing = self.subs.get(&Kind::Endpoint).is_some_and(|e| {
            let pending = e.pending(self.protocol).unwrap_or_default();
            e.stale || pending.changed.iter().any(|r| e.is_new(&r.name))
        });
        let complete = clusters.in_flight.is_empty() && self.warming.is_empty() && !missing;
        complete || now >= self.waiting_since(clusters) + WARMING_MAX
    }

    /// Since when listeners and routes wait for the client.
    fn waiting_since(&self, clusters: &Subscription) -> Duration {
        // Nothing was sent yet to a client that came back with all clusters.
        clusters.sent_at.max(self.warmed_at).max(self.opened.unwrap_or(self.polled))
    }

    /// Has the client taken all listeners and routes? Those it refused may refer to old clusters, and so may
    /// those that a client that came back has not mentioned yet.
    fn references_settled(&self, now: Duration) -> bool {
        let settled = |k: &Kind| match self.subs.get(k) {
            Some(sub) => !sub.is_refused() && sub.is_settled(self.protocol),
            None => self.is_introduced(now) || matches!(k, Kind::ScopedRoute | Kind::VirtualHost),
        };
        [Kind::Listener, Kind::Route, Kind::ScopedRoute, Kind::VirtualHost].iter().all(settled)
    }

    /// A client that came back has had the time to name all that it has.
    fn is_introduced(&self, now: Duration) -> bool {
        !self.resumed || self.opened.is_some_and(|at| now >= at + WARMING_MAX)
    }

    /// When to poll again although nothing happens: the end of the wait for warming clusters, or for what a
    /// client that came back may still have to say. `None`: only an event can change anything.
    pub fn deadline(&self) -> Option<Duration> {
        let introduced = self.opened.filter(|_| self.resumed);
        let clusters = self.subs.get(&Kind::Cluster);
        let waits = |c: &&Subscription| !c.in_flight.is_empty() || !self.warming.is_empty();
        let warm = clusters.filter(waits).map(|c| self.waiting_since(c));
        let overdue = clusters.and_then(|c| Some(c.unanswered_since()?.max(c.sent_at)));
        let times = [introduced, warm, overdue].into_iter().flatten().map(|at| at + WARMING_MAX);
        times.filter(|at| *at > self.polled).min()
    }

    /// Has the client confirmed everything there is?
    pub fn is_converged(&self) -> bool {
        self.subs.values().all(|s| s.is_settled(self.protocol))
    }

    /// Does the client refuse the last response of any type?
    pub fn nacked(&self) -> impl Iterator<Item = (Kind, &str)> {
        let refused = self.subs.values().filter(|s| s.is_refused());
        refused.filter_map(|s| Some((s.kind, s.nack.as_deref()?)))
    }

    /// The record of every type asked for, in push order.
    pub fn status(&self) -> Vec<TypeStatus> {
        self.subs.values().map(|s| s.status(self.protocol)).collect()
    }

    /// What the client was last sent of a type, for debugging: all of it, names it wants only.
    pub fn sent(&self, kind: Kind) -> Vec<Arc<Resource>> {
        let Some(sub) = self.subs.get(&kind) else {
            return Vec::new();
        };
        sub.base.iter().filter(|r| sub.wants(&r.name)).cloned().collect()
    }
}

fn parse_kind(type_url: &str) -> Result<Kind, Refused> {
    Kind::from_type_url(type_url).ok_or_else(|| Refused::UnknownType(type_url.chars().take(256).collect()))
}
