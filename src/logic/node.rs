//! The whole of dre-elect as one machine: events in, actions and the next deadline out.
//!
//! ```text
//!   datagram, pong, report, unit, command, tick ──▶ handle(now, event) ──▶ send, ping, order, role, notice
//!                                                        │
//!                                  lapse → absorb → settle (rules) → timers
//! ```
//!
//! The daemon's loop, the simulation and a replay drive the same code. Order inside a turn, and why:
//! 1. **lapse**: what ran out is dropped before anything is renewed. A node that thaws with an answer in its
//!    socket must not revive a lease that ended while it slept.
//! 2. **absorb**: the event becomes facts.
//! 3. **settle**: [`election::decide`] until it stays; each rule's effects.
//! 4. **timers**: heartbeats, pings, alarms that are due.
//!
//! Invariant: nothing that [`View`] shows changes before [`Node::next_deadline`] unless an event comes.
//!
//! Absent on purpose: sockets, clocks, files, tasks, logging; randomness (the session is an argument).

use std::collections::BTreeMap;
use std::time::Duration;

use super::election::{self, Peer, Rule, View};
use super::evidence::Evidence;
use super::group;
use super::lease::{By, Votes};
use super::liveness::{Grade, Heard, LinkState, Liveness};
use super::time::Moment;
use super::wire::{Codec, Flags, Heartbeat, LENGTH, Reject, Role, Wish};
use crate::database::{Charge, Word};
use crate::stream::{GateKind, Order, Report};

mod alarms;
mod database;
mod status;

pub use alarms::AlarmKey;

/// How often arbitrators are pinged in peace time, so that their silence is known before it matters.
const PEACE_PING: Duration = Duration::from_secs(1);
/// How long a node must have been fit again before it counts as fit: a flapping cable is not a repair.
const FIT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long a wish of the operator stands if it cannot be had.
const WISH_LASTS: Duration = Duration::from_secs(15);
/// How long a yielding node waits for the other to be active before it takes the role back.
const YIELD_LASTS: Duration = Duration::from_secs(5);
/// Alarms are looked at this often; nothing on the takeover path waits for them.
const HOUSEKEEPING: Duration = Duration::from_millis(200);
/// How long a node counts as unfit after systemd could not bring its active target up.
const UNREACHED_LASTS: Duration = Duration::from_secs(30);
/// More pings than this without an answer, and no evidence is gathered until an arbitrator is heard again: nothing could be claimed.
/// One may be lost, one under way; while it matters they go out so fast that an isolated node has stopped probing when the other
/// begins to look for silence.
const UNANSWERED_MAX: u32 = 3;
/// Per cent of the peer's heartbeats, on the worst link, up to which an answer stands for the next heartbeat.
const SPARE_LOSS: f64 = 2.0;

/// What the machine must know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    pub group: String,
    pub node: String,
    pub peer: Option<String>,
    pub links: Vec<String>,
    pub interval: Duration,
    pub dead_after: Duration,
    pub guard: Duration,
    pub arbitrators: Vec<String>,
    pub standalone: bool,
    /// Takes the role when both are free.
    pub first: bool,
    /// The configuration names this node as preferred.
    pub preferred: bool,
    pub failback: bool,
    /// How long the preferred node must be fit and in touch before failback takes the role.
    pub failback_hold: Duration,
    pub startup_hold: Duration,
    pub vips: Vec<String>,
    /// Units of the active role, of the standby role, of both nodes. [`Event::Unit`] counts them through in this order.
    pub services: Vec<String>,
    pub standby: Vec<String>,
    pub both: Vec<String>,
    /// A database's agent must have made its server ready before anybody is served.
    pub database: bool,
    pub digest: [u8; 32],
    pub sections: [u32; 8],
    pub section_names: [&'static str; 8],
}

/// A managed unit as systemd shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnitState {
    Unknown,
    /// systemd has no such unit, or cannot load it.
    Missing,
    Down,
    Failed,
    Starting,
    Up,
    Stopping,
}

impl UnitState {
    /// Nothing of it runs.
    pub const fn is_down(self) -> bool {
        matches!(self, Self::Missing | Self::Down | Self::Failed)
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Unknown => "not known to systemd yet",
            Self::Missing => "not there: systemd cannot load it",
            Self::Down => "not running",
            Self::Failed => "failed",
            Self::Starting => "still starting",
            Self::Up => "running",
            Self::Stopping => "still stopping",
        }
    }
}

/// A managed unit and when it last ran, or began not to.
#[derive(Debug, Clone, Copy)]
struct Unit {
    state: UnitState,
    since: Moment,
}

impl Unit {
    const fn new(now: Moment) -> Self {
        Self { state: UnitState::Unknown, since: now }
    }
}

/// Facts, as they happen.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// Nothing but time.
    Tick,
    Datagram {
        bytes: &'a [u8],
    },
    /// An arbitrator answered the echo that went out at `sent`.
    Pong {
        index: usize,
        sent: Moment,
        rtt: Duration,
    },
    /// The kernel (TIPC) says whether the peer's election process is there. Its word starts the evidence; it gives
    /// no vote and ends no promise.
    PeerProcess {
        present: bool,
    },
    /// The kernel (TIPC) says whether any link reaches the peer's node: words for the operator, nothing to decide by.
    PeerNode {
        reachable: bool,
    },
    /// The kernel (TIPC) knows the state of this link itself; `None`: it cannot be asked.
    Bearer {
        link: usize,
        up: Option<bool>,
    },
    /// What the kernel said of process, node and links holds no longer: it is not heard, or other sockets were opened.
    KernelSilent,
    /// Something outside is not as it should be (or is again): an alarm for the operator, nothing to decide by.
    Trouble {
        name: &'static str,
        text: Option<String>,
    },
    /// The lease stream to dre-vip opened or closed.
    Stream {
        open: bool,
    },
    Report(Report),
    /// The stream to dre-mysql opened or closed.
    DatabaseStream {
        open: bool,
    },
    Word(Word),
    /// A managed unit, by its index in [`Setup::services`], `standby` and `both`.
    Unit {
        index: usize,
        state: UnitState,
    },
    /// systemd can be asked (or not).
    Manager {
        connected: bool,
    },
    /// A role's target was reached, or why not.
    Target {
        target: Target,
        failed: Option<String>,
    },
    /// dre.service is being stopped, or the machine goes down.
    Stop,
    /// The machine does not go down after all.
    Stay,
}

/// What must be done, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Send {
        link: usize,
        bytes: Box<[u8; LENGTH]>,
    },
    /// One echo to every arbitrator, now.
    Ping,
    Order(Order),
    /// To dre-mysql.
    Charge(Charge),
    /// Start the target of this role.
    Target(Target),
    /// Write the term to disk (off the loop).
    KeepTerm(u64),
    Moved {
        from: Role,
        to: Role,
        rule: Rule,
        term: u64,
    },
    /// This node began to doubt its peer: the kernel withdrew the peer's name, or it has been silent for so long.
    Suspected {
        withdrawn: bool,
        silent: Duration,
    },
    Raised {
        alarm: AlarmKey,
        text: String,
    },
    Cleared {
        alarm: AlarmKey,
    },
    /// The clean stop is complete.
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    Active,
    Standby,
}

impl Target {
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Standby => "standby",
        }
    }
}

/// What an operator may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Switchover {
        to: Option<String>,
        force: bool,
    },
    /// `unit`: asked by dre-lease.service, with its invocation; else by a person.
    LeaseTake {
        unit: Option<String>,
        force: bool,
    },
    LeaseRelease {
        unit: Option<String>,
    },
}

/// A takeover as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Takeover {
    /// This node took the role; else the peer did.
    pub here: bool,
    pub gap: Duration,
    pub at: Moment,
    pub rule: Rule,
}

