//! How do files become events? Reading, comparing with what was there before, and keeping the last good version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::yaml::{Document, documents};
use api::{Place, Resource, validate};
use names::{Kind, ResourceKey};
use serde_json::Value;

use crate::{Batch, Diagnostic, Event, Severity};

/// Largest manifest file read.
pub const FILE_BYTES_MAX: u64 = 32 << 20;
/// Most manifest files read below all roots together.
pub const FILES_MAX: usize = 50_000;
/// Deepest directory read below a root (also ends symlink loops).
pub const DEPTH_MAX: usize = 24;
/// A file changed more recently than this may change again without a new time stamp, so it is compared by content.
const FRESH: Duration = Duration::from_secs(2);

/// How to read a directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespace of resources that name none.
    pub default_namespace: String,
    /// Names of directories that are not read (examples kept beside the manifests in force).
    pub skip_directories: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { default_namespace: "default".into(), skip_directories: Vec::new() }
    }
}

/// Files and directories of manifests, and what they said when last read.
#[derive(Debug)]
pub struct FileSource {
    roots: Vec<PathBuf>,
    options: Options,
    files: BTreeMap<PathBuf, FileState>,
    in_force: BTreeMap<ResourceKey, Resource>,
    scanned: bool,
}

#[derive(Debug, Default)]
struct FileState {
    stamp: Option<Stamp>,
    hash: u64,
    resources: BTreeMap<ResourceKey, Resource>,
    diagnostics: Vec<Diagnostic>,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Stamp {
    modified: SystemTime,
    len: u64,
}

impl FileSource {
    /// A source over files and directories. Nothing is read yet.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>, options: Options) -> Self {
        FileSource {
            roots: roots.into_iter().collect(),
            options,
            files: BTreeMap::new(),
            in_force: BTreeMap::new(),
            scanned: false,
        }
    }

    /// The files and directories read.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// All resources in force now.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.in_force.values()
    }

    /// Everything that is wrong now.
    pub fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.files.values().flat_map(|f| &f.diagnostics)
    }

    /// Reads what changed and says what that means. The first call reads everything and marks its batch as initial.
    pub fn scan(&mut self) -> Batch {
        let mut found = Vec::new();
        let mut events = Vec::new();
        let mut unreadable_roots = Vec::new();
        for root in self.roots.clone() {
            match walk(&root, 0, &self.options.skip_directories, &mut found) {
                Ok(()) => {}
                // A root that is gone has no resources; one that cannot be read keeps what it had.
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.scanned => {}
                Err(e) => {
                    unreadable_roots.push(root.clone());
                    events.push(Event::Diagnostic(about_file(&root, format!("cannot be read: {e}"), self.scanned)));
                }
            }
        }
        let present: BTreeSet<&PathBuf> = found.iter().collect();
        let before = self.files.len();
        self.files.retain(|path, _| present.contains(path) || unreadable_roots.iter().any(|r| path.starts_with(r)));
        let mut changed = before != self.files.len();
        for path in &found {
            changed |= self.read_file(path, &mut events);
        }
        if changed || !self.scanned {
            self.settle(&mut events);
        }
        let initial = !std::mem::replace(&mut self.scanned, true);
        Batch { events, initial }
    }

    /// Reads one file if it changed. Returns whether its resources may have.
    fn read_file(&mut self, path: &Path, events: &mut Vec<Event>) -> bool {
        let state = self.files.entry(path.to_owned()).or_default();
        let content = read_if_changed(path, state.stamp);
        let (stamp, bytes) = match content {
            Ok(None) => return false,
            Ok(Some(content)) => content,
            Err(e) => {
                let diagnostic = about_file(path, format!("cannot be read: {e}"), !state.resources.is_empty());
                state.stamp = None;
                report(state, vec![diagnostic], path, events);
                return false;
            }
        };
        let hash = xxhash_rust::xxh64::xxh64(&bytes, 0);
        let unchanged = state.stamp.is_some() && state.hash == hash;
        (state.stamp, state.hash) = (Some(stamp), hash);
        if unchanged {
            return false;
        }
        let Ok(text) = String::from_utf8(bytes) else {
            let diagnostic = about_file(path, "is not UTF-8 text".into(), !state.resources.is_empty());
            report(state, vec![diagnostic], path, events);
            return false;
        };
        let read = read_documents(path, &text, &self.options.default_namespace, &state.resources);
        state.resources = read.resources;
        report(state, read.diagnostics, path, events);
        true
    }

    /// Compares the union of all files with what was in force. Where files disagree, the first path wins.
    fn settle(&mut self, events: &mut Vec<Event>) {
        let mut now: BTreeMap<ResourceKey, Resource> = BTreeMap::new();
        for (path, file) in &self.files {
            for (key, resource) in &file.resources {
                if let Some(first) = now.get(key) {
                    let at = first.meta.place.as_ref().map(ToString::to_string).unwrap_or_default();
                    let place = resource.meta.place.clone().unwrap_or_else(|| place(path, 0));
                    events.push(Event::Diagnostic(Diagnostic {
                        severity: Severity::Warning,
                        place,
                        column: 0,
                        key: Some(key.clone()),
                        message: format!("is ignored: the same resource is defined in {at}"),
                        last_good_kept: false,
                    }));
                } else {
                    now.insert(key.clone(), resource.clone());
                }
            }
        }
        for (key, resource) in &now {
            if self.in_force.get(key).is_none_or(|old| old.raw != resource.raw) {
                events.push(Event::Applied(resource.clone()));
            }
        }
        for key in self.in_force.keys() {
            if !now.contains_key(key) {
                events.push(Event::Deleted(key.clone()));
            }
        }
        self.in_force = now;
    }
}

