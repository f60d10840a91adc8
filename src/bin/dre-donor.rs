//! dre-donor (`dre-donor@GROUP.socket`): gives the peer a copy of this node's database server.
//!
//! ```text
//!   drectl db reseed, on the peer ── dre-mysql, here ── local socket ──▶ Offer; when it says go: what mariadb-backup writes, Ended
//! ```
//!
//! Root, because the server's files are its user's alone, and because a backup needs an account with rights that the agent has not: so it
//! is a program of its own that takes no word from anybody, may read and not write, and is started by a connection that the agent
//! alone can make, for a peer that proved the cluster key.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use dre::config::{self, Settings};
use dre::database::talk::{Ended, GO, Offer, PART_MAX, THINKS, line, part};
use dre::logic::group;
use dre::notice::{Notice, Priority};
use dre::shell::journal::Journal;
use dre::shell::sql;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Nobody else comes: the next one starts it anew.
const IDLE_MS: u16 = 5_000;
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// Last lines of the copying program that are kept.
const LINES: usize = 20;
/// By its old name or its new one.
const PROGRAMS: [&str; 2] = ["/usr/bin/mariadb-backup", "/usr/bin/mariabackup"];
/// What the program says at the end of a copy that is one.
const WHOLE: &str = "completed OK!";

fn main() -> ExitCode {
    let journal = match Journal::start("dre-donor", config::log_level()) {
        Ok(journal) => journal,
        Err(error) => {
            eprintln!("dre-donor: cannot start the journal's thread: {error}");
            return ExitCode::from(70);
        }
    };
    let settings = match config::load() {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{}", error.lines());
            return ExitCode::from(config::EXIT_CONFIG);
        }
    };
    let result = serve(&settings, &journal);
    // The journal's thread has the last word still.
    std::thread::sleep(Duration::from_millis(20));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dre-donor: {error}");
            ExitCode::from(70)
        }
    }
}

fn serve(settings: &Settings, journal: &Journal) -> io::Result<()> {
    let passed = sd_notify::listen_fds().map_err(io::Error::other)?.next();
    let Some(fd) = passed else {
        return Err(io::Error::other(
            "no socket was passed; it is started by systemd: systemctl start dre-donor@GROUP.socket",
        ));
    };
    // SAFETY: systemd passed this descriptor to this process and nobody else here has taken it.
    let listener = unsafe { UnixListener::from_raw_fd(fd) };
    loop {
        let mut waits = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waits, PollTimeout::from(IDLE_MS))? == 0 {
            return Ok(());
        }
        let (stream, _) = listener.accept()?;
        let (priority, text) = match give(settings, stream) {
            Ok(bytes) => (Priority::Notice, format!("copied the server: {bytes} bytes")),
            Err(error) => (Priority::Warning, format!("no copy of the server: {error}")),
        };
        journal.log(Notice::Database { priority, text });
    }
}

/// The whole of one copy; how many bytes went.
fn give(settings: &Settings, mut stream: UnixStream) -> io::Result<u64> {
    use std::io::Write;
    let offer = offer(settings);
    stream.write_all(&line(&offer))?;
    if !offer.refused.is_empty() {
        return Err(io::Error::other(offer.refused));
    }
    if let Err(why) = go(&mut stream) {
        let ended = Ended { whole: false, last: why.to_string() };
        part(&mut stream, &[])?;
        stream.write_all(&line(&ended))?;
        return Err(why);
    }
    let socket = settings.database.as_ref().map(|database| database.socket.clone()).unwrap_or_default();
    let mut child = start(&socket)?;
    let (last, sent) = pass_on(&mut child, &mut stream);
    if sent.is_err() {
        // Nobody takes it any more: the server need not go on being read.
        let _ = child.kill();
    }
    let status = child.wait()?;
    let last = last.join().unwrap_or_default();
    let bytes = sent?;
    let whole = status.success() && last.iter().any(|line| line.contains(WHOLE));
    let ended = Ended { whole, last: last.join("\n") };
    part(&mut stream, &[])?;
    stream.write_all(&line(&ended))?;
    if whole { Ok(bytes) } else { Err(io::Error::other(format!("{status}: {}", ended.last))) }
}

