//! Two virtual machines with Debian's kernel: TIPC, bonding, netem. Root; see tests/lab.

mod lab;
mod product;

use std::time::{Duration, Instant};

use anyhow::Result;
use lab::vm::VmLab;

#[test]
fn the_machines_boot() -> Result<()> {
    let begun = Instant::now();
    let install: lab::Install<'_> = Box::new(|_| Ok(()));
    let lab = VmLab::lay(&install)?;
    println!("laid after {:.1?}", begun.elapsed());
    lab.boot()?;
    println!("{}", lab.hadev1.sh("systemd-analyze; systemd-analyze blame | head -20; ip -br a; uname -r")?);
    lab.hadev1.run(&["ping", "-c1", "172.16.11.55"])?;
    lab.hadev1.sh("modprobe tipc && tipc node get address; tipc node get netid; tipc bearer list; tipc node set netid 1983; tipc node set address 1.1.23; tipc node get address; tipc bearer enable media eth device eth3; tipc bearer list; tipc bearer get tolerance media eth device eth3; tipc bearer set tolerance 50 media eth device eth3;  tipc bearer get tolerance media eth device eth3").map(|t| println!("{t}"))?;
    let _ = Duration::ZERO;
    Ok(())
}
