//! dre-sync (`dre-sync.service`): the rules files, the same on both nodes.
//!
//! ```text
//!   main thread: sessions with the peer, watchdog, STATUS=      `control`: Varlink io.dre.Rules
//!   a set: `worker` (looks, gives, takes in, publishes) ◀── `watch` (drains inotify, nothing else)
//! ```
//!
//! Independent of the election: whoever is ACTIVE, both nodes may be edited. `dre-sync pipe ADDRESS` is what rsync is made to
//! connect by where the content is encrypted too.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use dre::config::sync::{Set, Sync};
use dre::config::{self, Key};
use dre::logic::sync::talk::Take;
use dre::logic::sync::version::Side;
use dre::notice::{Notice, Priority};
use dre::rules::{Answer, Ask, RulesStatus};
use dre::shell::clock;
use dre::shell::journal::Journal;
use dre::shell::notify::{self, Notify};
use dre::shell::secure::{self, Listener, Pass};
use dre::shell::{rsync, rules_control};
use dre::snapshot::Alarm;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

mod command;
mod sessions;
mod worker;

use sessions::Talk;
use worker::{Around, Job, Shared, Worker};

/// A worker that was ended by its store or its disk is started anew after this.
const AGAIN: Duration = Duration::from_secs(1);
/// A worker that stands still for longer than anything it does in one piece may take (a file of some GiB to hash).
const STUCK: Duration = Duration::from_secs(120);
const STATUS_EVERY: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, ..) => daemon(),
        (Some("pipe"), Some(address), Some(port)) => pipe(&address, &port),
        _ => {
            eprintln!("dre-sync: systemd runs this as dre-sync.service; see \"drectl rules --help\"");
            ExitCode::from(64)
        }
    }
}

/// Everything that was read, or what does not hold.
struct Loaded {
    group: String,
    sync: Sync,
    key: Key,
}

fn load() -> Result<Loaded, config::Error> {
    let sync = config::sync::load()?.apart()?;
    let key = config::read_key(&config::key_path())?;
    Ok(Loaded { group: config::group(), sync, key })
}

fn daemon() -> ExitCode {
    let level =
        std::env::var("DRE_LOG_LEVEL").ok().and_then(|w| Priority::from_word(&w)).unwrap_or(Priority::Info);
    let journal = match Journal::start("dre-sync", level) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("dre-sync: cannot start the journal's thread: {error}");
            return ExitCode::from(70);
        }
    };
    let loaded = match load() {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{}", error.lines());
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dre-sync: cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    match tokio::task::LocalSet::new().block_on(&runtime, run(loaded, &journal)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dre-sync: {error}");
            ExitCode::from(70)
        }
    }
}

fn directory(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| Path::new(default).into(), PathBuf::from)
}

/// One set: its worker's inbox and what it shows.
pub struct Handle {
    pub name: String,
    pub shared: Arc<Shared>,
    inbox: Sender<Job>,
    thread: std::sync::Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Handle {
    /// A worker that has ended takes nothing more; it is ended only when everything is.
    pub fn send(&self, job: Job) {
        let _ = self.inbox.send(job);
    }

    fn start(set: Set, around: Around, anew: watch::Sender<u64>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(&set));
        let (inbox, jobs) = channel();
        let (stir, seen, name) = (inbox.clone(), Arc::clone(&shared), set.name.clone());
        let thread = std::thread::Builder::new()
            .name(format!("set {name}"))
            .spawn(move || keep_up(&set, &around, &seen, jobs, &stir, &anew))?;
        Ok(Self { name, shared, inbox, thread: std::sync::Mutex::new(Some(thread)) })
    }

    /// Asks the worker to stop; its thread, once.
    fn stop(&self) -> Option<std::thread::JoinHandle<()>> {
        self.send(Job::Stop);
        self.shared.stop_fetch();
        worker::lock(&self.thread).take()
    }
}

/// A worker, and the next one when it ended before its time.
fn keep_up(
    set: &Set,
    around: &Around,
    shared: &Arc<Shared>,
    mut jobs: Receiver<Job>,
    stir: &Sender<Job>,
    anew: &watch::Sender<u64>,
) {
    let mut said = String::new();
    loop {
        let ended = Worker::open(set, around, Arc::clone(shared), jobs, stir.clone()).and_then(|worker| {
            said.clear();
            // The conversations begin anew, with what this store knows.
            anew.send_modify(|n| *n += 1);
            worker.run()
        });
        let Err((fatal, back)) = ended else { return };
        jobs = back;
        let why = fatal.why();
        if said != why {
            around.journal.log(Notice::Trouble { text: format!("{}: {why}; opened anew", set.name) });
            why.clone_into(&mut said);
        }
        shared.is_down(set, &fatal, &around.changed);
        if !wait(&jobs, why) {
            return;
        }
    }
}

