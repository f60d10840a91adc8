//! dre-generator: at boot and daemon-reload, turns each group's `[services]` into wants and drop-ins, starts dre-sync where there is a
//! `sync.toml`, with the addresses and directories that stand in it, gives dre-elect the right to a port below 1024 where one is
//! asked for, and tells NetworkManager which interfaces are not its own.
//!
//! systemd.generator(7): arguments are three directories; nothing may hang, nothing of the network is up. What an earlier run made
//! is gone when this one begins, so a file that does not hold *now* must not take the drop-ins of running services away:
//! they would not stop with the role any more, and a role whose services run is never free for the peer. What the last good file
//! led to is kept below `/run`, which systemd leaves writable for generators, and is made again. At a boot there is none: nothing
//! is made but a line in the kernel's log, because a boot must not fail over it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dre::config::sync::Sync;
use dre::config::{self, HostFacts, Services, Settings};
use dre::logic::group::{self, unit};

/// Root's own: what is read from here becomes units. A file for each group.
const KEPT: &str = "/run/dre-generator";
/// Ports below need a right: of all that a user's process may do, dre-elect has this one only where it needs it. (The kernel's
/// `ip_unprivileged_port_start` would open them to every process of the machine.)
const FREE_PORTS: u16 = 1024;
/// Hides the file of this name below /usr/lib/NetworkManager.
const NETWORK_MANAGER: &str = "/run/NetworkManager/conf.d/50-dre.conf";

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("dre-generator: systemd runs this; see systemd.generator(7)");
        return ExitCode::from(64);
    };
    let (directory, kept) = (Path::new(&directory), Path::new(KEPT));
    let mut taken = BTreeSet::new();
    let mut unmanaged = BTreeSet::new();
    for group in groups(kept) {
        let Some(wanted) = wanted(&group, &kept.join(unit("kept", &group))) else { continue };
        let services = apart(&group, &wanted.services, &mut taken);
        if let Err(error) = generate(directory, &group, &services, wanted.tipc) {
            complain(&format!("cannot write units for managed services: {error}"));
        }
        if wanted.low_port
            && let Err(error) = generate_port(directory, &group)
        {
            complain(&format!("cannot write a unit's right to its port: {error}"));
        }
        if wanted.database.is_some()
            && let Err(error) = generate_agent(directory, &group)
        {
            complain(&format!("cannot write units for the database: {error}"));
        }
        if let Some(unit) = wanted.database.filter(|unit| !services.both.contains(unit))
            && let Err(error) = generate_database(directory, &unit)
        {
            complain(&format!("cannot write a drop-in for {unit}: {error}"));
        }
        if let Some(rules) = &wanted.rules
            && let Err(error) = generate_rules(directory, rules)
        {
            complain(&format!("cannot write units for the rules files: {error}"));
        }
        unmanaged.extend(wanted.unmanaged);
    }
    let unmanaged: Vec<String> = unmanaged.into_iter().collect();
    if let Err(error) = hands_off(Path::new(NETWORK_MANAGER), &unmanaged) {
        complain(&format!("cannot write {NETWORK_MANAGER}: {error}"));
    }
    ExitCode::SUCCESS
}

/// The groups that are configured now or were at an earlier run: services of one whose file is gone may run still. `dre` always.
fn groups(kept: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(kept).into_iter().flatten().flatten();
    let earlier =
        entries.filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("kept@")?.to_owned()));
    let earlier = earlier.filter(|name| group::fault(name).is_none());
    config::groups().into_iter().chain(earlier).chain([group::PLAIN.to_owned()]).collect()
}

