//! The two conversations with the peer: this node takes in one it began, gives in those the peer began.
//!
//! Over one link at a time, the next one when it breaks; the kernel tells within seconds that a peer is gone, so nothing
//! is said in peace. Whoever comes to take shows that the peer is there: the own connection is tried at once then.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dre::config::Link;
use dre::logic::sync::state::SKEW_MAX;
use dre::logic::sync::talk::{Give, Hello, Offer, Take, VERSION};
use dre::notice::Notice;
use dre::shell::clock::wall_ns;
use dre::shell::journal::Journal;
use dre::shell::rsync;
use dre::shell::secure::{self, Connection, Listener, Pass};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::Handle;
use super::worker::{Job, Peer, lock};

/// The first word after the handshake.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// A peer that is not there is looked for again after this, doubling.
const OPENED_AGAIN: Duration = Duration::from_millis(10);
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(2);
/// Changes on their way to a taker; a slow one is offered the rest later.
const UNDERWAY: usize = 4;

/// What both conversations need.
pub struct Talk {
    pub node: String,
    pub peer: String,
    pub links: Vec<Link>,
    pub port: u16,
    pub rsync_port: u16,
    pub pass: Arc<Pass>,
    pub sets: Rc<Vec<Handle>>,
    pub journal: Journal,
    /// Where rsync's local socket is, if the content comes over the connection too.
    pub piped: Option<PathBuf>,
    /// A worker was started anew: every conversation begins again.
    pub anew: watch::Sender<u64>,
    /// The peer came to take: it is there.
    pub came: Notify,
    pub seen: RefCell<Seen>,
    pub changed: watch::Sender<u64>,
    connections: Cell<u64>,
}

/// For the status.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The link by which this node takes.
    pub link: Option<String>,
    /// Conversations in which the peer takes.
    pub takers: usize,
    pub skew_ns: i64,
    pub trouble: Option<String>,
}

/// Why a conversation ended.
type Ended = String;

impl Talk {
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        (node, peer): (String, String),
        links: Vec<Link>,
        (port, rsync_port): (u16, u16),
        pass: Pass,
        sets: Rc<Vec<Handle>>,
        journal: Journal,
        piped: Option<PathBuf>,
        anew: watch::Sender<u64>,
        changed: watch::Sender<u64>,
    ) -> Self {
        Self {
            node,
            peer,
            links,
            port,
            rsync_port,
            pass: Arc::new(pass),
            sets,
            journal,
            piped,
            anew,
            came: Notify::new(),
            seen: RefCell::default(),
            changed,
            connections: Cell::new(0),
        }
    }

    fn see(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.borrow_mut());
        self.changed.send_modify(|n| *n += 1);
    }

    fn skewed(&self, skew_ns: i64) {
        let apart = |ns: i64| Duration::from_nanos(ns.unsigned_abs()) > SKEW_MAX;
        if apart(skew_ns) && !apart(self.seen.borrow().skew_ns) {
            let (peer, skew_ms) = (self.peer.clone(), skew_ns / 1_000_000);
            self.journal.log(Notice::RulesClockSkew { peer, skew_ms });
        }
        self.see(|seen| seen.skew_ns = skew_ns);
        for set in self.sets.iter() {
            set.send(Job::Skew(skew_ns));
        }
    }

    /// The listening addresses, each with the one that may come to it.
    pub fn doors(&self) -> Vec<(SocketAddr, IpAddr)> {
        self.links.iter().map(|link| (SocketAddr::new(link.local, self.port), link.peer)).collect()
    }

    /// The ways to the peer's rsync, the working link's first.
    fn ways(&self, first: usize) -> Vec<rsync::Way> {
        let n = self.links.len();
        (0..n)
            .map(|i| &self.links[(first + i) % n])
            .map(|link| rsync::Way {
                local: link.local,
                peer: SocketAddr::new(
                    link.peer,
                    if self.piped.is_some() { self.port } else { self.rsync_port },
                ),
            })
            .collect()
    }
}

// ---- taking ----------------------------------------------------------------------------------------

