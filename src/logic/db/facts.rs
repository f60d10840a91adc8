//! What the agent's machine hears and what it asks for. Both products speak through the same words.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::gtids::{Range, Unchecked};
use crate::database::{Charge, Word};
use crate::notice::Priority;

/// Transactions a server has. What comes from elsewhere, the peer or the disk, is one that a server could print, or is refused: it is put
/// into statements, and counted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub enum Gtids {
    /// MariaDB's `gtid_binlog_state`, `gtid_slave_pos`, `Gtid_IO_Pos`: the newest sequence number by domain and server.
    MariaDb(BTreeMap<(u32, u32), u64>),
    /// MySQL's `gtid_executed`, `Retrieved_Gtid_Set`: by source uuid (and tag, "uuid:tag") sorted, disjoint ranges, both ends included.
    MySql(BTreeMap<String, Vec<(u64, u64)>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Flavor {
    MariaDb,
    MySql,
}

/// What is lost at most when a machine dies, and what that costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Durability {
    /// A commit waits for the standby 2 s at most: the pair goes on without it, and what is committed then is on one machine.
    Available,
    /// A commit waits for the standby until that one is known to be dead and the lease is held.
    Strict,
}

/// What is done at a promotion when the relay log is known to lack what the standby had received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RelayLost {
    /// Go on, with an alarm that says how many transactions are missing.
    Promote,
    /// Wait for the operator, or for the old node.
    Block,
}

/// A setting of the server that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    pub variable: String,
    pub have: String,
    pub want: String,
    /// With this one wrong, histories may fork unseen or commits be lost: never promoted by itself.
    pub fatal: bool,
}

/// One look at the own server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub flavor: Flavor,
    pub version: String,
    pub server_id: u32,
    /// MySQL's; empty for MariaDB.
    pub server_uuid: String,
    pub read_only: bool,
    /// `gtid_binlog_state`, `gtid_executed`.
    pub has: Gtids,
    /// `gtid_slave_pos`; MySQL: `gtid_executed`.
    pub applied: Gtids,
    /// What is no longer in the binary logs; MariaDB: empty, it is told by error 1236.
    pub purged: Gtids,
    pub semi_sync: SemiSync,
    /// `None`: it does not replicate from anybody.
    pub replica: Option<Replica>,
    pub wrong: Vec<Wrong>,
    /// Accounts that write through read_only.
    pub admins: Vec<String>,
    /// Commits that wait for the standby's acknowledgement now.
    pub waiters: u32,
}

/// The source's side of semi-synchronous replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SemiSync {
    pub enabled: bool,
    /// `Rpl_semi_sync_master_status`: commits do wait.
    pub on: bool,
    pub replicas: u32,
}

/// `SHOW REPLICA STATUS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    pub host: String,
    pub port: u16,
    /// 0: never connected.
    pub source_id: u32,
    pub receiver: Receiver,
    pub applier: bool,
    /// 0 = none.
    pub receiver_errno: u32,
    pub receiver_error: String,
    pub applier_errno: u32,
    pub applier_error: String,
    /// `Gtid_IO_Pos`, `Retrieved_Gtid_Set`.
    pub received: Gtids,
    /// File and position up to which was read: moves while anything arrives.
    pub read: (String, u64),
    pub using_gtid: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Receiver {
    Stopped,
    Connecting,
    Connected,
}

