//! Hands that should not be there, buses that are gone, strangers on the wire, nodes that disagree. Root; see tests/lab.

mod lab;
mod product;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::node::Node;
use product::{Pair, VIP, alarm, configuration, has, ms, no_alarm, outage_ms, status};

const SOON: Duration = Duration::from_secs(5);

fn fast() -> Result<Pair> {
    Pair::start(&configuration(10, 3, ""))
}

#[test]
fn vips_and_gate_put_right() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    let before = active.name;

    let seen = pair
        .judged(ms(300), || active.run(&["ip", "addr", "del", "172.16.9.61/32", "dev", "eth1"]).map(drop))?;
    println!("FIGURE VIP removed by hand: outage {:.1} ms", outage_ms(&seen));
    ensure!(has(active, "eth1", VIP)? && outage_ms(&seen) < 500.0, "not brought back: {}", seen.summary());

    let seen = pair
        .judged(ms(300), || standby.run(&["ip", "addr", "add", "172.16.9.61/32", "dev", "eth1"]).map(drop))?;
    ensure!(!has(standby, "eth1", VIP)?, "a VIP added by hand stayed on the standby");
    ensure!(seen.holders().iter().all(|t| t.who() == before), "the standby answered: {}", seen.summary());

    active.run(&["tc", "qdisc", "del", "dev", "eth1", "clsact"])?;
    active.wait_for("tc filter show dev eth1 ingress | grep -q dre-gate && tc filter show dev eth1 egress | grep -q dre-gate", SOON)?;
    // It is the gate that works: frozen, the kernel falls silent at the lease's end.
    let seen = pair.judged(ms(300), || {
        active.freeze()?;
        std::thread::sleep(ms(1000));
        active.thaw().map(drop)
    })?;
    println!("FIGURE frozen after the gate was put back: outage {:.1} ms", outage_ms(&seen));
    ensure!(
        seen.holder().is_some_and(|t| t.who() != before),
        "its kernel went on answering: {}",
        seen.summary()
    );
    pair.settled(Duration::from_secs(20))?;
    pair.audit()
}

#[test]
fn a_crash_leaves_no_orphan() -> Result<()> {
    let pair = fast()?;
    let active = pair.active()?;
    let seen = pair.judged(ms(1000), || active.signal_all(&["dre", "dre-vip"], libc::SIGKILL).map(drop))?;
    println!("{}", seen.summary());
    pair.settled(Duration::from_secs(20))?;
    // One process at a time too, and with the role's units up: the pair is one again within moments, not when somebody's patience ends.
    for unit in ["dre", "dre-vip"] {
        let active = pair.active()?;
        active.wait_unit("dre-active.target", "active", SOON)?;
        active.signal(unit, libc::SIGKILL)?;
        let killed = Instant::now();
        std::thread::sleep(ms(100));
        pair.settled(Duration::from_secs(20))?;
        let whole = killed.elapsed();
        println!("FIGURE SIGKILL of {unit}: the pair is whole again after {whole:.1?}");
        ensure!(whole < Duration::from_secs(5), "whole again only after {whole:?}: {}", pair.journals());
    }
    let standby = pair.standby()?;
    ensure!(!has(standby, "eth1", VIP)?, "an orphan on {}", standby.name);
    ensure!(!has(standby, "eth1", product::VIP6)?, "an IPv6 orphan on {}", standby.name);
    // A clean stop takes the programs off too.
    standby.run(&["systemctl", "stop", "dre"])?;
    ensure!(
        !standby.run(&["tc", "filter", "show", "dev", "eth1", "ingress"])?.contains("dre-gate"),
        "the gate was left"
    );
    Ok(())
}

/// The VIP moves without D-Bus, polkit and the journal; the targets follow when the bus is back.
#[test]
fn without_a_bus_the_vip_moves_all_the_same() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    standby.sh("systemctl stop polkit dbus.socket dbus.service systemd-journald.socket systemd-journald-dev-log.socket systemd-journald 2>/dev/null; true")?;
    // Whoever speaks to a socket that is left would start them again.
    let gone =
        "! systemctl -q is-active dbus.service dbus.socket systemd-journald.service systemd-journald.socket";
    standby.sh(gone)?;
    let seen = pair.judged(ms(1500), || active.power_loss().map(drop))?;
    standby.sh(gone)?;
    println!("FIGURE power loss without D-Bus and journald: outage {:.1} ms", outage_ms(&seen));
    ensure!(seen.holder().is_some_and(|t| t.who() == standby.name), "nobody took over: {}", seen.summary());
    ensure!(outage_ms(&seen) < 1000.0, "{}", seen.summary());
    standby.sh(
        "systemctl start systemd-journald dbus.socket dbus.service polkit; systemctl reset-failed; true",
    )?;
    standby.wait_unit("dre-active.target", "active", Duration::from_secs(15))?;
    Ok(())
}

