//! `drectl db diverged`: what is on this server alone, and the same readable in a file, before anybody gives it up.
//!
//! Which transactions they are both agents know; what is in them the server's own tool reads out of its binary log. Nothing is
//! changed on either server.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use dre::config;
use dre::database::{DatabasePeer, DatabaseStatus};
use dre::logic::db::facts::{Flavor, Gtids};
use dre::logic::db::gtids::{Range, Who};
use dre::logic::db::lost::{self, Sieve};
use dre::shell::sql::Session;
use dre::shell::sql::logs::Logs;
use serde_json::json;

use crate::args::DivergedArgs;
use crate::client::Place;
use crate::exit::{Done, Fail};
use crate::{print, when};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// More of what a tool has to say is not shown.
const COMPLAINT: usize = 600;

pub fn run(place: &Place, args: &DivergedArgs) -> Done {
    let status = super::connect(place)?.database()?;
    let Some(peer) = status.peer.as_ref().filter(|peer| peer.server_id != 0) else {
        return Err(Fail::refused(
            "what the peer's server has is not known: its agent was not heard since this one started, or has not seen its server; start \
             dre-mysql there",
        ));
    };
    let settings = config::load_of(&place.group, None).map_err(|error| Fail::config(&error))?;
    let Some(database) = &settings.database else {
        return Err(Fail::refused(format!("group {} has no [database] any more", place.group)));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fail::silent(error.to_string()))?;
    let mut session = Session::new(&database.socket, "root", &database.unit);
    let logs = runtime.block_on(session.binary_logs(ANSWER_WITHIN)).map_err(|failure| {
        Fail::refused(format!(
            "{}: {}; does {} run? Run this as root",
            database.socket.display(),
            failure.words(),
            database.unit
        ))
    })?;
    let alone = alone(&status, peer, &logs)?;
    if alone.is_empty() {
        let text = format!(
            "nothing is on {} alone: {} has all of {}\n",
            status.node,
            peer.node,
            if status.has.is_empty() { "its nothing" } else { &status.has }
        );
        return print(&if args.json { crate::json_line(&json!({ "alone": [] })) } else { text });
    }
    if !args.json {
        print(&heading(&status, peer, &alone, logs.flavor))?;
    }
    let saved = match args.no_dump {
        true => None,
        false => Some(save(place, args.dump.as_deref(), &status, peer, &alone, &logs)?),
    };
    // The page has said what is missing.
    let all_saved = saved.as_ref().is_none_or(|saved| saved.missing.is_empty());
    let whole = if all_saved { Ok(()) } else { Err(Fail::refused(String::new())) };
    if args.json {
        let of = |range: &Range| json!({ "writer": range.writer, "from": range.low, "to": range.high });
        let saved = saved.as_ref().map(|saved| {
            let missing: Vec<_> = saved.missing.iter().map(of).collect();
            json!({ "file": saved.file, "transactions": saved.transactions, "rows": saved.rows, "missing": missing, "said": saved.said })
        });
        let all: Vec<_> = alone.iter().map(of).collect();
        print(&crate::json_line(&json!({ "alone": all, "saved": saved })))?;
        return whole;
    }
    if let Some(saved) = &saved {
        print(&saved.page(logs.flavor))?;
    }
    let group = &place.group;
    print(&format!(
        "do:  enter again on the ACTIVE what is missed there, then make this server a copy of the peer's: drectl -g {group} db reseed;\n     \
         or replicate in spite of it: drectl -g {group} db accept-errant\n"
    ))?;
    whole
}

/// Which they are. The peer's own do not count: its word is older than the look at this server.
fn alone(status: &DatabaseStatus, peer: &DatabasePeer, logs: &Logs) -> Result<Vec<Range>, Fail> {
    let read = |has: &str| {
        Gtids::parse(logs.flavor, has).ok_or_else(|| {
            Fail::refused(format!("{has:?} is no list of transactions; look at: drectl version"))
        })
    };
    let who = Who { id: peer.server_id, uuid: &logs.source_uuid };
    Ok(read(&status.has)?.not_written_by(who).ranges_beyond(&read(&peer.has)?))
}

