//! Whether this machine itself ran: a machine whose processors are taken away (by a hypervisor, by nothing else: the witnesses
//! have a real-time turn above the daemons') proves nothing about a deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::sys;

/// Above dre's own turns (5 and 6), below the judge's (30).
const PRIORITY: i32 = 20;
const NAP: Duration = Duration::from_millis(2);

/// A thread on every processor that looks at the clock.
pub struct Witness {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Duration>>,
}

impl Witness {
    pub fn start() -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let allowed = sched_getaffinity(Pid::from_raw(0))?;
        let mut threads = vec![];
        for cpu in (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
            let over = over.clone();
            threads.push(thread::spawn(move || {
                let mut own = CpuSet::new();
                let bound = own.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &own)).is_ok();
                // Without its turn it would testify to ordinary load: then to nothing.
                if !bound || !sys::punctual(PRIORITY) {
                    return Duration::ZERO;
                }
                let mut longest = Duration::ZERO;
                let mut last = Instant::now();
                while !over.load(Ordering::Relaxed) {
                    thread::sleep(NAP);
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                longest
            }));
        }
        ensure!(!threads.is_empty(), "no processor to watch");
        Ok(Self { over, threads })
    }

    /// The longest time for which a processor ran none of us.
    pub fn stop(self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().filter_map(|t| t.join().ok()).max().unwrap_or_default()
    }
}
