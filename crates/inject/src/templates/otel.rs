//! How is a workload called in traces that follow OpenTelemetry's conventions? Attributes that the proxy's environment detector
//! reads, put together at injection, where the pod's specification is known. The service's name is not among them: the
//! control plane sends it.

use api::mesh::ServiceAttributeEnrichment;

use super::Context;
use crate::PROXY;

/// Prefix of annotations that state an attribute.
const STATED: &str = "resource.opentelemetry.io/";

/// `OTEL_RESOURCE_ATTRIBUTES`, when a tracing provider of the mesh asks for OpenTelemetry's conventions.
///
/// Each attribute is the annotation's, else what Kubernetes knows: the namespace; the label `app.kubernetes.io/version` or
/// the tag of the only container's image; namespace, pod and container. The kubelet fills in what is only known later.
///
/// Follows: "Specify resource attributes using Kubernetes annotations" of OpenTelemetry's semantic conventions.
pub(super) fn attributes(c: &Context<'_>) -> Option<String> {
    let conventions = ServiceAttributeEnrichment::OtelSemanticConventions;
    let mut providers = c.injector.mesh.extension_providers.iter().filter_map(|p| p.opentelemetry.as_ref());
    if !providers.any(|p| p.service_attribute_enrichment == conventions) {
        return None;
    }
    let stated = |name: &str| c.annotations.get(&format!("{STATED}{name}")).filter(|v| !v.is_empty()).cloned();
    let label = |name: &str| c.labels.get(name).filter(|v| !v.is_empty()).cloned();
    let only = {
        let mut containers = c.app_containers();
        containers.next().filter(|_| containers.next().is_none())
    };
    let tag = || version_of(only?["image"].as_str()?);
    let container = only.and_then(|c| c["name"].as_str()).unwrap_or(PROXY);
    let all = [
        ("service.namespace", stated("service.namespace").or_else(|| Some("$(POD_NAMESPACE)".into()))),
        (
            "service.version",
            stated("service.version")
                .or_else(|| label("app.kubernetes.io/version"))
                .or_else(|| tag().map(str::to_owned)),
        ),
        (
            "service.instance.id",
            stated("service.instance.id").or_else(|| Some(format!("$(POD_NAMESPACE).$(POD_NAME).{container}"))),
        ),
    ];
    let pairs = all.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?)));
    Some(pairs.collect::<Vec<_>>().join(","))
}

/// The tag of an image, and its digest where it has one; `None`: neither.
fn version_of(image: &str) -> Option<&str> {
    let name = image.rfind('/').map_or(0, |at| at + 1);
    let version = image[name..].split_once([':', '@']).map(|(_, version)| version)?;
    (!version.is_empty()).then_some(version)
}
