//! What does each configuration level say about HTTP filters? `typed_per_filter_config` resolved per route.
//!
//! Most filters use the most specific level. CORS merges field by field; header mutation applies all levels.

use std::collections::BTreeMap;
use std::sync::Arc;

use protos::envoy::config::route::v3 as route;
use protos::envoy::extensions::filters::http as f;
use protos::prost_types::Any;

use super::any::Typed;
use super::{http_filters as http, http_security as security};
use crate::Name;
use crate::error::{At, Result, missing};
use crate::filters::http::HeaderMutation;
use crate::filters::{FilterOverride, PerFilter};
use crate::route::CorsPolicy;

/// Name under which deprecated `cors` fields of routes and virtual hosts act.
const CORS: &str = "envoy.filters.http.cors";

/// One level's word about one filter.
#[derive(Debug, Clone)]
enum Said {
    Plain(FilterOverride),
    Cors(f::cors::v3::CorsPolicy),
    Mutation(Arc<HeaderMutation>),
}

/// Levels seen so far, least specific first.
#[derive(Debug, Clone, Default)]
pub(super) struct Levels(BTreeMap<Name, Vec<Said>>);

impl Levels {
    /// No level.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a more specific level.
    pub fn with(mut self, configs: &BTreeMap<String, Any>) -> Result<Self> {
        for (name, any) in configs {
            let said = say(name, any).map_err(|e| e.at(&format!("typed_per_filter_config[\"{name}\"]")))?;
            if let Some(said) = said {
                self.0.entry(name.as_str().into()).or_default().push(said);
            }
        }
        Ok(self)
    }

    /// Adds a deprecated route-level `cors` field.
    pub fn with_cors(mut self, cors: &route::CorsPolicy) -> Self {
        let enabled = cors.enabled_specifier.as_ref().map(|e| match e {
            route::cors_policy::EnabledSpecifier::FilterEnabled(f) => f.clone(),
        });
        let policy = f::cors::v3::CorsPolicy {
            allow_origin_string_match: cors.allow_origin_string_match.clone(),
            allow_methods: cors.allow_methods.clone(),
            allow_headers: cors.allow_headers.clone(),
            expose_headers: cors.expose_headers.clone(),
            max_age: cors.max_age.clone(),
            allow_credentials: cors.allow_credentials,
            filter_enabled: enabled,
            shadow_enabled: cors.shadow_enabled.clone(),
            allow_private_network_access: cors.allow_private_network_access,
            forward_not_matching_preflights: cors.forward_not_matching_preflights,
        };
        self.0.entry(CORS.into()).or_default().push(Said::Cors(policy));
        self
    }

    /// The resolved overrides.
    pub fn resolve(&self) -> Result<PerFilter> {
        let mut out: Vec<(Name, FilterOverride)> = Vec::with_capacity(self.0.len());
        for (name, said) in &self.0 {
            let Some(last) = said.last() else { continue };
            let resolved = match last {
                Said::Plain(o) => o.clone(),
                Said::Cors(_) => FilterOverride::Cors(Arc::new(merge_cors(said)?)),
                Said::Mutation(_) => FilterOverride::HeaderMutation(
                    said.iter()
                        .filter_map(|s| match s {
                            Said::Mutation(m) => Some(m.clone()),
                            Said::Plain(_) | Said::Cors(_) => None,
                        })
                        .collect(),
                ),
            };
            out.push((name.clone(), resolved));
        }
        Ok(PerFilter((!out.is_empty()).then(|| out.into())))
    }
}

