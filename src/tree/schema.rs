//! The schema: the TOML text that a tree is created from.
//!
//! It says which parents there are, how they nest, how many leaves each owns, how
//! large and how named these are, and what lies in their Data. This module turns
//! text into checked values and holds every rule about them; where things lie in
//! the file is `plan`'s. The text is foreign: it arrives in files and datagrams.

use crate::layout::ParentName;
use crate::layout::limits::CAPACITY_MAX;
use crate::layout::limits::DEPTH_MAX;
use crate::layout::limits::FIELDS_MAX;
use crate::layout::limits::LEAF_NAME_LEN_MAX;
use crate::layout::limits::LEAVES_MAX;
use crate::layout::limits::PARENT_NAME_LEN_MAX;
use crate::layout::limits::PARENTS_MAX;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::layout::limits::TREE_FIELDS_MAX;
use crate::tree::field::Field;
use crate::tree::field::FieldKind;
use crate::tree::names::LeafNames;
use crate::tree::names::PLACE;
use crate::tree::names::Pattern;
use crate::tree::schema_error::SchemaError;
use crate::tree::schema_text::Item;
use crate::tree::schema_text::NameList;
use crate::tree::schema_text::SchemaReader;
use crate::tree::schema_text::TextValue;

// Numbers are i64 here, as TOML has them, so that one out of range is reported
// with the name of its parent.
#[derive(Default)]
struct ParentDoc {
    name: Option<String>,
    enclosing: Option<String>,
    leaves: Option<i64>,
    capacity: Option<i64>,
    leaf_name: Option<String>,
    first: Option<i64>,
    names: Option<NameList>,
    fields: Vec<FieldDoc>,
}

#[derive(Default)]
struct FieldDoc {
    name: Option<String>,
    kind: Option<String>,
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

/// Reads a schema and hands its parents on, each as soon as it is read. Returns
/// the name of the tree. Paths of enclosing parents are not resolved here.
pub(super) fn read(
    text: &str,
    take: impl FnMut(ParentSchema) -> Result<(), SchemaError>,
) -> Result<Option<String>, SchemaError> {
    if text.len() > SCHEMA_LEN_MAX {
        return Err(SchemaError::TooLong { found: text.len() });
    }
    let mut reading = Reading {
        name: None,
        open: None,
        line: 1,
        begun: 0,
        parents: 0,
        leaves: 0,
        fields: 0,
        take,
    };
    let mut reader = SchemaReader::new(text);
    loop {
        let item = reader.next_item();
        reading.line = reader.line();
        match item.map_err(|message| reading.syntax(message))? {
            None => return reading.finish(),
            Some(Item::Parent) => reading.begin_parent()?,
            Some(Item::Field) => reading.begin_field()?,
            Some(Item::Entry(key, value)) => {
                reading.set(key, value).map_err(|message| reading.syntax(message))?;
            }
        }
    }
}

/// Number of parents that a schema has, without keeping any.
pub(super) fn count_parents(text: &str) -> Result<u64, SchemaError> {
    let mut reader = SchemaReader::new(text);
    let mut parents = 0;
    loop {
        match reader.next_item() {
            Ok(None) => return Ok(parents as u64),
            Ok(Some(Item::Parent)) => parents += 1,
            Ok(Some(_)) => {}
            Err(message) => {
                return Err(SchemaError::Syntax { line: reader.line(), parent: parents, message });
            }
        }
    }
}

/// A schema, half read.
struct Reading<F> {
    name: Option<String>,
    /// The parent whose keys are being read.
    open: Option<ParentDoc>,
    /// Line of the item that was read last.
    line: usize,
    /// Parents that were begun.
    begun: usize,
    /// Parents that were handed on.
    parents: u32,
    leaves: u64,
    /// Fields of all parents.
    fields: usize,
    take: F,
}

impl<F: FnMut(ParentSchema) -> Result<(), SchemaError>> Reading<F> {
    fn begin_parent(&mut self) -> Result<(), SchemaError> {
        self.end_parent()?;
        self.begun += 1;
        self.open = Some(ParentDoc::default());
        Ok(())
    }

