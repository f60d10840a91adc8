//! `make bench-rules`: dre-sync beside lsyncd and beside one rsync per event, on the same two nodes, tree and disk, in one run.
//!
//! lsyncd is given its best: `delay = 0` and TCP_NODELAY on both ends (its default waits 15 s). The loop runs one rsync for each
//! event, of that file, one after the other, as incron's tables did; its events wait in a file, so that none is lost to a full
//! queue. Both go one way only and do not wait for the disk; dre-sync goes both ways, verifies each content and makes it durable
//! before it is acknowledged.
//!
//! Everything is seen by one clock: the harness writes on one node and reads on the other, from outside. Reported, never judged;
//! what is demanded stands beside it.

mod lab;
mod product;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Lab;
use lab::node::Node;
use product::ms;
use product::rules::{Dice, Files, Set, UNIT, lay, quantile, table, until};

const OURS: Set = Set { name: "bench", root: "/srv/dre" };
const LARGE: Set = Set { name: "large", root: "/srv/large" };
const LSYNCD: &str = "/srv/lsyncd";
const LOOP: &str = "/srv/loop";
const PORTS: [u16; 2] = [1695, 8730];
/// Where the others' rsync listens, on hadev2's first heartbeat address.
const DAEMON: &str = "172.16.11.55:8731";
/// dre-sync with the rsync that it keeps, and the rsync that systemd starts for the peer's.
const OWN_UNITS: [&str; 2] = ["dre-sync.service", r"system-dre\x2dsync\x2drsync.slice"];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-rules: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `DRE_EDITS`: how many single edits each.
fn edits() -> usize {
    std::env::var("DRE_EDITS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
}

/// What one mechanism did.
#[derive(Default)]
struct Figures {
    edit_ms: Vec<f64>,
    lost: usize,
    made: Duration,
    /// All 10,000 visible after the first was begun; `None`: not within the limit, and how many were.
    visible: Option<Duration>,
    arrived: usize,
    idle_cpu_s: f64,
}

struct Bench {
    files: Files,
    dice: Dice,
}

fn run() -> Result<()> {
    let lab = Lab::builder()
        .packages(&["lsyncd", "inotify-tools"])
        .on_disk()
        .install(|root| {
            lay(root, &table(OURS, ""), &[OURS, LARGE])?;
            for dir in [LSYNCD, LOOP] {
                fs::create_dir_all(root.join(&dir[1..]))?;
            }
            Ok(())
        })
        .start()?;
    let mut bench = Bench { files: Files { lab }, dice: Dice::new() };
    let profile = std::env::var("DRE_PROFILE").unwrap_or_else(|_| "dev".into());
    println!(
        "dre-sync of the {profile} build; 10,000 files of 0.2 to 2 kB in 100 directories; ext4 on this machine's disk"
    );
    let (one, two) = (&bench.files.lab.hadev1, &bench.files.lab.hadev2);
    fill(one, OURS.root, 100, 100, &mut bench.dice)?;
    let begun = Instant::now();
    bench.files.equal(OURS, Duration::from_secs(120))?;
    println!("10,000 files found and taken over: {:.2} s", begun.elapsed().as_secs_f64());
    // The same tree for the others, on both nodes.
    for node in [one, two] {
        node.sh(&format!(
            "cp -a {}/. {LSYNCD}/ && cp -a {}/. {LOOP}/ && rm -rf {LSYNCD}/.dre* {LOOP}/.dre* && sync",
            OURS.root, OURS.root
        ))?;
    }

    let ours = bench.measure("dre-sync", OURS.root, &OWN_UNITS, Duration::from_secs(60))?;
    let (one, two) = (&bench.files.lab.hadev1, &bench.files.lab.hadev2);
    for node in [one, two] {
        node.sh("systemctl stop dre-sync.service dre-sync-rsync.socket")?;
    }
    daemon(two)?;
    lsyncd(one)?;
    let lsyncd = bench.measure(
        "lsyncd",
        LSYNCD,
        &["bench-lsyncd.service", "bench-rsyncd.service"],
        Duration::from_secs(60),
    )?;
    let one = &bench.files.lab.hadev1;
    one.run(&["systemctl", "stop", "bench-lsyncd"])?;
    watch_loop(one)?;
    let incron = bench.measure(
        "one rsync per event",
        LOOP,
        &["bench-loop.service", "bench-rsyncd.service"],
        Duration::from_secs(400),
    )?;
    bench.files.lab.hadev1.run(&["systemctl", "stop", "bench-loop"])?;
    bench.files.lab.hadev2.run(&["systemctl", "stop", "bench-rsyncd"])?;

    let lsyncd_median = quantile(&mut lsyncd.edit_ms.clone(), 0.5);
    let all = [
        ("dre-sync", ours),
        ("lsyncd, delay 0, TCP_NODELAY", lsyncd),
        ("a loop of one rsync per event", incron),
    ];
    println!(
        "\n| | one edit visible on the peer: median / p90 / p99 / max | 10,000 new files, all visible (made in) | CPU in 20 idle seconds |"
    );
    println!("|---|---|---|---|");
    for (name, figures) in &all {
        let mut ms = figures.edit_ms.clone();
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|share| quantile(&mut ms, share));
        let visible = match figures.visible {
            Some(time) => format!("{:.2} s", time.as_secs_f64()),
            None => format!("not in 400 s: {} were", figures.arrived),
        };
        let lost = if figures.lost > 0 {
            format!(", {} of {} not in 20 s", figures.lost, figures.lost + ms.len())
        } else {
            String::new()
        };
        println!(
            "| {name} | {p50:.1} / {p90:.1} / {p99:.1} / {max:.1} ms{lost} | {visible} ({:.2} s) | {:.2} s |",
            figures.made.as_secs_f64(),
            figures.idle_cpu_s
        );
    }
    let mut ours = all[0].1.edit_ms.clone();
    let (median, p99) = (quantile(&mut ours, 0.5), quantile(&mut ours, 0.99));
    demanded("one edit, median", median, "ms", 30.0);
    demanded("one edit, p99", p99, "ms", 150.0);
    demanded("one edit, median, against lsyncd's", median, "ms", lsyncd_median);
    demanded("10,000 new files", all[0].1.visible.map_or(f64::INFINITY, |t| t.as_secs_f64()), "s", 3.0);
    bench.large()
}

