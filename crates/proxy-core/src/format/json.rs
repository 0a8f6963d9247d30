//! How does a JSON log entry come out? Typed where a string is exactly one operator.

use std::io::Write as _;

use proxy_config::common::Value;
use proxy_config::format::{Format, JsonFormat};

use super::{Facts, metadata, number, single, text, value};

/// Writes `format`; `omit` leaves out members whose value is absent.
pub fn json(format: &JsonFormat, facts: &Facts<'_>, omit: bool, out: &mut Vec<u8>) {
    match format {
        JsonFormat::Null => out.extend_from_slice(b"null"),
        JsonFormat::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        JsonFormat::Number(n) => write_number(*n, out),
        JsonFormat::String(f) => {
            if !string(f, facts, omit, out) {
                out.extend_from_slice(b"null");
            }
        }
        JsonFormat::List(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                json(item, facts, omit, out);
            }
            out.push(b']');
        }
        JsonFormat::Struct(fields) => {
            out.push(b'{');
            let mut first = true;
            for (key, field) in fields {
                let start = out.len();
                if !first {
                    out.push(b',');
                }
                write_string(key.as_bytes(), out);
                out.push(b':');
                let before = out.len();
                json(field, facts, omit, out);
                if omit && &out[before..] == b"null" {
                    out.truncate(start);
                } else {
                    first = false;
                }
            }
            out.push(b'}');
        }
    }
}

/// Writes a formatted string as its own type; false when it is one absent operator.
fn string(f: &Format, facts: &Facts<'_>, omit: bool, out: &mut Vec<u8>) -> bool {
    let Some((op, max)) = single(f) else {
        let mut buffer = Vec::new();
        text(f, facts, if omit { b"" } else { b"-" }, &mut buffer);
        write_string(&buffer, out);
        return true;
    };
    if let Some(n) = number(op, facts) {
        write_number(n, out);
        return true;
    }
    if let Some(v) = metadata(op, facts) {
        write_json_value(v, out);
        return true;
    }
    let mut buffer = Vec::new();
    if !value(op, facts, &mut buffer) {
        return false;
    }
    if let Some(max) = max {
        buffer.truncate(max as usize);
    }
    write_string(&buffer, out);
    true
}

fn write_number(n: f64, out: &mut Vec<u8>) {
    // Display of f64 prints integral values without a fraction, which is what Envoy prints.
    let _ = write!(out, "{n}");
}

fn write_string(text: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(text);
    let _ = serde_json::to_writer(&mut *out, text.as_ref());
}

/// Writes a metadata value as JSON.
pub fn write_json_value(v: &Value, out: &mut Vec<u8>) {
    match v {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Number(n) => write_number(*n, out),
        Value::String(s) => write_string(s.as_bytes(), out),
        Value::List(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_json_value(item, out);
            }
            out.push(b']');
        }
        Value::Struct(fields) => {
            out.push(b'{');
            for (i, (k, v)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(k.as_bytes(), out);
                out.push(b':');
                write_json_value(v, out);
            }
            out.push(b'}');
        }
    }
}
