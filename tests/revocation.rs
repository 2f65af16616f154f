//! I2: no request that begins after the reply to a revocation is answered *active*.

mod daemon;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bearerd::protocol::message::{Handle, Revoke, Validate, Which};
use daemon::{Daemon, id_of};

const TOKENS: usize = 200;
const ASKERS: usize = 6;

#[test]
fn after_the_reply_nobody_is_told_active() {
    let daemon = Daemon::start();
    let tokens: Vec<String> = (0..TOKENS).map(|i| daemon.issue(&[&format!("t{i}")])).collect();
    // Index of the first token whose revocation has not been replied to yet.
    let revoked = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let checks = AtomicU64::new(0);
    let refusals = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for asker in 0..ASKERS {
            let (daemon, tokens, revoked, over, checks, refusals) =
                (&daemon, &tokens, &revoked, &over, &checks, &refusals);
            scope.spawn(move || {
                let mut client = daemon.client();
                let mut turn = asker;
                while !over.load(Ordering::Acquire) {
                    // What was replied to before this request begins must be refused by it.
                    let gone = revoked.load(Ordering::Acquire) as usize;
                    // Around the edge, where a stale copy would show.
                    let at = (gone.saturating_sub(3) + turn % 7).min(TOKENS - 1);
                    turn += 1;
                    let ask = Validate {
                        token: &tokens[at],
                        scopes: Vec::new(),
                        audience: None,
                        from: None,
                        note: None,
                        peek: false,
                    };
                    let verdict = client.validate(&ask).unwrap();
                    assert!(
                        !(verdict.active && at < gone),
                        "token {at} is active after its revocation was acknowledged"
                    );
                    checks.fetch_add(1, Ordering::Relaxed);
                    refusals.fetch_add(u64::from(at < gone), Ordering::Relaxed);
                }
            });
        }
        let mut client = daemon.client();
        for (i, token) in tokens.iter().enumerate() {
            let which = if i % 2 == 0 { Which::Handles(vec![Handle(id_of(token))]) } else { Which::Token(token) };
            let changed = client.revoke(&Revoke { which, reason: None, dry_run: false }).unwrap();
            assert_eq!(changed.count, 1);
            revoked.store(i as u64 + 1, Ordering::Release);
        }
        // The askers have seen the last edge too before they stop.
        let seen = checks.load(Ordering::Acquire);
        let begun = std::time::Instant::now();
        while checks.load(Ordering::Acquire) < seen + 100 && begun.elapsed() < daemon::PATIENCE {
            std::thread::yield_now();
        }
        over.store(true, Ordering::Release);
    });
    assert!(refusals.load(Ordering::Relaxed) > 500, "too few checks after a reply to mean anything");
}
