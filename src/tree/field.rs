//! Typed fields of Data: decoding, encoding, and text that a terminal may see.
//!
//! The schema may say what lies in the Data of a parent's leaves. Then tools show
//! values, and a report may name fields. All numbers are little-endian and lie
//! at any offset. Data that ends before a field ends does not hold that field:
//! its value is absent, not zero.

use core::fmt;

/// Type of a field, with its size where that is not given by the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// One byte, 0 is false and everything else true.
    Bool,
    /// Unsigned, 1 byte.
    U8,
    /// Unsigned, 2 bytes.
    U16,
    /// Unsigned, 4 bytes.
    U32,
    /// Unsigned, 8 bytes.
    U64,
    /// Signed, 1 byte.
    I8,
    /// Signed, 2 bytes.
    I16,
    /// Signed, 4 bytes.
    I32,
    /// Signed, 8 bytes.
    I64,
    /// IEEE 754, 4 bytes.
    F32,
    /// IEEE 754, 8 bytes.
    F64,
    /// Text of so many bytes at most, filled up with zeros.
    Text(u32),
    /// So many bytes.
    Bytes(u32),
}

/// Types of a fixed size by the name that the schema gives them.
const FIXED: [(&str, FieldKind); 11] = [
    ("bool", FieldKind::Bool),
    ("u8", FieldKind::U8),
    ("u16", FieldKind::U16),
    ("u32", FieldKind::U32),
    ("u64", FieldKind::U64),
    ("i8", FieldKind::I8),
    ("i16", FieldKind::I16),
    ("i32", FieldKind::I32),
    ("i64", FieldKind::I64),
    ("f32", FieldKind::F32),
    ("f64", FieldKind::F64),
];

impl FieldKind {
    /// Every name of a type in a schema, for messages.
    pub const NAMES: &'static str = "bool u8 u16 u32 u64 i8 i16 i32 i64 f32 f64 text bytes";

    /// The type of a fixed size with this name.
    pub fn fixed(name: &str) -> Option<FieldKind> {
        FIXED.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    /// Bytes of Data that the field takes.
    pub const fn size(self) -> u32 {
        match self {
            FieldKind::Bool | FieldKind::U8 | FieldKind::I8 => 1,
            FieldKind::U16 | FieldKind::I16 => 2,
            FieldKind::U32 | FieldKind::I32 | FieldKind::F32 => 4,
            FieldKind::U64 | FieldKind::I64 | FieldKind::F64 => 8,
            FieldKind::Text(size) | FieldKind::Bytes(size) => size,
        }
    }
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FieldKind::Text(size) => write!(f, "text:{size}"),
            FieldKind::Bytes(size) => write!(f, "bytes:{size}"),
            fixed => f.write_str(
                FIXED.iter().find(|(_, kind)| kind == fixed).map_or("", |(name, _)| name),
            ),
        }
    }
}

/// A named, typed part of Data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Unique among the fields of its parent.
    pub name: String,
    /// Type and size.
    pub kind: FieldKind,
    /// Offset of its first byte in Data.
    pub offset: u32,
    /// Unit for people, may be empty.
    pub unit: String,
}

impl Field {
    /// Offset in Data behind its last byte.
    pub const fn end(&self) -> u32 {
        self.offset + self.kind.size()
    }
}

