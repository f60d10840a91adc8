//! Varlink servers, the part that all of them share: accepting, limits, who may change something, streams.
//!
//! ```text
//!   clients ──▶ accept ──┬─▶ task: one connection, one zlink server ──▶ a service of the module that serves
//!             (evicts    ├─▶ task: …
//!            the stalest)└─▶ task: …
//! ```
//!
//! It runs on an OS thread of its own with its own loop, so nothing a client does can hold up the daemon. zlink's
//! server is one loop for all its connections, and a client that does not read what it asked for (`drectl status
//! --watch` under Ctrl-Z) would hold up everybody: here each connection gets a server of its own.
//!
//! Bounded on purpose, because this memory may be locked: [`CONNECTIONS_MAX`] connections (the one silent for longest
//! makes room), [`REQUEST_MAX`] bytes a request, no file descriptors taken. What is not Varlink closes the
//! connection it came on, and only that one.
//!
//! Absent on purpose: any interface's methods, and what may be done and why not.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::Stream;
use nix::unistd::{Group, Uid, geteuid};
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::sync::watch;
use tokio::task::{JoinHandle as Task, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zlink::connection::socket::{self, FetchPeerCredentials, ReadResult, Socket, UnixSocket};
use zlink::service::Service;
use zlink::{Connection, Reply};

use super::journal::Journal;
use crate::notice::Notice;

/// Connections held open at once; one more closes the one that was silent for longest. Source: two operators, a web
/// page and a monitor need a dozen; the process's 1,024 descriptors are needed elsewhere too.
pub const CONNECTIONS_MAX: usize = 128;

/// Longest request, bytes. Source: the longest sensible one has 120.
pub const REQUEST_MAX: usize = 16 * 1024;

/// Two replies of a watch are at least this far apart: about 20 a second, faster than an eye.
const WATCH_GAP: Duration = Duration::from_millis(50);

/// A watch says something at least this often, so that ages move and a reader that is gone is noticed.
const WATCH_IDLE: Duration = Duration::from_secs(1);

/// What a server is called where it must be named.
#[derive(Debug, Clone)]
pub struct Names {
    /// Of its thread.
    pub thread: &'static str,
    /// The unit to restart.
    pub unit: String,
}

/// Serves `listener` on a thread of its own until the sender of `changed` is dropped. `build` is called once there;
/// what it answers makes the service of each connection.
pub fn serve<Make, Served>(
    names: Names,
    listener: OwnedFd,
    changed: watch::Receiver<u64>,
    journal: Journal,
    build: impl FnOnce() -> Make + Send + 'static,
) -> io::Result<JoinHandle<()>>
where
    Make: Fn() -> Served,
    Served: Service<Wire> + 'static,
{
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name(names.thread.into())
        // Locked memory: the default of 2 MB would be taken from the machine at once.
        .stack_size(512 * 1024)
        .spawn(move || {
            LocalSet::new().block_on(&runtime, async move {
                let listener = match UnixListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        let text = format!(
                            "the control socket cannot be polled ({error}); drectl will not work until {} is \
                             restarted",
                            names.unit
                        );
                        journal.log(Notice::Trouble { text });
                        return;
                    }
                };
                accept(listener, changed, journal, build()).await;
            });
        })
}

/// A connection that is served.
struct Open {
    task: Task<()>,
    /// When bytes last went either way.
    touched: Rc<Cell<Instant>>,
}

async fn accept<Served>(
    listener: UnixListener,
    mut alive: watch::Receiver<u64>,
    journal: Journal,
    service: impl Fn() -> Served,
) where
    Served: Service<Wire> + 'static,
{
    let mut open: Vec<Open> = vec![];
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = closed(&mut alive) => return,
        };
        open.retain(|connection| !connection.task.is_finished());
        match accepted {
            Ok((stream, _)) => {
                while open.len() >= CONNECTIONS_MAX {
                    evict(&mut open);
                }
                let touched = Rc::new(Cell::new(Instant::now()));
                let wire = Wire { stream, touched: touched.clone() };
                let server = zlink::Server::new(zlink::ReadyListener::new(wire), service());
                let journal = journal.clone();
                let task = spawn_local(async move {
                    // An error here is the end of this connection, and of nothing else.
                    if let Err(error) = server.run().await {
                        let text = format!("a connection on the control socket ended: {error}");
                        journal.log(Notice::Detail { text });
                    }
                });
                open.push(Open { task, touched });
            }
            // Out of descriptors, most likely: give some back, and do not spin.
            Err(error) => {
                let text = format!("the control socket accepts nothing right now: {error}");
                journal.log(Notice::Trouble { text });
                evict(&mut open);
                sleep(WATCH_GAP).await;
            }
        }
    }
}

/// Closes the connection that was silent for longest.
fn evict(open: &mut Vec<Open>) {
    let stalest = open.iter().enumerate().min_by_key(|(_, connection)| connection.touched.get());
    if let Some((index, _)) = stalest {
        open.swap_remove(index).task.abort();
    }
}

/// Returns when nobody is left who could tell of changes.
async fn closed(changed: &mut watch::Receiver<u64>) {
    while changed.changed().await.is_ok() {}
}

// ---- who may -----------------------------------------------------------------------------------------------

/// Who may change something: root, the daemon's own user, members of group `dre`. Reading is for whoever could open
/// the socket, and its mode decides that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    uid: u32,
    gid: Option<u32>,
}

impl Rights {
    pub fn of_this_process() -> Self {
        let group = Group::from_name("dre").ok().flatten();
        Self { uid: geteuid().as_raw(), gid: group.map(|group| group.gid.as_raw()) }
    }

