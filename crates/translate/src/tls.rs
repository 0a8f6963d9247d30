//! Which TLS does a connection speak? Mesh mTLS on both sides, gateway and sidecar-ingress termination, and
//! origination by destination rules. Secrets are referred to by SDS name, never inlined.

use model::{MeshConfig, Proxy};
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;
use protos::envoy::r#type::matcher::v3::StringMatcher;
use protos::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use api::destination_rule::{Tls as ClientTls, TlsMode};
use api::networking::{ServerTls, ServerTlsMode, TlsProtocol};

use crate::Inputs;
use crate::wire::{ads, any, duration, exact_matchers, no_timeout, string_matcher, transport_socket};

/// Name of the TLS transport socket.
pub const TLS_SOCKET: &str = "envoy.transport_sockets.tls";
/// ALPN of TCP with metadata exchange between workloads.
pub const ALPN_PEER_EXCHANGE: &str = "istio-peer-exchange";
/// ALPNs that mark mesh mTLS, for filter chain matches.
pub const MTLS_ALPNS: [&str; 5] = ["istio", ALPN_PEER_EXCHANGE, "istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPNs of mesh mTLS whose payload is HTTP.
pub const MTLS_HTTP_ALPNS: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPNs of mesh mTLS whose payload may be anything.
pub const MTLS_TCP_ALPNS: [&str; 2] = [ALPN_PEER_EXCHANGE, "istio"];
/// ALPNs the HTTP inspector detects.
pub const PLAINTEXT_HTTP_ALPNS: [&str; 2] = ["http/1.1", "h2c"];

const CIPHERS: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// Credentials the proxy fetches from the control plane start with this.
pub const KUBERNETES_SECRET: &str = "kubernetes://";
/// The same, always with a namespace.
pub const KUBERNETES_GATEWAY: &str = "kubernetes-gateway://";
/// CA bundles in ConfigMaps start with this.
pub const KUBERNETES_CONFIGMAP: &str = "configmap://";
/// Credentials of an external SDS server start with this.
pub const EXTERNAL_SDS: &str = "sds://";
/// Suffix of the secret that holds the CA beside a server certificate.
pub const CA_SUFFIX: &str = "-cacert";

/// Owned copies of an ALPN list.
pub fn alpns(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn sds_cluster(cluster: &str) -> core::ConfigSource {
    let grpc = core::GrpcService {
        target_specifier: Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    let source = core::ApiConfigSource {
        api_type: core::api_config_source::ApiType::Grpc as i32,
        transport_api_version: core::ApiVersion::V3 as i32,
        grpc_services: vec![grpc],
        set_node_on_first_message_only: true,
        ..Default::default()
    };
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::ApiConfigSource(source)),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

/// A secret served by the agent (`default`, `ROOTCA`, `file-cert:…`). The workload's own are waited for, as without
/// them nothing works.
pub fn agent_secret(name: &str) -> tls::SdsSecretConfig {
    let mut source = sds_cluster(names::well_known::SDS_CLUSTER);
    if [names::well_known::SDS_DEFAULT, names::well_known::SDS_ROOTCA].contains(&name) {
        source.initial_fetch_timeout = Some(no_timeout());
    }
    tls::SdsSecretConfig { name: name.to_owned(), sds_config: Some(source) }
}

/// A secret by the name of a credential: the workload's own (`builtin://`), an external SDS server's (`sds://`), else
/// the control plane's, from a Kubernetes secret. `None` without a name.
pub fn credential_secret(name: &str, inputs: &Inputs) -> Option<tls::SdsSecretConfig> {
    match name {
        "" => return None,
        "builtin://" => return Some(agent_secret(names::well_known::SDS_DEFAULT)),
        "builtin://-cacert" => return Some(agent_secret(names::well_known::SDS_ROOTCA)),
        _ => {}
    }
    if name.starts_with(EXTERNAL_SDS)
        && let Some(cluster) = external_sds(inputs)
    {
        return Some(tls::SdsSecretConfig { name: name.to_owned(), sds_config: Some(sds_cluster(&cluster)) });
    }
    let mut source = ads();
    source.initial_fetch_timeout = None;
    Some(tls::SdsSecretConfig { name: resource_name(name), sds_config: Some(source) })
}

/// The cluster of the external SDS server: the socket beside the proxy, else the mesh's `sds` provider.
fn external_sds(inputs: &Inputs) -> Option<String> {
    if inputs.proxy().metadata_text("credential") == "true" {
        return Some(crate::cluster::fixed::EXTERNAL_SDS.to_owned());
    }
    let provider = inputs.mesh().extension_providers.iter().find(|p| p.kind == "sds")?;
    crate::access_log::provider_cluster(inputs, &provider.config).map(|(cluster, _)| cluster)
}

/// The SDS name of a credential: `kubernetes://NAME` unless it carries a scheme already.
pub fn resource_name(credential: &str) -> String {
    if credential.contains("://") { credential.to_owned() } else { format!("{KUBERNETES_SECRET}{credential}") }
}

/// Files with a certificate, as metadata of the proxy or a server's settings name them; empty ones mean the identity
/// that the agent keeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct CertFiles<'a> {
    /// Certificate chain.
    pub chain: &'a str,
    /// Private key.
    pub key: &'a str,
    /// Trust anchors.
    pub root: &'a str,
}

impl<'a> CertFiles<'a> {
    /// What a proxy serves with (`TLS_SERVER_*` of its metadata).
    pub fn server(proxy: &'a Proxy) -> Self {
        let text = |k| proxy.metadata_text(k);
        CertFiles {
            chain: text("TLS_SERVER_CERT_CHAIN"),
            key: text("TLS_SERVER_KEY"),
            root: text("TLS_SERVER_ROOT_CERT"),
        }
    }

    /// What a proxy connects with (`TLS_CLIENT_*` of its metadata), when it has both halves.
    pub fn client(proxy: &'a Proxy) -> Option<Self> {
        let text = |k| proxy.metadata_text(k);
        let files = CertFiles {
            chain: text("TLS_CLIENT_CERT_CHAIN"),
            key: text("TLS_CLIENT_KEY"),
            root: text("TLS_CLIENT_ROOT_CERT"),
        };
        (!files.chain.is_empty() && !files.key.is_empty()).then_some(files)
    }

    fn certificate(&self) -> tls::SdsSecretConfig {
        if self.chain.is_empty() || self.key.is_empty() {
            return agent_secret(names::well_known::SDS_DEFAULT);
        }
        agent_secret(&format!("file-cert:{}~{}", self.chain, self.key))
    }

    fn anchors(&self) -> tls::SdsSecretConfig {
        if self.root.is_empty() {
            return agent_secret(names::well_known::SDS_ROOTCA);
        }
        agent_secret(&format!("file-root:{}", self.root))
    }

    /// A context that serves with these files; `verify`: what clients' certificates must be, if they are asked for.
    pub fn context(&self, verify: Option<tls::CertificateValidationContext>) -> tls::CommonTlsContext {
        tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![self.certificate()],
            validation_context_type: verify.map(|v| combined(v, self.anchors())),
            ..Default::default()
        }
    }
}

fn combined(
    defaults: tls::CertificateValidationContext,
    ca: tls::SdsSecretConfig,
) -> tls::common_tls_context::ValidationContextType {
    tls::common_tls_context::ValidationContextType::CombinedValidationContext(
        tls::common_tls_context::CombinedCertificateValidationContext {
            default_validation_context: Some(defaults),
            validation_context_sds_secret_config: Some(ca),
            ..Default::default()
        },
    )
}

#[allow(deprecated)]
fn sans(names: &[String]) -> tls::CertificateValidationContext {
    tls::CertificateValidationContext { match_subject_alt_names: exact_matchers(names), ..Default::default() }
}

/// The trust domain and its aliases, each once.
pub fn trust_domains(mesh: &MeshConfig) -> Vec<String> {
    let mut domains: Vec<String> = Vec::new();
    for d in std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases) {
        if !domains.contains(d) {
            domains.push(d.clone());
        }
    }
    domains
}

