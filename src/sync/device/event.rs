//! What a device is told, and what it tells.

use crate::layout::DataLocId;
use crate::layout::TreeId;
use crate::sync::join::JoinError;
use crate::sync::join::Joined;
use crate::wire::RefusalReason;

/// Whether a device needs the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutWish {
    /// It names leaves by path.
    Pull,
    /// It knows its DataLocIDs.
    Skip,
}

/// Settings of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceConfig {
    /// See [`LayoutWish`].
    pub layout: LayoutWish,
    /// Tree that the server must have, if that is known.
    pub tree_id: Option<TreeId>,
}

/// What happened, for whoever drives the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceEvent {
    /// A session was opened: reports may be made (by path after
    /// [`DeviceEvent::Layout`] only).
    Joined(Joined),
    /// The layout is there. If it is not the one before, [`crate::sync::Device::renumber`] is due.
    Layout,
    /// The server cannot be joined; the device has stopped.
    Refused(JoinError),
    /// The server fell silent or ended the session; what was not acknowledged is
    /// reported again in the next one.
    Rejoining,
    /// The server did not write a leaf.
    LeafRefused {
        /// The leaf.
        leaf: DataLocId,
        /// Why.
        reason: RefusalReason,
        /// The number that the reason speaks of.
        detail: u32,
    },
    /// The server has written this many leaves more.
    Acknowledged {
        /// Leaves, refused ones not counted.
        leaves: u64,
    },
}

/// Why a report could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportError {
    /// The window is full: drive the device until something is acknowledged.
    Full,
    /// Data does not fit a datagram.
    TooLarge {
        /// Most bytes that fit.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// There is no session yet.
    NotJoined,
}

impl core::fmt::Display for ReportError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ReportError::Full => f.write_str("too many reports are not acknowledged yet"),
            ReportError::TooLarge { expected, found } => {
                write!(f, "data does not fit a datagram: at most {expected} bytes, found {found}")
            }
            ReportError::NotJoined => f.write_str("not connected to the server"),
        }
    }
}

impl core::error::Error for ReportError {}
