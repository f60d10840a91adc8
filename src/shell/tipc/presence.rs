//! The name by which the peer's kernel learns of this process's end.
//!
//! A killed process is taken apart in the order in which the kernel pleases: first its memory, when the last thread has gone,
//! then its descriptors, of which each may take its time (37 ms before the first TIPC socket was closed, seen on an emulated
//! processor). A thread whose table of descriptors is its own takes that along when it ends itself, which is at once. So the
//! name lies with a thread that has nothing else and does nothing but wait.
//!
//! ```text
//!   Presence ── pipe ──▶ thread: leaves the common table, closes all but the pipe, binds the name, waits for the pipe's end
//!   SIGKILL ───────────▶ every thread ends; this one's table with it: the name is withdrawn
//! ```

use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use socket2::{Socket, Type};

use crate::config::TipcAddress;
use crate::logic::time::Moment;
use crate::shell::realtime;
use crate::shell::tipc::{CLUSTER_SCOPE, PRESENCE, RETRY, SERVICE_RANGE, address, socket};

enum State {
    Closed,
    Opening(PipeWriter, Receiver<io::Result<()>>),
    Held(#[expect(dead_code, reason = "its end is the thread's")] PipeWriter),
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

fn start(local: TipcAddress) -> io::Result<(PipeWriter, Receiver<io::Result<()>>)> {
    let (mut end, alive) = io::pipe()?;
    let (tell, answer) = sync_channel(1);
    std::thread::Builder::new().name("presence".into()).stack_size(128 << 10).spawn(move || {
        // It must not wait for a turn when all threads end at once. Refused: said at the daemon's start already.
        let _ = realtime::turn(realtime::ELECT);
        let name = alone(&end).and_then(|()| publish(local));
        let held = name.is_ok();
        let _ = tell.send(name.as_ref().map(|_| ()).map_err(|e| io::Error::new(e.kind(), e.to_string())));
        if held {
            let _ = end.read(&mut [0]);
        }
    })?;
    Ok((alive, answer))
}

/// Leaves the process's table of descriptors and keeps of it `end` alone: what the process closes must be closed.
fn alone(end: &PipeReader) -> io::Result<()> {
    let fd = u32::try_from(end.as_raw_fd()).map_err(io::Error::other)?;
    let below = fd.checked_sub(1).map(|last| (0, last));
    // SAFETY: only this thread's table changes, and this thread uses no descriptor but `end` after it; the ranges leave that out.
    unsafe {
        if libc::unshare(libc::CLONE_FILES) != 0 {
            return Err(io::Error::last_os_error());
        }
        for (first, last) in below.into_iter().chain([(fd + 1, u32::MAX)]) {
            if libc::syscall(libc::SYS_close_range, first, last, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
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
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    /// What the process closes is closed, whatever the thread's table had when it was copied; and the thread ends with the pipe.
    #[test]
    fn the_thread_keeps_nothing_but_the_pipe() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (mut end, alive) = io::pipe().expect("a pipe");
        let (tell, told) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let done = alone(&end);
            tell.send(done).expect("heard");
            end.read(&mut [0]).expect("the end")
        });
        told.recv().expect("an answer").expect("alone");
        drop(theirs);
        ours.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
        assert_eq!((&ours).read(&mut [0]).expect("the end and no time-out"), 0);
        drop(alive);
        assert_eq!(thread.join().expect("ends"), 0);
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
            std::io::stdout().flush().expect("flushed");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