/// What a group's configuration leads to, or the last good one.
fn wanted(group: &str, kept: &Path) -> Option<Wanted> {
    let before = fs::read_to_string(kept).ok().map(|text| Wanted::from_text(&text));
    let read = config::load_of(group, None).map(|settings| {
        let named = interfaces(&settings, &config::host_facts());
        let unmanaged = named.into_iter().filter(|name| !has_profile(Path::new("/"), name)).collect();
        // The pair of the rules files is that of group dre.
        let rules = if group == group::PLAIN { rules(&settings, before.as_ref()) } else { None };
        Wanted::of(&settings, unmanaged, rules)
    });
    match read {
        Ok(wanted) => {
            if let Err(error) = keep(kept, &wanted) {
                complain(&format!(
                    "cannot keep what the configuration leads to in {}: {error}",
                    kept.display()
                ));
            }
            Some(wanted)
        }
        Err(error) => {
            let what = match before {
                Some(_) => "units are made as the last good configuration had it",
                None => "no units for managed services",
            };
            // A machine may have other groups only.
            if before.is_some() || group != group::PLAIN || config::file_of(group).exists() {
                complain(&format!("group {group}: {what}: {}", error.lines()));
            }
            before
        }
    }
}

/// A service that another group manages already stays with that one: two roles cannot both decide of it.
fn apart(group: &str, services: &Services, taken: &mut BTreeSet<String>) -> Services {
    let own = |all: &[String]| -> Vec<String> {
        let free = |name: &&String| {
            let free = !taken.contains(*name);
            if !free {
                complain(&format!(
                    "group {group}: {name} is managed by another group already, and left to it"
                ));
            }
            free
        };
        all.iter().filter(free).cloned().collect()
    };
    let kept = Services {
        active: own(&services.active),
        standby: own(&services.standby),
        both: own(&services.both),
    };
    taken.extend(kept.active.iter().chain(&kept.standby).cloned());
    kept
}

/// To the kernel's log: journald may not be there yet.
fn complain(text: &str) {
    let line = format!("<4>dre-generator: {}", text.replace('\n', "; "));
    let logged =
        fs::OpenOptions::new().write(true).open("/dev/kmsg").and_then(|mut k| k.write_all(line.as_bytes()));
    if logged.is_err() {
        eprintln!("{line}");
    }
}

/// What a configuration leads to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    services: Services,
    tipc: bool,
    /// The heartbeats' port is one that needs a right.
    low_port: bool,
    /// The server of `[database]`.
    database: Option<String>,
    unmanaged: Vec<String>,
    rules: Option<Rules>,
}

/// What dre-sync's units need to know of `sync.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rules {
    /// Where rsync listens; nowhere with `encrypt`.
    listens: Vec<String>,
    /// What dre-sync may write to.
    writes: Vec<String>,
}

impl Rules {
    fn of(sync: &Sync) -> Self {
        let listens = if sync.encrypt { vec![] } else { sync.links.iter().map(|link| link.local).collect() };
        let listens =
            listens.into_iter().map(|ip| SocketAddr::new(ip, sync.rsync_port).to_string()).collect();
        // The directory around a root: whoever moves the root away and makes another one there has moved a mount of the root alone
        // with it, and generations lie beside it. But none of the system's own is opened for that. As it is written in the
        // configuration, which has refused what a line cannot hold: nothing on the disk is asked, which may not be there yet.
        let writes: BTreeSet<&Path> = sync
            .sets
            .iter()
            .map(|set| match set.root.parent() {
                Some(around) if !config::sync::is_systems(around) => around,
                _ => &set.root,
            })
            .collect();
        Self { listens, writes: writes.into_iter().filter_map(Path::to_str).map(str::to_owned).collect() }
    }
}

/// What of the rules files is to be made. One `sync.toml` that does not hold changes nothing.
fn rules(settings: &Settings, before: Option<&Wanted>) -> Option<Rules> {
    let file = config::sync::locate();
    if !file.exists() {
        return None;
    }
    match config::sync::load_file(&file, settings) {
        Ok(sync) => Some(Rules::of(&sync)),
        Err(error) => {
            complain(&format!("dre-sync is left as it was: {}", error.lines()));
            before.and_then(|before| before.rules.clone())
        }
    }
}

