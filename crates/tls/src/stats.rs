//! How do handshakes end? Envoy's `ssl.` table of a listener or cluster, with a counter for each cipher, version, curve and
//! signature algorithm that was met.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use telemetry::stats::envoy::{ssl, ssl_named};
use telemetry::stats::{Block, Store};

use crate::error::Failure;
use crate::peer::TlsInfo;

/// The table of one context. What is met is bounded: the names are those of our own provider.
pub struct SessionStats {
    store: Arc<Store>,
    block: Block<ssl::Ssl>,
    met: Mutex<HashMap<(&'static str, &'static str), Block<ssl_named::SslNamed>>>,
}

impl SessionStats {
    /// The table under `prefix` (`cluster.<name>.ssl.`).
    pub fn new(store: &Arc<Store>, prefix: &str) -> Self {
        Self { store: store.clone(), block: store.block(prefix), met: Mutex::default() }
    }

    /// A handshake was completed.
    pub fn shaken(&self, info: &TlsInfo) {
        self.block.inc(ssl::HANDSHAKE);
        if info.resumed {
            self.block.inc(ssl::SESSION_REUSED);
        }
        if info.peer.is_none() {
            self.block.inc(ssl::NO_CERTIFICATE);
        }
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        for (family, name) in
            [("ciphers", info.cipher), ("versions", info.version), ("curves", info.group), ("sigalgs", info.signature)]
        {
            if !name.is_empty() {
                let make = || self.store.block(&format!("{}{family}.{name}", self.block.prefix()));
                met.entry((family, name)).or_insert_with(make).inc(ssl_named::TIMES);
            }
        }
    }

    /// A handshake failed.
    pub fn failed(&self, failure: Failure) {
        self.block.inc(match failure {
            // Counted elsewhere, and not at all.
            Failure::SecretsNotReady | Failure::Io => return,
            Failure::NoCert => ssl::FAIL_VERIFY_NO_CERT,
            Failure::VerifyError => ssl::FAIL_VERIFY_ERROR,
            Failure::VerifySan => ssl::FAIL_VERIFY_SAN,
            Failure::VerifyHash => ssl::FAIL_VERIFY_CERT_HASH,
            Failure::ConnectionError => ssl::CONNECTION_ERROR,
        });
    }
}
