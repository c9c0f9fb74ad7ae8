//! One process of the world: the origin, a relay, a replica or a device.

use core::net::IpAddr;
use core::net::Ipv4Addr;
use core::net::SocketAddr;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::path::PathBuf;

use crate::layout::LayoutHash;
use crate::layout::Life;
use crate::layout::Revision;
use crate::sim::audience::Audience;
use crate::sim::checks::Ends;
use crate::sim::hearing::Hearing;
use crate::sim::leaves::SimLeaves;
use crate::sim::network::Flight;
use crate::sim::network::GROUP;
use crate::sim::places::Place;
use crate::sim::random::Seeded;
use crate::sim::storage::Failing;
use crate::sim::witness::Witness;
use crate::sync::Client;
use crate::sync::Device;
use crate::sync::Held;
use crate::sync::Joined;
use crate::sync::Leaves;
use crate::sync::PeriodEnd;
use crate::sync::ServedLeaves;
use crate::sync::Server;
use crate::sync::SourceState;
use crate::sync::Time;
use crate::tree::Layout;

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Origin,
    Relay,
    Replica,
    Device,
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Runs,
    /// As by SIGSTOP: what comes lies in its socket.
    Stopped {
        until: Time,
    },
    /// It is gone, and comes back.
    Down {
        until: Time,
        file: FileFate,
    },
}

/// The file that a process comes back with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFate {
    Same,
    /// An older copy took its place.
    Older,
    /// It was removed.
    Gone,
}

/// The serving half of the origin and of relays.
#[derive(Default)]
pub(super) struct Serving {
    pub(super) server: Option<Server>,
    pub(super) next_period: Time,
    pub(super) ends: Ends,
    /// Last EVENT of each view.
    pub(super) views: BTreeMap<u64, u64>,
    /// Which leaves each view is of.
    pub(super) view_filters: BTreeMap<u64, Option<usize>>,
    /// Whether there is a group in this run.
    pub(super) has_group: bool,
    /// How replicas asked to get EVENTs.
    pub(super) audience: Audience,
    /// Channel of the datagram that came last.
    pub(super) channel: u64,
    /// Addresses that were sent a COOKIE, and those that came back with it.
    pub(super) cookied: BTreeSet<u16>,
    pub(super) proven: BTreeSet<u16>,
    /// Life that a relay's clients were told of.
    pub(super) life: Life,
    /// And the layout.
    pub(super) layout_hash: LayoutHash,
    /// What was said of its source at the last period's end.
    pub(super) source: Option<SourceState>,
}

/// The following half of relays and replicas.
pub(super) struct Following {
    pub(super) client: Option<Client>,
    pub(super) held: Held,
    pub(super) attached: Option<Joined>,
    pub(super) next_save: Time,
    /// The last end of a period of its server that it was told of.
    pub(super) told: u64,
    /// Periods closed, digests found equal, and `told`, when its verdict was judged
    /// last.
    pub(super) judged: (u64, u64, u64),
    /// Twin leaves as they were some time ago.
    pub(super) kept: Option<[(crate::layout::LeafHead, Vec<u8>); 2]>,
    pub(super) witness: Witness,
    pub(super) hearing: Hearing,
    /// It was stopped and reads what lay in its sockets: no timer has run yet.
    pub(super) wakes: bool,
    /// When something was done to the copy that only an audit can find.
    pub(super) excused: Option<Time>,
    #[cfg(test)]
    pub(super) bent: crate::sim::bent::Bent,
}

/// A REPORT on its way, by session and sequence: leaves and their versions.
pub(super) type Reports = BTreeMap<(u64, u64), Vec<(Place, u64)>>;

