//! Which Telemetry resources speak about a workload, and what do they make of its metrics? Resources are chosen here
//! for logs and traces too; metric overrides become the configuration of `istio.stats`. Follows
//! `pilot/pkg/model/telemetry.go`.

use std::collections::BTreeMap;

use api::security::{IstioMetric, Mode, TagOperation, TagOverride, Telemetry};
use model::security::Attachment;

use crate::Inputs;
use crate::listener::Class;
use crate::wire::api_duration;

/// The resources in force, outermost first: the root namespace's, the workload's namespace's, and the one that selects
/// it; the oldest of each.
pub(crate) fn applicable(inputs: &Inputs) -> Vec<&Telemetry> {
    let (snapshot, proxy) = (inputs.snapshot(), inputs.proxy());
    let root = snapshot.mesh.root_namespace.as_str();
    fn labels(t: &Telemetry) -> Option<&names::Labels> {
        t.selector.as_ref().map(|s| &s.match_labels).filter(|l| !l.is_empty())
    }
    fn has_targets(t: &Telemetry) -> bool {
        t.target_ref.is_some() || !t.target_refs.is_empty()
    }
    let to = Attachment::of(proxy, root);
    let defaults = || snapshot.telemetries.iter().filter(|t| !has_targets(&t.spec) && labels(&t.spec).is_none());
    let default = |ns: &str| defaults().find(|t| *t.namespace == *ns);
    let own = snapshot.telemetries.iter().find(|t| {
        let spec = &t.spec;
        *t.namespace == *proxy.namespace
            && (has_targets(spec) || labels(spec).is_some())
            && to.takes(&t.namespace, spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs)
    });
    let namespace = (*proxy.namespace != *root).then(|| default(&proxy.namespace)).flatten();
    [default(root), namespace, own].into_iter().flatten().map(|t| &t.spec).collect()
}

/// Whether an entry for one side of the traffic is for this class. A gateway is a client of what it forwards to.
pub(crate) fn applies(mode: Mode, class: Class) -> bool {
    match mode {
        Mode::ClientAndServer => true,
        Mode::Client => class != Class::SidecarInbound,
        Mode::Server => class == Class::SidecarInbound,
    }
}

/// Metrics by the names that the API and the proxy have for them.
const METRICS: [(IstioMetric, &str); 10] = [
    (IstioMetric::GrpcRequestMessages, "request_messages_total"),
    (IstioMetric::GrpcResponseMessages, "response_messages_total"),
    (IstioMetric::RequestCount, "requests_total"),
    (IstioMetric::RequestDuration, "request_duration_milliseconds"),
    (IstioMetric::RequestSize, "request_bytes"),
    (IstioMetric::ResponseSize, "response_bytes"),
    (IstioMetric::TcpClosedConnections, "tcp_connections_closed_total"),
    (IstioMetric::TcpOpenedConnections, "tcp_connections_opened_total"),
    (IstioMetric::TcpReceivedBytes, "tcp_received_bytes_total"),
    (IstioMetric::TcpSentBytes, "tcp_sent_bytes_total"),
];

/// What is said of one metric.
#[derive(Clone, Default)]
struct Said {
    disabled: Option<bool>,
    tags: BTreeMap<String, TagOverride>,
}

/// What is said of the metrics of one provider, for one side of the traffic.
#[derive(Clone, Default)]
struct Provider {
    /// By the proxy's name of the metric, in the API's order.
    metrics: BTreeMap<(usize, String), Said>,
    /// Everything is off; later entries may switch single metrics on again.
    all_disabled: bool,
    interval: Option<api::Duration>,
}

/// Metrics of the proxy, for connections of this class. `None`: no provider wants them, or all are off.
///
/// Entries are ordered: later ones win, metric by metric and tag by tag. An entry without providers is for those of the
/// entry before it, at first the mesh's default ones.
pub fn stats(inputs: &Inputs, class: Class) -> Option<protos::stats::PluginConfig> {
    let mut current: Vec<String> = inputs.mesh().default_providers.metrics.clone();
    let mut providers: BTreeMap<String, Provider> = BTreeMap::new();
    let entries: Vec<_> = applicable(inputs).into_iter().flat_map(|t| &t.metrics).collect();
    if entries.is_empty() {
        providers.extend(current.iter().map(|p| (p.clone(), Provider::default())));
    }
    for entry in entries {
        if !entry.providers.is_empty() {
            current = entry.providers.iter().map(|p| p.name.clone()).collect();
        }
        for name in &current {
            let provider = providers.entry(name.clone()).or_default();
            provider.interval = entry.reporting_interval.or(provider.interval);
            for o in &entry.overrides {
                let m = o.matches.as_ref();
                if !applies(m.map_or(Mode::ClientAndServer, |m| m.mode), class) {
                    continue;
                }
                let custom = m.and_then(|m| m.custom_metric.as_deref()).filter(|c| !c.is_empty());
                let standard = m.and_then(|m| m.metric).unwrap_or(IstioMetric::AllMetrics);
                let all = custom.is_none() && standard == IstioMetric::AllMetrics;
                if all && let Some(disabled) = o.disabled {
                    provider.all_disabled = disabled;
                }
                let named: Vec<(usize, String)> = match custom {
                    Some(custom) => vec![(METRICS.len(), custom.to_owned())],
                    None => METRICS
                        .iter()
                        .enumerate()
                        .filter(|(_, (metric, _))| all || *metric == standard)
                        .map(|(n, (_, name))| (n, (*name).to_owned()))
                        .collect(),
                };
                for key in named {
                    let said = provider.metrics.entry(key).or_default();
                    said.disabled = o.disabled.or(said.disabled);
                    said.tags.extend(o.tag_overrides.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
            }
        }
    }
    let mesh = inputs.mesh();
    let prometheus = |name: &str| mesh.provider(name).is_some_and(|p| p.kind == "prometheus");
    let provider = providers.into_iter().find(|(name, _)| prometheus(name)).map(|(_, p)| p)?;
    let some_enabled = provider.metrics.values().any(|s| s.disabled == Some(false));
    if provider.all_disabled && !some_enabled {
        return None;
    }
    Some(protos::stats::PluginConfig {
        disable_host_header_fallback: class != Class::SidecarOutbound,
        tcp_reporting_duration: provider.interval.map(api_duration),
        metrics: provider.metrics.into_iter().map(|((_, name), said)| metric(name, said)).collect(),
        ..Default::default()
    })
}

fn metric(name: String, said: Said) -> protos::stats::MetricConfig {
    let mut out = protos::stats::MetricConfig { name, drop: said.disabled.unwrap_or(false), ..Default::default() };
    for (tag, o) in said.tags {
        match o.operation {
            TagOperation::Remove => out.tags_to_remove.push(tag),
            TagOperation::Upsert => {
                out.dimensions.insert(tag, o.value);
            }
        }
    }
    out
}
