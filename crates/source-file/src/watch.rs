//! When are files read again? A thread that waits for file events, lets them settle, and scans.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher as _};

use crate::{Batch, FileSource};

/// Files must be quiet for this long before they are read (editors write in several steps).
const QUIET: Duration = Duration::from_millis(30);
/// Unless they never are.
const QUIET_MAX: Duration = Duration::from_millis(300);
/// Also without events (links whose target is elsewhere, lost events) files are looked at this often.
const RESCAN: Duration = Duration::from_secs(5);
/// The same, when the kernel gives no events at all.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(500);

#[derive(Debug)]
enum Wake {
    Changed,
    Now,
    Stop,
}

/// Stops the watching thread when dropped.
#[derive(Debug)]
pub struct Handle {
    wake: SyncSender<Wake>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Handle {
    /// Scans at once, without waiting for the files to be quiet.
    pub fn rescan(&self) {
        // A full queue already holds a reason to scan.
        let _ = self.wake.try_send(Wake::Now);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let _ = self.wake.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Scans now and after every change, in a thread of its own, and hands each batch that has something to say (and the
/// first one in any case) to `on_batch`. The thread ends when `on_batch` returns false or the handle is dropped.
pub fn watch(mut source: FileSource, mut on_batch: impl FnMut(Batch) -> bool + Send + 'static) -> Handle {
    // One pending wake-up is as good as many.
    let (wake, woken) = sync_channel(1);
    let events = wake.clone();
    let thread = std::thread::Builder::new().name("source-file".into()).spawn(move || {
        let mut watcher = match notify::recommended_watcher(move |_| {
            let _ = events.try_send(Wake::Changed);
        }) {
            Ok(watcher) => Some(watcher),
            Err(e) => {
                tracing::warn!("no file events, looking at files every {RESCAN_WITHOUT_EVENTS:?} instead: {e}");
                None
            }
        };
        let mut watched: Vec<PathBuf> = Vec::new();
        loop {
            let complete = watcher.as_mut().is_some_and(|w| watch_roots(w, source.roots(), &mut watched));
            let batch = source.scan();
            if (batch.initial || !batch.events.is_empty()) && !on_batch(batch) {
                return;
            }
            let timeout = if complete { RESCAN } else { RESCAN_WITHOUT_EVENTS };
            if !wait(&woken, timeout) {
                return;
            }
        }
    });
    match thread {
        Ok(thread) => Handle { wake, thread: Some(thread) },
        Err(e) => {
            tracing::error!("cannot start a thread to watch files: {e}");
            Handle { wake, thread: None }
        }
    }
}

/// Watches roots not watched yet. A root that is a file is watched through its directory, so that it may be replaced.
fn watch_roots(watcher: &mut notify::RecommendedWatcher, roots: &[PathBuf], watched: &mut Vec<PathBuf>) -> bool {
    let mut complete = true;
    for root in roots {
        if watched.contains(root) && root.exists() {
            continue;
        }
        watched.retain(|w| w != root);
        let (path, mode) = if root.is_dir() {
            (root.as_path(), RecursiveMode::Recursive)
        } else {
            let parent = root.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (parent, RecursiveMode::NonRecursive)
        };
        match watcher.watch(path, mode) {
            Ok(()) if root.exists() => watched.push(root.clone()),
            _ => complete = false,
        }
    }
    complete
}

/// Waits for a reason to scan. False: stop.
fn wait(woken: &Receiver<Wake>, timeout: Duration) -> bool {
    match woken.recv_timeout(timeout) {
        Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        Ok(Wake::Now) | Err(RecvTimeoutError::Timeout) => return true,
        Ok(Wake::Changed) => {}
    }
    let until = Instant::now() + QUIET_MAX;
    while Instant::now() < until {
        match woken.recv_timeout(QUIET) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Ok(Wake::Now) | Err(RecvTimeoutError::Timeout) => return true,
            Ok(Wake::Changed) => {}
        }
    }
    true
}
