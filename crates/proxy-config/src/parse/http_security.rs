//! How are the HTTP filters compiled that decide about access? RBAC, ext_authz, jwt_authn, ext_proc, rate limit service.

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::extensions::filters::http as f;

use super::common::{self, opt_duration, opt_name, required, required_grpc, runtime_fraction};
use super::{each, headers, matcher, rate_limit, reject};
use crate::common::Fraction;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::filters::http::*;
use crate::matcher::HeaderName;
use crate::route::DefaultName;

/// HTTP `RBAC`
pub(super) fn rbac(r: &f::rbac::v3::Rbac) -> Result<HttpRbac> {
    reject!(r; matcher, shadow_matcher);
    Ok(HttpRbac {
        config: crate::rbac::RbacConfig {
            rules: super::rbac::rules("rules", &r.rules)?,
            shadow_rules: super::rbac::rules("shadow_rules", &r.shadow_rules)?,
            shadow_rules_stat_prefix: DefaultName(r.shadow_rules_stat_prefix.as_str().into()),
            rules_stat_prefix: DefaultName(r.rules_stat_prefix.as_str().into()),
            track_per_rule_stats: r.track_per_rule_stats,
        },
    })
}

fn buffer_settings(b: &f::ext_authz::v3::BufferSettings) -> Result<BufferSettings> {
    if b.max_request_bytes == 0 {
        return Err(invalid("value must be greater than 0").at("max_request_bytes"));
    }
    Ok(BufferSettings {
        max_request_bytes: b.max_request_bytes,
        allow_partial_message: b.allow_partial_message,
        pack_as_bytes: b.pack_as_bytes,
    })
}

/// `ExtAuthz`
pub(super) fn ext_authz(e: &f::ext_authz::v3::ExtAuthz) -> Result<ExtAuthz> {
    use f::ext_authz::v3::ext_authz::Services as S;
    reject!(e; route_metadata_context_namespaces, route_typed_metadata_context_namespaces, typed_metadata_context_namespaces,
        bootstrap_metadata_labels_key, decoder_header_mutation_rules, filter_metadata, max_denied_response_body_bytes,
        enforce_response_header_limits, shadow_mode);
    let (service, http_allowed) = match e.services.as_ref().ok_or_else(|| missing("services"))? {
        S::GrpcService(g) => (ExtAuthzService::Grpc(common::grpc_service(g).at("grpc_service")?), None),
        S::HttpService(h) => {
            let (http, allowed) = http_service(h).at("http_service")?;
            (ExtAuthzService::Http(Arc::new(http)), allowed)
        }
    };
    let allowed = match &e.allowed_headers {
        None => http_allowed,
        some => Some(matcher::string_list("allowed_headers", some)?),
    };
    Ok(ExtAuthz {
        service,
        stat_prefix: opt_name(&e.stat_prefix),
        failure_mode_allow: e.failure_mode_allow,
        failure_mode_allow_header_add: e.failure_mode_allow_header_add,
        body: e.with_request_body.as_ref().map(buffer_settings).transpose().at("with_request_body")?,
        clear_route_cache: e.clear_route_cache,
        status_on_error: common::http_status(&e.status_on_error, 403, 100),
        validate_mutations: e.validate_mutations,
        metadata_context_namespaces: e.metadata_context_namespaces.iter().map(|s| s.as_str().into()).collect(),
        filter_enabled_metadata: e
            .filter_enabled_metadata
            .as_ref()
            .map(matcher::metadata)
            .transpose()
            .at("filter_enabled_metadata")?,
        enabled: runtime_fraction("filter_enabled", &e.filter_enabled, Fraction::ALWAYS)?,
        deny_at_disable: e.deny_at_disable.as_ref().and_then(|d| d.default_value).unwrap_or(false),
        include_peer_certificate: e.include_peer_certificate,
        include_tls_session: e.include_tls_session,
        allowed_headers: allowed,
        disallowed_headers: matcher::string_list("disallowed_headers", &e.disallowed_headers)?,
        encode_raw_headers: e.encode_raw_headers,
        emit_filter_state_stats: e.emit_filter_state_stats,
    })
}

