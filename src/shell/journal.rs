//! The journal, written by a thread of its own: journald may hang, the loop may not.
//!
//! The native protocol, because MESSAGE_ID ties an entry to its catalogue text and `tracing-journald`
//! prefixes every field. A full queue loses entries and says afterwards how many.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use crate::notice::{Notice, Priority};

const SOCKET: &str = "/run/systemd/journal/socket";
/// Entries that wait while journald hangs.
const QUEUE: usize = 1024;

/// Where entries go; cheap to clone.
#[derive(Clone)]
pub struct Journal {
    queue: SyncSender<Notice>,
    lost: Arc<AtomicU64>,
    level: Arc<AtomicU8>,
}

impl Journal {
    /// Starts the thread. `identifier` as `journalctl -t` knows it.
    pub fn start(identifier: &'static str, level: Priority) -> io::Result<Self> {
        let (queue, entries) = sync_channel::<Notice>(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let (counted, level) = (Arc::clone(&lost), Arc::new(AtomicU8::new(level as u8)));
        // Started before memory is locked, so all of its stack is: a small one.
        std::thread::Builder::new().name("journal".into()).stack_size(256 << 10).spawn(move || {
            let mut journald = Journald { path: SOCKET.into(), socket: None };
            for notice in entries {
                let missed = counted.swap(0, Ordering::Relaxed);
                if missed != 0 {
                    write(&mut journald, identifier, &Notice::Lost { count: missed });
                }
                write(&mut journald, identifier, &notice);
            }
        })?;
        Ok(Self { queue, lost, level })
    }

    /// Never waits.
    pub fn log(&self, notice: Notice) {
        if notice.priority() as u8 > self.level.load(Ordering::Relaxed) {
            return;
        }
        if let Err(TrySendError::Full(_)) = self.queue.try_send(notice) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn is_debug(&self) -> bool {
        self.level() == Priority::Debug
    }

    pub fn level(&self) -> Priority {
        Priority::from_number(self.level.load(Ordering::Relaxed))
    }

    /// At run time: `systemctl service-log-level`.
    pub fn set_level(&self, level: Priority) {
        self.level.store(level as u8, Ordering::Relaxed);
    }
}

/// The way to journald.
struct Journald {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journald {
    /// A socket that was made anew (journald's own was restarted) is another one: the old connection never works again.
    fn send(&mut self, entry: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket
            && socket.send(entry).is_ok()
        {
            return Ok(());
        }
        self.socket = None;
        let socket = UnixDatagram::unbound()?;
        socket.connect(&self.path)?;
        socket.send(entry)?;
        self.socket = Some(socket);
        Ok(())
    }
}

fn write(journald: &mut Journald, identifier: &str, notice: &Notice) {
    if journald.send(&entry(identifier, notice)).is_err() {
        // By hand on a terminal, or a machine without journald: systemd reads the prefix as the priority.
        let _ = writeln!(io::stderr(), "<{}>{}", notice.priority() as u8, notice.message());
    }
}

/// One entry in journald's native form.
fn entry(identifier: &str, notice: &Notice) -> Vec<u8> {
    let mut out = vec![];
    field(&mut out, "MESSAGE", &notice.message());
    field(&mut out, "PRIORITY", &(notice.priority() as u8).to_string());
    field(&mut out, "SYSLOG_IDENTIFIER", identifier);
    if !notice.id().is_empty() {
        field(&mut out, "MESSAGE_ID", notice.id());
    }
    for (name, value) in notice.fields() {
        field(&mut out, name, &value);
    }
    out
}

/// A value with a newline goes with its length, or its next line would be read as another field.
fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_newline_cannot_forge_a_field() {
        let notice =
            Notice::AlarmRaised { alarm: "A".into(), subject: String::new(), text: "x\nPRIORITY=0".into() };
        let entry = entry("dre-elect", &notice);
        let text = String::from_utf8_lossy(&entry);
        assert!(text.contains("PRIORITY=4\n"));
        assert!(text.contains("DRE_TEXT\n\u{c}\0\0\0\0\0\0\0x\nPRIORITY=0\n"), "{text:?}");
        assert!(text.contains("MESSAGE_ID=8f2c3de1b7744c0e9d0ab6ce51f3a712\n"));
    }

    #[test]
    fn a_socket_that_was_made_anew_is_found_again() {
        let path = std::env::temp_dir().join(format!("dre-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut journald = Journald { path: path.clone(), socket: None };
        assert!(journald.send(b"nobody").is_err());
        let mut buffer = [0; 8];
        for word in [b"one", b"two"] {
            let there = UnixDatagram::bind(&path).expect("bound");
            journald.send(word).expect("sent");
            assert_eq!(there.recv(&mut buffer).expect("received"), 3);
            assert_eq!(&buffer[..3], word);
            std::fs::remove_file(&path).expect("removed");
        }
    }

    #[test]
    fn a_full_queue_never_waits() {
        let (queue, _entries) = sync_channel(1);
        let journal = Journal { queue, lost: Arc::default(), level: Arc::new(AtomicU8::new(7)) };
        for _ in 0..10 {
            journal.log(Notice::Detail { text: "x".into() });
        }
        assert_eq!(journal.lost.load(Ordering::Relaxed), 9);
        journal.set_level(Priority::Info);
        journal.log(Notice::Detail { text: "x".into() });
        assert_eq!(journal.lost.load(Ordering::Relaxed), 9, "below the level, yet queued");
    }
}
