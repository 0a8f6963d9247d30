//! Which JSON patch (RFC 6902) turns one document into another? What a mutating webhook answers.

use serde_json::{Value, json};

/// The operations that turn `from` into `to`, in order. Elements of lists are compared in their places; what is new
/// comes at the end, what is gone is taken from there.
pub fn diff(from: &Value, to: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    walk(from, to, &mut String::new(), &mut out);
    out
}

fn walk(from: &Value, to: &Value, path: &mut String, out: &mut Vec<Value>) {
    match (from, to) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().filter(|k| !b.contains_key(*k)) {
                below(path, key, |path| out.push(json!({"op": "remove", "path": path})));
            }
            for (key, value) in b {
                below(path, key, |path| match a.get(key) {
                    Some(old) => walk(old, value, path, out),
                    None => out.push(json!({"op": "add", "path": path, "value": value})),
                });
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (n, (old, new)) in a.iter().zip(b).enumerate() {
                below(path, &n.to_string(), |path| walk(old, new, path, out));
            }
            for n in (b.len()..a.len()).rev() {
                below(path, &n.to_string(), |path| out.push(json!({"op": "remove", "path": path})));
            }
            for (n, new) in b.iter().enumerate().skip(a.len()) {
                below(path, &n.to_string(), |path| out.push(json!({"op": "add", "path": path, "value": new})));
            }
        }
        _ if from == to => {}
        _ => out.push(json!({"op": "replace", "path": path, "value": to})),
    }
}

fn below(path: &mut String, key: &str, f: impl FnOnce(&mut String)) {
    let len = path.len();
    path.push('/');
    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
    f(path);
    path.truncate(len);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the API server applies it.
    fn apply(mut document: Value, patch: &[Value]) -> Value {
        for operation in patch {
            let path = operation["path"].as_str().expect("a path");
            let Some((parent, key)) = path.rsplit_once('/') else {
                document = operation["value"].clone();
                continue;
            };
            let key = key.replace("~1", "/").replace("~0", "~");
            match document.pointer_mut(parent).expect("the parent is there") {
                Value::Object(map) => match operation["op"].as_str() {
                    Some("remove") => drop(map.remove(&key).expect("was there")),
                    _ => drop(map.insert(key, operation["value"].clone())),
                },
                Value::Array(list) => {
                    let n: usize = key.parse().expect("an index");
                    match operation["op"].as_str() {
                        Some("remove") => drop(list.remove(n)),
                        Some("add") => list.insert(n, operation["value"].clone()),
                        _ => list[n] = operation["value"].clone(),
                    }
                }
                other => panic!("{parent} of {other}"),
            }
        }
        document
    }

    fn documents() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0..4i64).prop_map(Value::from)];
        leaf.prop_recursive(4, 48, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[ab~/]{1,2}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_patch_leads_there(from in documents(), to in documents()) {
            prop_assert_eq!(apply(from.clone(), &diff(&from, &to)), to);
        }
    }

    #[test]
    fn equal_documents_need_nothing() {
        let pod = json!({"metadata": {"labels": {"a/b": "c"}}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(diff(&pod, &pod), Vec::<Value>::new());
    }

    #[test]
    fn only_what_differs_is_said() {
        let from = json!({"metadata": {"labels": {"a/b": "c"}}, "spec": {"containers": [{"name": "a"}]}});
        let to = json!({"metadata": {"labels": {"a/b": "d"}}, "spec": {"containers": [{"name": "a"}, {"name": "p"}]}});
        assert_eq!(
            diff(&from, &to),
            [
                json!({"op": "replace", "path": "/metadata/labels/a~1b", "value": "d"}),
                json!({"op": "add", "path": "/spec/containers/1", "value": {"name": "p"}})
            ]
        );
    }
}
