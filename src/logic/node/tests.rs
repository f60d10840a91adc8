//! Scenario tables: when, what happens, the role after, what it did. And the deadline contract.

use super::*;
use crate::logic::sim::Rng;
use Role::{Active, Claiming, Releasing, Standby};

mod database;

const OWN: u64 = 1001;
const PEER: u64 = 2002;

const fn at(ms: u64) -> Moment {
    Moment::from_nanos(100_000_000_000 + ms * 1_000_000)
}

/// interval 100 ms × 5: D = 500 ms, guard 7 ms.
fn setup(first: bool) -> Setup {
    Setup {
        group: "dre".into(),
        node: "hadev1".into(),
        peer: Some("hadev2".into()),
        links: vec!["primary".into()],
        interval: Duration::from_millis(100),
        dead_after: Duration::from_millis(500),
        guard: Duration::from_millis(7),
        arbitrators: vec!["172.16.8.250".into()],
        standalone: false,
        first,
        preferred: false,
        failback: false,
        failback_hold: Duration::from_secs(10),
        startup_hold: Duration::from_millis(1000),
        vips: vec!["172.16.9.61".into()],
        services: vec!["diameter.service".into()],
        standby: vec![],
        both: vec![],
        database: false,
        digest: [1; 32],
        sections: [0; 8],
        section_names: ["a", "b", "c", "d", "e", "f", "g", "h"],
    }
}

/// What the rows say happens.
#[derive(Debug, Clone)]
enum When {
    Nothing,
    /// A heartbeat that echoes what this node sent `echo` ms ago (None: it does not hear us).
    Hears {
        role: Role,
        wish: Wish,
        echo: Option<u64>,
        vote: bool,
        fit: bool,
    },
    /// The arbitrator answers a ping sent so many ms ago.
    Pong(u64),
    Armed,
    Stored,
    ShutNow,
    OpenNow,
    /// Three probes, the last now, unanswered.
    Probes,
    OneProbe,
    Foreign,
    StreamGone,
    Interface(bool),
    Unit(UnitState),
    /// systemd reached the standby target.
    StandbyReached,
    /// The kernel's word of the peer's process.
    Process(bool),
    Bearer(bool),
    /// The kernel's word of the peer's node.
    NodeReached(bool),
    KernelGone,
    /// systemd's word of the active target.
    TargetFails(bool),
    /// dre-mysql connects, or goes.
    Agent(bool),
    /// Its server could be ACTIVE, or not.
    Ready(bool),
    /// It takes writes in the present term.
    WritableNow,
    PromotionFails,
    DemotedNow,
    Do(Command),
    Refused(Command),
    Stop,
    /// The shutdown was called off.
    Stays,
}
use When::*;

const fn peer(role: Role) -> When {
    Hears { role, wish: Wish::None, echo: Some(1), vote: false, fit: true }
}
const fn votes() -> When {
    Hears { role: Standby, wish: Wish::None, echo: Some(0), vote: true, fit: true }
}
const fn wishes(role: Role, wish: Wish) -> When {
    Hears { role, wish, echo: Some(1), vote: false, fit: true }
}

/// What a row may ask to have been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Did {
    Hold,
    Drop,
    Probe,
    ProbeEnd,
    Ping,
    StartActive,
    StartStandby,
    Announce,
    Promote,
    Demote,
    Exit,
}
use Did::*;

fn did(actions: &[Action]) -> Vec<Did> {
    actions
        .iter()
        .filter_map(|a| match a {
            Action::Order(Order::Hold { .. }) => Some(Hold),
            Action::Order(Order::Drop { .. }) => Some(Drop),
            Action::Order(Order::Probe { every_us: 0, .. }) => Some(ProbeEnd),
            Action::Order(Order::Probe { .. }) => Some(Probe),
            Action::Order(Order::Announce) => Some(Announce),
            Action::Ping => Some(Ping),
            Action::Charge(Charge::Promote { .. }) => Some(Promote),
            Action::Charge(Charge::Demote { .. }) => Some(Demote),
            Action::Target(Target::Active) => Some(StartActive),
            Action::Target(Target::Standby) => Some(StartStandby),
            Action::Exit => Some(Did::Exit),
            _ => None,
        })
        .collect()
}

struct Story {
    node: Node,
    codec: Codec,
    sequence: u64,
    /// Orders as dre-vip would know them.
    serial: u64,
    until: Moment,
    round: u64,
    /// The demotion as dre-mysql would know it.
    demotion: u64,
}

thread_local! {
    /// The bug that every story of this thread is told with.
    pub(in crate::logic) static PLANT: std::cell::Cell<Planted> = const { std::cell::Cell::new(Planted::Nothing) };
}

impl Story {
    fn new(first: bool) -> Self {
        Self::with(setup(first))
    }

    fn with(setup: Setup) -> Self {
        let key = [5; 32];
        let codec = Codec::new(&key, "dre", "hadev1", "hadev2");
        let mut out = vec![];
        let mut node = Node::new(at(0), setup, Some(codec), OWN, 0, false, &mut out);
        assert_eq!(did(&out), [StartStandby]);
        node.planted = PLANT.get();
        let theirs = Codec::new(&key, "dre", "hadev2", "hadev1");
        Self { node, codec: theirs, sequence: 0, serial: 0, until: Moment::ZERO, round: 0, demotion: 0 }
    }

