//! The life of tokens in as few words as there are for it: what the registry and the orders are held against.
//!
//! Nothing of the program is used here: times are plain seconds, tokens are places in a list, and an order does what it
//! says to every token at once.

/// Lives by kind, in seconds.
pub const OVERLAP: u64 = 7 * 86_400;
pub const MACHINE_LIFETIME: u64 = 366 * 86_400;
pub const SESSION_LIFETIME: u64 = 7 * 86_400;

/// What a token says of itself when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Active,
    NotYetValid,
    Expired,
    Revoked,
    Suspended,
    Rotating,
    Rotated,
    Exhausted,
    Canary,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    Done,
    /// There was nothing to do.
    Already,
    /// The token's state does not allow it.
    WrongState,
    /// Its successor is in use.
    AlreadyRotated(usize),
    /// What is asked for can't be.
    Unfit,
}

/// What a token that is to be rotated has of family.
enum Kin {
    Alone(usize),
    Pair {
        old: usize,
        /// Its successor, never used.
        unused: usize,
        /// The one of both that was meant.
        named: usize,
    },
    /// Its successor, which was used.
    Used(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Machine,
    Session,
    Canary,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub subject: u8,
    pub label: Option<u8>,
    pub kind: Kind,
    pub issued: u64,
    /// Not good for so many seconds after it was issued.
    pub delay: u64,
    pub expires: Option<u64>,
    pub ceiling: Option<u64>,
    pub ttl: u64,
    /// The first of its family.
    pub family: usize,
    pub predecessor: Option<usize>,
    pub successor: Option<usize>,
    pub max_uses: Option<u64>,
    pub revoked: bool,
    pub suspended: bool,
    /// Another successor took its place before it was used.
    pub replaced: bool,
    /// Rotated: good until then at most.
    pub until: Option<u64>,
    /// And no longer than this after its successor's first use.
    pub grace: u64,
    /// Rotated, and ended by that: no way back.
    pub cut: bool,
    pub used: bool,
    /// Its expiry was told.
    pub told: bool,
    /// An order revoked it, and that is not written down.
    pub owes: bool,
}

impl Token {
    fn delayed_to(&self) -> u64 {
        self.issued + self.delay
    }
}

/// Which tokens an order is about.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    All,
    Subject(u8),
    Label(u8),
    SubjectAndLabel(u8, u8),
    Kind(Kind),
    IssuedBefore(u64),
    Family(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Revoke,
    Suspend,
    Resume,
}

/// What a new token is to be.
#[derive(Clone, Copy, Debug)]
pub struct New {
    pub subject: u8,
    pub label: Option<u8>,
    pub kind: Kind,
    pub ttl: u64,
    pub delay: u64,
    pub max_uses: Option<u64>,
}

/// All tokens, and the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Model {
    pub now: u64,
    pub tokens: Vec<Token>,
    /// Uses of each family, by its first member.
    pub uses: Vec<u64>,
}

impl Model {
    pub fn issue(&mut self, new: New) -> Came {
        let New { subject, label, kind, ttl, delay, max_uses } = new;
        if kind != Kind::Canary && delay >= ttl {
            return Came::Unfit;
        }
        let ceiling = self.ceiling(kind);
        let place = self.tokens.len();
        self.tokens.push(Token {
            subject,
            label,
            kind,
            issued: self.now,
            delay,
            expires: (kind != Kind::Canary).then_some(self.now + ttl),
            ceiling,
            ttl,
            family: place,
            predecessor: None,
            successor: None,
            max_uses,
            revoked: false,
            suspended: false,
            replaced: false,
            until: None,
            grace: 0,
            cut: false,
            used: false,
            told: false,
            owes: false,
        });
        self.uses.push(0);
        Came::Done
    }

    pub fn state(&self, place: usize) -> State {
        let it = &self.tokens[place];
        match () {
            () if it.revoked => State::Revoked,
            () if it.suspended => State::Suspended,
            () if self.rotated_out(place) => State::Rotated,
            () if it.expires.is_some_and(|at| self.now >= at) => State::Expired,
            () if self.now < it.delayed_to() => State::NotYetValid,
            () if it.max_uses.is_some_and(|max| self.uses[it.family] >= max) => State::Exhausted,
            () if it.kind == Kind::Canary => State::Canary,
            () if it.successor.is_some() => State::Rotating,
            () => State::Active,
        }
    }

    /// Asks whether it is good, and counts the use if it is.
    pub fn use_it(&mut self, place: usize) -> State {
        let state = self.state(place);
        if !matches!(state, State::Active | State::Rotating) {
            return state;
        }
        let family = self.tokens[place].family;
        if self.tokens[place].max_uses.is_some() {
            self.uses[family] += 1;
        }
        if let Some(old) = self.tokens[place].predecessor
            && !std::mem::replace(&mut self.tokens[place].used, true)
        {
            let now = self.now;
            let old = &mut self.tokens[old];
            if let Some(until) = &mut old.until
                && !old.revoked
            {
                *until = (*until).min(now + old.grace);
            }
        }
        State::Active
    }

