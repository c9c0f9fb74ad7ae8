//! The schema: the TOML text that a tree is created from.
//!
//! It says which parents there are, how they nest, how many leaves each owns, how
//! large and how named these are, and what lies in their Data. This module turns
//! text into checked values and holds every rule about them; where things lie in
//! the file is `plan`'s. The text is foreign: it arrives in files and datagrams.

use serde::Deserialize;

use crate::layout::ParentName;
use crate::layout::limits::CAPACITY_MAX;
use crate::layout::limits::DEPTH_MAX;
use crate::layout::limits::LEAF_NAME_LEN_MAX;
use crate::layout::limits::LEAVES_MAX;
use crate::layout::limits::PARENT_NAME_LEN_MAX;
use crate::layout::limits::PARENTS_MAX;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::tree::field::Field;
use crate::tree::field::FieldKind;
use crate::tree::names::LeafNames;
use crate::tree::names::PLACE;
use crate::tree::names::Pattern;
use crate::tree::schema_error::SchemaError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SchemaDoc {
    name: Option<String>,
    #[serde(default)]
    parent: Vec<ParentDoc>,
}

// Numbers are i64 here, as TOML has them, so that one out of range is reported
// with the name of its parent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ParentDoc {
    name: String,
    #[serde(rename = "in")]
    enclosing: Option<String>,
    leaves: Option<i64>,
    capacity: Option<i64>,
    leaf_name: Option<String>,
    first: Option<i64>,
    names: Option<Vec<String>>,
    #[serde(default)]
    field: Vec<FieldDoc>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldDoc {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    offset: Option<i64>,
    size: Option<i64>,
    unit: Option<String>,
}

/// A checked parent.
pub(super) struct ParentSchema {
    /// Path for messages.
    pub(super) path: String,
    pub(super) name: ParentName,
    /// Path of the enclosing parent, empty at the top.
    pub(super) enclosing: String,
    pub(super) leaves: u32,
    /// 0 if the parent owns no leaves.
    pub(super) capacity: u32,
    pub(super) names: LeafNames,
    pub(super) fields: Vec<Field>,
}

/// What begins a parent, at the start of a line wherever that stands.
const PARENT_LINE: &str = "[[parent]]";

/// Reads a schema and hands its parents on, each as soon as it is read. Returns
/// the name of the tree.
///
/// The text is parsed in pieces, one a `[[parent]]`, each a TOML text of its own:
/// parsed TOML takes many times the memory of its text, and a schema may be long.
/// Paths of enclosing parents are not resolved here.
pub(super) fn read(
    text: &str,
    mut take: impl FnMut(ParentSchema) -> Result<(), SchemaError>,
) -> Result<Option<String>, SchemaError> {
    let mut name = None;
    let (mut parents, mut leaves) = (0, 0);
    for piece in Pieces::of(text)? {
        let doc: SchemaDoc =
            toml::from_str(piece.text).map_err(|error| syntax_error(&piece, &error))?;
        name = name.or(doc.name);
        for parent in doc.parent {
            let parent = parent.check()?;
            parents += 1;
            leaves += u64::from(parent.leaves);
            // Before anybody sums them up in a u32.
            if parents > PARENTS_MAX as usize {
                return Err(SchemaError::Parents { found: parents });
            }
            if leaves > u64::from(LEAVES_MAX) {
                return Err(SchemaError::Leaves { found: leaves });
            }
            take(parent)?;
        }
    }
    match (parents, leaves) {
        (0, _) => Err(SchemaError::Parents { found: 0 }),
        (_, 0) => Err(SchemaError::Leaves { found: 0 }),
        _ => Ok(name),
    }
}

/// Number of pieces that a text is parsed in, and the length of the longest.
pub(super) fn pieces(text: &str) -> Result<(usize, usize), SchemaError> {
    Ok(Pieces::of(text)?
        .fold((0, 0), |(count, longest), piece| (count + 1, longest.max(piece.text.len()))))
}

/// A part of a schema text that ends before the next `[[parent]]`.
struct Piece<'a> {
    text: &'a str,
    /// Lines before it.
    line: usize,
    /// Parents before it.
    parents: usize,
}

