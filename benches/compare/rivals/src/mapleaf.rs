//! mapleaf itself in the rows where it has to cross the same link, and be counted by the
//! same counters, as its rivals: loss and repair.
//!
//! The publisher's process serves the tree, and its values are written by the server's own
//! loop, as a program would that owns the data. A subscriber is a mirror with a file.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use mapleaf::layout::DataLocId;
use mapleaf::layout::Life;
use mapleaf::layout::TreeId;
use mapleaf::layout::TreeRole;
use mapleaf::runtime::Changes;
use mapleaf::runtime::Control;
use mapleaf::runtime::Feed;
use mapleaf::runtime::FeedWriter;
use mapleaf::runtime::MirrorObserver;
use mapleaf::runtime::MirrorOptions;
use mapleaf::runtime::Next;
use mapleaf::runtime::ReloadableConfig;
use mapleaf::runtime::ServeOptions;
use mapleaf::runtime::Waiting;
use mapleaf::runtime::mirror;
use mapleaf::runtime::serve;
use mapleaf::sync::Prefix;
use mapleaf::tree::CreateOptions;
use mapleaf::tree::Layout;
use mapleaf::tree::Tree;

use crate::Seat;
use crate::board::Board;
use crate::board::Sub;
use crate::board::now_ns;
use crate::job::Publisher;
use crate::job::Sender;
use crate::job::VALUE;
use crate::job::Value;

/// Latency is sought where packets are lost; else what changes in a millisecond goes together.
fn period(seat: &Seat) -> Duration {
    if seat.lossy || seat.spin { Duration::ZERO } else { Duration::from_millis(1) }
}

fn waiting(seat: &Seat) -> Waiting {
    if seat.spin { Waiting::Spin } else { Waiting::Sleep }
}

/// Serves until the process is ended.
pub fn publish(seat: &Seat) -> anyhow::Result<()> {
    let file = seat.dir.join("server");
    let layout = Layout::plain(1, seat.leaves, VALUE as u32)?;
    let (role, tree_id) = (TreeRole::Server, TreeId(now_ns() | 1));
    Tree::create(&file, layout, CreateOptions { role, tree_id, life: Life(0), unix_s: 0 })?
        .close()?;
    // The loop's for as long as the process lives.
    let board: &'static Board = Box::leak(Box::new(seat.board()?));
    let publisher = Publisher::new(board, seat.terms(), Box::<Gathered>::default());
    let host: IpAddr = seat.near().parse()?;
    let mut options = ServeOptions::new(&file);
    options.listen = SocketAddr::new(host, seat.port);
    options.waiting = waiting(seat);
    options.feed = Some(Box::new(Fed { publisher }));
    let far = Prefix::new(seat.far().parse()?, 32).context("an address of 32 bits")?;
    let (period, allowed) = (period(seat), vec![far]);
    options.live.store(Arc::new(ReloadableConfig { period, allowed, ..Default::default() }));
    serve(options, Control::new()?)?;
    Ok(())
}

/// What one turn of the publisher publishes.
#[derive(Default)]
struct Gathered(Vec<u8>);

impl Sender for Gathered {
    fn send(&mut self, _: u32, message: &[u8]) -> anyhow::Result<()> {
        self.0.extend_from_slice(message);
        Ok(())
    }
}

/// The publisher, in the server's loop.
struct Fed {
    publisher: Publisher<'static, Gathered>,
}

impl Feed for Fed {
    fn fill(&mut self, writer: &mut FeedWriter<'_>) -> Next {
        let wait = self.publisher.turn().expect("to gather values does not fail");
        let Gathered(values) = self.publisher.sender();
        for value in values.chunks_exact(VALUE) {
            let leaf = DataLocId(Value::read(value).leaf);
            writer.write(leaf, value).expect("leaves and values are the tree's");
        }
        values.clear();
        if wait.is_zero() { Next::Now } else { Next::At(Instant::now() + wait) }
    }
}

/// Mirrors until the process is ended.
pub fn subscribe(seat: &Seat) -> anyhow::Result<()> {
    let mut options = MirrorOptions::new(SocketAddr::new(seat.near().parse()?, seat.port));
    options.file = Some(seat.dir.join(format!("replica-{}", seat.number)));
    options.waiting = waiting(seat);
    let board = seat.board()?;
    board.set_sub(seat.number, Sub::Begun, now_ns());
    mirror(options, Control::new()?, &mut Counting::new(board, seat.number))?;
    Ok(())
}

/// Counts what is applied, as a rival's replica does. Nothing is ever missed: of changes
/// that were conflated the last one is applied.
struct Counting {
    board: Board,
    number: usize,
    applied: u64,
    told: u64,
    newest: u64,
    in_sync: bool,
    data: Vec<u8>,
}

impl Counting {
    fn new(board: Board, number: usize) -> Counting {
        let (applied, told, newest, in_sync) = (0, 0, 0, false);
        Counting { board, number, applied, told, newest, in_sync, data: Vec::new() }
    }

    fn count(&mut self, value: &Value) {
        if value.seq == 0 {
            self.told += 1;
            self.board.set_sub(self.number, Sub::Told, self.told);
        } else {
            self.applied += 1;
            self.board.set_sub(self.number, Sub::Applied, self.applied);
        }
        self.newest = self.newest.max(value.moment);
        self.tell_newest();
        if value.timed > 0 {
            self.board.time(self.number, now_ns().saturating_sub(value.moment));
        }
    }

    /// Changes do not come in their order: that one of them is there says that all before it
    /// are only where the copy is equal to the server's.
    fn tell_newest(&self) {
        if self.in_sync {
            self.board.set_sub(self.number, Sub::Newest, self.newest);
        }
    }
}

impl MirrorObserver for Counting {
    fn changes(&self) -> Changes {
        Changes::Wanted
    }

    fn in_sync(&mut self, _: &Tree) {
        self.in_sync = true;
        self.board.set_sub(self.number, Sub::Ready, 1);
        self.tell_newest();
    }

    fn out_of_sync(&mut self) {
        self.in_sync = false;
    }

    fn changed(&mut self, tree: &Tree, leaf: DataLocId) -> ControlFlow<()> {
        let mut data = std::mem::take(&mut self.data);
        // A leaf that was never written is empty.
        if tree.read(leaf, &mut data).is_some() && data.len() == VALUE {
            self.count(&Value::read(&data));
        }
        self.data = data;
        ControlFlow::Continue(())
    }
}