/// The bus is there and does not answer; journald takes nothing. Neither holds a role up.
#[test]
fn a_bus_or_a_journal_that_hangs_delays_no_handover() -> Result<()> {
    // Who has the role is looked at often: D = 100 ms, so that a machine that stands still for 30 ms does not move it in between.
    let toml = configuration(20, 5, "active = [\"vip-web.service\"]");
    let pair = Pair::start_with(&toml, |root| lab::web::install(root, VIP))?;
    let (first, second) = (pair.active()?, pair.standby()?);
    first.wait_unit("dre-active.target", "active", SOON)?;
    first.signal("dbus", libc::SIGSTOP)?;
    // It hangs in the very moment in which it is needed.
    let seen = pair.judged(ms(3000), || first.run_for(&["drectl", "switchover"], SOON).map(drop))?;
    println!("FIGURE switchover while D-Bus hangs: outage {:.0} ms", outage_ms(&seen));
    ensure!(seen.holder().is_some_and(|t| t.who() == second.name), "nobody took over: {}", seen.summary());
    ensure!(outage_ms(&seen) < 2500.0, "{}", seen.summary());
    alarm(first, "SystemdSilent", SOON)?;
    // Known by now: nothing waits for it.
    let seen = pair.judged(ms(500), || second.run_for(&["drectl", "switchover"], SOON).map(drop))?;
    ensure!(outage_ms(&seen) < 500.0 && pair.active()?.name == first.name, "{}", seen.summary());
    let seen = pair.judged(ms(500), || first.run_for(&["drectl", "switchover"], SOON).map(drop))?;
    println!("FIGURE switchover while D-Bus has been hanging for a while: outage {:.0} ms", outage_ms(&seen));
    ensure!(outage_ms(&seen) < 500.0 && pair.active()?.name == second.name, "{}", seen.summary());
    first.signal("dbus", libc::SIGCONT)?;
    first.wait_unit("dre-standby.target", "active", Duration::from_secs(10))?;
    first.wait_unit(lab::web::UNIT, "inactive", SOON)?;
    second.wait_unit(lab::web::UNIT, "active", SOON)?;
    no_alarm(first, "SystemdSilent", SOON)?;
    pair.settled(SOON)?;

    for node in pair.lab.nodes() {
        node.signal("systemd-journald", libc::SIGSTOP)?;
    }
    let seen = pair.judged(ms(1000), || second.run_for(&["drectl", "switchover"], SOON).map(drop))?;
    println!("FIGURE switchover while journald hangs: outage {:.0} ms", outage_ms(&seen));
    ensure!(outage_ms(&seen) < 500.0 && pair.active()?.name == first.name, "{}", seen.summary());
    for node in pair.lab.nodes() {
        node.signal("systemd-journald", libc::SIGCONT)?;
    }
    pair.settled(SOON)?;

    // A journald that starts with a new socket is written to.
    first.sh("systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald; rm -f /run/systemd/journal/socket; systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald")?;
    let since = first.sh("date +@%s")?;
    std::thread::sleep(ms(1000));
    first.run(&["drectl", "switchover"])?;
    let told = format!("journalctl -t dre-elect --since {} | grep -q 'RELEASING: Switchover'", since.trim());
    first.wait_for(&told, SOON)?;
    Ok(())
}

#[test]
fn systemd_itself_reloads_and_re_executes_unnoticed() -> Result<()> {
    let pair = fast()?;
    let before = pair.active()?.name;
    for verb in ["daemon-reload", "daemon-reexec"] {
        let seen = pair.judged(ms(500), || {
            for node in pair.lab.nodes() {
                node.run(&["systemctl", verb])?;
            }
            Ok(())
        })?;
        println!("FIGURE {verb}: outage {:.1} ms", outage_ms(&seen));
        ensure!(pair.active()?.name == before && outage_ms(&seen) < 200.0, "{verb}: {}", seen.summary());
    }
    pair.settled(SOON)?;
    pair.audit()
}

