//! Which headers and cookies become dynamic metadata? Envoy's `header_to_metadata`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http1::HeaderBlock;
use protos::prost::Message;
use proxy_config::Name;
use proxy_config::common::Value;
use proxy_config::filters::FilterOverride;
use proxy_config::filters::http::{self as config, HeaderToMetadataRule, MetadataPair};
use proxy_core::matcher::cookie_value;

use super::Step;
use crate::exchange::Exchange;

/// Bytes of a value that may become metadata.
const VALUE_BYTES_MAX: usize = 8 << 10;

/// The filter of one chain.
pub struct HeaderToMetadata {
    /// Its options.
    pub config: Arc<config::HeaderToMetadata>,
}

impl HeaderToMetadata {
    /// Applies the request rules.
    pub fn on_request(&self, ex: &mut Exchange, over: Option<&FilterOverride>) -> Step {
        let entries = apply(&self.rules(over).request_rules, &mut ex.request);
        store(ex, entries);
        Step::Continue
    }

    /// Applies the response rules.
    pub fn on_response(&self, ex: &mut Exchange, over: Option<&FilterOverride>) {
        let entries = apply(&self.rules(over).response_rules, &mut ex.response);
        store(ex, entries);
    }

    fn rules<'a>(&'a self, over: Option<&'a FilterOverride>) -> &'a config::HeaderToMetadata {
        match over {
            Some(FilterOverride::HeaderToMetadata(c)) => c,
            _ => &self.config,
        }
    }
}

type Entries = Vec<(Name, Name, Value)>;

fn store(ex: &mut Exchange, entries: Entries) {
    for (namespace, key, value) in entries {
        super::merge_metadata_named(ex, namespace, BTreeMap::from([(key, value)]));
    }
}

fn apply(rules: &[HeaderToMetadataRule], block: &mut HeaderBlock) -> Entries {
    let mut out = Vec::new();
    for rule in rules {
        let found = extract(rule, block);
        let (pair, value) = match (&found, &rule.on_present, &rule.on_missing) {
            (Some(v), Some(pair), _) => (pair, v.as_slice()),
            (None, _, Some(pair)) => (pair, &[][..]),
            _ => continue,
        };
        if let Some(value) = convert(pair, value) {
            out.push((pair.namespace.clone(), pair.key.clone(), value));
        }
    }
    out
}

fn extract(rule: &HeaderToMetadataRule, block: &mut HeaderBlock) -> Option<Vec<u8>> {
    let name = rule.name.as_str().as_bytes();
    if rule.cookie {
        return cookie_value(&*block, name).map(<[u8]>::to_vec);
    }
    let values: Vec<&[u8]> = block.get_all(name).collect();
    if values.is_empty() {
        return None;
    }
    let joined = values.join(&b","[..]);
    if rule.remove {
        block.remove(name);
    }
    Some(joined)
}

fn convert(pair: &MetadataPair, value: &[u8]) -> Option<Value> {
    let mut value = match (&pair.rewrite, &pair.value) {
        (Some(rewrite), _) => rewrite.apply(value),
        (None, Some(fixed)) => fixed.as_bytes().to_vec(),
        (None, None) => value.to_vec(),
    };
    if value.is_empty() || value.len() >= VALUE_BYTES_MAX {
        return None;
    }
    if pair.base64 {
        value = STANDARD.decode(&value).ok().filter(|v| !v.is_empty())?;
    }
    match pair.value_type {
        1 => std::str::from_utf8(&value).ok()?.trim().parse().ok().map(Value::Number),
        2 => {
            let message = protos::prost_types::Value::decode(&*value).ok()?;
            Some(crate::callout::wire::of_proto(&message))
        }
        _ => Some(Value::String(String::from_utf8_lossy(&value).into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy_config::matcher::HeaderName;

    fn pair(value: Option<&str>, value_type: u8, base64: bool) -> MetadataPair {
        MetadataPair {
            namespace: "ns".into(),
            key: "k".into(),
            value: value.map(Into::into),
            value_type,
            base64,
            rewrite: None,
        }
    }

    #[test]
    fn conversions() {
        let check = |p: MetadataPair, input: &str, expect: Option<Value>| {
            assert_eq!(convert(&p, input.as_bytes()), expect, "{input}");
        };
        check(pair(None, 0, false), "a", Some(Value::String("a".into())));
        check(pair(None, 0, false), "", None);
        check(pair(Some("x"), 0, false), "", Some(Value::String("x".into())));
        check(pair(None, 1, false), "1.5", Some(Value::Number(1.5)));
        check(pair(None, 1, false), "one", None);
        check(pair(None, 0, true), "YQ==", Some(Value::String("a".into())));
        check(pair(None, 0, true), "$", None);
    }

    #[test]
    fn present_and_missing() {
        let rule = |name: &str, cookie: bool| HeaderToMetadataRule {
            name: HeaderName::new(name),
            cookie,
            on_present: Some(pair(None, 0, false)),
            on_missing: Some(pair(Some("none"), 0, false)),
            remove: true,
        };
        let mut block = HeaderBlock::new();
        block.add(b"x-a", b"1");
        block.add(b"x-a", b"2");
        block.add(b"cookie", b"c=v");
        let got = apply(&[rule("x-a", false), rule("c", true), rule("x-b", false)], &mut block);
        let texts: Vec<_> = got.iter().map(|(_, _, v)| v.as_str().unwrap().to_owned()).collect();
        assert_eq!(texts, ["1,2", "v", "none"]);
        assert!(block.get(b"x-a").is_none());
    }
}
