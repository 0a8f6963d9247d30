//! How much memory is in use? glibc's own account, and the settings that keep it small.
#![allow(unsafe_code)] // mallinfo2, mallopt and malloc_trim are plain C calls without preconditions.

use std::time::Duration;

/// The figures of `/memory`, in bytes, under the names that Envoy gives them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Handed out to the program.
    pub allocated: u64,
    /// Taken from the system.
    pub heap_size: u64,
    /// Of that, free and given back to the system's page pool at the heap's top.
    pub pageheap_unmapped: u64,
    /// Of that, free.
    pub pageheap_free: u64,
    /// Free in per-thread fast bins.
    pub total_thread_cache: u64,
    /// Resident, from `/proc/self/statm`.
    pub total_physical_bytes: u64,
}

/// Reads the allocator's and the kernel's figures.
pub fn figures() -> Figures {
    // SAFETY: no arguments; takes glibc's own locks.
    let info = unsafe { libc::mallinfo2() };
    let pages: u64 = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|s| s.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0);
    Figures {
        allocated: (info.uordblks + info.hblkhd) as u64,
        heap_size: (info.arena + info.hblkhd) as u64,
        pageheap_unmapped: 0,
        pageheap_free: info.fordblks as u64,
        total_thread_cache: info.fsmblks as u64,
        total_physical_bytes: pages * page_bytes(),
    }
}

/// The kernel's page size.
fn page_bytes() -> u64 {
    // SAFETY: no preconditions.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}

/// Called before threads are made: few arenas, and large blocks straight from the system so that they go back whole.
pub fn prepare() {
    const MMAP_THRESHOLD_BYTES: i32 = 256 * 1024;
    const TRIM_THRESHOLD_BYTES: i32 = 256 * 1024;
    // SAFETY: plain settings.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES);
    }
}

/// Gives free pages back; called after configuration was loaded, when much was allocated and freed.
pub fn trim() {
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// How often a process is asked whether it is at rest.
const LOOK: Duration = Duration::from_secs(2);
/// Processor time between two looks of a process that is at rest.
const AT_REST: Duration = Duration::from_millis(8);
/// So much of its files may a process at rest keep in memory.
const KEPT_BYTES: u64 = 2 << 20;

/// Gives back what work has left behind while the process is at rest: a start, a change of configuration and a burst of requests map
/// megabytes of code, and the kernel maps sixteen pages for each that runs. What a probe needs is mapped again by it, which
/// takes a tenth of a millisecond. A process that has work is left alone.
pub async fn rest() {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut spent = processor_time();
    let mut worked = true;
    loop {
        tick.tick().await;
        let before = std::mem::replace(&mut spent, processor_time());
        if spent.saturating_sub(before) > AT_REST {
            worked = true;
            continue;
        }
        if file_bytes() > KEPT_BYTES {
            forget_code();
        }
        if std::mem::take(&mut worked) {
            trim();
        }
    }
}

/// What of the process's files is in memory.
fn file_bytes() -> u64 {
    const SHARED: usize = 2;
    let statm = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = statm.and_then(|s| s.split_whitespace().nth(SHARED)?.parse::<u64>().ok());
    pages.unwrap_or(0) * page_bytes()
}

/// Spent by all threads, in the program and in the kernel.
fn processor_time() -> Duration {
    // SAFETY: a plain struct for the kernel to fill in.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let span = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    span(usage.ru_utime) + span(usage.ru_stime)
}

/// Unmaps the read-only pages of the program and its libraries, most of which only the start needed; those in use come back from
/// the page cache at once. Called when the server goes live, and by [`rest`].
pub fn forget_code() {
    // SAFETY: the callback below touches only what the loader describes.
    unsafe {
        libc::dl_iterate_phdr(Some(forget_segments), std::ptr::null_mut());
    }
}

/// Visits an object: the program, then its libraries.
unsafe extern "C" fn forget_segments(info: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> libc::c_int {
    let page = page_bytes() as usize;
    // SAFETY: the loader passes a valid description with `dlpi_phnum` headers.
    let (base, headers, name) = unsafe {
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
        ((*info).dlpi_addr as usize, headers, std::ffi::CStr::from_ptr((*info).dlpi_name))
    };
    if name.to_bytes().windows(4).any(|part| part == b"vdso") {
        // The kernel's own pages, which belong to no file.
        return 0;
    }
    for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
        let start = (base + header.p_vaddr as usize).next_multiple_of(page);
        let end = (base + header.p_vaddr as usize + header.p_memsz as usize) / page * page;
        if start < end {
            // SAFETY: segments that are never written are the file's own bytes: dropping the mapping's pages loses nothing.
            unsafe {
                libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
            }
        }
    }
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn code_that_was_forgotten_still_runs() {
        super::forget_code();
        assert!(super::figures().total_physical_bytes > 0);
        assert_eq!(format!("{:?}", [1.5f64, 2.25].map(f64::sqrt).len()), "2");
    }

    #[test]
    fn a_large_block_shows() {
        let before = super::figures();
        let block = vec![1u8; 8 << 20];
        let with = super::figures();
        assert!(with.allocated >= before.allocated + block.len() as u64 / 2, "{before:?} {with:?}");
        assert!(with.total_physical_bytes > 1 << 20 && with.heap_size >= with.allocated);
    }
}
