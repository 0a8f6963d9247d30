//! How does a patch change a pod? Kubernetes's strategic merge, for the lists a pod has.
//!
//! Objects merge by key, `null` deletes, lists of named things merge by their merge key in Kubernetes's order, other
//! lists and scalars are replaced. Directives: `$patch: replace | delete | merge`, `$retainKeys` (what of an object stays) and
//! `$deleteFromPrimitiveList/FIELD`; `$setElementOrder/FIELD` says nothing that matters here.

use serde_json::{Map, Value};

/// The key by which elements of a list are the same thing.
fn merge_key(field: &str, parent: &str) -> Option<&'static str> {
    Some(match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims" => "name",
        "ports" if parent.ends_with("ontainers") => "containerPort",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "hostAliases" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

/// The pod (or part of one) with the patch applied.
pub fn apply(base: &Value, patch: &Value) -> Value {
    merge(base, patch, "", "")
}

/// Applies a patch to one container.
pub fn apply_container(base: &Value, patch: &Value) -> Value {
    merge(base, patch, "", "containers")
}

fn merge(base: &Value, patch: &Value, field: &str, parent: &str) -> Value {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            match patch.get("$patch").and_then(Value::as_str) {
                Some("replace") => return Value::Object(without_directives(patch)),
                Some("delete") => return Value::Object(Map::new()),
                _ => {}
            }
            let mut out = base.clone();
            if let Some(kept) = patch.get("$retainKeys").and_then(Value::as_array) {
                out.retain(|key, _| kept.iter().any(|k| k == key));
            }
            let ordering = |key: &str| key == "$patch" || key == "$retainKeys" || key.starts_with("$setElementOrder/");
            for (key, value) in patch.iter().filter(|(key, _)| !ordering(key)) {
                if let Some(list) = key.strip_prefix("$deleteFromPrimitiveList/") {
                    if let (Some(items), Some(gone)) =
                        (out.get_mut(list).and_then(Value::as_array_mut), value.as_array())
                    {
                        items.retain(|item| !gone.contains(item));
                    }
                } else if value.is_null() {
                    out.shift_remove(key);
                } else {
                    let old = out.get(key).cloned().unwrap_or(Value::Null);
                    // The parent of a list's fields is the list's name; of an object's, the object's.
                    let here = if field.is_empty() { parent } else { field };
                    out.insert(key.clone(), merge(&old, value, key, here));
                }
            }
            Value::Object(out)
        }
        (Value::Null, Value::Object(patch)) => {
            merge(&Value::Object(Map::new()), &Value::Object(patch.clone()), field, parent)
        }
        (base, Value::Array(patch)) => match merge_key(field, parent) {
            Some(key) => {
                let empty = Vec::new();
                Value::Array(merge_list(base.as_array().unwrap_or(&empty), patch, key, field))
            }
            None => Value::Array(patch.clone()),
        },
        (_, patch) => patch.clone(),
    }
}

fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    patch.iter().filter(|(k, _)| !k.starts_with('$')).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn merge_list(base: &[Value], patch: &[Value], key: &str, field: &str) -> Vec<Value> {
    let same = |a: &Value, b: &Value| a.get(key).is_some() && a.get(key) == b.get(key);
    if patch.iter().any(|p| p.get("$patch").and_then(Value::as_str) == Some("replace")) {
        return patch.iter().filter(|p| p.get("$patch").is_none()).cloned().collect();
    }
    let deleted =
        |v: &Value| patch.iter().any(|p| same(p, v) && p.get("$patch").and_then(Value::as_str) == Some("delete"));
    let mut patched: Vec<Value> = Vec::new();
    for p in patch.iter().filter(|p| p.get("$patch").is_none()) {
        let old = patched.iter().position(|v| same(v, p));
        match old {
            Some(i) => patched[i] = merge(&patched[i], p, "", field),
            None => {
                let before = base.iter().find(|b| same(b, p)).cloned().unwrap_or(Value::Null);
                patched.push(merge(&before, p, "", field));
            }
        }
    }
    let base: Vec<&Value> = base.iter().filter(|b| !deleted(b)).collect();
    let server_only: Vec<&Value> = base.iter().copied().filter(|b| !patch.iter().any(|p| same(p, b))).collect();
    // Kubernetes's order: patched things first, unless what was there says otherwise.
    let index = |v: &Value| base.iter().position(|b| same(b, v));
    let (mut left, mut right) = (server_only.into_iter().peekable(), patched.into_iter().peekable());
    let mut out = Vec::new();
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(l), Some(r)) => matches!((index(l), index(r)), (Some(l), Some(r)) if l < r),
        };
        out.extend(if take_left { left.next().cloned() } else { right.next() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges() {
        let base = json!({"spec": {"containers": [
            {"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["1"], "ports": [{"containerPort": 80, "name": "p"}]},
            {"name": "b"}], "nodeSelector": {"x": "y"}, "gone": 1}});
        let patch = json!({"spec": {"containers": [
            {"name": "c"}, {"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "3"}], "args": ["2"],
                "ports": [{"containerPort": 80, "protocol": "TCP"}]}], "nodeSelector": {"z": "w"}, "gone": null}});
        assert_eq!(
            apply(&base, &patch),
            json!({"spec": {"containers": [
                {"name": "c"},
                {"name": "a", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "3"}], "args": ["2"],
                    "ports": [{"containerPort": 80, "name": "p", "protocol": "TCP"}]},
                {"name": "b"}], "nodeSelector": {"x": "y", "z": "w"}}})
        );
    }

    #[test]
    fn directives() {
        let base = json!({"env": [{"name": "a"}, {"name": "b"}], "o": {"x": 1}});
        let patch = json!({"env": [{"name": "a", "$patch": "delete"}], "o": {"$patch": "replace", "y": 2}});
        assert_eq!(apply_container(&base, &patch), json!({"env": [{"name": "b"}], "o": {"y": 2}}));
        let base = json!({"o": {"x": 1, "y": 2}, "gone": {"x": 1}, "args": ["a", "b"]});
        let patch = json!({"o": {"$retainKeys": ["y", "z"], "z": 3}, "gone": {"$patch": "delete"},
            "$deleteFromPrimitiveList/args": ["a"], "$setElementOrder/env": [{"name": "b"}]});
        assert_eq!(apply_container(&base, &patch), json!({"o": {"y": 2, "z": 3}, "gone": {}, "args": ["b"]}));
    }
}
