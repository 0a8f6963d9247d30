//! How is the control plane reached? A gRPC channel over TLS to istiod: server name checked against the trust anchor, the
//! service account's token with every request, and where there is none our workload certificate.

use std::collections::BTreeMap;
use std::io;
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::certificate::Workload;

/// Longest connecting, handshake included.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Where trust anchors are looked for, in Istio's order.
const ROOTS: &[&str] =
    &["/etc/certs/root-cert.pem", "./var/run/secrets/istio/root-cert.pem", "/var/run/secrets/istio/root-cert.pem"];
/// Where the service-account token is.
const TOKENS: &[&str] = &["./var/run/secrets/tokens/istio-token", "/var/run/secrets/tokens/istio-token"];

/// The control plane as this agent reaches it.
#[derive(Debug)]
pub struct Control {
    address: String,
    host: String,
    tls: bool,
    roots: PathBuf,
    token: Option<PathBuf>,
    headers: BTreeMap<String, String>,
    workload: RwLock<Option<Arc<Workload>>>,
}

/// A connection, with or without TLS.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Control {
    /// `address` is `host:port`; without TLS where `plain` or the port is 15010. `headers` go with every request.
    pub fn new(
        address: &str,
        plain: bool,
        roots: Option<PathBuf>,
        headers: BTreeMap<String, String>,
    ) -> anyhow::Result<Arc<Self>> {
        let (host, port) =
            address.rsplit_once(':').with_context(|| format!("{address:?}: not of the form host:port"))?;
        let first = |paths: &[&str]| paths.iter().map(PathBuf::from).find(|p| p.exists());
        Ok(Arc::new(Control {
            address: address.to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            tls: !plain && port != "15010",
            roots: roots.or_else(|| first(ROOTS)).unwrap_or_else(|| ROOTS[ROOTS.len() - 1].into()),
            token: first(TOKENS),
            headers,
            workload: RwLock::new(None),
        }))
    }

    /// The file of the trust anchor.
    pub fn roots(&self) -> &Path {
        &self.roots
    }

    /// From now on new connections present this certificate.
    pub fn set_workload(&self, workload: Arc<Workload>) {
        *self.workload.write().unwrap_or_else(|e| e.into_inner()) = Some(workload);
    }

    /// A channel that connects when used and again when broken.
    pub fn channel(self: &Arc<Self>) -> Channel {
        let control = Arc::clone(self);
        // The connector decides about TLS; for tonic all is plain.
        Endpoint::from_shared(format!("http://{}", self.address))
            .unwrap_or_else(|_| Endpoint::from_static("http://istiod.invalid:15012"))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .initial_connection_window_size(4 << 20)
            .initial_stream_window_size(4 << 20)
            .connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let control = Arc::clone(&control);
                async move { control.connect().await.map(TokioIo::new).map_err(io::Error::other) }
            }))
    }

    /// What goes with a request: the token, read anew because it is rotated on disk (not on plain connections), and the
    /// environment's headers.
    pub fn metadata(&self) -> Vec<(String, String)> {
        let token = self.token.as_ref().filter(|_| self.tls).and_then(|file| std::fs::read_to_string(file).ok());
        let token = token.map(|token| ("authorization".to_owned(), format!("Bearer {}", token.trim())));
        let headers = self.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone()));
        token.into_iter().chain(headers).collect()
    }

    /// Puts [`Control::metadata`] on a request; what cannot stand in a header is left out.
    pub fn identify<T>(&self, request: &mut tonic::Request<T>) {
        for (name, value) in self.metadata() {
            if let (Ok(name), Ok(value)) = (MetadataKey::from_bytes(name.as_bytes()), value.parse()) {
                let _: Option<MetadataValue<Ascii>> = request.metadata_mut().insert(name, value);
            }
        }
    }

    /// Opens a connection; all of it may take [`CONNECT_MAX`].
    ///
    /// # Errors
    /// Which step failed.
    pub async fn connect(&self) -> anyhow::Result<Box<dyn Io>> {
        tokio::time::timeout(CONNECT_MAX, self.connect_now())
            .await
            .unwrap_or_else(|_| bail!("{}: not connected within {CONNECT_MAX:?}", self.address))
    }

    async fn connect_now(&self) -> anyhow::Result<Box<dyn Io>> {
        // The system's resolver, in a thread: it knows search domains and /etc/hosts.
        let address = self.address.clone();
        let addresses = tokio::task::spawn_blocking(move || address.to_socket_addrs().map(Vec::from_iter)).await?;
        let addresses = addresses.with_context(|| format!("resolving {}", self.address))?;
        let stream =
            TcpStream::connect(&*addresses).await.with_context(|| format!("connecting to {}", self.address))?;
        stream.set_nodelay(true)?;
        if !self.tls {
            return Ok(Box::new(stream));
        }
        let name =
            ServerName::try_from(self.host.clone()).with_context(|| format!("{:?} is no server name", self.host))?;
        let stream = TlsConnector::from(self.tls_config()?).connect(name, stream).await;
        Ok(Box::new(stream.with_context(|| format!("TLS handshake with {}", self.address))?))
    }

    fn tls_config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let text = std::fs::read(&self.roots).with_context(|| format!("trust anchor {}", self.roots.display()))?;
        let mut store = RootCertStore::empty();
        for root in pki::pem::certificates(&text)? {
            store.add(root)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(store);
        // A token says who we are by itself; a certificate of an earlier root would only be in its way.
        let workload = self.workload.read().unwrap_or_else(|e| e.into_inner()).clone();
        let workload = workload.filter(|_| self.token.is_none());
        let mut config = match workload {
            Some(w) => builder.with_client_auth_cert(w.chain.certs.clone(), w.key.to_der())?,
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}