/// Value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a `bool`.
    Bool(bool),
    /// Of an unsigned number of any width.
    Unsigned(u64),
    /// Of a signed number of any width; given for any field, a negative number.
    Signed(i64),
    /// Of an `f32`: shown with its own digits, not with those of an `f64`.
    Float32(f32),
    /// Of an `f64`.
    Float(f64),
    /// Of a `text`. Bytes that are not UTF-8 were replaced.
    Text(String),
    /// Of a `bytes`.
    Bytes(Vec<u8>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Unsigned(value) => write!(f, "{value}"),
            Value::Signed(value) => write!(f, "{value}"),
            Value::Float32(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value}"),
            Value::Text(text) => f.write_str(&printable(text.as_bytes())),
            Value::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl Field {
    /// Decodes this field of a leaf's Data. Nothing if Data ends before it does.
    pub fn decode(&self, data: &[u8]) -> Option<Value> {
        let start = self.offset as usize;
        let bytes = data.get(start..start.checked_add(self.kind.size() as usize)?)?;
        // Widened to 8 bytes, an unsigned number keeps its value; a signed one is
        // shifted up and back down for its sign.
        let mut wide = [0; 8];
        wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        let unsigned = u64::from_le_bytes(wide);
        let shift = 64 - 8 * self.kind.size().min(8);
        Some(match self.kind {
            FieldKind::Bool => Value::Bool(unsigned != 0),
            FieldKind::U8 | FieldKind::U16 | FieldKind::U32 | FieldKind::U64 => {
                Value::Unsigned(unsigned)
            }
            FieldKind::I8 | FieldKind::I16 | FieldKind::I32 | FieldKind::I64 => {
                Value::Signed((unsigned << shift).cast_signed() >> shift)
            }
            FieldKind::F32 => Value::Float32(f32::from_bits(unsigned as u32)),
            FieldKind::F64 => Value::Float(f64::from_bits(unsigned)),
            FieldKind::Text(_) => Value::Text(text(bytes)),
            FieldKind::Bytes(_) => Value::Bytes(bytes.to_vec()),
        })
    }

    /// Decodes this field and adds its unit, for people.
    pub fn display(&self, data: &[u8]) -> Option<String> {
        let value = self.decode(data)?;
        if self.unit.is_empty() {
            return Some(value.to_string());
        }
        Some(format!("{value} {}", printable(self.unit.as_bytes())))
    }

    /// Writes a value into Data, which grows with zeros to hold the whole field.
    ///
    /// # Errors
    ///
    /// A value of another type, or out of the range of this one. Data is as it
    /// was then.
    pub fn encode(&self, value: &Value, data: &mut Vec<u8>) -> Result<(), EncodeError> {
        let bytes = self.bytes_of(value).ok_or_else(|| EncodeError::Value {
            field: self.name.clone(),
            wanted: self.kind,
            found: value.to_string(),
        })?;
        let (start, end) = (self.offset as usize, self.end() as usize);
        if data.len() < end {
            data.resize(end, 0);
        }
        if let Some(place) = data.get_mut(start..end) {
            place.fill(0);
            place.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
        Ok(())
    }

    /// At most the field's size of bytes; the rest is zeros.
    fn bytes_of(&self, value: &Value) -> Option<Vec<u8>> {
        let size = self.kind.size() as usize;
        match (self.kind, value) {
            (FieldKind::Bool, Value::Bool(value)) => Some(vec![u8::from(*value)]),
            (FieldKind::F32, _) => Some(value.as_f32()?.to_le_bytes().to_vec()),
            (FieldKind::F64, _) => Some(value.as_f64()?.to_le_bytes().to_vec()),
            (FieldKind::Text(_), Value::Text(text)) => {
                // Zeros at the end would be taken for filling.
                let fits = text.len() <= size && !text.ends_with('\0');
                fits.then(|| text.as_bytes().to_vec())
            }
            (FieldKind::Bytes(_), Value::Bytes(bytes)) => {
                (bytes.len() == size).then(|| bytes.clone())
            }
            (FieldKind::Bool | FieldKind::Text(_) | FieldKind::Bytes(_), _) => None,
            _ => self.number(value),
        }
    }

    fn number(&self, value: &Value) -> Option<Vec<u8>> {
        let value = match value {
            Value::Unsigned(value) => i128::from(*value),
            Value::Signed(value) => i128::from(*value),
            _ => return None,
        };
        let bits = 8 * self.kind.size();
        let range = match self.kind {
            FieldKind::U8 | FieldKind::U16 | FieldKind::U32 | FieldKind::U64 => 0..1 << bits,
            _ => -(1 << (bits - 1))..1 << (bits - 1),
        };
        let bytes = value.to_le_bytes();
        let used = bytes.get(..self.kind.size() as usize)?;
        range.contains(&value).then(|| used.to_vec())
    }
}

impl Value {
    /// The number as an f32: rounded, but never to infinity.
    fn as_f32(&self) -> Option<f32> {
        let wide = self.as_f64()?;
        let value = wide as f32;
        (value.is_infinite() == wide.is_infinite()).then_some(value)
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Unsigned(value) => Some(*value as f64),
            Value::Signed(value) => Some(*value as f64),
            Value::Float32(value) => Some(f64::from(*value)),
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let len = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    String::from_utf8_lossy(bytes.get(..len).unwrap_or_default()).into_owned()
}

/// The Data of a leaf with some of its fields set.
///
/// `present` is the leaf's Data before; fields without a value stay as they are.
///
/// # Errors
///
/// A name that no field has, or a value that its field does not take.
pub fn encode_fields<'a>(
    fields: &[Field],
    present: &[u8],
    values: impl IntoIterator<Item = (&'a str, Value)>,
) -> Result<Vec<u8>, EncodeError> {
    let mut data = present.to_vec();
    for (name, value) in values {
        let field = fields
            .iter()
            .find(|field| field.name == name)
            .ok_or_else(|| EncodeError::unknown(name, fields))?;
        field.encode(&value, &mut data)?;
    }
    Ok(data)
}

/// Why values do not become Data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// No field has this name.
    Unknown {
        /// The name.
        field: String,
        /// Names that there are.
        wanted: String,
    },
    /// The field does not take this value.
    Value {
        /// Name of the field.
        field: String,
        /// Its type.
        wanted: FieldKind,
        /// The value.
        found: String,
    },
}

impl EncodeError {
    fn unknown(name: &str, fields: &[Field]) -> EncodeError {
        let names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        EncodeError::Unknown { field: name.to_owned(), wanted: names.join(", ") }
    }
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &String| printable(text.as_bytes());
        match self {
            EncodeError::Unknown { field, wanted } if wanted.is_empty() => {
                write!(f, "field {}: this leaf has no fields in the schema", shown(field))
            }
            EncodeError::Unknown { field, wanted } => {
                write!(f, "field {}: wanted one of {}", shown(field), shown(wanted))
            }
            EncodeError::Value { field, wanted, found } => {
                write!(f, "field {}: wanted {wanted}, found {}", shown(field), shown(found))
            }
        }
    }
}

impl std::error::Error for EncodeError {}

/// Foreign text as a terminal may see it: what is not printable, or is not UTF-8,
/// becomes an escape, and so does the backslash.
pub fn printable(foreign: &[u8]) -> String {
    let mut shown = String::with_capacity(foreign.len());
    for chunk in foreign.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_printable(&mut shown, c));
        chunk.invalid().iter().for_each(|byte| shown.push_str(&format!("\\x{byte:02x}")));
    }
    shown
}

