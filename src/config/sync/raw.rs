//! `sync.toml` as it is written; nothing is believed yet. Every value knows its place.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::config::error::{Error, Place};
use crate::config::raw::{At, at, read_toml};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    transfer: TransferToml,
    set: BTreeMap<Spanned<String>, SetToml>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TransferToml {
    port: Option<Spanned<u64>>,
    rsync_port: Option<Spanned<u64>>,
    encrypt: Option<Spanned<bool>>,
}

type Owners = BTreeMap<Spanned<String>, BTreeMap<Spanned<String>, Spanned<String>>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SetToml {
    root: Option<Spanned<String>>,
    include: Option<Vec<Spanned<String>>>,
    exclude: Option<Vec<Spanned<String>>>,
    owners: Option<Owners>,
    validate: Option<Spanned<Vec<Spanned<String>>>>,
    validate_timeout_ms: Option<Spanned<u64>>,
    apply: Option<Spanned<Vec<Spanned<String>>>>,
    apply_every_ms: Option<Spanned<u64>>,
    publish: Option<Spanned<String>>,
    links_outside: Option<bool>,
}

/// All sources laid over each other.
#[derive(Debug, Default)]
pub struct Raw {
    pub port: Option<At<u64>>,
    pub rsync_port: Option<At<u64>>,
    pub encrypt: Option<bool>,
    pub sets: BTreeMap<String, Set>,
}

#[derive(Debug)]
pub struct Set {
    /// Of its name, where it was first written.
    pub place: Place,
    pub root: Option<At<String>>,
    pub include: Option<Vec<At<String>>>,
    pub exclude: Option<Vec<At<String>>>,
    pub owners: Option<Vec<Owner>>,
    pub validate: Option<At<Vec<At<String>>>>,
    pub validate_timeout_ms: Option<At<u64>>,
    pub apply: Option<At<Vec<At<String>>>>,
    pub apply_every_ms: Option<At<u64>>,
    pub publish: Option<At<String>>,
    pub links_outside: Option<bool>,
}

/// On `node`, what the set calls `name` is called `here`.
#[derive(Debug)]
pub struct Owner {
    pub node: At<String>,
    pub name: At<String>,
    pub here: At<String>,
}

/// One source. A text that is no TOML, or has a key that does not exist, is refused with its place.
pub fn read(path: &Path, text: &str) -> Result<Raw, Error> {
    let file: File = read_toml(path, text, "sync.toml")?;
    let list = |items: Vec<Spanned<String>>| items.into_iter().map(|item| at(path, item)).collect::<Vec<_>>();
    let command = |words: Spanned<Vec<Spanned<String>>>| {
        let all = at(path, words);
        At { value: list(all.value), place: all.place }
    };
    let owners = |owners: Owners| {
        let nodes = owners.into_iter().map(|(node, names)| (at(path, node), names));
        nodes
            .flat_map(|(node, names)| {
                names.into_iter().map(move |(name, here)| Owner {
                    node: node.clone(),
                    name: at(path, name),
                    here: at(path, here),
                })
            })
            .collect::<Vec<_>>()
    };
    let set = |(name, set): (Spanned<String>, SetToml)| {
        let name = at(path, name);
        let set = Set {
            place: name.place,
            root: set.root.map(|root| at(path, root)),
            include: set.include.map(list),
            exclude: set.exclude.map(list),
            owners: set.owners.map(owners),
            validate: set.validate.map(command),
            validate_timeout_ms: set.validate_timeout_ms.map(|ms| at(path, ms)),
            apply: set.apply.map(command),
            apply_every_ms: set.apply_every_ms.map(|ms| at(path, ms)),
            publish: set.publish.map(|word| at(path, word)),
            links_outside: set.links_outside,
        };
        (name.value, set)
    };
    Ok(Raw {
        port: file.transfer.port.map(|port| at(path, port)),
        rsync_port: file.transfer.rsync_port.map(|port| at(path, port)),
        encrypt: file.transfer.encrypt.map(Spanned::into_inner),
        sets: file.set.into_iter().map(set).collect(),
    })
}

impl Raw {
    /// A drop-in over what came before: values are replaced one by one, sets are added.
    pub fn overlay(&mut self, other: Self) {
        fn over<T>(mine: &mut Option<T>, theirs: Option<T>) {
            if theirs.is_some() {
                *mine = theirs;
            }
        }
        over(&mut self.port, other.port);
        over(&mut self.rsync_port, other.rsync_port);
        over(&mut self.encrypt, other.encrypt);
        for (name, theirs) in other.sets {
            let Some(mine) = self.sets.get_mut(&name) else {
                self.sets.insert(name, theirs);
                continue;
            };
            over(&mut mine.root, theirs.root);
            over(&mut mine.include, theirs.include);
            over(&mut mine.exclude, theirs.exclude);
            over(&mut mine.owners, theirs.owners);
            over(&mut mine.validate, theirs.validate);
            over(&mut mine.validate_timeout_ms, theirs.validate_timeout_ms);
            over(&mut mine.apply, theirs.apply);
            over(&mut mine.apply_every_ms, theirs.apply_every_ms);
            over(&mut mine.publish, theirs.publish);
            over(&mut mine.links_outside, theirs.links_outside);
        }
    }
}