/// One thing done at the own server. Each is bounded by the time given with it, and may be done twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// `read_only` (MySQL: `super_read_only`) on. Fails, and stays off, if a lock or a running write does not end in time.
    ReadOnly,
    Writable,
    /// Every client's connection but those of replication, of the agent and of these accounts.
    KillClients {
        keep: Vec<String>,
    },
    /// Those alone whose commit waits for an acknowledgement: the client learns nothing of the outcome, which is the truth. MySQL lets
    /// none of them go without all: there every client goes, the server is made read-only with it, and that takes up to a second.
    KillWaiters,
    /// The connections over which others replicate from here. One that lives comes again within a second; one whose machine is dead would
    /// be waited for by every commit until the kernel gives it up.
    EndReplicas,
    StartApplier,
    StopReceiver,
    StartReplication,
    StopReplication,
    /// MariaDB's position to this, which the server's own log has: both threads are stopped.
    Position {
        at: Gtids,
    },
    /// Until this is applied.
    WaitApplied {
        target: Gtids,
    },
    SemiSync {
        source: bool,
        timeout_ms: u64,
        wait_without_replica: bool,
    },
    /// A row is written and committed.
    WriteTest,
    /// What the server has now, read twice with a pause: still the same, so nobody writes.
    Settled,
    /// The server's unit is killed.
    KillServer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Of [`Op::Settled`].
    Has(Gtids),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No answer in the time that was given; what became of it is unknown.
    Timeout,
    /// The server refused.
    Sql { errno: u32, text: String },
    /// It cannot be reached.
    Gone { text: String },
    /// Of [`Op::Settled`]: somebody still writes.
    Moving,
}

/// What the two agents tell each other, authenticated; at most some kilobytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tell {
    /// Where this server stands; every second and when it changes.
    Stand {
        server_id: u32,
        server_uuid: String,
        flavor: Flavor,
        has: Gtids,
        purged: Gtids,
        read_only: bool,
        /// It has the role and takes writes: the history that counts is there.
        active: bool,
        /// Of its newest promotion; 0: it never was.
        term: u64,
        /// It could be ACTIVE.
        fit: bool,
        /// Words for the operator, from [`crate::logic::db`]'s states.
        state: String,
        /// Of an ACTIVE: its commits wait for a standby's acknowledgement.
        semi_sync: bool,
    },
    /// The agent lives, its server does not answer: what was said of it before is not what it will come back as.
    Down { state: String },
    /// The server was made read-only for a hand-over and has this, no more will come. Holds until taken back by [`Tell::LetGo`] or by a
    /// [`Tell::Stand`] of an ACTIVE; said again on a new channel.
    HandedOver { has: Gtids },
    /// The role is let go, but the server could not say what it had last: it is dead, or was ended by force; or what was handed over
    /// does not hold any more.
    LetGo,
}

/// What an operator asks of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Promote whatever the applier's error or the lost relay log say.
    Promote { force: bool },
    /// Replicate although this server has transactions that the peer lacks: those that it has now. Strict mode decides.
    AcceptErrant,
    /// The server's data is a fresh copy of the peer's.
    Reseeded,
}

/// What is kept on disk, for the next start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The most that was ever received from the source: a relay log that ends before it has lost something.
    pub received: Option<Gtids>,
    /// The newest promotion of this server: term, and what it had.
    pub promoted: Option<(u64, Gtids)>,
    /// The newest term in which it was asked to be ACTIVE, written down when it is asked: [`Self::promoted`] of a server that dies in the
    /// moment of its promotion may be of the one before.
    pub meant: u64,
    /// This server was the last to be ACTIVE, and nobody else could have gone on from where it stood.
    pub alone: bool,
    /// What was on this server alone when an operator said that it may be. The last field: a record of before has none.
    pub accepted: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Tick,
    Probed(Result<Box<Probe>, Failure>),
    /// Of an operation, by its number.
    Done {
        id: u64,
        result: Result<Answer, Failure>,
    },
    /// From dre-elect.
    Charged(Charge),
    /// The stream to dre-elect opened or closed.
    Stream {
        open: bool,
    },
    /// From the peer's agent.
    Told(Box<Tell>),
    /// The channel to the peer's agent opened or closed.
    Channel {
        open: bool,
    },
    /// The server's unit runs, or not.
    Unit {
        running: bool,
    },
    Asked(Command),
    /// The agent is being stopped.
    Stop,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Look at the server; answered by [`Event::Probed`] within this time.
    Probe {
        within: Duration,
    },
    Do {
        id: u64,
        op: Op,
        within: Duration,
    },
    /// Give up this operation: nobody waits for its answer any more.
    Forget {
        id: u64,
    },
    Say(Word),
    Tell(Box<Tell>),
    Keep(Box<Record>),
    /// A sentence for the journal.
    Note {
        priority: Priority,
        text: String,
    },
    /// The clean stop is complete.
    Exit,
}
