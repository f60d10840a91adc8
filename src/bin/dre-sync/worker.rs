//! One set, one thread: looks at the tree, keeps the records, gives changes to the peer and takes in the peer's.
//!
//! ```text
//!   watcher ─ dirty paths ─▶ look ─▶ records ─▶ give ─▶ peer
//!   peer ─ Changes ─▶ waiting ─▶ look ─ plan ─ fetch ─ verify ─ validate ─ publish ─ records ─▶ Taken
//! ```
//!
//! It blocks where the work blocks: disk, rsync, the set's commands. Nothing of the election or the VIPs is in this process.
//!
//! Invariants:
//! - what the peer is told was taken is durable on this disk, contents and records;
//! - a path is looked at before anything of the peer's replaces it, and what is replaced unseen is kept aside first;
//! - a batch that was interrupted anywhere is taken again from its beginning, and ends the same.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dre::config::sync::Set;
use dre::logic::sync::guard::{Guard, Verdict as Deletions};
use dre::logic::sync::merge::Terms;
use dre::logic::sync::plan::{Move, Plan, plan};
use dre::logic::sync::publish::Held;
use dre::logic::sync::record::{Content, Known, Record, Stat, look};
use dre::logic::sync::state::{self, Facts, SKEW_MAX};
use dre::logic::sync::talk::{Cursor, ENTRIES_MAX, Give, Given, LOOKS_MAX, Offer, Take, Verdict};
use dre::logic::sync::version::{Side, Version};
use dre::logic::time::Moment;
use dre::notice::Notice;
use dre::rules::{Answer, Ask, SetStatus};
use dre::shell::clock::{self, wall_ns};
use dre::shell::journal::Journal;
use dre::shell::kept::{Drawers, Kind, shown};
use dre::shell::rsync::{self, Puller, Way};
use dre::shell::store::{self, Store};
use dre::shell::tree::{Look, Place, Tree};
use dre::shell::watch::{Dirty, Watcher};
use tokio::sync::{mpsc, oneshot, watch};

mod looking;
mod showing;
mod taking;

use looking::Looked;

/// Changes seen together are given together, but a large tree is given in pieces, so that the peer can begin.
const LOOKED_AT_ONCE: usize = 1_000;
/// A turn looks for no longer than this (and one piece) before it hears who else wants something.
const LOOKING_MAX: Duration = Duration::from_millis(500);
/// Taken in at once where nothing asks for the whole batch: each piece is visible when it is done.
const TAKEN_AT_ONCE: usize = 2_500;
/// What comes meanwhile is taken in with it for no longer than this: edits of this node and an operator wait for it.
const TAKING_MAX: Duration = Duration::from_secs(2);
/// What was written without a sync is durable after this.
const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// A scan against everything that no event told: writes through a name outside the tree, a watcher's bug.
const SCAN_EVERY: Duration = Duration::from_secs(600);
/// Every byte is read again this often.
const DEEP_EVERY: Duration = Duration::from_secs(24 * 3600);
/// Old trash, old tombstones.
const TIDY_EVERY: Duration = Duration::from_secs(3600);
/// A tombstone lives at least this long, and until the peer has it.
const TOMBSTONE_LASTS: Duration = Duration::from_secs(30 * 24 * 3600);
/// A root that is gone is looked for this often.
const ROOT_AGAIN: Duration = Duration::from_secs(1);
/// A batch that could not be taken is tried again after this, doubling.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// What goes on changing is fetched anew no more often than this, and for no more than a quarter of the time.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_SHARE: u32 = 4;
/// A generation that is live no more and still edited is left until the next start after so many looks.
const RETIRE_TRIES: usize = 16;
/// An `apply` that takes longer is given up.
const APPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// A move is two events, of which the first may be seen this much earlier.
const MOVED_WITHIN: Duration = Duration::from_secs(10);
/// A peer that reads slowly is offered the rest after this.
const GIVE_AGAIN: Duration = Duration::from_millis(20);
/// Long work is shown to go on this often.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);
/// The status is made at most this often.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// What the worker is told.
pub enum Job {
    /// The watcher saw something.
    Stir,
    /// The taking session is up (or not): what the peer offers of this set, and how to answer.
    Peer(Option<Peer>),
    /// Of the peer's changes.
    Given {
        id: u64,
        entries: Vec<Given>,
        upto: u64,
        more: bool,
    },
    /// The peer takes from here on: its cursor and the way to it; `connection` tells sessions apart.
    Serve {
        connection: u64,
        cursor: Cursor,
        say: mpsc::Sender<Give>,
    },
    ServeEnded {
        connection: u64,
    },
    /// The peer has everything up to here on its disk.
    Acked(u64),
    /// How the peer fares.
    Verdict(Verdict),
    /// The peer fetched something else of these than it was told: they change, and are looked at now.
    Look(Vec<Vec<u8>>),
    /// The peer's wall clock less ours.
    Skew(i64),
    Ask(Ask, oneshot::Sender<Answer>),
    Stop,
}

