//! What a path has beside its content: owners by name, mode, extended attributes, time.
//!
//! A name that this node does not know becomes root's, and a warning; the record keeps the name, so that this is no edit
//! (see [`super::Tree::look`]). But not of a file with a set-user-ID or set-group-ID bit: whoever made it elsewhere would have made a
//! program of root's here ([`Owners::lends`]).
//!
//! Absent on purpose: `security.*` (SELinux labels are the node's own; a file's capabilities would let the peer hand
//! out rights that dre-sync itself does not have), `trusted.*`. ACLs are replicated as they are: the ids in them are
//! numbers, and must mean the same on both nodes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::stat::{Mode, fchmod, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Group, Uid, User, fchown};
use xattr::FileExt;

use crate::logic::sync::record::{Content, Entry};
use crate::logic::time::Moment;
use crate::shell::clock;

/// A user that was made is known by its name after this.
const NAMES_LAST: Duration = Duration::from_secs(10);
/// What [`crate::logic::sync::talk::Given::is_sound`] lets pass.
const XATTRS_MAX: usize = 64;
const XATTR_BYTES_MAX: usize = 65_536;

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Default)]
struct Names {
    since: Moment,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
    uids: HashMap<String, Option<u32>>,
    gids: HashMap<String, Option<u32>>,
}

/// Owners' names, as the set has them.
pub struct Owners {
    /// Name in the set → name here, and back.
    here: BTreeMap<String, String>,
    in_set: BTreeMap<String, String>,
    names: RefCell<Names>,
    unknown: RefCell<BTreeSet<String>>,
}

impl Owners {
    pub fn new(owners: &BTreeMap<String, String>) -> Self {
        let in_set = owners.iter().map(|(set, here)| (here.clone(), set.clone())).collect();
        Self { here: owners.clone(), in_set, names: RefCell::default(), unknown: RefCell::default() }
    }

    fn names(&self) -> std::cell::RefMut<'_, Names> {
        let mut names = self.names.borrow_mut();
        let now = clock::now();
        if now.since(names.since) > NAMES_LAST {
            *names = Names { since: now, ..Names::default() };
        }
        names
    }

    fn name_in_set(&self, here: Option<String>, id: u32) -> String {
        let named = here.as_ref().and_then(|here| self.in_set.get(here));
        // `owners` may have a number instead of a name.
        match named.or_else(|| self.in_set.get(&id.to_string())) {
            Some(name) => name.clone(),
            None => here.unwrap_or_else(|| format!("#{id}")),
        }
    }

    /// What the user of this number is called in the set.
    pub fn user(&self, uid: u32) -> Result<String, Errno> {
        if let Some(name) = self.names().users.get(&uid) {
            return Ok(name.clone());
        }
        let found = none_if_unknown(User::from_uid(Uid::from_raw(uid)))?;
        let name = self.name_in_set(found.map(|user| user.name), uid);
        self.names().users.insert(uid, name.clone());
        Ok(name)
    }

    pub fn group(&self, gid: u32) -> Result<String, Errno> {
        if let Some(name) = self.names().groups.get(&gid) {
            return Ok(name.clone());
        }
        let found = none_if_unknown(Group::from_gid(Gid::from_raw(gid)))?;
        let name = self.name_in_set(found.map(|group| group.name), gid);
        self.names().groups.insert(gid, name.clone());
        Ok(name)
    }

    fn here<'n>(&'n self, name: &'n str) -> &'n str {
        self.here.get(name).map_or(name, String::as_str)
    }

    fn known_uid(&self, name: &str) -> Result<Option<u32>, Errno> {
        if let Some(id) = self.names().uids.get(name) {
            return Ok(*id);
        }
        let found = none_if_unknown(User::from_name(self.here(name)))?;
        let id = found.map(|user| user.uid.as_raw()).or_else(|| number(self.here(name)));
        self.names().uids.insert(name.to_owned(), id);
        Ok(id)
    }

    fn uid(&self, name: &str) -> Result<Uid, Errno> {
        Ok(Uid::from_raw(self.known_uid(name)?.unwrap_or_else(|| self.warn("user", name))))
    }

    fn known_gid(&self, name: &str) -> Result<Option<u32>, Errno> {
        if let Some(id) = self.names().gids.get(name) {
            return Ok(*id);
        }
        let found = none_if_unknown(Group::from_name(self.here(name)))?;
        let id = found.map(|group| group.gid.as_raw()).or_else(|| number(self.here(name)));
        self.names().gids.insert(name.to_owned(), id);
        Ok(id)
    }

    fn gid(&self, name: &str) -> Result<Gid, Errno> {
        Ok(Gid::from_raw(self.known_gid(name)?.unwrap_or_else(|| self.warn("group", name))))
    }

    pub fn ids(&self, entry: &Entry) -> Result<(Uid, Gid), Errno> {
        Ok((self.uid(&entry.owner)?, self.gid(&entry.group)?))
    }

    /// Why a file must not be made here: it would run with the rights of root, whom it does not belong to.
    pub fn lends(&self, entry: &Entry) -> Result<Option<String>, Errno> {
        const SET_UID: u32 = 0o4000;
        const SET_GID: u32 = 0o2000;
        if !matches!(entry.content, Content::File { .. }) || entry.mode & (SET_UID | SET_GID) == 0 {
            return Ok(None);
        }
        let sentence = |bit: &str, what: &str, name: &str| {
            let here = self.here(name);
            format!(
                "it has the set-{what}-ID bit ({bit}) and there is no {what} {here} on this node: it would run as root; make the {what}, or take the bit away"
            )
        };
        if entry.mode & SET_UID != 0 && self.known_uid(&entry.owner)?.is_none() {
            return Ok(Some(sentence("4000", "user", &entry.owner)));
        }
        if entry.mode & SET_GID != 0 && self.known_gid(&entry.group)?.is_none() {
            return Ok(Some(sentence("2000", "group", &entry.group)));
        }
        Ok(None)
    }

    /// Root's number: what nobody here may have, root has.
    fn warn(&self, what: &str, name: &str) -> u32 {
        let here = self.here(name);
        self.unknown.borrow_mut().insert(format!(
            "there is no {what} {here} on this node: what belongs to it belongs to root here, and its service may not \
             read it; make the {what}, or name another in the set's owners"
        ));
        0
    }

    /// A sentence for each name that was not known since this was asked last.
    pub fn unknown(&self) -> Vec<String> {
        std::mem::take(&mut *self.unknown.borrow_mut()).into_iter().collect()
    }
}

