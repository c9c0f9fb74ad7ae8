//! The client's side of the door: HELLO, COOKIE, INIT, WELCOME, READY.

use core::fmt;
use core::net::SocketAddr;
use core::time::Duration;

use zerocopy::little_endian::U16;
use zerocopy::little_endian::U32;
use zerocopy::little_endian::U64;

use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::limits::DATAGRAM_SIZE_MAX;
use crate::layout::limits::DATAGRAM_SIZE_MIN;
use crate::layout::limits::LEAVES_MAX;
use crate::sync::outbox::Destination;
use crate::sync::outbox::Outbox;
use crate::sync::time::RandomSource;
use crate::sync::time::Time;
use crate::wire::ByeReason;
use crate::wire::DOOR_DATAGRAM_LEN;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::GroupBody;
use crate::wire::Header;
use crate::wire::INIT_FILTER_LEN_MAX;
use crate::wire::InitBody;
use crate::wire::PROTOCOL_VERSION;
use crate::wire::WelcomeBody;

/// First wait for an answer: a few round trips of a wide-area path.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Wait before a server that was full is asked again.
pub(crate) const RETRY_FULL: Duration = Duration::from_secs(2);

/// Longest wait, so that a server that comes back is found within two seconds.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// A cookie older than this is not sent any more: the server takes it for 10 s.
const COOKIE_SERVES: Duration = Duration::from_secs(8);

/// An INIT is repeated this often before a new cookie is asked for: the server
/// may have been restarted, and know the old one no more.
const INIT_TRIES: u32 = 3;

/// What a client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It keeps a copy.
    Replica,
    /// It only reports changes of its own leaves.
    Device,
}

impl Role {
    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Role::Replica => 1,
            Role::Device => 2,
        }
    }

    /// The role with this number on the wire.
    pub const fn from_code(code: u8) -> Option<Role> {
        match code {
            1 => Some(Role::Replica),
            2 => Some(Role::Device),
            _ => None,
        }
    }
}

/// What a server said when it opened the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The tree.
    pub tree_id: TreeId,
    /// The life of its server.
    pub life: Life,
    /// Its layout.
    pub layout_hash: LayoutHash,
    /// The session.
    pub session_id: u64,
    /// The view whose EVENTs come; 0 for a device.
    pub view_id: u64,
    /// The view's last EVENT.
    pub event_num: u64,
    /// End of the server's last period.
    pub watermark: Revision,
    /// Highest revision that the server held when its life began.
    pub life_start: Revision,
    /// The server's tick.
    pub period: Duration,
    /// Longest silence of the view.
    pub heartbeat: Duration,
    /// The session ends this long after our last datagram.
    pub lease: Duration,
    /// Largest datagram in bytes.
    pub datagram_size: usize,
    /// Leaves of the tree.
    pub leaf_count: u32,
    /// Bytes of the layout.
    pub layout_len: u32,
    /// Most datagrams in answer to one request.
    pub credit_max: u16,
    /// Multicast group of the view, if it has one.
    pub group: Option<SocketAddr>,
}

/// Why a server cannot be joined. Trying again would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JoinError {
    /// The server refused.
    Refused {
        /// Why.
        reason: ByeReason,
        /// The number that the reason speaks of.
        detail: u32,
    },
    /// The server serves another tree than the one held.
    WrongTree {
        /// The tree held.
        expected: TreeId,
        /// The tree served.
        found: TreeId,
    },
    /// The layout that came is not the one that was announced.
    Layout {
        /// Hash in the session.
        expected: LayoutHash,
        /// Hash of what came.
        found: LayoutHash,
    },
    /// A setting of the server makes no sense.
    Setting {
        /// Its name.
        name: &'static str,
        /// Least and largest value that makes sense.
        expected: (u64, u64),
        /// Value in the WELCOME.
        found: u64,
    },
    /// The path of the parent wanted is too long to ask for.
    FilterTooLong {
        /// Its length in bytes.
        found: usize,
    },
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Refused { reason, detail } => refusal(f, *reason, *detail),
            JoinError::WrongTree { expected, found } => write!(
                f,
                "wrong tree: this copy is of tree {:016x}, the server has tree {:016x}",
                expected.0, found.0
            ),
            JoinError::Layout { expected, found } => {
                write!(f, "wrong layout: expected hash {:08x}, found {:08x}", expected.0, found.0)
            }
            JoinError::Setting { name, expected: (least, most), found } => {
                write!(f, "{name}: expected {least} to {most}, the server has {found}")
            }
            JoinError::FilterTooLong { found } => {
                write!(f, "path is too long: at most {INIT_FILTER_LEN_MAX} bytes, found {found}")
            }
        }
    }
}

