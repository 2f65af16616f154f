//! Standard output and standard error, as this process has them.
//!
//! Results go to standard output, everything said beside them to standard error. Nothing is buffered here: a token
//! leaves no copy behind in a writer, and a line of `audit --follow` is out when it was written. A write that fails is
//! an error with a status, never a panic.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use crate::ctl::error::CtlError;
use crate::ctl::render::style::{self, Ink, ink};
use crate::time::{UnixTime, wall_now};

/// Bytes of an answer.
const ANSWER_MAX: u64 = 1024;
/// Narrower than this no table is laid out for.
const WIDTH_MIN: usize = 40;

/// Where results and remarks go, and how they may look there.
pub struct Console {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    /// Where a person answers questions; `None` when nobody can.
    answers: Option<Box<dyn Read>>,
    /// Columns of the terminal that results go to; `None` when it is no terminal, and then nothing is shortened.
    pub width: Option<usize>,
    /// Results may have colour.
    pub colour: bool,
    /// Remarks may have colour.
    pub colour_err: bool,
    /// Somebody looks at standard error: progress makes sense.
    pub watched: bool,
    /// `--json`.
    pub json: bool,
    /// `--quiet`.
    pub quiet: bool,
    /// What relative times are relative to.
    pub now: UnixTime,
    /// Nobody reads the results any more (`| head`): there is nothing wrong, and nothing left to do.
    pub deserted: bool,
}

impl Console {
    /// The console of this process. `COLUMNS`, if it is in the environment, goes before the terminal's width.
    pub fn of_process() -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = |terminal: bool| terminal && !no_colour && !dumb;
        let set = std::env::var("COLUMNS").ok().and_then(|text| text.parse::<usize>().ok());
        let terminal = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
        Self {
            out: unbuffered(io::stdout()),
            err: unbuffered(io::stderr()),
            answers: (io::stdin().is_terminal() && io::stderr().is_terminal()).then(|| Box::new(io::stdin()) as _),
            width: set.or_else(terminal).map(|width| width.max(WIDTH_MIN)),
            colour: colour(io::stdout().is_terminal()),
            colour_err: colour(io::stderr().is_terminal()),
            watched: io::stderr().is_terminal() && !dumb,
            json: false,
            quiet: false,
            now: wall_now(),
            deserted: false,
        }
    }

    /// A console that writes where a test can read.
    #[cfg(test)]
    pub(crate) fn captured(out: impl Write + 'static, err: impl Write + 'static, now: UnixTime) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
            answers: None,
            width: None,
            colour: false,
            colour_err: false,
            watched: false,
            json: false,
            quiet: false,
            now,
            deserted: false,
        }
    }

    /// Writes a result, with ink where colour is allowed.
    ///
    /// # Errors
    /// [`CtlError::Output`]; not for a reader that has gone, see [`Self::deserted`].
    pub fn print(&mut self, text: &str) -> Result<(), CtlError> {
        let text = style::resolve(text, self.colour);
        self.plain(&text)
    }

    /// Writes a result as it is.
    ///
    /// # Errors
    /// As [`Self::print`].
    pub fn plain(&mut self, text: &str) -> Result<(), CtlError> {
        match self.raw(text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.deserted = true,
            written => written.map_err(CtlError::Output)?,
        }
        Ok(())
    }

    /// Writes bytes as they are, in one go where the other end takes it.
    ///
    /// # Errors
    /// As the write.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    /// Says something beside the result, unless `--quiet` or `--json`.
    pub fn note(&mut self, text: &str) {
        if !self.quiet && !self.json {
            self.say(text);
        }
    }

    /// Says why the command failed: one line, or with `--json` one object.
    pub fn fail(&mut self, error: &CtlError) {
        let message = one_line(&error.to_string());
        let line = if self.json {
            let object = serde_json::json!({ "error": { "code": error.name(), "message": message } });
            format!("{object}\n")
        } else {
            format!("{} {message}\n", ink(Ink::Bad, "bearerctl:"))
        };
        self.say(&line);
    }

    /// Gives a test's answers.
    #[cfg(test)]
    pub(crate) fn answered_by(&mut self, answers: impl Read + 'static) {
        self.answers = Some(Box::new(answers));
    }

    /// Whether somebody is there to answer a question.
    pub fn can_ask(&self) -> bool {
        self.answers.is_some()
    }

    /// Asks, whatever `--quiet` says; only a plain yes is one.
    pub fn ask(&mut self, question: &str) -> bool {
        self.say(&format!("{question} [y/N] "));
        let Some(answers) = &mut self.answers else { return false };
        let mut line = String::new();
        // A line is all that is taken of a person; the end of the input is no yes.
        let read = BufReader::new(answers.take(ANSWER_MAX)).read_line(&mut line);
        read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }

    /// Writes to standard error; if nobody can read that, there is nobody to tell.
    pub fn say(&mut self, text: &str) {
        let text = style::resolve(text, self.colour_err);
        let _ = self.err.write_all(text.as_bytes()).and_then(|()| self.err.flush());
    }
}

/// A duplicate of the descriptor: std's own handles buffer, and their buffers are not wiped.
fn unbuffered(handle: impl AsFd + Write + 'static) -> Box<dyn Write> {
    match handle.as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(handle),
    }
}

/// Messages are one line each, whatever a daemon or a file name put into them.
fn one_line(text: &str) -> String {
    style::clean(&text.split_whitespace().collect::<Vec<_>>().join(" ")).into_owned()
}
