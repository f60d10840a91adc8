//! `publish = tree`: the root is a link to a generation of the tree, and a batch makes the next one.
//!
//! ```text
//!   rules ─▶ rules.gen-7            plain directory `rules` at first: exchanged with a link, in one step
//!            rules.gen-8            a clone: directories of its own, hard links for everything else
//!   rules ─▶ rules.gen-8            the batch is visible, all of it
//!            rules.gen-7            what was edited in it since the clone is carried over, then it goes
//! ```
//!
//! The clone has everything, what does not belong to the set too: programs find beside the rules what they found before.
//! An edit in place is in both generations, for the file is one; an edit by a rename is in the old one only and is
//! *carried*, unless the batch changed the same path: that is a *clash*, and the caller decides.
//!
//! A generation that a crash left behind is found at the next start. One that never became live is removed; of an older
//! one, everything that the live one does not have is a clash.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, readlinkat, renameat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::logic::sync::record::Stat;
use crate::shell::beneath::{self, Ground, Kind, joined, kind, lstat};
use crate::shell::tree::{Error, Place, Tree, attributes, moved};

type Listing = BTreeMap<Vec<u8>, Stat>;

pub struct Generations {
    /// The directory that the root is in.
    around: Ground,
    name: Vec<u8>,
    number: u64,
    next: Option<Next>,
}

struct Next {
    number: u64,
    ground: Ground,
    /// The live generation when it was cloned.
    before: Listing,
    acted: RefCell<BTreeSet<Vec<u8>>>,
}

/// A generation that is live no more.
pub struct Old {
    pub(super) ground: Option<Ground>,
    number: u64,
    before: Listing,
    /// What of it is dealt with: anything else in it is an edit.
    seen: Listing,
    /// What the batch changed; `None`: that is not known any more, it may be anything.
    acted: Option<BTreeSet<Vec<u8>>>,
    /// Edits that were made in it and are in the live one now: to be looked at as if an event had told of them.
    pub carried: Vec<Vec<u8>>,
    /// Paths that were edited in it *and* are another in the live one, which stays: see [`Tree::keep_old`].
    pub clashes: Vec<Vec<u8>>,
}

/// What a path shows after it was cloned, which nobody edited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relinked {
    pub path: Vec<u8>,
    pub before: Stat,
    pub after: Stat,
}

impl Generations {
    /// Of a root that is such a link, or becomes one now.
    pub fn open(root: &Path) -> Result<(Self, Ground), Error> {
        let failed = |doing| move |error: Errno| Error::new(root.to_owned(), doing, error);
        let (Some(directory), Some(name)) = (root.parent(), root.file_name()) else {
            return Err(failed("publish it as a whole (publish = tree)")(Errno::EINVAL));
        };
        let around = Ground::open(directory).map_err(failed("open the directory it is in"))?;
        let mut new = Self { around, name: name.as_bytes().to_vec(), number: 0, next: None };
        let there = lstat(&new.around.fd(), name).map_err(failed("open the root of the set"))?;
        match there.as_ref().map(kind) {
            None => return Err(failed("open the root of the set")(Errno::ENOENT)),
            Some(Kind::Directory) => {
                new.convert()
                    .map_err(failed("turn it into a link to its first generation (publish = tree)"))?;
            }
            Some(Kind::Link) => {}
            Some(_) => return Err(failed("open the root of the set")(Errno::ENOTDIR)),
        }
        let target = readlinkat(new.around.fd(), name).map_err(failed("read the link"))?;
        new.number = new.number_of(target.as_bytes()).ok_or_else(|| {
            let why = format!(
                "it is a link to {}, which is no generation of it; write where it leads as the root",
                Path::new(&target).display()
            );
            Error::new(root.to_owned(), "publish it as a whole (publish = tree)", io::Error::other(why))
        })?;
        let live = new.around.beneath(target.as_bytes()).map_err(failed("open its live generation"))?;
        for number in new.others().map_err(failed("read the directory it is in"))? {
            let name = new.generation(number);
            let name = OsStr::from_bytes(&name);
            let link = lstat(&new.around.fd(), name).ok().flatten().is_some_and(|s| kind(&s) == Kind::Link);
            if number > new.number || link {
                beneath::remove_all(&new.around.fd(), name)
                    .map_err(failed("remove an unfinished generation"))?;
            }
        }
        Ok((new, live))
    }

    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub fn around(&self) -> &Ground {
        &self.around
    }

