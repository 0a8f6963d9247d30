//! What changes for a proxy when little changed in the mesh? One [`Translation`] holds the resources of all proxies that
//! see the same; the next one reuses every piece whose declared inputs are the same.
//!
//! Three layers: a whole type is kept while the tables it reads are the same allocations; within a type, pieces (the
//! clusters of a service, a listener, the rules of a virtual service) are kept in a [`Memo`] by identity of what they
//! were made from, across proxies; the sorted set of a type is patched with the difference.
//! The functions of the crate's root make the same resources from scratch: tests compare both.

mod assembly;
mod clusters;
mod facts;
mod listeners;
mod memo;
mod moved;
mod routes;

use std::sync::{Arc, Mutex, MutexGuard};

use xds::server::{Resource, ResourceSet};

use protos::prost::Message as _;

use crate::on_demand::{self, HostIndex};
use crate::{Inputs, NamedResource};
use assembly::{Assembly, Piece};
pub use facts::Facts;
pub use memo::Memo;
pub(crate) use memo::{Key, Shared, Unit};

/// Resources of one view, made when first asked for.
#[derive(Debug)]
pub struct Translation {
    inputs: Inputs,
    memo: Arc<Memo>,
    facts: Facts,
    made: Mutex<Made>,
    /// What the view before had of each type.
    before: Made,
}

/// Finished types.
#[derive(Debug, Clone, Default)]
struct Made {
    clusters: Option<Arc<clusters::Made>>,
    endpoints: Option<Arc<clusters::Made>>,
    listeners: Option<Arc<listeners::Made>>,
    routes: Option<Arc<routes::Made>>,
    names: Option<Names>,
}

impl Translation {
    /// The resources of `inputs`. `before`: what proxies of this view had until now.
    pub fn new(inputs: Inputs, memo: Arc<Memo>, before: Option<&Translation>) -> Self {
        let facts = Facts::of(&inputs, before.map(|b| (&b.facts, &b.inputs.view.scope)));
        let before = before.map(|b| b.made().or(&b.before)).unwrap_or_default();
        Translation { inputs, memo, facts, made: Mutex::default(), before }
    }

