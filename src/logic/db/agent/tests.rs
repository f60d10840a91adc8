//! What real servers showed and the simulation's do not do, step by step.

use super::*;
use crate::logic::db::facts::{Flavor, Receiver, SemiSync};

const fn at(ms: u64) -> Moment {
    Moment::from_nanos(50_000_000_000 + ms * 1_000_000)
}

fn gtids(text: &str) -> Gtids {
    Gtids::parse(Flavor::MariaDb, text).expect("a list")
}

/// A server with id 2 that was started and does nothing yet.
fn stopped(has: &str, applied: &str) -> Box<Probe> {
    Box::new(Probe {
        flavor: Flavor::MariaDb,
        version: "11.8".into(),
        server_id: 2,
        server_uuid: String::new(),
        read_only: true,
        has: gtids(has),
        applied: gtids(applied),
        purged: gtids(""),
        semi_sync: SemiSync::default(),
        replica: Some(Replica {
            host: "172.16.11.54".into(),
            port: 3306,
            source_id: 1,
            receiver: Receiver::Stopped,
            applier: false,
            receiver_errno: 0,
            receiver_error: String::new(),
            applier_errno: 0,
            applier_error: String::new(),
            received: gtids(""),
            read: (String::new(), 0),
            using_gtid: true,
        }),
        wrong: vec![],
        admins: vec![],
        waiters: 0,
    })
}

/// The operations that an agent without a role begins for this server, while the peer is ACTIVE with `peer_has`; that of the demotion
/// with which its stream begins is the first.
fn begun(server: &Probe, peer_has: &str) -> Vec<Op> {
    let mut out = vec![];
    let mut agent = Agent::new(at(0), setup(), Record::default(), &mut out);
    let peer = stand(true, peer_has, true);
    let events = [
        Event::Stream { open: true },
        Event::Charged(Charge::Demote { serial: 1, bound_ms: 2000 }),
        Event::Channel { open: true },
    ];
    for event in events {
        agent.handle(at(10), event, &mut out);
    }
    let mut ops = vec![];
    for turn in 1..40_u64 {
        agent.handle(at(turn * 50), Event::Told(Box::new(peer.clone())), &mut out);
        agent.handle(at(turn * 50 + 1), Event::Tick, &mut out);
        for action in std::mem::take(&mut out) {
            match action {
                Action::Probe { .. } => {
                    agent.handle(at(turn * 50 + 2), Event::Probed(Ok(Box::new(server.clone()))), &mut out);
                }
                Action::Do { id, op, .. } => {
                    ops.push(op);
                    agent.handle(at(turn * 50 + 3), Event::Done { id, result: Ok(Answer::Done) }, &mut out);
                }
                _ => {}
            }
        }
    }
    ops.dedup();
    ops
}

/// Killed as ACTIVE under load: the newest commit that no standby had acknowledged was cut off its log, the position had followed it.
#[test]
fn a_position_beyond_the_own_log_goes_back_before_anything_is_replicated() {
    let ops = begun(&stopped("0-1-3,0-2-1792", "0-2-1793"), "0-1-3,0-2-1793");
    assert_eq!(ops.get(1), Some(&Op::Position { at: gtids("0-1-3,0-2-1792") }), "{ops:?}");
}

#[test]
fn a_position_that_the_log_has_stays() {
    let ops = begun(&stopped("0-1-3,0-2-1793", "0-2-1793"), "0-1-3,0-2-1793");
    assert_eq!(ops.get(1), Some(&Op::StartReplication), "{ops:?}");
}

/// A switchover to a copy that was made of this server: the copy's log begins where it was made, and this server, ACTIVE until now, has
/// received nothing since long before. Seen on real servers: it asked for 0-1-4 for ever.
#[test]
fn a_position_that_the_copys_log_does_not_have_any_more_goes_on_to_where_the_own_log_ends() {
    let refused = |has: &str, applied: &str| {
        let mut server = stopped(has, applied);
        server.replica.as_mut().expect("it replicates").receiver_errno = 1236;
        server
    };
    let ops = begun(&refused("0-1-1691", "0-1-4"), "0-1-1691,0-2-2128");
    assert_eq!(ops.get(1), Some(&Op::Position { at: gtids("0-1-1691") }), "{ops:?}");
    // One that still runs is stopped first; one that is there already has nowhere else to go.
    let mut runs = refused("0-1-1691", "0-1-4");
    runs.replica.as_mut().expect("it replicates").applier = true;
    assert_eq!(begun(&runs, "0-1-1691,0-2-2128").get(1), Some(&Op::StopReplication));
    let ops = begun(&refused("0-1-1691", "0-1-1691"), "0-1-1691,0-2-2128");
    assert_eq!(ops.get(1), Some(&Op::StartReplication), "{ops:?}");
}

/// The same before the switchover: the way back begins where the standby is, and not where this one will be by then.
#[test]
fn the_way_back_from_a_copy_begins_where_the_copy_is() {
    let mut stage = Stage::active(setup());
    stage.server.semi_sync = SemiSync { enabled: true, on: true, replicas: 1 };
    stage.server.has = gtids("0-1-9,0-2-30");
    stage.server.applied = gtids("0-1-9");
    stage.replica(|replica| {
        (replica.receiver, replica.applier, replica.receiver_errno) = (Receiver::Stopped, false, 1236);
    });
    stage.event(Event::Told(Box::new(stand(false, "0-1-9,0-2-28", false))));
    stage.run(1_500);
    assert!(stage.ops.contains(&Op::Position { at: gtids("0-1-9,0-2-28") }), "{:?}", stage.ops);
    // The standby's log never had what this one already received from it: nothing is asked for a second time.
    stage.clear();
    stage.server.applied = gtids("0-2-29");
    stage.event(Event::Told(Box::new(stand(false, "0-1-9,0-2-28", false))));
    stage.run(1_500);
    assert!(!stage.ops.iter().any(|op| matches!(op, Op::Position { .. })), "{:?}", stage.ops);
}

