//! The database behind the role: it holds the role's work back, and never extends it.
//!
//! ```text
//!   lease granted ─▶ Promote ─▶ Writable ─▶ (alone: the wire is quiet still) ─▶ the gate opens
//!   role let go   ─▶ Demote ─▶ Demoted, or its bound ─▶ the gate shuts ─▶ free for the peer
//! ```
//!
//! Why the gate opens last and shuts last: a client that reaches a server which takes no writes gets an error that many do not try
//! again after; and one whose VIP is taken away before its connection ends waits for TCP to give up.
//!
//! The gate's own deadline stands in all of this: whatever the agent or the server do, nothing answers for a VIP beyond the lease.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Action, Node};
use crate::database::{Charge, Word};
use crate::logic::election::{Peer, Rule};
use crate::logic::group;
use crate::logic::lease::By;
use crate::logic::time::Moment;
use crate::logic::wire::Role;
use crate::stream::Order;

/// How long the server has to stop taking writes in an orderly way; twice this, and the role is free without its word: its gate is shut.
const DEMOTE_WITHIN: Duration = Duration::from_secs(2);
/// A server that has just given the role away is compared with the peer's before it could have it again: so long that says nothing of
/// the node. As long as the demotion may take, and a second.
const COMPARED_WITHIN: Duration = Duration::from_secs(3);
/// An agent that is started anew is back in this time; until then the node stays as fit as it was.
const AGENT_BACK_WITHIN: Duration = Duration::from_secs(3);
/// A promotion that failed is tried again after this, if nobody else can take the role.
const PROMOTE_AGAIN: Duration = Duration::from_secs(5);
/// How long a node counts as unfit after its server could not be made to take writes.
const FAILED_LASTS: Duration = Duration::from_secs(30);
/// An agent of ours has one alarm.
const ALARMS_MAX: usize = 8;
/// A promotion that takes longer than this is an alarm: nobody is served meanwhile.
const PROMOTE_EXPECTED: Duration = Duration::from_secs(2);

/// dre-mysql as dre-elect knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Database {
    open: bool,
    /// When the stream opened or closed.
    since: Moment,
    /// It said at least once on this stream whether it could be ACTIVE.
    spoke: bool,
    why_not: Option<String>,
    /// The term in which the server takes writes; 0: none.
    writable: u64,
    /// The term whose gate was opened.
    opened: u64,
    failed: Option<(Moment, String)>,
    /// When the last promotion was asked for.
    asked: Moment,
    serial: u64,
    /// The demotion that is not answered yet.
    demoting: Option<Demoting>,
    /// When a role was let go that the database could have kept, until it could have it again.
    gave: Option<Moment>,
    /// What the agent knows of the lease and of the peer.
    told_until: Moment,
    told_peer: Option<(bool, bool)>,
    pub(super) alarms: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy)]
struct Demoting {
    begun: Moment,
    /// The gate was left open until the server has stopped.
    gate: bool,
}

impl Node {
    /// The stream to the agent opened or closed.
    pub(super) fn database_stream(&mut self, now: Moment, open: bool, out: &mut Vec<Action>) {
        let before = std::mem::take(&mut self.database);
        let gate = before.demoting.is_some_and(|demoting| demoting.gate);
        let (opened, serial, failed) = (before.opened, before.serial, before.failed);
        self.database = Database { open, since: now, opened, serial, failed, ..Database::default() };
        if !self.setup.database {
            return;
        }
        // Nobody is left to say that the server has stopped.
        if !open && gate {
            self.drop_gate(now, out);
        }
        if open && self.role == Role::Active {
            self.promote(now, false, out);
        } else if open {
            self.demote(now, false, out);
        }
    }

