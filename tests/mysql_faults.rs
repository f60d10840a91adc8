//! The fault campaign of the database pair: each fault under four clients that write through the VIP. Whatever is done, never two
//! machines answer for the VIP, no acknowledged commit is missing on the server that goes on, and the other one comes back by itself
//! with the same rows or stands still and says why. Root; see tests/lab.

mod lab;
mod product;
mod servers;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::node::Node;
use product::{ms, outage_ms, run, state_of};
use servers::{
    Came, FAST, GROUP, SOON, Servers, TWO_HUNDRED, database, database_is, deaths, group, replicates, sql,
};

const HOLD: &str = "startup_hold_ms = 2000";
fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn many_deaths_of_the_active_lose_nothing_that_was_acknowledged() -> Result<()> {
    let mut servers = None;
    for cause in [deaths::POWER_LOSS, deaths::KILLED] {
        let mut tally = deaths::deaths(FAST, seconds(1), cause, deaths::runs(3), &mut servers)?;
        tally.report(&format!("database, {} of the ACTIVE", cause.0));
    }
    Ok(())
}

/// The agent stands still, the heartbeats are cut, the whole node stands still and goes on.
#[test]
fn what_stands_still_or_is_cut_off_leaves_one_server_that_takes_writes() -> Result<()> {
    let servers = Servers::start(FAST, HOLD, "")?;

    let (active, _) = servers.settled()?;
    let (acked, _) = servers
        .under_load(TWO_HUNDRED, seconds(6), || active.signal("dre-mysql@mysql", libc::SIGSTOP).map(drop))?;
    let journal = active.journal(&["-u", "dre-mysql@mysql"])?;
    ensure!(journal.contains("Watchdog timeout"), "the watchdog did not end it\n{}", servers.journals());
    let (now, other) = servers.settled()?;
    for node in [now, other] {
        servers.has_all(node, &acked)?;
    }
    servers.are_the_same()?;
    let stayed = if now.name == active.name { "stayed" } else { "moved" };
    println!(
        "FIGURE database, SIGSTOP of the agent: {} commits acknowledged, none for {:.0} ms, {} broken off; the role {stayed}",
        acked.rows.len(),
        acked.gap_ms(),
        acked.broken
    );

    heartbeats_are_cut(&servers)?;
    groups_move_alone(&servers)?;

    let (active, standby) = servers.settled()?;
    let (acked, seen) = servers.under_load(TWO_HUNDRED, seconds(4), || {
        active.freeze()?;
        thread::sleep(seconds(5));
        active.thaw().map(drop)
    })?;
    servers.has_all(standby, &acked)?;
    let came = servers.came(active)?;
    ensure!(
        state_of(standby, GROUP)?.role == "active",
        "the role is not at the survivor\n{}",
        servers.journals()
    );
    println!(
        "FIGURE database, the whole node stands still for 5 s: {} commits acknowledged, none for {:.0} ms; the VIP away for {:.0} ms; \
         then: {came:?}",
        acked.rows.len(),
        acked.gap_ms(),
        outage_ms(&seen)
    );
    Ok(())
}

/// Both heartbeat networks, and with them replication; both nodes reach the arbitrator, and the VIP goes on to answer.
fn heartbeats_are_cut(servers: &Servers) -> Result<()> {
    let (active, standby) = servers.settled()?;
    let takes_writes = |node: &Node| -> Result<bool> { Ok(sql(node, "SELECT @@read_only")? == "0") };
    let mut looks = 0;
    let (acked, seen) = servers.under_load(TWO_HUNDRED, seconds(3), || {
        servers.lab.cut_links(active, true)?;
        let begun = Instant::now();
        while begun.elapsed() < seconds(8) {
            // Looked at twice: between one look and the other the role may have moved.
            let both = takes_writes(active)? && takes_writes(standby)? && takes_writes(active)?;
            ensure!(!both, "both servers take writes\n{}", servers.journals());
            looks += 1;
            thread::sleep(ms(100));
        }
        servers.lab.cut_links(active, false)
    })?;
    ensure!(looks > 5, "looked {looks} times only");
    let (now, other) = servers.settled()?;
    for node in [now, other] {
        servers.has_all(node, &acked)?;
    }
    servers.are_the_same()?;
    ensure!(seen.holders().len() == 1 && now.name == active.name, "the role moved: {}", seen.summary());
    println!(
        "FIGURE database, both heartbeat networks cut for 8 s: {} commits acknowledged, none for {:.0} ms; the VIP away for {:.0} ms",
        acked.rows.len(),
        acked.gap_ms(),
        outage_ms(&seen)
    );
    Ok(())
}

