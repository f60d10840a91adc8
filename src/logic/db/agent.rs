//! The agent: what it may do next, from what the server, the election and the peer's agent said.
//!
//! ```text
//!   no role:  read-only ─▶ histories compared ─▶ replicates ─▶ in step (could be ACTIVE)
//!   Promote:  hand-over heard, or drained ─▶ applied ─▶ semi-sync on ─▶ read-write ─▶ told
//!   Demote:   read-only ─▶ clients ended ─▶ nothing moves any more ─▶ handed over, told
//! ```
//!
//! Operations run one at a time and follow each other on their answers, never on a timer; each is bounded. Whatever was begun, the
//! lease's end (`Until`) and a demotion come before it.
//!
//! Absent on purpose: SQL, and which of the nodes should have the role (dre-elect says; this holds it back).

use std::time::Duration;

use super::facts::{
    Action, Answer, Command, Durability, Event, Failure, Gtids, Op, Probe, Record, RelayLost, Replica, Tell,
};
use super::gtids::Who;
use crate::database::{Charge, Word};
use crate::logic::time::Moment;
use crate::notice::Priority;

mod demote;
mod promote;
mod replicate;
mod shown;
#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod sim;
mod state;

pub use state::Health;

/// The server is looked at this often, and an answer is waited for as long.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// So many looks in a row without an answer, and the server has failed.
const MISSES_MAX: u32 = 3;
/// After a look that found nobody: a connection that somebody killed is no dead server, and a dead one is known soon.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The shell says when a time is over; it may hang itself.
const SHELL_LATE: Duration = Duration::from_millis(200);
/// On the ACTIVE a row is written this often: it finds a full disk, and a hanging engine.
const WRITE_EVERY: Duration = Duration::from_secs(5);
const WRITE_WITHIN: Duration = Duration::from_secs(2);
/// How long a server that takes writes is left alone at the agent's start: the election process says within moments whether this node
/// has the role.
const CHARGE_WITHIN: Duration = Duration::from_secs(1);
/// What did not succeed is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// What is received is written down this often at most.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Beyond the lease's end the server is ended by force after this if it still takes writes.
const FORCE_AFTER: Duration = Duration::from_millis(500);
/// A deadline that is met later than this was slept through; what came meanwhile is read within a moment.
const STALLED: Duration = Duration::from_millis(50);
const QUEUE_WITHIN: Duration = Duration::from_millis(20);
/// An agent that is stopped waits so long for the role to go to the peer.
const STOP_WITHIN: Duration = Duration::from_secs(3);
/// How long an operator's word stands that the next promotion takes what is here. One of last week is not meant for today's failover.
const FORCE_FOR: Duration = Duration::from_secs(600);
/// How long a standby that tries to receive is not sent anything until the server is helped.
const UNSERVED_MAX: Duration = Duration::from_secs(10);
/// How long a standby that hears nothing of the ACTIVE stays one that could take over: that one may have gone on alone.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// From then on an ACTIVE that sees no standby knows that none could take over any more. Longer than [`SILENT_MAX`], whatever the clocks.
const ALONE_AFTER: Duration = Duration::from_secs(90);

/// What the agent must know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    pub durability: Durability,
    pub max_lag: Duration,
    pub relay_wait: Duration,
    pub on_relay_lost: RelayLost,
    pub keep_users: Vec<String>,
    /// D of the group.
    pub dead_after: Duration,
    /// For the commands that are named to an operator.
    pub group: String,
    pub peer: String,
}

/// What the election asks of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    /// Nothing was heard yet.
    Unknown,
    None,
    Active {
        term: u64,
        /// The server was made to take writes.
        writes: bool,
    },
}

/// What is under way, step by step.
#[derive(Debug, Clone, PartialEq)]
enum Work {
    Idle,
    Promote(promote::Promotion),
    Demote(demote::Demotion),
    /// One operation that belongs to nothing longer.
    Single,
}

/// An operation in flight.
#[derive(Debug, Clone)]
struct Running {
    id: u64,
    op: Op,
    by: Moment,
}

