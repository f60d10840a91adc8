//! Memory that is not paged out and a turn on the processor when it is due. Best effort: a refusal is a sentence.

/// SCHED_RR priorities among ordinary processes; low, so that the kernel's own threads go first. The election before dre-vip: that may
/// be busy with a thousand addresses, and a heartbeat must not wait for them (equals take turns of 100 ms).
pub const ELECT: libc::c_int = 6;
pub const VIP: libc::c_int = 5;

/// What is there is read in and stays: program, libraries, the main thread's stack and heap. What comes later stays from when it is
/// touched. (Without `MCL_ONFAULT` the whole stack of each later thread is filled with zeros at its start: 2 MB each, which are
/// also taken apart when the process is killed, before the kernel tells anybody.)
fn lock_memory() -> std::io::Result<()> {
    for flags in [libc::MCL_CURRENT, libc::MCL_FUTURE | libc::MCL_ONFAULT] {
        // SAFETY: plain flags; nothing is passed that the kernel would write to.
        if unsafe { libc::mlockall(flags) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What could not be had.
pub fn take(priority: libc::c_int) -> Vec<String> {
    let mut refused = vec![];
    if let Err(error) = lock_memory() {
        refused.push(format!(
            "memory is not locked ({error}): under memory pressure a turn may wait for the disk"
        ));
    }
    if let Err(error) = turn(priority) {
        refused.push(format!("no real-time turn ({error}): under load a heartbeat may be late"));
    }
    refused
}

/// A turn for the calling thread when it is due.
pub fn turn(priority: libc::c_int) -> std::io::Result<()> {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: pid 0 is this thread; the parameter is a plain structure that lives over the call. RESET_ON_FORK keeps
    // children (there are none) and other threads ordinary.
    let rc = unsafe {
        libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameter)
    };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
