//! The socket over the real loopback interface: whatever the kernel joins and
//! splits, the same datagrams arrive, and no destination harms another one.
#![cfg(feature = "net")]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::net::UdpSocket as StdSocket;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use mapleaf::net::Destinations;
use mapleaf::net::Offload;
use mapleaf::net::RecvBatch;
use mapleaf::net::ReusePort;
use mapleaf::net::Segments;
use mapleaf::net::SendReport;
use mapleaf::net::SocketOptions;
use mapleaf::net::Support;
use mapleaf::net::UdpSocket;

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";
const BOTH: [Offload; 2] = [Offload::Detect, Offload::Off];

/// Long enough for any machine; only a failing test waits for it.
const WATCHDOG: Duration = Duration::from_secs(20);

type Datagrams = Vec<(SocketAddr, Vec<u8>)>;

fn options() -> SocketOptions {
    SocketOptions { receive_buffer: 2 << 20, send_buffer: 1 << 20, ..SocketOptions::default() }
}

fn bind(address: &str) -> UdpSocket {
    bind_with(address, &options())
}

fn bind_with(address: &str, options: &SocketOptions) -> UdpSocket {
    UdpSocket::bind(address.parse().expect("an address"), options).expect("a socket on loopback")
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket has an address")
}

/// The loopback addresses of this machine.
fn families() -> Vec<&'static str> {
    let mut families = vec![V4];
    match StdSocket::bind(V6) {
        Ok(_) => families.push(V6),
        Err(error) => println!("skipped ::1: {error}"),
    }
    families
}

