//! Which header names do we know by number?
//!
//! The block interns names while it parses, so that routers and filters find `x-request-id` with
//! one array access. Unknown names have [`HeaderId::OTHER`] and are compared as bytes.

/// The interned id of a header name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderId(pub(crate) u8);

macro_rules! known {
    ($($ident:ident = $name:literal,)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        #[repr(u8)]
        #[allow(dead_code)]
        enum Slot { OTHER, $($ident,)* COUNT_ }

        /// Names by id; index 0 is unused.
        const NAMES: [&str; Slot::COUNT_ as usize] = ["", $($name,)*];

        #[allow(missing_docs)]
        impl HeaderId {
            $(pub const $ident: HeaderId = HeaderId(Slot::$ident as u8);)*
        }
    };
}

known! {
    METHOD = ":method",
    PATH = ":path",
    AUTHORITY = ":authority",
    SCHEME = ":scheme",
    STATUS = ":status",
    PROTOCOL = ":protocol",
    ACCEPT = "accept",
    ACCEPT_ENCODING = "accept-encoding",
    ACCEPT_LANGUAGE = "accept-language",
    ACCESS_CONTROL_ALLOW_CREDENTIALS = "access-control-allow-credentials",
    ACCESS_CONTROL_ALLOW_HEADERS = "access-control-allow-headers",
    ACCESS_CONTROL_ALLOW_METHODS = "access-control-allow-methods",
    ACCESS_CONTROL_ALLOW_ORIGIN = "access-control-allow-origin",
    ACCESS_CONTROL_ALLOW_PRIVATE_NETWORK = "access-control-allow-private-network",
    ACCESS_CONTROL_EXPOSE_HEADERS = "access-control-expose-headers",
    ACCESS_CONTROL_MAX_AGE = "access-control-max-age",
    ACCESS_CONTROL_REQUEST_HEADERS = "access-control-request-headers",
    ACCESS_CONTROL_REQUEST_METHOD = "access-control-request-method",
    ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK = "access-control-request-private-network",
    AGE = "age",
    AUTHORIZATION = "authorization",
    B3 = "b3",
    BAGGAGE = "baggage",
    CACHE_CONTROL = "cache-control",
    CONNECTION = "connection",
    CONTENT_ENCODING = "content-encoding",
    CONTENT_LENGTH = "content-length",
    CONTENT_TYPE = "content-type",
    COOKIE = "cookie",
    DATE = "date",
    ETAG = "etag",
    EXPECT = "expect",
    EXPIRES = "expires",
    GRPC_ACCEPT_ENCODING = "grpc-accept-encoding",
    GRPC_ENCODING = "grpc-encoding",
    GRPC_MESSAGE = "grpc-message",
    GRPC_STATUS = "grpc-status",
    GRPC_TIMEOUT = "grpc-timeout",
    HOST = "host",
    HTTP2_SETTINGS = "http2-settings",
    IF_MATCH = "if-match",
    IF_MODIFIED_SINCE = "if-modified-since",
    IF_NONE_MATCH = "if-none-match",
    IF_RANGE = "if-range",
    KEEP_ALIVE = "keep-alive",
    LAST_MODIFIED = "last-modified",
    LOCATION = "location",
    ORIGIN = "origin",
    PRAGMA = "pragma",
    PROXY_CONNECTION = "proxy-connection",
    PROXY_STATUS = "proxy-status",
    RANGE = "range",
    REFERER = "referer",
    RETRY_AFTER = "retry-after",
    SERVER = "server",
    SET_COOKIE = "set-cookie",
    TE = "te",
    TRACEPARENT = "traceparent",
    TRACESTATE = "tracestate",
    TRAILER = "trailer",
    TRANSFER_ENCODING = "transfer-encoding",
    UPGRADE = "upgrade",
    USER_AGENT = "user-agent",
    VARY = "vary",
    VIA = "via",
    X_B3_FLAGS = "x-b3-flags",
    X_B3_PARENTSPANID = "x-b3-parentspanid",
    X_B3_SAMPLED = "x-b3-sampled",
    X_B3_SPANID = "x-b3-spanid",
    X_B3_TRACEID = "x-b3-traceid",
    X_CLIENT_TRACE_ID = "x-client-trace-id",
    X_ENVOY_ATTEMPT_COUNT = "x-envoy-attempt-count",
    X_ENVOY_DECORATOR_OPERATION = "x-envoy-decorator-operation",
    X_ENVOY_DEGRADED = "x-envoy-degraded",
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER = "x-envoy-downstream-service-cluster",
    X_ENVOY_DOWNSTREAM_SERVICE_NODE = "x-envoy-downstream-service-node",
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS = "x-envoy-expected-rq-timeout-ms",
    X_ENVOY_EXTERNAL_ADDRESS = "x-envoy-external-address",
    X_ENVOY_FORCE_TRACE = "x-envoy-force-trace",
    X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT = "x-envoy-hedge-on-per-try-timeout",
    X_ENVOY_IMMEDIATE_HEALTH_CHECK_FAIL = "x-envoy-immediate-health-check-fail",
    X_ENVOY_INTERNAL = "x-envoy-internal",
    X_ENVOY_IP_TAGS = "x-envoy-ip-tags",
    X_ENVOY_IS_TIMEOUT_RETRY = "x-envoy-is-timeout-retry",
    X_ENVOY_MAX_RETRIES = "x-envoy-max-retries",
    X_ENVOY_ORIGINAL_DST_HOST = "x-envoy-original-dst-host",
    X_ENVOY_ORIGINAL_HOST = "x-envoy-original-host",
    X_ENVOY_ORIGINAL_PATH = "x-envoy-original-path",
    X_ENVOY_ORIGINAL_URL = "x-envoy-original-url",
    X_ENVOY_OVERLOADED = "x-envoy-overloaded",
    X_ENVOY_PEER_METADATA = "x-envoy-peer-metadata",
    X_ENVOY_PEER_METADATA_ID = "x-envoy-peer-metadata-id",
    X_ENVOY_RATELIMITED = "x-envoy-ratelimited",
    X_ENVOY_RETRIABLE_HEADER_NAMES = "x-envoy-retriable-header-names",
    X_ENVOY_RETRIABLE_STATUS_CODES = "x-envoy-retriable-status-codes",
    X_ENVOY_RETRY_GRPC_ON = "x-envoy-retry-grpc-on",
    X_ENVOY_RETRY_ON = "x-envoy-retry-on",
    X_ENVOY_UPSTREAM_ALT_STAT_NAME = "x-envoy-upstream-alt-stat-name",
    X_ENVOY_UPSTREAM_CANARY = "x-envoy-upstream-canary",
    X_ENVOY_UPSTREAM_HEALTHCHECKED_CLUSTER = "x-envoy-upstream-healthchecked-cluster",
    X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS = "x-envoy-upstream-rq-per-try-timeout-ms",
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_ALT_RESPONSE = "x-envoy-upstream-rq-timeout-alt-response",
    X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS = "x-envoy-upstream-rq-timeout-ms",
    X_ENVOY_UPSTREAM_SERVICE_TIME = "x-envoy-upstream-service-time",
    X_ENVOY_UPSTREAM_STREAM_DURATION_MS = "x-envoy-upstream-stream-duration-ms",
    X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert",
    X_FORWARDED_FOR = "x-forwarded-for",
    X_FORWARDED_HOST = "x-forwarded-host",
    X_FORWARDED_PORT = "x-forwarded-port",
    X_FORWARDED_PROTO = "x-forwarded-proto",
    X_GRPC_WEB = "x-grpc-web",
    X_OT_SPAN_CONTEXT = "x-ot-span-context",
    X_REQUEST_ID = "x-request-id",
}

