//! Redis: publish and subscribe, and leaves as keys for those who come late.
//!
//! Its protocol is written here, in large pieces and without waiting for answers: no
//! client library is faster than none.

use std::io;
use std::io::Write as _;

use anyhow::Context as _;

use crate::Seat;
use crate::job::Replica;
use crate::job::Sender;
use crate::stream::Framed;
use crate::stream::Stream;

/// Keys of one MGET: the server answers each in one piece.
const KEYS_AT_ONCE: u32 = 1_000;

pub fn sender(seat: &Seat) -> anyhow::Result<Box<dyn Sender>> {
    let mut stream = Stream::connect(seat.near(), seat.port)?;
    // Otherwise each value published is answered by a number that has to be read.
    stream.write(b"*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n")?;
    stream.flush()?;
    Ok(Box::new(Framed::new(stream, seat.keyed, head)))
}

fn head(head: &mut Vec<u8>, keyed: bool, leaf: u32, size: usize) -> io::Result<()> {
    match keyed {
        true => write!(head, "*3\r\n$3\r\nSET\r\n$9\r\nl{leaf:08}\r\n${size}\r\n"),
        false => write!(head, "*3\r\n$7\r\nPUBLISH\r\n$1\r\nm\r\n${size}\r\n"),
    }
}

pub fn subscribe(seat: &Seat, mut replica: Replica) -> anyhow::Result<()> {
    replica.begin();
    let mut stream = Stream::connect(seat.near(), seat.port)?;
    stream.write(b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nm\r\n")?;
    stream.flush()?;
    if seat.spin {
        stream.set_spinning()?;
    }
    while number(&mut stream, b":")? != 1 {}
    replica.ready(1);
    if seat.keyed {
        fetch(seat, &mut replica)?;
    }
    loop {
        bulk(&mut stream, &mut replica)?;
    }
}

/// Reads all keys, over a connection of its own.
fn fetch(seat: &Seat, replica: &mut Replica) -> anyhow::Result<()> {
    let mut stream = Stream::connect(seat.near(), seat.port)?;
    let (mut asked, mut told) = (0, 0);
    while told < seat.leaves {
        // Two questions under way keep the server busy and its answers short.
        while asked < seat.leaves && asked - told <= KEYS_AT_ONCE {
            let end = (asked + KEYS_AT_ONCE).min(seat.leaves);
            let mut question = format!("*{}\r\n$4\r\nMGET\r\n", end - asked + 1);
            for leaf in asked..end {
                question += &format!("$9\r\nl{leaf:08}\r\n");
            }
            stream.write(question.as_bytes())?;
            stream.flush()?;
            asked = end;
        }
        let count = number(&mut stream, b"*")?;
        for _ in 0..count {
            bulk(&mut stream, replica)?;
        }
        told += u32::try_from(count)?;
    }
    Ok(())
}

/// The next line that begins so, as a number.
fn number(stream: &mut Stream, begin: &[u8]) -> anyhow::Result<u64> {
    loop {
        let Some(line) = stream.line() else {
            stream.fill()?;
            continue;
        };
        anyhow::ensure!(!line.starts_with(b"-"), "redis: {}", String::from_utf8_lossy(line));
        let found = match line.strip_prefix(begin) {
            Some(digits) => Some(std::str::from_utf8(digits)?.parse()?),
            None => None,
        };
        let size = line.len() + 2;
        stream.skip(size);
        if let Some(found) = found {
            return Ok(found);
        }
    }
}

/// Everything of a message before its size.
const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$1\r\nm\r\n";

/// Applies the next value: a message of the channel, or an element of an answer.
fn bulk(stream: &mut Stream, replica: &mut Replica) -> anyhow::Result<()> {
    loop {
        if let Some((head, size)) = bulk_at(stream.bytes())? {
            replica.take(&stream.bytes()[head..head + size]);
            stream.skip(head + size + 2);
            return Ok(());
        }
        stream.fill()?;
    }
}

/// Where the bytes of a value that is here whole begin, and how many they are.
fn bulk_at(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let skip = if bytes.starts_with(MESSAGE) { MESSAGE.len() } else { 0 };
    let rest = &bytes[skip..];
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    if skip == 0 && bytes[0] == b'*' && bytes.len() < MESSAGE.len() {
        return Ok(None);
    }
    let size = rest.strip_prefix(b"$").context("redis sent something else than a value")?;
    let size: usize = std::str::from_utf8(&size[..end - 2])?.parse().context("a size")?;
    let head = skip + end + 1;
    Ok((bytes.len() >= head + size + 2).then_some((head, size)))
}
