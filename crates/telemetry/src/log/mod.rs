//! What is the proxy doing right now? Log scopes under Envoy's logger names, changeable while it runs.
//!
//! `telemetry::debug!(router, "[C{}][S{}] cluster '{}' match", c, s, name)` costs one relaxed load when `router` is
//! above debug. Scopes, pattern and destination are process-wide, as in Envoy: one process is one proxy.
//! The control plane and the agent log through `tracing` in Istio's line format ([`istio`]).

mod envoy;
pub mod istio;
mod pattern;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;

pub use envoy::{SCOPES, scope};
pub use pattern::{DEFAULT_FORMAT, Pattern};

/// Levels in Envoy's order and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// `trace`
    Trace,
    /// `debug`
    Debug,
    /// `info`
    Info,
    /// `warning`
    Warning,
    /// `error`
    Error,
    /// `critical`
    Critical,
    /// Nothing is logged.
    Off,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Level; 7] =
        [Level::Trace, Level::Debug, Level::Info, Level::Warning, Level::Error, Level::Critical, Level::Off];

    /// Envoy's word.
    pub fn as_str(self) -> &'static str {
        ["trace", "debug", "info", "warning", "error", "critical", "off"][self as usize]
    }

    /// Reads Envoy's word; `warn` and `err` are taken too, as spdlog does.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "warn" => Some(Self::Warning),
            "err" => Some(Self::Error),
            _ => Self::ALL.into_iter().find(|l| l.as_str() == word),
        }
    }
}

/// One logger.
#[derive(Debug)]
pub struct Scope {
    name: &'static str,
    level: AtomicU8,
}

impl Scope {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, level: AtomicU8::new(Level::Info as u8) }
    }

    /// Envoy's logger name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Current level.
    pub fn level(&self) -> Level {
        Level::ALL[self.level.load(Relaxed) as usize % Level::ALL.len()]
    }

    /// Changes the level from now on.
    pub fn set_level(&self, level: Level) {
        self.level.store(level as u8, Relaxed);
    }

    /// Would a line of `level` be written?
    #[inline(always)]
    pub fn enabled(&self, level: Level) -> bool {
        self.level.load(Relaxed) <= level as u8
    }
}

/// Finds a logger by name.
pub fn find(name: &str) -> Option<&'static Scope> {
    SCOPES.iter().copied().find(|s| s.name == name)
}

/// Sets every logger to `level`.
pub fn set_all(level: Level) {
    SCOPES.iter().for_each(|s| s.set_level(level));
}

fn components(list: &str, mut each: impl FnMut(&'static Scope, Level)) -> Result<(), LevelError> {
    for part in list.split(',').filter(|p| !p.is_empty()) {
        let (name, level) = part.split_once(':').ok_or_else(|| LevelError::Syntax(part.into()))?;
        let scope = find(name).ok_or_else(|| LevelError::Scope(name.into()))?;
        each(scope, Level::parse(level).ok_or_else(|| LevelError::Level(level.into()))?);
    }
    Ok(())
}

/// Would [`set_components`] take this list?
pub fn check_components(list: &str) -> Result<(), LevelError> {
    components(list, |_, _| {})
}

/// Applies `--component-log-level`: `upstream:debug,connection:trace`; all of it or nothing.
pub fn set_components(list: &str) -> Result<(), LevelError> {
    check_components(list)?;
    components(list, Scope::set_level)
}

/// What is wrong with a level setting.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LevelError {
    /// Not `name:level`.
    #[error("error: component log level not correctly specified '{0}'")]
    Syntax(String),
    /// No such logger.
    #[error("error: invalid component specified '{0}'")]
    Scope(String),
    /// No such level.
    #[error("error: invalid log level specified '{0}'")]
    Level(String),
}

enum Destination {
    Stderr,
    File { path: PathBuf, file: File },
}

static PATTERN: ArcSwapOption<Pattern> = ArcSwapOption::const_empty();
static DESTINATION: Mutex<Destination> = Mutex::new(Destination::Stderr);

