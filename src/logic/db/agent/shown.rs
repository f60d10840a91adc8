//! What an operator sees of it.

use super::{Agent, Duty, Health};
use crate::database::{DatabasePeer, DatabaseReplication, DatabaseSetting, DatabaseStatus};
use crate::logic::db::facts::{Durability, Receiver, Wrong};
use crate::logic::time::Moment;

impl Agent {
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// `STATUS=` of sd_notify.
    pub fn status_line(&self) -> String {
        let duty = match self.duty {
            Duty::Active { term, .. } => format!("ACTIVE term {term}"),
            Duty::Unknown | Duty::None => "standby".into(),
        };
        let (words, _) = self.health.words(&self.setup.group);
        let peer = self
            .peer
            .as_ref()
            .map_or("peer's agent not heard".into(), |peer| format!("{} {}", self.setup.peer, peer.state));
        let words = if words.is_empty() { String::new() } else { format!(" ({words})") };
        format!("{duty}, {}{words}, {peer}", self.health.word())
    }

    /// What `drectl db status` shows.
    pub fn shown(&self, now: Moment) -> DatabaseStatus {
        let ms = |since: Moment| u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        let (reason, remedy) = self.health.words(&self.setup.group);
        let (duty, term) = match self.duty {
            Duty::Active { term, .. } => ("active", term),
            Duty::None => ("standby", 0),
            Duty::Unknown => ("unknown", 0),
        };
        let (durability, cost) = match self.setup.durability {
            Durability::Available => (
                "available",
                "a commit waits 2 s at most for the standby; while that one is away, what is committed is on one machine",
            ),
            Durability::Strict => (
                "strict",
                "a commit waits for the standby until that one is known to be dead; a cut between the nodes stops writes for that long",
            ),
        };
        let mut shown = DatabaseStatus {
            dre_version: env!("CARGO_PKG_VERSION").into(),
            duty: duty.into(),
            term,
            state: self.health.word().into(),
            reason,
            remedy,
            since_ms: ms(self.health_since),
            why_not: self.why_not(now).unwrap_or_default(),
            durability: durability.into(),
            cost: cost.into(),
            forced_ms: self
                .forced
                .map_or(0, |until| u64::try_from(now.until(until).as_millis()).unwrap_or(u64::MAX)),
            peer: self.peer.as_ref().map(|peer| DatabasePeer {
                term: peer.term,
                node: self.setup.peer.clone(),
                server_id: peer.server_id,
                has: peer.has.to_string(),
                active: peer.active,
                fit: peer.fit,
                state: peer.state.clone(),
                heard_ms: ms(peer.at),
            }),
            ..DatabaseStatus::default()
        };
        if let Some(probe) = self.probe.as_deref() {
            shown.version.clone_from(&probe.version);
            shown.server_id = probe.server_id;
            shown.read_only = probe.read_only;
            shown.has = probe.has.to_string();
            let setting = |wrong: &Wrong| DatabaseSetting {
                variable: wrong.variable.clone(),
                have: wrong.have.clone(),
                want: wrong.want.clone(),
                fatal: wrong.fatal,
            };
            shown.settings = probe.wrong.iter().map(setting).collect();
            shown.admins.clone_from(&probe.admins);
            if let Some(accepted) = self.accepted() {
                (shown.accepted, shown.accepted_which) = (accepted.count, accepted.which);
            }
            shown.semi_sync = match (probe.semi_sync.enabled, probe.semi_sync.on) {
                (false, _) => "off (this server is no source)".into(),
                (true, true) => format!("on, {} waited for", probe.semi_sync.replicas),
                (true, false) => "enabled, but no standby acknowledges".into(),
            };
            shown.replication = probe.replica.as_ref().map(|replica| DatabaseReplication {
                source: format!("{}:{}", replica.host, replica.port),
                receiver: match replica.receiver {
                    Receiver::Stopped => "stopped",
                    Receiver::Connecting => "connecting",
                    Receiver::Connected => "connected",
                }
                .into(),
                applier: replica.applier,
                received: replica.received.to_string(),
                to_apply: probe.has.behind(&replica.received),
                behind: self.peer.as_ref().filter(|p| p.active).map_or(0, |p| probe.has.behind(&p.has)),
                error: [&replica.receiver_error, &replica.applier_error]
                    .into_iter()
                    .filter(|error| !error.is_empty())
                    .cloned()
                    .collect::<Vec<_>>()
                    .join("; "),
            });
        }
        shown
    }
}
