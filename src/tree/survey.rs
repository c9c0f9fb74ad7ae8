//! The pass over all records at opening: each is verified, and the columns are filled.
//!
//! The file is read in pieces that stay in a core's own cache, and as many threads as the
//! system has cores take one after the other. Whoever takes a piece cuts its part off the
//! columns, so nothing that is written is shared. What is to be told of single leaves is
//! brought into their order afterwards: the outcome does not depend on the threads.
//!
//! The file is read and not mapped: what the medium cannot give is an error here and
//! would be a signal there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::PoisonError;

use crate::layout::DataLocId;
use crate::layout::Digest;
use crate::layout::LeafHead;
use crate::layout::ParentId;
use crate::layout::RecordHead;
use crate::layout::Revision;
use crate::tree::cores::on_threads;
use crate::tree::cores::threads_for;
use crate::tree::extent::Extents;
use crate::tree::extent::Piece;
use crate::tree::extent::Record;
use crate::tree::index::Columns;
use crate::tree::index::ColumnsPart;
use crate::tree::index::Index;
use crate::tree::plan::Layout;
use crate::tree::record::RecordFault;
use crate::tree::record::empty_head;
use crate::tree::record::verify_lent;
use crate::tree::record::verify_records;
use crate::tree::recover::Undo;
use crate::tree::redo_read::Redo;

/// Bytes that are read at once: half of the second-level cache of common cores.
const PIECE_LEN: usize = 256 << 10;

/// The leaves of which something is to be told or done, ascending.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Whole records whose seq is odd.
    pub(super) odd: Vec<DataLocId>,
    /// Neither the record nor the redo log holds the leaf.
    pub(super) damaged: Vec<DataLocId>,
    /// What is wrong with the first of them.
    pub(super) first_fault: Option<RecordFault>,
    /// Leaves that the redo log holds a newer or the only whole version of.
    pub(super) redone: Vec<DataLocId>,
    /// Those whose ChangeFlag is set.
    changed: Vec<DataLocId>,
}

impl Findings {
    fn is_empty(&self) -> bool {
        let all = [&self.odd, &self.damaged, &self.redone, &self.changed];
        all.iter().all(|leaves| leaves.is_empty())
    }

    /// Adds what was found of leaves behind all of these.
    fn append(&mut self, mut behind: Findings) {
        self.odd.append(&mut behind.odd);
        self.damaged.append(&mut behind.damaged);
        self.first_fault = self.first_fault.or(behind.first_fault);
        self.redone.append(&mut behind.redone);
        self.changed.append(&mut behind.changed);
    }
}

/// What a record is held against.
pub(super) struct Survey<'a> {
    pub(super) file: &'a File,
    pub(super) extents: &'a Extents,
    /// A record that counts as it was saved.
    pub(super) undo: Option<&'a Undo>,
    pub(super) redo: &'a Redo,
}

/// What is left to do: pieces by ascending place, and the columns over them.
struct Queue<'a, I> {
    pieces: I,
    columns: ColumnsPart<'a>,
    taken: usize,
    is_stopped: bool,
}

impl<'a, I: Iterator<Item = Piece>> Queue<'a, I> {
    /// The next piece with its number and its columns.
    fn next(&mut self) -> Option<(usize, Piece, ColumnsPart<'a>)> {
        let piece = if self.is_stopped { None } else { self.pieces.next() }?;
        let columns = self.columns.cut(piece.count);
        self.taken += 1;
        Some((self.taken, piece, columns))
    }
}

/// What one thread made of the pieces that it took.
#[derive(Default)]
struct Part {
    findings: Vec<(usize, Findings)>,
    digests: Vec<(ParentId, Digest)>,
    failed: Option<(usize, io::Error)>,
}

impl Part {
    fn add_digest(&mut self, parent: ParentId, digest: Digest) {
        match self.digests.last_mut() {
            Some((last, sum)) if *last == parent => *sum = sum.plus(digest),
            _ => self.digests.push((parent, digest)),
        }
    }
}

