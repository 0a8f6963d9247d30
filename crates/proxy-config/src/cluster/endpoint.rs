//! Which endpoints has a cluster? Compiled `ClusterLoadAssignment`.

use std::sync::Arc;
use std::time::Duration;

use crate::Name;
use crate::common::{Address, Metadata};

/// `ClusterLoadAssignment`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadAssignment {
    /// Localities of all priorities, in configured order.
    pub localities: Box<[LocalityEndpoints]>,
    /// `policy.overprovisioning_factor`, percent. Default 140.
    pub overprovisioning_factor: Option<u32>,
    /// `policy.weighted_priority_health`
    pub weighted_priority_health: bool,
    /// `policy.drop_overloads`, in millionths, summed.
    pub drop_overload_ppm: u32,
    /// `policy.endpoint_stale_after`
    pub endpoint_stale_after: Option<Duration>,
}

/// `LocalityLbEndpoints`.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalityEndpoints {
    /// Locality.
    pub locality: Arc<Locality>,
    /// 0 is the highest.
    pub priority: u32,
    /// Locality weight (0 when absent: no traffic under locality-weighted balancing).
    pub weight: u32,
    /// Endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// Locality metadata.
    pub metadata: Metadata,
}

/// `core.v3.Locality`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region.
    pub region: Name,
    /// Zone.
    pub zone: Name,
    /// Sub-zone.
    pub sub_zone: Name,
}

/// `LbEndpoint`.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Address.
    pub address: Address,
    /// `additional_addresses` for happy eyeballs.
    pub additional_addresses: Box<[Address]>,
    /// `hostname`, for auto host rewrite and health checks; empty when absent.
    pub hostname: Name,
    /// Load balancing weight, at least 1.
    pub weight: u32,
    /// Health told by discovery.
    pub health: HealthStatus,
    /// Metadata.
    pub metadata: Metadata,
    /// `health_check_config`, when it says anything.
    pub health_check: Option<Box<EndpointHealthCheck>>,
}

/// `Endpoint.HealthCheckConfig`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointHealthCheck {
    /// Port of health checks.
    pub port: Option<u16>,
    /// Where health checks go instead of the endpoint's address.
    pub address: Option<Address>,
    /// Authority of health checks; empty when absent.
    pub hostname: Name,
    /// The host is not checked and counts as healthy.
    pub disabled: bool,
}

/// `core.v3.HealthStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum HealthStatus {
    /// Unknown counts as healthy.
    #[default]
    Unknown = 0,
    /// Healthy.
    Healthy = 1,
    /// Unhealthy.
    Unhealthy = 2,
    /// Draining: no new requests.
    Draining = 3,
    /// Unhealthy.
    Timeout = 4,
    /// Used when there are not enough healthy hosts.
    Degraded = 5,
}
