//! Turns `descriptor.bin` (schema as data) into Rust types, gRPC stubs and the compact schema table
//! that `json` reads. Needs no protoc; `cargo xtask protos` refreshes the descriptor itself.

use prost::Message;
use prost_types::{FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

/// Packages nobody in a mesh configures: no Rust types are generated for them. The JSON schema has them all the same,
/// so that a configuration naming one is printed faithfully and refused by name.
const WITHOUT_TYPES: &[&str] = &[
    "dynamic_modules",
    "/quic/",
    "/udp/",
    "udp_packet_writer",
    "thrift_proxy",
    "dubbo_proxy",
    "generic_proxy",
    "reverse_tunnel",
    "/tap/",
    "proto_api_scrubber",
    "data/ai",
    "type/ai",
    "redis_auth",
    "ratelimit/config",
    "rls_conf_ds",
    "profiles/v1development",
    "watchdog",
    "gcp_authn",
    "aws_",
    "kill_request",
    "mcp",
    "a2a",
];

fn main() {
    println!("cargo::rerun-if-changed=descriptor.bin");
    println!("cargo::rerun-if-changed=build.rs");
    let bytes = std::fs::read("descriptor.bin").expect("descriptor.bin is committed beside build.rs");
    let set = FileDescriptorSet::decode(&*bytes).expect("descriptor.bin is a FileDescriptorSet");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    std::fs::write(out.join("schema.bin"), Schema::of(&set).into_bytes()).expect("OUT_DIR is writable");

    let mut config = prost_build::Config::new();
    config
        .btree_map(["."])
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .include_file("_all.rs")
        .out_dir(&out);
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(&out)
        .include_file("_all.rs")
        .compile_fds_with_config(typed_subset(set), config)
        .expect("prost generates code from the descriptor set");
}

/// The files with Rust types: all that are wanted, and all that these import.
fn typed_subset(set: FileDescriptorSet) -> FileDescriptorSet {
    let by_name: HashMap<&str, &FileDescriptorProto> = set.file.iter().map(|f| (f.name(), f)).collect();
    let mut wanted: Vec<&str> =
        by_name.keys().copied().filter(|name| !WITHOUT_TYPES.iter().any(|w| name.contains(w))).collect();
    let mut keep = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if keep.insert(name) {
            wanted.extend(by_name[name].dependency.iter().map(String::as_str));
        }
    }
    let keep: BTreeSet<String> = keep.into_iter().map(str::to_owned).collect();
    FileDescriptorSet { file: set.file.into_iter().filter(|f| keep.contains(f.name())).collect() }
}

/// The compact schema. Layout in `src/schema.rs`, which reads it.
#[derive(Default)]
struct Schema {
    strings: Vec<u8>,
    interned: HashMap<String, u32>,
    messages: BTreeMap<String, Vec<FieldDescriptorProto>>,
    enums: BTreeMap<String, Vec<(i32, String)>>,
    map_entries: BTreeSet<String>,
}

impl Schema {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut s = Self::default();
        for file in &set.file {
            let package = file.package();
            file.message_type.iter().for_each(|m| s.add_message(package, m));
            file.enum_type.iter().for_each(|e| s.add_enum(package, e));
        }
        s
    }

    fn add_message(&mut self, scope: &str, m: &prost_types::DescriptorProto) {
        let name = join(scope, m.name());
        m.nested_type.iter().for_each(|n| self.add_message(&name, n));
        m.enum_type.iter().for_each(|e| self.add_enum(&name, e));
        if m.options.as_ref().is_some_and(|o| o.map_entry()) {
            self.map_entries.insert(name.clone());
        }
        self.messages.insert(name, m.field.clone());
    }

    fn add_enum(&mut self, scope: &str, e: &prost_types::EnumDescriptorProto) {
        let values = e.value.iter().map(|v| (v.number(), v.name().to_owned())).collect();
        self.enums.insert(join(scope, e.name()), values);
    }

    fn intern(&mut self, s: &str) -> u32 {
        assert!(s.len() < 256, "names fit a length byte: {s}");
        if let Some(&at) = self.interned.get(s) {
            return at;
        }
        let at = u32::try_from(self.strings.len()).expect("string table under 4 GiB");
        self.strings.push(s.len() as u8);
        self.strings.extend_from_slice(s.as_bytes());
        self.interned.insert(s.to_owned(), at);
        at
    }

    fn into_bytes(mut self) -> Vec<u8> {
        let message_ids: HashMap<String, u16> =
            self.messages.keys().enumerate().map(|(i, n)| (n.clone(), i as u16)).collect();
        let enum_ids: HashMap<String, u16> =
            self.enums.keys().enumerate().map(|(i, n)| (n.clone(), i as u16)).collect();
        let (mut messages, mut fields, mut enums, mut values) = (vec![], vec![], vec![], vec![]);
        for (name, list) in std::mem::take(&mut self.messages) {
            put(&mut messages, &[self.intern(&name), (fields.len() / 20) as u32, list.len() as u32]);
            for f in &list {
                let type_name = f.type_name().trim_start_matches('.');
                let reference =
                    message_ids.get(type_name).or_else(|| enum_ids.get(type_name)).copied().unwrap_or(u16::MAX);
                let repeated = u32::from(f.label() == prost_types::field_descriptor_proto::Label::Repeated);
                let map = u32::from(self.map_entries.contains(type_name));
                let unpacked = u32::from(f.options.as_ref().is_some_and(|o| o.packed == Some(false)));
                // proto3 scalars outside a oneof have no presence: their default is not written.
                let implicit = u32::from(
                    f.oneof_index.is_none()
                        && repeated == 0
                        && f.r#type() != prost_types::field_descriptor_proto::Type::Message,
                );
                let oneof = match f.oneof_index {
                    Some(i) if !f.proto3_optional() => i as u32 + 1,
                    _ => 0,
                };
                let name = self.intern(f.name());
                let json = self.intern(f.json_name());
                let kind = f.r#type() as u32 | repeated << 8 | map << 9 | unpacked << 10 | implicit << 11;
                put(&mut fields, &[name, json, f.number() as u32, kind, u32::from(reference) | oneof << 16]);
            }
        }
        for (name, list) in std::mem::take(&mut self.enums) {
            put(&mut enums, &[self.intern(&name), (values.len() / 8) as u32, list.len() as u32]);
            for (number, name) in &list {
                put(&mut values, &[*number as u32, self.intern(name)]);
            }
        }
        let mut out = vec![];
        let sections = [&messages, &fields, &enums, &values, &self.strings];
        let mut at = 4 * (sections.len() as u32 + 1);
        for s in sections {
            put(&mut out, &[at]);
            at += s.len() as u32;
        }
        put(&mut out, &[at]);
        sections.iter().for_each(|s| out.extend_from_slice(s));
        out
    }
}

fn put(to: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|w| to.extend_from_slice(&w.to_le_bytes()));
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}
