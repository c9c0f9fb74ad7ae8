//! The header that every datagram begins with, and the codes in it.

use core::mem::size_of;

use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;
use zerocopy::KnownLayout;
use zerocopy::Unaligned;
use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::limits::DATAGRAM_HEADER_LEN;
use crate::layout::limits::RESPONSE_BODY_LEN;

/// Version that this crate speaks. Another one is refused at the door.
pub const PROTOCOL_VERSION: u8 = 1;

/// First 64 bytes of every datagram.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// Bytes of this datagram, header included (claim 4). Filling behind it, up
    /// to the segment size of a batch, is not part of the datagram.
    pub datagram_size: U16,
    /// [`DatagramType`] by its code (claim 4).
    pub datagram_type: u8,
    /// [`PROTOCOL_VERSION`].
    pub version: u8,
    /// CRC32C over the first [`checked_len`] bytes with this field zero. Leaves
    /// behind them carry checksums of their own.
    pub header_checksum: U32,
    /// See [`crate::layout::TreeId`]; 0 in HELLO.
    pub tree_id: U64,
    /// See [`crate::layout::Life`].
    pub life: U32,
    /// See [`crate::layout::LayoutHash`].
    pub layout_hash: U32,
    /// EVENT, TICK: the view id. HELLO, COOKIE, INIT: the client's nonce. Else:
    /// the session id. 64 random bits each.
    pub channel: U64,
    /// EVENT: its number. TICK, WELCOME, RESPONSE: number of the view's last
    /// EVENT. REPORT: device sequence. ACK: last sequence handled. COOKIE: the
    /// server's time. A u64 cannot wrap.
    pub event_num: U64,
    /// Server: every change up to this revision has been sent in EVENTs. REQUEST:
    /// `since`. ACK: first sequence handled. COOKIE: low half of the MAC.
    pub watermark: U64,
    /// EVENT, TICK with [`Flags::CLOSES_PERIOD`], RESPONSE: digest of the view at
    /// the end of its last period. COOKIE: high half of the MAC.
    pub digest: U64,
    /// Leaves (EVENT, RESPONSE, REPORT), checksums or holes (REQUEST), or refusals (ACK).
    pub count: U16,
    /// [`Flags`], or the [`ByeReason`] of a BYE.
    pub flags: U16,
    /// BYE: the number that its reason speaks of. Else zero.
    pub detail: U32,
}

const _: () = assert!(size_of::<Header>() == DATAGRAM_HEADER_LEN);

