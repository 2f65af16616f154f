//! The figures as Markdown, ready for `docs/performance.md`: ratios first.

use crate::durable;
use crate::report::{Latency, Report, Row, Scaled};

/// Whom ratios are given of, in this order.
const PEERS: [&str; 5] = ["tokio echo", "blocking echo", "Redis GET", "memcached get", "MUNGE"];

/// Prints all of it.
pub fn print(report: &Report) {
    let machine = &report.machine;
    println!(
        "\n{} x {}, Linux {}, bearerd: {}; {} rounds of {} s; load average {:.2} before, {:.2} after (the run itself counts for 2 to 4)",
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.profile,
        report.plan.rounds,
        report.plan.seconds,
        machine.load_average.0,
        machine.load_average.1,
    );
    for peer in &report.peers {
        match &peer.skipped {
            None => println!("- {}", peer.version),
            Some(why) => println!("- {} was skipped: {why}", peer.name),
        }
    }
    if report.plan.quick {
        println!("\n**A quick run: these figures mean nothing.**");
    }
    let picture = |alt: &str, name: &str| println!("\n![{alt}](img/{name})");
    let rows: Vec<&Row> = report.rows.iter().filter(|row| row.load != durable::LOAD).collect();
    if !rows.is_empty() {
        ratios(&rows);
        picture("Validations a second over those of others", "ratios.svg");
        sides(&rows);
        picture("Latencies under the full load", "latency.svg");
    }
    if let Some(row) = report.rows.iter().find(|row| row.load == durable::LOAD) {
        durable_changes(row);
    }
    if !report.scale.is_empty() {
        scale(&report.scale);
        picture("What more tokens cost", "scale.svg");
    }
    cached(report);
    rest(report);
}

fn heading(text: &str) {
    println!("\n### {text}\n");
}

fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

fn head(names: &[&str]) {
    println!("| {} |", names.join(" | "));
    println!("|{}", " --- |".repeat(names.len()));
}

fn ratios(rows: &[&Row]) {
    heading("Throughput of bearerd over that of others (reach); lowest..highest of the rounds");
    let mut names = vec!["load", "connections"];
    names.extend(PEERS);
    head(&names);
    for each in rows {
        let mut cells = vec![each.load.clone(), each.connections_shown()];
        for peer in PEERS {
            let found = each.ratios.iter().find(|it| it.to == peer);
            cells.push(found.map_or("-".to_owned(), |it| {
                let reach = it.reach.map_or(String::new(), |reach| {
                    format!(" ({reach:.2}{})", if it.ratio < reach { ": **short**" } else { "" })
                });
                format!("**{:.2}**{reach}; {:.2}..{:.2}", it.ratio, it.lowest, it.highest)
            }));
        }
        row(&cells);
    }
}

fn sides(rows: &[&Row]) {
    heading("What each did: tokens a second; latency of a request; processor time of the server for each token");
    head(&["load", "connections", "who", "/s", "p50 / p99 / p99.9, µs", "processor, µs"]);
    for each in rows {
        for side in &each.sides {
            row(&[
                each.load.clone(),
                each.connections_shown(),
                side.name.clone(),
                thousands(side.per_second),
                side.latency.map_or("-".to_owned(), latency),
                side.cpu_micros.map_or("-".to_owned(), |micros| format!("{micros:.2}")),
            ]);
            if side.bad > 0 {
                println!("\n**{} answers of {} were not as they should be**\n", side.bad, side.name);
            }
        }
    }
}