    pub(super) fn database_word(&mut self, now: Moment, word: Word, out: &mut Vec<Action>) {
        if !self.database.open {
            return;
        }
        match word {
            Word::Fit { why_not } => {
                self.database.spoke = true;
                if why_not.is_none() {
                    self.database.gave = None;
                }
                self.database.why_not = why_not;
            }
            Word::Writable { term } if term == self.term && self.role == Role::Active => {
                self.database.writable = term;
                self.database.failed = None;
            }
            Word::Failed { term, reason } if term == self.term && self.role == Role::Active => {
                self.database.writable = 0;
                self.database.failed = Some((now, reason));
            }
            Word::Demoted { serial, .. } if serial == self.database.serial => {
                if self.database.demoting.take().is_some_and(|demoting| demoting.gate) {
                    self.drop_gate(now, out);
                }
            }
            // Of another term, or of a demotion that was asked for again since.
            Word::Writable { .. } | Word::Failed { .. } | Word::Demoted { .. } => {}
            // Another user's process: its words take no more room than an operator reads.
            Word::Alarm { name, text: Some(text) } if self.database.alarms.len() < ALARMS_MAX => {
                self.database.alarms.insert(name, text);
            }
            Word::Alarm { name, text: None } => {
                self.database.alarms.remove(&name);
            }
            Word::Alarm { .. } => {}
        }
        self.next_housekeeping = now;
    }

    /// The role was granted: the server first.
    pub(super) fn promote(&mut self, now: Moment, force: bool, out: &mut Vec<Action>) {
        let handed = matches!(self.takeover_rule, Rule::PeerYields | Rule::OperatorTakes);
        let planned = handed && matches!(self.peer(now), Peer::In { .. });
        self.database.writable = 0;
        self.database.asked = now;
        self.database.told_until = Moment::ZERO;
        self.database.demoting = None;
        self.database.gave = None;
        out.push(Action::Charge(Charge::Promote { term: self.term, planned, force }));
        self.tell_until(now, out);
    }

    /// `gate`: it stays open until the server has stopped.
    pub(super) fn demote(&mut self, now: Moment, gate: bool, out: &mut Vec<Action>) {
        if gate && self.database.why_not.is_none() {
            self.database.gave = Some(now);
        }
        self.database.serial += 1;
        self.database.writable = 0;
        self.database.demoting = Some(Demoting { begun: now, gate });
        let bound_ms = u32::try_from(DEMOTE_WITHIN.as_millis()).unwrap_or(u32::MAX);
        out.push(Action::Charge(Charge::Demote { serial: self.database.serial, bound_ms }));
    }

    /// Whether the server is to stop before the gate shuts: the role is let go while the lease stands.
    pub(super) fn stops_gently(&self, rule: Rule) -> bool {
        let planned = matches!(rule, Rule::Switchover | Rule::OperatorReleases | Rule::Stopped | Rule::Unfit);
        planned && self.database.open && self.database.opened == self.term
    }

    pub(super) fn drop_gate(&mut self, now: Moment, out: &mut Vec<Action>) {
        out.push(Action::Order(Order::Drop { serial: self.vip.serial }));
        self.own_shut_at = Some(now);
    }

    /// Renewed with the lease, opened or not: the server may take writes as long as that, and no longer.
    pub(super) fn tell_until(&mut self, now: Moment, out: &mut Vec<Action>) {
        let (until, by) = self.lease(now);
        let worth = self.setup.interval.min(Duration::from_millis(200)) / 4;
        if self.database.open && by != By::None && until >= self.database.told_until + worth {
            self.database.told_until = until;
            out.push(Action::Charge(Charge::Until { term: self.term, until }));
        }
    }

    /// Active, and nothing of this term was opened yet.
    pub(super) fn waits_for_database(&self) -> bool {
        self.setup.database && self.role == Role::Active && self.database.opened != self.term
    }

    /// The peer vouches no longer while the server is being made ready: the wire must be quiet when the gate opens, not only when the role
    /// was claimed.
    pub(super) fn seeks_quiet(&self, now: Moment) -> bool {
        self.waits_for_database() && self.votes.peer_until() <= now && !self.peer_is_given()
    }

    /// Somebody else answered for a VIP while this node made its server ready.
    pub(super) fn is_overtaken(&self, now: Moment) -> bool {
        self.seeks_quiet(now) && self.evidence.foreign_holder().is_some_and(|(at, ..)| at >= self.claimed_at)
    }

