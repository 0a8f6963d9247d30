//! What do settings of the installation and of a pod change in what is injected?

use api::MeshConfig;
use inject::{InjectError, Injector, Owner, default_values};
use serde_json::{Value, json};

/// A pod injected with values (by JSON pointer) and a mesh configuration over the defaults.
fn inject(values: &[(&str, Value)], mesh: Value, pod: Value, native: bool) -> Result<Value, InjectError> {
    let mut all = default_values();
    for (pointer, value) in values {
        let mut place = &mut all;
        for part in pointer.split('.') {
            place = &mut place[part];
        }
        *place = value.clone();
    }
    let mut injector = Injector::new(MeshConfig::overlay(&mesh).expect("a mesh configuration"), all);
    injector.native_sidecar = native;
    let owner =
        Owner { api_version: "apps/v1".into(), kind: "Deployment".into(), name: "web".into(), ..Owner::default() };
    injector.force_inject(&pod, &owner)
}

fn pod(annotations: Value) -> Value {
    json!({"metadata": {"annotations": annotations}, "spec": {"containers": [{"name": "web",
        "readinessProbe": {"httpGet": {"port": 80}}, "livenessProbe": {"tcpSocket": {"port": 9000}}}]}})
}

fn container(pod: &Value, name: &str) -> Value {
    let lists = ["initContainers", "containers"].map(|f| pod["spec"][f].as_array().cloned().unwrap_or_default());
    lists.concat().into_iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name} in {pod}"))
}

fn env(container: &Value, name: &str) -> Option<String> {
    let variables = container["env"].as_array()?.iter();
    variables.filter(|e| e["name"] == name).find_map(|e| e["value"].as_str().map(str::to_owned))
}