impl HeaderId {
    /// Any name that has no id of its own.
    pub const OTHER: HeaderId = HeaderId(0);
    /// How many ids there are, [`HeaderId::OTHER`] included.
    pub(crate) const COUNT: usize = NAMES.len();

    /// Finds the id of a lower-case name.
    #[inline]
    pub fn of(name: &[u8]) -> HeaderId {
        if name.is_empty() {
            return HeaderId::OTHER;
        }
        let mut slot = hash(name);
        loop {
            let id = TABLE[slot];
            if id == 0 || NAMES[id as usize].as_bytes() == name {
                return HeaderId(id);
            }
            slot = (slot + 1) & (TABLE_LEN - 1);
        }
    }

    /// All ids that stand for a name.
    pub fn all() -> impl Iterator<Item = HeaderId> {
        (1..NAMES.len()).map(|i| HeaderId(i as u8))
    }

    /// Position among all ids; 0 for [`HeaderId::OTHER`].
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// The name in lower case; empty for [`HeaderId::OTHER`].
    pub fn name(self) -> &'static str {
        NAMES[self.0 as usize]
    }

    /// Whether this is a pseudo header (`:path` and the like).
    #[inline]
    pub fn is_pseudo(self) -> bool {
        self.0 >= Self::METHOD.0 && self.0 <= Self::PROTOCOL.0
    }
}

impl std::fmt::Debug for HeaderId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0 == 0 { "other" } else { self.name() })
    }
}

/// Slots of the hash table: about 20 % full, so that a miss mostly ends at the first probe.
const TABLE_LEN: usize = 512;

#[inline]
const fn hash(name: &[u8]) -> usize {
    let n = name.len();
    let (a, b, c) = (name[0] as u32, name[n - 1] as u32, name[n / 2] as u32);
    let h = (n as u32)
        .wrapping_mul(0x9E37_79B1)
        .wrapping_add(a.wrapping_mul(0x85EB_CA6B))
        .wrapping_add(b.wrapping_mul(0xC2B2_AE35))
        .wrapping_add(c.wrapping_mul(0x27D4_EB2F));
    (h >> 23) as usize
}

const TABLE: [u8; TABLE_LEN] = {
    let mut table = [0u8; TABLE_LEN];
    let mut i = 1;
    while i < NAMES.len() {
        let mut slot = hash(NAMES[i].as_bytes());
        while table[slot] != 0 {
            slot = (slot + 1) & (TABLE_LEN - 1);
        }
        table[slot] = i as u8;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_itself() {
        for (i, name) in NAMES.iter().enumerate().skip(1) {
            assert_eq!(HeaderId::of(name.as_bytes()), HeaderId(i as u8), "{name}");
        }
        for unknown in ["", "x", "x-foo", "hosts", "Host"] {
            assert_eq!(HeaderId::of(unknown.as_bytes()), HeaderId::OTHER, "{unknown}");
        }
    }
}
