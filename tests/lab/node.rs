//! One node: an overlay on the root file system, a control group, a namespace, and systemd as its PID 1.
//!
//! What a power loss takes from a real machine it takes here: processes, addresses, routes, BPF programs. What a
//! disk keeps stays. So each boot has a new control group (one that was killed goes on killing what is born in
//! it) and a new network namespace.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use dre::logic::time::Moment;

use super::net::Net;
use super::sys;

/// How long a command in a node may take unless it is said otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// What systemd 257 needs beyond nspawn's own set so that services may load BPF and take real-time priority.
const CAPABILITIES: &str =
    "CAP_NET_ADMIN,CAP_NET_RAW,CAP_BPF,CAP_PERFMON,CAP_IPC_LOCK,CAP_SYS_NICE,CAP_SYS_RESOURCE";
const CALLS: &str = "@clock bpf mlockall sched_setscheduler sched_setattr";

const BOOT: &str = r#"
set -e
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$1"
echo $$ > "/sys/fs/cgroup/$1/cgroup.procs"
root=$2 ns=$3 machine=$4 name=$5 capabilities=$6 calls=$7
shift 7
exec systemd-nspawn --quiet -D "$root" --boot --register=no --keep-unit --link-journal=no --resolv-conf=off \
    --timezone=off --settings=no --network-namespace-path="/run/netns/$ns" --machine="$machine" --hostname="$name" \
    --console=pipe --capability="$capabilities" --system-call-filter="$calls" --rlimit=RLIMIT_RTPRIO=99 \
    --rlimit=RLIMIT_MEMLOCK=infinity "$@"
"#;

/// A command's end inside a node.
#[derive(Debug)]
pub struct Output {
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Ended, and with 0.
    pub fn ok(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }
}

/// A boot that is on.
struct Running {
    group: PathBuf,
    group_name: String,
    ns: String,
    leader: Option<i32>,
    alive: Arc<Mutex<bool>>,
    reaper: Option<thread::JoinHandle<()>>,
}

/// One of the two nodes.
pub struct Node {
    pub name: &'static str,
    prefix: String,
    machine: String,
    dir: PathBuf,
    /// Directories of this machine's that it sees and cannot write to, and where.
    shown: Vec<(PathBuf, &'static str)>,
    net: Arc<Net>,
    running: Mutex<Option<Running>>,
    boots: Mutex<u32>,
    /// A process of this boot was killed, stopped or frozen by the test.
    harmed: AtomicBool,
}

impl Node {
    /// Lays the overlay; nothing runs yet.
    pub fn lay(name: &'static str, prefix: &str, dir: &Path, base: &Path, net: Arc<Net>) -> Result<Self> {
        let dir = dir.join(name);
        for d in ["upper", "work", "root"] {
            fs::create_dir_all(dir.join(d))?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            base.display(),
            dir.join("upper").display(),
            dir.join("work").display()
        );
        let out = Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(dir.join("root"))
            .output()?;
        if !out.status.success() {
            bail!("overlay of {name}: {}", String::from_utf8_lossy(&out.stderr));
        }
        let machine = format!("{}-{name}", prefix.replace('.', "-"));
        let node = Self {
            name,
            prefix: prefix.to_owned(),
            machine,
            dir,
            shown: vec![],
            net,
            running: Mutex::new(None),
            boots: Mutex::new(0),
            harmed: AtomicBool::new(false),
        };
        node.write("/etc/hostname", format!("{name}\n"))?;
        node.write(
            "/etc/hosts",
            "127.0.0.1 localhost\n::1 localhost\n172.16.8.50 hadev1\n172.16.8.51 hadev2\n",
        )?;
        let mut id = [0u8; 16];
        fs::File::open("/dev/urandom")?.read_exact(&mut id)?;
        let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
        node.write("/etc/machine-id", id + "\n")?;
        Ok(node)
    }

    /// At its next boot it sees this directory of this machine's there, and cannot write to it.
    pub fn show(&mut self, host: &Path, inside: &'static str) {
        self.shown.push((host.to_owned(), inside));
    }

    /// The node's disk, for files laid down while it is off.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    fn state(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Switches it on and waits until systemd has finished starting.
    pub fn boot(&self) -> Result<()> {
        self.switch_on()?;
        self.wait_running(Duration::from_secs(30))
    }

