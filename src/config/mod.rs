//! `dre.toml`, or another group's → settings that hold together; `sync.toml` (in [`sync`]) → the sets of rules files.
//!
//! Raw structs are the TOML; [`Settings`] is what the daemons run with: typed, valid by construction,
//! made in one function that `drectl config check` and the daemons share.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::logic::group as names;
use crate::notice::Priority;

mod among;
mod check;
mod database;
mod digest;
mod environment;
mod error;
pub mod heartbeat;
mod host;
mod key;
mod raw;
pub mod sync;
mod tipc;

pub use among::clashes;
pub use database::{Database, Durability, RelayLost};
pub use error::{Error, Finding};
pub use host::{HostFacts, HostFindings, gather as host_facts};
pub use key::{Key, encode as encode_key, path as key_path, read as read_key};
pub use tipc::{Bearer, Tipc, TipcAddress};

/// The parts of a configuration that have a digest of their own, so that a difference can be named.
pub const SECTIONS: [&str; 8] = [
    "[nodes]",
    "[heartbeat]",
    "[heartbeat.tipc]",
    "[arbitrator]",
    "[[vip]]",
    "[services], [database]",
    "[election]",
    "the group",
];

/// Exit status of every binary for a configuration that does not hold (EX_CONFIG of sysexits.h);
/// the units refer to it in `RestartPreventExitStatus=`.
pub const EXIT_CONFIG: u8 = 78;

/// Everything the daemons run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `dre`, or the name of a template group.
    pub group: String,
    /// This machine's key under `[nodes]`.
    pub node: String,
    /// The other one; `None` only in standalone mode with a single node in the file.
    pub peer: Option<String>,
    /// `DRE_STANDALONE=yes`: the peer's vote counts as given until a peer is heard.
    pub standalone: bool,
    /// Heartbeat paths over UDP; empty where TIPC carries them.
    pub links: Vec<Link>,
    /// The nodes' addresses on each link, also where TIPC carries the heartbeats: what dre-sync connects over.
    pub addresses: Vec<Link>,
    /// `transport = "tipc"`.
    pub tipc: Option<Tipc>,
    pub heartbeat: Heartbeat,
    pub arbitrator: Option<Arbitrator>,
    /// In the order of the file; the index is the VIP's number on the lease stream.
    pub vips: Vec<Vip>,
    pub services: Services,
    pub election: Election,
    /// The server whose writes follow the role.
    pub database: Option<Database>,
    /// SHA-256 of what must be the same on both nodes, in canonical form.
    pub digest: [u8; 32],
    /// The same for each of [`SECTIONS`], shortened.
    pub sections: [u32; 8],
    /// What holds but may surprise; for `drectl config check`.
    pub warnings: Vec<String>,
}

impl Settings {
    /// This node takes the role when both are free: the preferred one, or (no preference) the smaller name.
    pub fn is_first(&self) -> bool {
        match (&self.election.preferred, &self.peer) {
            (Some(preferred), _) => *preferred == self.node,
            (None, Some(peer)) => self.node < *peer,
            (None, None) => true,
        }
    }

    /// Names of the heartbeat paths, whatever carries them.
    pub fn link_names(&self) -> Vec<String> {
        match &self.tipc {
            Some(tipc) => tipc.bearers.iter().map(|b| b.name.clone()).collect(),
            None => self.links.iter().map(|l| l.name.clone()).collect(),
        }
    }

    /// What the election's machine must know of it.
    pub fn setup(&self) -> crate::logic::node::Setup {
        crate::logic::node::Setup {
            group: self.group.clone(),
            node: self.node.clone(),
            peer: self.peer.clone(),
            links: self.link_names(),
            interval: self.heartbeat.interval,
            dead_after: self.heartbeat.dead_after(),
            guard: self.heartbeat.guard(),
            arbitrators: self
                .arbitrator
                .iter()
                .flat_map(|a| a.addresses.iter().map(ToString::to_string))
                .collect(),
            standalone: self.standalone,
            first: self.is_first(),
            preferred: self.election.preferred.as_deref() == Some(self.node.as_str()),
            failback: self.election.failback,
            failback_hold: self.election.failback_hold,
            startup_hold: self.election.startup_hold,
            vips: self.vips.iter().map(|v| v.address.addr().to_string()).collect(),
            services: self.services.active.clone(),
            standby: self.services.standby.clone(),
            both: self.services.both.clone(),
            database: self.database.is_some(),
            digest: self.digest,
            sections: self.sections,
            section_names: SECTIONS,
        }
    }
}

