//! Whether the wall clock is synchronised, as the kernel knows it: adjtimex(2) has no safe wrapper.

/// `None` where the kernel does not say.
pub fn synchronised() -> Option<bool> {
    // SAFETY: `timex` is plain numbers, for which all zeroes is a value; modes = 0 only reads.
    let (state, status) = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut timex), timex.status)
    };
    (state >= 0).then_some(status & libc::STA_UNSYNC == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kernel_says_whether_the_clock_is_synchronised() {
        assert!(super::synchronised().is_some());
    }
}
