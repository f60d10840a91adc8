//! VIPs, gate and wire when the machine is not as it should be: dre-vip says so, and nothing is claimed on what it cannot know.
//! Root; see tests/lab.

mod lab;
mod product;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::node::Node;
use product::{Pair, VIP, VIP6, alarm, configuration, has, median, ms, no_alarm, outage_ms, status};

const SOON: Duration = Duration::from_secs(5);
/// A gate with nothing of ours on it: both ways.
const HOOKED: &str =
    "tc filter show dev eth1 ingress | grep -q dre-gate && tc filter show dev eth1 egress | grep -q dre-gate";

fn fast() -> Result<Pair> {
    Pair::start(&configuration(10, 3, ""))
}

/// What the kernel had to tell dre-vip and could not: drops of its own route sockets.
fn unheard(node: &Node) -> Result<u64> {
    let pid = node.main_pid("dre-vip")?;
    let inode = |fd: std::io::Result<std::fs::DirEntry>| {
        let link = std::fs::read_link(fd.ok()?.path()).ok()?;
        Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    let own: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(inode).collect();
    // sk, protocol (0: route), port, groups, two queues, dump, locks, drops, inode.
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/netlink"))?;
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours =
        rows.filter(|f| f.get(1) == Some(&"0") && f.get(9).is_some_and(|at| own.iter().any(|o| o == at)));
    Ok(ours.filter_map(|f| f.get(8)?.parse::<u64>().ok()).sum())
}

fn heals(pair: &Pair) -> Result<()> {
    pair.lab.cut_links(pair.standby()?, false)?;
    pair.settled(Duration::from_secs(20))?;
    pair.audit()
}

/// With all links cut and the peer serving, the standby's own queue takes no probe: its silence proves nothing.
#[test]
fn probes_that_did_not_go_out_prove_nothing() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    standby.run(&["tc", "qdisc", "replace", "dev", "eth1", "root", "pfifo", "limit", "0"])?;
    let seen = pair.judged(ms(1500), || pair.lab.cut_links(standby, true))?;
    ensure!(status(standby)?.starts_with("STANDBY"), "claimed: {}\n{}", seen.summary(), pair.journals());
    ensure!(seen.holders().iter().all(|t| t.who() == active.name), "{}", seen.summary());
    let text = alarm(standby, "ProbesUnsent", SOON)?;
    ensure!(text.contains("eth1"), "{text}");
    // They go out again, and are answered.
    standby.run(&["tc", "qdisc", "del", "dev", "eth1", "root"])?;
    alarm(standby, "PeerStillServes", SOON)?;
    no_alarm(standby, "ProbesUnsent", SOON)?;
    heals(&pair)
}

/// dre-vip may not open packet sockets: it cannot ask who holds the VIPs, and its node is no candidate.
#[test]
fn a_node_that_cannot_listen_to_the_wire_claims_nothing() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    let dropin = "/etc/systemd/system/dre-vip.service.d/deaf.conf";
    standby.write(dropin, "[Service]\nRestrictAddressFamilies=~AF_PACKET\n")?;
    standby.sh("systemctl daemon-reload; systemctl restart dre-vip")?;
    alarm(standby, "WireClosed", SOON)?;
    alarm(standby, "Unfit", SOON)?;
    let seen = pair.judged(ms(1500), || pair.lab.cut_links(standby, true))?;
    ensure!(status(standby)?.starts_with("STANDBY"), "claimed: {}\n{}", seen.summary(), pair.journals());
    ensure!(seen.holders().iter().all(|t| t.who() == active.name), "{}", seen.summary());
    standby.sh(&format!("rm {dropin}; systemctl daemon-reload; systemctl restart dre-vip"))?;
    no_alarm(standby, "WireClosed", SOON)?;
    heals(&pair)
}

