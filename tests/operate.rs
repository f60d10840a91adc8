//! The operator's side: systemctl, reload, wrong configurations, managed services. Root; see tests/lab.

mod lab;
mod product;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::node::Node;
use lab::web::{self, Visitor};
use product::{Pair, VIP, configuration, demanded, ms, not_too_long, outage_ms, report, runs, state};

fn alive(node: &Node) -> Result<()> {
    for unit in ["multi-user.target", "ssh.service", "dre.service", "dre-vip.service"] {
        let state = node.sh(&format!("systemctl is-active {unit} || true"))?;
        ensure!(state.trim() == "active", "{}: {unit} is {}", node.name, state.trim());
    }
    Ok(())
}

fn switched(pair: &Pair, what: &str, from: &str, by: impl FnOnce() -> Result<()>) -> Result<f64> {
    let to = pair.lab.nodes().into_iter().find(|node| node.name != from).context("another node")?;
    let pauses = || -> Result<usize> {
        Ok(to.journal(&["-u", "dre.service", "DRE_RULE=OwnPause", "-o", "cat"])?.matches("OwnPause").count())
    };
    let before = pauses()?;
    let seen = pair.judged(ms(300), by)?;
    println!("{what}: {}", seen.summary());
    pair.settled(Duration::from_secs(20))?;
    if pair.active()?.name == from {
        // At D = 30 ms a machine that stands still for as long has its role moved once more; the node says so itself.
        let held = seen.holders().iter().any(|tenure| tenure.who() == to.name);
        ensure!(held && pauses()? > before, "{what}: the role did not move: {}", pair.journals());
        println!("{what}: {} had it, stood still, and gave it back", to.name);
    }
    not_too_long(what, &seen, ms(1000))?;
    for node in pair.lab.nodes() {
        alive(node)?;
        let role = if pair.active()?.name == node.name { "active" } else { "standby" };
        node.wait_unit(&format!("dre-{role}.target"), "active", Duration::from_secs(10))?;
    }
    pair.audit()?;
    Ok(outage_ms(&seen))
}

#[test]
fn systemctl_is_a_safe_switchover() -> Result<()> {
    let pair = Pair::start(&configuration(10, 3, ""))?;
    for (verb, target, by_the_active) in [
        ("isolate", "dre-active.target", false),
        ("start", "dre-active.target", false),
        ("stop", "dre-active.target", true),
        ("start", "dre-standby.target", true),
    ] {
        let what =
            format!("systemctl {verb} {target} on the {}", if by_the_active { "active" } else { "standby" });
        let mut outages = vec![];
        for _ in 0..runs() {
            let (active, standby) = (pair.active()?, pair.standby()?);
            let node = if by_the_active { active } else { standby };
            outages.push(switched(&pair, &what, active.name, || {
                node.run(&["systemctl", verb, target]).map(drop)
            })?);
        }
        report(&what, demanded::TARGETS, &mut outages);
    }
    Ok(())
}

#[test]
fn drectl_switches_over_and_prints_the_gap() -> Result<()> {
    let pair = Pair::start(&configuration(10, 3, ""))?;
    let mut outages = vec![];
    for _ in 0..runs() {
        let active = pair.active()?;
        let mut said = String::new();
        outages.push(switched(&pair, "drectl switchover", active.name, || {
            said = active.run(&["drectl", "switchover"])?;
            Ok(())
        })?);
        // The gap that the nodes measured, not that it was not.
        let other = pair.lab.other(active).name;
        let gap =
            said.lines().find_map(|l| l.strip_prefix(&format!("{other} is active; nobody served for ")));
        ensure!(gap.is_some_and(|gap| gap.ends_with(" ms") || gap.ends_with(" µs")), "no gap in: {said}");
        println!("{said}");
    }
    report("drectl switchover", demanded::SWITCHOVER, &mut outages);
    let page = pair.active()?.run(&["drectl"])?;
    println!("{page}");
    ensure!(page.contains("ACTIVE") || page.contains("active"), "{page}");
    Ok(())
}

