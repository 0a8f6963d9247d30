//! What does an `EnvoyFilter`, `WasmPlugin` or `TrafficExtension` say? Shapes only; patches stay JSON until translation.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::networking::{LabelSelector, PolicyTargetReference, WorkloadSelector};
use crate::shape::Struct;
use crate::{choice, shape};

shape! {
    /// Patches on generated configuration.
    EnvoyFilter {
        workload_selector: Option<WorkloadSelector>, target_refs: Vec<PolicyTargetReference>,
        config_patches: Vec<EnvoyConfigObjectPatch>, priority: i32,
    }
    /// One patch: where, when, what.
    EnvoyConfigObjectPatch { apply_to: ApplyTo, matches = "match": Option<EnvoyConfigObjectMatch>, patch: Option<Patch> }
    /// Conditions of a patch.
    EnvoyConfigObjectMatch {
        context: PatchContext, proxy: Option<ProxyMatch>, listener: Option<ListenerMatch>,
        route_configuration: Option<RouteConfigurationMatch>, cluster: Option<ClusterMatch>,
        waypoint: Option<WaypointMatch>,
    }
    @oneof [listener, route_configuration, cluster, waypoint]
    /// Condition on the proxy. `proxy_version` is an RE2 expression.
    ProxyMatch { proxy_version: String, metadata: BTreeMap<String, String> }
    /// Condition on clusters.
    ClusterMatch { port_number: u32, service: String, subset: String, name: String }
    /// Condition on route configurations.
    RouteConfigurationMatch {
        port_number: u32, port_name: String, gateway: String, vhost: Option<VirtualHostMatch>, name: String,
    }
    /// Condition on virtual hosts.
    VirtualHostMatch { name: String, domain_name: String, route: Option<RouteMatch> }
    /// Condition on routes.
    RouteMatch { name: String, action: RouteAction }
    /// Condition on listeners.
    ListenerMatch {
        port_number: u32, port_name: String, filter_chain: Option<FilterChainMatch>, name: String,
        listener_filter: String,
    }
    /// Condition on filter chains.
    FilterChainMatch {
        name: String, sni: String, transport_protocol: String, application_protocols: String,
        filter: Option<FilterMatch>, destination_port: u32, transport_socket: String,
    }
    /// Condition on filters.
    FilterMatch { name: String, sub_filter: Option<SubFilterMatch> }
    /// Condition on filters within filters.
    SubFilterMatch { name: String }
    /// Condition on waypoints. Read and reported; Istio does not implement it either.
    WaypointMatch { port_number: u32, filter: Option<FilterMatch>, route: Option<WaypointRouteMatch> }
    /// Condition on routes of waypoints.
    WaypointRouteMatch { name: String }
    /// What to do; `value` is the JSON form of the patched message.
    Patch { operation: Operation, value: Option<Struct>, filter_class: FilterClass }

    /// A WebAssembly extension.
    WasmPlugin {
        selector: Option<LabelSelector>, target_ref: Option<PolicyTargetReference>,
        target_refs: Vec<PolicyTargetReference>, url: String, sha256: String, image_pull_policy: PullPolicy,
        image_pull_secret: String, verification_key: String, plugin_config: Option<Struct>, plugin_name: String,
        phase: PluginPhase, priority: Option<i32>, fail_strategy: FailStrategy, vm_config: Option<VmConfig>,
        matches = "match": Vec<TrafficSelector>, kind = "type": PluginType,
    }
    /// Which traffic an extension sees.
    TrafficSelector { mode: WorkloadMode, ports: Vec<PortSelectorNumber> }
    /// A port by number.
    PortSelectorNumber { number: u32 }
    /// The virtual machine.
    VmConfig { env: Vec<EnvVar> }
    /// An environment variable of the virtual machine.
    EnvVar { name: String, value_from: EnvValueSource, value: String }

    /// An extension in WebAssembly or Lua.
    TrafficExtension {
        selector: Option<LabelSelector>, target_refs: Vec<PolicyTargetReference>, phase: ExtensionPhase,
        priority: Option<i32>, matches = "match": Vec<TrafficSelector>, wasm: Option<WasmConfig>, lua: Option<LuaConfig>,
    }
    @oneof [wasm, lua]
    /// Lua source.
    LuaConfig { inline_code: String }
    /// WebAssembly module.
    WasmConfig {
        url: String, sha256: String, image_pull_policy: PullPolicy, image_pull_secret: String,
        verification_key: String, plugin_config: Option<Value>, plugin_name: String, fail_strategy: FailStrategy,
        vm_config: Option<VmConfig>, kind = "type": PluginType,
    }
}

