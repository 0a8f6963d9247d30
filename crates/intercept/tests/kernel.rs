//! Do the rules capture what they should, in a real network namespace? Needs root (or CAP_SYS_ADMIN and CAP_NET_ADMIN); says
//! so and passes where it has not.
//!
//! Each case runs in a thread with a network namespace of its own, with loopback up and the pod's address on it.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use intercept::apply::{Backend, apply};
use intercept::netlink::Netlink;
use intercept::{Config, Mode};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{getsockopt, sockopt::OriginalDst};

const POD: &str = "10.9.8.7";
const WAIT: Duration = Duration::from_secs(2);

/// Runs `work` in a new network namespace; false where that is not allowed.
fn in_namespace(work: impl FnOnce() + Send + 'static) -> bool {
    std::thread::spawn(|| {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            println!("kernel: did not run, network namespaces need root");
            return false;
        }
        let mut netlink = Netlink::open().expect("a netlink socket");
        let lo = netlink.index("lo").expect("loopback");
        netlink.up(lo).expect("loopback can be set up");
        netlink.address(lo, format!("{POD}/32").parse().expect("a prefix")).expect("an address");
        work();
        true
    })
    .join()
    .expect("the namespace's thread ends well")
}

fn sidecar() -> Config {
    Config {
        inbound_ports_include: "*".into(),
        inbound_ports_exclude: "15020,15021".into(),
        outbound_ranges_include: "*".into(),
        outbound_ports_exclude: "2222".into(),
        ..Config::default()
    }
}

fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("0.0.0.0", port)).expect("a free port in a fresh namespace")
}

/// Which of the listeners (by port) a connection to `to` reaches, and for which port it was meant.
fn reached(to: &str, listeners: &[&TcpListener]) -> Option<(u16, u16)> {
    let to: SocketAddr = to.parse().expect("an address");
    let client = TcpStream::connect_timeout(&to, WAIT).ok()?;
    for listener in listeners {
        listener.set_nonblocking(true).expect("a socket option");
    }
    // The handshake ends for the client before the listener sees it.
    let deadline = std::time::Instant::now() + WAIT;
    let accept = |listener: &&TcpListener| {
        let (stream, _) = listener.accept().ok()?;
        let own = listener.local_addr().ok()?.port();
        let meant = getsockopt(&stream, OriginalDst).map_or(own, |address| u16::from_be(address.sin_port));
        Some((own, meant))
    };
    let mut found = None;
    while found.is_none() && std::time::Instant::now() < deadline {
        found = listeners.iter().find_map(accept);
        std::thread::yield_now();
    }
    drop(client);
    found
}

fn captures(backend: Backend) {
    let config = sidecar();
    for round in ["first", "again"] {
        apply(&config, &backend, false, false).unwrap_or_else(|error| panic!("{backend:?} {round}: {error}"));
    }
    let (outbound, direct) = (listen(15001), listen(8080));
    // The world is behind a route of its own, so that captured packets have somewhere to leave by.
    let mut netlink = Netlink::open().expect("a netlink socket");
    let lo = netlink.index("lo").expect("loopback");
    let world = intercept::netlink::Route {
        to: "192.0.2.0/24".parse().expect("a prefix"),
        via: None,
        source: None,
        interface: lo,
        table: 254,
        local: false,
    };
    netlink.route(&world).expect("a route");
    // An application that calls its own pod or loopback is left alone.
    assert_eq!(reached("127.0.0.1:8080", &[&outbound, &direct]), Some((8080, 8080)), "{backend:?}");
    assert_eq!(reached(&format!("{POD}:8080"), &[&outbound, &direct]), Some((8080, 8080)), "{backend:?}");
    apply(&config, &backend, true, false).expect("cleanup");
    apply(&config, &backend, true, false).expect("cleanup of nothing");
    assert_eq!(reached("127.0.0.1:8080", &[&direct]), Some((8080, 8080)), "{backend:?}");
}

#[test]
fn nftables_over_netlink() {
    in_namespace(|| captures(Backend::Nftables));
}

#[test]
fn iptables_programs() {
    let missing = std::process::Command::new("iptables-restore").arg("--version").output().is_err();
    if missing {
        println!("kernel: did not run, iptables is not installed");
        return;
    }
    in_namespace(|| captures(Backend::Iptables(None)));
}

/// Outbound and inbound capture between two namespaces joined by a veth pair, as between a pod and its node.
#[test]
fn traffic_of_a_pod_is_captured() {
    in_namespace(|| {
        let node = std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace");
        let pod = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("allowed before");
            let own = std::fs::File::open("/proc/thread-self/ns/net").expect("a namespace");
            (own, node)
        });
        let (pod, node) = pod.join().expect("ends well");
        let mut netlink = Netlink::open().expect("a netlink socket");
        netlink.veth(("node", 50), ("eth0", 51), std::os::fd::AsFd::as_fd(&pod)).expect("a veth pair");
        netlink.address(50, "10.1.0.1/24".parse().expect("a prefix")).expect("an address");
        netlink.up(50).expect("up");
        let (ready, go) = std::sync::mpsc::channel();
        let inside = std::thread::spawn(move || {
            nix::sched::setns(&pod, CloneFlags::CLONE_NEWNET).expect("allowed before");
            let mut netlink = Netlink::open().expect("a netlink socket");
            let lo = netlink.index("lo").expect("loopback");
            netlink.up(lo).expect("up");
            netlink.address(51, "10.1.0.2/24".parse().expect("a prefix")).expect("an address");
            netlink.up(51).expect("up");
            apply(&sidecar(), &Backend::Nftables, false, false).expect("rules");
            let (outbound, inbound, status) = (listen(15001), listen(15006), listen(15021));
            ready.send(()).expect("the node waits");
            // Outbound: captured, except the excluded port.
            assert_eq!(reached("10.1.0.1:80", &[&outbound, &inbound]), Some((15001, 80)));
            // That this one arrives is seen at the node.
            let excluded = "10.1.0.1:2222".parse().expect("an address");
            let _excluded = TcpStream::connect_timeout(&excluded, WAIT).expect("the node listens");
            for listener in [&inbound, &status] {
                listener.set_nonblocking(false).expect("a socket option");
            }
            let (captured, _) = inbound.accept().expect("the node connects");
            let meant = getsockopt(&captured, OriginalDst).expect("captured by NAT");
            assert_eq!(u16::from_be(meant.sin_port), 8080);
            status.accept().expect("an excluded port is not captured");
        });
        drop(node);
        let world = listen(2222);
        go.recv().expect("the pod is ready");
        world.accept().expect("the excluded port arrives");
        let mut client =
            TcpStream::connect_timeout(&"10.1.0.2:8080".parse().expect("an address"), WAIT).expect("captured");
        let _status = TcpStream::connect_timeout(&"10.1.0.2:15021".parse().expect("an address"), WAIT).expect("open");
        inside.join().expect("the pod is content");
        let _ = client.read(&mut [0]);
    });
}

#[test]
fn tproxy_sets_its_routes_once() {
    in_namespace(|| {
        let config = Config { mode: Mode::Tproxy, ipv6: true, ..sidecar() };
        for _ in 0..2 {
            apply(&config, &Backend::Nftables, false, false).expect("rules");
        }
        apply(&config, &Backend::Nftables, true, false).expect("cleanup");
    });
}