/// getpwnam(3): some of its errors mean that there is no such name.
fn none_if_unknown<T>(found: Result<Option<T>, Errno>) -> Result<Option<T>, Errno> {
    match found {
        Err(Errno::ENOENT | Errno::ESRCH | Errno::EBADF | Errno::EPERM | Errno::EINVAL) => Ok(None),
        result => result,
    }
}

/// `#1234`, of an owner that has no name where it was seen; `1234`, as `owners` may have it.
fn number(name: &str) -> Option<u32> {
    // The highest means "do not change" to chown(2).
    name.strip_prefix('#').unwrap_or(name).parse().ok().filter(|id| *id != u32::MAX)
}

fn replicated(name: &[u8]) -> bool {
    name.starts_with(b"user.") || matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

fn names(file: &File) -> io::Result<Vec<Vec<u8>>> {
    match file.list_xattr() {
        Ok(all) => Ok(all.map(|name| name.as_bytes().to_vec()).filter(|name| replicated(name)).collect()),
        // A file system without any.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Those that are replicated, by name.
pub fn xattrs(file: &File) -> io::Result<Xattrs> {
    let mut all = vec![];
    for name in names(file)? {
        // Gone in between: the time of change tells.
        if let Some(value) = file.get_xattr(OsStr::from_bytes(&name))? {
            all.push((name, value));
        }
    }
    all.sort();
    Ok(all)
}

/// Why these cannot be told to the peer.
pub fn refused(xattrs: &Xattrs) -> Option<String> {
    if xattrs.len() > XATTRS_MAX {
        return Some(format!("it has {} extended attributes, and {XATTRS_MAX} are replicated", xattrs.len()));
    }
    let long = xattrs.iter().find(|(name, value)| name.len() > 255 || value.len() > XATTR_BYTES_MAX)?;
    Some(format!("its extended attribute {} is too long", String::from_utf8_lossy(&long.0)))
}

pub fn time(ns: i64) -> TimeSpec {
    TimeSpec::new(ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000))
}

pub const OMIT: TimeSpec = TimeSpec::UTIME_OMIT;

/// Makes a file or directory what the entry says, less its content. What is so already is not touched: an edit that comes
/// in between keeps its own time.
pub fn apply(file: &File, entry: &Entry, owners: &Owners) -> io::Result<()> {
    let now = fstat(file)?;
    let (uid, gid) = owners.ids(entry)?;
    // chown takes set-uid bits away: the mode comes after it. An ACL's mask is in the mode: it comes last of the three.
    let chowned = (now.st_uid, now.st_gid) != (uid.as_raw(), gid.as_raw());
    if chowned {
        fchown(file, Some(uid), Some(gid))?;
    }
    let mode = Mode::from_bits_truncate(entry.mode & 0o7777);
    let had = names(file)?;
    let stale: Vec<_> = had.iter().filter(|name| !entry.xattrs.iter().any(|(own, _)| own == *name)).collect();
    for name in stale {
        file.remove_xattr(OsStr::from_bytes(name))?;
    }
    if chowned || now.st_mode & 0o7777 != mode.bits() || !had.is_empty() {
        fchmod(file, mode)?;
    }
    for (name, value) in &entry.xattrs {
        let name = OsStr::from_bytes(name);
        if replicated(name.as_bytes()) && file.get_xattr(name)?.as_ref() != Some(value) {
            file.set_xattr(name, value)?;
        }
    }
    let mtime = now.st_mtime.saturating_mul(1_000_000_000).saturating_add(now.st_mtime_nsec);
    if entry.content != Content::Directory && mtime != entry.mtime_ns {
        futimens(file, &OMIT, &time(entry.mtime_ns))?;
    }
    Ok(())
}

/// Makes a copy what its original is, less its content.
pub fn copy(from: &File, to: &File) -> io::Result<()> {
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    for (name, value) in xattrs(from)? {
        to.set_xattr(OsStr::from_bytes(&name), &value)?;
    }
    Ok(futimens(to, &OMIT, &TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))?)
}
