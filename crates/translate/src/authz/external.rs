//! Which requests go to an external authorizer? `CUSTOM` policies: an RBAC filter that only marks, and an `ext_authz`
//! filter that asks for what was marked. A provider that cannot be used denies what it should have decided.
//! Follows `pilot/pkg/security/authz/builder/extauthz.go`.

use std::collections::BTreeSet;

use api::security::AuthorizationAction;
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::config::rbac::v3 as rbac;
use protos::envoy::extensions::filters::http::ext_authz::v3 as ext;
use protos::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use protos::envoy::extensions::filters::network::ext_authz::v3 as network_ext;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::extensions::filters::network::rbac::v3 as network_rbac;
use protos::envoy::r#type::matcher::v3 as matcher;
use protos::envoy::r#type::v3 as typ;
use serde_json::Value;

use super::{HTTP_RBAC, NETWORK_RBAC, Policy, TCP_PREFIX, policies};
use crate::Inputs;
use crate::access_log::{envoy_grpc, provider_cluster};
use crate::wire::{any, api_duration, duration, http_filter, network_filter, regex, string_matcher};

/// Prefix of the marks that RBAC leaves.
const STAT_PREFIX: &str = "istio_ext_authz_";
/// Where RBAC leaves the policy that matched.
const EFFECTIVE_POLICY: &str = "istio_ext_authz_shadow_effective_policy_id";
/// Timeout when the provider states none.
const TIMEOUT_S: u64 = 600;

/// The authorizer behind a provider.
struct Authorizer {
    http: ext::ExtAuthz,
    /// Only gRPC authorizers understand connections.
    tcp: Option<network_ext::ExtAuthz>,
}

fn chosen(inputs: &Inputs) -> Vec<&Policy> {
    inputs.view.authorization.iter().filter(|p| p.spec.action == AuthorizationAction::Custom).collect()
}

fn provider_names(policies: &[&Policy]) -> BTreeSet<String> {
    policies.iter().map(|p| provider_name(p).to_owned()).collect()
}

fn provider_name(policy: &Policy) -> &str {
    policy.spec.provider.as_ref().map_or("", |p| &p.name)
}

fn mark(provider: &str) -> String {
    format!("istio-ext-authz-{provider}")
}

/// Custom authorization of an HTTP connection manager.
pub(crate) fn http(inputs: &Inputs) -> Vec<hcm::HttpFilter> {
    let chosen = chosen(inputs);
    if chosen.is_empty() {
        return Vec::new();
    }
    match single(inputs, &chosen) {
        Ok((provider, authorizer)) => {
            let marks = http_rbac::Rbac {
                shadow_rules: Some(marked(inputs, &chosen, &provider, false)),
                shadow_rules_stat_prefix: STAT_PREFIX.to_owned(),
                ..Default::default()
            };
            let mut config = authorizer.http;
            config.filter_enabled_metadata = Some(enabled(HTTP_RBAC, &provider));
            vec![http_filter(HTTP_RBAC, any(&marks)), http_filter("envoy.filters.http.ext_authz", any(&config))]
        }
        Err(()) => denied(inputs, &chosen, false)
            .into_iter()
            .map(|r| http_filter(HTTP_RBAC, any(&http_rbac::Rbac { rules: Some(r), ..Default::default() })))
            .collect(),
    }
}

