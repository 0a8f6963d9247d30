//! How are URI templates such as `/api/{version}/*/**` compiled? To an equivalent regular expression.

use protos::envoy::config::core::v3::TypedExtensionConfig;
use protos::envoy::extensions::path as ext;

use crate::error::{ConfigError, Reason, Result, invalid, missing};
use crate::route::{TemplatePart, UriTemplate};

/// `envoy.path.match.uri_template.uri_template_matcher`
pub(super) fn matcher(e: &TypedExtensionConfig) -> Result<UriTemplate> {
    let any = e.typed_config.as_ref().ok_or_else(|| missing("typed_config"))?;
    let c: ext::r#match::uri_template::v3::UriTemplateMatchConfig = super::any::expect(&e.name, any)?;
    compile(&c.path_template)
}

/// Compiles a template. Rules of Envoy: begins with `/`; `*` is one segment, `**` any number and last;
/// `{name}` is `{name=*}`, `{name=pattern}` captures the pattern; names are unique.
pub(super) fn compile(text: &str) -> Result<UriTemplate> {
    let bad = |why: &str| invalid(format!("path_match_policy.path_template {text} is invalid: {why}"));
    if !text.starts_with('/') {
        return Err(bad("it must begin with /"));
    }
    let mut expression = String::from("^");
    let mut names: Vec<&str> = Vec::new();
    let mut glob_seen = false;
    let mut rest = text;
    let mut glob = |pattern: &str, out: &mut String| {
        if glob_seen {
            return Err(bad("nothing may follow **"));
        }
        for (i, segment) in pattern.split('/').enumerate() {
            if i > 0 {
                out.push('/');
            }
            match segment {
                "*" => out.push_str("[^/]+"),
                "**" => {
                    glob_seen = true;
                    out.push_str(".*");
                }
                literal if literal.contains('*') => return Err(bad("* must be a whole segment")),
                literal => out.push_str(&regex::escape(literal)),
            }
        }
        Ok(())
    };
    while let Some(open) = rest.find('{') {
        if open > 0 {
            glob(&rest[..open], &mut expression)?;
        }
        let close = rest[open..].find('}').map(|i| open + i).ok_or_else(|| bad("unclosed {"))?;
        let (name, pattern) = rest[open + 1..close].split_once('=').unwrap_or((&rest[open + 1..close], "*"));
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || names.contains(&name) {
            return Err(bad("variable names must be unique words"));
        }
        names.push(name);
        expression.push_str(&format!("(?P<{name}>"));
        glob(pattern, &mut expression)?;
        expression.push(')');
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        glob(rest, &mut expression)?;
    }
    expression.push('$');
    let regex = regex::bytes::Regex::new(&expression).map_err(|e| ConfigError::new(Reason::Regex(e.to_string())))?;
    Ok(UriTemplate { text: text.into(), regex })
}

/// `envoy.path.rewrite.uri_template.uri_template_rewriter`
pub(super) fn rewriter(e: &TypedExtensionConfig) -> Result<Box<[TemplatePart]>> {
    let any = e.typed_config.as_ref().ok_or_else(|| missing("typed_config"))?;
    let c: ext::rewrite::uri_template::v3::UriTemplateRewriteConfig = super::any::expect(&e.name, any)?;
    let text = &c.path_template_rewrite;
    let mut parts = Vec::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('{') {
        if open > 0 {
            parts.push(TemplatePart::Text(rest[..open].into()));
        }
        let close = rest[open..]
            .find('}')
            .map(|i| open + i)
            .ok_or_else(|| invalid(format!("path_template_rewrite {text} is invalid: unclosed {{")))?;
        parts.push(TemplatePart::Var(rest[open + 1..close].into()));
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        parts.push(TemplatePart::Text(rest.into()));
    }
    Ok(parts.into())
}
