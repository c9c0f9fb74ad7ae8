//! Reports as JSON Lines.

use std::collections::HashMap;
use std::io::BufRead;
use std::io::Read;

use anyhow::Context;
use anyhow::anyhow;
use anyhow::bail;
use serde::Deserialize;
use serde_json::Map;
use serde_json::Value as Json;

use mapleaf::layout::DataLocId;
use mapleaf::layout::limits::CAPACITY_MAX;
use mapleaf::tree::Field;
use mapleaf::tree::FieldKind;
use mapleaf::tree::Layout;
use mapleaf::tree::Value;
use mapleaf::tree::encode_fields;

use super::parse::hex;

/// Longest line: the largest Data as JSON text, each byte an escape of six
/// characters, and a path.
const LINE_LEN_MAX: u64 = 6 * CAPACITY_MAX as u64 + 4096;

/// One line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    leaf: Option<u32>,
    path: Option<String>,
    data: Option<String>,
    hex: Option<String>,
    fields: Option<Map<String, Json>>,
}

/// Reads a line, without its end; nothing at the end of the input.
///
/// # Errors
///
/// What the system says. A line that is too long is cut there: it is no JSON then.
pub(crate) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> anyhow::Result<bool> {
    line.clear();
    let read = input.by_ref().take(LINE_LEN_MAX).read_until(b'\n', line);
    if read.context("cannot read stdin")? == 0 {
        return Ok(false);
    }
    match line.pop_if(|byte| *byte == b'\n') {
        None if line.len() as u64 == LINE_LEN_MAX => input.skip_until(b'\n').map(|_| true),
        _ => Ok(true),
    }
    .context("cannot read stdin")
}

/// What lines become, with what this process last sent for each leaf.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// By path: DataLocIDs move when a tree grows.
    sent: HashMap<String, Vec<u8>>,
}

impl Lines {
    /// The leaf and the Data of a line.
    ///
    /// # Errors
    ///
    /// What is wrong with the line, in one line. It may name what the line holds, and
    /// never as characters that a terminal obeys.
    pub(crate) fn read(
        &mut self,
        line: &[u8],
        layout: &Layout,
    ) -> anyhow::Result<(DataLocId, Vec<u8>)> {
        self.take(line, layout).map_err(|error| anyhow!(escaped(&format!("{error:#}"))))
    }

    fn take(&mut self, line: &[u8], layout: &Layout) -> anyhow::Result<(DataLocId, Vec<u8>)> {
        if line.len() as u64 >= LINE_LEN_MAX {
            bail!("wanted at most {LINE_LEN_MAX} bytes");
        }
        let line: Line = serde_json::from_slice(line).context("wanted a report as JSON")?;
        let leaf = place(&line, layout)?;
        let data = match (line.data, line.hex, line.fields) {
            (Some(text), None, None) => text.into_bytes(),
            (None, Some(text), None) => hex(&text).map_err(|error| anyhow!("hex: {error}"))?,
            (None, None, Some(fields)) => self.with_fields(leaf, &fields, layout)?,
            _ => bail!("wanted one of data, hex and fields"),
        };
        check_size(leaf, data.len(), layout)?;
        // Only Data with fields is written in parts.
        if !layout.fields_of(leaf).is_empty() {
            self.sent.insert(layout.path_of(leaf).unwrap_or_default(), data.clone());
        }
        Ok((leaf, data))
    }

