//! How is a `RouteConfiguration` compiled? Tables, virtual hosts and routes with all levels resolved.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use protos::envoy::config::route::v3 as p;

use super::common::{self, disabling, metadata, metadata_match, opt_duration, opt_name, required};
use super::per_filter::Levels;
use super::{each, headers, matcher, rate_limit, reject, retry};
use crate::Name;
use crate::common::{ConfigSource, Fraction};
use crate::error::{At, ConfigError, Reason, Result, invalid, missing, unsupported};
use crate::headers::HeaderOps;
use crate::matcher::HeaderName;
use crate::route::*;
use crate::vhost::DomainIndex;

/// Envoy's default of `max_direct_response_body_size_bytes`.
const DIRECT_BODY_BYTES_MAX: u32 = 4096;
/// Virtual hosts with that many routes keep their [`Beginning`]s.
const BEGINNINGS_FROM_ROUTES: usize = 4;
/// Envoy's default route timeout.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// Envoy's name for the virtual cluster of requests that are in none.
const OTHER_CLUSTER: &str = "other";

/// What a route inherits from the levels above it.
struct Table<'a> {
    request_headers: Option<Arc<HeaderOps>>,
    response_headers: Option<Arc<HeaderOps>>,
    most_specific_wins: bool,
    levels: Levels,
    direct_body_bytes_max: u32,
    proto: &'a p::RouteConfiguration,
    forwards: RefCell<Vec<(ForwardKey, Arc<ForwardOptions>)>>,
}

/// What [`ForwardOptions`] depend on within one table: the action without its cluster, and what its virtual host adds.
#[derive(PartialEq)]
struct ForwardKey {
    action: p::RouteAction,
    retry: Option<p::RetryPolicy>,
    hedge: Option<p::HedgePolicy>,
    mirrors: Vec<p::route_action::RequestMirrorPolicy>,
}

/// Distinct options of one table that are compared against; further ones are not shared. Real tables have a handful.
const FORWARDS_MAX: usize = 16;

struct Host<'a> {
    request_headers: Option<Arc<HeaderOps>>,
    response_headers: Option<Arc<HeaderOps>>,
    levels: Levels,
    retry: Option<Arc<RetryPolicy>>,
    slots: Vec<HeaderName>,
    rate_limits: Arc<[RateLimit]>,
    proto: &'a p::VirtualHost,
}

fn table(r: &p::RouteConfiguration) -> Result<Table<'_>> {
    Ok(Table {
        request_headers: headers::level("request_headers", &r.request_headers_to_add, &r.request_headers_to_remove)?,
        response_headers: headers::level(
            "response_headers",
            &r.response_headers_to_add,
            &r.response_headers_to_remove,
        )?,
        most_specific_wins: r.most_specific_header_mutations_wins,
        levels: Levels::new().with(&r.typed_per_filter_config)?,
        direct_body_bytes_max: r.max_direct_response_body_size_bytes.unwrap_or(DIRECT_BODY_BYTES_MAX),
        proto: r,
        forwards: RefCell::default(),
    })
}

/// Compiles one more virtual host of a `RouteConfiguration`, whose own hosts do not matter here.
pub fn on_demand_host(r: &p::RouteConfiguration, host: &p::VirtualHost) -> Result<VirtualHost> {
    if host.domains.is_empty() {
        return Err(no_domains());
    }
    virtual_host(host, &table(r)?)
}

fn no_domains() -> ConfigError {
    invalid("value must contain at least 1 item(s)").at("domains")
}

/// Compiles a `RouteConfiguration`.
pub fn route_table(r: &p::RouteConfiguration) -> Result<RouteTable> {
    reject!(r; cluster_specifier_plugins, vhost_header, route_specifiers);
    let table = table(r)?;
    let mut domains = DomainIndex::default();
    let virtual_hosts: Vec<Arc<VirtualHost>> = r
        .virtual_hosts
        .iter()
        .enumerate()
        .map(|(i, v)| {
            if v.domains.is_empty() {
                return Err(no_domains().at_index("virtual_hosts", i));
            }
            for (d, domain) in v.domains.iter().enumerate() {
                domains.insert(domain, i as u32).at_index("domains", d).at_index("virtual_hosts", i)?;
            }
            virtual_host(v, &table).map(Arc::new).at_index("virtual_hosts", i)
        })
        .collect::<Result<_>>()?;
    Ok(RouteTable {
        name: DefaultName(r.name.as_str().into()),
        domains,
        virtual_hosts: virtual_hosts.into(),
        internal_only_headers: r.internal_only_headers.iter().map(|n| HeaderName::new(n)).collect(),
        validate_clusters: r.validate_clusters,
        ignore_port_in_host_matching: r.ignore_port_in_host_matching,
        ignore_path_parameters_in_path_matching: r.ignore_path_parameters_in_path_matching,
        max_direct_response_body_bytes: table.direct_body_bytes_max,
        response_headers: headers::chain(&[table.response_headers.as_ref()], false),
        vhds: r.vhds.as_ref().map(vhds).transpose().at("vhds")?,
        metadata: metadata(&r.metadata),
    })
}

