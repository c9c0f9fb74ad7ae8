//! A tree as text, and text as a tree: for people, for diff, and to rebuild.
//!
//! ```text
//! # mapleaf dump 1
//! tree_id 00c0ffee00c0ffee
//! created_unix_s 1790000000
//! role server
//! life 213000000
//! watermark 914828035194880003
//! schema_len 61
//! | [[parent]]
//! | name = "rack1"
//! ...
//! leaf 12 1 914828035194880003 00ff10 # /rack1/port12
//! end 1
//! ```
//!
//! A leaf line has DataLocID, ChangeFlag, revision and Data in hex (`-` if there
//! is none). Leaves that were never written have no line. Text behind ` # ` is for
//! people. Schema lines are escaped so that a terminal may see them, and come back
//! byte for byte. `end` counts the leaf lines: a dump that was cut is not a smaller
//! tree. Both ways work line by line, in memory for one.

use core::fmt;
use std::io;
use std::io::Write;

use crate::layout::DataLocId;
use crate::layout::ParentId;
use crate::layout::TreeRole;
use crate::tree::field::printable;
use crate::tree::inspect::InspectError;
use crate::tree::inspect::TreeFile;
use crate::tree::plan::Layout;
use crate::tree::record_check::LeafView;
use crate::tree::scan::Scanned;
use crate::tree::schema_error::SchemaError;

/// First line of a dump.
pub(super) const FIRST_LINE: &str = "# mapleaf dump 1";

/// Before each line of the schema.
pub(super) const SCHEMA_MARK: &str = "| ";

/// Why a dump is not written or not read.
#[derive(Debug)]
#[non_exhaustive]
pub enum DumpError {
    /// The output or the input failed.
    Io(io::Error),
    /// The tree file cannot be read.
    Inspect(InspectError),
    /// The text is not a dump.
    Text {
        /// Line, counted from 1.
        line: u64,
        /// What should be there.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// The schema in the dump breaks a rule.
    Schema(SchemaError),
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DumpError::Io(error) => error.fmt(f),
            DumpError::Inspect(error) => error.fmt(f),
            DumpError::Text { line, wanted, found } => {
                write!(f, "dump line {line}: wanted {wanted}, found {found}")
            }
            DumpError::Schema(error) => write!(f, "dump: {error}"),
        }
    }
}

impl std::error::Error for DumpError {}

impl From<io::Error> for DumpError {
    fn from(error: io::Error) -> DumpError {
        DumpError::Io(error)
    }
}

impl From<InspectError> for DumpError {
    fn from(error: InspectError) -> DumpError {
        DumpError::Inspect(error)
    }
}

/// What a dump left out, and how much it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// Leaf lines.
    pub leaves: u64,
    /// Leaves that are damaged: a comment each.
    pub damaged: u64,
}

/// Writes a tree as text.
///
/// # Errors
///
/// What the output or the file refuses.
pub fn write_dump(file: &TreeFile, out: &mut impl Write) -> Result<DumpSummary, DumpError> {
    write_head(file, out)?;
    let mut summary = DumpSummary::default();
    let mut paths = Paths::default();
    let mut leaves = file.leaves();
    while let Some(scanned) = leaves.next_leaf()? {
        match scanned {
            Scanned::Leaf(leaf) if leaf.is_empty() => {}
            Scanned::Leaf(leaf) => {
                summary.leaves += 1;
                write_leaf(out, &leaf)?;
                writeln!(out, " # {}", paths.of(file.layout(), leaf.data_loc_id))?;
            }
            Scanned::Damaged { leaf, damage } => {
                summary.damaged += 1;
                let path = paths.of(file.layout(), leaf);
                writeln!(out, "# leaf {leaf} {path} is damaged: {damage}")?;
            }
        }
    }
    writeln!(out, "end {}", summary.leaves)?;
    Ok(summary)
}

fn write_head(file: &TreeFile, out: &mut impl Write) -> Result<(), DumpError> {
    let header = file.header();
    let text = file.layout().schema_text();
    writeln!(out, "{FIRST_LINE}")?;
    writeln!(out, "tree_id {:016x}", header.tree_id.get())?;
    writeln!(out, "created_unix_s {}", header.created_unix_s.get())?;
    if let Some(state) = file.state()? {
        // A role that is none is a fault of the file, and a server's data here.
        let role = TreeRole::from_code(state.role.get()).unwrap_or(TreeRole::Server);
        writeln!(out, "role {}", role_name(role))?;
        writeln!(out, "life {}", state.life.get())?;
        writeln!(out, "watermark {}", state.watermark.get())?;
    }
    writeln!(out, "schema_len {}", text.len())?;
    for line in text.split_inclusive('\n') {
        let line = line.strip_suffix('\n').unwrap_or(line);
        writeln!(out, "{SCHEMA_MARK}{}", printable(line.as_bytes()))?;
    }
    Ok(())
}

/// The word for a role, in dumps and for people.
pub fn role_name(role: TreeRole) -> &'static str {
    match role {
        TreeRole::Server => "server",
        TreeRole::Replica => "replica",
    }
}

fn write_leaf(out: &mut impl Write, leaf: &LeafView<'_>) -> io::Result<()> {
    write!(out, "leaf {} {} {} ", leaf.data_loc_id, leaf.change_flag, leaf.revision)?;
    match leaf.data {
        [] => out.write_all(b"-"),
        data => write_hex(out, data),
    }
}

/// Writes bytes as lower-case hex.
pub fn write_hex(out: &mut impl Write, data: &[u8]) -> io::Result<()> {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    let mut digits = [0; 256];
    for piece in data.chunks(digits.len() / 2) {
        for (pair, byte) in digits.chunks_exact_mut(2).zip(piece) {
            let [high, low] = [byte >> 4, byte & 15].map(|nibble| DIGITS[usize::from(nibble)]);
            pair.copy_from_slice(&[high, low]);
        }
        out.write_all(digits.get(..2 * piece.len()).unwrap_or_default())?;
    }
    Ok(())
}

/// Bytes from hex in pairs of digits, if there are no more than `len_max`.
pub fn parse_hex(text: &str, len_max: usize) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    if pairs.len() > len_max {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    pairs.iter().map(|[high, low]| Some((digit(*high)? * 16 + digit(*low)?) as u8)).collect()
}

/// Paths of leaves that come parent by parent, ready for a terminal.
#[derive(Default)]
struct Paths {
    parent: Option<ParentId>,
    path: String,
}

impl Paths {
    fn of(&mut self, layout: &Layout, leaf: DataLocId) -> String {
        let parent = layout.parent_of(leaf).map(|row| ParentId(row.parent_id.get()));
        if self.parent != parent {
            let path = parent.and_then(|id| layout.parent_path(id)).unwrap_or_default();
            self.path = printable(path.as_bytes());
            self.parent = parent;
        }
        let name = layout.leaf_name(leaf).unwrap_or_default();
        format!("{}/{}", self.path, printable(name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_comes_back() {
        let data: Vec<u8> = (0..=255).collect();
        let mut hex = Vec::new();
        write_hex(&mut hex, &data).unwrap();
        assert_eq!(parse_hex(core::str::from_utf8(&hex).unwrap(), 256), Some(data));
        assert_eq!(parse_hex("0g", 9), None);
        assert_eq!(parse_hex("+1", 9), None);
    }
}