/// The peer as the giving side of this set.
pub struct Peer {
    pub offer: Offer,
    pub words: mpsc::UnboundedSender<Take>,
    /// Local and remote address of each link, the working one first.
    pub ways: Vec<Way>,
}

/// What others see of the worker.
pub struct Shared {
    pub status: Mutex<SetStatus>,
    pub cursor: Mutex<Cursor>,
    /// What this node offers of the set; `None` while it cannot be used.
    pub offer: Mutex<Option<Offer>>,
    alarm: Mutex<Option<dre::snapshot::Alarm>>,
    /// Ends what the worker waits for.
    stopper: Mutex<Option<rsync::Stopper>>,
    /// It was opened once, or could not be.
    opened: std::sync::atomic::AtomicBool,
    /// When it last did something, on the boot clock; 0 while it waits for somebody who has a limit of his own.
    alive: AtomicU64,
}

impl Shared {
    pub fn new(set: &Set) -> Self {
        let cursor = Cursor { set: set.name.clone(), digest: set.digest, joined: None, taken: 0 };
        let status = SetStatus {
            name: set.name.clone(),
            root: set.root.display().to_string(),
            state: "SCANNING".into(),
            ..SetStatus::default()
        };
        Self {
            status: Mutex::new(status),
            cursor: Mutex::new(cursor),
            offer: Mutex::new(None),
            alarm: Mutex::new(None),
            stopper: Mutex::new(None),
            opened: false.into(),
            alive: AtomicU64::new(clock::now().as_nanos()),
        }
    }

    pub fn status(&self) -> SetStatus {
        lock(&self.status).clone()
    }

    pub fn was_opened(&self) -> bool {
        self.opened.load(Ordering::Acquire)
    }

    pub fn alarm(&self) -> Option<dre::snapshot::Alarm> {
        lock(&self.alarm).clone()
    }

    /// A fetch that is under way ends; for who has asked the worker to stop.
    pub fn stop_fetch(&self) {
        if let Some(stopper) = &*lock(&self.stopper) {
            stopper.stop();
        }
    }

    /// The worker could not be opened, or ended: why.
    pub fn is_down(&self, set: &Set, fatal: &Fatal, changed: &watch::Sender<u64>) {
        *lock(&self.offer) = None;
        let facts = match fatal.clone() {
            Fatal::Root(why) => Facts { root_gone: Some(why), ..Facts::default() },
            Fatal::Fault(why) => Facts { fault: Some(why), ..Facts::default() },
        };
        let state = state::state(&set.name, &facts);
        let mut status = lock(&self.status);
        if status.state != state.word {
            status.since = clock::rfc3339(clock::now());
        }
        (status.state, status.reason, status.remedy) =
            (state.word.into(), state.reason.clone(), state.remedy.clone());
        *lock(&self.alarm) = Some(alarm(set, &state, &status.since));
        drop(status);
        self.opened.store(true, Ordering::Release);
        self.alive.store(0, Ordering::Relaxed);
        changed.send_modify(|n| *n += 1);
    }

    /// It stands still for longer than anything it does may take.
    pub fn is_stuck(&self, now: Moment, patience: Duration) -> bool {
        let alive = self.alive.load(Ordering::Relaxed);
        alive != 0 && now > Moment::from_nanos(alive) + patience
    }
}