/// `Vhds`
fn vhds(v: &p::Vhds) -> Result<ConfigSource> {
    let source = v.config_source.as_ref().ok_or_else(|| missing("config_source"))?;
    super::http_filters::delta_source(source).at("config_source")
}

fn virtual_host(v: &p::VirtualHost, table: &Table<'_>) -> Result<VirtualHost> {
    reject!(v; matcher, retry_policy_typed_config, route_specifiers);
    let mut levels = table.levels.clone().with(&v.typed_per_filter_config)?;
    if let Some(cors) = &v.cors {
        levels = levels.with_cors(cors);
    }
    let mut host = Host {
        request_headers: headers::level("request_headers", &v.request_headers_to_add, &v.request_headers_to_remove)?,
        response_headers: headers::level(
            "response_headers",
            &v.response_headers_to_add,
            &v.response_headers_to_remove,
        )?,
        levels,
        retry: v.retry_policy.as_ref().map(retry::policy).transpose().at("retry_policy")?.map(Arc::new),
        slots: Vec::new(),
        rate_limits: rate_limit::limits("rate_limits", &v.rate_limits)?,
        proto: v,
    };
    let mut routes = Vec::with_capacity(v.routes.len());
    for (i, r) in v.routes.iter().enumerate() {
        routes.push(route(r, table, &mut host).at_index("routes", i)?);
    }
    let require_tls = match v.require_tls {
        0 => RequireTls::None,
        1 => RequireTls::ExternalOnly,
        2 => RequireTls::All,
        n => return Err(invalid(format!("unknown value {n}")).at("require_tls")),
    };
    let cluster = |name, headers, catch_all| VirtualCluster { name, headers, catch_all, kept: Kept::default() };
    let named: Vec<VirtualCluster> = each("virtual_clusters", &v.virtual_clusters, |c| {
        Ok(cluster(required("name", &c.name)?, matcher::headers("headers", &c.headers)?, false))
    })?;
    let catch_all = (!named.is_empty()).then(|| cluster(OTHER_CLUSTER.into(), Box::default(), true));
    let virtual_clusters = named.into_iter().chain(catch_all).collect();
    let beginnings = match routes.len() {
        0..BEGINNINGS_FROM_ROUTES => Box::default(),
        _ => routes.iter().map(|r| Beginning::of(&r.matcher.path)).collect(),
    };
    Ok(VirtualHost {
        name: required("name", &v.name)?,
        routes: routes.into(),
        beginnings,
        header_slots: host.slots.into(),
        require_tls,
        virtual_clusters,
        rate_limits: host.rate_limits,
        include_request_attempt_count: v.include_request_attempt_count,
        include_attempt_count_in_response: v.include_attempt_count_in_response,
        include_is_timeout_retry_header: v.include_is_timeout_retry_header,
        per_filter: host.levels.resolve()?,
        response_headers: headers::chain(
            &[host.response_headers.as_ref(), table.response_headers.as_ref()],
            table.most_specific_wins,
        ),
        metadata: metadata(&v.metadata),
    })
}

