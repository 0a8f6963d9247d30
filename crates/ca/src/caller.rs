//! Who is calling? Tokens and client certificates become SPIFFE identities; used by the CA and by xDS.

use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use names::Identity;
use pki::{TokenClaims, TokenError, TokenKey, VerifyError, verify_chain};
use rustls_pki_types::CertificateDer;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// The certificates a TLS client presented, leaf first; empty without TLS or without a client certificate.
/// The listener attaches it to every request of the connection.
#[derive(Debug, Clone, Default)]
pub struct PeerCertificates {
    /// Already verified against our roots by the listener, and once more here.
    pub chain: Arc<Vec<CertificateDer<'static>>>,
    /// The connection is encrypted.
    pub tls: bool,
}

/// How a caller proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A client certificate of our mesh.
    Certificate,
    /// A service-account token.
    Token,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its SPIFFE identities, at least one.
    pub identities: Vec<String>,
    /// How we know.
    pub proof: Proof,
}

/// Why a caller is not known.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CallerError {
    /// It presented nothing.
    #[error("no credentials presented: neither a client certificate nor a bearer token")]
    Nothing,
    /// Its certificate is not good.
    #[error("client certificate: {0}")]
    Certificate(#[from] VerifyError),
    /// Its certificate names no SPIFFE identity of our trust domain.
    #[error("client certificate: no SPIFFE identity of trust domain {0}")]
    Identity(String),
    /// Its token is not good.
    #[error("{0}")]
    Token(#[from] TokenError),
}

impl From<CallerError> for Status {
    fn from(error: CallerError) -> Status {
        Status::unauthenticated(format!("request authenticate failure: {error}"))
    }
}

/// Knows the mesh's roots and token keys.
#[derive(Debug)]
pub struct Authenticator {
    trust_domain: String,
    aliases: Vec<String>,
    roots: RwLock<Arc<Vec<CertificateDer<'static>>>>,
    keys: RwLock<Arc<Vec<TokenKey>>>,
}

impl Authenticator {
    /// Accepts certificates under `roots` that name `trust_domain` or one of `aliases`, and tokens signed by `keys`.
    pub fn new(
        trust_domain: &str,
        aliases: Vec<String>,
        roots: Vec<CertificateDer<'static>>,
        keys: Vec<TokenKey>,
    ) -> Self {
        Authenticator {
            trust_domain: trust_domain.to_owned(),
            aliases,
            roots: RwLock::new(Arc::new(roots)),
            keys: RwLock::new(Arc::new(keys)),
        }
    }

    /// Replaces the token keys (the key set's file changed).
    pub fn set_keys(&self, keys: Vec<TokenKey>) {
        *self.keys.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(keys);
    }

    /// Replaces the roots (one was renewed, or others were plugged in).
    pub fn set_roots(&self, roots: Vec<CertificateDer<'static>>) {
        *self.roots.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(roots);
    }

    /// Authenticates by certificate first, then by the `authorization: Bearer` token.
    pub fn authenticate(
        &self,
        metadata: &MetadataMap,
        peer: Option<&PeerCertificates>,
        now: SystemTime,
    ) -> Result<Caller, CallerError> {
        let chain = peer.map(|p| p.chain.as_slice()).unwrap_or_default();
        let by_certificate = if chain.is_empty() { Err(CallerError::Nothing) } else { self.certificate(chain, now) };
        if by_certificate.is_ok() {
            return by_certificate;
        }
        match metadata.get("authorization").and_then(|v| v.to_str().ok()).and_then(bearer) {
            Some(token) => self.token(token, now),
            None => by_certificate,
        }
    }

    fn certificate(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Caller, CallerError> {
        let roots = Arc::clone(&self.roots.read().unwrap_or_else(|e| e.into_inner()));
        let facts = verify_chain(chain, &roots, now)?;
        let ours = |name: &String| {
            let domain = name.strip_prefix("spiffe://").and_then(|s| s.split('/').next());
            domain.is_some_and(|d| d == self.trust_domain || self.aliases.iter().any(|a| a == d))
        };
        let identities: Vec<_> = facts.names.into_iter().filter(ours).collect();
        if identities.is_empty() {
            return Err(CallerError::Identity(self.trust_domain.clone()));
        }
        Ok(Caller { identities, proof: Proof::Certificate })
    }

    fn token(&self, token: &str, now: SystemTime) -> Result<Caller, CallerError> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(|e| e.into_inner()));
        let claims = TokenClaims::verify(token, &keys, now)?;
        let identity = Identity::new(&self.trust_domain, &claims.account.namespace, &claims.account.name);
        Ok(Caller { identities: vec![identity.to_string()], proof: Proof::Token })
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
