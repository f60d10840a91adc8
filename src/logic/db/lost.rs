//! What is on one server alone, in the words of the server's own tool: which of its lines belong to it, and how much that is.
//!
//! The tool (`mariadb-binlog -vv`, `mysqlbinlog -vv`) prints a whole log; where it knows positions or sets it prints less. What
//! counts is the [`Sieve`]: it lets through the transactions that were asked for, whatever else is printed.
//!
//! A server throws its oldest logs away first: that the newest of a range was seen says nothing of its beginning.

use std::collections::BTreeMap;

use super::facts::{Flavor, Gtids};
use super::gtids::{Range, joined, without};

/// How to ask MariaDB's tool for no more than is needed: after which transactions, up to which, one a domain. Older ones than 10.8 do not
/// know that.
pub fn positions(ranges: &[Range]) -> Vec<String> {
    let mut starts: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    let mut stops = starts.clone();
    for range in ranges {
        let (domain, _) = range.writer.split_once('-').unwrap_or_default();
        let before = (range.low - 1, range.writer.as_str());
        let start = starts.entry(domain).or_insert(before);
        *start = (*start).min(before);
        let stop = stops.entry(domain).or_default();
        *stop = (*stop).max((range.high, range.writer.as_str()));
    }
    let list = |all: &BTreeMap<&str, (u64, &str)>| {
        let all: Vec<String> = all.values().map(|(number, writer)| format!("{writer}-{number}")).collect();
        all.join(",")
    };
    // From the beginning: there is nothing before it that could be named.
    let begins = starts.values().any(|(before, _)| *before == 0);
    let start = (!begins).then(|| format!("--start-position={}", list(&starts)));
    start.into_iter().chain([format!("--stop-position={}", list(&stops))]).collect()
}

/// The same of MySQL's.
pub fn sets(ranges: &[Range]) -> Vec<String> {
    let all: Vec<String> = ranges.iter().map(|range| range.shown(Flavor::MySql)).collect();
    vec![format!("--include-gtids={}", all.join(","))]
}

/// Lets through what was asked for, line by line, and counts.
pub struct Sieve {
    flavor: Flavor,
    ranges: Vec<Range>,
    /// Of each range, the numbers that were seen, as they came.
    seen: Vec<Vec<(u64, u64)>>,
    /// The line `# at …` comes before the one that says whose it is.
    held: Vec<u8>,
    open: bool,
    pub transactions: u64,
    pub rows: u64,
}

impl Sieve {
    pub fn new(flavor: Flavor, ranges: &[Range]) -> Self {
        Self {
            flavor,
            ranges: ranges.to_vec(),
            seen: vec![vec![]; ranges.len()],
            held: vec![],
            open: false,
            transactions: 0,
            rows: 0,
        }
    }

    /// What is to be kept now that this line has come, with its end.
    pub fn pass(&mut self, line: &[u8]) -> Vec<u8> {
        if line.starts_with(b"# at ") {
            let before = std::mem::replace(&mut self.held, line.to_vec());
            return if self.open { before } else { vec![] };
        }
        if let Some((writer, number)) = self.begins(line) {
            let found = self
                .ranges
                .iter()
                .position(|range| range.writer == writer && range.low <= number && number <= range.high);
            self.open = found.is_some();
            if let Some(index) = found {
                self.transactions += 1;
                match self.seen[index].last_mut() {
                    Some((_, last)) if *last + 1 == number => *last = number,
                    _ => self.seen[index].push((number, number)),
                }
            }
        }
        let mut out = std::mem::take(&mut self.held);
        if !self.open {
            return vec![];
        }
        let row = ["### INSERT INTO ", "### UPDATE ", "### DELETE FROM "];
        self.rows += u64::from(row.iter().any(|row| line.starts_with(row.as_bytes())));
        out.extend_from_slice(line);
        out
    }