type Allowed = Option<Box<[crate::matcher::StringMatcher]>>;

fn http_service(h: &f::ext_authz::v3::HttpService) -> Result<(ExtAuthzHttp, Allowed)> {
    reject!(h; path_override, retry_policy);
    let server = h.server_uri.as_ref().ok_or_else(|| missing("server_uri"))?;
    if !h.path_prefix.is_empty() && !h.path_prefix.starts_with('/') {
        return Err(invalid("path_prefix should start with \"/\".").at("path_prefix"));
    }
    let request = h.authorization_request.clone().unwrap_or_default();
    let response = h.authorization_response.clone().unwrap_or_default();
    let allowed = match &request.allowed_headers {
        None => None,
        some => Some(matcher::string_list("allowed_headers", some).at("authorization_request")?),
    };
    let list = |field: &str, l: &Option<_>| matcher::string_list(field, l).at("authorization_response");
    Ok((
        ExtAuthzHttp {
            server: common::http_uri(server).at("server_uri")?,
            path_prefix: h.path_prefix.as_str().into(),
            headers_to_add: request
                .headers_to_add
                .iter()
                .map(|h| (HeaderName::new(&h.key), h.value.as_str().into()))
                .collect(),
            allowed_upstream_headers: list("allowed_upstream_headers", &response.allowed_upstream_headers)?,
            allowed_upstream_headers_to_append: list(
                "allowed_upstream_headers_to_append",
                &response.allowed_upstream_headers_to_append,
            )?,
            allowed_client_headers: list("allowed_client_headers", &response.allowed_client_headers)?,
            allowed_client_headers_on_success: list(
                "allowed_client_headers_on_success",
                &response.allowed_client_headers_on_success,
            )?,
            dynamic_metadata_from_headers: list(
                "dynamic_metadata_from_headers",
                &response.dynamic_metadata_from_headers,
            )?,
        },
        allowed,
    ))
}

/// `CheckSettings`
pub(super) fn check_settings(s: &f::ext_authz::v3::CheckSettings) -> Result<ExtAuthzPerRoute> {
    if s.service_override.is_some() {
        return Err(unsupported("this field").at("service_override"));
    }
    Ok(ExtAuthzPerRoute {
        context_extensions: s.context_extensions.iter().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect(),
        disable_request_body_buffering: s.disable_request_body_buffering,
        body: s.with_request_body.as_ref().map(buffer_settings).transpose().at("with_request_body")?,
    })
}

/// `JwtAuthentication`
pub(super) fn jwt(j: &f::jwt_authn::v3::JwtAuthentication) -> Result<JwtAuthn> {
    use f::jwt_authn::v3::requirement_rule::RequirementType as R;
    let names: Vec<&str> = j.providers.keys().map(String::as_str).collect();
    let providers =
        j.providers.iter().map(|(name, p)| provider(name, p).map_err(|e| e.at(&format!("providers[\"{name}\"]"))));
    let requirements = j.requirement_map.iter().map(|(name, r)| {
        Ok((name.as_str().into(), requirement(r, &names).map_err(|e| e.at(&format!("requirement_map[\"{name}\"]")))?))
    });
    let filter_state_rules = match &j.filter_state_rules {
        None => None,
        Some(s) => {
            let rules = s.requires.iter().map(|(v, r)| Ok((v.as_str().into(), requirement(r, &names)?)));
            let rules: Vec<_> = rules.collect::<Result<_>>().at("requires").at("filter_state_rules")?;
            Some(JwtFilterStateRules {
                name: required("name", &s.name).at("filter_state_rules")?,
                requires: rules.into(),
            })
        }
    };
    Ok(JwtAuthn {
        providers: providers.collect::<Result<Vec<_>>>()?.into(),
        rules: each("rules", &j.rules, |r| {
            let m = r.r#match.as_ref().ok_or_else(|| missing("match"))?;
            let req = match &r.requirement_type {
                None => None,
                Some(R::Requires(r)) => Some(requirement(r, &names).at("requires")?),
                Some(R::RequirementName(n)) => {
                    let r = j.requirement_map.get(n).ok_or_else(|| {
                        invalid(format!(
                            "Wrong requirement_name: {n}. It should be one of [{}]",
                            j.requirement_map.keys().cloned().collect::<Vec<_>>().join(", ")
                        ))
                        .at("requirement_name")
                    })?;
                    Some(requirement(r, &names).at("requirement_name")?)
                }
            };
            Ok(JwtRule { matcher: super::route::route_match(m, None).at("match")?, requirement: req })
        })?,
        requirements: requirements.collect::<Result<Vec<_>>>()?.into(),
        bypass_cors_preflight: j.bypass_cors_preflight,
        strip_failure_response: j.strip_failure_response,
        filter_state_rules,
    })
}

