//! The product in the lab: installed as a package would, configured, booted, asked.

#![allow(dead_code)] // each test uses its part

pub mod rules;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dre::logic::election::Rule;
use dre::snapshot::Status;

use crate::lab::judge::Verdict;
use crate::lab::node::Node;
use crate::lab::{Lab, sys};

pub const VIP: &str = "172.16.9.61";
pub const VIP6: &str = "2001:db8:9::61";
/// The cluster key of the lab: 32 bytes of 42, known to everybody.
const KEY: &str = "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=\n";
/// The same as the codec takes it.
pub const KEY_BYTES: [u8; 32] = [42; 32];

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Both nodes and their links, as every group's file has them.
pub const NODES: &str = r#"
[nodes.hadev1]
links = { primary = "172.16.11.54", secondary = "172.16.13.54" }
[nodes.hadev2]
links = { primary = "172.16.11.55", secondary = "172.16.13.55" }
"#;

/// The running example of the requirements, at the timing and with the services a case asks for.
pub fn configuration(interval_ms: u32, missed: u32, services: &str) -> String {
    format!(
        r#"
{NODES}[heartbeat]
interval_ms = {interval_ms}
missed_max = {missed}
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{VIP}/24"
interface = "eth1"
[[vip]]
address = "{VIP6}/64"
interface = "eth1"
[services]
{services}
[election]
startup_hold_ms = 1000
"#
    )
}

