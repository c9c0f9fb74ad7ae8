//! The look at a tree file that others may have cut.
//!
//! Each turn of a loop looks whether a page was found lost, which costs a load. Once
//! a second it asks for the length of the file too: what is cut where nobody looks,
//! or in the middle of a page, makes no noise.

use std::path::Path;
use std::time::Duration;

use crate::layout::TreeRole;
use crate::runtime::error::LoopError;
use crate::sync::Time;
use crate::tree::Tree;

/// Time between two questions for the length: a call of half a microsecond.
const INTERVAL: Duration = Duration::from_secs(1);

/// When the length of the file is asked for next.
#[derive(Debug)]
pub(super) struct Lookout {
    next: Time,
}

impl Lookout {
    pub(super) fn new(now: Time) -> Lookout {
        Lookout { next: now.after(INTERVAL) }
    }

    /// When it is time to look though nothing happens.
    pub(super) fn deadline(&self) -> Time {
        self.next
    }

    /// Fails if the file is not what it was.
    pub(super) fn look(&mut self, now: Time, tree: &Tree) -> Result<(), LoopError> {
        if !tree.is_lost() && now < self.next {
            return Ok(());
        }
        self.next = now.after(INTERVAL);
        tree.check_file().map_err(|source| LoopError::Lost {
            path: tree.path().unwrap_or(Path::new("(in memory)")).to_owned(),
            source,
            hint: match tree.role() {
                TreeRole::Server => "; a backup brings it back",
                TreeRole::Replica => "; remove it, and it is fetched again",
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;
    use crate::layout::Life;
    use crate::layout::TreeId;
    use crate::tree::CreateOptions;
    use crate::tree::Layout;

    #[test]
    fn a_length_is_asked_for_once_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tree");
        let (role, tree_id) = (TreeRole::Server, TreeId(1));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
        let tree = Tree::create(&path, Layout::plain(1, 40, 200).unwrap(), options).unwrap();
        let mut lookout = Lookout::new(Time(0));
        lookout.look(Time(0), &tree).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(9_000).unwrap();
        lookout.look(Time(999_999), &tree).unwrap();
        assert_eq!(lookout.deadline(), Time(1_000_000));
        let error = lookout.look(Time(1_000_000), &tree).unwrap_err().to_string();
        assert!(error.contains("was cut to 9000 bytes") && error.contains("backup"), "{error}");
    }
}
