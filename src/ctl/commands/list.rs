//! `bearerctl list`: page by page, so that a million tokens need no more memory than a thousand; unless they are to be
//! sorted, see `sorted`.

use super::sorted::Sorted;
use crate::ctl::args::{ListArgs, Sort};
use crate::ctl::console::Console;
use crate::ctl::daemon::{Daemon, Patience};
use crate::ctl::error::{self, CtlError};
use crate::ctl::{Connect, render};
use crate::protocol::PAGE_MAX;
use crate::protocol::filter::Filter;
use crate::protocol::message::{List, TokenInfo, Tokens};
use crate::token::TokenId;

pub(in crate::ctl) fn run(args: &ListArgs, connect: Connect<'_>, console: &mut Console) -> Result<u8, CtlError> {
    let mut daemon = connect(Patience::Usual)?;
    let filter = super::filter(&args.filter, &mut *daemon)?;
    let mut shown = Shown::default();
    let next = match args.sort.or(args.reverse.then_some(Sort::Issued)) {
        Some(sort) => {
            let mut sorted = Sorted::new(sort, args.reverse, args.limit);
            pages(&mut *daemon, filter, None, u64::MAX, |page| {
                sorted.add(page.tokens);
                Ok(true)
            })?;
            for tokens in sorted.end().chunks(PAGE_MAX) {
                shown.page(tokens, console)?;
            }
            None
        }
        None => pages(&mut *daemon, filter, args.after, args.limit.unwrap_or(u64::MAX), |page| {
            shown.page(&page.tokens, console)?;
            Ok(!console.deserted)
        })?,
    };
    if console.json {
        console.plain(&shown.listing.end(next))?;
    } else if let Some(next) = next.filter(|_| !console.deserted) {
        console.note(&render::token::more(next));
    } else if shown.count == 0 {
        console.note("No tokens.\n");
    }
    Ok(error::OK)
}

/// Asks for page after page until there are no more, `left` tokens have come, or `take` wants none; gives where another
/// list would go on.
fn pages(
    daemon: &mut dyn Daemon,
    filter: Filter,
    mut after: Option<TokenId>,
    mut left: u64,
    mut take: impl FnMut(Tokens) -> Result<bool, CtlError>,
) -> Result<Option<TokenId>, CtlError> {
    loop {
        let limit = u32::try_from(left.min(PAGE_MAX as u64)).expect("a page is far smaller");
        let page = daemon.list(&List { filter: filter.clone(), limit, after })?;
        left = left.saturating_sub(page.tokens.len() as u64);
        let next = page.next;
        // A page may be empty although more follow: the daemon bounds how many tokens it looks at for one.
        if !take(page)? || next.is_none() || left == 0 {
            return Ok(next);
        }
        if next <= after {
            return Err(CtlError::Protocol("the daemon's pages do not go on; ask its administrator".to_owned()));
        }
        after = next;
    }
}

/// What has been printed.
#[derive(Default)]
struct Shown {
    count: usize,
    listing: render::json::Listing,
}

impl Shown {
    fn page(&mut self, tokens: &[TokenInfo], console: &mut Console) -> Result<(), CtlError> {
        if console.json {
            console.plain(&self.listing.page(tokens))?;
        } else if !tokens.is_empty() {
            let table = render::token::list(tokens, console.now, console.width);
            console.print(&if self.count > 0 { format!("\n{table}") } else { table })?;
        }
        self.count += tokens.len();
        Ok(())
    }
}