/// The first policy that has a field wins, most specific first; switches come from the most specific alone.
fn merge_cors(said: &[Said]) -> Result<CorsPolicy> {
    let mut merged = f::cors::v3::CorsPolicy::default();
    for level in said.iter().rev() {
        let Said::Cors(p) = level else { continue };
        let text = |mine: &mut String, theirs: &str| {
            if mine.is_empty() {
                *mine = theirs.to_owned();
            }
        };
        if merged.allow_origin_string_match.is_empty() {
            merged.allow_origin_string_match = p.allow_origin_string_match.clone();
        }
        text(&mut merged.allow_methods, &p.allow_methods);
        text(&mut merged.allow_headers, &p.allow_headers);
        text(&mut merged.expose_headers, &p.expose_headers);
        text(&mut merged.max_age, &p.max_age);
        merged.allow_credentials = merged.allow_credentials.or(p.allow_credentials);
        merged.allow_private_network_access = merged.allow_private_network_access.or(p.allow_private_network_access);
        merged.forward_not_matching_preflights =
            merged.forward_not_matching_preflights.or(p.forward_not_matching_preflights);
    }
    if let Some(Said::Cors(p)) = said.last() {
        merged.filter_enabled = p.filter_enabled.clone();
        merged.shadow_enabled = p.shadow_enabled.clone();
    }
    http::cors(&merged)
}

