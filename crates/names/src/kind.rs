//! Which kinds of resources exist, and how are they named on the wire and on the command line?

use std::fmt;
use std::sync::Arc;

/// Group, version and kind as written in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gvk {
    /// API group; empty for the core group.
    pub group: Arc<str>,
    /// Version, such as `v1`.
    pub version: Arc<str>,
    /// Kind, such as `Service`.
    pub kind: Arc<str>,
}

impl Gvk {
    /// Splits `apiVersion` (`networking.istio.io/v1` or `v1`).
    pub fn new(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Gvk { group: group.into(), version: version.into(), kind: kind.into() }
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.group.is_empty() {
            write!(f, "{}/", self.group)?;
        }
        write!(f, "{}/{}", self.version, self.kind)
    }
}

macro_rules! kinds {
    ($( $(#[$doc:meta])* $variant:ident = $group:literal [$($version:literal),+] $plural:literal [$($short:literal),*] $scope:ident; )*) => {
        /// A kind this mesh knows; everything else is [`Kind::Other`] and is kept as it was written.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $( $(#[$doc])* $variant, )*
            /// A kind without meaning here.
            Other(Arc<Gvk>),
        }

        impl Kind {
            /// All known kinds.
            pub const KNOWN: &'static [Kind] = &[$(Kind::$variant),*];

            /// The kind's name (`VirtualService`).
            pub fn name(&self) -> &str {
                match self { $(Kind::$variant => stringify!($variant),)* Kind::Other(gvk) => &gvk.kind }
            }

            /// The API group; empty for core.
            pub fn group(&self) -> &str {
                match self { $(Kind::$variant => $group,)* Kind::Other(gvk) => &gvk.group }
            }

            /// Versions read, preferred first.
            pub fn versions(&self) -> &[&'static str] {
                match self { $(Kind::$variant => &[$($version),+],)* Kind::Other(_) => &[] }
            }

            /// The lower-case plural of the resource (`virtualservices`).
            pub fn plural(&self) -> String {
                match self {
                    $(Kind::$variant => $plural.to_owned(),)*
                    Kind::Other(gvk) => format!("{}s", gvk.kind.to_ascii_lowercase()),
                }
            }

            /// Abbreviations of the command line (`vs`).
            pub fn short_names(&self) -> &'static [&'static str] {
                match self { $(Kind::$variant => &[$($short),*],)* Kind::Other(_) => &[] }
            }

            /// Whether resources of this kind live in a namespace.
            pub fn is_namespaced(&self) -> bool {
                match self { $(Kind::$variant => kinds!(@scope $scope),)* Kind::Other(_) => true }
            }
        }
    };
    (@scope namespaced) => { true };
    (@scope cluster) => { false };
}

kinds! {
    /// A namespace.
    Namespace = "" ["v1"] "namespaces" ["ns"] cluster;
    /// A service.
    Service = "" ["v1"] "services" ["svc"] namespaced;
    /// Endpoints, the older form.
    Endpoints = "" ["v1"] "endpoints" ["ep"] namespaced;
    /// Endpoints of a service, in slices.
    EndpointSlice = "discovery.k8s.io" ["v1"] "endpointslices" [] namespaced;
    /// A pod.
    Pod = "" ["v1"] "pods" ["po"] namespaced;
    /// A node.
    Node = "" ["v1"] "nodes" ["no"] cluster;
    /// A service account.
    ServiceAccount = "" ["v1"] "serviceaccounts" ["sa"] namespaced;
    /// Plain configuration data.
    ConfigMap = "" ["v1"] "configmaps" ["cm"] namespaced;
    /// Secret data.
    Secret = "" ["v1"] "secrets" [] namespaced;
    /// Replicated pods, the oldest form.
    ReplicationController = "" ["v1"] "replicationcontrollers" ["rc"] namespaced;
    /// Replicated pods.
    Deployment = "apps" ["v1", "v1beta1", "v1beta2"] "deployments" ["deploy"] namespaced;
    /// One generation of a deployment.
    ReplicaSet = "apps" ["v1"] "replicasets" ["rs"] namespaced;
    /// Pods with stable names.
    StatefulSet = "apps" ["v1"] "statefulsets" ["sts"] namespaced;
    /// One pod per node.
    DaemonSet = "apps" ["v1"] "daemonsets" ["ds"] namespaced;
    /// Pods that run to completion.
    Job = "batch" ["v1"] "jobs" [] namespaced;
    /// Jobs by the clock.
    CronJob = "batch" ["v1", "v1beta1", "v2alpha1"] "cronjobs" ["cj"] namespaced;
    /// Routing rules.
    VirtualService = "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "virtualservices" ["vs"] namespaced;
    /// Policies after routing.
    DestinationRule = "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "destinationrules" ["dr"] namespaced;
    /// Ports of an edge proxy.
    Gateway = "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "gateways" ["gw"] namespaced;
    /// Services outside of the registry.
    ServiceEntry = "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "serviceentries" ["se"] namespaced;
    /// One workload outside of Kubernetes.
    WorkloadEntry = "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "workloadentries" ["we"] namespaced;
    /// A template for workload entries.
    WorkloadGroup = "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "workloadgroups" ["wg"] namespaced;
    /// What a sidecar may see.
    Sidecar = "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] "sidecars" [] namespaced;
    /// Patches on generated proxy configuration.
    EnvoyFilter = "networking.istio.io" ["v1alpha3"] "envoyfilters" [] namespaced;
    /// Start-up settings of proxies.
    ProxyConfig = "networking.istio.io" ["v1beta1"] "proxyconfigs" [] namespaced;
    /// Who may do what.
    AuthorizationPolicy = "security.istio.io" ["v1", "v1beta1"] "authorizationpolicies" ["ap"] namespaced;
    /// Mutual TLS requirements.
    PeerAuthentication = "security.istio.io" ["v1", "v1beta1"] "peerauthentications" ["pa"] namespaced;
    /// Accepted end-user tokens.
    RequestAuthentication = "security.istio.io" ["v1", "v1beta1"] "requestauthentications" ["ra"] namespaced;
    /// What is measured, traced and logged.
    Telemetry = "telemetry.istio.io" ["v1", "v1alpha1"] "telemetries" ["telemetry"] namespaced;
    /// WebAssembly extensions.
    WasmPlugin = "extensions.istio.io" ["v1alpha1"] "wasmplugins" [] namespaced;
    /// WebAssembly and Lua extensions.
    TrafficExtension = "extensions.istio.io" ["v1alpha1"] "trafficextensions" [] namespaced;
}

