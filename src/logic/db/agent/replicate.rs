//! Two histories compared, and what may be replicated after it; how far behind a standby is, and whether it could go on.
//!
//! Who may go on when the source is silent, in words. A standby that was **in step** within the last minute: what it lacks was
//! acknowledged to nobody, unless the ACTIVE said meanwhile that it went on alone. A node whose peer's agent is there and **has
//! nothing more** (both were down). A node that starts and hears nobody: only if its record says that it was **alone**: the last to be
//! ACTIVE, and no standby was in step with it then. Everybody else waits for the peer, or for an operator: after the death of both,
//! one after the other, the first to return cannot know what the other one wrote.
//!
//! Why "alone" can be known: a standby forgets after [`SILENT_MAX`] that it was in step, and is in step again only after it has heard
//! the ACTIVE's agent, which writes down first that it has company.

use std::time::Duration;

use super::{ALONE_AFTER, Agent, Duty, Moment, Op, Peer, Planted, SILENT_MAX, WRITE_WITHIN};
use crate::logic::db::facts::{Action, Command, Flavor, Gtids, Probe, Receiver};
use crate::logic::db::gtids::{Missing, Range, Who, except, target};
use crate::logic::group;

/// MariaDB: the source's log does not have what the replica asks for.
const NOT_IN_LOG: u32 = 1236;

/// What two histories are to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Compared {
    /// One of the two was not looked at, or not heard, since the role last changed.
    Unknown,
    /// The peer has all that was not written by itself: it may be replicated from.
    Sound,
    /// The peer lacks some, and has nothing else instead: it comes to it, or this node goes on.
    Waits,
    /// Histories forked, and the one that counts is here.
    PeerForked,
    /// Histories forked, and the one that counts is the peer's.
    Forked(Missing),
    /// The peer has what this server once wrote and lost.
    OwnLost(Missing),
}

impl Agent {
    /// The peer, if its word is of now.
    pub(super) fn fresh_peer(&self) -> Option<&Peer> {
        self.peer.as_ref().filter(|peer| peer.at >= self.duty_since && !peer.down)
    }

    pub(super) fn compare(&self) -> Compared {
        let fresh = self.probe.as_deref().filter(|_| self.seen >= self.duty_since);
        let (Some(probe), Some(peer)) = (fresh, self.fresh_peer()) else { return Compared::Unknown };
        // MySQL skips what bears the own id; MariaDB applies it again with the semi-synchronous replica's side on.
        if probe.flavor == Flavor::MySql
            && let Some(lost) = probe.has.own_lost(&peer.has, self.who())
        {
            return Compared::OwnLost(lost);
        }
        let Some(here) = self.errant(probe, &peer.has, peer.who()) else { return Compared::Sound };
        let any = self.is_planted(Planted::AcceptedForEver) && !self.record.accepted.is_empty();
        if any || self.is_planted(Planted::NotCompared) {
            return Compared::Sound;
        }
        if peer.active {
            return Compared::Forked(here);
        }
        match peer.has.beyond(&probe.has) {
            None => Compared::Waits,
            Some(_) if self.own_term() > peer.term => Compared::PeerForked,
            Some(_) => Compared::Forked(here),
        }
    }

    /// What is on this server, was not written by the peer's and is not there, but for what an operator said may be so.
    pub(super) fn errant(&self, probe: &Probe, there: &Gtids, who: Who) -> Option<Missing> {
        let alone = probe.has.not_written_by(who).ranges_beyond(there);
        Missing::of(probe.flavor, &except(&alone, &self.record.accepted))
    }

    /// The same with what was accepted before.
    pub(super) fn alone(&self) -> Vec<Range> {
        let (Some(probe), Some(peer)) = (self.probe.as_deref(), self.peer.as_ref()) else { return vec![] };
        probe.has.not_written_by(peer.who()).ranges_beyond(&peer.has)
    }

    /// What an operator accepted and is on this server alone still, as far as is known.
    pub fn accepted(&self) -> Option<Missing> {
        let accepted = &self.record.accepted;
        let alone = self.alone();
        let still =
            if self.peer.is_some() { except(&alone, &except(&alone, accepted)) } else { accepted.clone() };
        Missing::of(self.probe.as_ref()?.flavor, &still)
    }

    /// Why an operator's word is not followed, and what to do instead.
    pub fn refuses(&self, command: &Command) -> Option<String> {
        if *command != Command::AcceptErrant {
            return None;
        }
        if matches!(self.duty, Duty::Active { .. }) {
            return Some(
                "this node has the role, so the history that counts is here: there is nothing to accept; the command is for the standby \
                 that says DIVERGED"
                    .into(),
            );
        }
        let drectl = |words| group::command(&self.setup.group, words);
        match self.compare() {
            Compared::Forked(_) => None,
            Compared::Unknown => Some(format!(
                "the peer's agent was not heard since the role last changed, or this server does not answer: nobody knows what is on this \
                 server alone; once {} says DIVERGED, give the command again",
                drectl("db")
            )),
            Compared::OwnLost(_) => Some(format!(
                "this server lost transactions that the peer still has, and nothing can be accepted for it: {}",
                drectl("db reseed")
            )),
            Compared::Sound | Compared::Waits | Compared::PeerForked => Some(format!(
                "no transaction stands against replicating from the peer: there is nothing to accept; {} says how it stands",
                drectl("db")
            )),
        }
    }

