//! One file for many writers: lines gather in memory and leave in large writes, from a thread of their own.
//!
//! Same path, same sink, for as long as anyone holds it. Lines are whole; their order is that of `write` calls.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::stats::{Block, envoy::filesystem};

/// Bytes gathered before a write is due at once (`--file-flush-min-size-kb`).
pub const FLUSH_BYTES: usize = 64 * 1024;

/// Bytes held at most when the file cannot take them; lines beyond are dropped and counted (`filesystem.write_failed`).
const BACKLOG_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Stack of the flusher thread: it calls `write` and nothing else.
const STACK_BYTES: usize = 64 * 1024;

#[derive(Debug)]
struct State {
    lines: Vec<u8>,
    /// The batch that was written last, empty: what the next lines gather in.
    spare: Vec<u8>,
    closed: bool,
    reopen: bool,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
    wake: Condvar,
    /// Held while a batch is written, so that `flush` returns after the bytes are out.
    file: Mutex<File>,
    stats: Block<filesystem::Filesystem>,
}

/// An open access log file.
#[derive(Debug)]
pub struct Sink(Arc<Shared>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> io::Result<File> {
    // The process's own streams are not opened but shared: they may be sockets, which have no path.
    if path == Path::new("/dev/stdout") {
        return io::stdout().as_fd().try_clone_to_owned().map(File::from);
    }
    if path == Path::new("/dev/stderr") {
        return io::stderr().as_fd().try_clone_to_owned().map(File::from);
    }
    // A pipe or terminal cannot be opened for append and created at once; the kernel ignores both.
    OpenOptions::new().create(true).append(true).open(path)
}

impl Shared {
    fn flush(&self) {
        let mut file = lock(&self.file);
        let (mut batch, reopen) = {
            let mut state = lock(&self.state);
            let spare = std::mem::take(&mut state.spare);
            (std::mem::replace(&mut state.lines, spare), std::mem::take(&mut state.reopen))
        };
        if !batch.is_empty() {
            match file.write_all(&batch) {
                Ok(()) => self.stats.inc(filesystem::WRITE_COMPLETED),
                Err(_) => self.stats.inc(filesystem::WRITE_FAILED),
            }
        }
        if reopen {
            match open(&self.path) {
                Ok(new) => *file = new,
                Err(_) => self.stats.inc(filesystem::REOPEN_FAILED),
            }
        }
        // One that grew while the file was slow is not kept.
        if batch.capacity() <= 2 * FLUSH_BYTES {
            batch.clear();
            lock(&self.state).spare = batch;
        }
    }

    fn run(&self, interval: Duration) {
        loop {
            let mut state = lock(&self.state);
            while state.lines.is_empty() && !state.closed && !state.reopen {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            // Something is there: let more gather, but not for longer than the interval.
            if !state.closed && !state.reopen && state.lines.len() < FLUSH_BYTES {
                let wait = self
                    .wake
                    .wait_timeout_while(state, interval, |s| !s.closed && !s.reopen && s.lines.len() < FLUSH_BYTES);
                let (after, timeout) = wait.unwrap_or_else(PoisonError::into_inner);
                state = after;
                if timeout.timed_out() {
                    self.stats.inc(filesystem::FLUSHED_BY_TIMER);
                }
            }
            let closed = state.closed;
            drop(state);
            self.flush();
            if closed {
                return;
            }
        }
    }
}

impl Sink {
    fn open(path: &Path, interval: Duration, stats: Block<filesystem::Filesystem>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            path: path.into(),
            state: Mutex::new(State { lines: Vec::new(), spare: Vec::new(), closed: false, reopen: false }),
            wake: Condvar::new(),
            file: Mutex::new(open(path)?),
            stats,
        });
        let flusher = shared.clone();
        std::thread::Builder::new()
            .name("AccessLogFlush".into())
            .stack_size(STACK_BYTES)
            .spawn(move || flusher.run(interval))?;
        Ok(Self(shared))
    }

    /// Appends one entry, newline included if wanted. Never blocks on the file.
    pub fn write(&self, line: &[u8]) {
        self.0.stats.inc(filesystem::WRITE_BUFFERED);
        let mut state = lock(&self.0.state);
        if state.lines.len() + line.len() > BACKLOG_BYTES_MAX {
            drop(state);
            return self.0.stats.inc(filesystem::WRITE_FAILED);
        }
        let before = state.lines.len();
        state.lines.extend_from_slice(line);
        let after = state.lines.len();
        drop(state);
        // The flusher sleeps only while nothing is there or too little for a write.
        if before == 0 || (before < FLUSH_BYTES && after >= FLUSH_BYTES) {
            self.0.wake.notify_one();
        }
    }

    /// Returns once everything written so far has left the process.
    pub fn flush(&self) {
        self.0.flush();
    }

    /// Writes out what is there and opens the path again.
    pub fn reopen(&self) {
        lock(&self.0.state).reopen = true;
        self.0.flush();
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.wake.notify_one();
        self.0.flush();
    }
}

