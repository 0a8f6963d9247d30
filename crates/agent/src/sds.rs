//! Who gives the proxy its certificates? A secret discovery service: `default` (the workload's certificate and key), `ROOTCA`
//! (trusted roots), and files (`file-cert:CERT~KEY`, `file-root:CA`). On a Unix socket for a separate proxy and for
//! applications, and from memory for our own proxy in this process.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use prost::Message as _;
use protos::envoy::config::core::v3::{DataSource, data_source::Specifier};
use protos::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use protos::envoy::service::discovery::v3 as discovery;
use protos::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use xds::server::{Event, Kind, Resource, ResourceSet, Want};

use crate::certificate::{Current, Workload};
use crate::stream::{self, Delta, Dialect, Sotw, Source};

/// The workload's certificate and key.
pub const WORKLOAD: &str = "default";
/// The trusted roots.
pub const ROOT: &str = "ROOTCA";
/// How often files are looked at.
const FILES_EVERY: Duration = Duration::from_secs(2);
/// Connections of our own proxy that wait to be served.
const CONNECTIONS_MAX: usize = 4;
/// Bytes on their way between our own proxy and its secrets.
const MEMORY_PIPE_BYTES: usize = 16 << 10;

/// Whose secrets a socket gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// This agent's.
    Here,
    /// Those of another program that listens already (SPIRE's agent): the proxy is to ask it.
    ByAnother,
}

/// Serves secrets on `socket` until the process ends, unless somebody else does; if `private`, to our own user alone.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(socket: &Path, private: bool, current: Current) -> io::Result<Served> {
    let listener = match crate::unix::bind(socket, private) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            tracing::info!(target: "sds", "Existing workload SDS socket found at {}. Default Istio SDS Server will not be started", socket.display());
            return Ok(Served::ByAnother);
        }
        other => other?,
    };
    let service = SecretDiscoveryServiceServer::new(Secrets { current });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(listener.connections()).await {
            tracing::error!(target: "sds", "SDS server: {error}");
        }
    });
    tracing::info!(target: "sds", "SDS server for workload certificates started, listening on {:?}", socket.display());
    Ok(Served::Here)
}

/// Serves secrets in this process; each sent end of a pipe is one connection.
pub fn serve_in_memory(current: Current) -> mpsc::Sender<io::Result<DuplexStream>> {
    let (sender, receiver) = mpsc::channel(CONNECTIONS_MAX);
    let service = SecretDiscoveryServiceServer::new(Secrets { current });
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(ReceiverStream::new(receiver)).await {
            tracing::error!(target: "sds", "SDS in memory: {error}");
        }
    });
    sender
}

/// A connection to [`serve_in_memory`]'s server.
///
/// # Errors
/// The agent is ending.
pub async fn connect(server: &mpsc::Sender<io::Result<DuplexStream>>) -> io::Result<DuplexStream> {
    let (own, theirs) = tokio::io::duplex(MEMORY_PIPE_BYTES);
    server.send(Ok(theirs)).await.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
    Ok(own)
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

/// The secrets of one stream.
struct Own {
    current: Current,
    /// Some of them are in files.
    files: bool,
}

impl Source for Own {
    fn make(&mut self, want: &Want<'_>) -> Option<ResourceSet> {
        let workload = self.current.borrow().clone();
        self.files = want.names.iter().any(|name| name.starts_with("file-"));
        let made = want.names.iter().filter_map(|name| secret(name, workload.as_deref()));
        let set: ResourceSet = made.map(|s| Resource::new(s.name.as_str(), s.encode_to_vec())).collect();
        // A certificate that is still on its way is not missing.
        (!set.is_empty() || workload.is_some()).then_some(set)
    }

    fn check(&mut self, event: &Event) -> Result<(), Status> {
        if event.kind != Kind::Secret {
            return Err(Status::invalid_argument("only secrets are served here"));
        }
        if let Some(Err(reason)) = &event.answer {
            tracing::warn!(target: "sds", "proxy refused a secret: {reason}");
        }
        Ok(())
    }

    fn looks_again(&self) -> bool {
        self.files
    }
}

type Answers<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

impl Secrets {
    fn open<D: Dialect>(&self, inbound: Streaming<D::Request>) -> Response<Answers<D::Response>> {
        let (sender, receiver) = mpsc::channel(1);
        let current = self.current.clone();
        tokio::spawn(async move {
            let source = Own { current: current.clone(), files: false };
            let served = stream::serve::<D, _, _>(None, inbound, &sender, source, Some(current), Some(FILES_EVERY));
            if let Err(status) = served.await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receiver)))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream = Answers<discovery::DeltaDiscoveryResponse>;
    async fn delta_secrets(
        &self,
        request: Request<Streaming<discovery::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Ok(self.open::<Delta>(request.into_inner()))
    }

    type StreamSecretsStream = Answers<discovery::DiscoveryResponse>;
    async fn stream_secrets(
        &self,
        request: Request<Streaming<discovery::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        Ok(self.open::<Sotw>(request.into_inner()))
    }

    async fn fetch_secrets(
        &self,
        _: Request<discovery::DiscoveryRequest>,
    ) -> Result<Response<discovery::DiscoveryResponse>, Status> {
        Err(Status::unimplemented("use the stream"))
    }
}
