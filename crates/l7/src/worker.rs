//! What does a worker thread keep for all its HTTP connections?
//!
//! Buffers, spare exchange objects, deadlines, random numbers, the date header. `proxy` makes one per
//! worker thread and spawns [`Worker::run`]; everything here is `!Send` and never shared.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::exchange::Exchange;
use crate::h2_server::Job;
use crate::io::BUFFER_BYTES;
use crate::overload::Overload;
use crate::pool::{self, Pooled};
use crate::stream_task::StreamTasks;
use crate::timers::Timers;

/// Spare buffers and exchanges kept per worker; more are freed.
const SPARES_MAX: usize = 64;
/// How often idle upstream connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Per-thread state of the HTTP data path.
pub struct Worker {
    /// Which worker this is, from 0.
    pub id: usize,
    /// Deadlines.
    pub timers: Rc<Timers>,
    reads: RefCell<Vec<Vec<u8>>>,
    writes: RefCell<Vec<Vec<u8>>>,
    exchanges: RefCell<Vec<Box<Exchange>>>,
    random: Cell<u64>,
    date: RefCell<DateCache>,
    stream_ids: Cell<u64>,
    shadows: Cell<usize>,
    draining: Cell<Draining>,
    overload: OnceCell<Arc<Overload>>,
    pub(crate) upstream: Rc<upstream::Worker<Pooled>>,
    pub(crate) stream_tasks: StreamTasks<Job>,
}

#[derive(Clone, Copy)]
enum Draining {
    No,
    /// Since when, by the worker's clock, and over which time.
    Since {
        begun: u64,
        over_ms: u64,
    },
}

#[derive(Default)]
struct DateCache {
    unix_s: u64,
    text: [u8; 29],
    started: Option<(Instant, SystemTime)>,
}

impl Worker {
    /// A new worker. `seed` starts its random numbers (must differ between workers).
    pub fn new(id: usize, seed: u64, registry: Arc<upstream::Registry>) -> Rc<Self> {
        Rc::new(Worker {
            id,
            timers: Timers::new(),
            reads: RefCell::default(),
            writes: RefCell::default(),
            exchanges: RefCell::default(),
            random: Cell::new(seed ^ 0x9E37_79B9_7F4A_7C15),
            date: RefCell::default(),
            stream_ids: Cell::new(0),
            shadows: Cell::new(0),
            draining: Cell::new(Draining::No),
            overload: OnceCell::new(),
            upstream: upstream::Worker::new(registry, seed),
            stream_tasks: StreamTasks::default(),
        })
    }

    /// Runs the worker's background duties, for ever; spawn it once on the worker's `LocalSet`.
    pub async fn run(self: Rc<Self>) {
        let sweep = async {
            loop {
                self.timers.sleep(SWEEP_INTERVAL).await;
                let now = self.timers.now();
                self.upstream.sweep(|cluster, c| pool::is_stale(cluster, c, now));
            }
        };
        tokio::join!(self.timers.clone().run(), sweep);
    }

    /// Looks at these switches from now on; called once, before traffic.
    pub fn set_overload(&self, overload: Arc<Overload>) {
        // A second call would be a second overload manager, which no process has.
        let _ = self.overload.set(overload);
    }

    /// The overload manager's switches, if there is one.
    #[inline]
    pub fn overload(&self) -> Option<&Arc<Overload>> {
        self.overload.get()
    }

    /// Starts or ends draining: HTTP/1.1 responses carry `connection: close`, HTTP/2 connections get GOAWAY.
    /// `Some(time)`: a share of them that grows to all over this time; zero is all at once.
    pub fn set_draining(&self, over: Option<Duration>) {
        self.draining.set(match over {
            None => Draining::No,
            Some(over) => Draining::Since { begun: self.timers.now(), over_ms: over.as_millis() as u64 },
        });
    }

    /// Whether the connection that asks is to be closed because this worker drains.
    #[inline]
    pub fn draining(&self) -> bool {
        match self.draining.get() {
            Draining::No => false,
            Draining::Since { begun, over_ms } => self.drains_now(begun, over_ms),
        }
    }

    #[cold]
    fn drains_now(&self, begun: u64, over_ms: u64) -> bool {
        let elapsed = self.timers.now().saturating_sub(begun);
        elapsed >= over_ms || elapsed > self.random() % over_ms
    }

