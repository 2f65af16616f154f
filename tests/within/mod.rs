//! The service in this process, with time moved by hand and peers of any uid: what needs neither root nor a wait.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bearerd::audit::Audit;
use bearerd::config::{Config, Paths};
use bearerd::daemon::{open, reload};
use bearerd::peer::Peer;
use bearerd::policy::{Names, Own};
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{
    Answer, Ask, AuditQuery, Changed, Chosen, Edit, Failure, Handle, Hold, Issue, Issued, Revoke, Rotate, Rotated,
    State, TokenInfo, Validate, Verdict, Which,
};
use bearerd::service::{Caller, Connections, Now, Parts, Places, Service};
use bearerd::store::record::TokenRecord;
use bearerd::store::{Effect, Store, StoreError, Txn};
use bearerd::time::UnixTime;
use bearerd::time::manual::ManualTime;
use bearerd::token::TokenId;

pub const START: UnixTime = UnixTime::from_secs(1_800_000_000);
pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

pub const ALICE: u32 = 1000;
pub const BOB: u32 = 1001;
/// Whom no rule is for.
pub const STRANGER: u32 = 1002;

/// Alice, Bob, and nobody else.
struct TwoUsers;

impl Names for TwoUsers {
    fn uid_of(&self, user: &str) -> io::Result<Option<u32>> {
        Ok([("alice", ALICE), ("bob", BOB)].into_iter().find(|(name, _)| *name == user).map(|(_, uid)| uid))
    }

    fn gid_of(&self, _: &str) -> io::Result<Option<u32>> {
        Ok(None)
    }

    fn user_of(&self, uid: u32) -> io::Result<Option<String>> {
        Ok([(ALICE, "alice"), (BOB, "bob")].into_iter().find(|(it, _)| *it == uid).map(|(_, name)| name.to_owned()))
    }
}

/// A service over files of its own.
pub struct Within {
    pub hands: ManualTime,
    pub store: Store,
    audit: Audit,
    service: Arc<Service>,
    dir: tempfile::TempDir,
}

/// One peer of it.
pub struct User {
    service: Arc<Service>,
    caller: Arc<Caller>,
}

impl Within {
    /// With `more` configuration.
    pub fn start(more: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("bearerd-test-").tempdir().unwrap();
        let config = config(dir.path(), more);
        let hands = ManualTime::new(START);
        let own = Own { uid: 0, container: None, cgroups: false };
        let backbone = open::open(&config, None, Box::new(hands.clone())).unwrap();
        let service = Service::new(Parts {
            store: backbone.store.clone(),
            keyring: backbone.keyring,
            audit: backbone.audit.clone(),
            clock: backbone.clock,
            names: Arc::new(TwoUsers),
            settings: reload::resolve(&config, &own),
            page: Some(backbone.page),
            takeover: backbone.takeover,
            places: Places::default(),
            connections: Box::new(Connections::default),
        });
        Self { hands, store: backbone.store, audit: backbone.audit, service, dir }
    }

    /// A new connection of this uid.
    pub fn user(&self, uid: u32) -> User {
        let peer = Peer { pid: 1, uid, gid: uid, groups: Box::default(), unit: None, container: None, tcp: false };
        User { service: Arc::clone(&self.service), caller: self.service.admit(peer) }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn root(&self) -> User {
        self.user(0)
    }

    pub fn now(&self) -> UnixTime {
        self.store.clock().now()
    }

    pub fn record(&self, id: &str) -> TokenRecord {
        TokenRecord::clone(&self.store.lookup(id_of(id)).unwrap().record.unwrap())
    }

    pub fn state(&self, id: &str) -> State {
        self.record(id).state(self.now())
    }

    pub async fn change(&self, id: &str, change: impl FnOnce(&mut TokenRecord) + Send + 'static) {
        let id = id_of(id);
        let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
            let mut record = txn.record(id)?.unwrap();
            record.version += 1;
            change(&mut record);
            txn.put(record, Effect::Restricts)
        };
        self.store.write(job).await.unwrap().unwrap();
    }

    /// A successor's first use, with what comes of it for its predecessor.
    pub async fn first_use(&self, token: &str) {
        assert!(self.root().validate(token).await.active);
        let (id, now) = (handle_of(token).to_owned(), self.now());
        let used = self.record(&id);
        if used.first_used_at.is_some() {
            return;
        }
        self.change(&id, move |record| record.first_used_at = Some(now)).await;
        if let Some(before) = used.predecessor {
            self.change(&before.to_string(), move |record| {
                let rotation = record.rotation.as_mut().unwrap();
                rotation.successor_used_at = Some(now);
                rotation.ends_at = rotation.ends_at.min(now.saturating_add(rotation.grace));
            })
            .await;
        }
    }

    /// The lines of the audit log about a token, as JSON.
    pub async fn lines(&self, id: &str, event: &str) -> Vec<serde_json::Value> {
        let query =
            AuditQuery { token: Some(Handle(id.to_owned())), event: Some(event.to_owned()), ..AuditQuery::default() };
        self.query(query).await
    }

    /// What was refused, as the administrator sees it.
    pub async fn denials(&self) -> Vec<String> {
        let query = AuditQuery { event: Some("deny".to_owned()), ..AuditQuery::default() };
        self.query(query).await.iter().map(|line| line["note"].as_str().unwrap_or_default().to_owned()).collect()
    }

