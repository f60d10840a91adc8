//! systemd over D-Bus, on a thread of its own: starts the roles' targets, watches the managed units.
//!
//! ```text
//!   wishes ──▶ Course ──▶ StartUnit ──▶ systemd ──▶ JobRemoved, PropertiesChanged ──▶ pump ──▶ Course, look ──▶ facts
//!                                          bus ──▶ answers a question each second, or it hangs
//! ```
//!
//! The bus may hang, restart or be gone: the loop never knows more of it than facts from a channel. What was asked and
//! what came of it (`Course`) outlives a connection. The newest wish for a role is what is asked, again after each
//! reconnection; of older ones only this is kept: a role that was let go in between is let go in systemd too, or its
//! units would live on from one term into the next.
//!
//! Signals are taken off the connection by a task of their own and queued without a bound: zbus stops reading while one of its
//! queues is full, so a burst of signals during a call would keep that call's answer away.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zbus::proxy::CacheProperties;
use zbus::wire::{ObjectPath, OwnedObjectPath};
use zbus::{Connection, MatchRule, Message, MessageStream, connection};

use crate::logic::node::{Target, UnitState};

/// A method that takes longer is a manager that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// The bus itself answers at once, whatever systemd does: one that is silent for this long hangs, and a handover does not wait
/// for it.
const SILENT: Duration = Duration::from_secs(1);
const RECONNECT: Duration = Duration::from_millis(250);
/// Units are looked at again this often, against a signal that was lost; a target that was not reached is asked for again.
const RESYNC: Duration = Duration::from_secs(2);
/// Bindings change with a daemon-reload, which is told; this is against one that was missed.
const BOUND_AGAIN: u32 = 15;
/// How a job ended is told before it is missing from the list, on another channel: its word is waited for this long.
const WORD_FOLLOWS: Duration = Duration::from_millis(500);
/// The first pause after systemd refused to start a target; it doubles up to [`RESYNC`].
const REFUSED_PAUSE: Duration = Duration::from_millis(100);
/// Refusals are told when they last this long: after a restart of the bus polkit needs a moment to be back.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// name, description, load state, active state, sub state, followed unit, path, job, its type, its path
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn list_units_by_names(&self, names: &[&str]) -> zbus::Result<Vec<Listed>>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn binds_to(&self) -> zbus::Result<Vec<String>>;
    #[zbus(property)]
    fn part_of(&self) -> zbus::Result<Vec<String>>;
    #[zbus(property)]
    fn before(&self) -> zbus::Result<Vec<String>>;
}

/// A unit that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub name: String,
    /// Runs with this role, so it must carry the generator's drop-in; `None`: on both nodes.
    pub with: Option<Target>,
}

/// What the thread finds out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Connected(bool),
    /// A managed unit by its index in the watched list, with systemd's own word.
    Unit {
        index: usize,
        state: UnitState,
        word: String,
    },
    /// Units of a role that nothing stops when the role goes; told when it changes.
    Unbound(Vec<String>),
    /// A role's target was reached, or why not.
    Target {
        target: Target,
        failed: Option<String>,
    },
}

/// The newest wish, and how often the role was let go up to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    target: Option<Target>,
    releases: u64,
}

/// The loop's handle; never waits.
pub struct Manager {
    role: watch::Sender<Wanted>,
    units: watch::Sender<Vec<Watched>>,
}

