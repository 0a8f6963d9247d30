//! Which xDS resources does this proxy get? Pure translation from the model to Envoy configuration.
//!
//! One function per xDS type over [`Inputs`]; names and shapes are Istio's, so that people and tools find what they
//! know. No I/O, clock, environment or global: flags are fields of the input, equal inputs give equal bytes.
//! What stock Envoy does not know is sent only to proxies that declare it ([`model::Capabilities`]).

pub mod access_log;
pub mod authz;
pub mod cluster;
pub mod conflicts;
pub mod endpoint;
pub mod incremental;
pub mod jwt;
pub mod listener;
mod load;
pub mod locality;
pub mod name_table;
pub mod on_demand;
mod once;
pub mod patch;
pub mod route;
pub mod secret;
pub mod telemetry;
pub mod tls;
pub mod tracing;
pub mod wire;

use std::sync::Arc;

use model::{MeshConfig, Proxy, ProxyView, SidecarScope, Snapshot};
use prost_types::Any;

/// Everything a translation depends on.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// What the proxy sees.
    pub view: Arc<ProxyView>,
    /// Keys of token issuers outside of the mesh, by the URI they were fetched from (or the issuer).
    pub jwks: Arc<std::collections::BTreeMap<String, String>>,
    once: Arc<once::Once>,
}

impl Inputs {
    /// Inputs for a view.
    pub fn new(view: Arc<ProxyView>) -> Self {
        Inputs { view, jwks: Arc::default(), once: Arc::default() }
    }

    /// The same with keys that the control plane fetched.
    pub fn with_jwks(mut self, jwks: Arc<std::collections::BTreeMap<String, String>>) -> Self {
        self.jwks = jwks;
        self
    }

    /// The mesh.
    pub fn snapshot(&self) -> &Snapshot {
        &self.view.snapshot
    }

    /// Mesh configuration.
    pub fn mesh(&self) -> &MeshConfig {
        &self.view.snapshot.mesh
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.view.proxy
    }

    /// What it may talk to.
    pub fn scope(&self) -> &SidecarScope {
        &self.view.scope
    }
}

/// One xDS resource.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedResource {
    /// Its name.
    pub name: String,
    /// The message.
    pub resource: Any,
}

impl NamedResource {
    fn new<T: protos::prost::Message + protos::prost::Name>(name: &str, message: &T) -> Self {
        NamedResource { name: name.to_owned(), resource: protos::any(message) }
    }
}

/// Clusters (CDS), sorted by name.
pub fn clusters(inputs: &Inputs) -> Vec<NamedResource> {
    let mut out: Vec<_> = cluster::build(inputs).iter().map(|c| NamedResource::new(&c.name, c)).collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out.dedup_by(|a, b| a.name == b.name);
    out
}

/// Endpoints (EDS) of the named clusters; unknown names are absent.
pub fn endpoints(inputs: &Inputs, names: &[String]) -> Vec<NamedResource> {
    names.iter().filter_map(|n| endpoint::load_assignment(inputs, n).map(|a| NamedResource::new(n, &a))).collect()
}

/// Listeners (LDS), sorted by name.
pub fn listeners(inputs: &Inputs) -> Vec<NamedResource> {
    let mut out: Vec<_> = listener::build(inputs).iter().map(|l| NamedResource::new(&l.name, l)).collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

/// Route configurations (RDS) of these names. Names that no longer exist give empty ones, as draining listeners
/// still ask.
pub fn routes(inputs: &Inputs, names: &[String]) -> Vec<NamedResource> {
    let type_url = <protos::envoy::config::route::v3::RouteConfiguration as protos::prost::Name>::type_url();
    let any = |n: &String| Any {
        type_url: type_url.clone(),
        value: route::encoded(inputs, &incremental::Memo::default(), n).to_vec(),
    };
    names.iter().map(|n| NamedResource { name: n.clone(), resource: any(n) }).collect()
}

/// Gateway and origination credentials (SDS) of these names (`kubernetes://…`); those the proxy may not have or that
/// do not exist are absent.
pub fn secrets(inputs: &Inputs, names: &[String]) -> Vec<NamedResource> {
    names.iter().filter_map(|n| secret::build(inputs, n).map(|s| NamedResource::new(n, &s))).collect()
}

/// Extension configurations (ECDS) of these names; unknown ones are absent.
pub fn extension_configs(inputs: &Inputs, names: &[String]) -> Vec<NamedResource> {
    patch::extension_configs(inputs, names)
}

/// The DNS name table (NDS).
pub fn name_table(inputs: &Inputs) -> NamedResource {
    NamedResource::new("", &name_table::build(inputs))
}
