//! Which port is whose? The numbers of architecture.md, which are Istio's.

/// Envoy-compatible admin endpoint.
pub const ADMIN: u16 = 15000;
/// Outbound capture.
pub const OUTBOUND_CAPTURE: u16 = 15001;
/// Debug interface of the agent.
pub const AGENT_DEBUG: u16 = 15004;
/// Inbound capture.
pub const INBOUND_CAPTURE: u16 = 15006;
/// HBONE (HTTP/2 CONNECT over mTLS).
pub const HBONE: u16 = 15008;
/// xDS, plain text.
pub const XDS_PLAIN: u16 = 15010;
/// xDS and CA over TLS.
pub const XDS_TLS: u16 = 15012;
/// Control plane monitoring (`/metrics`).
pub const MONITORING: u16 = 15014;
/// Webhooks (validation, injection).
pub const WEBHOOK: u16 = 15017;
/// Agent status: readiness, application probes, merged metrics.
pub const AGENT_STATUS: u16 = 15020;
/// Proxy health for gateways and load balancers.
pub const HEALTH: u16 = 15021;
/// DNS proxy of the agent.
pub const DNS_CAPTURE: u16 = 15053;
/// Proxy metrics.
pub const PROXY_METRICS: u16 = 15090;
/// Cross-network gateways (`AUTO_PASSTHROUGH`).
pub const CROSS_NETWORK: u16 = 15443;
/// Control plane debug and readiness.
pub const DEBUG: u16 = 8080;
/// User and group of the proxy, exempt from capture.
pub const PROXY_UID: u32 = 1337;
