//! A node's life around the election: standalone, at boot, off, moved directories, addresses as clients want them. Root; see tests/lab.

mod lab;
mod product;

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::Lab;
use product::{Pair, VIP, VIP6, configuration, install, ms, outage_ms, status};

const SOON: Duration = Duration::from_secs(10);

/// One node alone, no key, no peer in the file, the configuration where the old suite had it; everything said in
/// /etc/default/dre.
#[test]
fn standalone_where_the_old_suite_had_its_file() -> Result<()> {
    let toml = configuration(10, 3, "active = [\"ticker.service\"]").replace(
        "[nodes.hadev2]\nlinks = { primary = \"172.16.11.55\", secondary = \"172.16.13.55\" }\n",
        "",
    );
    ensure!(!toml.contains("hadev2"), "the example has changed");
    let lab = Lab::builder()
        .install(|root| {
            install(root, &toml)?;
            fs::remove_dir_all(root.join("etc/dre"))?;
            fs::create_dir_all(root.join("opt/avamgr"))?;
            fs::write(root.join("opt/avamgr/avamgr.cfg"), &toml)?;
            let settings = "DRE_STANDALONE=yes\nAVAMGR_CONFDIR=/opt/avamgr\nDRE_LOG_LEVEL=debug\n";
            fs::write(root.join("etc/default/dre"), settings)?;
            let ticker = "[Service]\nExecStart=sleep infinity\n";
            Ok(fs::write(root.join("etc/systemd/system/ticker.service"), ticker)?)
        })
        .off("hadev2")
        .start()?;
    let node = &lab.hadev1;
    node.wait_for("systemctl show -P StatusText dre | grep -q '^ACTIVE.*VIPs 2/2'", SOON)?;
    // Managed services too: the generator reads the same file.
    node.wait_unit("ticker.service", "active", SOON)?;
    ensure!(node.sh("systemctl show -P BindsTo ticker")?.contains("dre-lease.service"));
    let judge = lab.judge(VIP)?;
    std::thread::sleep(ms(300));
    let seen = judge.stop()?;
    ensure!(seen.holder().is_some_and(|t| t.who() == "hadev1"), "{}", seen.summary());
    ensure!(node.run(&["systemctl", "service-log-level", "dre"])?.trim() == "debug");
    // A person's shell sees the same configuration.
    let shell =
        node.run(&["bash", "-lc", "echo $DRE_CONFDIR$AVAMGR_CONFDIR; drectl config check && drectl"])?;
    ensure!(shell.starts_with("/opt/avamgr\n") && shell.contains("Standalone"), "{shell}");
    println!("{shell}");
    Ok(())
}

#[test]
fn on_at_boot_and_off_at_boot() -> Result<()> {
    let pair = Pair::start(&configuration(10, 3, ""))?;
    let node = pair.standby()?;
    node.run(&["systemctl", "disable", "dre"])?;
    node.reboot()?;
    for unit in ["dre.service", "dre.socket", "dre-vip.service"] {
        let state = node.sh(&format!("systemctl is-enabled {unit}; systemctl is-active {unit} || true"))?;
        ensure!(state == "disabled\ninactive\n", "after disable and reboot {unit} is {state}");
    }
    node.run(&["systemctl", "enable", "dre"])?;
    node.reboot()?;
    pair.settled(SOON)?;
    // `restart` on the active is a hand-over, and it is back as a standby.
    let active = pair.active()?;
    let seen = pair.judged(ms(500), || active.run(&["systemctl", "restart", "dre"]).map(drop))?;
    println!("FIGURE systemctl restart dre: outage {:.1} ms", outage_ms(&seen));
    pair.settled(SOON)?;
    ensure!(pair.active()?.name != active.name && outage_ms(&seen) < 1000.0, "{}", seen.summary());
    // Both at once, out of the dark: one ACTIVE, and from then on for good.
    for node in pair.lab.nodes() {
        node.power_loss()?;
    }
    let seen = pair.judged(ms(1000), || {
        for node in pair.lab.nodes() {
            node.switch_on()?;
        }
        pair.settled(Duration::from_secs(30))
    })?;
    let holders: Vec<_> = seen.holders().iter().map(|t| t.who()).collect();
    ensure!(holders == ["hadev1"], "both booted at once: {holders:?}");
    pair.audit()
}

