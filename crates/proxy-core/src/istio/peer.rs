//! Who is at the other end, as Istio sees it? A workload with namespace, canonical service and labels.
//!
//! Peers say it in a `google.protobuf.Struct` (headers and the TCP exchange), in baggage, or the endpoint's metadata
//! says it for them. Follows Istio's `WorkloadMetadataObject`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use protos::prost::Message as _;
use protos::prost_types as pt;
use proxy_config::Name;
use proxy_config::common::Value;

/// Bytes of a peer's encoded metadata at most; longer ones are not read.
const ENCODED_BYTES_MAX: usize = 64 << 10;

/// What kind of controller owns the workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkloadKind {
    /// Not told.
    #[default]
    Unknown,
    /// A pod of its own.
    Pod,
    /// A deployment.
    Deployment,
    /// A job.
    Job,
    /// A cron job.
    CronJob,
}

impl WorkloadKind {
    fn from_word(word: &str) -> Self {
        match word {
            "pod" => Self::Pod,
            "deployment" => Self::Deployment,
            "job" => Self::Job,
            "cronjob" => Self::CronJob,
            _ => Self::Unknown,
        }
    }

    /// Istio's word; `None` for unknown.
    pub fn word(self) -> Option<&'static str> {
        Some(match self {
            Self::Unknown => return None,
            Self::Pod => "pod",
            Self::Deployment => "deployment",
            Self::Job => "job",
            Self::CronJob => "cronjob",
        })
    }
}

/// A workload. Texts are empty when not told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Peer {
    /// Pod name.
    pub instance: Box<str>,
    /// Cluster it runs in.
    pub cluster: Box<str>,
    /// Namespace.
    pub namespace: Box<str>,
    /// Workload name.
    pub workload: Box<str>,
    /// Canonical service.
    pub service: Box<str>,
    /// Canonical revision.
    pub revision: Box<str>,
    /// `app` label.
    pub app: Box<str>,
    /// `version` label.
    pub version: Box<str>,
    /// Owner's kind.
    pub kind: WorkloadKind,
    /// SPIFFE identity.
    pub identity: Box<str>,
    /// Region.
    pub region: Box<str>,
    /// Zone.
    pub zone: Box<str>,
    /// Labels asked for in addition.
    pub labels: Vec<(Box<str>, Box<str>)>,
}

const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";

