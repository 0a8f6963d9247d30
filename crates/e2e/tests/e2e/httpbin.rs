//! Two namespaces and one call between them: mutual TLS, and who may see whom.

use e2e::{DataPlane, Mesh, both_planes, eventually};

both_planes!(mutual_tls_and_visibility);

const CLUSTER: &str = "outbound|8000||httpbin.samples.svc.cluster.local";

fn call(mesh: &Mesh, path: &str) -> String {
    let url = format!("http://httpbin.samples:8000/{path}");
    mesh.exec("samples-1", "deploy/sleep", &["curl", "-s", "-m", "10", "-w", "\n%{http_code}", &url])
}

fn endpoints(mesh: &Mesh) -> String {
    mesh.proa(&["-n", "samples-1", "proxy-config", "endpoints", "deploy/sleep", "--cluster", CLUSTER])
}

fn knows(mesh: &Mesh) -> bool {
    let listed = mesh.proa(&["-n", "samples-1", "proxy-config", "clusters", "deploy/sleep"]);
    listed.contains("httpbin.samples.svc.cluster.local")
}

fn mutual_tls_and_visibility(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    let seen = eventually("sleep reaches httpbin", || call(&mesh, "headers"), |t| t.ends_with("200"));
    let seen = seen.to_lowercase();
    assert!(seen.contains("x-forwarded-client-cert"), "{seen}");
    assert!(seen.contains("uri=spiffe://cluster.local/ns/samples-1/sa/sleep"), "{seen}");
    assert!(seen.contains("by=spiffe://cluster.local/ns/samples/sa/httpbin"), "{seen}");
    let rows = endpoints(&mesh);
    assert!(rows.contains("HEALTHY") && rows.contains(CLUSTER), "{rows}");

    // Hidden by exportTo, and back.
    let export = |to: &str| {
        let patch = format!("{{\"metadata\":{{\"annotations\":{{\"networking.istio.io/exportTo\":\"{to}\"}}}}}}");
        mesh.proa(&["-n", "samples", "patch", "svc", "httpbin", "-p", &patch]);
    };
    export(".");
    eventually("exportTo hides httpbin", || knows(&mesh), |k| !k);
    export("*");
    eventually("exportTo shows httpbin", || knows(&mesh), |k| *k);
    eventually("sleep reaches httpbin again", || call(&mesh, "status/204"), |t| t.ends_with("204"));

    // Hidden by a Sidecar that leaves it out.
    mesh.proa(&["apply", "-f", "sidecar-default.yaml"]);
    eventually("the Sidecar hides httpbin", || knows(&mesh), |k| !k);
    mesh.proa(&["delete", "-f", "sidecar-default.yaml"]);
    eventually("httpbin is back", || knows(&mesh), |k| *k);

    // Nothing in plain text gets past STRICT.
    mesh.apply_text(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: samples}\n\
         spec: {mtls: {mode: STRICT}}\n",
    );
    eventually("mutual TLS still passes", || call(&mesh, "get"), |t| t.ends_with("200"));
    assert_eq!(mesh.rejected_updates(), Vec::<String>::new());
}
