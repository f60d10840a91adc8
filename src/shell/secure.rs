//! One conversation with the peer's dre-sync: TCP, and Noise with a key that only the two nodes have.
//!
//! ```text
//!   who connects                                      who listens
//!     "drs" ‖ version ‖ psk, e ── 54 bytes, no more ──▶   nothing is computed before psk verified it
//!        ◀── "drs" ‖ version ‖ e, ee ───────────────
//!     empty frame ───────────────────────────────────▶   proof of the key of this moment: no replay
//!        ◀── frames: u16 length ‖ ciphertext ───────▶
//! ```
//!
//! `Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s`: fresh keys for every connection, authenticated by the psk, which is
//! HMAC(cluster key, purpose ‖ group). The prologue names version, group, and who connects to whom: another group, another
//! pair, and a connection reflected to its maker do not verify. A *word* is a u32 length and postcard, cut into frames; it
//! begins with a frame. After the last word a connection can become a *pipe*: the plain bytes of the frames, an empty one
//! for the end of a direction.
//!
//! A peer that is gone is noticed by the kernel (`GONE`): nothing is said only to be heard.
//!
//! Invariant: no byte of a connection reaches a caller before the other end has proved the key.
//!
//! Absent on purpose: what the words mean, who connects again and when, certificates.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use snow::{HandshakeState, StatelessTransportState};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use crate::logic::sync::talk::{VERSION, WORD_MAX};
use crate::logic::wire::{GROUP_MAX, NAME_MAX, derived, padded};

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
const MAGIC: [u8; 4] = *b"drs\0";
/// Magic and version.
const PREAMBLE: usize = 6;
/// An ephemeral key and the tag of an empty payload.
const NOISE_HELLO: usize = 32 + TAG;
const TAG: usize = 16;
/// Noise's longest message; what of it is payload.
const FRAME_MAX: usize = 65_535;
const PLAIN_MAX: usize = FRAME_MAX - TAG;
/// Connecting, and the handshake: on a link that works it takes two round trips.
const PATIENCE: Duration = Duration::from_secs(3);
/// Handshakes at once. More than two nodes ever begin; strangers wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 8;
/// Unanswered bytes or probes for this long, and the connection is over. The probes begin after a second of silence.
const GONE: Duration = Duration::from_secs(4);

/// What the other end must prove, and who the two ends are.
pub struct Pass {
    psk: Zeroizing<[u8; 32]>,
    group: String,
    own: String,
    peer: String,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pass({} of {} with {}, key not shown)", self.own, self.group, self.peer)
    }
}

impl Pass {
    /// Names longer than the wire carries are refused by the configuration, not here.
    pub fn new(key: &[u8; 32], group: &str, own: &str, peer: &str) -> Self {
        let psk = derived(key, b"dre sync v1", group);
        Self { psk, group: group.into(), own: own.into(), peer: peer.into() }
    }

    /// For the agents of a group's database: what a set of rules files may say is no word here.
    pub fn of_database(key: &[u8; 32], group: &str, own: &str, peer: &str) -> Self {
        let psk = derived(key, b"dre database v1", group);
        Self { psk, group: group.into(), own: own.into(), peer: peer.into() }
    }

    /// For two commands that make a pair of two servers, before there is an agent.
    pub fn of_adoption(key: &[u8; 32], group: &str, own: &str, peer: &str) -> Self {
        let psk = derived(key, b"dre adoption v1", group);
        Self { psk, group: group.into(), own: own.into(), peer: peer.into() }
    }

    /// Every part has a fixed length, so no two read the same.
    fn prologue(&self, initiator: &str, responder: &str) -> Vec<u8> {
        let mut text = preamble().to_vec();
        text.extend(padded::<GROUP_MAX>(&self.group));
        text.extend(padded::<NAME_MAX>(initiator));
        text.extend(padded::<NAME_MAX>(responder));
        text
    }

    fn handshake(&self, connects: bool) -> Result<HandshakeState, Error> {
        let prologue = match connects {
            true => self.prologue(&self.own, &self.peer),
            false => self.prologue(&self.peer, &self.own),
        };
        let begin = || {
            let builder = snow::Builder::new(NOISE.parse()?).psk(0, &self.psk)?.prologue(&prologue)?;
            if connects { builder.build_initiator() } else { builder.build_responder() }
        };
        // Only a kernel without randomness gets here.
        begin().map_err(|error: snow::Error| Error::Io(io::Error::other(format!("Noise: {error:?}"))))
    }
}

fn preamble() -> [u8; PREAMBLE] {
    let mut out = [0; PREAMBLE];
    out[..4].copy_from_slice(&MAGIC);
    out[4..].copy_from_slice(&VERSION.to_be_bytes());
    out
}