    fn step(&mut self, ms: u64, when: &When) -> Vec<Action> {
        let now = at(ms);
        let mut out = vec![];
        let report =
            |node: &mut Node, report, out: &mut Vec<Action>| node.handle(now, Event::Report(report), out);
        match when {
            Nothing => self.node.handle(now, Event::Tick, &mut out),
            Hears { role, wish, echo, vote, fit } => {
                self.sequence += 1;
                let hb = Heartbeat {
                    link: 0,
                    role: *role,
                    wish: *wish,
                    flags: Flags { fit: *fit, answer: true, serving: *role == Active, ..Flags::default() },
                    links_heard: 1,
                    session: PEER,
                    sequence: self.sequence,
                    sent: now.as_nanos(),
                    echo_session: echo.map_or(0, |_| OWN),
                    echo_sent: echo.map_or(0, |ago| (now - Duration::from_millis(ago)).as_nanos()),
                    echo_hold_us: 0,
                    dead_after_us: 500_000,
                    lease_left_us: 0,
                    shut_ago_us: 0,
                    term: if *role == Active || *role == Claiming { 50 } else { 0 },
                    vote: if *vote { self.node.term() } else { 0 },
                    wall_ms: 0,
                    digest: [1; 32],
                    sections: [0; 8],
                };
                self.node.handle(now, Event::Datagram { bytes: &self.codec.encode(&hb) }, &mut out);
            }
            Pong(ago) => {
                let sent = now - Duration::from_millis(*ago);
                self.node.handle(
                    now,
                    Event::Pong { index: 0, sent, rtt: Duration::from_millis(1) },
                    &mut out,
                );
            }
            Armed => {
                self.node.handle(now, Event::Manager { connected: true }, &mut out);
                self.node.handle(now, Event::Unit { index: 0, state: UnitState::Down }, &mut out);
                self.node.handle(now, Event::Stream { open: true }, &mut out);
                report(&mut self.node, Report::Armed { gate: GateKind::Bpf, digest: [1; 32] }, &mut out);
            }
            Stored => report(&mut self.node, Report::Stored { until: self.until }, &mut out),
            ShutNow => report(&mut self.node, Report::Shut { serial: self.serial }, &mut out),
            OpenNow => {
                report(&mut self.node, Report::Stored { until: self.until }, &mut out);
                let term = self.node.term();
                report(&mut self.node, Report::Open { term, at: now }, &mut out);
            }
            Probes => {
                for ago in [20, 10, 0] {
                    let at = now - Duration::from_millis(ago);
                    report(&mut self.node, Report::Probed { round: self.round, at }, &mut out);
                }
            }
            OneProbe => report(&mut self.node, Report::Probed { round: self.round, at: now }, &mut out),
            Foreign => {
                let foreign = Report::Foreign { round: self.round, at: now, vip: 0, mac: [2; 6] };
                report(&mut self.node, foreign, &mut out);
            }
            StreamGone => self.node.handle(now, Event::Stream { open: false }, &mut out),
            Interface(fit) => {
                let unfit = (!fit).then(|| "eth1 has no carrier".to_owned());
                report(&mut self.node, Report::Interface { name: "eth1".into(), unfit }, &mut out);
            }
            Unit(state) => self.node.handle(now, Event::Unit { index: 0, state: *state }, &mut out),
            StandbyReached => {
                self.node.handle(now, Event::Target { target: Target::Standby, failed: None }, &mut out);
            }
            Process(present) => {
                self.node.handle(now, Event::PeerProcess { present: *present }, &mut out);
            }
            NodeReached(reachable) => {
                self.node.handle(now, Event::PeerNode { reachable: *reachable }, &mut out);
            }
            KernelGone => self.node.handle(now, Event::KernelSilent, &mut out),
            When::Bearer(up) => self.node.handle(now, Event::Bearer { link: 0, up: Some(*up) }, &mut out),
            TargetFails(fails) => {
                let failed = fails.then(|| "its start ended with \"dependency\"".to_owned());
                self.node.handle(now, Event::Target { target: Target::Active, failed }, &mut out);
            }
            Agent(open) => self.node.handle(now, Event::DatabaseStream { open: *open }, &mut out),
            Ready(ready) => {
                let why_not = (!ready).then(|| "DIVERGED: 4 transactions".to_owned());
                self.node.handle(now, Event::Word(Word::Fit { why_not }), &mut out);
            }
            WritableNow => {
                let term = self.node.term();
                self.node.handle(now, Event::Word(Word::Writable { term }), &mut out);
            }
            PromotionFails => {
                let word = Word::Failed { term: self.node.term(), reason: "disk full".into() };
                self.node.handle(now, Event::Word(word), &mut out);
            }
            DemotedNow => {
                let word = Word::Demoted { serial: self.demotion, clean: true };
                self.node.handle(now, Event::Word(word), &mut out);
            }
            Do(command) => self.node.command(now, command.clone(), &mut out).expect("accepted"),
            Refused(command) => {
                let refusal = self.node.command(now, command.clone(), &mut out);
                assert!(refusal.is_err(), "{ms} ms: {command:?} was accepted");
            }
            When::Stop => self.node.handle(now, Event::Stop, &mut out),
            Stays => self.node.handle(now, Event::Stay, &mut out),
        }
        for action in &out {
            match action {
                Action::Order(Order::Hold { until, .. }) => self.until = *until,
                Action::Order(Order::Drop { serial }) => self.serial = *serial,
                Action::Order(Order::Probe { round, .. }) => self.round = *round,
                Action::Charge(Charge::Demote { serial, .. }) => self.demotion = *serial,
                _ => {}
            }
        }
        out
    }

    /// Each row: when, what happens, the role after, what it did (heartbeats and the daily ping apart).
    fn tell(&mut self, rows: &[(u64, When, Role, &[Did])]) {
        for (ms, when, role, expected) in rows {
            let actions = self.step(*ms, when);
            let mut done = did(&actions);
            if !expected.contains(&Ping) {
                done.retain(|d| *d != Ping);
            }
            assert_eq!(self.node.role(), *role, "{ms} ms: after {when:?} (rule {:?})", self.node.rule());
            assert_eq!(done, *expected, "{ms} ms: after {when:?} in {role:?}");
        }
    }
}

fn active() -> Story {
    let mut story = Story::new(true);
    story.tell(&[
        (10, Armed, Standby, &[]),
        (20, peer(Standby), Claiming, &[]),
        (22, votes(), Active, &[Hold, StartActive]),
        (23, OpenNow, Active, &[]),
        (50, Unit(UnitState::Up), Active, &[]),
    ]);
    story
}

fn standby() -> Story {
    let mut story = Story::new(false);
    story.tell(&[(10, Armed, Standby, &[]), (20, peer(Active), Standby, &[])]);
    story
}

/// Both boot and hear each other: the first claims, with the other's vote; the other waits.
#[test]
#[rustfmt::skip]
fn of_two_free_nodes_the_first_claims() {
    active();
    Story::new(false).tell(&[
        (10, Armed,           Standby,  &[]),
        (20, peer(Standby),   Standby,  &[]),
        (30, peer(Claiming),  Standby,  &[]),
        (40, peer(Active),    Standby,  &[]),
    ]);
}

/// A loaded machine: dre-vip answers late, and the role stays.
#[test]
#[rustfmt::skip]
fn a_slow_dre_vip_costs_nothing() {
    let mut story = active();
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (300, votes(), Active, &[]),
        (500, votes(), Active, &[]),
        (501, Stored,  Active, &[Hold]),
        (502, Stored,  Active, &[]),
        (600, votes(), Active, &[Hold]),
    ]);
    assert!(story.node.fit(at(601)));
}

/// The preferred node asks for the role when it has been fit and in touch for as long as is written, and not before.
#[test]
fn failback_waits_for_its_hold() {
    for hold in [10, 60] {
        let setup = Setup {
            preferred: true,
            failback: true,
            failback_hold: Duration::from_secs(hold),
            ..setup(false)
        };
        let mut story = Story::with(setup);
        story.tell(&[(10, Armed, Standby, &[]), (20, peer(Active), Standby, &[])]);
        let asked = (2..).map(|n| n * 50).find(|ms| {
            story.step(*ms, &peer(Active));
            assert_eq!(story.node.role(), Standby, "{ms} ms");
            story.node.wish == Wish::Take
        });
        let asked = asked.expect("some day");
        assert!(
            (hold * 1000..hold * 1000 + 500).contains(&asked),
            "hold {hold} s: asked for it after {asked} ms"
        );
    }
}

/// A claim with the peer there needs the peer's vote for this very term.
#[test]
#[rustfmt::skip]
fn a_claim_without_a_vote_lapses() {
    Story::new(true).tell(&[
        ( 10, Armed,          Standby,  &[]),
        ( 20, peer(Standby),  Claiming, &[]),
        ( 50, Pong(1),        Claiming, &[]),
        (300, peer(Standby),  Claiming, &[]),
        // Lapsed, and claimed again at once with a new term.
        (520, peer(Standby),  Claiming, &[]),
    ]);
}

/// The lease counts from the sending of what is acknowledged, however late the acknowledgement comes.
#[test]
#[rustfmt::skip]
fn an_active_node_without_acknowledgements_and_arbitrator_is_isolated() {
    let mut story = active();
    let late = Hears { role: Standby, wish: Wish::None, echo: Some(200), vote: true, fit: true };
    story.tell(&[
        ( 90, votes(),  Active,    &[Hold]),
        (110, Stored,   Active,    &[]),
        // Sent at 100, acknowledged at 300: until 593.
        (300, late,     Active,    &[Hold]),
        (301, Stored,   Active,    &[]),
        (350, Nothing,  Active,    &[Ping]),
        (592, Nothing,  Active,    &[Ping]),
        (593, Nothing,  Releasing, &[Drop, StartStandby]),
        (594, ShutNow,  Releasing, &[]),
        (900, Unit(UnitState::Down), Standby, &[Probe]),
    ]);
}

/// The arbitrator's answers carry an active node that hears no peer.
#[test]
#[rustfmt::skip]
fn an_active_node_goes_on_alone_by_the_arbitrator() {
    let mut story = active();
    story.tell(&[
        ( 400, Nothing, Active, &[Ping]),
        ( 401, Pong(1), Active, &[Hold]),
        ( 402, Stored,  Active, &[]),
        ( 800, Pong(1), Active, &[Hold]),
        ( 801, Stored,  Active, &[]),
        (1200, Pong(1), Active, &[Hold]),
        (1201, Stored,  Active, &[]),
        (1691, Nothing, Active, &[Ping]),
        (1692, Nothing, Releasing, &[Drop, StartStandby]),
    ]);
}

