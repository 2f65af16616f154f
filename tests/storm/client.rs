//! One of the caching clients: a process that asks and asks, and says when it was told what is no longer so.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bearerd::client::blocking::CachedClient;
use bearerd::client::{CacheOptions, Options};
use bearerd::page;
use bearerd::protocol::message::{Validate, Verdict};
use bearerd::token::TokenId;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::getppid;

use super::board::{Counts, PLACES, Phase, QUESTIONS, Seen};
use super::{Dice, SCOPES};
use crate::daemon::{PATIENCE, id_of};

/// `NUMBER SEED BOARD TEXTS COUNTS SOCKET`
const VARIABLE: &str = "BEARERD_TEST_STORM";
/// Places that one client looks at: so few that it mostly finds what it has kept.
const MINE: usize = 6;
const BURST: usize = 16;
/// Between two bursts. Nothing is waited for: 64 that never rest would leave the daemon no processor.
const REST: Duration = Duration::from_millis(8);

/// What a line that reports a violation begins with.
pub const STALE: &str = "stale: ";

pub fn command(test: &str, said: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(VARIABLE, said);
    command
}

struct Asker {
    client: CachedClient,
    board: Seen,
    dice: Dice,
    counts: Counts,
    number: usize,
    /// The last verdict on each of my questions: the same again was not asked for.
    had: Vec<Option<(usize, Arc<Verdict>)>>,
    /// Refused last time: the token of each of my questions.
    refused: Vec<Option<usize>>,
}

/// The client's whole life; nothing, in a run of all tests.
pub fn run() {
    let Ok(said) = std::env::var(VARIABLE) else { return };
    let said: Vec<&str> = said.split(' ').collect();
    let [number, seed, board, texts, counts, socket] = said[..] else { panic!("{said:?}") };
    let (number, seed): (usize, u64) = (number.parse().unwrap(), seed.parse().unwrap());
    let options = Options { timeout: Duration::from_secs(10), connect_retry: PATIENCE, ..Options::default() };
    let counts = OpenOptions::new().write(true).open(counts).unwrap();
    let parent = getppid();
    let begun = Instant::now();
    let client = loop {
        match CachedClient::connect(PathBuf::from(socket), options.clone(), CacheOptions::default()) {
            Ok(client) => break client,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
    };
    let mut asker = Asker {
        client,
        board: Seen::open(board, texts.as_ref()),
        dice: Dice(seed ^ ((number as u64) << 32)),
        counts: Counts::default(),
        number,
        had: vec![None; MINE * QUESTIONS],
        refused: vec![None; MINE * QUESTIONS],
    };
    while asker.board.phase() == Phase::Storm && getppid() == parent {
        for _ in 0..BURST {
            asker.look();
        }
        asker.counts.write(&counts, number);
        thread::sleep(REST);
    }
    let Some(last) = asker.board.last() else { return };
    let text = asker.board.text(last);
    let patience = Instant::now() + PATIENCE;
    while asker.client.kept(&question(&text, 0)).is_none() && Instant::now() < patience {
        // It has lived through all restarts by itself.
        let _ = asker.client.validate(&question(&text, 0));
    }
    asker.counts.calm = asker.client.kept(&question(&text, 0)).is_some().into();
    asker.counts.write(&counts, number);
    while asker.board.phase() != Phase::Over && getppid() == parent {
        asker.counts.checks += 1;
        asker.counts.hits += u64::from(asker.client.kept(&question(&text, 0)).is_some());
        thread::sleep(REST);
    }
    for at in 0..QUESTIONS {
        asker.check(last, at, None);
    }
    asker.counts.write(&counts, number);
}

impl Asker {
    fn look(&mut self) {
        let mine = self.dice.below(MINE * QUESTIONS);
        let (place, at) = (mine / QUESTIONS, mine % QUESTIONS);
        let place = (self.number * 7 + place * 19) % PLACES;
        if let Some(token) = self.board.at(place) {
            self.check(token, at, Some(mine));
        }
    }

    fn check(&mut self, token: usize, at: usize, mine: Option<usize>) {
        let text = self.board.text(token);
        let asked = question(&text, at);
        // Before anything else of the check.
        let before = self.board.state(token, at);
        let began = clock();
        let late = before % 2 == 1;
        self.counts.checks += 1;
        self.counts.late += u64::from(late);
        // What was refused is not kept, and each look would go to the daemon: most go to the cache alone.
        let again = mine.is_some_and(|mine| self.refused[mine] == Some(token));
        let verdict = if again && late && self.dice.below(8) > 0 {
            self.client.kept(&asked).map(|known| known.share())
        } else {
            match self.client.validate(&asked) {
                Ok(verdict) => Some(verdict.share()),
                Err(_) => {
                    self.counts.errors += 1;
                    return;
                }
            }
        };
        let after = self.board.state(token, at);
        let Some(verdict) = verdict else { return };
        let hit = mine.is_some_and(|mine| {
            let had = self.had[mine].as_ref();
            had.is_some_and(|(of, had)| *of == token && Arc::ptr_eq(had, &verdict))
        });
        self.counts.hits += u64::from(hit);
        self.counts.asks += u64::from(!hit);
        if verdict.active && late && before == after {
            let id = id_of(&text);
            let what = format!(
                "client {}, token {token} {id}, scope {:?}: active {}, in a check from {} to {} us; its word is {before}; {}",
                self.number,
                SCOPES[at],
                if hit { "out of the cache" } else { "by the daemon or out of the cache" },
                began.as_micros(),
                clock().as_micros(),
                pages(&id),
            );
            println!("{STALE}{what}");
        }
        if let Some(mine) = mine {
            self.refused[mine] = (!verdict.active).then_some(token);
            self.had[mine] = verdict.active.then_some((token, verdict));
        }
    }
}

fn question(token: &str, at: usize) -> Validate<'_> {
    Validate { token, scopes: vec![SCOPES[at]], audience: None, from: None, note: None, peek: false }
}

fn clock() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap().into()
}

/// What the epoch pages say that this process has: of the daemon, and of dead ones that verdicts are kept of.
fn pages(id: &str) -> String {
    let id: TokenId = id.parse().unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let starts = maps.lines().filter(|line| line.contains("bearerd-epochs")).map(|line| {
        let start = line.split('-').next().unwrap();
        u64::from_str_radix(start, 16).unwrap()
    });
    let pages = starts.map(|start| {
        let word = |n: usize| {
            let mut bytes = [0; 8];
            memory.read_exact_at(&mut bytes, start + n as u64 * 8).unwrap();
            u64::from_le_bytes(bytes)
        };
        // docs/epoch-page.md: words 3, 4 and 5, and the slots from word 512 on.
        let slot = word(512 + page::slot_of(id));
        format!("page: state {}, generation {}, heartbeat {} us, slot {slot}", word(3), word(4), word(5))
    });
    pages.collect::<Vec<_>>().join("; ")
}
