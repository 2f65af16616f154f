//! How much is done, from the command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to say about the arguments.
pub const USAGE: &str = "cargo bench --bench peers -- [--quick] [--rounds N] [--seconds S] [--only LOAD] [--scale N,N,N] [--bearerd PROGRAM]
                             [--json FILE] [--charts DIR]
cargo bench --bench peers -- --draw FILE [--charts DIR]
  --quick    some seconds, to see that it works; its figures mean nothing
  --rounds   of each load on each side (5)
  --seconds  of each round (1)
  --only     loads whose name begins so: warm, full, hot, pipelined, batch, durable, scale, cached
  --scale    numbers of tokens (10000,1000000,10000000: it wants 30 GB free below target/); 0 = none
  --bearerd  another build of the daemon than the one that cargo just made
  --json     where the figures go (target/bench/peers.json)
  --charts   where charts go (target/bench/; for docs/performance.md: docs/img)
  --draw     only prints and draws what an earlier run wrote";

/// How much is done.
pub struct Plan {
    pub rounds: usize,
    pub time: Duration,
    pub warm_up: Duration,
    /// Tokens of the full load.
    pub tokens: usize,
    /// Different requests of the full load.
    pub questions: usize,
    pub batches: usize,
    /// Tokens that are revoked while another process's cache is looked at.
    pub revocations: usize,
    pub scale: Vec<usize>,
    /// Starts of each kind at each scale.
    pub starts: usize,
    pub quick: bool,
    pub only: Option<String>,
    pub program: PathBuf,
    pub json: PathBuf,
    pub charts: PathBuf,
    /// Figures to draw instead of measuring.
    pub draw: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Self {
            rounds: 5,
            time: Duration::from_secs(1),
            warm_up: Duration::from_millis(300),
            tokens: 10_000,
            questions: 65_536,
            batches: 512,
            revocations: 2000,
            scale: vec![10_000, 1_000_000, 10_000_000],
            starts: 5,
            quick: false,
            only: None,
            program: PathBuf::from(env!("CARGO_BIN_EXE_bearerd")),
            json: target.join("bench/peers.json"),
            charts: target.join("bench"),
            draw: None,
        }
    }
}

impl Plan {
    /// Enough to see that it works.
    fn quick() -> Self {
        Self {
            rounds: 1,
            time: Duration::from_millis(100),
            warm_up: Duration::from_millis(20),
            tokens: 500,
            questions: 2048,
            batches: 16,
            revocations: 50,
            scale: vec![1000, 5000],
            starts: 1,
            quick: true,
            ..Self::default()
        }
    }

    /// The problem is empty when only help was asked for.
    pub fn from(arguments: &[String]) -> Result<Self, String> {
        let quick = arguments.iter().any(|argument| argument == "--quick");
        let mut plan = if quick { Self::quick() } else { Self::default() };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--bench" | "--quick" => {}
                "--rounds" => plan.rounds = number(value()?)?,
                "--seconds" => {
                    plan.time = Duration::try_from_secs_f64(number(value()?)?).map_err(|it| it.to_string())?;
                }
                "--only" => plan.only = Some(value()?.clone()),
                "--scale" => plan.scale = value()?.split(',').map(number).collect::<Result<_, _>>()?,
                "--bearerd" => plan.program = PathBuf::from(value()?),
                "--json" => plan.json = PathBuf::from(value()?),
                "--charts" => plan.charts = PathBuf::from(value()?),
                "--draw" => plan.draw = Some(PathBuf::from(value()?)),
                "--help" => return Err(String::new()),
                _ => return Err(format!("{argument:?} is not an argument of this program")),
            }
        }
        if plan.rounds == 0 || plan.time.is_zero() {
            return Err("nothing can be measured in no time".to_owned());
        }
        plan.scale.retain(|&count| count > 0);
        plan.scale.sort_unstable();
        plan.scale.dedup();
        Ok(plan)
    }

    /// Whether this load is to be measured.
    pub fn wants(&self, load: &str) -> bool {
        self.only.as_ref().is_none_or(|only| load.starts_with(only.as_str()))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}
