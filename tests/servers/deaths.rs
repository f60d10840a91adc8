//! The ACTIVE dies, again and again, while clients write: what that costs, counted.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Came, Deed, MANY, Servers};
use crate::lab::judge::Verdict;
use crate::lab::node::Node;
use crate::product::{median, outage_ms};

pub const POWER_LOSS: (&str, Deed) = ("power loss", |node| node.power_loss().map(drop));
pub const KILLED: (&str, Deed) =
    ("SIGKILL of the server", |node| node.signal("mariadb", libc::SIGKILL).map(drop));

/// How often it dies of each cause: `DRE_DATABASE_RUNS`.
pub fn runs(usual: usize) -> usize {
    std::env::var("DRE_DATABASE_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

/// What one cause did, all times together.
#[derive(Default)]
pub struct Tally {
    pub times: usize,
    pub commits: usize,
    /// Acknowledged, and not on the server that went on.
    pub missing: usize,
    /// How long no commit was acknowledged, and how long nobody answered for the VIP, each time.
    pub gaps_ms: Vec<f64>,
    pub away_ms: Vec<f64>,
    pub back: usize,
    /// With other rows than the peer, and no word of it.
    pub silent: usize,
    /// Why the others did not come back.
    pub stands: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, commits: usize, missing: usize, gap_ms: f64, seen: &Verdict) {
        self.times += 1;
        self.commits += commits;
        self.missing += missing;
        self.gaps_ms.push(gap_ms);
        self.away_ms.push(outage_ms(seen));
    }

    pub fn report(&mut self, what: &str) {
        let (gap, away) = (median(&mut self.gaps_ms), median(&mut self.away_ms));
        let longest = |all: &[f64]| all.last().copied().unwrap_or_default();
        println!(
            "FIGURE {what}, {} times: {} commits acknowledged, {} of them missing on the survivor; none acknowledged for {gap:.0} ms \
             (median), {:.0} ms (longest); the VIP away for {away:.0} ms, {:.0} ms; then {} times back by itself with the same rows, {} \
             times with others and no word of it, {} times it stood still: {:?}",
            self.times,
            self.commits,
            self.missing,
            longest(&self.gaps_ms),
            longest(&self.away_ms),
            self.back,
            self.silent,
            self.stands.len(),
            self.stands
        );
    }
}

/// A pair of this timing, and its ACTIVE dies so many times of that. The dead one comes back while the clients go on.
pub fn deaths(
    timing: &str,
    dead_after: Duration,
    (what, deed): (&str, Deed),
    times: usize,
    servers: &mut Option<Servers>,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for turn in 0..times {
        let pair = match servers.take() {
            Some(pair) => pair,
            None => Servers::start(timing, &format!("startup_hold_ms = {}", dead_after.as_millis() * 2), "")?,
        };
        let (active, standby) = pair.settled()?;
        let (acked, seen) = pair.under_load(MANY, Duration::from_secs(1), || {
            deed(active)?;
            thread::sleep(dead_after + Duration::from_secs(2));
            if active.is_on() { Ok(()) } else { active.boot() }
        })?;
        let missing = Servers::missing(standby, &acked)?;
        tally.add(acked.rows.len(), missing.len(), acked.gap_ms(), &seen);
        ensure!(
            missing.is_empty(),
            "{what} {turn}: missing on {standby:?}: {missing:?}\n{}",
            pair.journals()
        );
        let came = pair.came(active).with_context(|| format!("{what} {turn}"))?;
        let gap = acked.gap_ms();
        println!("{what} {turn}: {} commits acknowledged, none for {gap:.0} ms; {came:?}", acked.rows.len());
        match came {
            Came::Back => {
                tally.back += 1;
                pair.has_all(active, &acked)?;
                *servers = Some(pair);
            }
            // Its operator would make it a copy of the peer; here the next turn begins with a new pair.
            Came::Stands { state, reason } => tally.stands.push(format!("{state}: {reason}")),
        }
    }
    Ok(tally)
}

/// Waits until the node has the address; how long that took.
pub fn has_address(node: &Node, address: &str, limit: Duration) -> Result<Duration> {
    node.wait_for(&format!("ip -o addr show | grep -q ' {address}/'"), limit)
}
