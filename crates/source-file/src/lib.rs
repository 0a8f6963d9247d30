//! What do the manifests in a directory say now? Watches, parses, reports, keeps the last good version.
//!
//! [`FileSource::scan`] compares the files with what was read before and returns a [`Batch`] of events; [`watch`]
//! does so in a thread of its own whenever something changes. `proa up` and `proa discovery --configDir` both use it.
//! A broken document affects neither the other documents of its file nor other files: the last good version of its
//! resource stays in force and the diagnostic says so. Deliberately absent: what resources mean together.

mod scan;
mod watch;

use std::fmt;

use api::{Place, Resource};
use names::ResourceKey;

pub use scan::{DEPTH_MAX, FILE_BYTES_MAX, FILES_MAX, FileSource, Options};
pub use watch::{Handle, watch};

/// What changed since the last batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Changes, deletions last.
    pub events: Vec<Event>,
    /// Set on the first batch: everything that is there has been read.
    pub initial: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The resource is new or different.
    Applied(Resource),
    /// The resource is gone.
    Deleted(ResourceKey),
    /// Something is wrong, or no longer (see [`Severity::Resolved`]).
    Diagnostic(Diagnostic),
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// What the file says is not in force.
    Error,
    /// In force, and probably not meant.
    Warning,
    /// Kept without meaning here.
    Info,
    /// A file that had errors has none any more.
    Resolved,
}

/// A message about a place in a file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// File and line.
    pub place: Place,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// The resource concerned, when that much could be read.
    pub key: Option<ResourceKey>,
    /// Field path and reason.
    pub message: String,
    /// An earlier version of the resource is still in force.
    pub last_good_kept: bool,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        f.write_str(match self.severity {
            Severity::Error => ": error: ",
            Severity::Warning => ": warning: ",
            Severity::Info => ": note: ",
            Severity::Resolved => ": resolved: ",
        })?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        if self.last_good_kept {
            f.write_str(" (the last good version stays in force)")?;
        }
        Ok(())
    }
}
