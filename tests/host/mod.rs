//! The real service over a simulated disk, in this process: peers of any uid and unit ask it, and time moves by hand.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use bearerd::audit::{Audit, AuditBoot, AuditMac, AuditOptions, keyed_mac};
use bearerd::codec;
use bearerd::config::{Config, Paths};
use bearerd::daemon::reload;
use bearerd::page::{self, Takeover};
use bearerd::peer::Peer;
use bearerd::policy::{Own, SystemNames};
use bearerd::protocol::buffer::WriteBuffer;
use bearerd::protocol::message::{Answer, Ask, Failure, Issue, Reply, Validate, Verdict};
use bearerd::service::{Caller, Connections, Now, Parts, Places, Service};
use bearerd::store::record::{Rotation, TokenRecord};
use bearerd::store::{Effect, FileOptions, Sealer, Store, StoreError, StoreFile, StoreOptions};
use bearerd::sys::memory::LockedKey;
use bearerd::time::{Clock, UnixTime, manual::ManualTime};
use bearerd::token::{self, Secret, Token, TokenId};
use bearerd::vault::{KeySource, Keyring};
use serde_json::Value;

use crate::simdisk::{START, SimDisk, quiet};

struct ChainKey(Arc<LockedKey>);

impl AuditMac for ChainKey {
    fn mac(&self, previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
        keyed_mac(self.0.expose(), previous, bytes)
    }
}

pub struct Host {
    pub service: Arc<Service>,
    pub store: Store,
    pub audit: Audit,
    pub disk: SimDisk,
    pub hands: ManualTime,
    keyring: Arc<Keyring>,
    dir: tempfile::TempDir,
}

/// What a test asks, without having to say all of it.
pub fn ask(token: &str) -> Validate<'_> {
    Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false }
}

pub fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

