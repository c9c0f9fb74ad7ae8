//! What must hold in every run. The first thing that does not ends it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::layout::Life;
use crate::layout::Revision;
use crate::sim::leaves::Cell;
use crate::sim::leaves::SimLeaves;
use crate::sim::leaves::StateId;
use crate::sim::leaves::Step;
use crate::sim::places::Place;
use crate::sim::places::leaf_at;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which one, in a few words.
    pub rule: &'static str,
    /// What was seen.
    pub what: String,
}

/// What the checkers know about the origin, over all of its lives.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) broken: Option<Broken>,
    /// Revisions that were given and then lost with the file that held them.
    abandoned: Vec<(Revision, Revision)>,
    /// Revisions that somebody forged.
    forged: BTreeSet<u64>,
    /// Life that began with an older file last.
    restored: Life,
    watermark: (Life, u64),
    /// Newest version of each leaf that a device knows to be written.
    acknowledged: BTreeMap<Place, u64>,
    pub(super) counted: Counted,
}

/// How often each checker had something to look at: one that never looks proves
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Leaves stored by replicas.
    pub leaves_applied: u64,
    /// Verdicts "in sync" that were compared with the server's periods.
    pub verdicts: u64,
    /// EVENTs whose number was followed.
    pub events: u64,
    /// Writes that were looked for in the EVENTs of their period.
    pub writes: u64,
    /// Reports acknowledged and looked for in the origin's tree.
    pub acknowledged: u64,
    /// REQUESTs whose answers were counted.
    pub requests: u64,
    /// Datagrams of unproven addresses whose answers were measured.
    pub unproven: u64,
    /// Losses shown to clients, which have to ask.
    pub losses: u64,
    /// Watermarks compared leaf by leaf with the origin's tree.
    pub claims: u64,
    /// Leaves of RESPONSEs compared with what was asked for.
    pub repaired: u64,
    /// Calls that reserve space or write back and were let fail.
    pub io_errors: u64,
    /// Power losses.
    pub power_losses: u64,
    /// Deaths in the middle of a store.
    pub deaths: u64,
    /// Growths of the origin's tree.
    pub growths: u64,
    /// EVENTs and TICKs that went to the multicast group.
    pub group_sent: u64,
    /// Those that members took, each counted at each.
    pub group_heard: u64,
    /// Times that a member went on without the group.
    pub group_silent: u64,
    /// Quiet times at whose end all were compared.
    pub quiet: u64,
    /// Restarts of the origin, with an older file included.
    pub restarts: u64,
    /// Restarts of the origin with an older file.
    pub restores: u64,
}

