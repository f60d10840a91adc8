//! `sync.toml` → the sets of files that are the same on both nodes.
//!
//! It lies beside `dre.toml`, is the same file on both nodes, and is read by dre-sync and by `drectl` through the same
//! function. Who the pair is, and over which addresses it talks, stands in `dre.toml` and only there.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Error;
use super::{Link, Settings, read_sources};
use crate::logic::sync::filter::Filter;

mod check;
mod digest;
mod host;
mod raw;

pub use check::is_systems;
pub use host::{SEARCH, find};

/// dre-sync to dre-sync; one above the heartbeat's.
pub const PORT: u16 = 1695;
/// rsync's, when the content goes beside the channel; not rsync's own 873, which a machine may use otherwise.
pub const RSYNC_PORT: u16 = 8730;

/// Everything dre-sync runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// dre-sync to dre-sync, TCP.
    pub port: u16,
    /// rsync's own, TCP; only without `encrypt`.
    pub rsync_port: u16,
    /// The content too goes through the authenticated channel, encrypted.
    pub encrypt: bool,
    /// By name.
    pub sets: Vec<Set>,
    /// This machine's key under `[nodes]` of dre.toml.
    pub node: String,
    pub peer: String,
    /// Over which the two talk; at least one. There also where TIPC carries the heartbeats.
    pub links: Vec<Link>,
    /// What holds but may surprise.
    pub warnings: Vec<String>,
}

impl Sync {
    /// The set of this name.
    pub fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    pub name: String,
    pub root: PathBuf,
    /// Globs over paths in the set; empty = everything.
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    /// What an owner or group of the set is called on this node, where it is not called the same: name in the set → here.
    pub owners: BTreeMap<String, String>,
    /// May refuse a batch before it is published; `{staging}` and `{list}` are replaced.
    pub validate: Option<Vec<String>>,
    pub validate_timeout: Duration,
    /// Once a batch, after it was published.
    pub apply: Option<Vec<String>>,
    /// Not more often than this.
    pub apply_every: Duration,
    pub publish: Publish,
    /// Links that leave the root are replicated too.
    pub links_outside: bool,
    /// Of what must be the same on both nodes.
    pub digest: [u8; 32],
}

impl Set {
    /// Which paths of it are replicated; the sentence is a glob's mistake, which [`parse`] has refused before.
    pub fn filter(&self) -> Result<Filter, String> {
        Filter::new(&self.include, &self.exclude)
    }

    /// `validate` for one batch: `staging` holds its files at their paths in the set, `list` is a file as [`list`]
    /// makes it.
    pub fn validate_command(&self, staging: &Path, list: &Path) -> Option<Vec<OsString>> {
        let words = self.validate.as_ref()?;
        Some(words.iter().map(|word| filled(word, staging, list)).collect())
    }
}

/// `{staging}` and `{list}` replaced, anywhere in a word, once: what a path brings along is not looked at again.
fn filled(word: &str, staging: &Path, list: &Path) -> OsString {
    let mut out = vec![];
    let mut rest = word;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.extend_from_slice(before.as_bytes());
        let known = [("{staging}", staging), ("{list}", list)];
        match known.iter().find(|(name, _)| from.starts_with(name)) {
            Some((name, path)) => {
                out.extend_from_slice(path.as_os_str().as_bytes());
                rest = &from[name.len()..];
            }
            None => {
                out.push(b'{');
                rest = &from[1..];
            }
        }
    }
    out.extend_from_slice(rest.as_bytes());
    OsString::from_vec(out)
}

/// The text of a `{list}`: paths in the set of what a batch brings, a line each; a newline in a name is `\n`, a backslash
/// `\\`.
pub fn list<'a>(paths: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = vec![];
    for path in paths {
        for byte in path {
            match byte {
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\\' => out.extend_from_slice(b"\\\\"),
                byte => out.push(*byte),
            }
        }
        out.push(b'\n');
    }
    out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Publish {
    /// File by file, each by a rename.
    #[default]
    Files,
    /// A whole batch at once: `root` is a link to a generation of the tree, and is switched.
    Tree,
}

/// Where it is: beside `dre.toml`, wherever that is.
pub fn locate() -> PathBuf {
    beside(&super::file_of(&super::group()))
}

/// The `sync.toml` that belongs to a `dre.toml`.
pub fn beside(dre_toml: &Path) -> PathBuf {
    dre_toml.with_file_name("sync.toml")
}

/// What dre-sync runs with: `dre.toml`, `sync.toml` beside it, their drop-ins, this host's name.
pub fn load() -> Result<Sync, Error> {
    load_file(&locate(), &super::load()?)
}

/// A `sync.toml` and its drop-ins, for the pair of `settings`.
pub fn load_file(file: &Path, settings: &Settings) -> Result<Sync, Error> {
    parse(&sources(file)?, settings)
}

/// The file and its drop-ins in `FILE.d/*.toml`, as they are on the disk.
pub fn sources(file: &Path) -> Result<Vec<(PathBuf, String)>, Error> {
    read_sources(file, |path, error| {
        Error::plain(
            format!("{}: {error}", path.display()),
            "without it nothing is replicated",
            "make it with: drectl rules setup (example: /usr/share/doc/dre/sync.toml)".into(),
        )
    })
}

/// Text to sets that hold together. Pure. Later sources add to and override earlier ones. Every finding is reported,
/// not only the first.
pub fn parse(sources: &[(PathBuf, String)], settings: &Settings) -> Result<Sync, Error> {
    let mut whole = raw::Raw::default();
    for (path, text) in sources {
        whole.overlay(raw::read(path, text)?);
    }
    check::settings(whole, sources, settings)
}

#[cfg(test)]
mod tests;