#[test]
fn nodes_that_differ_say_in_what_and_refuse_to_switch() -> Result<()> {
    let toml = configuration(10, 3, "");
    let pair = Pair::start(&toml)?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    standby.write("/etc/dre/dre.toml", toml.replace("172.16.9.61/24", "172.16.9.63/24"))?;
    standby.run(&["systemctl", "reload", "dre"])?;
    for node in pair.lab.nodes() {
        alarm(node, "ConfigDiffers", SOON)?;
        let page = node.run(&["drectl"])?;
        ensure!(page.contains("[[vip]]"), "{}: the difference is not named: {page}", node.name);
    }
    let out = active.run_for(&["drectl", "switchover"], SOON)?;
    ensure!(out.status.and_then(|s| s.code()) == Some(75), "not refused: {out:?}");
    ensure!((out.stdout.clone() + &out.stderr).contains("[[vip]]"), "{out:?}");
    ensure!(pair.active()?.name == active.name);
    Ok(())
}

/// Another key: the peer is not heard, the reason is named, and nobody claims while the VIP answers.
#[test]
fn another_key_is_named_and_nobody_claims() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    let before = active.name;
    let seen = pair.judged(ms(3500), || {
        standby.sh("head -c32 /dev/urandom | base64 > /etc/dre/key && systemctl restart dre")?;
        alarm(standby, "PeerStrange", Duration::from_secs(10)).map(drop)
    })?;
    ensure!(seen.holders().iter().all(|t| t.who() == before), "{}", seen.summary());
    let words = status(standby)?;
    ensure!(words.starts_with("STANDBY") && words.contains("PeerStillServes"), "{words}");
    ensure!(standby.run(&["drectl"])?.contains("another key"), "the reason is not named");
    Ok(())
}

/// A stranger has the VIP: before a claim nobody takes it; the alarm has the MAC.
#[test]
fn a_stranger_on_the_wire_is_not_doubled() -> Result<()> {
    let pair = fast()?;
    for node in pair.lab.nodes() {
        node.run(&["systemctl", "stop", "dre"])?;
    }
    pair.lab.outside("stranger", &["ip", "addr", "add", "172.16.9.61/24", "dev", "eth1"])?;
    let node = &pair.lab.hadev1;
    node.run(&["systemctl", "start", "dre"])?;
    alarm(node, "PeerStillServes", Duration::from_secs(10))?;
    ensure!(status(node)?.starts_with("STANDBY"), "{}", status(node)?);
    pair.lab.outside("stranger", &["ip", "addr", "del", "172.16.9.61/24", "dev", "eth1"])?;
    node.wait_for("systemctl show -P StatusText dre | grep -q ^ACTIVE", Duration::from_secs(10))?;
    Ok(())
}

/// systemd cannot start the lease's unit on one node: the role does not stay there without its services.
#[test]
fn a_node_whose_systemd_cannot_start_the_role_gives_it_back() -> Result<()> {
    let toml = configuration(10, 3, "active = [\"vip-web.service\"]");
    let pair = Pair::start_with(&toml, |root| lab::web::install(root, VIP))?;
    let (good, broken) = (pair.active()?, pair.standby()?);
    // Not at once: a role that goes and comes back within 50 ms is to the judge as if both had answered.
    broken.write(
        "/etc/systemd/system/dre-lease.service.d/90-lab.conf",
        "[Service]\nExecStartPre=sleep 0.2\n",
    )?;
    broken.sh("systemctl daemon-reload; chmod a-x /usr/bin/drectl")?;
    let seen = pair.judged(ms(3000), || good.run_for(&["drectl", "switchover"], SOON).map(drop))?;
    println!("FIGURE switchover to a node that cannot serve, and back: outage {:.1} ms", outage_ms(&seen));
    // To be asked by the same command.
    broken.sh("chmod a+x /usr/bin/drectl")?;
    alarm(broken, "Unfit", SOON).map_err(|error| error.context(pair.journals()))?;
    ensure!(pair.active()?.name == good.name, "{}", seen.summary());
    good.wait_unit(lab::web::UNIT, "active", SOON)?;
    let journal = broken.journal(&["-u", "dre"])?;
    ensure!(journal.contains("dre-active.target was not reached"), "{journal}");
    Ok(())
}