/// dre-vip as dre-elect knows it.
#[derive(Debug, Clone, Default)]
struct Vip {
    open: bool,
    armed: Option<GateKind>,
    digest: [u8; 32],
    /// Latest moment until which an order of ours may have opened the gate.
    open_until: Moment,
    /// dre-vip said that the gate is shut, and no order to hold went out since.
    shut: bool,
    /// Number of the last order to drop: an answer to an earlier one is no answer.
    serial: u64,
    /// Until when the gate is known to be kept open: dre-vip said it stored this deadline, or is about to.
    kept_until: Moment,
    /// The oldest order to hold that was not acknowledged.
    unacknowledged: Option<Moment>,
    /// The gate is open and the addresses usable since.
    serving: Option<Moment>,
    wanted: u32,
    held: u32,
    announced: u32,
    /// Why not, for those that are unfit.
    interfaces: BTreeMap<String, Option<String>>,
    alarms: BTreeMap<String, String>,
}

/// The peer's newest fresh words.
#[derive(Debug, Clone)]
struct PeerSays {
    role: Role,
    wish: Wish,
    flags: Flags,
    term: u64,
    dead_after: Duration,
    digest: [u8; 32],
    sections: [u32; 8],
    wall_ms: i64,
    /// When its gate shut, on our clock; late by the datagram's way.
    shut_at: Option<Moment>,
    since: Moment,
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Node {
    setup: Setup,
    codec: Option<Codec>,
    session: u64,
    started: Moment,

    role: Role,
    rule: Rule,
    since: Moment,
    term: u64,
    /// When the present term was claimed: acknowledgements of anything earlier count for nothing.
    claimed_at: Moment,

    liveness: Liveness,
    votes: Votes,
    evidence: Evidence,
    says: Option<PeerSays>,
    /// The kernel saw the peer's election process end.
    peer_gone: bool,
    /// The kernel has no link to the peer's node.
    peer_unreachable: bool,
    /// What the kernel says of each link, where it says anything.
    bearers: Vec<Option<bool>>,
    troubles: BTreeMap<&'static str, String>,
    vip: Vip,
    database: database::Database,
    units: Vec<Unit>,
    manager: Option<bool>,
    /// systemd could not bring the role's target up: which, since when, why.
    unreached: Option<(Target, Moment, String)>,
    /// The target that systemd reached last; none yet since the role was let go.
    reached: Option<Target>,

    wish: Wish,
    wish_until: Option<Moment>,
    force: bool,
    held_back: bool,
    /// The invocation of dre-lease.service that took the lease, and the term it stands for (0: not granted yet).
    lease_unit: Option<(String, u64)>,
    stopping: bool,
    exit_by: Option<Moment>,
    fit_since: Option<Moment>,
    was_unfit: bool,

    sequence: Vec<u64>,
    next_beat: Moment,
    /// Bit n: the peer was answered on link n since the last heartbeat of this node's own.
    answered: u8,
    last_ping: Moment,
    next_housekeeping: Moment,
    promised_wake: Moment,
    late: bool,
    wall_ms: i64,

    arbitrators: Vec<(Option<Moment>, Duration)>,
    /// When somebody else last answered for a VIP, in this round of evidence or an earlier one.
    foreign_at: Moment,
    /// Pings that went out since an arbitrator answered.
    unanswered: u32,
    own_shut_at: Option<Moment>,
    takeover: Option<Takeover>,
    takeover_rule: Rule,
    both_active: bool,
    /// Takes the role when both are free, and goes first in all else that needs an order, as far as both nodes know.
    first: bool,
    rejected: BTreeMap<Reject, u64>,
    last_rejected: Option<(Reject, Moment)>,
    alarms: BTreeMap<AlarmKey, (Moment, String)>,
    #[cfg(test)]
    pub(super) planted: Planted,
}

/// Bugs put in on purpose, to show that the tests' net catches fish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Planted {
    #[default]
    Nothing,
    /// The lease is counted from the acknowledgement's arrival, not from the question's sending.
    LeaseFromAnswer,
    /// The role counts as free while the gate may still be open.
    FreeBeforeShut,
    /// Silence and an arbitrator are enough: the wire is not asked.
    NoEvidence,
    /// A vote is given without the promise that goes with it.
    NoPromise,
    /// A gate that ran out opens again, whoever may have taken over.
    GateReopens,
    /// After a reload a longer D counts for answers to what was asked before it.
    SpanOfTheAnswer,
}

