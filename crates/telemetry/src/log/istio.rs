//! How do the control plane and the agent log? `tracing` events in Istio's line format, with Istio's scopes.
//!
//! An event's target is its scope: `tracing::info!(target: "ads", "…")`. Targets that are Rust paths (`hyper::…`,
//! `proa_…::…`) belong to the scope `default`. Lines look as Istio's do:
//! `2019-04-03T06:43:56.839512Z\tinfo\tads\tmessage\tkey=value`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::time::Civil;

/// Istio's levels, most verbose first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `debug`
    Debug,
    /// `info`
    Info,
    /// `warn`
    Warn,
    /// `error`
    Error,
    /// `fatal`
    Fatal,
    /// `none`
    None,
}

impl Level {
    /// All levels.
    pub const ALL: [Level; 6] = [Level::Debug, Level::Info, Level::Warn, Level::Error, Level::Fatal, Level::None];

    /// Istio's word.
    pub fn as_str(self) -> &'static str {
        ["debug", "info", "warn", "error", "fatal", "none"][self as usize]
    }

    /// Reads Istio's word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|l| l.as_str() == word)
    }
}

/// The level of each scope; `default` holds for scopes not named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    default: Level,
    scopes: BTreeMap<String, Level>,
}

/// What is wrong with `--log_output_level`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "invalid output level '{0}': want scope:level[,scope:level], level one of debug, info, warn, error, fatal, none"
)]
pub struct LevelsError(String);

impl Levels {
    /// Reads `--log_output_level`: `default:info,ads:debug`, `all:debug`, or one bare level.
    pub fn parse(list: &str) -> Result<Self, LevelsError> {
        let mut levels = Self { default: Level::Info, scopes: BTreeMap::new() };
        for part in list.split(',').filter(|p| !p.trim().is_empty()) {
            let (scope, word) = part.trim().split_once(':').unwrap_or(("default", part.trim()));
            let level = Level::parse(word).ok_or_else(|| LevelsError(part.into()))?;
            levels.set(scope, level);
        }
        Ok(levels)
    }

    /// Sets one scope, or all of them by `default` or `all`.
    pub fn set(&mut self, scope: &str, level: Level) {
        match scope {
            "default" => self.default = level,
            "all" => {
                self.default = level;
                self.scopes.clear();
            }
            _ => {
                self.scopes.insert(scope.into(), level);
            }
        }
    }

    /// The level in force for a scope.
    pub fn get(&self, scope: &str) -> Level {
        self.scopes.get(scope).copied().unwrap_or(self.default)
    }

    /// Scopes set by name, and `default`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Level)> {
        std::iter::once(("default", self.default)).chain(self.scopes.iter().map(|(k, v)| (k.as_str(), *v)))
    }
}

/// Where lines go and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Levels at start.
    pub levels: Levels,
    /// One JSON object per line (`--log_as_json`).
    pub json: bool,
    /// Standard output as Istio does, instead of standard error.
    pub stdout: bool,
}

static LEVELS: OnceLock<ArcSwap<Levels>> = OnceLock::new();

/// Installs the subscriber for the whole process; a second call changes levels only.
pub fn init(options: Options) {
    set_levels(options.levels);
    let layer = IstioLayer { json: options.json, stdout: options.stdout };
    // Fails if another subscriber is there already (a test's, or ours from before): its choice stands.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer));
}

/// Changes levels from now on (`/scopez`, `istioctl admin log`).
pub fn set_levels(levels: Levels) {
    let levels = Arc::new(levels);
    LEVELS.get_or_init(|| ArcSwap::new(levels.clone())).store(levels);
    tracing::callsite::rebuild_interest_cache();
}

/// Levels in force.
pub fn levels() -> Levels {
    LEVELS.get().map_or_else(|| Levels { default: Level::Info, scopes: BTreeMap::new() }, |l| Levels::clone(&l.load()))
}

struct IstioLayer {
    json: bool,
    stdout: bool,
}

fn scope_of<'a>(metadata: &'a Metadata<'_>) -> &'a str {
    let target = metadata.target();
    if target.contains("::") || target == metadata.module_path().unwrap_or_default() { "default" } else { target }
}

fn level_of(level: &tracing::Level) -> Level {
    match *level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        _ => Level::Debug,
    }
}

impl<S: Subscriber> Layer<S> for IstioLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        if !metadata.is_event() || *metadata.level() == tracing::Level::TRACE {
            return false;
        }
        // Chatter of the libraries below us is not Istio's debug output.
        let library = metadata.target().contains("::") && !metadata.target().starts_with("proa");
        let wanted =
            if library { Level::Warn } else { LEVELS.get().map_or(Level::Info, |l| l.load().get(scope_of(metadata))) };
        level_of(metadata.level()) >= wanted
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = render(
            self.json,
            SystemTime::now(),
            level_of(event.metadata().level()),
            scope_of(event.metadata()),
            &fields,
        );
        // A log that cannot be written must not stop the process.
        let _ = if self.stdout {
            std::io::stdout().write_all(line.as_bytes())
        } else {
            std::io::stderr().write_all(line.as_bytes())
        };
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.message, "{value:?}");
        } else {
            self.rest.push((field.name(), format!("{value:?}")));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value)
        } else {
            self.rest.push((field.name(), value.to_owned()))
        }
    }
}

fn render(json: bool, now: SystemTime, level: Level, scope: &str, fields: &Fields) -> String {
    let mut time = String::new();
    Civil::from(now).format("%Y-%m-%dT%H:%M:%S.%6fZ", &mut time);
    if json {
        let mut object = serde_json::Map::new();
        object.insert("level".into(), level.as_str().into());
        object.insert("time".into(), time.into());
        object.insert("scope".into(), scope.into());
        object.insert("msg".into(), fields.message.clone().into());
        fields.rest.iter().for_each(|(k, v)| {
            object.insert((*k).into(), v.clone().into());
        });
        return format!("{}\n", serde_json::Value::Object(object));
    }
    let mut line = format!("{time}\t{}\t", level.as_str());
    if scope != "default" {
        line.push_str(scope);
        line.push('\t');
    }
    line.push_str(&fields.message);
    fields.rest.iter().enumerate().for_each(|(i, (k, v))| {
        let _ = write!(line, "{}{k}={v}", if i == 0 { '\t' } else { ' ' });
    });
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn levels_by_scope() {
        let levels = Levels::parse("default:warn,ads:debug").expect("valid");
        assert_eq!((levels.get("ads"), levels.get("model")), (Level::Debug, Level::Warn));
        assert_eq!(Levels::parse("all:error").expect("valid").get("x"), Level::Error);
        assert_eq!(Levels::parse("ads:loud"), Err(LevelsError("ads:loud".into())));
    }

    #[test]
    fn lines() {
        let at = UNIX_EPOCH + Duration::new(1_554_273_836, 839_512_000);
        let fields = Fields { message: "Push".into(), rest: vec![("node", "a".into()), ("n", "2".into())] };
        assert_eq!(
            render(false, at, Level::Info, "ads", &fields),
            "2019-04-03T06:43:56.839512Z\tinfo\tads\tPush\tnode=a n=2\n"
        );
        assert_eq!(
            render(false, at, Level::Warn, "default", &Fields::default()),
            "2019-04-03T06:43:56.839512Z\twarn\t\n"
        );
        assert_eq!(
            render(true, at, Level::Info, "ads", &fields),
            "{\"level\":\"info\",\"time\":\"2019-04-03T06:43:56.839512Z\",\"scope\":\"ads\",\"msg\":\"Push\",\"node\":\"a\",\"n\":\"2\"}\n"
        );
    }
}
