//! The examples of the project are read without errors.

use std::path::PathBuf;

use source_file::{Event, FileSource, Options, Severity};

#[test]
fn examples_have_no_errors() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let batch = FileSource::new([dir], Options::default()).scan();
    let errors: Vec<String> = batch
        .events
        .iter()
        .filter_map(|e| match e {
            Event::Diagnostic(d) if d.severity == Severity::Error => Some(d.to_string()),
            _ => None,
        })
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
}