    pub fn next(&self) -> Option<&Ground> {
        Some(&self.next.as_ref()?.ground)
    }

    /// Whether something was done in the next one.
    pub fn has_acted(&self) -> bool {
        self.next.as_ref().is_some_and(|next| !next.acted.borrow().is_empty())
    }

    pub fn acted(&self, path: &[u8]) {
        if let Some(next) = &self.next {
            next.acted.borrow_mut().insert(path.to_vec());
        }
    }

    /// What the live generation showed before it was cloned, for what the clone shows now: linking moved the time of change.
    pub fn before<'s>(&'s self, path: &[u8], now: Option<&'s Stat>) -> Option<&'s Stat> {
        let before = self.next.as_ref().and_then(|next| next.before.get(path));
        before.filter(|before| kind(before) != Kind::Directory && moved(now, before)).or(now)
    }

    fn generation(&self, number: u64) -> Vec<u8> {
        [self.name.as_slice(), format!(".gen-{number}").as_bytes()].concat()
    }

    fn number_of(&self, name: &[u8]) -> Option<u64> {
        let number = name.strip_prefix(self.name.as_slice())?.strip_prefix(b".gen-")?;
        str::from_utf8(number).ok()?.parse().ok()
    }

    /// Numbers of the generations that are there beside the live one.
    fn others(&self) -> Result<Vec<u64>, Errno> {
        let (_, names) = beneath::names(self.around.directory(b"", OFlag::O_RDONLY)?)?;
        let mut all: Vec<u64> = names.iter().filter_map(|name| self.number_of(name)).collect();
        all.retain(|number| *number != self.number);
        all.sort_unstable();
        Ok(all)
    }

    /// The directory and a link change names: the root is there at every moment. The link leads to its own name until then.
    fn convert(&self) -> Result<(), Errno> {
        let around = self.around.fd();
        for number in self.others()? {
            let left = self.generation(number);
            let left = OsStr::from_bytes(&left);
            if lstat(&around, left)?.is_some_and(|stat| kind(&stat) == Kind::Link) {
                unlinkat(around, left, UnlinkatFlags::NoRemoveDir)?;
            }
        }
        let first = self.others()?.last().map_or(1, |last| last + 1);
        let first = self.generation(first);
        symlinkat(first.as_slice(), around, first.as_slice())?;
        let (name, flags) = (self.name.as_slice(), RenameFlags::RENAME_EXCHANGE);
        if let Err(error) = renameat2(around, name, around, first.as_slice(), flags) {
            unlinkat(around, first.as_slice(), UnlinkatFlags::NoRemoveDir)?;
            return Err(error);
        }
        self.around.sync(b"")
    }

    /// Whether the root is the link that was made.
    pub fn check(&self) -> Result<(), String> {
        let live = self.generation(self.number);
        match readlinkat(self.around.fd(), self.name.as_slice()) {
            Ok(target) if target.as_bytes() == live => Ok(()),
            Ok(target) => {
                Err(format!("is a link to {}, which dre-sync did not make", Path::new(&target).display()))
            }
            Err(Errno::EINVAL) => Err("is not the link that dre-sync made".into()),
            Err(error) => Err(format!("is not the link that dre-sync made: {error}")),
        }
    }