    /// The transaction that begins with this line. A text in a row or a statement does not look like it: the one is escaped, the other
    /// has no such head.
    fn begins(&self, line: &[u8]) -> Option<(String, u64)> {
        let line = std::str::from_utf8(line).ok()?;
        let id = match self.flavor {
            // #261127  4:10:22 server id 1  end_log_pos 384 CRC32 0x…   GTID 0-1-6 trans
            Flavor::MariaDb => {
                let (head, rest) = line.strip_prefix('#')?.split_once("\tGTID ")?;
                head.contains(" server id ").then_some(())?;
                head.starts_with(|c: char| c.is_ascii_digit()).then_some(())?;
                rest.split_ascii_whitespace().next()?.rsplit_once('-')?
            }
            Flavor::MySql => {
                let rest = line.strip_prefix("SET @@SESSION.GTID_NEXT= '")?;
                rest.split('\'').next()?.rsplit_once(':')?
            }
        };
        Some((id.0.to_ascii_lowercase(), id.1.parse().ok()?))
    }

    /// What was asked for and did not come by. MySQL's numbers have no gaps. Of MariaDB's, those between two of one server may be
    /// another's; what is gone is what was written `before` the first log that is left (its own word, where it has one), and what
    /// should have come at the end.
    pub fn missing(&self, before: Option<&Gtids>) -> Vec<Range> {
        let mut out = vec![];
        for (range, seen) in self.ranges.iter().zip(&self.seen) {
            let (low, high) = (range.low, range.high);
            let seen = joined(seen.clone());
            let gone = match self.flavor {
                Flavor::MySql => without(&[(low, high)], &seen),
                Flavor::MariaDb => {
                    let first = match before {
                        Some(before) => newest(before, &range.writer) + 1,
                        None => seen.first().map_or(high + 1, |(first, _)| *first),
                    };
                    let last = seen.last().map_or(first.max(low) - 1, |(_, last)| *last);
                    let ends = [(low, high.min(first - 1)), (low.max(last + 1), high)];
                    joined(ends.into_iter().filter(|(from, to)| from <= to).collect())
                }
            };
            out.extend(gone.into_iter().map(|(low, high)| Range { writer: range.writer.clone(), low, high }));
        }
        out
    }
}