/// Answers whoever asks meanwhile; false: it is to stop.
fn wait(jobs: &Receiver<Job>, why: &str) -> bool {
    let until = Instant::now() + AGAIN;
    loop {
        match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(Job::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Ok(Job::Ask(_, reply)) => {
                let _ = reply.send(Answer::Refused(format!("the set cannot be used right now: {why}")));
            }
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return true,
        }
    }
}

/// The control socket systemd passed; made here when run by hand.
fn control_socket(runtime: &Path) -> io::Result<OwnedFd> {
    let passed: BTreeMap<String, i32> =
        sd_notify::listen_fds_with_names().map_err(io::Error::other)?.map(|(fd, name)| (name, fd)).collect();
    if let Some(fd) = passed.get("control") {
        // SAFETY: systemd passed this descriptor to this process and nobody else here has taken it.
        return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
    }
    let path = runtime.join("control");
    let _ = std::fs::remove_file(&path);
    Ok(std::os::unix::net::UnixListener::bind(path)?.into())
}

async fn run(mut loaded: Loaded, journal: &Journal) -> io::Result<()> {
    let notify = Notify::start()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let runtime = directory("RUNTIME_DIRECTORY", "/run/dre-sync");
    let state = directory("STATE_DIRECTORY", "/var/lib/dre-rules");
    let (changed, watcher) = watch::channel(0);
    let (asks, mut asked) = mpsc::channel::<(Ask, oneshot::Sender<Answer>)>(64);
    let status = Arc::new(std::sync::Mutex::new(RulesStatus::default()));
    let readable = Arc::clone(&status);
    rules_control::serve(
        control_socket(&runtime)?,
        move || worker::lock(&readable).clone(),
        watcher,
        asks,
        journal.clone(),
    )?;
    let watchdog = notify::watchdog_period();
    let (read, mut reread) = mpsc::channel::<Result<Loaded, config::Error>>(1);
    // A reload that does not hold leaves the old configuration in force, and is shown.
    let mut rejected: Option<String> = None;
    loop {
        let all = begin(&loaded, &runtime, &state, journal, &changed)?;
        let text = format!("{} sets, peer {}", all.talk.sets.len(), loaded.sync.peer);
        journal.log(Notice::Started { what: "dre-sync", text });
        notify.ready();
        let mut updates = changed.subscribe();
        let mut shown = Instant::now() - STATUS_EVERY;
        let mut pinged = Instant::now() - STUCK;
        let (mut said, mut next) = (String::new(), None);
        let period = watchdog.unwrap_or(STATUS_EVERY).min(STATUS_EVERY);
        while next.is_none() {
            all.show(&status, rejected.as_deref());
            if shown.elapsed() >= STATUS_EVERY {
                shown = Instant::now();
                let line = all.line();
                if line != said {
                    notify.status(&line);
                    said = line;
                }
            }
            if pinged.elapsed() >= period && !all.is_stuck() {
                pinged = Instant::now();
                notify.watchdog();
            }
            tokio::select! {
                _ = updates.changed() => {}
                () = tokio::time::sleep(period) => {}
                Some((ask, reply)) = asked.recv() => all.ask(ask, reply),
                _ = hangup.recv() => {
                    notify.reloading();
                    let read = read.clone();
                    std::thread::Builder::new().name("reload".into()).spawn(move || drop(read.blocking_send(load())))?;
                }
                Some(again) = reread.recv() => match again {
                    Ok(again) => next = Some(Some(again)),
                    Err(error) => {
                        let text = format!(
                            "the new configuration is refused, the old one stays in force: {}",
                            error.lines()
                        );
                        rejected = Some(format!(
                            "the configuration on disk was refused at the last reload and is not in force ({}); drectl config \
                             check, then: systemctl reload dre-sync",
                            error.first()
                        ));
                        journal.log(Notice::ConfigRejected { text });
                        notify.ready();
                    }
                },
                _ = terminate.recv() => next = Some(None),
                _ = interrupt.recv() => next = Some(None),
            }
        }
        if matches!(next, Some(None)) {
            notify.stopping();
        }
        all.end(&notify).await;
        match next.flatten() {
            Some(again) => {
                (loaded, rejected) = (again, None);
                journal.log(Notice::ConfigReloaded { text: "configuration reloaded".into() });
            }
            None => {
                journal.log(Notice::Stopping { text: "dre-sync stops".into() });
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Ok(());
            }
        }
    }
}

