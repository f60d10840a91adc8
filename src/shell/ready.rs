//! Descriptors that tokio has no type for, in tokio's event loop.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use tokio::io::unix::AsyncFd;

struct Raw(OwnedFd);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// An owned descriptor that can be waited for. It must be non-blocking.
pub struct Ready(AsyncFd<Raw>);

impl Ready {
    /// Needs a running tokio runtime with its I/O driver.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: `Raw` owns its descriptor, returns the same one each time, and closes it only when it is
        // dropped, which AsyncFd does after it has deregistered it.
        unsafe { AsyncFd::register(Raw(fd)) }.map(Self).map_err(io::Error::from)
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.0.get_ref().0
    }

    /// Waits until there may be something to read. Cancel safe.
    pub async fn readable(&self) {
        if let Ok(mut guard) = self.0.readable().await {
            guard.clear_ready();
        }
    }

    /// Waits until it may be written to: a connection that was asked for is there, or refused. Cancel safe.
    pub async fn writable(&self) {
        if let Ok(mut guard) = self.0.writable().await {
            guard.clear_ready();
        }
    }
}
