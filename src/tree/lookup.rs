//! Look-ups in a layout: by DataLocID, by ParentID and by path.
//!
//! None of them scans leaves. A path costs one look-up a name; a DataLocID costs a
//! binary search over the parents that own leaves.

use core::ops::Range;

use crate::layout::DataLocId;
use crate::layout::LayoutHash;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::layout::ParentName;
use crate::tree::field::Field;
use crate::tree::plan::Layout;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// The whole tree: the path is empty or `/`.
    Tree,
    /// A parent, with all that it encloses.
    Parent(ParentId),
    /// One leaf.
    Leaf(DataLocId),
}

/// Parents and leaves.
impl Layout {
    /// Name that the schema gives the tree.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The text that everything is derived from.
    pub fn schema_text(&self) -> &str {
        &self.schema_text
    }

    /// The parents table, record offsets included.
    pub fn parents(&self) -> &[Parent] {
        &self.parents
    }

    /// Number of parents.
    pub fn parent_count(&self) -> u32 {
        // PARENTS_MAX was checked.
        self.parents.len() as u32
    }

    /// Number of leaves.
    pub fn leaf_count(&self) -> u32 {
        self.leaf_count
    }

    /// Largest capacity of a leaf, in bytes of Data.
    pub fn capacity_max(&self) -> u32 {
        self.capacity_max
    }

    /// Largest stride of a record, in bytes.
    pub fn stride_max(&self) -> u32 {
        self.stride_max
    }

    /// CRC32C over the parents table and the schema text behind it.
    pub fn layout_hash(&self) -> LayoutHash {
        self.layout_hash
    }

    /// The row of a parent.
    pub fn parent(&self, parent: ParentId) -> Option<&Parent> {
        self.parents.get(parent.index())
    }

    /// The parents that own leaves, in the order of their DataLocIDs.
    pub fn owners(&self) -> impl Iterator<Item = &Parent> {
        self.owners.iter().filter_map(|id| self.parent(*id))
    }

    /// The parent that owns a leaf. Takes a binary search over the parents.
    pub fn parent_of(&self, leaf: DataLocId) -> Option<&Parent> {
        let begins = |id: &ParentId| {
            self.parent(*id).is_some_and(|row| row.first_leaf_loc_id.get() <= leaf.0)
        };
        let behind = self.owners.partition_point(begins);
        let owner = self.owners.get(behind.checked_sub(1)?)?;
        self.parent(*owner).filter(|row| row.leaves().contains(&leaf.0))
    }

    /// Offset in the file of a leaf's record.
    pub fn record_offset(&self, leaf: DataLocId) -> Option<u64> {
        let row = self.parent_of(leaf)?;
        let index = leaf.0 - row.first_leaf_loc_id.get();
        Some(row.first_record_offset.get() + u64::from(index) * u64::from(row.stride.get()))
    }

    /// Most bytes of Data that a leaf holds.
    pub fn capacity_of(&self, leaf: DataLocId) -> Option<u32> {
        self.parent_of(leaf).map(|row| row.capacity.get())
    }

    /// The typed fields in the Data of a parent's leaves; none if Data is opaque.
    pub fn fields(&self, parent: ParentId) -> &[Field] {
        self.contents(parent).map_or(&[], |contents| &contents.fields)
    }

    /// The typed fields in the Data of a leaf.
    pub fn fields_of(&self, leaf: DataLocId) -> &[Field] {
        self.parent_of(leaf).map_or(&[], |row| self.fields(ParentId(row.parent_id.get())))
    }

    /// Path of a parent, as `/site/rack1`.
    pub fn parent_path(&self, parent: ParentId) -> Option<String> {
        let mut names = Vec::new();
        let mut next = Some(parent);
        while let Some(id) = next {
            let row = self.parent(id)?;
            names.push(row.name()?);
            next = row.enclosing();
        }
        Some(names.iter().rev().fold(String::new(), |path, name| path + "/" + name))
    }

    /// Name of a leaf within its parent.
    pub fn leaf_name(&self, leaf: DataLocId) -> Option<String> {
        let row = self.parent_of(leaf)?;
        let contents = self.contents(ParentId(row.parent_id.get()))?;
        contents.names.name(leaf.0 - row.first_leaf_loc_id.get())
    }

