//! Is the right traffic captured, in each mode, family and backend? A node and a pod, two network namespaces joined by a veth
//! pair; connections of the application, of the proxy (user or group 1337) and from outside; and afterwards an empty ruleset.
//!
//! Needs root; says so and passes where it has not. Backends whose programs are missing are named and left out.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use intercept::apply::{Backend, apply};
use intercept::netlink::{Netlink, Route};
use intercept::{Config, Mode};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use socket2::{Domain, Protocol, Socket, Type};

const WAIT: Duration = Duration::from_secs(2);
/// A connection that nobody may get; loopback and veth are faster by orders of magnitude.
const NOBODY: Duration = Duration::from_millis(150);
const PROXY: u32 = 1337;
const NODE: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const POD: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const LOOPBACK: [&str; 2] = ["127.0.0.1", "::1"];
const MARK: u32 = 1337;

/// One world at a time: a process that one test starts holds, until it executes its program, the listeners of all others.
static ONE: Mutex<()> = Mutex::new(());

/// Two namespaces; the calling thread is in the pod's.
struct World {
    node: File,
    pod: File,
}

fn namespace() -> File {
    File::open("/proc/thread-self/ns/net").expect("a namespace")
}

impl World {
    /// Runs `work` in the pod of a new world; says and does nothing where namespaces are not allowed.
    fn with(work: impl FnOnce(&World) + Send + 'static) {
        let _alone = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = std::thread::spawn(|| {
            if unshare(CloneFlags::CLONE_NEWNET).is_err() {
                println!("kernel: did not run, network namespaces need root");
                return;
            }
            let node = namespace();
            no_detection();
            unshare(CloneFlags::CLONE_NEWNET).expect("allowed before");
            let pod = namespace();
            no_detection();
            let world = World { node, pod };
            setns(world.node.as_fd(), CloneFlags::CLONE_NEWNET).expect("allowed before");
            let mut netlink = Netlink::open().expect("a netlink socket");
            netlink.veth(("node", 50), ("eth0", 51), world.pod.as_fd()).expect("a veth pair");
            addresses(&mut netlink, 50, NODE);
            setns(world.pod.as_fd(), CloneFlags::CLONE_NEWNET).expect("allowed before");
            let mut netlink = Netlink::open().expect("a netlink socket");
            addresses(&mut netlink, 51, POD);
            for (at, everything) in ["0.0.0.0/0", "::/0"].iter().enumerate() {
                let to = everything.parse().expect("a prefix");
                let via = Some(NODE[at].parse().expect("an address"));
                let route = Route { to, via, source: None, interface: 51, table: 254, local: false };
                netlink.route(&route).expect("a default route");
            }
            work(&world);
        });
        thread.join().expect("the world's thread ends well");
    }

    /// Runs `work` on the node.
    fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.node.as_fd(), CloneFlags::CLONE_NEWNET).expect("allowed before");
                work()
            });
            thread.join().expect("the node's thread ends well")
        })
    }
}

/// Addresses are usable at once.
fn no_detection() {
    for name in ["default", "all"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0");
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/dad_transmits"), "0");
    }
}

fn addresses(netlink: &mut Netlink, index: u32, own: [&str; 2]) {
    let lo = netlink.index("lo").expect("loopback");
    netlink.up(lo).expect("loopback can be set up");
    for (address, prefix) in own.iter().zip([24, 64]) {
        netlink.address(index, format!("{address}/{prefix}").parse().expect("a prefix")).expect("an address");
    }
    netlink.up(index).expect("the veth can be set up");
}

/// Who opens a connection.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Application,
    ProxyUser,
    ProxyGroup,
    Group(u32),
}

