//! What do applications notice of their sidecar's life? Starts, ends, crashes, rotations, an absent control plane: nothing.

use std::time::{Duration, Instant};

use e2e::{DataPlane, Mesh, both_planes, eventually};
use testkit::load::{Load, Seen};

both_planes!(
    early_application,
    whole_pods_go,
    client_goes,
    job_ends,
    proxy_killed,
    short_certificates,
    control_plane_away,
);

/// How long certificates of ten seconds are watched; the long run (`PROA_LONG=1`) takes five minutes.
fn watch_time() -> Duration {
    Duration::from_secs(if std::env::var_os("PROA_LONG").is_some() { 300 } else { 40 })
}

const PAUSE: Duration = Duration::from_millis(5);
const CONNECTIONS: usize = 8;

fn nodebook(plane: DataPlane, flags: &[&str]) -> Mesh {
    let mesh = Mesh::up_with("nodebook", plane, flags);
    mesh.proa(&["create", "-f", "nodebook-rule.yaml"]);
    mesh.proa(&["create", "-f", "nodebook-service.yaml"]);
    let status = || mesh.get("/version", &[]).map(|r| r.status).ok();
    eventually("the service answers", status, |s| *s == Some(200));
    mesh
}

fn load(mesh: &Mesh) -> Load {
    let request = format!("GET /version HTTP/1.1\r\nhost: {}\r\n\r\n", mesh.gateway);
    Load::start(mesh.gateway, request, CONNECTIONS, PAUSE, |r| r.status == 200)
}

/// With our proxy not one request may fail; with stock Envoy the figure is printed beside it.
fn judge(plane: DataPlane, what: &str, seen: &Seen) {
    println!("{what}, {plane:?}: {} requests, {} failed {:?}", seen.sent, seen.failed, seen.failures);
    assert!(seen.sent > 500, "too little load to say anything: {}", seen.sent);
    if plane == DataPlane::Proa {
        assert_eq!(seen.failed, 0, "{:?}", seen.failures);
    }
}

/// A bare pod in `samples-1` that runs a shell script; further lines of metadata and spec as YAML flow.
fn script_pod(mesh: &Mesh, name: &str, annotations: &str, spec: &str, script: &str) {
    mesh.apply_text(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: samples-1\n  annotations: {{{annotations}}}\n\
         spec:\n  {spec}\n  containers:\n  - name: app\n    image: proa/sleep\n    command: [\"/bin/sh\", \"-c\", {script:?}]\n"
    ));
}

/// Lines that the application has written.
fn said(mesh: &Mesh, pod: &str) -> Vec<String> {
    let text = mesh.log("samples-1", pod, "app");
    text.lines().map(str::to_owned).collect()
}

fn phase(mesh: &Mesh, pod: &str) -> String {
    let out = mesh.run(&["-n", "samples-1", "get", "pod", pod, "-o", "jsonpath={.status.phase}"]);
    String::from_utf8_lossy(&out.stdout).trim().to_owned()
}

/// An application that starts together with its proxy and calls at once: its first request is the proxy's to carry, over
/// mutual TLS that the server insists on.
fn early_application(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    mesh.apply_text(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: samples}\n\
         spec: {mtls: {mode: STRICT}}\n",
    );
    let annotations =
        "sidecar.istio.io/nativeSidecar: \"false\", proxy.istio.io/config: \"holdApplicationUntilProxyStarts: false\"";
    let call = "curl -s -m 20 -o /dev/null -w '%{http_code}\\n' http://httpbin.samples:8000/get";
    script_pod(
        &mesh,
        "early",
        annotations,
        "terminationGracePeriodSeconds: 1",
        &format!("for i in 1 2 3 4 5; do {call}; done; sleep 1000"),
    );
    let seen = eventually("five requests", || said(&mesh, "early"), |lines| lines.len() >= 5);
    assert_eq!(seen, vec!["200"; 5]);
}

