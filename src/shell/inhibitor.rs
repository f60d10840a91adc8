//! Handing over before a shutdown stops anything: logind's delay inhibitor.
//!
//! `reboot`, `poweroff` and the power button tell PrepareForShutdown first and wait for the holders of a delay lock (5 s by
//! default). `reboot --force` does not; the lease covers it. On a thread of its own, like everything on the bus.

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
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

/// Lets the shutdown go on.
pub struct Release(watch::Sender<bool>);

impl Release {
    pub fn release(&self) {
        self.0.send_replace(true);
    }
}

/// The receiver says when a shutdown begins. Without logind (or a bus) it says nothing.
pub fn start() -> io::Result<(Release, mpsc::Receiver<()>)> {
    let (begun, shutdowns) = mpsc::channel(1);
    let (release, released) = watch::channel(false);
    std::thread::Builder::new().name("inhibitor".into()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            loop {
                let _ = session(&begun, released.clone()).await;
                if begun.is_closed() {
                    return;
                }
                tokio::time::sleep(RECONNECT).await;
            }
        });
    })?;
    Ok((Release(release), shutdowns))
}

/// Holds the lock until the bus is gone, or until a shutdown was let go on.
async fn session(begun: &mpsc::Sender<()>, mut released: watch::Receiver<bool>) -> zbus::Result<()> {
    let connection = connection::Builder::system().method_timeout(PATIENCE).build().await?;
    let logind = LogindProxy::new(&connection).await?;
    let mut shutdowns = logind.receive_prepare_for_shutdown().await?;
    let lock = logind
        .inhibit("shutdown:sleep", "dre", "the role is handed to the other node first", "delay")
        .await?;
    loop {
        match shutdowns.next().await {
            Some(signal) if signal.args()?.start => break,
            Some(_) => {}
            None => return Ok(()),
        }
    }
    let _ = begun.send(()).await;
    let _ = released.wait_for(|released| *released).await;
    drop(lock);
    // The machine goes down: nothing more to hold.
    std::future::pending().await
}
