//! Those who take rights away, in each way that there is, and write down when the reply has come.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use bearerd::client::blocking::Client;
use bearerd::client::{ClientError, Options};
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{
    Chosen, Condition, Edit, Filter, Handle, Hold, Issue, Revoke, Rotate, Validate, Which,
};

use super::board::QUESTIONS;
use super::{Common, Dice, SCOPES};
use crate::daemon::{PATIENCE, id_of};

/// Ways to take rights away.
#[derive(Clone, Copy)]
pub enum Way {
    ById,
    ByHolder,
    Held,
    Rotated,
    Narrowed,
    InOrder,
    HeldInOrder,
    /// After another way had been cut off.
    Instead,
}

const NAMES: [&str; 8] =
    ["by id", "by its holder", "held", "rotated", "narrowed", "in orders", "held in orders", "instead"];

/// How many tokens were taken something away from, each way.
#[derive(Default)]
pub struct Made([AtomicU64; 8]);

impl Made {
    pub fn all(&self) -> [(&'static str, u64); 8] {
        std::array::from_fn(|way| (NAMES[way], self.0[way].load(Ordering::Relaxed)))
    }

    pub fn sum(&self) -> u64 {
        self.0.iter().map(|way| way.load(Ordering::Relaxed)).sum()
    }

    fn add(&self, way: Way, tokens: usize) {
        self.0[way as usize].fetch_add(tokens as u64, Ordering::Relaxed);
    }
}

/// A token at a place.
struct Tended {
    number: usize,
    text: String,
}

impl Tended {
    fn handle(&self) -> Handle {
        Handle(id_of(&self.text))
    }
}

pub struct Revoker<'a> {
    common: &'a Common,
    client: Client,
    dice: Dice,
    places: Range<usize>,
    orders: u64,
}

/// Why a change was not answered.
enum Cut {
    /// Whether it was made is not known.
    Off,
    /// The daemon will not do it, as things are now.
    Refused,
}

