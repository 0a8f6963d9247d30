//! When does a connection's next deadline fall due?
//!
//! One queue per worker and one tokio timer behind it. A connection owns one [`Timer`]; moving its
//! deadline later only writes a number, so a keep-alive connection with a 15 s route timeout costs
//! one queue operation per 15 s, not one per request. Resolution is a millisecond.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

const NEVER: u64 = u64::MAX;

/// The deadline queue of a worker.
pub struct Timers {
    epoch: Instant,
    clock: Cell<Clock>,
    inner: RefCell<Inner>,
}

/// What a look at the clock yields. Within one poll of a connection's task it is read at most once: such a poll takes
/// microseconds, and what is measured is told in milliseconds.
#[derive(Clone, Copy)]
enum Clock {
    /// Read the system's.
    System,
    /// A poll began and has not looked yet.
    Unread,
    /// This poll's time.
    Read(Instant),
}

#[derive(Default)]
struct Inner {
    heap: BinaryHeap<Reverse<(u64, u32, u32)>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// When the driver wakes by itself.
    driver_at: u64,
    driver: Option<Waker>,
}

struct Slot {
    deadline: u64,
    queued: u64,
    generation: u32,
    waker: Option<Waker>,
}

impl Timers {
    /// An empty queue; [`Timers::run`] must be spawned once for it.
    pub fn new() -> Rc<Self> {
        let inner = Inner { driver_at: NEVER, ..Inner::default() };
        Rc::new(Timers { epoch: Instant::now(), clock: Cell::new(Clock::System), inner: RefCell::new(inner) })
    }

    /// Milliseconds since this queue was made.
    #[inline]
    pub fn now(&self) -> u64 {
        self.at(self.instant())
    }

    /// The time; within [`Timers::polling`] that of the poll's first look.
    #[inline]
    pub fn instant(&self) -> Instant {
        match self.clock.get() {
            Clock::Read(at) => at,
            Clock::Unread => {
                let at = Instant::now();
                self.clock.set(Clock::Read(at));
                at
            }
            Clock::System => Instant::now(),
        }
    }

    /// Runs a future whose every poll looks at the clock at most once.
    pub fn polling<'a, F: Future>(&'a self, mut future: Pin<&'a mut F>) -> impl Future<Output = F::Output> {
        std::future::poll_fn(move |cx| {
            self.clock.set(Clock::Unread);
            let polled = future.as_mut().poll(cx);
            self.clock.set(Clock::System);
            polled
        })
    }

    /// The same for a given instant.
    #[inline]
    pub fn at(&self, t: Instant) -> u64 {
        t.saturating_duration_since(self.epoch).as_millis() as u64
    }

    /// A new timer, not armed.
    pub fn timer(self: &Rc<Self>) -> Timer {
        let mut inner = self.inner.borrow_mut();
        let id = inner.free.pop().unwrap_or_else(|| {
            inner.slots.push(Slot { deadline: NEVER, queued: NEVER, generation: 0, waker: None });
            inner.slots.len() as u32 - 1
        });
        Timer { timers: self.clone(), id }
    }

    /// Sleeps for `duration`; for slow paths (fault delay, retry back-off).
    pub async fn sleep(self: &Rc<Self>, duration: Duration) {
        // Round up so that a sleep is never shorter than asked for.
        let until = self.at(Instant::now()) + duration.as_micros().div_ceil(1000) as u64;
        let timer = self.timer();
        std::future::poll_fn(|cx| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            timer.arm(until, cx.waker());
            Poll::Pending
        })
        .await
    }

    /// Wakes what is due, for ever.
    pub async fn run(self: Rc<Self>) {
        let mut sleep: Option<std::pin::Pin<Box<tokio::time::Sleep>>> = None;
        std::future::poll_fn(|cx| {
            loop {
                let next = self.fire(self.now());
                if next == NEVER {
                    sleep = None;
                    self.park(NEVER, cx.waker());
                    return Poll::<()>::Pending;
                }
                let at = self.epoch + Duration::from_millis(next);
                let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                self.park(next, cx.waker());
                if std::future::Future::poll(sleep.as_mut(), cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    fn park(&self, at: u64, waker: &Waker) {
        let mut inner = self.inner.borrow_mut();
        inner.driver_at = at;
        if !inner.driver.as_ref().is_some_and(|w| w.will_wake(waker)) {
            inner.driver = Some(waker.clone());
        }
    }

    /// Wakes the owners of due timers; returns when the next one may be due.
    fn fire(&self, now: u64) -> u64 {
        loop {
            let mut inner = self.inner.borrow_mut();
            let Some(&Reverse((at, id, generation))) = inner.heap.peek() else {
                return NEVER;
            };
            if at > now {
                return at;
            }
            inner.heap.pop();
            let slot = &mut inner.slots[id as usize];
            if slot.generation != generation || slot.queued != at {
                continue;
            }
            slot.queued = NEVER;
            if slot.deadline <= now {
                slot.deadline = NEVER;
                let waker = slot.waker.clone();
                drop(inner);
                if let Some(w) = waker {
                    w.wake();
                }
            } else if slot.deadline != NEVER {
                let at = slot.deadline;
                slot.queued = at;
                inner.heap.push(Reverse((at, id, generation)));
            }
        }
    }
}

/// One deadline of one task.
pub struct Timer {
    timers: Rc<Timers>,
    id: u32,
}

impl Timer {
    /// Wakes `waker` at `deadline` (as of [`Timers::now`]) unless re-armed or disarmed before.
    #[inline]
    pub fn arm(&self, deadline: u64, waker: &Waker) {
        let mut inner = self.timers.inner.borrow_mut();
        let inner = &mut *inner;
        let slot = &mut inner.slots[self.id as usize];
        slot.deadline = deadline;
        if !slot.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
        if deadline < slot.queued {
            slot.queued = deadline;
            inner.heap.push(Reverse((deadline, self.id, slot.generation)));
            if deadline < inner.driver_at {
                inner.driver_at = deadline;
                if let Some(w) = &inner.driver {
                    w.wake_by_ref();
                }
            }
        }
    }

    /// Forgets the deadline.
    #[inline]
    pub fn disarm(&self) {
        self.timers.inner.borrow_mut().slots[self.id as usize].deadline = NEVER;
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut inner = self.timers.inner.borrow_mut();
        let slot = &mut inner.slots[self.id as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.deadline = NEVER;
        slot.queued = NEVER;
        slot.waker = None;
        inner.free.push(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_in_order_and_follows_moves() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let timers = Timers::new();
                tokio::task::spawn_local(timers.clone().run());
                let start = Instant::now();
                timers.sleep(Duration::from_millis(20)).await;
                assert_eq!(start.elapsed(), Duration::from_millis(20));
                let a = tokio::task::spawn_local({
                    let t = timers.clone();
                    async move { t.sleep(Duration::from_millis(500)).await }
                });
                timers.sleep(Duration::from_millis(10)).await;
                a.await.unwrap();
                assert_eq!(start.elapsed(), Duration::from_millis(520));
            })
            .await;
    }
}
