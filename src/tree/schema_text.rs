//! The TOML of schemas: a reader for the part of TOML that a schema needs.
//!
//! Tables `[[parent]]` and `[[parent.field]]`, bare keys, text in one line, whole
//! decimal numbers, lists of text, comments. What it accepts means the same in TOML
//! (a test holds it against the crate toml); what it does not know is refused.
//!
//! A reader of its own because schemas come from foreign files and datagrams: the
//! crate toml took 16 to 240 times the memory of the text (960 MB for 4 MiB of
//! dotted keys). This one goes through the text once and keeps one value.

/// A line of a schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// `[[parent]]`.
    Parent,
    /// `[[parent.field]]`.
    Field,
    /// `key = value`.
    Entry(&'a str, TextValue),
}

/// A value of a schema.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TextValue {
    /// Text in quotes.
    Text(String),
    /// A whole number.
    Number(i64),
    /// A list of text.
    List(NameList),
}

/// Texts of a list between two whose places are kept.
const PLACED: usize = 16;

/// Texts, held one behind the other, each behind its length in one byte.
///
/// A list may be all of a schema, four bytes of text a name, or each of very many
/// parents may have one. So a name takes a byte more than its text, and every
/// sixteenth four bytes more, in as few pieces of memory as can be: that keeps what a
/// schema takes below what its length allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameList {
    bytes: Vec<u8>,
    /// Where every sixteenth text begins, but for the first.
    starts: Vec<u32>,
    len: u32,
}

impl NameList {
    /// Appends a text, and says whether it is short enough.
    fn push(&mut self, text: &str) -> Option<()> {
        let len = u8::try_from(text.len()).ok()?;
        // A schema is at most SCHEMA_LEN_MAX long, and so is what it lists.
        if self.len > 0 && self.len().is_multiple_of(PLACED) {
            self.starts.push(self.bytes.len() as u32);
        }
        // Doubling would take as much again as the list: an eighth costs a few moves.
        let needed = 1 + text.len();
        if self.bytes.capacity() - self.bytes.len() < needed {
            self.bytes.reserve_exact(needed + self.bytes.len() / 8);
        }
        self.bytes.push(len);
        self.bytes.extend_from_slice(text.as_bytes());
        self.len += 1;
        Some(())
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// A text as bytes: their order is that of texts.
    pub(super) fn bytes(&self, index: u32) -> Option<&[u8]> {
        let (place, hops) = (index as usize / PLACED, index as usize % PLACED);
        let start = match place.checked_sub(1) {
            None => 0,
            Some(place) => *self.starts.get(place)? as usize,
        };
        let mut rest = self.bytes.get(start..)?;
        for _ in 0..hops {
            let (len, behind) = rest.split_first()?;
            rest = behind.get(usize::from(*len)..)?;
        }
        let (len, behind) = rest.split_first()?;
        behind.get(..usize::from(*len))
    }

    pub(super) fn get(&self, index: u32) -> Option<&str> {
        core::str::from_utf8(self.bytes(index)?).ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len).filter_map(|index| self.get(index))
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.starts.shrink_to_fit();
    }
}

/// Goes through a schema text, item by item.
pub(super) struct SchemaReader<'a> {
    rest: &'a str,
    /// Line that the next item begins in or behind, counted from 1.
    line: usize,
}

/// What should be where the reader stopped; what is there it knows itself.
type Wanted = &'static str;

impl<'a> SchemaReader<'a> {
    pub(super) fn new(text: &'a str) -> SchemaReader<'a> {
        SchemaReader { rest: text, line: 1 }
    }

    /// Line of the item that was read last, or of what is wrong.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Reads the next item; nothing at the end of the text.
    ///
    /// # Errors
    ///
    /// A message with what was wanted and what was found.
    pub(super) fn next_item(&mut self) -> Result<Option<Item<'a>>, String> {
        self.skip_lines().map_err(|wanted| self.message(wanted))?;
        if self.rest.is_empty() {
            return Ok(None);
        }
        let item = if self.rest.starts_with('[') { self.table() } else { self.entry() };
        item.and_then(|item| self.end_of_line().map(|()| Some(item)))
            .map_err(|wanted| self.message(wanted))
    }

