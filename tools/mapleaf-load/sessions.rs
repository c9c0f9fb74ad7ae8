//! Bare sessions: a process that opens many and then keeps quiet.
//!
//! Each has a socket of its own and goes through the door like any subscriber, but
//! keeps no replica and reads nothing afterwards.

use std::io;
use std::io::Read;
use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::getrlimit;
use rustix::process::setrlimit;
use serde_json::json;

use mapleaf::layout::DataLocId;
use mapleaf::layout::Digest;
use mapleaf::layout::LayoutHash;
use mapleaf::layout::Life;
use mapleaf::layout::Parent;
use mapleaf::layout::ParentId;
use mapleaf::layout::Revision;
use mapleaf::layout::TreeId;
use mapleaf::net::RecvBatch;
use mapleaf::net::SocketOptions;
use mapleaf::net::UdpSocket;
use mapleaf::sync::Client;
use mapleaf::sync::ClientConfig;
use mapleaf::sync::Leaves;
use mapleaf::sync::RandomSource;
use mapleaf::sync::ReplicaLeaves;
use mapleaf::sync::Time;
use mapleaf::sync::Transmit;
use mapleaf::wire::Leaf;

use crate::feed::Random;
use crate::machine::now_ns;
use crate::subscriber::say;

/// What a process of sessions is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct SessionsArgs {
    /// Address of the server
    #[arg(long)]
    server: SocketAddr,
    /// How many
    #[arg(long)]
    count: u32,
}

/// Files of a process beside its sessions' sockets.
const OTHER_FILES: u64 = 64;

/// A server that does not let one in within this is not there.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asked of the system for each socket: a few datagrams.
const RECEIVE_BUFFER: usize = 4_096;

/// Opens them one after the other, and keeps them until stdin ends.
pub(crate) fn run(args: &SessionsArgs) -> anyhow::Result<()> {
    make_room(u64::from(args.count) + OTHER_FILES)?;
    say(&json!({"line": "start", "t": now_ns()}));
    let mut batch = RecvBatch::new(4, 65_536);
    let open = |number| open(args.server, u64::from(number), &mut batch);
    let sockets = (1..=args.count).map(open).collect::<anyhow::Result<Vec<_>>>()?;
    say(&json!({"line": "opened", "t": now_ns()}));
    let mut byte = [0];
    while matches!(io::stdin().read(&mut byte), Ok(count) if count > 0) {}
    drop(sockets);
    say(&json!({"line": "end"}));
    Ok(())
}

/// Lets this process have so many files, if it may.
fn make_room(files: u64) -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    if maximum.is_some_and(|maximum| maximum < files) {
        bail!("{files} files are needed, and no more than {maximum:?} allowed");
    }
    let wanted = Rlimit { current: Some(files), maximum };
    setrlimit(Resource::Nofile, wanted).context("cannot have so many files")
}

/// Opens one session, and leaves it open.
fn open(server: SocketAddr, seed: u64, batch: &mut RecvBatch) -> anyhow::Result<UdpSocket> {
    let options = SocketOptions { receive_buffer: RECEIVE_BUFFER, ..SocketOptions::default() };
    let mut socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), &options)?;
    socket.connect(server)?;
    let begun = Instant::now();
    let now = || Time::START.after(begun.elapsed());
    let config = ClientConfig::new(RECEIVE_BUFFER);
    let mut client = Client::new(config, Box::new(Numbers(Random(now_ns() ^ seed))), now());
    let mut was_joined = false;
    while begun.elapsed() < PATIENCE {
        while let Some(transmit) = client.poll_transmit() {
            if let Transmit::Datagram { bytes, .. } = transmit {
                // What is lost is sent again.
                let _ = socket.send(bytes);
            }
        }
        if was_joined {
            return Ok(socket);
        }
        match socket.receive(batch) {
            Ok(0) | Err(_) => thread::sleep(Duration::from_micros(20)),
            Ok(_) => {
                for (_, datagram) in &*batch {
                    client.handle_datagram(now(), datagram, None::<&mut NoReplica>);
                }
            }
        }
        if client.poll_timeout().is_some_and(|due| due <= now()) {
            client.handle_timeout(now(), None::<&mut NoReplica>);
        }
        // What confirms the session is sent before this returns.
        was_joined = client.joined().is_some();
    }
    bail!("{server} opened no session in {} s", PATIENCE.as_secs())
}

/// Nothing here is a secret.
struct Numbers(Random);

impl RandomSource for Numbers {
    fn next_u64(&mut self) -> u64 {
        self.0.next()
    }
}

/// The replica that there is not.
enum NoReplica {}

impl Leaves for NoReplica {
    fn tree_id(&self) -> TreeId {
        match *self {}
    }

    fn life(&self) -> Life {
        match *self {}
    }

    fn layout_hash(&self) -> LayoutHash {
        match *self {}
    }

    fn leaf_count(&self) -> u32 {
        match *self {}
    }

    fn parents(&self) -> &[Parent] {
        match *self {}
    }

    fn parent_at(&self, _: &str) -> Option<ParentId> {
        match *self {}
    }

    fn checksums(&self) -> &[u32] {
        match *self {}
    }

    fn revision(&self, _: DataLocId) -> Revision {
        match *self {}
    }

    fn next_changed_since(&self, _: u32, _: u32, _: Revision) -> Option<DataLocId> {
        match *self {}
    }

    fn newest_revision(&self) -> Revision {
        match *self {}
    }

    fn digest(&self) -> Digest {
        match *self {}
    }

    fn digest_of_parent(&self, _: ParentId) -> Digest {
        match *self {}
    }
}

impl ReplicaLeaves for NoReplica {
    fn apply(&mut self, _: &Leaf<'_>) -> bool {
        match *self {}
    }

    fn follow(&mut self, _: Life, _: Revision) {
        match *self {}
    }
}
