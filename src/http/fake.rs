//! A pipeline that is only a handle, for tests of the endpoints.

use crate::pipeline::control::{
    Command, CommandError, Handle, PipelineState, PipelineStatus, Quarantined, RouteState, RouteStatus, StoreStatus,
};
use crate::stream::Extent;
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};

pub(crate) struct Fake {
    pub(crate) status: PipelineStatus,
    pub(crate) received: Mutex<Vec<Command>>,
    pub(crate) standby: bool,
}

impl Fake {
    pub(crate) fn new(pipeline: &str) -> Arc<Fake> {
        Arc::new(Fake { status: status(pipeline), received: Mutex::new(Vec::new()), standby: false })
    }

    pub(crate) fn received(&self) -> Vec<Command> {
        self.received.lock().map(|received| received.clone()).unwrap_or_default()
    }
}

impl Handle for Fake {
    fn name(&self) -> &str {
        &self.status.pipeline
    }

    fn status(&self) -> PipelineStatus {
        self.status.clone()
    }

    fn quarantine(&self) -> Vec<Quarantined> {
        vec![Quarantined {
            route: "settings".to_owned(),
            zookeeper: Some("/settings/big".to_owned()),
            redis: Some(b"settings:big".to_vec()),
            reason: "too_large".to_owned(),
            detail: "1,500,000 bytes; 1,000,000 are mirrored".to_owned(),
            since_ms: 1_700_000_000_000,
        }]
    }

    fn command(&self, command: Command) -> BoxFuture<'_, Result<String, CommandError>> {
        Box::pin(async move {
            if self.standby {
                return Err(CommandError::NotOwner(format!("{} is owned by host:2", self.name())));
            }
            if let Command::Pause(Some(route), _) = &command
                && !self.status.routes.iter().any(|it| &it.route == route)
            {
                return Err(CommandError::UnknownRoute("the routes are: settings".to_owned()));
            }
            if let Ok(mut received) = self.received.lock() {
                received.push(command);
            }
            Ok("done".to_owned())
        })
    }
}

pub(crate) fn status(pipeline: &str) -> PipelineStatus {
    let store = |name: &str, kind: &str, server: &str| StoreStatus {
        name: name.to_owned(),
        kind: kind.to_owned(),
        connected: true,
        server: server.to_owned(),
        note: String::new(),
    };
    PipelineStatus {
        pipeline: pipeline.to_owned(),
        state: PipelineState::Live,
        note: String::new(),
        owner: "host:1".to_owned(),
        epoch: 3,
        standbys: 1,
        position: 42,
        history: Some(Extent {
            first: 1,
            first_ms: 1_700_000_000_000,
            last: 42,
            full_from: 1,
            full_from_ms: 1_700_000_000_000,
            bytes: 4096,
        }),
        stores: vec![store("zk", "zookeeper", "ZooKeeper 3.9.4"), store("cache", "redis", "Redis 7.2.4")],
        routes: vec![RouteStatus {
            route: "settings".to_owned(),
            flow: "zk <-> cache".to_owned(),
            state: RouteState::Live,
            pairs: 3,
            quarantined: 1,
            unreadable: 0,
            unreadable_names: Vec::new(),
            pending: 0,
            awaiting_approval: 0,
            lag_seconds: 0.0,
        }],
        changes: 42,
        conflicts: 0,
        gaps: 0,
        losses: 0,
        rate: 0.5,
        compared_ms: 1_700_000_000_000,
        ready: true,
        snapshot_done: 3,
    }
}
