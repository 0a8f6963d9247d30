//! Which resource types are there, in which order are they pushed, and which wait for which?

use std::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $short:literal, $url:literal;)*) => {
        /// A type of xDS resource. The order of the variants is the order of pushing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// All known types in push order.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The type behind a type URL. `None`: we serve no such type.
            pub fn from_type_url(url: &str) -> Option<Kind> {
                match url { $($url => Some(Kind::$name),)* _ => None }
            }

            /// The type URL as Envoy sends it.
            pub fn type_url(self) -> &'static str {
                match self { $(Kind::$name => $url,)* }
            }

            /// The abbreviation of logs and metrics (`CDS`).
            pub fn short(self) -> &'static str {
                match self { $(Kind::$name => $short,)* }
            }
        }
    };
}

kinds! {
    /// Clusters.
    Cluster = "CDS", "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// Endpoints of clusters, by cluster name.
    Endpoint = "EDS", "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// Listeners.
    Listener = "LDS", "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// Route configurations, by name.
    Route = "RDS", "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    /// Scoped routes.
    ScopedRoute = "SRDS", "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
    /// Virtual hosts on demand.
    VirtualHost = "VHDS", "type.googleapis.com/envoy.config.route.v3.VirtualHost";
    /// Certificates, keys and trusted roots.
    Secret = "SDS", "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    /// Filter configurations delivered on their own.
    Extension = "ECDS", "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
    /// Istio's name table for the agent's DNS proxy.
    NameTable = "NDS", "type.googleapis.com/istio.networking.nds.v1.NameTable";
    /// Istio's mesh-wide proxy configuration (trusted roots) for the agent.
    ProxyConfig = "PCDS", "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig";
    /// Runtime layers.
    Runtime = "RTDS", "type.googleapis.com/envoy.service.runtime.v3.Runtime";
    /// Workload health reported by the agent; requests only.
    Health = "HDS", "type.googleapis.com/istio.v1.HealthInformation";
}

impl Kind {
    /// A first request without names asks for everything (xDS "legacy wildcard").
    pub fn is_wildcard_by_default(self) -> bool {
        !matches!(
            self,
            Kind::Endpoint | Kind::Route | Kind::VirtualHost | Kind::Secret | Kind::Extension | Kind::Health
        )
    }

    /// In state of the world a response of this type lists everything; what it leaves out is gone.
    pub fn is_full_state(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}
