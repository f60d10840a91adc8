//! What is set elsewhere than usual, or by systemd and not by dre: directories, levels, kernel settings, services of the
//! standby, failback, standalone, clocks. Root; see tests/lab.

mod lab;
mod product;

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dre::snapshot::Status;
use lab::Lab;
use lab::node::Node;
use product::{Pair, alarm, configuration, install, ms, no_alarm, not_too_long, outage_ms, state};

const SOON: Duration = Duration::from_secs(10);
const SETTLED: Duration = Duration::from_secs(20);

/// `drectl status --watch` at work; what it printed.
struct Watch {
    child: std::process::Child,
    reader: std::thread::JoinHandle<String>,
}

impl Watch {
    fn start(node: &Node, argv: &[&str]) -> Result<Self> {
        let mut child = node.spawn(argv, Stdio::null(), Stdio::piped(), Stdio::null())?;
        let mut out = child.stdout.take().context("no output")?;
        let reader = std::thread::spawn(move || {
            let mut bytes = vec![];
            let _ = out.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok(Self { child, reader })
    }

    fn stop(mut self) -> Result<String> {
        ensure!(self.child.try_wait()?.is_none(), "it ended by itself");
        // The whole group: nsenter waits for what it started.
        lab::sys::kill(-(self.child.id() as i32), libc::SIGKILL);
        self.child.wait()?;
        self.reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))
    }
}

/// Services run where the role says, and nowhere else.
fn by_role(active: &Node, standby: &Node) -> Result<()> {
    for (node, runs, rests) in
        [(active, "ticker.service", "report.service"), (standby, "report.service", "ticker.service")]
    {
        node.wait_unit(runs, "active", SOON)?;
        node.wait_unit(rests, "inactive", SOON)?;
    }
    Ok(())
}

