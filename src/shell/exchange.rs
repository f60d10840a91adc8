//! One question to the kernel and all its answers, over any netlink protocol.

use std::fmt::Debug;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// An answer that takes longer is lost (an overrun of the socket); the caller looks again by a dump.
const PATIENCE: Duration = Duration::from_millis(500);

/// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A socket that asks. The kernel does the work inside `sendmsg`, and the answer is there when it returns: nothing waits.
pub struct Exchange {
    socket: Socket,
    sequence: u32,
}

impl Exchange {
    /// `protocol`: NETLINK_ROUTE, NETLINK_GENERIC.
    pub fn new(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // A dump of thousands of addresses must fit, or its tail is lost.
        let _ = socket.set_rx_buf_sz(4_u32 << 20);
        let patience = TimeVal::new(0, i64::try_from(PATIENCE.as_micros()).unwrap_or(500_000));
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &patience)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks; what came that could be read. `flags` beside NLM_F_REQUEST.
    pub fn ask<M>(&mut self, message: M, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Debug,
        NetlinkPayload<M>: From<M>,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        self.sequence = self.sequence.wrapping_add(1);
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let inner = |one: Vec<u8>| match NetlinkMessage::deserialize(&one).map(|m| m.payload) {
            Ok(NetlinkPayload::InnerMessage(inner)) => Some(inner),
            // A message of a newer kernel that the parser does not know: not ours to use.
            Ok(_) | Err(_) => None,
        };
        Ok(self.send(&bytes)?.into_iter().filter_map(inner).collect())
    }

    /// Asks with a message whose body no crate knows; the messages that answer, as they came.
    pub fn raw(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let len = u32::try_from(16 + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = Vec::with_capacity(16 + body.len());
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        self.send(&bytes)
    }

    /// The messages that answer, as they came.
    fn send(&mut self, bytes: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.socket.send(bytes, 0)?;
        let mut answers = vec![];
        loop {
            let (data, from) = self.socket.recv_from_full()?;
            // Anybody may send to a netlink socket; only the kernel is port 0.
            if from.port_number() != 0 {
                continue;
            }
            for one in messages(&data) {
                let sequence = u32::from_ne_bytes([one[8], one[9], one[10], one[11]]);
                if sequence != self.sequence {
                    continue;
                }
                match u16::from_ne_bytes([one[4], one[5]]) {
                    NLMSG_ERROR => {
                        let code =
                            one.get(16..20).and_then(|code| Some(i32::from_ne_bytes(code.try_into().ok()?)));
                        return match code {
                            Some(0) => Ok(answers),
                            Some(code) => Err(io::Error::from_raw_os_error(code.saturating_abs())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    NLMSG_DONE => return Ok(answers),
                    _ => answers.push(one.to_vec()),
                }
            }
        }
    }
}

/// The messages of a datagram, each with its header of 16 bytes; what claims to be longer than it is ends them.
pub fn messages(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
        let one = rest.get(..len).filter(|one| one.len() >= 16)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(one)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_taken_apart_and_a_length_is_not_believed() {
        let message = |len: u32, more: usize| [&len.to_ne_bytes()[..], &vec![7; more]].concat();
        // Padded to four; the last one need not be.
        let two = [message(18, 16), message(17, 13)].concat();
        assert_eq!(messages(&two).map(<[u8]>::len).collect::<Vec<_>>(), [18, 17]);
        for broken in
            [message(99, 16), message(3, 16), message(0, 16), message(15, 16), vec![1, 0, 0], vec![]]
        {
            assert_eq!(messages(&broken).count(), 0, "{broken:?}");
        }
        assert_eq!(messages(&[message(16, 12), message(99, 12)].concat()).count(), 1);
    }
}
