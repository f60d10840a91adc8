//! Looks at interfaces, addresses and routes on a thread of its own. A request for them waits for the kernel's RTNL lock as long
//! as anybody on the machine holds it (a container that goes, a loaded machine whose holder does not run: seconds were seen),
//! and the loop has a lease to renew meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};

use dre::shell::netlink::{Address, Interface, Kernel};
use tokio::sync::mpsc;

/// What to look at; everything, and these host routes are put right on the way: (to, over which interface).
pub struct Asked {
    /// How much had happened when it was asked: what happened since, the look may not have seen.
    pub serial: u64,
    pub routes: Vec<(IpAddr, u32)>,
}

/// What was there.
pub struct Seen {
    pub serial: u64,
    pub interfaces: io::Result<BTreeMap<String, Interface>>,
    pub addresses: io::Result<Vec<Address>>,
    /// Whether each route could be set.
    pub routes: Vec<(IpAddr, io::Result<()>)>,
}

/// One look with this socket; waits.
pub fn look(kernel: &mut Kernel, asked: &Asked) -> Seen {
    Seen {
        serial: asked.serial,
        interfaces: kernel.interfaces(),
        addresses: kernel.addresses(),
        routes: asked.routes.iter().map(|(to, index)| (*to, kernel.host_route(*to, *index, true))).collect(),
    }
}

/// The loop's handle; never waits.
pub struct Looker(SyncSender<Asked>);

impl Looker {
    /// What is seen comes out of the receiver.
    pub fn start() -> io::Result<(Self, mpsc::Receiver<Seen>)> {
        let (ask, asked) = sync_channel::<Asked>(1);
        let (tell, seen) = mpsc::channel(1);
        let mut kernel = Kernel::new()?;
        std::thread::Builder::new().name("look".into()).spawn(move || {
            while let Ok(asked) = asked.recv() {
                if tell.blocking_send(look(&mut kernel, &asked)).is_err() {
                    return;
                }
            }
        })?;
        Ok((Self(ask), seen))
    }

    /// False if a look is under way already.
    pub fn ask(&self, asked: Asked) -> bool {
        self.0.try_send(asked).is_ok()
    }
}
