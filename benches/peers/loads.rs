//! The loads of validation, and who meets in each.

use std::io;

use crate::common::load::Load;
use crate::common::tokens::{self, Requests};
use crate::common::wire::Target;
use crate::contest::{Entrant, Title, hold};
use crate::plan::Plan;
use crate::report::Report;
use crate::rivals::{self, Kept};
use crate::stage::Stage;

/// Names of the loads.
pub const ALL: [&str; 7] = ["warm", "full", "hot", "pipelined warm", "pipelined full", "batch warm", "batch full"];
/// Tokens that are warm: in the cache, and in the audit's open windows.
const WARM: usize = 100;
/// Connections, with one request in flight on each.
const CONNECTIONS: [usize; 4] = [1, 2, 16, 64];
/// Connections and requests in flight where there are more.
const PIPELINE: (usize, usize) = (8, 16);
/// Of the quick run, with how many MUNGE takes its second.
const QUICK_MUNGE: usize = 16;

/// What a ratio should be.
fn reach(load: &str, connections: usize, to: &str) -> Option<f64> {
    match (load, to, connections) {
        ("warm", "tokio echo", 1 | 16 | 64) => Some(0.85),
        ("full", "tokio echo", 1 | 16 | 64) => Some(0.6),
        ("warm" | "full", "Redis GET", 1) => Some(1.0),
        ("warm" | "full", "Redis GET", 16) => Some(1.2),
        ("warm" | "full", "Redis GET", 64) => Some(1.5),
        ("pipelined warm" | "pipelined full", "Redis GET", _) => Some(1.2),
        ("batch warm" | "batch full", "Redis GET", _) => Some(3.0),
        _ => None,
    }
}

/// Measures all that the plan wants.
pub fn measure(stage: &Stage, plan: &Plan, report: &mut Report) -> io::Result<()> {
    if !ALL.iter().any(|load| plan.wants(load)) {
        return Ok(());
    }
    let target = Target::Bearerd(stage.bearerd.socket.clone());
    let known = tokens::make(&target, plan.tokens)?;
    let hot = tokens::hot(&target, &known)?;
    let warm = tokens::warm(&target, &known[..WARM])?;
    let full = tokens::full(&target, &known, plan.questions)?;
    let arena = Arena::fill(stage, plan, full.reply_bytes())?;
    for (load, requests, keys) in [("warm", &warm, WARM), ("full", &full, plan.tokens), ("hot", &hot, 1)] {
        for connections in CONNECTIONS {
            arena.meet(report, load, (connections, 1), requests, keys)?;
        }
    }
    arena.meet(report, "pipelined warm", PIPELINE, &warm, WARM)?;
    arena.meet(report, "pipelined full", PIPELINE, &full, plan.tokens)?;
    for (load, known, vary) in [("batch warm", &known[..WARM], false), ("batch full", &known[..], true)] {
        if plan.wants(load) {
            let batches = tokens::batches(&target, known, plan.batches, vary)?;
            let keys = known.len();
            arena.meet(report, load, (PIPELINE.0, 1), &batches, keys)?;
        }
    }
    Ok(())
}

/// Where they meet: the peers hold their keys.
struct Arena<'a> {
    stage: &'a Stage,
    plan: &'a Plan,
    redis: Option<Target>,
    memcached: Option<Target>,
    /// Of the peers' values: as long as bearerd's answer.
    value_bytes: usize,
}

impl<'a> Arena<'a> {
    fn fill(stage: &'a Stage, plan: &'a Plan, value_bytes: usize) -> io::Result<Self> {
        let redis = stage.rivals.redis.as_ref().map(|server| Target::Redis(server.socket.clone()));
        let memcached = stage.rivals.memcached.as_ref().map(|server| Target::Memcached(server.socket.clone()));
        if let Some(target) = &redis {
            rivals::fill_redis(target, plan.tokens, value_bytes)?;
        }
        if let Some(target) = &memcached {
            rivals::fill_memcached(target, plan.tokens, value_bytes)?;
        }
        Ok(Self { stage, plan, redis, memcached, value_bytes })
    }

    /// All who take part in a load, in turns. `flight`: connections, and requests in flight on each.
    fn meet(
        &self,
        report: &mut Report,
        load: &str,
        flight: (usize, usize),
        requests: &Requests,
        keys: usize,
    ) -> io::Result<()> {
        let (stage, plan) = (self.stage, self.plan);
        if !plan.wants(load) {
            return Ok(());
        }
        let batch = requests.tokens > 1;
        let (connections, window) = flight;
        let open = |target: &Target, check| Load::open(target, &requests.frames, check, connections, window);
        let bearerd = open(&Target::Bearerd(stage.bearerd.socket.clone()), requests.check.clone())?;
        let mut sides = vec![Entrant::load("bearerd", &stage.bearerd, bearerd, requests.tokens)];
        for (name, server) in [("tokio echo", &stage.echo), ("blocking echo", &stage.blocking_echo)] {
            let echo = Target::Echo(server.socket.clone(), requests.sample.clone());
            sides.push(Entrant::load(name, server, open(&echo, requests.echo_check())?, requests.tokens));
        }
        // They have no batches of their own that are checked one by one: what they can do is to pipeline.
        let (connections, window) = if batch { PIPELINE } else { flight };
        let redis = rivals::redis_gets(keys, self.value_bytes);
        let memcached = rivals::memcached_gets(keys, self.value_bytes);
        let peers = [
            ("Redis GET", &self.redis, &stage.rivals.redis, &redis),
            ("memcached get", &self.memcached, &stage.rivals.memcached, &memcached),
        ];
        for (name, target, server, Kept { frames, check }) in peers {
            if let (Some(target), Some(server)) = (target, server) {
                let load = Load::open(target, frames, check.clone(), connections, window)?;
                sides.push(Entrant::load(name, server, load, 1));
            }
        }
        if let Some(munge) = &stage.rivals.munge
            && load == "warm"
            && (!plan.quick || connections == QUICK_MUNGE)
        {
            sides.push(Entrant::munge(munge, connections));
        }
        let title = Title {
            load,
            connections: flight.0,
            window: flight.1,
            request_bytes: requests.frames.frame(requests.frames.len() / 2).len(),
            reply_bytes: requests.reply_bytes(),
        };
        report.rows.push(hold(plan, &title, sides, |_, to| reach(load, flight.0, to))?);
        Ok(())
    }
}
