//! Wire bytes to JSON.

use super::read::{has_special_json, is_wrapper};
use super::{DEPTH_MAX, JsonError, wkt};
use crate::schema::{Field, Kind, MessageType};
use base64::Engine as _;
use serde_json::{Map, Number, Value};

/// How to print.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `lowerCamelCase` field names (canonical) rather than the .proto file's (Envoy's admin).
    pub camel_case: bool,
}

pub(super) fn message(type_name: &str, bytes: &[u8], options: Options) -> Result<Value, JsonError> {
    let Some(ty) = MessageType::find(type_name) else {
        return Err(fail(format!("unknown message type {type_name:?}")));
    };
    Writer { options, depth: 0 }.message(ty, bytes)
}

fn fail(reason: impl Into<String>) -> JsonError {
    JsonError { path: String::new(), reason: reason.into() }
}

/// A value as it stands on the wire.
#[derive(Clone, Copy)]
enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

/// Reads the next field: its number and raw value. `None` at the end.
fn next<'a>(input: &mut &'a [u8]) -> Result<Option<(u32, Raw<'a>)>, JsonError> {
    if input.is_empty() {
        return Ok(None);
    }
    let key = varint(input)?;
    let number = u32::try_from(key >> 3).map_err(|_| fail("field number out of range"))?;
    let raw = match key & 7 {
        0 => Raw::Varint(varint(input)?),
        1 => Raw::Fixed64(u64::from_le_bytes(take(input, 8)?.try_into().expect("eight bytes"))),
        2 => {
            let len = usize::try_from(varint(input)?).map_err(|_| fail("length out of range"))?;
            Raw::Bytes(take(input, len)?)
        }
        5 => Raw::Fixed32(u32::from_le_bytes(take(input, 4)?.try_into().expect("four bytes"))),
        other => {
            return Err(fail(format!("wire type {other} of field {number} is not supported")));
        }
    };
    Ok(Some((number, raw)))
}

fn take<'a>(input: &mut &'a [u8], len: usize) -> Result<&'a [u8], JsonError> {
    let (head, tail) = input.split_at_checked(len).ok_or_else(|| fail("message ends early"))?;
    *input = tail;
    Ok(head)
}