    /// The inputs.
    pub fn inputs(&self) -> &Inputs {
        &self.inputs
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        // Finished types stay right whatever happened to another thread.
        self.made.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// All clusters (CDS).
    pub fn clusters(&self) -> Arc<ResourceSet> {
        Arc::clone(&self.cluster_pieces().assembly.set)
    }

    fn cluster_pieces(&self) -> Arc<clusters::Made> {
        let mut made = self.made();
        let context = Context { inputs: &self.inputs, memo: &self.memo, facts: &self.facts };
        let before = self.before.clusters.as_deref();
        made.clusters.get_or_insert_with(|| Arc::new(clusters::clusters(&context, before))).clone()
    }

    /// Endpoints (EDS) of all those clusters that take them over EDS.
    pub fn endpoints(&self) -> Arc<ResourceSet> {
        self.endpoint_names_and_set().1
    }

    /// The same with the names of those clusters, which stay one allocation while they are the same names.
    pub fn endpoint_names_and_set(&self) -> (Arc<[Arc<str>]>, Arc<ResourceSet>) {
        let clusters = self.cluster_pieces();
        let mut made = self.made();
        let context = Context { inputs: &self.inputs, memo: &self.memo, facts: &self.facts };
        let before = self.before.endpoints.as_deref();
        let make = || Arc::new(clusters::endpoints(&context, &clusters, before));
        let endpoints = made.endpoints.get_or_insert_with(make);
        (Arc::clone(&endpoints.names), endpoints.assembly.set.clone())
    }

    /// All listeners (LDS).
    pub fn listeners(&self) -> Arc<ResourceSet> {
        Arc::clone(&self.listeners_made().assembly.set)
    }

    fn listeners_made(&self) -> Arc<listeners::Made> {
        let mut made = self.made();
        let context = Context { inputs: &self.inputs, memo: &self.memo, facts: &self.facts };
        let before = self.before.listeners.as_deref();
        made.listeners.get_or_insert_with(|| Arc::new(listeners::listeners(&context, before))).clone()
    }

    /// Routes (RDS) that those listeners refer to.
    pub fn routes(&self) -> Arc<ResourceSet> {
        self.route_names_and_set().1
    }

    /// The same with the names of the routes, which stay one allocation while they are the same names.
    pub fn route_names_and_set(&self) -> (Arc<[Arc<str>]>, Arc<ResourceSet>) {
        let listeners = self.listeners_made();
        let mut made = self.made();
        let context = Context { inputs: &self.inputs, memo: &self.memo, facts: &self.facts };
        let before = self.before.routes.as_deref();
        let make = || Arc::new(routes::routes(&context, &listeners.assembly.refers, before));
        let routes = made.routes.get_or_insert_with(make);
        (Arc::clone(&routes.names), Arc::clone(&routes.set))
    }

    /// A route configuration that no listener of the view refers to; empty when there is none of this name.
    pub fn route(&self, name: &str) -> Arc<Resource> {
        self.memo.intern(Resource::new(name, crate::route::encoded(&self.inputs, &self.memo, name)))
    }

    /// A route configuration as this proxy gets it: without virtual hosts, if it asks for them one by one.
    pub fn as_sent(&self, route: Arc<Resource>) -> Arc<Resource> {
        if !on_demand::concerns(&self.inputs, &route.name) {
            return route;
        }
        let slim = || Resource::new(Arc::clone(&route.name), on_demand::without_hosts(&route.value.in_one_run()));
        (*self.memo.get(&Key::new(Unit::WithoutHosts, "").part(&route), slim)).clone()
    }

    /// All routes as this proxy gets them.
    pub fn routes_as_sent(&self) -> (Arc<[Arc<str>]>, Arc<ResourceSet>) {
        let (names, set) = self.route_names_and_set();
        if !on_demand::is_on(&self.inputs) {
            return (names, set);
        }
        let sent = set.iter().map(|route| self.as_sent(Arc::clone(route))).collect();
        (names, Arc::new(sent))
    }

    /// A virtual host (VHDS) by `ROUTE/AUTHORITY`; its value is empty when there is none. `None`: not such a name.
    pub fn virtual_host(&self, name: &str) -> Option<Arc<Resource>> {
        let (route, authority) = name.rsplit_once('/')?;
        let (_, set) = self.route_names_and_set();
        let route = set.get(route).cloned().unwrap_or_else(|| self.route(route));
        let make = || {
            let index =
                self.memo.get(&Key::new(Unit::HostIndex, "").part(&route), || HostIndex::of(&route.value.in_one_run()));
            let value = index.get(authority).map(|host| host.encode_to_vec()).unwrap_or_default();
            self.memo.intern(Resource::new(name, value))
        };
        Some((*self.memo.get(&Key::new(Unit::VirtualHost, name).part(&route), make)).clone())
    }

    /// Endpoints of a cluster that the view does not have, if its name means a service.
    pub fn endpoint(&self, name: &str) -> Option<Arc<Resource>> {
        let found = crate::endpoint::load_assignment(&self.inputs, name)?;
        Some(self.memo.intern(resource(name, &found)))
    }

    /// The name table (NDS).
    pub fn name_table(&self) -> Arc<ResourceSet> {
        let mut made = self.made();
        let (scope, endpoints) = (&self.inputs.view.scope, &self.inputs.snapshot().endpoints);
        if made.names.is_none() {
            let same = self.before.names.as_ref();
            let same = same.filter(|n| Arc::ptr_eq(&n.scope, scope) && n.endpoints.is_same(endpoints));
            made.names = Some(same.cloned().unwrap_or_else(|| {
                let table = crate::name_table(&self.inputs);
                let set: ResourceSet = encoded(vec![table]).map(|r| self.memo.intern(r)).collect();
                Names { set: Arc::new(set), scope: scope.clone(), endpoints: endpoints.clone() }
            }));
        }
        made.names.as_ref().map(|n| Arc::clone(&n.set)).unwrap_or_default()
    }
}

/// A finished name table, with what it was made from.
#[derive(Debug, Clone)]
struct Names {
    set: Arc<ResourceSet>,
    scope: Arc<model::SidecarScope>,
    endpoints: model::SharedMap<model::ServiceKey, Arc<model::ServiceEndpoints>>,
}

impl Made {
    fn or(&self, other: &Made) -> Made {
        Made {
            clusters: self.clusters.clone().or_else(|| other.clusters.clone()),
            endpoints: self.endpoints.clone().or_else(|| other.endpoints.clone()),
            listeners: self.listeners.clone().or_else(|| other.listeners.clone()),
            routes: self.routes.clone().or_else(|| other.routes.clone()),
            names: self.names.clone().or_else(|| other.names.clone()),
        }
    }
}

/// What the makers of this module work with.
pub(crate) struct Context<'a> {
    pub(crate) inputs: &'a Inputs,
    pub(crate) memo: &'a Memo,
    pub(crate) facts: &'a Facts,
}

/// A resource as it is sent.
pub(crate) fn resource(name: &str, message: &impl protos::prost::Message) -> Arc<Resource> {
    Resource::new(name, message.encode_to_vec())
}

/// Named resources as they are sent.
pub fn encoded(list: Vec<NamedResource>) -> impl Iterator<Item = Arc<Resource>> {
    list.into_iter().map(|r| Resource::new(r.name, r.resource.value))
}