fn route(r: &p::Route, table: &Table<'_>, host: &mut Host<'_>) -> Result<Route> {
    use p::route::Action as A;
    reject!(r; route_specifiers);
    let m = r.r#match.as_ref().ok_or_else(|| missing("match"))?;
    let matcher = route_match(m, Some(&mut host.slots)).at("match")?;
    let mut levels = host.levels.clone().with(&r.typed_per_filter_config)?;
    if let Some(A::Route(p::RouteAction { cors: Some(cors), .. })) = &r.action {
        levels = levels.with_cors(cors);
    }
    let request = headers::level("request_headers", &r.request_headers_to_add, &r.request_headers_to_remove)?;
    let response = headers::level("response_headers", &r.response_headers_to_add, &r.response_headers_to_remove)?;
    let context = Inherited {
        request: headers::chain(
            &[request.as_ref(), host.request_headers.as_ref(), table.request_headers.as_ref()],
            table.most_specific_wins,
        ),
        response: headers::chain(
            &[response.as_ref(), host.response_headers.as_ref(), table.response_headers.as_ref()],
            table.most_specific_wins,
        ),
        levels: &levels,
        host,
        table,
    };
    let action = match r.action.as_ref().ok_or_else(|| missing("action"))? {
        A::Route(a) => RouteAction::Forward(Box::new(forward(a, &context).at("route")?)),
        A::Redirect(a) => RouteAction::Redirect(Box::new(redirect(a).at("redirect")?)),
        A::DirectResponse(a) => {
            RouteAction::Direct(Box::new(direct(a, table.direct_body_bytes_max).at("direct_response")?))
        }
        A::NonForwardingAction(_) => RouteAction::NonForwarding,
        A::FilterAction(_) => return Err(unsupported("filter_action").at("filter_action")),
    };
    let limit = r
        .request_body_buffer_limit
        .or(r.per_request_buffer_limit_bytes.map(u64::from))
        .or(context.host.proto.request_body_buffer_limit)
        .or(context.host.proto.per_request_buffer_limit_bytes.map(u64::from));
    let decorator = r.decorator.as_ref().map(|d| {
        Box::new(Decorator { operation: d.operation.as_str().into(), propagate: d.propagate.unwrap_or(true) })
    });
    Ok(Route {
        name: common::name(&r.name),
        matcher,
        action,
        per_filter: levels.resolve()?,
        request_headers: context.request,
        response_headers: context.response,
        metadata: metadata(&r.metadata),
        decorator,
        tracing: r.tracing.as_ref().map(super::tracing::route).transpose().at("tracing")?.map(Box::new),
        stat_prefix: opt_name(&r.stat_prefix),
        request_body_buffer_limit: limit,
    })
}

struct Inherited<'a, 'b> {
    request: Box<[Arc<HeaderOps>]>,
    response: Box<[Arc<HeaderOps>]>,
    levels: &'a Levels,
    host: &'a Host<'b>,
    table: &'a Table<'b>,
}

/// `RouteMatch`; `slots` collects the distinct header names of a virtual host.
pub(super) fn route_match(m: &p::RouteMatch, slots: Option<&mut Vec<HeaderName>>) -> Result<RouteMatch> {
    reject!(m; filter_state);
    let mut local = Vec::new();
    let slots = slots.unwrap_or(&mut local);
    let headers = each("headers", &m.headers, |h| {
        let matcher = matcher::header(h)?;
        let slot = slots.iter().position(|n| *n == matcher.name).unwrap_or_else(|| {
            slots.push(matcher.name.clone());
            slots.len() - 1
        });
        let slot = u16::try_from(slot).map_err(|_| invalid("too many different header names in one virtual host"))?;
        Ok(RouteHeaderMatch { slot, matcher })
    })?;
    Ok(RouteMatch {
        path: path_match(m)?,
        headers,
        query: each("query_parameters", &m.query_parameters, matcher::query)?,
        cookies: each("cookies", &m.cookies, matcher::cookie)?,
        grpc: m.grpc.is_some(),
        fraction: match &m.runtime_fraction {
            None => None,
            some => Some(common::runtime_fraction("runtime_fraction", some, Fraction::ALWAYS)?),
        },
        tls: m.tls_context.as_ref().map(|t| TlsMatch { presented: t.presented, validated: t.validated }),
        dynamic_metadata: each("dynamic_metadata", &m.dynamic_metadata, matcher::metadata)?,
    })
}

