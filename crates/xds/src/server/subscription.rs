//! What does a client want of one type, what has it got, and what is therefore still to be sent?

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::resource::{Changes, Resource, ResourceSet, version_string};
use super::{Kind, Protocol, Refused, SyncState, TypeStatus, Value};

/// Most names one client may ask for one by one, per type: a mesh of 100,000 clusters.
pub const NAMES_MAX: usize = 100_000;
/// The name that stands for everything.
pub const WILDCARD: &str = "*";

/// Responses of one type that may wait for their answer at the same time. Only clusters have more than one, see
/// [`Stream`](super::Stream); beyond this the oldest two count as one.
pub const UNANSWERED_MAX: usize = 4;

/// A response the client has not answered yet.
#[derive(Debug)]
pub(super) struct InFlight {
    pub nonce: String,
    pub sent_at: Duration,
    /// Names in it, to know which warming clusters have got their endpoints.
    pub names: Vec<Arc<str>>,
    /// It lists everything.
    pub full: bool,
}

/// One type on one stream.
///
/// The client has `base ∩ wanted`, except for `forced` names.
#[derive(Debug)]
pub(super) struct Subscription {
    pub kind: Kind,
    pub wildcard: bool,
    /// Names asked for one by one; one allocation with those of other clients that ask for the same.
    pub names: Arc<BTreeSet<Arc<str>>>,
    /// Counts changes of `names` and `wildcard`.
    pub asked: u64,
    /// `asked` when `names` were last compared with those of other clients.
    compared: u64,
    pub target: Option<Arc<ResourceSet>>,
    /// The target is out of date: the world or the subscription changed.
    pub stale: bool,
    pub base: Arc<ResourceSet>,
    /// The client starts from nothing and waits for an answer, even an empty one.
    pub fresh: bool,
    /// Names to send whatever the client has: newly subscribed, or endpoints of a changed cluster.
    pub forced: BTreeSet<Arc<str>>,
    /// Unanswered responses, oldest first.
    pub in_flight: VecDeque<InFlight>,
    pub sent_at: Duration,
    pub nack: Option<String>,
    /// Names in refused responses that were not in an accepted one since.
    refused: BTreeSet<Arc<str>>,
    nonce_sent: String,
    nonce_acked: String,
    version: String,
    acks: u64,
    nacks: u64,
    expired_nonces: u64,
}

impl Subscription {
    pub fn new(kind: Kind) -> Self {
        Subscription {
            kind,
            wildcard: false,
            names: Arc::default(),
            asked: 0,
            compared: 0,
            target: None,
            stale: true,
            base: Arc::default(),
            fresh: true,
            forced: BTreeSet::new(),
            in_flight: VecDeque::new(),
            sent_at: Duration::ZERO,
            nack: None,
            refused: BTreeSet::new(),
            nonce_sent: String::new(),
            nonce_acked: String::new(),
            version: String::new(),
            acks: 0,
            nacks: 0,
            expired_nonces: 0,
        }
    }

    /// A delta client has these versions already, from an earlier stream.
    ///
    /// Their contents are unknown and never sent, only compared; a version that is not ours differs from all.
    pub fn resume_versions(&mut self, had: &BTreeMap<String, String>) -> Result<(), Refused> {
        if had.len() > NAMES_MAX {
            return Err(Refused::TooManyNames { kind: self.kind });
        }
        self.fresh = had.is_empty();
        let placeholder = |(name, version): (&String, &String)| {
            let version = u64::from_str_radix(version, 16).ok().filter(|v| version_string(*v) == *version);
            Arc::new(Resource { name: name.as_str().into(), version: version.unwrap_or(0), value: Value::default() })
        };
        self.base = Arc::new(had.iter().map(placeholder).collect());
        Ok(())
    }

