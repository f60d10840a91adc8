//! rsync(1), both ends: what the giving daemon is told, and a taker that is connected before it is needed.
//!
//! The taker pulls. [`Puller`] keeps one rsync *warm*: started ahead with `--files-from=-`, it connects and authenticates
//! and then waits for the list on its standard input. [`Puller::fetch`] writes the list, closes the input, and returns when
//! every file lies in the staging directory; what rsync still has to say to its peer after that (20 ms) is not waited for.
//!
//! ```text
//!   keeper ──start──▶ warm ──list──▶ fetching ──all there──▶ leaving ──▶ reaped
//!      ▲                │                │                      ▲
//!      └──── ended ─────┴── died, mute ──┴── cold, the other way, then give up
//! ```
//!
//! A warm one sends nothing and is not replaced for its age. One that ends by itself (refused, no connection) is followed by
//! another, after a rest that grows. What rsync does not notice while it waits, the caller tells: an empty
//! [`Puller::set_peer`] when the conversation with the peer has ended (a TCP connection to a machine that is gone looks alive for
//! ever), [`Puller::discard`] when the giver's root is not the directory any more that the warm one's daemon stands in. What
//! nobody told (its daemon was killed) costs the next fetch a cold start.
//!
//! Only the count of what rsync prints is used, never names: whether a file arrived is asked of the staging directory. Whether it is the
//! right one, the caller's hash decides.
//!
//! Absent on purpose: deciding what to fetch, hashes, owners and modes, publishing.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{SFlag, fstatat};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use super::beneath::{joined, split};
use crate::logic::sync::talk::path_is_sound;
use crate::logic::wire::derived;

/// Who the taker is to the giver's daemon.
const USER: &str = "dre";
/// Where rsync keeps what it has of a file when it is cut off; a name that is never synchronised.
const PARTIAL: &str = ".dre-partial";
/// The daemon's files, and the local socket of `dre-sync-rsync.socket`, in dre-sync's runtime directory.
const CONF: &str = "rsyncd.conf";
const SECRETS: &str = "rsyncd.secrets";
const SOCKET: &str = "rsync";

/// The password between the two rsync: base64 of HMAC(cluster key, purpose ‖ group).
pub fn secret(key: &[u8; 32], group: &str) -> Zeroizing<String> {
    let bytes = derived(key, b"dre rsync v1", group);
    Zeroizing::new(STANDARD.encode(bytes.as_slice()))
}

/// One set as the daemon offers it.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    pub name: &'a str,
    pub root: &'a Path,
}

/// Writes `rsyncd.conf` and `rsyncd.secrets` into dre-sync's runtime directory, each at once; the daemon reads them anew for
/// every connection. `peers`: the other end of each link; none when rsync comes through the pipe, whose end has no address.
pub fn daemon_files(directory: &Path, modules: &[Module], secret: &str, peers: &[IpAddr]) -> io::Result<()> {
    let conf = conf(&directory.join(SECRETS), modules, peers)?;
    replace(&directory.join(SECRETS), format!("{USER}:{secret}\n").as_bytes(), 0o600)?;
    replace(&directory.join(CONF), &conf, 0o644)
}

/// Each line of the head has its reason.
fn conf(secrets: &Path, modules: &[Module], peers: &[IpAddr]) -> io::Result<Vec<u8>> {
    let mut head = String::from(
        "# made by dre-sync; do not edit\n\
         # A chroot would ask for CAP_SYS_CHROOT and hold what the unit holds already: a daemon that can read and nothing else.\n\
         use chroot = no\n\
         # Nothing is written here, so no link can be planted through it; with munging, a file of a certain name would shut the set.\n\
         munge symlinks = no\n\
         read only = yes\n\
         list = no\n\
         reverse lookup = no\n\
         forward lookup = no\n\
         transfer logging = no\n\
         # An hour: a taker that waits for its list is not idle by mistake. How many there are, the socket unit bounds.\n\
         timeout = 3600\n\
         # Links are never followed: what they point at may be outside of the set.\n\
         refuse options = delete remove-source-files copy-links copy-unsafe-links copy-dirlinks copy-devices write-devices\n\
         strict modes = yes\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(head, "auth users = {USER}");
    if !peers.is_empty() {
        let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
        let _ = writeln!(head, "hosts allow = {}", peers.join(" "));
    }
    let mut text = head.into_bytes();
    text.extend(b"secrets file = ");
    text.extend(value(secrets)?);
    text.push(b'\n');
    for module in modules {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if module.name.is_empty() || module.name == "global" || !module.name.chars().all(plain) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a set called {:?} cannot be a module of rsync; name it with letters, digits, - _ .",
                    module.name
                ),
            ));
        }
        text.extend(format!("[{}]\npath = ", module.name).as_bytes());
        text.extend(value(module.root)?);
        // At the end of a line, a backslash or a space would mean something else.
        text.extend(b"/\n");
    }
    Ok(text)
}

/// A path as the value of a parameter.
fn value(path: &Path) -> io::Result<&[u8]> {
    let bytes = path.as_os_str().as_bytes();
    // %NAME% would be replaced by a variable's value, and cannot be escaped.
    let variable = bytes
        .windows(2)
        .enumerate()
        .any(|(at, pair)| pair[0] == b'%' && pair[1].is_ascii_uppercase() && bytes[at + 2..].contains(&b'%'));
    if !path.is_absolute() || variable || bytes.iter().any(|b| matches!(b, b'\n' | b'\r' | 0)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{} cannot be written into {CONF}; it must be absolute, without line breaks and without %NAME%",
                path.display()
            ),
        ));
    }
    Ok(bytes)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let fail = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let new = path.with_extension("new");
    let write = || {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        fs::rename(&new, path)
    };
    write().map_err(fail)
}

/// The giver's side of a pipe: joins it to an `rsync --daemon` that systemd starts for it (`dre-sync-rsync.socket`), so that a piped
/// daemon runs behind the same walls as any, and not with dre-sync's own rights. Returns when either end is done.
pub async fn serve<P>(mut pipe: P, directory: &Path) -> io::Result<()>
where
    P: AsyncRead + AsyncWrite + Unpin,
{
    let path = directory.join(SOCKET);
    let mut daemon = UnixStream::connect(&path).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("{}: {error}; see systemctl status dre-sync-rsync.socket", path.display()),
        )
    })?;
    tokio::io::copy_bidirectional_with_sizes(&mut pipe, &mut daemon, 64 << 10, 64 << 10).await.map(drop)
}

/// A way to the peer: this link's own address, the peer's and the port of its rsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    pub local: IpAddr,
    pub peer: SocketAddr,
}

/// Where files arrive: a directory that is held, so that nobody can put another one in its place. Whoever owns the directory that it
/// lies in may rename it, and root would write where a link leads.
pub struct Staging {
    held: OwnedFd,
    /// For words.
    name: PathBuf,
}

impl Staging {
    pub fn new(held: OwnedFd, name: PathBuf) -> Self {
        Self { held, name }
    }

    /// The directory itself, whatever its name is by now; for this process and, before it runs its program, a child.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.held.as_raw_fd()))
    }
}

/// What a puller is made of.
pub struct Setup {
    /// `rsync`, looked for in PATH.
    pub program: PathBuf,
    /// The set's name.
    pub module: String,
    /// On the file system of `root`.
    pub staging: Staging,
    /// What lies at a file's path here is what its changes are sent against.
    pub root: PathBuf,
    pub secret: Zeroizing<String>,
    /// Not by TCP but by the standard input and output of this command; `%H` is the peer's address of the way.
    pub through: Option<Through>,
}

#[derive(Debug, Clone)]
pub struct Through {
    /// For a shell.
    pub command: String,
    /// What the command needs in its environment beside PATH.
    pub environment: Vec<(OsString, OsString)>,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Setup({} to {}, secret not shown)", self.module, self.staging.name.display())
    }
}

/// How long things may last.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// rsync prints a line a second while bytes come; without one for this long, it hangs. Long, because nothing is printed while it
    /// sums up a large file that it has already.
    stall: Duration,
    /// The same for a warm one's first line: its connection may be to a machine that is no more.
    warm: Duration,
    /// From the last file to the end of rsync; and from a signal to one that cannot be ignored.
    leave: Duration,
    /// Before a warm one is started after another: the caller publishes what it fetched first.
    rest: Duration,
    /// The same after one that died at once; doubled each time.
    rest_failed: Duration,
    rest_max: Duration,
}

const LIMITS: Limits = Limits {
    stall: Duration::from_secs(60),
    warm: Duration::from_secs(5),
    leave: Duration::from_secs(5),
    rest: Duration::from_millis(5),
    rest_failed: Duration::from_secs(1),
    rest_max: Duration::from_secs(60),
};

/// Whether one that died was of use: a daemon that cannot serve ends sooner.
const LIVED: Duration = Duration::from_secs(30);
/// How often a fetch looks whether its way is still one.
const TICK: Duration = Duration::from_millis(100);
/// How often it looks for the last file, of which rsync has said that it came, just before it renames it.
const GLANCE: Duration = Duration::from_micros(200);
/// Lines kept of what rsync said.
const SAID_MAX: usize = 40;
/// Less than a pipe holds (pipe(7)): written without waiting for a reader.
const PIPE_HOLDS: usize = 60_000;

