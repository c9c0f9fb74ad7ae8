//! The structs of the tree file, the ids, and every limit in one place.
//!
//! Each struct is laid out byte for byte as docs/FORMAT.md says: little-endian
//! integers, no implicit padding, reserved bytes named and zero. This module
//! knows shapes only; it opens no file and trusts nothing that it is given.

mod header;
mod id;
pub mod limits;
mod parent;
mod record;
mod redo;

pub use header::Header;
pub use header::STATE_SLOT_OFFSETS;
pub use header::StateSlot;
pub use header::TreeRole;
pub use header::UndoHeader;
pub use id::DataLocId;
pub use id::Digest;
pub use id::LayoutHash;
pub use id::Life;
pub use id::ParentId;
pub use id::Revision;
pub use id::TreeId;
pub use parent::Parent;
pub use parent::ParentName;
pub use record::LeafHead;
pub use record::RecordHead;
pub use record::leaf_wire_len;
pub use record::stride_for;
pub use redo::RedoBatchHead;
pub use redo::RedoHeader;
