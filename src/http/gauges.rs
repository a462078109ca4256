//! The values of the statuses as gauges, at each scrape.

use crate::pipeline::control::{PipelineState, PipelineStatus};
use crate::telemetry::names;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::{AtomicI64, AtomicU64};

type Real = Gauge<f64, AtomicU64>;
type Whole = Gauge<i64, AtomicI64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    pipeline: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPipeline {
    pipeline: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByVersion {
    pipeline: String,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOwner {
    pipeline: String,
    owner: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    pipeline: String,
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStore {
    pipeline: String,
    store: String,
}

const STATES: [(PipelineState, &str); 9] = [
    (PipelineState::Connecting, "connecting"),
    (PipelineState::Standby, "standby"),
    (PipelineState::Snapshotting, "snapshotting"),
    (PipelineState::Live, "live"),
    (PipelineState::Paused, "paused"),
    (PipelineState::AwaitingApproval, "awaiting_approval"),
    (PipelineState::Blocked, "blocked"),
    (PipelineState::Waiting, "waiting"),
    (PipelineState::Stopping, "stopping"),
];

/// Adds the gauges of these statuses. Only the owner serves the figures of a pipeline.
pub(super) fn register(registry: &mut Registry, statuses: &[PipelineStatus]) {
    register_pipelines(registry, statuses);
    let owned: Vec<&PipelineStatus> = statuses.iter().filter(|status| status.state != PipelineState::Standby).collect();
    register_routes(registry, &owned);
    register_stores(registry, statuses);
}

fn register_routes(registry: &mut Registry, statuses: &[&PipelineStatus]) {
    let lag = Family::<ByRoute, Real>::default();
    let quarantined = Family::<ByRoute, Whole>::default();
    let unreadable = Family::<ByRoute, Whole>::default();
    let pairs = Family::<ByRoute, Whole>::default();
    let pending = Family::<ByRoute, Whole>::default();
    let awaiting = Family::<ByRoute, Whole>::default();
    let position = Family::<ByPipeline, Whole>::default();
    let bytes = Family::<ByPipeline, Whole>::default();
    for status in statuses {
        let by = ByPipeline { pipeline: status.pipeline.clone() };
        position.get_or_create(&by).set(whole(status.position));
        bytes.get_or_create(&by).set(whole(status.history.map_or(0, |extent| extent.bytes)));
        for route in &status.routes {
            let by = ByRoute { pipeline: status.pipeline.clone(), route: route.route.clone() };
            lag.get_or_create(&by).set(route.lag_seconds);
            quarantined.get_or_create(&by).set(whole(route.quarantined));
            unreadable.get_or_create(&by).set(whole(route.unreadable));
            pairs.get_or_create(&by).set(whole(route.pairs));
            pending.get_or_create(&by).set(whole(route.pending));
            awaiting.get_or_create(&by).set(whole(route.awaiting_approval));
        }
    }
    registry.register(
        names::LAG_SECONDS,
        "Age of the oldest pending change, or the time for which a source has not been watched",
        lag,
    );
    registry.register(names::QUARANTINED, "Pairs in quarantine", quarantined);
    registry.register(names::UNREADABLE, "Znodes that may not be read, and pairs without a permission", unreadable);
    registry.register(names::PAIRS, "Pairs that are in step", pairs);
    registry.register(names::PENDING, "Pairs with a pending change", pending);
    registry.register(names::AWAITING_APPROVAL, "Deletes that wait for keepstep approve", awaiting);
    registry.register(names::STREAM_POSITION, "Newest position of the stream", position);
    registry.register(names::STREAM_BYTES, "Bytes that the stream takes on disk", bytes);
}

fn register_pipelines(registry: &mut Registry, statuses: &[PipelineStatus]) {
    let build = Family::<ByVersion, Whole>::default();
    let ready = Family::<ByPipeline, Whole>::default();
    let state = Family::<ByState, Whole>::default();
    let epoch = Family::<ByPipeline, Whole>::default();
    let standbys = Family::<ByPipeline, Whole>::default();
    let owner = Family::<ByOwner, Whole>::default();
    for status in statuses {
        let by = ByPipeline { pipeline: status.pipeline.clone() };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        build.get_or_create(&ByVersion { pipeline: status.pipeline.clone(), version }).set(1);
        ready.get_or_create(&by).set(i64::from(u8::from(status.ready)));
        standbys.get_or_create(&by).set(whole(status.standbys));
        // Only the owner knows its epoch.
        if status.epoch > 0 {
            epoch.get_or_create(&by).set(whole(status.epoch));
        }
        if !status.owner.is_empty() {
            let by = ByOwner { pipeline: status.pipeline.clone(), owner: status.owner.clone() };
            owner.get_or_create(&by).set(1);
        }
        for (each, name) in STATES {
            let by = ByState { pipeline: status.pipeline.clone(), state: name.to_owned() };
            state.get_or_create(&by).set(i64::from(u8::from(status.state == each)));
        }
    }
    // A gauge, not an "info": the text format 0.0.4 has no such type, and refuses the whole page.
    registry.register(names::BUILD_INFO, "Which version runs", build);
    registry.register(names::PIPELINE_READY, "1 if the pipeline is ready", ready);
    registry.register(names::PIPELINE_STATE, "1 in the state that the pipeline is in", state);
    registry.register(names::EPOCH, "Epoch of the owner, served by the owner only", epoch);
    registry.register(names::STANDBYS, "Workers that stand by", standbys);
    registry.register(names::OWNER_INFO, "1 for the owner, as this worker knows it", owner);
}

fn register_stores(registry: &mut Registry, statuses: &[PipelineStatus]) {
    let connected = Family::<ByStore, Whole>::default();
    for status in statuses {
        for store in &status.stores {
            let by = ByStore { pipeline: status.pipeline.clone(), store: store.name.clone() };
            connected.get_or_create(&by).set(i64::from(u8::from(store.connected)));
        }
    }
    registry.register(names::STORE_CONNECTED, "1 if the connection stands", connected);
}

/// A count above 2^63 is shown as 2^63; no count here reaches it.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::http::exposition::{Exposition, page};
    use crate::http::fake;
    use crate::telemetry::Metrics;

    #[test]
    fn a_route_shows_its_lag_pairs_and_quarantine() {
        let mut status = fake::status("p");
        if let Some(route) = status.routes.first_mut() {
            route.lag_seconds = 1.5;
            route.pairs = 7;
            route.quarantined = 2;
        }
        let page = page(&Metrics::new(), &[status], Exposition::Plain);
        for series in [
            r#"keepstep_lag_seconds{pipeline="p",route="settings"} 1.5"#,
            r#"keepstep_pairs{pipeline="p",route="settings"} 7"#,
            r#"keepstep_quarantined{pipeline="p",route="settings"} 2"#,
            r#"keepstep_stream_position{pipeline="p"} "#,
            r#"keepstep_epoch{pipeline="p"} 3"#,
            r#"keepstep_standbys{pipeline="p"} "#,
            r#"keepstep_owner_info{pipeline="p",owner=""#,
            r#"keepstep_pipeline_state{pipeline="p",state="live"} 1"#,
            r#"keepstep_build_info{pipeline="p",version=""#,
        ] {
            assert!(page.contains(series), "{series} is not in {page}");
        }
    }

    #[test]
    fn routes_of_one_name_in_two_pipelines_are_two_series() {
        let mut statuses = [fake::status("p"), fake::status("q")];
        for (status, (lag, pairs)) in statuses.iter_mut().zip([(3.0, 4), (1.0, 5)]) {
            if let Some(route) = status.routes.first_mut() {
                route.lag_seconds = lag;
                route.pairs = pairs;
            }
        }
        let page = page(&Metrics::new(), &statuses, Exposition::Plain);
        assert!(page.contains(r#"keepstep_lag_seconds{pipeline="p",route="settings"} 3"#), "{page}");
        assert!(page.contains(r#"keepstep_pairs{pipeline="q",route="settings"} 5"#), "{page}");
    }
}
