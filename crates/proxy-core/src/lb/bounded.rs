//! Which host takes a key whose own host is busy? Consistent hashing with bounded loads (`hash_balance_factor`).
//!
//! Follows: Envoy's `BoundedLoadHashingLoadBalancer`, its Mersenne twister included: the same key tries the same hosts
//! in the same order.

/// `std::mt19937`.
struct Twister {
    state: [u32; 624],
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [0u32; 624];
        state[0] = seed;
        for i in 1..624 {
            let before = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(before ^ before >> 30).wrapping_add(i as u32);
        }
        Twister { state, at: 624 }
    }

    fn next(&mut self) -> u32 {
        if self.at == 624 {
            for i in 0..624 {
                let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % 624] & 0x7fff_ffff;
                let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + 397) % 624] ^ y >> 1 ^ odd;
            }
            self.at = 0;
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    /// Uniform below `n`.
    fn below(&mut self, n: u32) -> u32 {
        let step = ((1u64 << 32) / u64::from(n)) as u32;
        loop {
            let x = if n == 1 { 0 } else { self.next() / step };
            if n == 1 {
                // The twister moves on all the same.
                self.next();
            }
            if x < n {
                return x;
            }
        }
    }
}

/// How full a host is: active requests over its share of `factor` percent of the average.
fn fullness(active: u32, all_active: u64, factor: u32, share: f64) -> f64 {
    let total = ((all_active + 1) * u64::from(factor)).div_ceil(100) as f64;
    let slots = (total * share).ceil().max(1.0);
    f64::from(active) / slots
}

/// `first` if it has room, else the next host of the key's sequence that has, else the least full.
///
/// `hosts`: number and share, shares sum to one.
pub fn pick(
    first: u32,
    hosts: &[(u32, f64)],
    hash: u64,
    factor: u32,
    all_active: u64,
    active: &dyn Fn(u32) -> u32,
) -> u32 {
    let of = |host: u32, share: f64| fullness(active(host), all_active, factor, share);
    let own = hosts.iter().find(|h| h.0 == first).map_or(1.0, |h| h.1);
    let mut least = (of(first, own), first);
    if least.0 <= 1.0 {
        return first;
    }
    let mut twister = Twister::new(hash as u32);
    let mut order: Vec<u32> = (0..hosts.len() as u32).collect();
    for i in 0..hosts.len() {
        let j = twister.below((hosts.len() - i) as u32) as usize;
        order.swap(i, i + j);
        let (host, share) = hosts[order[i] as usize];
        if host == first {
            continue;
        }
        let full = of(host, share);
        if full <= 1.0 {
            return host;
        }
        if full < least.0 {
            least = (full, host);
        }
    }
    least.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twister_is_the_standard_one() {
        // C++ [rand.predef]: the 10000th value of a default-seeded mt19937 is 4123659995.
        let mut t = Twister::new(5489);
        let mut last = 0;
        for _ in 0..10_000 {
            last = t.next();
        }
        assert_eq!(last, 4_123_659_995);
    }

    #[test]
    fn a_busy_host_is_passed_over() {
        let hosts = [(0, 0.25), (1, 0.25), (2, 0.25), (3, 0.25)];
        assert_eq!(pick(2, &hosts, 7, 150, 0, &|_| 0), 2);
        let other = pick(2, &hosts, 7, 150, 4, &|h| if h == 2 { 4 } else { 0 });
        assert_ne!(other, 2);
        assert_eq!(pick(2, &hosts, 7, 150, 4, &|h| if h == 2 { 4 } else { 0 }), other);
        // All are full: the least full one.
        assert_eq!(pick(2, &hosts, 7, 100, 40, &|h| if h == 1 { 20 } else { 30 }), 1);
    }
}
