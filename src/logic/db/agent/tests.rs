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
        beat_ms: None,
    })
}

/// The operations that an agent without a role begins for this server, while the peer is ACTIVE with `peer_has`; that of the demotion
/// with which its stream begins is the first.
fn begun(server: &Probe, peer_has: &str) -> Vec<Op> {
    let setup = Setup {
        durability: Durability::Available,
        max_lag: Duration::from_secs(10),
        relay_wait: Duration::from_secs(60),
        on_relay_lost: RelayLost::Promote,
        keep_users: vec![],
        dead_after: Duration::from_secs(1),
        peer: "hadev1".into(),
    };
    let mut out = vec![];
    let mut agent = Agent::new(at(0), setup, Record::default(), &mut out);
    let peer = Tell::Stand {
        server_id: 1,
        server_uuid: String::new(),
        flavor: Flavor::MariaDb,
        has: gtids(peer_has),
        purged: gtids(""),
        read_only: false,
        active: true,
        term: 3,
        fit: true,
        state: "OK".into(),
        semi_sync: true,
    };
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
    assert_eq!(ops.get(1), Some(&Op::Rewind { to: gtids("0-1-3,0-2-1792") }), "{ops:?}");
}

#[test]
fn a_position_that_the_log_has_stays() {
    let ops = begun(&stopped("0-1-3,0-2-1793", "0-2-1793"), "0-1-3,0-2-1793");
    assert_eq!(ops.get(1), Some(&Op::StartReplication), "{ops:?}");
}
