//! A disk that is full, broken, slow or meddled with (I4, I6): nothing is granted without a record, no change is lost,
//! and it ends by itself.

use std::os::unix::fs::MetadataExt;

use super::*;

const SHORT: Duration = Duration::from_millis(30);

#[tokio::test]
async fn a_failing_write_leaves_no_half_line_and_recovers_by_itself() {
    for (error, percent) in [(libc::ENOSPC, 0), (libc::EIO, 30), (libc::EROFS, 99), (libc::EDQUOT, 100)] {
        let bench = Bench::new();
        let audit = bench.open();
        recorded(bench.used(&audit, "before")).await.unwrap();
        let before = bench.bytes();
        bench.disk.set(|faults| faults.append = Some((error, percent)));
        assert_eq!(recorded(bench.used(&audit, "a")).await, Err(Unavailable));
        assert_eq!(bench.bytes(), before, "the file is as it was");
        assert!(matches!(bench.used(&audit, "a"), Recording::Unavailable), "told at once");
        assert!(matches!(bench.used(&audit, "before"), Recording::Unavailable), "also what would only be counted");
        assert!(!audit.ready());
        let health = audit.health();
        assert!(!health.writable && health.fault.is_some());
        // A change goes through, though its asker hears that its line is not there yet.
        for n in 1..=3 {
            assert_eq!(audit.committed(n, bench.revoke(n as u8)).wait().await, Err(Unavailable));
        }
        assert_eq!(audit.health().kept, 3);
        for _ in 0..3 {
            bench.second(&audit).await;
        }
        assert_eq!((bench.bytes(), bench.through()), (before, 0));
        bench.disk.heal();
        bench.second(&audit).await;
        assert_eq!(bench.events(), ["use", "gap", "revoke", "revoke", "revoke"]);
        let gap = bench.lines()[1].clone();
        assert_eq!(gap["outcome"], "lost");
        assert!(gap["note"].as_str().unwrap().starts_with("0 events lost, 3 validations refused;"), "{gap}");
        assert_eq!(bench.through(), 3);
        assert!(audit.health().writable && audit.ready());
        recorded(bench.used(&audit, "a")).await.unwrap();
        audit.stop().await.unwrap();
        assert!(bench.verify().intact());
    }
}