fn demanded(what: &str, is: f64, unit: &str, most: f64) {
    let verdict = if is <= most { "met" } else { "MISSED" };
    println!("FIGURE {what}: {is:.2} {unit}, demanded {most:.2} {unit} or less: {verdict}");
}

fn content(dice: &mut Dice) -> Vec<u8> {
    let size = 200 + dice.below(1800) as usize;
    let mut bytes = dice.bytes(size);
    // Text, as rules are.
    bytes.iter_mut().for_each(|b| *b = b' ' + *b % 95);
    bytes
}

fn fill(node: &Node, root: &str, dirs: usize, each: usize, dice: &mut Dice) -> Result<()> {
    let root = node.place(root);
    for d in 0..dirs {
        fs::create_dir_all(root.join(format!("d{d}")))?;
        for f in 0..each {
            fs::write(root.join(format!("d{d}/f{f}")), content(dice))?;
        }
    }
    Ok(())
}

/// The others' receiving end: an ordinary daemon.
fn daemon(node: &Node) -> Result<()> {
    let modules: String = [("lsyncd", LSYNCD), ("loop", LOOP)]
        .map(|(name, path)| format!("[{name}]\npath = {path}\nread only = no\n"))
        .concat();
    let text = format!(
        "uid = root\ngid = root\nuse chroot = no\nreverse lookup = no\nsocket options = TCP_NODELAY\n{modules}"
    );
    node.write("/etc/bench-rsyncd.conf", text)?;
    let (address, port) = DAEMON.split_once(':').context("an address and a port")?;
    unit(
        node,
        "bench-rsyncd",
        &format!(
            "exec rsync --daemon --no-detach --address={address} --port={port} --config=/etc/bench-rsyncd.conf"
        ),
    )?;
    node.wait_for(&format!("ss -Hltn | grep -q {DAEMON}"), Duration::from_secs(10)).map(drop)
}

