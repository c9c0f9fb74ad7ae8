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
use std::io::BufRead;
use std::io::Read;
use std::io::Write;

use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::ParentId;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::layout::limits::CAPACITY_MAX;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::tree::field::printable;
use crate::tree::inspect::InspectError;
use crate::tree::inspect::TreeFile;
use crate::tree::plan::Layout;
use crate::tree::record::leaf_head;
use crate::tree::record_check::LeafView;
use crate::tree::record_check::Origin;
use crate::tree::scan::LeafState;
use crate::tree::scan::Scanned;
use crate::tree::schema_error::SchemaError;

/// First line of a dump.
const FIRST_LINE: &str = "# mapleaf dump 1";

/// Before each line of the schema.
const SCHEMA_MARK: &str = "| ";

/// Longest line: Data in hex, or a schema of one line with every byte escaped
/// (`\u{202e}` stands for three), and what is around it.
const LINE_LEN_MAX: usize =
    if 2 * CAPACITY_MAX > 8 * SCHEMA_LEN_MAX { 2 * CAPACITY_MAX } else { 8 * SCHEMA_LEN_MAX }
        + 4096;

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
            Scanned::Leaf(leaf) if is_empty(&leaf) => {}
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

fn is_empty(leaf: &LeafView<'_>) -> bool {
    leaf.data.is_empty() && leaf.change_flag == 0 && leaf.revision == Revision::ZERO
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

/// What a dump says of its tree before the leaves.
#[derive(Clone, Debug)]
pub struct DumpHead {
    /// See [`TreeId`].
    pub tree_id: TreeId,
    /// Unix time at which the dumped tree was created.
    pub created_unix_s: u64,
    /// Whose tree it was.
    pub role: TreeRole,
    /// Its life when it was dumped.
    pub life: Life,
    /// Its watermark when it was dumped.
    pub watermark: Revision,
    /// Where everything lies.
    pub layout: Layout,
}

/// Reads a dump, leaf by leaf.
#[derive(Debug)]
pub struct DumpReader<R> {
    input: Lines<R>,
    head: DumpHead,
    /// First DataLocID that the next leaf may have.
    next: u32,
    leaves: u64,
    ended: bool,
}

impl<R: BufRead> DumpReader<R> {
    /// Reads up to the first leaf.
    ///
    /// # Errors
    ///
    /// What the input refuses, text that is not a dump, or its schema.
    pub fn new(input: R) -> Result<DumpReader<R>, DumpError> {
        let mut input = Lines { input, text: String::new(), number: 0 };
        let head = read_head(&mut input)?;
        Ok(DumpReader { input, head, next: 0, leaves: 0, ended: false })
    }

    /// What the dump says of its tree.
    pub fn head(&self) -> &DumpHead {
        &self.head
    }

    /// Reads the next leaf that is not empty; nothing behind the last one.
    ///
    /// # Errors
    ///
    /// What the input refuses, a leaf that the layout has no room for, leaves out
    /// of order, or a dump that was cut.
    pub fn next_leaf(&mut self) -> Result<Option<LeafState>, DumpError> {
        if self.ended {
            return Ok(None);
        }
        let wanted = "a leaf or the end";
        loop {
            if !self.input.advance()? {
                return Err(self.input.wanted(wanted));
            }
            let line = self.input.text.as_str();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(count) = line.strip_prefix("end ") {
                if count.trim() != self.leaves.to_string() {
                    return Err(self.input.wanted(&format!("end {}", self.leaves)));
                }
                self.ended = true;
                return Ok(None);
            }
            return match self.parse_leaf(line) {
                Ok(leaf) => {
                    self.next = leaf.data_loc_id.0 + 1;
                    self.leaves += 1;
                    Ok(Some(leaf))
                }
                Err(wanted) => Err(self.input.wanted(&wanted)),
            };
        }
    }

    /// Parses a leaf line, or says what should be there.
    fn parse_leaf(&self, line: &str) -> Result<LeafState, String> {
        let shape = || "leaf DATA_LOC_ID CHANGE_FLAG REVISION HEX".to_owned();
        let mut words = line.strip_prefix("leaf ").ok_or_else(shape)?.split(' ');
        let leaf: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(shape)?;
        let flag: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(shape)?;
        let revision: u64 = words.next().and_then(|word| word.parse().ok()).ok_or_else(shape)?;
        let hex = words.next().ok_or_else(shape)?;
        if words.next().is_some_and(|word| word != "#") {
            return Err(shape());
        }
        let capacity = self.head.layout.capacity_of(DataLocId(leaf)).unwrap_or(0) as usize;
        if leaf < self.next || capacity == 0 {
            let last = self.head.layout.leaf_count().saturating_sub(1);
            return Err(format!("a leaf from {} to {last}", self.next));
        }
        if flag > 1 {
            return Err("a change_flag of 0 or 1".to_owned());
        }
        let data = parse_hex(if hex == "-" { "" } else { hex }, capacity)
            .ok_or_else(|| format!("at most {capacity} bytes of hex in pairs, or -"))?;
        let (data_loc_id, revision) = (DataLocId(leaf), Revision(revision));
        Ok(LeafState {
            data_loc_id,
            change_flag: flag,
            revision,
            checksum: leaf_head(data_loc_id, revision, &data).checksum.get(),
            data,
            origin: Origin::Record,
        })
    }
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

fn read_head<R: BufRead>(input: &mut Lines<R>) -> Result<DumpHead, DumpError> {
    if !input.advance()? || input.text != FIRST_LINE {
        return Err(input.wanted(&format!("\"{FIRST_LINE}\"")));
    }
    let (mut tree_id, mut created, mut role) = (None, 0, TreeRole::Server);
    let (mut life, mut watermark) = (Life(0), Revision::ZERO);
    loop {
        if !input.advance()? {
            return Err(input.wanted("schema_len"));
        }
        let line = input.text.as_str();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let wrong = || input.wanted(&format!("a value of {}", printable(key.as_bytes())));
        match key {
            "tree_id" => {
                let id = u64::from_str_radix(value, 16).map_err(|_| wrong())?;
                tree_id = Some(TreeId(id));
            }
            "created_unix_s" => created = value.parse().map_err(|_| wrong())?,
            "role" => {
                let known = [TreeRole::Server, TreeRole::Replica];
                let named = known.into_iter().find(|role| role_name(*role) == value);
                role = named.ok_or_else(wrong)?;
            }
            "life" => life = Life(value.parse().map_err(|_| wrong())?),
            "watermark" => watermark = Revision(value.parse().map_err(|_| wrong())?),
            "schema_len" => {
                let len = value.parse().ok().filter(|len| *len <= SCHEMA_LEN_MAX);
                let len = len.ok_or_else(wrong)?;
                let tree_id = tree_id.ok_or_else(|| input.wanted("tree_id before the schema"))?;
                let layout = read_schema(input, len)?;
                let created_unix_s = created;
                return Ok(DumpHead { tree_id, created_unix_s, role, life, watermark, layout });
            }
            _ => {
                return Err(
                    input.wanted("tree_id, created_unix_s, role, life, watermark or schema_len")
                );
            }
        }
    }
}

fn read_schema<R: BufRead>(input: &mut Lines<R>, len: usize) -> Result<Layout, DumpError> {
    let mut text = String::new();
    // The last line may have had no end.
    while text.len() < len {
        if !input.advance()? {
            return Err(input.wanted("a line of the schema"));
        }
        let line = input.text.strip_prefix(SCHEMA_MARK).and_then(unescape);
        let Some(line) = line.filter(|line| text.len() + line.len() <= len) else {
            return Err(input.wanted("a line of the schema"));
        };
        text.push_str(&line);
        if text.len() < len {
            text.push('\n');
        }
    }
    Layout::from_text(text).map_err(DumpError::Schema)
}

/// Text from what [`printable`] made of it.
fn unescape(escaped: &str) -> Option<String> {
    let mut text = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            text.push(c);
            continue;
        }
        text.push(match chars.next()? {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '0' => '\0',
            '\\' => '\\',
            'u' => {
                let (hex, rest) = chars.as_str().strip_prefix('{')?.split_once('}')?;
                chars = rest.chars();
                char::from_u32(u32::from_str_radix(hex, 16).ok()?)?
            }
            _ => return None,
        });
    }
    Some(text)
}