fn refusal(f: &mut fmt::Formatter<'_>, reason: ByeReason, detail: u32) -> fmt::Result {
    match reason {
        ByeReason::Version => write!(
            f,
            "protocol version differs: this program speaks {PROTOCOL_VERSION}, the server {detail}"
        ),
        ByeReason::UnknownParent => f.write_str("the server's tree has no such parent"),
        ByeReason::SessionsFull => {
            write!(f, "the server is full: it takes {detail} sessions and has them")
        }
        ByeReason::ViewsFull => write!(
            f,
            "the server takes {detail} different paths at a time and has them: ask for one that \
             others use, or for the whole tree"
        ),
        ByeReason::Level => write!(f, "the server offers security level {detail} only"),
        ByeReason::NoReports => {
            f.write_str("this server is a relay and takes no reports: report to its origin")
        }
        ByeReason::NotAllowed => f.write_str("the server does not allow this address"),
        ByeReason::Leaving | ByeReason::Rejoin => f.write_str("the server ended the session"),
    }
}

impl core::error::Error for JoinError {}

impl JoinError {
    /// Whether the server may let the client in later: it was full.
    pub(crate) fn may_pass(&self) -> bool {
        let full = [ByeReason::SessionsFull, ByeReason::ViewsFull];
        matches!(self, JoinError::Refused { reason, .. } if full.contains(reason))
    }
}

/// What a client says of itself in its INIT.
#[derive(Clone, Debug)]
pub(crate) struct Wants {
    pub(crate) role: Role,
    pub(crate) filter: String,
    pub(crate) tree_id: Option<TreeId>,
    pub(crate) life: Life,
    pub(crate) layout_hash: LayoutHash,
    pub(crate) watermark: Revision,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Hello,
    Init { time_ms: u64, mac: [u64; 2], came: Time, tries: u32 },
    Joined,
    Stopped,
}

/// What a datagram did to the handshake.
pub(crate) enum JoinOutcome {
    /// Nothing: it was not for the door.
    Ignored,
    /// It took the handshake on.
    Progress,
    /// The session is open.
    Joined(Joined),
    /// The server cannot be joined.
    Failed(JoinError),
}

/// The handshake as a state machine; repeats itself until it is answered.
#[derive(Debug)]
pub(crate) struct Joiner {
    pub(crate) wants: Wants,
    nonce: u64,
    step: Step,
    next_try: Time,
    wait: Duration,
}

impl Joiner {
    pub(crate) fn new(wants: Wants, random: &mut dyn RandomSource, now: Time) -> Joiner {
        Joiner { wants, nonce: random.id(), step: Step::Hello, next_try: now, wait: RETRY_FIRST }
    }

    /// Begins again at HELLO after `delay`.
    pub(crate) fn restart(&mut self, now: Time, delay: Duration, random: &mut dyn RandomSource) {
        self.nonce = random.id();
        self.step = Step::Hello;
        self.wait = RETRY_FIRST;
        self.next_try = now.after(delay);
    }

    /// Waits longer before the next try: nobody listens there.
    pub(crate) fn hold_off(&mut self, now: Time) {
        self.step = Step::Hello;
        self.next_try = self.next_try.max(now.after(self.wait));
    }

