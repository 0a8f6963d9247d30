//! JSON to wire bytes.

use super::{DEPTH_MAX, JsonError, wkt};
use crate::schema::{EnumType, Field, Kind, MessageType};
use base64::Engine as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use serde_json::Value;

/// The way from the document's root to a value; lives on the stack, is spelt out only in errors.
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    fn spell(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Key(Path::Root, key) => (*key).to_owned(),
            Path::Key(parent, key) => format!("{}.{key}", parent.spell()),
            Path::Index(parent, i) => format!("{}[{i}]", parent.spell()),
        }
    }

    fn depth(&self) -> usize {
        match self {
            Path::Root => 0,
            Path::Key(p, _) | Path::Index(p, _) => p.depth() + 1,
        }
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T, JsonError> {
        Err(JsonError { path: self.spell(), reason: reason.into() })
    }
}

type Done = Result<(), JsonError>;

pub(super) fn message(type_name: &str, value: &Value) -> Result<Vec<u8>, JsonError> {
    let Some(ty) = MessageType::find(type_name) else {
        return Path::Root.fail(format!("unknown message type {type_name:?}"));
    };
    let mut out = Vec::new();
    body(ty, value, &Path::Root, &mut out)?;
    Ok(out)
}

/// Writes the fields of a message, without tag and length.
fn body(ty: MessageType, value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    if path.depth() > DEPTH_MAX {
        return path.fail(format!("nested more than {DEPTH_MAX} levels deep"));
    }
    match ty.full_name() {
        "google.protobuf.Any" => any(value, path, out),
        "google.protobuf.Duration" => time(value, path, out, wkt::parse_duration, "a duration such as \"1.5s\""),
        "google.protobuf.Timestamp" => {
            time(value, path, out, wkt::parse_timestamp, "a time such as \"2026-01-31T12:00:00Z\"")
        }
        "google.protobuf.FieldMask" => field_mask(value, path, out),
        "google.protobuf.Struct" | "google.protobuf.ListValue" | "google.protobuf.Value" => {
            dynamic(ty, value, path, out)
        }
        name if is_wrapper(name) => {
            let field = ty.field_by_number(1).expect("wrappers have one field");
            implicit(field, value, path, out)
        }
        _ => match value {
            Value::Object(map) => fields(ty, map.iter(), path, out),
            other => path.fail(format!("expected an object ({}), got {}", ty.full_name(), kind_of(other))),
        },
    }
}

pub(super) fn is_wrapper(name: &str) -> bool {
    matches!(
        name.strip_prefix("google.protobuf."),
        Some(
            "DoubleValue"
                | "FloatValue"
                | "Int64Value"
                | "UInt64Value"
                | "Int32Value"
                | "UInt32Value"
                | "BoolValue"
                | "StringValue"
                | "BytesValue"
        )
    )
}

fn fields<'a>(
    ty: MessageType,
    entries: impl Iterator<Item = (&'a String, &'a Value)>,
    path: &Path,
    out: &mut Vec<u8>,
) -> Done {
    let mut seen: Vec<(u32, Option<u16>, &str)> = Vec::new();
    for (key, value) in entries {
        let here = Path::Key(path, key);
        let Some(field) = ty.field_by_name(key) else {
            return here.fail(format!("unknown field of {}{}", ty.full_name(), nearest(ty, key)));
        };
        if value.is_null() && !takes_null(field) {
            continue;
        }
        for &(number, oneof, other) in &seen {
            if number == field.number() {
                return here.fail(format!("the same field as {other:?}; give it once"));
            }
            if oneof.is_some() && oneof == field.oneof() {
                return here.fail(format!("excludes {other:?}: only one of them may be set"));
            }
        }
        seen.push((field.number(), field.oneof(), key));
        field_value(field, value, &here, out)?;
    }
    Ok(())
}

/// `null` means "not set" except where null is itself a value.
fn takes_null(field: Field) -> bool {
    !field.is_repeated()
        && match field.kind() {
            Kind::Message(m) => m.full_name() == "google.protobuf.Value",
            Kind::Enum(e) => e.full_name() == "google.protobuf.NullValue",
            _ => false,
        }
}

