//! What does `/metrics` say? Istio's names over our counters, in Prometheus' text format.

use std::fmt::{Display, Write as _};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use crate::run::Shared;

/// The whole page.
pub fn render(shared: &Shared) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let version = crate::VERSION;
    family(
        &mut out,
        "istio_build",
        "gauge",
        "Istio component build info",
        [(format!("component=\"pilot\",tag=\"{version}\""), 1)],
    );
    family(
        &mut out,
        "pilot_info",
        "gauge",
        "Pilot version and build information.",
        [(format!("version=\"{version}\""), 1)],
    );
    let uptime = shared.started.elapsed().as_secs_f64();
    family(
        &mut out,
        "istiod_uptime_seconds",
        "gauge",
        "Current istiod server uptime in seconds",
        [(String::new(), uptime)],
    );
    family(
        &mut out,
        "istiod_managed_clusters",
        "gauge",
        "Number of clusters managed by istiod",
        [("cluster_type=\"local\"".into(), 1)],
    );
    let snapshot = shared.world.snapshot();
    family(
        &mut out,
        "pilot_services",
        "gauge",
        "Total services known to pilot.",
        [(String::new(), snapshot.services.len())],
    );
    let virtual_services = snapshot.virtual_services.iter().count();
    family(
        &mut out,
        "pilot_virt_services",
        "gauge",
        "Total virtual services known to pilot.",
        [(String::new(), virtual_services)],
    );
    let updates = shared.world.updates.load(Ordering::Relaxed);
    family(
        &mut out,
        "pilot_inbound_updates",
        "counter",
        "Total number of updates received by pilot.",
        [("type=\"config\"".into(), updates)],
    );
    let events = shared.world.events.lock().unwrap_or_else(|e| e.into_inner()).clone();
    let series = |istio: bool| {
        let of = events.iter().filter(move |((kind, _), _)| kind.is_istio() == istio);
        of.map(|((kind, event), n)| (format!("type=\"{}\",event=\"{event}\"", kind.name()), *n))
    };
    let help = "Events from k8s config.";
    family(&mut out, "pilot_k8s_cfg_events", "counter", help, series(true));
    family(&mut out, "pilot_k8s_reg_events", "counter", "Events from k8s registry.", series(false));
    let cache = shared.hub.source().memo();
    let (found, made) = cache.counts();
    let reads = [("type=\"hit\"".to_owned(), found), ("type=\"miss\"".to_owned(), made)];
    family(&mut out, "xds_cache_reads", "counter", "Total number of xds cache xdsCacheReads.", reads);
    let help = "Current size of xds cache";
    family(&mut out, "xds_cache_size", "gauge", help, [(String::new(), cache.len())]);
    let rejected = shared.world.rejected.load(Ordering::Relaxed);
    let help = "Total number of configs that Pilot had to reject or ignore.";
    family(&mut out, "pilot_total_rejected_configs", "counter", help, [(String::new(), rejected)]);
    let status = crate::push_status::of(shared);
    for (name, help) in crate::push_status::GAUGES {
        family(&mut out, name, "gauge", help, [(String::new(), status.count(name))]);
    }
    let triggers = ["config", "service", "endpoint"].iter().zip(&shared.world.triggers);
    let triggers = triggers.map(|(name, count)| (format!("type=\"{name}\""), count.load(Ordering::Relaxed)));
    let help = "Total number of times a push was triggered, labeled by reason for the push.";
    family(&mut out, "pilot_push_triggers", "counter", help, triggers);
    for (name, help, value) in shared.ca_metrics.counters() {
        family(&mut out, name, "counter", help, [(String::new(), value)]);
    }
    for (name, help, series) in shared.webhooks.families() {
        family(&mut out, name, "counter", help, series);
    }
    let (injections, took) = shared.webhooks.injection_time();
    let name = "sidecar_injection_time_seconds";
    let _ = writeln!(out, "# HELP {name} Total time taken for injection in seconds.\n# TYPE {name} summary");
    let _ = writeln!(out, "{name}_sum {}\n{name}_count {injections}", took.as_secs_f64());
    let not_after = shared.authority.load().not_after();
    let unix = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = not_after.duration_since(SystemTime::now()).unwrap_or_default().as_secs();
    let help = "The unix timestamp, in seconds, when the root cert will expire.";
    family(&mut out, "citadel_server_root_cert_expiry_timestamp", "gauge", help, [(String::new(), unix)]);
    let help = "The time remaining, in seconds, before the root cert will expire. A negative value indicates the cert is expired.";
    family(&mut out, "citadel_server_root_cert_expiry_seconds", "gauge", help, [(String::new(), left)]);
    if let Some(resident) = resident_bytes() {
        family(
            &mut out,
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            [(String::new(), resident)],
        );
    }
    shared.hub.metrics().render(version, &mut out);
    out
}

fn family<V: Display>(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    series: impl IntoIterator<Item = (String, V)>,
) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in series {
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
