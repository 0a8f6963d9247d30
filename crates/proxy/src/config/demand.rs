//! What do requests ask for, and what became of it? Names of clusters and virtual hosts that are subscribed to one by
//! one, and what the server said of each. Pure bookkeeping: `Config` feeds it and tells those who wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proxy_config::common::ConfigSource;

use super::sds::Source;

/// Most names that stay subscribed, per route configuration or source of clusters; the oldest is given up for a new one.
pub const NAMES_MAX: usize = 10_000;
/// Of these, how many the server does not know. Anybody can send requests for hosts that do not exist.
pub const UNKNOWN_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    There,
    Unknown,
}

/// Names asked for at run time. All of them stay subscribed, so that the server tells when one comes or goes.
#[derive(Debug, Default)]
pub struct Names {
    /// With the number of the first request for each.
    states: BTreeMap<Arc<str>, (State, u64)>,
    /// Those in each state by that number: the oldest is found at once.
    asked: BTreeMap<u64, Arc<str>>,
    there: BTreeMap<u64, Arc<str>>,
    unknown: BTreeMap<u64, Arc<str>>,
    next: u64,
    given_up: Vec<String>,
}

impl Names {
    /// Somebody needs a name: whether it is there, if that is known. Asked for from now on.
    pub fn ask(&mut self, name: &str) -> Option<bool> {
        match self.states.get(name) {
            Some((State::Asked, _)) => None,
            Some((state, _)) => Some(*state == State::There),
            None => {
                if self.states.len() >= NAMES_MAX {
                    let first = |of: &BTreeMap<u64, Arc<str>>| of.first_key_value().map_or(u64::MAX, |(n, _)| *n);
                    let there = first(&self.there) < first(&self.unknown);
                    self.give_up(if there { State::There } else { State::Unknown });
                }
                let name: Arc<str> = name.into();
                self.next += 1;
                self.states.insert(name.clone(), (State::Asked, self.next));
                self.asked.insert(self.next, name);
                None
            }
        }
    }

    /// The server said whether a name is there. False: nobody asked for it.
    pub fn learn(&mut self, name: &str, there: bool) -> bool {
        let now = if there { State::There } else { State::Unknown };
        let Some((state, number)) = self.states.get_mut(name) else { return false };
        let (before, number) = (std::mem::replace(state, now), *number);
        if let Some(name) = self.of(before).remove(&number) {
            self.of(now).insert(number, name);
        }
        if self.unknown.len() > UNKNOWN_MAX {
            self.give_up(State::Unknown);
        }
        true
    }

    fn of(&mut self, state: State) -> &mut BTreeMap<u64, Arc<str>> {
        match state {
            State::Asked => &mut self.asked,
            State::There => &mut self.there,
            State::Unknown => &mut self.unknown,
        }
    }

    /// Gives up the name in that state that was asked for first.
    fn give_up(&mut self, state: State) {
        if let Some((_, name)) = self.of(state).pop_first() {
            self.states.remove(&name);
            self.given_up.push(name.to_string());
        }
    }

    /// Names that are not subscribed to any more, since the last call.
    pub fn given_up(&mut self) -> Vec<String> {
        std::mem::take(&mut self.given_up)
    }

    /// All names that are subscribed to.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.states.keys().map(|n| &**n)
    }

    /// Names that the server has.
    pub fn there(&self) -> impl Iterator<Item = &str> {
        self.there.values().map(|n| &**n)
    }

    /// Names without an answer.
    pub fn asked(&self) -> Vec<String> {
        self.asked.values().map(|n| n.to_string()).collect()
    }
}

/// Clusters that were asked for (ODCDS), by who is asked.
#[derive(Debug, Default)]
pub struct Clusters(BTreeMap<Source, Names>);

impl Clusters {
    /// Somebody needs a cluster.
    pub fn ask(&mut self, source: &ConfigSource, name: &str) -> Option<bool> {
        let names = self.0.entry(Source::of(source)).or_default();
        let known = names.ask(name);
        // A cluster stays until the server takes it away, as in Envoy.
        names.given_up();
        known
    }

    /// The cluster is there, or is not.
    pub fn learn(&mut self, name: &str, there: bool) {
        for names in self.0.values_mut() {
            names.learn(name, there);
        }
    }

    /// Clusters without an answer.
    pub fn asked(&self) -> BTreeSet<String> {
        self.0.values().flat_map(Names::asked).collect()
    }

    /// Names to subscribe to.
    pub fn wanted(&self) -> BTreeMap<Source, BTreeSet<String>> {
        self.0.iter().map(|(s, n)| (s.clone(), n.all().map(str::to_owned).collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_answered_and_remembered() {
        let mut names = Names::default();
        assert_eq!((names.ask("a"), names.ask("a"), names.ask("b")), (None, None, None));
        assert!(names.learn("a", true) && names.learn("b", false) && !names.learn("c", true));
        assert_eq!((names.ask("a"), names.ask("b")), (Some(true), Some(false)));
        // The server changes its mind.
        assert!(names.learn("b", true) && names.learn("a", false));
        assert_eq!((names.ask("a"), names.ask("b")), (Some(false), Some(true)));
        assert_eq!(names.there().collect::<Vec<_>>(), ["b"]);
        assert_eq!(names.asked(), Vec::<String>::new());
    }

    #[test]
    fn unknown_names_do_not_pile_up() {
        let mut names = Names::default();
        names.ask("good");
        names.learn("good", true);
        assert!(names.given_up().is_empty());
        for n in 0..2 * UNKNOWN_MAX {
            names.ask(&n.to_string());
            names.learn(&n.to_string(), false);
        }
        assert_eq!(names.all().count(), UNKNOWN_MAX + 1);
        assert_eq!(names.given_up().len(), UNKNOWN_MAX);
        assert_eq!((names.ask("good"), names.ask("0")), (Some(true), None), "the oldest unknown was forgotten");
        for n in 0..2 * NAMES_MAX {
            names.ask(&format!("n{n}"));
            names.learn(&format!("n{n}"), true);
        }
        assert_eq!(names.all().count(), NAMES_MAX);
        assert_eq!(names.there.len() + names.unknown.len() + names.asked.len(), NAMES_MAX);
    }
}