/// Padding is Envoy's to write and anybody's to leave out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Peer {
    /// From a metadata struct such as the node's (`NAME`, `NAMESPACE`, `LABELS`, …). `additional`: labels to keep.
    pub fn from_struct(metadata: &Value, additional: &[Name]) -> Self {
        let text = |key: &str| -> Box<str> { metadata.get(key).and_then(Value::as_str).unwrap_or_default().into() };
        let labels = metadata.get("LABELS");
        let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str).filter(|v| !v.is_empty());
        let workload = text("WORKLOAD_NAME");
        Peer {
            kind: owner_kind(&text("OWNER"), &workload),
            instance: text("NAME"),
            cluster: text("CLUSTER_ID"),
            namespace: text("NAMESPACE"),
            service: label(CANONICAL_NAME).unwrap_or_default().into(),
            revision: label(CANONICAL_REVISION).unwrap_or_default().into(),
            app: label("app.kubernetes.io/name").or(label("app")).unwrap_or_default().into(),
            version: label("app.kubernetes.io/version").or(label("version")).unwrap_or_default().into(),
            identity: text("IDENTITY"),
            region: text("REGION"),
            zone: text("AVAILABILITY_ZONE"),
            labels: additional
                .iter()
                .filter(|key| !OWN_LABELS.contains(&&***key))
                .filter_map(|key| Some(((**key).into(), label(key)?.into())))
                .collect(),
            workload,
        }
    }

    /// From an encoded `google.protobuf.Struct`.
    pub fn decode(bytes: &[u8], additional: &[Name]) -> Option<Self> {
        let message = pt::Struct::decode(bytes).ok()?;
        Some(Self::from_struct(&proxy_config::parse::value_of_struct(&message), additional))
    }

    /// From the value of `x-envoy-peer-metadata`.
    pub fn from_header(value: &[u8], additional: &[Name]) -> Option<Self> {
        if value.len() > ENCODED_BYTES_MAX {
            return None;
        }
        Self::decode(&LENIENT.decode(value).ok()?, additional)
    }

    /// From a `baggage` header.
    pub fn from_baggage(value: &str) -> Self {
        let mut peer = Peer::default();
        for (key, value) in value.split(',').filter_map(|p| p.trim().split_once('=')) {
            let kind = match key {
                "k8s.namespace.name" => {
                    peer.namespace = value.into();
                    continue;
                }
                "k8s.cluster.name" => {
                    peer.cluster = value.into();
                    continue;
                }
                "k8s.instance.name" => {
                    peer.instance = value.into();
                    continue;
                }
                "service.name" => {
                    peer.service = value.into();
                    continue;
                }
                "service.version" => {
                    peer.revision = value.into();
                    continue;
                }
                "app.name" => {
                    peer.app = value.into();
                    continue;
                }
                "app.version" => {
                    peer.version = value.into();
                    continue;
                }
                "cloud.region" => {
                    peer.region = value.into();
                    continue;
                }
                "cloud.availability_zone" => {
                    peer.zone = value.into();
                    continue;
                }
                "k8s.deployment.name" => WorkloadKind::Deployment,
                "k8s.pod.name" => WorkloadKind::Pod,
                "k8s.cronjob.name" => WorkloadKind::CronJob,
                "k8s.job.name" => WorkloadKind::Job,
                _ => continue,
            };
            peer.workload = value.into();
            peer.kind = kind;
        }
        // Baggage leaves out what is the same as the canonical service.
        if peer.app.is_empty() {
            peer.app = peer.service.clone();
        }
        if peer.version.is_empty() {
            peer.version = peer.revision.clone();
        }
        peer
    }

    /// From an endpoint's metadata, `istio.workload`: `workload;namespace;service;revision;cluster`.
    pub fn from_endpoint(value: &str) -> Option<Self> {
        let mut parts = value.split(';');
        let mut next = || parts.next().map(Box::from);
        Some(Peer {
            workload: next()?,
            namespace: next()?,
            service: next()?,
            revision: next()?,
            cluster: next()?,
            ..Peer::default()
        })
    }

    /// The struct that says all this to a peer, encoded with sorted keys.
    pub fn encode(&self) -> Vec<u8> {
        self.message().encode_to_vec()
    }

    /// The same as a protobuf message.
    pub fn message(&self) -> pt::Struct {
        let text = |v: &str| pt::Value { kind: Some(pt::value::Kind::StringValue(v.to_owned())) };
        let put = |map: &mut BTreeMap<String, pt::Value>, pairs: &[(&str, &str)]| {
            for (key, value) in pairs.iter().filter(|p| !p.1.is_empty()) {
                map.insert((*key).to_owned(), text(value));
            }
        };
        let mut fields: BTreeMap<String, pt::Value> = BTreeMap::new();
        put(
            &mut fields,
            &[
                ("NAME", &self.instance),
                ("NAMESPACE", &self.namespace),
                ("WORKLOAD_NAME", &self.workload),
                ("CLUSTER_ID", &self.cluster),
                ("IDENTITY", &self.identity),
                ("REGION", &self.region),
                ("AVAILABILITY_ZONE", &self.zone),
            ],
        );
        let mut labels: BTreeMap<String, pt::Value> = BTreeMap::new();
        put(
            &mut labels,
            &[
                (CANONICAL_NAME, &self.service),
                (CANONICAL_REVISION, &self.revision),
                ("app", &self.app),
                ("version", &self.version),
            ],
        );
        labels.extend(self.labels.iter().map(|(k, v)| (k.to_string(), text(v))));
        fields.insert(
            "LABELS".to_owned(),
            pt::Value { kind: Some(pt::value::Kind::StructValue(pt::Struct { fields: labels })) },
        );
        if let Some(kind) = self.kind.word() {
            let owner = format!("kubernetes://apis/apps/v1/namespaces/{}/{kind}s/{}", self.namespace, self.workload);
            fields.insert("OWNER".to_owned(), text(&owner));
        }
        pt::Struct { fields }
    }

    /// The value of `x-envoy-peer-metadata`.
    pub fn header(&self) -> String {
        STANDARD.encode(self.encode())
    }

    /// The value of a `baggage` header.
    pub fn baggage(&self) -> String {
        let mut parts = Vec::new();
        if !self.workload.is_empty() {
            parts.push(format!("k8s.{}.name={}", self.kind.word().unwrap_or("pod"), self.workload));
        }
        let mut part = |key: &str, value: &str| {
            if !value.is_empty() {
                parts.push(format!("{key}={value}"));
            }
        };
        let service = if self.service.is_empty() { &self.app } else { &self.service };
        part("service.name", service);
        if self.app != *service {
            part("app.name", &self.app);
        }
        let revision = if self.revision.is_empty() { &self.version } else { &self.revision };
        part("service.version", revision);
        if self.version != *revision {
            part("app.version", &self.version);
        }
        part("k8s.namespace.name", &self.namespace);
        part("k8s.cluster.name", &self.cluster);
        part("k8s.instance.name", &self.instance);
        part("cloud.region", &self.region);
        part("cloud.availability_zone", &self.zone);
        parts.join(",")
    }

    fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("type", self.kind.word().unwrap_or_default()),
            ("workload", &*self.workload),
            ("name", &*self.instance),
            ("cluster", &*self.cluster),
            ("namespace", &*self.namespace),
            ("service", &*self.service),
            ("revision", &*self.revision),
            ("app", &*self.app),
            ("version", &*self.version),
            ("region", &*self.region),
            ("availability_zone", &*self.zone),
        ]
        .into_iter()
        .filter(|p| !p.1.is_empty())
    }

    /// How a log prints the whole object: `type=deployment,workload=…`.
    pub fn text(&self) -> String {
        self.pairs().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
    }

    /// How expressions see it: `filter_state.downstream_peer.workload`, `….labels['role']`.
    pub fn value(&self) -> Value {
        let text = |v: &str| Value::String(v.into());
        let mut map: BTreeMap<Name, Value> = self.pairs().map(|(k, v)| (k.into(), text(v))).collect();
        if !self.identity.is_empty() {
            map.insert("identity".into(), text(&self.identity));
        }
        if !self.labels.is_empty() {
            let labels = self.labels.iter().map(|(k, v)| ((**k).into(), text(v))).collect();
            map.insert("labels".into(), Value::Struct(Arc::new(labels)));
        }
        Value::Struct(Arc::new(map))
    }
}

