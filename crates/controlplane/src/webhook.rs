//! What does the API server get from our admission webhooks? `/inject` and what is below it, and `/validate`, on the
//! HTTPS port. The answers are made by `inject::admission` and `api::admission`; here is HTTP, and what both depend on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use api::admission::{Answer, Reason, Review, Unusable};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use inject::admission::Outcome;
use inject::config::Watch;
use names::{Kind, ResourceKey};

use crate::run::Shared;

/// Largest review: the API server's own limit for objects, twice, as updates carry the old one too.
const BODY_BYTES_MAX: usize = 6 << 20;

/// A metric's name, its help, and its values by label.
type Family = (&'static str, &'static str, Vec<(String, u64)>);

/// `sidecar_injection_…` and `galley_validation_…`.
#[derive(Debug, Default)]
pub struct Counters {
    asked: AtomicU64,
    injected: AtomicU64,
    skipped: AtomicU64,
    failed: AtomicU64,
    nanoseconds: AtomicU64,
    passed: AtomicU64,
    not_passed: Mutex<BTreeMap<Reason, u64>>,
    unusable: Mutex<BTreeMap<u16, u64>>,
}

impl Counters {
    /// The counters with their names and help; labels may be empty.
    pub fn families(&self) -> Vec<Family> {
        let one = |counter: &AtomicU64| vec![(String::new(), counter.load(Ordering::Relaxed))];
        let not_passed = self.not_passed.lock().unwrap_or_else(|e| e.into_inner());
        let unusable = self.unusable.lock().unwrap_or_else(|e| e.into_inner());
        vec![
            ("sidecar_injection_requests_total", "Total number of sidecar injection requests.", one(&self.asked)),
            (
                "sidecar_injection_success_total",
                "Total number of successful sidecar injection requests.",
                one(&self.injected),
            ),
            ("sidecar_injection_skip_total", "Total number of skipped sidecar injection requests.", one(&self.skipped)),
            (
                "sidecar_injection_failure_total",
                "Total number of failed sidecar injection requests.",
                one(&self.failed),
            ),
            ("galley_validation_passed", "Resource is valid", one(&self.passed)),
            (
                "galley_validation_failed",
                "Resource validation failed",
                not_passed.iter().map(|(why, n)| (format!("reason=\"{}\"", why.as_str()), *n)).collect(),
            ),
            (
                "galley_validation_http_error",
                "Resource validation http serve errors",
                unusable.iter().map(|(status, n)| (format!("status=\"{status}\""), *n)).collect(),
            ),
        ]
    }

    /// How many injections there were, and how long they took together.
    pub fn injection_time(&self) -> (u64, Duration) {
        let took = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        (self.asked.load(Ordering::Relaxed), took)
    }
}

/// What the handlers share.
struct Webhooks {
    shared: Arc<Shared>,
    /// The ConfigMap with the injector's settings.
    settings: ResourceKey,
    watch: Mutex<Watch>,
    revision: String,
}

/// The routes of 15017. Settings of the injector are in the ConfigMap `istio-sidecar-injector`, with the revision
/// appended unless it is the default one.
pub fn router(shared: Arc<Shared>, namespace: &str, revision: &str) -> Router {
    let name = match revision {
        "" | "default" => "istio-sidecar-injector".to_owned(),
        revision => format!("istio-sidecar-injector-{revision}"),
    };
    let state = Webhooks {
        shared,
        settings: ResourceKey::new(Kind::ConfigMap, namespace, &name),
        watch: Mutex::default(),
        revision: revision.to_owned(),
    };
    Router::new()
        .route("/inject", any(inject))
        .route("/inject/{*environment}", any(inject))
        .route("/validate", any(validate))
        .route("/ready", any(|| async { StatusCode::OK }))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(state))
}

impl Webhooks {
    fn injector(&self) -> Result<inject::Injector, String> {
        let snapshot = self.shared.world.snapshot();
        let problems = |list: Vec<api::Problem>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let mesh = match &snapshot.mesh.raw {
            serde_json::Value::Null => api::MeshConfig::istio_default(),
            raw => api::MeshConfig::overlay(raw).map_err(|p| format!("mesh configuration: {}", problems(p)))?,
        };
        let store = self.shared.world.store();
        let proxy_configs = store.resources().values().filter(|r| r.key().kind == Kind::ProxyConfig);
        let proxy_configs = proxy_configs.filter_map(|r| inject::proxy_config::Stated::read(&r.raw)).collect();
        let data = store.resources().get(&self.settings).map(|r| r.raw["data"].clone());
        drop(store);
        let mut watch = self.watch.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(error) = watch.update(data.as_ref()) {
            tracing::error!(target: "default", "{}: {error}; the last good settings stay in force", self.settings);
        }
        let mut injector = match watch.current() {
            Some(settings) => settings.injector(mesh),
            None => inject::Injector::new(mesh, inject::default_values()),
        };
        injector.proxy_configs = proxy_configs;
        if !self.revision.is_empty() {
            injector.revision.clone_from(&self.revision);
        }
        Ok(injector)
    }
}

