//! The two agents' words to each other: what this one says goes over a connection it made, what the peer says comes over one that
//! the peer made. One link at a time, another one when it breaks.
//!
//! Whether a way is open does not depend on what the machine has to say, which may be nothing for a while (a server that is down is
//! told nothing of): [`Said::Lives`] is said anyway. A word that no agent says ends the connection: what is in it goes no further.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dre::config::Link;
use dre::database::talk::{self, Said};
use dre::logic::db::facts::Tell;
use dre::notice::{Notice, Priority};
use dre::shell::journal::Journal;
use dre::shell::secure::{self, Came, Connection, Error, Listener, Pass};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Between two attempts. A peer that comes back is heard of by its own connection at once.
const AGAIN: Duration = Duration::from_millis(200);
/// Something is said this often at least.
const LIVES_EVERY: Duration = Duration::from_secs(1);
/// A connection without words for longer is a dead one.
const SILENT: Duration = Duration::from_secs(3);
/// A handshake on a link that works takes some milliseconds.
const STAGGER: Duration = Duration::from_millis(300);
const SEND_WITHIN: Duration = Duration::from_secs(2);
/// A peer whose words are refused comes again at once: it is said this often at most.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What comes of it.
pub enum Heard {
    Told(Box<Tell>),
    /// Both ways are open, or not any more.
    Open(bool),
}

/// The channel, both ways.
pub struct Agents {
    say: mpsc::UnboundedSender<Tell>,
}

impl Agents {
    /// `links`: this node's address and the peer's, in the order they are tried. `donor`: who copies this node's server.
    pub fn start(
        links: Vec<Link>,
        port: u16,
        pass: Pass,
        donor: &Path,
        heard: mpsc::UnboundedSender<Heard>,
        journal: Journal,
    ) -> std::io::Result<Self> {
        let pass = Arc::new(pass);
        let doors: Vec<(SocketAddr, IpAddr)> =
            links.iter().map(|link| (SocketAddr::new(link.local, port), link.peer)).collect();
        let listener = Listener::bind(&doors, Arc::clone(&pass))?;
        let (say, said) = mpsc::unbounded_channel();
        let (ways, seen) = watch::channel((false, false));
        let ways = Rc::new(ways);
        let donor = donor.to_path_buf();
        tokio::task::spawn_local(listen(listener, donor, heard.clone(), Rc::clone(&ways), journal.clone()));
        tokio::task::spawn_local(speak(links, port, pass, said, ways, journal));
        tokio::task::spawn_local(tell_openness(seen, heard));
        Ok(Self { say })
    }

    pub fn say(&self, tell: Tell) {
        let _ = self.say.send(tell);
    }
}

async fn tell_openness(mut seen: watch::Receiver<(bool, bool)>, heard: mpsc::UnboundedSender<Heard>) {
    let mut was = false;
    while seen.changed().await.is_ok() {
        let (there, back) = *seen.borrow_and_update();
        if was != (there && back) {
            was = there && back;
            let _ = heard.send(Heard::Open(was));
        }
    }
}

/// Joins who wants a copy to who makes it. The agent passes the bytes on and has no right to them.
async fn give(connection: Connection, donor: PathBuf, journal: Journal) {
    let given = async {
        let mut pipe = connection.into_pipe().patient(talk::SILENT)?;
        let mut maker = UnixStream::connect(&donor).await?;
        tokio::io::copy_bidirectional_with_sizes(&mut pipe, &mut maker, 64 << 10, 64 << 10).await
    };
    let (priority, text) = match given.await {
        Ok((_, bytes)) => (Priority::Notice, format!("the peer took a copy of this server: {bytes} bytes")),
        Err(error) => (
            Priority::Warning,
            format!("the peer wanted a copy of this server, and it ended: {}: {error}", donor.display()),
        ),
    };
    journal.log(Notice::Database { priority, text });
}

/// Says of a word that it was refused, and the connection with it.
struct Refusals {
    said: Cell<Option<Instant>>,
    journal: Journal,
}

