//! The mapped tree: a file that is one live state table.
//!
//! [`Tree`] is the one owner of a tree file: it creates or opens and recovers
//! it, writes leaves, keeps checksums, revisions, digests and the set of changed
//! leaves in memory, and hands leaves out as they travel. A leaf that was
//! written survives the death of the process whole. [`TreeReader`] reads from
//! other threads at the same time. [`TreeFile`] looks at a file without owning or
//! mapping it. [`Layout`] says where everything lies; it
//! follows from the schema text alone. docs/FORMAT.md is the specification of
//! the file.
//!
//! What is sent to whom, and which revision replaces which, is left to `sync`.

mod blob;
mod checkpoint;
mod cores;
mod create;
mod dump;
mod dump_reader;
mod extent;
mod field;
mod fresh;
mod grow;
mod growth;
mod index;
mod inspect;
mod lock;
mod lookup;
mod loss;
mod map;
mod mapped;
pub(crate) mod mishap;
#[cfg(all(loom, test))]
pub(crate) mod models;
mod names;
mod open;
#[cfg_attr(all(loom, test), path = "models/order.rs")]
mod order;
mod plan;
mod read;
mod record;
mod record_check;
mod recover;
mod redo_batch;
mod redo_log;
mod redo_read;
#[cfg(test)]
mod redo_tests;
mod restore;
mod scan;
mod schema;
mod schema_error;
mod schema_text;
mod sigbus;
#[cfg(feature = "sim")]
pub(crate) mod sim_seam;
mod state;
mod survey;
mod write;

pub use blob::BlobError;
pub use checkpoint::Checkpoint;
pub use create::CreateError;
pub use create::CreateOptions;
pub use dump::DumpError;
pub use dump::DumpSummary;
pub use dump::parse_hex;
pub use dump::role_name;
pub use dump::write_dump;
pub use dump::write_hex;
pub use dump_reader::DumpHead;
pub use dump_reader::DumpReader;
pub use field::EncodeError;
pub use field::Field;
pub use field::FieldKind;
pub use field::Value;
pub use field::encode_fields;
pub use field::printable;
pub use grow::GrowError;
pub use growth::Growth;
pub use growth::GrowthError;
pub use growth::Move;
pub use inspect::Fault;
pub use inspect::InspectError;
pub use inspect::TreeFile;
pub use inspect::UnverifiedHeader;
pub use inspect::VerifiedHeader;
pub use lookup::Place;
pub use loss::FileLoss;
pub use mapped::Tree;
pub use open::OpenError;
pub use open::OpenOptions;
pub use plan::Layout;
pub use plan::STATE_OFFSET;
pub use plan::UNDO_OFFSET;
pub use plan::header_checksum;
pub use plan::state_checksum;
pub use read::TreeReader;
pub use record::RecordFault;
pub use record::leaf_checksum;
pub use record::leaf_head;
pub use record::verify_record;
pub use record_check::LeafDamage;
pub use record_check::LeafView;
pub use record_check::Origin;
pub use recover::Damaged;
pub use recover::Ending;
pub use recover::Recovery;
pub use recover::Replay;
pub use redo_batch::RedoBatch;
pub use redo_batch::StageError;
pub use redo_log::Appended;
pub use redo_log::Freed;
pub use redo_log::Left;
pub use redo_log::RedoError;
pub use redo_log::RedoLog;
pub use redo_log::redo_path;
pub use redo_read::RedoFault;
pub use redo_read::RedoSummary;
pub use scan::LeafState;
pub use scan::Leaves;
pub use scan::Scanned;
pub use schema_error::SchemaError;
pub use state::SyncError;
pub use write::Mark;
pub use write::WriteError;
