//! Members of the multicast group in the world: joined and driven as the product's mirror
//! does it, and what they say of the group held against what came (R46 to R49).
//!
//! The account shares nothing with the client but the datagrams and the clock.

use core::time::Duration;

use crate::layout::Digest;
use crate::layout::Revision;
use crate::sim::network::Cargo;
use crate::sim::network::serving_port;
use crate::sim::node::group_address;
use crate::sim::random::Seeded;
use crate::sim::witness::is_for;
use crate::sim::witness::is_type;
use crate::sim::world::World;
use crate::sync::Client;
use crate::sync::Joined;
use crate::sync::Leaves;
use crate::sync::Time;
use crate::wire;
use crate::wire::Datagram;
use crate::wire::DatagramType;
use crate::wire::Flags;
use crate::wire::Header;

/// Heartbeats without a datagram of the group after which it is given up (R48).
const SILENCE_HEARTBEATS: u32 = 4;

/// Time after which it is tried again (R48).
const TRY_AGAIN: Duration = Duration::from_secs(30);

const BOTH: u16 = Flags::GROUP_WANTED | Flags::GROUP_HEARD;

/// What is known of a process and the group.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// Whether its socket is open: as long as the process lives.
    pub(super) is_member: bool,
    /// The session whose WELCOME was looked at last.
    followed: Option<u64>,
    account: Account,
}

/// What a client heard and said in one session.
#[derive(Debug, Default)]
struct Account {
    session_id: u64,
    heartbeat: Duration,
    listens: bool,
    /// When the last EVENT or TICK came by the group.
    heard: Option<Time>,
    /// Since when it is asked for and was not heard.
    wanted: Option<Time>,
    /// When it was given up.
    silent: Option<Time>,
    /// What the last empty REQUEST said.
    told: u16,
    /// When a change was told last that was not answered.
    unanswered: Option<Time>,
}

impl Account {
    fn of(joined: &Joined) -> Account {
        let (session_id, heartbeat) = (joined.session_id, joined.heartbeat);
        Account { session_id, heartbeat, ..Account::default() }
    }

    fn silence(&self) -> Duration {
        self.heartbeat * SILENCE_HEARTBEATS
    }

    /// Until when it is taken to hear the group, if it ever did.
    fn hears_until(&self) -> Option<Time> {
        self.heard.map(|heard| heard.after(self.silence()))
    }

    /// Something of the view came by the group.
    fn hears(&mut self, now: Time) {
        self.heard = Some(now);
        (self.wanted, self.silent) = (None, None);
    }

    /// A REQUEST goes: what is wrong with its flags.
    fn says(&mut self, now: Time, flags: u16, is_empty: bool) -> Option<&'static str> {
        if is_empty {
            if flags != self.told || self.unanswered.is_some() {
                self.unanswered = Some(now);
            }
            self.told = flags;
        }
        let until = self.hears_until();
        match flags {
            _ if !self.listens => (flags != 0).then_some("listens to no group"),
            BOTH => until.is_none_or(|until| now > until).then_some("hears nothing"),
            _ if until.is_some_and(|until| now < until) => Some("hears the group"),
            Flags::GROUP_WANTED => self.says_wanted(now),
            0 => self.says_nothing(now),
            _ => Some("hears what it does not want"),
        }
    }

    fn says_wanted(&mut self, now: Time) -> Option<&'static str> {
        let is_early = self.silent.is_some_and(|silent| now < silent.after(TRY_AGAIN));
        let since = *self.wanted.get_or_insert(now);
        if is_early {
            return Some("tries again too early");
        }
        self.silent = None;
        (now > since.after(self.silence())).then_some("has waited for long enough")
    }

    fn says_nothing(&mut self, now: Time) -> Option<&'static str> {
        let waited = self.wanted.map(|wanted| wanted.after(self.silence()));
        // What ended last.
        let ended = waited.max(self.hears_until()).filter(|ended| *ended <= now);
        if self.silent.is_none() && ended.is_none() {
            return Some("has not waited for the group");
        }
        self.silent = self.silent.or(ended);
        self.wanted = None;
        None
    }

    /// What should have been told by now.
    fn is_overdue(&self, now: Time) -> Option<&'static str> {
        let until = self.hears_until();
        if until.is_some_and(|until| now < until) && self.told != BOTH {
            return Some("has not told that it hears the group");
        }
        if until.is_some_and(|until| now > until) && self.told & Flags::GROUP_HEARD != 0 {
            return Some("has not told that the group is silent");
        }
        let is_due = |told: &Time| now > told.after(self.heartbeat);
        self.unanswered.filter(is_due).map(|_| "has not told it again")
    }
}

