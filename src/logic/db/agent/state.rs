//! Where the database stands, in the operator's words; and whether it could be ACTIVE.

use super::replicate::Compared;
use super::{Agent, Duty, MISSES_MAX, SILENT_MAX};
use crate::database::Word;
use crate::logic::db::facts::{Action, Flavor, Receiver, Replica};
use crate::logic::db::gtids::Missing;
use crate::logic::group;
use crate::logic::time::Moment;
use crate::notice::Priority;

/// The states, as the README's table has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Starting,
    /// As the role wants it.
    Ok,
    Promoting,
    /// It has the role, and was not made to take writes.
    PromoteBlocked(String),
    /// The server does not answer, or does not run.
    Failed(String),
    /// It answers, and a write does not succeed.
    WriteFailed(String),
    Config(String),
    SameServerId(String),
    /// Waits for the peer's agent: histories are compared before anything is replicated.
    Comparing,
    /// It receives, and its history is not yet known to be a part of the peer's: a moment after it has handed over.
    Compared(&'static str),
    Diverged(Missing),
    OwnLost(Missing),
    /// The peer's logs do not reach back to where this server stands.
    Purged,
    NotReplicating,
    Connecting(String),
    SqlStopped(String),
    WrongSource(String),
    /// The ACTIVE committed this many transactions that are not here, and waited for nobody; why nothing is received, if nothing is.
    LeftBehind(u64, String),
    Lagging(u64),
    BothWritable(String),
    /// This ACTIVE took over without what the relay log had lost.
    RelayLost(u64),
    SemiSyncOff,
}

impl Health {
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Ok => "OK",
            Self::Promoting => "PROMOTING",
            Self::PromoteBlocked(_) => "PROMOTE_BLOCKED",
            Self::Failed(_) => "FAILED",
            Self::WriteFailed(_) => "WRITE_FAILED",
            Self::Config(_) => "CONFIG",
            Self::SameServerId(_) => "SAME_SERVER_ID",
            Self::Comparing | Self::Compared(_) => "COMPARING",
            Self::Diverged(_) => "DIVERGED",
            Self::OwnLost(_) => "OWN_LOST",
            Self::Purged => "PURGED",
            Self::NotReplicating => "NOT_REPLICATING",
            Self::Connecting(_) => "IO_CONNECTING",
            Self::SqlStopped(_) => "SQL_STOPPED",
            Self::WrongSource(_) => "WRONG_SOURCE",
            Self::LeftBehind(..) => "LEFT_BEHIND",
            Self::Lagging(_) => "LAGGING",
            Self::BothWritable(_) => "BOTH_WRITABLE",
            Self::RelayLost(_) => "RELAY_LOST",
            Self::SemiSyncOff => "SEMISYNC_OFF",
        }
    }

    /// What is the matter, and what to do: the latter one sentence, since an alarm is read from its last "; " on.
    pub fn words(&self, group: &str) -> (String, String) {
        let db = |words: &str| group::command(group, &format!("db {words}"));
        let reseed = || format!("make this server a copy of the peer's again: {}", db("reseed"));
        match self {
            Self::Starting => ("the server was not looked at yet".into(), String::new()),
            Self::Ok => (String::new(), String::new()),
            Self::Promoting => {
                ("what was received is applied, then the server takes writes".into(), String::new())
            }
            Self::PromoteBlocked(why) => (
                why.clone(),
                format!("mend what is named, or take what is there: {}", db("promote --force")),
            ),
            Self::Failed(why) => (why.clone(), "look at the server: its unit's status and its error log".into()),
            Self::WriteFailed(why) => {
                (format!("a write failed: {why}"), "is its disk full? look at the server's error log".into())
            }
            Self::Config(what) => (what.clone(), format!("{} says what to write where", db("check"))),
            Self::SameServerId(what) => {
                (what.clone(), "give one of them another server-id, and start it anew".into())
            }
            Self::Comparing => (
                "the peer's agent was not heard since this one started, so nobody knows which history goes on".into(),
                format!(
                    "start dre-mysql@{group} on the peer, or, if that machine is gone for good: {}",
                    db("promote --force")
                ),
            ),
            Self::Compared(what) => ((*what).into(), String::new()),
            Self::Diverged(missing) => (
                format!("{} transactions are on this server alone: {}", missing.count, missing.which),
                format!(
                    "nothing is replicated until you decide: first {} (saves what is in them), then {} (this server becomes a copy of \
                     the peer's again) or {} (it goes on as it is)",
                    db("diverged"),
                    db("reseed"),
                    db("accept-errant")
                ),
            ),
            Self::OwnLost(missing) => (
                format!(
                    "the peer has {} transactions of this server that it lost: {}",
                    missing.count, missing.which
                ),
                reseed(),
            ),
            Self::Purged => {
                ("the peer has thrown away the logs that this server still needs".into(), reseed())
            }
            Self::NotReplicating => (
                "the server replicates from nobody".into(),
                "set up replication from the peer (CHANGE MASTER TO …, with GTID)".into(),
            ),
            Self::Connecting(why) => (
                format!("nothing is received from the peer's server: {why}"),
                "is the server there up? the replication user, its password and TLS right? does a firewall let its port pass?".into(),
            ),
            Self::SqlStopped(why) => (
                format!("the applier stopped: {why}"),
                format!("histories may have forked: compare the row in question on both, then {}", reseed()),
            ),
            Self::WrongSource(why) => (why.clone(), "point replication at the peer".into()),
            Self::LeftBehind(count, why) => (
                format!(
                    "the ACTIVE went on without this server: {count} transactions are not here{}{why}",
                    if why.is_empty() { "" } else { "; nothing is received: " }
                ),
                format!(
                    "it catches up once it receives again, or, if the other machine is gone for good: {}",
                    db("promote --force")
                ),
            ),
            Self::Lagging(seconds) => (
                format!("{seconds} s behind the ACTIVE"),
                "it catches up, and if it does not, look at its load".into(),
            ),
            Self::BothWritable(why) => {
                (why.clone(), "the node with the lower term makes its server read-only by itself".into())
            }
            Self::RelayLost(count) => (
                format!("{count} transactions that this server had received were lost with its relay log before it took over"),
                "they may still be on the other server: its DIVERGED names them, and its binary log has them (mariadb-binlog)".into(),
            ),
            Self::SemiSyncOff => (
                "the standby is ready, and commits do not wait for it: what is committed now may be lost with this machine".into(),
                "look at the standby's receiver, and at rpl_semi_sync_slave_enabled there (MySQL: rpl_semi_sync_replica_enabled)"
                    .into(),
            ),
        }
    }

    const fn priority(&self) -> Priority {
        match self {
            Self::Ok | Self::Starting | Self::Promoting | Self::Comparing | Self::Compared(_) => {
                Priority::Info
            }
            Self::Connecting(_) | Self::Lagging(_) | Self::LeftBehind(..) | Self::SemiSyncOff => {
                Priority::Warning
            }
            _ => Priority::Error,
        }
    }
}