impl Refusals {
    fn say(&self, error: &Error) {
        let said = self.said.get().is_some_and(|at| at.elapsed() < SAY_EVERY);
        if said || !matches!(error, Error::Malformed(_) | Error::TooLong(_)) {
            return;
        }
        self.said.set(Some(Instant::now()));
        let text = format!(
            "a word of the peer's agent is refused, and its connection ended: {error}; install the same version of dre on both nodes, and \
             look at dre-mysql there"
        );
        self.journal.log(Notice::Trouble { text });
    }
}

async fn listen(
    mut listener: Listener,
    donor: PathBuf,
    heard: mpsc::UnboundedSender<Heard>,
    ways: Rc<watch::Sender<(bool, bool)>>,
    journal: Journal,
) {
    // The newest connection counts: an older one is what a link that was cut has left.
    let mut guest: Option<tokio::task::JoinHandle<()>> = None;
    let refusals = Rc::new(Refusals { said: Cell::new(None), journal: journal.clone() });
    // Who proved the key and has not said yet what for.
    let mut newcomers = JoinSet::new();
    loop {
        let came = tokio::select! {
            came = listener.accept() => came,
            Some(introduced) = newcomers.join_next() => {
                let Ok(Some((mut connection, word))) = introduced else { continue };
                if matches!(word, Said::Copy) {
                    tokio::task::spawn_local(give(connection, donor.clone(), journal.clone()));
                    continue;
                }
                if let Some(old) = guest.take() {
                    old.abort();
                }
                ways.send_modify(|ways| ways.1 = true);
                let (heard, ways, journal) = (heard.clone(), Rc::clone(&ways), journal.clone());
                let refusals = Rc::clone(&refusals);
                guest = Some(tokio::task::spawn_local(async move {
                    let ended = attend(&mut connection, word, &heard, &refusals).await;
                    ways.send_modify(|ways| ways.1 = false);
                    journal.log(Notice::Detail { text: format!("the peer's agent is not heard: {ended}") });
                }));
                continue;
            }
        };
        match came {
            Ok(Came { result: Ok(mut connection), .. }) => {
                let refusals = Rc::clone(&refusals);
                newcomers.spawn_local(async move {
                    let word = timeout(SILENT, connection.receive::<Said>()).await.ok()?;
                    let word = word.inspect_err(|error| refusals.say(error)).ok()?;
                    Some((connection, word))
                });
            }
            Ok(Came { from, result: Err(error) }) => {
                journal.log(Notice::Detail { text: format!("{from} was sent away: {error}") });
            }
            Err(error) => {
                journal.log(Notice::Trouble { text: format!("the peer's agent cannot come in: {error}") });
            }
        }
    }
}

/// Hears the peer's agent, beginning with its first word, until it is not heard any more; why.
async fn attend(
    connection: &mut Connection,
    first: Said,
    heard: &mpsc::UnboundedSender<Heard>,
    refusals: &Refusals,
) -> String {
    let mut word = first;
    loop {
        match word {
            Said::Lives => {}
            Said::Tell(tell) => drop(heard.send(Heard::Told(Box::new(tell)))),
            Said::Copy => return "it asks for a copy in the middle".into(),
        }
        word = match timeout(SILENT, connection.receive::<Said>()).await {
            Ok(Ok(word)) => word,
            Ok(Err(error)) => {
                refusals.say(&error);
                return error.to_string();
            }
            Err(_) => return "it says nothing any more".into(),
        };
    }
}

/// Over the first link, and soon over the next too if that one is not there: a link that is cut costs no more than [`STAGGER`] while
/// another works. Not over both at once: the peer takes the newest for the one that counts.
async fn any(links: &[Link], port: u16, pass: &Arc<Pass>, journal: &Journal) -> Option<(Connection, String)> {
    let mut attempts = JoinSet::new();
    let mut start = Duration::ZERO;
    for link in links {
        let (local, peer, name) = (link.local, SocketAddr::new(link.peer, port), link.name.clone());
        let pass = Arc::clone(pass);
        attempts.spawn_local(async move {
            sleep(start).await;
            (secure::connect(local, peer, &pass).await, name)
        });
        start += STAGGER;
    }
    while let Some(done) = attempts.join_next().await {
        match done {
            Ok((Ok(connection), name)) => return Some((connection, name)),
            Ok((Err(error), name)) => {
                journal.log(Notice::Detail { text: format!("the peer's agent over {name}: {error}") });
            }
            Err(_) => {}
        }
    }
    None
}

