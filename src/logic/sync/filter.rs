//! Which paths of a tree belong to the set: `include`, `exclude`, and what no set wants.
//!
//! As people know it from .gitignore: a pattern without a slash is looked for at every depth, one with a slash from the
//! root on; `*` stays within a name, `**` goes across. What lies in an excluded directory is excluded; a directory is
//! included unless it is excluded.
//!
//! Absent on purpose: rsync's temporary names (`.NAME.XXXXXX`): `.settings.backup` would be one, and a file that is
//! still written is not looked at anyway.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// Compiled globs of one set. Paths are bytes, relative to the root.
#[derive(Debug, Clone)]
pub struct Filter {
    /// `None`: everything.
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    /// The error is a sentence about the pattern.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        let include = if include.is_empty() { None } else { Some(compiled(include)?) };
        Ok(Self { include, exclude: compiled(exclude)? })
    }

    /// Whether a file or a link of this path belongs to the set.
    pub fn takes(&self, path: &[u8]) -> bool {
        let own = Path::new(OsStr::from_bytes(path));
        self.enters(path) && self.include.as_ref().is_none_or(|include| include.is_match(own))
    }

    /// Whether a directory of this path belongs to the set.
    pub fn enters(&self, path: &[u8]) -> bool {
        path.split(|byte| *byte == b'/').all(|name| !ignored(name)) && !self.excluded(path)
    }

    fn excluded(&self, path: &[u8]) -> bool {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        !self.exclude.is_empty()
            && ends
                .chain([path.len()])
                .any(|end| self.exclude.is_match(Path::new(OsStr::from_bytes(&path[..end]))))
    }

    /// The same of a name in a directory that belongs to the set: nothing above it is asked again.
    pub fn takes_in_directory(&self, path: &[u8], name: &[u8], directory: bool) -> bool {
        let own = Path::new(OsStr::from_bytes(path));
        !ignored(name)
            && (self.exclude.is_empty() || !self.exclude.is_match(own))
            && (directory || self.include.as_ref().is_none_or(|include| include.is_match(own)))
    }
}

/// What editors and dre itself leave for a moment.
fn ignored(name: &[u8]) -> bool {
    name.starts_with(b".dre-")
        || name.starts_with(b".#")
        || name.ends_with(b"~")
        || name.ends_with(b".swp")
        || name.ends_with(b".swx")
        || name == b".~tmp~"
        // vim tries whether it may make a file.
        || name == b"4913"
}

fn compiled(patterns: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(glob(pattern).map_err(|why| format!("{pattern:?}: {why}"))?);
    }
    set.build().map_err(|error| error.to_string())
}

/// One pattern; the sentence says what is wrong with it.
pub fn glob(pattern: &str) -> Result<Glob, String> {
    let own = pattern.trim_end_matches('/');
    if own.is_empty() {
        return Err("it matches nothing".into());
    }
    if own.starts_with('/') {
        return Err("paths in a set begin below its root, never with a slash".into());
    }
    if own.split('/').any(|name| name == "." || name == "..") {
        return Err("paths in a set have no \".\" and no \"..\"".into());
    }
    let anywhere = if own.contains('/') { own.to_owned() } else { format!("**/{own}") };
    let built = GlobBuilder::new(&anywhere).literal_separator(true).backslash_escape(true).build();
    built.map_err(|error| error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(include: &[&str], exclude: &[&str]) -> Filter {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Filter::new(&owned(include), &owned(exclude)).expect("globs")
    }

    #[test]
    fn what_editors_leave_belongs_to_no_set_and_what_looks_alike_does() {
        let all = filter(&[], &[]);
        for gone in
            ["a.swp", ".a.swx", "a~", "4913", ".#a", ".~tmp~/a", "d/.dre-stage", ".dre-stage/a", "d~/a"]
        {
            assert!(!all.takes(gone.as_bytes()), "{gone}");
        }
        for kept in
            ["a", "a.swp.txt", "~a", "14913", "#a#", ".settings.backup", ".rule.aB3xYz", "dre-x", "a/.b"]
        {
            assert!(all.takes(kept.as_bytes()) && all.enters(kept.as_bytes()), "{kept}");
        }
        assert!(all.takes(b"\xff\xfe/\n"), "names are bytes");
    }

    #[test]
    fn a_name_is_looked_for_everywhere_and_a_path_from_the_root() {
        for (include, exclude, path, takes) in [
            (&["*.xml"][..], &[][..], "deep/er/a.xml", true),
            (&["*.xml"], &[], "a.xml.bak", false),
            (&["re/*.xml"], &[], "re/deep/a.xml", false),
            (&["re/**"], &[], "re/deep/a.xml", true),
            (&["re/*.xml"], &[], "x/re/a.xml", false),
            (&[], &["drafts/"], "deep/drafts/er/a.xml", false),
            (&[], &["old/2024"], "old/2024/a", false),
            (&[], &["old/2024"], "old/2025/a", true),
            (&["*.xml"], &["old"], "old.xml", true),
            (&["**/*.xml"], &[], "a.xml", true),
            (&["**/*.xml"], &[], "deep/er/a.xml", true),
            (&["{a,b}.xml"], &[], "x/b.xml", true),
            (&["[ab].xml"], &[], "c.xml", false),
            (&["a\\*.xml"], &[], "a*.xml", true),
            (&["*.xml"], &["*.bak"], "a.bak/a.xml", false),
        ] {
            let filter = filter(include, exclude);
            assert_eq!(filter.takes(path.as_bytes()), takes, "{include:?} {exclude:?} {path}");
            // Beneath what was entered, the short question has the same answer.
            if let Some((directory, name)) = path.rsplit_once('/')
                && filter.enters(directory.as_bytes())
            {
                assert_eq!(
                    filter.takes_in_directory(path.as_bytes(), name.as_bytes(), false),
                    takes,
                    "{path}"
                );
            }
        }
        let filter = filter(&["*.xml"], &["drafts"]);
        assert!(filter.enters(b"deep") && !filter.enters(b"drafts") && !filter.enters(b"drafts/deep"));
        assert!(filter.takes_in_directory(b"deep", b"deep", true));
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_a_mistake() {
        for bad in ["", "/", "/etc/*", "a/../b", "./a", "[", "a[b", "{a", "***["] {
            assert!(Filter::new(&[], &[bad.to_owned()]).is_err(), "{bad:?}");
        }
    }
}
