//! How does YAML text become JSON values, and back? Reading with line numbers for every mistake; each document of a
//! file stands for itself. Called by `source-file`, the injector (templates, annotations) and the command line.
//!
//! Scalars resolve as Kubernetes tools resolve them (`sigs.k8s.io/yaml`: YAML 1.1 octal and `yes`/`no`, duplicate keys
//! refused). Writing follows their form too: keys sorted, strings quoted only where needed.

use std::collections::HashMap;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Value};

mod emit;

pub use emit::to_yaml;

/// Deepest nesting read.
pub const DEPTH_MAX: usize = 128;
/// Most nodes of one document, aliases expanded (a small file can name a huge tree).
pub const NODES_MAX: usize = 1_000_000;

/// Text that is not YAML, or not JSON-like YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SyntaxError {
    /// Line of the mistake, from 1.
    pub line: u32,
    /// Column of the mistake, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

/// One document of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Document<'a> {
    /// The content.
    pub value: Value,
    /// The line of the first content, from 1.
    pub line: u32,
    text: Section<'a>,
}

/// A document's text and the lines before it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Section<'a> {
    text: &'a str,
    lines_before: u32,
}

impl Document<'_> {
    /// The line and column (from 1) of the value at a path such as `spec.http[0].route`, or of its nearest ancestor.
    pub fn locate(&self, path: &str) -> (u32, u32) {
        let mut places = HashMap::new();
        let _ = Builder::new(self.text, Some(&mut places)).document();
        let mut path = path;
        loop {
            if let Some(place) = places.get(path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(cut) => path = &path[..cut],
                None => return (self.line, 1),
            }
        }
    }
}

/// Reads all documents of a file. A broken one does not affect the others; empty ones are left out.
pub fn documents(text: &str) -> Vec<Result<Document<'_>, SyntaxError>> {
    sections(text)
        .into_iter()
        .filter_map(|section| match Builder::new(section, None).document() {
            Ok(Some((value, line))) => Some(Ok(Document { value, line, text: section })),
            Ok(None) => None,
            Err(e) => Some(Err(e)),
        })
        .collect()
}

/// Reads text that holds one value (an annotation, a rendered template).
///
/// # Errors
/// The text is not YAML. Empty text is `null`; further documents are ignored.
pub fn parse(text: &str) -> Result<Value, SyntaxError> {
    documents(text).into_iter().next().map_or(Ok(Value::Null), |d| d.map(|d| d.value))
}

/// Splits at `---` lines. A marker in column 0 ends a document wherever it stands, even in a block scalar.
fn sections(text: &str) -> Vec<Section<'_>> {
    let mut out = Vec::new();
    let (mut start, mut lines_before, mut offset) = (0, 0, 0);
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|r| r.is_empty() || r.starts_with([' ', '\t', '\r', '\n'])) && offset > start {
            out.push(Section { text: &text[start..offset], lines_before });
            (start, lines_before) = (offset, number);
        }
        offset += line.len();
    }
    out.push(Section { text: &text[start..], lines_before });
    out
}

type Places = HashMap<String, (u32, u32)>;

/// Turns parser events into values.
struct Builder<'a, 'p> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    lines_before: u32,
    anchors: HashMap<usize, Value>,
    nodes: usize,
    places: Option<&'p mut Places>,
    path: String,
}