/// Identities of these trust domains.
#[allow(deprecated)]
pub fn trust_domain_sans(domains: &[String]) -> tls::CertificateValidationContext {
    let prefix = |d: &String| -> StringMatcher { string_matcher(MatchPattern::Prefix(format!("spiffe://{d}/"))) };
    tls::CertificateValidationContext {
        match_subject_alt_names: domains.iter().map(prefix).collect(),
        ..Default::default()
    }
}

fn downstream_socket(context: &tls::DownstreamTlsContext) -> core::TransportSocket {
    transport_socket(TLS_SOCKET, any(context))
}

/// The server side of mesh mTLS.
/// Peer exchange is offered only by proxies that have it: a client that negotiates it waits for metadata.
pub fn inbound_context(mesh: &MeshConfig, proxy: &Proxy, peer_exchange: bool) -> tls::DownstreamTlsContext {
    use tls::tls_parameters::TlsProtocol as P;
    let alpn: &[&str] = if peer_exchange { &[ALPN_PEER_EXCHANGE, "h2", "http/1.1"] } else { &["h2", "http/1.1"] };
    let minimum = if mesh.mesh_mtls_tls13 { P::TlSv13 } else { P::TlSv12 };
    let ciphers =
        if mesh.mesh_mtls_cipher_suites.is_empty() { alpns(&CIPHERS) } else { mesh.mesh_mtls_cipher_suites.clone() };
    tls::DownstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(tls::TlsParameters {
                tls_minimum_protocol_version: minimum as i32,
                tls_maximum_protocol_version: P::TlSv13 as i32,
                cipher_suites: ciphers,
                ecdh_curves: mesh.mesh_mtls_ecdh_curves.clone(),
                ..Default::default()
            }),
            alpn_protocols: alpns(alpn),
            ..CertFiles::server(proxy).context(Some(trust_domain_sans(&trust_domains(mesh))))
        }),
        require_client_certificate: Some(true),
        ..Default::default()
    }
}