impl Manager {
    /// `group`: `dre`, or a template group's name. Facts come out of the receiver.
    pub fn start(group: &str, units: Vec<Watched>) -> io::Result<(Self, mpsc::Receiver<Fact>)> {
        let (facts, receiver) = mpsc::channel(256);
        let (role, wanted) = watch::channel(Wanted::default());
        let (watched, list) = watch::channel(units);
        let name = |what: &str, suffix: &str| match group {
            "dre" => format!("dre-{what}.{suffix}"),
            other => format!("dre-{what}@{other}.{suffix}"),
        };
        let mut worker = Worker {
            targets: [name("active", "target"), name("standby", "target")],
            lease: name("lease", "service"),
            wanted,
            list,
            facts,
            course: Course::default(),
            units: vec![],
            unbound: None,
        };
        std::thread::Builder::new().name("systemd".into()).spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(worker.serve());
        })?;
        Ok((Self { role, units: watched }, receiver))
    }

    /// Start this role's target; the newest wish counts.
    pub fn role(&self, target: Target) {
        self.role.send_modify(|wanted| {
            wanted.target = Some(target);
            wanted.releases += u64::from(target == Target::Standby);
        });
    }

    pub fn watch(&self, units: Vec<Watched>) {
        self.units.send_replace(units);
    }
}

/// What systemd calls a unit's state, and what it is to the core. A unit that cannot be loaded is told as such, unless something
/// of it still runs.
fn classify<'a>(load: &'a str, active: &'a str) -> (UnitState, &'a str) {
    let missing = !matches!(load, "loaded" | "merged");
    match active {
        "inactive" if missing => (UnitState::Missing, load),
        "inactive" => (UnitState::Down, active),
        "failed" => (UnitState::Failed, active),
        "activating" => (UnitState::Starting, active),
        "deactivating" => (UnitState::Stopping, active),
        _ => (UnitState::Up, active),
    }
}

/// What is asked of systemd and what it has done of it. Pure: no bus, and the time comes as an argument.
#[derive(Debug, Default)]
struct Course {
    wanted: Wanted,
    /// Of [`Wanted::releases`], how many systemd has carried out.
    released: u64,
    /// The job that is waited for.
    asked: Option<(Target, String)>,
    /// It is not there any more, and how it ended was not heard yet.
    vanished: Option<Instant>,
    /// Reached by a job; nothing more to ask until the wish changes.
    settled: Option<Target>,
    /// Not before this.
    again: Option<Instant>,
    /// systemd refuses since, and the pause before the next try.
    refused: Option<(Instant, Duration)>,
}

impl Course {
    fn wish(&mut self, wanted: Wanted) {
        if wanted != self.wanted {
            self.wanted = wanted;
            self.settled = None;
            self.again = None;
        }
    }

    /// What to ask for now. A release that is owed goes first: the units of an earlier term go down before those of the
    /// new one start.
    fn next(&self, now: Instant) -> Option<Target> {
        let target = self.wanted.target?;
        let due = if self.released == self.wanted.releases { target } else { Target::Standby };
        let waits = self.asked.as_ref().is_some_and(|(asked, _)| *asked == due);
        let rests = self.again.is_some_and(|at| now < at);
        (!waits && !rests && self.settled != Some(due)).then_some(due)
    }

    /// systemd queued the job.
    fn asked(&mut self, target: Target, job: String) {
        self.asked = Some((target, job));
        self.vanished = None;
        self.settled = None;
        self.refused = None;
        self.again = None;
    }

    /// systemd refused to queue it; whether that has lasted long enough to be told.
    fn refused(&mut self, now: Instant) -> bool {
        let (since, pause) = self.refused.unwrap_or((now, REFUSED_PAUSE));
        self.refused = Some((since, (pause * 2).min(RESYNC)));
        self.again = Some(now + pause);
        now.duration_since(since) >= REFUSED_FOR
    }

    /// A job of one of the targets has ended. What is to be told: reached, or why not.
    fn ended(&mut self, now: Instant, target: Target, job: &str, result: &str) -> Option<Option<String>> {
        // Somebody else's job may have been a stop: the signal does not say.
        self.asked.as_ref().filter(|(asked, path)| *asked == target && path == job)?;
        (self.asked, self.vanished) = (None, None);
        let wished = self.wanted.target == Some(target);
        match result {
            "done" | "skipped" => {
                self.settled = Some(target);
                self.again = None;
                if target == Target::Standby {
                    // Nothing was started since: it stands for every release up to now.
                    self.released = self.wanted.releases;
                }
                wished.then_some(None)
            }
            // Another job replaced it, an operator's: no failure.
            "canceled" => {
                if wished {
                    self.again = Some(now + RESYNC);
                } else {
                    // It was to go before the active target, which somebody has just started.
                    self.released = self.wanted.releases;
                }
                None
            }
            other => {
                self.again = Some(now + RESYNC);
                wished.then(|| Some(format!("its start ended with \"{other}\"")))
            }
        }
    }

