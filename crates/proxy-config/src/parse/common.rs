//! How are the recurring core messages read? Durations, addresses, metadata, fractions, sources.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use protos::envoy::config::core::v3 as core;
use protos::envoy::r#type::v3 as ty;
use protos::prost_types as pt;

use crate::Name;
use crate::common::{
    Address, Backoff, Cidr, ConfigSource, DataSource, Fraction, GrpcService, HttpUri, Metadata, Value,
};
use crate::error::{At, Result, invalid, missing, unsupported};

/// Longest duration accepted, as in protobuf.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;

/// A non-negative duration.
pub(super) fn duration(d: &pt::Duration) -> Result<Duration> {
    let bad = || invalid("Invalid duration: Expected positive duration");
    if d.seconds > DURATION_SECONDS_MAX || !(0..1_000_000_000).contains(&d.nanos) {
        return Err(bad());
    }
    let seconds = u64::try_from(d.seconds).map_err(|_| bad())?;
    Ok(Duration::new(seconds, d.nanos as u32))
}

/// An optional duration field.
pub(super) fn opt_duration(field: &str, d: &Option<pt::Duration>) -> Result<Option<Duration>> {
    d.as_ref().map(duration).transpose().at(field)
}

/// An optional duration where zero means "disabled": default when absent, `None` when zero.
pub(super) fn disabling(field: &str, d: &Option<pt::Duration>, default: Option<Duration>) -> Result<Option<Duration>> {
    Ok(match opt_duration(field, d)? {
        None => default,
        Some(Duration::ZERO) => None,
        some => some,
    })
}

/// A required positive duration.
pub(super) fn required_duration(field: &str, d: &Option<pt::Duration>) -> Result<Duration> {
    opt_duration(field, d)?.ok_or_else(|| missing(field))
}

/// A name; the empty one, which is the most frequent, is one for all.
pub(super) fn name(s: &str) -> Name {
    static EMPTY: LazyLock<Name> = LazyLock::new(|| "".into());
    if s.is_empty() { EMPTY.clone() } else { s.into() }
}

/// `None` when empty.
pub(super) fn opt_name(s: &str) -> Option<Name> {
    (!s.is_empty()).then(|| s.into())
}

/// A required string.
pub(super) fn required(field: &str, s: &str) -> Result<Name> {
    if s.is_empty() { Err(invalid("value length must be at least 1 characters").at(field)) } else { Ok(s.into()) }
}

/// A port number.
pub(super) fn port(n: u32) -> Result<u16> {
    u16::try_from(n).map_err(|_| invalid(format!("port {n} is out of range")))
}

/// An HTTP status.
pub(super) fn status(n: u32) -> Result<u16> {
    if (200..600).contains(&n) { Ok(n as u16) } else { Err(invalid(format!("status {n} must be in [200, 600)"))) }
}

/// `envoy.type.v3.HttpStatus` with default; codes below `at_least` are replaced by the default as Envoy does.
pub(super) fn http_status(s: &Option<ty::HttpStatus>, default: u16, at_least: i32) -> u16 {
    s.as_ref().map(|s| s.code).filter(|c| (at_least.max(100)..600).contains(c)).map_or(default, |c| c as u16)
}

/// An IP address.
pub(super) fn ip(s: &str) -> Result<IpAddr> {
    s.parse().map_err(|_| invalid(format!("malformed IP address: {s}")))
}

/// `CidrRange`, host bits cleared.
pub(super) fn cidr(c: &core::CidrRange) -> Result<Cidr> {
    let addr = ip(&c.address_prefix).at("address_prefix")?;
    let len = c.prefix_len.unwrap_or(0);
    let len =
        u8::try_from(len).map_err(|_| invalid(format!("prefix length {len} is out of range")).at("prefix_len"))?;
    Cidr::new(addr, len)
        .map(|n| n.trunc())
        .map_err(|_| invalid(format!("prefix length {len} is out of range")).at("prefix_len"))
}