fn push_printable(shown: &mut String, c: char) {
    match c {
        // Quotes are harmless on a terminal; escape_debug would mark them.
        '"' | '\'' => shown.push(c),
        c if is_reordering(c) => shown.extend(c.escape_unicode()),
        c => shown.extend(c.escape_debug()),
    }
}

/// Marks of direction: a terminal shows text in another order than it has.
const fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(name: &str, kind: FieldKind, offset: u32) -> Field {
        Field { name: name.to_owned(), kind, offset, unit: String::new() }
    }

    #[test]
    fn numbers_are_little_endian_at_any_offset() {
        let data = [9, 0xfe, 0xff, 0xff, 0xff, 1];
        assert_eq!(field("a", FieldKind::U16, 1).decode(&data), Some(Value::Unsigned(0xfffe)));
        assert_eq!(field("a", FieldKind::I16, 1).decode(&data), Some(Value::Signed(-2)));
        assert_eq!(field("a", FieldKind::I32, 1).decode(&data), Some(Value::Signed(-2)));
        assert_eq!(field("a", FieldKind::Bool, 5).decode(&data), Some(Value::Bool(true)));
    }

    #[test]
    fn a_field_behind_the_data_is_absent() {
        let temp = field("temp", FieldKind::F32, 2);
        assert_eq!(temp.decode(&[0; 6]), Some(Value::Float32(0.0)));
        assert_eq!(temp.decode(&[0; 5]), None);
        assert_eq!(temp.decode(&[]), None);
    }

    #[test]
    fn text_is_trimmed_and_escaped() {
        let name = field("name", FieldKind::Text(8), 0);
        assert_eq!(name.decode(b"eth0\0\0\0\0"), Some(Value::Text("eth0".into())));
        assert_eq!(name.display(b"a\x1b[31m\0\0").as_deref(), Some("a\\u{1b}[31m"));
        assert_eq!(printable(b"a\\\xff\n\"\xe2\x80\xae"), "a\\\\\\xff\\n\"\\u{202e}");
    }

    #[test]
    fn values_out_of_range_are_refused_and_change_nothing() {
        let cases = [
            (FieldKind::U8, Value::Unsigned(256)),
            (FieldKind::U8, Value::Signed(-1)),
            (FieldKind::I8, Value::Signed(128)),
            (FieldKind::U64, Value::Signed(-1)),
            (FieldKind::I64, Value::Unsigned(1 << 63)),
            (FieldKind::I32, Value::Float(1.0)),
            (FieldKind::F32, Value::Float(1e39)),
            (FieldKind::Bool, Value::Unsigned(1)),
            (FieldKind::Text(3), Value::Text("four".into())),
            (FieldKind::Text(3), Value::Text("a\0".into())),
            (FieldKind::Bytes(3), Value::Bytes(vec![1, 2])),
        ];
        for (kind, value) in cases {
            let mut data = vec![7];
            assert!(field("f", kind, 0).encode(&value, &mut data).is_err(), "{kind} {value:?}");
            assert_eq!(data, [7]);
        }
    }

    #[test]
    fn named_values_change_their_own_bytes_alone() {
        let fields = [field("a", FieldKind::U16, 1), field("b", FieldKind::Text(4), 3)];
        let set = |values: &[(&'static str, Value)]| {
            encode_fields(&fields, &[1, 2, 3, 4], values.iter().cloned())
        };
        assert_eq!(set(&[("a", Value::Unsigned(0x0a0b))]).unwrap(), [1, 0x0b, 0x0a, 4]);
        let both = set(&[("b", Value::Text("xy".into())), ("a", Value::Unsigned(0))]).unwrap();
        assert_eq!(both, b"\x01\0\0xy\0\0");
        let error = set(&[("c", Value::Bool(true))]).unwrap_err();
        assert_eq!(error.to_string(), "field c: wanted one of a, b");
    }

    fn kinds() -> impl Strategy<Value = FieldKind> {
        let fixed = (0..FIXED.len()).prop_map(|index| FIXED[index].1);
        prop_oneof![
            fixed,
            (1u32..20).prop_map(FieldKind::Text),
            (1u32..20).prop_map(FieldKind::Bytes)
        ]
    }

    proptest! {
        #[test]
        fn what_is_decoded_encodes_to_the_same_value(
            kind in kinds(),
            offset in 0u32..9,
            data in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let field = field("f", kind, offset);
            let Some(value) = field.decode(&data) else {
                prop_assert!(data.len() < field.end() as usize);
                return Ok(());
            };
            let mut again = data.clone();
            // A replaced byte of broken UTF-8 is longer than it was.
            if field.encode(&value, &mut again).is_ok() {
                let repeated = field.decode(&again).unwrap();
                prop_assert_eq!(format!("{:?}", repeated), format!("{:?}", value));
                prop_assert_eq!(&again[..offset as usize], &data[..offset as usize]);
                prop_assert_eq!(&again[field.end() as usize..], &data[field.end() as usize..]);
            } else {
                prop_assert!(matches!(kind, FieldKind::Text(_)));
            }
        }

        #[test]
        fn nothing_that_a_terminal_obeys_is_printed(
            foreign in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            prop_assert!(!printable(&foreign).chars().any(char::is_control));
        }
    }
}