fn path_match(m: &p::RouteMatch) -> Result<PathMatch> {
    use p::route_match::PathSpecifier as S;
    let sensitive = m.case_sensitive.unwrap_or(true);
    let text = |s: &str| s.into();
    let lower = |s: &str| s.to_ascii_lowercase().into_boxed_str();
    Ok(match m.path_specifier.as_ref().ok_or_else(|| missing("path_specifier"))? {
        S::Prefix(s) if s == "/" || s.is_empty() => PathMatch::Any,
        S::Prefix(s) if sensitive => PathMatch::Prefix(text(s)),
        S::Prefix(s) => PathMatch::PrefixNoCase(lower(s)),
        S::Path(s) if sensitive => PathMatch::Exact(text(s)),
        S::Path(s) => PathMatch::ExactNoCase(lower(s)),
        S::PathSeparatedPrefix(s) => {
            if s.is_empty() || s.ends_with('/') || s.contains(['?', '#']) {
                return Err(invalid("value does not match regex pattern '^[^?#]+[^?#/]$'").at("path_separated_prefix"));
            }
            if sensitive { PathMatch::Separated(text(s)) } else { PathMatch::SeparatedNoCase(lower(s)) }
        }
        S::SafeRegex(r) => PathMatch::Regex(matcher::regex(r).at("safe_regex")?),
        S::ConnectMatcher(_) => PathMatch::Connect,
        S::PathMatchPolicy(e) => {
            PathMatch::Template(Box::new(super::uri_template::matcher(e).at("path_match_policy")?))
        }
    })
}

fn redirect(r: &p::RedirectAction) -> Result<Redirect> {
    use p::redirect_action::{PathRewriteSpecifier as P, SchemeRewriteSpecifier as S};
    let scheme = match &r.scheme_rewrite_specifier {
        Some(S::HttpsRedirect(true)) => Some(SchemeRedirect::Https),
        Some(S::HttpsRedirect(false)) | None => None,
        Some(S::SchemeRedirect(s)) if s.is_empty() => None,
        Some(S::SchemeRedirect(s)) => Some(SchemeRedirect::Scheme(s.as_str().into())),
    };
    let path = match &r.path_rewrite_specifier {
        None => RedirectPath::Keep,
        Some(P::PathRedirect(s)) if s.is_empty() => RedirectPath::Keep,
        Some(P::PathRedirect(s)) => RedirectPath::Replace(s.as_str().into()),
        Some(P::PrefixRewrite(s)) => RedirectPath::Prefix(s.as_str().into()),
        Some(P::RegexRewrite(x)) => RedirectPath::Regex(matcher::rewrite(x).at("regex_rewrite")?),
        Some(P::PathRewrite(_)) => return Err(unsupported("path_rewrite").at("path_rewrite")),
    };
    let status = match r.response_code {
        0 => 301,
        1 => 302,
        2 => 303,
        3 => 307,
        4 => 308,
        n => return Err(invalid(format!("unknown value {n}")).at("response_code")),
    };
    Ok(Redirect {
        scheme,
        host: (!r.host_redirect.is_empty()).then(|| r.host_redirect.as_str().into()),
        port: (r.port_redirect != 0).then(|| common::port(r.port_redirect)).transpose().at("port_redirect")?,
        path,
        status,
        strip_query: r.strip_query,
    })
}

fn direct(d: &p::DirectResponseAction, body_bytes_max: u32) -> Result<DirectResponse> {
    let body = d.body.as_ref().map(common::inline).transpose().at("body")?.unwrap_or_default();
    if body.len() > body_bytes_max as usize {
        return Err(
            invalid(format!("response body size is {} bytes; maximum is {body_bytes_max}", body.len())).at("body")
        );
    }
    Ok(DirectResponse {
        status: common::status(d.status).at("status")?,
        body,
        body_format: super::format::opt_substitution("body_format", &d.body_format)?.map(Box::new),
    })
}

fn forward(a: &p::RouteAction, ctx: &Inherited<'_, '_>) -> Result<Forward> {
    let host = ctx.host.proto;
    let key = ForwardKey {
        action: p::RouteAction { cluster_specifier: None, ..a.clone() },
        retry: host.retry_policy.clone(),
        hedge: host.hedge_policy,
        mirrors: host.request_mirror_policies.clone(),
    };
    let known = ctx.table.forwards.borrow().iter().find(|f| f.0 == key).map(|f| f.1.clone());
    let options = match known {
        Some(options) => options,
        None => {
            let options = Arc::new(forward_options(a, ctx)?);
            let mut all = ctx.table.forwards.borrow_mut();
            if all.len() < FORWARDS_MAX {
                all.push((key, options.clone()));
            }
            options
        }
    };
    Ok(Forward { cluster: cluster_specifier(a, ctx, options.metadata_match.as_ref())?, options })
}

