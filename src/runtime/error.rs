//! Why a loop did not begin, or ended early. One line each.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::layout::DataLocId;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::sync::JoinError;
use crate::tree::BlobError;
use crate::tree::CreateError;
use crate::tree::FileLoss;
use crate::tree::GrowError;
use crate::tree::OpenError;
use crate::tree::RedoError;
use crate::tree::SyncError;
use crate::tree::WriteError;

/// What both sides may fail at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The address is not one of this machine, in use, or not permitted.
    #[error("cannot listen on {address}: {}", bind_hint(.source))]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Raw sockets are not to be had.
    #[error("cannot send by a raw socket: {}", raw_hint(.source))]
    Transport {
        /// What the system said.
        source: io::Error,
    },
    /// The multicast group cannot be sent to.
    #[error("cannot send to the group {group}: {source}")]
    Group {
        /// The group that was asked for.
        group: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// There is no way to the peer.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The peer.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Other machines reach the address, and nobody said who may come in.
    #[error(
        "{address} is reached from other machines: name the prefixes that may come in \
         (--allow 10.0.0.0/8), or listen on 127.0.0.1"
    )]
    Exposed {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// A leaf of full size does not fit a datagram.
    #[error(
        "parent {parent}: a leaf of {capacity} bytes does not fit a datagram of {datagram_size}: \
         set --datagram-size {needed}{}", beyond(*.needed)
    )]
    DatagramSize {
        /// Path of the parent with the largest leaves.
        parent: String,
        /// Bytes of Data that its leaves hold.
        capacity: u32,
        /// Datagram size that was asked for.
        datagram_size: usize,
        /// Datagram size that would do.
        needed: usize,
    },
    /// No datagram is as small or as large.
    #[error("datagram size: wanted {min} to {max} bytes, found {found}")]
    DatagramRange {
        /// Smallest.
        min: usize,
        /// Largest.
        max: usize,
        /// What was asked for.
        found: usize,
    },
    /// The tree file could not be written back: it is to be opened and verified again.
    #[error("{path}: {source}", path = .path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: SyncError,
    },
    /// The tree file was cut while it was in use, or cannot be read any more. What it
    /// holds is damaged, and it is not marked as closed in good order.
    #[error("{path}: {source}: the tree is damaged{hint}", path = .path.display())]
    Lost {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        source: FileLoss,
        /// What to do about it.
        hint: &'static str,
    },
    /// The redo log could not be made or written: what is not acknowledged may be lost,
    /// and the next server recovers the rest.
    #[error("{path}: {source}", path = .path.display())]
    Redo {
        /// The tree file.
        path: PathBuf,
        /// What failed.
        source: RedoError,
    },
    /// What had become durable could not be stored in the tree. The next server does.
    #[error("{path}: {source}", path = .path.display())]
    Store {
        /// The tree file.
        path: PathBuf,
        /// What failed.
        source: WriteError,
    },
    /// A thread that sends has panicked, by a defect of this program; it said where.
    #[error("a thread that sends has ended by a panic")]
    Sender,
    /// Something that the loop needs is not to be had.
    #[error("cannot {what}: {source}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl LoopError {
    /// Names what was to be done.
    pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> LoopError {
        move |source| LoopError::System { what, source }
    }
}

fn bind_hint(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the port is taken: end its owner, or name another port".into(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        io::ErrorKind::PermissionDenied => "not permitted: name a port of 1024 or above".into(),
        _ => source.to_string(),
    }
}

fn raw_hint(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "the process lacks CAP_NET_RAW: run it as root, or give the program the capability \
             (setcap cap_net_raw+ep), or use --transport udp"
                .into()
        }
        io::ErrorKind::Unsupported => "this system has none: use --transport udp".into(),
        _ => source.to_string(),
    }
}

fn beyond(needed: usize) -> &'static str {
    // Whole in an Ethernet frame of 1,500 bytes, without the headers of IPv6 and UDP.
    let whole = 1_500 - 40 - 8;
    if needed <= whole {
        " (not every path takes it whole)"
    } else {
        " (it goes in fragments, unless the network has larger frames)"
    }
}

/// Why a server did not begin, or ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The tree file was not opened.
    #[error("{path}: {source}{}", open_hint(.source), path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<OpenError>,
    },
    /// The tree has grown, but its folder could not be written back.
    #[error("{path}: {source}", path = .path.display())]
    Grow {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: GrowError,
    },
    /// See [`LoopError`].
    #[error(transparent)]
    Loop(#[from] LoopError),
}

/// A time as people say it: what a turn of the loop adds is no news.
fn rounded(time: Duration) -> String {
    match time.as_millis() {
        ms @ ..1_000 => format!("{ms} ms"),
        ms => format!("{} s", ((ms + 50) / 100) as f64 / 10.0),
    }
}

