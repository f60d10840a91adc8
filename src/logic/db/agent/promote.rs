//! Promotion, step by step.

use std::time::Duration;

use super::{Agent, Duty, Handed, Health, MISSES_MAX, Planted, SemiSet, Work};
use crate::database::Word;
use crate::logic::db::facts::{Action, Answer, Failure, Gtids, Op, Receiver, RelayLost, Tell};
use crate::logic::db::gtids::Who;
use crate::logic::group;
use crate::logic::time::Moment;
use crate::notice::Priority;

/// How long a planned promotion waits for what the peer hands over. The peer's own bound is shorter.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(4);
/// How long it waits for the peer's agent to be there: an interface that just came back, an agent that is started anew.
const CHANNEL_WITHIN: Duration = Duration::from_secs(2);
/// What the source sent last may still lie in a socket: nothing new for this long, and it is over. After a power loss nobody closes
/// the connection, and its end would be waited for for seconds.
const DRAINED_AFTER: Duration = Duration::from_millis(300);
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// While it is drained the server is looked at this often.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// A receiver whose source is dead may hang in its stop; the applier does not depend on it.
const STOP_WITHIN: Duration = Duration::from_millis(200);
/// One statement that the server answers at once if it answers at all.
const STATEMENT_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Promotion {
    pub term: u64,
    begun: Moment,
    force: bool,
    step: Step,
    /// What must be applied before anybody writes.
    target: Option<Gtids>,
    /// The peer said what it had last: it is part of this history.
    handed: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// The agent or the server was just started: it is looked at first, and the peer asked what it has of it.
    Starting {
        planned: bool,
    },
    /// The peer was asked to hand over, and has not said what it had.
    HandOver,
    Drain {
        read: (String, u64),
        since: Moment,
        begun: Moment,
    },
    StartApplier,
    StopReceiver,
    /// What was received while the receiver was being stopped counts too.
    Look {
        begun: Moment,
    },
    Apply,
    EndReplicas,
    SemiSync,
    Writable,
}

impl Agent {
    pub(super) fn begin_promotion(
        &mut self,
        now: Moment,
        term: u64,
        planned: bool,
        force: bool,
        out: &mut Vec<Action>,
    ) {
        // The agent or the server was started anew, or it is asked twice.
        let again = self.was_promoted(term);
        if self.is_unlooked(again) {
            self.give_up(out);
            self.begin_duty(now, Duty::Active { term, writes: false });
            let step = Step::Starting { planned };
            self.work =
                Work::Promote(Promotion { term, begun: now, force, step, target: None, handed: false });
            self.next_probe = now;
            return;
        }
        // By what is known until now: what comes next changes what is of now.
        let refused = self.forbids_promotion(now, again).filter(|_| !force);
        self.give_up(out);
        self.work = Work::Idle;
        self.begin_duty(now, Duty::Active { term, writes: false });
        if self.let_go.take().is_some() && self.channel {
            out.push(Action::Tell(Box::new(Tell::LetGo)));
        }
        let silent = self.probe.is_none().then(|| "the server does not answer".to_owned());
        if let Some(reason) = refused.or(silent) {
            return self.refuse(term, reason, out);
        }
        self.change_record(|record| record.meant = record.meant.max(term));
        self.keep_now(now, out);
        let alone = self.record.alone && self.peer.is_none();
        let replicates = self.replica().is_some() && !again && !alone;
        let waits = planned && !self.is_planted(Planted::HandOverUnheard);
        let step = match (replicates, waits) {
            (false, _) => Step::SemiSync,
            (true, true) => Step::HandOver,
            (true, false) => drain(now),
        };
        self.work = Work::Promote(Promotion { term, begun: now, force, step, target: None, handed: false });
        self.promotion_step(now, out);
    }

    fn was_promoted(&self, term: u64) -> bool {
        self.record.promoted.as_ref().is_some_and(|(known, _)| *known == term)
    }

    /// The server was not looked at yet, or not since the peer said what it has of it.
    fn is_unlooked(&self, again: bool) -> bool {
        let there = self.unit && self.misses < MISSES_MAX;
        there && (self.probe.is_none() || again && self.peer_must_be_asked())
    }

    /// An operator's word while a promotion is under way.
    pub(super) fn force_promotion(&mut self, force: bool) {
        if let Work::Promote(promotion) = &mut self.work {
            promotion.force |= force;
        }
    }