/// The newest of this writer (`domain-server`) in a MariaDB state; 0: none.
fn newest(state: &Gtids, writer: &str) -> u64 {
    let Gtids::MariaDb(newest) = state else { return 0 };
    newest.iter().find(|((domain, server), _)| format!("{domain}-{server}") == writer).map_or(0, |(_, n)| *n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(writer: &str, low: u64, high: u64) -> Range {
        Range { writer: writer.into(), low, high }
    }

    fn maria(text: &str) -> Gtids {
        Gtids::parse(Flavor::MariaDb, text).expect("a list")
    }

    fn sift(sieve: &mut Sieve, text: &str) -> String {
        let kept: Vec<u8> = text.split_inclusive('\n').flat_map(|line| sieve.pass(line.as_bytes())).collect();
        String::from_utf8(kept).expect("text")
    }

    /// As MariaDB 11.8's tool prints it, shortened.
    const PRINTED: &str = "\
DELIMITER /*!*/;
# at 4
#261127  4:10:21 server id 1  end_log_pos 256 CRC32 0x0a \tStart: binlog v 4, server v 11.8.3
# at 342
#261127  4:10:22 server id 1  end_log_pos 384 CRC32 0x0b \tGTID 0-1-6 trans
START TRANSACTION
/*!*/;
### INSERT INTO `app`.`t`
###   @1=6 /* INT meta=0 nullable=0 is_null=0 */
COMMIT/*!*/;
# at 500
#261127  4:10:23 server id 1  end_log_pos 542 CRC32 0x0c \tGTID 0-1-7 trans
START TRANSACTION
/*!*/;
# at 542
#Q> INSERT INTO t VALUES (7), (8) -- #261127 server id 1 GTID 0-1-6
### INSERT INTO `app`.`t`
###   @1=7 /* INT meta=0 nullable=0 is_null=0 */
### INSERT INTO `app`.`t`
###   @1=8 /* INT meta=0 nullable=0 is_null=0 */
COMMIT/*!*/;
# at 700
#261127  4:10:24 server id 2  end_log_pos 742 CRC32 0x0d \tGTID 0-2-8 ddl
DROP TABLE x
";

    #[test]
    fn only_the_transactions_that_were_asked_for_come_through() {
        let mut sieve = Sieve::new(Flavor::MariaDb, &[range("0-1", 7, 9)]);
        let kept = sift(&mut sieve, PRINTED);
        assert!(kept.starts_with("# at 500\n#261127  4:10:23"), "{kept}");
        assert!(kept.contains("@1=7") && kept.contains("@1=8") && kept.contains("# at 542\n"), "{kept}");
        assert!(
            !kept.contains("@1=6") && !kept.contains("DROP TABLE") && !kept.contains("# at 700"),
            "{kept}"
        );
        assert_eq!((sieve.transactions, sieve.rows), (1, 2));
        let none = maria("");
        assert_eq!(sieve.missing(Some(&none)), [range("0-1", 8, 9)], "up to 9 was asked for");
        let mut sieve = Sieve::new(Flavor::MariaDb, &[range("0-1", 7, 7), range("0-2", 8, 8)]);
        assert!(sift(&mut sieve, PRINTED).ends_with("DROP TABLE x\n"));
        assert_eq!((sieve.transactions, sieve.rows, sieve.missing(Some(&none)).len()), (2, 2, 0));
    }

    /// The first log that is left begins behind a part of what was asked for.
    #[test]
    fn what_was_in_a_log_that_was_thrown_away_is_missing_though_the_end_is_there() {
        let missing = |ranges: &[Range], before: Option<&str>| {
            let mut sieve = Sieve::new(Flavor::MariaDb, ranges);
            sift(&mut sieve, PRINTED);
            sieve.missing(before.map(maria).as_ref())
        };
        assert_eq!(missing(&[range("0-1", 3, 7)], Some("0-1-5,0-2-4")), [range("0-1", 3, 5)]);
        assert_eq!(missing(&[range("0-1", 3, 7)], Some("0-1-2")), [], "3 to 5 are another's");
        assert_eq!(missing(&[range("0-1", 3, 9)], Some("0-1-5")), [range("0-1", 3, 5), range("0-1", 8, 9)]);
        assert_eq!(missing(&[range("0-7", 1, 4)], Some("0-7-9")), [range("0-7", 1, 4)], "all of it");
        assert_eq!(
            missing(&[range("0-7", 1, 4)], Some("0-7-2")),
            [range("0-7", 1, 4)],
            "all of it, and once"
        );
        assert_eq!(missing(&[range("0-7", 1, 4)], Some("")), [range("0-7", 1, 4)]);
        // A log that does not say what was before it: what was not seen does not count as there.
        assert_eq!(missing(&[range("0-1", 3, 7)], None), [range("0-1", 3, 5)]);
        assert_eq!(missing(&[range("0-7", 1, 4)], None), [range("0-7", 1, 4)]);
    }

    #[test]
    fn mysqls_lines_are_known_by_their_own_head() {
        let uuid = "aaaaaaaa-71ca-11e1-9e33-c80aa9429562";
        let text = format!(
            "# at 1\nSET @@SESSION.GTID_NEXT= '{uuid}:4'/*!*/;\n### DELETE FROM `a`.`t`\n\
             # at 2\nSET @@SESSION.GTID_NEXT= '{uuid}:5'/*!*/;\n### UPDATE `a`.`t`\n\
             SET @@SESSION.GTID_NEXT= 'AUTOMATIC' /* added by mysqlbinlog */ /*!*/;\n"
        );
        let mut sieve = Sieve::new(Flavor::MySql, &[range(uuid, 5, 5)]);
        let kept = sift(&mut sieve, &text);
        assert!(
            kept.starts_with("# at 2\n") && kept.contains("UPDATE") && !kept.contains("DELETE"),
            "{kept}"
        );
        assert_eq!((sieve.transactions, sieve.rows, sieve.missing(None).len()), (1, 1, 0));
        let mut sieve = Sieve::new(Flavor::MySql, &[range(uuid, 2, 7)]);
        sift(&mut sieve, &text);
        assert_eq!(sieve.missing(None), [range(uuid, 2, 3), range(uuid, 6, 7)]);
        assert_eq!(sets(&[range(uuid, 5, 9)]), [format!("--include-gtids={uuid}:5-9")]);
    }

    #[test]
    fn the_tool_is_asked_for_each_domain_once() {
        let asked = positions(&[range("0-1", 8492, 8495), range("0-7", 8490, 8490), range("1-1", 4, 5)]);
        assert_eq!(asked, ["--start-position=0-7-8489,1-1-3", "--stop-position=0-1-8495,1-1-5"]);
        assert_eq!(positions(&[range("0-1", 1, 5)]), ["--stop-position=0-1-5"], "from the beginning");
    }
}
