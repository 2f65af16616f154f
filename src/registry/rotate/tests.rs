use std::collections::BTreeMap;
use std::convert::Infallible;

use super::*;
use crate::protocol::message::Issue;
use crate::registry::fixtures::{DAY, NOW, named, record, rules};
use crate::registry::revoke::{Revocation, reinstated, revoke};
use crate::registry::{hold, issue};
use crate::store::record::Ending;
use crate::token::Kind;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn id(n: u8) -> TokenId {
    TokenId::from_bytes([n; 16])
}

fn how(n: u8) -> How {
    How {
        id: id(n),
        digest: Digest([n; 32]),
        prefix: "new".parse().unwrap(),
        lifetime: None,
        at_once: false,
        grace: 5 * MINUTE,
        overlap: 7 * DAY,
    }
}

/// A few records, changed as the service changes them.
struct World(BTreeMap<TokenId, TokenRecord>);

impl World {
    /// One token, 1, of 30 days.
    fn new() -> Self {
        Self::of(record(&Issue { ttl: Some(30 * DAY), ..named() }))
    }

    fn of(mut first: TokenRecord) -> Self {
        (first.id, first.family) = (id(1), id(1));
        Self([(id(1), first)].into())
    }

    fn at(&self, n: u8) -> &TokenRecord {
        &self.0[&id(n)]
    }

    fn change(&mut self, n: u8, change: impl FnOnce(&mut TokenRecord)) {
        change(self.0.get_mut(&id(n)).unwrap());
    }

    fn state(&self, n: u8, now: UnixTime) -> State {
        self.at(n).state(now)
    }

    fn rotate(&mut self, n: u8, how: How, now: UnixTime) -> Result<Rotated, Refusal> {
        let kin = Kin::of(self.at(n).clone(), |id| Ok::<_, Infallible>(self.0.get(&id).cloned())).unwrap();
        let rotated = rotate(kin, &how, now)?;
        let put =
            [Some(&rotated.predecessor), Some(&rotated.successor), rotated.replaced.as_ref(), rotated.ended.as_ref()];
        for record in put.into_iter().flatten() {
            let version = self.0.insert(record.id, record.clone()).map_or(0, |old| old.version);
            assert_eq!(record.version, version + 1);
        }
        self.check(now);
        Ok(rotated)
    }

    fn refusal(&mut self, n: u8, now: UnixTime) -> Refusal {
        self.rotate(n, how(99), now).map(drop).expect_err("it is not to be had")
    }

    /// What validate does at a successor's first use.
    fn first_use(&mut self, n: u8, now: UnixTime) {
        self.change(n, |record| record.first_used_at = Some(now));
        if let Some(before) = self.at(n).predecessor {
            let rotation = self.0.get_mut(&before).unwrap().rotation.as_mut().unwrap();
            rotation.successor_used_at = Some(now);
            rotation.ends_at = rotation.ends_at.min(now.saturating_add(rotation.grace));
        }
        self.check(now);
    }

    fn revoke(&mut self, n: u8, now: UnixTime) {
        let Revocation::Revoke(revoked) = revoke(self.at(n), None, 0, now) else { panic!("revoked already") };
        let before = revoked.predecessor.and_then(|id| self.0.get(&id)).and_then(|it| reinstated(it, &revoked));
        for record in [Some(*revoked), before].into_iter().flatten() {
            self.0.insert(record.id, record);
        }
        self.check(now);
    }

    /// At most one good predecessor and one successor.
    fn check(&self, now: UnixTime) {
        let good = |state: State| self.0.values().filter(|record| record.state(now) == state).count();
        assert!(good(State::Rotating) <= 1 && good(State::Active) <= 1);
    }
}

fn unfit(state: State) -> Refusal {
    Refusal::State { verb: "rotated", state }
}

