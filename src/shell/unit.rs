//! One unit that is watched and asked for over D-Bus, on a thread of its own; for dre-tipc.service.
//!
//! The bus may hang or be gone: then nothing is heard, and what is asked is lost. Absent on purpose: what its state means.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use zbus::wire::OwnedObjectPath;
use zbus::{Connection, MatchRule, MessageStream, connection};

/// A method that takes longer is a manager that hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const RECONNECT: Duration = Duration::from_secs(1);
/// Looked at again this often, against a signal that was lost.
const RESYNC: Duration = Duration::from_secs(2);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Systemd {
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reload_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Unit", default_service = "org.freedesktop.systemd1")]
trait Unit {
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(interface = "org.freedesktop.systemd1.Service", default_service = "org.freedesktop.systemd1")]
trait Service {
    #[zbus(property)]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn status_text(&self) -> zbus::Result<String>;
}

/// The unit as systemd shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// ActiveState.
    pub active: String,
    /// How the last run ended.
    pub result: String,
    /// What the service itself says (`STATUS=`).
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Seen(Word),
    /// systemd does not do what was asked.
    Refused(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Start,
    Reload,
}

/// The handle; never waits. Dropping it ends the thread.
pub struct Watch(mpsc::UnboundedSender<Ask>);

impl Watch {
    pub fn start(name: &'static str, facts: mpsc::Sender<Fact>) -> io::Result<Self> {
        let (asks, mut asked) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("unit".into()).spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                // Ends well only when the handle or the listener is gone.
                while session(name, &mut asked, &facts).await.is_err() && !facts.is_closed() {
                    tokio::time::sleep(RECONNECT).await;
                }
            });
        })?;
        Ok(Self(asks))
    }

    pub fn ask(&self, what: Ask) {
        let _ = self.0.send(what);
    }
}

/// One connection, until it breaks.
async fn session(
    name: &str,
    asked: &mut mpsc::UnboundedReceiver<Ask>,
    facts: &mpsc::Sender<Fact>,
) -> zbus::Result<()> {
    let connection: Connection = connection::Builder::system().method_timeout(PATIENCE).build().await?;
    let systemd = SystemdProxy::new(&connection).await?;
    let path = systemd.load_unit(name).await?;
    let rule = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged")
        .path(path.clone())
        .build()?;
    let mut changes = MessageStream::for_match_rule(rule, &connection, std::num::NonZero::new(16)).await?;
    systemd.subscribe().await?;
    let uncached = zbus::proxy::CacheProperties::No;
    let unit = UnitProxy::builder(&connection).path(path.clone()).cache_properties(uncached).build().await?;
    let service = ServiceProxy::builder(&connection).path(path).cache_properties(uncached).build().await?;
    let mut resync = tokio::time::interval(RESYNC);
    let mut last = None;
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let done = match ask {
                    None => return Ok(()),
                    Some(Ask::Start) => systemd.start_unit(name, "replace").await,
                    Some(Ask::Reload) => systemd.reload_unit(name, "replace").await,
                };
                if let Err(error) = done {
                    let _ = facts.send(Fact::Refused(error.to_string())).await;
                }
            }
            change = changes.next() => if change.is_none() {
                return Err(zbus::Error::InputOutput(io::Error::from(io::ErrorKind::BrokenPipe).into()));
            },
            _ = resync.tick() => {}
        }
        let word = Word {
            active: unit.active_state().await?,
            result: service.result().await?,
            text: service.status_text().await?,
        };
        if last.as_ref() != Some(&word) {
            last = Some(word.clone());
            if facts.send(Fact::Seen(word)).await.is_err() {
                return Ok(());
            }
        }
    }
}
