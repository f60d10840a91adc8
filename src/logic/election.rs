//! Who may be active: the rules of the election, and nothing else.
//!
//! ```text
//!     peer lost, peer yields, nobody active, operator takes      lease granted
//!   Standby ──────────────────────────────────────▶ Claiming ─────────────▶ Active
//!     ▲  ▲                                              │                      │
//!     │  └──────────────────────────────────────────────┘       isolated, unfit, switchover, …
//!     │              claim moot, claim lapsed                                  ▼
//!     └──────────────────────────────────────────────────────────────────── Releasing ◀── start
//!                                  services down
//! ```
//!
//! [`decide`] sees facts of this moment and has no history: whatever the order of events, the same facts
//! give the same rule. So the whole input space is finite and is enumerated in the tests below.
//!
//! Invariant: the gate opens only in Active, and Active is entered only by [`Rule::LeaseGranted`].
//!
//! Absent on purpose: where the facts come from (`node`), clocks, sockets, logging.

use super::wire::{Role, Wish};

/// The peer as the rules see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// Nothing heard for D, and every promise given to it has run out.
    Lost,
    /// Something verified was heard, but not that it hears us; or a promise still runs.
    Unproven,
    /// Heard: its role, whether it is ready to be active, what it wishes.
    In { role: Role, ready: bool, wish: Wish },
}

/// What one node sees at one moment: all that the rules may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    pub peer: Peer,
    /// Two of three votes are held now.
    pub lease: bool,
    /// With the peer lost: the arbitrator answers, the wire is quiet, the startup hold is over.
    pub alone: bool,
    pub fit: bool,
    /// The operator told this node to stay out of it (`systemctl stop dre-active.target`).
    pub held_back: bool,
    pub wish: Wish,
    /// Takes the role when both are free: preferred, or (no preference) the smaller name.
    pub first: bool,
    /// The peer's term is higher, or equal and it is the first.
    pub outranked: bool,
    /// The gate is shut and the services of the role are down.
    pub settled: bool,
    /// dre.service is being stopped, or the machine shut down.
    pub stopping: bool,
    /// The gate ran out while only an arbitrator stood for the lease: the peer may have found the wire quiet.
    pub lapsed: bool,
    /// This turn came so late that the node must have been paused.
    pub late: bool,
    /// The claim has waited for D without a lease.
    pub claim_over: bool,
}

/// Why a role changes; spelt the same in the journal, `drectl` and the README.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// The process started: as if it had been active.
    Started,
    /// The peer is lost, the arbitrator answers, the wire is quiet.
    PeerLost,
    /// The peer gave the role away.
    PeerYields,
    /// Both are free; this one takes it.
    NobodyActive,
    /// The operator asked for it here.
    OperatorTakes,
    /// Two of three votes.
    LeaseGranted,
    /// The peer is active, or its claim goes first, or this node may no longer claim.
    ClaimMoot,
    /// No lease within D.
    ClaimLapsed,
    /// Neither the peer nor an arbitrator renewed the lease.
    Isolated,
    /// The node itself stood still longer than its lease.
    OwnPause,
    /// The gate ran out (dre-vip killed or stuck) while the peer was lost: it may have taken over.
    GateLapsed,
    /// Two were active; this one yields.
    BothActive,
    /// A fit peer takes over from this unfit node.
    Unfit,
    /// Asked for by the operator, here or at the peer.
    Switchover,
    /// The operator stopped the role here.
    OperatorReleases,
    /// dre.service stops, or the machine.
    Stopped,
    /// Gate shut, services down: the role is free.
    ServicesDown,
}

impl Rule {
    pub const ALL: [Self; 17] = [
        Self::Started,
        Self::PeerLost,
        Self::PeerYields,
        Self::NobodyActive,
        Self::OperatorTakes,
        Self::LeaseGranted,
        Self::ClaimMoot,
        Self::ClaimLapsed,
        Self::Isolated,
        Self::OwnPause,
        Self::GateLapsed,
        Self::BothActive,
        Self::Unfit,
        Self::Switchover,
        Self::OperatorReleases,
        Self::Stopped,
        Self::ServicesDown,
    ];

