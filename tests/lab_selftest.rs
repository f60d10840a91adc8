//! The lab tries itself: without these a judge that sees nothing would pass everything.
//!
//! No daemon of ours takes part. A VIP is put on plain nodes by hand, so each test knows what is true and asks
//! whether the lab says so.

mod lab;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::net::Way;
use lab::web::{self, Visitor};
use lab::{Lab, sys};

const VIP: &str = "172.16.9.61";
const VIP6: &str = "2001:db8:9::61";

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn take(node: &lab::node::Node) -> Result<()> {
    node.sh("ip addr add 172.16.9.61/24 dev eth1; ip -6 addr add 2001:db8:9::61/64 dev eth1 nodad").map(drop)
}

fn drop_vip(node: &lab::node::Node) -> Result<()> {
    node.sh("ip addr del 172.16.9.61/24 dev eth1; ip -6 addr del 2001:db8:9::61/64 dev eth1").map(drop)
}

#[test]
fn two_nodes_boot_and_reach_what_they_should() -> Result<()> {
    let start = Instant::now();
    let lab = Lab::builder().start()?;
    println!("lab up in {:.2?}", start.elapsed());
    for node in lab.nodes() {
        ensure!(node.run(&["hostname"])?.trim() == node.name);
        ensure!(node.failed_units()?.is_empty());
        node.run(&["ping", "-c1", "-W1", "172.16.8.250"])?;
        node.sh("sysctl -qw net.ipv4.conf.all.arp_filter=1")?;
        // Real-time priority and memory locking, as the daemons will ask for.
        node.run(&[
            "systemd-run",
            "-q",
            "--wait",
            "-p",
            "CPUSchedulingPolicy=fifo",
            "-p",
            "LimitMEMLOCK=infinity",
            "true",
        ])?;
        ensure!(node.run(&["ping", "-c1", "-W1", "192.0.2.1"]).is_err(), "something leaves the lab");
    }
    lab.hadev1.run(&["ping", "-c1", "-W1", "172.16.11.55"])?;
    lab.hadev1.run(&["ping", "-c1", "-W1", "172.16.13.55"])?;
    lab.hadev1.run(&["ping", "-c1", "-W1", "172.16.10.55"])?;
    lab.hadev1.run(&["ping", "-c1", "-W1", "2001:db8:9::55"])?;
    // The disk outlives a power loss; addresses do not.
    take(&lab.hadev1)?;
    lab.hadev1.write("/etc/kept", "yes")?;
    lab.hadev1.power_loss()?;
    ensure!(!lab.hadev1.is_on());
    let boot = Instant::now();
    lab.hadev1.boot()?;
    println!("booted again in {:.2?}", boot.elapsed());
    ensure!(lab.hadev1.read("/etc/kept")? == "yes");
    ensure!(!lab.hadev1.run(&["ip", "addr"])?.contains(VIP));
    lab.hadev2.reboot()?;
    ensure!(lab.hadev2.journal(&["-n1"])?.contains("hadev2"));
    Ok(())
}

#[test]
fn the_judge_sees_one_two_and_none() -> Result<()> {
    let lab = Lab::builder().start()?;
    take(&lab.hadev1)?;
    sleep(ms(50));

    // One holder.
    let (judge, judge6) = (lab.judge(VIP)?, lab.judge(VIP6)?);
    sleep(ms(1000));
    let (seen, seen6) = (judge.stop()?, judge6.stop()?);
    println!("one: {} ticks; {}\n     {}", seen.ticks(), seen.summary(), seen6.summary());
    ensure!(seen.ticks() > 800, "the judge is starved: {} ticks in a second", seen.ticks());
    for s in [&seen, &seen6] {
        ensure!(s.two_at_once().is_empty() && s.outage_client().is_none() && s.silence().is_none());
        ensure!(s.holders().len() == 1 && s.holders()[0].who() == "hadev1");
    }

    // Two for 20 ms: far less than any sloppy handover would leave.
    let (judge, judge6) = (lab.judge(VIP)?, lab.judge(VIP6)?);
    sleep(ms(300));
    lab.hadev2.sh(
        "ip addr add 172.16.9.61/24 dev eth1; ip -6 addr add 2001:db8:9::61/64 dev eth1 nodad; sleep 0.02
         ip addr del 172.16.9.61/24 dev eth1; ip -6 addr del 2001:db8:9::61/64 dev eth1",
    )?;
    sleep(ms(300));
    let (seen, seen6) = (judge.stop()?, judge6.stop()?);
    println!("two: {:?}\n     {:?}", seen.two_at_once(), seen6.two_at_once());
    ensure!(seen.two_at_once().len() == 1 && seen.two_at_once()[0].macs.len() == 2);
    ensure!(!seen6.two_at_once().is_empty());

    // A clean handover is neither two nor, for long, none; without an announcement the client does not follow.
    lab.outside("client", &["ip", "neigh", "flush", "dev", "eth1"])?; // which of the two it had cached is chance
    let judge = lab.judge(VIP)?;
    sleep(ms(300));
    drop_vip(&lab.hadev1)?;
    take(&lab.hadev2)?;
    sleep(ms(300));
    let seen = judge.stop()?;
    println!("handover: {}", seen.summary());
    ensure!(seen.two_at_once().is_empty());
    let names: Vec<_> = seen.holders().iter().map(|h| h.who()).collect();
    ensure!(names == ["hadev1", "hadev2"], "{names:?}");
    ensure!(seen.outage_client().is_some_and(|g| g.open), "the client should still be asking the old node");
    ensure!(seen.silence().is_some_and(|g| !g.open));

    // A stranger answers too.
    let judge = lab.judge(VIP)?;
    sleep(ms(100));
    lab.outside("stranger", &["ip", "addr", "add", "172.16.9.61/24", "dev", "eth1"])?;
    sleep(ms(100));
    lab.outside("stranger", &["ip", "addr", "del", "172.16.9.61/24", "dev", "eth1"])?;
    let seen = judge.stop()?;
    println!("stranger: {:?}", seen.two_at_once());
    ensure!(!seen.two_at_once().is_empty());
    Ok(())
}