fn list(alone: &[Range], flavor: Flavor) -> String {
    alone.iter().map(|range| range.shown(flavor)).collect::<Vec<_>>().join(", ")
}

fn heading(status: &DatabaseStatus, peer: &DatabasePeer, alone: &[Range], flavor: Flavor) -> String {
    let count: u64 = alone.iter().map(Range::count).sum();
    format!(
        "on {} alone: {} (at most {count} transactions)\n  {} has {}\n",
        status.node,
        list(alone, flavor),
        peer.node,
        if peer.has.is_empty() { "nothing" } else { &peer.has }
    )
}

/// What was written where.
struct Saved {
    file: PathBuf,
    transactions: u64,
    rows: u64,
    /// What the logs do not have any more.
    missing: Vec<Range>,
    /// What the tool said when it was asked for no more than is needed, and refused.
    said: String,
}

impl Saved {
    fn page(&self, flavor: Flavor) -> String {
        let mut out = format!(
            "saved in {}: {} transactions, {} rows; to be read, not to be run\n",
            self.file.display(),
            self.transactions,
            self.rows
        );
        if !self.missing.is_empty() {
            let _ = writeln!(
                out,
                "warn not saved: {}; the server's binary logs do not have it any more{}{}",
                list(&self.missing, flavor),
                if self.said.is_empty() { "" } else { ": " },
                self.said
            );
        }
        out
    }
}

fn save(
    place: &Place,
    wanted: Option<&Path>,
    status: &DatabaseStatus,
    peer: &DatabasePeer,
    alone: &[Range],
    logs: &Logs,
) -> Result<Saved, Fail> {
    let now = crate::now();
    let usual = || {
        let name = format!("lost-{}.sql", when::compact(now));
        Path::new("/var/lib").join(format!("dre-mysql@{}", place.group)).join(name)
    };
    let file = wanted.map_or_else(usual, Path::to_path_buf);
    let asked = match logs.flavor {
        Flavor::MariaDb => lost::positions(alone),
        Flavor::MySql => lost::sets(alone),
    };
    let head = format!(
        "-- On {} alone: {}\n-- {} has: {}\n-- Read out of the binary log by drectl db diverged, {}: to be read, not to be run. Rows are \
         comments; @1 is a table's first column.\n",
        status.node,
        list(alone, logs.flavor),
        peer.node,
        peer.has,
        when::compact(now)
    );
    // Only what that tool knows: an older one reads all of the log, and the sieve does the rest.
    let mut said = String::new();
    for more in [asked.as_slice(), &[]] {
        let mut sieve = Sieve::new(logs.flavor, alone);
        let mut out = made(&file)?;
        let done = out.write_all(head.as_bytes()).map_err(|error| error.to_string());
        let read = done.and_then(|()| read_out(logs, more, &mut sieve, &mut out));
        let kept = read.and_then(|()| out.sync_all().map_err(|error| error.to_string()));
        match kept {
            Ok(()) => {
                return Ok(Saved {
                    file,
                    transactions: sieve.transactions,
                    rows: sieve.rows,
                    missing: sieve.missing(logs.before.as_ref()),
                    said,
                });
            }
            Err(why) => {
                let _ = fs::remove_file(&file);
                if more.is_empty() {
                    return Err(Fail::refused(format!(
                        "the binary log could not be read out into {}: {why}; nothing was kept",
                        file.display()
                    )));
                }
                // It may have said that logs are gone.
                said = why;
            }
        }
    }
    Err(Fail::refused("the binary log could not be read out"))
}

/// Root's alone, and never over another one.
fn made(file: &Path) -> Result<File, Fail> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(|error| {
        let what = match error.kind() {
            ErrorKind::AlreadyExists => "is there already and was not touched; name another one: --dump FILE",
            ErrorKind::NotFound => "its directory is not there; name another place: --dump FILE",
            ErrorKind::PermissionDenied => "permission denied; run it as root",
            _ => return Fail::refused(format!("{}: {error}", file.display())),
        };
        Fail::refused(format!("{}: {what}", file.display()))
    })
}

