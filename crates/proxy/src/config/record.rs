//! What will `/config_dump` say of a resource? The message as it came, when, in which version, and what was refused.

use std::time::SystemTime;

use prost_types::{Any, Timestamp};
use protos::envoy::admin::v3 as admin;

use crate::packed::Packed;

/// A resource as it was applied; packed tightly, for there are thousands.
#[derive(Debug, Clone)]
pub struct Record {
    /// Version of the resource (delta) or of its response.
    pub version: Box<str>,
    /// When it was applied.
    pub at: SystemTime,
    type_url: &'static str,
    value: Packed,
}

/// Types of resources recorded; others are shown without their type.
const TYPES: [&str; 5] =
    [super::url::CLUSTER, super::url::ENDPOINT, super::url::LISTENER, super::url::ROUTE, super::url::SECRET];

impl Record {
    /// A record of now.
    pub fn new(version: &str, body: &Any) -> Self {
        let type_url = TYPES.into_iter().find(|t| *t == body.type_url).unwrap_or_default();
        Self { version: version.into(), at: SystemTime::now(), type_url, value: Packed::new(&body.value) }
    }

    /// The message.
    pub fn body(&self) -> Any {
        Any { type_url: self.type_url.to_owned(), value: self.value.to_vec() }
    }

    /// Is this the message that is held?
    pub fn is(&self, body: &Any) -> bool {
        self.value.is(&body.value)
    }

    /// When, in protobuf's form and to the millisecond, as Envoy prints it.
    pub fn timestamp(&self) -> Option<Timestamp> {
        timestamp(self.at)
    }
}

/// A moment in protobuf's form, to the millisecond.
pub fn timestamp(at: SystemTime) -> Option<Timestamp> {
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
            failed_configuration: Some(self.record.body()),
            last_update_attempt: self.record.timestamp(),
            details: self.details.clone(),
            version_info: self.record.version.to_string(),
        }
    }
}
