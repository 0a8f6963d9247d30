//! Which secrets are held? Static ones, and those that SDS brings; the TLS contexts read them from the shared store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost_types::Any;
use protos::envoy::extensions::transport_sockets::tls::v3 as proto;
use telemetry::stats::Block;
use telemetry::stats::envoy::subscription;

use super::record::{Failure, Record};
use super::sds::{SecretRef, Source};

/// One dynamic secret.
#[derive(Debug)]
pub struct Dynamic {
    /// Who asked for it, from where.
    pub source: Source,
    /// What is in force; `None` while it is awaited.
    pub active: Option<Record>,
    /// Last refused version.
    pub failed: Option<Failure>,
    /// `sds.<name>.`
    pub stats: Block<subscription::Subscription>,
}

/// All secrets.
#[derive(Debug)]
pub struct Secrets {
    store: Arc<tls::SecretStore>,
    stats: Arc<telemetry::stats::Store>,
    /// From the bootstrap.
    pub statics: BTreeMap<String, Record>,
    /// By SDS.
    pub dynamic: BTreeMap<String, Dynamic>,
}

impl Secrets {
    /// No secrets yet.
    pub fn new(store: Arc<tls::SecretStore>, stats: Arc<telemetry::stats::Store>) -> Self {
        Self { store, stats, statics: BTreeMap::new(), dynamic: BTreeMap::new() }
    }

    fn load(&self, secret: &proto::Secret) -> Result<(), String> {
        let config = proxy_config::parse::secret(secret).map_err(|e| e.to_string())?;
        if let Some(loaded) = tls::Secret::from_config(&config.kind).map_err(|e| e.to_string())? {
            self.store.update(&config.name, loaded);
        }
        Ok(())
    }

    /// Takes a secret of the bootstrap.
    pub fn add_static(&mut self, secret: &proto::Secret) -> Result<(), String> {
        self.load(secret)?;
        self.statics.insert(secret.name.clone(), Record::new("", &redacted(&protos::any(secret))));
        Ok(())
    }

    /// Takes a secret of SDS. An error leaves the last good one in force.
    pub fn apply(&mut self, name: &str, version: &str, body: &Any) -> Result<(), String> {
        let Some(entry) = self.dynamic.get(name) else {
            return Err(format!("Unexpected SDS secret (missing name): {name}"));
        };
        entry.stats.inc(subscription::UPDATE_ATTEMPT);
        let verdict = protos::unpack::<proto::Secret>(body).map_err(|e| e.to_string()).and_then(|s| self.load(&s));
        // Keys are the TLS contexts' business; what is printed must not hold them.
        let record = Record::new(version, &redacted(body));
        let Some(entry) = self.dynamic.get_mut(name) else { return verdict };
        match &verdict {
            Ok(()) => {
                entry.stats.inc(subscription::UPDATE_SUCCESS);
                entry.stats.text_set(subscription::VERSION_TEXT, version);
                entry.active = Some(record);
                entry.failed = None;
            }
            Err(details) => {
                entry.stats.inc(subscription::UPDATE_REJECTED);
                entry.failed = Some(Failure { record, details: details.clone() });
            }
        }
        verdict
    }

    /// A secret is there to be used.
    pub fn is_ready(&self, secret: &SecretRef) -> bool {
        self.store.slot(&secret.name).load().is_some()
    }

    /// States who needs what. Secrets nobody needs any more are dropped. True if names of some source changed.
    pub fn want(&mut self, wanted: &BTreeSet<SecretRef>) -> bool {
        let mut changed = false;
        let named: BTreeMap<&str, &Source> = wanted.iter().map(|r| (r.name.as_str(), &r.source)).collect();
        self.dynamic.retain(|name, _| {
            let keep = named.contains_key(name.as_str());
            if !keep {
                changed = true;
                self.store.remove(name);
            }
            keep
        });
        for secret in wanted.iter().filter(|r| r.source != Source::Static && !self.statics.contains_key(&r.name)) {
            if !self.dynamic.contains_key(&secret.name) {
                changed = true;
                let stats = self.stats.block(&format!("sds.{}.", secret.name));
                let entry = Dynamic { source: secret.source.clone(), active: None, failed: None, stats };
                self.dynamic.insert(secret.name.clone(), entry);
            }
        }
        changed
    }

    /// Names wanted per source.
    pub fn names(&self) -> BTreeMap<Source, BTreeSet<String>> {
        let mut out: BTreeMap<Source, BTreeSet<String>> = BTreeMap::new();
        for (name, entry) in &self.dynamic {
            out.entry(entry.source.clone()).or_default().insert(name.clone());
        }
        out
    }
}

/// The message without what must not be printed: keys become `[redacted]`.
pub fn redacted(body: &Any) -> Any {
    use protos::envoy::config::core::v3::{DataSource, data_source::Specifier};
    let Ok(mut secret) = protos::unpack::<proto::Secret>(body) else { return Any::default() };
    let hide = |source: &mut DataSource| {
        source.specifier = Some(match source.specifier.take() {
            Some(Specifier::InlineBytes(_)) => Specifier::InlineBytes(b"[redacted]".to_vec()),
            Some(Specifier::InlineString(_)) => Specifier::InlineString("[redacted]".into()),
            Some(other) => other,
            None => return,
        });
    };
    match &mut secret.r#type {
        Some(proto::secret::Type::TlsCertificate(c)) => {
            c.private_key.iter_mut().for_each(hide);
            c.password.iter_mut().for_each(hide);
        }
        Some(proto::secret::Type::SessionTicketKeys(k)) => k.keys.iter_mut().for_each(hide),
        Some(proto::secret::Type::GenericSecret(g)) => {
            g.secret.iter_mut().for_each(hide);
            g.secrets.values_mut().for_each(hide);
        }
        _ => {}
    }
    protos::any(&secret)
}