// ---- one agent on a stage, its server and everybody else played by the test ---------------------------

std::thread_local! {
    /// The bug that the stories below are told with.
    static PLANT: std::cell::Cell<Planted> = const { std::cell::Cell::new(Planted::Nothing) };
}

struct Stage {
    agent: Agent,
    now: u64,
    server: Box<Probe>,
    /// What it said and did since it was looked at last: operations, words, and what it told the peer.
    ops: Vec<Op>,
    running: Option<u64>,
    words: Vec<Word>,
    told: Vec<Tell>,
    notes: Vec<String>,
    kept: Option<Record>,
    /// Operations are answered in this many milliseconds; `None`: the server hangs.
    answers: Option<u64>,
}

fn setup() -> Setup {
    Setup {
        durability: Durability::Available,
        max_lag: Duration::from_secs(10),
        relay_wait: Duration::from_secs(60),
        on_relay_lost: RelayLost::Block,
        keep_users: vec!["backup".into()],
        dead_after: Duration::from_secs(1),
        group: "mysql".into(),
        peer: "hadev1".into(),
    }
}

fn stand(active: bool, has: &str, semi_sync: bool) -> Tell {
    Tell::Stand {
        server_id: 1,
        server_uuid: String::new(),
        flavor: crate::logic::db::facts::Flavor::MariaDb,
        has: gtids(has),
        purged: gtids(""),
        read_only: !active,
        active,
        term: 3,
        fit: true,
        state: "OK".into(),
        semi_sync,
    }
}

impl Stage {
    fn new(setup: Setup, record: Record, has: &str) -> Self {
        let mut out = vec![];
        let mut agent = Agent::new(at(0), setup, record, &mut out);
        agent.planted = PLANT.get();
        let mut stage = Self {
            agent,
            now: 0,
            server: stopped(has, ""),
            ops: vec![],
            running: None,
            words: vec![],
            told: vec![],
            notes: vec![],
            kept: None,
            answers: Some(1),
        };
        stage.carry_out(out);
        stage
    }

    /// A standby in step with an ACTIVE that has `has`, as this one does.
    fn in_step(setup: Setup, record: Record, has: &str) -> Self {
        let mut stage = Self::new(setup, record, has);
        stage.event(Event::Stream { open: true });
        stage.event(Event::Charged(Charge::Demote { serial: 1, bound_ms: 2000 }));
        stage.event(Event::Channel { open: true });
        stage.replica(|replica| {
            (replica.receiver, replica.applier) = (Receiver::Connected, true);
            replica.read = ("binlog".into(), 4);
        });
        stage.event(Event::Told(Box::new(stand(true, has, true))));
        stage.run(1500);
        assert_eq!(stage.agent.health().word(), "OK");
        assert_eq!(stage.words.last(), Some(&Word::Fit { why_not: None }), "{:?}", stage.words);
        stage.clear();
        stage
    }

    /// The ACTIVE of term 4, by a hand-over.
    fn active(setup: Setup) -> Self {
        let mut stage = Self::in_step(setup, Record::default(), "0-1-9");
        stage.event(Event::Told(Box::new(Tell::HandedOver { has: gtids("0-1-9") })));
        stage.event(Event::Charged(Charge::Promote { term: 4, planned: true, force: false }));
        stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
        stage.run(50);
        stage.run(20);
        assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?} {:?}", stage.words, stage.notes);
        stage.clear();
        stage
    }

    fn replica(&mut self, change: impl FnOnce(&mut Replica)) {
        change(self.server.replica.as_mut().expect("it replicates"));
    }

    fn clear(&mut self) {
        (self.ops, self.words, self.told, self.notes) = (vec![], vec![], vec![], vec![]);
    }

    fn event(&mut self, event: Event) {
        let mut out = vec![];
        self.agent.handle(at(self.now), event, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Probe { .. } if self.answers.is_some() => {
                    let probe = self.server.clone();
                    self.event(Event::Probed(Ok(probe)));
                }
                Action::Do { id, op, .. } => {
                    match op {
                        Op::ReadOnly => self.server.read_only = true,
                        Op::Writable => self.server.read_only = false,
                        Op::StartApplier => self.replica(|replica| replica.applier = true),
                        Op::StopReceiver => self.replica(|replica| replica.receiver = Receiver::Stopped),
                        _ => {}
                    }
                    self.ops.push(op);
                    self.running = Some(id);
                }
                Action::Forget { id } => self.running = self.running.filter(|running| *running != id),
                Action::Say(word) => self.words.push(word),
                Action::Tell(tell) => self.told.push(*tell),
                Action::Note { text, .. } => self.notes.push(text),
                Action::Keep(record) => self.kept = Some(*record),
                Action::Probe { .. } | Action::Exit => {}
            }
        }
    }

    /// Time goes by, a millisecond a step; operations are answered, and the agent is woken when it asked for it.
    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            let wake = self.agent.next_deadline(at(self.now));
            self.now += 1;
            if let (Some(id), Some(_)) = (self.running, self.answers) {
                self.running = None;
                let settled = self.ops.last() == Some(&Op::Settled);
                let answer = if settled { Answer::Has(self.server.has.clone()) } else { Answer::Done };
                self.event(Event::Done { id, result: Ok(answer) });
            }
            if at(self.now) >= wake {
                self.event(Event::Tick);
            }
        }
    }

    fn began(&self, wanted: &Op) -> Option<usize> {
        self.ops.iter().position(|op| op == wanted)
    }
}

