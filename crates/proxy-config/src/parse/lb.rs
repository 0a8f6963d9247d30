//! How are load balancing settings compiled, in both the old fields and `load_balancing_policy`?

use std::time::Duration;

use protos::envoy::config::cluster::v3 as c;
use protos::envoy::config::cluster::v3::cluster as p;
use protos::envoy::extensions::load_balancing_policies as ext;

use super::any::Typed;
use super::common::{self, metadata_key, opt_duration};
use super::{each, reject};
use crate::cluster::*;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::matcher::HeaderName;

const RING_SIZE_MIN: u64 = 1024;
const RING_SIZE_MAX: u64 = 8 * 1024 * 1024;
const MAGLEV_TABLE_SIZE: u64 = 65_537;
const MAGLEV_TABLE_SIZE_MAX: u64 = 5_000_011;

/// All load balancing fields of a cluster.
pub(super) fn config(x: &c::Cluster) -> Result<LbConfig> {
    let common = x.common_lb_config.clone().unwrap_or_default();
    let mut lb = LbConfig {
        policy: LbPolicy::RoundRobin(None),
        panic_threshold_percent: common::percent_value(
            "healthy_panic_threshold",
            &common.healthy_panic_threshold,
            50.0,
        )
        .at("common_lb_config")?,
        fail_traffic_on_panic: false,
        locality: LocalityLb::None,
        subset: x.lb_subset_config.as_ref().map(subset).transpose().at("lb_subset_config")?.flatten().map(Box::new),
        ignore_new_hosts_until_first_hc: common.ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change: common.close_connections_on_host_set_change,
        update_merge_window: opt_duration("update_merge_window", &common.update_merge_window)?
            .unwrap_or(Duration::from_secs(1)),
        use_hostname_for_hashing: false,
        hash_balance_factor: None,
        override_host_status: HealthBits::DEFAULT,
        override_host: None,
    };
    if let Some(set) = &common.override_host_status {
        let bit = |n: i32| (0..6).contains(&n).then(|| 1u8 << n).ok_or_else(|| invalid(format!("unknown status {n}")));
        lb.override_host_status =
            HealthBits(set.statuses.iter().try_fold(0, |a, n| Ok::<u8, crate::ConfigError>(a | bit(*n)?))?);
    }
    if let Some(h) = &common.consistent_hashing_lb_config {
        hashing(&mut lb, h.use_hostname_for_hashing, h.hash_balance_factor)?;
    }
    if let Some(l) = &common.locality_config_specifier {
        use p::common_lb_config::LocalityConfigSpecifier as L;
        lb.locality = match l {
            L::LocalityWeightedLbConfig(_) => LocalityLb::Weighted,
            L::ZoneAwareLbConfig(z) => LocalityLb::ZoneAware {
                routing_enabled_percent: common::percent_value("routing_enabled", &z.routing_enabled, 100.0)?,
                min_cluster_size: z.min_cluster_size.unwrap_or(6),
                fail_traffic_on_panic: z.fail_traffic_on_panic,
            },
        };
    }
    match &x.load_balancing_policy {
        Some(policy) => extension(&mut lb, policy).at("load_balancing_policy")?,
        None => lb.policy = old_policy(x)?,
    }
    Ok(lb)
}

fn hashing(lb: &mut LbConfig, by_name: bool, factor: Option<u32>) -> Result<()> {
    if factor.is_some_and(|f| f < 100) {
        return Err(invalid("value must be greater than or equal to 100").at("hash_balance_factor"));
    }
    lb.hash_balance_factor = factor.or(lb.hash_balance_factor);
    lb.use_hostname_for_hashing |= by_name;
    Ok(())
}

