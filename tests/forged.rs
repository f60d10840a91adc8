//! Strangers on the heartbeat networks: forged, damaged and recorded datagrams, and a flood of them. Root; see tests/lab.
//!
//! Every kind must arrive where it is judged (its own counter in `rejected` rises by exactly what was sent) and move
//! nothing else. What the kernel already keeps away moves not even a counter.

mod lab;
mod product;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dre::logic::wire::{Codec, Heartbeat, LENGTH, Reject, Role, Wish};
use dre::snapshot::Status;
use lab::forge::{Ear, Forger};
use lab::node::Node;
use product::{KEY_BYTES, Pair, configuration, cpu, ms, not_too_long, outage_ms, state};

const SOON: Duration = Duration::from_secs(5);
const SETTLED: Duration = Duration::from_secs(20);

fn counts(status: &Status) -> BTreeMap<String, u64> {
    status.rejected.iter().map(|r| (r.reason.clone(), r.count)).collect()
}

/// What no stranger may move: all of a status but ages, measurements and the counters.
fn core(mut status: Status) -> Status {
    status.lease.left_ms = 0;
    status.peer.heard_ms = 0;
    for link in &mut status.links {
        (link.rtt_us, link.loss_pct) = (0, 0.0);
    }
    if let Some(arbitrator) = &mut status.arbitrator {
        arbitrator.rtt_us = 0;
    }
    // A heartbeat may be a few milliseconds late on a busy machine, and an arbitrator stand in for it.
    if status.peer.state == "suspect" {
        status.peer.state = "heard".into();
    }
    status.lease.by.clear();
    status.rejected.clear();
    status
}

/// What is sent, and the reasons for which each of them is refused.
struct Kind {
    what: &'static str,
    payloads: Vec<Vec<u8>>,
    reasons: BTreeMap<Reject, u64>,
}

fn kind(what: &'static str, reason: Reject, payloads: Vec<Vec<u8>>) -> Kind {
    let count = payloads.len() as u64;
    Kind { what, payloads, reasons: [(reason, count)].into() }
}

/// Every kind of datagram that a node must refuse, made from what the other one (`from`) really sent it.
fn kinds(recorded: &[Vec<u8>], reflected: &[Vec<u8>], to: &str, from: &str) -> Result<Vec<Kind>> {
    let genuine = recorded.last().context("nothing was recorded")?;
    let theirs = Codec::new(&KEY_BYTES, "dre", to, from);
    let seen =
        theirs.decode(genuine).map_err(|why| anyhow::anyhow!("the recording does not verify: {why:?}"))?;
    // What would do the most harm if it were believed: a newer word of an active peer with a higher term.
    let worst = Heartbeat {
        role: Role::Active,
        wish: Wish::Take,
        sequence: seen.sequence + 1_000_000,
        sent: seen.sent + 1_000_000_000_000,
        term: seen.term + 1_000_000,
        ..seen.clone()
    };
    let times = |bytes: [u8; LENGTH]| vec![bytes.to_vec(); 20];
    let with = |at: usize, byte: u8| {
        let mut bytes = genuine.clone();
        bytes[at] = byte;
        vec![bytes; 20]
    };
    let another_key = Codec::new(&[43; 32], "dre", from, to).encode(&worst);
    let no_mac = {
        let mut bytes = Codec::new(&KEY_BYTES, "dre", from, to).encode(&worst);
        bytes[LENGTH - 32..].fill(0);
        bytes
    };
    let cut: Vec<Vec<u8>> = (0..LENGTH).step_by(9).map(|len| genuine[..len].to_vec()).collect();
    let long = |by: usize| vec![[genuine.clone(), vec![0; by]].concat(); 20];
    let other_link = Heartbeat { link: 7, ..worst.clone() };
    let mut flipped = Kind { what: "each single bit flipped", payloads: vec![], reasons: BTreeMap::new() };
    for bit in 0..LENGTH * 8 {
        let mut bytes = genuine.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let reason = match bit / 8 {
            0..4 => Reject::Magic,
            4 => Reject::Version,
            16..32 => Reject::Group,
            32..96 => Reject::Sender,
            _ => Reject::Mac,
        };
        flipped.payloads.push(bytes);
        *flipped.reasons.entry(reason).or_default() += 1;
    }
    Ok(vec![
        kind("signed with another key", Reject::Mac, times(another_key)),
        kind("a MAC of zeros", Reject::Mac, times(no_mac)),
        kind(
            "of another group",
            Reject::Group,
            times(Codec::new(&KEY_BYTES, "mysql", from, to).encode(&worst)),
        ),
        kind(
            "of another name",
            Reject::Sender,
            times(Codec::new(&KEY_BYTES, "dre", "hadev3", to).encode(&worst)),
        ),
        kind("its own, sent back to it", Reject::Sender, reflected.to_vec()),
        kind("of another wire version", Reject::Version, with(4, 2)),
        kind("not dre's", Reject::Magic, with(0, b'x')),
        kind("cut short", Reject::Length, cut),
        kind("a byte too long", Reject::Length, long(1)),
        kind("a kilobyte too long", Reject::Length, long(1024)),
        kind(
            "authentic, on a link there is not",
            Reject::Content,
            times(Codec::new(&KEY_BYTES, "dre", from, to).encode(&other_link)),
        ),
        kind("recorded a moment ago", Reject::Replay, recorded.to_vec()),
        flipped,
    ])
}