/// The server's own tool over all of its logs. It takes as long as they are.
fn read_out(logs: &Logs, more: &[String], sieve: &mut Sieve, out: &mut File) -> Result<(), String> {
    let tools = match logs.flavor {
        Flavor::MariaDb => &["mariadb-binlog", "mysqlbinlog"][..],
        Flavor::MySql => &["mysqlbinlog"],
    };
    let start = |tool: &&str| {
        Command::new(tool)
            .args(["--no-defaults", "--base64-output=decode-rows", "-vv"])
            .args(more)
            .arg("--")
            .args(&logs.files)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    };
    let mut started = Err(io::Error::from(ErrorKind::NotFound));
    for tool in tools {
        started = start(tool);
        if !matches!(&started, Err(error) if error.kind() == ErrorKind::NotFound) {
            break;
        }
    }
    let mut child =
        started.map_err(|error| format!("{}: {error}; install the server's client package", tools[0]))?;
    // Beside the other pipe: a tool that complains much must not wait for its reader.
    let complaints = child.stderr.take().map(|mut pipe| {
        std::thread::spawn(move || {
            let mut bytes = vec![];
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).trim().chars().take(COMPLAINT).collect::<String>()
        })
    });
    let mut out = BufWriter::new(out);
    let sifted = child.stdout.take().map_or(Ok(()), |pipe| sift(BufReader::new(pipe), sieve, &mut out));
    if sifted.is_err() {
        let _ = child.kill();
    }
    let ended = child.wait().map_err(|error| error.to_string())?;
    let said = complaints.and_then(|thread| thread.join().ok()).unwrap_or_default();
    sifted.and_then(|()| out.flush()).map_err(|error| error.to_string())?;
    if ended.success() { Ok(()) } else { Err(format!("{} ended with {ended}: {said}", tools[0])) }
}

fn sift(mut from: impl BufRead, sieve: &mut Sieve, to: &mut impl Write) -> io::Result<()> {
    let mut line = vec![];
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&sieve.pass(&line))?;
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn seen(own: &str, peer: &str) -> Vec<Range> {
        let peer =
            DatabasePeer { node: "hadev2".into(), server_id: 2, has: peer.into(), ..DatabasePeer::default() };
        let status = DatabaseStatus { has: own.into(), ..DatabaseStatus::default() };
        let logs = Logs { flavor: Flavor::MariaDb, files: vec![], before: None, source_uuid: String::new() };
        alone(&status, &peer, &logs).expect("lists")
    }

    #[test]
    fn what_the_peer_wrote_itself_is_not_lost_however_old_its_word_is() {
        assert_eq!(
            seen("0-1-8495,0-2-9000", "0-1-8491,0-2-8900"),
            [Range { writer: "0-1".into(), low: 8492, high: 8495 }]
        );
        assert_eq!(seen("0-1-5", "0-1-5,0-2-9"), []);
    }

    #[test]
    fn what_is_not_saved_is_named_with_what_the_tool_said_of_it() {
        let mut saved = Saved {
            file: "/root/lost.sql".into(),
            transactions: 2,
            rows: 3,
            missing: vec![],
            said: "mariadb-binlog ended with exit status: 1: Binary logs are missing data".into(),
        };
        assert_eq!(saved.page(Flavor::MariaDb).lines().count(), 1, "all is saved, whatever it said first");
        saved.missing = vec![Range { writer: "0-1".into(), low: 4, high: 5 }];
        let page = saved.page(Flavor::MariaDb);
        assert!(
            page.contains("not saved: 0-1-4..5; ") && page.contains(": Binary logs are missing"),
            "{page}"
        );
    }

    #[test]
    fn a_file_that_is_there_is_not_written_over() {
        let path = std::env::temp_dir().join(format!("drectl-lost-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        drop(made(&path).expect("made"));
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(made(&path).expect_err("refused").text.contains("--dump FILE"));
        fs::remove_file(&path).expect("removed");
    }
}
