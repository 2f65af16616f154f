//! From READY to the last seal: the event loop, its signals, reload, and the stop that mirrors the start.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::exit::Failure;
use super::heart::Heart;
use super::open::{Backbone, Listener};
use super::reload;
use crate::audit::{Audit, AuditEvent, EventKind};
use crate::config::{Config, Paths};
use crate::policy::{Own, SystemNames, identify};
use crate::server::{self, Counters, ServerLimits, Workers};
use crate::service::{Connections, KeyPlaces, Parts, Places, Service, Sweeper};
use crate::store::Store;
use crate::systemd::{Notifier, credentials_directory, watchdog_interval};
use crate::time::Clock;

/// How often names of the policy that did not resolve are tried again.
const RETRY: Duration = Duration::from_secs(60);
/// Threads that serve connections, at most: beyond, they would mostly wait for the one writer and the one log.
const SERVING_THREADS_MAX: usize = 64;
/// Threads of each event loop for what may wait for a disk or a name service.
const BLOCKING_THREADS: usize = 32;

/// What a daemon serves with.
pub struct Start {
    /// Where things are by default.
    pub paths: Paths,
    /// What was configured.
    pub config: Config,
    /// Where, if it was said.
    pub file: Option<PathBuf>,
    /// What the daemon itself is.
    pub own: Own,
    /// What it stands on.
    pub backbone: Backbone,
    /// Where peers come in.
    pub listener: Listener,
    /// Whom it tells how it is.
    pub notifier: Notifier,
}

