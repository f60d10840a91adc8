//! TIPC: heartbeats over RDM between named services, and the topology service's word of processes, nodes and links.
//!
//! The `tipc` crate gives no descriptor to wait for and no topology; so: socket2's sockets, the kernel's structures
//! (linux/tipc.h) laid out here byte by byte, tokio's event loop. Nothing here waits.
//!
//! **Streams.** The kernel sends what leaves a socket over one of a node's two active links, chosen by the parity of
//! the socket's own reference (net/tipc/node.c: `active_links[selector & 1]`). So there are two sockets, one of each
//! parity: every heartbeat goes out by both, and with both links up it travels both. Which of them a given datagram
//! took, nobody says: a link's state is asked of the kernel.
//!
//! | file | what |
//! |---|---|
//! | `streams` | the heartbeat sockets |
//! | `presence` | the name that ends with this process |
//! | `topology` | the kernel's word of the peer's process and of its node |
//! | `links` | which links are up, and where they end |
//! | `discovery` | who speaks TIPC on the wire, read while something is wrong |
//! | `tool` | what is set up, asked of iproute2's `tipc` |
//!
//! TIPC is not trusted: the datagrams are the authenticated ones of every transport.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

mod discovery;
mod links;
mod presence;
mod streams;
pub mod tool;
mod topology;

pub use discovery::{Discovery, Seen};
pub use links::{State as LinkState, Watch as LinkWatch};
pub use presence::Presence;
pub use streams::Streams;
pub use topology::{Event, Topology};

/// AF_TIPC of linux/socket.h.
const AF_TIPC: libc::c_int = 30;
/// The service type of dre's heartbeat sockets: "dre" in ASCII and the version of this use. Types below 64 are the kernel's.
const SERVICE: u32 = 0x6472_6501;
/// The same for the name that says that the process is there.
const PRESENCE: u32 = 0x6472_6581;
/// enum tipc_socket_addr type.
const SERVICE_RANGE: u8 = 1;
const SERVICE_ADDR: u8 = 2;
const CLUSTER_SCOPE: i8 = 2;
const NODE_SCOPE: i8 = 3;
const RETRY: Duration = Duration::from_millis(500);
/// What the kernel takes once (network id, address) is taken anew after this. Without dre and the bearers nothing of ours uses
/// the module.
pub const AGAIN: &str = "systemctl stop dre dre-tipc && modprobe -r tipc && systemctl start dre (or reboot)";

/// A `struct sockaddr_tipc`, 16 bytes: family, kind, scope, then three words.
fn address(kind: u8, scope: i8, words: [u32; 3]) -> io::Result<SockAddr> {
    let mut bytes = [0u8; 16];
    let family = u16::try_from(AF_TIPC).unwrap_or(30);
    bytes[..2].copy_from_slice(&family.to_ne_bytes());
    bytes[2] = kind;
    bytes[3] = scope.to_ne_bytes()[0];
    for (n, word) in words.iter().enumerate() {
        bytes[4 + n * 4..8 + n * 4].copy_from_slice(&word.to_ne_bytes());
    }
    from_bytes(&bytes)
}

/// socket2 takes addresses of families it does not know as raw storage.
fn from_bytes(bytes: &[u8; 16]) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_storage is larger than 16 bytes and has no invalid bit patterns; SockAddr gets the length written.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut storage).cast::<u8>(), bytes.len());
        Ok(SockAddr::new(storage, 16))
    }
}

/// The 16 bytes of an address the kernel gave.
fn to_bytes(address: &SockAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    let len = (address.len() as usize).min(16);
    // SAFETY: the storage behind `as_ptr` holds at least `len` initialised bytes.
    unsafe { std::ptr::copy_nonoverlapping(address.as_ptr().cast::<u8>(), bytes.as_mut_ptr(), len) };
    bytes
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(four)
}

fn socket(kind: Type) -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(AF_TIPC), kind, None).map_err(|error| match error.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel has no TIPC; try modprobe tipc; if there is no such module, install the package that has it (Debian: \
             linux-image-amd64, not a cloud kernel; Ubuntu: linux-modules-extra-$(uname -r); RHEL and its family: \
             kernel-modules-extra) and restart dre-tipc, or write transport = \"udp\" in [heartbeat] on both nodes",
        ),
        Some(libc::EACCES | libc::EPERM) => {
            io::Error::new(io::ErrorKind::PermissionDenied, format!("TIPC sockets are refused: {error}"))
        }
        _ => error,
    })?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether this kernel has TIPC (the module is loaded by asking, where it may be); the error says what to do.
pub fn available() -> io::Result<()> {
    socket(Type::SEQPACKET).map(drop)
}

/// SOL_TIPC options, which socket2 and nix do not name.
fn option(socket: &Socket, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the descriptor is open for the whole call, the pointer is to a c_int and the length says so.
    let rc = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_TIPC, name, (&raw const value).cast(), size)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// This socket's reference; its parity chooses the link.
fn reference(socket: &Socket) -> io::Result<u32> {
    Ok(word(&to_bytes(&socket.local_addr()?), 4))
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    let mut raw = [MaybeUninit::<u8>::uninit(); 512];
    let room = buffer.len().min(raw.len());
    let len = socket.recv(&mut raw[..room])?;
    for (to, from) in buffer.iter_mut().zip(&raw[..len]) {
        // SAFETY: the kernel has written the first `len` bytes.
        *to = unsafe { from.assume_init() };
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes as a little-endian kernel has them.
    #[cfg(target_endian = "little")]
    #[test]
    fn addresses_are_laid_out_as_the_kernels_header_says() {
        let bound =
            address(SERVICE_RANGE, CLUSTER_SCOPE, [SERVICE, 0x0100_1017, 0x0100_1017]).expect("an address");
        #[rustfmt::skip]
        let golden = [
            0x1e, 0x00,  0x01,  0x02,
            0x01, 0x65, 0x72, 0x64,  0x17, 0x10, 0x00, 0x01,  0x17, 0x10, 0x00, 0x01,
        ];
        assert_eq!(to_bytes(&bound), golden);
        assert_eq!(bound.len(), 16);
        assert_eq!(bound.family(), 30);
    }

    /// Where the kernel has no TIPC the error says what to do. Where it has, sockets open: nothing to see here.
    #[test]
    fn a_kernel_without_tipc_is_named_with_the_alternative() {
        if let Err(error) = socket(Type::SEQPACKET) {
            let text = error.to_string();
            for word in [
                "modprobe tipc",
                "transport = \"udp\"",
                "linux-image-amd64",
                "linux-modules-extra-$(uname -r)",
                "kernel-modules-extra",
            ] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
    }
}
