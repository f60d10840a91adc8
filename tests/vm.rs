//! Two virtual machines with Debian's kernel: TIPC, bonding, netem. Root; see tests/lab.
//!
//! Emulated, so slow: what is compared ran in the same machines, and what is promised in milliseconds is timed inside the
//! guest, on one clock.

mod lab;
mod product;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lab::judge::Verdict;
use lab::vm::{Vm, VmLab};
use product::{VIP, VIP6, median, ms, outage_ms};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
/// interval × missed_max of the configuration below.
const D_MS: f64 = 500.0;
const INTERVAL_MS: f64 = 100.0;
/// MESSAGE_ID of the moment at which a standby begins to doubt its peer (src/notice.rs).
const SUSPECTED: &str = "MESSAGE_ID=3b90d6e47f1c4c5fa2de8b7c61f4a9c5";

/// The running example of the requirements, over TIPC or UDP, the VIPs on `interface`.
fn configuration(transport: &str, interface: &str) -> String {
    format!(
        r#"
[nodes.hadev1]
tipc = "1.1.23"
links = {{ primary = "172.16.11.54", secondary = "172.16.13.54" }}
[nodes.hadev2]
tipc = "1.1.29"
links = {{ primary = "172.16.11.55", secondary = "172.16.13.55" }}
[heartbeat]
transport = "{transport}"
interval_ms = 100
missed_max = 5
[heartbeat.tipc]
network_id = 1983
bearers = {{ primary = "eth3", secondary = "eth4" }}
[arbitrator]
addresses = ["172.16.8.250"]
interface = "eth0"
[[vip]]
address = "{VIP}/24"
interface = "{interface}"
[[vip]]
address = "{VIP6}/64"
interface = "{interface}"
"#
    )
}

struct Machines {
    lab: VmLab,
}

fn status(vm: &Vm) -> Result<String> {
    Ok(vm.run(&["systemctl", "show", "-P", "StatusText", "dre.service"])?.trim().to_owned())
}

/// What runs in the machines is optimised: emulated, a debug build's pages alone would be most of what is timed here.
fn profile() -> String {
    std::env::var("DRE_PROFILE").unwrap_or_else(|_| "vm".into())
}

/// `drectl status --json`.
fn json(vm: &Vm) -> Result<Value> {
    Ok(serde_json::from_str(&vm.run(&["drectl", "status", "--json"])?)?)
}

/// The state of a link by its name; `None` if there is none of that name.
fn up(status: &Value, link: &str) -> Option<bool> {
    status["links"].as_array()?.iter().find(|l| l["name"] == link)?["up"].as_bool()
}

/// The text of an alarm that stands.
fn alarm_of(vm: &Vm, name: &str) -> Result<Option<String>> {
    let status = json(vm)?;
    let alarms = status["alarms"].as_array().context("alarms")?;
    let found = alarms.iter().find(|a| a["name"] == name);
    Ok(found.and_then(|a| a["text"].as_str()).map(str::to_owned))
}

/// Waits for an alarm in `drectl status` whose text has all of these words; the text.
fn alarm(vm: &Vm, name: &str, words: &[&str]) -> Result<String> {
    let begun = Instant::now();
    loop {
        let text = alarm_of(vm, name)?;
        if let Some(text) = &text
            && words.iter().all(|word| text.contains(word))
        {
            return Ok(text.clone());
        }
        if begun.elapsed() > SOON {
            bail!(
                "{}: no {name} with {words:?} within {SOON:?}, but {text:?}\n{}",
                vm.name,
                vm.run(&["drectl"])?
            );
        }
        thread::sleep(ms(200));
    }
}

/// Edits dre.toml (sed) and reloads, as an operator would.
fn reload(vm: &Vm, edit: &str) -> Result<()> {
    vm.sh(&format!("sed -i '{edit}' /etc/dre/dre.toml && systemctl reload dre")).map(drop)
}

/// The bearers that TIPC has, as its tool lists them.
fn bearers(vm: &Vm) -> Result<Vec<String>> {
    Ok(vm
        .run(&["tipc", "bearer", "list"])?
        .lines()
        .map(str::to_owned)
        .filter(|l| l.starts_with("eth:"))
        .collect())
}

/// Network id, address, bearers and tolerance are what dre.toml says, without a hand.
fn is_set_up(vm: &Vm) -> Result<()> {
    let address = if vm.name == "hadev1" { "01001017" } else { "0100101d" };
    let script = "tipc node get netid; tipc node get address; \
                  for i in eth3 eth4; do tipc bearer get tolerance media eth device $i; done";
    let words: Vec<String> = vm.sh(script)?.lines().map(str::to_owned).collect();
    ensure!(words == ["1983", address, "250", "250"], "{}: {words:?}", vm.name);
    let enabled = bearers(vm)?;
    ensure!(enabled == ["eth:eth3", "eth:eth4"], "{}: {enabled:?}", vm.name);
    Ok(())
}

/// Role, term and VIPs of both as they are and must stay.
struct Still<'a> {
    active: &'a Vm,
    standby: &'a Vm,
    terms: [Value; 2],
}

