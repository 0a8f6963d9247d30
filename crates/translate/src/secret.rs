//! Which credentials may a gateway fetch (SDS)? Kubernetes secrets of its own namespace, in the forms Istio accepts:
//! `kubernetes.io/tls` (`tls.crt`, `tls.key`, `ca.crt`), generic (`cert`, `key`, `cacert`), and CA bundles in
//! ConfigMaps. Private keys leave the control plane only through here.

use names::{Kind, ResourceKey};
use protos::envoy::config::core::v3 as core;
use protos::envoy::extensions::transport_sockets::tls::v3 as tls;

use crate::Inputs;
use crate::tls::{CA_SUFFIX, KUBERNETES_CONFIGMAP, KUBERNETES_SECRET};

fn bytes(content: Vec<u8>) -> Option<core::DataSource> {
    Some(core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(content)), ..Default::default() })
}

/// The secret behind an SDS name. `None`: no such secret, not usable, or of another namespace than the proxy's.
pub fn build(inputs: &Inputs, name: &str) -> Option<tls::Secret> {
    if let Some(path) = name.strip_prefix(KUBERNETES_CONFIGMAP) {
        return config_map(inputs, name, path);
    }
    let path = name.strip_prefix(KUBERNETES_SECRET)?;
    let (namespace, path) = path.split_once('/').unwrap_or((&inputs.proxy().namespace, path));
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
    let chain = secret.value("tls.crt").or_else(|| secret.value("cert"))?;
    let key = secret.value("tls.key").or_else(|| secret.value("key"))?;
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

fn config_map(inputs: &Inputs, name: &str, path: &str) -> Option<tls::Secret> {
    let path = path.strip_suffix(CA_SUFFIX).unwrap_or(path);
    let (namespace, path) = path.split_once('/').unwrap_or((&inputs.proxy().namespace, path));
    let key = ResourceKey::new(Kind::ConfigMap, namespace, path);
    let api::Body::ConfigMap(map) = &inputs.snapshot().credentials.get(&key)?.body else {
        return None;
    };
    let ca = map.data.get("ca.crt").or_else(|| map.data.get("cacert"))?;
    Some(validation(name, ca.clone().into_bytes(), map.data.get("ca.crl").map(|c| c.clone().into_bytes())))
}
