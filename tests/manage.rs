//! What dre does for the services it manages, and what it says when something of the machine or of the file is not as it should be.
//! Root; see tests/lab.

mod lab;
mod product;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::node::Node;
use product::{Pair, alarm, configuration, install, ms, no_alarm, outage_ms, status};

const SOON: Duration = Duration::from_secs(5);
/// The grace of a service, and room.
const GRACE: Duration = Duration::from_secs(15);

/// Says its term where a test can read it, runs until it is stopped, and takes as long to stop as /run/slow says.
fn ticker(root: &Path) -> Result<()> {
    let unit = "[Service]
ExecStart=/bin/sh -c 'echo $DRE_TERM > /run/ticker.term; exec sleep infinity'
ExecStop=/bin/sh -c 'sleep $(cat /run/slow 2>/dev/null || echo 0)'
TimeoutStopSec=30s
";
    Ok(fs::write(root.join("etc/systemd/system/ticker.service"), unit)?)
}

fn wait_for_term(node: &Node) -> Result<()> {
    node.wait_for(
        "test \"$(cat /run/ticker.term)\" = \"$(drectl status --json | sed 's/.*\"term\":\\([0-9]*\\).*/\\1/')\" && \
         systemctl is-active -q ticker",
        SOON,
    )
    .map(drop)
}

/// The file goes bad and systemd reads its units again: what runs goes on being dre's, and moves with the role.
#[test]
fn a_bad_file_takes_no_service_out_of_the_role() -> Result<()> {
    let good = configuration(10, 3, "active = [\"ticker.service\"]\nboth = [\"memcached.service\"]");
    let pair = Pair::start_with(&good, ticker)?;
    let (first, second) = (pair.active()?, pair.standby()?);
    // The services know the number of their period, and nobody but root can write it.
    wait_for_term(first)?;
    ensure!(first.sh("stat -c %U:%a /run/dre-lease /run/dre-lease/term.env")? == "root:755\nroot:600\n");
    for node in [first, second] {
        node.write("/etc/dre/dre.toml", good.replace("interval_ms = 10", "interval_ms = ten"))?;
        node.run(&["systemctl", "daemon-reload"])?;
        ensure!(
            node.sh("systemctl show -P BindsTo,PartOf ticker")?.contains("dre-lease.service"),
            "{}",
            node.name
        );
        ensure!(node.sh("systemctl show -P Restart memcached")?.contains("always"), "{}", node.name);
        let out = node.run_for(&["systemctl", "reload", "dre"], SOON)?;
        println!("reload of a bad file: {out:?}");
        alarm(node, "ConfigRejected", SOON)?;
        let line = 1 + good.lines().position(|line| line.starts_with("interval_ms")).context("a line")?;
        let page = node.run(&["drectl"])?;
        ensure!(page.contains(&format!("dre.toml:{line}")), "line {line}: {page}");
    }
    for from in [first, second] {
        let seen = pair.judged(ms(300), || from.run(&["drectl", "switchover"]).map(drop))?;
        ensure!(outage_ms(&seen) < 1000.0, "{}", seen.summary());
        pair.settled(SOON)?;
        wait_for_term(pair.lab.other(from))?;
        from.wait_unit("ticker.service", "inactive", SOON)?;
    }
    for node in [first, second] {
        node.write("/etc/dre/dre.toml", &good)?;
        node.run(&["systemctl", "reload", "dre"])?;
        no_alarm(node, "ConfigRejected", SOON)?;
    }
    // A new service that systemd was not told of: nothing would stop it.
    first.write(
        "/etc/dre/dre.toml",
        good.replace("\"ticker.service\"", "\"ticker.service\", \"cron.service\", \"ssh.service\""),
    )?;
    first.run(&["systemctl", "reload", "dre"])?;
    alarm(first, "ServiceUnbound", SOON)?;
    ensure!(first.run(&["drectl"])?.contains("ssh.service"));
    first.write("/etc/dre/dre.toml", &good)?;
    first.run(&["systemctl", "reload", "dre"])?;
    no_alarm(first, "ServiceUnbound", SOON)?;
    pair.audit()
}

