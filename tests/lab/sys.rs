//! The system interfaces std has no safe face for: entering a network namespace, raw sockets, time stamps.
//!
//! All unsafe code of the lab is in this file. Every function takes and gives plain values.

use std::fs::File;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use dre::logic::time::Moment;

/// Now, on CLOCK_BOOTTIME.
pub fn now() -> Moment {
    Moment::from_nanos(clock(libc::CLOCK_BOOTTIME))
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: t is a valid timespec that outlives the call.
    unsafe { libc::clock_gettime(id, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// The calling thread lives in the named network namespace from here on.
pub fn enter_netns(name: &str) -> io::Result<()> {
    let ns = File::open(format!("/run/netns/{name}"))?;
    // SAFETY: the descriptor is open; only the calling thread changes namespace.
    if unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Real-time priority and exact timers for the calling thread; false where the kernel refuses.
pub fn punctual(priority: i32) -> bool {
    // SAFETY: plain values only.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1usize);
        let p = libc::sched_param { sched_priority: priority };
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &p) == 0
    }
}

/// Signals a process or, with a negative number, a group. True if it was there.
pub fn kill(pid: i32, signal: i32) -> bool {
    // SAFETY: plain values only.
    unsafe { libc::kill(pid, signal) == 0 }
}

fn check(r: libc::c_int) -> io::Result<()> {
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn option<T>(fd: &OwnedFd, level: i32, name: i32, value: T) -> io::Result<()> {
    // SAFETY: value is a plain number of the size given.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain values; the descriptor is new and owned by nobody else.
    unsafe {
        let fd = libc::socket(domain, kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, protocol);
        check(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

const PACKET_IGNORE_OUTGOING: i32 = 23;

/// A socket for whole Ethernet frames on one interface of the thread's namespace.
pub fn frame_socket(interface: &str) -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    option(&fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1i32)?;
    option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16i32 << 20)?;
    option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1i32)?;
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: name is NUL-terminated; address is fully written and of the length given.
    unsafe {
        let index = libc::if_nametoindex(name.as_ptr());
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let mut at: libc::sockaddr_ll = zeroed();
        at.sll_family = libc::AF_PACKET as u16;
        at.sll_protocol = all;
        at.sll_ifindex = index as i32;
        check(libc::bind(
            fd.as_raw_fd(),
            (&raw const at).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        ))?;
    }
    Ok(fd)
}

/// A raw ICMP (or ICMPv6) socket connected to `to`: the way a client's packets take, neighbour cache and all.
pub fn echo_socket(to: IpAddr) -> io::Result<OwnedFd> {
    let fd = match to {
        IpAddr::V4(_) => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?,
        IpAddr::V6(_) => socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)?,
    };
    option(&fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 4i32 << 20)?;
    option(&fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1i32)?;
    // SAFETY: addresses are fully written and of the lengths given.
    unsafe {
        match to {
            IpAddr::V4(a) => {
                let mut at: libc::sockaddr_in = zeroed();
                at.sin_family = libc::AF_INET as u16;
                at.sin_addr.s_addr = u32::from_ne_bytes(a.octets());
                let len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
                check(libc::connect(fd.as_raw_fd(), (&raw const at).cast(), len))?;
            }
            IpAddr::V6(a) => {
                let mut at: libc::sockaddr_in6 = zeroed();
                at.sin6_family = libc::AF_INET6 as u16;
                at.sin6_addr.s6_addr = a.octets();
                let len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
                check(libc::connect(fd.as_raw_fd(), (&raw const at).cast(), len))?;
            }
        }
    }
    Ok(fd)
}

/// Sends; a refusal (no route, buffer full) is a probe lost and is counted as such by the caller.
pub fn send(fd: &OwnedFd, bytes: &[u8]) -> bool {
    // SAFETY: the buffer is valid for its length.
    unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT) >= 0 }
}

/// Turns the kernel's wall-clock stamps into moments. Made anew for each batch, so a clock step spoils one batch.
#[derive(Clone, Copy)]
pub struct Stamps {
    boot_minus_wall: i128,
}

impl Stamps {
    /// The two clocks, compared now.
    pub fn compare() -> Self {
        let wall = clock(libc::CLOCK_REALTIME);
        let boot = clock(libc::CLOCK_BOOTTIME);
        Self { boot_minus_wall: i128::from(boot) - i128::from(wall) }
    }
}

/// One packet, if there is one: its length and the moment the kernel received it.
pub fn receive(fd: &OwnedFd, buffer: &mut [u8], stamps: Stamps) -> Option<(usize, Moment)> {
    let mut control = [0u64; 16];
    // SAFETY: every pointer handed to recvmsg points at a live buffer of the length said; control messages are
    // walked with the libc macros only.
    unsafe {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let n = libc::recvmsg(fd.as_raw_fd(), &mut message, libc::MSG_DONTWAIT);
        if n < 0 {
            return None;
        }
        let mut at = clock(libc::CLOCK_BOOTTIME);
        let mut c = libc::CMSG_FIRSTHDR(&message);
        while !c.is_null() {
            if (*c).cmsg_level == libc::SOL_SOCKET && (*c).cmsg_type == libc::SCM_TIMESTAMPNS {
                let t: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(c).cast());
                let wall = i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
                at = u64::try_from(wall + stamps.boot_minus_wall).unwrap_or(at);
            }
            c = libc::CMSG_NXTHDR(&message, c);
        }
        Some((n as usize, Moment::from_nanos(at)))
    }
}

/// Waits until one of the sockets has something, or the time is over.
pub fn wait(fds: &[(i32, i16)], at_most: Duration) -> Vec<i16> {
    let mut polled: Vec<libc::pollfd> =
        fds.iter().map(|&(fd, events)| libc::pollfd { fd, events, revents: 0 }).collect();
    let t = libc::timespec {
        tv_sec: at_most.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(at_most.subsec_nanos()),
    };
    // SAFETY: the array is live and of the length given.
    unsafe {
        libc::ppoll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, &t, std::ptr::null());
    }
    polled.iter().map(|p| p.revents).collect()
}

static SIGNALLED: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

extern "C" fn note(signal: i32) {
    SIGNALLED.store(signal, std::sync::atomic::Ordering::SeqCst);
}

/// From now on SIGINT, SIGTERM and SIGHUP are only noted; `signalled` tells.
pub fn note_signals() {
    for s in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores one atomic number, which is all a handler may do.
        unsafe { libc::signal(s, note as extern "C" fn(i32) as libc::sighandler_t) };
    }
}

/// The signal noted, 0 if none.
pub fn signalled() -> i32 {
    SIGNALLED.load(std::sync::atomic::Ordering::SeqCst)
}