/// TIPC saw the peer's process end: evidence starts in that turn, the alarm is raised in it; the claim waits for the promise all
/// the same.
#[test]
#[rustfmt::skip]
fn a_withdrawn_name_starts_the_evidence_and_claims_nothing() {
    let mut story = standby();
    story.tell(&[
        (1000, peer(Active),   Standby, &[]),
        (1010, Process(false), Standby, &[Probe, Ping]),
        (1011, Pong(1),        Standby, &[]),
        (1050, Probes,         Standby, &[]),
        (1480, Pong(1),        Standby, &[]),
        (1490, Probes,         Standby, &[]),
        (1499, Nothing,        Standby, &[]),
        (1500, Nothing,        Active,  &[Hold, StartActive, ProbeEnd]),
    ]);
    let mut story = standby();
    story.tell(&[(1000, peer(Active), Standby, &[])]);
    let raised = story.step(1010, &Process(false));
    assert!(raised.iter().any(|a| matches!(a, Action::Raised { alarm, .. } if alarm == "PeerGone")));
    // It was there all the time, or is back: nothing came of it.
    story.tell(&[(1015, Process(true), Standby, &[ProbeEnd]), (1020, peer(Active), Standby, &[])]);
    // And an active node that loses its peer's process stays, and asks the arbitrator at once.
    active().tell(&[(100, votes(), Active, &[Hold]), (101, Process(false), Active, &[Ping])]);
}

/// A link that the kernel says is down is an alarm in that turn, though every heartbeat came over the other.
#[test]
fn the_kernels_word_of_a_link_counts() {
    let mut story = standby();
    story.tell(&[(1000, peer(Active), Standby, &[])]);
    let raised = story.step(1001, &When::Bearer(false));
    assert!(raised.iter().any(|a| matches!(a, Action::Raised { alarm, .. } if alarm == "LinkDown")));
    assert!(!story.node.status(at(1002), |_| String::new()).links[0].up);
    let cleared = story.step(1003, &When::Bearer(true));
    assert!(cleared.iter().any(|a| matches!(a, Action::Cleared { alarm } if alarm == "LinkDown")));
}

/// A process that died and a node that no link reaches are different things to an operator.
#[test]
fn a_withdrawn_name_says_whether_the_node_is_still_there() {
    let text = |words: &[When]| {
        let mut story = standby();
        story.tell(&[(1000, peer(Active), Standby, &[])]);
        words.iter().for_each(|word| drop(story.step(1010, word)));
        let alarms = story.node.status(at(1011), |_| String::new()).alarms;
        alarms.into_iter().find(|a| a.name == "PeerGone").map(|a| a.text)
    };
    let died = text(&[NodeReached(true), Process(false)]).expect("an alarm");
    assert!(died.contains("process of hadev2 ended") && died.ends_with("systemctl status dre"), "{died}");
    // In whatever order the kernel tells it.
    for words in [[NodeReached(false), Process(false)], [Process(false), NodeReached(false)]] {
        let cut = text(&words).expect("an alarm");
        assert!(cut.contains("no TIPC link to hadev2") && !cut.contains("process"), "{cut}");
    }
    assert_eq!(text(&[NodeReached(false)]), None, "the name is what counts");
}

/// Another transport, or a topology service that broke: what the kernel said is no fact any more.
#[test]
fn what_a_kernel_said_that_is_not_heard_any_more_does_not_stand() {
    let mut story = standby();
    story.tell(&[(1000, peer(Active), Standby, &[])]);
    for word in [When::Bearer(false), NodeReached(false), Process(false)] {
        story.step(1010, &word);
    }
    let link = |story: &Story| story.node.status(at(1011), |_| String::new()).links[0].clone();
    let before = link(&story);
    assert!(!before.up && before.measured == "heartbeats", "{before:?}");
    let said = story.step(1011, &KernelGone);
    for ended in ["PeerGone", "LinkDown"] {
        assert!(said.iter().any(|a| matches!(a, Action::Cleared { alarm } if alarm == ended)), "{ended}");
    }
    assert!(did(&said).contains(&ProbeEnd), "the evidence against a peer that is heard ends");
    // The link is what the datagrams say again.
    let after = link(&story);
    assert!(after.up && after.measured == "link", "{after:?}");
    story.tell(&[(1100, peer(Active), Standby, &[])]);
}

/// Over TIPC a stream's round trip and loss are not the link's: what is shown is that of all heartbeats, and says so.
#[test]
fn figures_of_links_that_the_kernel_chooses_are_those_of_all_heartbeats() {
    let mut two = setup(true);
    two.links.push("secondary".into());
    let mut out = vec![];
    let mut node =
        Node::new(at(0), two, Some(Codec::new(&[5; 32], "dre", "hadev1", "hadev2")), OWN, 0, false, &mut out);
    let theirs = Codec::new(&[5; 32], "dre", "hadev2", "hadev1");
    let hear = |node: &mut Node, ms: u64, link: u8, rtt: u64| {
        let hb = Heartbeat {
            link,
            role: Standby,
            wish: Wish::None,
            flags: Flags::default(),
            links_heard: 3,
            session: PEER,
            sequence: ms,
            sent: at(ms).as_nanos(),
            echo_session: OWN,
            echo_sent: at(ms - rtt).as_nanos(),
            echo_hold_us: 0,
            dead_after_us: 500_000,
            lease_left_us: 0,
            shut_ago_us: 0,
            term: 0,
            vote: 0,
            wall_ms: 0,
            digest: [1; 32],
            sections: [0; 8],
        };
        node.handle(at(ms), Event::Datagram { bytes: &theirs.encode(&hb) }, &mut vec![]);
    };
    hear(&mut node, 100, 0, 2);
    hear(&mut node, 101, 1, 4);
    let figures = |node: &Node| {
        let links = node.status(at(102), |_| String::new()).links;
        links.into_iter().map(|l| (l.rtt_us, l.measured)).collect::<Vec<_>>()
    };
    assert_eq!(figures(&node), [(2000, "link".to_owned()), (4000, "link".to_owned())]);
    for link in 0..2 {
        node.handle(at(102), Event::Bearer { link, up: Some(true) }, &mut out);
    }
    assert_eq!(figures(&node), [(3000, "heartbeats".to_owned()), (3000, "heartbeats".to_owned())]);
}

/// Silence, an arbitrator, a quiet wire: the claim comes at D, not before.
#[test]
#[rustfmt::skip]
fn a_lost_peer_is_replaced_at_d() {
    let mut story = standby();
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1249, Nothing,      Standby, &[]),
        (1250, Nothing,      Standby, &[Probe, Ping]),
        (1251, Pong(1),      Standby, &[]),
        (1400, Pong(1),      Standby, &[]),
        (1490, Probes,       Standby, &[]),
        (1499, Nothing,      Standby, &[]),
        (1500, Nothing,      Active,  &[Hold, StartActive, ProbeEnd]),
    ]);
}

/// What the journal and `drectl` call the last change is this one, though nobody was there to say when the gate shut.
#[test]
#[rustfmt::skip]
fn a_takeover_from_a_lost_peer_is_measured_from_its_last_word() {
    let mut story = standby();
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1250, Nothing,      Standby, &[Probe, Ping]),
        (1400, Pong(1),      Standby, &[]),
        (1490, Probes,       Standby, &[]),
        (1500, Nothing,      Active,  &[Hold, StartActive, ProbeEnd]),
        (1505, OpenNow,      Active,  &[]),
    ]);
    let last = story.node.status(at(1510), |_| String::new()).last_takeover.expect("measured");
    assert_eq!((last.here, last.gap_us, &*last.rule), (true, 505_000, "PeerLost"));
}