/// Another's ingress discipline sits where the gate belongs: the node says so and is no candidate, until the place is free.
#[test]
fn a_gate_that_cannot_be_attached_is_no_gate() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    standby.run(&["systemctl", "stop", "dre"])?;
    standby.sh("tc qdisc del dev eth1 clsact; tc qdisc add dev eth1 ingress")?;
    standby.run(&["systemctl", "start", "dre"])?;
    let text = alarm(standby, "GateMissing", SOON)?;
    ensure!(text.contains("ingress discipline"), "{text}");
    alarm(standby, "Unfit", SOON)?;
    let shown = standby.run(&["drectl", "status", "--json"])?;
    ensure!(shown.contains("\"gate\":\"unguarded-shut\""), "{shown}");
    let out = active.run_for(&["drectl", "switchover"], SOON)?;
    ensure!(out.status.and_then(|s| s.code()) == Some(75), "not refused: {out:?}");
    standby.run(&["tc", "qdisc", "del", "dev", "eth1", "ingress"])?;
    no_alarm(standby, "GateMissing", SOON)?;
    standby.run(&["sh", "-c", HOOKED])?;
    pair.settled(Duration::from_secs(20))?;
    active.run(&["drectl", "switchover"])?;
    pair.settled(SOON)?;
    pair.audit()
}

/// Taken off the active by hand: back at once, and told. What is nobody's gate is nobody's alarm.
#[test]
fn a_gate_taken_off_by_hand_is_back_at_once_and_told() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    // Another's discipline comes and goes.
    standby.sh("tc qdisc add dev eth1 root pfifo; tc qdisc del dev eth1 root pfifo")?;
    let script = format!(
        "tc qdisc del dev eth1 clsact; begun=$(date +%s%N); until {HOOKED}; do :; done; echo $((($(date +%s%N) - begun) / 1000))"
    );
    let seen = pair.judged(ms(300), || {
        let mut back: Vec<f64> = vec![];
        for _ in 0..5 {
            back.push(active.sh(&script)?.trim().parse::<f64>()? / 1000.0);
        }
        let middle = median(&mut back);
        println!("FIGURE gate taken off by hand: back after {middle:.1} ms, {back:.1?}");
        ensure!(middle < 200.0, "back after {back:?} ms");
        Ok(())
    })?;
    ensure!(outage_ms(&seen) < 200.0, "felt: {}", seen.summary());
    let text = alarm(active, "GateMended", SOON)?;
    ensure!(text.contains("eth1"), "{text}");
    ensure!(active.journal(&["-u", "dre-vip"])?.contains("the gate was gone from eth1 and is back"));
    let journal = standby.journal(&["-u", "dre-vip"])?;
    ensure!(!journal.contains("the gate was gone"), "another's discipline was taken for the gate: {journal}");
    ensure!(!status(standby)?.contains("GateMended"), "{}", status(standby)?);
    pair.audit()
}

/// The word of it is lost among a thousand others: the next look finds it all the same.
#[test]
fn a_gate_whose_going_was_not_heard_is_put_back_too() -> Result<()> {
    let pair = fast()?;
    let standby = pair.standby()?;
    // Longer than the watchdog would have it, shorter than it bites.
    standby.write("/etc/systemd/system/dre-vip.service.d/slow.conf", "[Service]\nWatchdogSec=20s\n")?;
    standby.sh("systemctl daemon-reload; systemctl restart dre-vip")?;
    pair.settled(Duration::from_secs(20))?;
    let lines: String =
        (0..4000).map(|_| "addr add 10.9.9.9/32 dev lo\naddr del 10.9.9.9/32 dev lo\n").collect();
    standby.write("/tmp/flood", lines)?;
    standby.signal("dre-vip", libc::SIGSTOP)?;
    let before = unheard(standby)?;
    standby.sh("ip -batch /tmp/flood; tc qdisc del dev eth1 clsact")?;
    let lost = unheard(standby)? - before;
    standby.signal("dre-vip", libc::SIGCONT)?;
    ensure!(lost > 0, "the flood was taken in: this shows nothing");
    let after = standby.wait_for(HOOKED, Duration::from_secs(8))?;
    println!("FIGURE gate taken off unheard: back after {after:.1?}");
    pair.settled(Duration::from_secs(20))?;
    pair.audit()
}

