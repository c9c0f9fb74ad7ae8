//! What the loops are told: everything has a default but names and addresses.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::layout::limits::DATAGRAM_SIZE_DEFAULT;
use crate::net::Interface;
use crate::net::Offload;
use crate::net::UdpSocket;
use crate::runtime::error::LoopError;
use crate::runtime::feed::Feed;
use crate::runtime::handover::LANES_MAX;
use crate::runtime::loss::Loss;
use crate::sync::Prefix;
use crate::tree::Damaged;

/// Default size of the event ring: some 7,000 datagrams of 1,200 bytes, more than
/// are under way at a time. All of it is resident from the start, so that a server's
/// memory says nothing about how long it runs.
pub const RING_SIZE_DEFAULT: usize = 8 << 20;

/// Size of the arena in which answers are laid out: some 800 datagrams of 1,200
/// bytes, three REQUESTs of full credit, and small enough to stay in the cache.
pub(super) const ARENA_SIZE: usize = 1 << 20;

/// Receive buffer asked for: 4 MiB hold some 1,800 datagrams of 1,200 bytes as
/// Linux books them, and distributions allow less; the kernel's answer counts.
pub const RECEIVE_BUFFER_DEFAULT: usize = 4 << 20;

/// Send buffer asked for: a device's queue that is full for a moment fills it, and
/// what finds no room is lost.
pub(super) const SEND_BUFFER: usize = 4 << 20;

/// Most threads that send: each needs a core to be of use.
pub const SENDERS_MAX: usize = LANES_MAX;

/// How a loop waits for what comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiting {
    /// Sleeps until the kernel wakes it.
    #[default]
    Sleep,
    /// Polls without sleeping: lowest latency, one core busy.
    Spin,
}

/// What a loop's datagrams leave by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// The UDP socket that receives, too.
    #[default]
    Udp,
    /// A raw IP socket beside it. Needs `CAP_NET_RAW`.
    Raw,
}

impl Transport {
    /// Lets what `socket` sends leave this way.
    pub(super) fn apply(self, socket: &mut UdpSocket) -> Result<(), LoopError> {
        match self {
            Transport::Udp => Ok(()),
            Transport::Raw => {
                socket.switch_to_raw().map_err(|source| LoopError::Transport { source })
            }
        }
    }
}

/// A multicast group that a server sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multicast {
    /// The group, of the family of the server's address.
    pub group: SocketAddr,
    /// By which interface datagrams leave.
    pub interface: Interface,
    /// How many networks they pass: 1 keeps them in the server's own.
    pub hops: u8,
}

impl Multicast {
    /// The group, in the server's own network, by the interface of the routes.
    pub fn new(group: SocketAddr) -> Multicast {
        Multicast { group, interface: Interface::OfRoutes, hops: 1 }
    }
}

/// Whether a mirror wants EVENTs by the multicast group that its server tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupWish {
    /// They come to its own address.
    #[default]
    Decline,
    /// It joins the group by this interface, and goes on without where nothing comes.
    Join(Interface),
}

/// What an acknowledged report survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The death of the server's process.
    #[default]
    Process,
    /// The loss of the machine's power, too: a report is acknowledged when it is on the
    /// medium, by group commits to a redo log beside the tree.
    Power,
}

/// What a server and a relay may change while they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReloadableConfig {
    /// The tick; zero means "as soon as the input is drained".
    pub period: Duration,
    /// Longest time between two datagrams of a view.
    pub heartbeat: Duration,
    /// A session ends this long after its client's last datagram.
    pub lease: Duration,
    /// Most sessions.
    pub sessions_max: usize,
    /// Most filters.
    pub views_max: usize,
    /// RESPONSE datagrams a second that one client may draw.
    pub request_rate: u32,
    /// Addresses that are let in. Empty means loopback only.
    pub allowed: Vec<Prefix>,
    /// Schema that the tree is to follow: it grows when the text extends it.
    pub schema: Option<PathBuf>,
}

impl Default for ReloadableConfig {
    fn default() -> ReloadableConfig {
        ReloadableConfig {
            period: Duration::from_millis(100),
            heartbeat: Duration::from_millis(250),
            lease: Duration::from_secs(10),
            sessions_max: 4_096,
            views_max: 16,
            request_rate: 1_000_000,
            allowed: Vec::new(),
            schema: None,
        }
    }
}

/// Called once with the address that a socket is bound to.
pub type OnReady = Box<dyn FnOnce(SocketAddr) + Send>;

/// What [`crate::runtime::serve`] needs.
pub struct ServeOptions {
    /// The tree file.
    pub tree: PathBuf,
    /// Address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// Largest datagram payload, in bytes.
    pub datagram_size: usize,
    /// How the loop waits.
    pub waiting: Waiting,
    /// What an acknowledged report survives.
    pub durability: Durability,
    /// What to do with damaged leaves.
    pub damaged: Damaged,
    /// What datagrams leave by.
    pub transport: Transport,
    /// Size of the event ring, in bytes.
    pub ring_size: usize,
    /// Most bytes of a period that leave at once to each client, 65,536 at least; what is
    /// more leaves in slices, in half of the period. 0 sends everything at once, and so does
    /// a period of no length.
    pub burst: usize,
    /// Receive buffer to ask for, in bytes.
    pub receive_buffer: usize,
    /// Threads that send EVENTs beside the loop, at most [`SENDERS_MAX`]; with none the
    /// loop sends them itself.
    pub senders: usize,
    /// Whether long periods leave from lent memory (`MSG_ZEROCOPY`) where the kernel does
    /// not copy all the same. Threads that send copy, and so does a raw socket.
    pub zerocopy: Offload,
    /// What a reload changes. Others may read it, and see what is in force.
    pub live: Arc<ArcSwap<ReloadableConfig>>,
    /// Called when the server takes datagrams.
    pub on_ready: Option<OnReady>,
    /// Group for those who want the whole tree, if there is to be one.
    pub multicast: Option<Multicast>,
    /// Where changes come from beside devices.
    pub feed: Option<Box<dyn Feed>>,
}

