//! What systemd is told, by a thread of its own: its socket may be full, the loop may not wait.
//!
//! The watchdog's ping is sent by this thread but only for a turn of the loop that asked for it: a loop that is
//! stuck is a dead loop, however alive its threads.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

enum Word {
    Ready,
    Reloading,
    Stopping,
    Watchdog,
    Status(String),
}

/// The way to systemd; nothing happens when there is none.
#[derive(Clone)]
pub struct Notify(SyncSender<Word>);

impl Notify {
    pub fn start() -> io::Result<Self> {
        let (queue, words) = sync_channel::<Word>(32);
        std::thread::Builder::new().name("notify".into()).stack_size(256 << 10).spawn(move || {
            for word in words {
                let _ = match &word {
                    Word::Ready => sd_notify::notify(&[NotifyState::Ready]),
                    Word::Reloading => match NotifyState::monotonic_usec_now() {
                        Ok(now) => sd_notify::notify(&[NotifyState::Reloading, now]),
                        Err(_) => sd_notify::notify(&[NotifyState::Reloading]),
                    },
                    Word::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
                    Word::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
                    Word::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
                };
            }
        })?;
        Ok(Self(queue))
    }

    // A full queue: systemd does not read. What is lost is said again by the next change or the next turn.
    fn say(&self, word: Word) {
        let _ = self.0.try_send(word);
    }

    pub fn ready(&self) {
        self.say(Word::Ready);
    }
    pub fn reloading(&self) {
        self.say(Word::Reloading);
    }
    pub fn stopping(&self) {
        self.say(Word::Stopping);
    }
    pub fn watchdog(&self) {
        self.say(Word::Watchdog);
    }
    /// One line: a newline would be read as another assignment.
    pub fn status(&self, text: &str) {
        self.say(Word::Status(text.replace('\n', " ")));
    }
}

/// How often the loop must ask for a ping: a third of `WatchdogSec=`; `None` without a watchdog.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 3)
}