/// The first group's role is on one node, the database's on the other, and each goes where it is told without the other's knowing.
fn groups_move_alone(servers: &Servers) -> Result<()> {
    let first = |role: &str| {
        let nodes = servers.lab.nodes();
        let found =
            nodes.into_iter().find(|node| state_of(node, "dre").is_ok_and(|status| status.role == role));
        found.with_context(|| format!("no node is {role} in group dre"))
    };
    servers.move_to(first("standby")?)?;

    let before = first("active")?;
    let (holder, _) = servers.settled()?;
    let (acked, seen) = servers.under_load(TWO_HUNDRED, seconds(2), || {
        before.run(&["drectl", "-g", "dre", "switchover"]).map(drop)
    })?;
    ensure!(first("active")?.name != before.name, "the first group's role did not move");
    ensure!(acked.broken == 0, "{} writes were broken off\n{}", acked.broken, servers.journals());
    ensure!(seen.holders().len() == 1, "the database's VIP moved: {}", seen.summary());
    ensure!(servers.settled()?.0.name == holder.name, "the database's role moved");
    println!(
        "FIGURE database, switchover of group dre beside it: {} commits acknowledged, none for {:.0} ms, none broken off",
        acked.rows.len(),
        acked.gap_ms()
    );

    let before = first("active")?;
    servers.move_to(first("standby")?)?;
    let judge = servers.lab.judge(product::VIP)?;
    let (active, standby) = servers.settled()?;
    let (acked, _) = servers.under_load(TWO_HUNDRED, seconds(2), || {
        active.run(&["drectl", "-g", GROUP, "switchover"]).map(drop)
    })?;
    let seen = judge.stop()?;
    ensure!(servers.settled()?.0.name == standby.name, "the database's role did not move");
    servers.has_all(standby, &acked)?;
    ensure!(first("active")?.name == before.name, "the first group's role moved");
    ensure!(seen.holders().len() == 1, "the first group's VIP moved: {}", seen.summary());
    ensure!(outage_ms(&seen) < 50.0, "the first group's VIP was away: {}", seen.summary());
    println!(
        "FIGURE database, its switchover beside group dre: no commit for {:.0} ms; the other group's VIP away for {:.1} ms",
        acked.gap_ms(),
        outage_ms(&seen)
    );
    Ok(())
}

/// The server's data lies on a file system of its own that is small enough to be filled.
fn small_disk(root: &Path) -> Result<()> {
    let unit = "[Unit]\nBefore=mariadb.service\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sh -ec 'mkdir /run/small; \
                mount -t tmpfs -o size=256m small /run/small; cp -a /var/lib/mysql/. /run/small; mount --bind /run/small \
                /var/lib/mysql'\n[Install]\nRequiredBy=mariadb.service\n";
    std::fs::write(root.join("etc/systemd/system/small-disk.service"), unit)?;
    run(&["systemctl", &format!("--root={}", root.display()), "enable", "small-disk.service"])
}

/// The server counts transactions that found no room in its log. Where commits waited for the standby to the last, that one takes over;
/// where they did not, nobody can tell those numbers from commits that it lacks: it says that it is left behind and leaves the choice to
/// an operator. With space again, and the server started, it all goes on.
#[test]
fn a_disk_that_is_full_is_found_and_loses_nothing() -> Result<()> {
    let text = group(&format!("port = 1695\n{FAST}"), HOLD, "");
    let servers = Servers::start_with(&text, small_disk)?;
    let (active, standby) = servers.settled()?;
    let mut end = String::new();
    let (acked, _) = servers.under_load(TWO_HUNDRED, seconds(2), || {
        let full = active.run_for(&["dd", "if=/dev/zero", "of=/var/lib/mysql/filler", "bs=64k"], SOON)?;
        ensure!(full.stderr.contains("No space left"), "it is not full: {}", full.stderr);
        active.wait_for("journalctl -u dre-mysql@mysql | grep -q 'WRITE_FAILED; a write failed'", SOON)?;
        let ended = |seen: &dre::database::DatabaseStatus| {
            (seen.duty == "active" && !seen.read_only && seen.state == "OK")
                || ["PROMOTE_BLOCKED", "LEFT_BEHIND"].contains(&seen.state.as_str())
        };
        let seen = database_is(standby, "ACTIVE, or left behind with a word of it", ended)
            .with_context(|| servers.journals())?;
        ensure!(seen.state == "OK" || seen.reason.contains("transactions are not here"), "{seen:#?}");
        end = format!("{} {}", seen.state, seen.reason);
        Ok(())
    })?;
    servers.has_all(standby, &acked)?;
    active.sh("rm /var/lib/mysql/filler; systemctl reset-failed mariadb; systemctl start mariadb")?;
    servers.settled()?;
    servers.lab.nodes().into_iter().try_for_each(|node| servers.has_all(node, &acked))?;
    servers.are_the_same()?;
    println!(
        "FIGURE database, the ACTIVE's disk is full: {} commits acknowledged, none for {:.0} ms, none missing; the standby: {end}",
        acked.rows.len(),
        acked.gap_ms()
    );
    Ok(())
}

