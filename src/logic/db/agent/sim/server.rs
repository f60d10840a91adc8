//! A database server as the simulation has it: a log, a relay log, a socket, and the habits of the two products.

use std::collections::{BTreeMap, VecDeque};

use crate::logic::db::facts::{Flavor, Gtids, Probe, Receiver, Replica, SemiSync};

/// The error of a replica whose position the source does not know, and of events that contradict what is there.
const NOT_IN_LOG: u32 = 1236;
const OUT_OF_ORDER: u32 = 1950;

/// A transaction. `gtid` is what servers know of it, `id` and `parent` what is true: two may bear one gtid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trx {
    pub gtid: (u32, u64),
    pub id: u64,
    pub parent: u64,
}

/// What an attempt to apply came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    Nothing,
    /// It was here already.
    Known,
    One(Trx),
    /// Put on top of a history that is not the one it was written on.
    Forked(Trx),
}

#[derive(Debug, Clone)]
pub struct Server {
    pub flavor: Flavor,
    pub id: u32,
    pub up: bool,
    pub frozen: bool,
    pub log: Vec<Trx>,
    known: BTreeMap<(u32, u64), u64>,
    /// What `known` is as the product says it.
    has: Gtids,
    top: u64,
    pub read_only: bool,
    pub semi_enabled: bool,
    pub semi_on: bool,
    pub semi_timeout_ms: u64,
    pub waits_alone: bool,
    /// Commits that wait for an acknowledgement: index in the log, since when.
    pub waiting: Vec<(usize, u64)>,
    pub receiver: Receiver,
    pub receiver_errno: u32,
    pub applier: bool,
    pub applier_errno: u32,
    /// What the receiver has not read yet.
    pub socket: VecDeque<Trx>,
    relay: VecDeque<Trx>,
    /// `gtid_slave_pos`.
    position: Option<(u32, u64)>,
    /// `Gtid_IO_Pos`; MySQL: all that was retrieved since the relay log began.
    last_received: Option<(u32, u64)>,
    retrieved: BTreeMap<(u32, u64), ()>,
    read: u64,
    /// A client holds a lock, or writes for long: read_only waits for it.
    pub locked: bool,
    /// `SET GLOBAL read_only` does not come to an end, whoever is killed.
    pub stuck: bool,
    pub disk_full: bool,
    /// The applier is slow.
    pub slow: bool,
    /// `STOP` of the receiver hangs; it ends when its connection does.
    pub stop_hangs: bool,
    pub stopping: bool,
}

impl Server {
    pub fn new(flavor: Flavor, id: u32) -> Self {
        Self {
            flavor,
            id,
            up: true,
            frozen: false,
            log: vec![],
            known: BTreeMap::new(),
            has: Gtids::empty(flavor),
            top: 0,
            read_only: true,
            semi_enabled: false,
            semi_on: false,
            semi_timeout_ms: 2_000,
            waits_alone: false,
            waiting: vec![],
            receiver: Receiver::Stopped,
            receiver_errno: 0,
            applier: false,
            applier_errno: 0,
            socket: VecDeque::new(),
            relay: VecDeque::new(),
            position: None,
            last_received: None,
            retrieved: BTreeMap::new(),
            read: 0,
            locked: false,
            stuck: false,
            disk_full: false,
            slow: false,
            stop_hangs: false,
            stopping: false,
        }
    }

    fn uuid(id: u32) -> String {
        format!("{id:08}-71ca-11e1-9e33-c80aa9429562")
    }

    fn gtids(&self, of: impl Iterator<Item = (u32, u64)>) -> Gtids {
        match self.flavor {
            Flavor::MariaDb => {
                let mut newest: BTreeMap<(u32, u32), u64> = BTreeMap::new();
                for (writer, n) in of {
                    let top = newest.entry((0, writer)).or_default();
                    *top = n.max(*top);
                }
                Gtids::MariaDb(newest)
            }
            Flavor::MySql => {
                let mut sets: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
                let mut all: Vec<_> = of.collect();
                all.sort_unstable();
                for (writer, n) in all {
                    let ranges = sets.entry(Self::uuid(writer)).or_default();
                    match ranges.last_mut() {
                        Some((_, high)) if *high + 1 >= n => *high = n,
                        _ => ranges.push((n, n)),
                    }
                }
                Gtids::MySql(sets)
            }
        }
    }

