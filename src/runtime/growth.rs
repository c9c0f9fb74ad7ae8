//! A schema file that the tree of a running server follows.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;

use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::tree::GrowError;
use crate::tree::GrowthError;
use crate::tree::Layout;
use crate::tree::SchemaError;
use crate::tree::Tree;

/// Why a tree stays as it is. The server goes on.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaRefusal {
    #[error("cannot read it: {0}")]
    Read(io::Error),
    #[error("wanted at most {SCHEMA_LEN_MAX} bytes of UTF-8")]
    Text,
    #[error("{0}")]
    Schema(SchemaError),
    #[error("{0}")]
    Shrinks(GrowthError),
    #[error("{0}")]
    Grow(GrowError),
}

/// The layout of a schema file, if the tree has another one that it extends.
pub(super) fn extension(path: &Path, tree: &Tree) -> Result<Option<Layout>, SchemaRefusal> {
    let layout = Layout::from_toml(&read(path)?).map_err(SchemaRefusal::Schema)?;
    if layout.layout_hash() == tree.layout_hash() {
        return Ok(None);
    }
    layout.extends(tree.layout()).map_err(SchemaRefusal::Shrinks)?;
    Ok(Some(layout))
}

/// The text, however long the file is.
fn read(path: &Path) -> Result<String, SchemaRefusal> {
    let file = File::open(path).map_err(SchemaRefusal::Read)?;
    let mut bytes = Vec::new();
    // One byte more than may be, so that a longer file is found out.
    let limit = SCHEMA_LEN_MAX as u64 + 1;
    file.take(limit).read_to_end(&mut bytes).map_err(SchemaRefusal::Read)?;
    if bytes.len() > SCHEMA_LEN_MAX {
        return Err(SchemaRefusal::Text);
    }
    String::from_utf8(bytes).map_err(|_| SchemaRefusal::Text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Life;
    use crate::layout::TreeId;
    use crate::layout::TreeRole;
    use crate::tree::CreateOptions;

    #[test]
    fn only_a_schema_that_extends_the_tree_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("schema.toml");
        let layout = Layout::plain(1, 4, 16).unwrap();
        let text = layout.schema_text().to_owned();
        let (role, tree_id) = (TreeRole::Server, TreeId(1));
        let options = CreateOptions { role, tree_id, life: Life(0), unix_s: 0 };
        let tree = Tree::create_unnamed(layout, options).unwrap();
        assert!(matches!(extension(&path, &tree), Err(SchemaRefusal::Read(_))));
        std::fs::write(&path, &text).unwrap();
        assert!(extension(&path, &tree).unwrap().is_none());
        std::fs::write(&path, text.replace("leaves = 4", "leaves = 9")).unwrap();
        assert_eq!(extension(&path, &tree).unwrap().map(|new| new.leaf_count()), Some(9));
        std::fs::write(&path, text.replace("leaves = 4", "leaves = 3")).unwrap();
        assert!(matches!(extension(&path, &tree), Err(SchemaRefusal::Shrinks(_))));
        std::fs::write(&path, b"\xff").unwrap();
        assert!(matches!(extension(&path, &tree), Err(SchemaRefusal::Text)));
    }
}