fn report(state: &mut FileState, diagnostics: Vec<Diagnostic>, path: &Path, events: &mut Vec<Event>) {
    let had_errors = state.diagnostics.iter().any(|d| d.severity == Severity::Error);
    let fresh = diagnostics.iter().filter(|d| !state.diagnostics.contains(d));
    events.extend(fresh.cloned().map(Event::Diagnostic));
    if had_errors && diagnostics.iter().all(|d| d.severity != Severity::Error) {
        let mut resolved = about_file(path, "has no errors any more".into(), false);
        resolved.severity = Severity::Resolved;
        events.push(Event::Diagnostic(resolved));
    }
    state.diagnostics = diagnostics;
}

struct ReadFile {
    resources: BTreeMap<ResourceKey, Resource>,
    diagnostics: Vec<Diagnostic>,
}

fn read_documents(path: &Path, text: &str, namespace: &str, before: &BTreeMap<ResourceKey, Resource>) -> ReadFile {
    let mut out = ReadFile { resources: BTreeMap::new(), diagnostics: Vec::new() };
    let mut unidentified = false;
    let mut broken: Vec<ResourceKey> = Vec::new();
    for document in documents(text) {
        match document {
            Err(e) => {
                unidentified = true;
                out.diagnostics.push(Diagnostic {
                    severity: Severity::Error,
                    place: place(path, e.line),
                    column: e.column,
                    key: None,
                    message: e.message,
                    last_good_kept: !before.is_empty(),
                });
            }
            Ok(document) => {
                let items = expand_list(&document.value);
                for (prefix, item) in items {
                    let at = Item { path, document: &document, prefix: &prefix };
                    match read_item(&at, item, namespace, before, &mut out.diagnostics) {
                        Ok(resource) if out.resources.contains_key(resource.key()) => {
                            let first = &out.resources[resource.key()].meta.place;
                            let first = first.as_ref().map(ToString::to_string).unwrap_or_default();
                            let message = format!("is ignored: the same resource is defined in {first}");
                            out.diagnostics.push(at.diagnostic(Severity::Warning, Some(resource.key()), "", message));
                        }
                        Ok(resource) => {
                            out.resources.insert(resource.key().clone(), resource);
                        }
                        Err(Some(key)) => broken.push(key),
                        Err(None) => unidentified = true,
                    }
                }
            }
        }
    }
    // The last good version stays: of the named resources, or of everything missing when a name could not be read.
    for (key, resource) in before {
        if !out.resources.contains_key(key) && (unidentified || broken.contains(key)) {
            out.resources.insert(key.clone(), resource.clone());
        }
    }
    out
}

/// One resource of a document, for pointing at its fields.
struct Item<'a> {
    path: &'a Path,
    document: &'a Document<'a>,
    prefix: &'a str,
}

