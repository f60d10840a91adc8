//! Changes in a set's tree, drained from inotify as fast as they come.
//!
//! ```text
//!   kernel ─ events ─▶ thread "watch" ─▶ Dirty: paths, when each is due ─ bell ─▶ worker
//!                        │ a directory came: watched first, then read
//!                        └ events were lost: everything is watched anew, and said
//! ```
//!
//! The thread does nothing else: the kernel's queue holds some ten thousand events and throws away what comes after, and
//! a worker that hashes or waits for a disk would let it run over. [`Dirty`] is bounded by the number of paths.
//!
//! Invariants:
//! - a directory is watched before it is read: whatever is made in it meanwhile is seen by one of the two, or by both;
//! - what could not be seen is said: [`Dirty::take_lost`], [`Dirty::watch_limit`], [`Dirty::take_moved`]. Who takes that
//!   looks at more, never at less;
//! - directories are opened beneath the root only, and watched by their descriptor: no link leads a watch elsewhere.
//!
//! Absent on purpose: writes through a name outside the tree have no event (a hard link, a bind mount); scans see them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::beneath::{self, Ground, Kind, joined, kind, lstat};
use super::clock;
use crate::logic::sync::filter::Filter;
use crate::logic::sync::settle::{Event, Settle};
use crate::logic::time::Moment;

/// One read takes a few hundred events; the kernel's queue is drained before they are acted upon one by one.
const BUFFER: usize = 64 << 10;
/// More dirty paths than this, and a scan costs less: about as many bytes as the records of as many files.
const PATHS_MAX: usize = 250_000;
/// A directory that was moved away may be moved back, or its paths be there under their new names first.
const MOVED_AFTER: Duration = Duration::from_millis(30);

fn mask() -> WatchMask {
    WatchMask::CLOSE_WRITE
        | WatchMask::MODIFY
        | WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_FROM
        | WatchMask::MOVED_TO
        | WatchMask::ATTRIB
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
        | WatchMask::EXCL_UNLINK
        | WatchMask::DONT_FOLLOW
}

#[derive(Default)]
struct State {
    settle: Settle,
    moved: Vec<(Moment, Vec<u8>)>,
    lost: u64,
    root_gone: bool,
    watch_limit: bool,
}

impl State {
    fn due(&self) -> Option<Moment> {
        let moved = self.moved.first().map(|(due, _)| *due);
        [self.settle.next(), moved, (self.lost > 0).then_some(Moment::ZERO)].into_iter().flatten().min()
    }
}

/// What has to be looked at, and what was not seen.
pub struct Dirty {
    state: Mutex<State>,
    bell: Box<dyn Fn() + Send + Sync>,
}

