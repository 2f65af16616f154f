//! One family and sixteen clients at once, each with a connection of its own to a real daemon: whatever they were answered
//! must be what the reference model answers in some order in which nothing that had ended before another began comes
//! after it. And so must what is found afterwards.

mod daemon;
#[allow(dead_code, reason = "no clock moves here, and no orders are given")]
#[path = "model/mod.rs"]
mod model;

use std::collections::HashSet;
use std::sync::{Barrier, Mutex};
use std::time::Instant;

use bearerd::client::ClientError;
use bearerd::client::blocking::Client;
use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::message::{
    Changed, Chosen, Handle, Hold, Issue, Revoke, Rotate, State as Shown, Validate, Which,
};
use bearerd::token::TokenId;
use daemon::{Daemon, id_of};
use model::{Came, Kind, Model, New, State, What};

const CLIENTS: usize = 16;
const EACH: usize = 4;
const ROUNDS: u64 = 40;
/// States that the search for an order looks at: far more than any history here needs.
const STATES_MAX: usize = 500_000;

#[derive(Clone, Copy, Debug)]
enum Ask {
    Rotate { at_once: bool },
    Revoke,
    Use,
    Suspend,
    Resume,
    Show,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    /// The new token, whom it takes over from, and what it took the place of.
    Rotated {
        new: TokenId,
        old: TokenId,
        replaced: Option<TokenId>,
    },
    /// The message names the successor.
    AlreadyRotated(String),
    WrongState,
    /// So many tokens changed.
    Count(u64),
    Verdict(State),
    State(State, Option<TokenId>),
}

/// What one client did.
#[derive(Clone, Debug)]
struct Event {
    ask: Ask,
    token: TokenId,
    told: Told,
    begun: Instant,
    ended: Instant,
}

impl Event {
    /// Whether it must stand before another: it had ended when that one began.
    ///
    /// One thing may be ahead of the rest. What restricts is refused from the moment at which it is certain to be tried,
    /// and only then committed: a refusal may already be by a change whose other halves (the link to a new successor) are
    /// not seen before they are durable. So who reads *another* token after a refusal may read it as before that change.
    /// Who reads the same one may not, and no change comes before a refusal that had ended.
    fn is_before(&self, other: &Self) -> bool {
        let ahead = self.refuses() && other.only_reads() && self.token != other.token;
        self.ended < other.begun && !ahead
    }

    fn refuses(&self) -> bool {
        let (Told::Verdict(state) | Told::State(state, _)) = &self.told else { return false };
        !matches!(state, State::Active | State::Rotating)
    }

    fn only_reads(&self) -> bool {
        matches!(self.ask, Ask::Use | Ask::Show)
    }
}

/// A member of the family: its id, and its text.
type Member = (TokenId, String);

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed >> 33) % sides as u64).expect("small")
    }

    fn ask(&mut self) -> Ask {
        match self.roll(24) {
            0..7 => Ask::Rotate { at_once: false },
            7 => Ask::Rotate { at_once: true },
            8 | 9 => Ask::Revoke,
            10..16 => Ask::Use,
            16 | 17 => Ask::Suspend,
            18..20 => Ask::Resume,
            _ => Ask::Show,
        }
    }
}

fn state(state: Shown) -> State {
    match state {
        Shown::Active => State::Active,
        Shown::Revoked => State::Revoked,
        Shown::Suspended => State::Suspended,
        Shown::Rotating => State::Rotating,
        Shown::Rotated => State::Rotated,
        other => panic!("{other:?} can't be: no time passes here"),
    }
}

fn verdict(client: &mut Client, text: &str, peek: bool) -> State {
    let ask = Validate { token: text, scopes: vec![], audience: None, from: None, note: None, peek };
    match client.validate(&ask).unwrap().reason {
        None => State::Active,
        Some(Reason::Revoked) => State::Revoked,
        Some(Reason::Suspended) => State::Suspended,
        Some(Reason::Rotated) => State::Rotated,
        Some(other) => panic!("{other:?} can't be"),
    }
}

fn hold(of: TokenId) -> Hold {
    Hold { which: Chosen::Handles(vec![handle(of)]), reason: None, dry_run: false }
}

