//! What follows the header, by datagram type.

use core::mem::size_of;
use core::net::IpAddr;
use core::net::Ipv6Addr;
use core::net::SocketAddr;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::leaf_wire_len;
use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::RESPONSE_BODY_LEN;
use crate::wire::DOOR_DATAGRAM_LEN;

/// Longest filter path in an INIT, in bytes of UTF-8.
pub const INIT_FILTER_LEN_MAX: usize = 512;

macro_rules! body {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
            Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
    };
}

body! {
    /// Body of an INIT. Zeros follow it up to 1,200 bytes: the room of the
    /// handshakes of the cryptographic levels.
    InitBody {
        /// `event_num` of the COOKIE.
        cookie_time: U64,
        /// `watermark` and `digest` of the COOKIE.
        cookie_mac: [U64; 2],
        /// Life that the client's copy follows, 0 if it has none.
        held_life: U32,
        /// Layout that the client holds, 0 if it has none.
        held_layout_hash: U32,
        /// Watermark of the client's copy.
        held_watermark: U64,
        /// 1 a replica, 2 a device that only reports.
        role: u8,
        /// Least security level that the client accepts: 0 trusted.
        level: u8,
        /// Bytes of `filter` that count.
        filter_len: U16,
        /// Zero.
        reserved: U32,
        /// Path of the parent whose leaves the client wants; empty means all.
        filter: [u8; INIT_FILTER_LEN_MAX],
    }
}

body! {
    /// Body of a WELCOME.
    WelcomeBody {
        /// The client's nonce.
        nonce: U64,
        /// View whose EVENTs the client gets; drawn anew in every run.
        view_id: U64,
        /// Highest revision that the server held when its life began.
        life_start: U64,
        /// The server's tick in microseconds, 0 for "as soon as something came".
        period_us: U32,
        /// Longest time between two datagrams of a view, in milliseconds.
        heartbeat_ms: U32,
        /// The session ends this long after the client's last datagram.
        lease_ms: U32,
        /// Largest datagram that the server sends, and takes in a session.
        datagram_size: U32,
        /// Leaves of the tree.
        leaf_count: U32,
        /// Bytes of the layout that LAYOUT datagrams bring.
        layout_len: U32,
        /// Most RESPONSE datagrams to one REQUEST.
        credit_max: U32,
        /// Security level of the session: 0 trusted.
        level: u8,
        /// Zero.
        reserved: [u8; 3],
    }
}

body! {
    /// Follows the body of a WELCOME whose view has a multicast group.
    GroupBody {
        /// Address of the group: IPv6, or IPv4 mapped into it.
        address: [u8; 16],
        /// Port of the group.
        port: U16,
        /// Zero.
        reserved: [u8; 6],
    }
}

impl GroupBody {
    /// The group at this address.
    pub fn new(group: SocketAddr) -> GroupBody {
        let address = match group.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        GroupBody { address: address.octets(), port: U16::new(group.port()), reserved: [0; 6] }
    }

    /// The group's address, if it can be one.
    pub fn group(&self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.address).to_canonical();
        let port = self.port.get();
        (ip.is_multicast() && port != 0).then_some(SocketAddr::new(ip, port))
    }
}

body! {
    /// Body of a LAYOUT_REQUEST.
    LayoutRequestBody {
        /// First byte wanted.
        offset: U32,
        /// Most LAYOUT datagrams to send.
        credit: U32,
    }
}

body! {
    /// Body of a LAYOUT; the bytes of the piece follow.
    LayoutBody {
        /// Where in the layout the piece begins.
        offset: U32,
        /// Bytes of the whole layout.
        layout_len: U32,
    }
}

body! {
    /// Body of a TICK.
    TickBody {
        /// Session that `tag` is for; 0 without a tag.
        session_id: U64,
        /// Tag over the EVENTs of the period at level `sign`, else zero.
        tag: [u8; 16],
        /// Zero.
        reserved: U64,
    }
}

body! {
    /// Body of a REQUEST; with [`crate::wire::Flags::CHECKSUMS`] one u32 a leaf follows,
    /// with [`crate::wire::Flags::HOLES`] the [`Hole`]s.
    RequestBody {
        /// First leaf of the range.
        first_leaf: U32,
        /// Leaves of the range; 0 only renews the lease.
        leaf_count: U32,
        /// Number of this REQUEST, returned in its RESPONSEs.
        request_id: U32,
        /// Most RESPONSE datagrams that the client takes.
        credit: U16,
        /// Zero.
        reserved: U16,
    }
}

body! {
    /// A part of the range of a REQUEST, and which of its changes were lost.
    Hole {
        /// First leaf of the part.
        first_leaf: U32,
        /// Leaves of the part.
        leaf_count: U32,
        /// Every change up to this revision is held.
        since: U64,
        /// What is above this revision came in EVENTs, or is due in one.
        up_to: U64,
    }
}

body! {
    /// Body of a RESPONSE; leaves follow.
    ResponseBody {
        /// Number of the REQUEST.
        request_id: U32,
        /// First leaf that this datagram speaks of.
        first_leaf: U32,
        /// Leaf behind the last one that it speaks of: every leaf between that
        /// differs (and is not due in the next EVENT anyway) is in here.
        next_leaf: U32,
        /// Position among the RESPONSEs to this REQUEST, from 0.
        index: U16,
        /// Zero.
        reserved: U16,
    }
}

const _: () = assert!(size_of::<ResponseBody>() == RESPONSE_BODY_LEN);

// A leaf takes no less room in a REPORT than its refusal in the ACK: all refusals
// of one REPORT fit into one ACK of the same size.
const _: () = assert!(size_of::<AckRefusal>() <= leaf_wire_len(0));

// HELLO and INIT are padded to what the door expects, and an INIT fits.
const _: () = assert!(DATAGRAM_HEADER_LEN + size_of::<InitBody>() <= DOOR_DATAGRAM_LEN);

body! {
    /// One leaf of a REPORT that was not written, in an ACK.
    AckRefusal {
        /// Sequence of the REPORT.
        sequence: U64,
        /// Leaf that was named.
        data_loc_id: U32,
        /// [`crate::wire::RefusalReason`] by its code.
        reason: U16,
        /// Zero.
        reserved: U16,
        /// The number that the reason speaks of.
        detail: U32,
        /// Zero.
        reserved_too: U32,
    }
}

impl InitBody {
    /// The path of the parent wanted, or nothing if it is not UTF-8 or too long.
    pub fn filter_path(&self) -> Option<&str> {
        let bytes = self.filter.get(..usize::from(self.filter_len.get()))?;
        core::str::from_utf8(bytes).ok()
    }
}