choice! {
    /// Which object is patched.
    ApplyTo {
        Invalid = 0 "INVALID", Listener = 1 "LISTENER", FilterChain = 2 "FILTER_CHAIN",
        NetworkFilter = 3 "NETWORK_FILTER", HttpFilter = 4 "HTTP_FILTER",
        RouteConfiguration = 5 "ROUTE_CONFIGURATION", VirtualHost = 6 "VIRTUAL_HOST", HttpRoute = 7 "HTTP_ROUTE",
        Cluster = 8 "CLUSTER", ExtensionConfig = 9 "EXTENSION_CONFIG", Bootstrap = 10 "BOOTSTRAP",
        ListenerFilter = 11 "LISTENER_FILTER",
    }
    /// For which side of which proxy.
    PatchContext {
        Any = 0 "ANY", SidecarInbound = 1 "SIDECAR_INBOUND", SidecarOutbound = 2 "SIDECAR_OUTBOUND",
        Gateway = 3 "GATEWAY", Waypoint = 4 "WAYPOINT",
    }
    /// Action of a matched route.
    RouteAction { Any = 0 "ANY", Route = 1 "ROUTE", Redirect = 2 "REDIRECT", DirectResponse = 3 "DIRECT_RESPONSE" }
    /// What a patch does.
    Operation {
        Invalid = 0 "INVALID", Merge = 1 "MERGE", Add = 2 "ADD", Remove = 3 "REMOVE", InsertBefore = 4 "INSERT_BEFORE",
        InsertAfter = 5 "INSERT_AFTER", InsertFirst = 6 "INSERT_FIRST", Replace = 7 "REPLACE",
        MergeAndReplaceList = 8 "MERGE_AND_REPLACE_LIST",
    }
    /// Where an added filter goes.
    FilterClass { Unspecified = 0 "UNSPECIFIED", Authn = 1 "AUTHN", Authz = 2 "AUTHZ", Stats = 3 "STATS" }
    /// When an image is pulled.
    PullPolicy { Unspecified = 0 "UNSPECIFIED_POLICY", IfNotPresent = 1 "IfNotPresent", Always = 2 "Always" }
    /// Where a plugin goes.
    PluginPhase { Unspecified = 0 "UNSPECIFIED_PHASE", Authn = 1 "AUTHN", Authz = 2 "AUTHZ", Stats = 3 "STATS" }
    /// Where an extension goes.
    ExtensionPhase { Unspecified = 0 "UNSPECIFIED", Authn = 1 "AUTHN", Authz = 2 "AUTHZ", Stats = 3 "STATS" }
    /// What happens when a plugin fails.
    FailStrategy { FailClose = 0 "FAIL_CLOSE", FailOpen = 1 "FAIL_OPEN", FailReload = 2 "FAIL_RELOAD" }
    /// Kind of plugin.
    PluginType { Unspecified = 0 "UNSPECIFIED_PLUGIN_TYPE", Http = 1 "HTTP", Network = 2 "NETWORK" }
    /// Direction of traffic.
    WorkloadMode { Undefined = 0 "UNDEFINED", Client = 1 "CLIENT", Server = 2 "SERVER", ClientAndServer = 3 "CLIENT_AND_SERVER" }
    /// Where the value of a variable comes from.
    EnvValueSource { Inline = 0 "INLINE", Host = 1 "HOST" }
}
