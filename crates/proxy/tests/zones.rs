//! Do requests stay in the proxy's own zone as far as its hosts carry them? Zone-aware routing beside stock Envoy, where
//! `PROA_ENVOY` names one: who was asked, and what was counted.

mod support;

use serde_json::{Value, json};
use support::*;

/// Requests per case.
const REQUESTS: usize = 400;

fn endpoints(zone: &str, ports: &[u16]) -> Value {
    let hosts: Vec<Value> = ports.iter().map(|p| json!({"endpoint": {"address": address(*p)}})).collect();
    json!({"locality": {"region": "r", "zone": zone}, "lb_endpoints": hosts})
}

fn zoned(name: &str, zones: &[(&str, &[u16])], least: u32) -> Value {
    let endpoints: Vec<Value> = zones.iter().map(|(zone, ports)| endpoints(zone, ports)).collect();
    json!({"name": name, "type": "STATIC", "connect_timeout": "1s",
        "common_lb_config": {"zone_aware_lb_config": {"min_cluster_size": least}},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints}})
}

/// How many requests stayed in zone `a`, and the counters of zones that moved.
fn seen(running: &Running, port: u16) -> (usize, Vec<String>) {
    let mut here = 0;
    for _ in 0..REQUESTS {
        let answer = http(port, "GET", "/", &[]).expect("an answer");
        here += usize::from(answer.text() == "a");
    }
    let stats = running.get("/stats?filter=^cluster.app.lb_(zone|local)").text();
    (here, stats.lines().filter(|l| !l.ends_with(": 0")).map(str::to_owned).collect())
}

/// Hosts of the upstream cluster in zones `a` and `b`, those of the local cluster, and the least size.
fn check(
    what: &str,
    upstream: (usize, usize),
    local: (usize, usize),
    least: u32,
    exactly: bool,
    share: std::ops::Range<usize>,
) {
    let (a, _a) = backend_at("0.0.0.0", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na");
    let (b, _b) = backend_at("0.0.0.0", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb");
    // Hosts differ by address; for those of one zone the same backend answers.
    let spread = |port: u16, first: u8, n: usize| -> Vec<Value> {
        (0..n)
            .map(|i| {
                let ip = format!("127.0.0.{}", first as usize + i);
                json!({"endpoint": {"address": {"socket_address": {"address": ip, "port_value": port}}}})
            })
            .collect()
    };
    let port = free_port();
    let mut app = zoned("app", &[], least);
    app["load_assignment"]["endpoints"] = json!([
        {"locality": {"region": "r", "zone": "a"}, "lb_endpoints": spread(a, 1, upstream.0)},
        {"locality": {"region": "r", "zone": "b"}, "lb_endpoints": spread(b, 101, upstream.1)},
    ]);
    let ports = |n: usize, from: u16| (0..n as u16).map(|i| from + i).collect::<Vec<u16>>();
    let own = zoned("local", &[("a", &ports(local.0, 1)), ("b", &ports(local.1, 100))], 1);
    let mut config = bootstrap(vec![listener(port, &[hcm(all_to("app"), &[], json!({}))], json!({}))], vec![app, own]);
    config["node"] = json!({"id": "n", "cluster": "local", "locality": {"region": "r", "zone": "a"}});
    config["cluster_manager"] = json!({"local_cluster_name": "local"});
    let ours = seen(&Running::ours(&config, &[]), port);
    println!("{what}: {ours:?}");
    assert!(share.contains(&ours.0), "{what}: {ours:?} of {REQUESTS}");
    let Some(envoy) = envoy() else {
        return println!("{what}: not compared, PROA_ENVOY does not name an Envoy binary");
    };
    let theirs = seen(&Running::envoy(&envoy, &config), port);
    if exactly {
        assert_eq!(ours, theirs, "{what}: left ours, right Envoy's");
    } else {
        assert!(share.contains(&theirs.0), "{what}: {theirs:?} of {REQUESTS}");
        let names = |counted: &[String]| {
            counted.iter().map(|l| l.split(':').next().unwrap_or("").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&ours.1), names(&theirs.1), "{what}: left ours, right Envoy's");
    }
}

#[test]
fn the_own_zone_takes_what_it_can() {
    check("enough hosts here", (2, 2), (1, 1), 1, true, REQUESTS..REQUESTS + 1);
    // A quarter of the hosts, half of the proxies: half of the requests stay.
    check("half of what is needed", (1, 3), (1, 1), 1, false, 140..260);
    check("too few hosts for zones", (1, 3), (1, 1), 6, false, 50..150);
    check("no proxy elsewhere", (1, 3), (1, 0), 1, false, 50..150);
    check("none here", (0, 3), (1, 1), 1, false, 0..1);
}
