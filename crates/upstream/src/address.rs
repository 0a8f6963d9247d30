//! How do addresses and localities look as protobuf? For event logs and `/clusters`.

use protos::envoy::config::core::v3 as core;
use proxy_config::cluster::Locality;
use proxy_config::common::Address;

/// An address in protobuf's form.
pub fn proto(address: &Address) -> core::Address {
    use core::address::Address as Proto;
    use core::socket_address::PortSpecifier;
    let socket = |address: String, port: u16| {
        Proto::SocketAddress(core::SocketAddress {
            address,
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })
    };
    let inner = match address {
        Address::Socket(a) => socket(a.ip().to_string(), a.port()),
        Address::Dns { host, port } => socket(host.to_string(), *port),
        Address::Pipe { path, mode } => Proto::Pipe(core::Pipe { path: path.to_string(), mode: *mode }),
        Address::Internal { listener, endpoint_id } => Proto::EnvoyInternalAddress(core::EnvoyInternalAddress {
            address_name_specifier: Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(
                listener.to_string(),
            )),
            endpoint_id: endpoint_id.to_string(),
        }),
    };
    core::Address { address: Some(inner) }
}

/// A locality in protobuf's form.
pub fn locality(l: &Locality) -> core::Locality {
    core::Locality { region: l.region.to_string(), zone: l.zone.to_string(), sub_zone: l.sub_zone.to_string() }
}
