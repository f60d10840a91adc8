//! What touches the world: thin, sequential, no decisions. Modules do not know each other, but for `ready` and
//! `clock`, on which the others wait, `realtime`, `exchange` and `varlink`, which are tools, and `beneath`, which holds the
//! directories of the rules files.

pub mod beneath;
pub mod bpf;
pub mod clock;
pub mod control;
pub mod database_control;
pub mod exchange;
pub mod frames;
pub mod gate;
pub mod inhibitor;
pub mod journal;
pub mod kept;
pub mod log_control;
pub mod manager;
pub mod netlink;
pub mod notify;
pub mod ping;
pub mod ready;
pub mod realtime;
pub mod rsync;
pub mod rules_control;
pub mod secure;
pub mod server_process;
pub mod sql;
pub mod state;
pub mod store;
pub mod stream;
pub mod tipc;
pub mod tree;
pub mod udp;
pub mod unit;
pub mod varlink;
pub mod watch;
