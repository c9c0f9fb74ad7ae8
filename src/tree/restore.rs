//! Putting a tree back together from a dump.

use crate::layout::DataLocId;
use crate::layout::Revision;
use crate::layout::TreeRole;
use crate::tree::mapped::Tree;
use crate::tree::record::leaf_head;
use crate::tree::write::Mark;
use crate::tree::write::WriteError;

/// Before a server's life begins, or a replica follows a server.
impl Tree {
    /// Puts a leaf back with the revision that it had.
    ///
    /// # Errors
    ///
    /// There is no such leaf, Data exceeds its capacity, or the tree is a server's
    /// whose life has begun: its replicas would not follow.
    pub fn restore(
        &mut self,
        leaf: DataLocId,
        revision: Revision,
        data: &[u8],
        mark: Mark,
    ) -> Result<(), WriteError> {
        if self.run.life_start.is_some() {
            return Err(WriteError::LifeBegun);
        }
        let record = self.target(leaf, data)?;
        self.store(&record, &leaf_head(leaf, revision, data), data, mark);
        self.run.newest = self.run.newest.max(revision);
        Ok(())
    }

    /// Puts the watermark back: a server gives no revision up to it again, a
    /// replica asks for what is newer.
    pub fn restore_watermark(&mut self, watermark: Revision) {
        match self.role() {
            TreeRole::Server => self.run.newest = self.run.newest.max(watermark),
            TreeRole::Replica => self.save_progress(self.life(), watermark),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Life;
    use crate::layout::TreeId;
    use crate::tree::CreateOptions;
    use crate::tree::Layout;

    #[test]
    fn a_leaf_comes_back_with_its_revision_and_later_ones_are_above_it() {
        let layout = Layout::plain(1, 3, 8).unwrap();
        let options =
            CreateOptions { role: TreeRole::Server, tree_id: TreeId(1), life: Life(5), unix_s: 0 };
        let mut tree = Tree::create_unnamed(layout, options).unwrap();
        let (old, newest) = (Revision(Life(5).base().0 + 3), Revision(Life(5).base().0 + 9));
        tree.restore(DataLocId(1), old, b"old", Mark::Changed).unwrap();
        tree.restore_watermark(newest);
        assert_eq!(tree.revision(DataLocId(1)), old);
        assert!(tree.is_changed(DataLocId(1)) && !tree.is_changed(DataLocId(0)));
        assert!(tree.restore(DataLocId(3), old, b"", Mark::Quiet).is_err());
        assert!(tree.restore(DataLocId(0), old, b"123456789", Mark::Quiet).is_err());
        tree.begin_life(0).unwrap();
        assert!(tree.write(DataLocId(0), b"new").unwrap() > newest);
        let late = tree.restore(DataLocId(0), old, b"", Mark::Quiet);
        assert_eq!(late, Err(WriteError::LifeBegun));
    }
}
