//! Placement against Envoy's recorded rings, and the arithmetic of priorities.

use proptest::prelude::*;
use proxy_config::cluster::{HealthBits, LbConfig, LbPolicy, LocalityLb};

use super::*;

fn config(policy: LbPolicy) -> LbConfig {
    LbConfig {
        policy,
        panic_threshold_percent: 50.0,
        fail_traffic_on_panic: false,
        locality: LocalityLb::None,
        subset: None,
        ignore_new_hosts_until_first_hc: false,
        close_connections_on_host_set_change: false,
        update_merge_window: Duration::from_secs(1),
        use_hostname_for_hashing: false,
        override_host_status: HealthBits::DEFAULT,
        override_host: None,
        hash_balance_factor: None,
    }
}

fn host(priority: u32, weight: u32, health: Health, key: &str) -> HostInfo<'_> {
    HostInfo { priority, locality: 0, weight, health, hash_key: key }
}

fn picks(b: &Balancer, n: usize, hash: Option<u64>) -> Vec<u32> {
    let mut state = b.state(0);
    let mut x = 0u64;
    let mut random = || {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^ (z >> 27)
    };
    (0..n)
        .filter_map(|_| {
            b.pick(
                &mut state,
                &mut PickInput {
                    hash,
                    random: &mut random,
                    active: &|_| 0,
                    avoid: &|_| false,
                    attempts: 1,
                    all_active: 0,
                    weight: None,
                    excluded_priorities: &[],
                    only: None,
                    locality: None,
                },
            )
        })
        .collect()
}

#[test]
fn round_robin_is_fair_and_weighted() {
    let even = [host(0, 1, Health::Healthy, "a"), host(0, 1, Health::Healthy, "b")];
    let b = Balancer::build(&config(LbPolicy::RoundRobin(None)), &even, &[], 140, false);
    assert_eq!(picks(&b, 4, None), [0, 1, 0, 1]);
    let uneven = [host(0, 1, Health::Healthy, "a"), host(0, 3, Health::Healthy, "b")];
    let b = Balancer::build(&config(LbPolicy::RoundRobin(None)), &uneven, &[], 140, false);
    let p = picks(&b, 400, None);
    assert_eq!(p.iter().filter(|h| **h == 1).count(), 300);
}

#[test]
fn least_request_prefers_the_idle_host() {
    let hosts = [host(0, 1, Health::Healthy, "a"), host(0, 1, Health::Healthy, "b")];
    let policy =
        LbPolicy::LeastRequest { choice_count: 2, active_request_bias: 1.0, slow_start: None, full_scan: false };
    let b = Balancer::build(&config(policy), &hosts, &[], 140, false);
    let mut state = b.state(0);
    let mut flip = 0;
    let mut random = || {
        flip += 1;
        flip
    };
    let host = b.pick(
        &mut state,
        &mut PickInput {
            hash: None,
            random: &mut random,
            active: &|h| if h == 0 { 5 } else { 1 },
            avoid: &|_| false,
            attempts: 1,
            all_active: 0,
            weight: None,
            excluded_priorities: &[],
            only: None,
            locality: None,
        },
    );
    assert_eq!(host, Some(1));
}

#[test]
fn ring_as_recorded_from_envoy() {
    // ring_hash_lb_test.cc `Basic`: six hosts on ports 90-95, minimum ring size 12.
    let keys: Vec<String> = (90..96).map(|p| format!("127.0.0.1:{p}")).collect();
    let hosts: Vec<(u32, &str, f64)> =
        keys.iter().enumerate().map(|(i, k)| (i as u32, k.as_str(), 1.0 / 6.0)).collect();
    let ring = Ring::build(&hosts, 12, 8 << 20, false);
    assert_eq!(ring.len(), 12);
    // hash 0 is owned by port 94, the smallest point (ring hash: 833437586790550860).
    assert_eq!(ring.pick(0, 0), 4);
    assert_eq!(ring.pick(u64::MAX, 0), 4);
    // 3551244743356806947 lies at port 95's second point.
    assert_eq!(ring.pick(3_551_244_743_356_806_947, 0), 5);
    assert_eq!(ring.pick(3_551_244_743_356_806_948, 0), 3);
}

#[test]
fn maglev_as_recorded_from_envoy() {
    // maglev_lb_test.cc `Basic`: table size 7, hosts 90-95.
    let keys: Vec<String> = (90..96).map(|p| format!("127.0.0.1:{p}")).collect();
    let hosts: Vec<(u32, &str, f64)> =
        keys.iter().enumerate().map(|(i, k)| (i as u32, k.as_str(), 1.0 / 6.0)).collect();
    let m = Maglev::build(&hosts, 7);
    let ports: Vec<u32> = m.slots().iter().map(|h| 90 + h).collect();
    assert_eq!(ports, [92, 94, 90, 91, 95, 90, 93]);
}