    pub fn renew(&mut self, place: usize) -> Came {
        if !matches!(self.state(place), State::Active | State::Rotating | State::NotYetValid) {
            return Came::WrongState;
        }
        let now = self.now;
        let it = &mut self.tokens[place];
        let (Some(expires), Some(ceiling)) = (it.expires, it.ceiling) else { return Came::WrongState };
        let to = (now + it.ttl).min(ceiling);
        if expires >= ceiling {
            return Came::WrongState;
        }
        if to <= expires {
            return Came::Already;
        }
        it.expires = Some(to);
        it.told = false;
        Came::Done
    }

    /// Narrows the expiry to so many seconds from now, and sets or takes off the label.
    pub fn edit(&mut self, place: usize, left: Option<u64>, label: Option<u8>) -> Came {
        if self.ended(place) {
            return Came::WrongState;
        }
        let now = self.now;
        let it = &mut self.tokens[place];
        let mut expires = it.expires;
        if let Some(left) = left {
            match it.expires {
                Some(at) if left > 0 && now + left <= at && (it.delay == 0 || it.delayed_to() < now + left) => {
                    expires = Some(now + left);
                }
                _ => return Came::Unfit,
            }
        }
        if (it.expires, it.label) == (expires, label) {
            return Came::Already;
        }
        (it.expires, it.label) = (expires, label);
        Came::Done
    }

    /// `grace`: seconds that the predecessor has after the successor's first use; `afresh`: who asks might issue the like.
    pub fn rotate(&mut self, place: usize, at_once: bool, afresh: bool, grace: u64) -> Came {
        match self.kin(place) {
            Kin::Used(successor) => Came::AlreadyRotated(successor),
            Kin::Alone(old) => {
                if !matches!(self.state(old), State::Active | State::Rotating) {
                    return Came::WrongState;
                }
                let Some(next) = self.heir(old, old, afresh) else { return Came::WrongState };
                // One good predecessor at most.
                if let Some(older) = self.tokens[old].predecessor
                    && self.tokens[older].successor == Some(old)
                    && !self.ended(older)
                {
                    let now = self.now;
                    let until = &mut self.tokens[older].until;
                    *until = until.map(|until| until.min(now));
                }
                self.hand_over(old, next, at_once, grace);
                Came::Done
            }
            Kin::Pair { old, unused, named } => {
                if self.tokens[named].revoked || self.tokens[named].suspended || self.tokens[unused].suspended {
                    return Came::WrongState;
                }
                let spent = self.tokens[old].max_uses.is_some_and(|max| self.uses[self.tokens[old].family] >= max);
                // Nobody may be locked out by a reply that was lost: one good one of the two is enough.
                let good = !self.ended(unused) || (!self.ended(old) && !self.tokens[old].suspended);
                if spent || !good {
                    return Came::WrongState;
                }
                let Some(next) = self.heir(unused, old, afresh) else { return Came::WrongState };
                self.tokens[unused].replaced = true;
                self.hand_over(old, next, at_once, grace);
                Came::Done
            }
        }
    }

    /// Ends all of these at once.
    pub fn revoke(&mut self, places: &[usize]) -> usize {
        let meant: Vec<usize> = places.iter().copied().filter(|&place| !self.tokens[place].revoked).collect();
        for &place in &meant {
            self.tokens[place].revoked = true;
        }
        for &place in &meant {
            self.give_back(place);
        }
        meant.len()
    }

    pub fn hold(&mut self, place: usize, what: What) -> Came {
        let suspend = what == What::Suspend;
        let over = if suspend { self.ended(place) } else { self.tokens[place].revoked };
        if self.tokens[place].suspended == suspend || over {
            return Came::Already;
        }
        self.tokens[place].suspended = suspend;
        Came::Done
    }

    /// What an order says, to all that it is about, at once. Predecessors of what it revokes are good again only once that
    /// is written down ([`Self::written`]).
    pub fn order(&mut self, what: What, which: Which) {
        for place in 0..self.tokens.len() {
            if self.is_meant(place, which) {
                match what {
                    What::Revoke => {
                        if !std::mem::replace(&mut self.tokens[place].revoked, true) {
                            self.tokens[place].owes = true;
                        }
                    }
                    hold => {
                        let _ = self.hold(place, hold);
                    }
                }
            }
        }
    }

