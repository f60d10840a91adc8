//! dre-mysql (`dre-mysql@GROUP.service`): makes a group's database server follow the role.
//!
//! ```text
//!   main thread: one loop: the pure agent (logic/db), the stream to dre-elect, the peer's agent, watchdog, STATUS=
//!                tasks: a connection that looks, one that does, the server's process
//!   `control`: Varlink io.dre.Database
//! ```
//!
//! Unprivileged: it logs in to the server over its local socket as who it is, and may have systemd kill that one unit.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dre::config::{self, Database, Settings};
use dre::database::{AGENT, Charge, DatabaseStatus, ELECT};
use dre::logic::db::agent::{Agent, Setup};
use dre::logic::db::facts::{Action, Command, Event};
use dre::logic::group;
use dre::logic::time::Moment;
use dre::notice::Notice;
use dre::shell::clock::{self, Alarm};
use dre::shell::database_control::{self, Asked};
use dre::shell::journal::Journal;
use dre::shell::notify::{self, Notify};
use dre::shell::secure::Pass;
use dre::shell::server_process;
use dre::shell::stream::{self, Stream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

mod agents;
mod record;
mod server;

use agents::{Agents, Heard};
use record::Keeper;
use server::{Server, Told};

/// dre-elect is tried again after this.
const RECONNECT: Duration = Duration::from_millis(20);
/// Messages taken from the stream a turn.
const CHARGES_MAX: usize = 64;
const STATUS_EVERY: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let journal = match Journal::start("dre-mysql", config::log_level()) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("dre-mysql: cannot start the journal's thread: {error}");
            return ExitCode::from(70);
        }
    };
    let (settings, pass) = match load() {
        Ok(loaded) => loaded,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dre-mysql: cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    match tokio::task::LocalSet::new().block_on(&runtime, run(&settings, pass, &journal)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dre-mysql: {error}");
            ExitCode::from(70)
        }
    }
}

/// The group's settings with a `[database]`, and what the peer's agent must prove.
fn load() -> Result<(Settings, Option<Pass>), String> {
    let settings = config::load().map_err(|error| error.lines())?;
    if settings.database.is_none() {
        return Err(format!(
            "dre-mysql: {} has no [database]: group {} has no server to look after; write one, or: systemctl daemon-reload && \
             systemctl stop dre-mysql@{}",
            config::file_of(&settings.group).display(),
            settings.group,
            settings.group
        ));
    }
    let Some(peer) = &settings.peer else { return Ok((settings, None)) };
    let key = config::read_key(&config::key_path()).map_err(|error| error.lines())?;
    let pass = Pass::of_database(key.bytes(), &settings.group, &settings.node, peer);
    Ok((settings, Some(pass)))
}

fn setup(settings: &Settings, database: &Database) -> Setup {
    Setup {
        durability: database.durability,
        max_lag: database.max_lag,
        relay_wait: database.relay_wait,
        on_relay_lost: database.on_relay_lost,
        keep_users: database.keep_users.clone(),
        dead_after: settings.heartbeat.dead_after(),
        group: settings.group.clone(),
        peer: settings.peer.clone().unwrap_or_default(),
    }
}

fn directory(variable: &str, default: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| Path::new(default).into(), PathBuf::from)
}

struct Daemon {
    agent: Agent,
    actions: Vec<Action>,
    stream: Option<Stream>,
    agents: Option<Agents>,
    server: Server,
    keeper: Keeper,
    journal: Journal,
    done: bool,
}

impl Daemon {
    fn event(&mut self, event: Event) {
        if self.journal.is_debug() && !matches!(event, Event::Tick) {
            self.journal.log(Notice::Detail { text: format!("{event:?}") });
        }
        self.agent.handle(clock::now(), event, &mut self.actions);
        self.act();
    }

