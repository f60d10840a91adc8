//! A directory beneath which everything is touched, and nothing else.
//!
//! dre-sync is root, and others may write in the trees it works on: every path is resolved by openat2 beneath a
//! descriptor of the root, with no link followed on the way and no other file system entered. What follows is done at
//! the descriptor of the parent directory, without following the last name either.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::logic::sync::record::Stat;

/// The kernel asks to try again when something above was renamed meanwhile.
const RENAMED_MEANWHILE_MAX: usize = 100;

/// A root, held open.
#[derive(Debug)]
pub struct Ground {
    fd: OwnedFd,
    /// For messages, and for programs that are given a path.
    pub path: PathBuf,
}

/// Directory and name; the name is empty for the ground itself.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

pub fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

impl Ground {
    /// The path itself is the administrator's: links in it are followed.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// A directory beneath another ground, as one of its own.
    pub fn beneath(&self, name: &[u8]) -> Result<Self, Errno> {
        let fd = self.directory(name, OFlag::O_PATH)?;
        Ok(Self { fd, path: self.path.join(OsStr::from_bytes(name)) })
    }

    /// The directory of this path, `""` for the ground itself; `O_PATH` or `O_RDONLY`.
    pub fn directory(&self, path: &[u8], how: OFlag) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let how = OpenHow::new().flags(how | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        let mut tries = 0;
        loop {
            match openat2(&self.fd, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) if tries < RENAMED_MEANWHILE_MAX => tries += 1,
                result => return result,
            }
        }
    }

    /// The directory a path lies in, and its name there.
    pub fn parent<'p>(&self, path: &'p [u8]) -> Result<(OwnedFd, &'p OsStr), Errno> {
        let (directory, name) = split(path);
        Ok((self.directory(directory, OFlag::O_PATH)?, OsStr::from_bytes(name)))
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What is there under this path; `None`: nothing, or something else than a directory on the way.
    pub fn lstat(&self, path: &[u8]) -> Result<Option<Stat>, Errno> {
        let found = self.parent(path).and_then(|(parent, name)| lstat(&parent, name));
        match found {
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            result => result,
        }
    }

    pub fn stat(&self) -> Result<Stat, Errno> {
        Ok(shown(&fstat(&self.fd)?))
    }

    /// On the disk: for directories, whose entries are what is made durable.
    pub fn sync(&self, directory: &[u8]) -> Result<(), Errno> {
        nix::unistd::fsync(self.directory(directory, OFlag::O_RDONLY)?)
    }

    /// Everything of its file system.
    pub fn sync_all(&self) -> Result<(), Errno> {
        nix::unistd::syncfs(self.directory(b"", OFlag::O_RDONLY)?)
    }
}

pub fn shown(stat: &FileStat) -> Stat {
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Stat {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec),
        ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec),
        device: stat.st_dev,
        inode: stat.st_ino,
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        names: stat.st_nlink,
    }
}

pub fn lstat(parent: &impl AsFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(shown(&stat))),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Link,
    Directory,
    /// The error's word for it: a fifo, a device, a socket.
    Other(&'static str),
}

pub fn kind(stat: &Stat) -> Kind {
    match SFlag::from_bits_truncate(stat.mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFLNK => Kind::Link,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFIFO => Kind::Other("a fifo"),
        SFlag::S_IFSOCK => Kind::Other("a socket"),
        _ => Kind::Other("a device"),
    }
}

/// A regular file for reading. Something else may have come in between: it is neither followed nor waited for.
pub fn open_file(parent: &impl AsFd, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(openat(parent, name, flags, Mode::empty())?);
    if kind(&shown(&fstat(&file)?)) != Kind::File {
        return Err(Errno::ELOOP);
    }
    Ok(file)
}

/// Whatever it is, held by its inode.
pub fn hold(parent: &impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Names in a directory, in no order.
pub fn names(directory: OwnedFd) -> Result<(Dir, Vec<Vec<u8>>), Errno> {
    let (open, entries) = entries(directory)?;
    Ok((open, entries.into_iter().map(|(name, _)| name).collect()))
}

/// A name, and what has it, where the file system tells.
pub type Entry = (Vec<u8>, Option<Type>);

/// The same with what each is.
pub fn entries(directory: OwnedFd) -> Result<(Dir, Vec<Entry>), Errno> {
    let mut open = Dir::from_fd(directory)?;
    let mut entries = vec![];
    for entry in open.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok((open, entries))
}

/// Everything in a directory, not the directory itself.
pub fn empty(directory: OwnedFd) -> Result<(), Errno> {
    let (open, names) = names(directory)?;
    for name in names {
        remove_all(&open, OsStr::from_bytes(&name))?;
    }
    Ok(())
}

/// A name and, if it is a directory, everything in it. What is not there is removed.
pub fn remove_all(parent: &impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EISDIR) => {}
        Err(error) => return Err(error),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    empty(openat(parent, name, flags, Mode::empty())?)?;
    match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}