fn requirement(r: &f::jwt_authn::v3::JwtRequirement, names: &[&str]) -> Result<JwtRequirement> {
    use f::jwt_authn::v3::jwt_requirement::RequiresType as T;
    let index = |n: &str| {
        names
            .iter()
            .position(|p| *p == n)
            .ok_or_else(|| invalid(format!("Required provider ['{n}'] is not configured.")))
    };
    Ok(match &r.requires_type {
        None => JwtRequirement::Nothing,
        Some(T::ProviderName(n)) => JwtRequirement::Provider(index(n).at("provider_name")?, Box::default()),
        Some(T::ProviderAndAudiences(p)) => JwtRequirement::Provider(
            index(&p.provider_name).at("provider_and_audiences")?,
            p.audiences.iter().map(|s| s.as_str().into()).collect(),
        ),
        Some(T::RequiresAny(l)) => {
            JwtRequirement::Any(each("requirements", &l.requirements, |r| requirement(r, names)).at("requires_any")?)
        }
        Some(T::RequiresAll(l)) => {
            JwtRequirement::All(each("requirements", &l.requirements, |r| requirement(r, names)).at("requires_all")?)
        }
        Some(T::AllowMissingOrFailed(_)) => JwtRequirement::AllowMissingOrFailed,
        Some(T::AllowMissing(_)) => JwtRequirement::AllowMissing,
        Some(T::ExtractOnlyWithoutValidation(_)) => {
            return Err(unsupported("this requirement").at("extract_only_without_validation"));
        }
    })
}

