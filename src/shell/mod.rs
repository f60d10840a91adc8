//! What touches the world: thin, sequential, no decisions. Modules do not know each other, but for `ready` and
//! `clock`, on which the others wait, and `realtime` and `exchange`, which are tools.

pub mod bpf;
pub mod clock;
pub mod control;
pub mod exchange;
pub mod frames;
pub mod gate;
pub mod inhibitor;
pub mod journal;
pub mod log_control;
pub mod manager;
pub mod netlink;
pub mod notify;
pub mod ping;
pub mod ready;
pub mod realtime;
pub mod state;
pub mod stream;
pub mod tipc;
pub mod udp;
pub mod unit;