    /// The version of what the client has: exact where it is compared (state of the world), and of the shared set where
    /// it only informs.
    pub fn version_of(&self, set: &ResourceSet, protocol: Protocol) -> u64 {
        if self.wildcard || protocol == Protocol::Delta { set.version() } else { set.version_of(|n| self.wants(n)) }
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// The client does not have this, or just asked for it.
    pub fn is_new(&self, name: &str) -> bool {
        self.base.get(name).is_none() || self.forced.contains(name)
    }

    /// Adds a name; a name asked for again is sent again. `known`: a set that may hold the name already, to share it:
    /// a thousand proxies ask for the same thousand clusters.
    pub fn subscribe(&mut self, name: &str, known: Option<&ResourceSet>) -> Result<(), Refused> {
        self.stale = true;
        self.asked += 1;
        if name == WILDCARD {
            self.wildcard = true;
            return Ok(());
        }
        if self.names.len() >= NAMES_MAX && !self.names.contains(name) {
            return Err(Refused::TooManyNames { kind: self.kind });
        }
        let shared = known.and_then(|k| k.get(name)).or_else(|| self.base.get(name));
        let name: Arc<str> = match shared {
            Some(resource) => Arc::clone(&resource.name),
            None => name.into(),
        };
        Arc::make_mut(&mut self.names).insert(Arc::clone(&name));
        self.forced.insert(name);
        Ok(())
    }

    pub fn unsubscribe(&mut self, name: &str) {
        self.stale = true;
        self.asked += 1;
        if name == WILDCARD {
            self.wildcard = false;
        }
        Arc::make_mut(&mut self.names).remove(name);
        self.forced.remove(name);
    }

    /// Gives the set the client should have. It may hold more than was asked for.
    pub fn set_target(&mut self, target: Arc<ResourceSet>) {
        if self.compared != self.asked {
            self.names = target.names_shared(&self.names);
            self.compared = self.asked;
        }
        self.target = Some(target);
        self.stale = false;
    }

    /// Takes a client's answer; returns the response it is for. Older ones it did not answer are forgotten with it: a
    /// client answers in order, or only the latest.
    pub fn answer(&mut self, nonce: &str, error: Option<&str>) -> Option<InFlight> {
        let Some(at) = self.in_flight.iter().position(|f| f.nonce == nonce) else {
            // Answering the last response twice is harmless; anything else is out of date.
            if nonce != self.nonce_sent {
                self.expired_nonces += 1;
            }
            return None;
        };
        let answered = self.in_flight.drain(..=at).next_back()?;
        match error {
            Some(reason) => {
                self.nacks += 1;
                self.nack = Some(reason.to_owned());
                // A client takes the good resources of a refused response. Envoy and our proxy name the bad ones.
                let named = |n: &&Arc<str>| reason.contains(&***n);
                let all = !answered.names.iter().any(|n| named(&n));
                self.refused.extend(answered.names.iter().filter(|n| all || named(n)).cloned());
            }
            None => {
                self.acks += 1;
                self.nonce_acked = nonce.to_owned();
                if answered.full {
                    self.refused.clear();
                }
                for name in &answered.names {
                    self.refused.remove(name);
                }
                if self.refused.is_empty() {
                    self.nack = None;
                }
            }
        }
        Some(answered)
    }

    /// The client holds on to an older version of something it still wants and that still exists.
    pub fn is_refused(&self) -> bool {
        self.refused.iter().any(|n| self.wants(n) && self.base.get(n).is_some())
    }

    pub fn is_latest(&self, nonce: &str) -> bool {
        self.nonce_sent == nonce
    }

    /// What the client lacks. `None`: nothing to say. An empty change is said once, to a client that
    /// starts from nothing, because it waits for an answer.
    pub fn pending(&self, protocol: Protocol) -> Option<Changes> {
        let target = self.target.as_ref().filter(|_| !self.stale)?;
        if Arc::ptr_eq(target, &self.base) && self.forced.is_empty() && !self.fresh {
            return None;
        }
        let all = target.shared_changes_since(&self.base);
        let wanted = |n: &str| self.wants(n) && !self.forced.contains(n);
        let mut changes = Changes {
            changed: all.changed.iter().filter(|r| wanted(&r.name)).cloned().collect(),
            removed: all.removed.iter().filter(|n| wanted(n)).cloned().collect(),
        };
        for name in &self.forced {
            match target.get(name) {
                Some(resource) => changes.changed.push(Arc::clone(resource)),
                None => changes.removed.push(Arc::clone(name)),
            }
        }
        if protocol == Protocol::Sotw && !self.kind.is_full_state() {
            // Absence cannot be said, and a client asking for what does not exist is left waiting.
            changes.removed.clear();
        }
        let answer = self.fresh && (protocol == Protocol::Delta || self.wildcard);
        (answer || !changes.changed.is_empty() || !changes.removed.is_empty()).then_some(changes)
    }

    /// The client has all of the target, or will once it answers.
    pub fn settle(&mut self, base: Arc<ResourceSet>) {
        self.base = base;
        self.fresh = false;
        self.forced.clear();
    }

    pub fn sent(&mut self, nonce: String, version: String, names: Vec<Arc<str>>, full: bool, now: Duration) {
        self.nonce_sent.clone_from(&nonce);
        self.version = version;
        self.sent_at = now;
        if self.in_flight.len() >= UNANSWERED_MAX
            && let Some(oldest) = self.in_flight.pop_front()
            && let Some(next) = self.in_flight.front_mut()
        {
            next.sent_at = oldest.sent_at;
            next.names.extend(oldest.names);
            next.names.sort();
            next.names.dedup();
        }
        self.in_flight.push_back(InFlight { nonce, sent_at: now, names, full });
    }

    /// Since when the client owes an answer.
    pub fn unanswered_since(&self) -> Option<Duration> {
        self.in_flight.front().map(|f| f.sent_at)
    }

    /// Everything known has been sent and answered.
    pub fn is_settled(&self, protocol: Protocol) -> bool {
        !self.stale && self.in_flight.is_empty() && self.pending(protocol).is_none()
    }

    /// Resources of `base` that were asked for by name; both are in the order of names.
    fn count(&self) -> usize {
        let mut names = self.names.iter().peekable();
        let asked = |r: &&Arc<Resource>| {
            while names.next_if(|n| **n < r.name).is_some() {}
            names.peek().is_some_and(|n| **n == r.name)
        };
        self.base.iter().filter(asked).count()
    }

    pub fn status(&self, protocol: Protocol) -> TypeStatus {
        let state = if self.is_refused() {
            SyncState::Error
        } else if self.nonce_sent.is_empty() && self.base.is_empty() {
            SyncState::NotSent
        } else if self.is_settled(protocol) {
            SyncState::Synced
        } else {
            SyncState::Stale
        };
        TypeStatus {
            kind: self.kind,
            state,
            wildcard: self.wildcard,
            names: self.names.iter().cloned().collect(),
            nonce_sent: self.nonce_sent.clone(),
            nonce_acked: self.nonce_acked.clone(),
            version: self.version.clone(),
            nack: self.nack.clone().filter(|_| self.is_refused()),
            acks: self.acks,
            nacks: self.nacks,
            expired_nonces: self.expired_nonces,
            resources: if self.wildcard { self.base.len() } else { self.count() },
        }
    }
}
