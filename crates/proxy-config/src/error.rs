//! Why was a resource refused, and where in it? One small error with a field path; used by every parser here.
//!
//! The path is built from the inside out while the error travels up the message tree, so parsers pay nothing
//! when all is well.

use std::fmt;

/// Result of parsing one message.
pub type Result<T> = std::result::Result<T, ConfigError>;

/// A refused configuration: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Segments from the innermost to the outermost, e.g. `["match", "routes[0]", "virtual_hosts[2]"]`.
    path: Vec<String>,
    /// What is wrong with the field.
    pub reason: Reason,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A required field is absent or empty.
    #[error("value is required")]
    Missing,
    /// The field asks for something that this proxy does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// A typed config, extension or enum value that nobody here knows.
    #[error("Didn't find a registered implementation for '{name}' with type URL: '{type_url}'")]
    UnknownType {
        /// Extension name as configured.
        name: String,
        /// The type URL of its typed config.
        type_url: String,
    },
    /// Protobuf bytes inside an `Any` do not decode.
    #[error("Unable to parse {type_url}: {detail}")]
    Malformed {
        /// The type URL that was being decoded.
        type_url: String,
        /// The decoder's words.
        detail: String,
    },
    /// The value breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// A regular expression does not compile.
    #[error("invalid regular expression: {0}")]
    Regex(String),
    /// A substitution format string does not parse.
    #[error("{0}")]
    Format(#[from] crate::format::FormatError),
    /// The same key appears twice where it must be unique.
    #[error("duplicate {0}")]
    Duplicate(String),
}

impl ConfigError {
    /// A new error at the current field.
    pub fn new(reason: Reason) -> Self {
        Self { path: Vec::new(), reason }
    }

    /// Adds the enclosing field.
    #[must_use]
    pub fn at(mut self, field: &str) -> Self {
        self.path.push(field.to_owned());
        self
    }

    /// Adds the enclosing repeated field and index.
    #[must_use]
    pub fn at_index(mut self, field: &str, index: usize) -> Self {
        self.path.push(format!("{field}[{index}]"));
        self
    }

    /// The dotted path from the resource to the offending field (empty at the resource itself).
    pub fn path(&self) -> String {
        let mut out = String::new();
        for segment in self.path.iter().rev() {
            if !out.is_empty() && !segment.starts_with('[') {
                out.push('.');
            }
            out.push_str(segment);
        }
        out
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        if path.is_empty() { write!(f, "{}", self.reason) } else { write!(f, "{path}: {}", self.reason) }
    }
}

impl std::error::Error for ConfigError {}

impl From<Reason> for ConfigError {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

/// An `Invalid` error with this text.
pub fn invalid(text: impl Into<String>) -> ConfigError {
    ConfigError::new(Reason::Invalid(text.into()))
}

/// An `Unsupported` error for this thing.
pub fn unsupported(what: impl Into<String>) -> ConfigError {
    ConfigError::new(Reason::Unsupported(what.into()))
}

/// A `Missing` error for this field.
pub fn missing(field: &str) -> ConfigError {
    ConfigError::new(Reason::Missing).at(field)
}

/// Adds field path segments to a result's error.
pub trait At<T> {
    /// The error happened inside `field`.
    fn at(self, field: &str) -> Result<T>;
    /// The error happened inside `field[index]`.
    fn at_index(self, field: &str, index: usize) -> Result<T>;
}

impl<T, E: Into<ConfigError>> At<T> for std::result::Result<T, E> {
    fn at(self, field: &str) -> Result<T> {
        self.map_err(|e| e.into().at(field))
    }

    fn at_index(self, field: &str, index: usize) -> Result<T> {
        self.map_err(|e| e.into().at_index(field, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_reads_from_the_outside_in() {
        let e = missing("match").at_index("routes", 0).at_index("virtual_hosts", 2).at("route_config");
        assert_eq!(e.to_string(), "route_config.virtual_hosts[2].routes[0].match: value is required");
    }
}
