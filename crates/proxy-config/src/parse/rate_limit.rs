//! How are rate limit descriptors of routes compiled?

use std::sync::Arc;

use protos::envoy::config::route::v3 as p;
use protos::envoy::config::route::v3::rate_limit::action::{ActionSpecifier as S, meta_data::Source};

use super::common::{metadata_key, opt_name, required};
use super::{each, matcher, reject};
use crate::Name;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::matcher::HeaderName;
use crate::route::{RateLimit, RateLimitAction as A};

/// A list of `RateLimit`.
pub(super) fn limits(field: &str, list: &[p::RateLimit]) -> Result<Arc<[RateLimit]>> {
    if list.is_empty() {
        // Made of nothing it would be an allocation of its own.
        return Ok(Arc::default());
    }
    each(field, list, limit)
}

fn limit(r: &p::RateLimit) -> Result<RateLimit> {
    reject!(r; limit, hits_addend, apply_on_stream_done, x_ratelimit_option);
    let stage = r.stage.unwrap_or(0);
    if stage > 10 {
        return Err(invalid("value must be less than or equal to 10").at("stage"));
    }
    Ok(RateLimit { stage, disable_key: r.disable_key.as_str().into(), actions: each("actions", &r.actions, action)? })
}

fn key(given: &str, default: &str) -> Name {
    if given.is_empty() { default.into() } else { given.into() }
}

fn prefix(n: Option<u32>, default: u8) -> Result<u8> {
    n.map_or(Ok(default), |n| {
        u8::try_from(n).ok().filter(|n| *n <= default).ok_or_else(|| invalid("prefix length is out of range"))
    })
}

fn action(a: &p::rate_limit::Action) -> Result<A> {
    Ok(match a.action_specifier.as_ref().ok_or_else(|| missing("action_specifier"))? {
        S::SourceCluster(_) => A::SourceCluster,
        S::DestinationCluster(_) => A::DestinationCluster,
        S::RequestHeaders(h) => A::RequestHeaders {
            name: HeaderName::new(&required("header_name", &h.header_name).at("request_headers")?),
            key: required("descriptor_key", &h.descriptor_key).at("request_headers")?,
            skip_if_absent: h.skip_if_absent,
        },
        S::QueryParameters(q) => A::QueryParameters {
            name: required("query_parameter_name", &q.query_parameter_name).at("query_parameters")?,
            key: required("descriptor_key", &q.descriptor_key).at("query_parameters")?,
            skip_if_absent: q.skip_if_absent,
        },
        S::RemoteAddress(_) => A::RemoteAddress,
        S::MaskedRemoteAddress(m) => A::MaskedRemoteAddress {
            v4_prefix: prefix(m.v4_prefix_mask_len, 32).at("v4_prefix_mask_len")?,
            v6_prefix: prefix(m.v6_prefix_mask_len, 128).at("v6_prefix_mask_len")?,
        },
        S::GenericKey(g) => A::GenericKey {
            key: key(&g.descriptor_key, "generic_key"),
            value: required("descriptor_value", &g.descriptor_value).at("generic_key")?,
        },
        S::HeaderValueMatch(h) => A::HeaderValueMatch {
            key: key(&h.descriptor_key, "header_match"),
            value: required("descriptor_value", &h.descriptor_value).at("header_value_match")?,
            expect_match: h.expect_match.unwrap_or(true),
            headers: matcher::headers("headers", &h.headers).at("header_value_match")?,
        },
        S::DynamicMetadata(m) => {
            let (filter, path) = metadata_key(&m.metadata_key).at("dynamic_metadata")?;
            A::Metadata {
                key: m.descriptor_key.as_str().into(),
                route: false,
                filter,
                path,
                default: opt_name(&m.default_value),
                skip_if_absent: false,
            }
        }
        S::Metadata(m) => {
            let (filter, path) = metadata_key(&m.metadata_key).at("metadata")?;
            let route = match Source::try_from(m.source) {
                Ok(Source::Dynamic) => false,
                Ok(Source::RouteEntry) => true,
                _ => return Err(unsupported("this source").at("source").at("metadata")),
            };
            A::Metadata {
                key: m.descriptor_key.as_str().into(),
                route,
                filter,
                path,
                default: opt_name(&m.default_value),
                skip_if_absent: m.skip_if_absent,
            }
        }
        S::QueryParameterValueMatch(q) => A::QueryParameterValueMatch {
            key: key(&q.descriptor_key, "query_match"),
            value: required("descriptor_value", &q.descriptor_value).at("query_parameter_value_match")?,
            expect_match: q.expect_match.unwrap_or(true),
            query: each("query_parameters", &q.query_parameters, matcher::query).at("query_parameter_value_match")?,
        },
        S::RemoteAddressMatch(_) => {
            return Err(unsupported("this action").at("remote_address_match"));
        }
        S::Extension(e) => return Err(super::any::no_config(&e.name).at("extension")),
    })
}