    /// What is the peer's alone, in a fork that it lost, is not missing here. A look at this server may be old for that: it has no less
    /// by now.
    pub(super) fn is_peer_forked(&self) -> bool {
        let (Some(probe), Some(peer)) = (self.probe.as_deref(), self.peer.as_ref()) else { return false };
        !peer.active && self.own_term() > peer.term && probe.has.errant(&peer.has, peer.who()).is_some()
    }

    /// The peer has thrown away logs that this server still needs.
    pub(super) fn is_purged(&self) -> bool {
        let needs = |peer: &Peer| self.probe.as_ref().is_some_and(|probe| !probe.has.covers(&peer.purged));
        self.fresh_peer().is_some_and(needs)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.replica().is_some_and(|replica| replica.receiver == Receiver::Connected)
    }

    // ---- the standby ---------------------------------------------------------------------------------

    /// Replication runs where the histories allow it, and nowhere else.
    pub(super) fn keep_replicating(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Some(replica) = self.replica() else { return };
        let (receives, applies) = (replica.receiver != Receiver::Stopped, replica.applier);
        let sound = replica.applier_errno == 0 && replica.using_gtid && !self.is_purged();
        match self.compare() {
            Compared::Sound => {
                self.suspect = false;
                let moved = self.lies_beyond().or_else(|| self.lies_behind(self.own_log()));
                if let Some(to) = moved.filter(|_| sound && !self.is_connected()) {
                    self.reposition(now, to, out);
                } else if !(receives && applies) && sound {
                    self.single(now, Op::StartReplication, WRITE_WITHIN, out);
                }
            }
            Compared::Forked(_) | Compared::OwnLost(_) => self.suspect = true,
            Compared::Unknown | Compared::Waits | Compared::PeerForked => {}
        }
        if self.suspect && (receives || applies) && !self.is_planted(Planted::NotCompared) {
            self.single(now, Op::StopReplication, WRITE_WITHIN, out);
        }
    }

    /// MariaDB, after a crash as ACTIVE: the tail of its log that no standby had acknowledged is cut off (`init-rpl-role=SLAVE`), but the
    /// position may have followed it (the ring brought the server's own events back). What stands between the two would be skipped, and
    /// missing here without a word. Seen on real servers: one row of 2,000, after a SIGKILL under load.
    fn lies_beyond(&self) -> Option<Gtids> {
        let probe = self.probe.as_deref().filter(|probe| probe.flavor == Flavor::MariaDb)?;
        (!probe.has.is_empty() && !probe.has.covers(&probe.applied)).then(|| probe.has.clone())
    }

    /// The source has not got any more what is asked for (1236), because its log begins later: it is a copy, made after this server, then
    /// ACTIVE, had last received from it. What this server has got itself need not be asked for: on from `reached`.
    fn lies_behind(&self, reached: Option<&Gtids>) -> Option<Gtids> {
        let probe = self.probe.as_deref().filter(|probe| probe.flavor == Flavor::MariaDb)?;
        let refused = probe.replica.as_ref().is_some_and(|replica| replica.receiver_errno == NOT_IN_LOG);
        let reached = reached
            .filter(|reached| refused && probe.has.covers(reached) && reached.covers(&probe.applied))?;
        (target(reached) != target(&probe.applied)).then(|| reached.clone())
    }

    fn own_log(&self) -> Option<&Gtids> {
        self.probe.as_ref().map(|probe| &probe.has)
    }

    /// The position is set while both threads are stopped.
    fn reposition(&mut self, now: Moment, to: Gtids, out: &mut Vec<Action>) {
        let runs =
            self.replica().is_some_and(|replica| replica.receiver != Receiver::Stopped || replica.applier);
        let op = if runs { Op::StopReplication } else { Op::Position { at: to } };
        self.single(now, op, WRITE_WITHIN, out);
    }

    /// Looks and words about how far this server is.
    pub(super) fn watch_lag(&mut self, now: Moment) {
        let Some(probe) = &self.probe else { return };
        if self.lags.as_ref().is_some_and(|(_, has)| probe.has.covers(has)) {
            // Since then the ACTIVE has gone on: what it had at its last word is the next mark.
            let next = self.ahead.as_ref().map(|ahead| &ahead.has).filter(|has| !probe.has.covers(has));
            self.lags = next.map(|has| (now, has.clone()));
        }
    }