    /// Gives up.
    pub(crate) fn stop(&mut self) {
        self.step = Step::Stopped;
    }

    pub(crate) fn poll_timeout(&self) -> Option<Time> {
        match self.step {
            Step::Hello | Step::Init { .. } => Some(self.next_try),
            Step::Joined | Step::Stopped => None,
        }
    }

    pub(crate) fn handle_timeout(
        &mut self,
        now: Time,
        random: &mut dyn RandomSource,
        outbox: &mut Outbox,
    ) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        if let Step::Init { came, tries, .. } = &mut self.step {
            *tries += 1;
            if *tries > INIT_TRIES || now.since(*came) > COOKIE_SERVES {
                self.step = Step::Hello;
            }
        }
        self.send(outbox);
        // Half of the wait is random: clients that lost one server do not come
        // back as one.
        self.next_try = now.after(self.wait / 2 + random.below(self.wait));
        self.wait = (self.wait * 2).min(RETRY_MAX);
    }

    fn send(&self, outbox: &mut Outbox) {
        match self.step {
            Step::Hello => {
                let header = self.header(DatagramType::Hello);
                outbox.datagram(Destination::Peer, &header, &(), &[], DOOR_DATAGRAM_LEN);
            }
            Step::Init { time_ms, mac, .. } => {
                let header = self.header(DatagramType::Init);
                let body = self.init(time_ms, mac);
                outbox.datagram(Destination::Peer, &header, &body, &[], DOOR_DATAGRAM_LEN);
            }
            Step::Joined | Step::Stopped => {}
        }
    }

    fn header(&self, datagram_type: DatagramType) -> Header {
        Header {
            datagram_type: datagram_type.code(),
            version: PROTOCOL_VERSION,
            channel: U64::new(self.nonce),
            ..Header::default()
        }
    }

    fn init(&self, time_ms: u64, mac: [u64; 2]) -> InitBody {
        let mut filter = [0; INIT_FILTER_LEN_MAX];
        filter.iter_mut().zip(self.wants.filter.bytes()).for_each(|(to, from)| *to = from);
        InitBody {
            cookie_time: U64::new(time_ms),
            cookie_mac: mac.map(U64::new),
            held_life: U32::new(self.wants.life.0),
            held_layout_hash: U32::new(self.wants.layout_hash.0),
            held_watermark: U64::new(self.wants.watermark.0),
            role: self.wants.role.code(),
            level: 0,
            filter_len: U16::new(self.wants.filter.len().min(INIT_FILTER_LEN_MAX) as u16),
            reserved: U32::ZERO,
            filter,
        }
    }

    pub(crate) fn handle(
        &mut self,
        now: Time,
        header: &Header,
        datagram: &Datagram<'_>,
        outbox: &mut Outbox,
    ) -> JoinOutcome {
        let ours = header.channel.get() == self.nonce;
        match (self.step, datagram) {
            (Step::Hello, Datagram::Cookie) if ours => {
                self.step = Step::Init {
                    time_ms: header.event_num.get(),
                    mac: [header.watermark.get(), header.digest.get()],
                    came: now,
                    tries: 0,
                };
                self.send(outbox);
                self.next_try = now.after(RETRY_FIRST);
                self.wait = RETRY_FIRST;
                JoinOutcome::Progress
            }
            (Step::Init { .. }, Datagram::Welcome(welcome, group))
                if welcome.nonce.get() == self.nonce =>
            {
                self.finish(header, welcome, *group, outbox)
            }
            (Step::Hello | Step::Init { .. }, Datagram::Bye(Some(reason))) if ours => {
                let detail = header.detail.get();
                self.step = Step::Stopped;
                JoinOutcome::Failed(JoinError::Refused { reason: *reason, detail })
            }
            _ => JoinOutcome::Ignored,
        }
    }

    fn finish(
        &mut self,
        header: &Header,
        welcome: &WelcomeBody,
        group: Option<&GroupBody>,
        outbox: &mut Outbox,
    ) -> JoinOutcome {
        let joined = joined(header, welcome, group);
        if let Err(error) = self.check(&joined) {
            self.step = Step::Stopped;
            return JoinOutcome::Failed(error);
        }
        self.step = Step::Joined;
        outbox.datagram(
            Destination::Peer,
            &session_header(&joined, DatagramType::Ready),
            &(),
            &[],
            0,
        );
        JoinOutcome::Joined(joined)
    }

    fn check(&self, joined: &Joined) -> Result<(), JoinError> {
        if let Some(expected) = self.wants.tree_id
            && expected != joined.tree_id
        {
            return Err(JoinError::WrongTree { expected, found: joined.tree_id });
        }
        setting("datagram size", joined.datagram_size as u64, DATAGRAM_SIZES)?;
        setting("number of leaves", u64::from(joined.leaf_count), (0, u64::from(LEAVES_MAX)))?;
        setting("lease in milliseconds", joined.lease.as_millis() as u64, LEASES_MS)?;
        setting("heartbeat in milliseconds", joined.heartbeat.as_millis() as u64, LEASES_MS)
    }
}

