//! How is a Unix socket bound again after a crash, and who may connect to it? Removes what a dead process left; a live one is an
//! error. Open to everybody in the pod as Istio's, because the proxy may run as another user, or to the agent's own user alone.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};

/// A socket that listens.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    /// The only user that may connect.
    only: Option<u32>,
}

/// Binds `path`, replacing a socket nobody listens on. `private`: for processes of this process's user alone, by the file's mode
/// and, as a mode is set only after binding, by what the kernel says of each peer.
///
/// # Errors
/// Another process serves the path (`AddrInUse`), or the directory cannot be written to.
pub fn bind(path: &Path, private: bool) -> io::Result<Socket> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("{}: another process serves it", path.display()),
            ));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    let mode = if private { 0o600 } else { 0o666 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    // A file that we made is ours.
    let only = if private { Some(std::fs::metadata(path)?.uid()) } else { None };
    Ok(Socket { listener, only })
}

impl Socket {
    /// Connections as they come; those of users that may not are closed.
    pub fn connections(self) -> impl Stream<Item = io::Result<UnixStream>> {
        let Socket { listener, only } = self;
        UnixListenerStream::new(listener).filter(move |accepted| match accepted {
            Ok(stream) => may_connect(only, stream.peer_cred().ok().map(|peer| peer.uid())),
            Err(_) => true,
        })
    }
}

fn may_connect(only: Option<u32>, peer: Option<u32>) -> bool {
    only.is_none() || only == peer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_private_socket_takes_the_own_user_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/socket");
        let socket = bind(&path, true).expect("bound");
        let only = socket.only;
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path, true).expect_err("served").kind(), io::ErrorKind::AddrInUse);
        let mut connections = std::pin::pin!(socket.connections());
        let _own = UnixStream::connect(&path).await.expect("connected");
        assert!(connections.next().await.is_some_and(|accepted| accepted.is_ok()));

        let other = only.map(|user| user + 1);
        assert!(may_connect(only, only) && !may_connect(only, other) && !may_connect(only, None));
        assert!(may_connect(None, other));
    }
}
