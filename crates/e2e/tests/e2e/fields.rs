//! One field group after another on one mesh: what an operator writes, and what a client then sees.

use e2e::{DataPlane, Mesh, both_planes, eventually};

both_planes!(routing_security_and_patches);

const HOST: &str = "httpbin.samples.svc.cluster.local";

/// Head and body of a call from the other namespace.
fn call(mesh: &Mesh, path: &str, arguments: &[&str]) -> String {
    let url = format!("http://httpbin.samples:8000{path}");
    let mut command = vec!["curl", "-s", "-i", "-m", "10"];
    command.extend_from_slice(arguments);
    command.push(&url);
    mesh.exec("samples-1", "deploy/sleep", &command).to_lowercase()
}

fn becomes(mesh: &Mesh, path: &str, arguments: &[&str], want: &[&str]) {
    let holds = |seen: &String| want.iter().all(|w| seen.contains(w));
    eventually(&format!("{path} {arguments:?}: {want:?}"), || call(mesh, path, arguments), holds);
}

fn routing_security_and_patches(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    becomes(&mesh, "/status/204", &[], &["204 no content"]);
    virtual_service(&mesh);
    delegates(&mesh);
    authorization(&mesh);
    patches(&mesh);
    assert_eq!(mesh.rejected_updates(), Vec::<String>::new());
}

fn virtual_service(mesh: &Mesh) {
    mesh.apply_text(&format!(
        r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: fields, namespace: samples}}
spec:
  hosts: [{HOST}]
  http:
  - match: [{{uri: {{exact: /teapot}}}}]
    directResponse: {{status: 418, body: {{string: short and stout}}}}
  - match: [{{uri: {{prefix: /old}}}}]
    redirect: {{uri: /new, redirectCode: 308}}
  - match: [{{uri: {{prefix: /below/}}}}]
    rewrite: {{uri: /}}
    route: [{{destination: {{host: {HOST}}}}}]
  - match: [{{headers: {{x-user: {{regex: "t.*r"}}}}, withoutHeaders: {{x-calm: {{}}}}}}]
    fault: {{abort: {{httpStatus: 509, percentage: {{value: 100}}}}}}
    route: [{{destination: {{host: {HOST}}}}}]
  - match: [{{queryParams: {{slow: {{exact: "yes"}}}}}}]
    timeout: 1s
    retries: {{attempts: 0}}
    route: [{{destination: {{host: {HOST}}}}}]
  - match: [{{method: {{exact: OPTIONS}}}}, {{uri: {{prefix: /shared}}}}]
    corsPolicy: {{allowOrigins: [{{exact: "https://a.example"}}], allowMethods: [GET, PUT], maxAge: 60s}}
    rewrite: {{uri: /get}}
    route: [{{destination: {{host: {HOST}}}}}]
  - headers:
      request: {{set: {{x-mesh: seen}}, remove: [x-secret]}}
      response: {{add: {{x-answer: "42"}}, remove: [x-not-there]}}
    route: [{{destination: {{host: {HOST}}}}}]
"#
    ));
    becomes(mesh, "/teapot", &[], &[" 418", "short and stout"]);
    becomes(mesh, "/old/and/gone", &[], &[" 308", "location: http://httpbin.samples:8000/new"]);
    becomes(mesh, "/below/status/204", &[], &[" 204"]);
    becomes(mesh, "/get", &["-H", "x-user: tester"], &[" 509", "fault filter abort"]);
    becomes(mesh, "/get", &["-H", "x-user: tester", "-H", "x-calm: yes"], &[" 200"]);
    becomes(mesh, "/delay/3?slow=yes", &[], &[" 504"]);
    let preflight = ["-X", "OPTIONS", "-H", "origin: https://a.example", "-H", "access-control-request-method: PUT"];
    becomes(
        mesh,
        "/shared",
        &preflight,
        &["access-control-allow-origin: https://a.example", "access-control-max-age: 60"],
    );
    becomes(mesh, "/headers", &["-H", "x-secret: s"], &["x-answer: 42", "x-mesh", "seen"]);
    assert!(!call(mesh, "/headers", &["-H", "x-secret: s"]).contains("x-secret"));
}

fn delegates(mesh: &Mesh) {
    mesh.apply_text(&format!(
        r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: fields, namespace: samples}}
spec:
  hosts: [{HOST}]
  http:
  - match: [{{uri: {{prefix: /part}}}}]
    delegate: {{name: part}}
  - route: [{{destination: {{host: {HOST}}}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: part, namespace: samples}}
spec:
  http:
  - match: [{{uri: {{prefix: /part/one}}}}]
    directResponse: {{status: 201}}
  - directResponse: {{status: 202}}
"#
    ));
    becomes(mesh, "/part/one", &[], &[" 201"]);
    becomes(mesh, "/part/two", &[], &[" 202"]);
    becomes(mesh, "/status/204", &[], &[" 204"]);
}

fn authorization(mesh: &Mesh) {
    let policy = |action: &str, rule: &str| {
        mesh.apply_text(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: fields, namespace: samples}}\n\
             spec: {{selector: {{matchLabels: {{app: httpbin}}}}, action: {action}, rules: [{rule}]}}\n"
        ));
    };
    policy("DENY", "{to: [{operation: {paths: [/anything*]}}], from: [{source: {namespaces: [samples-1]}}]}");
    becomes(mesh, "/anything/at/all", &[], &[" 403", "rbac: access denied"]);
    becomes(mesh, "/status/204", &[], &[" 204"]);
    policy(
        "ALLOW",
        "{from: [{source: {principals: [cluster.local/ns/samples-1/sa/sleep]}}], when: [{key: 'request.headers[x-pass]', values: ['yes']}]}",
    );
    becomes(mesh, "/status/204", &["-H", "x-pass: yes"], &[" 204"]);
    becomes(mesh, "/status/204", &[], &[" 403"]);
    // A policy under trial decides nothing.
    mesh.apply_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {name: fields, namespace: samples, annotations: {istio.io/dry-run: 'true'}}\n\
         spec: {action: DENY, rules: [{}]}\n",
    );
    becomes(mesh, "/status/204", &[], &[" 204"]);
    mesh.proa(&["-n", "samples", "delete", "authorizationpolicy", "fields"]);
}

fn patches(mesh: &Mesh) {
    mesh.apply_text(
        r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: fields, namespace: samples-1}
spec:
  configPatches:
  - applyTo: VIRTUAL_HOST
    match: {context: SIDECAR_OUTBOUND, routeConfiguration: {vhost: {name: "httpbin.samples.svc.cluster.local:8000"}}}
    patch:
      operation: MERGE
      value: {response_headers_to_add: [{header: {key: x-patched, value: "yes"}}]}
"#,
    );
    becomes(mesh, "/status/204", &[], &["x-patched: yes"]);
    mesh.proa(&["-n", "samples-1", "delete", "envoyfilter", "fields"]);
}