/// Everything that runs with one configuration.
struct All {
    node: String,
    peer: String,
    talk: Rc<Talk>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

fn begin(
    loaded: &Loaded,
    runtime: &Path,
    state: &Path,
    journal: &Journal,
    changed: &watch::Sender<u64>,
) -> io::Result<All> {
    let Loaded { group, sync, key } = loaded;
    let (node, peer) = (sync.node.clone(), sync.peer.clone());
    for text in &sync.warnings {
        journal.log(Notice::Trouble { text: text.clone() });
    }
    let secret = rsync::secret(key.bytes(), group);
    let modules: Vec<rsync::Module<'_>> =
        sync.sets.iter().map(|set| rsync::Module { name: &set.name, root: &set.root }).collect();
    // Through the pipe rsync's peer has no address: the pipe has proved who it is.
    let peers: Vec<IpAddr> =
        if sync.encrypt { vec![] } else { sync.links.iter().map(|link| link.peer).collect() };
    rsync::daemon_files(runtime, &modules, &secret, &peers)?;
    let through = if sync.encrypt { Some(through(sync)?) } else { None };
    let around = Around {
        node: node.clone(),
        peer: peer.clone(),
        side: if node < peer { Side::First } else { Side::Second },
        state: state.to_path_buf(),
        runtime: runtime.to_path_buf(),
        journal: journal.clone(),
        changed: changed.clone(),
        secret,
        through,
    };
    let anew = watch::Sender::new(0);
    let sets: io::Result<Vec<Handle>> =
        sync.sets.iter().map(|set| Handle::start(set.clone(), around.clone(), anew.clone())).collect();
    let pass = Pass::new(key.bytes(), group, &node, &peer);
    let talk = Rc::new(Talk::new(
        (node.clone(), peer.clone()),
        sync.links.clone(),
        (sync.port, sync.rsync_port),
        pass,
        Rc::new(sets?),
        journal.clone(),
        sync.encrypt.then(|| runtime.to_path_buf()),
        anew,
        changed.clone(),
    ));
    let listener = Listener::bind(&talk.doors(), Arc::clone(&talk.pass))?;
    let tasks = vec![
        tokio::task::spawn_local(sessions::take(Rc::clone(&talk))),
        tokio::task::spawn_local(sessions::listen(Rc::clone(&talk), listener)),
    ];
    Ok(All { node, peer, talk, tasks })
}

/// rsync is made to connect by this same program, which asks the peer for a pipe. `%H` is the peer's address.
fn through(sync: &Sync) -> io::Result<rsync::Through> {
    let program = std::env::current_exe()?;
    let keep = ["CREDENTIALS_DIRECTORY", "DRE_CONFDIR", "AVAMGR_CONFDIR", "DRE_GROUP"];
    let environment =
        keep.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect();
    Ok(rsync::Through { command: format!("exec {} pipe %H {}", program.display(), sync.port), environment })
}

impl All {
    fn is_stuck(&self) -> bool {
        let now = clock::now();
        self.talk.sets.iter().any(|set| set.shared.is_stuck(now, STUCK))
    }

    fn show(&self, status: &std::sync::Mutex<RulesStatus>, rejected: Option<&str>) {
        let seen = self.talk.seen.borrow().clone();
        let mut alarms: Vec<Alarm> = self.talk.sets.iter().filter_map(|set| set.shared.alarm()).collect();
        if let Some(text) = rejected {
            alarms.push(Alarm {
                name: "RulesConfigRejected".into(),
                subject: String::new(),
                text: text.into(),
                since: String::new(),
            });
        }
        let new = RulesStatus {
            node: self.node.clone(),
            peer: self.peer.clone(),
            connected: seen.link.is_some(),
            link: seen.link.unwrap_or_default(),
            skew_ms: seen.skew_ns / 1_000_000,
            sets: self.talk.sets.iter().map(|set| set.shared.status()).collect(),
            alarms,
            version: env!("CARGO_PKG_VERSION").into(),
        };
        *worker::lock(status) = new;
    }

    /// `STATUS=`
    fn line(&self) -> String {
        let seen = self.talk.seen.borrow();
        let sets: Vec<String> = self
            .talk
            .sets
            .iter()
            .map(|set| {
                let status = set.shared.status();
                format!("{} {}", status.name, status.state)
            })
            .collect();
        let peer = match (&seen.link, &seen.trouble) {
            (Some(link), _) => format!("peer {} by {link}", self.peer),
            (None, Some(why)) => format!("peer {} away ({why})", self.peer),
            (None, None) => format!("peer {} away", self.peer),
        };
        format!("{} · {peer}", sets.join(" · "))
    }

