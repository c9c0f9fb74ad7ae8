//! mosquitto: MQTT 3.1.1 with quality 0, and retained leaves for those who come late.
//!
//! Quality 0 is the fastest; over one TCP connection nothing is lost that the broker
//! queues. The few packets are written here.

use anyhow::bail;

use crate::Seat;
use crate::job::Replica;
use crate::job::Sender;
use crate::stream::Stream;

const PUBLISH: u8 = 0x30;
const RETAIN: u8 = 0x01;

struct Mqtt {
    stream: Stream,
    keyed: bool,
    head: Vec<u8>,
}

/// The first byte of a packet, and the length of what follows.
fn begin(packet: &mut Vec<u8>, kind: u8, mut length: usize) {
    packet.clear();
    packet.push(kind);
    while length >= 128 {
        packet.push(length as u8 | 128);
        length >>= 7;
    }
    packet.push(length as u8);
}

fn text(packet: &mut Vec<u8>, text: &str) {
    packet.extend_from_slice(&(text.len() as u16).to_be_bytes());
    packet.extend_from_slice(text.as_bytes());
}

fn connect(host: &str, port: u16, name: &str) -> anyhow::Result<Stream> {
    let mut stream = Stream::connect(host, port)?;
    let mut packet = Vec::new();
    begin(&mut packet, 0x10, 12 + name.len());
    text(&mut packet, "MQTT");
    // Version 4, a clean session, never asked whether it is alive.
    packet.extend_from_slice(&[4, 2, 0, 0]);
    text(&mut packet, name);
    stream.write(&packet)?;
    stream.flush()?;
    await_packet(&mut stream, 0x20)?;
    Ok(stream)
}

/// The next packet has to be of this kind.
fn await_packet(stream: &mut Stream, kind: u8) -> anyhow::Result<()> {
    loop {
        match packet_at(stream.bytes()) {
            Some((found, head, size)) if found & 0xf0 == kind => {
                stream.skip(head + size);
                return Ok(());
            }
            Some((found, ..)) => bail!("mosquitto sent {found:#x}, not {kind:#x}"),
            None => stream.fill()?,
        }
    }
}

/// Kind of a packet that is here whole, the bytes before its content, and its length.
fn packet_at(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (mut size, mut head) = (0, 1);
    loop {
        let byte = *bytes.get(head)?;
        size |= usize::from(byte & 127) << (7 * (head - 1));
        head += 1;
        if byte < 128 {
            return (bytes.len() >= head + size).then_some((bytes[0], head, size));
        }
    }
}

pub fn sender(seat: &Seat) -> anyhow::Result<Box<dyn Sender>> {
    let stream = connect(seat.near(), seat.port, "publisher")?;
    Ok(Box::new(Mqtt { stream, keyed: seat.keyed, head: Vec::new() }))
}

impl Sender for Mqtt {
    fn send(&mut self, leaf: u32, message: &[u8]) -> anyhow::Result<()> {
        let (topic, retain) =
            if self.keyed { (format!("m/{leaf}"), RETAIN) } else { ("m".to_owned(), 0) };
        begin(&mut self.head, PUBLISH | retain, 2 + topic.len() + message.len());
        text(&mut self.head, &topic);
        self.stream.write(&self.head)?;
        Ok(self.stream.write(message)?)
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        Ok(self.stream.flush()?)
    }
}

pub fn subscribe(seat: &Seat, mut replica: Replica) -> anyhow::Result<()> {
    replica.begin();
    let mut stream = connect(seat.near(), seat.port, &format!("subscriber-{}", seat.number))?;
    let topic = if seat.keyed { "m/#" } else { "m" };
    let mut packet = Vec::new();
    begin(&mut packet, 0x82, 5 + topic.len());
    packet.extend_from_slice(&[0, 1]);
    text(&mut packet, topic);
    packet.push(0);
    stream.write(&packet)?;
    stream.flush()?;
    if !seat.keyed {
        await_packet(&mut stream, 0x90)?;
    }
    if seat.spin {
        stream.set_spinning()?;
    }
    replica.ready(1);
    loop {
        let Some((kind, head, size)) = packet_at(stream.bytes()) else {
            stream.fill()?;
            continue;
        };
        if kind & 0xf0 == PUBLISH {
            let content = &stream.bytes()[head..head + size];
            let topic = usize::from(u16::from_be_bytes([content[0], content[1]]));
            replica.take(&content[2 + topic..]);
        }
        stream.skip(head + size);
    }
}
