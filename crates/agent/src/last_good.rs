//! What did this pod's proxy have before it restarted? Accepted resources and the workload certificate, kept on disk so that a
//! proxy starts without its control plane. Written by one thread off every path; read once at the start.
//!
//! One append-only file per resource type, folded on reading and rewritten when mostly outdated; a torn end is ignored. It lies
//! in the pod's own memory-backed volume, like Istio's `OUTPUT_CERTS`, and dies with the pod.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::SystemTime;

use pki::{Bundle, PrivateKey};
use xds::server::{Kind, Resource, ResourceSet};

use crate::certificate::Workload;

/// Writes that wait for the disk; whoever brings more waits, so nothing is lost.
const PENDING_MAX: usize = 1024;
/// Longest file read; a longer one is not ours.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// A file is rewritten when it holds this much more than what counts in it.
const SLACK_BYTES: u64 = 1 << 20;

/// One change of one type.
#[derive(Debug)]
pub enum Change {
    /// All of the type was listed anew.
    Reset,
    /// A resource as it is now.
    Put(String, Vec<u8>),
    /// A resource that is gone.
    Remove(String),
}

#[derive(Debug)]
enum Job {
    Changes(Kind, Vec<Change>),
    Workload { key: String, chain: String, roots: String },
}

/// The store's writing end; cheap to clone.
#[derive(Debug, Clone)]
pub struct LastGood {
    folder: PathBuf,
    jobs: SyncSender<Job>,
    /// A proxy could not start from it; until listeners are accepted again.
    doubted: Arc<AtomicBool>,
}

impl LastGood {
    /// Opens the folder, made for this user only, and starts the writer.
    ///
    /// # Errors
    /// The folder or the thread cannot be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        let (jobs, received) = sync_channel(PENDING_MAX);
        let own = folder.to_owned();
        std::thread::Builder::new()
            .name("last-good".into())
            .stack_size(128 << 10)
            .spawn(move || write(&own, &received))?;
        Ok(Self { folder: folder.to_owned(), jobs, doubted: Arc::default() })
    }

    /// Keeps what the proxy accepted.
    pub fn keep(&self, kind: Kind, changes: Vec<Change>) {
        if !changes.is_empty() && is_kept(kind) {
            self.doubted.fetch_and(kind != Kind::Listener, Ordering::AcqRel);
            // Fails only when the writer has died, which it has said.
            let _ = self.jobs.send(Job::Changes(kind, changes));
        }
    }

    /// Keeps the workload certificate.
    pub fn keep_workload(&self, workload: &Workload) {
        let (key, chain) = (workload.key.to_pem(), workload.chain.to_pem());
        let _ = self.jobs.send(Job::Workload { key, chain, roots: workload.roots.clone() });
    }

    /// All of a type, as it was accepted last.
    pub fn resources(&self, kind: Kind) -> ResourceSet {
        let (kept, _) = read(&file(&self.folder, kind)).unwrap_or_default();
        kept.into_iter().map(|(name, value)| Resource::new(name, value)).collect()
    }

    /// A proxy could not start from it.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Release);
    }

    /// Whether a proxy can start from it: clusters and listeners are there.
    pub fn is_complete(&self) -> bool {
        !self.doubted.load(Ordering::Acquire)
            && [Kind::Cluster, Kind::Listener].iter().all(|kind| !self.resources(*kind).is_empty())
    }

    /// The certificate, if it holds at `now`.
    pub fn workload(&self, now: SystemTime) -> Option<Arc<Workload>> {
        let text = |name: &str| fs::read_to_string(self.folder.join(name)).ok();
        let key = PrivateKey::from_pem(text(KEY)?.as_bytes()).ok()?;
        let chain = Bundle::from_pem(text(CHAIN)?.as_bytes()).ok()?;
        let workload = Workload { key, chain, roots: text(ROOTS)? };
        (workload.expires() > now).then(|| Arc::new(workload))
    }
}

const KEY: &str = "key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

/// Secrets come from the agent itself; what is left of the others concerns no restart.
fn is_kept(kind: Kind) -> bool {
    !matches!(kind, Kind::Secret | Kind::Runtime | Kind::Health | Kind::ProxyConfig)
}

fn file(folder: &Path, kind: Kind) -> PathBuf {
    folder.join(kind.short())
}

fn write(folder: &Path, jobs: &Receiver<Job>) {
    let mut open: BTreeMap<Kind, Log> = BTreeMap::new();
    while let Ok(job) = jobs.recv() {
        let done = match job {
            Job::Changes(kind, changes) => match open.entry(kind) {
                std::collections::btree_map::Entry::Occupied(mut log) => log.get_mut().append(&changes),
                std::collections::btree_map::Entry::Vacant(place) => {
                    Log::open(file(folder, kind)).and_then(|log| place.insert(log).append(&changes))
                }
            },
            Job::Workload { key, chain, roots } => [(KEY, key), (CHAIN, chain), (ROOTS, roots)]
                .iter()
                .try_for_each(|(name, text)| replace(&folder.join(name), text.as_bytes())),
        };
        if let Err(error) = done {
            tracing::error!(target: "default", "last good configuration in {}: {error}", folder.display());
            return;
        }
    }
}