impl Node {
    /// A process that just started: in Releasing, as if it had been active. `restarted`: an earlier process of
    /// this boot ran; the node lets a fit peer go first, so that a crash loop does not pull the role to and fro.
    pub fn new(
        now: Moment,
        setup: Setup,
        codec: Option<Codec>,
        session: u64,
        term: u64,
        restarted: bool,
        out: &mut Vec<Action>,
    ) -> Self {
        out.push(Action::Target(Target::Standby));
        let links = setup.links.len();
        Self {
            liveness: Liveness::new(now, setup.dead_after, links, session),
            votes: Votes::new(setup.dead_after - setup.guard),
            evidence: Evidence::default(),
            says: None,
            peer_gone: false,
            peer_unreachable: false,
            bearers: vec![None; links],
            troubles: BTreeMap::new(),
            vip: Vip { open_until: now + setup.dead_after, ..Vip::default() },
            database: database::Database::default(),
            units: units_of(now, &setup),
            manager: None,
            unreached: None,
            reached: None,
            role: Role::Releasing,
            rule: Rule::Started,
            since: now,
            term,
            claimed_at: now,
            wish: if restarted { Wish::Yield } else { Wish::None },
            wish_until: restarted.then(|| now + YIELD_LASTS),
            force: false,
            held_back: false,
            lease_unit: None,
            stopping: false,
            exit_by: None,
            fit_since: None,
            was_unfit: false,
            sequence: vec![0; links],
            next_beat: now,
            answered: 0,
            last_ping: Moment::ZERO,
            next_housekeeping: now + setup.startup_hold.min(Duration::from_secs(1)),
            promised_wake: now,
            late: false,
            wall_ms: 0,
            arbitrators: vec![(None, Duration::ZERO); setup.arbitrators.len()],
            foreign_at: Moment::ZERO,
            unanswered: 0,
            own_shut_at: None,
            takeover: None,
            takeover_rule: Rule::Started,
            both_active: false,
            first: setup.first,
            rejected: BTreeMap::new(),
            last_rejected: None,
            alarms: BTreeMap::new(),
            #[cfg(test)]
            planted: Planted::Nothing,
            started: now,
            session,
            codec,
            setup,
        }
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

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn term(&self) -> u64 {
        self.term
    }

    /// The peer is there, by fresh datagrams.
    pub fn hears_peer(&self, now: Moment) -> bool {
        matches!(self.liveness.heard(now), Heard::Heard | Heard::Suspect)
    }

    /// What this node promised the peer.
    pub fn promised_until(&self) -> Moment {
        self.votes.promised_until()
    }

    pub fn since_start(&self, now: Moment) -> Duration {
        now.since(self.started)
    }

    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Why the node is what it is: what began the claim or the release, not that it was then carried out.
    pub fn reason(&self) -> Rule {
        match self.rule {
            Rule::LeaseGranted | Rule::ServicesDown => self.takeover_rule,
            rule => rule,
        }
    }

    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The wall clock, for the peer's skew alarm only.
    pub fn wall_clock(&mut self, ms: i64) {
        self.wall_ms = ms;
    }

    /// One turn.
    pub fn handle(&mut self, now: Moment, event: Event<'_>, out: &mut Vec<Action>) {
        self.begin_turn(now, out);
        self.absorb(now, event, out);
        self.end_turn(now, out);
    }

    /// What an operator asked; the refusal is a sentence with the remedy.
    pub fn command(&mut self, now: Moment, command: Command, out: &mut Vec<Action>) -> Result<(), String> {
        self.begin_turn(now, out);
        let answer = self.obey(now, command);
        self.end_turn(now, out);
        answer
    }

    /// New settings, without a change of role. Links are laid anew; everything heard stays heard only if the
    /// links did not change.
    pub fn reload(&mut self, now: Moment, setup: Setup, codec: Option<Codec>, out: &mut Vec<Action>) {
        self.begin_turn(now, out);
        if setup.links != self.setup.links || setup.dead_after != self.setup.dead_after {
            let fresh = Liveness::new(now, setup.dead_after, setup.links.len(), self.session);
            self.liveness = self.liveness.carried_over(fresh);
            self.sequence.resize(setup.links.len(), self.sequence.iter().copied().max().unwrap_or(0));
            self.bearers.resize(setup.links.len(), None);
        }
        let since = if self.is_planted(Planted::SpanOfTheAnswer) { Moment::ZERO } else { now };
        self.votes.set_span(since, setup.dead_after - setup.guard);
        if units_of(now, &setup).len() != self.units.len()
            || (&setup.services, &setup.standby, &setup.both)
                != (&self.setup.services, &self.setup.standby, &self.setup.both)
        {
            self.units = units_of(now, &setup);
        }
        self.arbitrators.resize(setup.arbitrators.len(), (None, Duration::ZERO));
        self.setup = setup;
        self.codec = codec;
        self.next_beat = now;
        out.push(Action::Order(Order::Adopt { digest: self.setup.digest }));
        if self.hears_peer(now) || !self.liveness.ever() {
            self.order();
        }
        self.end_turn(now, out);
    }

    fn begin_turn(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.late = now.since(self.promised_wake) >= self.setup.dead_after / 4;
        if matches!(self.role, Role::Active | Role::Claiming) {
            self.settle(now, out);
        }
    }

    fn end_turn(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.settle(now, out);
        self.timers(now, out);
        self.late = false;
        self.promised_wake = self.next_deadline(now);
    }

    // ---- facts ---------------------------------------------------------------------------------------

    fn absorb(&mut self, now: Moment, event: Event<'_>, out: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Datagram { bytes } => self.datagram(now, bytes, out),
            Event::Pong { index, sent, rtt } => {
                if let Some(seen) = self.arbitrators.get_mut(index) {
                    *seen = (seen.0.max(Some(sent)), rtt);
                    if self.third_counts(sent) {
                        self.votes.answered(sent);
                    }
                    self.evidence.answered(sent);
                    self.unanswered = 0;
                }
            }
            Event::PeerProcess { present } => {
                self.peer_gone = !present;
                self.next_housekeeping = now;
            }
            Event::PeerNode { reachable } => {
                self.peer_unreachable = !reachable;
                self.next_housekeeping = now;
            }
            Event::KernelSilent => {
                (self.peer_gone, self.peer_unreachable) = (false, false);
                self.bearers.fill(None);
                self.next_housekeeping = now;
            }
            Event::Bearer { link, up } => {
                if let Some(state) = self.bearers.get_mut(link) {
                    *state = up;
                    self.next_housekeeping = now;
                }
            }
            Event::Trouble { name, text } => {
                if self.troubles.get(name) != text.as_ref() {
                    self.next_housekeeping = now;
                    match text {
                        Some(text) => drop(self.troubles.insert(name, text)),
                        None => drop(self.troubles.remove(name)),
                    }
                }
            }
            Event::Stream { open } => {
                let (open_until, serial) = (self.vip.open_until, self.vip.serial);
                self.vip = Vip { open, open_until, serial, ..Vip::default() };
                // A round that was begun with another dre-vip is nobody's.
                self.evidence.end();
                if open {
                    out.push(Action::Order(Order::Adopt { digest: self.setup.digest }));
                }
            }
            Event::Report(report) => self.report(now, report, out),
            Event::DatabaseStream { open } => self.database_stream(now, open, out),
            Event::Word(word) => self.database_word(now, word, out),
            Event::Unit { index, state } => {
                if let Some(unit) = self.units.get_mut(index) {
                    if (unit.state == UnitState::Up) != (state == UnitState::Up) {
                        unit.since = now;
                    }
                    unit.state = state;
                }
            }
            Event::Manager { connected } => self.manager = Some(connected),
            Event::Target { target, failed } => {
                let settled = self.unreached.as_ref().is_some_and(|(which, ..)| *which == target);
                match failed {
                    Some(why) => self.unreached = Some((target, now, why)),
                    None => {
                        self.reached = Some(target);
                        if settled {
                            self.unreached = None;
                        }
                    }
                }
                self.next_housekeeping = now;
            }
            Event::Stop => {
                self.stopping = true;
                if self.wish != Wish::Yield {
                    self.set_wish(Wish::Yield, None);
                }
            }
            Event::Stay => {
                self.stopping = false;
                self.exit_by = None;
                if self.wish == Wish::Yield && !self.held_back {
                    self.set_wish(Wish::None, None);
                }
            }
        }
    }

    fn datagram(&mut self, now: Moment, bytes: &[u8], out: &mut Vec<Action>) {
        let Some(codec) = &self.codec else { return };
        let verified = codec.decode(bytes);
        let graded = verified.and_then(|hb| self.liveness.note(now, &hb).map(|grade| (hb, grade)));
        match graded {
            Err(reason) => {
                *self.rejected.entry(reason).or_default() += 1;
                // Duplicates and what was overtaken on the way are the network's doing, no stranger's.
                if reason != Reject::Replay {
                    self.last_rejected = Some((reason, now));
                }
            }
            Ok((hb, Grade::Unproven)) => self.listen_unproven(now, &hb),
            Ok((hb, Grade::Fresh { newest })) => {
                if newest {
                    self.listen(now, &hb, out);
                }
                self.count_vote(now, &hb);
                // An answer is worth most at once: the lease counts from the question's sending.
                let asks = matches!(hb.role, Role::Claiming | Role::Active) && !hb.flags.answer;
                if asks && self.role == Role::Standby {
                    let link = usize::from(hb.link);
                    self.send(now, link, true, out);
                    self.spare_beat(now, link, now.since(Moment::from_nanos(hb.echo_sent)));
                }
            }
        }
    }

    /// What the peer's present process says, though it has not yet shown that it hears this node: nothing is decided by it, but what
    /// makes this node more careful counts.
    fn listen_unproven(&mut self, now: Moment, hb: &Heartbeat) {
        if self.liveness.peer_session() != hb.session {
            return;
        }
        if let Some(says) = &mut self.says {
            // A vote may be counted by it: the promise must last as long as the lease that stands on it.
            says.dead_after = says.dead_after.max(Duration::from_micros(u64::from(hb.dead_after_us)));
        }
        // When links heal, one of two active nodes yields to the first word it hears: the other may hear of that no sooner.
        if self.role == Role::Active && hb.role == Role::Active && !self.both_active {
            self.both_active = true;
            self.next_housekeeping = now;
        }
    }