/// Waits until the counters have risen by exactly that, and no other did.
fn risen(node: &Node, before: &Status, by: &BTreeMap<Reject, u64>, what: &str) -> Result<()> {
    let mut wanted = counts(before);
    for (reason, count) in by {
        *wanted.entry(reason.word().to_owned()).or_default() += count;
    }
    let begun = Instant::now();
    loop {
        let found = counts(&state(node)?);
        if found == wanted {
            return Ok(());
        }
        if begun.elapsed() > SOON {
            bail!("{}: {what}: refused {found:?}, not {wanted:?}", node.name);
        }
        std::thread::sleep(ms(10));
    }
}

#[test]
fn each_kind_of_forgery_is_counted_and_moves_nothing() -> Result<()> {
    // Not so fast that a pause of this machine alone could move a role.
    let pair = Pair::start(&configuration(50, 5, ""))?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    for (to, from) in [(active, standby), (standby, active)] {
        let recorded = Ear::at(to, "eth3")?.record(40, SOON)?;
        let reflected = Ear::at(from, "eth3")?.record(20, SOON)?;
        let forger = Forger::new(&pair.lab, "eth3", from.name, to.name)?;
        let begin = pair.lab.nodes().map(state);
        let seen = pair.judged(ms(300), || {
            for kind in kinds(&recorded, &reflected, to.name, from.name)? {
                let before = state(to)?;
                let sent = forger.send_all(kind.payloads.iter().map(Vec::as_slice));
                ensure!(sent == kind.payloads.len(), "{}: only {sent} were sent", kind.what);
                risen(to, &before, &kind.reasons, kind.what)?;
                println!("to the {}, {}: {sent} refused as {:?}", before.role, kind.what, kind.reasons);
            }
            // The link is in the datagram: another network makes no other datagram of it.
            let before = state(to)?;
            let elsewhere = Forger::new(&pair.lab, "eth4", from.name, to.name)?;
            elsewhere.send_all(recorded.iter().map(Vec::as_slice));
            risen(to, &before, &[(Reject::Replay, 40)].into(), "recorded on the other network")?;
            // Not from the other end of this cable: the kernel hands none of it to the daemon.
            let strangers = [
                ("through a router", Forger::new(&pair.lab, "eth3", from.name, to.name)?.ttl(254)),
                ("from another port", Forger::new(&pair.lab, "eth3", from.name, to.name)?.port(1695)),
                (
                    "from another address",
                    Forger::new(&pair.lab, "eth3", from.name, to.name)?.address([172, 16, 11, 200].into()),
                ),
            ];
            for (what, stranger) in strangers {
                let before = state(to)?;
                ensure!(stranger.send_all(recorded.iter().map(Vec::as_slice)) == 40);
                // Something that is counted comes after it on the same wire.
                forger.send(b"x");
                risen(to, &before, &[(Reject::Length, 1)].into(), what)?;
            }
            Ok(())
        })?;
        not_too_long("forged datagrams", &seen, ms(200))?;
        for (node, before) in pair.lab.nodes().into_iter().zip(begin) {
            let (before, after) = (core(before?), core(state(node)?));
            ensure!(after == before, "moved: {before:?} became {after:?}");
        }
        pair.audit()?;
    }
    Ok(())
}