fn say(name: &str, any: &Any) -> Result<Option<Said>> {
    let typed = Typed::open(name, any)?;
    if typed.message == "envoy.config.route.v3.FilterConfig" {
        let c: route::FilterConfig = typed.decode()?;
        if c.disabled {
            return Ok(Some(Said::Plain(FilterOverride::Disabled)));
        }
        return match &c.config {
            None => Ok(Some(Said::Plain(FilterOverride::Enabled))),
            Some(inner) => match say(name, inner) {
                Err(e) if c.is_optional && matches!(e.reason, crate::Reason::UnknownType { .. }) => Ok(None),
                other => other.at("config"),
            },
        };
    }
    let plain = |o: FilterOverride| Ok(Some(Said::Plain(o)));
    let off_or = |off: bool, on: FilterOverride| plain(if off { FilterOverride::Disabled } else { on });
    match typed.message.as_str() {
        "envoy.extensions.filters.http.cors.v3.CorsPolicy" => Ok(Some(Said::Cors(typed.decode()?))),
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            plain(FilterOverride::Fault(Arc::new(http::fault(&typed.decode()?)?)))
        }
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" => {
            let c: f::rbac::v3::RbacPerRoute = typed.decode()?;
            let rbac = security::rbac(&c.rbac.unwrap_or_default()).at("rbac")?;
            plain(FilterOverride::Rbac(Arc::new(rbac)))
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            plain(FilterOverride::LocalRateLimit(Arc::new(http::local_rate_limit(&typed.decode()?)?)))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute" => {
            plain(FilterOverride::RateLimit(Arc::new(security::rate_limit_per_route(&typed.decode()?)?)))
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" => {
            use f::ext_authz::v3::ext_authz_per_route::Override as O;
            let c: f::ext_authz::v3::ExtAuthzPerRoute = typed.decode()?;
            match c.r#override.ok_or_else(|| missing("override"))? {
                O::Disabled(off) => off_or(off, FilterOverride::Enabled),
                O::CheckSettings(s) => plain(FilterOverride::ExtAuthz(Arc::new(security::check_settings(&s)?))),
            }
        }
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig" => {
            use f::jwt_authn::v3::per_route_config::RequirementSpecifier as O;
            let c: f::jwt_authn::v3::PerRouteConfig = typed.decode()?;
            match c.requirement_specifier.ok_or_else(|| missing("requirement_specifier"))? {
                O::Disabled(_) => plain(FilterOverride::Disabled),
                O::RequirementName(n) => plain(FilterOverride::JwtRequirement(n.into())),
            }
        }
        "envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute" => {
            use f::ext_proc::v3::ext_proc_per_route::Override as O;
            let c: f::ext_proc::v3::ExtProcPerRoute = typed.decode()?;
            match c.r#override.ok_or_else(|| missing("override"))? {
                O::Disabled(off) => off_or(off, FilterOverride::Enabled),
                O::Overrides(o) => plain(FilterOverride::ExtProc(Arc::new(security::ext_proc_overrides(&o)?))),
            }
        }
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute" => {
            use f::buffer::v3::buffer_per_route::Override as O;
            let c: f::buffer::v3::BufferPerRoute = typed.decode()?;
            match c.r#override.ok_or_else(|| missing("override"))? {
                O::Disabled(off) => off_or(off, FilterOverride::Enabled),
                O::Buffer(b) => plain(FilterOverride::Buffer(http::buffer(&b).at("buffer")?)),
            }
        }
        "envoy.extensions.filters.http.csrf.v3.CsrfPolicy" => {
            plain(FilterOverride::Csrf(Arc::new(http::csrf(&typed.decode()?)?)))
        }
        "envoy.extensions.filters.http.compressor.v3.CompressorPerRoute" => {
            use f::compressor::v3::compressor_per_route::Override as O;
            let c: f::compressor::v3::CompressorPerRoute = typed.decode()?;
            match c.r#override.ok_or_else(|| missing("override"))? {
                O::Disabled(off) => off_or(off, FilterOverride::Enabled),
                O::Overrides(o) => {
                    super::reject!(o; compressor_library);
                    let remove = o.response_direction_config.and_then(|r| r.remove_accept_encoding_header);
                    plain(FilterOverride::Compressor(Arc::new(crate::filters::http::CompressorPerRoute {
                        remove_accept_encoding_header: remove,
                    })))
                }
            }
        }
        "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute" => {
            use f::stateful_session::v3::stateful_session_per_route::Override as O;
            let c: f::stateful_session::v3::StatefulSessionPerRoute = typed.decode()?;
            match c.r#override.ok_or_else(|| missing("override"))? {
                O::Disabled(off) => off_or(off, FilterOverride::Enabled),
                O::StatefulSession(s) => {
                    plain(FilterOverride::StatefulSession(Arc::new(http::stateful_session(&s).at("stateful_session")?)))
                }
            }
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" => {
            let c: f::header_mutation::v3::HeaderMutationPerRoute = typed.decode()?;
            let m = http::header_mutations(&c.mutations.unwrap_or_default(), false).at("mutations")?;
            Ok(Some(Said::Mutation(Arc::new(m))))
        }
        "envoy.extensions.filters.http.header_to_metadata.v3.Config" => {
            plain(FilterOverride::HeaderToMetadata(Arc::new(http::header_to_metadata(&typed.decode()?)?)))
        }
        "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
            plain(FilterOverride::SetFilterState(Arc::new(http::set_filter_state(&typed.decode()?)?)))
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig" => {
            use crate::filters::http::DfpPerRoute;
            use f::dynamic_forward_proxy::v3::per_route_config::HostRewriteSpecifier as H;
            let c: f::dynamic_forward_proxy::v3::PerRouteConfig = typed.decode()?;
            plain(match c.host_rewrite_specifier {
                Some(H::HostRewriteLiteral(s)) => {
                    FilterOverride::DynamicForwardProxy(Arc::new(DfpPerRoute::Literal(s.into())))
                }
                Some(H::HostRewriteHeader(s)) => FilterOverride::DynamicForwardProxy(Arc::new(DfpPerRoute::Header(
                    crate::matcher::HeaderName::new(&s),
                ))),
                None => FilterOverride::Enabled,
            })
        }
        "envoy.extensions.filters.http.lua.v3.LuaPerRoute" => {
            use crate::filters::http::LuaPerRoute;
            use f::lua::v3::lua_per_route::Override as O;
            let c: f::lua::v3::LuaPerRoute = typed.decode()?;
            match c.r#override.ok_or_else(|| missing("override"))? {
                O::Disabled(off) => off_or(off, FilterOverride::Enabled),
                O::Name(n) => plain(FilterOverride::Lua(Arc::new(LuaPerRoute::Name(n.into())))),
                O::SourceCode(d) => plain(FilterOverride::Lua(Arc::new(LuaPerRoute::Source(
                    super::common::data_source(&d).at("source_code")?,
                )))),
            }
        }
        "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig" => {
            let c: f::on_demand::v3::PerRouteConfig = typed.decode()?;
            plain(FilterOverride::OnDemand(Arc::new(http::on_demand(&c.odcds)?)))
        }
        _ => Err(typed.unknown()),
    }
}
