//! The command line.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use bearerd::client::default_socket;

pub const USAGE: &str = "usage: validate-service [--bearerd SOCKET] [--scope SCOPE]... --listen SOCKET
       validate-service [--bearerd SOCKET] [--scope SCOPE]... --load SECONDS --token FILE [--threads N]";

/// What to do, and for whom.
pub struct Args {
    pub bearerd: PathBuf,
    /// Which each token must have.
    pub scopes: Vec<String>,
    pub task: Task,
}

pub enum Task {
    /// Serve here.
    Listen(PathBuf),
    /// Check the token in this file again and again.
    Load { token: PathBuf, time: Duration, threads: usize },
}

impl Args {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut bearerd, mut scopes, mut listen, mut load, mut token) = (None, Vec::new(), None, None, None);
        let mut threads = thread::available_parallelism().map_or(1, usize::from);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--bearerd" => bearerd = Some(value()?.into()),
                "--scope" => scopes.push(value()?),
                "--listen" => listen = Some(value()?.into()),
                "--load" => load = Some(seconds(&value()?)?),
                "--token" => token = Some(value()?.into()),
                "--threads" => threads = value()?.parse().map_err(|error| format!("--threads: {error}"))?,
                _ => return Err(format!("{word} is not an argument of this program")),
            }
        }
        let task = match (listen, load, token) {
            (Some(socket), None, None) => Task::Listen(socket),
            (None, Some(time), Some(token)) => Task::Load { token, time, threads },
            _ => return Err("it is either --listen, or --load with --token".to_owned()),
        };
        Ok(Self { bearerd: bearerd.unwrap_or_else(default_socket), scopes, task })
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let secs = text.parse().map_err(|error| format!("--load: {error}"))?;
    Duration::try_from_secs_f64(secs).map_err(|error| format!("--load: {error}"))
}
