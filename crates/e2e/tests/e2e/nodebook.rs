//! The operators' walk through traffic management, step by step: what they type, and what they see.

use e2e::{DataPlane, Mesh, both_planes, eventually};
use std::process::Command;
use std::time::{Duration, Instant};

const V3: &[&str] = &["app-ver: v3"];

both_planes!(the_walk, the_circuit_breaker);

/// Body of a path, or the status where it is not 200.
fn body(mesh: &Mesh, path: &str, headers: &[&str]) -> String {
    match mesh.get(path, headers) {
        Ok(r) if r.status == 200 => r.text().trim().to_owned(),
        Ok(r) => r.status.to_string(),
        Err(e) => e.to_string(),
    }
}

fn becomes(mesh: &Mesh, path: &str, headers: &[&str], want: &str) {
    eventually(&format!("{path} {headers:?} = {want}"), || body(mesh, path, headers), |seen| seen == want);
}

fn timed(mesh: &Mesh, path: &str, headers: &[&str]) -> (String, Duration) {
    let start = Instant::now();
    let seen = body(mesh, path, headers);
    (seen, start.elapsed())
}

/// Requests that the version behind these headers says it served.
fn total(mesh: &Mesh, headers: &[&str]) -> u64 {
    let text = body(mesh, "/total", headers);
    text.parse().unwrap_or_else(|_| panic!("/total {headers:?}: {text:?}"))
}

fn the_walk(plane: DataPlane) {
    let mesh = Mesh::up("nodebook", plane);

    // Before the virtual service: the gateway listens and knows no route.
    becomes(&mesh, "/version", &[], "404");
    let reply = mesh.get("/version", &[]).expect("the gateway answers");
    assert_eq!((reply.header("server"), reply.header("content-length")), (Some("istio-envoy"), Some("0")));

    // istioctl create -f: everything to v3.
    mesh.proa(&["create", "-f", "nodebook-service.yaml"]);
    mesh.proa(&["create", "-f", "nodebook-rule.yaml"]);
    becomes(&mesh, "/version", &[], "v3");
    let reply = mesh.get("/version", &[]).expect("the gateway answers");
    assert!(reply.header("x-envoy-upstream-service-time").is_some(), "{:?}", reply.headers);
    assert!(mesh.proa(&["get", "virtualservices", "-o", "yaml"]).contains("name: nodebook"));
    assert!(mesh.proa(&["get", "destinationrules", "-o", "yaml"]).contains("subsets:"));
    assert!(!mesh.run(&["create", "-f", "nodebook-service.yaml"]).status.success(), "it exists already");

    // All to v4.
    mesh.proa(&["replace", "-f", "nodebook-service-v4.yaml"]);
    becomes(&mesh, "/version", &[], "v4");

    // By header.
    mesh.proa(&["replace", "-f", "nodebook-service-header.yaml"]);
    becomes(&mesh, "/version", V3, "v3");
    assert_eq!(body(&mesh, "/version", &[]), "v4");

    // A delay for the matched only.
    mesh.proa(&["replace", "-f", "nodebook-service-delay.yaml"]);
    eventually("a delayed request", || timed(&mesh, "/version", V3), |(_, t)| *t >= Duration::from_secs(2));
    let (seen, time) = timed(&mesh, "/version", &[]);
    assert!(seen == "v4" && time < Duration::from_secs(2), "{seen} after {time:?}");

    // An abort for the matched only.
    mesh.proa(&["replace", "-f", "nodebook-service-abort.yaml"]);
    becomes(&mesh, "/version", V3, "500");
    assert_eq!(body(&mesh, "/version", &[]), "v4");
    assert_eq!(mesh.get("/version", V3).expect("a reply").text(), "fault filter abort");

    // One second for v3: two seconds of work do not fit.
    mesh.proa(&["replace", "-f", "nodebook-service-timeout.yaml"]);
    becomes(&mesh, "/delay/2000", V3, "504");
    let (_, time) = timed(&mesh, "/delay/2000", V3);
    assert!(time < Duration::from_secs(2), "cut off after {time:?}");
    assert!(timed(&mesh, "/delay/2000", &[]).1 >= Duration::from_secs(2), "v4 has no timeout");

    // A mirror: v3 answers, v4 counts.
    mesh.proa(&["replace", "-f", "nodebook-service-mirror.yaml"]);
    let untouched = total(&mesh, &[]);
    eventually("a copy of one request", || (body(&mesh, "/version", V3), total(&mesh, &[])), |(_, v4)| *v4 > untouched);
    let before = eventually("copies under way have arrived", || total(&mesh, &[]), |now| *now == total(&mesh, &[]));
    for _ in 0..100 {
        assert_eq!(body(&mesh, "/version", V3), "v3");
    }
    eventually("v4 saw the copies", || total(&mesh, &[]), |now| *now >= before + 100);

    // Without its virtual service the gateway knows no route again.
    mesh.proa(&["delete", "virtualservice", "nodebook"]);
    becomes(&mesh, "/version", &[], "404");
    assert_eq!(mesh.rejected_updates(), Vec::<String>::new());
}

fn the_circuit_breaker(plane: DataPlane) {
    let mesh = Mesh::up("nodebook", plane);
    mesh.proa(&["create", "-f", "nodebook-service-v4.yaml"]);
    mesh.proa(&["create", "-f", "nodebook-rule.yaml"]);
    becomes(&mesh, "/version", &[], "v4");
    let free = wrk(&mesh);
    assert_eq!(free.refused, 0, "no breaker yet: {free:?}");

    mesh.proa(&["apply", "-f", "nodebook-rule-cb.yaml"]);
    let broken = eventually("the breaker refuses", || wrk(&mesh), |seen| seen.refused > 0);
    let served = broken.served;
    assert!(served < broken.sent, "the service saw {served} of {}", broken.sent);

    mesh.proa(&["apply", "-f", "nodebook-rule.yaml"]);
    eventually("the breaker is gone", || wrk(&mesh), |seen| seen.refused == 0);
    assert_eq!(mesh.rejected_updates(), Vec::<String>::new());
}

#[derive(Debug)]
struct Wrk {
    sent: u64,
    refused: u64,
    /// By how much the service's own count grew.
    served: u64,
}

/// `wrk -t10 -c100`, with the service's own count before and after.
fn wrk(mesh: &Mesh) -> Wrk {
    let answered = || mesh.get("/total", &[]).ok().filter(|r| r.status == 200);
    let count = || {
        let reply = eventually("/total", answered, Option::is_some).expect("just checked");
        reply.text().trim().parse::<u64>().expect("a count")
    };
    let before = count();
    let url = format!("http://{}/version", mesh.gateway);
    let output = Command::new("wrk").args(["-t10", "-c100", "-d2s", &url]).output().expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |line: &str, at: usize| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(at).and_then(|w| w.parse::<u64>().ok())
    };
    let sent = text.lines().find(|l| l.contains("requests in")).and_then(|l| number(l, 0));
    let refused = text.lines().find(|l| l.contains("Non-2xx")).map_or(Some(0), |l| number(l, 4));
    let after = count();
    Wrk {
        sent: sent.unwrap_or_else(|| panic!("{text}")),
        refused: refused.unwrap_or_else(|| panic!("{text}")),
        served: after - before,
    }
}
