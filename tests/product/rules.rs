//! The rules files of a pair in the lab: sets, trees compared thing by thing, and what dre-sync says of them.
//!
//! Trees are written and read from outside, through `/proc/PID/root` of a node's PID 1: the same mounts and the same inotify
//! events as for a program in the node, and one clock for both nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dre::rules::{Kept, RulesStatus, SetStatus};

use super::{configuration, install, ms};
use crate::lab::Lab;
use crate::lab::node::Node;

/// A set as the lab's sync.toml has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    pub root: &'static str,
}

pub const RE: Set = Set { name: "re", root: "/opt/dre/rules" };
pub const ERLBF: Set = Set { name: "erlbf", root: "/opt/dre/erlbf" };

/// The unit of the daemon.
pub const UNIT: &str = "dre-sync";

/// What `rules` owns is called this on hadev2 where a set's owners say so.
pub const ALIAS: (&str, &str) = ("tomcat10", "rules");

/// `[set.NAME]` with its root and more lines.
pub fn table(set: Set, more: &str) -> String {
    format!("[set.{}]\nroot = \"{}\"\n{more}\n", set.name, set.root)
}

// ---- trees -------------------------------------------------------------------------------------------------

/// What a path is, as far as both nodes must agree on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    File { size: u64, hash: u64 },
    Link(Vec<u8>),
    Directory,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    pub what: What,
    pub mode: u32,
    pub owner: String,
    pub group: String,
    /// 0 of a directory: its time says when its content changed.
    pub mtime_ns: i128,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub type Tree = BTreeMap<Vec<u8>, Thing>;

/// A content, by a number of its own.
pub fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(content);
    hasher.finish()
}

fn hash_file(path: &Path) -> std::io::Result<u64> {
    let mut file = fs::File::open(path)?;
    let mut hasher = DefaultHasher::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            n => hasher.write(&piece[..n]),
        }
    }
}

/// What dre-sync leaves out in every set.
fn ignored(name: &[u8]) -> bool {
    let ends = [&b"~"[..], b".swp", b".swx"];
    name.starts_with(b".dre-")
        || name.starts_with(b".#")
        || name == b"4913"
        || ends.iter().any(|end| name.ends_with(end))
}

/// Names by number, from a node's passwd or group.
fn ids(node: &Node, file: &str) -> Result<BTreeMap<u32, String>> {
    let text = node.read(file)?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let name = if name == ALIAS.0 { ALIAS.1 } else { name };
            Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect())
}

/// Everything below a directory of a node, but what no set replicates.
pub fn tree(node: &Node, root: &str) -> Result<Tree> {
    let (users, groups) = (ids(node, "/etc/passwd")?, ids(node, "/etc/group")?);
    let name =
        |all: &BTreeMap<u32, String>, id: u32| all.get(&id).cloned().unwrap_or_else(|| format!("#{id}"));
    let mut found = Tree::new();
    walk(&node.place(root), &mut |path, at, meta| {
        let kind = meta.file_type();
        let what = match () {
            () if kind.is_file() => What::File { size: meta.len(), hash: hash_file(at)? },
            () if kind.is_symlink() => What::Link(fs::read_link(at)?.as_os_str().as_bytes().to_vec()),
            () if kind.is_dir() => What::Directory,
            () => What::Other,
        };
        let mut xattrs = BTreeMap::new();
        for key in xattr::list(at)? {
            let seen = key.as_bytes().starts_with(b"user.") || key.as_bytes().starts_with(b"system.");
            if seen && let Some(value) = xattr::get(at, &key)? {
                xattrs.insert(key.as_bytes().to_vec(), value);
            }
        }
        let directory = what == What::Directory;
        let thing = Thing {
            what,
            mode: meta.mode() & 0o7777,
            owner: name(&users, meta.uid()),
            group: name(&groups, meta.gid()),
            mtime_ns: if directory {
                0
            } else {
                i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
            },
            xattrs,
        };
        found.insert(path.to_vec(), thing);
        Ok(())
    })?;
    Ok(found)
}

/// What is done with a path: relative, absolute, and what is there.
type Visit<'a> = dyn FnMut(&[u8], &Path, &fs::Metadata) -> std::io::Result<()> + 'a;

