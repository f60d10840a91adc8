//! Demotion, step by step, within its bound: in an orderly way, then by force.

use std::time::Duration;

use super::{Agent, Duty, FORCE_AFTER, Planted, Work};
use crate::database::Word;
use crate::logic::db::facts::{Action, Answer, Failure, Gtids, Op, Tell};
use crate::logic::time::Moment;
use crate::notice::Priority;

/// One attempt to make the server read-only; what does not end in that time is killed.
const READ_ONLY_WITHIN: Duration = Duration::from_millis(300);
/// MySQL's waiting commits survive a KILL: all clients go, and turning the source's side off takes up to a second there.
const WAITERS_WITHIN: Duration = Duration::from_millis(1_500);
/// Between two attempts at a server that refuses.
const PAUSE: Duration = Duration::from_millis(50);
const OVERDUE: &str = "the server did not stop taking writes in time";
const MISCOUNTS: &str = "the server's writes failed, so it may count transactions that it never logged";

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Demotion {
    /// Whose answer is waited for; `None`: the agent's own doing, or said already.
    serial: Option<u64>,
    by: Moment,
    /// It had the role: the peer may take over from what is there.
    hands_over: bool,
    /// It took writes when it was last seen, or nobody knows.
    wrote: bool,
    /// Its writes failed. A server counts a transaction before it finds no room for it in its log: what it says that it has is more
    /// than it ever sent, and nobody can wait for that. It is ended once it has come to rest, and counts anew what is there.
    miscounts: bool,
    read_only: bool,
    /// The next attempt is made then.
    pause: Option<Moment>,
}

impl Agent {
    pub(super) fn begin_demotion(
        &mut self,
        now: Moment,
        serial: Option<u64>,
        by: Moment,
        out: &mut Vec<Action>,
    ) {
        self.give_up(out);
        let (mut by, mut hands_over) = (by, matches!(self.duty, Duty::Active { .. }));
        if hands_over {
            // The lease's end is a bound too.
            by = by.min(self.until.max(now) + FORCE_AFTER);
        }
        let mut miscounts = self.write_failed.is_some();
        if let Work::Demote(before) = &self.work {
            (by, hands_over) = (by.min(before.by.max(now)), hands_over || before.hands_over);
            miscounts |= before.miscounts;
        }
        if hands_over {
            self.handed = None;
        }
        let wrote = hands_over
            || self.probe.as_ref().is_some_and(|probe| !probe.read_only)
            || !matches!(self.work, Work::Idle | Work::Single);
        self.begin_duty(now, Duty::None);
        let demotion = Demotion { serial, by, hands_over, wrote, miscounts, read_only: false, pause: None };
        if !self.unit && self.probe.is_none() {
            return self.demoted(now, demotion, None, out);
        }
        if self.is_planted(Planted::DemotedUnseen)
            && let Some(serial) = demotion.serial
        {
            out.push(Action::Say(Word::Demoted { serial, clean: true }));
        }
        // Commits that wait for a standby that is not there hold read_only up: their clients learn nothing of the outcome, which is the
        // truth.
        let op = if wrote && !self.channel { Op::KillWaiters } else { Op::ReadOnly };
        self.demotion_step(now, demotion, op, out);
    }

    fn demotion_step(&mut self, now: Moment, demotion: Demotion, op: Op, out: &mut Vec<Action>) {
        let bound = if op == Op::KillWaiters { WAITERS_WITHIN } else { READ_ONLY_WITHIN };
        let left = now.until(demotion.by).min(bound);
        let overdue = left.is_zero() && op != Op::KillServer && !self.is_planted(Planted::NoKill);
        self.work = Work::Demote(demotion);
        if overdue {
            return self.kill_server(now, OVERDUE, out);
        }
        let within = if left.is_zero() { READ_ONLY_WITHIN } else { left };
        self.start(now, op, within, out);
    }

    fn kill_server(&mut self, now: Moment, why: &str, out: &mut Vec<Action>) {
        out.push(Action::Note { priority: Priority::Error, text: format!("{why}: it is killed") });
        self.start(now, Op::KillServer, FORCE_AFTER, out);
    }