struct Pieces<'a> {
    rest: &'a str,
    line: usize,
    parents: usize,
}

impl<'a> Pieces<'a> {
    fn of(text: &'a str) -> Result<Pieces<'a>, SchemaError> {
        if text.len() > SCHEMA_LEN_MAX {
            return Err(SchemaError::TooLong { found: text.len() });
        }
        Ok(Pieces { rest: text, line: 0, parents: 0 })
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let starts = |line: &str| line.trim_start().starts_with(PARENT_LINE);
        let (mut len, mut lines) = (0, 0);
        for line in self.rest.split_inclusive('\n') {
            if lines > 0 && starts(line) {
                break;
            }
            len += line.len();
            lines += 1;
        }
        let (text, rest) = self.rest.split_at_checked(len).filter(|(text, _)| !text.is_empty())?;
        let piece = Piece { text, line: self.line, parents: self.parents };
        self.rest = rest;
        self.line += lines;
        self.parents += usize::from(starts(text));
        Some(piece)
    }
}

fn syntax_error(piece: &Piece<'_>, error: &toml::de::Error) -> SchemaError {
    let start = error.span().map_or(0, |span| span.start);
    let before = piece.text.get(..start).unwrap_or(piece.text);
    let begun = usize::from(piece.text.trim_start().starts_with(PARENT_LINE));
    SchemaError::Syntax {
        line: piece.line + before.matches('\n').count() + 1,
        parent: piece.parents + begun,
        message: error.message().replace('\n', " "),
    }
}

impl ParentDoc {
    fn check(self) -> Result<ParentSchema, SchemaError> {
        let enclosing = self.enclosing.filter(|path| path != "/").unwrap_or_default();
        let path = format!("{enclosing}/{}", self.name);
        let refuse = Refuse { parent: &path };
        let name = ParentName::new(&self.name).ok_or_else(|| {
            refuse.value("name", name_rule(PARENT_NAME_LEN_MAX), format!("{:?}", self.name))
        })?;
        let depth = enclosing.matches('/').count() + 1;
        if depth > DEPTH_MAX {
            let wanted = format!("parents at most {DEPTH_MAX} deep");
            return Err(refuse.value("in", wanted, depth));
        }
        let listed = self.names.as_ref().map_or(0, Vec::len);
        let leaves = refuse.leaves(self.leaves, listed)?;
        if leaves == 0 {
            let keys = [
                ("capacity", self.capacity.is_some()),
                ("leaf_name", self.leaf_name.is_some()),
                ("first", self.first.is_some()),
                ("field", !self.field.is_empty()),
            ];
            if let Some((key, _)) = keys.iter().find(|(_, present)| *present) {
                return Err(refuse.value(*key, "leaves = 1 or more beside it", "no leaves"));
            }
        }
        let fields = refuse.fields(self.field)?;
        let capacity = if leaves == 0 { 0 } else { refuse.capacity(self.capacity, &fields)? };
        let first = self.first.unwrap_or(0);
        let first = u32::try_from(first)
            .map_err(|_| refuse.value("first", format!("0 to {}", u32::MAX), first))?;
        let pattern = self.leaf_name.as_deref().unwrap_or(PLACE);
        let pattern = refuse.pattern(pattern, first, leaves)?;
        let names = refuse.names(self.names.unwrap_or_default(), pattern, leaves)?;
        Ok(ParentSchema { name, enclosing, leaves, capacity, names, fields, path })
    }
}

fn name_rule(len_max: usize) -> String {
    format!("1 to {len_max} bytes without / and control characters")
}

fn is_leaf_name(name: &str) -> bool {
    let fits = (1..=LEAF_NAME_LEN_MAX).contains(&name.len());
    fits && !name.chars().any(|c| c == '/' || c.is_control())
}

/// The rules of one parent, and the errors that name it.
struct Refuse<'a> {
    parent: &'a str,
}