impl<'a> Revoker<'a> {
    pub fn new(common: &'a Common, socket: PathBuf, dice: Dice, places: Range<usize>) -> Self {
        let options =
            Options { long_timeout: PATIENCE, timeout: PATIENCE, connect_retry: PATIENCE, ..Options::default() };
        // Whoever is killed while it greets is greeted again.
        let begun = Instant::now();
        let client = loop {
            match Client::connect(&socket, options.clone()) {
                Ok(client) => break client,
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        };
        Self { common, client, dice, places, orders: 0 }
    }

    /// Single tokens, until it is over.
    pub fn revoke(mut self) {
        let mut tended: Vec<Tended> = self.places.clone().map(|place| self.plant(place, None)).collect();
        while !self.is_over() {
            let at = self.dice.below(tended.len());
            let place = self.places.start + at;
            let successor = self.take_away(&tended[at]);
            // Clients are to look at it meanwhile.
            thread::sleep(self.dice.millis(5, 50));
            tended[at] = match successor {
                Some(text) => self.show(place, text),
                None => self.plant(place, None),
            };
        }
    }

    /// Takes rights away from one; gives the successor's text, if there is one now.
    fn take_away(&mut self, token: &Tended) -> Option<String> {
        let handle = token.handle();
        match self.dice.below(20) {
            0..=8 => {
                self.revoke_for_certain(Which::Handles(vec![handle]));
                self.taken(token, Way::ById, 0..QUESTIONS);
            }
            9..=10 => {
                self.revoke_for_certain(Which::Token(&token.text));
                self.taken(token, Way::ByHolder, 0..QUESTIONS);
            }
            11..=13 => {
                self.hold(&Chosen::Handles(vec![handle]), std::slice::from_ref(token), Way::Held);
                self.revoke_for_certain(Which::Handles(vec![token.handle()]));
                self.taken(token, Way::ById, 0..QUESTIONS);
            }
            14..=16 => {
                let rotate = Rotate { token: handle, now: true, grace: None };
                match self.call(|client| client.rotate(&rotate)) {
                    Ok(rotated) => {
                        self.taken(token, Way::Rotated, 0..QUESTIONS);
                        return Some(rotated.token.expose().to_owned());
                    }
                    // It may have a successor that nobody has.
                    Err(_) => self.revoke_instead(token),
                }
            }
            _ => {
                let edit = Edit { drop_scopes: vec![SCOPES[0].into()], ..Edit::of(handle) };
                match self.call(|client| client.edit(&edit)) {
                    Ok(_) => self.taken(token, Way::Narrowed, 0..1),
                    Err(_) => self.revoke_instead(token),
                }
            }
        }
        None
    }

    /// Many at once, until it is over.
    pub fn give_orders(mut self) {
        while !self.is_over() {
            self.orders += 1;
            // Nobody before had this subject.
            let subject = format!("order-{}", self.orders);
            let places = self.places.clone();
            let tended: Vec<Tended> = places.map(|place| self.plant(place, Some(&subject))).collect();
            thread::sleep(self.dice.millis(300, 1200));
            let filter = || Filter(vec![Condition::Subject(subject.clone())]);
            if self.dice.below(3) == 0 {
                self.hold(&Chosen::Filter(filter()), &tended, Way::HeldInOrder);
            }
            self.revoke_for_certain(Which::Filter(filter()));
            for token in &tended {
                self.taken(token, Way::InOrder, 0..QUESTIONS);
            }
            thread::sleep(self.dice.millis(10, 100));
        }
    }

    /// Suspends and resumes.
    fn hold(&mut self, chosen: &Chosen, tokens: &[Tended], way: Way) {
        let hold = Hold { which: chosen.clone(), reason: None, dry_run: false };
        while self.call(|client| client.suspend(&hold)).is_err() {}
        for token in tokens {
            self.taken(token, way, 0..QUESTIONS);
        }
        thread::sleep(self.dice.millis(5, 40));
        for token in tokens {
            (0..QUESTIONS).for_each(|question| self.common.board.given_back(token.number, question));
        }
        while self.call(|client| client.resume(&hold)).is_err() {}
        // So that some have kept it again.
        thread::sleep(self.dice.millis(1, 40));
    }

    fn revoke_instead(&mut self, token: &Tended) {
        self.revoke_for_certain(Which::Handles(vec![token.handle()]));
        self.taken(token, Way::Instead, 0..QUESTIONS);
    }

    fn revoke_for_certain(&mut self, which: Which<'_>) {
        let revoke = Revoke { which, reason: None, dry_run: false };
        while self.call(|client| client.revoke(&revoke)).is_err() {}
    }

    /// The reply has come.
    fn taken(&self, token: &Tended, way: Way, questions: Range<usize>) {
        questions.for_each(|question| self.common.board.taken(token.number, question));
        self.common.made.add(way, 1);
    }

    fn plant(&mut self, place: usize, subject: Option<&str>) -> Tended {
        let issue = Issue {
            name: format!("place-{place}"),
            subject: subject.map(str::to_owned),
            scopes: SCOPES.map(str::to_owned).to_vec(),
            ..Issue::default()
        };
        loop {
            if let Ok(issued) = self.call(|client| client.issue(&issue)) {
                return self.show(place, issued.token.expose().to_owned());
            }
        }
    }

    fn show(&self, place: usize, text: String) -> Tended {
        let number = self.common.board.add(&text);
        self.common.board.show(place, number);
        Tended { number, text }
    }

    fn is_over(&self) -> bool {
        self.common.over.load(Ordering::Acquire)
    }

    /// One try. What the daemon refuses for good is a fault of this test.
    fn call<T>(&mut self, ask: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, Cut> {
        let error = match ask(&mut self.client) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        match error.code() {
            None => {
                self.common.cut_off.fetch_add(1, Ordering::Relaxed);
                Err(Cut::Off)
            }
            Some(ErrorCode::Stopping | ErrorCode::Unavailable) => Err(Cut::Refused),
            Some(_) => panic!("{error}"),
        }
    }
}

/// The token that all clients are to find good after the storm.
pub fn last(common: &Common, socket: PathBuf) -> (usize, String) {
    let mut revoker = Revoker::new(common, socket, Dice(0), 0..1);
    let planted = revoker.plant(0, None);
    // Good, before anybody is told of it.
    let asked =
        Validate { token: &planted.text, scopes: vec![SCOPES[0]], audience: None, from: None, note: None, peek: false };
    assert!(revoker.client.validate(&asked).unwrap().active);
    (planted.number, planted.text)
}

pub fn revoke_last(common: &Common, socket: PathBuf, token: usize, text: &str) {
    let mut revoker = Revoker::new(common, socket, Dice(0), 0..1);
    let planted = Tended { number: token, text: text.to_owned() };
    revoker.revoke_for_certain(Which::Handles(vec![planted.handle()]));
    revoker.taken(&planted, Way::ById, 0..QUESTIONS);
}