fn provider(name: &str, p: &f::jwt_authn::v3::JwtProvider) -> Result<JwtProvider> {
    use f::jwt_authn::v3::jwt_provider::JwksSourceSpecifier as S;
    let jwks = match p.jwks_source_specifier.as_ref().ok_or_else(|| missing("jwks_source_specifier"))? {
        S::LocalJwks(d) => Jwks::Local(common::data_source(d).at("local_jwks")?),
        S::RemoteJwks(r) => {
            let retry = r.retry_policy.clone();
            let ahead = r.async_fetch.unwrap_or_default();
            let uri = r.http_uri.as_ref().ok_or_else(|| missing("http_uri").at("remote_jwks"))?;
            Jwks::Remote {
                uri: common::http_uri(uri).at("http_uri").at("remote_jwks")?,
                cache: opt_duration("cache_duration", &r.cache_duration)?.unwrap_or(Duration::from_secs(600)),
                async_fetch: r.async_fetch.is_some(),
                fast_listener: ahead.fast_listener,
                failed_refetch: opt_duration("failed_refetch_duration", &ahead.failed_refetch_duration)
                    .at("async_fetch")?
                    .unwrap_or(Duration::from_secs(1)),
                retries: retry.map_or(0, |r| r.num_retries.unwrap_or(1)),
            }
        }
    };
    Ok(JwtProvider {
        name: name.into(),
        issuer: p.issuer.as_str().into(),
        audiences: p.audiences.iter().map(|s| s.as_str().into()).collect(),
        subjects: p.subjects.as_ref().map(matcher::string).transpose().at("subjects")?,
        jwks,
        forward: p.forward,
        from_headers: p
            .from_headers
            .iter()
            .map(|h| (HeaderName::new(&h.name), h.value_prefix.as_str().into()))
            .collect(),
        from_params: p.from_params.iter().map(|s| s.as_str().into()).collect(),
        from_cookies: p.from_cookies.iter().map(|s| s.as_str().into()).collect(),
        forward_payload_header: opt_name(&p.forward_payload_header).map(|n| HeaderName::new(&n)),
        pad_forward_payload_header: p.pad_forward_payload_header,
        payload_in_metadata: opt_name(&p.payload_in_metadata),
        normalize_payload: p
            .normalize_payload_in_metadata
            .iter()
            .flat_map(|n| &n.space_delimited_claims)
            .map(|s| s.as_str().into())
            .collect(),
        header_in_metadata: opt_name(&p.header_in_metadata),
        failed_status_in_metadata: opt_name(&p.failed_status_in_metadata),
        clock_skew_seconds: if p.clock_skew_seconds == 0 { 60 } else { p.clock_skew_seconds },
        max_lifetime: opt_duration("max_lifetime", &p.max_lifetime)?,
        require_expiration: p.require_expiration,
        claim_to_headers: p
            .claim_to_headers
            .iter()
            .map(|c| {
                let path = if c.claim_path.is_empty() {
                    c.claim_name.split('.').map(Into::into).collect()
                } else {
                    c.claim_path.iter().map(|s| s.key.as_str().into()).collect()
                };
                (HeaderName::new(&c.header_name), path)
            })
            .collect(),
        clear_route_cache: p.clear_route_cache,
        cache_size: p.jwt_cache_config.as_ref().map_or(
            0,
            |c| {
                if c.jwt_cache_size == 0 { 100 } else { c.jwt_cache_size }
            },
        ),
    })
}

fn mode(m: &f::ext_proc::v3::ProcessingMode) -> Result<ProcessingMode> {
    let body = |field: &str, n: i32| match n {
        0 => Ok(BodyMode::None),
        1 => Ok(BodyMode::Streamed),
        2 => Ok(BodyMode::Buffered),
        3 => Ok(BodyMode::BufferedPartial),
        4 => Ok(BodyMode::FullDuplexStreamed),
        _ => Err(unsupported("this mode").at(field)),
    };
    Ok(ProcessingMode {
        request_headers: m.request_header_mode != 2,
        response_headers: m.response_header_mode != 2,
        request_body: body("request_body_mode", m.request_body_mode)?,
        response_body: body("response_body_mode", m.response_body_mode)?,
        request_trailers: m.request_trailer_mode == 1,
        response_trailers: m.response_trailer_mode == 1,
    })
}

