//! The thread that writes lines, and does nothing else: whoever waits for a line waits for one write.
//!
//! Invariants: it writes only while nothing is amiss; whatever else there is to do is left to the [`super::keeper::Keeper`].
//! No thread that serves peers ever writes to the file: a disk that hangs holds this one, and askers at most `max_wait`.

use std::io;
use std::sync::Arc;
use std::thread;

use crate::audit::shared::{Lent, Shared};
use crate::audit::spin::Spin;

/// Starts it. It ends when the queue is closed.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    shared.flusher_comes();
    thread::Builder::new().name("audit-write".to_owned()).spawn(move || {
        let mut spin = Spin::default();
        while let Lent::Writer(mut writer, jobs) = shared.lend(&mut spin) {
            let left = writer.write_quick(jobs).err();
            shared.give_back(writer, left);
        }
    })?;
    Ok(())
}