    async fn query(&self, mut query: AuditQuery) -> Vec<serde_json::Value> {
        let mut found = Vec::new();
        loop {
            let Answer::AuditLines(page) = self.root().ask(Ask::Audit(query.clone())).await else { panic!("no lines") };
            found.extend(page.lines.iter().map(|line| serde_json::from_str(line).unwrap()));
            if page.end {
                return found;
            }
            query.after = Some(page.next);
        }
    }

    pub async fn stop(self) {
        self.audit.stop().await.unwrap();
        self.store.stop().await.unwrap();
    }
}

fn config(dir: &Path, more: &str) -> Config {
    let path = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[audit]\nfile = {:?}\nsyslog = \"\"\n{more}",
        path("state/tokens.redb"),
        path("key/master.key"),
        path("log/audit.log"),
    );
    let file = dir.join("bearerd.toml");
    std::fs::write(&file, text).unwrap();
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Config::load(&Paths::system(uid, gid), Some(&file)).unwrap()
}

impl User {
    /// Its verdicts say from now on how they may be kept.
    pub fn keeps(&self) {
        assert!(self.service.grant_page(&self.caller));
    }

    pub async fn ask(&self, ask: Ask<'_>) -> Answer {
        match self.service.answer(&self.caller, &ask) {
            Now::Ready(answer) => answer,
            Now::Later(answer) => answer.await,
            Now::Stream(_) => panic!("a stream"),
        }
    }

    pub async fn issue(&self, request: Issue) -> Result<Issued, Failure> {
        match self.ask(Ask::Issue(request)).await {
            Answer::Issued(issued) => Ok(*issued),
            answer => Err(failure(answer)),
        }
    }

    /// A token's text.
    pub async fn token(&self, request: Issue) -> String {
        match self.issue(request).await {
            Ok(issued) => issued.token.expose().to_owned(),
            Err(failure) => panic!("{failure}"),
        }
    }

    pub async fn validate(&self, token: &str) -> Verdict {
        self.asks(token, false).await
    }

    /// As [`Self::validate`], and no use of it.
    pub async fn peek(&self, token: &str) -> Verdict {
        self.asks(token, true).await
    }

    async fn asks(&self, token: &str, peek: bool) -> Verdict {
        let ask = Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek };
        match self.ask(Ask::Validate(ask)).await {
            Answer::Verdict(verdict) => *verdict,
            answer => panic!("{}", failure(answer)),
        }
    }

    pub async fn rotate(&self, id: &str) -> Result<Rotated, Failure> {
        self.rotate_as(Rotate { token: Handle(id.to_owned()), now: false, grace: None }).await
    }

    pub async fn rotate_as(&self, rotate: Rotate) -> Result<Rotated, Failure> {
        match self.ask(Ask::Rotate(rotate)).await {
            Answer::Rotated(rotated) => Ok(*rotated),
            answer => Err(failure(answer)),
        }
    }

    pub async fn renew(&self, id: &str) -> Result<TokenInfo, Failure> {
        info(self.ask(Ask::Renew(Handle(id.to_owned()))).await)
    }

    pub async fn edit(&self, id: &str, change: impl FnOnce(&mut Edit)) -> Result<TokenInfo, Failure> {
        let mut edit = Edit::of(Handle(id.to_owned()));
        change(&mut edit);
        info(self.ask(Ask::Edit(edit)).await)
    }

    pub async fn show(&self, id: &str) -> Result<TokenInfo, Failure> {
        info(self.ask(Ask::Show(Handle(id.to_owned()))).await)
    }

    pub async fn revoke(&self, ids: &[&str]) -> Result<Changed, Failure> {
        let which = Which::Handles(handles(ids));
        changed(self.ask(Ask::Revoke(Revoke { which, reason: None, dry_run: false })).await)
    }

    pub async fn suspend(&self, ids: &[&str]) -> Result<Changed, Failure> {
        changed(self.ask(Ask::Suspend(hold(ids, false))).await)
    }

    pub async fn resume(&self, ids: &[&str]) -> Result<Changed, Failure> {
        changed(self.ask(Ask::Resume(hold(ids, false))).await)
    }
}

pub fn hold(ids: &[&str], dry_run: bool) -> Hold {
    Hold { which: Chosen::Handles(handles(ids)), reason: Some("odd".into()), dry_run }
}

pub fn handles(ids: &[&str]) -> Vec<Handle> {
    ids.iter().map(|id| Handle((*id).to_owned())).collect()
}

pub fn changed(answer: Answer) -> Result<Changed, Failure> {
    match answer {
        Answer::Changed(changed) => Ok(changed),
        answer => Err(failure(answer)),
    }
}

fn info(answer: Answer) -> Result<TokenInfo, Failure> {
    match answer {
        Answer::Token(info) => Ok(*info),
        Answer::Shown(shown) => Ok(shown.info),
        answer => Err(failure(answer)),
    }
}

fn failure(answer: Answer) -> Failure {
    match answer {
        Answer::Error(failure) => failure,
        _ => panic!("another answer"),
    }
}

/// The code of a refusal.
#[track_caller]
pub fn code<T>(result: Result<T, Failure>) -> ErrorCode {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(failure) => failure.code,
    }
}

/// The id in a token's text.
pub fn handle_of(token: &str) -> &str {
    token.split('_').nth(1).expect("a token has an id")
}

pub fn id_of(id: &str) -> TokenId {
    id.parse().unwrap()
}

pub fn named(name: &str) -> Issue {
    Issue { name: name.into(), ..Issue::default() }
}
