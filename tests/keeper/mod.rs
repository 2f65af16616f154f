//! The real service in this process, over a simulated disk and under a clock that a test moves.
#![allow(dead_code, unreachable_pub, reason = "shared by test binaries that use a part of it each")]

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bearerd::audit::{Audit, AuditBoot, AuditEvent, AuditMac, AuditOptions, keyed_mac};
use bearerd::config::{Config, Paths};
use bearerd::daemon::reload;
use bearerd::page::Takeover;
use bearerd::peer::Peer;
use bearerd::policy::{Own, SystemNames};
use bearerd::protocol::filter::Filter;
use bearerd::protocol::message::{Answer, Ask, Handle, Issue, List, Revoke, Shown, Tokens, Validate, Which};
use bearerd::service::{Caller, Connections, Now, Parts, Places, Service, Sweeper};
use bearerd::store::record::TokenRecord;
use bearerd::store::{Effect, FileOptions, Sealer, Store, StoreError, StoreFile, Txn};
use bearerd::sys::memory::LockedKey;
use bearerd::time::manual::ManualTime;
use bearerd::time::{Clock, UnixTime};
use bearerd::token::TokenId;
use bearerd::vault::{KeyHeader, KeySource, Keyring};
use serde_json::Value;

use crate::simdisk::{START, SimDisk, quiet};

pub const SECOND: Duration = Duration::from_secs(1);
pub const DAY: Duration = Duration::from_secs(86_400);

struct ChainKey(Arc<LockedKey>);

impl AuditMac for ChainKey {
    fn mac(&self, previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
        keyed_mac(self.0.expose(), previous, bytes)
    }
}

/// A service, and what it stands on.
pub struct Host {
    pub service: Arc<Service>,
    pub store: Store,
    pub clock: Arc<Clock>,
    pub time: ManualTime,
    pub disk: SimDisk,
    pub caller: Arc<Caller>,
    audit: Audit,
    config: Config,
    own: Own,
    dir: tempfile::TempDir,
}

