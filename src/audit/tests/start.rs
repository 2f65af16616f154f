//! Starts: what a stop, a kill, a power cut, a restore or a stranger left behind.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn a_new_log_begins_with_line_one_and_is_sealed() {
    let bench = Bench::new();
    let (audit, report) = bench.open_with(bench.boot(0, vec![])).unwrap();
    assert_eq!((report.log, report.newest_generation, report.seq), (LogState::Absent, 0, 0));
    assert_eq!(std::fs::metadata(bench.path()).unwrap().permissions().mode() & 0o7777, 0o640);
    audit.note(bench.event(EventKind::Start));
    assert_eq!(audit.committed(1, bench.revoke(1)).wait().await, Ok(()));
    assert_eq!(recorded(bench.used(&audit, "a")).await, Ok(()));
    audit.stop().await.unwrap();

    let lines = bench.lines();
    assert_eq!(bench.events(), ["start", "revoke", "use"]);
    assert_eq!(lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(lines.iter().map(|line| line["generation"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(lines[0].as_object().unwrap().keys().count(), 22);
    let seal = bench.seal().unwrap();
    assert_eq!((seal.seq, seal.generation, bench.through()), (3, 1, 1));
    assert_eq!(seal.mac.to_string(), lines[2]["mac"].as_str().unwrap());
    assert_eq!(seal.offset, bench.bytes().len() as u64);
    let report = bench.verify();
    assert!(report.intact());
    assert_eq!((report.lines, report.first_seq, report.past_seal), (3, Some(1), 0));
}

#[tokio::test]
async fn after_a_stop_the_chain_goes_on_and_nothing_is_said() {
    let bench = Bench::new();
    for round in 1..=3 {
        let (audit, report) = bench.open_with(bench.boot(0, vec![])).unwrap();
        assert_eq!(report.recovered_bytes, 0);
        audit.note(bench.event(EventKind::Start));
        audit.stop().await.unwrap();
        assert_eq!(bench.events().len(), round);
    }
    assert_eq!(bench.events(), ["start"; 3]);
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn after_a_kill_no_change_is_lost_or_doubled() {
    let bench = Bench::new();
    let audit = bench.open();
    let changes: Vec<_> = (1..=4).map(|n| (u64::from(n), bench.revoke(n))).collect();
    audit.committed(1, changes[0].1.clone()).wait().await.unwrap();
    bench.second(&audit).await;
    assert_eq!(bench.through(), 1);
    // 3 overtakes 2 and is sealed; 4 is written and not sealed; 2 never came.
    audit.committed(3, changes[2].1.clone()).wait().await.unwrap();
    bench.second(&audit).await;
    assert_eq!((bench.through(), bench.seal().unwrap().beyond), (1, vec![(3, 3)]));
    // A use that carries the same generation as the change is not taken for it.
    recorded(bench.used(&audit, "a")).await.unwrap();
    audit.committed(4, changes[3].1.clone()).wait().await.unwrap();
    kill(audit);

    let outbox = changes[1..].to_vec();
    let (audit, report) = bench.open_with(bench.boot(4, outbox)).unwrap();
    assert_eq!((report.log, report.newest_generation, report.owed), (LogState::Complete, 4, 1));
    bench.second(&audit).await;
    assert_eq!(bench.through(), 4, "the outbox can be emptied");
    audit.stop().await.unwrap();
    let generations: Vec<_> =
        bench.lines().iter().filter(|line| line["event"] == "revoke").map(|line| line["generation"].clone()).collect();
    assert_eq!(generations, [1, 3, 4, 2]);
    assert!(bench.verify().intact());
}

/// A power cut tears the last write anywhere, and leaves zeroes or rubbish.
#[tokio::test]
async fn a_torn_tail_is_cut_and_said_at_every_byte() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.note(bench.event(EventKind::Start));
    bench.second(&audit).await;
    let sealed = bench.bytes().len();
    for n in 1..=2 {
        audit.committed(n, bench.revoke(n as u8)).wait().await.unwrap();
    }
    kill(audit);
    let whole = bench.bytes();
    let seal = bench.seal().unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, c)| **c == b'\n').map(|(at, _)| at + 1).collect();
    for cut in sealed..=whole.len() {
        // One after the other, and all of them around the ends of lines.
        let near = ends.iter().any(|end| end.abs_diff(cut) < 3);
        let rubbishes = [&b""[..], &[0; 9], b"\0}\n{\n"];
        for rubbish in if near { &rubbishes[..] } else { &rubbishes[cut % 3..][..1] } {
            let mut torn = whole[..cut].to_vec();
            torn.extend_from_slice(rubbish);
            std::fs::write(bench.path(), &torn).unwrap();
            let boot = AuditBoot { seal: Some(seal.clone()), generation: 2, ..AuditBoot::default() };
            let (audit, report) = bench.open_with(boot).unwrap();
            let good = *ends.iter().rfind(|end| **end <= cut).unwrap();
            assert_eq!(report.recovered_bytes, (torn.len() - good) as u64, "cut at {cut}");
            assert_eq!(report.newest_generation, ends.iter().position(|end| *end == good).unwrap() as u64);
            audit.note(bench.event(EventKind::Start));
            audit.stop().await.unwrap();
            let said = bench.events().contains(&"recovered".to_owned());
            assert_eq!(said, torn.len() > good, "cut at {cut}");
            let checked = bench.verify();
            assert!(checked.intact(), "cut at {cut}: {checked:?}");
            assert_eq!(checked.said.len(), usize::from(said));
        }
    }
}

#[tokio::test]
async fn a_log_behind_its_seal_goes_on_and_says_what_is_missing() {
    let bench = Bench::new();
    let audit = bench.open();
    let mut ends = Vec::new();
    for _ in 0..5 {
        audit.note(bench.event(EventKind::Reload));
        audit.barrier().await.unwrap();
        ends.push(bench.bytes().len());
    }
    audit.stop().await.unwrap();
    let whole = bench.bytes();
    // Cut between two lines, and within one: evidence from before the seal is never cut off.
    for (len, stray) in [(ends[1], false), (ends[1] + 40, true)] {
        std::fs::write(bench.path(), &whole[..len]).unwrap();
        let (audit, report) = bench.open_with(bench.boot(0, vec![])).unwrap();
        assert_eq!((report.log, report.recovered_bytes), (LogState::Behind, 0));
        audit.stop().await.unwrap();
        let text = String::from_utf8(bench.bytes()).unwrap();
        assert!(text.as_bytes().starts_with(&whole[..len]));
        let gap: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let next = gap["seq"].as_u64().unwrap();
        assert_eq!((&gap["event"], &gap["count"]), (&"gap".into(), &(next - 3).into()));
        assert_eq!(text.lines().count(), 3 + usize::from(stray));
        let checked = bench.verify();
        assert!(checked.intact(), "{checked:?}");
        assert_eq!((checked.said.len(), checked.said[0].missing), (1, next - 3));
    }
}

#[tokio::test]
async fn a_log_that_was_taken_away_is_begun_anew_on_the_same_chain() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.note(bench.event(EventKind::Start));
    audit.stop().await.unwrap();
    std::fs::remove_file(bench.path()).unwrap();
    let (audit, report) = bench.open_with(bench.boot(0, vec![])).unwrap();
    assert_eq!((report.log, report.seq), (LogState::Absent, 1));
    audit.stop().await.unwrap();
    assert_eq!(bench.events(), ["gap"]);
    assert_eq!(bench.lines()[0]["seq"], 2);
    assert!(bench.verify().intact());
}

