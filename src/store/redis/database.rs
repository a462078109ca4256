//! One pipeline's view of the database: how its commands and scripts reach the server, and what it
//! knows of the data set.

use super::access::Target;
use super::connections::{Commands, Connections, ServerInfo};
use super::fault::{explain, is_broken, is_replica, may_be_too_large};
use super::info::Info;
use super::line::{Cmd, RedisError, Value};
use super::lineage::{Lineage, Shown};
use super::own;
use super::script::Script;
use super::settings::Settings;
use super::slot::Buckets;
use crate::env::{self, lock};
use crate::store::request::Fault;
use crate::store::{FailureKind, KeyspaceFacts, StoreError};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// See the module.
pub(super) struct Database {
    pub(super) settings: Settings,
    pub(super) target: Target,
    pub(super) connections: Arc<Connections>,
    pub(super) buckets: Buckets,
    commands: Mutex<Option<Arc<Commands>>>,
    /// The epoch of this owner, which each script carries.
    pub(super) epoch: AtomicU64,
    nonce: AtomicU64,
    pub(super) lineage: Mutex<Lineage>,
    pub(super) facts: Mutex<Arc<KeyspaceFacts>>,
    /// Why a key that vanishes unseen counts as lost, as logged last.
    logged_doubt: Mutex<Option<&'static str>>,
    /// It was logged that PUBLISH is refused; once is enough.
    pub(super) publish_refused: AtomicBool,
    /// Something was written since the canary was last changed.
    pub(super) has_written: AtomicBool,
}

impl Database {
    pub(super) fn new(settings: Settings, connections: Arc<Connections>) -> Database {
        Database {
            target: Target { name: settings.name.clone(), access: connections.access.clone() },
            buckets: Buckets::new(&settings.pipeline),
            lineage: Mutex::new(Lineage::new(settings.sidecars)),
            settings,
            connections,
            commands: Mutex::new(None),
            epoch: AtomicU64::new(0),
            // Nonces need only differ from those of earlier incarnations of a bucket: a random beginning
            // and a counter do.
            nonce: AtomicU64::new(env::random::number() >> 1),
            facts: Mutex::default(),
            logged_doubt: Mutex::new(None),
            publish_refused: AtomicBool::new(false),
            has_written: AtomicBool::new(false),
        }
    }

    pub(super) fn place(&self) -> String {
        self.target.place()
    }