    /// One transaction alone.
    pub fn gtids_of(&self, gtid: (u32, u64)) -> Gtids {
        self.gtids(std::iter::once(gtid))
    }

    pub fn has(&self) -> Gtids {
        self.has.clone()
    }

    fn applied(&self) -> Gtids {
        match self.flavor {
            Flavor::MariaDb => self.gtids(self.position.into_iter()),
            Flavor::MySql => self.has(),
        }
    }

    /// The newest of the own log that `at` has.
    pub fn position_to(&mut self, at: &Gtids) {
        let there = self.log.iter().rev().find(|trx| at.covers(&self.gtids_of(trx.gtid)));
        self.position = there.map(|trx| trx.gtid);
        self.drop_relay();
    }

    pub fn reaches(&self, target: &Gtids) -> bool {
        self.has.covers(target)
    }

    pub fn received(&self) -> Gtids {
        match self.flavor {
            Flavor::MariaDb => self.gtids(self.last_received.into_iter()),
            Flavor::MySql => self.gtids(self.retrieved.keys().copied()),
        }
    }

    pub fn probe(&self) -> Probe {
        Probe {
            flavor: self.flavor,
            version: "simulated".into(),
            server_id: self.id,
            server_uuid: if self.flavor == Flavor::MySql { Self::uuid(self.id) } else { String::new() },
            read_only: self.read_only,
            has: self.has(),
            applied: self.applied(),
            purged: Gtids::empty(self.flavor),
            semi_sync: SemiSync { enabled: self.semi_enabled, on: self.semi_on, replicas: 0 },
            replica: Some(Replica {
                host: "peer".into(),
                port: 3306,
                source_id: 3 - self.id,
                receiver: self.receiver,
                applier: self.applier,
                receiver_errno: self.receiver_errno,
                receiver_error: String::new(),
                applier_errno: self.applier_errno,
                applier_error: String::new(),
                received: self.received(),
                read: ("binlog".into(), self.read),
                using_gtid: true,
            }),
            wrong: vec![],
            admins: vec![],
            waiters: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
        }
    }

    // ---- the source ----------------------------------------------------------------------------------

    /// A client's write: in the log, and not answered yet.
    pub fn write(&mut self, id: u64) -> usize {
        let n = match self.flavor {
            Flavor::MariaDb => self.top + 1,
            Flavor::MySql => self
                .known
                .range((self.id, 0)..=(self.id, u64::MAX))
                .next_back()
                .map_or(1, |((_, n), _)| n + 1),
        };
        let parent = self.log.last().map_or(0, |trx| trx.id);
        self.push(Trx { gtid: (self.id, n), id, parent });
        self.log.len() - 1
    }

    fn push(&mut self, trx: Trx) {
        self.known.insert(trx.gtid, trx.id);
        self.top = self.top.max(trx.gtid.1);
        let one = self.gtids_of(trx.gtid);
        self.has = self.has().union(&one);
        self.log.push(trx);
    }

    /// From where a replica is sent what it lacks; `None`: it has what is not here (1236).
    pub fn dump_from(&self, replica: &Self) -> Option<Vec<Trx>> {
        match self.flavor {
            Flavor::MariaDb => {
                let from = if replica.relay.is_empty() { replica.position } else { replica.last_received };
                let Some(position) = from else { return Some(self.log.clone()) };
                let at = self.log.iter().rposition(|trx| trx.gtid == position)?;
                Some(self.log[at + 1..].to_vec())
            }
            Flavor::MySql => {
                let more = replica
                    .known
                    .range((self.id, 0)..=(self.id, u64::MAX))
                    .any(|(gtid, _)| !self.known.contains_key(gtid));
                if more {
                    return None;
                }
                let lacks = |trx: &&Trx| {
                    !replica.known.contains_key(&trx.gtid)
                        && !replica.relay.iter().any(|r| r.gtid == trx.gtid)
                };
                Some(self.log.iter().filter(lacks).copied().collect())
            }
        }
    }

    // ---- the replica ---------------------------------------------------------------------------------

