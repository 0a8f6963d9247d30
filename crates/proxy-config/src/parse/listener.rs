//! How is a `Listener` compiled?

use std::sync::Arc;
use std::time::Duration;

use protos::envoy::config::core::v3 as core;
use protos::envoy::config::listener::v3 as p;
use protos::envoy::extensions::filters::listener as f;

use super::any::{Typed, no_config};
use super::common::{self, cidr, metadata, opt_duration, opt_name, required_address};
use super::{each, reject};
use crate::Name;
use crate::error::{At, Result, invalid, missing, unsupported};
use crate::filter_chain::{FilterChainMatch, FilterChains, PortSet, SourceType};
use crate::listener::*;

const BUFFER_BYTES: u32 = 1024 * 1024;
const LISTENER_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

/// Compiles a `Listener`.
pub fn listener(l: &p::Listener) -> Result<Listener> {
    reject!(l; stats_matcher, fcds_config, filter_chain_matcher, per_connection_buffer_high_watermark_timeout,
        socket_options, udp_listener_config, api_listener, enable_mptcp);
    let internal = matches!(l.listener_specifier, Some(p::listener::ListenerSpecifier::InternalListener(_)));
    let address = if internal {
        if l.address.is_some() {
            return Err(invalid("internal listener does not have an address").at("address"));
        }
        ListenAddress::Internal
    } else {
        match required_address("address", &l.address)? {
            crate::common::Address::Internal { .. } => ListenAddress::Internal,
            other => ListenAddress::Bound(other),
        }
    };
    let mut chains = Vec::with_capacity(l.filter_chains.len());
    for (i, c) in l.filter_chains.iter().enumerate() {
        let m = chain_match(&c.filter_chain_match.clone().unwrap_or_default()).at("filter_chain_match");
        chains.push((m.at_index("filter_chains", i)?, Arc::new(chain(c).at_index("filter_chains", i)?)));
    }
    let default = l.default_filter_chain.as_ref().map(chain).transpose().at("default_filter_chain")?.map(Arc::new);
    if chains.is_empty() && default.is_none() {
        return Err(invalid(format!("error adding listener '{}': no filter chains specified", l.name)));
    }
    let direction = match l.traffic_direction {
        0 => TrafficDirection::Unspecified,
        1 => TrafficDirection::Inbound,
        2 => TrafficDirection::Outbound,
        n => return Err(invalid(format!("unknown value {n}")).at("traffic_direction")),
    };
    Ok(Listener {
        name: l.name.as_str().into(),
        stat_prefix: opt_name(&l.stat_prefix),
        address,
        additional_addresses: each("additional_addresses", &l.additional_addresses, |a| {
            reject!(a; socket_options);
            required_address("address", &a.address)
        })?,
        bind_to_port: l.bind_to_port.or(l.deprecated_v1.as_ref().and_then(|d| d.bind_to_port)).unwrap_or(true),
        use_original_dst: l.use_original_dst.unwrap_or(false),
        transparent: l.transparent.unwrap_or(false),
        freebind: l.freebind.unwrap_or(false),
        traffic_direction: direction,
        listener_filters: each("listener_filters", &l.listener_filters, listener_filter)?,
        listener_filters_timeout: opt_duration("listener_filters_timeout", &l.listener_filters_timeout)?
            .unwrap_or(LISTENER_FILTERS_TIMEOUT),
        continue_on_listener_filters_timeout: l.continue_on_listener_filters_timeout,
        chains: FilterChains::build(chains, default)?,
        per_connection_buffer_limit_bytes: l.per_connection_buffer_limit_bytes.unwrap_or(BUFFER_BYTES),
        access_logs: super::access_log::logs(&l.access_log)?,
        tcp_backlog_size: l.tcp_backlog_size,
        tcp_fast_open_queue_length: l.tcp_fast_open_queue_length,
        ignore_global_conn_limit: l.ignore_global_conn_limit,
        drain_modify_only: l.drain_type == 1,
        metadata: metadata(&l.metadata),
    })
}

