//! Two groups on the same two machines, the second one under template units: each has its role where it wants, and nothing that is
//! done to one is felt by the other. Root; see tests/lab.

mod lab;
mod product;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::judge::Verdict;
use lab::node::Node;
use lab::{Lab, sys};
use product::{NODES, Pair, VIP, configuration, install, ms, outage_ms, run, state, state_of};

const MYSQL: &str = "mysql";
/// What the requirements give the MySQL pair.
const DATABASE_VIP: &str = "172.16.10.71";
/// On the first group's interface: both gates stand before it.
const BESIDE: &str = "172.16.9.62";
const SOON: Duration = Duration::from_secs(10);
/// The units of a group on a node that stay up whatever its role does.
const DAEMONS: [&str; 2] = ["dre", "dre-vip"];

fn second(timing: &str, election: &str, more: &str) -> String {
    format!(
        r#"
{NODES}[heartbeat]
port = 694
{timing}
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{DATABASE_VIP}/16"
interface = "eth2"
label = "eth2:0"
broadcast = "172.16.255.255"
{more}
[election]
{election}
"#
    )
}

fn beside() -> String {
    format!(
        "[[vip]]\naddress = \"{BESIDE}/24\"\ninterface = \"eth1\"\n[services]\nactive = [\"second.service\"]\nstandby = \
         [\"spare.service\"]\n"
    )
}

fn lay(root: &Path, text: &str) -> Result<()> {
    std::fs::write(root.join("etc/dre/mysql.toml"), text)?;
    for unit in ["first", "second", "spare"] {
        let text = "[Service]\nExecStart=sleep infinity\n";
        std::fs::write(root.join(format!("etc/systemd/system/{unit}.service")), text)?;
    }
    run(&["systemctl", &format!("--root={}", root.display()), "enable", "dre@mysql.service"])
}

/// Waits until the group's role is there and the other node its standby; the node that has it.
fn settled<'a>(lab: &'a Lab, group: &str, limit: Duration) -> Result<&'a Node> {
    let begun = Instant::now();
    loop {
        let all = lab.nodes().map(|node| state_of(node, group));
        let fine = |own: &dre::snapshot::Status, other: &dre::snapshot::Status| {
            own.role == "active"
                && own.vips.held == own.vips.wanted
                && own.reached == "active"
                && own.peer.state == "heard"
                && other.role == "standby"
                && other.reached == "standby"
                && other.peer.role == "active"
                && own.fit
                && other.fit
        };
        if let [Ok(one), Ok(two)] = &all {
            if fine(one, two) {
                return Ok(&lab.hadev1);
            }
            if fine(two, one) {
                return Ok(&lab.hadev2);
            }
        }
        ensure!(begun.elapsed() < limit, "group {group}: no agreement within {limit:?}: {all:?}");
        std::thread::sleep(ms(20));
    }
}

/// The runs of a group's daemons and of its role's units on a node: what is another one was started anew.
fn runs(node: &Node, units: &[&str]) -> Result<String> {
    let mut argv = vec!["systemctl", "show", "-p", "Id", "-p", "InvocationID", "-p", "ActiveState", "--"];
    argv.extend_from_slice(units);
    node.run(&argv)
}

const OF_DRE: [&str; 6] = [
    "dre.service",
    "dre-vip.service",
    "dre-lease.service",
    "dre-active.target",
    "dre-standby.target",
    "first.service",
];
const OF_MYSQL: [&str; 7] = [
    "dre@mysql.service",
    "dre-vip@mysql.service",
    "dre-lease@mysql.service",
    "dre-active@mysql.target",
    "dre-standby@mysql.target",
    "second.service",
    "spare.service",
];