#[tokio::test]
async fn a_half_line_that_can_not_be_cut_at_once_is_cut_later() {
    let bench = Bench::new();
    let audit = bench.open();
    bench.disk.set(|faults| (faults.append, faults.truncate) = (Some((libc::EIO, 50)), Some(libc::EIO)));
    assert_eq!(recorded(bench.used(&audit, "a")).await, Err(Unavailable));
    assert!(!bench.bytes().is_empty());
    bench.disk.set(|faults| faults.append = None);
    bench.second(&audit).await;
    assert!(!audit.health().writable, "nothing is written after half a line");
    bench.disk.heal();
    bench.second(&audit).await;
    assert_eq!(bench.events(), ["gap"]);
    // And a daemon that was killed in between cuts it at its start.
    bench.disk.set(|faults| (faults.append, faults.truncate) = (Some((libc::EIO, 50)), Some(libc::EIO)));
    assert_eq!(recorded(bench.used(&audit, "b")).await, Err(Unavailable));
    kill(audit);
    bench.disk.heal();
    let audit = bench.open();
    audit.stop().await.unwrap();
    assert_eq!(bench.events(), ["gap", "recovered"]);
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn refusals_lost_to_a_failing_disk_are_counted_once() {
    let bench = Bench::new();
    let audit = bench.open();
    bench.disk.set(|faults| faults.append = Some((libc::ENOSPC, 0)));
    for n in 0..7 {
        let key = UseKey::of(|hasher| std::hash::Hash::hash(&n, hasher));
        audit.refused(key, Refusal { uid: 1000, exempt: false }, false, bench.now(), || bench.event(EventKind::Deny));
    }
    assert_eq!(audit.barrier().await, Err(Unavailable));
    for _ in 0..4 {
        bench.second(&audit).await;
    }
    bench.disk.heal();
    for _ in 0..3 {
        bench.second(&audit).await;
    }
    audit.stop().await.unwrap();
    assert_eq!(bench.events(), ["gap"]);
    assert_eq!(bench.lines()[0]["count"], 7);
    assert_eq!(bench.lines()[0]["first"], NOW.to_string());
}

#[tokio::test]
async fn notes_and_floods_survive_a_failing_disk() {
    let bench = Bench::new();
    let audit = bench.open();
    bench.disk.set(|faults| faults.append = Some((libc::EIO, 10)));
    audit.note(bench.event(EventKind::Reload));
    for n in 0..300 {
        let key = UseKey::of(|hasher| std::hash::Hash::hash(&n, hasher));
        audit.refused(key, Refusal { uid: 1000, exempt: false }, false, bench.now(), || bench.event(EventKind::Deny));
    }
    for _ in 0..3 {
        bench.second(&audit).await;
    }
    bench.disk.heal();
    bench.second(&audit).await;
    audit.stop().await.unwrap();
    assert_eq!(bench.events(), ["gap", "reload", "flood"]);
    assert_eq!(bench.lines()[2]["count"], 100);
}

#[tokio::test]
async fn a_hanging_disk_makes_nobody_wait_longer_than_max_wait() {
    let mut bench = Bench::new();
    bench.options.max_wait = SHORT;
    let audit = bench.open();
    bench.disk.set(|faults| faults.blocked = true);
    let first = bench.used(&audit, "a");
    bench.disk.await_hang();
    // Queued behind it; given up before the writer comes to it.
    let second = bench.used(&audit, "b");
    assert_eq!(recorded(first).await, Err(Unavailable));
    assert_eq!(recorded(second).await, Err(Unavailable));
    assert!(matches!(bench.used(&audit, "c"), Recording::Unavailable), "told at once while it hangs");
    assert!(!audit.ready());
    assert_eq!(audit.health().fault.as_deref(), Some("a write to audit.log hangs"));
    assert_eq!(audit.barrier().await, Err(Unavailable));
    let change = audit.committed(1, bench.revoke(1));
    assert_eq!(change.wait().await, Err(Unavailable));
    bench.disk.heal();
    bench.second(&audit).await;
    assert!(audit.ready() && audit.health().fault.is_none());
    recorded(bench.used(&audit, "b")).await.unwrap();
    bench.second(&audit).await;
    audit.stop().await.unwrap();
    let told: Vec<_> = bench.lines().iter().map(|line| (line["event"].clone(), line["name"].clone())).collect();
    // "a" had been taken: the one race there is. "b" was given up, and is there only for its second, good use.
    let names: Vec<_> = told.iter().filter(|(event, _)| event == "use").map(|(_, name)| name.clone()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(told.iter().filter(|(event, _)| event == "revoke").count(), 1, "the change is written once");
    assert_eq!(told.iter().filter(|(event, _)| event == "gap").count(), 1);
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn when_records_are_not_required_uses_go_on_and_the_gap_is_said() {
    let mut bench = Bench::new();
    bench.options.required = false;
    let audit = bench.open();
    bench.disk.set(|faults| faults.append = Some((libc::ENOSPC, 0)));
    for n in 0..5 {
        assert!(matches!(bench.used(&audit, &format!("{n}")), Recording::Done));
    }
    assert!(matches!(bench.used(&audit, "0"), Recording::Done));
    assert!(audit.ready());
    bench.second(&audit).await;
    bench.disk.heal();
    bench.second(&audit).await;
    audit.stop().await.unwrap();
    // Five first ones, and the one that was only counted.
    assert_eq!((bench.events(), &bench.lines()[0]["count"]), (vec!["gap".to_owned()], &6.into()));
}

/// fsync is never retried as if it were fine: everything since the last good one is written again first.
#[tokio::test]
async fn a_failed_fsync_seals_nothing_until_all_is_written_again() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.committed(1, bench.revoke(1)).wait().await.unwrap();
    bench.second(&audit).await;
    let sealed = bench.seal();
    let before = bench.bytes();
    audit.committed(2, bench.revoke(2)).wait().await.unwrap();
    bench.disk.set(|faults| (faults.syncs, faults.rewrite) = (1, Some(libc::EIO)));
    for _ in 0..3 {
        bench.second(&audit).await;
    }
    assert_eq!((bench.seal(), bench.through()), (sealed.clone(), 1), "not by the sync after the failed one");
    assert!(!audit.health().writable);
    assert_eq!(recorded(bench.used(&audit, "a")).await, Err(Unavailable));
    assert_eq!(audit.committed(3, bench.revoke(3)).wait().await, Err(Unavailable));
    bench.disk.heal();
    bench.second(&audit).await;
    assert!(audit.health().writable);
    assert!(bench.bytes().starts_with(&before));
    assert_eq!(bench.events(), ["revoke", "revoke", "gap", "gap", "revoke"]);
    assert_eq!(bench.lines()[2]["outcome"], "fsync");
    assert!(bench.lines()[2]["note"].as_str().unwrap().ends_with("lines 2 to 2 were written again"));
    assert_eq!((bench.seal().unwrap().seq, bench.through()), (5, 3));
    audit.stop().await.unwrap();
    assert!(bench.verify().intact());
    // Should the disk have lied again: what was sealed after the second try is not as it was, whatever was announced.
    let mut bytes = bench.bytes();
    bytes[before.len() + 10..before.len() + 60].fill(0);
    std::fs::write(bench.path(), bytes).unwrap();
    assert_eq!(bench.verify().bad.map(|bad| (bad.line, bad.damage)), Some((2, Damage::Changed)));
}

#[tokio::test]
async fn after_a_failed_fsync_what_the_kernel_forgot_is_told_again() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.committed(1, bench.revoke(1)).wait().await.unwrap();
    bench.second(&audit).await;
    let kept = bench.bytes();
    for n in 2..=3 {
        audit.committed(n, bench.revoke(n as u8)).wait().await.unwrap();
    }
    bench.disk.set(|faults| (faults.syncs, faults.rewrite) = (1, Some(libc::EIO)));
    bench.second(&audit).await;
    let mut bytes = bench.bytes();
    bytes[kept.len() + 100..].fill(0);
    std::fs::write(bench.path(), bytes).unwrap();
    bench.disk.heal();
    bench.second(&audit).await;
    assert_eq!(bench.events(), ["revoke", "gap", "revoke", "revoke"]);
    let generations: Vec<_> = bench.lines().iter().map(|line| line["generation"].clone()).collect();
    assert_eq!(generations, [1, 3, 2, 3]);
    assert_eq!(bench.through(), 3);
    audit.stop().await.unwrap();
    assert!(bench.verify().intact());
}

/// Lines go on while a sync takes long; it speaks for none of them, and if it fails, all are written again.
#[tokio::test]
async fn a_slow_sync_holds_up_no_line_and_speaks_for_none_written_meanwhile() {
    for failing in [0, 1] {
        let bench = Bench::new();
        let audit = bench.open();
        audit.committed(1, bench.revoke(1)).wait().await.unwrap();
        bench.disk.set(|faults| (faults.sync_blocked, faults.syncs) = (true, failing));
        bench.time.pass(Duration::from_secs(1));
        bench.disk.await_hang();
        audit.committed(2, bench.revoke(2)).wait().await.unwrap();
        recorded(bench.used(&audit, "a")).await.unwrap();
        assert_eq!(bench.events(), ["revoke", "revoke", "use"]);
        assert_eq!((bench.seal(), audit.health().sealed_seq), (None, 0));
        bench.disk.set(|faults| faults.sync_blocked = false);
        // Not before that sync has ended; and another second has not passed.
        audit.tick().await.unwrap();
        if failing == 0 {
            let seal = bench.seal().unwrap();
            assert_eq!((seal.seq, seal.generation, bench.through()), (1, 1, 1));
        } else {
            assert_eq!(bench.events(), ["revoke", "revoke", "use", "gap"]);
            assert!(bench.lines()[3]["note"].as_str().unwrap().ends_with("lines 1 to 3 were written again"));
        }
        bench.second(&audit).await;
        assert_eq!(bench.through(), 2);
        audit.stop().await.unwrap();
        assert!(bench.verify().intact());
    }
}

#[tokio::test]
async fn a_sync_that_hangs_grants_nothing_after_max_wait() {
    let mut bench = Bench::new();
    bench.options.max_wait = 10 * SHORT;
    let audit = bench.open();
    recorded(bench.used(&audit, "a")).await.unwrap();
    bench.disk.set(|faults| faults.sync_blocked = true);
    bench.time.pass(Duration::from_secs(1));
    bench.disk.await_hang();
    tokio::time::sleep(12 * SHORT).await;
    assert!(matches!(bench.used(&audit, "b"), Recording::Unavailable));
    assert!(!audit.ready());
    bench.disk.heal();
    bench.second(&audit).await;
    recorded(bench.used(&audit, "b")).await.unwrap();
    audit.stop().await.unwrap();
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn with_sync_nothing_is_granted_before_it_is_durable() {
    let mut bench = Bench::new();
    bench.options.sync = true;
    let audit = bench.open();
    let before = bench.disk.faults().synced;
    recorded(bench.used(&audit, "a")).await.unwrap();
    assert_eq!(bench.disk.faults().synced, before + 1);
    bench.disk.set(|faults| faults.syncs = 1);
    assert_eq!(recorded(bench.used(&audit, "b")).await, Err(Unavailable));
    bench.second(&audit).await;
    recorded(bench.used(&audit, "c")).await.unwrap();
    audit.stop().await.unwrap();
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn room_is_known_before_a_change_needs_it() {
    let bench = Bench::new();
    let full = Space { free_bytes: 1, total_bytes: 1000 };
    bench.disk.set(|faults| (faults.reserve, faults.space) = (Some(libc::ENOSPC), Some(full)));
    let audit = bench.open();
    assert!(!audit.ready(), "a change would find no room");
    let health = audit.health();
    assert!(health.low_space && health.writable && !health.issue_ok);
    let why = format!("no room for audit records in {}: make some", bench.directory.path().display());
    assert_eq!(health.fault, Some(why));
    recorded(bench.used(&audit, "a")).await.unwrap();
    bench.disk.heal();
    bench.second(&audit).await;
    assert!(audit.ready());
    assert!(audit.health().room_bytes >= 1024 * 1024);
    let metadata = std::fs::metadata(bench.path()).unwrap();
    assert!(metadata.blocks() * 512 > metadata.len(), "allocated ahead, not longer");
    // Where nothing can be allocated ahead, what is free counts.
    bench.disk.set(|faults| faults.reserve = Some(libc::EOPNOTSUPP));
    audit.stop().await.unwrap();
    assert_eq!(std::fs::metadata(bench.path()).unwrap().len(), bench.bytes().len() as u64);
}

/// A disk on which the full step can't be had: less will do, down to the longest line.
#[tokio::test]
async fn on_a_small_disk_less_is_allocated_ahead() {
    let bench = Bench::new();
    bench.disk.set(|faults| faults.reserve_end = Some(700 * 1024));
    let audit = bench.open();
    assert!(audit.ready());
    assert_eq!((audit.health().room_bytes, audit.health().fault), (512 * 1024, None));
    // Even when it gets smaller, what was allocated is still there.
    bench.disk.set(|faults| faults.reserve_end = Some(68 * 1024));
    audit.committed(1, bench.revoke(1)).wait().await.unwrap();
    bench.second(&audit).await;
    assert!(audit.ready() && audit.health().room_bytes > 500 * 1024);
    audit.stop().await.unwrap();

    let bench = Bench::new();
    bench.disk.set(|faults| faults.reserve_end = Some(68 * 1024));
    let audit = bench.open();
    assert_eq!(audit.health().room_bytes, 64 * 1024);
    let mut n = 0;
    // Room is allocated beside the writing: for a moment after a line there may be none yet.
    let has_room = || async {
        let patience = std::time::Instant::now() + Duration::from_secs(2);
        while !audit.ready() && std::time::Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        audit.ready()
    };
    while has_room().await {
        n += 1;
        audit.committed(n, bench.revoke(1)).wait().await.unwrap();
        assert!(n < 100, "the room has an end");
    }
    assert!(n > 5, "each line finds as much room again, as long as there is any: {n}");
    assert!(audit.health().writable && !audit.health().issue_ok, "a use still has its line");
    recorded(bench.used(&audit, "a")).await.unwrap();
    bench.disk.heal();
    bench.second(&audit).await;
    assert!(audit.ready() && audit.health().fault.is_none());
    audit.stop().await.unwrap();
}

#[tokio::test]
async fn a_file_that_others_delete_cut_or_write_to_is_noticed_and_said() {
    type Meddle = fn(&Bench);
    let meddlers: [(&str, Meddle, &[&str], Option<Damage>); 5] = [
        ("deleted", |bench| std::fs::remove_file(bench.path()).unwrap(), &["gap", "revoke"], None),
        ("copytruncate", |bench| std::fs::write(bench.path(), "").unwrap(), &["gap", "revoke"], None),
        (
            "cut",
            |bench| {
                let end = bench.bytes().iter().position(|c| *c == b'\n').unwrap() as u64 + 1;
                std::fs::File::options().write(true).open(bench.path()).unwrap().set_len(end).unwrap();
            },
            &["start", "gap", "revoke"],
            Some(Damage::Removed),
        ),
        (
            "appended to",
            |bench| {
                use std::io::Write;
                let mut file = std::fs::File::options().append(true).open(bench.path()).unwrap();
                file.write_all(b"{\"event\":\"use\"}\nhalf").unwrap();
            },
            &["start", "start", "recovered", "revoke"],
            None,
        ),
        (
            "replaced",
            |bench| {
                std::fs::rename(bench.path(), bench.beside("moved")).unwrap();
                std::fs::remove_file(bench.beside("moved")).unwrap();
                std::fs::write(bench.path(), "not a line\n").unwrap();
            },
            &[],
            Some(Damage::Changed),
        ),
    ];
    for (what, meddle, expected, damage) in meddlers {
        let bench = Bench::new();
        let audit = bench.open();
        audit.note(bench.event(EventKind::Start));
        audit.note(bench.event(EventKind::Start));
        audit.barrier().await.unwrap();
        bench.second(&audit).await;
        meddle(&bench);
        audit.committed(1, bench.revoke(1)).wait().await.unwrap();
        audit.stop().await.unwrap();
        if !expected.is_empty() {
            assert_eq!(bench.events(), expected, "{what}");
        }
        let checked = bench.verify();
        assert_eq!(checked.bad.as_ref().map(|bad| bad.damage), damage, "{what}: {checked:?}");
        // Lines that are in no file can't be checked, but they are counted.
        assert_eq!(checked.missing_lines, if expected.first() == Some(&"gap") { 2 } else { 0 }, "{what}");
        assert_eq!(bench.seal().unwrap().generation, 1);
    }
}

#[tokio::test]
async fn a_reopen_that_fails_keeps_the_old_file() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.note(bench.event(EventKind::Start));
    audit.barrier().await.unwrap();
    std::fs::rename(bench.path(), bench.beside("audit.log.1")).unwrap();
    std::fs::create_dir(bench.path()).unwrap();
    assert!(audit.reopen().await.is_err());
    recorded(bench.used(&audit, "a")).await.unwrap();
    std::fs::remove_dir(bench.path()).unwrap();
    audit.reopen().await.unwrap();
    audit.stop().await.unwrap();
    let checked = bench.verify();
    assert!(checked.intact(), "{checked:?}");
    assert_eq!(checked.lines, 3);
}

/// Any faults in any order between any events, with kills: the chain holds, every change is there, and every granted
/// use has its line or its count.
#[tokio::test]
async fn random_faults_lose_no_change_and_no_granted_use() {
    for seed in 0..200_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let bench = Bench::new();
        let mut audit = bench.open();
        let (mut generation, mut granted, mut outbox, mut killed) = (0, 0_u64, Vec::new(), false);
        for step in 0..80 {
            match random(10) {
                0 => {
                    let error = [libc::ENOSPC, libc::EIO][random(2) as usize];
                    let percent = random(101) as usize;
                    bench.disk.set(|faults| faults.append = Some((error, percent)));
                }
                1 => bench.disk.set(|faults| faults.truncate = Some(libc::EIO)),
                2 => bench.disk.set(|faults| faults.syncs = 1),
                3 | 4 => bench.disk.heal(),
                5 => bench.second(&audit).await,
                6 | 7 => {
                    generation += 1;
                    let event = AuditEvent { name: Some(format!("{generation}")), ..bench.revoke(1) };
                    outbox.push((generation, event.clone()));
                    let _ = audit.committed(generation, event).wait().await;
                }
                8 if step % 4 == 0 && seed % 2 == 0 => {
                    killed = true;
                    kill(audit);
                    bench.disk.heal();
                    audit = reopened(&bench, generation, &mut outbox);
                }
                _ => {
                    let name = format!("{}", random(3));
                    granted += u64::from(recorded(bench.used(&audit, &name)).await.is_ok());
                }
            }
            let through = bench.through();
            outbox.retain(|(generation, _)| *generation > through);
        }
        bench.disk.heal();
        bench.second(&audit).await;
        audit.stop().await.unwrap();
        let checked = bench.verify();
        assert!(checked.intact(), "seed {seed}: {checked:?}");
        let lines = bench.lines();
        let mut changes: Vec<u64> = lines
            .iter()
            .filter(|line| line["event"] == "revoke")
            .map(|line| line["generation"].as_u64().unwrap())
            .collect();
        changes.sort_unstable();
        assert_eq!(changes, (1..=generation).collect::<Vec<_>>(), "seed {seed}");
        assert_eq!(bench.through(), generation, "seed {seed}");
        let counted: u64 =
            lines.iter().filter(|line| line["event"] == "use").map(|line| line["count"].as_u64().unwrap()).sum();
        let lost: u64 = lines
            .iter()
            .filter(|line| line["event"] == "gap" && line["outcome"] == "lost")
            .map(|line| line["count"].as_u64().unwrap())
            .sum();
        // A kill takes the counts of the windows that were open; their first lines are there.
        assert!(killed || counted + lost >= granted, "seed {seed}: {counted} + {lost} of {granted}");
        assert!(counted > 0 || granted == 0, "seed {seed}");
    }
}

fn reopened(bench: &Bench, generation: u64, outbox: &mut Vec<(u64, AuditEvent)>) -> Audit {
    let through = bench.through();
    outbox.retain(|(generation, _)| *generation > through);
    bench.open_with(bench.boot(generation, outbox.clone())).unwrap().0
}

/// I4: verdicts that clients keep count while the audit is ready. A thread that is dead or stopped outside of a system call
/// looked ready for ever.
#[tokio::test]
async fn a_queue_that_nobody_takes_is_no_readiness() {
    let mut bench = Bench::new();
    bench.options.max_wait = SHORT;
    let audit = bench.open();
    recorded(bench.used(&audit, "before")).await.unwrap();
    bench.disk.set(|faults| faults.panics = true);
    // The first goes down with the thread; nobody takes the second.
    assert_eq!(recorded(bench.used(&audit, "a")).await, Err(Unavailable));
    assert_eq!(recorded(bench.used(&audit, "b")).await, Err(Unavailable));
    tokio::time::sleep(SHORT).await;
    assert!(!audit.ready(), "cached verdicts would go on counting, and their uses nowhere");
    assert!(audit.health().fault.is_some());
}