fn alarm(set: &Set, state: &state::State, since: &str) -> dre::snapshot::Alarm {
    dre::snapshot::Alarm {
        name: format!("Rules{}", super::command::camel(state.word)),
        subject: set.name.clone(),
        text: format!("{}: {}; {}", set.name, state.reason, state.remedy),
        since: since.to_owned(),
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all workers have in common.
#[derive(Clone)]
pub struct Around {
    pub node: String,
    pub peer: String,
    pub side: Side,
    /// `/var/lib/dre-rules`
    pub state: std::path::PathBuf,
    /// `/run/dre-sync`
    pub runtime: std::path::PathBuf,
    pub journal: Journal,
    pub changed: watch::Sender<u64>,
    pub secret: zeroize::Zeroizing<String>,
    /// How rsync reaches the peer where the content is encrypted.
    pub through: Option<rsync::Through>,
}

/// Why a worker ends before it is told to: it is started anew, with a new store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fatal {
    /// The set's directory is not there, or not the one that it was.
    Root(String),
    /// Anything else: the database, a disk, a limit of this process. Whether the root is there, the next opening finds out.
    Fault(String),
}

impl Fatal {
    pub fn why(&self) -> &str {
        let (Self::Root(why) | Self::Fault(why)) = self;
        why
    }

    /// Of a tree that could not be opened: what is wrong with the root itself, or why it cannot be worked on.
    fn unopened(set: &Set, error: &dre::shell::tree::Error) -> Self {
        let root = set.root.display();
        match error.errno() {
            // What is mounted cannot change names with a link, and nothing is renamed into it.
            Some(libc::EXDEV | libc::EBUSY) if set.publish == dre::config::sync::Publish::Tree => {
                Self::Root(format!(
                    "a file system is mounted at {root} or at where it leads, and with publish = \"tree\" its generations and staging, \
                     which lie beside it, must be on the same one: mount one level higher and make {root} a directory in it, or write \
                     publish = \"files\" ({error})"
                ))
            }
            None | Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE | libc::EXDEV) => {
                Self::Root(error.to_string())
            }
            Some(_) => Self::Fault(error.to_string()),
        }
    }
}

impl From<store::Error> for Fatal {
    fn from(error: store::Error) -> Self {
        Self::Fault(error.to_string())
    }
}

impl From<dre::shell::tree::Error> for Fatal {
    fn from(error: dre::shell::tree::Error) -> Self {
        Self::Fault(error.to_string())
    }
}

impl From<std::io::Error> for Fatal {
    fn from(error: std::io::Error) -> Self {
        Self::Fault(error.to_string())
    }
}

/// The peer that takes from here.
struct Taker {
    connection: u64,
    say: mpsc::Sender<Give>,
    given: u64,
    /// Nothing was said yet: the peer waits for the end of a whole comparison even if there is nothing.
    fresh: bool,
}

/// Why the waiting batch waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Stalled {
    rejected: Option<String>,
    blocked: Option<String>,
    /// One path that cannot be; the others can.
    barred: Option<String>,
}

pub struct Worker {
    set: Set,
    around: Around,
    shared: Arc<Shared>,
    inbox: Receiver<Job>,
    /// Came while changes were taken in, and is not done yet.
    heard: Option<Job>,
    tree: Tree,
    store: Store,
    drawers: Drawers,
    puller: Arc<Puller>,
    dirty: Arc<Dirty>,
    watcher: Watcher,
    guard: Guard,
    facts: Facts,

    peer: Option<Peer>,
    taker: Option<Taker>,
    /// The newest of the peer's records that are not taken in, by path.
    waiting: BTreeMap<Vec<u8>, Given>,
    waiting_upto: u64,
    /// The end of what the peer has was seen in this session.
    whole: bool,
    forced: bool,
    again_at: Option<Moment>,
    again_after: Duration,
    owners_told: BTreeSet<String>,
    /// Not before then is the peer asked to look at what changed while it was fetched.
    look_at: Moment,
    /// What is not replicated, and why.
    refused: BTreeMap<Vec<u8>, String>,
    /// What was being published when an earlier process ended: found on the disk, it is the peer's and no edit of this node's.
    intents: HashMap<Vec<u8>, Record>,
    /// Kept aside already, of what waits: a second try keeps no second copy of the same version.
    kept: HashSet<(Vec<u8>, Version)>,
    /// Written because the peer has it: not given back to it.
    echo: HashMap<Vec<u8>, Version>,
    /// Contents that came under a new name, for a while: what went elsewhere at the same time was only moved.
    appeared: VecDeque<(Moment, [u8; 32])>,
    verdict: Verdict,

