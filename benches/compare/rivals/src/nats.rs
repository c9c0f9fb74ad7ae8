//! NATS: its core, and the key-value buckets of JetStream.
//!
//! Its protocol is written here, in large pieces and without waiting for answers: no
//! client library is faster than none.

use std::io;
use std::io::Write as _;

use anyhow::Context as _;
use anyhow::bail;

use crate::Seat;
use crate::job::Replica;
use crate::job::Sender;
use crate::stream::Framed;
use crate::stream::Stream;

/// A bucket as the command `nats kv add` makes it, kept in memory: one value a key.
const BUCKET: &str = r#"{"name":"KV_k","subjects":["$KV.k.>"],"max_msgs_per_subject":1,"storage":"memory","retention":"limits","discard":"new","max_msgs":-1,"max_bytes":-1,"num_replicas":1,"allow_rollup_hdrs":true,"deny_delete":true,"allow_direct":true}"#;

fn connect(host: &str, port: u16) -> anyhow::Result<Stream> {
    let mut stream = Stream::connect(host, port)?;
    // Without `verbose` nothing is answered; without `headers` nothing carries any.
    stream
        .write(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":false}\r\nPING\r\n")?;
    stream.flush()?;
    await_line(&mut stream, "PONG")?;
    Ok(stream)
}

/// Reads until a line begins so; an answer of the server's API is such a message, too.
fn await_line(stream: &mut Stream, begin: &str) -> anyhow::Result<()> {
    loop {
        let Some(line) = stream.line() else {
            stream.fill()?;
            continue;
        };
        let text = String::from_utf8_lossy(line).into_owned();
        let size = line.len() + 2;
        stream.skip(size);
        if text.starts_with("-ERR") || text.contains("\"error\"") {
            bail!("nats: {text}");
        }
        if text.starts_with(begin) {
            return Ok(());
        }
    }
}

/// Asks something of JetStream, and waits for its answer.
fn ask(stream: &mut Stream, subject: &str, question: &str) -> anyhow::Result<()> {
    let size = question.len();
    // Nobody else hears the answer.
    let inbox = format!("a{}", std::process::id());
    let text = format!("SUB {inbox} 9\r\nPUB {subject} {inbox} {size}\r\n{question}\r\n");
    stream.write(text.as_bytes())?;
    stream.flush()?;
    await_line(stream, "{\"type\"")?;
    Ok(stream.write(b"UNSUB 9\r\n")?)
}

pub fn sender(seat: &Seat) -> anyhow::Result<Box<dyn Sender>> {
    let mut stream = connect(seat.near(), seat.port)?;
    if seat.keyed {
        ask(&mut stream, "$JS.API.STREAM.CREATE.KV_k", BUCKET)?;
    }
    Ok(Box::new(Framed::new(stream, seat.keyed, head)))
}

fn head(head: &mut Vec<u8>, keyed: bool, leaf: u32, size: usize) -> io::Result<()> {
    match keyed {
        true => write!(head, "PUB $KV.k.{leaf} {size}\r\n"),
        false => write!(head, "PUB m {size}\r\n"),
    }
}

pub fn subscribe(seat: &Seat, mut replica: Replica) -> anyhow::Result<()> {
    replica.begin();
    let mut stream = connect(seat.near(), seat.port)?;
    if seat.keyed {
        watch(&mut stream, seat.number)?;
    } else {
        stream.write(b"SUB m 1\r\nPING\r\n")?;
        stream.flush()?;
        await_line(&mut stream, "PONG")?;
    }
    if seat.spin {
        stream.set_spinning()?;
    }
    replica.ready(1);
    loop {
        message(&mut stream, &mut replica)?;
    }
}

/// What a client's `watch` does: the last value of each key, then all that follow.
fn watch(stream: &mut Stream, number: usize) -> anyhow::Result<()> {
    let question = format!(
        r#"{{"stream_name":"KV_k","config":{{"deliver_subject":"d{number}","deliver_policy":"last_per_subject","ack_policy":"none","max_deliver":1,"filter_subject":"$KV.k.>","replay_policy":"instant","mem_storage":true,"num_replicas":1}}}}"#
    );
    // The server delivers as soon as somebody listens: that is after its answer is read.
    ask(stream, "$JS.API.CONSUMER.CREATE.KV_k", &question)?;
    stream.write(format!("SUB d{number} 7\r\n").as_bytes())?;
    Ok(stream.flush()?)
}

/// Applies the next message: `MSG subject sid [reply] size`, and the payload.
fn message(stream: &mut Stream, replica: &mut Replica) -> anyhow::Result<()> {
    loop {
        let Some(line) = stream.line() else {
            stream.fill()?;
            continue;
        };
        let head = line.len() + 2;
        if line.starts_with(b"PING") {
            stream.skip(head);
            stream.write(b"PONG\r\n")?;
            stream.flush()?;
            continue;
        }
        if !line.starts_with(b"MSG ") {
            bail!("nats: {}", String::from_utf8_lossy(line));
        }
        let digits = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let size: usize = std::str::from_utf8(digits)?.parse().context("a size")?;
        while stream.bytes().len() < head + size + 2 {
            stream.fill()?;
        }
        replica.take(&stream.bytes()[head..head + size]);
        stream.skip(head + size + 2);
        return Ok(());
    }
}