/// The peer's agent as it was last heard on this channel.
#[derive(Debug, Clone)]
struct Peer {
    at: Moment,
    server_id: u32,
    server_uuid: String,
    has: Gtids,
    purged: Gtids,
    read_only: bool,
    active: bool,
    term: u64,
    fit: bool,
    state: String,
    /// Its server does not answer.
    down: bool,
}

impl Peer {
    fn who(&self) -> Who<'_> {
        Who { id: self.server_id, uuid: &self.server_uuid }
    }
}

/// What the ACTIVE last said that it has.
#[derive(Debug, Clone)]
struct Ahead {
    at: Moment,
    has: Gtids,
    /// Its commits waited for this server: what is missing here was acknowledged to nobody.
    waited: bool,
}

/// The peer's last word as ACTIVE.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Handed {
    Has(Gtids),
    /// It could not say.
    Nothing,
}

/// How the source's side of semi-synchronous replication was set in this duty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SemiSet {
    Unknown,
    Off,
    On { waits_alone: bool },
}

#[derive(Debug, Clone)]
pub struct Agent {
    setup: Setup,
    started: Moment,
    record: Record,
    kept_at: Moment,
    /// Of the record's last change, if it was not written down yet.
    unkept: bool,

    duty: Duty,
    /// When the duty changed, or the server by our doing: looks and words from before say nothing of what is now.
    duty_since: Moment,
    /// The end of the last single operation: the next one wants a look that is newer.
    acted: Moment,
    until: Moment,
    /// The lease's end was not seen in time, so this process stood still: newer words may lie in its queue. Until when they are awaited.
    stalled: Option<Moment>,
    /// The term that was given up because its lease was not renewed.
    lapsed: Option<u64>,
    stream: bool,
    channel: bool,
    channel_since: Moment,
    /// The peer's election process; `None`: nothing was said of it.
    peer_heard: Option<bool>,

    probe: Option<Box<Probe>>,
    /// When the look that gave `probe` was begun, and when it was answered.
    seen: Moment,
    looked: Moment,
    /// When the look that is not answered yet was begun.
    probing: Option<Moment>,
    misses: u32,
    /// When the server was found to have been started anew. What it has lost by that, the peer knows.
    anew: Option<Moment>,
    next_probe: Moment,
    unit: bool,

    peer: Option<Peer>,
    /// When the peer's agent was last told where this one stands, and what.
    told_at: Moment,
    told: Option<Box<Tell>>,
    said: Option<Option<String>>,
    alarm: Option<String>,
    /// What was handed over and still holds.
    let_go: Option<Tell>,

    work: Work,
    running: Option<Running>,
    next_id: u64,
    /// Not before this is a single operation tried again.
    again_at: Moment,
    next_write: Moment,
    write_failed: Option<String>,
    semi: SemiSet,

    /// When this server was last seen in step: replicating, with the right histories, not far behind.
    in_step: Option<Moment>,
    ahead: Option<Ahead>,
    /// How many of its transactions are missing here that were acknowledged without this server.
    left_behind: u64,
    /// Histories were compared, and found sound.
    compared: bool,
    /// What the ACTIVE had and is not applied here, and since when.
    lags: Option<(Moment, Gtids)>,
    /// The role went without a hand-over: no event of the peer's is taken in before histories were compared again.
    suspect: bool,
    /// On the ACTIVE: the peer's history was found to be part of this one, so the way back may stand.
    ring: bool,
    /// On the ACTIVE: when a standby was last seen.
    accompanied: Moment,
    /// Since when the standby tries to receive, and this server sends it nothing.
    unserved: Option<Moment>,
    /// An operator said that the next promotion takes what is here, whatever is missing; until when.
    forced: Option<Moment>,
    /// What the peer handed over, and has been used for nothing yet.
    handed: Option<Handed>,
    relay_lost: Option<u64>,
    /// Why the last promotion came to nothing.
    refused: Option<String>,
    health: Health,
    health_since: Moment,
    /// Since when the agent is being stopped.
    stopping: Option<Moment>,
    #[cfg(test)]
    planted: Planted,
}