/// Custom authorization of a TCP filter chain.
pub(crate) fn tcp(inputs: &Inputs) -> Vec<listener::Filter> {
    let chosen = chosen(inputs);
    if chosen.is_empty() {
        return Vec::new();
    }
    match single(inputs, &chosen) {
        Ok((provider, authorizer)) => {
            let Some(mut config) = authorizer.tcp else {
                return Vec::new();
            };
            let marks = network_rbac::Rbac {
                shadow_rules: Some(marked(inputs, &chosen, &provider, true)),
                shadow_rules_stat_prefix: STAT_PREFIX.to_owned(),
                stat_prefix: TCP_PREFIX.to_owned(),
                ..Default::default()
            };
            config.filter_enabled_metadata = Some(enabled(NETWORK_RBAC, &provider));
            vec![
                network_filter(NETWORK_RBAC, any(&marks)),
                network_filter("envoy.filters.network.ext_authz", any(&config)),
            ]
        }
        Err(()) => denied(inputs, &chosen, true)
            .into_iter()
            .map(|r| network_rbac::Rbac { rules: Some(r), stat_prefix: TCP_PREFIX.to_owned(), ..Default::default() })
            .map(|config| network_filter(NETWORK_RBAC, any(&config)))
            .collect(),
    }
}

/// The one provider of all policies. `Err`: there are several, or it cannot be used.
fn single(inputs: &Inputs, chosen: &[&Policy]) -> Result<(String, Authorizer), ()> {
    let names = provider_names(chosen);
    let (1, Some(name)) = (names.len(), names.first()) else {
        return Err(());
    };
    let found = inputs.mesh().provider(name).and_then(|p| match p.kind.as_str() {
        "envoyExtAuthzHttp" => http_authorizer(inputs, &p.config),
        "envoyExtAuthzGrpc" => grpc_authorizer(inputs, &p.config),
        _ => None,
    });
    found.map(|a| (name.clone(), a)).ok_or(())
}

fn marked(inputs: &Inputs, chosen: &[&Policy], provider: &str, for_tcp: bool) -> rbac::Rbac {
    let action = rbac::rbac::Action::Deny;
    let name = |rule: &str| format!("{}-{rule}", mark(provider));
    let policies = policies(inputs, chosen.iter().copied(), action, for_tcp, name);
    rbac::Rbac { action: action as i32, policies, ..Default::default() }
}

/// Rules that refuse what the providers should have decided, one set per provider.
fn denied(inputs: &Inputs, chosen: &[&Policy], for_tcp: bool) -> Vec<rbac::Rbac> {
    let action = rbac::rbac::Action::Deny;
    let of = |provider: String| {
        let own = chosen.iter().copied().filter(|p| provider_name(p) == provider);
        let name = |rule: &str| format!("{}-{rule}-deny-due-to-bad-CUSTOM-action", mark(&provider));
        let policies = policies(inputs, own, action, for_tcp, name);
        rbac::Rbac { action: action as i32, policies, ..Default::default() }
    };
    provider_names(chosen).into_iter().map(of).collect()
}

fn enabled(filter: &str, provider: &str) -> matcher::MetadataMatcher {
    let prefix = string_matcher(matcher::string_matcher::MatchPattern::Prefix(mark(provider)));
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![matcher::metadata_matcher::PathSegment {
            segment: Some(matcher::metadata_matcher::path_segment::Segment::Key(EFFECTIVE_POLICY.to_owned())),
        }],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(prefix)),
        }),
        invert: false,
    }
}

fn flag(config: &Value, name: &str) -> bool {
    config.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn word<'a>(config: &'a Value, name: &str) -> &'a str {
    config.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn strings(config: &Value, name: &str) -> Vec<String> {
    let list = config.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// Settings that both kinds share. `None`: something is not valid.
fn common(config: &Value) -> Option<ext::ExtAuthz> {
    let status = match word(config, "statusOnError") {
        "" => typ::StatusCode::Forbidden,
        text => typ::StatusCode::try_from(text.parse::<i32>().ok()?).ok().filter(|c| *c != typ::StatusCode::Empty)?,
    };
    let body = config.get("includeRequestBodyInCheck").map(|b| ext::BufferSettings {
        max_request_bytes: b
            .get("maxRequestBytes")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0),
        allow_partial_message: flag(b, "allowPartialMessage"),
        pack_as_bytes: flag(b, "packAsBytes"),
    });
    Some(ext::ExtAuthz {
        transport_api_version: core::ApiVersion::V3 as i32,
        failure_mode_allow: flag(config, "failOpen"),
        clear_route_cache: flag(config, "clearRouteCache"),
        status_on_error: Some(typ::HttpStatus { code: status as i32 }),
        with_request_body: body,
        ..Default::default()
    })
}

