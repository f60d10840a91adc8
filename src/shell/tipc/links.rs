//! Which links are up, asked of the kernel (`tipc link list` asks the same).
//!
//! The topology service tells of links too, and is not believed in this: it names a link by the numbers of the bearers at both
//! ends, the kernel takes the peer's number from whatever resets the link (net/tipc/link.c: `peer_bearer_id` is set before
//! net/tipc/node.c reads it as `link_id`), and so a link that the peer's other bearer has reset is withdrawn under a name that
//! it never had. Seen with a peer's cable in the wrong
//! network: a link told as down that was up, for ever. What the service says is the reason to ask.
//!
//! Asked by a thread: a generic netlink request waits for whoever holds the kernel's lock for them (`tipc bearer enable`).

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NlasIterator, ParseableParametrized, parse_string,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;
use tokio::sync::Notify;

use crate::config::{Tipc, TipcAddress};
use crate::shell::exchange::Exchange;

/// Asked again without a reason, for what the topology service does not tell.
const EVERY: Duration = Duration::from_millis(500);
/// linux/tipc_netlink.h
const LINK_GET: u8 = 8;
const NLA_LINK: u16 = 4;
const NLA_LINK_NAME: u16 = 1;
const NLA_LINK_UP: u16 = 5;

/// A link to the peer, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub up: bool,
    /// The interface of the peer at which it ends.
    pub ends: Option<String>,
}

/// By bearer of the configuration; or why it is not known.
type Told = Result<Vec<State>, String>;

/// Asks in a thread of its own, which ends with this.
pub struct Watch {
    ask: Sender<()>,
    told: Receiver<Told>,
    notify: Arc<Notify>,
}

impl Watch {
    /// Nothing is told before [`Self::ask`]: without a topology service there is no link.
    pub fn start(tipc: &Tipc) -> io::Result<Self> {
        let (ask, asked) = channel();
        let (tell, told) = channel();
        let notify = Arc::new(Notify::new());
        let wake = Arc::clone(&notify);
        let interfaces: Vec<String> = tipc.bearers.iter().map(|b| b.interface.clone()).collect();
        let peer = tipc.peer;
        std::thread::Builder::new().name("links".into()).stack_size(256 << 10).spawn(move || {
            let mut last = None;
            let mut open = None;
            while let Some(anew) = next(&asked, last.is_some()) {
                let now = get(&mut open)
                    .map(|links| states(&links, peer, &interfaces))
                    .map_err(|error| format!("which links of TIPC are up cannot be asked: {error}"));
                if anew || last.as_ref() != Some(&now) {
                    last = Some(now.clone());
                    if tell.send(now).is_err() {
                        return;
                    }
                    wake.notify_one();
                }
            }
        })?;
        Ok(Self { ask, told, notify })
    }

    /// Has it asked now, and told whether it changed or not.
    pub fn ask(&self) {
        let _ = self.ask.send(());
    }

    /// What was found last, if nobody has heard it yet.
    pub fn told(&self) -> Option<Told> {
        self.told.try_iter().last()
    }

    /// Waits until something was told. Cancel safe.
    pub async fn readable(&self) {
        self.notify.notified().await;
    }
}

/// Waits until it is to be asked; whether somebody wants to know. `None`: nobody does any more.
fn next(asked: &Receiver<()>, begun: bool) -> Option<bool> {
    let first = if begun { asked.recv_timeout(EVERY) } else { asked.recv().map_err(RecvTimeoutError::from) };
    match first {
        Ok(()) => {
            while asked.try_recv().is_ok() {}
            Some(true)
        }
        Err(RecvTimeoutError::Timeout) => Some(false),
        Err(RecvTimeoutError::Disconnected) => None,
    }
}

/// The question, and an answer: name, and whether it is up.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Message {
    Get,
    Link { name: String, up: bool },
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "TIPCv2"
    }

    fn command(&self) -> u8 {
        LINK_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let (mut name, mut up) = (String::new(), false);
        for outer in NlasIterator::new(bytes) {
            let outer = outer?;
            if outer.kind() != NLA_LINK {
                continue;
            }
            for inner in NlasIterator::new(outer.value()) {
                let inner = inner?;
                match inner.kind() {
                    NLA_LINK_NAME => name = parse_string(inner.value())?,
                    NLA_LINK_UP => up = true,
                    _ => {}
                }
            }
        }
        Ok(Self::Link { name, up })
    }
}

/// Name and state of every link. `open`: socket and the family's number, asked for anew after an error (the module that is
/// loaded next has another).
fn get(open: &mut Option<(Exchange, u16)>) -> io::Result<Vec<(String, bool)>> {
    let (mut exchange, family) = match open.take() {
        Some(known) => known,
        None => family()?,
    };
    let question = GenlMessage::new(GenlHeader { cmd: LINK_GET, version: 1 }, Message::Get, family);
    let answers = exchange.ask(question, NLM_F_DUMP)?;
    *open = Some((exchange, family));
    let links = answers.into_iter().filter_map(|answer| match answer.payload {
        Message::Link { name, up } => Some((name, up)),
        Message::Get => None,
    });
    Ok(links.collect())
}