/// What carries our tag belongs where the configuration says, and nowhere else; so does the gate.
#[test]
fn what_is_left_on_another_interface_goes() -> Result<()> {
    let toml = configuration(10, 3, "");
    let pair = Pair::start(&toml)?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    standby.sh(&format!("ip addr add {VIP}/32 dev eth2 proto 215"))?;
    let gone = format!("! ip -o addr show dev eth2 | grep -q ' {VIP}/'");
    let after = standby.wait_for(&gone, SOON)?;
    println!("FIGURE tagged VIP on another interface: gone after {after:.1?}");

    // The file changes, the daemons are killed, and start again with the VIPs on eth2. (For dre-elect of both nodes another
    // address of that network: nothing is double.)
    ensure!(has(active, "eth1", VIP)?);
    active.write("/etc/dre/dre.toml", toml.replace("\"eth1\"", "\"eth2\""))?;
    active.signal_all(&["dre", "dre-vip"], libc::SIGKILL)?;
    active.wait_for(&format!("! ip -o addr show dev eth1 | grep -q -e ' {VIP}/' -e ' {VIP6}/'"), SOON)?;
    active.wait_for("! tc filter show dev eth1 ingress | grep -q dre-gate", SOON)?;
    active.wait_for("! tc filter show dev eth1 egress | grep -q dre-gate", SOON)?;
    active.wait_for("tc filter show dev eth2 egress | grep -q dre-gate", SOON)?;
    active.write("/etc/dre/dre.toml", &toml)?;
    active.run(&["systemctl", "reload", "dre"])?;
    active.wait_for(HOOKED, SOON)?;
    active.wait_for("! tc filter show dev eth2 egress | grep -q dre-gate", SOON)?;
    pair.settled(Duration::from_secs(20))?;
    pair.audit()
}

/// The kernel refuses one of the VIPs on the active: told, tried again, and given to the peer, where it stays.
#[test]
fn a_vip_that_cannot_be_held_moves_the_role_once() -> Result<()> {
    let pair = fast()?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    let seen = pair.judged(ms(6000), || {
        active.run(&["sysctl", "-q", "-w", "net.ipv6.conf.eth1.disable_ipv6=1"])?;
        let text = alarm(active, "VipFailed", SOON)?;
        ensure!(text.contains(VIP6), "{text}");
        standby.wait_for("systemctl show -P StatusText dre | grep -q '^ACTIVE.*VIPs 2/2'", SOON).map(drop)
    })?;
    let who: Vec<_> = seen.holders().iter().map(|t| t.who()).collect();
    ensure!(who == [active.name, standby.name], "to and fro: {}", seen.summary());
    println!("FIGURE a VIP that cannot be held, the other moves with it: outage {:.1} ms", outage_ms(&seen));
    ensure!(outage_ms(&seen) < 1000.0, "{}", seen.summary());
    let text = alarm(active, "Unfit", SOON)?;
    ensure!(text.contains(VIP6), "{text}");
    // A few tries a second at first, then ever fewer: no storm.
    let tries = active.journal(&["-u", "dre-vip"])?.matches("cannot be set").count();
    ensure!(tries < 20, "{tries} entries");
    active.run(&["sysctl", "-q", "-w", "net.ipv6.conf.eth1.disable_ipv6=0"])?;
    let own = if active.name == "hadev1" { "2001:db8:9::54/64" } else { "2001:db8:9::55/64" };
    active.run(&["ip", "addr", "add", own, "dev", "eth1", "nodad"])?;
    // It is remembered for half a minute.
    pair.settled(Duration::from_secs(45))?;
    no_alarm(active, "VipFailed", SOON)?;
    active.run(&["sysctl", "-q", "net.ipv6.conf.eth1.disable_ipv6"])?;
    standby.run(&["drectl", "switchover"])?;
    pair.settled(SOON)?;
    pair.audit()
}

