//! The story of one control plane process: read, derive, listen, serve, stop.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use ca::{Authenticator, CertificateService, CurrentAuthority, PeerCertificates};
use model::MeshConfig;
use pki::{KeyAlgorithm, TokenKey};
use protos::istio::v1::auth::istio_certificate_service_server::IstioCertificateServiceServer;
use source_file::{FileSource, Options};
use telemetry::log::istio::Levels;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::transport::Server;
use tonic::{Extensions, metadata::MetadataMap};
use xds_server::{AdsService, Authenticate, Hub};

use crate::args::Discovery;
use crate::env::Env;
use crate::source::ModelSource;
use crate::world::{INPUTS_MAX, Input, World};
use crate::{certificate, http, tls, webhook, world};

/// How often the mesh configuration and the token keys are read again.
const FILES_EVERY: Duration = Duration::from_secs(1);
/// Window of HTTP/2 flow control, so that a large configuration needs few round trips.
const WINDOW_BYTES: u32 = 4 << 20;

/// What HTTP pages look at.
pub struct Shared {
    pub world: Arc<World>,
    pub hub: Arc<Hub<ModelSource>>,
    pub ca_metrics: Arc<ca::Metrics>,
    pub authority: Arc<CurrentAuthority>,
    pub ready: AtomicBool,
    pub started: Instant,
    pub cluster_id: String,
    pub push_status: crate::push_status::Kept,
    pub webhooks: crate::webhook::Counters,
}

