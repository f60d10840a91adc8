//! bpf(2): maps, programs, a test run. The only place that speaks to it.
//!
//! Unsafe because the kernel reads and writes memory that the attribute points to; every pointer here is to
//! a live buffer of the length that the attribute states, for the whole call. Layouts: `union bpf_attr`, linux/bpf.h.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// Zeroed beyond what is set: the kernel takes zero for "not given".
#[repr(C, align(8))]
struct Attr([u8; 128]);

impl Attr {
    const fn new() -> Self {
        Self([0; 128])
    }
    fn u32(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn u64(mut self, at: usize, value: u64) -> Self {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn fd(self, at: usize, fd: &OwnedFd) -> Self {
        self.u32(at, fd.as_raw_fd().cast_unsigned())
    }
    fn name(mut self, at: usize, name: &str) -> Self {
        let len = name.len().min(15);
        self.0[at..at + len].copy_from_slice(&name.as_bytes()[..len]);
        self
    }
    fn call(&mut self, command: libc::c_int) -> io::Result<libc::c_long> {
        // SAFETY: the attribute is ours, of the stated size; pointers in it are to buffers that the callers below
        // keep alive over this call.
        let rc = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
    }
    fn open(&mut self, command: libc::c_int) -> io::Result<OwnedFd> {
        let fd = self.call(command)?;
        let fd = i32::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: the kernel just gave us this descriptor; nobody else owns it. bpf(2) sets close-on-exec.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

fn address<T>(of: &[T]) -> u64 {
    of.as_ptr() as u64
}

/// A map with `u8` values, matched by the longest prefix: the key is a u32 prefix length and the address.
pub struct PrefixMap(OwnedFd);

impl PrefixMap {
    pub fn new(name: &str, address_bytes: u32, max: u32) -> io::Result<Self> {
        const LPM_TRIE: u32 = 11;
        const NO_PREALLOC: u32 = 1;
        let mut attr = Attr::new()
            .u32(0, LPM_TRIE)
            .u32(4, 4 + address_bytes)
            .u32(8, 1)
            .u32(12, max)
            .u32(16, NO_PREALLOC)
            .name(28, name);
        attr.open(MAP_CREATE).map(Self)
    }

    fn key(prefix: u32, address: &[u8]) -> Vec<u8> {
        [&prefix.to_ne_bytes(), address].concat()
    }

    pub fn insert(&self, prefix: u32, bytes: &[u8]) -> io::Result<()> {
        let (key, value) = (Self::key(prefix, bytes), [1_u8]);
        Attr::new()
            .fd(0, &self.0)
            .u64(8, address(&key))
            .u64(16, address(&value))
            .call(MAP_UPDATE_ELEM)
            .map(drop)
    }

    pub fn remove(&self, prefix: u32, bytes: &[u8]) -> io::Result<()> {
        let key = Self::key(prefix, bytes);
        Attr::new().fd(0, &self.0).u64(8, address(&key)).call(MAP_DELETE_ELEM).map(drop)
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.0
    }
}

/// One u64 that the kernel's programs read and this process stores into memory, without a system call.
pub struct SharedWord {
    fd: OwnedFd,
    page: std::ptr::NonNull<AtomicU64>,
}

const PAGE: usize = 4096;

impl SharedWord {
    pub fn new(name: &str) -> io::Result<Self> {
        const ARRAY: u32 = 2;
        const MMAPABLE: u32 = 1 << 10;
        let mut attr =
            Attr::new().u32(0, ARRAY).u32(4, 4).u32(8, 8).u32(12, 1).u32(16, MMAPABLE).name(28, name);
        let fd = attr.open(MAP_CREATE)?;
        let size = NonZeroUsize::new(PAGE).expect("not zero");
        // SAFETY: a fresh shared mapping of the map's first page, at an address of the kernel's choice; it is
        // unmapped in `drop` and nowhere else.
        let page = unsafe {
            mmap(
                None,
                size,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                fd.as_fd(),
                0,
            )
        }?;
        Ok(Self { fd, page: page.cast() })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as self, is page aligned, and its first 8 bytes are the array's element;
        // the kernel reads it as one aligned 64-bit load.
        unsafe { self.page.as_ref() }
    }

    pub fn store(&self, value: u64) {
        self.word().store(value, Ordering::SeqCst);
    }

    pub fn load(&self) -> u64 {
        self.word().load(Ordering::SeqCst)
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

impl Drop for SharedWord {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, not used after this.
        let _ = unsafe { munmap(self.page.cast(), PAGE) };
    }
}

// SAFETY: the word is atomic and the mapping is not bound to a thread.
unsafe impl Send for SharedWord {}

/// One instruction as the kernel takes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    /// Destination register in the low half, source in the high half.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

/// Loads a classifier for tc. On refusal the verifier's last words are in the error.
pub fn load_classifier(name: &str, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    // bpf_ktime_get_boot_ns is open to GPL-compatible programs only; this program's own licence, not the suite's.
    let license = b"GPL\0";
    let count = u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let attr = |log: &mut [u8]| {
        let size = u32::try_from(log.len()).unwrap_or(0);
        Attr::new()
            .u32(0, SCHED_CLS)
            .u32(4, count)
            .u64(8, address(instructions))
            .u64(16, address(license))
            .u32(24, u32::from(size != 0))
            .u32(28, size)
            .u64(32, if size == 0 { 0 } else { log.as_mut_ptr() as u64 })
            .name(48, name)
    };
    attr(&mut []).open(PROG_LOAD).or_else(|first| {
        if first.raw_os_error() == Some(libc::EPERM) {
            return Err(first);
        }
        let mut log = vec![0; 64 * 1024];
        attr(&mut log).open(PROG_LOAD).map_err(|error| {
            let end = log.iter().position(|b| *b == 0).unwrap_or(log.len());
            let words = String::from_utf8_lossy(&log[..end]);
            io::Error::new(error.kind(), format!("{error}: {}", words.trim_end()))
        })
    })
}

/// The kernel's number of a program: what a hook says that it runs.
pub fn program_id(program: &OwnedFd) -> io::Result<u32> {
    // The first two fields of `struct bpf_prog_info`: type, id.
    let mut info = [0_u32; 2];
    let at = info.as_mut_ptr() as u64;
    Attr::new().fd(0, program).u32(4, 8).u64(8, at).call(OBJ_GET_INFO_BY_FD)?;
    Ok(info[1])
}

/// Runs a program on a frame as if it passed the hook; its verdict.
pub fn test_run(program: &OwnedFd, frame: &[u8]) -> io::Result<u32> {
    let mut out = vec![0_u8; frame.len() + 256];
    let len = u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let out_len = u32::try_from(out.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut attr = Attr::new()
        .fd(0, program)
        .u32(8, len)
        .u32(12, out_len)
        .u64(16, address(frame))
        .u64(24, out.as_mut_ptr() as u64)
        .u32(32, 1);
    attr.call(PROG_TEST_RUN)?;
    Ok(u32::from_ne_bytes([attr.0[4], attr.0[5], attr.0[6], attr.0[7]]))
}
