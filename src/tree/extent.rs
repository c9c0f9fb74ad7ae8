//! Where the records of a layout lie, looked up by DataLocID at every access.

use crate::layout::DataLocId;
use crate::layout::Parent;
use crate::layout::ParentId;
use crate::tree::plan::Layout;

/// Leaves that share an entry of the coarse index: 2^6, so that the index of
/// 1 M leaves is 64 KiB and stays in the second-level cache.
const BLOCK_BITS: u32 = 6;

/// The records of one parent's leaves.
#[derive(Clone, Copy, Debug)]
struct Extent {
    first: u32,
    end: u32,
    capacity: u32,
    stride: u32,
    parent: ParentId,
    offset: usize,
}

/// One leaf's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) leaf: DataLocId,
    pub(crate) parent: ParentId,
    /// Offset in the file, a multiple of 64.
    pub(crate) offset: usize,
    /// Bytes to the next record.
    pub(crate) stride: usize,
    /// Most bytes of Data.
    pub(crate) capacity: usize,
}

/// Runs of a piece at most: what is noted of a piece is small beside what is read.
const RUNS_MAX: usize = 256;

/// Records that lie one behind the other, of any parents.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// First record and number of records of one stride each.
    pub(crate) runs: Vec<(Record, usize)>,
    /// Offset in the file.
    pub(crate) offset: usize,
    /// Bytes of all records.
    pub(crate) len: usize,
    /// Number of all records.
    pub(crate) count: usize,
}

impl Piece {
    fn new((first, count): (Record, usize)) -> Piece {
        let mut piece = Piece { runs: Vec::new(), offset: first.offset, len: 0, count: 0 };
        piece.add((first, count));
        piece
    }

    fn add(&mut self, (first, count): (Record, usize)) {
        debug_assert_eq!(first.offset, self.offset + self.len, "extents without a gap");
        self.runs.push((first, count));
        self.len += count * first.stride;
        self.count += count;
    }
}

/// All extents in the order of their leaves.
#[derive(Clone, Debug)]
pub(crate) struct Extents {
    rows: Vec<Extent>,
    /// For each block of leaves the row of its first leaf.
    row_of_block: Vec<u32>,
    leaf_count: u32,
}

impl Extents {
    pub(crate) fn new(layout: &Layout) -> Extents {
        let rows: Vec<Extent> = layout.parents().iter().filter_map(extent).collect();
        let mut row = 0;
        let row_of_block = (0..layout.leaf_count())
            .step_by(1 << BLOCK_BITS)
            .map(|leaf| {
                while rows[row].end <= leaf {
                    row += 1;
                }
                row as u32
            })
            .collect();
        Extents { rows, row_of_block, leaf_count: layout.leaf_count() }
    }

    /// Number of leaves.
    pub(crate) fn leaf_count(&self) -> u32 {
        self.leaf_count
    }

    /// The record of a leaf, if there is such a leaf.
    #[inline]
    pub(crate) fn record(&self, leaf: DataLocId) -> Option<Record> {
        if leaf.0 >= self.leaf_count {
            return None;
        }
        let block = (leaf.0 >> BLOCK_BITS) as usize;
        let mut row = self.row_of_block[block] as usize;
        // One step at most where parents own 64 leaves or more.
        while self.rows[row].end <= leaf.0 {
            row += 1;
        }
        Some(self.rows[row].record(leaf))
    }

