//! One type of one client: what is wanted, what the server knows of it, what is held, which answers are owed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protos::envoy::service::discovery::v3 as discovery;
use protos::google::rpc::Status;

use super::{ERROR_DETAIL_BYTES_MAX, Protocol};

/// gRPC's INTERNAL, the code that Envoy's NACKs carry.
const INTERNAL: i32 = 13;

/// One resource of an update.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Its name; empty for types without.
    pub name: String,
    /// Its version; the response's in state-of-the-world.
    pub version: String,
    /// Other names it was asked for by (delta only).
    pub aliases: Vec<String>,
    /// The message; empty when the server says that there is none under these names.
    pub body: prost_types::Any,
}

/// One response, in either dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Type of the resources.
    pub type_url: String,
    /// `system_version_info` or `version_info`.
    pub version: String,
    /// What the answer will quote.
    pub nonce: String,
    /// New and changed resources.
    pub resources: Vec<Resource>,
    /// Names that are gone.
    pub removed: Vec<String>,
}

/// Why an update was not taken whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rejection {
    /// What the server will read.
    pub detail: String,
    /// Names of the resources rejected; what they were before stays in force.
    pub names: BTreeSet<String>,
}

#[derive(Debug)]
struct Answer {
    nonce: String,
    error: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<String>,
    /// The type is asked about even when nothing of it is wanted yet.
    pub(super) open: bool,
    /// What this stream's server knows that we want.
    told: BTreeSet<String>,
    told_wildcard: bool,
    /// The first request of this stream is out.
    started: bool,
    answers: VecDeque<Answer>,
    /// Versions of resources held. State-of-the-world needs only the names.
    held: BTreeMap<String, String>,
    /// State-of-the-world: version last taken, nonce last seen, and whether names changed since the last request.
    version: String,
    nonce: String,
    stale: bool,
}

/// The `Resource` envelope or a bare message, whose name is its first field in every xDS type.
fn open(body: prost_types::Any, version: &str) -> Resource {
    if protos::type_name(&body.type_url) == "envoy.service.discovery.v3.Resource"
        && let Ok(envelope) = protos::unpack::<discovery::Resource>(&body)
    {
        return Resource {
            name: envelope.name,
            version: version.to_owned(),
            aliases: envelope.aliases,
            body: envelope.resource.unwrap_or_default(),
        };
    }
    let name = first_string(&body.value).unwrap_or_default();
    Resource { name, version: version.to_owned(), aliases: Vec::new(), body }
}

/// The name of a resource as a state-of-the-world response carries it: the envelope's, else the message's own.
pub fn resource_name(body: &prost_types::Any) -> Option<String> {
    if protos::type_name(&body.type_url) == "envoy.service.discovery.v3.Resource" {
        return protos::unpack::<discovery::Resource>(body).ok().map(|envelope| envelope.name);
    }
    first_string(&body.value)
}

/// Field 1 of a message as a string, wherever it stands; `None` if there is none or the bytes are no message.
fn first_string(mut bytes: &[u8]) -> Option<String> {
    use prost::encoding::{DecodeContext, WireType, decode_key, skip_field, string};
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        if tag == 1 && wire == WireType::LengthDelimited {
            let mut name = String::new();
            string::merge(wire, &mut name, &mut bytes, DecodeContext::default()).ok()?;
            return Some(name);
        }
        skip_field(wire, tag, &mut bytes, DecodeContext::default()).ok()?;
    }
    None
}

impl Update {
    pub(super) fn from_delta(response: discovery::DeltaDiscoveryResponse) -> Self {
        let resources = response
            .resources
            .into_iter()
            .map(|r| {
                let body = r.resource.unwrap_or_default();
                Resource { name: r.name, version: r.version, aliases: r.aliases, body }
            })
            .collect();
        Self {
            type_url: response.type_url,
            version: response.system_version_info,
            nonce: response.nonce,
            resources,
            removed: response.removed_resources,
        }
    }
}

