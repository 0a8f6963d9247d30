//! How does Envoy write an event message? JSON on one line, with the fields that hold their default.
//!
//! Called by the event logs of health checks and outlier detection.

use protos::prost::{Message, Name};
use protos::schema::{Field, Kind, MessageType};
use serde_json::{Map, Value};

/// One line, newline included.
pub fn line<T: Message + Name>(message: &T) -> String {
    let value = protos::json::encode_json(message);
    let value = match MessageType::find(&T::full_name()) {
        Some(ty) => with_defaults(ty, value),
        None => value,
    };
    format!("{value}\n")
}

/// Adds what is absent because it has its default, in order of declaration.
fn with_defaults(ty: MessageType, value: Value) -> Value {
    let Value::Object(mut given) = value else { return value };
    if ty.full_name().starts_with("google.protobuf.") {
        return Value::Object(given);
    }
    let mut out = Map::new();
    for field in ty.fields() {
        let value = match (given.remove(field.name()), field.kind()) {
            (Some(v), Kind::Message(inner)) if !field.is_repeated() => Some(with_defaults(inner, v)),
            (Some(v), _) => Some(v),
            (None, _) => default(field),
        };
        if let Some(value) = value {
            out.insert(field.name().to_owned(), value);
        }
    }
    Value::Object(out)
}

fn default(field: Field) -> Option<Value> {
    if field.is_map() {
        return Some(Map::new().into());
    }
    if field.is_repeated() {
        return Some(Value::Array(Vec::new()));
    }
    if field.oneof().is_some() || !field.is_implicit() {
        return None;
    }
    Some(match field.kind() {
        Kind::Message(_) => return None,
        Kind::Bool => false.into(),
        Kind::String | Kind::Bytes => "".into(),
        Kind::Enum(e) => e.values().find(|v| v.0 == 0).map_or(0.into(), |v| v.1.into()),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => "0".into(),
        _ => 0.into(),
    })
}