/// Why there is no conversation, or no more.
#[derive(Debug)]
pub enum Error {
    /// What the socket said.
    Io(io::Error),
    /// The other end closed the connection, between two words.
    Closed,
    /// No handshake within the time there is for one.
    Late,
    /// From an address that is not the peer's end of the link.
    Elsewhere(IpAddr),
    /// It does not prove the key for this group and these two nodes.
    Stranger,
    /// It speaks another version.
    Version(u16),
    /// A frame or word that no peer sends: damaged, or forged.
    Malformed(&'static str),
    /// A word longer than any may be, in bytes.
    TooLong(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::Late => write!(
                f,
                "no answer within {} s; see whether dre-sync runs on the peer and the link works",
                PATIENCE.as_secs()
            ),
            Self::Elsewhere(address) => {
                write!(f, "a connection from {address}, which is not the peer's end of the link; closed")
            }
            Self::Stranger => f.write_str(
                "the other end does not prove the cluster key for this group and these two nodes; compare /etc/dre/key \
                 on both (sha256sum) and the names under [nodes]",
            ),
            Self::Version(theirs) => write!(
                f,
                "the peer's dre-sync speaks version {theirs}, this one {VERSION}; install the same version on both nodes"
            ),
            Self::Malformed(what) => write!(f, "not what a peer sends ({what}); the connection is given up"),
            Self::TooLong(bytes) => write!(f, "a word of {bytes} bytes; the longest has {WORD_MAX}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => error,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

/// What both ends ask of the kernel.
fn tune(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let second = Duration::from_secs(1);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(second).with_interval(second).with_retries(3))?;
    socket.set_tcp_user_timeout(Some(GONE))
}

/// From this link's own address to the peer's.
pub async fn connect(local: IpAddr, peer: SocketAddr, pass: &Pass) -> Result<Connection, Error> {
    let dial = async {
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        tune(&SockRef::from(&socket))?;
        // The link's network and no other carries it.
        socket.bind(&SocketAddr::new(local, 0).into())?;
        let stream = TcpSocket::from_std_stream(socket.into()).connect(peer).await?;
        ask(stream, pass).await
    };
    tokio::time::timeout(PATIENCE, dial).await.unwrap_or(Err(Error::Late))
}

/// The handshake of the end that connects.
async fn ask(mut stream: TcpStream, pass: &Pass) -> Result<Connection, Error> {
    let mut noise = pass.handshake(true)?;
    let mut hello = [0; PREAMBLE + NOISE_HELLO];
    hello[..PREAMBLE].copy_from_slice(&preamble());
    noise.write_message(&[], &mut hello[PREAMBLE..]).map_err(|_| Error::Stranger)?;
    stream.write_all(&hello).await?;
    // A stranger closes without a word, and so does a peer that takes us for one.
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => Error::Stranger,
        _ => Error::Io(error),
    };
    stream.read_exact(&mut hello[..PREAMBLE]).await.map_err(gone)?;
    understood(&hello[..PREAMBLE])?;
    stream.read_exact(&mut hello[PREAMBLE..]).await.map_err(gone)?;
    noise.read_message(&hello[PREAMBLE..], &mut []).map_err(|_| Error::Stranger)?;
    let mut connection = Connection::new(stream, noise)?;
    connection.writer.seal(&[])?;
    connection.writer.drain().await?;
    Ok(connection)
}

/// The handshake of the end that listens.
async fn answer(mut stream: TcpStream, pass: &Pass) -> Result<Connection, Error> {
    let mut hello = [0; PREAMBLE + NOISE_HELLO];
    stream.read_exact(&mut hello[..PREAMBLE]).await?;
    if let Err(other) = understood(&hello[..PREAMBLE]) {
        if matches!(other, Error::Version(_)) {
            // So that the operator of the other node reads why.
            stream.write_all(&preamble()).await?;
        }
        return Err(other);
    }
    stream.read_exact(&mut hello[PREAMBLE..]).await?;
    let mut noise = pass.handshake(false)?;
    noise.read_message(&hello[PREAMBLE..], &mut []).map_err(|_| Error::Stranger)?;
    noise.write_message(&[], &mut hello[PREAMBLE..]).map_err(|_| Error::Stranger)?;
    stream.write_all(&hello).await?;
    let mut connection = Connection::new(stream, noise)?;
    // Until here it may be a recording of an earlier connection.
    match connection.reader.frame().await {
        Ok(true) if connection.reader.plain.is_empty() => Ok(connection),
        Ok(true) | Err(Error::Malformed(_)) => Err(Error::Stranger),
        Ok(false) => Err(Error::Closed),
        Err(error) => Err(error),
    }
}

fn understood(theirs: &[u8]) -> Result<(), Error> {
    let ours = preamble();
    match theirs {
        _ if theirs == ours => Ok(()),
        [magic @ .., high, low] if magic == MAGIC.as_slice() => {
            Err(Error::Version(u16::from_be_bytes([*high, *low])))
        }
        _ => Err(Error::Stranger),
    }
}

/// The doors, one a link, and who stands in them.
pub struct Listener {
    doors: Vec<Door>,
    /// The next to be looked at first, so that a crowd at one does not shut the other.
    turn: usize,
    pass: Arc<Pass>,
    handshakes: JoinSet<Came>,
    patience: Duration,
}

struct Door {
    socket: TcpListener,
    /// The other end of the link: nobody else is listened to.
    peer: IpAddr,
}

/// Who came to a door, and what became of it.
#[derive(Debug)]
pub struct Came {
    pub from: SocketAddr,
    pub result: Result<Connection, Error>,
}

impl Listener {
    /// A door for each link: its own address, and the peer's. The addresses need not be there yet.
    pub fn bind(links: &[(SocketAddr, IpAddr)], pass: Arc<Pass>) -> io::Result<Self> {
        let doors = links.iter().map(|(local, peer)| Door::open(*local, *peer)).collect::<io::Result<_>>()?;
        Ok(Self { doors, turn: 0, pass, handshakes: JoinSet::new(), patience: PATIENCE })
    }

    /// Where it listens, in the order given.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.doors.iter().map(|door| door.socket.local_addr()).collect()
    }

    /// The next who came: a connection whose other end has proved that it is the peer, or why somebody was sent away.
    /// Cancel safe. An error of the listening itself (no descriptors left) rests a moment before it returns.
    pub async fn accept(&mut self) -> io::Result<Came> {
        loop {
            let room = self.handshakes.len() < HANDSHAKES_MAX;
            let (doors, turn) = (&self.doors, &mut self.turn);
            let knock = std::future::poll_fn(|cx| poll_doors(doors, turn, cx));
            tokio::select! {
                Some(done) = self.handshakes.join_next() => return done.map_err(io::Error::other),
                knocked = knock, if room => match knocked {
                    Ok((stream, from, peer)) if from.ip() == peer => self.greet(stream, from),
                    Ok((_, from, _)) => return Ok(Came { from, result: Err(Error::Elsewhere(from.ip())) }),
                    Err(error) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        return Err(error);
                    }
                },
            }
        }
    }