/// Runs `work` as somebody: the kernel takes a socket's owner from the thread that made it.
fn owned<T: Send>(owner: Owner, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            match owner {
                Owner::Application => {}
                Owner::ProxyUser => drop(setfsuid(Uid::from_raw(PROXY))),
                Owner::ProxyGroup => drop(setfsgid(Gid::from_raw(PROXY))),
                Owner::Group(group) => drop(setfsgid(Gid::from_raw(group))),
            }
            work()
        });
        thread.join().expect("the owner's thread ends well")
    })
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// A listener on both families, transparent where TPROXY hands connections over.
fn listen(port: u16, transparent: bool) -> TcpListener {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.set_only_v6(false).expect("a socket option");
    socket.set_reuse_address(true).expect("a socket option");
    if transparent {
        make_transparent(&socket);
    }
    socket.bind(&at("::", port).into()).expect("a free port in a fresh namespace");
    socket.listen(16).expect("listening");
    socket.set_nonblocking(true).expect("a socket option");
    socket.into()
}

/// The IPv4 option serves IPv6 sockets as well.
fn make_transparent(socket: &Socket) {
    nix::sys::socket::setsockopt(&socket, sockopt::IpTransparent, &true).expect("a socket option");
}

fn accept(listener: &TcpListener, wait: Duration) -> Option<(TcpStream, SocketAddr)> {
    let deadline = Instant::now() + wait;
    loop {
        match listener.accept() {
            Ok(found) => return Some(found),
            Err(_) if Instant::now() < deadline => std::thread::yield_now(),
            Err(_) => return None,
        }
    }
}

/// The port for which a captured connection was meant: NAT remembers it, TPROXY keeps it.
fn meant(stream: &TcpStream) -> u16 {
    let nat_v4 = getsockopt(stream, sockopt::OriginalDst).map(|a| u16::from_be(a.sin_port));
    let nat = nat_v4.or_else(|_| getsockopt(stream, sockopt::Ip6tOriginalDst).map(|a| u16::from_be(a.sin6_port)));
    nat.unwrap_or_else(|_| stream.local_addr().expect("connected").port())
}

/// The listeners of a pod: the proxy's two, and the application's.
struct Pod {
    outbound: TcpListener,
    inbound: TcpListener,
    application: TcpListener,
}

impl Pod {
    fn listen(mode: Mode) -> Self {
        Self {
            outbound: listen(15001, false),
            inbound: listen(15006, mode == Mode::Tproxy),
            application: listen(8080, false),
        }
    }

    /// Which listener a connection from inside the pod reaches, and for which port.
    fn reached(&self, owner: Owner, to: SocketAddr) -> Option<(&'static str, u16)> {
        let client = owned(owner, || TcpStream::connect_timeout(&to, WAIT).ok())?;
        let own = client.local_addr().expect("connected");
        for (name, listener) in
            [("outbound", &self.outbound), ("inbound", &self.inbound), ("application", &self.application)]
        {
            while let Some((stream, peer)) = accept(listener, Duration::from_millis(30)) {
                if peer.port() == own.port() {
                    return Some((name, meant(&stream)));
                }
            }
        }
        None
    }
}

fn sidecar(mode: Mode) -> Config {
    Config {
        mode,
        ipv6: true,
        inbound_ports_include: "*".into(),
        inbound_ports_exclude: "15020,15021".into(),
        outbound_ranges_include: "*".into(),
        outbound_ranges_exclude: "198.51.100.0/24,2001:db8:9::/48".into(),
        outbound_ports_exclude: "2222".into(),
        ..Config::default()
    }
}

fn backends() -> Vec<Backend> {
    let mut found = vec![Backend::Nftables];
    for variant in ["legacy", "nft"] {
        let there =
            |family: &str| Command::new(format!("{family}-{variant}-restore")).arg("--version").output().is_ok();
        if there("iptables") && there("ip6tables") {
            found.push(Backend::Iptables(Some(variant.to_owned())));
        } else {
            println!("kernel: iptables-{variant} is not installed and was left out");
        }
    }
    found
}

