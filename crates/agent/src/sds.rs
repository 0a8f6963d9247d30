//! Who gives the proxy its certificates? A secret discovery service on a Unix socket: `default` (the workload's
//! certificate and key), `ROOTCA` (trusted roots), and files (`file-cert:CERT~KEY`, `file-root:CA`).

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use protos::envoy::config::core::v3::{DataSource, data_source::Specifier};
use protos::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use protos::envoy::service::discovery::v3 as discovery;
use protos::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use xds::server::{Kind, Protocol, Push, Resource, ResourceSet, Stream as Machine};

use crate::certificate::{Current, Workload};

/// The workload's certificate and key.
pub const WORKLOAD: &str = "default";
/// The trusted roots.
pub const ROOT: &str = "ROOTCA";
/// How often files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(2);

/// Serves secrets on `socket` until the process ends.
pub fn serve(socket: &Path, current: Current) -> std::io::Result<()> {
    let listener = crate::unix::bind(socket)?;
    let service = SecretDiscoveryServiceServer::new(Secrets { current });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(UnixListenerStream::new(listener)).await {
            tracing::error!(target: "sds", "SDS server: {error}");
        }
    });
    tracing::info!(target: "sds", "SDS server for workload certificates started, listening on {:?}", socket.display());
    Ok(())
}

/// Makes the named secret; `None`: it is not there (yet).
pub fn secret(name: &str, workload: Option<&Workload>) -> Option<Secret> {
    let inline =
        |bytes: Vec<u8>| Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes)), ..Default::default() });
    let certificate = |chain, key| {
        secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(chain),
            private_key: inline(key),
            ..Default::default()
        })
    };
    let roots = |pem| {
        secret::Type::ValidationContext(CertificateValidationContext { trusted_ca: inline(pem), ..Default::default() })
    };
    let read = |path: &str| std::fs::read(path).ok();
    let found = match name {
        WORKLOAD => workload.map(|w| certificate(w.chain.to_pem().into_bytes(), w.key.to_pem().into_bytes()))?,
        ROOT => workload.map(|w| roots(w.roots.clone().into_bytes()))?,
        _ => {
            if let Some(path) = name.strip_prefix("file-root:") {
                roots(read(path)?)
            } else {
                let (cert, key) = name.strip_prefix("file-cert:")?.split_once('~')?;
                certificate(read(cert)?, read(key)?)
            }
        }
    };
    Some(Secret { name: name.to_owned(), r#type: Some(found) })
}

struct Secrets {
    current: Current,
}

type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

impl Secrets {
    fn open<Q: Send + 'static, R: Send + 'static>(
        &self,
        protocol: Protocol,
        inbound: Streaming<Q>,
        feed: fn(&mut Machine, &Q) -> Result<(), Status>,
        encode: fn(&Push) -> R,
    ) -> Response<Answers<R>> {
        let (sender, receiver) = mpsc::channel(1);
        let current = self.current.clone();
        tokio::spawn(async move {
            if let Err(status) = stream(protocol, inbound, &sender, current, feed, encode).await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

async fn stream<Q, R>(
    protocol: Protocol,
    mut inbound: Streaming<Q>,
    sender: &mpsc::Sender<Result<R, Status>>,
    mut current: Current,
    feed: fn(&mut Machine, &Q) -> Result<(), Status>,
    encode: fn(&Push) -> R,
) -> Result<(), Status> {
    let start = Instant::now();
    let mut machine = Machine::new(protocol);
    let mut files = tokio::time::interval(FILES_EVERY);
    loop {
        while let Some(want) = machine.wants() {
            let workload = current.borrow().clone();
            let made = want.names.iter().filter_map(|name| secret(name, workload.as_deref()));
            let set: ResourceSet = made.map(|s| Resource::new(s.name.as_str(), s.encode_to_vec())).collect();
            // A certificate that is still on its way is not missing: the proxy waits without an answer.
            if set.is_empty() && workload.is_none() {
                break;
            }
            let kind = want.kind;
            machine.set_target(kind, Arc::new(set));
        }
        while let Some(push) = machine.poll(start.elapsed()) {
            if sender.send(Ok(encode(&push))).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            message = inbound.next() => match message {
                Some(Ok(request)) => feed(&mut machine, &request)?,
                Some(Err(_)) | None => return Ok(()),
            },
            changed = current.changed() => match changed {
                Ok(()) => machine.invalidate(|_| true),
                Err(_) => return Err(Status::unavailable("agent is stopping")),
            },
            _ = files.tick() => machine.invalidate(|_| true),
        }
    }
}

fn check(event: Result<xds::server::Event, xds::server::Refused>) -> Result<(), Status> {
    match event {
        Ok(event) if event.kind != Kind::Secret => Err(Status::invalid_argument("only secrets are served here")),
        Ok(event) => {
            if let Some(Err(reason)) = event.answer {
                tracing::warn!(target: "sds", "proxy refused a secret: {reason}");
            }
            Ok(())
        }
        Err(refused) => Err(Status::invalid_argument(refused.to_string())),
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = Answers<discovery::DeltaDiscoveryResponse>;
    async fn delta_secrets(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(self.open(Protocol::Delta, request.into_inner(), |m, r| check(m.on_delta(r)), Push::to_delta))
    }

    type StreamSecretsStream = Answers<discovery::DiscoveryResponse>;
    async fn stream_secrets(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(self.open(Protocol::Sotw, request.into_inner(), |m, r| check(m.on_sotw(r)), Push::to_sotw))
    }

    async fn fetch_secrets(
        &self,
        _: Request<discovery::DiscoveryRequest>,
    ) -> Result<Response<discovery::DiscoveryResponse>, Status> {
        Err(Status::unimplemented("use the stream"))
    }
}
