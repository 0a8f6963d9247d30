//! Which virtual hosts does a proxy get one by one (VHDS)? Those of a route configuration that it asks for by authority,
//! found as the proxy itself would find them, so that both ends agree.

use protos::envoy::config::route::v3::{RouteConfiguration, Vhds, VirtualHost};
use protos::prost::Message as _;
use protos::prost::encoding::{DecodeContext, decode_key, skip_field};
use proxy_config::vhost::DomainIndex;

use crate::Inputs;
use crate::wire::ads;

/// Whether the routes of this name come without their virtual hosts: outbound ports of a sidecar that can ask for them,
/// where the mesh says so. Sniffed ports (`host:port`) have one host each and come whole.
pub fn concerns(inputs: &Inputs, name: &str) -> bool {
    is_on(inputs) && name.parse::<u16>().is_ok()
}

/// Whether the proxy gets any virtual hosts one by one.
pub(crate) fn is_on(inputs: &Inputs) -> bool {
    let proxy = inputs.proxy();
    inputs.mesh().on_demand_virtual_hosts
        && proxy.capabilities.on_demand_hosts
        && proxy.node_type == names::NodeType::Sidecar
}

/// A route configuration without its virtual hosts, and with word of where they are.
pub(crate) fn without_hosts(config: &[u8]) -> Vec<u8> {
    /// `RouteConfiguration.virtual_hosts`
    const VIRTUAL_HOSTS: u32 = 2;
    let mut out = Vec::new();
    let mut rest = config;
    while !rest.is_empty() {
        let field = rest;
        let (number, wire) = decode_key(&mut rest).expect("encoded here");
        skip_field(wire, number, &mut rest, DecodeContext::default()).expect("encoded here");
        if number != VIRTUAL_HOSTS {
            out.extend_from_slice(&field[..field.len() - rest.len()]);
        }
    }
    let vhds = RouteConfiguration { vhds: Some(Vhds { config_source: Some(ads()) }), ..Default::default() };
    vhds.encode(&mut out).expect("a vector grows");
    out
}

/// The virtual hosts of a route configuration by authority.
#[derive(Debug, Default)]
pub(crate) struct HostIndex {
    config: RouteConfiguration,
    domains: DomainIndex,
}

impl HostIndex {
    /// Of an encoded configuration of ours.
    pub(crate) fn of(config: &[u8]) -> Self {
        let config = RouteConfiguration::decode(config).expect("encoded here");
        let mut domains = DomainIndex::default();
        for (number, host) in config.virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                // A patch may have given a domain twice; the proxy would refuse it, and the first one counts.
                let _ = domains.insert(domain, number as u32);
            }
        }
        HostIndex { config, domains }
    }

    /// The virtual host for an authority. The one that takes everything comes for this authority alone: others must
    /// still be asked for.
    pub(crate) fn get(&self, authority: &str) -> Option<VirtualHost> {
        let bytes = authority.as_bytes();
        let host = match self.config.ignore_port_in_host_matching {
            true => &authority[..proxy_core::route::without_port(bytes).len()],
            false => authority,
        };
        let mut found = self.config.virtual_hosts.get(self.domains.find(host.as_bytes())? as usize)?.clone();
        if found.domains.iter().any(|d| d == "*") {
            found.domains = vec![host.to_owned()];
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Vec<u8> {
        let host = |name: &str, domains: &[&str]| VirtualHost {
            name: name.into(),
            domains: domains.iter().map(|d| d.to_string()).collect(),
            ..Default::default()
        };
        RouteConfiguration {
            name: "80".into(),
            virtual_hosts: vec![
                host("web", &["web", "web.a", "10.0.0.1"]),
                host("wild", &["*.example.com"]),
                host("allow_any", &["*"]),
            ],
            ignore_port_in_host_matching: true,
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[test]
    fn hosts_by_authority() {
        let index = HostIndex::of(&config());
        let check = |authority: &str, name: &str, domains: &[&str]| {
            let found = index.get(authority).expect("the last one takes everything");
            assert_eq!((&*found.name, &found.domains.iter().map(|d| &**d).collect::<Vec<_>>()[..]), (name, domains));
        };
        let web = ["web", "web.a", "10.0.0.1"];
        check("WEB.a", "web", &web);
        check("web:8080", "web", &web);
        check("10.0.0.1:80", "web", &web);
        check("x.example.com", "wild", &["*.example.com"]);
        check("unknown.org:80", "allow_any", &["unknown.org"]);
        check("[::1]:80", "allow_any", &["[::1]"]);
        assert!(HostIndex::default().get("web").is_none());
    }

    #[test]
    fn everything_else_stays() {
        let slim = RouteConfiguration::decode(&*without_hosts(&config())).expect("well formed");
        assert_eq!((&*slim.name, slim.virtual_hosts.len(), slim.ignore_port_in_host_matching), ("80", 0, true));
        assert_eq!(slim.vhds.and_then(|v| v.config_source), Some(ads()));
    }
}
