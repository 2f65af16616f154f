//! From a configuration to the settings in force: at the start, at SIGHUP, and each minute while a name does not resolve.

use std::path::Path;

use super::exit::Failure;
use crate::config::{Config, Paths};
use crate::policy::{Own, Policy, SystemNames};
use crate::registry::issue::Rules;
use crate::service::Settings;
use crate::store::record::Rate;

/// Settings, and whether a name in them is still unknown.
pub struct Resolved {
    /// To be put in force.
    pub settings: Settings,
    /// What did not resolve; tried again each minute.
    pub unresolved: Vec<String>,
}

/// Resolves a configuration's names. Asks the name services: not from the event loop.
pub fn resolve(config: &Config, own: &Own, generation: u64) -> Resolved {
    let (policy, warnings) = Policy::resolve(&config.policy, &SystemNames, own.clone());
    let unresolved: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let mut warnings: Vec<String> = config.remarks.iter().map(ToString::to_string).collect();
    warnings.extend(unresolved.iter().cloned());
    let rules = Rules {
        prefix: config.tokens.prefix,
        session: config.tokens.session,
        machine: config.tokens.machine,
        profiles: config.profiles.clone(),
    };
    let issue = config.limits.issue_per_uid;
    let settings = Settings {
        generation,
        policy,
        rules,
        tokens_per_uid: config.limits.tokens_per_uid.into(),
        issue_per_uid: Rate { count: issue.count, per: issue.per },
        warnings,
    };
    Resolved { settings, unresolved }
}

/// Reads the configuration again.
///
/// # Errors
/// [`Failure::Config`]: the old one stays in force.
pub fn read(paths: &Paths, file: Option<&Path>) -> Result<Config, Failure> {
    Ok(Config::load(paths, file)?)
}