fn forward_options(a: &p::RouteAction, ctx: &Inherited<'_, '_>) -> Result<ForwardOptions> {
    reject!(a; retry_policy_typed_config, internal_redirect_action, max_internal_redirects);
    let host = ctx.host;
    let retry = match &a.retry_policy {
        Some(r) => Some(Arc::new(retry::policy(r).at("retry_policy")?)),
        None => host.retry.clone(),
    };
    let hedge = a.hedge_policy.as_ref().or(host.proto.hedge_policy.as_ref());
    let mirrors =
        [&a.request_mirror_policies, &host.proto.request_mirror_policies, &ctx.table.proto.request_mirror_policies]
            .into_iter()
            .find(|l| !l.is_empty());
    let mirrors = mirrors.map_or(Ok(Box::default()), |l| each("request_mirror_policies", l, mirror))?;
    let max_stream = a.max_stream_duration.unwrap_or_default();
    let cluster_not_found_status = match a.cluster_not_found_response_code {
        0 => 503,
        1 => 404,
        2 => 500,
        n => {
            return Err(invalid(format!("unknown value {n}")).at("cluster_not_found_response_code"));
        }
    };
    Ok(ForwardOptions {
        cluster_not_found_status,
        metadata_match: metadata_match(&a.metadata_match),
        path_rewrite: path_rewrite(a)?,
        host_rewrite: host_rewrite(a)?,
        append_x_forwarded_host: a.append_x_forwarded_host,
        timeout: disabling("timeout", &a.timeout, Some(ROUTE_TIMEOUT))?,
        idle_timeout: opt_duration("idle_timeout", &a.idle_timeout)?,
        flush_timeout: opt_duration("flush_timeout", &a.flush_timeout)?,
        retry,
        hedge: hedge.map(retry::hedge).transpose().at("hedge_policy")?,
        mirrors,
        priority: priority(a.priority).at("priority")?,
        rate_limits: rate_limit::limits("rate_limits", &a.rate_limits)?,
        include_vh_rate_limits: a.include_vh_rate_limits.unwrap_or(a.rate_limits.is_empty()),
        hash_policy: each("hash_policy", &a.hash_policy, hash_policy)?,
        max_stream_duration: MaxStreamDuration {
            max_stream_duration: opt_duration("max_stream_duration", &max_stream.max_stream_duration)?,
            grpc_timeout_header_max: opt_duration("grpc_timeout_header_max", &max_stream.grpc_timeout_header_max)?,
            grpc_timeout_header_offset: opt_duration(
                "grpc_timeout_header_offset",
                &max_stream.grpc_timeout_header_offset,
            )?,
            max_grpc_timeout: opt_duration("max_grpc_timeout", &a.max_grpc_timeout)?,
            grpc_timeout_offset: opt_duration("grpc_timeout_offset", &a.grpc_timeout_offset)?,
        },
        upgrades: each("upgrade_configs", &a.upgrade_configs, upgrade)?,
        internal_redirect: a
            .internal_redirect_policy
            .as_ref()
            .map(retry::internal_redirect)
            .transpose()
            .at("internal_redirect_policy")?
            .map(Box::new),
    })
}

/// `RoutingPriority`
pub(super) fn priority(n: i32) -> Result<Priority> {
    match n {
        0 => Ok(Priority::Default),
        1 => Ok(Priority::High),
        n => Err(invalid(format!("unknown priority {n}"))),
    }
}

fn cluster_specifier(
    a: &p::RouteAction,
    ctx: &Inherited<'_, '_>,
    route_match: Option<&SubsetMatch>,
) -> Result<ClusterSpecifier> {
    use p::route_action::ClusterSpecifier as S;
    match a.cluster_specifier.as_ref().ok_or_else(|| missing("cluster_specifier"))? {
        S::Cluster(c) => Ok(ClusterSpecifier::Cluster(required("cluster", c)?)),
        S::ClusterHeader(h) => Ok(ClusterSpecifier::Header(HeaderName::new(&required("cluster_header", h)?))),
        S::WeightedClusters(w) => {
            Ok(ClusterSpecifier::Weighted(Box::new(weighted(w, ctx, route_match).at("weighted_clusters")?)))
        }
        S::ClusterSpecifierPlugin(_) | S::InlineClusterSpecifierPlugin(_) => {
            Err(unsupported("a cluster specifier plugin").at("cluster_specifier_plugin"))
        }
    }
}