/// What nothing that is foreign may change: session, verdict, watermark, timers, leaves.
type State = (Option<Joined>, bool, Revision, Option<Time>, Option<Digest>);

fn state(client: &Client, tree: Option<&impl Leaves>) -> State {
    let (joined, digest) = (client.joined().copied(), tree.map(Leaves::digest));
    (joined, client.is_in_sync(), client.watermark(), client.poll_timeout(), digest)
}

/// Whether this is an EVENT or TICK of the session's view.
fn is_of_view(joined: &Joined, bytes: &[u8]) -> bool {
    let is_ours = |header: &Header| {
        header.tree_id.get() == joined.tree_id.0
            && header.life.get() == joined.life.0
            && header.layout_hash.get() == joined.layout_hash.0
            && header.channel.get() == joined.view_id
    };
    matches!(wire::decode(bytes), Ok((header, Datagram::Event(_) | Datagram::Tick(_)))
        if is_ours(header))
}

impl World {
    /// Draws who joins the group, where there is one.
    pub(super) fn draw_members(&mut self, random: &mut Seeded) {
        if self.options.has_group() {
            for node in &mut self.nodes {
                node.wants_group = random.chance(self.options.members);
            }
            self.net.reach_group();
        }
    }

    /// Nothing comes to a member by the group for a while, and all else does: as a switch
    /// that has forgotten its members.
    pub(super) fn deafen_one(&mut self) {
        let members: Vec<usize> =
            (0..self.nodes.len()).filter(|index| self.nodes[*index].wants_group).collect();
        if members.is_empty() {
            return;
        }
        let index = self.random.pick(&members);
        let until = self.now.after(self.random.millis(500, 90_000));
        self.net.deafen(index, until);
        self.trace.note(self.now, format!("deafen {} until {}", self.names[index], until.0));
    }

    /// Joins the group of a session that is new, as the mirror does between two turns.
    pub(super) fn follow_group(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let following = &mut node.following;
        let Some(client) = following.client.as_mut().filter(|_| node.wants_group) else { return };
        let joined = client.joined().copied();
        let session_id = joined.map(|joined| joined.session_id);
        if core::mem::replace(&mut following.hearing.followed, session_id) == session_id {
            return;
        }
        let Some(joined) = joined.filter(|joined| joined.group.is_some()) else { return };
        assert_eq!(joined.group, Some(group_address()), "there is one group");
        client.listen(self.now);
        following.hearing.is_member = true;
        following.hearing.account = Account { listens: true, ..Account::of(&joined) };
    }

    /// Something for the socket by which a process hears the group.
    pub(super) fn member_hears(&mut self, index: usize, from: u16, cargo: &Cargo) {
        let Cargo::Datagram { bytes, told } = cargo else { return };
        let node = &mut self.nodes[index];
        let is_server = from == serving_port(node.upstream);
        let following = &mut node.following;
        let Some(client) = &mut following.client else { return };
        let account = &mut following.hearing.account;
        let is_of_session = |joined: &&Joined| joined.session_id == account.session_id;
        let listening = client.joined().filter(is_of_session).filter(|_| account.listens);
        let is_ours = is_server && listening.is_some_and(|joined| is_of_view(joined, bytes));
        let was_told = told.filter(|_| is_ours && is_for(client, bytes));
        let before = state(client, node.leaves.as_ref());
        let now = self.now;
        #[cfg(test)]
        let bytes = &crate::sim::bent::heard_by_group(self.planted, client, bytes);
        if is_server {
            client.handle_group_datagram(now, bytes, node.leaves.as_mut());
        } else {
            client.note_group_stranger();
        }
        let is_changed = state(client, node.leaves.as_ref()) != before;
        if is_ours && client.joined().is_some_and(|joined| joined.session_id == account.session_id)
        {
            account.hears(now);
            following.told = following.told.max(was_told.unwrap_or(0));
            self.checks.counted.group_heard += 1;
        } else if is_changed && !is_ours && !following.wakes {
            let name = &self.names[index];
            self.checks.fail("what is not of the view changes nothing", || {
                format!("{name}: {}", wire::Pretty(bytes))
            });
        }
        if self.bury(index) {
            return;
        }
        self.look_at_steps(index);
        let came = is_ours.then_some(&bytes[..]);
        self.witness(index, came);
        self.drain_client(index);
    }

