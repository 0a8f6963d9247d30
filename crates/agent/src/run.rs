//! The story of one sidecar: read who we are, write the bootstrap, serve certificates and xDS, run the proxy, drain.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use names::{Identity, NodeId, NodeType};
use pki::{KeyAlgorithm, RotationPolicy};
use prost::Message as _;
use protos::istio::networking::nds::v1::NameTable;
use serde_json::Value;
use telemetry::log::istio;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use xds::server::Kind;

use crate::args;
use crate::bootstrap::{self, Inputs};
use crate::certificate::{self, Current};
use crate::config::ProxyConfig;
use crate::control::Control;
use crate::envoy::{self, Drain};
use crate::last_good::LastGood;
use crate::metrics::Metrics;
use crate::node::{self, Facts, Node};
use crate::relay::{self, Learned};
use crate::status::{self, Status};
use crate::{dns, drain, grpc_bootstrap, own, request, sds, tap};

/// The secret server's socket, below the working directory, as Istio's.
const SDS_DIR: &str = "./var/run/secrets/workload-spiffe-uds";
/// A certificate that the platform puts into files, as Istio's.
const CREDENTIALS_DIR: &str = "./var/run/secrets/workload-spiffe-credentials";
/// Labels and annotations of the pod, from the downward API.
const POD_DIR: &str = "./etc/istio/pod";
/// After the drain the proxy has this long to end.
const END_MAX: Duration = Duration::from_secs(5);
/// Source of probes and of the proxy's own inbound connections; the pod's rules leave it alone.
const PROBES_FROM_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 6);
/// The same in IPv6.
const PROBES_FROM_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// How often a starting proxy is asked whether it is ready.
const START_LOOK: Duration = Duration::from_millis(5);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Environment, with the proxy configuration's metadata over it.
#[derive(Debug, Clone, Default)]
struct Env(BTreeMap<String, String>);

impl Env {
    fn text(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }
    fn or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        Some(self.text(name)).filter(|v| !v.is_empty()).unwrap_or(default)
    }
    fn flag(&self, name: &str) -> bool {
        matches!(self.text(name), "true" | "1" | "t" | "T" | "TRUE" | "True")
    }
    fn duration(&self, name: &str, default: Duration) -> Duration {
        api::Duration::parse(self.text(name)).map_or(default, api::Duration::to_std)
    }
    fn number(&self, name: &str, default: f64) -> f64 {
        self.text(name).parse().ok().filter(|n: &f64| n.is_finite()).unwrap_or(default)
    }
}

/// `pilot-agent proxy`
pub fn proxy(args: args::Proxy) -> anyhow::Result<ExitCode> {
    istio::init(istio::Options {
        levels: istio::Levels::parse(&args.log.log_output_level)?,
        json: args.log.log_as_json,
        stdout: true,
    });
    proxy::memory::prepare();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(serve(args))?;
    runtime.shutdown_background();
    Ok(ExitCode::from(code))
}