/// Bits of [`Header::flags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// EVENT: the last one of its period; watermark and digest count. TICK: they
    /// count (a TICK without it only says that the server is there).
    pub const CLOSES_PERIOD: u16 = 1;
    /// EVENT, TICK, RESPONSE: the sender's own source is in sync with its origin
    /// (always so at the origin itself).
    pub const SOURCE_IN_SYNC: u16 = 1 << 1;
    /// REQUEST: checksums follow, one a leaf of the range.
    pub const CHECKSUMS: u16 = 1 << 2;
    /// RESPONSE: the last one to its REQUEST.
    pub const LAST: u16 = 1 << 3;
    /// RESPONSE: a leaf that differs was left out, because its ChangeFlag is set
    /// and the next EVENT brings it.
    pub const CHANGES_PENDING: u16 = 1 << 4;
    /// REQUEST: the client listens to the group that WELCOME named.
    pub const GROUP_WANTED: u16 = 1 << 5;
    /// REQUEST: it hears the group, and needs no EVENTs and TICKs of its own.
    pub const GROUP_HEARD: u16 = 1 << 6;
    /// REQUEST: holes follow, and only what lies in them is asked for.
    pub const HOLES: u16 = 1 << 7;

    /// Whether all bits of `flag` are set.
    pub const fn has(self, flag: u16) -> bool {
        self.0 & flag == flag
    }
}

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident($int:ty) { $($(#[$vdoc:meta])* $variant:ident = $code:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Every value with a code.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The code on the wire.
            pub const fn code(self) -> $int {
                match self { $($name::$variant => $code,)* }
            }

            /// The value with this code on the wire.
            pub const fn from_code(code: $int) -> Option<$name> {
                match code { $($code => Some($name::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// What a datagram is for (claim 11: events and responses are told apart by it).
    DatagramType(u8) {
        /// Client asks for the door; padded.
        Hello = 1,
        /// Server answers without keeping state.
        Cookie = 2,
        /// Client proves its address and says what it wants; padded.
        Init = 3,
        /// Server opens a session.
        Welcome = 4,
        /// Client confirms the session.
        Ready = 5,
        /// Client asks for a piece of the layout.
        LayoutRequest = 6,
        /// A piece of the layout.
        Layout = 7,
        /// Leaves that changed in a period (claim 6).
        Event = 8,
        /// Closes a period, or says that nothing changed.
        Tick = 9,
        /// What a client holds of a range of leaves (claim 12).
        Request = 10,
        /// Leaves that differ (claim 5).
        Response = 11,
        /// A device's changes of its own leaves (claim 23).
        Report = 12,
        /// Reports that were handled.
        Ack = 13,
        /// End of a session, or a refusal at the door.
        Bye = 14,
    }
}

codes! {
    /// Why a session ends or is refused.
    ByeReason(u16) {
        /// The sender leaves in good order.
        Leaving = 1,
        /// The tree has a new life or a new layout: join again at once.
        Rejoin = 2,
        /// Another protocol version; `detail` is the server's.
        Version = 3,
        /// The parent that the client asked for does not exist.
        UnknownParent = 4,
        /// No room for another session; `detail` is the limit.
        SessionsFull = 5,
        /// No room for another filter; `detail` is the limit.
        ViewsFull = 6,
        /// The server does not offer the security level asked for; `detail` is
        /// the level that it has.
        Level = 7,
        /// The server takes no reports (it is a relay).
        NoReports = 8,
        /// The client's address is outside the prefixes that the server allows.
        NotAllowed = 9,
    }
}

codes! {
    /// Why one leaf of a REPORT was not written.
    RefusalReason(u16) {
        /// No leaf has this DataLocID; `detail` is the number of leaves.
        UnknownLeaf = 1,
        /// Data is larger than the leaf's capacity, which is `detail`.
        TooLarge = 2,
        /// The server could not write it (its disk or file failed).
        Trouble = 3,
    }
}

/// Bytes that [`Header::header_checksum`] covers, of a datagram of `datagram_size`
/// bytes: the header and the fixed body of those that carry leaves, all of others.
pub const fn checked_len(datagram_type: DatagramType, datagram_size: usize) -> usize {
    match datagram_type {
        DatagramType::Event | DatagramType::Report => DATAGRAM_HEADER_LEN,
        DatagramType::Response => DATAGRAM_HEADER_LEN + RESPONSE_BODY_LEN,
        _ => datagram_size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_values_are_one_to_one() {
        for code in 0..=u8::MAX {
            let value = DatagramType::from_code(code);
            assert_eq!(value.is_some(), (1..=14).contains(&code), "{code}");
            assert!(value.is_none_or(|value| value.code() == code));
        }
        assert!(ByeReason::ALL.iter().all(|r| ByeReason::from_code(r.code()) == Some(*r)));
        assert!(RefusalReason::ALL.iter().all(|r| RefusalReason::from_code(r.code()) == Some(*r)));
        assert_eq!(ByeReason::from_code(0), None, "a forgotten reason is no reason");
    }

    #[test]
    fn flags_are_apart() {
        let all = [
            Flags::CLOSES_PERIOD,
            Flags::SOURCE_IN_SYNC,
            Flags::CHECKSUMS,
            Flags::LAST,
            Flags::CHANGES_PENDING,
            Flags::GROUP_WANTED,
            Flags::GROUP_HEARD,
            Flags::HOLES,
        ];
        assert_eq!(all.iter().sum::<u16>(), 0b1111_1111);
        assert!(Flags(0b1001).has(Flags::LAST));
        assert!(!Flags(0b0001).has(Flags::LAST));
    }

    #[test]
    fn the_header_checksum_covers_what_is_not_leaves() {
        assert_eq!(checked_len(DatagramType::Event, 1_200), 64);
        assert_eq!(checked_len(DatagramType::Report, 1_200), 64);
        assert_eq!(checked_len(DatagramType::Response, 1_200), 80);
        assert_eq!(checked_len(DatagramType::Request, 1_200), 1_200);
        assert_eq!(checked_len(DatagramType::Tick, 96), 96);
    }
}
