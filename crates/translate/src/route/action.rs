//! What does one HTTP rule of a virtual service become? Match, destination or answer, and everything done on the way.
//! Follows `route.go`. Used for sidecars and gateways alike.

use std::collections::BTreeMap;

use api::destination_rule::{ConsistentHashLb, PortTrafficPolicy, TrafficPolicy};
use api::networking::{
    CorsPolicy, Destination, Headers, HttpFaultInjection, HttpMatchRequest, HttpRedirect, HttpRoute,
    HttpRouteDestination, Percent, RedirectPortSelection, UnmatchedPreflights,
};
use model::{ResolvedVirtualService, Service};
use names::{ClusterName, Hostname, LabelsExt};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::route::v3 as route;
use protos::envoy::extensions::filters::http::{cors::v3 as cors, fault::v3 as fault};
use protos::envoy::r#type::matcher::v3 as matcher;
use protos::prost::Message as _;

use super::conditions::route_match;
use super::destination_cluster;
use super::retry::{GRPC_CODES, retry};
use crate::Inputs;
use crate::wire::{
    any, api_duration, api_string_match, config_metadata, exact_matchers, no_timeout, percent, percent_f64, regex,
    runtime_percent,
};

/// The name of routes that no rule made.
pub(crate) const DEFAULT_ROUTE: &str = "default";
const FAULT: &str = "envoy.filters.http.fault";
const CORS: &str = "envoy.filters.http.cors";

/// Where rules are translated for.
pub(crate) struct Context<'a> {
    pub(crate) inputs: &'a Inputs,
    /// The listener's port.
    pub(crate) port: u16,
    /// The gateway (`mesh` or `NAMESPACE/NAME`).
    pub(crate) gateway: &'a str,
    /// Whether clients speak TLS to the listener.
    pub(crate) tls: bool,
    /// The service that a destination means.
    pub(crate) lookup: &'a dyn Fn(&Hostname) -> Option<std::sync::Arc<Service>>,
}

impl Context<'_> {
    /// Whether destinations are told the host that was asked for.
    pub(super) fn forwarded_host(&self) -> bool {
        let headers = crate::listener::hcm::ProxyHeaders::new(
            self.inputs,
            crate::listener::Class::outbound(self.inputs.proxy().node_type),
        );
        headers.forwarded_host
    }
}

/// Matches every path.
pub(crate) fn any_path() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    }
}

/// A route for every path, with a name for traces.
pub(crate) fn plain(name: &str, action: route::RouteAction, operation: &str) -> route::Route {
    route::Route {
        name: name.to_owned(),
        r#match: Some(any_path()),
        decorator: Some(route::Decorator { operation: operation.to_owned(), propagate: None }),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

/// The route of a service without virtual service.
pub(crate) fn default_outbound(inputs: &Inputs, service: &Service, port: u16) -> route::Route {
    let cluster = ClusterName::outbound(port, "", &service.hostname).to_string();
    let rule = inputs.scope().rule(&service.hostname, &inputs.proxy().labels, false);
    let policy = rule.and_then(|r| r.config.spec.traffic_policy.as_ref());
    let hash = policy.and_then(|p| {
        let level = p.port_level_settings.iter().find(|l| l.port.as_ref().is_some_and(|n| n.number == u32::from(port)));
        level.and_then(level_hash).or_else(|| policy_hash(p))
    });
    #[allow(deprecated)]
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster)),
        timeout: Some(no_timeout()),
        max_grpc_timeout: Some(no_timeout()),
        retry_policy: retry(inputs.mesh().default_http_retry_policy.as_ref(), false),
        hash_policy: hash.and_then(hash_policy).into_iter().collect(),
        ..Default::default()
    };
    plain(DEFAULT_ROUTE, action, &format!("{}:{port}/*", service.hostname))
}

