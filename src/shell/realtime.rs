//! Memory that is not paged out and a turn on the processor when it is due. Best effort: a refusal is a sentence.

use nix::sys::mman::{MlockAllFlags, mlockall};

/// SCHED_RR among ordinary processes; low, so that the kernel's own threads go first.
const PRIORITY: libc::c_int = 5;

/// What could not be had.
pub fn take() -> Vec<String> {
    let mut refused = vec![];
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        refused.push(format!(
            "memory is not locked ({error}): under memory pressure a turn may wait for the disk"
        ));
    }
    let parameter = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: pid 0 is this thread; the parameter is a plain structure that lives over the call. RESET_ON_FORK keeps
    // children (there are none) ordinary.
    let rc = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if rc != 0 {
        refused.push(format!(
            "no real-time turn ({}): under load a heartbeat may be late",
            std::io::Error::last_os_error()
        ));
    }
    refused
}