fn family() -> io::Result<(Exchange, u16)> {
    let mut exchange = Exchange::new(NETLINK_GENERIC)?;
    let nlas = vec![GenlCtrlAttrs::FamilyName(Message::family_name().to_owned())];
    let question = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas });
    let answers = exchange.ask(question, NLM_F_ACK)?;
    let ids = answers.iter().flat_map(|answer| &answer.payload.nlas);
    let mut ids = ids.filter_map(|nla| if let GenlCtrlAttrs::FamilyId(id) = nla { Some(*id) } else { None });
    let id = ids.next().ok_or(io::ErrorKind::NotFound)?;
    Ok((exchange, id))
}

fn states(links: &[(String, bool)], peer: Option<TipcAddress>, interfaces: &[String]) -> Vec<State> {
    let mut states = vec![State::default(); interfaces.len()];
    for (name, up) in links {
        if let Some((bearer, at)) = peer.and_then(|peer| ends_of(name, peer, interfaces)) {
            states[bearer] = State { up: *up, ends: Some(at) };
        }
    }
    states
}

/// Which of our interfaces a link's name begins at, and the peer's interface at which it ends: NODE:INTERFACE-NODE:INTERFACE,
/// each node as the hexadecimal of its address.
fn ends_of(name: &str, peer: TipcAddress, interfaces: &[String]) -> Option<(usize, String)> {
    let (rest, at) = name.rsplit_once(':')?;
    let ours = rest.split_once(':')?.1.strip_suffix(&format!("-{:x}", peer.0))?;
    Some((interfaces.iter().position(|interface| interface == ours)?, at.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: TipcAddress = TipcAddress(0x0100_101d);

    fn interfaces() -> Vec<String> {
        ["eth3", "eth4", "eth3-1"].map(str::to_owned).to_vec()
    }

    #[test]
    fn a_links_name_tells_its_ends() {
        let ends = |name| ends_of(name, PEER, &interfaces());
        assert_eq!(ends("1001017:eth4-100101d:eth4"), Some((1, "eth4".into())));
        assert_eq!(ends("1001017:eth3-100101d:eth4"), Some((0, "eth4".into())));
        assert_eq!(ends("1001017:eth3-1-100101d:eth3-1"), Some((2, "eth3-1".into())));
        assert_eq!(ends("1001017:eth5-100101d:eth3"), None);
        assert_eq!(ends("1001017:eth3-1001063:eth3"), None, "another node of the network");
        assert_eq!(ends("broadcast-link"), None);
    }

    #[test]
    fn a_link_that_the_kernel_does_not_list_is_down() {
        let links = [("broadcast-link".to_owned(), true), ("1001017:eth3-100101d:eth4".to_owned(), true)];
        let up = State { up: true, ends: Some("eth4".into()) };
        assert_eq!(
            states(&links, Some(PEER), &interfaces()),
            [up.clone(), State::default(), State::default()]
        );
        let listed = [("1001017:eth3-100101d:eth4".to_owned(), false)];
        assert_eq!(states(&listed, Some(PEER), &interfaces())[0], State { up: false, ..up });
        assert_eq!(states(&links, None, &interfaces()), vec![State::default(); 3]);
    }

    /// An answer as the kernel sends it: the attributes of a link in one, its name with the zero at the end.
    #[cfg(target_endian = "little")]
    #[test]
    fn an_answer_is_read() {
        let read = |bytes: &[u8]| Message::parse_with_param(bytes, GenlHeader { cmd: LINK_GET, version: 1 });
        #[rustfmt::skip]
        let mut up = [
            0x14, 0, 0x04, 0x80,
            0x07, 0, 0x01, 0, b'a', b':', 0, 0,
            0x04, 0, 0x05, 0,
            0x04, 0, 0x06, 0,
        ];
        assert_eq!(read(&up).expect("read"), Message::Link { name: "a:".into(), up: true });
        up[14] = 9;
        assert_eq!(read(&up).expect("read"), Message::Link { name: "a:".into(), up: false });
        up[4] = 200;
        assert!(read(&up).is_err(), "longer than what holds it");
        assert_eq!(read(&[]).expect("read"), Message::Link { name: String::new(), up: false });
    }

    /// The thread ends with its asker, and asks nothing before it is to.
    #[test]
    fn it_is_asked_when_told_to_and_then_every_so_often() {
        let (ask, asked) = channel();
        ask.send(()).expect("there");
        ask.send(()).expect("there");
        assert_eq!(next(&asked, false), Some(true));
        assert_eq!(next(&asked, true), Some(false), "two questions at once are one");
        drop(ask);
        assert_eq!(next(&asked, true), None);
        assert_eq!(next(&asked, false), None);
    }
}