impl Subscription {
    pub(super) fn want(&mut self, wildcard: bool, names: BTreeSet<String>) {
        if self.wildcard != wildcard || self.names != names {
            self.stale = true;
        }
        if !wildcard {
            self.held.retain(|name, _| names.contains(name));
        }
        self.wildcard = wildcard;
        self.names = names;
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    pub(super) fn reconnect(&mut self) {
        self.told.clear();
        self.told_wildcard = false;
        self.started = false;
        self.answers.clear();
        self.nonce.clear();
    }

    pub(super) fn read_sotw(&self, response: discovery::DiscoveryResponse) -> Update {
        let resources: Vec<Resource> =
            response.resources.into_iter().map(|r| open(r, &response.version_info)).collect();
        // Only a wildcard response is the whole state; of named types absence says nothing.
        let removed = if self.wildcard {
            let present: BTreeSet<&str> = resources.iter().map(|r| r.name.as_str()).collect();
            self.held.keys().filter(|name| !present.contains(name.as_str())).cloned().collect()
        } else {
            Vec::new()
        };
        Update {
            type_url: response.type_url,
            version: response.version_info,
            nonce: response.nonce,
            resources,
            removed,
        }
    }

    pub(super) fn settle(&mut self, protocol: Protocol, update: &Update, verdict: Result<(), Rejection>) {
        let rejected = verdict.as_ref().err().map(|r| &r.names);
        for resource in &update.resources {
            let wanted = self.wildcard || self.names.contains(&resource.name);
            if wanted && rejected.is_none_or(|r| !r.contains(&resource.name)) {
                self.held.insert(resource.name.clone(), resource.version.clone());
            }
        }
        for name in update.removed.iter().filter(|n| rejected.is_none_or(|r| !r.contains(*n))) {
            self.held.remove(name);
        }
        if protocol == Protocol::StateOfTheWorld {
            self.nonce = update.nonce.clone();
            if verdict.is_ok() {
                self.version = update.version.clone();
            }
        }
        let error = verdict.err().map(|mut r| {
            let mut end = r.detail.len().min(ERROR_DETAIL_BYTES_MAX);
            while !r.detail.is_char_boundary(end) {
                end -= 1;
            }
            r.detail.truncate(end);
            r.detail
        });
        self.answers.push_back(Answer { nonce: update.nonce.clone(), error });
    }

    fn idle(&self) -> bool {
        !self.started && !self.wildcard && !self.open && self.names.is_empty()
    }

    pub(super) fn poll_delta(&mut self, type_url: &str) -> Option<discovery::DeltaDiscoveryRequest> {
        if self.idle() {
            return None;
        }
        let mut request = discovery::DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() };
        if !self.started {
            self.started = true;
            request.initial_resource_versions = self.held.clone();
            // An empty first request is the wildcard; with names beside it, it must be spelled out.
            if self.wildcard && !self.names.is_empty() {
                request.resource_names_subscribe.push("*".into());
            }
            request.resource_names_subscribe.extend(self.names.iter().cloned());
        } else {
            let answer = self.answers.pop_front();
            let changed = self.told != self.names || self.told_wildcard != self.wildcard;
            if answer.is_none() && !changed {
                return None;
            }
            if let Some(Answer { nonce, error }) = answer {
                request.response_nonce = nonce;
                request.error_detail = error.map(|message| Status { code: INTERNAL, message, ..Default::default() });
            }
            if self.wildcard != self.told_wildcard {
                let list = if self.wildcard {
                    &mut request.resource_names_subscribe
                } else {
                    &mut request.resource_names_unsubscribe
                };
                list.push("*".into());
            }
            request.resource_names_subscribe.extend(self.names.difference(&self.told).cloned());
            request.resource_names_unsubscribe.extend(self.told.difference(&self.names).cloned());
        }
        self.told = self.names.clone();
        self.told_wildcard = self.wildcard;
        Some(request)
    }

    pub(super) fn poll_sotw(&mut self, type_url: &str) -> Option<discovery::DiscoveryRequest> {
        if self.idle() {
            return None;
        }
        let answer = if self.started { self.answers.pop_front() } else { None };
        if self.started && answer.is_none() && !self.stale {
            return None;
        }
        self.started = true;
        self.stale = false;
        let mut names: Vec<String> = self.names.iter().cloned().collect();
        if self.wildcard && !names.is_empty() {
            names.insert(0, "*".into());
        }
        let (nonce, error) = match answer {
            Some(Answer { nonce, error }) => (nonce, error),
            None => (self.nonce.clone(), None),
        };
        Some(discovery::DiscoveryRequest {
            version_info: self.version.clone(),
            resource_names: names,
            type_url: type_url.to_owned(),
            response_nonce: nonce,
            error_detail: error.map(|message| Status { code: INTERNAL, message, ..Default::default() }),
            ..Default::default()
        })
    }
}
