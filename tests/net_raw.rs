//! Sending by a raw socket over the real loopback interface: what arrives is what
//! the UDP socket would have sent.
//!
//! Raw sockets need `CAP_NET_RAW`, and loopback with a small MTU a network namespace;
//! a test that cannot have what it needs says so on stderr and ends.
#![cfg(all(feature = "net", target_os = "linux"))]

use std::env;
use std::io;
use std::io::ErrorKind;
use std::io::Write;
use std::net::SocketAddr;
use std::net::UdpSocket as StdSocket;
use std::process::Command;
use std::time::Duration;

use mapleaf::net::Destinations;
use mapleaf::net::RecvBatch;
use mapleaf::net::Segments;
use mapleaf::net::SocketOptions;
use mapleaf::net::Support;
use mapleaf::net::UdpSocket;

/// Long enough for any machine; only a failing test waits for it.
const WATCHDOG: Duration = Duration::from_secs(20);

/// Set in a test that was started again in other surroundings.
const INSIDE: &str = "MAPLEAF_TEST_INSIDE";

const HOMES: [&str; 2] = ["127.0.0.1", "::1"];

/// Past the capture of the test runner: who reads the output is to see it.
fn skipped(why: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "skipped, raw sockets are NOT tested: {why}");
}

fn bind(home: &str) -> UdpSocket {
    let options = SocketOptions { send_buffer: 1 << 20, ..SocketOptions::default() };
    let home = SocketAddr::new(home.parse().expect("an address"), 0);
    UdpSocket::bind(home, &options).expect("a socket on loopback")
}

/// A socket that sends raw; nothing where the process may not.
fn raw(home: &str) -> Option<UdpSocket> {
    let mut socket = bind(home);
    match socket.switch_to_raw() {
        Ok(()) => Some(socket),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            skipped(error);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn receiver(home: &str) -> (StdSocket, SocketAddr) {
    let socket = StdSocket::bind((home, 0)).expect("a socket on loopback");
    socket.set_read_timeout(Some(WATCHDOG)).expect("a time-out");
    let address = socket.local_addr().expect("it is bound");
    (socket, address)
}

fn next(socket: &StdSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer).expect("a datagram in time");
    buffer.truncate(len);
    (buffer, from)
}

/// Bytes that differ from datagram to datagram and within each.
fn memory(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Runs a test of this file again, by a command that changes its surroundings.
fn again(program: &str, args: &[&str], test: &str) -> Option<String> {
    let own = env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.args(args).arg(own).args([test, "--exact", "--nocapture"]).env(INSIDE, "1");
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            skipped(format_args!("{program}: {error}"));
            return None;
        }
    };
    let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into());
    let told: [String; 2] = told;
    if !told[0].contains("running 1 test") {
        skipped(format_args!("{program} {args:?}: {}", told[1]));
        return None;
    }
    assert!(output.status.success(), "{told:?}");
    Some(told.concat())
}

#[test]
fn every_datagram_arrives_from_the_address_of_the_udp_socket() {
    for home in HOMES {
        let Some(mut sender) = raw(home) else { return };
        let own = sender.local_addr().expect("it is bound");
        let receivers = [receiver(home), receiver(home)];
        let to = receivers.each_ref().map(|(_, address)| *address);
        let ring = memory(5 * 1_200 + 77);
        let tails = memory(2 * 64);
        let segments = Segments::new(&ring, 1_200).with_tails(&tails, 64);
        let report = sender.send_segments(Destinations::Each(&to), segments);
        let bytes = 2 * (ring.len() + 64) as u64;
        assert_eq!((report.datagrams_sent, report.bytes_sent), (14, bytes), "{report:?}");
        for ((socket, _), tail) in receivers.iter().zip(tails.chunks(64)) {
            for datagram in ring.chunks(1_200).chain([tail]) {
                assert_eq!(next(socket), (datagram.to_vec(), own));
            }
        }
        assert_eq!(sender.counters().bytes_sent, bytes);
        assert_eq!(sender.capabilities().gso, Support::Disabled);
        assert_eq!(sender.capabilities().segments_max, 1);
    }
}

#[test]
fn the_shortest_and_the_longest_pass_and_longer_ones_are_refused() {
    for home in HOMES {
        let Some(mut sender) = raw(home) else { return };
        let (socket, to) = receiver(home);
        for len in [0, 1, 7, 8, 9, 65_507] {
            let datagram = memory(len);
            sender.send_to(&datagram, to).expect("it is not too long");
            assert_eq!(next(&socket).0, datagram);
            let report = sender.send_batch([(to, &datagram[..])]);
            assert_eq!((report.datagrams_sent, report.bytes_sent), (1, len as u64));
            assert_eq!(next(&socket).0, datagram);
        }
        let long = memory(65_536);
        let refused = sender.send_to(&long, to).expect_err("it is too long");
        assert_eq!(refused.raw_os_error(), Some(libc_emsgsize()));
        // What came behind a refused one is sent.
        let report = sender.send_batch([(to, &long[..]), (to, &b"next"[..])]);
        assert_eq!((report.datagrams_sent, report.failed), (1, 1));
        assert_eq!(next(&socket).0, b"next");
        assert_eq!(sender.counters().send_errors.too_long, 2);
    }
}

/// EMSGSIZE is 90 on every Linux but MIPS, PA-RISC and SPARC.
const fn libc_emsgsize() -> i32 {
    90
}