    fn greet(&mut self, stream: TcpStream, from: SocketAddr) {
        let (pass, patience) = (Arc::clone(&self.pass), self.patience);
        self.handshakes.spawn(async move {
            let greeting = async {
                tune(&SockRef::from(&stream))?;
                answer(stream, &pass).await
            };
            let result = tokio::time::timeout(patience, greeting).await.unwrap_or(Err(Error::Late));
            Came { from, result }
        });
    }
}

impl Door {
    fn open(local: SocketAddr, peer: IpAddr) -> io::Result<Self> {
        let open = || {
            let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_nonblocking(true)?;
            socket.set_reuse_address(true)?;
            // The daemon starts before the link's address is there.
            match local {
                SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                SocketAddr::V6(_) => {
                    socket.set_only_v6(true)?;
                    socket.set_freebind_v6(true)?;
                }
            }
            socket.bind(&local.into())?;
            socket.listen(16)?;
            TcpListener::from_std(socket.into())
        };
        let socket = open().map_err(|error| io::Error::new(error.kind(), format!("{local}: {error}")))?;
        Ok(Self { socket, peer })
    }
}

fn poll_doors(
    doors: &[Door],
    turn: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr, IpAddr)>> {
    for n in 0..doors.len() {
        let at = (*turn + n) % doors.len();
        let door = &doors[at];
        match door.socket.poll_accept(cx) {
            Poll::Ready(Ok((stream, from))) => {
                *turn = at + 1;
                return Poll::Ready(Ok((stream, from, door.peer)));
            }
            // Gone again while it waited.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {
                cx.waker().wake_by_ref();
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {}
        }
    }
    Poll::Pending
}

/// Both halves of a conversation whose other end is the peer.
pub struct Connection {
    reader: Reader,
    writer: Writer,
    local: SocketAddr,
    peer: SocketAddr,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} with {}, keys not shown)", self.local, self.peer)
    }
}

impl Connection {
    fn new(stream: TcpStream, noise: HandshakeState) -> Result<Self, Error> {
        let keys = Arc::new(noise.into_stateless_transport_mode().map_err(|_| Error::Stranger)?);
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let (read, write) = stream.into_split();
        let reader = Reader {
            half: read,
            keys: Arc::clone(&keys),
            nonce: 0,
            raw: vec![0; 2 * (2 + FRAME_MAX)],
            from: 0,
            to: 0,
            plain: Vec::with_capacity(FRAME_MAX),
            word: vec![],
            need: None,
        };
        let writer = Writer { half: write, keys, nonce: 0, out: vec![], sent: 0, broken: false };
        Ok(Self { reader, writer, local, peer })
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// See [`Writer::send`].
    pub async fn send<T: Serialize>(&mut self, word: &T) -> Result<(), Error> {
        self.writer.send(word).await
    }

    /// See [`Reader::receive`].
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        self.reader.receive().await
    }