/// Why nothing comes.
fn silence(replica: &Replica) -> String {
    match (replica.receiver, replica.receiver_errno) {
        (_, 0) if !replica.applier => "the applier is stopped".into(),
        (Receiver::Stopped, 0) => "the receiver is stopped".into(),
        (_, 0) => "the receiver tries".into(),
        (_, errno) => format!("{errno} {}", replica.receiver_error),
    }
}

impl Agent {
    fn failed(&self) -> Option<Health> {
        if !self.unit && self.probe.is_none() {
            return Some(Health::Failed("the server's unit does not run".into()));
        }
        (self.misses >= MISSES_MAX).then(|| Health::Failed("the server does not answer".into()))
    }

    fn config(&self) -> Option<Health> {
        let fatal = self.probe.as_ref()?.wrong.iter().filter(|wrong| wrong.fatal);
        let words: Vec<String> =
            fatal.map(|w| format!("{} is {}, must be {}", w.variable, w.have, w.want)).collect();
        (!words.is_empty()).then(|| Health::Config(words.join("; ")))
    }

    fn same_server_id(&self) -> Option<Health> {
        let (probe, peer) = (self.probe.as_deref()?, self.peer.as_ref()?);
        let uuid = probe.flavor == Flavor::MySql && probe.server_uuid == peer.server_uuid;
        (uuid || probe.server_id == peer.server_id).then(|| {
            Health::SameServerId(format!(
                "both servers have id {}{}",
                probe.server_id,
                if uuid { " and the same uuid" } else { "" }
            ))
        })
    }

