//! Which secrets does a resource name, and where do they and others come from?
//!
//! The compiled configuration knows the names only; here the messages are read once more for the sources.

use prost_types::Any;
use protos::envoy::config::cluster::v3::Cluster;
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3::Listener;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;
use proxy_config::common::ConfigSource;

/// Where a resource is served.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Among the bootstrap's own secrets.
    Static,
    /// The aggregated stream.
    Ads,
    /// A stream of its own to this cluster.
    Grpc {
        /// Cluster.
        cluster: String,
        /// By delta.
        delta: bool,
    },
    /// A file holding a `DiscoveryResponse`.
    File(String),
}

impl Source {
    /// The source that a compiled configuration names.
    pub fn of(source: &ConfigSource) -> Self {
        match source {
            ConfigSource::Ads { .. } => Source::Ads,
            ConfigSource::Grpc { cluster, delta, .. } => Source::Grpc { cluster: cluster.to_string(), delta: *delta },
            ConfigSource::Path(path) => Source::File(path.to_string()),
        }
    }
}

/// A named secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretRef {
    /// Name.
    pub name: String,
    /// Source.
    pub source: Source,
}

impl SecretRef {
    fn of(config: &tls::SdsSecretConfig) -> Self {
        use core::config_source::ConfigSourceSpecifier as Specifier;
        let source = match config.sds_config.as_ref().and_then(|c| c.config_source_specifier.as_ref()) {
            None => Source::Static,
            Some(Specifier::Ads(_) | Specifier::Self_(_)) => Source::Ads,
            Some(Specifier::ApiConfigSource(api)) => {
                let cluster = api.grpc_services.iter().find_map(|s| match &s.target_specifier {
                    Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(g)) => Some(g.cluster_name.clone()),
                    _ => None,
                });
                let delta = api.api_type() == core::api_config_source::ApiType::DeltaGrpc;
                Source::Grpc { cluster: cluster.unwrap_or_default(), delta }
            }
            Some(Specifier::PathConfigSource(path)) => Source::File(path.path.clone()),
            #[allow(deprecated)]
            Some(Specifier::Path(path)) => Source::File(path.clone()),
        };
        Self { name: config.name.clone(), source }
    }
}

fn of_common(common: &tls::CommonTlsContext, out: &mut Vec<SecretRef>) {
    out.extend(common.tls_certificate_sds_secret_configs.iter().map(SecretRef::of));
    use tls::common_tls_context::ValidationContextType as Validation;
    match &common.validation_context_type {
        Some(Validation::ValidationContextSdsSecretConfig(c)) => out.push(SecretRef::of(c)),
        Some(Validation::CombinedValidationContext(c)) => {
            out.extend(c.validation_context_sds_secret_config.iter().map(SecretRef::of));
        }
        _ => {}
    }
}

/// Transport sockets nest (PROXY protocol around TLS); this deep at most.
const NESTING_MAX: usize = 4;

fn of_socket(any: &Any, out: &mut Vec<SecretRef>, depth: usize) {
    if depth == NESTING_MAX {
        return;
    }
    if let Ok(up) = protos::unpack::<tls::UpstreamTlsContext>(any) {
        up.common_tls_context.iter().for_each(|c| of_common(c, out));
    } else if let Ok(down) = protos::unpack::<tls::DownstreamTlsContext>(any) {
        down.common_tls_context.iter().for_each(|c| of_common(c, out));
    } else if let Ok(outer) = protos::unpack::<
        protos::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport,
    >(any)
    {
        outer.transport_socket.iter().for_each(|s| of_transport(s, out, depth + 1));
    } else if let Ok(outer) = protos::unpack::<
        protos::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport,
    >(any)
    {
        outer.transport_socket.iter().for_each(|s| of_transport(s, out, depth + 1));
    }
}

fn of_transport(socket: &core::TransportSocket, out: &mut Vec<SecretRef>, depth: usize) {
    if let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &socket.config_type {
        of_socket(any, out, depth);
    }
}

fn sorted(mut out: Vec<SecretRef>) -> Vec<SecretRef> {
    out.sort();
    out.dedup();
    out
}

/// Secrets of a cluster.
pub fn of_cluster(cluster: &Cluster) -> Vec<SecretRef> {
    let mut out = Vec::new();
    cluster.transport_socket.iter().for_each(|s| of_transport(s, &mut out, 0));
    cluster
        .transport_socket_matches
        .iter()
        .filter_map(|m| m.transport_socket.as_ref())
        .for_each(|s| of_transport(s, &mut out, 0));
    sorted(out)
}

/// Secrets of a listener.
pub fn of_listener(listener: &Listener) -> Vec<SecretRef> {
    let mut out = Vec::new();
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.filter_map(|c| c.transport_socket.as_ref()).for_each(|s| of_transport(s, &mut out, 0));
    sorted(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_certificate_and_trust() {
        let json = serde_json::json!({"name": "c", "transport_socket": {"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": {"api_config_source": {"api_type": "GRPC",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}}}],
                "combined_validation_context": {"default_validation_context": {},
                    "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": {"ads": {}}}}}}}});
        let cluster: Cluster = protos::json::decode_json(&json).expect("valid");
        assert_eq!(
            of_cluster(&cluster),
            [
                SecretRef { name: "ROOTCA".into(), source: Source::Ads },
                SecretRef { name: "default".into(), source: Source::Grpc { cluster: "sds-grpc".into(), delta: false } },
            ]
        );
        assert!(of_listener(&Listener::default()).is_empty());
    }
}
