//! Everything that is sent, lost, repaired, conflated, dropped or refused.

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[doc = $help:literal])* $field:ident,)* }) => {
        $(#[$doc])*
        ///
        /// Counters only rise; a u64 cannot wrap.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[doc = $help])* pub $field: u64,)* }

        impl $name {
            /// Name, sentence and value of each counter.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($field), concat!($($help),*).trim_ascii(), self.$field),)*]
                    .into_iter()
            }
        }
    };
}

counters! {
    /// What a server counts.
    ServerCounters {
        /// Datagrams that came.
        datagrams_in,
        /// Datagrams dropped because they could not be decoded.
        dropped_malformed,
        /// Datagrams dropped because they belong to another tree, life or layout.
        dropped_foreign,
        /// Datagrams dropped because no session has their id and address.
        dropped_no_session,
        /// HELLOs dropped because the address is not allowed.
        dropped_not_allowed,
        /// INITs dropped because their cookie is wrong or too old.
        dropped_cookie,
        /// INITs dropped because too many came.
        dropped_door_budget,
        /// REQUESTs dropped because the client's budget was used up.
        dropped_request_budget,
        /// Datagrams whose type a server does not take.
        dropped_unexpected,
        /// COOKIEs sent.
        cookies,
        /// Sessions opened.
        sessions_opened,
        /// Sessions ended by a BYE.
        sessions_left,
        /// Sessions ended because their lease ran out.
        sessions_expired,
        /// Half-open sessions given up for newer ones or for their time.
        half_open_dropped,
        /// Clients refused at the door with a reason.
        refused,
        /// Periods that ended.
        periods,
        /// Leaves taken for EVENTs.
        leaves_changed,
        /// Writes that an EVENT never carried because a newer one came in its period.
        conflated,
        /// EVENT datagrams planned, once for each view.
        events,
        /// TICKs planned.
        ticks,
        /// REQUESTs answered.
        requests,
        /// REQUESTs that came with checksums.
        requests_with_checksums,
        /// RESPONSE datagrams planned.
        responses,
        /// Leaves that went into RESPONSEs.
        leaves_repaired,
        /// LAYOUT datagrams sent.
        layouts,
        /// REPORT datagrams applied.
        reports,
        /// REPORT datagrams that had been applied before.
        reports_repeated,
        /// REPORT datagrams that came again while the commit of their leaves was under way.
        reports_waiting,
        /// ACKs planned.
        acks,
        /// REPORT datagrams that could not be written and are not acknowledged.
        reports_failed,
        /// REPORT datagrams dropped because they lie beyond the device's window.
        reports_early,
        /// Leaves written by REPORTs.
        leaves_reported,
        /// Leaves of REPORTs refused.
        leaves_refused,
        /// Times that a client began to hear the multicast group and needs no EVENTs of its own.
        group_joined,
        /// Times that a client went back to EVENTs of its own.
        group_left,
    }
}

counters! {
    /// What a client counts.
    ClientCounters {
        /// Datagrams that came.
        datagrams_in,
        /// Datagrams dropped because they could not be decoded.
        dropped_malformed,
        /// Datagrams dropped because they belong to another tree, life, layout, view or session.
        dropped_foreign,
        /// Datagrams dropped because they came when they make no sense.
        dropped_unexpected,
        /// Sessions opened.
        joins,
        /// Times that the server fell silent or ended the session.
        rejoins,
        /// EVENT datagrams in their order.
        events,
        /// EVENT datagrams that came late or twice.
        events_late,
        /// EVENT datagrams that were missing when a later number came.
        events_lost,
        /// Gaps in the EventNum.
        gaps,
        /// Periods closed.
        periods,
        /// Leaves applied from EVENTs.
        leaves_changed,
        /// Leaves applied from RESPONSEs.
        leaves_repaired,
        /// Leaves not applied because the one held is as new.
        leaves_repeated,
        /// Leaves not applied because the one held is newer, or what came was lost (R27).
        leaves_older,
        /// Leaves that this replica has no room for.
        leaves_refused,
        /// Leaves dropped because their bytes are damaged.
        leaves_damaged,
        /// REQUESTs sent.
        requests,
        /// REQUESTs sent with checksums.
        requests_with_checksums,
        /// REQUESTs whose answer did not come whole in time.
        requests_timed_out,
        /// RESPONSE datagrams taken.
        responses,
        /// RESPONSE datagrams that nobody waits for any more.
        responses_late,
        /// Sessions left because an EVENT had a number that the server never gave.
        false_runs,
        /// Audits of every leaf by checksums that were begun.
        audits,
        /// Periods after which the digest showed a difference.
        digest_mismatches,
        /// Periods after which the digest showed equality.
        digest_matches,
        /// EVENTs and TICKs that came by the multicast group.
        group_datagrams,
        /// Datagrams dropped that came by the multicast group: of another sender, view or type.
        group_foreign,
        /// Times that the multicast group began to be heard.
        group_heard,
        /// Times that nothing came by the multicast group any more.
        group_silent,
    }
}

counters! {
    /// What a device counts.
    DeviceCounters {
        /// Datagrams that came.
        datagrams_in,
        /// Datagrams dropped because they could not be decoded.
        dropped_malformed,
        /// Datagrams dropped because they belong to another tree, life, layout or session.
        dropped_foreign,
        /// Sessions opened.
        joins,
        /// Times that the server fell silent or ended the session.
        rejoins,
        /// REPORT datagrams sent for the first time.
        reports,
        /// REPORT datagrams sent again.
        reports_repeated,
        /// Leaves reported, those that newer Data replaced before they were sent included.
        leaves_reported,
        /// Reports that were never sent because newer Data of their leaf took their place.
        conflated,
        /// Leaves acknowledged.
        leaves_acknowledged,
        /// Leaves that the server refused.
        leaves_refused,
    }
}
