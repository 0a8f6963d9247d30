//! What is written about a finished request or connection? Access logs: filter, entry, destination.
//!
//! Used by connection managers here, and by TCP proxies and listeners in `l4`. A file's lines are formatted in place;
//! what goes to a collector is encoded and pushed to its outlet.

use std::cell::RefCell;
use std::sync::Arc;

use proxy_config::access_log::{AccessLog, GrpcLog, LogFilter, LogSink, OtelLog};
use proxy_config::format::SubstitutionFormat;
use proxy_core::{Facts, format, matcher};
use telemetry::access_log::{ResponseFlags, Sink, Sinks};

use crate::export::{self, Destination, Exports, Outlet};

/// One access log.
#[derive(Debug)]
pub struct Logger {
    filter: Option<LogFilter>,
    target: Target,
}

#[derive(Debug)]
enum Target {
    File(Arc<SubstitutionFormat>, Arc<Sink>),
    Grpc(Arc<GrpcLog>, Arc<Outlet>),
    Otel(Arc<OtelLog>, Arc<Outlet>),
}

thread_local! {
    /// The line being written; kept so that logging does not allocate.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where access logs go to.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// Files.
    pub sinks: &'a Sinks,
    /// Collectors.
    pub exports: &'a Exports,
    /// This node.
    pub node: &'a crate::Node,
}

/// Opens the logs of a list. `Err` names the one that cannot be opened, as Envoy refuses the configuration then.
pub fn loggers(logs: &[AccessLog], targets: Targets<'_>) -> Result<Box<[Logger]>, String> {
    logs.iter().map(|l| Logger::new(l, targets)).collect()
}

impl Logger {
    fn new(config: &AccessLog, targets: Targets<'_>) -> Result<Self, String> {
        let file = |path: &str, format: &Arc<SubstitutionFormat>| match targets.sinks.open(path) {
            Ok(sink) => Ok(Target::File(format.clone(), sink)),
            Err(e) => Err(format!("unable to open file '{path}': {}", words(&e))),
        };
        let target = match &config.sink {
            LogSink::File { path, format } => file(path, format)?,
            LogSink::Stdout(format) => file("/dev/stdout", format)?,
            LogSink::Stderr(format) => file("/dev/stderr", format)?,
            LogSink::Grpc(log) => {
                let destination = Destination::AccessLogs {
                    service: log.service.clone(),
                    log_name: log.log_name.clone(),
                    tcp: log.tcp,
                };
                Target::Grpc(log.clone(), targets.exports.open(destination, log.flush_interval, log.buffer_bytes))
            }
            LogSink::OpenTelemetry(log) => {
                let resource = export::resource(log, targets.node).into();
                let destination = Destination::OtelLogs { service: log.service.clone(), resource };
                Target::Otel(log.clone(), targets.exports.open(destination, log.flush_interval, log.buffer_bytes))
            }
        };
        Ok(Logger { filter: config.filter.clone(), target })
    }

    /// Writes the entry if the filter lets it. `stable` is the request's random number, `fresh` draws another.
    pub fn log(&self, facts: &Facts<'_>, stable: u64, fresh: &dyn Fn() -> u64) {
        if self.filter.as_ref().is_some_and(|f| !passes(f, facts, stable, fresh)) {
            return;
        }
        match &self.target {
            Target::File(format, sink) => LINE.with_borrow_mut(|line| {
                line.clear();
                format::substitution(format, facts, line);
                sink.write(line);
            }),
            Target::Grpc(log, outlet) => {
                outlet.push(if log.tcp { export::tcp_entry(log, facts) } else { export::http_entry(log, facts) });
            }
            Target::Otel(log, outlet) => outlet.push(export::log_record(log, facts)),
        }
    }
}

/// The system's words for an error, without Rust's number.
fn words(e: &std::io::Error) -> String {
    let text = e.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Whether a filter lets an entry pass.
pub fn passes(filter: &LogFilter, facts: &Facts<'_>, stable: u64, fresh: &dyn Fn() -> u64) -> bool {
    let pass = |f: &LogFilter| passes(f, facts, stable, fresh);
    match filter {
        // A connection has no response code; Envoy compares with 0.
        LogFilter::StatusCode(c) => c.holds(facts.response_code.into()),
        LogFilter::Duration(c) => c.holds(facts.marks.total.unwrap_or_default().as_millis() as u64),
        LogFilter::NotHealthCheck => !facts.health_check,
        LogFilter::Traceable => facts.traced,
        LogFilter::Runtime { fraction, independent } => fraction.hit(if *independent { fresh() } else { stable }),
        LogFilter::And(all) => all.iter().all(pass),
        LogFilter::Or(any) => any.iter().any(pass),
        // A connection has no headers: only inverted matches and the like could hold.
        LogFilter::Header(m) => facts.request.is_some_and(|r| matcher::header(m, r)),
        LogFilter::ResponseFlag(names) if names.is_empty() => !facts.flags.is_empty(),
        LogFilter::ResponseFlag(names) => {
            names.iter().filter_map(|n| ResponseFlags::from_short(n)).any(|f| facts.flags.contains(f))
        }
        LogFilter::GrpcStatus { statuses, exclude } => {
            if facts.request.is_none() {
                return false;
            }
            let said =
                |h: Option<&dyn proxy_core::HeaderView>| h.and_then(|h| h.get(b"grpc-status").map(<[u8]>::to_vec));
            let status = said(facts.trailers)
                .or_else(|| said(facts.response))
                .and_then(|v| std::str::from_utf8(&v).ok()?.parse().ok())
                .unwrap_or_else(|| match facts.response_code {
                    200 => 0,
                    status => crate::reply::grpc_status(status),
                });
            statuses.contains(&status) != *exclude
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