    /// Begins the operation of the present step, where it is one.
    fn promotion_step(&mut self, now: Moment, out: &mut Vec<Action>) {
        let unapplied = self.is_planted(Planted::NotApplied);
        let Work::Promote(promotion) = &mut self.work else { return };
        if unapplied && promotion.step == Step::Apply {
            promotion.step = Step::SemiSync;
        }
        let Work::Promote(promotion) = &self.work else { return };
        let (op, within) = match &promotion.step {
            Step::Starting { .. } | Step::HandOver => return,
            Step::Drain { .. } | Step::Look { .. } => {
                self.next_probe = now;
                return;
            }
            // What was handed over may still have to be fetched.
            Step::StartApplier if promotion.handed => (Op::StartReplication, STATEMENT_WITHIN),
            Step::StartApplier => (Op::StartApplier, STATEMENT_WITHIN),
            Step::StopReceiver => (Op::StopReceiver, STOP_WITHIN),
            Step::Apply => {
                let target = promotion.target.clone().unwrap_or_else(|| self.has());
                (Op::WaitApplied { target }, self.setup.relay_wait)
            }
            Step::EndReplicas => (Op::EndReplicas, STATEMENT_WITHIN),
            Step::SemiSync => {
                let op = Op::SemiSync {
                    source: !self.is_planted(Planted::NoSemiSync),
                    timeout_ms: self.timeout_ms(),
                    wait_without_replica: self.waits_alone(),
                };
                (op, STATEMENT_WITHIN)
            }
            Step::Writable => {
                self.will_be_promoted(now, out);
                (Op::Writable, STATEMENT_WITHIN)
            }
        };
        self.start(now, op, within, out);
    }

    fn has(&self) -> Gtids {
        self.probe.as_ref().map_or_else(|| Gtids::MariaDb([].into()), |probe| probe.has.clone())
    }

    /// Written down before the first write: who was ACTIVE last is asked after a death at any moment.
    fn will_be_promoted(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Work::Promote(promotion) = &self.work else { return };
        let (term, target) = (promotion.term, promotion.target.clone());
        if self.was_promoted(term) {
            return;
        }
        let has = self.has();
        let has = target.map_or_else(|| has.clone(), |target| has.clone().union(&target));
        self.change_record(|record| record.promoted = Some((term, has)));
        self.keep_now(now, out);
    }

    /// What a promotion waits for without an operation: the peer's word, the last of what it sent.
    pub(super) fn promotion_waits(&mut self, now: Moment, out: &mut Vec<Action>) {
        let (undrained, receiver_first) =
            (self.is_planted(Planted::NotDrained), self.is_planted(Planted::ReceiverFirst));
        let Work::Promote(promotion) = &mut self.work else { return };
        match &mut promotion.step {
            Step::Starting { planned } => {
                let (term, planned, force) = (promotion.term, *planned, promotion.force);
                let (begun, again) = (promotion.begun, self.was_promoted(term));
                if now >= begun + CHANNEL_WITHIN {
                    self.anew = None;
                }
                if !self.is_unlooked(again) {
                    self.begin_promotion(now, term, planned, force, out);
                } else if self.channel && self.peer.as_ref().is_some_and(|peer| self.seen < peer.at) {
                    self.next_probe = now;
                }
            }
            Step::HandOver => {
                match self.handed.take() {
                    Some(Handed::Has(has)) => return self.take_over_from(now, has, out),
                    // The server there is dead, or its agent: what arrived is what there is.
                    Some(Handed::Nothing) => promotion.step = drain(now),
                    None if !self.channel && now >= promotion.begun + CHANNEL_WITHIN => {
                        promotion.step = drain(now);
                    }
                    None if now >= promotion.begun + HAND_OVER_WITHIN => {
                        return self.promotion_fails(
                            "the peer handed the role over, but its agent did not say what its server had last; look at dre-mysql \
                             there",
                            out,
                        );
                    }
                    None => return,
                }
                self.promotion_step(now, out);
            }
            Step::Drain { read, since, begun } => {
                let begun = *begun;
                let Some(probe) = self.probe.as_deref().filter(|_| self.seen >= begun) else {
                    return self.look_is_late(now, begun, out);
                };
                let Some(replica) = &probe.replica else {
                    promotion.step = Step::SemiSync;
                    return self.promotion_step(now, out);
                };
                if replica.read != *read {
                    (*read, *since) = (replica.read.clone(), self.looked);
                }
                let quiet = self.looked.since(*since) >= DRAINED_AFTER;
                let flows = replica.receiver == Receiver::Connected && !quiet && now < begun + DRAIN_WITHIN;
                if flows && !undrained {
                    self.next_probe = self.next_probe.min(self.looked + DRAIN_LOOK);
                    return;
                }
                // MariaDB drops the relay log when both threads are stopped: the applier runs before the receiver ends.
                promotion.step =
                    if replica.applier || receiver_first { Step::StopReceiver } else { Step::StartApplier };
                self.promotion_step(now, out);
            }
            Step::Look { begun } => {
                let begun = *begun;
                if self.probe.is_none() || self.seen < begun {
                    return self.look_is_late(now, begun, out);
                }
                self.drained(now, out);
            }
            Step::Apply => self.watch_the_applier(now, out),
            _ => {}
        }
    }

