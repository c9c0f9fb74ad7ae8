//! Settings of a server.

use core::net::SocketAddr;
use core::time::Duration;

use crate::layout::Revision;
use crate::layout::limits::DATAGRAM_SIZE_DEFAULT;
use crate::sync::cookie::CookieMac;
use crate::sync::prefix::Prefix;

/// Whether a server takes REPORTs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reports {
    /// It owns the tree.
    Accept,
    /// It is a relay: devices are told to go to the origin.
    Refuse,
}

/// Whether what a server holds is what its own source holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// It is the origin, or a relay in sync.
    InSync,
    /// A relay that is repairing its own copy.
    Behind,
}

/// What the driver knows when a period ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodEnd {
    /// Every change up to this revision is in the tree. At the origin the newest
    /// revision; at a relay the watermark of its own copy.
    pub watermark: Revision,
    /// See [`SourceState`].
    pub source: SourceState,
}

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Largest datagram in bytes.
    pub datagram_size: usize,
    /// The tick, told to clients.
    pub period: Duration,
    /// A view is silent for no longer than this.
    pub heartbeat: Duration,
    /// A session ends this long after its client's last datagram.
    pub lease: Duration,
    /// Most open sessions; half-open ones come beside them.
    pub sessions_max: usize,
    /// Most half-open sessions: the oldest gives way.
    pub half_open_max: usize,
    /// Most filters that are in use at a time.
    pub views_max: usize,
    /// Most RESPONSE or LAYOUT datagrams to one request.
    pub credit_max: u16,
    /// RESPONSE and LAYOUT datagrams a second to one client.
    pub request_rate: u32,
    /// The same at once, after a rest.
    pub request_burst: u32,
    /// INITs a second, all clients together.
    pub door_rate: u32,
    /// See [`Reports`].
    pub reports: Reports,
    /// Keyed hash of the cookies.
    pub mac: CookieMac,
    /// Who may come in; empty means loopback only.
    pub allowed: Vec<Prefix>,
    /// Multicast group of the view of the whole tree, if there is one.
    pub group: Option<SocketAddr>,
}

impl ServerConfig {
    /// The defaults.
    pub fn new(mac: CookieMac) -> ServerConfig {
        ServerConfig {
            datagram_size: DATAGRAM_SIZE_DEFAULT,
            period: Duration::from_millis(100),
            heartbeat: Duration::from_millis(250),
            lease: Duration::from_secs(10),
            sessions_max: 4096,
            half_open_max: 256,
            views_max: 16,
            credit_max: 256,
            request_rate: 1_000_000,
            request_burst: 4_096,
            door_rate: 10_000,
            reports: Reports::Accept,
            mac,
            allowed: Vec::new(),
            group: None,
        }
    }
}