impl Wanted {
    fn of(settings: &Settings, unmanaged: Vec<String>, rules: Option<Rules>) -> Self {
        Self {
            services: settings.services.clone(),
            tipc: settings.tipc.is_some(),
            low_port: settings.tipc.is_none() && settings.heartbeat.port < FREE_PORTS,
            database: settings.database.as_ref().map(|database| database.unit.clone()),
            unmanaged,
            rules,
        }
    }

    /// A line for each thing, its kind and a blank before it.
    fn to_text(&self) -> String {
        let lines = |word: &str, all: &[String]| {
            all.iter().map(|name| format!("{word} {name}\n")).collect::<String>()
        };
        let mut text = lines("active", &self.services.active);
        text += &lines("standby", &self.services.standby);
        text += &lines("both", &self.services.both);
        text += &lines("unmanaged", &self.unmanaged);
        if self.tipc {
            text += "tipc yes\n";
        }
        if self.low_port {
            text += "low-port yes\n";
        }
        if let Some(unit) = &self.database {
            text += &format!("database {unit}\n");
        }
        if let Some(rules) = &self.rules {
            text += "rules yes\n";
            text += &lines("listens", &rules.listens);
            text += &lines("writes", &rules.writes);
        }
        text
    }

    fn from_text(text: &str) -> Self {
        let mut wanted = Self::default();
        for (word, name) in text.lines().filter_map(|line| line.split_once(' ')) {
            match word {
                "active" => wanted.services.active.push(name.into()),
                "standby" => wanted.services.standby.push(name.into()),
                "both" => wanted.services.both.push(name.into()),
                "unmanaged" => wanted.unmanaged.push(name.into()),
                "tipc" => wanted.tipc = true,
                "low-port" => wanted.low_port = true,
                "database" => wanted.database = Some(name.into()),
                "rules" => wanted.rules = Some(Rules::default()),
                "listens" => wanted.rules.get_or_insert_default().listens.push(name.into()),
                "writes" => wanted.rules.get_or_insert_default().writes.push(name.into()),
                _ => {}
            }
        }
        wanted
    }
}

/// Whole or not at all.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

fn keep(path: &Path, wanted: &Wanted) -> io::Result<()> {
    replace(path, &wanted.to_text())
}

fn drop_in(directory: &Path, unit: &str, name: &str, text: &str) -> io::Result<()> {
    let dir = directory.join(format!("{unit}.d"));
    fs::create_dir_all(&dir)?;
    fs::write(dir.join(name), text)
}

/// For units that are not ours, and for those of ours after 50-hardening.conf, which would win: drop-ins count in the order of
/// their names, wherever they lie.
const FOR_SERVICES: &str = "50-dre.conf";
const FOR_OURS: &str = "60-dre.conf";

