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
//! Absent on purpose: how a content gets here (`tree` moves or copies it); what is kept (`merge` decides) and how long (`retain`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::clock;
use crate::logic::sync::retain::{Trashed, stale_conflicts, stale_trash};
use crate::rules::Kept;

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

    /// Keeps what `put` puts at the path it is given: where that is, or `None` if there was nothing to put (a directory).
    /// `failed` says what it means that there is no place.
    pub fn keep<E>(
        &self,
        kind: Kind,
        (path, node, uncertain): (&[u8], &str, bool),
        put: impl FnOnce(&Path) -> Result<(), E>,
        failed: impl Fn(&Path, io::Error) -> E,
    ) -> Result<Option<PathBuf>, E> {
        let failed = |error| failed(&self.drawer(kind), error);
        let content = self.place(kind, path, node, uncertain).map_err(failed)?;
        let result = put(&content);
        // There, whatever came of it: a content is never without its name.
        if fs::symlink_metadata(&content).is_ok() {
            self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
            return result.map(|()| Some(content));
        }
        if let Some(place) = content.parent() {
            fs::remove_dir_all(place).map_err(failed)?;
        }
        result.map(|()| None)
    }

    fn place(&self, kind: Kind, path: &[u8], node: &str, uncertain: bool) -> io::Result<PathBuf> {
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

    /// Everything that is kept, newest first.
    pub fn all(&self, kind: Kind) -> Vec<Kept> {
        self.read(kind)
            .into_iter()
            .rev()
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
            let filled = |entry: &fs::DirEntry| fs::symlink_metadata(entry.path().join(CONTENT)).is_ok();
            let count = fs::read_dir(self.drawer(kind))
                .map_or(0, |all| all.filter_map(Result::ok).filter(filled).count() as u64);
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
        let (trash, conflicts) = (self.read(Kind::Trash), self.read(Kind::Conflicts));
        let trashed: Vec<Trashed> =
            trash.iter().map(|(_, about, size)| Trashed { at_s: about.at_s, size: *size }).collect();
        let paths: Vec<&[u8]> = conflicts.iter().map(|(_, about, _)| about.path.as_slice()).collect();
        let stale_trash = stale_trash(&trashed, now_s()).into_iter().map(|n| &trash[n].0);
        let gone: Vec<&PathBuf> =
            stale_trash.chain(stale_conflicts(&paths).into_iter().map(|n| &conflicts[n].0)).collect();
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

fn now_s() -> u64 {
    u64::try_from(clock::wall_ms() / 1000).unwrap_or(0)
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
        let content = drawers.keep(kind, (path, "hadev1", false), |at| fs::write(at, text), |_, error| error);
        let content = content.expect("a place").expect("kept");
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
        assert_eq!(drawers.count(Kind::Trash), 0);
        drawers.forget("nobody's").expect("no error");
        assert_eq!(drawers.count(Kind::Trash), 0, "counted anew");
        assert_eq!(fs::read_dir(drawers.drawer(Kind::Trash)).expect("read").count(), 1);
        let again = Drawers::open(&dir, "re").expect("open");
        assert_eq!(again.count(Kind::Trash), 0);
        assert_eq!(fs::read_dir(again.drawer(Kind::Trash)).expect("read").count(), 0, "swept up");
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn where_nothing_came_nothing_is_kept_and_what_came_counts_whatever_was_said() {
        let (dir, drawers) = drawers("nothing");
        let kept = drawers.keep(Kind::Trash, (b"d", "", false), |_| io::Result::Ok(()), |_, e| e);
        assert_eq!(kept.expect("a directory leaves nothing"), None);
        let full = |_: &Path| Err(io::Error::other("full"));
        assert!(drawers.keep(Kind::Trash, (b"p", "", false), full, |_, e| e).is_err());
        assert_eq!(fs::read_dir(drawers.drawer(Kind::Trash)).expect("read").count(), 0);
        let late = |at: &Path| fs::write(at, "x").and(Err(io::Error::other("after it was moved")));
        assert!(drawers.keep(Kind::Trash, (b"p", "", false), late, |_, e| e).is_err());
        assert_eq!((drawers.count(Kind::Trash), drawers.all(Kind::Trash).len()), (1, 1));
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn the_newest_is_listed_first_and_the_oldest_goes() {
        let (dir, drawers) = drawers("order");
        let ids: Vec<String> = (0..3).map(|n| keep(&drawers, Kind::Trash, b"p", &n.to_string())).collect();
        let listed: Vec<String> = drawers.all(Kind::Trash).into_iter().map(|kept| kept.id).collect();
        assert_eq!(listed, ids.iter().rev().cloned().collect::<Vec<_>>());
        let old = drawers.drawer(Kind::Trash).join(&ids[0]).join(ABOUT);
        let about = About { path: b"p".to_vec(), node: String::new(), uncertain: false, at_s: 0 };
        fs::write(old, serde_json::to_vec(&about).expect("JSON")).expect("written");
        assert_eq!(drawers.prune().expect("pruned"), 1);
        assert!(drawers.find(&ids[0]).is_none() && drawers.find(&ids[1]).is_some());
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