/// The steps follow each other on answers: five of them, a millisecond each, and clients are served.
fn a_hand_over_is_applied_and_nothing_else_is_waited_for() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: true, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(200);
    assert_eq!(stage.ops, [], "the peer has not handed over");
    let handed = gtids("0-1-12");
    stage.event(Event::Told(Box::new(Tell::HandedOver { has: handed.clone() })));
    assert_eq!(stage.ops, [Op::WaitApplied { target: handed.clone() }]);
    stage.server.has = handed.clone();
    stage.run(4);
    assert!(matches!(stage.ops[1], Op::SemiSync { source: true, .. }), "{:?}", stage.ops);
    assert_eq!(stage.ops[2], Op::Writable);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?}", stage.words);
    assert_eq!(stage.kept.map(|record| record.promoted), Some(Some((4, handed))));
}

/// After a power loss nobody closes the connection: what lies in it is waited for, but not for long.
fn what_lies_in_the_receivers_socket_is_drained_and_that_takes_a_third_of_a_second() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(200);
    assert_eq!(stage.began(&Op::StopReceiver), None, "what is in the socket is thrown away");
    stage.replica(|replica| {
        replica.read.1 = 7;
        replica.received = gtids("0-1-11");
    });
    stage.run(250);
    assert_eq!(stage.began(&Op::StopReceiver), None, "it moved 200 ms ago");
    stage.run(250);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?} {:?}", stage.ops, stage.notes);
    let stops = stage.began(&Op::StopReceiver).expect("stopped");
    assert!(matches!(&stage.ops[stops + 1], Op::WaitApplied { target } if target.covers(&gtids("0-1-11"))));
}

/// Without anything to drain the whole promotion stays far below what the election needs to see that a machine is dead.
fn after_a_power_loss_the_server_takes_writes_within_400_ms() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(400);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?} {:?}", stage.ops, stage.notes);
}

/// A killed server closes its connections: there is nothing to wait for.
fn a_source_that_said_goodbye_is_not_drained() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.replica(|replica| replica.receiver = Receiver::Connecting);
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(20);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?} {:?}", stage.ops, stage.notes);
}

fn the_applier_runs_before_the_receiver_is_stopped() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.replica(|replica| (replica.receiver, replica.applier) = (Receiver::Connecting, false));
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.run(50);
    let (starts, stops) = (stage.began(&Op::StartApplier), stage.began(&Op::StopReceiver));
    assert!(starts.is_some() && starts < stops, "{:?}", stage.ops);
}

fn a_relay_log_that_lost_something_blocks_and_by_force_it_does_not() {
    let record = Record { received: Some(gtids("0-1-12")), ..Record::default() };
    let mut stage = Stage::in_step(setup(), record.clone(), "0-1-9");
    stage.replica(|replica| replica.receiver = Receiver::Connecting);
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.run(50);
    let refused =
        |word: &Word| matches!(word, Word::Failed { reason, .. } if reason.starts_with("RELAY_LOST"));
    assert!(stage.words.iter().any(refused), "{:?} {:?}", stage.words, stage.ops);
    assert_eq!(stage.began(&Op::Writable), None);
    let mut stage = Stage::in_step(Setup { on_relay_lost: RelayLost::Promote, ..setup() }, record, "0-1-9");
    stage.event(Event::Channel { open: false });
    stage.replica(|replica| replica.receiver = Receiver::Connecting);
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(50);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?}", stage.words);
    assert!(stage.notes.iter().any(|note| note.starts_with("RELAY_LOST: 3 ")), "{:?}", stage.notes);
    stage.run(20);
    assert_eq!(stage.agent.health().word(), "RELAY_LOST");
}

/// It handed over once, took the role again, and let it go once more without a word.
fn what_was_handed_over_does_not_outlive_the_next_time_that_the_peer_is_active() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.event(Event::Told(Box::new(Tell::HandedOver { has: gtids("0-1-9") })));
    stage.event(Event::Told(Box::new(stand(true, "0-1-9", true))));
    stage.event(Event::Charged(Charge::Promote { term: 6, planned: true, force: false }));
    stage.run(100);
    assert_eq!(stage.ops, [], "an old position is taken for the last one");
    stage.event(Event::Told(Box::new(Tell::HandedOver { has: gtids("0-1-30") })));
    assert_eq!(stage.ops, [Op::WaitApplied { target: gtids("0-1-30") }]);
}

