//! The registry against a reference model: random lives of a few tokens, with a clock that moves, and after each step
//! every token must be to the program what it is to the model.
//!
//! A failure says the seed and the shortest run of steps that shows it; [`REPLAY`] runs one seed alone.

#[path = "model/mod.rs"]
mod model;
#[path = "model/orders.rs"]
mod orders;
#[path = "model/program.rs"]
mod program;

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use bearerd::registry::ended;
use model::{Came, Kind, Model, New, State, What, Which};
use program::{Program, place, secs, shown};

/// Lives that are led.
const SEQUENCES: u64 = 100_000;
/// Put the seed of a failure here.
const REPLAY: Option<u64> = None;
const THREADS: u64 = 2;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// One step. Tokens are named by any number: it is taken modulo how many there are.
#[derive(Clone, Copy, Debug)]
enum Step {
    Issue(New),
    Pass(u64),
    Use(usize),
    Renew(usize),
    Edit {
        token: usize,
        left: Option<u64>,
        label: Option<u8>,
    },
    Rotate {
        token: usize,
        at_once: bool,
        afresh: bool,
        grace: u64,
    },
    Revoke(usize),
    RevokeBoth(usize, usize),
    Suspend(usize),
    Resume(usize),
    Sweep,
    Order(What, Which),
    /// An order is written into one record.
    Write(usize),
    /// And into all.
    Finish,
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[usize::try_from(self.roll(these.len() as u64)).expect("short")]
    }

    fn token(&mut self) -> usize {
        usize::try_from(self.roll(1 << 16)).expect("small")
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.roll(many) == 0
    }

    fn few(&mut self) -> u8 {
        u8::try_from(self.roll(2)).expect("small")
    }

    fn label(&mut self) -> Option<u8> {
        (!self.one_in(3)).then(|| self.few())
    }

    fn issue(&mut self) -> Step {
        let kind =
            self.one_of(&[Kind::Machine, Kind::Machine, Kind::Machine, Kind::Session, Kind::Session, Kind::Canary]);
        let ttl = match kind {
            Kind::Session => self.one_of(&[15 * MINUTE, HOUR, DAY, 7 * DAY]),
            _ => self.one_of(&[HOUR, DAY, 8 * DAY, 90 * DAY, 366 * DAY]),
        };
        let delay = if self.one_in(6) { self.one_of(&[1, 10 * MINUTE, 2 * DAY]) } else { 0 };
        let max_uses = if kind != Kind::Canary && self.one_in(3) { Some(1 + self.roll(3)) } else { None };
        Step::Issue(New { subject: self.few(), label: self.label(), kind, ttl, delay, max_uses })
    }

    fn which(&mut self) -> Which {
        match self.roll(7) {
            0 => Which::All,
            1 => Which::Subject(self.few()),
            2 => Which::Label(self.few()),
            3 => Which::SubjectAndLabel(self.few(), self.few()),
            4 => Which::Kind(self.one_of(&[Kind::Machine, Kind::Session, Kind::Canary])),
            5 => Which::IssuedBefore(self.one_of(&[1, HOUR, DAY, 8 * DAY])),
            _ => Which::Family(usize::try_from(self.roll(2)).expect("small")),
        }
    }

    fn step(&mut self) -> Step {
        match self.roll(if orders::THERE { 124 } else { 100 }) {
            0..5 => self.issue(),
            5..25 => {
                let to_an_edge = [0, 1, 59, 299, 300, 301, 15 * MINUTE, HOUR - 1, HOUR, DAY - 1, DAY];
                let far = [2 * DAY, 7 * DAY - 1, 7 * DAY, 8 * DAY, 30 * DAY, 90 * DAY, 366 * DAY];
                Step::Pass(if self.one_in(4) { self.one_of(&far) } else { self.one_of(&to_an_edge) })
            }
            25..45 => Step::Use(self.token()),
            45..52 => Step::Renew(self.token()),
            52..58 => {
                let left = if self.one_in(2) { None } else { Some(self.one_of(&[0, 1, 301, HOUR, DAY, 30 * DAY])) };
                Step::Edit { token: self.token(), left, label: self.label() }
            }
            58..79 => Step::Rotate {
                token: self.token(),
                at_once: self.one_in(5),
                afresh: self.one_in(2),
                grace: self.one_of(&[0, 300, 300, DAY]),
            },
            79..85 => Step::Revoke(self.token()),
            85..87 => Step::RevokeBoth(self.token(), self.token()),
            87..92 => Step::Suspend(self.token()),
            92..96 => Step::Resume(self.token()),
            96..100 => Step::Sweep,
            100..110 => {
                Step::Order(self.one_of(&[What::Revoke, What::Suspend, What::Suspend, What::Resume]), self.which())
            }
            110..122 => Step::Write(self.token()),
            _ => Step::Finish,
        }
    }
}