/// To and fro, faster than systemd brings the role's units up: none of them is left failed, and they end where the role is.
#[test]
fn a_role_that_goes_while_its_units_start_leaves_none_failed() -> Result<()> {
    // Slow enough to be overtaken.
    let pair = Pair::start_with(&configuration(100, 5, ""), |root| {
        let dir = root.join("etc/systemd/system/dre-lease.service.d");
        std::fs::create_dir_all(&dir)?;
        let start = "sleep 2; exec /usr/bin/drectl lease take --unit --term-file=/run/dre-lease/term.env";
        Ok(std::fs::write(
            dir.join("slow.conf"),
            format!("[Service]\nExecStart=\nExecStart=!/bin/sh -c '{start}'\n"),
        )?)
    })?;
    for _ in 0..6 {
        pair.active()?.run(&["drectl", "switchover"])?;
        pair.settled(Duration::from_secs(20))?;
    }
    pair.active()?.wait_unit("dre-active.target", "active", Duration::from_secs(10))?;
    pair.standby()?.wait_unit("dre-standby.target", "active", Duration::from_secs(10))?;
    let ended = |n: &Node| n.journal(&["-u", "dre-lease", "_PID=1"]).unwrap_or_default();
    let told = pair.lab.nodes().map(ended).join("");
    let count = |word: &str| told.matches(&format!("{word} dre-lease.service")).count();
    let cut_short = count("Starting").saturating_sub(count("Finished"));
    println!("FIGURE roles that went while dre-lease.service started: {cut_short} of 6");
    ensure!(cut_short > 0, "no start was cut short, and nothing was shown: {told}");
    pair.audit()
}

#[test]
fn a_service_follows_the_role_and_its_client_reaches_it() -> Result<()> {
    let toml = configuration(10, 3, "active = [\"vip-web.service\"]\nboth = [\"memcached.service\"]");
    let pair = Pair::start_with(&toml, |root| web::install(root, VIP))?;
    let both = |what: &str| -> Result<()> {
        for node in pair.lab.nodes() {
            node.wait_unit("memcached.service", "active", Duration::from_secs(10))
                .map_err(|error| error.context(format!("{what}: memcached")))?;
        }
        Ok(())
    };
    both("after boot")?;
    pair.active()?.wait_unit(web::UNIT, "active", Duration::from_secs(10))?;
    let served =
        |what: &str, fault: &dyn Fn(&Node) -> Result<()>, mend: &dyn Fn(&Node) -> Result<()>| -> Result<()> {
            let active = pair.active()?;
            let visitor = Visitor::start(&pair.lab, VIP)?;
            std::thread::sleep(ms(200));
            let seen = pair.judged(ms(1500), || fault(active))?;
            let visit = visitor.stop()?;
            println!("FIGURE {what}: ping {:.1} ms, web page {:?}", outage_ms(&seen), visit.longest_gap());
            ensure!(visit.who().len() == 2, "{what}: pages came from {:?}", visit.who());
            mend(active)?;
            pair.settled(Duration::from_secs(20))?;
            pair.active()?.wait_unit(web::UNIT, "active", Duration::from_secs(10))?;
            pair.standby()?.wait_unit(web::UNIT, "inactive", Duration::from_secs(10))?;
            both(what)
        };
    served(
        "a web service through systemctl stop dre",
        &|a| a.run(&["systemctl", "stop", "dre"]).map(drop),
        &|a| a.run(&["systemctl", "start", "dre"]).map(drop),
    )?;
    served("a web service through a power loss", &|a| a.power_loss().map(drop), &Node::boot)?;

    // memcached dies and is back; it is nobody's reason to move.
    let active = pair.active()?;
    let before = active.name;
    // Time enough to see it come back.
    active.write("/etc/systemd/system/memcached.service.d/zz-slow.conf", "[Service]\nRestartSec=5s\n")?;
    active.run(&["systemctl", "daemon-reload"])?;
    let killed = active.main_pid("memcached")?;
    active.signal("memcached", libc::SIGKILL)?;
    active.wait_unit("memcached.service", "activating", Duration::from_secs(2))?;
    let shown = |wanted: &str| -> Result<()> {
        let begun = std::time::Instant::now();
        loop {
            let services = state(active)?.services;
            let seen = services.iter().find(|s| s.unit == "memcached.service").map(|s| s.state.as_str());
            if seen == Some(wanted) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < ms(10_000),
                "memcached is shown as {seen:?}, not {wanted}: {services:?}"
            );
        }
    };
    shown("activating")?;
    both("after a kill")?;
    shown("active")?;
    let back = active.main_pid("memcached")?;
    ensure!(back != killed, "memcached is the process that was killed");
    ensure!(active.run(&["systemctl", "show", "-P", "NRestarts", "memcached"])?.trim() == "1");
    ensure!(pair.active()?.name == before, "memcached moved the role");

    // The managed service fails for good: the other node takes over.
    let active = pair.active()?;
    active.sh("mv /usr/sbin/nginx /usr/sbin/nginx.gone; systemctl kill -s KILL vip-web.service")?;
    pair.lab.other(active).wait_unit(web::UNIT, "active", Duration::from_secs(20))?;
    ensure!(pair.active()?.name != before, "a failed service did not move the role");
    Ok(())
}

