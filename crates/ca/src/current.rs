//! Which signing key is in force, and whom do we trust while it changes? Exchanged when a root is renewed or other
//! material is plugged in; roots of before stay trusted, because peers hold leaves under them until they renew.

use std::sync::{Arc, RwLock};

use pki::Authority;
use rustls_pki_types::CertificateDer;

/// Most roots trusted at once: more exchanges than this within the life of a leaf forget the oldest.
const ROOTS_MAX: usize = 16;

/// The authority in force.
#[derive(Debug)]
pub struct CurrentAuthority {
    authority: RwLock<Arc<Authority>>,
    trusted: RwLock<Vec<CertificateDer<'static>>>,
}

impl CurrentAuthority {
    /// Starts with this one.
    pub fn new(authority: Authority) -> Arc<Self> {
        let trusted = authority.roots().to_vec();
        Arc::new(CurrentAuthority { authority: RwLock::new(Arc::new(authority)), trusted: RwLock::new(trusted) })
    }

    /// The one in force.
    pub fn load(&self) -> Arc<Authority> {
        Arc::clone(&self.authority.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// Roots that clients may come under: those in force and those of before.
    pub fn trusted(&self) -> Vec<CertificateDer<'static>> {
        self.trusted.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// From now on `authority` signs.
    pub fn replace(&self, authority: Authority) {
        let mut trusted = self.trusted.write().unwrap_or_else(|e| e.into_inner());
        let mut roots = authority.roots().to_vec();
        roots.extend(trusted.iter().filter(|r| !authority.roots().contains(r)).cloned());
        roots.truncate(ROOTS_MAX.max(authority.roots().len()));
        *trusted = roots;
        *self.authority.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(authority);
    }
}
