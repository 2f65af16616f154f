//! What became of the lines of an import. By number: no text of theirs is here.

use serde::Serialize;

use super::style::{Ink, clean, ink};
use crate::token::TokenId;

/// What became of each line.
pub struct Report {
    dry_run: bool,
    taken: u64,
    already: u64,
    /// Line, and why.
    pub refused: Vec<(u64, String)>,
    /// Line, id, and whether it was taken now.
    tokens: Vec<(u64, TokenId, bool)>,
    /// What became of this line and those after it is not known.
    pub unfinished: Option<u64>,
}

impl Report {
    /// Of nothing yet.
    pub fn new(dry_run: bool) -> Self {
        Self { dry_run, taken: 0, already: 0, refused: Vec::new(), tokens: Vec::new(), unfinished: None }
    }

    /// It is a token now.
    pub fn taken(&mut self, line: u64, id: TokenId) {
        self.taken += 1;
        self.tokens.push((line, id, true));
    }

    /// It was one before.
    pub fn already(&mut self, line: u64, id: TokenId) {
        self.already += 1;
        self.tokens.push((line, id, false));
    }

    /// It was not taken.
    pub fn refused(&mut self, line: u64, why: String) {
        self.refused.push((line, why));
    }

    /// It could be taken.
    pub fn would_take(&mut self) {
        self.taken += 1;
    }

    /// Nothing was looked at.
    pub fn is_empty(&self) -> bool {
        self.taken == 0 && self.already == 0 && self.refused.is_empty()
    }

    /// In the order of the lines: what is refused here is known before what the daemon refuses.
    pub fn sort(&mut self) {
        self.refused.sort();
    }
}

/// For programs: one object.
pub fn json(report: &Report) -> String {
    #[derive(Serialize)]
    struct Refused<'a> {
        line: u64,
        reason: &'a str,
    }
    #[derive(Serialize)]
    struct Token {
        line: u64,
        id: String,
        taken: bool,
    }
    #[derive(Serialize)]
    struct Object<'a> {
        taken: u64,
        already: u64,
        refused: Vec<Refused<'a>>,
        tokens: Vec<Token>,
        unfinished_from: Option<u64>,
        dry_run: bool,
    }
    let object = Object {
        taken: report.taken,
        already: report.already,
        refused: report.refused.iter().map(|(line, reason)| Refused { line: *line, reason }).collect(),
        tokens: report.tokens.iter().map(|&(line, id, taken)| Token { line, id: id.to_string(), taken }).collect(),
        unfinished_from: report.unfinished,
        dry_run: report.dry_run,
    };
    let text = serde_json::to_string(&object).expect("own types with text keys serialise");
    text + "\n"
}

/// For people: what was not taken, line by line, and the sum.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    for (line, why) in &report.refused {
        text += &format!("{} {}\n", ink(Ink::Bad, &format!("line {line}: not taken:")), clean(why));
    }
    for (line, id, _) in report.tokens.iter().filter(|(_, _, taken)| !taken) {
        text += &format!("line {line}: there already: {id}\n");
    }
    let refused = report.refused.len();
    text += &match report.dry_run {
        true => format!(
            "{} could be taken by their form and strength, {refused} not; the daemon was not asked\n",
            report.taken
        ),
        false => format!("{} taken, {} there already, {refused} not taken\n", report.taken, report.already),
    };
    if let Some(line) = report.unfinished {
        text += &format!(
            "broken off: what became of line {line} and those after it is not known; run it again, what was taken is there already\n"
        );
    }
    text
}
