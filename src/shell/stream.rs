//! The lease stream's socket: `SOCK_SEQPACKET`, one message a packet ([`crate::stream`]).
//!
//! tokio has no type for it; its `UnixDatagram` does the same system calls on the same descriptor, and an empty packet is the end. Both
//! ends check the other's uid: the stream carries the right to answer for the VIPs. The database stream is the same between two users
//! ([`Listener::bind_for`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram as StdDatagram, UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::{UnixDatagram, UnixListener};

use crate::stream::{MESSAGE_MAX, decode, encode};

/// dre-elect's end: waits for dre-vip.
pub struct Listener {
    socket: UnixListener,
    /// Beside root and this process's own user.
    also: Option<u32>,
}

/// One stream, either end.
pub struct Stream {
    socket: UnixDatagram,
    buffer: [u8; MESSAGE_MAX],
}

/// A user of this machine by name; `None` if there is no such. May ask a directory on the network: at a start, never in a loop.
pub fn user(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok().flatten().map(|user| user.uid.as_raw())
}

/// The other end is root, or who we are, or whom this stream is for.
fn may_speak(fd: &impl AsFd, also: Option<u32>) -> io::Result<()> {
    let peer = getsockopt(fd, PeerCredentials)?;
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid() == 0 || peer.uid() == own || Some(peer.uid()) == also {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("lease stream: the other end runs as uid {}, expected {own} or root", peer.uid()),
    ))
}

impl Listener {
    /// Makes the socket, for this user alone. Not systemd's: it would start the service for whoever connects, and dre-vip tries
    /// again and again while the service is down.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        socket.bind(&SockAddr::unix(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        socket.listen(4)?;
        let listener = StdListener::from(OwnedFd::from(socket));
        listener.set_nonblocking(true)?;
        Ok(Self { socket: UnixListener::from_std(listener)?, also: None })
    }

    /// The same for one more user, who comes to the socket by this process's group.
    pub fn bind_for(path: &Path, name: &str) -> io::Result<Self> {
        let mut listener = Self::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        listener.also = user(name);
        Ok(listener)
    }

    /// The next dre-vip. Cancel safe. An error concerns that one connection only.
    pub async fn accept(&self) -> io::Result<Stream> {
        let (stream, _) = self.socket.accept().await?;
        let stream: StdStream = stream.into_std()?;
        may_speak(&stream, self.also)?;
        Stream::from_fd(OwnedFd::from(stream))
    }
}

impl Stream {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let socket = StdDatagram::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket)?, buffer: [0; MESSAGE_MAX] })
    }

    /// dre-vip's end.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::connect_as(path, None)
    }

    /// dre-mysql's end: dre-elect runs as this user ([`user`]).
    pub fn connect_as(path: &Path, also: Option<u32>) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.connect(&SockAddr::unix(path)?)?;
        may_speak(&socket, also)?;
        Self::from_fd(OwnedFd::from(socket))
    }

    /// Sends or says why not; never waits. A full socket means that the other end has not read for dozens of
    /// messages: it hangs, and the caller's rules know what to do about that.
    pub fn send<M: Serialize>(&mut self, message: &M) -> io::Result<()> {
        let packet = encode(message, &mut self.buffer).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "message too long for the lease stream")
        })?;
        // Not tokio's try_send: it trusts a cached readiness, which a new socket does not have yet.
        SockRef::from(&self.socket).send(packet).map(drop)
    }

    /// Waits for something to read. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next message if one is there; `Ok(None)` if not; an error when the stream has ended or what
    /// came is no message.
    pub fn try_recv<M: for<'b> Deserialize<'b>>(&mut self) -> io::Result<Option<M>> {
        let mut packet = [0; MESSAGE_MAX];
        match self.socket.try_recv(&mut packet) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(len) => decode(&packet[..len])
                .map(Some)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no message of the lease stream")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::time::Moment;
    use crate::stream::{Order, Report};

    #[test]
    fn words_pass_both_ways_and_the_end_is_noticed() {
        let dir = std::env::temp_dir().join(format!("dre-stream-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("lease");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let listener = Listener::bind(&path).expect("bind");
            let mut vip = Stream::connect(&path).expect("connect");
            let mut elect = listener.accept().await.expect("accept");
            assert_eq!(elect.try_recv::<Report>().expect("open"), None);
            vip.send(&Report::Shut { serial: 3 }).expect("sent");
            elect.readable().await.expect("readable");
            assert_eq!(elect.try_recv().expect("open"), Some(Report::Shut { serial: 3 }));
            let hold = Order::Hold { until: Moment::from_nanos(5), term: 2, open_by: Moment::ZERO };
            elect.send(&hold).expect("sent");
            vip.readable().await.expect("readable");
            assert_eq!(vip.try_recv().expect("open"), Some(hold));
            drop(elect);
            vip.readable().await.expect("readable");
            assert!(vip.try_recv::<Order>().is_err(), "the end was not noticed");
        });
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