/// The peer was given the role for a moment, with a tail of its own from before, and hands that over.
#[test]
fn what_is_handed_over_by_a_history_that_forked_is_not_applied() {
    for (meant, goes_on) in [(2, false), (5, true)] {
        let record = Record { meant, ..Record::default() };
        let mut stage = Stage::in_step(setup(), record, "0-1-9,0-2-12");
        stage.event(Event::Charged(Charge::Promote { term: 6, planned: true, force: false }));
        stage.event(Event::Charged(Charge::Until { term: 6, until: at(60_000) }));
        // Its word says that it is of term 3 (the stand of the stage); 0-2-12 is not there, 0-1-30 is not here.
        stage.agent.record.meant = meant;
        stage.event(Event::Told(Box::new(Tell::HandedOver { has: gtids("0-1-30,0-2-11") })));
        stage.run(50);
        let foreign = |op: &Op| matches!(op, Op::WaitApplied { target } if target.covers(&gtids("0-1-30")));
        assert!(!stage.ops.iter().any(foreign) && stage.began(&Op::StartReplication).is_none());
        assert_eq!(stage.words.contains(&Word::Writable { term: 6 }), goes_on, "{:?}", stage.words);
    }
}

/// A promotion that was refused is the election's to ask for again, and not by force.
fn what_was_refused_stays_refused() {
    let record = Record { received: Some(gtids("0-1-12")), ..Record::default() };
    let mut stage = Stage::in_step(setup(), record, "0-1-9");
    stage.replica(|replica| replica.receiver = Receiver::Connecting);
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(4_000);
    assert!(stage.words.iter().any(|word| matches!(word, Word::Failed { .. })), "{:?}", stage.words);
    assert_eq!(stage.began(&Op::Writable), None, "{:?}", stage.ops);
}

/// The ACTIVE may have gone on alone since.
fn a_standby_that_heard_nothing_for_a_minute_does_not_go_on() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.event(Event::Channel { open: false });
    stage.replica(|replica| replica.receiver = Receiver::Connecting);
    stage.run(50_000);
    assert_eq!(stage.agent.why_not(at(stage.now)), None);
    stage.run(12_000);
    assert!(stage.agent.why_not(at(stage.now)).is_some());
    assert!(matches!(stage.words.last(), Some(Word::Fit { why_not: Some(_) })), "{:?}", stage.words);
}

/// It was alone for long enough, and that is written down; it is taken back before the peer's agent hears anything.
fn having_been_alone_is_written_down_and_taken_back() {
    let mut stage = Stage::active(setup());
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(stage.now + 200_000) }));
    stage.event(Event::Channel { open: false });
    stage.run(80_000);
    assert!(stage.kept.as_ref().is_some_and(|record| !record.alone), "{:?}", stage.kept);
    stage.run(15_000);
    assert!(stage.kept.as_ref().is_some_and(|record| record.alone), "{:?}", stage.kept);
    let mut out = vec![];
    stage.agent.handle(at(stage.now), Event::Channel { open: true }, &mut out);
    let kept = out.iter().position(|action| matches!(action, Action::Keep(record) if !record.alone));
    let told = out.iter().position(|action| matches!(action, Action::Tell(_)));
    assert!(kept.is_some() && told.is_none_or(|told| kept < Some(told)), "{out:?}");
}

/// The two products' writers: of this server (id 2), and of the peer's.
const OWN: &str = "bbbbbbbb-71ca-11e1-9e33-c80aa9429562";
const PEERS: &str = "aaaaaaaa-71ca-11e1-9e33-c80aa9429562";

/// A standby whose server has numbers up to `own` of its own, of which the peer, ACTIVE, has four, and more of its own.
fn forked(flavor: Flavor, record: Record, own: u64) -> Stage {
    let of = |own: u64, peers: u64| {
        let text = match flavor {
            Flavor::MariaDb => format!("0-1-{peers},0-2-{own}"),
            Flavor::MySql => format!("{PEERS}:1-{peers},{OWN}:1-{own}"),
        };
        Gtids::parse(flavor, &text).expect("transactions")
    };
    let mut stage = Stage::new(setup(), record, "");
    let (has, none) = (of(own, 9), Gtids::empty(flavor));
    (stage.server.flavor, stage.server.has, stage.server.applied) = (flavor, has.clone(), has);
    (stage.server.server_uuid, stage.server.purged) = (OWN.into(), none.clone());
    stage.replica(|replica| replica.received = none.clone());
    stage.event(Event::Stream { open: true });
    stage.event(Event::Charged(Charge::Demote { serial: 1, bound_ms: 2000 }));
    stage.event(Event::Channel { open: true });
    stage.run(1_200);
    let mut peer = stand(true, "", false);
    if let Tell::Stand { server_uuid, has, purged, flavor: product, .. } = &mut peer {
        (*server_uuid, *has, *purged, *product) = (PEERS.into(), of(4, 15), none, flavor);
    }
    stage.event(Event::Told(Box::new(peer)));
    stage.run(1_200);
    stage
}

fn state(stage: &Stage) -> String {
    format!("{} {}", stage.agent.health().word(), stage.agent.health().words("mysql").0)
}