/// Somebody answers for the VIP: never doubled. Answers that stop with the acknowledged lease are those of a node that froze:
/// taken at once. Who answers for longer lives by the arbitrator, and is waited for as long as that may last: it may only be
/// busy. Meanwhile it is looked at now and then; when it falls silent, at the claim's pace again.
#[test]
#[rustfmt::skip]
fn a_peer_that_still_serves_is_not_doubled() {
    let mut story = standby();
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1250, Nothing,      Standby, &[Probe, Ping]),
        (1480, Probes,       Standby, &[]),
        (1485, Foreign,      Standby, &[]),
        (1490, Pong(1),      Standby, &[]),
        (1500, Nothing,      Standby, &[]),
        (1530, Probes,       Standby, &[]),
        (1535, Foreign,      Standby, &[Probe]),
        (1597, OneProbe,     Standby, &[]),
        (1606, Nothing,      Standby, &[]),
        (1607, Nothing,      Standby, &[Probe]),
        (1640, Probes,       Standby, &[]),
        (1642, Foreign,      Standby, &[Probe]),
        (1705, OneProbe,     Standby, &[]),
        (1715, Nothing,      Standby, &[Probe]),
        (1717, Pong(1),      Standby, &[]),
        (2190, Probes,       Standby, &[]),
        (2191, Pong(1),      Standby, &[]),
        (2204, Nothing,      Standby, &[]),
        (2205, Nothing,      Active,  &[Hold, StartActive, ProbeEnd]),
    ]);
    let mut story = standby();
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1250, Nothing,      Standby, &[Probe, Ping]),
        (1480, Probes,       Standby, &[]),
        (1490, Pong(1),      Standby, &[]),
        (1499, Foreign,      Standby, &[]),
        (1530, Probes,       Standby, &[]),
        (1540, Nothing,      Active,  &[Hold, StartActive, ProbeEnd]),
    ]);
}

#[test]
#[rustfmt::skip]
fn without_an_arbitrators_answer_a_standby_stays() {
    let mut story = standby();
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1250, Nothing,      Standby, &[Probe, Ping]),
        (1500, Probes,       Standby, &[]),
        (1510, Nothing,      Standby, &[]),
        (1520, Refused(Command::LeaseTake { unit: None, force: false }), Standby, &[]),
    ]);
}

/// A peer heard one way may be active: it holds a claim back.
#[test]
#[rustfmt::skip]
fn one_way_loss_holds_a_claim_back() {
    let mut story = standby();
    let deaf = Hears { role: Active, wish: Wish::None, echo: None, vote: false, fit: true };
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1250, deaf.clone(), Standby, &[Probe, Ping]),
        (1490, Probes,       Standby, &[]),
        (1499, Pong(1),      Standby, &[]),
        (1500, deaf,         Standby, &[]),
        (1510, Probes,       Standby, &[]),
        (1520, Nothing,      Standby, &[]),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_switchover_releases_before_the_other_claims() {
    let mut story = active();
    story.tell(&[
        (100, votes(),  Active,    &[Hold]),
        (110, Do(Command::Switchover { to: None, force: false }), Releasing, &[Drop, StartStandby]),
        (111, Unit(UnitState::Down),  Releasing, &[]),
        (112, ShutNow,  Standby,   &[]),
        (113, peer(Claiming), Standby, &[]),
        (114, peer(Active),   Standby, &[]),
    ]);
}

/// The other did not take it: the role comes back.
#[test]
#[rustfmt::skip]
fn a_switchover_that_nobody_takes_is_taken_back() {
    let mut story = active();
    story.tell(&[
        (100, votes(),  Active,    &[Hold]),
        (110, Do(Command::Switchover { to: None, force: false }), Releasing, &[Drop, StartStandby]),
        (111, Unit(UnitState::Down),  Releasing, &[]),
        (112, ShutNow,  Standby,   &[]),
    ]);
    for ms in (200..5100).step_by(100) {
        story.tell(&[(ms, peer(Standby), Standby, &[])]);
    }
    // Five seconds after the role was free.
    story.tell(&[(5110, peer(Standby), Standby, &[]), (5112, peer(Standby), Claiming, &[])]);
    story.tell(&[(5114, votes(), Active, &[Hold, StartActive])]);
}

#[test]
#[rustfmt::skip]
fn the_peer_asks_for_the_role_and_gets_it() {
    let mut story = active();
    story.tell(&[
        (100, votes(),                     Active,    &[Hold]),
        (110, wishes(Standby, Wish::Take), Releasing, &[Drop, StartStandby]),
    ]);
    let mut story = standby();
    story.tell(&[
        ( 50, Do(Command::LeaseTake { unit: None, force: false }),         Standby,   &[]),
        ( 60, peer(Releasing),                Standby,   &[]),
        ( 70, wishes(Standby, Wish::Yield),   Claiming,  &[]),
        ( 72, votes(),                        Active,    &[Hold, StartActive]),
    ]);
}

#[test]
#[rustfmt::skip]
fn an_unfit_active_yields_to_a_fit_standby_only() {
    let mut story = active();
    let unfit = Hears { role: Standby, wish: Wish::None, echo: Some(1), vote: true, fit: false };
    story.tell(&[
        (100, unfit,            Active,    &[Hold]),
        (110, Interface(false), Active,    &[]),
        (120, votes(),          Releasing, &[Drop, StartStandby]),
    ]);
}

#[test]
#[rustfmt::skip]
fn an_unfit_standby_does_not_claim() {
    let mut story = standby();
    story.tell(&[
        ( 100, Interface(false), Standby, &[]),
        ( 110, peer(Active), Standby, &[]),
        ( 300, peer(Active), Standby, &[]),
        ( 500, peer(Active), Standby, &[]),
        ( 700, peer(Active), Standby, &[]),
        ( 900, peer(Active), Standby, &[]),
        (1000, peer(Active), Standby, &[]),
        // Nor does it probe: the other node may defer to its probes.
        (1250, Nothing,      Standby, &[Ping]),
        (1490, Probes,       Standby, &[]),
        (1499, Pong(1),      Standby, &[]),
        (1500, Nothing,      Standby, &[]),
        (1505, Refused(Command::LeaseTake { unit: None, force: false }), Standby, &[]),
        // Repaired, but not proven yet.
        (1510, Interface(true), Standby, &[]),
        (1520, Probes,       Standby, &[]),
        (2509, Nothing,      Standby, &[]),
        (2510, Nothing,      Standby, &[Probe, Ping]),
    ]);
}

/// Nothing could be claimed without its word, and the other node may defer to this one's probes: they end, and begin again with
/// the first answer.
#[test]
#[rustfmt::skip]
fn a_standby_whom_no_arbitrator_answers_does_not_probe() {
    let mut story = standby();
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1001, Pong(1),      Standby, &[]),
        (1250, Nothing,      Standby, &[Probe, Ping]),
        (1313, Nothing,      Standby, &[Ping]),
        (1376, Nothing,      Standby, &[Ping]),
        (1439, Nothing,      Standby, &[Ping]),
        (1440, Nothing,      Standby, &[ProbeEnd]),
        (1502, Nothing,      Standby, &[Ping]),
        (1503, Pong(1),      Standby, &[Probe, Ping]),
    ]);
}

/// A turn that comes after the lease finds it gone, whatever lies in the queue.
#[test]
#[rustfmt::skip]
fn a_node_that_slept_through_its_lease_lets_go_first() {
    let mut story = active();
    story.tell(&[
        ( 100, votes(),  Active,    &[Hold]),
        (9000, votes(),  Releasing, &[Drop, StartStandby]),
    ]);
    assert_eq!(story.node.rule(), Rule::OwnPause);
}

#[test]
#[rustfmt::skip]
fn of_two_active_nodes_the_lower_term_yields() {
    let mut story = active();
    story.tell(&[(100, peer(Active), Releasing, &[Announce, Drop, StartStandby])]);
    assert_eq!(story.node.rule(), Rule::BothActive);
    let mut story = active();
    story.node.term = 51;
    // However soon it is over: the one that stays announces at both ends, and says that there were two and are no more.
    let begins = story.step(100, &peer(Active));
    let ends = story.step(101, &peer(Releasing));
    for actions in [&begins, &ends] {
        let done: Vec<Did> = did(actions).into_iter().filter(|d| *d != Ping).collect();
        assert_eq!(done, [Announce], "{actions:?}");
    }
    assert!(begins.iter().any(|a| matches!(a, Action::Raised { alarm, .. } if alarm == "BothActive")), "{begins:?}");
    assert!(ends.iter().any(|a| matches!(a, Action::Cleared { alarm } if alarm == "BothActive")), "{ends:?}");
    assert_eq!(story.node.role(), Active);
}

