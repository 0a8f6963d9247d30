//! What is known about one request and its response while they travel?
//!
//! Everything that filters, matchers and access logs may ask for. Exchanges are reused from request
//! to request by their worker; nothing is allocated in steady state.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use http1::HeaderBlock;
use telemetry::access_log::ResponseFlags;
use tls::TlsInfo;
use tokio::time::Instant;

use crate::filters::FilterState;
use crate::filters::ext_proc::Pipe;
use crate::reply::LocalReply;
use crate::state::{DynamicMetadata, StateObjects};

/// Protocol spoken on the downstream side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As Envoy prints it: `HTTP/1.1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }
}

/// Points of time of one exchange; `None` until reached.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// First byte of the request.
    pub begin: Option<Instant>,
    /// Last byte of the request.
    pub request_end: Option<Instant>,
    /// The upstream connection was asked for.
    pub connect_begin: Option<Instant>,
    /// The upstream connection was there.
    pub connect_end: Option<Instant>,
    /// First byte sent upstream.
    pub upstream_begin: Option<Instant>,
    /// Last byte sent upstream.
    pub upstream_sent: Option<Instant>,
    /// First byte of the response from upstream.
    pub upstream_first: Option<Instant>,
    /// Last byte of the response from upstream.
    pub upstream_last: Option<Instant>,
    /// First byte of the response sent downstream.
    pub response_begin: Option<Instant>,
    /// Last byte of the response sent downstream.
    pub response_end: Option<Instant>,
}

/// The upstream host that served or failed the last try.
#[derive(Clone, Debug, Default)]
pub struct UpstreamFacts {
    /// Cluster name.
    pub cluster: Option<proxy_config::Name>,
    /// The host.
    pub host: Option<Arc<upstream::Host>>,
    /// Our end.
    pub local: Option<SocketAddr>,
    /// The other end.
    pub remote: Option<SocketAddr>,
    /// TLS session of the connection.
    pub tls: Option<Arc<TlsInfo>>,
    /// Why the transport failed.
    pub transport_failure: Option<Box<str>>,
    /// Protocol spoken upstream.
    pub protocol: Option<Protocol>,
    /// Requests that the connection had served before.
    pub connection_requests: u64,
}

/// A host chosen by a filter.
#[derive(Clone, Debug)]
pub struct OverrideHost {
    /// Its address as Envoy prints it.
    pub host: Box<str>,
    /// No other will do.
    pub strict: bool,
}

/// One request and its response.
#[derive(Default)]
pub struct Exchange {
    /// Number for logs.
    pub stream_id: u64,
    /// Downstream protocol.
    pub protocol: Protocol,
    /// Request headers.
    pub request: HeaderBlock,
    /// Request trailers.
    pub request_trailers: HeaderBlock,
    /// Response headers.
    pub response: HeaderBlock,
    /// Response trailers.
    pub response_trailers: HeaderBlock,
    /// The request was HEAD.
    pub head_request: bool,
    /// An upgrade or CONNECT was asked for.
    pub upgrade: bool,
    /// The request is gRPC.
    pub grpc: bool,
    /// The request has no body.
    pub request_ends_with_head: bool,
    /// Points of time.
    pub times: Times,
    /// Response flags.
    pub flags: ResponseFlags,
    /// Response code details.
    pub details: Cow<'static, str>,
    /// Connection termination details.
    pub termination: Option<Cow<'static, str>>,
    /// Status sent; 0 when none was.
    pub status: u16,
    /// Request body bytes.
    pub bytes_received: u64,
    /// Response body bytes.
    pub bytes_sent: u64,
    /// Tries made upstream.
    pub attempts: u32,
    /// The upstream.
    pub upstream: UpstreamFacts,
    /// The client after x-forwarded-for.
    pub remote: Option<SocketAddr>,
    /// The request is internal (x-envoy-internal).
    pub internal: bool,
    /// Route name.
    pub route_name: Option<proxy_config::Name>,
    /// Virtual host name.
    pub virtual_host: Option<proxy_config::Name>,
    /// Virtual cluster that the request fell into, before its path was rewritten.
    pub virtual_cluster: Option<proxy_config::Name>,
    /// The stats of that virtual cluster, or of the one for requests that fell into none.
    pub vcluster: Option<crate::vcluster::Counts>,
    /// Request body collected by a filter or for retries.
    pub buffered: Vec<u8>,
    /// Per-request state of filters.
    pub filters: Vec<FilterState>,
    /// Dynamic metadata.
    pub metadata: DynamicMetadata,
    /// Filter state of the request.
    pub state: StateObjects,
    /// A health check that the `health_check` filter knows.
    pub health_check: bool,
    /// A filter cleared the route cache.
    pub route_cleared: bool,
    /// Who the downstream peer is (`istio.metadata_exchange`).
    pub downstream_peer: Option<Arc<crate::istio::KnownPeer>>,
    /// Who the upstream peer is.
    pub upstream_peer: Option<Arc<crate::istio::KnownPeer>>,
    /// The request's span (`tracing`).
    pub span: Option<Box<crate::trace::Span>>,
    /// Bytes on the wire for this exchange: received from and sent to the client, heads and framing included.
    pub wire: (u64, u64),
    /// ALPN lists for HTTP/1.0, HTTP/1.1 and HTTP/2 upstreams (`istio.alpn`).
    pub alpn: Option<[Arc<[Box<[u8]>]>; 3]>,
    /// Internal redirects followed so far.
    pub redirects: u32,
    /// How many filters saw the request; only they see the response.
    pub filters_run: u16,
    /// The virtual host demands TLS: answer with a redirect.
    pub tls_first: bool,
    /// Request data passes through a processor.
    pub request_pipe: Option<Box<Pipe>>,
    /// Response data passes through a processor.
    pub response_pipe: Option<Box<Pipe>>,
    /// Why a filter refused a body that was on its way.
    pub refusal: Option<Box<LocalReply>>,
    /// A body that a filter puts in the response's place.
    pub new_body: Option<Vec<u8>>,
    /// The length of a response that a filter holds is not told.
    pub unsized_response: bool,
    /// What the client still sends of the body is not wanted.
    pub drop_request_body: bool,
    /// The response has no body.
    pub response_ends_with_head: bool,
    /// A host that a filter prefers to what balancing says.
    pub override_host: Option<Box<OverrideHost>>,
    /// A cookie to set on the response (hash policy).
    pub set_cookie: Option<Vec<u8>>,
    /// A filter wants request data.
    pub taps_request: bool,
    /// A filter wants response data.
    pub taps_response: bool,
    /// The whole request body is in `buffered`.
    pub body_collected: bool,
    /// A filter had the request wait.
    pub waited: bool,
    /// A header was dropped for its underscore (HTTP/2).
    pub underscore_dropped: bool,
    /// Random number of this request: weighted clusters, runtime fractions.
    pub random: u64,
}

