//! Two virtual machines with Debian's kernel: TIPC, bonding, netem. Root; see tests/lab.
//!
//! Emulated, so slow: what is compared ran in the same machines, and bounds are far away from the figures.

mod lab;
mod product;

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dre::logic::time::Moment;
use lab::judge::Verdict;
use lab::net;
use lab::sys;
use lab::vm::{Vm, VmLab};
use product::{VIP, VIP6, ms, outage_ms};

const SOON: Duration = Duration::from_secs(60);

/// The running example of the requirements, over TIPC or UDP, the VIPs on `interface`.
fn configuration(transport: &str, interface: &str) -> String {
    format!(
        r#"
[nodes.hadev1]
tipc = "1.1.23"
links = {{ primary = "172.16.11.54", secondary = "172.16.13.54" }}
[nodes.hadev2]
tipc = "1.1.29"
links = {{ primary = "172.16.11.55", secondary = "172.16.13.55" }}
[heartbeat]
transport = "{transport}"
interval_ms = 100
missed_max = 5
[heartbeat.tipc]
network_id = 1983
bearers = {{ primary = "eth3", secondary = "eth4" }}
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{VIP}/24"
interface = "{interface}"
[[vip]]
address = "{VIP6}/64"
interface = "{interface}"
"#
    )
}

struct Machines {
    lab: VmLab,
}

fn status(vm: &Vm) -> Result<String> {
    Ok(vm.run(&["systemctl", "show", "-P", "StatusText", "dre.service"])?.trim().to_owned())
}

impl Machines {
    fn start(toml: &str, more: impl Fn(&std::path::Path) -> Result<()>) -> Result<Self> {
        let install: lab::Install<'_> = Box::new(|root| {
            product::install(root, toml)?;
            more(root)
        });
        let pair = Self { lab: VmLab::start(&install)? };
        pair.settled()?;
        Ok(pair)
    }

    /// Waits until both agree; who is active, who standby.
    fn settled(&self) -> Result<(&Vm, &Vm)> {
        let begun = Instant::now();
        loop {
            let words: Vec<String> =
                self.lab.machines().into_iter().map(|m| status(m).unwrap_or_default()).collect();
            for (n, word) in words.iter().enumerate() {
                let other = &words[1 - n];
                if word.starts_with("ACTIVE")
                    && word.contains("VIPs 2/2")
                    && word.contains("STANDBY")
                    && other.starts_with("STANDBY")
                    && other.contains("ACTIVE")
                    && !words.iter().any(|w| w.contains("ALARM"))
                {
                    return Ok((self.lab.machines()[n], self.lab.machines()[1 - n]));
                }
            }
            if begun.elapsed() > SOON {
                bail!("no agreement within {SOON:?}: {words:?}\n{}", self.journals());
            }
            thread::sleep(ms(200));
        }
    }

    fn journals(&self) -> String {
        let last = |vm: &Vm| {
            let args = ["-n60", "-u", "dre", "-u", "dre-vip", "-u", "dre-tipc", "-u", "dre-lease"];
            vm.journal(&args).unwrap_or_else(|error| format!("{error:#}"))
        };
        self.lab.machines().map(last).join("\n----\n")
    }

    /// Watches the VIP meanwhile; two at once fail the run, always.
    fn judged(&self, after: Duration, fault: impl FnOnce() -> Result<()>) -> Result<Verdict> {
        let judge = self.lab.judge(VIP)?;
        thread::sleep(ms(300));
        let done = fault();
        thread::sleep(after);
        let seen = judge.stop()?;
        done?;
        let two = seen.two_at_once();
        ensure!(two.is_empty(), "two answered at once: {two:?}; {}", seen.summary());
        Ok(seen)
    }

    /// The role goes to the other; nobody holds it for `outage` ms.
    fn moved(&self, case: &str, seen: &Verdict, to: &Vm, bound: Duration) -> Result<()> {
        println!("FIGURE VM, {case}: outage {:.0} ms", outage_ms(seen));
        ensure!(
            seen.holder().is_some_and(|t| t.who() == to.name) && outage_ms(seen) < bound.as_secs_f64() * 1e3,
            "{case}: {}\n{}",
            seen.summary(),
            self.journals()
        );
        Ok(())
    }

    /// Roles and VIPs did not move.
    fn stayed(&self, case: &str, seen: &Verdict, with: &Vm) -> Result<()> {
        println!("FIGURE VM, {case}: outage {:.0} ms", outage_ms(seen));
        ensure!(
            seen.holders().iter().all(|t| t.who() == with.name) && status(with)?.starts_with("ACTIVE"),
            "{case}: {}\n{}",
            seen.summary(),
            self.journals()
        );
        Ok(())
    }
}