impl Survey<'_> {
    /// Looks at every record. Damaged leaves are entered as what they will be: empty.
    pub(super) fn run(&self, layout: &Layout) -> io::Result<(Findings, Index)> {
        self.run_on(threads_for(layout.records_len()), layout)
    }

    fn run_on(&self, threads: usize, layout: &Layout) -> io::Result<(Findings, Index)> {
        let mut columns = Columns::new(layout.leaf_count());
        // No more than there is of records: small trees are opened in microseconds.
        let most = PIECE_LEN.max(layout.stride_max() as usize);
        let len = usize::try_from(layout.records_len()).unwrap_or(usize::MAX).min(most);
        let queue = Mutex::new(Queue {
            pieces: self.extents.pieces(PIECE_LEN),
            columns: columns.all(),
            taken: 0,
            is_stopped: false,
        });
        let parts = on_threads(threads, || self.work(&queue, &mut vec![0; len]));
        drop(queue);
        sum_up(parts, columns, layout)
    }

    fn work<I: Iterator<Item = Piece>>(
        &self,
        queue: &Mutex<Queue<'_, I>>,
        buffer: &mut [u8],
    ) -> Part {
        let mut part = Part::default();
        let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some((number, piece, columns)) = lock().next() else { return part };
            let bytes = &mut buffer[..piece.len];
            if let Err(error) = self.file.read_exact_at(bytes, piece.offset as u64) {
                // All pieces before this one are taken already, so that the error of the
                // first that fails is told, as by one thread.
                lock().is_stopped = true;
                part.failed = Some((number, error));
                return part;
            }
            let findings = self.examine_piece(&piece, bytes, columns, &mut part);
            if !findings.is_empty() {
                part.findings.push((number, findings));
            }
        }
    }

    fn examine_piece(
        &self,
        piece: &Piece,
        bytes: &[u8],
        mut columns: ColumnsPart<'_>,
        part: &mut Part,
    ) -> Findings {
        let mut findings = Findings::default();
        let mut rest = bytes;
        for (first, count) in &piece.runs {
            let (records, behind) = rest.split_at(count * first.stride);
            rest = behind;
            let mut run = columns.cut(*count);
            let mut digest = Digest(0);
            let capacity = first.capacity as u32;
            verify_records(records, first.stride, first.leaf, capacity, |index, outcome| {
                let record = first.behind(index);
                let empty;
                let head = match self.examine(&record, outcome, &mut findings) {
                    Some(head) => head,
                    None => {
                        empty = empty_head(record.leaf);
                        &empty
                    }
                };
                run.set(index, head);
                digest = digest.plus(digest_of(head));
            });
            part.add_digest(first.parent, digest);
        }
        findings
    }

    /// What counts as the head of a leaf; nothing if it is to be empty.
    #[inline]
    fn examine<'r>(
        &'r self,
        record: &Record,
        outcome: Result<&'r RecordHead, RecordFault>,
        findings: &mut Findings,
    ) -> Option<&'r LeafHead> {
        let leaf = record.leaf;
        let undo = self.undo.filter(|undo| undo.record.leaf == leaf);
        let outcome = match undo {
            None => outcome,
            Some(undo) => verify_lent(&undo.saved, leaf, record.capacity as u32),
        };
        match outcome {
            Ok(head) => {
                if head.change_flag.get() == 1 {
                    findings.changed.push(leaf);
                }
                if undo.is_none() && !head.seq.get().is_multiple_of(2) {
                    findings.odd.push(leaf);
                }
                if self.redo.newer(leaf, Some(Revision(head.leaf.revision.get()))) {
                    findings.redone.push(leaf);
                }
                Some(&head.leaf)
            }
            Err(fault) => {
                if self.redo.newer(leaf, None) {
                    findings.redone.push(leaf);
                } else {
                    findings.first_fault.get_or_insert(fault);
                    findings.damaged.push(leaf);
                }
                None
            }
        }
    }
}

fn digest_of(head: &LeafHead) -> Digest {
    let leaf = DataLocId(head.data_loc_id.get());
    Digest::of_leaf(leaf, Revision(head.revision.get()), head.checksum.get())
}

