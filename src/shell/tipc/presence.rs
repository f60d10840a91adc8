//! The name by which the peer's kernel learns of this process's end.
//!
//! A killed process is taken apart in the order in which the kernel pleases: first its memory, when the last thread has gone,
//! then its descriptors, of which each may take its time (37 ms before the first TIPC socket was closed, seen on an emulated
//! processor). A thread whose table of descriptors is its own takes that along when it ends itself, which is at once. So the
//! name lies with a thread that has nothing else and does nothing but wait.
//!
//! ```text
//!   Presence ── channel ──▶ thread: leaves the common table, closes all of its own, binds the name, waits for the channel's end
//!   SIGKILL ───────────▶ every thread ends; this one's table with it: the name is withdrawn
//! ```

use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel};

use socket2::{Socket, Type};

use crate::config::TipcAddress;
use crate::logic::time::Moment;
use crate::shell::realtime;
use crate::shell::tipc::{CLUSTER_SCOPE, PRESENCE, RETRY, SERVICE_RANGE, address, socket};

/// The thread's life: it ends when this is dropped. (A descriptor could not say so: in which table would it be closed?)
type Alive = Sender<Infallible>;

enum State {
    Closed,
    Opening(Alive, Receiver<io::Result<()>>),
    Held(#[expect(dead_code, reason = "its end is the thread's")] Alive),
}

/// This node's name, as long as this is there.
pub struct Presence {
    local: TipcAddress,
    state: State,
    retry_at: Moment,
    error: Option<String>,
}

impl Presence {
    /// Not bound yet: see [`Self::retry`].
    pub fn new(local: TipcAddress, now: Moment) -> Self {
        Self { local, state: State::Closed, retry_at: now, error: None }
    }

    /// Has the name bound, or asks how that went; never waits.
    pub fn retry(&mut self, now: Moment) {
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Closed if now >= self.retry_at => match start(self.local) {
                Ok((alive, answer)) => State::Opening(alive, answer),
                Err(error) => self.failed(now, &error),
            },
            State::Opening(alive, answer) => match answer.try_recv() {
                Ok(Ok(())) => {
                    self.error = None;
                    State::Held(alive)
                }
                Ok(Err(error)) => self.failed(now, &error),
                Err(TryRecvError::Disconnected) => self.failed(now, &io::Error::other("its thread ended")),
                Err(TryRecvError::Empty) => State::Opening(alive, answer),
            },
            other => other,
        };
    }

    fn failed(&mut self, now: Moment, error: &io::Error) -> State {
        self.error = Some(format!("the name of this process over TIPC: {error}"));
        self.retry_at = now + RETRY;
        State::Closed
    }

    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }
}

fn start(local: TipcAddress) -> io::Result<(Alive, Receiver<io::Result<()>>)> {
    let (alive, end) = channel();
    let (tell, answer) = sync_channel(1);
    std::thread::Builder::new().name("presence".into()).stack_size(128 << 10).spawn(move || {
        // It must not wait for a turn when all threads end at once. Refused: said at the daemon's start already.
        let _ = realtime::turn(realtime::ELECT);
        match alone().and_then(|()| publish(local)) {
            Err(error) => drop(tell.send(Err(error))),
            Ok(_name) => {
                let _ = tell.send(Ok(()));
                let _ = end.recv();
            }
        }
    })?;
    Ok((alive, answer))
}

/// Leaves the process's table of descriptors, and keeps nothing of it: what the process closes must be closed.
fn alone() -> io::Result<()> {
    // SAFETY: only this thread's table changes, and this thread uses no descriptor that it did not open after it.
    unsafe {
        if libc::unshare(libc::CLONE_FILES) != 0 || libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) != 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn publish(local: TipcAddress) -> io::Result<Socket> {
    let socket = socket(Type::from(libc::SOCK_RDM))?;
    socket.bind(&address(SERVICE_RANGE, CLUSTER_SCOPE, [PRESENCE, local.0, local.0])?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    /// What the process closes is closed, whatever the thread's table had when it was copied.
    #[test]
    fn the_thread_keeps_nothing_of_the_process() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (alive, end) = channel::<Infallible>();
        let (tell, told) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            tell.send(alone()).expect("heard");
            end.recv().is_err()
        });
        told.recv().expect("an answer").expect("alone");
        drop(theirs);
        ours.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
        assert_eq!((&ours).read(&mut [0]).expect("the end and no time-out"), 0);
        drop(alive);
        assert!(thread.join().expect("ends"));
    }

    /// Where it cannot be held it is tried again every half second, for months.
    #[test]
    fn a_try_leaves_no_descriptor_behind() {
        let links = || {
            let all = std::fs::read_dir("/proc/self/fd").expect("proc");
            let target =
                |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
            all.filter_map(target).filter(|to| to.to_string_lossy().starts_with("pipe:")).count()
        };
        let before = links();
        for _ in 0..20 {
            let (alive, answer) = start(TipcAddress(0x0100_1017)).expect("a thread");
            let _ = answer.recv().expect("an answer");
            drop(alive);
        }
        assert!(links() <= before + 4, "{} descriptors, {before} before", links());
    }

    /// Without TIPC in the kernel the error is the one that says what to do; with it, the name is bound.
    #[test]
    fn it_is_held_or_says_why_not() {
        let begun = Instant::now();
        let at = |begun: Instant| Moment::from_nanos(begun.elapsed().as_nanos() as u64);
        let mut presence = Presence::new(TipcAddress(0x0100_1017), at(begun));
        loop {
            presence.retry(at(begun));
            match (&presence.state, presence.error()) {
                (State::Held(_), None) => return,
                (_, Some(text)) if text.contains("TIPC") => return,
                _ => assert!(begun.elapsed() < Duration::from_secs(10), "neither held nor refused"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