    fn act(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            if self.journal.is_debug() {
                self.journal.log(Notice::Detail { text: format!("{action:?}") });
            }
            match action {
                Action::Probe { within } => self.server.look(within),
                Action::Do { id, op, within } => self.server.begin(id, op, within),
                Action::Forget { id } => self.server.forget(id),
                Action::Say(word) => {
                    // One that takes nothing has ended, or its reader hangs: what was lost is said anew on the next one.
                    if let Some(stream) = &mut self.stream
                        && let Err(error) = stream.send(&word.cut())
                    {
                        let text = format!("dre-elect takes no words: {error}");
                        self.journal.log(Notice::Trouble { text });
                        self.stream = None;
                        let closed = Event::Stream { open: false };
                        self.agent.handle(clock::now(), closed, &mut self.actions);
                    }
                }
                Action::Tell(tell) => {
                    if let Some(agents) = &self.agents {
                        agents.say(*tell);
                    }
                }
                Action::Keep(record) => self.keeper.keep(&record),
                Action::Note { priority, text } => {
                    self.journal.log(Notice::Database { priority, text });
                }
                Action::Exit => self.done = true,
            }
        }
        if !self.actions.is_empty() {
            self.act();
        }
    }

    /// An operator's word: what comes of it, or why nothing does.
    fn asked(&mut self, group: &str, command: Command) -> Result<String, String> {
        if let Some(why) = self.agent.refuses(&command) {
            return Err(why);
        }
        self.event(Event::Asked(command.clone()));
        Ok(match command {
            Command::Promote { force: true } => {
                let drectl = |words| group::command(group, words);
                format!(
                    "the next promotion here takes what this server has, whatever is missing, if it comes within 10 min; now: {}, or {}",
                    drectl("switchover"),
                    drectl("lease take")
                )
            }
            Command::Promote { force: false } => "the next promotion here is one like any other".into(),
            Command::AcceptErrant => {
                let accepted = self.agent.accepted();
                let which = accepted.map_or_else(String::new, |it| format!(" ({}: {})", it.count, it.which));
                format!(
                    "this server replicates again, its own transactions{which} stay, and no later ones are accepted with them; if the \
                     histories contradict each other, the applier stops with an error"
                )
            }
            Command::Reseeded => "what was kept of the old data is forgotten".into(),
        })
    }

    fn charges(&mut self) {
        for _ in 0..CHARGES_MAX {
            let Some(stream) = &mut self.stream else { return };
            match stream.try_recv::<Charge>() {
                Ok(None) => return,
                Ok(Some(charge)) => self.event(Event::Charged(charge)),
                Err(_) => {
                    self.stream = None;
                    self.event(Event::Stream { open: false });
                }
            }
        }
    }
}

async fn readable(stream: Option<&Stream>) {
    match stream {
        Some(stream) => drop(stream.readable().await),
        None => std::future::pending().await,
    }
}

async fn heard<T>(inbox: Option<&mut mpsc::UnboundedReceiver<T>>) -> Option<T> {
    match inbox {
        Some(inbox) => inbox.recv().await,
        None => std::future::pending().await,
    }
}

