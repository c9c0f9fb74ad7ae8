//! Bugs planted to see them caught.

/// The bug of a run. Outside of this crate's own tests there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Planted {
    /// The code as it is.
    #[default]
    Nothing,
    /// Leaves are applied without comparing revisions.
    #[cfg(test)]
    RevisionsIgnored,
    /// A ChangeFlag is cleared after its record was read.
    #[cfg(test)]
    FlagClearedLate,
    /// The digest is a linear sum, as that of CRCs.
    #[cfg(test)]
    LinearDigest,
    /// A replica says "in sync" before its digest was compared.
    #[cfg(test)]
    InSyncUnproven,
    /// A report is acknowledged before it is written.
    #[cfg(test)]
    AcknowledgedFirst,
    /// No bug, and no promise is broken: processes die in the middle of a store.
    #[cfg(test)]
    DiesInAStore,
    /// A gap in the EventNums is not noticed.
    #[cfg(test)]
    GapIgnored,
    /// A RESPONSE of a period whose EVENTs have not come is taken for the state of the
    /// last close.
    #[cfg(test)]
    AheadTakenForCurrent,
    /// A watermark is believed in whatever life it was written down.
    #[cfg(test)]
    LivesConfused,
    /// An older leaf is never taken, though digests differ again and again.
    #[cfg(test)]
    OlderNeverTaken,
    /// An older leaf is taken when the digests differ for the first time.
    #[cfg(test)]
    OlderTakenAtOnce,
    /// A loss that was noticed is not asked for.
    #[cfg(test)]
    LossNotAsked,
    /// Everything is asked for where the watermark would do.
    #[cfg(test)]
    AllAskedFor,
    /// A member takes an EVENT or TICK of any view for one of its own.
    #[cfg(test)]
    ViewNotChecked,
    /// A member that heard the group once says so for ever.
    #[cfg(test)]
    HeardForEver,
    /// WELCOME names the group to whoever joins, whatever its view.
    #[cfg(test)]
    GroupNamedToAll,
    /// WELCOME names the group to nobody.
    #[cfg(test)]
    GroupNotNamed,
    /// A server with members sends to the group alone.
    #[cfg(test)]
    OwnLeftOut,
}
