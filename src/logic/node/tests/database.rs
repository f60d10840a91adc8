//! The same tables with a database behind the role.

use super::*;

fn story(first: bool) -> Story {
    Story::with(Setup { database: true, ..setup(first) })
}

/// The role was granted, the server is being made ready.
fn granted() -> Story {
    let mut story = story(true);
    #[rustfmt::skip]
    story.tell(&[
        (5,  Armed,         Standby,  &[]),
        (6,  Agent(true),   Standby,  &[Demote]),
        (7,  DemotedNow,    Standby,  &[]),
        (8,  Ready(true),   Standby,  &[]),
        (20, peer(Standby), Claiming, &[]),
        (22, votes(),       Active,   &[Promote, StartActive]),
    ]);
    story
}

/// Active, the server takes writes, the gate is open.
fn serving() -> Story {
    let mut story = granted();
    #[rustfmt::skip]
    story.tell(&[
        (30, WritableNow,   Active,   &[Hold]),
        (31, OpenNow,       Active,   &[]),
        (50, Unit(UnitState::Up), Active, &[]),
    ]);
    story
}

fn standing_by() -> Story {
    let mut story = story(false);
    #[rustfmt::skip]
    story.tell(&[
        (5,  Armed,        Standby, &[]),
        (6,  Agent(true),  Standby, &[Demote]),
        (7,  DemotedNow,   Standby, &[]),
        (8,  Ready(true),  Standby, &[]),
        (20, peer(Active), Standby, &[]),
    ]);
    story
}

#[test]
#[rustfmt::skip]
fn nobody_is_served_before_the_server_takes_writes() {
    serving();
}

#[test]
#[rustfmt::skip]
fn a_node_whose_database_cannot_be_active_claims_nothing() {
    let mut story = story(true);
    story.tell(&[
        (5,   Armed,         Standby,  &[]),
        (20,  peer(Standby), Standby,  &[]),
        (30,  Agent(true),   Standby,  &[Demote]),
        (31,  DemotedNow,    Standby,  &[]),
        (32,  Ready(false),  Standby,  &[]),
        (40,  peer(Standby), Standby,  &[]),
        (50,  Ready(true),   Claiming, &[]),
    ]);
}

/// The gate is left open until the server has stopped: its clients see their connections end.
#[test]
#[rustfmt::skip]
fn a_role_that_is_handed_over_shuts_the_gate_when_the_server_has_stopped() {
    let mut story = serving();
    story.tell(&[
        (100, votes(),       Active,    &[Hold]),
        (110, Do(Command::Switchover { to: None, force: false }), Releasing, &[Demote, StartStandby]),
        (120, Unit(UnitState::Down), Releasing, &[]),
        (140, DemotedNow,    Releasing, &[Drop]),
        (141, ShutNow,       Standby,   &[]),
    ]);
}

/// What has just been ACTIVE is compared with the peer's first: it is not fit for that moment, and that is neither an alarm nor a fault
/// that had to prove itself mended. Where it takes too long, or something else is wrong, it is.
#[test]
fn a_server_that_gave_the_role_away_is_fit_again_as_soon_as_it_is_compared() {
    let released = || {
        let mut story = serving();
        #[rustfmt::skip]
        story.tell(&[
            (100, votes(),       Active,    &[Hold]),
            (110, Do(Command::Switchover { to: None, force: false }), Releasing, &[Demote, StartStandby]),
            (111, Ready(false), Releasing, &[]),
            (120, Unit(UnitState::Down), Releasing, &[]),
            (140, DemotedNow,   Releasing, &[Drop]),
            (141, ShutNow,      Standby,   &[]),
            (142, peer(Active), Standby,   &[]),
        ]);
        story
    };
    let unfit = |story: &Story, ms| story.node.unfit_reasons(at(ms)).len();
    let alarmed = |story: &Story| story.standing().contains(&"Unfit".to_owned());

    let mut story = released();
    assert!(!story.node.fit(at(143)) && unfit(&story, 143) == 1);
    story.step(150, &peer(Active));
    assert!(!alarmed(&story), "{:?}", story.standing());
    story.step(155, &Ready(true));
    assert!(story.node.fit(at(155)));

    let mut late = released();
    for ms in (200..4400).step_by(100) {
        late.step(ms, &peer(Active));
    }
    assert!(alarmed(&late));
    late.step(4400, &Ready(true));
    assert!(!late.node.fit(at(4401)));

    let mut other = released();
    other.step(150, &Interface(false));
    other.step(1200, &peer(Active));
    assert!(alarmed(&other));
}

/// A server that does not stop keeps neither the gate open for longer than its bound, nor the role for longer than twice that.
#[test]
#[rustfmt::skip]
fn a_server_that_does_not_stop_is_not_waited_for_for_ever() {
    let mut story = serving();
    story.tell(&[
        (100,  votes(),       Active,    &[Hold]),
        (110,  Do(Command::Switchover { to: None, force: false }), Releasing, &[Demote, StartStandby]),
        (120,  Unit(UnitState::Down), Releasing, &[]),
        (2100, peer(Standby), Releasing, &[]),
        (2110, peer(Standby), Releasing, &[Drop]),
        (2111, ShutNow,       Releasing, &[]),
        (4109, peer(Standby), Releasing, &[]),
        (4110, peer(Standby), Standby,   &[]),
    ]);
}

