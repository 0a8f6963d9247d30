//! Which filters are known, and what are their options? One closed enum per layer; a file each.
//!
//! `network` and `http` hold chain-level configuration; [`PerFilter`] holds what a route says about a filter.

pub mod http;
pub mod network;

use std::sync::Arc;

use crate::Name;

/// Per-route configuration of HTTP filters, resolved over all levels; most specific first won.
#[derive(Debug, Clone, Default)]
pub struct PerFilter(pub Option<Arc<[(Name, FilterOverride)]>>);

impl PerFilter {
    /// What the route says about the filter configured as `name`.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&FilterOverride> {
        self.0.as_ref()?.iter().find(|(n, _)| &**n == name).map(|(_, o)| o)
    }

    /// True when no filter is spoken of (the common case).
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// What a route says about one filter.
#[derive(Debug, Clone)]
pub enum FilterOverride {
    /// Switched off (`FilterConfig.disabled`, `disabled: true` of the filter's own message).
    Disabled,
    /// Switched on with its chain configuration (`FilterConfig` without config).
    Enabled,
    /// `CorsPolicy`, merged over levels as Envoy's CORS filter does.
    Cors(Arc<crate::route::CorsPolicy>),
    /// `HTTPFault`
    Fault(Arc<http::Fault>),
    /// `RBACPerRoute`
    Rbac(Arc<http::HttpRbac>),
    /// `LocalRateLimit`
    LocalRateLimit(Arc<http::LocalRateLimit>),
    /// `RateLimitPerRoute`
    RateLimit(Arc<http::RateLimitPerRoute>),
    /// `ExtAuthzPerRoute.check_settings`
    ExtAuthz(Arc<http::ExtAuthzPerRoute>),
    /// `jwt_authn.PerRouteConfig.requirement_name`
    JwtRequirement(Name),
    /// `ExtProcPerRoute.overrides`
    ExtProc(Arc<http::ExtProcPerRoute>),
    /// `BufferPerRoute`, bytes
    Buffer(u32),
    /// `CsrfPolicy`
    Csrf(Arc<http::Csrf>),
    /// `CompressorPerRoute`
    Compressor(Arc<http::CompressorPerRoute>),
    /// `StatefulSessionPerRoute`
    StatefulSession(Arc<http::StatefulSession>),
    /// `HeaderMutationPerRoute` of all levels, in evaluation order
    HeaderMutation(Arc<[Arc<http::HeaderMutation>]>),
    /// `header_to_metadata` per route
    HeaderToMetadata(Arc<http::HeaderToMetadata>),
    /// `set_filter_state` per route
    SetFilterState(Arc<network::SetFilterState>),
    /// `dynamic_forward_proxy.PerRouteConfig`: host rewrite literal or header
    DynamicForwardProxy(Arc<http::DfpPerRoute>),
    /// `LuaPerRoute`
    Lua(Arc<http::LuaPerRoute>),
    /// `OnDemand PerRouteConfig`: ODCDS timeout
    OnDemand(Arc<http::OnDemand>),
}
