//! Clients and servers with a planted bug, made of the real ones: what they hear and say
//! is bent on the way, so that they do what one with the bug would.

use core::net::SocketAddr;
use std::rc::Rc;

use zerocopy::FromBytes;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::layout::Life;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::sim::planted::Planted;
use crate::sim::witness::is_for;
use crate::sync::Client;
use crate::wire;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::GroupBody;
use crate::wire::Header;
use crate::wire::RequestBody;
use crate::wire::WelcomeBody;

/// The numbers that a bent client has heard.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bent {
    view_id: u64,
    /// Last EVENT, as the client counts.
    last: u64,
    /// How far the server is ahead of that count.
    ahead: u64,
}

impl Bent {
    /// What a client with the bug hears of a datagram. `life` is that of its copy.
    pub(super) fn heard(
        &mut self,
        planted: Planted,
        client: &Client,
        life: Life,
        bytes: &[u8],
    ) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let Some((mut header, kind)) = head_of(&bytes) else { return bytes };
        match planted {
            Planted::LivesConfused if kind == DatagramType::Welcome => {
                trust_all_of(life, &mut bytes);
            }
            Planted::GapIgnored | Planted::AheadTakenForCurrent if is_for(client, &bytes) => {
                let joined = client.joined().expect("it is for its session");
                if self.view_id != joined.view_id {
                    *self = Bent { view_id: joined.view_id, last: joined.event_num, ahead: 0 };
                }
                let num = header.event_num.get();
                let bent = match planted {
                    Planted::GapIgnored => self.without_gaps(kind, num),
                    _ => self.not_ahead(kind, num),
                };
                header.event_num = U64::new(bent);
                put(&header, &mut bytes);
            }
            _ => {}
        }
        bytes
    }

    /// As if each EVENT were the next one, and nothing ever told of a lost one.
    fn without_gaps(&mut self, kind: DatagramType, num: u64) -> u64 {
        match kind {
            DatagramType::Event => {
                let next = self.last + 1;
                self.ahead = self.ahead.max(num.saturating_sub(next));
                let bent = num.saturating_sub(self.ahead);
                self.last = self.last.max(bent);
                bent
            }
            DatagramType::Tick => num.saturating_sub(self.ahead).min(self.last),
            DatagramType::Response => self.last,
            _ => num,
        }
    }

    /// As if a RESPONSE spoke of the last EVENT that came, and of none behind it.
    fn not_ahead(&mut self, kind: DatagramType, num: u64) -> u64 {
        match kind {
            DatagramType::Event | DatagramType::Tick => {
                self.last = self.last.max(num);
                num
            }
            DatagramType::Response => num.min(self.last),
            _ => num,
        }
    }
}

/// What a member with the planted bug hears of a datagram by the group.
pub(super) fn heard_by_group(planted: Planted, client: &Client, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let head = head_of(&bytes).zip(client.joined());
    if let Some(((mut header, DatagramType::Event | DatagramType::Tick), joined)) = head
        && planted == Planted::ViewNotChecked
    {
        header.channel = U64::new(joined.view_id);
        (header.life, header.layout_hash) = (joined.life.0.into(), joined.layout_hash.0.into());
        put(&header, &mut bytes);
    }
    bytes
}

/// What a server with the bug sends in place of a datagram.
pub(super) fn told(planted: Planted, group: SocketAddr, bytes: &Rc<[u8]>) -> Rc<[u8]> {
    let Ok((_, Datagram::Welcome(_, named))) = wire::decode(bytes) else { return bytes.clone() };
    let mut bent = bytes.to_vec();
    match (planted, named) {
        (Planted::GroupNamedToAll, None) => {
            bent.extend_from_slice(GroupBody::new(group).as_bytes());
        }
        (Planted::GroupNotNamed, Some(_)) => bent.truncate(bytes.len() - size_of::<GroupBody>()),
        _ => return bytes.clone(),
    }
    wire::seal(&mut bent);
    bent.into()
}

/// What a client with the bug sends instead of a datagram, if anything.
pub(super) fn said(planted: Planted, client: &Client, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let Some((mut header, DatagramType::Request)) = head_of(&bytes) else { return Some(bytes) };
    let (body, _) = RequestBody::read_from_prefix(&bytes[DATAGRAM_HEADER_LEN..]).ok()?;
    let is_repair = body.leaf_count.get() > 0 && client.counters().digest_matches > 0;
    match planted {
        Planted::LossNotAsked if is_repair => return None,
        Planted::HeardForEver if client.counters().group_heard > 0 => {
            let both = Flags::GROUP_WANTED | Flags::GROUP_HEARD;
            header.flags = (header.flags.get() | both).into();
            put(&header, &mut bytes);
        }
        Planted::AllAskedFor if is_repair && !Flags(header.flags.get()).has(Flags::CHECKSUMS) => {
            header.watermark = U64::new(0);
            put(&header, &mut bytes);
        }
        _ => {}
    }
    Some(bytes)
}

fn head_of(bytes: &[u8]) -> Option<(Header, DatagramType)> {
    // What is damaged stays so.
    wire::decode(bytes).ok()?;
    let (header, _) = Header::read_from_prefix(bytes).ok()?;
    Some((header, DatagramType::from_code(header.datagram_type)?))
}

fn put(header: &Header, bytes: &mut [u8]) {
    bytes[..DATAGRAM_HEADER_LEN].copy_from_slice(header.as_bytes());
    wire::seal(bytes);
}

/// A WELCOME by which everything that the copy's life brought is in the server's tree.
fn trust_all_of(life: Life, bytes: &mut [u8]) {
    let body = &mut bytes[DATAGRAM_HEADER_LEN..];
    let (welcome, _) = WelcomeBody::mut_from_prefix(body).expect("a WELCOME holds its body");
    welcome.life_start = U64::new(life.base().0 | u64::from(u32::MAX));
    wire::seal(bytes);
}