async fn speak(
    links: Vec<Link>,
    port: u16,
    pass: Arc<Pass>,
    mut said: mpsc::UnboundedReceiver<Tell>,
    ways: Rc<watch::Sender<(bool, bool)>>,
    journal: Journal,
) {
    loop {
        let Some((mut connection, name)) = any(&links, port, &pass, &journal).await else {
            sleep(AGAIN).await;
            continue;
        };
        // What was said to nobody is not said now: the machine tells all of it anew.
        while said.try_recv().is_ok() {}
        ways.send_modify(|ways| ways.0 = true);
        let mut lives = interval(LIVES_EVERY);
        lives.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            let word = tokio::select! {
                tell = said.recv() => match tell {
                    Some(tell) => Said::Tell(tell),
                    None => return,
                },
                _ = lives.tick() => Said::Lives,
            };
            match timeout(SEND_WITHIN, connection.send(&word)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break error.to_string(),
                Err(_) => break "it takes nothing any more".into(),
            }
        };
        ways.send_modify(|ways| ways.0 = false);
        journal.log(Notice::Detail { text: format!("the peer's agent over {name}: {ended}") });
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use dre::logic::db::facts::Gtids;
    use tokio::task::LocalSet;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn link(name: &str, local: [u8; 4], peer: [u8; 4]) -> Link {
        Link { name: name.into(), local: local.into(), peer: peer.into() }
    }

    fn agents(links: &[Link], port: u16, own: &str, peer: &str) -> (Agents, mpsc::UnboundedReceiver<Heard>) {
        let (hear, heard) = mpsc::unbounded_channel();
        let journal = Journal::start("dre-mysql", Priority::Error).expect("a thread");
        let pass = Pass::of_database(&KEY, "mysql", own, peer);
        let donor = Path::new("/nonexistent/donor");
        (Agents::start(links.to_vec(), port, pass, donor, hear, journal).expect("doors"), heard)
    }

    async fn opened(heard: &mut mpsc::UnboundedReceiver<Heard>) {
        let open = timeout(Duration::from_secs(10), async {
            while !matches!(heard.recv().await.expect("it runs"), Heard::Open(true)) {}
        });
        open.await.expect("both ways open");
    }

    /// Nothing listens at the peer's end of the first link: packets to that address of the loopback come back refused, or not at all.
    #[test]
    fn words_go_by_the_second_link_where_the_first_does_not_work() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let port = 20_000 + u16::try_from(std::process::id() % 20_000).expect("a port");
            // The first link's ends do not name each other: who comes is sent away.
            let first = [
                link("first", [127, 0, 71, 1], [127, 0, 71, 9]),
                link("second", [127, 0, 72, 1], [127, 0, 72, 2]),
            ];
            let second = [
                link("first", [127, 0, 71, 2], [127, 0, 71, 9]),
                link("second", [127, 0, 72, 2], [127, 0, 72, 1]),
            ];
            let (one, mut from_two) = agents(&first, port, "hadev1", "hadev2");
            let (_two, mut from_one) = agents(&second, port, "hadev2", "hadev1");
            opened(&mut from_two).await;
            opened(&mut from_one).await;
            let word = Tell::HandedOver { has: Gtids::MariaDb([((0, 1), 5)].into()) };
            one.say(word.clone());
            let heard = timeout(Duration::from_secs(5), async {
                loop {
                    if let Heard::Told(tell) = from_one.recv().await.expect("it runs") {
                        return tell;
                    }
                }
            });
            assert_eq!(*heard.await.expect("heard"), word);
        });
    }

    /// What is said by nobody is no silence; an agent that ends is noticed, and its next one found.
    #[test]
    fn a_channel_without_words_stays_open_and_opens_again_after_a_restart() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let port = 30_000 + u16::try_from(std::process::id() % 10_000).expect("a port");
            let first = [link("only", [127, 0, 74, 1], [127, 0, 74, 2])];
            let second = [link("only", [127, 0, 74, 2], [127, 0, 74, 1])];
            let own = LocalSet::new();
            own.run_until(async {
                let (_one, mut from_two) = agents(&first, port, "hadev1", "hadev2");
                let life = LocalSet::new();
                life.run_until(async {
                    let (_two, mut from_one) = agents(&second, port, "hadev2", "hadev1");
                    opened(&mut from_two).await;
                    opened(&mut from_one).await;
                    let silence = SILENT + Duration::from_millis(500);
                    assert!(
                        timeout(silence, from_two.recv()).await.is_err(),
                        "closed, or something was said"
                    );
                })
                .await;
                drop(life);
                let closed = timeout(Duration::from_secs(5), from_two.recv()).await.expect("noticed");
                assert!(matches!(closed, Some(Heard::Open(false))));
                let (_two, mut from_one) = agents(&second, port, "hadev2", "hadev1");
                opened(&mut from_two).await;
                opened(&mut from_one).await;
            })
            .await;
        });
    }

    /// Authenticated is not the same as sound: the peer's disk, or its server, may have gone mad.
    #[test]
    fn a_word_with_what_no_server_prints_is_not_heard_and_ends_the_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let port = 25_000 + u16::try_from(std::process::id() % 20_000).expect("a port");
            let links = [link("only", [127, 0, 75, 1], [127, 0, 75, 2])];
            let (_one, mut heard) = agents(&links, port, "hadev1", "hadev2");
            let (local, door) = ([127, 0, 75, 2].into(), SocketAddr::from(([127, 0, 75, 1], port)));
            let peer = Pass::of_database(&KEY, "mysql", "hadev2", "hadev1");
            let said = |source: &str, high| {
                let has = Gtids::MySql([(source.to_owned(), vec![(1, high)])].into());
                Said::Tell(Tell::HandedOver { has })
            };
            let uuid = "aaaaaaaa-71ca-11e1-9e33-c80aa9429562";
            for (first, hostile) in [
                (Said::Lives, said("'); SHUTDOWN; SELECT ('", 5)),
                (Said::Lives, said(uuid, u64::MAX)),
                // As its very first word.
                (said(uuid, u64::MAX), Said::Lives),
            ] {
                let mut connection = secure::connect(local, door, &peer).await.expect("the peer");
                connection.send(&first).await.expect("sent");
                let _ = connection.send(&hostile).await;
                let end =
                    timeout(Duration::from_secs(2), connection.receive::<Said>()).await.expect("it ends");
                assert!(end.is_err(), "{end:?}");
            }
            let mut connection = secure::connect(local, door, &peer).await.expect("the peer");
            connection.send(&said(uuid, 7)).await.expect("sent");
            let told = timeout(Duration::from_secs(2), heard.recv()).await.expect("heard");
            let Some(Heard::Told(tell)) = told else { panic!("another thing was heard before it") };
            let Tell::HandedOver { has } = *tell else { panic!("{tell:?}") };
            assert_eq!(has.to_string(), format!("{uuid}:1-7"));
        });
    }

    #[test]
    fn who_has_another_key_or_speaks_for_the_rules_files_is_not_heard() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let port = 40_000 + u16::try_from(std::process::id() % 20_000).expect("a port");
            let links = [link("only", [127, 0, 73, 1], [127, 0, 73, 2])];
            let (_one, _heard) = agents(&links, port, "hadev1", "hadev2");
            let (local, door) = ([127, 0, 73, 2].into(), SocketAddr::from(([127, 0, 73, 1], port)));
            for stranger in [
                Pass::of_database(&[8; 32], "mysql", "hadev2", "hadev1"),
                Pass::of_database(&KEY, "other", "hadev2", "hadev1"),
                Pass::new(&KEY, "mysql", "hadev2", "hadev1"),
            ] {
                let came = secure::connect(local, door, &stranger).await;
                assert!(matches!(came, Err(secure::Error::Stranger)), "{came:?}");
            }
            secure::connect(local, door, &Pass::of_database(&KEY, "mysql", "hadev2", "hadev1"))
                .await
                .expect("the peer");
        });
    }
}
