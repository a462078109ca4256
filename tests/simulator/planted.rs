//! Faults that are planted, to see whether the simulator finds them: in the shipped code (`planted!` in `src/failpoint.rs`), and in the
//! doubles, which then leave out a rule that they have from the shipped scripts.

use keepstep_doubles::redis::server::Kindness;

/// A fault of the code, or of the scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    Code(&'static str),
    Script(Kindness),
}

impl Planted {
    /// All of them, by name.
    pub const ALL: &[(&str, Planted)] = &[
        ("loser", Planted::Code("a loser is not recorded")),
        ("journal", Planted::Code("the journal is not completed")),
        ("epoch", Planted::Code("the epoch is not checked in ZooKeeper")),
        ("hint", Planted::Code("a hint during a round is dropped")),
        ("gap", Planted::Code("a gap is not compared")),
        ("unsynced", Planted::Code("records are acknowledged unsynced")),
        ("folder", Planted::Code("only the innermost folder is durable")),
        ("evicted", Planted::Code("evictions are not noticed")),
        ("replaced", Planted::Code("another data set is not noticed")),
        ("command", Planted::Code("a command does not record what it replaces")),
        ("command-foreign", Planted::Code("a command does not look whose the stores are")),
        ("diff", Planted::Code("diff does not scan the keys")),
        ("unpublished", Planted::Code("a change that was recorded before is not published")),
        ("republished", Planted::Code("a change that is restored is published again")),
        ("message", Planted::Code("a message is what was decided, and not what was recorded")),
        ("guard", Planted::Code("deletes that rounds find are not guarded")),
        ("sizes", Planted::Code("sizes are not counted")),
        ("remedy", Planted::Code("a fence is asked again")),
        ("watermark", Planted::Code("the watermark runs ahead")),
        ("unwritten", Planted::Code("an unwritten change is forgotten")),
        ("answer", Planted::Code("a lost answer counts as a refusal")),
        ("script-epoch", Planted::Script(Kindness::IgnoresEpochs)),
        ("script-raise", Planted::Script(Kindness::ReadsWithoutRaising)),
        ("script-sidecar", Planted::Script(Kindness::IgnoresSidecars)),
        ("script-nonce", Planted::Script(Kindness::IgnoresNonces)),
        ("script-value", Planted::Script(Kindness::IgnoresValues)),
        ("script-remembers", Planted::Script(Kindness::RemembersFormerOwners)),
        ("script-milestone", Planted::Script(Kindness::PutsEveryMilestone)),
    ];

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Planted> {
        Planted::ALL.iter().find(|(own, _)| *own == name).map(|(_, planted)| *planted)
    }
}
