//! The charts of `docs/performance.md`, drawn from the figures alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::report::{Report, Row, Scaled};
use crate::svg::{Bars, Drawing, Ranges, short};
use crate::tables::thousands;

const WIDTH: f64 = 860.0;
/// Whom ratios are drawn of, with the colour that each has in all charts; bearerd's own is 0. MUNGE is so far off that
/// nothing else could be seen beside it.
const PEERS: [(usize, &str); 4] = [(1, "tokio echo"), (2, "blocking echo"), (3, "Redis GET"), (4, "memcached get")];

/// Draws what the figures allow; says into which files.
pub fn draw(report: &Report, dir: &Path) -> io::Result<Vec<PathBuf>> {
    let charts =
        [("ratios.svg", ratios(report)), ("latency.svg", latency(report)), ("scale.svg", scale(&report.scale))];
    fs::create_dir_all(dir)?;
    let mut drawn = Vec::new();
    for (name, chart) in charts {
        if let Some(chart) = chart {
            let path = dir.join(name);
            fs::write(&path, chart)?;
            drawn.push(path);
        }
    }
    Ok(drawn)
}

fn of<'a>(report: &'a Report, load: &str) -> Vec<&'a Row> {
    report.rows.iter().filter(|row| row.load == load).collect()
}

fn two_places(value: f64) -> String {
    format!("{value:.2}")
}

fn ratios(report: &Report) -> Option<String> {
    let full = format!("full: {} tokens, random scopes", thousands(report.plan.tokens as f64));
    let titles = [("warm", "warm: 100 tokens, a question each"), ("full", full.as_str())];
    let panels: Vec<Bars<'_>> = titles
        .iter()
        .filter_map(|(load, title)| {
            let rows = of(report, load);
            let value = |peer: &str, row: &&Row| row.ratios.iter().find(|it| it.to == peer).map(|it| it.ratio);
            (!rows.is_empty()).then(|| Bars {
                title,
                groups: rows.iter().map(|row| row.connections_shown()).collect(),
                values: PEERS
                    .iter()
                    .map(|&(colour, peer)| (colour, rows.iter().map(|row| value(peer, row)).collect()))
                    .collect(),
                reference: Some(1.0),
                shown: two_places,
            })
        })
        .collect();
    if panels.is_empty() {
        return None;
    }
    let below = "bearerd's validations a second over those of others in the same round, by connections; the line is 1";
    let mut drawing = Drawing::new(WIDTH, "Validation beside others", below);
    drawing.legend(&PEERS);
    for panel in panels {
        drawing.bars(&[panel], 130.0);
    }
    Some(drawing.finish())
}

fn latency(report: &Report) -> Option<String> {
    let rows = of(report, "full");
    let all = rows.iter().flat_map(|row| row.sides.iter().filter_map(|side| side.latency));
    let (lowest, highest) = all.fold((f64::INFINITY, 0f64), |(low, high), it| (low.min(it.p50), high.max(it.p999)));
    if !(lowest.is_finite() && lowest > 0.0) {
        return None;
    }
    let below = format!(
        "p50, p99 and p99.9 in microseconds; {} tokens, random scopes; one request in flight on each connection",
        thousands(report.plan.tokens as f64)
    );
    let mut drawing = Drawing::new(WIDTH, "Latency under the full load", &below);
    for row in rows {
        let side = |(colour, name): (usize, &str)| {
            let it = row.side(name)?.latency?;
            Some((name.to_owned(), colour, [it.p50, it.p99, it.p999]))
        };
        let title = match row.connections {
            1 => "1 connection".to_owned(),
            count => format!("{count} connections"),
        };
        let rows = [(0, "bearerd")].into_iter().chain(PEERS).filter_map(side).collect();
        drawing.ranges(&Ranges { title: &title, rows, unit: "µs" }, lowest, highest);
    }
    Some(drawing.finish())
}

fn scale(all: &[Scaled]) -> Option<String> {
    if all.is_empty() {
        return None;
    }
    let groups: Vec<String> = all.iter().map(|each| short(each.tokens as f64)).collect();
    let panel = |title, values: [fn(&Scaled) -> f64; 2]| Bars {
        title,
        groups: groups.clone(),
        values: (0..)
            .zip(values)
            .map(|(colour, value)| (colour, all.iter().map(|it| Some(value(it))).collect()))
            .collect(),
        reference: None,
        shown: short,
    };
    let panels = [
        panel("Validate: p50 and p99, µs", [|it| it.alone.p50, |it| it.alone.p99]),
        panel("Resident: idle and in use, MiB", [|it| it.idle_kib as f64 / 1024.0, |it| it.used_kib as f64 / 1024.0]),
        panel("READY: clean and after kill -9, ms", [|it| it.ready_clean_ms, |it| it.ready_killed_ms]),
    ];
    let below = "by the number of tokens; one connection, tokens at random; in use: all tokens, or a million of them";
    let mut drawing = Drawing::new(WIDTH, "More tokens", below);
    drawing.bars(&panels, 170.0);
    Some(drawing.finish())
}