    pub const fn word(self) -> &'static str {
        match self {
            Self::Started => "Started",
            Self::PeerLost => "PeerLost",
            Self::PeerYields => "PeerYields",
            Self::NobodyActive => "NobodyActive",
            Self::OperatorTakes => "OperatorTakes",
            Self::LeaseGranted => "LeaseGranted",
            Self::ClaimMoot => "ClaimMoot",
            Self::ClaimLapsed => "ClaimLapsed",
            Self::Isolated => "Isolated",
            Self::OwnPause => "OwnPause",
            Self::GateLapsed => "GateLapsed",
            Self::BothActive => "BothActive",
            Self::Unfit => "Unfit",
            Self::Switchover => "Switchover",
            Self::OperatorReleases => "OperatorReleases",
            Self::Stopped => "Stopped",
            Self::ServicesDown => "ServicesDown",
        }
    }

    /// Where the rule leads.
    pub const fn leads_to(self) -> Role {
        match self {
            Self::PeerLost | Self::PeerYields | Self::NobodyActive | Self::OperatorTakes => Role::Claiming,
            Self::LeaseGranted => Role::Active,
            Self::Started
            | Self::Isolated
            | Self::OwnPause
            | Self::GateLapsed
            | Self::BothActive
            | Self::Unfit
            | Self::Switchover
            | Self::OperatorReleases
            | Self::Stopped => Role::Releasing,
            Self::ClaimMoot | Self::ClaimLapsed | Self::ServicesDown => Role::Standby,
        }
    }
}