    /// Switches it on: new namespace, new control group. Does not wait.
    pub fn switch_on(&self) -> Result<()> {
        if super::is_interrupted() {
            bail!("{}: not switched on, the run was interrupted", self.name);
        }
        self.clear()?;
        self.harmed.store(false, Ordering::SeqCst);
        let boot = {
            let mut n = self.boots.lock().unwrap_or_else(PoisonError::into_inner);
            *n += 1;
            *n
        };
        let ns = format!("{}.{}.{boot}", self.prefix, self.name);
        let group_name = ns.clone();
        self.net.plug_in(self.name, &ns)?;
        let console = fs::File::options().create(true).append(true).open(self.dir.join("console.log"))?;
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", BOOT, "boot", &group_name])
            .arg(self.root())
            .args([&ns, &self.machine, self.name, CAPABILITIES, CALLS])
            .args(self.shown.iter().map(|(host, inside)| format!("--bind-ro={}:{inside}", host.display())))
            // Only the network of the container's /proc/sys is its own, and only that may be written.
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            // Ctrl-C is for the harness: it takes nodes down in order.
            .process_group(0)
            .spawn()
            .context("unshare")?;
        let alive = Arc::new(Mutex::new(true));
        let (net, name, flag) = (Arc::clone(&self.net), self.name, Arc::clone(&alive));
        let reaper = thread::spawn(move || {
            let _ = child.wait();
            // A machine that has powered off has no carrier. (After a power loss they are down already.)
            let _ = net.ports(name, false);
            *flag.lock().unwrap_or_else(PoisonError::into_inner) = false;
        });
        *self.state() = Some(Running {
            group: cgroup_root()?.join(&group_name),
            group_name,
            ns,
            leader: None,
            alive,
            reaper: Some(reaper),
        });
        Ok(())
    }

    /// Waits until `systemctl is-system-running` says `running`; an error names the failed units.
    pub fn wait_running(&self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            if !self.is_on() {
                bail!("{}: ended while booting; its console: {}", self.name, self.console());
            }
            if self.leader().is_ok() {
                let left = until.saturating_duration_since(Instant::now());
                let out = self.run_for(&["systemctl", "is-system-running", "--wait"], left)?;
                match out.stdout.trim() {
                    "running" => return Ok(()),
                    "degraded" => {
                        let failed = self.run(&["systemctl", "--failed", "--no-legend", "--plain"])?;
                        let names = failed.lines().filter_map(|line| line.split_whitespace().next());
                        let of: Vec<&str> = names.flat_map(|unit| ["-u", unit]).collect();
                        let said = self.journal(&of)?;
                        bail!("{}: units failed at boot:\n{failed}\n{said}", self.name);
                    }
                    _ => {}
                }
            }
            if Instant::now() > until {
                bail!("{}: not up after {limit:?}; its console: {}", self.name, self.console());
            }
            thread::sleep(Duration::from_millis(15));
        }
    }

    /// Whether it has power and its PID 1 has not ended.
    pub fn is_on(&self) -> bool {
        self.state().as_ref().is_some_and(|r| *r.alive.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What it printed on its console.
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console.log")).unwrap_or_default()
    }

    /// The name of its network namespace in this boot.
    pub fn netns(&self) -> Result<String> {
        Ok(self.state().as_ref().with_context(|| format!("{} is off", self.name))?.ns.clone())
    }

    fn group(&self) -> Result<PathBuf> {
        Ok(self.state().as_ref().with_context(|| format!("{} is off", self.name))?.group.clone())
    }

    /// Its PID 1, as the host numbers it.
    pub fn leader(&self) -> Result<i32> {
        let mut state = self.state();
        let running = state.as_mut().with_context(|| format!("{} is off", self.name))?;
        if let Some(pid) = running.leader {
            return Ok(pid);
        }
        let text = fs::read_to_string(running.group.join("payload/init.scope/cgroup.procs"))?;
        for pid in text.lines().filter_map(|l| l.parse::<i32>().ok()) {
            if inner_pid(pid) == Some(1) {
                running.leader = Some(pid);
                return Ok(pid);
            }
        }
        bail!("{}: no PID 1 yet", self.name)
    }

    // --- commands and files -------------------------------------------------------------------------------

    /// Runs a command inside; its output, or an error with what it wrote.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        let out = self.run_for(argv, PATIENCE)?;
        if !out.ok() {
            let how = out.status.map_or_else(|| "did not end".to_owned(), |s| s.to_string());
            bail!("{}: {}: {how}\n{}{}", self.name, argv.join(" "), out.stdout, out.stderr);
        }
        Ok(out.stdout)
    }

