//! Two nodes, two links, an arbitrator and a service network on a virtual clock, under a printed seed.
//!
//! The same [`Node`] as in the daemon, the same bytes on the wire. What is modelled: datagrams (loss, delay,
//! reordering, duplicates, one-way cuts), the arbitrator, probes on the service network, dre-vip with the
//! kernel's gate (an absolute deadline that goes on counting when every process is frozen), processes killed,
//! stopped and restarted, whole nodes frozen, powered off, and paused with their clocks, clock drift, services
//! that take their time to stop, an operator who asks for things at the wrong moment, and who reloads one node or the other
//! with a longer D or a shorter one; and in one profile a database behind the role (`database`).
//!
//! Two phases: **safety** under anything; then everything is healed and **liveness** is demanded: exactly one node
//! serves within [`World::bound`], the other stands by, and nobody helps.
//!
//! `DRE_SIM_SEED=n cargo test sim` runs one seed with its trace; `DRE_SIM_SEEDS=n` runs as many.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::lease::By;
use super::node::{Action, Command, Event, Node, Planted, Setup, Target, UnitState};
use super::time::Moment;
use super::wire::{Codec, Role};
use crate::database::Word;
use crate::stream::{GateKind, Order, Report};

mod database;

use database::Server;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// splitmix64: small, known, good enough to shuffle faults.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Wake { node: usize, generation: u64 },
    Deliver { to: usize, incarnation: u64, bytes: Vec<u8> },
    ToVip { node: usize, stream: u64, order: Order },
    ToElect { node: usize, stream: u64, report: Report },
    Pong { node: usize, incarnation: u64, sent: Moment },
    Probe { node: usize, generation: u64 },
    Expire { node: usize },
    UnitsStopped { node: usize, serial: u64 },
    UnitsStarted { node: usize, serial: u64 },
    StartElect { node: usize },
    Connect { node: usize, incarnation: u64 },
    ServerConnects { node: usize, incarnation: u64 },
    ServerDone { node: usize, stream: u64, charge: u64, word: Word },
    ServerSays { node: usize, stream: u64, word: Word },
    Fault,
    Undo(Undo),
}

#[derive(Debug, Clone)]
enum Undo {
    ContElect(usize),
    ContVip(usize),
    Thaw(usize),
    Boot(usize),
    Resume(usize),
}

#[derive(Debug, Clone)]
enum Input {
    Bytes(Vec<u8>),
    Pong(Moment),
    Stream(bool),
    Report(Report),
    Unit(UnitState),
    Manager(bool),
    DatabaseStream(bool),
    Word(Word),
}

struct Machine {
    powered: bool,
    /// Paused with its clock: a virtual machine stopped by its host.
    paused_at: Option<u64>,
    /// True time that this machine's clock did not see.
    unseen: u64,
    resumed_at: u64,
    /// Parts per million by which its clock runs fast (may be negative).
    drift_ppm: i64,
    elect: Option<Node>,
    incarnation: u64,
    elect_stopped: bool,
    inbox: VecDeque<Input>,
    wake_generation: u64,
    wake_missed: bool,
    vip_stopped: bool,
    vip_inbox: VecDeque<Order>,
    /// The kernel's: absolute, on this machine's clock.
    gate: Moment,
    held_term: u64,
    stream: u64,
    stream_open: bool,
    /// A stream keeps its order: when the last message of each direction arrives.
    stream_order: [u64; 2],
    probing: Option<(u64, u32, bool)>,
    probe_generation: u64,
    units_up: bool,
    unit_serial: u64,
    term_on_disk: u64,
    arbitrator: bool,
    restart_in_boot: bool,
    /// `missed_max` in its file.
    missed: u32,
    server: Server,
}

/// What the run is allowed to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Profile {
    pub interval_ms: u64,
    pub missed: u32,
    pub arbitrator: bool,
    /// Machines may be paused with their clocks: the stated exception of DESIGN §8.3.
    pub pauses: bool,
    /// The service network may be cut: the stated limit of §8.2.
    pub lan_cuts: bool,
    /// How long a datagram is on its way when nothing is wrong, nanoseconds: from, to.
    pub delay: (u64, u64),
    /// There is a server to be made ready before anybody is served.
    pub database: bool,
    pub planted: Planted,
}

pub(crate) struct World {
    seed: u64,
    rng: Rng,
    now: u64,
    queue: BTreeMap<(u64, u64), Happening>,
    serial: u64,
    machines: [Machine; 2],
    profile: Profile,
    /// [from][link]: datagrams pass.
    links: [[bool; 2]; 2],
    loss: u64,
    duplicates: u64,
    delay: (u64, u64),
    lan: bool,
    /// Since when everything works.
    healed_at: Option<u64>,
    /// The last moment at which two may answer by DESIGN §8.2: no link works both ways, both reach the arbitrator, and the service
    /// network between them is cut.
    blind_at: u64,
    /// When no heartbeat could be relied on to pass, last.
    cut_at: u64,
    trace: bool,
    log: VecDeque<String>,
    pub(crate) takeovers: u64,
    pub(crate) roles_seen: std::collections::BTreeSet<&'static str>,
    pub(crate) violations: Vec<String>,
    /// True time in which two answered although the statement allows it (pauses, LAN cuts).
    pub(crate) excused: u64,
    both_since: Option<u64>,
}

