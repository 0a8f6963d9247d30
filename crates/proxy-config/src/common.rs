//! Which small values recur in every resource? Addresses, metadata, fractions, structured values.
//!
//! Used by all other modules; holds no policy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use crate::Name;

/// `google.protobuf.Value`, shared and immutable.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// JSON null.
    Null,
    /// JSON boolean.
    Bool(bool),
    /// JSON number.
    Number(f64),
    /// JSON string.
    String(Arc<str>),
    /// JSON array.
    List(Arc<[Value]>),
    /// JSON object.
    Struct(Arc<BTreeMap<Name, Value>>),
}

impl Value {
    /// The member `key` of a struct.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Struct(m) => m.get(key),
            _ => None,
        }
    }

    /// Follows `path` through nested structs; an empty path is the value itself.
    pub fn path<S: AsRef<str>>(&self, path: &[S]) -> Option<&Value> {
        path.iter().try_fold(self, |v, key| v.get(key.as_ref()))
    }

    /// The text of a string value.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }
}

/// `envoy.config.core.v3.Metadata`: filter name to struct.
///
/// Eight bytes when empty. Metadata from configuration stays encoded until somebody reads it: most of it never is
/// read, and a decoded tree takes some ten times the room.
#[derive(Debug, Clone, Default)]
pub struct Metadata(Option<Arc<MetadataInner>>);

#[derive(Debug)]
struct MetadataInner {
    /// The encoded message; empty when `fields` was given.
    encoded: Box<[u8]>,
    fields: OnceLock<BTreeMap<Name, Value>>,
}

impl Metadata {
    /// Metadata from an encoded `envoy.config.core.v3.Metadata` that is known to decode; empty bytes are empty metadata.
    pub(crate) fn encoded(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(MetadataInner { encoded: bytes.into(), fields: OnceLock::new() })))
    }

    /// Metadata from its fields.
    pub fn from_fields(fields: BTreeMap<Name, Value>) -> Self {
        Self(Some(Arc::new(MetadataInner { encoded: Box::default(), fields: OnceLock::from(fields) })))
    }

    /// All fields by filter name.
    pub fn fields(&self) -> Option<&BTreeMap<Name, Value>> {
        let inner = self.0.as_ref()?;
        Some(inner.fields.get_or_init(|| crate::parse::metadata_fields(&inner.encoded)))
    }

    /// The struct of `filter`.
    pub fn filter(&self, filter: &str) -> Option<&Value> {
        self.fields()?.get(filter)
    }

    /// The value at `filter` followed by `path`.
    pub fn get<S: AsRef<str>>(&self, filter: &str, path: &[S]) -> Option<&Value> {
        self.filter(filter)?.path(path)
    }

    /// Where it lives: equal for clones, 0 when empty. A cache that uses it as a key keeps a clone.
    pub fn address(&self) -> usize {
        self.0.as_ref().map_or(0, |inner| Arc::as_ptr(inner) as usize)
    }

    /// True when no filter has metadata.
    pub fn is_empty(&self) -> bool {
        self.fields().is_none_or(BTreeMap::is_empty)
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => {
                Arc::ptr_eq(a, b)
                    || (!a.encoded.is_empty() && a.encoded == b.encoded)
                    || self.fields() == other.fields()
            }
            _ => false,
        }
    }
}

/// `envoy.config.core.v3.Address`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A numeric IP and port.
    Socket(SocketAddr),
    /// A host name to resolve, with a port.
    Dns {
        /// Host name as configured.
        host: Name,
        /// TCP port.
        port: u16,
    },
    /// A Unix domain socket; a leading `@` names the abstract space.
    Pipe {
        /// Path.
        path: Name,
        /// File mode, 0 for the default.
        mode: u32,
    },
    /// An internal listener in this process (`envoy_internal_address`).
    Internal {
        /// `server_listener_name`.
        listener: Name,
        /// `endpoint_id`, empty when absent.
        endpoint_id: Name,
    },
}