    /// Whether the caller on this connection may; else the sentence that says why not.
    pub async fn check<Sock>(&self, conn: &mut Connection<Sock>) -> Result<(), String>
    where
        Sock: Socket,
        Sock::ReadHalf: FetchPeerCredentials,
    {
        let denied = |who: String| {
            format!("{who} may read the status but change nothing; run it as root or join group dre")
        };
        let caller =
            conn.peer_credentials().await.map_err(|error| denied(format!("an unknown caller ({error})")))?;
        let uid = caller.unix_user_id().as_raw();
        let mut groups = vec![caller.unix_primary_group_id().as_raw()];
        groups.extend(caller.unix_supplementary_group_ids().iter().map(|gid| gid.as_raw()));
        if self.allow(uid, &groups) { Ok(()) } else { Err(denied(format!("uid {uid}"))) }
    }

    fn allow(&self, uid: u32, groups: &[u32]) -> bool {
        uid == Uid::from_raw(0).as_raw()
            || uid == self.uid
            || self.gid.is_some_and(|gid| groups.contains(&gid))
    }
}

// ---- streams -----------------------------------------------------------------------------------------------

/// The replies of a streaming method; a type with a name, because the macro reads the reply from its parameter.
pub struct Replies<T>(Pin<Box<dyn Stream<Item = Reply<T>>>>);

/// What `render` says now and after each change, at most 20 times a second and at least once; without `more` once.
pub fn watch<T: 'static>(
    changed: watch::Receiver<u64>,
    more: bool,
    render: impl Fn() -> T + 'static,
) -> Replies<T> {
    Replies(Box::pin(futures_util::stream::unfold(
        (render, changed, None::<Instant>, false),
        move |(render, mut changed, last, over)| async move {
            if over {
                return None;
            }
            let mut over = !more;
            if let Some(last) = last {
                // First the pause, then the wait: whatever happens during the pause is one reply.
                sleep_until(last + WATCH_GAP).await;
                if let Ok(Err(_)) = timeout(WATCH_IDLE - WATCH_GAP, changed.changed()).await {
                    over = true;
                }
            }
            changed.borrow_and_update();
            let reply = Reply::new(Some(render())).set_continues(Some(!over));
            Some((reply, (render, changed, Some(Instant::now()), over)))
        },
    )))
}

impl<T> Stream for Replies<T> {
    type Item = Reply<T>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

// ---- the wire ----------------------------------------------------------------------------------------------

/// A stream that reads no descriptors (whoever sends them would fill this process's table), bounds a request, and
/// remembers when it last moved.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    touched: Rc<Cell<Instant>>,
}

#[derive(Debug)]
pub struct ReadHalf {
    half: unix::OwnedReadHalf,
    touched: Rc<Cell<Instant>>,
    /// Bytes since the last NUL.
    unfinished: usize,
}

#[derive(Debug)]
pub struct WriteHalf {
    half: unix::OwnedWriteHalf,
    touched: Rc<Cell<Instant>>,
}

impl Socket for Wire {
    type ReadHalf = ReadHalf;
    type WriteHalf = WriteHalf;

    fn split(self) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.stream.into_split();
        (
            ReadHalf { half: read, touched: self.touched.clone(), unfinished: 0 },
            WriteHalf { half: write, touched: self.touched },
        )
    }
}

impl socket::ReadHalf for ReadHalf {
    async fn read(&mut self, buf: &mut [u8]) -> zlink::Result<ReadResult> {
        // Cancel-safe: nothing is taken from the socket before the last await is over.
        loop {
            self.half.readable().await?;
            match self.half.try_read(buf) {
                Ok(count) => {
                    self.unfinished = after(self.unfinished, buf.get(..count).unwrap_or_default());
                    if self.unfinished > REQUEST_MAX {
                        return Err(zlink::Error::BufferOverflow);
                    }
                    self.touched.set(Instant::now());
                    return Ok(ReadResult::new(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Bytes of a request that is not complete, after `bytes` came.
fn after(unfinished: usize, bytes: &[u8]) -> usize {
    match bytes.iter().rposition(|byte| *byte == 0) {
        Some(at) => bytes.len() - at - 1,
        None => unfinished + bytes.len(),
    }
}

impl socket::WriteHalf for WriteHalf {
    async fn write(
        &mut self,
        mut buf: &[u8],
        _fds: &[impl AsFd],
        _credentials: Option<&zlink::connection::PassedCredentials>,
    ) -> zlink::Result<()> {
        while !buf.is_empty() {
            self.half.writable().await?;
            match self.half.try_write(buf) {
                Ok(count) => {
                    buf = buf.get(count..).unwrap_or_default();
                    self.touched.set(Instant::now());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl AsFd for ReadHalf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let stream: &UnixStream = self.half.as_ref();
        stream.as_fd()
    }
}

impl UnixSocket for ReadHalf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_daemon_and_the_group_may_change_things_and_nobody_else() {
        let rights = Rights { uid: 990, gid: Some(980) };
        assert!(rights.allow(0, &[0]));
        assert!(rights.allow(990, &[990]));
        assert!(rights.allow(1000, &[1000, 27, 980]));
        assert!(!rights.allow(1000, &[1000, 27]));
        assert!(!rights.allow(1000, &[]));
        // Without the group on this machine, gid 0 of a stranger is not it.
        assert!(!Rights { uid: 990, gid: None }.allow(1000, &[0]));
    }

    #[test]
    fn a_request_is_as_long_as_what_came_since_the_last_nul() {
        assert_eq!(after(0, b"{\"met"), 5);
        assert_eq!(after(5, b"hod\""), 9);
        assert_eq!(after(9, b"}\0"), 0);
        assert_eq!(after(0, b"{}\0{}\0{\"m"), 3);
        assert_eq!(after(7, b""), 7);
    }
}