/// "The successor inherits everything (uses and rate are the family's), gets now + the original ttl."
#[test]
fn the_successor_inherits_everything_but_what_makes_it_another_token() {
    let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    let mut world = World::of(record(&Issue {
        kind: Some(Kind::Session),
        scopes: texts(&["repo:*"]),
        audiences: texts(&["git"]),
        ttl: Some(2 * HOUR),
        not_before: Some(NOW),
        max_uses: Some(9),
        rate: Some(message::Rate { count: 3, per: HOUR }),
        allow_from: texts(&["10.0.0.0/8"]),
        allow_units: texts(&["a.service"]),
        allow_uids: vec![7],
        labels: [("team".to_owned(), "web".to_owned())].into(),
        ..named()
    }));
    world.change(1, |record| {
        (record.uses, record.warned, record.profile) = (4, Some(DAY), Some("ci".into()));
        (record.prefix, record.expiry_told) = (None, true);
    });
    let at = NOW.saturating_add(HOUR);
    let before = world.at(1).clone();
    let new = world.rotate(1, how(2), at).unwrap().successor;
    let expected = TokenRecord {
        version: 1,
        id: id(2),
        prefix: Some("new".into()),
        digest: Digest([2; 32]),
        issued_at: at,
        expires_at: Some(at.saturating_add(2 * HOUR)),
        predecessor: Some(id(1)),
        warned: None,
        expiry_told: false,
        ..before.clone()
    };
    assert!(new == expected);
    assert_eq!((new.family, new.uses, new.max_expires_at), (id(1), 4, before.max_expires_at));
}

/// "Its `max_expires_at` starts afresh only if the peer may issue the like, else it is inherited", and bounds its expiry.
#[test]
fn the_lifetime_is_inherited_unless_it_is_given_afresh() {
    let at = NOW.saturating_add(29 * DAY);
    let mut world = World::new();
    world.change(1, |record| record.max_expires_at = Some(NOW.saturating_add(40 * DAY)));
    let inherited = world.rotate(1, how(2), at).unwrap().successor;
    assert_eq!(inherited.max_expires_at, Some(NOW.saturating_add(40 * DAY)));
    assert_eq!(inherited.expires_at, Some(NOW.saturating_add(40 * DAY)), "and not now + 30 days");
    let mut world = World::new();
    let afresh = world.rotate(1, How { lifetime: Some(366 * DAY), ..how(2) }, at).unwrap().successor;
    assert_eq!(afresh.max_expires_at, Some(at.saturating_add(366 * DAY)));
    assert_eq!(afresh.expires_at, Some(at.saturating_add(30 * DAY)));
    // What would make it anew asks for all that it is.
    let model = World::new();
    let plan = issue::plan(&like(model.at(1)), &rules()).unwrap();
    assert_eq!((plan.ttl, plan.max_lifetime), (Some(30 * DAY), Some(366 * DAY)));
}

/// "The predecessor stays good until the successor's first use plus `grace`, at most `overlap` or its own expiry."
#[test]
fn the_predecessor_ends_by_grace_overlap_or_its_own_expiry() {
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    assert_eq!((world.state(1, NOW), world.state(2, NOW)), (State::Rotating, State::Active));
    let overlap = NOW.saturating_add(7 * DAY);
    assert_eq!(world.state(1, overlap.saturating_sub(MINUTE)), State::Rotating);
    assert_eq!(world.state(1, overlap), State::Rotated);
    let rotation = world.at(1).rotation.clone().unwrap();
    assert_eq!((rotation.at, rotation.grace, rotation.successor_used_at), (NOW, 5 * MINUTE, None));

    let used = NOW.saturating_add(HOUR);
    world.first_use(2, used);
    assert_eq!(world.state(1, used.saturating_add(4 * MINUTE)), State::Rotating);
    assert_eq!(world.state(1, used.saturating_add(5 * MINUTE)), State::Rotated);

    let mut world = World::new();
    let late = NOW.saturating_add(28 * DAY);
    world.rotate(1, how(2), late).unwrap();
    assert_eq!(world.at(1).rotation.as_ref().unwrap().ends_at, NOW.saturating_add(30 * DAY));
}

/// "`--now` ends it at once."
#[test]
fn now_ends_it_at_once() {
    let mut world = World::new();
    world.rotate(1, How { at_once: true, ..how(2) }, NOW).unwrap();
    assert_eq!((world.state(1, NOW), world.state(2, NOW)), (State::Rotated, State::Active));
    // To replace the successor does not bring it back.
    world.rotate(1, how(3), NOW).unwrap();
    assert_eq!(
        (world.state(1, NOW), world.state(2, NOW), world.state(3, NOW)),
        (State::Rotated, State::Rotated, State::Active)
    );
    // A second thought: the replacement may end it, too.
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    world.rotate(1, How { at_once: true, ..how(3) }, NOW).unwrap();
    assert_eq!(world.state(1, NOW), State::Rotated);
}

