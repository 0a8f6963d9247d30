//! How does a message look as canonical JSON, and how does JSON become a message?
//!
//! The protobuf JSON mapping over wire bytes, driven by the compact [`schema`](crate::schema): no message objects, no
//! descriptor pool. `Any` is expanded in both directions. Used for bootstraps, `config_dump`, EnvoyFilter patches, and
//! by everything that prints xDS. Absent: YAML (callers parse it into [`serde_json::Value`] first) and proto2 extensions.
//!
//! Follows: protobuf.dev "ProtoJSON Format". Differs on output as Envoy's admin does: field names as in the .proto file
//! by default, integral doubles without a fraction; an `Any` of an unknown type is shown as its bytes.

mod read;
mod wkt;
mod write;

use prost::{Message, Name};
use serde_json::Value;

pub use write::Options;

/// Deepest nesting accepted or printed: protobuf's own default recursion limit.
pub const DEPTH_MAX: usize = 100;

/// Why a JSON document is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{reason}", .path, if .path.is_empty() { "" } else { ": " })]
pub struct JsonError {
    /// Where: `static_resources.listeners[0].name`, empty for the document itself.
    pub path: String,
    /// What is wrong there, and what would be right.
    pub reason: String,
}

/// Encodes `value`, the canonical JSON of message `type_name`, to wire bytes.
///
/// Accepts camelCase and snake_case names, enums by name or number, 64-bit integers as strings or numbers. An unknown
/// field, a second member of a oneof, or a value out of range is an error that names its path.
pub fn from_json(type_name: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
    read::message(type_name, value)
}

/// Decodes wire bytes of message `type_name` to canonical JSON. Unknown fields are left out.
///
/// Fails only where the bytes are not that message.
pub fn to_json(type_name: &str, bytes: &[u8], options: Options) -> Result<Value, JsonError> {
    write::message(type_name, bytes, options)
}

/// Reads `value` as `T`.
pub fn decode_json<T: Message + Name + Default>(value: &Value) -> Result<T, JsonError> {
    let bytes = from_json(&T::full_name(), value)?;
    T::decode(&*bytes).map_err(|e| JsonError { path: String::new(), reason: e.to_string() })
}

/// Prints `message` with [`Options::default`]: proto field names, as Envoy's admin does.
pub fn encode_json<T: Message + Name>(message: &T) -> Value {
    to_json(&T::full_name(), &message.encode_to_vec(), Options::default())
        .expect("a message's own encoding is well formed")
}

#[cfg(test)]
mod tests;