    /// As if the node had no role.
    fn standby_health(&self, now: Moment) -> Health {
        if let Some(health) = self.failed().or_else(|| self.config()).or_else(|| self.same_server_id()) {
            return health;
        }
        let Some(probe) = self.probe.as_deref() else { return Health::Starting };
        let compared = self.compare();
        match &compared {
            Compared::OwnLost(missing) => return Health::OwnLost(missing.clone()),
            Compared::Forked(missing) => return Health::Diverged(missing.clone()),
            _ => {}
        }
        if self.is_purged() {
            return Health::Purged;
        }
        let Some(replica) = &probe.replica else { return Health::NotReplicating };
        if replica.applier_errno != 0 {
            return Health::SqlStopped(format!("{} {}", replica.applier_errno, replica.applier_error));
        }
        if !replica.using_gtid {
            return Health::WrongSource(format!(
                "it replicates from {} by positions, not by GTID",
                replica.host
            ));
        }
        if let Some(peer) = &self.peer
            && replica.source_id != 0
            && replica.source_id != peer.server_id
        {
            return Health::WrongSource(format!(
                "it replicates from {} (server id {}), and the peer's server has id {}",
                replica.host, replica.source_id, peer.server_id
            ));
        }
        let runs = replica.receiver == Receiver::Connected && replica.applier;
        if self.left_behind > 0 {
            let connected = replica.receiver == Receiver::Connected;
            let why = if connected { String::new() } else { silence(replica) };
            return Health::LeftBehind(self.left_behind, why);
        }
        if runs && self.compared {
            let lag = self.lag(now);
            return if lag >= self.setup.max_lag { Health::Lagging(lag.as_secs()) } else { Health::Ok };
        }
        if self.peer.is_none() && !self.could_go_on(now) {
            return Health::Comparing;
        }
        match compared {
            Compared::Waits if runs => {
                return Health::Compared("the peer has not yet all that is here");
            }
            Compared::Sound | Compared::Unknown if runs => {
                return Health::Compared("the peer is asked what it has of the history here");
            }
            _ => {}
        }
        Health::Connecting(match compared {
            Compared::Waits => "the peer has not yet all that is here".into(),
            Compared::PeerForked => "the peer's history forked from this one".into(),
            _ => silence(replica),
        })
    }

    fn active_health(&self) -> Health {
        if self.is_promoting() {
            return Health::Promoting;
        }
        if let Some(health) = self.failed() {
            return health;
        }
        let Some(probe) = self.probe.as_deref() else { return Health::Starting };
        if let Some(why) = &self.refused {
            return Health::PromoteBlocked(why.clone());
        }
        if let Some(why) = &self.write_failed {
            return Health::WriteFailed(why.clone());
        }
        // By its newest word: before it handed over, or died, it did.
        if let Some(peer) = self.fresh_peer().filter(|peer| peer.active || !peer.read_only) {
            return Health::BothWritable(format!(
                "the peer's server takes writes too (promoted in term {})",
                peer.term
            ));
        }
        if let Some(count) = self.relay_lost {
            return Health::RelayLost(count);
        }
        let ready = self.peer.as_ref().is_some_and(|peer| peer.fit && !peer.active);
        if ready && !probe.semi_sync.on { Health::SemiSyncOff } else { Health::Ok }
    }

    fn health_now(&self, now: Moment) -> Health {
        match self.duty {
            Duty::Active { .. } => self.active_health(),
            Duty::Unknown | Duty::None => self.standby_health(now),
        }
    }

    pub(super) fn watch_health(&mut self, now: Moment, out: &mut Vec<Action>) {
        match self.compare() {
            Compared::Sound => self.compared = true,
            Compared::Forked(_) | Compared::OwnLost(_) => self.compared = false,
            Compared::Unknown | Compared::Waits | Compared::PeerForked => {}
        }
        let health = self.health_now(now);
        let standby = !matches!(self.duty, Duty::Active { .. });
        if standby && health == Health::Ok {
            self.in_step = Some(now);
        } else if self.in_step.is_some_and(|at| now >= at + SILENT_MAX) && !self.remembers() {
            self.in_step = None;
        }
        if health.word() != self.health.word() {
            let (words, hint) = health.words(&self.setup.group);
            let text = [health.word(), &words, &hint].into_iter().filter(|part| !part.is_empty());
            let text = text.collect::<Vec<_>>().join("; ");
            let priority = health.priority();
            out.push(Action::Note { priority, text: text.clone() });
            self.health_since = now;
        }
        self.health = health;
        self.tell_alarm(out);
    }

