//! Does an `EnvoyFilter` make sense? Patches are read as the message they patch.

use serde_json::Value;

use super::Check;
use super::common::{regex, target_reference, workload_selector};
use crate::envoy_filter::{
    ApplyTo, EnvoyConfigObjectMatch, EnvoyConfigObjectPatch, EnvoyFilter, Operation, PatchContext,
};

const HCM: &str = "envoy.filters.network.http_connection_manager";
/// Longest expression on proxy versions.
const VERSION_REGEX_MAX: usize = 1024;

/// Validates the whole resource.
pub fn envoy_filter(c: &mut Check, f: &EnvoyFilter) {
    if let Some(selector) = &f.workload_selector {
        if selector.labels.is_empty() {
            c.warn("Envoy filter: workload selector specified without labels, will be applied to all services in namespace");
        } else {
            workload_selector(c, Some(selector));
        }
    }
    c.error_if(
        f.workload_selector.is_some() && !f.target_refs.is_empty(),
        "only one of targetRefs or workloadSelector can be set",
    );
    c.each("targetRefs", &f.target_refs, target_reference);
    c.each("configPatches", &f.config_patches, patch);
}

fn patch(c: &mut Check, p: &EnvoyConfigObjectPatch) {
    if p.apply_to == ApplyTo::Invalid {
        return c.error("Envoy filter: missing applyTo");
    }
    let Some(patch) = &p.patch else {
        return c.error("Envoy filter: missing patch");
    };
    if patch.operation == Operation::Invalid {
        return c.error("Envoy filter: missing patch operation");
    }
    if patch.operation != Operation::Remove && patch.value.is_none() {
        return c.error("Envoy filter: missing patch value for non-remove operation");
    }
    if p.apply_to == ApplyTo::Bootstrap {
        c.field("applyTo", |c| c.warn("BOOTSTRAP is accepted and has no effect; use a custom bootstrap instead"));
    }
    if let Some(m) = &p.matches {
        c.field("match", |c| conditions(c, p.apply_to, m));
    }
    if let Some(value) = &patch.value
        && let Some(message) = message_of(p.apply_to)
    {
        let value = Value::Object(value.clone());
        if let Err(e) = protos::json::from_json(message, &value) {
            // Istio's decoder also takes Go's durations ("500ms").
            let duration = e.reason.split('"').nth(3).is_some_and(|d| crate::scalar::Duration::parse(d).is_some());
            if e.reason.starts_with("expected a duration") && duration {
                return;
            }
            let unknown = e.reason.contains("unknown field");
            let text = describe(&e.path, &e.reason);
            c.field("patch.value", |c| if unknown { c.warn(text) } else { c.error(text) });
        }
    }
}

fn describe(path: &str, reason: &str) -> String {
    let hint = if reason.contains("unknown") && reason.contains("type") {
        ": referenced type unknown (hint: try using the v3 XDS API)"
    } else {
        ""
    };
    if path.is_empty() {
        format!("Envoy filter: {reason}{hint}")
    } else {
        format!("Envoy filter: {path}: {reason}{hint}")
    }
}

fn message_of(apply_to: ApplyTo) -> Option<&'static str> {
    Some(match apply_to {
        ApplyTo::Listener => "envoy.config.listener.v3.Listener",
        ApplyTo::FilterChain => "envoy.config.listener.v3.FilterChain",
        ApplyTo::ListenerFilter => "envoy.config.listener.v3.ListenerFilter",
        ApplyTo::NetworkFilter => "envoy.config.listener.v3.Filter",
        ApplyTo::HttpFilter => "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        ApplyTo::RouteConfiguration => "envoy.config.route.v3.RouteConfiguration",
        ApplyTo::VirtualHost => "envoy.config.route.v3.VirtualHost",
        ApplyTo::HttpRoute => "envoy.config.route.v3.Route",
        ApplyTo::Cluster => "envoy.config.cluster.v3.Cluster",
        ApplyTo::ExtensionConfig => "envoy.config.core.v3.TypedExtensionConfig",
        ApplyTo::Bootstrap | ApplyTo::Invalid => return None,
    })
}

fn conditions(c: &mut Check, apply_to: ApplyTo, m: &EnvoyConfigObjectMatch) {
    let version = m.proxy.as_ref().map_or("", |p| p.proxy_version.as_str());
    if version.len() > VERSION_REGEX_MAX {
        c.warn(format!("Envoy filter: proxyVersion match exceeds {VERSION_REGEX_MAX} characters and will be ignored"));
    } else if let Err(e) = regex(version) {
        c.error(format!("Envoy filter: invalid regex for proxy version, [{e}]"));
    }
    let waypoint = m.context == PatchContext::Waypoint;
    c.error_if(m.waypoint.is_some() && !waypoint, "only support waypointMatch when context is WAYPOINT");
    if waypoint {
        return c.field("context", |c| c.warn("WAYPOINT is accepted and has no effect"));
    }
    let any = m.listener.is_some() || m.route_configuration.is_some() || m.cluster.is_some();
    match apply_to {
        ApplyTo::Listener
        | ApplyTo::FilterChain
        | ApplyTo::NetworkFilter
        | ApplyTo::HttpFilter
        | ApplyTo::ListenerFilter => {
            c.error_if(
                any && m.listener.is_none(),
                "Envoy filter: applyTo for listener class objects cannot have non listener match",
            );
            listener(c, apply_to, m);
        }
        ApplyTo::RouteConfiguration | ApplyTo::VirtualHost | ApplyTo::HttpRoute => c.error_if(
            any && m.route_configuration.is_none(),
            "Envoy filter: applyTo for http route class objects cannot have non route configuration match",
        ),
        ApplyTo::Cluster => c.error_if(
            any && m.cluster.is_none(),
            "Envoy filter: applyTo for cluster class objects cannot have non cluster match",
        ),
        _ => {}
    }
}

fn listener(c: &mut Check, apply_to: ApplyTo, m: &EnvoyConfigObjectMatch) {
    let chain = m.listener.as_ref().and_then(|l| l.filter_chain.as_ref());
    let Some(filter) = chain.and_then(|f| f.filter.as_ref()) else {
        return;
    };
    if matches!(apply_to, ApplyTo::Listener | ApplyTo::FilterChain) {
        c.warn(format!("Envoy filter: filter match has no effect when used with {apply_to}"));
    }
    if filter.name.is_empty() {
        return c.error("Envoy filter: filter match has no name to match on");
    }
    let Some(sub) = &filter.sub_filter else {
        return;
    };
    if apply_to != ApplyTo::HttpFilter {
        c.warn(format!("Envoy filter: subfilter match has no effect when used with {apply_to}"));
    }
    c.error_if(
        filter.name != HCM && filter.name != "envoy.http_connection_manager",
        format!("Envoy filter: subfilter match requires filter match with {HCM}"),
    );
    c.error_if(sub.name.is_empty(), "Envoy filter: subfilter match has no name to match on");
}
