//! The lab: two systemd nodes, a switch between them, a client, an arbitrator, a stranger, and a judge outside.
//!
//! ```no_run
//! let lab = Lab::builder().install(|root| install_product(root)).start()?;
//! let judge = lab.judge("172.16.9.61")?;
//! let fault = lab.hadev1.power_loss()?;
//! …
//! let seen = judge.stop()?;
//! assert!(seen.two_at_once().is_empty());
//! println!("{:?}", seen.silence());
//! ```
//!
//! | file | what |
//! |---|---|
//! | `rootfs` | the file system nodes are overlays of, made once |
//! | `net` | the wires, and harm done to them |
//! | `node` | booting, commands, files, freezing, power loss |
//! | `forge` | datagrams from a hand that has no key, and a listener on a wire |
//! | `judge` | who answers for a VIP, and for how long nobody did |
//! | `database` | a database server as a process of a test |
//! | `web` | a managed service (nginx on the VIP) and its client |
//! | `vm` | the same two nodes as virtual machines, for what needs a kernel of its own |
//! | `sys` | the system calls, all that is unsafe |
//!
//! Everything a lab makes (namespaces, control groups, mounts, `/run/dre-lab/…`) bears its id, `dre-lab.` + process +
//! start time + number, so that several can run at once. It is removed when the `Lab` is dropped, on SIGINT and
//! SIGTERM, and, after a SIGKILL, by the next lab's start; nothing else is ever touched.

#![allow(dead_code)] // each test uses its part of the lab

pub mod database;
pub mod forge;
pub mod judge;
pub mod net;
pub mod node;
pub mod rootfs;
pub mod sys;
pub mod vm;
pub mod web;
pub mod witness;

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use judge::Judge;
use net::Net;
use node::Node;

const RUN: &str = "/run/dre-lab";
const MARK: &str = "dre-lab.";

pub type Install<'a> = Box<dyn Fn(&Path) -> Result<()> + 'a>;

/// How a lab is to be.
#[derive(Default)]
pub struct Builder<'a> {
    packages: Vec<String>,
    install: Vec<Install<'a>>,
    off: Vec<&'static str>,
    shown: Vec<(PathBuf, &'static str)>,
    disk: bool,
}

impl<'a> Builder<'a> {
    /// More Debian packages in the nodes (a root file system of its own, cached too).
    pub fn packages(mut self, names: &[&str]) -> Self {
        self.packages.extend(names.iter().map(|n| (*n).to_owned()));
        self
    }

    /// Called for each node's root before it boots; the node's name is in its /etc/hostname.
    pub fn install(mut self, f: impl Fn(&Path) -> Result<()> + 'a) -> Self {
        self.install.push(Box::new(f));
        self
    }

    /// The nodes see this directory of this machine's there, and cannot write to it.
    pub fn show(mut self, host: &Path, inside: &'static str) -> Self {
        self.shown.push((host.to_owned(), inside));
        self
    }

    /// The node is laid down and stays off.
    pub fn off(mut self, name: &'static str) -> Self {
        self.off.push(name);
        self
    }

    /// The nodes write to a disk (a file system of their own on this machine's) and not to memory: for figures in which
    /// waiting for the disk counts.
    pub fn on_disk(mut self) -> Self {
        self.disk = true;
        self
    }

    /// Builds it and boots the nodes side by side.
    pub fn start(self) -> Result<Lab> {
        let lab = self.lay()?;
        let on: Vec<&Node> = lab.nodes().into_iter().filter(|n| !self.off.contains(&n.name)).collect();
        thread::scope(|s| {
            let boots: Vec<_> = on.iter().map(|n| s.spawn(|| n.boot())).collect();
            boots.into_iter().try_for_each(|b| match b.join() {
                Ok(r) => r,
                Err(_) => bail!("a boot panicked"),
            })
        })?;
        Ok(lab)
    }

    /// Builds it; both nodes are off, for files to be written and moments to be chosen. Waits until the process's last
    /// lab is gone.
    pub fn lay(&self) -> Result<Lab> {
        let turn = turn();
        let out = Command::new("id").arg("-u").output()?;
        if out.stdout.trim_ascii() != b"0" {
            bail!("the lab makes namespaces, mounts and control groups: run it as root");
        }
        watch_signals();
        sweep();
        let base = rootfs::provide(&self.packages)?;
        let guard = Remover(new_id());
        let prefix = guard.0.clone();
        let dir = if self.disk { disk_directory(&prefix)? } else { lab_directory(&prefix, "4G")? };
        let net = Arc::new(Net::build(&prefix)?);
        let lay = |name| -> Result<Node> {
            let mut node = Node::lay(name, &prefix, &dir, &base, Arc::clone(&net))?;
            self.shown.iter().for_each(|(host, inside)| node.show(host, inside));
            for f in &self.install {
                f(&node.root()).with_context(|| format!("installing on {name}"))?;
            }
            Ok(node)
        };
        Ok(Lab { hadev1: lay("hadev1")?, hadev2: lay("hadev2")?, net, base, remover: guard, _turn: turn })
    }
}