/// Keeps the taking conversation up, for ever.
pub async fn take(talk: Rc<Talk>) {
    opened(&talk).await;
    let (mut link, mut pause) = (0, AGAIN_FIRST);
    loop {
        let way = &talk.links[link];
        let ended = match secure::connect(way.local, SocketAddr::new(way.peer, talk.port), &talk.pass).await {
            Ok(connection) => {
                let ended = taking(&talk, connection, link).await;
                if talk.seen.borrow().link.is_some() {
                    pause = AGAIN_FIRST;
                    for set in talk.sets.iter() {
                        set.send(Job::Peer(None));
                    }
                    talk.see(|seen| seen.link = None);
                    let (peer, reason) = (talk.peer.clone(), ended.clone());
                    talk.journal.log(Notice::RulesPeerAway { peer, reason });
                }
                ended
            }
            Err(error) => error.to_string(),
        };
        talk.see(|seen| seen.trouble = Some(format!("{}: {ended}", way.name)));
        link = (link + 1) % talk.links.len();
        let came = tokio::select! {
            () = sleep(pause) => false,
            () = talk.came.notified() => true,
        };
        // Every link is tried before the pause grows.
        pause = if came {
            AGAIN_FIRST
        } else if link == 0 {
            (pause * 2).min(AGAIN_MAX)
        } else {
            pause
        };
    }
}

