//! Why a schema is refused: one line that names the parent, what was wanted and
//! what was found.

use core::fmt;

use crate::layout::limits::LEAVES_MAX;
use crate::layout::limits::PARENTS_MAX;
use crate::layout::limits::SCHEMA_LEN_MAX;
use crate::layout::limits::TREE_FIELDS_MAX;
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
    /// Too many fields in the whole tree.
    Fields,
    /// The table and the records of the parents read so far are longer than the file
    /// has room for.
    Room {
        /// Bytes that they take at least.
        found: u64,
        /// Bytes that there are.
        room: u64,
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
            SchemaError::Fields => {
                write!(f, "schema: wanted at most {TREE_FIELDS_MAX} fields in all, found more")
            }
            SchemaError::Room { found, room } => {
                write!(f, "schema: wanted parents that take {room} bytes at most, found {found}")
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