fn varint(input: &mut &[u8]) -> Result<u64, JsonError> {
    let mut value = 0;
    for i in 0..10 {
        let byte = take(input, 1)?[0];
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(fail("varint of more than ten bytes"))
}

struct Writer {
    options: Options,
    depth: usize,
}

impl Writer {
    fn message(&mut self, ty: MessageType, bytes: &[u8]) -> Result<Value, JsonError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(fail(format!("nested more than {DEPTH_MAX} levels deep")));
        }
        let value = match ty.full_name() {
            "google.protobuf.Any" => self.any(bytes),
            "google.protobuf.Duration" => two_numbers(bytes).map(|(s, n)| wkt::print_duration(s, n).into()),
            "google.protobuf.Timestamp" => two_numbers(bytes).map(|(s, n)| wkt::print_timestamp(s, n).into()),
            "google.protobuf.FieldMask" => field_mask(bytes),
            "google.protobuf.Struct" => {
                self.fields(ty, bytes).map(|mut m| m.remove("fields").unwrap_or_else(|| Map::new().into()))
            }
            "google.protobuf.ListValue" => {
                self.fields(ty, bytes).map(|mut m| m.remove("values").unwrap_or_else(|| Value::Array(vec![])))
            }
            "google.protobuf.Value" => {
                self.fields(ty, bytes).map(|m| m.into_iter().next().map_or(Value::Null, |(_, v)| v))
            }
            name if is_wrapper(name) => self.wrapper(ty, bytes),
            _ => self.fields(ty, bytes).map(Value::Object),
        };
        self.depth -= 1;
        value
    }

    fn fields(&mut self, ty: MessageType, bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
        let mut found: Vec<(Field, Value)> = Vec::new();
        let mut input = bytes;
        while let Some((number, raw)) = next(&mut input)? {
            let Some(field) = ty.field_by_number(number) else {
                continue;
            };
            let at = match found.iter().position(|(f, _)| *f == field) {
                Some(at) => at,
                None => {
                    let start = if field.is_map() {
                        Map::new().into()
                    } else if field.is_repeated() {
                        Value::Array(vec![])
                    } else {
                        Value::Null
                    };
                    found.push((field, start));
                    found.len() - 1
                }
            };
            let mut slot = std::mem::take(&mut found[at].1);
            self.add(field, raw, &mut slot)?;
            found[at].1 = slot;
        }
        // Declaration order, as Envoy prints.
        found.sort_by_key(|(f, _)| *f);
        let name = |f: Field| {
            if self.options.camel_case { f.json_name() } else { f.name() }
        };
        Ok(found.into_iter().map(|(f, v)| (name(f).to_owned(), v)).collect())
    }

    fn add(&mut self, field: Field, raw: Raw, slot: &mut Value) -> Result<(), JsonError> {
        match slot {
            Value::Object(map) if field.is_map() => {
                let (key, value) = self.entry(field, raw)?;
                map.insert(key, value);
            }
            Value::Array(list) if field.is_repeated() => match (field.kind(), raw) {
                (Kind::Message(_) | Kind::String | Kind::Bytes, _) => list.push(self.value(field, raw)?),
                (_, Raw::Bytes(packed)) => unpack(field, packed, |raw| {
                    list.push(self.value(field, raw)?);
                    Ok(())
                })?,
                _ => list.push(self.value(field, raw)?),
            },
            _ => *slot = self.value(field, raw)?,
        }
        Ok(())
    }

    fn entry(&mut self, field: Field, raw: Raw) -> Result<(String, Value), JsonError> {
        let (Kind::Message(entry), Raw::Bytes(mut input)) = (field.kind(), raw) else {
            return Err(fail(format!("{} is not a map entry", field.name())));
        };
        let (key_field, value_field) =
            (entry.field_by_number(1).expect("key"), entry.field_by_number(2).expect("value"));
        let (mut key, mut value) = (String::new(), None);
        while let Some((number, raw)) = next(&mut input)? {
            match number {
                1 => {
                    key = match self.value(key_field, raw)? {
                        Value::String(s) => s,
                        other => other.to_string(),
                    }
                }
                2 => value = Some(self.value(value_field, raw)?),
                _ => {}
            }
        }
        let value = match (value, value_field.kind()) {
            (Some(v), _) => v,
            (None, Kind::Message(m)) => self.message(m, &[])?,
            (None, kind) => default_of(kind),
        };
        Ok((key, value))
    }

    fn value(&mut self, field: Field, raw: Raw) -> Result<Value, JsonError> {
        Ok(match (field.kind(), raw) {
            (Kind::Message(m), Raw::Bytes(b)) => self.message(m, b)?,
            (Kind::String, Raw::Bytes(b)) => String::from_utf8_lossy(b).into(),
            (Kind::Bytes, Raw::Bytes(b)) => base64::engine::general_purpose::STANDARD.encode(b).into(),
            (Kind::Bool, Raw::Varint(n)) => (n != 0).into(),
            (Kind::Enum(e), Raw::Varint(n)) if e.full_name() == "google.protobuf.NullValue" && n == 0 => Value::Null,
            (Kind::Enum(e), Raw::Varint(n)) => match e.values().find(|(number, _)| *number == n as i32) {
                Some((_, name)) => name.into(),
                None => (n as i32).into(),
            },
            (Kind::Int32, Raw::Varint(n)) => (n as i32).into(),
            (Kind::Uint32, Raw::Varint(n)) => (n as u32).into(),
            (Kind::Int64, Raw::Varint(n)) => (n as i64).to_string().into(),
            (Kind::Uint64, Raw::Varint(n)) => n.to_string().into(),
            (Kind::Sint32, Raw::Varint(n)) => (unzigzag(n) as i32).into(),
            (Kind::Sint64, Raw::Varint(n)) => unzigzag(n).to_string().into(),
            (Kind::Fixed32, Raw::Fixed32(n)) => n.into(),
            (Kind::Sfixed32, Raw::Fixed32(n)) => (n as i32).into(),
            (Kind::Float, Raw::Fixed32(n)) => print_float(shortest(f32::from_bits(n))),
            (Kind::Fixed64, Raw::Fixed64(n)) => n.to_string().into(),
            (Kind::Sfixed64, Raw::Fixed64(n)) => (n as i64).to_string().into(),
            (Kind::Double, Raw::Fixed64(n)) => print_float(f64::from_bits(n)),
            _ => return Err(fail(format!("{} has the wrong wire type", field.name()))),
        })
    }

    fn wrapper(&mut self, ty: MessageType, bytes: &[u8]) -> Result<Value, JsonError> {
        let inner = ty.field_by_number(1).expect("wrappers have one field");
        let found = self.fields(ty, bytes)?.into_iter().next();
        Ok(found.map_or_else(|| default_of(inner.kind()), |(_, v)| v))
    }

    fn any(&mut self, bytes: &[u8]) -> Result<Value, JsonError> {
        let (mut url, mut payload, mut input) = (String::new(), &[][..], bytes);
        while let Some((number, raw)) = next(&mut input)? {
            match (number, raw) {
                (1, Raw::Bytes(b)) => url = String::from_utf8_lossy(b).into_owned(),
                (2, Raw::Bytes(b)) => payload = b,
                _ => {}
            }
        }
        let mut out = Map::new();
        if bytes.is_empty() {
            return Ok(out.into());
        }
        let known = MessageType::find(crate::type_name(&url));
        out.insert("@type".into(), url.into());
        match known.map(|ty| (has_special_json(ty), self.message(ty, payload))) {
            Some((false, Ok(Value::Object(fields)))) => out.extend(fields),
            Some((true, Ok(value))) => drop(out.insert("value".into(), value)),
            _ => drop(out.insert("value".into(), base64::engine::general_purpose::STANDARD.encode(payload).into())),
        }
        Ok(out.into())
    }
}

