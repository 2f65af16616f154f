use super::*;
use crate::protocol::message::{Issue, State};
use crate::registry::fixtures::{DAY, NOW, named, record};
use crate::token::Kind;

fn id(n: u8) -> TokenId {
    TokenId::from_bytes([n; 16])
}

fn token(n: u8) -> TokenRecord {
    TokenRecord { id: id(n), family: id(n), ..record(&named()) }
}

fn later(secs: u64) -> UnixTime {
    NOW.saturating_add(DAY + Duration::from_secs(secs))
}

/// A line of the tenth second after a backup of change 10, and so on.
fn line(generation: u64, event: EventKind, about: Option<u8>, note: &str) -> Line {
    let note = (!note.is_empty()).then(|| note.to_owned());
    let (time, outcome) = (later(generation), Some("done".to_owned()));
    Line { generation, time, event, outcome, reason: None, id: about.map(id), uid: Some(5), note, count: 1 }
}

fn learned(lines: &[Line]) -> Replay {
    let mut replay = Replay::new(10, later(10));
    lines.iter().for_each(|line| replay.learn(line));
    replay
}

fn state(replay: &Replay, record: &TokenRecord) -> State {
    replay.apply(record).map_or_else(|| record.clone(), |(record, _)| record).state(later(100))
}

#[test]
fn what_was_ended_by_id_is_ended_again() {
    let replay = learned(&[
        line(9, EventKind::Revoke, Some(1), ""),
        line(11, EventKind::Revoke, Some(2), ""),
        line(12, EventKind::Suspend, Some(3), ""),
        line(13, EventKind::Suspend, Some(4), ""),
        line(14, EventKind::Resume, Some(4), ""),
    ]);
    assert_eq!(
        state(&replay, &token(1)),
        State::Active,
        "the backup has that change, and it was of another token then"
    );
    let (revoked, redone) = replay.apply(&token(2)).unwrap();
    assert_eq!(revoked.revoked, Some(Ending { at: later(11), reason: None, by_uid: 5 }));
    assert_eq!(redone, [Redone { event: EventKind::Revoke, reason: None }]);
    assert_eq!(revoked.version, token(2).version + 1);
    assert_eq!(state(&replay, &token(3)), State::Suspended);
    assert_eq!(state(&replay, &token(4)), State::Active);
    assert!(replay.apply(&token(5)).is_none());
}

#[test]
fn an_order_is_decided_again_on_what_the_backup_has() {
    let mut labelled = token(1);
    labelled.labels.insert("team".into(), "web ops".into());
    labelled.subject = "it's".into();
    let order = |note: &str| learned(&[line(11, EventKind::Revoke, None, note)]);
    let exact = order(r"by filter: --subject 'it'\''s' --label 'team=web ops' --kind machine");
    assert_eq!((state(&exact, &labelled), exact.doubtful()), (State::Revoked, 0));
    assert_eq!(state(&exact, &token(2)), State::Active);
    assert_eq!(state(&order("by filter: --all"), &token(2)), State::Revoked);
    // One's own: by issuer, or by subject, each with its uid.
    let owner = |whose: &str| order(&format!("by filter: --kind machine; own of {whose}"));
    assert_eq!(state(&owner("root (0)"), &token(2)), State::Revoked);
    assert_eq!(state(&owner("alice (1000)"), &token(2)), State::Revoked);
    assert_eq!(state(&owner("alice (1001)"), &token(2)), State::Active);
    // Issued after it was given.
    let new = TokenRecord { issued_at: later(12), ..token(3) };
    assert_eq!(state(&order("by filter: --all"), &new), State::Active);
}

/// In doubt a token is less good than it was.
#[test]
fn an_order_in_doubt_means_all_that_it_can_have_meant() {
    let (mine, mut others) = (token(1), token(2));
    others.subject = "bob".into();
    for note in [
        "by filter: --subject alice --unused-for 90d",
        "by filter: --subject alice --state expired",
        "by filter: --subject alice --expiring-within 1h",
    ] {
        let replay = learned(&[line(11, EventKind::Revoke, None, note)]);
        assert_eq!(state(&replay, &mine), State::Revoked, "{note}");
        assert_eq!(state(&replay, &others), State::Active, "{note}");
        assert_eq!(replay.doubtful(), 1, "{note}");
        // What gives back is not done in doubt.
        let held = [line(11, EventKind::Suspend, Some(1), ""), line(12, EventKind::Resume, None, note)];
        assert_eq!(state(&learned(&held), &mine), State::Suspended, "{note}");
    }
    for unreadable in ["", "by filter: --subject alice --of-the-future x", "by filter: --subject 'alic"] {
        let replay = learned(&[line(11, EventKind::Revoke, None, unreadable)]);
        assert_eq!((state(&replay, &others), replay.doubtful()), (State::Revoked, 1), "{unreadable}");
    }
    // Who might do it only to its own did it to no others.
    let own = "by filter: --all; own of alice (1000)";
    let replay = learned(&[line(11, EventKind::Revoke, None, own)]);
    assert_eq!((state(&replay, &mine), state(&replay, &others)), (State::Revoked, State::Active));
    // Its label may have been set after the backup.
    let edited =
        [line(11, EventKind::Edit, Some(1), ""), line(12, EventKind::Revoke, None, "by filter: --label team=web")];
    assert_eq!(state(&learned(&edited), &mine), State::Revoked);
    assert_eq!(state(&learned(&edited), &others), State::Active);
    let sure =
        [line(11, EventKind::Suspend, Some(1), ""), line(12, EventKind::Resume, None, "by filter: --subject alice")];
    assert_eq!(state(&learned(&sure), &mine), State::Active);
}

