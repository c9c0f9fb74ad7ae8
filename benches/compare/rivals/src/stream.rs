//! A TCP connection whose frames are read and written in large pieces.

use std::io;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use crate::job::Sender;

/// One system call carries some hundred values.
const PIECE: usize = 64 << 10;

pub struct Stream {
    socket: TcpStream,
    held: Vec<u8>,
    read: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Stream {
    pub fn connect(host: &str, port: u16) -> anyhow::Result<Stream> {
        let socket = TcpStream::connect((host, port))?;
        // What is flushed is meant to go: coalescing is done here.
        socket.set_nodelay(true)?;
        let read = vec![0; 4 * PIECE];
        Ok(Stream { socket, held: Vec::with_capacity(2 * PIECE), read, begin: 0, end: 0 })
    }

    /// Spins in reading instead of sleeping.
    pub fn set_spinning(&self) -> io::Result<()> {
        self.socket.set_nonblocking(true)
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE { self.flush() } else { Ok(()) }
    }

    pub fn flush(&mut self) -> io::Result<()> {
        let mut rest = self.held.as_slice();
        while !rest.is_empty() {
            match self.socket.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.held.clear();
        Ok(())
    }

    /// What has been read and not been taken.
    pub fn bytes(&self) -> &[u8] {
        &self.read[self.begin..self.end]
    }

    pub fn skip(&mut self, count: usize) {
        self.begin += count;
        assert!(self.begin <= self.end);
    }

    /// Waits for more bytes.
    pub fn fill(&mut self) -> io::Result<()> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.read.len() - self.end < PIECE {
            self.read.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
            if self.read.len() - self.end < PIECE {
                self.read.resize(2 * self.read.len(), 0);
            }
        }
        loop {
            match self.socket.read(&mut self.read[self.end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.end += count;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error),
            }
        }
    }

    /// A line without its end, of what has been read; nothing if it is not whole.
    pub fn line(&self) -> Option<&[u8]> {
        let bytes = self.bytes();
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        Some(&bytes[..end.saturating_sub(1)])
    }
}

/// Writes the head of a value: whether it has a key, which leaf it is of, how long it is.
pub type Head = fn(&mut Vec<u8>, bool, u32, usize) -> io::Result<()>;

/// Values of a protocol that has each behind a head, and a line's end behind each.
pub struct Framed {
    stream: Stream,
    keyed: bool,
    write_head: Head,
    head: Vec<u8>,
}

impl Framed {
    pub fn new(stream: Stream, keyed: bool, write_head: Head) -> Framed {
        Framed { stream, keyed, write_head, head: Vec::new() }
    }
}

impl Sender for Framed {
    fn send(&mut self, leaf: u32, message: &[u8]) -> anyhow::Result<()> {
        self.head.clear();
        (self.write_head)(&mut self.head, self.keyed, leaf, message.len())?;
        self.stream.write(&self.head)?;
        self.stream.write(message)?;
        Ok(self.stream.write(b"\r\n")?)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.flush()?)
    }
}