/// dre-vip died while only the arbitrator stood for the lease: the wire was silent, the other may serve.
#[test]
#[rustfmt::skip]
fn a_gate_that_ran_out_alone_is_not_opened_again() {
    let mut story = active();
    story.tell(&[
        (400, Pong(1),    Active,    &[Hold]),
        (401, Stored,     Active,    &[]),
        (600, Pong(1),    Active,    &[Hold]),
        (601, Stored,     Active,    &[]),
        (700, StreamGone, Releasing, &[Drop, StartStandby]),
    ]);
    assert_eq!(story.node.rule(), Rule::GateLapsed);
}

#[test]
#[rustfmt::skip]
fn a_dre_vip_that_does_not_answer_makes_the_node_unfit() {
    let mut story = active();
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (200, votes(), Active, &[Hold]),
        // D/4 without an answer: nothing more is promised to it.
        (225, votes(), Active, &[]),
        // Until what it stored last (sent at 22, D - guard) runs out it may be merely slow.
        (514, votes(), Active, &[]),
        (515, votes(), Releasing, &[Drop, StartStandby]),
    ]);
    assert_eq!(story.node.rule(), Rule::Unfit);
}

/// systemd cannot bring the services up here: the peer gets the role, and does not get it back at once.
#[test]
#[rustfmt::skip]
fn an_active_target_that_is_not_reached_moves_the_role() {
    let mut story = active();
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (110, TargetFails(true), Releasing, &[Drop, StartStandby]),
        (111, ShutNow, Releasing, &[]),
        (120, Unit(UnitState::Down), Standby, &[]),
        (130, Refused(Command::LeaseTake { unit: None, force: false }), Standby, &[]),
    ]);
    assert!(story.node.status(at(131), |_| String::new()).unfit_because[0].contains("dependency"));
    // With an unfit peer it stays: half a service is better than none.
    let mut story = active();
    let unfit = Hears { role: Standby, wish: Wish::None, echo: Some(0), vote: true, fit: false };
    story.tell(&[
        (100, unfit, Active, &[Hold]),
        (110, TargetFails(true), Active, &[]),
    ]);
    assert!(!story.node.fit(at(111)));
    story.tell(&[(120, TargetFails(false), Active, &[])]);
}

#[test]
#[rustfmt::skip]
fn a_failed_service_moves_the_role() {
    let mut story = active();
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (110, Unit(UnitState::Failed), Releasing, &[Drop, StartStandby]),
    ]);
}

/// `systemctl stop dre`: gate, services, then the peer's claim is still voted for.
#[test]
#[rustfmt::skip]
fn a_clean_stop_hands_over_and_stays_for_the_vote() {
    let mut story = active();
    story.tell(&[
        (100, votes(),               Active,    &[Hold]),
        (110, When::Stop,            Releasing, &[Drop, StartStandby]),
        (115, Unit(UnitState::Down), Releasing, &[]),
        (116, ShutNow,               Standby,   &[]),
        (117, peer(Claiming),        Standby,   &[]),
        (119, peer(Active),          Standby,   &[Did::Exit]),
    ]);
}

/// After a restart nothing is claimed until dre-vip says the gate is shut, or D has passed.
#[test]
#[rustfmt::skip]
fn a_restarted_node_is_not_free_before_its_gate_is() {
    let mut story = Story::new(true);
    story.node.handle(at(1), Event::Manager { connected: true }, &mut vec![]);
    story.tell(&[
        (  5, Unit(UnitState::Down), Releasing, &[]),
        ( 10, peer(Standby),         Releasing, &[]),
        (499, Nothing,               Releasing, &[]),
        (500, Nothing,               Standby,   &[]),
    ]);
}

/// A reload is no change of role.
#[test]
fn a_reload_changes_nothing_but_the_settings() {
    let mut story = active();
    let mut out = vec![];
    let faster = Setup { interval: Duration::from_millis(50), ..setup(true) };
    let codec = Codec::new(&[5; 32], "dre", "hadev1", "hadev2");
    story.node.reload(at(60), faster, Some(codec), &mut out);
    assert_eq!(story.node.role(), Active);
    assert!(!did(&out).contains(&Drop));
}

/// dre-vip takes up the file that dre-elect runs by, and no other: it is told which, at each beginning and after each change.
#[test]
fn dre_vip_is_told_by_which_configuration_dre_elect_runs() {
    let adopts = |out: &[Action], digest| out.contains(&Action::Order(Order::Adopt { digest: [digest; 32] }));
    let mut story = active();
    let mut out = vec![];
    story.node.handle(at(60), Event::Stream { open: false }, &mut out);
    assert!(!adopts(&out, 1));
    story.node.handle(at(61), Event::Stream { open: true }, &mut out);
    assert!(adopts(&out, 1), "{out:?}");
    let codec = Codec::new(&[5; 32], "dre", "hadev1", "hadev2");
    story.node.reload(at(62), Setup { digest: [2; 32], ..setup(true) }, Some(codec), &mut out);
    assert!(adopts(&out, 2), "{out:?}");
}

/// Nothing the rules see changes before `next_deadline` unless an event comes: in thousands of states that a random
/// walk reaches, the view at every moment up to the deadline is the view now.
#[test]
fn the_deadline_contract() {
    let mut checked = 0;
    for seed in 0..400 {
        let mut rng = Rng::new(seed);
        let mut story = Story::new(seed % 2 == 0);
        let mut ms = 1;
        for _ in 0..120 {
            let roles = [Standby, Claiming, Active, Releasing];
            let when = match rng.below(16) {
                0 | 1 => Nothing,
                2..=5 => Hears {
                    role: roles[usize::try_from(rng.below(4)).expect("small")],
                    wish: [Wish::None, Wish::None, Wish::Take, Wish::Yield]
                        [usize::try_from(rng.below(4)).expect("small")],
                    echo: (rng.below(5) != 0).then(|| rng.below(ms.min(600))),
                    vote: rng.below(2) == 0,
                    fit: rng.below(5) != 0,
                },
                6 => Pong(rng.below(ms.min(600))),
                7 => Armed,
                8 => Stored,
                9 => ShutNow,
                10 => OpenNow,
                11 => Probes,
                12 => Foreign,
                13 => Interface(rng.below(3) != 0),
                14 => Unit(
                    [UnitState::Down, UnitState::Up, UnitState::Up]
                        [usize::try_from(rng.below(3)).expect("small")],
                ),
                _ => votes(),
            };
            story.step(ms, &when);
            let now = at(ms);
            let deadline = story.node.next_deadline(now);
            assert!(deadline > now, "seed {seed}: a deadline in the past");
            let span = deadline.since(now);
            let mut seen = story.node.view(now);
            seen.late = false;
            for part in 0..8 {
                let then = now + (span - Duration::from_nanos(1)) * part / 7;
                let mut view = story.node.view(then);
                view.late = false;
                assert_eq!(
                    view,
                    seen,
                    "seed {seed}: changed {:?} before the deadline, after {when:?}",
                    deadline.since(then)
                );
                checked += 1;
            }
            let step = if rng.below(4) == 0 { 400 } else { 30 };
            ms += 1 + rng.below(step);
            // Come back when told to, as the loop does.
            if deadline < at(ms) {
                let ms_of = |m: Moment| u64::try_from(m.since(at(0)).as_millis()).expect("small");
                story.step((ms_of(deadline) + 1).min(ms), &Nothing);
            }
        }
    }
    assert!(checked > 300_000, "{checked}");
}

type Named<'a> = Vec<(&'a str, &'a str)>;

