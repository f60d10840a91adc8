//! What of a set must be the same on both nodes, as a number to compare.
//!
//! That is what decides which files are the same and how they travel. Not in it, because each node may have its own: the
//! root, `validate`, `apply`, `publish`.

use sha2::{Digest, Sha256};

use super::raw::Set;
use crate::config::raw::At;

/// Comments and the order of keys, of globs and of names do not matter; every value does.
pub fn of(name: &str, set: &Set, encrypt: bool, rsync_port: u16) -> [u8; 32] {
    let mut whole = Sha256::new();
    whole.update(b"dre rules set v1\n");
    let mut part = |word: &str, mut values: Vec<String>| {
        values.sort();
        values.dedup();
        // Each with its length: no two lists are written alike.
        whole.update(format!("{word} {}\n", values.len()));
        for value in values {
            whole.update(format!("{}:{value}\n", value.len()));
        }
    };
    let list = |list: &Option<Vec<At<String>>>| list.iter().flatten().map(|at| at.value.clone()).collect();
    part("name", vec![name.to_owned()]);
    part("include", list(&set.include));
    part("exclude", list(&set.exclude));
    let owner = |o: &super::raw::Owner| format!("{:?}:{:?}={:?}", o.node.value, o.name.value, o.here.value);
    part("owners", set.owners.iter().flatten().map(owner).collect());
    part("links_outside", vec![set.links_outside.unwrap_or(false).to_string()]);
    let content = if encrypt { "encrypted".into() } else { format!("rsync {rsync_port}") };
    part("content", vec![content]);
    whole.finalize().into()
}
