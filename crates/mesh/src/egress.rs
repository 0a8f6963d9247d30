//! How do pods reach this machine and what lies beyond it? By TCP: the mesh's own namespace has no way out, so what leaves it is
//! led to [`serve`], which gets a connection from a small process that stayed in the machine's network.
//!
//! That process needs no privilege, sets no rule and no address on the machine, and ends with the mesh: nothing is left behind,
//! also without root. Absent: UDP (but for DNS, which the name server carries) and ICMP.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, getsockopt, recvmsg, sendmsg,
    socketpair, sockopt,
};
use tokio::io::Interest;
use tokio::net::{TcpListener, UnixDatagram};
use tokio::sync::{Semaphore, oneshot};

/// Name of this machine in pods.
pub(crate) const HOST_NAME: &str = "host.proa.internal";
/// Its address there; leads to the machine's own loopback.
pub(crate) const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Port in the mesh's own namespace to which connections that leave it are led.
const PORT: u16 = 15999;
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// Bytes held per direction.
const BUFFER: usize = 64 << 10;
/// What belongs to the mesh or to no machine, and never leaves.
const INSIDE: [&str; 4] = ["10.244.0.0/16", "10.96.0.0/16", "169.254.0.0/16", "127.0.0.0/8"];

/// The end of the pair that the mesh holds.
#[derive(Debug)]
pub(crate) struct Outside(OwnedFd);

/// Leaves a process behind in the caller's network. Must be called while the process has one thread.
///
/// # Errors
/// As `socketpair(2)` and `fork(2)`.
#[allow(unsafe_code)] // fork(2) in a process with one thread: the child may run any code.
pub(crate) fn stay() -> io::Result<Outside> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(io::Error::from)?;
    // SAFETY: one thread, as the caller promises.
    match unsafe { nix::unistd::fork() }.map_err(io::Error::from)? {
        nix::unistd::ForkResult::Parent { .. } => Ok(Outside(ours)),
        nix::unistd::ForkResult::Child => {
            drop(ours);
            // A terminal's Ctrl-C is the mesh's to answer; this process ends when the mesh has.
            let _ = nix::unistd::setsid();
            // Whoever reads what the starter prints is not to wait for us.
            if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
                let _ = nix::unistd::dup2_stdin(null.as_fd());
                let _ = nix::unistd::dup2_stdout(null.as_fd());
                let _ = nix::unistd::dup2_stderr(null.as_fd());
            }
            connect_for(theirs);
            std::process::exit(0)
        }
    }
}

/// A request and, with its number, the answer: an address in, an error or a descriptor out.
const MESSAGE_BYTES: usize = 10;

fn message(number: u32, address: SocketAddrV4) -> [u8; MESSAGE_BYTES] {
    let mut out = [0; MESSAGE_BYTES];
    out[..4].copy_from_slice(&number.to_be_bytes());
    out[4..8].copy_from_slice(&address.ip().octets());
    out[8..].copy_from_slice(&address.port().to_be_bytes());
    out
}

fn read(message: &[u8]) -> Option<(u32, SocketAddrV4)> {
    let number = u32::from_be_bytes(message.get(..4)?.try_into().ok()?);
    let ip: [u8; 4] = message.get(4..8)?.try_into().ok()?;
    let port = u16::from_be_bytes(message.get(8..10)?.try_into().ok()?);
    Some((number, SocketAddrV4::new(ip.into(), port)))
}

/// Connects for the mesh until it has gone.
fn connect_for(mesh: OwnedFd) {
    let mesh = std::sync::Arc::new(mesh);
    let mut buffer = [0; MESSAGE_BYTES];
    while let Ok(length @ 1..) = nix::unistd::read(mesh.as_fd(), &mut buffer) {
        let Some((number, address)) = read(&buffer[..length]) else { continue };
        let mesh = std::sync::Arc::clone(&mesh);
        let connect = move || {
            let ip = if *address.ip() == HOST_ADDRESS { Ipv4Addr::LOCALHOST } else { *address.ip() };
            let stream = TcpStream::connect_timeout(&SocketAddr::from((ip, address.port())), CONNECT_MAX);
            let descriptors: Vec<RawFd> = stream.iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&descriptors)];
            let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
            // Fails only when the mesh has gone.
            let _ = sendmsg::<()>(
                mesh.as_raw_fd(),
                &[IoSlice::new(&number.to_be_bytes())],
                control,
                MsgFlags::MSG_NOSIGNAL,
                None,
            );
        };
        // Where no thread is to be had, the mesh waits in vain for this one and gives up.
        let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(connect);
    }
}

