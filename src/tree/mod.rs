//! The mapped tree.

mod field;
mod plan;
mod schema;

pub use field::Field;
pub use field::FieldKind;
pub use field::printable;
pub use plan::BlobError;
pub use plan::Growth;
pub use plan::GrowthError;
pub use plan::Layout;
pub use plan::Move;
pub use plan::Place;
pub use plan::STATE_OFFSET;
pub use plan::UNDO_OFFSET;
pub use plan::header_checksum;
pub use plan::state_checksum;
pub use schema::SchemaError;