    /// systemd as it is looked at now and then: a job that is gone without a word has ended. One that takes long has not, and one
    /// that is gone since a moment may have failed: that word must not be missed.
    fn seen(&mut self, now: Instant, target: Target, job: u32, active: &str) -> Option<Option<String>> {
        match &self.asked {
            Some((asked, path)) if *asked == target && job == 0 => {
                if active == "active" {
                    let path = path.clone();
                    return self.ended(now, target, &path, "done");
                }
                if now.duration_since(*self.vanished.get_or_insert(now)) >= WORD_FOLLOWS {
                    // How it ended is not known: what was owed stays owed.
                    (self.asked, self.vanished, self.again) = (None, None, Some(now + RESYNC));
                }
                None
            }
            _ => None,
        }
    }

    /// The connection broke: nothing is known of what it was asked for. What is owed stays owed.
    fn lost(&mut self) {
        *self = Self { wanted: self.wanted, released: self.released, ..Self::default() };
    }
}

/// What the pump takes off the connection.
enum Heard {
    Job { path: String, unit: String, result: String },
    Changed { path: String },
    Reloaded,
}

/// A watched unit and what was last told of it.
struct Known {
    unit: Watched,
    path: String,
    word: String,
}

struct Worker {
    targets: [String; 2],
    lease: String,
    wanted: watch::Receiver<Wanted>,
    list: watch::Receiver<Vec<Watched>>,
    facts: mpsc::Sender<Fact>,
    course: Course,
    units: Vec<Known>,
    unbound: Option<Vec<String>>,
}

/// The bus closed the connection, or hangs.
fn gone() -> zbus::Error {
    zbus::Error::InputOutput(io::Error::from(io::ErrorKind::BrokenPipe).into())
}

/// systemd's word against this one request, not against the connection.
fn is_refusal(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(..) | zbus::Error::FDO(_))
}

fn both() -> [(usize, Target); 2] {
    [(0, Target::Active), (1, Target::Standby)]
}

impl Worker {
    async fn serve(&mut self) {
        let mut connected = None;
        loop {
            let ended = self.session(&mut connected).await;
            self.course.lost();
            if self.facts.is_closed() {
                return;
            }
            if ended.is_err() && connected != Some(false) {
                connected = Some(false);
                self.tell(Fact::Connected(false)).await;
            }
            sleep(RECONNECT).await;
        }
    }

    async fn tell(&self, fact: Fact) {
        // Nobody listens any more: the process ends.
        let _ = self.facts.send(fact).await;
    }

    /// One connection, until it breaks.
    async fn session(&mut self, connected: &mut Option<bool>) -> zbus::Result<()> {
        let builder = connection::Builder::system().method_timeout(PATIENCE);
        let connection = timeout(PATIENCE, builder.build()).await.map_err(|_| gone())??;
        let (tell, heard) = mpsc::unbounded_channel();
        let mut pumps = JoinSet::new();
        let manager = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            // The bus sees to it that nobody else's are delivered.
            .sender("org.freedesktop.systemd1")
            .interface("org.freedesktop.systemd1.Manager")
            .path("/org/freedesktop/systemd1")
            .build()?;
        // Every change of a unit's state; which one it was, a look tells.
        let changes = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            // The bus sees to it that nobody else's are delivered.
            .sender("org.freedesktop.systemd1")
            .interface("org.freedesktop.DBus.Properties")
            .member("PropertiesChanged")
            .path_namespace("/org/freedesktop/systemd1/unit")
            .build()?;
        for rule in [manager, changes] {
            let stream = MessageStream::for_match_rule(rule, &connection, None).await?;
            pumps.spawn(pump(stream, tell.clone()));
        }
        drop(tell);
        let systemd = SystemdProxy::new(&connection).await?;
        let wishes = self.wanted.clone();
        tokio::select! {
            ended = self.tend(&connection, &systemd, heard, connected) => ended,
            ended = listen(&connection, wishes) => ended,
        }
    }