async fn inject(State(state): State<Arc<Webhooks>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let counters = &state.shared.webhooks;
    let started = Instant::now();
    counters.asked.fetch_add(1, Ordering::Relaxed);
    let read = match Review::read(content_type(&headers), &body) {
        Ok(read) => read,
        Err(unusable) => {
            counters.failed.fetch_add(1, Ordering::Relaxed);
            return refuse(unusable);
        }
    };
    let admitted = read.as_ref().map_err(String::clone).and_then(|review| {
        let injector = state.injector()?;
        Ok(inject::admission::admit(&injector, review, uri.path()))
    });
    let (answer, outcome) = admitted.unwrap_or_else(|reason| (Answer::deny(reason), Outcome::Failed));
    let pod = read.as_ref().map(|r| format!("{}/{}", r.namespace, r.object["metadata"]["name"])).unwrap_or_default();
    let counter = match outcome {
        Outcome::Injected => &counters.injected,
        Outcome::Skipped => &counters.skipped,
        Outcome::Failed => {
            tracing::error!(target: "default", "injection of {pod}: {}", answer.message);
            &counters.failed
        }
    };
    counter.fetch_add(1, Ordering::Relaxed);
    let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    counters.nanoseconds.fetch_add(took, Ordering::Relaxed);
    json_response(&answer, read.as_ref().ok())
}

async fn validate(State(state): State<Arc<Webhooks>>, headers: HeaderMap, body: Bytes) -> Response {
    let counters = &state.shared.webhooks;
    let read = match Review::read(content_type(&headers), &body) {
        Ok(read) => read,
        Err(unusable) => {
            let mut errors = counters.unusable.lock().unwrap_or_else(|e| e.into_inner());
            *errors.entry(unusable.response().0).or_default() += 1;
            return refuse(unusable);
        }
    };
    let (answer, reason) = match &read {
        Ok(review) => api::admission::judge(review),
        Err(reason) => (Answer::deny(reason.as_str()), Some(Reason::ConversionError)),
    };
    match reason {
        None => drop(counters.passed.fetch_add(1, Ordering::Relaxed)),
        Some(reason) => {
            tracing::info!(target: "validationServer", "{}: {}", reason.as_str(), answer.message);
            *counters.not_passed.lock().unwrap_or_else(|e| e.into_inner()).entry(reason).or_default() += 1;
        }
    }
    json_response(&answer, read.as_ref().ok())
}

fn content_type(headers: &HeaderMap) -> &str {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn refuse(unusable: Unusable) -> Response {
    let (status, text) = unusable.response();
    (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), text).into_response()
}

