//! Worlds with a planted bug: the checkers must see each of them.

use core::time::Duration;

use crate::sim::options::Faults;
use crate::sim::options::Fixed;
use crate::sim::options::Options;
use crate::sim::outcome::run_with;
use crate::sim::planted::Planted;

/// A world of a minute with the faults that bring a bug to light.
fn world(seed: u64, leaves: u32, faults: Faults) -> Options {
    let leaves = Some(leaves);
    let fixed = Fixed { clients: Some(3), devices: Some(1), leaves, ..Fixed::default() };
    let mut options = Options::draw(seed, Duration::from_secs(60), &fixed);
    options.faults = faults;
    options.members = 0.0;
    options.trouble_s = 30;
    options.write_every_ms = 20;
    options.write_leaves = 3;
    options.datagram_size = 1_200;
    options
}

/// Leaves whose checksums fit one REQUEST.
const FEW: u32 = 40;

/// And more: a REQUEST names the watermark.
const MANY: u32 = 400;

/// Runs some seeds with the bug, which must break one of the rules in each, and without it,
/// where nothing may break.
fn catches(planted: Planted, leaves: u32, rules: &[&str], faults: &Faults) {
    for seed in 1..3 {
        catches_in(planted, &world(seed, leaves, faults.clone()), rules);
    }
}

/// The same of worlds in which all who may are members of a group.
fn catches_in_group(planted: Planted, rule: &str, faults: &Faults) {
    for seed in 1..3 {
        let mut options = world(seed, FEW, faults.clone());
        (options.members, options.relays, options.heartbeat_ms) = (1.0, 0, 250);
        catches_in(planted, &options, &[rule]);
    }
}

fn catches_in(planted: Planted, options: &Options, rules: &[&str]) {
    let healthy = run_with(options, Planted::Nothing, &mut |_| {}).unwrap();
    assert_eq!(healthy.failure.map(|failure| failure.broken), None, "{options}");
    let ill = run_with(options, planted, &mut |_| {}).unwrap();
    let failure = ill.failure.unwrap_or_else(|| panic!("{planted:?} was not seen: {options}"));
    assert!(rules.contains(&failure.broken.rule), "{:?}", failure.broken);
    assert!(failure.trace.len() > 2, "a failure shows what led to it");
}

#[test]
fn leaves_applied_without_comparing_revisions_are_caught() {
    let faults = Faults { reordering: 0.2, late_ms: 300, loss: 0.1, ..Faults::default() };
    catches(Planted::RevisionsIgnored, FEW, &["no leaf goes backwards"], &faults);
}

#[test]
fn a_flag_cleared_after_its_record_was_read_is_caught() {
    let rule = "every change flag is accounted for";
    catches(Planted::FlagClearedLate, FEW, &[rule], &Faults::default());
}

#[test]
fn a_linear_digest_is_caught() {
    let faults = Faults { rot: 2, ..Faults::default() };
    catches(Planted::LinearDigest, FEW, &["in sync means equal"], &faults);
}

#[test]
fn in_sync_before_the_digest_was_compared_is_caught() {
    let faults = Faults { loss: 0.2, ..Faults::default() };
    catches(Planted::InSyncUnproven, FEW, &["in sync means equal"], &faults);
}

#[test]
fn a_report_acknowledged_before_it_is_written_is_caught() {
    catches(
        Planted::AcknowledgedFirst,
        FEW,
        &["no acknowledged report is lost"],
        &Faults::default(),
    );
}

#[test]
fn a_gap_that_is_not_noticed_is_caught() {
    let faults = Faults { loss: 0.1, ..Faults::default() };
    for leaves in [FEW, MANY] {
        catches(Planted::GapIgnored, leaves, &["a difference has a cause"], &faults);
    }
}

#[test]
fn an_answer_ahead_of_the_events_taken_for_the_last_close_is_caught() {
    let faults = Faults { loss: 0.2, ..Faults::default() };
    let rules = ["in sync means equal", "a watermark is true"];
    catches(Planted::AheadTakenForCurrent, MANY, &rules, &faults);
}

#[test]
fn a_watermark_believed_in_another_life_is_caught() {
    let faults = Faults { older_files: 10, ..Faults::default() };
    catches(Planted::LivesConfused, MANY, &["a watermark is true"], &faults);
}

#[test]
fn a_leaf_that_is_never_turned_back_is_caught() {
    let faults = Faults { forged_leaves: 5, ..Faults::default() };
    catches(Planted::OlderNeverTaken, FEW, &["equal at quiet"], &faults);
}

#[test]
fn a_leaf_that_is_turned_back_at_once_is_caught() {
    let faults = Faults { forged_leaves: 5, ..Faults::default() };
    let rule = "an older leaf is taken at the second difference";
    catches(Planted::OlderTakenAtOnce, FEW, &[rule], &faults);
}

#[test]
fn a_loss_that_nobody_asks_for_is_caught() {
    let faults = Faults { loss: 0.1, ..Faults::default() };
    catches(Planted::LossNotAsked, FEW, &["a loss is asked for"], &faults);
}

#[test]
fn a_repair_of_everything_is_caught() {
    let faults = Faults { loss: 0.1, ..Faults::default() };
    catches(Planted::AllAskedFor, MANY, &["a repair costs what differs"], &faults);
}

#[test]
fn a_member_that_takes_the_events_of_any_view_is_caught() {
    let faults = Faults { group_strangers: 2, ..Faults::default() };
    let rule = "what is not of the view changes nothing";
    catches_in_group(Planted::ViewNotChecked, rule, &faults);
}

#[test]
fn a_member_that_does_not_notice_that_it_is_deaf_is_caught() {
    let faults = Faults { deaf: 5, ..Faults::default() };
    let rule = "a member says what it hears";
    catches_in_group(Planted::HeardForEver, rule, &faults);
}

#[test]
fn a_server_that_forgets_those_beside_the_group_is_caught() {
    let rule = "EVENTs go to who asked for them";
    catches_in_group(Planted::OwnLeftOut, rule, &Faults::default());
}

#[test]
fn a_server_that_names_its_group_to_those_of_other_views_is_caught() {
    let rule = "WELCOME names the group of the view";
    for planted in [Planted::GroupNamedToAll, Planted::GroupNotNamed] {
        catches_in_group(planted, rule, &Faults::default());
    }
}

/// Not a bug: the seam by which bugs are planted lets processes die in mid-store.
#[test]
fn processes_that_die_in_the_middle_of_a_store_break_nothing() {
    let mut deaths = 0;
    for seed in 1..7 {
        let faults = Faults { loss: 0.05, growths: 10, client_restarts: 10, ..Faults::default() };
        let mut options = world(seed, FEW, faults);
        options.relays = 1;
        let outcome = run_with(&options, Planted::DiesInAStore, &mut |_| {}).unwrap();
        assert_eq!(outcome.failure.map(|failure| failure.broken), None, "{options}");
        deaths += outcome.done.counted.deaths;
    }
    assert!(deaths > 20, "{deaths}");
}