impl Machines {
    fn start(toml: &str, more: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        let install: lab::Install<'_> = Box::new(|root| {
            product::install_as(root, toml, &profile())?;
            more(root)
        });
        let pair = Self { lab: VmLab::start(&install)? };
        pair.settled()?;
        Ok(pair)
    }

    /// Waits until both agree and no alarm stands; who is active, who standby.
    fn settled(&self) -> Result<(&Vm, &Vm)> {
        let begun = Instant::now();
        loop {
            let words: Vec<String> =
                self.lab.machines().into_iter().map(|m| status(m).unwrap_or_default()).collect();
            for (n, word) in words.iter().enumerate() {
                let other = &words[1 - n];
                if word.starts_with("ACTIVE")
                    && word.contains("VIPs 2/2")
                    && word.contains("STANDBY")
                    && other.starts_with("STANDBY")
                    && other.contains("ACTIVE")
                    && !words.iter().any(|w| w.contains("ALARM"))
                {
                    return Ok((self.lab.machines()[n], self.lab.machines()[1 - n]));
                }
            }
            if begun.elapsed() > SOON {
                bail!("no agreement within {SOON:?}: {words:?}\n{}", self.journals());
            }
            // Each began at a full second of its emulated clock, and nothing keeps them together since. It is said, and rightly.
            if words.iter().any(|word| word.contains("ClockSkew")) {
                self.lab.machines().into_iter().try_for_each(set_clock)?;
                thread::sleep(Duration::from_secs(1));
            }
            thread::sleep(ms(200));
        }
    }

    fn journals(&self) -> String {
        let last = |vm: &Vm| {
            let args = ["-n60", "-u", "dre", "-u", "dre-vip", "-u", "dre-tipc", "-u", "dre-lease"];
            let page = vm.run(&["drectl"]).unwrap_or_else(|error| format!("{error:#}"));
            page + &vm.journal(&args).unwrap_or_else(|error| format!("{error:#}"))
        };
        self.lab.machines().map(last).join("\n----\n")
    }

    /// Watches the VIP meanwhile; two at once fail the run, always.
    fn judged(&self, after: Duration, fault: impl FnOnce() -> Result<()>) -> Result<Verdict> {
        let judge = self.lab.judge(VIP)?;
        thread::sleep(ms(300));
        let done = fault();
        thread::sleep(after);
        let seen = judge.stop()?;
        done?;
        ensure!(
            seen.two_at_once().is_empty(),
            "two answered at once: {}\n{}",
            seen.summary(),
            self.journals()
        );
        Ok(seen)
    }

    /// The role goes to the other; nobody holds it for `bound` at most.
    fn moved(&self, case: &str, seen: &Verdict, to: &Vm, bound: Duration) -> Result<()> {
        println!("FIGURE VM, {case}: outage {:.0} ms", outage_ms(seen));
        ensure!(
            seen.holder().is_some_and(|t| t.who() == to.name) && outage_ms(seen) < bound.as_secs_f64() * 1e3,
            "{case}: {}\n{}",
            seen.summary(),
            self.journals()
        );
        Ok(())
    }

    /// Before a fault that must not move anything.
    fn still(&self) -> Result<Still<'_>> {
        let (active, standby) = self.settled()?;
        Ok(Still { active, standby, terms: [json(active)?["term"].clone(), json(standby)?["term"].clone()] })
    }

    /// Nothing moved: the active answered all the time and nobody else did, both have their roles and terms, all VIPs are held.
    fn stayed(&self, case: &str, seen: &Verdict, still: &Still<'_>) -> Result<()> {
        println!("FIGURE VM, {case}: outage {:.0} ms", outage_ms(seen));
        ensure!(outage_ms(seen) < 2000.0, "{case}: {}", seen.summary());
        // An emulated machine that stood still has just had a daemon started anew by systemd's watchdog: it is a standby soon.
        let begun = Instant::now();
        let is_standby = |said: &Value| said["role"] == "standby" && said["vips"]["gate"] == "shut";
        while !json(still.standby).is_ok_and(|said| is_standby(&said)) && begun.elapsed() < SOON {
            std::thread::sleep(ms(200));
        }
        let (active, standby) = (json(still.active)?, json(still.standby)?);
        let holders = seen.holders();
        ensure!(
            !holders.is_empty()
                && holders.iter().all(|t| t.who() == still.active.name)
                && active["role"] == "active"
                && standby["role"] == "standby"
                && [&active["term"], &standby["term"]] == [&still.terms[0], &still.terms[1]]
                && active["vips"]["held"] == 2
                && active["vips"]["gate"] == "open"
                && standby["vips"]["gate"] == "shut",
            "{case}: {}\nterms were {:?}\n{active}\n{standby}\n{}",
            seen.summary(),
            still.terms,
            self.journals()
        );
        Ok(())
    }

    /// Runs a fault that must not move anything.
    fn unmoved<'a>(
        &'a self,
        case: &str,
        after: Duration,
        fault: impl FnOnce(&Still<'a>) -> Result<()>,
    ) -> Result<()> {
        let still = self.still()?;
        let seen = self.judged(after, || fault(&still))?;
        self.stayed(case, &seen, &still)
    }
}

/// How late a standby saw that its peer's process was killed.
struct Noticed {
    ms: f64,
    /// "withdrawn" (the kernel's word) or "silent".
    cause: String,
}