/// `SocketAddress`
pub(super) fn socket_address(a: &core::SocketAddress) -> Result<Address> {
    use core::socket_address::PortSpecifier;
    if a.protocol != core::socket_address::Protocol::Tcp as i32 {
        return Err(unsupported("UDP").at("protocol"));
    }
    super::reject!(a; network_namespace_filepath);
    if !a.resolver_name.is_empty() && a.resolver_name != "envoy.ip" {
        return Err(unsupported(format!("resolver {}", a.resolver_name)).at("resolver_name"));
    }
    let port = match &a.port_specifier {
        Some(PortSpecifier::PortValue(p)) => port(*p).at("port_value")?,
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(unsupported("a named port").at("named_port"));
        }
        None => 0,
    };
    Ok(match a.address.parse::<IpAddr>() {
        Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
        Err(_) => Address::Dns { host: required("address", &a.address)?, port },
    })
}

/// `Address`
pub(super) fn address(a: &core::Address) -> Result<Address> {
    use core::address::Address as A;
    match &a.address {
        Some(A::SocketAddress(s)) => socket_address(s).at("socket_address"),
        Some(A::Pipe(p)) => Ok(Address::Pipe { path: required("path", &p.path).at("pipe")?, mode: p.mode }),
        Some(A::EnvoyInternalAddress(i)) => {
            let Some(core::envoy_internal_address::AddressNameSpecifier::ServerListenerName(listener)) =
                &i.address_name_specifier
            else {
                return Err(missing("address_name_specifier").at("envoy_internal_address"));
            };
            Ok(Address::Internal { listener: listener.as_str().into(), endpoint_id: i.endpoint_id.as_str().into() })
        }
        None => Err(missing("address")),
    }
}

/// A required address field.
pub(super) fn required_address(field: &str, a: &Option<core::Address>) -> Result<Address> {
    address(a.as_ref().ok_or_else(|| missing(field))?).at(field)
}

/// `google.protobuf.Value`
pub(super) fn value(v: &pt::Value) -> Value {
    use pt::value::Kind;
    match &v.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(b)) => Value::Bool(*b),
        Some(Kind::NumberValue(n)) => Value::Number(*n),
        Some(Kind::StringValue(s)) => Value::String(s.as_str().into()),
        Some(Kind::ListValue(l)) => Value::List(l.values.iter().map(value).collect()),
        Some(Kind::StructValue(s)) => value_of_struct(s),
    }
}

/// `google.protobuf.Struct` as a [`Value`].
pub fn value_of_struct(s: &pt::Struct) -> Value {
    Value::Struct(Arc::new(fields(s)))
}

fn fields(s: &pt::Struct) -> BTreeMap<Name, Value> {
    s.fields.iter().map(|(k, v)| (k.as_str().into(), value(v))).collect()
}

/// `Metadata`; typed metadata has no consumer here and is informational.
pub(super) fn metadata(m: &Option<core::Metadata>) -> Metadata {
    use protos::prost::Message as _;
    let Some(m) = m.as_ref().filter(|m| !m.filter_metadata.is_empty()) else {
        return Metadata::default();
    };
    let plain = core::Metadata { filter_metadata: m.filter_metadata.clone(), ..Default::default() };
    Metadata::encoded(plain.encode_to_vec())
}

/// Decodes metadata that [`metadata`] encoded.
pub(crate) fn metadata_fields(encoded: &[u8]) -> BTreeMap<Name, Value> {
    use protos::prost::Message as _;
    let m = core::Metadata::decode(encoded).expect("metadata() encoded these bytes");
    m.filter_metadata.iter().map(|(k, s)| (k.as_str().into(), value_of_struct(s))).collect()
}

/// The sorted entries of a struct, for subset matching.
pub(super) fn entries(s: &pt::Struct) -> Arc<[(Name, Value)]> {
    fields(s).into_iter().collect()
}

/// `metadata_match`: the `envoy.lb` entries.
pub(super) fn metadata_match(m: &Option<core::Metadata>) -> Option<Arc<[(Name, Value)]>> {
    m.as_ref()?.filter_metadata.get("envoy.lb").map(entries).filter(|e| !e.is_empty())
}

