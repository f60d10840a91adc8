//! What the agent keeps for its next start. Written by a thread of its own: a disk may hang, and a full one is what it must survive.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};

use dre::logic::db::facts::Record;

const NAME: &str = "record";

pub struct Keeper(SyncSender<Record>);

impl Keeper {
    /// Errors go to `trouble`, once each time they begin.
    pub fn start(directory: &Path, trouble: impl Fn(String) + Send + 'static) -> io::Result<Self> {
        let directory = directory.to_path_buf();
        let (inbox, records) = sync_channel::<Record>(16);
        std::thread::Builder::new().name("record".into()).spawn(move || {
            let mut failing = false;
            for record in records {
                let result = write(&directory, &record);
                if let Err(error) = &result
                    && !failing
                {
                    trouble(format!(
                        "cannot keep what was received in {}: {error}; a lost relay log might not be noticed after a restart",
                        directory.display()
                    ));
                }
                failing = result.is_err();
            }
        })?;
        Ok(Self(inbox))
    }

    pub fn keep(&self, record: &Record) {
        let _ = self.0.try_send(record.clone());
    }
}

fn write(directory: &Path, record: &Record) -> io::Result<()> {
    let new = directory.join("record.new");
    let bytes = postcard::to_stdvec(record).map_err(io::Error::other)?;
    let mut file = File::create(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(NAME))
}

/// What was kept; nothing if there is none, or what is there is no record.
pub fn read(directory: &Path) -> Record {
    let mut bytes = fs::read(directory.join(NAME)).unwrap_or_default();
    postcard::from_bytes(&bytes).unwrap_or_else(|_| {
        // One of before ends where the list of what was accepted begins now: an empty one.
        bytes.push(0);
        postcard::from_bytes(&bytes).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dre::logic::db::facts::{Flavor, Gtids};
    use dre::logic::db::gtids::Range;

    use super::*;

    #[test]
    fn what_was_kept_is_read_again_and_rubbish_is_nothing() {
        let dir = std::env::temp_dir().join(format!("dre-record-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        assert_eq!(read(&dir), Record::default());
        let gtids = Gtids::parse(Flavor::MariaDb, "0-1-5,0-2-9").expect("gtids");
        let accepted = vec![Range { writer: "0-1".into(), low: 4, high: 5 }];
        let record = Record {
            received: Some(gtids.clone()),
            promoted: Some((7, gtids)),
            meant: 8,
            alone: true,
            accepted,
        };
        write(&dir, &record).expect("written");
        assert_eq!(read(&dir), record);
        fs::write(dir.join(NAME), b"\x07").expect("written");
        assert_eq!(read(&dir), Record::default());
        fs::remove_dir_all(&dir).expect("removed");
    }

    /// Byte for byte as 0.1.0 wrote it, whose record ended with `alone`.
    #[test]
    fn a_record_of_before_is_read_with_nothing_accepted() {
        let dir = std::env::temp_dir().join(format!("dre-record-before-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let gtids = Gtids::parse(Flavor::MariaDb, "0-1-5,0-2-9").expect("gtids");
        let before = (Some(gtids.clone()), Some((7_u64, gtids.clone())), 8_u64, true);
        fs::write(dir.join(NAME), postcard::to_stdvec(&before).expect("bytes")).expect("written");
        let record = Record {
            received: Some(gtids.clone()),
            promoted: Some((7, gtids)),
            meant: 8,
            alone: true,
            accepted: vec![],
        };
        assert_eq!(read(&dir), record);
        // What no server prints is not believed of a disk either.
        let forged = Gtids::MySql(BTreeMap::from([("'); SHUTDOWN; --".to_owned(), vec![(1, u64::MAX)])]));
        write(&dir, &Record { received: Some(forged), ..record }).expect("written");
        assert_eq!(read(&dir), Record::default());
        fs::remove_dir_all(&dir).expect("removed");
    }
}