/// Kills the active's election process from inside its machine, and times on the standby's clock alone: from the arrival there
/// (the kernel's stamp) of a datagram that the killer sends in the moment before, to the moment at which dre-elect began to
/// gather evidence (its journal's field). The datagram's own way, half a round trip, is added.
fn noticed(active: &Vm, standby: &Vm) -> Result<Noticed> {
    let to = if standby.name == "hadev1" { "172.16.8.50" } else { "172.16.8.51" };
    standby.sh(
        "rm -f /run/marks; setsid timeout 60 tcpdump -i eth0 -n -tt -l --immediate-mode -A udp dst port 9 \
         > /run/marks 2> /run/marks.err < /dev/null &",
    )?;
    standby.wait_for("grep -q listening /run/marks.err", SOON)?;
    let ping = active.run(&["ping", "-c", "10", "-i", "0.1", "-q", to])?;
    let rtt = ping
        .lines()
        .find_map(|l| l.strip_prefix("rtt min/avg/max/mdev = ")?.split('/').nth(1)?.parse::<f64>().ok());
    let way = rtt.with_context(|| format!("no round trip: {ping}"))? / 2.0;
    let cursor = standby.cursor()?;
    // The shell's own kill: no program is started between the two. The first datagram is for caches and page faults, and by a
    // socket of its own, because nobody listens there.
    let script = format!(
        "pid=$(systemctl show -P MainPID dre); exec 3<>/dev/udp/{to}/9 4<>/dev/udp/{to}/9; printf warm >&3; kill -0 $pid; \
         sleep 0.3; printf dre-kill >&4; kill -9 $pid"
    );
    active.run(&["bash", "-c", &script])?;
    standby.wait_for("grep -q dre-kill /run/marks", SOON)?;
    let marks = standby.sh("pkill -x tcpdump; cat /run/marks")?;
    // A line with the stamp, then the datagram's bytes.
    let lines: Vec<&str> = marks.lines().collect();
    let at = lines.iter().position(|l| l.contains("dre-kill")).context("no mark")?;
    let stamp = lines[..at].iter().rev().find_map(|l| l.split_once(" IP ")?.0.parse::<f64>().ok());
    let killed = stamp.with_context(|| format!("no stamp: {marks}"))?;
    let begun = Instant::now();
    let entry = loop {
        if let Some(entry) = standby.entries_after(&cursor, &[SUSPECTED])?.first() {
            break entry.clone();
        }
        ensure!(
            begun.elapsed() < SOON,
            "never suspected: {}",
            standby.journal_after(&cursor, &["-u", "dre"])?
        );
        thread::sleep(ms(200));
    };
    let field = |name: &str| Ok::<_, anyhow::Error>(entry[name].as_str().context("a field")?.to_owned());
    let seen = field("DRE_AT_US")?.parse::<f64>()? / 1e6;
    Ok(Noticed { ms: (seen - killed) * 1e3 + way, cause: field("DRE_CAUSE")? })
}

/// Kills the active's election process several times; after how many ms the peer noticed, each time.
fn kills(pair: &Machines, transport: &str, cause: &str) -> Result<Vec<f64>> {
    let mut delays = vec![];
    for _ in 0..5 {
        let (active, standby) = pair.settled()?;
        let cursor = standby.cursor()?;
        let mut delay = None;
        let seen = pair.judged(ms(1500), || {
            delay = Some(noticed(active, standby)?);
            Ok(())
        })?;
        pair.moved(&format!("SIGKILL of dre-elect, {transport}"), &seen, standby, ms(5000))?;
        let delay = delay.context("not timed")?;
        ensure!(delay.cause == cause, "noticed because {}: {}", delay.cause, pair.journals());
        let alarm =
            format!("alarm PeerGone: the kernel says that the election process of {} ended", active.name);
        let begun = Instant::now();
        loop {
            // A journal that is just being rotated is not read whole: that the node took over stands in it in any case.
            let said = standby.journal_after(&cursor, &["-u", "dre"])?;
            if said.contains("-> ACTIVE") && said.contains(&alarm) == (transport == "TIPC") {
                break;
            }
            ensure!(begun.elapsed() < ms(5000), "{said}\n{}", pair.journals());
            thread::sleep(ms(500));
        }
        delays.push(delay.ms);
    }
    println!("FIGURE VM, {transport}: a killed election process is noticed after {delays:.1?} ms");
    Ok(delays)
}

/// Cuts something of one link and times, inside each guest, when `drectl status` shows it down; the other link must be up.
fn shows(pair: &Machines, case: &str, link: &str, cut: impl FnOnce() -> Result<()>) -> Result<()> {
    let other = if link == "primary" { "secondary" } else { "primary" };
    let watch = "rm -f /run/seen; setsid timeout 60 bash -c 'drectl status --watch --json | \
                 while read -r line; do echo \"$EPOCHREALTIME $line\"; done' > /run/seen 2>&1 < /dev/null &";
    let mut clocks = vec![];
    for vm in pair.lab.machines() {
        vm.sh(watch)?;
        vm.wait_for("test -s /run/seen", SOON)?;
        clocks.push(vm.clock()?);
    }
    let at = SystemTime::UNIX_EPOCH.elapsed()?.as_secs_f64();
    cut()?;
    for (vm, (ahead, error)) in pair.lab.machines().into_iter().zip(clocks) {
        let down = format!("\"name\":\"{link}\",\"up\":false");
        vm.wait_for(&format!("grep -q '{down}' /run/seen"), SOON)?;
        let line = vm.sh(&format!("grep -m1 '{down}' /run/seen"))?;
        let (stamp, status) = line.trim().split_once(' ').context("a stamp")?;
        let status: Value = serde_json::from_str(status)?;
        let after = stamp.parse::<f64>()? - ahead - at;
        println!("FIGURE VM, {case}: in drectl status of {} after {:.0} ms", vm.name, after * 1e3);
        ensure!(after - error > 0.0, "seen before it happened: the clocks were not compared well");
        // A second is asked for; more only on a machine that is busy otherwise.
        ensure!(
            after + error <= 3.0,
            "{case}: shown only after {after:.3} s (± {error:.3}): {}",
            pair.journals()
        );
        ensure!(up(&status, other) == Some(true), "{case}: the other link: {status}");
        // And so it stands, with an alarm.
        alarm(vm, "LinkDown", &[link])?;
        let status = json(vm)?;
        ensure!(up(&status, link) == Some(false) && up(&status, other) == Some(true), "{case}: {status}");
        vm.sh("pkill -f -- '[-]-watch'; true")?;
    }
    Ok(())
}