/// What was raised and what was cleared, by name and subject.
fn alarms(actions: &[Action]) -> (Named<'_>, Named<'_>) {
    let raised = actions.iter().filter_map(|a| match a {
        Action::Raised { alarm, .. } => Some((&*alarm.name, &*alarm.subject)),
        _ => None,
    });
    let cleared = actions.iter().filter_map(|a| match a {
        Action::Cleared { alarm } => Some((&*alarm.name, &*alarm.subject)),
        _ => None,
    });
    (raised.collect(), cleared.collect())
}

impl Story {
    /// The alarms that stand.
    fn standing(&self) -> Vec<String> {
        self.node.status(at(0), |_| String::new()).alarms.into_iter().map(|a| a.name).collect()
    }

    /// Silence, with a turn each housekeeping, until then.
    fn idle(&mut self, from: u64, until: u64) {
        for ms in (from..=until).step_by(100) {
            self.step(ms, &Nothing);
        }
    }
}

/// A service that does not stop keeps the role from the peer: said by name, and only then.
#[test]
fn a_stop_that_takes_too_long_is_an_alarm() {
    let mut story = active();
    story.step(100, &votes());
    story.tell(&[(
        110,
        Do(Command::Switchover { to: None, force: false }),
        Releasing,
        &[Drop, StartStandby],
    )]);
    story.step(111, &ShutNow);
    story.step(112, &Unit(UnitState::Stopping));
    for ms in (200..5100).step_by(100) {
        assert!(!story.standing().contains(&"StopOverdue".into()), "{ms}");
        story.step(ms, &peer(Standby));
    }
    story.idle(5110, 5400);
    let status = story.node.status(at(5400), |_| String::new());
    let alarm = status.alarms.iter().find(|a| a.name == "StopOverdue").expect("raised");
    assert!(alarm.text.contains("diameter.service is still stopping"), "{}", alarm.text);
    story.step(5500, &Unit(UnitState::Down));
    story.idle(5600, 5900);
    assert!(!story.standing().contains(&"StopOverdue".into()));
}

/// Units that shall run here and do not, each by its name, after their grace; a node in between roles says nothing.
#[test]
fn units_that_do_not_run_are_alarms() {
    let units = Setup {
        standby: vec!["report.service".into()],
        both: vec!["memcached.service".into(), "tomcat10.service".into()],
        ..setup(true)
    };
    let mut story = Story::with(units);
    let unit = |story: &mut Story, ms, index, state| {
        let mut out = vec![];
        story.node.handle(at(ms), Event::Unit { index, state }, &mut out);
        out
    };
    story.tell(&[(10, Armed, Standby, &[]), (20, peer(Standby), Claiming, &[])]);
    story.tell(&[(22, votes(), Active, &[Hold, StartActive]), (23, OpenNow, Active, &[])]);
    for (index, state) in [(1, UnitState::Down), (2, UnitState::Up), (3, UnitState::Missing)] {
        unit(&mut story, 30, index, state);
    }
    let mut raised = vec![];
    for ms in (100..11_000).step_by(100) {
        let out = story.step(ms, &votes());
        raised.extend(alarms(&out).0.into_iter().map(|(name, of)| (ms, name.to_owned(), of.to_owned())));
        story.step(ms + 1, &Stored);
    }
    raised.retain(|(_, name, _)| name.contains("Service"));
    let names: Vec<_> = raised.iter().map(|(_, name, of)| (name.as_str(), of.as_str())).collect();
    // Not report.service: this node is not the standby.
    assert_eq!(names, [("BothServiceDown", "tomcat10.service"), ("ServiceDown", "diameter.service")]);
    assert!(raised.iter().all(|(ms, ..)| (10_000..10_400).contains(ms)), "{raised:?}");
    assert!(story.node.fit(at(11_000)), "an alarm, and no reason to move");
    let mut out = unit(&mut story, 11_000, 0, UnitState::Up);
    for ms in (11_010..11_400).step_by(100) {
        out.extend(story.step(ms, &votes()));
    }
    let cleared: Vec<&str> = alarms(&out).1.into_iter().map(|(_, of)| of).collect();
    assert_eq!(cleared, ["diameter.service"]);
}

#[test]
fn two_links_that_are_down_are_two_alarms() {
    let mut story = Story::with(Setup { links: ["a", "b", "c"].map(Into::into).into(), ..setup(false) });
    story.tell(&[(10, Armed, Standby, &[]), (1000, peer(Active), Standby, &[])]);
    for ms in (1100..2600).step_by(100) {
        story.step(ms, &peer(Active));
    }
    let down: Vec<String> = story
        .node
        .status(at(2600), |_| String::new())
        .alarms
        .into_iter()
        .filter(|alarm| alarm.name == "LinkDown" && alarm.text.contains(&alarm.subject))
        .map(|alarm| alarm.subject)
        .collect();
    assert_eq!(down, ["b", "c"]);
    assert!(story.node.status_line(at(2600)).ends_with("ALARM ArbitratorSilent, LinkDown"), "each name once");
}

/// The role is let go while systemd still starts it: the lease unit's question comes late, and is nobody's wish. After systemd has
/// let go it is.
#[test]
#[rustfmt::skip]
fn a_lease_unit_that_comes_too_late_takes_nothing_back() {
    let mut story = active();
    let take = || Command::LeaseTake { unit: Some("first".into()), force: false };
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (110, Do(Command::Switchover { to: None, force: false }), Releasing, &[Drop, StartStandby]),
        (111, Refused(take()),           Releasing, &[]),
        (112, Unit(UnitState::Down),     Releasing, &[]),
        (113, ShutNow,                   Standby,   &[]),
        (114, Refused(take()),           Standby,   &[]),
        (115, peer(Active),              Standby,   &[]),
        (116, StandbyReached,            Standby,   &[]),
        (117, Do(take()),                Standby,   &[]),
    ]);
    assert_eq!(story.node.view(at(118)).wish, Wish::Take);
}

/// Services that take longer to stop than the other has to take the role: its time begins when the role is free.
#[test]
#[rustfmt::skip]
fn a_slow_stop_is_no_switchover_that_nobody_took() {
    let mut story = active();
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (110, Do(Command::Switchover { to: None, force: false }), Releasing, &[Drop, StartStandby]),
        (111, ShutNow, Releasing, &[]),
    ]);
    for ms in (200..8000).step_by(100) {
        story.tell(&[(ms, peer(Standby), Releasing, &[])]);
    }
    story.tell(&[
        (8010, Unit(UnitState::Down), Standby, &[]),
        (8100, peer(Standby),         Standby, &[]),
        (8200, peer(Active),          Standby, &[]),
    ]);
}

/// The peer knows of its own acknowledgements and waits for them to run out. What the arbitrator answers in peace must not keep
/// the gate of a node that freezes open for longer.
#[test]
#[rustfmt::skip]
fn an_answer_asked_for_in_peace_lengthens_no_lease() {
    let mut story = active();
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (101, Stored,  Active, &[]),
        // Asked 49 ms after the heartbeat that was acknowledged.
        (151, Pong(2), Active, &[]),
    ]);
    assert_eq!(story.node.lease(at(152)).0, at(593));
    story.tell(&[(350, Nothing, Active, &[Ping]), (352, Pong(2), Active, &[Hold])]);
    assert_eq!(story.node.lease(at(353)), (at(350 + 493), By::Arbitrator));
}

/// Who reaches no arbitrator may not claim, and does not disturb the other's look at the wire; the first answer begins the look.
#[test]
#[rustfmt::skip]
fn an_isolated_node_looks_when_the_arbitrator_is_back() {
    let mut story = standby();
    story.tell(&[(1000, peer(Active), Standby, &[]), (1250, Nothing, Standby, &[Probe, Ping])]);
    story.idle(1300, 3200);
    story.tell(&[
        (3251, Nothing, Standby, &[]),
        (3510, Pong(1), Standby, &[Probe]),
        (3520, Pong(1), Standby, &[]),
        (3540, Probes,  Standby, &[]),
        (3550, Nothing, Active,  &[Hold, StartActive, ProbeEnd]),
    ]);
}

