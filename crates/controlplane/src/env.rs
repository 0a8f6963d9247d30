//! Which switches does the environment set? Read once at start; the rest of the crate sees fields.

use std::path::PathBuf;
use std::time::Duration;

use ca::TtlPolicy;
use xds_server::DebounceOptions;

/// Environment of istiod that we heed.
#[derive(Debug, Clone)]
pub struct Env {
    /// `PILOT_DEBOUNCE_AFTER`, `PILOT_DEBOUNCE_MAX`
    pub debounce: DebounceOptions,
    /// `PILOT_MAX_REQUESTS_PER_SECOND`; 0: by the number of processors
    pub requests_per_second: f64,
    /// `DEFAULT_WORKLOAD_CERT_TTL`, `MAX_WORKLOAD_CERT_TTL`
    pub ttl: TtlPolicy,
    /// `TRUST_DOMAIN`, over the mesh configuration's
    pub trust_domain: Option<String>,
    /// `CA_DIR`-like: where plugged-in or our own CA material lies (`ROOT_CA_DIR`)
    pub ca_dir: PathBuf,
    /// `PROA_TOKEN_JWKS`: key set for service-account tokens
    pub token_keys: Option<PathBuf>,
    /// `ISTIOD_CUSTOM_HOST`: further names of our server certificate
    pub custom_hosts: Vec<String>,
    /// `XDS_AUTH`: callers of 15012 must be known
    pub xds_auth: bool,
    /// `POD_NAME`
    pub pod_name: String,
    /// `REVISION`
    pub revision: String,
    /// `PILOT_TRACE_SAMPLING`: percent of requests traced when the mesh does not say
    pub trace_sampling: Option<f64>,
    /// `PILOT_FILTER_GATEWAY_CLUSTER_CONFIG`: gateways get clusters of services that they send to only
    pub filter_gateway_clusters: bool,
}

impl Env {
    /// Reads `var`; malformed values are reported and ignored.
    pub fn read(var: impl Fn(&str) -> Option<String>) -> Env {
        let text = |name: &str| var(name).filter(|v| !v.is_empty());
        let number = |name: &str| {
            let value = text(name)?;
            let parsed = value.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
            if parsed.is_none() {
                tracing::warn!(target: "default", "ignoring {name}={value:?}: not a number");
            }
            parsed
        };
        let duration = |name: &str, default: Duration| {
            let Some(value) = text(name) else {
                return default;
            };
            crate::args::duration(&value).unwrap_or_else(|error| {
                tracing::warn!(target: "default", "ignoring {name}: {error}");
                default
            })
        };
        let (debounce, ttl) = (DebounceOptions::default(), TtlPolicy::default());
        Env {
            debounce: DebounceOptions {
                after: duration("PILOT_DEBOUNCE_AFTER", debounce.after),
                max: duration("PILOT_DEBOUNCE_MAX", debounce.max),
            },
            requests_per_second: number("PILOT_MAX_REQUESTS_PER_SECOND").unwrap_or(0.0),
            ttl: TtlPolicy {
                default: duration("DEFAULT_WORKLOAD_CERT_TTL", ttl.default),
                max: duration("MAX_WORKLOAD_CERT_TTL", ttl.max),
            },
            trust_domain: text("TRUST_DOMAIN"),
            ca_dir: text("ROOT_CA_DIR").unwrap_or_else(|| "./etc/cacerts".into()).into(),
            token_keys: text("PROA_TOKEN_JWKS").map(PathBuf::from),
            custom_hosts: text("ISTIOD_CUSTOM_HOST")
                .map(|h| h.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            xds_auth: text("XDS_AUTH").as_deref() != Some("false"),
            pod_name: text("POD_NAME").unwrap_or_else(|| "istiod".into()),
            revision: text("REVISION").unwrap_or_else(|| "default".into()),
            trace_sampling: number("PILOT_TRACE_SAMPLING"),
            filter_gateway_clusters: text("PILOT_FILTER_GATEWAY_CLUSTER_CONFIG").as_deref() == Some("true"),
        }
    }

    /// New streams per second and at once. Istio: by processors when not set.
    pub fn stream_limits(&self) -> (f64, f64) {
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let rate = if self.requests_per_second > 0.0 { self.requests_per_second } else { 25.0 * processors.max(1.0) };
        (rate, (rate * 4.0).max(100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_set_and_keeps_defaults() {
        let env = Env::read(|name| {
            Some(match name {
                "PILOT_DEBOUNCE_AFTER" => "20ms".into(),
                "PILOT_DEBOUNCE_MAX" => "soon".into(),
                "PILOT_MAX_REQUESTS_PER_SECOND" => "7".into(),
                "XDS_AUTH" => "false".into(),
                "PILOT_FILTER_GATEWAY_CLUSTER_CONFIG" => "true".into(),
                "ISTIOD_CUSTOM_HOST" => "a.b,c".into(),
                _ => return None,
            })
        });
        assert_eq!(env.debounce.after, Duration::from_millis(20));
        assert_eq!(env.debounce.max, DebounceOptions::default().max);
        assert_eq!(env.stream_limits(), (7.0, 100.0));
        assert_eq!((env.xds_auth, env.filter_gateway_clusters, env.custom_hosts.len()), (false, true, 2));
    }
}
