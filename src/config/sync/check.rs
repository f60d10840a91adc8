//! Raw values to sets that hold together. Every rule in one place, each with its sentence.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::raw::{Owner, Raw};
use super::{Publish, Set, Sync, digest};
use crate::config::check::Findings;
use crate::config::error::{Error, Place};
use crate::config::raw::{At, whole};
use crate::config::{Settings, sync};
use crate::logic::sync::filter::glob;

/// A set has two threads, a store and a watch on each of its directories.
const SETS_MAX: usize = 32;
/// It names a file, a module of rsync's and a word of `drectl`.
const NAME_MAX: usize = 32;
/// Words that are something else where a set's name may stand: a section of rsyncd.conf, subcommands of drectl.
const NAMES_TAKEN: [&str; 3] = ["global", "help", "restore"];
/// A person waits for the verdict.
const VALIDATE_MS: std::ops::RangeInclusive<u64> = 100..=600_000;
const APPLY_EVERY_MS: std::ops::RangeInclusive<u64> = 0..=3_600_000;

/// The system's own: not to be a set themselves, though a directory below may be.
const SYSTEM: [&str; 14] = [
    "/",
    "/etc",
    "/root",
    "/usr",
    "/usr/local",
    "/usr/local/bin",
    "/usr/local/etc",
    "/usr/local/lib",
    "/usr/local/share",
    "/usr/share",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/opt",
];
/// Nor these; but everything in them is somebody's files.
const PLACES: [&str; 5] = ["/home", "/media", "/mnt", "/opt", "/srv"];
/// Neither themselves nor anything below.
const SYSTEM_BELOW: [(&str, &str); 23] = [
    ("/proc", "the kernel's own"),
    ("/sys", "the kernel's own"),
    ("/dev", "the kernel's own"),
    ("/run", "emptied at every boot, which would be a deletion on both nodes"),
    ("/var/run", "emptied at every boot, which would be a deletion on both nodes"),
    ("/tmp", "tidied up by the system, which would be a deletion on both nodes"),
    ("/var/tmp", "tidied up by the system, which would be a deletion on both nodes"),
    ("/var/cache", "tidied up by the system, which would be a deletion on both nodes"),
    ("/var/lib/dre", "dre's own"),
    ("/var/lib/dre-rules", "dre's own, with the trash in it"),
    ("/var/lib/systemd", "systemd's own, each node's another"),
    ("/etc/dre", "dre's own, with the cluster key in it"),
    ("/etc/systemd", "systemd's own"),
    ("/boot", "what the machine starts with"),
    ("/bin", "programs of the system"),
    ("/sbin", "programs of the system"),
    ("/lib", "programs of the system"),
    ("/lib32", "programs of the system"),
    ("/lib64", "programs of the system"),
    ("/usr/bin", "programs of the system"),
    ("/usr/lib", "programs of the system"),
    ("/usr/lib64", "programs of the system"),
    ("/usr/sbin", "programs of the system"),
];