/// One route in two parts that together are its encoding: the matches of a rule differ in the first only.
pub(crate) struct Parts {
    /// Name, match, name in traces and statistics.
    pub(crate) head: route::Route,
    /// Everything else, encoded.
    pub(crate) rest: std::rc::Rc<[u8]>,
}

/// Routes of a virtual service, in order, up to the first that takes everything.
pub(crate) fn routes(context: &Context<'_>, v: &ResolvedVirtualService) -> Vec<Parts> {
    let mut out = Vec::new();
    for rule in &v.config.spec.http {
        let any = rule.matches.is_empty();
        let mut made: Option<(std::rc::Rc<[u8]>, String)> = None;
        let matches = rule.matches.iter().map(Some).chain(any.then_some(None));
        for m in matches.filter(|m| m.is_none_or(|m| applies(context, m))) {
            if made.is_none() {
                made = translate(context, v, rule).map(|r| {
                    let operation = operation(&r, &v.config.name, context.port);
                    (r.encode_to_vec().into(), operation)
                });
            }
            let Some((rest, operation)) = &made else { break };
            let head = head(rule, m, operation);
            let last = is_catch_all(&head);
            out.push(Parts { head, rest: rest.clone() });
            if last {
                return out;
            }
        }
        if any {
            return out;
        }
    }
    out
}

/// What of a route depends on the match. `operation`: what traces call the route, without path.
fn head(rule: &HttpRoute, m: Option<&HttpMatchRequest>, operation: &str) -> route::Route {
    use route::route_match::PathSpecifier as P;
    let name = match m.filter(|m| !m.name.is_empty()) {
        Some(m) => format!("{}.{}", rule.name, m.name),
        None => rule.name.clone(),
    };
    let found = m.map_or_else(any_path, route_match);
    let operation = match &found.path_specifier {
        Some(P::Prefix(p)) => format!("{operation}{p}*"),
        Some(P::Path(p)) => format!("{operation}{p}"),
        Some(P::SafeRegex(r)) => format!("{operation}{}", r.regex),
        _ => format!("{operation}/*"),
    };
    route::Route {
        name,
        r#match: Some(found),
        stat_prefix: m.map_or(String::new(), |m| m.stat_prefix.clone()),
        decorator: Some(route::Decorator { operation, propagate: None }),
        ..Default::default()
    }
}

/// Whether nothing after this route can match.
pub fn is_catch_all(r: &route::Route) -> bool {
    use route::route_match::PathSpecifier as P;
    let Some(m) = &r.r#match else { return false };
    let path = match &m.path_specifier {
        Some(P::Prefix(p) | P::PathSeparatedPrefix(p)) => p == "/",
        Some(P::SafeRegex(r)) => r.regex == ".*",
        _ => false,
    };
    path && m.headers.is_empty() && m.query_parameters.is_empty() && m.dynamic_metadata.is_empty()
}

/// Conditions that do not depend on the request: port, gateway, source labels and namespace.
fn applies(context: &Context<'_>, m: &HttpMatchRequest) -> bool {
    if m.port != 0 && m.port != u32::from(context.port) {
        return false;
    }
    if !m.gateways.is_empty() {
        return m.gateways.iter().any(|g| g == context.gateway);
    }
    let proxy = context.inputs.proxy();
    m.source_labels.subset_of(&proxy.labels)
        && (m.source_namespace.is_empty() || *m.source_namespace == *proxy.namespace)
}

