//! How is a JSON value written as YAML? Block style, keys sorted, as Kubernetes tools print it.

use std::fmt::Write as _;

use serde_json::Value;

/// Writes a value as one YAML document, with a final newline.
pub fn to_yaml(v: &Value) -> String {
    let mut out = String::new();
    match v {
        Value::Object(map) if !map.is_empty() => object(map, 0, false, &mut out),
        Value::Array(items) if !items.is_empty() => array(items, 0, &mut out),
        _ => {
            scalar(v, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn indent(n: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', n));
}

fn object(map: &serde_json::Map<String, Value>, level: usize, first_inline: bool, out: &mut String) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    for (i, key) in keys.into_iter().enumerate() {
        if i > 0 || !first_inline {
            indent(level, out);
        }
        if key.is_empty() || key.contains('\n') || !is_plain(key) {
            quoted(key, out);
        } else {
            out.push_str(key);
        }
        out.push(':');
        match &map[key] {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                object(inner, level + 2, false, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                array(items, level, out);
            }
            v => {
                out.push(' ');
                scalar(v, level + 2, out);
                out.push('\n');
            }
        }
    }
}

fn array(items: &[Value], level: usize, out: &mut String) {
    for item in items {
        indent(level, out);
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => object(map, level + 2, true, out),
            Value::Array(inner) if !inner.is_empty() => {
                let mut nested = String::new();
                array(inner, level + 2, &mut nested);
                out.push_str(nested.trim_start_matches(' '));
            }
            v => {
                scalar(v, level + 2, out);
                out.push('\n');
            }
        }
    }
}

fn scalar(v: &Value, level: usize, out: &mut String) {
    match v {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => {
            let _ = write!(out, "{b}");
        }
        Value::Number(n) => {
            let _ = write!(out, "{n}");
        }
        Value::String(s) => string(s, level, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn string(s: &str, level: usize, out: &mut String) {
    if fits_block(s) {
        block(s, level, out);
    } else if is_plain(s) {
        out.push_str(s);
    } else {
        quoted(s, out);
    }
}

/// Whether a literal block keeps the text exactly: several lines, printable, the first not indented or empty.
fn fits_block(s: &str) -> bool {
    s.contains('\n')
        && !s.starts_with([' ', '\n', '\t'])
        && s.chars()
            .all(|c| c == '\n' || (!c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{85}')))
        && !s.trim_end_matches('\n').is_empty()
        && s.lines().all(|l| !l.trim_matches(' ').is_empty() || l.is_empty())
}

fn block(s: &str, level: usize, out: &mut String) {
    let body = s.trim_end_matches('\n');
    let newlines = s.len() - body.len();
    out.push_str(match newlines {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    let level = level.max(2);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(level, out);
            out.push_str(line);
        }
    }
    out.extend(std::iter::repeat_n('\n', newlines.saturating_sub(1)));
}

/// Whether the text reads back as the same string without quotes.
fn is_plain(s: &str) -> bool {
    let Some(first) = s.chars().next() else {
        return false;
    };
    let reads_as_string = super::plain(s) == Value::String(s.to_owned());
    let ambiguous = matches!(s, "y" | "Y" | "n" | "N" | "<<" | "=" | "-" | "?");
    let first_ok = first.is_alphanumeric()
        || matches!(first, '/' | '_' | '.' | '$' | '(' | '~' | ';' | '+' | '^' | '<' | '\\')
        || (matches!(first, '-' | ':' | '?') && s[1..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '-'));
    let inner_ok = !s.contains(": ") && !s.contains(" #") && !s.ends_with([':', ' ']);
    let printable = s
        .chars()
        .all(|c| !c.is_control() && c != '\u{feff}' && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{85}' | '\u{a0}'));
    reads_as_string
        && !ambiguous
        && first_ok
        && inner_ok
        && printable
        && !s.starts_with("---")
        && !s.starts_with("...")
        && !looks_like_a_date_or_number(s)
}

fn looks_like_a_date_or_number(s: &str) -> bool {
    let bytes = s.as_bytes();
    let numeric =
        |b: &u8| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b':' | b'_' | b'e' | b'E' | b'T' | b'Z');
    bytes[0].is_ascii_digit() && bytes.iter().all(numeric) && !s.contains("..") && s.matches('.').count() < 2
}

fn quoted(s: &str, out: &mut String) {
    let needs_escapes = s.chars().any(|c| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{85}' | '\u{a0}' | '\u{feff}') || (c as u32) > 0xffff
    });
    if !needs_escapes {
        let _ = write!(out, "'{}'", s.replace('\'', "''"));
        return;
    }
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{a0}' | '\u{feff}') => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn form() {
        let v =
            json!({"b": [{"x": 1, "a": "yes"}, "s", [1, 2]], "a": {}, "c": [], "d": "1", "e": "line\ntwo\n", "f": ""});
        let want = "a: {}\nb:\n- a: 'yes'\n  x: 1\n- s\n- - 1\n  - 2\nc: []\nd: '1'\ne: |\n  line\n  two\nf: ''\n";
        assert_eq!(to_yaml(&v), want);
    }
}
