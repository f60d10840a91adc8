//! The control socket: Varlink, interface `io.dre.Control`, for `drectl`, `varlinkctl` and the web page.
//!
//! ```text
//!   clients ──▶ accept ──┬─▶ task: one connection, one zlink server ──▶ status()         (reading)
//!             (evicts    ├─▶ task: …                                ──▶ changed         (Watch)
//!            the stalest)└─▶ task: …                                ──▶ requests, reply (changing)
//! ```
//!
//! It runs on an OS thread of its own with its own loop, so nothing a client does can hold up a heartbeat. zlink's
//! server is one loop for all its connections, and a client that does not read what it asked for (`drectl status
//! --watch` under Ctrl-Z) would hold up everybody: here each connection gets a server of its own.
//!
//! Bounded on purpose, because this memory is locked: [`CONNECTIONS_MAX`] connections (the one silent for longest
//! makes room), [`REQUEST_MAX`] bytes a request, no file descriptors taken. What is not Varlink closes the
//! connection it came on, and only that one.
//!
//! Absent on purpose: what may be done and why not. The machine decides; refusals come back as its sentences.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::Stream;
use nix::unistd::{Group, Uid, geteuid};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle as Task, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zlink::connection::socket::{self, FetchPeerCredentials, ReadResult, Socket, UnixSocket};
use zlink::introspect::{self, Type};
use zlink::{Connection, Reply};

pub use super::journal::Journal;
use crate::logic::node::Command;
use crate::notice::Notice;
use crate::snapshot::{Alarm, Arbitrator, Lease, Link, Peer, Rejected, Service, Status, Takeover, Vips};

/// Connections held open at once; one more closes the one that was silent for longest. Source: two operators, a web
/// page and a monitor need a dozen; the process's 1,024 descriptors are needed elsewhere too.
pub const CONNECTIONS_MAX: usize = 128;

/// Longest request, bytes. Source: the longest sensible one has 120.
pub const REQUEST_MAX: usize = 16 * 1024;

/// Two statuses on a `Watch` are at least this far apart: about 20 a second, faster than an eye.
const WATCH_GAP: Duration = Duration::from_millis(50);

/// A `Watch` says something at least this often, so that ages move and a reader that is gone is noticed.
const WATCH_IDLE: Duration = Duration::from_secs(1);

/// The election answers a command within its turn; longer means that it is stuck and its watchdog is about to bark.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// A command on its way to the election.
#[derive(Debug)]
pub struct Request {
    pub command: Command,
    /// Accepted, or the sentence that says why not and what to do. Accepted means begun, not done: the status tells
    /// the rest.
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// Serves `listener` on a thread of its own until the sender of `changed` is dropped. `status` renders what holds at
/// the moment it is called; `changed` counts up whenever that changed.
pub fn serve(
    listener: OwnedFd,
    status: impl Fn() -> Status + Send + 'static,
    changed: watch::Receiver<u64>,
    requests: mpsc::Sender<Request>,
    journal: Journal,
) -> io::Result<JoinHandle<()>> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name("control".into())
        // Locked memory: the default of 2 MB would be taken from the machine at once.
        .stack_size(512 * 1024)
        .spawn(move || {
            LocalSet::new().block_on(&runtime, async move {
                let listener = match UnixListener::from_std(listener) {
                    Ok(listener) => listener,
                    Err(error) => {
                        let text = format!(
                            "the control socket cannot be polled ({error}); drectl will not work until dre.service is \
                             restarted"
                        );
                        journal.log(Notice::Trouble { text });
                        return;
                    }
                };
                let shared = Rc::new(Shared {
                    status: Box::new(status),
                    changed,
                    requests,
                    rights: Rights::of_this_process(),
                    journal,
                });
                accept(listener, shared).await;
            });
        })
}

/// What every connection needs.
struct Shared {
    status: Box<dyn Fn() -> Status>,
    changed: watch::Receiver<u64>,
    requests: mpsc::Sender<Request>,
    rights: Rights,
    journal: Journal,
}

/// A connection that is served.
struct Open {
    task: Task<()>,
    /// When bytes last went either way.
    touched: Rc<Cell<Instant>>,
}