    async fn tend(
        &mut self,
        connection: &Connection,
        systemd: &SystemdProxy<'_>,
        mut heard: mpsc::UnboundedReceiver<Heard>,
        connected: &mut Option<bool>,
    ) -> zbus::Result<()> {
        systemd.subscribe().await?;
        self.wanted.mark_changed();
        self.list.mark_changed();
        let mut resync = tokio::time::interval(RESYNC);
        let mut looks: u32 = 0;
        loop {
            if let Some(target) = self.course.next(Instant::now()) {
                self.ask(systemd, target).await?;
                continue;
            }
            let (mut look, mut bound) = (false, false);
            tokio::select! {
                changed = self.list.changed() => {
                    if changed.is_err() { return Ok(()); }
                    let list = self.list.borrow_and_update().clone();
                    let known = |unit| Known { unit, path: String::new(), word: String::new() };
                    self.units = list.into_iter().map(known).collect();
                    (look, bound) = (true, true);
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() { return Ok(()); }
                    let wanted = *self.wanted.borrow_and_update();
                    self.course.wish(wanted);
                }
                first = heard.recv() => {
                    let mut next = Some(first.ok_or_else(gone)?);
                    while let Some(word) = next {
                        let (unit, reload) = self.take(word).await;
                        (look, bound) = (look | unit | reload, bound | reload);
                        next = heard.try_recv().ok();
                    }
                }
                () = until(self.course.again) => self.course.again = None,
                _ = resync.tick() => {
                    look = true;
                    looks = looks.wrapping_add(1);
                    bound = looks.is_multiple_of(BOUND_AGAIN);
                }
            }
            if look {
                self.look(systemd).await?;
            }
            if bound {
                self.check_bindings(connection).await?;
            }
            if look && *connected != Some(true) {
                *connected = Some(true);
                self.tell(Fact::Connected(true)).await;
            }
        }
    }

    /// Starts a role's target. The answer means that the job is queued: how it ends comes as a signal.
    async fn ask(&mut self, systemd: &SystemdProxy<'_>, target: Target) -> zbus::Result<()> {
        let name = &self.targets[usize::from(target == Target::Standby)];
        match systemd.start_unit(name, "replace").await {
            Ok(job) => self.course.asked(target, job.to_string()),
            Err(error) => {
                if !is_refusal(&error) {
                    return Err(error);
                }
                if self.course.refused(Instant::now()) && self.course.wanted.target == Some(target) {
                    self.tell(Fact::Target { target, failed: Some(format!("systemd refuses: {error}")) })
                        .await;
                }
            }
        }
        Ok(())
    }

    /// Whether the managed units must be looked at, and their bindings.
    async fn take(&mut self, heard: Heard) -> (bool, bool) {
        match heard {
            Heard::Reloaded => (true, true),
            Heard::Changed { path } => (self.units.iter().any(|known| known.path == path), false),
            Heard::Job { path, unit, result } => {
                for (n, target) in both() {
                    if self.targets[n] == unit
                        && let Some(failed) = self.course.ended(Instant::now(), target, &path, &result)
                    {
                        self.tell(Fact::Target { target, failed }).await;
                    }
                }
                (
                    self.targets.contains(&unit) || self.units.iter().any(|known| known.unit.name == unit),
                    false,
                )
            }
        }
    }

