//! The control socket of dre-mysql: how the server stands, and the operator's word where the agent does not go on by itself.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use zlink::Connection;
use zlink::connection::socket::{FetchPeerCredentials, Socket};
use zlink::introspect::{self, Type};

use super::journal::Journal;
use super::varlink::{self, Names, Replies, Rights};
use crate::database::{DatabasePeer, DatabaseReplication, DatabaseSetting, DatabaseStatus, RESEEDING};
use crate::logic::db::facts::Command;

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What is told of a copy holds for so long.
const TOLD_FOR: Duration = Duration::from_secs(5);

/// An operator's word on its way to the loop, and where its sentence goes: what comes of it, or why nothing does.
pub type Asked = (Command, oneshot::Sender<Result<String, String>>);

/// Serves `listener` on a thread of its own until the sender of `changed` is dropped.
pub fn serve(
    unit: &str,
    listener: OwnedFd,
    status: impl Fn() -> DatabaseStatus + Send + 'static,
    changed: watch::Receiver<u64>,
    asks: mpsc::Sender<Asked>,
    journal: Journal,
) -> io::Result<JoinHandle<()>> {
    let names = Names { thread: "control", unit: unit.into() };
    let alive = changed.clone();
    varlink::serve(names, listener, alive, journal, move || {
        let status = Box::new(status);
        let shared = Rc::new(Shared {
            status,
            changed,
            asks,
            rights: Rights::of_this_process(),
            reseeding: Cell::new(None),
        });
        move || Database { shared: shared.clone() }
    })
}

struct Shared {
    status: Box<dyn Fn() -> DatabaseStatus>,
    changed: watch::Receiver<u64>,
    asks: mpsc::Sender<Asked>,
    rights: Rights,
    /// A copy on its way: when it was told, bytes, of how many.
    reseeding: Cell<Option<(Instant, u64, u64)>>,
}

impl Shared {
    fn status(&self) -> DatabaseStatus {
        let mut status = (self.status)();
        if let Some((_, done, total)) = self.reseeding.get().filter(|(at, ..)| at.elapsed() < TOLD_FOR) {
            status.reason = format!(
                "{done} of {total} bytes of the peer's copy are here; before: {} {}",
                status.state, status.reason
            );
            status.state = RESEEDING.into();
            status.remedy = String::new();
        }
        status
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
struct StatusReply {
    /// What `drectl db status --json` prints.
    status: DatabaseStatus,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
struct Done {
    /// A sentence.
    done: String,
}

/// Why a call did nothing.
#[derive(Debug, Clone, PartialEq, zlink::ReplyError, introspect::ReplyError)]
#[zlink(interface = "io.dre.Database")]
enum Fault {
    /// Not now: the reason is a sentence that ends with the remedy.
    Refused { reason: String },
    /// Not for this caller.
    NotPermitted { reason: String },
}

struct Database {
    shared: Rc<Shared>,
}

impl Database {
    async fn ask<Sock>(&self, conn: &mut Connection<Sock>, command: Command) -> Result<Done, Fault>
    where
        Sock: Socket,
        Sock::ReadHalf: FetchPeerCredentials,
    {
        self.shared.rights.check(conn).await.map_err(|reason| Fault::NotPermitted { reason })?;
        let busy = || Fault::Refused {
            reason: "dre-mysql does not answer; look at it: systemctl status 'dre-mysql@*'".into(),
        };
        let (reply, answer) = oneshot::channel();
        self.shared.asks.try_send((command, reply)).map_err(|_| busy())?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer.map(|done| Done { done }).map_err(|reason| Fault::Refused { reason }),
            _ => Err(busy()),
        }
    }
}

/// The control interface of a database's agent.
///
/// Reading is for whoever can open the socket, changing for root and for members of group dre.
#[zlink::service(
    interface = "io.dre.Database",
    types = [DatabaseStatus, DatabasePeer, DatabaseReplication, DatabaseSetting],
    vendor = "dre",
    product = "dre-mysql",
    version = env!("CARGO_PKG_VERSION"),
    url = "file:///usr/share/doc/dre/README.md"
)]
impl<Sock> Database
where
    Sock::ReadHalf: FetchPeerCredentials,
{
    /// How the server stands, at the moment of the call.
    async fn status(&self) -> StatusReply {
        StatusReply { status: self.shared.status() }
    }

    /// The status now and after each change, at most 20 a second and at least one a second.
    #[zlink(more)]
    async fn watch(&self, more: bool) -> Replies<StatusReply> {
        let shared = self.shared.clone();
        varlink::watch(shared.changed.clone(), more, move || StatusReply { status: shared.status() })
    }

    /// The next promotion here takes what is there, whatever is lost.
    async fn promote(
        &self,
        force: bool,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<Done, Fault> {
        self.ask(conn, Command::Promote { force }).await
    }

    /// Replicates although this server has transactions that the peer lacks.
    async fn accept_errant(&self, #[zlink(connection)] conn: &mut Connection<Sock>) -> Result<Done, Fault> {
        self.ask(conn, Command::AcceptErrant).await
    }

    /// A copy of the peer's server is on its way here: for the status, for some seconds.
    async fn reseeding(
        &self,
        done: u64,
        total: u64,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<Done, Fault> {
        self.shared.rights.check(conn).await.map_err(|reason| Fault::NotPermitted { reason })?;
        self.shared.reseeding.set(Some((Instant::now(), done, total)));
        Ok(Done { done: "told".into() })
    }

    /// The server's data is a fresh copy of the peer's: what was kept of the old ones is forgotten.
    async fn reseeded(&self, #[zlink(connection)] conn: &mut Connection<Sock>) -> Result<Done, Fault> {
        self.ask(conn, Command::Reseeded).await
    }
}