    fn ask(&self, ask: Ask, reply: oneshot::Sender<Answer>) {
        let (Ask::Verify { set, .. } | Ask::Conflicts { set } | Ask::Trash { set }) = &ask else {
            let (Ask::Restore { set, .. }
            | Ask::Drop { set, .. }
            | Ask::AcceptDeletes { set }
            | Ask::Force { set }) = &ask
            else {
                return;
            };
            match self.talk.sets.iter().find(|handle| handle.name == *set) {
                Some(handle) => handle.send(Job::Ask(ask, reply)),
                None => drop(reply.send(Answer::Refused(self.no_set(set)))),
            }
            return;
        };
        if let Some(name) = set
            && !self.talk.sets.iter().any(|handle| handle.name == *name)
        {
            let _ = reply.send(Answer::Refused(self.no_set(name)));
            return;
        }
        let mut answers = vec![];
        for handle in self.talk.sets.iter().filter(|h| set.as_ref().is_none_or(|name| *name == h.name)) {
            let (one, answer) = oneshot::channel();
            handle.send(Job::Ask(ask.clone(), one));
            answers.push(answer);
        }
        tokio::task::spawn_local(async move {
            let (mut kept, mut lines, mut refused) = (vec![], vec![], None);
            for answer in answers {
                match answer.await {
                    Ok(Answer::Kept(more)) => kept.extend(more),
                    Ok(Answer::Done(line)) => lines.push(line),
                    Ok(Answer::Refused(why)) => refused = Some(why),
                    Err(_) => refused = Some("the set was opened anew meanwhile; ask again".into()),
                }
            }
            let _ = reply.send(match refused {
                Some(why) => Answer::Refused(why),
                None if lines.is_empty() => {
                    // The newest first among all sets: an id begins with its time.
                    kept.sort_by(|a, b| b.id.cmp(&a.id));
                    Answer::Kept(kept)
                }
                None => Answer::Done(lines.join("\n")),
            });
        });
    }

    fn no_set(&self, name: &str) -> String {
        let all: Vec<&str> = self.talk.sets.iter().map(|set| set.name.as_str()).collect();
        format!("there is no set {name}; sync.toml has {}", all.join(", "))
    }

    /// Everything is over when this returns: what comes next binds the same addresses and opens the same databases.
    async fn end(self, notify: &Notify) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        let threads: Vec<_> = self.talk.sets.iter().filter_map(Handle::stop).collect();
        // One may be in the middle of a scan: not waited for in the loop, which feeds the watchdog.
        let ended = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        tokio::pin!(ended);
        let period = notify::watchdog_period().unwrap_or(STATUS_EVERY).min(STATUS_EVERY);
        while tokio::time::timeout(period, &mut ended).await.is_err() {
            notify.watchdog();
        }
    }
}

/// Between rsync, whose socket is our standard input and output, and the peer's rsync.
fn pipe(address: &str, port: &str) -> ExitCode {
    match piped(address, port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dre-sync pipe: {error}");
            ExitCode::from(70)
        }
    }
}

fn piped(address: &str, port: &str) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let peer: IpAddr = address.parse().map_err(|_| format!("{address} is no address"))?;
    let port: u16 = port.parse().map_err(|_| format!("{port} is no port"))?;
    let Loaded { group, sync, key } = load().map_err(|error| error.lines())?;
    let link = sync.links.iter().find(|link| link.peer == peer).ok_or(format!("{address} is on no link"))?;
    let pass = Pass::new(key.bytes(), &group, &sync.node, &sync.peer);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| words(&e))?;
    runtime.block_on(async {
        let own = own_end().map_err(|error| words(&error))?;
        let mut connection =
            secure::connect(link.local, SocketAddr::new(peer, port), &pass).await.map_err(|e| words(&e))?;
        connection.send(&Take::Pipe).await.map_err(|error| words(&error))?;
        let (mut own, mut other) = (own, connection.into_pipe());
        tokio::io::copy_bidirectional(&mut own, &mut other).await.map(drop).map_err(|error| words(&error))
    })
}

/// rsync gives its helper one socket for both ways.
fn own_end() -> io::Result<tokio::net::UnixStream> {
    // SAFETY: descriptor 0 is this process's own, and nothing else in it reads standard input.
    let stream = unsafe { std::os::unix::net::UnixStream::from_raw_fd(0) };
    stream.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_a_set_is_down_gets_an_answer_and_a_stop_is_heard() {
        let (send, jobs) = channel();
        let (reply, answer) = oneshot::channel();
        send.send(Job::Ask(Ask::Force { set: "re".into() }, reply)).expect("sent");
        send.send(Job::Stop).expect("sent");
        assert!(!wait(&jobs, "its disk is full"));
        let answer = answer.blocking_recv().expect("an answer");
        assert_eq!(answer, Answer::Refused("the set cannot be used right now: its disk is full".into()));
    }
}