/// What came of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Indices of the paths that the giver does not have (any more) or cannot read.
    pub missing: Vec<usize>,
    /// Bytes of the files that came.
    pub bytes: u64,
    /// Why some are missing, in rsync's words.
    pub said: String,
    /// The way by which the last of them came.
    pub way: Option<Way>,
    /// It was waiting for the list.
    pub warm: bool,
    /// Runs of rsync that it took.
    pub runs: u32,
}

/// Why nothing, or not everything, was fetched. What did arrive lies in staging all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no way to the peer now.
    Away,
    /// [`Puller::stop`].
    Stopped,
    /// This node's disk refuses: full, read-only, no permission.
    Blocked(String),
    /// The giver's daemon refuses: another secret, no such module.
    Refused(String),
    /// The connection broke, or could not be made, on every way.
    Lost(String),
    /// Nothing came for too long, on every way.
    Stalled,
    /// Anything else that rsync ends with: its status and words.
    Failed(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => f.write_str("no link to the peer; the batch is kept and fetched when it is back"),
            Self::Stopped => f.write_str("dre-sync is stopping"),
            Self::Blocked(said) => write!(
                f,
                "this node cannot store what it fetched: {said}; make room or mend it, it is tried again"
            ),
            Self::Refused(said) => write!(
                f,
                "the peer's rsync refuses: {said}; compare /etc/dre/key and sync.toml on both nodes, see journalctl -u dre-sync on the peer"
            ),
            Self::Lost(said) => {
                write!(f, "the connection to the peer's rsync broke on every link: {said}; it is tried again")
            }
            Self::Stalled => f.write_str(
                "the peer's rsync sends nothing; see dre-sync-rsync@ on the peer; it is tried again",
            ),
            Self::Failed(said) => {
                write!(f, "rsync failed: {said}; rsync on both nodes must be 3.1.3 or later")
            }
        }
    }
}

impl std::error::Error for Error {}

/// How a run ended, by rsync's exit status (rsync(1), EXIT VALUES) and its words.
fn verdict(module: &str, status: ExitStatus, said: &[String]) -> Result<(), Error> {
    let words = |lines: &[&str]| match lines {
        [] => status.to_string(),
        some => some.join("; "),
    };
    // The giver's own errors name the module, or its role.
    let there = format!("(in {module})");
    let ours: Vec<&str> = said
        .iter()
        .map(String::as_str)
        .filter(|line| !line.contains("[sender]") && !line.contains(&there))
        .collect();
    // EPERM, EACCES, ENOSPC, EROFS, EDQUOT, as rsync writes them behind strerror's words.
    let disk = |line: &&&str| {
        line.starts_with("rsync: ")
            && !line.contains("failed to connect")
            && ["(1)", "(13)", "(28)", "(30)", "(122)"].iter().any(|errno| line.ends_with(errno))
    };
    if status.code() != Some(0)
        && let Some(line) = ours.iter().find(disk)
    {
        return Err(Error::Blocked((*line).into()));
    }
    let all: Vec<&str> = said.iter().map(String::as_str).collect();
    match status.code() {
        Some(0 | 23 | 24) => Ok(()),
        Some(5) if all.iter().any(|line| line.contains("@ERROR")) => {
            let lines: Vec<&str> = all.iter().copied().filter(|line| line.contains("@ERROR")).collect();
            Err(Error::Refused(words(&lines)))
        }
        // Socket and stream; signals and siblings: whatever the reason, this connection is over.
        Some(5 | 10 | 12 | 14 | 15 | 16 | 19 | 20 | 21 | 30 | 35) | None => Err(Error::Lost(words(&all))),
        Some(_) => Err(Error::Failed(words(&all))),
    }
}

/// What a running rsync says.
#[derive(Debug, PartialEq)]
enum Said {
    /// One file more has come, of this length.
    File(u64),
    /// So many bytes in all, about once a second.
    Bytes(u64),
    Text(String),
    /// The last word.
    End(ExitStatus),
}

/// Before every line of ours, so that no message is taken for one.
const MARK: &str = "dre: ";

