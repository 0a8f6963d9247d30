//! How is cargo called from here? One way, so that every call finds what the calls before it have built.

use crate::root;
use std::process::Command;

/// Cargo in the workspace.
pub fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    if std::env::var_os("CI").is_some() {
        // One build from scratch: what incremental compilation writes would only fill the disk. For every call or for none:
        // cargo builds everything again when this changes.
        command.env("CARGO_INCREMENTAL", "0");
    }
    command
}