#[test]
fn more_messages_than_a_system_call_takes_reach_everybody() {
    let Some(mut sender) = raw("127.0.0.1") else { return };
    let (socket, to) = receiver("127.0.0.1");
    let memory = memory(2_500);
    let mut found = Vec::new();
    // In turns that the default receive buffer holds.
    for turn in memory.chunks(100) {
        let report = sender.send_segments(Destinations::Each(&[to]), Segments::new(turn, 1));
        assert_eq!(report.datagrams_sent, 100);
        turn.iter().for_each(|_| found.extend(next(&socket).0));
    }
    assert_eq!(found, memory);
    // The first does not listen: 2,500 in one call, and the second gets its own.
    let (_silent, nobody) = receiver("127.0.0.1");
    let runs = [(nobody, Segments::new(&memory, 1)), (to, Segments::new(b"last", 4))];
    let report = sender.send_runs(runs);
    assert_eq!(report.datagrams_sent + report.would_block, 2_501);
    assert_eq!(next(&socket).0, b"last");
}

#[test]
fn the_kernel_chooses_the_source_where_the_socket_is_bound_to_none() {
    for (any, home) in [("0.0.0.0", "127.0.0.1"), ("::", "::1")] {
        let Some(mut sender) = raw(any) else { return };
        let (socket, to) = receiver(home);
        sender.send_to(b"from where?", to).expect("loopback takes it");
        let (datagram, from) = next(&socket);
        assert_eq!(datagram, b"from where?");
        let port = sender.local_addr().expect("it is bound").port();
        assert_eq!(from, SocketAddr::new(home.parse().expect("an address"), port));
    }
}

#[test]
fn a_connected_socket_speaks_to_its_peer_and_hears_it() {
    for (any, home) in [("0.0.0.0", "127.0.0.1"), ("::", "::1")] {
        let mut sender = bind(any);
        let (socket, peer) = receiver(home);
        sender.connect(peer).expect("loopback can be connected to");
        if sender.switch_to_raw().is_err() {
            return skipped("no CAP_NET_RAW");
        }
        sender.send(b"one").expect("it has a peer");
        sender.send_segments(Destinations::Connected, Segments::new(b"twoandthree", 3));
        let (first, from) = next(&socket);
        assert_eq!(first, b"one");
        let rest: Vec<Vec<u8>> = (0..4).map(|_| next(&socket).0).collect();
        assert_eq!(rest.concat(), b"twoandthree");
        socket.send_to(b"heard", from).expect("loopback takes it");
        let mut batch = RecvBatch::default();
        while sender.receive(&mut batch).expect("nothing fails") == 0 {
            std::thread::yield_now();
        }
        let heard: Vec<_> = batch.iter().map(|(from, bytes)| (from, bytes.to_vec())).collect();
        assert_eq!(heard, [(peer, b"heard".to_vec())]);
    }
}

#[test]
fn what_is_longer_than_the_path_goes_in_fragments() {
    if env::var_os(INSIDE).is_none() {
        // Loopback takes 64 KiB in one piece, so it gets the MTU of Ethernet, in a
        // network of its own.
        let script = "ip link set lo mtu 1500 up && exec \"$@\"";
        let args = ["-n", "sh", "-c", script, "sh"];
        again("unshare", &args, "what_is_longer_than_the_path_goes_in_fragments");
        return;
    }
    for home in HOMES {
        let Some(mut sender) = raw(home) else { return };
        let (socket, to) = receiver(home);
        for len in [1_472, 1_473, 9_000, 65_507] {
            let datagram = memory(len);
            sender.send_to(&datagram, to).expect("the kernel cuts it");
            assert_eq!(next(&socket).0, datagram, "{len} bytes to {home}");
        }
    }
}

#[test]
fn without_the_capability_it_is_refused_and_udp_goes_on() {
    if env::var_os(INSIDE).is_none() {
        let drop = ["--bounding-set", "-net_raw", "--inh-caps", "-net_raw"];
        again("setpriv", &drop, "without_the_capability_it_is_refused_and_udp_goes_on");
        return;
    }
    for home in HOMES {
        let mut sender = bind(home);
        let refused = sender.switch_to_raw().expect_err("it may not");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        let (socket, to) = receiver(home);
        sender.send_to(b"as before", to).expect("UDP needs no privilege");
        assert_eq!(next(&socket).0, b"as before");
    }
}

#[test]
fn another_handle_sends_raw_too() {
    for home in HOMES {
        let Some(sender) = raw(home) else { return };
        let mut other = sender.try_clone().expect("another handle");
        let (socket, to) = receiver(home);
        let report = other.send_segments(Destinations::Each(&[to]), Segments::new(&[7; 30], 10));
        assert_eq!((report.datagrams_sent, report.bytes_sent), (3, 30), "{report:?}");
        assert_eq!(other.capabilities().gso, Support::Disabled);
        for _ in 0..3 {
            assert_eq!(next(&socket), (vec![7; 10], sender.local_addr().expect("it is bound")));
        }
        // A UDP socket refuses port 0.
        let nowhere = SocketAddr::new(to.ip(), 0);
        let report = other.send_segments(Destinations::Each(&[nowhere]), Segments::new(&[7], 1));
        assert_eq!(report.datagrams_sent, 1, "{report:?}");
    }
}
