//! Which address a node has on a heartbeat interface. dre speaks from address to address, where Heartbeat may only have been told
//! an interface: what `ucast` lines, the hosts file and this machine's own interfaces say together.

use std::net::IpAddr;

use ipnet::IpNet;

use super::ha_cf::{HaCf, Medium};
use super::hosts::Line;
use super::resources::Resources;
use super::{Given, Told};

/// A heartbeat path: one interface, whatever number of lines speak of it.
pub struct Path<'a> {
    pub interface: &'a str,
    pub media: Vec<&'a Told<Medium>>,
    /// In the order of the nodes.
    pub ends: [Option<End>; 2],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub address: IpAddr,
    /// From where it is known.
    pub from: String,
}

/// The paths, in the order of the file.
pub fn paths<'a>(given: &Given, ha_cf: &'a HaCf, resources: &Resources, hosts: &[Line]) -> Vec<Path<'a>> {
    let mut paths: Vec<Path> = vec![];
    for medium in &ha_cf.media {
        let interface = medium.value.interface.as_str();
        match paths.iter_mut().find(|path| path.interface == interface) {
            Some(path) => path.media.push(medium),
            None => paths.push(Path { interface, media: vec![medium], ends: [None, None] }),
        }
    }
    let [one, other] = ha_cf.nodes.as_slice() else { return paths };
    let nodes = [one.value.as_str(), other.value.as_str()];
    let known =
        Known { given, nodes, hosts, vips: resources.vips.iter().map(|vip| vip.value.address).collect() };
    for path in &mut paths {
        known.ucast(path);
        for (node, end) in path.ends.iter_mut().enumerate() {
            if end.is_none() {
                *end = known.by_name(node, path.interface).or_else(|| known.here(node, path.interface));
            }
        }
        for node in 0..2 {
            if path.ends[node].is_none() {
                path.ends[node] = known.by_network(node, path.interface, path.ends[1 - node].as_ref());
            }
        }
    }
    paths
}

struct Known<'a> {
    given: &'a Given,
    nodes: [&'a str; 2],
    hosts: &'a [Line],
    vips: Vec<IpAddr>,
}

impl Known<'_> {
    /// This machine is that node.
    fn is_here(&self, node: usize) -> bool {
        self.nodes[node].eq_ignore_ascii_case(&self.given.host)
    }

    fn own(&self, interface: &str) -> &[IpNet] {
        self.given.facts.interfaces.get(interface).map_or(&[], Vec::as_slice)
    }

    fn end(&self, line: &Line) -> End {
        let file = self.given.hosts.as_ref().map_or("", |hosts| hosts.file.as_str());
        End { address: line.address, from: format!("{file}:{}", line.line) }
    }

    /// Whose address it is, as the hosts file or this machine knows it.
    fn owner(&self, address: IpAddr, interface: &str) -> Option<usize> {
        let named = |node: usize| {
            self.hosts.iter().any(|line| line.address == address && line.belongs_to(self.nodes[node]))
        };
        let carried =
            |node: usize| self.is_here(node) && self.own(interface).iter().any(|net| net.addr() == address);
        let mut owners = (0..2).filter(|node| named(*node) || carried(*node));
        let first = owners.next();
        first.filter(|_| owners.next().is_none())
    }

    /// `ucast`: a file that is the same on both nodes has a line for each; else the one line is the way to the peer.
    fn ucast(&self, path: &mut Path) {
        let mut told: Vec<(IpAddr, String)> = vec![];
        for medium in &path.media {
            if let Some(to) = medium.value.to.filter(|to| !told.iter().any(|(other, _)| other == to)) {
                told.push((to, format!("{}:{}", self.given.ha_cf.file, medium.spot.1)));
            }
        }
        let owners: Vec<Option<usize>> =
            told.iter().map(|(address, _)| self.owner(*address, path.interface)).collect();
        let mut ends: [Option<usize>; 2] = [None, None];
        for (n, owner) in owners.iter().enumerate() {
            if let Some(node) = *owner
                && ends[node].is_none()
            {
                ends[node] = Some(n);
            }
        }
        match (told.len(), ends) {
            // Of two whose one is known the other is the other's.
            (2, [Some(n), None]) => ends[1] = Some(1 - n),
            (2, [None, Some(n)]) => ends[0] = Some(1 - n),
            // This machine's file, and the address is not its own.
            (1, [None, None]) => match (0..2).find(|node| self.is_here(*node)) {
                Some(here) if self.own(path.interface).iter().any(|net| net.contains(&told[0].0)) => {
                    ends[1 - here] = Some(0);
                }
                _ => {}
            },
            _ => {}
        }
        for (end, n) in path.ends.iter_mut().zip(ends) {
            *end = n
                .and_then(|n| told.get(n))
                .map(|(address, from)| End { address: *address, from: from.clone() });
        }
    }

    /// `hadev1-eth3` in the hosts file.
    fn by_name(&self, node: usize, interface: &str) -> Option<End> {
        let line = self.hosts.iter().find(|line| line.is_on(self.nodes[node], interface))?;
        Some(self.end(line))
    }

    /// This machine's own address there; not one that a takeover brought.
    fn here(&self, node: usize, interface: &str) -> Option<End> {
        let usable = |net: &&IpNet| match net.addr() {
            IpAddr::V4(ip) => !self.vips.contains(&IpAddr::V4(ip)),
            // It would need the interface's name beside it.
            IpAddr::V6(ip) => !self.vips.contains(&IpAddr::V6(ip)) && !ip.is_unicast_link_local(),
        };
        let own = self.own(interface).iter().filter(|_| self.is_here(node)).filter(usable);
        let net = own.min_by_key(|net| net.addr().is_ipv6())?;
        Some(End { address: net.addr(), from: "this machine".into() })
    }

    /// The only address in this machine's network there that the hosts file has for the peer.
    fn by_network(&self, node: usize, interface: &str, other: Option<&End>) -> Option<End> {
        let other = other.filter(|_| self.is_here(1 - node))?;
        let net = self.own(interface).iter().find(|net| net.addr() == other.address)?;
        let there = |line: &&Line| net.contains(&line.address) && !self.vips.contains(&line.address);
        let mut lines = self.hosts.iter().filter(there).filter(|line| line.belongs_to(self.nodes[node]));
        let first = lines.next()?;
        lines.next().is_none().then(|| self.end(first))
    }
}
