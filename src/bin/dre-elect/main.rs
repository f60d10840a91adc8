//! dre-elect (`dre.service`): decides which of the two nodes is active.
//!
//! One loop on the main thread: heartbeats, pings, the lease stream, time. Whatever may block (D-Bus, the journal,
//! sd_notify, the control socket, the disk) has a thread of its own and is spoken to by channels that never wait. The
//! loop's turn feeds heartbeats, lease and watchdog alike.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dre::config::{self, HostFindings, Settings};
use dre::database::Word;
use dre::logic::group;
use dre::logic::node::{Action, Event, Node, Target};
use dre::logic::time::Moment;
use dre::logic::wire::{Codec, Role};
use dre::notice::Notice;
use dre::shell::clock::{self, Alarm};
use dre::shell::control::{self, Request};
use dre::shell::inhibitor::{self, Release};
use dre::shell::journal::Journal;
use dre::shell::log_control;
use dre::shell::manager::{Fact, Manager, Watched};
use dre::shell::notify::{self, Notify};
use dre::shell::ping::{Pinger, Pong};
use dre::shell::realtime;
use dre::shell::state::{self, Keeper};
use dre::shell::stream::{Listener, Stream};
use dre::shell::unit::{self, Watch};
use dre::snapshot::Service;
use dre::stream::Report;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

mod heartbeats;
mod setup;
mod shown;

use heartbeats::Heartbeats;
use setup::{Ground, Setup};
use shown::Shown;

/// Links that are closed are tried again this often.
const RETRY_LINKS: Duration = Duration::from_millis(500);
/// Turns of the loop that may go to the network in a row while something else waits.
const NETWORK_TURNS: u32 = 4;
/// What the machine does not have is looked for this often.
const HOST_AGAIN: Duration = Duration::from_secs(2);
/// Messages taken from the lease stream a turn.
const REPORTS_MAX: usize = 64;

