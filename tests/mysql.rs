//! The database pair on two nodes: real servers, clients that write through the VIP, and what they were told is committed
//! recorded outside. Root; see tests/lab.

mod lab;
mod product;
mod servers;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use product::{median, outage_ms};
use servers::{Deed, FAST, GROUP, SOON, Servers, TWO_HUNDRED, is_there};

#[test]
fn a_planned_switchover_loses_nothing_and_is_short() -> Result<()> {
    let servers = Servers::start(FAST, "startup_hold_ms = 2000", "")?;
    let mut gaps = vec![];
    for turn in 0..5 {
        let (active, standby) = servers.settled()?;
        let (acked, seen) = servers.under_load(TWO_HUNDRED, Duration::from_secs(2), || {
            active.run(&["drectl", "-g", GROUP, "switchover"]).map(drop)
        })?;
        let (now, _) = servers.settled()?;
        ensure!(now.name == standby.name, "the role did not move");
        servers.has_all(now, &acked)?;
        servers.are_the_same()?;
        let gap = acked.gap_ms();
        println!(
            "FIGURE database, switchover {turn}: {} commits acknowledged, none for {gap:.0} ms; the VIP away for {:.0} ms",
            acked.rows.len(),
            outage_ms(&seen)
        );
        gaps.push(gap);
    }
    let gap = median(&mut gaps);
    println!("FIGURE database, switchover: write gap {gap:.0} ms, median of {}", gaps.len());
    ensure!(gap < 3000.0, "{gaps:?}");
    Ok(())
}

#[test]
fn the_death_of_the_active_loses_nothing_that_was_acknowledged() -> Result<()> {
    let servers = Servers::start(FAST, "startup_hold_ms = 2000", "")?;
    let kinds: [(&str, Deed); 4] = [
        ("power loss", |node| {
            node.power_loss()?;
            node.wait_off(SOON).map(drop)
        }),
        ("SIGKILL of the server", |node| node.signal("mariadb", libc::SIGKILL).map(drop)),
        // It does not stop when it is told to, so it is killed: by systemd, at the agent's word.
        ("SIGSTOP of the server", |node| node.signal("mariadb", libc::SIGSTOP).map(drop)),
        ("SIGKILL of the agent", |node| node.signal("dre-mysql@mysql", libc::SIGKILL).map(drop)),
    ];
    for (what, deed) in kinds {
        let (active, standby) = servers.settled()?;
        let rest = Duration::from_secs(if what == "SIGSTOP of the server" { 12 } else { 6 });
        let (acked, seen) = servers.under_load(TWO_HUNDRED, rest, || deed(active))?;
        let holder = seen.holder().map(|tape| tape.who().to_owned()).context("nobody answers for the VIP")?;
        let survivor = servers.lab.node(&holder)?;
        servers.has_all(survivor, &acked)?;
        println!(
            "FIGURE database, {what}: {} commits acknowledged, none for {:.0} ms; the VIP away for {:.0} ms",
            acked.rows.len(),
            acked.gap_ms(),
            outage_ms(&seen)
        );
        if what == "SIGKILL of the agent" {
            // Its successor finds the server serving.
            ensure!(survivor.name == active.name, "{what}: the role moved\n{}", servers.journals());
        } else {
            ensure!(survivor.name == standby.name, "{what}: the role did not move\n{}", servers.journals());
        }
        if what == "SIGSTOP of the server" {
            let journal = active.journal(&["-u", "mariadb"])?;
            ensure!(journal.contains("status=9/KILL"), "it was not killed\n{}", servers.journals());
        }
        if !active.is_on() {
            active.boot()?;
        }
        servers.settled()?;
        servers.are_the_same()?;
        ensure!(servers.lab.nodes().into_iter().all(is_there), "{what}: a server is away");
    }
    Ok(())
}