/// "Repeating it on either while the successor is unused replaces the successor, so a retry can't lock anyone out."
#[test]
fn repeating_it_replaces_the_unused_successor() {
    let later = NOW.saturating_add(DAY);
    // By the predecessor, by the successor, and by one that was replaced already.
    for name in [1, 2] {
        let mut world = World::new();
        world.rotate(1, how(2), NOW).unwrap();
        let rotated = world.rotate(name, How { grace: MINUTE, ..how(3) }, later).unwrap();
        assert_eq!(rotated.replaced.map(|record| record.id), Some(id(2)));
        assert_eq!((rotated.successor.predecessor, rotated.successor.family), (Some(id(1)), id(1)));
        assert_eq!(world.state(2, later), State::Rotated);
        assert!(world.at(2).replaced);
        assert_eq!((world.state(1, later), world.state(3, later)), (State::Rotating, State::Active));
        assert_eq!(world.at(1).successor, Some(id(3)));
        // Its overlap counts afresh, and so does what grace it has.
        let rotation = world.at(1).rotation.clone().unwrap();
        assert_eq!((rotation.at, rotation.grace, rotation.ends_at), (later, MINUTE, later.saturating_add(7 * DAY)));
        world.rotate(2, how(4), later).unwrap();
        assert_eq!((world.state(3, later), world.state(4, later)), (State::Rotated, State::Active));
        assert_eq!(world.at(1).successor, Some(id(4)));
    }
}

#[test]
fn a_replacement_is_like_what_it_replaces() {
    let mut world = World::new();
    world.rotate(1, How { lifetime: Some(366 * DAY), ..how(2) }, NOW.saturating_add(DAY)).unwrap();
    let fresh = world.at(2).max_expires_at;
    world.change(2, |record| record.allow_uids = vec![7]);
    world.change(1, |record| record.uses = 3);
    let new = world.rotate(1, how(3), NOW.saturating_add(2 * DAY)).unwrap().successor;
    assert_eq!((new.allow_uids, new.max_expires_at, new.uses), (vec![7], fresh, 3));
}

/// No lock-out: the predecessor has ended while the successor was never used.
#[test]
fn an_unused_successor_is_replaced_also_when_the_predecessor_has_ended() {
    let over = NOW.saturating_add(8 * DAY);
    for name in [1, 2] {
        let mut world = World::new();
        world.rotate(1, how(2), NOW).unwrap();
        assert_eq!(world.state(1, over), State::Rotated);
        let ends_at = world.at(1).rotation.as_ref().unwrap().ends_at;
        world.rotate(name, how(3), over).unwrap();
        assert_eq!((world.state(1, over), world.state(3, over)), (State::Rotated, State::Active));
        assert_eq!(world.at(1).rotation.as_ref().unwrap().ends_at, ends_at, "it stays ended");
    }
    // Its own expiry.
    let mut world = World::new();
    let late = NOW.saturating_add(29 * DAY);
    world.rotate(1, how(2), late).unwrap();
    let over = NOW.saturating_add(31 * DAY);
    world.rotate(1, how(3), over).unwrap();
    assert_eq!((world.state(1, over), world.state(3, over)), (State::Rotated, State::Active));
    // Revoked: its successor goes on, by its own name and by that of one it replaced.
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    world.revoke(1, NOW);
    assert_eq!(world.refusal(1, NOW), unfit(State::Revoked));
    world.rotate(2, how(3), NOW).unwrap();
    world.rotate(2, how(4), NOW).unwrap();
    assert_eq!((world.state(1, NOW), world.state(4, NOW)), (State::Revoked, State::Active));
    // Both over: nothing is left that could be rotated.
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    let over = NOW.saturating_add(60 * DAY);
    assert_eq!(world.refusal(1, over), unfit(State::Rotated));
    assert_eq!(world.refusal(2, over), unfit(State::Expired));
}

/// "Rotating a token whose successor was used is refused (`already_rotated`, naming it)."
#[test]
fn with_a_used_successor_it_is_refused_and_named() {
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    world.rotate(1, how(3), NOW).unwrap();
    world.first_use(3, NOW);
    // Also by one that was replaced, before and after the predecessor has ended.
    for (name, at) in [(1, NOW), (2, NOW), (1, NOW.saturating_add(DAY)), (2, NOW.saturating_add(DAY))] {
        let refusal = world.refusal(name, at);
        assert_eq!(refusal, Refusal::AlreadyRotated(id(3)));
        assert!(refusal.to_string().contains(&id(3).to_string()));
    }
}