    give_at: Option<Moment>,
    flush_at: Option<Moment>,
    show_at: Option<Moment>,
    shown: Moment,
    apply_at: Option<Moment>,
    applied: Moment,
    rescan: bool,
    scan_at: Moment,
    deep_at: Moment,
    tidy_at: Moment,
    root_at: Moment,
    state_since: String,
    state: Option<state::State>,
    /// Why the database is a new one.
    joined_because: Option<String>,
}

/// The key of the note that says what is being published.
const PUBLISHING: &str = "publishing";

fn intents(store: &Store) -> Result<HashMap<Vec<u8>, Record>, Fatal> {
    let Some(note) = store.note(PUBLISHING)? else { return Ok(HashMap::new()) };
    // Of another version's making: then what is found counts as an edit.
    let all: Vec<(Vec<u8>, Record)> = postcard::from_bytes(&note).unwrap_or_default();
    Ok(all.into_iter().collect())
}

impl Worker {
    /// Opens everything and begins to watch. `stir` tells the inbox that the watcher saw something.
    pub fn open(
        set: &Set,
        around: &Around,
        shared: Arc<Shared>,
        inbox: Receiver<Job>,
        stir: Sender<Job>,
    ) -> Result<Self, (Fatal, Receiver<Job>)> {
        let opened = (|| {
            let store = Store::open(&around.state.join(format!("{}.redb", set.name)))?;
            let known = store.totals().present();
            if known > 0 && Tree::is_bare(set) {
                // What would be published there would lie below the mount point later.
                return Err(Fatal::Root(format!(
                    "{0} is empty and has no .dre-stage, though {known} of its paths are known: is it not mounted? (If it is \
                     meant to be empty: mkdir {0}/.dre-stage)",
                    set.root.display()
                )));
            }
            let tree = Tree::open(set).map_err(|error| Fatal::unopened(set, &error))?;
            let drawers = Drawers::open(&around.state, &set.name)?;
            let (journal, name) = (around.journal.clone(), set.name.clone());
            let setup = rsync::Setup {
                program: "rsync".into(),
                module: set.name.clone(),
                staging: rsync::Staging::new(tree.staging_held()?, tree.staging()),
                root: tree.live(),
                secret: around.secret.clone(),
                through: around.through.clone(),
            };
            let puller = Puller::new(setup, move |said| {
                journal.log(Notice::Detail { text: format!("{name}: rsync: {said}") });
            })?;
            let dirty = Arc::new(Dirty::new(move || drop(stir.send(Job::Stir))));
            let watcher = Watcher::start(&tree.live(), tree.filter(), dirty.clone())?;
            Ok((tree, store, drawers, puller, dirty, watcher))
        })();
        let (tree, store, drawers, puller, dirty, watcher) = match opened {
            Ok(opened) => opened,
            Err(fatal) => return Err((fatal, inbox)),
        };
        *lock(&shared.stopper) = Some(puller.stopper());
        let lost = store.was_lost();
        let intents = match intents(&store) {
            Ok(intents) => intents,
            Err(fatal) => return Err((fatal, inbox)),
        };
        let now = clock::now();
        let worker = Self {
            set: set.clone(),
            around: around.clone(),
            shared,
            inbox,
            heard: None,
            tree,
            store,
            drawers,
            puller: Arc::new(puller),
            dirty,
            watcher,
            guard: Guard::default(),
            facts: Facts::default(),
            peer: None,
            taker: None,
            waiting: BTreeMap::new(),
            waiting_upto: 0,
            whole: false,
            forced: false,
            again_at: None,
            again_after: AGAIN_FIRST,
            owners_told: BTreeSet::new(),
            look_at: now,
            refused: BTreeMap::new(),
            intents,
            kept: HashSet::new(),
            echo: HashMap::new(),
            appeared: VecDeque::new(),
            verdict: Verdict::Fine,
            give_at: None,
            flush_at: None,
            show_at: None,
            shown: Moment::ZERO,
            apply_at: None,
            applied: Moment::ZERO,
            rescan: true,
            scan_at: now + SCAN_EVERY,
            deep_at: now + DEEP_EVERY,
            tidy_at: now,
            root_at: now,
            state_since: clock::rfc3339(now),
            state: None,
            joined_because: lost,
        };
        worker.show_cursor();
        worker.shared.opened.store(true, Ordering::Release);
        Ok(worker)
    }