/// All checks; all findings.
pub fn settings(raw: Raw, sources: &[(PathBuf, String)], pair: &Settings) -> Result<Sync, Error> {
    let mut bad = Findings::default();
    let mut warnings = vec![];
    let file = whole(sources);

    // ---- the pair ------------------------------------------------------------------------------------
    match (&pair.peer, pair.addresses.as_slice()) {
        (None, _) => bad.add(
            &file,
            "dre.toml names no second node",
            "there is nobody to give the rules files to",
            "name the other node under [nodes] in dre.toml, or remove this file",
        ),
        (Some(peer), []) => bad.add(
            &file,
            format!("dre.toml has no links between {} and {peer}", pair.node),
            "dre-sync connects to the addresses of [nodes.NAME] links, also where TIPC carries the heartbeats",
            "write links = { primary = \"ADDRESS\", secondary = \"ADDRESS\" } under both nodes in dre.toml",
        ),
        (Some(_), [only]) => warnings.push(format!(
            "rules files travel over one link only ({}): when it fails, changes wait; add a second to dre.toml",
            only.name
        )),
        _ => {}
    }

    // ---- transfer ------------------------------------------------------------------------------------
    let encrypt = raw.encrypt.unwrap_or(false);
    let port = port(&mut bad, "port", raw.port.as_ref(), sync::PORT, pair);
    let rsync_port = self::port(&mut bad, "rsync_port", raw.rsync_port.as_ref(), sync::RSYNC_PORT, pair);
    if port == rsync_port {
        let place = raw.rsync_port.as_ref().or(raw.port.as_ref()).map_or(&file, |at| &at.place);
        bad.add(
            place,
            format!("port and rsync_port are both {port}"),
            "dre-sync and rsync cannot listen on one",
            format!("write port = {} and rsync_port = {}, or leave them out", sync::PORT, sync::RSYNC_PORT),
        );
    }

    // ---- sets ----------------------------------------------------------------------------------------
    match raw.sets.len() {
        0 => bad.add(
            &file,
            "no set of files is named",
            "dre-sync would have nothing to do",
            "write [set.NAME] with root = \"/DIRECTORY\" (drectl rules setup asks for it), or remove this file",
        ),
        n if n > SETS_MAX => bad.add(
            &file,
            format!("{n} sets"),
            format!("each has threads and a database of its own; {SETS_MAX} are enough"),
            "make one set of directories that lie together, and choose with include and exclude",
        ),
        _ => {}
    }
    let mut sets: Vec<Set> = vec![];
    let mut roots: Vec<(&str, PathBuf)> = vec![];
    for (name, set) in &raw.sets {
        name_holds(&mut bad, name, &set.place);
        let root = root(&mut bad, name, set.root.as_ref(), &set.place);
        let whole = set.publish.as_ref().is_some_and(|word| word.value == "tree");
        if let (Some(root), Some(at)) = (&root, &set.root) {
            if let Some(around) = root.parent().filter(|around| whole && is_systems(around)) {
                bad.add(
                    &at.place,
                    format!("publish = \"tree\" with a root in {}", around.display()),
                    "the generations of the tree lie beside its root, and dre-sync writes to no directory of the system",
                    format!("move the files to a directory of their own, like {}/rules/live", around.display()),
                );
            }
            for (other, there) in &roots {
                nested(&mut bad, (name, root), (other, there), &at.place);
            }
            roots.push((name, root.clone()));
        }
        for pattern in set.include.iter().chain(&set.exclude).flatten() {
            if let Err(error) = glob(&pattern.value) {
                bad.add(
                    &pattern.place,
                    format!("{:?} is no pattern: {error}", pattern.value),
                    "files would be replicated, or left out, that nobody meant",
                    "write a name like \"*.xml\" (at every depth) or a path like \"de/**/*.xml\" (from the root on)",
                );
            }
        }
        let owners = owners(&mut bad, set.owners.as_deref().unwrap_or_default(), pair);
        let validate =
            set.validate.as_ref().map(|c| command(&mut bad, "validate", c, &["{staging}", "{list}"]));
        let apply = set.apply.as_ref().map(|c| command(&mut bad, "apply", c, &[]));
        let validate_timeout = ms(&mut bad, "validate_timeout_ms", set.validate_timeout_ms.as_ref(), 10_000);
        let apply_every = ms(&mut bad, "apply_every_ms", set.apply_every_ms.as_ref(), 1_000);
        let publish = match set.publish.as_ref().map(|word| (word.value.as_str(), &word.place)) {
            None | Some(("files", _)) => Publish::Files,
            Some(("tree", _)) => Publish::Tree,
            Some((other, place)) => {
                bad.add(
                    place,
                    format!("publish = {other:?}"),
                    "there is no such way to publish",
                    "write \"files\" (one by one) or \"tree\" (the whole tree at once, root being a link)",
                );
                Publish::Files
            }
        };
        let globs =
            |list: &Option<Vec<At<String>>>| list.iter().flatten().map(|at| at.value.clone()).collect();
        sets.push(Set {
            name: name.clone(),
            root: root.unwrap_or_default(),
            include: globs(&set.include),
            exclude: globs(&set.exclude),
            owners,
            validate,
            validate_timeout,
            apply,
            apply_every,
            publish,
            links_outside: set.links_outside.unwrap_or(false),
            digest: digest::of(name, set, encrypt, rsync_port),
        });
    }

    bad.verdict(sources)?;
    let peer = pair.peer.clone().unwrap_or_default();
    let (node, links) = (pair.node.clone(), pair.addresses.clone());
    Ok(Sync { port, rsync_port, encrypt, sets, node, peer, links, warnings })
}