/// Something is done to one group: the other's units, role, term and VIPs are what they were, to the millisecond.
fn untouched(
    pair: &Pair,
    what: &str,
    other: &str,
    deed: impl FnOnce() -> Result<()>,
) -> Result<Vec<Verdict>> {
    let (units, vips): (&[&str], &[&str]) =
        if other == MYSQL { (&OF_MYSQL, &[DATABASE_VIP, BESIDE]) } else { (&OF_DRE, &[VIP]) };
    let seen = || -> Result<_> {
        let units = pair.lab.nodes().map(|node| runs(node, units)).into_iter().collect::<Result<Vec<_>>>()?;
        let of = |node: &Node| state_of(node, other).map(|s| (s.role, s.term, s.alarms.len()));
        let states = pair.lab.nodes().map(of).into_iter().collect::<Result<Vec<_>>>()?;
        Ok((units, states))
    };
    let before = seen()?;
    let mut all = vips.to_vec();
    all.push(if other == MYSQL { VIP } else { DATABASE_VIP });
    let mut verdicts = pair.judged_all(&all, ms(300), deed)?;
    let moved = verdicts.pop().context("a verdict of the one it was done to")?;
    for (vip, verdict) in vips.iter().zip(&verdicts) {
        println!("{what}: {vip} of the other group: {}", verdict.summary());
        ensure!(verdict.holders().len() == 1, "{what}: {vip} moved: {}", verdict.summary());
        // A probe that the machine was late for is no outage of a gate: two ticks.
        ensure!(outage_ms(verdict) < 4.0, "{what}: {vip} was away: {}", verdict.summary());
    }
    println!("FIGURE {what}: its own VIP {:.1} ms, the other group's 0", outage_ms(&moved));
    settled(&pair.lab, if other == MYSQL { "dre" } else { MYSQL }, SOON)?;
    let after = seen()?;
    ensure!(before == after, "{what}: the other group was touched:\n{before:#?}\n{after:#?}");
    Ok(vec![moved])
}

#[test]
fn two_groups_live_beside_each_other() -> Result<()> {
    let toml = configuration(20, 5, "active = [\"first.service\"]");
    let timing = "interval_ms = 20\nmissed_max = 5";
    let election = "preferred = \"hadev2\"\nstartup_hold_ms = 1000";
    let pair = Pair::start_with(&toml, |root| lay(root, &second(timing, election, &beside())))?;
    let lab = &pair.lab;
    // At boot, each by its own election: the smaller name, and the preferred one.
    ensure!(settled(lab, "dre", SOON)?.name == "hadev1", "{}", pair.journals());
    ensure!(settled(lab, MYSQL, SOON)?.name == "hadev2", "{}", pair.journals());
    let (first, second) = (&lab.hadev1, &lab.hadev2);
    first.wait_unit("first.service", "active", SOON)?;
    second.wait_unit("second.service", "active", SOON)?;
    first.wait_unit("spare.service", "active", SOON)?;
    ensure!(second.read("/run/dre-lease/term@mysql.env")?.contains("DRE_TERM="));
    as_it_should_be(first, second)?;
    drectl_tells_them_apart(first)?;

    // Each way to move one role, both ways round.
    for (group, other) in [("dre", MYSQL), (MYSQL, "dre")] {
        let target = |role: &str| match group {
            "dre" => format!("dre-{role}.target"),
            group => format!("dre-{role}@{group}.target"),
        };
        let standby = || -> Result<&Node> { Ok(lab.other(settled(lab, group, SOON)?)) };
        let moved = |what: &str, node: &Node, argv: &[&str]| -> Result<()> {
            let before = settled(lab, group, SOON)?.name;
            untouched(&pair, &format!("{what} of group {group}"), other, || node.run(argv).map(drop))?;
            ensure!(settled(lab, group, SOON)?.name != before, "{what} of {group}: the role did not move");
            Ok(())
        };
        moved("drectl switchover", first, &["drectl", "-g", group, "switchover"])?;
        moved("systemctl isolate", standby()?, &["systemctl", "isolate", &target("active")])?;
        // The role that gives up is isolated too, where it is active: the other group's active services stay.
        let active = lab.other(standby()?);
        moved(
            "systemctl isolate of the standby's target",
            active,
            &["systemctl", "isolate", &target("standby")],
        )?;
        moved("systemctl start", standby()?, &["systemctl", "start", &target("active")])?;
    }

    // A restart, a stop and a start, a reload: the other one does not know.
    let unit = |group: &str| if group == "dre" { "dre".to_owned() } else { format!("dre@{group}") };
    for (group, other) in [("dre", MYSQL), (MYSQL, "dre")] {
        let active = settled(lab, group, SOON)?;
        untouched(&pair, &format!("restart of group {group}"), other, || {
            active.run(&["systemctl", "restart", &unit(group)]).map(drop)
        })?;
        ensure!(settled(lab, group, SOON)?.name != active.name, "a restart hands over first");
        let active = settled(lab, group, SOON)?;
        untouched(&pair, &format!("stop of group {group}"), other, || {
            active.run(&["systemctl", "stop", &unit(group)])?;
            let gone = active.run_for(&["drectl", "-g", group, "status"], SOON)?;
            ensure!(gone.status.and_then(|s| s.code()) == Some(69), "{gone:?}");
            let both = active.run_for(&["drectl"], SOON)?;
            ensure!(both.status.and_then(|s| s.code()) == Some(69), "{both:?}");
            ensure!(both.stdout.contains(&format!("{}.service is not running", unit(group))), "{both:?}");
            ensure!(both.stdout.contains(&format!("Group {other}")), "{both:?}");
            active.run(&["systemctl", "start", &unit(group)]).map(drop)
        })?;
        ensure!(settled(lab, group, SOON)?.name != active.name, "a stop hands over");
        untouched(&pair, &format!("reload of group {group}"), other, || {
            active.run(&["systemctl", "reload", &unit(group)]).map(drop)
        })?;
    }

    // A crash of one group's dre-vip leaves its own gate, shut, and its own addresses: the next start clears these away and no others.
    for (group, other) in [("dre", MYSQL), (MYSQL, "dre")] {
        let active = settled(lab, group, SOON)?;
        let vip = if group == "dre" { "dre-vip".to_owned() } else { format!("dre-vip@{group}") };
        untouched(&pair, &format!("a kill of dre-vip of group {group}"), other, || {
            active.signal(&vip, libc::SIGKILL).map(drop)
        })?;
    }
    for node in lab.nodes() {
        let failed = node.failed_units()?;
        ensure!(failed.is_empty(), "{}: {failed}", node.name);
    }

    // One machine goes: what it had of both groups is on the other one.
    for (group, on) in [("dre", first), (MYSQL, first)] {
        if settled(lab, group, SOON)?.name != on.name {
            on.run(&["drectl", "-g", group, "switchover", "--to", on.name])?;
        }
    }
    settled(lab, "dre", SOON)?;
    settled(lab, MYSQL, SOON)?;
    let seen = pair.judged_all(&[VIP, DATABASE_VIP], ms(1500), || first.power_loss().map(drop))?;
    for verdict in &seen {
        println!("FIGURE power loss of both groups: {:.1} ms", outage_ms(verdict));
        ensure!(verdict.holder().is_some_and(|tenure| tenure.who() == "hadev2"), "{}", verdict.summary());
        ensure!(outage_ms(verdict) < 1000.0, "{}", verdict.summary());
    }
    first.boot()?;
    settled(lab, "dre", SOON)?;
    settled(lab, MYSQL, SOON)?;
    a_low_port_needs_a_right_that_the_generator_gives(&pair)?;
    pair.audit()
}