/// Lines of bounded length, counted.
#[derive(Debug)]
struct Lines<R> {
    input: R,
    text: String,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line; false behind the last one.
    fn advance(&mut self) -> Result<bool, DumpError> {
        self.text.clear();
        self.number += 1;
        // One byte more than is allowed, so that too long a line is seen.
        let most = LINE_LEN_MAX as u64 + 1;
        let len = (&mut self.input).take(most).read_line(&mut self.text)?;
        if len > LINE_LEN_MAX {
            return Err(self.wanted(&format!("a line of at most {LINE_LEN_MAX} bytes")));
        }
        let line = self.text.trim_end_matches('\n').trim_end_matches('\r').len();
        self.text.truncate(line);
        Ok(len > 0)
    }

    fn wanted(&self, wanted: &str) -> DumpError {
        let start: String = self.text.chars().take(40).collect();
        let found = match start.as_str() {
            "" => "nothing".to_owned(),
            start => format!("\"{}\"", printable(start.as_bytes())),
        };
        DumpError::Text { line: self.number, wanted: wanted.to_owned(), found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "# mapleaf dump 1\ntree_id 00000000000000ff\nlife 7\nschema_len 47\n\
        | [[parent]]\n| name = \"p\"\n| leaves = 4\n| capacity = 16\n# note\n\
        leaf 1 1 30064771073 00ff # /p/1\nleaf 3 0 9 -\nend 2\n";

    fn read(text: &str) -> Result<Vec<LeafState>, DumpError> {
        let mut reader = DumpReader::new(text.as_bytes())?;
        let mut leaves = Vec::new();
        while let Some(leaf) = reader.next_leaf()? {
            leaves.push(leaf);
        }
        Ok(leaves)
    }

    #[test]
    fn a_dump_is_read() {
        let reader = DumpReader::new(DUMP.as_bytes()).unwrap();
        assert_eq!((reader.head().tree_id, reader.head().life), (TreeId(255), Life(7)));
        assert_eq!(reader.head().layout.schema_text().len(), 47);
        let leaves = read(DUMP).unwrap();
        assert_eq!(leaves[0].data, [0, 255]);
        assert_eq!((leaves[0].revision, leaves[0].change_flag), (Life(7).base().next(), 1));
        assert_eq!((leaves[1].data_loc_id, leaves[1].data.len()), (DataLocId(3), 0));
    }

    #[test]
    fn a_dump_that_was_cut_is_no_smaller_tree() {
        for len in 0..DUMP.len() - 1 {
            assert!(read(&DUMP[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn leaves_that_do_not_fit_are_refused_with_their_line() {
        let cases = [
            ("leaf 3", "leaf 4", "line 11: wanted a leaf from 2 to 3"),
            ("leaf 3", "leaf 1", "line 11: wanted a leaf from 2 to 3"),
            ("00ff #", "00f #", "line 10: wanted at most 16 bytes of hex"),
            ("00ff #", "000102030405060708090a0b0c0d0e0f10 #", "line 10: wanted at most 16 bytes"),
            ("leaf 1 1", "leaf 1 2", "line 10: wanted a change_flag of 0 or 1"),
            ("end 2", "end 3", "line 12: wanted end 2, found \"end 3\""),
            ("leaf 3", "loaf 3", "wanted leaf DATA_LOC_ID CHANGE_FLAG REVISION HEX"),
            ("tree_id", "three_id", "line 2: wanted tree_id, created_unix_s"),
        ];
        for (from, to, wanted) in cases {
            let error = read(&DUMP.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}\n{wanted}");
        }
    }

    #[test]
    fn escapes_come_back() {
        for text in ["a\\b\t\r\u{202e}\u{301}\"'", "", "\u{1f}\0", "\\u{41}"] {
            assert_eq!(unescape(&printable(text.as_bytes())).as_deref(), Some(text));
        }
        assert_eq!(unescape("\\"), None);
        assert_eq!(unescape("\\u{110000}"), None);
    }

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