/// What is on this server alone was accepted as it was then: it is replicated after it, also by an agent that was started anew, and what
/// forks later is asked about again. Seen on MySQL: the sets became equal, values were exchanged, and nobody was told.
fn what_was_accepted_is_that_and_no_later_fork() {
    for flavor in [Flavor::MariaDb, Flavor::MySql] {
        let mut stage = forked(flavor, Record::default(), 12);
        assert!(state(&stage).starts_with("DIVERGED 8 transactions"), "{}", state(&stage));
        assert_eq!(stage.began(&Op::StartReplication), None, "{:?}", stage.ops);
        stage.event(Event::Asked(Command::AcceptErrant));
        stage.run(10);
        assert!(stage.began(&Op::StartReplication).is_some(), "{:?}", stage.ops);
        let record = stage.kept.clone().expect("written down at once");
        assert_eq!(record.accepted.iter().map(crate::logic::db::gtids::Range::count).sum::<u64>(), 8);
        let shown = stage.agent.shown(at(stage.now));
        assert_eq!((shown.accepted, shown.accepted_which.contains("12")), (8, true), "{shown:?}");

        let mut anew = forked(flavor, record.clone(), 12);
        assert!(anew.began(&Op::StartReplication).is_some(), "{:?}", anew.ops);
        assert!(!state(&anew).starts_with("DIVERGED"), "{}", state(&anew));
        let mut later = forked(flavor, record.clone(), 14);
        assert!(state(&later).starts_with("DIVERGED 2 transactions"), "{}", state(&later));
        assert_eq!(later.began(&Op::StartReplication), None, "{:?}", later.ops);
        // Once more, and all of it is.
        later.event(Event::Asked(Command::AcceptErrant));
        later.run(10);
        assert_eq!(later.agent.shown(at(later.now)).accepted, 10);

        // A copy of the peer has nothing that was accepted.
        anew.event(Event::Asked(Command::Reseeded));
        anew.run(10);
        assert_eq!(anew.kept, Some(Record::default()));
        assert!(state(&anew).starts_with("DIVERGED 8 transactions"), "{}", state(&anew));
    }
}

/// An operator's force is for what is there now, and not for the failover of next month.
fn a_force_that_nobody_came_to_need_lapses() {
    let record = Record { received: Some(gtids("0-1-12")), ..Record::default() };
    for (minutes, forced) in [(9, true), (10, false)] {
        let mut stage = Stage::in_step(setup(), record.clone(), "0-1-9");
        stage.event(Event::Asked(Command::Promote { force: true }));
        assert_eq!(stage.agent.shown(at(stage.now)).forced_ms, 600_000);
        stage.now += minutes * 60_000;
        stage.event(Event::Tick);
        stage.event(Event::Told(Box::new(stand(true, "0-1-9", true))));
        stage.run(2_500);
        assert_eq!(stage.agent.shown(at(stage.now)).forced_ms > 0, forced);
        assert_eq!(stage.notes.iter().any(|note| note.contains("db promote --force")), !forced);
        stage.replica(|replica| replica.receiver = Receiver::Connecting);
        stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
        stage.event(Event::Charged(Charge::Until { term: 4, until: at(stage.now + 60_000) }));
        stage.run(200);
        assert_eq!(stage.words.contains(&Word::Writable { term: 4 }), forced, "{:?}", stage.words);
        // Used is used.
        assert_eq!(stage.agent.shown(at(stage.now)).forced_ms, 0);
    }
}

type Story = (&'static str, fn());

/// All of them, by name: each is a test, and the net that bugs are put into.
const STORIES: [Story; 12] = [
    ("hand-over", a_hand_over_is_applied_and_nothing_else_is_waited_for),
    ("drain", what_lies_in_the_receivers_socket_is_drained_and_that_takes_a_third_of_a_second),
    ("budget", after_a_power_loss_the_server_takes_writes_within_400_ms),
    ("goodbye", a_source_that_said_goodbye_is_not_drained),
    ("applier first", the_applier_runs_before_the_receiver_is_stopped),
    ("relay lost", a_relay_log_that_lost_something_blocks_and_by_force_it_does_not),
    ("old hand-over", what_was_handed_over_does_not_outlive_the_next_time_that_the_peer_is_active),
    ("refused", what_was_refused_stays_refused),
    ("a minute", a_standby_that_heard_nothing_for_a_minute_does_not_go_on),
    ("alone", having_been_alone_is_written_down_and_taken_back),
    ("accepted", what_was_accepted_is_that_and_no_later_fork),
    ("forced", a_force_that_nobody_came_to_need_lapses),
];

#[test]
fn the_stories_go_as_they_are_told() {
    for (name, story) in STORIES {
        println!("{name}");
        story();
    }
}

/// Those that a story of the simulation would need too much luck for.
#[test]
fn every_bug_put_into_these_stories_is_noticed() {
    for planted in [
        Planted::HandOverUnheard,
        Planted::NotDrained,
        Planted::ReceiverFirst,
        Planted::RelayUncounted,
        Planted::StaleHandOver,
        Planted::NotApplied,
        Planted::NoSemiSync,
        Planted::ForcedAgain,
        Planted::InStepForEver,
        Planted::AloneKept,
        Planted::ForcedForEver,
        Planted::AcceptedForEver,
    ] {
        PLANT.set(planted);
        let caught: Vec<&str> = STORIES
            .iter()
            .filter(|(_, story)| crate::logic::planted::fails(*story))
            .map(|(name, _)| *name)
            .collect();
        PLANT.set(Planted::Nothing);
        println!("{:<16} | {}", format!("{planted:?}"), caught.join(", "));
        assert!(!caught.is_empty(), "nobody noticed {planted:?}");
    }
}

/// Nothing to accept, or nobody knows what: the command says so, and no later fork finds it done.
#[test]
fn nothing_is_accepted_where_nothing_is_on_this_server_alone() {
    let refused = |stage: &mut Stage, words: &str| {
        let why = stage.agent.refuses(&Command::AcceptErrant).expect("refused");
        assert!(why.contains(words), "{why}");
        stage.event(Event::Asked(Command::AcceptErrant));
        stage.run(1_100);
        assert_eq!(stage.agent.record.accepted, []);
        assert_eq!(stage.agent.accepted(), None);
    };
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.event(Event::Told(Box::new(stand(true, "0-1-9", true))));
    refused(&mut stage, "there is nothing to accept");
    refused(&mut Stage::new(setup(), Record::default(), "0-1-9,0-2-12"), "nobody knows");
    refused(&mut Stage::active(setup()), "this node has the role");
    let stage = forked(Flavor::MariaDb, Record::default(), 12);
    assert_eq!(stage.agent.refuses(&Command::AcceptErrant), None);
    // The others always are.
    assert_eq!(stage.agent.refuses(&Command::Promote { force: true }), None);
    assert_eq!(stage.agent.refuses(&Command::Reseeded), None);
}

/// Said to the node that has the role already, it is not for its next time.
#[test]
fn a_force_ends_with_the_role() {
    let mut stage = Stage::active(setup());
    stage.event(Event::Asked(Command::Promote { force: true }));
    stage.run(10);
    assert!(stage.agent.shown(at(stage.now)).forced_ms > 0);
    stage.event(Event::Charged(Charge::Demote { serial: 7, bound_ms: 2000 }));
    stage.run(10);
    assert_eq!(stage.agent.shown(at(stage.now)).forced_ms, 0);
}

/// systemd did not let it: why is for the journal, and it is tried again.
#[test]
fn a_server_that_could_not_be_killed_is_told_with_the_reason() {
    let mut stage = Stage::active(setup());
    stage.answers = None;
    stage.event(Event::Charged(Charge::Demote { serial: 7, bound_ms: 300 }));
    stage.run(2_000);
    assert_eq!(stage.ops.last(), Some(&Op::KillServer), "{:?}", stage.ops);
    let id = stage.running.take().expect("it is being killed");
    let why = "Failed to kill unit: Access denied";
    stage.event(Event::Done { id, result: Err(Failure::Gone { text: why.into() }) });
    assert!(stage.notes.iter().any(|note| note.contains("could not be killed") && note.contains(why)));
    assert!(stage.words.contains(&Word::Demoted { serial: 7, clean: false }), "{:?}", stage.words);
}

/// The lease ends, nobody says so, and the server answers nothing: it is ended by force, half a second later.
#[test]
fn a_lease_that_ends_before_a_server_that_hangs_ends_the_server() {
    let mut stage = Stage::active(setup());
    let until = stage.now + 1_000;
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(until) }));
    stage.run(900);
    stage.answers = None;
    stage.running = None;
    stage.event(Event::Stream { open: false });
    stage.run(110);
    assert!(matches!(stage.ops.last(), Some(Op::ReadOnly | Op::KillClients { .. })), "{:?}", stage.ops);
    stage.run(500);
    assert_eq!(stage.ops.last(), Some(&Op::KillServer), "{:?}", stage.ops);
    assert!(stage.now < until + 520);
}

