//! Injecting an injected pod changes nothing.

use api::MeshConfig;
use inject::{Injector, Owner, default_values};
use serde_json::{Value, json};

fn check(pod: Value, native: bool) {
    let mut injector = Injector::new(MeshConfig::istio_default(), default_values());
    injector.native_sidecar = native;
    let owner = Owner {
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        name: "web".into(),
        namespace: "shop".into(),
    };
    let once = injector
        .inject_pod(&pod, &owner)
        .unwrap()
        .expect("an injected pod");
    let twice = injector
        .inject_pod(&once, &owner)
        .unwrap()
        .expect("an injected pod");
    let (once, twice) = (api::yaml::to_yaml(&once), api::yaml::to_yaml(&twice));
    let first = once
        .lines()
        .zip(twice.lines())
        .enumerate()
        .find(|(_, (a, b))| a != b);
    assert!(once == twice, "native={native}: {first:?}");
}

#[test]
fn is_idempotent() {
    let plain = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
        {"name": "web", "image": "w", "ports": [{"name": "http", "containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": "http", "path": "/ok"}}, "readinessProbe": {"tcpSocket": {"port": 80}}}],
        "volumes": [{"name": "mine", "emptyDir": {}}]}});
    let overridden = json!({"metadata": {"annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9"}},
        "spec": {"containers": [{"name": "web"},
            {"name": "istio-proxy", "image": "auto", "env": [{"name": "MINE", "value": "1"}], "resources": {"limits": {"cpu": "1"}}}]}});
    for native in [true, false] {
        check(plain.clone(), native);
        check(overridden.clone(), native);
    }
}
