//! Receiving one datagram a call, for systems without `recvmmsg`.
//!
//! It has the face of the Linux file's `ReceiveArrays`. On Linux it is compiled
//! for its own tests alone.

use std::io;
use std::net::SocketAddr;
use std::net::UdpSocket;

use crate::net::batch::Received;

/// A buffer, an address and a length for each of a fixed number of datagrams.
pub(super) struct ReceiveArrays {
    storage: Vec<u8>,
    /// One byte more than may be received: a datagram that fills it is longer.
    stride: usize,
    heads: Vec<Option<(usize, SocketAddr)>>,
}

impl ReceiveArrays {
    /// Room for `count` datagrams of up to `buffer_len` bytes.
    pub(super) fn new(count: usize, buffer_len: usize) -> ReceiveArrays {
        let stride = buffer_len + 1;
        ReceiveArrays { storage: vec![0; count * stride], stride, heads: vec![None; count] }
    }

    /// Number of datagrams that there is room for.
    pub(super) fn count(&self) -> usize {
        self.heads.len()
    }

    /// Receives up to `count` datagrams into the places from `first` on, and tells
    /// how many came. An error behind the first datagram is left to the next call.
    pub(super) fn receive(
        &mut self,
        socket: &UdpSocket,
        first: usize,
        count: usize,
    ) -> io::Result<usize> {
        let places = self.heads.iter_mut().zip(self.storage.chunks_exact_mut(self.stride));
        let mut came = 0;
        for (head, buffer) in places.skip(first).take(count) {
            match receive_one(socket, buffer) {
                Ok(received) => *head = Some(received),
                Err(error) if came == 0 => return Err(error),
                Err(_) => break,
            }
            came += 1;
        }
        Ok(came)
    }

    /// The datagram at `index`, of those that came last.
    pub(super) fn message(&self, index: usize) -> Option<Received> {
        let (len, source) = (*self.heads.get(index)?)?;
        let start = index * self.stride;
        let place = (len < self.stride).then_some(start..start + len);
        Some(Received { source: Some(source), place, len, segment: None, drops: None })
    }

    /// Bytes of the buffers.
    pub(super) fn storage(&self) -> &[u8] {
        &self.storage
    }
}

fn receive_one(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_whole_or_are_known_to_be_cut() {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        to.set_nonblocking(true).unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let source = from.local_addr().unwrap();
        for len in [10, 0, 11, 3] {
            from.send_to(&vec![len as u8; len], to.local_addr().unwrap()).unwrap();
        }
        let mut arrays = ReceiveArrays::new(3, 10);
        assert_eq!(arrays.count(), 3);
        assert_eq!(arrays.receive(&to, 0, 2).unwrap(), 2);
        assert_eq!(arrays.receive(&to, 2, 9).unwrap(), 1);
        let places: Vec<_> = (0..3).map(|i| arrays.message(i).unwrap().place).collect();
        assert_eq!(places, [Some(0..10), Some(11..11), None]);
        assert_eq!(arrays.storage()[..10], [10; 10]);
        assert_eq!(arrays.receive(&to, 0, 3).unwrap(), 1);
        assert_eq!(arrays.message(0).unwrap().source, Some(source));
        let empty = arrays.receive(&to, 0, 3).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
    }
}
