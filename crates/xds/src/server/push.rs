//! What is one response on the wire? As a message, or written straight from the shared resources as the client takes it:
//! a thousand clients that get the same megabytes do not hold a copy each.

use std::sync::Arc;

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost_types::Any;
use protos::envoy::config::core::v3::ControlPlane;
use protos::envoy::service::discovery::v3 as discovery;

use super::resource::version_string;
use super::{Kind, Protocol, Resource};

/// A response that may leave.
#[derive(Debug, Clone)]
pub struct Push {
    /// Its type.
    pub kind: Kind,
    /// Unique on the stream.
    pub nonce: String,
    /// Version of all that the client has of this type afterwards.
    pub version: String,
    /// Resources to send: changed ones, or all in state of the world of clusters and listeners.
    pub resources: Vec<Arc<Resource>>,
    /// Names that are gone (delta only).
    pub removed: Vec<Arc<str>>,
}

/// `DeltaDiscoveryResponse.resources` and `DiscoveryResponse.resources`.
const RESOURCES: u32 = 2;
/// `Resource.version`, `.resource`, `.name` and `.aliases`.
const VERSION: u32 = 1;
const RESOURCE: u32 = 2;
const NAME: u32 = 3;
const ALIASES: u32 = 4;
/// `Any.type_url` and `.value`.
const TYPE_URL: u32 = 1;
const VALUE: u32 = 2;

fn field(out: &mut Vec<u8>, number: u32, len: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn field_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

impl Push {
    /// Sum of the encoded resources in bytes.
    pub fn bytes(&self) -> usize {
        self.resources.iter().map(|r| r.value.len()).sum()
    }

    /// Says that there is no virtual host of this name. Envoy lets requests go on for an alias of a resource without a
    /// message, and for no other word.
    fn is_absence(&self, resource: &Resource) -> bool {
        self.kind == Kind::VirtualHost && resource.value.is_empty()
    }

    fn any(&self, resource: &Resource) -> Any {
        Any { type_url: self.kind.type_url().to_owned(), value: resource.value.to_vec() }
    }

    fn delta_without_resources(&self) -> discovery::DeltaDiscoveryResponse {
        discovery::DeltaDiscoveryResponse {
            system_version_info: self.version.clone(),
            type_url: self.kind.type_url().to_owned(),
            removed_resources: self.removed.iter().map(|n| n.to_string()).collect(),
            nonce: self.nonce.clone(),
            ..Default::default()
        }
    }

    fn sotw_without_resources(&self) -> discovery::DiscoveryResponse {
        discovery::DiscoveryResponse {
            version_info: self.version.clone(),
            type_url: self.kind.type_url().to_owned(),
            nonce: self.nonce.clone(),
            ..Default::default()
        }
    }

    /// The response of a delta stream.
    pub fn to_delta(&self) -> discovery::DeltaDiscoveryResponse {
        let resource = |r: &Arc<Resource>| discovery::Resource {
            name: r.name.to_string(),
            version: version_string(r.version),
            resource: (!self.is_absence(r)).then(|| self.any(r)),
            aliases: if self.is_absence(r) { vec![r.name.to_string()] } else { Vec::new() },
            ..Default::default()
        };
        let resources = self.resources.iter().map(resource).collect();
        discovery::DeltaDiscoveryResponse { resources, ..self.delta_without_resources() }
    }

    /// The response of a state-of-the-world stream.
    pub fn to_sotw(&self) -> discovery::DiscoveryResponse {
        let resources = self.resources.iter().map(|r| self.any(r)).collect();
        discovery::DiscoveryResponse { resources, ..self.sotw_without_resources() }
    }

    /// The response as [`to_delta`](Self::to_delta) or [`to_sotw`](Self::to_sotw) would be encoded, up to the order of
    /// fields, written bit by bit. `identifier`: of the control plane.
    pub fn into_writer(self, protocol: Protocol, identifier: &str) -> Writer {
        let control_plane = Some(ControlPlane { identifier: identifier.to_owned() });
        let head = match protocol {
            Protocol::Delta => {
                discovery::DeltaDiscoveryResponse { control_plane, ..self.delta_without_resources() }.encode_to_vec()
            }
            Protocol::Sotw => {
                discovery::DiscoveryResponse { control_plane, ..self.sotw_without_resources() }.encode_to_vec()
            }
        };
        Writer { push: self, protocol, head, resource: 0, value: None }
    }
}

/// Writes one response as its reader takes it: what is not written yet is no copy but the shared resources.
#[derive(Debug)]
pub struct Writer {
    push: Push,
    protocol: Protocol,
    /// All but the resources; empty when written.
    head: Vec<u8>,
    /// The resource to write next.
    resource: usize,
    /// How much of its value is written, once all before that is: whole runs, and bytes of the next.
    value: Option<(usize, usize)>,
}

impl Writer {
    /// Bytes of the whole response, before anything was written.
    pub fn len(&self) -> usize {
        let resources = self.push.resources.iter().map(|r| field_len(RESOURCES, self.resource_len(r)));
        self.head.len() + resources.sum::<usize>()
    }

    /// Nothing is left to write.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.resource == self.push.resources.len()
    }

    fn any_len(&self, r: &Resource) -> usize {
        field_len(TYPE_URL, self.push.kind.type_url().len()) + field_len(VALUE, r.value.len())
    }

    fn resource_len(&self, r: &Resource) -> usize {
        match self.protocol {
            Protocol::Sotw => self.any_len(r),
            Protocol::Delta => {
                let any = match self.push.is_absence(r) {
                    true => field_len(ALIASES, r.name.len()),
                    false => field_len(RESOURCE, self.any_len(r)),
                };
                field_len(VERSION, VERSION_DIGITS) + field_len(NAME, r.name.len()) + any
            }
        }
    }

    /// Appends at least one byte while there is one, and stops soon after `out` has `limit` bytes.
    pub fn fill(&mut self, out: &mut Vec<u8>, limit: usize) {
        out.append(&mut self.head);
        while out.len() < limit
            && let Some(r) = self.push.resources.get(self.resource)
        {
            let (run, written) = self.value.unwrap_or_else(|| {
                self.before_value(r, out);
                (0, 0)
            });
            let rest = r.value.run(run).map_or(&[][..], |bytes| &bytes[written..]);
            let now = rest.len().min(limit.saturating_sub(out.len()).max(1));
            out.extend_from_slice(&rest[..now]);
            (self.resource, self.value) = if now < rest.len() {
                (self.resource, Some((run, written + now)))
            } else if r.value.run(run + 1).is_some() {
                (self.resource, Some((run + 1, 0)))
            } else {
                (self.resource + 1, None)
            };
        }
    }

    fn before_value(&self, r: &Resource, out: &mut Vec<u8>) {
        let url = self.push.kind.type_url();
        field(out, RESOURCES, self.resource_len(r));
        if self.protocol == Protocol::Delta {
            field(out, VERSION, VERSION_DIGITS);
            out.extend_from_slice(&version_digits(r.version));
            field(out, NAME, r.name.len());
            out.extend_from_slice(r.name.as_bytes());
            if self.push.is_absence(r) {
                field(out, ALIASES, r.name.len());
                return out.extend_from_slice(r.name.as_bytes());
            }
            field(out, RESOURCE, self.any_len(r));
        }
        field(out, TYPE_URL, url.len());
        out.extend_from_slice(url.as_bytes());
        field(out, VALUE, r.value.len());
    }
}