/// The transport socket of [`inbound_context`].
pub fn inbound_mtls(mesh: &MeshConfig, proxy: &Proxy, peer_exchange: bool) -> core::TransportSocket {
    downstream_socket(&inbound_context(mesh, proxy, peer_exchange))
}

fn protocol(version: TlsProtocol) -> tls::tls_parameters::TlsProtocol {
    use tls::tls_parameters::TlsProtocol as P;
    match version {
        TlsProtocol::Auto => P::TlsAuto,
        TlsProtocol::V1_0 => P::TlSv10,
        TlsProtocol::V1_1 => P::TlSv11,
        TlsProtocol::V1_2 => P::TlSv12,
        TlsProtocol::V1_3 => P::TlSv13,
    }
}

/// Suites Envoy's BoringSSL knows; others are dropped, as it would reject the listener for one of them.
const KNOWN_CIPHERS: [&str; 16] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-PSK-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-PSK-AES128-CBC-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-PSK-AES256-CBC-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
];

/// The suites to use out of those written, each once.
pub fn known_ciphers(written: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for suite in written {
        let known = KNOWN_CIPHERS.contains(&suite.as_str()) || suite == "AES256-SHA" || suite == "DES-CBC3-SHA";
        if known && !out.contains(suite) {
            out.push(suite.clone());
        }
    }
    out
}

/// Parameters that a server or the mesh states; `None`: neither does, and the proxy's own defaults hold.
fn server_params(settings: &ServerTls, mesh: &MeshConfig) -> Option<tls::TlsParameters> {
    use tls::tls_parameters::TlsProtocol as P;
    let ciphers = known_ciphers(&settings.cipher_suites);
    let default_minimum = if mesh.tls_default_tls13 { P::TlSv13 } else { P::TlsAuto };
    let minimum = match protocol(settings.min_protocol_version) {
        P::TlsAuto => default_minimum,
        stated => stated,
    };
    let curves = if settings.ecdh_curves.is_empty() { &mesh.tls_default_ecdh_curves } else { &settings.ecdh_curves };
    let params = tls::TlsParameters {
        tls_minimum_protocol_version: minimum as i32,
        tls_maximum_protocol_version: protocol(settings.max_protocol_version) as i32,
        cipher_suites: if ciphers.is_empty() { mesh.tls_default_cipher_suites.clone() } else { ciphers },
        ecdh_curves: curves.clone(),
        ..Default::default()
    };
    (params != tls::TlsParameters::default()).then_some(params)
}

