//! How are ejections written down? One line of JSON each, `envoy.data.cluster.v3.OutlierDetectionEvent`.

use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use protos::envoy::data::cluster::v3 as data;
use proxy_config::cluster::OutlierDetection;
use telemetry::stats::Counter;
use telemetry::stats::envoy::outlier_detection::{self as stat, OutlierDetection as Stats};

use crate::cluster::Cluster;
use crate::host::Host;
use crate::outlier::{Judgement, now_ms};

/// Why a host is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A run of 5xx.
    Consecutive5xx,
    /// A run of 502, 503, 504.
    ConsecutiveGatewayFailure,
    /// A run of failures to reach it.
    ConsecutiveLocalOriginFailure,
    /// Its success rate is far below the others'.
    SuccessRate,
    /// The same, of reaching it.
    SuccessRateLocalOrigin,
    /// Too many failures.
    FailurePercentage,
    /// Too many failures to reach it.
    FailurePercentageLocalOrigin,
}

impl Why {
    /// Its counters (detected, enforced) and how often it is enforced, percent.
    pub fn of(self, rules: &OutlierDetection) -> (Counter<Stats>, Counter<Stats>, u32) {
        match self {
            Why::Consecutive5xx => (
                stat::EJECTIONS_DETECTED_CONSECUTIVE_5XX,
                stat::EJECTIONS_ENFORCED_CONSECUTIVE_5XX,
                rules.enforcing_consecutive_5xx,
            ),
            Why::ConsecutiveGatewayFailure => (
                stat::EJECTIONS_DETECTED_CONSECUTIVE_GATEWAY_FAILURE,
                stat::EJECTIONS_ENFORCED_CONSECUTIVE_GATEWAY_FAILURE,
                rules.enforcing_consecutive_gateway_failure,
            ),
            Why::ConsecutiveLocalOriginFailure => (
                stat::EJECTIONS_DETECTED_CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
                stat::EJECTIONS_ENFORCED_CONSECUTIVE_LOCAL_ORIGIN_FAILURE,
                rules.enforcing_consecutive_local_origin_failure,
            ),
            Why::SuccessRate => (
                stat::EJECTIONS_DETECTED_SUCCESS_RATE,
                stat::EJECTIONS_ENFORCED_SUCCESS_RATE,
                rules.enforcing_success_rate,
            ),
            Why::SuccessRateLocalOrigin => (
                stat::EJECTIONS_DETECTED_LOCAL_ORIGIN_SUCCESS_RATE,
                stat::EJECTIONS_ENFORCED_LOCAL_ORIGIN_SUCCESS_RATE,
                rules.enforcing_local_origin_success_rate,
            ),
            Why::FailurePercentage => (
                stat::EJECTIONS_DETECTED_FAILURE_PERCENTAGE,
                stat::EJECTIONS_ENFORCED_FAILURE_PERCENTAGE,
                rules.enforcing_failure_percentage,
            ),
            Why::FailurePercentageLocalOrigin => (
                stat::EJECTIONS_DETECTED_LOCAL_ORIGIN_FAILURE_PERCENTAGE,
                stat::EJECTIONS_ENFORCED_LOCAL_ORIGIN_FAILURE_PERCENTAGE,
                rules.enforcing_failure_percentage_local_origin,
            ),
        }
    }

    fn proto(self) -> data::OutlierEjectionType {
        use data::OutlierEjectionType as T;
        match self {
            Why::Consecutive5xx => T::Consecutive5xx,
            Why::ConsecutiveGatewayFailure => T::ConsecutiveGatewayFailure,
            Why::ConsecutiveLocalOriginFailure => T::ConsecutiveLocalOriginFailure,
            Why::SuccessRate => T::SuccessRate,
            Why::SuccessRateLocalOrigin => T::SuccessRateLocalOrigin,
            Why::FailurePercentage => T::FailurePercentage,
            Why::FailurePercentageLocalOrigin => T::FailurePercentageLocalOrigin,
        }
    }
}

/// What happened to a host.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// It failed.
    Eject {
        /// How.
        why: Why,
        /// It is out of service; else it would be if the rule were enforced.
        enforced: bool,
    },
    /// It is back.
    Uneject,
}

/// Writes an event, if the process keeps a log of them. The host's times are those before the action, save for an
/// ejection's own.
pub fn write(cluster: &Cluster, host: &Host, action: Action, judgement: &Judgement) {
    use data::outlier_detection_event::Event as E;
    telemetry::debug!(upstream, "cluster {}: host {}: {action:?}", cluster.config.name, host.text);
    let Some(sink) = cluster.outlier_events() else { return };
    let e = &host.stats.ejection;
    let since = |ms: u64| (ms > 0).then(|| now_ms().saturating_sub(ms) / 1000);
    let mut event = data::OutlierDetectionEvent {
        timestamp: Some(SystemTime::now().into()),
        cluster_name: cluster.config.name.to_string(),
        upstream_url: host.text.to_string(),
        num_ejections: e.count.load(Relaxed),
        ..Default::default()
    };
    match action {
        Action::Uneject => {
            event.action = data::Action::Uneject as i32;
            event.secs_since_last_action = since(e.since_ms.load(Relaxed));
        }
        Action::Eject { why, enforced } => {
            event.r#type = why.proto() as i32;
            event.action = data::Action::Eject as i32;
            event.enforced = enforced;
            event.secs_since_last_action = since(e.until_ms.load(Relaxed));
            let percent = |rate: f64| rate.max(0.0) as u32;
            event.event = Some(match why {
                Why::SuccessRate | Why::SuccessRateLocalOrigin => {
                    let local = why == Why::SuccessRateLocalOrigin;
                    let (rates, window) =
                        if local { (judgement.local, &e.local) } else { (judgement.external, &e.external) };
                    E::EjectSuccessRateEvent(data::OutlierEjectSuccessRate {
                        host_success_rate: percent(window.rate()),
                        cluster_average_success_rate: percent(rates.average),
                        cluster_success_rate_ejection_threshold: percent(rates.threshold),
                    })
                }
                Why::FailurePercentage | Why::FailurePercentageLocalOrigin => {
                    let local = why == Why::FailurePercentageLocalOrigin;
                    let window = if local { &e.local } else { &e.external };
                    E::EjectFailurePercentageEvent(data::OutlierEjectFailurePercentage {
                        host_success_rate: percent(window.rate()),
                    })
                }
                _ => E::EjectConsecutiveEvent(data::OutlierEjectConsecutive {}),
            });
        }
    }
    sink.write(crate::event_json::line(&event).as_bytes());
}
