//! One scope of stats: who writes, who reads, what is remembered.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::cells::{Cells, Shared, code_key, entry, look};
use super::histogram::Bins;
use super::schema::{Code, Counter, Gauge, Histogram, Schema, SchemaDef, Text};

thread_local! {
    static WORKER: Cell<u32> = const { Cell::new(0) };
}

/// Declares the calling thread to be worker `index` (from 0). Every block of a store made for more than `index` workers then gives
/// it cells of its own. At most one thread may hold an index at a time within the blocks that it touches.
pub fn set_worker(index: usize) {
    WORKER.set(index as u32 + 1);
}

/// The calling thread's worker index, if it is a worker.
pub fn worker() -> Option<usize> {
    (WORKER.get() as usize).checked_sub(1)
}

/// One kind of number inside a block, as readers address it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Text,
    Code,
}

/// The untyped block.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) def: &'static SchemaDef,
    pub(crate) prefix: Box<str>,
    /// Tags given by the creator; such a block's prefix is a metric name and its names are not searched for tags.
    pub(crate) tags: Box<[(Box<str>, Box<str>)]>,
    /// The tags as the full name has them after the stat's own, `.reporter.source`; parts that are empty leave no trace, as in Envoy.
    pub(crate) suffix: Box<str>,
    workers: Box<[OnceLock<Box<Cells>>]>,
    shared: Mutex<Option<Box<Shared>>>,
}

impl Core {
    pub(crate) fn new(
        def: &'static SchemaDef,
        prefix: &str,
        tags: Box<[(Box<str>, Box<str>)]>,
        workers: usize,
    ) -> Self {
        Self {
            def,
            prefix: prefix.into(),
            suffix: tags
                .iter()
                .flat_map(|(k, v)| [&**k, &**v])
                .filter(|p| !p.is_empty())
                .flat_map(|p| [".", p])
                .collect(),
            tags,
            workers: (0..workers).map(|_| OnceLock::new()).collect(),
            shared: Mutex::new(None),
        }
    }

