//! How does JSON become a typed message, with every mistake reported by its path? The reader, the trait and the
//! two macros behind all shapes of this crate.
//!
//! Not serde, because of what people need from a manifest reader: *all* problems at once, each with its field path;
//! proto-JSON's leniencies (camelCase and snake_case, numbers as strings, enums by name or number, `null` as
//! default); and code that stays small for six hundred messages. Deliberately absent: what is *right* (see
//! `validate`), only what is *readable*.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// One mistake in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Field path, such as `spec.http[0].route[1].destination.host`. Empty for the document itself.
    pub path: String,
    /// What is wrong and, where known, what would be right.
    pub message: String,
}

impl Problem {
    /// A problem at a path.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Most problems reported for one document; a file of garbage must not become a report of its own size.
pub const PROBLEMS_MAX: usize = 64;

/// Keeps the path of the value being read and collects problems.
#[derive(Debug, Default)]
pub struct Reader {
    path: String,
    problems: Vec<Problem>,
}

impl Reader {
    /// A reader that starts at `path` (`spec`, or empty).
    pub fn at(path: &str) -> Self {
        Reader { path: path.to_owned(), problems: Vec::new() }
    }

    /// Records a problem at the current path.
    pub fn problem(&mut self, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem::new(self.path.clone(), message));
        }
    }

    /// Records that a value has the wrong type.
    pub fn expected(&mut self, what: &str, found: &Value) {
        self.problem(format!("expected {what}, found {}", describe(found)));
    }

    /// Runs `f` one field deeper.
    pub fn field<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.path.len();
        if len > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let out = f(self);
        self.path.truncate(len);
        out
    }

    /// Runs `f` one list element deeper.
    pub fn index<T>(&mut self, index: usize, f: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.path.len();
        let _ = write!(self.path, "[{index}]");
        let out = f(self);
        self.path.truncate(len);
        out
    }

    /// Calls `f` for each field of an object; a field that `f` does not know is a problem.
    pub fn object(&mut self, v: &Value, mut f: impl FnMut(&mut Self, &str, &Value) -> bool, known: &[&str]) {
        let Value::Object(map) = v else {
            if !v.is_null() {
                self.expected("an object", v);
            }
            return;
        };
        for (key, value) in map {
            if !f(self, key, value) {
                let hint = nearest(key, known).map(|k| format!(", did you mean {k:?}?")).unwrap_or_default();
                self.field(key, |r| r.problem(format!("unknown field {key:?}{hint}")));
            }
        }
    }

    /// The problems found.
    pub fn finish(self) -> Vec<Problem> {
        self.problems
    }
}

fn describe(v: &Value) -> String {
    match v {
        Value::Null => "null".into(),
        Value::Bool(b) => format!("the boolean {b}"),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) if s.len() <= 40 => format!("the string {s:?}"),
        Value::String(_) => "a string".into(),
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
    }
}

/// The known name that differs least, when it differs little: a hint for typing errors.
fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|k| (edit_distance(&word.to_lowercase(), &k.to_lowercase()), *k))
        .filter(|(d, k)| *d <= 2 && *d < k.len())
        .min()
        .map(|(_, k)| k)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A value that can be read from and written to canonical proto-JSON.
pub trait Shape: Sized {
    /// Reads a value; records problems and falls back to the default for what cannot be read.
    fn read(v: &Value, r: &mut Reader) -> Self;
    /// Writes the canonical form (lower camel case, defaults left out inside).
    fn write(&self) -> Value;
    /// Whether the value is left out when written as a field.
    fn is_absent(&self) -> bool;
}

/// Reads a whole value.
///
/// # Errors
/// All problems found, when there are any.
pub fn from_value<T: Shape>(v: &Value) -> Result<T, Vec<Problem>> {
    let mut r = Reader::default();
    let out = T::read(v, &mut r);
    let problems = r.finish();
    if problems.is_empty() { Ok(out) } else { Err(problems) }
}

