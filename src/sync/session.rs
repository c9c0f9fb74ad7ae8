//! What a server keeps about one client: a fixed few bytes, whatever it does.

use crate::sync::budget::TokenBucket;
use crate::sync::join::Role;
use crate::sync::server::Reported;
use crate::sync::time::Time;
use crate::wire::Flags;

/// By which ways a client gets the EVENTs of its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// To its own address.
    Own,
    /// To its own address, and by the group that it tries to hear.
    Both,
    /// By the group alone.
    Group,
}

impl Delivery {
    /// What the flags of a REQUEST ask for.
    pub(crate) fn asked(flags: Flags) -> Delivery {
        match (flags.has(Flags::GROUP_WANTED), flags.has(Flags::GROUP_HEARD)) {
            (false, _) => Delivery::Own,
            (true, false) => Delivery::Both,
            (true, true) => Delivery::Group,
        }
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Session {
    /// 64 random bits, known to the client and to whoever sits on its path.
    pub(crate) id: u64,
    /// The client's nonce: a repeated INIT gets the same session.
    pub(crate) nonce: u64,
    pub(crate) role: Role,
    /// View whose EVENTs it gets; a device has none.
    pub(crate) view: Option<usize>,
    /// When it ends unless something comes.
    pub(crate) expires: Time,
    /// RESPONSE and LAYOUT datagrams that it may still ask for.
    pub(crate) budget: TokenBucket,
    /// Device: the REPORTs that were handled.
    pub(crate) reported: Reported,
    pub(crate) delivery: Delivery,
}