/// Directory and level in /etc/sysconfig/dre, services in a drop-in; services of the standby, a preferred node, failback.
#[test]
fn a_pair_that_is_set_up_otherwise() -> Result<()> {
    let toml = configuration(10, 3, "")
        .replace("startup_hold_ms = 1000", "startup_hold_ms = 1000\npreferred = \"hadev2\"\nfailback = true");
    let services = "[services]\nactive = [\"ticker.service\"]\nstandby = [\"report.service\"]\n";
    let pair = Pair::start_with(&toml, |root| {
        fs::create_dir_all(root.join("opt/dre/dre.toml.d"))?;
        fs::rename(root.join("etc/dre/dre.toml"), root.join("opt/dre/dre.toml"))?;
        fs::write(root.join("opt/dre/dre.toml.d/50-services.toml"), services)?;
        fs::create_dir_all(root.join("etc/sysconfig"))?;
        fs::write(root.join("etc/sysconfig/dre"), "DRE_CONFDIR=/opt/dre\nDRE_LOG_LEVEL=debug\n")?;
        for unit in ["ticker", "report", "extra"] {
            let text = "[Service]\nExecStart=sleep infinity\n";
            fs::write(root.join(format!("etc/systemd/system/{unit}.service")), text)?;
        }
        Ok(())
    })?;
    let (first, second) = (&pair.lab.hadev1, &pair.lab.hadev2);
    ensure!(pair.active()?.name == "hadev2", "the preferred node is not the active one");
    by_role(second, first)?;
    for node in pair.lab.nodes() {
        ensure!(node.run(&["systemctl", "service-log-level", "dre"])?.trim() == "debug", "{}", node.name);
        let debugged = node.journal(&["-u", "dre", "-p", "debug..debug"])?;
        ensure!(debugged.contains("Target(Standby)"), "{}: no action in {debugged}", node.name);
        // Seen; every action of every turn is more than the rest needs.
        node.run(&["systemctl", "service-log-level", "dre", "info"])?;
        let shell = node.run(&["bash", "-lc", "echo $DRE_CONFDIR; drectl config check"])?;
        ensure!(shell.starts_with("/opt/dre\n"), "{shell}");
        // What the shipped sysctl.d file sets, and systemd-sysctl applied at boot.
        for (name, value) in [
            ("net.ipv4.conf.all.arp_filter", "1"),
            ("net.ipv4.conf.all.promote_secondaries", "1"),
            ("net.ipv4.ping_group_range", "0\t2147483647"),
        ] {
            let found = node.run(&["sysctl", "-n", name])?;
            ensure!(found.trim() == value, "{}: {name} = {}", node.name, found.trim());
        }
    }
    // The kernel's own value is another: somebody set it.
    let outside = lab::net::in_netns(&pair.lab.net.ns("client"), || {
        fs::read_to_string("/proc/sys/net/ipv4/conf/all/arp_filter")
    })??;
    ensure!(outside.trim() == "0", "arp_filter is 1 everywhere on this machine: nothing was shown");

    // Watched from one node: to it, and back by itself.
    let json = Watch::start(first, &["drectl", "status", "--watch", "--json"])?;
    let pages = Watch::start(first, &["drectl", "status", "--watch"])?;
    let screen = Watch::start(first, &["script", "-qfec", "drectl status --watch", "/dev/null"])?;
    std::thread::sleep(ms(300));
    let begun = Instant::now();
    let seen = pair.judged(ms(0), || {
        second.run(&["drectl", "switchover"])?;
        pair.settled(SOON)?;
        ensure!(pair.active()?.name == "hadev1", "the switchover did not happen");
        by_role(first, second)?;
        // Ten seconds of health, then the preferred node takes it.
        second.wait_for("systemctl show -P StatusText dre | grep -q ^ACTIVE", SETTLED)?;
        Ok(())
    })?;
    let passed = begun.elapsed();
    println!("FIGURE failback after {passed:.1?}: outage {:.1} ms", outage_ms(&seen));
    ensure!(passed > ms(9_500), "the role went back after {passed:.1?} already: {}", pair.journals());
    not_too_long("failback", &seen, ms(1000))?;
    pair.settled(SETTLED)?;
    ensure!(pair.active()?.name == "hadev2");
    by_role(second, first)?;
    let (json, pages, screen) = (json.stop()?, pages.stop()?, screen.stop()?);
    let mut roles: Vec<String> = json
        .lines()
        .map(|line| Ok(serde_json::from_str::<Status>(line).with_context(|| line.to_owned())?.role))
        .collect::<Result<_>>()?;
    roles.dedup();
    let lasting: Vec<&str> =
        roles.iter().map(String::as_str).filter(|r| matches!(*r, "standby" | "active")).collect();
    ensure!(lasting == ["standby", "active", "standby"], "watched: {roles:?}");
    for what in ["hadev1 is STANDBY", "hadev1 is ACTIVE"] {
        ensure!(pages.contains(what), "no page says {what}: {pages}");
    }
    ensure!(screen.contains("\u{1b}[H") && screen.contains("ACTIVE"), "not drawn over itself: {screen:?}");

    // Another service, while the pair runs: as the README says.
    for node in pair.lab.nodes() {
        node.write(
            "/opt/dre/dre.toml.d/50-services.toml",
            services.replace("\"ticker.service\"", "\"ticker.service\", \"extra.service\""),
        )?;
        node.run(&["systemctl", "daemon-reload"])?;
        node.run(&["systemctl", "reload", "dre"])?;
    }
    second.run(&["systemctl", "start", "dre-active.target"])?;
    second.wait_unit("extra.service", "active", SOON)?;
    second.run(&["drectl", "switchover"])?;
    first.wait_unit("extra.service", "active", SOON)?;
    second.wait_unit("extra.service", "inactive", SOON)?;
    pair.settled(SETTLED)?;
    pair.audit()
}