/// `FractionalPercent`
pub(super) fn fraction(f: &ty::FractionalPercent) -> Result<Fraction> {
    let denominator = match f.denominator {
        0 => 100,
        1 => 10_000,
        2 => 1_000_000,
        n => return Err(invalid(format!("unknown denominator {n}")).at("denominator")),
    };
    Ok(Fraction { numerator: f.numerator, denominator })
}

/// `RuntimeFractionalPercent`; the runtime key has no effect (see `ignored`).
pub(super) fn runtime_fraction(
    field: &str,
    f: &Option<core::RuntimeFractionalPercent>,
    default: Fraction,
) -> Result<Fraction> {
    match f {
        None => Ok(default),
        Some(f) => f.default_value.as_ref().map_or(Ok(default), fraction).at(field),
    }
}

/// `Percent` as a fraction of a million, rounded as Envoy rounds (to hundredths of a percent).
pub(super) fn percent(field: &str, p: &Option<ty::Percent>, default: Fraction) -> Result<Fraction> {
    let Some(p) = p else { return Ok(default) };
    if !(0.0..=100.0).contains(&p.value) {
        return Err(invalid(format!("percentage {} is out of range", p.value)).at(field));
    }
    Ok(Fraction { numerator: (p.value * 100.0).round() as u32, denominator: 10_000 })
}

/// `Percent` as a number.
pub(super) fn percent_value(field: &str, p: &Option<ty::Percent>, default: f64) -> Result<f64> {
    match p {
        None => Ok(default),
        Some(p) if (0.0..=100.0).contains(&p.value) => Ok(p.value),
        Some(p) => Err(invalid(format!("percentage {} is out of range", p.value)).at(field)),
    }
}

/// `DataSource`
pub(super) fn data_source(d: &core::DataSource) -> Result<DataSource> {
    use core::data_source::Specifier as S;
    Ok(match &d.specifier {
        Some(S::Filename(path)) => DataSource::File {
            path: required("filename", path)?,
            watched_directory: d.watched_directory.as_ref().map(|w| w.path.as_str().into()),
        },
        Some(S::InlineBytes(b)) => DataSource::Inline(b.as_slice().into()),
        Some(S::InlineString(s)) => DataSource::Inline(s.as_bytes().into()),
        Some(S::EnvironmentVariable(v)) => DataSource::Env(required("environment_variable", v)?),
        None => return Err(missing("specifier")),
    })
}

/// An optional data source field.
pub(super) fn opt_data_source(field: &str, d: &Option<core::DataSource>) -> Result<Option<DataSource>> {
    d.as_ref().map(data_source).transpose().at(field)
}

/// A data source that must be inline, as text or bytes.
pub(super) fn inline(d: &core::DataSource) -> Result<Arc<[u8]>> {
    match data_source(d)? {
        DataSource::Inline(b) => Ok(b),
        DataSource::File { .. } | DataSource::Env(_) => Err(unsupported("a source other than inline")),
    }
}

/// `ConfigSource`
pub(super) fn config_source(c: &core::ConfigSource) -> Result<ConfigSource> {
    use core::api_config_source::ApiType;
    use core::config_source::ConfigSourceSpecifier as S;
    let initial_fetch_timeout =
        opt_duration("initial_fetch_timeout", &c.initial_fetch_timeout)?.unwrap_or(Duration::from_secs(15));
    Ok(match &c.config_source_specifier {
        Some(S::Ads(_) | S::Self_(_)) => ConfigSource::Ads { initial_fetch_timeout },
        Some(S::Path(p)) => ConfigSource::Path(required("path", p)?),
        Some(S::PathConfigSource(p)) => ConfigSource::Path(required("path", &p.path).at("path_config_source")?),
        Some(S::ApiConfigSource(a)) => match ApiType::try_from(a.api_type) {
            Ok(ApiType::AggregatedGrpc | ApiType::AggregatedDeltaGrpc) => ConfigSource::Ads { initial_fetch_timeout },
            Ok(t @ (ApiType::Grpc | ApiType::DeltaGrpc)) => {
                let service =
                    a.grpc_services.first().ok_or_else(|| missing("grpc_services").at("api_config_source"))?;
                ConfigSource::Grpc {
                    cluster: grpc_service(service).at_index("grpc_services", 0).at("api_config_source")?.cluster,
                    delta: t == ApiType::DeltaGrpc,
                    initial_fetch_timeout,
                }
            }
            _ => {
                return Err(unsupported("this api_type").at("api_type").at("api_config_source"));
            }
        },
        None => return Err(missing("config_source_specifier")),
    })
}

