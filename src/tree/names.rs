//! Names of leaves: listed ones, held once, and numbered ones, which cost nothing.

use crate::tree::schema_text::NameList;

/// Where a pattern has the number of the leaf.
pub(super) const PLACE: &str = "{n}";

/// Names that count: `before`, the number, `behind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) before: Box<str>,
    pub(super) behind: Box<str>,
    pub(super) first: u32,
}

impl Pattern {
    pub(super) fn name(&self, index: u32) -> String {
        let number = u64::from(self.first) + u64::from(index);
        format!("{}{number}{}", self.before, self.behind)
    }

    fn index(&self, name: &str) -> Option<u32> {
        let digits = name.strip_prefix(&*self.before)?.strip_suffix(&*self.behind)?;
        // One name, one leaf: no sign, no leading zero.
        let canonical = digits == "0" || !digits.starts_with(['0', '+']);
        let number: u64 = digits.parse().ok().filter(|_| canonical)?;
        u32::try_from(number.checked_sub(u64::from(self.first))?).ok()
    }
}

/// Names of the leaves of one parent: a list, then numbers. Leaves that are
/// numbered cost no memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeafNames {
    listed: NameList,
    /// Indexes of the listed names in the order of their names; empty if there is only
    /// one, as where each of many parents lists one.
    sorted: Box<[u32]>,
    pattern: Pattern,
    leaves: u32,
}

impl LeafNames {
    pub(super) fn new(listed: NameList, pattern: Pattern, leaves: u32) -> LeafNames {
        // A list is at most SCHEMA_LEN_MAX long.
        let several = Some(listed.len() as u32).filter(|len| *len > 1).unwrap_or(0);
        let mut sorted: Box<[u32]> = (0..several).collect();
        sorted.sort_unstable_by(|a, b| listed.bytes(*a).cmp(&listed.bytes(*b)));
        LeafNames { listed, sorted, pattern, leaves }
    }

    fn sorted(&self) -> &[u32] {
        if self.listed.len() == 1 { &[0] } else { &self.sorted }
    }

    fn listed(&self, index: u32) -> Option<&str> {
        self.listed.get(index)
    }

    /// A listed name that two leaves would have.
    pub(super) fn repeated(&self) -> Option<&str> {
        let sorted = self.sorted().iter().filter_map(|index| self.listed(*index));
        let mut sorted = sorted.peekable();
        while let Some(name) = sorted.next() {
            if sorted.peek() == Some(&name) || self.numbered(name).is_some() {
                return Some(name);
            }
        }
        None
    }

    /// Index of the leaf that is numbered so.
    fn numbered(&self, name: &str) -> Option<u32> {
        let range = self.listed.len() as u32..self.leaves;
        self.pattern.index(name).filter(|index| range.contains(index))
    }

    /// Name of the leaf at this place in its parent.
    pub(super) fn name(&self, index: u32) -> Option<String> {
        if index >= self.leaves {
            return None;
        }
        Some(self.listed(index).map_or_else(|| self.pattern.name(index), str::to_owned))
    }

    /// Place in its parent of the leaf with this name.
    pub(super) fn index(&self, name: &str) -> Option<u32> {
        let name_at = |index: u32| self.listed.bytes(index).unwrap_or_default();
        let found = self.sorted().binary_search_by(|index| name_at(*index).cmp(name.as_bytes()));
        match found {
            Ok(place) => self.sorted().get(place).copied(),
            Err(_) => self.numbered(name),
        }
    }
}
