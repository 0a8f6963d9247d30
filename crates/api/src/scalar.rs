//! Scalars with a spelling of their own: durations, string matches, integers-or-strings.

use std::fmt;

use serde_json::{Value, json};

use crate::shape::{Reader, Shape};

/// A duration as protobuf has it: may be negative, keeps nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Duration {
    nanos: i128,
}

impl Duration {
    /// Whole seconds.
    pub const fn from_secs(secs: i64) -> Self {
        Duration { nanos: secs as i128 * 1_000_000_000 }
    }

    /// Milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Duration { nanos: millis as i128 * 1_000_000 }
    }

    /// Nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Duration { nanos: nanos as i128 }
    }

    /// Reads Go's and proto-JSON's spelling: `1.5s`, `100ms`, `1h30m`, `-2s`, `0`.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, mut rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        if rest == "0" {
            return Some(Duration::default());
        }
        if rest.is_empty() {
            return None;
        }
        let mut nanos: i128 = 0;
        while !rest.is_empty() {
            let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(number_len);
            let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_len);
            let scale: i128 = match unit {
                "ns" => 1,
                "us" | "µs" | "μs" => 1_000,
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return None,
            };
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 || whole.len() > 18 {
                return None;
            }
            let digits = |s: &str| -> Option<i128> { if s.is_empty() { Some(0) } else { s.parse().ok() } };
            nanos += digits(whole)? * scale + digits(fraction)? * scale / 10i128.pow(fraction.len() as u32);
            rest = tail;
        }
        Some(Duration { nanos: if negative { -nanos } else { nanos } })
    }

    /// As a `std` duration; negative ones are zero.
    pub fn to_std(self) -> std::time::Duration {
        let nanos = self.nanos.max(0);
        std::time::Duration::new(
            u64::try_from(nanos / 1_000_000_000).unwrap_or(u64::MAX),
            u32::try_from(nanos % 1_000_000_000).expect("a remainder below 10^9"),
        )
    }

    /// Total nanoseconds, negative below zero.
    pub fn as_nanos(self) -> i128 {
        self.nanos
    }

    /// Whether the duration is zero.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(d: Duration) -> Self {
        d.to_std()
    }
}

impl fmt::Display for Duration {
    /// proto-JSON's spelling: seconds with 0, 3, 6 or 9 digits and `s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, n) = if self.nanos < 0 { ("-", -self.nanos) } else { ("", self.nanos) };
        let (secs, nanos) = (n / 1_000_000_000, n % 1_000_000_000);
        match nanos {
            0 => write!(f, "{sign}{secs}s"),
            n if n % 1_000_000 == 0 => write!(f, "{sign}{secs}.{:03}s", n / 1_000_000),
            n if n % 1_000 == 0 => write!(f, "{sign}{secs}.{:06}s", n / 1_000),
            n => write!(f, "{sign}{secs}.{n:09}s"),
        }
    }
}

impl Shape for Duration {
    fn read(v: &Value, r: &mut Reader) -> Self {
        let parsed = match v {
            Value::Null => Some(Duration::default()),
            Value::String(s) => Duration::parse(s),
            _ => None,
        };
        parsed.unwrap_or_else(|| {
            r.problem(format!("{v} is not a duration (write for example \"1.5s\", \"100ms\" or \"1h\")"));
            Duration::default()
        })
    }
    fn write(&self) -> Value {
        Value::String(self.to_string())
    }
    fn is_absent(&self) -> bool {
        self.is_zero()
    }
}

/// How a header, path or other text is matched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum StringMatch {
    /// Nothing was said (`{}`): the value must be present, whatever it is.
    #[default]
    Present,
    /// Equality.
    Exact(String),
    /// Leading text.
    Prefix(String),
    /// RE2 regular expression over the whole value.
    Regex(String),
}

impl Shape for StringMatch {
    fn read(v: &Value, r: &mut Reader) -> Self {
        let mut out = StringMatch::Present;
        let mut set = 0;
        r.object(
            v,
            |r, key, v| {
                if v.is_null() {
                    return true;
                }
                let text = r.field(key, |r| String::read(v, r));
                out = match key {
                    "exact" => StringMatch::Exact(text),
                    "prefix" => StringMatch::Prefix(text),
                    "regex" => StringMatch::Regex(text),
                    _ => return false,
                };
                set += 1;
                true
            },
            &["exact", "prefix", "regex"],
        );
        if set > 1 {
            r.problem("only one of exact, prefix, regex may be set");
        }
        out
    }
    fn write(&self) -> Value {
        match self {
            StringMatch::Present => json!({}),
            StringMatch::Exact(s) => json!({ "exact": s }),
            StringMatch::Prefix(s) => json!({ "prefix": s }),
            StringMatch::Regex(s) => json!({ "regex": s }),
        }
    }
    fn is_absent(&self) -> bool {
        false
    }
}

/// A port number or a port name (Kubernetes's `IntOrString`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A name.
    Str(String),
}

impl IntOrString {
    /// The number, also when written as a string.
    pub fn as_int(&self) -> Option<i32> {
        match self {
            IntOrString::Int(n) => Some(*n),
            IntOrString::Str(s) => s.parse().ok(),
        }
    }
}

impl Default for IntOrString {
    fn default() -> Self {
        IntOrString::Int(0)
    }
}

impl Shape for IntOrString {
    fn read(v: &Value, r: &mut Reader) -> Self {
        match v {
            Value::String(s) => IntOrString::Str(s.clone()),
            _ => IntOrString::Int(i32::read(v, r)),
        }
    }
    fn write(&self) -> Value {
        match self {
            IntOrString::Int(n) => Value::from(*n),
            IntOrString::Str(s) => Value::from(s.as_str()),
        }
    }
    fn is_absent(&self) -> bool {
        *self == IntOrString::Int(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, printed: &str| {
            assert_eq!(Duration::parse(text).map(|d| d.to_string()).as_deref(), Some(printed), "{text}");
        };
        check("1s", "1s");
        check("1.5s", "1.500s");
        check("100ms", "0.100s");
        check("1h30m", "5400s");
        check("-2s", "-2s");
        check("0", "0s");
        check("1us", "0.000001s");
        check("5ns", "0.000000005s");
        check(".5s", "0.500s");
        for bad in ["", "5", "s", "1x", "1.s2", "-", "1 s", ".s"] {
            assert_eq!(Duration::parse(bad), None, "{bad}");
        }
        assert_eq!(Duration::from_secs(-1).to_std(), std::time::Duration::ZERO);
    }
}