pub fn run(argv: &[&str]) -> Result<()> {
    let out = Command::new(argv[0]).args(&argv[1..]).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    ensure!(out.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// `make install` of what cargo has built, and what a package's postinst does.
pub fn install(root: &Path, toml: &str) -> Result<()> {
    // What cargo test has just built; `make bench` measures the release.
    install_as(root, toml, &std::env::var("DRE_PROFILE").unwrap_or_else(|_| "dev".into()))?;
    // A container manager may not raise limits (no CAP_SYS_RESOURCE): what LimitRTPRIO= and LimitMEMLOCK= in the units give on a
    // machine, and in the virtual ones of tests/vm.rs, PID 1 gives here in other ways.
    for (unit, priority) in [("dre", 6), ("dre-vip", 5), ("dre@", 6), ("dre-vip@", 5)] {
        let dir = root.join(format!("etc/systemd/system/{unit}.service.d"));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(
            dir.join("90-lab.conf"),
            format!(
                "[Service]\nCPUSchedulingPolicy=rr\nCPUSchedulingPriority={priority}\nCPUSchedulingResetOnFork=yes\n\
                 AmbientCapabilities=CAP_IPC_LOCK\nCapabilityBoundingSet=CAP_IPC_LOCK\n"
            ),
        )?;
    }
    Ok(())
}

/// The same, as cargo has built it with this profile.
pub fn install_as(root: &Path, toml: &str, profile: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let at = |path: &str| root.join(path);
    let (to, profile) = (format!("DESTDIR={}", root.display()), format!("PROFILE={profile}"));
    run(&["make", "install", &to, &profile, "CARGO=true"])?;
    run(&["systemd-sysusers", &format!("--root={}", root.display())])?;
    run(&["journalctl", "--update-catalog", &format!("--root={}", root.display())])?;
    std::fs::create_dir_all(at("etc/dre"))?;
    std::fs::write(at("etc/dre/dre.toml"), toml)?;
    std::fs::write(at("etc/dre/key"), KEY)?;
    std::fs::set_permissions(at("etc/dre/key"), std::fs::Permissions::from_mode(0o600))?;
    run(&["systemctl", &format!("--root={}", root.display()), "enable", "dre.service"])
}

/// What `STATUS=` of dre.service says.
pub fn status(node: &Node) -> Result<String> {
    Ok(node.run(&["systemctl", "show", "-P", "StatusText", "dre.service"])?.trim().to_owned())
}

/// The first word of it: the role.
pub fn role(node: &Node) -> Result<String> {
    Ok(status(node)?.split(' ').next().unwrap_or_default().to_owned())
}

/// `drectl status --json`, read as the contract says; of group dre.
pub fn state(node: &Node) -> Result<Status> {
    state_of(node, "dre")
}

/// The same of a group.
pub fn state_of(node: &Node, group: &str) -> Result<Status> {
    let json = node.run(&["drectl", "-g", group, "status", "--json"])?;
    serde_json::from_str(&json).with_context(|| format!("{}: {json}", node.name))
}

/// Waits until an alarm of that name stands on the node; its text. A moment without an answer is none.
pub fn alarm(node: &Node, name: &str, limit: Duration) -> Result<String> {
    let begun = Instant::now();
    loop {
        let seen = state(node);
        if let Ok(status) = &seen
            && let Some(alarm) = status.alarms.iter().find(|a| a.name == name)
        {
            return Ok(alarm.text.clone());
        }
        ensure!(
            begun.elapsed() < limit,
            "{}: no alarm {name} within {limit:?}: {:?}",
            node.name,
            seen.map(|s| s.alarms)
        );
        std::thread::sleep(ms(20));
    }
}

/// Waits until the node says of itself that no alarm of that name stands.
pub fn no_alarm(node: &Node, name: &str, limit: Duration) -> Result<()> {
    let begun = Instant::now();
    while !state(node).is_ok_and(|status| status.alarms.iter().all(|a| a.name != name)) {
        ensure!(begun.elapsed() < limit, "{}: alarm {name} still stands after {limit:?}", node.name);
        std::thread::sleep(ms(20));
    }
    Ok(())
}

/// Whether the device of the node carries the address.
pub fn has(node: &Node, device: &str, ip: &str) -> Result<bool> {
    Ok(node.run(&["ip", "-o", "addr", "show", "dev", device])?.contains(&format!(" {ip}/")))
}

/// A pair that is on and has elected.
pub struct Pair {
    pub lab: Lab,
}

impl Pair {
    /// Both boot, one is ACTIVE.
    pub fn start(toml: &str) -> Result<Self> {
        Self::start_with(toml, |_| Ok(()))
    }

    pub fn start_with(toml: &str, more: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        let lab = Lab::builder()
            .install(|root| {
                install(root, toml)?;
                more(root)
            })
            .start()?;
        let pair = Self { lab };
        pair.settled(Duration::from_secs(20))?;
        Ok(pair)
    }

    /// Waits until both nodes agree that one is ACTIVE with its VIPs and the other STANDBY, hears it, and both are fit.
    pub fn settled(&self, limit: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            let words: Vec<String> =
                self.lab.nodes().into_iter().map(|n| status(n).unwrap_or_default()).collect();
            let active = words.iter().position(|w| w.starts_with("ACTIVE") && w.contains("VIPs 2/2"));
            if let Some(n) = active
                && words[n].contains("STANDBY")
                && words[1 - n].starts_with("STANDBY")
                && words[1 - n].contains("ACTIVE")
                // The alarm, not the rule of the last change.
                && !words.iter().any(|w| w.split_once("ALARM").is_some_and(|(_, all)| all.contains("Unfit")))
            {
                return Ok(());
            }
            if begun.elapsed() > limit {
                bail!("no agreement within {limit:?}: {words:?}\n{}", self.journals());
            }
            std::thread::sleep(ms(20));
        }
    }

    /// The last of both nodes' journals, for a failure's report.
    pub fn journals(&self) -> String {
        let last = |n: &Node| n.journal(&["-n60", "-p", "info", "-o", "short-precise"]).unwrap_or_default();
        self.lab.nodes().map(last).join("\n----\n")
    }

    pub fn active(&self) -> Result<&Node> {
        let found = self.lab.nodes().into_iter().find(|n| role(n).is_ok_and(|r| r == "ACTIVE"));
        found.with_context(|| format!("no node is ACTIVE: {}", self.journals()))
    }

    pub fn standby(&self) -> Result<&Node> {
        Ok(self.lab.other(self.active()?))
    }

    /// Watches the VIP while `fault` happens and for `after`; what the judge saw. Two at once fail the run, always.
    pub fn judged(&self, after: Duration, fault: impl FnOnce() -> Result<()>) -> Result<Verdict> {
        Ok(self.judged_all(&[VIP], after, fault)?.remove(0))
    }

    /// The same of several VIPs, each with a judge of its own.
    pub fn judged_all(
        &self,
        vips: &[&str],
        after: Duration,
        fault: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<Verdict>> {
        let judges = vips.iter().map(|vip| self.lab.judge(vip)).collect::<Result<Vec<_>>>()?;
        std::thread::sleep(ms(100));
        let done = fault();
        std::thread::sleep(after);
        let seen = judges.into_iter().map(|judge| judge.stop()).collect::<Result<Vec<_>>>()?;
        done?;
        for seen in &seen {
            ensure!(seen.blind() < ms(1000), "the judge itself stood still: {}", seen.summary());
            let two = seen.two_at_once();
            ensure!(two.is_empty(), "two answered at once: {two:?}; {}", seen.summary());
        }
        Ok(seen)
    }

    /// After a case, on a pair that is settled: no unit failed, nothing dumped core, nothing was killed but by the case
    /// itself, no process was left behind, everything that was said is documented, and both nodes say the same.
    pub fn audit(&self) -> Result<()> {
        for node in self.lab.nodes() {
            audit(node).map_err(|error| {
                let journal = node.journal(&["-n80", "-o", "short-precise"]).unwrap_or_default();
                error.context(format!("audit of {}\n{journal}", node.name))
            })?;
        }
        // Each reads its own status at its own moment: what differs for longer is a difference.
        let begun = Instant::now();
        while let Err(error) = self.agree() {
            if begun.elapsed() > Duration::from_secs(3) {
                return Err(error);
            }
            std::thread::sleep(ms(20));
        }
        Ok(())
    }

    /// What each node says of itself is what the other says of it.
    fn agree(&self) -> Result<()> {
        let [one, two] = self.lab.nodes();
        let (one, two) = (state(one)?, state(two)?);
        for (own, other) in [(&one, &two), (&two, &one)] {
            let (node, peer) = (&own.node, &own.peer);
            ensure!(peer.node == other.node, "{node} calls its peer {}, that is {}", peer.node, other.node);
            ensure!(peer.state == "heard", "{node}: the peer is {}", peer.state);
            ensure!(
                peer.role == other.role,
                "{node}: {} is {}, it says {}",
                other.node,
                peer.role,
                other.role
            );
            ensure!(
                peer.fit == other.fit,
                "{node}: fit {} of {}, it says {}",
                peer.fit,
                other.node,
                other.fit
            );
            ensure!(own.links.iter().all(|link| link.up), "{node}: links {:?}", own.links);
            let active = own.role == "active";
            ensure!(own.lease.held == active, "{node} is {}, lease {:?}", own.role, own.lease);
            let held = if active { own.vips.wanted } else { 0 };
            ensure!(own.vips.held == held, "{node} is {}, VIPs {:?}", own.role, own.vips);
        }
        let roles = [one.role.as_str(), two.role.as_str()];
        ensure!(matches!(roles, ["active", "standby"] | ["standby", "active"]), "roles {roles:?}");
        Ok(())
    }
}

fn audit(node: &Node) -> Result<()> {
    let failed = node.failed_units()?;
    ensure!(failed.is_empty(), "failed units: {failed}");
    // PID 1's own words of how processes ended.
    let ends = node.journal(&["_PID=1"])?;
    let ended = |word: &str| ends.lines().filter(|line| line.contains(word)).collect::<Vec<_>>().join("\n");
    let dumped = ended("code=dumped");
    ensure!(dumped.is_empty(), "a process dumped core: {dumped}");
    // (TERM is how systemd stops.)
    if !node.was_harmed() {
        let killed: Vec<&str> = ends
            .lines()
            .filter(|line| {
                line.contains("code=killed") && !line.contains("status=15/TERM") && line.contains("]: dre")
            })
            .collect();
        ensure!(killed.is_empty(), "killed, and not by this test: {killed:?}");
    }
    // Processes by the unit in whose control group they are, asked of the kernel; units, asked of systemd.
    let mut units: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (unit, process) in node.processes()? {
        units.entry(unit).or_default().push(process);
    }
    let states = node.run(&["systemctl", "list-units", "--all", "--plain", "--no-legend"])?;
    let running: BTreeMap<&str, &str> = states
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.nth(1)?))
        })
        .collect();
    for (unit, processes) in &units {
        let state = running.get(unit.as_str()).copied().unwrap_or("unknown to systemd");
        if matches!(state, "inactive" | "failed") {
            // It may have ended between the two questions.
            let still: Vec<String> =
                node.processes()?.into_iter().filter(|(u, _)| u == unit).map(|(_, p)| p).collect();
            ensure!(still.is_empty(), "{unit} is {state} and left {still:?}");
        }
        if unit.starts_with("dre") {
            ensure!(processes.len() == 1, "{unit} has more than its main process: {processes:?}");
        }
    }
    for unit in ["dre.service", "dre-vip.service"] {
        ensure!(units.contains_key(unit), "{unit} has no process");
    }
    let said = state(node)?;
    for alarm in &said.alarms {
        ensure!(README.contains(&format!("| {} |", alarm.name)), "README explains no alarm {}", alarm.name);
    }
    ensure!(Rule::ALL.iter().any(|rule| rule.word() == said.rule), "no rule {}", said.rule);
    Ok(())
}