/// Every pod of the service is replaced, one after the other, under load.
fn whole_pods_go(plane: DataPlane) {
    let mesh = nodebook(plane, &[]);
    let scale = |replicas: usize| {
        let patch = format!("{{\"spec\":{{\"replicas\":{replicas}}}}}");
        mesh.proa(&["patch", "deployment", "nodebook-v3", "-p", &patch]);
    };
    let ready = || {
        let listed = mesh.proa(&["get", "deployment", "nodebook-v3", "-o", "jsonpath={.status.readyReplicas}"]);
        listed.trim().to_owned()
    };
    scale(2);
    eventually("two pods serve", ready, |n| n == "2");
    let load = load(&mesh);
    for _ in 0..3 {
        let before = load.sent();
        mesh.proa(&["delete", "pod", &mesh.pod("default", "nodebook-v3")]);
        eventually("the pod is replaced", ready, |n| n == "2");
        eventually("load goes on", || load.sent(), |now| *now > before + 300);
    }
    judge(plane, "three pods replaced", &load.stop());
}

/// A client that goes on calling after it was asked to end, as many do; then its own sidecar must still be there. It pauses for
/// longer altogether than a sidecar drains (`terminationDrainDuration`, 5 s).
fn client_goes(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    let script = "trap 'ending=1' TERM; left=20; while [ $left -gt 0 ]; do \
                  curl -s -m 5 -o /dev/null -w '%{http_code}\\n' http://httpbin.samples:8000/get || echo failed; \
                  [ \"$ending\" ] && left=$((left-1)); sleep 0.3; done; echo gone";
    script_pod(
        &mesh,
        "client",
        "sidecar.istio.io/nativeSidecar: \"false\"",
        "terminationGracePeriodSeconds: 30",
        script,
    );
    eventually("the client calls", || said(&mesh, "client").len(), |n| *n > 10);
    let begun = Instant::now();
    mesh.proa(&["-n", "samples-1", "delete", "pod", "client"]);
    let seen = eventually("the client has gone", || said(&mesh, "client"), |l| l.last().is_some_and(|l| l == "gone"));
    let failed = seen.iter().filter(|l| *l != "200" && *l != "gone").count();
    println!(
        "a client's end, {plane:?}: {} requests, {failed} failed, {:?} after it was asked",
        seen.len() - 1,
        begun.elapsed()
    );
    assert_eq!(failed, 0, "{seen:?}");
}

/// Work that ends, ends its pod: with a native sidecar by itself, with a plain one by asking it.
fn job_ends(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    let call = "curl -s -m 20 -o /dev/null -w '%{http_code}\\n' http://httpbin.samples:8000/get";
    script_pod(&mesh, "job", "", "restartPolicy: Never", call);
    let quit = format!("{call}; curl -s -X POST http://localhost:15020/quitquitquit");
    script_pod(&mesh, "old-job", "sidecar.istio.io/nativeSidecar: \"false\"", "restartPolicy: Never", &quit);
    for pod in ["job", "old-job"] {
        eventually(&format!("{pod} succeeds"), || phase(&mesh, pod), |p| p == "Succeeded");
        assert_eq!(said(&mesh, pod).first().map(String::as_str), Some("200"), "{pod}");
    }
}

/// Ends the proxy's process in a pod; milliseconds until it says again that it is ready.
fn kill_proxy(mesh: &Mesh, plane: DataPlane, namespace: &str, pod: &str) -> u64 {
    let find = match plane {
        DataPlane::Proa => "pgrep -f '[a]gent proxy'",
        DataPlane::Envoy => "pgrep -x envoy",
    };
    // In one shell, so that no command of ours stands between the end and the first look.
    let script = format!(
        "kill -9 $({find}); t=$(date +%s%N); while curl -sf -m 1 -o /dev/null localhost:15021/healthz/ready; do :; done; \
         until curl -sf -m 0.2 -o /dev/null localhost:15021/healthz/ready; do sleep 0.005; done; echo $((($(date +%s%N)-t)/1000000))"
    );
    let out = mesh.exec(namespace, pod, &["-c", "istio-proxy", "--", "sh", "-c", &script]);
    out.trim().parse().unwrap_or_else(|_| panic!("{namespace}/{pod}: {out:?}"))
}