async fn run(settings: &Settings, pass: Option<Pass>, journal: &Journal) -> io::Result<()> {
    let Some(database) = &settings.database else { return Ok(()) };
    let notify = Notify::start()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (read, mut reread) = mpsc::channel(4);
    let runtime = directory("RUNTIME_DIRECTORY", &format!("/run/dre-mysql@{}", settings.group));
    let state = directory("STATE_DIRECTORY", &format!("/var/lib/dre-mysql@{}", settings.group));
    let lease = Path::new("/run").join(group::directory(&settings.group)).join("database");

    let elect = stream::user(ELECT);

    let (tell, mut told) = mpsc::unbounded_channel();
    let server = Server::start(&database.socket, AGENT, &database.unit, tell);
    let (there, mut process) = mpsc::unbounded_channel();
    tokio::task::spawn_local(server_process::watch(database.socket.clone(), there));

    let (hear, mut from_peer) = mpsc::unbounded_channel();
    let agents = match pass {
        Some(pass) => {
            let links = settings.addresses.clone();
            let donor = Path::new("/run/dre-donor").join(&settings.group);
            Some(Agents::start(links, database.agent_port, pass, &donor, hear, journal.clone())?)
        }
        None => None,
    };
    let has_peer = agents.is_some();

    let log = journal.clone();
    let keeper = Keeper::start(&state, move |text| log.log(Notice::Trouble { text }))?;
    let mut actions = vec![];
    let agent = Agent::new(clock::now(), setup(settings, database), record::read(&state), &mut actions);

    let shown = Arc::new(Mutex::new(DatabaseStatus::default()));
    let (changed, watcher) = watch::channel(0_u64);
    let (asks, mut asked) = mpsc::channel::<Asked>(16);
    let unit = format!("dre-mysql@{}", settings.group);
    let readers = Arc::clone(&shown);
    database_control::serve(
        &unit,
        control_socket(&runtime)?,
        move || readers.lock().map(|shown| shown.clone()).unwrap_or_default(),
        watcher,
        asks,
        journal.clone(),
    )?;

    let mut daemon = Daemon {
        agent,
        actions,
        stream: None,
        agents,
        server,
        keeper,
        journal: journal.clone(),
        done: false,
    };
    daemon.act();
    let text = format!("server at {}, unit {}", database.socket.display(), database.unit);
    journal.log(Notice::Started { what: "dre-mysql", text });
    notify.ready();
    let watchdog = notify::watchdog_period();
    let mut alarm = Alarm::new()?;
    let (mut next_ping, mut next_status, mut said) = (Moment::ZERO, Moment::ZERO, String::new());
    let mut health = "";
    while !daemon.done {
        let now = clock::now();
        if let Some(period) = watchdog
            && now >= next_ping
        {
            next_ping = now + period;
            notify.watchdog();
        }
        if now >= next_status || health != daemon.agent.health().word() {
            next_status = now + STATUS_EVERY;
            health = daemon.agent.health().word();
            let line = daemon.agent.status_line();
            if line != said {
                notify.status(&line);
                said = line;
            }
            let status = DatabaseStatus {
                group: settings.group.clone(),
                node: settings.node.clone(),
                ..daemon.agent.shown(now)
            };
            // The loop waits for no reader: the next turn has a newer one.
            if let Ok(mut shown) = shown.try_lock() {
                *shown = status;
            } else {
                next_status = now;
            }
            changed.send_modify(|n| *n += 1);
        }
        let mut deadline = daemon.agent.next_deadline(now).min(next_status);
        if watchdog.is_some() {
            deadline = deadline.min(next_ping);
        }
        let lost = daemon.stream.is_none();
        tokio::select! {
            biased;
            () = readable(daemon.stream.as_ref()) => daemon.charges(),
            Some(told) = told.recv() => match told {
                Told::Looked(result) => daemon.event(Event::Probed(result)),
                Told::Done { id, result } => daemon.event(Event::Done { id, result }),
            },
            Some(word) = heard(has_peer.then_some(&mut from_peer)) => match word {
                Heard::Told(tell) => daemon.event(Event::Told(tell)),
                Heard::Open(open) => daemon.event(Event::Channel { open }),
            },
            Some(running) = process.recv() => daemon.event(Event::Unit { running }),
            () = alarm.until(deadline) => daemon.event(Event::Tick),
            () = sleep(RECONNECT), if lost => {
                if let Ok(stream) = Stream::connect_as(&lease, elect) {
                    daemon.stream = Some(stream);
                    daemon.event(Event::Stream { open: true });
                }
            }
            Some((command, reply)) = asked.recv() => {
                let _ = reply.send(daemon.asked(&settings.group, command));
            }
            _ = hangup.recv() => {
                notify.reloading();
                let read = read.clone();
                // Files may hang: read and checked on a thread of its own, taken over by the loop.
                std::thread::Builder::new().name("reload".into()).spawn(move || drop(read.blocking_send(config::load())))?;
            }
            Some(loaded) = reread.recv() => {
                reload(&mut daemon, settings, loaded);
                notify.ready();
            }
            _ = terminate.recv() => { notify.stopping(); daemon.event(Event::Stop); }
            _ = interrupt.recv() => { notify.stopping(); daemon.event(Event::Stop); }
        }
    }
    journal.log(Notice::Stopping { text: "dre-mysql stops".into() });
    sleep(Duration::from_millis(20)).await;
    Ok(())
}

/// What can be changed without a new start is; what cannot is said. `running`: what this process was started with.
fn reload(daemon: &mut Daemon, running: &Settings, loaded: Result<Settings, config::Error>) {
    let settings = match loaded {
        Ok(settings) => settings,
        Err(error) => {
            let text =
                format!("the new configuration is refused, the old one stays in force: {}", error.lines());
            return daemon.journal.log(Notice::ConfigRejected { text });
        }
    };
    let (Some(new), Some(old)) = (&settings.database, &running.database) else {
        let text =
            format!("[database] is gone from the configuration; systemctl stop dre-mysql@{}", running.group);
        return daemon.journal.log(Notice::Trouble { text });
    };
    let starts_with = |settings: &Settings, database: &Database| {
        let paths = (database.socket.clone(), database.unit.clone(), database.agent_port);
        (paths, settings.addresses.clone(), settings.peer.clone())
    };
    if starts_with(&settings, new) != starts_with(running, old) {
        let text = format!(
            "the server's socket, unit or the agents' port or addresses differ from those it was started with: the standby first, \
             systemctl restart dre-mysql@{}",
            running.group
        );
        daemon.journal.log(Notice::Trouble { text });
    }
    daemon.agent.configure(setup(&settings, new));
    daemon.journal.log(Notice::ConfigReloaded { text: "configuration reloaded".into() });
}

/// For the group dre too.
fn control_socket(runtime: &Path) -> io::Result<std::os::fd::OwnedFd> {
    let path = runtime.join("control");
    let _ = std::fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener.into())
}
