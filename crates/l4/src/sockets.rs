//! How does a listener get its sockets? Bound once per worker with SO_REUSEPORT, by the config thread.
//!
//! A TCP socket listens when its listener comes into service: clients of one that is warming are refused, as in Envoy.
//! Deliberately absent: accepting (see `worker`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use proxy_config::common::Address;
use proxy_config::listener::{ListenAddress, Listener};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Accept queue length when the listener names none.
const BACKLOG_DEFAULT: u32 = 4096;

/// One worker's sockets of a listener. Empty for listeners that are reached by hand-over only.
#[derive(Debug, Default)]
pub struct Sockets {
    /// With the configured address.
    pub(crate) tcp: Vec<(Arc<str>, TcpListener)>,
    /// With the configured path.
    pub(crate) unix: Vec<(Arc<str>, UnixListener)>,
}

/// Sockets of a configured address that a predecessor process hands over.
pub type Inherit<'a> = &'a dyn Fn(&str) -> Vec<OwnedFd>;

impl Sockets {
    /// Where these sockets listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|(_, s)| s.local_addr().ok()).collect()
    }

    /// Has the TCP sockets listen, with the queue that the configuration asks for.
    pub fn listen(&self, config: &Listener) -> io::Result<()> {
        let backlog = config.tcp_backlog_size.unwrap_or(BACKLOG_DEFAULT).min(i32::MAX as u32) as i32;
        self.tcp.iter().try_for_each(|(_, socket)| SockRef::from(socket).listen(backlog))
    }

    /// Duplicates the sockets, for handing them to a successor process.
    pub fn try_clone(&self) -> io::Result<Sockets> {
        Ok(Sockets {
            tcp: self.tcp.iter().map(|(a, s)| Ok((a.clone(), s.try_clone()?))).collect::<io::Result<_>>()?,
            unix: self.unix.iter().map(|(a, s)| Ok((a.clone(), s.try_clone()?))).collect::<io::Result<_>>()?,
        })
    }

    /// Duplicates of the sockets of one configured address.
    pub fn of(&self, address: &str) -> Vec<OwnedFd> {
        let tcp = self.tcp.iter().filter(|(a, _)| **a == *address).filter_map(|(_, s)| s.try_clone().ok());
        let unix = self.unix.iter().filter(|(a, _)| **a == *address).filter_map(|(_, s)| s.try_clone().ok());
        tcp.map(OwnedFd::from).chain(unix.map(OwnedFd::from)).collect()
    }
}

/// Binds `listener` for `workers` threads. One bundle each; all empty when it does not bind.
///
/// What a predecessor has of an address is taken from it; only what lacks is bound. Errors are the kernel's, with the
/// address in front.
pub fn bind(listener: &Listener, workers: usize, inherit: Inherit<'_>) -> io::Result<Vec<Sockets>> {
    let mut all: Vec<Sockets> = (0..workers).map(|_| Sockets::default()).collect();
    let ListenAddress::Bound(main) = &listener.address else {
        return Ok(all);
    };
    if !listener.bind_to_port {
        return Ok(all);
    }
    for address in std::iter::once(main).chain(listener.additional_addresses.iter()) {
        bind_one(listener, address, &mut all, inherit)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot bind '{address}': {e}")))?;
    }
    Ok(all)
}

fn bind_one(listener: &Listener, address: &Address, all: &mut [Sockets], inherit: Inherit<'_>) -> io::Result<()> {
    let name: Arc<str> = address.to_string().into();
    let workers = all.len().max(1);
    match address {
        Address::Socket(a) => {
            let mut at = *a;
            // One that has more sockets than we have workers is heard on by one worker more than once.
            for (i, fd) in inherit(&name).into_iter().enumerate() {
                let socket = TcpListener::from(fd);
                socket.set_nonblocking(true)?;
                at = socket.local_addr()?;
                all[i % workers].tcp.push((name.clone(), socket));
            }
            for worker in all.iter_mut().filter(|w| !w.tcp.iter().any(|(n, _)| *n == name)) {
                let socket = tcp(listener, at)?;
                // Port 0: the first socket chooses for all.
                at = socket.local_addr()?;
                worker.tcp.push((name.clone(), socket));
            }
            Ok(())
        }
        Address::Pipe { path, mode } => {
            let listening = match inherit(&name).into_iter().next() {
                Some(fd) => {
                    let socket = UnixListener::from(fd);
                    socket.set_nonblocking(true)?;
                    socket
                }
                None => unix(path, *mode)?,
            };
            for worker in all.iter_mut().skip(1) {
                worker.unix.push((name.clone(), listening.try_clone()?));
            }
            if let Some(first) = all.first_mut() {
                first.unix.push((name, listening));
            }
            Ok(())
        }
        Address::Dns { .. } | Address::Internal { .. } => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a listener needs a numeric address or a pipe"))
        }
    }
}

fn tcp(listener: &Listener, at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match (listener.transparent, at.is_ipv4()) {
        (true, true) => socket.set_ip_transparent_v4(true)?,
        (true, false) => socket.set_ip_transparent_v6(true)?,
        (false, _) => {}
    }
    if listener.freebind {
        match at.is_ipv4() {
            true => socket.set_freebind_v4(true)?,
            false => socket.set_freebind_v6(true)?,
        }
    }
    socket.bind(&SockAddr::from(at))?;
    Ok(socket.into())
}

fn unix(path: &str, mode: u32) -> io::Result<UnixListener> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    if let Some(name) = path.strip_prefix('@') {
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        let socket = UnixListener::bind_addr(&address)?;
        socket.set_nonblocking(true)?;
        return Ok(socket);
    }
    // A socket left behind by a dead process would refuse the bind; anything else is not ours to remove.
    if std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path)?;
    if mode != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