/// The arbitrator's host routes: set, removed by hand, set again, in both families; what keeps them away is an alarm.
#[test]
fn host_routes_to_the_arbitrator_are_kept() -> Result<()> {
    let (v4, v6) = ("172.16.8.250", "2001:db8:8::250");
    let toml = configuration(100, 5, "").replace(&format!("[\"{v4}\"]"), &format!("[\"{v4}\", \"{v6}\"]"));
    ensure!(toml.contains(v6), "the example has changed");
    let pair = Pair::start(&toml)?;
    let node = pair.standby()?;
    let there = |ip: &str| {
        format!(
            "ip route get {ip} >/dev/null; ip -4 route show proto 215; ip -6 route show proto 215; (ip -4 route show proto 215; ip -6 route show proto 215) | grep -q '^{ip} '"
        )
    };
    for ip in [v4, v6] {
        node.wait_for(&there(ip), SOON)?;
        let family = if ip == v4 { "-4" } else { "-6" };
        let mut back = vec![];
        for _ in 0..3 {
            node.run(&["ip", family, "route", "del", ip, "dev", "eth0"])?;
            back.push(node.wait_for(&there(ip), SOON)?.as_secs_f64() * 1e3);
        }
        let middle = median(&mut back);
        println!("FIGURE host route to {ip} removed by hand: back after {middle:.0} ms");
        ensure!(middle < 1000.0, "only the next look brought it back: {back:?} ms");
    }
    node.run(&["ip", "link", "set", "eth0", "down"])?;
    let text = alarm(node, "ArbitratorRoute", SOON)?;
    ensure!(text.contains(v4) && text.contains(v6), "one hides the other: {text}");
    node.run(&["ip", "link", "set", "eth0", "up"])?;
    no_alarm(node, "ArbitratorRoute", SOON)?;
    node.wait_for(&there(v4), SOON)?;
    // Of an earlier configuration: gone after a reload.
    let other = toml.replace(&format!("[\"{v4}\", \"{v6}\"]"), "[\"172.16.8.250\"]");
    for node in pair.lab.nodes() {
        node.write("/etc/dre/dre.toml", &other)?;
        node.run(&["systemctl", "reload", "dre"])?;
    }
    node.wait_for(&format!("! ip -6 route show proto 215 | grep -q '^{v6} '"), SOON)?;
    node.wait_for(&there(v4), SOON)?;
    pair.audit()
}

/// A file that dre-elect refuses changes nothing in dre-vip either, and neither goes ahead of the other.
#[test]
fn both_daemons_take_up_a_file_or_neither() -> Result<()> {
    let good = configuration(10, 3, "");
    let pair = Pair::start(&good)?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    // The VIPs on a heartbeat's interface: holds by itself, and not on this machine.
    let bad = good.replace("\"eth1\"", "\"eth3\"");
    let seen = pair.judged(ms(1500), || {
        for node in pair.lab.nodes() {
            node.write("/etc/dre/dre.toml", &bad)?;
            node.run(&["systemctl", "reload", "dre"])?;
            alarm(node, "ConfigRejected", SOON)?;
        }
        Ok(())
    })?;
    ensure!(outage_ms(&seen) < 200.0, "felt: {}\n{}", seen.summary(), pair.journals());
    ensure!(pair.active()?.name == active.name, "the role moved");
    ensure!(has(active, "eth1", VIP)? && !has(active, "eth3", VIP)?, "the VIP moved");
    for node in pair.lab.nodes() {
        for unit in ["dre", "dre-vip"] {
            let journal = node.journal(&["-u", unit])?;
            ensure!(journal.contains("which carries heartbeat link"), "{unit}: no word of it: {journal}");
        }
        let text = alarm(node, "ConfigRejected", SOON)?;
        ensure!(text.contains("eth3"), "{text}");
        node.write("/etc/dre/dre.toml", &good)?;
        node.run(&["systemctl", "reload", "dre"])?;
        no_alarm(node, "ConfigRejected", SOON)?;
    }
    // A good one, and dre-vip alone is told to read it.
    let moved = good.replace("172.16.9.61/24", "172.16.9.63/24");
    for node in pair.lab.nodes() {
        node.write("/etc/dre/dre.toml", &moved)?;
        node.run(&["systemctl", "reload", "dre-vip"])?;
        alarm(node, "ConfigRejected", SOON)?;
    }
    ensure!(has(active, "eth1", VIP)? && !has(active, "eth1", "172.16.9.63")?, "dre-vip went ahead");
    let begun = Instant::now();
    for node in [standby, active] {
        node.run(&["systemctl", "reload", "dre"])?;
        no_alarm(node, "ConfigRejected", SOON)?;
    }
    active.wait_for("ip -o addr show dev eth1 | grep -q ' 172.16.9.63/'", SOON)?;
    println!("FIGURE a VIP replaced by a reload of both nodes: {:.0?}", begun.elapsed());
    ensure!(!has(active, "eth1", VIP)?, "the old one stayed");
    pair.settled(SOON)?;
    ensure!(pair.active()?.name == active.name, "the role moved");
    pair.audit()
}