/// Which rule fires. The first line that holds decides; `None` means stay.
pub fn decide(role: Role, see: &View) -> Option<Rule> {
    let ready = matches!(see.peer, Peer::In { role: Role::Standby, ready: true, .. });
    let peer_takes = matches!(see.peer, Peer::In { wish: Wish::Take, .. });
    let peer_active = matches!(see.peer, Peer::In { role: Role::Active, .. });
    let peer_claims = matches!(see.peer, Peer::In { role: Role::Claiming, .. });
    match role {
        // An unfit node never claims, not even as the last one standing: a service that answers
        // wrongly is worse than one that does not answer.
        Role::Standby if see.stopping || see.held_back || !see.fit => None,
        Role::Standby => match see.peer {
            Peer::Lost if see.alone => Some(Rule::PeerLost),
            Peer::Lost | Peer::Unproven => None,
            Peer::In { role: Role::Standby, ready, wish } => match (see.wish, wish) {
                (Wish::Take, Wish::Take) if !see.first => None,
                (Wish::Take, _) => Some(Rule::OperatorTakes),
                (_, Wish::Take) if ready => None,
                (Wish::None, Wish::Yield) => Some(Rule::PeerYields),
                (Wish::Yield, _) if ready => None,
                (_, _) if !ready || see.first => Some(Rule::NobodyActive),
                (_, _) => None,
            },
            Peer::In { .. } => None,
        },

        Role::Claiming if see.stopping || see.held_back || !see.fit => Some(Rule::ClaimMoot),
        Role::Claiming if peer_active => Some(Rule::ClaimMoot),
        Role::Claiming if peer_claims && see.outranked => Some(Rule::ClaimMoot),
        Role::Claiming if see.lease => Some(Rule::LeaseGranted),
        Role::Claiming if see.claim_over => Some(Rule::ClaimLapsed),
        Role::Claiming => None,

        // The lease outranks everything: without it nothing may answer.
        Role::Active if !see.lease && see.late => Some(Rule::OwnPause),
        Role::Active if !see.lease => Some(Rule::Isolated),
        Role::Active if see.lapsed => Some(Rule::GateLapsed),
        Role::Active if peer_active && see.outranked => Some(Rule::BothActive),
        Role::Active if see.stopping => Some(Rule::Stopped),
        Role::Active if see.held_back => Some(Rule::OperatorReleases),
        Role::Active if ready && (see.wish == Wish::Yield || peer_takes) => Some(Rule::Switchover),
        Role::Active if ready && !see.fit => Some(Rule::Unfit),
        Role::Active => None,

        Role::Releasing if see.settled => Some(Rule::ServicesDown),
        Role::Releasing => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn peers() -> Vec<Peer> {
        let mut all = vec![Peer::Lost, Peer::Unproven];
        for role in Role::ALL {
            for ready in [false, true] {
                for wish in [Wish::None, Wish::Take, Wish::Yield] {
                    all.push(Peer::In { role, ready, wish });
                }
            }
        }
        all
    }

    fn views() -> impl Iterator<Item = View> {
        peers().into_iter().flat_map(|peer| {
            [Wish::None, Wish::Take, Wish::Yield].into_iter().flat_map(move |wish| {
                (0..2048_u32).map(move |bits| {
                    let bit = |n: u32| bits & (1 << n) != 0;
                    View {
                        peer,
                        wish,
                        lease: bit(0),
                        alone: bit(1),
                        fit: bit(2),
                        held_back: bit(3),
                        first: bit(4),
                        outranked: bit(5),
                        settled: bit(6),
                        stopping: bit(7),
                        late: bit(8),
                        claim_over: bit(9),
                        lapsed: bit(10),
                    }
                })
            })
        })
    }

    /// All 638,976 things a node can be and see, one by one.
    #[test]
    fn no_view_breaks_an_invariant() {
        every_view_holds(decide);
    }

    /// The same of any other `decide`.
    pub(in crate::logic) fn every_view_holds(decide: impl Fn(Role, &View) -> Option<Rule>) {
        let mut fired = std::collections::BTreeSet::new();
        let mut count = 0;
        for see in views() {
            for role in Role::ALL {
                count += 1;
                let rule = decide(role, &see);
                let why = || format!("{role:?} {rule:?} {see:?}");
                fired.extend(rule);
                let after = rule.map_or(role, Rule::leads_to);
                // Only a held lease makes a node active, and only it keeps one so.
                if after == Role::Active {
                    assert!(see.lease, "active without a lease: {}", why());
                }
                // Active is entered from Claiming alone, left to Releasing alone.
                if rule == Some(Rule::LeaseGranted) {
                    assert_eq!(role, Role::Claiming, "{}", why());
                }
                if role == Role::Active && rule.is_some() {
                    assert_eq!(after, Role::Releasing, "{}", why());
                }
                // A gate that ran out alone is never taken for an open one again.
                if role == Role::Active && see.lapsed {
                    assert_eq!(after, Role::Releasing, "goes on with a gate that lapsed: {}", why());
                }
                // The role is free only when nothing answers and nothing runs.
                if role == Role::Releasing && after != Role::Releasing {
                    assert!(see.settled, "free before settled: {}", why());
                }
                // A claim needs a fit node that is not told to stay out, and a peer that is heard to be
                // standby, or lost with the evidence complete.
                if role == Role::Standby && rule.is_some() {
                    assert_eq!(after, Role::Claiming, "{}", why());
                    assert!(see.fit && !see.held_back && !see.stopping, "{}", why());
                    match see.peer {
                        Peer::Lost => assert!(see.alone, "{}", why()),
                        Peer::Unproven => panic!("claims against an unproven peer: {}", why()),
                        Peer::In { role, .. } => assert_eq!(role, Role::Standby, "{}", why()),
                    }
                }
                // An active node gives the role away of its own accord only to a peer that is ready.
                if matches!(rule, Some(Rule::Switchover | Rule::Unfit)) {
                    assert!(
                        matches!(see.peer, Peer::In { role: Role::Standby, ready: true, .. }),
                        "{}",
                        why()
                    );
                }
                assert_ne!(rule, Some(Rule::Started), "{}", why());
            }
        }
        assert_eq!(count, 638_976);
        // Every rule but the first one's can fire: none is dead.
        assert_eq!(fired.len(), Rule::ALL.len() - 1, "{fired:?}");
    }

    /// The two nodes' views of each other, all combinations in which both are fit standbys that hear each other
    /// and nobody wishes anything: exactly one claims.
    #[test]
    fn of_two_free_nodes_exactly_one_claims() {
        for a_wish in [Wish::None, Wish::Take, Wish::Yield] {
            for b_wish in [Wish::None, Wish::Take, Wish::Yield] {
                for a_first in [false, true] {
                    let view = |own, other: Wish, first| View {
                        // A node that yields is not ready for the other.
                        peer: Peer::In { role: Role::Standby, ready: other != Wish::Yield, wish: other },
                        lease: false,
                        alone: false,
                        fit: true,
                        held_back: false,
                        wish: own,
                        first,
                        outranked: false,
                        settled: true,
                        stopping: false,
                        late: false,
                        lapsed: false,
                        claim_over: false,
                    };
                    let a = decide(Role::Standby, &view(a_wish, b_wish, a_first));
                    let b = decide(Role::Standby, &view(b_wish, a_wish, !a_first));
                    let claims = usize::from(a.is_some()) + usize::from(b.is_some());
                    // Two that both yield both try, and the lower term or the first prevails.
                    let both_yield = a_wish == Wish::Yield && b_wish == Wish::Yield;
                    assert_eq!(
                        claims,
                        1 + usize::from(both_yield),
                        "{a_wish:?} {b_wish:?} {a_first} {a:?} {b:?}"
                    );
                }
            }
        }
    }
}
