//! What is written about a finished request? Access logs: filter, format, sink.

use std::cell::RefCell;
use std::sync::Arc;

use http1::HeaderId;
use proxy_config::access_log::{AccessLog, LogFilter, LogSink};
use proxy_config::format::SubstitutionFormat;
use proxy_core::{Facts, format, matcher};
use telemetry::access_log::{ResponseFlags, Sink, Sinks};

use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::facts::facts;
use crate::stream::Found;

/// One access log of a connection manager.
pub struct Logger {
    filter: Option<LogFilter>,
    format: Arc<SubstitutionFormat>,
    sink: Arc<Sink>,
}

thread_local! {
    /// The line being written; kept so that logging does not allocate.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Logger {
    /// Opens the sink. `None`: the sink is not a file (those are served elsewhere) or cannot be opened.
    pub fn new(config: &AccessLog, sinks: &Sinks) -> Option<Self> {
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
    pub fn log(&self, conn: &Conn, ex: &Exchange, found: Option<&Found>) {
        let facts = facts(conn, ex, found);
        if let Some(f) = &self.filter
            && !passes(f, ex, &facts, conn)
        {
            return;
        }
        LINE.with_borrow_mut(|line| {
            line.clear();
            format::substitution(&self.format, &facts, line);
            self.sink.write(line);
        });
    }
}

/// Whether a filter lets an entry pass.
pub fn passes(filter: &LogFilter, ex: &Exchange, facts: &Facts<'_>, conn: &Conn) -> bool {
    match filter {
        LogFilter::StatusCode(c) => c.holds(ex.status as u64),
        LogFilter::Duration(c) => c.holds(facts.marks.total.unwrap_or_default().as_millis() as u64),
        LogFilter::NotHealthCheck => !ex.health_check,
        LogFilter::Traceable => facts.traced,
        LogFilter::Runtime { fraction, independent } => {
            fraction.hit(if *independent { conn.worker.random() } else { ex.random })
        }
        LogFilter::And(all) => all.iter().all(|f| passes(f, ex, facts, conn)),
        LogFilter::Or(any) => any.iter().any(|f| passes(f, ex, facts, conn)),
        LogFilter::Header(m) => matcher::header(m, &ex.request),
        LogFilter::ResponseFlag(names) => {
            if names.is_empty() {
                return !ex.flags.is_empty();
            }
            let flag = |n: &str| ResponseFlags::from_short(n);
            names.iter().filter_map(|n| flag(n)).any(|f| ex.flags.contains(f))
        }
        LogFilter::GrpcStatus { statuses, exclude } => {
            let status = ex
                .response_trailers
                .get_id(HeaderId::GRPC_STATUS)
                .or(ex.response.get_id(HeaderId::GRPC_STATUS))
                .and_then(|v| std::str::from_utf8(v).ok()?.parse().ok())
                .unwrap_or_else(|| if ex.status == 200 { 0 } else { crate::reply::grpc_status(ex.status) });
            statuses.contains(&status) != *exclude
        }
        LogFilter::Metadata { matcher: m, match_if_key_not_found } => match m {
            None => true,
            Some(m) => {
                let there = ex.metadata.get(&m.filter).and_then(|v| v.path(&m.path)).is_some();
                if there { matcher::metadata(m, ex) } else { *match_if_key_not_found }
            }
        },
        LogFilter::LogType { types, exclude } => types.iter().any(|t| &**t == facts.log_type) != *exclude,
        LogFilter::Cel(c) => crate::decide::cel(&c.expr, facts),
    }
}
