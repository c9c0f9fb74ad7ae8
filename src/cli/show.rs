//! Leaves as text and as JSON. Bytes that came from elsewhere are escaped.

use core::fmt::Write as _;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde::Serializer;
use serde_json::Number;
use serde_json::Value as Json;
use serde_json::json;

use mapleaf::layout::DataLocId;
use mapleaf::layout::LeafHead;
use mapleaf::tree::Field;
use mapleaf::tree::Layout;
use mapleaf::tree::Value;
use mapleaf::tree::printable;

use crate::cli::output::Paint;
use crate::cli::output::colour;
use crate::cli::parse::to_hex;

/// A leaf that changed.
pub(crate) struct Change<'a> {
    /// When it was seen.
    pub(crate) time: SystemTime,
    /// Where the leaf lies.
    pub(crate) layout: &'a Layout,
    /// Its head.
    pub(crate) head: LeafHead,
    /// Its Data.
    pub(crate) data: &'a [u8],
}

impl Change<'_> {
    fn leaf(&self) -> DataLocId {
        DataLocId(self.head.data_loc_id.get())
    }

    fn path(&self) -> String {
        self.layout.path_of(self.leaf()).unwrap_or_default()
    }

    /// One line for people: time, path, revision, fields with their units.
    pub(crate) fn text(&self, paint: Paint) -> String {
        let time = paint.with(colour::DIM, &rfc3339(self.time));
        let path = paint.with(colour::CYAN, &printable(self.path().as_bytes()));
        let data = data_text(self.layout.fields_of(self.leaf()), self.data);
        format!("{time} {path} r{} {data}", self.head.revision.get())
    }

    /// One object for programs.
    pub(crate) fn json(&self) -> impl Serialize {
        let fields = self.layout.fields_of(self.leaf());
        ChangeLine {
            time: rfc3339(self.time),
            data_loc_id: self.leaf().0,
            path: self.path(),
            data_size: self.data.len(),
            revision: self.head.revision.get(),
            checksum: format!("{:08x}", self.head.checksum.get()),
            data: to_hex(self.data),
            fields: (!fields.is_empty()).then_some(FieldsLine { fields, data: self.data }),
        }
    }
}

/// A change as a line of JSON: its keys in the order of `mapleaf-tree dump --json`.
#[derive(Serialize)]
struct ChangeLine<'a> {
    time: String,
    data_loc_id: u32,
    path: String,
    data_size: usize,
    revision: u64,
    checksum: String,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<FieldsLine<'a>>,
}

/// The fields that Data holds, in the order of the schema.
struct FieldsLine<'a> {
    fields: &'a [Field],
    data: &'a [u8],
}

impl Serialize for FieldsLine<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let held = self.fields.iter().filter_map(|field| Some((field, field.decode(self.data)?)));
        serializer.collect_map(held.map(|(field, value)| (&field.name, value_json(&value))))
    }
}

/// `name=value unit` for each field, or text or hex where there are no fields.
fn data_text(fields: &[Field], data: &[u8]) -> String {
    let mut shown = String::new();
    for field in fields {
        let Some(value) = field.display(data) else { continue };
        let gap = if shown.is_empty() { "" } else { " " };
        let name = printable(field.name.as_bytes());
        // Writing to a String cannot fail.
        let _ = match field.decode(data) {
            Some(Value::Text(_)) => write!(shown, "{gap}{name}=\"{value}\""),
            _ => write!(shown, "{gap}{name}={value}"),
        };
    }
    match (shown.is_empty(), is_text(data)) {
        (false, _) => shown,
        (true, true) => format!("\"{}\"", printable(data)),
        (true, false) => to_hex(data),
    }
}

/// Whether people would rather see it as text.
fn is_text(data: &[u8]) -> bool {
    core::str::from_utf8(data)
        .is_ok_and(|text| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')))
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::Bool(value) => json!(value),
        Value::Unsigned(value) => json!(value),
        Value::Signed(value) => json!(value),
        // With the digits of an f32; JSON knows neither infinity nor NaN.
        Value::Float32(value) => value.to_string().parse().map_or(Json::Null, float_json),
        Value::Float(value) => float_json(*value),
        Value::Text(text) => json!(text),
        Value::Bytes(bytes) => json!(to_hex(bytes)),
        // A kind that is newer than this command is shown as people see it.
        #[allow(unreachable_patterns)]
        other => json!(other.to_string()),
    }
}

fn float_json(value: f64) -> Json {
    Number::from_f64(value).map_or(Json::Null, Json::Number)
}

/// UTC with milliseconds, as in RFC 3339.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    // A clock before 1970 shows as 1970.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let ms = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01, by the 400 years (146,097
/// days) after which the calendar repeats, in years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn layout() -> Layout {
        Layout::from_toml(
            "[[parent]]\nname = \"rack\"\nleaves = 2\n[[parent.field]]\nname = \"temp\"\n\
             type = \"f32\"\nunit = \"C\"\n[[parent.field]]\nname = \"label\"\ntype = \"text\"\n\
             size = 8\n[[parent]]\nname = \"raw\"\nleaves = 1\ncapacity = 16\n",
        )
        .unwrap()
    }

    fn change<'a>(layout: &'a Layout, leaf: u32, data: &'a [u8]) -> Change<'a> {
        let head = LeafHead {
            checksum: 0xab.into(),
            data_size: (data.len() as u32).into(),
            data_loc_id: leaf.into(),
            reserved: 0.into(),
            revision: 9.into(),
        };
        Change { time: UNIX_EPOCH, layout, head, data }
    }

    #[test]
    fn moments_are_utc() {
        let at = |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(at(1_735_689_600_001), "2025-01-01T00:00:00.001Z");
        assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn fields_are_shown_with_units_and_foreign_bytes_escaped() {
        let layout = layout();
        let mut data = 21.5_f32.to_le_bytes().to_vec();
        data.extend(b"a\x1b[m");
        data.extend([0; 4]);
        let change = change(&layout, 1, &data);
        let text = change.text(Paint::Plain);
        assert!(text.contains("/rack/1 r9 temp=21.5 C label=\"a\\u{1b}[m\""), "{text}");
        assert_eq!(
            serde_json::to_string(&change.json()).unwrap(),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"data_loc_id\":1,\"path\":\"/rack/1\",\
             \"data_size\":12,\"revision\":9,\"checksum\":\"000000ab\",\
             \"data\":\"0000ac41611b5b6d00000000\",\
             \"fields\":{\"temp\":21.5,\"label\":\"a\\u001b[m\"}}"
        );
    }

    #[test]
    fn opaque_data_is_text_or_hex() {
        let layout = layout();
        assert!(change(&layout, 2, b"up").text(Paint::Plain).ends_with(" r9 \"up\""));
        assert!(change(&layout, 2, b"\x00\xff").text(Paint::Plain).ends_with(" r9 00ff"));
        assert!(change(&layout, 2, b"\x1b[m").text(Paint::Plain).ends_with(" r9 1b5b6d"));
        assert!(
            !serde_json::to_string(&change(&layout, 2, b"\x00").json()).unwrap().contains("fields")
        );
    }

    #[test]
    fn numbers_keep_their_digits() {
        assert_eq!(value_json(&Value::Float32(0.1)).to_string(), "0.1");
        assert_eq!(value_json(&Value::Float(f64::NAN)), Json::Null);
        assert_eq!(value_json(&Value::Float32(f32::INFINITY)), Json::Null);
        assert_eq!(value_json(&Value::Unsigned(u64::MAX)), json!(u64::MAX));
    }
}