#[test]
fn tipc_through_every_fault() -> Result<()> {
    let pair = Machines::start(&configuration("tipc", "eth1"), |_| Ok(()))?;
    let (active, standby) = pair.settled()?;
    println!("{}", active.run(&["drectl"])?);
    println!("{}", active.sh("/usr/lib/dre/dre-tipc show; systemctl status --no-pager dre-tipc | head -20; tipc link list; tipc nametable show | head -20")?);
    for vm in [active, standby] {
        is_set_up(vm)?;
        // What the kernel has, not what the file says.
        let checked = vm.run_for(&["drectl", "check"], SOON)?.stdout;
        let address = if vm.name == "hadev1" { "1.1.23" } else { "1.1.29" };
        for words in [
            &format!("the kernel has address {address} in network 1983"),
            "link primary: a TIPC bearer on eth3, carrier, 250 ms",
            "link secondary: a TIPC bearer on eth4, carrier, 250 ms",
        ] {
            ensure!(checked.contains(words), "{words}: {checked}");
        }
    }

    // What containers cannot show: memory locked, real-time turns.
    for unit in ["dre", "dre-vip"] {
        let journal = active.journal(&["-u", unit])?;
        ensure!(
            !journal.contains("memory is not locked") && !journal.contains("no real-time"),
            "{unit}: {journal}"
        );
    }

    // (First of all: after links had gone and come many times, a bearer in the wrong network was seen to ask for neighbours seldom, and
    // then only the node with the wrong cable names it.)
    // One bearer of the standby in the wrong network: each node says of itself which cable it is, steadily, and blames no other
    // machine for what came from its own.
    pair.unmoved("a bearer cabled to the wrong network", ms(500), |still| {
        let (active, standby) = (still.active, still.standby);
        for vm in [active, standby] {
            ensure!(
                alarm_of(vm, "TipcMiscabled")?.is_none(),
                "{}: {:?}",
                vm.name,
                alarm_of(vm, "TipcMiscabled")
            );
        }
        standby.plug("eth4", "eth3")?;
        alarm(standby, "TipcMiscabled", &["bearers eth3 and eth4 of this node are on one network"])?;
        alarm(active, "TipcMiscabled", &["both bearers of the peer are on the network of eth3"])?;
        for vm in [active, standby] {
            alarm(vm, "LinkDown", &["secondary"])?;
        }
        // So it stands, and no other machine is blamed.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(8) {
            for vm in [active, standby] {
                let (crossed, strange) = (alarm_of(vm, "TipcMiscabled")?, alarm_of(vm, "TipcStrange")?);
                ensure!(crossed.is_some() && strange.is_none(), "{}: {crossed:?}, {strange:?}", vm.name);
            }
            thread::sleep(ms(500));
        }
        println!("{}", active.run(&["drectl"])?);
        println!("{}", standby.run(&["drectl"])?);
        // Its right bearer lost: the link goes over to the wrong one, and comes back. (The kernel's topology service withdraws a link
        // by another name than it had, then.)
        standby.cable("eth3", false)?;
        active.wait_for("tipc link list | grep -q 'eth3-.*:eth4: up'", SOON)?;
        standby.cable("eth3", true)?;
        standby.plug("eth4", "eth4")
    })?;
    pair.settled()?;
    for vm in [active, standby] {
        let (status, list) = (json(vm)?, vm.run(&["tipc", "link", "list"])?);
        ensure!(!list.contains("down") && up(&status, "primary") == Some(true), "{status}\n{list}");
    }

    // Its two cables swapped: both links stand, and both are told to be crossed, on both nodes.
    pair.unmoved("eth3 and eth4 swapped", ms(500), |still| {
        still.standby.plug("eth4", "eth3")?;
        still.standby.plug("eth3", "eth4")?;
        for vm in [still.active, still.standby] {
            let words = [
                "link primary begins at eth3 here and ends at eth4 of the peer",
                "link secondary begins at eth4 here and ends at eth3 of the peer",
            ];
            let text = alarm(vm, "LinkCrossed", &words)?;
            println!("{}: {text}", vm.name);
        }
        still.standby.plug("eth4", "eth4")?;
        still.standby.plug("eth3", "eth3")
    })?;
    let (active, standby) = pair.settled()?;

    // Switchover.
    let seen = pair.judged(ms(1000), || active.run(&["drectl", "switchover"]).map(drop))?;
    pair.moved("drectl switchover", &seen, standby, ms(3000))?;

    // The election process killed: over TIPC the kernel tells the peer at once; over UDP, in the same machines, D/2 of silence does.
    let mut tipc = kills(&pair, "TIPC", "withdrawn")?;
    // Another transport by reload: nothing of TIPC is left open, and nothing that its kernel said is left standing.
    for vm in pair.lab.machines() {
        reload(vm, "s/transport = \"tipc\"/transport = \"udp\"/")?;
    }
    pair.settled()?;
    for vm in pair.lab.machines() {
        ensure!(bearers(vm)?.is_empty(), "{}: TIPC lies open: {:?}", vm.name, bearers(vm)?);
        let status = json(vm)?;
        let links = status["links"].as_array().context("links")?;
        ensure!(
            links.len() == 2 && links.iter().all(|l| l["up"] == true && l["measured"] == "link"),
            "{status}"
        );
    }
    let mut udp = kills(&pair, "UDP", "silent")?;
    let (by_tipc, by_udp) = (median(&mut tipc), median(&mut udp));
    println!("FIGURE VM: noticed, medians: TIPC {by_tipc:.1} ms, UDP {by_udp:.1} ms (D = {D_MS} ms)");
    // Asked for are 10 ms; a machine that is busy otherwise may take a few times that, but not an interval.
    ensure!(by_tipc < INTERVAL_MS / 2.0, "over TIPC a killed process is noticed after {tipc:.1?} ms");
    // The last heartbeat is up to an interval old when the process dies: D/2 of silence is over so much earlier.
    ensure!(
        by_udp > by_tipc && (D_MS / 2.0 - INTERVAL_MS..D_MS).contains(&by_udp),
        "over UDP a killed process is noticed after {udp:.1?} ms"
    );

    // And back, on the standby with a dre-tipc.service that does not run, and without a daemon-reload: dre-elect has it started.
    let (active, standby) = pair.settled()?;
    standby.sh("systemctl stop dre-tipc")?;
    for vm in [active, standby] {
        reload(vm, "s/transport = \"udp\"/transport = \"tipc\"/")?;
    }
    pair.settled()?;
    for vm in pair.lab.machines() {
        is_set_up(vm)?;
        ensure!(vm.run(&["systemctl", "is-active", "dre-tipc"])?.trim() == "active");
    }

    // One bearer lost, silently and with its carrier: shown within a second, and nothing moves.
    for (net, link) in [("eth3", "primary"), ("eth4", "secondary")] {
        for (how, carrier) in [("silent", true), ("without carrier", false)] {
            let case = format!("{net} {how}");
            let mut victim = None;
            pair.unmoved(&case, ms(500), |still| {
                victim = Some(still.active);
                shows(&pair, &case, link, || match carrier {
                    true => still.active.silent(net, true),
                    false => still.active.cable(net, false),
                })
            })?;
            let victim = victim.context("a victim")?;
            victim.silent(net, false)?;
            victim.cable(net, true)?;
        }
    }
    // With a D of seconds too: the tolerance does not follow it.
    for vm in pair.lab.machines() {
        reload(vm, "s/missed_max = 5/missed_max = 30/; $a [election]\\nstartup_hold_ms = 3000")?;
        vm.wait_for("test $(tipc bearer get tolerance media eth device eth4) = 400", SOON)?;
    }
    pair.unmoved("eth4 silent, D = 3 s", ms(500), |still| {
        shows(&pair, "eth4 silent, D = 3 s", "secondary", || still.active.silent("eth4", true))?;
        still.active.silent("eth4", false)
    })?;
    for vm in pair.lab.machines() {
        reload(vm, "s/missed_max = 30/missed_max = 5/")?;
        vm.wait_for("test $(tipc bearer get tolerance media eth device eth4) = 250", SOON)?;
    }

    // Both, with the arbitrator in reach of both: the incumbent stays, the other says why.
    pair.unmoved("both bearers cut, arbitrator reached", ms(500), |still| {
        for net in ["eth3", "eth4"] {
            still.active.silent(net, true)?;
        }
        alarm(still.standby, "PeerStillServes", &[])?;
        alarm(still.standby, "PeerGone", &["no TIPC link"])?;
        for net in ["eth3", "eth4"] {
            still.active.silent(net, false)?;
        }
        Ok(())
    })?;
    pair.settled()?;

    // Both bearers disabled by hand on the active: evidence, and no claim. A reload brings them back.
    pair.unmoved("both bearers disabled on the active", ms(500), |still| {
        let cursor = still.standby.cursor()?;
        still.active.sh("for i in eth3 eth4; do tipc bearer disable media eth device $i; done")?;
        alarm(still.standby, "PeerStillServes", &[])?;
        let doubts = still.standby.entries_after(&cursor, &[SUSPECTED])?;
        ensure!(!doubts.is_empty(), "no evidence: {}", still.standby.journal_after(&cursor, &["-u", "dre"])?);
        still.active.sh("systemctl reload dre-tipc").map(drop)
    })?;
    let (active, standby) = pair.settled()?;

    // A bearer taken away and added again by reload.
    for vm in [active, standby] {
        reload(vm, "s/, secondary = \"eth4\" }/ } # one/; /heartbeat.tipc/,/bearers/s/# one//")?;
    }
    for vm in [active, standby] {
        vm.wait_for("test \"$(tipc bearer list)\" = eth:eth3", SOON)?;
    }
    pair.settled()?;
    for vm in [active, standby] {
        let status = json(vm)?;
        ensure!(up(&status, "primary") == Some(true) && up(&status, "secondary").is_none(), "{status}");
        reload(
            vm,
            "/heartbeat.tipc/,/bearers/s/bearers = .*/bearers = { primary = \"eth3\", secondary = \"eth4\" }/",
        )?;
    }
    pair.settled()?;
    for vm in [active, standby] {
        is_set_up(vm)?;
    }

    // An interface that vanishes and comes back has its bearer again by itself.
    pair.unmoved("the standby's eth4 taken out and put back", ms(500), |still| {
        let standby = still.standby;
        standby.plugged("eth4", false)?;
        alarm(standby, "TipcSetup", &["no eth4"])?;
        alarm(standby, "LinkDown", &["secondary"])?;
        ensure!(bearers(standby)? == ["eth:eth3"], "{:?}", bearers(standby)?);
        standby.plugged("eth4", true)?;
        standby.wait_for("tipc bearer list | grep -q eth:eth4", SOON).map(drop)
    })?;
    let (_, standby) = pair.settled()?;
    is_set_up(standby)?;

    // Undone on stop, but only what was ours; and a stop without the module is none the worse.
    standby.sh("tipc bearer enable media eth device eth2; systemctl stop dre dre-tipc")?;
    let left = bearers(standby)?;
    ensure!(left == ["eth:eth2"], "left after stop: {left:?}");
    standby.sh("tipc bearer disable media eth device eth2; systemctl start dre-tipc")?;
    is_set_up(standby)?;
    standby.sh("for i in eth3 eth4; do tipc bearer disable media eth device $i; done; modprobe -r tipc; systemctl stop dre-tipc")?;
    ensure!(standby.run(&["systemctl", "show", "-P", "Result", "dre-tipc"])?.trim() == "success");
    ensure!(
        standby.run_for(&["test", "-e", "/sys/module/tipc"], SOON)?.code == Some(1),
        "the stop loaded the module"
    );
    standby.sh("systemctl start dre")?;
    pair.settled()?;

    // 30 % loss and 50 ms of delay on both links, both ways, over TIPC: nothing moves.
    bad_network(&pair, "TIPC")?;

    // Power loss.
    let (active, standby) = pair.settled()?;
    let seen = pair.judged(ms(2500), || active.power_loss().map(drop))?;
    pair.moved("power loss", &seen, standby, ms(5000))?;
    pair.unboot(active, "the return of a node that lost power", Vm::boot)?;

    // A reboot of the standby and of the active, judged: TIPC comes back by itself.
    let (_, standby) = pair.settled()?;
    pair.unboot(standby, "reboot of the standby", Vm::reboot)?;
    let (active, standby) = pair.settled()?;
    let seen = pair.judged(ms(500), || active.reboot())?;
    pair.moved("reboot of the active", &seen, standby, ms(5000))?;
    let (now, again) = pair.settled()?;
    ensure!(now.name == standby.name, "the rebooted node is the standby");
    is_set_up(again)?;

    // Both power-cycled: no hand is needed, and no two at once.
    let seen = pair.judged(ms(500), || {
        for vm in pair.lab.machines() {
            vm.power_loss()?;
        }
        pair.lab.boot()?;
        pair.settled().map(drop)
    })?;
    let (active, standby) = pair.settled()?;
    ensure!(
        seen.holder().is_some_and(|t| t.who() == active.name),
        "{} is active, and {}\n{}",
        active.name,
        seen.summary(),
        pair.journals()
    );
    for vm in [active, standby] {
        is_set_up(vm)?;
    }
    Ok(())
}