/// `ExternalProcessor`
pub(super) fn ext_proc(e: &f::ext_proc::v3::ExternalProcessor) -> Result<ExtProc> {
    reject!(e; http_service, mutation_rules, filter_metadata, disable_clear_route_cache, route_cache_action,
        send_body_without_waiting_for_header_response, allowed_override_modes, processing_request_modifier,
        on_processing_response, status_on_error, allow_content_length_header);
    let forward = e.forward_rules.clone().unwrap_or_default();
    let metadata = e.metadata_options.clone().unwrap_or_default();
    let names = |l: &[String]| l.iter().map(|s| s.as_str().into()).collect();
    let namespaces = |n: &Option<f::ext_proc::v3::metadata_options::MetadataNamespaces>| {
        n.iter().flat_map(|n| &n.untyped).map(|s| s.as_str().into()).collect()
    };
    Ok(ExtProc {
        service: required_grpc("grpc_service", &e.grpc_service)?,
        stat_prefix: opt_name(&e.stat_prefix),
        failure_mode_allow: e.failure_mode_allow,
        mode: mode(&e.processing_mode.unwrap_or_default()).at("processing_mode")?,
        allow_mode_override: e.allow_mode_override,
        message_timeout: opt_duration("message_timeout", &e.message_timeout)?.unwrap_or(Duration::from_millis(200)),
        max_message_timeout: opt_duration("max_message_timeout", &e.max_message_timeout)?.unwrap_or_default(),
        observability_mode: e.observability_mode,
        disable_immediate_response: e.disable_immediate_response,
        request_attributes: names(&e.request_attributes),
        response_attributes: names(&e.response_attributes),
        forwarding_namespaces: namespaces(&metadata.forwarding_namespaces),
        receiving_namespaces: namespaces(&metadata.receiving_namespaces),
        allowed_headers: matcher::string_list("allowed_headers", &forward.allowed_headers).at("forward_rules")?,
        disallowed_headers: matcher::string_list("disallowed_headers", &forward.disallowed_headers)
            .at("forward_rules")?,
    })
}

/// `ExtProcOverrides`
pub(super) fn ext_proc_overrides(o: &f::ext_proc::v3::ExtProcOverrides) -> Result<ExtProcPerRoute> {
    reject!(o; async_mode, request_attributes, response_attributes, metadata_options, grpc_initial_metadata,
        processing_request_modifier);
    Ok(ExtProcPerRoute {
        mode: o.processing_mode.as_ref().map(mode).transpose().at("processing_mode")?,
        service: o.grpc_service.as_ref().map(common::grpc_service).transpose().at("grpc_service")?,
        failure_mode_allow: o.failure_mode_allow,
    })
}

/// `RateLimit`
pub(super) fn rate_limit(r: &f::ratelimit::v3::RateLimit) -> Result<RateLimitService> {
    reject!(r; status_on_error, filter_enabled, filter_enforced, failure_mode_deny_percent, rate_limits, metadata_namespace,
        enable_retry_after_header);
    let service = r.rate_limit_service.as_ref().ok_or_else(|| missing("rate_limit_service"))?;
    Ok(RateLimitService {
        domain: required("domain", &r.domain)?,
        stage: r.stage,
        request_type: match r.request_type.as_str() {
            "" | "both" => RequestType::Both,
            "internal" => RequestType::Internal,
            "external" => RequestType::External,
            other => return Err(invalid(format!("unknown value {other}")).at("request_type")),
        },
        timeout: opt_duration("timeout", &r.timeout)?.unwrap_or(Duration::from_millis(20)),
        failure_mode_deny: r.failure_mode_deny,
        rate_limited_as_resource_exhausted: r.rate_limited_as_resource_exhausted,
        service: required_grpc("grpc_service", &service.grpc_service).at("rate_limit_service")?,
        ratelimit_headers: r.enable_x_ratelimit_headers == 1,
        disable_x_envoy_ratelimited: r.disable_x_envoy_ratelimited_header,
        status: common::http_status(&r.rate_limited_status, 429, 400),
        response_headers: headers::additions("response_headers_to_add", &r.response_headers_to_add)?,
    })
}

/// `RateLimitPerRoute`
pub(super) fn rate_limit_per_route(r: &f::ratelimit::v3::RateLimitPerRoute) -> Result<RateLimitPerRoute> {
    reject!(r; override_option);
    Ok(RateLimitPerRoute {
        vh_rate_limits: u8::try_from(r.vh_rate_limits).unwrap_or(0),
        domain: opt_name(&r.domain),
        rate_limits: rate_limit::limits("rate_limits", &r.rate_limits)?.to_vec().into(),
    })
}