const README: &str = include_str!("../../README.md");

/// User and system time of a process, from /proc/PID/stat; clock ticks are 10 ms on Linux.
pub fn cpu(pid: i32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

/// The client's longest outage in milliseconds; 0 if there was none.
pub fn outage_ms(seen: &Verdict) -> f64 {
    seen.outage_client().map_or(0.0, |gap| gap.length().as_secs_f64() * 1e3)
}

/// How often a fault is repeated: `DRE_RUNS`, by default a few, enough to see it.
pub fn runs() -> usize {
    std::env::var("DRE_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// Enough runs for a figure: the medians are set beside what is demanded, and nothing fails for being slow.
pub fn is_bench() -> bool {
    runs() >= 10
}

/// Time, judged generously: far beyond what a case reports, because the machine may be busy. A benchmark goes on.
pub fn not_too_long(case: &str, seen: &Verdict, bound: Duration) -> Result<()> {
    let outage = outage_ms(seen);
    ensure!(
        is_bench() || outage < bound.as_secs_f64() * 1e3,
        "{case}: the client went without for {outage:.1} ms: {}",
        seen.summary()
    );
    Ok(())
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// A measured value beside the demanded one, in words.
pub fn beside(measured: f64, demanded: f64, unit: &str) -> String {
    let held = if measured <= demanded { "held" } else { "ABOVE THE BOUND" };
    format!("demanded at most {demanded} {unit}: {held}")
}

/// Prints a row of the table that `make bench` collects: `demanded` is the client's longest median outage, in ms.
pub fn report(case: &str, demanded: f64, outages: &mut [f64]) {
    let mid = median(outages);
    let (low, high) = (outages.first().copied().unwrap_or(0.0), outages.last().copied().unwrap_or(0.0));
    let judged = match is_bench() {
        true => beside(mid, demanded, "ms"),
        false => format!("too few runs to set beside the demanded {demanded} ms"),
    };
    println!(
        "FIGURE {case}: outage median {mid:.1} ms, {low:.1} to {high:.1} ms, {} runs; {judged}",
        outages.len()
    );
}

/// What is demanded at D = 30 ms, ms of outage: the medians of a quiet machine.
pub mod demanded {
    pub const SWITCHOVER: f64 = 15.0;
    pub const TARGETS: f64 = 40.0;
    pub const POWER_LOSS: f64 = 30.0 + 15.0;
    /// Killed, stopped, frozen.
    pub const PROCESSES: f64 = 30.0 + 60.0;
    pub const CARRIER: f64 = 60.0;
    /// Not felt at all.
    pub const NOTHING: f64 = 0.0;
    pub const ISOLATED: f64 = 4.0 * 30.0 + 500.0;
    /// Of each daemon in peace at 100 ms.
    pub const RESIDENT_KB: f64 = 10_000.0;
    pub const CPU_PERCENT: f64 = 0.5;
}

/// Now, on the clock of the judge.
pub fn now() -> dre::logic::time::Moment {
    sys::now()
}
