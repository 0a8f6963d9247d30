//! What does `-o jsonpath=…` pick? The part of kubectl's language that scripts use: fields, indices, wildcards, recursive
//! descent and literal text around `{…}`.

use serde_json::Value;

/// One step of a path.
#[derive(Debug, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Descend,
}

/// Fills `template` from `value`; several results are joined by a space.
///
/// # Errors
/// A template that cannot be read.
pub(crate) fn fill(template: &str, value: &Value) -> Result<String, String> {
    let whole = if template.contains('{') { template.to_owned() } else { format!("{{{template}}}") };
    let mut out = String::new();
    let mut rest = whole.as_str();
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at].replace("\\n", "\n").replace("\\t", "\t"));
        let (expression, after) =
            rest[at + 1..].split_once('}').ok_or_else(|| format!("jsonpath: {template:?} lacks a closing brace"))?;
        rest = after;
        if let Some(literal) = expression.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
            out.push_str(&literal.replace("\\n", "\n").replace("\\t", "\t"));
            continue;
        }
        let mut found = vec![value];
        for step in steps(expression)? {
            found = found.into_iter().flat_map(|value| apply(&step, value)).collect();
        }
        let texts: Vec<String> =
            found.into_iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
        out.push_str(&texts.join(" "));
    }
    out.push_str(&rest.replace("\\n", "\n").replace("\\t", "\t"));
    Ok(out)
}

fn steps(expression: &str) -> Result<Vec<Step>, String> {
    let bad = || format!("jsonpath: cannot read {expression:?}");
    let mut steps = Vec::new();
    let mut rest = expression.trim().trim_start_matches('$').trim_start_matches('@');
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Descend);
            rest = after;
            if rest.starts_with('[') {
                continue;
            }
            rest = field(rest, &mut steps).ok_or_else(bad)?;
        } else if let Some(after) = rest.strip_prefix('.') {
            rest = field(after, &mut steps).ok_or_else(bad)?;
        } else if let Some(after) = rest.strip_prefix('[') {
            let (inner, after) = after.split_once(']').ok_or_else(bad)?;
            let quoted = inner.trim_matches(['\'', '"']);
            steps.push(match inner {
                "*" => Step::All,
                _ if quoted != inner => Step::Field(quoted.to_owned()),
                _ => Step::Index(inner.parse().map_err(|_| bad())?),
            });
            rest = after;
        } else {
            rest = field(rest, &mut steps).ok_or_else(bad)?;
        }
    }
    Ok(steps)
}

fn field<'a>(text: &'a str, steps: &mut Vec<Step>) -> Option<&'a str> {
    let mut name = String::new();
    let mut letters = text.char_indices();
    let mut end = text.len();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => {
                end = at;
                break;
            }
            other => name.push(other),
        }
    }
    if name.is_empty() {
        return (text.is_empty()).then_some("");
    }
    steps.push(if name == "*" { Step::All } else { Step::Field(name) });
    Some(&text[end..])
}

fn apply<'a>(step: &Step, value: &'a Value) -> Vec<&'a Value> {
    let children = |value: &'a Value| -> Vec<&'a Value> {
        match value {
            Value::Array(list) => list.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        }
    };
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
            let at = if *index < 0 { length + index } else { *index };
            usize::try_from(at).ok().and_then(|at| list.get(at)).into_iter().collect()
        }
        Step::All => children(value),
        Step::Descend => {
            let mut all = vec![value];
            let mut next = 0;
            while let Some(one) = all.get(next).copied() {
                all.extend(children(one));
                next += 1;
            }
            all
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(template: &str, expect: &str) {
        let value = json!({"items": [{"metadata": {"name": "a", "labels": {"x.y/z": "1"}}}, {"metadata": {"name": "b"}}], "n": 3});
        assert_eq!(fill(template, &value).as_deref(), Ok(expect), "{template}");
    }

    #[test]
    fn what_scripts_use() {
        check("{.items..metadata.name}", "a b");
        check("{.items[0].metadata.name}", "a");
        check("{.items[-1].metadata.name}", "b");
        check("{.items[*].metadata.name}", "a b");
        check(".n", "3");
        check("{.items[0].metadata.labels.x\\.y/z}", "1");
        check("{.items[0].metadata.labels['x.y/z']}", "1");
        check("n={.n}{\"\\n\"}", "n=3\n");
        check("{.missing.deep}", "");
        assert!(fill("{.a", &json!({})).is_err());
    }
}
