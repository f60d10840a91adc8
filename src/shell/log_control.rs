//! `systemctl service-log-level dre debug`: org.freedesktop.LogControl1 under the name that `BusName=` of the unit gives.
//!
//! On a thread of its own, like everything on the bus. Who may speak to it says the bus policy: root.

use std::io;
use std::time::Duration;

use zbus::connection;

use super::journal::Journal;
use crate::notice::Priority;

const RECONNECT: Duration = Duration::from_secs(5);

struct LogControl(Journal, &'static str);

#[zbus::interface(name = "org.freedesktop.LogControl1")]
impl LogControl {
    #[zbus(property)]
    fn log_level(&self) -> String {
        self.0.level().word().to_owned()
    }

    #[zbus(property)]
    fn set_log_level(&mut self, word: String) -> zbus::fdo::Result<()> {
        let level = Priority::from_word(&word).ok_or_else(|| {
            zbus::fdo::Error::InvalidArgs(format!(
                "{word:?} is no level; write err, warning, notice, info or debug"
            ))
        })?;
        self.0.set_level(level);
        Ok(())
    }

    #[zbus(property)]
    fn log_target(&self) -> String {
        "journal".into()
    }

    #[zbus(property)]
    fn set_log_target(&mut self, word: String) -> zbus::fdo::Result<()> {
        if word == "journal" || word == "auto" {
            return Ok(());
        }
        Err(zbus::fdo::Error::NotSupported("dre logs to the journal".into()))
    }

    #[zbus(property)]
    fn syslog_identifier(&self) -> String {
        self.1.to_owned()
    }
}

/// Serves it for as long as the process lives; without a bus it waits for one.
pub fn start(journal: Journal, identifier: &'static str, bus_name: String) -> io::Result<()> {
    std::thread::Builder::new().name("log-control".into()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            loop {
                let object = LogControl(journal.clone(), identifier);
                let built = connection::Builder::system()
                    .name(bus_name.as_str())
                    .serve_at("/org/freedesktop/LogControl1", object)
                    .build()
                    .await;
                if let Ok(connection) = built {
                    gone(&connection).await;
                }
                tokio::time::sleep(RECONNECT).await;
            }
        });
    })?;
    Ok(())
}

/// Returns when the bus has closed the connection.
async fn gone(connection: &zbus::Connection) {
    use futures_util::StreamExt;
    let mut messages = zbus::MessageStream::from(connection);
    while let Some(Ok(_)) = messages.next().await {}
}
