//! The product in the lab: installed as a package would, configured, booted, asked.

#![allow(dead_code)] // each test uses its part

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::lab::judge::Verdict;
use crate::lab::node::Node;
use crate::lab::{Lab, sys};

pub const VIP: &str = "172.16.9.61";
pub const VIP6: &str = "2001:db8:9::61";
/// The cluster key of the lab: 32 bytes of 42, known to everybody.
const KEY: &str = "KioqKioqKioqKioqKioqKioqKioqKioqKioqKioqKio=\n";

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The running example of the requirements, at the timing and with the services a case asks for.
pub fn configuration(interval_ms: u32, missed: u32, services: &str) -> String {
    format!(
        r#"
[nodes.hadev1]
links = {{ primary = "172.16.11.54", secondary = "172.16.13.54" }}
[nodes.hadev2]
links = {{ primary = "172.16.11.55", secondary = "172.16.13.55" }}
[heartbeat]
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

fn run(argv: &[&str]) -> Result<()> {
    let out = Command::new(argv[0]).args(&argv[1..]).current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    ensure!(out.status.success(), "{argv:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// `make install` of what cargo has built, and what a package's postinst does.
pub fn install(root: &Path, toml: &str) -> Result<()> {
    // What cargo test has just built; `make bench` measures the release.
    install_as(root, toml, &std::env::var("DRE_PROFILE").unwrap_or_else(|_| "dev".into()))
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
        let last = |n: &Node| n.journal(&["-n60", "-o", "short-precise"]).unwrap_or_default();
        self.lab.nodes().map(last).join("\n----\n")
    }

    pub fn active(&self) -> Result<&Node> {
        let found = self.lab.nodes().into_iter().find(|n| role(n).is_ok_and(|r| r == "ACTIVE"));
        found.context("no node is ACTIVE")
    }

    pub fn standby(&self) -> Result<&Node> {
        Ok(self.lab.other(self.active()?))
    }

    /// Watches the VIP while `fault` happens and for `after`; what the judge saw. Two at once fail the run, always.
    pub fn judged(&self, after: Duration, fault: impl FnOnce() -> Result<()>) -> Result<Verdict> {
        let judge = self.lab.judge(VIP)?;
        std::thread::sleep(ms(100));
        let done = fault();
        std::thread::sleep(after);
        let seen = judge.stop()?;
        done?;
        let two = seen.two_at_once();
        ensure!(two.is_empty(), "two answered at once: {two:?}; {}", seen.summary());
        Ok(seen)
    }

    /// After a case: no unit failed, nothing dumped core.
    pub fn audit(&self) -> Result<()> {
        for node in self.lab.nodes() {
            let failed = node.failed_units()?;
            if !failed.is_empty() {
                let journal = node.journal(&["-n80", "-o", "short-precise"]).unwrap_or_default();
                bail!("{}: failed units: {failed}\n{journal}", node.name);
            }
        }
        Ok(())
    }
}

/// The client's longest outage in milliseconds; 0 if there was none.
pub fn outage_ms(seen: &Verdict) -> f64 {
    seen.outage_client().map_or(0.0, |gap| gap.length().as_secs_f64() * 1e3)
}

/// How often a fault is repeated: `DRE_RUNS`, by default a few, enough to see it.
pub fn runs() -> usize {
    std::env::var("DRE_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Prints a row of the table that `make bench` collects.
pub fn report(case: &str, outages: &mut [f64]) {
    let mid = median(outages);
    let (low, high) = (outages.first().copied().unwrap_or(0.0), outages.last().copied().unwrap_or(0.0));
    println!("FIGURE {case}: outage median {mid:.1} ms, {low:.1} to {high:.1} ms, {} runs", outages.len());
}

/// Now, on the clock of the judge.
pub fn now() -> dre::logic::time::Moment {
    sys::now()
}