/// All sinks of one proxy.
#[derive(Debug)]
pub struct Sinks {
    interval: Duration,
    stats: Block<filesystem::Filesystem>,
    open: Mutex<HashMap<PathBuf, Weak<Sink>>>,
}

impl Sinks {
    /// No sinks yet. `interval`: how long a line may wait (`--file-flush-interval-msec`).
    pub fn new(interval: Duration, stats: Block<filesystem::Filesystem>) -> Self {
        Self { interval, stats, open: Mutex::default() }
    }

    /// The sink of a path. `/dev/stdout` and `/dev/stderr` are the process's own.
    pub fn open(&self, path: &str) -> io::Result<Arc<Sink>> {
        let mut open = lock(&self.open);
        if let Some(sink) = open.get(Path::new(path)).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let sink = Arc::new(Sink::open(Path::new(path), self.interval, self.stats.clone())?);
        open.retain(|_, s| s.strong_count() > 0);
        open.insert(path.into(), Arc::downgrade(&sink));
        Ok(sink)
    }

    fn each(&self, act: impl Fn(&Sink)) {
        let live: Vec<_> = lock(&self.open).values().filter_map(Weak::upgrade).collect();
        live.iter().for_each(|s| act(s));
    }

    /// Flushes every sink, before the process ends.
    pub fn flush(&self) {
        self.each(Sink::flush);
    }

    /// Reopens every sink (SIGUSR1, `/reopen_logs`).
    pub fn reopen(&self) {
        self.each(Sink::reopen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sinks() -> Sinks {
        Sinks::new(Duration::from_secs(3600), Block::detached())
    }

    #[test]
    fn lines_survive_rotation_and_drop() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("access.log");
        let name = path.to_str().expect("UTF-8");
        let sinks = sinks();
        let (a, b) = (sinks.open(name).expect("writable"), sinks.open(name).expect("writable"));
        assert!(Arc::ptr_eq(&a, &b));
        a.write(b"one\n");
        std::fs::rename(&path, dir.path().join("old")).expect("rename");
        sinks.reopen();
        b.write(b"two\n");
        drop((a, b));
        assert_eq!(std::fs::read_to_string(dir.path().join("old")).expect("kept"), "one\n");
        assert_eq!(std::fs::read_to_string(&path).expect("reopened"), "two\n");
        assert!(sinks.open("/nonexistent/dir/log").is_err());
    }

    #[test]
    fn many_writers_keep_lines_whole() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("access.log");
        let sinks = sinks();
        let sink = sinks.open(path.to_str().expect("UTF-8")).expect("writable");
        std::thread::scope(|s| {
            for w in 0..4 {
                let sink = &sink;
                s.spawn(move || (0..2000).for_each(|i| sink.write(format!("{w} {i} {}\n", "x".repeat(60)).as_bytes())));
            }
        });
        sinks.flush();
        let text = std::fs::read_to_string(&path).expect("written");
        assert_eq!(text.lines().count(), 8000);
        assert!(text.lines().all(|l| l.ends_with(&"x".repeat(60))));
    }
}