impl Machines {
    /// A node goes (it is not the active one) and is back; the other serves all the time.
    fn unboot(&self, vm: &Vm, case: &str, boot: impl FnOnce(&Vm) -> Result<()>) -> Result<()> {
        let other = self.lab.other(vm);
        let seen = self.judged(ms(500), || {
            boot(vm)?;
            self.settled().map(drop)
        })?;
        println!("FIGURE VM, {case}: outage {:.0} ms", outage_ms(&seen));
        ensure!(outage_ms(&seen) < 2000.0, "{case}: {}", seen.summary());
        let holders = seen.holders();
        ensure!(
            !holders.is_empty() && holders.iter().all(|t| t.who() == other.name),
            "{case}: {}\n{}",
            seen.summary(),
            self.journals()
        );
        is_set_up(vm)
    }
}

/// netem on both heartbeat networks of both nodes.
fn bad_network(pair: &Machines, transport: &str) -> Result<()> {
    let case = format!("30 % loss and 50 ms delay on both links for 20 s, {transport}");
    let each = |args: &[&str]| -> Result<()> {
        for vm in pair.lab.machines() {
            for link in ["eth3", "eth4"] {
                vm.run(&[&["tc", "qdisc", args[0], "dev", link, "root"], &args[1..]].concat())?;
            }
        }
        Ok(())
    };
    pair.unmoved(&case, Duration::ZERO, |_| {
        each(&["add", "netem", "delay", "50ms", "loss", "30%"])?;
        thread::sleep(Duration::from_secs(20));
        Ok(())
    })?;
    println!("{}", pair.lab.hadev1.run(&["drectl"])?);
    each(&["del"])?;
    pair.settled().map(drop)
}