/// The proxy dies and is back; what the application asked meanwhile waits for it.
fn proxy_killed(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    let call = |path: &str| {
        let url = format!("http://httpbin.samples:8000/{path}");
        mesh.exec(
            "samples-1",
            "deploy/sleep",
            &["--", "curl", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}", &url],
        )
    };
    eventually("sleep reaches httpbin", || call("get"), |s| s == "200");
    let sleep = mesh.pod("samples-1", "sleep");
    for _ in 0..3 {
        let took = kill_proxy(&mesh, plane, "samples-1", &sleep);
        println!("proxy killed, {plane:?}: ready again after {took} ms");
        assert_eq!(call("get"), "200");
    }
    // A new connection while nobody listens is held, not refused.
    let script = "kill -9 $(pgrep -f '[a]gent proxy'); true";
    mesh.exec("samples-1", &sleep, &["-c", "istio-proxy", "--", "sh", "-c", script]);
    assert_eq!(call("get"), "200");
}

fn short_certificates(plane: DataPlane) {
    let mesh = nodebook(plane, &["--certificate-lifetime", "10s"]);
    let load = load(&mesh);
    let begun = Instant::now();
    let mut serials = std::collections::BTreeSet::new();
    while begun.elapsed() < watch_time() {
        std::thread::sleep(Duration::from_secs(2));
        let certs = mesh.admin("default", &mesh.pod("default", "nodebook-v3"), "certs");
        let certs: serde_json::Value = serde_json::from_str(&certs).unwrap_or_default();
        let of = certs["certificates"].as_array().into_iter().flatten();
        serials.extend(of.filter_map(|c| Some(c["cert_chain"][0]["serial_number"].as_str()?.to_owned())));
    }
    println!("certificates of 10 s for {:?}, {plane:?}: {} seen", begun.elapsed(), serials.len());
    assert!(serials.len() as u64 > watch_time().as_secs() / 10, "certificates were not renewed: {serials:?}");
    judge(plane, "certificates of 10 s", &load.stop());
}

/// No control plane for the whole life of proxies: they start from what they had, certificates included.
fn control_plane_away(plane: DataPlane) {
    let mesh = nodebook(plane, &[]);
    let istiod = |replicas: usize| {
        let patch = format!("{{\"spec\":{{\"replicas\":{replicas}}}}}");
        mesh.proa(&["-n", "istio-system", "patch", "deployment", "istiod", "-p", &patch]);
    };
    istiod(0);
    let pods = || mesh.pods().iter().any(|(_, name)| name.starts_with("istiod"));
    eventually("the control plane has gone", pods, |there| !there);
    let server = mesh.pod("default", "nodebook-v3");
    let took = kill_proxy(&mesh, plane, "default", &server);
    println!("control plane away, {plane:?}: the server's proxy is ready after {took} ms");
    let status = || mesh.get("/version", &[]).map(|r| r.status).ok();
    eventually("the server answers without a control plane", status, |s| *s == Some(200));
    let gateway = mesh.pod("istio-system", "istio-ingressgateway");
    kill_proxy(&mesh, plane, "istio-system", &gateway);
    eventually("so does the gateway", status, |s| *s == Some(200));
    let before = load(&mesh);
    eventually("load passes", || before.sent(), |n| *n > 1_000);
    judge(plane, "control plane away", &before.stop());
    // And back: what is changed then arrives.
    istiod(1);
    let synced = || mesh.run(&["proxy-status"]).status.success();
    eventually("the control plane is back", synced, |ok| *ok);
    mesh.proa(&["replace", "-f", "nodebook-service-v4.yaml"]);
    let version = || mesh.get("/version", &[]).map(|r| r.text().trim().to_owned()).ok();
    eventually("a change arrives", version, |v| v.as_deref() == Some("v4"));
}