/// TLS termination by a gateway server or a sidecar ingress listener. `None`: the server passes TLS through.
///
/// `tcp` selects the ALPN list of opaque servers. Certificates come from the control plane for credential names,
/// from the agent for files, and are the workload's own for `ISTIO_MUTUAL`, whose parameters are the mesh's.
#[allow(deprecated)]
pub fn server_context(settings: &ServerTls, inputs: &Inputs, tcp: bool) -> Option<tls::DownstreamTlsContext> {
    let mode = settings.mode;
    if matches!(mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough) {
        return None;
    }
    let own = mode == ServerTlsMode::IstioMutual;
    let exchange = tcp && own && inputs.proxy().capabilities.peer_metadata;
    let alpn: &[&str] = if exchange { &[ALPN_PEER_EXCHANGE, "h2", "http/1.1"] } else { &["h2", "http/1.1"] };
    let require = matches!(mode, ServerTlsMode::Mutual | ServerTlsMode::IstioMutual);
    let wants_client = require || mode == ServerTlsMode::OptionalMutual;
    let mut verify = tls::CertificateValidationContext {
        match_subject_alt_names: exact_matchers(&settings.subject_alt_names),
        verify_certificate_hash: settings.verify_certificate_hash.clone(),
        verify_certificate_spki: settings.verify_certificate_spki.clone(),
        crl: (!settings.ca_crl.is_empty()).then(|| file(&settings.ca_crl)),
        ..Default::default()
    };
    if settings.insecure_skip_verify.unwrap_or(false) {
        use tls::certificate_validation_context::TrustChainVerification;
        verify.trust_chain_verification = TrustChainVerification::AcceptUntrusted as i32;
    }
    let credentials: Vec<String> = match settings.credential_names.as_slice() {
        [] if settings.credential_name.is_empty() => Vec::new(),
        [] => vec![settings.credential_name.clone()],
        many => many.to_vec(),
    };
    let mut common = if own {
        CertFiles::server(inputs.proxy()).context(Some(verify))
    } else if let Some(first) = credentials.first() {
        let ca = match settings.ca_cert_credential_name.as_str() {
            "" => format!("{first}{CA_SUFFIX}"),
            name => name.to_owned(),
        };
        let validation = if wants_client {
            credential_secret(&ca, inputs).map(|ca| combined(verify, ca))
        } else {
            (verify != Default::default())
                .then_some(tls::common_tls_context::ValidationContextType::ValidationContext(verify))
        };
        tls::CommonTlsContext {
            tls_certificate_sds_secret_configs: credentials
                .iter()
                .filter_map(|c| credential_secret(c, inputs))
                .collect(),
            validation_context_type: validation,
            ..Default::default()
        }
    } else {
        let files = CertFiles {
            chain: &settings.server_certificate,
            key: &settings.private_key,
            root: &settings.ca_certificates,
        };
        let mut common = files.context(wants_client.then_some(verify));
        if !settings.tls_certificates.is_empty() {
            let pair = |c: &api::networking::TlsCertificate| {
                CertFiles { chain: &c.server_certificate, key: &c.private_key, root: "" }.certificate()
            };
            common.tls_certificate_sds_secret_configs = settings.tls_certificates.iter().map(pair).collect();
        }
        common
    };
    common.alpn_protocols = alpns(alpn);
    if !own {
        common.tls_params = server_params(settings, inputs.mesh());
    }
    Some(tls::DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: Some(require),
        ..Default::default()
    })
}

/// The transport socket of [`server_context`].
pub fn server_socket(settings: &ServerTls, inputs: &Inputs, tcp: bool) -> Option<core::TransportSocket> {
    server_context(settings, inputs, tcp).map(|c| downstream_socket(&c))
}

fn file(path: &str) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::Filename(path.to_owned())), ..Default::default() }
}

fn client_params() -> tls::TlsParameters {
    use tls::tls_parameters::TlsProtocol as P;
    tls::TlsParameters {
        tls_minimum_protocol_version: P::TlSv12 as i32,
        tls_maximum_protocol_version: P::TlSv13 as i32,
        ..Default::default()
    }
}

