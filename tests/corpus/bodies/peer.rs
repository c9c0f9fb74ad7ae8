//! Datagrams as a peer makes them that knows the protocol and lies: what has to
//! be right for a datagram to be read at all is put right, the rest is the input's.

use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use mapleaf::sync::Time;
use mapleaf::wire;
use mapleaf::wire::DOOR_DATAGRAM_LEN;
use mapleaf::wire::DatagramType;
use mapleaf::wire::Flags;
use mapleaf::wire::Header;
use mapleaf::wire::Hole;
use mapleaf::wire::LayoutBody;
use mapleaf::wire::PROTOCOL_VERSION;
use mapleaf::wire::RequestBody;
use mapleaf::wire::ResponseBody;
use mapleaf::wire::WelcomeBody;

use super::datagram::bare;
use super::input::Input;
use super::mem_tree::LEAVES;
use super::mem_tree::head;
use super::mem_tree::layout_blob;

/// What the header of a right datagram would say.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Right {
    pub(super) tree_id: u64,
    pub(super) life: u32,
    pub(super) layout_hash: u32,
    pub(super) channel: u64,
    pub(super) event_num: u64,
    pub(super) watermark: u64,
    pub(super) digest: u64,
}

/// A header near the right one: one byte of the input says which fields are not.
pub(super) fn header(datagram_type: DatagramType, right: Right, input: &mut Input<'_>) -> Header {
    let wrong = input.u8();
    let mut or = |bit: u8, right: u64| if wrong >> bit & 1 == 1 { input.u64() } else { right };
    let (tree_id, life) = (or(0, right.tree_id), or(1, u64::from(right.life)) as u32);
    let layout_hash = or(2, u64::from(right.layout_hash)) as u32;
    let (channel, digest) = (or(3, right.channel), or(4, right.digest));
    let detail = or(5, 0) as u32;
    let version = or(6, u64::from(PROTOCOL_VERSION)) as u8;
    Header {
        version,
        tree_id: U64::new(tree_id),
        life: U32::new(life),
        layout_hash: U32::new(layout_hash),
        channel: U64::new(channel),
        event_num: U64::new(input.near(right.event_num)),
        watermark: U64::new(input.near(right.watermark)),
        digest: U64::new(digest),
        flags: U16::new(u16::from(input.u8())),
        detail: U32::new(detail),
        ..bare(datagram_type)
    }
}

impl Right {
    /// The right header of a datagram on this channel, and no numbers in it.
    pub(super) fn head(&self, datagram_type: DatagramType, channel: u64) -> Header {
        Header {
            tree_id: U64::new(self.tree_id),
            life: U32::new(self.life),
            layout_hash: U32::new(self.layout_hash),
            channel: U64::new(channel),
            ..bare(datagram_type)
        }
    }
}

/// What is right, or what the input has in its place where that bit of `wrong` is set.
pub(super) fn or(wrong: u8, bit: u8, right: u32, input: &mut Input<'_>) -> u32 {
    if wrong >> bit & 1 == 1 { input.u32() } else { right }
}

/// One side of the handshake: what a server that lies says until somebody has joined.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Door {
    /// Nonce of whoever knocks.
    pub(super) nonce: u64,
    layout_offset: u32,
}

impl Door {
    pub(super) fn cookie(&self, right: Right, input: &mut Input<'_>) -> Vec<u8> {
        let header = right.head(DatagramType::Cookie, self.nonce);
        finished(&Header { event_num: U64::new(input.near(1_000)), ..header }, &[])
    }

    /// What a WELCOME says. Bits of `wrong` say which fields are not right; bit 0 is the
    /// caller's.
    pub(super) fn welcome(
        &mut self,
        view_id: u64,
        life_start: u64,
        wrong: u8,
        input: &mut Input<'_>,
    ) -> WelcomeBody {
        let mut or = |bit, right| or(wrong, bit, right, input);
        self.layout_offset = 0;
        WelcomeBody {
            nonce: U64::new(self.nonce),
            view_id: U64::new(view_id),
            life_start: U64::new(life_start),
            period_us: U32::new(or(1, 100_000)),
            heartbeat_ms: U32::new(or(2, 250)),
            lease_ms: U32::new(or(3, 10_000)),
            datagram_size: U32::new(or(4, 1_200)),
            leaf_count: U32::new(or(5, LEAVES)),
            layout_len: U32::new(or(6, layout_blob().len() as u32)),
            credit_max: U32::new(or(7, 16)),
            level: 0,
            reserved: [0; 3],
        }
    }

    /// The next piece of the layout, or one near to it.
    pub(super) fn layout(
        &mut self,
        right: Right,
        session_id: u64,
        input: &mut Input<'_>,
    ) -> Vec<u8> {
        let blob = layout_blob();
        let offset = input.near(u64::from(self.layout_offset)) as u32;
        let piece = blob.get(offset as usize..).unwrap_or_default();
        let piece = &piece[..piece.len().min(600)];
        let body = LayoutBody {
            offset: U32::new(offset.min(blob.len() as u32)),
            layout_len: U32::new(blob.len() as u32),
        };
        self.layout_offset = offset.saturating_add(piece.len() as u32);
        let header = right.head(DatagramType::Layout, session_id);
        finished(&header, &[body.as_bytes(), piece].concat())
    }
}