    /// The Data last sent with some fields changed; zeros at first.
    fn with_fields(
        &self,
        leaf: DataLocId,
        fields: &Map<String, Json>,
        layout: &Layout,
    ) -> anyhow::Result<Vec<u8>> {
        let known = layout.fields_of(leaf);
        let values = fields
            .iter()
            .map(|(name, value)| Ok((name.as_str(), value_of(known, name, value)?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let path = layout.path_of(leaf).unwrap_or_default();
        let present = self.sent.get(&path).map_or(&[][..], Vec::as_slice);
        Ok(encode_fields(known, &whole(known, present), values)?)
    }
}

/// The text with its control characters, ends of lines among them, as escapes.
fn escaped(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.into() };
    text.chars().map(shown).collect()
}

/// `NAME=VALUE` as its field takes it: text as it stands, bytes in hex, everything else
/// as JSON writes it.
///
/// # Errors
///
/// No `=`, or a value that no field takes.
pub(crate) fn assigned<'a>(fields: &[Field], text: &'a str) -> anyhow::Result<(&'a str, Value)> {
    let (name, value) = text.split_once('=').context("wanted NAME=VALUE")?;
    let json = match fields.iter().find(|field| field.name == name).map(|field| field.kind) {
        Some(FieldKind::Text(_) | FieldKind::Bytes(_)) => Json::String(value.to_owned()),
        // What is no JSON goes on as text, and is refused by its field.
        _ => serde_json::from_str(value).unwrap_or_else(|_| Json::String(value.to_owned())),
    };
    Ok((name, value_of(fields, name, &json)?))
}

/// Data that holds every field: a leaf with one field known has no absent ones.
pub(crate) fn whole(fields: &[Field], present: &[u8]) -> Vec<u8> {
    let mut data = present.to_vec();
    let end = fields.iter().map(Field::end).max().unwrap_or(0) as usize;
    data.resize(data.len().max(end), 0);
    data
}

fn place(line: &Line, layout: &Layout) -> anyhow::Result<DataLocId> {
    match (line.leaf, &line.path) {
        (Some(leaf), None) => Ok(DataLocId(leaf)),
        (None, Some(path)) => leaf_at(layout, path),
        _ => bail!("wanted one of leaf and path"),
    }
}

/// The leaf with this path.
///
/// # Errors
///
/// There is none, or it is a parent's.
pub(crate) fn leaf_at(layout: &Layout, path: &str) -> anyhow::Result<DataLocId> {
    let parent = layout.parent_at(path).is_some();
    match layout.leaf_at(path) {
        Some(leaf) => Ok(leaf),
        None if parent => bail!("path {path:?} names a parent; add the name of a leaf"),
        None => bail!("path {path:?} names no leaf; wanted /parent/leaf"),
    }
}

/// Checks what the server would refuse anyway, so that it is said at once.
///
/// # Errors
///
/// No such leaf, or Data that is too long for it.
pub(crate) fn check_size(leaf: DataLocId, size: usize, layout: &Layout) -> anyhow::Result<()> {
    match layout.capacity_of(leaf) {
        None => bail!("leaf {leaf}: no such leaf; the tree has {}", layout.leaf_count()),
        Some(capacity) if size > capacity as usize => {
            bail!("leaf {leaf}: it holds at most {capacity} bytes, found {size}")
        }
        Some(_) => Ok(()),
    }
}

/// A JSON value as the field of this name takes it.
fn value_of(fields: &[Field], name: &str, value: &Json) -> anyhow::Result<Value> {
    let kind = fields.iter().find(|field| field.name == name).map(|field| field.kind);
    Ok(match (value, kind) {
        (Json::Bool(value), _) => Value::Bool(*value),
        (Json::String(text), Some(FieldKind::Bytes(_))) => {
            Value::Bytes(hex(text).map_err(|error| anyhow!("field {name:?}: {error}"))?)
        }
        (Json::String(text), _) => Value::Text(text.clone()),
        (Json::Number(number), _) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => Value::Unsigned(value),
            (None, Some(value)) => Value::Signed(value),
            (None, None) => Value::Float(number.as_f64().context("a number is too large")?),
        },
        (Json::Null | Json::Array(_) | Json::Object(_), _) => {
            bail!("field {name:?}: wanted a number, a text, true or false")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::from_toml(
            "[[parent]]\nname = \"rack\"\nleaves = 2\n[[parent.field]]\nname = \"temp\"\n\
             type = \"i16\"\n[[parent.field]]\nname = \"mac\"\ntype = \"bytes\"\nsize = 2\n\
             [[parent]]\nname = \"raw\"\nleaves = 1\ncapacity = 4\n",
        )
        .unwrap()
    }

    fn read(lines: &mut Lines, line: &str) -> Result<(u32, Vec<u8>), String> {
        let read = lines.read(line.as_bytes(), &layout());
        read.map(|(leaf, data)| (leaf.0, data)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn a_line_names_a_leaf_and_what_it_holds() {
        let mut lines = Lines::default();
        assert_eq!(read(&mut lines, r#"{"leaf":2,"hex":"00ff"}"#), Ok((2, vec![0, 255])));
        assert_eq!(read(&mut lines, r#"{"path":"/raw/0","data":"up"}"#), Ok((2, b"up".to_vec())));
    }

    #[test]
    fn fields_are_set_on_top_of_what_was_sent() {
        let mut lines = Lines::default();
        let mut set =
            |fields: &str| read(&mut lines, &format!(r#"{{"path":"/rack/1","fields":{fields}}}"#));
        assert_eq!(set(r#"{"temp":-2}"#), Ok((1, vec![0xfe, 0xff, 0, 0])));
        assert_eq!(set(r#"{"mac":"0a0b"}"#), Ok((1, vec![0xfe, 0xff, 0x0a, 0x0b])));
        assert!(set(r#"{"temp":40000}"#).is_err());
        assert_eq!(set("{}"), Ok((1, vec![0xfe, 0xff, 0x0a, 0x0b])));
        assert!(set(r#"{"tmp":1}"#).unwrap_err().contains("temp, mac"));
        assert!(set(r#"{"mac":"zz"}"#).unwrap_err().contains("mac"));
        assert!(set(r#"{"temp":null}"#).is_err());
    }

    #[test]
    fn fields_are_named_on_the_command_line() {
        let layout = layout();
        let fields = layout.fields_of(DataLocId(0));
        let set = |text| assigned(fields, text).map_err(|error| format!("{error:#}"));
        assert_eq!(set("temp=-2"), Ok(("temp", Value::Signed(-2))));
        assert_eq!(set("mac=0a0b"), Ok(("mac", Value::Bytes(vec![0x0a, 0x0b]))));
        assert_eq!(set("temp"), Err("wanted NAME=VALUE".to_owned()));
        assert_eq!(set("temp=warm"), Ok(("temp", Value::Text("warm".to_owned()))));
        assert!(set("mac=zz").unwrap_err().contains("hex digits"));
        assert!(set("temp=[1]").is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let mut lines = Lines::default();
        for (line, wanted) in [
            ("", "wanted a report as JSON"),
            ("{", "wanted a report as JSON"),
            (r#"{"hex":"00"}"#, "leaf and path"),
            (r#"{"leaf":1,"path":"/raw/0","hex":"00"}"#, "leaf and path"),
            (r#"{"leaf":1}"#, "data, hex and fields"),
            (r#"{"leaf":1,"hex":"00","data":""}"#, "data, hex and fields"),
            (r#"{"leaf":1,"hex":"0"}"#, "hex digits"),
            (r#"{"leaf":3,"hex":"00"}"#, "the tree has 3"),
            (r#"{"path":"/raw","hex":"00"}"#, "names a parent"),
            (r#"{"path":"/raw/7","hex":"00"}"#, "names no leaf"),
            (r#"{"leaf":2,"data":"12345"}"#, "at most 4 bytes, found 5"),
            (r#"{"leaf":1,"hx":"00"}"#, "unknown field"),
        ] {
            let error = read(&mut lines, line).unwrap_err();
            assert!(error.contains(wanted), "{line}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line_that_no_terminal_obeys() {
        let mut lines = Lines::default();
        for line in [
            r#"{"leaf":1,"a\nb\u001b[2J":1}"#,
            r#"{"path":"/a\nb\u001b[2J","hex":"00"}"#,
            r#"{"leaf":0,"fields":{"a\nb\u001b[2J":1}}"#,
            r#"{"leaf":0,"fields":{"t\u009bm":1}}"#,
        ] {
            let error = read(&mut lines, line).unwrap_err();
            assert!(!error.contains(char::is_control), "{line}: {error:?}");
            assert!(error.contains(r"\u{1b}") || error.contains(r"\u{9b}"), "{line}: {error}");
        }
    }

    #[test]
    fn a_line_is_never_longer_than_a_report_can_be() {
        let long = vec![b' '; LINE_LEN_MAX as usize + 10];
        let mut input = [&b"one\n"[..], &long, b"\ntwo"].concat();
        let mut input = &*std::mem::take(&mut input).leak();
        let mut line = Vec::new();
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line, b"one");
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line.len() as u64, LINE_LEN_MAX);
        assert!(Lines::default().read(&line, &layout()).is_err());
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line, b"two");
        assert!(!read_line(&mut input, &mut line).unwrap());
    }
}