fn life(seed: u64) -> Vec<Step> {
    let mut dice = Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut steps = vec![dice.issue()];
    for _ in 0..9 + dice.roll(16) {
        steps.push(dice.step());
    }
    steps
}

/// Both, side by side.
struct Pair {
    model: Model,
    program: Program,
}

impl Pair {
    fn new() -> Self {
        Self { model: Model::default(), program: Program::new() }
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        let (model, program) = (&mut self.model, &mut self.program);
        let count = model.tokens.len();
        let named = |token: usize| token % count.max(1);
        if count == 0 && !matches!(step, Step::Issue(_) | Step::Pass(_)) {
            return Ok(());
        }
        match step {
            Step::Issue(new) => same("issue", &program.issue(new), &model.issue(new)),
            Step::Pass(secs) => {
                model.now += secs;
                program.now += secs;
                Ok(())
            }
            Step::Use(token) => same("use", &program.use_it(named(token)), &as_verdict(model.use_it(named(token)))),
            Step::Renew(token) => same("renew", &program.renew(named(token)), &model.renew(named(token))),
            Step::Edit { token, left, label } => {
                let token = named(token);
                same("edit", &program.edit(token, left, label), &model.edit(token, left, label))
            }
            Step::Rotate { token, at_once, afresh, grace } => {
                let token = named(token);
                let came = program.rotate(token, at_once, afresh, grace);
                same("rotate", &came, &model.rotate(token, at_once, afresh, grace))
            }
            Step::Revoke(token) => same("revoke", &program.revoke(&[named(token)]), &model.revoke(&[named(token)])),
            Step::RevokeBoth(one, other) => {
                let mut both = vec![named(one), named(other)];
                both.dedup();
                same("revoke", &program.revoke(&both), &model.revoke(&both))
            }
            Step::Suspend(token) => {
                let token = named(token);
                same("suspend", &program.hold(token, What::Suspend), &model.hold(token, What::Suspend))
            }
            Step::Resume(token) => {
                let token = named(token);
                same("resume", &program.hold(token, What::Resume), &model.hold(token, What::Resume))
            }
            Step::Sweep => same("sweep", &program.sweep(), &model.sweep()),
            Step::Order(what, which) => {
                program.order(what, which);
                model.order(what, which);
                Ok(())
            }
            Step::Write(token) => {
                program.write(named(token));
                model.written(named(token));
                Ok(())
            }
            Step::Finish => {
                program.finish();
                (0..count).for_each(|token| model.written(token));
                Ok(())
            }
        }
    }

    /// Every token is to the program what it is to the model.
    fn compare(&self) -> Result<(), String> {
        let Self { model, program } = self;
        same("how many there are", &program.records.len(), &model.tokens.len())?;
        for (token, expected) in model.tokens.iter().enumerate() {
            let record = program.seen(token);
            let state = model.state(token);
            let check = || {
                same("state", &shown(record.state(program_now(program))), &state)?;
                same("verdict", &program.verdict(&record), &as_verdict(state))?;
                same("expiry", &record.expires_at.map(secs), &expected.expires)?;
                same("ceiling", &record.max_expires_at.map(secs), &expected.ceiling)?;
                same("family", &place(record.family), &expected.family)?;
                same("predecessor", &record.predecessor.map(place), &expected.predecessor)?;
                same("successor", &record.successor.map(place), &expected.successor)?;
                same("suspended", &record.suspended.is_some(), &expected.suspended)?;
                if !expected.revoked {
                    same("end by rotation", &record.rotation.as_ref().map(|it| secs(it.ends_at)), &expected.until)?;
                }
                same("expiry told", &record.expiry_told, &expected.told)?;
                let label = record.labels.get("team").map(|it| it[1..].parse().expect("a number"));
                same("label", &label, &expected.label)?;
                if model.ended(token) {
                    return Ok(());
                }
                let uses = if expected.max_uses.is_some() { model.uses[expected.family] } else { 0 };
                same("uses", &record.uses, &uses)
            };
            check().map_err(|difference| format!("token {token}: {difference}"))?;
        }
        self.at_most_two()
    }

    /// Of each family at most a good predecessor and its one good successor; those that are only held count, for to resume
    /// one must not make a third.
    fn at_most_two(&self) -> Result<(), String> {
        let Self { model, program } = self;
        let alive = |token: &usize| ended(&program.seen(*token), program_now(program)).is_none();
        for family in 0..model.tokens.len() {
            if model.tokens[family].family != family || model.tokens[family].successor.is_none() {
                continue;
            }
            let of_it = (0..model.tokens.len()).filter(|&token| model.tokens[token].family == family);
            let good: Vec<usize> = of_it.filter(alive).collect();
            let fits = match good[..] {
                [] | [_] => true,
                [old, new] => model.tokens[new].predecessor == Some(old) && model.tokens[old].successor == Some(new),
                _ => false,
            };
            if !fits {
                return Err(format!("good or held of one family at once: {good:?}"));
            }
        }
        Ok(())
    }
}