/// logrotate renamed the file, the daemon was killed before it was told, and the rename's tail is torn.
#[tokio::test]
async fn a_file_renamed_before_a_kill_is_followed() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.note(bench.event(EventKind::Start));
    bench.second(&audit).await;
    audit.committed(1, bench.revoke(1)).wait().await.unwrap();
    audit.committed(2, bench.revoke(2)).wait().await.unwrap();
    kill(audit);
    let whole = bench.bytes();
    let old = bench.beside("audit.log.1");
    std::fs::rename(bench.path(), &old).unwrap();
    std::fs::File::options().write(true).open(&old).unwrap().set_len(whole.len() as u64 - 5).unwrap();
    let outbox = vec![(1, bench.revoke(1)), (2, bench.revoke(2))];
    let (audit, report) = bench.open_with(bench.boot(2, outbox)).unwrap();
    assert_eq!((report.log, report.newest_generation, report.owed), (LogState::Rotated, 1, 1));
    assert!(report.recovered_bytes > 0);
    audit.stop().await.unwrap();
    assert_eq!(bench.events(), ["seal", "recovered", "revoke"]);
    assert_eq!(bench.lines()[2]["generation"], 2);
    let checked = bench.verify();
    assert!(checked.intact(), "{checked:?}");
    assert_eq!((checked.files, checked.lines), (2, 5));
    // Each alone as well: the new file says what it goes on from.
    assert!(verify(&[bench.path()], &KEY, bench.seal().as_ref()).unwrap().intact());
}

#[tokio::test]
async fn a_log_of_another_key_is_kept_and_a_new_chain_begun_after_it() {
    let bench = Bench::new();
    let (audit, _) = bench.open_keyed(bench.boot(0, vec![]), TestKey([1; 32])).unwrap();
    audit.note(bench.event(EventKind::Start));
    audit.stop().await.unwrap();
    let foreign = bench.bytes();
    lock(&bench.seals).clear();
    let (audit, report) = bench.open_with(bench.boot(0, vec![])).unwrap();
    assert_eq!((report.newest_generation, report.recovered_bytes), (0, 0));
    audit.note(bench.event(EventKind::Start));
    audit.stop().await.unwrap();
    assert!(bench.bytes().starts_with(&foreign));
    assert_eq!(bench.events(), ["start", "gap", "start"]);
    assert_eq!(bench.lines()[1]["seq"], 1);
    let checked = bench.verify();
    assert!(checked.intact(), "{checked:?}");
    assert_eq!((checked.lines, checked.said.len()), (2, 1));
    // And after that everything is as usual.
    let audit = bench.open();
    audit.stop().await.unwrap();
    assert_eq!(bench.events().len(), 3);
}