/// Read-only, then the clients, then the position: the peer hears of it before the election does.
#[test]
fn a_demotion_hands_over_what_the_server_has_and_says_so() {
    let mut stage = Stage::active(setup());
    stage.server.has = gtids("0-1-9,0-2-40");
    stage.event(Event::Charged(Charge::Demote { serial: 7, bound_ms: 2000 }));
    stage.run(10);
    let keep = vec!["backup".to_owned()];
    assert_eq!(stage.ops[..3], [Op::ReadOnly, Op::KillClients { keep }, Op::Settled]);
    assert!(stage.told.contains(&Tell::HandedOver { has: gtids("0-1-9,0-2-40") }), "{:?}", stage.told);
    assert!(stage.words.contains(&Word::Demoted { serial: 7, clean: true }), "{:?}", stage.words);
    // It could not have the role again at once, and nothing is wrong with it.
    assert_eq!(stage.notes, ["COMPARING; the peer is asked what it has of the history here"]);
    // A channel that is made anew hears it again, until the peer is ACTIVE.
    stage.clear();
    stage.event(Event::Channel { open: false });
    stage.event(Event::Channel { open: true });
    assert!(stage.told.iter().any(|tell| matches!(tell, Tell::HandedOver { .. })), "{:?}", stage.told);
    stage.event(Event::Told(Box::new(stand(true, "0-1-9,0-2-40", false))));
    stage.clear();
    stage.event(Event::Channel { open: false });
    stage.event(Event::Channel { open: true });
    assert!(!stage.told.iter().any(|tell| matches!(tell, Tell::HandedOver { .. })), "{:?}", stage.told);
}

/// A full disk: MariaDB had counted 65 transactions that found no room in its log, and the peer waited for them for ever.
#[test]
fn a_server_whose_writes_failed_is_ended_and_hands_over_no_numbers() {
    let mut stage = Stage::active(setup());
    stage.server.semi_sync = SemiSync { enabled: true, on: true, replicas: 1 };
    let tests = (0..6_000).any(|_| {
        stage.run(1);
        stage.ops.last() == Some(&Op::WriteTest)
    });
    assert!(tests, "{:?}", stage.ops);
    let id = stage.running.take().expect("a write test");
    let full = Failure::Sql { errno: 1026, text: "Error writing file 'binlog' (errno: 28)".into() };
    stage.event(Event::Done { id, result: Err(full) });
    let unfit =
        |word: &Word| matches!(word, Word::Fit { why_not: Some(why) } if why.contains("WRITE_FAILED"));
    assert!(stage.words.iter().any(unfit), "{:?}", stage.words);
    stage.clear();
    stage.server.has = gtids("0-1-9,0-2-105");
    stage.event(Event::Charged(Charge::Demote { serial: 7, bound_ms: 2000 }));
    stage.run(10);
    let keep = vec!["backup".to_owned()];
    assert_eq!(stage.ops[..4], [Op::ReadOnly, Op::KillClients { keep }, Op::Settled, Op::KillServer]);
    assert!(stage.told.contains(&Tell::LetGo), "{:?}", stage.told);
    assert!(!stage.told.iter().any(|tell| matches!(tell, Tell::HandedOver { .. })), "{:?}", stage.told);
    assert!(stage.words.contains(&Word::Demoted { serial: 7, clean: true }), "{:?}", stage.words);
}

