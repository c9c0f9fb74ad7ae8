//! How far a long piece of work is: a bar on a terminal, a line now and then
//! elsewhere.

use std::io;
use std::io::IsTerminal;
use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

use crate::cli::output::word;

/// Time between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// One piece of work.
pub(crate) struct Progress {
    what: &'static str,
    bar: Option<ProgressBar>,
    told: Instant,
}

impl Progress {
    /// Nothing is shown until [`Progress::at`] is called.
    pub(crate) fn new(what: &'static str, unit: &'static str) -> Progress {
        let bar = io::stderr().is_terminal().then(|| bar(what, unit));
        Progress { what, bar, told: Instant::now() }
    }

    /// So much is done, of so much.
    pub(crate) fn at(&mut self, done: u64, whole: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(whole);
            bar.set_position(done);
        } else if self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            word(format_args!("{}: {done} of {whole}", self.what));
        }
    }

    /// The bar goes away; words may follow.
    pub(crate) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.told = Instant::now();
    }
}

fn bar(what: &'static str, unit: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = format!("{{msg}} [{{bar:30}}] {{human_pos}}/{{human_len}} {unit} {{eta}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what);
    bar
}

/// Work whose end is not known: something moves on a terminal until it is dropped.
pub(crate) struct Spinner(Option<ProgressBar>);

impl Spinner {
    /// Moves at once.
    pub(crate) fn new(what: &'static str) -> Spinner {
        Spinner(io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner().with_message(what);
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        }))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        if let Some(spinner) = &self.0 {
            spinner.finish_and_clear();
        }
    }
}
