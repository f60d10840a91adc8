//! What dre-sync says, beside dre-elect's status: never slow, and never a failure of `drectl status`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dre::config::sync;
use dre::logic::group::PLAIN;
use dre::rules::SetStatus;
use dre::snapshot::{Alarm, Status};
use serde::Serialize;

use crate::client::{Client, Daemon};
use crate::exit::Fail;

/// dre-sync answers in a millisecond; nobody waits longer for what stands beside.
const ANSWER_WITHIN: Duration = Duration::from_millis(300);

/// One that did not answer is left alone for this long, so that a live page stays live.
const LEFT_ALONE: Duration = Duration::from_secs(5);

/// The status with the rules files in it: `drectl status --json`.
#[derive(Debug, Serialize)]
pub struct Whole {
    #[serde(flatten)]
    pub status: Status,
    /// Absent where no dre-sync is set up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<SetStatus>>,
}

impl Whole {
    pub fn sets(&self) -> &[SetStatus] {
        self.rules.as_deref().unwrap_or_default()
    }
}

/// dre-sync, looked at again and again.
pub struct Beside<'a> {
    socket: &'a Path,
    /// Where there is one, dre-sync should run.
    file: PathBuf,
    left_alone: Option<(Instant, String)>,
}

impl<'a> Beside<'a> {
    pub fn new(socket: &'a Path) -> Self {
        Self::of(socket, sync::locate())
    }

    fn of(socket: &'a Path, file: PathBuf) -> Self {
        Self { socket, file, left_alone: None }
    }

    /// `status` with dre-sync's sets and alarms; as it is where there is no dre-sync, and of another group than that whose pair it
    /// connects.
    pub fn with(&mut self, mut status: Status) -> Whole {
        // An old daemon does not say which it is.
        if !matches!(status.group.as_str(), "" | PLAIN) {
            return Whole { status, rules: None };
        }
        let listens = self.socket.exists();
        if !listens && !self.file.exists() {
            return Whole { status, rules: None };
        }
        let left_alone = self.left_alone.as_ref().filter(|(until, _)| listens && Instant::now() < *until);
        if let Some((_, text)) = left_alone {
            status.alarms.push(silent(text));
            return Whole { status, rules: Some(vec![]) };
        }
        let asked =
            Client::to(Daemon::sync(), self.socket, ANSWER_WITHIN).and_then(|mut client| client.rules());
        match asked {
            Ok(rules) => {
                self.left_alone = None;
                status.alarms.extend(rules.alarms);
                Whole { status, rules: Some(rules.sets) }
            }
            Err(Fail { text, .. }) => {
                status.alarms.push(silent(&text));
                // Without a socket the answer costs nothing, and the next one may be another.
                self.left_alone = listens.then(|| (Instant::now() + LEFT_ALONE, text));
                Whole { status, rules: Some(vec![]) }
            }
        }
    }
}

/// There is a socket or a `sync.toml`, and nobody who answers: changes of the rules files wait.
fn silent(text: &str) -> Alarm {
    let text = format!("the rules files of this node are not replicated now: {text}");
    Alarm { name: "SyncSilent".into(), subject: String::new(), text, since: String::new() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_dre_sync_that_hangs_is_an_alarm_and_costs_no_time() {
        let dir = std::env::temp_dir().join(format!("drectl-beside-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        let (path, file) = (dir.join("control"), dir.join("sync.toml"));
        let mut none = Beside::of(&path, file.clone());
        let status = || Status { node: "hadev1".into(), ..Status::default() };
        let whole = none.with(status());
        assert!(whole.rules.is_none() && whole.status.alarms.is_empty());
        let json = serde_json::to_string(&whole).expect("JSON");
        assert!(json.starts_with("{\"group\":") && !json.contains("rules"), "{json}");

        // It is stopped, and its socket with it; then no file asks for it any more.
        std::fs::write(&file, "").expect("written");
        let whole = none.with(status());
        let alarm = &whole.status.alarms[0];
        assert_eq!((alarm.name.as_str(), whole.rules), ("SyncSilent", Some(vec![])));
        assert!(alarm.text.ends_with("start it with: systemctl start dre-sync"), "{alarm:?}");
        std::fs::remove_file(&file).expect("removed");
        assert!(none.with(status()).rules.is_none());

        // It listens and never answers.
        let listener = UnixListener::bind(&path).expect("a socket");
        let mut hanging = Beside::of(&path, file.clone());
        let begun = Instant::now();
        for _ in 0..100 {
            let whole = hanging.with(status());
            assert_eq!(whole.status.alarms[0].name, "SyncSilent");
        }
        let took = begun.elapsed();
        assert!(took >= ANSWER_WITHIN && took < LEFT_ALONE, "asked once and then left alone: {took:?}");

        // Nobody listens any more, but the socket is still there.
        drop(listener);
        let whole = Beside::of(&path, file).with(status());
        assert!(
            whole.status.alarms[0].text.contains("systemctl start dre-sync"),
            "{:?}",
            whole.status.alarms
        );
        assert!(serde_json::to_string(&whole).expect("JSON").ends_with(",\"rules\":[]}"));
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
