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
    /// When it was applied, ms since 1970.
    at_ms: u64,
    /// Which of `TYPES`.
    kind: u8,
    value: Packed,
}

/// Types of resources recorded; others are shown without their type.
const TYPES: [&str; 7] = [
    super::url::CLUSTER,
    super::url::ENDPOINT,
    super::url::EXTENSION,
    super::url::LISTENER,
    super::url::ROUTE,
    super::url::SECRET,
    super::url::VIRTUAL_HOST,
];

impl Record {
    /// A record of now.
    pub fn new(version: &str, body: &Any) -> Self {
        let kind = TYPES.iter().position(|t| *t == body.type_url).unwrap_or(TYPES.len());
        Self { version: version.into(), at_ms: now_ms(), kind: kind as u8, value: Packed::new(&body.value) }
    }

    /// A record of now of a message that is kept elsewhere: its body is empty.
    pub fn of_bootstrap() -> Self {
        Self { version: "".into(), at_ms: now_ms(), kind: TYPES.len() as u8, value: Packed::new(&[]) }
    }

    /// The same message, applied now in another version.
    pub fn again(&self, version: &str) -> Self {
        Self { version: version.into(), at_ms: now_ms(), ..self.clone() }
    }

    /// The message.
    pub fn body(&self) -> Any {
        let type_url = TYPES.get(usize::from(self.kind)).copied().unwrap_or_default();
        Any { type_url: type_url.to_owned(), value: self.value.to_vec() }
    }

    /// Is this the message that is held?
    pub fn is(&self, body: &Any) -> bool {
        self.value.is(&body.value)
    }

    /// When, in protobuf's form and to the millisecond, as Envoy prints it.
    pub fn timestamp(&self) -> Option<Timestamp> {
        Some(moment(self.at_ms))
    }
}

fn ms(at: SystemTime) -> Option<u64> {
    u64::try_from(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis()).ok()
}

fn now_ms() -> u64 {
    ms(SystemTime::now()).unwrap_or_default()
}

fn moment(ms: u64) -> Timestamp {
    Timestamp { seconds: (ms / 1000) as i64, nanos: (ms % 1000) as i32 * 1_000_000 }
}

/// A moment in protobuf's form, to the millisecond.
pub fn timestamp(at: SystemTime) -> Option<Timestamp> {
    ms(at).map(moment)
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