/// Killed and started anew beside a server that serves: nothing that it says moves the role.
#[test]
fn an_agent_that_is_started_anew_on_the_active_says_nothing_against_it() {
    let record = Record { promoted: Some((4, gtids("0-1-9"))), ..Record::default() };
    let mut stage = Stage::new(setup(), record, "0-1-9,0-2-40");
    stage.server.read_only = false;
    stage.event(Event::Stream { open: true });
    assert_eq!(stage.words, [], "the role is not known yet");
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: false, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(500);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?} {:?}", stage.words, stage.notes);
    let against = |word: &Word| matches!(word, Word::Fit { why_not: Some(_) } | Word::Failed { .. });
    assert!(!stage.words.iter().any(against), "{:?}", stage.words);
    assert!(!stage.ops.contains(&Op::ReadOnly), "{:?}", stage.ops);
}

/// What the peer said as ACTIVE is no word of what it is since.
#[test]
fn a_peer_that_died_as_active_is_not_told_as_one_that_takes_writes() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.event(Event::Told(Box::new(Tell::LetGo)));
    stage.event(Event::Charged(Charge::Promote { term: 4, planned: true, force: false }));
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(60_000) }));
    stage.run(1000);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?} {:?}", stage.words, stage.notes);
    assert!(!stage.notes.iter().any(|note| note.contains("BOTH_WRITABLE")), "{:?}", stage.notes);
    stage.event(Event::Told(Box::new(stand(true, "0-1-9", false))));
    assert_eq!(stage.agent.health().word(), "BOTH_WRITABLE");
}

/// The election's word was late, its lease was not: the role is taken up where it was.
#[test]
fn a_lease_that_was_renewed_after_all_is_served_again() {
    let mut stage = Stage::active(setup());
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(stage.now + 100) }));
    stage.run(150);
    assert!(stage.began(&Op::ReadOnly).is_some(), "{:?}", stage.ops);
    stage.clear();
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(stage.now + 5_000) }));
    stage.run(50);
    assert!(stage.words.contains(&Word::Writable { term: 4 }), "{:?} {:?}", stage.words, stage.notes);
}

/// A process that stood still for longer than its lease reads first what came meanwhile.
#[test]
fn a_process_that_stood_still_reads_its_queue_before_it_gives_up() {
    let mut stage = Stage::active(setup());
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(stage.now + 1_000) }));
    stage.now += 3_000;
    stage.event(Event::Tick);
    stage.event(Event::Charged(Charge::Until { term: 4, until: at(stage.now + 1_000) }));
    stage.run(100);
    assert_eq!(stage.began(&Op::ReadOnly), None, "{:?}", stage.ops);
}

/// Who goes on after a start without the peer: only who was alone.
#[test]
fn after_a_start_without_the_peer_only_a_record_of_having_been_alone_counts() {
    let promoted = Some((5, gtids("0-2-40")));
    for (alone, fit) in [(false, false), (true, true)] {
        let record = Record { promoted: promoted.clone(), alone, ..Record::default() };
        let mut stage = Stage::new(setup(), record, "0-2-44");
        stage.event(Event::Stream { open: true });
        stage.event(Event::Charged(Charge::Demote { serial: 1, bound_ms: 2000 }));
        stage.run(3_000);
        let said = stage.words.iter().rev().find_map(|word| match word {
            Word::Fit { why_not } => Some(why_not.is_none()),
            _ => None,
        });
        assert_eq!(said, Some(fit), "alone {alone}: {:?}", stage.words);
        stage.event(Event::Charged(Charge::Promote { term: 6, planned: false, force: false }));
        stage.event(Event::Charged(Charge::Until { term: 6, until: at(60_000) }));
        stage.run(100);
        assert_eq!(
            stage.words.contains(&Word::Writable { term: 6 }),
            fit,
            "alone {alone}: {:?}",
            stage.words
        );
        if !fit {
            // An operator may.
            stage.event(Event::Asked(Command::Promote { force: true }));
            stage.event(Event::Charged(Charge::Promote { term: 6, planned: false, force: false }));
            stage.event(Event::Charged(Charge::Until { term: 6, until: at(60_000) }));
            stage.run(1_000);
            assert!(stage.words.contains(&Word::Writable { term: 6 }), "{:?}", stage.words);
        }
    }
}

/// Both machines lost their power and are back: the one with more goes first, and the other one waits for it.
#[test]
fn after_the_death_of_both_the_one_that_lacks_something_waits() {
    for (own, peer, fit) in [("0-1-9", "0-1-9", true), ("0-1-9", "0-1-8", true), ("0-1-8", "0-1-9", false)] {
        let mut stage = Stage::new(setup(), Record::default(), own);
        stage.event(Event::Stream { open: true });
        stage.event(Event::Charged(Charge::Demote { serial: 1, bound_ms: 2000 }));
        stage.event(Event::Channel { open: true });
        stage.run(1_200);
        stage.event(Event::Told(Box::new(stand(false, peer, false))));
        stage.run(1_200);
        let said = stage.words.iter().rev().find_map(|word| match word {
            Word::Fit { why_not } => Some(why_not.is_none()),
            _ => None,
        });
        assert_eq!(said, Some(fit), "{own} here, {peer} there: {:?}", stage.words);
    }
}