    /// Clones the live generation.
    pub fn begin(&mut self, live: &Ground) -> Result<(), Error> {
        let path = live.path.clone();
        let failed = |error: io::Error| Error::new(path.clone(), "make the next generation of it", error);
        self.next = None;
        let number = self.number + 1;
        let name = self.generation(number);
        let make = || -> io::Result<Next> {
            let around = self.around.fd();
            beneath::remove_all(&around, OsStr::from_bytes(&name))?;
            mkdirat(around, name.as_slice(), Mode::S_IRWXU)?;
            let ground = self.around.beneath(&name)?;
            let before = clone(live, &ground)?;
            Ok(Next { number, ground, before, acted: RefCell::default() })
        };
        self.next = Some(make().map_err(failed)?);
        Ok(())
    }

    /// What was made becomes live; `None`: nothing was done in it, and it is gone.
    pub fn switch(&mut self) -> Result<Option<(Ground, Old)>, Error> {
        let Some(next) = self.next.take() else { return Ok(None) };
        let root = self.around.path.join(OsStr::from_bytes(&self.name));
        let failed =
            |error: Errno| Error::new(root.clone(), "make the next generation of it the live one", error);
        let around = self.around.fd();
        let (old, new) = (self.number, self.generation(next.number));
        if next.acted.borrow().is_empty() {
            beneath::remove_all(&around, OsStr::from_bytes(&new)).map_err(failed)?;
            return Ok(None);
        }
        let link = [b".dre-link-", self.name.as_slice()].concat();
        let switch = || -> Result<(), Errno> {
            self.around.sync_all()?;
            beneath::remove_all(&around, OsStr::from_bytes(&link))?;
            symlinkat(new.as_slice(), around, link.as_slice())?;
            renameat(around, link.as_slice(), around, self.name.as_slice())?;
            self.around.sync(b"")
        };
        switch().map_err(failed)?;
        self.number = next.number;
        let old = Old {
            ground: None,
            number: old,
            seen: next.before.clone(),
            before: next.before,
            acted: Some(next.acted.into_inner()),
            carried: vec![],
            clashes: vec![],
        };
        Ok(Some((next.ground, old)))
    }
}

/// Every path beneath, of the set or not.
fn listing(ground: &Ground) -> Result<Listing, Errno> {
    let mut all = Listing::new();
    let mut todo = vec![vec![]];
    while let Some(directory) = todo.pop() {
        let (open, names) = match ground.directory(&directory, OFlag::O_RDONLY).and_then(beneath::names) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if !directory.is_empty() => continue,
            result => result?,
        };
        for name in names {
            let Some(stat) = lstat(&open, OsStr::from_bytes(&name))? else { continue };
            let path = joined(&directory, &name);
            if kind(&stat) == Kind::Directory {
                todo.push(path.clone());
            }
            all.insert(path, stat);
        }
    }
    Ok(all)
}

/// What was there when it was linked.
fn clone(from: &Ground, to: &Ground) -> io::Result<Listing> {
    let mut all = Listing::new();
    let like = |path: &[u8]| -> io::Result<()> {
        let original = File::from(from.directory(path, OFlag::O_RDONLY)?);
        attributes::copy(&original, &File::from(to.directory(path, OFlag::O_RDONLY)?))
    };
    like(b"")?;
    let mut todo = vec![vec![]];
    while let Some(directory) = todo.pop() {
        let (open, names) = match from.directory(&directory, OFlag::O_RDONLY).and_then(beneath::names) {
            // Gone since it was seen.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if !directory.is_empty() => continue,
            result => result?,
        };
        let copy = to.directory(&directory, OFlag::O_PATH)?;
        for name in names {
            let path = joined(&directory, &name);
            let name = OsStr::from_bytes(&name);
            let Some(stat) = lstat(&open, name)? else { continue };
            if kind(&stat) == Kind::Directory {
                mkdirat(&copy, name, Mode::S_IRWXU)?;
                match like(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    result => result?,
                }
                todo.push(path.clone());
            } else {
                match linkat(&open, name, &copy, name, AtFlags::empty()) {
                    Err(Errno::ENOENT) => continue,
                    result => result?,
                }
                // What was linked is what was seen, or else the difference shows later.
            }
            all.insert(path, stat);
        }
    }
    Ok(all)
}