    /// Every record, by ascending DataLocID.
    pub(crate) fn all(&self) -> impl Iterator<Item = Record> + '_ {
        self.rows
            .iter()
            .flat_map(|row| (row.first..row.end).map(|leaf| row.record(DataLocId(leaf))))
    }

    /// Every record in runs of one stride, at most `len_max` bytes each (one record
    /// at least): the first record of a run and the number of records.
    pub(crate) fn runs(&self, len_max: usize) -> impl Iterator<Item = (Record, usize)> + '_ {
        self.rows.iter().flat_map(move |row| {
            let most = (len_max / row.stride as usize).max(1);
            let starts = (row.first..row.end).step_by(most);
            starts
                .map(move |leaf| (row.record(DataLocId(leaf)), most.min((row.end - leaf) as usize)))
        })
    }

    /// Every record in pieces of the file, at most `len_max` bytes each (one record at
    /// least) and [`RUNS_MAX`] runs.
    pub(crate) fn pieces(&self, len_max: usize) -> impl Iterator<Item = Piece> + '_ {
        let mut runs = self.runs(len_max).peekable();
        std::iter::from_fn(move || {
            let mut piece = Piece::new(runs.next()?);
            // Extents lie one behind the other.
            while piece.runs.len() < RUNS_MAX
                && let Some((first, count)) = runs.peek()
                && piece.len + count * first.stride <= len_max
            {
                piece.add((*first, *count));
                runs.next();
            }
            Some(piece)
        })
    }

    /// Bytes of memory that this takes.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.rows) + size_of_val(&*self.row_of_block)
    }
}

impl Record {
    /// The record that lies `count` behind this one in its run.
    pub(crate) fn behind(&self, count: usize) -> Record {
        // A run has no more records than there are leaves.
        let leaf = DataLocId(self.leaf.0 + count as u32);
        Record { leaf, offset: self.offset + count * self.stride, ..*self }
    }
}

impl Extent {
    #[inline]
    fn record(&self, leaf: DataLocId) -> Record {
        Record {
            leaf,
            parent: self.parent,
            offset: self.offset + (leaf.0 - self.first) as usize * self.stride as usize,
            stride: self.stride as usize,
            capacity: self.capacity as usize,
        }
    }
}

fn extent(parent: &Parent) -> Option<Extent> {
    let leaves = parent.leaves();
    (!leaves.is_empty()).then(|| Extent {
        first: leaves.start,
        end: leaves.end,
        capacity: parent.capacity.get(),
        stride: parent.stride.get(),
        parent: ParentId(parent.parent_id.get()),
        // Files beyond the address space cannot be mapped: refused before.
        offset: parent.first_record_offset.get() as usize,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_lies_where_the_layout_says() {
        for (parents, leaves) in [(1, 1), (1, 1000), (7, 1000), (300, 301), (65, 64 * 65)] {
            let layout = Layout::plain(parents, leaves, 100).unwrap();
            let extents = Extents::new(&layout);
            for leaf in (0..leaves).map(DataLocId) {
                let record = extents.record(leaf).unwrap();
                assert_eq!(Some(record.offset as u64), layout.record_offset(leaf));
                assert_eq!(
                    Some(record.parent.0),
                    layout.parent_of(leaf).map(|row| row.parent_id.get())
                );
                assert_eq!((record.capacity, record.stride), (100, 192));
            }
            assert!(extents.all().map(|record| record.leaf.0).eq(0..leaves));
            for len_max in [1, 192, 1000, 1 << 20] {
                let runs = extents.runs(len_max);
                let each = runs.flat_map(|(first, count)| (0..count).map(move |i| first.behind(i)));
                assert!(each.eq(extents.all()), "runs of {len_max} bytes");
                let mut end = layout.records_offset() as usize;
                let mut all = Vec::new();
                for piece in extents.pieces(len_max) {
                    assert_eq!(piece.offset, end, "pieces of {len_max} bytes");
                    let runs = piece.runs.iter();
                    let each: Vec<_> = runs
                        .flat_map(|(first, count)| (0..*count).map(|i| first.behind(i)))
                        .collect();
                    let len: usize = each.iter().map(|record| record.stride).sum();
                    assert_eq!((piece.count, piece.len), (each.len(), len));
                    assert!(len <= len_max || each.len() == 1);
                    assert!(piece.runs.len() <= RUNS_MAX);
                    all.extend(each);
                    end += len;
                }
                assert!(all.into_iter().eq(extents.all()), "pieces of {len_max} bytes");
            }
            assert_eq!(extents.record(DataLocId(leaves)), None);
            assert_eq!(extents.record(DataLocId::NONE), None);
        }
    }
}
