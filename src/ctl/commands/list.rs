//! `bearerctl list`: page by page, so that a million tokens need no more memory than a thousand.

use crate::ctl::args::ListArgs;
use crate::ctl::console::Console;
use crate::ctl::daemon::Patience;
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, render};
use crate::protocol::PAGE_MAX;
use crate::protocol::message::List;

pub(in crate::ctl) fn run(args: &ListArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let mut daemon = connect(Patience::Usual)?;
    let filter = super::filter(&args.filter, &mut *daemon)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut after = args.after;
    let mut shown = 0u64;
    let mut listing = render::json::Listing::default();
    let next = loop {
        let limit = u32::try_from(left.min(PAGE_MAX as u64)).expect("a page is far smaller");
        let page = daemon.list(&List { filter: filter.clone(), limit, after })?;
        let tokens = page.tokens.len() as u64;
        if console.json {
            console.plain(&listing.page(&page.tokens))?;
        } else if tokens > 0 {
            let table = render::token::list(&page.tokens, console.now, console.width);
            console.print(&if shown > 0 { format!("\n{table}") } else { table })?;
        }
        shown += tokens;
        left = left.saturating_sub(tokens);
        // A page may be empty although more follow: the daemon bounds how many tokens it looks at for one.
        if page.next.is_none() || left == 0 || console.deserted {
            break page.next;
        }
        if page.next <= after {
            return Err(CtlError::Protocol("the daemon's pages do not go on; ask its administrator".to_owned()));
        }
        after = page.next;
    };
    if console.json {
        console.plain(&listing.end(next))?;
    } else if let Some(next) = next.filter(|_| !console.deserted) {
        console.note(&render::token::more(next));
    } else if shown == 0 {
        console.note("No tokens.\n");
    }
    Ok(error::OK)
}