fn port(bad: &mut Findings, key: &str, at: Option<&At<u64>>, default: u16, pair: &Settings) -> u16 {
    let Some(at) = at else { return default };
    let Some(port) = u16::try_from(at.value).ok().filter(|port| *port > 0) else {
        bad.add(
            &at.place,
            format!("{key} = {}", at.value),
            "TCP ports go from 1 to 65535",
            format!("write {default}, or a free port; the same on both nodes"),
        );
        return default;
    };
    if port == pair.heartbeat.port {
        bad.add(
            &at.place,
            format!("{key} = {port} is the heartbeat's port ([heartbeat] port in dre.toml)"),
            "a firewall or a person that means the one would mean the other",
            format!("write {default}, or another free port"),
        );
    }
    port
}

fn name_holds(bad: &mut Findings, name: &str, place: &Place) {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = name.len() <= NAME_MAX
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || c == '-' || c == '_');
    if !ok {
        bad.add(
            place,
            format!("{name:?} is no set's name"),
            "it names a database and a module of rsync's, for which A is a",
            format!(
                "write 1 to {NAME_MAX} of a-z, 0-9, - and _, beginning with a letter or digit, like [set.re]"
            ),
        );
    } else if NAMES_TAKEN.contains(&name) {
        bad.add(
            place,
            format!("a set cannot be called {name}"),
            "rsync and drectl take the word for something else",
            "choose another name, like [set.re]",
        );
    }
}

/// Whether a directory is the system's own: what lies beside a root in it is none of dre-sync's business.
pub fn is_systems(directory: &Path) -> bool {
    SYSTEM.iter().any(|dir| directory == Path::new(dir))
}

/// The root, cleaned of doubled and trailing slashes.
fn root(bad: &mut Findings, name: &str, at: Option<&At<String>>, set: &Place) -> Option<PathBuf> {
    let Some(at) = at else {
        bad.add(
            set,
            format!("set {name} has no root"),
            "it is the directory whose files are the same on both nodes",
            "write root = \"/opt/dre/rules\", or where the files are",
        );
        return None;
    };
    let text = &at.value;
    let path = Path::new(text);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || text.chars().any(char::is_control) {
        bad.add(
            &at.place,
            format!("root = {text:?} is no absolute path"),
            "the same directory must be meant whoever reads this, on both nodes",
            "write it from / on, without \"..\", like \"/opt/dre/rules\"",
        );
        return None;
    }
    let path: PathBuf = path.components().collect();
    // Groups have directories of their own beside group dre's.
    let of_a_group =
        path.strip_prefix("/var/lib").ok().and_then(|below| below.to_str()?.strip_prefix("dre-"));
    let of_a_group = of_a_group.map(|_| &("/var/lib/dre-", "dre's own"));
    let below = SYSTEM_BELOW.iter().find(|(dir, _)| path.starts_with(dir)).or(of_a_group);
    if below.is_some() || SYSTEM.iter().chain(&PLACES).any(|dir| path == Path::new(dir)) {
        let why = below.map_or(
            "shared by everything on the machine; its files must not be another node's",
            |(_, why)| why,
        );
        bad.add(
            &at.place,
            format!("root = {text:?} is a directory of the system"),
            why,
            "write the directory that holds the rules files and nothing else, like \"/opt/dre/rules\"",
        );
        return None;
    }
    Some(path)
}

fn nested(bad: &mut Findings, one: (&str, &Path), other: (&str, &Path), place: &Place) {
    let what = if one.1 == other.1 {
        format!("set {} and set {} have the same root {}", one.0, other.0, one.1.display())
    } else if one.1.starts_with(other.1) || other.1.starts_with(one.1) {
        let (inner, outer) = if one.1.starts_with(other.1) { (one, other) } else { (other, one) };
        format!("the root of set {} lies in that of set {} ({})", inner.0, outer.0, outer.1.display())
    } else {
        return;
    };
    bad.add(
        place,
        what,
        "a file would be in two sets, each with a history of its own, and they would undo each other",
        "make it one set and choose with include and exclude, or put the directories side by side",
    );
}

