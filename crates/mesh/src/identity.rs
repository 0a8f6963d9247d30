//! Who is who in this mesh? Its certificate authority and the key that signs service-account tokens, made once per mesh.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use pki::{Authority, KeyAlgorithm, PrivateKey, ServiceAccount, TokenClaims, TokenKey};

/// A local mesh does not outlive this; tokens need no renewal.
const LIFE_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// Keys of one mesh.
pub(crate) struct Identity {
    authority: Authority,
    token_key: PrivateKey,
}

impl Identity {
    /// Makes new keys.
    pub(crate) fn generate() -> Result<Self, String> {
        let text = |error: pki::PkiError| format!("mesh keys: {error}");
        let authority =
            Authority::self_signed("cluster.local", KeyAlgorithm::EcdsaP256, SystemTime::now(), rand::random())
                .map_err(text)?;
        Ok(Self { authority, token_key: PrivateKey::generate(KeyAlgorithm::EcdsaP256).map_err(text)? })
    }

    pub(crate) fn root_pem(&self) -> String {
        self.authority.roots_pem()
    }

    /// The `cacerts` secret, as a plug-in CA for istiod, with the token keys beside it.
    pub(crate) fn cacerts(&self) -> BTreeMap<String, Vec<u8>> {
        let jwks = TokenKey::of(&self.token_key).map(|key| key.to_jwks()).unwrap_or_default();
        [
            ("ca-cert.pem", self.authority.cert_pem()),
            ("ca-key.pem", self.authority.key().to_pem()),
            ("root-cert.pem", self.authority.roots_pem()),
            ("cert-chain.pem", self.authority.cert_pem()),
            ("token-jwks.json", jwks),
        ]
        .into_iter()
        .map(|(name, content)| (name.to_owned(), content.into_bytes()))
        .collect()
    }

    /// A token for a pod's service account.
    pub(crate) fn token(&self, namespace: &str, account: &str, pod: (&str, &str)) -> String {
        let account = ServiceAccount {
            namespace: namespace.to_owned(),
            name: account.to_owned(),
            pod: Some((pod.0.to_owned(), pod.1.to_owned())),
        };
        TokenClaims::sign(&self.token_key, &account, SystemTime::now(), LIFE_TIME).unwrap_or_default()
    }
}
