//! Comparing tree files of a demo, and looking at a live one.

use std::path::Path;

use anyhow::Context;

use mapleaf::layout::Revision;
use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;

/// Highest revision of any leaf, also while the file is served.
pub(crate) fn newest_revision(file: &Path) -> anyhow::Result<Revision> {
    let tree = open(file)?;
    let mut leaves = tree.leaves();
    let mut newest = Revision::ZERO;
    while let Some(leaf) = leaves.next_leaf()? {
        if let Scanned::Leaf(leaf) = leaf {
            newest = newest.max(leaf.revision);
        }
    }
    Ok(newest)
}

/// The first leaf whose part that travels (checksum, DataSize, DataLocID, revision,
/// Data) is not the same in both files, as a sentence.
pub(crate) fn first_difference(server: &Path, replica: &Path) -> anyhow::Result<Option<String>> {
    let (server, replica) = (open(server)?, open(replica)?);
    let (wanted, found) = (server.layout().layout_hash(), replica.layout().layout_hash());
    if wanted != found {
        return Ok(Some(format!("layout: wanted {wanted}, found {found}")));
    }
    let (mut here, mut there) = (server.leaves(), replica.leaves());
    loop {
        let equal = match (here.next_leaf()?, there.next_leaf()?) {
            (None, None) => return Ok(None),
            (Some(Scanned::Leaf(wanted)), Some(Scanned::Leaf(found))) => {
                let head = |leaf: &mapleaf::tree::LeafView<'_>| {
                    (leaf.data_loc_id, leaf.checksum, leaf.revision)
                };
                let same = head(&wanted) == head(&found) && wanted.data == found.data;
                (!same).then(|| {
                    format!(
                        "leaf {}: wanted revision {} checksum {:08x}, found {} {:08x}",
                        wanted.data_loc_id,
                        wanted.revision,
                        wanted.checksum,
                        found.revision,
                        found.checksum
                    )
                })
            }
            (wanted, found) => Some(format!("wanted {wanted:?}, found {found:?}")),
        };
        if equal.is_some() {
            return Ok(equal);
        }
    }
}

fn open(file: &Path) -> anyhow::Result<TreeFile> {
    TreeFile::open(file).with_context(|| file.display().to_string())
}
