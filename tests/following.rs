//! `watch` within one process, so that the peer can be any user, the journal as short as a test wants, and nothing is read
//! before the test reads it.

mod simdisk;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bearerd::config::{Config, Paths};
use bearerd::daemon::{open, reload};
use bearerd::page::Takeover;
use bearerd::peer::Peer;
use bearerd::policy::{Own, SystemNames};
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{Answer, Ask, Events, Failure, Issue, Watch};
use bearerd::service::{Caller, Connections, Now, Parts, Places, Service, Settings, Streamed};
use bearerd::store::{Store, StoreError, StoreOptions, Txn};
use bearerd::time::UnixTime;
use bearerd::time::manual::ManualTime;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;

use simdisk::{SimDisk, create_with, quiet};

/// Users who are neither root nor who runs the tests.
const ALICE: u32 = 4_200_000;
const BOB: u32 = 4_200_001;

/// What a rule says, for Alice and for Bob.
type Rules = [Option<&'static str>; 2];
const BOTH: Rules = [Some("\"issue\", \"watch\""), Some("\"issue\", \"watch:own\"")];

struct Bench {
    dir: tempfile::TempDir,
    own: Own,
    store: Store,
    backbone: open::Backbone,
    service: Arc<Service>,
}

impl Bench {
    fn new(journal: u64, rules: Rules) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let own = Own { uid: nix::unistd::geteuid().as_raw(), container: None, cgroups: false };
        let config = config(dir.path(), rules);
        let hands = ManualTime::new(UnixTime::from_secs(1_800_000_000));
        let backbone = open::open(&config, None, Box::new(hands)).unwrap();
        // A store of its own, whose journal is as long as the test says; its seals are the test's, too.
        let store = create_with(&SimDisk::new(), StoreOptions { journal, ..quiet() });
        let service = Service::new(Parts {
            store: store.clone(),
            keyring: Arc::clone(&backbone.keyring),
            audit: backbone.audit.clone(),
            clock: Arc::clone(&backbone.clock),
            names: Arc::new(SystemNames),
            settings: reload::resolve(&config, &own),
            page: None,
            takeover: Takeover::begin(Arc::clone(&backbone.clock), true),
            places: Places::default(),
            connections: Box::new(Connections::default),
        });
        Self { dir, own, store, backbone, service }
    }

    fn settings(&self, rules: Rules) -> Settings {
        reload::resolve(&config(self.dir.path(), rules), &self.own)
    }

    fn caller(&self, uid: u32) -> Arc<Caller> {
        self.service.admit(Peer {
            pid: 1,
            uid,
            gid: uid,
            groups: Box::default(),
            unit: None,
            container: None,
            tcp: false,
        })
    }

    /// The stream that `uid` gets, or why it gets none.
    fn watch(&self, uid: u32, since: Option<u64>) -> Result<Streamed, Failure> {
        match self.service.answer(&self.caller(uid), &Ask::Watch(Watch { since })) {
            Now::Stream(stream) => Ok(stream),
            Now::Ready(Answer::Error(failure)) => Err(failure),
            _ => panic!("neither a stream nor an error"),
        }
    }

    async fn issue(&self, uid: u32) -> String {
        let ask = Ask::Issue(Issue { name: "x".into(), ..Issue::default() });
        let Now::Later(answer) = self.service.answer(&self.caller(uid), &ask) else { panic!("at once") };
        match answer.await {
            Answer::Issued(issued) => issued.info.facts.id.to_string(),
            Answer::Error(failure) => panic!("{failure}"),
            _ => panic!("another answer"),
        }
    }

    /// So many changes that are about no token, all told.
    async fn changes(&self, count: u64) {
        let event = bearerd::audit::AuditEvent::new(bearerd::audit::EventKind::Rekey, UnixTime::EPOCH).encode();
        let job = move |txn: &mut Txn<'_>| -> Result<(), StoreError> {
            (0..count).try_for_each(|_| txn.announce(|_| event.clone()).map(drop))
        };
        self.store.write(job).await.unwrap().unwrap();
        self.told().await;
    }

    async fn told(&self) {
        self.store.seal_stored(Vec::new(), self.store.generation());
        self.store.flush().await.unwrap();
    }

    async fn end(self) {
        self.backbone.audit.stop().await.unwrap();
        self.backbone.store.stop().await.unwrap();
    }
}