    /// For a task that reads and one that writes.
    pub fn split(self) -> (Reader, Writer) {
        (self.reader, self.writer)
    }

    /// No more words: bytes, both ways. What the other end has sent after its last word is not lost.
    pub fn into_pipe(self) -> Pipe {
        let at = self.reader.plain.len();
        Pipe { reader: self.reader, writer: self.writer, at, ended: false, closing: false }
    }
}

/// The half that hears.
pub struct Reader {
    half: OwnedReadHalf,
    keys: Arc<StatelessTransportState>,
    nonce: u64,
    /// As it came; `from..to` is not opened yet.
    raw: Vec<u8>,
    from: usize,
    to: usize,
    /// The last frame, opened.
    plain: Vec<u8>,
    /// A word of which more is to come, and its length.
    word: Vec<u8>,
    need: Option<usize>,
}

impl Reader {
    /// The next word. Cancel safe: what has come of it is kept.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        loop {
            if !self.frame().await? {
                return Err(match self.need {
                    None => Error::Closed,
                    Some(_) => Error::Io(io::ErrorKind::UnexpectedEof.into()),
                });
            }
            if self.gather()? {
                let word = std::mem::take(&mut self.word);
                self.need = None;
                let (value, rest) = postcard::take_from_bytes(&word)
                    .map_err(|_| Error::Malformed("no word of this version"))?;
                if !rest.is_empty() {
                    return Err(Error::Malformed("bytes after a word"));
                }
                return Ok(value);
            }
        }
    }

    /// The opened frame into the word; whether that is whole.
    fn gather(&mut self) -> Result<bool, Error> {
        let mut bytes = self.plain.as_slice();
        let need = match self.need {
            Some(need) => need,
            None => {
                let (length, rest) =
                    bytes.split_first_chunk().ok_or(Error::Malformed("a word without a length"))?;
                let need = u32::from_be_bytes(*length) as usize;
                if need > WORD_MAX {
                    return Err(Error::TooLong(need));
                }
                bytes = rest;
                *self.need.insert(need)
            }
        };
        self.word.extend_from_slice(bytes);
        match self.word.len() {
            got if got > need => Err(Error::Malformed("a frame longer than its word")),
            got => Ok(got == need),
        }
    }

    /// The next frame into `plain`; false at the end of the stream.
    async fn frame(&mut self) -> Result<bool, Error> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        loop {
            let waiting = &self.raw[self.from..self.to];
            if let Some((length, rest)) = waiting.split_first_chunk() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length < TAG {
                    return Poll::Ready(Err(Error::Malformed("a frame without a tag")));
                }
                if let Some(sealed) = rest.get(..length) {
                    self.plain.resize(length - TAG, 0);
                    self.keys
                        .read_message(self.nonce, sealed, &mut self.plain)
                        .map_err(|_| Error::Malformed("a frame that does not verify"))?;
                    self.nonce += 1;
                    self.from += 2 + length;
                    return Poll::Ready(Ok(true));
                }
            }
            // Room for the rest of a frame of any length.
            if self.from == self.to {
                (self.from, self.to) = (0, 0);
            } else if self.raw.len() - self.from < 2 + FRAME_MAX {
                self.raw.copy_within(self.from..self.to, 0);
                (self.from, self.to) = (0, self.to - self.from);
            }
            let mut room = ReadBuf::new(&mut self.raw[self.to..]);
            ready!(Pin::new(&mut self.half).poll_read(cx, &mut room))?;
            match room.filled().len() {
                0 if self.from == self.to => return Poll::Ready(Ok(false)),
                0 => return Poll::Ready(Err(Error::Io(io::ErrorKind::UnexpectedEof.into()))),
                more => self.to += more,
            }
        }
    }
}

/// The half that speaks.
pub struct Writer {
    half: OwnedWriteHalf,
    keys: Arc<StatelessTransportState>,
    nonce: u64,
    /// Sealed; `sent..` is still to go.
    out: Vec<u8>,
    sent: usize,
    /// A word was begun and not ended.
    broken: bool,
}

