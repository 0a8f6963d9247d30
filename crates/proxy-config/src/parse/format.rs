//! How are format strings and `SubstitutionFormatString` messages compiled?

use protos::envoy::config::core::v3 as core;
use protos::prost_types as pt;

use super::common::opt_name;
use crate::error::{At, Result, invalid, missing};
use crate::format::{self, Format, FormatBody, JsonFormat, SubstitutionFormat};

/// A text format.
pub(super) fn text(s: &str) -> Result<Format> {
    format::parse(s).map_err(|e| crate::Reason::from(e).into())
}

/// A JSON format.
pub(super) fn json(s: &pt::Struct) -> Result<JsonFormat> {
    fn node(v: &pt::Value) -> Result<JsonFormat> {
        use pt::value::Kind;
        Ok(match &v.kind {
            None | Some(Kind::NullValue(_)) => JsonFormat::Null,
            Some(Kind::BoolValue(b)) => JsonFormat::Bool(*b),
            Some(Kind::NumberValue(n)) => JsonFormat::Number(*n),
            Some(Kind::StringValue(s)) => JsonFormat::String(text(s)?),
            Some(Kind::ListValue(l)) => JsonFormat::List(l.values.iter().map(node).collect::<Result<Vec<_>>>()?.into()),
            Some(Kind::StructValue(s)) => json(s)?,
        })
    }
    let fields: Result<Vec<_>> = s.fields.iter().map(|(k, v)| Ok((k.as_str().into(), node(v).at(k)?))).collect();
    Ok(JsonFormat::Struct(fields?.into()))
}

/// `SubstitutionFormatString`
pub(super) fn substitution(f: &core::SubstitutionFormatString) -> Result<SubstitutionFormat> {
    use core::substitution_format_string::Format as F;
    for (i, extension) in f.formatters.iter().enumerate() {
        let known = ["req_without_query", "metadata", "cel"];
        let suffix = extension.name.rsplit('.').next().unwrap_or_default();
        if !known.contains(&suffix) {
            return Err(super::any::no_config(&extension.name).at_index("formatters", i));
        }
    }
    let body = match f.format.as_ref().ok_or_else(|| missing("format"))? {
        F::TextFormat(t) => FormatBody::Text(text(t).at("text_format")?),
        F::JsonFormat(s) => FormatBody::Json(json(s).at("json_format")?),
        F::TextFormatSource(d) => {
            let bytes = super::common::inline(d).at("text_format_source")?;
            let s = std::str::from_utf8(&bytes).map_err(|_| invalid("not UTF-8").at("text_format_source"))?;
            FormatBody::Text(text(s).at("text_format_source")?)
        }
    };
    Ok(SubstitutionFormat { body, omit_empty_values: f.omit_empty_values, content_type: opt_name(&f.content_type) })
}

/// An optional substitution format field.
pub(super) fn opt_substitution(
    field: &str,
    f: &Option<core::SubstitutionFormatString>,
) -> Result<Option<SubstitutionFormat>> {
    f.as_ref().map(substitution).transpose().at(field)
}