    /// Mirrored requests in flight.
    pub(crate) fn shadows(&self) -> usize {
        self.shadows.get()
    }

    /// Counts a mirrored request in or out.
    pub(crate) fn count_shadow(&self, by: isize) {
        self.shadows.set(self.shadows.get().saturating_add_signed(by));
    }

    /// A random number (splitmix64): good for sampling and balancing, not for secrets.
    #[inline]
    pub fn random(&self) -> u64 {
        let s = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(s);
        let mut z = s;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A stream id for logs.
    pub fn next_stream_id(&self) -> u64 {
        self.random()
    }

    /// Number of streams so far.
    pub fn count_stream(&self) {
        self.stream_ids.set(self.stream_ids.get() + 1);
    }

    pub(crate) fn take_read(&self) -> Vec<u8> {
        self.reads.borrow_mut().pop().unwrap_or_else(|| vec![0; BUFFER_BYTES])
    }

    pub(crate) fn give_read(&self, buf: Vec<u8>) {
        let mut spare = self.reads.borrow_mut();
        if buf.len() == BUFFER_BYTES && spare.len() < SPARES_MAX {
            spare.push(buf);
        }
    }

    pub(crate) fn take_write(&self) -> Vec<u8> {
        self.writes.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES / 2))
    }

    pub(crate) fn give_write(&self, mut buf: Vec<u8>) {
        let mut spare = self.writes.borrow_mut();
        if buf.capacity() <= 4 * BUFFER_BYTES && spare.len() < SPARES_MAX {
            buf.clear();
            spare.push(buf);
        }
    }

    pub(crate) fn take_exchange(&self) -> Box<Exchange> {
        self.exchanges.borrow_mut().pop().unwrap_or_default()
    }

    pub(crate) fn give_exchange(&self, mut exchange: Box<Exchange>) {
        exchange.clear();
        let mut spare = self.exchanges.borrow_mut();
        if spare.len() < SPARES_MAX {
            spare.push(exchange);
        }
    }

    /// The time, as [`Timers::instant`] tells it.
    #[inline]
    pub fn now(&self) -> Instant {
        self.timers.instant()
    }

    /// Wall-clock time that belongs to an instant, without a system call.
    pub fn wall(&self, at: Instant) -> SystemTime {
        let mut date = self.date.borrow_mut();
        let (instant, wall) = match date.started {
            // Re-anchor now and then so that clock adjustments are followed.
            Some((i, w)) if at.saturating_duration_since(i) < Duration::from_secs(1) => (i, w),
            _ => {
                let now = (Instant::now(), SystemTime::now());
                date.started = Some(now);
                now
            }
        };
        if at >= instant { wall + (at - instant) } else { wall - (instant - at) }
    }

    /// The value of a `date` header at that instant.
    pub fn date(&self, at: Instant) -> [u8; 29] {
        let unix_s = self.wall(at).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut date = self.date.borrow_mut();
        if date.unix_s != unix_s || date.unix_s == 0 {
            date.unix_s = unix_s;
            date.text = imf_fixdate(unix_s);
        }
        date.text
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn imf_fixdate(unix_s: u64) -> [u8; 29] {
    let days = (unix_s / 86_400) as i64;
    let second = unix_s % 86_400;
    // Howard Hinnant's civil_from_days.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = (doy - (153 * mp + 2) / 5 + 1) as u64;
    let month = if mp < 10 { mp + 3 } else { mp - 9 } as usize;
    let year = (yoe + era * 400 + i64::from(month <= 2)) as u64;
    let week = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"][(days % 7) as usize];
    let names = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut out = *b"Thu, 00 Jan 0000 00:00:00 GMT";
    let two = |n: u64| [b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
    out[..3].copy_from_slice(week);
    out[5..7].copy_from_slice(&two(day));
    out[8..11].copy_from_slice(&names[(month - 1) * 3..month * 3]);
    out[12..14].copy_from_slice(&two(year / 100));
    out[14..16].copy_from_slice(&two(year % 100));
    out[17..19].copy_from_slice(&two(second / 3600));
    out[20..22].copy_from_slice(&two(second / 60 % 60));
    out[23..25].copy_from_slice(&two(second % 60));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let date = |s| String::from_utf8(imf_fixdate(s).to_vec()).unwrap();
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(1_709_164_800), "Thu, 29 Feb 2024 00:00:00 GMT");
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