    /// The receiver takes what is in its socket; what it took is acknowledged.
    pub fn receive(&mut self) -> Vec<Trx> {
        if !self.up || self.frozen || self.receiver != Receiver::Connected {
            return vec![];
        }
        let taken: Vec<Trx> = self.socket.drain(..).collect();
        for trx in &taken {
            self.read += 1;
            self.last_received = Some(trx.gtid);
            self.retrieved.insert(trx.gtid, ());
            // MySQL skips what bears the own id, whether it is here or not.
            if self.flavor == Flavor::MariaDb || trx.gtid.0 != self.id {
                self.relay.push_back(*trx);
            }
        }
        taken
    }

    pub fn applies(&self) -> bool {
        self.up && !self.frozen && self.applier && !self.relay.is_empty()
    }

    pub fn apply(&mut self) -> Applied {
        if !self.applies() {
            return Applied::Nothing;
        }
        let Some(trx) = self.relay.front().copied() else { return Applied::Nothing };
        if self.known.contains_key(&trx.gtid) {
            self.relay.pop_front();
            self.position = Some(trx.gtid);
            return Applied::Known;
        }
        if self.flavor == Flavor::MariaDb && trx.gtid.1 <= self.top {
            (self.applier, self.applier_errno) = (false, OUT_OF_ORDER);
            return Applied::Nothing;
        }
        let sound = self.log.last().map_or(0, |trx| trx.id) == trx.parent;
        self.relay.pop_front();
        self.position = Some(trx.gtid);
        self.push(trx);
        if sound { Applied::One(trx) } else { Applied::Forked(trx) }
    }

    /// The relay log is dropped: MariaDB with both threads stopped, both products at a start (`relay_log_recovery`).
    fn drop_relay(&mut self) {
        self.relay.clear();
        self.retrieved.clear();
        self.last_received = self.position;
    }

    fn stopped(&mut self) {
        if self.flavor == Flavor::MariaDb && self.receiver == Receiver::Stopped && !self.applier {
            self.drop_relay();
        }
    }

    pub fn start_applier(&mut self) {
        if !self.applier {
            self.stopped();
            (self.applier, self.applier_errno) = (true, 0);
        }
    }

    pub fn start_receiver(&mut self) {
        if self.receiver == Receiver::Stopped {
            (self.receiver, self.receiver_errno) = (Receiver::Connecting, 0);
        }
    }

    /// What lay in its socket is gone.
    pub fn stop_receiver(&mut self) {
        (self.receiver, self.stopping) = (Receiver::Stopped, false);
        self.socket.clear();
        self.stopped();
    }

    pub fn stop_applier(&mut self) {
        self.applier = false;
        self.stopped();
    }

    pub fn refuse_position(&mut self) {
        self.stop_receiver();
        self.receiver_errno = NOT_IN_LOG;
    }

    /// The process ends, whyever. `cut`: MariaDB, started again as a replica, cuts off what no standby had acknowledged
    /// (`init-rpl-role`); the position has followed it if the ring brought it back.
    pub fn die(&mut self, cut: bool) {
        let kept = self.waiting.iter().map(|(at, _)| *at).min().unwrap_or(self.log.len());
        if cut && self.flavor == Flavor::MariaDb {
            for trx in self.log.split_off(kept) {
                self.known.remove(&trx.gtid);
            }
            self.top = self.log.iter().map(|trx| trx.gtid.1).max().unwrap_or(0);
            self.has = self.gtids(self.known.keys().copied());
        }
        (self.up, self.frozen) = (false, false);
        (self.semi_enabled, self.semi_on, self.waits_alone) = (false, false, false);
        self.waiting.clear();
        (self.receiver, self.applier) = (Receiver::Stopped, false);
        (self.receiver_errno, self.applier_errno) = (0, 0);
        self.socket.clear();
        self.drop_relay();
        (self.locked, self.stuck) = (false, false);
        (self.stop_hangs, self.stopping) = (false, false);
        self.read_only = true;
    }

    /// A fresh copy of `other`.
    pub fn copy(&mut self, other: &Self) {
        self.die(false);
        self.up = true;
        (self.log, self.known) = (other.log.clone(), other.known.clone());
        (self.has, self.top) = (other.has(), other.top);
        self.position = self.log.last().map(|trx| trx.gtid);
        self.drop_relay();
    }

    /// All that is here is there too, in the same order.
    pub fn is_part_of(&self, other: &Self) -> bool {
        other.log.starts_with(&self.log)
    }
}
