//! The control socket of dre-sync: Varlink, interface `io.dre.Rules`, for `drectl rules`, `varlinkctl` and the web page.
//!
//! ```text
//!   a connection ──▶ status()            (reading)
//!                ──▶ changed             (Watch)
//!                ──▶ (Ask, reply) ──▶    Answer
//! ```
//!
//! `varlink` accepts, limits and serves, on a thread of its own: nothing a client does can hold up a file.
//!
//! Absent on purpose: what may be done and why not. The sets' workers decide; refusals come back as their sentences.

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
use crate::rules::{Answer, Ask, Counters, Kept, RulesStatus, SetStatus};
use crate::snapshot::Alarm;

/// A worker answers between two batches; the longest step of one is a `validate` of ten minutes at most (config), but
/// nobody waits that long for a list.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Looking at every byte of a large set takes its time; longer than this, and the disk is the matter.
const VERIFY_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// An operator's word on its way to dre-sync, and where the answer goes.
pub type Asked = (Ask, oneshot::Sender<Answer>);

/// Serves `listener` on a thread of its own until the sender of `changed` is dropped. `status` renders what holds at
/// the moment it is called; `changed` counts up whenever that changed.
pub fn serve(
    listener: OwnedFd,
    status: impl Fn() -> RulesStatus + Send + 'static,
    changed: watch::Receiver<u64>,
    asks: mpsc::Sender<Asked>,
    journal: Journal,
) -> io::Result<JoinHandle<()>> {
    let names = Names { thread: "control", unit: "dre-sync.service".into() };
    let alive = changed.clone();
    varlink::serve(names, listener, alive, journal, move || {
        let status = Box::new(status);
        let shared = Rc::new(Shared { status, changed, asks, rights: Rights::of_this_process() });
        move || Rules { shared: shared.clone() }
    })
}

/// What every connection needs.
struct Shared {
    status: Box<dyn Fn() -> RulesStatus>,
    changed: watch::Receiver<u64>,
    asks: mpsc::Sender<Asked>,
    rights: Rights,
}

/// The one parameter of what `Status` and `Watch` answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
struct StatusReply {
    /// What `drectl rules status --json` prints.
    status: RulesStatus,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
struct Done {
    /// A sentence.
    done: String,
}

/// Things kept outside the live tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Type)]
struct KeptReply {
    /// What `drectl rules conflicts --json` and `trash --json` print.
    kept: Vec<Kept>,
}

/// Why a call did nothing.
#[derive(Debug, Clone, PartialEq, zlink::ReplyError, introspect::ReplyError)]
#[zlink(interface = "io.dre.Rules")]
enum Fault {
    /// Not now: the reason is a sentence that ends with the remedy.
    Refused { reason: String },
    /// Not for this caller.
    NotPermitted { reason: String },
}

/// One connection.
struct Rules {
    shared: Rc<Shared>,
}

impl Rules {
    /// Hands the word over and waits for what comes of it.
    async fn ask(&self, ask: Ask) -> Result<Answer, Fault> {
        let refused = |reason: &str| Fault::Refused { reason: reason.into() };
        let within = if matches!(ask, Ask::Verify { .. }) { VERIFY_WITHIN } else { ANSWER_WITHIN };
        let (reply, answer) = oneshot::channel();
        self.shared
            .asks
            .try_send((ask, reply))
            .map_err(|_| refused("dre-sync is busy with earlier commands; try again in a moment"))?;
        match timeout(within, answer).await {
            Ok(Ok(Answer::Refused(reason))) => Err(Fault::Refused { reason }),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => {
                Err(refused("dre-sync is stopping; try again when it is back: systemctl status dre-sync"))
            }
            Err(_) => Err(refused(
                "dre-sync did not answer in time, so it may or may not have begun; look at drectl rules status",
            )),
        }
    }

    /// Checks the caller before.
    async fn change<Sock>(&self, conn: &mut Connection<Sock>, ask: Ask) -> Result<Done, Fault>
    where
        Sock: Socket,
        Sock::ReadHalf: FetchPeerCredentials,
    {
        self.shared.rights.check(conn).await.map_err(|reason| Fault::NotPermitted { reason })?;
        match self.ask(ask).await? {
            Answer::Done(done) => Ok(Done { done }),
            other => Err(astray(&other)),
        }
    }