fn durable_changes(changes: &Row) {
    heading("Durable changes, on one disk");
    head(&[
        "connections",
        "what",
        "of Redis SET, always synced (reach)",
        "of fdatasync of 4 KiB",
        "/s",
        "p50 / p99 / p99.9, µs",
        "processor, µs",
    ]);
    for side in &changes.sides {
        let ratio = |to: &str| {
            let found = changes.ratios.iter().find(|it| it.of == side.name && it.to == to);
            found.map_or("-".to_owned(), |it| {
                let reach = it.reach.map_or(String::new(), |reach| format!(" ({reach:.2})"));
                format!("**{:.2}**{reach}; {:.2}..{:.2}", it.ratio, it.lowest, it.highest)
            })
        };
        row(&[
            if side.name == "fdatasync" { "-".to_owned() } else { changes.connections.to_string() },
            side.name.clone(),
            ratio("Redis SET"),
            ratio("fdatasync"),
            thousands(side.per_second),
            side.latency.map_or("-".to_owned(), latency),
            side.cpu_micros.map_or("-".to_owned(), |micros| format!("{micros:.2}")),
        ]);
    }
}

fn scale(all: &[Scaled]) {
    let Some(first) = all.first() else { return };
    heading("More tokens");
    let over = format!("p50 / p99 of those with {}", thousands(first.tokens as f64));
    head(&[
        "tokens",
        &over,
        "one connection: p50 / p99 / p99.9, µs",
        "16 connections",
        "READY, clean / after kill -9, ms",
        "resident, idle / in use, MiB",
        "store, MiB (bytes a token)",
        "filled in, s",
    ]);
    for each in all {
        let mib = |kib: u64| kib as f64 / 1024.0;
        row(&[
            thousands(each.tokens as f64),
            format!("**{:.2} / {:.2}**", each.p50_ratio, each.p99_ratio),
            latency(each.alone),
            latency(each.many),
            format!("{:.1} / {:.1}", each.ready_clean_ms, each.ready_killed_ms),
            format!("{:.1} / {:.1} ({} used)", mib(each.idle_kib), mib(each.used_kib), thousands(each.used as f64)),
            format!("{:.0} ({:.0})", each.store_bytes as f64 / 1048576.0, each.store_bytes as f64 / each.tokens as f64),
            format!("{:.0}", each.fill_secs),
        ]);
    }
}

fn cached(report: &Report) {
    let Some(cached) = &report.cached else { return };
    heading("Validation out of a client's cache, hashing and counting included");
    head(&["load", "different questions", "threads", "p50 / p99 / p99.9, ns", "checks/s", "not kept"]);
    for each in &cached.checks {
        row(&[
            each.load.clone(),
            thousands(each.questions as f64),
            each.threads.to_string(),
            format!("**{:.0}** / {:.0} / {:.0}", each.p50_ns, each.p99_ns, each.p999_ns),
            thousands(each.per_second),
            format!("{:.2} %", 100.0 * each.misses),
        ]);
    }
    println!("\nReading the clock takes {:.0} ns of each.", cached.clock_ns);
    heading("A revocation in another process's cache: first refusal, µs, p50 / p99 / p99.9");
    let refusals = &cached.refusals;
    head(&["revocations", "after the bump, at most", "after the request", "before the reply", "looked only after it"]);
    row(&[
        thousands(refusals.revocations as f64),
        format!("**{}**", latency(refusals.after_bump)),
        latency(refusals.after_request),
        latency(refusals.before_reply),
        refusals.late.to_string(),
    ]);
}

fn rest(report: &Report) {
    println!();
    for memory in &report.memory {
        println!("- Resident memory of bearerd {}: {:.1} MiB", memory.when, memory.kib as f64 / 1024.0);
    }
    let audit = &report.audit;
    if audit.lines > 0 {
        println!(
            "- Audit: {} lines, {} gaps; {} syslog datagrams received, {} dropped",
            thousands(audit.lines as f64),
            audit.gaps,
            thousands(audit.syslog_received as f64),
            thousands(audit.syslog_dropped as f64),
        );
    }
}

fn latency(latency: Latency) -> String {
    let shown = |micros: f64| if micros < 100.0 { format!("{micros:.1}") } else { thousands(micros) };
    format!("{} / {} / {}", shown(latency.p50), shown(latency.p99), shown(latency.p999))
}

/// A whole number, its digits in threes.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}
