//! Issue, durable before its answer, beside what the disk can do: appends of 4 KiB, each followed by fdatasync.

use std::fs::File;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use bearerd::protocol::message::{Ask, Request};

use crate::load::{Check, Frames, Load, Outcome, Random, Target};
use crate::report::{Durable, median};
use crate::stage::Stage;
use crate::{CONNECTIONS_MANY, Plan, tokens};

/// Bytes of one append.
const APPEND: usize = 4096;
/// `Answer::Issued`, as it follows the request's number.
const ISSUED: u8 = 3;

/// Measures both in turn.
pub fn measure(stage: &Stage, plan: &Plan) -> io::Result<Durable> {
    let mut random = Random::new(4);
    let mut frames = Frames::default();
    for number in 0..4096 {
        frames.push(&Request { id: 1, body: Ask::Issue(tokens::issue(number, &mut random).0) });
    }
    let target = Target::Bearerd(&stage.bearerd.socket);
    let mut load = Load::open(&target, &frames, Check::Begins(vec![ISSUED]), CONNECTIONS_MANY, 1)?;
    load.run(plan.warm_up)?;
    let (mut floors, mut issues, mut all) = (Vec::new(), Vec::new(), Outcome::default());
    let mut cpu_secs = 0.0;
    for _ in 0..plan.rounds {
        floors.push(floor(stage, plan.time)?);
        let before = stage.bearerd.cpu_secs()?;
        let outcome = load.run(plan.time)?;
        cpu_secs += stage.bearerd.cpu_secs()? - before;
        issues.push(outcome.per_second());
        all.answers += outcome.answers;
        all.bad += outcome.bad;
        all.latency.add(&outcome.latency);
    }
    let per_sync = issues.iter().zip(&floors).map(|(issues, floor)| issues / floor).collect();
    Ok(Durable {
        connections: CONNECTIONS_MANY,
        issues_per_second: median(issues),
        syncs_per_second: median(floors),
        issues_per_sync: median(per_sync),
        cpu_micros: cpu_secs * 1e6 / all.answers.max(1) as f64,
        bad: all.bad,
        latency: (&all.latency).into(),
    })
}

fn floor(stage: &Stage, time: Duration) -> io::Result<f64> {
    let path = stage.state_dir().join("floor");
    let mut file = File::create(&path)?;
    let begun = Instant::now();
    let mut count = 0u64;
    while begun.elapsed() < time {
        file.write_all(&[0x5a; APPEND])?;
        file.sync_data()?;
        count += 1;
    }
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}
