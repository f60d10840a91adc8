//! The control socket: Varlink, interface `io.dre.Control`, for `drectl`, `varlinkctl` and the web page.
//!
//! ```text
//!   a connection ──▶ status()         (reading)
//!                ──▶ changed          (Watch)
//!                ──▶ requests, reply  (changing)
//! ```
//!
//! `varlink` accepts, limits and serves, on a thread of its own: nothing a client does can hold up a heartbeat.
//!
//! Absent on purpose: what may be done and why not. The machine decides; refusals come back as its sentences.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use zlink::Connection;
use zlink::connection::socket::{FetchPeerCredentials, Socket};
use zlink::introspect::{self, Type};

pub use super::journal::Journal;
use super::varlink::{self, Names, Replies, Rights};
pub use super::varlink::{CONNECTIONS_MAX, REQUEST_MAX};
use crate::logic::node::Command;
use crate::snapshot::{Alarm, Arbitrator, Lease, Link, Peer, Rejected, Service, Status, Takeover, Vips};

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

/// `unit`: the daemon's, without its suffix. Serves `listener` on a thread of its own until the sender of `changed` is dropped. `status` renders what holds at
/// the moment it is called; `changed` counts up whenever that changed.
pub fn serve(
    unit: &str,
    listener: OwnedFd,
    status: impl Fn() -> Status + Send + 'static,
    changed: watch::Receiver<u64>,
    requests: mpsc::Sender<Request>,
    journal: Journal,
) -> io::Result<JoinHandle<()>> {
    let names = Names { thread: "control", unit: format!("{unit}.service") };
    let unit = unit.to_owned();
    let alive = changed.clone();
    varlink::serve(names, listener, alive, journal, move || {
        let status = Box::new(status);
        let shared = Rc::new(Shared { unit, status, changed, requests, rights: Rights::of_this_process() });
        move || Control { shared: shared.clone() }
    })
}

/// What every connection needs.
struct Shared {
    unit: String,
    status: Box<dyn Fn() -> Status>,
    changed: watch::Receiver<u64>,
    requests: mpsc::Sender<Request>,
    rights: Rights,
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
        self.shared.rights.check(conn).await.map_err(|reason| Fault::NotPermitted { reason })?;

        let refused = |reason: &str| Fault::Refused { reason: reason.into() };
        let (reply, answer) = oneshot::channel();
        // A full channel is an election that does not turn: more commands would not help it.
        self.shared
            .requests
            .try_send(Request { command, reply })
            .map_err(|_| refused("dre-elect is busy with earlier commands; try again in a second"))?;
        match timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => answer.map_err(|reason| Fault::Refused { reason }),
            Ok(Err(_)) => Err(refused(&format!(
                "dre-elect is stopping; try again when it is back: systemctl status {}",
                self.shared.unit
            ))),
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
        let shared = self.shared.clone();
        varlink::watch(shared.changed.clone(), more, move || StatusReply { status: (shared.status)() })
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

    /// Gives the lease back. The node stays out of the role until its peer is heard ACTIVE, or somebody takes the lease here. On a
    /// standby it changes nothing: it takes over when the other one is lost.
    async fn lease_release(
        &self,
        unit: Option<String>,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<(), Fault> {
        self.ask(conn, Command::LeaseRelease { unit }).await
    }
}