fn weighted(
    w: &p::WeightedCluster,
    ctx: &Inherited<'_, '_>,
    route_match: Option<&SubsetMatch>,
) -> Result<WeightedClusters> {
    use p::weighted_cluster::RandomValueSpecifier as R;
    let mut total_weight = 0u64;
    let clusters = each("clusters", &w.clusters, |c| {
        let cluster = match (c.name.as_str(), c.cluster_header.as_str()) {
            ("", "") => {
                return Err(invalid("At least one of name or cluster_header need to be specified"));
            }
            (name, "") => ClusterSpecifier::Cluster(name.into()),
            ("", header) => ClusterSpecifier::Header(HeaderName::new(header)),
            _ => {
                return Err(invalid("Only one of name or cluster_header can be specified"));
            }
        };
        let weight = c.weight.unwrap_or(0);
        total_weight += u64::from(weight);
        let own = metadata_match(&c.metadata_match);
        let metadata_match = match (route_match, own) {
            (Some(route), Some(own)) => Some(overlay(route, &own)),
            (route, own) => own.or_else(|| route.cloned()),
        };
        let request = headers::level("request_headers", &c.request_headers_to_add, &c.request_headers_to_remove)?;
        let response = headers::level("response_headers", &c.response_headers_to_add, &c.response_headers_to_remove)?;
        let levels = ctx.levels.clone().with(&c.typed_per_filter_config)?;
        let prepend = |own: Option<Arc<HeaderOps>>, rest: &[Arc<HeaderOps>]| {
            own.into_iter().chain(rest.iter().cloned()).collect()
        };
        let p::weighted_cluster::ClusterWeight { host_rewrite_specifier, .. } = c;
        Ok(WeightedCluster {
            cluster,
            weight,
            metadata_match,
            request_headers: prepend(request, &ctx.request),
            response_headers: prepend(response, &ctx.response),
            per_filter: levels.resolve()?,
            host_rewrite: host_rewrite_specifier.as_ref().map(|h| match h {
                p::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(s) => s.as_str().into(),
            }),
        })
    })?;
    if let Some(declared) = w.total_weight
        && u64::from(declared) != total_weight
    {
        return Err(invalid(format!("Sum of weights in the weighted_cluster should add up to {declared}")));
    }
    if total_weight == 0 {
        return Err(invalid("Sum of weights in the weighted_cluster must be greater than 0."));
    }
    if total_weight > u64::from(u32::MAX) {
        return Err(invalid(format!(
            "The sum of weights of all weighted clusters of route overflows uint32: {total_weight}"
        )));
    }
    let (random_value_header, use_hash_policy) = match &w.random_value_specifier {
        Some(R::HeaderName(h)) => (Some(HeaderName::new(h)), false),
        Some(R::UseHashPolicy(b)) => (None, *b),
        None => (None, false),
    };
    Ok(WeightedClusters { clusters, total_weight, random_value_header, use_hash_policy })
}

fn overlay(below: &SubsetMatch, above: &SubsetMatch) -> SubsetMatch {
    let mut all: std::collections::BTreeMap<Name, crate::common::Value> = below.iter().cloned().collect();
    all.extend(above.iter().cloned());
    all.into_iter().collect()
}

fn path_rewrite(a: &p::RouteAction) -> Result<PathRewrite> {
    let set = [
        !a.prefix_rewrite.is_empty(),
        a.regex_rewrite.is_some(),
        a.path_rewrite_policy.is_some(),
        !a.path_rewrite.is_empty(),
    ];
    if set.iter().filter(|s| **s).count() > 1 {
        return Err(invalid("Specify only one of prefix_rewrite, regex_rewrite or path_rewrite_policy"));
    }
    if !a.prefix_rewrite.is_empty() {
        return Ok(PathRewrite::Prefix(a.prefix_rewrite.as_str().into()));
    }
    if let Some(r) = &a.regex_rewrite {
        return Ok(PathRewrite::Regex(Box::new(matcher::rewrite(r).at("regex_rewrite")?)));
    }
    if let Some(e) = &a.path_rewrite_policy {
        return Ok(PathRewrite::Template(super::uri_template::rewriter(e).at("path_rewrite_policy")?));
    }
    if !a.path_rewrite.is_empty() {
        return Ok(PathRewrite::Format(Box::new(super::format::text(&a.path_rewrite).at("path_rewrite")?)));
    }
    Ok(PathRewrite::None)
}

