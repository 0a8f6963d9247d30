//! What did the caller ask? Query parameters, decoded; the first of a name counts, as in Envoy.

use percent_encoding::percent_decode_str;

/// Decoded parameters in order.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c`.
    pub fn parse(text: &str) -> Self {
        let decode = |s: &str| percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|p| {
            let (key, value) = p.split_once('=').unwrap_or((p, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// Adds the parameters of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// A parameter that is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// A parameter that is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    /// All parameters.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// A regular expression, if given; the error is Envoy's page for a bad one.
    pub fn regex(&self, name: &str) -> Result<Option<regex::Regex>, String> {
        self.get(name).map(|r| regex::Regex::new(r).map_err(|e| format!("Invalid re2 regex: {e}\n"))).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoded_and_first_wins() {
        let q = Query::parse("a=1&a=2&usedonly&filter=x%7Cy+z&e=");
        assert_eq!(
            (q.get("a"), q.has("usedonly"), q.get("filter"), q.get("e")),
            (Some("1"), true, Some("x|y z"), None)
        );
        assert!(Query::parse("f=[").regex("f").is_err() && Query::parse("").regex("f").is_ok_and(|r| r.is_none()));
    }
}
