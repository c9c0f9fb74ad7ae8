//! Who gets what, as the threads that send see it: the clients of each view, by lane.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::runtime::handover::Lanes;

/// Views whose lists of addresses are kept: more than a server has by default. With
/// more of them lists are made anew, which costs time and no more.
const LISTS_MAX: usize = 64;

/// The clients of a view, as the senders see them.
#[derive(Debug)]
pub(super) struct List {
    pub(super) all: Vec<SocketAddr>,
    /// Those of each lane.
    pub(super) of_lane: Vec<Vec<SocketAddr>>,
    pub(super) lanes: Lanes,
}

impl List {
    pub(super) fn new(all: &[SocketAddr], lanes: usize) -> List {
        let mut of_lane = vec![Vec::new(); lanes];
        let mut wanted = Lanes::default();
        for address in all {
            let lane = lane_of(*address, lanes);
            of_lane[lane].push(*address);
            wanted = wanted.and(lane);
        }
        List { all: all.to_vec(), of_lane, lanes: wanted }
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
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<(u64, Arc<List>)>);

impl Lists {
    /// The list of a view, made anew if its clients are others now. To compare 4,000
    /// addresses takes some 10 us, a thousandth of sending them one datagram each.
    pub(super) fn of(&mut self, view: u64, all: &[SocketAddr], lanes: usize) -> Arc<List> {
        let found = self.0.iter().position(|(id, _)| *id == view);
        let index = found.unwrap_or_else(|| {
            // The oldest goes: it is that of a view that ended long ago.
            self.0.truncate(LISTS_MAX - 1);
            self.0.insert(0, (view, Arc::new(List::new(all, lanes))));
            0
        });
        let list = &mut self.0[index].1;
        if list.all != all {
            *list = Arc::new(List::new(all, lanes));
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
            let list = List::new(&all, 3);
            let mut lens: Vec<_> = list.of_lane.iter().map(Vec::len).collect();
            lens.sort();
            assert_eq!(lens, [21, 21, 22]);
            // Whoever leaves moves nobody to another lane.
            let fewer = List::new(&all[1..], 3);
            let kept = fewer.of_lane.iter().zip(&list.of_lane);
            assert!(
                kept.into_iter().all(|(fewer, more)| fewer.iter().all(|one| more.contains(one)))
            );
        }
        let one = List::new(&["10.0.0.1:1".parse().unwrap()], 4);
        assert_eq!(one.lanes, Lanes::one(lane_of(one.all[0], 4)));
    }

    #[test]
    fn a_list_is_kept_until_its_clients_are_others() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (one, two) = ([address(1), address(2)], [address(1), address(3)]);
        let mut lists = Lists::default();
        let first = lists.of(7, &one, 2);
        assert!(Arc::ptr_eq(&first, &lists.of(7, &one, 2)));
        assert!(!Arc::ptr_eq(&first, &lists.of(8, &one, 2)), "another view");
        assert_eq!(lists.of(7, &two, 2).all, two);
        for view in 100..300 {
            lists.of(view, &one, 2);
        }
        assert_eq!(lists.0.len(), LISTS_MAX);
    }
}