/// The role went away and came back while systemd could not be asked: its units are of the new term all the same, and an
/// operator's stop is heard.
#[test]
fn a_role_that_came_back_meanwhile_is_a_new_one_for_systemd() -> Result<()> {
    let pair = fast()?;
    let (first, second) = (pair.active()?, pair.standby()?);
    first.wait_unit("dre-active.target", "active", SOON)?;
    let invocation = |n: &Node| n.run(&["systemctl", "show", "-P", "InvocationID", "dre-lease.service"]);
    // The second time polkit is late, and systemd refuses everything until it is there.
    for late in [false, true] {
        let before = invocation(first)?;
        first.run(&["systemctl", "stop", "dbus.socket", "dbus.service"])?;
        for node in [first, second] {
            node.run(&["drectl", "switchover"]).map_err(|error| error.context(pair.journals()))?;
            pair.settled(SOON)?;
        }
        ensure!(pair.active()?.name == first.name && invocation(first)? == before, "the bus was not away");
        if late {
            first.run(&["systemctl", "mask", "--runtime", "--now", "polkit.service"])?;
        }
        first.run(&["systemctl", "start", "dbus.socket", "dbus.service"])?;
        if late {
            no_alarm(first, "SystemdSilent", SOON)?;
            std::thread::sleep(ms(1000));
            ensure!(invocation(first)? == before, "polkit was not away");
            first.run(&["systemctl", "unmask", "--runtime", "polkit.service"])?;
        }
        let took = first.wait_for(
            &format!(
                "test \"$(systemctl show -P InvocationID dre-lease.service)\" != {} && systemctl is-active -q dre-active.target",
                before.trim()
            ),
            SOON,
        )?;
        println!(
            "FIGURE systemd follows {:.0} ms after the bus is back (polkit late: {late})",
            took.as_secs_f64() * 1e3
        );
        ensure!(pair.active()?.name == first.name, "{}", pair.journals());
    }
    first.run(&["systemctl", "start", "dre-standby.target"])?;
    pair.settled(SOON)?;
    ensure!(pair.active()?.name == second.name, "the operator's stop was not heard: {}", pair.journals());
    pair.audit()
}

/// systemd-networkd takes the service interface over and is restarted: it knows nothing of VIPs, and clients do not notice.
#[test]
fn networkd_prunes_no_vip() -> Result<()> {
    let pair = fast()?;
    let active = pair.active()?;
    let (v4, v6) = if active.name == "hadev1" { ("54", "54") } else { ("55", "55") };
    active.write(
        "/etc/systemd/network/10-eth1.network",
        format!(
            "[Match]\nName=eth1\n[Network]\nAddress=172.16.9.{v4}/24\nAddress=2001:db8:9::{v6}/64\nIPv6AcceptRA=no\n"
        ),
    )?;
    let seen = pair.judged(ms(1500), || {
        active.run(&["systemctl", "start", "systemd-networkd"])?;
        active.wait_for("networkctl --no-legend list eth1 | grep -q -E 'configured|configuring'", SOON)?;
        active.run(&["systemctl", "restart", "systemd-networkd"]).map(drop)
    })?;
    println!("FIGURE systemd-networkd started and restarted: outage {:.1} ms", outage_ms(&seen));
    ensure!(has(active, "eth1", VIP)? && outage_ms(&seen) < 500.0, "{}\n{}", seen.summary(), pair.journals());
    pair.settled(SOON)?;
    ensure!(pair.active()?.name == active.name, "the role moved");
    Ok(())
}

/// The kernel refuses BPF: the addresses expire by themselves instead, in seconds and not in milliseconds. It is said, and
/// there are never two all the same: a frozen node's kernel goes on answering, and the other sees it on the wire.
#[test]
fn without_bpf_addresses_expire() -> Result<()> {
    let pair = Pair::start_with(&configuration(100, 5, ""), |root| {
        let dir = root.join("etc/systemd/system/dre-vip.service.d");
        std::fs::create_dir_all(&dir)?;
        Ok(std::fs::write(dir.join("no-bpf.conf"), "[Service]\nSystemCallFilter=~bpf\n")?)
    })?;
    type Harm = fn(&Node) -> Result<()>;
    let faults: [(&str, Harm); 3] = [
        ("drectl switchover", |a| a.run(&["drectl", "switchover"]).map(drop)),
        ("SIGKILL of both daemons", |a| a.signal_all(&["dre", "dre-vip"], libc::SIGKILL).map(drop)),
        ("frozen for 5 s", |a| {
            a.freeze()?;
            std::thread::sleep(ms(5000));
            a.thaw().map(drop)
        }),
    ];
    for (case, fault) in faults {
        let active = pair.active()?;
        alarm(active, "GateWeak", SOON)?;
        let shown = active.sh("ip -4 addr show dev eth1 | grep -A1 172.16.9.61/")?;
        ensure!(shown.contains("sec") && !shown.contains("valid_lft forever"), "no lifetime: {shown}");
        let seen = pair.judged(ms(4000), || fault(active))?;
        println!("FIGURE without BPF, {case}: outage {:.0} ms", outage_ms(&seen));
        ensure!(outage_ms(&seen) < 6000.0, "{}", seen.summary());
        pair.settled(Duration::from_secs(20))?;
    }
    ensure!(pair.standby()?.run(&["drectl"])?.contains("GateWeak"));
    Ok(())
}