/// What is on the disk of the one that comes back is not what it had.
#[test]
fn a_history_that_is_not_the_peers_is_never_merged_by_itself() -> Result<()> {
    let servers = Servers::start(FAST, HOLD, "")?;
    a_password_that_is_refused(&servers)?;
    an_older_disk_is_put_back(&servers)?;
    rows_that_are_on_the_old_one_alone(&servers)
}

/// The standby's receiver is refused: it says so, with the server's own number.
fn a_password_that_is_refused(servers: &Servers) -> Result<()> {
    let (active, standby) = servers.settled()?;
    let password = |word: &str| {
        sql(
            active,
            &format!(
                "SET sql_log_bin = 0; ALTER USER dre_repl@'172.16.%' IDENTIFIED BY '{word}' REQUIRE SSL"
            ),
        )
    };
    let (acked, _) = servers.under_load(TWO_HUNDRED, seconds(1), || {
        password("another")?;
        let dump = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
        for id in sql(active, dump)?.lines() {
            sql(active, &format!("KILL {id}"))?;
        }
        let refused = |seen: &dre::database::DatabaseStatus| seen.reason.contains("1045");
        let seen = database_is(standby, "refused with 1045", refused)?;
        ensure!(["IO_CONNECTING", "LEFT_BEHIND"].contains(&seen.state.as_str()), "{seen:#?}");
        thread::sleep(seconds(7));
        // The ACTIVE has gone on meanwhile, and the reason is still there.
        let seen = database_is(standby, "left behind", |seen| seen.state == "LEFT_BEHIND")?;
        ensure!(refused(&seen) && !seen.why_not.is_empty(), "no word of 1045: {seen:#?}");
        password("of-the-lab").map(drop)
    })?;
    let (now, other) = servers.settled()?;
    ensure!(now.name == active.name, "the role moved\n{}", servers.journals());
    for node in [now, other] {
        servers.has_all(node, &acked)?;
    }
    servers.are_the_same()
}

/// The node had the role after its disk was copied, so the copy lacks transactions of its own.
fn an_older_disk_is_put_back(servers: &Servers) -> Result<()> {
    let (active, standby) = servers.settled()?;
    standby
        .sh("systemctl stop mariadb && cp -a /var/lib/mysql /var/lib/mysql.old && systemctl start mariadb")?;
    servers.move_to(standby)?;
    let (acked, _) = servers.under_load(TWO_HUNDRED, ms(500), || Ok(()))?;
    servers.move_to(active)?;
    standby.sh("systemctl stop mariadb && mv /var/lib/mysql /var/lib/mysql.new && mv /var/lib/mysql.old /var/lib/mysql")?;
    let (more, _) = servers
        .under_load(TWO_HUNDRED, seconds(2), || standby.run(&["systemctl", "start", "mariadb"]).map(drop))?;
    let came = servers.came(standby)?;
    for rows in [&acked, &more] {
        servers.has_all(active, rows)?;
        if came == Came::Back {
            servers.has_all(standby, rows)?;
        }
    }
    println!(
        "FIGURE database, an older disk is put back, without the node's last {} commits: {came:?}",
        acked.rows.len()
    );
    standby.run(&["rm", "-r", "/var/lib/mysql.new"])?;
    if came != Came::Back {
        copy_of_the_peer(servers, standby)?;
    }
    // It can have the role again, and writes nothing over what is there.
    servers.move_to(standby)?;
    let (again, _) = servers.under_load(TWO_HUNDRED, ms(500), || Ok(()))?;
    for rows in [&acked, &more, &again] {
        servers.lab.nodes().into_iter().try_for_each(|node| servers.has_all(node, rows))?;
    }
    servers.are_the_same()
}

