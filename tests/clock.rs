//! I8: no clock step lengthens a life: back, forward, over a restart and over a reboot. In one process, with time moved by hand.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bearerd::audit::Audit;
use bearerd::config::{Config, Paths};
use bearerd::daemon::{Failure, open, reload};
use bearerd::page::Takeover;
use bearerd::peer::Peer;
use bearerd::policy::{Own, SystemNames};
use bearerd::protocol::code::Reason;
use bearerd::protocol::message::{Answer, Ask, Handle, Issue, Revoke, Validate, Verdict, Which};
use bearerd::service::{Caller, Connections, Now, Parts, Places, Service};
use bearerd::store::Store;
use bearerd::time::UnixTime;
use bearerd::time::manual::ManualTime;

const START: UnixTime = UnixTime::from_secs(1_800_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

struct InProcess {
    service: Arc<Service>,
    caller: Arc<Caller>,
    store: Store,
    audit: Audit,
}

fn config(dir: &Path, unsynced: &str) -> Config {
    let file = dir.join("bearerd.toml");
    let path = |name: &str| dir.join(name).display().to_string();
    std::fs::write(
        &file,
        format!(
            "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[audit]\nfile = {:?}\nsyslog = \"\"\n[time]\nunsynced = {unsynced:?}\n",
            path("state/tokens.redb"),
            path("key/master.key"),
            path("log/audit.log"),
        ),
    )
    .unwrap();
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Config::load(&Paths::system(uid, gid), Some(&file)).unwrap()
}

fn try_start(dir: &Path, hands: &ManualTime, unsynced: &str) -> Result<InProcess, Failure> {
    let config = config(dir, unsynced);
    let own = Own { uid: nix::unistd::geteuid().as_raw(), container: None, cgroups: false };
    let backbone = open::open(&config, None, Box::new(hands.clone()))?;
    let service = Service::new(Parts {
        store: backbone.store.clone(),
        keyring: backbone.keyring,
        audit: backbone.audit.clone(),
        clock: Arc::clone(&backbone.clock),
        names: Arc::new(SystemNames),
        settings: reload::resolve(&config, &own),
        page: None,
        takeover: Takeover::begin(backbone.clock, true),
        places: Places::default(),
        connections: Box::new(Connections::default),
    });
    let peer = Peer { pid: 1, uid: own.uid, gid: 0, groups: Box::default(), unit: None, container: None, tcp: false };
    let caller = service.admit(peer);
    Ok(InProcess { service, caller, store: backbone.store, audit: backbone.audit })
}

fn start(dir: &Path, hands: &ManualTime) -> InProcess {
    try_start(dir, hands, "serve").unwrap()
}

impl InProcess {
    async fn ask(&self, ask: Ask<'_>) -> Answer {
        match self.service.answer(&self.caller, &ask) {
            Now::Ready(answer) => answer,
            Now::Later(answer) => answer.await,
            Now::Stream(_) => panic!("a stream"),
        }
    }

    async fn issue(&self, ttl: Duration) -> String {
        let request = Issue { name: "t".into(), ttl: Some(ttl), ..Issue::default() };
        match self.ask(Ask::Issue(request)).await {
            Answer::Issued(issued) => issued.token.expose().to_owned(),
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("no token"),
        }
    }

    async fn validate(&self, token: &str) -> Verdict {
        let ask = Validate { token, scopes: Vec::new(), audience: None, from: None, note: None, peek: false };
        match self.ask(Ask::Validate(ask)).await {
            Answer::Verdict(verdict) => *verdict,
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("no verdict"),
        }
    }

    async fn expired(&self, token: &str) -> bool {
        let verdict = self.validate(token).await;
        assert!(verdict.active || verdict.reason == Some(Reason::Expired), "{:?}", verdict.reason);
        !verdict.active
    }

    async fn stop(self) {
        self.audit.stop().await.unwrap();
        self.store.stop().await.unwrap();
    }

    /// What a kill -9 would leave: the files as they are now, elsewhere.
    fn killed(&self, dir: &Path) -> tempfile::TempDir {
        let image = private_dir();
        for (name, mode) in [("state", 0o700), ("key", 0o700), ("log", 0o750)] {
            let to = image.path().join(name);
            std::fs::create_dir(&to).unwrap();
            std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            for entry in std::fs::read_dir(dir.join(name)).unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
        image
    }
}

#[tokio::test]
async fn a_clock_set_back_lengthens_no_life() {
    let dir = private_dir();
    let hands = ManualTime::new(START);
    let daemon = start(dir.path(), &hands);
    let token = daemon.issue(HOUR).await;
    assert!(!daemon.expired(&token).await);
    hands.set(|hands| hands.wall = START.saturating_sub(365 * DAY));
    hands.set(|hands| hands.boottime += HOUR - Duration::from_secs(1));
    assert!(!daemon.expired(&token).await);
    hands.set(|hands| hands.boottime += Duration::from_secs(1));
    assert!(daemon.expired(&token).await);
    daemon.stop().await;
}

#[tokio::test]
async fn neither_does_one_set_back_over_a_restart_or_a_reboot() {
    let dir = private_dir();
    let hands = ManualTime::new(START);
    let daemon = start(dir.path(), &hands);
    let token = daemon.issue(2 * HOUR).await;
    hands.pass(HOUR);
    daemon.stop().await;

    // The same boot: what passes while the daemon is stopped counts by CLOCK_BOOTTIME.
    hands.set(|hands| {
        hands.wall = START.saturating_sub(DAY);
        hands.boottime += HOUR / 2;
    });
    let daemon = start(dir.path(), &hands);
    assert!(!daemon.expired(&token).await);
    daemon.stop().await;

    // Another boot with a clock of 1970: the mark is the least.
    hands.set(|hands| {
        hands.wall = UnixTime::EPOCH;
        hands.boottime = Duration::from_secs(10);
        hands.boot_id = [2; 16];
    });
    let daemon = start(dir.path(), &hands);
    hands.set(|hands| hands.boottime += HOUR / 2 - Duration::from_secs(1));
    assert!(!daemon.expired(&token).await);
    hands.set(|hands| hands.boottime += Duration::from_secs(1));
    assert!(daemon.expired(&token).await);
    daemon.stop().await;
}

#[tokio::test]
async fn after_a_kill_the_mark_is_that_of_the_last_commit() {
    let dir = private_dir();
    let hands = ManualTime::new(START);
    let daemon = start(dir.path(), &hands);
    let token = daemon.issue(2 * HOUR).await;
    hands.pass(HOUR);
    // Any commit carries the mark along.
    daemon.issue(HOUR).await;
    let image = daemon.killed(dir.path());
    daemon.stop().await;
    hands.set(|hands| {
        hands.wall = UnixTime::EPOCH;
        hands.boottime = Duration::from_secs(10);
        hands.boot_id = [3; 16];
    });
    let daemon = start(image.path(), &hands);
    hands.set(|hands| hands.boottime += HOUR);
    assert!(daemon.expired(&token).await);
    daemon.stop().await;
}

#[tokio::test]
async fn a_false_step_forward_expires_but_is_not_kept() {
    let dir = private_dir();
    let hands = ManualTime::new(START);
    let daemon = start(dir.path(), &hands);
    let token = daemon.issue(DAY).await;
    hands.set(|hands| hands.wall = START.saturating_add(400 * DAY));
    assert!(daemon.expired(&token).await);
    daemon.stop().await;
    // The date was false, and corrected before it was believed.
    hands.set(|hands| hands.wall = START.saturating_add(HOUR));
    let daemon = start(dir.path(), &hands);
    assert!(!daemon.expired(&token).await);

    // Believed, because the kernel says so: then it stays, until an administrator takes it back.
    hands.set(|hands| {
        hands.wall = START.saturating_add(400 * DAY);
        hands.synchronised = true;
    });
    assert!(daemon.expired(&token).await);
    hands.set(|hands| {
        hands.wall = START.saturating_add(HOUR);
        hands.synchronised = false;
    });
    assert!(daemon.expired(&token).await);
    let Answer::Time(after) = daemon.ask(Ask::ClockReset).await else { panic!("no reset") };
    assert_eq!(after, START.saturating_add(HOUR));
    assert!(!daemon.expired(&token).await);
    daemon.stop().await;
    let daemon = start(dir.path(), &hands);
    assert!(!daemon.expired(&token).await, "the reset is durable");
    let trail = std::fs::read_to_string(dir.path().join("log/audit.log")).unwrap();
    assert!(trail.lines().any(|line| line.contains("\"event\":\"clock\"") && line.contains("\"reset\"")));
    daemon.stop().await;
}

#[tokio::test]
async fn an_unsynchronised_clock_behind_the_mark_can_be_refused() {
    let dir = private_dir();
    let hands = ManualTime::new(START);
    start(dir.path(), &hands).stop().await;
    hands.set(|hands| {
        hands.wall = START.saturating_sub(DAY);
        hands.boot_id = [4; 16];
    });
    let refused = try_start(dir.path(), &hands, "refuse");
    assert!(matches!(refused, Err(Failure::Unsynced { .. })));
    hands.set(|hands| hands.synchronised = true);
    try_start(dir.path(), &hands, "refuse").unwrap().stop().await;
}

/// A revocation stays one whatever the clock does.
#[tokio::test]
async fn no_step_brings_a_revoked_token_back() {
    let dir = private_dir();
    let hands = ManualTime::new(START);
    let daemon = start(dir.path(), &hands);
    let token = daemon.issue(DAY).await;
    let id = token.split('_').nth(1).unwrap().to_owned();
    let request = Revoke { which: Which::Handles(vec![Handle(id)]), reason: None, dry_run: false };
    assert!(matches!(daemon.ask(Ask::Revoke(request)).await, Answer::Changed(_)));
    for wall in [UnixTime::EPOCH, START, START.saturating_add(HOUR), UnixTime::MAX] {
        hands.set(|hands| hands.wall = wall);
        assert_eq!(daemon.validate(&token).await.reason, Some(Reason::Revoked));
    }
    daemon.stop().await;
}

fn private_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("bearerd-test-").tempdir().unwrap()
}
