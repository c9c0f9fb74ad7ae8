//! What a client knows of each part of its copy.

use core::ops::Range;

use crate::layout::Revision;

/// How far a run of leaves is known to be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Every change up to the last EVENT of the unbroken run is held.
    Live,
    /// Every change up to this revision is held.
    Since(Revision),
    /// Likewise, and every one that EVENTs behind those that were lost brought.
    Between(Lost),
    /// Nothing is known: checksums have to tell.
    Unknown,
}

/// EVENTs of the run that did not come, and what they can have carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Every change up to this revision is held; above zero.
    pub(crate) since: Revision,
    /// None of them carried a change above this one.
    pub(crate) up_to: Revision,
    /// The first EVENT behind them.
    pub(crate) next: u64,
    /// Losses that they are of.
    pub(crate) times: u8,
}

/// Losses of a part before all is asked for that changed in it: an answer to what certain
/// losses carried mends nothing that was hit again meanwhile, and one of all mends it.
const LOSSES_MAX: u8 = 4;

/// The EVENTs of a loss: the first behind them, and the revision that none of them went
/// beyond, where that is sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) next: u64,
    pub(crate) up_to: Option<Revision>,
}

impl Known {
    /// What is known of a part that was hit by a loss.
    fn fallen(self, closed: Known, gap: Gap) -> Known {
        let next = gap.next;
        match (self, closed, gap.up_to) {
            (Known::Live, Known::Since(since), Some(up_to))
                if since > Revision::ZERO && since < up_to =>
            {
                Known::Between(Lost { since, up_to, next, times: 1 })
            }
            (Known::Live, ..) => closed,
            (Known::Between(lost), _, Some(up_to)) if lost.times < LOSSES_MAX => {
                let up_to = lost.up_to.max(up_to);
                Known::Between(Lost { up_to, next, times: lost.times + 1, ..lost })
            }
            (Known::Between(lost), ..) => Known::Since(lost.since),
            (Known::Since(_) | Known::Unknown, ..) => self,
        }
    }

    /// The same without what later EVENTs brought: as it is when the run is over, and
    /// for one question about several parts.
    pub(crate) fn as_since(self) -> Known {
        match self {
            Known::Between(lost) => Known::Since(lost.since),
            Known::Live | Known::Since(_) | Known::Unknown => self,
        }
    }

    /// Every change up to this revision is held, where `live` is that of a live part. Zero
    /// if nothing is sure.
    pub(crate) fn sure_up_to(self, live: Revision) -> Revision {
        match self {
            Known::Live => live,
            Known::Since(revision) => revision,
            Known::Between(lost) => lost.since,
            Known::Unknown => Revision::ZERO,
        }
    }

    /// What is known of a part of which both are true.
    fn stronger(self, other: Known) -> Known {
        match (self, other) {
            (Known::Live, _) | (_, Known::Live) => Known::Live,
            (Known::Between(lost), Known::Since(since)) => {
                Known::Between(Lost { since: lost.since.max(since), ..lost })
            }
            (Known::Between(_), _) => self,
            (_, Known::Between(_)) => other.stronger(self),
            (Known::Since(a), Known::Since(b)) => Known::Since(a.max(b)),
            (Known::Since(a), Known::Unknown) | (Known::Unknown, Known::Since(a)) => {
                Known::Since(a)
            }
            (Known::Unknown, Known::Unknown) => Known::Unknown,
        }
    }

    /// Whether what changed since then can be asked for: of a part of which nothing is
    /// held everything is, and not with others.
    pub(crate) fn is_revision(self) -> bool {
        matches!(self, Known::Since(revision) if revision > Revision::ZERO)
    }

    /// What is known of two parts together.
    fn weaker(self, other: Known) -> Known {
        match (self.as_since(), other.as_since()) {
            (Known::Unknown, _) | (_, Known::Unknown) => Known::Unknown,
            (Known::Since(a), Known::Since(b)) => Known::Since(a.min(b)),
            (Known::Since(a), Known::Live) | (Known::Live, Known::Since(a)) => Known::Since(a),
            (one, _) => one,
        }
    }
}

