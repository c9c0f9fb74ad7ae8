//! The schema: the TOML text that a tree is created from.
//!
//! It says which parents there are, how they nest, how many leaves each owns, how
//! large and how named these are, and what lies in their Data. This module turns
//! text into checked values and holds every rule about them; where things lie in
//! the file is `plan`'s. The text is foreign: it arrives in files and datagrams.

use core::fmt;

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
use crate::tree::field::printable;

/// Why a schema is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SchemaError {
    /// The text is longer than a schema may be.
    TooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// The text is not TOML, or has a key that no schema has, or a value of a
    /// type that the key does not take.
    Syntax {
        /// Line, counted from 1.
        line: usize,
        /// Which `[[parent]]` it lies in, counted from 1; 0 before the first.
        parent: usize,
        /// What the TOML parser says.
        message: String,
    },
    /// No parents, or too many.
    Parents {
        /// How many there are.
        found: usize,
    },
    /// No leaves, or too many, in the whole tree.
    Leaves {
        /// How many there are.
        found: u64,
    },
    /// A value that its key does not allow.
    Value {
        /// Path of the parent, or its name where it has no path.
        parent: String,
        /// The key, or the field and its key.
        key: String,
        /// What the key allows.
        wanted: String,
        /// What the text says.
        found: String,
    },
    /// Two things of one name.
    Duplicate {
        /// Path of the parent.
        parent: String,
        /// What has the name of another.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// Two fields that share bytes of Data.
    Overlap {
        /// Path of the parent.
        parent: String,
        /// Field that begins later.
        field: String,
        /// Where it begins.
        offset: u32,
        /// Field that reaches into it.
        other: String,
        /// Where that one ends.
        end: u32,
    },
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &String| printable(text.as_bytes());
        match self {
            SchemaError::TooLong { found } => {
                write!(f, "schema text: wanted at most {SCHEMA_LEN_MAX} bytes, found {found}")
            }
            SchemaError::Syntax { line, parent: 0, message } => {
                write!(f, "schema line {line}: {}", shown(message))
            }
            SchemaError::Syntax { line, parent, message } => {
                write!(f, "schema line {line}, parent number {parent}: {}", shown(message))
            }
            SchemaError::Parents { found } => {
                write!(f, "schema: wanted 1 to {PARENTS_MAX} parents, found {found}")
            }
            SchemaError::Leaves { found } => {
                write!(f, "schema: wanted 1 to {LEAVES_MAX} leaves in all, found {found}")
            }
            SchemaError::Value { parent, key, wanted, found } => {
                let (parent, key, found) = (shown(parent), shown(key), shown(found));
                write!(f, "parent {parent}: {key}: wanted {wanted}, found {found}")
            }
            SchemaError::Duplicate { parent, what, name } => {
                write!(f, "parent {}: second {what} of the name {}", shown(parent), shown(name))
            }
            SchemaError::Overlap { parent, field, offset, other, end } => write!(
                f,
                "parent {}: field {} at offset {offset}: wanted {end} or more, where field {} ends",
                shown(parent),
                shown(field),
                shown(other),
            ),
        }
    }
}

impl std::error::Error for SchemaError {}

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

/// A checked schema. Paths of enclosing parents are not resolved yet.
pub(super) struct Schema {
    pub(super) name: Option<String>,
    pub(super) parents: Vec<ParentSchema>,
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

impl Schema {
    pub(super) fn from_toml(text: &str) -> Result<Schema, SchemaError> {
        if text.len() > SCHEMA_LEN_MAX {
            return Err(SchemaError::TooLong { found: text.len() });
        }
        let doc: SchemaDoc = toml::from_str(text).map_err(|error| syntax_error(text, &error))?;
        if !(1..=PARENTS_MAX as usize).contains(&doc.parent.len()) {
            return Err(SchemaError::Parents { found: doc.parent.len() });
        }
        let parents =
            doc.parent.into_iter().map(ParentDoc::check).collect::<Result<Vec<_>, _>>()?;
        let leaves: u64 = parents.iter().map(|parent| u64::from(parent.leaves)).sum();
        if !(1..=u64::from(LEAVES_MAX)).contains(&leaves) {
            return Err(SchemaError::Leaves { found: leaves });
        }
        Ok(Schema { name: doc.name, parents })
    }
}

fn syntax_error(text: &str, error: &toml::de::Error) -> SchemaError {
    let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or(text);
    SchemaError::Syntax {
        line: before.matches('\n').count() + 1,
        parent: before.lines().filter(|line| line.trim_start().starts_with("[[parent]]")).count(),
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
        let mut sorted = names.sorted.iter().map(|index| names.listed(*index).unwrap_or(""));
        let mut last = sorted.next();
        for name in sorted {
            if last == Some(name) {
                return Err(self.duplicate("leaf", name));
            }
            last = Some(name);
        }
        match listed.iter().find(|name| names.numbered(name).is_some()) {
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

/// Where a pattern has the number of the leaf.
const PLACE: &str = "{n}";

/// Names that count: `before`, the number, `behind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    before: Box<str>,
    behind: Box<str>,
    first: u32,
}

impl Pattern {
    fn name(&self, index: u32) -> String {
        let number = u64::from(self.first) + u64::from(index);
        format!("{}{number}{}", self.before, self.behind)
    }

    fn index(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&*self.before)?.strip_suffix(&*self.behind)?;
        // One name, one leaf: no sign, no leading zero.
        let canonical = digits == "0" || !digits.starts_with(['0', '+']);
        let number: u64 = digits.parse().ok().filter(|_| canonical)?;
        u32::try_from(number.checked_sub(u64::from(self.first))?).ok()
    }
}

/// Names of the leaves of one parent: a list, then numbers. Leaves that are
/// numbered cost no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeafNames {
    /// The listed names, one behind the other.
    text: Box<str>,
    /// Where each listed name ends in `text`.
    ends: Box<[u32]>,
    /// Indexes of the listed names in the order of their names.
    sorted: Box<[u32]>,
    pattern: Pattern,
    leaves: u32,
}

impl LeafNames {
    fn new(listed: &[String], pattern: Pattern, leaves: u32) -> LeafNames {
        let mut text = String::with_capacity(listed.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(listed.len());
        for name in listed {
            text.push_str(name);
            // A schema is at most SCHEMA_LEN_MAX long, and so are its names.
            ends.push(text.len() as u32);
        }
        let mut sorted: Vec<u32> = (0..ends.len() as u32).collect();
        let name = |index: &u32| listed.get(*index as usize);
        sorted.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        LeafNames { text: text.into(), ends: ends.into(), sorted: sorted.into(), pattern, leaves }
    }

    fn listed(&self, index: u32) -> Option<&str> {
        let index = index as usize;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).unwrap_or(&0);
        self.text.get(*start as usize..end as usize)
    }

    /// Index of the leaf that is numbered so.
    fn numbered(&self, name: &str) -> Option<u32> {
        let range = self.ends.len() as u32..self.leaves;
        self.pattern.index(name).filter(|index| range.contains(index))
    }

    /// Name of the leaf at this place in its parent.
    pub(super) fn name(&self, index: u32) -> Option<String> {
        if index >= self.leaves {
            return None;
        }
        Some(self.listed(index).map_or_else(|| self.pattern.name(index), str::to_owned))
    }

    /// Place in its parent of the leaf with this name.
    pub(super) fn index(&self, name: &str) -> Option<u32> {
        let found =
            self.sorted.binary_search_by(|index| self.listed(*index).unwrap_or("").cmp(name));
        match found {
            Ok(place) => self.sorted.get(place).copied(),
            Err(_) => self.numbered(name),
        }
    }
}
