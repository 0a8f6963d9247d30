//! How does a listener get its sockets? Bound once per worker with SO_REUSEPORT, by the config thread.
//!
//! Deliberately absent: accepting (see `worker`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use proxy_config::common::Address;
use proxy_config::listener::{ListenAddress, Listener};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Accept queue length when the listener names none.
const BACKLOG_DEFAULT: u32 = 4096;

/// One worker's sockets of a listener. Empty for listeners that are reached by hand-over only.
#[derive(Debug, Default)]
pub struct Sockets {
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) unix: Vec<UnixListener>,
}

impl Sockets {
    /// Where these sockets listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|s| s.local_addr().ok()).collect()
    }

    /// Duplicates the sockets, for handing them to a successor process.
    pub fn try_clone(&self) -> io::Result<Sockets> {
        Ok(Sockets {
            tcp: self.tcp.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?,
            unix: self.unix.iter().map(UnixListener::try_clone).collect::<Result<_, _>>()?,
        })
    }
}

/// Binds `listener` for `workers` threads. One bundle each; all empty when it does not bind.
///
/// Errors are the kernel's, with the address in front.
pub fn bind(listener: &Listener, workers: usize) -> io::Result<Vec<Sockets>> {
    let mut all: Vec<Sockets> = (0..workers).map(|_| Sockets::default()).collect();
    let ListenAddress::Bound(main) = &listener.address else {
        return Ok(all);
    };
    if !listener.bind_to_port {
        return Ok(all);
    }
    for address in std::iter::once(main).chain(listener.additional_addresses.iter()) {
        bind_one(listener, address, &mut all)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot bind '{address}': {e}")))?;
    }
    Ok(all)
}

fn bind_one(listener: &Listener, address: &Address, all: &mut [Sockets]) -> io::Result<()> {
    match address {
        Address::Socket(a) => {
            let mut at = *a;
            for worker in all {
                let socket = tcp(listener, at)?;
                // Port 0: the first socket chooses for all.
                at = socket.local_addr()?;
                worker.tcp.push(socket);
            }
            Ok(())
        }
        Address::Pipe { path, mode } => {
            let listening = unix(path, *mode)?;
            for worker in all.iter_mut().skip(1) {
                worker.unix.push(listening.try_clone()?);
            }
            if let Some(first) = all.first_mut() {
                first.unix.push(listening);
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
    socket.listen(listener.tcp_backlog_size.unwrap_or(BACKLOG_DEFAULT).min(i32::MAX as u32) as i32)?;
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