#[test]
fn every_condition_is_read_as_it_is_displayed() {
    let at = UnixTime::from_secs(1_800_000_000);
    let filter = Filter(vec![
        Condition::Subject("a'b c".into()),
        Condition::Issuer("x".into()),
        Condition::Name(r"CORP\al".into()),
        Condition::Label("k=v w".into()),
        Condition::Scope("a:*".into()),
        Condition::Kind(Kind::Canary),
        Condition::Profile("p".into()),
        Condition::State(State::NotYetValid),
        Condition::ExpiringWithin(Duration::from_secs(90)),
        Condition::UnusedFor(Duration::from_secs(86_400)),
        Condition::UnusedSince(at),
        Condition::Family(id(7)),
        Condition::IssuedBefore(at),
        Condition::IssuedAfter(at),
        Condition::All,
    ]);
    assert_eq!(order_of(&format!("by filter: {filter}")), Some((filter.clone(), None)));
    let own = Own { uid: 1000, name: "al ice".into() };
    assert_eq!(order_of(&format!("by filter: {filter}; own of al ice (1000)")), Some((filter, Some(own))));
}

/// The lines as `rotate` writes them.
#[test]
fn rotations_do_not_bring_predecessors_back() {
    let rotated = |until: u64| {
        let note = format!("to {}, ends at {} at the latest", id(8), later(until));
        line(11, EventKind::Rotate, Some(1), &note)
    };
    let because = |generation, about, reason: &str| {
        let reason = Some(reason.to_owned());
        Line { reason, ..line(generation, EventKind::Rotate, Some(about), &format!("of {}", id(1))) }
    };
    // At once.
    assert_eq!(state(&learned(&[rotated(11)]), &token(1)), State::Revoked);
    // Its successor is lost, and was never used: it is good for as long as it would have been.
    let mut lines = vec![rotated(5000), because(12, 8, "successor")];
    let (record, _) = learned(&lines).apply(&token(1)).unwrap();
    assert_eq!((record.state(later(4999)), record.state(later(5000))), (State::Active, State::Expired));
    let lost: Vec<_> = learned(&lines).lost().map(|(what, ids)| (what, ids.len())).collect();
    assert_eq!(lost, [("new tokens", 1), ("rotations", 1)]);
    let mut undone = lines.clone();
    undone.push(because(13, 1, "undone"));
    assert!(learned(&undone).apply(&token(1)).is_none());
    let used = Line { outcome: Some("active".into()), ..line(13, EventKind::Use, Some(8), "") };
    lines.push(used.clone());
    assert_eq!(state(&learned(&lines), &token(1)), State::Revoked);

    // A pair of the backup: the first use came after it.
    let mut pair = (token(1), token(8));
    let (at, grace) = (NOW, Duration::from_secs(30));
    let rotation = crate::store::record::Rotation { at, grace, ends_at: later(10_000), successor_used_at: None };
    (pair.0.rotation, pair.0.successor, pair.1.predecessor) = (Some(rotation), Some(id(8)), Some(id(1)));
    let replay = learned(&[used]);
    let (old, _) = replay.apply(&pair.0).unwrap();
    assert_eq!((old.state(later(42)), old.state(later(43))), (State::Rotating, State::Rotated));
    assert_eq!(replay.apply(&pair.1).unwrap().0.first_used_at, Some(later(13)));
    // Or it was rotated on.
    let on = learned(&[because(11, 1, "ended"), because(12, 8, "replaced")]);
    assert_eq!((state(&on, &pair.0), state(&on, &pair.1)), (State::Rotated, State::Rotated));
}

#[test]
fn uses_that_were_spent_stay_spent() {
    let spent = |secs, count, note: &str| {
        let time = later(secs);
        Line { outcome: Some("active".into()), time, count, ..line(10, EventKind::Use, Some(1), note) }
    };
    let counted = TokenRecord { uses: 1, ..record(&Issue { max_uses: Some(5), ..named() }) };
    let counted = TokenRecord { id: id(1), ..counted };
    let replay =
        learned(&[spent(1, 9, ""), spent(11, 1, ""), spent(12, 2, "x"), spent(13, 1, "peek"), spent(14, 1, "peek: x")]);
    assert_eq!(replay.apply(&counted).unwrap().0.uses, 4);
    assert_eq!(learned(&[spent(11, 100, "")]).apply(&counted).unwrap().0.uses, 5);
    assert!(replay.apply(&token(1)).is_none(), "without a limit there is nothing to count");
}

#[test]
fn a_newer_store_is_believed_too() {
    let mut replay = Replay::new(10, later(10));
    let ended = Some(Ending { at: later(11), reason: None, by_uid: 5 });
    replay.learn_record(&TokenRecord { revoked: ended.clone(), ..token(1) });
    replay.learn_record(&TokenRecord { suspended: ended, ..token(2) });
    replay.learn_record(&token(3));
    let states = [1, 2, 3].map(|n| state(&replay, &token(n)));
    assert_eq!(states, [State::Revoked, State::Suspended, State::Active]);
}
