//! The limit: bare datagrams through the sockets that mapleaf uses.
//!
//! One thread sends periods of equal datagrams, as segments of one message where the
//! kernel can, to every receiver; each receiver has a thread that takes them in batches
//! and looks at nothing. What arrives is counted at each.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use mapleaf::layout::leaf_wire_len;
use mapleaf::layout::limits::DATAGRAM_HEADER_LEN;
use mapleaf::net::Destinations;
use mapleaf::net::MESSAGE_LEN_MAX;
use mapleaf::net::RecvBatch;
use mapleaf::net::Segments;
use mapleaf::net::SocketOptions;
use mapleaf::net::UdpSocket;
use mapleaf::runtime::RECEIVE_BUFFER_DEFAULT;

use crate::machine;
use crate::options::Common;

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