fn unit(node: &Node, name: &str, script: &str) -> Result<()> {
    let unit = format!("--unit={name}");
    let how = ["--expand-environment=no", "--collect", "-p", "CPUAccounting=yes"];
    node.run(&[&["systemd-run", "-q"], &how[..], &[unit.as_str(), "sh", "-c", script]].concat()).map(drop)
}

fn lsyncd(node: &Node) -> Result<()> {
    let text = format!(
        "settings {{ nodaemon = true, statusFile = '/run/lsyncd.status', logfile = '/var/log/lsyncd.log' }}\n\
         sync {{ default.rsync, source = '{LSYNCD}/', target = 'rsync://{DAEMON}/lsyncd', delay = 0, delete = true,\n\
           rsync = {{ archive = true, _extra = {{ '--sockopts=TCP_NODELAY' }} }} }}\n"
    );
    node.write("/etc/bench-lsyncd.lua", text)?;
    unit(node, "bench-lsyncd", "exec lsyncd -nodaemon /etc/bench-lsyncd.lua")?;
    // It begins with a comparison of everything.
    node.wait_for("grep -q 'Startup of .* finished' /var/log/lsyncd.log", Duration::from_secs(30)).map(drop)
}

fn watch_loop(node: &Node) -> Result<()> {
    let script = format!(
        "inotifywait -m -r -e close_write,create,delete,move,attrib --format '%w%f' -o /run/loop.events {LOOP} 2>/run/loop.log & \
         tail -n +1 -F /run/loop.events 2>/dev/null | while read -r f; do \
         rsync -dlptgoDR --sockopts=TCP_NODELAY \"{LOOP}/./${{f#{LOOP}/}}\" rsync://{DAEMON}/loop/ 2>/dev/null; done"
    );
    unit(node, "bench-loop", &script)?;
    node.wait_for("grep -q 'Watches established' /run/loop.log", Duration::from_secs(30)).map(drop)
}

/// Seconds of CPU that those of the units that there are on the node have used, with all their processes that ever were.
fn cpu(node: &Node, units: &[&str]) -> Result<f64> {
    let mut sum = 0.0;
    for unit in units {
        // A unit of the other node's is not started here.
        if node.run(&["systemctl", "show", "-P", "ActiveState", unit])?.trim() == "active" {
            let text = node.run(&["systemctl", "show", "-P", "CPUUsageNSec", unit])?;
            let ns: f64 = text.trim().parse().with_context(|| format!("{unit}: CPUUsageNSec is {text:?}"))?;
            sum += ns / 1e9;
        }
    }
    Ok(sum)
}

/// MiB resident of all processes of dre-sync's, pages that they share counted for each.
fn resident(node: &Node) -> Result<f64> {
    let mut kib = 0.0;
    for unit in OWN_UNITS {
        let group = node.run(&["systemctl", "show", "-P", "ControlGroup", unit])?;
        if group.trim().is_empty() {
            continue;
        }
        let all = node.sh(&format!(
            "find '/sys/fs/cgroup{}' -name cgroup.procs -exec cat {{}} + | while read -r p; do grep VmRSS: /proc/$p/status; done",
            group.trim()
        ))?;
        for line in all.lines() {
            let figure = line.split_whitespace().nth(1).context("VmRSS")?;
            kib += figure.parse::<f64>()?;
        }
    }
    ensure!(kib > 0.0, "{}: no process of dre-sync's", node.name);
    Ok(kib / 1024.0)
}

impl Bench {
    fn nodes(&self) -> (&Node, &Node) {
        (&self.files.lab.hadev1, &self.files.lab.hadev2)
    }