/// Where the lease is gone the gate shuts first, whatever the server does.
#[test]
#[rustfmt::skip]
fn a_lost_lease_shuts_the_gate_at_once() {
    let mut story = serving();
    story.tell(&[
        (100, votes(), Active,    &[Hold]),
        (350, Nothing, Active,    &[Ping]),
        (593, Nothing, Releasing, &[Drop, Demote, StartStandby]),
    ]);
}

/// An agent that is started anew takes nothing from the clients: the gate is kept open, and it is told the role again.
#[test]
#[rustfmt::skip]
fn an_agent_that_is_started_anew_costs_nothing() {
    let mut story = serving();
    story.tell(&[
        (100, votes(),      Active, &[Hold]),
        (110, Agent(false), Active, &[]),
        (101, Stored,       Active, &[]),
        (200, votes(),      Active, &[Hold]),
        (201, Stored,       Active, &[]),
        (210, Agent(true),  Active, &[Promote]),
        (211, Ready(true),  Active, &[]),
        (212, WritableNow,  Active, &[]),
        (300, votes(),      Active, &[Hold]),
    ]);
}

/// One that stays away makes the node unfit: the peer's server is looked after.
#[test]
#[rustfmt::skip]
fn a_node_without_its_agent_gives_the_role_to_a_fit_peer() {
    let mut story = serving();
    story.tell(&[
        (100,  votes(),      Active,    &[Hold]),
        (110,  Agent(false), Active,    &[]),
        (111,  Stored,       Active,    &[]),
    ]);
    for ms in (300..3000).step_by(200) {
        story.tell(&[(ms, votes(), Active, &[Hold]), (ms + 1, Stored, Active, &[])]);
    }
    story.tell(&[
        (3109, votes(),      Active,    &[Hold]),
        (3110, votes(),      Releasing, &[Drop, Demote, StartStandby]),
    ]);
}

#[test]
#[rustfmt::skip]
fn a_promotion_that_fails_gives_the_role_to_a_fit_peer() {
    let mut story = granted();
    story.tell(&[
        (40, PromotionFails, Releasing, &[Drop, Demote, StartStandby]),
    ]);
}

/// The peer is lost; while the relay log is applied its promise is long over. Whoever answered meanwhile took the role.
#[test]
#[rustfmt::skip]
fn the_wire_must_be_quiet_when_the_gate_opens_and_not_only_when_the_role_was_claimed() {
    let mut story = standing_by();
    story.tell(&[
        (1000, peer(Active), Standby, &[]),
        (1250, Nothing,      Standby, &[Probe, Ping]),
        (1480, Probes,       Standby, &[]),
        (1490, Pong(1),      Standby, &[]),
        (1500, Nothing,      Active,  &[Promote, StartActive]),
        (1700, Pong(1),      Active,  &[]),
        (1900, Pong(1),      Active,  &[]),
        (2000, WritableNow,  Active,  &[]),
        (2030, Probes,       Active,  &[]),
        (2040, Nothing,      Active,  &[Hold, ProbeEnd]),
    ]);
    let mut story = standing_by();
    story.tell(&[
        (1000, peer(Active), Standby,   &[]),
        (1250, Nothing,      Standby,   &[Probe, Ping]),
        (1480, Probes,       Standby,   &[]),
        (1490, Pong(1),      Standby,   &[]),
        (1500, Nothing,      Active,    &[Promote, StartActive]),
        (1700, Foreign,      Releasing, &[Drop, Demote, StartStandby, ProbeEnd]),
    ]);
}

/// What belongs to another term, or to a demotion that was asked for again since, moves nothing.
#[test]
fn words_of_another_term_are_no_words_of_this_one() {
    let mut story = granted();
    let mut out = vec![];
    for word in [Word::Writable { term: 77 }, Word::Demoted { serial: 99, clean: true }] {
        story.node.handle(at(30), Event::Word(word), &mut out);
    }
    assert_eq!(did(&out), []);
    assert!(story.node.waits_for_database());
}

#[test]
fn a_long_promotion_is_an_alarm_with_its_reason() {
    let mut story = granted();
    let mut raised = vec![];
    for ms in (100..=2400).step_by(100) {
        raised.extend(story.step(ms, &votes()).into_iter().filter_map(|action| match action {
            Action::Raised { alarm, text } if alarm == *"DatabaseWaits" => Some((ms, text)),
            _ => None,
        }));
    }
    let [(ms, text)] = raised.as_slice() else { panic!("{raised:?}") };
    assert!((2000..2400).contains(ms) && text.contains("its agent is at it"), "{ms}: {text}");
}
