//! The functions of templates: Go's own, the part of sprig that templates use, and Istio's.

use std::cmp::Ordering;

use serde_json::{Map, Value, json};

use super::eval::{print, truth};
use crate::templates::sidecar::{append_multus_network, exclude_port};
use crate::templates::{clean, directory};

type Outcome = Result<Value, String>;

fn text(v: &Value) -> String {
    if v.is_null() { String::new() } else { print(v) }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    compare(a, b).map_or_else(|| a == b || (a.is_null() && *b == json!("")), |o| o == Ordering::Equal)
}

/// Every line moved to the right; `first`: the first one, too.
fn indent(width: usize, s: &str, first: bool) -> String {
    let pad = " ".repeat(width.min(256));
    let line = |(at, l): (usize, &str)| if at > 0 || first { format!("{pad}{l}") } else { l.to_owned() };
    s.split('\n').enumerate().map(line).collect::<Vec<_>>().join("\n")
}

fn number(v: &Value) -> Result<i64, String> {
    match v {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)).ok_or_else(|| "not a number".into()),
        Value::String(s) => s.trim().parse().map_err(|_| format!("{s:?} is not a number")),
        _ => Err(format!("{} is not a number", print(v))),
    }
}

fn yaml(v: &Value) -> String {
    api::yaml::to_yaml(v).trim_end().to_owned()
}