/// A reload alone cannot give it: the alarm says what does.
fn a_low_port_needs_a_right_that_the_generator_gives(pair: &Pair) -> Result<()> {
    let standby = pair.lab.other(settled(&pair.lab, "dre", SOON)?);
    let text = standby.read("/etc/dre/dre.toml")?;
    standby.write("/etc/dre/dre.toml", text.replace("[heartbeat]", "[heartbeat]\nport = 695"))?;
    standby.run(&["systemctl", "reload", "dre"])?;
    let said = product::alarm(standby, "LinkClosed", SOON)?;
    ensure!(said.contains("no right to UDP port 695: systemctl daemon-reload"), "{said}");
    standby.run(&["systemctl", "daemon-reload"])?;
    standby.run(&["systemctl", "restart", "dre"])?;
    product::no_alarm(standby, "LinkClosed", SOON)?;
    let sockets = standby.run(&["ss", "-Huan", "sport", "=", "695"])?;
    ensure!(sockets.lines().count() == 2, "no socket on port 695 for each link: {sockets}");
    standby.write("/etc/dre/dre.toml", text)?;
    standby.run(&["systemctl", "daemon-reload"])?;
    standby.run(&["systemctl", "restart", "dre"])?;
    settled(&pair.lab, "dre", SOON).map(drop)
}