fn config(dir: &Path, rules: Rules) -> Config {
    let file = dir.join("bearerd.toml");
    let path = |name: &str| dir.join(name).display().to_string();
    let rule = |(uid, allow): (u32, Option<&str>)| {
        allow.map(|allow| format!("[[policy]]\npeer = {{ user = {uid} }}\nallow = [{allow}]\n")).unwrap_or_default()
    };
    let text = format!(
        "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[audit]\nfile = {:?}\nsyslog = \"\"\n[limits]\nissue_per_uid = \"9999/1m\"\n{}",
        path("state/tokens.redb"),
        path("key/master.key"),
        path("log/audit.log"),
        [ALICE, BOB].into_iter().zip(rules).map(rule).collect::<String>(),
    );
    std::fs::write(&file, text).unwrap();
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Config::load(&Paths::system(uid, gid), Some(&file)).unwrap()
}

async fn answer(stream: &mut Streamed) -> Result<Events, Failure> {
    let next = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("an answer in time");
    match next.expect("the stream goes on") {
        Answer::Events(events) => Ok(events),
        Answer::Error(failure) => Err(failure),
        _ => panic!("another answer"),
    }
}

/// What an answer says: name and number of each event.
fn said(events: &Events) -> Vec<(String, u64)> {
    let line = |json: &str| serde_json::from_str::<Value>(json).unwrap()["event"].as_str().unwrap().to_owned();
    events.events.iter().map(|event| (line(&event.json), event.seq)).collect()
}

fn named(name: &str, numbers: impl IntoIterator<Item = u64>) -> Vec<(String, u64)> {
    numbers.into_iter().map(|number| (name.to_owned(), number)).collect()
}

#[tokio::test]
async fn the_first_answer_says_where_the_stream_begins() {
    let bench = Bench::new(100, BOTH);
    for (since, through) in [(None, 0), (Some(0), 0)] {
        let first = answer(&mut bench.watch(ALICE, since).unwrap()).await.unwrap();
        assert_eq!((first.events.len(), first.through, first.last), (0, through, false));
    }
    bench.changes(7).await;
    let first = answer(&mut bench.watch(ALICE, None).unwrap()).await.unwrap();
    assert_eq!((first.events.len(), first.through), (0, 7));
    let mut stream = bench.watch(ALICE, Some(5)).unwrap();
    assert_eq!(said(&answer(&mut stream).await.unwrap()), named("rekey", 6..=7));
    // Then nothing, until there is something.
    assert!(stream.next().now_or_never().is_none());
    bench.changes(1).await;
    assert_eq!(said(&answer(&mut stream).await.unwrap()), named("rekey", [8]));
    bench.end().await;
}

/// What comes while nobody asks lies in the journal and nowhere else; what falls out of it is a gap, and the end.
#[tokio::test]
async fn who_falls_out_of_the_journal_is_cut_off_with_a_gap() {
    let bench = Bench::new(10, BOTH);
    let mut slow = bench.watch(ALICE, None).unwrap();
    answer(&mut slow).await.unwrap();
    bench.changes(10).await;
    assert_eq!(said(&answer(&mut slow).await.unwrap()), named("rekey", 1..=10));
    bench.changes(25).await;
    let cut = answer(&mut slow).await.unwrap();
    assert_eq!((said(&cut), cut.through, cut.last), (named("gap", [25]), 25, true));
    let line: Value = serde_json::from_str(&cut.events[0].json).unwrap();
    assert_eq!(line["missing"], serde_json::json!({"from": 11, "to": 25}));
    assert!(slow.next().await.is_none());
    // From there on all is there; from before, a gap goes first and the stream goes on.
    for (since, begins) in [(25, vec![]), (3, named("gap", [25]))] {
        let first = answer(&mut bench.watch(ALICE, Some(since)).unwrap()).await.unwrap();
        assert_eq!((said(&first), first.last), ([begins, named("rekey", 26..=35)].concat(), false));
    }
    // A number that was never given: nobody can say what is missing.
    let mut future = bench.watch(ALICE, Some(36)).unwrap();
    assert_eq!(said(&answer(&mut future).await.unwrap()), named("gap", [25]));
    assert_eq!(said(&answer(&mut future).await.unwrap()), named("rekey", 26..=35));
    bench.end().await;
}

