//! No rival, but what limits all: values in bare datagrams, one send a subscriber.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::Seat;
use crate::board::Board;
use crate::board::SUBSCRIBERS_MAX;
use crate::board::Sub;
use crate::job::Replica;
use crate::job::Sender;

/// As much as the system lets an ordinary process have, usually: a burst has to lie
/// somewhere.
const BUFFER: usize = 4 << 20;

struct Bare {
    host: Ipv4Addr,
    socket: UdpSocket,
    to: Vec<SocketAddr>,
}

fn socket(host: Ipv4Addr) -> anyhow::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    socket.bind(&SocketAddr::from((host, 0)).into())?;
    Ok(socket.into())
}

pub fn sender(seat: &Seat) -> anyhow::Result<Box<dyn Sender>> {
    let socket = socket(seat.near().parse()?)?;
    Ok(Box::new(Bare { host: seat.far().parse()?, socket, to: Vec::new() }))
}

impl Sender for Bare {
    fn send(&mut self, _: u32, message: &[u8]) -> anyhow::Result<()> {
        for to in &self.to {
            self.socket.send_to(message, to)?;
        }
        Ok(())
    }

    fn look(&mut self, board: &Board) -> anyhow::Result<()> {
        let ports = (0..SUBSCRIBERS_MAX).map(|number| board.sub(number, Sub::Ready) as u16);
        let to = ports.filter(|port| *port > 0);
        self.to = to.map(|port| (self.host, port).into()).collect();
        Ok(())
    }
}

pub fn subscribe(seat: &Seat, mut replica: Replica) -> anyhow::Result<()> {
    let socket = socket(seat.far().parse()?)?;
    socket.set_nonblocking(seat.spin)?;
    replica.begin();
    replica.ready(socket.local_addr()?.port());
    let mut message = vec![0; 65_536];
    loop {
        match socket.recv(&mut message) {
            Ok(size) => replica.take(&message[..size]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}
