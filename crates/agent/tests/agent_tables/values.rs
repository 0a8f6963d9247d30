//! Values of the tables: Go's constants, calls and references, as far as the tables use them.

use serde_json::{Map, Value};

/// A text field; absent is empty.
pub fn text(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => go(other),
    }
}

/// Go's constants of the metrics formats.
const CONSTANTS: [(&str, &str); 8] = [
    ("expfmt.OpenMetricsType", "application/openmetrics-text"),
    ("expfmt.OpenMetricsVersion_0_0_1", "0.0.1"),
    ("expfmt.OpenMetricsVersion_1_0_0", "1.0.0"),
    ("expfmt.TextVersion", "0.0.4"),
    ("FmtText", "text/plain; version=0.0.4; charset=utf-8"),
    ("FmtOpenMetrics_0_0_1", "application/openmetrics-text; version=0.0.1; charset=utf-8"),
    ("FmtOpenMetrics_1_0_0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ("expfmt.TypeTextPlain", "text/plain; version=0.0.4; charset=utf-8"),
];

/// A constant expression as text.
pub fn go(v: &Value) -> String {
    if let Some(s) = v.as_str() {
        return s.to_owned();
    }
    if let Some(name) = v["$ref"].as_str().or(v["$ident"].as_str()) {
        return constant(name);
    }
    // `expfmt.NewFormat(x)`, `string(x)`: the argument says it all.
    if v["$call"].is_string() {
        return go(&v["args"][0]);
    }
    let mut out = String::new();
    let mut rest = v["$expr"].as_str().unwrap_or_default().trim();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '`' | '"'));
        let (part, after) = match quote {
            Some(q) => rest[1..].split_once(q).map(|(p, a)| (p.to_owned(), a)).unwrap_or_default(),
            None => {
                let (name, after) = rest.split_once('+').map_or((rest, ""), |(n, _)| (n, &rest[n.len()..]));
                (constant(name.trim()), after)
            }
        };
        out.push_str(&part);
        rest = after.trim().trim_start_matches('+').trim();
    }
    out
}

fn constant(name: &str) -> String {
    CONSTANTS.iter().find(|(n, _)| *n == name).map_or_else(|| name.to_owned(), |(_, v)| (*v).to_owned())
}

/// `http.StatusOK` or a number.
pub fn status_code(v: &Value) -> Result<u16, String> {
    if let Some(n) = v.as_u64() {
        return u16::try_from(n).map_err(|e| e.to_string());
    }
    let name = v["$ref"].as_str().unwrap_or_default().trim_start_matches("http.Status");
    let found = (100..600).find(|code| {
        let reason = http::StatusCode::from_u16(*code).ok().and_then(|c| c.canonical_reason()).unwrap_or_default();
        reason.chars().filter(char::is_ascii_alphanumeric).collect::<String>() == name
    });
    found.ok_or_else(|| format!("{v} is no status"))
}

/// A Go struct as JSON: without types, with the application's port where it is meant.
pub fn resolve(v: &Value, port: u16) -> Value {
    match v {
        Value::Object(map) => {
            if map.get("$t").and_then(Value::as_str).is_some_and(|t| t.ends_with("IntOrString")) {
                return match map.get("IntVal").or(map.get("StrVal")) {
                    Some(Value::Object(_)) => port.into(),
                    Some(other) => other.clone(),
                    None => 0.into(),
                };
            }
            if map.contains_key("$ref") || map.contains_key("$ident") {
                return port.into();
            }
            if map.contains_key("$call") {
                return resolve(&map["args"][0], port);
            }
            let kept = map.iter().filter(|(k, _)| *k != "$t");
            kept.map(|(k, v)| (k.clone(), resolve(v, port))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(|v| resolve(v, port)).collect(),
        other => other.clone(),
    }
}

/// `http.Header` as pairs with names in lower case.
pub fn headers(v: &Value) -> Vec<(String, String)> {
    let map = v.as_object().into_iter().flatten().filter(|(k, _)| *k != "$t");
    map.flat_map(|(k, list)| list.as_array().into_iter().flatten().map(move |v| (k.to_ascii_lowercase(), text(v))))
        .collect()
}
