//! Reading a dump: text back into leaves, line by line.
//!
//! The format is at the top of `dump`. The text is foreign: every line has a bounded
//! length, and every number is checked against the layout that the dump begins with.

use std::io::BufRead;
use std::io::Read;

use crate::layout::DataLocId;
use crate::layout::Life;
use crate::layout::Revision;
use crate::layout::TreeId;
use crate::layout::TreeRole;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::tree::dump::DumpError;
use crate::tree::dump::FIRST_LINE;
use crate::tree::dump::SCHEMA_MARK;
use crate::tree::dump::parse_hex;
use crate::tree::dump::role_name;
use crate::tree::field::printable;
use crate::tree::plan::Layout;
use crate::tree::record::leaf_head;
use crate::tree::record_check::Origin;
use crate::tree::scan::LeafState;

/// Longest line but for schema text and Data: a path of 16 names of 32 bytes and one
/// of 64, each byte escaped to as many as 6, and words.
const LINE_LEN: usize = 8 << 10;

/// Most bytes that a byte of text becomes when it is escaped: `\u{1f}`.
const ESCAPED_LEN_MAX: usize = 6;

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
        let mut input = Lines { input, text: String::new(), number: 0, len_max: LINE_LEN };
        let head = read_head(&mut input)?;
        input.len_max = 2 * head.layout.capacity_max() as usize + LINE_LEN;
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
    input.len_max = ESCAPED_LEN_MAX * len + LINE_LEN;
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
    len_max: usize,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line; false behind the last one.
    fn advance(&mut self) -> Result<bool, DumpError> {
        self.text.clear();
        self.number += 1;
        // One byte more than is allowed, so that too long a line is seen.
        let most = self.len_max as u64 + 1;
        let len = (&mut self.input).take(most).read_line(&mut self.text)?;
        if len > self.len_max {
            return Err(self.wanted(&format!("a line of at most {} bytes", self.len_max)));
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
    use proptest::prelude::*;

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
    fn lines_are_no_longer_than_what_they_may_hold() {
        let long = DUMP.replacen("# note", &format!("# {}", "x".repeat(9 << 10)), 1);
        let error = read(&long).unwrap_err().to_string();
        assert!(error.contains("line 9: wanted a line of at most 8224 bytes"), "{error}");
    }

    proptest! {
        #[test]
        fn changed_dumps_are_an_error_or_an_answer(
            place in 0..DUMP.len(),
            with in "\\PC{0,3}",
            cut in 0..4_usize,
        ) {
            let end = (place + cut).min(DUMP.len());
            let _ = read(&[&DUMP[..place], &with, &DUMP[end..]].concat());
        }
    }
}