    /// What orders did to this token has been written down.
    pub fn written(&mut self, place: usize) {
        if std::mem::take(&mut self.tokens[place].owes) {
            self.give_back(place);
        }
    }

    /// The expiries that are to be told now: of those that it found alive. What waits, used up or held is told of too,
    /// and a predecessor whose time ran out while its successor waited.
    pub fn sweep(&mut self) -> Vec<usize> {
        let is_due = |it: &Token| {
            let Some(at) = it.expires else { return false };
            let ended_before = it.revoked || it.replaced || it.until.is_some_and(|until| until < at);
            self.now >= at && !it.told && !ended_before
        };
        let due: Vec<usize> = (0..self.tokens.len()).filter(|&place| is_due(&self.tokens[place])).collect();
        for &place in &due {
            self.tokens[place].told = true;
        }
        due
    }

    /// Good, or would be if nothing held it.
    pub fn ended(&self, place: usize) -> bool {
        let it = &self.tokens[place];
        let spent = it.max_uses.is_some_and(|max| self.uses[it.family] >= max);
        it.revoked || self.rotated_out(place) || it.expires.is_some_and(|at| self.now >= at) || spent
    }

    /// Who is meant by the name of this one.
    fn kin(&self, place: usize) -> Kin {
        let it = &self.tokens[place];
        let (mut named, mut by_successor) = (place, false);
        if let Some(old) = it.predecessor {
            if it.replaced && self.tokens[old].successor.is_some() {
                // Whoever retries knows only the id of one that was replaced since.
                (named, by_successor) = (old, true);
            } else if self.tokens[old].successor == Some(place) && !it.used {
                return Kin::Pair { old, unused: place, named: place };
            }
        }
        match self.tokens[named].successor {
            None => Kin::Alone(named),
            Some(successor) if self.tokens[successor].used => Kin::Used(successor),
            Some(unused) => Kin::Pair { old: named, unused, named: if by_successor { unused } else { named } },
        }
    }

    /// A token like `model`, new and unused; `None` when its life would be over.
    fn heir(&mut self, model: usize, old: usize, afresh: bool) -> Option<usize> {
        let model = self.tokens[model].clone();
        let ceiling = if afresh { self.ceiling(model.kind) } else { model.ceiling };
        let expires = (self.now + model.ttl).min(ceiling?);
        if expires <= self.now {
            return None;
        }
        let next = self.tokens.len();
        self.tokens.push(Token {
            issued: self.now,
            delay: model.delayed_to().saturating_sub(self.now),
            expires: Some(expires),
            ceiling,
            predecessor: Some(old),
            successor: None,
            revoked: false,
            suspended: false,
            replaced: false,
            until: None,
            cut: false,
            used: false,
            told: false,
            owes: false,
            ..model
        });
        self.uses.push(0);
        Some(next)
    }

    /// The overlap counts afresh, unless the old one has ended.
    fn hand_over(&mut self, old: usize, next: usize, at_once: bool, grace: u64) {
        let (now, had_ended) = (self.now, self.ended(old));
        let it = &mut self.tokens[old];
        it.successor = Some(next);
        if at_once {
            it.until = Some(it.until.filter(|_| had_ended).map_or(now, |until| until.min(now)));
            it.cut = true;
        } else if !had_ended {
            it.until = Some((now + OVERLAP).min(it.expires.unwrap_or(u64::MAX)));
            it.cut = false;
        }
        if !had_ended {
            it.grace = grace;
        }
    }

    fn is_meant(&self, place: usize, which: Which) -> bool {
        let it = &self.tokens[place];
        match which {
            Which::All => true,
            Which::Subject(subject) => it.subject == subject,
            Which::Label(label) => it.label == Some(label),
            Which::SubjectAndLabel(subject, label) => it.subject == subject && it.label == Some(label),
            Which::Kind(kind) => it.kind == kind,
            Which::IssuedBefore(at) => it.issued < at,
            Which::Family(family) => it.family == family,
        }
    }

    /// A successor that ends unused leaves its predecessor as if it had never been.
    fn give_back(&mut self, place: usize) {
        let it = &self.tokens[place];
        let Some(old) = it.predecessor.filter(|_| !it.used && !it.replaced) else { return };
        let old = &mut self.tokens[old];
        if old.successor == Some(place) && !old.cut && !old.revoked {
            old.successor = None;
            old.until = None;
        }
    }

    fn rotated_out(&self, place: usize) -> bool {
        let it = &self.tokens[place];
        it.replaced || it.until.is_some_and(|until| self.now >= until)
    }

    fn ceiling(&self, kind: Kind) -> Option<u64> {
        match kind {
            Kind::Machine => Some(self.now + MACHINE_LIFETIME),
            Kind::Session => Some(self.now + SESSION_LIFETIME),
            Kind::Canary => None,
        }
    }
}
