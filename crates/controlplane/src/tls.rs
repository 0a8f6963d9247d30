//! How does a TLS connection to 15012 or 15017 begin? Handshake with an optional client certificate, which is attached to
//! every request of the connection. A slow or broken handshake delays nobody else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use ca::PeerCertificates;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::certificate::Current;

/// Longest handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Most handshakes under way at once; further connections wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 512;

/// Client certificates are asked for and, if given, must lead to `roots`. ALPN: HTTP/2.
pub fn server_config(
    certificate: Arc<Current>,
    roots: &[CertificateDer<'static>],
) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// For HTTPS to people and the API server: no client certificates, HTTP/1.1.
pub fn web_config(certificate: Arc<Current>) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connections of an HTTPS port after their handshakes.
pub struct Accepted {
    connections: ReceiverStream<io::Result<Connection>>,
    address: SocketAddr,
}

impl Accepted {
    /// Of this listener.
    pub fn new(listener: TcpListener, settings: Settings) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Accepted { connections: accept(listener, Some(settings)), address })
    }
}

impl axum::serve::Listener for Accepted {
    type Io = Connection;
    /// Ours: nobody asks for the peer's.
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.connections.next().await {
                Some(Ok(connection)) => return (connection, self.address),
                Some(Err(error)) => tracing::debug!(target: "server", "{error}"),
                // The accepting task lives as long as we listen.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// An accepted connection, with or without TLS.
pub enum Connection {
    /// Port 15010.
    Plain(TcpStream),
    /// Ports 15012 and 15017.
    Tls(Box<TlsStream<TcpStream>>, PeerCertificates),
}

impl Connected for Connection {
    type ConnectInfo = PeerCertificates;
    fn connect_info(&self) -> PeerCertificates {
        match self {
            Connection::Plain(_) => PeerCertificates::default(),
            Connection::Tls(_, peer) => peer.clone(),
        }
    }
}

/// Settings of handshakes, exchanged when other roots are trusted.
pub type Settings = Arc<ArcSwap<ServerConfig>>;

/// Accepts until the receiver is dropped. `tls`: handshake first.
pub fn accept(listener: TcpListener, tls: Option<Settings>) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(16);
    let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = sender.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, or the peer was gone before we came.
                    tracing::warn!(target: "server", "accept: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            let (sender, tls) = (sender.clone(), tls.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let connection = match tls {
                    None => Connection::Plain(stream),
                    Some(config) => match handshake(stream, config.load_full()).await {
                        Ok(connection) => connection,
                        Err(error) => {
                            return tracing::debug!(target: "server", "TLS handshake: {error}");
                        }
                    },
                };
                let _ = sender.send(Ok(connection)).await;
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn handshake(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<Connection> {
    let stream = tokio::time::timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(stream)).await??;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
    let chain = chain.into_iter().map(CertificateDer::into_owned).collect();
    Ok(Connection::Tls(Box::new(stream), PeerCertificates { chain: Arc::new(chain), tls: true }))
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Connection::Tls(s, _) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Connection::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Connection::Tls(s, _) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(s) => Pin::new(s).poll_flush(cx),
            Connection::Tls(s, _) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Connection::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Connection::Tls(s, _) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
