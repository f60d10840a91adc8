//! The database pair on two nodes: real servers, clients that write through the VIP, and what they were told is committed
//! recorded outside. Root; see tests/lab.

mod lab;
mod product;
mod servers;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::node::Node;
use product::{median, outage_ms};
use servers::{
    Came, FAST, GROUP, Kind, MARIADB, MYSQL, OLD_MARIADB, SOON, Servers, TWO_HUNDRED, database_is, group,
    is_there,
};

/// Harm done to the ACTIVE, whose server is this unit.
type Deed = fn(&Servers, &Node, &str) -> Result<()>;

fn start(kind: &Kind) -> Result<Servers> {
    let database = format!("unit = \"{}\"", kind.unit);
    let text = group(&format!("port = 1695\n{FAST}"), "startup_hold_ms = 2000", &database);
    Servers::of(kind, &text, |_| Ok(()))
}

#[test]
fn a_planned_switchover_loses_nothing_and_is_short() -> Result<()> {
    switchovers(&MARIADB, 5)
}

#[test]
fn a_planned_switchover_of_an_older_mariadb_loses_nothing_and_is_short() -> Result<()> {
    switchovers(&OLD_MARIADB, 3)
}

#[test]
fn a_planned_switchover_of_mysql_loses_nothing_and_is_short() -> Result<()> {
    switchovers(&MYSQL, 3)
}

fn switchovers(kind: &Kind, turns: usize) -> Result<()> {
    let name = kind.name;
    let servers = start(kind)?;
    let mut gaps = vec![];
    for turn in 0..turns {
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
            "FIGURE {name}, switchover {turn}: {} commits acknowledged, none for {gap:.0} ms; the VIP away for {:.0} ms",
            acked.rows.len(),
            outage_ms(&seen)
        );
        gaps.push(gap);
    }
    reloads(&servers)?;
    let gap = median(&mut gaps);
    println!("FIGURE {name}, switchover: write gap {gap:.0} ms, median of {}", gaps.len());
    ensure!(gap < 3000.0, "{gaps:?}");
    Ok(())
}

/// What a commit waits for is changed while clients write.
fn reloads(servers: &Servers) -> Result<()> {
    let (active, _) = servers.settled()?;
    const FILE: &str = "/etc/dre/mysql.toml";
    let was = active.read(FILE)?;
    let (acked, _) = servers.under_load(TWO_HUNDRED, Duration::from_secs(1), || {
        for node in servers.lab.nodes() {
            node.write(FILE, was.replace("[database]\n", "[database]\ndurability = \"strict\"\n"))?;
            node.run(&["systemctl", "reload", "dre@mysql"])?;
        }
        database_is(active, "strict", |seen| seen.durability == "strict").map(drop)
    })?;
    let (now, _) = servers.settled()?;
    ensure!(now.name == active.name, "the role moved");
    servers.has_all(now, &acked)?;
    for node in servers.lab.nodes() {
        node.write(FILE, &was)?;
        node.run(&["systemctl", "reload", "dre@mysql"])?;
        database_is(node, "available", |seen| seen.durability == "available")?;
    }
    servers.settled().map(drop)
}

const WAITING: &str = "power loss while commits wait";

const DEEDS: [(&str, Deed); 5] = [
    ("power loss", |_, node, _| {
        node.power_loss()?;
        node.wait_off(SOON).map(drop)
    }),
    // What the clients sent last is in this server's log, and nowhere else.
    (WAITING, |servers, node, _| {
        let other = servers.lab.other(node);
        servers.lab.cut_links(other, true)?;
        std::thread::sleep(Duration::from_millis(100));
        node.power_loss()?;
        node.wait_off(SOON)?;
        servers.lab.cut_links(other, false)
    }),
    ("SIGKILL of the server", |_, node, unit| node.signal(unit, libc::SIGKILL).map(drop)),
    // It does not stop when it is told to, so it is killed: by systemd, at the agent's word.
    ("SIGSTOP of the server", |_, node, unit| node.signal(unit, libc::SIGSTOP).map(drop)),
    ("SIGKILL of the agent", |_, node, _| node.signal("dre-mysql@mysql", libc::SIGKILL).map(drop)),
];

#[test]
fn the_death_of_the_active_loses_nothing_that_was_acknowledged() -> Result<()> {
    deaths(&MARIADB)
}

#[test]
fn the_death_of_the_active_of_an_older_mariadb_loses_nothing_that_was_acknowledged() -> Result<()> {
    deaths(&OLD_MARIADB)
}

#[test]
fn the_death_of_the_active_of_mysql_loses_nothing_that_was_acknowledged() -> Result<()> {
    deaths(&MYSQL)
}

fn deaths(kind: &Kind) -> Result<()> {
    let servers = start(kind)?;
    for (what, deed) in DEEDS {
        let (active, standby) = servers.settled()?;
        let rest = Duration::from_secs(if what == "SIGSTOP of the server" { 12 } else { 6 });
        let (acked, seen) = servers.under_load(TWO_HUNDRED, rest, || deed(&servers, active, kind.unit))?;
        let holder = seen.holder().map(|tape| tape.who().to_owned()).context("nobody answers for the VIP")?;
        let survivor = servers.lab.node(&holder)?;
        servers.has_all(survivor, &acked)?;
        println!(
            "FIGURE {}, {what}: {} commits acknowledged, none for {:.0} ms; the VIP away for {:.0} ms",
            kind.name,
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
            let journal = active.journal(&["-u", kind.unit])?;
            ensure!(journal.contains("status=9/KILL"), "it was not killed\n{}", servers.journals());
        }
        if !active.is_on() {
            active.boot()?;
        }
        let came = servers.came(active).with_context(|| what.to_owned())?;
        println!("{what}: {came:?}");
        came_as_it_must(&servers, kind, what, &came)?;
        if came != Came::Back {
            servers.made_a_copy(kind, active)?;
        }
        servers.settled()?;
        servers.are_the_same()?;
        ensure!(servers.lab.nodes().into_iter().all(is_there), "{what}: a server is away");
    }
    Ok(())
}

/// MariaDB drops after a crash what no standby had acknowledged, and comes back. MySQL keeps it: where the peer went on without, the
/// server stands still, and what is on it alone can be seen.
fn came_as_it_must(servers: &Servers, kind: &Kind, what: &str, came: &Came) -> Result<()> {
    let kept = kind.keeps_what_nobody_acknowledged;
    match came {
        Came::Back => ensure!(
            !(kept && what == WAITING),
            "{what}: back, with commits that the peer never had\n{}",
            servers.journals()
        ),
        Came::Stands { state, .. } => ensure!(
            kept && state == "DIVERGED" && what != "SIGKILL of the agent",
            "{what}: {came:?}\n{}",
            servers.journals()
        ),
    }
    Ok(())
}