impl Refuse<'_> {
    fn value(
        &self,
        key: impl Into<String>,
        wanted: impl Into<String>,
        found: impl ToString,
    ) -> SchemaError {
        SchemaError::Value {
            parent: self.parent.to_owned(),
            key: key.into(),
            wanted: wanted.into(),
            found: found.to_string(),
        }
    }

    fn duplicate(&self, what: &'static str, name: &str) -> SchemaError {
        SchemaError::Duplicate { parent: self.parent.to_owned(), what, name: name.to_owned() }
    }

    fn leaves(&self, leaves: Option<i64>, listed: usize) -> Result<u32, SchemaError> {
        let leaves = leaves.unwrap_or(i64::try_from(listed).unwrap_or(i64::MAX));
        let range = listed as u64..=u64::from(LEAVES_MAX);
        match u64::try_from(leaves) {
            // LEAVES_MAX is a u32, so what is in range is one as well.
            Ok(count) if range.contains(&count) => Ok(count as u32),
            _ => {
                let wanted = format!("{} to {} (and one a name)", range.start(), range.end());
                Err(self.value("leaves", wanted, leaves))
            }
        }
    }

    fn capacity(&self, capacity: Option<i64>, fields: &[Field]) -> Result<u32, SchemaError> {
        let needed = fields.iter().map(Field::end).max().unwrap_or(0);
        let Some(capacity) = capacity else {
            if fields.is_empty() {
                return Err(self.value("capacity", "bytes of Data, or fields", "neither"));
            }
            return Ok(needed);
        };
        let range = i64::from(needed.max(1))..=CAPACITY_MAX as i64;
        if range.contains(&capacity) {
            return Ok(capacity as u32);
        }
        let wanted = format!("{} to {} bytes", range.start(), range.end());
        if let Some(last) = fields.iter().find(|field| field.end() == needed) {
            let key = format!("capacity (field {} ends at {needed})", last.name);
            return Err(self.value(key, wanted, capacity));
        }
        Err(self.value("capacity", wanted, capacity))
    }

    fn fields(&self, docs: Vec<FieldDoc>) -> Result<Vec<Field>, SchemaError> {
        let mut fields: Vec<Field> = Vec::with_capacity(docs.len());
        for doc in docs {
            let behind = fields.last().map_or(0, Field::end);
            fields.push(self.field(doc, behind)?);
        }
        let mut names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        names.sort_unstable();
        if let Some(name) = twice(&names) {
            return Err(self.duplicate("field", name));
        }
        let mut placed: Vec<&Field> = fields.iter().collect();
        placed.sort_unstable_by_key(|field| field.offset);
        for pair in placed.windows(2) {
            if let [other, field] = pair
                && field.offset < other.end()
            {
                return Err(self.overlap(field, other));
            }
        }
        Ok(fields)
    }

    fn overlap(&self, field: &Field, other: &Field) -> SchemaError {
        SchemaError::Overlap {
            parent: self.parent.to_owned(),
            field: field.name.clone(),
            offset: field.offset,
            other: other.name.clone(),
            end: other.end(),
        }
    }

    fn field(&self, doc: FieldDoc, behind: u32) -> Result<Field, SchemaError> {
        let key = |key: &str| format!("field {}: {key}", doc.name);
        if !is_leaf_name(&doc.name) {
            return Err(self.value("field", name_rule(LEAF_NAME_LEN_MAX), &doc.name));
        }
        let unit = doc.unit.unwrap_or_default();
        if !(unit.is_empty() || is_leaf_name(&unit)) {
            return Err(self.value(key("unit"), name_rule(LEAF_NAME_LEN_MAX), unit));
        }
        let size_max = CAPACITY_MAX as i64;
        let sized = |size: Option<i64>| match size {
            Some(size) if (1..=size_max).contains(&size) => Ok(size as u32),
            Some(size) => Err(self.value(key("size"), format!("1 to {size_max}"), size)),
            None => Err(self.value(key("size"), format!("1 to {size_max}"), "none")),
        };
        let kind = match (doc.kind.as_str(), FieldKind::fixed(&doc.kind), doc.size) {
            ("text", _, size) => FieldKind::Text(sized(size)?),
            ("bytes", _, size) => FieldKind::Bytes(sized(size)?),
            (_, Some(kind), None) => kind,
            (_, Some(kind), Some(size)) if i64::from(kind.size()) == size => kind,
            (_, Some(kind), Some(size)) => {
                return Err(self.value(key("size"), format!("{} or none", kind.size()), size));
            }
            (found, None, _) => {
                return Err(self.value(key("type"), format!("one of {}", FieldKind::NAMES), found));
            }
        };
        let offset = doc.offset.unwrap_or(i64::from(behind));
        let range = 0..=size_max - i64::from(kind.size());
        if !range.contains(&offset) {
            let wanted = format!("0 to {}", range.end());
            return Err(self.value(key("offset"), wanted, offset));
        }
        Ok(Field { name: doc.name, kind, offset: offset as u32, unit })
    }

    fn pattern(&self, pattern: &str, first: u32, leaves: u32) -> Result<Pattern, SchemaError> {
        let wanted = format!("a name with {PLACE} once, {LEAF_NAME_LEN_MAX} bytes at most");
        let refuse = || self.value("leaf_name", wanted.as_str(), format!("{pattern:?}"));
        let (before, behind) = pattern.split_once(PLACE).ok_or_else(refuse)?;
        let pattern = Pattern { before: before.into(), behind: behind.into(), first };
        let longest = pattern.name(leaves.saturating_sub(1));
        if behind.contains(PLACE) || !is_leaf_name(&longest) {
            return Err(refuse());
        }
        Ok(pattern)
    }

    fn names(
        &self,
        listed: Vec<String>,
        pattern: Pattern,
        leaves: u32,
    ) -> Result<LeafNames, SchemaError> {
        if let Some(name) = listed.iter().find(|name| !is_leaf_name(name)) {
            let wanted = name_rule(LEAF_NAME_LEN_MAX);
            return Err(self.value("names", wanted, format!("{name:?}")));
        }
        let names = LeafNames::new(&listed, pattern, leaves);
        match names.repeated() {
            Some(name) => Err(self.duplicate("leaf", name)),
            None => Ok(names),
        }
    }
}