/// Somebody writes on the standby by hand while its agent is stopped and the ACTIVE goes on without it. (Were they connected, the ACTIVE
/// would take such a row in as long as it fits, as the next of one history.)
fn rows_that_are_on_the_old_one_alone(servers: &Servers) -> Result<()> {
    let (active, standby) = servers.settled()?;
    let mut newest = String::new();
    let (acked, _) = servers.under_load(TWO_HUNDRED, seconds(3), || {
        standby.run(&["systemctl", "stop", "dre@mysql"])?;
        servers.lab.cut_links(standby, true)?;
        // What waits for it, waits for 2 s.
        thread::sleep(seconds(3));
        sql(standby, "STOP SLAVE; SET GLOBAL read_only = 0; INSERT INTO app.t VALUES (9, 1), (9, 2)")?;
        newest = sql(standby, "INSERT INTO app.t VALUES (9, 3); SELECT @@gtid_binlog_pos")?;
        thread::sleep(seconds(1));
        servers.lab.cut_links(standby, false)?;
        standby.run(&["systemctl", "start", "dre@mysql"]).map(drop)
    })?;
    let came = servers.came(standby)?;
    let Came::Stands { state, reason } = &came else {
        anyhow::bail!("a fork was merged: {came:?}\n{}", servers.journals());
    };
    let (server, number) = newest.rsplit_once('-').context("no number")?;
    let named = reason.contains(&format!("on this server alone: {server}-")) && reason.ends_with(number);
    ensure!(state == "DIVERGED" && named, "{came:?}, and the newest is {newest}");
    println!("FIGURE database, rows written by hand on the standby: {came:?}");
    let seen = database(standby)?;
    let replication = seen.replication.context("no replication")?;
    ensure!(replication.receiver == "stopped" && !replication.applier, "it replicates: {replication:#?}");
    let of_hand = |node: &Node| sql(node, "SELECT COUNT(*) FROM app.t WHERE writer = 9");
    ensure!(of_hand(active)? == "0" && of_hand(standby)? == "3", "rows were merged or lost");
    servers.has_all(active, &acked)?;
    ensure!(state_of(active, GROUP)?.role == "active" && !state_of(standby, GROUP)?.fit, "the role moved");
    // An order to hand over is refused: nobody could take it.
    let refused = active.run_for(&["drectl", "-g", GROUP, "switchover"], SOON)?;
    ensure!(!refused.ok(), "the role was handed to a server that stands still");

    // Replicated all the same, as the operator says: MariaDB's strict mode finds that both used one number, and says so.
    standby.run(&["drectl", "-g", GROUP, "db", "accept-errant"])?;
    let seen = database_is(standby, "stopped by its applier", |seen| seen.state == "SQL_STOPPED")?;
    ensure!(seen.reason.contains("1950") && !seen.why_not.is_empty(), "{seen:#?}");
    ensure!(of_hand(active)? == "0", "rows were merged");

    copy_of_the_peer(servers, standby)?;
    servers.lab.nodes().into_iter().try_for_each(|node| servers.has_all(node, &acked))?;
    ensure!(of_hand(standby)? == "0", "it is no copy");
    // And it is one that can take over.
    servers.move_to(standby)?;
    servers.move_to(active)?;
    servers.are_the_same()
}

/// What the README says of a server that cannot come back by itself: by hand, both servers stopped for it.
fn copy_of_the_peer(servers: &Servers, to: &Node) -> Result<()> {
    let from = servers.lab.other(to);
    for node in [to, from] {
        node.run(&["systemctl", "stop", "dre@mysql", "mariadb"])?;
    }
    to.sh("rm -rf /var/lib/mysql")?;
    let place = |node: &Node| node.place("/var/lib/mysql").display().to_string();
    run(&["cp", "-a", &place(from), &place(to)])?;
    for node in [from, to] {
        node.run(&["systemctl", "start", "mariadb"])?;
        // What the receiver had fetched of the fork is no part of any history; and since the fork the position stood still.
        sql(node, "RESET SLAVE ALL; SET GLOBAL gtid_slave_pos = @@gtid_binlog_pos")?;
        replicates(node)?;
    }
    for node in [from, to] {
        node.run(&["systemctl", "start", "dre@mysql"])?;
    }
    to.wait_for("drectl -g mysql db reseeded", SOON)?;
    servers.settled()?;
    servers.are_the_same()
}

