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
}
