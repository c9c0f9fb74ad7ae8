//! Names of leaves: listed ones, held once, and numbered ones, which cost nothing.

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
    /// The listed names, one behind the other.
    text: Box<str>,
    /// Where each listed name ends in `text`.
    ends: Box<[u32]>,
    /// Indexes of the listed names in the order of their names.
    sorted: Box<[u32]>,
    pattern: Pattern,
    leaves: u32,
}

impl LeafNames {
    pub(super) fn new(listed: &[String], pattern: Pattern, leaves: u32) -> LeafNames {
        let mut text = String::with_capacity(listed.iter().map(String::len).sum());
        let mut ends = Vec::with_capacity(listed.len());
        for name in listed {
            text.push_str(name);
            // A schema is at most SCHEMA_LEN_MAX long, and so are its names.
            ends.push(text.len() as u32);
        }
        let mut sorted: Vec<u32> = (0..ends.len() as u32).collect();
        let name = |index: &u32| listed.get(*index as usize);
        sorted.sort_unstable_by(|a, b| name(a).cmp(&name(b)));
        LeafNames { text: text.into(), ends: ends.into(), sorted: sorted.into(), pattern, leaves }
    }

    fn listed(&self, index: u32) -> Option<&str> {
        let index = index as usize;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).unwrap_or(&0);
        self.text.get(*start as usize..end as usize)
    }

    /// A listed name that two leaves would have.
    pub(super) fn repeated(&self) -> Option<&str> {
        let mut sorted = self.sorted.iter().filter_map(|index| self.listed(*index)).peekable();
        while let Some(name) = sorted.next() {
            if sorted.peek() == Some(&name) || self.numbered(name).is_some() {
                return Some(name);
            }
        }
        None
    }

    /// Index of the leaf that is numbered so.
    fn numbered(&self, name: &str) -> Option<u32> {
        let range = self.ends.len() as u32..self.leaves;
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
        let found =
            self.sorted.binary_search_by(|index| self.listed(*index).unwrap_or("").cmp(name));
        match found {
            Ok(place) => self.sorted.get(place).copied(),
            Err(_) => self.numbered(name),
        }
    }
}
