//! Progress of long work, below the page that is drawn over itself. Only on a terminal.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dre::rules::SetStatus;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::page;

/// An edit is over in 20 ms; a bar for it would only flicker.
const LONG: Duration = Duration::from_millis(700);

/// A bar for each set that has worked for long.
pub struct Bars {
    all: MultiProgress,
    working: BTreeMap<String, Work>,
}

struct Work {
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Bars {
    pub fn new() -> Self {
        Self::on(ProgressDrawTarget::stdout())
    }

    fn on(target: ProgressDrawTarget) -> Self {
        Self { all: MultiProgress::with_draw_target(target), working: BTreeMap::new() }
    }

    /// Moves the bars to where the sets are.
    pub fn follow(&mut self, sets: &[SetStatus], now: Instant) {
        let works = |set: &&SetStatus| set.files_todo > 0 || set.bytes_todo > 0;
        let all = &self.all;
        self.working.retain(|name, work| {
            let goes_on = sets.iter().filter(works).any(|set| set.name == *name);
            if let (false, Some(bar)) = (goes_on, &work.bar) {
                bar.finish_and_clear();
                all.remove(bar);
            }
            goes_on
        });
        for set in sets.iter().filter(works) {
            let work = self.working.entry(set.name.clone()).or_insert(Work { since: now, bar: None });
            if work.bar.is_none() && now.duration_since(work.since) >= LONG {
                work.bar = Some(all.add(bar(set)));
            }
            if let Some(bar) = &work.bar {
                // What there is to do may grow, or turn from files to bytes, while it is done.
                bar.set_length(todo(set));
                bar.set_position(done(set));
                bar.set_message(page::title(set));
            }
        }
    }

    /// Draws something else meanwhile, and the bars again below it.
    pub fn around<T>(&self, draw: impl FnOnce() -> T) -> T {
        self.all.suspend(draw)
    }
}

fn in_bytes(set: &SetStatus) -> bool {
    set.bytes_todo > 0
}

fn todo(set: &SetStatus) -> u64 {
    if in_bytes(set) { set.bytes_todo } else { set.files_todo }
}

fn done(set: &SetStatus) -> u64 {
    if in_bytes(set) { set.bytes_done } else { set.files_done }
}

const BYTES: &str = "{msg:20!} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
const FILES: &str = "{msg:20!} {bar:30} {human_pos} of {human_len} files, {eta} left";

fn bar(set: &SetStatus) -> ProgressBar {
    let template = if in_bytes(set) { BYTES } else { FILES };
    // Both are sound, says a test.
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(todo(set)).with_style(style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(files: (u64, u64), bytes: (u64, u64)) -> SetStatus {
        SetStatus {
            name: "re".into(),
            state: "SYNCING".into(),
            files_done: files.0,
            files_todo: files.1,
            bytes_done: bytes.0,
            bytes_todo: bytes.1,
            ..SetStatus::default()
        }
    }

    #[test]
    fn only_long_work_gets_a_bar_and_it_goes_when_the_work_is_done() {
        let mut bars = Bars::on(ProgressDrawTarget::hidden());
        let begun = Instant::now();
        let shown = |bars: &Bars| bars.working.get("re").and_then(|work| work.bar.clone());
        bars.follow(&[set((0, 10), (0, 0))], begun);
        assert!(bars.working.contains_key("re") && shown(&bars).is_none(), "it may be over at once");
        bars.follow(&[set((4, 10), (0, 0))], begun + LONG);
        let bar = shown(&bars).expect("it takes long");
        assert_eq!((bar.position(), bar.length()), (4, Some(10)));
        bars.follow(&[set((5, 12), (100, 400))], begun + LONG * 2);
        assert_eq!((bar.position(), bar.length(), bar.message()), (100, Some(400), "re SYNCING".into()));
        bars.follow(&[set((0, 0), (0, 0))], begun + LONG * 3);
        assert!(bars.working.is_empty() && bar.is_finished());
        assert_eq!(bars.around(|| 7), 7);
    }

    #[test]
    fn both_templates_are_sound() {
        for template in [BYTES, FILES] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }
}
