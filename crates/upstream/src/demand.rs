//! What do requests and connections wait for that only the control plane can tell? Questions of workers to the config
//! thread, and its answers. Nobody comes here who finds what it needs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proxy_config::Name;
use proxy_config::common::ConfigSource;
use tokio::sync::{Notify, oneshot};

/// Requests and connections that wait at the same time, over all workers. Those beyond go on without what they lack.
pub const WAITING_MAX: usize = 16_384;

/// Something that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wish {
    /// A cluster (ODCDS).
    Cluster {
        /// Whom to ask.
        source: ConfigSource,
        /// Its name.
        name: Name,
    },
    /// A virtual host of a route configuration (VHDS).
    VirtualHost {
        /// The route configuration.
        table: Name,
        /// The authority of a request, in lower case.
        host: Box<str>,
    },
}

/// Who waits for what.
#[derive(Debug, Default)]
pub struct Demand {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: HashMap<Wish, Vec<oneshot::Sender<bool>>>,
    /// How many wait, those that have gone since included.
    count: usize,
    /// Not seen by the config thread yet.
    new: Vec<Wish>,
}

impl State {
    fn answer(&mut self, wish: &Wish, there: bool) {
        let Some(who) = self.waiting.remove(wish) else { return };
        self.count = self.count.saturating_sub(who.len());
        for one in who {
            // It may have gone meanwhile.
            let _ = one.send(there);
        }
    }

    /// Forgets those that wait no more.
    fn sweep(&mut self) {
        self.waiting.retain(|_, who| {
            who.retain(|w| !w.is_closed());
            !who.is_empty()
        });
        self.count = self.waiting.values().map(Vec::len).sum();
    }
}

impl Demand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks. What comes back tells whether it is there now, once that is known; dropping it is giving up.
    /// `None`: too many wait already.
    pub fn ask(&self, wish: Wish) -> Option<oneshot::Receiver<bool>> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.state();
        if state.count >= WAITING_MAX {
            state.sweep();
            if state.count >= WAITING_MAX {
                return None;
            }
        }
        state.count += 1;
        match state.waiting.get_mut(&wish) {
            Some(others) => others.push(answer),
            None => {
                state.waiting.insert(wish.clone(), vec![answer]);
                state.new.push(wish);
                self.asked.notify_one();
            }
        }
        Some(answered)
    }

    /// Resolves when there may be something in [`Demand::take`].
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// What was asked for since the last call.
    pub fn take(&self) -> Vec<Wish> {
        std::mem::take(&mut self.state().new)
    }

    /// Lets everybody go on who waits for this.
    pub fn answer(&self, wish: &Wish, there: bool) {
        self.state().answer(wish, there);
    }

    /// The same for all wishes that `which` selects.
    pub fn answer_where(&self, there: bool, which: impl Fn(&Wish) -> bool) {
        let mut state = self.state();
        let wishes: Vec<Wish> = state.waiting.keys().filter(|w| which(w)).cloned().collect();
        wishes.iter().for_each(|wish| state.answer(wish, there));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: usize) -> Wish {
        Wish::VirtualHost { table: "80".into(), host: n.to_string().into() }
    }

    #[test]
    fn asked_once_answered_to_all() {
        let demand = Demand::default();
        let (a, b) = (demand.ask(host(1)).expect("room"), demand.ask(host(1)).expect("room"));
        let other = demand.ask(host(2)).expect("room");
        assert_eq!(demand.take(), [host(1), host(2)]);
        demand.answer(&host(1), true);
        assert_eq!((a.blocking_recv(), b.blocking_recv()), (Ok(true), Ok(true)));
        demand.answer(&host(2), false);
        assert_eq!(other.blocking_recv(), Ok(false));
        assert!(demand.take().is_empty());
        let _again = demand.ask(host(1));
        assert_eq!(demand.take(), [host(1)], "answered before, asked anew");
    }

    #[test]
    fn only_those_who_still_wait_count() {
        let demand = Demand::default();
        let mut waiting: Vec<_> = (0..WAITING_MAX).map(|n| demand.ask(host(n)).expect("room")).collect();
        assert!(demand.ask(host(0)).is_none(), "full");
        waiting.pop();
        assert!(demand.ask(host(0)).is_some(), "one has gone");
    }
}
