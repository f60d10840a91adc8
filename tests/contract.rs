//! The JSON of `drectl status --json` is a contract: other tools are built on it. Fields may be added, never renamed.

use dre::snapshot::{Alarm, Arbitrator, Link, Rejected, Service, Status, Takeover};
use serde_json::Value;

/// The design's own example, letter by letter.
const EXAMPLE: &str = r#"
{"group":"dre","node":"hadev1","role":"active","term":7,"since":"2026-11-23T14:02:11Z","rule":"PeerLost",
 "lease":{"held":true,"left_ms":412,"by":"peer"},
 "peer":{"node":"hadev2","state":"heard","role":"standby","fit":true,"heard_ms":12},
 "links":[{"name":"primary","up":true,"rtt_us":180,"loss_pct":0.0},{"name":"secondary","up":true,"rtt_us":190,"loss_pct":0.0}],
 "arbitrator":{"address":"172.16.8.250","reachable":true,"rtt_us":310},
 "vips":{"wanted":2,"held":2,"announced":2,"gate":"open"},
 "services":[{"unit":"diameter.service","state":"active"}],"fit":true,"maintenance":false,"alarms":[]}
"#;

/// What was added since, with the values of an empty status: equally promised from the day it was published.
const ADDED: &str = r#"
{"unfit_because":[],"reached":"","standalone":false,"version":"","links":[{"state":"","measured":""}],
 "alarms":[{"name":"","subject":"","text":"","since":""}],"services":[{"role":""}],
 "rejected":[{"reason":"","count":0}],
 "last_takeover":{"here":false,"gap_us":0,"at":"","rule":""}}
"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Everything `wanted` names is in `found`, of the same type; of a list, in its every element.
fn covers(wanted: &Value, found: &Value, at: &str, missing: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            for (name, value) in wanted {
                match found.get(name) {
                    None => missing.push(format!("{at}.{name} is gone")),
                    Some(there) => covers(value, there, &format!("{at}.{name}"), missing),
                }
            }
        }
        (Value::Array(wanted), Value::Array(found)) => {
            let Some(wanted) = wanted.first() else { return };
            if found.is_empty() {
                missing.push(format!("{at} is empty"));
            }
            for there in found {
                covers(wanted, there, &format!("{at}[]"), missing);
            }
        }
        (Value::Number(wanted), Value::Number(found)) if wanted.is_f64() != found.is_f64() => {
            missing.push(format!("{at} is {found}, not of the type of {wanted}"));
        }
        (wanted, found) if std::mem::discriminant(wanted) == std::mem::discriminant(found) => {}
        (wanted, found) => missing.push(format!("{at} is {found}, not of the type of {wanted}")),
    }
}

/// A status of defaults, with one of everything that may be there or not.
fn whole() -> Status {
    Status {
        links: vec![Link::default()],
        arbitrator: Some(Arbitrator::default()),
        services: vec![Service::default()],
        alarms: vec![Alarm::default()],
        last_takeover: Some(Takeover::default()),
        rejected: vec![Rejected::default()],
        ..Status::default()
    }
}

#[test]
fn no_field_of_the_contract_is_renamed_or_of_another_type() {
    let found = serde_json::to_value(whole()).expect("serialises");
    let mut missing = vec![];
    for contract in [EXAMPLE, ADDED] {
        covers(&json(contract), &found, "status", &mut missing);
    }
    assert!(missing.is_empty(), "{missing:#?}");
    // And nothing is published that this file does not hold to its promise.
    let mut unpromised = vec![];
    let both = merged(json(EXAMPLE), json(ADDED));
    covers(&found, &both, "contract", &mut unpromised);
    assert!(unpromised.is_empty(), "add to ADDED: {unpromised:#?}");
}

/// Objects joined, lists joined by their first elements.
fn merged(one: Value, two: Value) -> Value {
    match (one, two) {
        (Value::Object(mut one), Value::Object(two)) => {
            for (name, value) in two {
                let value = match one.remove(&name) {
                    Some(there) => merged(there, value),
                    None => value,
                };
                one.insert(name, value);
            }
            Value::Object(one)
        }
        (Value::Array(one), Value::Array(two)) => match (one.into_iter().next(), two.into_iter().next()) {
            (Some(one), Some(two)) => Value::Array(vec![merged(one, two)]),
            (one, two) => Value::Array(one.into_iter().chain(two).collect()),
        },
        (one, _) => one,
    }
}

/// The example says what it says: read and written again, each of its values is still there.
#[test]
fn the_example_survives_being_read() {
    let read: Status = serde_json::from_str(EXAMPLE).expect("the example is a status");
    let written = serde_json::to_value(&read).expect("serialises");
    let Value::Object(example) = json(EXAMPLE) else { unreachable!("an object") };
    for (name, value) in example {
        let there = &written[&name];
        match (&value, there) {
            (Value::Array(wanted), Value::Array(found)) => {
                assert_eq!(wanted.len(), found.len(), "{name}");
                for (wanted, found) in wanted.iter().zip(found) {
                    contains(wanted, found, &name);
                }
            }
            _ => contains(&value, there, &name),
        }
    }
}

fn contains(wanted: &Value, found: &Value, at: &str) {
    let Value::Object(wanted) = wanted else { return assert_eq!(wanted, found, "{at}") };
    for (name, value) in wanted {
        assert_eq!(value, &found[name], "{at}.{name}");
    }
}

/// A reader of today reads what a daemon of tomorrow adds.
#[test]
fn a_field_that_is_not_known_is_no_error() {
    let with_more = EXAMPLE.replacen("{\"group\"", "{\"later\":{\"x\":1},\"group\"", 1);
    let read: Status = serde_json::from_str(&with_more).expect("read");
    assert_eq!((read.node.as_str(), read.term), ("hadev1", 7));
}