    /// What an operator must see, beside what the election says of a node that is not fit.
    fn tell_alarm(&mut self, out: &mut Vec<Action>) {
        let text = (self.health.priority() == Priority::Error).then(|| {
            let (words, hint) = self.health.words(&self.setup.group);
            format!("{}: {words}; {hint}", self.health.word())
        });
        if self.stream && self.alarm != text {
            self.alarm.clone_from(&text);
            out.push(Action::Say(Word::Alarm { name: "Database".into(), text }));
        }
    }

    /// What speaks against writing here whatever the role says. What is not there yet is waited for: a lag is applied, a dead source
    /// is the reason for being asked. `again`: this server is the ACTIVE of that term already.
    pub(super) fn forbids_promotion(&self, now: Moment, again: bool) -> Option<String> {
        let health = self.standby_health(now);
        let fine = match &health {
            Health::Ok | Health::Lagging(_) => true,
            Health::Connecting(_) | Health::Compared(_) => again || self.could_go_on(now),
            Health::Failed(_) | Health::Config(_) | Health::SameServerId(_) | Health::OwnLost(_) => false,
            _ => again,
        };
        let lost = self.own_lost().filter(|_| again).map(Health::OwnLost);
        let health = lost.or((!fine).then_some(health))?;
        let (words, hint) = health.words(&self.setup.group);
        Some(format!("{}: {words}; {hint}", health.word()))
    }

    /// Why this node's database could not be ACTIVE.
    pub(super) fn why_not(&self, now: Moment) -> Option<String> {
        if self.stopping.is_some() {
            return Some("dre-mysql is being stopped".into());
        }
        let health = self.health_now(now);
        let unfit = match &health {
            Health::Ok | Health::Promoting | Health::SemiSyncOff | Health::RelayLost(_) => false,
            Health::BothWritable(_) => false,
            // A source that is gone is the reason to take over; what was never in step has an unknown share of the history.
            Health::Connecting(_) | Health::Compared(_) => !self.could_go_on(now),
            _ => true,
        };
        let words = match &health {
            // Said once, not every second anew.
            Health::Lagging(_) => format!("more than {} s behind the ACTIVE", self.setup.max_lag.as_secs()),
            _ => health.words(&self.setup.group).0,
        };
        unfit.then(|| format!("database {}: {words}", health.word()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each; a new one does not compile until it is here.
    fn every() -> Vec<Health> {
        let (why, missing) =
            (|| "why; it".to_owned(), || Missing { count: 4, which: "0-1-8492..8495".into() });
        let all = vec![
            Health::Starting,
            Health::Ok,
            Health::Promoting,
            Health::PromoteBlocked(why()),
            Health::Failed(why()),
            Health::WriteFailed(why()),
            Health::Config(why()),
            Health::SameServerId(why()),
            Health::Comparing,
            Health::Compared("the peer is asked"),
            Health::Diverged(missing()),
            Health::OwnLost(missing()),
            Health::Purged,
            Health::NotReplicating,
            Health::Connecting(why()),
            Health::SqlStopped(why()),
            Health::WrongSource(why()),
            Health::LeftBehind(4, why()),
            Health::Lagging(11),
            Health::BothWritable(why()),
            Health::RelayLost(4),
            Health::SemiSyncOff,
        ];
        let mut words: Vec<_> = all.iter().map(Health::word).collect();
        words.dedup();
        // COMPARING is two.
        assert_eq!(words.len(), all.len() - 1, "{words:?}");
        all
    }

    /// The status takes what stands behind the last "; " for what is to be done.
    #[test]
    fn what_to_do_is_one_sentence() {
        for health in every() {
            let (_, hint) = health.words("mysql");
            assert!(!hint.contains("; "), "{}: {hint}", health.word());
        }
    }

    /// Without -g a command goes to group dre, where there is one.
    #[test]
    fn commands_go_to_the_group_whose_server_it_is() {
        let mut named = 0;
        for health in every() {
            let (words, hint) = health.words("mysql");
            for text in [words, hint] {
                assert_eq!(
                    text.matches("drectl ").count(),
                    text.matches("drectl -g mysql db ").count(),
                    "{text}"
                );
                named += text.matches("drectl ").count();
            }
        }
        assert!(named > 8, "{named}");
        let (_, hint) = Health::Purged.words("dre");
        assert!(hint.ends_with(": drectl db reseed"), "{hint}");
    }
}
