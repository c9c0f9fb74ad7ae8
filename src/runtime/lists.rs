//! Who gets what, as the threads that send see it: the clients of each view, by lane.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::runtime::handover::Lanes;

/// Views whose lists of addresses are kept: more than a server has by default. With
/// more of them lists are made anew, which costs time and no more.
const LISTS_MAX: usize = 64;

/// Whether what goes to the clients of a view goes to its group, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InGroup {
    /// Somebody listens to the group.
    Listened,
    /// There is none, or nobody listens.
    #[default]
    No,
}

/// The clients of a view, as the senders see them.
#[derive(Debug)]
pub(super) struct List {
    /// All addresses, that of the group among them.
    all: Vec<SocketAddr>,
    pub(super) group: InGroup,
    /// Addresses in the lanes.
    pub(super) count: usize,
    /// Those of each lane.
    pub(super) of_lane: Vec<Vec<SocketAddr>>,
    pub(super) lanes: Lanes,
}

impl List {
    /// Nobody.
    pub(super) fn empty() -> List {
        List::new(&[], 0, None)
    }

    /// A list of these addresses, of which `group` is in no lane.
    fn new(all: &[SocketAddr], lanes: usize, group: Option<SocketAddr>) -> List {
        let mut list = List {
            all: all.to_vec(),
            group: InGroup::No,
            count: 0,
            of_lane: vec![Vec::new(); lanes],
            lanes: Lanes::default(),
        };
        all.iter().for_each(|address| match Some(*address) == group {
            true => list.group = InGroup::Listened,
            false => list.add(*address, lane_of(*address, lanes)),
        });
        list
    }

    fn add(&mut self, address: SocketAddr, lane: usize) {
        self.of_lane[lane].push(address);
        self.lanes = self.lanes.and(lane);
        self.count += 1;
    }
}

/// The lane of an address: any, but always the same. Ports and addresses that follow
/// one another take the lanes in turns.
pub(super) fn lane_of(address: SocketAddr, lanes: usize) -> usize {
    let host = match address.ip() {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.segments().iter().fold(0, |sum, part| sum + u64::from(*part)),
    };
    ((host + u64::from(address.port())) % lanes as u64) as usize
}

/// The lists of all views, by the view's id.
#[derive(Debug)]
pub(super) struct Lists {
    kept: Vec<(u64, Arc<List>)>,
    lanes: usize,
    group: Option<SocketAddr>,
}

impl Lists {
    /// Lists of addresses for so many lanes. `group` is no client.
    pub(super) fn new(lanes: usize, group: Option<SocketAddr>) -> Lists {
        Lists { kept: Vec::new(), lanes, group }
    }

    /// The list of a view, made anew if its clients are others now. To compare 4,000
    /// addresses takes some 10 us, a thousandth of sending them one datagram each.
    pub(super) fn of(&mut self, view: u64, all: &[SocketAddr]) -> Arc<List> {
        let Lists { kept, lanes, group } = self;
        let found = kept.iter().position(|(id, _)| *id == view);
        let index = found.unwrap_or_else(|| {
            // The oldest goes: it is that of a view that ended long ago.
            kept.truncate(LISTS_MAX - 1);
            kept.insert(0, (view, Arc::new(List::new(all, *lanes, *group))));
            0
        });
        let list = &mut kept[index].1;
        if list.all != all {
            *list = Arc::new(List::new(all, *lanes, *group));
        }
        Arc::clone(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_lane_and_neighbours_take_turns() {
        for base in ["10.0.0.1:40000", "[2001:db8::1]:40000"] {
            let base: SocketAddr = base.parse().unwrap();
            let ports = (0..64).map(|port| SocketAddr::new(base.ip(), base.port() + port));
            let all: Vec<_> = ports.collect();
            let list = List::new(&all, 3, None);
            let mut lens: Vec<_> = list.of_lane.iter().map(Vec::len).collect();
            lens.sort();
            assert_eq!(lens, [21, 21, 22]);
            // Whoever leaves moves nobody to another lane.
            let fewer = List::new(&all[1..], 3, None);
            let kept = fewer.of_lane.iter().zip(&list.of_lane);
            assert!(
                kept.into_iter().all(|(fewer, more)| fewer.iter().all(|one| more.contains(one)))
            );
        }
        let one = List::new(&["10.0.0.1:1".parse().unwrap()], 4, None);
        assert_eq!(one.lanes, Lanes::one(lane_of(one.all[0], 4)));
    }

    #[test]
    fn a_list_is_kept_until_its_clients_are_others() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (one, two) = ([address(1), address(2)], [address(1), address(3)]);
        let mut lists = Lists::new(2, None);
        let first = lists.of(7, &one);
        assert!(Arc::ptr_eq(&first, &lists.of(7, &one)));
        assert!(!Arc::ptr_eq(&first, &lists.of(8, &one)), "another view");
        assert_eq!(lists.of(7, &two).all, two);
        for view in 100..300 {
            lists.of(view, &one);
        }
        assert_eq!(lists.kept.len(), LISTS_MAX);
    }

    #[test]
    fn a_group_is_in_no_lane_and_counts_as_nobody() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let group = SocketAddr::from(([239, 1, 2, 3], 4_721));
        let mut lists = Lists::new(2, Some(group));
        let list = lists.of(7, &[address(1), group, address(2)]);
        assert_eq!((list.group, list.count), (InGroup::Listened, 2));
        assert_eq!(list.of_lane.concat().len(), 2);
        assert!(!list.of_lane.concat().contains(&group));
        let alone = lists.of(7, &[group]);
        let expected = (InGroup::Listened, 0, Lanes::default());
        assert_eq!((alone.group, alone.count, alone.lanes), expected);
        let without = lists.of(7, &[address(1)]);
        assert_eq!((without.group, without.count), (InGroup::No, 1));
    }
}
