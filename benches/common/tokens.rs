//! The tokens that are asked about, and the requests that ask.

use std::io::{self, Write};
use std::sync::Arc;

use bearerd::codec;
use bearerd::protocol::message::{Answer, Ask, Issue, Reply, Request, Validate};

use super::load::{Check, Frames};
use super::random::Random;
use super::wire::{Target, read_frame};

/// What tokens may do and requests ask for.
const SCOPES: [&str; 16] = [
    "repo:read",
    "repo:write",
    "repo:admin",
    "registry:pull",
    "registry:push",
    "deploy:staging",
    "deploy:production",
    "metrics:read",
    "metrics:write",
    "logs:read",
    "backup:run",
    "backup:restore",
    "users:read",
    "users:write",
    "billing:read",
    "queue:publish",
];
/// Scopes of one token.
const GRANTED: usize = 4;
/// Tokens in one batch.
pub const BATCH: usize = 64;
/// Issues in flight while the tokens are made.
const ISSUES: usize = 200;

/// A token and what it may do.
pub struct Known {
    token: String,
    scopes: Vec<&'static str>,
}

/// Requests of one kind, and what a good answer to them is.
pub struct Requests {
    pub frames: Frames,
    pub check: Check,
    /// How many tokens each asks about.
    pub tokens: usize,
    /// An answer of middling length, for the echo to give.
    pub sample: Vec<u8>,
}

impl Requests {
    /// Bytes of an answer on the wire.
    pub fn reply_bytes(&self) -> usize {
        self.sample.len() + 4
    }

    /// What a good answer of the echo is: what it was given.
    pub fn echo_check(&self) -> Check {
        match &self.check {
            Check::Begins(begin) => Check::Begins(begin.clone()),
            Check::Is(_) | Check::Whole(_) => Check::Is(Arc::new(vec![self.sample.clone()])),
        }
    }
}

/// A request to issue a token, as people would: a name, some scopes, a label.
pub fn issue(number: usize, random: &mut Random) -> (Issue, Vec<&'static str>) {
    let first = random.below(SCOPES.len());
    let scopes: Vec<&str> = (0..GRANTED).map(|step| SCOPES[(first + 5 * step) % SCOPES.len()]).collect();
    let issue = Issue {
        name: format!("integration-{number:06}"),
        subject: Some(format!("team-{:03}", number % 1000)),
        scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
        labels: [("env".to_owned(), "production".to_owned())].into(),
        ..Issue::default()
    };
    (issue, scopes)
}

/// Issues `count` tokens, many at a time.
pub fn make(target: &Target, count: usize) -> io::Result<Vec<Known>> {
    let mut stream = target.connect()?;
    let mut random = Random::new(1);
    let mut known = Vec::with_capacity(count);
    while known.len() < count {
        let chunk = ISSUES.min(count - known.len());
        let mut frames = Frames::default();
        let mut scopes = Vec::new();
        for number in 0..chunk {
            let (issue, granted) = issue(known.len() + number, &mut random);
            frames.push(&Request { id: number as u32 + 1, body: Ask::Issue(issue) });
            scopes.push(granted);
        }
        for number in 0..chunk {
            stream.write_all(frames.frame(number))?;
        }
        let first = known.len();
        for _ in 0..chunk {
            let bytes = read_frame(&mut stream)?;
            let reply: Reply = codec::decode(&bytes).map_err(io::Error::other)?;
            let Answer::Issued(issued) = reply.body else { return Err(io::Error::other("a token was not issued")) };
            let scopes = std::mem::take(&mut scopes[reply.id as usize - 1]);
            known.push(Known { token: issued.token.expose().to_owned(), scopes });
        }
        // Answers came in the order of the commits; which token has which scopes does not depend on it.
        debug_assert_eq!(known.len(), first + chunk);
    }
    Ok(known)
}

/// One token, one question, again and again.
pub fn hot(target: &Target, known: &[Known]) -> io::Result<Requests> {
    let question = known[0].asks(1, 0);
    singly(target, [question].into_iter())
}

/// Each of these tokens with one question of its own.
pub fn warm(target: &Target, known: &[Known]) -> io::Result<Requests> {
    singly(target, known.iter().enumerate().map(|(number, known)| known.asks(1 + number % 2, number)))
}

/// Tokens uniformly, each time with one or two of its scopes.
pub fn full(target: &Target, known: &[Known], count: usize) -> io::Result<Requests> {
    let mut random = Random::new(2);
    singly(target, (0..count).map(|_| random_question(known, &mut random)))
}

/// Batches: `pick` draws the tokens' questions.
pub fn batches(target: &Target, known: &[Known], count: usize, vary: bool) -> io::Result<Requests> {
    let mut random = Random::new(3);
    let mut stream = target.connect()?;
    let mut frames = Frames::default();
    let mut answers = Vec::with_capacity(count);
    for number in 0..count {
        let batch = (0..BATCH)
            .map(|_| match vary {
                true => random_question(known, &mut random),
                false => {
                    let at = random.below(known.len());
                    known[at].asks(1 + at % 2, at)
                }
            })
            .collect();
        frames.push(&Request { id: 1, body: Ask::ValidateBatch(batch) });
        stream.write_all(frames.frame(number))?;
        let answer = read_frame(&mut stream)?;
        let reply: Reply = codec::decode(&answer).map_err(io::Error::other)?;
        match reply.body {
            Answer::Verdicts(verdicts) if verdicts.len() == BATCH && verdicts.iter().all(|it| it.active) => {}
            _ => return Err(io::Error::other("a batch was not all active")),
        }
        answers.push(answer);
    }
    let sample = middling(answers.clone());
    Ok(Requests { frames, check: Check::Is(Arc::new(answers)), tokens: BATCH, sample })
}

impl Known {
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A question for so many of its scopes, from this one on.
    pub fn asks(&self, scopes: usize, first: usize) -> Validate<'_> {
        let scopes = (0..scopes).map(|step| self.scopes[(first + step) % GRANTED]).collect();
        Validate { token: &self.token, scopes, audience: None, from: None, note: None, peek: false }
    }
}

fn random_question<'a>(known: &'a [Known], random: &mut Random) -> Validate<'a> {
    known[random.below(known.len())].asks(1 + random.below(2), random.below(GRANTED))
}

fn singly<'a>(target: &Target, questions: impl Iterator<Item = Validate<'a>>) -> io::Result<Requests> {
    let mut frames = Frames::default();
    for question in questions {
        frames.push(&Request { id: 1, body: Ask::Validate(question) });
    }
    // Some are looked at closely, and one of them is what the echo gives.
    let mut stream = target.connect()?;
    let mut answers = Vec::new();
    for number in (0..frames.len()).step_by(frames.len().div_ceil(101)) {
        stream.write_all(frames.frame(number))?;
        let answer = read_frame(&mut stream)?;
        let reply: Reply = codec::decode(&answer).map_err(io::Error::other)?;
        let Answer::Verdict(verdict) = reply.body else { return Err(io::Error::other("no verdict")) };
        if !verdict.active {
            return Err(io::Error::other("a verdict is not active"));
        }
        answers.push(answer);
    }
    let sample = middling(answers);
    // Number, then which answer it is, then `active`: the rest is the token's.
    let begin = sample[1..3].to_vec();
    Ok(Requests { frames, check: Check::Begins(begin), tokens: 1, sample })
}

fn middling(mut answers: Vec<Vec<u8>>) -> Vec<u8> {
    answers.sort_by_key(Vec::len);
    let middle = answers.len() / 2;
    answers.swap_remove(middle)
}
