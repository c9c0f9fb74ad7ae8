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

/// More spans than this are merged into their weakest: the list stays short
/// whatever a network does.
const SPANS_MAX: usize = 1024;

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
        let mut cut = core::mem::take(&mut self.cut);
        cut.clear();
        for span in &self.spans {
            let first = range.start.clamp(span.first, span.end);
            let end = range.end.clamp(first, span.end);
            let parts = [
                Span { end: first, ..*span },
                Span { first, end, known: span.known.stronger(known) },
                Span { first: end, ..*span },
            ];
            cut.extend(parts.into_iter().filter(|part| part.first < part.end));
        }
        self.cut = core::mem::replace(&mut self.spans, cut);
        self.merge();
    }

    fn merge(&mut self) {
        self.spans.dedup_by(|next, last| {
            let joins = last.end == next.first && last.known == next.known;
            if joins {
                last.end = next.end;
            }
            joins
        });
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

    /// The first part, in or behind `from`, that is not live and lies in none of
    /// the `busy` ranges.
    pub(crate) fn first_stale<'a>(
        &self,
        from: u32,
        busy: impl Iterator<Item = &'a Range<u32>> + Clone,
    ) -> Option<Span> {
        let stale = self.spans.iter().filter(|span| span.known != Known::Live);
        stale.filter(|span| span.end > from).find_map(|span| {
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
    use super::*;

    fn since(revision: u64) -> Known {
        Known::Since(Revision(revision))
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