async fn taking(talk: &Rc<Talk>, mut connection: Connection, link: usize) -> Ended {
    let mut anew = talk.anew.subscribe();
    let sets = talk.sets.iter().map(|set| lock(&set.shared.cursor).clone()).collect();
    let (sent, asked) = (wall_ns(), Instant::now());
    let hello = Hello { version: VERSION, node: talk.node.clone(), wall_ns: sent, sets };
    if let Err(error) = connection.send(&Take::Hello(hello)).await {
        return error.to_string();
    }
    let offers = match timeout(FIRST_WORD, connection.receive::<Give>()).await {
        Err(_) => return format!("{} does not answer", talk.peer),
        Ok(Err(error)) => return error.to_string(),
        Ok(Ok(Give::Refused { reason })) => return reason,
        Ok(Ok(Give::Changes { .. })) => {
            return "changes before a welcome; the peer runs another version?".into();
        }
        Ok(Ok(Give::Welcome { version, node, wall_ns, sets })) => {
            if version != VERSION || node != talk.peer {
                return format!(
                    "{node} speaks version {version} of the words, this node {VERSION}; install the same version on both"
                );
            }
            let half = i64::try_from(asked.elapsed().as_nanos() / 2).unwrap_or(0);
            talk.skewed(wall_ns.saturating_sub(sent).saturating_sub(half));
            sets
        }
    };
    let (words, mut outgoing) = mpsc::unbounded_channel();
    for set in talk.sets.iter() {
        let offer = offers.iter().find(|offer| offer.set == set.name).cloned();
        // A set that the peer does not have is one that differs.
        let offer = offer.unwrap_or_else(|| Offer::out_of_use(&set.name, [0; 32]));
        let there = !offer.is_out_of_use() || offer.digest != lock(&set.shared.cursor).digest;
        set.send(Job::Peer(there.then(|| Peer { offer, words: words.clone(), ways: talk.ways(link) })));
    }
    talk.see(|seen| (seen.link, seen.trouble) = (Some(talk.links[link].name.clone()), None));
    let (peer, name) = (talk.peer.clone(), talk.links[link].name.clone());
    talk.journal.log(Notice::RulesPeerConnected { peer, link: name });
    let (mut reader, mut writer) = connection.split();
    let reading = async {
        loop {
            match reader.receive::<Give>().await {
                Ok(Give::Changes { set, id, wall_ns: at, entries, upto, more }) => {
                    let skew = at.saturating_sub(wall_ns());
                    // What the words' way took is in it: only a step of a clock is seen like this.
                    if skew.abs_diff(talk.seen.borrow().skew_ns) > 500_000_000 {
                        talk.skewed(skew);
                    }
                    if let Some(handle) = talk.sets.iter().find(|handle| handle.name == set) {
                        handle.send(Job::Given { id, entries, upto, more });
                    }
                }
                Ok(Give::Refused { reason }) => return reason,
                Ok(Give::Welcome { .. }) => return "a second welcome".into(),
                Err(error) => return error.to_string(),
            }
        }
    };
    let writing = async {
        while let Some(word) = outgoing.recv().await {
            if let Err(error) = writer.send(&word).await {
                return error.to_string();
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        _ = anew.changed() => "a set was opened anew".into(),
    }
}

// ---- giving ----------------------------------------------------------------------------------------

/// Lets the peer in, for ever.
pub async fn listen(talk: Rc<Talk>, mut listener: Listener) {
    opened(&talk).await;
    // They end with this.
    let mut guests = tokio::task::JoinSet::new();
    loop {
        let came = tokio::select! {
            came = listener.accept() => came,
            Some(_) = guests.join_next() => continue,
        };
        match came {
            Ok(came) => match came.result {
                Ok(connection) => {
                    guests.spawn_local(let_in(Rc::clone(&talk), connection));
                }
                Err(error) => {
                    let text = format!("{} was sent away: {error}", came.from);
                    talk.journal.log(Notice::Detail { text });
                }
            },
            Err(error) => {
                talk.journal.log(Notice::Trouble { text: format!("nobody can come to take: {error}") })
            }
        }
    }
}

/// Until each set was opened, or could not be: before that there is nothing true to say of it.
async fn opened(talk: &Rc<Talk>) {
    while !talk.sets.iter().all(|set| set.shared.was_opened()) {
        sleep(OPENED_AGAIN).await;
    }
}

async fn let_in(talk: Rc<Talk>, mut connection: Connection) {
    let ended = match timeout(FIRST_WORD, connection.receive::<Take>()).await {
        Ok(Ok(Take::Pipe)) => match &talk.piped {
            Some(directory) => match rsync::serve(connection.into_pipe(), directory).await {
                Ok(()) => return,
                Err(error) => format!("rsync over the peer's connection: {error}"),
            },
            None => "the peer wants its contents encrypted, this node's sync.toml does not".into(),
        },
        Ok(Ok(Take::Hello(hello))) => {
            talk.see(|seen| seen.takers += 1);
            talk.came.notify_one();
            let ended = giving(&talk, connection, hello).await;
            talk.see(|seen| seen.takers -= 1);
            ended
        }
        Ok(Ok(_)) => "it did not introduce itself".into(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it said nothing".into(),
    };
    talk.journal.log(Notice::Detail { text: format!("giving to {} ended: {ended}", talk.peer) });
}

async fn giving(talk: &Rc<Talk>, mut connection: Connection, hello: Hello) -> Ended {
    let mut anew = talk.anew.subscribe();
    if hello.version != VERSION {
        let reason = format!(
            "{} speaks version {VERSION} of the words, {} version {}; install the same version on both",
            talk.node, hello.node, hello.version
        );
        let _ = connection.send(&Give::Refused { reason: reason.clone() }).await;
        return reason;
    }
    talk.skewed(hello.wall_ns.saturating_sub(wall_ns()));
    let offer = |set: &Handle| {
        let offer = lock(&set.shared.offer).clone();
        offer.unwrap_or_else(|| {
            let cursor = lock(&set.shared.cursor);
            Offer::out_of_use(&cursor.set, cursor.digest)
        })
    };
    let sets = talk.sets.iter().map(offer).collect();
    let welcome = Give::Welcome { version: VERSION, node: talk.node.clone(), wall_ns: wall_ns(), sets };
    if let Err(error) = connection.send(&welcome).await {
        return error.to_string();
    }
    let number = talk.connections.get() + 1;
    talk.connections.set(number);
    let (say, mut outgoing) = mpsc::channel(UNDERWAY);
    for cursor in hello.sets {
        if let Some(handle) = talk.sets.iter().find(|handle| handle.name == cursor.set) {
            handle.send(Job::Serve { connection: number, cursor, say: say.clone() });
        }
    }
    let (mut reader, mut writer) = connection.split();
    let reading = async {
        loop {
            let (set, job) = match reader.receive::<Take>().await {
                Ok(Take::Taken { set, upto }) => (set, Job::Acked(upto)),
                Ok(Take::Verdict { set, verdict }) => (set, Job::Verdict(verdict)),
                Ok(Take::Look { set, paths }) => (set, Job::Look(paths)),
                Ok(Take::Hello(_) | Take::Pipe) => return String::from("it introduced itself twice"),
                Err(error) => return error.to_string(),
            };
            if let Some(handle) = talk.sets.iter().find(|handle| handle.name == set) {
                handle.send(job);
            }
        }
    };
    let writing = async {
        while let Some(word) = outgoing.recv().await {
            if let Err(error) = writer.send(&word).await {
                return error.to_string();
            }
        }
        std::future::pending().await
    };
    let ended = tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        _ = anew.changed() => "a set was opened anew".into(),
    };
    for set in talk.sets.iter() {
        set.send(Job::ServeEnded { connection: number });
    }
    ended
}