    /// A number that was not used before.
    pub(super) fn nonce(&self) -> u64 {
        self.nonce.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn explain(&self, error: &RedisError) -> StoreError {
        explain(&self.target, error)
    }

    pub(super) fn fenced(&self) -> StoreError {
        StoreError::fenced(FailureKind::Owner, format!("{}: a newer owner has written here", self.place()))
    }

    pub(super) fn replaced(&self) -> StoreError {
        StoreError::away(FailureKind::Identity, format!("{}: the data set was replaced meanwhile", self.place()))
    }

    /// A script's answer has another form than that of the script.
    pub(super) fn unexpected(&self, what: &str) -> StoreError {
        StoreError::away(FailureKind::Protocol, format!("{}: a script answered {what}", self.place()))
    }

    /// The command connection, made anew if the last one broke. What it learned of the server is
    /// noted first.
    pub(super) async fn connection(&self) -> Result<Arc<Commands>, StoreError> {
        if let Some(commands) = lock(&self.commands).as_ref().filter(|commands| commands.is_usable()) {
            return Ok(Arc::clone(commands));
        }
        let opened = self.connections.commands().await;
        let commands = opened.map_err(|error| self.explain(&error))?;
        if let Err(error) = commands.server.info.check(&self.place()) {
            commands.give_up();
            return Err(error);
        }
        if self.observe_info(&commands.server, true).replaced.is_some() {
            lock(&self.lineage).is_unreported = true;
        }
        *lock(&self.commands) = Some(Arc::clone(&commands));
        Ok(commands)
    }

    /// Lets go of the command connection.
    pub(super) fn disconnect(&self) {
        *lock(&self.commands) = None;
    }

    /// Notes what the server reports of itself, unless something newer is known. `is_new`: on a
    /// connection that was just made.
    pub(super) fn observe_info(&self, server: &ServerInfo, is_new: bool) -> Shown {
        let mut lineage = lock(&self.lineage);
        if server.number <= lineage.newest_info {
            return Shown::default();
        }
        lineage.newest_info = server.number;
        let noted = lineage.note(&server.info, is_new);
        drop(lineage);
        self.warn_of_doubt(&server.info);
        let mut facts = lock(&self.facts);
        let facts = Arc::make_mut(&mut facts);
        facts.server.clone_from(&server.info.server);
        server.info.replication_id().clone_into(&mut facts.replication_id);
        facts.replication_offset = server.info.replication_offset;
        noted
    }

    /// Waits until the first so many doubts about the data set were looked into, for a second at
    /// most: the source does it at once.
    pub(super) async fn settled(&self, doubts: u64) {
        let looked = async {
            while !lock(&self.lineage).is_settled(doubts) {
                env::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = env::timeout(Duration::from_secs(1), looked).await;
    }

    /// Logs why a key that vanishes unseen cannot be distinguished from a lost one, once for each
    /// reason.
    fn warn_of_doubt(&self, info: &Info) {
        let why = info.why_losses_look_like_deletes();
        if std::mem::replace(&mut *lock(&self.logged_doubt), why) != why
            && let Some(why) = why
        {
            let place = self.place();
            tracing::warn!(
                "{place}: {why}; a key that vanishes while no worker is connected counts as lost, not as deleted"
            );
        }
    }

    /// Shows a sentence on a key of ours that something else has written and that holds no change
    /// back, and logs it when it is new. Empty: there is none.
    pub(super) fn report_overwritten(&self, what: String) {
        let mut facts = lock(&self.facts);
        if facts.overwritten == what {
            return;
        }
        let pipeline = &self.settings.pipeline;
        if what.is_empty() {
            tracing::info!(pipeline, "goes on, after: {}", facts.overwritten);
        } else {
            tracing::warn!(pipeline, "{what}");
        }
        Arc::make_mut(&mut facts).overwritten = what;
    }

    /// What an error of a command means. A broken connection is given up, for all who share it.
    pub(super) fn failed(&self, commands: &Commands, error: &RedisError) -> StoreError {
        // The next connection finds out who is there.
        if is_broken(error) || is_replica(error) {
            commands.give_up();
        }
        self.explain(error)
    }

    /// Asks how the server is now.
    pub(super) async fn ask(&self) -> Result<ServerInfo, StoreError> {
        let commands = self.connection().await?;
        let asked = self.connections.ask(&*commands.line).await;
        asked.map_err(|error| self.failed(&commands, &error))
    }

    /// Runs one command on the command connection.
    pub(super) async fn command(&self, command: &Cmd) -> Result<Value, StoreError> {
        let commands = self.connection().await?;
        commands.line.call(command).await.map_err(|error| {
            if own::is_of_another_type(&error) {
                own::explain_named(&self.target, command, &error)
            } else {
                self.failed(&commands, &error)
            }
        })
    }

    /// Runs a script, loading it where the server does not have it. The inner error is the
    /// script's.
    pub(super) async fn script(&self, script: &Script, command: &Cmd) -> Result<Result<Value, RedisError>, Fault> {
        let connection = self.connection().await?;
        self.script_on(connection, script, command).await
    }

    /// [`Database::script`] on this connection and no other.
    pub(super) async fn script_on(
        &self,
        commands: Arc<Commands>,
        script: &Script,
        command: &Cmd,
    ) -> Result<Result<Value, RedisError>, Fault> {
        match script.run(&*commands.line, command).await {
            Err(error) if may_be_too_large(&error) => {
                commands.give_up();
                Err(Fault::Broke(self.explain(&error)))
            }
            Err(error) if is_broken(&error) || is_replica(&error) => Err(Fault::Other(self.failed(&commands, &error))),
            result => Ok(result),
        }
    }
}
