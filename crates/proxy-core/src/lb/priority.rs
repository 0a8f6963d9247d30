//! How much of the load does each priority carry, and which priorities panic? Envoy's arithmetic.

use smallvec::{SmallVec, smallvec};

use super::{Health, HostInfo, Numbers};

/// Load per priority, percent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriorityLoad {
    /// Share of the healthy hosts of each priority.
    pub healthy: Numbers,
    /// Share of the degraded hosts of each priority.
    pub degraded: Numbers,
    /// All hosts of the priority are used, healthy or not.
    pub panic: SmallVec<[bool; 8]>,
    /// How far the healthy and the degraded hosts of each priority could carry everything, percent.
    able: Able,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Able {
    healthy: Numbers,
    degraded: Numbers,
}

impl PriorityLoad {
    /// The priority for a request: number, and whether its degraded hosts serve. `None` when nothing carries load.
    ///
    /// `excluded` priorities give their load to the others, also to those that carry none so far; unless none is left.
    pub fn choose(&self, hash: u64, excluded: &[u32]) -> Option<(u32, bool)> {
        if !excluded.is_empty() {
            let kept = |all: &[u32]| -> Numbers {
                all.iter().enumerate().map(|(p, a)| if excluded.contains(&(p as u32)) { 0 } else { *a }).collect()
            };
            let (healthy, degraded) = spread(&kept(&self.able.healthy), &kept(&self.able.degraded));
            if let Some(chosen) = pick(&healthy, &degraded, hash) {
                return Some(chosen);
            }
        }
        pick(&self.healthy, &self.degraded, hash)
    }
}

/// The priority in which `hash` falls.
fn pick(healthy: &[u32], degraded: &[u32], hash: u64) -> Option<(u32, bool)> {
    let total: u64 = healthy.iter().chain(degraded).map(|l| u64::from(*l)).sum();
    let mut left = hash.checked_rem(total)?;
    let healthy = healthy.iter().enumerate().map(|(p, l)| (p, false, *l));
    for (p, is_degraded, load) in healthy.chain(degraded.iter().enumerate().map(|(p, l)| (p, true, *l))) {
        match left.checked_sub(u64::from(load)) {
            None => return Some((p as u32, is_degraded)),
            Some(rest) => left = rest,
        }
    }
    None
}

/// Spreads the load: healthy hosts of all priorities first, then degraded ones; earlier priorities before later ones.
fn spread(healthy: &[u32], degraded: &[u32]) -> (Numbers, Numbers) {
    let available = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
    let mut out: (Numbers, Numbers) = (smallvec![0; healthy.len()], smallvec![0; degraded.len()]);
    if available > 0 {
        let mut left = 100;
        let first_healthy = distribute(healthy, available, &mut left, &mut out.0);
        let first_degraded = distribute(degraded, available, &mut left, &mut out.1);
        // Rounding leaves a little; the first priority that has hosts takes it.
        match (first_healthy, first_degraded) {
            (Some(p), _) => out.0[p] += left,
            (None, Some(p)) => out.1[p] += left,
            (None, None) => {}
        }
    }
    out
}

#[derive(Clone, Copy, Default)]
struct Count {
    all: u64,
    healthy: u64,
    degraded: u64,
    hosts: u64,
    healthy_hosts: u64,
    degraded_hosts: u64,
}

/// Computes the load of `count` priorities.
///
/// `panic_threshold` and `overprovisioning` are percent; `weighted` counts health by host weight.
pub fn loads(
    hosts: &[HostInfo<'_>],
    count: usize,
    panic_threshold: f64,
    overprovisioning: u32,
    weighted: bool,
) -> PriorityLoad {
    let mut counts = vec![Count::default(); count];
    for h in hosts.iter().filter(|h| h.health != Health::Excluded) {
        let c = &mut counts[h.priority as usize];
        let w = if weighted { u64::from(h.weight.max(1)) } else { 1 };
        c.all += w;
        c.hosts += 1;
        match h.health {
            Health::Healthy => (c.healthy, c.healthy_hosts) = (c.healthy + w, c.healthy_hosts + 1),
            Health::Degraded => (c.degraded, c.degraded_hosts) = (c.degraded + w, c.degraded_hosts + 1),
            Health::Unhealthy | Health::Excluded => {}
        }
    }
    let share =
        |part: u64, all: u64| (u64::from(overprovisioning) * part).checked_div(all).map_or(0, |n| n.min(100) as u32);
    let healthy: Numbers = counts.iter().map(|c| share(c.healthy, c.all)).collect();
    let degraded: Numbers = counts.iter().map(|c| share(c.degraded, c.all)).collect();
    let available = (healthy.iter().sum::<u32>() + degraded.iter().sum::<u32>()).min(100);
    let (spread_healthy, spread_degraded) = spread(&healthy, &degraded);
    let mut out = PriorityLoad {
        healthy: spread_healthy,
        degraded: spread_degraded,
        panic: smallvec![false; count],
        able: Able { healthy, degraded },
    };
    let threshold = panic_threshold.min(100.0);
    for (p, c) in counts.iter().enumerate() {
        let usable =
            if c.hosts == 0 { 0.0 } else { 100.0 * (c.healthy_hosts + c.degraded_hosts) as f64 / c.hosts as f64 };
        out.panic[p] = available < 100 && threshold > 0.0 && usable < threshold;
    }
    if count > 0 && out.panic.iter().all(|p| *p) {
        total_panic(&counts, &mut out);
    }
    out
}

fn distribute(have: &[u32], available: u32, left: &mut u32, out: &mut [u32]) -> Option<usize> {
    let mut first = None;
    for (p, h) in have.iter().enumerate() {
        if *h > 0 && first.is_none() {
            first = Some(p);
        }
        out[p] = (h * 100 / available).min(*left);
        *left -= out[p];
    }
    first
}

/// Everything panics: load follows the number of hosts.
fn total_panic(counts: &[Count], out: &mut PriorityLoad) {
    out.degraded.fill(0);
    let total: u64 = counts.iter().map(|c| c.hosts).sum();
    if total == 0 {
        out.healthy.fill(0);
        return;
    }
    let mut left = 100u32;
    for (p, c) in counts.iter().enumerate() {
        out.healthy[p] = (100 * c.hosts / total) as u32;
        left -= out.healthy[p];
    }
    if let Some(p) = counts.iter().position(|c| c.hosts > 0) {
        out.healthy[p] += left;
    }
}