/// The client side of mesh mTLS: own certificate, peers with these identities, this SNI.
pub fn outbound_mtls(identities: &[String], sni: &str, http2: bool, peer_exchange: bool) -> tls::UpstreamTlsContext {
    let mut alpn = Vec::new();
    if peer_exchange {
        alpn.push(ALPN_PEER_EXCHANGE);
    }
    alpn.push("istio");
    if http2 {
        alpn.push("h2");
    }
    tls::UpstreamTlsContext {
        common_tls_context: Some(tls::CommonTlsContext {
            tls_params: Some(client_params()),
            tls_certificate_sds_secret_configs: vec![agent_secret(names::well_known::SDS_DEFAULT)],
            validation_context_type: Some(combined(sans(identities), agent_secret(names::well_known::SDS_ROOTCA))),
            alpn_protocols: alpns(&alpn),
            ..Default::default()
        }),
        sni: sni.to_owned(),
        ..Default::default()
    }
}

/// What an upstream TLS context depends on beside the destination rule.
#[derive(Clone, Copy)]
pub struct UpstreamFacts<'a> {
    /// Who connects, in which mesh.
    pub inputs: &'a Inputs,
    /// Names of the service entry, used when the rule has none.
    pub service_sans: &'a [String],
    /// Whether the cluster speaks HTTP/2.
    pub http2: bool,
    /// Whether the rule selects workloads (credential names are for those only, on sidecars).
    pub rule_has_selector: bool,
}

/// TLS origination as a destination rule asks for. `None`: the rule cannot be served to this proxy (a credential a
/// sidecar must not ask for, or `MUTUAL` without files).
pub fn originate(settings: &ClientTls, facts: UpstreamFacts<'_>) -> Option<tls::UpstreamTlsContext> {
    let mutual = settings.mode == TlsMode::Mutual;
    let mut common = tls::CommonTlsContext { tls_params: Some(client_params()), ..Default::default() };
    let names = if settings.subject_alt_names.is_empty() { facts.service_sans } else { &settings.subject_alt_names };
    let skip_verify = settings.insecure_skip_verify.unwrap_or(false);
    let mut validation = sans(names);
    if !settings.ca_crl.is_empty() {
        validation.crl = Some(file(&settings.ca_crl));
    }
    if !settings.credential_name.is_empty() {
        let name = &settings.credential_name;
        let sidecar = facts.inputs.proxy().node_type == names::NodeType::Sidecar;
        if sidecar && !facts.rule_has_selector && !name.starts_with(KUBERNETES_CONFIGMAP) {
            return None;
        }
        if mutual {
            common.tls_certificate_sds_secret_configs = credential_secret(name, facts.inputs).into_iter().collect();
        }
        let ca = format!("{name}{CA_SUFFIX}");
        let ca = if name.starts_with(KUBERNETES_CONFIGMAP) { name.clone() } else { ca };
        common.validation_context_type = Some(if skip_verify {
            tls::common_tls_context::ValidationContextType::ValidationContext(Default::default())
        } else {
            combined(validation, credential_secret(&ca, facts.inputs)?)
        });
    } else {
        if mutual {
            if settings.client_certificate.is_empty() || settings.private_key.is_empty() {
                return None;
            }
            let name = format!("file-cert:{}~{}", settings.client_certificate, settings.private_key);
            common.tls_certificate_sds_secret_configs = vec![agent_secret(&name)];
        }
        let ca = if settings.ca_certificates.is_empty() { "system" } else { &settings.ca_certificates };
        common.validation_context_type = Some(if skip_verify {
            tls::common_tls_context::ValidationContextType::ValidationContext(Default::default())
        } else {
            combined(validation, agent_secret(&format!("file-root:{ca}")))
        });
    }
    let params = common.tls_params.get_or_insert_default();
    params.ecdh_curves = facts.inputs.mesh().tls_default_ecdh_curves.clone();
    params.cipher_suites = facts.inputs.mesh().tls_default_cipher_suites.clone();
    if facts.http2 {
        common.alpn_protocols = alpns(&["h2"]);
    }
    Some(tls::UpstreamTlsContext { common_tls_context: Some(common), sni: settings.sni.clone(), ..Default::default() })
}

/// The transport socket of an upstream context.
pub fn upstream_socket(context: &tls::UpstreamTlsContext) -> core::TransportSocket {
    transport_socket(TLS_SOCKET, any(context))
}

/// How long a TLS handshake on a gateway may take (`gatewayTransportSocketConnectTimeout`).
pub fn handshake_timeout() -> prost_types::Duration {
    duration(std::time::Duration::from_secs(15))
}
