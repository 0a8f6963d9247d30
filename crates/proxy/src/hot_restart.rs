//! How does a successor take over without a failed connection? Listening sockets are handed over a Unix socket.
//!
//! Process N (`--restart-epoch N`) asks process N-1, its parent, on `<socket path>_<base id>_<N-1>`: to give up the admin
//! address, then for the sockets of each address that it binds. Both processes hold the same sockets then, so no accept
//! queue is ever lost. Once N serves, the parent stops accepting and drains, and ends after `--parent-shutdown-time-s`.
//!
//! One line per request, one message per answer, sockets attached to it (SCM_RIGHTS). Only the same user is answered.
//! Follows: Envoy's hot restart, seen from outside. Differs: the protocol is our own, and counters start anew.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::options::Options;
use crate::server::Server;

/// How long an answer of the parent may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Sockets in one answer (the kernel's limit is 253).
const SOCKETS_MAX: usize = 250;
/// Bytes of an answer's text.
const ANSWER_BYTES: usize = 256;
/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 512;
/// Base ids tried for `--use-dynamic-base-id`.
const BASE_IDS_TRIED: usize = 100;

/// Where process `epoch` of this base id is asked.
fn path(options: &Options, base_id: u32, epoch: u32) -> String {
    // The default's name is Envoy's, whose protocol this is not.
    let stem = match options.socket_path.as_str() {
        "@envoy_domain_socket" => "@proa_domain_socket",
        other => other,
    };
    format!("{stem}_{base_id}_{epoch}")
}

fn address(path: &str) -> io::Result<SocketAddr> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    }
}

/// The process that this one replaces.
pub struct Parent(Mutex<UnixStream>);

impl Parent {
    /// Finds the parent. `None`: this is the first process, or the parent is gone.
    pub fn find(options: &Options) -> Option<Parent> {
        if options.disable_hot_restart || options.restart_epoch == 0 {
            return None;
        }
        let path = path(options, options.base_id, options.restart_epoch - 1);
        let stream = address(&path).and_then(|a| UnixStream::connect_addr(&a)).and_then(|s| {
            s.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            s.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(s)
        });
        match stream {
            Ok(stream) => Some(Parent(Mutex::new(stream))),
            Err(e) => {
                telemetry::error!(main, "hot restart: no parent at {path} ({e}), falling back to regular restart");
                None
            }
        }
    }

    fn ask(&self, request: &str) -> io::Result<Vec<OwnedFd>> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(format!("{request}\n").as_bytes())?;
        let mut text = [0; ANSWER_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message =
            rustix::net::recvmsg(&*stream, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if message.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut all = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = part {
                all.extend(fds);
            }
        }
        Ok(all)
    }

    fn tell(&self, request: &str) {
        if let Err(e) = self.ask(request) {
            telemetry::warn!(main, "hot restart: the parent does not answer '{request}': {e}");
        }
    }

    /// Lets the parent give up its admin address.
    pub fn close_admin(&self) {
        self.tell("admin");
    }

    /// The parent's sockets of a listen address, as it is configured.
    pub fn sockets(&self, address: &str) -> Vec<OwnedFd> {
        self.ask(&format!("sockets {address}")).unwrap_or_else(|e| {
            telemetry::warn!(main, "hot restart: no sockets of {address} from the parent: {e}");
            Vec::new()
        })
    }

    /// Lets the parent stop accepting and drain.
    pub fn drain(&self) {
        self.tell("drain");
    }

    /// Lets the parent end.
    pub fn end(&self) {
        self.tell("end");
    }
}

/// Answers a successor from now on. Errors: somebody else has this base id and epoch.
pub fn serve(server: &Rc<Server>) -> io::Result<()> {
    let options = &server.options;
    if options.disable_hot_restart || !options.handle_signals {
        return Ok(());
    }
    let bind = |base_id: u32| {
        let path = path(options, base_id, options.restart_epoch);
        if !path.starts_with('@') && UnixStream::connect(&path).is_err() {
            // Left behind by a process that was killed; if it is not there, the better.
            let _ = std::fs::remove_file(&path);
        }
        UnixListener::bind_addr(&address(&path)?)
    };
    let (listener, base_id) = if options.use_dynamic_base_id {
        let mut tried = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..BASE_IDS_TRIED {
            let base_id = rand::random::<u32>() & 0x00ff_ffff;
            tried = bind(base_id).map(|l| (l, base_id));
            if tried.is_ok() {
                break;
            }
        }
        tried?
    } else {
        (bind(options.base_id)?, options.base_id)
    };
    if !options.base_id_path.is_empty() {
        std::fs::write(&options.base_id_path, base_id.to_string())?;
    }
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let server = server.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let own = rustix::process::geteuid().as_raw();
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == own || peer.uid() == 0 => {
                    tokio::task::spawn_local(answer(server.clone(), stream));
                }
                _ => telemetry::warn!(main, "hot restart: another user asked for our sockets, refused"),
            }
        }
    });
    Ok(())
}

async fn answer(server: Rc<Server>, stream: tokio::net::UnixStream) {
    let mut stream = BufReader::with_capacity(REQUEST_BYTES_MAX, stream);
    let mut line = String::new();
    loop {
        line.clear();
        match stream.read_line(&mut line).await {
            Ok(1..) if line.len() <= REQUEST_BYTES_MAX => {}
            _ => return,
        }
        let request = line.trim_end();
        telemetry::debug!(main, "hot restart: successor asks '{request}'");
        let mut handed: Vec<OwnedFd> = Vec::new();
        match request.split_once(' ').unwrap_or((request, "")) {
            ("admin", _) => server.close_admin().await,
            ("sockets", address) => handed = server.config.borrow().listeners.hand_over(address),
            ("drain", _) => server.hand_over(),
            ("end", _) => server.shared.tell(crate::handle::Tell::Shutdown),
            _ => return,
        }
        handed.truncate(SOCKETS_MAX);
        if send(stream.get_ref(), &handed).await.is_err() {
            return;
        }
    }
}

async fn send(stream: &tokio::net::UnixStream, handed: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = handed.iter().map(AsFd::as_fd).collect();
    let text = format!("{}\n", fds.len());
    loop {
        stream.writable().await?;
        let sent = stream.try_io(tokio::io::Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let text = [IoSlice::new(text.as_bytes())];
            Ok(rustix::net::sendmsg(stream, &text, &mut control, SendFlags::NOSIGNAL)?)
        });
        match sent {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        }
    }
}