/// Whether a path of the old generation is as it was cloned.
fn untouched(now: &Stat, before: &Stat) -> bool {
    match kind(before) {
        Kind::Directory => (now.mode, now.uid, now.gid) == (before.mode, before.uid, before.gid),
        _ => moved(Some(now), before),
    }
}

impl Tree {
    /// Generations that a crash left behind, with everything in them that the live one does not have as a clash. To be
    /// discarded when that is kept.
    pub fn leftovers(&self) -> Result<Vec<Old>, Error> {
        let Some(generations) = &self.generations else { return Ok(vec![]) };
        let find = || -> Result<Vec<Old>, Errno> {
            let live = listing(&self.live)?;
            let mut all = vec![];
            for number in generations.others()? {
                let ground = generations.around.beneath(&generations.generation(number))?;
                let seen = listing(&ground)?;
                let clashes = seen
                    .iter()
                    .filter(|(path, stat)| {
                        kind(stat) != Kind::Directory
                            && self.filter.takes(path)
                            && live.get(*path).is_none_or(|live| live.inode != stat.inode)
                    })
                    .map(|(path, _)| path.clone())
                    .collect();
                all.push(Old {
                    ground: Some(ground),
                    number,
                    before: Listing::new(),
                    seen,
                    acted: None,
                    carried: vec![],
                    clashes,
                });
            }
            Ok(all)
        };
        find().map_err(self.failed(b"", "read the generations that were left behind"))
    }

    /// Carries over what was edited in the old generation since this was asked last, or since it was cloned.
    pub(super) fn settle(&self, old: &mut Old) -> Result<(), Error> {
        let failed = self.failed(b"", "find what was edited in its old generation");
        let Some(ground) = &old.ground else { return Ok(()) };
        let mut now = listing(ground).map_err(failed)?;
        let (mut carried, mut clashes) = (BTreeSet::new(), vec![]);
        let acted = |path: &[u8]| old.acted.as_ref().is_none_or(|acted| acted.contains(path));
        let gone = old.seen.iter().filter(|(path, _)| !now.contains_key(*path)).rev();
        for (path, before) in gone {
            // A directory of the batch's own in its place is no clash: what is in it keeps it.
            if acted(path) {
                clashes.push(path.clone());
            } else if self.unlink(path, before)? {
                carried.insert(path.clone());
            }
        }
        for (path, stat) in &now {
            if old.seen.get(path).is_some_and(|before| untouched(stat, before)) {
                continue;
            }
            if acted(path) {
                clashes.push(path.clone());
            } else {
                self.bring(ground, path, stat)?;
                carried.insert(path.clone());
            }
        }
        // A file that was carried is not there any more.
        now.retain(|path, stat| kind(stat) == Kind::Directory || !carried.contains(path));
        old.seen = now;
        old.carried.extend(carried);
        old.clashes.append(&mut clashes);
        self.sync_directories()
    }