/// Calls a function by name.
pub(super) fn call(name: &str, args: Vec<Value>) -> Outcome {
    let arity = |n: usize| {
        if args.len() == n { Ok(()) } else { Err(format!("{name} wants {n} arguments, got {}", args.len())) }
    };
    let at_least = |n: usize| {
        if args.len() >= n { Ok(()) } else { Err(format!("{name} wants at least {n} arguments, got {}", args.len())) }
    };
    let s = |i: usize| args.get(i).map(text).unwrap_or_default();
    Ok(match name {
        "and" | "or" => {
            at_least(1)?;
            let stop = args.iter().find(|v| truth(v) == (name == "or"));
            stop.or(args.last()).cloned().unwrap_or(Value::Null)
        }
        "not" => {
            arity(1)?;
            (!truth(&args[0])).into()
        }
        "eq" => {
            at_least(2)?;
            args[1..].iter().any(|b| equal(&args[0], b)).into()
        }
        "ne" => {
            arity(2)?;
            (!equal(&args[0], &args[1])).into()
        }
        "lt" | "le" | "gt" | "ge" => {
            arity(2)?;
            let order = compare(&args[0], &args[1]).ok_or_else(|| format!("{name}: incompatible types"))?;
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        "len" => {
            arity(1)?;
            match &args[0] {
                Value::Array(items) => items.len(),
                Value::Object(map) => map.len(),
                Value::String(s) => s.len(),
                Value::Null => 0,
                other => return Err(format!("len of {}", print(other))),
            }
            .into()
        }
        "index" => {
            at_least(1)?;
            args[1..].iter().try_fold(args[0].clone(), |v, key| index(&v, key))?
        }
        "print" => args.iter().map(print).collect::<String>().into(),
        "println" => format!("{}\n", args.iter().map(print).collect::<Vec<_>>().join(" ")).into(),
        "printf" => {
            at_least(1)?;
            printf(&s(0), &args[1..]).into()
        }
        "list" => args.into(),
        "dict" | "strdict" => {
            let mut map = Map::new();
            for pair in args.chunks(2) {
                map.insert(text(&pair[0]), pair.get(1).cloned().unwrap_or(Value::Null));
            }
            map.into()
        }
        "append" => {
            arity(2)?;
            let mut items = args[0].as_array().cloned().unwrap_or_default();
            items.push(args[1].clone());
            items.into()
        }
        "default" => {
            at_least(1)?;
            if args.get(1).is_some_and(truth) { args[1].clone() } else { args[0].clone() }
        }
        "valueOrDefault" => {
            arity(2)?;
            if truth(&args[0]) { args[0].clone() } else { args[1].clone() }
        }
        "coalesce" => args.iter().find(|v| truth(v)).cloned().unwrap_or(Value::Null),
        "ternary" => {
            arity(3)?;
            if truth(&args[2]) { args[0].clone() } else { args[1].clone() }
        }
        "empty" => {
            arity(1)?;
            (!truth(&args[0])).into()
        }
        "join" => {
            arity(2)?;
            args[1].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(&s(0)).into()
        }
        "splitList" => {
            arity(2)?;
            s(1).split(&s(0)).map(Value::from).collect::<Vec<_>>().into()
        }
        "quote" => args.iter().map(|v| Value::from(text(v)).to_string()).collect::<Vec<_>>().join(" ").into(),
        "squote" => args.iter().map(|v| format!("'{}'", text(v))).collect::<Vec<_>>().join(" ").into(),
        "upper" => s(0).to_uppercase().into(),
        "lower" | "toLower" => s(0).to_lowercase().into(),
        "trim" => s(0).trim().into(),
        "trimAll" => {
            arity(2)?;
            let cut: Vec<char> = s(0).chars().collect();
            s(1).trim_matches(&cut[..]).into()
        }
        "trimSuffix" => {
            arity(2)?;
            s(1).strip_suffix(s(0).as_str()).map_or(s(1), str::to_owned).into()
        }
        "trimPrefix" => {
            arity(2)?;
            s(1).strip_prefix(s(0).as_str()).map_or(s(1), str::to_owned).into()
        }
        "trunc" => {
            arity(2)?;
            let n = usize::try_from(number(&args[0])?).unwrap_or(0);
            s(1).chars().take(n).collect::<String>().into()
        }
        "replace" => {
            arity(3)?;
            s(2).replace(&s(0), &s(1)).into()
        }
        "hasPrefix" => s(1).starts_with(&s(0)).into(),
        "hasSuffix" => s(1).ends_with(&s(0)).into(),
        // Istio's `contains` takes the part first, as sprig's does.
        "contains" => s(1).contains(&s(0)).into(),
        "hasKey" => args.first().is_some_and(|m| m.get(s(1)).is_some()).into(),
        // Istio's own: the first line stands where the template puts it. `nindent` is sprig's.
        "indent" => {
            arity(2)?;
            indent(usize::try_from(number(&args[0])?).unwrap_or(0), &s(1), false).into()
        }
        "nindent" => {
            arity(2)?;
            format!("\n{}", indent(usize::try_from(number(&args[0])?).unwrap_or(0), &s(1), true)).into()
        }
        "int" | "int64" => number(args.first().unwrap_or(&Value::Null)).unwrap_or(0).into(),
        "toString" => s(0).into(),
        "add" => args.iter().map(number).sum::<Result<i64, _>>()?.into(),
        "sub" => {
            arity(2)?;
            (number(&args[0])? - number(&args[1])?).into()
        }
        "toYaml" => {
            arity(1)?;
            yaml(&args[0]).into()
        }
        "fromYaml" => api::yaml::parse(&s(0)).map_err(|e| e.to_string())?,
        "toJSON" | "toJson" | "structToJSON" => {
            arity(1)?;
            if args[0].is_null() { "{}".into() } else { args[0].to_string().into() }
        }
        "protoToJSON" => {
            arity(1)?;
            if args[0].is_null() { "{}".into() } else { clean(&args[0]).to_string().into() }
        }
        "fromJSON" => serde_json::from_str(&s(0)).unwrap_or_else(|_| "{}".into()),
        "fromJson" => serde_json::from_str(&s(0)).map_err(|e| format!("{name}: {e}"))?,
        "toJsonMap" => {
            let mut merged = Map::new();
            args.iter().filter_map(Value::as_object).for_each(|m| merged.extend(m.clone()));
            Value::Object(merged).to_string().into()
        }
        "mergeMaps" => {
            let mut merged = Map::new();
            args.iter().filter_map(Value::as_object).for_each(|m| merged.extend(m.clone()));
            merged.into()
        }
        "omitNil" => {
            arity(1)?;
            omit_nil(&args[0])
        }
        "omit" => {
            at_least(1)?;
            let mut map = args[0].as_object().cloned().unwrap_or_default();
            args[1..].iter().for_each(|k| {
                map.shift_remove(&text(k));
            });
            map.into()
        }
        "isset" => {
            arity(2)?;
            args[0].get(s(1)).is_some().into()
        }
        "annotation" => {
            arity(3)?;
            let own = ["Annotations", "annotations"].iter().find_map(|f| args[0].get(f)?.get(s(1)));
            text(own.unwrap_or(&args[2])).into()
        }
        "directory" => {
            arity(1)?;
            directory(&s(0)).into()
        }
        "includeInboundPorts" | "applicationPorts" => {
            let containers = args.first().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let wanted = |c: &&Value| name == "includeInboundPorts" || c["name"] != crate::PROXY;
            containers.iter().filter(wanted).flat_map(tcp_ports).collect::<Vec<_>>().join(",").into()
        }
        "excludeInboundPort" => {
            arity(2)?;
            exclude_port(&s(0), &s(1)).into()
        }
        "appendMultusNetwork" => {
            arity(2)?;
            append_multus_network(&s(0), &s(1)).into()
        }
        "formatDuration" | "kubevirtInterfaces" | "excludeInterfaces" => s(0).into(),
        "env" => {
            arity(2)?;
            args[1].clone()
        }
        _ => return Err(format!("function {name:?} is not known")),
    })
}

fn index(v: &Value, key: &Value) -> Outcome {
    match (v, key) {
        (Value::Array(items), Value::Number(n)) => {
            let i = n.as_u64().and_then(|n| usize::try_from(n).ok());
            i.and_then(|i| items.get(i)).cloned().ok_or_else(|| format!("index out of range: {n}"))
        }
        (Value::Object(map), key) => Ok(map.get(&text(key)).cloned().unwrap_or_else(|| "".into())),
        (Value::Null, _) => Ok("".into()),
        _ => Err(format!("can't index {}", print(v))),
    }
}

/// Drops nulls, and what is empty after that.
pub fn omit_nil(v: &Value) -> Value {
    match v {
        Value::Object(map) => {
            let kept = map.iter().map(|(k, v)| (k.clone(), omit_nil(v))).filter(|(_, v)| !v.is_null());
            let kept: Map<String, Value> = kept.collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        Value::Array(items) => {
            let kept: Vec<Value> = items.iter().map(omit_nil).filter(|v| !v.is_null()).collect();
            if kept.is_empty() { Value::Null } else { Value::Array(kept) }
        }
        other => other.clone(),
    }
}

fn printf(format: &str, args: &[Value]) -> String {
    let mut out = String::new();
    let mut args = args.iter();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let verb = chars.by_ref().find(|c| c.is_ascii_alphabetic() || *c == '%');
        match verb {
            Some('%') => out.push('%'),
            Some('q') => out.push_str(&args.next().map_or(String::new(), |v| Value::from(text(v)).to_string())),
            Some(_) => out.push_str(&args.next().map_or("%!(MISSING)".into(), print)),
            None => {}
        }
    }
    out
}

/// The ports of a container whose traffic a proxy can carry: not UDP's, not SCTP's.
pub fn tcp_ports(container: &Value) -> Vec<String> {
    let ports = container["ports"].as_array().into_iter().flatten();
    ports.filter(|p| p["protocol"] != "UDP" && p["protocol"] != "SCTP").map(|p| text(&p["containerPort"])).collect()
}