fn old_policy(x: &c::Cluster) -> Result<LbPolicy> {
    use p::LbConfig as L;
    use p::LbPolicy as P;
    let slow = |s: &Option<p::SlowStartConfig>| -> Result<Option<SlowStart>> {
        s.as_ref()
            .map(|s| slow_start(&s.slow_start_window, &s.aggression, &s.min_weight_percent))
            .transpose()
            .map(Option::flatten)
    };
    Ok(match P::try_from(x.lb_policy).map_err(|_| unsupported("this lb_policy").at("lb_policy"))? {
        P::RoundRobin => LbPolicy::RoundRobin(match &x.lb_config {
            Some(L::RoundRobinLbConfig(r)) => slow(&r.slow_start_config).at("round_robin_lb_config")?,
            _ => None,
        }),
        P::LeastRequest => match &x.lb_config {
            Some(L::LeastRequestLbConfig(l)) => LbPolicy::LeastRequest {
                choice_count: l.choice_count.unwrap_or(2),
                active_request_bias: l.active_request_bias.as_ref().map_or(1.0, |b| b.default_value),
                slow_start: slow(&l.slow_start_config).at("least_request_lb_config")?,
                full_scan: false,
            },
            _ => {
                LbPolicy::LeastRequest { choice_count: 2, active_request_bias: 1.0, slow_start: None, full_scan: false }
            }
        },
        P::Random => LbPolicy::Random,
        P::RingHash => match &x.lb_config {
            Some(L::RingHashLbConfig(r)) => {
                ring(r.minimum_ring_size, r.maximum_ring_size, r.hash_function == 1).at("ring_hash_lb_config")?
            }
            _ => ring(None, None, false)?,
        },
        P::Maglev => match &x.lb_config {
            Some(L::MaglevLbConfig(m)) => maglev(m.table_size).at("maglev_lb_config")?,
            _ => maglev(None)?,
        },
        P::ClusterProvided => LbPolicy::ClusterProvided,
        P::LoadBalancingPolicyConfig => return Err(missing("load_balancing_policy")),
    })
}

fn ring(min: Option<u64>, max: Option<u64>, murmur: bool) -> Result<LbPolicy> {
    let minimum_ring_size = min.unwrap_or(RING_SIZE_MIN);
    let maximum_ring_size = max.unwrap_or(RING_SIZE_MAX);
    if minimum_ring_size > RING_SIZE_MAX || maximum_ring_size > RING_SIZE_MAX || minimum_ring_size > maximum_ring_size {
        return Err(invalid(format!(
            "ring hash: minimum_ring_size ({minimum_ring_size}) > maximum_ring_size ({maximum_ring_size})"
        )));
    }
    let hash = if murmur { RingHashFunction::MurmurHash2 } else { RingHashFunction::XxHash };
    Ok(LbPolicy::RingHash { minimum_ring_size, maximum_ring_size, hash })
}

fn maglev(size: Option<u64>) -> Result<LbPolicy> {
    let table_size = size.unwrap_or(MAGLEV_TABLE_SIZE);
    let prime = table_size >= 2 && (2..).take_while(|d| d * d <= table_size).all(|d| !table_size.is_multiple_of(d));
    if table_size > MAGLEV_TABLE_SIZE_MAX || !prime {
        return Err(invalid("The table size of maglev must be prime number").at("table_size"));
    }
    Ok(LbPolicy::Maglev { table_size })
}

fn slow_start(
    window: &Option<protos::prost_types::Duration>,
    aggression: &Option<protos::envoy::config::core::v3::RuntimeDouble>,
    min: &Option<protos::envoy::r#type::v3::Percent>,
) -> Result<Option<SlowStart>> {
    let Some(window) = opt_duration("slow_start_window", window)?.filter(|w| !w.is_zero()) else {
        return Ok(None);
    };
    let aggression = aggression.as_ref().map_or(1.0, |a| a.default_value);
    Ok(Some(SlowStart {
        window,
        aggression,
        min_weight_percent: common::percent_value("min_weight_percent", min, 10.0)? / 100.0,
    }))
}