    /// A deletion in the old generation, carried over: of what is there as it was.
    fn unlink(&self, path: &[u8], before: &Stat) -> Result<bool, Error> {
        let unlink = || -> Result<bool, Errno> {
            let (parent, name) = self.live.parent(path)?;
            let flag = match lstat(&parent, name)? {
                Some(stat) if kind(&stat) != kind(before) => return Ok(false),
                Some(stat) if kind(&stat) == Kind::Directory => UnlinkatFlags::RemoveDir,
                Some(stat) if stat.inode == before.inode => UnlinkatFlags::NoRemoveDir,
                _ => return Ok(false),
            };
            unlinkat(&parent, name, flag)?;
            self.acted(path);
            Ok(true)
        };
        match unlink() {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::ENOTEMPTY) => Ok(false),
            result => result.map_err(self.failed(path, "carry its deletion over")),
        }
    }

    /// An edit in the old generation, carried over.
    fn bring(&self, old: &Ground, path: &[u8], stat: &Stat) -> Result<(), Error> {
        let bring = || -> io::Result<()> {
            let (from, name) = old.parent(path)?;
            let (to, _) = self.live.parent(path)?;
            let there = lstat(&to, name)?;
            let directory = kind(stat) == Kind::Directory;
            if there.is_some_and(|there| (kind(&there) == Kind::Directory) != directory) {
                beneath::remove_all(&to, name)?;
            }
            if !directory {
                renameat(&from, name, &to, name)?;
                // One file under both names, edited in place: rename(2) does nothing then.
                return match unlinkat(&from, name, UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => Ok(()),
                    Err(error) => Err(error.into()),
                };
            }
            match mkdirat(&to, name, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let original = File::from(old.directory(path, OFlag::O_RDONLY)?);
            attributes::copy(&original, &File::from(self.live.directory(path, OFlag::O_RDONLY)?))
        };
        bring().map_err(self.failed_io(path, "carry an edit over from its old generation"))?;
        self.acted(path);
        Ok(())
    }

    /// [`Tree::keep_aside`] of what a clash is in the old generation.
    pub fn keep_old(&self, old: &Old, path: &[u8], aside: &Path) -> Result<(), Place> {
        match &old.ground {
            Some(ground) => self.keep(ground, path, aside),
            None => Err(Place::Changed),
        }
    }

    /// Removes an old generation, file by file and only what is dealt with. Linking and unlinking moved every file's time of change:
    /// what the store knows as `before` is to be known as `after`, or everything is read again at the next look. `None`: it was
    /// edited once more, see `carried` and `clashes`; to be asked again when these are dealt with.
    pub fn discard(&self, old: &mut Old) -> Result<Option<Vec<Relinked>>, Error> {
        let Some(generations) = &self.generations else { return Ok(Some(vec![])) };
        self.settle(old)?;
        if !old.clashes.is_empty() || !old.carried.is_empty() {
            return Ok(None);
        }
        let name = generations.generation(old.number);
        if let Some(ground) = &old.ground {
            let gone =
                remove_seen(ground, &old.seen).map_err(self.failed(b"", "remove its old generation"))?;
            let around = generations.around.fd();
            let removed = unlinkat(around, OsStr::from_bytes(&name), UnlinkatFlags::RemoveDir);
            match removed {
                Ok(()) | Err(Errno::ENOENT) => {}
                // Somebody made or wrote something since the look.
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    old.seen.retain(|path, _| !gone.contains(path));
                    return Ok(None);
                }
                Err(error) => return Err(self.failed(b"", "remove its old generation")(error)),
            }
        }
        let mut relinked = vec![];
        for (path, before) in std::mem::take(&mut old.before) {
            let live = self.live.lstat(&path).map_err(self.failed(&path, "look at it"))?;
            if let Some(after) = live
                && kind(&after) == kind(&before)
                && untouched(&after, &before)
            {
                relinked.push(Relinked { path, before, after });
            }
        }
        Ok(Some(relinked))
    }
}

/// Removes what is as it was seen, from the leaves on; what went.
fn remove_seen(ground: &Ground, seen: &Listing) -> Result<BTreeSet<Vec<u8>>, Errno> {
    let mut gone = BTreeSet::new();
    for (path, before) in seen.iter().rev() {
        let (parent, name) = match ground.parent(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            result => result?,
        };
        let flag = match lstat(&parent, name)? {
            Some(now) if !untouched(&now, before) => continue,
            Some(now) if kind(&now) == Kind::Directory => UnlinkatFlags::RemoveDir,
            Some(_) => UnlinkatFlags::NoRemoveDir,
            None => continue,
        };
        match unlinkat(&parent, name, flag) {
            Ok(()) => {
                gone.insert(path.clone());
            }
            Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR | Errno::EISDIR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}