/// Whoever asked wants it still, and takes it from now on.
fn go(stream: &mut UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(THINKS))?;
    let mut word = [0; GO.len()];
    stream.read_exact(&mut word).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("nobody said within {} minutes that it shall begin", THINKS.as_secs() / 60),
        ),
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it was not wanted any more"),
        _ => error,
    })?;
    if word == GO { Ok(()) } else { Err(io::Error::other("what came is no go")) }
}

fn offer(settings: &Settings) -> Offer {
    let node = settings.node.clone();
    let refused = |why: String| Offer { node: node.clone(), refused: why, ..Offer::default() };
    let Some(database) = &settings.database else {
        return refused(format!("{}: no [database]", config::file_of(&settings.group).display()));
    };
    if program().is_none() {
        return refused("mariadb-backup is not installed; apt install mariadb-backup".into());
    }
    match look(&database.socket) {
        Err(failure) => refused(format!(
            "{}: {}; has root an account there (unix_socket)?",
            database.socket.display(),
            failure.words()
        )),
        Ok(stands) if !stands.is_mariadb => refused(format!(
            "a MySQL server is copied by its own CLONE (CLONE INSTANCE FROM …), then: {}",
            group::command(&settings.group, "db reseeded")
        )),
        Ok(stands) => Offer {
            node,
            version: stands.version.clone(),
            bytes: size(Path::new(&stands.datadir), &stands),
            has: stands.has,
            server_id: stands.server_id,
            read_only: stands.read_only,
            refused: String::new(),
        },
    }
}

fn look(socket: &Path) -> Result<sql::Stands, dre::logic::db::facts::Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(sql::stands(socket, LOOK_WITHIN)),
        Err(error) => Err(dre::logic::db::facts::Failure::Gone { text: error.to_string() }),
    }
}

/// Bytes of the files that go; the logs do not.
fn size(directory: &Path, stands: &sql::Stands) -> u64 {
    let logs = [&stands.binary_log, &stands.relay_log]
        .map(|path| Path::new(path).file_name().map(ToOwned::to_owned));
    let is_log = |path: &Path| {
        path.file_stem().is_some_and(|stem| logs.iter().any(|log| log.as_deref() == Some(stem)))
            && path.parent() == Some(directory)
    };
    let mut all = 0;
    let mut todo = vec![directory.to_path_buf()];
    while let Some(next) = todo.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.metadata() {
                Ok(about) if about.is_dir() => todo.push(path),
                Ok(about) if about.is_file() && !is_log(&path) => all += about.len(),
                _ => {}
            }
        }
    }
    all
}

fn program() -> Option<&'static str> {
    PROGRAMS.into_iter().find(|path| Path::new(path).exists())
}

fn start(socket: &Path) -> io::Result<Child> {
    // A private one: PrivateTmp=.
    let scratch = PathBuf::from("/tmp/copy");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(&scratch)?;
    Command::new(program().unwrap_or(PROGRAMS[0]))
        .args(["--backup", "--stream=xbstream", "--user=root"])
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--target-dir={}", scratch.display()))
        .current_dir(&scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

type Lines = std::thread::JoinHandle<Vec<String>>;

/// What the program writes goes out in parts; its last words are kept.
fn pass_on(child: &mut Child, stream: &mut UnixStream) -> (Lines, io::Result<u64>) {
    let words = child.stderr.take();
    let last = std::thread::spawn(move || {
        let mut last = vec![];
        for line in words.into_iter().flat_map(|words| BufReader::new(words).lines()).map_while(Result::ok) {
            if last.len() == LINES {
                last.remove(0);
            }
            last.push(line);
        }
        last
    });
    let mut copy = || {
        let mut bytes = 0;
        let mut buffer = vec![0; PART_MAX];
        let Some(mut from) = child.stdout.take() else { return Ok(0) };
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(bytes),
                got => {
                    part(stream, &buffer[..got])?;
                    bytes += got as u64;
                }
            }
        }
    };
    let sent = copy();
    (last, sent)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn nothing_is_read_before_the_other_end_says_go() {
        let says = |bytes: &[u8]| {
            let (mut near, mut far) = UnixStream::pair().expect("a pair");
            far.write_all(bytes).expect("written");
            drop(far);
            go(&mut near).map_err(|error| error.to_string())
        };
        assert_eq!(says(GO), Ok(()));
        assert!(says(b"").is_err_and(|why| why.contains("not wanted any more")));
        assert!(says(b"g").is_err_and(|why| why.contains("not wanted any more")));
        assert!(says(b"no\n").is_err_and(|why| why.contains("no go")));
    }
}
