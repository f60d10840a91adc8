//! `include` and `exclude`: which paths of a set are replicated. Pure.
//!
//! As people know it from .gitignore: a pattern without a slash is looked for at every depth, one with a slash from the
//! root on; `*` stays within a name, `**` goes across. What lies in an excluded directory is excluded.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// Compiled globs of one set.
#[derive(Debug, Clone)]
pub struct Filter {
    /// `None`: everything.
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    /// The sentence is the pattern's mistake.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, String> {
        let set = |patterns: &[String]| {
            let mut builder = GlobSetBuilder::new();
            for pattern in patterns {
                builder.add(glob(pattern)?);
            }
            builder.build().map_err(|error| error.to_string())
        };
        let all = include.is_empty();
        Ok(Self { include: if all { None } else { Some(set(include)?) }, exclude: set(exclude)? })
    }

    /// Whether a file or link of this path in the set is replicated.
    pub fn takes(&self, path: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        self.include.as_ref().is_none_or(|include| include.is_match(path)) && !self.excluded(path)
    }

    /// Whether anything below a directory of this path can be replicated: nothing below an excluded one.
    pub fn enters(&self, path: &[u8]) -> bool {
        !self.excluded(Path::new(OsStr::from_bytes(path)))
    }

    fn excluded(&self, path: &Path) -> bool {
        let own = path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty());
        !self.exclude.is_empty() && own.into_iter().any(|ancestor| self.exclude.is_match(ancestor))
    }
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
    fn a_name_is_looked_for_everywhere_and_a_path_from_the_root() {
        for (pattern, path, matches) in [
            ("*.xml", "a.xml", true),
            ("*.xml", "deep/er/a.xml", true),
            ("*.xml", "a.xml.bak", false),
            ("**/*.xml", "a.xml", true),
            ("**/*.xml", "deep/er/a.xml", true),
            ("re/*.xml", "re/a.xml", true),
            ("re/*.xml", "re/deep/a.xml", false),
            ("re/**", "re/deep/a.xml", true),
            ("re/*.xml", "x/re/a.xml", false),
            ("{a,b}.xml", "x/b.xml", true),
            ("[ab].xml", "c.xml", false),
            ("a\\*.xml", "a*.xml", true),
        ] {
            assert_eq!(filter(&[pattern], &[]).takes(path.as_bytes()), matches, "{pattern} {path}");
        }
        assert!(filter(&[], &[]).takes(b"anything/\xff\n"), "names are bytes");
        assert!(filter(&["*.xml"], &[]).takes(b"\xff\xfe.xml"));
    }

    #[test]
    fn what_lies_in_an_excluded_directory_is_excluded() {
        let f = filter(&["*.xml"], &["drafts/", "*.bak", "old/2024"]);
        for (path, takes) in [
            ("a.xml", true),
            ("drafts/a.xml", false),
            ("deep/drafts/er/a.xml", false),
            ("old/2024/a.xml", false),
            ("old/2025/a.xml", true),
            ("a.bak/a.xml", false),
        ] {
            assert_eq!(f.takes(path.as_bytes()), takes, "{path}");
        }
        assert!(f.enters(b"old") && !f.enters(b"old/2024") && !f.enters(b"drafts"));
        assert!(f.enters(b"deep"), "a directory need not match include");
    }

    #[test]
    fn what_can_match_nothing_is_a_mistake() {
        for bad in ["", "/", "/etc/*", "a/../b", "./a", "[", "a[b", "{a", "***["] {
            assert!(glob(bad).is_err(), "{bad:?}");
        }
    }
}
