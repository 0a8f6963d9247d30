//! Small builders for Envoy messages that every translator needs: addresses, durations, `Any`, string matchers,
//! metadata. No decisions here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use prost_types::{Any, Struct, Value, value::Kind};
use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as listener;
use protos::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use protos::envoy::r#type::matcher::v3 as matcher;
use protos::envoy::r#type::v3 as typ;

/// A message under its type URL.
pub fn any<T: prost_types_message::Packed>(message: &T) -> Any {
    protos::any(message)
}

mod prost_types_message {
    //! One name for the bounds of [`protos::any`].
    pub trait Packed: protos::prost::Message + protos::prost::Name {}
    impl<T: protos::prost::Message + protos::prost::Name> Packed for T {}
}

/// A duration.
pub fn duration(d: std::time::Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(d.subsec_nanos()).expect("below 10^9"),
    }
}

/// A duration of the API; negative ones are zero.
pub fn api_duration(d: api::Duration) -> prost_types::Duration {
    duration(d.to_std())
}

/// Zero, Envoy's word for "no timeout" in most places.
pub const fn no_timeout() -> prost_types::Duration {
    prost_types::Duration { seconds: 0, nanos: 0 }
}

/// `host:port` or, for a path, a pipe.
pub fn address(host: &str, port: u32) -> core::Address {
    let inner = match host.strip_prefix("unix://").or_else(|| host.starts_with(['/', '@']).then_some(host)) {
        Some(path) => core::address::Address::Pipe(core::Pipe { path: path.to_owned(), ..Default::default() }),
        None => core::address::Address::SocketAddress(core::SocketAddress {
            address: host.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
            ..Default::default()
        }),
    };
    core::Address { address: Some(inner) }
}

/// An address or CIDR as a range; `None` when it is neither.
pub fn cidr(text: &str) -> Option<core::CidrRange> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address.parse::<IpAddr>().ok()?, len.parse().ok()?),
        None => {
            let ip: IpAddr = text.parse().ok()?;
            (ip, if ip.is_ipv4() { 32 } else { 128 })
        }
    };
    let max = if address.is_ipv4() { 32 } else { 128 };
    (len <= max).then(|| core::CidrRange { address_prefix: address.to_string(), prefix_len: Some(len) })
}

/// A transport socket holding `config`.
pub fn transport_socket(name: &str, config: Any) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// The plain-text transport socket.
pub fn raw_buffer() -> core::TransportSocket {
    use protos::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
    transport_socket("envoy.transport_sockets.raw_buffer", any(&RawBuffer::default()))
}

/// A network filter.
pub fn network_filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) }
}

/// A listener filter.
pub fn listener_filter(name: &str, config: Any) -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: name.to_owned(),
        filter_disabled: None,
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(config)),
    }
}

/// An HTTP filter.
pub fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// Configuration over the aggregated stream.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
        initial_fetch_timeout: Some(no_timeout()),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

/// An RE2 pattern.
pub fn regex(pattern: impl Into<String>) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: pattern.into(), ..Default::default() }
}

/// A string matcher.
pub fn string_matcher(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

/// Exact matchers for all of these.
pub fn exact_matchers(texts: &[String]) -> Vec<matcher::StringMatcher> {
    texts.iter().map(|t| string_matcher(matcher::string_matcher::MatchPattern::Exact(t.clone()))).collect()
}

/// The API's string match; `None` for mere presence (also the historical regex `*`).
pub fn api_string_match(m: &api::StringMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    Some(string_matcher(match m {
        api::StringMatch::Present => return None,
        api::StringMatch::Regex(r) if r == "*" => return None,
        api::StringMatch::Exact(s) => MatchPattern::Exact(s.clone()),
        api::StringMatch::Prefix(s) => MatchPattern::Prefix(s.clone()),
        api::StringMatch::Regex(s) => MatchPattern::SafeRegex(regex(s.clone())),
    }))
}

/// A whole-number percentage.
pub fn percent(value: u32) -> typ::FractionalPercent {
    typ::FractionalPercent { numerator: value, denominator: typ::fractional_percent::DenominatorType::Hundred as i32 }
}

/// A fractional percentage, in millionths as Istio writes it.
pub fn percent_f64(value: f64) -> typ::FractionalPercent {
    typ::FractionalPercent {
        numerator: (value * 10_000.0) as u32,
        denominator: typ::fractional_percent::DenominatorType::Million as i32,
    }
}

/// A percentage without runtime key.
pub fn runtime_percent(value: typ::FractionalPercent) -> core::RuntimeFractionalPercent {
    core::RuntimeFractionalPercent { default_value: Some(value), runtime_key: String::new() }
}

/// A string value.
pub fn text_value(text: impl Into<String>) -> Value {
    Value { kind: Some(Kind::StringValue(text.into())) }
}

/// A boolean value.
pub fn bool_value(b: bool) -> Value {
    Value { kind: Some(Kind::BoolValue(b)) }
}

/// A number value.
pub fn number_value(n: f64) -> Value {
    Value { kind: Some(Kind::NumberValue(n)) }
}

/// A list value.
pub fn list_value(values: Vec<Value>) -> Value {
    Value { kind: Some(Kind::ListValue(prost_types::ListValue { values })) }
}

/// An object value.
pub fn object_value<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value { kind: Some(Kind::StructValue(object(fields))) }
}

/// A `Struct`.
pub fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect() }
}

/// Metadata under the `istio` namespace, created on first use.
pub fn istio_metadata(metadata: &mut Option<core::Metadata>) -> &mut BTreeMap<String, Value> {
    let metadata = metadata.get_or_insert_default();
    &mut metadata.filter_metadata.entry("istio".to_owned()).or_default().fields
}

/// `filter_metadata.istio.config`: the path of the resource that caused this part of the configuration.
pub fn config_path(kind: &names::Kind, namespace: &str, name: &str) -> String {
    format!("/apis/{}/namespaces/{namespace}/{}/{name}", kind.api_version(), kebab(kind.name()))
}

/// Metadata that names the source resource.
pub fn config_metadata(kind: &names::Kind, namespace: &str, name: &str) -> Option<core::Metadata> {
    let mut metadata = None;
    istio_metadata(&mut metadata).insert("config".to_owned(), text_value(config_path(kind, namespace, name)));
    metadata
}

/// `VirtualService` → `virtual-service`.
fn kebab(kind: &str) -> String {
    let mut out = String::with_capacity(kind.len() + 4);
    for (i, c) in kind.chars().enumerate() {
        if c.is_ascii_uppercase() && i > 0 {
            out.push('-');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// `host:port` with brackets around IPv6 addresses.
pub fn host_port(host: &str, port: u32) -> String {
    format!("{}:{port}", bracketed(host))
}

/// IPv6 addresses in brackets, everything else as it is.
pub fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

/// A stat prefix that ends in `;`, so that Istio's tag extraction finds its end.
pub fn delimited(prefix: &str) -> String {
    format!("{prefix};")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_hosts() {
        assert_eq!(
            config_path(&names::Kind::VirtualService, "ns", "a"),
            "/apis/networking.istio.io/v1/namespaces/ns/virtual-service/a"
        );
        assert_eq!(host_port("2001:db8::1", 80), "[2001:db8::1]:80");
        assert_eq!(cidr("10.0.0.0/8").map(|c| c.prefix_len), Some(Some(8)));
        assert_eq!(cidr("10.0.0.0/80"), None);
        assert_eq!(cidr("host"), None);
        assert_eq!(percent_f64(0.5).numerator, 5000);
    }
}
