//! What is written about a finished request? SHIM.

use proxy_config::access_log::AccessLog;
use telemetry::access_log::Sinks;

use crate::connection::Conn;
use crate::exchange::Exchange;
use crate::stream::Found;

/// One access log.
pub struct Logger;

impl Logger {
    /// Opens the sink.
    pub fn new(_config: &AccessLog, _sinks: &Sinks) -> Option<Self> {
        None
    }

    /// Writes the entry.
    pub fn log(&self, _conn: &Conn, _ex: &Exchange, _found: Option<&Found>) {}
}
