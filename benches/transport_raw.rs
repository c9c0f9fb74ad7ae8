//! Sending by a raw socket beside sending by UDP, with segments and without.
//!
//! A period of 54 datagrams of 1,200 bytes goes to 1, 16 and 256 destinations on
//! loopback three ways in turn, many times, so that a machine that changes its speed
//! changes it for all; the ratio is that of neighbours. Receivers do not read: once
//! their queues are full, the kernel does everything but queue.
//!
//! `cargo bench --features net --bench transport_raw`; with `--test`, or when run by
//! `cargo test`, every part runs once and nothing is measured. Without `CAP_NET_RAW`
//! it says so.

use std::env;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use mapleaf::net::Destinations;
use mapleaf::net::Offload;
use mapleaf::net::Segments;
use mapleaf::net::SocketOptions;
use mapleaf::net::UdpSocket;

const SEGMENT: usize = 1_200;
const DATAGRAMS: usize = 54;
const BUFFER: usize = 4 << 20;

/// How much is run.
struct Effort {
    rounds: usize,
    pass: Duration,
}

const MEASURE: Effort = Effort { rounds: 21, pass: Duration::from_millis(60) };
const TEST: Effort = Effort { rounds: 1, pass: Duration::ZERO };

fn main() {
    let measured = env::args().any(|argument| argument == "--bench")
        && !env::args().any(|argument| argument == "--test");
    let effort = if measured { MEASURE } else { TEST };
    println!("{DATAGRAMS} datagrams of {SEGMENT} B a period, loopback");
    for home in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
        for count in [1, 16, 256] {
            send(home, count, &effort);
        }
    }
}

fn socket(home: SocketAddr, gso: Offload) -> UdpSocket {
    let (receive_buffer, send_buffer) = (BUFFER, BUFFER);
    let options = SocketOptions { receive_buffer, send_buffer, gso, ..SocketOptions::default() };
    UdpSocket::bind(home, &options).expect("a socket on loopback")
}

fn send(home: SocketAddr, count: usize, effort: &Effort) {
    let mut raw = socket(home, Offload::Detect);
    if let Err(error) = raw.switch_to_raw() {
        return println!("skipped, raw sockets are NOT measured: {error}");
    }
    let ways = [raw, socket(home, Offload::Off), socket(home, Offload::Detect)];
    let receivers: Vec<UdpSocket> = (0..count).map(|_| socket(home, Offload::Detect)).collect();
    let own = receivers.iter().map(|socket| socket.local_addr().expect("it is bound"));
    let to: Vec<SocketAddr> = own.collect();
    let memory = vec![0x5a; DATAGRAMS * SEGMENT];
    let mut rates = ways.map(|socket| (socket, Vec::new()));
    for round in 0..effort.rounds {
        // Whoever comes first alternates as well.
        for turn in 0..rates.len() {
            let (socket, found) = &mut rates[(round + turn) % 3];
            found.push(rate(socket, &to, &memory, effort.pass));
        }
    }
    if effort.pass.is_zero() {
        return println!("send to {count:>3} at {home} ran");
    }
    let [raw, single, joined] = rates.map(|(_, found)| found);
    let family = if home.is_ipv6() { "IPv6" } else { "IPv4" };
    println!(
        "send to {count:>3}, {family}: raw {:.2} M/s, UDP {:.2} M/s ({}), UDP with GSO {:.2} M/s ({})",
        quartiles(raw.iter().copied())[1] / 1e6,
        quartiles(single.iter().copied())[1] / 1e6,
        share(&raw, &single),
        quartiles(joined.iter().copied())[1] / 1e6,
        share(&raw, &joined),
    );
}

/// What raw reaches of another way in the same rounds.
fn share(raw: &[f64], other: &[f64]) -> String {
    let [low, median, high] = quartiles(raw.iter().zip(other).map(|(raw, other)| raw / other));
    format!("raw is {median:.2} of it, {low:.2} to {high:.2}")
}

fn rate(socket: &mut UdpSocket, to: &[SocketAddr], memory: &[u8], pass: Duration) -> f64 {
    let clock = Instant::now();
    let mut sent = 0;
    loop {
        let segments = Segments::new(memory, SEGMENT);
        let report = socket.send_segments(Destinations::Each(to), segments);
        assert_eq!(report.datagrams_sent, (to.len() * DATAGRAMS) as u64, "{report:?}");
        sent += report.datagrams_sent;
        if clock.elapsed() >= pass {
            return sent as f64 / clock.elapsed().as_secs_f64();
        }
    }
}

/// Lower quartile, median and upper quartile.
fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