/// A standby that is not received from any more, while the ACTIVE says that it commits alone, is none that could take over.
#[test]
fn an_active_that_goes_on_alone_leaves_its_standby_behind() {
    for (waited, fit) in [(true, true), (false, false)] {
        let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
        stage.event(Event::Told(Box::new(stand(true, "0-1-20", waited))));
        stage.replica(|replica| replica.receiver = Receiver::Connecting);
        stage.event(Event::Channel { open: false });
        stage.run(1_200);
        assert_eq!(stage.agent.why_not(at(stage.now)).is_none(), fit, "{:?}", stage.agent.health());
    }
}

/// Why it is left behind is what an operator can mend.
#[test]
fn a_standby_that_is_left_behind_says_why_nothing_is_received() {
    let mut stage = Stage::in_step(setup(), Record::default(), "0-1-9");
    stage.replica(|replica| {
        replica.receiver = Receiver::Connecting;
        (replica.receiver_errno, replica.receiver_error) = (1045, "Access denied".into());
    });
    stage.event(Event::Told(Box::new(stand(true, "0-1-20", false))));
    stage.run(1_200);
    assert_eq!(stage.agent.health().word(), "LEFT_BEHIND");
    let (words, _) = stage.agent.health().words("mysql");
    assert!(words.contains("11 transactions") && words.contains("1045 Access denied"), "{words}");
}

/// Both networks were cut for 8 s: MariaDB's thread that sends hung for ever, and with it every later one.
#[test]
fn a_standby_that_tries_and_is_sent_nothing_is_helped_and_one_that_waits_for_an_operator_is_not() {
    for (state, helped) in
        [("LEFT_BEHIND", true), ("IO_CONNECTING", true), ("DIVERGED", false), ("OK", false)]
    {
        let mut stage = Stage::active(setup());
        stage.server.semi_sync = SemiSync { enabled: true, on: false, replicas: 0 };
        stage.run(1_000);
        stage.clear();
        let mut peer = stand(false, "0-1-9", false);
        if let Tell::Stand { state: of, .. } = &mut peer {
            *of = state.into();
        }
        for _ in 0..12 {
            stage.event(Event::Told(Box::new(peer.clone())));
            stage.run(1_000);
        }
        let turned = |on: bool| {
            stage.ops.iter().filter(|op| matches!(op, Op::SemiSync { source, .. } if *source == on)).count()
        };
        assert_eq!(
            (turned(false), turned(true)),
            if helped { (1, 1) } else { (0, 0) },
            "{state}: {:?}",
            stage.ops
        );
    }
}

/// An operator's change of what a commit waits for: it is set anew, and not by way of switching it off, which would answer those that wait.
#[test]
fn new_settings_hold_from_the_next_turn_on_and_let_no_commit_go() {
    for (from, to) in
        [(Durability::Available, Durability::Strict), (Durability::Strict, Durability::Available)]
    {
        let of = |durability| Setup { durability, ..setup() };
        let mut stage = Stage::active(of(from));
        stage.server.semi_sync = SemiSync { enabled: true, on: true, replicas: 1 };
        stage.event(Event::Charged(Charge::Peer { heard: true, active: false }));
        stage.run(1_500);
        stage.clear();
        stage.agent.configure(of(to));
        stage.run(1_500);
        let strict = to == Durability::Strict;
        let timeout_ms = if strict { 11_000 } else { 2_000 };
        let set = Op::SemiSync { source: true, timeout_ms, wait_without_replica: strict };
        let all: Vec<&Op> = stage.ops.iter().filter(|op| matches!(op, Op::SemiSync { .. })).collect();
        assert_eq!(all, [&set], "{from:?} to {to:?}");
        stage.clear();
        stage.agent.configure(of(to));
        stage.run(1_500);
        assert!(!stage.ops.iter().any(|op| matches!(op, Op::SemiSync { .. })), "nothing has changed");
    }
}

/// Commits that must wait for the standby are let go only when the election knows that it is dead.
#[test]
fn what_must_wait_waits_until_the_standby_is_known_to_be_dead() {
    let mut stage = Stage::active(Setup { durability: Durability::Strict, ..setup() });
    stage.server.semi_sync = SemiSync { enabled: true, on: true, replicas: 1 };
    stage.event(Event::Charged(Charge::Peer { heard: true, active: false }));
    stage.run(1_500);
    stage.clear();
    stage.event(Event::Channel { open: false });
    stage.run(3_000);
    let lets_go = |op: &Op| matches!(op, Op::SemiSync { source: false, .. });
    assert!(!stage.ops.iter().any(lets_go), "{:?}", stage.ops);
    stage.event(Event::Charged(Charge::Peer { heard: false, active: false }));
    stage.run(1_100);
    assert!(stage.ops.iter().any(lets_go), "{:?}", stage.ops);
    let again = |op: &Op| matches!(op, Op::SemiSync { source: true, wait_without_replica: false, .. });
    assert!(stage.ops.iter().any(again), "{:?}", stage.ops);
}