impl Agent {
    pub fn new(now: Moment, setup: Setup, record: Record, out: &mut Vec<Action>) -> Self {
        out.push(Action::Probe { within: PROBE_EVERY });
        Self {
            setup,
            started: now,
            record,
            kept_at: now,
            unkept: false,
            duty: Duty::Unknown,
            duty_since: now,
            acted: Moment::ZERO,
            until: Moment::ZERO,
            stalled: None,
            lapsed: None,
            stream: false,
            channel: false,
            channel_since: now,
            peer_heard: None,
            probe: None,
            seen: Moment::ZERO,
            looked: Moment::ZERO,
            probing: Some(now),
            misses: 0,
            anew: None,
            next_probe: now + PROBE_EVERY,
            unit: true,
            peer: None,
            told_at: Moment::ZERO,
            told: None,
            said: None,
            alarm: None,
            let_go: None,
            work: Work::Idle,
            running: None,
            next_id: 1,
            again_at: now,
            next_write: now,
            write_failed: None,
            semi: SemiSet::Unknown,
            in_step: None,
            ahead: None,
            left_behind: 0,
            compared: false,
            lags: None,
            suspect: false,
            ring: false,
            accompanied: now,
            unserved: None,
            forced: None,
            handed: None,
            relay_lost: None,
            refused: None,
            health: Health::Starting,
            health_since: now,
            stopping: None,
            #[cfg(test)]
            planted: Planted::Nothing,
        }
    }

    pub fn handle(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        self.absorb(now, event, out);
        self.settle(now, out);
    }

    // ---- facts ---------------------------------------------------------------------------------------

