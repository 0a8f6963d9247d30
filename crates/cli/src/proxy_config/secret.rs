//! `proxy-config secret`: which certificates does a proxy hold, and are they valid now?

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use x509_parser::prelude::{FromDer, GeneralName, Pem, X509Certificate};

use super::dump::Dump;
use super::text;
use crate::tabwriter::table;

/// One line of the table.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    name: String,
    kind: &'static str,
    state: &'static str,
    valid: bool,
    serial: String,
    not_after: String,
    not_before: String,
    trust_domain: String,
    bundle: bool,
}

/// The table; `now` in seconds since 1970 decides what is valid.
pub(super) fn summary(dump: &Dump, now: i64) -> String {
    let section = dump.secrets_dump();
    let mut rows = Vec::new();
    for (list, state) in
        [("dynamic_warming_secrets", "WARMING"), ("dynamic_active_secrets", "ACTIVE"), ("static_secrets", "STATIC")]
    {
        for entry in section[list].as_array().into_iter().flatten() {
            rows.extend(secret(entry, state, now));
        }
    }
    // Only SPIFFE bundles of several domains make the domain worth a column.
    let domains = rows.iter().any(|row| row.bundle);
    let mut cells = vec![
        ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in &rows {
        cells.push(vec![
            row.name.clone(),
            row.kind.to_owned(),
            row.state.to_owned(),
            row.valid.to_string(),
            row.serial.clone(),
            row.not_after.clone(),
            row.not_before.clone(),
        ]);
    }
    if domains {
        cells[0].push("TRUST DOMAIN".to_owned());
        for (cell, row) in cells.iter_mut().skip(1).zip(&rows) {
            cell.push(row.trust_domain.clone());
        }
    }
    table(cells, 5)
}

fn secret(entry: &Value, state: &'static str, now: i64) -> Vec<Row> {
    let secret = &entry["secret"];
    let name = entry["name"].as_str().unwrap_or(text(&secret["name"])).to_owned();
    let blank = |kind| Row { name: name.clone(), kind, state, ..Row::default() };
    let inline = |value: &Value| {
        let bytes = value["inline_bytes"].as_str().and_then(|text| STANDARD.decode(text).ok());
        bytes.or_else(|| value["inline_string"].as_str().map(|text| text.as_bytes().to_vec()))
    };
    if let Some(chain) = inline(&secret["tls_certificate"]["certificate_chain"]) {
        // Of a chain only the leaf counts.
        let leaf = certificates(&chain).into_iter().next();
        return vec![leaf.map_or_else(|| blank("Cert Chain"), |der| row(blank("Cert Chain"), &der, now))];
    }
    if let Some(roots) = inline(&secret["validation_context"]["trusted_ca"]) {
        let rows: Vec<Row> = certificates(&roots).iter().map(|der| row(blank("CA"), der, now)).collect();
        return if rows.is_empty() { vec![blank("CA")] } else { rows };
    }
    let domains = secret["validation_context"]["custom_validator_config"]["typed_config"]["trust_domains"].as_array();
    let mut rows = Vec::new();
    for domain in domains.into_iter().flatten() {
        for der in inline(&domain["trust_bundle"]).iter().flat_map(|bundle| certificates(bundle)) {
            let mut one = row(blank("CA"), &der, now);
            one.trust_domain = text(&domain["name"]).to_owned();
            one.bundle = true;
            rows.push(one);
        }
    }
    if rows.is_empty() { vec![blank("")] } else { rows }
}

fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem)
        .flatten()
        .filter(|block| block.label == "CERTIFICATE")
        .map(|block| block.contents)
        .collect()
}

fn row(mut row: Row, der: &[u8], now: i64) -> Row {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return row;
    };
    let time = |seconds: i64| {
        jiff::Timestamp::from_second(seconds)
            .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            .unwrap_or_default()
    };
    let validity = certificate.validity();
    let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
    let serial = certificate.raw_serial().iter().skip_while(|byte| **byte == 0);
    row.serial = serial.map(|byte| format!("{byte:02x}")).collect();
    row.not_before = time(from);
    row.not_after = time(to);
    row.valid = (from..=to).contains(&now);
    let names = certificate.subject_alternative_name().ok().flatten();
    let spiffe = names.iter().flat_map(|names| &names.value.general_names).find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
        _ => None,
    });
    row.trust_domain = spiffe.and_then(|id| id.split('/').next()).unwrap_or_default().to_owned();
    row
}
