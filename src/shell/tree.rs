//! The live tree of a set: what is there, and how something else comes to be there.
//!
//! ```text
//!   rsync ─▶ staging/PATH ─ verify ─ prepare ─ place ─▶ ROOT/PATH        publish = files
//!            (same file system, 0700)
//!
//!   ROOT ─▶ NAME.gen-7      begin: NAME.gen-8 is a clone of hard links    publish = tree
//!                           place, remove: in it
//!                           finish: ROOT ─▶ NAME.gen-8, at once
//! ```
//!
//! | file | what |
//! |---|---|
//! | `attributes` | owners by name, modes, extended attributes, times |
//! | `generations` | the tree that is switched as a whole |
//!
//! Invariants:
//! - nothing outside the root is read or written, whoever swaps directories for links meanwhile ([`crate::shell::beneath`]);
//! - what replaces something was complete before: a name is never absent or half written for a moment;
//! - nothing is replaced or removed that is not what the caller expects there: it looks again first ([`Place::Changed`]).
//!   Between that look and the rename lie some ten microseconds in which another rename would be overwritten. Only an
//!   exchange of the two names would tell, and whoever watches the directory would see the new file moved away again.
//! - a [`Stat`] that is handed out is of what was hashed or placed: an edit in between shows.
//!
//! Times of change come from a clock that on kernels before 6.13 stands still for some milliseconds: a second edit of the
//! same size within one tick shows nothing. What is that young gets no time of change ([`Stat::is_young`]), so that whoever
//! looks again reads it again.
//!
//! Absent on purpose: what a difference means (`record`, `merge`), in which order a batch goes (`publish`), rsync.

mod attributes;
mod generations;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, openat, readlinkat, renameat, renameat2};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, fstat, futimens, mkdirat, utimensat};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{UnlinkatFlags, fchown, fchownat, symlinkat, unlinkat};

use super::beneath::{self, Ground, joined, kind, lstat, open_file, shown, split};
use crate::config::sync::{Publish, Set};
use crate::logic::sync::record::{Content, Entry, Known, Stat};
use crate::logic::sync::talk::path_is_sound;
use attributes::Owners;
use generations::Generations;

pub use super::beneath::Kind;
pub use crate::logic::sync::filter::Filter;
pub use generations::{Old, Relinked};

const STAGE: &[u8] = b".dre-stage";
/// In staging, beside what rsync writes: no path of a set has such a name.
const NEW: &str = ".dre-new";
const OUT: &str = ".dre-out";
/// A file is read in pieces of this.
const PIECE: usize = 128 << 10;
/// More directories than this are made durable by one sync of the file system.
const SYNC_EACH_MAX: usize = 16;

/// Why something could not be done: where, what, why, and what helps.
#[derive(Debug)]
pub struct Error {
    path: PathBuf,
    doing: &'static str,
    source: io::Error,
}

impl Error {
    pub fn new(path: PathBuf, doing: &'static str, source: impl Into<io::Error>) -> Self {
        Self { path, doing, source: source.into() }
    }

    /// What the kernel said, where it was the kernel.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cannot {}: {}", self.path.display(), self.doing, self.source)?;
        let remedy = match self.errno() {
            Some(libc::ENOSPC | libc::EDQUOT) => "make room there; it is tried again",
            Some(libc::EROFS) => "remount the file system for writing; it is tried again",
            Some(libc::EACCES | libc::EPERM) => {
                "dre-sync runs as root without all of root's rights: is it immutable (lsattr), or not allowed by the unit?"
            }
            Some(libc::EXDEV) => {
                "another file system is mounted in the tree: exclude it, or make it a set of its own"
            }
            Some(libc::EOPNOTSUPP) => {
                "this file system has no ACLs or extended attributes, and the peer's has"
            }
            Some(libc::ENOTDIR | libc::ELOOP) => {
                "a file or link is where a directory should be: move it away"
            }
            Some(libc::ENAMETOOLONG) => "the path is longer than this node can have: make the root's shorter",
            Some(libc::EMFILE | libc::ENFILE) => "raise LimitNOFILE of dre-sync.service",
            Some(libc::EIO) => "the disk fails: see the kernel's log",
            _ => return Ok(()),
        };
        write!(f, "; {remedy}")
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Why a path is not what it should become.
#[derive(Debug)]
pub enum Place {
    /// What is there is not what was expected: an edit that was not seen yet.
    Changed,
    /// A directory in the way has something in it.
    NotEmpty,
    Failed(Error),
}

impl From<Error> for Place {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed => write!(f, "it was edited in this moment; it is looked at again"),
            Self::NotEmpty => {
                write!(f, "the directory has something in it that is not replicated; move that away")
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Place {}

/// What a look at a path found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    Absent,
    /// As it is known; its content was not read.
    Same,
    There {
        entry: Entry,
        /// To be kept with the record; if it is young, look again soon (some 20 ms).
        stat: Stat,
    },
    /// It changed while it was read.
    Unsettled,
    /// Cannot be replicated: why, and what to do.
    Refused(String),
    /// Does not belong to the set.
    Excluded,
}

/// A directory that a walk could not read: nothing is known of what lies below it, and nothing of that is gone.
#[derive(Debug)]
pub struct Unread {
    pub path: Vec<u8>,
    pub error: Error,
}

/// One set's tree. One thread at a time.
pub struct Tree {
    root: PathBuf,
    live: Ground,
    stage: Ground,
    filter: Arc<Filter>,
    owners: Owners,
    links_outside: bool,
    generations: Option<Generations>,
    /// Directories whose entries are not durable yet.
    /// The directory in staging that was opened last.
    stage_last: RefCell<Option<(Vec<u8>, Arc<OwnedFd>)>>,
    touched: RefCell<BTreeSet<Vec<u8>>>,
    /// Times of change stand still for a tick.
    coarse: Cell<bool>,
}

impl Tree {
    /// Opens the root and empties its staging. With `publish = tree`, a root that is a directory becomes the first
    /// generation here.
    pub fn open(set: &Set) -> Result<Self, Error> {
        let failed = |doing| move |error: Errno| Error::new(set.root.clone(), doing, error);
        let filter = Filter::new(&set.include, &set.exclude)
            .map_err(|why| Error::new(set.root.clone(), "use include and exclude", io::Error::other(why)))?;
        let (live, generations, stage) = match set.publish {
            Publish::Files => {
                // Whoever may put a link there would choose where root writes, and dre-sync.service may write only around the root.
                if let Ok(target) = std::fs::read_link(&set.root) {
                    let why =
                        format!("it is a link to {}; write where it leads as the root", target.display());
                    return Err(Error::new(
                        set.root.clone(),
                        "open the root of the set",
                        io::Error::other(why),
                    ));
                }
                let live = Ground::open(&set.root).map_err(failed("open the root of the set"))?;
                let stage = stage(&live, STAGE).map_err(failed("make its staging directory .dre-stage"))?;
                (live, None, stage)
            }
            Publish::Tree => {
                let (generations, live) = Generations::open(&set.root)?;
                let name = [STAGE, b"-", generations.name()].concat();
                let stage = stage(generations.around(), &name)
                    .map_err(failed("make the staging directory beside it"))?;
                (live, Some(generations), stage)
            }
        };
        let tree = Self {
            root: set.root.clone(),
            live,
            stage,
            filter: Arc::new(filter),
            owners: Owners::new(&set.owners),
            links_outside: set.links_outside,
            generations,
            stage_last: RefCell::default(),
            touched: RefCell::default(),
            coarse: Cell::new(true),
        };
        tree.coarse.set(tree.is_coarse().map_err(failed("write in its staging directory"))?);
        Ok(tree)
    }

