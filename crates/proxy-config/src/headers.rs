//! Which headers are added, replaced or removed? Compiled `HeaderValueOption` lists with their format strings.
//!
//! Evaluated by `proxy-core::headers`.

use std::sync::Arc;

use crate::format::Format;
use crate::matcher::HeaderName;

/// `HeaderValueOption.append_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// Adds another value, or the header when it is absent (default).
    AppendIfExistsOrAdd,
    /// Adds only when absent.
    AddIfAbsent,
    /// Replaces all values, or adds.
    OverwriteIfExistsOrAdd,
    /// Replaces all values, only when present.
    OverwriteIfExists,
}

/// One header to write.
#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// Lower-case name.
    pub name: HeaderName,
    /// Name as configured, for case-preserving peers.
    pub name_as_given: Arc<str>,
    /// Value.
    pub value: Format,
    /// How to combine with existing values.
    pub action: AppendAction,
    /// Writes the header even if the value came out empty (default: such headers are dropped).
    pub keep_empty: bool,
}

/// Header operations of one configuration level.
#[derive(Debug, Clone, Default)]
pub struct HeaderOps {
    /// Names to remove; applied before the additions of the same level.
    pub remove: Box<[HeaderName]>,
    /// Headers to write, in order.
    pub add: Box<[HeaderAdd]>,
}

impl HeaderOps {
    /// True when nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// The non-empty levels that apply to one route, in the order in which they are evaluated
/// (weighted cluster, route, virtual host, table; reversed by `most_specific_header_mutations_wins`).
pub type HeaderChain = Box<[Arc<HeaderOps>]>;