#[test]
fn a_reload_is_no_failover_and_a_bad_file_changes_nothing() -> Result<()> {
    let good = configuration(10, 3, "");
    let pair = Pair::start(&good)?;
    let before = pair.active()?.name;
    let seen = pair.judged(ms(500), || {
        for node in pair.lab.nodes() {
            node.write(
                "/etc/dre/dre.toml",
                good.replace("172.16.9.61/24", "172.16.9.61/24\"\n# unchanged\nlabel = \"eth1:0"),
            )?;
            node.run(&["systemctl", "reload", "dre"])?;
        }
        for node in pair.lab.nodes() {
            node.write("/etc/dre/dre.toml", good.replace("interval_ms = 10", "interval_ms = 1"))?;
            node.run(&["systemctl", "reload", "dre"])?;
        }
        Ok(())
    })?;
    println!("{}", seen.summary());
    let journals: Vec<String> = pair
        .lab
        .nodes()
        .into_iter()
        .map(|n| n.journal(&["-n40", "-o", "short-precise"]).unwrap_or_default())
        .collect();
    ensure!(pair.active()?.name == before, "a reload moved the role: {}", journals.join("\n---\n"));
    ensure!(outage_ms(&seen) < 200.0, "a reload was felt for {:.1} ms", outage_ms(&seen));
    for node in pair.lab.nodes() {
        let journal = node.journal(&["-u", "dre"])?;
        ensure!(
            journal.contains("interval_ms = 1") && journal.contains("dre.toml:"),
            "no word of the bad file: {journal}"
        );
        alive(node)?;
    }
    // The bad file does not start, and says why; systemd does not try again.
    let standby = pair.standby()?;
    let out = standby.run_for(&["systemctl", "restart", "dre"], Duration::from_secs(20))?;
    ensure!(!out.ok(), "a bad configuration started");
    let words =
        standby.sh("systemctl show -P ExecMainStatus dre; systemctl status dre --no-pager -l || true")?;
    ensure!(words.starts_with("78\n") && words.contains("interval_ms = 1"), "{words}");
    standby.write("/etc/dre/dre.toml", &good)?;
    standby.run(&["systemctl", "reset-failed"])?;
    standby.run(&["systemctl", "start", "dre"])?;
    Ok(())
}