/// When links heal, the lower term yields to the first word it hears; the other may hear of it only by an echo that is stale yet.
#[test]
fn both_active_is_told_from_a_word_that_is_not_proven() {
    let mut story = active();
    story.step(100, &votes());
    let deaf = Hears { role: Active, wish: Wish::None, echo: None, vote: false, fit: true };
    story.step(110, &deaf);
    assert!(story.standing().contains(&"BothActive".into()), "{:?}", story.standing());
    story.step(120, &peer(Releasing));
    assert!(!story.standing().contains(&"BothActive".into()), "{:?}", story.standing());
}

/// What a peer said last is no alarm, and no reason to refuse, when it is gone.
#[test]
fn a_dead_peers_last_words_count_for_nothing() {
    let mut story = standby();
    story.node.setup.digest = [9; 32];
    for ms in (1000..1500).step_by(100) {
        story.step(ms, &peer(Active));
    }
    assert!(story.standing().contains(&"ConfigDiffers".into()));
    story.tell(&[(1510, Refused(Command::LeaseTake { unit: None, force: false }), Standby, &[])]);
    story.step(1520, &Do(Command::LeaseTake { unit: None, force: true }));
    story.idle(1600, 2900);
    assert!(!story.standing().contains(&"ConfigDiffers".into()), "{:?}", story.standing());
    story.step(2990, &Foreign);
    story.step(2991, &Pong(1));
    story.step(2992, &Do(Command::LeaseTake { unit: None, force: false }));

    let mut story = active();
    story.node.term = 60;
    for ms in (100..1500).step_by(50) {
        story.step(ms, &peer(Active));
        story.step(ms + 1, &Pong(1));
        story.step(ms + 2, &Stored);
    }
    assert!(story.standing().contains(&"BothActive".into()), "{:?}", story.standing());
    for ms in (1500..2300).step_by(50) {
        story.step(ms, &Pong(1));
        story.step(ms + 1, &Stored);
    }
    assert_eq!(story.node.role(), Active);
    assert!(!story.standing().contains(&"BothActive".into()), "{:?}", story.standing());
}

#[test]
fn standalone_ends_when_a_peer_is_heard() {
    let mut story = Story::with(Setup { standalone: true, ..setup(true) });
    story.tell(&[(10, Armed, Standby, &[])]);
    story.idle(20, 1900);
    assert!(story.standing().contains(&"Standalone".into()));
    assert!(story.node.status(at(1900), |_| String::new()).standalone);
    story.step(1910, &peer(Standby));
    story.step(2200, &peer(Standby));
    assert!(!story.standing().contains(&"Standalone".into()), "{:?}", story.standing());
    assert!(!story.node.status(at(2200), |_| String::new()).standalone);
}

/// The network repeats and reorders: no stranger, also when the peer is lost right after.
#[test]
fn a_duplicate_is_no_stranger() {
    let mut story = standby();
    story.step(1000, &peer(Active));
    story.sequence -= 1;
    story.step(1001, &peer(Active));
    assert_eq!(story.node.status(at(1002), |_| String::new()).rejected[0].reason, Reject::Replay.word());
    story.idle(1100, 2000);
    assert!(story.standing().contains(&"PeerLost".into()));
    assert!(!story.standing().contains(&"PeerStrange".into()), "{:?}", story.standing());
}

/// In the middle of a reload each may think that it goes first, or that the other does: then the names decide. What the two
/// agreed on last holds while they do not hear each other.
#[test]
fn nodes_that_differ_go_by_their_names() {
    for configured in [false, true] {
        let mut story = Story::new(configured);
        story.tell(&[(10, Armed, Standby, &[])]);
        assert_eq!(story.node.view(at(10)).first, configured);
        story.step(20, &peer(Active));
        assert_eq!(story.node.view(at(20)).first, configured);
        let codec = || Some(Codec::new(&[5; 32], "dre", "hadev1", "hadev2"));
        let reloaded = Setup { digest: [9; 32], ..setup(!configured) };
        story.node.reload(at(30), reloaded.clone(), codec(), &mut vec![]);
        assert!(story.node.view(at(30)).first, "hadev1 before hadev2");
        // The other has reloaded too.
        story.node.setup.digest = [1; 32];
        story.step(40, &peer(Active));
        assert_eq!(story.node.view(at(40)).first, !configured);
        // Reloaded while the peer is lost: it does not know.
        story.idle(100, 900);
        story.node.reload(at(910), Setup { digest: [7; 32], ..setup(configured) }, codec(), &mut vec![]);
        assert_eq!(story.node.view(at(910)).first, !configured);
    }
}

/// The shutdown was called off: the node stands by again, and does not end.
#[test]
#[rustfmt::skip]
fn a_shutdown_that_does_not_come_is_forgotten() {
    let mut story = active();
    story.tell(&[
        (100, votes(),               Active,    &[Hold]),
        (110, When::Stop,            Releasing, &[Drop, StartStandby]),
        (115, Unit(UnitState::Down), Releasing, &[]),
        (116, ShutNow,               Standby,   &[]),
        (117, peer(Claiming),        Standby,   &[]),
        (118, Stays,                 Standby,   &[]),
        (119, peer(Active),          Standby,   &[]),
        (200, peer(Active),          Standby,   &[]),
    ]);
    assert_eq!(story.node.view(at(201)).wish, Wish::None);
    // And it takes over like any standby.
    story.tell(&[(210, wishes(Standby, Wish::Yield), Claiming, &[]), (212, votes(), Active, &[Hold, StartActive])]);
}

/// A longer D: what was asked before the reload was promised for the shorter one.
#[test]
fn a_reload_does_not_lengthen_what_was_promised_before() {
    let mut story = active();
    story.step(100, &votes());
    let longer =
        Setup { dead_after: Duration::from_secs(5), guard: Duration::from_millis(52), ..setup(true) };
    let codec = Codec::new(&[5; 32], "dre", "hadev1", "hadev2");
    story.node.reload(at(150), longer, Some(codec), &mut vec![]);
    // Sent at 140, before the reload.
    let old = Hears { role: Standby, wish: Wish::None, echo: Some(20), vote: true, fit: true };
    story.step(160, &old);
    assert_eq!(story.node.lease(at(160)).0, at(140 + 493));
    story.step(170, &Hears { role: Standby, wish: Wish::None, echo: Some(10), vote: true, fit: true });
    assert_eq!(story.node.lease(at(170)).0, at(160 + 4948));
}

/// dre-lease.service of an earlier term stops late, when the role has come back: that is nobody's wish.
#[test]
#[rustfmt::skip]
fn a_late_stop_of_an_earlier_lease_unit_releases_nothing() {
    let mut story = active();
    let unit = |name: &str| Some(name.to_owned());
    story.tell(&[
        (100, votes(), Active, &[Hold]),
        (101, Do(Command::LeaseTake { unit: unit("second"), force: false }),    Active,    &[]),
        (102, Do(Command::LeaseRelease { unit: unit("first") }),  Active,    &[]),
        (103, Do(Command::LeaseRelease { unit: unit("second") }), Releasing, &[Drop, StartStandby]),
        (104, Unit(UnitState::Down),                              Releasing, &[]),
        (105, ShutNow,                                            Standby,   &[]),
        // Released for good: nothing is claimed until somebody asks.
        (110, peer(Standby),                                      Standby,   &[]),
        (115, Do(Command::LeaseTake { unit: None, force: false }),              Claiming,  &[]),
    ]);
}