/// What of a route does not depend on the match. `None`: the rule sends nowhere.
fn translate(context: &Context<'_>, v: &ResolvedVirtualService, rule: &HttpRoute) -> Option<route::Route> {
    let mut out = route::Route {
        metadata: config_metadata(&v.config.kind, &v.config.namespace, &v.config.name),
        ..Default::default()
    };
    let mut authority = String::new();
    if let Some(headers) = &rule.headers {
        let ops = header_operations(headers);
        out.request_headers_to_add = ops.request_add;
        out.request_headers_to_remove = ops.request_remove;
        out.response_headers_to_add = ops.response_add;
        out.response_headers_to_remove = ops.response_remove;
        authority = ops.authority;
    }
    out.action = if let Some(r) = &rule.redirect {
        Some(route::route::Action::Redirect(redirect(r, context)?))
    } else if let Some(d) = &rule.direct_response {
        use core::data_source::Specifier;
        let body = d.body.as_ref().and_then(|b| match (&b.string, &b.bytes) {
            (Some(s), _) => Some(Specifier::InlineString(s.clone())),
            (_, Some(b)) => Some(Specifier::InlineBytes(decode_base64(b))),
            _ => None,
        });
        let body = body.map(|s| core::DataSource { specifier: Some(s), ..Default::default() });
        Some(route::route::Action::DirectResponse(route::DirectResponseAction {
            status: d.status,
            body,
            ..Default::default()
        }))
    } else {
        let action = destination(context, rule, authority, &mut out)?;
        Some(route::route::Action::Route(action))
    };
    if let Some(f) = rule.fault.as_ref().and_then(fault) {
        out.typed_per_filter_config.insert(FAULT.to_owned(), any(&f));
    }
    if let Some(c) = &rule.cors_policy {
        out.typed_per_filter_config.insert(CORS.to_owned(), any(&cors_policy(c)));
    }
    Some(out)
}

fn decode_base64(text: &str) -> Vec<u8> {
    // The API's `bytes` fields are proto-JSON base64; four characters hold three bytes.
    let value = |c: u8| -> Option<u32> {
        Some(match c {
            b'A'..=b'Z' => u32::from(c - b'A'),
            b'a'..=b'z' => u32::from(c - b'a') + 26,
            b'0'..=b'9' => u32::from(c - b'0') + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        })
    };
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for v in text.bytes().filter_map(value) {
        bits = bits << 6 | v;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).expect("masked to a byte"));
        }
    }
    out
}

/// What traces call the route, before its path: `host:port`, or the virtual service when there are several destinations.
fn operation(r: &route::Route, name: &str, port: u16) -> String {
    let cluster = match &r.action {
        Some(route::route::Action::Route(a)) => match &a.cluster_specifier {
            Some(route::route_action::ClusterSpecifier::Cluster(c)) => c.parse::<ClusterName>().ok(),
            _ => None,
        },
        _ => None,
    };
    match cluster {
        Some(c) => format!("{}:{}", c.host, c.port),
        None => format!("{name}:{port}"),
    }
}

struct HeaderOps {
    request_add: Vec<core::HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<core::HeaderValueOption>,
    response_remove: Vec<String>,
    authority: String,
}

/// Pseudo headers and `host` cannot be edited as headers.
fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn header_operations(headers: &Headers) -> HeaderOps {
    use core::header_value_option::HeaderAppendAction as A;
    let empty = Default::default();
    let request = headers.request.as_ref().unwrap_or(&empty);
    let empty = Default::default();
    let response = headers.response.as_ref().unwrap_or(&empty);
    let options = |map: &BTreeMap<String, String>, action: A| {
        let one = |(k, v): (&String, &String)| core::HeaderValueOption {
            header: Some(core::HeaderValue { key: k.clone(), value: v.clone(), ..Default::default() }),
            append_action: action as i32,
            ..Default::default()
        };
        map.iter().filter(|(k, _)| !is_internal(k)).map(one).collect::<Vec<_>>()
    };
    let both = |set, add| {
        let mut out = options(set, A::OverwriteIfExistsOrAdd);
        out.extend(options(add, A::AppendIfExistsOrAdd));
        out
    };
    let authority = |map: &BTreeMap<String, String>| {
        let is = |k: &String| k.eq_ignore_ascii_case(":authority") || k.eq_ignore_ascii_case("host");
        map.iter().filter(|(k, _)| is(k)).map(|(_, v)| v.clone()).next_back()
    };
    let keep = |list: &[String]| list.iter().filter(|k| !is_internal(k)).cloned().collect();
    HeaderOps {
        request_add: both(&request.set, &request.add),
        request_remove: keep(&request.remove),
        response_add: both(&response.set, &response.add),
        response_remove: keep(&response.remove),
        authority: authority(&request.set).or_else(|| authority(&request.add)).unwrap_or_default(),
    }
}