    /// Until it is told to stop.
    pub fn run(mut self) -> Result<(), (Fatal, Receiver<Job>)> {
        match self.work() {
            Ok(()) => Ok(()),
            Err(fatal) => Err((fatal, self.inbox)),
        }
    }

    /// Generations that a crash left behind: what the live one does not have is kept.
    fn leftovers(&mut self) -> Result<(), Fatal> {
        for old in self.tree.leftovers()? {
            self.retire(old, false)?;
        }
        Ok(())
    }

    /// Keeps what `put` puts aside; where it is, if there was anything to keep.
    fn keep(
        &self,
        kind: Kind,
        path: &[u8],
        (node, uncertain): (&str, bool),
        put: impl FnOnce(&Path) -> Result<(), Place>,
    ) -> Result<Option<std::path::PathBuf>, Place> {
        let failed = |at: &Path, error| {
            Place::Failed(dre::shell::tree::Error::new(at.to_owned(), "keep a copy of it there", error))
        };
        self.drawers.keep(kind, (path, node, uncertain), put, failed)
    }

    /// A generation that is live no more: what was edited in it is kept or carried over, and it goes. Somebody whose directory it still
    /// is may go on editing: until nothing more comes.
    fn retire(&mut self, mut old: dre::shell::tree::Old, uncertain: bool) -> Result<(), Fatal> {
        for _ in 0..RETIRE_TRIES {
            for path in std::mem::take(&mut old.carried) {
                self.dirty.mark(path);
            }
            for path in std::mem::take(&mut old.clashes) {
                let whose = (self.around.node.as_str(), uncertain);
                match self.keep(Kind::Conflicts, &path, whose, |aside| self.tree.keep_old(&old, &path, aside))
                {
                    Ok(Some(aside)) => {
                        self.conflict(&path, (&self.around.peer, &self.around.node), &aside, uncertain);
                    }
                    // Deleted there: nothing to keep.
                    Ok(None) | Err(Place::Changed | Place::NotEmpty) => {}
                    Err(Place::Failed(error)) => return Err(error.into()),
                }
            }
            self.drawers.settle()?;
            if let Some(relinked) = self.tree.discard(&mut old)? {
                return Ok(self.store.write(false, |batch| {
                    for dre::shell::tree::Relinked { path, before, after } in &relinked {
                        if batch.get(path)?.and_then(|known| known.stat) == Some(*before) {
                            batch.restat(path, Some(*after))?;
                        }
                    }
                    Ok(())
                })?);
            }
        }
        // It stays, and is found at the next start.
        let text = format!("{}: its old generation is edited all the time and stays", self.set.name);
        self.around.journal.log(Notice::Trouble { text });
        Ok(())
    }

