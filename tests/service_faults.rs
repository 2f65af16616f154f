//! I6 at the top of the ladder: what peers are told when the store's disk or the audit log fails under the real service.

mod simdisk;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bearerd::audit::{Audit, AuditBoot, AuditMac, AuditOptions, keyed_mac};
use bearerd::config::{Config, Paths};
use bearerd::daemon::reload;
use bearerd::page::Takeover;
use bearerd::peer::Peer;
use bearerd::policy::{Own, SystemNames};
use bearerd::protocol::code::{ErrorCode, Reason};
use bearerd::protocol::message::{
    Answer, Ask, Chosen, Condition, Filter, Handle, Hold, Issue, Revoke, Validate, Verdict, Which,
};
use bearerd::service::{Caller, Connections, Now, Parts, Places, Service};
use bearerd::store::{FileOptions, Sealer, Store, StoreFile};
use bearerd::sys::memory::LockedKey;
use bearerd::vault::{KeySource, Keyring};
use simdisk::{Fail, START, SimDisk, clock, quiet};

const PATIENCE: Duration = Duration::from_secs(60);

struct ChainKey(Arc<LockedKey>);

impl AuditMac for ChainKey {
    fn mac(&self, previous: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
        keyed_mac(self.0.expose(), previous, bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Suspend,
    Resume,
}

/// The real service over a simulated disk.
struct Host {
    service: Arc<Service>,
    caller: Arc<Caller>,
    disk: SimDisk,
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let clock = clock();
        let source = KeySource::create_file(&dir.path().join("master.key")).unwrap();
        let (keyring, header) = Keyring::create(&source, START).unwrap();
        let keyring = Arc::new(keyring);
        let disk = SimDisk::new();
        let file = StoreFile::on(disk.handle(), FileOptions::default()).unwrap();
        let sealer = Arc::clone(&keyring) as Arc<dyn Sealer>;
        let store = Store::create(file, &header.encode(), sealer, Arc::clone(&clock), quiet()).unwrap();
        let options = AuditOptions::new(dir.path().join("audit.log"));
        let key = Arc::new(ChainKey(keyring.audit_key()));
        let (audit, _) =
            Audit::open(options, key, AuditBoot::default(), Arc::clone(&clock), Box::new(|_, _| {})).unwrap();
        let own = Own { uid: nix::unistd::geteuid().as_raw(), container: None, cgroups: false };
        let config = Config::defaults(&Paths::system(own.uid, 0));
        let service = Service::new(Parts {
            store,
            keyring,
            audit,
            clock: Arc::clone(&clock),
            names: Arc::new(SystemNames),
            settings: reload::resolve(&config, &own),
            page: None,
            takeover: Takeover::begin(clock, true),
            places: Places::default(),
            connections: Box::new(Connections::default),
        });
        let peer =
            Peer { pid: 1, uid: own.uid, gid: 0, groups: Box::default(), unit: None, container: None, tcp: false };
        let caller = service.admit(peer);
        Self { service, caller, disk, dir }
    }

    async fn ask(&self, ask: Ask<'_>) -> Answer {
        match self.service.answer(&self.caller, &ask) {
            Now::Ready(answer) => answer,
            Now::Later(answer) => answer.await,
            Now::Stream(_) => panic!("a stream"),
        }
    }

    async fn issue(&self) -> Result<String, ErrorCode> {
        match self.ask(Ask::Issue(Issue { name: "t".into(), ..Issue::default() })).await {
            Answer::Issued(issued) => Ok(issued.token.expose().to_owned()),
            Answer::Error(failure) => Err(failure.code),
            _ => panic!("neither token nor error"),
        }
    }

    async fn revoke(&self, token: &str) -> Result<u64, ErrorCode> {
        let id = token.split('_').nth(1).unwrap().to_owned();
        let which = Which::Handles(vec![Handle(id)]);
        match self.ask(Ask::Revoke(Revoke { which, reason: None, dry_run: false })).await {
            Answer::Changed(changed) => Ok(changed.count),
            Answer::Error(failure) => Err(failure.code),
            _ => panic!("neither change nor error"),
        }
    }

    async fn hold(&self, verb: Verb, which: Chosen, dry_run: bool) -> Result<u64, ErrorCode> {
        let hold = Hold { which, reason: None, dry_run };
        let ask = if verb == Verb::Suspend { Ask::Suspend(hold) } else { Ask::Resume(hold) };
        match self.ask(ask).await {
            Answer::Changed(changed) => Ok(changed.count),
            Answer::Error(failure) => Err(failure.code),
            _ => panic!("neither change nor error"),
        }
    }

    async fn validate(&self, token: &str) -> Verdict {
        let ask = Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false };
        match self.ask(Ask::Validate(ask)).await {
            Answer::Verdict(verdict) => *verdict,
            _ => panic!("no verdict"),
        }
    }

