//! Why did the response look like this? Envoy's response flags, short and long names.

/// A set of response flags in the order in which they were set, as Envoy prints them.
///
/// Five bits each, the first flag lowest, its number and one: twelve at most, of which no request comes near.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ResponseFlags(u64);

const FLAG_BITS: u32 = 5;
const FLAGS_MAX: u32 = u64::BITS / FLAG_BITS;
const MASK: u64 = (1 << FLAG_BITS) - 1;

macro_rules! flags {
    ($($bit:literal $name:ident $short:literal $long:literal $doc:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = $doc] pub const $name: Self = Self($bit + 1);)*
        }
        /// (flag, short name, long name) in the order of Envoy's numbers.
        pub static FLAGS: &[(ResponseFlags, &str, &str)] = &[$((ResponseFlags::$name, $short, $long)),*];
    };
}

flags! {
    0 FAILED_LOCAL_HEALTH_CHECK "LH" "FailedLocalHealthCheck" "Local service failed its health check.";
    1 NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream" "No healthy host in the cluster.";
    2 UPSTREAM_REQUEST_TIMEOUT "UT" "UpstreamRequestTimeout" "The upstream did not answer in time.";
    3 LOCAL_RESET "LR" "LocalReset" "We reset the upstream stream.";
    4 UPSTREAM_REMOTE_RESET "UR" "UpstreamRemoteReset" "The upstream reset the stream.";
    5 UPSTREAM_CONNECTION_FAILURE "UF" "UpstreamConnectionFailure" "No connection to the upstream.";
    6 UPSTREAM_CONNECTION_TERMINATION "UC" "UpstreamConnectionTermination" "The upstream closed the connection.";
    7 UPSTREAM_OVERFLOW "UO" "UpstreamOverflow" "A circuit breaker is open.";
    8 NO_ROUTE_FOUND "NR" "NoRouteFound" "No route, or no filter chain.";
    9 DELAY_INJECTED "DI" "DelayInjected" "The fault filter delayed the request.";
    10 FAULT_INJECTED "FI" "FaultInjected" "The fault filter aborted the request.";
    11 RATE_LIMITED "RL" "RateLimited" "Rate limited here.";
    12 UNAUTHORIZED_EXTERNAL_SERVICE "UAEX" "UnauthorizedExternalService" "Denied by the authorization service.";
    13 RATE_LIMIT_SERVICE_ERROR "RLSE" "RateLimitServiceError" "The rate limit service failed.";
    14 DOWNSTREAM_CONNECTION_TERMINATION "DC" "DownstreamConnectionTermination" "The client closed the connection.";
    15 UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "UpstreamRetryLimitExceeded" "No retry or connect attempt left.";
    16 STREAM_IDLE_TIMEOUT "SI" "StreamIdleTimeout" "The stream was idle for too long.";
    17 INVALID_ENVOY_REQUEST_HEADERS "IH" "InvalidEnvoyRequestHeaders" "A strictly checked header is invalid.";
    18 DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError" "The client broke the protocol.";
    19 UPSTREAM_MAX_STREAM_DURATION_REACHED "UMSDR" "UpstreamMaxStreamDurationReached" "The upstream stream lasted too long.";
    20 RESPONSE_FROM_CACHE_FILTER "RFCF" "ResponseFromCacheFilter" "Served from cache.";
    21 NO_FILTER_CONFIG_FOUND "NFCF" "NoFilterConfigFound" "A filter's configuration did not arrive in time.";
    22 DURATION_TIMEOUT "DT" "DurationTimeout" "The stream or connection lasted too long.";
    23 UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError" "The upstream broke the protocol.";
    24 NO_CLUSTER_FOUND "NC" "NoClusterFound" "The route's cluster does not exist.";
    25 OVERLOAD_MANAGER "OM" "OverloadManagerTerminated" "The overload manager ended the request.";
    26 DNS_RESOLUTION_FAILED "DF" "DnsResolutionFailed" "The name does not resolve.";
    27 DROP_OVERLOAD "DO" "DropOverload" "Dropped by the endpoints' drop policy.";
    28 DOWNSTREAM_REMOTE_RESET "DR" "DownstreamRemoteReset" "The client reset the stream.";
    29 UNCONDITIONAL_DROP_OVERLOAD "UDO" "UnconditionalDropOverload" "Dropped by an unconditional drop policy.";
}

impl ResponseFlags {
    /// Adds the flags of `other`.
    pub fn insert(&mut self, other: Self) {
        for number in other.numbers() {
            let at = self.numbers().count() as u32;
            if at < FLAGS_MAX && !self.numbers().any(|n| n == number) {
                self.0 |= (u64::from(number) + 1) << (at * FLAG_BITS);
            }
        }
    }

    /// All flags of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.bits() & other.bits() == other.bits()
    }

    /// One bit for each flag, by Envoy's number.
    pub fn bits(self) -> u32 {
        self.numbers().fold(0, |bits, number| bits | 1 << number)
    }

    /// The numbers of the flags in the order in which they were set.
    fn numbers(self) -> impl Iterator<Item = u8> {
        let all = (0..FLAGS_MAX).map(move |at| (self.0 >> (at * FLAG_BITS) & MASK) as u8);
        all.take_while(|n| *n > 0).map(|n| n - 1)
    }

    /// No flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flag of a short name.
    pub fn from_short(name: &str) -> Option<Self> {
        FLAGS.iter().find(|f| f.1 == name).map(|f| f.0)
    }

    /// Appends `URX,UF`, or `-` for none.
    pub fn write(self, long: bool, out: &mut Vec<u8>) {
        let start = out.len();
        for (_, short, name) in self.numbers().filter_map(|n| FLAGS.get(usize::from(n))) {
            if out.len() > start {
                out.push(b',');
            }
            out.extend_from_slice(if long { name } else { short }.as_bytes());
        }
        if out.len() == start {
            out.push(b'-');
        }
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;
    fn bitor(mut self, other: Self) -> Self {
        self.insert(other);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_as_envoy_does() {
        let check = |flags: ResponseFlags, long, text: &str| {
            let mut out = Vec::new();
            flags.write(long, &mut out);
            assert_eq!(out, text.as_bytes());
        };
        check(ResponseFlags::default(), false, "-");
        check(
            ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            false,
            "URX,UF",
        );
        let (mut all, mut twice) = (ResponseFlags::default(), ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        FLAGS.iter().for_each(|f| all.insert(f.0));
        assert_eq!(all.bits().count_ones(), FLAGS_MAX);
        twice.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        check(twice, true, "UpstreamConnectionFailure,UpstreamRetryLimitExceeded");
        check(ResponseFlags::NO_ROUTE_FOUND, true, "NoRouteFound");
        assert_eq!(ResponseFlags::from_short("NC"), Some(ResponseFlags::NO_CLUSTER_FOUND));
        for (i, (flag, short, _)) in FLAGS.iter().enumerate() {
            assert_eq!((flag.bits(), ResponseFlags::from_short(short)), (1 << i, Some(*flag)));
        }
    }
}
