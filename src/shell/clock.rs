//! The boot clock, and an alarm on it.
//!
//! CLOCK_BOOTTIME and nothing else: see [`crate::logic::time`]. The alarm is a timerfd with an absolute deadline on that clock, because
//! tokio's timer counts CLOCK_MONOTONIC in steps of a millisecond, and D may be 30.

use std::io;
use std::os::fd::AsFd;

use super::ready::Ready;
use crate::logic::time::Moment;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::ClockId as Clock;

/// Now, on the boot clock.
pub fn now() -> Moment {
    // CLOCK_BOOTTIME has been there since Linux 2.6.39: without it nothing in this suite means anything.
    let now =
        nix::time::clock_gettime(Clock::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME is there since Linux 2.6.39");
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec()).unwrap_or(0);
    Moment::from_nanos(seconds * 1_000_000_000 + nanos)
}

/// Milliseconds since 1970 on the wall clock: for people and for the skew alarm, never for a decision.
pub fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Microseconds since 1970 on the wall clock: for the journal, to be held beside what others recorded.
pub fn wall_us() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970 on the wall clock: what files' times are held beside.
pub fn wall_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A moment as RFC 3339 in UTC, by the wall clock as it stands now.
pub fn rfc3339(moment: Moment) -> String {
    let ago = i64::try_from(now().since(moment).as_millis()).unwrap_or(i64::MAX);
    format_utc(wall_ms().saturating_sub(ago).div_euclid(1000))
}

/// Seconds since 1970 as `2026-11-23T14:02:11Z`.
/// Days to civil date after Howard Hinnant's `civil_from_days` (public domain algorithm).
pub fn format_utc(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Wakes at a moment.
pub struct Alarm {
    ready: Ready,
    timer: TimerFd,
    set: Moment,
}

impl Alarm {
    /// Needs a running tokio runtime with its I/O driver.
    pub fn new() -> io::Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        let ready = Ready::new(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { ready, timer, set: Moment::ZERO })
    }

    /// Returns at `deadline` or at once if it has passed. Cancel safe.
    pub async fn until(&mut self, deadline: Moment) {
        if now() >= deadline {
            return;
        }
        if self.set != deadline {
            let seconds = i64::try_from(deadline.as_nanos() / 1_000_000_000).unwrap_or(i64::MAX);
            let rest = i64::try_from(deadline.as_nanos() % 1_000_000_000).unwrap_or(0);
            let at = Expiration::OneShot(TimeSpec::new(seconds, rest));
            if self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME).is_err() {
                // Only an impossible time is refused; a short sleep is better than a busy loop.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                return;
            }
            self.set = deadline;
        }
        while now() < deadline {
            self.ready.readable().await;
        }
        self.set = Moment::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_date_reads_as_people_write_it() {
        assert_eq!(format_utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(format_utc(1_795_442_531), "2026-11-23T14:02:11Z");
        assert_eq!(format_utc(951_782_400), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn the_alarm_wakes_at_its_moment_and_at_once_when_it_has_passed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let mut alarm = Alarm::new().expect("timerfd");
            for _ in 0..3 {
                let deadline = now() + Duration::from_millis(5);
                alarm.until(deadline).await;
                assert!(now() >= deadline);
            }
            let begun = now();
            alarm.until(begun - Duration::from_secs(1)).await;
            assert!(now().since(begun) < Duration::from_secs(1));
        });
    }
}
