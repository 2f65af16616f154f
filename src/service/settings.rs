//! What the configuration says to the service. Swapped whole at a reload, so that no request sees half of two.

use std::time::Duration;

use crate::config::RotationSettings;
use crate::policy::Policy;
use crate::registry::issue::Rules;
use crate::store::record::Rate;

/// The settings of one load of the configuration.
pub struct Settings {
    /// Who may do what.
    pub policy: Policy,
    /// What new tokens are like.
    pub rules: Rules,
    /// Live tokens that one uid without full rights may have issued.
    pub tokens_per_uid: u64,
    /// Tokens that one uid without full rights may issue in a time.
    pub issue_per_uid: Rate,
    /// How long predecessors stay good, and what the use of a rotated-out token does.
    pub rotation: RotationSettings,
    /// How long before a machine token's expiry it is told of.
    pub warn_before: Vec<Duration>,
    /// How long tokens that have ended are kept.
    pub retention: Duration,
    /// What the administrator should know, for `status`.
    pub warnings: Vec<String>,
}