/// Where the configuration is: `DRE_CONFDIR/GROUP.toml`, else `AVAMGR_CONFDIR/avamgr.cfg` (what the old suite's users
/// have in their environment), else `/etc/dre/GROUP.toml`.
pub fn locate(group: &str, env: impl Fn(&str) -> Option<String>) -> PathBuf {
    let dir = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match (dir("DRE_CONFDIR"), dir("AVAMGR_CONFDIR")) {
        (Some(dir), _) => dir.join(format!("{group}.toml")),
        (None, Some(dir)) if group == "dre" => dir.join("avamgr.cfg"),
        _ => Path::new("/etc/dre").join(format!("{group}.toml")),
    }
}

/// The group this process serves: `DRE_GROUP`, set by the template units, else `dre`.
pub fn group() -> String {
    std::env::var("DRE_GROUP").ok().filter(|name| !name.is_empty()).unwrap_or_else(|| names::PLAIN.into())
}

/// The groups that are configured on this machine: a `NAME.toml` each, `dre` first. `sync.toml` is none.
pub fn groups() -> Vec<String> {
    let mut found = vec![];
    if file_of(names::PLAIN).exists() {
        found.push(names::PLAIN.to_owned());
    }
    let others = called(&directory_of_groups()).into_iter();
    found.extend(others.filter(|name| name != names::PLAIN && names::fault(name).is_none()));
    found
}

/// The files that look like a group's and are none, each with why: nothing starts for them, and no daemon says so.
pub fn no_groups() -> Vec<String> {
    no_groups_in(&directory_of_groups())
}

fn no_groups_in(directory: &Path) -> Vec<String> {
    let others = called(directory).into_iter().filter(|name| name != "sync");
    let faults = others.filter_map(|name| names::fault(&name).map(|why| (name, why)));
    faults
        .map(|(name, why)| {
            let path = directory.join(format!("{name}.toml"));
            format!(
                "{} is no group's file: no group can be called {name:?} ({why}); rename it, or move it away",
                path.display()
            )
        })
        .collect()
}

/// Where the groups' files are: `avamgr.cfg` has none beside it.
fn directory_of_groups() -> PathBuf {
    file_of("other").parent().map(Path::to_path_buf).unwrap_or_default()
}

/// What the `*.toml` of a directory are called, in order.
fn called(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// A group's file, as the environment has it.
pub fn file_of(group: &str) -> PathBuf {
    locate(group, |name| environment::get(group, name))
}

/// Where a group's sockets are: what systemd made for this process, else where it would be.
pub fn runtime_directory(group: &str) -> PathBuf {
    std::env::var_os("RUNTIME_DIRECTORY")
        .map_or_else(|| Path::new("/run").join(names::directory(group)), PathBuf::from)
}

/// `DRE_STANDALONE` says yes. What it says in words nobody knows is among the warnings.
pub fn standalone(group: &str) -> bool {
    environment::get(group, "DRE_STANDALONE").as_deref().and_then(environment::truth).unwrap_or(false)
}

/// `DRE_LOG_LEVEL`; "info" without one, or with one nobody knows (that is among the warnings).
pub fn log_level() -> Priority {
    let word = environment::get(&group(), "DRE_LOG_LEVEL");
    word.as_deref().and_then(Priority::from_word).unwrap_or(Priority::Info)
}

/// A setting that comes by environment: this process's, else of `/etc/default/dre` or `/etc/sysconfig/dre`.
pub fn environment(name: &str) -> Option<String> {
    environment::get(&group(), name)
}

/// This host's name, without a domain.
pub fn host_name() -> String {
    let full = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    full.split('.').next().unwrap_or_default().to_owned()
}

/// What the daemons run with: the located file, its drop-ins, this host's name, the environment.
pub fn load() -> Result<Settings, Error> {
    load_of(&group(), None)
}

/// The same, and what this machine says to it. Both daemons decide by it, at the start and at a reload: what one refuses the other
/// does not take up.
pub fn load_here() -> Result<(Settings, HostFindings), Error> {
    let settings = load()?;
    let host = settings.check_host(&host_facts());
    host.lasting()?;
    Ok((settings, host))
}

/// The same as [`load`] for a group, and for a file named by hand.
pub fn load_of(group: &str, file: Option<&Path>) -> Result<Settings, Error> {
    let file = file.map_or_else(|| file_of(group), Path::to_path_buf);
    let sources = read_sources(&file, |path, error| Error::unreadable(path, error, names::example(group)))?;
    let mut settings = parse(&sources, group, &host_name(), standalone(group))?;
    settings.warnings.extend(environment::strange(|name| environment::get(group, name)));
    Ok(settings)
}

/// The file and its drop-ins in `FILE.d/*.toml`, by name. `unreadable`: what is said of one that is not to be had.
fn read_sources(
    file: &Path,
    unreadable: impl Fn(&Path, &std::io::Error) -> Error,
) -> Result<Vec<(PathBuf, String)>, Error> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| unreadable(path, &error));
    let mut sources = vec![(file.to_path_buf(), read(file)?)];
    let mut dropins = file.as_os_str().to_owned();
    dropins.push(".d");
    if let Ok(entries) = std::fs::read_dir(Path::new(&dropins)) {
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ext| ext == "toml"));
        paths.sort();
        for path in paths {
            let text = read(&path)?;
            sources.push((path, text));
        }
    }
    Ok(sources)
}