fn program_now(program: &Program) -> bearerd::time::UnixTime {
    program::at(program.now)
}

/// A verdict knows no *rotating*: that is still good.
fn as_verdict(state: State) -> State {
    if state == State::Rotating { State::Active } else { state }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, program: &T, model: &T) -> Result<(), String> {
    if program == model {
        return Ok(());
    }
    Err(format!("{what}: the program has {program:?}, the model {model:?}"))
}

/// Where it goes wrong, if it does: after so many steps, and how.
fn run(steps: &[Step]) -> Option<(usize, String)> {
    let mut taken = 0;
    let went = catch_unwind(AssertUnwindSafe(|| {
        let mut pair = Pair::new();
        for step in steps {
            taken += 1;
            pair.take(*step)?;
            pair.compare()?;
        }
        Ok(())
    }));
    match went {
        Ok(Ok(())) => None,
        Ok(Err(difference)) => Some((taken, difference)),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            Some((taken, format!("it panicked: {}", said.unwrap_or_default())))
        }
    }
}

/// The failing run without what comes after the failure, and without each step that it does as well without.
fn shortest(mut steps: Vec<Step>) -> (Vec<Step>, String) {
    let (taken, mut how) = run(&steps).expect("it fails");
    steps.truncate(taken);
    let mut left = steps.len();
    while left > 0 {
        left -= 1;
        let mut fewer = steps.clone();
        fewer.remove(left);
        if let Some((taken, other)) = run(&fewer) {
            fewer.truncate(taken);
            // Others may do without now.
            (left, steps, how) = (fewer.len(), fewer, other);
        }
    }
    (steps, how)
}

fn report(seed: u64) -> String {
    let (steps, how) = shortest(life(seed));
    let mut text = format!("seed {seed}: {how}\n");
    for step in steps {
        writeln!(text, "    {step:?}").expect("a string takes all");
    }
    text
}

#[test]
fn the_registry_is_what_the_model_is() {
    if let Some(seed) = REPLAY {
        assert!(run(&life(seed)).is_none(), "{}", report(seed));
        return;
    }
    let failed = AtomicBool::new(false);
    let failures: Vec<u64> = std::thread::scope(|scope| {
        let failed = &failed;
        let lead = move |first: u64| {
            for seed in (first..SEQUENCES).step_by(usize::try_from(THREADS).expect("few")) {
                if failed.load(Ordering::Relaxed) {
                    break;
                }
                if run(&life(seed)).is_some() {
                    failed.store(true, Ordering::Relaxed);
                    return Some(seed);
                }
            }
            None
        };
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || lead(first))).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("failures are caught")).collect()
    });
    if let Some(seed) = failures.into_iter().min() {
        panic!("{}", report(seed));
    }
}

/// The lives reach what they are there to reach: a run that never rotates anything proves nothing about rotation.
#[test]
fn the_lives_are_rich() {
    let (mut states, mut already_rotated, mut given_back, mut three) = (std::collections::BTreeMap::new(), 0, 0, 0);
    for seed in 0..2_000 {
        let mut pair = Pair::new();
        for step in life(seed) {
            let before: Vec<Option<usize>> = pair.model.tokens.iter().map(|token| token.successor).collect();
            let count = before.len();
            if let Step::Rotate { token, at_once, afresh, grace } = step
                && count > 0
                && matches!(pair.model.clone().rotate(token % count, at_once, afresh, grace), Came::AlreadyRotated(_))
            {
                already_rotated += 1;
            }
            pair.take(step).expect("tested above");
            let back = |(token, before): (usize, &Option<usize>)| {
                before.is_some() && pair.model.tokens[token].successor.is_none()
            };
            given_back += before.iter().enumerate().filter(|&it| back(it)).count();
        }
        for token in 0..pair.model.tokens.len() {
            *states.entry(format!("{:?}", pair.model.state(token))).or_insert(0) += 1;
            let older = pair.model.tokens[token].predecessor.and_then(|old| pair.model.tokens[old].predecessor);
            three += usize::from(older.is_some());
        }
    }
    assert!(states.len() == 9 && states.values().all(|&often| often > 40), "{states:?}");
    assert!(already_rotated > 50 && given_back > 50 && three > 50, "{already_rotated} {given_back} {three}");
}