/// Runs the control plane until a signal stops it.
pub fn discovery(args: Discovery) -> anyhow::Result<()> {
    telemetry::log::istio::init(telemetry::log::istio::Options {
        levels: Levels::parse(&args.log.log_output_level)?,
        json: args.log.log_as_json,
        stdout: !args.log.log_target.iter().any(|t| t == "stderr"),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("discovery").enable_all().build()?;
    runtime.block_on(serve(args))
}

async fn serve(args: Discovery) -> anyhow::Result<()> {
    let started = Instant::now();
    let env = Env::read(|name| std::env::var(name).ok());
    tracing::info!(target: "default", "initializing Istiod admin server");
    let mesh = read_mesh(&args, &env)?.unwrap_or_else(|| adjust(MeshConfig::default(), &args, &env));
    tracing::info!(target: "default", "Mesh configuration: rootNamespace {}, trustDomain {}", mesh.root_namespace, mesh.trust_domain);
    tracing::info!(target: "default", "Primary Cluster name: {}", args.cluster_id);

    let trust_domain = mesh.trust_domain.clone();
    let aliases = mesh.trust_domain_aliases.clone();
    let authority = ca::load_or_create(&env.ca_dir, &trust_domain, KeyAlgorithm::EcdsaP256, SystemTime::now())?;
    tracing::info!(target: "pkica", "Using CA of {} until {}", env.ca_dir.display(), timestamp(authority.not_after()));
    let authority = CurrentAuthority::new(authority);
    let keys = read_token_keys(&env)?;
    let authenticator = Arc::new(Authenticator::new(&trust_domain, aliases, authority.trusted(), keys));
    let ca = CertificateService::new(Arc::clone(&authority), Arc::clone(&authenticator), env.ttl);

    let (rate, burst) = env.stream_limits();
    let options = xds_server::Options {
        identifier: format!(
            "{{\"Component\":\"istiod\",\"ID\":\"{}\",\"Info\":{{\"version\":\"{}\"}}}}",
            env.pod_name,
            crate::VERSION
        ),
        streams_per_second: rate,
        streams_burst: burst,
        max_age: Some(args.keepalive_max_server_connection_age).filter(|d| !d.is_zero()),
        ..xds_server::Options::default()
    };
    let world = World::new(mesh);
    let hub = Hub::new(Arc::new(ModelSource::new(Arc::clone(&world))), options);
    tracing::info!(target: "ads", "Starting ADS server with throttle={rate} burst={burst}");
    let shared = Arc::new(Shared {
        world: Arc::clone(&world),
        hub: Arc::clone(&hub),
        ca_metrics: ca.metrics(),
        authority: Arc::clone(&authority),
        ready: AtomicBool::new(false),
        started,
        cluster_id: args.cluster_id.clone(),
        push_status: Default::default(),
        webhooks: Default::default(),
    });

    // HTTP first, so that /ready can say "not yet".
    let web = http::router(Arc::clone(&shared));
    let mut listening = Vec::new();
    for (name, address) in [("http", &args.http_addr), ("monitoring", &args.monitoring_addr)] {
        if let Some(listener) = bind(address).await? {
            listening.push(format!("{name}={}", shown(address)));
            let web = web.clone();
            tokio::spawn(async move { axum::serve(listener, web).await });
        }
    }

    let inputs = read_sources(&args, &env, &world).await?;
    world.publish();
    tokio::spawn(world::run(Arc::clone(&world), inputs, Arc::clone(&hub), env.debounce));
    tokio::spawn(crate::memory::tend(Arc::clone(&hub)));
    tokio::spawn(crate::jwks::run(Arc::clone(&shared)));
    tokio::spawn(watch_token_keys(env.clone(), Arc::clone(&authenticator)));

    let ads = |tls: bool| {
        AdsService::server(Arc::clone(&hub), xds_authenticator(Arc::clone(&authenticator), tls && env.xds_auth))
    };
    if let Some(listener) = bind(&args.grpc_addr).await? {
        listening.push(format!("grpc={}", shown(&args.grpc_addr)));
        let server = grpc(&args).add_service(ads(false));
        tokio::spawn(server.serve_with_incoming(tls::accept(listener, None)));
    }
    let (secure, https) = (bind(&args.secure_grpc_addr).await?, bind(&args.https_addr).await?);
    if secure.is_some() || https.is_some() {
        let (changed, on_change) = watch::channel(0);
        let certificate = own_certificate(&args, &env, &authority, &world, on_change)?;
        let config = tls::server_config(Arc::clone(&certificate), &authority.trusted())?;
        let config = Arc::new(ArcSwap::new(config));
        if let Some(listener) = https {
            listening.push(format!("https={}", shown(&args.https_addr)));
            let settings = Arc::new(ArcSwap::new(tls::web_config(Arc::clone(&certificate))?));
            let web = webhook::router(Arc::clone(&shared), &args.namespace, &env.revision);
            let accepted = tls::Accepted::new(listener, settings)?;
            tokio::spawn(async move { axum::serve(accepted, web).await });
        }
        tokio::spawn(watch_ca(
            env.clone(),
            Arc::clone(&authority),
            Arc::clone(&authenticator),
            (certificate, Arc::clone(&config)),
            changed,
        ));
        if let Some(listener) = secure {
            listening.push(format!("secureGrpc={}", shown(&args.secure_grpc_addr)));
            let server = grpc(&args).add_service(ads(true)).add_service(IstioCertificateServiceServer::new(ca));
            tokio::spawn(server.serve_with_incoming(tls::accept(listener, Some(config))));
        }
    }
    shared.ready.store(true, Ordering::Release);
    tracing::info!(target: "default", "Discovery service started at {}", listening.join(" "));
    tracing::info!(target: "default", "All caches have been synced up in {:?}, marking server ready", started.elapsed());

    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = term.recv() => {} _ = int.recv() => {} }
    tracing::info!(target: "default", "Shutting down: {} streams open", hub.len());
    hub.drain();
    let deadline = tokio::time::Instant::now() + args.shutdown_duration;
    while !hub.is_empty() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn grpc(args: &Discovery) -> Server {
    Server::builder()
        .initial_connection_window_size(WINDOW_BYTES)
        .initial_stream_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(args.keepalive_interval))
        .http2_keepalive_timeout(Some(args.keepalive_timeout))
}

fn xds_authenticator(authenticator: Arc<Authenticator>, required: bool) -> impl Authenticate {
    move |metadata: &MetadataMap, extensions: &Extensions| {
        if !required {
            return Ok(Vec::new());
        }
        let peer = extensions.get::<PeerCertificates>();
        let caller = authenticator.authenticate(metadata, peer, SystemTime::now());
        let caller = caller.inspect_err(|error| tracing::warn!(target: "ads", "authentication failed: {error}"))?;
        Ok(caller.identities)
    }
}

fn own_certificate(
    args: &Discovery,
    env: &Env,
    authority: &Arc<CurrentAuthority>,
    world: &World,
    changed: watch::Receiver<u64>,
) -> anyhow::Result<Arc<certificate::Current>> {
    if let Some(cert) = &args.tls_cert_file {
        let key = args.tls_key_file.as_ref().context("--tlsCertFile needs --tlsKeyFile")?;
        return certificate::from_files(cert, key);
    }
    let domain = &world.snapshot().mesh.domain;
    let names = certificate::dns_names(&args.namespace, domain, &env.revision, &env.custom_hosts);
    let (current, renew) = certificate::issue(&authority.load(), &names)?;
    tokio::spawn(certificate::keep_fresh(Arc::clone(&current), Arc::clone(authority), names, renew, changed));
    Ok(current)
}

/// Starts the sources and waits until the first reading is applied.
async fn read_sources(args: &Discovery, env: &Env, world: &Arc<World>) -> anyhow::Result<mpsc::Receiver<Input>> {
    let (sender, mut inputs) = mpsc::channel(INPUTS_MAX);
    tokio::spawn(watch_mesh(args.clone(), env.clone(), sender.clone()));
    if args.config_dir.is_empty() {
        tracing::warn!(target: "default", "no --configDir: there is no configuration source");
        return Ok(inputs);
    }
    for dir in &args.config_dir {
        tracing::info!(target: "default", "Service controller watching directory {:?} for service, endpoint, nodes and pods", dir.display());
    }
    let source = FileSource::new(args.config_dir.clone(), Options::default());
    let handle = source_file::watch(source, move |batch| sender.blocking_send(Input::Files(batch)).is_ok());
    // The watch lives as long as the process.
    std::mem::forget(handle);
    tracing::info!(target: "default", "Setting up event handlers");
    while let Some(input) = inputs.recv().await {
        let initial = matches!(&input, Input::Files(batch) if batch.initial);
        world.apply(input);
        if initial {
            break;
        }
    }
    Ok(inputs)
}

/// Reads the mesh configuration again and again; what is broken is reported and the last good one stays.
async fn watch_mesh(args: Discovery, env: Env, sender: mpsc::Sender<Input>) {
    let mut last = std::fs::read(&args.mesh_config).ok();
    loop {
        tokio::time::sleep(FILES_EVERY).await;
        let now = std::fs::read(&args.mesh_config).ok();
        if now == last {
            continue;
        }
        last = now;
        match read_mesh(&args, &env) {
            Ok(Some(mesh)) => {
                tracing::info!(target: "default", "mesh configuration updated");
                if sender.send(Input::Mesh(Box::new(mesh))).await.is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::error!(target: "default", "mesh configuration not updated: {error:#}")
            }
        }
    }
}

/// `None`: there is no file.
fn read_mesh(args: &Discovery, env: &Env) -> anyhow::Result<Option<MeshConfig>> {
    let path = &args.mesh_config;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| path.display().to_string()),
    };
    let value = api::yaml::parse(&text).with_context(|| path.display().to_string())?;
    if !value.is_object() && !value.is_null() {
        bail!("{}: not a mesh configuration", path.display());
    }
    Ok(Some(adjust(MeshConfig::from_json(&value), args, env)))
}

