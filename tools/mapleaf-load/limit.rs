//! The limit: bare datagrams through the sockets that mapleaf uses.
//!
//! One thread sends periods of equal datagrams, as segments of one message where the
//! kernel can, to every receiver; each receiver has a thread that takes them in batches
//! and looks at nothing. What arrives is counted at each.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket as StdSocket;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use mapleaf::layout::leaf_wire_len;
use mapleaf::layout::limits::DATAGRAM_HEADER_LEN;
use mapleaf::net::Destinations;
use mapleaf::net::MESSAGE_LEN_MAX;
use mapleaf::net::RecvBatch;
use mapleaf::net::Segments;
use mapleaf::net::SocketOptions;
use mapleaf::net::UdpSocket;
use mapleaf::runtime::RECEIVE_BUFFER_DEFAULT;

use crate::figures::Report;
use crate::machine;
use crate::machine::now_ns;
use crate::options::Common;
use crate::turns::time_histogram;

/// Time of one measurement of a way that a fixed number of bytes takes.
const WAY_TIME: Duration = Duration::from_millis(300);

/// A receiver that sleeps looks so often whether it is over.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Leaves that an EVENT of this size carries.
pub(crate) fn leaves_per_datagram(common: &Common) -> usize {
    let room = common.datagram_size.saturating_sub(DATAGRAM_HEADER_LEN);
    (room / leaf_wire_len(common.size as usize)).max(1)
}

/// Datagrams a second that arrive at each of so many receivers.
pub(crate) fn datagrams_per_second(
    common: &Common,
    receivers: u32,
    time: Duration,
) -> anyhow::Result<Vec<f64>> {
    let buffer = RECEIVE_BUFFER_DEFAULT;
    let options =
        SocketOptions { receive_buffer: buffer, send_buffer: buffer, ..SocketOptions::default() };
    let home = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bind = |_| UdpSocket::bind(home, &options);
    let sockets = (0..receivers).map(bind).collect::<Result<Vec<_>, _>>()?;
    let addresses = sockets.iter().map(UdpSocket::local_addr).collect::<Result<Vec<_>, _>>()?;
    let mut sender = UdpSocket::bind(home, &options)?;
    let period = vec![0x5a; MESSAGE_LEN_MAX / common.datagram_size * common.datagram_size];
    let over = AtomicBool::new(false);
    let begun = Instant::now();
    let arrived = thread::scope(|scope| {
        let receivers: Vec<_> =
            sockets.into_iter().map(|socket| scope.spawn(|| receive(socket, &over))).collect();
        let mut outcome = Ok(());
        while begun.elapsed() < time && outcome.is_ok() {
            let segments = Segments::new(&period, common.datagram_size);
            sender.send_segments(Destinations::Each(&addresses), segments);
            outcome = machine::go_on();
        }
        over.store(true, Ordering::Relaxed);
        let counts = receivers.into_iter().map(|one| one.join().unwrap_or(0)).collect::<Vec<_>>();
        outcome.map(|()| counts)
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    Ok(arrived.into_iter().map(|count| count as f64 / seconds).collect())
}

fn receive(mut socket: UdpSocket, over: &AtomicBool) -> u64 {
    let (mut batch, mut count) = (RecvBatch::default(), 0);
    while !over.load(Ordering::Relaxed) {
        match socket.receive(&mut batch) {
            Ok(0) | Err(_) => thread::yield_now(),
            Ok(arrived) => count += arrived as u64,
        }
    }
    count
}

/// Adds how long the bytes of a figure take as bare datagrams to one receiver.
pub(crate) fn add_way(
    common: &Common,
    figure: &str,
    bytes: f64,
    report: &mut Report,
) -> anyhow::Result<()> {
    let datagrams = (bytes / common.datagram_size as f64).ceil().max(1.0);
    let name = "limit: as many bytes in bare datagrams";
    for _ in 0..common.repetitions {
        let rate = datagrams_per_second(common, 1, WAY_TIME)?.iter().sum::<f64>();
        report.add(name, "ms", 1e3 * datagrams / rate.max(1.0));
    }
    set_beside(figure, name, report);
    Ok(())
}

/// Says of a figure how many times its limit it is, unless nothing arrived to measure that by.
fn set_beside(figure: &str, limit: &str, report: &mut Report) {
    let (median, limit) = (report.median(figure), report.median(limit));
    if let (Some(median), Some(limit)) = (median, limit.filter(|limit| *limit > 0.0)) {
        report.limit(figure, limit);
        report.add(&format!("{figure}, in times the limit"), "x", median / limit);
    }
}

/// Adds what a bare datagram takes from its sending to its receipt, of the size of an EVENT with
/// one leaf, at this rate: the receiver sleeps in its call, or spins as the subscriber does.
pub(crate) fn add_latencies(
    common: &Common,
    rate: u64,
    time: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    const SHARES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    for _ in 0..common.repetitions {
        let latencies = latencies(common, rate, time)?;
        for (share, quantile) in SHARES {
            let us = latencies.value_at_quantile(quantile) as f64 / 1e3;
            report.add(&format!("limit: a bare datagram {share}"), "us", us);
        }
    }
    for (share, _) in SHARES {
        let limit = format!("limit: a bare datagram {share}");
        set_beside(&format!("latency {share}"), &limit, report);
    }
    report.note("a datagram of the limit is sent and received by two threads that do nothing else, and none is lost on purpose");
    Ok(())
}

fn latencies(common: &Common, rate: u64, time: Duration) -> anyhow::Result<Histogram<u64>> {
    let home = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (receiver, sender) = (StdSocket::bind(home)?, StdSocket::bind(home)?);
    if common.busy_poll {
        receiver.set_nonblocking(true)?;
    } else {
        receiver.set_read_timeout(Some(LOOK_INTERVAL))?;
    }
    sender.connect(receiver.local_addr()?)?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let timed = scope.spawn(|| time_arrivals(&receiver, &over));
        let sent = send_at(&sender, common, rate, time);
        over.store(true, Ordering::Relaxed);
        let timed = timed.join().ok().context("the receiver of the limit ended early")??;
        sent.map(|()| timed)
    })
}

/// Sends what is due, and sleeps or spins between, as the server's feed does.
fn send_at(socket: &StdSocket, common: &Common, rate: u64, time: Duration) -> anyhow::Result<()> {
    let mut datagram = vec![0x5a; DATAGRAM_HEADER_LEN + leaf_wire_len(common.size as usize)];
    let (begun, mut made) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        machine::go_on()?;
        let next = Duration::from_secs_f64((made + 1) as f64 / rate as f64);
        match next.saturating_sub(begun.elapsed()) {
            Duration::ZERO => {
                datagram[..8].copy_from_slice(&now_ns().to_le_bytes());
                socket.send(&datagram)?;
                made += 1;
            }
            _ if common.busy_poll => std::hint::spin_loop(),
            left => thread::sleep(left),
        }
    }
    Ok(())
}

fn time_arrivals(socket: &StdSocket, over: &AtomicBool) -> anyhow::Result<Histogram<u64>> {
    let (mut latencies, mut datagram) = (time_histogram(), [0; MESSAGE_LEN_MAX]);
    while !over.load(Ordering::Relaxed) {
        match socket.recv(&mut datagram) {
            Ok(_) => {
                let sent = datagram.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                latencies.saturating_record(now_ns().saturating_sub(sent).max(1));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(latencies)
}