    fn message(&self, wanted: Wanted) -> String {
        let line = self.rest.split(['\n', '\r']).next().unwrap_or_default();
        let start: String = line.chars().take(30).collect();
        match start.as_str() {
            "" => format!("wanted {wanted}, found the end of the line"),
            start => format!("wanted {wanted}, found `{start}`"),
        }
    }

    fn table(&mut self) -> Result<Item<'a>, Wanted> {
        const WANTED: Wanted = "[[parent]] or [[parent.field]]";
        let inside = self.rest.strip_prefix("[[").ok_or(WANTED)?;
        let (name, behind) = inside.split_once("]]").ok_or(WANTED)?;
        let mut parts = name.split('.').map(|part| part.trim_matches([' ', '\t']));
        let item = match (parts.next(), parts.next(), parts.next()) {
            (Some("parent"), None, None) => Item::Parent,
            (Some("parent"), Some("field"), None) => Item::Field,
            _ => return Err(WANTED),
        };
        self.rest = behind;
        Ok(item)
    }

    fn entry(&mut self) -> Result<Item<'a>, Wanted> {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let len = self.rest.find(|c| !bare(c)).unwrap_or(self.rest.len());
        let (key, behind) = self.rest.split_at_checked(len).ok_or("a key")?;
        if key.is_empty() {
            return Err("a key of letters, digits, - and _");
        }
        self.rest = behind;
        self.skip_blanks();
        self.take('=').ok_or("= behind the key")?;
        self.skip_blanks();
        Ok(Item::Entry(key, self.value()?))
    }

    fn value(&mut self) -> Result<TextValue, Wanted> {
        match self.rest.chars().next() {
            Some('"' | '\'') => {
                let mut text = String::new();
                self.text(&mut text)?;
                Ok(TextValue::Text(text))
            }
            Some('[') => Ok(TextValue::List(self.list()?)),
            _ => Ok(TextValue::Number(self.number()?)),
        }
    }

    fn list(&mut self) -> Result<NameList, Wanted> {
        let (mut list, mut text) = (NameList::default(), String::new());
        self.take('[').ok_or("[")?;
        loop {
            self.skip_lines()?;
            if self.take(']').is_some() {
                list.shrink();
                return Ok(list);
            }
            text.clear();
            self.text(&mut text)?;
            list.push(&text).ok_or("texts of at most 255 bytes in a list")?;
            self.skip_lines()?;
            if self.take(',').is_none() && !self.rest.starts_with(']') {
                return Err(", or ] behind a text of a list");
            }
        }
    }

    /// Appends a text in single or double quotes.
    fn text(&mut self, to: &mut String) -> Result<(), Wanted> {
        const WANTED: Wanted = "a text in quotes, in one line";
        let quote = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or(WANTED)?;
        let mut chars = self.rest.get(1..).ok_or(WANTED)?.chars();
        loop {
            match chars.next().ok_or(WANTED)? {
                c if c == quote => break,
                '\\' if quote == '"' => to.push(escape(&mut chars)?),
                c if is_forbidden(c) => return Err(WANTED),
                c => to.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(())
    }

    fn number(&mut self) -> Result<i64, Wanted> {
        const WANTED: Wanted = "a text in quotes, a whole number or a list of texts";
        let inside =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.' | ':');
        let len = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
        let (word, behind) = self.rest.split_at_checked(len).ok_or(WANTED)?;
        let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
        let canonical = digits == "0" || digits.starts_with(|c: char| matches!(c, '1'..='9'));
        // Underscores stand between digits.
        let spaced = !digits.ends_with('_') && !digits.contains("__");
        let plain = word.replace('_', "");
        let number = plain.parse().ok().filter(|_| canonical && spaced).ok_or(WANTED)?;
        self.rest = behind;
        Ok(number)
    }

    fn take(&mut self, c: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(c)?;
        Some(())
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// Skips blanks, comments and ends of lines.
    fn skip_lines(&mut self) -> Result<(), Wanted> {
        loop {
            self.skip_blanks();
            self.skip_comment()?;
            if !self.newline() {
                return Ok(());
            }
        }
    }

    fn end_of_line(&mut self) -> Result<(), Wanted> {
        self.skip_blanks();
        self.skip_comment()?;
        // The line is counted when the next item is looked for.
        let ends = self.rest.is_empty() || self.rest.starts_with(['\n', '\r']);
        if ends { Ok(()) } else { Err("the end of the line") }
    }

    fn skip_comment(&mut self) -> Result<(), Wanted> {
        if !self.rest.starts_with('#') {
            return Ok(());
        }
        let line = self.rest.split('\n').next().unwrap_or_default();
        let comment = line.strip_suffix('\r').unwrap_or(line);
        if comment.contains(is_forbidden) {
            return Err("a comment without control characters");
        }
        self.rest = self.rest.get(comment.len()..).unwrap_or_default();
        Ok(())
    }

    fn newline(&mut self) -> bool {
        let behind = self.rest.strip_prefix('\n').or_else(|| self.rest.strip_prefix("\r\n"));
        if let Some(behind) = behind {
            self.rest = behind;
            self.line += 1;
        }
        behind.is_some()
    }
}

/// Control characters that TOML allows neither in text nor in comments.
fn is_forbidden(c: char) -> bool {
    c.is_ascii_control() && c != '\t'
}

fn escape(chars: &mut core::str::Chars<'_>) -> Result<char, Wanted> {
    const WANTED: Wanted = "one of the escapes \\b \\t \\n \\f \\r \\\" \\\\ \\uXXXX \\UXXXXXXXX";
    let digits = match chars.next().ok_or(WANTED)? {
        'b' => return Ok('\u{8}'),
        't' => return Ok('\t'),
        'n' => return Ok('\n'),
        'f' => return Ok('\u{c}'),
        'r' => return Ok('\r'),
        c @ ('"' | '\\') => return Ok(c),
        'u' => 4,
        'U' => 8,
        _ => return Err(WANTED),
    };
    let hex = chars.as_str().get(..digits).ok_or(WANTED)?;
    if !hex.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(WANTED);
    }
    *chars = chars.as_str().get(digits..).unwrap_or_default().chars();
    u32::from_str_radix(hex, 16).ok().and_then(char::from_u32).ok_or(WANTED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(text: &str) -> Result<Vec<Item<'_>>, String> {
        let mut reader = SchemaReader::new(text);
        let mut items = Vec::new();
        while let Some(item) = reader.next_item()? {
            items.push(item);
        }
        Ok(items)
    }

    /// The items as the table that TOML makes of them; nothing where a key repeats.
    fn table(items: Vec<Item<'_>>) -> Option<toml::Table> {
        use toml::Value;
        let mut top = toml::Table::new();
        for item in items {
            let parents = || Value::Array(Vec::new());
            let last = |table: &mut toml::Table, key: &str| -> Option<usize> {
                Some(table.get(key)?.as_array()?.len())
            };
            match item {
                Item::Parent => {
                    let list = top.entry("parent").or_insert_with(parents).as_array_mut()?;
                    list.push(Value::Table(toml::Table::new()));
                }
                Item::Field => {
                    last(&mut top, "parent")?;
                    let parent = top.get_mut("parent")?.as_array_mut()?.last_mut()?;
                    let table = parent.as_table_mut()?;
                    let list = table.entry("field").or_insert_with(parents).as_array_mut()?;
                    list.push(Value::Table(toml::Table::new()));
                }
                Item::Entry(key, value) => {
                    let value = match value {
                        TextValue::Text(text) => Value::String(text),
                        TextValue::Number(number) => Value::Integer(number),
                        TextValue::List(list) => {
                            Value::Array(list.iter().map(|text| text.into()).collect())
                        }
                    };
                    let mut table = &mut top;
                    for level in ["parent", "field"] {
                        if last(table, level).is_some() {
                            table =
                                table.get_mut(level)?.as_array_mut()?.last_mut()?.as_table_mut()?;
                        }
                    }
                    if table.insert(key.to_owned(), value).is_some() {
                        return None;
                    }
                }
            }
        }
        Some(top)
    }

    #[test]
    fn a_schema_is_read_item_by_item() {
        let text = "# c\r\nname = 'a\\b' # d\n\n [[ parent ]]\n\tleaves=1_0\n\
            names = [ \"x\\u0041\",\n# e\n 'y' , ]\n[[parent.field]]";
        let items = items(text).unwrap();
        assert_eq!(items[0], Item::Entry("name", TextValue::Text("a\\b".into())));
        assert_eq!((&items[1], &items[4]), (&Item::Parent, &Item::Field));
        assert_eq!(items[2], Item::Entry("leaves", TextValue::Number(10)));
        let Item::Entry("names", TextValue::List(list)) = &items[3] else { panic!("{items:?}") };
        assert_eq!(list.iter().collect::<Vec<_>>(), ["xA", "y"]);
        assert_eq!((list.get(0), list.get(2)), (Some("xA"), None));
    }

    #[test]
    fn each_text_of_a_list_is_found_at_its_place() {
        let texts: Vec<_> = (0..100).map(|index| "\u{e9}".repeat(index)).collect();
        for count in 0..texts.len() {
            let mut list = NameList::default();
            texts[..count].iter().for_each(|text| list.push(text).unwrap());
            assert_eq!(list.iter().collect::<Vec<_>>(), texts[..count]);
            assert_eq!((list.len(), list.get(count as u32)), (count, None));
        }
        let mut list = NameList::default();
        assert_eq!(list.push(&"a".repeat(255)).and_then(|()| list.push(&"a".repeat(256))), None);
        let error = items(&format!("a = ['{}']", "a".repeat(256))).unwrap_err();
        assert!(error.starts_with("wanted texts of at most 255 bytes in a list, found"), "{error}");
    }

    #[test]
    fn what_is_no_part_of_a_schema_is_refused() {
        for text in [
            "a",
            "a =",
            "a = 1.5",
            "a = 01",
            "a = 1__0",
            "a = 1_",
            "a = _1",
            "a = 0x10",
            "a = true",
            "a = \"x",
            "a = \"x\ny\"",
            "a = \"\"\"x\"\"\"",
            "a = '''x'''",
            "a = \"\\q\"",
            "a = \"\\u00e\"",
            "a = \"\\ud800\"",
            "a = \"\\u+041\"",
            "a.b = 1",
            "\"a\" = 1",
            "a = [1]",
            "a = ['x' 'y']",
            "a = [,]",
            "a = {}",
            "[parent]",
            "[[parent]",
            "[[other]]",
            "[[parent.field.x]]",
            "a = 1 b = 2",
            "a = 1\rb = 2",
            "# \u{1}",
            "a = '\u{7f}'",
            "\u{feff}a = 1",
            "a = 9223372036854775808",
            "= 1",
        ] {
            assert!(items(text).is_err(), "{text:?}");
        }
        let error = items("a = 1\nb = [\n'x',\n'y' 'z']").unwrap_err();
        assert_eq!(error, "wanted , or ] behind a text of a list, found `'z']`");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_is_accepted_means_the_same_in_toml(
            parts in proptest::collection::vec(
                prop::sample::select(vec![
                    "name", "leaves", " = ", "=", "\"", "'", "x", "\\", "\\n", "\\u0041", "1", "0",
                    "_", "-", "+", "[", "]", ",", "\n", "\r\n", "\r", " ", "\t", "#", "\u{e9}", ".",
                    "[[parent]]", "[[parent.field]]", "\na = 1\n", "\nb = 'x'\n", "\u{1}",
                    "c = [\"x\", 'y']\n", "\n[[parent]]\n", "\n[[ parent . field ]]\n",
                ]),
                0..16,
            ),
        ) {
            let text = parts.concat();
            if let Ok(items) = items(&text)
                && let Some(table) = table(items)
            {
                prop_assert_eq!(toml::from_str::<toml::Table>(&text), Ok(table), "{:?}", text);
            }
        }
    }
}
