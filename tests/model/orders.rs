//! Orders over many tokens, as the program has them: in force at once, in the records later.

use bearerd::protocol::filter::{Condition, Filter};
use bearerd::store::order::{Order, What as Does};
use bearerd::store::record::{Ending, TokenRecord};
use bearerd::time::UnixTime;

use super::model::{What, Which};
use super::program::{at, id, label, letter, subject};

/// Whether the program has them.
pub const THERE: bool = true;

#[derive(Default)]
pub struct Orders {
    /// Those that not all records bear.
    unfinished: Vec<Order>,
    newest: u64,
}

impl Orders {
    pub fn give(&mut self, what: What, which: Which, now: UnixTime) {
        self.newest += 1;
        self.unfinished.push(Order {
            number: self.newest,
            what: match what {
                What::Revoke => Does::Revoke,
                What::Suspend => Does::Suspend,
                What::Resume => Does::Resume,
            },
            filter: filter(which),
            among: None,
            own: None,
            ending: Ending { at: now, reason: None, by_uid: 0 },
        });
    }

    pub fn are_ahead_of(&self, record: &TokenRecord) -> bool {
        self.unfinished.last().is_some_and(|order| order.number > record.order)
    }

    /// As the store brings up what it reads.
    pub fn bring_up(&self, record: &mut TokenRecord) {
        for order in &self.unfinished {
            if order.number > record.order {
                order.apply(record);
            }
        }
    }

    pub fn newest(&self) -> u64 {
        self.newest
    }

    pub fn finish(&mut self) {
        self.unfinished.clear();
    }
}

fn filter(which: Which) -> Filter {
    let labelled = |it| {
        let (key, value) = label(it);
        Condition::Label(format!("{key}={value}"))
    };
    Filter(match which {
        Which::All => vec![Condition::All],
        Which::Subject(it) => vec![Condition::Subject(subject(it))],
        Which::Label(it) => vec![labelled(it)],
        Which::SubjectAndLabel(whose, it) => vec![Condition::Subject(subject(whose)), labelled(it)],
        Which::Kind(kind) => vec![Condition::Kind(letter(kind))],
        Which::IssuedBefore(secs) => vec![Condition::IssuedBefore(at(secs))],
        Which::Family(first) => vec![Condition::Family(id(first))],
    })
}
