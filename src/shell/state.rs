//! What survives a restart: the term. Written by a thread of its own, because a disk may hang.
//!
//! Losing the newest number is harmless: a term is taken above every term heard, and what a restarted node forgot
//! of its promises its startup hold covers.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

/// The thread's inbox; never waits.
pub struct Keeper(SyncSender<u64>);

impl Keeper {
    /// `directory`: `$STATE_DIRECTORY`. Errors go to `trouble`, once each time they begin.
    pub fn start(directory: &Path, trouble: impl Fn(String) + Send + 'static) -> io::Result<Self> {
        let path = directory.join("term");
        let (inbox, terms) = sync_channel::<u64>(16);
        std::thread::Builder::new().name("state".into()).spawn(move || {
            let mut failing = false;
            for term in terms {
                let result = write(&path, term);
                if let Err(error) = &result
                    && !failing
                {
                    trouble(format!(
                        "cannot keep term {term} in {}: {error}; roles go on without",
                        path.display()
                    ));
                }
                failing = result.is_err();
            }
        })?;
        Ok(Self(inbox))
    }

    pub fn keep(&self, term: u64) {
        let _ = self.0.try_send(term);
    }
}

fn write(path: &Path, term: u64) -> io::Result<()> {
    let new: PathBuf = path.with_extension("new");
    let mut file = File::create(&new)?;
    writeln!(file, "{term}")?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// The term that was kept; 0 if none was.
pub fn term(directory: &Path) -> u64 {
    let text = fs::read_to_string(directory.join("term")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Leaves a mark that lasts as long as this boot; `true` if an earlier process of this boot left one.
pub fn restarted(runtime_directory: &Path) -> bool {
    let mark = runtime_directory.join("started");
    let before = mark.exists();
    let _ = File::create(mark);
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_survives_and_a_broken_file_is_no_term() {
        let dir = std::env::temp_dir().join(format!("dre-state-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        assert_eq!(term(&dir), 0);
        write(&dir.join("term"), 41).expect("written");
        assert_eq!(term(&dir), 41);
        fs::write(dir.join("term"), "rubbish").expect("written");
        assert_eq!(term(&dir), 0);
        assert!(!restarted(&dir));
        assert!(restarted(&dir));
        fs::remove_dir_all(&dir).expect("removed");
    }
}