fn chain_match(m: &p::FilterChainMatch) -> Result<FilterChainMatch> {
    reject!(m; address_suffix, suffix_len);
    let cidrs = |field: &str, l: &[core::CidrRange]| each(field, l, cidr);
    let source_type = match m.source_type {
        0 => SourceType::Any,
        1 => SourceType::SameIpOrLoopback,
        2 => SourceType::External,
        n => return Err(invalid(format!("unknown value {n}")).at("source_type")),
    };
    let server_names = each("server_names", &m.server_names, |n: &String| {
        let inner = n.strip_prefix("*.").unwrap_or(n);
        if inner.contains('*') && n != "*" {
            return Err(invalid(format!("partial wildcards are not supported in \"server_names\" ({n})")));
        }
        Ok(n.to_ascii_lowercase())
    })?;
    Ok(FilterChainMatch {
        destination_port: m.destination_port.map(common::port).transpose().at("destination_port")?,
        prefix_ranges: cidrs("prefix_ranges", &m.prefix_ranges)?,
        server_names,
        transport_protocol: m.transport_protocol.clone(),
        application_protocols: m.application_protocols.clone(),
        direct_source_prefix_ranges: cidrs("direct_source_prefix_ranges", &m.direct_source_prefix_ranges)?,
        source_type,
        source_prefix_ranges: cidrs("source_prefix_ranges", &m.source_prefix_ranges)?,
        source_ports: each("source_ports", &m.source_ports, |p: &u32| common::port(*p))?,
    })
}

fn chain(c: &p::FilterChain) -> Result<FilterChain> {
    if c.use_proxy_proto == Some(true) {
        return Err(unsupported("use_proxy_proto; use the proxy_protocol listener filter").at("use_proxy_proto"));
    }
    let filters: Vec<NetworkFilter> = each("filters", &c.filters, |f| {
        let any = match &f.config_type {
            Some(p::filter::ConfigType::TypedConfig(any)) => any,
            Some(p::filter::ConfigType::ConfigDiscovery(_)) => {
                return Err(unsupported("config_discovery").at("config_discovery"));
            }
            None => return Err(no_config(&f.name)),
        };
        super::network::filter(&f.name, any).at("typed_config")
    })?;
    for (i, f) in filters.iter().enumerate() {
        let last = i + 1 == filters.len();
        if f.kind.is_terminal() && !last {
            return Err(invalid(format!(
                "Error: terminal filter named {} of type {} must be the last filter in a network filter chain.",
                f.name, f.name
            ))
            .at_index("filters", i));
        }
        if last && !f.kind.is_terminal() {
            return Err(invalid(format!(
                "Error: non-terminal filter named {} of type {} is the last filter in a network filter chain.",
                f.name, f.name
            ))
            .at_index("filters", i));
        }
    }
    Ok(FilterChain {
        name: c.name.as_str().into(),
        transport: transport(c.transport_socket.as_ref()).at("transport_socket")?,
        filters: filters.into(),
        transport_socket_connect_timeout: opt_duration(
            "transport_socket_connect_timeout",
            &c.transport_socket_connect_timeout,
        )?
        .filter(|d| !d.is_zero()),
        metadata: metadata(&c.metadata),
    })
}

fn transport(t: Option<&core::TransportSocket>) -> Result<DownstreamTransport> {
    let Some(t) = t else {
        return Ok(DownstreamTransport::Raw);
    };
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &t.config_type else {
        return if t.name.contains("raw_buffer") { Ok(DownstreamTransport::Raw) } else { Err(no_config(&t.name)) };
    };
    let typed = Typed::open(&t.name, any).at("typed_config")?;
    match typed.message.as_str() {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(DownstreamTransport::Raw),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            typed.decode().and_then(|d| super::tls::downstream(&d)).map(|c| DownstreamTransport::Tls(Arc::new(c)))
        }
        _ => Err(typed.unknown()),
    }
    .at("typed_config")
}