/// The rules that lead connections out of the mesh to [`serve`].
fn rules() -> String {
    const TABLE: &str = "proa-egress";
    let outside: String = INSIDE.iter().map(|range| format!("ip daddr != {range} ")).collect();
    format!(
        "add table inet {TABLE}\nflush table inet {TABLE}\n\
         add chain inet {TABLE} prerouting {{ type nat hook prerouting priority -90 ; }}\n\
         add rule inet {TABLE} prerouting {outside}meta l4proto tcp redirect to :{PORT}\n"
    )
}

/// Carries connections out, for as long as the mesh lives. Called in the mesh's own namespace.
pub(crate) async fn serve(outside: Outside) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    intercept::nft::run(&rules()).map_err(|error| io::Error::other(error.to_string()))?;
    nix::fcntl::fcntl(&outside.0, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    let helper = Helper::start(UnixDatagram::from_std(outside.0.into())?);
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        let Ok((mut inside, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let helper = Rc::clone(&helper);
        tokio::task::spawn_local(async move {
            let _place = place;
            let Ok(to) = getsockopt(&inside, sockopt::OriginalDst) else { return };
            let to = SocketAddrV4::new(u32::from_be(to.sin_addr.s_addr).into(), u16::from_be(to.sin_port));
            // Nobody there: the pod's connection ends as it would have.
            let Ok(outside) = helper.connect(to).await else { return };
            let Ok(mut outside) = tokio::net::TcpStream::from_std(outside) else { return };
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER, BUFFER).await;
        });
    }
}

/// The connection to the process outside. Answers come in any order and find who waits by their number.
struct Helper {
    socket: UnixDatagram,
    next: Cell<u32>,
    waiting: RefCell<HashMap<u32, oneshot::Sender<io::Result<TcpStream>>>>,
}

impl Helper {
    fn start(socket: UnixDatagram) -> Rc<Self> {
        let helper = Rc::new(Self { socket, next: Cell::new(0), waiting: RefCell::default() });
        let reader = Rc::clone(&helper);
        tokio::task::spawn_local(async move {
            while let Ok((number, answer)) =
                reader.socket.async_io(Interest::READABLE, || receive(&reader.socket)).await
            {
                if let Some(waiting) = reader.waiting.borrow_mut().remove(&number) {
                    let _ = waiting.send(answer);
                }
            }
            // Nobody will answer any more.
            reader.waiting.borrow_mut().clear();
        });
        helper
    }

    async fn connect(&self, to: SocketAddrV4) -> io::Result<TcpStream> {
        let number = self.next.get().wrapping_add(1);
        self.next.set(number);
        let (tell, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, tell);
        let bytes = message(number, to);
        let send = || nix::unistd::write(&self.socket, &bytes).map_err(io::Error::from);
        let asked = async {
            self.socket.async_io(Interest::WRITABLE, send).await?;
            answer.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
        };
        let answered = tokio::time::timeout(CONNECT_MAX + Duration::from_secs(1), asked).await;
        self.waiting.borrow_mut().remove(&number);
        let stream = answered.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// One answer: a number, with a descriptor if it was a success.
#[allow(unsafe_code)] // Descriptors received by SCM_RIGHTS are new and owned by nobody else.
fn receive(socket: &UnixDatagram) -> io::Result<(u32, io::Result<TcpStream>)> {
    let mut number = [0; 4];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut number)];
    let got = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    if got.bytes < 4 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut stream = Err(io::ErrorKind::ConnectionRefused.into());
    for message in got.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = message {
            for descriptor in descriptors {
                // SAFETY: the kernel has just made it for us.
                stream = Ok(TcpStream::from(unsafe { OwnedFd::from_raw_fd(descriptor) }));
            }
        }
    }
    Ok((u32::from_be_bytes(number), stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let address = SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 5678);
        assert_eq!(read(&message(7, address)), Some((7, address)));
        assert_eq!(read(&[0; 9]), None);
    }
}
