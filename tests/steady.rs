//! The default timing: what peace costs, and what load may not do. Root; see tests/lab.

mod lab;
mod product;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::node::Node;
use lab::witness::Witness;
use product::{Pair, beside, configuration, cpu, demanded, not_too_long, outage_ms, state};

fn resident_kb(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

#[test]
fn peace_is_cheap() -> Result<()> {
    let pair = Pair::start(&configuration(100, 5, ""))?;
    std::thread::sleep(Duration::from_secs(2));
    let daemons: Vec<(&Node, &str, i32)> = pair
        .lab
        .nodes()
        .into_iter()
        .flat_map(|n| ["dre", "dre-vip"].map(|unit| (n, unit)))
        .map(|(n, unit)| Ok((n, unit, n.main_pid(unit)?)))
        .collect::<Result<_>>()?;
    let before: Vec<Duration> = daemons.iter().map(|(_, _, pid)| cpu(*pid)).collect::<Result<_>>()?;
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(20));
    let passed = begun.elapsed();
    for ((node, unit, pid), before) in daemons.iter().zip(before) {
        let share = (cpu(*pid)? - before).as_secs_f64() / passed.as_secs_f64() * 100.0;
        let kb = resident_kb(*pid)?;
        println!(
            "FIGURE {unit} on {}: {share:.2} % of a core, {}; {kb} kB resident, {}",
            node.name,
            beside(share, demanded::CPU_PERCENT, "%"),
            beside(kb as f64, demanded::RESIDENT_KB, "kB")
        );
        ensure!(kb < 20_000 && share < 5.0, "{unit} on {}: {share:.2} %, {kb} kB", node.name);
    }
    Ok(())
}

/// `configuration(100, 5, …)`: five missed of 100 ms each.
const D: Duration = Duration::from_millis(500);

/// The term as each node sees it.
fn terms(pair: &Pair) -> Result<Vec<u64>> {
    pair.lab.nodes().into_iter().map(|node| Ok(state(node)?.term)).collect()
}

/// The pair under load: what moved, and for how long a processor was taken from the whole machine.
fn under_load(pair: &Pair, seconds: u64) -> Result<(Option<String>, Duration)> {
    let before = pair.active()?.name;
    let was = terms(pair)?;
    let witness = Witness::start()?;
    let seen = pair.judged(Duration::ZERO, || {
        for node in pair.lab.nodes() {
            let hogs = "for n in 1 2 3 4; do timeout SECS sh -c 'while :; do :; done' & done; timeout SECS sh -c 'while :; do head -c 200M /dev/zero | tail -c 1 > /dev/null; done' & wait";
            let hogs = hogs.replace("SECS", &seconds.to_string());
            let kept = "RemainAfterExit=yes";
            node.run_for(&["systemd-run", "-q", "--unit=hog", "-p", kept, "sh", "-c", &hogs], Duration::from_secs(10))?;
        }
        std::thread::sleep(Duration::from_secs(seconds));
        Ok(())
    })?;
    let stood = witness.stop();
    println!(
        "FIGURE {seconds} s of load: outage {:.1} ms, a processor away for up to {stood:.1?}, judge blind {:.1?}",
        outage_ms(&seen),
        seen.blind()
    );
    for node in pair.lab.nodes() {
        // The hogs were there.
        let burnt = node.sh("systemctl show -P CPUUsageNSec hog.service; systemctl stop hog.service")?;
        let burnt: u64 = burnt.trim().parse().with_context(|| format!("no account of the hogs: {burnt}"))?;
        ensure!(burnt > seconds * 250_000_000, "hardly any load on {}: {burnt} ns", node.name);
    }
    let is = terms(pair)?;
    let moved = match pair.active() {
        Err(error) => Some(error.to_string()),
        Ok(now) if now.name != before => Some(format!("the role went from {before} to {}", now.name)),
        Ok(_) if is != was => Some(format!("terms {was:?} became {is:?}")),
        Ok(_) => None,
    };
    if moved.is_none() {
        not_too_long("load", &seen, Duration::from_secs(1))?;
    }
    Ok((moved, stood))
}

/// Every core busy, memory in motion: no role change. A machine that itself stood still for half of D has shown nothing, and is
/// asked again. `DRE_LOAD_SECONDS=600` for the ten minutes of the figures.
#[test]
fn a_loaded_machine_changes_no_role() -> Result<()> {
    let seconds: u64 = std::env::var("DRE_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let pair = Pair::start(&configuration(100, 5, ""))?;
    for _ in 0..3 {
        let (moved, stood) = under_load(&pair, seconds)?;
        let Some(moved) = moved else { return Ok(()) };
        ensure!(
            stood >= D / 2,
            "under load {moved}; a processor was away for {stood:.1?}\n{}",
            pair.journals()
        );
        println!(
            "the machine itself stood still for {stood:.1?}: {moved} says nothing of the load; once more"
        );
        pair.settled(Duration::from_secs(20))?;
    }
    anyhow::bail!("three times the machine itself stood still: nothing was shown")
}