fn redirect(r: &HttpRedirect, context: &Context<'_>) -> Option<route::RedirectAction> {
    use route::redirect_action::{PathRewriteSpecifier as P, RedirectResponseCode as C, SchemeRewriteSpecifier as S};
    let code = match r.redirect_code {
        0 | 301 => C::MovedPermanently,
        302 => C::Found,
        303 => C::SeeOther,
        307 => C::TemporaryRedirect,
        308 => C::PermanentRedirect,
        _ => return None,
    };
    let mut port = match (r.port, r.derive_port) {
        (Some(p), _) => p,
        (_, Some(RedirectPortSelection::FromRequestPort)) => context.port.into(),
        _ => 0,
    };
    let scheme = match r.scheme.as_str() {
        "" if context.tls => "https",
        "" => "http",
        s => s,
    };
    // A default port is not spelled out.
    if (port == 80 && scheme == "http") || (port == 443 && scheme == "https") {
        port = 0;
    }
    let path = if r.prefix_rewrite.is_empty() {
        P::PathRedirect(r.uri.clone())
    } else {
        P::PrefixRewrite(r.prefix_rewrite.clone())
    };
    Some(route::RedirectAction {
        host_redirect: r.authority.clone(),
        port_redirect: port,
        response_code: code as i32,
        path_rewrite_specifier: Some(path),
        scheme_rewrite_specifier: (!r.scheme.is_empty()).then(|| S::SchemeRedirect(r.scheme.clone())),
        ..Default::default()
    })
}

#[allow(deprecated)]
fn destination(
    context: &Context<'_>,
    rule: &HttpRoute,
    mut authority: String,
    out: &mut route::Route,
) -> Option<route::RouteAction> {
    use route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
    let timeout = rule.timeout.map_or_else(no_timeout, api_duration);
    let mut action =
        route::RouteAction { timeout: Some(timeout), max_grpc_timeout: Some(timeout), ..Default::default() };
    if let Some(rewrite) = &rule.rewrite {
        if let Some(r) = &rewrite.uri_regex_rewrite {
            action.regex_rewrite = Some(matcher::RegexMatchAndSubstitute {
                pattern: Some(regex(r.matches.clone())),
                substitution: r.rewrite.clone(),
            });
        } else {
            action.prefix_rewrite = rewrite.uri.clone();
        }
        if !rewrite.authority.is_empty() {
            authority = rewrite.authority.clone();
        }
    }
    if !authority.is_empty() {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(authority));
    }
    action.request_mirror_policies = mirrors(context, rule);
    let policy = rule.retries.as_ref().or(context.inputs.mesh().default_http_retry_policy.as_ref());
    let cluster = |d: &Destination| {
        let service = (context.lookup)(&Hostname::from(d.host.as_str()));
        destination_cluster(d, service.as_deref(), context.port)
    };
    let mut hashed = false;
    if let [only] = rule.route.as_slice() {
        let d = only.destination.as_ref()?;
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster(d)));
        if let Some(headers) = &only.headers {
            let ops = header_operations(headers);
            out.request_headers_to_add.extend(ops.request_add);
            out.request_headers_to_remove.extend(ops.request_remove);
            out.response_headers_to_add.extend(ops.response_add);
            out.response_headers_to_remove.extend(ops.response_remove);
            if !ops.authority.is_empty() && action.host_rewrite_specifier.is_none() {
                action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral(ops.authority));
            }
        }
        let hash = destination_hash(context, only).as_ref().and_then(hash_policy);
        hashed = hash.is_some();
        action.hash_policy.extend(hash);
    } else {
        let mut clusters = Vec::new();
        for w in rule.route.iter().filter(|w| w.weight > 0) {
            let Some(d) = &w.destination else { continue };
            let ops = w.headers.as_ref().map(header_operations);
            let ops = ops.unwrap_or_else(|| header_operations(&Headers::default()));
            clusters.push(route::weighted_cluster::ClusterWeight {
                name: cluster(d),
                weight: u32::try_from(w.weight).ok(),
                request_headers_to_add: ops.request_add,
                request_headers_to_remove: ops.request_remove,
                response_headers_to_add: ops.response_add,
                response_headers_to_remove: ops.response_remove,
                host_rewrite_specifier: (!ops.authority.is_empty()).then_some(
                    route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(ops.authority),
                ),
                ..Default::default()
            });
            action.hash_policy.extend(destination_hash(context, w).as_ref().and_then(hash_policy));
        }
        if clusters.is_empty() {
            return None;
        }
        action.cluster_specifier =
            Some(ClusterSpecifier::WeightedClusters(route::WeightedCluster { clusters, ..Default::default() }));
    }
    action.retry_policy = retry(policy, hashed);
    action.append_x_forwarded_host = context.forwarded_host();
    Some(action)
}

