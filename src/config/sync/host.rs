//! What only this machine knows of the sets: directories, commands, names of owners.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User};

use super::{Publish, Set, Sync};
use crate::config::error::{Error, Finding};

/// Where a command without a slash is looked for, by dre-sync and by what runs in its place: systemd's own list.
pub const SEARCH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

impl Sync {
    /// What of the sets cannot hold on this machine. What may come later (a directory, a program) is only said.
    pub fn check_host(&self) -> (Vec<String>, Result<(), Error>) {
        let (mut warnings, mut bad) = (vec![], self.overlaps());
        for set in &self.sets {
            let name = &set.name;
            match std::fs::metadata(&set.root) {
                Err(error) => warnings.push(format!(
                    "set {name}: {}: {error}; it is ROOT_GONE until the directory is there: mkdir -p {0}",
                    set.root.display()
                )),
                Ok(meta) if !meta.is_dir() => bad.push(Finding {
                    place: None,
                    what: format!("set {name}: {} is no directory", set.root.display()),
                    why: "a set is a directory with all that is below it".into(),
                    remedy: "write the directory the file is in, and choose with include".into(),
                }),
                Ok(_) if set.publish == Publish::Files && set.root.is_symlink() => bad.push(Finding {
                    place: None,
                    what: format!("set {name}: {} is a link", set.root.display()),
                    why: "whoever may change it would choose where dre-sync writes, as root".into(),
                    remedy: "write where it leads as the root".into(),
                }),
                Ok(_) => {}
            }
            for (key, command) in [("validate", &set.validate), ("apply", &set.apply)] {
                let program = command.as_ref().and_then(|words| words.first());
                if let Some(program) = program.filter(|program| find(program).is_none()) {
                    warnings.push(format!(
                        "set {name}: {key} runs {program}, which is not there (now) or cannot be executed"
                    ));
                }
            }
            for (name_in_set, here) in set.owners.iter().filter(|(_, here)| !exists(here)) {
                warnings.push(format!(
                    "set {name}: {name_in_set} is called {here} on this node, where there is neither a user nor a group {here} (now)"
                ));
            }
        }
        (warnings, if bad.is_empty() { Ok(()) } else { Err(Error::of_host(bad)) })
    }

    /// What no dre-sync may begin with: sets that undo each other.
    pub fn apart(self) -> Result<Self, Error> {
        let bad = self.overlaps();
        if bad.is_empty() { Ok(self) } else { Err(Error::of_host(bad)) }
    }

    fn overlaps(&self) -> Vec<Finding> {
        let real: Vec<(&Set, PathBuf)> =
            self.sets.iter().filter_map(|set| Some((set, set.root.canonicalize().ok()?))).collect();
        let mut bad = vec![];
        for (index, (set, path)) in real.iter().enumerate() {
            for (other, there) in real.iter().take(index) {
                if path.starts_with(there) || there.starts_with(path) {
                    bad.push(Finding {
                        place: None,
                        what: format!(
                            "set {} ({}) and set {} ({}) lie in one another, by way of a link",
                            set.name,
                            path.display(),
                            other.name,
                            there.display()
                        ),
                        why: "a file would be in two sets, each with a history of its own".into(),
                        remedy: "make it one set and choose with include and exclude".into(),
                    });
                }
            }
        }
        bad
    }
}

/// The program's file, if it can be run.
pub fn find(program: &str) -> Option<PathBuf> {
    let runs = |path: &Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    SEARCH.iter().map(|dir| Path::new(dir).join(program)).find(|path| runs(path))
}

fn exists(name: &str) -> bool {
    name.parse::<u32>().is_ok()
        || User::from_name(name).ok().flatten().is_some()
        || Group::from_name(name).ok().flatten().is_some()
}