/// The stored uid and name decide, and what is about no token, or about one that is gone, is nobody's own.
#[tokio::test]
async fn who_may_watch_its_own_sees_its_own_only() {
    let bench = Bench::new(100_000, BOTH);
    let (mut all, mut own) = (bench.watch(ALICE, None).unwrap(), bench.watch(BOB, None).unwrap());
    answer(&mut all).await.unwrap();
    answer(&mut own).await.unwrap();
    bench.issue(ALICE).await;
    bench.changes(1).await;
    let mine = bench.issue(BOB).await;
    bench.issue(ALICE).await;
    let seen = answer(&mut own).await.unwrap();
    assert_eq!(said(&seen), named("issue", [3]));
    assert!(seen.events[0].json.contains(&mine));
    let mut everything = Vec::new();
    while everything.len() < 4 {
        everything.extend(said(&answer(&mut all).await.unwrap()));
    }
    assert_eq!(everything.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [1, 2, 3, 4]);
    // Others' changes are not told, not even that there are some; after very many, only how far they go.
    bench.changes(1000).await;
    assert!(tokio::time::timeout(Duration::from_millis(200), own.next()).await.is_err());
    bench.changes(4000).await;
    let progress = answer(&mut own).await.unwrap();
    assert!(progress.events.is_empty() && progress.through >= 4096, "{progress:?}");
    // A token that is gone.
    let id = mine.parse().unwrap();
    bench.store.write(move |txn: &mut Txn<'_>| txn.remove(id)).await.unwrap().unwrap();
    let again = answer(&mut bench.watch(BOB, Some(0)).unwrap()).await.unwrap();
    assert!(again.events.is_empty());
    bench.end().await;
}

/// A reload counts for streams that are open, at once, whether or not anything happens.
#[tokio::test]
async fn a_right_that_is_taken_ends_the_stream() {
    let bench = Bench::new(100, [Some("\"issue\", \"watch\""), None]);
    assert_eq!(bench.watch(BOB, None).err().unwrap().code, ErrorCode::NotPermitted);
    let mut stream = bench.watch(ALICE, None).unwrap();
    answer(&mut stream).await.unwrap();
    // A reload that leaves it does nothing.
    bench.service.reload(bench.settings([Some("\"issue\", \"watch\""), Some("\"watch\"")]));
    assert!(stream.next().now_or_never().is_none());
    let mut other = bench.watch(BOB, None).unwrap();
    answer(&mut other).await.unwrap();
    bench.changes(1).await;
    assert_eq!(said(&answer(&mut stream).await.unwrap()), named("rekey", [1]));
    // What happened before the reload and was not sent before it is not sent after it.
    bench.changes(1).await;
    bench.service.reload(bench.settings([Some("\"issue\", \"watch:own\""), None]));
    assert_eq!(answer(&mut other).await.unwrap_err().code, ErrorCode::NotPermitted);
    assert!(other.next().await.is_none());
    // Narrowed to its own: nothing of what is not.
    bench.issue(ALICE).await;
    let seen = answer(&mut stream).await.unwrap();
    assert_eq!(said(&seen), named("issue", [3]));
    bench.end().await;
}

#[tokio::test]
async fn a_stop_ends_streams() {
    let bench = Bench::new(100, BOTH);
    let mut stream = bench.watch(ALICE, None).unwrap();
    answer(&mut stream).await.unwrap();
    bench.service.stop();
    assert_eq!(answer(&mut stream).await.unwrap_err().code, ErrorCode::Stopping);
    assert!(stream.next().await.is_none());
    assert_eq!(bench.watch(ALICE, None).err().unwrap().code, ErrorCode::Stopping);
    bench.end().await;
}

#[tokio::test]
async fn a_long_way_back_comes_in_short_answers() {
    let bench = Bench::new(100_000, BOTH);
    bench.changes(3000).await;
    let mut stream = bench.watch(ALICE, Some(0)).unwrap();
    let (mut seen, mut answers) = (0, 0);
    while seen < 3000 {
        let events = answer(&mut stream).await.unwrap();
        let bytes: usize = events.events.iter().map(|event| event.json.len()).sum();
        assert!(bytes < 64 * 1024, "{bytes}");
        assert_eq!(said(&events), named("rekey", seen + 1..=events.through));
        (seen, answers) = (events.through, answers + 1);
    }
    assert!(answers > 10, "{answers}");
    bench.end().await;
}