/// An end of the protocol with its clock, as its driver sees it.
pub(super) trait Driven {
    fn clock(&mut self) -> &mut Time;
    fn due(&self) -> Option<Time>;
    /// Does what is due, and takes what comes of it.
    fn wake(&mut self);

    fn wait(&mut self, duration: Duration) {
        let clock = self.clock();
        *clock = clock.after(duration);
        self.wake();
        self.settle();
    }

    /// What was due was done: a driver that waits for `poll_timeout` does not spin.
    fn settle(&mut self) {
        let now = *self.clock();
        for _ in 0..4 {
            if self.due().is_none_or(|due| due > now) {
                return;
            }
            self.wake();
        }
        panic!("due at {:?} for ever, now {now:?}", self.due());
    }
}

/// Leaves with right checksums, and how many they are. Revisions are near `base`.
pub(super) fn leaves(base: u64, input: &mut Input<'_>) -> (Vec<u8>, u16) {
    let count = input.u8() % 4;
    let mut out = Vec::new();
    for _ in 0..count {
        let leaf = u32::from(input.u8()) % (LEAVES + 2);
        let revision = input.near(base);
        let data = input.bytes();
        out.extend_from_slice(head(leaf, revision, data).as_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    if input.u8() == 0xff {
        // Damage at the end.
        out.pop();
    }
    (out, u16::from(count))
}

/// A finished datagram.
pub(super) fn finished(header: &Header, body: &[u8]) -> Vec<u8> {
    let door = [DatagramType::Hello.code(), DatagramType::Init.code()];
    let padded = if door.contains(&header.datagram_type) { DOOR_DATAGRAM_LEN } else { 0 };
    let mut out = Vec::new();
    wire::encode(&mut out, header, &(), body, padded);
    out
}

/// A datagram of any type, near to what is right.
pub(super) fn datagram(right: Right, request_ids: &[u32], input: &mut Input<'_>) -> Vec<u8> {
    let types = DatagramType::ALL;
    let datagram_type = types[usize::from(input.u8()) % types.len()];
    let header = header(datagram_type, right, input);
    match datagram_type {
        DatagramType::Event | DatagramType::Report => {
            let (leaves, count) = leaves(right.watermark, input);
            finished(&Header { count: U16::new(count), ..header }, &leaves)
        }
        DatagramType::Response => {
            let response = response(request_ids, input);
            let (leaves, count) = leaves(right.watermark, input);
            let body = [response.as_bytes(), &leaves].concat();
            let body = if body.len() < size_of::<ResponseBody>() { vec![0; 16] } else { body };
            finished(&Header { count: U16::new(count), ..header }, &body)
        }
        DatagramType::Request => request(&header, input),
        // Refusals: 24 bytes each.
        DatagramType::Ack => {
            let body = input.bytes();
            finished(&Header { count: U16::new((body.len() / 24) as u16), ..header }, body)
        }
        _ => {
            let body = input.bytes();
            finished(&header, body)
        }
    }
}

fn response(request_ids: &[u32], input: &mut Input<'_>) -> ResponseBody {
    let choice = usize::from(input.u8());
    let request_id = request_ids.get(choice % (request_ids.len() + 1)).copied().unwrap_or(0);
    let (first, count) = (u32::from(input.u8()), u32::from(input.u8()));
    ResponseBody {
        request_id: U32::new(request_id),
        first_leaf: U32::new(first),
        next_leaf: U32::new(if count == 0xff { u32::MAX } else { first + count }),
        index: U16::new(u16::from(input.u8())),
        reserved: U16::ZERO,
    }
}

/// Holes that lie apart, as far as the input does not say otherwise.
fn with_holes(header: &Header, body: &RequestBody, input: &mut Input<'_>) -> Vec<u8> {
    let mut behind = body.first_leaf.get();
    let holes: Vec<Hole> = (0..input.u8() % 8)
        .map(|_| {
            let first = behind.saturating_add(u32::from(input.u8() % 8));
            let count = u32::from(input.u8() % 8);
            behind = first.saturating_add(count);
            Hole {
                first_leaf: U32::new(first),
                leaf_count: U32::new(count),
                since: U64::new(header.watermark.get()),
                up_to: U64::new(header.watermark.get().saturating_add(u64::from(input.u8()))),
            }
        })
        .collect();
    let header = Header { count: U16::new(holes.len() as u16), ..*header };
    finished(&header, &[body.as_bytes(), holes.as_bytes()].concat())
}

fn request(header: &Header, input: &mut Input<'_>) -> Vec<u8> {
    let (first, count) = (input.u8(), input.u8());
    let body = RequestBody {
        first_leaf: U32::new(if first == 0xff { input.u32() } else { u32::from(first) }),
        leaf_count: U32::new(u32::from(count)),
        request_id: U32::new(u32::from(input.u8())),
        credit: U16::new(input.near(2) as u16),
        reserved: U16::ZERO,
    };
    if Flags(header.flags.get()).has(Flags::HOLES) {
        return with_holes(header, &body, input);
    }
    if !Flags(header.flags.get()).has(Flags::CHECKSUMS) {
        return finished(header, body.as_bytes());
    }
    let mut sums = input.take(usize::from(count) * size_of::<U32>()).to_vec();
    sums.resize(usize::from(count) * size_of::<U32>(), 0);
    let header = Header { count: U16::new(u16::from(count)), ..*header };
    finished(&header, &[body.as_bytes(), &sums].concat())
}
