//! The source against a real directory: what is applied, deleted, reported and kept.

use std::fs;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::Duration;

use source_file::{Batch, Event, FileSource, Options, Severity, watch};

const A: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  k: v1\n";
const B: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\n  namespace: other\n";

fn summary(batch: &Batch) -> Vec<String> {
    batch
        .events
        .iter()
        .map(|e| match e {
            Event::Applied(r) => format!("+ {}", r.key()),
            Event::Deleted(k) => format!("- {k}"),
            Event::Diagnostic(d) => {
                let place = d.place.to_string();
                let file = Path::new(&place).file_name().unwrap().to_string_lossy().into_owned();
                let kept = if d.last_good_kept { " kept" } else { "" };
                let key = d.key.as_ref().map(|k| format!(" {k}")).unwrap_or_default();
                format!("{:?} {file}:{}{key} {}{kept}", d.severity, d.column, d.message)
            }
        })
        .collect()
}

fn source(dir: &Path) -> FileSource {
    FileSource::new([dir.to_owned()], Options::default())
}

#[test]
fn applies_changes_deletes() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.yaml"), format!("{A}---\n{B}")).unwrap();
    fs::write(dir.path().join("notes.txt"), "not: yaml: at: all").unwrap();
    let mut source = source(dir.path());
    let batch = source.scan();
    assert!(batch.initial);
    assert_eq!(summary(&batch), ["+ ConfigMap default/a", "+ ConfigMap other/b"]);
    assert_eq!(source.scan(), Batch::default());
    fs::write(dir.path().join("a.yaml"), A.replace("v1\n", "v2\n").replace("apiVersion: v2", "apiVersion: v1"))
        .unwrap();
    assert_eq!(summary(&source.scan()), ["+ ConfigMap default/a", "- ConfigMap other/b"]);
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    assert_eq!(summary(&source.scan()), ["- ConfigMap default/a"]);
}

#[test]
fn broken_documents_leave_others_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, format!("{A}---\n{B}")).unwrap();
    let mut source = source(dir.path());
    source.scan();
    // A misspelt field of a known resource: its last good version stays, its neighbour changes.
    fs::write(&file, format!("{}---\n{B}  labels: {{x: y}}\n", A.replace("\ndata:", "\ndota:"))).unwrap();
    assert_eq!(
        summary(&source.scan()),
        [
            "Error a.yaml:5:1 ConfigMap default/a dota: unknown field \"dota\", did you mean \"data\"? kept",
            "+ ConfigMap other/b"
        ]
    );
    assert_eq!(source.resources().count(), 2);
    // Not even YAML: everything of the file that is missing stays.
    fs::write(&file, format!("a: [\n---\n{B}")).unwrap();
    let batch = summary(&source.scan());
    assert!(batch[0].starts_with("Error a.yaml:") && batch[0].ends_with(" kept"), "{batch:?}");
    assert_eq!(source.resources().count(), 2);
    assert_eq!(source.diagnostics().count(), 1);
    fs::write(&file, A).unwrap();
    let batch = summary(&source.scan());
    assert_eq!(batch, ["Resolved a.yaml:0 has no errors any more", "- ConfigMap other/b"]);
}

#[test]
fn duplicates_lists_and_unknown_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: x/v1, kind: Foo, metadata: {name: f}}\n- {apiVersion: v1, kind: Service, metadata: {name: s}, spec: {port: []}}\n";
    fs::write(dir.path().join("a.yaml"), list).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(dir.path().join("sub/z.yaml"), A).unwrap();
    let mut source = source(dir.path());
    let batch = summary(&source.scan());
    let has = |s: &str| assert!(batch.iter().any(|l| l.contains(s)), "{s} in {batch:#?}");
    has("Info a.yaml:5:22 Foo default/f kind: kind x/v1/Foo has no meaning in this mesh");
    has("Error a.yaml:6:63 Service default/s spec.port: unknown field \"port\", did you mean \"ports\"?");
    has("Warning z.yaml:1:0 ConfigMap default/a is ignored: the same resource is defined in ");
    has("+ Foo default/f");
    assert_eq!(source.resources().count(), 2);
}

#[test]
fn follows_kubernetes_symlink_swaps() {
    let dir = tempfile::tempdir().unwrap();
    let at = |p: &str| dir.path().join(p);
    for (version, content) in [("..1", A.to_owned()), ("..2", A.replace("k: v1", "k: v2"))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yaml"), content).unwrap();
    }
    std::os::unix::fs::symlink("..1", at("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", at("a.yaml")).unwrap();
    let mut source = source(dir.path());
    assert_eq!(summary(&source.scan()), ["+ ConfigMap default/a"]);
    std::os::unix::fs::symlink("..2", at("..tmp")).unwrap();
    fs::rename(at("..tmp"), at("..data")).unwrap();
    assert_eq!(summary(&source.scan()), ["+ ConfigMap default/a"]);
}

#[test]
fn watching_reports_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, batches) = channel();
    let handle = watch(source(dir.path()), move |batch| sender.send(batch).is_ok());
    let next = || batches.recv_timeout(Duration::from_secs(20)).expect("a batch");
    assert_eq!(next(), Batch { events: vec![], initial: true });
    fs::write(dir.path().join("a.yaml"), A).unwrap();
    assert_eq!(summary(&next()), ["+ ConfigMap default/a"]);
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    handle.rescan();
    assert_eq!(summary(&next()), ["- ConfigMap default/a"]);
    drop(handle);
}

#[test]
fn reports_unreadable_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.yaml");
    fs::write(&file, A).unwrap();
    let mut source = source(dir.path());
    source.scan();
    fs::write(&file, [0xff, 0xfe, 0x00]).unwrap();
    let batch = source.scan();
    assert_eq!(summary(&batch), ["Error a.yaml:0 is not UTF-8 text kept"]);
    assert!(matches!(&batch.events[0], Event::Diagnostic(d) if d.severity == Severity::Error));
    assert_eq!(source.resources().count(), 1);
}