impl Kind {
    /// The known kind of a manifest's `apiVersion` and `kind`, whatever the version; else [`Kind::Other`].
    pub fn of(api_version: &str, kind: &str) -> Kind {
        let gvk = Gvk::new(api_version, kind);
        // The API groups that old manifests still use for workloads.
        let group = match &*gvk.group {
            "extensions" if matches!(kind, "Deployment" | "DaemonSet" | "ReplicaSet") => "apps",
            other => other,
        };
        Kind::KNOWN
            .iter()
            .find(|k| k.name() == kind && k.group() == group)
            .cloned()
            .unwrap_or_else(|| Kind::Other(Arc::new(gvk)))
    }

    /// The kind meant by a command-line word: name, plural, singular or abbreviation, in any case,
    /// optionally followed by `.group`.
    pub fn from_word(word: &str) -> Option<Kind> {
        let word = word.to_ascii_lowercase();
        let (word, group) = word.split_once('.').map_or((word.as_str(), None), |(w, g)| (w, Some(g)));
        Kind::KNOWN
            .iter()
            .find(|k| {
                let named =
                    k.name().to_ascii_lowercase() == word || k.plural() == word || k.short_names().contains(&word);
                named && group.is_none_or(|g| g == k.group())
            })
            .cloned()
    }

    /// The preferred `apiVersion`.
    pub fn api_version(&self) -> String {
        match self {
            Kind::Other(gvk) if gvk.group.is_empty() => gvk.version.to_string(),
            Kind::Other(gvk) => format!("{}/{}", gvk.group, gvk.version),
            _ => {
                let version = self.versions()[0];
                if self.group().is_empty() { version.to_owned() } else { format!("{}/{}", self.group(), version) }
            }
        }
    }

    /// Whether the kind belongs to one of Istio's API groups.
    pub fn is_istio(&self) -> bool {
        self.group().ends_with(".istio.io")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Identifies one resource, whatever the API version it was written in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// The kind.
    pub kind: Kind,
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ResourceKey {
    /// Puts the parts together; the namespace of a cluster-scoped kind is dropped.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.is_namespaced() { namespace } else { "" };
        ResourceKey { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert_eq!(Kind::of("networking.istio.io/v1alpha3", "VirtualService"), Kind::VirtualService);
        assert_eq!(Kind::of("extensions/v1beta1", "Deployment"), Kind::Deployment);
        assert!(matches!(Kind::of("gateway.networking.k8s.io/v1", "Gateway"), Kind::Other(_)));
        for word in ["vs", "virtualservice", "VirtualServices", "virtualservices.networking.istio.io"] {
            assert_eq!(Kind::from_word(word), Some(Kind::VirtualService), "{word}");
        }
        assert_eq!(Kind::from_word("gateways.gateway.networking.k8s.io"), None);
        assert_eq!(Kind::VirtualService.api_version(), "networking.istio.io/v1");
        assert_eq!(ResourceKey::new(Kind::Namespace, "x", "a").to_string(), "Namespace a");
        assert_eq!(ResourceKey::new(Kind::Service, "x", "a").to_string(), "Service x/a");
    }
}