async fn accept(listener: UnixListener, shared: Rc<Shared>) {
    let mut open: Vec<Open> = vec![];
    let mut alive = shared.changed.clone();
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
                let control = Control { shared: shared.clone() };
                let server = zlink::Server::new(zlink::ReadyListener::new(wire), control);
                let journal = shared.journal.clone();
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
                shared.journal.log(Notice::Trouble { text });
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
struct Rights {
    uid: u32,
    gid: Option<u32>,
}

impl Rights {
    fn of_this_process() -> Self {
        let group = Group::from_name("dre").ok().flatten();
        Self { uid: geteuid().as_raw(), gid: group.map(|group| group.gid.as_raw()) }
    }

    fn allow(&self, uid: u32, groups: &[u32]) -> bool {
        uid == Uid::from_raw(0).as_raw()
            || uid == self.uid
            || self.gid.is_some_and(|gid| groups.contains(&gid))
    }
}

// ---- the interface -----------------------------------------------------------------------------------------

/// The one parameter of what `Status` and `Watch` answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
struct StatusReply {
    /// What `drectl status --json` prints.
    status: Status,
}

/// Why a call did nothing.
#[derive(Debug, Clone, PartialEq, zlink::ReplyError, introspect::ReplyError)]
#[zlink(interface = "io.dre.Control")]
enum Fault {
    /// Not now: the reason is a sentence that ends with the remedy.
    Refused { reason: String },
    /// Not for this caller.
    NotPermitted { reason: String },
}

/// One connection.
struct Control {
    shared: Rc<Shared>,
}

impl Control {
    /// Checks the caller, hands the command over, waits for yes or no.
    async fn ask<Sock>(&self, conn: &mut Connection<Sock>, command: Command) -> Result<(), Fault>
    where
        Sock: Socket,
        Sock::ReadHalf: FetchPeerCredentials,
    {
        let denied = |who: String| Fault::NotPermitted {
            reason: format!("{who} may read the status but change nothing; run it as root or join group dre"),
        };
        let caller =
            conn.peer_credentials().await.map_err(|error| denied(format!("an unknown caller ({error})")))?;
        let uid = caller.unix_user_id().as_raw();
        let mut groups = vec![caller.unix_primary_group_id().as_raw()];
        groups.extend(caller.unix_supplementary_group_ids().iter().map(|gid| gid.as_raw()));
        if !self.shared.rights.allow(uid, &groups) {
            return Err(denied(format!("uid {uid}")));
        }

        let refused = |reason: &str| Fault::Refused { reason: reason.into() };
        let (reply, answer) = oneshot::channel();
        // A full channel is an election that does not turn: more commands would not help it.
        self.shared
            .requests
            .try_send(Request { command, reply })
            .map_err(|_| refused("dre-elect is busy with earlier commands; try again in a second"))?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer.map_err(|reason| Fault::Refused { reason }),
            Ok(Err(_)) => {
                Err(refused("dre-elect is stopping; try again when it is back: systemctl status dre"))
            }
            Err(_) => Err(refused(
                "dre-elect did not answer within 5 s, so it may or may not have begun; look at drectl status",
            )),
        }
    }
}

/// The control interface of dre-elect: what this node of the pair is and sees, and the operator's commands.
///
/// Reading is for whoever can open the socket, changing for root and for members of group dre.
#[zlink::service(
    interface = "io.dre.Control",
    types = [Status, Lease, Peer, Link, Arbitrator, Vips, Service, Alarm, Takeover, Rejected],
    vendor = "dre",
    product = "dre-elect",
    version = env!("CARGO_PKG_VERSION"),
    url = "file:///usr/share/doc/dre/README.md"
)]
impl<Sock> Control
where
    Sock::ReadHalf: FetchPeerCredentials,
{
    /// What this node is and sees, at the moment of the call.
    async fn status(&self) -> StatusReply {
        StatusReply { status: (self.shared.status)() }
    }

    /// The status now and after each change, at most 20 a second and at least one a second.
    #[zlink(more)]
    async fn watch(&self, more: bool) -> Replies<StatusReply> {
        watch_status(self.shared.clone(), more)
    }

    /// Moves the role to the node named (default: the one that does not have it). Answers as soon as it is accepted
    /// or refused; Watch shows when it is done.
    async fn switchover(
        &self,
        to: Option<String>,
        force: Option<bool>,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<(), Fault> {
        self.ask(conn, Command::Switchover { to, force: force.unwrap_or(false) }).await
    }

    /// Asks for the lease for this node: the peer, if it is active, hands over. Answers as soon as it is accepted or
    /// refused; Watch shows when the lease is held. `unit`: the invocation of dre-lease.service, when it is the one that
    /// asks. `force`: also when the configurations differ.
    async fn lease_take(
        &self,
        unit: Option<String>,
        force: Option<bool>,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<(), Fault> {
        self.ask(conn, Command::LeaseTake { unit, force: force.unwrap_or(false) }).await
    }

    /// Gives the lease back and holds this node back until somebody takes the lease here again.
    async fn lease_release(
        &self,
        unit: Option<String>,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<(), Fault> {
        self.ask(conn, Command::LeaseRelease { unit }).await
    }
}

/// The replies of a `Watch`; a type with a name, because the macro reads the reply from its parameter.
struct Replies<T>(Pin<Box<dyn Stream<Item = Reply<T>>>>);

fn watch_status(shared: Rc<Shared>, more: bool) -> Replies<StatusReply> {
    let changed = shared.changed.clone();
    Replies(Box::pin(futures_util::stream::unfold(
        (shared, changed, None::<Instant>, false),
        move |(shared, mut changed, last, over)| async move {
            if over {
                return None;
            }
            let mut over = !more;
            if let Some(last) = last {
                // First the pause, then the wait: whatever happens during the pause is one status.
                sleep_until(last + WATCH_GAP).await;
                if let Ok(Err(_)) = timeout(WATCH_IDLE - WATCH_GAP, changed.changed()).await {
                    over = true;
                }
            }
            changed.borrow_and_update();
            let reply =
                Reply::new(Some(StatusReply { status: (shared.status)() })).set_continues(Some(!over));
            Some((reply, (shared, changed, Some(Instant::now()), over)))
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
struct Wire {
    stream: UnixStream,
    touched: Rc<Cell<Instant>>,
}

#[derive(Debug)]
struct ReadHalf {
    half: unix::OwnedReadHalf,
    touched: Rc<Cell<Instant>>,
    /// Bytes since the last NUL.
    unfinished: usize,
}

#[derive(Debug)]
struct WriteHalf {
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
