//! Who may do what? Compiled `envoy.config.rbac.v3` policies; evaluated by `proxy-core::rbac`.

use std::sync::Arc;

use crate::Name;
use crate::cel::Cel;
use crate::common::Cidr;
use crate::matcher::{HeaderMatcher, MetadataMatcher, StringMatcher, ValueMatcher};
use crate::route::UriTemplate;

/// Rules and shadow rules of an RBAC filter.
#[derive(Debug, Clone, Default)]
pub struct RbacConfig {
    /// Enforced rules; `None` lets everything pass.
    pub rules: Option<Arc<Rules>>,
    /// Rules that are only counted and logged.
    pub shadow_rules: Option<Arc<Rules>>,
    /// Prefix of shadow stats and metadata keys.
    pub shadow_rules_stat_prefix: crate::route::DefaultName,
    /// Prefix of enforced stats.
    pub rules_stat_prefix: crate::route::DefaultName,
    /// Counts per rule.
    pub track_per_rule_stats: bool,
}

/// `RBAC`.
#[derive(Debug, Clone)]
pub struct Rules {
    /// What a match means.
    pub action: Action,
    /// Policies by name, in name order (the first that matches is reported).
    pub policies: Box<[(Name, Policy)]>,
}

/// `RBAC.Action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Denied unless some policy matches.
    Allow,
    /// Denied if some policy matches.
    Deny,
    /// Never denied; a match sets the `access_log_hint` metadata.
    Log,
}

/// `Policy`: some permission and some principal and the condition.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Any suffices.
    pub permissions: Box<[Permission]>,
    /// Any suffices.
    pub principals: Box<[Principal]>,
    /// Must hold too.
    pub condition: Option<Arc<Cel>>,
}

/// `Permission`.
#[derive(Debug, Clone)]
pub enum Permission {
    /// `and_rules`
    And(Box<[Permission]>),
    /// `or_rules`
    Or(Box<[Permission]>),
    /// `not_rule`
    Not(Box<Permission>),
    /// `any`
    Any,
    /// `header`
    Header(Box<HeaderMatcher>),
    /// `url_path`: the path without query and fragment
    UrlPath(StringMatcher),
    /// `destination_ip`
    DestinationIp(Cidr),
    /// `destination_port`
    DestinationPort(u16),
    /// `destination_port_range`, `[start, end)`
    DestinationPortRange(u32, u32),
    /// `metadata` (dynamic)
    Metadata(Box<MetadataMatcher>),
    /// `sourced_metadata` from the route
    RouteMetadata(Box<MetadataMatcher>),
    /// `requested_server_name`
    RequestedServerName(StringMatcher),
    /// `uri_template`
    UriTemplate(Box<UriTemplate>),
}

/// `Principal`.
#[derive(Debug, Clone)]
pub enum Principal {
    /// `and_ids`
    And(Box<[Principal]>),
    /// `or_ids`
    Or(Box<[Principal]>),
    /// `not_id`
    Not(Box<Principal>),
    /// `any`
    Any,
    /// `authenticated`: URI SANs, else DNS SANs, else subject; `None`: any TLS peer with a certificate
    Authenticated(Option<StringMatcher>),
    /// `direct_remote_ip` (also deprecated `source_ip`, as Envoy evaluates it): the peer of the socket
    DirectRemoteIp(Cidr),
    /// `remote_ip`: after x-forwarded-for
    RemoteIp(Cidr),
    /// `source_ip`
    SourceIp(Cidr),
    /// `header`
    Header(Box<HeaderMatcher>),
    /// `url_path`
    UrlPath(StringMatcher),
    /// `metadata` (dynamic)
    Metadata(Box<MetadataMatcher>),
    /// `sourced_metadata` from the route
    RouteMetadata(Box<MetadataMatcher>),
    /// `filter_state`: object name and test of its text
    FilterState(Name, ValueMatcher),
}