/// Sets the line format (`--log-format`).
pub fn set_pattern(pattern: Pattern) {
    PATTERN.store(Some(Arc::new(pattern)));
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Sends lines to a file instead of standard error (`--log-path`).
pub fn set_path(path: &Path) -> io::Result<()> {
    let file = open(path)?;
    *DESTINATION.lock().unwrap_or_else(PoisonError::into_inner) = Destination::File { path: path.into(), file };
    Ok(())
}

/// Opens the log file again, after rotation (SIGUSR1, `/reopen_logs`).
pub fn reopen() -> io::Result<()> {
    let mut destination = DESTINATION.lock().unwrap_or_else(PoisonError::into_inner);
    if let Destination::File { path, file } = &mut *destination {
        *file = open(path)?;
    }
    Ok(())
}

/// Writes one line; called by the macros once they know that the scope is enabled.
#[cold]
#[inline(never)]
pub fn emit(scope: &Scope, level: Level, file: &'static str, line: u32, message: std::fmt::Arguments<'_>) {
    let mut text = String::with_capacity(160);
    let record = pattern::Record { name: scope.name, level, file, line, message };
    match PATTERN.load().as_deref() {
        Some(pattern) => pattern.write(&record, &mut text),
        None => Pattern::parse(DEFAULT_FORMAT).write(&record, &mut text),
    }
    text.push('\n');
    let mut destination = DESTINATION.lock().unwrap_or_else(PoisonError::into_inner);
    // A log that cannot be written must not stop the proxy.
    let _ = match &mut *destination {
        Destination::Stderr => io::stderr().write_all(text.as_bytes()),
        Destination::File { file, .. } => file.write_all(text.as_bytes()),
    };
}

/// Logs at a level given as an expression: `log!(http, Level::Debug, "…")`.
#[macro_export]
macro_rules! log {
    ($scope:ident, $level:expr, $($arg:tt)+) => {{
        let level: $crate::log::Level = $level;
        if $crate::log::scope::$scope.enabled(level) {
            $crate::log::emit(&$crate::log::scope::$scope, level, ::core::file!(), ::core::line!(), ::core::format_args!($($arg)+));
        }
    }};
}

/// Logs at trace: `trace!(http, "…")`.
#[macro_export]
macro_rules! trace { ($scope:ident, $($arg:tt)+) => { $crate::log!($scope, $crate::log::Level::Trace, $($arg)+) }; }
/// Logs at debug: `debug!(http, "…")`.
#[macro_export]
macro_rules! debug { ($scope:ident, $($arg:tt)+) => { $crate::log!($scope, $crate::log::Level::Debug, $($arg)+) }; }
/// Logs at info: `info!(main, "…")`.
#[macro_export]
macro_rules! info { ($scope:ident, $($arg:tt)+) => { $crate::log!($scope, $crate::log::Level::Info, $($arg)+) }; }
/// Logs at warning: `warn!(config, "…")`.
#[macro_export]
macro_rules! warn { ($scope:ident, $($arg:tt)+) => { $crate::log!($scope, $crate::log::Level::Warning, $($arg)+) }; }
/// Logs at error: `error!(config, "…")`.
#[macro_export]
macro_rules! error { ($scope:ident, $($arg:tt)+) => { $crate::log!($scope, $crate::log::Level::Error, $($arg)+) }; }
/// Logs at critical: `critical!(main, "…")`.
#[macro_export]
macro_rules! critical { ($scope:ident, $($arg:tt)+) => { $crate::log!($scope, $crate::log::Level::Critical, $($arg)+) }; }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components() {
        assert_eq!(set_components("http2:trace,hc:off,"), Ok(()));
        assert!(scope::http2.enabled(Level::Trace) && !scope::hc.enabled(Level::Critical));
        assert_eq!(set_components("http2"), Err(LevelError::Syntax("http2".into())));
        assert_eq!(set_components("nix:debug"), Err(LevelError::Scope("nix".into())));
        assert_eq!(set_components("hc:loud"), Err(LevelError::Level("loud".into())));
        assert_eq!(find("conn_handler").map(Scope::name), Some("conn_handler"));
    }

    #[test]
    fn file_is_reopened_after_rotation() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("envoy.log");
        set_path(&path).expect("writable");
        crate::critical!(testing, "one {}", 1);
        std::fs::rename(&path, dir.path().join("old")).expect("rename");
        reopen().expect("writable");
        crate::critical!(testing, "two");
        crate::trace!(testing, "not written");
        *DESTINATION.lock().expect("not poisoned") = Destination::Stderr;
        let new = std::fs::read_to_string(&path).expect("reopened");
        assert!(new.contains("[critical][testing]") && new.ends_with("two\n") && new.lines().count() == 1, "{new}");
        assert!(std::fs::read_to_string(dir.path().join("old")).expect("kept").ends_with("one 1\n"));
    }
}
