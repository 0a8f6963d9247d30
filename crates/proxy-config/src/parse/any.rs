//! What is inside an `Any`? Opens typed configurations, `TypedStruct` included, and names unknown ones as Envoy does.

use protos::prost::{Message, Name as ProstName};
use protos::prost_types::{Any, Struct};

use crate::error::{ConfigError, Reason, Result};

/// A typed configuration: full message name and bytes (owned when they came out of a `TypedStruct`).
pub(super) struct Typed<'a> {
    pub name: &'a str,
    pub message: String,
    bytes: std::borrow::Cow<'a, [u8]>,
}

const TYPED_STRUCTS: [&str; 2] = ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];

impl<'a> Typed<'a> {
    /// Opens `any`, the config of the extension `name`.
    pub fn open(name: &'a str, any: &'a Any) -> Result<Self> {
        let message = protos::type_name(&any.type_url);
        if !TYPED_STRUCTS.contains(&message) {
            return Ok(Self { name, message: message.to_owned(), bytes: (&any.value[..]).into() });
        }
        // Both TypedStruct messages have the same fields and numbers.
        let typed =
            protos::xds::r#type::v3::TypedStruct::decode(&*any.value).map_err(|e| malformed(&any.type_url, e))?;
        let inner = protos::type_name(&typed.type_url).to_owned();
        let value = json_of_struct(typed.value.as_ref());
        let bytes = protos::json::from_json(&inner, &value).map_err(|e| malformed(&typed.type_url, e))?;
        Ok(Self { name, message: inner, bytes: bytes.into() })
    }

    /// Decodes the bytes as `T`; the caller has matched `message`.
    pub fn decode<T: Message + Default + ProstName>(&self) -> Result<T> {
        T::decode(&*self.bytes).map_err(|e| malformed(&T::type_url(), e))
    }

    /// The error for a message nobody here knows.
    pub fn unknown(&self) -> ConfigError {
        ConfigError::new(Reason::UnknownType {
            name: self.name.to_owned(),
            type_url: format!("type.googleapis.com/{}", self.message),
        })
    }
}

fn malformed(type_url: &str, e: impl std::fmt::Display) -> ConfigError {
    ConfigError::new(Reason::Malformed { type_url: type_url.to_owned(), detail: e.to_string() })
}

/// Decodes the payload of an extension whose type must be `T`.
pub(super) fn expect<T: Message + Default + ProstName>(name: &str, any: &Any) -> Result<T> {
    let typed = Typed::open(name, any)?;
    if typed.message == T::full_name() { typed.decode() } else { Err(typed.unknown()) }
}

/// An extension without config: the error names it.
pub(super) fn no_config(name: &str) -> ConfigError {
    ConfigError::new(Reason::UnknownType { name: name.to_owned(), type_url: String::new() })
}

/// `Struct` as plain JSON, for the transcoder.
pub(super) fn json_of_struct(s: Option<&Struct>) -> serde_json::Value {
    use protos::prost_types::value::Kind;
    fn value(v: &protos::prost_types::Value) -> serde_json::Value {
        match &v.kind {
            None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
            Some(Kind::BoolValue(b)) => (*b).into(),
            Some(Kind::NumberValue(n)) if n.fract() == 0.0 && n.abs() < 9e15 => (*n as i64).into(),
            Some(Kind::NumberValue(n)) => (*n).into(),
            Some(Kind::StringValue(s)) => s.as_str().into(),
            Some(Kind::ListValue(l)) => l.values.iter().map(value).collect(),
            Some(Kind::StructValue(s)) => json_of_struct(Some(s)),
        }
    }
    s.map_or_else(
        || serde_json::Value::Object(Default::default()),
        |s| serde_json::Value::Object(s.fields.iter().map(|(k, v)| (k.clone(), value(v))).collect()),
    )
}
