//! Layouts of the origin's tree, from the first to the one that it has grown to.
//!
//! DataLocIDs change when a tree grows; a leaf is known here by its place: its
//! parent, and its position in it.

use crate::layout::LayoutHash;
use crate::sim::options::Options;
use crate::tree::Layout;

/// A leaf by its parent and its position there: the same in every layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) parent: u32,
    pub(super) position: u32,
}

/// Every layout that the tree has had, oldest first.
#[derive(Debug)]
pub(super) struct Layouts {
    all: Vec<Layout>,
}

/// A tree grows to at most so many times its first leaves.
const GROWTH_MAX: u32 = 3;

impl Layouts {
    pub(super) fn new(options: &Options) -> Layouts {
        let first = Layout::plain(options.parents, options.leaves, options.capacity);
        Layouts { all: vec![first.expect("the options are within limits")] }
    }

    /// The newest: what the schema says now.
    pub(super) fn newest(&self) -> &Layout {
        self.all.last().expect("there is a first layout")
    }

    /// The schema gets `more` leaves, or a capacity of 8 bytes more if there are
    /// enough. Says whether it is another one then.
    pub(super) fn extend(&mut self, options: &Options, more: u32) -> bool {
        let now = self.newest();
        let leaves = (now.leaf_count() + more).min(options.leaves * GROWTH_MAX);
        let is_full = leaves == now.leaf_count();
        let capacity = options.capacity + if is_full { 8 } else { 0 };
        let capacity = capacity.max(now.capacity_max());
        let next = Layout::plain(options.parents, leaves, capacity).expect("it is within limits");
        let is_other = next.layout_hash() != now.layout_hash();
        if is_other {
            self.all.push(next);
        }
        is_other
    }

    /// The schema is again what it was.
    pub(super) fn take_back(&mut self) {
        self.all.pop();
    }

    pub(super) fn of(&self, hash: LayoutHash) -> Option<&Layout> {
        self.all.iter().find(|layout| layout.layout_hash() == hash)
    }
}

/// Where a leaf of a layout is.
pub(super) fn place_in(layout: &Layout, leaf: u32) -> Option<Place> {
    let parents = layout.parents();
    let parent = parents.iter().position(|parent| parent.leaves().contains(&leaf))?;
    Some(Place { parent: parent as u32, position: leaf - parents[parent].leaves().start })
}

/// The leaf of a layout in a place.
pub(super) fn leaf_at(layout: &Layout, place: Place) -> Option<u32> {
    let leaves = layout.parents().get(place.parent as usize)?.leaves();
    leaves.clone().nth(place.position as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    use crate::sim::options::Fixed;

    #[test]
    fn a_leaf_keeps_its_place_in_a_schema_that_grows() {
        let fixed = Fixed { leaves: Some(5), ..Fixed::default() };
        let mut options = Options::draw(1, Duration::ZERO, &fixed);
        options.parents = 2;
        let mut layouts = Layouts::new(&options);
        let first = layouts.newest().clone();
        assert!(layouts.extend(&options, 4));
        let grown = layouts.newest().clone();
        assert_eq!((first.leaf_count(), grown.leaf_count()), (5, 9));
        let growth = grown.extends(&first).unwrap();
        for leaf in 0..5 {
            let place = place_in(&first, leaf).unwrap();
            let moved = leaf_at(&grown, place);
            assert_eq!(moved, growth.new_leaf(crate::layout::DataLocId(leaf)).map(|leaf| leaf.0));
        }
        assert!(layouts.extend(&options, 100));
        assert_eq!(layouts.newest().leaf_count(), 15);
        assert!(layouts.extend(&options, 1), "then its leaves get larger");
        assert!(!layouts.extend(&options, 1), "and then no more");
    }
}
