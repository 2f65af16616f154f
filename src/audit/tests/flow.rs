//! Ordinary days: coalescing, floods, syslog, rotation, reading it back.

use std::hash::Hash;
use std::os::unix::net::UnixDatagram;

use super::*;

fn counts(lines: &[Value], event: &str) -> Vec<u64> {
    lines.iter().filter(|line| line["event"] == event).map(|line| line["count"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn like_uses_are_two_lines_and_no_use_is_uncounted() {
    let bench = Bench::new();
    let audit = bench.open();
    for _ in 0..1000 {
        recorded(bench.used(&audit, "a")).await.unwrap();
    }
    recorded(bench.used(&audit, "b")).await.unwrap();
    assert_eq!(counts(&bench.lines(), "use"), [1, 1], "each first line is there before its verdict");
    let began = bench.now();
    bench.second(&audit).await;
    let lines = bench.lines();
    assert_eq!(counts(&lines, "use"), [1, 1, 999]);
    assert_eq!(lines[2]["name"], "a");
    assert_eq!(lines[2]["first"], began.to_string());
    assert_eq!(audit.health().windows, 0);
    // What is counted when it stops is told too.
    for _ in 0..3 {
        recorded(bench.used(&audit, "a")).await.unwrap();
    }
    audit.stop().await.unwrap();
    assert_eq!(counts(&bench.lines(), "use"), [1, 1, 999, 1, 2]);
    assert!(bench.verify().intact());
    assert!(matches!(bench.used(&audit, "a"), Recording::Unavailable), "after the last seal nothing is granted");
}

#[tokio::test]
async fn without_coalescing_every_use_has_its_line() {
    let mut bench = Bench::new();
    bench.options.coalesce = Duration::ZERO;
    let audit = bench.open();
    for _ in 0..5 {
        recorded(bench.used(&audit, "a")).await.unwrap();
    }
    assert_eq!(counts(&bench.lines(), "use"), [1; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_uses_and_changes_are_all_in_one_sound_chain() {
    let bench = Arc::new(Bench::new());
    let audit = bench.open();
    let tasks: Vec<_> = (0..16_u8)
        .map(|task| {
            let (bench, audit) = (Arc::clone(&bench), audit.clone());
            tokio::spawn(async move {
                for n in 0..100 {
                    recorded(bench.used(&audit, &format!("{task}-{}", n % 10))).await.unwrap();
                }
                audit.committed(u64::from(task) + 1, bench.revoke(task)).wait().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    audit.stop().await.unwrap();
    let lines = bench.lines();
    assert_eq!(counts(&lines, "use").iter().sum::<u64>(), 1600);
    assert_eq!(lines.iter().filter(|line| line["event"] == "revoke").count(), 16);
    assert_eq!(bench.through(), 16);
    assert!(bench.verify().intact());
}

fn refuse(bench: &Bench, audit: &Audit, uid: u32, n: u32, alert: bool) {
    let key = UseKey::of(|hasher| (uid, n, alert).hash(hasher));
    audit.refused(key, Refusal { uid, exempt: uid == 0 }, alert, bench.now(), || AuditEvent {
        outcome: Some("denied".into()),
        reason: Some("policy".into()),
        peer: Some(peer(uid)),
        ..bench.event(if alert { EventKind::Canary } else { EventKind::Deny })
    });
}

/// I7: no uid drowns the log; what it did is counted all the same.
#[tokio::test]
async fn a_flood_of_refusals_is_bounded_counted_and_hides_no_alert() {
    let bench = Bench::new();
    let audit = bench.open();
    // The same refusal a thousand times is one line and a count.
    for _ in 0..1000 {
        refuse(&bench, &audit, 1001, 0, false);
    }
    for n in 0..10_000 {
        refuse(&bench, &audit, 1000, n, false);
    }
    refuse(&bench, &audit, 1000, 0, true);
    refuse(&bench, &audit, 1000, 0, true);
    for n in 0..500 {
        refuse(&bench, &audit, 0, n, false);
    }
    bench.second(&audit).await;
    audit.barrier().await.unwrap();
    let lines = bench.lines();
    let of = |event: &str, uid: u32| -> Vec<u64> {
        let those = lines.iter().filter(|line| line["event"] == event && line["peer"]["uid"] == uid);
        those.map(|line| line["count"].as_u64().unwrap()).collect()
    };
    assert_eq!(of("deny", 1001), [1, 999]);
    assert_eq!(of("deny", 1000).len(), 200);
    // One line; two where the writer looked up in between.
    let floods = of("flood", 1000);
    assert_eq!((floods.iter().sum::<u64>(), floods.len().min(2)), (9800, floods.len()));
    assert_eq!(of("canary", 1000), [1, 1]);
    assert_eq!(of("deny", 0).len(), 500);
    assert_eq!(audit.health().flooded, 9800);
    assert!(bench.bytes().len() < 1_000_000);
    assert!(bench.verify().intact());
}

fn received(socket: &UnixDatagram) -> Vec<String> {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 4096];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|len| String::from_utf8(buffer[..len].to_vec()).unwrap()))
        .map(|text| text.split_once("]: ").unwrap().1.to_owned())
        .collect()
}

#[tokio::test]
async fn syslog_hears_of_every_line_and_seal_and_its_silence_is_said() {
    let mut bench = Bench::new();
    let path = bench.beside("log");
    bench.options.syslog = Some(path.clone());
    let socket = UnixDatagram::bind(&path).unwrap();
    let audit = bench.open();
    recorded(bench.used(&audit, "a")).await.unwrap();
    bench.second(&audit).await;
    let seal = bench.seal().unwrap();
    assert_eq!(
        received(&socket),
        [
            format!(
                "event=use outcome=active id={} name=a subject=ci uid=1000 gid=1000 pid=42 unit=ci.service count=1 \
                 generation=0 seq=1",
                id(1)
            ),
            format!("event=seal seq=1 mac={} generation=0", seal.mac),
        ]
    );
    // It dies. Two lines, two drops, one gap line; and then silence, not a gap line about the gap line.
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    for name in ["b", "c"] {
        recorded(bench.used(&audit, name)).await.unwrap();
    }
    for _ in 0..5 {
        bench.second(&audit).await;
    }
    assert_eq!(bench.events(), ["use", "use", "use", "gap"]);
    assert_eq!((&bench.lines()[3]["note"], &bench.lines()[3]["count"]), (&"syslog dropped 2".into(), &2.into()));
    assert!(audit.health().writable, "a dead syslog fails nothing");
    let socket = UnixDatagram::bind(&path).unwrap();
    recorded(bench.used(&audit, "d")).await.unwrap();
    audit.barrier().await.unwrap();
    assert!(received(&socket)[0].ends_with("generation=0 seq=5"));
    // Stalled: nobody reads.
    for n in 0..200 {
        recorded(bench.used(&audit, &format!("s{n}"))).await.unwrap();
    }
    audit.stop().await.unwrap();
    assert!(audit.health().syslog_dropped > 2);
    assert!(bench.verify().intact());
}

/// A host without syslog: a line each minute at most, not one for each second in which something happens.
#[tokio::test]
async fn a_host_without_syslog_is_not_told_of_it_each_second() {
    let mut bench = Bench::new();
    bench.options.syslog = Some(bench.beside("none"));
    let audit = bench.open();
    for n in 0..150 {
        recorded(bench.used(&audit, &format!("u{n}"))).await.unwrap();
        bench.second(&audit).await;
    }
    let gaps = |bench: &Bench| -> Vec<u64> {
        let gaps = bench.lines().into_iter().filter(|line| line["event"] == "gap");
        gaps.map(|line| line["count"].as_u64().unwrap()).collect()
    };
    assert_eq!(gaps(&bench), [1, 60, 60]);
    audit.stop().await.unwrap();
    assert_eq!(gaps(&bench), [1, 60, 60, 29], "the rest at the stop");
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn rotation_by_rename_keeps_one_chain_over_the_files() {
    let bench = Bench::new();
    let audit = bench.open();
    for n in 1..=3_u8 {
        audit.committed(u64::from(n), bench.revoke(n)).wait().await.unwrap();
        std::fs::rename(bench.path(), bench.beside(&format!("audit.log.{}", 4 - n))).unwrap();
        // Until it is told, the old file takes the lines.
        recorded(bench.used(&audit, &format!("{n}"))).await.unwrap();
        assert!(!bench.path().exists());
        audit.reopen().await.unwrap();
        assert_eq!(bench.seal().unwrap().generation, u64::from(n));
        bench.time.pass(Duration::from_secs(2));
    }
    audit.reopen().await.unwrap();
    // As with logrotate's `create`.
    std::fs::rename(bench.path(), bench.beside("audit.log-20251124")).unwrap();
    std::fs::write(bench.path(), "").unwrap();
    audit.reopen().await.unwrap();
    audit.note(bench.event(EventKind::Reload));
    audit.stop().await.unwrap();
    let checked = bench.verify();
    assert!(checked.intact(), "{checked:?}");
    assert_eq!((checked.files, checked.lines, checked.said_count), (5, 11, 0));
    assert_eq!(bench.events(), ["seal", "reload"]);
    let (audit, report) = bench.open_with(bench.boot(3, vec![])).unwrap();
    assert_eq!(report.log, LogState::Complete);
    audit.stop().await.unwrap();
}

async fn all(audit: &Audit, filter: &Filter, limit: usize) -> Vec<Value> {
    let (mut lines, mut cursor) = (Vec::new(), None);
    loop {
        let page = audit.query(filter.clone(), cursor, limit).await.unwrap();
        assert!(page.lines.len() <= limit);
        lines.extend(page.lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        if !page.more {
            return lines;
        }
        cursor = Some(page.next);
    }
}

#[tokio::test]
async fn queries_filter_and_page_over_rotated_files() {
    let bench = Bench::new();
    let audit = bench.open();
    for n in 0..20_u8 {
        let mut event = bench.revoke(n % 4);
        event.subject = Some(format!("s{}", n % 2));
        event.peer = Some(peer(1000 + u32::from(n % 5)));
        audit.committed(u64::from(n) + 1, event).wait().await.unwrap();
        bench.time.pass(Duration::from_secs(60));
        if n == 9 {
            std::fs::rename(bench.path(), bench.beside("audit.log.1")).unwrap();
            audit.reopen().await.unwrap();
        }
    }
    let everything = all(&audit, &Filter::default(), 3).await;
    assert_eq!(
        everything.iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>(),
        (1..=21).collect::<Vec<_>>()
    );
    let count = async |filter: Filter| all(&audit, &filter, 2).await.len();
    assert_eq!(count(Filter { token: Some(id(1)), ..Filter::default() }).await, 5);
    assert_eq!(count(Filter { subject: Some("s1".to_owned()), ..Filter::default() }).await, 10);
    assert_eq!(count(Filter { uid: Some(1002), ..Filter::default() }).await, 4);
    assert_eq!(count(Filter { unit: Some("ci.service".to_owned()), ..Filter::default() }).await, 20);
    assert_eq!(count(Filter { unit: Some("ci".to_owned()), ..Filter::default() }).await, 0);
    assert_eq!(count(Filter { event: Some(EventKind::Seal), ..Filter::default() }).await, 1);
    let since = Some(NOW.saturating_add(Duration::from_secs(120)));
    let until = Some(NOW.saturating_add(Duration::from_secs(240)));
    assert_eq!(count(Filter { since, until, ..Filter::default() }).await, 3);
    for cursor in ["", "x", "1-2", "1-2-3-4", "-1-2-3"] {
        assert!(matches!(audit.query(Filter::default(), Some(cursor.to_owned()), 1).await, Err(QueryError::Cursor)));
    }
    // Into the middle of a line: a peer's text must not be taken for one.
    let page = audit.query(Filter::default(), None, 1).await.unwrap();
    let (inode, _) = page.next.split_once('-').unwrap();
    let inside = format!("{inode}-5-0");
    assert!(matches!(audit.query(Filter::default(), Some(inside), 1).await, Err(QueryError::Cursor)));
}

#[tokio::test]
async fn a_line_is_shown_once_it_is_whole() {
    let bench = Bench::new();
    let audit = bench.open();
    recorded(bench.used(&audit, "a")).await.unwrap();
    audit.stop().await.unwrap();
    let line = bench.bytes();
    let mut half = line.clone();
    half.extend_from_slice(&line[..line.len() - 1]);
    std::fs::write(bench.path(), &half).unwrap();
    let page = audit.query(Filter::default(), None, 10).await.unwrap();
    assert_eq!((page.lines.len(), page.more), (1, false));
    half.push(b'\n');
    std::fs::write(bench.path(), &half).unwrap();
    assert_eq!(audit.query(Filter::default(), Some(page.next), 10).await.unwrap().lines.len(), 1);
}

#[tokio::test]
async fn a_follower_sees_each_line_once_through_rotation_and_the_loss_of_a_file() {
    let bench = Bench::new();
    let audit = bench.open();
    let mut appended = audit.appended();
    let (mut cursor, mut seen) = (None, Vec::new());
    for n in 1..=9 {
        recorded(bench.used(&audit, &format!("{n}"))).await.unwrap();
        if n % 3 == 0 {
            let _ = std::fs::remove_file(bench.beside("audit.log.1"));
            std::fs::rename(bench.path(), bench.beside("audit.log.1")).unwrap();
            audit.reopen().await.unwrap();
        }
        appended.wait_for(|seq| *seq >= n).await.unwrap();
        let page = audit.query(Filter::default(), cursor, 100).await.unwrap();
        assert!(!page.more);
        let lines = page.lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        seen.extend(lines.map(|line| line["seq"].as_u64().unwrap()));
        cursor = Some(page.next);
    }
    assert_eq!(seen, (1..=12).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_summary_says_who_used_it_through_what() {
    let bench = Bench::new();
    let audit = bench.open();
    let show = |uid: u32, reason: Option<&'static str>| {
        let event = AuditEvent {
            outcome: Some(if reason.is_none() { "active".into() } else { "inactive".into() }),
            reason: reason.map(Into::into),
            id: Some(id(1)),
            peer: Some(peer(uid)),
            from: Some("192.0.2.1".parse().unwrap()),
            ..bench.event(if reason.is_none() { EventKind::Use } else { EventKind::Deny })
        };
        audit.used(UseKey::of(|hasher| (uid, reason).hash(hasher)), bench.now(), || event)
    };
    for _ in 0..4 {
        recorded(show(1000, None)).await.unwrap();
    }
    recorded(show(1000, Some("expired"))).await.unwrap();
    bench.second(&audit).await;
    recorded(show(1001, None)).await.unwrap();
    recorded(audit.used(UseKey::of(|hasher| 9.hash(hasher)), bench.now(), || bench.event(EventKind::Use)))
        .await
        .unwrap();
    let summary = audit.summary(id(1)).await.unwrap();
    assert_eq!(summary.rows.len(), 2);
    assert_eq!((summary.rows[0].uid, summary.rows[0].count), (Some(1001), 1));
    let row = &summary.rows[1];
    assert_eq!((row.count, row.active, row.from.as_deref()), (5, 4, Some("192.0.2.1")));
    assert_eq!(row.reasons, [("expired".to_owned(), 1)].into());
    assert_eq!(row.first, NOW.to_string());
}

#[tokio::test]
async fn hostile_text_stays_one_harmless_line_everywhere() {
    let mut bench = Bench::new();
    let path = bench.beside("log");
    bench.options.syslog = Some(path.clone());
    let socket = UnixDatagram::bind(&path).unwrap();
    let audit = bench.open();
    let nasty = "x\",\"mac\":\"\n{\"time\":\"\u{202e}\x1b[2J\u{9b}\\".to_owned();
    let event = AuditEvent {
        name: Some(nasty.clone()),
        subject: Some(nasty.clone()),
        note: Some(format!("continues mac={} last=0 at=0: {nasty}", Mac::GENESIS)),
        scopes: Some(vec![nasty.clone(); 64]),
        ..bench.revoke(1)
    };
    audit.committed(1, event).wait().await.unwrap();
    let page = audit.query(Filter { subject: Some(nasty), ..Filter::default() }, None, 10).await.unwrap();
    assert_eq!(page.lines.len(), 1, "an odd name still finds itself");
    audit.stop().await.unwrap();
    assert!(!bench.bytes()[..bench.bytes().len() - 1].iter().any(u8::is_ascii_control));
    assert!(bench.verify().intact());
    for message in received(&socket) {
        assert!(!message.contains(|c: char| c.is_control() || c == '\u{202e}'), "{message:?}");
    }
}