    pub(super) fn demotion_goes_on(
        &mut self,
        now: Moment,
        mut demotion: Demotion,
        op: &Op,
        result: Result<Answer, Failure>,
        out: &mut Vec<Action>,
    ) {
        let keep = self.setup.keep_users.clone();
        let next = match (op, result) {
            (Op::KillServer, Ok(_)) => return self.demoted(now, demotion, None, out),
            (Op::KillServer, Err(failure)) => {
                let why = match failure {
                    Failure::Gone { text } => text,
                    other => other.words(),
                };
                out.push(Action::Note {
                    priority: Priority::Error,
                    text: format!("the server's unit could not be killed, and is tried again: {why}"),
                });
                // What became of it is unknown, and that is said; it goes on all the same.
                if let Some(serial) = demotion.serial.take() {
                    out.push(Action::Say(Word::Demoted { serial, clean: false }));
                }
                demotion.by = now + FORCE_AFTER;
                demotion.pause = Some(now + PAUSE);
                self.work = Work::Demote(demotion);
                return;
            }
            (_, Err(Failure::Gone { .. })) => {
                // A connection that was ended, or a server that was.
                demotion.pause = Some(now + PAUSE);
                self.next_probe = now;
                self.work = Work::Demote(demotion);
                return;
            }
            (Op::KillWaiters, _) => Op::ReadOnly,
            (Op::ReadOnly, Ok(_)) => {
                demotion.read_only = true;
                if !demotion.wrote {
                    return self.demoted(now, demotion, None, out);
                }
                Op::KillClients { keep }
            }
            // Locks and running writes are in the way: their connections end, as all clients' would next.
            (Op::ReadOnly, Err(_)) => Op::KillClients { keep },
            (Op::KillClients { .. }, _) if demotion.read_only => Op::Settled,
            (Op::Settled, Ok(_)) if demotion.miscounts => {
                self.work = Work::Demote(demotion);
                return self.kill_server(now, MISCOUNTS, out);
            }
            (Op::Settled, Ok(Answer::Has(has))) => return self.demoted(now, demotion, Some(has), out),
            // Who writes through read_only goes the way of the clients.
            (Op::Settled, _) => Op::KillClients { keep },
            _ => {
                demotion.pause = Some(now + PAUSE);
                self.work = Work::Demote(demotion);
                return;
            }
        };
        self.demotion_step(now, demotion, next, out);
    }

    pub(super) fn demotion_waits(&mut self, now: Moment, out: &mut Vec<Action>) {
        let kills = !self.is_planted(Planted::NoKill);
        let Work::Demote(demotion) = &mut self.work else { return };
        if !self.unit && self.probe.is_none() {
            let demotion = demotion.clone();
            self.give_up(out);
            return self.demoted(now, demotion, None, out);
        }
        let killing = self.running.as_ref().is_some_and(|running| running.op == Op::KillServer);
        if now >= demotion.by && !killing && kills {
            demotion.pause = None;
            self.kill_server(now, OVERDUE, out);
        } else if demotion.pause.is_some_and(|at| now >= at) {
            demotion.pause = None;
            let demotion = demotion.clone();
            self.demotion_step(now, demotion, Op::ReadOnly, out);
        }
    }

    /// `has`: it takes no writes, and this is what it has.
    fn demoted(&mut self, now: Moment, demotion: Demotion, has: Option<Gtids>, out: &mut Vec<Action>) {
        self.work = Work::Idle;
        let clean = demotion.read_only;
        if demotion.hands_over {
            let received = self.has_or_will();
            let tell = has.map_or(Tell::LetGo, |has| Tell::HandedOver { has: has.union(&received) });
            if self.channel {
                out.push(Action::Tell(Box::new(tell.clone())));
            }
            self.suspect |= tell == Tell::LetGo;
            self.let_go = Some(tell);
        }
        if let Some(serial) = demotion.serial {
            out.push(Action::Say(Word::Demoted { serial, clean }));
        }
        self.again_at = now;
        self.touched(now);
    }

    pub(super) fn work_deadline(&self, now: Moment) -> Option<Moment> {
        match &self.work {
            Work::Promote(promotion) => Self::promotion_ends_at(now, promotion),
            Work::Demote(demotion) => Some(demotion.pause.map_or(demotion.by, |at| at.min(demotion.by))),
            Work::Idle | Work::Single => None,
        }
    }
}