impl World {
    pub(crate) fn new(seed: u64, profile: Profile) -> Self {
        let mut rng = Rng::new(seed);
        let machine = |rng: &mut Rng| Machine {
            powered: true,
            paused_at: None,
            unseen: 0,
            resumed_at: 0,
            drift_ppm: i64::try_from(rng.below(1001)).unwrap_or(0) - 500,
            elect: None,
            incarnation: 0,
            elect_stopped: false,
            inbox: VecDeque::new(),
            wake_generation: 0,
            wake_missed: false,
            vip_stopped: false,
            vip_inbox: VecDeque::new(),
            gate: Moment::ZERO,
            held_term: 0,
            stream: 0,
            stream_open: false,
            stream_order: [0; 2],
            probing: None,
            probe_generation: 0,
            units_up: false,
            unit_serial: 0,
            term_on_disk: 0,
            arbitrator: true,
            restart_in_boot: false,
            missed: profile.missed,
            server: Server::default(),
        };
        let machines = [machine(&mut rng), machine(&mut rng)];
        let mut world = Self {
            seed,
            rng,
            now: 1000 * SECOND,
            queue: BTreeMap::new(),
            serial: 0,
            machines,
            profile,
            links: [[true; 2]; 2],
            loss: 0,
            duplicates: 0,
            delay: profile.delay,
            lan: true,
            healed_at: None,
            blind_at: 0,
            cut_at: 0,
            trace: std::env::var("DRE_SIM_SEED").is_ok(),
            log: VecDeque::new(),
            takeovers: 0,
            roles_seen: std::collections::BTreeSet::new(),
            violations: vec![],
            excused: 0,
            both_since: None,
        };
        for node in 0..2 {
            let at = world.now + world.rng.below(50 * MS);
            world.at(at, Happening::StartElect { node });
        }
        world
    }

    fn setup(&self, node: usize) -> Setup {
        let interval = Duration::from_millis(self.profile.interval_ms);
        let missed = self.machines[node].missed;
        let dead_after = interval * missed;
        let guard = Duration::from_millis(2) + dead_after / 100;
        let names = ["hadev1", "hadev2"];
        Setup {
            group: "dre".into(),
            node: names[node].into(),
            peer: Some(names[1 - node].into()),
            links: vec!["primary".into(), "secondary".into()],
            interval,
            dead_after,
            guard,
            arbitrators: if self.profile.arbitrator { vec!["172.16.8.250".into()] } else { vec![] },
            standalone: false,
            first: node == 0,
            preferred: false,
            failback: false,
            failback_hold: Duration::from_secs(10),
            startup_hold: Duration::from_millis(500).max(dead_after * 2),
            vips: vec!["172.16.9.61".into()],
            services: vec!["diameter.service".into()],
            standby: vec![],
            both: vec![],
            database: self.profile.database,
            digest: [u8::try_from(missed).unwrap_or(0); 32],
            sections: [0; 8],
            section_names: ["a", "b", "c", "d", "e", "f", "g", "h"],
        }
    }

    fn codec(setup: &Setup) -> Codec {
        Codec::new(&[7; 32], "dre", &setup.node, setup.peer.as_deref().unwrap_or(""))
    }

    /// D of the profile, nanoseconds.
    fn dead_after(&self) -> u64 {
        self.profile.interval_ms * u64::from(self.profile.missed) * MS
    }

    /// From the moment on at which everything works, one node is active and serves within this: a daemon that was just killed
    /// starts again (460 ms here) and listens for its startup hold, a node that was unfit proves itself for a second, services stop
    /// (400 ms here), and the rest are a few round trips and D, to be generous.
    pub(crate) fn bound(&self) -> u64 {
        let hold = (500 * MS).max(self.dead_after() * 2);
        // A server that hangs is waited for, one that takes writes late too, and a promotion that failed is tried again.
        let server = if self.profile.database { 40 * SECOND } else { 0 };
        460 * MS + hold + SECOND + 400 * MS + self.dead_after() * 4 + server
    }

    // ---- clocks --------------------------------------------------------------------------------------

    fn local(&self, node: usize) -> Moment {
        let m = &self.machines[node];
        let seen = m.paused_at.unwrap_or(self.now) - m.unseen;
        let drift = i128::from(seen) * i128::from(m.drift_ppm) / 1_000_000;
        Moment::from_nanos(u64::try_from(i128::from(seen) + drift).unwrap_or(0))
    }

    fn true_time(&self, node: usize, local: Moment) -> u64 {
        let m = &self.machines[node];
        let seen = i128::from(local.as_nanos()) * 1_000_000 / (1_000_000 + i128::from(m.drift_ppm));
        u64::try_from(seen).unwrap_or(0) + m.unseen + 1_000
    }

