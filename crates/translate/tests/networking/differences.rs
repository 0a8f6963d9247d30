//! Tables and rows of the original that differ here on purpose: details of its implementation, and what comes later.
//! Each table has its line in docs/differences.md.

use serde_json::Value;

/// Tables by the reason for which they are not compared.
pub const TABLES: [(&str, &[&str]); 7] = [
    (
        "not there yet, or decided otherwise",
        &[
            "Test_parseIstioVersion",
            "TestProxyVersion_Compare",
            "TestZipkinConfigVersionGating",
            "TestZipkinConfigTimeoutHeadersVersionGating",
            "TestBuildAllowAnyDFPClusterTLSSettings",
            "TestBuildAllowAnyDynamicDNSDNSCacheConfig",
            "TestIsAllowAnyDynamicDNSOutbound",
        ],
    ),
    (
        "switched off by default",
        &[
            "TestStatefulSessionFilterConfig",
            "TestSidecarStatefulsessionFilter",
            "TestRedisProtocolWithPassThroughResolutionAtGateway",
            "TestGetDualStackActualWildcard",
            "TestGetDualStackLocalHost",
        ],
    ),
    (
        "Wasm and TrafficExtension",
        &[
            "TestBuildDataSource",
            "TestBuildVMConfig",
            "TestFailurePolicy",
            "TestConvertToTrafficExtensionWrapper",
            "TestTrafficExtensionWrapper_MatchType",
            "TestMatchListener",
            "TestTrafficExtensions",
            "TestBuildHTTPLuaFilter",
            "TestToEnvoyHTTPTrafficExtension",
            "TestToEnvoyNetworkTrafficExtension",
            "TestBuildHTTPWasmFilter",
            "TestBuildNetworkWasmFilter",
            "TestInsertedTrafficExtensionConfigurations_WasmURLs",
        ],
    ),
    (
        "ambient, Gateway API and several networks",
        &[
            "TestWaypointInternalMultiNetworkAddresses",
            "TestXFCCIncludeClientIdentityEnabled",
            "TestWaypointInboundRouteHashPolicy",
            "TestConfigureCustomTagsForWaypoint",
            "TestWaypointKeyForProxy",
            "TestApplyUpstreamTLSSettingsHBONE",
            "TestServiceInfoVisibilityCondition",
            "TestBuildListener_FactoryKey",
            "TestBuildClustersForInferencePoolServices",
            "TestFilterStrictGatewayMerging",
            "TestSetDestinationRuleBackendPolicyMerging",
            "TestIsClusterLocal",
            "TestProxyView",
            "TestMeshNetworksToEnvoyInternalAddressConfig",
            "TestHCMInternalAddressConfig",
            "TestUseRemoteAddressInternalAddressConfig",
            "TestGatewayHCMInternalAddressConfig",
        ],
    ),
    (
        "xDS for gRPC without a proxy",
        &[
            "TestApplyCircuitBreakers",
            "TestApplyLoadBalancing",
            "TestGRPCRDSVirtualHostFiltering",
            "TestGRPCRDSWithVirtualService",
            "TestGRPCRDSSubsetRouteFiltering",
            "TestGRPCRDSSameShortNameDifferentNamespaces",
            "TestListenerNameFilter",
            "TestTryFindFQDN",
            "TestFilterVirtualHostsForHostname",
        ],
    ),
    (
        "conditions in the status of resources of the Gateway API",
        &[
            "TestUpdateConditionIfChanged",
            "TestGetCondition",
            "TestRemoveCondition",
            "TestCreateCondition",
            "TestInvertStatus",
        ],
    ),
    (
        "data structures of the original",
        &[
            "TestString",
            "TestEventString",
            "TestAddressMapLen",
            "TestConsolidatedDestRuleEquals",
            "TestUpdateServiceAccount",
            "TestUpdateServiceEndpoints",
            "TestWorkloadInstanceEqual",
            "Test_computedTelemetries_Equal",
            "Test_appendApplicableTelemetries",
            "TestCidrRangeSliceEqual",
            "TestByteCount",
            "TestIsLocalityEmpty",
            "TestCleanupEmptyMaps",
            "TestCloneVhostRouteByRouteIndex",
            "TestKeysApplyingTo",
            "TestEnvoyFilterUpdate",
            "TestServiceInstanceValidate",
            "TestServiceValidate",
            "TestFilterPeerAuthenticationNamespaces",
            "TestIsHttp2Cluster",
            "TestGetEndpointHost",
            "TestGetHeaderValue",
            "TestSelectServicesExactParity",
            "TestSecretResourceKey",
            "TestToKubernetesGatewayResource",
            "TestApplyEdsConfig",
            "TestReplaceAndInsert",
        ],
    ),
];