#[test]
fn priorities_overflow_and_panic() {
    let h = Health::Healthy;
    let u = Health::Unhealthy;
    let check = |hosts: &[(u32, Health)], healthy: &[u32], panic: &[bool]| {
        let hosts: Vec<HostInfo<'_>> = hosts.iter().map(|(p, x)| host(*p, 1, *x, "")).collect();
        let count = hosts.iter().map(|h| h.priority as usize + 1).max().unwrap_or(0);
        let l = loads(&hosts, count, 50.0, 140, false);
        assert_eq!((&l.healthy[..], &l.panic[..]), (healthy, panic), "{hosts:?}");
    };
    check(&[(0, h), (0, h), (1, h)], &[100, 0], &[false, false]);
    // Half of four hosts: 70 % stays, 30 % spills.
    check(&[(0, h), (0, h), (0, u), (0, u), (1, h)], &[70, 30], &[false, false]);
    check(&[(0, u), (1, h)], &[0, 100], &[false, false]);
    // An excluded priority gives its load to one that carries none so far.
    let both = [host(0, 1, h, ""), host(1, 1, h, "")];
    let l = loads(&both, 2, 50.0, 140, false);
    let chosen = |excluded: &[u32]| l.choose(7, excluded).map(|c| c.0);
    assert_eq!((chosen(&[]), chosen(&[0]), chosen(&[0, 1])), (Some(0), Some(1), Some(0)));
    // Nothing healthy at all: total panic, load by number of hosts.
    check(&[(0, u), (0, u), (1, u)], &[67, 33], &[true, true]);
    check(&[], &[], &[]);
}

#[test]
fn avoided_hosts_are_skipped_while_attempts_last() {
    let hosts = [host(0, 1, Health::Healthy, "a"), host(0, 1, Health::Healthy, "b")];
    let b = Balancer::build(&config(LbPolicy::RoundRobin(None)), &hosts, &[], 140, false);
    let mut state = b.state(0);
    let mut random = || 0;
    let mut pick = |avoid: &dyn Fn(u32) -> bool, attempts| {
        b.pick(
            &mut state,
            &mut PickInput {
                hash: None,
                random: &mut random,
                active: &|_| 0,
                avoid,
                attempts,
                all_active: 0,
                weight: None,
                excluded_priorities: &[],
                only: None,
                locality: None,
            },
        )
    };
    assert_eq!(pick(&|h| h == 0, 3), Some(1));
    assert!(pick(&|_| true, 2).is_some());
}

proptest! {
    #[test]
    fn load_always_sums_to_a_hundred_when_there_are_hosts(hosts in prop::collection::vec((0u32..4, 0u8..3, 1u32..100), 1..40)) {
        let hosts: Vec<HostInfo<'_>> = hosts.iter().map(|(p, x, w)| {
            let health = [Health::Healthy, Health::Degraded, Health::Unhealthy][*x as usize];
            host(*p, *w, health, "")
        }).collect();
        let count = hosts.iter().map(|h| h.priority as usize + 1).max().unwrap_or(0);
        let l = loads(&hosts, count, 50.0, 140, false);
        prop_assert_eq!(l.healthy.iter().sum::<u32>() + l.degraded.iter().sum::<u32>(), 100);
    }

    #[test]
    fn every_policy_finds_a_host_and_only_usable_ones(
        weights in prop::collection::vec((1u32..50, any::<bool>()), 1..20),
        hash in any::<u64>(),
        kind in 0u8..5,
    ) {
        let keys: Vec<String> = (0..weights.len()).map(|i| format!("10.0.0.{i}:80")).collect();
        let hosts: Vec<HostInfo<'_>> = weights.iter().zip(&keys).map(|((w, up), k)| {
            host(0, *w, if *up { Health::Healthy } else { Health::Unhealthy }, k)
        }).collect();
        let policy = match kind {
            0 => LbPolicy::RoundRobin(None),
            1 => LbPolicy::Random,
            2 => LbPolicy::LeastRequest { choice_count: 2, active_request_bias: 1.0, slow_start: None, full_scan: false },
            3 => LbPolicy::RingHash { minimum_ring_size: 64, maximum_ring_size: 4096, hash: RingHashFunction::XxHash },
            _ => LbPolicy::Maglev { table_size: 251 },
        };
        let b = Balancer::build(&config(policy), &hosts, &[], 140, false);
        for h in picks(&b, 20, Some(hash)) {
            prop_assert!(b.load().panic[0] || hosts[h as usize].health == Health::Healthy);
        }
        prop_assert_eq!(picks(&b, 20, Some(hash)).len(), 20);
    }
}

