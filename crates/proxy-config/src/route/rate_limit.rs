//! Which descriptors does a request give to rate limiters? Compiled descriptor actions.

use crate::Name;
use crate::matcher::{HeaderMatcher, HeaderName, QueryMatcher};

/// `envoy.config.route.v3.RateLimit`: descriptor actions.
#[derive(Debug, Clone)]
pub struct RateLimit {
    /// Stage, 0 to 10.
    pub stage: u32,
    /// `disable_key`
    pub disable_key: Name,
    /// Descriptor entries; any that yields nothing drops the whole descriptor.
    pub actions: Box<[RateLimitAction]>,
}

/// `RateLimit.Action`.
#[derive(Debug, Clone)]
pub enum RateLimitAction {
    /// `source_cluster`: this proxy's own cluster
    SourceCluster,
    /// `destination_cluster`
    DestinationCluster,
    /// `request_headers`
    RequestHeaders {
        /// Header.
        name: HeaderName,
        /// Descriptor key.
        key: Name,
        /// Skips the entry instead of the descriptor when absent.
        skip_if_absent: bool,
    },
    /// `query_parameters`
    QueryParameters {
        /// Parameter.
        name: Name,
        /// Descriptor key.
        key: Name,
        /// Skips the entry instead of the descriptor when absent.
        skip_if_absent: bool,
    },
    /// `remote_address`
    RemoteAddress,
    /// `masked_remote_address`
    MaskedRemoteAddress {
        /// IPv4 prefix length.
        v4_prefix: u8,
        /// IPv6 prefix length.
        v6_prefix: u8,
    },
    /// `generic_key`
    GenericKey {
        /// Key, `generic_key` by default.
        key: Name,
        /// Value.
        value: Name,
    },
    /// `header_value_match`
    HeaderValueMatch {
        /// Key, `header_match` by default.
        key: Name,
        /// Value.
        value: Name,
        /// Whether a match (true) or a mismatch yields the entry.
        expect_match: bool,
        /// Tests.
        headers: Box<[HeaderMatcher]>,
    },
    /// `metadata`
    Metadata {
        /// Key.
        key: Name,
        /// From the route (true) or dynamic metadata.
        route: bool,
        /// Namespace.
        filter: Name,
        /// Path.
        path: Box<[Name]>,
        /// Default value.
        default: Option<Name>,
        /// Skips the entry instead of the descriptor when absent.
        skip_if_absent: bool,
    },
    /// `query_parameter_value_match`
    QueryParameterValueMatch {
        /// Key, `query_match` by default.
        key: Name,
        /// Value.
        value: Name,
        /// Whether a match (true) or a mismatch yields the entry.
        expect_match: bool,
        /// Tests.
        query: Box<[QueryMatcher]>,
    },
}