/// The seal's offset means nothing in another text, even if the inode is the same: nothing of it may be cut.
#[tokio::test]
async fn a_file_rewritten_in_place_is_not_cut_at_the_seal() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.note(bench.event(EventKind::Start));
    audit.stop().await.unwrap();
    let other = Bench::new();
    let (audit, _) = other.open_keyed(other.boot(0, vec![]), TestKey([1; 32])).unwrap();
    for _ in 0..3 {
        audit.note(other.event(EventKind::Reload));
    }
    audit.stop().await.unwrap();
    let foreign = other.bytes();
    std::fs::write(bench.path(), &foreign).unwrap();
    let (audit, report) = bench.open_with(bench.boot(0, vec![])).unwrap();
    assert_eq!((report.log, report.recovered_bytes, report.seq), (LogState::Behind, 0, 1));
    audit.stop().await.unwrap();
    assert!(bench.bytes().starts_with(&foreign));
    assert_eq!(bench.events(), ["reload", "reload", "reload", "gap"]);
    assert_eq!(bench.lines()[3]["seq"], 2);
}

/// A restored store must not bring revoked tokens back (the log knows better).
#[tokio::test]
async fn an_older_store_is_refused_before_anything_is_written() {
    let bench = Bench::new();
    let audit = bench.open();
    for n in 1..=3 {
        audit.committed(u64::from(n), bench.revoke(n)).wait().await.unwrap();
        bench.second(&audit).await;
    }
    audit.stop().await.unwrap();
    let whole = bench.bytes();
    let old_seal = lock(&bench.seals)[0].0.clone();
    assert_eq!(old_seal.generation, 1);
    let boot = |accept_rollback| AuditBoot {
        seal: Some(old_seal.clone()),
        outbox: vec![(1, bench.revoke(1))],
        generation: 1,
        accept_rollback,
    };
    let Err(AuditError::RolledBack { store: 1, report }) = bench.open_with(boot(false)) else {
        panic!("an old store must be refused")
    };
    assert_eq!((report.newest_generation, &report.revoked[..]), (3, &[id(2), id(3)][..]));
    assert_eq!(bench.bytes(), whole);
    assert_eq!(Audit::examine(&bench.path(), &KEY, &boot(false)).unwrap(), *report);
    assert_eq!(bench.bytes(), whole);
    // Also when all files were copied back, so that no inode is what it was.
    let rotated = bench.beside("audit.log-20251124");
    std::fs::write(&rotated, &whole).unwrap();
    std::fs::remove_file(bench.path()).unwrap();
    assert!(matches!(bench.open_with(boot(false)), Err(AuditError::RolledBack { store: 1, .. })));
    assert!(!bench.path().exists());

    let (audit, report) = bench.open_with(boot(true)).unwrap();
    assert_eq!(report.revoked, [id(2), id(3)]);
    audit.stop().await.unwrap();
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn without_a_seal_a_sound_log_goes_on() {
    let bench = Bench::new();
    let audit = bench.open();
    audit.note(bench.event(EventKind::Start));
    audit.barrier().await.unwrap();
    kill(audit);
    let boot = AuditBoot::default();
    let (audit, report) = bench.open_with(boot).unwrap();
    assert_eq!((report.log, report.seq), (LogState::Complete, 1));
    audit.note(bench.event(EventKind::Start));
    audit.stop().await.unwrap();
    assert_eq!(bench.events(), ["start", "start"]);
    assert!(bench.verify().intact());
}

#[tokio::test]
async fn a_file_that_is_not_to_be_trusted_is_refused_with_what_to_do() {
    let refused = |prepare: &dyn Fn(&Bench), todo: &str| {
        let bench = Bench::new();
        prepare(&bench);
        let error = bench.open_with(AuditBoot::default()).err().expect("refused").to_string();
        assert!(error.contains(todo), "{error}");
    };
    refused(&|bench| std::fs::create_dir(bench.path()).unwrap(), "audit.log");
    refused(&|bench| std::os::unix::fs::symlink("/etc/passwd", bench.path()).unwrap(), "audit.log");
    refused(
        &|bench| {
            std::fs::write(bench.path(), "").unwrap();
            std::fs::set_permissions(bench.path(), std::fs::Permissions::from_mode(0o660)).unwrap();
        },
        "chmod 0640",
    );
    refused(&|bench| nix::unistd::mkfifo(&bench.path(), nix::sys::stat::Mode::S_IRUSR).unwrap(), "audit.log");
    if nix::unistd::geteuid().is_root() {
        let other = &|bench: &Bench| {
            std::fs::write(bench.path(), "").unwrap();
            std::os::unix::fs::chown(bench.path(), Some(12345), None).unwrap();
        };
        refused(other, "chown 0");
    }
    let bench = Bench::new();
    let options = AuditOptions::new(bench.beside("missing/audit.log"));
    let opened =
        Audit::open(options, Arc::new(KEY), AuditBoot::default(), Arc::clone(&bench.clock), Box::new(|_, _| {}));
    assert!(matches!(opened.err(), Some(AuditError::Open { .. })));
}
