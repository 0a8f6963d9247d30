//! What will `/config_dump` say of a resource? The message as it came, when, in which version, and what was refused.

use std::time::SystemTime;

use prost_types::{Any, Timestamp};
use protos::envoy::admin::v3 as admin;

/// A resource as it was applied.
#[derive(Debug, Clone)]
pub struct Record {
    /// Version of the resource (delta) or of its response.
    pub version: String,
    /// When it was applied.
    pub at: SystemTime,
    /// The message.
    pub body: Any,
}

impl Record {
    /// A record of now.
    pub fn new(version: &str, body: Any) -> Self {
        Self { version: version.into(), at: SystemTime::now(), body }
    }

    /// When, in protobuf's form and to the millisecond, as Envoy prints it.
    pub fn timestamp(&self) -> Option<Timestamp> {
        timestamp(self.at)
    }
}

fn timestamp(at: SystemTime) -> Option<Timestamp> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_millis() as i32 * 1_000_000 })
}

/// The last refused version of a resource.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was refused.
    pub record: Record,
    /// Why.
    pub details: String,
}

impl Failure {
    /// As `error_state` shows it.
    pub fn state(&self) -> admin::UpdateFailureState {
        admin::UpdateFailureState {
            failed_configuration: Some(self.record.body.clone()),
            last_update_attempt: self.record.timestamp(),
            details: self.details.clone(),
            version_info: self.record.version.clone(),
        }
    }
}