/// Waits for an alarm in `drectl status`; how long that took.
fn alarm(vm: &Vm, name: &str) -> Result<Duration> {
    vm.wait_for(&format!("drectl status --json | grep -q '\"name\":\"{name}\"'"), SOON)
}

/// When, and how each frame begins.
type Frames = Vec<(Moment, Vec<u8>)>;

/// Kills the active's election process and watches the wire: from the datagram that leaves just before the kill to the first
/// probe of the peer for the VIP, all on one clock, the host's.
fn noticed(pair: &Machines, active: &Vm, standby: &Vm) -> Result<Duration> {
    let stop = Arc::new(AtomicBool::new(false));
    let watch = |ns: String, interface: &'static str| {
        let stop = Arc::clone(&stop);
        thread::spawn(move || -> Result<Frames> {
            sys::enter_netns(&ns)?;
            let socket = sys::frame_socket(interface)?;
            let (mut seen, mut buffer) = (vec![], [0; 2048]);
            while !stop.load(Ordering::Relaxed) {
                sys::wait(&[(socket.as_raw_fd(), libc::POLLIN)], ms(20));
                let stamps = sys::Stamps::compare();
                while let Some((len, at)) = sys::receive(&socket, &mut buffer, stamps) {
                    seen.push((at, buffer[..len.min(64)].to_vec()));
                }
            }
            Ok(seen)
        })
    };
    let marks = watch(pair.lab.net.ns("arbitrator"), "eth0");
    let probes = watch(pair.lab.net.ns("client"), "eth1");
    thread::sleep(ms(200));
    // The shell's own kill: no program is started between the two.
    let script = "pid=$(systemctl show -P MainPID dre); exec 3<>/dev/udp/172.16.8.250/9; printf 'dre-kill' >&3; kill -9 $pid";
    active.run(&["bash", "-c", script])?;
    thread::sleep(ms(3000));
    stop.store(true, Ordering::Relaxed);
    let frames = |watch: thread::JoinHandle<Result<Frames>>| {
        watch.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?
    };
    let marks = frames(marks)?;
    let killed = marks.iter().find(|(_, f)| f.windows(8).any(|w| w == b"dre-kill")).context("no mark")?.0;
    let mac = net::mac(standby.name, 1);
    let is_probe = |f: &[u8]| f.len() >= 42 && f[6..12] == mac && f[12..14] == [8, 6] && f[28..32] == [0; 4];
    let probes = frames(probes)?;
    let first = probes.iter().find(|(at, f)| *at >= killed && is_probe(f));
    Ok(first.with_context(|| format!("no probe: {}", pair.journals()))?.0.since(killed))
}