/// Linux Heartbeat's timing (keepalive 1 s, deadtime 15 s, port 694), and its auto_failback after a hold.
#[test]
fn with_the_old_timing_the_role_goes_over_in_sixteen_seconds_and_back_after_the_hold() -> Result<()> {
    const HOLD_S: u64 = 10;
    let election = format!(
        "startup_hold_ms = 15000\npreferred = \"hadev1\"\nfailback = true\nfailback_hold_s = {HOLD_S}"
    );
    let text = group("port = 694\ninterval_ms = 1000\nmissed_max = 15", &election, "");
    let servers = Servers::start_with(&text, |_| Ok(()))?;
    let (preferred, other) = (&servers.lab.hadev1, &servers.lab.hadev2);
    ensure!(servers.settled()?.0.name == preferred.name, "the preferred node has not the role");

    let (acked, seen) = servers.under_load(TWO_HUNDRED, seconds(1), || {
        preferred.power_loss()?;
        other.wait_for("systemctl show -P StatusText dre@mysql | grep -q '^ACTIVE.*VIPs 1/1'", SOON).map(drop)
    })?;
    servers.has_all(other, &acked)?;
    println!(
        "FIGURE database, power loss, interval 1 s, 15 missed: {} commits acknowledged, none for {:.0} ms; the VIP away for {:.0} ms",
        acked.rows.len(),
        acked.gap_ms(),
        outage_ms(&seen)
    );
    ensure!(outage_ms(&seen) <= 16_000.0 || product::is_bench(), "the VIP was away: {}", seen.summary());

    let mut held = Duration::ZERO;
    let (back, seen) = servers.under_load(TWO_HUNDRED, seconds(2), || {
        preferred.boot()?;
        database_is(preferred, "in step", |seen| seen.state == "OK" && seen.why_not.is_empty())?;
        let begun = Instant::now();
        preferred.wait_for("systemctl show -P StatusText dre@mysql | grep -q '^ACTIVE.*VIPs 1/1'", SOON)?;
        held = begun.elapsed();
        Ok(())
    })?;
    ensure!(servers.settled()?.0.name == preferred.name, "the role did not stay");
    for node in servers.lab.nodes() {
        servers.has_all(node, &acked)?;
        servers.has_all(node, &back)?;
    }
    servers.are_the_same()?;
    // (It is looked at now and then: what was asked of it is a moment older.)
    ensure!(held > seconds(HOLD_S - 2), "it did not wait for the hold: {held:?}\n{}", servers.journals());
    println!(
        "FIGURE database, failback after a hold of {HOLD_S} s: in step for {:.1} s; {} commits acknowledged, none for {:.0} ms; the VIP \
         away for {:.0} ms",
        held.as_secs_f64(),
        back.rows.len(),
        back.gap_ms(),
        outage_ms(&seen)
    );
    Ok(())
}

/// The ACTIVE is cut off from its peer, from replication and from the arbitrator, and its clients still reach it for 4 s, which is
/// longer than a commit waits by default. With `durability = "strict"` none of these is acknowledged.
#[test]
fn strict_durability_acknowledges_nothing_that_the_winner_has_not() -> Result<()> {
    let timing = "interval_ms = 500\nmissed_max = 8";
    let servers = Servers::start(timing, "startup_hold_ms = 4000", "durability = \"strict\"")?;
    let (active, standby) = servers.settled()?;
    let (acked, seen) = servers.under_load(TWO_HUNDRED, seconds(4), || {
        servers.lab.cut_links(active, true)?;
        servers.lab.net.silent(active.name, "eth0", true)?;
        standby.wait_for("systemctl show -P StatusText dre@mysql | grep -q '^ACTIVE.*VIPs 1/1'", SOON)?;
        thread::sleep(seconds(2));
        servers.lab.cut_links(active, false)?;
        servers.lab.net.silent(active.name, "eth0", false)
    })?;
    servers.has_all(standby, &acked)?;
    let came = servers.came(active)?;
    servers.has_all(standby, &acked)?;
    ensure!(state_of(standby, GROUP)?.role == "active", "the role moved again\n{}", servers.journals());
    println!(
        "FIGURE database, strict, all networks but the clients' cut at the ACTIVE: {} commits acknowledged, none for {:.0} ms; the VIP \
         away for {:.0} ms; then: {came:?}",
        acked.rows.len(),
        acked.gap_ms(),
        outage_ms(&seen)
    );
    Ok(())
}
