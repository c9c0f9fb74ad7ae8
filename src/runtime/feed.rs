//! A program that owns the data and serves it itself.
//!
//! A device sends REPORTs; a program whose own thread fills the tree need not send
//! itself datagrams. It gives the server a [`Feed`], which the loop calls between
//! datagrams and periods, in the thread that owns the tree. A feed whose data come from
//! elsewhere sleeps until a [`Waker`](crate::runtime::Waker) is used.
//!
//! The loop promises that datagrams are taken and periods ended after each call, or
//! after some that wrote a few leaves each. That a call is short is the feed's part:
//! while it runs, nobody is answered.

use std::fmt;
use std::time::Instant;

use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::runtime::adapter::TreeLeaves;
use crate::runtime::clock::Clock;
use crate::runtime::control::Control;
use crate::sync::CommitId;
use crate::sync::Leaves;
use crate::sync::Time;
use crate::tree::Layout;
use crate::tree::StageError;
use crate::tree::WriteError;

/// When a feed wants to be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once; after some calls the datagrams that came meanwhile are taken first.
    Now,
    /// At this moment, or when its waker is used before. On Linux a loop that sleeps is
    /// woken to the microsecond, on other systems to the millisecond, never too early.
    At(Instant),
    /// When its waker is used.
    Woken,
}

/// Where a server's loop gets changes beside those that devices report.
///
/// It is called in the loop's thread: once when the server takes datagrams, once when
/// the tree has grown, and else as it asks for. It must not block, and should write no more than some hundred leaves a
/// call: that takes some 50 us, in which no client is answered.
pub trait Feed: Send {
    /// Writes what has changed, and says when to be called again.
    ///
    /// After a write that was told [`FeedError::Later`] the call should end: the next
    /// one comes when there is room, whatever this one asks for.
    fn fill(&mut self, writer: &mut FeedWriter<'_>) -> Next;
}

impl<F> Feed for F
where
    F: FnMut(&mut FeedWriter<'_>) -> Next + Send,
{
    fn fill(&mut self, writer: &mut FeedWriter<'_>) -> Next {
        self(writer)
    }
}

/// Why a feed's leaf was not written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FeedError {
    /// There is no such leaf.
    UnknownLeaf {
        /// The leaf that was named.
        leaf: DataLocId,
        /// Leaves are 0 up to this, exclusive.
        leaf_count: u32,
    },
    /// Data exceeds the capacity of the leaf.
    TooLarge {
        /// The leaf.
        leaf: DataLocId,
        /// Most bytes that it holds.
        capacity: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// Not now: the commit under way has to be done first. The leaf holds what it held.
    Later,
    /// The tree takes no writes any more.
    Failed(WriteError),
}

impl fmt::Display for FeedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FeedError::UnknownLeaf { leaf, leaf_count } => {
                write!(f, "no leaf {leaf}: the tree has {leaf_count} leaves")
            }
            FeedError::TooLarge { leaf, capacity, found } => {
                write!(f, "leaf {leaf} holds {capacity} bytes, found {found}")
            }
            FeedError::Later => f.write_str("the batch is full until the commit under way is done"),
            FeedError::Failed(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for FeedError {}

impl From<StageError> for FeedError {
    fn from(error: StageError) -> FeedError {
        match error {
            StageError::Write(error) => error.into(),
            StageError::Full { .. } => FeedError::Later,
        }
    }
}

impl From<WriteError> for FeedError {
    fn from(error: WriteError) -> FeedError {
        match error {
            WriteError::UnknownLeaf { leaf, leaf_count } => {
                FeedError::UnknownLeaf { leaf, leaf_count }
            }
            WriteError::TooLarge { leaf, capacity, found } => {
                FeedError::TooLarge { leaf, capacity, found }
            }
            error => FeedError::Failed(error),
        }
    }
}

/// Writes leaves of the tree for a feed, during one call.
pub struct FeedWriter<'a> {
    tree: &'a mut TreeLeaves,
    written: u64,
    refused: Refused,
}

/// Whether a call found the batch full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    No,
    /// By the batch of this commit.
    Full(Option<CommitId>),
}

impl FeedWriter<'_> {
    /// Writes one leaf, and gives the revision of the change.
    ///
    /// The write survives the death of the process when this returns. With
    /// [`Durability::Power`](crate::runtime::Durability::Power) it is gathered for the
    /// next commit instead: clients and readers see it when it is on the medium, and
    /// what is gathered when the power goes is lost.
    ///
    /// # Errors
    /// There is no such leaf, Data does not fit, there is no room now, or the file
    /// failed. The leaf holds what it held.
    pub fn write(&mut self, leaf: DataLocId, data: &[u8]) -> Result<Revision, FeedError> {
        let outcome = self.tree.write_local(leaf, data).map_err(FeedError::from);
        match outcome {
            Ok(_) => self.written += 1,
            Err(FeedError::Later) => self.refused = Refused::Full(self.tree.staged_commit()),
            Err(_) => {}
        }
        outcome
    }

    /// Says that a leaf will be written soon with so many bytes of Data: its memory is
    /// asked for, so that writes of several leaves wait for theirs together. Worth it
    /// for up to some 32 leaves that lie anywhere in a large tree.
    #[inline]
    pub fn expect(&self, leaf: DataLocId, data_size: usize) {
        self.tree.tree().expect_write(leaf, data_size);
    }

    /// The layout of the tree: leaves by path, capacities, fields. It may grow from
    /// call to call, and leaves may have other numbers then.
    pub fn layout(&self) -> &Layout {
        self.tree.tree().layout()
    }