#[test]
fn tipc_through_every_fault() -> Result<()> {
    let pair = Machines::start(&configuration("tipc", "eth1"), |_| Ok(()))?;
    let (active, standby) = pair.settled()?;
    println!("{}", active.run(&["drectl"])?);
    println!("{}", active.sh("/usr/lib/dre/dre-tipc show; systemctl status --no-pager dre-tipc | head -20; tipc link list; tipc nametable show | head -20")?);

    // What containers cannot show: memory locked, real-time turns.
    for unit in ["dre", "dre-vip"] {
        let journal = active.journal(&["-u", unit])?;
        ensure!(
            !journal.contains("memory is not locked") && !journal.contains("no real-time"),
            "{unit}: {journal}"
        );
    }

    // Switchover.
    let seen = pair.judged(ms(1000), || active.run(&["drectl", "switchover"]).map(drop))?;
    pair.moved("drectl switchover", &seen, standby, ms(3000))?;
    let (active, standby) = pair.settled()?;

    // The election process killed: the kernel tells the peer at once; the claim waits for D.
    let mut delays = vec![];
    for _ in 0..3 {
        let (active, standby) = pair.settled()?;
        let mut delay = Duration::ZERO;
        let seen = pair.judged(ms(500), || {
            delay = noticed(&pair, active, standby)?;
            Ok(())
        })?;
        pair.moved("SIGKILL of dre-elect", &seen, standby, ms(5000))?;
        ensure!(standby.journal(&["-u", "dre"])?.contains("alarm PeerGone"), "no alarm: {}", pair.journals());
        delays.push(delay.as_secs_f64() * 1e3);
    }
    println!("FIGURE VM, TIPC: a killed election process is noticed after {delays:.1?} ms");
    ensure!(product::median(&mut delays) < 250.0, "noticed no earlier than over UDP: {delays:?}");
    let _ = (active, standby);

    // One bearer lost, silently and with its carrier: an alarm, and nothing moves.
    for net in ["eth3", "eth4"] {
        let (active, standby) = pair.settled()?;
        let link = if net == "eth3" { "primary" } else { "secondary" };
        for (how, cut) in [
            ("silent", Box::new(|lost: bool| active.silent(net, lost)) as Box<dyn Fn(bool) -> Result<()>>),
            ("without carrier", Box::new(|lost: bool| active.cable(net, !lost))),
        ] {
            let seen = pair.judged(ms(500), || {
                let begun = Instant::now();
                cut(true)?;
                for vm in [active, standby] {
                    alarm(vm, "LinkDown")?;
                    let page = vm.run(&["drectl"])?;
                    ensure!(page.contains(&format!("link {link}")) || page.contains("DOWN"), "{page}");
                }
                println!(
                    "FIGURE VM, {net} {how}: in drectl status of both nodes after {:.1?}",
                    begun.elapsed()
                );
                Ok(())
            })?;
            pair.stayed(&format!("{net} {how}"), &seen, active)?;
            cut(false)?;
            pair.settled()?;
        }
    }

    // Both, with the arbitrator in reach of both: the incumbent stays, the other says why.
    let (active, standby) = pair.settled()?;
    let seen = pair.judged(ms(500), || {
        for net in ["eth3", "eth4"] {
            active.silent(net, true)?;
        }
        alarm(standby, "PeerStillServes").map(drop)
    })?;
    pair.stayed("both bearers cut, arbitrator reached", &seen, active)?;
    for net in ["eth3", "eth4"] {
        active.silent(net, false)?;
    }
    let (active, standby) = pair.settled()?;

    // One bearer of the standby in the wrong network: the link is down, and the active says which cable it is.
    let seen = pair.judged(ms(500), || {
        standby.plug("eth4", "eth3")?;
        for vm in [active, standby] {
            alarm(vm, "LinkDown")?;
        }
        alarm(active, "TipcMiscabled").map(drop)
    })?;
    pair.stayed("a bearer cabled to the wrong network", &seen, active)?;
    println!("{}", active.run(&["drectl"])?);
    standby.plug("eth4", "eth4")?;
    let (active, standby) = pair.settled()?;

    // New settings by reload; undone on stop, but only what was ours.
    for vm in [active, standby] {
        vm.sh("sed -i 's/missed_max = 5/missed_max = 8/' /etc/dre/dre.toml; systemctl reload dre")?;
        vm.wait_for("test $(tipc bearer get tolerance media eth device eth4) = 400", SOON)?;
    }
    standby.sh("tipc bearer enable media eth device eth2; systemctl stop dre dre-tipc")?;
    let left = standby.run(&["tipc", "bearer", "list"])?;
    ensure!(left.trim() == "eth:eth2", "left after stop: {left}");
    standby.sh("tipc bearer disable media eth device eth2; systemctl start dre")?;
    let (active, standby) = pair.settled()?;

    // Power loss.
    let seen = pair.judged(ms(2500), || active.power_loss().map(drop))?;
    pair.moved("power loss", &seen, standby, ms(5000))?;
    active.boot()?;
    pair.settled()?;

    // Both power-cycled: no hand is needed.
    for vm in pair.lab.machines() {
        vm.power_loss()?;
    }
    pair.lab.boot()?;
    let (active, standby) = pair.settled()?;

    // A reboot: TIPC comes back by itself.
    active.reboot()?;
    let (_, again) = pair.settled()?;
    ensure!(again.name == active.name, "the rebooted node is the standby");
    ensure!(again.sh("tipc bearer list")?.contains("eth:eth4"));

    // Another network id on one node: they do not talk, and both say why.
    again.sh("sed -i 's/network_id = 1983/network_id = 1984/' /etc/dre/dre.toml")?;
    let refused = again.run_for(&["systemctl", "restart", "dre-tipc"], SOON)?;
    let words = again.journal(&["-u", "dre-tipc"])?;
    ensure!(
        !refused.ok() && words.contains("joined network 1983") && words.contains("modprobe -r tipc"),
        "{words}"
    );
    let seen = pair.judged(ms(500), || {
        again.reboot().or_else(|_| again.wait_running())?;
        for vm in [standby, again] {
            alarm(vm, "TipcStrange")?;
        }
        Ok(())
    })?;
    pair.stayed("different network ids", &seen, standby)?;
    println!("{}", again.run(&["drectl"])?);

    // One address on both.
    let (mine, other) = if again.name == "hadev1" { ("1.1.23", "1.1.29") } else { ("1.1.29", "1.1.23") };
    again.sh(&format!(
        "sed -i 's/network_id = 1984/network_id = 1983/; s/{mine}/X/; s/{other}/{mine}/; s/X/{other}/' /etc/dre/dre.toml"
    ))?;
    let seen = pair.judged(ms(500), || {
        again.reboot()?;
        for vm in [standby, again] {
            alarm(vm, "TipcStrange")?;
            let page = vm.run(&["drectl"])?;
            ensure!(page.contains(&format!("this node's TIPC address {other}")), "{page}");
        }
        Ok(())
    })?;
    pair.stayed("one TIPC address on both nodes", &seen, standby)
}

