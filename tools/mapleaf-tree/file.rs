//! Tree files as the commands see them: opened, named, gone through.

use std::path::Path;

use anyhow::Context;
use indicatif::ProgressBar;

use mapleaf::layout::DataLocId;
use mapleaf::tree::Scanned;
use mapleaf::tree::TreeFile;
use mapleaf::tree::printable;

/// Opens a tree file to read it.
///
/// # Errors
///
/// It is none, with its name.
pub(crate) fn open(path: &Path) -> anyhow::Result<TreeFile> {
    TreeFile::open(path).with_context(|| shown(path))
}

/// A file name as a terminal may see it.
pub(crate) fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

/// Path of a leaf as a terminal may see it.
pub(crate) fn shown_path(file: &TreeFile, leaf: DataLocId) -> String {
    printable(file.layout().path_of(leaf).unwrap_or_default().as_bytes())
}

/// Leaves between two moves of a progress bar.
const BAR_STEP: u32 = 1 << 16;

/// Hands every leaf to `take`, with a progress bar on a terminal.
pub(crate) fn scan(
    file: &TreeFile,
    mut take: impl FnMut(Scanned<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let bar = ProgressBar::new(file.layout().leaf_count().into());
    let mut leaves = file.leaves();
    let mut count = 0_u32;
    while let Some(scanned) = leaves.next_leaf()? {
        take(scanned)?;
        count += 1;
        if count.is_multiple_of(BAR_STEP) {
            bar.set_position(count.into());
        }
    }
    bar.finish_and_clear();
    Ok(())
}