/// What the kernel and systemd have of each group on the node where it is active.
fn as_it_should_be(first: &Node, second: &Node) -> Result<()> {
    let address = second.run(&["ip", "-o", "addr", "show", "dev", "eth2"])?;
    let line = address.lines().find(|line| line.contains(DATABASE_VIP)).context("no database VIP")?;
    for word in ["172.16.10.71/16", "brd 172.16.255.255", "eth2:0"] {
        ensure!(line.contains(word), "{word} is not in {line}");
    }
    for node in [first, second] {
        // Both gates on the interface that both groups serve, one behind the other.
        for way in ["ingress", "egress"] {
            let filters = node.run(&["tc", "filter", "show", "dev", "eth1", way])?;
            for gate in ["dre-gate ", "dre-gate@mysql "] {
                ensure!(filters.contains(gate), "{}: no {gate}on eth1 {way}: {filters}", node.name);
            }
        }
        let routes = node.run(&["ip", "route", "show", "172.16.8.250"])?;
        ensure!(routes.lines().count() == 2, "{}: a route for each group: {routes}", node.name);
        for (path, mode) in [("/run/dre-mysql", "755 dre dre"), ("/run/dre-mysql/control", "660 root dre")] {
            let is = node.run(&["stat", "-c", "%a %U %G", path])?;
            ensure!(is.trim() == mode, "{}: {path} is {is}", node.name);
        }
        let sockets = node.run(&["ss", "-Huan", "sport", "=", "694"])?;
        ensure!(
            sockets.lines().count() == 2,
            "{}: no socket on port 694 for each link: {sockets}",
            node.name
        );
        for unit in DAEMONS {
            let unit = format!("{unit}@mysql.service");
            let show = |property: &str| node.run(&["systemctl", "show", "-P", property, &unit]);
            ensure!(show("NoNewPrivileges")?.trim() == "yes", "{}: {unit} is not hardened", node.name);
            ensure!(show("ProtectSystem")?.trim() == "strict", "{}: {unit} is not hardened", node.name);
            ensure!(show("Slice")?.trim() == "system.slice", "{}: {unit}", node.name);
        }
        let rights = |unit: &str| node.run(&["systemctl", "show", "-P", "AmbientCapabilities", unit]);
        ensure!(
            rights("dre@mysql.service")?.contains("cap_net_bind_service"),
            "{}",
            rights("dre@mysql.service")?
        );
        ensure!(!rights("dre.service")?.contains("cap_net_bind_service"), "{}", rights("dre.service")?);
        for (unit, level) in [("dre@mysql", "debug"), ("dre@mysql", "info")] {
            node.run(&["systemctl", "service-log-level", unit, level])?;
            ensure!(node.run(&["systemctl", "service-log-level", unit])?.trim() == level, "{}", node.name);
            ensure!(node.run(&["systemctl", "service-log-level", "dre"])?.trim() == "info", "{}", node.name);
        }
    }
    Ok(())
}

fn drectl_tells_them_apart(node: &Node) -> Result<()> {
    let page = node.run(&["drectl"])?;
    println!("{page}");
    for line in ["Group dre", "Group mysql", "hadev1 is ACTIVE,", "hadev1 is STANDBY in group mysql,"] {
        ensure!(page.contains(line), "{line} is not in {page}");
    }
    ensure!(page.contains("take over: drectl -g mysql switchover --to hadev1"), "{page}");
    let lines = node.run(&["drectl", "status", "--json"])?;
    let groups: Vec<String> = lines
        .lines()
        .map(|line| Ok(serde_json::from_str::<dre::snapshot::Status>(line)?.group))
        .collect::<Result<_>>()?;
    ensure!(groups == ["dre", MYSQL], "{lines}");
    // Both are watched, each by its own connection.
    let watched = node.run_for(&["timeout", "2", "drectl", "status", "--watch", "--json"], SOON)?.stdout;
    for group in ["dre", MYSQL] {
        let begins = format!("{{\"group\":\"{group}\"");
        ensure!(watched.lines().filter(|line| line.starts_with(&begins)).count() > 1, "{group}: {watched}");
    }
    ensure!(state(node)?.group == "dre" && state_of(node, MYSQL)?.group == MYSQL);
    let one = node.run(&["drectl", "-g", MYSQL])?;
    ensure!(one.contains("in group mysql") && !one.contains("Group"), "{one}");
    let version = node.run(&["drectl", "-g", MYSQL, "version"])?;
    ensure!(version.contains("dre@mysql.service"), "{version}");

    let holds = node.run(&["drectl", "config", "check"])?;
    for words in ["of group dre holds: node hadev1, peer hadev2, 2 links, 2 VIPs", "of group mysql holds"] {
        ensure!(holds.contains(words), "{words} is not in {holds}");
    }
    let shown = node.run(&["drectl", "-g", MYSQL, "config", "show"])?;
    ensure!(shown.contains("port = 694") && shown.contains("label = \"eth2:0\""), "{shown}");
    let findings = node.run_for(&["drectl", "check", "--json"], SOON)?.stdout;
    let findings: serde_json::Value = serde_json::from_str(&findings)?;
    let findings = findings.as_array().context("no list")?;
    for (group, unit) in [("dre", "dre.service"), (MYSQL, "dre@mysql.service")] {
        let runs = findings.iter().any(|f| {
            f["group"] == group && f["what"].as_str().is_some_and(|w| w.starts_with(&format!("{unit} runs")))
        });
        ensure!(runs, "{unit} does not run, of group {group}: {findings:#?}");
    }
    ensure!(!findings.iter().any(|f| f["name"] == "groups"), "{findings:#?}");

    // A VIP or a port that both have: said with both names, before anything is reloaded.
    let text = node.read("/etc/dre/mysql.toml")?;
    node.write("/tmp/mysql.toml.new", text.replace("port = 694", "port = 1694").replace(BESIDE, VIP))?;
    let refused = node.run_for(&["drectl", "config", "check", "/tmp/mysql.toml.new"], SOON)?;
    ensure!(refused.status.and_then(|s| s.code()) == Some(78), "{refused:?}");
    for words in ["the groups mysql and dre both have the VIP 172.16.9.61", "UDP port 1694"] {
        ensure!(refused.stderr.contains(words), "{words} is not in {refused:?}");
    }
    Ok(())
}

