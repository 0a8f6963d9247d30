//! Which credentials may a gateway fetch (SDS)? Kubernetes secrets of its own namespace, in the forms Istio accepts:
//! `kubernetes.io/tls` (`tls.crt`, `tls.key`, `ca.crt`), generic (`cert`, `key`, `cacert`), and CA bundles in
//! ConfigMaps. Private keys leave the control plane only through here.

use names::{Kind, ResourceKey};
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;

use crate::Inputs;
use crate::tls::{CA_SUFFIX, KUBERNETES_CONFIGMAP, KUBERNETES_GATEWAY, KUBERNETES_SECRET};

fn bytes(content: Vec<u8>) -> Option<core::DataSource> {
    Some(core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(content)), ..Default::default() })
}

/// Where the certificate behind an SDS name is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialName {
    /// Secret or ConfigMap.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name; `-cacert` at the end asks for trust anchors.
    pub name: String,
}

impl CredentialName {
    /// Reads `kubernetes://NAME` (of the proxy's namespace), `kubernetes://NAMESPACE/NAME`,
    /// `kubernetes-gateway://NAMESPACE/NAME` and `configmap://NAMESPACE/NAME`. `None`: of no such form.
    pub fn parse(text: &str, own_namespace: &str) -> Option<Self> {
        let (kind, path, needs_namespace) = if let Some(path) = text.strip_prefix(KUBERNETES_SECRET) {
            (Kind::Secret, path, false)
        } else if let Some(path) = text.strip_prefix(KUBERNETES_GATEWAY) {
            (Kind::Secret, path, true)
        } else {
            (Kind::ConfigMap, text.strip_prefix(KUBERNETES_CONFIGMAP)?, true)
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (namespace, name),
            None if needs_namespace => return None,
            None => (own_namespace, path),
        };
        let valid = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
        valid.then(|| CredentialName { kind, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// The secret behind an SDS name. `None`: no such secret, not usable, or of another namespace than the proxy's.
/// ConfigMaps hold only trust anchors and may be anywhere.
pub fn build(inputs: &Inputs, name: &str) -> Option<tls::Secret> {
    let credential = CredentialName::parse(name, &inputs.proxy().namespace)?;
    if credential.kind == Kind::ConfigMap {
        return config_map(inputs, name, &credential);
    }
    let (namespace, path) = (credential.namespace.as_str(), credential.name.as_str());
    if *namespace != *inputs.proxy().namespace {
        return None;
    }
    let find =
        |name: &str| match &inputs.snapshot().credentials.get(&ResourceKey::new(Kind::Secret, namespace, name))?.body {
            api::Body::Secret(s) => Some(s.clone()),
            _ => None,
        };
    if let Some(base) = path.strip_suffix(CA_SUFFIX) {
        // A companion secret wins over the CA inside the certificate's own secret.
        let ca = |s: &api::kube::Secret| s.value("cacert").or_else(|| s.value("ca.crt"));
        let found = find(path)
            .and_then(|s| ca(&s).or_else(|| s.value("tls.crt")))
            .or_else(|| find(base).and_then(|s| ca(&s)))?;
        let crl = find(path).or_else(|| find(base)).and_then(|s| s.value("ca.crl"));
        return Some(validation(name, found, crl));
    }
    let secret = find(path)?;
    let pair = |chain: &str, key: &str| {
        let (chain, key) = (secret.value(chain)?, secret.value(key)?);
        (!chain.is_empty() && !key.is_empty()).then_some((chain, key))
    };
    let (chain, key) = pair("tls.crt", "tls.key").or_else(|| pair("cert", "key"))?;
    Some(tls::Secret {
        name: name.to_owned(),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: bytes(chain),
            private_key: bytes(key),
            ocsp_staple: secret.value("tls.ocsp-staple").and_then(bytes),
            ..Default::default()
        })),
    })
}

fn validation(name: &str, ca: Vec<u8>, crl: Option<Vec<u8>>) -> tls::Secret {
    tls::Secret {
        name: name.to_owned(),
        r#type: Some(tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
            trusted_ca: bytes(ca),
            crl: crl.and_then(bytes),
            ..Default::default()
        })),
    }
}

fn config_map(inputs: &Inputs, name: &str, credential: &CredentialName) -> Option<tls::Secret> {
    let path = credential.name.strip_suffix(CA_SUFFIX).unwrap_or(&credential.name);
    let key = ResourceKey::new(Kind::ConfigMap, &credential.namespace, path);
    let api::Body::ConfigMap(map) = &inputs.snapshot().credentials.get(&key)?.body else {
        return None;
    };
    let ca = map.data.get("ca.crt").or_else(|| map.data.get("cacert"))?;
    Some(validation(name, ca.clone().into_bytes(), map.data.get("ca.crl").map(|c| c.clone().into_bytes())))
}