impl Dirty {
    /// `bell` is rung when something is due earlier than was known; it must not wait.
    pub fn new(bell: impl Fn() + Send + Sync + 'static) -> Self {
        Self { state: Mutex::default(), bell: Box::new(bell) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        let flags = |state: &State| (state.root_gone, state.watch_limit);
        let before = (state.due(), flags(&state));
        change(&mut state);
        if state.settle.len() > PATHS_MAX {
            state.settle.clear();
            state.moved.clear();
            state.lost += 1;
        }
        let after = (state.due(), flags(&state));
        let earlier = after.0.is_some_and(|due| before.0.is_none_or(|before| due < before));
        drop(state);
        if earlier || before.1 != after.1 {
            (self.bell)();
        }
    }

    fn saw(&self, path: &[u8], event: Event, now: Moment) {
        self.change(|state| state.settle.saw(path, event, now));
    }

    /// To be looked at now.
    pub fn mark(&self, path: impl AsRef<[u8]>) {
        self.saw(path.as_ref(), Event::Asked, clock::now());
    }

    /// It was written to while it was looked at: later, once more.
    pub fn again(&self, path: impl AsRef<[u8]>) {
        self.change(|state| state.settle.again(path.as_ref(), clock::now()));
    }

    /// What was looked at was as it is known: the next change is that of a quiet path.
    pub fn was_echo(&self, path: &[u8]) {
        self.state().settle.was_echo(path);
    }

    /// When there is something to take.
    pub fn due(&self) -> Option<Moment> {
        self.state().due()
    }

    /// At most `max` paths that have settled.
    pub fn take_due(&self, now: Moment, max: usize) -> Vec<Vec<u8>> {
        self.state().settle.take(now, max)
    }

    /// Directories that were moved away: all that is known below them is to be looked at, for nothing tells what it was.
    pub fn take_moved(&self, now: Moment) -> Vec<Vec<u8>> {
        let mut state = self.state();
        let due = state.moved.partition_point(|(due, _)| *due <= now);
        state.moved.drain(..due).map(|(_, path)| path).collect()
    }

    /// How many times events were lost since this was asked: more than none, and everything is to be looked at.
    pub fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state().lost)
    }

    /// The kernel's limit of watches is reached: changes in some directories are not seen.
    pub fn watch_limit(&self) -> bool {
        self.state().watch_limit
    }

    /// The root is another one or none: nothing is watched any more.
    pub fn root_gone(&self) -> bool {
        self.state().root_gone
    }

    pub fn len(&self) -> usize {
        self.state().settle.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

enum Command {
    Rewatch(PathBuf, Sender<io::Result<()>>),
    Stop,
}

/// The thread, and how it is spoken to. Ends when it is dropped.
pub struct Watcher {
    commands: Sender<Command>,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Everything below `root` is watched when this returns; what was there before is not marked.
    pub fn start(root: &Path, filter: Arc<Filter>, dirty: Arc<Dirty>) -> io::Result<Self> {
        let inotify = Inotify::init().map_err(|error| {
            let kind = error.kind();
            let remedy = match error.raw_os_error() {
                Some(libc::EMFILE) => {
                    "raise fs.inotify.max_user_instances (sysctl) or LimitNOFILE of dre-sync.service"
                }
                _ => "is inotify allowed for dre-sync.service?",
            };
            io::Error::new(kind, format!("{}: cannot watch for changes: {error}; {remedy}", root.display()))
        })?;
        let mut eye = Eye::new(root, inotify.watches(), filter, dirty)?;
        eye.watch_all();
        let (commands, inbox) = mpsc::channel();
        let (woken, wake) = io::pipe()?;
        let thread = std::thread::Builder::new()
            .name("watch".into())
            .spawn(move || drain(inotify, &mut eye, &inbox, woken))?;
        Ok(Self { commands, wake, thread: Some(thread) })
    }

    /// Watches what is below `root` instead, without a gap: before it takes the place of the tree that was watched. With the
    /// same root again, tries once more what the kernel's limit prevented.
    pub fn rewatch(&self, root: &Path) -> io::Result<()> {
        let (reply, answer) = mpsc::channel();
        self.tell(Command::Rewatch(root.to_owned(), reply))?;
        answer
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the watching thread has ended: the root is gone")))
    }

    fn tell(&self, command: Command) -> io::Result<()> {
        let ended = || io::Error::other("the watching thread has ended: the root is gone");
        self.commands.send(command).map_err(|_| ended())?;
        (&self.wake).write_all(b".")
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn drain(mut inotify: Inotify, eye: &mut Eye, inbox: &Receiver<Command>, mut woken: PipeReader) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut ready =
            [PollFd::new(inotify.as_fd(), PollFlags::POLLIN), PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return eye.ended(),
        }
        let told = ready[1].any().unwrap_or(false);
        // Events first: a new root must not hear what the old one did.
        match inotify.read_events(&mut buffer) {
            Ok(events) => {
                let now = clock::now();
                for event in events {
                    eye.saw(event.wd.get_watch_descriptor_id(), event.mask, event.name, now);
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => return eye.ended(),
        }
        if told {
            let _ = woken.read(&mut [0]);
            match inbox.try_recv() {
                Ok(Command::Rewatch(root, reply)) => {
                    let _ = reply.send(eye.rewatch(&root));
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return,
                Err(mpsc::TryRecvError::Empty) => {}
            }
        }
    }
}

/// What an event means: which directory each watch is, and what follows for the dirty paths.
struct Eye {
    /// Where the set is, and what was there; a generation that is to be there next, before it is.
    path: PathBuf,
    ground: Ground,
    watches: Watches,
    filter: Arc<Filter>,
    dirty: Arc<Dirty>,
    root: i32,
    /// The watch of the directory that the root is in.
    around: i32,
    paths: HashMap<i32, (WatchDescriptor, Vec<u8>)>,
    by_path: BTreeMap<Vec<u8>, i32>,
}

impl Eye {
    fn new(root: &Path, watches: Watches, filter: Arc<Filter>, dirty: Arc<Dirty>) -> io::Result<Self> {
        let ground = opened(root)?;
        let (paths, by_path) = (HashMap::new(), BTreeMap::new());
        let path = root.to_owned();
        let mut eye = Self { path, ground, watches, filter, dirty, root: -1, around: -1, paths, by_path };
        // The root is held open: the kernel does not say that it was deleted before nobody holds it any more.
        if let Some(parent) = root.parent() {
            let mask = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE | WatchMask::ONLYDIR;
            eye.around = eye.watches.add(parent, mask).map_or(-1, |watch| watch.get_watch_descriptor_id());
        }
        Ok(eye)
    }

    /// Nobody watches any more: the worker opens everything anew.
    fn ended(&self) {
        self.dirty.change(|state| state.root_gone = true);
    }

    // ---- watches -------------------------------------------------------------------------------------

    fn rewatch(&mut self, root: &Path) -> io::Result<()> {
        self.ground = opened(root)?;
        self.watch_all();
        Ok(())
    }

    /// Watches every directory there is, and no other. Those that were watched before go on without a gap.
    fn watch_all(&mut self) {
        let before = std::mem::take(&mut self.paths);
        self.by_path.clear();
        self.root = -1;
        self.dirty.change(|state| state.watch_limit = false);
        self.watch(b"", None);
        for (id, (watch, _)) in before {
            if !self.paths.contains_key(&id) {
                let _ = self.watches.remove(watch);
            }
        }
    }

    /// Watches a directory and those below it. `found`: what is in them is dirty, as of then.
    fn watch(&mut self, directory: &[u8], found: Option<Moment>) {
        let mut todo = vec![directory.to_vec()];
        while let Some(directory) = todo.pop() {
            let open = match self.ground.directory(&directory, OFlag::O_RDONLY) {
                Ok(open) => open,
                // Gone or replaced by now: its parent's watch tells.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
                Err(_) => {
                    self.blind();
                    continue;
                }
            };
            // The last name is the directory itself: a link to somewhere else cannot come in between.
            let path = format!("/proc/self/fd/{}/.", open.as_raw_fd());
            match self.watches.add(&path, mask()) {
                Ok(watch) => self.remember(watch, &directory),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(_) => self.blind(),
            }
            let Ok((open, entries)) = beneath::entries(open) else {
                self.blind();
                continue;
            };
            for (name, what) in entries {
                let path = joined(&directory, &name);
                let is_directory = match what {
                    Some(what) => what == Type::Directory,
                    None => lstat(&open, OsStr::from_bytes(&name))
                        .is_ok_and(|stat| stat.is_some_and(|stat| kind(&stat) == Kind::Directory)),
                };
                if !self.filter.takes_in_directory(&path, &name, is_directory) {
                    continue;
                }
                if let Some(now) = found {
                    self.dirty.saw(&path, Event::Found, now);
                }
                if is_directory {
                    todo.push(path);
                }
            }
        }
    }

    /// Something is not watched: scans look at it, like at what the limit leaves out.
    fn blind(&self) {
        self.dirty.change(|state| state.watch_limit = true);
    }

    fn remember(&mut self, watch: WatchDescriptor, directory: &[u8]) {
        let id = watch.get_watch_descriptor_id();
        if directory.is_empty() {
            self.root = id;
        }
        // The kernel gives a directory that is watched already its old number: it was moved.
        if let Some((_, old)) = self.paths.insert(id, (watch, directory.to_vec()))
            && self.by_path.get(&old) == Some(&id)
        {
            self.by_path.remove(&old);
        }
        self.by_path.insert(directory.to_vec(), id);
    }

    /// A directory is not where it was, nor is what lies below it.
    fn unwatch(&mut self, directory: &[u8]) {
        let below = [directory, b"/"].concat();
        let end = [directory, b"0"].concat();
        let mut ids: Vec<i32> = self.by_path.range(below..end).map(|(_, id)| *id).collect();
        ids.extend(self.by_path.get(directory));
        for id in ids {
            if let Some((watch, path)) = self.paths.remove(&id) {
                self.by_path.remove(&path);
                // Deleted, it is not watched any more.
                let _ = self.watches.remove(watch);
            }
        }
    }

    fn forget(&mut self, id: i32) {
        if let Some((_, path)) = self.paths.remove(&id)
            && self.by_path.get(&path) == Some(&id)
        {
            self.by_path.remove(&path);
        }
    }

    // ---- events --------------------------------------------------------------------------------------

    fn saw(&mut self, id: i32, mask: EventMask, name: Option<&OsStr>, now: Moment) {
        if mask.contains(EventMask::Q_OVERFLOW) {
            // Directories may have come and gone unseen. Watched first; what is looked at then is everything.
            self.watch_all();
            self.dirty.change(|state| state.lost += 1);
            return;
        }
        if id == self.around {
            if name.is_some() && name == self.path.file_name() && !self.is_there() {
                self.ended();
            }
            return;
        }
        if id == self.root
            && mask.intersects(
                EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED,
            )
        {
            return self.ended();
        }
        if mask.intersects(EventMask::IGNORED | EventMask::UNMOUNT) {
            return self.forget(id);
        }
        // Of a watch that was removed since.
        let Some((_, directory)) = self.paths.get(&id) else { return };
        let Some(name) = name else {
            // Of the directory itself; its parent tells the same, but the parent of a moved one.
            if mask.contains(EventMask::ATTRIB) && !directory.is_empty() {
                self.dirty.saw(directory, Event::Attributes, now);
            }
            return;
        };
        let path = joined(directory, name.as_bytes());
        let is_directory = mask.contains(EventMask::ISDIR);
        if !self.filter.takes_in_directory(&path, name.as_bytes(), is_directory) {
            return;
        }
        if is_directory {
            self.saw_directory(&path, mask, now);
            return;
        }
        let event = if mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO) {
            Event::Whole
        } else if mask.contains(EventMask::MODIFY) {
            Event::Open
        } else if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
            Event::Gone
        } else if mask.contains(EventMask::CREATE) {
            self.made(&path)
        } else {
            Event::Attributes
        };
        self.dirty.saw(&path, event, now);
    }

    /// Whether what is watched is what the set's path leads to.
    fn is_there(&self) -> bool {
        let there = nix::sys::stat::stat(&self.path).map(|stat| (stat.st_dev, stat.st_ino));
        self.ground.stat().map(|own| (own.device, own.inode)) == there
    }

    /// A link, or a second name of a file, is whole as soon as it is there, and nothing else is said of it. A file is made
    /// to be written to.
    fn made(&self, path: &[u8]) -> Event {
        match self.ground.lstat(path) {
            Ok(Some(stat)) if kind(&stat) == Kind::File && stat.names < 2 => Event::Open,
            _ => Event::Whole,
        }
    }

    fn saw_directory(&mut self, path: &[u8], mask: EventMask, now: Moment) {
        if mask.intersects(EventMask::DELETE | EventMask::MOVED_FROM) {
            self.dirty.saw(path, Event::Gone, now);
            self.unwatch(path);
            if mask.contains(EventMask::MOVED_FROM) {
                self.dirty.change(|state| state.moved.push((now + MOVED_AFTER, path.to_vec())));
            }
        } else if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
            self.dirty.saw(path, Event::Whole, now);
            self.watch(path, Some(now));
        } else {
            self.dirty.saw(path, Event::Attributes, now);
        }
    }
}

fn opened(root: &Path) -> io::Result<Ground> {
    Ground::open(root).map_err(|error| {
        let kind = io::Error::from(error).kind();
        io::Error::new(kind, format!("{}: cannot watch for changes: {error}", root.display()))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A tree that is watched, gone with the test.
    struct Lab {
        dir: PathBuf,
        dirty: Arc<Dirty>,
        watcher: Option<Watcher>,
    }

    fn filter(include: &[&str]) -> Arc<Filter> {
        let include: Vec<_> = include.iter().map(|text| (*text).to_owned()).collect();
        Arc::new(Filter::new(&include, &["*.log".to_owned()]).expect("globs"))
    }

    impl Lab {
        fn new(name: &str, made: &[&str], include: &[&str]) -> Self {
            let dir = std::env::temp_dir().join(format!("dre-watch-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(dir.join("root")).expect("made");
            for path in made {
                let path = dir.join("root").join(path);
                fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                fs::write(path, "old").expect("written");
            }
            let mut lab = Self { dir, dirty: Arc::new(Dirty::new(|| ())), watcher: None };
            lab.start(include);
            lab
        }

        fn start(&mut self, include: &[&str]) {
            let watcher = Watcher::start(&self.root(""), filter(include), Arc::clone(&self.dirty));
            self.watcher = Some(watcher.expect("started"));
        }

        fn root(&self, path: &str) -> PathBuf {
            self.dir.join("root").join(path)
        }

        /// What has to be looked at until all of these are, and nothing more comes for a while.
        #[track_caller]
        fn dirty(&self, expected: &[&str]) -> BTreeSet<String> {
            let mut seen = BTreeSet::new();
            let end = clock::now() + LONG;
            let whole = |seen: &BTreeSet<String>| expected.iter().all(|path| seen.contains(*path));
            while !whole(&seen) {
                assert!(
                    wait(&self.dirty, end.since(clock::now()).min(LONG)),
                    "{seen:?} and no more, not {expected:?}"
                );
                for path in self.dirty.take_due(clock::now(), 1_000) {
                    seen.insert(String::from_utf8_lossy(&path).into_owned());
                }
            }
            // The tail of the same edit.
            while wait(&self.dirty, Duration::from_millis(60)) {
                for path in self.dirty.take_due(clock::now(), 1_000) {
                    seen.insert(String::from_utf8_lossy(&path).into_owned());
                }
                self.dirty.take_moved(clock::now());
                assert!(
                    self.dirty.due() != Some(Moment::ZERO) && !self.dirty.root_gone(),
                    "it is no longer watched"
                );
            }
            seen
        }

        #[track_caller]
        fn exactly(&self, expected: &[&str]) {
            let seen = self.dirty(expected);
            assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
            assert_eq!(self.dirty.take_lost(), 0);
            assert!(!self.dirty.root_gone() && !self.dirty.watch_limit());
        }
    }

    /// Until something is due, or nobody watches any more; `false`: nothing for so long.
    fn wait(dirty: &Dirty, patience: Duration) -> bool {
        let end = clock::now() + patience;
        loop {
            let now = clock::now();
            if dirty.root_gone() || dirty.due().is_some_and(|due| due <= now) {
                return true;
            }
            if now >= end {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    impl Drop for Lab {
        fn drop(&mut self) {
            self.watcher = None;
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn what_is_not_edited_is_not_dirty_and_every_kind_of_edit_is() {
        let lab = Lab::new("kinds", &["a", "b", "d/c", "d/gone", "x.log"], &[]);
        assert!(lab.dirty.is_empty());
        fs::write(lab.root("a"), "new").expect("written");
        fs::write(lab.root("x.log"), "not of the set").expect("written");
        fs::write(lab.root(".a.swp"), "an editor's").expect("written");
        lab.exactly(&["a"]);
        fs::set_permissions(lab.root("b"), fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::remove_file(lab.root("d/gone")).expect("removed");
        lab.exactly(&["b", "d/gone"]);
        symlink("a", lab.root("link")).expect("linked");
        fs::hard_link(lab.root("a"), lab.root("d/hard")).expect("linked");
        lab.exactly(&["d/hard", "link"]);
        // An edit through the other name.
        fs::write(lab.root("d/hard"), "new").expect("written");
        lab.exactly(&["d/hard"]);
        fs::set_permissions(lab.root("d"), fs::Permissions::from_mode(0o700)).expect("chmod");
        lab.exactly(&["d"]);
        fs::set_permissions(lab.root(""), fs::Permissions::from_mode(0o700)).expect("chmod");
        fs::write(lab.root(OsStr::from_bytes(b"odd\n").to_str().expect("text")), "x").expect("written");
        lab.exactly(&["odd\n"]);
    }

    #[test]
    fn editors_that_write_beside_and_rename_are_seen_as_one_edit() {
        let lab = Lab::new("rename", &["d/rule"], &[]);
        // sed -i.
        fs::write(lab.root("d/sedAbCdEf"), "new").expect("written");
        fs::rename(lab.root("d/sedAbCdEf"), lab.root("d/rule")).expect("renamed");
        lab.exactly(&["d/rule", "d/sedAbCdEf"]);
        // vim: the old one is moved away, the new one written in its place.
        fs::rename(lab.root("d/rule"), lab.root("d/rule~")).expect("renamed");
        fs::write(lab.root("d/rule"), "newer").expect("written");
        fs::remove_file(lab.root("d/rule~")).expect("removed");
        lab.exactly(&["d/rule"]);
    }

    #[test]
    fn a_file_that_is_not_closed_waits_and_is_due_at_once_when_it_is() {
        let lab = Lab::new("open", &["a"], &[]);
        let mut open = fs::File::create(lab.root("a")).expect("opened");
        open.write_all(b"half").expect("written");
        while lab.dirty.is_empty() {
            std::thread::yield_now();
        }
        let due = lab.dirty.due().expect("waits");
        assert!(due.since(clock::now()) > Duration::from_secs(1));
        open.write_all(b"whole").expect("written");
        drop(open);
        lab.exactly(&["a"]);
    }

    #[test]
    fn a_tree_made_in_one_breath_is_seen_to_its_last_file() {
        let lab = Lab::new("made", &[], &[]);
        for n in 0..50 {
            fs::create_dir_all(lab.root(&format!("n{n}/deep/er"))).expect("made");
            fs::write(lab.root(&format!("n{n}/deep/er/f")), "x").expect("written");
            fs::write(lab.root(&format!("n{n}/deep/g")), "x").expect("written");
        }
        let all: Vec<_> = (0..50)
            .flat_map(|n| {
                ["", "/deep", "/deep/er", "/deep/er/f", "/deep/g"].map(|rest| format!("n{n}{rest}"))
            })
            .collect();
        lab.dirty(&all.iter().map(String::as_str).collect::<Vec<_>>());
        // And what is edited in it from now on.
        fs::write(lab.root("n7/deep/er/f"), "y").expect("written");
        lab.exactly(&["n7/deep/er/f"]);
    }

    #[test]
    fn a_tree_that_is_moved_goes_here_and_comes_there() {
        let lab = Lab::new("moved", &["a/b/c", "a/d", "other/x"], &[]);
        fs::rename(lab.root("a"), lab.root("z")).expect("moved");
        let end = clock::now() + LONG;
        let mut moved = vec![];
        while moved.is_empty() && clock::now() < end {
            wait(&lab.dirty, LONG);
            moved = lab.dirty.take_moved(clock::now());
        }
        assert_eq!(moved, [b"a".to_vec()]);
        lab.exactly(&["a", "z", "z/b", "z/b/c", "z/d"]);
        fs::write(lab.root("z/b/c"), "new").expect("written");
        lab.exactly(&["z/b/c"]);
        // Out of the tree: what is done there is nothing of ours.
        fs::rename(lab.root("z"), lab.dir.join("away")).expect("moved");
        lab.exactly(&["z"]);
        fs::write(lab.dir.join("away/b/c"), "not ours").expect("written");
        fs::write(lab.root("other/x"), "ours").expect("written");
        lab.exactly(&["other/x"]);
        // In again, in the place of what was there, and out of it another.
        fs::rename(lab.root("other"), lab.root("third")).expect("moved");
        fs::rename(lab.dir.join("away"), lab.root("other")).expect("moved");
        lab.exactly(&["other", "other/b", "other/b/c", "other/d", "third", "third/x"]);
        fs::write(lab.root("other/b/c"), "x").expect("written");
        fs::write(lab.root("third/x"), "x").expect("written");
        lab.exactly(&["other/b/c", "third/x"]);
        fs::remove_dir_all(lab.root("other")).expect("removed");
        lab.exactly(&["other", "other/b", "other/b/c", "other/d"]);
    }

    #[test]
    fn names_that_do_not_belong_to_the_set_never_come_in() {
        let lab = Lab::new("excluded", &["d/a.xml", ".dre-stage/x"], &["*.xml"]);
        fs::write(lab.root("d/a.txt"), "x").expect("written");
        fs::write(lab.root(".dre-stage/a.xml"), "x").expect("written");
        fs::create_dir(lab.root("new.log")).expect("made");
        fs::write(lab.root("new.log/a.xml"), "x").expect("written");
        fs::write(lab.root("d/a.xml"), "x").expect("written");
        lab.exactly(&["d/a.xml"]);
    }

    #[test]
    fn a_root_that_goes_is_said() {
        let lab = Lab::new("gone", &["a"], &[]);
        fs::rename(lab.root(""), lab.dir.join("away")).expect("moved");
        assert!(wait(&lab.dirty, LONG));
        assert!(lab.dirty.root_gone());
        let lab = Lab::new("deleted", &["a"], &[]);
        fs::remove_dir_all(lab.root("")).expect("removed");
        let end = clock::now() + LONG;
        while !lab.dirty.root_gone() && clock::now() < end {
            wait(&lab.dirty, LONG);
            lab.dirty.take_due(clock::now(), 10);
        }
        assert!(lab.dirty.root_gone());
        let error =
            Watcher::start(&lab.root(""), filter(&[]), Arc::clone(&lab.dirty)).err().expect("no root");
        assert!(error.to_string().contains("cannot watch"), "{error}");
    }

    /// The kernel lost events: what came and went meanwhile is watched all the same, and a scan is asked for.
    #[test]
    fn after_an_overflow_everything_is_watched_anew() {
        let dir = std::env::temp_dir().join(format!("dre-watch-overflow-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("old/deep")).expect("made");
        let dirty = Arc::new(Dirty::new(|| ()));
        let mut inotify = Inotify::init().expect("inotify");
        let mut eye = Eye::new(&dir, inotify.watches(), filter(&[]), Arc::clone(&dirty)).expect("a root");
        eye.watch_all();
        // Nobody drains: these events are thrown away here as the kernel would.
        fs::create_dir_all(dir.join("new/deep")).expect("made");
        fs::rename(dir.join("old"), dir.join("moved")).expect("moved");
        let mut buffer = vec![0; BUFFER];
        assert!(inotify.read_events(&mut buffer).expect("events").count() > 1);
        eye.saw(-1, EventMask::Q_OVERFLOW, None, clock::now());
        assert_eq!((dirty.take_lost(), dirty.take_lost()), (1, 0));
        let watched: Vec<_> = eye.by_path.keys().map(|p| String::from_utf8_lossy(p).into_owned()).collect();
        assert_eq!(watched, ["", "moved", "moved/deep", "new", "new/deep"]);
        assert_eq!(eye.paths.len(), 5);
        fs::write(dir.join("moved/deep/x"), "x").expect("written");
        fs::write(dir.join("new/deep/x"), "x").expect("written");
        for event in inotify.read_events(&mut buffer).expect("events") {
            eye.saw(event.wd.get_watch_descriptor_id(), event.mask, event.name, clock::now());
        }
        assert!(wait(&dirty, LONG));
        assert_eq!(
            dirty.take_due(clock::now() + LONG, 10),
            [b"moved/deep/x".to_vec(), b"new/deep/x".to_vec()]
        );
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_generation_is_watched_before_it_is_live() {
        let mut lab = Lab::new("generation", &["a"], &[]);
        // As a set that is published as a whole is laid out: the root is a link to the live generation.
        lab.watcher = None;
        fs::rename(lab.dir.join("root"), lab.dir.join("root.gen-1")).expect("moved");
        symlink("root.gen-1", lab.dir.join("root")).expect("linked");
        lab.start(&[]);
        let next = lab.dir.join("root.gen-2");
        fs::create_dir_all(next.join("d")).expect("made");
        lab.watcher.as_ref().expect("watches").rewatch(&next).expect("watched");
        fs::write(lab.root("a"), "nobody looks here any more").expect("written");
        symlink("root.gen-2", lab.dir.join("link")).expect("linked");
        fs::rename(lab.dir.join("link"), lab.dir.join("root")).expect("switched");
        fs::remove_dir_all(lab.dir.join("root.gen-1")).expect("discarded");
        fs::write(next.join("d/x"), "x").expect("written");
        lab.exactly(&["d/x"]);
        assert!(lab.watcher.as_ref().expect("watches").rewatch(&lab.dir.join("nothing")).is_err());
        fs::write(next.join("d/y"), "x").expect("written");
        lab.exactly(&["d/y"]);
    }

    #[test]
    fn more_paths_than_a_scan_would_take_are_one_scan() {
        let dirty = Dirty::new(|| ());
        for n in 0..=PATHS_MAX {
            dirty.saw(n.to_string().as_bytes(), Event::Open, Moment::ZERO);
        }
        assert_eq!((dirty.take_lost(), dirty.len()), (1, 0));
    }

    #[test]
    fn the_bell_rings_when_something_is_due_earlier() {
        let rung = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&rung);
        let dirty = Dirty::new(move || {
            count.fetch_add(1, Relaxed);
        });
        let rung = || rung.load(Relaxed);
        let at = |ms: u64| Moment::from_nanos(ms * 1_000_000);
        dirty.saw(b"a", Event::Open, at(0));
        assert_eq!((rung(), dirty.due()), (1, Some(at(2_000))));
        dirty.saw(b"a", Event::Open, at(1));
        dirty.saw(b"b", Event::Open, at(1));
        assert_eq!(rung(), 1, "later is no news");
        dirty.saw(b"b", Event::Whole, at(2));
        assert_eq!((rung(), dirty.due()), (2, Some(at(3))));
        dirty.change(|state| state.lost += 1);
        assert_eq!((rung(), dirty.due()), (3, Some(Moment::ZERO)));
        assert_eq!(dirty.take_lost(), 1);
        dirty.change(|state| state.watch_limit = true);
        assert_eq!(rung(), 4);
        assert!(dirty.watch_limit());
    }

    /// From the close of a file to the moment it may be looked at, and what the thread costs.
    #[test]
    fn figures_of_an_edit() {
        let lab = Lab::new("figures", &["a"], &[]);
        let mut waited = vec![];
        for n in 0..20 {
            let path = format!("f{n}");
            fs::write(lab.root(&path), "x").expect("written");
            let closed = clock::now();
            loop {
                assert!(wait(&lab.dirty, LONG));
                if lab.dirty.take_due(clock::now(), 10).contains(&path.clone().into_bytes()) {
                    break;
                }
            }
            waited.push(clock::now().since(closed));
        }
        waited.sort();
        println!("closed to due: median {:?}, longest {:?}", waited[10], waited[19]);
        let begun = clock::now();
        for n in 0..10_000 {
            fs::write(lab.root(&format!("many-{n}")), "x").expect("written");
        }
        let written = clock::now().since(begun);
        let mut seen = 0;
        while seen < 10_000 {
            assert!(wait(&lab.dirty, LONG), "{seen} of 10,000");
            let paths = lab.dirty.take_due(clock::now(), 1_000);
            seen += paths.iter().filter(|path| path.starts_with(b"many-")).count();
        }
        println!("10,000 files written in {written:?}, all seen after {:?}", clock::now().since(begun));
        assert_eq!(lab.dirty.take_lost(), 0);
    }
}