    /// Asks for the state of every watched unit and tells what changed; on the way, whether a target's job is still there.
    async fn look(&mut self, systemd: &SystemdProxy<'_>) -> zbus::Result<()> {
        let names: Vec<&str> = self
            .targets
            .iter()
            .chain(self.units.iter().map(|known| &known.unit.name))
            .map(String::as_str)
            .collect();
        let all: Vec<Option<Listed>> = match systemd.list_units_by_names(&names).await {
            Ok(all) => all.into_iter().map(Some).collect(),
            // One name that cannot be loaded spoils the whole answer.
            Err(error) if is_refusal(&error) => {
                let mut each = vec![];
                for name in &names {
                    match systemd.list_units_by_names(&[name]).await {
                        Ok(mut one) => each.push(one.pop()),
                        Err(error) if is_refusal(&error) => each.push(None),
                        Err(error) => return Err(error),
                    }
                }
                each
            }
            Err(error) => return Err(error),
        };
        let mut all = all.into_iter();
        for (_, target) in both() {
            if let Some(Some((_, _, _, active, _, _, _, job, _, _))) = all.next()
                && let Some(failed) = self.course.seen(Instant::now(), target, job, &active)
            {
                self.tell(Fact::Target { target, failed }).await;
            }
        }
        let mut facts = vec![];
        for (index, (known, listed)) in self.units.iter_mut().zip(all).enumerate() {
            let (load, active, path) = match listed {
                Some((_, _, load, active, _, _, path, ..)) => (load, active, path.to_string()),
                None => ("not-found".into(), "inactive".into(), String::new()),
            };
            known.path = path;
            let (state, word) = classify(&load, &active);
            if *word != *known.word {
                word.clone_into(&mut known.word);
                facts.push(Fact::Unit { index, state, word: word.to_owned() });
            }
        }
        for fact in facts {
            self.tell(fact).await;
        }
        Ok(())
    }

