//! What the demo prints: the story to standard output, progress to standard error.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often to look at what is waited for.
const POLL: Duration = Duration::from_millis(200);
/// How soon a plain line tells what has changed where there is no terminal, and how soon it tells
/// that nothing has.
const PLAIN: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(15)];
/// The longest quotation of a message, in characters.
const QUOTE: usize = 104;

/// A claim that did not come true.
#[derive(Debug, thiserror::Error)]
#[error("not so: {claim}; expected {expected}, seen {seen}")]
pub(super) struct Broken {
    /// What should be so.
    pub claim: String,
    /// What it would have looked like.
    pub expected: String,
    /// What it looked like.
    pub seen: String,
}

/// One look at what is waited for.
pub(super) enum Look<T> {
    /// It is so.
    Done(T),
    /// Not yet: how much of how many, and what is seen.
    NotYet(usize, usize, String),
    /// It will never be so.
    Never(String),
}

/// The narrator: it counts the claims, and prints none that was not checked.
pub(super) struct Show {
    colour: bool,
    claims: usize,
    begin: Instant,
}

impl Show {
    pub fn new() -> Self {
        let colour = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colour, claims: 0, begin: Instant::now() }
    }

    /// How many claims were checked.
    pub fn claims(&self) -> usize {
        self.claims
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// A line of the story as it is. A reader that went away must not end the demo.
    pub fn line(&self, text: impl Display) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    /// The title of the whole.
    pub fn title(&self, text: &str) {
        self.line(self.paint("1", text));
    }

    /// Begins an act.
    pub fn act(&self, number: u32, title: &str) {
        self.line(format!("\n{}  {}", self.paint("1;36", number), self.paint("1", title)));
    }

    /// The command that the next claims stand for, by whom.
    pub fn command(&self, who: &str, command: &str) {
        self.line(self.paint("2", format!("   {who}$ {command}")));
    }

    /// A remark below a claim.
    pub fn remark(&self, text: &str) {
        self.line(self.paint("2", format!("     {text}")));
    }

    /// What the cluster said, in its own words, cut short.
    pub fn quote(&self, message: &str) {
        let said = message.rsplit("denied request: ").next().unwrap_or(message);
        self.remark(&format!("\u{201c}{}\u{201d}", shorten(said)));
    }

    /// The head of a table.
    pub fn table_head(&self, text: &str) {
        self.line(self.paint("2", format!("     {text}")));
    }

    /// States a claim that was checked in this very moment.
    ///
    /// # Errors
    /// [`Broken`], when it is not so.
    pub fn claim(
        &mut self,
        holds: bool,
        claim: impl Into<String>,
        expected: impl Display,
        seen: impl Display,
    ) -> Result<()> {
        let claim = claim.into();
        if !holds {
            let (expected, seen) = (expected.to_string(), seen.to_string());
            return Err(Broken { claim, expected, seen }.into());
        }
        self.claims += 1;
        self.line(format!("   {} {claim}", self.paint("32", "\u{2713}")));
        Ok(())
    }

    /// States a claim for which a look is enough: what differs, if anything.
    ///
    /// # Errors
    /// [`Broken`], when something differs.
    pub fn no_difference(&mut self, found: Option<String>, claim: impl Into<String>) -> Result<()> {
        let seen = found.clone().unwrap_or_default();
        self.claim(found.is_none(), claim, "no difference", seen)
    }

    /// Tells of a claim that is not so.
    pub fn broken(&self, broken: &Broken) {
        self.line(format!("   {} {}", self.paint("31", "\u{2717}"), broken.claim));
        self.line(format!("     expected  {}", broken.expected));
        self.line(format!("     seen      {}", broken.seen));
    }

    /// The last lines.
    pub fn summary(&self, text: &str) {
        self.line(format!("\n{}", self.paint("1;32", text)));
    }

    /// Waits until a look says that it is so, with a bar meanwhile.
    ///
    /// # Errors
    /// [`Broken`] with what was seen last, when it is not so within the limit or will never be;
    /// what a look failed with.
    pub async fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl AsyncFnMut() -> Result<Look<T>>,
    ) -> Result<T> {
        let begin = Instant::now();
        let mut bar = Bar::new(what);
        loop {
            let (seen, expected) = match look().await? {
                Look::Done(value) => return Ok(value),
                Look::NotYet(done, total, seen) => {
                    bar.set(done, total);
                    (seen, format!("within {} s", limit.as_secs()))
                }
                Look::Never(seen) => {
                    return Err(
                        Broken { claim: what.to_owned(), expected: what.to_owned(), seen }.into()
                    );
                }
            };
            if begin.elapsed() > limit {
                return Err(Broken { claim: what.to_owned(), expected, seen }.into());
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Progress of one wait; gone when it is dropped.
struct Bar {
    bar: Option<ProgressBar>,
    what: String,
    told: (Instant, usize),
}

impl Bar {
    fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            if let Ok(style) =
                ProgressStyle::with_template("   {spinner} {msg} [{bar:24}] {pos}/{len} {elapsed}")
            {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, what: what.to_owned(), told: (Instant::now(), 0) }
    }

    fn set(&mut self, done: usize, total: usize) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
            }
            None => {
                let (at, before) = self.told;
                if at.elapsed() > PLAIN[usize::from(done == before)] {
                    self.told = (Instant::now(), done);
                    let _ = writeln!(std::io::stderr(), "   ... {}: {done}/{total}", self.what);
                }
            }
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Seconds, as people read them.
pub(super) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// The beginning of a digest: enough to tell one from another.
pub(super) fn short_digest(digest: &str) -> String {
    let short: String = digest.chars().take(19).collect();
    format!("{short}\u{2026}")
}

/// A number with commas between thousands.
pub(super) fn number(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first line of a message, cut at a word.
fn shorten(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim();
    if line.chars().count() <= QUOTE {
        return line.to_owned();
    }
    let head: String = line.chars().take(QUOTE).collect();
    let head = head.rsplit_once(' ').map_or(head.as_str(), |(head, _)| head);
    format!("{} \u{2026}", head.trim_end_matches([',', ';', ':']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_read() {
        assert_eq!(number(7), "7");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(shorten("one line\nanother"), "one line");
        let cut = shorten(&"wörter, ".repeat(40));
        assert!(cut.ends_with("wörter \u{2026}") && cut.chars().count() <= QUOTE + 2, "{cut}");
    }

    #[test]
    fn a_claim_that_is_not_so_is_not_counted() {
        let mut show = Show::new();
        let error = show.claim(false, "the moon is round", "round", "square").unwrap_err();
        let broken = error.downcast_ref::<Broken>().expect("a broken claim");
        assert_eq!((broken.expected.as_str(), broken.seen.as_str()), ("round", "square"));
        assert_eq!(show.claims(), 0);
    }
}
