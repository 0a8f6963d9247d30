//! Are keys of token issuers found, compared and refused as in Istio? The tables of its key resolver, out of
//! `networking/model.json` of the conformance folder: `PROA_CONFORMANCE`, else beside the checkout.

use std::net::SocketAddr;
use std::path::PathBuf;

use controlplane::jwks;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Where the original's key server has its keys.
const KEYS_PATH: &str = "/oauth2/v3/certs";
/// What is measured there is not what this server does: a counter of its own, and how long a test waits.
const NOT_SERVED: [&str; 2] = ["TestJwtPubKeyMetric", "TestGetPublicKeyWithTimeout"];

fn tables() -> Option<Vec<Value>> {
    let dir = match std::env::var_os("PROA_CONFORMANCE") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    let text = std::fs::read_to_string(dir.join("networking/model.json")).ok()?;
    Some(serde_json::from_str(&text).expect("JSON"))
}

/// A server that tells where its keys are, and has these.
async fn key_server(keys: String) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("an address");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&request[..n]).into_owned();
            let body = match head.split(' ').nth(1) {
                Some("/.well-known/openid-configuration") => {
                    json!({"jwks_uri": format!("http://{address}{KEYS_PATH}")}).to_string()
                }
                Some(KEYS_PATH) => keys.clone(),
                _ => String::new(),
            };
            let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// A text in which `ms.URL` stands for the server.
fn located(v: &Value, server: SocketAddr) -> String {
    let url = format!("http://{server}");
    match (v.as_str(), v["$ref"].as_str(), v["$expr"].as_str()) {
        (Some(text), ..) => text.to_owned(),
        (_, Some("ms.URL"), _) => url,
        (.., Some(expression)) => expression
            .split(" + ")
            .map(|part| if part == "ms.URL" { url.clone() } else { part.trim_matches('"').to_owned() })
            .collect(),
        _ => String::new(),
    }
}

async fn run(function: &str, v: &Value) -> Option<Result<(), String>> {
    let flag = |key: &str| v[key].as_bool().unwrap_or(false);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let same = |got: &dyn std::fmt::Debug, want: &dyn std::fmt::Debug| {
        let (got, want) = (format!("{got:?}"), format!("{want:?}"));
        if got == want { Ok(()) } else { Err(format!("{got}, wanted {want}")) }
    };
    Some(match function {
        "TestResolveJwksURIUsingOpenID" => {
            let server = key_server(String::new()).await;
            let got = jwks::discover(&located(&v["in"], server)).await.ok();
            let want = (!flag("expectedError")).then(|| located(&v["expectedJwksURI"], server));
            same(&got, &want)
        }
        "TestGetPublicKey" | "TestGetPublicKeyWithEmptyIssuer" | "TestGetPublicKeyReorderedKey" => {
            let keys = text(&v["expectedJwtPubkey"]);
            let server = key_server(keys.clone()).await;
            let (issuer, uri) = (located(&v["in"][0], server), located(&v["in"][1], server));
            let got = if uri.is_empty() {
                match jwks::discover(&issuer).await {
                    Ok(found) => jwks::keys_of(&found).await.ok(),
                    Err(_) => None,
                }
            } else {
                jwks::keys_of(&uri).await.ok()
            };
            same(&got, &(!flag("expectedError")).then_some(keys))
        }
        "TestCompareJWKSResponse" => {
            let (old, new) = (text(&v["args"]["oldKeyString"]), text(&v["args"]["newKeyString"]));
            if flag("wantErr") {
                // What is no key set never gets as far as a comparison.
                same(&jwks::is_key_set(&new), &false)
            } else {
                same(&!jwks::same_keys(&old, &new), &flag("want"))
            }
        }
        "TestValidateJWKSFormat" => same(&!jwks::is_key_set(&text(&v["body"])), &flag("wantErr")),
        "TestJwksBlockedIP" => match text(&v["ip"]).parse() {
            Ok(ip) => same(&jwks::is_blocked(ip), &flag("blocked")),
            Err(e) => Err(format!("{e}")),
        },
        _ => return None,
    })
}

#[tokio::test]
async fn keys() {
    let Some(tables) = tables() else {
        println!("jwks: not run, the conformance data is absent (set PROA_CONFORMANCE)");
        return;
    };
    let (mut passed, mut failed, mut not_served) = (0, Vec::new(), 0);
    for table in &tables {
        if !table["file"].as_str().unwrap_or_default().ends_with("jwks_resolver_test.go") {
            continue;
        }
        let function = table["func"].as_str().unwrap_or_default();
        for case in table["cases"].as_array().into_iter().flatten() {
            match run(function, &case["v"]).await {
                _ if NOT_SERVED.contains(&function) => not_served += 1,
                None => not_served += 1,
                Some(Ok(())) => passed += 1,
                Some(Err(e)) => failed.push(format!("{function} {}: {e}", case["v"]["name"])),
            }
        }
    }
    println!(
        "{}",
        json!({"area": "networking-jwks", "passed": passed, "failed": failed.len(), "allowed": 0, "not_served": not_served})
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