impl Address {
    /// The numeric socket address, if it is one.
    pub fn socket(&self) -> Option<SocketAddr> {
        match self {
            Address::Socket(a) => Some(*a),
            _ => None,
        }
    }
}

impl std::fmt::Display for Address {
    /// As Envoy prints addresses: `1.2.3.4:80`, `[::1]:80`, `host:80`, `/path`, `envoy://listener/endpoint`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Socket(a) => write!(f, "{a}"),
            Address::Dns { host, port } => write!(f, "{host}:{port}"),
            Address::Pipe { path, .. } => f.write_str(path),
            Address::Internal { listener, endpoint_id } => write!(f, "envoy://{listener}/{endpoint_id}"),
        }
    }
}

/// A probability, `envoy.type.v3.FractionalPercent`, with the runtime key that may override it in Envoy.
///
/// This proxy has no runtime layer that changes under way; the key is kept for admin output only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// Out of `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl Fraction {
    /// Always.
    pub const ALWAYS: Fraction = Fraction { numerator: 100, denominator: 100 };
    /// Never.
    pub const NEVER: Fraction = Fraction { numerator: 0, denominator: 100 };

    /// True for `random` drawn uniformly from `u64`, as Envoy evaluates it (`random % denominator < numerator`).
    #[inline]
    pub fn hit(&self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }

    /// True when every draw hits.
    pub fn is_always(&self) -> bool {
        self.numerator >= self.denominator
    }
}

/// `envoy.config.core.v3.DataSource`, resolved as far as it can be without I/O.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    /// The bytes themselves (`inline_bytes`, `inline_string`).
    Inline(Arc<[u8]>),
    /// A file to read (`filename`), watched when `watched_directory` is set.
    File {
        /// Path.
        path: Name,
        /// Directory whose change means that the file changed.
        watched_directory: Option<Name>,
    },
    /// An environment variable.
    Env(Name),
}

/// Where a discovery resource comes from; `envoy.config.core.v3.ConfigSource`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConfigSource {
    /// The aggregated stream (also `self`).
    Ads {
        /// `initial_fetch_timeout`; zero disables it, the default is 15 s.
        initial_fetch_timeout: std::time::Duration,
    },
    /// A dedicated gRPC stream (state of the world or delta) to `cluster`.
    Grpc {
        /// The cluster that serves the stream.
        cluster: Name,
        /// True for delta.
        delta: bool,
        /// `initial_fetch_timeout`.
        initial_fetch_timeout: std::time::Duration,
    },
    /// A watched file with a `DiscoveryResponse`.
    Path(Name),
}

/// A range of signed integers, `[start, end)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int64Range {
    /// First value.
    pub start: i64,
    /// One past the last value.
    pub end: i64,
}

/// Exponential back-off, `envoy.config.core.v3.BackoffStrategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// First interval.
    pub base: std::time::Duration,
    /// Longest interval.
    pub max: std::time::Duration,
}

/// A gRPC service to call, `envoy.config.core.v3.GrpcService` (`envoy_grpc` only).
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcService {
    /// Cluster that answers.
    pub cluster: Name,
    /// `:authority` to send; the cluster name when absent.
    pub authority: Option<Name>,
    /// Call timeout.
    pub timeout: Option<std::time::Duration>,
    /// `initial_metadata`, name and value (value may be a format string).
    pub initial_metadata: Box<[(Name, Name)]>,
}

/// An HTTP service to call, `envoy.config.core.v3.HttpUri` (and `HttpService`).
#[derive(Debug, Clone, PartialEq)]
pub struct HttpUri {
    /// Full URI.
    pub uri: Name,
    /// Cluster that answers.
    pub cluster: Name,
    /// Call timeout.
    pub timeout: std::time::Duration,
}

/// An IP network with Envoy's textual form.
pub type Cidr = ipnet::IpNet;

/// True when `net` contains `ip`, treating a v4-mapped v6 address as v4.
pub fn contains(net: &Cidr, ip: IpAddr) -> bool {
    net.contains(&ip.to_canonical())
}