impl<'a, 'p> Builder<'a, 'p> {
    fn new(section: Section<'a>, places: Option<&'p mut Places>) -> Self {
        Builder {
            parser: Parser::new_from_str(section.text),
            lines_before: section.lines_before,
            anchors: HashMap::new(),
            nodes: 0,
            places,
            path: String::new(),
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(e)) => {
                let (line, column) = (e.marker().line(), e.marker().col());
                Err(self.error_at(line, column, e.info()))
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn error_at(&self, line: usize, column: usize, message: &str) -> SyntaxError {
        SyntaxError {
            line: self.lines_before + u32::try_from(line.max(1)).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            message: message.to_owned(),
        }
    }

    fn error(&self, span: Span, message: &str) -> SyntaxError {
        self.error_at(span.start.line(), span.start.col(), message)
    }

    /// The first document with content, and its line.
    fn document(&mut self) -> Result<Option<(Value, u32)>, SyntaxError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(None),
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                event => {
                    let line = self.error(span, "").line;
                    let value = self.value(event, span, 0)?;
                    self.rest()?;
                    return Ok(if value.is_null() { None } else { Some((value, line)) });
                }
            }
        }
    }

    /// Reads to the end, so that mistakes after the first node are found.
    fn rest(&mut self) -> Result<(), SyntaxError> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentEnd | Event::DocumentStart(_) | Event::StreamStart | Event::Nothing => {}
                Event::Scalar(text, ..) if text.is_empty() || text == "~" => {}
                _ => {
                    return Err(self.error(span, "content after the end of the document (is a \"---\" line missing?)"));
                }
            }
        }
    }

    fn value(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Value, SyntaxError> {
        self.nodes += 1;
        if depth > DEPTH_MAX {
            return Err(self.error(span, "nested too deeply"));
        }
        if self.nodes > NODES_MAX {
            return Err(self.error(span, "too many values in one document"));
        }
        if let Some(places) = &mut self.places {
            let line = self.lines_before + u32::try_from(span.start.line()).unwrap_or(u32::MAX);
            let column = u32::try_from(span.start.col() + 1).unwrap_or(u32::MAX);
            places.entry(self.path.clone()).or_insert((line, column));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let tag = tag.filter(|t| t.is_yaml_core_schema()).map(|t| t.suffix.clone());
                (scalar(&text, style, tag.as_deref()), anchor)
            }
            Event::SequenceStart(anchor, _) => (self.sequence(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(depth)?, anchor),
            Event::Alias(anchor) => {
                let value = self.anchors.get(&anchor).cloned();
                let value = value.ok_or_else(|| self.error(span, "an alias inside of its own anchor"))?;
                self.nodes += count(&value);
                (value, 0)
            }
            _ => return Err(self.error(span, "a value is missing")),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd | Event::StreamEnd) {
                return Ok(Value::Array(items));
            }
            let len = self.path.len();
            if self.places.is_some() {
                self.path.push_str(&format!("[{}]", items.len()));
            }
            items.push(address_in_flow(self.value(event, span, depth + 1)?));
            self.path.truncate(len);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, SyntaxError> {
        let mut map = Map::new();
        let mut merged: Vec<Value> = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd | Event::StreamEnd => break,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(self.error(span, "a key must be a plain name")),
            };
            let len = self.path.len();
            if let Some(places) = &mut self.places {
                if len > 0 {
                    self.path.push('.');
                }
                self.path.push_str(&key);
                let line = self.lines_before + u32::try_from(span.start.line()).unwrap_or(u32::MAX);
                let column = u32::try_from(span.start.col() + 1).unwrap_or(u32::MAX);
                places.insert(self.path.clone(), (line, column));
            }
            let (event, value_span) = self.next()?;
            let value = self.value(event, value_span, depth + 1)?;
            self.path.truncate(len);
            if key == "<<" {
                match value {
                    Value::Array(items) => merged.extend(items),
                    value => merged.push(value),
                }
            } else if map.contains_key(&key) {
                return Err(self.error(span, &format!("the key {key:?} is already set in this mapping")));
            } else {
                map.insert(key, value);
            }
        }
        for value in merged {
            if let Value::Object(fields) = value {
                for (k, v) in fields {
                    map.entry(k).or_insert(v);
                }
            }
        }
        Ok(Value::Object(map))
    }
}

/// `[2001:db8::]`: YAML 1.2 reads the last colon as a mapping, the tools people use read an address.
fn address_in_flow(v: Value) -> Value {
    if let Value::Object(map) = &v
        && map.len() == 1
        && let Some((key, Value::Null)) = map.iter().next()
        && key.ends_with(':')
        && key.bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
    {
        return Value::from(format!("{key}:"));
    }
    v
}

fn count(v: &Value) -> usize {
    match v {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(count).sum::<usize>(),
        _ => 1,
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&str>) -> Value {
    match tag {
        Some("str" | "binary") => return Value::from(text),
        Some(_) => return plain(text),
        None => {}
    }
    if style == ScalarStyle::Plain { plain(text) } else { Value::from(text) }
}

/// Resolves a plain scalar.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Value::Bool(false),
        _ => number(text).unwrap_or_else(|| Value::from(text)),
    }
}

