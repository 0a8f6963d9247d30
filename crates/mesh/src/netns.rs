//! How does a pod get its network? One namespace and one veth per pod, routed (not bridged) through the mesh's own
//! namespace, so that service addresses are translated on one path in both directions.
//!
//! Namespaces are anonymous: they live as long as the supervisor's descriptor or a process in them, hence nothing
//! has to be cleaned up, however the mesh ends.

use std::cell::Cell;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use intercept::netlink::{Netlink, Route};
use ipnet::IpNet;
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

/// Next hop of every pod: the mesh's end of its veth.
const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Address of the in-mesh name server, Kubernetes' usual one.
pub(crate) const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// Address under which pods see the mesh itself (probes, relays).
pub(crate) const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
const INTERFACE: u32 = 2;
const FIRST_INDEX: u32 = 1000;

/// Runs `work` on a thread of its own, so that namespaces it joins stay behind with it.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("netns".into()).spawn(move || {
        let _ = done.send(work());
    })?;
    result.await.unwrap_or_else(|_| Err(io::Error::other("a network namespace thread died")))
}

fn host_prefix(address: Ipv4Addr) -> IpNet {
    IpNet::new(address.into(), 32).expect("32 is a prefix length")
}

/// Prepares the mesh's own namespace: forwarding, loopback, its addresses. Called in it.
pub(crate) fn prepare_router() -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let lo = netlink.index("lo")?;
    netlink.up(lo)?;
    netlink.address(lo, host_prefix(DNS_ADDRESS))?;
    netlink.address(lo, host_prefix(NODE_ADDRESS))?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").map_err(|error| {
        io::Error::new(error.kind(), format!("/proc/sys/net/ipv4/ip_forward: {error} (is /proc/sys read-only here?)"))
    })?;
    // Gateways bind low ports as an ordinary user.
    let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
    Ok(())
}

/// Makes the `number`th pod's network with address `address`; returns its namespace.
pub(crate) async fn pod(number: u32, address: Ipv4Addr) -> io::Result<OwnedFd> {
    aside(move || {
        // This socket stays in the mesh's namespace; the next one is opened in the pod's.
        let mut router = Netlink::open()?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| {
            io::Error::new(
                io::Error::from(error).kind(),
                format!("network namespace: {error} (CONFIG_NET_NS, CAP_SYS_ADMIN)"),
            )
        })?;
        let namespace = File::open("/proc/thread-self/ns/net")?;
        let mut inside = Netlink::open()?;
        let index = FIRST_INDEX + number;
        router
            .veth((&format!("pod{number}"), index), ("eth0", INTERFACE), namespace.as_fd())
            .map_err(|error| io::Error::new(error.kind(), format!("veth: {error} (CONFIG_VETH)")))?;
        router.address(index, host_prefix(NEXT_HOP))?;
        router.up(index)?;
        let route = |to: IpNet, via: Option<Ipv4Addr>, interface| Route {
            to,
            via: via.map(Into::into),
            source: None,
            interface,
            table: 254,
            local: false,
        };
        // What the mesh itself sends (probes, requests from outside) comes from the node's address.
        let to_pod = Route { source: Some(NODE_ADDRESS.into()), ..route(host_prefix(address), None, index) };
        router.route(&to_pod)?;
        let lo = inside.index("lo")?;
        inside.up(lo)?;
        inside.address(INTERFACE, host_prefix(address))?;
        inside.up(INTERFACE)?;
        inside.route(&route(host_prefix(NEXT_HOP), None, INTERFACE))?;
        let everything = "0.0.0.0/0".parse().expect("a literal prefix");
        inside.route(&route(everything, Some(NEXT_HOP), INTERFACE))?;
        let _ = fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0");
        Ok(namespace.into())
    })
    .await
}

/// Removes a pod's veth; its namespace goes with its last process.
pub(crate) async fn remove(number: u32) {
    let _ = aside(move || Netlink::open()?.delete(FIRST_INDEX + number)).await;
}

/// Connects to `to` as if from inside `namespace`.
pub(crate) async fn dial(namespace: &OwnedFd, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let namespace = namespace.try_clone()?;
    aside(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        TcpStream::connect_timeout(&to, timeout)
    })
    .await
}

/// A path that opens `namespace` from another process of the mesh.
pub(crate) fn path(namespace: &OwnedFd) -> io::Result<std::path::PathBuf> {
    // `/proc` may show an outer PID namespace, so it is asked who we are.
    let own = fs::read_link("/proc/self")?;
    Ok(std::path::Path::new("/proc").join(own).join("fd").join(namespace.as_raw_fd().to_string()))
}

/// Hands out pod numbers and addresses in turn.
#[derive(Default)]
pub(crate) struct Addresses(Cell<u32>);

impl Addresses {
    /// The next number and its address in 10.244.0.0/16; `None` when all are used up.
    pub(crate) fn next(&self) -> Option<(u32, Ipv4Addr)> {
        const FIRST: u32 = u32::from_be_bytes([10, 244, 0, 10]);
        const MOST: u32 = 60_000;
        let number = self.0.get() + 1;
        self.0.set(number);
        (number < MOST).then(|| (number, Ipv4Addr::from(FIRST + number - 1)))
    }
}