fn timeout(config: &Value) -> prost_types::Duration {
    let stated = api::Duration::parse(word(config, "timeout"));
    stated.map_or_else(|| duration(std::time::Duration::from_secs(TIMEOUT_S)), api_duration)
}

fn grpc_authorizer(inputs: &Inputs, config: &Value) -> Option<Authorizer> {
    let (cluster, authority) = provider_cluster(inputs, config)?;
    let mut http = common(config)?;
    let mut grpc = envoy_grpc(&cluster, &authority);
    grpc.timeout = Some(timeout(config));
    http.services = Some(ext::ext_authz::Services::GrpcService(grpc.clone()));
    let tcp = network_ext::ExtAuthz {
        stat_prefix: TCP_PREFIX.to_owned(),
        failure_mode_allow: http.failure_mode_allow,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_service: Some(grpc),
        ..Default::default()
    };
    Some(Authorizer { http, tcp: Some(tcp) })
}

/// Header names with a `*` at either end, in any case.
fn headers(names: &[String]) -> Option<matcher::ListStringMatcher> {
    use matcher::string_matcher::MatchPattern as P;
    let pattern = |n: &String| {
        let p = match (n.strip_prefix('*'), n.strip_suffix('*')) {
            _ if n == "*" => P::SafeRegex(regex(".*")),
            (Some(tail), _) => P::Suffix(tail.to_owned()),
            (None, Some(head)) => P::Prefix(head.to_owned()),
            (None, None) => P::Exact(n.clone()),
        };
        matcher::StringMatcher { ignore_case: true, match_pattern: Some(p) }
    };
    (!names.is_empty()).then(|| matcher::ListStringMatcher { patterns: names.iter().map(pattern).collect() })
}

fn http_authorizer(inputs: &Inputs, config: &Value) -> Option<Authorizer> {
    let (cluster, authority) = provider_cluster(inputs, config)?;
    let mut http = common(config)?;
    let path_prefix = word(config, "pathPrefix");
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        return None;
    }
    let mut sent = strings(config, "includeRequestHeadersInCheck");
    if sent.is_empty() {
        sent = strings(config, "includeHeadersInCheck");
    }
    http.allowed_headers = headers(&sent);
    let added = config.get("includeAdditionalHeadersInCheck").and_then(Value::as_object);
    let mut added: Vec<core::HeaderValue> = added
        .into_iter()
        .flatten()
        .map(|(k, v)| core::HeaderValue {
            key: k.clone(),
            value: v.as_str().unwrap_or_default().to_owned(),
            ..Default::default()
        })
        .collect();
    added.sort_by(|a, b| a.key.cmp(&b.key));
    let response = ext::AuthorizationResponse {
        allowed_upstream_headers: headers(&strings(config, "headersToUpstreamOnAllow")),
        allowed_client_headers: headers(&strings(config, "headersToDownstreamOnDeny")),
        allowed_client_headers_on_success: headers(&strings(config, "headersToDownstreamOnAllow")),
        ..Default::default()
    };
    http.services = Some(ext::ext_authz::Services::HttpService(ext::HttpService {
        path_prefix: path_prefix.to_owned(),
        server_uri: Some(core::HttpUri {
            uri: format!("http://{authority}"),
            timeout: Some(timeout(config)),
            http_upstream_type: Some(core::http_uri::HttpUpstreamType::Cluster(cluster)),
        }),
        authorization_request: (!added.is_empty())
            .then(|| ext::AuthorizationRequest { headers_to_add: added, ..Default::default() }),
        authorization_response: (response != Default::default()).then_some(response),
        ..Default::default()
    }));
    Some(Authorizer { http, tcp: None })
}