    fn work(&mut self) -> Result<(), Fatal> {
        self.leftovers()?;
        loop {
            self.turn()?;
            self.show();
            let wait = clock::now().until(self.next_wake());
            self.shared.alive.store(0, Ordering::Relaxed);
            let job = self.heard.take().map_or_else(|| self.inbox.recv_timeout(wait), Ok);
            self.alive();
            match job {
                Ok(job) => {
                    if !self.job(job)? {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Ok(job) = self.inbox.try_recv() {
                if !self.job(job)? {
                    self.store.flush()?;
                    return Ok(());
                }
            }
        }
        self.store.flush()?;
        Ok(())
    }

    fn alive(&self) {
        self.shared.alive.store(clock::now().as_nanos(), Ordering::Relaxed);
    }

    /// For somebody who has a limit of his own.
    fn waits(&self) {
        self.shared.alive.store(0, Ordering::Relaxed);
    }

    fn next_wake(&self) -> Moment {
        if self.facts.root_gone.is_some() {
            // What needs the root waits for it.
            let other = [Some(self.tidy_at), self.give_at, self.flush_at, self.show_at, self.apply_at];
            return other.into_iter().flatten().fold(self.root_at, Moment::min);
        }
        [
            Some(self.scan_at.min(self.deep_at).min(self.tidy_at).min(self.root_at)),
            self.dirty.due(),
            self.guard.due(),
            self.again_at,
            self.give_at,
            self.flush_at,
            self.show_at,
            self.apply_at,
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(self.scan_at)
    }

    // ---- what it is told -----------------------------------------------------------------------------

    /// False: it is to stop.
    fn job(&mut self, job: Job) -> Result<bool, Fatal> {
        match job {
            Job::Stir => {}
            Job::Stop => return Ok(false),
            Job::Peer(peer) => {
                self.facts.connected = peer.is_some();
                self.facts.differs = peer.as_ref().is_some_and(|p| p.offer.digest != self.set.digest);
                self.waiting.clear();
                (self.whole, self.again_at, self.again_after) = (false, None, AGAIN_FIRST);
                self.puller.set_peer(peer.as_ref().map(|p| p.ways.clone()).unwrap_or_default());
                self.peer = peer;
                self.verdict = Verdict::Fine;
                (self.facts.rejected, self.facts.blocked) = (None, None);
            }
            Job::Given { id, entries, upto, more } => {
                if self.peer.as_ref().is_some_and(|peer| peer.offer.id == id) {
                    for given in entries.into_iter().filter(Given::is_sound) {
                        self.waiting.insert(given.path.clone(), given);
                    }
                    self.waiting_upto = upto;
                    self.whole = !more;
                    self.again_at = Some(Moment::ZERO);
                }
            }
            Job::Serve { connection, cursor, say } => {
                let joined = cursor.joined == Some(self.store.id()) && cursor.taken <= self.store.last();
                let given = if joined { cursor.taken } else { 0 };
                self.facts.differs = cursor.digest != self.set.digest;
                self.echo.clear();
                // What an earlier database of the peer acknowledged, this one may not have.
                self.store.write(false, |batch| batch.set_peer_acked(given))?;
                self.taker = (!self.facts.differs).then_some(Taker { connection, say, given, fresh: true });
            }
            Job::ServeEnded { connection } => {
                if self.taker.as_ref().is_some_and(|taker| taker.connection == connection) {
                    self.taker = None;
                    (self.facts.peer_rejected, self.facts.peer_blocked, self.facts.peer_held) =
                        (None, None, None);
                }
            }
            Job::Acked(upto) => {
                self.store.write(false, |batch| batch.set_peer_acked(upto))?;
                self.flush_later();
            }
            Job::Look(paths) => {
                for path in paths.into_iter().take(LOOKS_MAX) {
                    if self.store.get(&path)?.is_some() {
                        self.dirty.mark(path);
                    }
                }
            }
            Job::Verdict(verdict) => {
                (self.facts.peer_rejected, self.facts.peer_blocked, self.facts.peer_held) =
                    (None, None, None);
                match verdict {
                    Verdict::Fine => {}
                    Verdict::Rejected(why) => self.facts.peer_rejected = Some(why),
                    Verdict::Blocked(why) => self.facts.peer_blocked = Some(why),
                    Verdict::Held(why) => self.facts.peer_held = Some(why),
                }
            }
            Job::Skew(skew_ns) => self.facts.skew = Duration::from_nanos(skew_ns.unsigned_abs()),
            Job::Ask(ask, reply) => {
                let answer = match self.asked(ask) {
                    Ok(answer) => answer,
                    Err(fatal) => {
                        let _ = reply.send(Answer::Refused(fatal.why().to_owned()));
                        return Err(fatal);
                    }
                };
                let _ = reply.send(answer);
            }
        }
        Ok(true)
    }

    fn asked(&mut self, ask: Ask) -> Result<Answer, Fatal> {
        Ok(match ask {
            Ask::Verify { deep, .. } => {
                let changed = self.scan(deep)?;
                let totals = self.store.totals();
                let how = if deep { "read and compared" } else { "looked at" };
                Answer::Done(format!(
                    "{}: {} paths {how}, {changed} differed from what was known and are taken for edits",
                    self.set.name,
                    totals.present()
                ))
            }
            Ask::Conflicts { .. } => Answer::Kept(self.drawers.all(Kind::Conflicts)),
            Ask::Trash { .. } => Answer::Kept(self.drawers.all(Kind::Trash)),
            Ask::Restore { id, .. } => self.restore(&id)?,
            Ask::Drop { id, .. } => self.drop_conflict(&id)?,
            Ask::AcceptDeletes { .. } => {
                if let Some(why) = &self.facts.root_gone {
                    return Ok(Answer::Refused(format!("{}: {why}", self.set.name)));
                }
                if self.guard.held().is_none() {
                    return Ok(Answer::Refused(format!("no deletions of {} wait for a word", self.set.name)));
                }
                let paths = self.guard.accept(clock::now());
                let count = paths.len();
                self.bury(&paths)?;
                Answer::Done(format!("{count} deletions of {} go to the peer", self.set.name))
            }
            Ask::Force { .. } => {
                if self.facts.rejected.is_none() {
                    return Ok(Answer::Refused(format!(
                        "nothing of {} was refused by its validate",
                        self.set.name
                    )));
                }
                self.forced = true;
                self.take_in()?;
                self.forced = false;
                match &self.facts.blocked {
                    Some(why) => Answer::Refused(why.clone()),
                    None => Answer::Done(format!("what validate refused of {} is published", self.set.name)),
                }
            }
        })
    }

    /// A kept thing comes back as an edit of now.
    fn restore(&mut self, id: &str) -> Result<Answer, Fatal> {
        let Some((content, path)) = self.drawers.find(id) else {
            return Ok(Answer::Refused(format!(
                "{} keeps nothing under {id}; see \"drectl rules conflicts\" and \"drectl rules trash\"",
                self.set.name
            )));
        };
        self.look(std::slice::from_ref(&path), false)?;
        let known = self.store.get(&path)?;
        let mut replaced = None;
        if known.as_ref().is_some_and(|known| known.record.entry().is_some()) {
            let stat = known.and_then(|k| k.stat);
            let put = |aside: &Path| self.tree.remove(&path, stat.as_ref(), aside);
            match self.keep(Kind::Trash, &path, (&self.around.node, false), put) {
                Ok(aside) => replaced = aside,
                Err(error) => {
                    return Ok(Answer::Refused(format!("{} cannot be set aside: {error}", shown(&path))));
                }
            }
        }
        if let Err(error) = self.tree.put_back(&content, &path) {
            // What was there comes back: its absence would be taken for a deletion, here and then on the peer.
            let again = replaced.map(|aside| self.tree.put_back(&aside, &path));
            let more = match again {
                Some(Err(worse)) => format!("; nor can what was there ({worse}): it is in the trash"),
                _ => String::new(),
            };
            return Ok(Answer::Refused(format!("{} cannot be put back: {error}{more}", shown(&path))));
        }
        self.drawers.forget(id)?;
        self.look(std::slice::from_ref(&path), false)?;
        Ok(Answer::Done(format!("{} is back as it was kept, and goes to the peer", shown(&path))))
    }

    /// The loser of a conflict is not wanted any more.
    fn drop_conflict(&mut self, id: &str) -> Result<Answer, Fatal> {
        let set = &self.set.name;
        let Some(kept) = self.drawers.all(Kind::Conflicts).into_iter().find(|kept| kept.id == id) else {
            return Ok(Answer::Refused(format!(
                "{set} keeps no loser of a conflict under {id}; see \"drectl rules conflicts {set}\""
            )));
        };
        self.drawers.forget(id)?;
        let left = self.drawers.count(Kind::Conflicts);
        Ok(Answer::Done(format!(
            "{} of {} is thrown away; conflicts of {set} still kept: {left}",
            kept.path, kept.node
        )))
    }

    // ---- a turn --------------------------------------------------------------------------------------

    fn turn(&mut self) -> Result<(), Fatal> {
        let now = clock::now();
        if now >= self.root_at || self.dirty.root_gone() {
            self.root_at = now + ROOT_AGAIN;
            self.watch_root()?;
        }
        if self.facts.root_gone.is_none() {
            let lost = self.dirty.take_lost();
            self.facts.watch_limit = self.dirty.watch_limit();
            if lost > 0 {
                lock(&self.shared.status).counters.overflows += lost;
                let reason = "the kernel dropped events (see fs.inotify.max_queued_events)".into();
                self.around.journal.log(Notice::RulesRescanned { set: self.set.name.clone(), reason });
                self.rescan = true;
            }
            if now >= self.deep_at {
                self.scan(true)?;
            } else if self.rescan || now >= self.scan_at {
                self.scan(false)?;
            }
            for directory in self.dirty.take_moved(clock::now()) {
                self.look_below(&directory)?;
            }
            // Somebody who writes all the time must not keep the peer, an operator or a stop waiting.
            while clock::now() < now + LOOKING_MAX {
                let due = self.dirty.take_due(clock::now(), LOOKED_AT_ONCE);
                if due.is_empty() {
                    break;
                }
                self.look(&due, false)?;
                self.give()?;
            }
            self.judge_deletions()?;
            if self.again_at.is_some_and(|at| clock::now() >= at) {
                self.again_at = None;
                self.take_in()?;
            }
        }
        self.give()?;
        self.tell_verdict();
        let now = clock::now();
        if self.flush_at.is_some_and(|at| now >= at) {
            self.flush_at = None;
            self.store.flush()?;
        }
        if self.apply_at.is_some_and(|at| now >= at) {
            self.apply_at = None;
            self.apply();
        }
        if now >= self.tidy_at {
            self.tidy_at = now + TIDY_EVERY;
            self.drawers.prune()?;
            let age = i64::try_from(TOMBSTONE_LASTS.as_nanos()).unwrap_or(i64::MAX);
            self.store.drop_tombstones(wall_ns().saturating_sub(age))?;
        }
        Ok(())
    }

    /// A root that is not there, or another than it was: nothing is believed to be deleted.
    fn watch_root(&mut self) -> Result<(), Fatal> {
        let why = self.tree.root_state().err();
        if why.is_some() && self.facts.root_gone.is_none() {
            let (set, root) = (self.set.name.clone(), self.set.root.display().to_string());
            let reason = why.clone().unwrap_or_default();
            self.around.journal.log(Notice::RulesRootGone { set, root, reason });
        }
        if why.is_none() && self.facts.root_gone.is_some() {
            // It is back, perhaps another directory: everything is opened and looked at anew.
            return Err(Fatal::Root("the root is back".into()));
        }
        if why.is_none() && self.dirty.root_gone() {
            // Away and back within a moment, or another directory under its name.
            return Err(Fatal::Root("the root was moved or made anew".into()));
        }
        self.facts.root_gone = why;
        Ok(())
    }

    fn judge_deletions(&mut self) -> Result<(), Fatal> {
        let now = clock::now();
        if self.guard.due().is_none_or(|at| now < at) {
            return Ok(());
        }
        // A root that was unmounted meanwhile must not count.
        self.watch_root()?;
        if self.facts.root_gone.is_some() {
            return Ok(());
        }
        let known = usize::try_from(self.store.totals().present()).unwrap_or(usize::MAX);
        let was_held = self.guard.held().is_some();
        let (store, appeared) = (&self.store, &self.appeared);
        let verdict = self.guard.judge(now, known, |pending| moved(store, appeared, pending));
        match verdict {
            Deletions::Nothing => {}
            Deletions::Believe(paths) => self.bury(&paths)?,
            Deletions::Held(held) => {
                if !was_held {
                    let (deleted, known) = counts(held);
                    let (set, deleted, known) = (self.set.name.clone(), deleted as u64, known as u64);
                    self.around.journal.log(Notice::RulesHeld { set, deleted, known });
                }
            }
        }
        Ok(())
    }

    /// These are deleted: tombstones, for the peer to follow.
    fn bury(&mut self, paths: &[Vec<u8>]) -> Result<(), Fatal> {
        let (side, now_ns) = (self.around.side, wall_ns());
        self.store.write(false, |batch| {
            for path in paths {
                let known = batch.get(path)?;
                if let Some(record) = look(known.as_ref().map(|k| &k.record), None, side, now_ns) {
                    batch.put(path, &record, None)?;
                }
            }
            Ok(())
        })?;
        self.flush_later();
        self.give()
    }

    fn flush_later(&mut self) {
        self.flush_at.get_or_insert(clock::now() + FLUSH_AFTER);
    }
}

fn counts(held: Held) -> (usize, usize) {
    match held {
        Held::MassDeletion(deleted, known) => (deleted, known),
        Held::RootEmptied(known) => (known, known),
    }
}

/// How many of these have their content under another name that came just now; directories and links are no loss of their own.
fn moved(store: &Store, appeared: &VecDeque<(Moment, [u8; 32])>, pending: &BTreeSet<Vec<u8>>) -> usize {
    let mut there: HashMap<[u8; 32], usize> = HashMap::new();
    for (_, hash) in appeared {
        *there.entry(*hash).or_default() += 1;
    }
    let mut count = 0;
    for path in pending {
        let Ok(Some(known)) = store.get(path) else { continue };
        let lost = match known.record.entry().map(|entry| &entry.content) {
            Some(Content::File { hash, .. }) => match there.get_mut(hash) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    false
                }
                _ => true,
            },
            _ => false,
        };
        count += usize::from(!lost);
    }
    count
}

#[cfg(test)]
mod tests;