    fn at(&mut self, when: u64, what: Happening) {
        self.serial += 1;
        self.queue.insert((when.max(self.now), self.serial), what);
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>12.3} ms {}", self.now as f64 / 1e6 - 1e6, line());
        } else {
            let line = format!("{:>12.3} ms {}", self.now as f64 / 1e6 - 1e6, line());
            self.log.push_back(line);
            if self.log.len() > 60 {
                self.log.pop_front();
            }
        }
    }

    // ---- the wire as a client sees it ----------------------------------------------------------------

    fn answers(&self, node: usize) -> bool {
        let m = &self.machines[node];
        m.powered && m.paused_at.is_none() && self.local(node) < m.gate
    }

    /// No heartbeat can be relied on to pass and be answered on any link: a path that works one way only is none, and under
    /// heavy loss whole D pass in silence.
    fn links_cut(&self) -> bool {
        self.loss > 15 || !(0..2).any(|link| self.links[0][link] && self.links[1][link])
    }

    fn wrong(&mut self, what: &str) {
        self.violations.push(format!(
            "seed {}: {what} at {:.3} ms; last lines:\n{}",
            self.seed,
            self.now as f64 / 1e6 - 1e6,
            self.log.iter().cloned().collect::<Vec<_>>().join("\n")
        ));
    }

    fn judge(&mut self) {
        if !self.lan && self.links_cut() && self.machines.iter().all(|m| m.arbitrator) {
            self.blind_at = self.now;
        }
        if self.links_cut() {
            self.cut_at = self.now;
        }
        let both = self.answers(0) && self.answers(1);
        match (both, self.both_since) {
            (true, None) => {
                self.both_since = Some(self.now);
                // The longest D that somebody may have been reloaded to.
                let lease = self.dead_after() * 2;
                let resumed = self.machines.iter().map(|m| m.resumed_at).max().unwrap_or(0);
                let paused = self.profile.pauses && resumed != 0 && self.now < resumed + lease * 2;
                // What was seen of a wire that was cut may lead to a claim a moment after it is whole again.
                let blind = self.blind_at != 0 && self.now < self.blind_at + lease;
                let excused = paused || blind;
                self.note(|| format!("BOTH ANSWER (excused: {excused})"));
                if !excused {
                    self.wrong("both nodes answer");
                }
            }
            // They hear each other again: the lower term yields to the first heartbeat.
            (true, Some(_)) if self.healed_at.is_some_and(|at| self.now > at + self.dead_after()) => {
                self.wrong("both nodes still answer after the healing");
            }
            // What is excused ends: with the lease of whoever was paused, or with the first heartbeats after a cut.
            (true, Some(since))
                if self.blind_at == 0 && self.now > since.max(self.cut_at) + self.dead_after() * 4 =>
            {
                self.wrong("both nodes answer for longer than a lease though they can hear each other");
            }
            (false, Some(since)) => {
                self.excused += self.now - since;
                self.both_since = None;
            }
            _ => {}
        }
    }

    // ---- running -------------------------------------------------------------------------------------

    pub(crate) fn run_until(&mut self, until: u64) {
        while let Some((&key, _)) = self.queue.first_key_value() {
            if key.0 > until || !self.violations.is_empty() {
                break;
            }
            let what = self.queue.remove(&key).expect("just seen");
            self.now = self.now.max(key.0);
            self.judge();
            self.happen(what);
            self.judge();
        }
        self.now = self.now.max(until);
        self.judge();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Wake { node, generation } => {
                if self.machines[node].wake_generation == generation {
                    if self.elect_runs(node) {
                        self.turn(node);
                    } else {
                        self.machines[node].wake_missed = true;
                    }
                }
            }
            Happening::Deliver { to, incarnation, bytes } => {
                if self.machines[to].incarnation == incarnation {
                    self.input(to, Input::Bytes(bytes));
                }
            }
            Happening::Pong { node, incarnation, sent } => {
                if self.machines[node].incarnation == incarnation && self.machines[node].arbitrator {
                    self.input(node, Input::Pong(sent));
                }
            }
            Happening::ToVip { node, stream, order } => {
                if self.machines[node].stream == stream && self.machines[node].stream_open {
                    self.machines[node].vip_inbox.push_back(order);
                    self.vip_turn(node);
                }
            }
            Happening::ToElect { node, stream, report } => {
                if self.machines[node].stream == stream && self.machines[node].stream_open {
                    self.input(node, Input::Report(report));
                }
            }
            Happening::Probe { node, generation } => self.send_probe(node, generation),
            Happening::Expire { node } => {
                if self.vip_runs(node) && self.machines[node].held_term != 0 && !self.answers(node) {
                    self.machines[node].held_term = 0;
                    self.tell_elect(node, Report::Shut { serial: 0 });
                }
            }
            Happening::UnitsStopped { node, serial } => {
                if self.machines[node].unit_serial == serial && self.machines[node].powered {
                    self.machines[node].units_up = false;
                    self.input(node, Input::Unit(UnitState::Down));
                }
            }
            Happening::UnitsStarted { node, serial } => {
                if self.machines[node].unit_serial == serial && self.machines[node].powered {
                    self.machines[node].units_up = true;
                    self.input(node, Input::Unit(UnitState::Up));
                }
            }
            Happening::StartElect { node } => self.start_elect(node),
            Happening::Connect { node, incarnation } => self.connect(node, incarnation),
            Happening::ServerConnects { node, incarnation } => self.server_connects(node, incarnation),
            Happening::ServerDone { node, stream, charge, word } => {
                self.server_done(node, stream, charge, word);
            }
            Happening::ServerSays { node, stream, word } => self.server_said(node, stream, word),
            Happening::Fault => {
                if self.healed_at.is_none() {
                    self.fault();
                    let next = self.now + self.rng.between(10, 3000) * MS;
                    self.at(next, Happening::Fault);
                }
            }
            Happening::Undo(undo) => self.undo(undo),
        }
    }

    fn elect_runs(&self, node: usize) -> bool {
        let m = &self.machines[node];
        m.powered && m.paused_at.is_none() && !m.elect_stopped && m.elect.is_some()
    }

    fn vip_runs(&self, node: usize) -> bool {
        let m = &self.machines[node];
        m.powered && m.paused_at.is_none() && !m.vip_stopped
    }

    fn input(&mut self, node: usize, input: Input) {
        if self.machines[node].elect.is_some() && self.machines[node].powered {
            self.machines[node].inbox.push_back(input);
            if self.elect_runs(node) {
                self.turn(node);
            }
        }
    }

    /// Like the daemon's loop: everything that is there, then time.
    fn turn(&mut self, node: usize) {
        loop {
            let now = self.local(node);
            let mut out = vec![];
            let input = self.machines[node].inbox.pop_front();
            let more = input.is_some();
            let Some(elect) = self.machines[node].elect.as_mut() else { return };
            match &input {
                None => elect.handle(now, Event::Tick, &mut out),
                Some(Input::Bytes(bytes)) => elect.handle(now, Event::Datagram { bytes }, &mut out),
                Some(Input::Pong(sent)) => {
                    let pong = Event::Pong { index: 0, sent: *sent, rtt: Duration::from_micros(300) };
                    elect.handle(now, pong, &mut out);
                }
                Some(Input::Stream(open)) => elect.handle(now, Event::Stream { open: *open }, &mut out),
                Some(Input::Report(report)) => elect.handle(now, Event::Report(report.clone()), &mut out),
                Some(Input::Unit(state)) => {
                    elect.handle(now, Event::Unit { index: 0, state: *state }, &mut out)
                }
                Some(Input::Manager(up)) => elect.handle(now, Event::Manager { connected: *up }, &mut out),
                Some(Input::DatabaseStream(open)) => {
                    elect.handle(now, Event::DatabaseStream { open: *open }, &mut out);
                }
                Some(Input::Word(word)) => elect.handle(now, Event::Word(word.clone()), &mut out),
            }
            let deadline = elect.next_deadline(now);
            assert!(deadline > now, "a deadline that has passed makes a busy loop");
            self.carry_out(node, out);
            self.lease_exclusion(node);
            if !more {
                let m = &mut self.machines[node];
                m.wake_generation += 1;
                let generation = m.wake_generation;
                let when = self.true_time(node, deadline);
                self.at(when, Happening::Wake { node, generation });
                return;
            }
        }
    }

    /// The lemma everything stands on: what one node holds by the other's vote ends before the other is free.
    fn lease_exclusion(&mut self, holder: usize) {
        let voter = 1 - holder;
        let (Some(holds), Some(votes)) = (&self.machines[holder].elect, &self.machines[voter].elect) else {
            return;
        };
        let here = self.local(holder);
        // A voter that restarted has forgotten; its startup hold is longer than D. A paused clock is the
        // stated exception.
        let remembers = votes.since_start(self.local(voter)) > holds.setup().dead_after * 2;
        let (until, by) = holds.lease(here);
        if holds.role() != Role::Active || by != By::Peer || !remembers || self.profile.pauses {
            return;
        }
        let held = self.true_time(holder, until);
        let promised = self.true_time(voter, votes.promised_until());
        if votes.role() == Role::Standby && held > promised {
            self.violations.push(format!(
                "seed {}: node {holder} holds {} us longer than node {voter} promised, at {:.3} ms",
                self.seed,
                (held - promised) / 1000,
                self.now as f64 / 1e6 - 1e6
            ));
        }
    }

    fn carry_out(&mut self, node: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send { link, bytes } => self.transmit(node, link, bytes.to_vec()),
                Action::Ping => {
                    let m = &self.machines[node];
                    let lost = self.loss != 0 && self.rng.chance(self.loss.min(20));
                    if m.arbitrator && !lost {
                        let (sent, incarnation) = (self.local(node), m.incarnation);
                        let when = self.now + self.rng.between(100_000, 400_000);
                        self.at(when, Happening::Pong { node, incarnation, sent });
                    }
                }
                // The files are the same on all sides here.
                Action::Order(Order::Adopt { .. }) => {}
                Action::Order(order) => {
                    let stream = self.machines[node].stream;
                    let when = self.in_order(node, 0);
                    self.at(when, Happening::ToVip { node, stream, order });
                }
                Action::Charge(charge) => self.charge(node, charge),
                Action::Target(target) => {
                    let m = &mut self.machines[node];
                    m.unit_serial += 1;
                    let serial = m.unit_serial;
                    let (took, what) = match target {
                        Target::Active => (self.rng.between(1, 50), Happening::UnitsStarted { node, serial }),
                        Target::Standby => {
                            (self.rng.between(1, 400), Happening::UnitsStopped { node, serial })
                        }
                    };
                    self.at(self.now + took * MS, what);
                }
                Action::KeepTerm(term) => self.machines[node].term_on_disk = term,
                Action::Moved { from, to, rule, term } => {
                    self.takeovers += u64::from(to == Role::Active);
                    self.roles_seen.insert(rule.word());
                    self.note(|| format!("node {node}: {from:?} -> {to:?}: {rule:?}, term {term}"));
                }
                Action::Suspected { .. } | Action::Raised { .. } | Action::Cleared { .. } | Action::Exit => {}
            }
        }
    }

    fn transmit(&mut self, from: usize, link: usize, bytes: Vec<u8>) {
        let to = 1 - from;
        if !self.links[from][link] {
            return;
        }
        let copies = if self.rng.chance(self.duplicates) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.chance(self.loss) {
                continue;
            }
            let when = self.now + self.rng.between(self.delay.0, self.delay.1);
            let incarnation = self.machines[to].incarnation;
            self.at(when, Happening::Deliver { to, incarnation, bytes: bytes.clone() });
        }
    }

    // ---- dre-vip and the kernel ----------------------------------------------------------------------

    fn vip_turn(&mut self, node: usize) {
        while self.vip_runs(node) {
            let Some(order) = self.machines[node].vip_inbox.pop_front() else { return };
            match order {
                Order::Hold { until, term, open_by } => {
                    let now = self.local(node);
                    if self.machines[node].gate <= now && now >= open_by {
                        self.machines[node].held_term = 0;
                        self.tell_elect(node, Report::Shut { serial: 0 });
                        continue;
                    }
                    // An absolute deadline: a store that comes late opens nothing.
                    self.machines[node].gate = until;
                    self.tell_elect(node, Report::Stored { until });
                    if self.machines[node].held_term != term && self.answers(node) {
                        self.machines[node].held_term = term;
                        self.opened(node, term);
                        let at = self.local(node);
                        self.tell_elect(node, Report::Open { term, at });
                    }
                    let when = self.true_time(node, until);
                    self.at(when, Happening::Expire { node });
                }
                Order::Drop { serial } => {
                    self.shut(node);
                    self.tell_elect(node, Report::Shut { serial });
                }
                Order::Probe { every_us, round, defer } => {
                    let m = &mut self.machines[node];
                    m.probe_generation += 1;
                    let generation = m.probe_generation;
                    m.probing = (every_us != 0).then_some((round, every_us, defer));
                    if every_us != 0 {
                        self.at(self.now, Happening::Probe { node, generation });
                    }
                }
                Order::Announce => {}
                Order::Adopt { .. } => unreachable!("is not sent here"),
            }
        }
    }

    fn shut(&mut self, node: usize) {
        self.machines[node].gate = Moment::ZERO;
        self.machines[node].held_term = 0;
    }

    fn in_order(&mut self, node: usize, direction: usize) -> u64 {
        let when = self.now + self.rng.between(20_000, 100_000);
        let last = &mut self.machines[node].stream_order[direction];
        *last = when.max(*last);
        *last
    }

    fn tell_elect(&mut self, node: usize, report: Report) {
        let stream = self.machines[node].stream;
        let when = self.in_order(node, 1);
        self.at(when, Happening::ToElect { node, stream, report });
    }

    fn send_probe(&mut self, node: usize, generation: u64) {
        let m = &self.machines[node];
        let Some((round, every_us, _)) = m.probing else { return };
        if m.probe_generation != generation || !m.stream_open {
            return;
        }
        self.at(self.now + u64::from(every_us) * 1_000, Happening::Probe { node, generation });
        if !self.vip_runs(node) {
            return;
        }
        let at = self.local(node);
        self.tell_elect(node, Report::Probed { round, at });
        let peer = 1 - node;
        if !self.lan {
            return;
        }
        if self.answers(peer) {
            self.tell_elect(node, Report::Foreign { round, at, vip: 0, mac: [2, 0, 0, 0, 0, 1] });
        }
        if let Some((theirs, _, true)) = self.machines[peer].probing
            && self.vip_runs(peer)
        {
            let at = self.local(peer);
            self.tell_elect(peer, Report::Foreign { round: theirs, at, vip: 0, mac: [2, 0, 0, 0, 0, 2] });
        }
    }

    fn connect(&mut self, node: usize, incarnation: u64) {
        let m = &mut self.machines[node];
        if m.incarnation != incarnation || m.elect.is_none() || m.stream_open {
            return;
        }
        if !self.vip_runs(node) || !self.elect_runs(node) {
            self.at(self.now + 50 * MS, Happening::Connect { node, incarnation });
            return;
        }
        let m = &mut self.machines[node];
        m.stream += 1;
        m.stream_open = true;
        m.vip_inbox.clear();
        m.probing = None;
        self.shut(node);
        self.input(node, Input::Stream(true));
        self.tell_elect(node, Report::Armed { gate: GateKind::Bpf, digest: [1; 32] });
    }

    fn close_stream(&mut self, node: usize) {
        let m = &mut self.machines[node];
        m.stream_open = false;
        m.probing = None;
        m.vip_inbox.clear();
        // A dre-vip that runs shuts the gate at once; a stopped one leaves it to the deadline.
        if self.vip_runs(node) {
            self.shut(node);
        }
    }

    // ---- processes and machines ----------------------------------------------------------------------

    fn start_elect(&mut self, node: usize) {
        if !self.machines[node].powered || self.machines[node].elect.is_some() {
            return;
        }
        let now = self.local(node);
        let setup = self.setup(node);
        let codec = Self::codec(&setup);
        let session = self.rng.next() | 1;
        let mut out = vec![];
        let m = &mut self.machines[node];
        m.incarnation += 1;
        m.inbox.clear();
        m.elect_stopped = false;
        let (incarnation, restarted) = (m.incarnation, m.restart_in_boot);
        m.restart_in_boot = true;
        let elect = Node::new(now, setup, Some(codec), session, m.term_on_disk, restarted, &mut out);
        m.elect = Some(elect);
        m.elect.as_mut().expect("just put").planted = self.profile.planted;
        let up = m.units_up;
        self.note(|| format!("node {node}: dre-elect starts"));
        self.carry_out(node, out);
        self.input(node, Input::Manager(true));
        if !up {
            self.input(node, Input::Unit(UnitState::Down));
        }
        let when = self.now + self.rng.between(1, 60) * MS;
        self.at(when, Happening::Connect { node, incarnation });
        if self.profile.database {
            let when = self.now + self.rng.between(1, 60) * MS;
            self.at(when, Happening::ServerConnects { node, incarnation });
        }
    }

    fn kill_elect(&mut self, node: usize) {
        if self.machines[node].elect.take().is_some() {
            self.note(|| format!("node {node}: dre-elect killed"));
            self.machines[node].incarnation += 1;
            self.machines[node].wake_generation += 1;
            self.machines[node].elect_stopped = false;
            self.close_stream(node);
            self.server_left_alone(node, false);
            let when = self.now + self.rng.between(20, 400) * MS;
            self.at(when, Happening::StartElect { node });
        }
    }

    fn kill_vip(&mut self, node: usize) {
        self.note(|| format!("node {node}: dre-vip killed"));
        let m = &mut self.machines[node];
        m.vip_stopped = false;
        let was_open = m.stream_open;
        m.stream_open = false;
        m.vip_inbox.clear();
        m.probing = None;
        m.held_term = 0;
        // The program stays attached: the gate shuts at its deadline.
        let incarnation = m.incarnation;
        if was_open {
            self.input(node, Input::Stream(false));
        }
        let when = self.now + self.rng.between(20, 400) * MS;
        self.at(when, Happening::Connect { node, incarnation });
    }

    fn power_off(&mut self, node: usize) {
        self.note(|| format!("node {node}: power lost"));
        let m = &mut self.machines[node];
        m.powered = false;
        m.elect = None;
        m.incarnation += 1;
        m.wake_generation += 1;
        m.stream_open = false;
        m.probing = None;
        m.vip_inbox.clear();
        m.gate = Moment::ZERO;
        m.held_term = 0;
        m.units_up = false;
        m.unit_serial += 1;
        m.elect_stopped = false;
        m.vip_stopped = false;
        m.restart_in_boot = false;
        self.server_left_alone(node, true);
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::ContElect(node) | Undo::ContVip(node) | Undo::Thaw(node) => {
                if matches!(undo, Undo::ContElect(_) | Undo::Thaw(_)) {
                    self.machines[node].elect_stopped = false;
                }
                if matches!(undo, Undo::ContVip(_) | Undo::Thaw(_)) {
                    self.machines[node].vip_stopped = false;
                }
                self.note(|| format!("node {node}: {undo:?}"));
                self.continue_node(node);
            }
            Undo::Boot(node) => {
                if !self.machines[node].powered {
                    self.note(|| format!("node {node}: boots"));
                    self.machines[node].powered = true;
                    self.start_elect(node);
                }
            }
            Undo::Resume(node) => {
                if let Some(at) = self.machines[node].paused_at.take() {
                    self.note(|| format!("node {node}: resumes"));
                    self.machines[node].unseen += self.now - at;
                    self.machines[node].resumed_at = self.now;
                    self.continue_node(node);
                }
            }
        }
    }

    /// In random order, as the scheduler likes.
    fn continue_node(&mut self, node: usize) {
        if self.rng.chance(50) {
            self.vip_turn(node);
        }
        if self.elect_runs(node) {
            self.turn(node);
        }
        self.vip_turn(node);
    }

    fn fault(&mut self) {
        let node = usize::try_from(self.rng.below(2)).unwrap_or(0);
        let short = self.rng.between(1, 60) * MS;
        let long = self.rng.between(100, 6000) * MS;
        let span = if self.rng.chance(50) { short } else { long };
        match self.rng.below(23) {
            0 | 1 => {
                let link = usize::try_from(self.rng.below(2)).unwrap_or(0);
                self.links[node][link] = self.rng.chance(40);
                let links = self.links;
                self.note(|| format!("links pass: {links:?}"));
            }
            2 => {
                self.links = [[false; 2]; 2];
                self.note(|| "all links cut".into());
            }
            3 | 4 => {
                self.links = [[true; 2]; 2];
                self.note(|| "all links whole".into());
            }
            5 => {
                self.loss = self.rng.below(81);
                self.duplicates = self.rng.below(41);
                let low = self.rng.between(30_000, 5 * MS);
                self.delay = (low, low + self.rng.below(60 * MS));
                let what = (self.loss, self.duplicates, self.delay);
                self.note(|| format!("loss {} %, duplicates {} %, delay {:?} ns", what.0, what.1, what.2));
            }
            6 | 7 => {
                self.loss = 0;
                self.duplicates = 0;
                self.delay = self.profile.delay;
                self.note(|| "links are good".into());
            }
            8 => {
                self.machines[node].arbitrator = self.rng.chance(60);
                let up = self.machines[node].arbitrator;
                self.note(|| format!("node {node}: arbitrator {up}"));
            }
            9 => self.kill_elect(node),
            10 => self.kill_vip(node),
            11 => {
                self.note(|| format!("node {node}: dre-elect stopped for {} ms", span / MS));
                self.machines[node].elect_stopped = true;
                self.at(self.now + span, Happening::Undo(Undo::ContElect(node)));
            }
            12 => {
                self.note(|| format!("node {node}: dre-vip stopped for {} ms", span / MS));
                self.machines[node].vip_stopped = true;
                self.at(self.now + span, Happening::Undo(Undo::ContVip(node)));
            }
            13 | 14 => {
                self.note(|| format!("node {node}: frozen for {} ms", span / MS));
                self.machines[node].elect_stopped = true;
                self.machines[node].vip_stopped = true;
                self.at(self.now + span, Happening::Undo(Undo::Thaw(node)));
            }
            15 => {
                self.power_off(node);
                self.at(self.now + long, Happening::Undo(Undo::Boot(node)));
            }
            16 if self.profile.pauses => {
                if self.machines[node].paused_at.is_none() {
                    self.note(|| format!("node {node}: paused for {} ms", span / MS));
                    self.machines[node].paused_at = Some(self.now);
                    self.at(self.now + span, Happening::Undo(Undo::Resume(node)));
                }
            }
            17 if self.profile.lan_cuts => self.lan = self.rng.chance(50),
            16 | 17 if self.profile.database => self.kill_agent(node),
            18 => {
                if self.vip_runs(node) && self.machines[node].stream_open {
                    let fit = self.rng.chance(50);
                    self.note(|| format!("node {node}: eth1 carrier {fit}"));
                    let unfit = (!fit).then(|| "eth1 has no carrier".to_owned());
                    self.tell_elect(node, Report::Interface { name: "eth1".into(), unfit });
                }
            }
            19 => {
                // What TIPC or systemd says may be false, late or missing: it must not matter to safety.
                let word = match self.rng.below(3) {
                    0 => Event::PeerProcess { present: self.rng.chance(50) },
                    1 => Event::Bearer { link: 0, up: Some(self.rng.chance(50)) },
                    _ => {
                        let failed = self.rng.chance(30).then(|| "dependency".to_owned());
                        Event::Target { target: Target::Active, failed }
                    }
                };
                self.note(|| format!("node {node}: told {word:?}"));
                self.tell(node, word);
            }
            20 => {
                let factor = if self.rng.chance(50) { 2 } else { 1 };
                self.reload(node, self.profile.missed * factor);
                // The other one too, most of the time.
                if self.rng.chance(60) {
                    self.reload(1 - node, self.profile.missed * factor);
                }
            }
            _ => {
                let command = match self.rng.below(4) {
                    0 => Command::LeaseTake { unit: None, force: false },
                    1 => Command::LeaseRelease { unit: None },
                    _ => Command::Switchover { to: None, force: self.rng.chance(20) },
                };
                if self.elect_runs(node) {
                    let now = self.local(node);
                    let mut out = vec![];
                    let elect = self.machines[node].elect.as_mut().expect("runs");
                    let answer = elect.command(now, command.clone(), &mut out);
                    self.note(|| format!("node {node}: operator {command:?}: {answer:?}"));
                    self.carry_out(node, out);
                    self.turn(node);
                }
            }
        }
    }

    /// `systemctl reload dre`, with another `missed_max` in the file.
    fn reload(&mut self, node: usize, missed: u32) {
        self.machines[node].missed = missed;
        if self.elect_runs(node) {
            self.note(|| format!("node {node}: reloads with missed_max = {missed}"));
            let (now, setup) = (self.local(node), self.setup(node));
            let codec = Self::codec(&setup);
            let mut out = vec![];
            self.machines[node].elect.as_mut().expect("runs").reload(now, setup, Some(codec), &mut out);
            self.carry_out(node, out);
            self.turn(node);
        }
    }

    /// Everything works again, at once.
    pub(crate) fn heal(&mut self) {
        self.healed_at = Some(self.now);
        self.note(|| "healed".into());
        self.links = [[true; 2]; 2];
        (self.loss, self.duplicates, self.delay) = (0, 0, self.profile.delay);
        self.lan = true;
        for node in 0..2 {
            self.machines[node].arbitrator = true;
            self.undo(Undo::Resume(node));
            self.undo(Undo::Thaw(node));
            self.undo(Undo::Boot(node));
            if self.machines[node].elect.is_none() {
                self.start_elect(node);
            }
        }
        for node in 0..2 {
            self.reload(node, self.profile.missed);
            self.tell(node, Event::PeerProcess { present: true });
            self.tell(node, Event::Target { target: Target::Active, failed: None });
            let stream = self.machines[node].stream;
            let fit = Report::Interface { name: "eth1".into(), unfit: None };
            self.at(self.now, Happening::ToElect { node, stream, report: fit });
        }
    }

    /// A fact from outside, heard at once if anybody is there to hear it.
    fn tell(&mut self, node: usize, event: Event<'_>) {
        if self.elect_runs(node) {
            let now = self.local(node);
            let mut out = vec![];
            self.machines[node].elect.as_mut().expect("runs").handle(now, event, &mut out);
            self.carry_out(node, out);
            self.turn(node);
        }
    }

    /// An operator told this node to stay out of it, and nobody took that back.
    fn is_held_back(&self, node: usize) -> bool {
        self.machines[node].elect.as_ref().is_some_and(|elect| elect.view(Moment::ZERO).held_back)
    }

    /// What two operators stopped on both nodes, one of them starts again.
    fn take(&mut self, node: usize) {
        let now = self.local(node);
        let mut out = vec![];
        let elect = self.machines[node].elect.as_mut().expect("is there");
        let answer = elect.command(now, Command::LeaseTake { unit: None, force: false }, &mut out);
        self.note(|| format!("node {node}: operator takes: {answer:?}"));
        self.carry_out(node, out);
        self.turn(node);
    }

    fn who(&self) -> [Option<Role>; 2] {
        [0, 1].map(|n| self.machines[n].elect.as_ref().map(Node::role))
    }

    /// One whole story: the seed's faults, then the healing. What went wrong, if anything did.
    pub(crate) fn story(&mut self, faults_for: u64) -> Option<String> {
        let begun = self.now;
        self.at(begun + 3 * SECOND, Happening::Fault);
        self.run_until(begun + faults_for);
        if self.violations.is_empty() {
            self.heal();
            self.run_until(self.now + self.bound());
            if self.is_held_back(0) && self.is_held_back(1) {
                // Nobody may, and by now both are fit.
                self.take(0);
                self.run_until(self.now + self.bound());
            }
            let roles = self.who();
            let one = roles.iter().filter(|r| **r == Some(Role::Active)).count() == 1
                && roles.iter().filter(|r| **r == Some(Role::Standby)).count() == 1;
            let serves = (0..2).any(|n| self.answers(n));
            if self.violations.is_empty() && !(one && serves) {
                return Some(format!(
                    "seed {}: healed, but {roles:?}, served: {serves}; last lines:\n{}",
                    self.seed,
                    self.log.iter().cloned().collect::<Vec<_>>().join("\n")
                ));
            }
            let takeovers = self.takeovers;
            self.run_until(self.now + 5 * SECOND);
            if self.violations.is_empty() && self.takeovers != takeovers {
                return Some(format!("seed {}: a takeover in peace time", self.seed));
            }
        }
        self.violations.pop()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn seeds(default: u64) -> std::ops::Range<u64> {
        if let Some(one) = std::env::var("DRE_SIM_SEED").ok().and_then(|s| s.parse().ok()) {
            return one..one + 1;
        }
        0..std::env::var("DRE_SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
    }

    const FAST: Profile = Profile {
        interval_ms: 10,
        missed: 3,
        arbitrator: true,
        pauses: false,
        lan_cuts: false,
        delay: (50_000, 300_000),
        database: false,
        planted: Planted::Nothing,
    };
    const DEFAULT: Profile = Profile { interval_ms: 100, missed: 5, ..FAST };

    fn campaign(
        profile: Profile,
        count: u64,
    ) -> (Vec<String>, u64, std::collections::BTreeSet<&'static str>) {
        let (mut wrong, mut takeovers, mut rules) = (vec![], 0, std::collections::BTreeSet::new());
        for seed in seeds(count) {
            let mut world = World::new(seed, profile);
            wrong.extend(world.story(40 * SECOND));
            takeovers += world.takeovers;
            rules.extend(world.roles_seen.iter().copied());
        }
        (wrong, takeovers, rules)
    }

    fn demand_safe_and_live(profile: Profile, count: u64) {
        let (wrong, takeovers, rules) = campaign(profile, count);
        println!("{profile:?}: {count} stories, {takeovers} takeovers, rules seen: {rules:?}");
        assert!(wrong.is_empty(), "{} of {count} stories went wrong; the first:\n{}", wrong.len(), wrong[0]);
        // A simulation in which nothing happens proves nothing.
        assert!(takeovers > count, "{takeovers} takeovers in {count} stories");
    }

    #[test]
    fn safe_and_live_at_the_default_timing() {
        demand_safe_and_live(DEFAULT, 60);
    }

    #[test]
    fn safe_and_live_at_ten_milliseconds() {
        demand_safe_and_live(FAST, 40);
    }

    #[test]
    fn safe_and_live_on_slow_links() {
        demand_safe_and_live(Profile { delay: (5 * MS, 60 * MS), ..DEFAULT }, 40);
    }

    /// The gate opens only before a server that takes writes; and a server that hangs, fails or is late makes neither two holders nor none.
    #[test]
    fn safe_and_live_with_a_database_behind_the_role() {
        demand_safe_and_live(Profile { database: true, ..DEFAULT }, 60);
        demand_safe_and_live(Profile { database: true, ..FAST }, 40);
    }

    #[test]
    fn safe_and_live_without_an_arbitrator() {
        demand_safe_and_live(Profile { arbitrator: false, ..DEFAULT }, 40);
    }

    /// The stated limit: all links cut, both reach the arbitrator, and the service network cut so that the probes cannot see. Two
    /// answer then and only then; when they hear each other again, the lower term yields.
    #[test]
    fn a_cut_service_network_doubles_only_where_it_is_said() {
        let profile = Profile { lan_cuts: true, ..DEFAULT };
        demand_safe_and_live(profile, 40);
        let mut excused = 0;
        for seed in seeds(40) {
            let mut world = World::new(seed, profile);
            world.story(40 * SECOND);
            excused += world.excused;
        }
        println!("two answered for {} ms in all", excused / MS);
        assert!(
            std::env::var("DRE_SIM_SEED").is_ok() || excused > SECOND,
            "nobody was ever doubled: {excused}"
        );
    }

    /// The same, and nothing else: two are active until they hear each other, then within D the lower term has yielded and the
    /// other has answered all the time.
    #[test]
    fn a_split_that_nobody_could_see_is_resolved_by_the_first_heartbeat() {
        let mut doubled = 0;
        for seed in seeds(60) {
            let mut world = World::new(seed, Profile { lan_cuts: true, ..DEFAULT });
            world.run_until(world.now + 6 * SECOND);
            world.links = [[false; 2]; 2];
            world.lan = false;
            world.run_until(world.now + 4 * SECOND);
            let terms = [0, 1].map(|n| world.machines[n].elect.as_ref().map_or(0, Node::term));
            if !(world.answers(0) && world.answers(1)) {
                continue;
            }
            doubled += 1;
            world.heal();
            // Equal terms: the first goes on.
            let stays = usize::from(terms[1] > terms[0]);
            let until = world.now + world.dead_after();
            while world.now < until {
                world.run_until(world.now + MS);
                assert!(world.answers(stays), "seed {seed}: the one that stays was silent: {:?}", world.log);
            }
            let roles = world.who();
            assert!(
                !world.answers(1 - stays) && roles[stays] == Some(Role::Active),
                "seed {seed}: {terms:?} {roles:?}"
            );
            assert!(world.violations.is_empty(), "{:?}", world.violations);
        }
        assert!(std::env::var("DRE_SIM_SEED").is_ok() || doubled > 50, "{doubled} of 60 were doubled");
    }

    /// The stated exception: a whole machine paused with its clocks answers for at most one lease after it resumes.
    #[test]
    fn a_paused_machine_answers_for_at_most_a_lease() {
        let profile = Profile { pauses: true, ..DEFAULT };
        demand_safe_and_live(profile, 40);
    }

    /// How many stories at the default timing go wrong with this bug, of how many: 60, and more where none of them did.
    /// Judged in [`crate::logic::planted`].
    pub(in crate::logic) fn stories_gone_wrong(planted: Planted) -> (usize, u64) {
        // A reload must come while an answer is under way.
        let delay = if planted == Planted::SpanOfTheAnswer { (5 * MS, 60 * MS) } else { DEFAULT.delay };
        for count in [60, 600, 1500] {
            let wrong = campaign(Profile { planted, delay, ..DEFAULT }, count).0.len();
            if wrong > 0 {
                return (wrong, count);
            }
        }
        (0, 1500)
    }
}
