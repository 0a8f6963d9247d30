//! How do commands talk to a running mesh? Length-prefixed JSON over a Unix socket in its state folder; descriptors
//! travel with the messages, so that `exec` uses the caller's terminal and `port-forward` gets a connected socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde_json::Value;

/// Largest message: a `get` of everything in a mesh with thousands of resources.
const MESSAGE_MAX: usize = 256 << 20;
/// Most descriptors with one message.
const DESCRIPTORS_MAX: usize = 3;

/// Why a command could not reach a mesh or was refused by it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No mesh listens there.
    #[error("no mesh named {name:?} is running; start one with: proa up{}", if name == "default" { String::new() } else { format!(" --name {name}") })]
    NotRunning {
        /// The mesh's name.
        name: String,
    },
    /// It runs, but for another user.
    #[error("{}: {source} (the mesh belongs to another user; try sudo)", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the mesh went away: {0}")]
    Broken(#[from] io::Error),
    /// The mesh says no.
    #[error("{0}")]
    Refused(String),
}

/// Sends one message with descriptors; blocks, or fails with `WouldBlock` on a non-blocking socket before anything is sent.
fn send(socket: RawFd, message: &Value, descriptors: &[RawFd]) -> io::Result<Vec<u8>> {
    let text = message.to_string();
    let length =
        u32::try_from(text.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "message too large"))?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control: &[ControlMessage<'_>] = if descriptors.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(socket, &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    bytes.drain(..sent);
    Ok(bytes)
}

/// Receives at most the rest of one message into `bytes`, and descriptors. `Ok(None)`: more to come.
#[allow(unsafe_code)] // Descriptors received by SCM_RIGHTS are new and owned by nobody else.
fn receive(socket: RawFd, bytes: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<Option<Value>> {
    let wanted = |bytes: &[u8]| match bytes.get(..4) {
        None => 4 - bytes.len(),
        Some(length) => 4 + u32::from_le_bytes(length.try_into().expect("four bytes")) as usize - bytes.len(),
    };
    let missing = wanted(bytes).min(1 << 20);
    let mut buffer = vec![0; missing];
    let mut control = nix::cmsg_space!([RawFd; DESCRIPTORS_MAX]);
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let got = recvmsg::<()>(socket, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let length = got.bytes;
    for message in got.cmsgs().map_err(io::Error::from)? {
        if let ControlMessageOwned::ScmRights(received) = message {
            descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    bytes.extend(&buffer[..length]);
    if bytes.len() >= 4 {
        let size = u32::from_le_bytes(bytes[..4].try_into().expect("four bytes")) as usize;
        if size > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "message too large"));
        }
        if bytes.len() == size + 4 {
            let value = serde_json::from_slice(&bytes[4..])?;
            bytes.clear();
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// The commands' end.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// Connects to the mesh with this state folder.
    ///
    /// # Errors
    /// [`ApiError::NotRunning`] or [`ApiError::Denied`].
    pub fn connect(layout: &crate::Layout) -> Result<Self, ApiError> {
        let path = layout.socket();
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self { stream }),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => Err(ApiError::Denied { path, source }),
            Err(_) => Err(ApiError::NotRunning { name: layout.name.clone() }),
        }
    }

    /// Asks once and waits for the answer.
    ///
    /// # Errors
    /// What the mesh refuses, in its words, or a broken connection.
    pub fn call(&mut self, request: &Value, descriptors: &[BorrowedFd<'_>]) -> Result<(Value, Vec<OwnedFd>), ApiError> {
        use std::io::Write;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rest = send(self.stream.as_raw_fd(), request, &raw)?;
        self.stream.write_all(&rest)?;
        let (mut bytes, mut received) = (Vec::new(), Vec::new());
        let mut answer = loop {
            if let Some(answer) = receive(self.stream.as_raw_fd(), &mut bytes, &mut received)? {
                break answer;
            }
        };
        match answer["error"].as_str() {
            Some(error) => Err(ApiError::Refused(error.to_owned())),
            None => Ok((answer["ok"].take(), received)),
        }
    }

    /// [`call`](Self::call) without descriptors.
    ///
    /// # Errors
    /// As there.
    pub fn ask(&mut self, request: &Value) -> Result<Value, ApiError> {
        self.call(request, &[]).map(|(answer, _)| answer)
    }
}

/// The mesh's end of one connection.
pub(crate) struct Connection {
    stream: tokio::net::UnixStream,
    bytes: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: tokio::net::UnixStream) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    /// The next request; an error when the other end is gone.
    pub(crate) async fn request(&mut self) -> io::Result<(Value, Vec<OwnedFd>)> {
        let mut descriptors = Vec::new();
        loop {
            self.stream.readable().await?;
            let socket = self.stream.as_raw_fd();
            let got = self
                .stream
                .try_io(tokio::io::Interest::READABLE, || receive(socket, &mut self.bytes, &mut descriptors));
            match got {
                Ok(Some(request)) => return Ok((request, descriptors)),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Resolves when the other end has gone away.
    pub(crate) async fn closed(&self) {
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            let mut byte = [0];
            let socket = &self.stream;
            let peek = socket.try_io(tokio::io::Interest::READABLE, || {
                nix::sys::socket::recv(socket.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK).map_err(io::Error::from)
            });
            match peek {
                Ok(0) => return,
                Ok(_) => std::future::pending().await,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    pub(crate) async fn answer(&mut self, answer: &Value, descriptors: &[OwnedFd]) -> io::Result<()> {
        use tokio::io::AsyncWriteExt;
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rest = loop {
            self.stream.writable().await?;
            let socket = self.stream.as_raw_fd();
            match self.stream.try_io(tokio::io::Interest::WRITABLE, || send(socket, answer, &raw)) {
                Ok(rest) => break rest,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        self.stream.write_all(&rest).await
    }
}

/// Where a mesh keeps its state: sockets, logs, configuration.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The mesh's name; several can run at once.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
}

impl Layout {
    /// The mesh `name` below `state`, or below `/run/proa` (root) or `$XDG_RUNTIME_DIR/proa`.
    pub fn new(name: &str, state: Option<&Path>) -> Self {
        let base = state.map(Path::to_path_buf).unwrap_or_else(|| {
            if nix::unistd::geteuid().is_root() {
                return PathBuf::from("/run/proa");
            }
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
            runtime
                .unwrap_or_else(|| std::env::temp_dir().join(format!("proa-{}", nix::unistd::geteuid())))
                .join("proa")
        });
        Self { name: name.to_owned(), folder: base.join(name) }
    }

    /// The commands' socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("api.sock")
    }

    /// The resources in force, as the control plane sees them.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    /// Held locked while the mesh runs.
    pub(crate) fn lock(&self) -> PathBuf {
        self.folder.with_extension("lock")
    }
}