    /// Leaves of the tree.
    pub fn leaf_count(&self) -> u32 {
        self.tree.leaf_count()
    }
}

impl fmt::Debug for FeedWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedWriter").field("written", &self.written).finish_non_exhaustive()
    }
}

/// A feed that wants to go on at once is called again until a turn has so many leaves:
/// some 20 us of writes, beside which the system calls of a turn are small.
const TURN_LEAVES: u64 = 64;

/// A feed with what it asked for.
pub(super) struct Feeding {
    feed: Box<dyn Feed>,
    next: Next,
    refused: Refused,
}

impl Feeding {
    /// A feed that is called in the first turn.
    pub(super) fn new(feed: Box<dyn Feed>) -> Feeding {
        Feeding { feed, next: Next::Now, refused: Refused::No }
    }

    /// The tree has grown: what was asked for and refused is over.
    pub(super) fn begin_anew(&mut self) {
        (self.next, self.refused) = (Next::Now, Refused::No);
    }

    /// When the feed is to be called though nobody wakes it.
    pub(super) fn deadline(&self, clock: Clock, tree: &TreeLeaves) -> Time {
        match (self.refused, self.next) {
            (Refused::Full(commit), _) if commit == tree.staged_commit() => Time(u64::MAX),
            (Refused::Full(_), _) | (Refused::No, Next::Now) => clock.now(),
            (Refused::No, Next::At(moment)) => {
                clock.now().after(moment.saturating_duration_since(Instant::now()))
            }
            (Refused::No, Next::Woken) => Time(u64::MAX),
        }
    }

    /// Calls the feed if it is time, and says how many leaves it wrote.
    pub(super) fn turn(&mut self, control: &Control, tree: &mut TreeLeaves) -> u64 {
        if !self.is_due(control, tree) {
            return 0;
        }
        let mut writer = FeedWriter { tree, written: 0, refused: Refused::No };
        loop {
            let before = writer.written;
            self.next = self.feed.fill(&mut writer);
            // One that wrote nothing waits for something that a turn may bring.
            let goes_on = self.next == Next::Now && writer.written > before;
            if !goes_on || writer.refused != Refused::No || writer.written >= TURN_LEAVES {
                break;
            }
        }
        self.refused = writer.refused;
        writer.written
    }

    fn is_due(&self, control: &Control, tree: &TreeLeaves) -> bool {
        match (self.refused, self.next) {
            // A wake stays noted until there is room.
            (Refused::Full(commit), _) if commit == tree.staged_commit() => false,
            _ if control.take_woken() => true,
            (Refused::Full(_), _) | (_, Next::Now) => true,
            (Refused::No, Next::At(moment)) => Instant::now() >= moment,
            (Refused::No, Next::Woken) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Life;
    use crate::layout::TreeId;
    use crate::layout::TreeRole;
    use crate::tree::CreateOptions;
    use crate::tree::Tree;

    fn leaves() -> TreeLeaves {
        let layout = Layout::plain(1, 500, 16).unwrap();
        let (role, tree_id) = (TreeRole::Server, TreeId(7));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
        let mut tree = Tree::create_unnamed(layout, options).unwrap();
        tree.begin_life(0).unwrap();
        TreeLeaves::served(tree)
    }

    /// Leaves that one turn brings, of a feed that writes so many a call.
    fn written_in_a_turn(of_a_call: u32, next: Next) -> u64 {
        let feed = move |writer: &mut FeedWriter<'_>| {
            for leaf in 0..of_a_call {
                writer.write(DataLocId(leaf), b"new").unwrap();
            }
            next
        };
        Feeding::new(Box::new(feed)).turn(&Control::new().unwrap(), &mut leaves())
    }

    #[test]
    fn a_turn_takes_few_leaves_or_one_call() {
        assert_eq!(written_in_a_turn(0, Next::Now), 0, "it is not called for ever");
        assert_eq!(written_in_a_turn(1, Next::Now), TURN_LEAVES);
        assert_eq!(written_in_a_turn(60, Next::Now), 120);
        assert_eq!(written_in_a_turn(300, Next::Now), 300);
        assert_eq!(written_in_a_turn(1, Next::Woken), 1);
    }

    #[test]
    fn it_is_called_when_it_is_due() {
        let (control, clock) = (Control::new().unwrap(), Clock::start());
        let (mut tree, later) = (leaves(), Instant::now() + std::time::Duration::from_secs(999));
        let mut calls = 0;
        let mut nexts = [Next::Woken, Next::At(later), Next::Now].into_iter();
        let mut feeding = Feeding::new(Box::new(move |writer: &mut FeedWriter<'_>| {
            writer.write(DataLocId(calls), b"new").unwrap();
            calls += 1;
            nexts.next().unwrap_or(Next::Woken)
        }));
        assert!(feeding.deadline(clock, &tree) <= clock.now());
        assert_eq!(feeding.turn(&control, &mut tree), 1);
        assert_eq!(feeding.turn(&control, &mut tree), 0, "nobody woke it");
        assert_eq!(feeding.deadline(clock, &tree), Time(u64::MAX));
        control.waker().wake();
        assert_eq!(feeding.turn(&control, &mut tree), 1);
        assert_eq!(feeding.turn(&control, &mut tree), 0, "its moment has not come");
        assert!(feeding.deadline(clock, &tree) > clock.now());
        feeding.begin_anew();
        assert_eq!(feeding.turn(&control, &mut tree), 2, "at once, and once more");
    }
}
