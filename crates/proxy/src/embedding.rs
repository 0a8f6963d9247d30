//! What may the process around this proxy put in place of the network? Connections to its management servers, and a view of
//! what the aggregated stream brings. The agent uses it to serve secrets from memory and to reach the control plane itself;
//! a proxy by itself has none of it.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

pub use xds::client::Update;
pub use xds_client::BoxIo;

/// A connection, made on the config thread.
pub struct Dialled {
    /// Its bytes, TLS inside.
    pub io: BoxIo,
    /// Headers of the stream on it, besides the bootstrap's.
    pub metadata: Vec<(String, String)>,
}

/// Makes connections; called on the config thread.
pub type Dialer = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Dialled>>>> + Send + Sync>;

/// Hears of each update of the aggregated stream before it is answered, and whether the proxy takes it whole.
pub type Heard = Arc<dyn Fn(&Update, bool) + Send + Sync>;

/// What the surrounding process provides.
#[derive(Clone, Default)]
pub struct Embedding {
    /// By cluster: who connects in its place.
    pub dialers: HashMap<String, Dialer>,
    /// Types asked for on the aggregated stream besides the proxy's own; they are only heard.
    pub types: Vec<&'static str>,
    /// Who hears.
    pub heard: Option<Heard>,
    /// Virtual hosts that this proxy asked for in an earlier life, by their names in VHDS: asked for before requests do.
    pub recall: Vec<String>,
}

impl Embedding {
    pub(crate) fn hear(&self, update: &Update, taken: bool) {
        if let Some(heard) = &self.heard {
            heard(update, taken);
        }
    }

    /// The update is none of the proxy's business.
    pub(crate) fn is_foreign(&self, update: &Update) -> bool {
        self.types.iter().any(|url| *url == update.type_url)
    }
}