async fn serve(args: args::Proxy) -> anyhow::Result<u8> {
    let started = Instant::now();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let pod = Path::new(POD_DIR);
    let labels = node::downward_map(&read(&pod.join("labels")));
    let annotations = node::downward_map(&read(&pod.join("annotations")));
    let mut env =
        Env(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect());
    let annotation = annotations.get("proxy.istio.io/config").map(String::as_str).unwrap_or_default();
    let mut config = ProxyConfig::merged(&read(&args.mesh_config), env.text("PROXY_CONFIG"), annotation)?;
    if let Some(cluster) = &args.service_cluster {
        config.set("serviceCluster", cluster.as_str());
    }
    if !env.text("DISCOVERY_ADDRESS").is_empty() {
        config.set("discoveryAddress", env.text("DISCOVERY_ADDRESS"));
    }
    for (name, value) in config.proxy_metadata() {
        env.0.insert(name.to_owned(), value.to_owned());
    }

    let node = make_node(&args, &env, &mut config, labels, annotations)?;
    tracing::info!(target: "default", "Proxy role: id={} type={}", node.id, args.role);
    let address = config.text("/discoveryAddress").to_owned();
    tracing::info!(target: "default", "Effective config: {}", config.json());
    let roots = Some(env.or("XDS_ROOT_CA", env.text("CA_ROOT_CA"))).filter(|p| !p.is_empty()).map(PathBuf::from);
    let headers = |prefix| certificate::headers(&env.0, prefix);
    let plain = config.text("/controlPlaneAuthPolicy") == "NONE";
    let control = Control::new(&address, plain, roots.clone(), headers("XDS_HEADER_"))?;
    let ca_address = env.or("CA_ADDR", &address);
    let ca = Control::new(ca_address, false, roots, headers("CA_HEADER_"))?;
    tracing::info!(target: "default", "CA Endpoint {ca_address}, provider Citadel, trust anchor {}", ca.roots().display());

    let metrics = Arc::new(Metrics::default());
    let config_dir = PathBuf::from(config.text("/configPath"));
    let kept = last_good(&env, &config_dir);
    let current = match certificate::Files::find(Path::new(CREDENTIALS_DIR)) {
        Some(files) => certificate::keep_files(ca, files),
        None => certificate::keep(ca, certificate_options(&env), kept.clone(), Arc::clone(&metrics)),
    };
    keep_control_identified(&control, current.clone());
    let sds_socket = Path::new(SDS_DIR).join(env.or("WORKLOAD_IDENTITY_SOCKET_FILE", "socket"));
    let private = env.flag("PROA_PRIVATE_SOCKETS");
    let served = sds::serve(&sds_socket, private, current.clone());
    let served = served.with_context(|| format!("SDS socket {}", sds_socket.display()))?;
    let xds_socket = config_dir.join("XDS");
    let dns_capture = env.flag("ISTIO_META_DNS_CAPTURE");
    let (names, table) = watch::channel(kept.as_ref().filter(|_| dns_capture).and_then(kept_names).unwrap_or_default());
    let learned = Learned { names, want_names: dns_capture, kept, metrics: Arc::clone(&metrics) };
    // Applications that speak xDS themselves have the agent and no proxy.
    let proxyless = env.flag("DISABLE_ENVOY");
    if args.proxy_binary.is_some() || proxyless {
        relay::serve(&xds_socket, private, Arc::clone(&control), learned.clone())
            .with_context(|| format!("xDS socket {}", xds_socket.display()))?;
    }
    if !private {
        // Whoever reaches it asks in this proxy's name.
        tap::serve(Arc::clone(&control), node.to_proto()).await;
    }
    if proxyless {
        let file = env.0.get("GRPC_XDS_BOOTSTRAP").map_or_else(|| config_dir.join(grpc_bootstrap::FILE), PathBuf::from);
        let certificates = Some(env.text("OUTPUT_CERTS")).filter(|d| !d.is_empty());
        let bootstrap = grpc_bootstrap::bootstrap(&node, &xds_socket, certificates);
        grpc_bootstrap::write(&file, &bootstrap).with_context(|| file.display().to_string())?;
    }
    if dns_capture {
        let options = dns::Options {
            namespace: env.text("POD_NAMESPACE").to_owned(),
            domain: domain(&args, &env),
            forward_timeout: env.duration("DNS_FORWARD_TIMEOUT", Duration::from_secs(5)),
            parallel: env.flag("DNS_FORWARD_PARALLEL"),
            listen: env.or("DNS_PROXY_ADDR", "localhost:15053").to_owned(),
        };
        dns::serve(options, table.clone(), Arc::clone(&metrics)).await.context("DNS proxy")?;
    }

    let ipv6_only = node.id.split('~').nth(1).is_some_and(|ip| ip.contains(':'));
    let text = |p: &Path| p.display().to_string();
    let inputs = Inputs {
        node: &node,
        config: &config,
        xds_socket: text(&xds_socket),
        sds_socket: text(&sds_socket),
        ipv6_only,
        dual_stack: env.flag("ISTIO_DUAL_STACK"),
        admin_socket: Some(env.text("PROA_ADMIN_SOCKET")).filter(|path| !path.is_empty()).map(str::to_owned),
        metrics_local_only: env.flag("METRICS_LOCALHOST_ACCESS_ONLY"),
    };
    let file = write_bootstrap(&config_dir, &bootstrap::bootstrap(&inputs), &args.template_file)?;
    let names = dns_capture.then(|| table.clone());
    let mut options = status_options(&env, &config, &node, metrics, current.clone(), names)?;
    if proxyless {
        (options.has_proxy, options.proxy_metrics) = (false, None);
        let certificate = current.clone();
        options.checks.push(Box::new(move || match *certificate.borrow() {
            Some(_) => Ok(()),
            None => Err("the workload certificate is not there yet".into()),
        }));
    }
    let status = serve_status(options, started).await?;
    tracing::info!(target: "default", "Agent started in {:?}", started.elapsed());

    let options = envoy::Options {
        binary: args.proxy_binary.clone().unwrap_or_default(),
        config: file,
        node: node.id.clone(),
        cluster: node.cluster.clone(),
        drain: config.duration("/drainDuration", Duration::from_secs(45)),
        parent_shutdown: config.duration("/parentShutdownDuration", Duration::from_secs(60)),
        ip_version: if ipv6_only { "v6" } else { "v4" },
        log_level: args.proxy_log_level.clone(),
        component_log_level: args.proxy_component_log_level.clone(),
        concurrency: concurrency(&args, &config),
        hot_restart: env.flag("PROA_HOT_RESTART"),
    };
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let ending = drain::Options {
        duration: config.duration("/terminationDrainDuration", Duration::from_secs(5)),
        on_zero: env.flag("EXIT_ON_ZERO_ACTIVE_CONNECTIONS"),
        minimum: env.duration("MINIMUM_DRAIN_DURATION", Duration::from_secs(5)),
        sidecar: args.role == "sidecar",
    };
    let stop = async || {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = status.drain.notified() => {}
            () = status.quit.notified() => return Drain { patience: END_MAX },
        }
        drain::drain(&status, ending).await;
        Drain { patience: END_MAX }
    };
    watch_start(Arc::clone(&status));
    if proxyless {
        // Nothing of ours is in flight.
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            () = status.drain.notified() => {}
            () = status.quit.notified() => {}
        }
        return Ok(0);
    }
    if args.proxy_binary.is_some() {
        // Our own proxy does it for the whole process.
        tokio::spawn(proxy::memory::rest());
        let mut hang_up = signal(SignalKind::hangup())?;
        let renew = async || match options.hot_restart {
            true => drop(hang_up.recv().await),
            false => std::future::pending().await,
        };
        return envoy::supervise(&options, stop, renew).await;
    }
    let secrets = (served == sds::Served::Here).then(|| sds::serve_in_memory(current));
    let proxy = own::start(&options, own::embedding(&control, secrets, &learned)).await?;
    // The status server was there before the proxy.
    let _ = status.proxy.set(proxy.clone());
    own::supervise(&proxy, stop).await
}