#[test]
fn units_levels_and_preflight() -> Result<()> {
    let pair = Pair::start(&configuration(100, 5, ""))?;
    let node = pair.active()?;
    // Nothing to say about our units.
    let units = node.sh("systemd-analyze verify --man=no /usr/lib/systemd/system/dre*.service /usr/lib/systemd/system/dre*.target /usr/lib/systemd/system/dre*.socket 2>&1 || true")?;
    ensure!(units.trim().is_empty(), "systemd-analyze verify: {units}");
    for unit in ["dre.service", "dre-vip.service", "dre-lease.service"] {
        println!(
            "FIGURE exposure {}",
            node.sh(&format!("systemd-analyze security {unit} --no-pager | tail -1"))?.trim()
        );
    }
    ensure!(node.run(&["systemctl", "service-log-level", "dre"])?.trim() == "info");
    node.run(&["systemctl", "service-log-level", "dre", "debug"])?;
    ensure!(node.run(&["systemctl", "service-log-level", "dre"])?.trim() == "debug");
    node.wait_for("journalctl -u dre -p debug | grep -q 'Order(Hold'", Duration::from_secs(5))?;
    node.run(&["systemctl", "service-log-level", "dre", "info"])?;
    // journalctl -x explains.
    let explained = node.run(&["journalctl", "-x", "-u", "dre", "--no-pager"])?;
    ensure!(
        explained.contains("The README explains each rule by that name"),
        "no catalogue text: {explained}"
    );
    // Varlink, as any systemd tool speaks it.
    let called = node.run(&["varlinkctl", "call", "/run/dre/control", "io.dre.Control.Status", "{}"])?;
    ensure!(called.contains("\"role\":\"active\""), "{called}");
    ensure!(
        node.run(&["varlinkctl", "introspect", "/run/dre/control", "io.dre.Control"])?
            .contains("method Switchover")
    );
    // A caller without rights is refused in words.
    let refused = node.run_for(
        &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "drectl", "switchover"],
        Duration::from_secs(5),
    )?;
    ensure!(!refused.ok(), "nobody may switch over: {refused:?}");
    println!("{}{}", refused.stdout, refused.stderr);
    // Preflight: both nodes are ready; what is broken on purpose is found, with its remedy, and mended is ready again.
    let check = |node: &Node| node.run_for(&["drectl", "check"], Duration::from_secs(20));
    for node in pair.lab.nodes() {
        let out = check(node)?;
        println!("{}", out.stdout);
        ensure!(out.ok() && out.stdout.contains("this node is ready: 0 bad"), "{}: {out:?}", node.name);
    }
    for (harm, mend, found, remedy) in [
        (
            "sysctl -qw net.ipv4.conf.all.arp_filter=0",
            "/usr/lib/systemd/systemd-sysctl /usr/lib/sysctl.d/50-dre.conf",
            "net.ipv4.conf.all.arp_filter = 0",
            "do: sysctl --system applies /usr/lib/sysctl.d/50-dre.conf",
        ),
        (
            "chmod 0644 /etc/dre/key",
            "chmod 0600 /etc/dre/key",
            "mode 0644 lets others read the key",
            "chmod 0600",
        ),
    ] {
        node.sh(harm)?;
        let out = check(node)?;
        ensure!(out.status.and_then(|s| s.code()) == Some(75), "{harm}: {out:?}");
        ensure!(out.stdout.contains("this node is NOT ready: 1 bad"), "{harm}: {}", out.stdout);
        ensure!(out.stdout.contains(found) && out.stdout.contains(remedy), "{harm}: {}", out.stdout);
        let json = node.run_for(&["drectl", "check", "--json"], Duration::from_secs(20))?.stdout;
        let findings: serde_json::Value = serde_json::from_str(&json)?;
        let bad = findings.as_array().into_iter().flatten().filter(|f| f["level"] == "bad").count();
        ensure!(bad == 1, "{harm}: {json}");
        node.sh(mend)?;
        ensure!(check(node)?.ok(), "{mend}: {}", check(node)?.stdout);
    }
    ensure!(node.run(&["drectl", "config", "check"]).is_ok());
    pair.audit()
}

/// The role moves before anything stops: the web page's client feels a switchover, not a shutdown.
#[test]
fn a_reboot_hands_over_first() -> Result<()> {
    let toml = configuration(10, 3, "active = [\"vip-web.service\"]");
    let pair = Pair::start_with(&toml, |root| web::install(root, VIP))?;
    for _ in 0..2 {
        let active = pair.active()?;
        active.wait_unit(web::UNIT, "active", Duration::from_secs(10))?;
        let seen = pair.judged(ms(3000), || {
            active.run_for(&["systemctl", "reboot"], Duration::from_secs(10)).map(drop)
        })?;
        println!("FIGURE systemctl reboot of the active: outage {:.1} ms", outage_ms(&seen));
        ensure!(outage_ms(&seen) < 2000.0, "{}", seen.summary());
        active.wait_off(Duration::from_secs(100))?;
        active.boot()?;
        pair.settled(Duration::from_secs(20))?;
        let before = active.journal(&["-b", "-1", "-u", "dre"])?;
        ensure!(
            before.contains("the machine goes down: the role is handed over first"),
            "no word of it: {before}"
        );
    }
    Ok(())
}
