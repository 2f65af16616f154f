//! What is done to the log's file while others write to it: fdatasync, and room allocated ahead.
//!
//! Invariant: one errand at a time, on the handle that it was given with; its end is told to the [`super::keeper::Keeper`],
//! which alone draws conclusions. A disk that hangs here shows as hanging, like one that hangs in a write.

use std::io;
use std::sync::{Arc, mpsc};

use crate::audit::file::{LogFile, Space};
use crate::audit::shared::Shared;

/// Something to be done.
pub(super) enum Errand {
    /// Looks at the space, and syncs if there is anything to sync.
    Sync { log: Arc<dyn LogFile>, sync: bool },
    /// Allocates.
    Reserve { log: Arc<dyn LogFile>, from: u64, to: u64 },
}

/// How it ended.
pub(in crate::audit) enum Ended {
    Synced(io::Result<()>, io::Result<Space>),
    Reserved(io::Result<()>),
}

/// The thread that does it. It ends with this.
pub(super) struct Disk(mpsc::Sender<Errand>);

impl Disk {
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let (errands, given) = mpsc::channel::<Errand>();
        let shared = Arc::clone(shared);
        std::thread::Builder::new().name("audit-disk".to_owned()).spawn(move || {
            for errand in given {
                let ended = {
                    let _busy = shared.disk_busy();
                    run(errand)
                };
                shared.ended(ended);
            }
        })?;
        Ok(Self(errands))
    }

    pub(super) fn send(&self, errand: Errand) {
        self.0.send(errand).expect("the thread ends after this");
    }
}

fn run(errand: Errand) -> Ended {
    match errand {
        Errand::Sync { log, sync } => {
            let space = log.space();
            Ended::Synced(if sync { log.sync() } else { Ok(()) }, space)
        }
        Errand::Reserve { log, from, to } => Ended::Reserved(log.reserve(from, to - from)),
    }
}
