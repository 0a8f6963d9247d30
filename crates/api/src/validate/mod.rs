//! Does the content make sense? Per-kind validation with Istio's verdicts, naming field path and remedy.
//!
//! [`validate`] is the door: sources refuse what has errors and report warnings. Validators of parts are public, for
//! the conformance tables and for `analyze`. Also warned about: what Istio accepts and ignores in silence. Follows
//! `pkg/config/validation` and the CEL rules of Istio's CRDs. Deliberately absent: rules over several resources.

pub mod common;
pub mod destination_rule;
pub mod envoy_filter;
pub mod gateway;
pub mod http_route;
pub mod kube;
pub mod mesh;
pub mod security;
pub mod service_entry;
pub mod sidecar;
pub mod telemetry;
pub mod virtual_service;

use serde_json::Value;

use crate::resource::{Body, Resource};
use crate::shape::Problem;

/// What validation found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Reasons to refuse the resource.
    pub errors: Vec<Problem>,
    /// Things that are accepted and probably not meant, or accepted by Istio and ignored in silence.
    pub warnings: Vec<Problem>,
}

impl Verdict {
    /// Whether the resource may be used.
    pub fn is_valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Collects findings under a field path.
#[derive(Debug, Default)]
pub struct Check {
    path: String,
    verdict: Verdict,
}

impl Check {
    /// Starts at a path (`spec`, or empty).
    pub fn at(path: &str) -> Self {
        Check { path: path.to_owned(), verdict: Verdict::default() }
    }

    /// A reason to refuse.
    pub fn error(&mut self, message: impl Into<String>) {
        self.verdict.errors.push(Problem::new(self.path.clone(), message));
    }

    /// A reason to look again.
    pub fn warn(&mut self, message: impl Into<String>) {
        self.verdict.warnings.push(Problem::new(self.path.clone(), message));
    }

    /// Records the error of a leaf check.
    pub fn result(&mut self, result: Result<(), String>) {
        if let Err(message) = result {
            self.error(message);
        }
    }

    /// Records an error when `bad`.
    pub fn error_if(&mut self, bad: bool, message: impl Into<String>) {
        if bad {
            self.error(message);
        }
    }

    /// Runs `f` one field deeper.
    pub fn field<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let len = self.path.len();
        if len > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let out = f(self);
        self.path.truncate(len);
        out
    }

    /// Runs `f` for each element of a list field.
    pub fn each<'a, T: 'a>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = &'a T>,
        mut f: impl FnMut(&mut Self, &'a T),
    ) {
        for (i, item) in items.into_iter().enumerate() {
            self.field(&format!("{name}[{i}]"), |c| f(c, item));
        }
    }

    /// A leaf check on a field.
    pub fn check(&mut self, name: &str, result: Result<(), String>) {
        self.field(name, |c| c.result(result));
    }

    /// The findings.
    pub fn finish(self) -> Verdict {
        self.verdict
    }
}

/// Validates one resource by itself, without knowledge of others.
pub fn validate(resource: &Resource) -> Verdict {
    let meta = &resource.meta;
    let raw = resource.raw.get("spec").unwrap_or(&Value::Null);
    let mut check = Check::at("spec");
    let c = &mut check;
    if meta.key.kind.is_istio() && resource.raw.get("spec").is_none() && needs_spec(&resource.body) {
        c.error("required");
    }
    match &resource.body {
        Body::VirtualService(s) => virtual_service::virtual_service(c, s, meta.namespace()),
        Body::DestinationRule(s) => destination_rule::destination_rule(c, s, meta.namespace()),
        Body::Gateway(s) => gateway::gateway(c, s, meta.name()),
        Body::ServiceEntry(s) => service_entry::service_entry(c, s, meta.namespace(), &meta.labels),
        Body::WorkloadEntry(s) => service_entry::workload_entry(c, s, true),
        Body::WorkloadGroup(s) => service_entry::workload_group(c, s),
        Body::Sidecar(s) => sidecar::sidecar(c, s),
        Body::EnvoyFilter(s) => envoy_filter::envoy_filter(c, s),
        Body::ProxyConfig(s) => mesh::proxy_config_resource(c, s),
        Body::AuthorizationPolicy(s) => security::authorization_policy(c, s, raw, &meta.annotations),
        Body::PeerAuthentication(s) => security::peer_authentication(c, s, raw),
        Body::RequestAuthentication(s) => security::request_authentication(c, s, &meta.annotations),
        Body::Telemetry(s) => telemetry::telemetry(c, s, raw),
        Body::WasmPlugin(s) => telemetry::wasm_plugin(c, s),
        Body::TrafficExtension(s) => telemetry::traffic_extension(c, s),
        Body::Service(s) => kube::service(c, &s.spec),
        Body::Pod(p) => kube::pod(c, &p.spec),
        _ => {
            if let Some(template) = resource.pod_template() {
                c.field("template.spec", |c| kube::pod(c, &template.spec));
            }
        }
    }
    check.finish()
}

/// Kinds whose CRD requires `spec`.
fn needs_spec(body: &Body) -> bool {
    matches!(body, Body::ServiceEntry(_) | Body::WorkloadEntry(_) | Body::WorkloadGroup(_))
}