/// One lab at a time, also where a test binary runs its tests side by side: labs share a kernel, and not only its
/// processors. Linux answers echo requests from one socket per processor for all network namespaces (6.18), so that
/// replies which wait in one lab for a neighbour's address (some 170 fill its buffer) silence the VIPs of the other.
static ONE: Mutex<()> = Mutex::new(());

/// Waits until the process's last lab is gone, and keeps the next one waiting.
pub fn turn() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lab that is on. Dropping it removes it.
pub struct Lab {
    pub hadev1: Node,
    pub hadev2: Node,
    pub net: Arc<Net>,
    base: PathBuf,
    /// Fields drop in order, and the nodes must be gone first.
    remover: Remover,
    /// Last: the next lab begins when this one is removed.
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Starts describing one.
    pub fn builder<'a>() -> Builder<'a> {
        Builder::default()
    }

    /// Its id, the prefix of all its names.
    pub fn id(&self) -> &str {
        &self.remover.0
    }

    /// Both nodes.
    pub fn nodes(&self) -> [&Node; 2] {
        [&self.hadev1, &self.hadev2]
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes().into_iter().find(|n| n.name == name).with_context(|| format!("no node {name}"))
    }

    /// The other one.
    pub fn other(&self, node: &Node) -> &Node {
        if node.name == "hadev1" { &self.hadev2 } else { &self.hadev1 }
    }

    /// Starts watching a VIP.
    pub fn judge(&self, vip: &str) -> Result<Judge> {
        let vip: IpAddr = vip.parse().with_context(|| format!("VIP {vip}"))?;
        Judge::start(&self.net.ns("client"), &self.net.ns("judge"), vip)
    }

    /// Runs a command in the namespace of the client, the judge, the arbitrator or the stranger, with the nodes'
    /// programs (there is no /proc and no /dev).
    pub fn outside(&self, who: &str, argv: &[&str]) -> Result<String> {
        let (ns, root) = (self.net.ns(who), self.base.to_string_lossy());
        let mut all = vec!["netns", "exec", &ns, "chroot", &root];
        all.extend_from_slice(argv);
        run("ip", &all)
    }

    /// The arbitrator's cable.
    pub fn arbitrator(&self, up: bool) -> Result<()> {
        self.net.ports("arbitrator", up)
    }

    /// Both heartbeat networks of a node silently cut, or healed.
    pub fn cut_links(&self, node: &Node, cut: bool) -> Result<()> {
        self.net.silent(node.name, "eth3", cut)?;
        self.net.silent(node.name, "eth4", cut)
    }
}

/// The lab's own directory, in memory.
fn lab_directory(id: &str, size: &str) -> Result<PathBuf> {
    let dir = Path::new(RUN).join(id);
    fs::create_dir_all(&dir)?;
    let options = format!("mode=755,size={size}");
    run("mount", &["-t", "tmpfs", "-o", &options, "dre-lab", &dir.to_string_lossy()])?;
    Ok(dir)
}

/// The same on a disk: ext4 in a sparse file, which is gone when it is unmounted.
fn disk_directory(id: &str) -> Result<PathBuf> {
    let dir = Path::new(RUN).join(id);
    fs::create_dir_all(&dir)?;
    let image = rootfs::cache().join(format!("{id}.img"));
    let made = (|| {
        fs::File::create(&image)?.set_len(12 << 30)?;
        let (file, at) = (image.to_string_lossy(), dir.to_string_lossy());
        run(
            "mke2fs",
            &["-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", &file],
        )?;
        // Nothing in the background but what is measured.
        run("mount", &["-o", "loop,noinit_itable,noatime", &file, &at])
    })();
    let _ = fs::remove_file(&image);
    made?;
    Ok(dir)
}

struct Remover(String);

