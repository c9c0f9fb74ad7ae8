//! The mapped tree.

mod blob;
mod field;
mod growth;
mod lookup;
mod names;
mod plan;
mod schema;
mod schema_error;

pub use blob::BlobError;
pub use field::EncodeError;
pub use field::Field;
pub use field::FieldKind;
pub use field::Value;
pub use field::encode_fields;
pub use field::printable;
pub use growth::Growth;
pub use growth::GrowthError;
pub use growth::Move;
pub use lookup::Place;
pub use plan::Layout;
pub use plan::STATE_OFFSET;
pub use plan::UNDO_OFFSET;
pub use plan::header_checksum;
pub use plan::state_checksum;
pub use schema_error::SchemaError;
