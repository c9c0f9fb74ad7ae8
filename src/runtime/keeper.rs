//! The replica of a mirror: a file that survives and is resumed from, or memory.
//!
//! A file that exists is opened at the start and has to hold the server's tree; one
//! that does not is created when the server's layout has come. A layout that extends
//! the one held makes the replica grow.

use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use crate::bridge;
use crate::layout::TreeRole;
use crate::runtime::adapter::Following;
use crate::runtime::adapter::TreeLeaves;
use crate::runtime::error::LoopError;
use crate::runtime::error::MirrorError;
use crate::runtime::serve::log_recovery;
use crate::runtime::serve::unix_s;
use crate::sync::Held;
use crate::sync::HeldTree;
use crate::sync::JoinError;
use crate::sync::Joined;
use crate::tree::CreateOptions;
use crate::tree::Damaged;
use crate::tree::GrowError;
use crate::tree::Layout;
use crate::tree::OpenOptions;
use crate::tree::Tree;

/// The replica, as soon as there is one.
pub(super) struct Keeper {
    server: SocketAddr,
    path: Option<PathBuf>,
    how: Following,
    leaves: Option<TreeLeaves>,
    /// What an earlier run left.
    held: Held,
}

impl Keeper {
    /// Opens the file if there is one.
    pub(super) fn open(
        server: SocketAddr,
        path: Option<PathBuf>,
        how: Following,
    ) -> Result<Keeper, MirrorError> {
        let mut keeper = Keeper { server, path, how, leaves: None, held: Held::Nothing };
        let existing = keeper.path.clone().filter(|path| path.symlink_metadata().is_ok());
        if let Some(path) = existing {
            keeper.open_file(&path)?;
        }
        Ok(keeper)
    }

    fn open_file(&mut self, path: &Path) -> Result<(), MirrorError> {
        // Damaged leaves are emptied: the server has them.
        let (role, damaged) = (TreeRole::Replica, Damaged::Reset);
        let opened = Tree::open(path, OpenOptions { role, damaged, unix_s: unix_s() });
        let (tree, recovery) = opened.map_err(|source| MirrorError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        log_recovery(path, &recovery);
        self.held = bridge::held(&tree, &recovery);
        self.leaves = Some(TreeLeaves::replica(tree, self.how));
        Ok(())
    }

    /// The server.
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// What the server is told of the replica.
    pub(super) fn held_tree(&self) -> Option<HeldTree> {
        self.leaves.as_ref().map(|leaves| bridge::held_tree(leaves.tree()))
    }

    /// What the replica holds, by what an earlier run left.
    pub(super) fn held(&self) -> Held {
        self.held
    }

    /// The replica.
    pub(super) fn leaves(&self) -> Option<&TreeLeaves> {
        self.leaves.as_ref()
    }

    /// The replica.
    pub(super) fn leaves_mut(&mut self) -> Option<&mut TreeLeaves> {
        self.leaves.as_mut()
    }

    /// Whether the replica has the layout of this session.
    pub(super) fn has_layout_of(&self, joined: &Joined) -> bool {
        self.leaves.as_ref().is_some_and(|leaves| {
            leaves.tree().tree_id() == joined.tree_id
                && leaves.tree().layout_hash() == joined.layout_hash
        })
    }

    /// Gives the replica the layout that came: it is made, or it grows.
    pub(super) fn take_layout(&mut self, joined: &Joined, blob: &[u8]) -> Result<(), MirrorError> {
        let layout = Layout::from_blob(blob).map_err(|source| MirrorError::Layout {
            server: self.server,
            source: Box::new(source),
        })?;
        let Some(leaves) = &mut self.leaves else {
            return self.create(joined, layout);
        };
        match (leaves.grow(|tree| tree.grow(layout.clone())), &self.path) {
            (Ok(_), _) => Ok(()),
            // In memory nothing is lost by beginning again.
            (Err(GrowError::Layout(_)), None) => self.create(joined, layout),
            (Err(source), path) => {
                Err(MirrorError::Grow { path: path.clone().unwrap_or_default(), source })
            }
        }
    }

    /// What a session that failed means to whoever runs the mirror.
    pub(super) fn refused(&self, error: JoinError) -> MirrorError {
        match (error, &self.path) {
            (JoinError::WrongTree { expected, found }, Some(path)) => MirrorError::WrongTree {
                path: path.clone(),
                server: self.server,
                wanted: found,
                found: expected,
            },
            (source, _) => MirrorError::Refused { server: self.server, source },
        }
    }

    /// Ends in good order.
    pub(super) fn close(self) -> Result<(), LoopError> {
        let path = self.path.unwrap_or_default();
        let closed = self.leaves.map_or(Ok(()), |leaves| leaves.into_tree().close());
        closed.map_err(|source| LoopError::Sync { path, source })
    }

    fn create(&mut self, joined: &Joined, layout: Layout) -> Result<(), MirrorError> {
        let options = CreateOptions {
            role: TreeRole::Replica,
            tree_id: joined.tree_id,
            life: joined.life,
            unix_s: unix_s(),
        };
        let tree = match &self.path {
            Some(path) => Tree::create(path, layout, options)?,
            None => Tree::create_unnamed(layout, options)?,
        };
        self.leaves = Some(TreeLeaves::replica(tree, self.how));
        self.held = Held::Nothing;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::Coverage;
    use crate::layout::Life;
    use crate::layout::TreeId;
    use crate::runtime::adapter::Noting;
    use crate::tree::Mark;

    fn server() -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }

    fn how() -> Following {
        Following { mark: Mark::Quiet, noting: Noting::Off, coverage: Coverage::Whole }
    }

    fn create(path: &Path, role: TreeRole) {
        let options = CreateOptions { role, tree_id: TreeId(9), life: Life(3), unix_s: 0 };
        let layout = Layout::plain(1, 4, 16).unwrap();
        Tree::create(path, layout, options).unwrap().close().unwrap();
    }

    #[test]
    fn a_server_s_file_is_refused_as_a_replica() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree.mapleaf");
        create(&path, TreeRole::Server);
        let error = Keeper::open(server(), Some(path), how()).err().unwrap();
        assert!(matches!(error, MirrorError::Open { .. }), "{error}");
    }

    #[test]
    fn an_empty_file_holds_nothing_and_says_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree.mapleaf");
        assert!(Keeper::open(server(), Some(path.clone()), how()).unwrap().held_tree().is_none());
        create(&path, TreeRole::Replica);
        let keeper = Keeper::open(server(), Some(path.clone()), how()).unwrap();
        assert_eq!(keeper.held_tree().map(|held| held.tree_id), Some(TreeId(9)));
        assert!(matches!(keeper.held(), Held::Nothing));
        let wrong = JoinError::WrongTree { expected: TreeId(9), found: TreeId(8) };
        let text = keeper.refused(wrong).to_string();
        assert!(text.contains("holds tree 0000000000000009"), "{text}");
        assert!(text.contains("serves tree 0000000000000008"), "{text}");
    }
}
