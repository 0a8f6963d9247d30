//! Do gRPC with its trailers and WebSocket pass the mesh whole? Through sidecars over mutual TLS, and through the gateway.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use e2e::{DataPlane, Mesh, both_planes, eventually};

both_planes!(grpc_and_websocket);

const ECHO: &str = "\
apiVersion: v1
kind: Service
metadata: {name: echo, namespace: samples}
spec:
  selector: {app: echo}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo, namespace: samples}
spec:
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec:
      containers: [{name: echo, image: proa/echo, ports: [{containerPort: 8080}]}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: echo, namespace: samples}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [\"*\"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo, namespace: samples}
spec:
  hosts: [echo.example.com]
  gateways: [echo]
  http: [{route: [{destination: {host: echo.samples.svc.cluster.local, port: {number: 80}}}]}]
";

/// A port speaks one protocol, so gRPC has a workload of its own.
const SAYS: &str = "\
apiVersion: v1
kind: Service
metadata: {name: says, namespace: samples}
spec: {selector: {app: says}, ports: [{name: grpc, port: 7070, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: says, namespace: samples}
spec:
  selector: {matchLabels: {app: says}}
  template:
    metadata: {labels: {app: says}}
    spec: {containers: [{name: says, image: proa/echo, ports: [{containerPort: 8080}]}]}
---
";

fn grpc_and_websocket(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    mesh.apply_text(&format!("{SAYS}{ECHO}"));
    // A message of five bytes, as a client library frames it; the trailers say how it went.
    let call = "printf '\\000\\000\\000\\000\\005hello' | curl -s -m 10 --http2-prior-knowledge -D - \
                -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- http://says.samples:7070/test.Echo/Say | tr -d '\\000'";
    let grpc = || mesh.exec("samples-1", "deploy/sleep", &["sh", "-c", call]);
    let seen = eventually("gRPC answers", grpc, |t| t.contains("grpc-status: 0"));
    assert!(seen.contains("hello") && seen.contains("grpc-message: echoed") && seen.contains("HTTP/2 200"), "{seen}");

    // The gateway's side: over HTTP/1.1, upgraded, then frames both ways.
    let open = || -> std::io::Result<(TcpStream, String)> {
        let mut stream = TcpStream::connect(mesh.gateway)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(
            b"GET /chat HTTP/1.1\r\nhost: echo.example.com\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        Ok((stream, String::from_utf8_lossy(&head).to_lowercase()))
    };
    let answered =
        |r: &std::io::Result<(TcpStream, String)>| r.as_ref().is_ok_and(|(_, h)| h.starts_with("http/1.1 101"));
    let (mut stream, head) = eventually("the upgrade is taken", open, answered).expect("just seen");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    for text in ["one", "two", "three"] {
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 1, 2, 3, 4];
        frame.extend(text.bytes().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        stream.write_all(&frame).expect("open");
        let mut answer = vec![0; 2 + text.len()];
        stream.read_exact(&mut answer).expect("a frame");
        assert_eq!(answer, [&[0x81, text.len() as u8], text.as_bytes()].concat());
    }
    stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).expect("open");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("closed by the other side");
    assert_eq!(rest, [0x88, 0]);
    assert_eq!(mesh.rejected_updates(), Vec::<String>::new());
}

both_planes!(the_machine_outside, tproxy);

/// A pod reaches a server on this machine, through its sidecar as any other destination outside the mesh.
fn the_machine_outside(plane: DataPlane) {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\noutside\n");
        }
    });
    let mesh = Mesh::up("httpbin", plane);
    let url = format!("http://host.proa.internal:{port}/");
    let call = || mesh.exec("samples-1", "deploy/sleep", &["curl", "-s", "-m", "10", &url]);
    eventually("the machine answers", call, |text| text == "outside\n");
    let nobody = mesh.exec(
        "samples-1",
        "deploy/sleep",
        &["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "http://host.proa.internal:1/"],
    );
    assert!(nobody == "503" || nobody == "000", "{nobody}");
}

/// With TPROXY the application sees who called, not its own proxy.
fn tproxy(plane: DataPlane) {
    let mesh = Mesh::up("httpbin", plane);
    let app = ECHO.split("---\napiVersion: networking").next().expect("service and deployment");
    mesh.apply_text(&app.replace(
        "metadata: {labels: {app: echo}}",
        "metadata: {labels: {app: echo}, annotations: {sidecar.istio.io/interceptionMode: TPROXY}}",
    ));
    let client =
        mesh.proa(&["-n", "samples-1", "get", "pod", "-l", "app=sleep", "-o", "jsonpath={.items[0].status.podIP}"]);
    let call = || mesh.exec("samples-1", "deploy/sleep", &["curl", "-s", "-m", "10", "http://echo.samples/who"]);
    let seen = eventually("echo answers", call, |text| text.contains("\"peer\""));
    assert!(seen.contains(client.trim()), "the application was called by {}, and saw {seen}", client.trim());
}
