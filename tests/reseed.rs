//! `drectl db reseed` on two nodes: a server that went its own way becomes a copy of the peer's. Root; see tests/lab.

mod lab;
mod product;
mod servers;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::node::Node;
use product::ms;
use servers::{FAST, GROUP, SOON, Servers, TWO_HUNDRED, database, sql};

/// A row that this server alone has, while the ACTIVE's server, which it does not hear, went on: somebody lifted read_only by hand.
fn goes_its_own_way(node: &Node, active: &Node) -> Result<()> {
    let cut = "nft add table inet own && nft 'add chain inet own in { type filter hook input priority 0; }' && \
               nft 'add chain inet own out { type filter hook output priority 0; }' && \
               nft add rule inet own in tcp sport 3306 drop && nft add rule inet own in tcp dport 3306 drop && \
               nft add rule inet own out tcp sport 3306 drop && nft add rule inet own out tcp dport 3306 drop";
    node.run(&["sh", "-c", cut])?;
    sql(active, "INSERT INTO app.t VALUES (98, 1); INSERT INTO app.t VALUES (98, 2)")?;
    sql(node, "SET GLOBAL read_only = 0; INSERT INTO app.t VALUES (99, 99); SET GLOBAL read_only = 1")?;
    node.run(&["systemctl", "restart", "mariadb"])?;
    node.run(&["nft", "delete", "table", "inet", "own"]).map(drop)
}

/// Puts another program in the place of one of the node's; what is there runs as `"$REAL"`.
fn instead(node: &Node, program: &str, script: &str) -> Result<()> {
    let text = format!("#!/bin/sh\nREAL={program}.real\n{script}\n");
    node.run(&["mv", program, &format!("{program}.real")])?;
    node.run(&["sh", "-c", &format!("cat > {program} <<'E'\n{text}E\nchmod 755 {program}")]).map(drop)
}

fn as_it_was(node: &Node, program: &str) -> Result<()> {
    node.run(&["mv", &format!("{program}.real"), program]).map(drop)
}

#[test]
fn a_server_that_went_its_own_way_becomes_a_copy_and_keeps_what_it_had_until_then() -> Result<()> {
    const BACKUP: &str = "/usr/bin/mariadb-backup";
    let reseed = |node: &Node, more: &[&str]| {
        let words = [&["drectl", "-g", GROUP, "db", "reseed", "--yes"], more].concat();
        node.run_for(&words, Duration::from_secs(120))
    };
    let servers = Servers::start(FAST, "startup_hold_ms = 2000", "")?;
    let (active, standby) = servers.settled()?;
    let state =
        |node: &Node| database(node).map(|status| status.state).unwrap_or_else(|error| format!("{error:#}"));
    let becomes = |wanted: &str| -> Result<()> {
        let begun = Instant::now();
        while state(standby) != wanted {
            ensure!(begun.elapsed() < SOON, "not {wanted}: {}\n{}", state(standby), servers.journals());
            thread::sleep(ms(100));
        }
        Ok(())
    };
    let out = reseed(active, &[])?;
    ensure!(!out.ok() && out.stderr.contains("this node is ACTIVE"), "{}", out.stderr);

    // The nodes' file systems are overlays, and a directory of the lower layer cannot change its place in one step.
    let own = "systemctl stop mariadb && cp -a /var/lib/mysql /var/lib/mysql.own && rm -rf /var/lib/mysql && \
               mv /var/lib/mysql.own /var/lib/mysql && systemctl start mariadb";
    standby.run(&["sh", "-c", own])?;
    servers.settled()?;

    // What went wrong on the way leaves the old server as it was.
    goes_its_own_way(standby, active)?;
    becomes("DIVERGED")?;
    instead(active, BACKUP, "\"$REAL\" \"$@\" | head -c 300000; echo 'the disk is gone' >&2; exit 3")?;
    let out = reseed(standby, &[])?;
    ensure!(
        !out.ok() && out.stderr.contains("the disk is gone") && out.stderr.contains("nothing was changed"),
        "{}\n{}",
        out.stderr,
        servers.journals()
    );
    as_it_was(active, BACKUP)?;
    instead(
        standby,
        BACKUP,
        "\"$REAL\" \"$@\" || exit; for a; do case $a in --target-dir=*) rm -f \"${a#*=}/ibdata1\"; echo no > \"${a#*=}/ibdata1\";; esac; done",
    )?;
    // Whoever is asked may think about it: nothing is on its way before the answer.
    let thinks = Duration::from_secs(8);
    let begun = Instant::now();
    let asked = format!(
        "{{ sleep {}; echo yes; }} | script -qec 'drectl -g {GROUP} db reseed' /dev/null",
        thinks.as_secs()
    );
    let out = standby.run_for(&["sh", "-c", &asked], Duration::from_secs(120))?;
    ensure!(begun.elapsed() >= thinks && out.stdout.contains("Go on? [y/N]"), "{}{}", out.stdout, out.stderr);
    // On a terminal, which has one direction.
    ensure!(
        !out.ok()
            && out.stdout.contains("  prepared")
            && out.stdout.contains("the old data is in its place again"),
        "{}{}\n{}",
        out.stdout,
        out.stderr,
        servers.journals()
    );
    as_it_was(standby, BACKUP)?;
    becomes("DIVERGED")?;
    ensure!(
        sql(standby, "SELECT COUNT(*) FROM app.t WHERE writer = 99")? == "1",
        "the old data is not what it was"
    );

    // And now it is done, while clients write.
    let mut took = Duration::ZERO;
    let (acked, _) = servers.under_load(TWO_HUNDRED, Duration::from_secs(1), || {
        let begun = Instant::now();
        let out = reseed(standby, &[])?;
        took = begun.elapsed();
        print!("{}", out.stdout);
        ensure!(out.ok(), "{}{}\n{}", out.stdout, out.stderr, servers.journals());
        Ok(())
    })?;
    println!(
        "FIGURE database, reseed under load: {:.1} s; {} commits acknowledged meanwhile, none for {:.0} ms",
        took.as_secs_f64(),
        acked.rows.len(),
        acked.gap_ms()
    );
    servers.settled()?;
    servers.has_all(standby, &acked)?;
    servers.are_the_same()?;
    ensure!(
        sql(standby, "SELECT COUNT(*) FROM app.t WHERE writer = 99")? == "0",
        "what was here alone is still here"
    );
    let left = standby.run(&[
        "sh",
        "-c",
        "ls -d /var/lib/mysql.dre-* /var/lib/dre-mysql@mysql/reseeding 2>/dev/null; true",
    ])?;
    ensure!(left.trim().is_empty(), "left behind: {left}");

    // A copy is a server like any: it takes the role, and the other one follows it.
    let (acked, _) = servers.under_load(TWO_HUNDRED, Duration::from_secs(2), || {
        active.run(&["drectl", "-g", GROUP, "switchover"]).map(drop)
    })?;
    let (now, _) = servers.settled()?;
    ensure!(now.name == standby.name, "the role did not move");
    servers.has_all(now, &acked)?;
    servers.are_the_same()
}