fn host_rewrite(a: &p::RouteAction) -> Result<HostRewrite> {
    use p::route_action::HostRewriteSpecifier as S;
    Ok(match &a.host_rewrite_specifier {
        None | Some(S::AutoHostRewrite(false)) => HostRewrite::None,
        Some(S::HostRewriteLiteral(s)) if s.is_empty() => HostRewrite::None,
        Some(S::HostRewriteLiteral(s)) => HostRewrite::Literal(s.as_str().into()),
        Some(S::AutoHostRewrite(true)) => HostRewrite::Auto,
        Some(S::HostRewriteHeader(h)) => HostRewrite::Header(HeaderName::new(h)),
        Some(S::HostRewritePathRegex(r)) => {
            HostRewrite::PathRegex(Box::new(matcher::rewrite(r).at("host_rewrite_path_regex")?))
        }
        Some(S::HostRewrite(s)) => HostRewrite::Format(Box::new(super::format::text(s).at("host_rewrite")?)),
    })
}

fn mirror(m: &p::route_action::RequestMirrorPolicy) -> Result<Mirror> {
    let cluster = match (m.cluster.as_str(), m.cluster_header.as_str()) {
        ("", "") => {
            return Err(invalid("Exactly one of cluster or cluster_header in request mirror policy can be specified"));
        }
        (name, "") => ClusterSpecifier::Cluster(name.into()),
        ("", header) => ClusterSpecifier::Header(HeaderName::new(header)),
        _ => {
            return Err(invalid("Only one of cluster or cluster_header in request mirror policy can be specified"));
        }
    };
    Ok(Mirror {
        cluster,
        fraction: common::runtime_fraction("runtime_fraction", &m.runtime_fraction, Fraction::ALWAYS)?,
        trace_sampled: m.trace_sampled,
        disable_shadow_host_suffix: m.disable_shadow_host_suffix_append,
        request_headers: headers::mutations_as_ops("request_headers_mutations", &m.request_headers_mutations)?,
        host_rewrite: opt_name(&m.host_rewrite_literal),
    })
}

/// `RouteAction.HashPolicy`
pub(super) fn hash_policy(h: &p::route_action::HashPolicy) -> Result<HashPolicy> {
    use p::route_action::hash_policy::PolicySpecifier as S;
    let kind = match h.policy_specifier.as_ref().ok_or_else(|| missing("policy_specifier"))? {
        S::Header(x) => HashPolicyKind::Header {
            name: HeaderName::new(&required("header_name", &x.header_name).at("header")?),
            rewrite: x.regex_rewrite.as_ref().map(matcher::rewrite).transpose().at("regex_rewrite")?.map(Box::new),
        },
        S::Cookie(x) => HashPolicyKind::Cookie {
            name: required("name", &x.name).at("cookie")?,
            ttl: opt_duration("ttl", &x.ttl).at("cookie")?,
            path: x.path.as_str().into(),
            attributes: x.attributes.iter().map(|a| (a.name.as_str().into(), a.value.as_str().into())).collect(),
        },
        S::ConnectionProperties(x) if x.source_ip => HashPolicyKind::SourceIp,
        S::ConnectionProperties(_) => {
            return Err(invalid("no property is selected").at("connection_properties"));
        }
        S::QueryParameter(x) => HashPolicyKind::QueryParameter(required("name", &x.name).at("query_parameter")?),
        S::FilterState(x) => HashPolicyKind::FilterState(required("key", &x.key).at("filter_state")?),
    };
    Ok(HashPolicy { kind, terminal: h.terminal })
}

fn upgrade(u: &p::route_action::UpgradeConfig) -> Result<UpgradeConfig> {
    let upgrade_type: Name = required("upgrade_type", &u.upgrade_type)?.to_ascii_lowercase().into();
    if u.connect_config.is_some() && &*upgrade_type != "connect" {
        return Err(ConfigError::new(Reason::Invalid(
            "Non-CONNECT upgrade type ConnectConfig was configured".to_owned(),
        )));
    }
    let connect = u.connect_config.as_ref().map(|c| ConnectConfig {
        proxy_protocol: c.proxy_protocol_config.as_ref().map(|p| if p.version == 0 { 1 } else { 2 }),
        allow_post: c.allow_post,
    });
    Ok(UpgradeConfig { upgrade_type, enabled: u.enabled.unwrap_or(true), connect, filters: None })
}
