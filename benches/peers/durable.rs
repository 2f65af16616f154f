//! Issue and revoke, durable before their answers, beside Redis that syncs each SET before its answer, and beside what the
//! disk can do: appends of 4 KiB, each followed by fdatasync. All on one file system.

use std::fs;
use std::io;

use bearerd::protocol::message::{Ask, Handle, Request, Revoke, Which};

use crate::common::fill::{self, Forge};
use crate::common::load::{Check, Frames, Load};
use crate::common::random::Random;
use crate::common::server::{self, Server, Sink};
use crate::common::tokens;
use crate::common::wire::Target;
use crate::contest::{Entrant, Title, hold};
use crate::plan::Plan;
use crate::report::Row;
use crate::rivals;
use crate::stage::Stage;

/// Its name.
pub const LOAD: &str = "durable";
const ISSUE: &str = "bearerd issue";
const CONNECTIONS: usize = 64;
/// More than can be revoked in a second: each is revoked once only.
const REVOCABLE_PER_SECOND: f64 = 50_000.0;
/// Different requests to issue.
const ISSUES: usize = 4096;
/// Keys and bytes of what Redis sets: some 10,000 tokens, as long as the record that bearerd seals.
const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 260;
/// `Answer::Issued`, as it follows the request's number.
const ISSUED: u8 = 3;
/// `Answer::Changed`, and that one token changed.
const CHANGED_ONE: [u8; 2] = [4, 1];

/// Measures all in turn, on a bearerd of its own that has tokens to revoke.
pub fn measure(stage: &Stage, plan: &Plan) -> io::Result<Row> {
    let files = stage.files().join("durable");
    fs::create_dir(&files)?;
    let log = stage.sockets().join("durable-log");
    let _sink = Sink::open(&log)?;
    let socket = stage.sockets().join("durable.sock");
    let config = server::configure(&files, &socket, Some(&log))?;
    let time = (plan.time + plan.warm_up) * u32::try_from(plan.rounds).map_err(io::Error::other)?;
    let revocable = (time.as_secs_f64() * REVOCABLE_PER_SECOND) as usize;
    let forge = Forge::new(revocable, 5);
    fill::fill(&config, revocable, |ground, number| forge.record(ground, number))?;
    let bearerd = Server::start(server::bearerd(&plan.program, &config), socket, &files.join("stderr"))?;
    let target = Target::Bearerd(bearerd.socket.clone());

    let mut random = Random::new(4);
    let (mut issues, mut revocations) = (Frames::default(), Frames::once());
    for number in 0..ISSUES {
        issues.push(&Request { id: 1, body: Ask::Issue(tokens::issue(number, &mut random).0) });
    }
    for number in 0..revocable {
        let which = Which::Handles(vec![Handle(forge.id(number).to_string())]);
        revocations.push(&Request { id: 1, body: Ask::Revoke(Revoke { which, reason: None, dry_run: false }) });
    }
    let open = |frames, check| Load::open(&target, frames, check, CONNECTIONS, 1);
    let mut sides = vec![
        Entrant::load(ISSUE, &bearerd, open(&issues, Check::Begins(vec![ISSUED]))?, 1),
        Entrant::load("bearerd revoke", &bearerd, open(&revocations, Check::Begins(CHANGED_ONE.to_vec()))?, 1),
        Entrant::syncs(files.join("floor")),
    ];
    let sets = rivals::redis_sets(KEYS, VALUE_BYTES);
    if let Some(redis) = &stage.rivals.redis_durable {
        let target = Target::Redis(redis.socket.clone());
        let load = Load::open(&target, &sets.frames, sets.check.clone(), CONNECTIONS, 1)?;
        sides.push(Entrant::load("Redis SET", redis, load, 1));
    }
    let title =
        Title { load: LOAD, connections: CONNECTIONS, window: 1, request_bytes: issues.frame(0).len(), reply_bytes: 0 };
    hold(plan, &title, sides, |of, to| (of == ISSUE && to == "Redis SET").then_some(1.0))
}