impl<T: Shape> Shape for Option<T> {
    fn read(v: &Value, r: &mut Reader) -> Self {
        if v.is_null() { None } else { Some(T::read(v, r)) }
    }
    fn write(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::write)
    }
    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Shape> Shape for Box<T> {
    fn read(v: &Value, r: &mut Reader) -> Self {
        Box::new(T::read(v, r))
    }
    fn write(&self) -> Value {
        (**self).write()
    }
    fn is_absent(&self) -> bool {
        (**self).is_absent()
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn read(v: &Value, r: &mut Reader) -> Self {
        match v {
            Value::Null => Vec::new(),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(i, item)| {
                    r.index(i, |r| {
                        if item.is_null() {
                            r.problem("must not be null");
                        }
                        T::read(item, r)
                    })
                })
                .collect(),
            _ => {
                r.expected("a list", v);
                Vec::new()
            }
        }
    }
    fn write(&self) -> Value {
        Value::Array(self.iter().map(T::write).collect())
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<K: std::str::FromStr + Ord + fmt::Display, T: Shape> Shape for BTreeMap<K, T> {
    fn read(v: &Value, r: &mut Reader) -> Self {
        match v {
            Value::Null => BTreeMap::new(),
            Value::Object(map) => map
                .iter()
                .filter_map(|(k, item)| {
                    r.field(k, |r| match k.parse() {
                        Ok(key) => {
                            if item.is_null() {
                                r.problem("must not be null");
                            }
                            Some((key, T::read(item, r)))
                        }
                        Err(_) => {
                            r.problem(format!("{k:?} is not a valid key here"));
                            None
                        }
                    })
                })
                .collect(),
            _ => {
                r.expected("an object", v);
                BTreeMap::new()
            }
        }
    }
    fn write(&self) -> Value {
        Value::Object(self.iter().map(|(k, v)| (k.to_string(), v.write())).collect())
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl Shape for String {
    fn read(v: &Value, r: &mut Reader) -> Self {
        match v {
            Value::String(s) => s.clone(),
            Value::Null => String::new(),
            _ => {
                r.problem(format!("expected a string, found {} (quote it)", describe(v)));
                String::new()
            }
        }
    }
    fn write(&self) -> Value {
        Value::String(self.clone())
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl Shape for bool {
    fn read(v: &Value, r: &mut Reader) -> Self {
        match v {
            Value::Bool(b) => *b,
            Value::Null => false,
            _ => {
                r.expected("true or false", v);
                false
            }
        }
    }
    fn write(&self) -> Value {
        Value::Bool(*self)
    }
    fn is_absent(&self) -> bool {
        !*self
    }
}

impl Shape for f64 {
    fn read(v: &Value, r: &mut Reader) -> Self {
        let number = match v {
            Value::Number(n) => n.as_f64(),
            Value::String(s) => s.parse().ok(),
            Value::Null => Some(0.0),
            _ => None,
        };
        number.unwrap_or_else(|| {
            r.expected("a number", v);
            0.0
        })
    }
    fn write(&self) -> Value {
        if self.fract() == 0.0 && self.abs() < 1e15 { Value::from(*self as i64) } else { Value::from(*self) }
    }
    fn is_absent(&self) -> bool {
        *self == 0.0
    }
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Shape for $t {
            fn read(v: &Value, r: &mut Reader) -> Self {
                let number = match v {
                    Value::Number(n) => n
                        .as_i64()
                        .or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64)),
                    Value::String(s) => s.parse().ok(),
                    Value::Null => Some(0),
                    _ => None,
                };
                match number.map(<$t>::try_from) {
                    Some(Ok(n)) => n,
                    Some(Err(_)) => {
                        r.problem(format!("{v} is out of range ({} to {})", <$t>::MIN, <$t>::MAX));
                        0
                    }
                    None => {
                        r.expected("a whole number", v);
                        0
                    }
                }
            }
            fn write(&self) -> Value {
                Value::from(*self)
            }
            fn is_absent(&self) -> bool {
                *self == 0
            }
        }
    )*};
}
integers!(u32, i32, i64, u16);

impl Shape for Value {
    fn read(v: &Value, _: &mut Reader) -> Self {
        v.clone()
    }
    fn write(&self) -> Value {
        self.clone()
    }
    fn is_absent(&self) -> bool {
        self.is_null()
    }
}

/// A free-form JSON object (`google.protobuf.Struct`).
pub type Struct = Map<String, Value>;

impl Shape for Struct {
    fn read(v: &Value, r: &mut Reader) -> Self {
        match v {
            Value::Object(map) => map.clone(),
            _ => {
                r.expected("an object", v);
                Map::new()
            }
        }
    }
    fn write(&self) -> Value {
        Value::Object(self.clone())
    }
    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

/// Lower camel case of a field name, computed at compile time.
#[doc(hidden)]
pub struct Wire {
    buf: [u8; 64],
    len: usize,
}

impl Wire {
    /// proto3's `json_name` rule.
    pub const fn camel(name: &str) -> Wire {
        let bytes = name.as_bytes();
        let (mut buf, mut len, mut i, mut upper) = ([0u8; 64], 0, 0, false);
        while i < bytes.len() {
            if bytes[i] == b'_' {
                upper = true;
            } else {
                buf[len] = if upper { bytes[i].to_ascii_uppercase() } else { bytes[i] };
                len += 1;
                upper = false;
            }
            i += 1;
        }
        Wire { buf, len }
    }

    /// The text.
    pub const fn as_str(&self) -> &str {
        match core::str::from_utf8(self.buf.split_at(self.len).0) {
            Ok(s) => s,
            Err(_) => panic!("field names are ASCII"),
        }
    }
}

#[doc(hidden)]
#[macro_export]
macro_rules! wire_name {
    ($field:ident) => {{
        const W: $crate::shape::Wire = $crate::shape::Wire::camel(stringify!($field));
        const S: &str = W.as_str();
        S
    }};
    ($field:ident $wire:literal) => {
        $wire
    };
}

/// Declares messages: plain structs that implement [`Shape`].
///
/// A field's wire name is its lower camel case (the snake case of proto is read too) or the given literal.
/// `@oneof [a, b]` after a struct: at most one of these may be present. `@ignore ["x"]`: fields that exist in the
/// API and have no meaning here; they are read past, and stay in the resource's raw form.
#[macro_export]
macro_rules! shape {
    ($(
        $(#[$meta:meta])*
        $name:ident {
            $( $(#[$fmeta:meta])* $field:ident $(= $wire:literal)? : $ty:ty ),* $(,)?
        }
        $(@oneof [$($one:ident),+])*
        $(@ignore [$($ignored:literal),+ $(,)?])?
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        #[allow(missing_docs)] // Field names are the API's; its reference documents them.
        pub struct $name { $( $(#[$fmeta])* pub $field: $ty ),* }

        impl $crate::shape::Shape for $name {
            #[allow(unused_mut, unused_variables)]
            fn read(v: &serde_json::Value, r: &mut $crate::shape::Reader) -> Self {
                let mut out = Self::default();
                r.object(v, |r, key, v| {
                    $(
                        if key == $crate::wire_name!($field $($wire)?) || key == stringify!($field) {
                            out.$field = r.field(key, |r| <$ty as $crate::shape::Shape>::read(v, r));
                            return true;
                        }
                    )*
                    $( if [$($ignored),+].contains(&key) { return true; } )?
                    false
                }, &[$($crate::wire_name!($field $($wire)?)),*]);
                $({
                    let present = [$(( $crate::wire_name!($one), !$crate::shape::Shape::is_absent(&out.$one) )),+];
                    $crate::shape::one_of(&present, r);
                })*
                out
            }
            #[allow(unused_mut)]
            fn write(&self) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $(
                    if !$crate::shape::Shape::is_absent(&self.$field) {
                        map.insert($crate::wire_name!($field $($wire)?).to_owned(), $crate::shape::Shape::write(&self.$field));
                    }
                )*
                serde_json::Value::Object(map)
            }
            fn is_absent(&self) -> bool {
                *self == Self::default()
            }
        }
    )*};
}

#[doc(hidden)]
pub fn one_of(present: &[(&str, bool)], r: &mut Reader) {
    let set: Vec<&str> = present.iter().filter(|(_, p)| *p).map(|(n, _)| *n).collect();
    if set.len() > 1 {
        r.problem(format!("only one of {} may be set", set.join(", ")));
    }
}

/// Declares enumerations read by name or number. The first variant is the default unless one says `#[default]`.
#[macro_export]
macro_rules! choice {
    ($(
        $(#[$meta:meta])*
        $name:ident { $first:ident = $fnumber:literal $fwire:literal $(, $variant:ident = $number:literal $wire:literal )* $(,)? }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs)] // Values are the API's; its reference documents them.
        pub enum $name { #[default] $first $(, $variant)* }

        impl $name {
            /// The API's spelling.
            pub fn as_str(self) -> &'static str {
                match self { $name::$first => $fwire $(, $name::$variant => $wire)* }
            }
            /// The value with this spelling.
            pub fn parse(s: &str) -> Option<Self> {
                match s { $fwire => Some($name::$first), $($wire => Some($name::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $crate::shape::Shape for $name {
            fn read(v: &serde_json::Value, r: &mut $crate::shape::Reader) -> Self {
                let found = match v {
                    serde_json::Value::Null => Some(Self::default()),
                    serde_json::Value::String(s) => Self::parse(s),
                    serde_json::Value::Number(n) => match n.as_i64() {
                        Some($fnumber) => Some($name::$first),
                        $(Some($number) => Some($name::$variant),)*
                        _ => None,
                    },
                    _ => None,
                };
                found.unwrap_or_else(|| {
                    r.problem(format!("{v} is not one of {}", [$fwire $(, $wire)*].join(", ")));
                    Self::default()
                })
            }
            fn write(&self) -> serde_json::Value {
                serde_json::Value::from(self.as_str())
            }
            fn is_absent(&self) -> bool {
                *self == Self::default()
            }
        }
    )*};
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    shape! {
        /// Inner.
        Inner { max_size: u32, flag: Option<bool> }
        /// Outer.
        Outer { first_name: String, kind = "type": String, list: Vec<Inner>, colour: Colour, by_port: BTreeMap<u32, Inner>, a: Option<String>, b: Option<String> }
        @oneof [a, b]
        @ignore ["junk"]
    }
    choice! {
        /// Colour.
        Colour { Red = 0 "RED", Green = 1 "GREEN" }
    }

    #[test]
    fn reads_and_writes() {
        let v = json!({"firstName": "x", "type": "t", "list": [{"max_size": "3", "flag": false}], "colour": "GREEN",
            "byPort": {"80": {}}, "junk": 1});
        let o: Outer = from_value(&v).unwrap();
        assert_eq!((o.first_name.as_str(), o.kind.as_str(), o.list[0].max_size), ("x", "t", 3));
        assert_eq!(
            o.write(),
            json!({"firstName": "x", "type": "t", "list": [{"maxSize": 3, "flag": false}], "colour": "GREEN", "byPort": {"80": {}}})
        );
        assert_eq!(from_value::<Outer>(&json!({"colour": 1, "firstName": null})).unwrap().colour, Colour::Green);
    }

    #[test]
    fn problems_have_paths() {
        let v = json!({"list": [{}, {"maxSizes": 1, "maxSize": -1}], "colour": "BLUE", "byPort": {"x": {}}, "a": "1", "b": "2", "firstName": 3});
        let problems: Vec<String> = from_value::<Outer>(&v).unwrap_err().iter().map(ToString::to_string).collect();
        let has = |s: &str| assert!(problems.iter().any(|p| p.contains(s)), "{s} in {problems:#?}");
        has("list[1].maxSizes: unknown field \"maxSizes\", did you mean \"maxSize\"?");
        has("list[1].maxSize: -1 is out of range");
        has("colour: \"BLUE\" is not one of RED, GREEN");
        has("byPort.x: \"x\" is not a valid key");
        has("only one of a, b may be set");
        has("firstName: expected a string, found the number 3 (quote it)");
    }
}