/// Keys `key-0` to `key-99` on hosts 127.0.0.1:21901 to 21904, as stock Envoy 1.40 placed them (`x-k` header policy).
#[test]
fn keys_lie_where_envoy_puts_them() {
    let check = |policy: LbPolicy, weights: [u32; 4], expected: &str, figures: (u64, u64, u64)| {
        let names: Vec<String> = (21901..21905).map(|p| format!("127.0.0.1:{p}")).collect();
        let hosts: Vec<HostInfo<'_>> = names.iter().zip(weights).map(|(n, w)| host(0, w, Health::Healthy, n)).collect();
        let b = Balancer::build(&config(policy), &hosts, &[], 140, false);
        let placed: String = (0..100)
            .map(|i| {
                let hash = crate::hash::xx(format!("key-{i}").as_bytes());
                picks(&b, 1, Some(hash))[0].to_string()
            })
            .collect();
        assert_eq!(placed, expected);
        let TableFigures { size, least, most } = b.table_figures();
        assert_eq!((size, least, most), figures);
    };
    let ring =
        |minimum_ring_size, maximum_ring_size, hash| LbPolicy::RingHash { minimum_ring_size, maximum_ring_size, hash };
    check(
        ring(1024, 8 << 20, RingHashFunction::XxHash),
        [1, 3, 2, 1],
        "1012110111112222111211111123110012111121131210132220112121101111222211120322121120021122013211131233",
        (1029, 147, 441),
    );
    check(
        ring(100, 1000, RingHashFunction::MurmurHash2),
        [1, 3, 2, 1],
        "0120021311131031120010220211211331312012132201031110020222102222111111012210110110322123112011211131",
        (105, 15, 45),
    );
    check(
        LbPolicy::Maglev { table_size: 65_537 },
        [1, 3, 2, 1],
        "1221122002322022211320111112111121111221120211131121222121032101112311112121221121132021111101232311",
        (65_537, 9_362, 28_087),
    );
    check(
        LbPolicy::Maglev { table_size: 251 },
        [1; 4],
        "1210002021232332022203010032200002210321122031001010033123323212130122332113101312202131113010132331",
        (251, 62, 63),
    );
}

#[test]
fn subsets_by_metadata() {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proxy_config::Name;
    use proxy_config::cluster::{SubsetConfig, SubsetFallback, SubsetSelector};
    use proxy_config::common::{Metadata, Value};
    use subset::{How, Place, Subsets};

    let pairs = |all: &[(&str, &str)]| -> Vec<(Name, Value)> {
        all.iter().map(|(k, v)| ((*k).into(), Value::String((*v).into()))).collect()
    };
    let metadata: Vec<Metadata> =
        [&[("stage", "prod"), ("v", "1")][..], &[("stage", "dev"), ("v", "2")], &[("v", "2")]]
            .iter()
            .map(|m| {
                let fields: BTreeMap<Name, Value> = pairs(m).into_iter().collect();
                Metadata::from_fields(BTreeMap::from([("envoy.lb".into(), Value::Struct(Arc::new(fields)))]))
            })
            .collect();
    let hosts: Vec<HostInfo<'_>> = (0..3).map(|_| host(0, 1, Health::Healthy, "")).collect();
    let selector = |keys: &[&str], fallback, fewer: &[&str]| SubsetSelector {
        keys: keys.iter().map(|k| (*k).into()).collect(),
        fallback,
        fallback_keys: fewer.iter().map(|k| (*k).into()).collect(),
        single_host_per_subset: false,
    };
    let options = SubsetConfig {
        fallback: SubsetFallback::NoFallback,
        default_subset: [].into(),
        selectors: Box::new([
            selector(&["v"], None, &[]),
            selector(&["stage", "v"], Some(SubsetFallback::KeysSubset), &["v"]),
            selector(&["stage"], Some(SubsetFallback::AnyEndpoint), &[]),
        ]),
        locality_weight_aware: false,
        scale_locality_weight: false,
        panic_mode_any: false,
        list_as_any: false,
    };
    let lb = config(LbPolicy::RoundRobin(None));
    let of = |h: u32| &metadata[h as usize];
    let s = Subsets::build(&options, &lb, &hosts, &of, &[], 140, false);
    let members = |wanted: &[(&str, &str)]| match s.find(&pairs(wanted)) {
        Some((Place::Subset(id), How::Selected)) => s.get(id).members.to_vec(),
        Some((Place::Whole, How::SelectorFallback)) => vec![99],
        _ => vec![],
    };
    assert_eq!(s.len(), 6);
    assert_eq!(members(&[("v", "2")]), [1, 2]);
    assert_eq!(members(&[("stage", "dev"), ("v", "2")]), [1]);
    assert_eq!(members(&[("stage", "none"), ("v", "2")]), [1, 2]);
    assert_eq!(members(&[("stage", "none")]), [99]);
    assert!(members(&[("v", "9")]).is_empty() && members(&[("x", "1")]).is_empty() && members(&[]).is_empty());
}