/// "A family has at most one good predecessor and one successor."
#[test]
fn rotating_a_used_successor_ends_its_predecessor_at_once() {
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    world.first_use(2, NOW);
    let within = NOW.saturating_add(MINUTE);
    assert_eq!(world.state(1, within), State::Rotating);
    let rotated = world.rotate(2, how(3), within).unwrap();
    assert_eq!(rotated.ended.map(|record| record.id), Some(id(1)));
    assert_eq!(
        (world.state(1, within), world.state(2, within), world.state(3, within)),
        (State::Rotated, State::Rotating, State::Active)
    );
    // Suspended it ends too: to resume it would make a third.
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    world.first_use(2, NOW);
    world.change(1, |record| *record = hold::suspend(record, None, 0, NOW).unwrap());
    world.rotate(2, how(3), NOW).unwrap();
    world.change(1, |record| *record = hold::resume(record).unwrap());
    assert_eq!(world.state(1, NOW), State::Rotated);
    // One that has ended already is left alone.
    let over = NOW.saturating_add(DAY);
    world.first_use(3, over);
    let rotated = world.rotate(3, how(4), over.saturating_add(HOUR)).unwrap();
    assert!(rotated.ended.is_none());
}

#[test]
fn only_what_is_good_is_rotated() {
    let ending = || Some(Ending { at: NOW, reason: None, by_uid: 0 });
    let first = |change: &dyn Fn(&mut TokenRecord)| {
        let mut world = World::new();
        world.change(1, change);
        world.refusal(1, NOW)
    };
    assert_eq!(first(&|it| it.revoked = ending()), unfit(State::Revoked));
    assert_eq!(first(&|it| it.suspended = ending()), unfit(State::Suspended));
    assert_eq!(first(&|it| it.expires_at = Some(NOW)), unfit(State::Expired));
    assert_eq!(first(&|it| (it.suspended, it.expires_at) = (ending(), Some(NOW))), unfit(State::Expired));
    assert_eq!(first(&|it| (it.max_uses, it.uses) = (Some(2), 2)), unfit(State::Exhausted));
    assert_eq!(first(&|it| it.not_before = Some(NOW.saturating_add(DAY))), unfit(State::NotYetValid));
    assert_eq!(first(&|it| it.replaced = true), unfit(State::Rotated));
    let mut bait = World::of(record(&Issue { kind: Some(Kind::Canary), ..named() }));
    assert_eq!(bait.refusal(1, NOW), unfit(State::Canary));
}

#[test]
fn what_is_held_stays_held() {
    let suspend = |world: &mut World, n| world.change(n, |it| *it = hold::suspend(it, None, 0, NOW).unwrap());
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    suspend(&mut world, 2);
    // A successor that is suspended leaves its predecessor as it was.
    assert_eq!(world.state(1, NOW), State::Rotating);
    assert_eq!(world.refusal(1, NOW), Refusal::SuccessorHeld(id(2)));
    assert_eq!(world.refusal(2, NOW), unfit(State::Suspended));
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    suspend(&mut world, 1);
    assert_eq!(world.refusal(1, NOW), unfit(State::Suspended));
    world.rotate(2, how(3), NOW).unwrap();
    assert_eq!((world.state(1, NOW), world.state(3, NOW)), (State::Suspended, State::Active));
}

#[test]
fn spent_uses_are_spent_for_the_family() {
    let mut world = World::new();
    world.change(1, |it| it.max_uses = Some(5));
    world.rotate(1, how(2), NOW).unwrap();
    world.change(1, |it| it.uses = 5);
    assert_eq!(world.refusal(1, NOW), unfit(State::Exhausted));
    assert_eq!(world.refusal(2, NOW), unfit(State::Exhausted));
}

#[test]
fn a_life_that_is_over_is_not_inherited() {
    let mut world = World::new();
    world.change(1, |it| it.max_expires_at = it.expires_at);
    let late = NOW.saturating_add(29 * DAY);
    world.rotate(1, How { lifetime: Some(366 * DAY), ..how(2) }, late).unwrap();
    world.change(2, |it| it.max_expires_at = Some(NOW.saturating_add(30 * DAY)));
    let over = NOW.saturating_add(30 * DAY);
    assert_eq!(world.refusal(2, over), Refusal::LifeOver(over));
}

