//! The database server's process: its death is known the moment it happens, without rights and without asking.
//!
//! The kernel says who listens at the server's local socket (`SO_PEERCRED`), and a pidfd becomes readable when that process ends.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::ready::Ready;

/// A server that is not there is looked for again after this.
const AGAIN: Duration = Duration::from_millis(50);
/// Where nobody can be watched (systemd itself listens for a server that is started by its socket), only this often.
const RARELY: Duration = Duration::from_secs(5);

/// Says whether the server's process is there, and each time that changes; until nobody listens.
pub async fn watch(socket: PathBuf, there: mpsc::UnboundedSender<bool>) {
    let mut said = None;
    loop {
        let (now, pause) = match process(&socket).await {
            Ok(Some(process)) => {
                if said != Some(true) && there.send(true).is_err() {
                    return;
                }
                said = Some(true);
                process.readable().await;
                (false, AGAIN)
            }
            Ok(None) => (true, RARELY),
            Err(_) => (false, AGAIN),
        };
        if said != Some(now) && there.send(now).is_err() {
            return;
        }
        said = Some(now);
        sleep(pause).await;
    }
}

/// Who listens; `None`: it is not the server itself.
async fn process(socket: &Path) -> io::Result<Option<Ready>> {
    let pid = UnixStream::connect(socket).await?.peer_cred()?.pid().unwrap_or(0);
    if pid <= 1 {
        return Ok(None);
    }
    Ok(Some(Ready::new(pidfd(pid)?)?))
}

fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and flags, and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made it for this call, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_ends_is_noticed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut child = Command::new("sleep").arg("1000").spawn().expect("a process");
            let pid = i32::try_from(child.id()).expect("a pid");
            let watched = Ready::new(pidfd(pid).expect("a pidfd")).expect("watched");
            let early = tokio::time::timeout(Duration::from_millis(50), watched.readable()).await;
            assert!(early.is_err(), "it lives");
            child.kill().expect("killed");
            let ended = tokio::time::timeout(Duration::from_secs(5), watched.readable()).await;
            assert!(ended.is_ok(), "its end was not noticed");
            child.wait().expect("reaped");
        });
    }

    #[test]
    fn who_listens_is_found_by_the_socket() {
        let dir = std::env::temp_dir().join(format!("dre-server-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (say, mut heard) = mpsc::unbounded_channel();
            let watching = watch(path.clone(), say);
            tokio::select! {
                () = watching => panic!("ended"),
                there = heard.recv() => assert_eq!(there, Some(true)),
            }
        });
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