impl Writer {
    /// Sends one word and waits until the kernel has it. Not cancel safe: a word that was cut off leaves a writer that
    /// only gives errors.
    pub async fn send<T: Serialize>(&mut self, word: &T) -> Result<(), Error> {
        if self.broken {
            return Err(Error::Malformed("an earlier word was cut off"));
        }
        let mut bytes = postcard::to_extend(word, vec![0; 4])
            .map_err(|error| Error::Io(io::Error::new(io::ErrorKind::InvalidInput, error.to_string())))?;
        let length = bytes.len() - 4;
        let count =
            u32::try_from(length).ok().filter(|_| length <= WORD_MAX).ok_or(Error::TooLong(length))?;
        bytes[..4].copy_from_slice(&count.to_be_bytes());
        self.broken = true;
        for part in bytes.chunks(PLAIN_MAX) {
            self.seal(part)?;
            self.drain().await?;
        }
        self.broken = false;
        Ok(())
    }

    /// One frame more to go.
    fn seal(&mut self, plain: &[u8]) -> Result<(), Error> {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        let length = plain.len() + TAG;
        let head = u16::try_from(length).map_err(|_| Error::TooLong(length))?;
        self.out.extend(head.to_be_bytes());
        let at = self.out.len();
        self.out.resize(at + length, 0);
        self.keys
            .write_message(self.nonce, plain, &mut self.out[at..])
            .map_err(|_| Error::Malformed("a frame that cannot be sealed"))?;
        self.nonce += 1;
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), Error> {
        Ok(std::future::poll_fn(|cx| self.poll_drain(cx)).await?)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            match ready!(Pin::new(&mut self.half).poll_write(cx, &self.out[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => self.sent += more,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A connection as a pipe for bytes. Its end is the other end's own word: one that the wire cut off is an error.
pub struct Pipe {
    reader: Reader,
    writer: Writer,
    /// How much of the opened frame has been read.
    at: usize,
    ended: bool,
    closing: bool,
}

impl Pipe {
    /// The other end may take nothing for so long before the kernel takes it for gone: it writes what comes to a disk. That it
    /// is gone is noticed later too.
    pub fn patient(self, patience: Duration) -> io::Result<Self> {
        SockRef::from(self.writer.half.as_ref()).set_tcp_user_timeout(Some(patience))?;
        Ok(self)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let pipe = &mut *self;
        while pipe.at == pipe.reader.plain.len() {
            if pipe.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(pipe.reader.poll_frame(cx))? {
                true => pipe.ended = pipe.reader.plain.is_empty(),
                false => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
            pipe.at = 0;
        }
        let waiting = &pipe.reader.plain[pipe.at..];
        let part = waiting.len().min(buffer.remaining());
        buffer.put_slice(&waiting[..part]);
        pipe.at += part;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // One frame waits at most: a slow wire slows the writer.
        ready!(self.writer.poll_drain(cx))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let part = &bytes[..bytes.len().min(PLAIN_MAX)];
        self.writer.seal(part)?;
        // What does not go now goes with the next call, or with the flush.
        match self.writer.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(part.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writer.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.writer.seal(&[])?;
            self.closing = true;
        }
        ready!(self.writer.poll_drain(cx))?;
        Pin::new(&mut self.writer.half).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const KEY: [u8; 32] = [7; 32];

    fn run<F: Future>(test: F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let whole = async { tokio::time::timeout(Duration::from_secs(120), test).await };
        runtime.block_on(whole).expect("the test hangs")
    }

    fn pass(own: &str, peer: &str) -> Pass {
        Pass::new(&KEY, "dre", own, peer)
    }

    /// hadev2 listens for hadev1.
    fn listener() -> (Listener, SocketAddr) {
        listening(pass("hadev2", "hadev1"), HERE)
    }

    fn listening(pass: Pass, peer: IpAddr) -> (Listener, SocketAddr) {
        let listener = Listener::bind(&[((HERE, 0).into(), peer)], Arc::new(pass)).expect("a listener");
        let address = listener.addresses().expect("addresses")[0];
        (listener, address)
    }

    async fn pair() -> (Connection, Connection) {
        let (mut listener, address) = listener();
        let own = pass("hadev1", "hadev2");
        let (here, there) = tokio::join!(connect(HERE, address, &own), listener.accept());
        (here.expect("connected"), there.expect("accepted").result.expect("the peer"))
    }

    /// What the listener says of somebody who writes these bytes and then waits, or goes.
    async fn says_of(bytes: &[u8], goes: bool) -> Error {
        let (mut listener, address) = listener();
        listener.patience = Duration::from_millis(300);
        let mut stream = TcpStream::connect(address).await.expect("TCP");
        stream.write_all(bytes).await.expect("written");
        if goes {
            stream.shutdown().await.expect("shut down");
        }
        let came = listener.accept().await.expect("accepted");
        assert_eq!(came.from, stream.local_addr().expect("an address"));
        came.result.expect_err("a stranger got in")
    }

    /// The first message of a true handshake.
    fn hello() -> Vec<u8> {
        let mut bytes = vec![0; PREAMBLE + NOISE_HELLO];
        bytes[..PREAMBLE].copy_from_slice(&preamble());
        let mut noise = pass("hadev1", "hadev2").handshake(true).expect("Noise");
        noise.write_message(&[], &mut bytes[PREAMBLE..]).expect("a message");
        bytes
    }

    #[test]
    fn words_pass_both_ways_and_the_end_is_noticed() {
        run(async {
            let (mut here, mut there) = pair().await;
            assert_eq!((here.local(), here.peer()), (there.peer(), there.local()));
            here.send(&("Hello", 1u64)).await.expect("sent");
            here.send(&("again", 2u64)).await.expect("sent");
            assert_eq!(there.receive::<(String, u64)>().await.expect("a word"), ("Hello".into(), 1));
            assert_eq!(there.receive::<(String, u64)>().await.expect("a word"), ("again".into(), 2));
            there.send(&Some(3u8)).await.expect("sent");
            assert_eq!(here.receive::<Option<u8>>().await.expect("a word"), Some(3));
            drop(here);
            assert!(matches!(there.receive::<u8>().await, Err(Error::Closed)));
        });
    }

    #[test]
    fn one_task_reads_while_another_writes() {
        run(async {
            let (here, there) = pair().await;
            let ((mut in_here, mut out_here), (mut in_there, mut out_there)) = (here.split(), there.split());
            let echo = async {
                while let Ok(word) = in_there.receive::<Vec<u8>>().await {
                    out_there.send(&word).await.expect("sent");
                }
            };
            let say = async {
                for n in 0..200u8 {
                    out_here.send(&vec![n; 1_000]).await.expect("sent");
                }
            };
            let hear = async {
                for n in 0..200u8 {
                    assert_eq!(in_here.receive::<Vec<u8>>().await.expect("a word"), vec![n; 1_000]);
                }
            };
            tokio::select! {
                () = echo => panic!("the echo ended"),
                _ = async { tokio::join!(say, hear) } => {}
            }
        });
    }

    #[test]
    fn a_word_of_ten_megabytes_arrives_whole_also_when_waiting_for_it_is_interrupted() {
        run(async {
            let (mut here, mut there) = pair().await;
            let word: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
            let (sent, got) = tokio::join!(here.send(&word), async {
                loop {
                    tokio::select! {
                        biased;
                        got = there.receive::<Vec<u8>>() => return got,
                        () = tokio::task::yield_now() => {}
                    }
                }
            });
            sent.expect("sent");
            assert!(got.expect("a word") == word);
        });
    }

    #[test]
    fn a_word_longer_than_any_is_neither_sent_nor_taken() {
        run(async {
            let (mut here, mut there) = pair().await;
            assert!(matches!(here.send(&vec![0u8; WORD_MAX]).await, Err(Error::TooLong(_))));
            here.send(&5u8).await.expect("the connection goes on");
            assert_eq!(there.receive::<u8>().await.expect("a word"), 5);
            let length = u32::try_from(WORD_MAX + 1).expect("small");
            here.writer.seal(&length.to_be_bytes()).expect("sealed");
            here.writer.drain().await.expect("sent");
            assert!(matches!(there.receive::<u8>().await, Err(Error::TooLong(n)) if n == WORD_MAX + 1));
        });
    }

    #[test]
    fn a_word_of_another_kind_or_with_more_behind_it_is_refused() {
        run(async {
            let (mut here, mut there) = pair().await;
            here.send(&[1u8, 2]).await.expect("sent");
            assert!(matches!(there.receive::<u8>().await, Err(Error::Malformed(_))));
            here.send(&9u8).await.expect("sent");
            assert!(matches!(there.receive::<String>().await, Err(Error::Malformed(_))));
        });
    }

    #[test]
    fn a_frame_that_was_touched_on_the_way_ends_the_conversation() {
        run(async {
            let (mut here, mut there) = pair().await;
            here.writer.seal(&[0, 0, 0, 1, 9]).expect("sealed");
            *here.writer.out.last_mut().expect("bytes") ^= 1;
            here.writer.drain().await.expect("sent");
            assert!(matches!(there.receive::<u8>().await, Err(Error::Malformed(_))));
        });
    }

    #[test]
    fn a_word_cut_off_by_the_wire_is_no_orderly_end() {
        run(async {
            let (mut here, mut there) = pair().await;
            here.writer.seal(&[0, 0, 0, 9, 1]).expect("sealed");
            here.writer.drain().await.expect("sent");
            drop(here);
            assert!(matches!(there.receive::<Vec<u8>>().await, Err(Error::Io(_))));
        });
    }

    #[test]
    fn another_key_group_or_name_does_not_get_in_and_is_told_so() {
        run(async {
            let other = [
                Pass::new(&[8; 32], "dre", "hadev1", "hadev2"),
                Pass::new(&KEY, "dre-b", "hadev1", "hadev2"),
                pass("hadev3", "hadev2"),
                pass("hadev1", "hadev3"),
                pass("hadev2", "hadev1"),
            ];
            for stranger in other {
                let (mut listener, address) = listener();
                let (here, there) = tokio::join!(connect(HERE, address, &stranger), listener.accept());
                assert!(matches!(here, Err(Error::Stranger)), "{stranger:?}: {here:?}");
                let there = there.expect("accepted").result;
                assert!(matches!(there, Err(Error::Stranger)), "{stranger:?}: {there:?}");
            }
        });
    }

    #[test]
    fn a_connection_reflected_to_its_maker_is_refused_by_both_of_its_ends() {
        run(async {
            // Somebody between passes hadev1's connection on to hadev1's own door.
            let (mut door, address) = listening(pass("hadev1", "hadev2"), HERE);
            let between = TcpListener::bind((HERE, 0)).await.expect("a listener");
            let middle = between.local_addr().expect("an address");
            let own = pass("hadev1", "hadev2");
            let relay = async {
                let (mut one, _) = between.accept().await.expect("accepted");
                let mut two = TcpStream::connect(address).await.expect("TCP");
                let _ = tokio::io::copy_bidirectional(&mut one, &mut two).await;
            };
            let (here, there, ()) = tokio::join!(connect(HERE, middle, &own), door.accept(), relay);
            assert!(matches!(here, Err(Error::Stranger)), "{here:?}");
            assert!(matches!(there.expect("accepted").result, Err(Error::Stranger)));
            // Or gives it back its own bytes.
            let mirror = async {
                let (mut one, _) = between.accept().await.expect("accepted");
                let (mut read, mut write) = one.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            };
            let (here, ()) = tokio::join!(connect(HERE, middle, &own), mirror);
            assert!(matches!(here, Err(Error::Stranger)), "{here:?}");
        });
    }

    #[test]
    fn garbage_and_half_a_hello_and_silence_are_sent_away() {
        run(async {
            assert!(matches!(says_of(&[0x55; 4_096], false).await, Error::Stranger));
            let mut forged = hello();
            forged[20] ^= 1;
            assert!(matches!(says_of(&forged, false).await, Error::Stranger));
            assert!(matches!(says_of(&hello()[..20], true).await, Error::Io(_)));
            assert!(matches!(says_of(&hello()[..20], false).await, Error::Late));
            assert!(matches!(says_of(&[], false).await, Error::Late));
        });
    }

    #[test]
    fn a_recorded_hello_gets_nobody_in() {
        run(async {
            assert!(matches!(says_of(&hello(), false).await, Error::Late));
            assert!(matches!(says_of(&hello(), true).await, Error::Closed));
            let mut more = hello();
            more.extend([0, 16]);
            more.extend([0; 16]);
            assert!(matches!(says_of(&more, false).await, Error::Stranger));
        });
    }

    #[test]
    fn another_version_is_named_on_both_sides() {
        run(async {
            let mut later = hello();
            later[4..6].copy_from_slice(&(VERSION + 1).to_be_bytes());
            let (mut listener, address) = listener();
            let mut stream = TcpStream::connect(address).await.expect("TCP");
            stream.write_all(&later).await.expect("written");
            let result = listener.accept().await.expect("accepted").result;
            assert!(matches!(result, Err(Error::Version(v)) if v == VERSION + 1), "{result:?}");
            let mut answer = vec![0; PREAMBLE];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(answer, preamble());

            let other = TcpListener::bind((HERE, 0)).await.expect("a listener");
            let address = other.local_addr().expect("an address");
            let own = pass("hadev1", "hadev2");
            let (here, ()) = tokio::join!(connect(HERE, address, &own), async {
                let (mut stream, _) = other.accept().await.expect("accepted");
                stream.write_all(&later[..PREAMBLE]).await.expect("written");
                let _ = stream.read_to_end(&mut vec![]).await;
            });
            assert!(matches!(here, Err(Error::Version(v)) if v == VERSION + 1), "{here:?}");
        });
    }

    #[test]
    fn nobody_but_the_links_other_end_is_listened_to() {
        run(async {
            let (mut listener, address) = listening(pass("hadev2", "hadev1"), [127, 0, 0, 9].into());
            let own = pass("hadev1", "hadev2");
            let (here, there) = tokio::join!(connect(HERE, address, &own), listener.accept());
            assert!(here.is_err());
            assert!(matches!(there.expect("accepted").result, Err(Error::Elsewhere(from)) if from == HERE));
        });
    }

    #[test]
    fn silent_strangers_hold_the_door_only_for_as_long_as_a_handshake_may_last() {
        run(async {
            let (mut listener, address) = listener();
            listener.patience = Duration::from_millis(500);
            let mut silent = vec![];
            for _ in 0..HANDSHAKES_MAX + 4 {
                silent.push(TcpStream::connect(address).await.expect("TCP"));
            }
            let own = pass("hadev1", "hadev2");
            let let_in = async {
                let mut late = 0;
                loop {
                    let came = listener.accept().await.expect("accepted");
                    assert!(listener.handshakes.len() <= HANDSHAKES_MAX);
                    match came.result {
                        Ok(connection) => return (connection, late),
                        Err(Error::Late) => late += 1,
                        Err(other) => panic!("{other}"),
                    }
                }
            };
            let (here, (_there, late)) = tokio::join!(connect(HERE, address, &own), let_in);
            here.expect("the peer gets in after them");
            assert!(late >= HANDSHAKES_MAX, "only {late} had to go first");
        });
    }

    #[test]
    fn a_pipe_carries_five_megabytes_both_ways_and_ends_in_order() {
        run(async {
            let (mut here, mut there) = pair().await;
            // The first bytes of the pipe may come with the last word.
            here.send(&"pipe").await.expect("sent");
            let mut near = here.into_pipe();
            near.write_all(b"at once").await.expect("written");
            near.flush().await.expect("flushed");
            assert_eq!(there.receive::<String>().await.expect("a word"), "pipe");
            let mut far = there.into_pipe();
            let mut first = [0; 7];
            far.read_exact(&mut first).await.expect("read");
            assert_eq!(&first, b"at once");

            let up: Vec<u8> = (0..5_000_000u32).map(|n| (n % 249) as u8).collect();
            let down: Vec<u8> = (0..5_000_000u32).map(|n| (n % 247) as u8).collect();
            let ends = |pipe: Pipe, out: Vec<u8>| async move {
                let (mut read, mut write) = tokio::io::split(pipe);
                let mut got = vec![];
                let (sent, received) = tokio::join!(
                    async {
                        write.write_all(&out).await?;
                        write.shutdown().await
                    },
                    read.read_to_end(&mut got)
                );
                sent.expect("written");
                received.expect("read");
                got
            };
            let (back, forth) = tokio::join!(ends(near, up.clone()), ends(far, down.clone()));
            assert!(back == down && forth == up);
        });
    }

    #[test]
    fn a_pipe_cut_off_is_an_error_and_not_an_end() {
        run(async {
            let (here, there) = pair().await;
            let (mut near, mut far) = (here.into_pipe(), there.into_pipe());
            near.write_all(b"half").await.expect("written");
            near.flush().await.expect("flushed");
            drop(near);
            let error = far.read_to_end(&mut vec![]).await.expect_err("cut off");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        });
    }

    #[test]
    fn the_kernel_watches_both_ends() {
        run(async {
            let (here, there) = pair().await;
            for half in [here.writer.half.as_ref(), there.writer.half.as_ref()] {
                let socket = SockRef::from(half);
                assert!(socket.tcp_nodelay().expect("an option"));
                assert!(socket.keepalive().expect("an option"));
                assert_eq!(socket.tcp_keepalive_time().expect("an option"), Duration::from_secs(1));
                assert_eq!(socket.tcp_keepalive_interval().expect("an option"), Duration::from_secs(1));
                assert_eq!(socket.tcp_keepalive_retries().expect("an option"), 3);
                assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(GONE));
            }
        });
    }

    /// The window is shut for longer than the kernel lets a conversation's be.
    #[test]
    fn a_patient_pipe_outlasts_a_receiver_that_takes_nothing_for_a_while() {
        run(async {
            let (here, there) = pair().await;
            let near = here.into_pipe().patient(Duration::from_secs(60)).expect("an option");
            let mut far = there.into_pipe();
            let all: Vec<u8> = (0..40_000_000u32).map(|n| (n % 251) as u8).collect();
            let give = async {
                let mut near = near;
                near.write_all(&all).await.expect("taken in the end");
                near.shutdown().await.expect("ended");
            };
            let take = async {
                tokio::time::sleep(GONE + Duration::from_secs(3)).await;
                let mut got = vec![];
                far.read_to_end(&mut got).await.expect("read");
                got
            };
            let ((), got) = tokio::join!(give, take);
            assert!(got == all);
        });
    }

    #[test]
    fn a_door_opens_before_its_address_is_there() {
        run(async {
            // TEST-NET-1 of RFC 5737: no interface of this machine carries it.
            let absent: SocketAddr = ([192, 0, 2, 1], 0).into();
            Listener::bind(&[(absent, HERE)], Arc::new(pass("hadev2", "hadev1"))).expect("a listener");
        });
    }

    #[test]
    fn the_key_is_not_shown() {
        let pass = pass("hadev1", "hadev2");
        let shown = format!("{pass:?}");
        assert!(shown.contains("not shown") && !shown.contains(&format!("{}", pass.psk[0])), "{shown}");
    }
}
