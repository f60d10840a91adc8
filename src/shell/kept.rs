//! What is kept outside the live tree: losers of conflicts, and deleted files.
//!
//! ```text
//!   STATE/SET/conflicts/20261125T140211Z-000017/content     the file itself, with its metadata
//!                                               about.json  path, node, whether the order is certain
//!   STATE/SET/trash/…                                       the same
//! ```
//!
//! Outside, because rules engines load whole directories. `about.json` is written first, then the content comes: whoever is killed
//! between the two leaves a place without a content, which is swept up; a content is never without its name.
//!
//! Absent on purpose: how a content gets here (`tree` moves or copies it); what is kept (`merge` decides).

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::clock;
use crate::rules::Kept;

/// Trash is kept this long and up to so many bytes a set, conflicts up to so many a path. Source: RULES.md, a month of holidays.
const TRASH_LASTS: Duration = Duration::from_secs(30 * 24 * 3600);
const TRASH_BYTES: u64 = 1 << 30;
const CONFLICTS_PER_PATH: usize = 20;

const ABOUT: &str = "about.json";
const CONTENT: &str = "content";

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Conflicts,
    Trash,
}

impl Kind {
    const fn directory(self) -> &'static str {
        match self {
            Self::Conflicts => "conflicts",
            Self::Trash => "trash",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct About {
    path: Vec<u8>,
    node: String,
    uncertain: bool,
    at_s: u64,
}

/// The two drawers of one set.
pub struct Drawers {
    set: String,
    directory: PathBuf,
    next: AtomicU32,
    counts: [AtomicU64; 2],
}

impl Drawers {
    /// Makes the directories (0700) below `state` and sweeps up places that were never filled.
    pub fn open(state: &Path, set: &str) -> io::Result<Self> {
        let directory = state.join(set);
        for kind in [Kind::Conflicts, Kind::Trash] {
            let drawer = directory.join(kind.directory());
            fs::create_dir_all(&drawer)?;
            for entry in fs::read_dir(&drawer)?.filter_map(Result::ok) {
                if fs::symlink_metadata(entry.path().join(CONTENT)).is_err() {
                    fs::remove_dir_all(entry.path())?;
                }
            }
        }
        let counts = [AtomicU64::new(0), AtomicU64::new(0)];
        let drawers = Self { set: set.to_owned(), directory, next: AtomicU32::new(1), counts };
        drawers.recount();
        Ok(drawers)
    }

    fn drawer(&self, kind: Kind) -> PathBuf {
        self.directory.join(kind.directory())
    }

    /// Where to put the next content: it is kept from the moment it is there.
    pub fn place(&self, kind: Kind, path: &[u8], node: &str, uncertain: bool) -> io::Result<PathBuf> {
        let at_s = now_s();
        let directory = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            // The name sorts by time.
            let directory = self.drawer(kind).join(format!("{}-{number:06}", compact(at_s)));
            match fs::create_dir(&directory) {
                Ok(()) => break directory,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        let about = About { path: path.to_vec(), node: node.to_owned(), uncertain, at_s };
        let text = serde_json::to_vec(&about).map_err(io::Error::other)?;
        fs::write(directory.join(ABOUT), text)?;
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        Ok(directory.join(CONTENT))
    }

    /// What was kept is on the disk when this returns; once a batch.
    pub fn settle(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(fs::File::open(&self.directory)?)?)
    }

    fn read(&self, kind: Kind) -> Vec<(PathBuf, About, u64)> {
        let Ok(entries) = fs::read_dir(self.drawer(kind)) else { return vec![] };
        let mut all: Vec<(PathBuf, About, u64)> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let size = fs::symlink_metadata(entry.path().join(CONTENT)).ok()?.len();
                let text = fs::read(entry.path().join(ABOUT)).ok()?;
                Some((entry.path(), serde_json::from_slice(&text).ok()?, size))
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Everything that is kept, oldest first.
    pub fn all(&self, kind: Kind) -> Vec<Kept> {
        self.read(kind)
            .into_iter()
            .map(|(directory, about, size)| Kept {
                set: self.set.clone(),
                id: directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                path: shown(&about.path),
                node: about.node,
                at: stamp(about.at_s),
                size,
                uncertain: about.uncertain,
            })
            .collect()
    }

    /// How many things one has.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize].load(Ordering::Relaxed)
    }

    fn recount(&self) {
        for kind in [Kind::Conflicts, Kind::Trash] {
            let count =
                fs::read_dir(self.drawer(kind)).map_or(0, |e| e.filter_map(Result::ok).count() as u64);
            self.counts[kind as usize].store(count, Ordering::Relaxed);
        }
    }

    /// The content of one and the path it had, in whichever drawer it is.
    pub fn find(&self, id: &str) -> Option<(PathBuf, Vec<u8>)> {
        if id.contains('/') || id.starts_with('.') {
            return None;
        }
        [Kind::Conflicts, Kind::Trash].into_iter().find_map(|kind| {
            let directory = self.drawer(kind).join(id);
            let about: About = serde_json::from_slice(&fs::read(directory.join(ABOUT)).ok()?).ok()?;
            Some((directory.join(CONTENT), about.path))
        })
    }

    /// It was put back, or is not wanted any more.
    pub fn forget(&self, id: &str) -> io::Result<()> {
        match self.find(id).and_then(|(content, _)| content.parent().map(Path::to_path_buf)) {
            Some(directory) => fs::remove_dir_all(directory)?,
            None => return Ok(()),
        }
        self.recount();
        Ok(())
    }

    /// Throws away what is too old or too much. How many went.
    pub fn prune(&self) -> io::Result<usize> {
        let mut gone = vec![];
        let trash = self.read(Kind::Trash);
        let mut bytes: u64 = trash.iter().map(|(.., size)| size).sum();
        for (directory, about, size) in trash {
            let old = Duration::from_secs(now_s().saturating_sub(about.at_s)) > TRASH_LASTS;
            if old || bytes > TRASH_BYTES {
                bytes -= size;
                gone.push(directory);
            }
        }
        let conflicts = self.read(Kind::Conflicts);
        for (n, (directory, about, _)) in conflicts.iter().enumerate() {
            let newer = conflicts[n + 1..].iter().filter(|(_, other, _)| other.path == about.path).count();
            if newer >= CONFLICTS_PER_PATH {
                gone.push(directory.clone());
            }
        }
        for directory in &gone {
            // Off the list first.
            fs::remove_file(directory.join(CONTENT))?;
            fs::remove_dir_all(directory)?;
        }
        self.recount();
        Ok(gone.len())
    }
}

/// A path as people and JSON can have it: what is no text as `\xNN`.
pub fn shown(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// The same of a path of the system's.
pub fn shown_path(path: &Path) -> String {
    shown(path.as_os_str().as_bytes())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// `20261125T140211Z`
fn compact(at_s: u64) -> String {
    stamp(at_s).replace(['-', ':'], "")
}

/// RFC 3339, UTC.
fn stamp(at_s: u64) -> String {
    clock::format_utc(i64::try_from(at_s).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawers(name: &str) -> (PathBuf, Drawers) {
        let dir = std::env::temp_dir().join(format!("dre-kept-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let drawers = Drawers::open(&dir, "re").expect("open");
        (dir, drawers)
    }

    fn keep(drawers: &Drawers, kind: Kind, path: &[u8], text: &str) -> String {
        let content = drawers.place(kind, path, "hadev1", false).expect("a place");
        fs::write(&content, text).expect("written");
        content.parent().and_then(Path::file_name).expect("a name").to_string_lossy().into_owned()
    }

    #[test]
    fn what_is_kept_is_listed_found_and_forgotten() {
        let (dir, drawers) = drawers("found");
        let id = keep(&drawers, Kind::Conflicts, b"a/\xff\nb", "lost");
        let all = drawers.all(Kind::Conflicts);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].id.as_str(), all[0].path.as_str(), all[0].size), (id.as_str(), "a/\\xff\\nb", 4));
        let (content, path) = drawers.find(&id).expect("found");
        assert_eq!((fs::read(content).expect("read"), path), (b"lost".to_vec(), b"a/\xff\nb".to_vec()));
        assert!(drawers.find("../conflicts").is_none());
        drawers.forget(&id).expect("forgotten");
        assert_eq!(drawers.count(Kind::Conflicts), 0);
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn who_is_killed_in_between_leaves_nothing_listed() {
        let (dir, drawers) = drawers("killed");
        drawers.place(Kind::Trash, b"p", "", false).expect("a place");
        assert!(drawers.all(Kind::Trash).is_empty());
        assert_eq!(drawers.count(Kind::Trash), 1);
        let again = Drawers::open(&dir, "re").expect("open");
        assert_eq!(again.count(Kind::Trash), 0);
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn of_one_path_the_newest_twenty_conflicts_stay() {
        let (dir, drawers) = drawers("prune");
        let ids: Vec<String> =
            (0..25).map(|n| keep(&drawers, Kind::Conflicts, b"p", &n.to_string())).collect();
        keep(&drawers, Kind::Conflicts, b"other", "x");
        assert_eq!(drawers.prune().expect("pruned"), 5);
        assert!(drawers.find(&ids[4]).is_none() && drawers.find(&ids[5]).is_some());
        assert_eq!(drawers.count(Kind::Conflicts), 21);
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn times_are_written_as_people_write_them() {
        assert_eq!(stamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(stamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(compact(1_795_615_331), "20261125T140211Z");
    }
}
