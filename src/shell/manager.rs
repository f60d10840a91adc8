//! systemd over D-Bus, on a thread of its own: starts the roles' targets, watches the managed units.
//!
//! The bus may hang, restart or be gone: the loop never knows more of it than facts from a channel. The newest
//! wish for a role is what is asked, again after each reconnection; of older ones only this is kept: a role that was
//! let go in between is let go in systemd too, or its units would live on from one term into the next.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use zbus::wire::{ObjectPath, OwnedObjectPath};
use zbus::{Connection, MatchRule, MessageStream, connection};

use crate::logic::node::{Target, UnitState};

/// A method that takes longer is a manager that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const RECONNECT: Duration = Duration::from_millis(250);
/// Units are looked at again this often, against a signal that was lost.
const RESYNC: Duration = Duration::from_secs(2);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: ObjectPath<'_>, unit: &str, result: &str) -> zbus::Result<()>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
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
    /// A role's target was reached, or why not.
    Target {
        target: Target,
        failed: Option<String>,
    },
}

/// The newest wish, and how often the role was let go up to it.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    target: Option<Target>,
    releases: u64,
}

/// The loop's handle; never waits.
pub struct Manager {
    role: watch::Sender<Wanted>,
    units: watch::Sender<Vec<String>>,
}

impl Manager {
    /// `group`: `dre`, or a template group's name. Facts come out of the receiver.
    pub fn start(group: &str, units: Vec<String>) -> io::Result<(Self, mpsc::Receiver<Fact>)> {
        let (facts, receiver) = mpsc::channel(256);
        let (role, wanted) = watch::channel(Wanted::default());
        let (watched, list) = watch::channel(units);
        let name = move |role: &str, group: &str| match group {
            "dre" => format!("dre-{role}.target"),
            other => format!("dre-{role}@{other}.target"),
        };
        let targets = [name("active", group), name("standby", group)];
        std::thread::Builder::new().name("systemd".into()).spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(serve(targets, wanted, list, facts));
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

    pub fn watch(&self, units: Vec<String>) {
        self.units.send_replace(units);
    }
}

fn classify(word: &str) -> UnitState {
    match word {
        "inactive" => UnitState::Down,
        "failed" => UnitState::Failed,
        _ => UnitState::Up,
    }
}

async fn serve(
    targets: [String; 2],
    mut wanted: watch::Receiver<Wanted>,
    mut list: watch::Receiver<Vec<String>>,
    facts: mpsc::Sender<Fact>,
) {
    let (mut connected, mut released) = (None, 0);
    loop {
        let result = session(&targets, &mut wanted, &mut list, &facts, &mut connected, &mut released).await;
        if facts.is_closed() {
            return;
        }
        if result.is_err() && connected != Some(false) {
            connected = Some(false);
            let _ = facts.send(Fact::Connected(false)).await;
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

/// The bus closed the connection.
fn gone() -> zbus::Error {
    zbus::Error::InputOutput(io::Error::from(io::ErrorKind::BrokenPipe).into())
}

/// One connection, until it breaks.
async fn session(
    targets: &[String; 2],
    wanted: &mut watch::Receiver<Wanted>,
    list: &mut watch::Receiver<Vec<String>>,
    facts: &mpsc::Sender<Fact>,
    connected: &mut Option<bool>,
    released: &mut u64,
) -> zbus::Result<()> {
    let connection: Connection = connection::Builder::system().method_timeout(PATIENCE).build().await?;
    let systemd = SystemdProxy::new(&connection).await?;
    let mut jobs = systemd.receive_job_removed().await?;
    // Every change of a unit's ActiveState; which one it was, a look tells.
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged")
        .path_namespace("/org/freedesktop/systemd1/unit")
        .build()?;
    let mut changes = MessageStream::for_match_rule(rule, &connection, std::num::NonZero::new(256)).await?;
    systemd.subscribe().await?;
    let mut words: Vec<(String, Option<UnitProxy<'_>>, String)> = vec![];
    wanted.mark_changed();
    list.mark_changed();
    let mut resync = tokio::time::interval(RESYNC);
    // The wanted target was not reached: asked for again with the next resync.
    let mut again = false;
    // The active target waits for the standby target's job: the units of an earlier term go down first.
    let mut waits: Option<Instant> = None;
    loop {
        tokio::select! {
            changed = list.changed() => {
                if changed.is_err() { return Ok(()); }
                words.clear();
                for name in list.borrow_and_update().clone() {
                    let path = systemd.load_unit(&name).await.ok();
                    let proxy = match path {
                        Some(path) => Some(
                            UnitProxy::builder(&connection)
                                .path(path)
                                .cache_properties(zbus::proxy::CacheProperties::No)
                                .build()
                                .await?,
                        ),
                        None => None,
                    };
                    words.push((name, proxy, String::new()));
                }
                look(&mut words, facts).await?;
                if *connected != Some(true) {
                    *connected = Some(true);
                    let _ = facts.send(Fact::Connected(true)).await;
                }
            }
            changed = wanted.changed() => {
                if changed.is_err() { return Ok(()); }
                let Wanted { target, releases } = *wanted.borrow_and_update();
                let let_go = releases != *released;
                *released = releases;
                let ask_for = match target {
                    Some(Target::Active) if let_go => {
                        waits = Some(Instant::now());
                        Some(Target::Standby)
                    }
                    Some(Target::Active) if waits.is_some() => None,
                    _ => {
                        waits = None;
                        target
                    }
                };
                if let Some(target) = ask_for {
                    again = !ask(&systemd, targets, target, facts).await?;
                    look(&mut words, facts).await?;
                }
            }
            signal = jobs.next() => {
                let Some(signal) = signal else { return Err(gone()) };
                if let Ok(job) = signal.args() {
                    let index = targets.iter().position(|t| t == job.unit);
                    let target = index.map(|n| [Target::Active, Target::Standby][n]);
                    let wish = wanted.borrow().target;
                    if waits.is_some() && target == Some(Target::Standby) {
                        waits = None;
                        again = !ask(&systemd, targets, Target::Active, facts).await?;
                    }
                    // "canceled": another job replaced it. Of a stop nothing follows either; only the wish counts.
                    if target.is_some() && target == wish && job.result != "canceled" {
                        let done = matches!(job.result, "done" | "skipped");
                        let failed = (!done).then(|| format!("its start ended with \"{}\"", job.result));
                        again = !done;
                        if let Some(target) = target {
                            let _ = facts.send(Fact::Target { target, failed }).await;
                        }
                    }
                    let ours = target.is_some() || words.iter().any(|(name, ..)| name == job.unit);
                    if ours {
                        look(&mut words, facts).await?;
                    }
                }
            }
            change = changes.next() => {
                let Some(change) = change else { return Err(gone()) };
                let change = change?;
                let header = change.header();
                let ours = header.path().is_some_and(|path| {
                    words.iter().any(|(_, proxy, _)| proxy.as_ref().is_some_and(|p| p.inner().path() == path))
                });
                if ours {
                    look(&mut words, facts).await?;
                }
            }
            _ = resync.tick() => {
                look(&mut words, facts).await?;
                let target = wanted.borrow().target;
                // A job whose end was missed is not waited for any longer than this.
                let missed = waits.is_some_and(|since| since.elapsed() > RESYNC);
                if let (true, Some(target)) = (again || missed, target) {
                    waits = None;
                    again = !ask(&systemd, targets, target, facts).await?;
                }
            }
        }
    }
}

/// Starts a role's target; false if systemd refuses. The answer means that the job is queued: how it ends comes as a signal.
async fn ask(
    systemd: &SystemdProxy<'_>,
    targets: &[String; 2],
    target: Target,
    facts: &mpsc::Sender<Fact>,
) -> zbus::Result<bool> {
    let name = &targets[usize::from(target == Target::Standby)];
    let Err(error) = systemd.start_unit(name, "replace").await else { return Ok(true) };
    let _ = facts.send(Fact::Target { target, failed: Some(format!("systemd refuses: {error}")) }).await;
    if matches!(error, zbus::Error::MethodError(..)) { Ok(false) } else { Err(error) }
}

/// Asks for every watched unit's state and tells what changed.
async fn look(
    words: &mut [(String, Option<UnitProxy<'_>>, String)],
    facts: &mpsc::Sender<Fact>,
) -> zbus::Result<()> {
    for (index, (_, proxy, last)) in words.iter_mut().enumerate() {
        let word = match proxy {
            Some(proxy) => match proxy.active_state().await {
                Ok(word) => word,
                Err(error @ (zbus::Error::MethodError(..) | zbus::Error::FDO(_))) => {
                    // The unit was unloaded; the next resync finds it again.
                    drop(error);
                    "inactive".into()
                }
                Err(error) => return Err(error),
            },
            None => "inactive".into(),
        };
        if word != *last {
            last.clone_from(&word);
            let state = classify(&word);
            if facts.send(Fact::Unit { index, state, word }).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