/// A service that takes its time to stop, services that are not there: said by name, on the page and in the status line.
#[test]
fn services_that_do_not_stop_or_run_are_named() -> Result<()> {
    let services = "active = [\"ticker.service\", \"nowhere.service\"]\nboth = [\"memcached.service\", \"gone.service\"]";
    let pair = Pair::start_with(&configuration(10, 3, services), ticker)?;
    let (first, second) = (pair.active()?, pair.standby()?);
    alarm(first, "ServiceDown", GRACE)?;
    for node in [first, second] {
        alarm(node, "BothServiceDown", GRACE)?;
    }
    let page = first.run(&["drectl"])?;
    println!("{page}");
    ensure!(page.contains(
        "Service: the VIPs answer here, but nowhere.service is not-found, gone.service is not-found"
    ));
    let page = second.run(&["drectl"])?;
    ensure!(page.contains("this node would take over, but gone.service is not-found"), "{page}");
    // It was stopped by hand: no reason to move, but to be seen.
    first.run(&["systemctl", "stop", "ticker"])?;
    first.wait_for(
        "drectl | grep -q 'ticker.service shall run on the active node, and is not running'",
        GRACE,
    )?;
    ensure!(pair.active()?.name == first.name);
    first.run(&["systemctl", "start", "ticker"])?;
    first.wait_for("page=$(drectl) && ! echo \"$page\" | grep -q 'ticker.service shall run'", SOON)?;

    first.write("/run/slow", "7\n")?;
    let out = first.run_for(&["drectl", "switchover", "--timeout", "1"], SOON)?;
    ensure!(!out.ok(), "it cannot be done so fast: {out:?}");
    alarm(first, "StopOverdue", Duration::from_secs(8))?;
    let page = first.run(&["drectl"])?;
    ensure!(page.contains("ticker.service is still stopping"), "{page}");
    pair.settled(Duration::from_secs(15))?;
    ensure!(pair.active()?.name == second.name, "the role came back");
    no_alarm(first, "StopOverdue", SOON)
}

/// Starts of dre.service in this boot.
fn starts(node: &Node) -> Result<usize> {
    Ok(node.journal(&["-u", "dre", "_PID=1"])?.matches("Starting dre.service").count())
}

/// A configuration that was refused at the start is not tried again by whoever connects.
#[test]
fn a_refused_start_is_one_start() -> Result<()> {
    let good = configuration(10, 3, "");
    let pair = Pair::start(&good)?;
    let node = pair.standby()?;
    let before = starts(node)?;
    node.write("/etc/dre/dre.toml", good.replace("interval_ms = 10", "interval_ms = 1"))?;
    node.signal_all(&["dre"], libc::SIGKILL)?;
    node.wait_for("systemctl is-failed -q dre && systemctl is-failed -q dre-vip", SOON)?;
    ensure!(starts(node)? == before + 1, "started {} times", starts(node)? - before);
    // A dre-vip that runs looks for dre-elect every 20 ms, and starts nothing by that.
    node.write("/etc/dre/dre.toml", &good)?;
    node.run(&["systemctl", "start", "dre-vip"])?;
    node.write("/etc/dre/dre.toml", good.replace("interval_ms = 10", "interval_ms = 1"))?;
    std::thread::sleep(ms(1500));
    ensure!(node.sh("systemctl is-active dre-vip || true")? == "active\n");
    ensure!(starts(node)? == before + 1, "started {} times", starts(node)? - before);
    // A person asks: that is one more.
    let out = node.run_for(&["drectl"], SOON)?;
    ensure!(!out.ok(), "{out:?}");
    std::thread::sleep(ms(1500));
    ensure!(starts(node)? == before + 2, "started {} times", starts(node)? - before);
    ensure!(node.sh("systemctl is-active dre.socket || true")? == "active\n");
    ensure!(node.sh("systemctl show -P ExecMainStatus dre")? == "78\n");
    node.write("/etc/dre/dre.toml", &good)?;
    node.run(&["systemctl", "start", "dre"])?;
    pair.settled(Duration::from_secs(20))?;
    pair.audit()
}

