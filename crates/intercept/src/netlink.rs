//! How are addresses, links, routes and policy rules set without `ip`? The little of rtnetlink that interception
//! and the local mesh need, blocking and in the calling thread's network namespace.
//!
//! Deliberately absent: dumps and notifications.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};

const AF_NETLINK: i32 = 16;
const NETLINK_ROUTE: i32 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

pub(crate) const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

/// One netlink request under construction: header, family header, attributes.
pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new(kind: u16, flags: u16, sequence: u32, family_header: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(family_header);
        Self { bytes }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, data: &[u8]) -> &mut Self {
        let length = u16::try_from(data.len() + 4).expect("attributes are built here and stay small");
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(data);
        self.pad();
        self
    }

    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends an attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attr(kind, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("attributes are built here and stay small");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.pad();
        let length = u32::try_from(self.bytes.len()).expect("requests are built here and stay small");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

/// Opens a netlink socket of `protocol` in the calling thread's network namespace.
pub(crate) fn open(protocol: i32) -> io::Result<Socket> {
    Socket::new(Domain::from(AF_NETLINK), Type::RAW.cloexec(), Some(Protocol::from(protocol)))
}

/// The error code of an acknowledgement, if `reply` begins with one.
pub(crate) fn acknowledgement(reply: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(reply.get(4..6)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then(|| reply.get(16..20)?.try_into().ok().map(i32::from_ne_bytes))?
}

/// A route to add.
#[derive(Clone, Debug)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Next hop, taken as on-link.
    pub via: Option<IpAddr>,
    /// Preferred source address of packets that start here.
    pub source: Option<IpAddr>,
    /// Outgoing interface.
    pub interface: u32,
    /// Routing table; 254 is `main`.
    pub table: u32,
    /// Deliver locally instead of forwarding (TPROXY).
    pub local: bool,
}

/// A connection to the kernel's routing tables, in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens the connection.
    ///
    /// # Errors
    /// As `socket(2)`.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: open(NETLINK_ROUTE)?, sequence: 0 })
    }

    fn message(&mut self, kind: u16, flags: u16, header: &[u8]) -> Message {
        self.sequence += 1;
        Message::new(kind, flags | NLM_F_REQUEST | NLM_F_ACK, self.sequence, header)
    }

    fn send(&mut self, message: Message) -> io::Result<()> {
        (&self.socket).write_all(&message.finish())?;
        let mut reply = [0; 4096];
        let length = (&self.socket).read(&mut reply)?;
        match acknowledgement(&reply[..length]) {
            Some(0) => Ok(()),
            Some(code) => Err(io::Error::from_raw_os_error(-code)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "netlink: no acknowledgement")),
        }
    }

    /// The index of interface `name`.
    ///
    /// # Errors
    /// As `if_nametoindex(3)`.
    pub fn index(&self, name: &str) -> io::Result<u32> {
        nix::net::if_::if_nametoindex(name).map_err(io::Error::from)
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// As the kernel says, for example `EPERM`.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        const IFF_UP: u32 = 1;
        let mut header = vec![0_u8; 4];
        header.extend(index.to_ne_bytes());
        header.extend(IFF_UP.to_ne_bytes());
        header.extend(IFF_UP.to_ne_bytes());
        let message = self.message(RTM_NEWLINK, 0, &header);
        self.send(message)
    }

    /// Makes a veth pair: the first end here, the second in the network namespace `namespace`.
    ///
    /// Each end is a name and an interface index, so that neither has to be looked up afterwards.
    ///
    /// # Errors
    /// `EEXIST` if a name or index is taken, `EOPNOTSUPP` if the kernel has no veth.
    pub fn veth(&mut self, here: (&str, u32), there: (&str, u32), namespace: BorrowedFd<'_>) -> io::Result<()> {
        const IFLA_IFNAME: u16 = 3;
        const IFLA_LINKINFO: u16 = 18;
        const IFLA_NET_NS_FD: u16 = 28;
        let c_string = |text: &str| [text.as_bytes(), &[0]].concat();
        let namespace = u32::try_from(namespace.as_raw_fd()).expect("descriptors are not negative");
        let header = |index: u32| {
            let mut header = [0_u8; 16];
            header[4..8].copy_from_slice(&index.to_ne_bytes());
            header
        };
        let mut message = self.message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &header(here.1));
        message.attr(IFLA_IFNAME, &c_string(here.0)).nest(IFLA_LINKINFO, |info| {
            info.attr(1, b"veth\0").nest(2, |data| {
                data.nest(1, |pair| {
                    pair.bytes.extend(header(there.1));
                    pair.attr(IFLA_IFNAME, &c_string(there.0)).attr_u32(IFLA_NET_NS_FD, namespace);
                });
            });
        });
        self.send(message)
    }

    /// Deletes an interface.
    ///
    /// # Errors
    /// `ENODEV` if there is none.
    pub fn delete(&mut self, index: u32) -> io::Result<()> {
        let mut header = vec![0_u8; 4];
        header.extend(index.to_ne_bytes());
        header.extend([0; 8]);
        let message = self.message(RTM_DELLINK, 0, &header);
        self.send(message)
    }

    /// Adds an address; one that is there already is fine.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn address(&mut self, index: u32, address: IpNet) -> io::Result<()> {
        let bytes = octets(address.addr());
        let mut header = vec![family(address.addr()), address.prefix_len(), 0, 0];
        header.extend(index.to_ne_bytes());
        let mut message = self.message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &header);
        message.attr(2, &bytes).attr(1, &bytes);
        ignore_exists(self.send(message))
    }

    /// Adds a route; one that is there already is fine.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn route(&mut self, route: &Route) -> io::Result<()> {
        ignore_exists(self.route_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route))
    }

    /// Removes a route; one that is not there is fine.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        ignore_missing(self.route_message(RTM_DELROUTE, 0, route))
    }

    fn route_message(&mut self, kind: u16, extra: u16, route: &Route) -> io::Result<()> {
        const RTNH_F_ONLINK: u32 = 4;
        let (scope, of) = match (route.local, route.via) {
            (true, _) => (254, 2),
            (false, None) => (253, 1),
            (false, Some(_)) => (0, 1),
        };
        let flags = if route.via.is_some() { RTNH_F_ONLINK } else { 0 };
        let mut header = vec![family(route.to.addr()), route.to.prefix_len(), 0, 0, 0, 4, scope, of];
        header.extend(flags.to_ne_bytes());
        let mut message = self.message(kind, extra, &header);
        if route.to.prefix_len() > 0 {
            message.attr(1, &octets(route.to.network()));
        }
        if let Some(via) = route.via {
            message.attr(5, &octets(via));
        }
        if let Some(source) = route.source {
            message.attr(7, &octets(source));
        }
        message.attr_u32(4, route.interface).attr_u32(15, route.table);
        self.send(message)
    }

    /// Adds the policy rule `fwmark MARK lookup TABLE`; one that is there already is fine.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn mark_rule(&mut self, ipv6: bool, mark: u32, table: u32) -> io::Result<()> {
        // The kernel takes the same rule twice under two priorities, so an earlier one goes first.
        self.remove_mark_rule(ipv6, mark, table)?;
        ignore_exists(self.mark_rule_message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, ipv6, mark, table))
    }

    /// Removes that policy rule; one that is not there is fine.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn remove_mark_rule(&mut self, ipv6: bool, mark: u32, table: u32) -> io::Result<()> {
        ignore_missing(self.mark_rule_message(RTM_DELRULE, 0, ipv6, mark, table))
    }

    fn mark_rule_message(&mut self, kind: u16, extra: u16, ipv6: bool, mark: u32, table: u32) -> io::Result<()> {
        let header = [if ipv6 { AF_INET6 } else { AF_INET }, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        let mut message = self.message(kind, extra, &header);
        message.attr_u32(10, mark).attr_u32(15, table);
        self.send(message)
    }
}

const ENOENT: i32 = nix::errno::Errno::ENOENT as i32;
const ESRCH: i32 = nix::errno::Errno::ESRCH as i32;

/// Nothing to remove: no such rule, route, table or family.
fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(ENOENT | ESRCH)) => Ok(()),
        other => other,
    }
}

fn ignore_exists(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
