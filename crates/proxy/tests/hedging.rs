//! Does a request that takes long get company instead of being cut off? `hedge_on_per_try_timeout`, beside stock Envoy where
//! `PROA_ENVOY` names one: who answers in the end, and what is counted.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use support::*;

/// Milliseconds until the answer, its status and its body.
type Answer = (u64, u16, &'static str);

/// Answers one request after the other as told, the last of them over and over.
fn upstream(answers: &'static [Answer]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let count = Arc::new(AtomicUsize::new(0));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), count) = (stream, count.clone()) else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    let number = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                    let (wait, status, body) = answers[number];
                    std::thread::sleep(Duration::from_millis(wait));
                    let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn config(port: u16, app: u16, hedge: bool) -> Value {
    let mut route = json!({"cluster": "app", "timeout": "8s", "retry_policy": {"retry_on": "5xx", "num_retries": 1,
        "per_try_timeout": "0.4s", "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"}}});
    if hedge {
        route["hedge_policy"] = json!({"hedge_on_per_try_timeout": true});
    }
    let routes = json!([{"match": {"prefix": "/"}, "route": route}]);
    bootstrap(vec![listener(port, &[hcm(routes, &[], json!({}))], json!({}))], vec![cluster("app", app)])
}

/// What a proxy answers and counts.
fn seen(running: &Running, port: u16) -> Vec<String> {
    let answer = http(port, "GET", "/", &[]).expect("an answer");
    let stats = running.get("/stats?filter=^cluster.app.upstream_rq_(retry|per_try_timeout|timeout|2..|5..)").text();
    let mut said = vec![format!("{} {}", answer.status, answer.text())];
    // Counters that only one side has from the start are compared where they are not zero.
    said.extend(stats.lines().filter(|l| !l.ends_with(": 0") && l.split(": ").count() == 2).map(str::to_owned));
    said.retain(|l| !l.contains("retry_backoff"));
    said
}

fn check(what: &str, answers: &'static [Answer], hedge: bool, want: &str) {
    let run = |start: &dyn Fn(&Value) -> Running| {
        let (port, app) = (free_port(), upstream(answers));
        seen(&start(&config(port, app, hedge)), port)
    };
    let ours = run(&|config| Running::ours(config, &[]));
    assert_eq!(ours[0], want, "{what}: {ours:?}");
    match envoy() {
        Some(envoy) => {
            assert_eq!(ours, run(&|config| Running::envoy(&envoy, config)), "{what}: left ours, right Envoy's")
        }
        None => println!("{what}: not compared, PROA_ENVOY does not name an Envoy binary: {ours:?}"),
    }
}

#[test]
fn an_overdue_try_goes_on() {
    check("the first answers first", &[(1000, 200, "first"), (5000, 200, "second")], true, "200 first");
    check("the second answers first", &[(5000, 200, "first"), (100, 200, "second")], true, "200 second");
    check("cut off without hedging", &[(1000, 200, "first"), (100, 200, "second")], false, "200 second");
}

#[test]
fn a_bad_response_is_not_the_last_word() {
    check("the first fails late", &[(700, 503, "first"), (800, 200, "second")], true, "200 second");
    check("the second fails", &[(1500, 200, "first"), (100, 503, "second")], true, "200 first");
}
