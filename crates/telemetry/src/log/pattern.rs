//! How does a log line look? spdlog's patterns, as `--log-format` takes them.

use std::fmt::Write;
use std::time::SystemTime;

use super::Level;
use crate::time::Civil;

/// Envoy's default line.
pub const DEFAULT_FORMAT: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// A time format for [`Civil::format`].
    Time(String),
    /// `%e` `%f` `%F`: digits of the fraction.
    Fraction(u32),
    Thread,
    Process,
    Level,
    ShortLevel,
    Name,
    Message,
    /// `%_`: the message on one line, newlines as `\n`.
    OneLine,
    /// `%j`: the message as the inside of a JSON string.
    Json,
    File,
    BaseName,
    Line,
}

pub(crate) struct Record<'a> {
    pub(crate) name: &'a str,
    pub(crate) level: Level,
    pub(crate) file: &'a str,
    pub(crate) line: u32,
    pub(crate) message: std::fmt::Arguments<'a>,
}

impl Pattern {
    /// Compiles a pattern; letters unknown to spdlog are written as they are, as it does.
    pub fn parse(format: &str) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                Self::text(&mut parts, &c.to_string());
                continue;
            }
            // Padding such as `%-8l` or `%8l` is dropped.
            while chars.peek().is_some_and(|c| c.is_ascii_digit() || matches!(c, '-' | '=' | '!')) && format.len() > 1 {
                if chars.peek() == Some(&'!') {
                    break;
                }
                chars.next();
            }
            parts.push(match chars.next() {
                None => Part::Text("%".into()),
                Some('%') => Part::Text("%".into()),
                Some('t') => Part::Thread,
                Some('P') => Part::Process,
                Some('l') => Part::Level,
                Some('L') => Part::ShortLevel,
                Some('n') => Part::Name,
                Some('v') => Part::Message,
                Some('_') => Part::OneLine,
                Some('j') => Part::Json,
                Some('e') => Part::Fraction(3),
                Some('f') => Part::Fraction(6),
                Some('F') => Part::Fraction(9),
                Some('E') => Part::Time("%s".into()),
                Some('g' | '@') => Part::File,
                Some('s') => Part::BaseName,
                Some('#') => Part::Line,
                Some('z') => Part::Text("+00:00".into()),
                // Colour and function name: there are none.
                Some('^' | '$' | '!') => continue,
                Some(
                    letter @ ('Y' | 'm' | 'd' | 'H' | 'M' | 'S' | 'T' | 'a' | 'A' | 'b' | 'B' | 'C' | 'D' | 'I' | 'p'
                    | 'R' | 'x' | 'X'),
                ) => Part::Time(format!("%{letter}")),
                Some(other) => Part::Text(format!("%{other}")),
            });
        }
        Self(parts)
    }

    fn text(parts: &mut Vec<Part>, text: &str) {
        match parts.last_mut() {
            Some(Part::Text(t)) => t.push_str(text),
            _ => parts.push(Part::Text(text.into())),
        }
    }

    pub(crate) fn write(&self, record: &Record<'_>, out: &mut String) {
        self.write_at(record, Civil::from(SystemTime::now()), out);
    }

    fn write_at(&self, record: &Record<'_>, now: Civil, out: &mut String) {
        for part in &self.0 {
            // Writing to a String cannot fail.
            let _ = match part {
                Part::Text(t) => write!(out, "{t}"),
                Part::Time(f) => {
                    now.format(f, out);
                    Ok(())
                }
                Part::Fraction(digits) => {
                    now.fraction(*digits, out);
                    Ok(())
                }
                Part::Thread => write!(out, "{}", thread_id()),
                Part::Process => write!(out, "{}", std::process::id()),
                Part::Level => write!(out, "{}", record.level.as_str()),
                Part::ShortLevel => write!(out, "{}", &record.level.as_str()[..1].to_uppercase()),
                Part::Name => write!(out, "{}", record.name),
                Part::Message => write!(out, "{}", record.message),
                Part::OneLine => write!(out, "{}", record.message.to_string().replace('\n', "\\n")),
                Part::Json => {
                    let quoted = serde_json::Value::String(record.message.to_string()).to_string();
                    write!(out, "{}", &quoted[1..quoted.len() - 1])
                }
                Part::File => write!(out, "{}", record.file),
                Part::BaseName => write!(out, "{}", record.file.rsplit('/').next().unwrap_or(record.file)),
                Part::Line => write!(out, "{}", record.line),
            };
        }
    }
}

/// The kernel's id of the calling thread, 0 if `/proc` does not tell.
pub(crate) fn thread_id() -> u32 {
    thread_local! {
        static ID: u32 = std::fs::read_link("/proc/thread-self")
            .ok()
            .and_then(|p| p.file_name()?.to_str()?.parse().ok())
            .unwrap_or(0);
    }
    ID.with(|id| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn patterns() {
        let now = Civil::from(UNIX_EPOCH + Duration::new(1_661_694_377, 123_456_789));
        let check = |format: &str, expect: &str| {
            let mut out = String::new();
            let record = Record {
                name: "http",
                level: Level::Debug,
                file: "crates/l7/src/a.rs",
                line: 7,
                message: format_args!("a \"b\"\nc"),
            };
            Pattern::parse(format).write_at(&record, now, &mut out);
            assert_eq!(out, expect.replace("TID", &thread_id().to_string()), "{format}");
        };
        check(DEFAULT_FORMAT, "[2022-08-28 13:46:17.123][TID][debug][http] [crates/l7/src/a.rs:7] a \"b\"\nc");
        check(
            "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t",
            "2022-08-28T13:46:17.123456Z\tdebug\tenvoy http crates/l7/src/a.rs:7\ta \"b\"\nc\tthread=TID",
        );
        check("%L %s %_ {\"m\":\"%j\"} 100%% %", "D a.rs a \"b\"\\nc {\"m\":\"a \\\"b\\\"\\nc\"} 100% %");
    }
}