/// One line of rsync's output; `None` says nothing of interest.
fn understand(line: &[u8]) -> Option<Said> {
    let text = String::from_utf8_lossy(line);
    if let Some(item) = text.strip_prefix(MARK) {
        // Itemised: `>f` is a file received; directories that were made on the way are not counted.
        let length = item.strip_prefix(">f")?.split(' ').nth(1)?;
        return length.parse().ok().map(Said::File);
    }
    // --info=progress2: `     64126976  21%   58.41MB/s    0:00:03`, and nothing at its end.
    let mut words = text.split_ascii_whitespace();
    if let (Some(bytes), Some(percent)) = (words.next(), words.next())
        && percent.strip_suffix('%').is_some_and(|p| p.parse::<u8>().is_ok())
        && let Ok(bytes) = bytes.parse()
    {
        // A message of another of its processes may stand behind it.
        return match text.find("rsync") {
            Some(at) => Some(Said::Text(text[at..].trim().into())),
            None => Some(Said::Bytes(bytes)),
        };
    }
    let text = text.trim();
    (!text.is_empty() && !text.starts_with("created directory")).then(|| Said::Text(text.into()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic ends the process (Cargo.toml); in a test, what it left is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// rsync's processes: it forks, and a command it goes through is its child.
struct Group {
    leader: Pid,
    life: Mutex<Life>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// Sent away by us: how it ended says nothing.
    Dismissed,
    /// The number may be another's by now.
    Reaped,
}

impl Group {
    fn signal(&self, signal: Signal) {
        let mut life = lock(&self.life);
        if *life != Life::Reaped {
            *life = Life::Dismissed;
            // Gone already: fine.
            let _ = killpg(self.leader, signal);
        }
    }
}

/// One rsync, started and waiting for its list, or at it.
struct Run {
    number: u64,
    way: Way,
    group: Arc<Group>,
    list: Option<ChildStdin>,
    said: Receiver<Said>,
    /// Its way is still one.
    wanted: Arc<AtomicBool>,
    /// It may end by itself.
    released: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.released {
            self.group.signal(Signal::SIGKILL);
        }
    }
}

/// One that has done its work.
struct Leaving {
    number: u64,
    group: Arc<Group>,
    until: Instant,
}

struct State {
    ways: Vec<Way>,
    warm: Option<Run>,
    warm_since: Instant,
    /// What a fetch is using.
    busy: Option<(Way, Arc<AtomicBool>)>,
    fetching: bool,
    stopped: bool,
    /// Warm ones that died early, one after the other.
    failures: u32,
    rest_until: Instant,
    leaving: Vec<Leaving>,
    number: u64,
}

struct Shared {
    setup: Setup,
    limits: Limits,
    /// `--trust-sender` is known.
    trust: bool,
    state: Mutex<State>,
    changed: Condvar,
    /// Something ended badly and nobody was waiting for it.
    trouble: Box<dyn Fn(String) + Send + Sync>,
}

/// Fetches files of one set. Blocks: for a worker thread; the other calls are for any.
pub struct Puller {
    shared: Arc<Shared>,
    /// One fetch at a time.
    turn: Mutex<()>,
    keeper: Option<JoinHandle<()>>,
}

impl Puller {
    /// `trouble` hears of what ended badly while nobody waited for it. Fails where there is no rsync.
    pub fn new(setup: Setup, trouble: impl Fn(String) + Send + Sync + 'static) -> io::Result<Self> {
        Self::with_limits(setup, LIMITS, trouble)
    }

    fn with_limits(
        setup: Setup,
        limits: Limits,
        trouble: impl Fn(String) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        // Since 3.2.5, and in many an older one that was mended: an unknown option is an error, a known one prints the version.
        let known = Command::new(&setup.program)
            .args(["--trust-sender", "--version"])
            .env_clear()
            .env("PATH", path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}; install rsync", setup.program.display()))
            })?;
        let now = Instant::now();
        let state = State {
            ways: vec![],
            warm: None,
            warm_since: now,
            busy: None,
            fetching: false,
            stopped: false,
            failures: 0,
            rest_until: now,
            leaving: vec![],
            number: 0,
        };
        let shared = Arc::new(Shared {
            setup,
            limits,
            trust: known.success(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            trouble: Box::new(trouble),
        });
        let own = Arc::clone(&shared);
        let keeper = std::thread::Builder::new().name("rsync".into()).spawn(move || own.keep())?;
        Ok(Self { shared, turn: Mutex::new(()), keeper: Some(keeper) })
    }

    /// The ways to the peer, the preferred one first; none while it is away. To be called whenever the conversation with the peer
    /// begins, moves to another link, or ends: a warm one on another than the first way is replaced, a fetch on a way that is none
    /// any more takes the next.
    pub fn set_peer(&self, ways: Vec<Way>) {
        let mut state = lock(&self.shared.state);
        if state.ways == ways {
            return;
        }
        if state.warm.as_ref().is_some_and(|run| ways.first() != Some(&run.way)) {
            self.shared.dismiss(&mut state);
        }
        if let Some((way, wanted)) = &state.busy
            && !ways.contains(way)
        {
            wanted.store(false, Ordering::Relaxed);
        }
        state.ways = ways;
        state.failures = 0;
        state.rest_until = Instant::now();
        self.shared.changed.notify_all();
    }

    /// The next fetch uses no connection made before now.
    pub fn discard(&self) {
        self.shared.dismiss(&mut lock(&self.shared.state));
        self.shared.changed.notify_all();
    }

    /// Ends everything; a fetch under way returns [`Error::Stopped`].
    pub fn stop(&self) {
        self.stopper().stop();
    }

    /// For who must end a fetch that another thread waits for.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// Brings the files at `paths` of the set into the staging directory, under the same paths; what lies there is replaced. Returns when all of
    /// them are there, or none more will come. `progress` hears how many files and bytes have come so far.
    pub fn fetch<P: AsRef<[u8]>>(
        &self,
        paths: &[P],
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Fetched, Error> {
        let _turn = lock(&self.turn);
        let shared = &self.shared;
        // What is no path of a set is not asked for.
        let mut want: Vec<usize> = (0..paths.len()).filter(|n| path_is_sound(paths[*n].as_ref())).collect();
        let mut fetched =
            Fetched { missing: vec![], bytes: 0, said: String::new(), way: None, warm: false, runs: 0 };
        if want.is_empty() {
            fetched.missing = (0..paths.len()).collect();
            return Ok(fetched);
        }
        self.make_room(paths, &want)?;
        let mut errand = Errand {
            staging: &shared.setup.staging,
            paths,
            want: &mut want,
            files: 0,
            bytes: 0,
            progress: &mut progress,
        };
        let result = self.attempts(&mut errand, &mut fetched);
        fetched.bytes = errand.bytes;
        if let Err(Error::Blocked(_)) = &result {
            // What was begun takes the room that there is too little of.
            errand.forget_partial();
        }
        let mut state = lock(&shared.state);
        state.fetching = false;
        state.busy = None;
        if result.is_ok() {
            state.failures = 0;
        }
        state.rest_until = state.rest_until.max(Instant::now() + shared.limits.rest);
        drop(state);
        shared.changed.notify_all();
        result.map(|()| {
            fetched.missing = want;
            fetched.missing.extend((0..paths.len()).filter(|n| !path_is_sound(paths[*n].as_ref())));
            fetched.missing.sort_unstable();
            fetched
        })
    }

    fn make_room<P: AsRef<[u8]>>(&self, paths: &[P], want: &[usize]) -> Result<(), Error> {
        let staging = &self.shared.setup.staging;
        let blocked = |error: io::Error| Error::Blocked(format!("{}: {error}", staging.name.display()));
        if fs::read_dir(staging.path()).map_err(blocked)?.next().is_none() {
            return Ok(());
        }
        for n in want {
            let path = paths[*n].as_ref();
            // Any other error: nothing there; or rsync will say what is in its way.
            if let Err(Errno::EISDIR) = unlinkat(&staging.held, path, UnlinkatFlags::NoRemoveDir) {
                fs::remove_dir_all(staging.path().join(OsStr::from_bytes(path))).map_err(blocked)?;
            }
        }
        Ok(())
    }

    /// Warm, then cold by each way, until nothing is left to want or the giver has nothing more to give.
    fn attempts<P: AsRef<[u8]>>(
        &self,
        errand: &mut Errand<'_, P>,
        fetched: &mut Fetched,
    ) -> Result<(), Error> {
        let shared = &self.shared;
        let mut tried: Vec<Way> = vec![];
        let mut failed = None;
        let mut last = Error::Away;
        loop {
            let (run, warm) = {
                let mut state = lock(&shared.state);
                state.fetching = true;
                if state.stopped {
                    return Err(Error::Stopped);
                }
                // Only the first attempt: a warm one of later is as cold.
                let ready = if fetched.runs == 0 { state.warm.take() } else { None };
                let (run, warm) = match ready {
                    Some(run) => (run, true),
                    None => {
                        let left = state.ways.iter().filter(|way| !tried.contains(way));
                        // The way that just failed is the last to be tried again.
                        let Some(way) =
                            left.clone().find(|way| Some(**way) != failed).or(left.clone().next())
                        else {
                            return Err(last);
                        };
                        let way = *way;
                        tried.push(way);
                        (shared.start(&mut state, way).map_err(|e| Error::Failed(e.to_string()))?, false)
                    }
                };
                state.busy = Some((run.way, Arc::clone(&run.wanted)));
                (run, warm)
            };
            fetched.runs += 1;
            fetched.way = Some(run.way);
            fetched.warm = warm;
            let way = run.way;
            match self.attempt(run, warm, errand) {
                Ok(said) if errand.want.is_empty() || !warm => {
                    fetched.said = said;
                    return Ok(());
                }
                // The daemon of a warm one may stand in a directory that has been replaced since: ask again, now.
                Ok(_) => {}
                Err(error @ Error::Blocked(_)) => return Err(error),
                Err(error) => {
                    failed = Some(way);
                    last = error;
                }
            }
        }
    }

    /// One run, to the arrival of everything or to its end. `Ok`: what it said of what did not come.
    fn attempt<P: AsRef<[u8]>>(
        &self,
        mut run: Run,
        warm: bool,
        errand: &mut Errand<'_, P>,
    ) -> Result<String, Error> {
        let limits = self.shared.limits;
        give_list(run.list.take(), errand.list());
        let mut said: Vec<String> = vec![];
        let mut heard = Instant::now();
        let mut mute = warm;
        // Of this run: files that rsync says came, and their bytes.
        let (goal, mut files, mut bytes) = (errand.want.len() as u64, 0, 0);
        // Said to be all there: see whether they are.
        let mut looking: Option<Instant> = None;
        loop {
            let wait = match looking {
                // The last rename takes microseconds; a file that rsync sends again takes longer.
                Some(since) if since.elapsed() < Duration::from_millis(20) => GLANCE,
                Some(_) => Duration::from_millis(5),
                None => TICK,
            };
            match run.said.recv_timeout(wait) {
                Ok(word) => {
                    heard = Instant::now();
                    mute = false;
                    match word {
                        Said::File(length) => {
                            files += 1;
                            bytes += length;
                            errand.tell(files.min(goal), bytes);
                            if files == goal {
                                looking = Some(heard);
                            }
                        }
                        Said::Bytes(so_far) => errand.tell(files.min(goal), so_far.max(bytes)),
                        Said::Text(text) if said.len() < SAID_MAX => said.push(text),
                        Said::Text(_) => {}
                        Said::End(status) => {
                            run.released = true;
                            errand.look();
                            if errand.want.is_empty() && status.success() {
                                return Ok(String::new());
                            }
                            let ended = verdict(&self.shared.setup.module, status, &said);
                            return match ended {
                                // Everything is there; how it ended after that is told and changes nothing.
                                Err(error) if errand.want.is_empty() => {
                                    (self.shared.trouble)(error.to_string());
                                    Ok(String::new())
                                }
                                other => other.map(|()| said.join("; ")),
                            };
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // The reading thread says End before it goes.
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Lost("rsync ended unseen".into())),
            }
            if looking.is_some() {
                errand.look();
                if errand.want.is_empty() {
                    errand.tell(0, 0);
                    self.shared.release(run);
                    return Ok(String::new());
                }
            }
            if !run.wanted.load(Ordering::Relaxed) {
                self.end(run);
                return Err(if lock(&self.shared.state).stopped { Error::Stopped } else { Error::Away });
            }
            if heard.elapsed() > if mute { limits.warm } else { limits.stall } {
                self.end(run);
                return Err(Error::Stalled);
            }
        }
    }

    /// Ends a run so that it can keep what it has of a file.
    fn end(&self, mut run: Run) {
        run.group.signal(Signal::SIGTERM);
        let until = Instant::now() + self.shared.limits.leave.min(Duration::from_secs(1));
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match run.said.recv_timeout(left) {
                Ok(Said::End(_)) | Err(RecvTimeoutError::Disconnected) => {
                    run.released = true;
                    return;
                }
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // Dropped: killed.
    }
}

/// See [`Puller::stop`].
pub struct Stopper(Arc<Shared>);

impl Stopper {
    pub fn stop(&self) {
        let mut state = lock(&self.0.state);
        state.stopped = true;
        self.0.dismiss(&mut state);
        let soon = Instant::now() + Duration::from_secs(1);
        state.leaving.iter_mut().for_each(|one| one.until = one.until.min(soon));
        if let Some((_, wanted)) = &state.busy {
            wanted.store(false, Ordering::Relaxed);
        }
        self.0.changed.notify_all();
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        self.stop();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// What one fetch is after, and how far it is.
struct Errand<'a, P> {
    staging: &'a Staging,
    paths: &'a [P],
    want: &'a mut Vec<usize>,
    /// Arrived, as seen in staging.
    files: u64,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<P: AsRef<[u8]>> Errand<'_, P> {
    /// As `--files-from` reads it. `./`: a name that begins with # or ; would be a comment.
    fn list(&self) -> Vec<u8> {
        let mut list = vec![];
        for n in self.want.iter() {
            list.extend(b"./");
            list.extend(self.paths[*n].as_ref());
            list.push(0);
        }
        list
    }

    /// Strikes out what has arrived. A file has its name when it is whole.
    fn look(&mut self) {
        let Self { staging, paths, want, files, bytes, .. } = self;
        want.retain(|n| {
            let stat = fstatat(&staging.held, paths[*n].as_ref(), AtFlags::AT_SYMLINK_NOFOLLOW);
            match stat {
                Ok(stat) if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG => {
                    *files += 1;
                    *bytes += u64::try_from(stat.st_size).unwrap_or(0);
                    false
                }
                _ => true,
            }
        });
    }

    /// With so much more on its way as rsync says.
    fn tell(&mut self, files: u64, bytes: u64) {
        (self.progress)(self.files + files, self.bytes + bytes);
    }

    fn forget_partial(&self) {
        for n in self.want.iter() {
            let (directory, name) = split(self.paths[*n].as_ref());
            let partial = joined(&joined(directory, PARTIAL.as_bytes()), name);
            let _ = unlinkat(&self.staging.held, partial.as_slice(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Writes the list and closes rsync's input. A broken pipe is no error here: how rsync ended says more.
fn give_list(input: Option<ChildStdin>, list: Vec<u8>) {
    let Some(mut input) = input else { return };
    if list.len() <= PIPE_HOLDS {
        let _ = input.write_all(&list);
        return;
    }
    // rsync takes it as fast as the giver does; meanwhile its words are heard.
    let _ = std::thread::Builder::new().name("rsync list".into()).spawn(move || {
        let _ = input.write_all(&list);
    });
}

fn path() -> OsString {
    std::env::var_os("PATH")
        .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into())
}

impl Shared {
    fn command(&self, way: Way) -> Command {
        let setup = &self.setup;
        let mut command = Command::new(&setup.program);
        command.args([
            "--files-from=-",
            "--from0",
            // What is asked for is known to differ, whatever its size and time say.
            "--ignore-times",
            "--times",
            "--omit-dir-times",
            // The directories on the way are made, and nothing of theirs is copied.
            "--no-implied-dirs",
            // Nobody reads in staging but dre.
            "--chmod=F600",
            "--info=progress2",
            "--no-human-readable",
            "--outbuf=L",
        ]);
        command.arg(format!("--out-format={MARK}%i %l %b"));
        command.arg(format!("--partial-dir={PARTIAL}"));
        let mut basis = OsString::from("--copy-dest=");
        basis.push(&setup.root);
        command.arg(basis);
        if self.trust {
            // Without it rsync compares every name it gets with every name it asked for: a second for 10,000. It gets them in a
            // directory of their own, and only what was asked for is looked at there.
            command.arg("--trust-sender");
        }
        // Nothing of ours reaches rsync (RSYNC_*, HOME with its .popt), and its words are English.
        command
            .env_clear()
            .env("PATH", path())
            .env("LC_ALL", "C")
            .env("RSYNC_PASSWORD", setup.secret.as_str());
        match &setup.through {
            Some(through) => {
                command.env("RSYNC_CONNECT_PROG", &through.command).envs(through.environment.iter().cloned());
            }
            None => {
                command.args(["--sockopts=TCP_NODELAY", "--contimeout=3"]);
                command.arg(format!("--address={}", way.local));
            }
        }
        let host = match way.peer {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("[{}%{}]", v6.ip(), v6.scope_id()),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        command.arg(format!("rsync://{USER}@{host}:{}/{}/", way.peer.port(), setup.module));
        command.arg("./").current_dir(setup.staging.path());
        command
    }

    /// Starts an rsync that waits for its list.
    fn start(self: &Arc<Self>, state: &mut State, way: Way) -> io::Result<Run> {
        let (output, theirs) = io::pipe()?;
        let mut command = self.command(way);
        command.stdin(Stdio::piped()).stdout(theirs.try_clone()?).stderr(theirs).process_group(0);
        let fail = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", self.setup.program.display()))
        };
        let mut child = command.spawn().map_err(fail)?;
        // Its copies of our end of the pipe would hide the end of rsync's.
        drop(command);
        let leader = i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)?;
        let list = child.stdin.take();
        let group = Arc::new(Group { leader, life: Mutex::new(Life::Running) });
        state.number += 1;
        let number = state.number;
        let (words, said) = mpsc::channel();
        let run = Run {
            number,
            way,
            group: Arc::clone(&group),
            list,
            said,
            wanted: Arc::new(AtomicBool::new(true)),
            released: false,
        };
        let shared = Arc::clone(self);
        std::thread::Builder::new()
            .name("rsync reader".into())
            .spawn(move || shared.listen(number, child, &group, output, &words))?;
        Ok(run)
    }

    /// Reads what one rsync says, to its end, and reaps it.
    fn listen(
        &self,
        number: u64,
        mut child: Child,
        group: &Group,
        mut output: io::PipeReader,
        words: &Sender<Said>,
    ) {
        let mut last = vec![];
        let mut hear = |line: &[u8]| {
            let Some(word) = understand(line) else { return };
            if let Said::Text(text) = &word
                && last.len() < SAID_MAX
            {
                last.push(text.clone());
            }
            // Nobody may be listening any more.
            let _ = words.send(word);
        };
        let mut line = vec![];
        let mut buffer = vec![0; 64 << 10];
        loop {
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => {
                    for byte in &buffer[..len] {
                        match byte {
                            b'\n' | b'\r' => {
                                hear(&line);
                                line.clear();
                            }
                            _ if line.len() < 8_192 => line.push(*byte),
                            _ => {}
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        hear(&line);
        // All its processes have closed their output. Wait first and reap then, so that nobody signals a number that is another's.
        while waitid(Id::Pid(group.leader), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
            == Err(nix::errno::Errno::EINTR)
        {}
        let (status, dismissed) = {
            let mut life = lock(&group.life);
            let status = child.wait();
            let dismissed = *life == Life::Dismissed;
            *life = Life::Reaped;
            (status, dismissed)
        };
        let Ok(status) = status else { return };
        let unheard = words.send(Said::End(status)).is_err();
        let mut state = lock(&self.state);
        state.leaving.retain(|one| one.number != number);
        let died = state.warm.take_if(|run| run.number == number).map(|mut run| run.released = true);
        let mut report = unheard && !dismissed && !status.success();
        if died.is_some() {
            // Its connection ended; that it could not be made is worth a word, once.
            let now = Instant::now();
            state.failures = if now - state.warm_since > LIVED { 1 } else { state.failures + 1 };
            state.rest_until = now + self.rest_after(state.failures);
            report = state.failures == 2;
        }
        drop(state);
        self.changed.notify_all();
        if report {
            let text = match verdict(&self.setup.module, status, &last) {
                Ok(()) => format!("rsync ended with {status}: {}", last.join("; ")),
                Err(error) => error.to_string(),
            };
            (self.trouble)(text);
        }
    }

    fn rest_after(&self, failures: u32) -> Duration {
        let doubled = self.limits.rest_failed * 2u32.saturating_pow(failures.saturating_sub(1).min(16));
        doubled.min(self.limits.rest_max)
    }

    /// The warm one gets an empty list and goes in order, so that its daemon has nothing to complain of.
    fn dismiss(&self, state: &mut State) {
        if let Some(run) = state.warm.take() {
            let mut life = lock(&run.group.life);
            if *life == Life::Running {
                *life = Life::Dismissed;
            }
            drop(life);
            self.leave(state, run);
        }
    }

    /// It has done its work; it is given a time to end by itself.
    fn release(&self, run: Run) {
        self.leave(&mut lock(&self.state), run);
        self.changed.notify_all();
    }

    fn leave(&self, state: &mut State, mut run: Run) {
        run.released = true;
        let until = Instant::now() + self.limits.leave;
        // It may have been reaped already, by a reader that waits for the lock we hold or found nothing to strike out.
        if *lock(&run.group.life) != Life::Reaped {
            state.leaving.push(Leaving { number: run.number, group: Arc::clone(&run.group), until });
        }
    }

    /// The keeper: sees that a warm one waits whenever it can, and that none stays that should have gone.
    fn keep(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            let now = Instant::now();
            state.leaving.retain(|one| {
                let overdue = one.until <= now;
                if overdue {
                    one.group.signal(Signal::SIGKILL);
                }
                !overdue
            });
            if state.stopped && state.leaving.is_empty() {
                return;
            }
            let mut wake = state.leaving.iter().map(|one| one.until).min();
            let due = state.warm.is_none() && !state.ways.is_empty() && !state.fetching && !state.stopped;
            if due && state.rest_until <= now {
                // The preferred way; after a failure, the next one.
                let way = state.ways[state.failures as usize % state.ways.len()];
                match self.start(&mut state, way) {
                    Ok(run) => {
                        state.warm = Some(run);
                        state.warm_since = now;
                    }
                    Err(error) => {
                        state.failures += 1;
                        state.rest_until = now + self.rest_after(state.failures);
                        if state.failures == 2 {
                            drop(state);
                            (self.trouble)(error.to_string());
                            state = lock(&self.state);
                        }
                    }
                }
                continue;
            }
            if due {
                wake = Some(wake.map_or(state.rest_until, |other| other.min(state.rest_until)));
            }
            state = match wake {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(now);
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::process::ExitStatusExt;
    use std::sync::atomic::AtomicU64;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const KEY: [u8; 32] = [7; 32];

    /// Two directories and a daemon between them, as systemd would start it.
    struct Pair {
        dir: PathBuf,
        port: u16,
        daemons: Arc<Mutex<Vec<Child>>>,
    }

    impl Pair {
        fn new(name: &str) -> Self {
            Self::with_secret(name, &secret(&KEY, "dre"))
        }

        fn with_secret(name: &str, secret: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("dre-rsync-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            for sub in ["run", "there", "here"] {
                fs::create_dir_all(dir.join(sub)).expect("a directory");
            }
            let modules = [Module { name: "set", root: &dir.join("there") }];
            daemon_files(&dir.join("run"), &modules, secret, &[HERE]).expect("written");
            let conf = as_ourselves(&dir.join("run"));
            let listener = TcpListener::bind((HERE, 0)).expect("a listener");
            let port = listener.local_addr().expect("an address").port();
            let daemons = Arc::new(Mutex::new(vec![]));
            let started = Arc::clone(&daemons);
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let stream = stream.expect("a connection");
                    stream.set_nodelay(true).expect("an option");
                    lock(&started).push(daemon(&conf, stream.into()));
                }
            });
            Self { dir, port, daemons }
        }

        fn there(&self, path: &[u8]) -> PathBuf {
            self.dir.join("there").join(OsStr::from_bytes(path))
        }

        fn here(&self, path: &[u8]) -> PathBuf {
            self.dir.join("here").join(OsStr::from_bytes(path))
        }

        fn staged(&self, path: &[u8]) -> PathBuf {
            self.dir.join("here/.dre-stage").join(OsStr::from_bytes(path))
        }

        fn put(&self, path: &[u8], content: &[u8]) {
            let path = self.there(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, content).expect("written");
        }

        fn got(&self, path: &[u8]) -> Vec<u8> {
            fs::read(self.staged(path)).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        }

        fn way(&self) -> Way {
            Way { local: HERE, peer: (HERE, self.port).into() }
        }

        fn setup(&self) -> Setup {
            Setup {
                program: "rsync".into(),
                module: "set".into(),
                staging: {
                    let name = self.dir.join("here/.dre-stage");
                    fs::create_dir_all(&name).expect("made");
                    Staging::new(fs::File::open(&name).expect("opened").into(), name)
                },
                root: self.dir.join("here"),
                secret: secret(&KEY, "dre"),
                through: None,
            }
        }

        /// Nothing may go wrong behind its back.
        fn puller(&self) -> Puller {
            let puller = Puller::new(self.setup(), |text| panic!("{text}")).expect("rsync is there");
            puller.set_peer(vec![self.way()]);
            puller
        }
    }

    impl Drop for Pair {
        fn drop(&mut self) {
            for daemon in lock(&self.daemons).iter_mut() {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            let _ = fs::remove_dir_all(&self.dir);
        }
    }

    /// The unit's daemon is no root and reads by a capability; the tests' may be root, which the file must then say.
    fn as_ourselves(run: &Path) -> PathBuf {
        let conf = run.join("test.conf");
        let text = fs::read(run.join(CONF)).expect("readable");
        let root = nix::unistd::geteuid().is_root();
        let head: &[u8] = if root { b"uid = 0\ngid = 0\n" } else { b"" };
        fs::write(&conf, [head, &text].concat()).expect("written");
        conf
    }

    fn daemon(conf: &Path, socket: OwnedFd) -> Child {
        let mut command = Command::new("rsync");
        command.arg("--daemon").arg(format!("--config={}", conf.display()));
        command.arg("--log-file=/dev/null").stdin(socket).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("rsync is there")
    }

    fn warm(puller: &Puller) -> Option<(u64, Pid)> {
        lock(&puller.shared.state).warm.as_ref().map(|run| (run.number, run.group.leader))
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !holds() {
            assert!(Instant::now() < until, "{what}: not within a minute");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// A warm one waits for its list: its daemon has read everything up to there and sleeps.
    fn await_warm(puller: &Puller, pair: &Pair) {
        eventually("a warm one", || warm(puller).is_some());
        let asleep = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let ticks = |n: usize| stat.rsplit(") ").next()?.split(' ').nth(n)?.parse::<u64>().ok();
            stat.contains(") S ").then_some((ticks(11), ticks(12)))
        };
        let sleeps = || {
            let daemon = lock(&pair.daemons).last().map(Child::id)?;
            let taker = warm(puller)?.1.as_raw();
            Some((asleep(daemon)?, asleep(u32::try_from(taker).ok()?)?))
        };
        let mut before = None;
        let mut since = Instant::now();
        eventually("a warm one at rest", || {
            let now = sleeps();
            if now.is_none() || now != before {
                before = now;
                since = Instant::now();
            }
            since.elapsed() > Duration::from_millis(150)
        });
    }

    fn silent(_: u64, _: u64) {}

    #[test]
    fn a_file_arrives_under_its_path_and_nothing_else_changes() {
        let pair = Pair::new("one");
        pair.put(b"a/b/c.rule", b"permit all");
        let puller = pair.puller();
        let (mut files, mut bytes) = (0, 0);
        let fetched = puller.fetch(&["a/b/c.rule"], |f, b| (files, bytes) = (f, b)).expect("fetched");
        assert_eq!((fetched.missing, fetched.bytes), (vec![], 10));
        assert_eq!((files, bytes), (1, 10));
        assert_eq!(pair.got(b"a/b/c.rule"), b"permit all");
        let mode = fs::metadata(pair.staged(b"a/b/c.rule")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others read in staging");
        assert!(!pair.here(b"a").exists(), "the live tree was touched");
    }

    #[test]
    fn any_name_a_file_can_have_arrives() {
        let pair = Pair::new("names");
        let mut names: Vec<Vec<u8>> = [
            "#hash",
            ";semi",
            " lead",
            "trail ",
            "new\nline",
            "tab\t",
            "back\\slash",
            "\\#012",
            "-dash",
            "a/b/deep",
            "a/#h",
            "st*r",
            "[x]",
            "?q",
            "qu\"ote",
            "sq'",
            "$HOME",
            "..x",
            "...",
            "%b",
            "x\x7f",
            "x\r",
            " ",
            "~tilde",
            "\\",
            "a:b",
            "host::mod",
            "dre: >f+++++++++ 1 2",
            "100 100%",
            "caf\u{e9}",
            "trail\\",
        ]
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
        names.push(b"\xff\xfe".to_vec());
        names.push(vec![b'n'; 255]);
        for name in &names {
            pair.put(name, name);
        }
        let fetched = pair.puller().fetch(&names, silent).expect("fetched");
        assert_eq!(fetched.missing, Vec::<usize>::new(), "{}", fetched.said);
        for name in &names {
            assert_eq!(pair.got(name), *name);
        }
    }

    #[test]
    fn what_the_giver_has_not_is_named_and_the_rest_arrives() {
        let pair = Pair::new("missing");
        pair.put(b"there", b"1");
        pair.put(b"dir/x", b"2");
        std::os::unix::fs::symlink("there", pair.there(b"link")).expect("a link");
        let paths = ["gone", "there", "link", "dir", "../there", "dir/x"];
        let fetched = pair.puller().fetch(&paths, silent).expect("fetched");
        assert_eq!(fetched.missing, [0, 2, 3, 4]);
        assert!(fetched.said.contains("gone"), "{}", fetched.said);
        assert_eq!((pair.got(b"there"), pair.got(b"dir/x")), (b"1".to_vec(), b"2".to_vec()));
        assert!(!pair.staged(b"link").is_symlink(), "a link was copied");
    }

    #[test]
    fn same_size_and_time_as_the_file_here_is_fetched_all_the_same() {
        let pair = Pair::new("same");
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (path, content) in [(pair.there(b"f"), "new"), (pair.here(b"f"), "old")] {
            fs::write(&path, content).expect("written");
            let file = fs::OpenOptions::new().write(true).open(&path).expect("open");
            file.set_modified(time).expect("a time");
        }
        pair.puller().fetch(&["f"], silent).expect("fetched");
        assert_eq!(pair.got(b"f"), b"new");
        assert_eq!(fs::metadata(pair.staged(b"f")).expect("a file").modified().expect("a time"), time);
    }

    #[test]
    fn a_large_file_that_is_here_in_an_older_version_comes_as_its_changes() {
        let pair = Pair::new("delta");
        let mut large: Vec<u8> =
            (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        fs::write(pair.here(b"large"), &large).expect("written");
        large[10_000_000] ^= 1;
        pair.put(b"large", &large);
        let counted = Arc::new(AtomicU64::new(0));
        let port = counting_relay(pair.port, &counted);
        let puller = pair.puller();
        puller.set_peer(vec![Way { local: HERE, peer: (HERE, port).into() }]);
        let fetched = puller.fetch(&["large"], silent).expect("fetched");
        assert_eq!(fetched.bytes, 20_000_000);
        assert!(pair.got(b"large") == large);
        let sent = counted.load(Ordering::Relaxed);
        assert!(sent < 1_000_000, "{sent} bytes for one changed byte");
    }

    #[test]
    fn leftovers_in_staging_are_not_taken_for_what_was_asked_for() {
        let pair = Pair::new("leftovers");
        pair.put(b"f", b"new");
        pair.put(b"d", b"a file now");
        fs::create_dir_all(pair.staged(b"d/sub")).expect("a directory");
        fs::write(pair.staged(b"f"), "stale").expect("written");
        fs::write(pair.staged(b"gone"), "stale").expect("written");
        let fetched = pair.puller().fetch(&["f", "gone", "d"], silent).expect("fetched");
        assert_eq!(fetched.missing, [1]);
        assert_eq!(pair.got(b"f"), b"new");
        assert_eq!(pair.got(b"d"), b"a file now");
        assert!(!pair.staged(b"gone").exists());
    }

    #[test]
    fn a_warm_one_waits_without_a_byte_and_without_a_run() {
        let pair = Pair::new("idle");
        let counted = Arc::new(AtomicU64::new(0));
        let port = counting_relay(pair.port, &counted);
        let puller = pair.puller();
        puller.set_peer(vec![Way { local: HERE, peer: (HERE, port).into() }]);
        await_warm(&puller, &pair);
        let first = warm(&puller);
        // Once it has come to rest (on a machine with more to do, late) ...
        let (mut bytes, mut since) = (0, Instant::now());
        eventually("rest", || {
            let now = counted.load(Ordering::Relaxed);
            if now != bytes {
                (bytes, since) = (now, Instant::now());
            }
            since.elapsed() > Duration::from_secs(2)
        });
        // ... nothing comes in this time: there is nothing else to wait for.
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(warm(&puller), first);
        assert_eq!(counted.load(Ordering::Relaxed), bytes, "an idle one spoke");
        pair.put(b"f", b"after a rest");
        let fetched = puller.fetch(&["f"], silent).expect("fetched");
        assert!(fetched.warm && fetched.runs == 1, "{fetched:?}");
    }

    #[test]
    fn the_next_warm_one_is_there_after_a_fetch_and_no_process_stays() {
        let pair = Pair::new("next");
        let puller = pair.puller();
        let mut leaders = vec![];
        for n in 0..4u8 {
            eventually("a warm one", || warm(&puller).is_some());
            leaders.push(warm(&puller).expect("one").1);
            pair.put(b"f", &[n]);
            puller.fetch(&["f"], silent).expect("fetched");
            assert_eq!(pair.got(b"f"), [n]);
        }
        eventually("a warm one", || warm(&puller).is_some());
        leaders.push(warm(&puller).expect("one").1);
        drop(puller);
        for leader in leaders {
            assert_eq!(
                killpg(leader, None),
                Err(nix::errno::Errno::ESRCH),
                "{leader} is still there, or a zombie"
            );
        }
    }

    #[test]
    fn a_warm_one_whose_daemon_died_is_replaced_unseen() {
        let pair = Pair::new("died");
        pair.put(b"f", b"1");
        let puller = Puller::new(pair.setup(), |_| {}).expect("rsync is there");
        puller.set_peer(vec![pair.way()]);
        for round in 0..5 {
            await_warm(&puller, &pair);
            for daemon in lock(&pair.daemons).iter_mut() {
                let _ = daemon.kill();
            }
            let fetched = puller.fetch(&["f"], silent).unwrap_or_else(|error| panic!("{round}: {error}"));
            assert_eq!(fetched.missing, Vec::<usize>::new());
            assert_eq!(pair.got(b"f"), b"1");
        }
    }

    #[test]
    fn when_the_peer_was_away_the_warm_one_is_another() {
        let pair = Pair::new("away and back");
        let puller = pair.puller();
        await_warm(&puller, &pair);
        let first = warm(&puller).expect("one");
        puller.set_peer(vec![pair.way()]);
        assert_eq!(warm(&puller), Some(first), "the same ways are no news");
        puller.set_peer(vec![]);
        assert_eq!(warm(&puller), None);
        // Sent away with an empty list, it ends in order.
        eventually("its end", || killpg(first.1, None).is_err());
        puller.set_peer(vec![pair.way()]);
        eventually("another", || warm(&puller).is_some_and(|run| run.0 > first.0));
        pair.put(b"f", b"1");
        puller.fetch(&["f"], silent).expect("fetched");
    }

    #[test]
    fn a_root_replaced_under_a_warm_one_is_read_as_it_is_now() {
        let pair = Pair::new("replaced");
        pair.put(b"old", b"1");
        let puller = pair.puller();
        await_warm(&puller, &pair);
        fs::rename(pair.dir.join("there"), pair.dir.join("before")).expect("renamed");
        pair.put(b"new", b"2");
        let fetched = puller.fetch(&["new"], silent).expect("fetched");
        assert_eq!((fetched.missing.len(), fetched.runs, fetched.warm), (0, 2, false));
        // What lies in both, only the caller's hash can tell.
        await_warm(&puller, &pair);
        fs::rename(pair.dir.join("there"), pair.dir.join("before2")).expect("renamed");
        pair.put(b"new", b"3");
        puller.discard();
        puller.fetch(&["new"], silent).expect("fetched");
        assert_eq!(pair.got(b"new"), b"3");
    }

    #[test]
    fn the_second_link_serves_when_the_first_does_not() {
        let pair = Pair::new("second");
        pair.put(b"f", b"1");
        // Nobody listens there.
        let closed = TcpListener::bind((HERE, 0)).expect("a listener").local_addr().expect("an address");
        let puller = Puller::new(pair.setup(), |_| {}).expect("rsync is there");
        puller.set_peer(vec![Way { local: HERE, peer: closed }, pair.way()]);
        let fetched = puller.fetch(&["f"], silent).expect("fetched");
        assert_eq!(fetched.way, Some(pair.way()));
        assert_eq!(pair.got(b"f"), b"1");
    }

    #[test]
    fn a_daemon_that_says_nothing_is_given_up_and_the_other_link_serves() {
        let pair = Pair::new("mute");
        pair.put(b"f", b"1");
        let mute = TcpListener::bind((HERE, 0)).expect("a listener");
        let way = Way { local: HERE, peer: mute.local_addr().expect("an address") };
        let limits = Limits { stall: Duration::from_secs(3), warm: Duration::from_millis(300), ..LIMITS };
        let puller = Puller::with_limits(pair.setup(), limits, |_| {}).expect("rsync is there");
        puller.set_peer(vec![way]);
        eventually("a warm one", || warm(&puller).is_some());
        puller.set_peer(vec![way, pair.way()]);
        let fetched = puller.fetch(&["f"], silent).expect("fetched");
        assert_eq!(fetched.way, Some(pair.way()));
        assert_eq!(pair.got(b"f"), b"1");
        puller.set_peer(vec![way]);
        assert_eq!(puller.fetch(&["f"], silent), Err(Error::Stalled));
    }

    #[test]
    fn a_fetch_ends_when_its_way_is_taken_away_or_everything_stops() {
        let pair = Pair::new("away");
        let mute = TcpListener::bind((HERE, 0)).expect("a listener");
        let way = Way { local: HERE, peer: mute.local_addr().expect("an address") };
        let puller = Puller::new(pair.setup(), |_| {}).expect("rsync is there");
        assert_eq!(puller.fetch(&["f"], silent), Err(Error::Away));
        for (stops, expected) in [(false, Error::Away), (true, Error::Stopped)] {
            puller.set_peer(vec![way]);
            std::thread::scope(|scope| {
                let fetch = scope.spawn(|| puller.fetch(&["f"], silent));
                eventually("a fetch", || lock(&puller.shared.state).busy.is_some());
                if stops {
                    puller.stop();
                } else {
                    puller.set_peer(vec![]);
                }
                assert_eq!(fetch.join().expect("no panic"), Err(expected));
            });
        }
        assert_eq!(puller.fetch(&["f"], silent), Err(Error::Stopped));
    }

    #[test]
    fn another_secret_is_refused_in_words_and_told_once() {
        let pair = Pair::with_secret("secret", "another");
        pair.put(b"f", b"1");
        let told = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&told);
        let limits =
            Limits { rest_failed: Duration::from_millis(1), rest_max: Duration::from_millis(10), ..LIMITS };
        let puller = Puller::with_limits(pair.setup(), limits, move |text| {
            assert!(text.contains("auth failed"), "{text}");
            count.fetch_add(1, Ordering::Relaxed);
        })
        .expect("rsync is there");
        puller.set_peer(vec![pair.way()]);
        let error = puller.fetch(&["f"], silent).expect_err("refused");
        assert!(matches!(&error, Error::Refused(text) if text.contains("auth failed")), "{error}");
        eventually("failures", || lock(&puller.shared.state).failures > 5);
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_host_that_is_not_the_peer_is_refused() {
        let pair = Pair::new("hosts");
        pair.put(b"f", b"1");
        let modules = [Module { name: "set", root: &pair.dir.join("there") }];
        daemon_files(&pair.dir.join("run"), &modules, &secret(&KEY, "dre"), &[[127, 0, 0, 9].into()])
            .expect("written");
        as_ourselves(&pair.dir.join("run"));
        let puller = Puller::new(pair.setup(), |_| {}).expect("rsync is there");
        puller.set_peer(vec![pair.way()]);
        assert!(matches!(puller.fetch(&["f"], silent), Err(Error::Refused(_))));
    }

    #[test]
    fn a_daemon_is_reached_through_a_command() {
        let pair = Pair::new("through");
        pair.put(b"f", b"1");
        let modules = [Module { name: "set", root: &pair.dir.join("there") }];
        daemon_files(&pair.dir.join("run"), &modules, &secret(&KEY, "dre"), &[]).expect("written");
        let conf = as_ourselves(&pair.dir.join("run"));
        // rsync gives the command a socket for its standard input: what a daemon wants.
        let command = format!(
            "echo %H $WHAT >{0}/asked; exec rsync --daemon --config={1}",
            pair.dir.display(),
            conf.display()
        );
        let through = Through { command, environment: vec![("WHAT".into(), "pipe".into())] };
        let puller = Puller::new(Setup { through: Some(through), ..pair.setup() }, |text| panic!("{text}"))
            .expect("rsync is there");
        puller.set_peer(vec![Way { local: HERE, peer: ([192, 0, 2, 7], 1).into() }]);
        await_warm_alone(&puller);
        let fetched = puller.fetch(&["f"], silent).expect("fetched");
        assert!(fetched.warm);
        assert_eq!(pair.got(b"f"), b"1");
        let asked = fs::read_to_string(pair.dir.join("asked")).expect("the command ran");
        assert_eq!(asked.trim(), "192.0.2.7 pipe");
    }

    fn await_warm_alone(puller: &Puller) {
        eventually("a warm one", || warm(puller).is_some());
    }

    #[test]
    fn a_full_disk_is_told_as_such_and_not_tried_again_on_the_other_link() {
        let pair = Pair::new("full");
        let script = pair.dir.join("full-rsync");
        let text = "#!/bin/sh\ncase $* in *--version*) exit 0;; esac\ncat >/dev/null\necho run >>$0.runs\n\
                    mkdir -p $DIR\necho 'rsync: [receiver] write failed on \"/x/f\": No space left on device (28)' >&2\nexit 11\n";
        let staging = pair.dir.join("here/.dre-stage");
        fs::write(&script, text.replace("$DIR", &staging.display().to_string())).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
        fs::create_dir_all(staging.join(PARTIAL)).expect("a directory");
        fs::write(staging.join(PARTIAL).join("f"), [0; 100]).expect("written");
        let puller = Puller::new(Setup { program: script.clone(), ..pair.setup() }, |text| panic!("{text}"))
            .expect("it runs");
        let other = Way { local: HERE, peer: (HERE, 1).into() };
        lock(&puller.shared.state).ways = vec![pair.way(), other];
        let error = puller.fetch(&["f"], silent).expect_err("no room");
        assert!(matches!(&error, Error::Blocked(text) if text.contains("No space left")), "{error}");
        assert_eq!(fs::read_to_string(script.with_extension("runs")).expect("it ran").lines().count(), 1);
        assert!(!staging.join(PARTIAL).join("f").exists(), "what was begun still takes room");
    }

    #[test]
    fn a_bad_end_after_everything_came_is_told_and_changes_nothing() {
        let pair = Pair::new("late");
        let script = pair.dir.join("late-rsync");
        let text = "#!/bin/sh\ncase $* in *--version*) exit 0;; esac\ncat >/dev/null\n\
                    echo 1 >$DIR/f\necho 'dre: >f+++++++++ 2 42'\nexec sleep 0.2; exit 12\n";
        let text = text.replace("exec sleep 0.2", "sleep 0.2");
        let staging = pair.dir.join("here/.dre-stage");
        fs::write(&script, text.replace("$DIR", &staging.display().to_string())).expect("written");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
        let (tell, told) = mpsc::channel();
        let tell = Mutex::new(tell);
        let puller = Puller::new(Setup { program: script, ..pair.setup() }, move |text| {
            let _ = lock(&tell).send(text);
        })
        .expect("it runs");
        lock(&puller.shared.state).ways = vec![pair.way()];
        let fetched = puller.fetch(&["f"], silent).expect("fetched");
        assert_eq!(fetched.missing, Vec::<usize>::new());
        let text = told.recv_timeout(Duration::from_secs(60)).expect("told");
        assert!(text.contains("12"), "{text}");
    }

    #[test]
    fn exit_status_and_words_make_the_verdict() {
        let text = |what: Result<(), Error>| match what {
            Ok(()) => "partial".to_owned(),
            Err(error) => format!("{error:?}").split('(').next().unwrap_or_default().to_owned(),
        };
        for (code, said, expected) in [
            (0, "", "partial"),
            (
                23,
                "rsync: [sender] link_stat \"gone\" (in set) failed: No such file or directory (2)",
                "partial",
            ),
            (24, "file has vanished: \"x\" (in set)", "partial"),
            // The giver's permission is not this disk's trouble, by either sign.
            (
                23,
                "rsync: [sender] send_files failed to open \"x\" (in set): Permission denied (13)",
                "partial",
            ),
            (23, "rsync: send_files failed to open \"x\" (in set): Permission denied (13)", "partial"),
            (11, "rsync: [receiver] write failed on \"/s/x\": No space left on device (28)", "Blocked"),
            (
                23,
                "rsync: [receiver] open \"/s/.dre-partial/x\" failed: Read-only file system (30)",
                "Blocked",
            ),
            (3, "rsync: [Receiver] change_dir#1 \"/s/\" failed: Permission denied (13)", "Blocked"),
            (11, "rsync: [receiver] write failed on \"/s/x\": Disk quota exceeded (122)", "Blocked"),
            (5, "@ERROR: auth failed on module set", "Refused"),
            (5, "@ERROR: Unknown module 'sot'", "Refused"),
            (5, "rsync: did not see server greeting", "Lost"),
            (
                10,
                "rsync: [Receiver] failed to connect to 127.0.0.1 (127.0.0.1): Connection refused (111)",
                "Lost",
            ),
            (
                10,
                "rsync: [Receiver] failed to connect to 192.0.2.1 (192.0.2.1): Permission denied (13)",
                "Lost",
            ),
            (12, "rsync: connection unexpectedly closed (0 bytes received so far) [Receiver]", "Lost"),
            (30, "", "Lost"),
            (1, "rsync: --frobnicate: unknown option", "Failed"),
            (2, "", "Failed"),
        ] {
            let said: Vec<String> = [said].iter().filter(|s| !s.is_empty()).map(|s| (*s).into()).collect();
            let verdict = verdict("set", ExitStatus::from_raw(code << 8), &said);
            assert_eq!(text(verdict), expected, "{code} {said:?}");
        }
        assert_eq!(text(verdict("set", ExitStatus::from_raw(9), &[])), "Lost", "killed");
    }

    #[test]
    fn a_line_is_a_file_bytes_or_words() {
        for (line, expected) in [
            ("dre: >f+++++++++ 500 540", Some(Said::File(500))),
            ("dre: >f.st...... 0 40", Some(Said::File(0))),
            ("dre: cd+++++++++ 4096 0", None),
            ("dre: >f", None),
            ("     64126976  21%   58.41MB/s    0:00:03  ", Some(Said::Bytes(64_126_976))),
            (
                "          300000000  99%   56.01MB/s    0:00:05 (xfr#1, to-chk=1/3)",
                Some(Said::Bytes(300_000_000)),
            ),
            (
                "  5  21%   58.41MB/s    0:00:03  rsync: [generator] x (28)",
                Some(Said::Text("rsync: [generator] x (28)".into())),
            ),
            ("created directory /s", None),
            ("", None),
            ("rsync: x", Some(Said::Text("rsync: x".into()))),
            ("100 reasons", Some(Said::Text("100 reasons".into()))),
        ] {
            assert_eq!(understand(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn nothing_secret_is_in_the_command_line_and_little_in_the_environment() {
        let pair = Pair::new("argv");
        let puller = Puller::new(pair.setup(), |_| {}).expect("rsync is there");
        let command = puller.shared.command(pair.way());
        let secret = secret(&KEY, "dre");
        let shown = command.get_args().any(|arg| arg.to_string_lossy().contains(secret.as_str()));
        assert!(!shown);
        let names: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["LC_ALL", "PATH", "RSYNC_PASSWORD"]);
        assert!(!format!("{:?}", pair.setup()).contains(secret.as_str()));
    }

    #[test]
    fn the_daemons_files_are_exact_and_the_secret_is_roots_alone() {
        let dir = std::env::temp_dir().join(format!("dre-rsyncd-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let odd = Path::new("/srv/100% odd \\");
        let modules =
            [Module { name: "rules", root: Path::new("/opt/re/conf") }, Module { name: "odd", root: odd }];
        let peers = ["192.0.2.2".parse().expect("an address"), "2001:db8::2".parse().expect("an address")];
        // One that was left readable is not left so.
        fs::write(dir.join("rsyncd.new"), "").expect("written");
        daemon_files(&dir, &modules, "s3cret", &peers).expect("written");
        let conf = fs::read_to_string(dir.join(CONF)).expect("readable");
        for line in [
            "use chroot = no",
            "munge symlinks = no",
            "read only = yes",
            "list = no",
            "reverse lookup = no",
            "strict modes = yes",
            "auth users = dre",
            "hosts allow = 192.0.2.2 2001:db8::2",
            &format!("secrets file = {}/rsyncd.secrets", dir.display()),
            "[rules]",
            "path = /opt/re/conf/",
            "path = /srv/100% odd \\/",
        ] {
            assert!(conf.lines().any(|l| l == line), "{line} is not in\n{conf}");
        }
        assert!(!conf.contains("s3cret"));
        assert_eq!(fs::read_to_string(dir.join(SECRETS)).expect("readable"), "dre:s3cret\n");
        let mode = fs::metadata(dir.join(SECRETS)).expect("a file").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        daemon_files(&dir, &modules, "s3cret", &[]).expect("written");
        let conf = fs::read_to_string(dir.join(CONF)).expect("readable");
        assert!(!conf.contains("hosts allow"), "a pipe's end has no address to allow");
        for bad in ["", "a/b", "a]", "global", "a b", "a\nb"] {
            let modules = [Module { name: bad, root: odd }];
            assert!(daemon_files(&dir, &modules, "s", &[]).is_err(), "{bad:?}");
        }
        for bad in ["relative", "/new\nline", "/srv/%PATH%/x"] {
            let modules = [Module { name: "a", root: Path::new(bad) }];
            assert!(daemon_files(&dir, &modules, "s", &[]).is_err(), "{bad:?}");
        }
        fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn the_secret_is_of_the_key_and_the_group() {
        let one = secret(&KEY, "dre");
        assert_eq!(one.len(), 44);
        assert_eq!(one, secret(&KEY, "dre"));
        assert_ne!(one, secret(&KEY, "dre-b"));
        assert_ne!(one, secret(&[8; 32], "dre"));
        assert!(!one.contains(&STANDARD.encode(KEY)));
    }

    #[test]
    fn a_root_with_an_odd_name_is_served() {
        let pair = Pair::new("odd root");
        let odd = pair.dir.join("100% odd \\");
        fs::create_dir_all(&odd).expect("a directory");
        fs::write(odd.join("f"), "1").expect("written");
        let modules = [Module { name: "set", root: &odd }];
        daemon_files(&pair.dir.join("run"), &modules, &secret(&KEY, "dre"), &[HERE]).expect("written");
        as_ourselves(&pair.dir.join("run"));
        let puller =
            Puller::new(Setup { root: odd.clone(), ..pair.setup() }, |_| {}).expect("rsync is there");
        puller.set_peer(vec![pair.way()]);
        let fetched = puller.fetch(&["f"], silent).expect("fetched");
        assert_eq!(fetched.missing, Vec::<usize>::new(), "{}", fetched.said);
    }

    /// The whole of `encrypt = true`: rsync, a pipe over Noise, and a daemon behind a local socket.
    #[test]
    fn rsync_goes_through_an_encrypted_pipe() {
        use crate::shell::secure;
        let pair = Pair::new("pipe");
        let run = pair.dir.join("run");
        let modules = [Module { name: "set", root: &pair.dir.join("there") }];
        daemon_files(&run, &modules, &secret(&KEY, "dre"), &[]).expect("written");
        let conf = as_ourselves(&run);
        let local = std::os::unix::net::UnixListener::bind(run.join(SOCKET)).expect("a socket");
        let daemons = Arc::clone(&pair.daemons);
        std::thread::spawn(move || {
            for stream in local.incoming() {
                lock(&daemons).push(daemon(&conf, stream.expect("a connection").into()));
            }
        });
        let (ports, port) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let giver = Arc::new(secure::Pass::new(&KEY, "dre", "hadev2", "hadev1"));
                let taker = Arc::new(secure::Pass::new(&KEY, "dre", "hadev1", "hadev2"));
                let mut listener =
                    secure::Listener::bind(&[((HERE, 0).into(), HERE)], giver).expect("a listener");
                let address = listener.addresses().expect("addresses")[0];
                let entry = tokio::net::TcpListener::bind((HERE, 0)).await.expect("a listener");
                ports.send(entry.local_addr().expect("an address").port()).expect("heard");
                tokio::spawn(async move {
                    loop {
                        let connection = listener.accept().await.expect("accepted").result.expect("the peer");
                        let run = run.clone();
                        tokio::spawn(async move { serve(connection.into_pipe(), &run).await });
                    }
                });
                loop {
                    let (mut stream, _) = entry.accept().await.expect("accepted");
                    let taker = Arc::clone(&taker);
                    tokio::spawn(async move {
                        let connection = secure::connect(HERE, address, &taker).await.expect("connected");
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut connection.into_pipe()).await;
                    });
                }
            });
        });
        let port = port.recv().expect("a port");
        let puller = pair.puller();
        puller.set_peer(vec![Way { local: HERE, peer: (HERE, port).into() }]);
        let large: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        pair.put(b"large", &large);
        pair.put(b"small", b"1");
        for _ in 0..2 {
            let fetched = puller.fetch(&["large", "small"], silent).expect("fetched");
            assert_eq!(fetched.missing, Vec::<usize>::new());
            assert!(pair.got(b"large") == large);
        }
    }

    /// Passes connections on and counts their bytes.
    fn counting_relay(port: u16, count: &Arc<AtomicU64>) -> u16 {
        let listener = TcpListener::bind((HERE, 0)).expect("a listener");
        let own = listener.local_addr().expect("an address").port();
        let count = Arc::clone(count);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let near = stream.expect("a connection");
                let far = TcpStream::connect((HERE, port)).expect("the daemon");
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) =
                        (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
                    let count = Arc::clone(&count);
                    std::thread::spawn(move || {
                        let mut buffer = [0; 65_536];
                        while let Ok(len @ 1..) = from.read(&mut buffer) {
                            count.fetch_add(len as u64, Ordering::Relaxed);
                            if to.write_all(&buffer[..len]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        own
    }

    /// Figures of this machine: shown with `--nocapture`, judged only to be there at all.
    #[test]
    fn figures() {
        let pair = Pair::new("figures");
        let puller = pair.puller();
        let of = |warm_wanted: bool| {
            let mut times: Vec<Duration> = (0..11u8)
                .map(|n| {
                    pair.put(b"f", &[n; 500]);
                    if warm_wanted {
                        await_warm(&puller, &pair);
                    } else {
                        // In one breath: no warm one can be started between.
                        let mut state = lock(&puller.shared.state);
                        puller.shared.dismiss(&mut state);
                        state.rest_until = Instant::now() + Duration::from_secs(5);
                    }
                    let begun = Instant::now();
                    let fetched = puller.fetch(&["f"], silent).expect("fetched");
                    let took = begun.elapsed();
                    assert_eq!(fetched.warm, warm_wanted);
                    assert_eq!(pair.got(b"f"), [n; 500]);
                    lock(&puller.shared.state).rest_until = Instant::now();
                    puller.shared.changed.notify_all();
                    took
                })
                .collect();
            times.sort();
            times
        };
        for (what, times) in [("warm", of(true)), ("cold", of(false))] {
            println!(
                "FIGURE rsync, one file of 500 bytes, {what}: median {:?}, least {:?}, most {:?}",
                times[5], times[0], times[10]
            );
        }
        let mut paths = vec![];
        for n in 0..10_000usize {
            let path = format!("many/d{}/f{n}", n / 100).into_bytes();
            pair.put(&path, &vec![n as u8; 200 + n % 1_800]);
            paths.push(path);
        }
        await_warm(&puller, &pair);
        let begun = Instant::now();
        let fetched = puller.fetch(&paths, silent).expect("fetched");
        let took = begun.elapsed();
        assert_eq!(fetched.missing, Vec::<usize>::new());
        println!("FIGURE rsync, 10,000 files, {} bytes, warm: {took:?}", fetched.bytes);
    }
}
