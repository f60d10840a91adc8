//! What does not hold, where, why it matters, and what to write.

use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// A stretch of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    pub span: Range<usize>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub place: Option<Place>,
    /// What, with the values.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to write.
    pub remedy: String,
}

/// A finding for `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct FindingJson {
    pub file: String,
    pub line: usize,
    pub what: String,
    pub why: String,
    pub remedy: String,
}

/// All that is wrong with a configuration. Its text points at the lines.
#[derive(Debug, Clone)]
pub struct Error {
    findings: Vec<Finding>,
    sources: Vec<(PathBuf, String)>,
}

impl Error {
    pub(super) fn new(findings: Vec<Finding>, sources: &[(PathBuf, String)]) -> Self {
        Self { findings, sources: sources.to_vec() }
    }

    /// `example`: the shipped file that shows how.
    pub(super) fn unreadable(path: &Path, error: &std::io::Error, example: &str) -> Self {
        let finding = Finding {
            place: None,
            what: format!("{}: {error}", path.display()),
            why: "without its configuration dre does not know the pair".into(),
            remedy: format!(
                "write the file (example: /usr/share/doc/dre/{example}) or point DRE_CONFDIR at its directory"
            ),
        };
        Self { findings: vec![finding], sources: vec![] }
    }

    /// One finding about the machine or the key rather than a line of the file.
    pub fn plain(what: String, why: &str, remedy: String) -> Self {
        let finding = Finding { place: None, what, why: why.into(), remedy };
        Self { findings: vec![finding], sources: vec![] }
    }

    pub(super) fn of_host(findings: Vec<Finding>) -> Self {
        Self { findings, sources: vec![] }
    }

    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn line(&self, place: &Place) -> usize {
        let text = self.sources.iter().find(|(path, _)| *path == place.path).map_or("", |(_, text)| text);
        text.get(..place.span.start.min(text.len())).map_or(1, |before| before.matches('\n').count() + 1)
    }

    pub fn json(&self) -> Vec<FindingJson> {
        self.findings
            .iter()
            .map(|f| FindingJson {
                file: f.place.as_ref().map(|p| p.path.display().to_string()).unwrap_or_default(),
                line: f.place.as_ref().map_or(0, |p| self.line(p)),
                what: f.what.clone(),
                why: f.why.clone(),
                remedy: f.remedy.clone(),
            })
            .collect()
    }

    /// The first finding in short, with its place.
    pub fn first(&self) -> String {
        let more = self.findings.len().saturating_sub(1);
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        self.json().first().map_or_else(String::new, |f| match f.line {
            0 => format!("{}{more}", f.what),
            line => format!("{}:{line}: {}{more}", f.file, f.what),
        })
    }

    /// One line a finding, for the journal and `systemctl status`.
    pub fn lines(&self) -> String {
        let each = self.json().into_iter().map(|f| match f.line {
            0 => format!("{} ({}); {}", f.what, f.why, f.remedy),
            line => format!("{}:{line}: {} ({}); {}", f.file, f.what, f.why, f.remedy),
        });
        each.collect::<Vec<_>>().join("\n")
    }

    /// With the lines of the file, as a compiler would show them.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for f in &self.findings {
            let title = Level::ERROR.primary_title(f.what.as_str());
            let place = f.place.as_ref().and_then(|place| {
                let text = self.sources.iter().find(|(path, _)| *path == place.path).map(|(_, text)| text)?;
                let end = place.span.end.min(text.len());
                Some((place.path.display().to_string(), text, place.span.start.min(end)..end))
            });
            let mut group = annotate_snippets::Group::with_title(title);
            if let Some((path, text, span)) = place {
                group = group.element(
                    Snippet::source(text.as_str())
                        .path(path)
                        .annotation(AnnotationKind::Primary.span(span).label(f.why.as_str())),
                );
            } else {
                group = group.element(Level::NOTE.message(f.why.as_str()));
            }
            group = group.element(Level::HELP.message(f.remedy.as_str()));
            out.push_str(&renderer.render(&[group]));
            out.push('\n');
        }
        out
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Error {}
