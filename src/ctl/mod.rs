//! bearerctl: the command line that people and scripts use. It speaks to the daemon through the client, and to nothing
//! else.
//!
//! Invariant I3: a token comes in from standard input or a file only (`input`), what looks like one among the arguments
//! is refused unseen (`leak`), and it goes out once, alone, on standard output (`commands::hand_over`). JSON and exit
//! statuses are a contract: `docs/json.md`.

#![forbid(unsafe_code)]

pub mod args;
mod commands;
pub mod console;
mod daemon;
mod entry;
pub mod error;
pub(crate) mod input;
mod leak;
mod lines;
pub mod render;
mod scan;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{AuditCommand, Cli, ClockCommand, Command};
use console::Console;
use daemon::{Daemon, Patience};
use error::CtlError;
use render::many::Verb;

/// How a command gets to the daemon: when it needs it, not before it has read a token.
type Connect<'a> = &'a dyn Fn(Patience) -> Result<Box<dyn Daemon>, CtlError>;
/// The same, with the socket that was asked for.
type ConnectTo<'a> = &'a dyn Fn(Option<&Path>, Patience) -> Result<Box<dyn Daemon>, CtlError>;

/// Runs the command that the arguments of this process ask for.
pub fn main() -> ExitCode {
    let mut console = Console::of_process();
    ExitCode::from(run(std::env::args_os().collect(), &mut console, &daemon::connect))
}

/// Runs one command; the exit status is its result, what went wrong has been said.
fn run(args: Vec<OsString>, console: &mut Console, connect: ConnectTo<'_>) -> u8 {
    // Before clap, which would say so: how an error looks must not depend on which it is.
    console.json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    let result = if leak::in_arguments(&args) {
        Err(CtlError::TokenInArguments)
    } else {
        match Cli::try_parse_from(args) {
            Ok(cli) => dispatch(cli, console, connect),
            Err(error) => refuse(error, console),
        }
    };
    result.unwrap_or_else(|error| {
        console.fail(&error);
        error.status()
    })
}

fn dispatch(cli: Cli, console: &mut Console, connect: ConnectTo<'_>) -> Result<u8, CtlError> {
    console.json = cli.globals.json;
    console.quiet = cli.globals.quiet;
    // An empty BEARERD_SOCKET is as good as none.
    let socket = cli.globals.socket.filter(|path| !path.as_os_str().is_empty());
    let connect = |patience| connect(socket.as_deref(), patience);
    match cli.command {
        Command::Issue(args) => commands::issue::run(*args, &connect, console),
        Command::Validate(args) => commands::validate::run(&args, &connect, console),
        Command::Show(args) => commands::show::run(args, &connect, console),
        Command::List(args) => commands::list::run(&args, &connect, console),
        Command::Edit(args) => commands::edit::run(*args, &connect, console),
        Command::Renew(args) => commands::renew::run(&args, &connect, console),
        Command::Rotate(args) => commands::rotate::run(args, &connect, console),
        Command::Revoke(args) => commands::revoke::run(*args, &connect, console),
        Command::Suspend(args) => commands::hold::run(*args, Verb::Suspend, &connect, console),
        Command::Resume(args) => commands::hold::run(*args, Verb::Resume, &connect, console),
        Command::Audit(args) => match args.command {
            None => commands::audit::run(*args, &connect, console),
            Some(AuditCommand::Verify) => commands::verify::run(&connect, console),
        },
        Command::Watch(args) => commands::watch::run(&args, &connect, console),
        Command::Backup(args) => commands::backup::run(&args, &connect, console),
        Command::Status => commands::status::run(&connect, console),
        Command::Clock { command: ClockCommand::Reset } => commands::clock::reset(&connect, console),
        Command::Scan(args) => scan::run(args, &connect, console),
        Command::Rekey(args) => commands::rekey::run(args, &connect, console),
        Command::RecoveryKey => commands::rekey::recovery_key(&connect, console),
        Command::Import(args) => commands::import::run(*args, &connect, console),
        Command::Completions { shell } => commands::completions::run(shell, console),
    }
}

/// Help and version are results; the rest of what clap refuses is a usage error in one line.
fn refuse(mut error: clap::Error, console: &mut Console) -> Result<u8, CtlError> {
    leak::mask(&mut error);
    let rendered = |colour: bool| {
        let text = error.render();
        if colour { text.ansi().to_string() } else { text.to_string() }
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            console.plain(&rendered(console.colour))?;
            Ok(error::OK)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            console.say(&rendered(console.colour_err));
            Ok(error::USAGE)
        }
        _ => Err(CtlError::Usage(in_one_line(&rendered(false)))),
    }
}

/// clap's message, its tips, and where help is, without the usage between.
fn in_one_line(rendered: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for paragraph in rendered.split("\n\n") {
        let words = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(message) = words.strip_prefix("error: ") {
            parts.push(message.to_owned());
        } else if let Some(tip) = words.strip_prefix("tip: ") {
            parts.push(tip.to_owned());
        } else if let Some((_, help)) = words.split_once("try '") {
            parts.push(format!("see '{help}").trim_end_matches('.').to_owned());
        }
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests;