/// Visits everything below `root` with its path relative to that, directories before what is in them.
pub fn walk(root: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let mut todo: Vec<Vec<u8>> = vec![vec![]];
    while let Some(directory) = todo.pop() {
        let at = root.join(OsStr::from_bytes(&directory));
        for entry in fs::read_dir(&at).with_context(|| at.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            if ignored(name.as_bytes()) {
                continue;
            }
            let path = match directory.is_empty() {
                true => name.as_bytes().to_vec(),
                false => [&directory, b"/".as_slice(), name.as_bytes()].concat(),
            };
            let meta = entry.metadata()?;
            visit(&path, &entry.path(), &meta)?;
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    Ok(())
}

/// How many files there are; cheaper than [`tree`].
pub fn count(node: &Node, root: &str) -> Result<usize> {
    let mut files = 0;
    walk(&node.place(root), &mut |_, _, meta| {
        files += usize::from(meta.is_file());
        Ok(())
    })?;
    Ok(files)
}

/// In what two trees differ, in lines; empty if in nothing.
pub fn difference(left: &Tree, right: &Tree) -> String {
    let mut text = String::new();
    let paths: BTreeSet<&Vec<u8>> = left.keys().chain(right.keys()).collect();
    for path in paths {
        let (a, b) = (left.get(path), right.get(path));
        if a != b {
            let _ = writeln!(
                text,
                "{}\n  hadev1 {a:?}\n  hadev2 {b:?}",
                String::from_utf8_lossy(path).escape_debug()
            );
        }
    }
    text
}

// ---- the pair ----------------------------------------------------------------------------------------------

/// Two nodes with dre-sync and what it synchronises.
pub struct Files {
    pub lab: Lab,
}

/// Everything a package, an administrator and `drectl rules setup` would put on a node; the roots are there and empty.
pub fn lay(root: &Path, sync: &str, sets: &[Set]) -> Result<()> {
    install(root, &configuration(100, 5, ""))?;
    for set in sets {
        fs::create_dir_all(root.join(&set.root[1..]))?;
    }
    if !sync.is_empty() {
        fs::write(root.join("etc/dre/sync.toml"), sync)?;
    }
    // Owners are names: the numbers behind them differ.
    let second = fs::read_to_string(root.join("etc/hostname"))?.starts_with("hadev2");
    let (rules, tomcat) = if second { (2100, 2200) } else { (2000, 2300) };
    for (file, after) in [("etc/passwd", ":/:/usr/sbin/nologin"), ("etc/group", "")] {
        let at = root.join(file);
        let mut text = fs::read_to_string(&at)?;
        for (name, id) in [("rules", rules), ("tomcat10", tomcat)] {
            // passwd has the user's number and the group's, group has its own.
            let ids = if file.ends_with("passwd") { format!("{id}:{id}:") } else { format!("{id}:") };
            let _ = writeln!(text, "{name}:x:{ids}{after}");
        }
        fs::write(&at, text)?;
    }
    Ok(())
}

impl Files {
    /// Both boot with this sync.toml, and the sets are in sync.
    pub fn start(sync: &str, sets: &[Set]) -> Result<Self> {
        Self::start_with(sync, sets, |_| Ok(()))
    }

    pub fn start_with(sync: &str, sets: &[Set], more: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        let lab = Lab::builder()
            .install(|root| {
                lay(root, sync, sets)?;
                more(root)
            })
            .start()?;
        let files = Self { lab };
        for set in sets {
            files.equal(*set, Duration::from_secs(20))?;
        }
        Ok(files)
    }

    pub fn status(&self, node: &Node) -> Result<RulesStatus> {
        let out = node.run_for(&["drectl", "rules", "status", "--json"], Duration::from_secs(10))?;
        serde_json::from_str(&out.stdout).with_context(|| {
            format!("{}: drectl rules status --json: {}{}", node.name, out.stdout, out.stderr)
        })
    }

    pub fn set(&self, node: &Node, set: Set) -> Result<SetStatus> {
        let status = self.status(node)?;
        let found = status.sets.into_iter().find(|s| s.name == set.name);
        found.with_context(|| format!("{}: no set {}", node.name, set.name))
    }

    /// Until dre-sync on the node says so of the set; what it says.
    pub fn state(&self, node: &Node, set: Set, word: &str, limit: Duration) -> Result<SetStatus> {
        let begun = Instant::now();
        loop {
            let now = self.set(node, set);
            if let Ok(now) = &now
                && now.state == word
            {
                return Ok(now.clone());
            }
            if begun.elapsed() > limit {
                bail!(
                    "{}: {} is not {word} after {limit:?}: {now:?}\n{}",
                    node.name,
                    set.name,
                    self.journals()
                );
            }
            std::thread::sleep(ms(20));
        }
    }

    /// Until the set's trees are the same on both nodes and both say that nothing is left to do; how long that took.
    pub fn equal(&self, set: Set, limit: Duration) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let calm = self.lab.nodes().iter().all(|node| {
                self.set(node, set)
                    .is_ok_and(|s| ["IN_SYNC", "CONFLICTS", "CLOCK_SKEW"].contains(&s.state.as_str()))
            });
            let passed = begun.elapsed();
            if calm
                && let Ok(text) = self.differences(set)
                && text.is_empty()
            {
                return Ok(passed);
            }
            if begun.elapsed() > limit {
                let says = self.lab.nodes().map(|node| format!("{:?}", self.set(node, set)));
                let text: String =
                    self.differences(set)?.lines().take(60).map(|l| l.to_owned() + "\n").collect();
                bail!(
                    "{} is not the same after {limit:?}\n{text}{}\n{}",
                    set.name,
                    says.join("\n"),
                    self.journals()
                );
            }
            std::thread::sleep(ms(20));
        }
    }

    fn differences(&self, set: Set) -> Result<String> {
        let [one, two] = self.lab.nodes().map(|node| tree(node, set.root));
        Ok(difference(&one?, &two?))
    }

    pub fn journals(&self) -> String {
        let last = |n: &Node| n.journal(&["-n80", "-u", UNIT, "-o", "short-precise"]).unwrap_or_default();
        self.lab.nodes().map(|node| format!("---- {}\n{}", node.name, last(node))).join("")
    }

    /// `drectl rules conflicts` or `trash`, of one node.
    pub fn kept(&self, node: &Node, drawer: &str) -> Result<Vec<Kept>> {
        let text = node.run(&["drectl", "rules", drawer, "--json"])?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    /// The same of both nodes together, with the node that has it.
    pub fn kept_by_both(&self, drawer: &str) -> Result<Vec<(&Node, Kept)>> {
        let mut all = vec![];
        for node in self.lab.nodes() {
            all.extend(self.kept(node, drawer)?.into_iter().map(|kept| (node, kept)));
        }
        Ok(all)
    }

    /// After a case: no unit failed, dre-sync was never restarted by its watchdog or after a panic.
    pub fn audit(&self) -> Result<()> {
        for node in self.lab.nodes() {
            let failed = node.failed_units()?;
            ensure!(failed.is_empty(), "{}: failed units: {failed}\n{}", node.name, self.journals());
            let restarts = node.run(&["systemctl", "show", "-P", "NRestarts", UNIT])?;
            ensure!(
                restarts.trim() == "0",
                "{}: dre-sync restarted {restarts} {}",
                node.name,
                self.journals()
            );
        }
        Ok(())
    }
}

/// Where a path of the set is on the node, as the host reaches it.
pub fn at(node: &Node, set: Set, path: impl AsRef<OsStr>) -> PathBuf {
    node.place(set.root).join(Path::new(path.as_ref()))
}

/// Writes a file of the set, as an editor without ceremony does.
pub fn put(node: &Node, set: Set, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> Result<()> {
    let at = at(node, set, path);
    if let Some(dir) = at.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&at, content).with_context(|| at.display().to_string())
}

/// Writes it beside the set and renames it in: no half of it is ever seen.
pub fn put_whole(node: &Node, set: Set, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> Result<()> {
    let beside = node.place(&format!("{}.new", set.root));
    fs::write(&beside, content)?;
    fs::rename(&beside, at(node, set, path))?;
    Ok(())
}

pub fn get(node: &Node, set: Set, path: impl AsRef<OsStr>) -> Result<Vec<u8>> {
    let at = at(node, set, path);
    fs::read(&at).with_context(|| at.display().to_string())
}

pub fn chmod(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Until it holds; an error, that it is asked again. How long that took.
pub fn until(
    what: &str,
    limit: Duration,
    every: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let now = holds();
        if matches!(now, Ok(true)) {
            return Ok(begun.elapsed());
        }
        if begun.elapsed() > limit {
            bail!("{what}: not after {limit:?}: {now:?}");
        }
        std::thread::sleep(every);
    }
}

/// Numbers that look random and come again with the same seed (xorshift64).
pub struct Dice(u64);

impl Dice {
    /// From `DRE_SEED`, else from the clock; printed.
    pub fn new() -> Self {
        let clock = super::now().as_nanos() | 1;
        let seed = std::env::var("DRE_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(clock);
        println!("seed: DRE_SEED={seed}");
        Self(seed.max(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut all = Vec::with_capacity(n + 8);
        while all.len() < n {
            all.extend_from_slice(&self.next().to_le_bytes());
        }
        all.truncate(n);
        all
    }
}

impl Default for Dice {
    fn default() -> Self {
        Self::new()
    }
}

/// The value at a share of the sorted values.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1));
    values.get(n - 1).copied().unwrap_or(0.0)
}
