//! `/certs`: which certificates are in use, and until when.

use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use prost_types::Timestamp;
use protos::envoy::admin::v3 as admin;
use tls::{Certificate, Secret, SecretStore};

use super::json;
use super::query::Query;
use super::reply::Reply;
use crate::server::Server;

/// Days printed when nothing expires, as Envoy's unset gauge shows.
const NEVER: u64 = u32::MAX as u64;

fn timestamp(at: Option<SystemTime>) -> Option<Timestamp> {
    let since = at?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp { seconds: since.as_secs() as i64, nanos: 0 })
}

fn days(at: Option<SystemTime>) -> u64 {
    at.map_or(NEVER, |at| at.duration_since(SystemTime::now()).map_or(0, |d| d.as_secs() / 86_400))
}

fn details(certificate: &Certificate, path: &str) -> admin::CertificateDetails {
    use admin::subject_alternate_name::Name;
    let facts = certificate.facts();
    let uris = facts.uri_sans.iter().map(|u| Name::Uri(u.clone()));
    let dns = facts.dns_sans.iter().map(|d| Name::Dns(d.clone()));
    let ips = facts.ip_sans.iter().map(|i| Name::IpAddress(i.to_string()));
    admin::CertificateDetails {
        path: path.to_owned(),
        serial_number: facts.serial.clone(),
        subject_alt_names: uris
            .chain(dns)
            .chain(ips)
            .map(|name| admin::SubjectAlternateName { name: Some(name) })
            .collect(),
        days_until_expiration: days(facts.not_after),
        valid_from: timestamp(facts.not_before),
        expiration_time: timestamp(facts.not_after),
        ..Default::default()
    }
}

fn roots_of(rules: &tls::PeerRules) -> impl Iterator<Item = &Arc<Certificate>> {
    rules.roots.iter().chain(rules.spiffe.iter().map(|s| &s.1)).flat_map(|r| r.certificates())
}

/// Days until the first certificate in use expires.
pub fn days_until_expiry(secrets: &SecretStore) -> u64 {
    let of = |s: &Secret| match s {
        Secret::Certificate(c) => days(c.certificate.facts().not_after),
        Secret::Validation(v) => roots_of(v).map(|c| days(c.facts().not_after)).min().unwrap_or(NEVER),
    };
    secrets.slots().iter().filter_map(|s| s.load()).map(|s| of(&s)).min().unwrap_or(NEVER)
}

pub fn reply(server: &Rc<Server>, _: &Query) -> Reply {
    let mut certificates: Vec<admin::Certificate> = Vec::new();
    let (mut leaves, mut roots): (Vec<Arc<Certificate>>, Vec<Arc<Certificate>>) = Default::default();
    for secret in server.secrets.slots().iter().filter_map(|s| s.load()) {
        match &*secret {
            Secret::Certificate(c) => leaves.push(c.certificate.clone()),
            Secret::Validation(v) => roots.extend(roots_of(v).cloned()),
        }
    }
    for (_, listener) in server.config.borrow().listeners.active() {
        for leaf in listener.chains().flat_map(|c| c.certificates()) {
            if !leaves.iter().any(|l| l.sha256_hex() == leaf.sha256_hex()) {
                leaves.push(leaf);
            }
        }
    }
    // Envoy prints one entry per TLS context; a context here is the workload's certificate with its trust.
    let ca_cert: Vec<_> = roots.iter().map(|c| details(c, "<inline>")).collect();
    for leaf in &leaves {
        certificates.push(admin::Certificate { ca_cert: ca_cert.clone(), cert_chain: vec![details(leaf, "<inline>")] });
    }
    if leaves.is_empty() && !ca_cert.is_empty() {
        certificates.push(admin::Certificate { ca_cert, cert_chain: Vec::new() });
    }
    let mut value = json::of(&admin::Certificates { certificates });
    if let Some(object) = value.as_object_mut() {
        object.entry("certificates").or_insert_with(|| serde_json::json!([]));
    }
    Reply::json(json::pretty(&value))
}