    /// The newest fresh words of the peer.
    fn listen(&mut self, now: Moment, hb: &Heartbeat, out: &mut Vec<Action>) {
        let before = self.says.as_ref().map(|s| (s.role, s.flags.serving));
        let since = match &self.says {
            Some(says) if says.role == hb.role => says.since,
            _ => now,
        };
        let shut_at = match hb.shut_ago_us {
            0 => None,
            ago => Some(now - Duration::from_micros(u64::from(ago))),
        };
        self.says = Some(PeerSays {
            role: hb.role,
            wish: hb.wish,
            flags: hb.flags,
            term: hb.term,
            dead_after: Duration::from_micros(u64::from(hb.dead_after_us)),
            digest: hb.digest,
            sections: hb.sections,
            wall_ms: hb.wall_ms,
            shut_at,
            since,
        });
        self.order();
        if hb.role == Role::Active && before.is_none_or(|(role, _)| role != Role::Active) {
            // The peer has it: what was asked of this node is done.
            self.held_back = false;
            if self.wish == Wish::Yield && !self.stopping {
                self.set_wish(Wish::None, None);
            }
        }
        let served = before.is_some_and(|(_, serving)| serving);
        if hb.flags.serving
            && !served
            && self.role != Role::Active
            && let Some(shut) = self.own_shut_at.take()
        {
            let gap = now.since(shut);
            self.takeover = Some(Takeover { here: false, gap, at: now, rule: self.takeover_rule });
        }
        let both = self.role == Role::Active && hb.role == Role::Active;
        if both != self.both_active {
            self.both_active = both;
            // It is over in a moment, and must be told all the same.
            self.next_housekeeping = now;
            // Both ends of the episode: caches that learnt the other's MAC must learn ours.
            if self.role == Role::Active {
                out.push(Action::Order(Order::Announce));
            }
        }
    }

    /// Who goes first. Two nodes in the middle of a reload may each think so of itself, or of the other: while their
    /// configurations differ the names decide. What a node heard last of a peer that is gone is what that peer knows of it too.
    fn order(&mut self) {
        let differs = self.says.as_ref().is_some_and(|says| says.digest != self.setup.digest);
        self.first = match &self.setup.peer {
            Some(peer) if differs => self.setup.node < *peer,
            _ => self.setup.first,
        };
    }

    /// A fresh datagram may carry the peer's vote for the present claim.
    fn count_vote(&mut self, now: Moment, hb: &Heartbeat) {
        let sent = Moment::from_nanos(hb.echo_sent);
        let counted = if self.is_planted(Planted::LeaseFromAnswer) { now } else { sent };
        let mine = matches!(self.role, Role::Claiming | Role::Active) && hb.vote == self.term;
        if mine && hb.role == Role::Standby && sent >= self.claimed_at {
            self.votes.acknowledged(counted);
        }
    }

    fn report(&mut self, now: Moment, report: Report, out: &mut Vec<Action>) {
        if !self.vip.open {
            return;
        }
        match report {
            Report::Armed { gate, digest } => {
                if self.vip.armed.is_none() {
                    // A stream begins with the gate shut.
                    self.vip.shut = true;
                    self.vip.serving = None;
                }
                self.vip.armed = Some(gate);
                self.vip.digest = digest;
                if self.role == Role::Active
                    && !self.waits_for_database()
                    && (self.votes.peer_until() > now || self.is_planted(Planted::GateReopens))
                {
                    self.hold(now, true, out);
                }
            }
            Report::Stored { until } => {
                self.vip.kept_until = self.vip.kept_until.max(until);
                if until >= self.vip.open_until || self.role != Role::Active {
                    self.vip.unacknowledged = None;
                } else if self.vip.unacknowledged.is_some() {
                    self.vip.unacknowledged = Some(now);
                }
            }
            Report::Shut { serial } => {
                if serial == self.vip.serial {
                    self.vip.shut = true;
                }
                self.vip.serving = None;
                self.vip.kept_until = Moment::ZERO;
            }
            Report::Open { term, at } => {
                if term == self.term && self.role == Role::Active {
                    if self.vip.serving.is_none() {
                        self.measure(at);
                    }
                    self.vip.serving = Some(at);
                    self.own_shut_at = None;
                    // The peer measures the gap from this heartbeat.
                    self.next_beat = now;
                }
            }
            Report::Probed { round, at } => self.evidence.probed(round, at),
            Report::Foreign { round, at, vip, mac } => {
                self.foreign_at = self.foreign_at.max(at);
                self.evidence.foreign(round, at, vip, mac);
            }
            Report::Vips { wanted, held, announced } => {
                (self.vip.wanted, self.vip.held, self.vip.announced) = (wanted, held, announced);
            }
            Report::Interface { name, unfit } => {
                self.vip.interfaces.insert(name, unfit);
            }
            Report::Alarm { name, text: Some(text) } => {
                self.vip.alarms.insert(name, text);
            }
            Report::Alarm { name, text: None } => {
                self.vip.alarms.remove(&name);
            }
        }
    }

    fn measure(&mut self, opened: Moment) {
        let shut = match &self.says {
            Some(says) if says.shut_at.is_some() => says.shut_at,
            // It served when it was last heard; what it did after that nobody knows.
            Some(says) if says.flags.serving => Some(self.liveness.fresh_at()),
            _ => self.own_shut_at,
        };
        if let Some(shut) = shut {
            let gap = opened.since(shut);
            // Older than this it is another story: a first start, or a machine that was gone for long.
            if gap < Duration::from_secs(60) {
                self.takeover = Some(Takeover { here: true, gap, at: opened, rule: self.takeover_rule });
            }
        }
    }

    fn obey(&mut self, now: Moment, command: Command) -> Result<(), String> {
        match command {
            Command::Switchover { to, force } => {
                let here = to.as_deref().map(|to| to == self.setup.node);
                if let Some(to) = &to
                    && here == Some(false)
                    && Some(to) != self.setup.peer.as_ref()
                {
                    return Err(format!(
                        "there is no node {to:?} in this pair; say --to {} or --to {}",
                        self.setup.node,
                        self.setup.peer.as_deref().unwrap_or("(no peer)")
                    ));
                }
                match (self.role, here) {
                    (Role::Active, Some(true)) => Ok(()),
                    (Role::Active, _) => self.give(now, force),
                    (_, Some(false)) if self.peer_role(now) == Some(Role::Active) => Ok(()),
                    (_, Some(false)) => Err(format!(
                        "this node is {}, so it cannot hand the role over; run the command on the active node",
                        self.role.word()
                    )),
                    (_, _) => self.take(now, force),
                }
            }
            Command::LeaseTake { unit, force } => {
                // dre-lease.service of the role that was just let go: its start was under way, and its question comes when nobody
                // wants the answer any more. systemd is about to stop it.
                if unit.is_some() && self.role != Role::Active && self.lets_go_in_systemd() {
                    return Err(
                        "refused: systemd is still letting the role go on this node; try again in a moment"
                            .into(),
                    );
                }
                self.take(now, force)?;
                self.lease_unit =
                    unit.map(|unit| (unit, if self.role == Role::Active { self.term } else { 0 }));
                Ok(())
            }
            Command::LeaseRelease { unit } => {
                // The unit of an earlier term may stop late, when the role has come back: that is no wish.
                let current = unit.is_none_or(|unit| {
                    self.lease_unit.as_ref().is_some_and(|(taken, term)| *taken == unit && *term == self.term)
                });
                if current && matches!(self.role, Role::Active | Role::Claiming) {
                    self.held_back = true;
                    self.set_wish(Wish::Yield, None);
                }
                Ok(())
            }
        }
    }

    fn give(&mut self, now: Moment, force: bool) -> Result<(), String> {
        self.force = force;
        match self.view(now).peer {
            Peer::In { role: Role::Standby, ready: true, .. } => {
                self.set_wish(Wish::Yield, Some(now + YIELD_LASTS));
                Ok(())
            }
            _ => {
                self.force = false;
                Err(format!("switchover refused: {}; nothing was changed", self.peer_unready(now)))
            }
        }
    }

