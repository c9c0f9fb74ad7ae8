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
    /// Nothing is known: checksums have to tell.
    Unknown,
}

impl Known {
    /// What is known of a part of which both are true.
    fn stronger(self, other: Known) -> Known {
        match (self, other) {
            (Known::Live, _) | (_, Known::Live) => Known::Live,
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
        match (self, other) {
            (Known::Unknown, _) | (_, Known::Unknown) => Known::Unknown,
            (Known::Since(a), Known::Since(b)) => Known::Since(a.min(b)),
            (Known::Since(a), Known::Live) | (Known::Live, Known::Since(a)) => Known::Since(a),
            (Known::Live, Known::Live) => Known::Live,
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

    /// Takes the live ones of a range back to what was known before the last EVENTs.
    pub(crate) fn fall_back(&mut self, range: Range<u32>, closed: Known) {
        self.change(range, |held| if held == Known::Live { closed } else { held });
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
        let of = |span: &Span| match span.known {
            Known::Live => live,
            Known::Since(revision) => revision,
            Known::Unknown => Revision::ZERO,
        };
        self.spans.iter().map(of).min().unwrap_or(live)
    }

    /// What the next of `free` REQUESTs is to ask for, if anything: the first part that
    /// is not live and lies in none of the `busy` ranges. Where there are more such parts
    /// than REQUESTs it reaches on to its share of them, as far as all are held up to a
    /// revision: the live ones between them are asked for as well then.
    pub(crate) fn next_stale<'a>(
        &self,
        busy: impl Iterator<Item = &'a Range<u32>> + Clone,
        free: usize,
    ) -> Option<Span> {
        let first = self.first_stale(0, busy.clone())?;
        let behind = |part: &Span| self.first_stale(part.end, busy.clone());
        let parts = || core::iter::successors(Some(first), behind);
        let count = parts().take(PARTS_MAX).count();
        let share = if count < PARTS_MAX { count.div_ceil(free.max(1)) } else { usize::MAX };
        let bound = busy.clone().map(|range| range.start).filter(|start| *start > first.first);
        let bound = bound.min().unwrap_or(u32::MAX);
        let joined = parts().take(share).take_while(|part| {
            part.end <= bound && part.known.is_revision() && self.are_of_one_range(first, *part)
        });
        // The first is taken as it is, the others only if they can be told with it.
        let mut all = first;
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
        spans.fall_back(40..50, since(7));
        spans.fall_back(45..60, since(9));
        let expected = [
            (0, 40, Known::Live),
            (40, 50, since(7)),
            (50, 60, since(9)),
            (60, 100, Known::Live),
            (200, 300, Known::Live),
        ];
        assert_eq!(list(&spans), expected);
        spans.fall_back(0..u32::MAX, since(11));
        assert!(!spans.spans.iter().any(|span| span.known == Known::Live));
        assert_eq!(spans.watermark(Revision(99)), Revision(7));
    }

    fn any_known() -> impl Strategy<Value = Known> {
        prop_oneof![Just(Known::Live), Just(Known::Unknown), (0..4_u64).prop_map(since)]
    }

    proptest! {
        #[test]
        fn spans_say_of_each_leaf_what_a_list_of_leaves_says(
            steps in vec((0..70_u32, 0..70_u32, any_known(), any::<bool>()), 0..40),
        ) {
            let wanted = [0..10, 20..50, 60..61];
            let mut spans = Spans::new(&wanted, since(0));
            let leaves = || wanted.iter().cloned().flatten();
            let mut model: BTreeMap<u32, Known> = leaves().map(|leaf| (leaf, since(0))).collect();
            for (first, end, known, falls_back) in steps {
                for (leaf, held) in &mut model {
                    *held = match (first..end).contains(leaf) {
                        true if falls_back && *held == Known::Live => known,
                        true if !falls_back => held.stronger(known),
                        _ => *held,
                    };
                }
                match falls_back {
                    true => spans.fall_back(first..end, known),
                    false => spans.learn(first..end, known),
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

    #[test]
    fn parts_are_asked_for_one_by_one_while_there_are_requests_enough() {
        let mut spans = Spans::new(&[0..100, 200..300], Known::Live);
        for (first, revision) in [(10, 5), (30, 4), (50, 6), (70, 5), (210, 3)] {
            spans.fall_back(first..first + 5, since(revision));
        }
        let next = |busy: &[(u32, u32)], free| {
            let part = spans.next_stale(ranges(busy).iter(), free).unwrap();
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
        assert!(spans.next_stale(ranges(&[(0, 300)]).iter(), 1).is_none());
    }

    #[test]
    fn what_is_not_known_by_a_revision_is_asked_for_alone() {
        for known in [Known::Unknown, since(0)] {
            let mut spans = Spans::new(std::slice::from_ref(&(0..100)), Known::Live);
            spans.fall_back(10..20, since(5));
            spans.fall_back(40..50, known);
            spans.fall_back(60..70, since(5));
            let part = |busy: &[(u32, u32)]| {
                let part = spans.next_stale(ranges(busy).iter(), 1).unwrap();
                (part.first, part.end)
            };
            assert_eq!([part(&[]), part(&[(0, 20)])], [(10, 20), (40, 50)]);
        }
    }

    #[test]
    fn too_many_parts_are_asked_for_at_once() {
        let mut spans = Spans::new(std::slice::from_ref(&(0..10_000)), Known::Live);
        (0..100).for_each(|part| spans.fall_back(part * 20..part * 20 + 5, since(7)));
        let part = spans.next_stale([].iter(), 4).unwrap();
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
