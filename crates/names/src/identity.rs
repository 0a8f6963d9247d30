//! Who is a workload? SPIFFE identities as Istio writes them. Used by the CA, TLS validation and authorization.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The trust domain.
    pub trust_domain: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The service account.
    pub service_account: Arc<str>,
}

impl Identity {
    /// Scheme of the URI form.
    pub const SCHEME: &'static str = "spiffe://";

    /// Puts the three parts together.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Self {
        Identity {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }

    /// The form of authorization policies: `cluster.local/ns/NS/sa/SA`, without the scheme.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

/// The text is not a SPIFFE identity in Istio's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/SERVICE_ACCOUNT")]
pub struct InvalidIdentity(pub String);

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}/ns/{}/sa/{}", Self::SCHEME, self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let err = || InvalidIdentity(s.to_owned());
        let rest = s.strip_prefix(Self::SCHEME).ok_or_else(err)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts[..] {
            [td, "ns", ns, "sa", sa] if !td.is_empty() && !ns.is_empty() && !sa.is_empty() => {
                Ok(Identity::new(td, ns, sa))
            }
            _ => Err(err()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let id: Identity = "spiffe://cluster.local/ns/foo/sa/bar".parse().unwrap();
        assert_eq!(id, Identity::new("cluster.local", "foo", "bar"));
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/foo/sa/bar");
        assert_eq!(id.principal(), "cluster.local/ns/foo/sa/bar");
        for bad in
            ["", "spiffe://td/ns/a/sb/b", "http://td/ns/a/sa/b", "spiffe://td/ns/a/sa/", "spiffe://td/ns/a/sa/b/c"]
        {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