    fn take(&mut self, now: Moment, force: bool) -> Result<(), String> {
        if self.role == Role::Active {
            return Ok(());
        }
        if self.stopping {
            return Err(format!(
                "refused: {}.service is stopping on this node",
                group::unit("dre", &self.setup.group)
            ));
        }
        let unfit = self.unfit_reasons(now);
        if !unfit.is_empty() {
            return Err(format!("refused: this node is unfit ({}); mend that first", unfit.join(", ")));
        }
        if !force && self.differs(now) {
            return Err(format!(
                "refused: the configuration differs from the peer's in {}; make {} the same on both nodes and reload, or say --force",
                self.differing_sections(),
                group::file(&self.setup.group)
            ));
        }
        match self.view(now).peer {
            Peer::Lost if !self.arbitrator_lately(now) => {
                return Err(
                    "refused: neither the peer nor an arbitrator answers, so this node may be the one that \
                            is cut off; restore a heartbeat link or the way to the arbitrator"
                        .into(),
                );
            }
            Peer::Unproven => {
                return Err(
                    "refused: the peer is heard but does not hear this node, so it cannot let go; restore \
                            the heartbeat links"
                        .into(),
                );
            }
            _ => {}
        }
        self.held_back = false;
        self.force = force;
        self.set_wish(Wish::Take, Some(now + WISH_LASTS));
        Ok(())
    }

    /// The role was let go, and systemd has not reached the standby target since.
    fn lets_go_in_systemd(&self) -> bool {
        self.manager == Some(true) && self.reached.is_none()
    }

    fn set_wish(&mut self, wish: Wish, until: Option<Moment>) {
        self.wish = wish;
        self.wish_until = until;
    }

    // ---- what the rules see --------------------------------------------------------------------------

    /// All that the rules may look at, at `now`.
    pub fn view(&self, now: Moment) -> View {
        let peer = self.peer(now);
        let quiet = self.evidence.quiet(now) || self.is_planted(Planted::NoEvidence);
        let alone = quiet && self.may_go_alone(now);
        View {
            peer,
            lease: self.second_vote(now, alone, peer).0 > now,
            alone,
            fit: self.fit(now),
            held_back: self.held_back,
            wish: self.wish,
            first: self.first,
            outranked: self
                .says
                .as_ref()
                .is_some_and(|says| says.term > self.term || (says.term == self.term && !self.first)),
            settled: self.gate_shut(now) && self.services_down(now) && self.database_stopped(now),
            stopping: self.stopping,
            lapsed: self.role == Role::Active
                && (self.lapses_at(now).is_some_and(|at| now >= at) || self.is_overtaken(now)),
            late: self.late,
            claim_over: self.role == Role::Claiming && now >= self.since + self.setup.dead_after,
        }
    }

    /// All that a claim without the peer needs but a quiet wire.
    fn may_go_alone(&self, now: Moment) -> bool {
        let answered = self.setup.arbitrators.is_empty()
            || self.peer_is_given()
            || (self.evidence.arbitrator_answered().is_some() && self.votes.third_until() > now);
        answered && now >= self.held_until() && now >= self.served_until()
    }

    /// Until when somebody may serve who answered for a VIP longer than the peer's acknowledged lease can have lasted: it lives by the
    /// arbitrator, and its gate is open for up to D after its last ping. Three probes without an answer mean that a kernel fell
    /// silent, or only that it was busy for a moment; after D its gate is shut in both cases.
    fn served_until(&self) -> Moment {
        let d = self.setup.dead_after;
        if self.lives_on() { self.foreign_at + self.patient_period() + d } else { Moment::ZERO }
    }

    /// Somebody answered for a VIP when the peer's acknowledged lease had run out.
    fn lives_on(&self) -> bool {
        self.foreign_at > self.liveness.fresh_at() + self.setup.dead_after
    }

    /// Whether the arbitrator's answer to what was asked at `sent` is a vote. While the peer acknowledges, its acknowledgements are what
    /// the lease stands on: the peer knows of those and waits for them to run out. An answer that was asked for in peace would
    /// keep the gate of a node that freezes open for longer than that.
    fn third_counts(&self, sent: Moment) -> bool {
        match self.role {
            Role::Active => sent >= self.alone_at(),
            Role::Claiming => self.takeover_rule == Rule::PeerLost,
            Role::Standby | Role::Releasing => true,
        }
    }

    /// Before this nothing is claimed alone. A process that has heard the peer knows what it promised since; what an
    /// earlier process of this node promised lasts D.
    fn held_until(&self) -> Moment {
        match &self.says {
            Some(says) => self.started + self.setup.dead_after.max(says.dead_after),
            None => self.started + self.setup.startup_hold,
        }
    }

    /// How a link works: the kernel's word where it has one (a TIPC stream is moved to another link by the kernel, so
    /// its datagrams say nothing of one link), else the datagrams'.
    fn link(&self, now: Moment, index: usize) -> (LinkState, Duration, f64) {
        let (heard, rtt, loss) = self.liveness.link(now, index);
        match self.bearers.get(index) {
            Some(Some(true)) => (LinkState::Up, rtt, loss),
            Some(Some(false)) => (LinkState::Down, rtt, loss),
            _ => (heard, rtt, loss),
        }
    }

    /// Whether this link's round trip and loss are not its own but those of all heartbeats: the kernel chooses the link.
    fn is_shared(&self, index: usize) -> bool {
        self.bearers.get(index).is_some_and(Option::is_some)
    }

    fn peer(&self, now: Moment) -> Peer {
        match self.liveness.heard(now) {
            Heard::Heard | Heard::Suspect => match &self.says {
                Some(says) => Peer::In {
                    role: says.role,
                    ready: says.flags.fit
                        && says.wish != Wish::Yield
                        && (!self.differs(now) || self.force || says.flags.force),
                    wish: says.wish,
                },
                None => Peer::Unproven,
            },
            Heard::Unproven => Peer::Unproven,
            Heard::Lost if self.votes.promised_until() > now => Peer::Unproven,
            Heard::Lost => Peer::Lost,
        }
    }

    /// Until when the second of the three votes lasts, and whose it is. SELF is free whenever this node claims:
    /// a promise makes the peer [`Peer::Unproven`], and no claim starts then.
    fn second_vote(&self, now: Moment, alone: bool, peer: Peer) -> (Moment, By) {
        let span = self.votes.span();
        let by_peer = (self.votes.peer_until(), By::Peer);
        // To *become* active without the peer's word takes the evidence, now; to stay so, the answers alone: an
        // incumbent's own VIPs are the evidence that keeps the other away.
        let third_counts = self.role == Role::Active || (alone && peer == Peer::Lost);
        let third = match (third_counts, self.setup.arbitrators.is_empty()) {
            (false, _) => (Moment::ZERO, By::None),
            (true, _) if self.peer_is_given() => (now + span, By::Standalone),
            (true, true) => (now + span, By::Wire),
            (true, false) => (self.votes.third_until(), By::Arbitrator),
        };
        let best = if by_peer.0 >= third.0 { by_peer } else { third };
        if best.0 > now { best } else { (best.0, By::None) }
    }

    /// Standalone: the peer's vote counts as given, until a peer is heard.
    fn peer_is_given(&self) -> bool {
        self.setup.standalone && !self.liveness.ever()
    }

    /// When the lease ends, and what it stands on.
    pub fn lease(&self, now: Moment) -> (Moment, By) {
        let view = self.view(now);
        self.second_vote(now, view.alone, view.peer)
    }

    /// When an active node that no peer vouches for must let go, because its gate will have run out.
    fn lapses_at(&self, now: Moment) -> Option<Moment> {
        let alone = self.votes.peer_until() <= now && !self.peer_is_given();
        (alone && !self.waits_for_database() && !self.is_planted(Planted::GateReopens))
            .then_some(self.vip.kept_until)
    }

    fn gate_shut(&self, now: Moment) -> bool {
        self.vip.shut || now >= self.vip.open_until || self.is_planted(Planted::FreeBeforeShut)
    }