impl ServeOptions {
    /// The defaults for this tree, on an address of its own on loopback.
    pub fn new(tree: impl Into<PathBuf>) -> ServeOptions {
        ServeOptions {
            tree: tree.into(),
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            datagram_size: DATAGRAM_SIZE_DEFAULT,
            waiting: Waiting::default(),
            durability: Durability::default(),
            damaged: Damaged::Refuse,
            transport: Transport::default(),
            ring_size: RING_SIZE_DEFAULT,
            burst: 0,
            receive_buffer: RECEIVE_BUFFER_DEFAULT,
            senders: 0,
            zerocopy: Offload::Detect,
            live: Arc::default(),
            on_ready: None,
            multicast: None,
            feed: None,
        }
    }
}

/// The serving side of a mirror: it hands on what it receives.
pub struct RelayOptions {
    /// Address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// Largest datagram payload, in bytes.
    pub datagram_size: usize,
    /// What datagrams leave by.
    pub transport: Transport,
    /// Size of the event ring, in bytes.
    pub ring_size: usize,
    /// As [`ServeOptions::burst`].
    pub burst: usize,
    /// Receive buffer to ask for, in bytes.
    pub receive_buffer: usize,
    /// What a reload changes. Its `schema` is not used: layouts come from upstream.
    pub live: Arc<ArcSwap<ReloadableConfig>>,
    /// Called when the relay takes datagrams: it has a layout then.
    pub on_ready: Option<OnReady>,
}

impl Default for RelayOptions {
    fn default() -> RelayOptions {
        RelayOptions {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            datagram_size: DATAGRAM_SIZE_DEFAULT,
            transport: Transport::default(),
            ring_size: RING_SIZE_DEFAULT,
            burst: 0,
            receive_buffer: RECEIVE_BUFFER_DEFAULT,
            live: Arc::default(),
            on_ready: None,
        }
    }
}

/// When a mirror ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MirrorUntil {
    /// Never: it is stopped.
    #[default]
    Stopped,
    /// As soon as it is in sync.
    InSync,
}

/// What [`crate::runtime::mirror`] needs.
pub struct MirrorOptions {
    /// Address of the server or relay.
    pub server: SocketAddr,
    /// File of the replica; nothing keeps it in memory alone.
    pub file: Option<PathBuf>,
    /// Path of the parent whose leaves are wanted; empty means all.
    pub filter: String,
    /// When it ends by itself.
    pub until: MirrorUntil,
    /// Longest time to run.
    pub run_for: Option<Duration>,
    /// How long the first session may take; nothing means for ever.
    pub connect_timeout: Option<Duration>,
    /// Time between two audits of every leaf by checksums.
    pub audit_interval: Duration,
    /// How the loop waits.
    pub waiting: Waiting,
    /// What its own datagrams leave by; `serve` says it for what it hands on.
    pub transport: Transport,
    /// Receive buffer to ask for, in bytes.
    pub receive_buffer: usize,
    /// Whether EVENTs are to come by a multicast group.
    pub group: GroupWish,
    /// Datagrams lost on purpose, for tests and measurements: those from and to its
    /// server, not those that `serve` is about.
    pub loss: Option<Loss>,
    /// Serves the replica to others at the same time.
    pub serve: Option<RelayOptions>,
}

impl MirrorOptions {
    /// The defaults: the whole tree of `server`, in memory, until stopped.
    pub fn new(server: SocketAddr) -> MirrorOptions {
        MirrorOptions {
            server,
            file: None,
            filter: String::new(),
            until: MirrorUntil::default(),
            run_for: None,
            connect_timeout: None,
            audit_interval: Duration::from_secs(60),
            waiting: Waiting::default(),
            transport: Transport::default(),
            receive_buffer: RECEIVE_BUFFER_DEFAULT,
            group: GroupWish::default(),
            loss: None,
            serve: None,
        }
    }
}

/// Whether a device asks for the layout of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayoutPull {
    /// It needs paths or fields.
    Pull,
    /// It knows its DataLocIDs.
    #[default]
    Skip,
}

/// What [`crate::runtime::Reporter::connect`] needs.
#[derive(Clone, Debug)]
pub struct ReporterOptions {
    /// Address of the server.
    pub server: SocketAddr,
    /// Whether the layout is wanted.
    pub layout: LayoutPull,
    /// How long the session (and the layout, if wanted) may take.
    pub connect_timeout: Duration,
    /// How long a report may wait for room in the window.
    pub report_timeout: Duration,
    /// How it waits.
    pub waiting: Waiting,
}

impl ReporterOptions {
    /// The defaults for this server: no layout, 5 s for each wait.
    pub fn new(server: SocketAddr) -> ReporterOptions {
        ReporterOptions {
            server,
            layout: LayoutPull::default(),
            connect_timeout: Duration::from_secs(5),
            report_timeout: Duration::from_secs(5),
            waiting: Waiting::default(),
        }
    }
}