/// Applies in the current namespace; `false`: this kernel has not what the backend needs (legacy tables are modules).
fn applies(config: &Config, backend: &Backend) -> bool {
    match apply(config, backend, false, false) {
        Ok(()) => true,
        Err(error) if *backend != Backend::Nftables && error.to_string().contains("Table does not exist") => {
            println!("kernel: {backend:?} left out: {error}");
            false
        }
        Err(error) => panic!("{backend:?}: {error}"),
    }
}

/// Everything that the kernel holds of rules, as the tools print it.
fn ruleset() -> String {
    let mut out = String::new();
    for (program, args) in
        [("nft", &["list", "ruleset"][..]), ("iptables-legacy-save", &[]), ("ip6tables-legacy-save", &[])]
    {
        if let Ok(output) = Command::new(program).args(args).output() {
            // Comments carry the time.
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            out.extend(text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{}\n", without_counters(l))));
        }
    }
    out
}

fn without_counters(line: &str) -> String {
    let mut words: Vec<&str> = line.split(' ').collect();
    for i in 0..words.len() {
        if i >= 1 && (words[i - 1] == "packets" || words[i - 1] == "bytes") || words[i].starts_with('[') {
            words[i] = "N";
        }
    }
    words.join(" ")
}

fn rules_of_ours(ruleset: &str) -> Vec<&str> {
    ruleset.lines().filter(|l| l.to_ascii_lowercase().contains("istio")).collect()
}

fn everywhere(mode: Mode, check: fn(&World, &Pod, &Config, &Backend)) {
    for backend in backends() {
        World::with(move |world| {
            let config = sidecar(mode);
            if applies(&config, &backend) {
                check(world, &Pod::listen(mode), &config, &backend);
            }
        });
    }
}

fn outbound(world: &World, pod: &Pod, config: &Config, backend: &Backend) {
    for family in 0..2 {
        let (node, own, loopback) = (NODE[family], POD[family], LOOPBACK[family]);
        let context = format!("{backend:?} {node}");
        let elsewhere = world.on_node(|| [listen(80, false), listen(2222, false)]);
        // The application's calls are the proxy's, whatever the port; the proxy's own are not.
        assert_eq!(pod.reached(Owner::Application, at(node, 80)), Some(("outbound", 80)), "{context}");
        for owner in [Owner::ProxyUser, Owner::ProxyGroup] {
            assert_eq!(pod.reached(owner, at(node, 80)), None, "{context} {owner:?}");
            assert!(accept(&elsewhere[0], WAIT).is_some(), "{context} {owner:?}: not at its destination");
        }
        assert_eq!(pod.reached(Owner::Application, at(node, 2222)), None, "{context}: excluded port");
        assert!(accept(&elsewhere[1], WAIT).is_some(), "{context}: the excluded port is not at its destination");
        // Loopback and the own pod are the application's own business.
        assert_eq!(pod.reached(Owner::Application, at(loopback, 8080)), Some(("application", 8080)), "{context}");
        assert_eq!(pod.reached(Owner::Application, at(own, 8080)), Some(("application", 8080)), "{context}");
        // A proxy that calls its own pod by a service goes through the inbound side, as everybody's calls do. One that runs as
        // root in the group, as TPROXY needs it, is told by its mark, which NAT does not know.
        let by_group = if config.mode == Mode::Tproxy { "inbound" } else { "application" };
        for (owner, expect) in [(Owner::ProxyUser, "inbound"), (Owner::ProxyGroup, by_group)] {
            assert_eq!(pod.reached(owner, at(own, 8080)), Some((expect, 8080)), "{context} {owner:?}");
            assert_eq!(pod.reached(owner, at(loopback, 8080)), Some(("application", 8080)), "{context} {owner:?}");
        }
    }
    // Excluded ranges leave the pod; that nobody is there shows that nobody caught them.
    for excluded in ["198.51.100.7", "2001:db8:9::7"] {
        let to = at(excluded, 80);
        let answered = owned(Owner::Application, || TcpStream::connect_timeout(&to, NOBODY).is_ok());
        assert!(!answered, "{backend:?}: {excluded} was captured");
    }
}

fn inbound(world: &World, pod: &Pod, config: &Config, backend: &Backend) {
    let health = listen(15021, false);
    for family in 0..2 {
        let context = format!("{backend:?} {:?} {}", config.mode, POD[family]);
        let client = world.on_node(|| TcpStream::connect_timeout(&at(POD[family], 8080), WAIT)).expect(&context);
        let (captured, peer) = accept(&pod.inbound, WAIT).unwrap_or_else(|| panic!("{context}: not captured"));
        assert_eq!(meant(&captured), 8080, "{context}");
        assert_eq!(peer.ip().to_canonical(), NODE[family].parse::<IpAddr>().expect("an address"), "{context}");
        drop(client);
        world.on_node(|| TcpStream::connect_timeout(&at(POD[family], 15021), WAIT)).expect(&context);
        assert!(accept(&health, WAIT).is_some(), "{context}: the excluded port was captured");
    }
}

/// The second leg as a proxy with `original_src` makes it: from the client's own address, marked so that the way back is found.
fn client_address_is_kept(world: &World, pod: &Pod, config: &Config, backend: &Backend) {
    for address in POD {
        let context = format!("{backend:?} {:?} {}", config.mode, address);
        let mut client = world.on_node(|| TcpStream::connect_timeout(&at(address, 8080), WAIT)).expect(&context);
        let (mut captured, peer) = accept(&pod.inbound, WAIT).unwrap_or_else(|| panic!("{context}: not captured"));
        let source = SocketAddr::new(peer.ip().to_canonical(), 0);
        // Such a proxy runs as root, in the proxy's group.
        let mut upstream: TcpStream = owned(Owner::ProxyGroup, || {
            let socket = Socket::new(Domain::for_address(source), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
            make_transparent(&socket);
            socket.set_mark(MARK).expect("a socket option");
            socket.bind(&source.into()).expect("an address that is not ours");
            socket.connect_timeout(&at(address, 8080).into(), WAIT).unwrap_or_else(|e| panic!("{context}: {e}"));
            socket.into()
        });
        let (mut served, seen) =
            accept(&pod.application, WAIT).unwrap_or_else(|| panic!("{context}: not at the application"));
        assert_eq!(seen.ip().to_canonical(), client.local_addr().expect("connected").ip(), "{context}");
        // And the whole way there and back.
        captured.set_nonblocking(false).expect("a socket option");
        served.set_nonblocking(false).expect("a socket option");
        let mut byte = [0];
        client.write_all(b"?").expect("open");
        captured.read_exact(&mut byte).expect("the client's byte");
        upstream.write_all(&byte).expect("open");
        served.read_exact(&mut byte).expect("the proxy's byte");
        served.write_all(b"!").expect("open");
        upstream.read_exact(&mut byte).expect("the application's byte");
        captured.write_all(&byte).expect("open");
        client.read_exact(&mut byte).expect("the answer");
        assert_eq!(&byte, b"!", "{context}");
    }
}

#[test]
fn redirect_captures_outbound() {
    everywhere(Mode::Redirect, outbound);
}

#[test]
fn redirect_captures_inbound() {
    everywhere(Mode::Redirect, inbound);
}

#[test]
fn tproxy_captures_outbound() {
    everywhere(Mode::Tproxy, outbound);
}

#[test]
fn tproxy_captures_inbound() {
    everywhere(Mode::Tproxy, inbound);
}

#[test]
fn tproxy_keeps_the_clients_address() {
    everywhere(Mode::Tproxy, client_address_is_kept);
}

/// A connection that comes before its proxy waits for it; one that was there when the proxy went is told so.
#[test]
fn connections_are_held_until_the_proxy_listens() {
    for backend in backends() {
        World::with(move |world| {
            let config = Config { hold: true, ..sidecar(Mode::Redirect) };
            if !applies(&config, &backend) {
                return;
            }
            let early = |to: SocketAddr, on_node: bool| {
                let connect = move || TcpStream::connect_timeout(&to, Duration::from_secs(8));
                let own = world.pod.try_clone().expect("a descriptor");
                let node = world.node.try_clone().expect("a descriptor");
                std::thread::spawn(move || {
                    let there = if on_node { node } else { own };
                    setns(there.as_fd(), CloneFlags::CLONE_NEWNET).expect("allowed before");
                    connect()
                })
            };
            for family in 0..2 {
                let clients = [early(at(NODE[family], 80), false), early(at(POD[family], 8080), true)];
                // Long enough for both first packets to be dropped.
                std::thread::sleep(NOBODY);
                let pod = Pod::listen(Mode::Redirect);
                for (client, listener) in clients.into_iter().zip([&pod.outbound, &pod.inbound]) {
                    let connected = client.join().expect("the client's thread ends well");
                    let mut stream = connected.unwrap_or_else(|e| panic!("{backend:?} {}: refused: {e}", NODE[family]));
                    let (served, _) = accept(listener, WAIT).expect("the connection is accepted");
                    // The proxy dies: whoever is connected hears of it at once.
                    drop(served);
                    stream.set_read_timeout(Some(WAIT)).expect("a socket option");
                    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "{backend:?}");
                }
            }
        });
    }
}

#[test]
fn none_captures_nothing() {
    World::with(|world| {
        let pod = Pod::listen(Mode::None);
        let there = world.on_node(|| listen(80, false));
        let config = sidecar(Mode::None);
        apply(&config, &Backend::Iptables(None), false, false).expect("no rules are no problem");
        assert_eq!(pod.reached(Owner::Application, at(NODE[0], 80)), None);
        assert!(accept(&there, WAIT).is_some());
    });
}

#[test]
fn dns_is_captured_but_for_the_proxy() {
    for backend in backends() {
        World::with(move |world| {
            let config = Config { redirect_dns: true, capture_all_dns: true, ..sidecar(Mode::Redirect) };
            if !applies(&config, &backend) {
                return;
            }
            for family in 0..2 {
                let context = format!("{backend:?} {}", NODE[family]);
                // The agent's user tells its answers from the application's questions.
                let bind = || UdpSocket::bind(at(LOOPBACK[family], 15053)).expect("a free port");
                let agent = owned(Owner::ProxyUser, bind);
                let agent_tcp = TcpListener::bind(at(LOOPBACK[family], 15053)).expect("a free port");
                agent_tcp.set_nonblocking(true).expect("a socket option");
                let server = world.on_node(|| UdpSocket::bind(at(NODE[family], 53)).expect("a free port"));
                for socket in [&agent, &server] {
                    socket.set_read_timeout(Some(WAIT)).expect("a socket option");
                }
                let ask = |owner: Owner, what: &[u8]| {
                    owned(owner, || {
                        let socket = UdpSocket::bind(at(["0.0.0.0", "::"][family], 0)).expect("a socket");
                        socket.set_read_timeout(Some(WAIT)).expect("a socket option");
                        socket.connect(at(NODE[family], 53)).expect("a route");
                        socket.send(what).expect("sent");
                        socket
                    })
                };
                // The application's question is the agent's, and its answer comes from where it was sent.
                let client = ask(Owner::Application, b"q");
                let mut buffer = [0; 8];
                let (_, from) = agent.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{context}: not captured: {e}"));
                agent.send_to(b"a", from).expect("sent");
                assert_eq!(client.recv(&mut buffer).unwrap_or_else(|e| panic!("{context}: no answer: {e}")), 1);
                // The agent's own goes to the server.
                ask(Owner::ProxyUser, b"up");
                let (length, _) = server.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{context}: looped: {e}"));
                assert_eq!(&buffer[..length], b"up", "{context}");
                owned(Owner::Application, || TcpStream::connect_timeout(&at(NODE[family], 53), WAIT)).expect(&context);
                assert!(accept(&agent_tcp, WAIT).is_some(), "{context}: DNS over TCP was not captured");
            }
        });
    }
}

#[test]
fn owner_groups_and_interfaces_decide() {
    for backend in backends() {
        World::with(move |world| {
            let pod = Pod::listen(Mode::Redirect);
            let there = world.on_node(|| listen(80, false));
            let node = at(NODE[0], 80);
            let only = Config { owner_groups_include: "2000,2001".into(), ..sidecar(Mode::Redirect) };
            if !applies(&only, &backend) {
                return;
            }
            assert_eq!(pod.reached(Owner::Group(2001), node), Some(("outbound", 80)), "{backend:?}");
            assert_eq!(pod.reached(Owner::Application, node), None, "{backend:?}");
            assert!(accept(&there, WAIT).is_some(), "{backend:?}");
            let but = Config { owner_groups_exclude: "2000".into(), ..sidecar(Mode::Redirect) };
            apply(&but, &backend, false, false).unwrap_or_else(|e| panic!("{backend:?}: {e}"));
            assert_eq!(pod.reached(Owner::Group(2000), node), None, "{backend:?}");
            assert!(accept(&there, WAIT).is_some(), "{backend:?}");
            assert_eq!(pod.reached(Owner::Application, node), Some(("outbound", 80)), "{backend:?}");
            let not_here = Config { exclude_interfaces: "eth0".into(), ..sidecar(Mode::Redirect) };
            apply(&not_here, &backend, false, false).unwrap_or_else(|e| panic!("{backend:?}: {e}"));
            assert_eq!(pod.reached(Owner::Application, node), None, "{backend:?}");
            assert!(accept(&there, WAIT).is_some(), "{backend:?}");
            world.on_node(|| TcpStream::connect_timeout(&at(POD[0], 8080), WAIT)).expect("the application listens");
            assert!(accept(&pod.application, WAIT).is_some(), "{backend:?}: captured on an excluded interface");
        });
    }
}

/// Applied again nothing changes; cleaned up nothing is left, whichever settings the rules were made with.
#[test]
fn rules_come_once_and_go_whole() {
    for backend in backends() {
        for mode in [Mode::Redirect, Mode::Tproxy] {
            let backend = backend.clone();
            World::with(move |world| {
                let before = ruleset();
                let config = Config { redirect_dns: true, capture_all_dns: true, drop_invalid: true, ..sidecar(mode) };
                if !applies(&config, &backend) {
                    return;
                }
                let once = ruleset();
                if once.is_empty() {
                    println!("kernel: no tool lists the rules, so their end was not looked at");
                    return;
                }
                assert!(!rules_of_ours(&once).is_empty(), "{backend:?}: {once}");
                apply(&config, &backend, false, false).unwrap_or_else(|e| panic!("{backend:?}: {e}"));
                assert_eq!(ruleset(), once, "{backend:?} {mode:?}: the second time changed something");
                apply(&Config::default(), &backend, true, false).unwrap_or_else(|e| panic!("{backend:?}: {e}"));
                let after = ruleset();
                assert_eq!(rules_of_ours(&after), Vec::<&str>::new(), "{backend:?} {mode:?}");
                if backend == Backend::Nftables {
                    assert_eq!(after, before, "{mode:?}");
                }
                assert!(!has_mark_rules(), "{backend:?} {mode:?}: a routing rule is left");
                // What was captured is so no more.
                let there = world.on_node(|| listen(80, false));
                let pod = Pod::listen(Mode::Redirect);
                assert_eq!(pod.reached(Owner::Application, at(NODE[0], 80)), None, "{backend:?} {mode:?}");
                assert!(accept(&there, WAIT).is_some(), "{backend:?} {mode:?}");
            });
        }
    }
}

fn has_mark_rules() -> bool {
    let rules = |family: &str| Command::new("ip").args([family, "rule"]).output().map(|o| o.stdout).unwrap_or_default();
    ["-4", "-6"].iter().any(|family| String::from_utf8_lossy(&rules(family)).contains("fwmark"))
}