/// Looks until the proxy is ready, so that the time it took does not depend on who asks when.
fn watch_start(status: Arc<Status>) {
    tokio::spawn(async move {
        loop {
            let asked = Arc::clone(&status);
            if matches!(tokio::task::spawn_blocking(move || asked.check()).await, Ok(Ok(())) | Err(_)) {
                break;
            }
            tokio::time::sleep(START_LOOK).await;
        }
    });
}

/// What outlives the proxy: below its configuration, or where `PROA_LAST_GOOD_DIR` says; empty turns it off.
fn last_good(env: &Env, config_dir: &Path) -> Option<LastGood> {
    let said = env.0.get("PROA_LAST_GOOD_DIR").map(PathBuf::from);
    let folder = said.unwrap_or_else(|| config_dir.join("last-good"));
    if folder.as_os_str().is_empty() {
        return None;
    }
    LastGood::open(&folder)
        .inspect_err(|error| tracing::warn!(target: "default", "{}: {error}; a restart will need the control plane", folder.display()))
        .ok()
}

/// The name table of an earlier life.
fn kept_names(kept: &LastGood) -> Option<Arc<NameTable>> {
    let tables = kept.resources(Kind::NameTable);
    let table = tables.iter().next()?;
    NameTable::decode(&*table.value.in_one_run()).ok().map(Arc::new)
}

fn domain(args: &args::Proxy, env: &Env) -> String {
    if args.domain.is_empty() {
        format!("{}.svc.cluster.local", env.text("POD_NAMESPACE"))
    } else {
        args.domain.clone()
    }
}