fn handle(of: TokenId) -> Handle {
    Handle(of.to_string())
}

fn count(changed: Result<Changed, ClientError>) -> Told {
    Told::Count(changed.unwrap().count)
}

/// One operation. What a rotation makes is known to others only after its reply has been noted.
fn act(client: &mut Client, ask: Ask, (id, text): &Member, family: &Mutex<Vec<Member>>) -> Event {
    let (token, begun) = (*id, Instant::now());
    let mut made = None;
    let told = match ask {
        Ask::Rotate { at_once } => match client.rotate(&Rotate { token: handle(token), now: at_once, grace: None }) {
            Ok(rotated) => {
                let facts = &rotated.info.facts;
                made = Some((facts.id, rotated.token.expose().to_owned()));
                let old = facts.predecessor.expect("a successor has one");
                Told::Rotated { new: facts.id, old, replaced: rotated.replaced }
            }
            Err(ClientError::Failure(failure)) => match failure.code {
                ErrorCode::AlreadyRotated => Told::AlreadyRotated(failure.message),
                ErrorCode::WrongState => Told::WrongState,
                other => panic!("{other:?}: {}", failure.message),
            },
            Err(other) => panic!("{other}"),
        },
        Ask::Revoke => {
            let which = Which::Handles(vec![handle(token)]);
            count(client.revoke(&Revoke { which, reason: None, dry_run: false }))
        }
        Ask::Use => Told::Verdict(verdict(client, text, false)),
        Ask::Suspend => count(client.suspend(&hold(token))),
        Ask::Resume => count(client.resume(&hold(token))),
        Ask::Show => {
            let info = client.show(&handle(token)).unwrap().info;
            Told::State(state(info.state), info.facts.successor)
        }
    };
    let event = Event { ask, token, told, begun, ended: Instant::now() };
    family.lock().unwrap().extend(made);
    event
}

/// The model, and which of its tokens is which.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    model: Model,
    ids: Vec<TokenId>,
}

impl World {
    fn new(first: TokenId) -> Self {
        let mut model = Model::default();
        let new = New { subject: 0, label: None, kind: Kind::Machine, ttl: 86_400, delay: 0, max_uses: None };
        assert_eq!(model.issue(new), Came::Done);
        Self { model, ids: vec![first] }
    }

    fn place(&self, id: TokenId) -> Option<usize> {
        self.ids.iter().position(|other| *other == id)
    }

    /// The world after this event, if the event can be next.
    fn after(&self, event: &Event) -> Option<Self> {
        let place = self.place(event.token)?;
        let mut next = self.clone();
        let model = &mut next.model;
        let changed = |came| u64::from(came == Came::Done);
        let fits = match (event.ask, &event.told) {
            (Ask::Rotate { at_once }, told) => match (model.rotate(place, at_once, true, 300), told) {
                (Came::Done, Told::Rotated { new, old, replaced }) => {
                    let made = model.tokens.last().and_then(|token| token.predecessor).expect("a successor has one");
                    let before = self.model.tokens[made].successor.map(|unused| self.ids[unused]);
                    next.ids.push(*new);
                    self.ids[made] == *old && before == *replaced
                }
                (Came::AlreadyRotated(successor), Told::AlreadyRotated(message)) => {
                    message.contains(&self.ids[successor].to_string())
                }
                (Came::WrongState, Told::WrongState) => true,
                _ => false,
            },
            (Ask::Revoke, told) => *told == Told::Count(model.revoke(&[place]) as u64),
            (Ask::Suspend, told) => *told == Told::Count(changed(model.hold(place, What::Suspend))),
            (Ask::Resume, told) => *told == Told::Count(changed(model.hold(place, What::Resume))),
            (Ask::Use, told) => *told == Told::Verdict(model.use_it(place)),
            (Ask::Show, told) => {
                let successor = model.tokens[place].successor.map(|successor| self.ids[successor]);
                *told == Told::State(model.state(place), successor)
            }
        };
        fits.then_some(next)
    }
}

/// Looks for a legal order, as Wing and Gong do, with a memory of what led nowhere.
struct Search<'h> {
    history: &'h [Event],
    seen: HashSet<(u128, World)>,
    /// The most events that could be put in order.
    longest: u32,
}

