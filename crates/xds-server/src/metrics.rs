//! What is counted? Istio's `pilot_xds…` families, by type, and their rendering for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use xds::server::Kind;

const KINDS: usize = Kind::ALL.len();

/// A histogram with fixed bounds.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Upper bounds in ascending order, without infinity.
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum_micros: AtomicU64::new(0) }
    }

    /// Counts one value.
    pub fn record(&self, value: f64) {
        let at = self.bounds.partition_point(|b| *b < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    /// Writes the series in Prometheus' text format; `labels` is empty or `k="v"`.
    pub fn render(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (i, count) in self.counts.iter().enumerate() {
            total += count.load(Ordering::Relaxed);
            let le = self.bounds.get(i).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{le}\"}} {total}");
        }
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let sum = self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{braces} {sum}\n{name}_count{braces} {total}");
    }
}

const SECONDS: &[f64] = &[0.01, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
const PUSH_SECONDS: &[f64] = &[0.001, 0.01, 0.1, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0];
const BYTES: &[f64] = &[1.0, 10_000.0, 1_000_000.0, 4_000_000.0, 10_000_000.0, 40_000_000.0];

/// All that the ADS server counts.
#[derive(Debug)]
pub struct Metrics {
    /// Open streams.
    pub connected: AtomicI64,
    /// Responses sent, by type.
    pushes: [AtomicU64; KINDS],
    rejects: [AtomicU64; KINDS],
    expired_nonces: [AtomicU64; KINDS],
    /// From a change to all proxies' confirmation.
    pub convergence: Histogram,
    /// From a change to the start of a proxy's push.
    pub queue: Histogram,
    /// Waiting of changes for more.
    pub debounce: Histogram,
    pushed_bytes: AtomicU64,
    push_time: Vec<Histogram>,
    config_size: Vec<Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        Metrics {
            connected: AtomicI64::new(0),
            pushes: zeros(),
            rejects: zeros(),
            expired_nonces: zeros(),
            convergence: Histogram::new(SECONDS),
            queue: Histogram::new(SECONDS),
            debounce: Histogram::new(SECONDS),
            pushed_bytes: AtomicU64::new(0),
            push_time: Kind::ALL.iter().map(|_| Histogram::new(PUSH_SECONDS)).collect(),
            config_size: Kind::ALL.iter().map(|_| Histogram::new(BYTES)).collect(),
        }
    }
}

impl Metrics {
    pub(crate) fn pushed(&self, kind: Kind, bytes: usize) {
        self.pushes[kind as usize].fetch_add(1, Ordering::Relaxed);
        self.pushed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.config_size[kind as usize].record(bytes as f64);
    }

    /// Bytes of resources sent so far, of all types.
    pub fn pushed_bytes(&self) -> u64 {
        self.pushed_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn generated(&self, kind: Kind, took: Duration) {
        self.push_time[kind as usize].record(took.as_secs_f64());
    }

    pub(crate) fn rejected(&self, kind: Kind) {
        self.rejects[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn expired_nonce(&self, kind: Kind) {
        self.expired_nonces[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Writes everything in Prometheus' text format.
    pub fn render(&self, version: &str, out: &mut String) {
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        head(out, "pilot_xds", "gauge", "Number of endpoints connected to this pilot using XDS.");
        let _ = writeln!(out, "pilot_xds{{version=\"{version}\"}} {}", self.connected.load(Ordering::Relaxed));
        let used = |counters: &[AtomicU64; KINDS]| -> Vec<(Kind, u64)> {
            let counts = counters.iter().map(|c| c.load(Ordering::Relaxed));
            Kind::ALL.iter().copied().zip(counts).filter(|(_, n)| *n > 0).collect()
        };
        head(out, "pilot_xds_pushes", "counter", "Pilot build and send errors for lds, rds, cds and eds.");
        for (kind, n) in used(&self.pushes) {
            let _ = writeln!(out, "pilot_xds_pushes{{type=\"{}\"}} {n}", kind.short().to_ascii_lowercase());
        }
        head(out, "pilot_total_xds_rejects", "counter", "Total number of XDS responses from pilot rejected by proxy.");
        for (kind, n) in used(&self.rejects) {
            let _ = writeln!(out, "pilot_total_xds_rejects{{type=\"{}\"}} {n}", kind.type_url());
        }
        head(out, "pilot_xds_expired_nonce", "counter", "Total number of XDS requests with an expired nonce.");
        for (kind, n) in used(&self.expired_nonces) {
            let _ = writeln!(out, "pilot_xds_expired_nonce{{type=\"{}\"}} {n}", kind.type_url());
        }
        let convergence = "Delay in seconds between config change and a proxy receiving all required configuration.";
        head(out, "pilot_proxy_convergence_time", "histogram", convergence);
        self.convergence.render("pilot_proxy_convergence_time", "", out);
        head(
            out,
            "pilot_proxy_queue_time",
            "histogram",
            "Time in seconds, a proxy is in the push queue before being dequeued.",
        );
        self.queue.render("pilot_proxy_queue_time", "", out);
        head(
            out,
            "pilot_debounce_time",
            "histogram",
            "Delay in seconds between the first config enters debouncing and the merged push request is pushed into the push queue.",
        );
        self.debounce.render("pilot_debounce_time", "", out);
        let sent = used(&self.pushes);
        head(
            out,
            "pilot_xds_push_time",
            "histogram",
            "Total time in seconds Pilot takes to push lds, rds, cds and eds.",
        );
        for (kind, _) in &sent {
            self.push_time[*kind as usize].render(
                "pilot_xds_push_time",
                &format!("type=\"{}\"", kind.short().to_ascii_lowercase()),
                out,
            );
        }
        head(out, "pilot_xds_config_size_bytes", "histogram", "Distribution of configuration sizes pushed to clients");
        for (kind, _) in &sent {
            self.config_size[*kind as usize].render(
                "pilot_xds_config_size_bytes",
                &format!("type=\"{}\"", kind.type_url()),
                out,
            );
        }
    }
}