/// Standalone mode ends when a peer is heard: from then on it is a pair like any other.
#[test]
fn standalone_until_there_is_a_peer() -> Result<()> {
    let toml = configuration(10, 3, "");
    let lab = Lab::builder()
        .install(|root| {
            install(root, &toml)?;
            Ok(fs::write(root.join("etc/default/dre"), "DRE_STANDALONE=yes\n")?)
        })
        .off("hadev2")
        .start()?;
    let pair = Pair { lab };
    let (first, second) = (&pair.lab.hadev1, &pair.lab.hadev2);
    first.wait_for("systemctl show -P StatusText dre | grep -q '^ACTIVE.*VIPs 2/2'", SOON)?;
    alarm(first, "Standalone", SOON)?;
    let status = state(first)?;
    ensure!(status.standalone && status.lease.by == "standalone", "{status:?}");

    // The second comes, standalone too and deaf: the VIP answers, so it takes nothing.
    let seen = pair.judged(ms(300), || {
        pair.lab.cut_links(first, true)?;
        second.boot()?;
        alarm(second, "PeerStillServes", SOON)?;
        std::thread::sleep(ms(1000));
        ensure!(state(second)?.role == "standby");
        pair.lab.cut_links(first, false)?;
        pair.settled(SETTLED)
    })?;
    println!("FIGURE a second standalone node comes: outage {:.1} ms", outage_ms(&seen));
    ensure!(seen.holders().iter().all(|t| t.who() == "hadev1"), "{}", seen.summary());
    not_too_long("a second standalone node", &seen, ms(200))?;
    let status = state(first)?;
    ensure!(status.lease.by == "peer", "the peer is heard and its vote still counts as given: {status:?}");
    pair.audit()?;

    // And a pair it is.
    let seen = pair.judged(ms(1000), || first.power_loss().map(drop))?;
    ensure!(seen.holder().is_some_and(|t| t.who() == "hadev2"), "{}", seen.summary());
    ensure!(state(second)?.lease.by == "arbitrator", "{:?}", state(second)?);
    not_too_long("power loss of a standalone node with a peer", &seen, ms(1000))?;
    first.boot()?;
    pair.settled(SETTLED)?;
    pair.audit()
}

/// 33: the wall clock of one node steps, by an hour and by ten years, back and forth: an alarm, and nothing else. (A
/// container has no wall clock of its own: the daemons see another one by libfaketime.)
#[test]
fn a_wall_clock_that_steps_is_an_alarm_and_nothing_else() -> Result<()> {
    const CLOCK: &str = "/run/dre-clock";
    let pair = Pair::start_with(&configuration(10, 3, ""), |root| {
        let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
        ensure!(root.join(&library[1..]).exists(), "no {library}");
        for unit in ["dre", "dre-vip"] {
            let dir = root.join(format!("etc/systemd/system/{unit}.service.d"));
            fs::create_dir_all(&dir)?;
            let text = format!(
                "[Service]\nEnvironment=LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_NO_CACHE=1 \
                 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1\n"
            );
            fs::write(dir.join("clock.conf"), text)?;
        }
        fs::create_dir_all(root.join("etc/tmpfiles.d"))?;
        Ok(fs::write(root.join("etc/tmpfiles.d/clock.conf"), format!("f {CLOCK} 0644 root root - +0\n"))?)
    })?;
    let (active, standby) = (pair.active()?, pair.standby()?);
    for node in [active, standby] {
        for unit in ["dre", "dre-vip"] {
            node.sh(&format!("grep -q libfaketime /proc/$(systemctl show -P MainPID {unit})/maps"))?;
        }
    }
    let before = state(active)?;
    let seen = pair.judged(ms(300), || {
        for node in [active, standby] {
            for step in ["+1h", "-1h", "+3650d", "-3650d"] {
                node.write(CLOCK, format!("{step}\n"))?;
                for told in [active, standby] {
                    let text = alarm(told, "ClockSkew", SOON)?;
                    ensure!(text.contains("wall clocks"), "{text}");
                }
                node.write(CLOCK, "+0\n")?;
                for told in [active, standby] {
                    no_alarm(told, "ClockSkew", SOON)?;
                }
            }
        }
        Ok(())
    })?;
    println!("FIGURE wall clocks stepped sixteen times: outage {:.1} ms", outage_ms(&seen));
    not_too_long("clock steps", &seen, ms(200))?;
    let after = state(active)?;
    ensure!((&after.role, after.term) == (&before.role, before.term), "{before:?} became {after:?}");
    pair.settled(SETTLED)?;
    pair.audit()
}
