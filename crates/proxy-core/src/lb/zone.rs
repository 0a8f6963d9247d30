//! Which zone's hosts get the request? Zone-aware routing: as many requests as its hosts can carry stay in the proxy's own zone,
//! the rest goes to zones that have more hosts than proxies, in proportion.
//!
//! Follows Envoy's `ZoneAwareLoadBalancerBase`: shares are counted in hosts of the upstream cluster and of the local one (the
//! proxies themselves).

/// Shares are counted in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// A zone as both clusters have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zone {
    /// Healthy hosts of the upstream cluster.
    pub upstream: u64,
    /// Healthy hosts of the local cluster.
    pub local: u64,
    /// The proxy itself is there.
    pub here: bool,
}

/// How requests are divided between zones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneRouting {
    /// All stay in this zone.
    Direct(usize),
    /// Some stay.
    Residual {
        /// The proxy's own zone, and how many of ten thousand requests stay there.
        here: Option<(usize, u64)>,
        /// What the zones so far can take of the rest.
        capacity: Box<[u64]>,
    },
}

/// Why a zone was chosen, as statistics have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `lb_zone_routing_all_directly`
    Directly,
    /// `lb_zone_routing_sampled`
    Sampled,
    /// `lb_zone_routing_cross_zone`
    Across,
    /// The same, and `lb_zone_no_capacity_left`: any zone.
    AcrossAnywhere,
}

impl ZoneRouting {
    /// Compares both clusters' shares. `local_total` counts also hosts in zones that the upstream cluster does not have.
    pub fn new(zones: &[Zone], local_total: u64) -> Self {
        let upstream_total: u64 = zones.iter().map(|z| z.upstream).sum();
        let share = |part: u64, whole: u64| (part * WHOLE).checked_div(whole).unwrap_or(0);
        let shares: Vec<(u64, u64)> =
            zones.iter().map(|z| (share(z.upstream, upstream_total), share(z.local, local_total))).collect();
        let here = zones.iter().position(|z| z.here);
        if let Some(at) = here
            && shares[at].0 > 0
            && shares[at].0 >= shares[at].1
        {
            return ZoneRouting::Direct(at);
        }
        let mut sum = 0;
        let capacity = shares.iter().enumerate().map(|(i, (upstream, local))| {
            if here != Some(i) {
                sum += upstream.saturating_sub(*local);
            }
            sum
        });
        let capacity = capacity.collect();
        let here = here.map(|at| (at, share(shares[at].0, shares[at].1)));
        ZoneRouting::Residual { here, capacity }
    }

    /// The zone of one request.
    pub fn choose(&self, random: &mut dyn FnMut() -> u64) -> (usize, Way) {
        match self {
            ZoneRouting::Direct(at) => (*at, Way::Directly),
            ZoneRouting::Residual { here, capacity } => {
                if let Some((at, stays)) = here
                    && random() % WHOLE < *stays
                {
                    return (*at, Way::Sampled);
                }
                match capacity.last() {
                    Some(whole @ 1..) => {
                        let point = random() % whole;
                        (capacity.partition_point(|c| *c <= point), Way::Across)
                    }
                    // Only rounding leads here.
                    _ => ((random() % capacity.len().max(1) as u64) as usize, Way::AcrossAnywhere),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(upstream: u64, local: u64, here: bool) -> Zone {
        Zone { upstream, local, here }
    }

    fn shares(zones: &[Zone], local_total: u64) -> Vec<u64> {
        let routing = ZoneRouting::new(zones, local_total);
        let mut n = 0u64;
        let mut counts = vec![0; zones.len()];
        for _ in 0..100_000 {
            let mut random = || {
                n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let z = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                z ^ (z >> 31)
            };
            counts[routing.choose(&mut random).0] += 1;
        }
        counts.iter().map(|c| (c + 500) / 1000).collect()
    }

    #[test]
    fn enough_hosts_at_home_take_all() {
        assert_eq!(ZoneRouting::new(&[zone(3, 2, false), zone(3, 2, true)], 4), ZoneRouting::Direct(1));
        assert_eq!(ZoneRouting::new(&[zone(5, 1, true), zone(1, 1, false)], 2), ZoneRouting::Direct(0));
    }

    #[test]
    fn what_home_cannot_carry_goes_where_hosts_are_left() {
        // Half of the proxies are here with a quarter of the hosts: half of their requests stay, the other half goes to the
        // zones with more hosts than proxies, by what they have left (35 % - 25 % and 40 % - 25 %).
        let zones = [zone(25, 2, true), zone(35, 1, false), zone(40, 1, false)];
        assert_eq!(shares(&zones, 4), [50, 20, 30]);
        // No host at home.
        assert_eq!(shares(&[zone(0, 2, true), zone(5, 1, false), zone(5, 1, false)], 4), [0, 50, 50]);
        // A zone with fewer hosts than proxies gets none of it.
        assert_eq!(shares(&[zone(2, 4, true), zone(1, 4, false), zone(7, 2, false)], 10), [50, 0, 50]);
    }
}