/// How much is mirrored: `percentage` over the older whole percentage, by default everything. `None`: nothing.
pub fn mirror_fraction(
    percentage: Option<&Percent>,
    whole: Option<u32>,
) -> Option<protos::envoy::r#type::v3::FractionalPercent> {
    match (percentage, whole) {
        (Some(p), _) if p.value > 0.0 => Some(percent_f64(p.value)),
        (None, Some(p)) if p > 0 => Some(percent(p)),
        (None, None) => Some(percent(100)),
        _ => None,
    }
}

fn mirrors(context: &Context<'_>, rule: &HttpRoute) -> Vec<route::route_action::RequestMirrorPolicy> {
    let fraction = mirror_fraction;
    let one = |d: &Destination, fraction| {
        let service = (context.lookup)(&Hostname::from(d.host.as_str()));
        route::route_action::RequestMirrorPolicy {
            cluster: destination_cluster(d, service.as_deref(), context.port),
            runtime_fraction: Some(runtime_percent(fraction)),
            trace_sampled: Some(false),
            disable_shadow_host_suffix_append: true,
            ..Default::default()
        }
    };
    let single = rule
        .mirror
        .iter()
        .filter_map(|d| Some(one(d, fraction(rule.mirror_percentage.as_ref(), rule.mirror_percent)?)));
    let several =
        rule.mirrors.iter().filter_map(|m| Some(one(m.destination.as_ref()?, fraction(m.percentage.as_ref(), None)?)));
    single.chain(several).collect()
}

fn policy_hash(p: &TrafficPolicy) -> Option<&ConsistentHashLb> {
    p.load_balancer.as_ref()?.consistent_hash.as_ref()
}

fn level_hash(p: &PortTrafficPolicy) -> Option<&ConsistentHashLb> {
    p.load_balancer.as_ref()?.consistent_hash.as_ref()
}

/// The affinity that the destination rule of a destination asks for: subset port, subset, port, host.
fn destination_hash(context: &Context<'_>, d: &HttpRouteDestination) -> Option<ConsistentHashLb> {
    let d = d.destination.as_ref()?;
    let inputs = context.inputs;
    let rule = inputs.scope().rule(&Hostname::from(d.host.as_str()), &inputs.proxy().labels, false)?;
    let by_port = |p: &TrafficPolicy| -> Option<ConsistentHashLb> {
        let number = d.port.as_ref()?.number;
        let level = p.port_level_settings.iter().find(|l| l.port.as_ref().is_some_and(|n| n.number == number))?;
        level_hash(level).cloned()
    };
    let subset = rule.config.spec.subsets.iter().find(|s| s.name == d.subset).and_then(|s| s.traffic_policy.as_ref());
    let top = rule.config.spec.traffic_policy.as_ref();
    subset
        .and_then(by_port)
        .or_else(|| subset.and_then(policy_hash).cloned())
        .or_else(|| top.and_then(by_port))
        .or_else(|| top.and_then(policy_hash).cloned())
}