/// What the loop holds while it runs.
struct Running {
    paths: Paths,
    config: Config,
    file: Option<PathBuf>,
    own: Own,
    service: Arc<Service>,
    store: Store,
    audit: Audit,
    clock: Arc<Clock>,
    notifier: Arc<Notifier>,
    remarks: Vec<String>,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// [`Failure::Fatal`] when the store has stopped for good; [`Failure::Runtime`] when threads can't be started.
pub fn run(start: Start) -> Result<(), Failure> {
    // As many loops for connections as there are processors; this one accepts them and does what is due by time.
    let count = std::thread::available_parallelism().map_or(1, |count| count.get().min(SERVING_THREADS_MAX));
    let workers = Arc::new(Workers::start(count, BLOCKING_THREADS).map_err(Failure::Runtime)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name("bearerd")
        .build()
        .map_err(Failure::Runtime)?;
    let done = runtime.block_on(serve(start, Arc::clone(&workers)));
    // A name service that hangs holds its thread; the process does not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    done
}

async fn serve(start: Start, workers: Arc<Workers>) -> Result<(), Failure> {
    let Start { paths, config, file, own, backbone, listener, notifier } = start;
    // Before READY: a signal that comes with it must not end us the hard way.
    let signals = Signals::catch().map_err(Failure::Runtime)?;
    let counters = Arc::new(Counters::default());
    let mut settings = reload::resolve(&config, &own);
    settings.warnings.extend(backbone.remarks.iter().cloned());
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let counted = Arc::clone(&counters);
    let service = Service::new(Parts {
        store: backbone.store.clone(),
        keyring: backbone.keyring,
        audit: backbone.audit.clone(),
        clock: Arc::clone(&backbone.clock),
        names: Arc::new(SystemNames),
        settings,
        places: places(&config),
        page: Some(Arc::clone(&backbone.page)),
        takeover: backbone.takeover,
        connections: Box::new(move || Connections {
            now: counted.connections.load(Ordering::Relaxed) as u64,
            refused: counted.refused.load(Ordering::Relaxed),
            watching: counted.streams.load(Ordering::Relaxed) as u64,
        }),
    });
    // Before anybody is served: a change of keys that was cut off is finished first.
    service.settle_keys().await;
    let limits = ServerLimits {
        max_connections: config.socket.max_connections as usize,
        max_connections_per_uid: config.socket.max_connections_per_uid as usize,
        fds_refused_by_kernel: listener.fds_refused_by_kernel,
        ..ServerLimits::default()
    };
    let socket = tokio::net::UnixListener::from_std(listener.socket).map_err(Failure::Runtime)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let whoami = own.clone();
    let server = tokio::spawn({
        let (workers, service) = (Arc::clone(&workers), Arc::clone(&service));
        let whois = move |stream: &UnixStream| identify(std::os::fd::AsFd::as_fd(stream), &whoami);
        // A sender that is gone ends the server too.
        let shutdown = async move {
            let _ = stopped.await;
        };
        async move { server::run_on(&workers, socket, whois, service, limits, counters, shutdown).await }
    });
    let heart =
        Heart::start(backbone.page, Arc::clone(&backbone.clock), backbone.audit.clone()).map_err(Failure::Runtime)?;
    let notifier = Arc::new(notifier);
    if let Some(every) = watchdog_interval() {
        tokio::spawn(feed_watchdog(Arc::clone(&notifier), Arc::clone(&workers), every));
    }
    let mut running = Running {
        paths,
        config,
        file,
        own,
        service,
        store: backbone.store,
        audit: backbone.audit,
        clock: backbone.clock,
        notifier,
        remarks: backbone.remarks,
    };
    running.note(EventKind::Start, "done", Some(format!("bearerd {}", env!("CARGO_PKG_VERSION"))));
    running.notifier.ready("serving");
    tracing::info!("serving on {}", running.config.socket.path.display());
    let applying = tokio::spawn(Arc::clone(&running.service).apply_orders());
    let sweeper = tokio::spawn(Sweeper::new(Arc::clone(&running.service)).run());
    let ended = running.until_stopped(signals).await;
    running.notifier.stopping();
    // Before anything of this daemon ends: no cache outlives what it rests on.
    heart.stop();
    running.service.stop();
    let _ = stop.send(());
    let _ = server.await;
    let _ = applying.await;
    let _ = sweeper.await;
    running.service.settle_alerts().await;
    running.end(ended).await
}

impl Running {
    /// Reloads, retries and waits, until a signal or a fault ends it.
    async fn until_stopped(&mut self, mut signals: Signals) -> Result<(), Failure> {
        let mut retry = interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        retry.tick().await;
        let store = self.store.clone();
        let mut fault = std::pin::pin!(store.fatal());
        let Signals { terminate, interrupt, hangup } = &mut signals;
        let mut ended = std::pin::pin!(async {
            tokio::select! {
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
                fault = &mut fault => Err(Failure::Fatal(fault)),
            }
        });
        loop {
            let reloads = tokio::select! {
                ended = &mut ended => return ended,
                _ = hangup.recv() => true,
                _ = retry.tick() => false,
            };
            let work = async { if reloads { self.reload().await } else { self.retry_names().await } };
            // A name service or a disk that hangs the reload must not keep us from ending.
            tokio::select! {
                ended = &mut ended => return ended,
                () = work => {}
            }
        }
    }

    /// SIGHUP: logs are opened again; the configuration is read again, and stays as it was if the new one is bad.
    async fn reload(&mut self) {
        self.notifier.reloading();
        if let Err(error) = self.audit.reopen().await {
            tracing::error!("the audit log could not be opened again: {error}; the old file still takes lines");
        }
        let (paths, file) = (self.paths.clone(), self.file.clone());
        let read = tokio::task::spawn_blocking(move || reload::read(&paths, file.as_deref())).await;
        match read {
            Ok(Ok(config)) => {
                for key in self.config.needs_restart(&config) {
                    tracing::warn!("{key} has changed: in force after a restart");
                }
                self.config = config;
                self.put_in_force().await;
                self.note(EventKind::Reload, "done", None);
                tracing::info!("the configuration was read again and is in force");
            }
            Ok(Err(failure)) => {
                tracing::error!("the new configuration is not taken, the old one stays in force: {failure}");
                self.note(
                    EventKind::Reload,
                    "denied",
                    Some("the new configuration is bad; the old one stays".to_owned()),
                );
            }
            Err(_) => tracing::error!("the configuration could not be read again; the old one stays in force"),
        }
        // The line is written before the manager hears of it, so that who waits for the one can look at the other.
        let _ = self.audit.barrier().await;
        self.notifier.ready("serving");
    }

    /// Names that no service knew may be known by now.
    async fn retry_names(&mut self) {
        if self.service.settings().policy.is_unresolved() {
            self.put_in_force().await;
        }
    }

    async fn put_in_force(&mut self) {
        let (config, own) = (self.config.clone(), self.own.clone());
        let resolved = tokio::task::spawn_blocking(move || reload::resolve(&config, &own)).await;
        let Ok(mut settings) = resolved else { return };
        settings.warnings.extend(self.remarks.iter().cloned());
        let old = self.service.settings();
        if old.policy != settings.policy {
            self.note(EventKind::Policy, "done", Some(format!("{} rules are in force", self.config.policy.len())));
        }
        for warning in settings.warnings.iter().filter(|warning| !old.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.service.reload(settings);
        self.service.in_force().await;
    }

    fn note(&self, kind: EventKind, outcome: &'static str, note: Option<String>) {
        let mut event = AuditEvent::new(kind, self.clock.now());
        event.outcome = Some(outcome.into());
        event.note = note;
        self.audit.note(event);
    }

    /// The last line, the last seal, the last commit.
    async fn end(self, ended: Result<(), Failure>) -> Result<(), Failure> {
        self.note(EventKind::Stop, if ended.is_ok() { "done" } else { "failed" }, None);
        if let Err(error) = self.audit.stop().await {
            tracing::error!("the audit log's last lines could not be sealed: {error}");
        }
        // An orderly stop lets the next daemon acknowledge at once: not while the last one's caches may count.
        self.service.in_force().await;
        let closed = self.store.stop().await;
        ended?;
        closed.map_err(|source| Failure::Store { path: self.config.store.path.clone(), source })?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The signals that are answered.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// From a task of the event loop, and after each of the others has come round, so that a loop that stands still is found.
async fn feed_watchdog(notifier: Arc<Notifier>, workers: Arc<Workers>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        workers.pulse().await;
        notifier.watchdog();
    }
}

fn places(config: &Config) -> Places {
    Places {
        store: config.store.path.display().to_string(),
        audit: config.audit.file.display().to_string(),
        syslog: config.audit.syslog.as_ref().map(|path| path.display().to_string()),
        key: KeyPlaces {
            file: config.key_file.clone(),
            credentials: credentials_directory(),
            owner_uid: nix::unistd::geteuid().as_raw(),
        },
    }
}