    /// One turn of an active node with a database: the lease is passed on, the gate opened once the server takes writes.
    pub(super) fn serve_database(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.tell_until(now, out);
        if !self.waits_for_database() {
            return self.hold(now, false, out);
        }
        let again = self.database.failed.as_ref().is_some_and(|_| now >= self.database.asked + PROMOTE_AGAIN);
        if again && self.database.open {
            self.promote(now, false, out);
        }
        let quiet = !self.seeks_quiet(now) || self.evidence.quiet(now);
        if self.database.writable == self.term && quiet && self.vip.armed.is_some() {
            self.database.opened = self.term;
            self.hold(now, true, out);
        }
    }

    /// The role is let go, and its server had the time it was given.
    pub(super) fn watch_demotion(&mut self, now: Moment, out: &mut Vec<Action>) {
        if !self.setup.database {
            return;
        }
        if let Some(demoting) = &mut self.database.demoting
            && demoting.gate
            && now >= demoting.begun + DEMOTE_WITHIN
        {
            demoting.gate = false;
            self.drop_gate(now, out);
        }
        let heard = self.hears_peer(now);
        let peer = (heard, heard && self.peer_role(now) == Some(Role::Active));
        if self.database.open && self.database.told_peer != Some(peer) {
            self.database.told_peer = Some(peer);
            out.push(Action::Charge(Charge::Peer { heard: peer.0, active: peer.1 }));
        }
    }

    /// The server takes no writes of this node's term any more, or its word is not waited for any longer.
    pub(super) fn database_stopped(&self, now: Moment) -> bool {
        self.demotion_ends_at().is_none_or(|at| now >= at)
    }

    fn demotion_ends_at(&self) -> Option<Moment> {
        self.database.demoting.map(|demoting| demoting.begun + DEMOTE_WITHIN * 2)
    }

    /// It has just given the role away: it could not have it again at once, which is no trouble.
    pub(super) fn gave_lately(&self, now: Moment) -> bool {
        self.database.gave.is_some_and(|at| now < at + COMPARED_WITHIN)
    }

    /// Why the database cannot be ACTIVE on this node.
    pub(super) fn database_why_not(&self, now: Moment) -> Option<String> {
        let db = &self.database;
        if !self.setup.database {
            return None;
        }
        // On the node that serves, an agent that is started anew is no reason to move.
        let patient = self.role == Role::Active && now < db.since + AGENT_BACK_WITHIN;
        if !db.open || !db.spoke {
            return (!patient).then(|| "dre-mysql is not there".into());
        }
        match (&db.why_not, &db.failed) {
            (Some(why), _) => Some(why.clone()),
            (None, Some((at, why))) if now < *at + FAILED_LASTS => {
                Some(format!("the server could not be made to take writes: {why}"))
            }
            (None, _) => None,
        }
    }

    pub(super) fn database_deadlines(&self) -> [Option<Moment>; 7] {
        let db = &self.database;
        let here = |at| self.setup.database.then_some(at);
        let gate = db.demoting.filter(|demoting| demoting.gate);
        [
            here(db.since + AGENT_BACK_WITHIN),
            db.failed.as_ref().map(|(at, _)| *at + FAILED_LASTS),
            db.failed.as_ref().map(|_| db.asked + PROMOTE_AGAIN),
            gate.map(|demoting| demoting.begun + DEMOTE_WITHIN),
            self.demotion_ends_at(),
            db.gave.map(|at| at + COMPARED_WITHIN),
            self.waits_for_database().then(|| db.asked + PROMOTE_EXPECTED),
        ]
    }

    pub(super) fn database_alarms(&self, now: Moment, raise: &mut impl FnMut(&'static str, &str, String)) {
        if self.waits_for_database() && now >= self.database.asked.max(self.since) + PROMOTE_EXPECTED {
            let why = match &self.database.failed {
                Some((_, why)) => format!("it could not be made to: {why}"),
                None if self.database.writable == self.term => {
                    "it does, and somebody else may still answer for a VIP".into()
                }
                None => "its agent is at it".into(),
            };
            raise(
                "DatabaseWaits",
                "",
                format!(
                    "this node has the role and serves nobody yet: the server must take writes first, and {why}; {}",
                    group::command(&self.setup.group, "db status")
                ),
            );
        }
    }
}