fn subset(s: &p::LbSubsetConfig) -> Result<Option<SubsetConfig>> {
    if s.subset_selectors.is_empty() {
        return Ok(None);
    }
    reject!(s; metadata_fallback_policy);
    let fallback = match s.fallback_policy {
        0 => SubsetFallback::NoFallback,
        1 => SubsetFallback::AnyEndpoint,
        2 => SubsetFallback::DefaultSubset,
        n => return Err(invalid(format!("unknown value {n}")).at("fallback_policy")),
    };
    let selectors = each("subset_selectors", &s.subset_selectors, |x| {
        let sorted = |keys: &[String]| {
            let mut keys: Vec<crate::Name> = keys.iter().map(|k| k.as_str().into()).collect();
            keys.sort();
            keys.dedup();
            Box::<[crate::Name]>::from(keys)
        };
        let (keys, fallback_keys) = (sorted(&x.keys), sorted(&x.fallback_keys_subset));
        let fallback = match x.fallback_policy {
            0 => None,
            1 => Some(SubsetFallback::NoFallback),
            2 => Some(SubsetFallback::AnyEndpoint),
            3 => Some(SubsetFallback::DefaultSubset),
            4 if fallback_keys.is_empty() => return Err(missing("fallback_keys_subset")),
            4 if !fallback_keys.iter().all(|k| keys.contains(k)) || fallback_keys.len() == keys.len() => {
                return Err(invalid("must be a proper subset of keys").at("fallback_keys_subset"));
            }
            4 => Some(SubsetFallback::KeysSubset),
            n => return Err(invalid(format!("unknown value {n}")).at("fallback_policy")),
        };
        Ok(SubsetSelector { keys, fallback, fallback_keys, single_host_per_subset: x.single_host_per_subset })
    })?;
    Ok(Some(SubsetConfig {
        fallback,
        default_subset: s.default_subset.as_ref().map_or_else(|| [].into(), common::entries),
        selectors,
        locality_weight_aware: s.locality_weight_aware,
        scale_locality_weight: s.scale_locality_weight,
        panic_mode_any: s.panic_mode_any,
        list_as_any: s.list_as_any,
    }))
}

fn locality(lb: &mut LbConfig, l: &Option<ext::common::v3::LocalityLbConfig>) -> Result<()> {
    use ext::common::v3::locality_lb_config::LocalityConfigSpecifier as L;
    match l.as_ref().and_then(|l| l.locality_config_specifier.as_ref()) {
        None => {}
        Some(L::LocalityWeightedLbConfig(_)) => lb.locality = LocalityLb::Weighted,
        Some(L::ZoneAwareLbConfig(z)) => {
            reject!(z; force_locality_direct_routing, force_local_zone, locality_basis);
            lb.locality = LocalityLb::ZoneAware {
                routing_enabled_percent: common::percent_value("routing_enabled", &z.routing_enabled, 100.0)?,
                min_cluster_size: z.min_cluster_size.unwrap_or(6),
                fail_traffic_on_panic: z.fail_traffic_on_panic,
            };
        }
    }
    Ok(())
}

fn consistent(lb: &mut LbConfig, c: &Option<ext::common::v3::ConsistentHashingLbConfig>) -> Result<()> {
    let Some(c) = c else { return Ok(()) };
    reject!(c; hash_policy);
    hashing(lb, c.use_hostname_for_hashing, c.hash_balance_factor)
}

/// The first policy that is known applies, as in Envoy.
fn extension(lb: &mut LbConfig, policy: &c::LoadBalancingPolicy) -> Result<()> {
    let mut last = missing("policies");
    for (i, p) in policy.policies.iter().enumerate() {
        let Some(config) = &p.typed_extension_config else {
            continue;
        };
        let any = config.typed_config.as_ref().ok_or_else(|| missing("typed_config").at_index("policies", i))?;
        let typed = Typed::open(&config.name, any).at_index("policies", i)?;
        match one(lb, &typed) {
            Ok(()) => return Ok(()),
            Err(e) if matches!(e.reason, crate::Reason::UnknownType { .. }) => last = e.at_index("policies", i),
            Err(e) => return Err(e.at_index("policies", i)),
        }
    }
    Err(last)
}

