//! What a server keeps about one client: a fixed few bytes, whatever it does.

use crate::sync::budget::TokenBucket;
use crate::sync::join::Role;
use crate::sync::server::Reported;
use crate::sync::time::Time;

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
}