    /// How long what the ACTIVE had is not applied here.
    pub(super) fn lag(&self, now: Moment) -> Duration {
        self.lags.as_ref().map_or(Duration::ZERO, |(since, _)| now.since(*since))
    }

    /// What the ACTIVE committed without this server, as far as is known: by a look that is newer than its word.
    pub(super) fn is_left_behind_by(&self) -> u64 {
        let (Some(probe), Some(ahead)) = (self.probe.as_deref(), &self.ahead) else { return 0 };
        if ahead.waited || self.is_planted(Planted::LeftBehindUnseen) {
            return 0;
        }
        // A standby is looked at once a second, an ACTIVE has gone on meanwhile.
        if self.seen < ahead.at {
            return self.left_behind;
        }
        let received = probe.replica.as_ref().map(|replica| &replica.received);
        let known = received.map_or_else(|| probe.has.clone(), |received| probe.has.clone().union(received));
        known.behind(&ahead.has)
    }

    /// A test's agent that forgets nothing.
    pub(super) fn remembers(&self) -> bool {
        self.is_planted(Planted::InStepForEver)
    }

    /// A server that was started anew may have lost the end of its log, and would write other transactions under the same numbers:
    /// the peer is asked what it has of it, and the server looked at once more after that.
    pub(super) fn peer_must_be_asked(&self) -> bool {
        let Some(anew) = self.anew.filter(|_| self.channel) else { return false };
        self.peer.as_ref().is_none_or(|peer| peer.at < anew || (self.seen < peer.at && !peer.down))
    }

    /// What the peer has of this server's own and it does not; the look must be newer than the peer's word.
    pub(super) fn own_lost(&self) -> Option<Missing> {
        let peer = self.peer.as_ref().filter(|peer| self.seen >= peer.at)?;
        self.probe.as_ref()?.has.own_lost(&peer.has, self.who())
    }

    /// It could go on from where it is though nothing is received; see the module.
    pub(super) fn could_go_on(&self, now: Moment) -> bool {
        let in_step = self.in_step.is_some_and(|at| now < at + SILENT_MAX || self.remembers());
        let alone = self.peer.is_none()
            && (self.record.alone
                || self.is_planted(Planted::AloneByRecord) && self.record.promoted.is_some());
        in_step || alone || self.has_all()
    }

    /// Both agents have spoken, nobody is ACTIVE, and this server has all that the other has.
    fn has_all(&self) -> bool {
        let (Some(probe), Some(peer)) = (self.probe.as_deref(), self.fresh_peer()) else { return false };
        match self.compare() {
            _ if peer.active => false,
            Compared::PeerForked => true,
            Compared::Sound | Compared::Waits => peer.has.beyond(&probe.has).is_none(),
            Compared::Unknown | Compared::Forked(_) | Compared::OwnLost(_) => false,
        }
    }

    // ---- the ACTIVE ----------------------------------------------------------------------------------

    /// Whether a standby is or may be in step with this ACTIVE; written down before it can be.
    pub(super) fn watch_company(&mut self, now: Moment) {
        let connected = self.probe.as_ref().is_some_and(|probe| probe.semi_sync.replicas > 0);
        let writes = matches!(self.duty, Duty::Active { writes: true, .. });
        if self.channel || (writes && connected) {
            self.accompanied = now;
            if self.record.alone && !self.is_planted(Planted::AloneKept) {
                self.change_record(|record| record.alone = false);
                self.kept_at = Moment::ZERO;
            }
        } else if writes && now >= self.accompanied + ALONE_AFTER {
            self.change_record(|record| record.alone = true);
        }
    }

    /// The way back, once the peer's history is known to be part of this one. MariaDB's position follows the server's own writes
    /// by it, and an event that does not fit stops the applier (`gtid_strict_mode`); MySQL needs no such thing and would take in
    /// anything: there the ACTIVE receives from nobody.
    pub(super) fn close_the_ring(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Some(probe) = self.probe.as_deref() else { return };
        if let Some(peer) = self.fresh_peer() {
            self.ring = !peer.active && peer.has.errant(&probe.has, self.who()).is_none();
        }
        let Some(replica) = &probe.replica else { return };
        let wanted = self.ring && probe.flavor == Flavor::MariaDb;
        let (stopped, broken) = (replica.receiver == Receiver::Stopped, replica.applier_errno != 0);
        let there = self.fresh_peer().map(|peer| &peer.has).filter(|_| wanted && !broken);
        if let Some(to) = self.lies_behind(there).filter(|_| !self.is_connected()) {
            self.reposition(now, to, out);
        } else if wanted && (stopped || !replica.applier) && !broken {
            self.single(now, Op::StartReplication, WRITE_WITHIN, out);
        } else if !wanted && !stopped {
            self.single(now, Op::StopReplication, WRITE_WITHIN, out);
        }
    }
}