/// What the old pair of Linux Heartbeat had: keepalive 1 s, deadtime 15 s, UDP port 694, and the preferred node gets the role back.
#[test]
fn a_pair_of_the_old_timing_takes_over_within_its_dead_time_and_gives_back() -> Result<()> {
    let timing = "interval_ms = 1000\nmissed_max = 15";
    let election = "preferred = \"hadev1\"\nfailback = true\nfailback_hold_s = 5";
    let lab = Lab::builder()
        .install(|root| {
            install(root, &configuration(100, 5, ""))?;
            // The only group of these machines.
            std::fs::remove_file(root.join("etc/dre/dre.toml"))?;
            run(&["systemctl", &format!("--root={}", root.display()), "disable", "dre.service"])?;
            lay(root, &second(timing, election, ""))
        })
        .start()?;
    let (first, second) = (&lab.hadev1, &lab.hadev2);
    ensure!(settled(&lab, MYSQL, Duration::from_secs(25))?.name == "hadev1", "the preferred one");
    // Without a name the only group is meant.
    let page = first.run(&["drectl"])?;
    ensure!(page.contains("hadev1 is ACTIVE in group mysql") && !page.contains("Group "), "{page}");

    let judge = lab.judge(DATABASE_VIP)?;
    std::thread::sleep(ms(100));
    let at = first.power_loss()?;
    let begun = Instant::now();
    while !state_of(second, MYSQL).is_ok_and(|s| s.role == "active" && s.vips.held == 1) {
        ensure!(begun.elapsed() < Duration::from_secs(20), "not taken over: {:?}", state_of(second, MYSQL));
        std::thread::sleep(ms(20));
    }
    let after = sys::now().since(at);
    std::thread::sleep(ms(200));
    let seen = judge.stop()?;
    println!("FIGURE power loss at 1 s x 15: active after {after:.1?}, outage {:.0} ms", outage_ms(&seen));
    ensure!(after < Duration::from_secs(16), "{after:?}");
    // Not before the promise of its last acknowledgement has run out.
    ensure!(after > Duration::from_secs(13), "{after:?}");
    ensure!(seen.two_at_once().is_empty(), "{}", seen.summary());
    ensure!(seen.holder().is_some_and(|tenure| tenure.who() == "hadev2"), "{}", seen.summary());

    // Back, and it has been fit and in touch for five seconds: the role returns by itself, by a switchover.
    first.boot()?;
    let begun = Instant::now();
    while !state_of(first, MYSQL).is_ok_and(|s| s.role == "standby" && s.peer.role == "active") {
        ensure!(begun.elapsed() < SOON, "not a standby: {:?}", state_of(first, MYSQL));
        std::thread::sleep(ms(20));
    }
    let back = Instant::now();
    let judge = lab.judge(DATABASE_VIP)?;
    while !state_of(first, MYSQL).is_ok_and(|s| s.role == "active" && s.vips.held == 1) {
        ensure!(back.elapsed() < Duration::from_secs(20), "not given back: {:?}", state_of(first, MYSQL));
        std::thread::sleep(ms(20));
    }
    let hold = back.elapsed();
    std::thread::sleep(ms(200));
    let seen = judge.stop()?;
    println!(
        "FIGURE failback at 1 s x 15 with a hold of 5 s: after {hold:.1?}, outage {:.1} ms",
        outage_ms(&seen)
    );
    ensure!(hold > ms(4_000) && hold < SOON, "the role went back after {hold:?}");
    ensure!(seen.two_at_once().is_empty() && outage_ms(&seen) < 1000.0, "{}", seen.summary());
    ensure!(settled(&lab, MYSQL, SOON)?.name == "hadev1");
    Ok(())
}