fn number(text: &str) -> Option<Value> {
    let first = text.bytes().next()?;
    if !(first.is_ascii_digit() || matches!(first, b'-' | b'+' | b'.')) {
        return None;
    }
    let clean = text.replace('_', "");
    let (sign, digits) = match clean.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", clean.strip_prefix('+').unwrap_or(&clean)),
    };
    let radix = |prefix: &str, radix: u32| {
        let rest = digits.strip_prefix(prefix).filter(|r| !r.is_empty() && !r.starts_with(['-', '+']))?;
        i64::from_str_radix(&format!("{sign}{rest}"), radix).ok().map(Value::from)
    };
    if let Some(v) = radix("0x", 16).or_else(|| radix("0b", 2)).or_else(|| radix("0o", 8)) {
        return Some(v);
    }
    if digits.is_empty() || !digits.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        if let Some(v) = radix("0", 8) {
            return Some(v);
        }
        return match format!("{sign}{digits}").parse::<i64>() {
            Ok(n) => Some(Value::from(n)),
            Err(_) => format!("{sign}{digits}").parse::<u64>().map(Value::from).ok().or_else(|| float(&clean)),
        };
    }
    float(&clean)
}

fn float(text: &str) -> Option<Value> {
    let shape = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !shape {
        return None;
    }
    let n: f64 = text.parse().ok()?;
    serde_json::Number::from_f64(n).map(Value::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars() {
        let check = |text: &str, want: Value| assert_eq!(parse(&format!("a: {text}")).unwrap()["a"], want, "{text}");
        check("1", json!(1));
        check("-1", json!(-1));
        check("0644", json!(420));
        check("0x10", json!(16));
        check("1.5", json!(1.5));
        check("1e3", json!(1000.0));
        check("1.2.3", json!("1.2.3"));
        check("10.0.0.0/8", json!("10.0.0.0/8"));
        check("2024-01-01", json!("2024-01-01"));
        check("0.0.0.0", json!("0.0.0.0"));
        check("1s", json!("1s"));
        check("'1'", json!("1"));
        check("yes", json!(true));
        check("~", json!(null));
        check("!!str 1", json!("1"));
        check("|\n  x\n  y\n", json!("x\ny\n"));
        check("09", json!(9));
        check("[1.2.3.4, 2001:db8::]", json!(["1.2.3.4", "2001:db8::"]));
    }

    #[test]
    fn documents_stand_alone() {
        let text = "# first\na: 1\n---\nb: [\n---\n\n---\nc:\n  d: 1\n  d: 2\n---\ne: 3\n";
        let docs = documents(text);
        assert_eq!(docs.len(), 4);
        assert_eq!(docs[0].as_ref().unwrap().line, 2);
        let error = docs[1].as_ref().unwrap_err();
        assert!((3..=5).contains(&error.line), "{error}");
        assert_eq!(
            docs[2].as_ref().unwrap_err().to_string(),
            "line 10, column 3: the key \"d\" is already set in this mapping"
        );
        assert_eq!((docs[3].as_ref().unwrap().line, &docs[3].as_ref().unwrap().value), (12, &json!({"e": 3})));
    }

    #[test]
    fn locate_finds_lines() {
        let text = "---\nspec:\n  http:\n  - route:\n    - weight: 1\n    timeout: 1s\n";
        let doc = documents(text).remove(0).unwrap();
        assert_eq!(doc.locate("spec.http[0].timeout"), (6, 5));
        assert_eq!(doc.locate("spec.http[0].route[0].missing"), (5, 7));
        assert_eq!(doc.locate("nothing"), (2, 1));
    }

    #[test]
    fn anchors_and_merge() {
        let v = parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n").unwrap();
        assert_eq!(v["use"], json!({"y": 3, "x": 1}));
        let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |s, i| {
            let p = i - 1;
            s + &format!("a{i}: &a{i} [*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p},*a{p}]\n")
        });
        assert!(parse(&bomb).unwrap_err().message.contains("too many values"));
        assert!(parse(&"[".repeat(5000)).is_err());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = documents(&text);
        }

        #[test]
        fn round_trips(strings in proptest::collection::vec("\\PC{0,20}|[a-z0-9 :#'\"\n-]{0,20}", 0..5)) {
            let value = json!({"list": strings, "n": {"k": strings}});
            let text = to_yaml(&value);
            proptest::prop_assert_eq!(parse(&text).unwrap(), value, "{}", text);
        }
    }
}
