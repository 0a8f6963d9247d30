//! How does a formatted value look in OpenTelemetry's `AnyValue`?

use protos::opentelemetry::proto::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList, any_value::Value};
use proxy_config::format::JsonFormat;
use proxy_core::{Facts, format};

/// Evaluates a configured value. Texts are texts, whatever the operators inside them give.
pub fn any_value(f: &JsonFormat, facts: &Facts<'_>) -> AnyValue {
    let value = match f {
        JsonFormat::Null => None,
        JsonFormat::Bool(b) => Some(Value::BoolValue(*b)),
        JsonFormat::Number(n) if n.fract() == 0.0 && n.abs() < 9e15 => Some(Value::IntValue(*n as i64)),
        JsonFormat::Number(n) => Some(Value::DoubleValue(*n)),
        JsonFormat::String(f) => {
            let mut out = Vec::new();
            format::text(f, facts, b"-", &mut out);
            Some(Value::StringValue(String::from_utf8_lossy(&out).into_owned()))
        }
        JsonFormat::List(items) => {
            Some(Value::ArrayValue(ArrayValue { values: items.iter().map(|i| any_value(i, facts)).collect() }))
        }
        JsonFormat::Struct(fields) => Some(Value::KvlistValue(KeyValueList {
            values: fields.iter().map(|(k, v)| key_value(k, any_value(v, facts))).collect(),
        })),
    };
    AnyValue { value }
}

/// An attribute.
pub fn key_value(key: &str, value: AnyValue) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

/// A text attribute.
pub(crate) fn text(key: &str, value: &str) -> KeyValue {
    key_value(key, AnyValue { value: Some(Value::StringValue(value.to_owned())) })
}