const DATAGRAM_SIZES: (u64, u64) = (DATAGRAM_SIZE_MIN as u64, DATAGRAM_SIZE_MAX as u64);

/// A lease or heartbeat shorter than this would keep a client busy with nothing
/// else; one longer than a day is a mistake.
const LEASES_MS: (u64, u64) = (10, 86_400_000);

fn setting(name: &'static str, found: u64, expected: (u64, u64)) -> Result<(), JoinError> {
    if (expected.0..=expected.1).contains(&found) {
        Ok(())
    } else {
        Err(JoinError::Setting { name, expected, found })
    }
}

fn joined(header: &Header, welcome: &WelcomeBody, group: Option<&GroupBody>) -> Joined {
    Joined {
        tree_id: TreeId(header.tree_id.get()),
        life: Life(header.life.get()),
        layout_hash: LayoutHash(header.layout_hash.get()),
        session_id: header.channel.get(),
        view_id: welcome.view_id.get(),
        event_num: header.event_num.get(),
        watermark: Revision(header.watermark.get()),
        life_start: Revision(welcome.life_start.get()),
        period: Duration::from_micros(u64::from(welcome.period_us.get())),
        heartbeat: Duration::from_millis(u64::from(welcome.heartbeat_ms.get())),
        lease: Duration::from_millis(u64::from(welcome.lease_ms.get())),
        datagram_size: welcome.datagram_size.get() as usize,
        leaf_count: welcome.leaf_count.get(),
        layout_len: welcome.layout_len.get(),
        credit_max: u16::try_from(welcome.credit_max.get()).unwrap_or(u16::MAX).max(1),
        group: group.and_then(GroupBody::group),
    }
}

/// The header of a client's datagram in its session.
pub(crate) fn session_header(joined: &Joined, datagram_type: DatagramType) -> Header {
    Header {
        datagram_type: datagram_type.code(),
        version: PROTOCOL_VERSION,
        tree_id: U64::new(joined.tree_id.0),
        life: U32::new(joined.life.0),
        layout_hash: U32::new(joined.layout_hash.0),
        channel: U64::new(joined.session_id),
        ..Header::default()
    }
}

/// A goodbye in the session.
pub(crate) fn bye(joined: &Joined, outbox: &mut Outbox) {
    let header = Header {
        flags: U16::new(ByeReason::Leaving.code()),
        ..session_header(joined, DatagramType::Bye)
    };
    outbox.datagram(Destination::Peer, &header, &(), &[], 0);
}

/// Silence after which a client believes its server to be gone. Eight heartbeats
/// in a row are lost once in 15,000 at 30 % loss; two seconds ride out a busy
/// machine. A server that died on a machine that lives is told of sooner, by the
/// network.
pub(crate) fn silence_limit(joined: &Joined) -> Duration {
    (joined.heartbeat * 8).max(Duration::from_secs(2))
}
