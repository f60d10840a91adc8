//! Six bugs put in on purpose, and which layer of tests notices each: a net that catches nothing proves nothing.
//!
//! - **tables**: the stories of `node/tests.rs`, told with the bug;
//! - **enumeration**: every view of `election.rs`, decided by rules that have the bug. It judges the rules alone: where the
//!   fact itself comes out wrong (a moment counted from the wrong end, a promise not kept) there is nothing for it to see;
//! - **simulation**: dozens of seeds of the pair with the bug in both nodes.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

use super::election::tests::every_view_holds;
use super::election::{View, decide};
use super::node::Planted;
use super::node::tests::{PLANT, TABLES};
use super::sim::tests::stories_gone_wrong;

/// The bug as rules would have it that do not look where they must; `None`: it is none of the rules'.
fn blinded(planted: Planted) -> Option<fn(&mut View)> {
    match planted {
        Planted::FreeBeforeShut => Some(|see| see.settled = true),
        Planted::NoEvidence => Some(|see| see.alone = true),
        Planted::GateReopens => Some(|see| see.lapsed = false),
        Planted::Nothing | Planted::LeaseFromAnswer | Planted::NoPromise | Planted::SpanOfTheAnswer => None,
    }
}

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether it panics, without the words of it: here a panic is what is asked for.
pub(in crate::logic) fn fails(test: impl FnOnce() + panic::UnwindSafe) -> bool {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                usual(info);
            }
        }));
    });
    EXPECTED.set(true);
    let failed = panic::catch_unwind(test).is_err();
    EXPECTED.set(false);
    failed
}

fn tables_that_fail(planted: Planted) -> Vec<&'static str> {
    PLANT.set(planted);
    let failed = TABLES.iter().filter(|(_, table)| fails(*table)).map(|(name, _)| *name).collect();
    PLANT.set(Planted::Nothing);
    failed
}

fn enumeration_fails(blind: Option<fn(&mut View)>) -> bool {
    blind.is_some_and(|blind| {
        fails(move || {
            every_view_holds(|role, see| {
                let mut seen = *see;
                blind(&mut seen);
                decide(role, &seen)
            });
        })
    })
}

/// Run it with `--nocapture` to read which layer caught which.
#[test]
fn every_planted_bug_is_caught_and_here_is_where() {
    assert!(tables_that_fail(Planted::Nothing).is_empty() && !enumeration_fails(Some(|_| ())));
    println!("{:<16} | {:<11} | {:<10} | tables", "planted bug", "enumeration", "simulation");
    let mut caught_by = [0; 3];
    for planted in [
        Planted::LeaseFromAnswer,
        Planted::FreeBeforeShut,
        Planted::NoEvidence,
        Planted::NoPromise,
        Planted::GateReopens,
        Planted::SpanOfTheAnswer,
    ] {
        let tables = tables_that_fail(planted);
        let enumeration = enumeration_fails(blinded(planted));
        let (stories, told) = stories_gone_wrong(planted);
        println!(
            "{:<16} | {:<11} | {:<10} | {}",
            format!("{planted:?}"),
            if enumeration { "caught" } else { "-" },
            if stories > 0 { format!("{stories} of {told}") } else { "-".into() },
            if tables.is_empty() { "-".into() } else { tables.join(", ") },
        );
        for (layer, caught) in caught_by.iter_mut().zip([!tables.is_empty(), enumeration, stories > 0]) {
            *layer += usize::from(caught);
        }
        assert!(stories > 0, "{planted:?}: the simulation did not notice");
    }
    assert!(caught_by.iter().all(|caught| *caught > 0), "a layer caught nothing: {caught_by:?}");
}
