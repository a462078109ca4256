//! The names of all metrics. Every metric of a pipeline has the label `pipeline` besides those
//! given here.

/// Changes recorded on the stream, by route and op.
pub const CHANGES_TOTAL: &str = "keepstep_changes_total";
/// Writes that a store accepted, by store.
pub const WRITES_TOTAL: &str = "keepstep_writes_total";
/// Entries of the conflict log (resolved conflicts, and values that a command replaced), by rule and winner.
pub const CONFLICTS_TOTAL: &str = "keepstep_conflicts_total";
/// Values that were replaced before Keepstep saw them.
pub const COLLAPSED_TOTAL: &str = "keepstep_collapsed_total";
/// Gaps: periods in which a source missed changes.
pub const GAPS_TOTAL: &str = "keepstep_gaps_total";
/// Times in which a store lost data, by store and cause.
pub const LOSSES_TOTAL: &str = "keepstep_losses_total";
/// Pairs in these losses, by store and cause.
pub const LOST_PAIRS_TOTAL: &str = "keepstep_lost_pairs_total";
/// Lookups answered from memory.
pub const CACHE_HITS_TOTAL: &str = "keepstep_cache_hits_total";
/// Lookups that had to ask a store or the stream.
pub const CACHE_MISSES_TOTAL: &str = "keepstep_cache_misses_total";
/// Full comparisons that ended.
pub const COMPARISONS_TOTAL: &str = "keepstep_comparisons_total";
/// Znodes replaced although they had been recreated at the very same version.
pub const RECREATE_OVERWRITES_TOTAL: &str = "keepstep_recreate_overwrites_total";
/// Writes that a store refused because its state had changed since the decision.
pub const REFUSED_TOTAL: &str = "keepstep_refused_total";
/// How long the last full comparison took.
pub const COMPARISON_SECONDS: &str = "keepstep_comparison_seconds";
/// How long a batch took to apply.
pub const APPLY_SECONDS: &str = "keepstep_apply_seconds";

/// Age of the oldest pending change, by route.
pub const LAG_SECONDS: &str = "keepstep_lag_seconds";
/// Pairs in quarantine, by route.
pub const QUARANTINED: &str = "keepstep_quarantined";
/// Znodes that may not be read, and pairs without a permission, by route.
pub const UNREADABLE: &str = "keepstep_unreadable";
/// Pairs that are in step, by route.
pub const PAIRS: &str = "keepstep_pairs";
/// Pairs with a pending change, by route.
pub const PENDING: &str = "keepstep_pending";
/// Deletes that wait for `keepstep approve`, by route.
pub const AWAITING_APPROVAL: &str = "keepstep_awaiting_approval";
/// Epoch of the owner, by pipeline; served by the owner only.
pub const EPOCH: &str = "keepstep_epoch";
/// Workers that stand by, by pipeline.
pub const STANDBYS: &str = "keepstep_standbys";
/// Always 1; the label names the owner of the pipeline.
pub const OWNER_INFO: &str = "keepstep_owner_info";
/// Newest position of the stream, by pipeline.
pub const STREAM_POSITION: &str = "keepstep_stream_position";
/// Bytes that the stream takes on disk, by pipeline.
pub const STREAM_BYTES: &str = "keepstep_stream_bytes";
/// 1 in the state that a pipeline is in, else 0, by pipeline and state.
pub const PIPELINE_STATE: &str = "keepstep_pipeline_state";
/// 1 if the pipeline is ready, else 0, by pipeline.
pub const PIPELINE_READY: &str = "keepstep_pipeline_ready";
/// 1 if the store is connected, else 0, by store.
pub const STORE_CONNECTED: &str = "keepstep_store_connected";
/// Always 1; the label gives the version.
pub const BUILD_INFO: &str = "keepstep_build_info";

/// CPU time of this process.
pub const PROCESS_CPU_SECONDS_TOTAL: &str = "process_cpu_seconds_total";
/// Resident memory of this process.
pub const PROCESS_RESIDENT_MEMORY_BYTES: &str = "process_resident_memory_bytes";
/// Virtual memory of this process.
pub const PROCESS_VIRTUAL_MEMORY_BYTES: &str = "process_virtual_memory_bytes";
/// Open file descriptors.
pub const PROCESS_OPEN_FDS: &str = "process_open_fds";
/// The limit of open file descriptors.
pub const PROCESS_MAX_FDS: &str = "process_max_fds";
/// When this process started, seconds since the epoch.
pub const PROCESS_START_TIME_SECONDS: &str = "process_start_time_seconds";

/// The name under which a counter is registered: the encoder adds `_total` itself.
pub(super) fn stem(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}