    /// While what was received is applied: what stopped by itself will not come to an end, what somebody stopped is started again.
    fn watch_the_applier(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Work::Promote(promotion) = &mut self.work else { return };
        let since = self.acted.max(promotion.begun);
        let probe = self.probe.as_ref().filter(|_| self.seen >= since);
        let Some(replica) = probe.and_then(|probe| probe.replica.as_ref()) else { return };
        if replica.applier_errno != 0 {
            let words = format!(
                "SQL_STOPPED: the applier stopped: {} {}",
                replica.applier_errno, replica.applier_error
            );
            if promotion.force {
                promotion.step = Step::SemiSync;
                return self.promotion_step(now, out);
            }
            return self.promotion_fails(&words, out);
        }
        let comes = !promotion.handed || replica.receiver != Receiver::Stopped;
        if !(replica.applier && comes) {
            promotion.step = Step::StartApplier;
            self.promotion_step(now, out);
        }
    }

    /// The peer has said what it had last. It need not be a part of this history: it may have had the role for a moment, and a tail of
    /// its own from before.
    fn take_over_from(&mut self, now: Moment, handed: Gtids, out: &mut Vec<Action>) {
        let Some(probe) = self.probe.as_deref() else {
            return self.promotion_fails("the server does not answer", out);
        };
        let (who, term) = self.peer.as_ref().map_or((Who { id: 0, uuid: "" }, 0), |p| (p.who(), p.term));
        let here = self.errant(probe, &handed, who).filter(|_| handed.beyond(&probe.has).is_some());
        let runs = probe.replica.as_ref().is_some_and(|r| r.receiver != Receiver::Stopped && r.applier);
        let ours = self.own_term() > term;
        let Work::Promote(promotion) = &mut self.work else { return };
        match here {
            Some(missing) if !ours && !promotion.force => {
                let (words, hint) = Health::Diverged(missing).words(&self.setup.group);
                return self.promotion_fails(&format!("DIVERGED: {words}; {hint}"), out);
            }
            // What counts is here; nothing more is taken from there.
            Some(_) => promotion.step = Step::StopReceiver,
            None => {
                (promotion.target, promotion.handed) = (Some(handed), true);
                promotion.step = if runs { Step::Apply } else { Step::StartApplier };
            }
        }
        self.promotion_step(now, out);
    }

    fn look_is_late(&mut self, now: Moment, begun: Moment, out: &mut Vec<Action>) {
        if now >= begun + DRAIN_WITHIN * 2 || self.probe.is_none() {
            self.promotion_fails("the server does not answer", out);
        }
    }

    /// Nothing comes any more: what is here, and is it all that was?
    fn drained(&mut self, now: Moment, out: &mut Vec<Action>) {
        let received = self.replica().map(|replica| replica.received.clone());
        let here = received.map_or_else(|| self.has(), |received| self.has().union(&received));
        let lost = self.record.received.as_ref().map_or(0, |known| here.behind(known));
        let lost = if self.is_planted(Planted::RelayUncounted) { 0 } else { lost };
        let behind = self.is_left_behind_by();
        let Work::Promote(promotion) = &mut self.work else { return };
        if lost > 0 {
            self.relay_lost = Some(lost);
            out.push(Action::Note {
                priority: Priority::Error,
                text: format!(
                    "RELAY_LOST: {lost} transactions that this server had received are not in its relay log any more (it was started \
                     anew while the source was gone)"
                ),
            });
            if self.setup.on_relay_lost == RelayLost::Block && !promotion.force {
                let why = format!(
                    "RELAY_LOST: transactions that were received are not there any more; wait for the old node, or: {}",
                    group::command(&self.setup.group, "db promote --force")
                );
                return self.promotion_fails(&why, out);
            }
        }
        if behind > 0 && !promotion.force {
            let (words, hint) = Health::LeftBehind(behind, String::new()).words(&self.setup.group);
            return self.promotion_fails(&format!("LEFT_BEHIND: {words}; {hint}"), out);
        }
        promotion.target = Some(here);
        promotion.step = Step::Apply;
        self.promotion_step(now, out);
    }