/// Flags and environment over the file.
fn adjust(mut mesh: MeshConfig, args: &Discovery, env: &Env) -> MeshConfig {
    mesh.domain.clone_from(&args.domain);
    if mesh.root_namespace.is_empty() {
        mesh.root_namespace.clone_from(&args.namespace);
    }
    if let Some(domain) = &env.trust_domain {
        mesh.trust_domain.clone_from(domain);
    }
    mesh.filter_gateway_clusters = env.filter_gateway_clusters;
    if let Some(percent) = env.trace_sampling {
        mesh.set_default_sampling(percent);
    }
    mesh
}

fn read_token_keys(env: &Env) -> anyhow::Result<Vec<TokenKey>> {
    let Some(path) = &env.token_keys else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    TokenKey::from_jwks(&text).with_context(|| path.display().to_string())
}

async fn watch_token_keys(env: Env, authenticator: Arc<Authenticator>) {
    let Some(path) = env.token_keys.clone() else {
        return;
    };
    let mut last = std::fs::read(&path).ok();
    loop {
        tokio::time::sleep(FILES_EVERY).await;
        let now = std::fs::read(&path).ok();
        if now != last {
            last = now;
            match read_token_keys(&env) {
                Ok(keys) => authenticator.set_keys(keys),
                Err(error) => {
                    tracing::error!(target: "security", "token keys not updated: {error:#}")
                }
            }
        }
    }
}