    /// Path of a leaf, as `/site/rack1/port7`.
    pub fn path_of(&self, leaf: DataLocId) -> Option<String> {
        let row = self.parent_of(leaf)?;
        let path = self.parent_path(ParentId(row.parent_id.get()))?;
        Some(path + "/" + &self.leaf_name(leaf)?)
    }

    /// The parent with this path. Takes one look-up a name of the path.
    pub fn parent_at(&self, path: &str) -> Option<ParentId> {
        let mut id = ParentId::NONE;
        for name in path.strip_prefix('/')?.split('/') {
            let name = ParentName::new(name)?;
            id = *self.children.get(&(id, name.bytes()))?;
        }
        Some(id)
    }

    /// The leaf with this path.
    pub fn leaf_at(&self, path: &str) -> Option<DataLocId> {
        let (parent, name) = path.rsplit_once('/')?;
        let id = self.parent_at(parent)?;
        let index = self.contents(id)?.names.index(name)?;
        Some(DataLocId(self.parent(id)?.first_leaf_loc_id.get() + index))
    }

    /// What a path names: all of the tree, a parent, or a leaf.
    pub fn place_at(&self, path: &str) -> Option<Place> {
        if path.is_empty() || path == "/" {
            return Some(Place::Tree);
        }
        let parent = self.parent_at(path).map(Place::Parent);
        parent.or_else(|| self.leaf_at(path).map(Place::Leaf))
    }

    /// DataLocIDs of a parent and of everything that it encloses: sorted ranges
    /// that do not touch. Takes one pass over the parents behind it.
    pub fn subtree(&self, parent: ParentId) -> Vec<Range<u32>> {
        let mut ranges: Vec<Range<u32>> = Vec::new();
        // A parent is enclosed by an earlier one only, so one pass finds all.
        let mut inside = vec![false; self.parents.len().saturating_sub(parent.index())];
        for (place, row) in self.parents.iter().skip(parent.index()).enumerate() {
            let enclosed = row
                .enclosing()
                .and_then(|id| id.index().checked_sub(parent.index()))
                .and_then(|above| inside.get(above).copied())
                .unwrap_or(false);
            if let Some(mark) = inside.get_mut(place)
                && (place == 0 || enclosed)
            {
                *mark = true;
                push_range(&mut ranges, row.leaves());
            }
        }
        ranges
    }

    /// DataLocIDs of what a path names, as [`Layout::subtree`] gives them.
    pub fn leaves_in(&self, place: Place) -> Vec<Range<u32>> {
        match place {
            Place::Tree => core::iter::once(0..self.leaf_count).collect(),
            Place::Parent(parent) => self.subtree(parent),
            Place::Leaf(leaf) => core::iter::once(leaf.0..leaf.0.saturating_add(1)).collect(),
        }
    }
}

/// Adds a range that lies behind all others, merged with one that it touches.
fn push_range(ranges: &mut Vec<Range<u32>>, range: Range<u32>) {
    match ranges.last_mut() {
        _ if range.is_empty() => {}
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::plan::tests::site;

    #[test]
    fn every_path_leads_back_to_its_leaf() {
        let layout = site();
        for id in (0..layout.leaf_count()).map(DataLocId) {
            let path = layout.path_of(id).unwrap();
            assert_eq!(layout.leaf_at(&path), Some(id), "{path}");
            assert_eq!(layout.place_at(&path), Some(Place::Leaf(id)));
        }
        assert_eq!(layout.path_of(DataLocId(0)).as_deref(), Some("/site/rack1/port1"));
        assert_eq!(layout.path_of(DataLocId(50)).as_deref(), Some("/lone/2"));
        for wrong in ["/site/rack1/port01", "/site/rack1/port0", "/site/rack1/port49", "/lone/1"] {
            assert_eq!(layout.leaf_at(wrong), None, "{wrong}");
        }
        for wrong in ["lone/eth0", "/lone/eth0/", "//lone/eth0", "/eth0", "/site/port1"] {
            assert_eq!(layout.place_at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_subtree_is_what_a_parent_encloses() {
        let layout = site();
        let site = layout.parent_at("/site").unwrap();
        assert_eq!(layout.subtree(site), [0..48, 52..54]);
        let rack = layout.parent_at("/site/rack2").unwrap();
        assert_eq!(layout.subtree(rack), vec![52..54]);
        assert_eq!(layout.leaves_in(Place::Tree), vec![0..54]);
        assert_eq!(layout.leaves_in(Place::Leaf(DataLocId(3))), vec![3..4]);
    }
}