impl Checks {
    pub(super) fn fail(&mut self, rule: &'static str, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(Broken { rule, what: what() });
        }
    }

    /// The origin begins a life. What it held before beyond `start` is lost.
    pub(super) fn life_began(&mut self, life: Life, start: Revision, is_older: bool) {
        self.counted.restarts += 1;
        if is_older {
            self.counted.restores += 1;
            self.restored = life;
            self.abandoned.push((start, life.base()));
        }
    }

    /// Whether a revision is of a history that the origin lost, or was forged.
    pub(super) fn is_abandoned(&self, revision: u64) -> bool {
        if self.is_forged(revision) {
            return true;
        }
        let revision = Revision(revision);
        self.abandoned.iter().any(|(from, to)| revision > *from && revision <= *to)
    }

    /// Whether somebody sent a leaf with this revision that the origin never gave.
    pub(super) fn is_forged(&self, revision: u64) -> bool {
        self.forged.contains(&revision)
    }

    /// Somebody sends a leaf with a revision that the origin never gave.
    pub(super) fn forged(&mut self, revision: Revision) {
        self.forged.insert(revision.0);
    }

    /// No leaf goes backwards on a replica, but where the server lost what it held.
    pub(super) fn applied(&mut self, name: &str, steps: &[Step]) {
        self.counted.leaves_applied += steps.len() as u64;
        for step in steps {
            let is_back = step.to.revision < step.from.revision;
            if is_back && !self.is_abandoned(step.from.revision) {
                self.fail("no leaf goes backwards", || {
                    format!("{name}: leaf {} from {:?} to {:?}", step.leaf, step.from, step.to)
                });
            }
        }
    }

    /// No leaf of a device goes backwards at the origin.
    pub(super) fn written(&mut self, steps: &[Step]) {
        for step in steps {
            if step.to.version < step.from.version || step.to.revision <= step.from.revision {
                self.fail("no report is turned back", || {
                    format!("leaf {} from {:?} to {:?}", step.leaf, step.from, step.to)
                });
            }
        }
    }

    /// The watermark never falls within a life of the origin.
    pub(super) fn watermark(&mut self, life: Life, watermark: u64) {
        if self.watermark.0 == life && watermark < self.watermark.1 {
            let before = self.watermark.1;
            self.fail("the watermark never falls", || {
                format!("life {life}: from {before} to {watermark}")
            });
        }
        self.watermark = (life, watermark);
    }

    /// EventNum rises by one with each EVENT of a view.
    pub(super) fn event(&mut self, name: &str, last: &mut BTreeMap<u64, u64>, view: u64, num: u64) {
        self.counted.events += 1;
        let before = last.insert(view, num).unwrap_or(0);
        if num != before + 1 {
            self.fail("event_num rises by one", || {
                format!("{name}: view {view:016x} from {before} to {num}")
            });
        }
    }

    /// Each leaf written in the period is in the EVENTs of those who want it.
    /// Both are ascending.
    pub(super) fn period(&mut self, name: &str, touched: &[u32], planned: &[u32]) {
        self.counted.writes += touched.len() as u64;
        if touched == planned {
            return;
        }
        let first_beside = |of: &[u32], other: &[u32]| {
            of.iter().copied().find(|leaf| other.binary_search(leaf).is_err())
        };
        if let Some(leaf) = first_beside(touched, planned) {
            self.fail("every change flag is accounted for", || {
                format!("{name}: leaf {leaf} was written and is in no EVENT of its period")
            });
        }
        if let Some(leaf) = first_beside(planned, touched) {
            self.fail("every change flag is accounted for", || {
                format!("{name}: leaf {leaf} is in an EVENT and was not written")
            });
        }
    }

    /// A device was told that the origin wrote this.
    pub(super) fn acknowledged(
        &mut self,
        life: Life,
        leaves: &[(Place, u64)],
        origin: Option<&SimLeaves>,
    ) {
        if life < self.restored {
            // Written before the file was replaced by an older one.
            return;
        }
        self.counted.acknowledged += leaves.len() as u64;
        for (leaf, version) in leaves {
            let newest = self.acknowledged.entry(*leaf).or_default();
            *newest = (*newest).max(*version);
        }
        if let Some(origin) = origin {
            self.holds_acknowledged(origin, leaves.iter().map(|(leaf, _)| *leaf));
        }
    }

    /// The origin opened its file again.
    pub(super) fn reopened(&mut self, origin: &SimLeaves, is_older: bool) {
        if is_older {
            for (place, version) in &mut self.acknowledged {
                *version = (*version).min(version_at(origin, *place));
            }
        }
        let all: Vec<Place> = self.acknowledged.keys().copied().collect();
        self.holds_acknowledged(origin, all.into_iter());
    }

    fn holds_acknowledged(&mut self, origin: &SimLeaves, leaves: impl Iterator<Item = Place>) {
        for place in leaves {
            let expected = self.acknowledged.get(&place).copied().unwrap_or(0);
            let found = version_at(origin, place);
            if found < expected {
                self.fail("no acknowledged report is lost", || {
                    format!("{place:?}: version {expected} was acknowledged, {found} is there")
                });
            }
        }
    }

    /// RESPONSEs are no more than the client has credit for.
    pub(super) fn answered(&mut self, name: &str, credit: usize, responses: usize) {
        self.counted.requests += 1;
        if responses > credit {
            self.fail("budgets are kept", || {
                format!("{name}: {responses} RESPONSEs for a credit of {credit}")
            });
        }
    }

    /// A RESPONSE carries what differs and nothing else.
    pub(super) fn repaired(
        &mut self,
        name: &str,
        leaves: &[(u32, Cell)],
        differs: impl Fn(u32, &Cell) -> bool,
    ) {
        self.counted.repaired += leaves.len() as u64;
        if let Some((leaf, cell)) = leaves.iter().find(|(leaf, cell)| !differs(*leaf, cell)) {
            self.fail("a repair costs what differs", || {
                format!("{name}: leaf {leaf} is sent, and was held: {cell:?}")
            });
        }
    }

    /// An address that has proven nothing gets at most 0.2 of what it sent.
    pub(super) fn unproven(&mut self, name: &str, came: usize, went: usize) {
        self.counted.unproven += 1;
        if went * 5 > came {
            self.fail("budgets are kept", || {
                format!("{name}: {went} bytes to an unproven address that sent {came}")
            });
        }
    }
}

fn version_at(origin: &SimLeaves, place: Place) -> u64 {
    leaf_at(origin.tree().layout(), place).map_or(0, |leaf| origin.cell(leaf).version)
}

/// Ends of periods of one server that are remembered. A replica says "in sync" of
/// the last that it was told of, and a process is stopped for 20 s at the most, in which
/// periods of no length end less than 1,000 times a second.
const ENDS_MAX: usize = 32_768;

/// The states of a server at the ends of its periods, over all of its lives.
#[derive(Debug, Default)]
pub(super) struct Ends {
    states: std::collections::VecDeque<StateId>,
    count: u64,
}

impl Ends {
    pub(super) fn push(&mut self, state: StateId) {
        if self.states.len() == ENDS_MAX {
            self.states.pop_front();
        }
        self.states.push_back(state);
        self.count += 1;
    }

    /// Number of the last one.
    pub(super) fn last(&self) -> u64 {
        self.count
    }

    /// Whether a state is that of an end not before `from`; else, whether it was
    /// that of an earlier one.
    pub(super) fn find(&self, state: u128, filter: Option<usize>, from: u64) -> Found {
        let numbered = self.states.iter().rev().zip((0..=self.count).rev());
        for (known, number) in numbered {
            if known.under(filter) == state {
                return if number >= from { Found::Current } else { Found::Stale(number) };
            }
        }
        Found::Never
    }
}

/// Where a state was found among the ends of periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Current,
    Stale(u64),
    Never,
}