fn listener_filter(l: &p::ListenerFilter) -> Result<ListenerFilter> {
    let any = match &l.config_type {
        Some(p::listener_filter::ConfigType::TypedConfig(any)) => any,
        Some(p::listener_filter::ConfigType::ConfigDiscovery(_)) => {
            return Err(unsupported("config_discovery").at("config_discovery"));
        }
        None => return Err(no_config(&l.name)),
    };
    let typed = Typed::open(&l.name, any).at("typed_config")?;
    let short = typed.message.strip_prefix("envoy.extensions.filters.listener.").unwrap_or_default();
    let kind = match short {
        "original_dst.v3.OriginalDst" => Ok(ListenerFilterKind::OriginalDst),
        "original_src.v3.OriginalSrc" => original_src(&typed.decode()?),
        "proxy_protocol.v3.ProxyProtocol" => proxy_protocol(&typed.decode()?),
        "tls_inspector.v3.TlsInspector" => {
            let t: f::tls_inspector::v3::TlsInspector = typed.decode()?;
            if t.enable_ja3_fingerprinting == Some(true) || t.enable_ja4_fingerprinting == Some(true) {
                return Err(unsupported("JA3 and JA4 fingerprinting").at("typed_config"));
            }
            Ok(ListenerFilterKind::TlsInspector { initial_read_bytes: t.initial_read_buffer_size })
        }
        "http_inspector.v3.HttpInspector" => Ok(ListenerFilterKind::HttpInspector),
        "local_ratelimit.v3.LocalRateLimit" => {
            let r: f::local_ratelimit::v3::LocalRateLimit = typed.decode()?;
            let bucket = r.token_bucket.as_ref().ok_or_else(|| missing("token_bucket"));
            bucket.and_then(common::token_bucket).map(|bucket| {
                ListenerFilterKind::LocalRateLimit(Arc::new(crate::filters::network::NetworkLocalRateLimit {
                    stat_prefix: r.stat_prefix.as_str().into(),
                    bucket,
                    enabled: r.runtime_enabled.as_ref().and_then(|e| e.default_value).unwrap_or(true),
                    share_key: None,
                }))
            })
        }
        _ => Err(typed.unknown()),
    };
    Ok(ListenerFilter {
        name: l.name.as_str().into(),
        kind: kind.at("typed_config")?,
        disabled: l.filter_disabled.as_ref().map(predicate).transpose().at("filter_disabled")?,
    })
}

fn original_src(o: &f::original_src::v3::OriginalSrc) -> Result<ListenerFilterKind> {
    reject!(o; bind_port);
    Ok(ListenerFilterKind::OriginalSrc { mark: o.mark })
}

fn proxy_protocol(x: &f::proxy_protocol::v3::ProxyProtocol) -> Result<ListenerFilterKind> {
    reject!(x; pass_through_tlvs, tlv_location);
    let rules: Vec<(u8, Name, Name)> = each("rules", &x.rules, |r| {
        let kind = u8::try_from(r.tlv_type).map_err(|_| invalid("value must be less than 256").at("tlv_type"))?;
        let kv = r.on_tlv_present.clone().unwrap_or_default();
        let namespace = if kv.metadata_namespace.is_empty() {
            "envoy.filters.listener.proxy_protocol".into()
        } else {
            kv.metadata_namespace.as_str().into()
        };
        Ok((kind, namespace, kv.key.as_str().into()))
    })?;
    Ok(ListenerFilterKind::ProxyProtocol(Arc::new(ProxyProtocol {
        stat_prefix: x.stat_prefix.as_str().into(),
        allow_requests_without_proxy_protocol: x.allow_requests_without_proxy_protocol,
        rules: rules.into(),
        disallowed_versions: x.disallowed_versions.iter().map(|v| if *v == 0 { 1 } else { 2 }).collect(),
    })))
}

fn predicate(x: &p::ListenerFilterChainMatchPredicate) -> Result<ListenerPredicate> {
    use p::listener_filter_chain_match_predicate::Rule as R;
    Ok(match x.rule.as_ref().ok_or_else(|| missing("rule"))? {
        R::OrMatch(s) => ListenerPredicate::Or(each("rules", &s.rules, predicate).at("or_match")?),
        R::AndMatch(s) => ListenerPredicate::And(each("rules", &s.rules, predicate).at("and_match")?),
        R::NotMatch(r) => ListenerPredicate::Not(Box::new(predicate(r).at("not_match")?)),
        R::AnyMatch(_) => ListenerPredicate::Any,
        R::DestinationPortRange(r) => {
            // The range is half open.
            let start =
                u16::try_from(r.start).map_err(|_| invalid("port is out of range").at("destination_port_range"))?;
            let end =
                u16::try_from(r.end - 1).map_err(|_| invalid("port is out of range").at("destination_port_range"))?;
            ListenerPredicate::DestinationPort(PortSet(Box::new([(start, end)])))
        }
    })
}