/// Text to settings. Pure. Later sources add to and override earlier ones, table by table. Every finding is
/// reported, not only the first.
pub fn parse(
    sources: &[(PathBuf, String)],
    group: &str,
    node: &str,
    standalone: bool,
) -> Result<Settings, Error> {
    let mut whole = raw::Raw::default();
    for (path, text) in sources {
        whole.overlay(raw::read(path, text, names::example(group))?);
    }
    check::settings(whole, sources, group, node, standalone)
}

/// One heartbeat path: the same name on both nodes, one address each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub local: IpAddr,
    pub peer: IpAddr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    pub interval: Duration,
    pub missed_max: u32,
    /// UDP port on both nodes.
    pub port: u16,
}

impl Heartbeat {
    /// D: silence on every link for this long = the peer is lost.
    pub fn dead_after(&self) -> Duration {
        self.interval * self.missed_max
    }

    /// What a lease ends before D: the gate's resolution and a late store (2 ms), and the drift of two
    /// clocks over D (0.5 % each way, far beyond any crystal).
    pub fn guard(&self) -> Duration {
        Duration::from_millis(2) + self.dead_after() / 100
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arbitrator {
    pub addresses: Vec<IpAddr>,
    /// The neutral path; host routes to the addresses are installed on it.
    pub interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    pub address: IpNet,
    pub interface: String,
    /// As `ip addr` shows it: `eth2:0`. IPv4 only.
    pub label: Option<String>,
    /// IPv4 only.
    pub broadcast: Option<std::net::Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Services {
    /// Run where ACTIVE.
    pub active: Vec<String>,
    /// Run where STANDBY.
    pub standby: Vec<String>,
    /// Ready on both, restarted, not managed.
    pub both: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Takes the role when both are free.
    pub preferred: Option<String>,
    /// Give the role back to the preferred node by itself.
    pub failback: bool,
    /// How long the preferred node must be fit and in touch before that.
    pub failback_hold: Duration,
    /// Listen this long before being ACTIVE alone.
    pub startup_hold: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_groups_though_it_looks_like_one_is_named_with_why() {
        let dir = std::env::temp_dir().join(format!("dre-no-groups-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        for name in ["dre.toml", "mysql.toml", "sync.toml", "MySQL.toml", "donor.toml", "notes.txt"] {
            std::fs::write(dir.join(name), "").expect("written");
        }
        let said = no_groups_in(&dir);
        std::fs::remove_dir_all(&dir).expect("removed");
        let [first, second] = said.as_slice() else { panic!("{said:?}") };
        assert!(first.contains("/MySQL.toml") && first.contains("beginning with a letter"), "{first}");
        assert!(second.contains("/donor.toml") && second.contains("parts of dre itself"), "{second}");
    }
}