    fn services_down(&self, now: Moment) -> bool {
        match self.manager {
            Some(true) => self.of_active().all(|(_, unit)| unit.state.is_down()),
            // systemd cannot be asked. The gate is shut, nothing of this node answers for a VIP: waiting for
            // the bus would leave the pair without an active node.
            Some(false) => true,
            None => now >= self.started + self.setup.startup_hold,
        }
    }

    /// The units of the active role.
    fn of_active(&self) -> impl Iterator<Item = (&String, &Unit)> {
        self.setup.services.iter().zip(&self.units)
    }

    /// Fit now, and for long enough if it was unfit before.
    fn fit(&self, now: Moment) -> bool {
        !self.impaired(now)
            && self.fit_since.is_some_and(|since| !self.was_unfit || now >= since + FIT_AGAIN_AFTER)
    }

    /// Something speaks against running the services here. [`Self::unfit_reasons`] says what, in words.
    fn impaired(&self, now: Moment) -> bool {
        self.impaired_itself(now) || self.database_why_not(now).is_some()
    }

    fn impaired_itself(&self, now: Moment) -> bool {
        self.vip.armed.is_none()
            || self.hangs_at().is_some_and(|at| now >= at)
            || self.vip.interfaces.values().any(Option::is_some)
            || self.of_active().any(|(_, unit)| unit.state == UnitState::Failed)
            || self.cannot_serve_until().is_some_and(|until| now < until)
    }

    /// Nothing speaks against this node but that it has just given the role away.
    fn only_gave(&self, now: Moment) -> bool {
        self.gave_lately(now) && !self.impaired_itself(now)
    }

    /// A node whose active target systemd could not bring up gives the role to a fit peer, and lets a while pass before it
    /// thinks better of itself: nothing tells a standby that the cause is gone.
    fn cannot_serve_until(&self) -> Option<Moment> {
        match &self.unreached {
            Some((Target::Active, since, _)) => Some(*since + UNREACHED_LASTS),
            _ => None,
        }
    }

    /// Why this node could not run the services well; empty = nothing speaks against it.
    fn unfit_reasons(&self, now: Moment) -> Vec<String> {
        let mut why = vec![];
        if self.vip.armed.is_none() {
            why.push("dre-vip is not there".into());
        }
        if self.hangs_at().is_some_and(|at| now >= at) {
            why.push("dre-vip does not answer".into());
        }
        why.extend(self.vip.interfaces.values().flatten().cloned());
        for (name, unit) in self.of_active() {
            if unit.state == UnitState::Failed {
                why.push(format!("{name} failed"));
            }
        }
        if self.cannot_serve_until().is_some_and(|until| now < until)
            && let Some((_, _, cause)) = &self.unreached
        {
            why.push(format!("the active target could not be reached: {cause}"));
        }
        why.extend(self.database_why_not(now));
        if why.is_empty() && !self.fit(now) {
            why.push("it was unfit until a moment ago".into());
        }
        why
    }

    /// From when on an unacknowledged order means that dre-vip hangs: when what it stored last runs out. Until then it
    /// answers, and a machine that is merely loaded keeps its role.
    fn hangs_at(&self) -> Option<Moment> {
        self.vip.unacknowledged.map(|since| self.vip.kept_until.max(since + Duration::from_millis(20)))
    }

    /// No further orders to a dre-vip that owes an answer for this long: all of them would have to run out before the role is
    /// free, should it turn out to hang.
    fn holds_back(&self, now: Moment) -> bool {
        self.vip.unacknowledged.is_some_and(|since| now >= since + self.setup.dead_after / 4)
    }

    /// The peer is there and runs with another configuration. The last words of one that is gone say nothing of what it
    /// will come back with.
    fn differs(&self, now: Moment) -> bool {
        self.hears_peer(now) && self.says.as_ref().is_some_and(|says| says.digest != self.setup.digest)
    }

    fn differing_sections(&self) -> String {
        let Some(says) = &self.says else { return String::new() };
        let pairs = says.sections.iter().zip(&self.setup.sections).zip(self.setup.section_names);
        let names: Vec<_> = pairs.filter(|((a, b), _)| a != b).map(|(_, name)| name).collect();
        if names.is_empty() { "something this version does not name".into() } else { names.join(", ") }
    }

    fn peer_role(&self, now: Moment) -> Option<Role> {
        match self.peer(now) {
            Peer::In { role, .. } => Some(role),
            _ => None,
        }
    }

    fn peer_unready(&self, now: Moment) -> String {
        let peer = self.setup.peer.as_deref().unwrap_or("the peer");
        let command = |words| group::command(&self.setup.group, words);
        match (self.peer(now), &self.says) {
            (Peer::In { role: Role::Standby, .. }, Some(says)) if !says.flags.fit => {
                format!("{peer} is unfit to be active ({} there says why)", command("status"))
            }
            (Peer::In { role: Role::Standby, .. }, Some(says)) if says.wish == Wish::Yield => {
                format!("{peer} was told to stay out of it; run \"{}\" there", command("lease take"))
            }
            (Peer::In { role: Role::Standby, .. }, _) if self.differs(now) => format!(
                "the configuration of {peer} differs in {}; make {} the same on both nodes and reload, or say --force",
                self.differing_sections(),
                group::file(&self.setup.group)
            ),
            (Peer::In { role, .. }, _) => format!("{peer} is {}", role.word()),
            (Peer::Unproven, _) => format!("{peer} does not hear this node"),
            (Peer::Lost, _) => format!("{peer} is not heard on any link"),
        }
    }

    /// An arbitrator answered lately enough to say that this node is not cut off.
    fn arbitrator_lately(&self, now: Moment) -> bool {
        self.setup.arbitrators.is_empty() || self.peer_is_given() || self.arbitrators_up(now).any(|up| up)
    }

