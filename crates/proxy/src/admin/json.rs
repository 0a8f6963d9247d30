//! How does Envoy print JSON? Indented by one space.

use prost::{Message, Name};
use serde::Serialize;
use serde_json::Value;

/// Indented by one space, with a final newline.
pub fn pretty(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Writing JSON values to memory cannot fail.
    let _ = value.serialize(&mut serializer);
    out.push(b'\n');
    String::from_utf8(out).unwrap_or_default()
}

/// A message as its canonical JSON under proto names, `Any` opened.
pub fn of<T: Message + Name>(message: &T) -> Value {
    protos::json::encode_json(message)
}