/// Bytes of a body buffer kept for the next request.
const RETAINED_BUFFER_BYTES: usize = 16 << 10;

impl Exchange {
    /// Forgets the request and keeps memory for the next one.
    pub fn clear(&mut self) {
        // Field by field: an exchange is too large to be moved for every request.
        let Exchange {
            stream_id,
            protocol,
            request,
            request_trailers,
            response,
            response_trailers,
            head_request,
            upgrade,
            grpc,
            request_ends_with_head,
            times,
            flags,
            details,
            termination,
            status,
            bytes_received,
            bytes_sent,
            attempts,
            upstream,
            remote,
            internal,
            route_name,
            virtual_host,
            virtual_cluster,
            vcluster,
            buffered,
            filters,
            metadata,
            state,
            health_check,
            route_cleared,
            alpn,
            redirects,
            filters_run,
            tls_first,
            set_cookie,
            taps_request,
            taps_response,
            body_collected,
            waited,
            underscore_dropped,
            random,
            downstream_peer,
            upstream_peer,
            span,
            wire,
            request_pipe,
            response_pipe,
            refusal,
            new_body,
            unsized_response,
            drop_request_body,
            response_ends_with_head,
            override_host,
        } = self;
        request.clear();
        response.clear();
        request_trailers.clear();
        response_trailers.clear();
        buffered.clear();
        buffered.shrink_to(RETAINED_BUFFER_BYTES);
        filters.clear();
        *stream_id = Default::default();
        *protocol = Default::default();
        *head_request = Default::default();
        *upgrade = Default::default();
        *grpc = Default::default();
        *request_ends_with_head = Default::default();
        *times = Default::default();
        *flags = Default::default();
        *details = Default::default();
        *termination = Default::default();
        *status = Default::default();
        *bytes_received = Default::default();
        *bytes_sent = Default::default();
        *attempts = Default::default();
        *upstream = Default::default();
        *remote = Default::default();
        *internal = Default::default();
        *route_name = Default::default();
        *virtual_host = Default::default();
        *virtual_cluster = Default::default();
        *vcluster = Default::default();
        metadata.clear();
        *state = Default::default();
        *health_check = Default::default();
        *route_cleared = Default::default();
        *alpn = Default::default();
        *redirects = Default::default();
        *filters_run = Default::default();
        *tls_first = Default::default();
        *set_cookie = Default::default();
        *taps_request = Default::default();
        *taps_response = Default::default();
        *body_collected = Default::default();
        *waited = Default::default();
        *underscore_dropped = Default::default();
        *random = Default::default();
        *downstream_peer = Default::default();
        *upstream_peer = Default::default();
        *span = Default::default();
        *wire = Default::default();
        *request_pipe = Default::default();
        *response_pipe = Default::default();
        *refusal = Default::default();
        *new_body = Default::default();
        *unsized_response = Default::default();
        *drop_request_body = Default::default();
        *response_ends_with_head = Default::default();
        *override_host = Default::default();
    }

    /// Sets the response code details and adds flags.
    pub fn fail(&mut self, flags: ResponseFlags, details: impl Into<Cow<'static, str>>) {
        self.flags.insert(flags);
        self.details = details.into();
    }
}