/// A source of what is only taken from a management server: listeners, clusters, routes and filters. Secrets and endpoints
/// may come from files.
pub(super) fn streamed_source(c: &core::ConfigSource) -> Result<ConfigSource> {
    match config_source(c)? {
        ConfigSource::Path(_) => Err(unsupported("a file as a source of this type")),
        streamed => Ok(streamed),
    }
}

/// `GrpcService`
pub(super) fn grpc_service(g: &core::GrpcService) -> Result<GrpcService> {
    use core::grpc_service::TargetSpecifier as T;
    match &g.target_specifier {
        Some(T::EnvoyGrpc(e)) => Ok(GrpcService {
            cluster: required("cluster_name", &e.cluster_name).at("envoy_grpc")?,
            authority: opt_name(&e.authority),
            timeout: opt_duration("timeout", &g.timeout)?,
            initial_metadata: g
                .initial_metadata
                .iter()
                .map(|h| (h.key.to_ascii_lowercase().into(), h.value.as_str().into()))
                .collect(),
        }),
        Some(T::GoogleGrpc(_)) => Err(unsupported("google_grpc").at("google_grpc")),
        None => Err(missing("target_specifier")),
    }
}

/// A required gRPC service field.
pub(super) fn required_grpc(field: &str, g: &Option<core::GrpcService>) -> Result<GrpcService> {
    grpc_service(g.as_ref().ok_or_else(|| missing(field))?).at(field)
}

/// `HttpUri`
pub(super) fn http_uri(u: &core::HttpUri) -> Result<HttpUri> {
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &u.http_upstream_type else {
        return Err(missing("cluster"));
    };
    Ok(HttpUri {
        uri: required("uri", &u.uri)?,
        cluster: required("cluster", cluster)?,
        timeout: required_duration("timeout", &u.timeout)?,
    })
}

/// `BackoffStrategy` with Envoy's default maximum of ten times the base.
pub(super) fn backoff(base: &Option<pt::Duration>, max: &Option<pt::Duration>) -> Result<Backoff> {
    let base = required_duration("base_interval", base)?;
    let max = opt_duration("max_interval", max)?.unwrap_or(base * 10);
    if base.is_zero() {
        return Err(invalid("value must be greater than 0").at("base_interval"));
    }
    if max < base {
        return Err(invalid("max_interval must be greater than or equal to the base_interval"));
    }
    Ok(Backoff { base, max })
}

/// `MetadataKey`: namespace and path.
pub(super) fn metadata_key(
    k: &Option<protos::envoy::r#type::metadata::v3::MetadataKey>,
) -> Result<(Name, Box<[Name]>)> {
    use protos::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    let k = k.as_ref().ok_or_else(|| missing("metadata_key"))?;
    let path = super::each("path", &k.path, |s| match &s.segment {
        Some(Segment::Key(key)) => Ok(Name::from(key.as_str())),
        Some(Segment::Index(_)) => Err(unsupported("an index")),
        None => Err(missing("segment")),
    });
    Ok((required("key", &k.key).at("metadata_key")?, path.at("metadata_key")?))
}

/// `TokenBucket`
pub(super) fn token_bucket(t: &ty::TokenBucket) -> Result<crate::filters::network::TokenBucket> {
    let fill_interval = required_duration("fill_interval", &t.fill_interval)?;
    if t.max_tokens == 0 {
        return Err(invalid("value must be greater than 0").at("max_tokens"));
    }
    if fill_interval < Duration::from_millis(50) {
        return Err(invalid("local rate limit token bucket fill timer must be >= 50ms").at("fill_interval"));
    }
    Ok(crate::filters::network::TokenBucket {
        max_tokens: t.max_tokens,
        tokens_per_fill: t.tokens_per_fill.unwrap_or(1),
        fill_interval,
    })
}
