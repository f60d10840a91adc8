//! Looks at interfaces, addresses, routes and the gate's hooks on a thread of its own. A request for them waits for the kernel's
//! RTNL lock as long as anybody on the machine holds it (a container that goes, a loaded machine whose holder does not run:
//! seconds were seen), and the loop has a lease to renew meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use dre::shell::gate::Programs;
use dre::shell::netlink::{Address, Hook, Interface, Kernel, Mark};
use tokio::sync::mpsc;

/// What to put right on the way. Interfaces are named, not numbered: the look knows best which they are by then.
pub struct Asked {
    /// How much had happened when it was asked: what happened since, the look may not have seen.
    pub serial: u64,
    /// The gate's programs belong on these interfaces.
    pub names: Vec<String>,
    pub programs: Option<Arc<Programs>>,
    /// Host routes to these belong over this interface.
    pub routes: Option<(Vec<IpAddr>, String)>,
    /// What of ours is anywhere else goes: left by an earlier run or configuration.
    pub strays: bool,
}

/// What was there.
pub struct Seen {
    pub serial: u64,
    pub interfaces: io::Result<BTreeMap<String, Interface>>,
    pub addresses: io::Result<Vec<Address>>,
    /// The gate on each of our interfaces that is there: its name and number, and what was found.
    pub hooks: Vec<(String, u32, io::Result<Hook>)>,
    /// Why each route that could not be set was not.
    pub routes: Vec<(IpAddr, String)>,
    /// What was cleared away, or could not be.
    pub strays: Vec<String>,
}

/// One look with this socket; waits.
pub fn look(kernel: &mut Kernel, asked: &Asked) -> Seen {
    let mut seen = Seen {
        serial: asked.serial,
        interfaces: kernel.interfaces(),
        addresses: Ok(vec![]),
        hooks: vec![],
        routes: vec![],
        strays: vec![],
    };
    if let Ok(interfaces) = &seen.interfaces {
        // The gate first: while it is off, nothing shuts by itself.
        for interface in asked.names.iter().filter_map(|name| interfaces.get(name)) {
            if let Some(programs) = &asked.programs {
                let found = kernel.hook(interface.index, programs);
                seen.hooks.push((interface.name.clone(), interface.index, found));
            }
        }
        seen.routes = routes(kernel, asked, interfaces);
        if asked.strays {
            seen.strays = strays(kernel, asked, interfaces);
        }
    }
    seen.addresses = kernel.addresses();
    seen
}

fn routes(
    kernel: &mut Kernel,
    asked: &Asked,
    interfaces: &BTreeMap<String, Interface>,
) -> Vec<(IpAddr, String)> {
    let Some((wanted, name)) = &asked.routes else { return vec![] };
    let mut set = |to: IpAddr| match interfaces.get(name) {
        None => Some((to, format!("there is no interface {name}"))),
        Some(over) => kernel.host_route(to, over.index, true).err().map(|error| (to, error.to_string())),
    };
    wanted.iter().filter_map(|to| set(*to)).collect()
}

fn strays(kernel: &mut Kernel, asked: &Asked, interfaces: &BTreeMap<String, Interface>) -> Vec<String> {
    let mut words = vec![];
    for interface in interfaces.values() {
        let ours = asked.programs.is_some() && asked.names.contains(&interface.name);
        match if ours { Ok(false) } else { kernel.unhook(interface.index) } {
            Ok(false) => {}
            Ok(true) => words.push(format!("the gate of an earlier run is taken off {}", interface.name)),
            Err(error) => words.push(format!(
                "whether an earlier run left its gate on {} is not known: {error}",
                interface.name
            )),
        }
    }
    let wanted = |to: &IpAddr, over: u32| {
        let (all, name) = asked.routes.as_ref()?;
        interfaces.get(name).filter(|i| i.index == over && all.contains(to))
    };
    match kernel.tagged_routes() {
        Err(error) => words.push(format!("routes that an earlier run may have left are not known: {error}")),
        Ok(routes) => {
            for (to, over) in routes.into_iter().filter(|(to, over)| wanted(to, *over).is_none()) {
                words.push(match kernel.host_route(to, over, false) {
                    Ok(()) => format!("the host route to {to} of an earlier run is taken away"),
                    Err(error) => format!("the host route to {to} of an earlier run stays: {error}"),
                });
            }
        }
    }
    words
}

/// The loop's handle; never waits.
pub struct Looker(SyncSender<Asked>);

impl Looker {
    /// What is seen comes out of the receiver.
    pub fn start(mark: Mark) -> io::Result<(Self, mpsc::Receiver<Seen>)> {
        // One under way, one behind it: what is asked after an event is never answered by a look from before it.
        let (ask, asked) = sync_channel::<Asked>(1);
        let (tell, seen) = mpsc::channel(1);
        let mut kernel = Kernel::new(mark)?;
        std::thread::Builder::new().name("look".into()).spawn(move || {
            while let Ok(asked) = asked.recv() {
                if tell.blocking_send(look(&mut kernel, &asked)).is_err() {
                    return;
                }
            }
        })?;
        Ok((Self(ask), seen))
    }

    /// False if another waits behind the one under way.
    pub fn ask(&self, asked: Asked) -> bool {
        self.0.try_send(asked).is_ok()
    }
}