fn open_hint(source: &OpenError) -> &'static str {
    match source {
        OpenError::Role { expected: TreeRole::Server, .. } => {
            "; serve the server's own file, or pass the copy on with mapleaf mirror --serve"
        }
        OpenError::Role { expected: TreeRole::Replica, .. } => {
            "; name another file for the replica"
        }
        OpenError::Damaged { .. } => "; --reset-damaged empties them, a backup brings them back",
        OpenError::Locked => "; end that process first",
        _ => "",
    }
}

fn grow_hint(source: &GrowError) -> &'static str {
    match source {
        GrowError::Layout(_) => "; name another file, or remove this one",
        _ => "",
    }
}

/// Why a mirror did not begin, or ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// The replica's file was not opened.
    #[error("{path}: {source}{}", open_hint(.source), path = .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<OpenError>,
    },
    /// The replica's file was not created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The replica holds another tree.
    #[error(
        "{path}: holds tree {found:016x}, {server} serves tree {wanted:016x}: \
         name another file, or remove this one",
        path = .path.display(), found = .found.0, wanted = .wanted.0
    )]
    WrongTree {
        /// The file.
        path: PathBuf,
        /// The server.
        server: SocketAddr,
        /// Tree that the server has.
        wanted: TreeId,
        /// Tree that the file has.
        found: TreeId,
    },
    /// The server's layout is not one that the replica's can grow into.
    #[error("{path}: {source}{}", grow_hint(.source), path = .path.display())]
    Grow {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        source: GrowError,
    },
    /// What the server sent is no layout.
    #[error("{server} sent no layout: {source}")]
    Layout {
        /// The server.
        server: SocketAddr,
        /// What is wrong with it.
        source: Box<BlobError>,
    },
    /// The server does not let this client in.
    #[error("{server}: {source}")]
    Refused {
        /// The server.
        server: SocketAddr,
        /// Why.
        source: JoinError,
    },
    /// No session in the time that was given.
    #[error("no answer from {server} in {}: is a server running there?", rounded(*.waited))]
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// How long it was tried.
        waited: Duration,
    },
    /// A relay hands the whole tree on.
    #[error("a relay needs the whole tree: leave --path {filter} out, or do not serve")]
    RelayFilter {
        /// The filter that was asked for.
        filter: String,
    },
    /// See [`LoopError`].
    #[error(transparent)]
    Loop(#[from] LoopError),
}

/// Why a report did not arrive, or a device is not connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReporterError {
    /// No session, or no layout, in the time that was given.
    #[error("no answer from {server} in {}: is a server running there?", rounded(*.waited))]
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// How long it was tried.
        waited: Duration,
    },
    /// The server does not let this device in.
    #[error("{server}: {source}")]
    Refused {
        /// The server.
        server: SocketAddr,
        /// Why.
        source: JoinError,
    },
    /// What the server sent is no layout.
    #[error("{server} sent no layout: {source}")]
    Layout {
        /// The server.
        server: SocketAddr,
        /// What is wrong with it.
        source: Box<BlobError>,
    },
    /// Data does not fit a datagram of this server.
    #[error("leaf {leaf}: at most {max} bytes fit a REPORT of this server, found {found}")]
    TooLarge {
        /// The leaf.
        leaf: DataLocId,
        /// Most bytes of Data.
        max: usize,
        /// Bytes of Data that were given.
        found: usize,
    },
    /// Nothing was acknowledged for as long as a report may wait.
    #[error("no acknowledgement from {server} in {}", rounded(*.waited))]
    TimedOut {
        /// The server.
        server: SocketAddr,
        /// How long it was waited.
        waited: Duration,
    },
    /// The control asked to end.
    #[error("stopped before everything was acknowledged")]
    Stopped,
    /// See [`LoopError`].
    #[error(transparent)]
    Loop(#[from] LoopError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_with_what_to_do() {
        let address = "127.0.0.1:7000".parse().unwrap();
        let taken = LoopError::Bind { address, source: io::ErrorKind::AddrInUse.into() };
        let large = LoopError::DatagramSize {
            parent: "/site".to_owned(),
            capacity: 1_300,
            datagram_size: 1_200,
            needed: 1_424,
        };
        for (error, wanted) in [
            (taken, "cannot listen on 127.0.0.1:7000: the port is taken"),
            (large, "set --datagram-size 1424 (not every path"),
            (LoopError::Exposed { address }, "--allow"),
        ] {
            let text = error.to_string();
            assert!(text.contains(wanted) && !text.contains('\n'), "{text}");
        }
        let waited = Duration::from_micros(2_501_193);
        let text = MirrorError::Unreachable { server: address, waited }.to_string();
        assert_eq!(text, "no answer from 127.0.0.1:7000 in 2.5 s: is a server running there?");
        let times = [200_900, 5_001_193, 59_960_000].map(Duration::from_micros);
        assert_eq!(times.map(rounded), ["200 ms", "5 s", "60 s"]);
    }
}