/// What was recorded before the other node restarted verifies for ever, and is worth nothing: not while that node is
/// there, nor when it is gone.
#[test]
fn a_recording_of_an_earlier_session_is_worth_nothing() -> Result<()> {
    let pair = Pair::start(&configuration(10, 3, ""))?;
    let (first, second) = (pair.active()?, pair.standby()?);
    let recorded = Ear::at(second, "eth3")?.record(40, SOON)?;
    first.run(&["systemctl", "restart", "dre"])?;
    pair.settled(SETTLED)?;
    ensure!(pair.active()?.name == second.name, "a restart hands over");
    // Words of an active peer, to the node that is active now.
    let forger = Forger::new(&pair.lab, "eth3", first.name, second.name)?;
    let before = core(state(second)?);
    let seen = pair.judged(ms(100), || {
        for _ in 0..10 {
            forger.send_all(recorded.iter().map(Vec::as_slice));
        }
        Ok(())
    })?;
    not_too_long("an old recording", &seen, ms(200))?;
    let after = core(state(second)?);
    ensure!(after == before, "moved: {before:?} became {after:?}");

    // The active node dies, and its present session is replayed from then on: it stays dead.
    let recorded = Ear::at(first, "eth3")?.record(200, SOON)?;
    let forger = Forger::new(&pair.lab, "eth3", second.name, first.name)?;
    let replays = state(first)?;
    let seen = pair.judged(ms(100), || {
        second.power_loss()?;
        for _ in 0..5 {
            forger.send_all(recorded.iter().map(Vec::as_slice));
        }
        Ok(())
    })?;
    println!(
        "FIGURE power loss while the lost node's heartbeats are replayed: outage {:.1} ms",
        outage_ms(&seen)
    );
    ensure!(seen.holder().is_some_and(|t| t.who() == first.name), "nobody took over: {}", seen.summary());
    not_too_long("power loss under a replay", &seen, ms(1000))?;
    risen(first, &replays, &[(Reject::Replay, 1000)].into(), "the lost node's present session")?;
    second.boot()?;
    pair.settled(SETTLED)?;
    pair.audit()
}

/// As many datagrams a second that do not verify as this machine can send, up to 100,000, on one link and then on both.
#[test]
fn a_flood_moves_nothing_and_costs_little() -> Result<()> {
    const RATE: u32 = 100_000;
    let pair = Pair::start(&configuration(10, 3, ""))?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    let genuine = Ear::at(active, "eth3")?.record(1, SOON)?.remove(0);
    let mut forged = genuine;
    forged[LENGTH - 1] ^= 1;
    for nets in [&["eth3"][..], &["eth3", "eth4"]] {
        let forgers: Vec<Forger> = nets
            .iter()
            .map(|net| Forger::new(&pair.lab, net, standby.name, active.name))
            .collect::<Result<_>>()?;
        let (before, pid) = (state(active)?, active.main_pid("dre")?);
        let (spent, begun, mut sent) = (cpu(pid)?, Instant::now(), 0_u64);
        let seen = pair.judged(ms(300), || {
            while begun.elapsed() < Duration::from_secs(4) {
                let due = begun.elapsed().as_micros() as u64 * u64::from(RATE) / 1_000_000;
                for n in sent..due {
                    forgers[n as usize % forgers.len()].send(&forged);
                }
                sent = due;
                std::thread::sleep(ms(1));
            }
            Ok(())
        })?;
        let passed = begun.elapsed();
        let share = (cpu(pid)? - spent).as_secs_f64() / passed.as_secs_f64() * 100.0;
        let after = state(active)?;
        let refused = counts(&after).get("mac").copied().unwrap_or(0)
            - counts(&before).get("mac").copied().unwrap_or(0);
        println!(
            "FIGURE {:.0} forged datagrams a second on {}: {refused} of {sent} reached the daemon and were refused, {share:.0} % \
             of a core, outage {:.1} ms",
            sent as f64 / passed.as_secs_f64(),
            nets.join(" and "),
            outage_ms(&seen)
        );
        ensure!(refused > 1000 && refused <= sent, "{refused} of {sent} were counted");
        // One thread could not take more than a core; what counts is that each costs next to nothing.
        let each_us = share / 100.0 * passed.as_secs_f64() * 1e6 / refused as f64;
        ensure!(each_us < 50.0, "{each_us:.1} µs for each forged datagram");
        ensure!(seen.holders().iter().all(|t| t.who() == active.name), "{}", seen.summary());
        not_too_long("a flood", &seen, ms(200))?;
        ensure!((after.term, &after.role) == (before.term, &before.role), "{before:?} became {after:?}");
        pair.settled(SETTLED)?;
        pair.audit()?;
    }
    Ok(())
}
