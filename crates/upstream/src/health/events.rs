//! How are health check events written down? One line of JSON each, `envoy.data.core.v3.HealthCheckEvent`.

use std::sync::Arc;
use std::time::SystemTime;

use protos::envoy::data::core::v3 as data;
use proxy_config::cluster as config;
use proxy_core::health::{Event, FailureKind};
use telemetry::access_log::Sink;

use crate::cluster::Cluster;
use crate::host::Host;
use crate::registry::Ground;

/// The files of one cluster's events.
#[derive(Debug, Default)]
pub struct EventLog(Box<[Arc<Sink>]>);

impl EventLog {
    /// Opens the files that a cluster's health checks name. One that cannot be opened is reported and left out.
    pub fn open(config: &config::Cluster, ground: &Ground) -> Self {
        let paths = config.health_checks.iter().flat_map(|c| c.event_logs.iter());
        let sinks = paths.filter_map(|path| match ground.sinks.get()?.open(path) {
            Ok(sink) => Some(sink),
            Err(e) => {
                telemetry::error!(hc, "cluster {}: cannot open event log {path}: {e}", config.name);
                None
            }
        });
        EventLog(sinks.collect())
    }

    /// Writes an event.
    pub fn write(&self, cluster: &Cluster, checker: &str, host: &Host, event: Event) {
        if self.0.is_empty() {
            return;
        }
        let line = line(cluster, checker, host, event);
        self.0.iter().for_each(|sink| sink.write(line.as_bytes()));
    }
}

fn failure(kind: FailureKind) -> i32 {
    use data::HealthCheckFailureType as T;
    (match kind {
        FailureKind::Active(_) => T::Active,
        FailureKind::Passive => T::Passive,
        FailureKind::Network => T::Network,
        FailureKind::NetworkTimeout => T::NetworkTimeout,
    }) as i32
}

fn status(kind: FailureKind) -> u32 {
    match kind {
        FailureKind::Active(status) => status.into(),
        _ => 0,
    }
}

fn line(cluster: &Cluster, checker: &str, host: &Host, event: Event) -> String {
    use data::health_check_event::Event as E;
    let event = match event {
        Event::EjectUnhealthy(kind) => E::EjectUnhealthyEvent(data::HealthCheckEjectUnhealthy {
            failure_type: failure(kind),
            http_status_code: status(kind),
        }),
        Event::AddHealthy { first } => E::AddHealthyEvent(data::HealthCheckAddHealthy { first_check: first }),
        Event::Successful => E::SuccessfulHealthCheckEvent(Default::default()),
        Event::Failure { kind, first } => E::HealthCheckFailureEvent(data::HealthCheckFailure {
            failure_type: failure(kind),
            first_check: first,
            http_status_code: status(kind),
        }),
        Event::Degraded => E::DegradedHealthyHost(Default::default()),
        Event::NoLongerDegraded => E::NoLongerDegradedHost(Default::default()),
    };
    let checker = data::HealthCheckerType::from_str_name(checker).unwrap_or_default() as i32;
    let message = data::HealthCheckEvent {
        health_checker_type: checker,
        host: Some(crate::address::proto(&host.address)),
        cluster_name: cluster.config.name.to_string(),
        timestamp: Some(SystemTime::now().into()),
        metadata: None,
        locality: Some(crate::address::locality(&host.locality)),
        event: Some(event),
    };
    crate::event_json::line(&message)
}