fn make_node(
    args: &args::Proxy,
    env: &Env,
    config: &mut ProxyConfig,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
) -> anyhow::Result<Node> {
    let node_type = match args.role.as_str() {
        "sidecar" => NodeType::Sidecar,
        "router" => NodeType::Router,
        other => bail!("Invalid proxy type: {other:?} (sidecar and router are served)"),
    };
    let (pod, namespace) = (env.text("POD_NAME"), env.text("POD_NAMESPACE"));
    let mut ips: Vec<String> =
        env.text("INSTANCE_IP").split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    if ips.is_empty() {
        ips = local_addresses();
    }
    let ip = ips.first().cloned().unwrap_or_else(|| "127.0.0.1".into());
    ip.parse::<IpAddr>().with_context(|| format!("INSTANCE_IP {ip:?}"))?;
    let id = NodeId { node_type, ip, id: format!("{pod}.{namespace}"), domain: domain(args, env) }.to_string();
    if config.text("/serviceCluster") == "istio-proxy" && args.service_cluster.is_none() {
        // Istio: the app or workload name, qualified by the namespace.
        let name = labels.get("app").map(String::as_str).filter(|n| !n.is_empty());
        let name = name.unwrap_or_else(|| env.or("ISTIO_META_WORKLOAD_NAME", "istio-proxy"));
        if !namespace.is_empty() {
            config.set("serviceCluster", format!("{name}.{namespace}"));
        }
    }
    if let Some(n) = args.concurrency {
        config.set("concurrency", n);
    }
    let mut facts = Facts {
        env: env.0.clone(),
        labels,
        annotations,
        ips,
        outlier_log_path: args.outlier_log_path.clone(),
        prometheus_port: env.or("ENVOY_PROMETHEUS_PORT", "15090").parse().context("ENVOY_PROMETHEUS_PORT")?,
        status_port: env.or("ENVOY_STATUS_PORT", "15021").parse().context("ENVOY_STATUS_PORT")?,
        ..Facts::default()
    };
    if args.proxy_binary.is_none() {
        // Our own proxy has Istio's filters; a foreign one must say so itself.
        facts.env.entry("ISTIO_META_PROA_CAPABILITIES".into()).or_insert_with(|| "all".into());
    }
    Ok(node::node(&id, &facts, config))
}

/// Non-loopback addresses of this machine: the one used towards the world.
fn local_addresses() -> Vec<String> {
    let probe = || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
        // Nothing is sent: connecting a datagram socket only chooses the route.
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    };
    probe().into_iter().collect()
}

fn certificate_options(env: &Env) -> certificate::Options {
    let identity = Identity::new(
        env.or("TRUST_DOMAIN", "cluster.local"),
        env.text("POD_NAMESPACE"),
        env.or("SERVICE_ACCOUNT", "default"),
    );
    let curve = env.text("ECC_CURVE");
    certificate::Options {
        identity: identity.to_string(),
        ttl: env.duration("SECRET_TTL", DAY),
        key: match (env.text("ECC_SIGNATURE_ALGORITHM"), env.text("WORKLOAD_RSA_KEY_SIZE")) {
            ("ECDSA", _) if curve == "P384" => KeyAlgorithm::EcdsaP384,
            ("", "2048") => KeyAlgorithm::Rsa2048,
            _ => KeyAlgorithm::EcdsaP256,
        },
        rotation: RotationPolicy {
            grace: env.number("SECRET_GRACE_PERIOD_RATIO", pki::ROTATION_GRACE),
            jitter: env.number("SECRET_GRACE_PERIOD_RATIO_JITTER", pki::ROTATION_JITTER),
        },
        output: Some(env.text("OUTPUT_CERTS")).filter(|d| !d.is_empty()).map(PathBuf::from),
    }
}