    /// Edits, many new files, peace.
    fn measure(&mut self, name: &str, root: &str, units: &[&str], limit: Duration) -> Result<Figures> {
        thread::sleep(Duration::from_secs(3));
        let mut figures = Figures::default();
        let (from, to) = (self.files.lab.hadev1.place(root), self.files.lab.hadev2.place(root));
        for _ in 0..edits() {
            let path = format!("d{}/f{}", self.dice.below(100), self.dice.below(100));
            let new = content(&mut self.dice);
            match edit(from.join(&path), to.join(&path), &new)? {
                Some(time) => figures.edit_ms.push(time.as_secs_f64() * 1e3),
                None => figures.lost += 1,
            }
            thread::sleep(ms(150 + self.dice.below(200)));
        }
        println!("{name}: edits done");

        let contents: Vec<Vec<u8>> = (0..10_000).map(|_| content(&mut self.dice)).collect();
        let begun = Instant::now();
        for d in 0..100 {
            fs::create_dir(from.join(format!("new{d}")))?;
            for f in 0..100 {
                fs::write(from.join(format!("new{d}/f{f}")), &contents[d * 100 + f])?;
            }
        }
        figures.made = begun.elapsed();
        let mut full = [false; 100];
        while begun.elapsed() < limit {
            for (d, full) in full.iter_mut().enumerate() {
                *full = *full || arrived(&to.join(format!("new{d}"))) == 100;
            }
            if full.iter().all(|full| *full) {
                figures.visible = Some(begun.elapsed());
                break;
            }
            // Looked at more often, this would take a good part of a core from what is measured.
            thread::sleep(ms(20));
        }
        figures.arrived = (0..100).map(|d| arrived(&to.join(format!("new{d}")))).sum();
        if figures.visible.is_some() {
            for (n, content) in contents.iter().enumerate() {
                let path = to.join(format!("new{}/f{}", n / 100, n % 100));
                // A file may be seen before it is whole where it is written in place; not here.
                until(&format!("{name}: {} whole", path.display()), Duration::from_secs(20), ms(5), || {
                    Ok(fs::read(&path)? == *content)
                })?;
            }
        }
        println!("{name}: new files done");

        // What follows the noise is worked off first, or not.
        thread::sleep(Duration::from_secs(10));
        let (one, two) = self.nodes();
        let all = || -> Result<f64> { Ok(cpu(one, units)? + cpu(two, units)?) };
        let before = all()?;
        thread::sleep(Duration::from_secs(20));
        figures.idle_cpu_s = all()? - before;
        Ok(figures)
    }