fn field_value(field: Field, value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    if field.is_map() {
        return map(field, value, path, out);
    }
    if field.is_implicit() {
        return implicit(field, value, path, out);
    }
    if !field.is_repeated() {
        return single(field, value, path, out);
    }
    let Value::Array(items) = value else {
        return path.fail(format!("expected a list, got {}", kind_of(value)));
    };
    let packed = !field.is_unpacked() && !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_));
    if packed && !items.is_empty() {
        encode_key(field.number(), WireType::LengthDelimited, out);
        return delimited(out, |out| each(items, path, |v, p| scalar(field, v, p, out).map(|_| ())));
    }
    each(items, path, |v, p| single(field, v, p, out))
}

fn each(items: &[Value], path: &Path, mut f: impl FnMut(&Value, &Path) -> Done) -> Done {
    items.iter().enumerate().try_for_each(|(i, v)| f(v, &Path::Index(path, i)))
}

fn map(field: Field, value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    let Kind::Message(entry) = field.kind() else { unreachable!("map fields hold entry messages") };
    let Value::Object(object) = value else {
        return path.fail(format!("expected an object, got {}", kind_of(value)));
    };
    let (key_field, value_field) = (entry.field_by_number(1).expect("key"), entry.field_by_number(2).expect("value"));
    let mut sorted: Vec<_> = object.iter().collect();
    sorted.sort_by_key(|(k, _)| *k);
    for (key, item) in sorted {
        let here = Path::Key(path, key);
        let key = match key_field.kind() {
            Kind::Bool => match key.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return here.fail("expected the key \"true\" or \"false\""),
            },
            _ => Value::String(key.clone()),
        };
        encode_key(field.number(), WireType::LengthDelimited, out);
        delimited(out, |out| {
            single(key_field, &key, &here, out)?;
            single(value_field, item, &here, out)
        })?;
    }
    Ok(())
}

/// Writes one tagged scalar unless it is the default, whose every encoding is zero bytes.
fn implicit(field: Field, value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    let at = out.len();
    single(field, value, path, out)?;
    let tag = prost::encoding::key_len(field.number());
    if out[at + tag..].iter().all(|b| *b == 0) {
        out.truncate(at);
    }
    Ok(())
}

/// Writes one tagged value.
fn single(field: Field, value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    let at = out.len();
    encode_key(field.number(), WireType::Varint, out);
    let wire = match field.kind() {
        Kind::Message(m) => {
            delimited(out, |out| body(m, value, path, out))?;
            WireType::LengthDelimited
        }
        _ => scalar(field, value, path, out)?,
    };
    // The wire type sits in the low three bits of the tag's first byte.
    out[at] = (out[at] & !7) | wire as u8;
    Ok(())
}

/// Runs `write`, then puts the length of what it wrote in front.
fn delimited(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Done) -> Done {
    let at = out.len();
    write(out)?;
    let len = out.len() - at;
    let mut prefix = [0u8; 10];
    let mut cursor = &mut prefix[..];
    encode_varint(len as u64, &mut cursor);
    let used = 10 - cursor.len();
    out.splice(at..at, prefix[..used].iter().copied());
    Ok(())
}