    /// There is nothing at all in the root, not even what [`Self::open`] makes there: as it is where a file system is not mounted. With
    /// `publish = tree` a root that is not there says so itself.
    pub fn is_bare(set: &Set) -> bool {
        set.publish == Publish::Files
            && std::fs::read_dir(&set.root).is_ok_and(|mut all| all.next().is_none())
    }

    /// Where the set is: with `publish = tree` a link to the generation that is live.
    pub fn live(&self) -> PathBuf {
        self.root.clone()
    }

    /// Where `validate` reads, by name: whoever may write in the root may put something else there, see [`Self::staging_held`].
    pub fn staging(&self) -> PathBuf {
        self.stage.path.clone()
    }

    /// The same as a descriptor, which nobody can redirect: for rsync.
    pub fn staging_held(&self) -> Result<OwnedFd, Error> {
        self.stage.directory(b"", OFlag::O_RDONLY).map_err(self.failed(b"", "open its staging directory"))
    }

    /// Where rsync puts the content of a path.
    #[cfg(test)]
    fn staged(&self, path: &[u8]) -> PathBuf {
        self.stage.path.join(OsStr::from_bytes(path))
    }

    pub fn filter(&self) -> Arc<Filter> {
        Arc::clone(&self.filter)
    }

    /// Why the root is not the one that was opened: gone, or another directory or file system in its place.
    pub fn root_state(&self) -> Result<(), String> {
        let root = self.root.display();
        let own = self.live.stat().map_err(|error| format!("{root}: {error}"))?;
        if let Some(generations) = &self.generations {
            generations.check().map_err(|why| format!("{root} {why}"))?;
        }
        match nix::sys::stat::stat(&self.root) {
            Err(Errno::ENOENT) => Err(format!("{root} is not there")),
            Err(error) => Err(format!("{root}: {error}")),
            Ok(now) if now.st_dev != own.device => {
                Err(format!("{root} is on another file system than before: was it mounted or unmounted?"))
            }
            Ok(now) if now.st_ino != own.inode => Err(format!("{root} is another directory than before")),
            Ok(_) => Ok(()),
        }
    }

    /// Nothing of the set is in it.
    pub fn is_empty(&self) -> Result<bool, Error> {
        let mut empty = true;
        let (_, names) = self
            .live
            .directory(b"", OFlag::O_RDONLY)
            .and_then(beneath::names)
            .map_err(self.failed(b"", "read the root"))?;
        for name in names {
            empty &= !self.filter.enters(&name);
        }
        Ok(empty)
    }

    /// Owners of the set that this node does not know, since this was asked last; a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        self.owners.unknown()
    }

    fn failed(&self, path: &[u8], doing: &'static str) -> impl Fn(Errno) -> Error + use<> {
        let path = self.root.join(OsStr::from_bytes(path));
        move |errno| Error::new(path.clone(), doing, errno)
    }

    fn failed_io(&self, path: &[u8], doing: &'static str) -> impl Fn(io::Error) -> Error + use<> {
        let path = self.root.join(OsStr::from_bytes(path));
        move |error| Error::new(path.clone(), doing, error)
    }

    /// Where things are placed: in the generation that is being made, if one is.
    fn acting(&self) -> &Ground {
        self.generations.as_ref().and_then(Generations::next).unwrap_or(&self.live)
    }

    // ---- looking -------------------------------------------------------------------------------------