    async fn kept(&self, ask: Ask) -> Result<KeptReply, Fault> {
        match self.ask(ask).await? {
            Answer::Kept(kept) => Ok(KeptReply { kept }),
            other => Err(astray(&other)),
        }
    }
}

/// An answer to another question: a bug in dre-sync, and said as one rather than hidden.
fn astray(answer: &Answer) -> Fault {
    Fault::Refused {
        reason: format!(
            "dre-sync gave an answer to another question ({answer:?}): a bug in dre; please report it"
        ),
    }
}

/// The control interface of dre-sync: how the rules files of this node and its peer stand, and the operator's commands.
///
/// Reading is for whoever can open the socket, changing for root and for members of group dre.
#[zlink::service(
    interface = "io.dre.Rules",
    types = [RulesStatus, SetStatus, Counters, Kept, Alarm],
    vendor = "dre",
    product = "dre-sync",
    version = env!("CARGO_PKG_VERSION"),
    url = "file:///usr/share/doc/dre/README.md"
)]
impl<Sock> Rules
where
    Sock::ReadHalf: FetchPeerCredentials,
{
    /// How all sets stand, at the moment of the call.
    async fn status(&self) -> StatusReply {
        StatusReply { status: (self.shared.status)() }
    }

    /// The status now and after each change, at most 20 a second and at least one a second.
    #[zlink(more)]
    async fn watch(&self, more: bool) -> Replies<StatusReply> {
        let shared = self.shared.clone();
        varlink::watch(shared.changed.clone(), more, move || StatusReply { status: (shared.status)() })
    }

    /// Looks at everything again in one set or all, `deep` at every byte. Answers when it is done.
    async fn verify(
        &self,
        set: Option<String>,
        deep: Option<bool>,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<Done, Fault> {
        self.change(conn, Ask::Verify { set, deep: deep.unwrap_or(false) }).await
    }

    /// The losers of conflicts, newest first, of one set or all.
    async fn conflicts(&self, set: Option<String>) -> Result<KeptReply, Fault> {
        self.kept(Ask::Conflicts { set }).await
    }

    /// What was deleted here at the peer's word, or gave way to what was restored, and is still kept; newest first, of one set or all.
    async fn trash(&self, set: Option<String>) -> Result<KeptReply, Fault> {
        self.kept(Ask::Trash { set }).await
    }

    /// Puts a kept thing back into the live tree, as an edit of now; what is there goes to the trash.
    async fn restore(
        &self,
        set: String,
        id: String,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<Done, Fault> {
        self.change(conn, Ask::Restore { set, id }).await
    }

    /// Throws the loser of a conflict away, for ever.
    async fn drop_conflict(
        &self,
        set: String,
        id: String,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<Done, Fault> {
        self.change(conn, Ask::Drop { set, id }).await
    }

    /// A mass deletion that is held was meant: it goes to the peer.
    async fn accept_deletes(
        &self,
        set: String,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<Done, Fault> {
        self.change(conn, Ask::AcceptDeletes { set }).await
    }

    /// Publishes what `validate` refused.
    async fn force(
        &self,
        set: String,
        #[zlink(connection)] conn: &mut Connection<Sock>,
    ) -> Result<Done, Fault> {
        self.change(conn, Ask::Force { set }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(asks: mpsc::Sender<Asked>) -> Rules {
        let (_bell, changed) = watch::channel(0);
        let status = Box::new(RulesStatus::default);
        Rules { shared: Rc::new(Shared { status, changed, asks, rights: Rights::of_this_process() }) }
    }

    /// What comes of a question when dre-sync answers it so; `None`: it drops it.
    fn answered(ask: Ask, answer: Option<Answer>) -> Result<KeptReply, Fault> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let (asks, mut inbox) = mpsc::channel(1);
            let rules = rules(asks);
            let worker = async {
                let (asked, reply) = inbox.recv().await.expect("asked");
                if let Some(answer) = answer {
                    reply.send(answer).expect("waited for");
                }
                asked
            };
            let (kept, asked) = tokio::join!(rules.kept(ask.clone()), worker);
            assert_eq!(asked, ask);
            kept
        })
    }

    #[test]
    fn an_answer_is_handed_on_and_a_refusal_is_its_own_sentence() {
        let ask = || Ask::Conflicts { set: Some("re".into()) };
        let kept = vec![Kept { set: "re".into(), ..Kept::default() }];
        assert_eq!(answered(ask(), Some(Answer::Kept(kept.clone()))), Ok(KeptReply { kept }));
        let refused = answered(ask(), Some(Answer::Refused("no set re; there is erlbf".into())));
        assert_eq!(refused, Err(Fault::Refused { reason: "no set re; there is erlbf".into() }));
        let Err(Fault::Refused { reason }) = answered(ask(), Some(Answer::Done("x".into()))) else {
            panic!("taken for a list")
        };
        assert!(reason.contains("a bug in dre"), "{reason}");
        let Err(Fault::Refused { reason }) = answered(ask(), None) else { panic!("answered") };
        assert!(reason.contains("stopping"), "{reason}");
    }

    #[test]
    fn a_dre_sync_that_does_not_take_questions_is_busy() {
        let (asks, _inbox) = mpsc::channel(1);
        asks.try_send((Ask::Trash { set: None }, oneshot::channel().0)).expect("room");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let refused = runtime.block_on(rules(asks).kept(Ask::Trash { set: None }));
        let Err(Fault::Refused { reason }) = refused else { panic!("answered") };
        assert!(reason.contains("busy"), "{reason}");
    }
}