    /// An empty REQUEST was answered.
    pub(super) fn look_at_answer(&mut self, index: usize, bytes: &[u8]) {
        if !is_type(bytes, DatagramType::Response) {
            return;
        }
        let following = &mut self.nodes[index].following;
        if let Ok((header, Datagram::Response(body, _))) = wire::decode(bytes)
            && body.request_id.get() == 0
            && header.channel.get() == following.hearing.account.session_id
        {
            following.hearing.account.unanswered = None;
        }
    }

    /// Looks at what a REQUEST says of the group.
    pub(super) fn look_at_flags(&mut self, index: usize, flags: Flags, is_empty: bool) {
        let following = &mut self.nodes[index].following;
        let joined = following.client.as_ref().and_then(Client::joined);
        let account = &mut following.hearing.account;
        if let Some(joined) = joined.filter(|joined| joined.session_id != account.session_id) {
            *account = Account::of(joined);
        }
        let wrong = account.says(self.now, flags.0 & BOTH, is_empty);
        if let Some(what) = wrong.filter(|_| !following.wakes) {
            let name = &self.names[index];
            self.checks.fail("a member says what it hears", || {
                format!("{name}: REQUEST with flags {:#x}, and it {what}", flags.0)
            });
        }
    }

    /// What a member should have told by now.
    pub(super) fn look_at_silence(&mut self, index: usize) {
        let following = &self.nodes[index].following;
        let is_there = following.client.as_ref().is_some_and(|client| {
            let session_id = client.joined().map(|joined| joined.session_id);
            client.is_attached() && session_id == Some(following.hearing.account.session_id)
        });
        if !is_there || following.wakes {
            return;
        }
        if let Some(what) = following.hearing.account.is_overdue(self.now) {
            let name = &self.names[index];
            self.checks.fail("a member says what it hears", || format!("{name}: it {what}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(250);
    const WANTED: u16 = Flags::GROUP_WANTED;

    fn at(ms: u64) -> Time {
        Time::START.after(Duration::from_millis(ms))
    }

    fn listening() -> Account {
        Account { heartbeat: HEARTBEAT, listens: true, ..Account::default() }
    }

    #[test]
    fn what_was_heard_is_to_be_said_for_four_heartbeats_and_no_longer() {
        let mut account = listening();
        assert_eq!(account.says(at(0), WANTED, true), None);
        account.hears(at(100));
        assert_eq!(account.is_overdue(at(100)), Some("has not told that it hears the group"));
        assert_eq!(account.says(at(100), WANTED, true), Some("hears the group"));
        assert_eq!(account.says(at(100), BOTH, true), None);
        account.unanswered = None;
        assert_eq!(account.is_overdue(at(1_099)), None);
        assert_eq!(account.says(at(1_101), BOTH, true), Some("hears nothing"));
        account.unanswered = None;
        assert_eq!(account.is_overdue(at(1_101)), Some("has not told that the group is silent"));
        assert_eq!(account.says(at(1_101), 0, true), None);
        assert_eq!(
            account.says(at(1_101), Flags::GROUP_HEARD, false),
            Some("hears what it does not want")
        );
        let mut deaf = Account { listens: false, ..listening() };
        assert_eq!(deaf.says(at(0), WANTED, true), Some("listens to no group"));
    }

    #[test]
    fn a_group_is_waited_for_given_up_and_tried_again_after_thirty_seconds() {
        let mut account = listening();
        assert_eq!(account.says(at(0), 0, true), Some("has not waited for the group"));
        assert_eq!(account.says(at(0), WANTED, true), None);
        assert_eq!(account.says(at(999), 0, true), Some("has not waited for the group"));
        assert_eq!(account.says(at(1_001), WANTED, true), Some("has waited for long enough"));
        assert_eq!(account.says(at(1_001), 0, true), None);
        assert_eq!(account.says(at(30_999), WANTED, true), Some("tries again too early"));
        assert_eq!(account.says(at(31_000), WANTED, true), None);
    }

    #[test]
    fn a_change_is_told_again_until_it_is_answered() {
        let mut account = listening();
        account.says(at(0), WANTED, true);
        assert_eq!(account.is_overdue(at(250)), None);
        assert_eq!(account.is_overdue(at(251)), Some("has not told it again"));
        account.says(at(251), WANTED, true);
        assert_eq!(account.is_overdue(at(300)), None);
        account.unanswered = None;
        assert_eq!(account.is_overdue(at(900)), None);
        // One that only renews the lease is not repeated.
        account.says(at(950), WANTED, true);
        assert_eq!(account.is_overdue(at(1_400)), None);
    }
}
