//! Which protobuf messages exist, and how do they map to canonical JSON?
//!
//! Everything under the package modules (`envoy`, `xds`, `istio`, …) is generated at build time from `descriptor.bin`;
//! `json` and `schema` are by hand. Maps are `BTreeMap`, so equal messages have equal bytes. Every message implements
//! [`prost::Name`], so its type URL is known. Absent: any meaning; that begins one floor up.

#[allow(missing_docs, clippy::all, rustdoc::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/_all.rs"));
}

pub mod json;
pub mod schema;

pub use generated::*;
pub use prost;
pub use prost_types;

use prost::{Message, Name};
use prost_types::Any;

/// Why an `Any` could not be opened as the expected message.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The type URL names another message.
    #[error("expected {expected}, got {actual:?}")]
    Type {
        /// Type URL of the message asked for.
        expected: String,
        /// Type URL found.
        actual: String,
    },
    /// The payload is not that message.
    #[error("{type_url}: {error}")]
    Decode {
        /// Type URL of the message.
        type_url: String,
        /// What prost found wrong.
        error: prost::DecodeError,
    },
}

/// Packs `message` under its type URL `type.googleapis.com/<full name>`.
pub fn any<T: Message + Name>(message: &T) -> Any {
    Any { type_url: T::type_url(), value: message.encode_to_vec() }
}

/// The full message name behind a type URL: all that follows the last `/`.
pub fn type_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

/// Opens `any` as `T`. The host part of the type URL is not compared, as everywhere in protobuf.
pub fn unpack<T: Message + Name + Default>(any: &Any) -> Result<T, UnpackError> {
    if type_name(&any.type_url) != T::full_name() {
        return Err(UnpackError::Type { expected: T::type_url(), actual: any.type_url.clone() });
    }
    T::decode(&*any.value).map_err(|error| UnpackError::Decode { type_url: any.type_url.clone(), error })
}
