//! How is a `ClusterLoadAssignment` compiled?

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use protos::envoy::config::endpoint::v3 as p;

use super::common::{self, address, metadata, name, opt_duration};
use super::each;
use crate::cluster::*;
use crate::error::{At, Result, invalid, missing, unsupported};

/// Endpoints of one assignment at most.
pub const ENDPOINTS_MAX: usize = 1 << 20;
/// Priorities at most (Envoy: 128).
pub const PRIORITY_MAX: u32 = 128;

/// Compiles a `ClusterLoadAssignment`.
///
/// Errors: an endpoint without address, zero weights, gaps in priorities, weights of a priority that overflow.
pub fn load_assignment(a: &p::ClusterLoadAssignment) -> Result<LoadAssignment> {
    let mut localities: Vec<LocalityEndpoints> = Vec::with_capacity(a.endpoints.len());
    let mut shared: HashMap<Locality, Arc<Locality>> = HashMap::new();
    let mut count = 0usize;
    for (i, l) in a.endpoints.iter().enumerate() {
        let parsed = locality(l, &mut shared, &a.named_endpoints).at_index("endpoints", i)?;
        count += parsed.endpoints.len();
        localities.push(parsed);
    }
    if count > ENDPOINTS_MAX {
        return Err(invalid(format!("more than {ENDPOINTS_MAX} endpoints")).at("endpoints"));
    }
    let mut policy = LoadAssignment { localities: localities.into(), ..Default::default() };
    if let Some(p) = &a.policy {
        policy.overprovisioning_factor = p.overprovisioning_factor;
        policy.weighted_priority_health = p.weighted_priority_health;
        policy.endpoint_stale_after = opt_duration("endpoint_stale_after", &p.endpoint_stale_after).at("policy")?;
        if p.overprovisioning_factor == Some(0) {
            return Err(invalid("value must be greater than 0").at("overprovisioning_factor").at("policy"));
        }
        for (i, d) in p.drop_overloads.iter().enumerate() {
            let f = d.drop_percentage.as_ref().map(common::fraction).transpose().at_index("drop_overloads", i)?;
            let f = f.ok_or_else(|| missing("drop_percentage").at_index("drop_overloads", i).at("policy"))?;
            let ppm = u64::from(f.numerator) * 1_000_000 / u64::from(f.denominator);
            policy.drop_overload_ppm = (u64::from(policy.drop_overload_ppm) + ppm).min(1_000_000) as u32;
        }
    }
    Ok(policy)
}

/// `Locality`
pub(super) fn locality_of(l: &protos::envoy::config::core::v3::Locality) -> Locality {
    Locality { region: name(&l.region), zone: name(&l.zone), sub_zone: name(&l.sub_zone) }
}

/// The locality without names, which most clusters have: one for all.
fn nowhere() -> Arc<Locality> {
    static NOWHERE: LazyLock<Arc<Locality>> = LazyLock::new(|| Arc::new(locality_of(&Default::default())));
    NOWHERE.clone()
}

fn locality(
    l: &p::LocalityLbEndpoints,
    shared: &mut HashMap<Locality, Arc<Locality>>,
    named: &std::collections::BTreeMap<String, p::Endpoint>,
) -> Result<LocalityEndpoints> {
    use p::locality_lb_endpoints::LbConfig;
    let list = match &l.lb_config {
        None => &l.lb_endpoints,
        Some(LbConfig::LoadBalancerEndpoints(list)) => &list.lb_endpoints,
        Some(LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(unsupported("this field").at("leds_cluster_locality_config"));
        }
    };
    if l.priority > PRIORITY_MAX {
        return Err(invalid(format!("value must be less than or equal to {PRIORITY_MAX}")).at("priority"));
    }
    let key = locality_of(&l.locality.clone().unwrap_or_default());
    let locality = match key.region.is_empty() && key.zone.is_empty() && key.sub_zone.is_empty() {
        true => nowhere(),
        false => shared.entry(key.clone()).or_insert_with(|| Arc::new(key)).clone(),
    };
    Ok(LocalityEndpoints {
        locality,
        priority: l.priority,
        weight: l.load_balancing_weight.unwrap_or(0),
        endpoints: each("lb_endpoints", list, |e| endpoint(e, named))?,
        metadata: metadata(&l.metadata),
    })
}

fn endpoint(e: &p::LbEndpoint, named: &std::collections::BTreeMap<String, p::Endpoint>) -> Result<Endpoint> {
    use p::lb_endpoint::HostIdentifier as H;
    let host = match e.host_identifier.as_ref().ok_or_else(|| missing("host_identifier"))? {
        H::Endpoint(h) => h,
        H::EndpointName(n) => {
            named.get(n).ok_or_else(|| invalid(format!("unknown endpoint {n}")).at("endpoint_name"))?
        }
    };
    let health_check = host.health_check_config.as_ref().map(health_check).transpose().at("health_check_config")?;
    let weight = e.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        return Err(invalid("value must be greater than or equal to 1").at("load_balancing_weight"));
    }
    let health = match e.health_status {
        0 => HealthStatus::Unknown,
        1 => HealthStatus::Healthy,
        2 => HealthStatus::Unhealthy,
        3 => HealthStatus::Draining,
        4 => HealthStatus::Timeout,
        5 => HealthStatus::Degraded,
        n => return Err(invalid(format!("unknown value {n}")).at("health_status")),
    };
    let own = host.address.as_ref().ok_or_else(|| missing("address").at("endpoint"))?;
    Ok(Endpoint {
        address: address(own).at("address").at("endpoint")?,
        additional_addresses: each("additional_addresses", &host.additional_addresses, |a| {
            address(a.address.as_ref().ok_or_else(|| missing("address"))?).at("address")
        })
        .at("endpoint")?,
        hostname: name(&host.hostname),
        weight,
        health,
        metadata: metadata(&e.metadata),
        health_check: health_check.filter(|h| *h != EndpointHealthCheck::default()).map(Box::new),
    })
}

fn health_check(h: &p::endpoint::HealthCheckConfig) -> Result<EndpointHealthCheck> {
    Ok(EndpointHealthCheck {
        port: (h.port_value != 0).then(|| common::port(h.port_value)).transpose()?,
        address: h.address.as_ref().map(address).transpose().at("address")?,
        hostname: h.hostname.as_str().into(),
        disabled: h.disable_active_health_check,
    })
}