/// Writes an untagged scalar and says how it is encoded.
fn scalar(field: Field, value: &Value, path: &Path, out: &mut Vec<u8>) -> Result<WireType, JsonError> {
    let varint = |n: u64, out: &mut Vec<u8>| {
        encode_varint(n, out);
        Ok(WireType::Varint)
    };
    let zigzag = |n: i64| ((n << 1) ^ (n >> 63)) as u64;
    match field.kind() {
        Kind::Bool => match value {
            Value::Bool(b) => varint(u64::from(*b), out),
            other => path.fail(format!("expected true or false, got {}", kind_of(other))),
        },
        Kind::Int32 => varint(integer(value, path, i32::MIN.into(), i32::MAX.into())? as i64 as u64, out),
        Kind::Int64 => varint(integer(value, path, i64::MIN.into(), i64::MAX.into())? as i64 as u64, out),
        Kind::Uint32 => varint(integer(value, path, 0, u32::MAX.into())? as u64, out),
        Kind::Uint64 => varint(integer(value, path, 0, u64::MAX.into())? as u64, out),
        Kind::Sint32 => varint(zigzag(integer(value, path, i32::MIN.into(), i32::MAX.into())? as i64), out),
        Kind::Sint64 => varint(zigzag(integer(value, path, i64::MIN.into(), i64::MAX.into())? as i64), out),
        Kind::Enum(e) => varint(enumeration(e, value, path)? as i64 as u64, out),
        Kind::Fixed32 => fixed32(integer(value, path, 0, u32::MAX.into())? as u32, out),
        Kind::Sfixed32 => fixed32(integer(value, path, i32::MIN.into(), i32::MAX.into())? as i32 as u32, out),
        Kind::Float => fixed32((float(value, path)? as f32).to_bits(), out),
        Kind::Fixed64 => fixed64(integer(value, path, 0, u64::MAX.into())? as u64, out),
        Kind::Sfixed64 => fixed64(integer(value, path, i64::MIN.into(), i64::MAX.into())? as i64 as u64, out),
        Kind::Double => fixed64(float(value, path)?.to_bits(), out),
        Kind::String => match value {
            Value::String(s) => bytes(s.as_bytes(), out),
            other => path.fail(format!("expected a string, got {}", kind_of(other))),
        },
        Kind::Bytes => match value.as_str().and_then(decode_base64) {
            Some(b) => bytes(&b, out),
            None => path.fail("expected bytes in base64"),
        },
        Kind::Message(_) => unreachable!("messages are written by `single`"),
    }
}

fn fixed32(n: u32, out: &mut Vec<u8>) -> Result<WireType, JsonError> {
    out.extend_from_slice(&n.to_le_bytes());
    Ok(WireType::ThirtyTwoBit)
}

fn fixed64(n: u64, out: &mut Vec<u8>) -> Result<WireType, JsonError> {
    out.extend_from_slice(&n.to_le_bytes());
    Ok(WireType::SixtyFourBit)
}

fn bytes(b: &[u8], out: &mut Vec<u8>) -> Result<WireType, JsonError> {
    encode_varint(b.len() as u64, out);
    out.extend_from_slice(b);
    Ok(WireType::LengthDelimited)
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::alphabet::{STANDARD, URL_SAFE};
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, CONFIG).decode(text).ok()
}

fn integer(value: &Value, path: &Path, min: i128, max: i128) -> Result<i128, JsonError> {
    let parsed = match value {
        Value::Number(n) => number_as_integer(n),
        Value::String(s) => s
            .parse::<i128>()
            .ok()
            .or_else(|| s.parse::<f64>().ok().filter(|f| f.fract() == 0.0 && f.abs() < 1e18).map(|f| f as i128)),
        _ => return path.fail(format!("expected an integer, got {}", kind_of(value))),
    };
    match parsed {
        Some(n) if (min..=max).contains(&n) => Ok(n),
        _ => path.fail(format!("expected an integer from {min} to {max}, got {value}")),
    }
}

fn number_as_integer(n: &serde_json::Number) -> Option<i128> {
    n.as_i64()
        .map(i128::from)
        .or_else(|| n.as_u64().map(i128::from))
        .or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 1e18).map(|f| f as i128))
}

fn float(value: &Value, path: &Path) -> Result<f64, JsonError> {
    let parsed = match value {
        Value::Number(n) => n.as_f64(),
        Value::String(s) if s == "Infinity" => Some(f64::INFINITY),
        Value::String(s) if s == "-Infinity" => Some(f64::NEG_INFINITY),
        Value::String(s) if s == "NaN" => Some(f64::NAN),
        Value::String(s) => s.parse().ok().filter(|f: &f64| f.is_finite()),
        _ => None,
    };
    parsed.map_or_else(|| path.fail(format!("expected a number, got {}", kind_of(value))), Ok)
}

fn enumeration(e: EnumType, value: &Value, path: &Path) -> Result<i32, JsonError> {
    match value {
        Value::Null if e.full_name() == "google.protobuf.NullValue" => Ok(0),
        Value::Number(_) => Ok(integer(value, path, i32::MIN.into(), i32::MAX.into())? as i32),
        Value::String(s) => match e.values().find(|(_, name)| name == s) {
            Some((number, _)) => Ok(number),
            None => {
                let known: Vec<_> = e.values().map(|(_, name)| name).collect();
                path.fail(format!("{s:?} is not a value of {}; known: {}", e.full_name(), known.join(", ")))
            }
        },
        other => path.fail(format!("expected the name of a {} value, got {}", e.full_name(), kind_of(other))),
    }
}