#[test]
fn faults_do_what_their_names_say() -> Result<()> {
    let lab = Lab::builder().start()?;
    take(&lab.hadev1)?;
    sleep(ms(50));

    // Frozen: the kernel goes on answering.
    let judge = lab.judge(VIP)?;
    sleep(ms(100));
    let at = lab.hadev1.freeze()?;
    sleep(ms(300));
    let frozen_sees = lab.hadev1.run_for(&["systemctl", "is-system-running"], ms(200))?;
    ensure!(frozen_sees.status.is_none(), "a frozen PID 1 answered");
    lab.hadev1.thaw()?;
    let seen = judge.stop()?;
    println!("freeze: {}", seen.summary());
    ensure!(seen.silence().is_none() && seen.last_answer("hadev1").is_some_and(|l| l.since(at) > ms(250)));

    // Silent cut, then healed; the node's carrier stays.
    let judge = lab.judge(VIP)?;
    sleep(ms(100));
    lab.net.silent("hadev1", "eth1", true)?;
    sleep(ms(100));
    ensure!(lab.hadev1.read("/sys/class/net/eth1/carrier")?.trim() == "1");
    lab.net.silent("hadev1", "eth1", false)?;
    sleep(ms(200));
    let seen = judge.stop()?;
    println!("silent cut for 100 ms: {:?}", seen.silence());
    ensure!(seen.silence().is_some_and(|g| g.length() > ms(90) && g.length() < ms(300)));

    // Cable pulled: the node sees it.
    lab.net.carrier("hadev1", "eth1", false)?;
    ensure!(lab.hadev1.read("/sys/class/net/eth1/carrier")?.trim() == "0");
    lab.net.carrier("hadev1", "eth1", true)?;
    lab.hadev1.wait_for("test $(cat /sys/class/net/eth1/carrier) = 1", ms(1000))?;

    // One-way loss: what hadev1 sends on eth3 is gone, what it would receive arrives.
    let hears = |node: &lab::node::Node| -> Result<u64> {
        Ok(node.read("/sys/class/net/eth3/statistics/rx_packets")?.trim().parse()?)
    };
    lab.hadev2.run(&["ping", "-c1", "-W1", "172.16.11.54"])?;
    lab.net.lose("hadev1", "eth3", Way::From, "", 100)?;
    let (one, two) = (hears(&lab.hadev1)?, hears(&lab.hadev2)?);
    let _ = lab.hadev2.run(&["ping", "-c20", "-i0.005", "-W0.1", "172.16.11.54"]);
    println!(
        "one-way loss: hadev1 heard {}, hadev2 {}",
        hears(&lab.hadev1)? - one,
        hears(&lab.hadev2)? - two
    );
    ensure!(hears(&lab.hadev1)? - one >= 20 && hears(&lab.hadev2)? == two);
    lab.net.mend()?;

    // 30 % of what goes to hadev1 on eth1 is lost; 40 % of what hadev2 hears on eth3 comes twice.
    lab.net.lose("hadev1", "eth1", Way::To, "", 30)?;
    lab.net.duplicate("hadev1", "eth3", "hadev2", 40)?;
    let judge = lab.judge(VIP)?;
    let text = lab.hadev2.run(&["ping", "-c100", "-i0.005", "172.16.11.54"])?;
    let lost: usize = judge.stop()?.gaps_client().iter().map(|g| g.lost).sum();
    println!("30 %: {lost} lost; 40 %: {}", text.lines().rev().nth(1).unwrap_or(""));
    ensure!(lost > 50 && text.contains("duplicates"));
    lab.net.mend()?;
    // A question for the neighbour's address that was lost meanwhile is asked again after a second.
    lab.hadev1.wait_for("ping -c1 -W0.2 172.16.11.55", ms(5000))?;

    // Arbitrator away and back; links cut and healed; nodes parted on the service network only.
    lab.arbitrator(false)?;
    ensure!(lab.hadev1.run(&["ping", "-c1", "-W0.2", "172.16.8.250"]).is_err());
    lab.arbitrator(true)?;
    lab.hadev1.wait_for("ping -c1 -W0.1 172.16.8.250", ms(2000))?;
    lab.cut_links(&lab.hadev2, true)?;
    ensure!(lab.hadev1.run(&["ping", "-c1", "-W0.2", "172.16.13.55"]).is_err());
    lab.cut_links(&lab.hadev2, false)?;
    lab.hadev1.wait_for("ping -c1 -W0.1 172.16.13.55", ms(2000))?;
    lab.net.part("eth1")?;
    ensure!(lab.hadev1.run(&["ping", "-c1", "-W0.2", "172.16.9.55"]).is_err());
    lab.outside("client", &["ping", "-c1", "-W1", "172.16.9.55"])?;
    lab.net.mend()?;

    // One process, by its unit's name.
    let pid = lab.hadev1.main_pid("dbus.service")?;
    lab.hadev1.signal("dbus.service", libc::SIGSTOP)?;
    sleep(ms(20));
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(status.contains("State:\tT"), "not stopped");
    lab.hadev1.signal("dbus.service", libc::SIGCONT)?;

    // Power loss: silent from then on.
    let judge = lab.judge(VIP)?;
    sleep(ms(200));
    let before = sys::now();
    let at = lab.hadev1.power_loss()?;
    sleep(ms(200));
    let seen = judge.stop()?;
    let last = seen.last_answer("hadev1").unwrap_or_default();
    println!(
        "power loss: done in {:.1?}, last answer {:.1?} before; {:?}",
        at.since(before),
        at.since(last),
        seen.silence()
    );
    ensure!(last <= at && at.since(last) < ms(50) && seen.silence().is_some_and(|g| g.open));
    Ok(())
}