    pub(super) fn promotion_goes_on(
        &mut self,
        now: Moment,
        mut promotion: Promotion,
        op: &Op,
        result: Result<Answer, Failure>,
        out: &mut Vec<Action>,
    ) {
        let waits = matches!(op, Op::WaitApplied { .. });
        if let Err(failure) = result {
            let late = failure == Failure::Timeout;
            match (late, waits) {
                (true, true) if !promotion.force => {
                    out.push(Action::Note {
                        priority: Priority::Warning,
                        text: format!(
                            "the promotion waits for what was received to be applied, for {} s now",
                            now.since(promotion.begun).as_secs()
                        ),
                    });
                    self.work = Work::Promote(promotion);
                    return self.promotion_step(now, out);
                }
                // By force whatever is there; and a receiver that hangs in its stop holds nobody up.
                (true, true) => {}
                (true, false) if *op == Op::StopReceiver => {}
                _ => {
                    self.work = Work::Promote(promotion);
                    return self.promotion_fails(&failure.words(), out);
                }
            }
        } else if let Op::SemiSync { wait_without_replica, .. } = op {
            self.semi = SemiSet::On { waits_alone: *wait_without_replica };
        }
        self.acted = now;
        promotion.step = match promotion.step {
            Step::StartApplier if promotion.handed => Step::Apply,
            Step::StartApplier => Step::StopReceiver,
            Step::StopReceiver => Step::Look { begun: now },
            // The standby's receiver, as this server knows it, is as dead as its machine: no commit is to wait for it.
            Step::Apply if !promotion.handed => Step::EndReplicas,
            Step::Apply | Step::EndReplicas => Step::SemiSync,
            Step::SemiSync => Step::Writable,
            Step::Writable => return self.promoted(now, &promotion, out),
            step @ (Step::Starting { .. } | Step::HandOver | Step::Drain { .. } | Step::Look { .. }) => step,
        };
        self.work = Work::Promote(promotion);
        self.promotion_step(now, out);
    }

    fn promoted(&mut self, now: Moment, promotion: &Promotion, out: &mut Vec<Action>) {
        out.push(Action::Say(Word::Writable { term: promotion.term }));
        self.work = Work::Idle;
        self.duty = Duty::Active { term: promotion.term, writes: true };
        (self.write_failed, self.forced, self.suspect) = (None, None, false);
        // This server's own is what counts from here on.
        (self.in_step, self.ahead, self.lags, self.left_behind) = (None, None, None, 0);
        self.change_record(|record| record.received = None);
        (self.ring, self.anew) = (promotion.handed, None);
        (self.next_write, self.again_at, self.accompanied) = (now, now, now);
        self.touched(now);
    }

    fn promotion_fails(&mut self, reason: &str, out: &mut Vec<Action>) {
        let Work::Promote(promotion) = std::mem::replace(&mut self.work, Work::Idle) else { return };
        self.give_up(out);
        self.refuse(promotion.term, reason.into(), out);
    }

    fn refuse(&mut self, term: u64, reason: String, out: &mut Vec<Action>) {
        out.push(Action::Note { priority: Priority::Error, text: format!("the promotion failed: {reason}") });
        self.refused = Some(reason.clone());
        out.push(Action::Say(Word::Failed { term, reason }));
    }

    pub(super) fn promotion_ends_at(now: Moment, promotion: &Promotion) -> Option<Moment> {
        match &promotion.step {
            // The first one that matters is looked at, whatever the time.
            Step::Starting { .. } => Some(promotion.begun + CHANNEL_WITHIN),
            Step::HandOver if now < promotion.begun + CHANNEL_WITHIN => {
                Some(promotion.begun + CHANNEL_WITHIN)
            }
            Step::HandOver => Some(promotion.begun + HAND_OVER_WITHIN),
            Step::Drain { begun, .. } if now < *begun + DRAIN_WITHIN => Some(*begun + DRAIN_WITHIN),
            Step::Drain { begun, .. } | Step::Look { begun } => Some(*begun + DRAIN_WITHIN * 2),
            _ => None,
        }
    }

    /// It has the role, and does not take writes yet.
    pub(super) fn is_promoting(&self) -> bool {
        matches!(self.work, Work::Promote(_))
    }
}

fn drain(now: Moment) -> Step {
    Step::Drain { read: (String::new(), 0), since: now, begun: now }
}

impl Failure {
    /// For an operator.
    pub fn words(&self) -> String {
        match self {
            Self::Timeout => "the server did not answer in time".into(),
            Self::Sql { errno, text } => format!("the server refused: {errno} {text}"),
            Self::Gone { text } => format!("the server cannot be reached: {text}"),
            Self::Moving => {
                "somebody still writes to the server though it is read-only (an account with READ ONLY ADMIN)"
                    .into()
            }
        }
    }
}