fn main() -> ExitCode {
    let journal = match Journal::start("dre-elect", config::log_level()) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("dre-elect: cannot start the journal's thread: {error}");
            return ExitCode::from(70);
        }
    };
    // What the machine does not have yet may come: an interface that is late at boot must not keep the daemon down for good.
    let (settings, codec, host) = match load() {
        Ok(loaded) => loaded,
        Err(error) => {
            // Straight to stderr: the process ends, and the journal's thread with it.
            eprintln!("{}", error.lines());
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    for text in settings.warnings.iter().chain(&host.warnings) {
        journal.log(Notice::Trouble { text: text.clone() });
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dre-elect: cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    match runtime.block_on(run(settings, codec, host.missing(), &journal)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dre-elect: {error}");
            ExitCode::from(70)
        }
    }
}

/// Settings that hold together, what signs for them, and what this machine says to them.
type Loaded = Result<(Settings, Option<Codec>, HostFindings), config::Error>;

fn load() -> Loaded {
    let (settings, host) = config::load_here()?;
    let codec = codec(&settings)?;
    Ok((settings, codec, host))
}

/// The same for a reload of `old`: who reloads has just written the file, so what this machine does not have is refused, unless it
/// was missing before.
fn reload(old: &Settings) -> Loaded {
    let (settings, codec, host) = load()?;
    host.clone().new_against(&old.check_host(&config::host_facts())).present()?;
    Ok((settings, codec, host))
}

/// The key is read where there is a peer to speak with; a pair without one does not start.
fn codec(settings: &Settings) -> Result<Option<Codec>, config::Error> {
    let Some(peer) = &settings.peer else { return Ok(None) };
    let path = config::key_path();
    // "none" is the default of the credential in dre.service.
    let missing = std::fs::read_to_string(&path).map_or(true, |text| text.trim() == "none");
    if settings.standalone && missing {
        return Ok(None);
    }
    let key = config::read_key(&path)?;
    Ok(Some(Codec::new(key.bytes(), &settings.group, &settings.node, peer)))
}

/// The control socket as systemd passed it, or made here when run by hand; and the lease stream's, which is always made here:
/// dre-vip tries it every 20 ms, and must not start a service whose configuration was refused.
fn sockets(group: &str) -> io::Result<(OwnedFd, Listener, Listener)> {
    let mut passed: BTreeMap<String, OwnedFd> = BTreeMap::new();
    for (fd, name) in sd_notify::listen_fds_with_names().map_err(io::Error::other)? {
        // SAFETY: systemd passed these descriptors to this process and nobody else here has taken them.
        passed.insert(name, unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let runtime = config::runtime_directory(group);
    let lease = Listener::bind(&runtime.join("lease"))?;
    let database = Listener::bind_for(&runtime.join("database"), dre::database::AGENT)?;
    let control = match passed.remove("control") {
        Some(fd) => fd,
        None => {
            let path = runtime.join("control");
            let _ = std::fs::remove_file(&path);
            std::os::unix::net::UnixListener::bind(path)?.into()
        }
    };
    Ok((control, lease, database))
}

/// As `BusName=` of the unit says: a group but `dre` has a name below it.
fn bus_name(group: &str) -> String {
    let plain = "org.dre.Elect";
    if group == group::PLAIN { plain.into() } else { format!("{plain}.{group}") }
}

struct Elect {
    settings: Settings,
    node: Node,
    heartbeats: Heartbeats,
    setup: TipcSetup,
    pinger: Pinger,
    manager: Manager,
    keeper: Keeper,
    journal: Journal,
    notify: Notify,
    stream: Option<Stream>,
    /// To dre-mysql.
    agent: Option<Stream>,
    actions: Vec<Action>,
    /// systemd's words for the units of `services.active`, `standby`, `both`.
    words: Vec<String>,
    shown: Arc<Shown>,
    changed: watch::Sender<u64>,
    publish_at: Moment,
    said: String,
    takeover: Option<String>,
    inhibitor: Release,
    /// systemd asked for the end, not only for the role.
    terminated: bool,
    done: bool,
    /// The way of the thread that watches for what the machine does not have, and the number of the newest.
    host_tell: mpsc::Sender<(u64, Option<String>)>,
    host_watch: Arc<AtomicU64>,
}

/// dre-tipc.service, where TIPC is configured: what is known of it, and the thread that watches it.
struct TipcSetup {
    state: Setup,
    watch: Option<Watch>,
    facts: mpsc::Sender<unit::Fact>,
    /// Why the wire cannot be looked at, as it was last said.
    blind: Option<String>,
}

impl TipcSetup {
    /// The configuration is another one, or the first.
    fn renew(&mut self, settings: &Settings, journal: &Journal, now: Moment) {
        self.state.renew(now);
        // Once started it goes on: with another transport nothing is asked and nothing is made of what it says.
        if settings.tipc.is_some() && self.watch.is_none() {
            match Watch::start("dre-tipc.service", self.facts.clone()) {
                Ok(watch) => self.watch = Some(watch),
                Err(error) => journal.log(Notice::Trouble {
                    text: format!("dre-tipc.service is not watched: no thread for it: {error}"),
                }),
            }
        }
    }
}

/// In the order in which the core counts them.
fn watched(settings: &Settings) -> Vec<Watched> {
    let s = &settings.services;
    let all = [(&s.active, Some(Target::Active)), (&s.standby, Some(Target::Standby)), (&s.both, None)];
    all.into_iter()
        .flat_map(|(units, with)| units.iter().map(move |name| Watched { name: name.clone(), with }))
        .collect()
}

impl Elect {
    fn event(&mut self, event: Event<'_>) {
        self.node.handle(clock::now(), event, &mut self.actions);
        self.act();
    }

    /// Carries out what the machine said, in its order; what is only told comes after all that is done: an order to open the gate must
    /// not wait for sentences.
    fn act(&mut self) {
        let mut told = vec![];
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            if self.journal.is_debug() && !matches!(action, Action::Send { .. }) {
                self.journal.log(Notice::Detail { text: format!("{action:?}") });
            }
            match action {
                Action::Send { link, bytes } => self.heartbeats.send(link, &bytes[..], clock::now()),
                Action::Ping => self.pinger.send(self.settings.heartbeat.dead_after() / 2),
                Action::Order(order) => {
                    if let Some(stream) = &mut self.stream
                        && stream.send(&order).is_err()
                    {
                        self.stream = None;
                        self.node.handle(clock::now(), Event::Stream { open: false }, &mut self.actions);
                    }
                }
                Action::Charge(charge) => {
                    if let Some(agent) = &mut self.agent
                        && agent.send(&charge).is_err()
                    {
                        self.agent = None;
                        let closed = Event::DatabaseStream { open: false };
                        self.node.handle(clock::now(), closed, &mut self.actions);
                    }
                }
                Action::Target(target) => self.manager.role(target),
                Action::KeepTerm(term) => self.keeper.keep(term),
                Action::Exit => {
                    // Handed over before a shutdown: the process stays until systemd stops it, or it would be restarted.
                    self.inhibitor.release();
                    self.done = self.terminated;
                }
                Action::Moved { .. }
                | Action::Suspected { .. }
                | Action::Raised { .. }
                | Action::Cleared { .. } => told.push(action),
            }
        }
        for action in told {
            self.tell(action);
        }
        if self.actions.is_empty() {
            // Its room serves the next turn.
            self.actions = actions;
        } else {
            self.act();
        }
    }

    fn tell(&mut self, action: Action) {
        self.publish_at = Moment::ZERO;
        // What follows it is told soon as well: the gap of a takeover, the VIPs that are held.
        self.shown.looked(clock::now());
        self.journal.log(match action {
            Action::Moved { from, to, rule, term } => {
                let evidence = self.node.grounds(clock::now(), rule);
                Notice::RoleChanged { from: from.word(), to: to.word(), rule: rule.word(), term, evidence }
            }
            Action::Suspected { withdrawn, silent } => Notice::Suspected {
                withdrawn,
                silent_us: u64::try_from(silent.as_micros()).unwrap_or(u64::MAX),
                at_us: clock::wall_us(),
            },
            Action::Raised { alarm, text } => {
                Notice::AlarmRaised { alarm: alarm.name.into(), subject: alarm.subject, text }
            }
            Action::Cleared { alarm } => {
                Notice::AlarmCleared { alarm: alarm.name.into(), subject: alarm.subject }
            }
            done => Notice::Detail { text: format!("{done:?}") },
        });
    }

    fn publish(&mut self, now: Moment) {
        if now < self.publish_at {
            return;
        }
        let mut status = self.node.status(now, clock::rfc3339);
        let units = watched(&self.settings);
        status.services = units
            .into_iter()
            .zip(&self.words)
            .map(|(unit, state)| Service {
                unit: unit.name,
                role: unit.with.map_or("both", Target::word).into(),
                state: state.clone(),
            })
            .collect();
        if let Some(takeover) = &status.last_takeover
            && self.takeover.as_ref() != Some(&takeover.at)
        {
            self.takeover = Some(takeover.at.clone());
            let (here, gap_us, rule) = (takeover.here, takeover.gap_us, takeover.rule.clone());
            self.journal.log(Notice::TakenOver { here, gap_us, rule });
        }
        let line = self.node.status_line(now);
        if line != self.said {
            self.notify.status(&line);
            self.said = line;
        }
        self.publish_at = self.shown.put(status, now);
        self.changed.send_modify(|n| *n += 1);
    }

    fn reports(&mut self) {
        for _ in 0..REPORTS_MAX {
            let Some(stream) = &mut self.stream else { return };
            match stream.try_recv::<Report>() {
                Ok(None) => return,
                Ok(Some(report)) => self.event(Event::Report(report)),
                Err(_) => {
                    self.stream = None;
                    self.event(Event::Stream { open: false });
                }
            }
        }
    }

    fn agent(&mut self) {
        for _ in 0..REPORTS_MAX {
            let Some(agent) = &mut self.agent else { return };
            match agent.try_recv::<Word>() {
                Ok(None) => return,
                Ok(Some(word)) => self.event(Event::Word(word)),
                Err(_) => {
                    self.agent = None;
                    self.event(Event::DatabaseStream { open: false });
                }
            }
        }
    }

    fn datagrams(&mut self) {
        let mut heartbeats = std::mem::replace(&mut self.heartbeats, Heartbeats::Closed);
        let (node, mut actions) = (&mut self.node, std::mem::take(&mut self.actions));
        let mut waiting = vec![];
        heartbeats.drain(clock::now(), |event| {
            node.handle(clock::now(), event, &mut actions);
            waiting.append(&mut actions);
        });
        self.heartbeats = heartbeats;
        self.actions = waiting;
        self.act();
    }

    /// Opens again what is closed. `dre-tipc` is run again where that may help.
    fn retry(&mut self, now: Moment) {
        let appeared = self.heartbeats.retry(now);
        if self.settings.tipc.is_some()
            && let Some(watch) = &self.setup.watch
            && let Some(ask) = self.setup.state.ask(now, appeared)
        {
            watch.ask(ask);
        }
    }

    /// What keeps heartbeats and the arbitrator's answers from coming, as far as this machine can see it.
    fn troubles(&mut self) {
        let text = self.heartbeats.closed();
        self.event(Event::Trouble { name: "LinkClosed", text });
        let text = self.pinger.error();
        self.event(Event::Trouble { name: "ArbitratorPath", text });
        let now = clock::now();
        let heard = self.node.hears_peer(now);
        let seen = self.heartbeats.seen(now, heard).unwrap_or_default();
        self.event(Event::Trouble { name: "TipcStrange", text: seen.strange });
        self.event(Event::Trouble { name: "TipcMiscabled", text: seen.crossed });
        if seen.refused != self.setup.blind {
            self.setup.blind.clone_from(&seen.refused);
            seen.refused.into_iter().for_each(|text| self.journal.log(Notice::Trouble { text }));
        }
        let text = self.settings.tipc.as_ref().and_then(|wanted| {
            let (address, missing) = (self.heartbeats.address(), self.heartbeats.missing());
            self.setup.state.trouble(now, &Ground { wanted, address, missing })
        });
        self.event(Event::Trouble { name: "TipcSetup", text });
    }

    /// Other sockets: what was said by the old ones is no fact of the new ones'.
    fn reopen(&mut self, settings: &Settings, now: Moment) {
        self.heartbeats = Heartbeats::open(settings, now);
        self.event(Event::KernelSilent);
        for name in heartbeats::TROUBLES {
            self.event(Event::Trouble { name, text: None });
        }
    }

    fn fact(&mut self, fact: Fact) {
        match fact {
            Fact::Connected(connected) => self.event(Event::Manager { connected }),
            Fact::Unit { index, state, word } => {
                if let Some(slot) = self.words.get_mut(index) {
                    *slot = word;
                }
                self.publish_at = Moment::ZERO;
                self.event(Event::Unit { index, state });
            }
            Fact::Unbound(units) => {
                let text = (!units.is_empty()).then(|| {
                    format!(
                        "nothing stops {} when the role goes: systemd has no drop-in of dre for it; systemctl daemon-reload",
                        units.join(", ")
                    )
                });
                self.event(Event::Trouble { name: "ServiceUnbound", text });
            }
            Fact::Target { target, failed } => {
                if let Some(result) = &failed {
                    let target = format!(
                        "{}.target",
                        group::unit(&format!("dre-{}", target.word()), &self.settings.group)
                    );
                    self.journal.log(Notice::TargetFailed { target, result: result.clone() });
                }
                self.event(Event::Target { target, failed });
            }
        }
    }

    fn request(&mut self, request: Request) {
        let asked = format!("{:?}", request.command);
        let answer = self.node.command(clock::now(), request.command, &mut self.actions);
        self.act();
        if let Err(reason) = &answer {
            self.journal.log(Notice::Refused { asked, reason: reason.clone() });
        }
        self.publish_at = Moment::ZERO;
        self.publish(clock::now());
        let _ = request.reply.send(answer);
    }

    /// A bad file leaves the old one in force; a good one is no change of role.
    fn reload(&mut self, loaded: Loaded, pongs: &mut mpsc::Receiver<Pong>) {
        match loaded {
            Err(error) => {
                let text = format!(
                    "the new configuration is refused, the old one stays in force: {}",
                    error.lines()
                );
                self.journal.log(Notice::ConfigRejected { text });
                // Until a good one comes: a line in the journal is no state.
                let text = format!(
                    "the configuration on disk was refused at the last reload and is not in force ({}); drectl config check, \
                     then: systemctl reload {}",
                    error.first(),
                    group::unit("dre", &self.settings.group)
                );
                self.event(Event::Trouble { name: "ConfigRejected", text: Some(text) });
            }
            Ok((settings, codec, host)) => {
                let now = clock::now();
                if Heartbeats::differ(&self.settings, &settings) {
                    self.reopen(&settings, now);
                }
                self.setup.renew(&settings, &self.journal, now);
                if settings.arbitrator != self.settings.arbitrator {
                    (self.pinger, *pongs) = Pinger::new(settings.arbitrator.as_ref());
                }
                if settings.services != self.settings.services {
                    let units = watched(&settings);
                    self.words = vec![String::new(); units.len()];
                    self.manager.watch(units);
                }
                self.node.reload(now, settings.setup(), codec, &mut self.actions);
                self.settings = settings;
                self.act();
                self.event(Event::Trouble { name: "ConfigRejected", text: None });
                for text in self.settings.warnings.iter().chain(&host.warnings) {
                    self.journal.log(Notice::Trouble { text: text.clone() });
                }
                self.host(host.missing());
                self.journal
                    .log(Notice::ConfigReloaded { text: "configuration reloaded, no change of role".into() });
            }
        }
        self.notify.ready();
    }

    /// What this machine does not have; looked at again until it has it, on a thread of its own, because a machine with ten
    /// thousand addresses takes its time to list them.
    fn host(&mut self, missing: Option<String>) {
        let number = self.host_watch.fetch_add(1, Ordering::Relaxed) + 1;
        if missing.is_some() {
            let (settings, tell) = (self.settings.clone(), self.host_tell.clone());
            let newest = Arc::clone(&self.host_watch);
            let watch = move || {
                let mut left = true;
                while left && newest.load(Ordering::Relaxed) == number {
                    std::thread::sleep(HOST_AGAIN);
                    let missing = settings.check_host(&config::host_facts()).missing();
                    left = missing.is_some();
                    if tell.blocking_send((number, missing)).is_err() {
                        return;
                    }
                }
            };
            if let Err(error) = std::thread::Builder::new().name("host".into()).spawn(watch) {
                let text = format!("cannot watch for interfaces that are missing: {error}");
                self.journal.log(Notice::Trouble { text });
            }
        }
        self.event(Event::Trouble { name: "InterfaceMissing", text: missing });
    }
}

async fn run(
    settings: Settings,
    codec: Option<Codec>,
    missing: Option<String>,
    journal: &Journal,
) -> io::Result<()> {
    let notify = Notify::start()?;
    for refused in realtime::take(realtime::ELECT) {
        journal.log(Notice::Trouble { text: refused });
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (control_fd, lease, database) = sockets(&settings.group)?;
    let mut alarm = Alarm::new()?;

    let state_dir = std::env::var_os("STATE_DIRECTORY")
        .map_or_else(|| Path::new("/var/lib").join(group::directory(&settings.group)), PathBuf::from);
    let term = state::term(&state_dir);
    let restarted = state::restarted(&config::runtime_directory(&settings.group));
    let log = journal.clone();
    let keeper = Keeper::start(&state_dir, move |text| log.log(Notice::Trouble { text }))?;
    let mut session = [0; 8];
    getrandom::fill(&mut session).map_err(|error| io::Error::other(error.to_string()))?;
    let session = u64::from_ne_bytes(session) | 1;

    log_control::start(journal.clone(), "dre-elect", bus_name(&settings.group))?;
    let (inhibitor, mut shutdowns) = inhibitor::start(group::unit("dre", &settings.group))?;
    let units = watched(&settings);
    let words = vec![String::new(); units.len()];
    let (manager, mut facts) = Manager::start(&settings.group, units)?;
    let (pinger, mut pongs) = Pinger::new(settings.arbitrator.as_ref());
    let begun = clock::now();
    let heartbeats = Heartbeats::open(&settings, begun);
    let mut actions = vec![];
    let node = Node::new(begun, settings.setup(), codec, session, term, restarted, &mut actions);
    let shown = Arc::new(Shown::new(node.status(begun, clock::rfc3339), begun));
    let (changed, watcher) = watch::channel(0);
    let (requests, mut inbox) = mpsc::channel::<Request>(64);
    let (host_tell, mut host) = mpsc::channel(1);
    let look = Arc::clone(&shown);
    let unit = group::unit("dre", &settings.group);
    control::serve(&unit, control_fd, move || look.look(), watcher, requests, journal.clone())?;

    let (unit_sender, mut unit_facts) = mpsc::channel(16);
    let mut setup = TipcSetup { state: Setup::new(begun), watch: None, facts: unit_sender, blind: None };
    setup.renew(&settings, journal, begun);

    let mut elect = Elect {
        settings,
        node,
        heartbeats,
        setup,
        pinger,
        manager,
        keeper,
        journal: journal.clone(),
        notify,
        stream: None,
        agent: None,
        actions,
        words,
        shown: Arc::clone(&shown),
        changed,
        publish_at: Moment::ZERO,
        said: String::new(),
        takeover: None,
        inhibitor,
        terminated: false,
        done: false,
        host_tell,
        host_watch: Arc::default(),
    };
    elect.act();
    elect.host(missing);
    // The first turn sends the first heartbeats.
    elect.event(Event::Tick);
    let text = format!("{} starts, session begun, term {term}", elect.settings.node);
    journal.log(Notice::Started { what: "dre-elect", text });
    elect.notify.ready();
    elect.publish(clock::now());

    let (read, mut reread) = mpsc::channel::<Loaded>(1);
    let watchdog = notify::watchdog_period();
    let (mut next_ping, mut next_retry) = (Moment::ZERO, Moment::ZERO);
    let mut network = 0;
    while !elect.done {
        let now = clock::now();
        if now >= next_retry {
            next_retry = now + RETRY_LINKS;
            elect.retry(now);
            elect.troubles();
            elect.node.wall_clock(clock::wall_ms());
        }
        if let Some(period) = watchdog
            && now >= next_ping
        {
            next_ping = now + period;
            elect.notify.watchdog();
        }
        elect.publish(now);
        let mut deadline = elect.node.next_deadline(now).min(elect.publish_at).min(next_retry);
        if watchdog.is_some() {
            deadline = deadline.min(next_ping);
        }
        // Network first, because a heartbeat or a report may be what the lease waits for; but not for ever: a flood of
        // datagrams must not keep an operator, systemd or dre-vip waiting.
        let others = network >= NETWORK_TURNS;
        network = if others { 0 } else { network + 1 };
        tokio::select! {
            biased;
            () = readable(elect.stream.as_ref()), if !others => elect.reports(),
            () = readable(elect.agent.as_ref()), if !others => elect.agent(),
            () = elect.heartbeats.readable(), if !others => elect.datagrams(),
            Some(pong) = pongs.recv(), if !others => {
                elect.event(Event::Pong { index: pong.index, sent: pong.sent, rtt: pong.rtt });
            }
            () = alarm.until(deadline) => elect.event(Event::Tick),
            accepted = lease.accept() => match accepted {
                Ok(stream) => {
                    if elect.stream.is_some() {
                        elect.event(Event::Stream { open: false });
                    }
                    elect.stream = Some(stream);
                    elect.event(Event::Stream { open: true });
                }
                Err(error) => journal.log(Notice::Trouble { text: format!("lease stream refused: {error}") }),
            },
            accepted = database.accept() => match accepted {
                Ok(agent) => {
                    if elect.agent.is_some() {
                        elect.event(Event::DatabaseStream { open: false });
                    }
                    elect.agent = Some(agent);
                    elect.event(Event::DatabaseStream { open: true });
                }
                Err(error) => {
                    journal.log(Notice::Trouble { text: format!("database stream refused: {error}") });
                }
            },
            _ = terminate.recv() => elect.stop(),
            _ = interrupt.recv() => elect.stop(),
            Some(begins) = shutdowns.recv() => elect.shut_down(begins),
            Some(fact) = facts.recv() => elect.fact(fact),
            Some(fact) = unit_facts.recv() => {
                elect.setup.state.hear(fact);
                next_retry = Moment::ZERO;
            }
            () = shown.wanted() => elect.publish_at = Moment::ZERO,
            Some(request) = inbox.recv() => elect.request(request),
            _ = hangup.recv() => {
                elect.notify.reloading();
                let unit = group::unit("dre", &elect.settings.group);
                let (read, old) = (read.clone(), elect.settings.clone());
                // Files may hang: read and checked on a thread of its own, taken over by the loop.
                let job = move || drop(read.blocking_send(reload(&old)));
                if let Err(error) = std::thread::Builder::new().name("reload".into()).spawn(job) {
                    let text = format!(
                        "no thread for a reload ({error}): the old configuration stays in force; systemctl reload {unit} again"
                    );
                    journal.log(Notice::ConfigRejected { text });
                    elect.notify.ready();
                }
            }
            Some(loaded) = reread.recv() => elect.reload(loaded, &mut pongs),
            Some((number, missing)) = host.recv() => {
                if number == elect.host_watch.load(Ordering::Relaxed) {
                    elect.event(Event::Trouble { name: "InterfaceMissing", text: missing });
                }
            }
            () = std::future::ready(()), if others => {}
        }
    }
    journal.log(Notice::Stopping { text: format!("dre-elect stops as {}", elect.node.role().word()) });
    // The journal's thread gets its moment: nothing is held any more.
    tokio::time::sleep(Duration::from_millis(20)).await;
    Ok(())
}

impl Elect {
    /// The machine is about to go down: the role goes first, while every unit still runs. Or it was called off.
    fn shut_down(&mut self, begins: bool) {
        let text = if begins {
            "the machine goes down: the role is handed over first"
        } else {
            "the machine does not go down after all: this node takes part again"
        };
        self.journal.log(Notice::Stopping { text: text.into() });
        if begins {
            self.event(Event::Stop);
        } else if !self.terminated {
            self.event(Event::Stay);
        }
    }

    fn stop(&mut self) {
        self.terminated = true;
        self.notify.stopping();
        if self.node.role() == Role::Active {
            self.journal.log(Notice::Stopping { text: "stopping: the role is handed over first".into() });
        }
        self.event(Event::Stop);
    }
}

async fn readable(stream: Option<&Stream>) {
    match stream {
        Some(stream) => drop(stream.readable().await),
        None => std::future::pending().await,
    }
}