/// A file of this user alone, replaced whole.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    fs::rename(new, path)
}

/// The file of one type.
struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Size right after the last rewriting.
    folded: u64,
}

impl Log {
    fn open(path: PathBuf) -> io::Result<Self> {
        let (_, whole) = read(&path).unwrap_or_default();
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        // What a dying process wrote half is cut off, so that what follows can be read.
        file.set_len(whole)?;
        Ok(Self { path, file, bytes: whole, folded: 0 })
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut records = Vec::new();
        changes.iter().for_each(|change| record(change, &mut records));
        self.file.write_all(&records)?;
        self.bytes += records.len() as u64;
        if self.bytes > 2 * self.folded + SLACK_BYTES { self.fold() } else { Ok(()) }
    }

    fn fold(&mut self) -> io::Result<()> {
        let (kept, _) = read(&self.path).unwrap_or_default();
        let mut records = Vec::new();
        kept.into_iter().for_each(|(name, value)| record(&Change::Put(name, value), &mut records));
        replace(&self.path, &records)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.bytes = records.len() as u64;
        self.folded = self.bytes;
        Ok(())
    }
}

/// Kind of change, lengths of name and value, then both.
const HEAD_BYTES: usize = 9;

fn record(change: &Change, out: &mut Vec<u8>) {
    let (tag, name, value): (u8, &str, &[u8]) = match change {
        Change::Reset => (0, "", &[]),
        Change::Put(name, value) => (1, name, value),
        Change::Remove(name) => (2, name, &[]),
    };
    out.push(tag);
    out.extend_from_slice(&(name.len() as u32).to_be_bytes());
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value);
}

/// What a file comes to, and how many of its bytes are whole records.
fn read(path: &Path) -> io::Result<(BTreeMap<String, Vec<u8>>, u64)> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut kept = BTreeMap::new();
    let mut rest = &bytes[..];
    while let Some((change, after)) = next(rest) {
        match change {
            Change::Reset => kept.clear(),
            Change::Put(name, value) => drop(kept.insert(name, value)),
            Change::Remove(name) => drop(kept.remove(&name)),
        }
        rest = after;
    }
    Ok((kept, (bytes.len() - rest.len()) as u64))
}

fn next(bytes: &[u8]) -> Option<(Change, &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let length = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
    let (name, rest) = rest.split_at_checked(length(1)?)?;
    let (value, rest) = rest.split_at_checked(length(5)?)?;
    let name = std::str::from_utf8(name).ok()?.to_owned();
    let change = match head[0] {
        0 => Change::Reset,
        1 => Change::Put(name, value.to_vec()),
        2 => Change::Remove(name),
        _ => return None,
    };
    Some((change, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, value: &[u8]) -> Change {
        Change::Put(name.to_owned(), value.to_vec())
    }

    fn names(path: &Path) -> Vec<String> {
        read(path).unwrap().0.into_keys().collect()
    }

    #[test]
    fn changes_are_folded_and_torn_ends_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("CDS");
        let mut log = Log::open(path.clone()).unwrap();
        log.append(&[put("a", b"1"), put("b", b"2"), Change::Remove("a".into()), put("c", b"3")]).unwrap();
        assert_eq!(names(&path), ["b", "c"]);
        // A process that dies while it writes.
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], &[1, 0, 0, 0, 1, 0, 0]].concat()).unwrap();
        let mut log = Log::open(path.clone()).unwrap();
        log.append(&[put("d", b"4")]).unwrap();
        assert_eq!(names(&path), ["b", "c", "d"]);
        log.append(&[Change::Reset, put("e", b"5")]).unwrap();
        assert_eq!(names(&path), ["e"]);
    }

    #[test]
    fn a_file_of_outdated_changes_is_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("EDS");
        let mut log = Log::open(path.clone()).unwrap();
        for i in 0..40u8 {
            log.append(&[put("a", &vec![i; 64 << 10])]).unwrap();
        }
        assert!(fs::metadata(&path).unwrap().len() < 2 << 20, "{}", fs::metadata(&path).unwrap().len());
        assert_eq!(read(&path).unwrap().0["a"], vec![39; 64 << 10]);
    }

    #[test]
    fn rubbish_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LDS");
        fs::write(&path, [9; 100]).unwrap();
        assert_eq!(names(&path), Vec::<String>::new());
        let store = LastGood::open(dir.path()).unwrap();
        assert!(!store.is_complete() && store.workload(SystemTime::now()).is_none());
    }
}
