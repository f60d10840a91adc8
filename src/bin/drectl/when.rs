//! Moments as people read them. Pure.

use dre::shell::clock::format_utc;

/// Seconds since 1970 of an RFC 3339 moment in UTC; fractions are dropped.
pub fn seconds(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split('.').next()?.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days from the civil calendar, years beginning in March so that the leap day comes last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// `20261124T041021Z`, for a file's name.
pub fn compact(seconds: i64) -> String {
    format_utc(seconds).replace(['-', ':'], "")
}

/// `3 min`, `5 h`: one number, the largest unit that has at least two (or one of the smallest).
pub fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

/// `2026-11-23 14:02:11 UTC (3 min ago)`; what cannot be read is shown as it came.
pub fn ago(text: &str, now: i64) -> String {
    match seconds(text) {
        Some(then) => {
            let plain = text.replacen('T', " ", 1);
            let plain = plain.split(['.', 'Z']).next().unwrap_or_default();
            format!("{plain} UTC ({} ago)", span(now - then))
        }
        None => text.to_owned(),
    }
}

/// 523.4 ms, 1.52 s, 180 µs.
pub fn micros(us: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // for an eye
    let us_f = us as f64;
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us_f / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", us_f / 1e3),
        _ => format!("{:.2} s", us_f / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_in_a_name_is_the_moment() {
        for text in
            ["1970-01-01T00:00:00Z", "2000-02-29T12:00:01Z", "2026-11-24T04:10:21Z", "2100-03-01T23:59:59Z"]
        {
            let moment = seconds(text).expect("a moment");
            assert_eq!(compact(moment), text.replace(['-', ':'], ""));
        }
    }

    #[test]
    fn the_calendar_holds() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(seconds("2000-02-29T12:00:00Z"), Some(951_825_600));
        assert_eq!(seconds("2026-11-23T14:02:11Z"), Some(1_795_442_531));
        assert_eq!(seconds("2026-11-23T14:02:11.937Z"), Some(1_795_442_531));
        for bad in ["", "yesterday", "2026-11-23", "2026-11-23T14:02Z", "2026-11-23T14:02:11+01:00"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_span_is_one_number() {
        let spans = [
            (0, "0 s"),
            (119, "119 s"),
            (180, "3 min"),
            (7_199, "119 min"),
            (18_000, "5 h"),
            (259_200, "3 days"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(span(-5), "0 s", "the peer's clock may be ahead");
    }

    #[test]
    fn a_gap_is_as_exact_as_it_was_measured() {
        for (us, text) in [(180, "180 µs"), (4_210, "4.21 ms"), (523_400, "523.4 ms"), (1_520_000, "1.52 s")]
        {
            assert_eq!(micros(us), text);
        }
    }
}