/// Two that find the wire quiet at the same moment, without a word from each other: the one that is not first defers to the
/// other's probes, or both would claim within a millisecond.
#[test]
fn of_two_that_probe_at_once_one_defers() -> Result<()> {
    let pair = fast()?;
    pair.lab.cut_links(&pair.lab.hadev1, true)?;
    for round in 0..6 {
        // The standby first: a node that is just taking over asks systemd for the role's target, which needs dre.service, and of two
        // jobs that exclude each other the later one stands.
        for node in [pair.standby()?, pair.active()?] {
            node.run(&["systemctl", "stop", "dre"])?;
        }
        pair.lab.outside("stranger", &["ip", "addr", "add", "172.16.9.61/24", "dev", "eth1"])?;
        for node in pair.lab.nodes() {
            node.run(&["systemctl", "start", "dre"])?;
            alarm(node, "PeerStillServes", Duration::from_secs(10))?;
        }
        // What both waited for ends for both at once.
        let seen = pair.judged(ms(800), || {
            pair.lab.outside("stranger", &["ip", "addr", "del", "172.16.9.61/24", "dev", "eth1"]).map(drop)
        })?;
        let words: Vec<String> =
            pair.lab.nodes().into_iter().map(|n| status(n).unwrap_or_default()).collect();
        ensure!(
            words[0].starts_with("ACTIVE") && words[1].starts_with("STANDBY"),
            "round {round}: {words:?}: {}\n{}",
            seen.summary(),
            pair.journals()
        );
    }
    Ok(())
}

/// The one that goes first may not claim, cut off from the arbitrator: the other does not wait for its probes to end for ever.
#[test]
fn nobody_defers_to_a_node_that_may_not_claim() -> Result<()> {
    let pair = fast()?;
    let (first, other) = (&pair.lab.hadev1, &pair.lab.hadev2);
    if pair.active()?.name != first.name {
        other.run(&["drectl", "switchover"])?;
        pair.settled(SOON)?;
    }
    let seen = pair.judged(ms(1500), || {
        pair.lab.net.silent(first.name, "eth0", true)?;
        pair.lab.cut_links(first, true)
    })?;
    println!("FIGURE links and arbitrator cut at the first: outage {:.1} ms", outage_ms(&seen));
    ensure!(seen.holder().is_some_and(|t| t.who() == other.name), "{}\n{}", seen.summary(), pair.journals());
    ensure!(outage_ms(&seen) < 620.0, "4 D + 500 ms: {}", seen.summary());
    pair.lab.net.silent(first.name, "eth0", false)?;
    heals(&pair)
}
