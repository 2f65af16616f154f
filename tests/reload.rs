//! New settings count for the next request of a connection that is open: rights that are taken are gone, rights that are
//! given are there. In one process, so that the peer can be any user.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bearerd::config::{Config, Paths};
use bearerd::daemon::{open, reload};
use bearerd::page::Takeover;
use bearerd::peer::Peer;
use bearerd::policy::{Own, Standing, SystemNames};
use bearerd::protocol::code::ErrorCode;
use bearerd::protocol::message::{Answer, Ask, Validate};
use bearerd::service::{Caller, Connections, Now, Parts, Places, Service, Settings};
use bearerd::time::UnixTime;
use bearerd::time::manual::ManualTime;

/// A user who is neither root nor who runs the tests.
const STRANGER: u32 = 4_200_000;

fn config(dir: &Path, allow: bool) -> Config {
    let file = dir.join("bearerd.toml");
    let path = |name: &str| dir.join(name).display().to_string();
    let rule = format!("[[policy]]\nname = \"r\"\npeer = {{ user = {STRANGER} }}\nallow = [\"validate\"]\n");
    std::fs::write(
        &file,
        format!(
            "[store]\npath = {:?}\n[keys]\nfile = {:?}\n[audit]\nfile = {:?}\nsyslog = \"\"\n{}",
            path("state/tokens.redb"),
            path("key/master.key"),
            path("log/audit.log"),
            if allow { rule.as_str() } else { "" },
        ),
    )
    .unwrap();
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    Config::load(&Paths::system(uid, gid), Some(&file)).unwrap()
}

/// Whether the peer may ask about a token, by every way that asks policy.
async fn may_validate(service: &Arc<Service>, caller: &Arc<Caller>) -> bool {
    let ask = || Validate { token: "none", scopes: Vec::new(), audience: None, from: None, note: None, peek: false };
    let mut allowed = Vec::new();
    for ask in [Ask::Validate(ask()), Ask::ValidateBatch(vec![ask(), ask()])] {
        let answer = match service.answer(caller, &ask) {
            Now::Ready(answer) => answer,
            Now::Later(answer) => answer.await,
            Now::Stream(_) => panic!("a stream"),
        };
        allowed.push(match answer {
            Answer::Verdict(verdict) => !verdict.active,
            Answer::Verdicts(verdicts) => verdicts.len() == 2,
            Answer::Error(failure) => {
                assert_eq!(failure.code, ErrorCode::NotPermitted, "{failure}");
                false
            }
            _ => panic!("neither a verdict nor an error"),
        });
    }
    allowed.push(!caller.standing(&service.settings()).ruleless());
    allowed.push(!caller.standing_is(service, Standing::ruleless));
    assert!(allowed.iter().all(|it| *it == allowed[0]), "one way has other settings than another: {allowed:?}");
    allowed[0]
}

#[tokio::test]
async fn a_reload_counts_at_the_next_request_of_an_open_connection() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let own = Own { uid: nix::unistd::geteuid().as_raw(), container: None, cgroups: false };
    let settings = |allow| -> Settings { reload::resolve(&config(dir.path(), allow), &own) };
    let first = settings(false);
    let hands = ManualTime::new(UnixTime::from_secs(1_800_000_000));
    let backbone = open::open(&config(dir.path(), false), None, Box::new(hands)).unwrap();
    let service = Service::new(Parts {
        store: backbone.store.clone(),
        keyring: backbone.keyring,
        audit: backbone.audit.clone(),
        clock: Arc::clone(&backbone.clock),
        names: Arc::new(SystemNames),
        settings: first,
        page: None,
        takeover: Takeover::begin(backbone.clock, true),
        places: Places::default(),
        connections: Box::new(Connections::default),
    });
    let peer =
        Peer { pid: 1, uid: STRANGER, gid: STRANGER, groups: Box::default(), unit: None, container: None, tcp: false };
    let caller = service.admit(peer);
    assert!(!may_validate(&service, &caller).await);
    service.reload(settings(true));
    assert!(may_validate(&service, &caller).await);
    assert!(may_validate(&service, &caller).await);
    service.reload(settings(false));
    assert!(!may_validate(&service, &caller).await);
    backbone.audit.stop().await.unwrap();
    backbone.store.stop().await.unwrap();
}
