//! What a program may see of a mirror while it runs.

use std::ops::ControlFlow;

use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::sync::JoinError;
use crate::sync::Joined;
use crate::tree::Tree;

/// Whether an observer is told of single leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// [`MirrorObserver::changed`] is called for each leaf that was applied.
    Wanted,
    /// It is not, and the tree marks nothing.
    Unwanted,
}

/// Where a mirror stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MirrorStatus {
    /// Wanted leaves that are held as the server had them last.
    pub held_leaves: u32,
    /// Leaves that are wanted.
    pub wanted_leaves: u32,
    /// Whether the copy is known to equal the server's tree.
    pub in_sync: bool,
    /// Every change up to it is held.
    pub watermark: Revision,
    /// Leaves applied since the mirror began, each value counted.
    pub applied: u64,
}

/// By which way the EVENTs of a mirror come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupState {
    /// By the multicast group.
    Heard,
    /// To the mirror's own address: nothing comes by the group.
    Silent,
}

/// Told of what happens to a mirror, from its own loop: it must not block.
///
/// Every method does nothing unless it is written.
pub trait MirrorObserver {
    /// Whether single leaves are of interest; asked once, at the start.
    fn changes(&self) -> Changes {
        Changes::Unwanted
    }

    /// A session was opened. There may be no tree yet.
    fn joined(&mut self, joined: &Joined) {
        let _ = joined;
    }

    /// The tree is there, or has grown: layout and leaves can be read.
    fn attached(&mut self, tree: &Tree) {
        let _ = tree;
    }

    /// Called some ten times a second while the loop runs, for progress and pictures.
    fn progress(&mut self, status: &MirrorStatus, tree: Option<&Tree>) {
        let _ = (status, tree);
    }

    /// The copy equals the server's tree, by the digest of a period.
    fn in_sync(&mut self, tree: &Tree) {
        let _ = tree;
    }

    /// The copy is not known any more to equal the server's tree.
    fn out_of_sync(&mut self) {}

    /// A leaf was applied since the last call. Several changes of one leaf may be one
    /// call; leaves come in ascending order. `Break` ends the mirror in good order.
    fn changed(&mut self, tree: &Tree, leaf: DataLocId) -> ControlFlow<()> {
        let _ = (tree, leaf);
        ControlFlow::Continue(())
    }

    /// The server fell silent, or ended the session: it is joined again.
    fn rejoining(&mut self) {}

    /// The multicast group began to be heard, or fell silent.
    fn group(&mut self, state: GroupState) {
        let _ = state;
    }

    /// The server refused the session. The mirror ends with this error.
    fn refused(&mut self, error: &JoinError) {
        let _ = error;
    }
}

/// Sees nothing.
impl MirrorObserver for () {}