/// What the words of a refusal tell the operator to type.
const AGAIN: &str = "systemctl stop dre dre-tipc && modprobe -r tipc && systemctl start dre";

#[test]
fn tipc_that_is_set_up_wrongly_explains_itself() -> Result<()> {
    let pair = Machines::start(&configuration("tipc", "eth1"), |_| Ok(()))?;

    // Another network id on one node. The kernel has taken the old one: words, in drectl too, and no try after try.
    let (_, standby) = pair.settled()?;
    let restarts = |vm: &Vm| {
        Ok::<_, anyhow::Error>(
            vm.run(&["systemctl", "show", "-P", "NRestarts", "dre-tipc"])?.trim().to_owned(),
        )
    };
    let edit = "sed -i 's/network_id = 1983/network_id = 1984/' /etc/dre/dre.toml";
    pair.unmoved("another network id, refused by the kernel", ms(500), |_| {
        let cursor = standby.cursor()?;
        standby.sh(edit)?;
        ensure!(!standby.run_for(&["systemctl", "restart", "dre-tipc"], SOON)?.ok());
        let words = standby.journal_after(&cursor, &["-u", "dre-tipc"])?;
        ensure!(
            words.contains("joined network 1983, and 1984 is asked for") && words.contains(AGAIN),
            "{words}"
        );
        ensure!(standby.run(&["systemctl", "show", "-P", "ExecMainStatus", "dre-tipc"])?.trim() == "78");
        thread::sleep(ms(5000));
        ensure!(restarts(standby)? == "0", "tried again though nothing can come of it");
        // The election still has the old settings; the unit's failure is in its status all the same.
        let text = alarm(standby, "TipcSetup", &["dre-tipc.service failed", "joined network 1983"])?;
        println!("{text}");
        let page = standby.run(&["drectl"])?;
        ensure!(page.contains(AGAIN), "{page}");
        Ok(())
    })?;

    // After a reboot it has the new one: they do not talk, and both say why.
    let (active, standby) = (pair.lab.other(standby), standby);
    let seen = pair.judged(ms(500), || {
        standby.reboot()?;
        alarm(active, "TipcStrange", &["speaks for network 1984", "this node is of network 1983"])?;
        alarm(standby, "TipcStrange", &["speaks for network 1983", "this node is of network 1984"]).map(drop)
    })?;
    ensure!(
        !seen.holders().is_empty() && seen.holders().iter().all(|t| t.who() == active.name),
        "{}",
        seen.summary()
    );
    for (vm, own, other) in [(active, "1983", "1984"), (standby, "1984", "1983")] {
        let page = vm.run(&["drectl"])?;
        println!("{page}");
        ensure!(
            page.contains(&format!("network {own}:")) && page.contains(&format!("for network {other},")),
            "{page}"
        );
    }
    // The way out that the words named, as it is typed.
    standby.sh(&format!("sed -i 's/network_id = 1984/network_id = 1983/' /etc/dre/dre.toml; {AGAIN}"))?;
    let (active, standby) = pair.settled()?;
    is_set_up(standby)?;

    // One address on both.
    let (mine, other) = if standby.name == "hadev1" { ("1.1.23", "1.1.29") } else { ("1.1.29", "1.1.23") };
    let seen = pair.judged(ms(500), || {
        standby.sh(&format!(
            "sed -i 's/{mine}/X/; s/{other}/{mine}/; s/X/{other}/' /etc/dre/dre.toml; {AGAIN}"
        ))?;
        for vm in [active, standby] {
            let text = format!("another machine has this node's TIPC address {other}");
            alarm(vm, "TipcStrange", &[&text])?;
        }
        Ok(())
    })?;
    ensure!(
        !seen.holders().is_empty() && seen.holders().iter().all(|t| t.who() == active.name),
        "{}",
        seen.summary()
    );
    standby
        .sh(&format!("sed -i 's/{mine}/X/; s/{other}/{mine}/; s/X/{other}/' /etc/dre/dre.toml; {AGAIN}"))?;
    let (_, standby) = pair.settled()?;

    // An address that somebody gave before us: words in the journal and in drectl status.
    pair.unmoved("an address set differently by another hand", ms(500), |still| {
        let standby = still.standby;
        let cursor = standby.cursor()?;
        standby.sh(
            "systemctl stop dre dre-tipc && modprobe -r tipc && modprobe tipc && tipc node set netid 1983 && \
             tipc node set address 1.1.99 && systemctl start dre",
        )?;
        let words = format!("has the address 1.1.99, and {mine} is asked for");
        ensure!(standby.journal_after(&cursor, &["-u", "dre-tipc"])?.contains(&words), "{}", pair.journals());
        alarm(standby, "TipcSetup", &[&words, AGAIN])?;
        ensure!(bearers(standby)?.is_empty(), "bearers under a wrong address: {:?}", bearers(standby)?);
        let page = standby.run(&["drectl"])?;
        println!("{page}");
        ensure!(page.contains(&words), "{page}");
        let checked = standby.run_for(&["drectl", "check"], SOON)?;
        ensure!(!checked.ok() && checked.stdout.contains(&words), "{}", checked.stdout);
        standby.sh(AGAIN).map(drop)
    })?;
    pair.settled()?;
    is_set_up(standby)?;

    // A bearer's interface that is not there: told, the other bearer carries on, and stop undoes it.
    pair.unmoved("a bearer on an interface that is not there", ms(500), |still| {
        let standby = still.standby;
        reload(standby, "s/secondary = \"eth4\"/secondary = \"eth9\"/")?;
        alarm(standby, "TipcSetup", &["link secondary", "no eth9"])?;
        ensure!(bearers(standby)? == ["eth:eth3"], "{:?}", bearers(standby)?);
        let words = standby.run(&["systemctl", "status", "--no-pager", "dre-tipc"])?;
        ensure!(words.contains("trouble: link secondary: this machine has no eth9"), "{words}");
        // In the middle of a reload too.
        let cursor = standby.cursor()?;
        standby.sh("systemctl --no-block reload dre-tipc; sleep 0.5; systemctl stop dre dre-tipc")?;
        let left = bearers(standby)?;
        ensure!(left.is_empty(), "left after stop: {left:?}\n{}", standby.journal_after(&cursor, &["-u", "dre-tipc"])?);
        standby.sh("sed -i 's/secondary = \"eth9\"/secondary = \"eth4\"/' /etc/dre/dre.toml; systemctl start dre").map(drop)
    })?;
    pair.settled()?;

    // A kernel without TIPC: words of both, with the way out.
    pair.unmoved("no TIPC in the kernel", ms(500), |still| {
        let standby = still.standby;
        let cursor = standby.cursor()?;
        standby.sh("echo 'install tipc /bin/false' > /etc/modprobe.d/no-tipc.conf; systemctl stop dre dre-tipc && modprobe -r tipc && systemctl start dre")?;
        let told = ["the kernel has no TIPC", "modprobe tipc", "linux-image-amd64", "transport = \"udp\""];
        let words = standby.journal_after(&cursor, &["-u", "dre-tipc"])?;
        ensure!(told.iter().all(|word| words.contains(word)), "{words}\n{}", standby.journal(&["-n150"])?);
        ensure!(standby.run(&["systemctl", "show", "-P", "ExecMainStatus", "dre-tipc"])?.trim() == "78");
        for name in ["LinkClosed", "TipcSetup"] {
            alarm(standby, name, &told)?;
        }
        let page = standby.run(&["drectl"])?;
        ensure!(told.iter().all(|word| page.contains(word)), "{page}");
        println!("{page}");
        Ok(())
    })
}