impl Drop for Remover {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

static NEXT: AtomicU32 = AtomicU32::new(1);

fn new_id() -> String {
    let me = std::process::id();
    format!("{MARK}{me}.{}.{}", started(me).unwrap_or(0), NEXT.fetch_add(1, Ordering::SeqCst))
}

/// When a process started, in clock ticks since boot: a number that comes again has another start.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Removes what labs left behind whose process is gone.
pub fn sweep() {
    for id in ids() {
        let mut parts = id.trim_start_matches(MARK).split('.');
        let pid = parts.next().and_then(|p| p.parse::<u32>().ok());
        let start = parts.next().and_then(|p| p.parse::<u64>().ok());
        if let (Some(pid), Some(start)) = (pid, start)
            && started(pid) != Some(start)
        {
            remove(&id);
        }
    }
}

/// The ids of all labs of which something is there.
fn ids() -> Vec<String> {
    let mut found: Vec<String> = [Path::new(RUN), Path::new("/run/netns")]
        .into_iter()
        .map(Path::to_owned)
        .chain(node::cgroup_root())
        .flat_map(|dir| names(&dir))
        .filter_map(|name| {
            let parts: Vec<&str> = name.strip_prefix(MARK)?.split('.').take(3).collect();
            (parts.len() == 3).then(|| format!("{MARK}{}", parts.join(".")))
        })
        .collect();
    found.sort();
    found.dedup();
    found
}

fn names(dir: &Path) -> Vec<String> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Removes everything that bears the id, in the order in which it can go. Asks nobody: it works for a lab of this
/// process and for one whose process was killed.
fn remove(id: &str) {
    let of_it = format!("{id}.");
    // A node that is about to boot is in no control group yet.
    for (pid, _) in processes().into_iter().filter(|(_, command)| command.contains(&of_it)) {
        sys::kill(pid, libc::SIGKILL);
    }
    if let Ok(root) = node::cgroup_root() {
        for name in names(&root).into_iter().filter(|n| n.starts_with(&of_it)) {
            node::kill_group(&root.join(&name));
            node::remove_group(&root.join(&name));
        }
    }
    for name in names(Path::new("/run/netns")).into_iter().filter(|n| n.starts_with(&of_it)) {
        quietly("ip", &["netns", "del", &name]);
    }
    let dir: PathBuf = Path::new(RUN).join(id);
    if dir.exists() {
        for node in ["hadev1", "hadev2"] {
            let root = dir.join(node).join("root");
            // nspawn's own lock on the directory stays behind when it is killed.
            if let Ok(at) = fs::metadata(&root) {
                let lock = format!("/run/systemd/nspawn/locks/inode-{}:{}", at.dev(), at.ino());
                let _ = fs::remove_file(lock);
            }
            quietly("umount", &["-l", &root.to_string_lossy()]);
        }
        quietly("umount", &["-l", &dir.to_string_lossy()]);
        let _ = fs::remove_dir(&dir);
        let _ = fs::remove_dir(RUN);
    }
    let machine = id.replace('.', "-") + "-";
    for dir in
        ["/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export", "/run/systemd/nspawn/locks"]
    {
        for name in names(Path::new(dir)).into_iter().filter(|n| n.contains(&machine)) {
            let path = Path::new(dir).join(name);
            quietly("umount", &["-l", &path.to_string_lossy()]);
            let _ = fs::remove_dir(&path).or_else(|_| fs::remove_file(&path));
        }
    }
}

/// All that is there of the labs of a process, by name: empty is what must be when it has ended.
pub fn leftovers(process: u32) -> Vec<String> {
    let (id, machine) = (format!("{MARK}{process}."), format!("dre-lab-{process}-"));
    let of_it = |text: &str| text.contains(&id) || text.contains(&machine);
    let places = [RUN, "/run/netns", "/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export"];
    let mut found: Vec<String> = places
        .into_iter()
        .map(PathBuf::from)
        .chain(node::cgroup_root())
        .flat_map(|dir| names(&dir).into_iter().map(move |name| dir.join(name).display().to_string()))
        .chain(
            fs::read_to_string("/proc/self/mounts").unwrap_or_default().lines().map(|l| format!("mount {l}")),
        )
        .filter(|name| of_it(name))
        .collect();
    for (pid, command) in processes() {
        let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        if of_it(&command) || of_it(&group) {
            found.push(format!("process {pid}: {command}"));
        }
    }
    found
}

/// Every process but this one, with its command. One that has ended and was not yet waited for has none, and holds nothing.
fn processes() -> Vec<(i32, String)> {
    let own = std::process::id() as i32;
    names(Path::new("/proc"))
        .into_iter()
        .filter_map(|name| name.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter_map(|pid| Some((pid, fs::read(format!("/proc/{pid}/cmdline")).ok()?)))
        .filter(|(_, command)| !command.is_empty())
        .map(|(pid, command)| (pid, String::from_utf8_lossy(&command).replace('\0', " ")))
        .collect()
}

fn quietly(program: &str, args: &[&str]) {
    let _ = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let out =
        Command::new(program).args(args).stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
    if !out.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Nothing is to be switched on any more.
pub fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// All labs of this process, while its other threads may still be making them: until nothing new has appeared for a while.
fn remove_mine() {
    let mine = format!("{MARK}{}.", std::process::id());
    let mut quiet = 0;
    for _ in 0..200 {
        for id in ids().iter().filter(|id| id.starts_with(&mine)) {
            remove(id);
        }
        quiet = if leftovers(std::process::id()).is_empty() { quiet + 1 } else { 0 };
        if quiet == 4 {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// An interrupted run removes its labs before it ends.
fn watch_signals() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if WATCHED.swap(true, Ordering::SeqCst) {
        return;
    }
    sys::note_signals();
    thread::spawn(|| {
        loop {
            thread::sleep(Duration::from_millis(50));
            let signal = sys::signalled();
            if signal != 0 {
                INTERRUPTED.store(true, Ordering::SeqCst);
                remove_mine();
                std::process::exit(128 + signal);
            }
        }
    });
}
