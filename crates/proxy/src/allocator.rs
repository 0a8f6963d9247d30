//! Where does a worker get memory from while it serves? From what it freed a moment ago.
//!
//! The system allocator keeps seven blocks per size and thread at hand, none above a kilobyte and none of the 128-byte
//! alignment that tasks ask for; a worker with a hundred streams in flight is past that all the time. A worker thread keeps
//! what it frees on shelves by size, up to [`SHELVED_BYTES_MAX`], and everything else goes to the system. Other threads
//! have no shelves. Blocks may be freed by another thread than took them: shelves hold plain system blocks.
#![allow(unsafe_code)] // A global allocator is an unsafe trait; each block's argument stands beside it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr::null_mut;

/// Bytes that one worker keeps on its shelves.
const SHELVED_BYTES_MAX: usize = 1 << 20;
/// Blocks larger than this are not shelved.
const BLOCK_BYTES_MAX: usize = 16 << 10;
/// Steps of block sizes: 16 bytes up to 1 KiB, then 512; 128 for aligned blocks.
const FINE_STEP: usize = 16;
const FINE_MAX: usize = 1024;
const COARSE_STEP: usize = 512;
const ALIGN: usize = 128;
const FINE: usize = FINE_MAX / FINE_STEP;
const COARSE: usize = (BLOCK_BYTES_MAX - FINE_MAX) / COARSE_STEP;
const ALIGNED: usize = BLOCK_BYTES_MAX / ALIGN;
const SHELVES: usize = FINE + COARSE + ALIGNED;

/// The process's allocator.
pub struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

struct Shelves {
    /// First free block of each class; its first word points to the next.
    first: [Cell<*mut u8>; SHELVES],
    bytes: Cell<usize>,
    /// 0 on threads that keep nothing.
    bytes_max: Cell<usize>,
}

thread_local! {
    // Nothing to drop and nothing to initialise: access never allocates, and works while a thread ends.
    static THREAD: Shelves = const {
        Shelves { first: [const { Cell::new(null_mut()) }; SHELVES], bytes: Cell::new(0), bytes_max: Cell::new(0) }
    };
}

/// From now on the calling thread keeps what it frees.
pub fn shelve() {
    THREAD.with(|t| t.bytes_max.set(SHELVED_BYTES_MAX));
}

/// The class of a layout and the size that every block of it has; `None`: not shelved.
#[inline]
fn class(layout: &Layout) -> Option<(usize, usize)> {
    let size = layout.size();
    if size > BLOCK_BYTES_MAX || size == 0 || layout.align() > ALIGN {
        None
    } else if layout.align() > FINE_STEP {
        let i = (size - 1) / ALIGN;
        Some((FINE + COARSE + i, (i + 1) * ALIGN))
    } else if size <= FINE_MAX {
        let i = (size - 1) / FINE_STEP;
        Some((i, (i + 1) * FINE_STEP))
    } else {
        let i = (size - FINE_MAX - 1) / COARSE_STEP;
        Some((FINE + i, FINE_MAX + (i + 1) * COARSE_STEP))
    }
}

/// The layout under which blocks of a class are had from the system.
#[inline]
fn whole(layout: &Layout, size: usize) -> Layout {
    let align = if layout.align() > FINE_STEP { ALIGN } else { FINE_STEP };
    // SAFETY: both alignments are powers of two, and `size` is at most `BLOCK_BYTES_MAX`.
    unsafe { Layout::from_size_align_unchecked(size, align) }
}

// SAFETY: blocks of a class are always allocated and freed with the class's own layout, which is at least as large and as
// aligned as the one asked for; a block is on at most one shelf, and only its owner, who freed it, puts it there.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((class, size)) = class(&layout) else {
            // SAFETY: the caller's contract.
            return unsafe { System.alloc(layout) };
        };
        THREAD.with(|t| {
            let first = t.first[class].get();
            if first.is_null() {
                // SAFETY: `size` is not 0.
                return unsafe { System.alloc(whole(&layout, size)) };
            }
            // SAFETY: a shelved block is free memory of at least 16 bytes, aligned to 16, whose first word `dealloc` wrote.
            t.first[class].set(unsafe { first.cast::<*mut u8>().read() });
            t.bytes.set(t.bytes.get() - size);
            first
        })
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some((class, size)) = class(&layout) else {
            // SAFETY: the caller's contract; `alloc` gave it to the system too.
            return unsafe { System.dealloc(block, layout) };
        };
        THREAD.with(|t| {
            let bytes = t.bytes.get() + size;
            if bytes > t.bytes_max.get() {
                // SAFETY: the block was had with this layout.
                return unsafe { System.dealloc(block, whole(&layout, size)) };
            }
            // SAFETY: the block is ours now, and holds a pointer.
            unsafe { block.cast::<*mut u8>().write(t.first[class].get()) };
            t.first[class].set(block);
            t.bytes.set(bytes);
        })
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if class(&layout).is_none() {
            // SAFETY: the caller's contract.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: the caller's contract; the block has at least `layout.size()` bytes.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees that `new_size` is valid with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (class(&layout), class(&wanted)) {
            (Some(a), Some(b)) if a == b => block,
            // SAFETY: neither is shelved: the system's own.
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            // SAFETY: the caller's contract; both blocks hold the bytes copied.
            _ => unsafe {
                let new = self.alloc(wanted);
                if !new.is_null() {
                    std::ptr::copy_nonoverlapping(block, new, layout.size().min(new_size));
                    self.dealloc(block, layout);
                }
                new
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_their_sizes() {
        for align in [1, 8, 16, 32, 64, 128] {
            for size in 1..=BLOCK_BYTES_MAX {
                let layout = Layout::from_size_align(size, align).unwrap();
                let (class, whole) = class(&layout).unwrap();
                assert!(whole >= size && whole <= BLOCK_BYTES_MAX && class < SHELVES, "{size} {align}");
            }
        }
        assert_eq!(class(&Layout::from_size_align(BLOCK_BYTES_MAX + 1, 8).unwrap()), None);
        assert_eq!(class(&Layout::from_size_align(64, 256).unwrap()), None);
    }

    #[test]
    fn blocks_come_back_and_keep_their_bytes() {
        std::thread::spawn(|| {
            shelve();
            let first = Box::new([7u8; 3000]);
            let at = first.as_ptr();
            drop(first);
            let again = Box::new([8u8; 2900]);
            assert_eq!(again.as_ptr(), at);
            let mut grown: Vec<u8> = Vec::new();
            for i in 0..100_000u32 {
                grown.push(i as u8);
            }
            assert!(grown.iter().enumerate().all(|(i, b)| *b == i as u8));
            let zeroed = vec![0u8; 3000];
            assert!(zeroed.iter().all(|b| *b == 0));
            let many: Vec<Box<[u8; 1024]>> = (0..5000).map(|_| Box::new([1; 1024])).collect();
            drop(many);
            THREAD.with(|t| assert!(t.bytes.get() <= SHELVED_BYTES_MAX));
            // Another thread frees what this one took.
            let foreign = vec![1u8; 500];
            std::thread::spawn(move || drop(foreign)).join().unwrap();
        })
        .join()
        .unwrap();
    }
}