    fn begin_field(&mut self) -> Result<(), SchemaError> {
        // Checked here, before many more of them take memory.
        self.fields += 1;
        if self.fields > TREE_FIELDS_MAX {
            return Err(SchemaError::Fields);
        }
        let wanted = match &mut self.open {
            None => "wanted a [[parent]] before its field, found none".to_owned(),
            Some(parent) if parent.fields.len() < FIELDS_MAX => {
                parent.fields.push(FieldDoc::default());
                return Ok(());
            }
            Some(_) => format!("wanted at most {FIELDS_MAX} fields, found more"),
        };
        Err(self.syntax(wanted))
    }

    fn syntax(&self, message: String) -> SchemaError {
        SchemaError::Syntax { line: self.line, parent: self.begun, message }
    }

    fn end_parent(&mut self) -> Result<(), SchemaError> {
        let Some(doc) = self.open.take() else {
            return Ok(());
        };
        let parent = doc.check()?;
        self.parents += 1;
        self.leaves += u64::from(parent.leaves);
        // Before anybody sums them up in a u32.
        if self.parents > PARENTS_MAX {
            return Err(SchemaError::Parents { found: self.parents as usize });
        }
        if self.leaves > u64::from(LEAVES_MAX) {
            return Err(SchemaError::Leaves { found: self.leaves });
        }
        (self.take)(parent)
    }

    fn finish(mut self) -> Result<Option<String>, SchemaError> {
        self.end_parent()?;
        match (self.parents, self.leaves) {
            (0, _) => Err(SchemaError::Parents { found: 0 }),
            (_, 0) => Err(SchemaError::Leaves { found: 0 }),
            _ => Ok(self.name),
        }
    }

