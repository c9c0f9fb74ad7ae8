//! Multicast groups: the way of a socket to one, and sockets that are members.
//!
//! A sender needs no membership: it chooses the interface, and how far its datagrams
//! go. A member has a socket of its own, bound to the group's address, so that it
//! hears nothing else; several members on one machine each get a copy.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use socket2::Domain;
use socket2::InterfaceIndexOrAddress;
use socket2::Protocol;
use socket2::SockRef;
use socket2::Socket;
use socket2::Type;

use crate::net::options::SocketOptions;
use crate::net::platform;
use crate::net::socket::UdpSocket;

/// The interface that a group is reached by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interface {
    /// IPv4: that which has the socket's own address; where the socket is bound to none,
    /// and for IPv6, the one that the system's routes name.
    #[default]
    OfRoutes,
    /// The one with this index.
    Index(NonZeroU32),
}

impl Interface {
    /// The interface with this name.
    ///
    /// # Errors
    ///
    /// There is none of this name, or the system cannot tell.
    pub fn named(name: &str) -> io::Result<Interface> {
        let name = CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
        platform::interface_index(&name).map(Interface::Index)
    }

    /// Zero stands for the choice of the routes.
    fn index(self) -> u32 {
        match self {
            Interface::OfRoutes => 0,
            Interface::Index(index) => index.get(),
        }
    }
}

impl UdpSocket {
    /// Prepares the socket to send to multicast groups of its family: by `interface`,
    /// over `hops` routers less one, and to members on this machine, too. After
    /// [`UdpSocket::switch_to_raw`], if that is wanted.
    ///
    /// # Errors
    ///
    /// What the system says, for instance that there is no such interface.
    pub fn reach_groups(&self, interface: Interface, hops: u8) -> io::Result<()> {
        let local = self.local_addr()?.ip();
        reach_groups(SockRef::from(self), local, interface, hops)?;
        match self.raw_socket() {
            Some(raw) => reach_groups(raw, local, interface, hops),
            None => Ok(()),
        }
    }

    /// Makes a socket that is a member of `group`, joined on `interface`. For IPv4,
    /// where that is left to the routes, it is the one which has the address `local`.
    ///
    /// # Errors
    ///
    /// What the system says: the address is not one of a group, the interface takes no
    /// multicast, a socket that does not share has the port.
    pub fn join_group(
        group: SocketAddr,
        local: IpAddr,
        interface: Interface,
        options: &SocketOptions,
    ) -> io::Result<UdpSocket> {
        if !group.ip().is_multicast() || group.is_ipv4() != local.is_ipv4() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
        // Every member on this machine gets a copy.
        socket.set_reuse_address(true)?;
        match (group, local) {
            (SocketAddr::V4(v4), IpAddr::V4(local)) => {
                socket.bind(&group.into())?;
                socket.join_multicast_v4_n(v4.ip(), &interface_v4(interface, local))?;
            }
            (SocketAddr::V6(mut v6), _) => {
                socket.set_only_v6(true)?;
                v6.set_scope_id(interface.index());
                socket.bind(&SocketAddr::V6(v6).into())?;
                socket.join_multicast_v6(v6.ip(), interface.index())?;
            }
            (SocketAddr::V4(_), IpAddr::V6(_)) => return Err(io::ErrorKind::InvalidInput.into()),
        }
        UdpSocket::from_std(socket.into(), options)
    }
}

fn interface_v4(interface: Interface, local: Ipv4Addr) -> InterfaceIndexOrAddress {
    match interface {
        Interface::OfRoutes => InterfaceIndexOrAddress::Address(local),
        Interface::Index(index) => InterfaceIndexOrAddress::Index(index.get()),
    }
}

fn reach_groups(
    socket: SockRef<'_>,
    local: IpAddr,
    interface: Interface,
    hops: u8,
) -> io::Result<()> {
    match (local, interface) {
        (IpAddr::V4(_), Interface::Index(index)) => platform::set_interface_v4(&socket, index)?,
        (IpAddr::V4(local), Interface::OfRoutes) => socket.set_multicast_if_v4(&local)?,
        (IpAddr::V6(_), _) => socket.set_multicast_if_v6(interface.index())?,
    }
    if local.is_ipv4() {
        socket.set_multicast_loop_v4(true)?;
        return socket.set_multicast_ttl_v4(hops.into());
    }
    socket.set_multicast_loop_v6(true)?;
    socket.set_multicast_hops_v6(hops.into())
}