/// A run of leaves of which the same is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) end: u32,
    pub(crate) known: Known,
}

impl Span {
    fn is_joined_by(&self, next: &Span) -> bool {
        self.end == next.first && self.known == next.known
    }
}

fn push_joined(spans: &mut Vec<Span>, next: Span) {
    match spans.last_mut().filter(|last| last.is_joined_by(&next)) {
        Some(last) => last.end = next.end,
        None => spans.push(next),
    }
}

/// More spans than this are merged into their weakest: the list stays short
/// whatever a network does.
const SPANS_MAX: usize = 1024;

/// Parts that are told apart when it is decided what one REQUEST asks for: eight for
/// each of four. Where there are more, all are asked for at once.
const PARTS_MAX: usize = 32;

/// Spans that one range adds at most, at its two ends.
const CUTS_MAX: usize = 2;

/// The leaves that a client wants, cut where what is known of them changes.
#[derive(Clone, Debug)]
pub(crate) struct Spans {
    wanted: Vec<Range<u32>>,
    spans: Vec<Span>,
    /// Where the list is cut anew; its memory is used in turn with that of `spans`.
    cut: Vec<Span>,
}

impl Spans {
    pub(crate) fn new(wanted: &[Range<u32>], known: Known) -> Spans {
        // The list never grows: a loss costs no allocation, however many there are.
        let room = || Vec::with_capacity(SPANS_MAX.max(wanted.len()) + CUTS_MAX);
        let mut spans = Spans { wanted: wanted.to_vec(), spans: room(), cut: room() };
        spans.set_all(known);
        spans
    }

    pub(crate) fn set_all(&mut self, known: Known) {
        self.spans.clear();
        let whole = |range: &Range<u32>| Span { first: range.start, end: range.end, known };
        self.spans.extend(self.wanted.iter().map(whole));
    }

    /// Changes what is known of all spans.
    pub(crate) fn map(&mut self, change: impl Fn(Known) -> Known) {
        for span in &mut self.spans {
            span.known = change(span.known);
        }
        self.merge();
    }

    /// Adds to what is known of the wanted leaves in a range.
    pub(crate) fn learn(&mut self, range: Range<u32>, known: Known) {
        self.change(range, |held| held.stronger(known));
    }

    /// Takes a range back to what is known without the EVENTs of a gap.
    pub(crate) fn fall_back(&mut self, range: Range<u32>, closed: Known, gap: Gap) {
        self.change(range, |held| held.fallen(closed, gap));
    }

    /// What the gaps up to the one before EVENT `next` carried of a range is held now.
    pub(crate) fn fill(&mut self, range: Range<u32>, next: u64) {
        self.change(range, |held| match held {
            Known::Between(lost) if lost.next <= next => Known::Live,
            _ => held,
        });
    }

    /// The parts of a range that lack what certain losses carried.
    pub(crate) fn holes(&self, range: Range<u32>) -> impl Iterator<Item = (Range<u32>, Lost)> {
        let from = self.spans.partition_point(|span| span.end <= range.start);
        let within = self.spans[from..].iter().take_while(move |span| span.first < range.end);
        within.filter_map(move |span| match span.known {
            Known::Between(lost) => {
                Some((span.first.max(range.start)..span.end.min(range.end), lost))
            }
            Known::Live | Known::Since(_) | Known::Unknown => None,
        })
    }

    fn change(&mut self, range: Range<u32>, known: impl Fn(Known) -> Known) {
        // Those that it touches, and the neighbours that they may join: a loss costs the
        // same however many others there are.
        let from = self.spans.partition_point(|span| span.end < range.start);
        let to = self.spans.partition_point(|span| span.first <= range.end);
        let mut cut = core::mem::take(&mut self.cut);
        cut.clear();
        for span in self.spans.get(from..to).unwrap_or_default() {
            let first = range.start.clamp(span.first, span.end);
            let end = range.end.clamp(first, span.end);
            let parts = [
                Span { end: first, ..*span },
                Span { first, end, known: known(span.known) },
                Span { first: end, ..*span },
            ];
            let parts = parts.into_iter().filter(|part| part.first < part.end);
            parts.for_each(|part| push_joined(&mut cut, part));
        }
        self.spans.splice(from..to.max(from), cut.drain(..));
        self.cut = cut;
        self.bound();
    }