impl Host {
    /// With the default configuration.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let source = KeySource::create_file(&dir.path().join("master.key")).unwrap();
        let (_, header) = Keyring::create(&source, START).unwrap();
        let own = Own { uid: nix::unistd::geteuid().as_raw(), container: None, cgroups: false };
        let config = Config::defaults(&Paths::system(own.uid, 0));
        Self::on(SimDisk::new(), Some(header), dir, ManualTime::new(START), config, own)
    }

    fn on(
        disk: SimDisk,
        new: Option<KeyHeader>,
        dir: tempfile::TempDir,
        time: ManualTime,
        config: Config,
        own: Own,
    ) -> Self {
        let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
        let source = KeySource::from_file(&dir.path().join("master.key"), own.uid).unwrap().unwrap();
        let header = new.as_ref().map_or_else(|| KeyHeader::decode(file.header().unwrap()).unwrap(), Clone::clone);
        let keyring = Arc::new(Keyring::unlock(&header, &source).unwrap());
        let sealer = Arc::clone(&keyring) as Arc<dyn Sealer>;
        let (store, clock, boot) = match new {
            Some(header) => {
                let clock = Arc::new(Clock::new(Box::new(time.clone()), None));
                let store = Store::create(file, &header.encode(), sealer, Arc::clone(&clock), quiet()).unwrap();
                (store, clock, AuditBoot::default())
            }
            None => {
                let mark = file.boot(&*sealer).unwrap().mark;
                let clock = Arc::new(Clock::new(Box::new(time.clone()), mark));
                let (store, boot) = Store::open(file, sealer, Arc::clone(&clock), quiet()).unwrap();
                let decoded =
                    boot.outbox.iter().map(|(generation, bytes)| (*generation, AuditEvent::decode(bytes).unwrap()));
                let audit =
                    AuditBoot { generation: boot.generation, outbox: decoded.collect(), ..AuditBoot::default() };
                (store, clock, audit)
            }
        };
        let options = AuditOptions { syslog: None, ..AuditOptions::new(dir.path().join("audit.log")) };
        let key = Arc::new(ChainKey(keyring.audit_key()));
        let (audit, _) = Audit::open(options, key, boot, Arc::clone(&clock), Box::new(|_, _| {})).unwrap();
        let service = Service::new(Parts {
            store: store.clone(),
            keyring,
            audit: audit.clone(),
            clock: Arc::clone(&clock),
            names: Arc::new(SystemNames),
            settings: reload::resolve(&config, &own),
            page: None,
            takeover: Takeover::begin(Arc::clone(&clock), true),
            places: Places::default(),
            connections: Box::new(Connections::default),
        });
        let peer =
            Peer { pid: 1, uid: own.uid, gid: 0, groups: Box::default(), unit: None, container: None, tcp: false };
        let caller = service.admit(peer);
        Self { service, store, clock, time, disk, caller, audit, config, own, dir }
    }

    /// The same place after a kill: the disk and the log as they are at this moment.
    pub fn killed(self) -> Self {
        let log = self.dir.path().join("audit.log");
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        // The log first: a line never comes before its change, so that this is what a kill could have left.
        let copy = dir.path().join("audit.log");
        std::fs::copy(&log, &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o640)).unwrap();
        let disk = SimDisk::of(self.disk.bytes());
        std::fs::copy(self.dir.path().join("master.key"), dir.path().join("master.key")).unwrap();
        Self::on(disk, None, dir, self.time, self.config, self.own)
    }

    /// Changes the configuration, as a reload does.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config);
        self.service.reload(reload::resolve(&self.config, &self.own));
    }

    pub fn sweeper(&self) -> Sweeper {
        Sweeper::new(Arc::clone(&self.service))
    }

    pub async fn ask(&self, ask: Ask<'_>) -> Answer {
        self.ask_as(&self.caller, ask).await
    }

    pub async fn ask_as(&self, caller: &Arc<Caller>, ask: Ask<'_>) -> Answer {
        match self.service.answer(caller, &ask) {
            Now::Ready(answer) => answer,
            Now::Later(answer) => answer.await,
            Now::Stream(_) => panic!("a stream"),
        }
    }

    /// Issues a token and gives its text.
    pub async fn issue(&self, name: &str, ttl: Duration) -> String {
        self.issue_of(Issue { name: name.to_owned(), ttl: Some(ttl), ..Issue::default() }).await
    }

    pub async fn issue_of(&self, issue: Issue) -> String {
        match self.ask(Ask::Issue(issue)).await {
            Answer::Issued(issued) => issued.token.expose().to_owned(),
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("neither token nor error"),
        }
    }

    pub async fn revoke(&self, id: TokenId) -> u64 {
        let which = Which::Handles(vec![Handle(id.to_string())]);
        match self.ask(Ask::Revoke(Revoke { which, reason: None, dry_run: false })).await {
            Answer::Changed(changed) => changed.count,
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("neither change nor error"),
        }
    }

    /// Uses a token as a peer of this unit.
    pub async fn use_as(&self, token: &str, unit: Option<&str>) -> bool {
        let peer = Peer {
            pid: 1,
            uid: self.own.uid,
            gid: 0,
            groups: Box::default(),
            unit: unit.map(Into::into),
            container: None,
            tcp: false,
        };
        let ask = Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false };
        match self.ask_as(&self.service.admit(peer), Ask::Validate(ask)).await {
            Answer::Verdict(verdict) => verdict.active,
            _ => panic!("no verdict"),
        }
    }

    pub async fn show(&self, id: TokenId) -> Shown {
        match self.ask(Ask::Show(Handle(id.to_string()))).await {
            Answer::Shown(shown) => *shown,
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("not shown"),
        }
    }

    pub async fn page(&self, filter: Filter, limit: u32, after: Option<TokenId>) -> Tokens {
        match self.ask(Ask::List(List { filter, limit, after })).await {
            Answer::Tokens(tokens) => tokens,
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("no page"),
        }
    }

    /// Changes a record behind the service's back.
    pub async fn change(&self, id: TokenId, change: impl FnOnce(&mut TokenRecord) + Send + 'static) {
        let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
            let mut record = txn.record(id)?.unwrap();
            record.version += 1;
            change(&mut record);
            txn.put(record, Effect::Extends)
        };
        self.store.write(job).await.unwrap().unwrap();
    }

    pub fn record(&self, id: TokenId) -> Option<TokenRecord> {
        self.store.lookup(id).unwrap().record.map(|record| (*record).clone())
    }

    /// What the log has of an event, all that was given to it before included.
    pub async fn lines(&self, event: &str) -> Vec<Value> {
        self.audit.barrier().await.unwrap();
        let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    pub fn now(&self) -> UnixTime {
        self.clock.now()
    }
}

/// The id in a token's text.
pub fn id_of(token: &str) -> TokenId {
    token.split('_').nth(1).unwrap().parse().unwrap()
}