fn hash_policy(h: &ConsistentHashLb) -> Option<route::route_action::HashPolicy> {
    use route::route_action::hash_policy as hp;
    let specifier = if let Some(name) = &h.http_header_name {
        hp::PolicySpecifier::Header(hp::Header { header_name: name.clone(), ..Default::default() })
    } else if let Some(c) = &h.http_cookie {
        let attributes = c.attributes.iter();
        hp::PolicySpecifier::Cookie(hp::Cookie {
            name: c.name.clone(),
            ttl: c.ttl.map(api_duration),
            path: c.path.clone(),
            attributes: attributes
                .map(|a| hp::CookieAttribute { name: a.name.clone(), value: a.value.clone() })
                .collect(),
        })
    } else if let Some(source_ip) = h.use_source_ip {
        hp::PolicySpecifier::ConnectionProperties(hp::ConnectionProperties { source_ip })
    } else {
        let name = h.http_query_parameter_name.as_ref()?;
        hp::PolicySpecifier::QueryParameter(hp::QueryParameter { name: name.clone() })
    };
    Some(route::route_action::HashPolicy { policy_specifier: Some(specifier), terminal: false })
}

/// Injected faults; `None` when the rule injects nothing that can be said.
pub fn fault(f: &HttpFaultInjection) -> Option<fault::HttpFault> {
    use protos::envoy::extensions::filters::common::fault::v3 as common;
    let delay = f.delay.as_ref().and_then(|d| {
        let fixed = d.fixed_delay?;
        let percentage = match &d.percentage {
            Some(p) => percent_f64(p.value),
            None => percent(u32::try_from(d.percent).unwrap_or(0)),
        };
        Some(common::FaultDelay {
            percentage: Some(percentage),
            fault_delay_secifier: Some(common::fault_delay::FaultDelaySecifier::FixedDelay(api_duration(fixed))),
        })
    });
    let abort = f.abort.as_ref().and_then(|a| {
        let error = match (a.http_status, &a.grpc_status) {
            (Some(status), _) => fault::fault_abort::ErrorType::HttpStatus(u32::try_from(status).ok()?),
            (_, Some(name)) => {
                let code = GRPC_CODES.iter().position(|c| c == name)?;
                fault::fault_abort::ErrorType::GrpcStatus(u32::try_from(code).ok()?)
            }
            _ => return None,
        };
        Some(fault::FaultAbort {
            percentage: Some(a.percentage.as_ref().map_or_else(|| percent(100), |p| percent_f64(p.value))),
            error_type: Some(error),
            ..Default::default()
        })
    });
    (delay.is_some() || abort.is_some()).then(|| fault::HttpFault { delay, abort, ..Default::default() })
}

fn cors_policy(c: &CorsPolicy) -> cors::CorsPolicy {
    let origins = if c.allow_origins.is_empty() {
        exact_matchers(&c.allow_origin)
    } else {
        c.allow_origins.iter().filter_map(api_string_match).collect()
    };
    cors::CorsPolicy {
        allow_origin_string_match: origins,
        allow_methods: c.allow_methods.join(","),
        allow_headers: c.allow_headers.join(","),
        expose_headers: c.expose_headers.join(","),
        max_age: c.max_age.map_or(String::new(), |d| d.to_std().as_secs().to_string()),
        allow_credentials: c.allow_credentials,
        filter_enabled: Some(runtime_percent(percent(100))),
        forward_not_matching_preflights: Some(c.unmatched_preflights != UnmatchedPreflights::Ignore),
        ..Default::default()
    }
}