/// What the set's owners and groups are called on this node; all nodes' are checked.
fn owners(bad: &mut Findings, owners: &[Owner], pair: &Settings) -> BTreeMap<String, String> {
    let mut here = BTreeMap::new();
    let mut taken: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for owner in owners {
        let (node, name, local) = (&owner.node.value, &owner.name.value, &owner.here.value);
        if *node != pair.node && pair.peer.as_ref() != Some(node) {
            bad.add(
                &owner.node.place,
                format!("owners names {node:?}, which is no node of this pair"),
                "the files would silently have another owner there",
                format!("write {:?} or {:?}", pair.node, pair.peer.as_deref().unwrap_or_default()),
            );
        }
        for at in [&owner.name, &owner.here] {
            let ok = !at.value.is_empty()
                && at.value.len() <= 256
                && !at.value.contains([':', '/', ','])
                && !at.value.chars().any(|c| c.is_whitespace() || c.is_control());
            if !ok {
                bad.add(
                    &at.place,
                    format!("{:?} is no user's or group's name", at.value),
                    "the files could not be given to it",
                    "write a name as in /etc/passwd or /etc/group, or a number",
                );
            }
        }
        if let Some(other) = taken.insert((node, local), name) {
            bad.add(
                &owner.here.place,
                format!("on {node}, {other} and {name} are both called {local}"),
                "an edit there could not be told to be the one's or the other's",
                "give each a name of its own",
            );
        }
        if *node == pair.node {
            here.insert(name.clone(), local.clone());
        }
    }
    here
}

/// Absolute, or a plain name that is found as systemd finds it. `known`: what is replaced in it.
fn command(bad: &mut Findings, key: &str, at: &At<Vec<At<String>>>, known: &[&str]) -> Vec<String> {
    let example = match key {
        "validate" => "[\"/usr/bin/re-check\", \"{staging}\", \"{list}\"]",
        _ => "[\"systemctl\", \"reload\", \"diameter.service\"]",
    };
    match at.value.first() {
        None => bad.add(
            &at.place,
            format!("{key} = [] names no command"),
            "nothing could be run",
            format!("write {key} = {example}, or leave it out"),
        ),
        Some(program)
            if program.value.is_empty() || program.value.contains('/') && !program.value.starts_with('/') =>
        {
            bad.add(
                &program.place,
                format!("{key} runs {:?}", program.value),
                "dre-sync has no directory of its own from which a relative path could begin",
                format!("write the program's path from / on, as in {key} = {example}"),
            );
        }
        Some(_) => {}
    }
    for word in &at.value {
        let inner = word.value.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let named =
            inner.is_some_and(|i| !i.is_empty() && i.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        if named && !known.contains(&word.value.as_str()) {
            bad.add(
                &word.place,
                format!("{key} has {:?}", word.value),
                "nothing would be put in its place",
                match known {
                    [] => format!("leave it out: {key} runs once for a whole batch"),
                    known => format!("write one of {}", known.join(", ")),
                },
            );
        }
        if word.value.contains('\0') {
            bad.add(&word.place, format!("{key} has a NUL in it"), "no command takes one", "remove it");
        }
    }
    at.value.iter().map(|word| word.value.clone()).collect()
}

fn ms(bad: &mut Findings, key: &str, at: Option<&At<u64>>, default: u64) -> Duration {
    let Some(at) = at else { return Duration::from_millis(default) };
    let (range, why) = match key {
        "validate_timeout_ms" => {
            (VALIDATE_MS, "the verdict must come while somebody waits for it, and may come")
        }
        _ => (APPLY_EVERY_MS, "changes that are live should be in use within the hour"),
    };
    if !range.contains(&at.value) {
        bad.add(
            &at.place,
            format!("{key} = {}", at.value),
            why,
            format!("write a number of ms from {} to {}; {default} suits most", range.start(), range.end()),
        );
    }
    Duration::from_millis(at.value.min(*range.end()))
}
