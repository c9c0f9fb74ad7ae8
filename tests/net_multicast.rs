//! Multicast groups over the real loopback interface.
#![cfg(all(feature = "net", target_os = "linux"))]

use std::io::ErrorKind;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use mapleaf::net::Destinations;
use mapleaf::net::Interface;
use mapleaf::net::RecvBatch;
use mapleaf::net::Segments;
use mapleaf::net::SocketOptions;
use mapleaf::net::UdpSocket;
use socket2::SockRef;

/// Long enough for any machine; only a failing test waits for it.
const WATCHDOG: Duration = Duration::from_secs(20);

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A group that no other test process uses; `test` tells tests of one process apart.
fn group(test: u8) -> SocketAddr {
    let [.., a, b] = std::process::id().to_be_bytes();
    SocketAddr::from(([239, 200 + test, a, b], 4_722))
}

fn sender() -> UdpSocket {
    let home = SocketAddr::new(HOME, 0);
    UdpSocket::bind(home, &SocketOptions::default()).expect("a socket on loopback")
}

fn member(group: SocketAddr, interface: Interface) -> UdpSocket {
    let options = SocketOptions { receive_buffer: 1 << 20, ..SocketOptions::default() };
    UdpSocket::join_group(group, HOME, interface, &options).expect("loopback can be joined on")
}

fn collect(socket: &mut UdpSocket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let (mut batch, mut found) = (RecvBatch::default(), Vec::new());
    let deadline = Instant::now() + WATCHDOG;
    while found.len() < count && Instant::now() < deadline {
        if socket.receive(&mut batch).expect("nothing fails") == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        found.extend(batch.iter().map(|(from, datagram)| (from, datagram.to_vec())));
    }
    found
}

#[test]
fn one_send_reaches_every_member_from_the_sender_s_own_address() {
    let lo = Interface::named("lo").expect("there is loopback");
    for (test, interface) in [(0, Interface::OfRoutes), (1, lo)] {
        let (to, mut sender) = (group(test), sender());
        let mut members = [member(to, interface), member(to, interface), member(to, lo)];
        let mut other = member(group(test + 2), interface);
        sender.reach_groups(interface, 1).expect("loopback has a way");
        let memory: Vec<u8> = (0..5_000).map(|index| (index / 7) as u8).collect();
        let segments = Segments::new(&memory, 1_200);
        let report = sender.send_segments(Destinations::Each(&[to]), segments);
        assert_eq!((report.datagrams_sent, report.bytes_sent), (5, 5_000));
        let own = sender.local_addr().expect("it is bound");
        let expected: Vec<_> = memory.chunks(1_200).map(|part| (own, part.to_vec())).collect();
        for member in &mut members {
            assert_eq!(collect(member, 5), expected);
        }
        assert_eq!(other.receive(&mut RecvBatch::default()).expect("nothing fails"), 0);
    }
}

#[test]
fn a_member_hears_nothing_but_its_group() {
    let (to, mut sender) = (group(4), sender());
    let mut member = member(to, Interface::OfRoutes);
    sender.send_to(b"not to you", SocketAddr::new(HOME, to.port())).expect("loopback takes it");
    sender.reach_groups(Interface::OfRoutes, 1).expect("loopback has a way");
    sender.send_to(b"to all", to).expect("loopback takes it");
    let heard: Vec<_> = collect(&mut member, 1).into_iter().map(|(_, datagram)| datagram).collect();
    assert_eq!(heard, [b"to all"]);
}

#[test]
fn how_far_datagrams_go_is_set() {
    let sender = sender();
    sender.reach_groups(Interface::OfRoutes, 7).expect("loopback has a way");
    let socket = SockRef::from(&sender);
    assert_eq!(socket.multicast_ttl_v4().expect("it tells"), 7);
    assert_eq!(socket.multicast_if_v4().expect("it tells"), Ipv4Addr::LOCALHOST);
    assert!(socket.multicast_loop_v4().expect("it tells"));
    let v6: SocketAddr = "[::1]:0".parse().expect("an address");
    if let Ok(sender) = UdpSocket::bind(v6, &SocketOptions::default()) {
        let lo = Interface::named("lo").expect("there is loopback");
        sender.reach_groups(lo, 9).expect("any interface may be named");
        let socket = SockRef::from(&sender);
        assert_eq!(socket.multicast_hops_v6().expect("it tells"), 9);
        assert_eq!(Interface::Index(1.try_into().expect("not 0")), lo, "it is the first");
        assert_eq!(socket.multicast_if_v6().expect("it tells"), 1);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let kind = |group: &str| {
        let group = group.parse().expect("an address");
        let options = SocketOptions::default();
        let joined = UdpSocket::join_group(group, HOME, Interface::OfRoutes, &options);
        joined.expect_err("it is no group").kind()
    };
    assert_eq!(kind("127.0.0.1:5"), ErrorKind::InvalidInput);
    assert_eq!(kind("[ff15::1]:5"), ErrorKind::InvalidInput, "another family than the address");
    let named = |name: &str| Interface::named(name).expect_err("there is none").kind();
    assert_eq!(named("nosuch0"), ErrorKind::NotFound);
    assert_eq!(named("lo\0"), ErrorKind::InvalidInput);
}
