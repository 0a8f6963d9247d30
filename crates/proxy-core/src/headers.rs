//! How are header operations carried out?
//!
//! Called by `l7::router` with the chain of the route (or of the weighted cluster) before path and host rewrites, and on
//! responses before they are encoded.

use proxy_config::filters::http::Mutation;
use proxy_config::headers::{AppendAction, HeaderAdd, HeaderOps};

use crate::facts::Facts;
use crate::{HeaderEdit, format};

/// Applies every level in order. `facts` describes the stream **without** borrowing `headers`; operators that read the
/// block being changed see `headers` as it was when its level began.
///
/// `request` says whether the block is the request's (true) or the response's.
pub fn apply<H: HeaderEdit>(chain: &[std::sync::Arc<HeaderOps>], headers: &mut H, facts: &Facts<'_>, request: bool) {
    for level in chain {
        apply_level(level, headers, facts, request);
    }
}

/// Applies one level: removals, then overwrites, then additions, as Envoy does.
pub fn apply_level<H: HeaderEdit>(ops: &HeaderOps, headers: &mut H, facts: &Facts<'_>, request: bool) {
    for name in &ops.remove {
        headers.remove(name.as_str().as_bytes());
    }
    let mut overwrites: Vec<(&HeaderAdd, Vec<u8>)> = Vec::new();
    let mut additions: Vec<(&HeaderAdd, Vec<u8>)> = Vec::new();
    for add in &ops.add {
        let name = add.name.as_str().as_bytes();
        let value = evaluate(add, headers, facts, request);
        if value.is_empty() && !add.keep_empty {
            continue;
        }
        match add.action {
            AppendAction::AppendIfExistsOrAdd => additions.push((add, value)),
            AppendAction::AddIfAbsent if headers.get(name).is_none() => additions.push((add, value)),
            AppendAction::OverwriteIfExistsOrAdd => overwrites.push((add, value)),
            AppendAction::OverwriteIfExists if headers.get(name).is_some() => overwrites.push((add, value)),
            AppendAction::AddIfAbsent | AppendAction::OverwriteIfExists => {}
        }
    }
    for (add, value) in overwrites {
        headers.set(add.name.as_str().as_bytes(), &value);
    }
    for (add, value) in additions {
        headers.append(add.name.as_str().as_bytes(), &value, request);
    }
}

fn evaluate<H: HeaderEdit>(add: &HeaderAdd, headers: &H, facts: &Facts<'_>, request: bool) -> Vec<u8> {
    if let Some(text) = add.value.as_literal() {
        return text.as_bytes().to_vec();
    }
    let view: &dyn crate::HeaderView = headers;
    let facts =
        if request { Facts { request: Some(view), ..*facts } } else { Facts { response: Some(view), ..*facts } };
    let mut out = Vec::new();
    format::header_value(&add.value, &facts, &mut out);
    out
}

/// Applies the `header_mutation` filter's list in order.
pub fn mutate<H: HeaderEdit>(list: &[Mutation], headers: &mut H, facts: &Facts<'_>, request: bool) {
    for m in list {
        match m {
            Mutation::Remove(name) => {
                headers.remove(name.as_str().as_bytes());
            }
            Mutation::Add(add) => {
                let value = evaluate(add, headers, facts, request);
                if value.is_empty() && !add.keep_empty {
                    continue;
                }
                let name = add.name.as_str().as_bytes();
                let present = headers.get(name).is_some();
                match add.action {
                    AppendAction::AppendIfExistsOrAdd => headers.append(name, &value, request),
                    AppendAction::AddIfAbsent if !present => headers.add(name, &value),
                    AppendAction::OverwriteIfExistsOrAdd => headers.set(name, &value),
                    AppendAction::OverwriteIfExists if present => headers.set(name, &value),
                    AppendAction::AddIfAbsent | AppendAction::OverwriteIfExists => {}
                }
            }
            Mutation::RemoveMatching(matcher) => {
                let mut doomed: Vec<Vec<u8>> = Vec::new();
                headers.all(&mut |name, _| {
                    if !name.starts_with(b":") && matcher.matches(name) {
                        doomed.push(name.to_vec());
                    }
                });
                for name in doomed {
                    headers.remove(&name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_config::matcher::HeaderName;

    use super::*;
    use crate::header_view::HeaderList;

    fn add(name: &str, value: &str, action: AppendAction) -> HeaderAdd {
        HeaderAdd {
            name: HeaderName::new(name),
            name_as_given: name.into(),
            value: proxy_config::format::parse(value).unwrap(),
            action,
            keep_empty: false,
        }
    }

    fn check(ops: HeaderOps, before: &[(&str, &str)], after: &[(&str, &str)]) {
        let mut h = HeaderList::of(before);
        apply_level(&ops, &mut h, &Facts::default(), true);
        assert_eq!(h, HeaderList::of(after));
    }

    #[test]
    fn actions() {
        use AppendAction as A;
        let one = |a| HeaderOps { remove: Box::default(), add: Box::new([add("x", "n", a)]) };
        check(one(A::AppendIfExistsOrAdd), &[("x", "o")], &[("x", "o"), ("x", "n")]);
        check(one(A::AddIfAbsent), &[("x", "o")], &[("x", "o")]);
        check(one(A::AddIfAbsent), &[], &[("x", "n")]);
        check(one(A::OverwriteIfExistsOrAdd), &[("x", "o"), ("x", "p")], &[("x", "n")]);
        check(one(A::OverwriteIfExists), &[], &[]);
        check(one(A::OverwriteIfExists), &[("x", "o")], &[("x", "n")]);
    }

    #[test]
    fn removal_comes_first_and_absent_values_are_dropped() {
        use AppendAction as A;
        check(
            HeaderOps {
                remove: Box::new([HeaderName::new("x")]),
                add: Box::new([
                    add("x", "n", A::AddIfAbsent),
                    add("y", "%REQ(nope)%", A::AppendIfExistsOrAdd),
                    add("z", "%REQ(:path)%!", A::AppendIfExistsOrAdd),
                ]),
            },
            &[(":path", "/p"), ("x", "o")],
            &[(":path", "/p"), ("x", "n"), ("z", "/p!")],
        );
    }
}