/// Labels that have a field of their own.
const OWN_LABELS: [&str; 6] =
    [CANONICAL_NAME, CANONICAL_REVISION, "app", "app.kubernetes.io/name", "version", "app.kubernetes.io/version"];

/// `kubernetes://apis/apps/v1/namespaces/NS/deployments/NAME` → deployment.
fn owner_kind(owner: &str, workload: &str) -> WorkloadKind {
    let Some(head) = owner.len().checked_sub(workload.len() + 2).and_then(|end| owner.get(..end)) else {
        return WorkloadKind::Unknown;
    };
    head.rsplit_once('/').map_or(WorkloadKind::Unknown, |(_, word)| WorkloadKind::from_word(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Peer {
        Peer {
            instance: "pod-foo-1234".into(),
            cluster: "my-cluster".into(),
            namespace: "default".into(),
            workload: "foo".into(),
            service: "foo-service".into(),
            revision: "v1alpha3".into(),
            app: "foo-app".into(),
            version: "latest".into(),
            kind: WorkloadKind::Deployment,
            labels: vec![("role".into(), "x".into())],
            ..Peer::default()
        }
    }

    #[test]
    fn header_round_trip() {
        let header = full().header();
        let read = Peer::from_header(header.as_bytes(), &["role".into(), "app".into()]).expect("decodes");
        assert_eq!(read, full());
        let unpadded = header.trim_end_matches('=');
        assert_eq!(Peer::from_header(unpadded.as_bytes(), &["role".into()]), Some(full()));
        assert_eq!(Peer::from_header(b"%%%", &[]), None);
        assert_eq!(Peer::from_header(b"////", &[]), None);
    }

    #[test]
    fn baggage_round_trip() {
        let peer = Peer { labels: vec![], ..full() };
        assert_eq!(
            peer.baggage(),
            "k8s.deployment.name=foo,service.name=foo-service,app.name=foo-app,service.version=v1alpha3,\
             app.version=latest,k8s.namespace.name=default,k8s.cluster.name=my-cluster,k8s.instance.name=pod-foo-1234"
        );
        assert_eq!(Peer::from_baggage(&peer.baggage()), peer);
        assert_eq!(&*Peer::from_baggage("service.name=a").app, "a");
    }

    #[test]
    fn other_sources_and_texts() {
        let peer = Peer::from_endpoint("w;ns;svc;v1;c1").expect("five parts");
        assert_eq!((&*peer.workload, &*peer.cluster), ("w", "c1"));
        assert_eq!(Peer::from_endpoint("w;ns;svc;v1"), None);
        assert_eq!(
            full().text(),
            "type=deployment,workload=foo,name=pod-foo-1234,cluster=my-cluster,namespace=default,\
             service=foo-service,revision=v1alpha3,app=foo-app,version=latest"
        );
        assert_eq!(full().value().path(&["labels", "role"]).and_then(Value::as_str), Some("x"));
        assert_eq!(owner_kind("kubernetes://apis/batch/v1/namespaces/ns/cronjobs/a", "a"), WorkloadKind::CronJob);
        assert_eq!(owner_kind("x", "long"), WorkloadKind::Unknown);
    }
}
