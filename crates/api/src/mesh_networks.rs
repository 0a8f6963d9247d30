//! Which networks does the mesh span? `MeshNetworks`, as istio.io/api/mesh/v1alpha1 has it.

use std::collections::BTreeMap;

use crate::shape;

shape! {
    /// All networks, by name.
    MeshNetworks { networks: BTreeMap<String, Network> }
    /// One network: who is in it, and through which gateways others reach it.
    Network { endpoints: Vec<NetworkEndpoints>, gateways: Vec<IstioNetworkGateway> }
    /// Endpoints by address range or by the cluster they come from.
    NetworkEndpoints { from_cidr: Option<String>, from_registry: Option<String> }
    @oneof [from_cidr, from_registry]
    /// A gateway by service or address.
    IstioNetworkGateway {
        registry_service_name: Option<String>, address: Option<String>, port: u32, locality: String,
    }
    @oneof [registry_service_name, address]
}
