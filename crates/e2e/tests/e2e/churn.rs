//! What does a request notice of changes, of new certificates, of a control plane that dies? Nothing.

use e2e::{DataPlane, Mesh, both_planes, eventually};
use std::time::Duration;
use testkit::load::{Load, Seen};

both_planes!(configuration_churn, control_plane_killed);

const CHANGES: usize = 200;
const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(5);

fn load(mesh: &Mesh) -> Load {
    let request = format!("GET /version HTTP/1.1\r\nhost: {}\r\n\r\n", mesh.gateway);
    Load::start(mesh.gateway, request, CONNECTIONS, PAUSE, |r| r.status == 200)
}

fn ready(plane: DataPlane) -> Mesh {
    let mesh = Mesh::up_with("nodebook", plane, &["--certificate-lifetime", "10s"]);
    mesh.proa(&["create", "-f", "nodebook-rule.yaml"]);
    mesh.proa(&["create", "-f", "nodebook-service.yaml"]);
    let status = || mesh.get("/version", &[]).map(|r| r.status).ok();
    eventually("the service answers", status, |s| *s == Some(200));
    mesh
}

/// With our proxy not one request may fail; with stock Envoy the figure is printed beside it.
fn judge(plane: DataPlane, what: &str, seen: &Seen) {
    println!("{what}, {plane:?}: {} requests, {} failed {:?}", seen.sent, seen.failed, seen.failures);
    assert!(seen.sent > 1_000, "too little load to say anything: {}", seen.sent);
    if plane == DataPlane::Proa {
        assert_eq!(seen.failed, 0, "{:?}", seen.failures);
    }
}

fn configuration_churn(plane: DataPlane) {
    let mesh = ready(plane);
    let load = load(&mesh);
    let variants = ["nodebook-service-v4.yaml", "nodebook-service-header.yaml", "nodebook-service.yaml"];
    for i in 0..CHANGES {
        let before = load.sent();
        if i % 10 == 9 {
            // Endpoints come and go: a third version of the application, out of every route's sight.
            let replicas = 1 + i / 10 % 2;
            let patch = format!("{{\"spec\":{{\"replicas\":{replicas}}}}}");
            mesh.proa(&["patch", "deployment", "nodebook-v4", "-p", &patch]);
        } else {
            mesh.proa(&["replace", "-f", variants[i % variants.len()]]);
        }
        // Changes follow each other as fast as a handful of requests.
        eventually("load goes on", || load.sent(), |now| *now >= before + 10);
    }
    judge(plane, "200 changes", &load.stop());
    assert_eq!(mesh.rejected_updates(), Vec::<String>::new());
}

fn control_plane_killed(plane: DataPlane) {
    let mesh = ready(plane);
    let load = load(&mesh);
    for _ in 0..3 {
        let before = load.sent();
        mesh.proa(&[
            "-n",
            "istio-system",
            "exec",
            "deploy/istiod",
            "--",
            "sh",
            "-c",
            "kill -9 $(pgrep -f [d]iscovery)",
        ]);
        eventually("load goes on", || load.sent(), |now| *now > before + 500);
        let synced = || mesh.run(&["proxy-status"]).status.success();
        eventually("the control plane is back", synced, |ok| *ok);
    }
    mesh.proa(&["replace", "-f", "nodebook-service-v4.yaml"]);
    let version = || mesh.get("/version", &[]).map(|r| r.text().trim().to_owned()).ok();
    eventually("a change after the restarts arrives", version, |v| v.as_deref() == Some("v4"));
    judge(plane, "control plane killed three times", &load.stop());
    assert_eq!(mesh.rejected_updates(), Vec::<String>::new());
}
