//! A hosts file: which addresses have which names.

use std::net::IpAddr;

use super::numbered;

pub struct Line {
    pub line: usize,
    pub address: IpAddr,
    names: Vec<String>,
}

/// The lines that name an address of a network. One that is no address is the resolver's matter, as it always was.
pub fn read(text: &str) -> Vec<Line> {
    let mut lines = vec![];
    for (line, text) in numbered(text) {
        let text = text.split('#').next().unwrap_or_default();
        let mut words = text.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        // Debian names the machine itself by one: that is no way to it.
        if !address.is_loopback() && !address.is_unspecified() {
            lines.push(Line { line, address, names: words.map(str::to_lowercase).collect() });
        }
    }
    lines
}

impl Line {
    /// One of the names is `name`, with or without a domain.
    pub fn is(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.names.iter().any(|own| *own == name || own.split('.').next() == Some(&name))
    }

    /// One of the names says which node and which interface: `hadev1-eth3`, `eth3-hadev1`; `_` and `.` join too.
    pub fn is_on(&self, node: &str, interface: &str) -> bool {
        ["-", "_", "."].iter().any(|join| {
            self.is(&format!("{node}{join}{interface}")) || self.is(&format!("{interface}{join}{node}"))
        })
    }

    /// One of the names is the node's, or begins with it: `hadev1`, `hadev1-hb`, `hadev1.site`.
    pub fn belongs_to(&self, node: &str) -> bool {
        let node = node.to_lowercase();
        let joined = |rest: &str| rest.is_empty() || rest.starts_with(|c: char| !c.is_alphanumeric());
        self.names.iter().any(|own| own.strip_prefix(&node).is_some_and(joined))
    }
}