fn any(value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    let Value::Object(object) = value else {
        return path.fail(format!("expected an object with \"@type\", got {}", kind_of(value)));
    };
    if object.is_empty() {
        return Ok(());
    }
    let Some(Value::String(url)) = object.get("@type") else {
        return path.fail("an Any needs \"@type\": \"type.googleapis.com/<message>\"");
    };
    let Some(ty) = MessageType::find(crate::type_name(url)) else {
        return Path::Key(path, "@type").fail(format!("unknown message type {url:?}"));
    };
    encode_key(1, WireType::LengthDelimited, out);
    encode_varint(url.len() as u64, out);
    out.extend_from_slice(url.as_bytes());
    let at = out.len();
    encode_key(2, WireType::LengthDelimited, out);
    let empty = out.len() + 1;
    delimited(out, |out| match object.get("value") {
        Some(inner) if has_special_json(ty) => body(ty, inner, &Path::Key(path, "value"), out),
        _ => fields(ty, object.iter().filter(|(k, _)| *k != "@type"), path, out),
    })?;
    if out.len() == empty {
        out.truncate(at);
    }
    Ok(())
}

/// Whether an `Any` of this type carries its content under `"value"`.
pub(super) fn has_special_json(ty: MessageType) -> bool {
    let name = ty.full_name();
    is_wrapper(name)
        || matches!(
            name.strip_prefix("google.protobuf."),
            Some("Any" | "Duration" | "Timestamp" | "FieldMask" | "Struct" | "Value" | "ListValue")
        )
}

fn time(value: &Value, path: &Path, out: &mut Vec<u8>, parse: fn(&str) -> Option<(i64, i32)>, want: &str) -> Done {
    let Some((seconds, nanos)) = value.as_str().and_then(parse) else {
        return path.fail(format!("expected {want}, got {value}"));
    };
    for (number, n) in [(1, seconds), (2, i64::from(nanos))] {
        if n != 0 {
            encode_key(number, WireType::Varint, out);
            encode_varint(n as u64, out);
        }
    }
    Ok(())
}

fn field_mask(value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    let Value::String(text) = value else {
        return path.fail("expected field paths separated by commas");
    };
    for p in text.split(',').filter(|p| !p.is_empty()) {
        let mut snake = String::new();
        for c in p.chars() {
            if c.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        encode_key(1, WireType::LengthDelimited, out);
        bytes(snake.as_bytes(), out)?;
    }
    Ok(())
}

/// `google.protobuf.Struct`, `Value` and `ListValue`: any JSON as itself.
fn dynamic(ty: MessageType, value: &Value, path: &Path, out: &mut Vec<u8>) -> Done {
    let field = |n| ty.field_by_number(n).expect("fields of struct.proto");
    match (ty.full_name(), value) {
        ("google.protobuf.Struct", Value::Object(_)) => map(field(1), value, path, out),
        ("google.protobuf.ListValue", Value::Array(items)) => each(items, path, |v, p| single(field(1), v, p, out)),
        ("google.protobuf.Value", Value::Null) => single(field(1), &Value::from(0), path, out),
        ("google.protobuf.Value", Value::Number(_)) => single(field(2), value, path, out),
        ("google.protobuf.Value", Value::String(_)) => single(field(3), value, path, out),
        ("google.protobuf.Value", Value::Bool(_)) => single(field(4), value, path, out),
        ("google.protobuf.Value", Value::Object(_)) => single(field(5), value, path, out),
        ("google.protobuf.Value", Value::Array(_)) => single(field(6), value, path, out),
        (name, other) => path.fail(format!("expected a {name}, got {}", kind_of(other))),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// "; did you mean X?" where a known name is one slip away.
fn nearest(ty: MessageType, key: &str) -> String {
    let plain = |s: &str| s.to_ascii_lowercase().replace(['_', '-'], "");
    let wanted = plain(key);
    let close = |name: &str| {
        let name = plain(name);
        name == wanted || (wanted.len() > 3 && (name.starts_with(&wanted) || wanted.starts_with(&name)))
    };
    ty.fields().find(|f| close(f.name())).map_or_else(String::new, |f| format!("; did you mean {:?}?", f.name()))
}