    fn merge(&mut self) {
        self.spans.dedup_by(|next, last| {
            let joins = last.is_joined_by(next);
            if joins {
                last.end = next.end;
            }
            joins
        });
        self.bound();
    }

    fn bound(&mut self) {
        if self.spans.len() > SPANS_MAX {
            let weakest =
                self.spans.iter().fold(Known::Live, |known, span| known.weaker(span.known));
            self.set_all(weakest);
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.spans.iter().all(|span| span.known == Known::Live)
    }

    /// Number of leaves that the server has spoken of at least once.
    pub(crate) fn held_count(&self) -> u32 {
        let is_held = |known| !matches!(known, Known::Unknown | Known::Since(Revision::ZERO));
        let held = self.spans.iter().filter(|span| is_held(span.known));
        held.map(|span| span.end - span.first).sum()
    }

    /// The revision up to which every change of every wanted leaf is held, where
    /// `live` is that of the live spans. Zero if nothing is sure.
    pub(crate) fn watermark(&self, live: Revision) -> Revision {
        self.spans.iter().map(|span| span.known.sure_up_to(live)).min().unwrap_or(live)
    }

    /// The same of one leaf. Zero if it is not wanted.
    pub(crate) fn held_up_to(&self, leaf: u32, live: Revision) -> Revision {
        let place = self.spans.partition_point(|span| span.end <= leaf);
        let found = self.spans.get(place).filter(|span| span.first <= leaf);
        found.map_or(Revision::ZERO, |span| span.known.sure_up_to(live))
    }

    /// What the next of `free` REQUESTs is to ask for, if anything: the first part that
    /// is not live and lies in none of the `busy` ranges. Where there are more such parts
    /// than REQUESTs it reaches on to its share of them, as far as all are held up to a
    /// revision: the live ones between them are asked for as well then. Parts that lack
    /// what certain losses carried are told one by one: it reaches on to so many of them
    /// as `takes` lets in, and what lies between them costs nothing.
    pub(crate) fn next_stale<'a>(
        &self,
        busy: impl Iterator<Item = &'a Range<u32>> + Clone,
        free: usize,
        mut takes: impl FnMut(&Span) -> bool,
    ) -> Option<Span> {
        let first = self.first_stale(0, busy.clone())?;
        let behind = |part: &Span| self.first_stale(part.end, busy.clone());
        let parts = || core::iter::successors(Some(first), behind);
        let bound = busy.clone().map(|range| range.start).filter(|start| *start > first.first);
        let bound = bound.min().unwrap_or(u32::MAX);
        let is_near = |part: &Span| part.end <= bound && self.are_of_one_range(first, *part);
        let mut all = first;
        if matches!(first.known, Known::Between(_)) {
            let is_hole = |part: &Span| matches!(part.known, Known::Between(_));
            takes(&first);
            let joined = parts().skip(1);
            for part in joined.take_while(|part| is_hole(part) && is_near(part) && takes(part)) {
                all.end = part.end;
            }
            return Some(all);
        }
        let count = parts().take(PARTS_MAX).count();
        let share = if count < PARTS_MAX { count.div_ceil(free.max(1)) } else { usize::MAX };
        let joined =
            parts().take(share).take_while(|part| part.known.is_revision() && is_near(part));
        // The first is taken as it is, the others only if they can be told with it.
        for part in joined.skip(1).filter(|_| first.known.is_revision()) {
            all = Span { end: part.end, known: all.known.weaker(part.known), ..all };
        }
        Some(all)
    }

    /// Whether one REQUEST can ask for both, and for nothing that is not wanted.
    fn are_of_one_range(&self, one: Span, other: Span) -> bool {
        self.wanted.iter().any(|range| range.contains(&one.first) && range.contains(&other.first))
    }