    /// Whether every unit of a role goes when the role goes: what the generator's drop-in says, as systemd has it loaded.
    async fn check_bindings(&mut self, connection: &Connection) -> zbus::Result<()> {
        let mut unbound = vec![];
        for known in &self.units {
            let (Some(with), Ok(path)) = (known.unit.with, ObjectPath::try_from(known.path.as_str())) else {
                continue;
            };
            let unit = UnitProxy::builder(connection)
                .path(path)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            let bound = match with {
                Target::Active => match (unit.binds_to().await, unit.before().await) {
                    (Ok(to), Ok(before)) => Ok(to.contains(&self.lease) && before.contains(&self.targets[1])),
                    (Err(error), _) | (_, Err(error)) => Err(error),
                },
                Target::Standby => unit.part_of().await.map(|part| part.contains(&self.targets[1])),
            };
            match bound {
                Ok(true) => {}
                // A unit that is not there runs nowhere; that is told otherwise.
                Ok(false) if known.word != "not-found" => unbound.push(known.unit.name.clone()),
                Ok(false) => {}
                Err(error) if is_refusal(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if self.unbound.as_ref() != Some(&unbound) {
            self.unbound = Some(unbound.clone());
            self.tell(Fact::Unbound(unbound)).await;
        }
        Ok(())
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Asks the bus itself, not systemd, whether it is there: each second, and at once when something is wished of it. Returns when it
/// is not.
async fn listen(connection: &Connection, mut wishes: watch::Receiver<Wanted>) -> zbus::Result<()> {
    loop {
        let _ = timeout(SILENT, wishes.changed()).await;
        let ping = connection.call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            // Not the Peer interface's Ping: the bus's default policy refuses it, with a line in the journal each time.
            Some("org.freedesktop.DBus"),
            "GetId",
            &(),
        );
        match timeout(SILENT, ping).await {
            Ok(Ok(_)) => {}
            // Who refuses has answered too.
            Ok(Err(error)) if is_refusal(&error) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(gone()),
        }
    }
}

/// Empties the stream into the queue, and ends with it.
async fn pump(mut stream: MessageStream, tell: mpsc::UnboundedSender<Heard>) {
    while let Some(Ok(message)) = stream.next().await {
        if let Some(heard) = read(&message)
            && tell.send(heard).is_err()
        {
            return;
        }
    }
}

fn read(message: &Message) -> Option<Heard> {
    let header = message.header();
    let path = header.path()?.to_string();
    match header.member()?.as_str() {
        "PropertiesChanged" => Some(Heard::Changed { path }),
        "JobRemoved" => {
            let body = message.body();
            let (_, job, unit, result): (u32, ObjectPath<'_>, String, String) = body.deserialize().ok()?;
            Some(Heard::Job { path: job.to_string(), unit, result })
        }
        // Told with true when it begins, with false when it is done.
        "Reloading" => (!message.body().deserialize::<bool>().ok()?).then_some(Heard::Reloaded),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Target::{Active, Standby};

    fn begun() -> Instant {
        // tokio's clock; nothing here waits for it.
        Instant::from_std(std::time::Instant::now())
    }
    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }
    fn course(now: Instant) -> Course {
        let mut course = Course::default();
        course.wish(Wanted { target: Some(Standby), releases: 1 });
        assert_eq!(course.next(now), Some(Standby));
        course.asked(Standby, "/job/1".into());
        assert_eq!(course.next(now), None);
        assert_eq!(course.ended(now, Standby, "/job/1", "done"), Some(None));
        assert_eq!(course.next(now), None);
        course
    }

    #[test]
    fn a_role_is_asked_for_once_and_told_when_reached() {
        let now = begun();
        let mut course = course(now);
        course.wish(Wanted { target: Some(Active), releases: 1 });
        assert_eq!(course.next(now), Some(Active));
        course.asked(Active, "/job/2".into());
        assert_eq!(course.ended(now, Active, "/job/1", "canceled"), None, "an earlier job");
        assert_eq!(
            course.ended(now, Active, "/job/2", "dependency"),
            Some(Some("its start ended with \"dependency\"".into()))
        );
        assert_eq!((course.next(now), course.next(now + RESYNC)), (None, Some(Active)));
        course.asked(Active, "/job/3".into());
        assert_eq!(course.ended(now, Active, "/job/3", "done"), Some(None));
        assert_eq!(course.next(now + RESYNC), None);
    }

    /// The role went and came back while the bus was away: the old term's units go first, whatever happens in between.
    #[test]
    fn a_release_is_owed_until_it_is_carried_out() {
        let now = begun();
        let mut course = course(now);
        course.wish(Wanted { target: Some(Active), releases: 2 });
        assert_eq!(course.next(now), Some(Standby));
        // polkit is not back yet: tried again soon, and not told at once.
        assert!(!course.refused(now));
        assert_eq!((course.next(now), course.next(now + ms(100))), (None, Some(Standby)));
        assert!(!course.refused(now + ms(100)));
        assert_eq!(course.next(now + ms(300)), Some(Standby));
        course.asked(Standby, "/job/2".into());
        course.lost();
        assert_eq!(course.next(now), Some(Standby), "the connection broke: owed all the same");
        course.asked(Standby, "/job/3".into());
        // A stop that takes its time is no end that was missed.
        assert_eq!(course.seen(now + RESYNC * 10, Standby, 7, "inactive"), None);
        assert_eq!(course.next(now + RESYNC * 10), None);
        assert_eq!(course.ended(now, Standby, "/job/3", "done"), None, "not what is wished in the end");
        assert_eq!(course.next(now), Some(Active));
    }

    #[test]
    fn a_refusal_that_lasts_is_told() {
        let mut now = begun();
        let mut course = course(now);
        course.wish(Wanted { target: Some(Active), releases: 1 });
        let first = now;
        while !course.refused(now) {
            now = course.again.expect("a pause");
            assert_eq!(course.next(now), Some(Active));
        }
        assert!(
            (REFUSED_FOR..REFUSED_FOR * 2).contains(&now.duration_since(first)),
            "{:?}",
            now.duration_since(first)
        );
    }

    #[test]
    fn a_job_that_ended_without_a_word_is_seen() {
        let now = begun();
        let mut course = course(now);
        course.wish(Wanted { target: Some(Active), releases: 1 });
        course.asked(Active, "/job/2".into());
        assert_eq!(course.seen(now, Active, 5, "inactive"), None);
        assert_eq!(course.seen(now, Active, 0, "active"), Some(None));
        // Its word may come all the same.
        assert_eq!(course.ended(now, Active, "/job/2", "done"), None);
        assert_eq!(course.next(now), None);
        // A release that vanished is owed still.
        course.wish(Wanted { target: Some(Active), releases: 2 });
        course.asked(Standby, "/job/3".into());
        assert_eq!(course.seen(now, Standby, 0, "inactive"), None);
        let now = now + RESYNC;
        assert_eq!(course.next(now), None, "its word may be on the way");
        assert_eq!(course.seen(now, Standby, 0, "inactive"), None);
        assert_eq!((course.next(now), course.next(now + RESYNC)), (None, Some(Standby)));
    }

    /// The list of units was asked for while the job failed: the list is read first, the signal after.
    #[test]
    fn a_failure_is_heard_though_its_job_is_gone_already() {
        let now = begun();
        let mut course = course(now);
        course.wish(Wanted { target: Some(Active), releases: 1 });
        course.asked(Active, "/job/2".into());
        for late in [ms(0), ms(1), WORD_FOLLOWS - ms(1)] {
            assert_eq!(course.seen(now + late, Active, 0, "inactive"), None);
        }
        assert_eq!(
            course.ended(now + WORD_FOLLOWS, Active, "/job/2", "dependency"),
            Some(Some("its start ended with \"dependency\"".into()))
        );
        // The next one has its own time.
        course.asked(Active, "/job/3".into());
        assert_eq!(course.seen(now + RESYNC, Active, 0, "inactive"), None);
        assert!(course.ended(now + RESYNC, Active, "/job/3", "failed").is_some());
    }

    /// Nobody was asked for it: it may as well have been a stop.
    #[test]
    fn anothers_job_is_no_word_of_a_target() {
        let now = begun();
        let mut course = course(now);
        course.wish(Wanted { target: Some(Active), releases: 1 });
        assert_eq!(course.ended(now, Active, "/job/9", "done"), None);
        assert_eq!(course.next(now), Some(Active));
    }

    /// An operator's start of the other target replaces the job: the wish is asked for again, but not at once.
    #[test]
    fn a_canceled_job_is_no_failure() {
        let now = begun();
        let mut course = course(now);
        course.wish(Wanted { target: Some(Standby), releases: 2 });
        course.asked(Standby, "/job/2".into());
        assert_eq!(course.ended(now, Standby, "/job/2", "canceled"), None);
        assert_eq!((course.next(now), course.next(now + RESYNC)), (None, Some(Standby)));
        course.wish(Wanted { target: Some(Active), releases: 2 });
        assert_eq!(course.next(now), Some(Standby));
    }

    #[test]
    fn systemds_words_are_what_they_say() {
        for (load, active, state, word) in [
            ("loaded", "inactive", UnitState::Down, "inactive"),
            ("not-found", "inactive", UnitState::Missing, "not-found"),
            ("masked", "inactive", UnitState::Missing, "masked"),
            // The file was removed under a running service.
            ("not-found", "active", UnitState::Up, "active"),
            ("loaded", "activating", UnitState::Starting, "activating"),
            ("loaded", "deactivating", UnitState::Stopping, "deactivating"),
            ("loaded", "reloading", UnitState::Up, "reloading"),
            ("loaded", "failed", UnitState::Failed, "failed"),
        ] {
            assert_eq!(classify(load, active), (state, word), "{load} {active}");
        }
    }
}