/// What waits in a socket of a stopped process.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) flights: VecDeque<Flight>,
    /// Its size as the kernel counts.
    pub(super) len: usize,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) doing: Doing,
    /// Whom it follows or reports to; itself at the origin.
    pub(super) upstream: usize,
    /// The parent that it wants; all if none.
    pub(super) filter: Option<usize>,
    /// Counts its runs.
    pub(super) run: u64,
    pub(super) random: Seeded,
    pub(super) path: PathBuf,
    pub(super) leaves: Option<SimLeaves>,
    /// A call of its that will fail.
    pub(super) failing: Option<Failing>,
    pub(super) serving: Serving,
    pub(super) following: Following,
    pub(super) device: Option<Device>,
    /// The layout that the device names leaves by.
    pub(super) device_layout: Option<Layout>,
    pub(super) reports: Reports,
    /// Whether it joins the group that its server tells of.
    pub(super) wants_group: bool,
    /// What waits while it is stopped: by the group, and in all other sockets.
    pub(super) group_socket: Waiting,
    pub(super) socket: Waiting,
    /// When something is to be done here, as long as nothing has happened since it was
    /// computed.
    due: Option<Time>,
}

/// Address of the multicast group.
pub(super) fn group_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 1, 2, 3)), GROUP)
}

/// Every process has an address on one host: by default no others are let in.
pub(super) fn address(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl Node {
    pub(super) fn new(
        kind: Kind,
        name: String,
        upstream: usize,
        path: PathBuf,
        random: Seeded,
    ) -> Node {
        Node {
            name,
            kind,
            doing: Doing::Down { until: Time::START, file: FileFate::Same },
            upstream,
            filter: None,
            run: 0,
            random,
            path,
            leaves: None,
            failing: None,
            serving: Serving::default(),
            following: Following {
                client: None,
                held: Held::Nothing,
                attached: None,
                next_save: Time::START,
                told: 0,
                judged: (0, 0, 0),
                kept: None,
                witness: Witness::default(),
                hearing: Hearing::default(),
                wakes: false,
                excused: None,
                #[cfg(test)]
                bent: crate::sim::bent::Bent::default(),
            },
            device: None,
            device_layout: None,
            reports: Reports::new(),
            wants_group: false,
            group_socket: Waiting::default(),
            socket: Waiting::default(),
            due: None,
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.doing == Doing::Runs
    }

    /// How far what it serves is.
    pub(super) fn period_end(&self) -> PeriodEnd {
        match (&self.following.client, &self.leaves) {
            (Some(client), _) => PeriodEnd {
                watermark: client.watermark(),
                source: if client.is_in_sync() { SourceState::InSync } else { SourceState::Behind },
            },
            (None, leaves) => PeriodEnd {
                watermark: leaves.as_ref().map_or(Revision::ZERO, SimLeaves::newest_revision),
                source: SourceState::InSync,
            },
        }
    }

    /// Whether there is something to send though no period has a length.
    pub(super) fn has_news(&self) -> bool {
        let (Some(_), Some(leaves)) = (&self.serving.server, &self.leaves) else { return false };
        let source = Some(self.period_end().source);
        self.runs() && (leaves.has_changes() || self.serving.source != source)
    }

    /// Something happened here: what is due is to be computed again.
    pub(super) fn plan(&mut self) {
        self.due = None;
    }

    /// When something is to be done here. It is asked for once a step, and between two
    /// steps much may happen.
    pub(super) fn due(&mut self) -> Time {
        match self.due {
            Some(due) => due,
            None => *self.due.insert(self.next_due()),
        }
    }

    fn next_due(&self) -> Time {
        let serving = self.serving.server.as_ref().map(|server| {
            let timeout = server.poll_timeout().unwrap_or(Time(u64::MAX));
            timeout.min(self.serving.next_period)
        });
        let following = self.following.client.as_ref().map(|client| {
            let timeout = client.poll_timeout().unwrap_or(Time(u64::MAX));
            timeout.min(self.following.next_save)
        });
        let device = self.device.as_ref().and_then(Device::poll_timeout);
        match self.doing {
            Doing::Stopped { until } | Doing::Down { until, .. } => until,
            Doing::Runs => {
                [serving, following, device].into_iter().flatten().min().unwrap_or(Time(u64::MAX))
            }
        }
    }
}