impl Item<'_> {
    fn diagnostic(&self, severity: Severity, key: Option<&ResourceKey>, field: &str, message: String) -> Diagnostic {
        let full = match (self.prefix, field) {
            ("", field) => field.to_owned(),
            (prefix, "") => prefix.to_owned(),
            (prefix, field) => format!("{prefix}.{field}"),
        };
        let (line, column) = self.document.locate(&full);
        Diagnostic {
            severity,
            place: place(self.path, line),
            column,
            key: key.cloned(),
            message: if field.is_empty() { message } else { format!("{field}: {message}") },
            last_good_kept: false,
        }
    }
}

fn read_item(
    at: &Item<'_>,
    raw: Value,
    namespace: &str,
    before: &BTreeMap<ResourceKey, Resource>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Result<Resource, Option<ResourceKey>> {
    let line = at.document.locate(at.prefix).0;
    let line = if at.prefix.is_empty() { at.document.line } else { line };
    let rejected = match Resource::from_value(raw, Some(place(at.path, line)), namespace) {
        Ok(resource) => {
            let verdict = validate::validate(&resource);
            for warning in &verdict.warnings {
                let key = Some(resource.key());
                diagnostics.push(at.diagnostic(Severity::Warning, key, &warning.path, warning.message.clone()));
            }
            if let Kind::Other(gvk) = &resource.key().kind {
                let message = format!("kind {gvk} has no meaning in this mesh; it is kept as written");
                diagnostics.push(at.diagnostic(Severity::Info, Some(resource.key()), "kind", message));
            }
            if verdict.is_valid() {
                return Ok(resource);
            }
            api::Rejected { key: Some(resource.key().clone()), place: None, problems: verdict.errors }
        }
        Err(rejected) => rejected,
    };
    let kept = match &rejected.key {
        Some(key) => before.contains_key(key),
        None => !before.is_empty(),
    };
    for problem in rejected.problems {
        let mut d = at.diagnostic(Severity::Error, rejected.key.as_ref(), &problem.path, problem.message);
        d.last_good_kept = kept;
        diagnostics.push(d);
    }
    Err(rejected.key)
}

/// The items of a `List`, each with its path; any other document is its own single item.
fn expand_list(v: &Value) -> Vec<(String, Value)> {
    let kind = v.get("kind").and_then(Value::as_str).unwrap_or_default();
    match v.get("items") {
        Some(Value::Array(items)) if kind.ends_with("List") => {
            items.iter().enumerate().map(|(i, item)| (format!("items[{i}]"), item.clone())).collect()
        }
        _ => vec![(String::new(), v.clone())],
    }
}

fn place(path: &Path, line: u32) -> Place {
    Place { file: Arc::from(path.to_string_lossy()), line }
}

fn about_file(path: &Path, message: String, kept: bool) -> Diagnostic {
    Diagnostic { severity: Severity::Error, place: place(path, 0), column: 0, key: None, message, last_good_kept: kept }
}

/// Content of a file whose time stamp differs, or which is too young for time stamps to tell.
fn read_if_changed(path: &Path, known: Option<Stamp>) -> io::Result<Option<(Stamp, Vec<u8>)>> {
    let metadata = fs::metadata(path)?;
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    let stamp = Stamp { modified: metadata.modified()?, len: metadata.len() };
    let settled = SystemTime::now().duration_since(stamp.modified).is_ok_and(|age| age > FRESH);
    if settled && known == Some(stamp) {
        return Ok(None);
    }
    Ok(Some((stamp, fs::read(path)?)))
}

/// Collects manifest files, in path order. Hidden entries are skipped (Kubernetes keeps its `..data` there and links
/// to it); links are followed.
fn walk(path: &Path, depth: usize, skip: &[String], found: &mut Vec<PathBuf>) -> io::Result<()> {
    if found.len() >= FILES_MAX || depth > DEPTH_MAX {
        return Ok(());
    }
    let metadata = fs::metadata(path)?;
    if metadata.is_file() {
        let manifest = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if manifest || depth == 0 {
            found.push(path.to_owned());
        }
        return Ok(());
    }
    let skipped = depth > 0 && path.file_name().is_some_and(|n| skip.iter().any(|s| n == s.as_str()));
    if !metadata.is_dir() || skipped {
        return Ok(());
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path)?
        .filter_map(Result::ok)
        .filter(|e| !e.file_name().to_string_lossy().starts_with('.'))
        .map(|e| e.path())
        .collect();
    entries.sort();
    for entry in entries {
        // An entry that vanishes or cannot be read is nobody's reason to stop; a root is (depth 0).
        let _ = walk(&entry, depth + 1, skip, found);
    }
    Ok(())
}