impl<'h> Search<'h> {
    fn new(history: &'h [Event]) -> Self {
        assert!(history.len() <= 128, "a bit for each");
        Self { history, seen: HashSet::new(), longest: 0 }
    }

    /// Whether the rest can follow; `done` are those that stand already.
    fn go_on(&mut self, mut done: u128, world: World) -> bool {
        // What changes nothing and fits can stand here: nothing else becomes harder by it.
        let changing = loop {
            let (mut changing, mut moved) = (Vec::new(), false);
            for place in self.next(done) {
                match world.after(&self.history[place]) {
                    Some(after) if after == world => {
                        done |= 1 << place;
                        moved = true;
                    }
                    Some(after) => changing.push((place, after)),
                    None => {}
                }
            }
            if !moved {
                break changing;
            }
        };
        self.longest = self.longest.max(done.count_ones());
        if done.count_ones() as usize == self.history.len() {
            return true;
        }
        assert!(self.seen.len() < STATES_MAX, "the search is too long: shorten the histories");
        if !self.seen.insert((done, world)) {
            return false;
        }
        changing.into_iter().any(|(place, after)| self.go_on(done | 1 << place, after))
    }

    /// Those that nothing unplaced must come before.
    fn next(&self, done: u128) -> Vec<usize> {
        let open = || (0..self.history.len()).filter(move |place| done & (1 << place) == 0);
        let event = |place: usize| &self.history[place];
        open().filter(|&later| open().all(|other| !event(other).is_before(event(later)))).collect()
    }
}

fn has_an_order(history: &[Event], first: TokenId) -> Result<(), u32> {
    let mut search = Search::new(history);
    if search.go_on(0, World::new(first)) { Ok(()) } else { Err(search.longest) }
}

/// A round: a family of its own, half the time rotated once, and all clients at it.
fn round(clients: &mut [Client], seed: u64) -> (TokenId, Vec<Member>, Vec<Event>) {
    let issue = Issue { name: "family".into(), ..Issue::default() };
    let issued = clients[0].issue(&issue).unwrap();
    let first = issued.info.facts.id;
    let family = Mutex::new(vec![(first, issued.token.expose().to_owned())]);
    let history = Mutex::new(Vec::new());
    if seed % 2 == 1 {
        let member = family.lock().unwrap()[0].clone();
        history.lock().unwrap().push(act(&mut clients[0], Ask::Rotate { at_once: false }, &member, &family));
    }
    let start = Barrier::new(clients.len());
    std::thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            let (family, history, start) = (&family, &history, &start);
            scope.spawn(move || {
                let mut dice = Dice(seed << 16 | number as u64);
                start.wait();
                for _ in 0..EACH {
                    let member = {
                        let known = family.lock().unwrap();
                        // Mostly the latest: the older ones are soon over.
                        let from = if dice.roll(3) > 0 { known.len().saturating_sub(2) } else { 0 };
                        known[from + dice.roll(known.len() - from)].clone()
                    };
                    let event = act(client, dice.ask(), &member, family);
                    history.lock().unwrap().push(event);
                }
            });
        }
    });
    (first, family.into_inner().unwrap(), history.into_inner().unwrap())
}

/// A line for each, in the order in which they began, with tokens by number.
fn table(history: &[Event], family: &[Member]) -> String {
    let begin = history.iter().map(|event| event.begun).min().expect("not empty");
    let mut text = String::new();
    for Event { ask, token, told, begun, ended } in history {
        let (from, to) = (begun.duration_since(begin).as_micros(), ended.duration_since(begin).as_micros());
        text += &format!("{from:>9} {to:>9} us  {ask:?} {token}: {told:?}\n");
    }
    for (number, (id, _)) in family.iter().enumerate() {
        text = text
            .replace(&format!("TokenId({id})"), &format!("#{number}"))
            .replace(&id.to_string(), &format!("#{number}"));
    }
    text
}

