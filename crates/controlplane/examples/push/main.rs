//! What does a push cost? `push cases FILE…`: time and allocated bytes to build the snapshot, to generate every type for
//! one proxy, and to follow one change; `push steps FILE…`: what each step of following costs. `push mesh`: a control plane with 1,000 services, 10,000 endpoints and 1,000
//! connected delta clients in another process; how long until all have acknowledged a change, and its memory.
//! Run by `cargo xtask bench control-plane`. Absent: any opinion on what is good (docs/performance.md has the aims).
#![allow(missing_docs, unsafe_code)]

mod cases;
mod load;
mod mesh;
mod serve;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts what is allocated, by this whole process.
struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);
static FREED: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        FREED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size.saturating_sub(layout.size()) as u64, Ordering::Relaxed);
        FREED.fetch_add(layout.size().saturating_sub(size) as u64, Ordering::Relaxed);
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

pub fn allocated() -> u64 {
    ALLOCATED.load(Ordering::Relaxed)
}

/// Bytes that are allocated now.
pub fn live() -> u64 {
    ALLOCATED.load(Ordering::Relaxed).saturating_sub(FREED.load(Ordering::Relaxed))
}

/// A clock of the system.
pub fn clock(which: libc::clockid_t) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the timespec it is given.
    unsafe { libc::clock_gettime(which, &mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("cases") => cases::run(&args[1..], false),
        Some("steps") => cases::run(&args[1..], true),
        Some("mesh") => load::run(),
        Some("serve") => serve::run(),
        _ => anyhow::bail!("push cases FILE… | push steps FILE… | push mesh"),
    }
}