fn one(lb: &mut LbConfig, typed: &Typed<'_>) -> Result<()> {
    let slow = |s: &Option<ext::common::v3::SlowStartConfig>| -> Result<Option<SlowStart>> {
        s.as_ref()
            .map(|s| slow_start(&s.slow_start_window, &s.aggression, &s.min_weight_percent))
            .transpose()
            .map(Option::flatten)
    };
    let short = typed.message.strip_prefix("envoy.extensions.load_balancing_policies.").unwrap_or_default();
    match short {
        "round_robin.v3.RoundRobin" => {
            let r: ext::round_robin::v3::RoundRobin = typed.decode()?;
            locality(lb, &r.locality_lb_config)?;
            lb.policy = LbPolicy::RoundRobin(slow(&r.slow_start_config)?);
        }
        "least_request.v3.LeastRequest" => {
            let r: ext::least_request::v3::LeastRequest = typed.decode()?;
            locality(lb, &r.locality_lb_config)?;
            lb.policy = LbPolicy::LeastRequest {
                choice_count: r.choice_count.unwrap_or(2),
                active_request_bias: r.active_request_bias.map_or(1.0, |b| b.default_value),
                slow_start: slow(&r.slow_start_config)?,
                full_scan: r.selection_method == 1 || r.enable_full_scan == Some(true),
            };
        }
        "random.v3.Random" => {
            let r: ext::random::v3::Random = typed.decode()?;
            locality(lb, &r.locality_lb_config)?;
            lb.policy = LbPolicy::Random;
        }
        "ring_hash.v3.RingHash" => {
            let r: ext::ring_hash::v3::RingHash = typed.decode()?;
            hashing(lb, r.use_hostname_for_hashing, r.hash_balance_factor)?;
            consistent(lb, &r.consistent_hashing_lb_config)?;
            if r.locality_weighted_lb_config.is_some() {
                lb.locality = LocalityLb::Weighted;
            }
            lb.policy = ring(r.minimum_ring_size, r.maximum_ring_size, r.hash_function == 2)?;
        }
        "maglev.v3.Maglev" => {
            let r: ext::maglev::v3::Maglev = typed.decode()?;
            consistent(lb, &r.consistent_hashing_lb_config)?;
            if r.locality_weighted_lb_config.is_some() {
                lb.locality = LocalityLb::Weighted;
            }
            lb.policy = maglev(r.table_size)?;
        }
        "cluster_provided.v3.ClusterProvided" => lb.policy = LbPolicy::ClusterProvided,
        "wrr_locality.v3.WrrLocality" => {
            let r: ext::wrr_locality::v3::WrrLocality = typed.decode()?;
            extension(lb, r.endpoint_picking_policy.as_ref().ok_or_else(|| missing("endpoint_picking_policy"))?)?;
            lb.locality = LocalityLb::Weighted;
        }
        "override_host.v3.OverrideHost" => {
            let r: ext::override_host::v3::OverrideHost = typed.decode()?;
            reject!(r; selected_host_key);
            let sources = each("override_host_sources", &r.override_host_sources, |s| match &s.metadata {
                Some(key) => {
                    let (filter, path) = metadata_key(&Some(key.clone()))?;
                    Ok(OverrideHostSource::Metadata(filter, path))
                }
                None => Ok(OverrideHostSource::Header(HeaderName::new(&common::required("header", &s.header)?))),
            })?;
            extension(lb, r.fallback_policy.as_ref().ok_or_else(|| missing("fallback_policy"))?)
                .at("fallback_policy")?;
            lb.override_host = Some(Box::new(OverrideHost { sources }));
        }
        _ => return Err(typed.unknown()),
    }
    Ok(())
}