    /// Keeps a value where its key belongs, or says what was wanted.
    fn set(&mut self, key: &str, value: TextValue) -> Result<(), String> {
        match &mut self.open {
            None if key == "name" => put_text(&mut self.name, key, value),
            None => Err(format!("wanted name or [[parent]], found key {}", begin(key))),
            Some(parent) => match parent.fields.last_mut() {
                Some(field) => field.set(key, value),
                None => parent.set(key, value),
            },
        }
    }
}

fn put<T>(place: &mut Option<T>, key: &str, value: Option<T>, wanted: &str) -> Result<(), String> {
    let value = value.ok_or_else(|| format!("{key}: wanted {wanted}, found another value"))?;
    match place.replace(value) {
        Some(_) => Err(format!("{key}: wanted it once, found it twice")),
        None => Ok(()),
    }
}

fn put_text(place: &mut Option<String>, key: &str, value: TextValue) -> Result<(), String> {
    let text = if let TextValue::Text(text) = value { Some(text) } else { None };
    put(place, key, text, "a text")
}

/// Longest text that anything but the tree is described by: the path of a parent. What
/// is longer is refused before messages repeat it.
const TEXT_LEN_MAX: usize = DEPTH_MAX * (PARENT_NAME_LEN_MAX + 1);
const _: () = assert!(TEXT_LEN_MAX > LEAF_NAME_LEN_MAX + PLACE.len());

fn put_short(place: &mut Option<String>, key: &str, value: TextValue) -> Result<(), String> {
    match &value {
        TextValue::Text(text) if text.len() > TEXT_LEN_MAX => {
            Err(format!("{key}: wanted at most {TEXT_LEN_MAX} bytes, found {}", text.len()))
        }
        _ => put_text(place, key, value),
    }
}

/// The begin of a key that is not known: a message must not be as long as a schema.
fn begin(key: &str) -> &str {
    key.get(..LEAF_NAME_LEN_MAX).unwrap_or(key)
}

fn put_number(place: &mut Option<i64>, key: &str, value: TextValue) -> Result<(), String> {
    let number = if let TextValue::Number(number) = value { Some(number) } else { None };
    put(place, key, number, "a whole number")
}

fn put_list(place: &mut Option<NameList>, key: &str, value: TextValue) -> Result<(), String> {
    let list = if let TextValue::List(list) = value { Some(list) } else { None };
    put(place, key, list, "a list of texts")
}

impl FieldDoc {
    fn set(&mut self, key: &str, value: TextValue) -> Result<(), String> {
        match key {
            "name" => put_short(&mut self.name, key, value),
            "type" => put_short(&mut self.kind, key, value),
            "offset" => put_number(&mut self.offset, key, value),
            "size" => put_number(&mut self.size, key, value),
            "unit" => put_short(&mut self.unit, key, value),
            _ => Err(format!("wanted name, type, offset, size or unit, found key {}", begin(key))),
        }
    }
}

impl ParentDoc {
    fn set(&mut self, key: &str, value: TextValue) -> Result<(), String> {
        match key {
            "name" => put_short(&mut self.name, key, value),
            "in" => put_short(&mut self.enclosing, key, value),
            "leaves" => put_number(&mut self.leaves, key, value),
            "capacity" => put_number(&mut self.capacity, key, value),
            "leaf_name" => put_short(&mut self.leaf_name, key, value),
            "first" => put_number(&mut self.first, key, value),
            "names" => put_list(&mut self.names, key, value),
            _ => Err(format!(
                "wanted name, in, leaves, capacity, leaf_name, first or names, found key {}",
                begin(key)
            )),
        }
    }
}

impl ParentDoc {
    fn check(self) -> Result<ParentSchema, SchemaError> {
        let enclosing = self.enclosing.filter(|path| path != "/").unwrap_or_default();
        let name = self.name.unwrap_or_default();
        let path = format!("{enclosing}/{name}");
        let refuse = Refuse { parent: &path };
        let name = ParentName::new(&name).ok_or_else(|| {
            refuse.value("name", name_rule(PARENT_NAME_LEN_MAX), format!("{name:?}"))
        })?;
        let depth = enclosing.matches('/').count() + 1;
        if depth > DEPTH_MAX {
            let wanted = format!("parents at most {DEPTH_MAX} deep");
            return Err(refuse.value("in", wanted, depth));
        }
        let listed = self.names.as_ref().map_or(0, NameList::len);
        let leaves = refuse.leaves(self.leaves, listed)?;
        if leaves == 0 {
            let keys = [
                ("capacity", self.capacity.is_some()),
                ("leaf_name", self.leaf_name.is_some()),
                ("first", self.first.is_some()),
                ("field", !self.fields.is_empty()),
            ];
            if let Some((key, _)) = keys.iter().find(|(_, present)| *present) {
                return Err(refuse.value(*key, "leaves = 1 or more beside it", "no leaves"));
            }
        }
        let fields = refuse.fields(self.fields)?;
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

/// Longest unit: as long as a name.
const UNIT_LEN_MAX: usize = LEAF_NAME_LEN_MAX;

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
        let (name, kind) = (doc.name.unwrap_or_default(), doc.kind.unwrap_or_default());
        let key = |key: &str| format!("field {name}: {key}");
        if !is_leaf_name(&name) {
            return Err(self.value(
                "field: name",
                name_rule(LEAF_NAME_LEN_MAX),
                format!("{name:?}"),
            ));
        }
        let unit = doc.unit.unwrap_or_default();
        if unit.len() > UNIT_LEN_MAX || unit.contains(char::is_control) {
            let wanted = format!("at most {UNIT_LEN_MAX} bytes without control characters");
            return Err(self.value(key("unit"), wanted, format!("{unit:?}")));
        }
        let size_max = CAPACITY_MAX as i64;
        let sized = |size: Option<i64>| match size {
            Some(size) if (1..=size_max).contains(&size) => Ok(size as u32),
            Some(size) => Err(self.value(key("size"), format!("1 to {size_max}"), size)),
            None => Err(self.value(key("size"), format!("1 to {size_max}"), "none")),
        };
        let kind = match (kind.as_str(), FieldKind::fixed(&kind), doc.size) {
            ("text", _, size) => FieldKind::Text(sized(size)?),
            ("bytes", _, size) => FieldKind::Bytes(sized(size)?),
            (_, Some(kind), None) => kind,
            (_, Some(kind), Some(size)) if i64::from(kind.size()) == size => kind,
            (_, Some(kind), Some(size)) => {
                return Err(self.value(key("size"), format!("{} or none", kind.size()), size));
            }
            (found, None, _) => {
                let wanted = format!("one of {}", FieldKind::NAMES);
                return Err(self.value(key("type"), wanted, format!("{found:?}")));
            }
        };
        let offset = doc.offset.unwrap_or(i64::from(behind));
        let range = 0..=size_max - i64::from(kind.size());
        if !range.contains(&offset) {
            let wanted = format!("0 to {}", range.end());
            return Err(self.value(key("offset"), wanted, offset));
        }
        Ok(Field { name, kind, offset: offset as u32, unit })
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
        listed: NameList,
        pattern: Pattern,
        leaves: u32,
    ) -> Result<LeafNames, SchemaError> {
        if let Some(name) = listed.iter().find(|name| !is_leaf_name(name)) {
            let wanted = name_rule(LEAF_NAME_LEN_MAX);
            return Err(self.value("names", wanted, format!("{name:?}")));
        }
        let names = LeafNames::new(listed, pattern, leaves);
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
    fn no_message_is_as_long_as_its_schema() {
        let long = "\u{80}".repeat(50_000);
        let field = "leaves = 1\n[[parent.field]]\nname = 'a'\ntype = 'u8'\n";
        for text in [
            format!("[[parent]]\nname = '{long}'"),
            format!("[[parent]]\nname = 'a'\nin = '/{long}'"),
            parent(&format!("leaves = 1\ncapacity = 1\nleaf_name = '{long}{{n}}'")),
            parent(&format!("capacity = 1\nnames = ['{long}']")),
            parent(&format!("{field}unit = '{long}'")),
            parent(&format!("leaves = 1\n[[parent.field]]\nname = '{long}'\ntype = 'u8'")),
            parent(&format!("leaves = 1\n[[parent.field]]\nname = 'a'\ntype = '{long}'")),
            parent(&format!("{} = 1", "k".repeat(100_000))),
            parent(&format!("{field}{} = 1", "k".repeat(100_000))),
            format!("{} = 1", "k".repeat(100_000)),
        ] {
            let error = refused(&text);
            assert!(error.len() < 400, "{} bytes", error.len());
        }
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
            ("leaves = 1\ncapacity = 0", "capacity: wanted 1 to 65400 bytes, found 0"),
            ("leaves = 1\ncapacity = 65401", "found 65401"),
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
            ("type = \"text\"", "field t: size: wanted 1 to 65400, found none"),
            ("type = \"u16\"\nsize = 3", "field t: size: wanted 2 or none, found 3"),
            ("type = \"u16\"\noffset = -1", "field t: offset: wanted 0 to 65398, found -1"),
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
        assert!(error.contains("capacity (field a ends at 8): wanted 8 to 65400 bytes, found 7"));
        assert!(
            Layout::from_toml(&with("capacity = 8", &(field("a", 4) + &field("b", 0)))).is_ok()
        );
    }

    #[test]
    fn text_that_is_no_schema_is_refused_with_its_line() {
        let error = refused(&parent("leaves = 1\ncapacity = 8\nleafs = 2"));
        assert!(
            error.starts_with("schema line 5, parent number 1: wanted name, in, leaves"),
            "{error}"
        );
        let error = refused("nam = 1");
        assert!(
            error.starts_with("schema line 1: wanted name or [[parent]], found key nam"),
            "{error}"
        );
        let error = refused(&parent("leaves = \"many\""));
        assert!(
            error.contains("line 3") && error.contains("leaves: wanted a whole number"),
            "{error}"
        );
        assert!(refused("[[parent").starts_with("schema line 1"));
        assert_eq!(refused(""), "schema: wanted 1 to 131072 parents, found 0");
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
    fn there_are_fields_to_the_limit_of_a_parent_and_of_a_tree() {
        let fields = |count: usize| {
            (0..count).fold(String::new(), |mut text, name| {
                text += &format!("[[parent.field]]\nname = \"{name}\"\ntype = \"u8\"\n");
                text
            })
        };
        let rack = parent("leaves = 1");
        assert!(Layout::from_toml(&format!("{rack}{}", fields(4_096))).is_ok());
        let error = refused(&format!("{rack}{}", fields(4_097)));
        assert!(error.ends_with("wanted at most 4096 fields, found more"), "{error}");
        let mut text = String::new();
        for name in 0..32 {
            text += &format!("[[parent]]\nname = \"{name}\"\nleaves = 1\n{}", fields(4_096));
        }
        assert!(Layout::from_toml(&text).is_ok());
        let error = refused(&format!("{text}{rack}{}", fields(1)));
        assert_eq!(error, "schema: wanted at most 131072 fields in all, found more");
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
