//! What the revokers and the clients share: for each question a word that says whether the reply to its revocation has
//! come. In memory that only the revokers' process can write, the kind of which the epoch page is made.
//!
//! A question is a token and one of its two scopes. Its word is even while it may be answered *active*. It is made odd
//! after the reply to what took it away, and even again before anybody is asked to give it back. So whoever finds it odd
//! before a check, and the same after it, has checked what was not to be had for all that time.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bearerd::sys::shared::{OwnWords, Words};

/// Places at which clients find tokens to ask for.
pub const PLACES: usize = 112;
pub const QUESTIONS: usize = 2;
/// Tokens of a whole run.
pub const TOKENS: usize = 1 << 19;

const AT_PHASE: usize = 0;
const AT_LAST: usize = 1;
const AT_PLACES: usize = 8;
const AT_STATES: usize = AT_PLACES + PLACES;
const WORDS: usize = AT_STATES + TOKENS * QUESTIONS;

/// Bytes of a token's text in the file of texts, with what fills it up.
const TEXT: usize = 128;

/// What a run has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Storm = 0,
    /// All are to find the last token good.
    Calm = 1,
    /// The last token is revoked.
    Over = 2,
}

/// The revokers' side.
pub struct Board {
    words: OwnWords,
    texts: File,
    issued: AtomicU64,
}

impl Board {
    pub fn new(texts: &Path) -> Self {
        let texts = OpenOptions::new().create_new(true).write(true).open(texts).unwrap();
        Self { words: OwnWords::new("storm", WORDS).unwrap(), texts, issued: AtomicU64::new(0) }
    }

    /// How another process opens it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.words.file().as_raw_fd())
    }

    /// Takes a token down, under a number.
    pub fn add(&self, token: &str) -> usize {
        let number = usize::try_from(self.issued.fetch_add(1, Ordering::Relaxed)).unwrap();
        assert!(number < TOKENS && token.len() < TEXT, "the board is full");
        self.texts.write_all_at(token.as_bytes(), (number * TEXT) as u64).unwrap();
        number
    }

    /// Shows it at a place.
    pub fn show(&self, place: usize, token: usize) {
        self.store(AT_PLACES + place, token as u64 + 1);
    }

    /// The reply to what took this away has come.
    pub fn taken(&self, token: usize, question: usize) {
        self.turn(token, question, 1);
    }

    /// It is about to be given back.
    pub fn given_back(&self, token: usize, question: usize) {
        self.turn(token, question, 0);
    }

    pub fn show_last(&self, token: usize) {
        self.store(AT_LAST, token as u64 + 1);
        self.store(AT_PHASE, Phase::Calm as u64);
    }

    pub fn end(&self) {
        self.store(AT_PHASE, Phase::Over as u64);
    }

    fn turn(&self, token: usize, question: usize, odd: u64) {
        let word = state_of(token, question);
        let was = self.words.words()[word].load(Ordering::Relaxed);
        assert_eq!(was % 2, 1 - odd, "one revoker a token, and one thing at a time");
        self.store(word, was + 1);
    }

    fn store(&self, word: usize, value: u64) {
        self.words.words()[word].store(value, Ordering::Release);
    }
}

/// The clients' side.
pub struct Seen {
    words: Words,
    texts: File,
}

impl Seen {
    pub fn open(board: &str, texts: &Path) -> Self {
        let file = OwnedFd::from(File::open(board).unwrap());
        Self { words: Words::open(&file, WORDS).unwrap(), texts: File::open(texts).unwrap() }
    }

    pub fn phase(&self) -> Phase {
        match self.words.load(AT_PHASE) {
            0 => Phase::Storm,
            1 => Phase::Calm,
            _ => Phase::Over,
        }
    }

    pub fn at(&self, place: usize) -> Option<usize> {
        self.words.load(AT_PLACES + place).checked_sub(1).map(|token| token as usize)
    }

    pub fn last(&self) -> Option<usize> {
        self.words.load(AT_LAST).checked_sub(1).map(|token| token as usize)
    }

    pub fn state(&self, token: usize, question: usize) -> u64 {
        self.words.load(state_of(token, question))
    }

    pub fn text(&self, token: usize) -> String {
        let mut text = vec![0; TEXT];
        let count = self.texts.read_at(&mut text, (token * TEXT) as u64).unwrap();
        text.truncate(count);
        text.retain(|&byte| byte != 0);
        String::from_utf8(text).unwrap()
    }
}

fn state_of(token: usize, question: usize) -> usize {
    AT_STATES + token * QUESTIONS + question
}

/// What a client has counted, in a file that each writes its own line of.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub checks: u64,
    /// Answered out of the cache.
    pub hits: u64,
    /// Answered by the daemon.
    pub asks: u64,
    /// Not answered.
    pub errors: u64,
    /// Begun after the reply to the revocation of what was asked for.
    pub late: u64,
    /// It has found the last token good, and kept it.
    pub calm: u64,
}

const COUNTS: usize = 48;

impl Counts {
    pub fn write(&self, file: &File, client: usize) {
        let words = [self.checks, self.hits, self.asks, self.errors, self.late, self.calm];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        file.write_all_at(&bytes, (client * COUNTS) as u64).unwrap();
    }

    /// Of all clients.
    pub fn read(file: &File, clients: usize) -> Self {
        let mut bytes = vec![0; clients * COUNTS];
        let mut filled = 0;
        while let count @ 1.. = file.read_at(&mut bytes[filled..], filled as u64).unwrap() {
            filled += count;
        }
        let words: Vec<u64> = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
        let sum = |of: usize| words.iter().skip(of).step_by(COUNTS / 8).sum();
        Self { checks: sum(0), hits: sum(1), asks: sum(2), errors: sum(3), late: sum(4), calm: sum(5) }
    }
}