fn wanted_by(directory: &Path, target: &str, unit: &str) -> io::Result<()> {
    let dir = directory.join(format!("{target}.wants"));
    fs::create_dir_all(&dir)?;
    // By name: systemd finds the unit itself, wherever it is.
    match symlink(format!("/usr/lib/systemd/system/{unit}"), dir.join(unit)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// dre-sync, where it listens and what it writes to.
fn generate_rules(directory: &Path, rules: &Rules) -> io::Result<()> {
    for (target, unit) in [
        ("multi-user.target", "dre-sync.service"),
        ("sockets.target", "dre-sync.socket"),
        ("sockets.target", "dre-sync-rsync.socket"),
    ] {
        wanted_by(directory, target, unit)?;
    }
    if !rules.listens.is_empty() {
        let mut text = String::from(
            "# made by dre-generator from sync.toml; do not edit\n[Socket]\n\
             # Instead of the local one, and nowhere but on the links.\nListenStream=\n",
        );
        for address in &rules.listens {
            text += &format!("ListenStream={address}\n");
        }
        // A link may come later than the socket, and a peer that was switched off must not keep a connection for hours.
        text += "FreeBind=yes\nNoDelay=yes\nKeepAlive=yes\nKeepAliveTimeSec=10s\nKeepAliveIntervalSec=5s\nKeepAliveProbes=3\n";
        drop_in(directory, "dre-sync-rsync.socket", FOR_OURS, &text)?;
    }
    let home = |path: &String| ["/home/", "/root/"].iter().any(|home| format!("{path}/").starts_with(home));
    let mut text = String::from("# made by dre-generator from sync.toml; do not edit\n[Service]\n");
    if rules.writes.iter().any(home) {
        text += "ProtectHome=read-only\n";
        drop_in(directory, "dre-sync-rsync@.service", FOR_OURS, &text)?;
    }
    for path in &rules.writes {
        text += &format!("ReadWritePaths={}\n", quoted(path));
    }
    drop_in(directory, "dre-sync.service", FOR_OURS, &text)
}

/// A path as a unit's value; one that is not there yet is no error.
fn quoted(path: &str) -> String {
    format!("\"-{}\"", path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

/// The agent comes with the group, and who copies its server for the peer.
fn generate_agent(directory: &Path, group: &str) -> io::Result<()> {
    let dir = directory.join(format!("{}.service.wants", unit("dre", group)));
    fs::create_dir_all(&dir)?;
    for (name, suffix) in [("dre-mysql", "service"), ("dre-donor", "socket")] {
        let template = format!("/usr/lib/systemd/system/{name}@.{suffix}");
        match symlink(template, dir.join(format!("{name}@{group}.{suffix}"))) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// dre-elect of the group may listen on its port.
fn generate_port(directory: &Path, group: &str) -> io::Result<()> {
    let text = "# made by dre-generator from [heartbeat] port; do not edit\n[Service]\n\
                # A port below 1024.\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\n";
    drop_in(directory, &format!("{}.service", unit("dre", group)), FOR_OURS, text)
}

/// The database's server runs on both nodes, whoever starts it there.
fn generate_database(directory: &Path, unit: &str) -> io::Result<()> {
    let text = "# made by dre-generator from [database] unit; do not edit\n[Unit]\n\
                # A switchover by `systemctl isolate`, of this group or another, must not stop it.\nIgnoreOnIsolate=yes\n";
    drop_in(directory, unit, FOR_SERVICES, text)
}

fn generate(directory: &Path, group: &str, services: &Services, tipc: bool) -> io::Result<()> {
    let drop_in = |unit: &str, text: &str| drop_in(directory, unit, FOR_SERVICES, text);
    let wanted_by = |target: &str, unit: &str| wanted_by(directory, target, unit);
    if tipc {
        wanted_by("dre.service", "dre-tipc.service")?;
    }
    let (active, standby) = (unit("dre-active", group), unit("dre-standby", group));
    for name in &services.active {
        drop_in(name, &active_text(group))?;
        wanted_by(&format!("{active}.target"), name)?;
    }
    for name in &services.standby {
        drop_in(name, &standby_text(group))?;
        wanted_by(&format!("{standby}.target"), name)?;
    }
    for name in &services.both {
        drop_in(name, BOTH)?;
        wanted_by("multi-user.target", name)?;
    }
    Ok(())
}

fn active_text(group: &str) -> String {
    let (lease, active, standby) =
        (unit("dre-lease", group), unit("dre-active", group), unit("dre-standby", group));
    let term = unit("term", group);
    format!(
        "# made by dre-generator from [services] active; do not edit
[Unit]
# Runs only while this node holds the lease.
BindsTo={lease}.service
After={lease}.service
PartOf={active}.target
# The standby role is reached when this has stopped, not before.
Before={standby}.target
# Goes with its own group's role, not by the isolation of another one's target.
IgnoreOnIsolate=yes
[Service]
# DRE_TERM: the number of this period of the role.
EnvironmentFile=-/run/dre-lease/{term}.env
"
    )
}

fn standby_text(group: &str) -> String {
    let (active, standby) = (unit("dre-active", group), unit("dre-standby", group));
    format!(
        "# made by dre-generator from [services] standby; do not edit
[Unit]
PartOf={standby}.target
Before={active}.target
# Goes with its own group's role, not by the isolation of another one's target.
IgnoreOnIsolate=yes
"
    )
}

const BOTH: &str = "# made by dre-generator from [services] both; do not edit
[Unit]
# A restart that fails now may succeed in a minute: never give up.
StartLimitIntervalSec=0
IgnoreOnIsolate=yes
[Service]
Restart=always
RestartSec=1s
";

/// The interfaces that carry VIPs or heartbeats. Those of UDP links are known by their addresses alone, so only where these are
/// up already.
fn interfaces(settings: &Settings, host: &HostFacts) -> BTreeSet<String> {
    let vips = settings.vips.iter().map(|vip| vip.interface.clone());
    let bearers = settings.tipc.iter().flat_map(|tipc| &tipc.bearers).map(|bearer| bearer.interface.clone());
    let links = settings.links.iter().filter_map(|link| {
        let carries = host.interfaces.iter().find(|(_, own)| own.iter().any(|net| net.addr() == link.local));
        carries.map(|(name, _)| name.clone())
    });
    vips.chain(bearers).chain(links).collect()
}

/// NetworkManager has a profile for this very interface: its base address comes from there and would go if the interface were taken
/// from it. What it makes up by itself ("Wired connection 1", below /run) is no such thing; what netplan hands it is.
fn has_profile(root: &Path, interface: &str) -> bool {
    if root.join(format!("etc/sysconfig/network-scripts/ifcfg-{interface}")).exists() {
        return true;
    }
    let kept = ["etc/NetworkManager/system-connections", "usr/lib/NetworkManager/system-connections"];
    let files = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let netplan = files(root.join("run/NetworkManager/system-connections"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("netplan-")));
    kept.into_iter().flat_map(|dir| files(root.join(dir))).chain(netplan).any(|path| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let names = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(key, _)| key.trim() == "interface-name");
        names.into_iter().any(|(_, name)| name.trim().trim_end_matches(';') == interface)
    })
}

/// Tells NetworkManager, where there is one: it reads this at its start, or when it is reloaded.
fn hands_off(path: &Path, unmanaged: &[String]) -> io::Result<()> {
    if unmanaged.is_empty() || !Path::new("/usr/sbin/NetworkManager").exists() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    replace(path, &unmanaged_text(unmanaged))
}

fn unmanaged_text(unmanaged: &[String]) -> String {
    let all: Vec<String> = unmanaged.iter().map(|name| format!("interface-name:{name}")).collect();
    format!(
        "# made by dre-generator from the files of /etc/dre; do not edit\n\
         # These carry VIPs or heartbeats, and no connection of NetworkManager's names them.\n\
         [keyfile]\nunmanaged-devices+={}\n",
        all.join(";")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("dre-generator-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn services() -> Services {
        Services {
            active: vec!["diameter.service".into()],
            standby: vec!["report.service".into()],
            both: vec!["memcached.service".into()],
        }
    }

    #[test]
    fn services_become_wants_and_drop_ins() {
        let dir = directory("units");
        let services = services();
        generate(&dir, "dre", &services, false).expect("generated");
        assert!(!dir.join("dre.service.wants").exists(), "TIPC is not loaded unless it is configured");
        generate(&dir, "dre", &services, true).expect("again is no error");
        assert!(dir.join("dre.service.wants/dre-tipc.service").is_symlink());
        let drop_in = fs::read_to_string(dir.join("diameter.service.d/50-dre.conf")).expect("a drop-in");
        for line in [
            "BindsTo=dre-lease.service",
            "After=dre-lease.service",
            "PartOf=dre-active.target",
            "Before=dre-standby.target",
            "IgnoreOnIsolate=yes",
            "EnvironmentFile=-/run/dre-lease/term.env",
        ] {
            assert!(drop_in.lines().any(|l| l == line), "{line}");
        }
        assert!(dir.join("dre-active.target.wants/diameter.service").is_symlink());
        assert!(dir.join("dre-standby.target.wants/report.service").is_symlink());
        assert!(dir.join("multi-user.target.wants/memcached.service").is_symlink());
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn another_groups_services_follow_its_own_units() {
        let dir = directory("group");
        generate(&dir, "mysql", &services(), false).expect("generated");
        generate_port(&dir, "mysql").expect("generated");
        generate_database(&dir, "mariadb.service").expect("generated");
        generate_agent(&dir, "mysql").expect("generated");
        generate_agent(&dir, "mysql").expect("again is no error");
        assert!(dir.join("dre@mysql.service.wants/dre-mysql@mysql.service").is_symlink());
        assert!(dir.join("dre@mysql.service.wants/dre-donor@mysql.socket").is_symlink());
        let read = |path: &str| fs::read_to_string(dir.join(path)).expect(path);
        assert!(read("mariadb.service.d/50-dre.conf").contains("\nIgnoreOnIsolate=yes\n"));
        let active = read("diameter.service.d/50-dre.conf");
        for line in [
            "BindsTo=dre-lease@mysql.service",
            "After=dre-lease@mysql.service",
            "PartOf=dre-active@mysql.target",
            "Before=dre-standby@mysql.target",
            "EnvironmentFile=-/run/dre-lease/term@mysql.env",
        ] {
            assert!(active.lines().any(|l| l == line), "{line}");
        }
        let standby = read("report.service.d/50-dre.conf");
        assert!(
            standby.contains("PartOf=dre-standby@mysql.target\nBefore=dre-active@mysql.target\n"),
            "{standby}"
        );
        assert!(dir.join("dre-active@mysql.target.wants/diameter.service").is_symlink());
        assert!(dir.join("dre-standby@mysql.target.wants/report.service").is_symlink());
        assert!(
            read("dre@mysql.service.d/60-dre.conf").contains("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n")
        );
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn a_service_stays_with_the_group_that_has_it() {
        let mut taken = BTreeSet::new();
        assert_eq!(apart("dre", &services(), &mut taken), services());
        let left = apart("mysql", &services(), &mut taken);
        // Ready on both nodes is no role's.
        assert_eq!(left, Services { both: services().both, ..Services::default() });
    }

    #[test]
    fn rules_files_become_wants_addresses_and_paths() {
        let dir = directory("rules");
        let rules = Rules {
            listens: vec!["172.16.11.54:8730".into(), "[fd00::1]:8730".into()],
            writes: vec!["/home/engine".into(), "/opt/50 % \"off\"".into()],
        };
        generate_rules(&dir, &rules).expect("generated");
        for link in ["multi-user.target.wants/dre-sync.service", "sockets.target.wants/dre-sync.socket"] {
            assert!(dir.join(link).is_symlink(), "{link}");
        }
        let read = |unit: &str| fs::read_to_string(dir.join(format!("{unit}.d/60-dre.conf"))).expect(unit);
        let socket = read("dre-sync-rsync.socket");
        assert!(
            socket.contains("ListenStream=\nListenStream=172.16.11.54:8730\nListenStream=[fd00::1]:8730\n"),
            "{socket}"
        );
        let service = read("dre-sync.service");
        for line in [
            "ProtectHome=read-only",
            "ReadWritePaths=\"-/home/engine\"",
            "ReadWritePaths=\"-/opt/50 %% \\\"off\\\"\"",
        ] {
            assert!(service.lines().any(|l| l == line), "{line} in {service}");
        }
        assert!(!read("dre-sync-rsync@.service").contains("ReadWritePaths"));
        fs::remove_dir_all(&dir).expect("removed");

        // Encrypted, rsync listens on the local socket of the unit alone.
        generate_rules(&dir, &Rules { writes: vec!["/opt".into()], ..Rules::default() }).expect("generated");
        assert!(
            !dir.join("dre-sync-rsync.socket.d").exists() && !dir.join("dre-sync-rsync@.service.d").exists()
        );
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn around_a_root_is_open_and_nothing_of_the_systems() {
        let pair = config::parse(
            &[(
                "dre.toml".into(),
                "[nodes.hadev1]\nlinks = { primary = \"172.16.11.54\", secondary = \"172.16.13.54\" }\n\
                 [nodes.hadev2]\nlinks = { primary = \"172.16.11.55\", secondary = \"172.16.13.55\" }\n"
                    .into(),
            )],
            "dre",
            "hadev1",
            false,
        )
        .expect("holds");
        let roots = [
            "/opt/dre/rules",
            "/opt/dre/more",
            "/srv/rules",
            "/etc/re",
            "/usr/local/rules",
            "/home/re/rules",
        ];
        let text: String =
            roots.iter().enumerate().map(|(n, root)| format!("[set.s{n}]\nroot = \"{root}\"\n")).collect();
        let sync = config::sync::parse(&[("sync.toml".into(), text)], &pair).expect("holds");
        let rules = Rules::of(&sync);
        assert_eq!(rules.writes, ["/etc/re", "/home/re", "/opt/dre", "/srv", "/usr/local/rules"]);
        assert_eq!(rules.listens, ["172.16.11.54:8730", "172.16.13.54:8730"]);
    }

    #[test]
    fn what_was_good_is_kept_and_read_again() {
        let path = directory("kept").join("kept");
        let rules = Rules { listens: vec!["[fd00::1]:8730".into()], writes: vec!["/opt/two words".into()] };
        let wanted = Wanted {
            services: services(),
            tipc: true,
            low_port: true,
            database: Some("mariadb.service".into()),
            unmanaged: vec!["eth1".into(), "eth3".into()],
            rules: Some(rules),
        };
        keep(&path, &wanted).expect("kept");
        assert_eq!(Wanted::from_text(&fs::read_to_string(&path).expect("read")), wanted);
        let nothing = Wanted::default();
        assert_eq!(Wanted::from_text(&nothing.to_text()), nothing);
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn network_manager_is_told_of_what_is_not_its_own() {
        let toml = r#"
[nodes.hadev1]
links = { primary = "172.16.11.54", secondary = "172.16.13.54" }
[nodes.hadev2]
links = { primary = "172.16.11.55", secondary = "172.16.13.55" }
[[vip]]
address = "172.16.9.61/24"
interface = "eth1"
[[vip]]
address = "172.16.10.71/16"
interface = "eth2"
"#;
        let settings =
            config::parse(&[("dre.toml".into(), toml.into())], "dre", "hadev1", false).expect("holds");
        let mut host = HostFacts::default();
        host.interfaces.insert("eth3".into(), vec!["172.16.11.54/24".parse().expect("a network")]);
        let names: Vec<String> = interfaces(&settings, &host).into_iter().collect();
        assert_eq!(names, ["eth1", "eth2", "eth3"], "the second link's address is not up");
        assert!(unmanaged_text(&names).ends_with(
            "[keyfile]\nunmanaged-devices+=interface-name:eth1;interface-name:eth2;interface-name:eth3\n"
        ));

        let root = directory("profiles");
        let connections = root.join("etc/NetworkManager/system-connections");
        let made_up = root.join("run/NetworkManager/system-connections");
        fs::create_dir_all(&connections).expect("made");
        fs::create_dir_all(&made_up).expect("made");
        fs::write(connections.join("base.nmconnection"), "[connection]\nid=base\ninterface-name=eth1\n")
            .expect("written");
        fs::write(made_up.join("Wired connection 1.nmconnection"), "[connection]\ninterface-name=eth2\n")
            .expect("written");
        fs::write(made_up.join("netplan-eth3.nmconnection"), "[connection]\ninterface-name=eth3\n")
            .expect("written");
        assert_eq!(
            ["eth1", "eth2", "eth3", "eth4"].map(|name| has_profile(&root, name)),
            [true, false, true, false]
        );
        fs::remove_dir_all(&root).expect("removed");
    }
}