    /// A set of 100,000 files.
    fn large(&mut self) -> Result<()> {
        println!("\nA set of 100,000 files in 1,000 directories");
        let one = &self.files.lab.hadev1;
        fill(one, LARGE.root, 1000, 100, &mut self.dice)?;
        let (one, two) = self.nodes();
        for node in [one, two] {
            node.write("/etc/dre/sync.toml", table(LARGE, ""))?;
            node.run(&["systemctl", "daemon-reload"])?;
            node.sh("systemctl start dre-sync-rsync.socket 2>/dev/null; true")?;
        }
        let begun = Instant::now();
        for node in [two, one] {
            node.run(&["systemctl", "restart", UNIT])?;
        }
        self.files.equal(LARGE, Duration::from_secs(300))?;
        println!(
            "FIGURE 100,000 files found, taken over and made durable: {:.1} s",
            begun.elapsed().as_secs_f64()
        );
        thread::sleep(Duration::from_secs(2));

        let mut scans = vec![];
        for _ in 0..5 {
            two.run(&["systemctl", "stop", UNIT])?;
            let begun = Instant::now();
            two.run(&["systemctl", "start", UNIT])?;
            until("scanned", Duration::from_secs(60), ms(5), || {
                let set = self.files.set(two, LARGE)?;
                Ok(set.counters.scans >= 1 && set.state == "IN_SYNC")
            })?;
            scans.push(begun.elapsed().as_secs_f64());
        }
        println!("starts, each until IN_SYNC: {scans:.2?} s");
        demanded("start scan of 100,000 files, warm, median", quantile(&mut scans, 0.5), "s", 2.0);
        demanded("the slowest of them", quantile(&mut scans, 1.0), "s", 2.0);

        thread::sleep(Duration::from_secs(5));
        let counters = |node| -> Result<_> { Ok(self.files.set(node, LARGE)?.counters) };
        let before = (counters(one)?, counters(two)?, cpu(one, &OWN_UNITS)?, cpu(two, &OWN_UNITS)?);
        self.files.lab.net.count(&PORTS)?;
        thread::sleep(Duration::from_secs(60));
        let traffic = self.files.lab.net.traffic()?;
        let cpus = (cpu(one, &OWN_UNITS)? - before.2, cpu(two, &OWN_UNITS)? - before.3);
        let runs =
            counters(one)?.rsync_runs - before.0.rsync_runs + counters(two)?.rsync_runs - before.1.rsync_runs;
        for (node, cpu_s) in [(one, cpus.0), (two, cpus.1)] {
            demanded(&format!("CPU of an idle minute on {}", node.name), cpu_s, "s", 0.1);
            demanded(&format!("resident on {}, rsync with it", node.name), resident(node)?, "MiB", 150.0);
        }
        demanded("rsync runs in an idle minute", runs as f64, "", 0.0);
        demanded("packets with a content in an idle minute", traffic.loaded as f64, "", 0.0);
        println!("in that minute: {traffic:?}");

        // One edit among 100,000.
        let (from, to) = (one.place(LARGE.root), two.place(LARGE.root));
        let mut dice = Dice::new();
        let mut times = vec![];
        for _ in 0..50 {
            let path = format!("d{}/f{}", dice.below(1000), dice.below(100));
            times.extend(
                edit(from.join(&path), to.join(&path), &content(&mut dice))?.map(|t| t.as_secs_f64() * 1e3),
            );
            thread::sleep(ms(200));
        }
        ensure!(times.len() == 50, "{} of 50 edits arrived", times.len());
        demanded("one edit among 100,000 files, median", quantile(&mut times, 0.5), "ms", 30.0);
        demanded("one edit among 100,000 files, p99", quantile(&mut times, 0.99), "ms", 150.0);

        // 1,000 changes while the peer was away.
        let mut caught = vec![];
        for _ in 0..3 {
            two.run(&["systemctl", "stop", UNIT])?;
            let changes: Vec<(String, Vec<u8>)> =
                (0..1000).map(|n| (format!("d{}/f{}", n, dice.below(100)), content(&mut dice))).collect();
            for (path, content) in &changes {
                fs::write(from.join(path), content)?;
            }
            until("changes seen", Duration::from_secs(30), ms(50), || {
                Ok(self.files.set(one, LARGE)?.pending >= 1000)
            })?;
            let begun = Instant::now();
            two.run(&["systemctl", "start", "--no-block", UNIT])?;
            let mut left: Vec<&(String, Vec<u8>)> = changes.iter().collect();
            while !left.is_empty() && begun.elapsed() < Duration::from_secs(60) {
                left.retain(|(path, content)| fs::read(to.join(path)).ok().as_deref() != Some(content));
                thread::sleep(ms(10));
            }
            ensure!(left.is_empty(), "{} of 1,000 changes not there after a minute", left.len());
            caught.push(begun.elapsed().as_secs_f64());
            self.files.equal(LARGE, Duration::from_secs(60))?;
        }
        println!("catch-ups: {caught:.2?} s");
        demanded(
            "1,000 changes among 100,000 files, after the peer's dre-sync was started again, median",
            quantile(&mut caught, 0.5),
            "s",
            3.0,
        );
        Ok(())
    }
}

fn arrived(dir: &PathBuf) -> usize {
    // What rsync writes for a moment begins with a dot.
    fs::read_dir(dir)
        .map_or(0, |all| all.flatten().filter(|e| !e.file_name().to_string_lossy().starts_with('.')).count())
}

/// An edit, until the peer has it; `None`: not within 20 s.
fn edit(from: PathBuf, to: PathBuf, content: &[u8]) -> Result<Option<Duration>> {
    let begun = Instant::now();
    fs::write(&from, content).with_context(|| from.display().to_string())?;
    while begun.elapsed() < Duration::from_secs(20) {
        if fs::read(&to).is_ok_and(|seen| seen == content) {
            return Ok(Some(begun.elapsed()));
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(None)
}