    /// The cells of the calling thread if it is a worker.
    #[inline]
    fn cells(&self) -> Option<&Cells> {
        let slot = self.workers.get((WORKER.get() as usize).wrapping_sub(1))?;
        Some(slot.get_or_init(|| Cells::new(self.def)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<Shared>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    fn shared<R>(&self, act: impl FnOnce(&mut Shared) -> R) -> R {
        act(self.lock().get_or_insert_default())
    }

    fn peek<R>(&self, read: impl FnOnce(&Shared) -> Option<R>) -> Option<R> {
        self.lock().as_deref().and_then(read)
    }

    fn each(&self) -> impl Iterator<Item = &Cells> {
        self.workers.iter().filter_map(OnceLock::get).map(|c| &**c)
    }

    fn raw_counter(&self, id: u16) -> u64 {
        let own: u64 = self.each().map(|c| c.read_counter(id)).sum();
        own + self.peek(|s| s.counter(id)).unwrap_or(0)
    }

    pub(crate) fn read_counter(&self, id: u16) -> u64 {
        self.raw_counter(id).saturating_sub(self.peek(|s| look(&s.more()?.base, id).copied()).unwrap_or(0))
    }

    pub(crate) fn read_gauge(&self, id: u16) -> u64 {
        let own = self.each().map(|c| c.read_gauge(id)).fold(0u64, |sum, (a, s)| sum.wrapping_add(a).wrapping_sub(s));
        let shared = self.peek(|s| s.gauge(id)).unwrap_or(0);
        // A reader can catch a decrement on one worker before the increment on another: never print 2^64 - 1.
        (own.wrapping_add(shared) as i64).max(0) as u64
    }

    pub(crate) fn read_histogram(&self, id: u16) -> Bins {
        let mut all = self.peek(|s| look(&s.more()?.histograms, id).cloned()).unwrap_or_default();
        self.each().for_each(|c| c.read_histogram(id, &mut all));
        all
    }

    /// What came in during the last whole flush interval.
    pub(crate) fn read_interval(&self, id: u16) -> Bins {
        self.peek(|s| s.more()?.flushed.iter().find(|f| f.0 == id).map(|f| f.2.clone())).unwrap_or_default()
    }

    pub(crate) fn read_text(&self, id: u16) -> Option<Box<str>> {
        self.peek(|s| look(&s.more()?.texts, id).cloned())
    }

    /// (key, count) of every status code seen, sorted; key as in `code_key`.
    pub(crate) fn read_codes(&self) -> Vec<(u16, u64)> {
        let mut all = Vec::new();
        for cells in self.each() {
            cells.read_codes(|key, n| *entry(&mut all, key) += n);
        }
        if let Some(shared) = self.lock().as_deref().and_then(Shared::more) {
            shared.codes.iter().for_each(|&(key, n)| *entry(&mut all, key) += n);
            shared.code_base.iter().for_each(|&(key, n)| {
                let now: &mut u64 = entry(&mut all, key);
                *now = now.saturating_sub(n);
            });
        }
        all
    }

    pub(crate) fn used(&self, kind: Kind, id: u16) -> bool {
        match kind {
            Kind::Counter => self.raw_counter(id) != 0,
            Kind::Gauge => self.each().any(|c| c.read_gauge(id).0 != 0) || self.peek(|s| s.gauge(id)).is_some(),
            Kind::Histogram => !self.read_histogram(id).is_empty(),
            Kind::Text => self.read_text(id).is_some_and(|t| !t.is_empty()),
            Kind::Code => true,
        }
    }

    /// Counters start again from zero; nothing else changes.
    pub(crate) fn reset_counters(&self) {
        let now: Vec<(u16, u64)> =
            (0..self.def.counters.len() as u16).map(|id| (id, self.raw_counter(id))).filter(|c| c.1 != 0).collect();
        let codes = self.read_codes();
        if now.is_empty() && codes.is_empty() {
            return;
        }
        self.shared(|s| {
            let s = s.more_mut();
            s.base = now;
            codes.into_iter().for_each(|(key, n)| *entry(&mut s.code_base, key) += n);
        });
    }

    /// Closes the histogram interval.
    pub(crate) fn flush(&self) {
        for id in 0..self.def.histograms.len() as u16 {
            let now = self.read_histogram(id);
            if now.is_empty() {
                continue;
            }
            self.shared(|s| {
                let flushed = &mut s.more_mut().flushed;
                match flushed.iter_mut().find(|f| f.0 == id) {
                    Some(f) => {
                        f.2 = now.since(&f.1);
                        f.1 = now;
                    }
                    None => flushed.push((id, now.clone(), now)),
                }
            });
        }
    }
}

fn add(gauge: &mut u64, n: u64) {
    *gauge = gauge.wrapping_add(n);
}

/// A handle on one scope of stats of table `S`; clones write to the same numbers.
#[derive(Debug)]
pub struct Block<S>(pub(crate) Arc<Core>, PhantomData<fn() -> S>);

impl<S> Clone for Block<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<S: Schema> Block<S> {
    pub(crate) fn of(core: Arc<Core>) -> Self {
        Self(core, PhantomData)
    }

    /// A block that no store prints, for tests and for parts that run without a server.
    pub fn detached() -> Self {
        Self::of(Arc::new(Core::new(S::DEF, "", Box::default(), 1)))
    }

    /// Counts one event.
    #[inline]
    pub fn inc(&self, counter: Counter<S>) {
        self.add(counter, 1);
    }

    /// Counts `n` events.
    #[inline]
    pub fn add(&self, counter: Counter<S>, n: u64) {
        match self.0.cells() {
            Some(cells) => cells.add(counter.0, n),
            None => self.0.shared(|s| *s.counter_mut(counter.0) += n),
        }
    }

    /// Raises a gauge.
    #[inline]
    pub fn gauge_add(&self, gauge: Gauge<S>, n: u64) {
        match self.0.cells() {
            Some(cells) => cells.gauge(gauge.0, n, false),
            None => self.0.shared(|s| add(s.gauge_mut(gauge.0), n)),
        }
    }

    /// Lowers a gauge; any thread may lower what another raised.
    #[inline]
    pub fn gauge_sub(&self, gauge: Gauge<S>, n: u64) {
        match self.0.cells() {
            Some(cells) => cells.gauge(gauge.0, n, true),
            None => self.0.shared(|s| add(s.gauge_mut(gauge.0), n.wrapping_neg())),
        }
    }

    /// Sets a gauge. A gauge is either set or added to, never both.
    pub fn gauge_set(&self, gauge: Gauge<S>, value: u64) {
        self.0.shared(|s| *s.gauge_mut(gauge.0) = value);
    }

    /// Records a value into a histogram.
    #[inline]
    pub fn record(&self, histogram: Histogram<S>, value: u64) {
        match self.0.cells() {
            Some(cells) => cells.record(histogram.0, value),
            None => self.0.shared(|s| entry(&mut s.more_mut().histograms, histogram.0).record(value)),
        }
    }

    /// Counts one response of HTTP status `code` in a per-status family.
    #[inline]
    pub fn code(&self, family: Code<S>, code: u16) {
        if !self.0.cells().is_some_and(|cells| cells.code(family.0, code)) {
            self.0.shared(|s| *entry(&mut s.more_mut().codes, code_key(family.0, code)) += 1);
        }
    }

    /// Sets a text readout.
    pub fn text_set(&self, text: Text<S>, value: &str) {
        self.0.shared(|s| *entry(&mut s.more_mut().texts, text.0) = value.into());
    }

    /// Current value of a counter.
    pub fn counter(&self, counter: Counter<S>) -> u64 {
        self.0.read_counter(counter.0)
    }

    /// Current value of a gauge.
    pub fn gauge(&self, gauge: Gauge<S>) -> u64 {
        self.0.read_gauge(gauge.0)
    }

    /// Everything recorded into a histogram.
    pub fn histogram(&self, histogram: Histogram<S>) -> Bins {
        self.0.read_histogram(histogram.0)
    }

    /// The scope's prefix, with its final dot.
    pub fn prefix(&self) -> &str {
        &self.0.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(dead_code)]
    mod t {
        crate::stat_schema! { T;
            counters { A = "a", B = "b" } gauges { G = "g" } histograms { H = "h" ms } texts { X = "x" } codes { C = "rq_" }
        }
    }

    #[test]
    fn workers_and_others_add_up() {
        let core = Arc::new(Core::new(t::T::DEF, "p.", Box::default(), 2));
        let block = Block::<t::T>::of(core);
        std::thread::scope(|s| {
            for w in [0usize, 1, 7] {
                let block = block.clone();
                s.spawn(move || {
                    set_worker(w);
                    for _ in 0..100 {
                        block.inc(t::A);
                    }
                    block.gauge_add(t::G, 5);
                    block.gauge_sub(t::G, 2);
                    block.record(t::H, 10);
                    block.code(t::C, 200);
                    for code in 300..340 {
                        block.code(t::C, code);
                    }
                });
            }
        });
        block.inc(t::A);
        assert_eq!((block.counter(t::A), block.counter(t::B), block.gauge(t::G)), (301, 0, 9));
        assert_eq!(block.histogram(t::H).count(), 3);
        let codes = block.0.read_codes();
        assert_eq!((codes.len(), codes[0]), (41, (200, 3)));
        assert!(block.0.used(Kind::Gauge, 0) && !block.0.used(Kind::Counter, 1));
    }

    #[test]
    fn reset_keeps_used_and_counts_on() {
        let block = Block::<t::T>::detached();
        block.add(t::A, 5);
        block.code(t::C, 503);
        block.0.reset_counters();
        assert_eq!((block.counter(t::A), block.0.read_codes()), (0, vec![(503, 0)]));
        assert!(block.0.used(Kind::Counter, 0));
        block.inc(t::A);
        block.code(t::C, 503);
        block.0.reset_counters();
        block.code(t::C, 503);
        assert_eq!((block.counter(t::A), block.0.read_codes()), (0, vec![(503, 1)]));
    }

    #[test]
    fn interval_is_what_came_between_flushes() {
        let block = Block::<t::T>::detached();
        block.record(t::H, 1);
        block.0.flush();
        block.record(t::H, 2);
        block.0.flush();
        assert_eq!(block.0.read_interval(0).count(), 1);
        block.0.flush();
        assert!(block.0.read_interval(0).is_empty());
    }
}
