//! A server and its agent in the simulation: what is promised to the election, kept late, broken, or forgotten by a killed agent.

use super::{Happening, Input, MS, World};
use crate::database::{Charge, Word};

/// dre-mysql and the server behind it.
#[derive(Debug, Default)]
pub(super) struct Server {
    stream: u64,
    open: bool,
    /// The newest term in which it was made to take writes.
    writable: u64,
    /// Counts charges: what is done for an earlier one is told to nobody.
    charge: u64,
    /// A stream keeps its order.
    order: u64,
}

impl World {
    /// The agent hears the election.
    pub(super) fn charge(&mut self, node: usize, charge: Charge) {
        let (took, word) = match charge {
            Charge::Until { .. } | Charge::Peer { .. } => return,
            // In peace it succeeds; a lag to be applied may take seconds.
            Charge::Promote { term, .. } => {
                let fails = self.healed_at.is_none() && self.rng.chance(15);
                let word = if fails {
                    Word::Failed { term, reason: "no space left".into() }
                } else {
                    Word::Writable { term }
                };
                (if self.rng.chance(20) { self.rng.between(1, 1500) } else { self.rng.between(1, 40) }, word)
            }
            // Some are never answered: a server that hangs, and an agent that waits for it.
            Charge::Demote { serial, .. } => {
                let took = if self.rng.chance(10) { 10_000 } else { self.rng.between(1, 300) };
                (took, Word::Demoted { serial, clean: true })
            }
        };
        let server = &mut self.machines[node].server;
        server.charge += 1;
        let (charge, stream) = (server.charge, server.stream);
        self.at(self.now + took * MS, Happening::ServerDone { node, stream, charge, word });
    }

    pub(super) fn server_done(&mut self, node: usize, stream: u64, charge: u64, word: Word) {
        let machine = &mut self.machines[node];
        if !machine.powered || machine.server.stream != stream || machine.server.charge != charge {
            return;
        }
        // A demotion takes it away again, but an order that lay in a dre-vip that stood still may open the gate after that, within the
        // lease and for a moment: its clients are refused.
        if let Word::Writable { term } = word {
            machine.server.writable = term;
        }
        self.server_says(node, word);
    }

    pub(super) fn server_says(&mut self, node: usize, word: Word) {
        let when = self.now + self.rng.between(20_000, 100_000);
        let server = &mut self.machines[node].server;
        server.order = server.order.max(when);
        let (at, stream) = (server.order, server.stream);
        self.at(at, Happening::ServerSays { node, stream, word });
    }

    pub(super) fn server_said(&mut self, node: usize, stream: u64, word: Word) {
        if self.machines[node].server.stream == stream && self.machines[node].server.open {
            self.input(node, Input::Word(word));
        }
    }

    pub(super) fn server_connects(&mut self, node: usize, incarnation: u64) {
        let machine = &self.machines[node];
        if !self.profile.database || machine.incarnation != incarnation || machine.server.open {
            return;
        }
        if !self.elect_runs(node) {
            self.at(self.now + 50 * MS, Happening::ServerConnects { node, incarnation });
            return;
        }
        let server = &mut self.machines[node].server;
        server.stream += 1;
        server.open = true;
        self.input(node, Input::DatabaseStream(true));
        self.server_says(node, Word::Fit { why_not: None });
    }

    /// The agent is killed, the server goes on as it was.
    pub(super) fn kill_agent(&mut self, node: usize) {
        let was_open = std::mem::take(&mut self.machines[node].server.open);
        if was_open {
            self.note(|| format!("node {node}: dre-mysql killed"));
            self.machines[node].server.stream += 1;
            self.input(node, Input::DatabaseStream(false));
            let incarnation = self.machines[node].incarnation;
            let when = self.now + self.rng.between(20, 400) * MS;
            self.at(when, Happening::ServerConnects { node, incarnation });
        }
    }

    /// The stream ends with the election process, or the machine.
    pub(super) fn server_left_alone(&mut self, node: usize, machine_too: bool) {
        let server = &mut self.machines[node].server;
        server.open = false;
        server.stream += 1;
        if machine_too {
            server.writable = 0;
        }
    }

    /// The gate was opened for a new term.
    pub(super) fn opened(&mut self, node: usize, term: u64) {
        if self.profile.database && self.machines[node].server.writable != term {
            self.wrong("the gate opens before the server takes writes");
        }
    }
}