const BOND: &str = "
ip link add bond0 type bond mode active-backup miimon 50
for leg in eth1 eth5; do ip addr flush dev $leg; ip link set $leg down; ip link set $leg master bond0; done
ip link set bond0 up
";

/// UDP on the same machines; VIPs on a bond; losses and delays.
#[test]
fn udp_bond_and_a_bad_network() -> Result<()> {
    let pair = Machines::start(&configuration("udp", "bond0"), |root| {
        let file = root.join("etc/lab-net.sh");
        let name = std::fs::read_to_string(root.join("etc/hostname"))?;
        let (v4, v6) = if name.trim() == "hadev1" {
            ("172.16.9.54", "2001:db8:9::54")
        } else {
            ("172.16.9.55", "2001:db8:9::55")
        };
        let script = std::fs::read_to_string(&file)?;
        let addresses = format!("ip addr add {v4}/24 brd + dev bond0\nip addr add {v6}/64 nodad dev bond0\n");
        std::fs::write(&file, script + BOND + &addresses)?;
        Ok(())
    })?;
    // TIPC is not loaded where it is not configured.
    ensure!(!pair.lab.hadev1.sh("cat /proc/modules")?.contains("tipc"), "tipc is loaded");

    let mut delays = vec![];
    for _ in 0..3 {
        let (active, standby) = pair.settled()?;
        let mut delay = Duration::ZERO;
        let seen = pair.judged(ms(500), || {
            delay = noticed(&pair, active, standby)?;
            Ok(())
        })?;
        pair.moved("SIGKILL of dre-elect, UDP", &seen, standby, ms(5000))?;
        delays.push(delay.as_secs_f64() * 1e3);
    }
    println!("FIGURE VM, UDP: a killed election process is noticed after {delays:.1?} ms (D = 500 ms)");

    // The bond's active port is pulled: the node keeps role and VIPs, and is heard on the other port at once.
    let (active, _) = pair.settled()?;
    let leg = active.sh("cat /sys/class/net/bond0/bonding/active_slave")?.trim().to_owned();
    let seen = pair.judged(ms(2000), || active.cable(&leg, false))?;
    pair.stayed("the bond's active port pulled", &seen, active)?;
    ensure!(outage_ms(&seen) < 2000.0, "{}", seen.summary());
    let now = active.sh("cat /sys/class/net/bond0/bonding/active_slave")?;
    ensure!(now.trim() != leg, "the bond did not switch");
    ensure!(!seen.announces().is_empty(), "nothing was announced");
    active.cable(&leg, true)?;
    pair.settled()?;
    // Both ports: now the node is unfit, and the other takes over.
    let (active, standby) = pair.settled()?;
    let seen = pair.judged(ms(2000), || {
        active.cable("eth1", false)?;
        active.cable("eth5", false)
    })?;
    pair.moved("both of the bond's ports pulled", &seen, standby, ms(5000))?;
    for leg in ["eth1", "eth5"] {
        active.cable(leg, true)?;
    }

    // 30 % loss and 50 ms of delay on both links, both ways: nothing moves.
    let (active, _) = pair.settled()?;
    for vm in pair.lab.machines() {
        for link in ["eth3", "eth4"] {
            vm.run(&["tc", "qdisc", "add", "dev", link, "root", "netem", "delay", "50ms", "loss", "30%"])?;
        }
    }
    let seen = pair.judged(Duration::from_secs(20), || Ok(()))?;
    pair.stayed("30 % loss and 50 ms delay on both links for 20 s", &seen, active)?;
    println!("{}", active.run(&["drectl"])?);
    for vm in pair.lab.machines() {
        for link in ["eth3", "eth4"] {
            vm.run(&["tc", "qdisc", "del", "dev", link, "root"])?;
        }
    }
    pair.settled()?;

    // TIPC asked for and not there: words, with the way out.
    let (_, standby) = pair.settled()?;
    standby.sh("echo 'install tipc /bin/false' > /etc/modprobe.d/no-tipc.conf; sed -i 's/transport = \"udp\"/transport = \"tipc\"/' /etc/dre/dre.toml; systemctl daemon-reload; systemctl restart dre")?;
    alarm(standby, "LinkClosed")?;
    let page = standby.run(&["drectl"])?;
    ensure!(page.contains("transport = \"udp\"") && page.contains("modprobe tipc"), "{page}");
    println!("{page}");
    Ok(())
}