const VERSION_DIGITS: usize = 16;

/// [`version_string`] without allocating.
fn version_digits(version: u64) -> [u8; VERSION_DIGITS] {
    std::array::from_fn(|n| b"0123456789abcdef"[(version >> (60 - 4 * n)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use super::super::{Part, Value};
    use super::*;

    #[test]
    fn written_as_the_message_would_be() {
        let resources = vec![
            Resource::new("a", b"first".to_vec()),
            Resource::new("b", vec![7; 300]),
            { Arc::new(Resource { name: "".into(), version: 0x0123_4567_89ab_cdef, value: Value::default() }) },
            {
                let part = |n: usize| Arc::new(Part::new(vec![n as u8; n]));
                Resource::new("in parts", Value::of_parts(vec![9; 3], vec![part(70), part(0), part(2)]))
            },
        ];
        let absent = vec![Resource::new("80/nowhere", Vec::new()), Resource::new("80/web", b"host".to_vec())];
        for (kind, resources) in [(Kind::Cluster, Vec::new()), (Kind::Cluster, resources), (Kind::VirtualHost, absent)]
        {
            let push = Push {
                kind,
                nonce: "1f".into(),
                version: version_string(5),
                resources,
                removed: vec!["gone".into(), "too".into()],
            };
            for limit in [1, 50, usize::MAX] {
                let encode = |protocol| {
                    let mut writer = push.clone().into_writer(protocol, "pilot");
                    let (mut bytes, wanted) = (Vec::new(), writer.len());
                    while !writer.is_empty() {
                        let before = bytes.len();
                        writer.fill(&mut bytes, limit.saturating_add(before));
                        assert!(bytes.len() > before);
                    }
                    assert_eq!(bytes.len(), wanted);
                    bytes
                };
                let read = discovery::DeltaDiscoveryResponse::decode(&*encode(Protocol::Delta)).expect("well formed");
                let control_plane = Some(ControlPlane { identifier: "pilot".into() });
                let want =
                    discovery::DeltaDiscoveryResponse { control_plane: control_plane.clone(), ..push.to_delta() };
                assert_eq!(read, want);
                let said = |r: &discovery::Resource| (r.resource.is_some(), r.aliases.len());
                if kind == Kind::VirtualHost {
                    assert_eq!(read.resources.iter().map(said).collect::<Vec<_>>(), [(false, 1), (true, 0)]);
                }
                let read = discovery::DiscoveryResponse::decode(&*encode(Protocol::Sotw)).expect("well formed");
                assert_eq!(read, discovery::DiscoveryResponse { control_plane, ..push.to_sotw() });
            }
        }
        let digits = version_digits(0x0123_4567_89ab_cdef);
        assert_eq!(digits, version_string(0x0123_4567_89ab_cdef).as_bytes());
    }
}
