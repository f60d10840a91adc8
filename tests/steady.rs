//! The default timing: what peace costs, and what load may not do. Root; see tests/lab.

mod lab;
mod product;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::node::Node;
use lab::witness::Witness;
use product::{Pair, beside, configuration, cpu, demanded, outage_ms};

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
fn terms(pair: &Pair) -> Result<Vec<Option<u64>>> {
    let term = |node: &Node| -> Result<Option<u64>> {
        let status: serde_json::Value = serde_json::from_str(&node.run(&["drectl", "status", "--json"])?)?;
        Ok(status["term"].as_u64())
    };
    pair.lab.nodes().into_iter().map(term).collect()
}

/// Every core busy, memory in motion: no role change, unless a processor was taken from the whole machine for half of D, which is
/// then said. `DRE_LOAD_SECONDS=600` for the ten minutes of the figures.
#[test]
fn a_loaded_machine_changes_no_role() -> Result<()> {
    let seconds: u64 = std::env::var("DRE_LOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let pair = Pair::start(&configuration(100, 5, ""))?;
    let before = pair.active()?.name;
    let was = terms(&pair)?;
    let witness = Witness::start()?;
    let seen = pair.judged(Duration::ZERO, || {
        for node in pair.lab.nodes() {
            let hogs = "for n in 1 2 3 4; do timeout SECS sh -c 'while :; do :; done' & done; timeout SECS sh -c 'while :; do head -c 200M /dev/zero | tail -c 1 > /dev/null; done' & wait";
            node.run_for(&["systemd-run", "-q", "--unit=hog", "sh", "-c", &hogs.replace("SECS", &seconds.to_string())], Duration::from_secs(10))?;
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
        ensure!(
            node.sh("systemctl show -P CPUUsageNSec hog.service")?.trim() != "0",
            "no load on {}",
            node.name
        );
    }
    let is = terms(&pair)?;
    let moved = pair.active().map_or_else(
        |error| Some(error.to_string()),
        |now| (now.name != before).then(|| format!("the role went from {before} to {}", now.name)),
    );
    let Some(moved) = moved.or_else(|| (is != was).then(|| format!("terms {was:?} became {is:?}"))) else {
        return Ok(());
    };
    ensure!(stood >= D / 2, "under load {moved}; a processor was away for {stood:.1?}\n{}", pair.journals());
    println!(
        "the machine itself stood still for {stood:.1?}, which is more than half of D: {moved} says nothing of the load"
    );
    Ok(())
}
