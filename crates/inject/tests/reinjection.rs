//! Injecting an injected pod changes nothing, and no pod makes the injector panic.

use api::MeshConfig;
use inject::{Injector, Owner, default_values};
use proptest::prelude::*;
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
    let once = injector.inject_pod(&pod, &owner).unwrap().expect("an injected pod");
    let twice = injector.inject_pod(&once, &owner).unwrap().expect("an injected pod");
    let (once, twice) = (api::yaml::to_yaml(&once), api::yaml::to_yaml(&twice));
    let first = once.lines().zip(twice.lines()).enumerate().find(|(_, (a, b))| a != b);
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

fn any_json() -> impl Strategy<Value = Value> {
    let words = vec![
        "metadata",
        "spec",
        "labels",
        "annotations",
        "containers",
        "initContainers",
        "name",
        "env",
        "value",
        "args",
        "ports",
        "volumes",
        "securityContext",
        "runAsUser",
        "livenessProbe",
        "httpGet",
        "port",
        "lifecycle",
        "preStop",
        "image",
        "sidecar.istio.io/status",
        "proxy.istio.io/overrides",
        "template",
        "items",
        "kind",
    ];
    let text =
        vec!["istio-proxy", "istio-init", "auto", "{}", "{\"containers\":[\"a\"]}", "List", "Pod", "a", "-u", ""];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(text).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, move |inner| {
        let pairs = prop::collection::vec((prop::sample::select(words.clone()), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            pairs.prop_map(|p| Value::Object(p.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn never_panics(meta in any_json(), spec in any_json(), any in any_json()) {
        let injector = Injector::new(MeshConfig::istio_default(), default_values());
        let _ = injector.inject_pod(&json!({"metadata": meta, "spec": spec}), &Owner::default());
        let _ = injector.inject_document(&json!({"kind": "Pod", "metadata": meta, "spec": spec}));
        let _ = injector.inject_document(&json!({"kind": "Deployment", "metadata": meta, "spec": {"template": any}}));
        let _ = injector.inject_document(&any);
    }
}
