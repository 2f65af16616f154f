//! From a configuration to the settings in force: at the start, at SIGHUP, and each minute while a name does not resolve.

use std::path::Path;

use super::exit::Failure;
use crate::config::{Config, Paths};
use crate::policy::{Own, Policy, SystemNames};
use crate::registry::issue::Rules;
use crate::service::Settings;
use crate::store::record::Rate;

/// Resolves a configuration's names. Asks the name services: not from the event loop.
pub fn resolve(config: &Config, own: &Own) -> Settings {
    let (policy, warnings) = Policy::resolve(config, &SystemNames, own.clone());
    let warnings = config.remarks.iter().chain(&warnings).map(ToString::to_string).collect();
    let rules = Rules {
        prefix: config.tokens.prefix,
        session: config.tokens.session,
        machine: config.tokens.machine,
        profiles: config.profiles.clone(),
    };
    let issue = config.limits.issue_per_uid;
    Settings {
        policy,
        rules,
        tokens_per_uid: config.limits.tokens_per_uid.into(),
        issue_per_uid: Rate { count: issue.count, per: issue.per },
        rotation: config.rotation,
        warn_before: config.warnings.clone(),
        retention: config.store.retention,
        warnings,
    }
}

/// Reads the configuration again.
///
/// # Errors
/// [`Failure::Config`]: the old one stays in force.
pub fn read(paths: &Paths, file: Option<&Path>) -> Result<Config, Failure> {
    Ok(Config::load(paths, file)?)
}