/// Where there is no token, new xDS connections present the newest certificate, also when the CA is somewhere else.
fn keep_control_identified(control: &Arc<Control>, mut current: Current) {
    let control = Arc::clone(control);
    tokio::spawn(async move {
        loop {
            if let Some(workload) = current.borrow_and_update().clone() {
                control.set_workload(workload);
            }
            if current.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Writes `envoy-rev0.json`; a template is merged over the generated bootstrap, field by field.
fn write_bootstrap(dir: &Path, bootstrap: &Value, template: &str) -> anyhow::Result<PathBuf> {
    let mut bootstrap = bootstrap.clone();
    if !template.is_empty() {
        let text = std::fs::read_to_string(template).with_context(|| template.to_owned())?;
        merge(&mut bootstrap, api::yaml::parse(&text).with_context(|| template.to_owned())?);
    }
    let path = dir.join("envoy-rev0.json");
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&path, format!("{bootstrap:#}\n")))
        .with_context(|| path.display().to_string())?;
    Ok(path)
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// Worker threads: flag or configuration, else the number of processors; 0 means that too.
fn concurrency(args: &args::Proxy, config: &ProxyConfig) -> u32 {
    let said = args.concurrency.or_else(|| u32::try_from(config.number("/concurrency")?).ok());
    said.filter(|n| *n > 0).unwrap_or_else(|| std::thread::available_parallelism().map_or(2, |n| n.get() as u32))
}

/// What the status server is told: probes and metrics of the application from the environment, the rest from the agent.
fn status_options(
    env: &Env,
    config: &ProxyConfig,
    node: &Node,
    metrics: Arc<Metrics>,
    current: Current,
    names: Option<watch::Receiver<Arc<NameTable>>>,
) -> anyhow::Result<status::Options> {
    let admin = match env.text("PROA_ADMIN_SOCKET") {
        "" => format!("127.0.0.1:{}", config.port("/proxyAdminPort", 15000)),
        socket => format!("{}{socket}", request::UNIX),
    };
    let status_port = config.port("/statusPort", 15020);
    let address = node.id.split('~').nth(1).unwrap_or_default();
    let ipv6 = address.parse::<std::net::Ipv6Addr>().is_ok_and(|ip| !ip.is_unicast_link_local());
    let local: IpAddr = if ipv6 { PROBES_FROM_V6.into() } else { PROBES_FROM_V4.into() };
    let legacy = env.flag("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION");
    let scrape = match env.text("ISTIO_PROMETHEUS_ANNOTATIONS") {
        "" => None,
        // Port 15020 of a gateway is exposed, so it tells of nothing but the proxy.
        _ if !node.id.starts_with("sidecar~") => None,
        text => status::scrape::Config::parse(text, status_port)?,
    };
    let mut checks: Vec<status::Check> = Vec::new();
    if let Some(names) = names.clone() {
        checks.push(Box::new(move || match names.borrow().table.is_empty() {
            true => Err("istio DNS capture is turned ON and DNS lookup table is not ready yet".into()),
            false => Ok(()),
        }));
    }
    Ok(status::Options {
        has_proxy: true,
        proxy_metrics: (env.or("PILOT_AGENT_MERGE_ENVOY_STATS", "true") != "false").then(|| admin.clone()),
        admin,
        probers: status::probes::Probers::parse(env.text("ISTIO_KUBE_APP_PROBERS"))?,
        application: status::probes::Application {
            address: if legacy { "localhost".into() } else { address.to_owned() },
            local: Some(local),
            http2: env.or("ISTIO_ENABLE_HTTP2_PROBING", "true") != "false",
            status_port,
        },
        scrape,
        app_bytes_max: status::scrape::APP_BYTES_MAX,
        metrics_local_only: env.flag("METRICS_LOCALHOST_ACCESS_ONLY"),
        certificate: Some(current),
        names,
        checks,
        metrics,
    })
}

async fn serve_status(options: status::Options, started: Instant) -> anyhow::Result<Arc<Status>> {
    let port = options.application.status_port;
    let status = Status::new(options, started);
    let listener = match tokio::net::TcpListener::bind(("::", port)).await {
        Ok(listener) => listener,
        Err(_) => {
            tokio::net::TcpListener::bind(("0.0.0.0", port)).await.with_context(|| format!("status port {port}"))?
        }
    };
    let app = status::router(Arc::clone(&status)).into_make_service_with_connect_info::<std::net::SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    tracing::info!(target: "default", "Opening status port {port}");
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_template_overrides_single_fields() {
        let dir = tempfile::tempdir().unwrap();
        let template = dir.path().join("t.yaml");
        std::fs::write(&template, "admin:\n  profile_path: /x\n").unwrap();
        let base = json!({"admin": {"profile_path": "/y", "port": 1}, "node": {}});
        let file = write_bootstrap(&dir.path().join("proxy"), &base, template.to_str().unwrap()).unwrap();
        let written: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(written, json!({"admin": {"profile_path": "/x", "port": 1}, "node": {}}));
    }
}