    /// Runs a shell script inside.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.run(&["sh", "-c", script])
    }

    /// Runs a command inside, at most that long; then it is killed and its status is None.
    pub fn run_for(&self, argv: &[&str], limit: Duration) -> Result<Output> {
        let mut child = self.spawn(argv, Stdio::null(), Stdio::piped(), Stdio::piped())?;
        let out = drain(child.stdout.take());
        let err = drain(child.stderr.take());
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(s) = child.try_wait()? {
                break Some(s);
            }
            if Instant::now() > until {
                sys::kill(-(child.id() as i32), libc::SIGKILL);
                let _ = child.wait();
                break None;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        Ok(Output { status, stdout: out.join().unwrap_or_default(), stderr: err.join().unwrap_or_default() })
    }

    /// Starts a command inside and leaves it running; it dies with the node.
    pub fn spawn(&self, argv: &[&str], stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        Command::new("nsenter")
            .args(["-t", &self.leader()?.to_string(), "-a", "--"])
            .args(argv)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", "/root")
            .env("SYSTEMD_PAGER", "cat")
            .env("SYSTEMD_COLORS", "0")
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0)
            .spawn()
            .context("nsenter")
    }

    /// Waits until the script ends with 0, asking every few milliseconds; how long that took.
    pub fn wait_for(&self, script: &str, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let out = self.run_for(&["sh", "-c", script], limit)?;
            if out.ok() {
                return Ok(start.elapsed());
            }
            if start.elapsed() > limit {
                bail!("{}: not within {limit:?}: {script}\n{}{}", self.name, out.stdout, out.stderr);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the unit's ActiveState is that.
    pub fn wait_unit(&self, unit: &str, state: &str, limit: Duration) -> Result<Duration> {
        self.wait_for(&format!("test \"$(systemctl show -P ActiveState {unit})\" = {state}"), limit)
    }

    /// A file as the node sees it, on or off: the host's name of it.
    pub fn place(&self, path: &str) -> PathBuf {
        let root = match self.leader() {
            Ok(pid) if self.is_on() => PathBuf::from(format!("/proc/{pid}/root")),
            _ => self.root(),
        };
        root.join(path.trim_start_matches('/'))
    }

    /// Writes a file (0644, its directories made), on or off.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let at = self.place(path);
        if let Some(dir) = at.parent() {
            fs::create_dir_all(dir)?;
        }
        fs::write(&at, content).with_context(|| format!("{}: {path}", self.name))
    }

    /// Reads a file, on or off.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.place(path)).with_context(|| format!("{}: {path}", self.name))
    }

    /// Its journal of this boot, one line an entry; `args` narrow it (`-u dre`, `MESSAGE_ID=…`).
    pub fn journal(&self, args: &[&str]) -> Result<String> {
        let mut argv = vec!["journalctl", "-b", "--no-pager", "-o", "short-monotonic"];
        argv.extend_from_slice(args);
        self.run(&argv)
    }

    /// Where the journal ends now, for `--after-cursor`.
    pub fn cursor(&self) -> Result<String> {
        let out = self.run(&["journalctl", "-n1", "-o", "cat", "--show-cursor", "-q"])?;
        let cursor = out.lines().find_map(|line| line.strip_prefix("-- cursor: "));
        cursor.map(str::to_owned).with_context(|| format!("{}: the journal has no cursor: {out}", self.name))
    }

    /// Units that failed, one a line; empty is good.
    pub fn failed_units(&self) -> Result<String> {
        self.run(&["systemctl", "--failed", "--no-legend", "--plain"])
    }

    /// The unit and the command of each of its processes, without asking its PID 1. What the test itself runs inside is
    /// not among them: it stays in the test's control group.
    pub fn processes(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        list_group(&self.group()?.join("payload"), "", &mut found);
        Ok(found)
    }

    /// Whether a fault below signalled or froze processes of this boot: systemd then ends some of them itself (its
    /// watchdog), and says so in the journal.
    pub fn was_harmed(&self) -> bool {
        self.harmed.load(Ordering::SeqCst)
    }

    // --- faults -------------------------------------------------------------------------------------------

    /// Stops every process at once, PID 1 too; its kernel goes on answering.
    pub fn freeze(&self) -> Result<Moment> {
        let group = self.group()?;
        self.harmed.store(true, Ordering::SeqCst);
        fs::write(group.join("cgroup.freeze"), "1")?;
        wait_event(&group, "frozen 1")?;
        Ok(sys::now())
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<Moment> {
        let group = self.group()?;
        let at = sys::now();
        fs::write(group.join("cgroup.freeze"), "0")?;
        wait_event(&group, "frozen 0")?;
        Ok(at)
    }

    /// Pulls the plug. Frozen first, so that no daemon sees a port go and hands over. The moment is the last one
    /// at which the node can have been heard.
    pub fn power_loss(&self) -> Result<Moment> {
        let group = self.group()?;
        fs::write(group.join("cgroup.freeze"), "1")?;
        wait_event(&group, "frozen 1")?;
        self.net.ports(self.name, false)?;
        let at = sys::now();
        self.clear()?;
        Ok(at)
    }

    /// Waits until it has powered itself off (or asked for a reboot: boot it then).
    pub fn wait_off(&self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        while self.is_on() {
            if start.elapsed() > limit {
                bail!("{}: still on after {limit:?}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(start.elapsed())
    }

    /// An orderly `systemctl reboot`, through to systemd being up again.
    pub fn reboot(&self) -> Result<()> {
        self.run_for(&["systemctl", "reboot"], PATIENCE)?;
        self.wait_off(Duration::from_secs(100))?;
        self.boot()
    }

    /// Host numbers of the processes of a unit, without asking its PID 1.
    pub fn pids(&self, unit: &str) -> Result<Vec<i32>> {
        let unit = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
        let mut found = Vec::new();
        find_group(&self.group()?.join("payload"), &unit, &mut found);
        if found.is_empty() {
            bail!("{}: {unit} has no process", self.name);
        }
        Ok(found)
    }

    /// The unit's main process, as the host numbers it.
    pub fn main_pid(&self, unit: &str) -> Result<i32> {
        let pids = self.pids(unit)?;
        if let [only] = pids[..] {
            return Ok(only);
        }
        let inner: i32 = self.run(&["systemctl", "show", "-P", "MainPID", unit])?.trim().parse()?;
        pids.into_iter()
            .find(|&p| inner_pid(p) == Some(inner))
            .with_context(|| format!("{}: main process {inner} of {unit} is gone", self.name))
    }

    /// Signals the main process of a unit (libc::SIGKILL, SIGSTOP, SIGCONT, …); the moment just before.
    pub fn signal(&self, unit: &str, signal: i32) -> Result<Moment> {
        let pid = self.main_pid(unit)?;
        self.harmed.store(true, Ordering::SeqCst);
        let at = sys::now();
        if !sys::kill(pid, signal) {
            bail!("{}: {unit}: process {pid} was gone", self.name);
        }
        Ok(at)
    }

    /// Signals all main processes of several units as nearly at once as can be.
    pub fn signal_all(&self, units: &[&str], signal: i32) -> Result<Moment> {
        let pids: Vec<i32> = units.iter().map(|u| self.main_pid(u)).collect::<Result<_>>()?;
        self.harmed.store(true, Ordering::SeqCst);
        let at = sys::now();
        for pid in pids {
            sys::kill(pid, signal);
        }
        Ok(at)
    }

    /// Takes away what is left of the last boot: processes, control group, namespace.
    fn clear(&self) -> Result<()> {
        let Some(mut old) = self.state().take() else { return Ok(()) };
        kill_group(&old.group);
        if let Some(reaper) = old.reaper.take() {
            let _ = reaper.join();
        }
        remove_group(&old.group);
        self.net.unplug(self.name, &old.ns)?;
        debug_assert!(old.group_name.starts_with(&self.prefix));
        Ok(())
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

fn drain(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A process's number in the innermost pid namespace it is in.
fn inner_pid(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
    let mut numbers = line.split_whitespace();
    numbers.next()?;
    numbers.next_back()?.parse().ok()
}

/// Where the host has its cgroup2, alone or beside version 1.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|l| {
            let mut f = l.split(' ').skip(1);
            let at = f.next()?;
            (f.next()? == "cgroup2").then(|| PathBuf::from(at))
        })
        .next()
        .context("no cgroup2 is mounted here: the lab needs it to freeze and kill nodes")
}

fn wait_event(group: &Path, line: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let events = fs::read_to_string(group.join("cgroup.events"))?;
        if events.lines().any(|l| l == line) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{}: not '{line}' after 10 s", group.display());
        }
        thread::yield_now();
    }
}

fn find_group(dir: &Path, unit: &str, found: &mut Vec<i32>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        if entry.file_name() == unit {
            collect(&path, found);
        } else {
            find_group(&path, unit, found);
        }
    }
}

/// Processes below `dir` by the innermost unit whose group they are in.
fn list_group(dir: &Path, unit: &str, found: &mut Vec<(String, String)>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines() {
        // One that ended meanwhile is not there.
        let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm")) else { continue };
        found.push((unit.to_owned(), format!("{} ({pid})", name.trim())));
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_unit = name.ends_with(".service") || name.ends_with(".scope");
        list_group(&entry.path(), if is_unit { &name } else { unit }, found);
    }
}

fn collect(dir: &Path, found: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            collect(&entry.path(), found);
        }
    }
}

/// Ends every process of the group, frozen or not, and waits for it.
pub fn kill_group(group: &Path) {
    if let Ok(mut kill) = fs::File::options().write(true).open(group.join("cgroup.kill")) {
        let _ = kill.write_all(b"1");
        let _ = wait_event(group, "populated 0");
    }
}

/// Removes the empty group with all below it.
pub fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