const BOND: &str = "
ip link add bond0 type bond mode active-backup miimon 50
for leg in eth1 eth5; do ip addr flush dev $leg; ip link set $leg down; ip link set $leg master bond0; done
ip link set bond0 up
";

/// UDP on the same machines; VIPs on a bond; losses and delays.
#[test]
fn udp_bond_and_a_bad_network() -> Result<()> {
    let pair = Machines::start(&configuration("udp", "bond0"), |root| {
        let file = root.join("etc/lab-net.sh");
        let name = std::fs::read_to_string(root.join("etc/hostname"))?;
        let (v4, v6) = if name.trim() == "hadev1" {
            ("172.16.9.54", "2001:db8:9::54")
        } else {
            ("172.16.9.55", "2001:db8:9::55")
        };
        let script = std::fs::read_to_string(&file)?;
        let addresses = format!("ip addr add {v4}/24 brd + dev bond0\nip addr add {v6}/64 nodad dev bond0\n");
        std::fs::write(&file, script + BOND + &addresses)?;
        Ok(())
    })?;
    // TIPC is not loaded where it is not configured.
    for vm in pair.lab.machines() {
        ensure!(!vm.sh("cat /proc/modules")?.contains("tipc"), "tipc is loaded");
    }

    // The bond's active port is pulled: the node keeps role and VIPs, and is heard on the other port at once.
    let mut outages = vec![];
    for _ in 0..3 {
        let still = pair.still()?;
        let active = still.active;
        let leg = || {
            Ok::<_, anyhow::Error>(
                active.sh("cat /sys/class/net/bond0/bonding/active_slave")?.trim().to_owned(),
            )
        };
        let pulled = leg()?;
        let mut at = None;
        let seen = pair.judged(ms(2000), || {
            at = Some(product::now());
            active.cable(&pulled, false)
        })?;
        pair.stayed("the bond's active port pulled", &seen, &still)?;
        let at = at.context("a moment")?;
        ensure!(leg()? != pulled, "the bond did not switch");
        ensure!(seen.announces().iter().any(|a| a.at >= at), "nothing was announced after the pull");
        outages.push(outage_ms(&seen));
        active.cable(&pulled, true)?;
        pair.settled()?;
    }
    ensure!(median(&mut outages) < 300.0, "the bond's active port pulled: {outages:.0?} ms");
    // Both ports: now the node is unfit, and the other takes over.
    let (active, standby) = pair.settled()?;
    let seen = pair.judged(ms(2000), || {
        active.cable("eth1", false)?;
        active.cable("eth5", false)
    })?;
    pair.moved("both of the bond's ports pulled", &seen, standby, ms(5000))?;
    for leg in ["eth1", "eth5"] {
        active.cable(leg, true)?;
    }

    paused(&pair)?;

    // 30 % loss and 50 ms of delay on both links, both ways: nothing moves.
    bad_network(&pair, "UDP")
}