/// Tables of which some or all rows have no runner, by the reason.
pub const NOT_SERVED: [(&str, &[&str]); 6] = [
    (
        "their world or what they expect is in the original's test code only",
        &[
            "TestApplyListenerPatches",
            "TestApplyRouteConfigurationPatches",
            "TestBuildHTTPRoutes",
            "TestClusterPatching",
            "TestCommonHttpProtocolOptions",
            "TestControllerMergeVirtualServices",
            "TestCreateSidecarScope",
            "TestGatewayFilterChainSNIOverlap",
            "TestGetAutoPassthroughSNIHosts",
            "TestInboundHTTPListenerConfig",
            "TestInsertedExtensionConfig",
            "TestListenerBuilderPatchListeners",
            "TestMergeAndReplaceListVhost",
            "TestMergeGateways",
            "TestMergeGatewaysHttpsFirstBug",
            "TestMergeHttpRoutes",
            "TestOutboundListenerForExternalServices",
            "TestPatchHTTPRoute",
            "TestVirtualServiceWithDefaultExportTo",
            "TestXDSPushSuppression",
        ],
    ),
    (
        "they turn a switch of the original's environment that is not there",
        &[
            "TestApplyLoadBalancer",
            "TestClusterDnsConfig",
            "TestListenerTransportSocketConnectTimeoutForGateway",
            "TestSupportsUnhealthyEndpoints",
        ],
    ),
    (
        "they look at a structure between configuration and result that is not there",
        &[
            "TestAddSubsetToMetadata",
            "TestApplyJSON",
            "TestApplyLocalitySetting",
            "TestBuildDefaultCluster",
            "TestCreateGatewayHTTPFilterChainOpts",
            "TestGetInterval",
            "TestInboundConnectionPoolForPort",
            "TestIsAllowAnyOutbound",
            "TestMergeMetrics",
            "TestServiceNode",
            "TestTelemetryMetadata",
            "TestTranslateRequestMirrorPolicy",
        ],
    ),
    (
        "what may matter is decided more widely: content decides what is sent",
        &["TestContainsEgressDependencies", "TestNeedsPush"],
    ),
    ("patches match facts that a message alone does not hold", &["Test_clusterMatch", "Test_routeConfigurationMatch"]),
    (
        "waypoints and several networks come later",
        &["TestBuildLocalityLbEndpoints", "TestConfigureTracing", "TestEnvoyFilters", "TestInboundHTTPRouteConfig"],
    ),
];

/// Why rows of a table have no runner, if it is known.
pub fn not_served(func: &str) -> Option<&'static str> {
    NOT_SERVED.iter().find(|(_, tables)| tables.contains(&func)).map(|(reason, _)| *reason)
}

/// Whether a table is not compared.
pub fn is_listed(func: &str) -> bool {
    TABLES.iter().any(|(_, tables)| tables.contains(&func))
}

/// Rows that differ for a reason of docs/differences.md: what has no effect here, or an input that the data does not
/// hold because the original changes it in a function of its test.
pub fn is_on_purpose(func: &str, v: &Value) -> bool {
    match func {
        "TestAuthorizationPolicies_ListAuthorizationPolicies" => v.to_string().contains("protomarshal.Clone"),
        "TestPolicyMatcher" => v["selection"].is_null() || v["selection"].get("$call").is_some(),
        // `serviceEntryVisibility` is accepted without effect.
        "TestIsServiceVisible" => !v["pushContext"]["Mesh"]["serviceEntryVisibility"].is_null(),
        // What is sent again is decided by content, not by the kind of what changed.
        "TestBuildDeltaClusters" | "TestBuildDeltaClustersForFilteredGateway" => {
            let updated = v["configUpdated"].as_array();
            updated.is_some_and(|u| u.iter().all(|k| k["Kind"]["$ref"] == "kind.PeerAuthentication"))
        }
        // Ports of services in other clusters: one cluster here.
        "TestServicesEqual" => v.to_string().contains("ClusterExternalPorts"),
        // Waypoints come later.
        "TestTelemetryFilters" | "TestInboundHTTPRouteConfig" => {
            v["proxy"]["Type"].to_string().to_lowercase().contains("waypoint")
        }
        "TestBuildGatewayListenersFilters" => v.to_string().contains("TrafficExtension"),
        // `ISTIO_DUAL_STACK` is not there: a proxy of both families uses IPv4.
        _ if v["dualStack"] == true => true,
        "TestGetAddressForProxy" => v["proxy"]["ipMode"]["$ref"] == "pm.Dual",
        _ => false,
    }
}
