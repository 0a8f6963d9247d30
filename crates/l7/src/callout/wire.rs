//! How do our values look in the messages of services that are asked, and how are theirs read?

use std::collections::BTreeMap;
use std::net::SocketAddr;

use http1::HeaderBlock;
use protos::envoy::config::core::v3 as core;
use protos::prost_types::{ListValue, NullValue, Struct, Value as Proto, value::Kind};
use proxy_config::Name;
use proxy_config::common::Value;

/// A struct value as a message; other values are an empty one.
pub fn to_struct(value: &Value) -> Struct {
    match value {
        Value::Struct(m) => Struct { fields: m.iter().map(|(k, v)| (k.to_string(), to_proto(v))).collect() },
        _ => Struct::default(),
    }
}

/// Any value as a message.
pub fn to_proto(value: &Value) -> Proto {
    let kind = match value {
        Value::Null => Kind::NullValue(NullValue::NullValue.into()),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(*n),
        Value::String(s) => Kind::StringValue(s.to_string()),
        Value::List(l) => Kind::ListValue(ListValue { values: l.iter().map(to_proto).collect() }),
        Value::Struct(_) => Kind::StructValue(to_struct(value)),
    };
    Proto { kind: Some(kind) }
}

/// The fields of a message.
pub fn fields(s: &Struct) -> BTreeMap<Name, Value> {
    match proxy_config::parse::value_of_struct(s) {
        Value::Struct(m) => (*m).clone(),
        _ => BTreeMap::new(),
    }
}

/// Any value of a message.
pub fn of_proto(value: &Proto) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(*b),
        Some(Kind::NumberValue(n)) => Value::Number(*n),
        Some(Kind::StringValue(s)) => Value::String(s.as_str().into()),
        Some(Kind::ListValue(l)) => Value::List(l.values.iter().map(of_proto).collect()),
        Some(Kind::StructValue(s)) => proxy_config::parse::value_of_struct(s),
    }
}

/// A socket address as a message.
pub fn address(a: SocketAddr) -> core::Address {
    let socket = core::SocketAddress {
        address: a.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(a.port().into())),
        ..Default::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

/// A header value: text where it is text, else bytes.
pub fn header(name: &[u8], value: &[u8], raw: bool) -> core::HeaderValue {
    let key = String::from_utf8_lossy(name).into_owned();
    if raw {
        return core::HeaderValue { key, raw_value: value.to_vec(), ..Default::default() };
    }
    core::HeaderValue { key, value: String::from_utf8_lossy(value).into_owned(), ..Default::default() }
}

/// What is to be done with one header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Name, lower case.
    pub name: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
    /// How.
    pub action: Action,
}

/// `HeaderAppendAction`, and the deprecated `append`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Adds another line.
    Add,
    /// Joins to what is there by a comma; nothing when nothing is there.
    Join,
    /// Only if absent.
    AddIfAbsent,
    /// Replaces or adds.
    Set,
    /// Only if present.
    Overwrite,
}

impl HeaderEdit {
    /// Reads a `HeaderValueOption`. `None`: it has no header or an unknown action.
    pub fn read(o: &core::HeaderValueOption, append_default: bool) -> Option<Self> {
        use core::header_value_option::HeaderAppendAction as A;
        let header = o.header.as_ref()?;
        #[allow(deprecated)]
        let action = match (o.append, A::try_from(o.append_action).ok()?) {
            (Some(true), _) => Action::Join,
            (Some(false), _) => Action::Set,
            (None, A::AppendIfExistsOrAdd) if !append_default => Action::Set,
            (None, A::AppendIfExistsOrAdd) => Action::Add,
            (None, A::AddIfAbsent) => Action::AddIfAbsent,
            (None, A::OverwriteIfExistsOrAdd) => Action::Set,
            (None, A::OverwriteIfExists) => Action::Overwrite,
        };
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        Some(HeaderEdit { name: header.key.to_ascii_lowercase().into_bytes(), value: value.to_vec(), action })
    }

    /// Whether name and value can be in a message.
    pub fn is_valid(&self) -> bool {
        is_name(&self.name) && !self.value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0))
    }

    /// Does it.
    pub fn apply(&self, block: &mut HeaderBlock) {
        let there = block.get(&self.name).is_some();
        match self.action {
            Action::Set => block.set(&self.name, &self.value),
            Action::Add => block.add(&self.name, &self.value),
            Action::AddIfAbsent if !there => block.add(&self.name, &self.value),
            Action::Overwrite if there => block.set(&self.name, &self.value),
            Action::Join if there => {
                let mut joined = block.get(&self.name).unwrap_or_default().to_vec();
                joined.push(b',');
                joined.extend_from_slice(&self.value);
                block.set(&self.name, &joined);
            }
            _ => {}
        }
    }
}

/// Whether these bytes are a header name, pseudo headers included.
pub fn is_name(name: &[u8]) -> bool {
    let rest = name.strip_prefix(b":").unwrap_or(name);
    let legal = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    !rest.is_empty() && rest.iter().all(legal)
}

/// Whether a service may remove this header: not one that makes the message what it is.
pub fn is_removable(name: &[u8]) -> bool {
    !name.starts_with(b":") && name != b"host"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits() {
        let check = |action, before: &str, after: &str| {
            let mut block = HeaderBlock::new();
            for v in before.split_terminator(';') {
                block.add(b"x", v.as_bytes());
            }
            HeaderEdit { name: b"x".to_vec(), value: b"n".to_vec(), action }.apply(&mut block);
            let got: Vec<_> = block.get_all(b"x").map(String::from_utf8_lossy).collect();
            assert_eq!(got.join(";"), after, "{action:?} {before}");
        };
        check(Action::Add, "", "n");
        check(Action::Add, "a", "a;n");
        check(Action::Join, "", "");
        check(Action::Join, "a", "a,n");
        check(Action::AddIfAbsent, "a", "a");
        check(Action::AddIfAbsent, "", "n");
        check(Action::Set, "a;b", "n");
        check(Action::Overwrite, "", "");
        check(Action::Overwrite, "a", "n");
    }

    #[test]
    fn values_survive() {
        let json = r#"{"a":[1,"x",true,null],"b":{"c":-2.5}}"#;
        let value = crate::filters::jwt_authn::token::object(json.as_bytes()).unwrap();
        assert_eq!(proxy_config::parse::value_of_struct(&to_struct(&value)), value);
    }
}