impl Host {
    /// With `more` configuration.
    pub fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let file = dir.path().join("bearerd.toml");
        std::fs::write(&file, more).unwrap();
        let config = Config::load(&Paths::system(own_uid(), nix::unistd::getegid().as_raw()), Some(&file)).unwrap();
        let hands = ManualTime::new(START);
        let clock = Arc::new(Clock::new(Box::new(hands.clone()), None));
        let source = KeySource::create_file(&dir.path().join("master.key")).unwrap();
        let (keyring, header) = Keyring::create(&source, START).unwrap();
        let keyring = Arc::new(keyring);
        let disk = SimDisk::new();
        let page = Arc::new(page::Writer::shared().unwrap());
        let stored_options = StoreOptions { epochs: Some(Arc::clone(&page) as _), ..quiet() };
        let stored = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
        let sealer = Arc::clone(&keyring) as Arc<dyn Sealer>;
        let store = Store::create(stored, &header.encode(), sealer, Arc::clone(&clock), stored_options).unwrap();
        let options = AuditOptions::new(dir.path().join("audit.log"));
        let key = Arc::new(ChainKey(keyring.audit_key()));
        let (audit, _) =
            Audit::open(options, key, AuditBoot::default(), Arc::clone(&clock), Box::new(|_, _| {})).unwrap();
        let own = Own { uid: own_uid(), container: None, cgroups: false };
        let service = Service::new(Parts {
            store: store.clone(),
            keyring: Arc::clone(&keyring),
            audit: audit.clone(),
            clock: Arc::clone(&clock),
            names: Arc::new(SystemNames),
            settings: reload::resolve(&config, &own),
            page: Some(page),
            takeover: Takeover::begin(clock, true),
            places: Places::default(),
            connections: Box::new(Connections::default),
        });
        Self { service, store, audit, disk, hands, keyring, dir }
    }

    /// A connection of the daemon's own user, who may do everything.
    pub fn owner(&self) -> Arc<Caller> {
        self.peer(own_uid(), None)
    }

    pub fn peer(&self, uid: u32, unit: Option<&str>) -> Arc<Caller> {
        let unit = unit.map(Into::into);
        self.service.admit(Peer { pid: 7, uid, gid: uid, groups: Box::default(), unit, container: None, tcp: false })
    }

    pub async fn answer(&self, caller: &Arc<Caller>, ask: Ask<'_>) -> Answer {
        match self.service.answer(caller, &ask) {
            Now::Ready(answer) => answer,
            Now::Later(answer) => answer.await,
            Now::Stream(_) => panic!("a stream"),
        }
    }

    pub async fn issue(&self, request: Issue) -> String {
        let request = Issue { name: "t".into(), ..request };
        match self.answer(&self.owner(), Ask::Issue(request)).await {
            Answer::Issued(issued) => issued.token.expose().to_owned(),
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("no token"),
        }
    }

    pub async fn verdict(&self, caller: &Arc<Caller>, ask: Validate<'_>) -> Result<Verdict, Failure> {
        match self.answer(caller, Ask::Validate(ask)).await {
            Answer::Verdict(verdict) => Ok(*verdict),
            Answer::Error(failure) => Err(failure),
            _ => panic!("no verdict"),
        }
    }

    /// As it is written for the owner, by the bytes.
    pub async fn written(&self, token: &str) -> Verdict {
        let body = match self.service.reply(&self.owner(), &Ask::Validate(ask(token))) {
            Now::Ready(body) => body,
            Now::Later(body) => body.await,
            Now::Stream(_) => panic!("a stream"),
        };
        let mut output = WriteBuffer::new();
        let length = body.push(1, &mut output);
        let reply: Reply = codec::decode(&output.pending()[output.len() - length..]).unwrap();
        match reply.body {
            Answer::Verdict(verdict) => *verdict,
            _ => panic!("no verdict"),
        }
    }

    /// Asked by the owner. `active`, or the reason.
    pub async fn validate(&self, token: &str) -> &'static str {
        self.validate_as(&self.owner(), ask(token)).await
    }

    pub async fn validate_as(&self, caller: &Arc<Caller>, ask: Validate<'_>) -> &'static str {
        let verdict = self.verdict(caller, ask).await.unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(verdict.active, verdict.reason.is_none());
        verdict.reason.map_or("active", |reason| reason.name())
    }

    pub fn record(&self, token: &str) -> TokenRecord {
        let id = Token::parse(token).unwrap().id;
        self.record_of(id)
    }

    pub fn record_of(&self, id: TokenId) -> TokenRecord {
        TokenRecord::clone(&self.store.lookup(id).unwrap().record.expect("it is there"))
    }

    pub async fn put(&self, records: Vec<(TokenRecord, Effect)>) {
        let job = move |txn: &mut bearerd::store::Txn<'_>| -> Result<(), StoreError> {
            records.into_iter().try_for_each(|(record, effect)| txn.put(record, effect))
        };
        self.store.write(job).await.unwrap().unwrap();
    }

    /// A successor of `token`, made as a rotation makes it: unused; the predecessor good for `overlap` at most.
    pub async fn successor(&self, token: &str, grace: std::time::Duration, overlap: std::time::Duration) -> String {
        let mut old = self.record(token);
        let now = self.store.clock().now();
        let id = TokenId::from_bytes((u128::from_be_bytes(*old.id.as_bytes()) + 1).to_be_bytes());
        let secret = Secret::from_bytes([id.as_bytes()[15]; 32]);
        let text = Token { prefix: "brd".parse().unwrap(), kind: old.kind, id, secret: secret.clone() };
        let mut new = old.clone();
        (new.id, new.version) = (id, 1);
        new.digest = token::digest(self.keyring.digest_key(), id, &secret);
        (new.predecessor, new.successor, new.rotation, new.first_used_at) = (Some(old.id), None, None, None);
        old.successor = Some(id);
        old.version += 1;
        let ends_at = now.saturating_add(overlap);
        old.rotation = Some(Rotation { at: now, grace, ends_at, successor_used_at: None });
        self.put(vec![(old, Effect::Extends), (new, Effect::New)]).await;
        text.reveal().to_string()
    }

    pub fn now(&self) -> UnixTime {
        self.store.clock().now()
    }

    /// The lines of the log of this event, with all that was answered before.
    pub async fn lines(&self, event: &str) -> Vec<Value> {
        self.audit.barrier().await.unwrap();
        let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// What is counted is told, as at the end of the daemon.
    pub async fn settle(&self) {
        self.service.stop();
        self.service.settle_alerts().await;
        self.audit.barrier().await.unwrap();
    }
}
