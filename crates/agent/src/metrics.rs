//! What does the agent count about itself? The figures that port 15020 adds to the proxy's and the application's, under
//! pilot-agent's names. One value per agent, handed to those who count.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A figure that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The agent's counters.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Times that metrics were asked for.
    pub scrapes: Counter,
    /// The proxy did not give its metrics.
    pub envoy_scrape_errors: Counter,
    /// An application did not give its metrics.
    pub app_scrape_errors: Counter,
    /// Certificate requests sent to the CA.
    pub csr: Counter,
    /// Certificate requests that failed.
    pub csr_failed: Counter,
    /// Messages carried to the control plane.
    pub xds_requests: Counter,
    /// Messages carried to the proxy.
    pub xds_responses: Counter,
    /// Streams to the control plane that could not be opened.
    pub istiod_failures: Counter,
    /// Streams to the control plane that broke.
    pub istiod_terminations: Counter,
    /// Streams that the proxy ended.
    pub envoy_terminations: Counter,
    /// Questions asked of the DNS proxy.
    pub dns_requests: Counter,
    /// Questions passed on to the pod's resolvers.
    pub dns_forwarded: Counter,
    /// Questions that no resolver answered.
    pub dns_failed: Counter,
    /// Milliseconds until the proxy was ready first; 0: not yet.
    pub startup_ms: AtomicU64,
}

impl Metrics {
    /// All of it as Prometheus text; `expires` is the end of the workload certificate.
    pub fn page(&self, expires: Option<SystemTime>) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, f64)]| {
            let _ = write!(out, "# HELP istio_agent_{name} {help}\n# TYPE istio_agent_{name} {kind}\n");
            for (labels, value) in samples {
                let _ = writeln!(out, "istio_agent_{name}{labels} {value}");
            }
        };
        let n = |counter: &Counter| counter.get() as f64;
        if let Some(expires) = expires {
            let left = match expires.duration_since(SystemTime::now()) {
                Ok(left) => left.as_secs_f64(),
                Err(late) => -late.duration().as_secs_f64(),
            };
            let help = "The time remaining, in seconds, before the certificate chain will expire. A negative value indicates the cert is expired.";
            family("cert_expiry_seconds", "gauge", help, &[("{resource_name=\"default\"}", left.round())]);
        }
        family("dns_requests_total", "counter", "Total number of DNS requests.", &[("", n(&self.dns_requests))]);
        let help = "Total number of DNS failures.";
        family("dns_upstream_failures_total", "counter", help, &[("", n(&self.dns_failed))]);
        let help = "Total number of DNS requests forwarded to upstream.";
        family("dns_upstream_requests_total", "counter", help, &[("", n(&self.dns_forwarded))]);
        let help = "The total number of connection errors from envoy";
        family("envoy_connection_terminations", "counter", help, &[("", n(&self.envoy_terminations))]);
        let build = format!("{{component=\"proxy\",tag=\"{}\"}}", crate::VERSION);
        family("istio_build", "gauge", "Istio component build info", &[(&build, 1.0)]);
        let help = "The total number of connection failures to Istiod";
        family("istiod_connection_failures", "counter", help, &[("", n(&self.istiod_failures))]);
        let help = "The total number of connection errors to Istiod";
        family("istiod_connection_terminations", "counter", help, &[("", n(&self.istiod_terminations))]);
        let help = "Number of failed outgoing requests (e.g. to a token exchange server, CA, etc.)";
        let csr = "{request_type=\"csr\"}";
        family("num_failed_outgoing_requests", "counter", help, &[(csr, n(&self.csr_failed))]);
        let help = "Number of total outgoing requests (e.g. to a token exchange server, CA, etc.)";
        family("num_outgoing_requests", "counter", help, &[(csr, n(&self.csr))]);
        if let Some(process) = Process::read() {
            let help = "Total user and system CPU time spent in seconds.";
            family("process_cpu_seconds_total", "counter", help, &[("", process.cpu.as_secs_f64())]);
            family("process_open_fds", "gauge", "Number of open file descriptors.", &[("", process.files as f64)]);
            let help = "Resident memory size in bytes.";
            family("process_resident_memory_bytes", "gauge", help, &[("", process.resident_bytes as f64)]);
        }
        let (envoy, app) = (n(&self.envoy_scrape_errors), n(&self.app_scrape_errors));
        let samples = [("{type=\"envoy\"}", envoy), ("{type=\"application\"}", app)];
        family("scrape_failures_total", "counter", "The total number of failed scrapes.", &samples);
        family("scrapes_total", "counter", "The total number of scrapes.", &[("", n(&self.scrapes))]);
        let startup = self.startup_ms.load(Ordering::Relaxed) as f64 / 1000.0;
        let help = "The time from the process starting to being marked ready.";
        family("startup_duration_seconds", "gauge", help, &[("", startup)]);
        let help = "The total number of Xds Proxy Requests";
        family("xds_proxy_requests", "counter", help, &[("", n(&self.xds_requests))]);
        let help = "The total number of Xds Proxy Responses";
        family("xds_proxy_responses", "counter", help, &[("", n(&self.xds_responses))]);
        out
    }
}

/// What the kernel says of this process.
struct Process {
    cpu: Duration,
    files: usize,
    resident_bytes: u64,
}

impl Process {
    fn read() -> Option<Self> {
        // The name in parentheses may hold spaces; what follows it does not.
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at)?.parse::<u64>().ok();
        // Linux reports to programs in hundredths, whatever the kernel's own tick is.
        let cpu = Duration::from_millis((ticks(11)? + ticks(12)?) * 10);
        let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages = statm.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        Some(Process { cpu, files: std::fs::read_dir("/proc/self/fd").ok()?.count(), resident_bytes: pages * 4096 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_described_once() {
        let metrics = Metrics::default();
        metrics.scrapes.add();
        let page = metrics.page(Some(SystemTime::now() + Duration::from_secs(60)));
        assert!(page.contains("\n# TYPE istio_agent_scrapes_total counter\nistio_agent_scrapes_total 1\n"), "{page}");
        assert!(page.contains("istio_agent_cert_expiry_seconds{resource_name=\"default\"} 60\n"), "{page}");
        let mut types: Vec<&str> = page.lines().filter(|l| l.starts_with("# TYPE")).collect();
        let all = types.len();
        types.dedup();
        assert_eq!(types.len(), all);
        assert!(page.contains("istio_agent_process_resident_memory_bytes "), "{page}");
    }
}