    /// Everything of the set below a directory (`""`: all of it), in the order of the paths' bytes, which is the store's.
    /// Names that come or go meanwhile may be missed: what a walk did not show is looked at before it counts as gone.
    pub fn walk(&self, below: &[u8], sink: &mut dyn FnMut(Vec<u8>, Stat)) -> Result<Vec<Unread>, Error> {
        let mut unread = vec![];
        let first = match self.list(&self.live, below) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if !below.is_empty() => return Ok(unread),
            result => result.map_err(self.failed(below, "read the directory"))?,
        };
        let mut open = vec![(below.to_vec(), first.into_iter())];
        while let Some((directory, items)) = open.last_mut() {
            let Some(item) = items.next() else {
                open.pop();
                continue;
            };
            let path = joined(directory, item.name());
            let Some(stat) = item.stat else {
                match self.list(&self.live, &path) {
                    Ok(items) => open.push((path, items.into_iter())),
                    // Gone or something else by now: an event comes of it.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                    Err(errno) => {
                        let error = self.failed(&path, "read the directory")(errno);
                        unread.push(Unread { path, error });
                    }
                }
                continue;
            };
            sink(path, stat);
        }
        Ok(unread)
    }

    /// What is in a directory of the set, sorted. A directory is there twice, as itself and, with a slash, as what is in it:
    /// `a`, `a-b`, `a/`.
    fn list(&self, ground: &Ground, directory: &[u8]) -> Result<Vec<Item>, Errno> {
        let (open, names) = beneath::names(ground.directory(directory, OFlag::O_RDONLY)?)?;
        let mut items = Vec::with_capacity(names.len());
        for name in names {
            let path = joined(directory, &name);
            if !self.filter.takes_in_directory(&path, &name, true) {
                continue;
            }
            let Some(stat) = lstat(&open, OsStr::from_bytes(&name))? else { continue };
            if kind(&stat) == Kind::Directory {
                items.push(Item { key: [name.as_slice(), b"/"].concat(), stat: None });
            } else if !self.filter.takes_in_directory(&path, &name, false) {
                continue;
            }
            items.push(Item { key: name, stat: Some(stat) });
        }
        items.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(items)
    }

    /// Looks at one path; its content is read only if what lstat shows is not what is known.
    pub fn look(&self, path: &[u8], known: Option<&Known>) -> Result<Look, Error> {
        self.look_in(&self.live, path, known)
    }

    fn look_in(&self, ground: &Ground, path: &[u8], known: Option<&Known>) -> Result<Look, Error> {
        if !self.filter.enters(path) {
            return Ok(Look::Excluded);
        }
        let clock = coarse_now();
        let (parent, name) = match ground.parent(path) {
            Ok(parent) => parent,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(Look::Absent),
            Err(Errno::EXDEV) => {
                return Ok(Look::Refused(
                    "another file system is mounted there: exclude it, or make it a set of its own".into(),
                ));
            }
            Err(error) => return Err(self.failed(path, "look at it")(error)),
        };
        let there = match lstat(&parent, name) {
            Err(Errno::ENAMETOOLONG) => None,
            result => result.map_err(self.failed(path, "look at it"))?,
        };
        let Some(stat) = there else { return Ok(Look::Absent) };
        let what = kind(&stat);
        if what != Kind::Directory && !self.filter.takes(path) {
            return Ok(Look::Excluded);
        }
        if known.and_then(|known| known.stat).is_some_and(|then| then.shows_the_same(&stat)) {
            return Ok(Look::Same);
        }
        let found = match what {
            Kind::File => self.read(&parent, name, &stat),
            Kind::Link => self.read_link(&parent, name, path),
            Kind::Directory => self.read_directory(&parent, name, &stat),
            Kind::Other(what) => {
                return Ok(Look::Refused(format!(
                    "it is {what}, and only files, directories and links are replicated; exclude it or remove it"
                )));
            }
        };
        let (content, xattrs, stat) = match found {
            Ok(Found::There(content, xattrs, stat)) => (content, xattrs, stat),
            Ok(Found::Unsettled) => return Ok(Look::Unsettled),
            Ok(Found::Refused(why)) => return Ok(Look::Refused(why)),
            // Gone, or something else, since lstat.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP | libc::ENXIO)) => {
                return Ok(Look::Unsettled);
            }
            Err(error) => return Err(self.failed_io(path, "read it")(error)),
        };
        if let Some(why) = attributes::refused(&xattrs) {
            return Ok(Look::Refused(format!("{why}; remove some, or exclude it")));
        }
        // The record's name stays as long as the number does: a name that this node does not know is no edit.
        let before = known.and_then(|known| Some((known.record.entry()?, known.stat.as_ref()?)));
        let failed = self.failed(path, "look up its owner");
        let owner = match before {
            Some((entry, then)) if then.uid == stat.uid => entry.owner.clone(),
            _ => self.owners.user(stat.uid).map_err(&failed)?,
        };
        let group = match before {
            Some((entry, then)) if then.gid == stat.gid => entry.group.clone(),
            _ => self.owners.group(stat.gid).map_err(&failed)?,
        };
        let mtime_ns = if what == Kind::Directory { 0 } else { stat.mtime_ns };
        let entry = Entry { content, mode: stat.mode & 0o7777, owner, group, mtime_ns, xattrs };
        Ok(Look::There { entry, stat: self.aged(stat, clock, false) })
    }

    fn read(&self, parent: &OwnedFd, name: &OsStr, seen: &Stat) -> io::Result<Found> {
        let mut file = open_file(parent, name)?;
        let before = shown(&fstat(&file)?);
        if (before.device, before.inode) != (seen.device, seen.inode) {
            return Ok(Found::Unsettled);
        }
        let (hash, size) = hash(&mut file, before.size)?;
        let xattrs = attributes::xattrs(&file)?;
        let after = shown(&fstat(&file)?);
        if (Stat { names: before.names, ..after }) != before || size != after.size {
            return Ok(Found::Unsettled);
        }
        Ok(Found::There(Content::File { size, hash }, xattrs, after))
    }

    fn read_link(&self, parent: &OwnedFd, name: &OsStr, path: &[u8]) -> io::Result<Found> {
        let held = beneath::hold(parent, name)?;
        // An empty name is the link that is held.
        let target = readlinkat(&held, "")?.as_bytes().to_vec();
        let stat = shown(&fstat(&held)?);
        if !self.links_outside && leaves(path, &target) {
            return Ok(Found::Refused(format!(
                "it is a link to {}, which is outside the root; allow it with links_outside, or exclude it",
                String::from_utf8_lossy(&target)
            )));
        }
        Ok(Found::There(Content::Link { target }, vec![], stat))
    }

    fn read_directory(&self, parent: &OwnedFd, name: &OsStr, seen: &Stat) -> io::Result<Found> {
        let file = open_directory(parent, name)?;
        let before = shown(&fstat(&file)?);
        let xattrs = attributes::xattrs(&file)?;
        let after = shown(&fstat(&file)?);
        let unsettled = before.inode != seen.inode || after.ctime_ns != before.ctime_ns;
        Ok(if unsettled { Found::Unsettled } else { Found::There(Content::Directory, xattrs, after) })
    }

    /// What is as young as the clock's last tick may change without showing it. What was placed here moves on to a time
    /// of its own when it is written to: it is only as young as that time.
    fn aged(&self, stat: Stat, clock: i64, placed: bool) -> Stat {
        const SECOND: i64 = 1_000_000_000;
        // A file system that keeps whole seconds.
        let tick = if stat.ctime_ns % SECOND == 0 { SECOND - 1 } else { 0 };
        let young = |time: i64| time.saturating_add(tick) >= clock;
        let is_young = young(stat.ctime_ns) && (!placed || young(stat.mtime_ns));
        if is_young && (self.coarse.get() || tick > 0) { Stat { ctime_ns: 0, ..stat } } else { stat }
    }

    /// Whether several changes within some microseconds show the same time.
    fn is_coarse(&self) -> Result<bool, Errno> {
        const TRIES: usize = 6;
        let name = OsStr::new(NEW);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(self.stage.fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut times = BTreeSet::new();
        for _ in 0..TRIES {
            nix::unistd::write(&file, b".")?;
            times.insert(shown(&fstat(&file)?).ctime_ns);
        }
        unlinkat(self.stage.fd(), name, UnlinkatFlags::NoRemoveDir)?;
        Ok(times.len() < TRIES)
    }

    // ---- staging -------------------------------------------------------------------------------------

    /// Whether what rsync left for this path is this content, all of it.
    pub fn verify(&self, path: &[u8], expected: &[u8; 32], size: u64) -> bool {
        let found = || -> io::Result<bool> {
            let (parent, name) = self.stage_parent(path)?;
            let mut file = open_file(&*parent, name)?;
            if shown(&fstat(&file)?).size != size {
                return Ok(false);
            }
            Ok(hash(&mut file, size)? == (*expected, size))
        };
        // What cannot be read did not arrive.
        found().unwrap_or(false)
    }

    /// Makes what is staged for this path what the entry says, and with `sync` durable; without, [`Self::sync_staging`]
    /// follows. Does nothing for directories and links: they are made when they are placed.
    pub fn prepare(&self, path: &[u8], entry: &Entry, sync: bool) -> Result<(), Error> {
        if !matches!(entry.content, Content::File { .. }) {
            return Ok(());
        }
        let prepare = || -> io::Result<()> {
            let (parent, name) = self.stage_parent(path)?;
            let file = open_file(&*parent, name)?;
            attributes::apply(&file, entry, &self.owners)?;
            if sync { file.sync_all() } else { Ok(()) }
        };
        prepare().map_err(self.failed_io(path, "prepare its new content in staging"))
    }

    /// Why a file of the peer's must not be made here, whatever its content; what to do is in it.
    pub fn bars(&self, path: &[u8], entry: &Entry) -> Result<Option<String>, Error> {
        self.owners.lends(entry).map_err(self.failed(path, "look up its owner"))
    }

    /// Everything staged is durable when this returns.
    pub fn sync_staging(&self) -> Result<(), Error> {
        self.stage.sync_all().map_err(self.failed(b"", "write its staging directory to the disk"))
    }

    /// Empties staging: of what arrived and is not wanted any more. rsync must not be writing.
    pub fn sweep(&self) -> Result<(), Error> {
        *self.stage_last.borrow_mut() = None;
        let emptied = self.stage.directory(b"", OFlag::O_RDONLY).and_then(beneath::empty);
        emptied.map_err(self.failed(b"", "empty its staging directory"))
    }

    // ---- placing -------------------------------------------------------------------------------------

    /// Makes a path what the entry says. `fetched`: its content is in staging and prepared; without, a file keeps the
    /// content it has. `expect`: what is there now, as far as is known. Missing directories above it are made like those
    /// they lie in. Durable with [`Self::finish`].
    pub fn place(
        &self,
        path: &[u8],
        entry: &Entry,
        fetched: bool,
        expect: Option<&Stat>,
    ) -> Result<Stat, Place> {
        let directory = entry.content == Content::Directory;
        self.may_touch(path, directory)?;
        let clock = coarse_now();
        let (parent, name) = self.parent_made(path)?;
        let failed = self.failed(path, "publish it");
        let live = lstat(&parent, name).map_err(&failed)?;
        if !self.is_expected(path, live.as_ref(), expect) {
            return Err(Place::Changed);
        }
        let what = live.as_ref().map(kind);
        let stat = match &entry.content {
            Content::Directory if what == Some(Kind::Directory) => {
                let file = open_directory(&parent, name).map_err(&failed)?;
                self.change_in_place(path, &file, live.as_ref(), entry)?
            }
            Content::Directory => {
                self.make_directory(path, entry)?;
                self.put_new(path, &parent, name, live.as_ref())?
            }
            Content::Link { target } => {
                self.make_link(path, target, entry)?;
                self.put_new(path, &parent, name, live.as_ref())?
            }
            Content::File { .. } if fetched => {
                let (stage, staged) = self.stage_parent(path).map_err(&failed)?;
                self.exchange(path, &stage, staged, &parent, name, live.as_ref())?
            }
            Content::File { .. } if what == Some(Kind::File) => {
                let file = open_file(&parent, name).map_err(&failed)?;
                let shared = live.as_ref().is_some_and(|live| live.names > 1);
                if shared && self.generations.as_ref().is_some_and(|g| g.next().is_some()) {
                    // The generation that is live has the same file.
                    let live = live.as_ref().ok_or(Place::Changed)?;
                    let copy = self.copy_to_stage(&file, live).map_err(|error| self.copied(path, error))?;
                    attributes::apply(&copy, entry, &self.owners)
                        .map_err(self.failed_io(path, "change its attributes"))?;
                    self.put_new(path, &parent, name, Some(live))?
                } else {
                    self.change_in_place(path, &file, live.as_ref(), entry)?
                }
            }
            // Its content was to be there.
            Content::File { .. } => return Err(Place::Changed),
        };
        self.acted(path);
        Ok(self.aged(stat, clock, true))
    }

    /// Another node's path: never out of the root, never dre's own, never what this set does not have.
    fn may_touch(&self, path: &[u8], directory: bool) -> Result<(), Error> {
        let may =
            path_is_sound(path) && if directory { self.filter.enters(path) } else { self.filter.takes(path) };
        if may {
            Ok(())
        } else {
            Err(self.failed(path, "touch a path that does not belong to the set")(Errno::EINVAL))
        }
    }

    fn is_expected(&self, path: &[u8], live: Option<&Stat>, expect: Option<&Stat>) -> bool {
        let before = || self.generations.as_ref().map_or(live, |generations| generations.before(path, live));
        as_expected(live, expect) || as_expected(before(), expect)
    }

    /// The directory in staging that this path lies in. Many files of one directory follow each other, and nobody else renames what is
    /// in staging: it is opened once for them.
    fn stage_parent<'p>(&self, path: &'p [u8]) -> Result<(Arc<OwnedFd>, &'p OsStr), Errno> {
        let (directory, name) = split(path);
        let mut last = self.stage_last.borrow_mut();
        let held = match &*last {
            Some((at, held)) if at == directory => Arc::clone(held),
            _ => {
                let held = Arc::new(self.stage.directory(directory, OFlag::O_PATH)?);
                *last = Some((directory.to_vec(), Arc::clone(&held)));
                held
            }
        };
        Ok((held, OsStr::from_bytes(name)))
    }

    fn stage_fd(&self) -> Result<OwnedFd, Error> {
        self.stage.directory(b"", OFlag::O_PATH).map_err(self.failed(b"", "open its staging directory"))
    }

    fn acted(&self, path: &[u8]) {
        self.touched.borrow_mut().insert(split(path).0.to_vec());
        if let Some(generations) = &self.generations {
            generations.acted(path);
        }
    }

    /// The directory a path lies in, made where it is missing.
    fn parent_made<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), Error> {
        let ground = self.acting();
        match ground.parent(path) {
            Err(Errno::ENOENT) => {}
            result => return result.map_err(self.failed(path, "open the directory it lies in")),
        }
        let above = split(path).0;
        let ends = above.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([above.len()]) {
            let directory = &above[..end];
            let made = || -> Result<bool, Errno> {
                let (parent, name) = ground.parent(directory)?;
                match mkdirat(&parent, name, Mode::S_IRWXU) {
                    Ok(()) => {}
                    Err(Errno::EEXIST) => return Ok(false),
                    Err(error) => return Err(error),
                }
                let like = fstat(&parent)?;
                let file = open_directory(&parent, name)?;
                fchown(&file, Some(like.st_uid.into()), Some(like.st_gid.into()))?;
                fchmod(&file, Mode::from_bits_truncate(like.st_mode & 0o7777))?;
                Ok(true)
            };
            if made().map_err(self.failed(directory, "make the directory"))? {
                self.acted(directory);
            }
        }
        ground.parent(path).map_err(self.failed(path, "open the directory it lies in"))
    }

    /// Attributes of what is there already.
    fn change_in_place(
        &self,
        path: &[u8],
        file: &File,
        live: Option<&Stat>,
        entry: &Entry,
    ) -> Result<Stat, Place> {
        let before = shown(&fstat(file).map_err(self.failed(path, "publish it"))?);
        if !as_expected(Some(&before), live) {
            return Err(Place::Changed);
        }
        attributes::apply(file, entry, &self.owners)
            .map_err(self.failed_io(path, "change its attributes"))?;
        let after = shown(&fstat(file).map_err(self.failed(path, "publish it"))?);
        let directory = entry.content == Content::Directory;
        let untouched = directory || (after.size == before.size && after.mtime_ns == entry.mtime_ns);
        // Written to in between: what is not true of the disk is seen at the next look.
        Ok(if untouched { after } else { before })
    }

    /// A directory in staging, with everything the entry says.
    fn make_directory(&self, path: &[u8], entry: &Entry) -> Result<(), Error> {
        let made = || -> io::Result<()> {
            let stage = self.stage.fd();
            beneath::remove_all(&stage, OsStr::new(NEW))?;
            mkdirat(stage, NEW, Mode::S_IRWXU)?;
            attributes::apply(&open_directory(&stage, OsStr::new(NEW))?, entry, &self.owners)
        };
        made().map_err(self.failed_io(path, "make the directory"))
    }

    fn make_link(&self, path: &[u8], target: &[u8], entry: &Entry) -> Result<(), Error> {
        if !self.links_outside && leaves(path, target) {
            return Err(self.failed(path, "make a link that leaves the root (links_outside)")(Errno::EINVAL));
        }
        let made = || -> Result<(), Errno> {
            let (stage, name) = (self.stage.fd(), OsStr::new(NEW));
            beneath::remove_all(&stage, name)?;
            symlinkat(target, stage, name)?;
            let (uid, gid) = self.owners.ids(entry)?;
            fchownat(stage, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
            let mtime = attributes::time(entry.mtime_ns);
            utimensat(stage, name, &attributes::OMIT, &mtime, UtimensatFlags::NoFollowSymlink)
        };
        made().map_err(self.failed(path, "make the link"))
    }

    /// Puts what was made in staging where something else is, or nothing.
    fn put_new(
        &self,
        path: &[u8],
        parent: &OwnedFd,
        name: &OsStr,
        live: Option<&Stat>,
    ) -> Result<Stat, Place> {
        let (stage, new) = (self.stage_fd()?, OsStr::new(NEW));
        let put = self.exchange(path, &stage, new, parent, name, live);
        if put.is_err() {
            beneath::remove_all(&stage, new).map_err(self.failed(path, "remove what was made for it"))?;
        }
        put
    }

    /// Puts what is staged where something else is, or nothing. What was there is gone then, unless it is a directory with
    /// something in it.
    fn exchange(
        &self,
        path: &[u8],
        stage: &OwnedFd,
        staged: &OsStr,
        parent: &OwnedFd,
        name: &OsStr,
        live: Option<&Stat>,
    ) -> Result<Stat, Place> {
        let failed = self.failed(path, "publish it");
        let held =
            beneath::hold(stage, staged).map_err(self.failed(path, "open its new content in staging"))?;
        let before = shown(&fstat(&held).map_err(&failed)?);
        let directory = |stat: &Stat| kind(stat) == Kind::Directory;
        match live {
            None => match rename_new(stage, staged, parent, name) {
                Err(Errno::EEXIST) => return Err(Place::Changed),
                result => result.map_err(&failed)?,
            },
            Some(live) if directory(live) == directory(&before) => {
                renameat(stage, staged, parent, name).map_err(&failed)?;
            }
            Some(live) => {
                let swap = || renameat2(stage, staged, parent, name, RenameFlags::RENAME_EXCHANGE);
                swap().map_err(&failed)?;
                // What came out is looked at before it goes.
                let removed = if directory(live) {
                    unlinkat(stage, staged, UnlinkatFlags::RemoveDir).map_err(|error| match error {
                        Errno::ENOTEMPTY | Errno::EEXIST => Place::NotEmpty,
                        Errno::ENOTDIR => Place::Changed,
                        error => failed(error).into(),
                    })
                } else {
                    match lstat(stage, staged) {
                        Ok(out) if moved(out.as_ref(), live) => {
                            unlinkat(stage, staged, UnlinkatFlags::NoRemoveDir).map_err(|e| failed(e).into())
                        }
                        Ok(_) => Err(Place::Changed),
                        Err(error) => Err(failed(error).into()),
                    }
                };
                if let Err(why) = removed {
                    swap().map_err(&failed)?;
                    return Err(why);
                }
            }
        }
        let after = shown(&fstat(&held).map_err(&failed)?);
        Ok(if moved(Some(&after), &before) { after } else { before })
    }

    /// Takes a path away. A file or link goes to `aside` (which must not be there), a directory must be empty and leaves
    /// nothing. What is not there is done.
    pub fn remove(&self, path: &[u8], expect: Option<&Stat>, aside: &Path) -> Result<(), Place> {
        let failed = self.failed(path, "move it to the trash");
        let found = self.acting().parent(path).and_then(|(parent, name)| {
            let live = lstat(&parent, name)?;
            Ok((parent, name, live))
        });
        let (parent, name, live) = match found {
            Ok((parent, name, Some(live))) => (parent, name, live),
            Ok((_, _, None)) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
            Err(error) => return Err(failed(error).into()),
        };
        let directory = kind(&live) == Kind::Directory;
        self.may_touch(path, directory)?;
        if !self.is_expected(path, Some(&live), expect) {
            return Err(Place::Changed);
        }
        if directory {
            unlinkat(&parent, name, UnlinkatFlags::RemoveDir).map_err(|error| match error {
                Errno::ENOTEMPTY | Errno::EEXIST => Place::NotEmpty,
                Errno::ENOTDIR => Place::Changed,
                error => failed(error).into(),
            })?;
        } else {
            self.move_aside(path, &parent, name, &live, aside)?;
        }
        self.acted(path);
        Ok(())
    }

    fn move_aside(
        &self,
        path: &[u8],
        parent: &OwnedFd,
        name: &OsStr,
        live: &Stat,
        aside: &Path,
    ) -> Result<(), Place> {
        let failed = self.failed(path, "move it to the trash");
        match rename_new(parent, name, AT_FDCWD, aside.as_os_str()) {
            Ok(()) => {
                // Only now it is certain what it was.
                let out = lstat(&AT_FDCWD, aside.as_os_str()).map_err(&failed)?;
                if moved(out.as_ref(), live) {
                    return Ok(());
                }
                // Should the next edit be there already, this one stays aside.
                let _ = rename_new(AT_FDCWD, aside.as_os_str(), parent, name);
                Err(Place::Changed)
            }
            Err(Errno::EXDEV) => {
                // Another file system: a copy that is durable, then away with the original.
                self.copy_aside(path, parent, name, aside)?;
                let stage = self.stage_fd()?;
                renameat(parent, name, &stage, OUT).map_err(&failed)?;
                let out = lstat(&stage, OsStr::new(OUT)).map_err(&failed)?;
                if moved(out.as_ref(), live) {
                    return unlinkat(&stage, OUT, UnlinkatFlags::NoRemoveDir).map_err(|e| failed(e).into());
                }
                let _ = std::fs::remove_file(aside);
                match rename_new(&stage, OsStr::new(OUT), parent, name) {
                    // The next edit is there already: this one is kept in place of what was to be.
                    Err(Errno::EEXIST) => self.copy_aside(path, &stage, OsStr::new(OUT), aside)?,
                    result => result.map_err(&failed)?,
                }
                Err(Place::Changed)
            }
            Err(error) => Err(failed(error).into()),
        }
    }

    // ---- keeping -------------------------------------------------------------------------------------

    /// A durable copy of what is there, with everything beside its content; where the file system can, it shares the
    /// content's blocks. `aside` must not be there.
    pub fn keep_aside(&self, path: &[u8], aside: &Path) -> Result<(), Place> {
        self.keep(self.acting(), path, aside)
    }

    fn keep(&self, ground: &Ground, path: &[u8], aside: &Path) -> Result<(), Place> {
        let (parent, name) = match ground.parent(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(Place::Changed),
            result => result.map_err(self.failed(path, "keep a copy of it"))?,
        };
        self.copy_aside(path, &parent, name, aside)
    }

    fn copy_aside(&self, path: &[u8], parent: &OwnedFd, name: &OsStr, aside: &Path) -> Result<(), Place> {
        let failed = self.failed(path, "keep a copy of it");
        let live = lstat(parent, name).map_err(&failed)?.ok_or(Place::Changed)?;
        let copied = match kind(&live) {
            Kind::File => copy_file(parent, name, &live, aside),
            Kind::Link => copy_link(parent, name, &live, AT_FDCWD, aside.as_os_str()),
            // Nothing of it is lost that its record does not have.
            Kind::Directory => return Ok(()),
            Kind::Other(_) => return Err(Place::Changed),
        };
        copied.map_err(|error| self.copied(path, error))
    }

    /// Why there is no copy: `WouldBlock` says that it was written to meanwhile.
    fn copied(&self, path: &[u8], error: io::Error) -> Place {
        match error.raw_os_error() {
            None if error.kind() == io::ErrorKind::WouldBlock => Place::Changed,
            Some(libc::ENOENT | libc::ELOOP) => Place::Changed,
            _ => self.failed_io(path, "keep a copy of it")(error).into(),
        }
    }

    /// The peer's version of a path that loses: what is staged for it, as the entry says, goes aside.
    pub fn keep_staged(&self, path: &[u8], entry: &Entry, aside: &Path) -> Result<(), Place> {
        let failed = self.failed(path, "keep the peer's version of it");
        match &entry.content {
            Content::Directory => Ok(()),
            Content::Link { target } => {
                let made = || -> Result<(), Errno> {
                    symlinkat(target.as_slice(), AT_FDCWD, aside)?;
                    let (uid, gid) = self.owners.ids(entry)?;
                    fchownat(AT_FDCWD, aside, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                };
                made().map_err(|error| failed(error).into())
            }
            Content::File { .. } => {
                self.prepare(path, entry, true)?;
                let (stage, staged) = self.stage.parent(path).map_err(&failed)?;
                match rename_new(&stage, staged, AT_FDCWD, aside.as_os_str()) {
                    Err(Errno::EXDEV) => {
                        self.copy_aside(path, &stage, staged, aside)?;
                        unlinkat(&stage, staged, UnlinkatFlags::NoRemoveDir).map_err(|e| failed(e).into())
                    }
                    result => result.map_err(|error| failed(error).into()),
                }
            }
        }
    }

    /// What was kept comes back, as an edit of now: what is there must have been removed before. `kept` stays.
    pub fn put_back(&self, kept: &Path, path: &[u8]) -> Result<(), Place> {
        self.may_touch(path, false)?;
        let failed = self.failed(path, "put it back");
        let original = lstat(&AT_FDCWD, kept.as_os_str())
            .and_then(|stat| stat.ok_or(Errno::ENOENT))
            .map_err(|errno| Error::new(kept.to_owned(), "read what was kept", errno))?;
        let stage = self.stage_fd()?;
        let copied = match kind(&original) {
            Kind::File => open_file(&AT_FDCWD, kept.as_os_str()).map_err(io::Error::from).and_then(|file| {
                let copy = self.copy_to_stage(&file, &original)?;
                futimens(&copy, &attributes::OMIT, &TimeSpec::UTIME_NOW)?;
                copy.sync_all()
            }),
            Kind::Link => {
                beneath::remove_all(&stage, OsStr::new(NEW)).map_err(io::Error::from).and_then(|()| {
                    let now = Stat { mtime_ns: coarse_now(), ..original };
                    copy_link(&AT_FDCWD, kept.as_os_str(), &now, &stage, OsStr::new(NEW))
                })
            }
            _ => Err(Errno::EINVAL.into()),
        };
        copied.map_err(self.failed_io(path, "put it back"))?;
        let (parent, name) = self.parent_made(path)?;
        self.put_new(path, &parent, name, None)?;
        self.acting().sync(split(path).0).map_err(failed)?;
        self.acted(path);
        Ok(())
    }

    /// A copy in staging, with everything beside its content; not durable.
    fn copy_to_stage(&self, file: &File, expected: &Stat) -> io::Result<File> {
        let name = OsStr::new(NEW);
        beneath::remove_all(&self.stage.fd(), name)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let copy = File::from(openat(self.stage.fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
        copy_content(file, expected, &copy)?;
        Ok(copy)
    }

    // ---- the batch -----------------------------------------------------------------------------------

    /// A batch begins: with `publish = tree`, in a clone of the live generation. One that was not finished is thrown away.
    pub fn begin(&mut self) -> Result<(), Error> {
        match &mut self.generations {
            Some(generations) => generations.begin(&self.live),
            None => Ok(()),
        }
    }

    /// The generation that [`Self::finish`] will make live: to be watched before, so that no edit in it goes unseen. `None` where
    /// nothing was done in it: the live one stays.
    pub fn next(&self) -> Option<PathBuf> {
        self.generations.as_ref().filter(|all| all.has_acted())?.next().map(|next| next.path.clone())
    }

    /// The batch is durable, and with `publish = tree` visible, when this returns. The generation that was live until now is
    /// returned, with the edits that were made in it meanwhile: see [`Old`]; [`Self::discard`] it in the end.
    pub fn finish(&mut self) -> Result<Option<Old>, Error> {
        let Some(generations) = &mut self.generations else {
            self.sync_directories()?;
            return Ok(None);
        };
        self.touched.borrow_mut().clear();
        let Some((live, mut old)) = generations.switch()? else { return Ok(None) };
        let was = std::mem::replace(&mut self.live, live);
        old.ground = Some(was);
        self.settle(&mut old)?;
        Ok(Some(old))
    }

    /// The directories in which something was placed or removed.
    pub fn sync_directories(&self) -> Result<(), Error> {
        let touched = std::mem::take(&mut *self.touched.borrow_mut());
        let synced = if touched.len() > SYNC_EACH_MAX {
            self.live.sync_all()
        } else {
            touched.iter().try_for_each(|directory| match self.live.sync(directory) {
                // Removed since, or moved by somebody.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
                result => result,
            })
        };
        let result = synced.map_err(self.failed(b"", "write its directories to the disk"));
        if result.is_err() {
            self.touched.borrow_mut().extend(touched);
        }
        result
    }
}

/// What [`Tree::list`] found.
struct Item {
    key: Vec<u8>,
    /// `None`: what is in the directory.
    stat: Option<Stat>,
}

impl Item {
    fn name(&self) -> &[u8] {
        self.key.strip_suffix(b"/").unwrap_or(&self.key)
    }
}

/// What reading a path gave.
enum Found {
    There(Content, Vec<(Vec<u8>, Vec<u8>)>, Stat),
    Unsettled,
    Refused(String),
}

/// The directory for the set's staging, emptied, and nobody else's.
fn stage(around: &Ground, name: &[u8]) -> Result<Ground, Errno> {
    let name_ = OsStr::from_bytes(name);
    let own = nix::unistd::geteuid().as_raw();
    if let Some(there) = lstat(&around.fd(), name_)?
        && (kind(&there) != Kind::Directory || there.uid != own)
    {
        beneath::remove_all(&around.fd(), name_)?;
    }
    match mkdirat(around.fd(), name_, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error),
    }
    let stage = around.beneath(name)?;
    fchmod(stage.directory(b"", OFlag::O_RDONLY)?, Mode::S_IRWXU)?;
    beneath::empty(stage.directory(b"", OFlag::O_RDONLY)?)?;
    Ok(stage)
}

fn open_directory(parent: &impl AsFd, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(File::from(openat(parent, name, flags, Mode::empty())?))
}

/// The clock of the times of change.
fn coarse_now() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME_COARSE).map_or(i64::MAX, |now| now.num_nanoseconds())
}