    fn arbitrators_up(&self, now: Moment) -> impl Iterator<Item = bool> + '_ {
        let lately = PEACE_PING * 2 + self.setup.dead_after;
        self.arbitrators.iter().map(move |(sent, _)| sent.is_some_and(|sent| now.since(sent) < lately))
    }

    // ---- rules and their effects ---------------------------------------------------------------------

    fn settle(&mut self, now: Moment, out: &mut Vec<Action>) {
        // Each role is left at most once a turn on any path; the bound is against a rule table gone wrong.
        for _ in 0..8 {
            self.watch_fitness(now);
            self.watch_wishes(now);
            self.watch_evidence(now, out);
            let view = self.view(now);
            let Some(rule) = election::decide(self.role, &view) else { break };
            self.go(now, rule, out);
        }
        if self.role == Role::Active && self.setup.database {
            self.serve_database(now, out);
        } else if self.role == Role::Active {
            self.hold(now, false, out);
        }
        self.watch_demotion(now, out);
    }

    fn watch_fitness(&mut self, now: Moment) {
        if self.impaired(now) {
            if self.only_gave(now) {
                return;
            }
            // The very first moments, before dre-vip is there, are no trouble that would need a proof of repair.
            self.was_unfit |= self.fit_since.is_some();
            self.fit_since = None;
        } else if self.fit_since.is_none() {
            self.fit_since = Some(now);
        }
    }

    fn watch_wishes(&mut self, now: Moment) {
        // The other cannot take what is not free yet: its time begins when it is.
        let waits = self.role == Role::Releasing && self.wish == Wish::Yield;
        if !waits && self.wish_until.is_some_and(|until| now >= until) {
            // The one who should have taken the role did not: the one who gave it away takes it back.
            let back = self.wish == Wish::Yield && self.rule == Rule::ServicesDown && !self.held_back;
            let take_back = back && self.takeover_rule == Rule::Switchover && self.own_shut_at.is_some();
            self.force = false;
            if take_back {
                self.set_wish(Wish::Take, Some(now + WISH_LASTS));
            } else {
                self.set_wish(Wish::None, None);
            }
        }
        if self.failback_at().is_some_and(|at| now >= at) {
            self.set_wish(Wish::Take, Some(now + WISH_LASTS));
        }
    }

    fn failback_at(&self) -> Option<Moment> {
        let says = self.says.as_ref()?;
        let may = self.setup.failback
            && self.setup.preferred
            && self.role == Role::Standby
            && self.wish == Wish::None
            && says.role == Role::Active;
        let since = says.since.max(self.since).max(self.fit_since?);
        may.then(|| since + self.setup.failback_hold)
    }

    /// A standby hears nothing fresh for D/2, or its peer's process is gone.
    fn suspects(&self, now: Moment) -> bool {
        let suspect = self.peer_gone || self.liveness.heard(now) != Heard::Heard;
        self.role == Role::Standby && suspect && now >= self.listens_until() && !self.stopping
    }

    /// Evidence is gathered while a standby suspects its peer, and could claim: the other node may be probing at the same time and
    /// defer to this one's probes.
    fn watch_evidence(&mut self, now: Moment, out: &mut Vec<Action>) {
        let asks = !self.setup.arbitrators.is_empty() && !self.peer_is_given();
        let isolated = asks && self.unanswered > UNANSWERED_MAX;
        let suspects = self.suspects(now) && self.fit(now) && !self.held_back && !isolated;
        let wanted = suspects || self.seeks_quiet(now);
        let patient = self.watches(now);
        let period = if patient { self.patient_period() } else { self.probe_period() };
        match (wanted, self.evidence.running()) {
            (true, None) => {
                let round = self.evidence.begin(now, period);
                out.push(Action::Order(self.probe(period, round)));
                out.push(Action::Suspected {
                    withdrawn: self.peer_gone,
                    silent: now.since(self.liveness.fresh_at()),
                });
                self.last_ping = Moment::ZERO;
            }
            // Who lived on fell silent just now. A new round: what the patient probes saw must not count, not even what still lies in the
            // queue of a process that stood still.
            (true, Some(_)) if self.evidence.is_patient() && !patient => {
                let round = self.evidence.begin(now, period);
                out.push(Action::Order(self.probe(period, round)));
                self.last_ping = Moment::ZERO;
            }
            // Somebody lives on; or after a reload.
            (true, Some(_)) if period != self.evidence.period() => {
                if patient {
                    self.evidence.watch(period);
                } else {
                    self.evidence.pace(period);
                }
                out.push(Action::Order(self.probe(period, self.evidence.round())));
            }
            // A claim stands on what was seen; the probes end with it.
            (false, Some(_)) if self.role != Role::Claiming => {
                self.evidence.end();
                out.push(Action::Order(self.probe(Duration::ZERO, self.evidence.round())));
            }
            (_, _) => {}
        }
    }

    /// At the start the links get their chance first: evidence is complete when the startup hold ends.
    fn listens_until(&self) -> Moment {
        if self.liveness.ever() {
            self.started
        } else {
            self.started + self.setup.startup_hold.saturating_sub(self.setup.dead_after / 2)
        }
    }

    fn probe(&self, period: Duration, round: u64) -> Order {
        let every_us = u32::try_from(period.as_micros()).unwrap_or(u32::MAX);
        // Exactly one of the two defers, whatever they think of who goes first: each may have learnt that in another state of things.
        let defer = self.setup.peer.as_ref().is_some_and(|peer| self.setup.node > *peer);
        Order::Probe { every_us, round, defer }
    }

    /// Whoever goes on answering after the peer's lease is only looked at now and then: it cannot be taken over from before D after its
    /// last answer, and that state may last for hours. From its first probe without an answer on the evidence is gathered anew, at
    /// the claim's pace: only probes that are close together show that nobody came in between.
    fn watches(&self, now: Moment) -> bool {
        let answered = self.evidence.foreign_holder().is_some();
        self.role == Role::Standby
            && answered
            && self.lives_on()
            && self.evidence.unanswered_at().is_none_or(|at| now < at)
    }

    /// Of [`Self::watches`]: sixteen probes a second at the default timing instead of a hundred.
    fn patient_period(&self) -> Duration {
        (self.setup.dead_after / 8).max(self.probe_period())
    }

    /// Three probes and the time for the last answer fit into D/2 with room; a claim against a frozen peer
    /// comes four periods after its kernel fell silent, so more than 10 ms would only be outage.
    fn probe_period(&self) -> Duration {
        (self.setup.dead_after / 12).clamp(Duration::from_millis(1), Duration::from_millis(10))
    }

    fn go(&mut self, now: Moment, rule: Rule, out: &mut Vec<Action>) {
        let (from, to) = (self.role, rule.leads_to());
        let mut forced = false;
        match to {
            Role::Claiming => {
                let seen = self.says.as_ref().map_or(0, |says| says.term);
                self.term = self.term.max(seen) + 1;
                self.claimed_at = now;
                // What was collected for an earlier claim is no vote for this one; what the arbitrator answered
                // in this round of evidence is.
                let third = self.evidence.arbitrator_answered();
                self.votes.drop_collected();
                if let (Rule::PeerLost, Some(sent)) = (rule, third) {
                    self.votes.answered(sent);
                }
                if rule != Rule::PeerLost {
                    self.votes.absolve();
                }
                self.takeover_rule = rule;
                out.push(Action::KeepTerm(self.term));
            }
            Role::Active => {
                if self.wish != Wish::None {
                    self.set_wish(Wish::None, None);
                }
                forced = self.force;
                self.force = false;
                if let Some((_, granted)) = &mut self.lease_unit
                    && *granted == 0
                {
                    *granted = self.term;
                }
            }
            Role::Releasing => {
                self.lease_unit = None;
                self.reached = None;
                self.vip.serial += 1;
                self.vip.serving = None;
                self.vip.unacknowledged = None;
                let gently = self.setup.database && self.stops_gently(rule);
                if !gently {
                    self.drop_gate(now, out);
                }
                if self.setup.database {
                    self.demote(now, gently, out);
                }
                self.takeover_rule = rule;
                self.votes.drop_collected();
                if matches!(rule, Rule::Unfit | Rule::Switchover) && self.wish != Wish::Yield {
                    self.set_wish(Wish::Yield, Some(now + YIELD_LASTS));
                }
            }
            Role::Standby => {
                self.votes.drop_collected();
                if from == Role::Releasing && self.wish == Wish::Yield && self.wish_until.is_some() {
                    self.wish_until = Some(now + YIELD_LASTS);
                }
            }
        }
        self.role = to;
        self.rule = rule;
        self.since = now;
        out.push(Action::Moved { from, to, rule, term: self.term });
        // The wire first, systemd after: an order to dre-vip above, the peer now, the target last.
        if to == Role::Active && self.setup.database {
            self.promote(now, forced, out);
        } else if to == Role::Active {
            self.hold(now, true, out);
        }
        self.beat(now, out);
        match to {
            Role::Active => out.push(Action::Target(Target::Active)),
            Role::Releasing => out.push(Action::Target(Target::Standby)),
            _ => {}
        }
    }

    /// Tells dre-vip how long it may answer. Again only when it is worth a packet.
    fn hold(&mut self, now: Moment, first: bool, out: &mut Vec<Action>) {
        let (until, by) = self.lease(now);
        if by == By::None || self.vip.armed.is_none() {
            return;
        }
        let worth = self.setup.interval.min(Duration::from_millis(20)) / 4;
        if first || (until >= self.vip.open_until + worth && !self.holds_back(now)) {
            self.vip.open_until = self.vip.open_until.max(until);
            self.vip.shut = false;
            self.vip.unacknowledged.get_or_insert(now);
            let open_by = match by {
                By::Peer | By::Standalone => until,
                // Two probe periods: a rival needs four to find the wire quiet.
                _ if self.is_planted(Planted::GateReopens) => until,
                _ if first => now + self.probe_period() * 2,
                _ => Moment::ZERO,
            };
            if first {
                // What dre-vip has for its answer; after that the gate is taken to be shut.
                self.vip.kept_until = self.vip.kept_until.max(now + self.setup.dead_after / 2);
            }
            out.push(Action::Order(Order::Hold { until, term: self.term, open_by }));
        }
    }

    // ---- time ----------------------------------------------------------------------------------------

    fn timers(&mut self, now: Moment, out: &mut Vec<Action>) {
        if now >= self.next_beat {
            self.beat(now, out);
        }
        if !self.setup.arbitrators.is_empty() && now >= self.last_ping + self.ping_period(now) {
            out.push(Action::Ping);
            self.last_ping = now;
            self.unanswered = self.unanswered.saturating_add(1);
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.watch_alarms(now, out);
        }
        if self.stopping && self.role == Role::Standby {
            // The peer needs this node's vote to take over at once: stay for it, but not for ever.
            let by = *self.exit_by.get_or_insert(now + self.setup.dead_after * 2);
            let taken = self.peer_role(now) == Some(Role::Active);
            if taken || now >= by || self.peer(now) == Peer::Lost {
                out.push(Action::Exit);
            }
        }
    }

    /// Often while it matters: a standby that gathers evidence, an active whose peer does not acknowledge.
    fn ping_period(&self, now: Moment) -> Duration {
        let urgent = match self.role {
            Role::Standby => self.suspects(now),
            Role::Claiming => true,
            Role::Active => self.peer_gone || self.alone_at() <= now,
            Role::Releasing => false,
        };
        if urgent {
            (self.setup.dead_after / 8).clamp(Duration::from_millis(2), Duration::from_millis(200))
        } else {
            PEACE_PING
        }
    }

    /// From when on an active node without acknowledgements asks the arbitrator: D/2 after the last one's sending.
    fn alone_at(&self) -> Moment {
        self.votes.peer_until() - (self.votes.span().saturating_sub(self.setup.dead_after / 2))
    }

    /// The next moment at which something changes or must be done if no event comes.
    pub fn next_deadline(&self, now: Moment) -> Moment {
        let later = |at: Moment| (at > now).then_some(at);
        let pings = (!self.setup.arbitrators.is_empty()).then(|| self.last_ping + self.ping_period(now));
        let lease = match self.role {
            Role::Active | Role::Claiming => {
                let (until, by) = self.lease(now);
                // A given vote is renewed by each turn: it ends only when no turn comes.
                matches!(by, By::Peer | By::Arbitrator).then_some(until)
            }
            _ => None,
        };
        let claiming = (self.role == Role::Claiming).then(|| self.since + self.setup.dead_after);
        let active = (self.role == Role::Active).then(|| self.alone_at());
        [
            Some(self.next_beat),
            Some(self.next_housekeeping),
            pings,
            lease,
            claiming,
            active,
            self.liveness.next_change(now),
            Some(self.votes.promised_until()),
            Some(self.votes.third_until()),
            Some(self.votes.peer_until()),
            self.evidence.unanswered_at(),
            self.evidence.quiet_at(),
            self.evidence.stale_at(),
            Some(self.served_until()),
            Some(self.vip.open_until),
            self.hangs_at(),
            self.cannot_serve_until(),
            (self.role == Role::Active).then_some(self.vip.kept_until),
            self.fit_since.map(|at| at + FIT_AGAIN_AFTER),
            self.wish_until,
            self.failback_at(),
            self.exit_by,
            Some(self.started + self.setup.startup_hold),
            Some(self.held_until()),
            Some(self.listens_until()),
        ]
        .into_iter()
        .chain(self.database_deadlines())
        .flatten()
        .filter_map(later)
        .min()
        .unwrap_or(now + self.setup.interval)
    }

    // ---- sending -------------------------------------------------------------------------------------

    fn beat(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.next_beat = now + self.setup.interval;
        self.answered = 0;
        for link in 0..self.sequence.len() {
            self.send(now, link, false, out);
        }
    }

    /// An answer says what the next heartbeat would: where one went out on every link, that heartbeat is left out. It comes a quarter
    /// of an interval late if nothing is asked any more. Only while hardly anything is lost, on the way here or back: otherwise each
    /// word is worth saying twice. `echo`: the age of what the peer heard last on this link; in peace the answer before this one.
    fn spare_beat(&mut self, now: Moment, link: usize, echo: Duration) {
        let bit = 1 << link;
        let came = echo < self.setup.interval * 3 / 2 && self.liveness.link(now, link).2 <= SPARE_LOSS;
        self.answered = if came { self.answered | bit } else { self.answered & !bit };
        let all = (0..self.sequence.len()).all(|link| self.answered & 1 << link != 0);
        if all && self.next_beat > now {
            self.answered = 0;
            self.next_beat = now + self.setup.interval + self.setup.interval / 4;
        }
    }

    fn send(&mut self, now: Moment, link: usize, answer: bool, out: &mut Vec<Action>) {
        let Some(codec) = self.codec.clone() else { return };
        let Some(sequence) = self.sequence.get_mut(link) else { return };
        *sequence += 1;
        let sequence = *sequence;
        let (echo_session, echo_sent, hold) = self.liveness.echo(now, link);
        let vote = self.vote(now, hold, echo_session);
        let micros = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
        let (until, by) = self.lease(now);
        let holds = matches!(self.role, Role::Active | Role::Claiming) && by != By::None;
        let hb = Heartbeat {
            link: u8::try_from(link).unwrap_or(u8::MAX),
            role: self.role,
            wish: self.wish,
            flags: Flags {
                answer,
                fit: self.fit(now) && !self.stopping && !self.held_back,
                serving: self.role == Role::Active && self.vip.serving.is_some(),
                standalone: self.setup.standalone,
                maintenance: false,
                force: self.force,
            },
            links_heard: self.liveness.links_heard(now),
            session: self.session,
            sequence,
            sent: now.as_nanos(),
            echo_session,
            echo_sent,
            echo_hold_us: micros(hold),
            dead_after_us: micros(self.setup.dead_after),
            lease_left_us: if holds { micros(now.until(until)) } else { 0 },
            shut_ago_us: self.own_shut_at.map_or(0, |at| micros(now.since(at)).max(1)),
            term: self.term,
            vote,
            wall_ms: self.wall_ms,
            digest: self.setup.digest,
            sections: self.setup.sections,
        };
        out.push(Action::Send { link, bytes: Box::new(codec.encode(&hb)) });
    }

    /// A standby votes for the one it hears claim or hold. The promise runs from the receipt of what is echoed,
    /// not from this sending: the holder's lease counts from before that, and a standby that repeated its
    /// vote with each heartbeat would promise for ever to a peer that fell silent.
    fn vote(&mut self, now: Moment, echo_hold: Duration, echo_session: u64) -> u64 {
        let Some(says) = &self.says else { return 0 };
        let asked = matches!(says.role, Role::Claiming | Role::Active);
        let there = matches!(self.liveness.heard(now), Heard::Heard | Heard::Suspect);
        if self.role != Role::Standby || !asked || !there || echo_session != self.liveness.peer_session() {
            return 0;
        }
        if self.is_planted(Planted::NoPromise) {
            return says.term;
        }
        self.votes.promise(now - echo_hold, self.setup.dead_after.max(says.dead_after));
        says.term
    }
}

fn units_of(now: Moment, setup: &Setup) -> Vec<Unit> {
    vec![Unit::new(now); setup.services.len() + setup.standby.len() + setup.both.len()]
}

#[cfg(test)]
pub(super) mod tests;