/// As a time server would.
fn set_clock(vm: &Vm) -> Result<()> {
    let host = SystemTime::UNIX_EPOCH.elapsed()?.as_secs_f64();
    vm.sh(&format!("date -s @{host:.3}")).map(drop)
}

/// README's third promise: a machine that stood still with its clocks believes in its lease for the rest of it, and not longer.
fn paused(pair: &Machines) -> Result<()> {
    let (active, standby) = pair.settled()?;
    let judge = pair.lab.judge(VIP)?;
    active.pause(true)?;
    standby.wait_for("systemctl show -P StatusText dre | grep -q '^ACTIVE.*VIPs 2/2'", SOON)?;
    thread::sleep(ms(1000));
    let resumed = lab::sys::now();
    active.pause(false)?;
    thread::sleep(ms(3000));
    let seen = judge.stop()?;
    // (What was sent to it meanwhile waits before it, and is answered when it goes on.)
    let claimed =
        seen.first_answer(standby.name, dre::logic::time::Moment::ZERO).context("nobody took over")?;
    let again = seen.first_answer(active.name, claimed);
    ensure!(again.is_none_or(|at| at >= resumed), "two before it went on: {}", seen.summary());
    let last = seen.last_answer(active.name).context("it never answered")?;
    let more = last.since(resumed).as_secs_f64() * 1e3;
    println!("FIGURE VM, paused with its clocks and resumed: it answers for {more:.0} ms more");
    ensure!(more < D_MS + 100.0, "longer than a lease: {}\n{}", seen.summary(), pair.journals());
    // Its wall clock stood still too: that is said, and mended as one would.
    alarm(active, "ClockSkew", &[])?;
    set_clock(active)?;
    let (now, _) = pair.settled()?;
    ensure!(now.name == standby.name, "who took over lost the role to who was paused: {}", pair.journals());
    Ok(())
}
