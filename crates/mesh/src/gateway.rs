//! How do requests get in from the machine? A listener opened in the machine's own network leads to a port of the ingress
//! gateway's pod. Bytes are passed on as they are; the gateway sees the mesh's address as the peer.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::supervisor::Supervisor;

/// Bytes held per direction.
const BUFFER: usize = 64 << 10;
/// How long a new connection waits for a gateway that is starting.
const START_WAIT: Duration = Duration::from_secs(5);

/// One port of the machine that leads into the mesh.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    /// Port of the gateway's pod.
    pub(crate) target: u16,
}

impl Door {
    /// Where requests enter, as `host:port`.
    pub(crate) fn address(&self) -> String {
        self.listener.local_addr().map(|address| address.to_string()).unwrap_or_default()
    }

    /// Accepts for as long as the mesh lives.
    pub(crate) fn serve(&self, supervisor: Rc<Supervisor>) -> io::Result<impl Future<Output = ()> + use<>> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let target = self.target;
        Ok(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let supervisor = Rc::clone(&supervisor);
                tokio::task::spawn_local(async move {
                    let _ = relay(client, target, &supervisor).await;
                });
            }
        })
    }
}

async fn relay(mut client: TcpStream, port: u16, supervisor: &Supervisor) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + START_WAIT;
    let address = loop {
        match supervisor.ingress() {
            Some(address) => break address,
            None if tokio::time::Instant::now() > deadline => {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            None => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let mut gateway = TcpStream::connect(SocketAddr::from((address, port))).await?;
    let _ = client.set_nodelay(true);
    let _ = gateway.set_nodelay(true);
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut gateway, BUFFER, BUFFER).await.map(drop)
}