fn sum_up(
    mut parts: Vec<Part>,
    columns: Columns,
    layout: &Layout,
) -> io::Result<(Findings, Index)> {
    let failed = parts.iter_mut().filter_map(|part| part.failed.take());
    if let Some((_, error)) = failed.min_by_key(|(number, _)| *number) {
        return Err(error);
    }
    let mut of_parents = vec![Digest(0); layout.parent_count() as usize];
    for (parent, digest) in parts.iter().flat_map(|part| &part.digests) {
        let sum = &mut of_parents[parent.index()];
        *sum = sum.plus(*digest);
    }
    let mut found: Vec<_> = parts.into_iter().flat_map(|part| part.findings).collect();
    found.sort_unstable_by_key(|(number, _)| *number);
    let mut findings = Findings::default();
    found.into_iter().for_each(|(_, behind)| findings.append(behind));
    let mut index = Index::of(columns, of_parents);
    findings.changed.drain(..).for_each(|leaf| index.mark(leaf));
    Ok((findings, index))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zerocopy::IntoBytes;

    use crate::tree::record::leaf_head;

    use super::*;

    const SEQ_AT: usize = 0;
    const FLAG_AT: usize = 4;

    /// Parents of all kinds of lengths, some of one leaf, over several pieces.
    fn layout() -> Layout {
        let mut text = String::new();
        for (i, (leaves, capacity)) in
            [(9_000, 20), (1, 4_000), (7_000, 200), (3, 30), (900, 1_000)].into_iter().enumerate()
        {
            text += &format!("[[parent]]\nname='p{i}'\nleaves={leaves}\ncapacity={capacity}\n");
        }
        (0..600).for_each(|i| text += &format!("[[parent]]\nname='s{i}'\nleaves=1\ncapacity=9\n"));
        Layout::from_toml(&text).unwrap()
    }

    fn random(state: &mut u64, below: usize) -> usize {
        *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (*state >> 33) as usize % below
    }

    /// The bytes of a tree file whose leaves hold something.
    fn filled(layout: &Layout, extents: &Extents) -> Vec<u8> {
        let mut bytes = vec![0; layout.file_len() as usize];
        for record in extents.all() {
            let len = match record.leaf.0 % 300 {
                0..250 => record.capacity,
                other => other as usize % (record.capacity + 1),
            };
            let data = vec![record.leaf.0 as u8; len];
            let head = leaf_head(record.leaf, Revision(u64::from(record.leaf.0 % 77)), &data);
            let at = record.offset + RecordHead::WIRE_OFFSET;
            bytes[at..at + size_of::<LeafHead>()].copy_from_slice(head.as_bytes());
            let at = record.offset + RecordHead::DATA_OFFSET;
            bytes[at..at + len].copy_from_slice(&data);
        }
        bytes
    }

    /// One record after the other, in one thread.
    fn plainly(survey: &Survey<'_>, layout: &Layout, bytes: &[u8]) -> (Findings, Index) {
        let mut index = Index::new(layout.leaf_count(), layout.parent_count());
        let mut findings = Findings::default();
        for record in survey.extents.all() {
            let bytes = &bytes[record.offset..record.offset + record.stride];
            let outcome = verify_lent(bytes, record.leaf, record.capacity as u32);
            match survey.examine(&record, outcome, &mut findings) {
                Some(head) => index.insert(&record, head),
                None => index.insert(&record, &empty_head(record.leaf)),
            }
        }
        findings.changed.drain(..).for_each(|leaf| index.mark(leaf));
        (findings, index)
    }

    fn assert_equal(found: &(Findings, Index), expected: &(Findings, Index)) {
        assert_eq!(found.0, expected.0);
        let (found, expected) = (&found.1, &expected.1);
        assert_eq!(found.checksums(), expected.checksums());
        assert_eq!(found.revisions().as_slice(), expected.revisions().as_slice());
        assert_eq!(found.revisions().max(), expected.revisions().max());
        assert_eq!(found.digests_of_parents(), expected.digests_of_parents());
        assert_eq!(found.digest(), expected.digest());
        assert_eq!(found.changed().count(), expected.changed().count());
        for leaf in (0..found.checksums().len() as u32).map(DataLocId) {
            assert_eq!(found.data_size(leaf), expected.data_size(leaf));
            assert_eq!(found.changed().contains(leaf.0), expected.changed().contains(leaf.0));
        }
    }

    #[test]
    fn any_number_of_threads_finds_what_one_look_at_each_record_finds() {
        let layout = layout();
        let extents = Extents::new(&layout);
        let mut bytes = filled(&layout, &extents);
        let (mut state, leaf_count) = (1, layout.leaf_count() as usize);
        for round in 0..4 {
            for _ in 0..[0, 1, 40, 3_000][round] {
                let leaf = DataLocId(random(&mut state, leaf_count) as u32);
                let record = extents.record(leaf).unwrap();
                match random(&mut state, 3) {
                    0 => bytes[record.offset + SEQ_AT] ^= 1,
                    1 => bytes[record.offset + FLAG_AT] ^= 1,
                    _ => bytes[record.offset + random(&mut state, record.stride)] ^= 4,
                }
            }
            if round == 1 {
                // Whole but for one byte more than the leaf may hold.
                let record = extents.record(DataLocId(3)).unwrap();
                let data = vec![1; record.capacity + 1];
                let head = leaf_head(record.leaf, Revision(5), &data);
                let whole = [head.as_bytes(), &data].concat();
                let at = record.offset + RecordHead::WIRE_OFFSET;
                bytes[at..at + whole.len()].copy_from_slice(&whole);
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            // A record that counts as it was before.
            let record = extents.record(DataLocId(9_500)).unwrap();
            let mut saved = vec![0; record.stride];
            let head = leaf_head(record.leaf, Revision(1 << 40), &[]);
            saved[RecordHead::WIRE_OFFSET..RecordHead::DATA_OFFSET]
                .copy_from_slice(head.as_bytes());
            let undo = Undo { record, saved };
            let redo = Redo::default();
            for undo in [None, Some(&undo)] {
                let survey = Survey { file: &file, extents: &extents, undo, redo: &redo };
                let expected = plainly(&survey, &layout, &bytes);
                assert_eq!(expected.0.damaged.is_empty(), round == 0);
                assert_eq!(expected.1.revisions().max() == 1 << 40, undo.is_some());
                assert!(
                    round < 3 || (expected.0.odd.len() > 99 && expected.1.changed().count() > 99)
                );
                for threads in [1, 2, 5] {
                    assert_equal(&survey.run_on(threads, &layout).unwrap(), &expected);
                }
            }
        }
    }

    #[test]
    fn a_file_that_ends_too_early_is_an_error_on_any_number_of_threads() {
        let layout = layout();
        let extents = Extents::new(&layout);
        for len in [0, layout.records_offset(), layout.file_len() / 2, layout.file_len() - 4_096] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(len).unwrap();
            let survey =
                Survey { file: &file, extents: &extents, undo: None, redo: &Redo::default() };
            for threads in [1, 2, 5] {
                let error = survey.run_on(threads, &layout).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len} bytes");
            }
        }
    }
}
