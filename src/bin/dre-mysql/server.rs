//! Two connections to the server, each a task: one that looks, one that does. A statement that hangs holds up neither the loop nor
//! the looks.

use std::path::Path;
use std::time::Duration;

use dre::logic::db::facts::{Answer, Failure, Op, Probe};
use dre::shell::sql::Session;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub enum Told {
    Looked(Result<Box<Probe>, Failure>),
    Done { id: u64, result: Result<Answer, Failure> },
}

enum Wish {
    Begin { id: u64, op: Op, within: Duration },
    Forget { id: u64 },
}

pub struct Server {
    looks: UnboundedSender<Duration>,
    wishes: UnboundedSender<Wish>,
}

impl Server {
    pub fn start(socket: &Path, user: &str, unit: &str, tell: UnboundedSender<Told>) -> Self {
        let (looks, mut due) = unbounded_channel::<Duration>();
        let mut looking = Session::new(socket, user, unit);
        let looked = tell.clone();
        tokio::task::spawn_local(async move {
            while let Some(within) = due.recv().await {
                let _ = looked.send(Told::Looked(looking.probe(within).await));
            }
        });
        let (wishes, inbox) = unbounded_channel();
        tokio::task::spawn_local(carry_out(Session::new(socket, user, unit), inbox, tell));
        Self { looks, wishes }
    }

    pub fn look(&self, within: Duration) {
        let _ = self.looks.send(within);
    }

    pub fn begin(&self, id: u64, op: Op, within: Duration) {
        let _ = self.wishes.send(Wish::Begin { id, op, within });
    }

    pub fn forget(&self, id: u64) {
        let _ = self.wishes.send(Wish::Forget { id });
    }
}

/// One after the other; what is forgotten while it runs is abandoned, and its thread on the server ended.
async fn carry_out(mut session: Session, mut inbox: UnboundedReceiver<Wish>, tell: UnboundedSender<Told>) {
    let mut next = None;
    loop {
        let wish = match next.take() {
            Some(wish) => wish,
            None => match inbox.recv().await {
                Some(wish) => wish,
                None => return,
            },
        };
        let Wish::Begin { id, op, within } = wish else { continue };
        let forgotten = {
            let work = session.carry_out(op, within);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    result = &mut work => {
                        let _ = tell.send(Told::Done { id, result });
                        break false;
                    }
                    wish = inbox.recv() => match wish {
                        Some(Wish::Forget { id: which }) if which == id => break true,
                        Some(Wish::Forget { .. }) => {}
                        // The machine forgets what it has begun before it begins another.
                        Some(begin @ Wish::Begin { .. }) => {
                            next = Some(begin);
                            break true;
                        }
                        None => return,
                    },
                }
            }
        };
        if forgotten {
            session.abandon().await;
        }
    }
}
