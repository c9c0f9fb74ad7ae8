//! Reports on their way: being filled, waiting, or sent and not acknowledged.

use crate::layout::DataLocId;
use crate::sync::time::Time;
use crate::wire;

/// The reports that Data on its way stands for: more than one where newer Data took
/// the place of older.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reports {
    pub(super) count: u64,
    /// Number of the oldest, in the order in which they were made.
    pub(super) oldest: u64,
}

impl Reports {
    pub(super) const NONE: Reports = Reports { count: 0, oldest: u64::MAX };

    pub(super) fn add(&mut self, other: Reports) {
        self.count += other.count;
        self.oldest = self.oldest.min(other.oldest);
    }
}

impl Default for Reports {
    fn default() -> Reports {
        Reports::NONE
    }
}

/// Leaves of one REPORT.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) leaves: Vec<u8>,
    pub(super) ids: Vec<DataLocId>,
    pub(super) reports: Reports,
}

impl Batch {
    pub(super) fn push(&mut self, leaf: DataLocId, data: &[u8], reports: Reports) {
        wire::push_leaf(&mut self.leaves, leaf, data);
        self.ids.push(leaf);
        self.reports.add(reports);
    }

    pub(super) fn clear(&mut self) {
        self.leaves.clear();
        self.ids.clear();
        self.reports = Reports::NONE;
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.ids.len()).expect("a datagram holds few leaves")
    }
}

/// Newest Data of a leaf whose last report is still under way.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) data: Vec<u8>,
    pub(super) reports: Reports,
}

/// A REPORT that is not acknowledged yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    pub(super) sequence: u64,
    /// When it was sent last.
    pub(super) sent: Time,
    pub(super) is_repeated: bool,
    pub(super) is_acknowledged: bool,
}