fn args(container: &Value) -> String {
    let words = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn rules_follow_the_mesh_and_the_platform() {
    let mesh = json!({"proxyListenPort": 16001, "proxyInboundListenPort": 16006});
    let injected = inject(&[], mesh, pod(json!({})), true).expect("injected");
    assert!(
        args(&container(&injected, "istio-init")).starts_with("istio-iptables -p 16001 -z 16006 -u 1337 -m REDIRECT")
    );

    let force = [("global.proxy_init.forceApplyIptables", json!(true))];
    let injected = inject(&force, json!({}), pod(json!({})), true).expect("injected");
    assert!(args(&container(&injected, "istio-init")).ends_with("--force-apply"));
    let cni = [force[0].clone(), ("pilot.cni.enabled", json!(true))];
    let injected = inject(&cni, json!({}), pod(json!({})), true).expect("injected");
    let words = args(&container(&injected, "istio-validation"));
    assert!(words.ends_with("--run-validation --skip-rule-apply"), "{words}");
}

#[test]
fn a_user_of_the_pods_own_proxy_reaches_the_rules() {
    let with = |user: i64, mode: &str| {
        let mut pod = pod(json!({"sidecar.istio.io/interceptionMode": mode}));
        let own =
            json!({"name": "istio-proxy", "image": "auto", "securityContext": {"runAsUser": user, "runAsGroup": 7}});
        pod["spec"]["containers"].as_array_mut().expect("containers").push(own);
        inject(&[("pilot.cni.enabled", json!(true))], json!({}), pod, true).expect("injected")
    };
    let redirect = with(5, "REDIRECT");
    let (rules, proxy) = (container(&redirect, "istio-validation"), container(&redirect, "istio-proxy"));
    assert!(args(&rules).contains("-u 5 "));
    assert_eq!(
        (&rules["securityContext"]["runAsUser"], &proxy["securityContext"]["runAsUser"]),
        (&json!(5), &json!(5))
    );
    // A transparent proxy stays root, whatever its container says.
    let transparent = with(5, "TPROXY");
    let (rules, proxy) = (container(&transparent, "istio-validation"), container(&transparent, "istio-proxy"));
    assert_eq!(
        (&rules["securityContext"]["runAsUser"], &proxy["securityContext"]["runAsUser"]),
        (&json!(1337), &json!(0))
    );
    // Root cannot be exempted.
    assert!(args(&container(&with(0, "REDIRECT"), "istio-validation")).contains("-u 1337 "));
}

#[test]
fn probes_of_ports_that_are_not_captured_stay() {
    let paths = |annotations: Value| {
        let injected = inject(&[], json!({}), pod(annotations), true).expect("injected");
        let web = container(&injected, "web");
        let probers = env(&container(&injected, "istio-proxy"), "ISTIO_KUBE_APP_PROBERS").unwrap_or_default();
        let asked = ["readinessProbe", "livenessProbe"].map(|p| web[p]["httpGet"]["port"] == 15020);
        assert_eq!([probers.contains("readyz"), probers.contains("livez")], asked);
        asked
    };
    assert_eq!(paths(json!({})), [true, true]);
    assert_eq!(paths(json!({"traffic.sidecar.istio.io/excludeInboundPorts": "9000"})), [true, false]);
    assert_eq!(paths(json!({"traffic.sidecar.istio.io/includeInboundPorts": "9000"})), [false, true]);
    assert_eq!(paths(json!({"sidecar.istio.io/rewriteAppHTTPProbers": "F"})), [false, false]);
}

#[test]
fn metrics_are_merged_however_they_are_spelled() {
    let injected = |annotations: Value| inject(&[], json!({}), pod(annotations), true).expect("injected");
    let merged = injected(json!({"prometheus-io.port": "9", "prometheus_io_path": "/m"}));
    assert_eq!(merged["metadata"]["annotations"]["prometheus.io/port"], "15020");
    assert_eq!(merged["metadata"]["annotations"].get("prometheus-io.port"), None);
    let said = env(&container(&merged, "istio-proxy"), "ISTIO_PROMETHEUS_ANNOTATIONS");
    assert_eq!(said.as_deref(), Some(r#"{"scrape":"","path":"/m","port":"9"}"#));
    let off = injected(json!({"prometheus.io/scrape": "False", "prometheus.io/port": "9"}));
    assert_eq!(off["metadata"]["annotations"]["prometheus.io/port"], "9");
    let secure =
        injected(json!({"proxy.istio.io/config": "proxyMetadata: {ENVOY_SECURE_MERGED_METRICS_PORT: '15092'}"}));
    assert_eq!(secure["metadata"]["annotations"]["prometheus.istio.io/secure-port"], "15092");
}

#[test]
fn the_installation_changes_environment_and_images() {
    let hold = [("global.proxy.holdApplicationUntilProxyStarts", json!(true))];
    let off = json!({"proxy.istio.io/config": "holdApplicationUntilProxyStarts: false"});
    let injected = inject(&hold, json!({}), pod(off), false).expect("injected");
    assert_eq!(injected["spec"]["containers"][0]["name"], "istio-proxy", "either of the two is enough");

    let localhost = json!({"inboundTrafficPolicy": {"mode": "LOCALHOST"}});
    let injected = inject(&[], localhost, pod(json!({})), true).expect("injected");
    let legacy = env(&container(&injected, "istio-proxy"), "REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION");
    assert_eq!(legacy.as_deref(), Some("true"));

    let datadog = [("global.proxy.tracer", json!("datadog"))];
    let annotation = json!({"apm.datadoghq.com/env": "{\"DD_ENV\": \"prod\", \"DD_TRACE_ENABLED\": true}"});
    let injected = inject(&datadog, json!({}), pod(annotation), true).expect("injected");
    let proxy = container(&injected, "istio-proxy");
    assert_eq!([env(&proxy, "DD_ENV"), env(&proxy, "DD_TRACE_ENABLED")], [Some("prod".into()), Some("true".into())]);

    let image = json!({"sidecar.istio.io/proxyImage": "other", "sidecar.istio.io/proxyImageType": "debug"});
    let injected = inject(&[], json!({}), pod(image), true).expect("injected");
    assert_eq!(container(&injected, "istio-proxy")["image"], "docker.io/istio/proxyv2:1.32.0-debug");
    let image = json!({"sidecar.istio.io/proxyImage": "reg/other:1"});
    let injected =
        inject(&[("global.proxy_init.image", json!("reg/init:2"))], json!({}), pod(image), true).expect("injected");
    assert_eq!(container(&injected, "istio-proxy")["image"], "reg/other:1");
    assert_eq!(container(&injected, "istio-init")["image"], "reg/other:1");

    let hbone = json!({"proxy.istio.io/config": "proxyMetadata: {ISTIO_META_ENABLE_HBONE: 'true'}"});
    let injected = inject(&[], json!({}), pod(hbone), true).expect("injected");
    assert_eq!(injected["metadata"]["labels"]["networking.istio.io/tunnel"], "http");

    let seccomp = [("global.proxy.seccompProfile", json!({"type": "RuntimeDefault"}))];
    let injected = inject(&seccomp, json!({}), pod(json!({})), true).expect("injected");
    for name in ["istio-init", "istio-proxy"] {
        assert_eq!(container(&injected, name)["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    }
}

#[test]
fn attributes_of_opentelemetry() {
    let provider = json!({"service": "c.o.svc.cluster.local", "port": 4317,
        "serviceAttributeEnrichment": "OTEL_SEMANTIC_CONVENTIONS"});
    let mesh = json!({"extensionProviders": [{"name": "otel", "opentelemetry": provider}]});
    let attributes = |annotations: Value, image: &str| {
        let mut pod = pod(annotations);
        pod["spec"]["containers"][0]["image"] = image.into();
        let injected = inject(&[], mesh.clone(), pod, true).expect("injected");
        env(&container(&injected, "istio-proxy"), "OTEL_RESOURCE_ATTRIBUTES")
    };
    let got = attributes(json!({}), "reg:5000/web:1.2");
    let want =
        "service.namespace=$(POD_NAMESPACE),service.version=1.2,service.instance.id=$(POD_NAMESPACE).$(POD_NAME).web";
    assert_eq!(got.as_deref(), Some(want));
    let stated = json!({"resource.opentelemetry.io/service.namespace": "shop"});
    let got = attributes(stated, "web").expect("attributes");
    assert!(got.starts_with("service.namespace=shop,service.instance.id="), "{got}");
    let plain = inject(&[], json!({}), pod(json!({})), true).expect("injected");
    assert_eq!(env(&container(&plain, "istio-proxy"), "OTEL_RESOURCE_ATTRIBUTES"), None);
}

#[test]
fn targets_of_metrics_are_checked() {
    let target = |t: &str| inject(&[], json!({}), pod(json!({"prometheus.istio.io/scrape-targets": t})), true);
    assert!(target("8080:/metrics").is_ok());
    let error = target("15090:/metrics").expect_err("the proxy's own port").to_string();
    assert!(error.contains("15090"), "{error}");
}
