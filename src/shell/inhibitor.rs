//! Handing over before a shutdown stops anything: logind's delay inhibitor.
//!
//! `reboot`, `poweroff` and the power button tell PrepareForShutdown first and wait for the holders of a delay lock (5 s by
//! default); a shutdown that fails to begin is called off by the same signal. `reboot --force` does not tell; the lease covers it.
//! On a thread of its own, like everything on the bus.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use zbus::connection;
use zbus::wire::OwnedFd;

const RECONNECT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Logind {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn preparing_for_shutdown(&self) -> zbus::Result<bool>;
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

/// Lets the shutdown go on.
pub struct Release(watch::Sender<()>);

impl Release {
    pub fn release(&self) {
        self.0.send_replace(());
    }
}

/// `who`: the unit that holds the lock, as `systemd-inhibit` lists it. The receiver says `true` when a shutdown begins and `false` when it was called off. Without logind (or a bus) it says
/// nothing.
pub fn start(who: String) -> io::Result<(Release, mpsc::Receiver<bool>)> {
    let (word, shutdowns) = mpsc::channel(2);
    let (release, released) = watch::channel(());
    std::thread::Builder::new().name("inhibitor".into()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let mut begun = false;
            loop {
                let _ = session(&who, &word, released.clone(), &mut begun).await;
                if word.is_closed() {
                    return;
                }
                tokio::time::sleep(RECONNECT).await;
            }
        });
    })?;
    Ok((Release(release), shutdowns))
}

/// Holds the lock until the bus is gone; lets it go for a shutdown when the role is handed over, and takes it again for the next one.
async fn session(
    who: &str,
    word: &mpsc::Sender<bool>,
    mut released: watch::Receiver<()>,
    begun: &mut bool,
) -> zbus::Result<()> {
    let connection = connection::Builder::system().method_timeout(PATIENCE).build().await?;
    let logind = LogindProxy::new(&connection).await?;
    let mut shutdowns = logind.receive_prepare_for_shutdown().await?;
    // A shutdown may have begun, or been called off, while the bus was away.
    let mut begins = logind.preparing_for_shutdown().await?;
    let mut lock = None;
    loop {
        if begins != *begun {
            *begun = begins;
            released.mark_unchanged();
            let _ = word.send(begins).await;
        }
        if !begins {
            let why = "the role is handed to the other node first";
            // Suspend is none of it: the machine comes back, and finds its lease gone.
            drop(lock.take());
            lock = Some(logind.inhibit("shutdown", who, why, "delay").await?);
        }
        begins = loop {
            tokio::select! {
                signal = shutdowns.next() => match signal {
                    Some(signal) => break signal.args()?.start,
                    None => return Ok(()),
                },
                changed = released.changed(), if begins => match changed {
                    Ok(()) => drop(lock.take()),
                    Err(_) => return Ok(()),
                },
            }
        };
    }
}
