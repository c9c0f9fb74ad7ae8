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