fn json_response(answer: &Answer, review: Option<&Review>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], answer.to_json(review).to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::SystemTime;

    use arc_swap::ArcSwap;
    use ca::CurrentAuthority;
    use model::MeshConfig;
    use rustls::{ClientConfig, RootCertStore};
    use serde_json::{Value, json};
    use source_file::{Batch, Event};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use xds_server::Hub;

    use super::*;
    use crate::source::ModelSource;
    use crate::world::{Input, World};
    use crate::{certificate, tls};

    /// A port with certificates of its own CA, as `discovery` opens it.
    struct Port {
        address: std::net::SocketAddr,
        roots: Vec<rustls_pki_types::CertificateDer<'static>>,
        shared: Arc<Shared>,
    }

    async fn open() -> Port {
        let dir = tempfile::tempdir().expect("a directory");
        let authority =
            ca::load_or_create(dir.path(), "cluster.local", pki::KeyAlgorithm::EcdsaP256, SystemTime::now());
        let authority = CurrentAuthority::new(authority.expect("an authority"));
        let world = World::new(MeshConfig::default());
        let shared = Arc::new(Shared {
            hub: Hub::new(Arc::new(ModelSource::new(Arc::clone(&world))), xds_server::Options::default()),
            world,
            ca_metrics: Arc::default(),
            authority: Arc::clone(&authority),
            ready: AtomicBool::new(true),
            started: Instant::now(),
            cluster_id: "Kubernetes".into(),
            push_status: Default::default(),
            webhooks: Default::default(),
        });
        let names = certificate::dns_names("istio-system", "cluster.local", "default", &[]);
        let (current, _) = certificate::issue(&authority.load(), &names).expect("a certificate");
        let settings = Arc::new(ArcSwap::new(tls::web_config(current).expect("settings")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let accepted = tls::Accepted::new(listener, settings).expect("an address");
        let address = axum::serve::Listener::local_addr(&accepted).expect("an address");
        let web = router(Arc::clone(&shared), "istio-system", "default");
        tokio::spawn(async move { axum::serve(accepted, web).await });
        Port { address, roots: authority.trusted(), shared }
    }

    impl Port {
        fn apply(&self, resource: Value) {
            let resource = api::Resource::from_value(resource, None, "a").expect("a resource");
            let events = vec![Event::Applied(resource)];
            self.shared.world.apply(Input::Files(Batch { events, ..Default::default() }));
            self.shared.world.publish();
        }

        /// Asks as the API server does, which knows us as a service: status code and body.
        async fn post(&self, path: &str, content_type: &str, body: &[u8]) -> (u16, String) {
            let mut store = RootCertStore::empty();
            self.roots.iter().for_each(|r| store.add(r.clone()).expect("a root"));
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.expect("versions").with_root_certificates(store).with_no_client_auth();
            let stream = TcpStream::connect(self.address).await.expect("listening");
            let name = "istiod.istio-system.svc".try_into().expect("a name");
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let mut stream = connector.connect(name, stream).await.expect("a handshake");
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: istiod\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(&[head.as_bytes(), body].concat()).await.expect("written");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("an answer");
            let answer = String::from_utf8(answer).expect("text");
            let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
            (head[9..12].parse().expect("a status"), body.to_owned())
        }

        async fn review(&self, path: &str, object: Value) -> Value {
            let kind = object["kind"].as_str().unwrap_or_default();
            let resource = format!("{}s", kind.to_lowercase());
            let review = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {
                "uid": "0df28fbd-5f5f-11e8-bc74-36e6bb280816", "kind": {"group": "", "version": "v1", "kind": kind},
                "resource": {"group": "", "version": "v1", "resource": resource}, "namespace": "a",
                "operation": "CREATE", "userInfo": {"username": "system:admin", "groups": ["system:masters"]},
                "object": object, "oldObject": null, "dryRun": false, "options": {"kind": "CreateOptions"}}});
            let (status, body) = self.post(path, "application/json", review.to_string().as_bytes()).await;
            assert_eq!(status, 200);
            let answer: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
            answer["response"].clone()
        }

        fn counted(&self, name: &str) -> u64 {
            let families = self.shared.webhooks.families();
            families.iter().filter(|(n, ..)| *n == name).flat_map(|(.., list)| list).map(|(_, n)| n).sum()
        }
    }

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-"},
            "spec": {"containers": [{"name": "app", "image": "app"}]}})
    }

    fn patch(response: &Value) -> String {
        use base64::Engine as _;
        let text = response["patch"].as_str().expect("a patch");
        let patch = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
        String::from_utf8(patch).expect("text")
    }

    #[tokio::test]
    async fn pods_are_injected_with_the_settings_of_the_config_map() {
        let port = open().await;
        let path = "/inject/cluster/east/net/north?timeout=10s";
        let first = port.review(path, pod()).await;
        assert_eq!((&first["allowed"], &first["patchType"]), (&json!(true), &json!("JSONPatch")));
        let text = patch(&first);
        assert!(text.contains(r#""name":"ISTIO_META_CLUSTER_ID","value":"east""#), "{text}");
        assert!(text.contains("docker.io/istio/proxyv2"), "{text}");

        let settings = |values: &str| {
            json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "istio-sidecar-injector", "namespace": "istio-system"},
                "data": {"config": "policy: enabled", "values": values}})
        };
        port.apply(settings("global: {hub: example.org/mesh}"));
        assert!(patch(&port.review("/inject", pod()).await).contains("example.org/mesh/proxyv2"));
        // What cannot be read leaves the last in force.
        port.apply(settings("bad yaml"));
        assert!(patch(&port.review("/inject", pod()).await).contains("example.org/mesh/proxyv2"));

        let mut unwilling = pod();
        unwilling["metadata"]["labels"] = json!({"sidecar.istio.io/inject": "false"});
        let response = port.review("/inject", unwilling).await;
        assert_eq!((&response["allowed"], response.get("patch")), (&json!(true), None));
        let mut broken = pod();
        broken["metadata"]["annotations"] = json!({"proxy.istio.io/config": "concurrency: many"});
        let response = port.review("/inject", broken).await;
        assert_eq!(response["allowed"], false);
        assert!(response["status"]["message"].as_str().is_some_and(|m| m.contains("proxy.istio.io/config")));

        let counted =
            ["requests", "success", "skip", "failure"].map(|n| port.counted(&format!("sidecar_injection_{n}_total")));
        assert_eq!(counted, [5, 3, 1, 1]);
    }

    #[tokio::test]
    async fn resources_are_judged_with_field_and_reason() {
        let port = open().await;
        let rule = |spec: Value| {
            json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "r"},
                "spec": spec})
        };
        assert_eq!(port.review("/validate", rule(json!({"host": "web"}))).await["allowed"], true);
        let subsets = json!([{"labels": {"version": "v1"}}]);
        let denied = port.review("/validate", rule(json!({"host": "web", "subsets": subsets}))).await;
        assert_eq!(denied["allowed"], false);
        let message = denied["status"]["message"].as_str().unwrap_or_default();
        assert!(message.starts_with("configuration is invalid: spec.subsets[0]"), "{message}");
        let (status, _) = port.post("/validate", "application/yaml", b"{}").await;
        assert_eq!(status, 415);
        let (status, body) = port.post("/validate", "application/json", &[0, 1, 2]).await;
        assert!(status == 200 && body.contains("\"allowed\":false"), "{body}");
        let counted = ["passed", "failed", "http_error"].map(|n| port.counted(&format!("galley_validation_{n}")));
        assert_eq!(counted, [1, 2, 1]);
    }
}