/// BLAKE3 of what follows, and how many bytes that was.
fn hash(file: &mut File, size: u64) -> io::Result<([u8; 32], u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; usize::try_from(size).unwrap_or(PIECE).saturating_add(1).min(PIECE)];
    let mut read = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok((*hasher.finalize().as_bytes(), read)),
            Ok(n) => {
                hasher.update(&piece[..n]);
                read += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether a link at this path leads out of the root, by its words: what the names on the way are is not asked.
fn leaves(path: &[u8], target: &[u8]) -> bool {
    if target.first() == Some(&b'/') {
        return true;
    }
    let mut depth = split(path).0.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count();
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." if depth == 0 => return true,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// Whether what is there is what was known. Of a directory only what is replicated counts: its times move with what is
/// in it.
fn as_expected(live: Option<&Stat>, expect: Option<&Stat>) -> bool {
    match (live, expect) {
        (None, None) => true,
        (Some(live), Some(expect)) if kind(live) == Kind::Directory => {
            (live.mode, live.uid, live.gid) == (expect.mode, expect.uid, expect.gid)
        }
        (Some(live), Some(expect)) => {
            let ctime_ns = if expect.is_young() { 0 } else { live.ctime_ns };
            Stat { ctime_ns, names: expect.names, ..*live } == *expect
        }
        _ => false,
    }
}

/// Whether this is the same after it was renamed or linked, which only its time of change and number of names show.
fn moved(now: Option<&Stat>, before: &Stat) -> bool {
    now.is_some_and(|now| {
        if kind(before) == Kind::Directory {
            return (now.inode, now.mode, now.uid, now.gid)
                == (before.inode, before.mode, before.uid, before.gid);
        }
        Stat { ctime_ns: before.ctime_ns, names: before.names, ..*now } == *before
    })
}

/// A rename that replaces nothing.
fn rename_new(from: impl AsFd + Copy, name: &OsStr, to: impl AsFd + Copy, new: &OsStr) -> Result<(), Errno> {
    match renameat2(from, name, to, new, RenameFlags::RENAME_NOREPLACE) {
        // A file system that has no such rename.
        Err(Errno::EINVAL | Errno::ENOSYS) => match lstat(&to, new)? {
            Some(_) => Err(Errno::EEXIST),
            None => renameat(from, name, to, new),
        },
        result => result,
    }
}

/// Content and everything beside it. `WouldBlock`: it is not what was expected, or was written to meanwhile.
fn copy_content(file: &File, expected: &Stat, copy: &File) -> io::Result<()> {
    let unsettled = || io::Error::from(io::ErrorKind::WouldBlock);
    if !moved(Some(&shown(&fstat(file)?)), expected) {
        return Err(unsettled());
    }
    let (mut from, mut to) = (file, copy);
    // copy_file_range(2) underneath: blocks are shared where the file system can.
    let copied = io::copy(&mut from, &mut to)?;
    attributes::copy(file, copy)?;
    if copied != expected.size || !moved(Some(&shown(&fstat(file)?)), expected) {
        return Err(unsettled());
    }
    Ok(())
}

fn copy_file(parent: &OwnedFd, name: &OsStr, live: &Stat, aside: &Path) -> io::Result<()> {
    let file = open_file(parent, name)?;
    let copy = OpenOptions::new().write(true).create_new(true).mode(0o600).open(aside)?;
    let copied = copy_content(&file, live, &copy).and_then(|()| copy.sync_all());
    if copied.is_err() {
        let _ = std::fs::remove_file(aside);
    }
    copied
}

fn copy_link(
    parent: &impl AsFd,
    name: &OsStr,
    stat: &Stat,
    to: impl AsFd + Copy,
    new: &OsStr,
) -> io::Result<()> {
    let target = readlinkat(parent, name)?;
    symlinkat(target.as_os_str(), to, new)?;
    fchownat(to, new, Some(stat.uid.into()), Some(stat.gid.into()), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let mtime = attributes::time(stat.mtime_ns);
    Ok(utimensat(to, new, &attributes::OMIT, &mtime, UtimensatFlags::NoFollowSymlink)?)
}