/// An interface that is not there: refused to who writes it, but the daemon starts, says so, and goes on by itself when it comes.
#[test]
fn a_missing_interface_is_refused_in_a_file_and_waited_for_at_the_start() -> Result<()> {
    let good = configuration(10, 3, "");
    let more = good.clone() + "[[vip]]\naddress = \"172.16.77.61/24\"\ninterface = \"eth9\"\n";
    let pair = Pair::start(&good)?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    for (bad, words) in [
        (more.clone(), "eth9, which this host does not have"),
        (good.replace("172.16.8.250", "172.16.7.250"), "172.16.7.250 is in no network of eth0"),
    ] {
        standby.write("/etc/dre/dre.toml", bad)?;
        let out = standby.run_for(&["drectl", "config", "check"], SOON)?;
        ensure!(out.status.and_then(|s| s.code()) == Some(78) && out.stderr.contains(words), "{out:?}");
        standby.run_for(&["systemctl", "reload", "dre"], SOON)?;
        alarm(standby, "ConfigRejected", SOON)?;
        standby.wait_for(&format!("drectl | grep -qF '{words}'"), SOON)?;
    }
    // It was written all the same, and the node boots with it.
    standby.write("/etc/dre/dre.toml", &more)?;
    standby.run(&["systemctl", "restart", "dre"])?;
    alarm(standby, "InterfaceMissing", SOON)?;
    alarm(standby, "Unfit", SOON)?;
    ensure!(standby.run(&["drectl"])?.contains("eth9"));
    standby
        .sh("ip link add eth9 type veth peer name eth9x && ip link set eth9x up && ip link set eth9 up")?;
    no_alarm(standby, "InterfaceMissing", SOON)?;
    no_alarm(standby, "Unfit", SOON)?;
    standby.write("/etc/dre/dre.toml", &good)?;
    standby.run(&["systemctl", "reload", "dre"])?;
    pair.settled(SOON)?;
    // The neutral interface goes away: why nobody can be asked is said, and it ends when it is back.
    standby.sh("ip link set eth0 down")?;
    alarm(standby, "ArbitratorPath", SOON)?;
    standby.sh("ip link set eth0 up")?;
    no_alarm(standby, "ArbitratorPath", SOON)?;
    ensure!(pair.active()?.name == active.name);
    pair.audit()
}

/// Values that nobody knows are said, and systemd's inhibitor delays a shutdown only.
#[test]
fn what_is_taken_for_something_else_is_said() -> Result<()> {
    let toml = configuration(10, 3, "");
    let lab = Lab::builder()
        .install(|root| {
            install(root, &toml)?;
            Ok(fs::write(root.join("etc/default/dre"), "DRE_LOG_LEVEL=chatty\nDRE_STANDALONE=perhaps\n")?)
        })
        .off("hadev2")
        .start()?;
    let node = &lab.hadev1;
    alarm(node, "PeerLost", SOON)?;
    let check = node.run_for(&["drectl", "check"], SOON)?.stdout;
    let journal = node.journal(&["-u", "dre"])?;
    for word in ["\"chatty\"", "\"perhaps\""] {
        ensure!(check.contains(word) && journal.contains(word), "{word}: {check}\n{journal}");
    }
    ensure!(!status(node)?.contains("Standalone"));
    let inhibitors = node.run(&[
        "busctl",
        "call",
        "org.freedesktop.login1",
        "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager",
        "ListInhibitors",
    ])?;
    ensure!(inhibitors.contains("\"shutdown\" \"dre\"") && !inhibitors.contains("sleep"), "{inhibitors}");
    Ok(())
}