    /// The first part, in or behind `from`, that is not live and lies in none of
    /// the `busy` ranges.
    pub(crate) fn first_stale<'a>(
        &self,
        from: u32,
        busy: impl Iterator<Item = &'a Range<u32>> + Clone,
    ) -> Option<Span> {
        let behind = self.spans.partition_point(|span| span.end <= from);
        let mut stale = self.spans[behind..].iter().filter(|span| span.known != Known::Live);
        stale.find_map(|span| {
            let mut first = span.first.max(from);
            loop {
                let inside = busy.clone().find(|range| range.contains(&first));
                match inside {
                    Some(range) => first = range.end,
                    None => break,
                }
            }
            let next_busy = busy.clone().map(|range| range.start).filter(|start| *start >= first);
            let end = next_busy.min().unwrap_or(span.end).min(span.end);
            (first < end).then_some(Span { first, end, known: span.known })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A loss of which nothing is sure.
    const GAP: Gap = Gap { next: 1, up_to: None };

    fn since(revision: u64) -> Known {
        Known::Since(Revision(revision))
    }

    fn ranges(of: &[(u32, u32)]) -> Vec<Range<u32>> {
        of.iter().map(|(first, end)| *first..*end).collect()
    }

    fn list(spans: &Spans) -> Vec<(u32, u32, Known)> {
        spans.spans.iter().map(|span| (span.first, span.end, span.known)).collect()
    }

    #[test]
    fn spans_are_cut_and_merged() {
        let mut spans = Spans::new(&[0..10, 20..30], since(0));
        spans.learn(5..25, Known::Live);
        assert_eq!(
            list(&spans),
            [(0, 5, since(0)), (5, 10, Known::Live), (20, 25, Known::Live), (25, 30, since(0))]
        );
        spans.learn(0..5, Known::Live);
        assert_eq!(spans.held_count(), 15);
        spans.learn(25..90, Known::Live);
        assert!(spans.is_live());
        assert_eq!(list(&spans).len(), 2, "ranges apart stay apart");
    }

    #[test]
    fn the_first_stale_part_leaves_out_what_is_asked_for() {
        let mut spans = Spans::new(&[0..100, 200..300], since(0));
        spans.learn(0..10, Known::Live);
        let part = spans.first_stale(0, [10..20, 50..60].iter()).unwrap();
        assert_eq!((part.first, part.end), (20, 50));
        let part = spans.first_stale(0, std::iter::once(&(10..100))).unwrap();
        assert_eq!((part.first, part.end), (200, 300));
        assert!(spans.first_stale(0, [10..100, 200..300].iter()).is_none());
    }

    #[test]
    fn what_falls_back_is_live_and_in_the_range() {
        let mut spans = Spans::new(&[0..100, 200..300], Known::Live);
        spans.fall_back(40..50, since(7), GAP);
        spans.fall_back(45..60, since(9), GAP);
        let expected = [
            (0, 40, Known::Live),
            (40, 50, since(7)),
            (50, 60, since(9)),
            (60, 100, Known::Live),
            (200, 300, Known::Live),
        ];
        assert_eq!(list(&spans), expected);
        spans.fall_back(0..u32::MAX, since(11), GAP);
        assert!(!spans.spans.iter().any(|span| span.known == Known::Live));
        assert_eq!(spans.watermark(Revision(99)), Revision(7));
    }

    fn any_known() -> impl Strategy<Value = Known> {
        prop_oneof![Just(Known::Live), Just(Known::Unknown), (0..4_u64).prop_map(since)]
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        FallsBack,
        Learns,
        IsFilled,
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Step::FallsBack), Just(Step::Learns), Just(Step::IsFilled)]
    }

    proptest! {
        #[test]
        fn spans_say_of_each_leaf_what_a_list_of_leaves_says(
            steps in vec((0..70_u32, 0..70_u32, any_known(), any_step(), 0..9_u64), 0..40),
        ) {
            let wanted = [0..10, 20..50, 60..61];
            let mut spans = Spans::new(&wanted, since(0));
            let leaves = || wanted.iter().cloned().flatten();
            let mut model: BTreeMap<u32, Known> = leaves().map(|leaf| (leaf, since(0))).collect();
            for (first, end, known, step, next) in steps {
                let gap = Gap { next, up_to: (next > 2).then_some(Revision(next)) };
                for (leaf, held) in &mut model {
                    *held = match (step, *held) {
                        _ if !(first..end).contains(leaf) => *held,
                        (Step::FallsBack, _) => held.fallen(known, gap),
                        (Step::Learns, _) => held.stronger(known),
                        (Step::IsFilled, Known::Between(lost)) if lost.next <= next => Known::Live,
                        (Step::IsFilled, _) => *held,
                    };
                }
                match step {
                    Step::FallsBack => spans.fall_back(first..end, known, gap),
                    Step::Learns => spans.learn(first..end, known),
                    Step::IsFilled => spans.fill(first..end, next),
                }
                let each = spans.spans.iter().flat_map(|span| {
                    (span.first..span.end).map(|leaf| (leaf, span.known))
                });
                prop_assert_eq!(each.collect::<Vec<_>>(), Vec::from_iter(model.clone()));
                let is_joined = spans.spans.windows(2).any(|two| two[0].is_joined_by(&two[1]));
                prop_assert!(!is_joined, "{:?}", spans.spans);
            }
        }
    }

    fn lost(since: u64, up_to: u64, next: u64, times: u8) -> Known {
        Known::Between(Lost { since: Revision(since), up_to: Revision(up_to), next, times })
    }

    fn gap(next: u64, up_to: u64) -> Gap {
        Gap { next, up_to: Some(Revision(up_to)) }
    }

    #[test]
    fn what_was_hit_again_is_not_filled_by_an_answer_to_what_was_asked_before() {
        let mut spans = Spans::new(std::slice::from_ref(&(0..100)), Known::Live);
        spans.fall_back(10..30, since(5), gap(7, 6));
        spans.fall_back(20..40, since(5), gap(9, 8));
        let expected = [
            (0, 10, Known::Live),
            (10, 20, lost(5, 6, 7, 1)),
            (20, 30, lost(5, 8, 9, 2)),
            (30, 40, lost(5, 8, 9, 1)),
            (40, 100, Known::Live),
        ];
        assert_eq!(list(&spans), expected);
        assert_eq!(spans.watermark(Revision(8)), Revision(5));
        spans.fill(0..35, 7);
        let expected = [
            (0, 20, Known::Live),
            (20, 30, lost(5, 8, 9, 2)),
            (30, 40, lost(5, 8, 9, 1)),
            (40, 100, Known::Live),
        ];
        assert_eq!(list(&spans), expected);
        let holes: Vec<Range<u32>> = spans.holes(25..100).map(|(part, _)| part).collect();
        assert_eq!(holes, ranges(&[(25, 30), (30, 40)]));
        spans.fill(0..100, 9);
        assert!(spans.is_live());
    }

    #[test]
    fn what_is_hit_too_often_or_by_an_unsure_loss_is_known_by_a_revision_alone() {
        for (times, last) in [(LOSSES_MAX, gap(99, 99)), (1, GAP)] {
            let mut spans = Spans::new(std::slice::from_ref(&(0..9)), Known::Live);
            let hits = 1..=u64::from(times);
            hits.for_each(|hit| spans.fall_back(0..9, since(5), gap(hit, 5 + hit)));
            let known = lost(5, 5 + u64::from(times), times.into(), times);
            assert_eq!(list(&spans), [(0, 9, known)]);
            spans.fall_back(0..9, since(7), last);
            assert_eq!(list(&spans), [(0, 9, since(5))]);
            spans.fill(0..9, 99);
            assert_eq!(list(&spans), [(0, 9, since(5))], "it was not asked for so");
        }
    }

    #[test]
    fn a_loss_that_brought_nothing_newer_than_what_is_held_is_no_hole() {
        for (closed, up_to) in [(since(0), 6), (since(6), 6), (Known::Unknown, 6)] {
            let mut spans = Spans::new(std::slice::from_ref(&(0..9)), Known::Live);
            spans.fall_back(0..9, closed, gap(3, up_to));
            assert_eq!(list(&spans), [(0, 9, closed)]);
        }
    }

    #[test]
    fn holes_are_asked_for_together_as_far_as_they_are_let_in() {
        let mut spans = Spans::new(&[0..100, 200..300], Known::Live);
        for first in [10, 30, 50, 210] {
            spans.fall_back(first..first + 5, since(5), gap(7, 6));
        }
        spans.fall_back(70..75, since(5), GAP);
        let next = |busy: &[(u32, u32)], most: u32| {
            let mut count = 0;
            let takes = |_: &Span| {
                count += 1;
                count <= most
            };
            let part = spans.next_stale(ranges(busy).iter(), 16, takes).unwrap();
            (part.first, part.end)
        };
        assert_eq!(next(&[], 9), (10, 55), "not what is told otherwise");
        assert_eq!(next(&[], 2), (10, 35));
        assert_eq!(next(&[], 0), (10, 15), "one is always asked for");
        assert_eq!(next(&[(32, 33)], 9), (10, 32), "not what is under way");
        assert_eq!(next(&[(0, 75)], 9), (210, 215));
    }

    #[test]
    fn parts_are_asked_for_one_by_one_while_there_are_requests_enough() {
        let mut spans = Spans::new(&[0..100, 200..300], Known::Live);
        for (first, revision) in [(10, 5), (30, 4), (50, 6), (70, 5), (210, 3)] {
            spans.fall_back(first..first + 5, since(revision), GAP);
        }
        let next = |busy: &[(u32, u32)], free| {
            let part = spans.next_stale(ranges(busy).iter(), free, |_| true).unwrap();
            (part.first, part.end, part.known)
        };
        assert_eq!(next(&[], 5), (10, 15, since(5)));
        // Two each: both are told by the older revision.
        assert_eq!(next(&[], 4), (10, 35, since(4)));
        assert_eq!(next(&[(0, 15)], 2), (30, 55, since(4)));
        // All for the only one, but not beyond what one REQUEST can ask for.
        assert_eq!(next(&[], 1), (10, 75, since(4)));
        // And not what is under way.
        assert_eq!(next(&[(48, 60)], 1), (10, 35, since(4)));
        assert!(spans.next_stale(ranges(&[(0, 300)]).iter(), 1, |_| true).is_none());
    }

    #[test]
    fn what_is_not_known_by_a_revision_is_asked_for_alone() {
        for known in [Known::Unknown, since(0)] {
            let mut spans = Spans::new(std::slice::from_ref(&(0..100)), Known::Live);
            spans.fall_back(10..20, since(5), GAP);
            spans.fall_back(40..50, known, GAP);
            spans.fall_back(60..70, since(5), GAP);
            let part = |busy: &[(u32, u32)]| {
                let part = spans.next_stale(ranges(busy).iter(), 1, |_| true).unwrap();
                (part.first, part.end)
            };
            assert_eq!([part(&[]), part(&[(0, 20)])], [(10, 20), (40, 50)]);
        }
    }

    #[test]
    fn too_many_parts_are_asked_for_at_once() {
        let mut spans = Spans::new(std::slice::from_ref(&(0..10_000)), Known::Live);
        (0..100).for_each(|part| spans.fall_back(part * 20..part * 20 + 5, since(7), GAP));
        let part = spans.next_stale([].iter(), 4, |_| true).unwrap();
        assert_eq!((part.first, part.end), (0, 99 * 20 + 5));
    }

    #[test]
    fn too_many_spans_fall_back_to_the_weakest() {
        let mut spans = Spans::new(std::slice::from_ref(&(0..10_000)), since(7));
        for leaf in 0..2_000 {
            spans.learn(leaf * 2..leaf * 2 + 1, Known::Live);
        }
        assert!(list(&spans).len() <= SPANS_MAX);
        assert!(!spans.is_live());
        assert!(spans.spans.iter().all(|span| span.known == Known::Live || span.known == since(7)));
    }
}
