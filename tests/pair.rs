//! The pair: two systemd nodes, one VIP, exactly one holder. Root; see tests/lab.
//!
//! Safety is judged exactly (two MACs at once fail the run), time generously: a bound here is far beyond the figure
//! that the case reports, because the machine may be busy. `FIGURE` lines are the figures.
//!
//! `DRE_RUNS=10` repeats each fault and sets the median beside the demanded one; by default a few runs, enough to see it.

mod lab;
mod product;

use std::time::Duration;

use anyhow::{Result, ensure};
use product::{Pair, configuration, demanded, is_bench, ms, not_too_long, outage_ms, report, runs};

/// D = 30 ms.
fn fast() -> Result<Pair> {
    Pair::start(&configuration(10, 3, ""))
}

/// A fault on the active node, again and again; how long the client went without.
fn again_and_again(
    (case, demanded): (&str, f64),
    pair: &Pair,
    bound: Duration,
    after: Duration,
    fault: impl Fn(&lab::node::Node) -> Result<()>,
    mend: impl Fn(&lab::node::Node) -> Result<()>,
) -> Result<()> {
    let mut outages = vec![];
    for run in 0..runs() {
        let active = pair.active()?;
        let seen = pair.judged(after, || fault(active))?;
        outages.push(outage_ms(&seen));
        println!("{case}, run {run}: {}", seen.summary());
        // No outage is no merit of a node that should have fallen silent. (A dre-vip that is killed may be back before anybody moves.)
        ensure!(
            case == "SIGKILL of dre-vip" || seen.holder().is_some_and(|t| t.who() != active.name),
            "{case}: {} still serves: {}",
            active.name,
            seen.summary()
        );
        not_too_long(case, &seen, bound)?;
        mend(active)?;
        pair.settled(Duration::from_secs(20))?;
    }
    report(case, demanded, &mut outages);
    pair.audit()
}

#[test]
fn power_loss_of_the_active() -> Result<()> {
    let pair = fast()?;
    again_and_again(
        ("power loss", demanded::POWER_LOSS),
        &pair,
        ms(1000),
        ms(400),
        |a| a.power_loss().map(drop),
        lab::node::Node::boot,
    )
}

#[test]
fn the_whole_node_frozen_and_thawed() -> Result<()> {
    let pair = fast()?;
    again_and_again(
        ("frozen and thawed", demanded::PROCESSES),
        &pair,
        ms(1500),
        ms(500),
        |a| {
            a.freeze()?;
            std::thread::sleep(ms(3000));
            a.thaw().map(drop)
        },
        |_| Ok(()),
    )
}

#[test]
fn processes_killed_and_stopped() -> Result<()> {
    let pair = fast()?;
    let units: [(&str, &[&str]); 3] =
        [("dre-elect", &["dre"]), ("dre-vip", &["dre-vip"]), ("both daemons", &["dre", "dre-vip"])];
    for (what, units) in units {
        for (how, signal) in [("SIGKILL", libc::SIGKILL), ("SIGSTOP", libc::SIGSTOP)] {
            again_and_again(
                (&format!("{how} of {what}"), demanded::PROCESSES),
                &pair,
                ms(2000),
                ms(1500),
                |a| a.signal_all(units, signal).map(drop),
                |_| Ok(()),
            )?;
        }
    }
    Ok(())
}

#[test]
fn a_clean_stop_hands_over() -> Result<()> {
    let pair = fast()?;
    again_and_again(
        ("systemctl stop dre", demanded::SWITCHOVER),
        &pair,
        ms(1000),
        ms(300),
        |a| a.run(&["systemctl", "stop", "dre"]).map(drop),
        |a| {
            // Stopped is stopped: no socket brings it back.
            for unit in ["dre.service", "dre-vip.service", "dre.socket"] {
                let state = a.sh(&format!("systemctl is-active {unit} || true"))?;
                ensure!(state.trim() == "inactive", "{unit} is {}", state.trim());
            }
            a.run(&["systemctl", "start", "dre"]).map(drop)
        },
    )
}

#[test]
fn the_service_interface_loses_its_carrier() -> Result<()> {
    let pair = fast()?;
    again_and_again(
        ("eth1 without carrier", demanded::CARRIER),
        &pair,
        ms(1500),
        ms(500),
        |a| pair.lab.net.carrier(a.name, "eth1", false),
        |a| {
            pair.lab.net.carrier(a.name, "eth1", true)?;
            std::thread::sleep(ms(1500));
            Ok(())
        },
    )
}

/// Nothing of this may be felt: roles stay, no probe is lost for longer than the machine's own noise.
fn unfelt(
    case: &str,
    pair: &Pair,
    fault: impl Fn() -> Result<()>,
    mend: impl Fn() -> Result<()>,
) -> Result<()> {
    let before = pair.active()?.name;
    let mut outages = vec![];
    for _ in 0..if is_bench() { runs() } else { 1 } {
        let seen = pair.judged(ms(1500), &fault)?;
        println!("{case}: {}", seen.summary());
        ensure!(pair.active()?.name == before, "{case}: the role moved");
        ensure!(seen.holders().iter().all(|t| t.who() == before), "{case}: somebody else answered");
        not_too_long(case, &seen, ms(200))?;
        outages.push(outage_ms(&seen));
        mend()?;
        pair.settled(Duration::from_secs(20))?;
        ensure!(pair.active()?.name == before, "{case}: the role moved on healing");
    }
    report(case, demanded::NOTHING, &mut outages);
    pair.audit()
}

#[test]
fn cut_networks() -> Result<()> {
    let pair = fast()?;
    let active = pair.active()?;
    let standby = pair.standby()?;
    for net in ["eth3", "eth4"] {
        unfelt(
            &format!("{net} cut"),
            &pair,
            || pair.lab.net.silent(active.name, net, true),
            || pair.lab.net.silent(active.name, net, false),
        )?;
        unfelt(
            &format!("{net} without carrier"),
            &pair,
            || pair.lab.net.carrier(active.name, net, false),
            || pair.lab.net.carrier(active.name, net, true),
        )?;
    }
    unfelt(
        "both heartbeat networks cut, arbitrator reached by both",
        &pair,
        || {
            pair.lab.cut_links(active, true)?;
            std::thread::sleep(ms(1000));
            let words = product::status(standby)?;
            ensure!(words.contains("PeerStillServes"), "no alarm on the standby: {words}");
            Ok(())
        },
        || pair.lab.cut_links(active, false),
    )?;
    unfelt("arbitrator gone", &pair, || pair.lab.arbitrator(false), || pair.lab.arbitrator(true))
}

/// Links and arbitrator cut at the active: isolated, it lets go; the other takes over.
#[test]
fn an_isolated_active_lets_go() -> Result<()> {
    let pair = fast()?;
    again_and_again(
        ("links and arbitrator cut at the active", demanded::ISOLATED),
        &pair,
        ms(3000),
        ms(700),
        |a| {
            pair.lab.net.silent(a.name, "eth0", true)?;
            pair.lab.cut_links(a, true)
        },
        |a| {
            pair.lab.net.silent(a.name, "eth0", false)?;
            pair.lab.cut_links(a, false)
        },
    )
}