/// Receives until `count` datagrams are there or the watchdog barks.
fn collect(socket: &mut UdpSocket, batch: &mut RecvBatch, count: usize) -> Datagrams {
    let deadline = Instant::now() + WATCHDOG;
    let mut found = Datagrams::new();
    while found.len() < count && Instant::now() < deadline {
        if socket.receive(batch).expect("nothing fails") == 0 {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        found.extend(batch.iter().map(|(source, datagram)| (source, datagram.to_vec())));
    }
    found
}

/// Waits until a call to `receive` fails, and returns how.
fn failure(socket: &mut UdpSocket, batch: &mut RecvBatch) -> Option<ErrorKind> {
    let deadline = Instant::now() + WATCHDOG;
    while Instant::now() < deadline {
        if let Err(error) = socket.receive(batch) {
            return Some(error.kind());
        }
        thread::sleep(Duration::from_millis(1));
    }
    None
}

/// Bytes that differ from datagram to datagram and within each.
fn memory(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn expected(source: SocketAddr, memory: &[u8], segment: usize) -> Datagrams {
    memory.chunks(segment).map(|datagram| (source, datagram.to_vec())).collect()
}

fn totals(report: SendReport) -> (u64, u64, u64, u64) {
    (report.datagrams_sent, report.bytes_sent, report.would_block, report.failed)
}

/// Receives until `count` datagrams were taken from the queue, dropped ones
/// included, and returns the lengths of those that were kept.
fn take(socket: &mut UdpSocket, batch: &mut RecvBatch, count: usize) -> Vec<usize> {
    let deadline = Instant::now() + WATCHDOG;
    let (mut taken, mut lens) = (0, Vec::new());
    while taken < count && Instant::now() < deadline {
        taken += socket.receive(batch).expect("nothing fails");
        lens.extend(batch.iter().map(|(_, datagram)| datagram.len()));
    }
    assert_eq!(taken, count);
    lens
}

/// An address of loopback that answers nobody, as long as the socket lives: it
/// is taken, so no other test binds it, and connected to a port that never speaks.
fn closed() -> (StdSocket, SocketAddr) {
    let socket = StdSocket::bind(V4).expect("a socket on loopback");
    socket.connect("127.0.0.1:1").expect("loopback can be connected to");
    let address = socket.local_addr().expect("a bound socket has an address");
    (socket, address)
}

#[test]
fn the_same_datagrams_arrive_however_the_kernel_carries_them() {
    // Whole periods, a shorter last one, one datagram, several messages, and
    // datagrams of which only one fits a message.
    let shapes = [(54 * 1_200, 1_200), (10 * 1_200 + 7, 1_200), (300, 300), (200 * 600, 600)];
    for family in families() {
        for (gso, gro) in BOTH.into_iter().flat_map(|gso| BOTH.map(|gro| (gso, gro))) {
            let mut sender = bind_with(family, &SocketOptions { gso, ..options() });
            let mut receiver = bind_with(family, &SocketOptions { gro, ..options() });
            let (source, to) = (address(&sender), [address(&receiver)]);
            let mut batch = RecvBatch::default();
            for (len, segment) in shapes.into_iter().chain([(2 * 40_000, 40_000), (1, 65_507)]) {
                let memory = memory(len);
                let segments = Segments::new(&memory, segment);
                let report = sender.send_segments(Destinations::Each(&to), segments);
                let count = segments.datagrams();
                assert_eq!(totals(report), (count as u64, len as u64, 0, 0), "{family} {gso:?}");
                let found = collect(&mut receiver, &mut batch, count);
                assert!(found == expected(source, &memory, segment), "{family} {gso:?} {gro:?}");
            }
            assert_eq!(receiver.receive(&mut batch).expect("nothing fails"), 0);
            assert_eq!(batch.iter().count(), 0, "an empty queue leaves an empty batch");
            let (sent, received) = (sender.counters(), receiver.counters());
            assert_eq!(sent.datagrams_sent, received.datagrams_received);
            assert_eq!(sent.bytes_sent, received.bytes_received);
            assert_eq!((sent.gso_fallbacks, received.queue_drops, received.truncated), (0, 0, 0));
        }
    }
}

#[test]
fn a_hundred_destinations_get_everything_though_some_are_dead() {
    const PERIOD: usize = 20 * 700 + 33;
    let memory = memory(PERIOD);
    for gso in BOTH {
        let mut sender = bind_with(V4, &SocketOptions { gso, ..options() });
        let mut receivers: Vec<UdpSocket> = (0..100).map(|_| bind(V4)).collect();
        let mut to: Vec<SocketAddr> = receivers.iter().map(address).collect();
        // Nobody there; another family; a port that is none; not permitted.
        let (_held, dead) = closed();
        to.insert(0, dead);
        to.insert(30, "[::1]:9".parse().expect("an address"));
        to.insert(60, "127.0.0.1:0".parse().expect("an address"));
        to.insert(61, "255.255.255.255:9".parse().expect("an address"));
        let segments = Segments::new(&memory, 700);
        let report = sender.send_segments(Destinations::Each(&to), segments);
        let (sent, bytes, would_block, failed) = totals(report);
        // An ICMP answer of the closed port is nobody's business: 101 were sent.
        assert_eq!((sent, bytes), (101 * 21, 101 * PERIOD as u64), "{gso:?}");
        assert_eq!((would_block, failed), (0, 3 * 21), "{gso:?}");
        let errors = sender.counters().send_errors;
        assert_eq!(errors.total(), 3 * 21, "{errors:?}");
        let wanted = if gso == Offload::Off { Support::Disabled } else { default_gso() };
        assert_eq!(sender.capabilities().gso, wanted, "dead destinations do not end GSO");
        let mut batch = RecvBatch::default();
        for receiver in &mut receivers {
            let found = collect(receiver, &mut batch, 21);
            assert!(found == expected(address(&sender), &memory, 700), "{gso:?}");
        }
    }
}

fn default_gso() -> Support {
    bind(V4).capabilities().gso
}

#[test]
fn each_destination_gets_its_own_tail_behind_what_is_shared() {
    for (gso, shared) in BOTH.into_iter().flat_map(|gso| [0, 54 * 1_200, 1_250].map(|n| (gso, n))) {
        let mut sender = bind_with(V4, &SocketOptions { gso, ..options() });
        let mut receivers = [bind(V4), bind(V4), bind(V4)];
        let to = receivers.each_ref().map(address);
        let (memory, tails) = (memory(shared), memory(3 * 64));
        let segments = Segments::new(&memory, 1_200).with_tails(&tails, 64);
        let report = sender.send_segments(Destinations::Each(&to), segments);
        assert_eq!(report.datagrams_sent, 3 * segments.datagrams() as u64);
        assert_eq!(report.bytes_sent, 3 * segments.bytes() as u64);
        for (receiver, tail) in receivers.iter_mut().zip(tails.chunks(64)) {
            let found = collect(receiver, &mut RecvBatch::default(), segments.datagrams());
            let mut wanted = expected(address(&sender), &memory, 1_200);
            wanted.push((address(&sender), tail.to_vec()));
            assert!(found == wanted, "{gso:?}, {shared} bytes shared");
        }
    }
}

#[test]
#[should_panic(expected = "100 bytes of tails, expected 128 for 2")]
fn tails_that_are_not_one_a_destination_are_a_mistake() {
    let segments = Segments::new(&[], 1_200).with_tails(&[0; 100], 64);
    let (_held, dead) = closed();
    let _ = bind(V4).send_segments(Destinations::Each(&[dead, dead]), segments);
}

#[test]
fn more_different_datagrams_than_one_call_takes_all_arrive() {
    let mut sender = bind(V4);
    let mut receivers = [bind(V4), bind(V4), bind(V4)];
    let to = receivers.each_ref().map(address);
    let memory = memory(100);
    let datagram = |index: usize| (to[index % 3], &memory[..index % 100]);
    let report = sender.send_batch((0..2_500).map(datagram));
    let bytes: usize = (0..2_500).map(|index| index % 100).sum();
    assert_eq!(totals(report), (2_500, bytes as u64, 0, 0));
    let mut batch = RecvBatch::new(16, 200);
    for (which, receiver) in receivers.iter_mut().enumerate() {
        let wanted: Vec<_> = (which..2_500).step_by(3).map(|index| datagram(index).1).collect();
        let found = collect(receiver, &mut batch, wanted.len());
        assert!(found.iter().map(|(_, datagram)| &datagram[..]).eq(wanted));
    }
}

#[test]
fn runs_of_different_segments_go_to_different_destinations_at_once() {
    let mut sender = bind(V4);
    let mut receivers = [bind(V4), bind(V4)];
    let memories = [memory(5_000), memory(130)];
    let runs = [(&memories[0], 900), (&memories[1], 64)];
    let to = receivers.each_ref().map(address);
    let each = to.into_iter().zip(runs).map(|(to, (memory, len))| (to, Segments::new(memory, len)));
    assert_eq!(totals(sender.send_runs(each)), (6 + 3, 5_130, 0, 0));
    for (receiver, (memory, segment)) in receivers.iter_mut().zip(runs) {
        let wanted = expected(address(&sender), memory, segment);
        assert!(collect(receiver, &mut RecvBatch::default(), wanted.len()) == wanted);
    }
}

#[test]
fn a_connected_pair_talks_and_hears_nobody_else() {
    for family in families() {
        let (mut server, mut client) = (bind(family), bind(family));
        let (server_address, client_address) = (address(&server), address(&client));
        client.connect(server_address).expect("loopback can be connected to");
        bind(family).send_to(b"stranger", client_address).expect("a send on loopback");
        client.send(b"hello").expect("a send on loopback");
        let memory = memory(2_500);
        let report = client.send_segments(Destinations::Connected, Segments::new(&memory, 1_200));
        assert_eq!(totals(report), (3, 2_500, 0, 0));
        let mut batch = RecvBatch::default();
        let found = collect(&mut server, &mut batch, 4);
        assert_eq!(found[0], (client_address, b"hello".to_vec()));
        assert!(found[1..] == expected(client_address, &memory, 1_200));
        server.send_to(b"welcome", client_address).expect("a send on loopback");
        let found = collect(&mut client, &mut batch, 1);
        assert_eq!(found, [(server_address, b"welcome".to_vec())]);
    }
}

#[test]
fn a_connected_socket_is_told_that_nobody_listens() {
    let mut client = bind(V4);
    let (_held, dead) = closed();
    client.connect(dead).expect("loopback can be connected to");
    client.send(b"anybody?").expect("the first send cannot know");
    let mut batch = RecvBatch::default();
    assert_eq!(failure(&mut client, &mut batch), Some(ErrorKind::ConnectionRefused));
    assert_eq!(client.receive(&mut batch).expect("it is told once"), 0);
    // Told by a send as well: the error waits for whoever comes first.
    let deadline = Instant::now() + WATCHDOG;
    let mut failed = 0;
    while failed == 0 && Instant::now() < deadline {
        let segments = Segments::new(b"anybody", 7);
        failed = client.send_segments(Destinations::Connected, segments).failed;
    }
    assert_eq!((failed, client.counters().send_errors.refused), (1, 1));
}

#[test]
fn an_unconnected_socket_loses_nothing_to_the_errors_of_others() {
    let (mut socket, mut friend) = (bind(V4), bind(V4));
    let mut batch = RecvBatch::default();
    let (_held, dead) = closed();
    for round in 0..50u8 {
        socket.send_to(b"anybody?", dead).expect("errors of others do not show");
        friend.send_to(&[round], address(&socket)).expect("a send on loopback");
        let found = collect(&mut socket, &mut batch, 1);
        assert_eq!(found, [(address(&friend), vec![round])]);
    }
}

#[test]
fn what_does_not_fit_the_buffer_is_dropped_and_counted() {
    let (mut sender, mut receiver) = (bind(V4), bind(V4));
    let to = address(&receiver);
    let memory = memory(500);
    for len in [50, 150, 100, 101, 0] {
        sender.send_to(&memory[..len], to).expect("a send on loopback");
    }
    let mut batch = RecvBatch::new(8, 100);
    assert_eq!(take(&mut receiver, &mut batch, 5), [50, 100, 0]);
    assert_eq!(receiver.counters().truncated, 2);
    assert_eq!(
        (receiver.counters().datagrams_received, receiver.counters().bytes_received),
        (3, 150)
    );
}

#[test]
fn a_joined_message_that_does_not_fit_counts_all_its_datagrams() {
    let (mut sender, mut receiver) = (bind(V4), bind(V4));
    let memory = memory(450);
    let to = [address(&receiver)];
    let report = sender.send_segments(Destinations::Each(&to), Segments::new(&memory, 100));
    assert_eq!(report.datagrams_sent, 5);
    let mut batch = RecvBatch::new(8, 200);
    take(&mut receiver, &mut batch, 5);
    let counters = receiver.counters();
    assert_eq!(counters.truncated + counters.datagrams_received, 5);
    if receiver.capabilities().gro == Support::Available && default_gso() == Support::Available {
        assert_eq!(counters.truncated, 5);
    }
}

#[test]
fn what_a_full_receiver_misses_is_known_and_the_sender_does_not_care() {
    let small = SocketOptions { receive_buffer: 4_096, ..SocketOptions::default() };
    let (mut sender, mut receiver) = (bind(V4), bind_with(V4, &small));
    let to = address(&receiver);
    let report = sender.send_batch((0..500).map(|_| (to, &[7; 500][..])));
    assert_eq!(totals(report), (500, 250_000, 0, 0));
    let mut batch = RecvBatch::default();
    let mut kept = 0;
    while let 1.. = receiver.receive(&mut batch).expect("nothing fails") {
        kept += batch.iter().count();
    }
    assert!((1..500).contains(&kept), "{kept} of 500 fitted");
    // The count comes with the next message that is queued.
    sender.send_to(b"next", to).expect("a send on loopback");
    collect(&mut receiver, &mut batch, 1);
    if receiver.capabilities().queue_drops == Support::Available {
        assert_eq!(receiver.counters().queue_drops, 500 - kept as u64);
    }
}

#[test]
fn the_call_that_reaches_the_end_of_the_queue_knows_it() {
    let (mut sender, mut receiver) = (bind(V4), bind(V4));
    let to = address(&receiver);
    let seen_with_datagrams = cfg!(target_os = "linux");
    // A call offers room for 8 messages first and for the rest of its 12 then.
    for (waiting, calls) in
        [(7, &[7][..]), (8, &[8]), (11, &[11]), (12, &[12, 0]), (30, &[12, 12, 6])]
    {
        let mut batch = RecvBatch::new(12, 2_000);
        let report = sender.send_batch((0..waiting).map(|_| (to, &[7; 100][..])));
        assert_eq!(report.datagrams_sent, waiting);
        for (call, count) in calls.iter().enumerate() {
            assert_eq!(receiver.receive(&mut batch).expect("nothing fails"), *count);
            let is_last = call == calls.len() - 1;
            // Empty where it was asked of, and on Linux where less came than had room.
            let found_empty = *count == 0 || waiting == 8;
            let wanted = is_last && (found_empty || seen_with_datagrams);
            assert_eq!(batch.emptied_queue(), wanted, "{waiting} waiting, call {call}");
        }
        assert_eq!(receiver.receive(&mut batch).expect("nothing fails"), 0);
        assert!(batch.emptied_queue());
    }
}

#[test]
fn an_error_is_not_the_end_of_the_queue() {
    // It is connected to somebody else: it may send, and what is sent to it is refused.
    let (peer, peers) = closed();
    let mut socket = bind(V4);
    socket.connect(peers).expect("loopback can be connected to");
    let mut batch = RecvBatch::default();
    socket.send(b"anybody?").expect("the first send cannot know");
    peer.send_to(b"one", address(&socket)).expect("a send on loopback");
    let failed = failure(&mut socket, &mut batch);
    assert_eq!((failed, batch.emptied_queue()), (Some(ErrorKind::ConnectionRefused), false));
    assert_eq!(collect(&mut socket, &mut batch, 1), [(peers, b"one".to_vec())]);
}

#[test]
fn buffers_are_as_large_as_asked_for_or_as_the_system_allows() {
    let asked = SocketOptions { receive_buffer: 64 << 10, send_buffer: 32 << 10, ..options() };
    let socket = bind_with(V4, &asked);
    assert!(socket.receive_buffer_len().expect("an option") >= 64 << 10);
    assert!(socket.send_buffer_len().expect("an option") >= 32 << 10);
    let most = SocketOptions { receive_buffer: usize::MAX, ..SocketOptions::default() };
    let huge = UdpSocket::bind(V4.parse().expect("an address"), &most).expect("it is capped");
    assert!(huge.receive_buffer_len().expect("an option") > 64 << 10);
}

#[test]
fn a_port_is_shared_only_by_those_who_ask() {
    let shared = SocketOptions { reuse_port: ReusePort::Shared, ..SocketOptions::default() };
    let first = bind_with(V4, &shared);
    let second = UdpSocket::bind(address(&first), &shared).expect("both ask for it");
    assert_eq!(address(&second), address(&first));
    let third = UdpSocket::bind(address(&first), &SocketOptions::default());
    assert_eq!(third.expect_err("it does not ask").kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_socket_made_elsewhere_is_taken_over() {
    let made = StdSocket::bind(V4).expect("a socket on loopback");
    let address = made.local_addr().expect("a bound socket has an address");
    let mut socket = UdpSocket::from_std(made, &options()).expect("a good socket");
    let mut batch = RecvBatch::default();
    assert_eq!(socket.receive(&mut batch).expect("it does not block"), 0);
    bind(V4).send_to(b"found", address).expect("a send on loopback");
    assert_eq!(collect(&mut socket, &mut batch, 1)[0].1, b"found");
}

#[test]
fn a_socket_and_its_batch_move_to_another_thread() {
    let (mut sender, mut receiver) = (bind(V4), bind(V4));
    let to = address(&receiver);
    let mut batch = RecvBatch::default();
    sender.send_to(b"first", to).expect("a send on loopback");
    collect(&mut receiver, &mut batch, 1);
    let found = thread::spawn(move || {
        let kept = batch.iter().map(|(_, datagram)| datagram.to_vec()).collect::<Vec<_>>();
        sender.send_to(b"second", to).expect("a send on loopback");
        (kept, collect(&mut receiver, &mut batch, 1))
    });
    let (kept, found) = found.join().expect("the thread does not panic");
    assert_eq!(kept, [b"first"]);
    assert_eq!(found[0].1, b"second");
}

#[test]
fn capabilities_follow_the_options() {
    let off = SocketOptions { gso: Offload::Off, gro: Offload::Off, ..SocketOptions::default() };
    let capabilities = bind_with(V4, &off).capabilities();
    assert_eq!((capabilities.gso, capabilities.gro), (Support::Disabled, Support::Disabled));
    assert_eq!(capabilities.segments_max, 1);
    let found = bind(V4).capabilities();
    println!("this kernel: {found:?}");
    match found.gso {
        Support::Available => assert!([64, 128].contains(&found.segments_max)),
        _ => assert_eq!(found.segments_max, 1),
    }
}

/// A device of 1,500 bytes with a neighbour that never answers, in a network
/// namespace of this test's own: nothing leaves the machine.
#[cfg(target_os = "linux")]
mod silent_neighbour {
    use std::env;
    use std::process::Command;

    use super::*;

    const INSIDE: &str = "MAPLEAF_TEST_INSIDE_NAMESPACE";
    const WORLD: &str = "ip link set lo up && ip link add v0 type veth peer name v1 \
        && ip link set v0 up && ip link set v1 up && ip addr add 10.9.0.1/24 dev v0";
    const SILENT: &str = "10.9.0.2:9";

    /// Whether this process may go on with the test. If not, the test has been run
    /// by a child in a namespace of its own, or the machine has no namespaces.
    fn inside(test: &str) -> bool {
        if env::var_os(INSIDE).is_some() {
            return true;
        }
        let run = |script: &str| {
            let me = env::current_exe().expect("a running program has a path");
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "--net", "sh", "-c", script]).arg("sh").arg(me);
            command.arg(format!("silent_neighbour::{test}")).env(INSIDE, "1").output()
        };
        if !run(WORLD).is_ok_and(|outcome| outcome.status.success()) {
            println!("skipped {test}: no network namespaces with veth here");
            return false;
        }
        let outcome = run(&format!("{WORLD} && exec \"$1\" --exact \"$2\"")).expect("it just ran");
        let said = String::from_utf8_lossy(&outcome.stdout);
        assert!(outcome.status.success() && said.contains("1 passed"), "{said}");
        false
    }

    fn silent() -> SocketAddr {
        SILENT.parse().expect("an address")
    }

    #[test]
    fn a_full_send_buffer_is_a_loss_that_is_counted_and_forgotten() {
        if !inside("a_full_send_buffer_is_a_loss_that_is_counted_and_forgotten") {
            return;
        }
        let small = SocketOptions { send_buffer: 8_192, ..SocketOptions::default() };
        let mut sender = bind_with("0.0.0.0:0", &small);
        let memory = memory(3 * 1_000);
        let to = [silent(); 40];
        // What waits for the neighbour's hardware address fills the buffer.
        let report = sender.send_segments(Destinations::Each(&to), Segments::new(&memory, 1_000));
        assert!(report.datagrams_sent > 0 && report.would_block > 0, "{report:?}");
        assert_eq!(report.datagrams_sent + report.would_block, 3 * 40, "{report:?}");
        let full = sender.send_to(b"one more", silent()).expect_err("there is no room");
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let counters = sender.counters();
        assert_eq!(counters.would_block, report.would_block + 1);
        assert_eq!(
            (counters.datagrams_sent, counters.send_errors.total()),
            (report.datagrams_sent, 0)
        );
    }

    #[test]
    fn a_path_too_narrow_for_the_segment_does_not_cost_others_their_segments() {
        if !inside("a_path_too_narrow_for_the_segment_does_not_cost_others_their_segments") {
            return;
        }
        let mut sender = bind_with("0.0.0.0:0", &options());
        let mut receiver = bind(V4);
        let memory = memory(3 * 3_000 - 1);
        let narrow = [silent(), address(&receiver), silent()];
        for _ in 0..20 {
            let segments = Segments::new(&memory, 3_000);
            let report = sender.send_segments(Destinations::Each(&narrow), segments);
            assert_eq!(totals(report), (9, 3 * 8_999, 0, 0));
            let found = collect(&mut receiver, &mut RecvBatch::default(), 3);
            assert!(found.iter().map(|(_, datagram)| &datagram[..]).eq(memory.chunks(3_000)));
        }
        assert_eq!(sender.capabilities().gso, default_gso());
        if default_gso() == Support::Available {
            assert_eq!(sender.counters().gso_fallbacks, 40);
        }
    }
}

/// Lends periods until the kernel is done with them, and gives the socket back.
#[cfg(target_os = "linux")]
fn lend_periods(home: &str, to: &[SocketAddr], periods: usize) -> UdpSocket {
    let options = SocketOptions { zerocopy: Offload::Detect, ..options() };
    let mut sender = bind_with(home, &options);
    assert_eq!(sender.capabilities().zerocopy, Support::Available);
    let memory: Vec<u8> = (0..40 * 1_200).map(|at| (at / 1_200) as u8).collect();
    let deadline = Instant::now() + WATCHDOG;
    for _ in 0..periods {
        let segments = Segments::new(&memory, 1_200);
        let (report, lent) = sender.lend_segments(Destinations::Each(to), segments);
        assert_eq!(report.datagrams_sent, 40 * to.len() as u64, "{report:?}");
        while lent.is_some_and(|lent| !sender.is_over(lent)) {
            assert!(Instant::now() < deadline, "the kernel keeps what it was lent");
            sender.reclaim();
        }
    }
    sender
}

#[cfg(target_os = "linux")]
#[test]
fn lent_memory_arrives_and_is_given_up_where_the_kernel_copies() {
    for home in families() {
        let mut receiver = bind(home);
        let sender = lend_periods(home, &[address(&receiver)], 2);
        let mut batch = RecvBatch::default();
        let found = collect(&mut receiver, &mut batch, 80);
        let wanted = (0..40).cycle().take(80).map(|at| vec![at as u8; 1_200]);
        assert!(found.into_iter().map(|(_, datagram)| datagram).eq(wanted));
        // Loopback hands the bytes to somebody who may keep them, so they are copied.
        let counters = sender.counters();
        assert_eq!((counters.lent, counters.lent_copied), (2, 2));
        let sender = lend_periods(home, &[address(&receiver)], 70);
        assert_eq!(sender.counters().lent, 64);
        assert_eq!(sender.capabilities().zerocopy, Support::GivenUp);
        // What is short is not worth it.
        let mut sender = bind_with(home, &SocketOptions { zerocopy: Offload::Detect, ..options() });
        let segments = Segments::new(&[1; 1_200], 1_200);
        let to = [address(&receiver)];
        assert_eq!(sender.lend_segments(Destinations::Each(&to), segments).1, None);
        // Another handle lends nothing: the kernel's numbers are those of the socket.
        let clone = sender.try_clone().expect("a descriptor is left");
        assert_eq!(clone.capabilities().zerocopy, Support::Disabled);
    }
}

/// Set in a test that was started again in a network of its own.
#[cfg(target_os = "linux")]
const INSIDE: &str = "MAPLEAF_TEST_INSIDE";

#[cfg(target_os = "linux")]
#[test]
fn lent_memory_leaves_uncopied_by_a_device_that_takes_it() {
    let name = "lent_memory_leaves_uncopied_by_a_device_that_takes_it";
    if std::env::var_os(INSIDE).is_none() {
        // Loopback is where the socket tries how many segments a message takes.
        let script = "{ ip link add sink type dummy || ip link add sink type ifb; } && \
                      ip addr add 10.77.0.1/16 dev sink && \
                      ip link set sink up && ip link set lo up && exec \"$@\"";
        let mut command = std::process::Command::new("unshare");
        command.args(["-n", "sh", "-c", script, "sh"]);
        command.arg(std::env::current_exe().expect("a test has a name"));
        command.args([name, "--exact", "--nocapture"]).env(INSIDE, "1");
        let told = match command.output() {
            Ok(told) => told,
            Err(error) => return println!("skipped, no network of its own: {error}"),
        };
        let [stdout, stderr] =
            [&told.stdout, &told.stderr].map(|text| String::from_utf8_lossy(text));
        if !stdout.contains("running 1 test") {
            return println!("skipped, no device that drops all: {stderr}");
        }
        assert!(told.status.success(), "{stdout}{stderr}");
        return;
    }
    // More messages than the kernel has room to note at a time.
    let to: Vec<SocketAddr> = (0..600_u16)
        .map(|number| SocketAddr::from(([10, 77, 1 + (number >> 8) as u8, number as u8], 4_720)))
        .collect();
    let sender = lend_periods("10.77.0.1:0", &to, 3);
    let counters = sender.counters();
    assert_eq!(counters.lent_copied, 0, "{counters:?}");
    // All were lent, but for those that found no room.
    assert!((200..=1_800).contains(&counters.lent), "{counters:?}");
    assert_eq!(sender.capabilities().zerocopy, Support::Available);
}