/// "A successor revoked unused makes the predecessor good again."
#[test]
fn a_successor_revoked_unused_makes_the_predecessor_good_again() {
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    world.revoke(2, NOW.saturating_add(HOUR));
    assert_eq!(world.state(1, NOW), State::Active);
    assert_eq!((&world.at(1).successor, &world.at(1).rotation), (&None, &None));
    assert_eq!(world.at(2).predecessor, Some(id(1)));
    world.rotate(1, how(3), NOW).unwrap();
    // Also when its overlap has run out meanwhile.
    let over = NOW.saturating_add(8 * DAY);
    assert_eq!(world.state(1, over), State::Rotated);
    world.revoke(3, over);
    assert_eq!(world.state(1, over), State::Active);
    // Its own expiry holds.
    assert_eq!(world.state(1, NOW.saturating_add(30 * DAY)), State::Expired);
}

#[test]
fn it_stays_ended_if_it_was_cut_revoked_taken_over_from_or_held() {
    let mut cut = World::new();
    cut.rotate(1, How { at_once: true, ..how(2) }, NOW).unwrap();
    cut.revoke(2, NOW);
    assert_eq!(cut.state(1, NOW), State::Rotated);
    assert_eq!(cut.refusal(1, NOW), unfit(State::Rotated));

    // Also when its overlap had run out before it was cut.
    let (mut late, over) = (World::new(), NOW.saturating_add(8 * DAY));
    late.rotate(1, how(2), NOW).unwrap();
    late.rotate(1, How { at_once: true, ..how(3) }, over).unwrap();
    late.revoke(3, over);
    assert_eq!(late.state(1, over), State::Rotated);

    let mut revoked = World::new();
    revoked.rotate(1, how(2), NOW).unwrap();
    revoked.revoke(1, NOW);
    assert_eq!(revoked.state(2, NOW), State::Active, "revoking one member leaves the other");
    revoked.revoke(2, NOW);
    assert_eq!(revoked.state(1, NOW), State::Revoked);

    let mut used = World::new();
    used.rotate(1, how(2), NOW).unwrap();
    used.first_use(2, NOW);
    used.revoke(2, NOW);
    assert_eq!(used.state(1, NOW), State::Rotating, "for its grace");
    assert_eq!(used.state(1, NOW.saturating_add(5 * MINUTE)), State::Rotated);

    let mut held = World::new();
    held.rotate(1, how(2), NOW).unwrap();
    held.change(1, |it| *it = hold::suspend(it, None, 0, NOW).unwrap());
    held.revoke(2, NOW);
    assert_eq!(held.state(1, NOW), State::Suspended);
    held.change(1, |it| *it = hold::resume(it).unwrap());
    assert_eq!(held.state(1, NOW.saturating_add(8 * DAY)), State::Active);

    // The end of one that was replaced is nobody's beginning.
    let mut replaced = World::new();
    replaced.rotate(1, how(2), NOW).unwrap();
    replaced.rotate(1, how(3), NOW).unwrap();
    replaced.revoke(2, NOW);
    assert_eq!((replaced.state(1, NOW), replaced.at(1).successor), (State::Rotating, Some(id(3))));
}

/// An order over many tokens ends a successor without looking at its family: the predecessor can still be rotated.
#[test]
fn a_revoked_successor_does_not_lock_a_good_predecessor_out() {
    let mut world = World::new();
    world.rotate(1, how(2), NOW).unwrap();
    world.change(2, |it| it.revoked = Some(Ending { at: NOW, reason: None, by_uid: 0 }));
    world.rotate(1, how(3), NOW).unwrap();
    assert_eq!((world.state(2, NOW), world.state(3, NOW)), (State::Revoked, State::Active));
}

#[test]
fn grace_is_at_most_the_overlap() {
    assert_eq!(grace(None, 5 * MINUTE, DAY), Ok(5 * MINUTE));
    assert_eq!(grace(None, 2 * DAY, DAY), Ok(DAY));
    assert_eq!(grace(Some(Duration::ZERO), 5 * MINUTE, DAY), Ok(Duration::ZERO));
    assert_eq!(grace(Some(DAY), 5 * MINUTE, DAY), Ok(DAY));
    assert_eq!(grace(Some(DAY + MINUTE), 5 * MINUTE, DAY), Err(Invalid::Grace(DAY)));
}