    fn absorb(&mut self, now: Moment, event: Event, out: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Probed(result) => self.probed(now, result),
            Event::Done { id, result } => {
                if let Some(running) = self.running.take_if(|running| running.id == id) {
                    self.done(now, running.op, result, out);
                }
            }
            Event::Charged(charge) => self.charged(now, charge, out),
            Event::Stream { open } => {
                self.stream = open;
                (self.said, self.alarm) = (None, None);
            }
            Event::Told(tell) => self.told_by_peer(now, *tell),
            Event::Channel { open } => self.channel_is(now, open, out),
            Event::Unit { running } => {
                if self.unit != running {
                    self.unit = running;
                    self.next_probe = now;
                    if !running {
                        self.probe = None;
                    }
                }
            }
            Event::Asked(command) => self.asked(now, &command),
            Event::Stop => self.stopping = self.stopping.or(Some(now)),
        }
    }

    fn probed(&mut self, now: Moment, result: Result<Box<Probe>, Failure>) {
        let begun = self.probing.take().unwrap_or(now);
        match result {
            Ok(probe) => {
                self.misses = 0;
                // A server that was away is not the one that was known.
                let anew = self.probe.replace(probe).is_none() && self.looked > Moment::ZERO;
                (self.seen, self.looked) = (begun, now);
                if anew {
                    self.anew = Some(now);
                    self.touched(now);
                    // It may have lost what it had received and not applied; of the last moments nobody wrote down how much that was.
                    if self.setup.on_relay_lost == RelayLost::Block {
                        self.in_step = None;
                    }
                }
                self.watch_lag(now);
                self.left_behind = self.is_left_behind_by();
                self.watch_company(now);
            }
            Err(failure) => {
                self.misses += 1;
                if matches!(failure, Failure::Gone { .. }) {
                    self.next_probe = self.next_probe.min(now + LOOK_AGAIN);
                }
                if self.misses >= MISSES_MAX {
                    self.probe = None;
                }
            }
        }
    }

    fn told_by_peer(&mut self, now: Moment, tell: Tell) {
        match tell {
            Tell::Stand {
                server_id,
                server_uuid,
                has,
                purged,
                read_only,
                active,
                term,
                fit,
                state,
                semi_sync,
                flavor: _,
            } => {
                let waited = active && semi_sync && self.is_connected();
                self.ahead = Some(Ahead { at: now, has: has.clone(), waited });
                if active {
                    self.let_go = None;
                    if self.lags.is_none() {
                        self.lags = Some((now, has.clone()));
                    }
                    self.watch_lag(now);
                    // It took the role: what it handed over before is of an earlier story.
                    if !self.is_planted(Planted::StaleHandOver) {
                        self.handed = None;
                    }
                }
                self.peer = Some(Peer {
                    at: now,
                    server_id,
                    server_uuid,
                    has,
                    purged,
                    read_only,
                    active,
                    term,
                    fit,
                    state,
                    down: false,
                });
                if self.is_peer_forked() {
                    (self.ahead, self.left_behind) = (None, 0);
                }
                self.watch_company(now);
            }
            Tell::Down { state } => {
                if let Some(peer) = &mut self.peer {
                    (peer.down, peer.fit, peer.state) = (true, false, state);
                }
            }
            Tell::HandedOver { has } => self.handed = Some(Handed::Has(has)),
            Tell::LetGo => self.handed = Some(Handed::Nothing),
        }
    }

    fn channel_is(&mut self, now: Moment, open: bool, out: &mut Vec<Action>) {
        self.channel = open;
        self.channel_since = now;
        // What it was is no fact of what it will come back as.
        self.peer = None;
        if !self.is_planted(Planted::StaleHandOver) {
            self.handed = None;
        }
        if open {
            self.told = None;
            if let Some(tell) = &self.let_go {
                out.push(Action::Tell(Box::new(tell.clone())));
            }
        }
        self.watch_company(now);
    }

    fn charged(&mut self, now: Moment, charge: Charge, out: &mut Vec<Action>) {
        match charge {
            Charge::Promote { term, planned, force } => {
                self.begin_promotion(now, term, planned, force || self.forced.is_some(), out);
                // Until the first word of the lease comes; it follows at once.
                self.until = self.until.max(now + self.setup.dead_after);
            }
            Charge::Until { term, until } => {
                if matches!(self.duty, Duty::Active { term: of, .. } if of == term) {
                    self.until = until;
                } else if self.lapsed == Some(term) && now < until {
                    // The election never gave it up: only its word was late.
                    self.begin_promotion(now, term, false, false, out);
                    self.until = until;
                }
            }
            Charge::Demote { serial, bound_ms } => {
                let by = now + Duration::from_millis(bound_ms.into());
                self.begin_demotion(now, Some(serial), by, out);
            }
            Charge::Peer { heard, .. } => self.peer_heard = Some(heard),
        }
    }

    fn begin_duty(&mut self, now: Moment, duty: Duty) {
        if matches!(self.duty, Duty::Active { .. }) && duty == Duty::None {
            self.compared = false;
        }
        if matches!(self.duty, Duty::Active { writes: true, .. }) {
            self.forced = None;
        }
        self.duty = duty;
        (self.duty_since, self.stalled, self.lapsed) = (now, None, None);
        self.semi = SemiSet::Unknown;
        self.accompanied = now;
        (self.write_failed, self.refused, self.relay_lost) = (None, None, None);
    }

    fn asked(&mut self, now: Moment, command: &Command) {
        if self.refuses(command).is_some() {
            return;
        }
        match command {
            Command::Promote { force } => {
                self.forced = force.then(|| now + FORCE_FOR);
                self.force_promotion(*force);
            }
            Command::AcceptErrant => {
                let alone = self.alone();
                self.change_record(|record| record.accepted = alone);
                self.kept_at = Moment::ZERO;
            }
            Command::Reseeded => {
                self.record = Record::default();
                self.unkept = true;
                self.kept_at = Moment::ZERO;
                self.relay_lost = None;
                (self.in_step, self.ahead, self.lags) = (None, None, None);
                (self.left_behind, self.compared, self.suspect) = (0, false, false);
            }
        }
    }

    /// An operator's word that nobody came to need.
    fn watch_force(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.forced.is_some_and(|until| now >= until) && !self.is_planted(Planted::ForcedForEver) {
            self.forced = None;
            out.push(Action::Note {
                priority: Priority::Notice,
                text: format!(
                    "no promotion came within {} min of db promote --force: the next one is one like any other",
                    FORCE_FOR.as_secs() / 60
                ),
            });
        }
    }

    // ---- operations ----------------------------------------------------------------------------------

    fn start(&mut self, now: Moment, op: Op, within: Duration, out: &mut Vec<Action>) {
        self.give_up(out);
        let id = self.next_id;
        self.next_id += 1;
        self.running = Some(Running { id, op: op.clone(), by: now + within + SHELL_LATE });
        out.push(Action::Do { id, op, within });
    }

    fn give_up(&mut self, out: &mut Vec<Action>) {
        if let Some(running) = self.running.take() {
            out.push(Action::Forget { id: running.id });
        }
    }

    fn done(&mut self, now: Moment, op: Op, result: Result<Answer, Failure>, out: &mut Vec<Action>) {
        match std::mem::replace(&mut self.work, Work::Idle) {
            Work::Idle => {}
            Work::Promote(promotion) => self.promotion_goes_on(now, promotion, &op, result, out),
            Work::Demote(demotion) => self.demotion_goes_on(now, demotion, &op, result, out),
            Work::Single => self.single_done(now, &op, result),
        }
    }

    fn single_done(&mut self, now: Moment, op: &Op, result: Result<Answer, Failure>) {
        self.next_probe = now;
        // What the server says of itself may be from before.
        self.again_at = now + if result.is_err() { AGAIN } else { Duration::ZERO };
        match op {
            Op::WriteTest => {
                self.next_write = now + WRITE_EVERY;
                let waits = self.probe.as_ref().is_some_and(|probe| probe.waiters > 0);
                self.write_failed = match result {
                    Ok(_) => None,
                    // It waits for the standby, as every commit does then; that is no failure of this server.
                    Err(Failure::Timeout) if waits => None,
                    Err(failure) => Some(failure.words()),
                };
            }
            Op::SemiSync { source: false, .. } if result.is_ok() => self.semi = SemiSet::Off,
            Op::SemiSync { wait_without_replica, .. } if result.is_ok() => {
                self.semi = SemiSet::On { waits_alone: *wait_without_replica };
            }
            _ => {}
        }
        self.acted = now;
    }

    /// The server is another than it was: older looks at it, and older words of the peer, say nothing of what is now.
    fn touched(&mut self, now: Moment) {
        self.duty_since = self.duty_since.max(now);
        self.next_probe = now;
    }

    // ---- rules ---------------------------------------------------------------------------------------

    fn settle(&mut self, now: Moment, out: &mut Vec<Action>) {
        if let Some(running) = self.running.take_if(|running| now >= running.by) {
            out.push(Action::Forget { id: running.id });
            self.done(now, running.op, Err(Failure::Timeout), out);
        }
        if self.probing.is_some_and(|since| now >= since + PROBE_EVERY + SHELL_LATE) {
            self.probed(now, Err(Failure::Timeout));
        }
        self.watch_force(now, out);
        if self.duty == Duty::Unknown && now >= self.started + CHARGE_WITHIN {
            self.duty = Duty::None;
        }
        self.watch_lease(now, out);
        self.promotion_waits(now, out);
        self.demotion_waits(now, out);
        if self.work == Work::Idle && self.running.is_none() {
            self.upkeep(now, out);
        }
        self.watch_health(now, out);
        self.keep(now, out);
        self.tell(now, out);
        if now >= self.next_probe && self.probing.is_none() {
            self.probing = Some(now);
            self.next_probe = now + PROBE_EVERY;
            out.push(Action::Probe { within: PROBE_EVERY });
        }
        self.stop(now, out);
    }

    /// The election is asked to take the role elsewhere first; a server that takes writes is not left alone.
    fn stop(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Some(since) = self.stopping else { return };
        match self.duty {
            Duty::Active { .. } if now >= since + STOP_WITHIN => {
                self.begin_demotion(now, None, now + STOP_WITHIN, out);
            }
            Duty::Active { .. } => {}
            Duty::Unknown | Duty::None if self.work == Work::Idle => out.push(Action::Exit),
            Duty::Unknown | Duty::None => {}
        }
    }

    /// A lease that was not renewed: whatever the election process says of it, nobody may write here any more.
    fn watch_lease(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Duty::Active { term, .. } = self.duty else { return };
        if now < self.until || self.is_planted(Planted::LeaseIgnored) {
            self.stalled = None;
            return;
        }
        if now > self.until + STALLED && self.stalled.is_none() {
            self.stalled = Some(now + QUEUE_WITHIN);
        }
        if self.stalled.is_none_or(|at| now >= at) {
            out.push(Action::Note {
                priority: Priority::Warning,
                text: "the lease was not renewed: the server is made read-only".into(),
            });
            self.suspect = true;
            self.begin_demotion(now, None, now + FORCE_AFTER, out);
            self.lapsed = Some(term);
        }
    }

    /// What the server is to be, one operation after the other.
    fn upkeep(&mut self, now: Moment, out: &mut Vec<Action>) {
        let Some(probe) = self.probe.as_deref() else { return };
        if self.seen < self.duty_since.max(self.acted) || now < self.again_at {
            return;
        }
        match self.duty {
            Duty::Unknown => {}
            Duty::None if !probe.read_only && !self.is_planted(Planted::WritableUnseen) => {
                out.push(Action::Note {
                    priority: Priority::Warning,
                    text: "the server takes writes and this node has no role: it is made read-only".into(),
                });
                self.begin_demotion(now, None, now + AGAIN * 2, out);
            }
            // A standby that is a source too delays its own applier.
            Duty::None if probe.semi_sync.enabled => {
                let op = Op::SemiSync {
                    source: false,
                    timeout_ms: self.timeout_ms(),
                    wait_without_replica: false,
                };
                self.single(now, op, WRITE_WITHIN, out);
            }
            Duty::None => self.keep_replicating(now, out),
            // A promotion that failed: the election decides whether it is tried again.
            Duty::Active { term, writes: false } => {
                if self.is_planted(Planted::ForcedAgain) && probe.read_only {
                    self.begin_promotion(now, term, false, true, out);
                }
            }
            // It was started anew under us: it comes up read-only.
            Duty::Active { term, .. } if probe.read_only => {
                self.begin_promotion(now, term, false, false, out);
            }
            Duty::Active { .. } => self.serve(now, out),
        }
    }

    fn serve(&mut self, now: Moment, out: &mut Vec<Action>) {
        if self.must_begin_to_send_anew(now) {
            out.push(Action::Note {
                priority: Priority::Warning,
                text:
                    "the standby tries to receive and is sent nothing: the server's part of it is begun anew"
                        .into(),
            });
            let op =
                Op::SemiSync { source: false, timeout_ms: self.timeout_ms(), wait_without_replica: false };
            self.single(now, op, WRITE_WITHIN, out);
        } else if let Some(op) = self.semi_sync_wanted(now) {
            self.single(now, op, WRITE_WITHIN, out);
        } else if now >= self.next_write {
            self.single(now, Op::WriteTest, WRITE_WITHIN, out);
        } else {
            self.close_the_ring(now, out);
        }
    }

    /// MariaDB 11.8: a standby that connects and goes again at once, as after a network that was away for some seconds, can leave the
    /// thread that served it behind for ever, and each later one waits for that one's end: nothing was replicated any more until the server
    /// was started anew. Turned off and on, the source's side lets all of them go. Nobody's commit waits for it then.
    fn must_begin_to_send_anew(&mut self, now: Moment) -> bool {
        let unserved = self.probe.as_ref().is_some_and(|probe| {
            let semi = &probe.semi_sync;
            semi.enabled && !semi.on && semi.replicas == 0 && probe.waiters == 0
        });
        let tries =
            |peer: &Peer| !peer.active && matches!(peer.state.as_str(), "IO_CONNECTING" | "LEFT_BEHIND");
        if !unserved || !self.fresh_peer().is_some_and(tries) {
            self.unserved = None;
            return false;
        }
        let since = *self.unserved.get_or_insert(now);
        let must = now >= since + UNSERVED_MAX;
        if must {
            self.unserved = None;
        }
        must
    }

    /// New settings, from now on. How the source's side is set follows with the next turn: it is not switched off for it, which would
    /// answer commits that wait.
    pub fn configure(&mut self, setup: Setup) {
        if self.setup != setup && matches!(self.semi, SemiSet::On { .. }) {
            self.semi = SemiSet::Unknown;
        }
        self.setup = setup;
    }

    /// How the source's side must be set, if it is not.
    fn semi_sync_wanted(&self, now: Moment) -> Option<Op> {
        let op = |source, waits_alone| Op::SemiSync {
            source,
            timeout_ms: self.timeout_ms(),
            wait_without_replica: waits_alone,
        };
        let wanted = self.waits_alone();
        let lost = self.probe.as_ref().is_some_and(|probe| !probe.semi_sync.enabled);
        match self.semi {
            // Switched off, those that wait are answered: only with the peer known to be dead and the lease held.
            SemiSet::On { waits_alone: true } if !wanted => (now < self.until).then(|| op(false, false)),
            SemiSet::On { waits_alone } if waits_alone == wanted && !lost => None,
            _ => Some(op(true, wanted)),
        }
    }

    /// Commits wait although no standby is connected.
    fn waits_alone(&self) -> bool {
        let dead = self.peer_heard == Some(false) || self.peer.as_ref().is_some_and(|peer| peer.down);
        let dead = dead || (self.is_planted(Planted::ReleasedEarly) && !self.channel);
        self.setup.durability == Durability::Strict && !dead
    }

    fn single(&mut self, now: Moment, op: Op, within: Duration, out: &mut Vec<Action>) {
        self.work = Work::Single;
        self.start(now, op, within, out);
    }

    /// How long a commit waits for the standby.
    fn timeout_ms(&self) -> u64 {
        match self.setup.durability {
            Durability::Available => 2_000,
            // Longer than the election needs to know that the standby is dead.
            Durability::Strict => {
                u64::try_from((self.setup.dead_after + Duration::from_secs(10)).as_millis())
                    .unwrap_or(u64::MAX)
            }
        }
    }

    fn replica(&self) -> Option<&Replica> {
        self.probe.as_ref()?.replica.as_ref()
    }

    fn who(&self) -> Who<'_> {
        self.probe
            .as_ref()
            .map_or(Who { id: 0, uuid: "" }, |probe| Who { id: probe.server_id, uuid: &probe.server_uuid })
    }

    fn change_record(&mut self, change: impl FnOnce(&mut Record)) {
        let before = self.record.clone();
        change(&mut self.record);
        self.unkept |= before != self.record;
    }

    fn keep_now(&mut self, now: Moment, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.unkept) {
            self.kept_at = now;
            out.push(Action::Keep(Box::new(self.record.clone())));
        }
    }

    fn keep(&mut self, now: Moment, out: &mut Vec<Action>) {
        // Of a server that has the role, what it once received is history.
        if !matches!(self.duty, Duty::Active { writes: true, .. })
            && let Some(received) =
                self.replica().map(|replica| replica.received.clone()).filter(|r| !r.is_empty())
        {
            let known = self.record.received.clone();
            let more = known.map_or_else(|| received.clone(), |known| known.union(&received));
            self.change_record(|record| record.received = Some(more));
        }
        if now >= self.kept_at + KEEP_EVERY {
            self.keep_now(now, out);
        }
    }

    /// The election and the peer's agent learn what changed.
    fn tell(&mut self, now: Moment, out: &mut Vec<Action>) {
        let why_not = self.why_not(now);
        // Before it is known whether this node has the role there is no answer: an agent that is started anew beside a server that serves
        // would seem to be one that could not.
        let known = self.duty != Duty::Unknown && !self.is_still_starting(now);
        if self.stream && known && self.said.as_ref() != Some(&why_not) {
            self.said = Some(why_not.clone());
            out.push(Action::Say(Word::Fit { why_not: why_not.clone() }));
        }
        if !self.channel {
            return;
        }
        let Some(tell) = self.stand(why_not.is_none()) else { return };
        if self.told.as_deref() != Some(&tell) || now >= self.told_at + PROBE_EVERY {
            self.told_at = now;
            self.told = Some(Box::new(tell.clone()));
            out.push(Action::Tell(Box::new(tell)));
        }
    }

    fn stand(&self, fit: bool) -> Option<Tell> {
        let state = self.health.word().to_owned();
        let writes = matches!(self.duty, Duty::Active { writes: true, .. });
        // What it had before the role came or went is not what counts now.
        let known = self.seen >= self.duty_since && self.misses == 0;
        let Some(probe) = self.probe.as_deref().filter(|_| known) else {
            return (self.misses > 1).then_some(Tell::Down { state });
        };
        Some(Tell::Stand {
            server_id: probe.server_id,
            server_uuid: probe.server_uuid.clone(),
            flavor: probe.flavor,
            has: if writes { probe.has.clone() } else { self.has_or_will() },
            purged: probe.purged.clone(),
            read_only: probe.read_only,
            active: writes,
            term: self.own_term(),
            fit,
            state,
            semi_sync: probe.semi_sync.on,
        })
    }

    /// What is received will be applied, unless the applier has found that it does not fit.
    fn has_or_will(&self) -> Gtids {
        let has = self.probe.as_ref().map_or_else(|| Gtids::MariaDb([].into()), |probe| probe.has.clone());
        let received = self.replica().filter(|replica| replica.applier_errno == 0);
        received.map_or_else(|| has.clone(), |replica| has.clone().union(&replica.received))
    }

    /// Of this server's newest promotion.
    fn own_term(&self) -> u64 {
        self.record.promoted.as_ref().map_or(0, |(term, _)| *term).max(self.record.meant)
    }

    /// Nothing is known yet, and that is no failure.
    fn is_still_starting(&self, now: Moment) -> bool {
        self.probe.is_none() && self.misses == 0 && now < self.started + PROBE_EVERY * 2
    }

    /// When something must be looked at again, whatever comes.
    pub fn next_deadline(&self, now: Moment) -> Moment {
        let active = matches!(self.duty, Duty::Active { .. });
        let idle = self.work == Work::Idle && self.running.is_none();
        [
            self.running.as_ref().map(|running| running.by),
            self.probing.map(|since| since + PROBE_EVERY + SHELL_LATE),
            self.probing.is_none().then_some(self.next_probe),
            (self.duty == Duty::Unknown).then_some(self.started + CHARGE_WITHIN),
            active.then_some(self.stalled.unwrap_or(self.until)),
            (active && idle).then_some(self.next_write),
            idle.then_some(self.again_at),
            self.work_deadline(now),
            self.unkept.then_some(self.kept_at + KEEP_EVERY),
            self.channel.then_some(self.told_at + PROBE_EVERY),
            self.stopping.map(|since| since + STOP_WITHIN),
            self.in_step.map(|at| at + SILENT_MAX),
            self.lags.as_ref().map(|(since, _)| *since + self.setup.max_lag),
            active.then_some(self.accompanied + ALONE_AFTER),
            self.forced,
            Some(self.started + PROBE_EVERY * 2),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
        .unwrap_or(now + PROBE_EVERY)
    }

    #[cfg(test)]
    fn is_planted(&self, bug: Planted) -> bool {
        self.planted == bug
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    const fn is_planted(&self, _: Planted) -> bool {
        false
    }
}

/// Bugs put in on purpose, to show that the tests' net catches fish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Planted {
    #[default]
    Nothing,
    /// A server that takes writes without the role is left alone.
    WritableUnseen,
    /// The lease's end is not watched.
    LeaseIgnored,
    /// What was handed over counts for ever.
    StaleHandOver,
    /// Commits are answered without the standby as soon as its agent is not heard.
    ReleasedEarly,
    /// Replication starts whatever the histories.
    NotCompared,
    /// A planned promotion does not wait for what the peer had.
    HandOverUnheard,
    /// What lies in the receiver's socket is thrown away.
    NotDrained,
    /// The receiver is stopped before the applier runs: MariaDB drops the relay log.
    ReceiverFirst,
    /// Read-write before what was received is applied.
    NotApplied,
    /// What was received once is not compared with what is there.
    RelayUncounted,
    /// In step once, in step for ever.
    InStepForEver,
    /// The ACTIVE that went on without this server is no matter.
    LeftBehindUnseen,
    /// After a start without the peer, whoever was ACTIVE once goes on.
    AloneByRecord,
    /// The peer came back, and the record still says that nobody could have gone on.
    AloneKept,
    /// Read-only is said before it is.
    DemotedUnseen,
    /// A server that does not answer is not killed.
    NoKill,
    /// Commits never wait for the standby.
    NoSemiSync,
    /// A promotion that was refused is tried again by force.
    ForcedAgain,
    /// An operator's force stands until it is used, whenever that is.
    ForcedForEver,
    /// What was accepted once makes every later fork one that is.
    AcceptedForEver,
}

#[cfg(test)]
mod tests;