#[test]
fn a_visitor_feels_the_service_move() -> Result<()> {
    let lab = Lab::builder().install(|root| web::install(root, VIP)).start()?;
    take(&lab.hadev1)?;
    lab.hadev1.run(&["systemctl", "start", web::UNIT])?;
    let visitor = Visitor::start(&lab, VIP)?;
    sleep(ms(400));
    lab.hadev1.run(&["systemctl", "stop", web::UNIT])?;
    drop_vip(&lab.hadev1)?;
    take(&lab.hadev2)?;
    lab.hadev2.run(&["systemctl", "start", web::UNIT])?;
    // The announcement a careful administrator would send.
    lab.outside("client", &["ip", "neigh", "flush", "dev", "eth1"])?;
    sleep(ms(600));
    let seen = visitor.stop()?;
    println!(
        "visitor: {:?} answered/not, longest gap {:?}, by {:?}",
        seen.counts(),
        seen.longest_gap(),
        seen.who()
    );
    ensure!(seen.who() == ["hadev1", "hadev2"]);
    ensure!(seen.longest_gap().is_some_and(|g| g.length() > ms(20)));
    Ok(())
}

#[test]
fn what_a_killed_run_left_is_swept() -> Result<()> {
    let _turn = lab::turn(); // every lab sweeps when it begins
    // An id whose process cannot be there: number 1 did not start at tick 999999999.
    let id = "dre-lab.1.999999999.1";
    let group = lab::node::cgroup_root()?.join(format!("{id}.hadev1.1"));
    std::fs::create_dir_all(group.join("payload"))?;
    let dir = format!("/run/dre-lab/{id}");
    std::fs::create_dir_all(&dir)?;
    ensure!(std::process::Command::new("mount").args(["-t", "tmpfs", "dre-lab", &dir]).status()?.success());
    std::fs::create_dir_all(format!("{dir}/hadev1/root"))?;
    lab::net::ip(&["netns", "add", &format!("{id}.switch")], "")?;
    let mut child = std::process::Command::new("sleep").arg("600").spawn()?;
    std::fs::write(group.join("payload/cgroup.procs"), child.id().to_string())?;
    lab::sweep();
    ensure!(!child.wait()?.success(), "the process was left running");
    ensure!(!group.exists() && !std::path::Path::new(&format!("/run/netns/{id}.switch")).exists());
    ensure!(!std::path::Path::new(&dir).exists());
    Ok(())
}
