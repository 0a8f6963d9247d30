//! What is written about a finished connection? Access logs of TCP proxies and listeners.

use std::cell::RefCell;
use std::sync::Arc;

use proxy_config::access_log::{AccessLog, LogFilter, LogSink};
use proxy_config::format::SubstitutionFormat;
use proxy_core::{Facts, format, matcher};
use telemetry::access_log::{ResponseFlags, Sink, Sinks};

/// One access log.
#[derive(Debug)]
pub struct Logger {
    filter: Option<LogFilter>,
    format: Arc<SubstitutionFormat>,
    sink: Arc<Sink>,
}

thread_local! {
    /// The line being written; kept so that logging does not allocate.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Opens the file sinks among `logs`; network sinks are served elsewhere.
pub fn loggers(logs: &[AccessLog], sinks: &Sinks) -> Box<[Logger]> {
    logs.iter().filter_map(|l| Logger::new(l, sinks)).collect()
}

impl Logger {
    fn new(config: &AccessLog, sinks: &Sinks) -> Option<Self> {
        let (path, format) = match &config.sink {
            LogSink::File { path, format } => (&**path, format),
            LogSink::Stdout(format) => ("/dev/stdout", format),
            LogSink::Stderr(format) => ("/dev/stderr", format),
            LogSink::Grpc(_) | LogSink::OpenTelemetry(_) => return None,
        };
        let sink = sinks.open(path).ok()?;
        Some(Logger { filter: config.filter.clone(), format: format.clone(), sink })
    }

    /// Writes the entry if the filter lets it.
    pub fn log(&self, facts: &Facts<'_>, random: u64) {
        if self.filter.as_ref().is_some_and(|f| !passes(f, facts, random)) {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            format::substitution(&self.format, facts, line);
            self.sink.write(line);
        });
    }
}

fn passes(filter: &LogFilter, facts: &Facts<'_>, random: u64) -> bool {
    match filter {
        // A connection has no response code; Envoy compares with 0.
        LogFilter::StatusCode(c) => c.holds(0),
        LogFilter::Duration(c) => c.holds(facts.marks.total.unwrap_or_default().as_millis() as u64),
        LogFilter::NotHealthCheck => !facts.health_check,
        LogFilter::Traceable => facts.traced,
        LogFilter::Runtime { fraction, .. } => fraction.hit(random),
        LogFilter::And(all) => all.iter().all(|f| passes(f, facts, random)),
        LogFilter::Or(any) => any.iter().any(|f| passes(f, facts, random)),
        // No headers: only inverted matches and the like can hold.
        LogFilter::Header(_) | LogFilter::GrpcStatus { .. } => false,
        LogFilter::ResponseFlag(names) if names.is_empty() => !facts.flags.is_empty(),
        LogFilter::ResponseFlag(names) => {
            names.iter().filter_map(|n| ResponseFlags::from_short(n)).any(|f| facts.flags.contains(f))
        }
        LogFilter::Metadata { matcher: None, .. } => true,
        LogFilter::Metadata { matcher: Some(m), match_if_key_not_found } => {
            let there = facts.metadata.metadata(&m.filter).and_then(|v| v.path(&m.path)).is_some();
            if there { matcher::metadata(m, facts.metadata) } else { *match_if_key_not_found }
        }
        LogFilter::LogType { types, exclude } => types.iter().any(|t| &**t == facts.log_type) != *exclude,
        LogFilter::Cel(c) => proxy_core::cel::is_true(&c.expr, facts),
    }
}