/// A node that was told to let go stays out of it until the peer has it, and says what takes it back: of its own group. One that has
/// nothing to let go is changed in nothing.
#[test]
fn a_role_that_is_released_is_held_back_until_the_peer_has_it() {
    let mut story = Story::with(Setup { group: "mysql".into(), ..setup(true) });
    let release = || Do(Command::LeaseRelease { unit: None });
    story.tell(&[
        (10, Armed, Standby, &[]),
        (11, release(), Standby, &[]),
        (20, peer(Standby), Claiming, &[]),
        (22, votes(), Active, &[Hold, StartActive]),
        (23, OpenNow, Active, &[]),
        (50, Unit(UnitState::Up), Active, &[]),
        (100, votes(), Active, &[Hold]),
        (103, release(), Releasing, &[Drop, StartStandby]),
        (104, Unit(UnitState::Down), Releasing, &[]),
        (105, ShutNow, Standby, &[]),
    ]);
    for ms in (200..=1500).step_by(100) {
        story.step(ms, &peer(Standby));
    }
    let status = story.node.status(at(1500), |_| String::new());
    let alarm = status.alarms.iter().find(|alarm| alarm.name == "HeldBack").expect("raised");
    assert!(alarm.text.ends_with("; drectl -g mysql lease take brings it back"), "{}", alarm.text);
    for ms in (1600..=2900).step_by(100) {
        story.step(ms, &peer(Active));
    }
    assert!(!story.standing().contains(&"HeldBack".into()));
}

/// The tables by name, for [`crate::logic::planted`].
pub(in crate::logic) const TABLES: &[(&str, fn())] = &[
    ("of_two_free_nodes_the_first_claims", of_two_free_nodes_the_first_claims),
    ("a_slow_dre_vip_costs_nothing", a_slow_dre_vip_costs_nothing),
    ("a_claim_without_a_vote_lapses", a_claim_without_a_vote_lapses),
    (
        "an_active_node_without_acknowledgements_and_arbitrator_is_isolated",
        an_active_node_without_acknowledgements_and_arbitrator_is_isolated,
    ),
    ("an_active_node_goes_on_alone_by_the_arbitrator", an_active_node_goes_on_alone_by_the_arbitrator),
    (
        "a_withdrawn_name_starts_the_evidence_and_claims_nothing",
        a_withdrawn_name_starts_the_evidence_and_claims_nothing,
    ),
    ("the_kernels_word_of_a_link_counts", the_kernels_word_of_a_link_counts),
    ("a_lost_peer_is_replaced_at_d", a_lost_peer_is_replaced_at_d),
    ("a_peer_that_still_serves_is_not_doubled", a_peer_that_still_serves_is_not_doubled),
    ("without_an_arbitrators_answer_a_standby_stays", without_an_arbitrators_answer_a_standby_stays),
    ("one_way_loss_holds_a_claim_back", one_way_loss_holds_a_claim_back),
    ("a_switchover_releases_before_the_other_claims", a_switchover_releases_before_the_other_claims),
    ("a_switchover_that_nobody_takes_is_taken_back", a_switchover_that_nobody_takes_is_taken_back),
    ("the_peer_asks_for_the_role_and_gets_it", the_peer_asks_for_the_role_and_gets_it),
    ("an_unfit_active_yields_to_a_fit_standby_only", an_unfit_active_yields_to_a_fit_standby_only),
    ("an_unfit_standby_does_not_claim", an_unfit_standby_does_not_claim),
    ("a_node_that_slept_through_its_lease_lets_go_first", a_node_that_slept_through_its_lease_lets_go_first),
    ("of_two_active_nodes_the_lower_term_yields", of_two_active_nodes_the_lower_term_yields),
    ("a_gate_that_ran_out_alone_is_not_opened_again", a_gate_that_ran_out_alone_is_not_opened_again),
    (
        "a_dre_vip_that_does_not_answer_makes_the_node_unfit",
        a_dre_vip_that_does_not_answer_makes_the_node_unfit,
    ),
    (
        "an_active_target_that_is_not_reached_moves_the_role",
        an_active_target_that_is_not_reached_moves_the_role,
    ),
    ("a_failed_service_moves_the_role", a_failed_service_moves_the_role),
    ("a_clean_stop_hands_over_and_stays_for_the_vote", a_clean_stop_hands_over_and_stays_for_the_vote),
    ("a_restarted_node_is_not_free_before_its_gate_is", a_restarted_node_is_not_free_before_its_gate_is),
    ("a_reload_changes_nothing_but_the_settings", a_reload_changes_nothing_but_the_settings),
    (
        "a_late_stop_of_an_earlier_lease_unit_releases_nothing",
        a_late_stop_of_an_earlier_lease_unit_releases_nothing,
    ),
];

/// How often this standby of two links spoke on each from 1 s to 3 s, and the longest silence, in ms. `hears`: whether the ACTIVE's
/// heartbeat number n arrives on that link; its interval is the same 100 ms. `told`: whether what is said then arrives there. Asked
/// every 5 ms, as a loop with nothing else to do would.
fn speaks(hears: impl Fn(u64, u8) -> bool, told: impl Fn(u64) -> bool) -> [(usize, u64); 2] {
    let mut story = Story::with(Setup { links: vec!["primary".into(), "secondary".into()], ..setup(false) });
    story.step(10, &Armed);
    let mut sequence = [0; 2];
    let mut said: [Vec<u64>; 2] = [vec![], vec![]];
    for ms in (100..3000).step_by(5) {
        let now = at(ms);
        let mut out = vec![];
        if ms % 100 == 35 {
            for link in 0..2 {
                sequence[usize::from(link)] += 1;
                if !hears(ms / 100, link) {
                    continue;
                }
                let echo = said[usize::from(link)].iter().copied().rfind(|ms| told(*ms));
                let hb = Heartbeat {
                    link,
                    role: Active,
                    wish: Wish::None,
                    flags: Flags { fit: true, serving: true, ..Flags::default() },
                    links_heard: 3,
                    session: PEER,
                    sequence: sequence[usize::from(link)],
                    sent: now.as_nanos(),
                    echo_session: echo.map_or(0, |_| OWN),
                    echo_sent: echo.map_or(0, |ms| at(ms).as_nanos()),
                    echo_hold_us: 0,
                    dead_after_us: 500_000,
                    lease_left_us: 0,
                    shut_ago_us: 0,
                    term: 50,
                    vote: 0,
                    wall_ms: 0,
                    digest: [1; 32],
                    sections: [0; 8],
                };
                story.node.handle(now, Event::Datagram { bytes: &story.codec.encode(&hb) }, &mut out);
            }
        }
        story.node.handle(now, Event::Tick, &mut out);
        for action in &out {
            if let Action::Send { link, .. } = action {
                said[*link].push(ms);
            }
        }
    }
    said.map(|times| {
        let late: Vec<u64> = times.into_iter().filter(|ms| *ms >= 1000).collect();
        let longest = late.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        (late.len(), longest)
    })
}

/// Who is asked on every link says with the answer what its own heartbeat would have said.
#[test]
fn an_answer_on_every_link_stands_for_the_next_heartbeat() {
    assert_eq!(speaks(|_, _| true, |_| true), [(20, 100); 2]);
    // Asked on one link alone, it speaks on both by itself, and answers beside that.
    assert_eq!(speaks(|_, link| link == 0, |_| true).map(|(times, _)| times), [40, 20]);
    // Not asked any more, it is silent for no longer than an interval and a quarter.
    let [first, second] = speaks(|n, _| n < 20, |_| true);
    assert_eq!((first, second), ((20, 125), (20, 125)));
}

/// Where heartbeats get lost, each word is said twice.
#[test]
fn where_heartbeats_get_lost_none_is_left_out() {
    let [(first, longest), (second, _)] = speaks(|n, _| n % 5 != 0, |_| true);
    assert!(first >= 34 && second >= 34 && longest <= 100, "{first} {second} {longest}");
    // What is lost on the way back is known by its echo: of the words of each second interval none arrives.
    let [(first, _), (second, _)] = speaks(|_, _| true, |ms| ms / 100 % 2 == 0);
    assert!(first >= 29 && second >= 29, "{first} {second}");
    // Nothing arrives any more: it is asked until the peer's words prove nothing, and speaks by itself from the first on.
    let [(first, _), (second, _)] = speaks(|_, _| true, |ms| ms < 1300);
    assert!(first >= 23 && second >= 23, "{first} {second}");
}