/// The management address as the old suite had it: label, broadcast, prefix; another VIP of the same subnet beside it.
#[test]
fn addresses_as_asked_for() -> Result<()> {
    let toml = configuration(10, 3, "").replace(
        "[[vip]]\naddress = \"2001:db8:9::61/64\"\ninterface = \"eth1\"",
        "[[vip]]\naddress = \"172.16.9.62/24\"\ninterface = \"eth1\"\nlabel = \"eth1:0\"\nbroadcast = \"172.16.9.255\"",
    );
    let pair = Pair::start(&toml)?;
    for _ in 0..2 {
        let (active, standby) = (pair.active()?, pair.standby()?);
        let shown = active.run(&["ip", "-4", "addr", "show", "dev", "eth1"])?;
        ensure!(
            shown.contains("172.16.9.62/24 brd 172.16.9.255 scope global") && shown.contains("eth1:0"),
            "{shown}"
        );
        ensure!(shown.contains(VIP), "{shown}");
        ensure!(
            !standby.run(&["ip", "addr", "show", "dev", "eth1"])?.contains("172.16.9.6"),
            "on the standby too"
        );
        let seen = pair.judged(ms(300), || active.run(&["drectl", "switchover"]).map(drop))?;
        ensure!(outage_ms(&seen) < 1000.0, "{}", seen.summary());
        pair.settled(SOON)?;
        // Its own address of that subnet is still there.
        ensure!(active.run(&["ip", "-4", "addr", "show", "dev", "eth1"])?.contains("172.16.9.5"), "{shown}");
    }
    pair.audit()
}

/// IPv6 by the same judge: whose MAC answers, and for how long nobody's.
#[test]
fn ipv6_moves_as_well() -> Result<()> {
    let pair = Pair::start(&configuration(10, 3, ""))?;
    type Fault = fn(&lab::node::Node) -> Result<()>;
    let faults: [(&str, Fault, Fault); 2] = [
        ("drectl switchover", |a| a.run(&["drectl", "switchover"]).map(drop), |_| Ok(())),
        ("power loss", |a| a.power_loss().map(drop), lab::node::Node::boot),
    ];
    for (case, fault, mend) in faults {
        let active = pair.active()?;
        let judge = pair.lab.judge(VIP6)?;
        std::thread::sleep(ms(200));
        fault(active)?;
        std::thread::sleep(ms(600));
        let seen = judge.stop()?;
        ensure!(seen.two_at_once().is_empty(), "two answered at once: {}", seen.summary());
        ensure!(seen.holder().is_some_and(|t| t.who() != active.name), "{}", seen.summary());
        ensure!(outage_ms(&seen) < 1000.0, "{}", seen.summary());
        println!("FIGURE IPv6, {case}: outage {:.1} ms", outage_ms(&seen));
        mend(active)?;
        pair.settled(Duration::from_secs(20))?;
        ensure!(status(active)?.starts_with("STANDBY"));
    }
    Ok(())
}

/// A6: no practical limit to the number of VIPs. The last of a thousand is judged.
#[test]
fn a_thousand_vips() -> Result<()> {
    let vips: String = (0..1000)
        .map(|n| {
            format!(
                "[[vip]]\naddress = \"172.16.{}.{}/16\"\ninterface = \"eth2\"\n",
                100 + n / 250,
                1 + n % 250
            )
        })
        .collect();
    let toml = configuration(100, 5, "") + &vips;
    let lab = Lab::builder().install(|root| install(root, &toml)).start()?;
    let active = |limit: Duration| -> Result<&lab::node::Node> {
        let until = std::time::Instant::now() + limit;
        loop {
            let words: Vec<String> = lab.nodes().into_iter().map(|n| status(n).unwrap_or_default()).collect();
            let n = words.iter().position(|w| w.starts_with("ACTIVE") && w.contains("VIPs 1002/1002"));
            if let Some(n) = n
                && words[1 - n].starts_with("STANDBY")
                && words[1 - n].contains("VIPs 0/1002")
            {
                return Ok(lab.nodes()[n]);
            }
            if std::time::Instant::now() > until {
                let journal = lab.hadev1.journal(&["-n80", "-o", "short-precise"])?;
                anyhow::bail!("no agreement: {words:?}\n{journal}");
            }
            std::thread::sleep(ms(20));
        }
    };
    for _ in 0..3 {
        let from = active(SOON)?;
        let judge = lab.judge("172.16.103.250")?;
        std::thread::sleep(ms(200));
        if let Err(error) = from.run(&["drectl", "switchover"]) {
            let journals = lab
                .nodes()
                .map(|n| n.journal(&["-u", "dre", "-u", "dre-vip", "-n", "40"]).unwrap_or_default());
            anyhow::bail!("{error:#}\n{}", journals.join("\n----\n"));
        }
        std::thread::sleep(ms(500));
        let seen = judge.stop()?;
        ensure!(seen.two_at_once().is_empty(), "two answered at once: {}", seen.summary());
        ensure!(seen.holder().is_some_and(|t| t.who() != from.name), "{}", seen.summary());
        println!("FIGURE the last of 1,000 VIPs, drectl switchover: outage {:.1} ms", outage_ms(&seen));
        ensure!(outage_ms(&seen) < 2000.0, "{}", seen.summary());
    }
    Ok(())
}