fn unpack(
    field: Field,
    mut packed: &[u8],
    mut each: impl FnMut(Raw) -> Result<(), JsonError>,
) -> Result<(), JsonError> {
    while !packed.is_empty() {
        each(match field.kind() {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
                Raw::Fixed64(u64::from_le_bytes(take(&mut packed, 8)?.try_into().expect("eight bytes")))
            }
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
                Raw::Fixed32(u32::from_le_bytes(take(&mut packed, 4)?.try_into().expect("four bytes")))
            }
            _ => Raw::Varint(varint(&mut packed)?),
        })?;
    }
    Ok(())
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

/// The double that prints like the float: 0.1f32 as 0.1.
fn shortest(f: f32) -> f64 {
    f.to_string().parse().unwrap_or(f64::from(f))
}

fn print_float(f: f64) -> Value {
    /// Doubles hold integers exactly up to 2^53.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match f {
        f if f.is_nan() => "NaN".into(),
        f if f.is_infinite() => if f > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        f if f.fract() == 0.0 && f.abs() <= EXACT_MAX => (f as i64).into(),
        f => Number::from_f64(f).map_or(Value::Null, Value::Number),
    }
}

fn default_of(kind: Kind) -> Value {
    match kind {
        Kind::Bool => false.into(),
        Kind::String | Kind::Bytes => "".into(),
        Kind::Int64 | Kind::Uint64 | Kind::Fixed64 | Kind::Sfixed64 | Kind::Sint64 => "0".into(),
        Kind::Enum(e) => e.values().next().map_or(Value::Null, |(_, name)| name.into()),
        _ => 0.into(),
    }
}

fn two_numbers(mut input: &[u8]) -> Result<(i64, i32), JsonError> {
    let (mut seconds, mut nanos) = (0, 0);
    while let Some((number, raw)) = next(&mut input)? {
        match (number, raw) {
            (1, Raw::Varint(n)) => seconds = n as i64,
            (2, Raw::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

fn field_mask(mut input: &[u8]) -> Result<Value, JsonError> {
    let mut paths = Vec::new();
    while let Some((_, raw)) = next(&mut input)? {
        if let Raw::Bytes(b) = raw {
            paths.push(camel(&String::from_utf8_lossy(b)));
        }
    }
    Ok(paths.join(",").into())
}

fn camel(snake: &str) -> String {
    let mut up = false;
    let mut out = String::new();
    for c in snake.chars() {
        match c {
            '_' => up = true,
            c => out.push(if std::mem::take(&mut up) { c.to_ascii_uppercase() } else { c }),
        }
    }
    out
}
