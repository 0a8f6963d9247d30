//! Which bytes are the endpoints of a cluster? A `ClusterLoadAssignment` written as it will be sent, field by field: a
//! mesh has many times more endpoints than anything else, and as messages their metadata alone are five allocations
//! each. Equal to the encoding of `endpoint::load_assignment`, which the tests of `incremental` compare.

use model::{Endpoint, Health, Workload};
use protos::envoy::config::core::v3::HealthStatus;
use protos::envoy::config::endpoint::v3 as endpoint;
use protos::prost::Message as _;
use protos::prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::cluster::locality;
use crate::locality::Group;

/// `ClusterLoadAssignment`: `cluster_name`, `endpoints`.
const CLUSTER_NAME: u32 = 1;
const ENDPOINTS: u32 = 2;
/// `LocalityLbEndpoints`: `locality`, `lb_endpoints`, `load_balancing_weight`, `priority`.
const LOCALITY: u32 = 1;
const LB_ENDPOINTS: u32 = 2;
const GROUP_WEIGHT: u32 = 3;
const PRIORITY: u32 = 5;
/// `LbEndpoint`: `endpoint`, `health_status`, `metadata`, `load_balancing_weight`.
const ENDPOINT: u32 = 1;
const HEALTH: u32 = 2;
const METADATA: u32 = 3;
const WEIGHT: u32 = 4;
/// `Metadata.filter_metadata`, `Struct.fields`; key and value of a map entry; `Value.string_value`.
const FIELDS: u32 = 1;
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING: u32 = 3;

fn head(out: &mut Vec<u8>, number: u32, len: usize) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    head(out, number, value.len());
    out.extend_from_slice(value.as_bytes());
}

fn len(number: u32, content: usize) -> usize {
    key_len(number) + encoded_len_varint(content as u64) + content
}

/// A `UInt32Value`.
fn wrapped(out: &mut Vec<u8>, number: u32, value: u32) {
    if value == 0 {
        return head(out, number, 0);
    }
    head(out, number, 1 + encoded_len_varint(value.into()));
    encode_key(1, WireType::Varint, out);
    encode_varint(value.into(), out);
}

/// Writes endpoints for one client's cluster.
pub(crate) struct Writer<'a> {
    cluster_id: &'a str,
    /// The part of metadata that says that the endpoint speaks mesh mTLS.
    mtls: Vec<u8>,
    workload: String,
    endpoint: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(cluster_id: &'a str) -> Self {
        let mtls = protos::envoy::config::core::v3::Metadata {
            filter_metadata: [("envoy.transport_socket_match".to_owned(), crate::cluster::mtls_match())].into(),
            ..Default::default()
        };
        Writer { cluster_id, mtls: mtls.encode_to_vec(), workload: String::new(), endpoint: Vec::new() }
    }

    /// The whole assignment.
    pub(crate) fn assignment(&mut self, name: &str, groups: &[Group<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut group = Vec::new();
        text(&mut out, CLUSTER_NAME, name);
        for g in groups {
            group.clear();
            let place = locality(&g.locality);
            head(&mut group, LOCALITY, place.encoded_len());
            place.encode_raw(&mut group);
            for e in &g.endpoints {
                self.write(e);
                head(&mut group, LB_ENDPOINTS, self.endpoint.len());
                group.extend_from_slice(&self.endpoint);
            }
            wrapped(&mut group, GROUP_WEIGHT, g.weight);
            if g.priority != 0 {
                encode_key(PRIORITY, WireType::Varint, &mut group);
                encode_varint(g.priority.into(), &mut group);
            }
            head(&mut out, ENDPOINTS, group.len());
            out.extend_from_slice(&group);
        }
        out.shrink_to_fit();
        out
    }

    fn write(&mut self, e: &Endpoint) {
        let address =
            endpoint::Endpoint { address: Some(crate::wire::address(&e.address, e.port.into())), ..Default::default() };
        self.endpoint.clear();
        head(&mut self.endpoint, ENDPOINT, address.encoded_len());
        address.encode_raw(&mut self.endpoint);
        if e.health == Health::Unhealthy {
            encode_key(HEALTH, WireType::Varint, &mut self.endpoint);
            encode_varint(HealthStatus::Unhealthy as u64, &mut self.endpoint);
        }
        self.metadata(&e.workload);
        wrapped(&mut self.endpoint, WEIGHT, e.weight.max(1));
    }

    fn metadata(&mut self, w: &Workload) {
        crate::endpoint::workload_text(&mut self.workload, w, self.cluster_id);
        let (namespace, field) = ("istio", "workload");
        let value = len(STRING, self.workload.len());
        let entry = len(KEY, field.len()) + len(VALUE, value);
        let fields = len(FIELDS, entry);
        let istio = len(KEY, namespace.len()) + len(VALUE, fields);
        let mtls = if w.speaks_mtls { self.mtls.as_slice() } else { &[] };
        let out = &mut self.endpoint;
        head(out, METADATA, mtls.len() + len(FIELDS, istio));
        out.extend_from_slice(mtls);
        head(out, FIELDS, istio);
        text(out, KEY, namespace);
        head(out, VALUE, fields);
        head(out, FIELDS, entry);
        text(out, KEY, field);
        head(out, VALUE, value);
        text(out, STRING, &self.workload);
    }
}