fn twice<'a>(sorted: &[&'a str]) -> Option<&'a str> {
    sorted
        .windows(2)
        .find(|pair| pair.first() == pair.last())
        .and_then(|pair| pair.first().copied())
}

#[cfg(test)]
mod tests {
    use crate::tree::Layout;

    fn refused(text: &str) -> String {
        let error = Layout::from_toml(text).expect_err(text).to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    fn parent(rest: &str) -> String {
        format!("[[parent]]\nname = \"rack\"\n{rest}\n")
    }

    #[test]
    fn each_broken_rule_is_named_with_its_parent() {
        let field = "[[parent.field]]\nname = \"t\"\n";
        let cases = [
            (
                "leaves = -1\ncapacity = 8",
                "leaves: wanted 0 to 134217728 (and one a name), found -1",
            ),
            ("leaves = 134217729\ncapacity = 8", "found 134217729"),
            ("leaves = 1\nnames = [\"a\", \"b\"]\ncapacity = 8", "leaves: wanted 2 to"),
            ("leaves = 1", "capacity: wanted bytes of Data, or fields, found neither"),
            ("leaves = 1\ncapacity = 0", "capacity: wanted 1 to 65384 bytes, found 0"),
            ("leaves = 1\ncapacity = 65385", "found 65385"),
            ("capacity = 8", "capacity: wanted leaves = 1 or more"),
            ("leaves = 1\ncapacity = 8\nleaf_name = \"port\"", "leaf_name: wanted a name with {n}"),
            ("leaves = 1\ncapacity = 8\nleaf_name = \"{n}{n}\"", "leaf_name"),
            ("leaves = 1\ncapacity = 8\nleaf_name = \"a/{n}\"", "leaf_name"),
            ("leaves = 1\ncapacity = 8\nfirst = -1", "first: wanted 0 to 4294967295, found -1"),
            ("capacity = 8\nnames = [\"a\", \"b\", \"a\"]", "second leaf of the name a"),
            ("capacity = 8\nnames = [\"1\"]\nleaves = 2", "second leaf of the name 1"),
            ("capacity = 8\nnames = [\"a/b\"]", "names: wanted 1 to 64 bytes without /"),
            (
                "in = \"/hall\"\nleaves = 1\ncapacity = 8",
                "in: wanted the path of a parent that comes",
            ),
        ];
        for (rest, wanted) in cases {
            let error = refused(&parent(rest));
            assert!(error.contains(wanted), "{error}\n{wanted}");
            assert!(error.contains("/rack: "), "{error}");
        }
        let fields = [
            ("type = \"u7\"", "field t: type: wanted one of bool u8"),
            ("type = \"text\"", "field t: size: wanted 1 to 65384, found none"),
            ("type = \"u16\"\nsize = 3", "field t: size: wanted 2 or none, found 3"),
            ("type = \"u16\"\noffset = -1", "field t: offset: wanted 0 to 65382, found -1"),
            ("type = \"u16\"\nunit = \"\\u001B\"", "field t: unit"),
        ];
        for (rest, wanted) in fields {
            let error = refused(&parent(&format!("leaves = 1\n{field}{rest}")));
            assert!(error.contains(wanted), "{error}\n{wanted}");
        }
    }

    #[test]
    fn fields_neither_overlap_nor_repeat_nor_leave_the_capacity() {
        let field = |name: &str, offset: u32| {
            format!("[[parent.field]]\nname = \"{name}\"\ntype = \"u32\"\noffset = {offset}\n")
        };
        let with =
            |capacity: &str, fields: &str| parent(&format!("leaves = 1\n{capacity}\n{fields}"));
        let error = refused(&with("", &(field("a", 4) + &field("b", 1))));
        assert_eq!(
            error,
            "parent /rack: field a at offset 4: wanted 5 or more, where field b ends"
        );
        let error = refused(&with("", &(field("a", 0) + &field("a", 4))));
        assert!(error.contains("second field of the name a"), "{error}");
        let error = refused(&with("capacity = 7", &(field("a", 4) + &field("b", 0))));
        assert!(error.contains("capacity (field a ends at 8): wanted 8 to 65384 bytes, found 7"));
        assert!(
            Layout::from_toml(&with("capacity = 8", &(field("a", 4) + &field("b", 0)))).is_ok()
        );
    }

    #[test]
    fn text_that_is_no_schema_is_refused_with_its_line() {
        let error = refused(&parent("leaves = 1\ncapacity = 8\nleafs = 2"));
        assert!(
            error.starts_with("schema line 5, parent number 1: unknown field `leafs`"),
            "{error}"
        );
        let error = refused("nam = 1");
        assert!(error.starts_with("schema line 1: unknown field `nam`"), "{error}");
        let error = refused(&parent("leaves = \"many\""));
        assert!(error.contains("line 3") && error.contains("expected i64"), "{error}");
        assert!(refused("[[parent").starts_with("schema line 1"));
        assert_eq!(refused(""), "schema: wanted 1 to 1048576 parents, found 0");
        assert!(refused(&parent("")).contains("leaves in all, found 0"));
    }

    #[test]
    fn parents_do_not_share_a_path_with_a_parent_or_a_leaf() {
        let rack = parent("leaves = 2\ncapacity = 8");
        let error = refused(&format!("{rack}{rack}"));
        assert_eq!(error, "parent /rack: second parent of the name rack");
        let error = refused(&format!("{rack}[[parent]]\nname = \"1\"\nin = \"/rack\"\n"));
        assert_eq!(error, "parent /rack/1: second leaf of the name 1");
        assert!(
            Layout::from_toml(&format!("{rack}[[parent]]\nname = \"2\"\nin = \"/rack\"\n")).is_ok()
        );
    }

    #[test]
    fn parents_nest_to_the_limit() {
        let mut text = parent("leaves = 1\ncapacity = 8");
        let mut path = "/rack".to_owned();
        for _ in 1..16 {
            text += &format!("[[parent]]\nname = \"d\"\nin = \"{path}\"\n");
            path += "/d";
        }
        assert!(Layout::from_toml(&text).is_ok());
        let error = refused(&format!("{text}[[parent]]\nname = \"d\"\nin = \"{path}\"\n"));
        assert!(error.contains("in: wanted parents at most 16 deep, found 17"), "{error}");
    }
}