/// What stands without any search: a use that began after the reply to a revocation is not *active*.
fn nothing_revoked_is_good(history: &[Event]) {
    let revoked = |token, by: Instant| {
        history.iter().any(|it| matches!(it.ask, Ask::Revoke) && it.token == token && it.ended < by)
    };
    for event in history {
        let good = event.told == Told::Verdict(State::Active);
        assert!(!good || !revoked(event.token, event.begun), "active after its revocation: {event:#?}");
    }
}

/// At rest: no more than one good predecessor and its one good successor, and of the tokens that were handed out none that
/// another took the place of.
fn at_most_two_are_good(client: &mut Client, family: &[Member], history: &[Event]) {
    let mut good = Vec::new();
    for (id, text) in family {
        let state = verdict(client, text, true);
        let replaced = history
            .iter()
            .any(|it| matches!(it.told, Told::Rotated { replaced: Some(replaced), .. } if replaced == *id));
        assert!(!replaced || matches!(state, State::Rotated | State::Revoked | State::Suspended), "{id} is {state:?}");
        if state == State::Active {
            good.push(*id);
        }
    }
    if let [old, new] = good[..] {
        let shown = client.show(&handle(old)).unwrap().info.facts;
        assert_eq!(shown.successor, Some(new), "two that are good, and not one after the other");
    }
    assert!(good.len() <= 2, "{good:?}");
}

#[test]
fn sixteen_clients_at_one_family_see_a_legal_order() {
    let daemon = Daemon::start();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| daemon.client()).collect();
    let (mut rotated, mut refused, mut overlapping) = (0, 0, 0);
    for seed in 0..ROUNDS {
        let (first, family, mut history) = round(&mut clients, seed);
        nothing_revoked_is_good(&history);
        at_most_two_are_good(&mut clients[0], &family, &history);
        rotated += history.iter().filter(|it| matches!(it.told, Told::Rotated { .. })).count();
        refused += history.iter().filter(|it| matches!(it.told, Told::AlreadyRotated(_) | Told::WrongState)).count();
        overlapping += history.windows(2).filter(|two| two[1].begun < two[0].ended).count();
        // What is found afterwards is part of it: no other end fits.
        let nobody = Mutex::new(Vec::new());
        for member in &family {
            assert_eq!(id_of(&member.1), member.0.to_string());
            history.push(act(&mut clients[0], Ask::Show, member, &nobody));
        }
        history.sort_by_key(|event| event.begun);
        if let Err(longest) = has_an_order(&history, first) {
            panic!(
                "round {seed}: no order for more than {longest} of {}:\n{}",
                history.len(),
                table(&history, &family)
            );
        }
    }
    assert!(rotated > 100 && refused > 20 && overlapping > 500, "{rotated} {refused} {overlapping}: too tame");
}

/// The search itself: what no order allows is found.
#[test]
fn a_history_without_an_order_is_refused() {
    let (one, two) = (TokenId::from_bytes([1; 16]), TokenId::from_bytes([2; 16]));
    let start = Instant::now();
    let at = |ask, token, told, from: u64, to: u64| {
        let after = |ms| start + std::time::Duration::from_millis(ms);
        Event { ask, token, told, begun: after(from), ended: after(to) }
    };
    let rotate = Ask::Rotate { at_once: false };
    let rotated = |new, replaced| Told::Rotated { new, old: one, replaced };
    let revoked = at(Ask::Revoke, one, Told::Count(1), 0, 10);
    let used = |from, to| at(Ask::Use, one, Told::Verdict(State::Active), from, to);
    assert_eq!(has_an_order(&[revoked.clone(), used(5, 20)], one), Ok(()), "they overlap");
    assert_eq!(has_an_order(&[revoked.clone(), used(11, 20)], one), Err(1), "active after the reply");
    assert_eq!(has_an_order(&[revoked.clone(), revoked], one), Err(1), "counted twice");
    // Two rotations at once: the second must have replaced the first's successor.
    let three = TokenId::from_bytes([3; 16]);
    let first = at(rotate, one, rotated(two, None), 0, 10);
    assert_eq!(has_an_order(&[first.clone(), at(rotate, one, rotated(three, Some(two)), 0, 10)], one), Ok(()));
    assert_eq!(has_an_order(&[first, at(rotate, one, rotated(three, None), 0, 10)], one), Err(1), "two successors");
}