/// Follows the CA's directory: other material that is plugged in, and our own root when its end is near. Whoever holds a
/// leaf of before goes on being trusted.
async fn watch_ca(
    env: Env,
    authority: Arc<CurrentAuthority>,
    authenticator: Arc<Authenticator>,
    (certificate, settings): (Arc<certificate::Current>, tls::Settings),
    changed: watch::Sender<u64>,
) {
    let files = |dir: &Path| -> Vec<Option<Vec<u8>>> {
        let names = ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem", "tls.key", "tls.crt", "ca.crt"];
        names.iter().map(|n| std::fs::read(dir.join(n)).ok()).collect()
    };
    let mut last = files(&env.ca_dir);
    loop {
        tokio::time::sleep(FILES_EVERY).await;
        let now = files(&env.ca_dir);
        let next = if now == last {
            ca::renew(&env.ca_dir, &authority.load(), SystemTime::now())
        } else {
            ca::load(&env.ca_dir)
        };
        last = files(&env.ca_dir);
        let next = match next {
            Ok(Some(next)) => next,
            Ok(None) => continue,
            // Half of a change may be there only; the next look finds the rest.
            Err(error) => {
                tracing::error!(target: "pkica", "CA not updated: {error}");
                continue;
            }
        };
        tracing::info!(target: "pkica", "Using CA of {} until {}", env.ca_dir.display(), timestamp(next.not_after()));
        authority.replace(next);
        let trusted = authority.trusted();
        match tls::server_config(Arc::clone(&certificate), &trusted) {
            Ok(config) => settings.store(config),
            Err(error) => tracing::error!(target: "pkica", "roots not updated: {error:#}"),
        }
        authenticator.set_roots(trusted);
        changed.send_modify(|n| *n += 1);
    }
}

/// Binds `:port`, `host:port` or nothing (empty).
async fn bind(address: &str) -> anyhow::Result<Option<TcpListener>> {
    if address.is_empty() {
        return Ok(None);
    }
    let bound = match address.strip_prefix(':') {
        // Both families if the kernel has IPv6.
        Some(port) => match TcpListener::bind(format!("[::]:{port}")).await {
            Ok(listener) => Ok(listener),
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(e),
            Err(_) => TcpListener::bind(format!("0.0.0.0:{port}")).await,
        },
        None => TcpListener::bind(address).await,
    };
    Ok(Some(bound.with_context(|| format!("listening on {address}"))?))
}

/// Istio prints `[::]:8080` for `:8080`.
fn shown(address: &str) -> String {
    if address.starts_with(':') { format!("[::]{address}") } else { address.to_owned() }
}

fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|t| t.to_string()).unwrap_or_default()
}

/// `pilot-discovery request METHOD PATH`: asks the local monitoring port and prints the body.
pub fn request(method: &str, path: &str) -> anyhow::Result<()> {
    let address: SocketAddr = ([127, 0, 0, 1], names::ports::MONITORING).into();
    let mut stream = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let path = Path::new("/").join(path);
    write!(stream, "{method} {} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n", path.display())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").context("no HTTP response")?;
    let ok = answer.get(9..12).is_some_and(|code| code.starts_with(b"2"));
    std::io::stdout().write_all(&answer[end + 4..])?;
    if !ok {
        bail!("received unsuccessful status code {}", String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()));
    }
    Ok(())
}