    fn lines(&self, event: &str) -> usize {
        let log = std::fs::read_to_string(self.dir.path().join("audit.log")).unwrap();
        log.lines().filter(|line| line.contains(&format!("\"event\":\"{event}\""))).count()
    }
}

/// A commit that finds no room changes nothing and has no line; the next one goes through.
#[tokio::test]
async fn an_issue_that_was_not_written_is_refused_whole() {
    let host = Host::new();
    host.disk.fail(Fail::WriteFull, 0);
    assert_eq!(host.issue().await, Err(ErrorCode::Unavailable));
    assert!(host.disk.has_failed());
    assert_eq!(host.lines("issue"), 0);
    let token = host.issue().await.unwrap();
    assert!(host.validate(&token).await.active);
    assert_eq!(host.lines("issue"), 1);
}

/// A revocation is tried once more by itself: it is not refused because the disk was full for a moment.
#[tokio::test]
async fn a_revocation_outlives_a_moment_without_room() {
    let host = Host::new();
    let token = host.issue().await.unwrap();
    host.disk.fail(Fail::WriteFull, 0);
    assert_eq!(host.revoke(&token).await, Ok(1));
    assert!(host.disk.has_failed());
    assert_eq!(host.validate(&token).await.reason, Some(Reason::Revoked));
    assert_eq!(host.lines("revoke"), 1);
}

/// A sync that failed is never tried again: the asker is told that the disk decides, and nothing is good any more.
#[tokio::test]
async fn a_failed_sync_ends_the_store() {
    let host = Host::new();
    let token = host.issue().await.unwrap();
    host.disk.fail(Fail::Sync, 0);
    assert_eq!(host.revoke(&token).await, Err(ErrorCode::Undecided));
    let ask = Validate { token: &token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false };
    match host.ask(Ask::Validate(ask)).await {
        Answer::Error(failure) => assert_eq!(failure.code, ErrorCode::Undecided),
        Answer::Verdict(verdict) => assert!(!verdict.active, "active after a sync that failed"),
        _ => panic!("neither verdict nor error"),
    }
    assert_eq!(host.issue().await, Err(ErrorCode::Undecided));
}

/// Without an audit record nothing is made good again, by its id or by a filter; to take away goes through all the same,
/// and what would be done may be asked.
#[tokio::test]
async fn while_the_audit_log_fails_tokens_are_held_and_not_let_go() {
    let host = Host::new();
    let token = host.issue().await.unwrap();
    let one = || Chosen::Handles(vec![Handle(token.split('_').nth(1).unwrap().to_owned())]);
    let all = || Chosen::Filter(Filter::from(Condition::All));
    let log = host.dir.path().join("audit.log");
    // Also for root no file can be made where a directory is.
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    assert_eq!(host.hold(Verb::Suspend, all(), false).await, Ok(1));
    assert_eq!(host.validate(&token).await.reason, Some(Reason::Suspended));
    for which in [one(), all()] {
        assert_eq!(host.hold(Verb::Resume, which, false).await, Err(ErrorCode::Unavailable));
    }
    for which in [one(), all()] {
        assert_eq!(host.hold(Verb::Resume, which, true).await, Ok(1));
    }
    assert_eq!(host.validate(&token).await.reason, Some(Reason::Suspended));

    std::fs::remove_dir(&log).unwrap();
    let resumed = async {
        loop {
            match host.hold(Verb::Resume, all(), false).await {
                Err(ErrorCode::Unavailable) => tokio::task::yield_now().await,
                resumed => break resumed,
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, resumed).await.expect("the log is tried again"), Ok(1));
    assert!(host.validate(&token).await.active);
    assert_eq!((host.lines("suspend"), host.lines("resume")), (1, 1));
}
