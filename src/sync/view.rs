//! A view: the clients that want the same leaves, and the EVENTs that they share.

use core::net::SocketAddr;
use core::ops::Range;

use crate::layout::Digest;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::sync::leaves::Leaves;
use crate::sync::session::Delivery;
use crate::sync::time::Time;

/// Which leaves a client wants: those of one parent and of all that it encloses,
/// or of the whole tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) root: Option<ParentId>,
    /// The parents whose leaves are wanted; empty when `root` is nothing.
    parents: Vec<ParentId>,
    /// DataLocIDs wanted, ascending, not touching one another.
    pub(crate) ranges: Vec<Range<u32>>,
}

impl Selection {
    /// The whole tree.
    pub(crate) fn all(leaf_count: u32) -> Selection {
        let ranges =
            if leaf_count == 0 { Vec::new() } else { vec![Range { start: 0, end: leaf_count }] };
        Selection { root: None, parents: Vec::new(), ranges }
    }

    /// The leaves of the parent at `path`; the whole tree where it is empty or `/`.
    pub(crate) fn at(path: &str, tree: &impl Leaves) -> Option<Selection> {
        if path.is_empty() || path == "/" {
            return Some(Selection::all(tree.leaf_count()));
        }
        tree.parent_at(path).map(|root| Selection::under(root, tree.parents()))
    }

    fn under(root: ParentId, table: &[Parent]) -> Selection {
        // A parent lies behind the one that encloses it, so one pass finds all.
        let mut inside = vec![false; table.len()];
        for (index, parent) in table.iter().enumerate() {
            let enclosed = parent.enclosing().and_then(|id| inside.get(id.index()).copied());
            inside[index] = index == root.index() || enclosed.unwrap_or(false);
        }
        let mine = || table.iter().enumerate().filter(|(index, _)| inside[*index]);
        let mut ranges: Vec<Range<u32>> =
            mine().map(|(_, parent)| parent.leaves()).filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, last| {
            let touches = next.start == last.end;
            if touches {
                last.end = next.end;
            }
            touches
        });
        let parents = mine().map(|(index, _)| ParentId(index as u32)).collect();
        Selection { root: Some(root), parents, ranges }
    }

    /// Number of leaves wanted.
    pub(crate) fn leaf_count(&self) -> u32 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }

    pub(crate) fn contains(&self, leaf: u32) -> bool {
        let after = self.ranges.partition_point(|range| range.start <= leaf);
        after.checked_sub(1).is_some_and(|index| self.ranges[index].contains(&leaf))
    }

    /// The digest of the leaves wanted.
    pub(crate) fn digest(&self, tree: &impl Leaves) -> Digest {
        if self.root.is_none() {
            return tree.digest();
        }
        self.parents
            .iter()
            .fold(Digest::default(), |sum, parent| sum.plus(tree.digest_of_parent(*parent)))
    }
}

/// One view of a server.
#[derive(Debug)]
pub(crate) struct View {
    /// Drawn anew in every run, so that EventNums of two runs are never mixed up.
    pub(crate) id: u64,
    pub(crate) selection: Selection,
    /// Number of the last EVENT. It rises by one with each (claim 15).
    pub(crate) event_num: u64,
    /// Digest at the end of the last period; nothing until one ended, if leaves
    /// had changed before the view began.
    pub(crate) digest: Option<Digest>,
    /// When its clients were last sent something.
    pub(crate) last_close: Time,
    /// Sessions that hold on to it, half-open ones included.
    pub(crate) members: usize,
    /// Who gets its EVENTs: the clients of the open ones that want them at their own
    /// address, and the group while somebody listens to it.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Clients that listen to the group.
    pub(crate) listeners: usize,
}

impl View {
    /// Whether it is that of the whole tree.
    pub(crate) fn is_whole(&self) -> bool {
        self.selection.root.is_none()
    }

    /// Lets a client get its EVENTs by other ways than before.
    pub(crate) fn redirect(
        &mut self,
        address: SocketAddr,
        group: SocketAddr,
        (before, after): (Delivery, Delivery),
    ) {
        if before == Delivery::Group && after != Delivery::Group {
            self.addresses.push(address);
        } else if before != Delivery::Group && after == Delivery::Group {
            self.leave(address);
        }
        if before == Delivery::Own && after != Delivery::Own {
            self.listeners += 1;
            if self.listeners == 1 {
                self.addresses.push(group);
            }
        } else if before != Delivery::Own && after == Delivery::Own {
            self.listeners -= 1;
            if self.listeners == 0 {
                self.leave(group);
            }
        }
    }

    pub(crate) fn leave(&mut self, address: SocketAddr) {
        if let Some(index) = self.addresses.iter().position(|other| *other == address) {
            self.addresses.swap_remove(index);
        }
    }
}
