//! issue: from what was asked to a record, by the rules of the configuration.
//!
//! In two steps, because policy stands between them: [`plan`] checks the request and fills in defaults, then policy
//! decides about the plan, then [`Plan::record`] makes the record inside the transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::{Invalid, check_text, parse_network};
use crate::config::{Lives, Profile};
use crate::protocol::message;
use crate::protocol::{AUDIENCES_MAX, BINDINGS_MAX, LABEL_KEY_MAX, LABEL_VALUE_MAX, LABELS_MAX, NAME_MAX};
use crate::scope::ScopeSet;
use crate::store::record::{Rate, TokenRecord};
use crate::time::UnixTime;
use crate::token::{Digest, Kind, Prefix, TokenId};

/// What the configuration says about new tokens.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Prefix of new tokens.
    pub prefix: Prefix,
    /// Of session tokens.
    pub session: Lives,
    /// Of machine tokens.
    pub machine: Lives,
    /// By name.
    pub profiles: BTreeMap<String, Profile>,
}

impl Rules {
    /// The lifetimes of a kind; a canary has none.
    pub fn lifetimes(&self, kind: Kind) -> Option<&Lives> {
        match kind {
            Kind::Session => Some(&self.session),
            Kind::Machine => Some(&self.machine),
            Kind::Canary => None,
        }
    }

    /// The kind that a profile gives, if it gives one.
    pub fn kind_of(&self, profile: Option<&str>) -> Option<Kind> {
        self.profiles.get(profile?)?.kind
    }
}

/// A checked request with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What people call it.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Whom it stands for; `None` = to be filled in from the peer.
    pub subject: Option<String>,
    /// What it may do.
    pub scopes: ScopeSet,
    /// Which services it is for.
    pub audiences: Vec<String>,
    /// How long it lives; `None` for a canary.
    pub ttl: Option<Duration>,
    /// Its ceiling from issue on; `None` for a canary.
    pub max_lifetime: Option<Duration>,
    /// Not good before.
    pub not_before: Option<UnixTime>,
    /// Good for so many validations.
    pub max_uses: Option<u64>,
    /// Validations per time.
    pub rate: Option<Rate>,
    /// Client networks.
    pub allow_from: Vec<IpNet>,
    /// Units.
    pub allow_units: Vec<String>,
    /// uids.
    pub allow_uids: Vec<u32>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its profile.
    pub profile: Option<String>,
}

/// Who issues a token to whom, as the record keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parties {
    /// Whom it stands for.
    pub subject: String,
    /// uid of the user of that name, if there is one.
    pub subject_uid: Option<u32>,
    /// User name of the issuer, or `uid:1000`.
    pub issuer: String,
    /// Its uid.
    pub issuer_uid: u32,
}

/// Checks a request and fills in what the configuration and the profile give.
///
/// # Errors
/// [`Invalid`]: which value can't be, and what to write instead.
pub fn plan(request: &message::Issue, rules: &Rules) -> Result<Plan, Invalid> {
    check_text("name", &request.name, NAME_MAX)?;
    if let Some(subject) = &request.subject {
        check_text("subject", subject, NAME_MAX)?;
    }
    let profile = match &request.profile {
        Some(name) => Some(rules.profiles.get(name).ok_or(Invalid::NoProfile)?),
        None => None,
    };
    let kind = kind(request.kind, profile)?;
    let ttl = ttl(request.ttl, kind, profile, rules)?;
    Ok(Plan {
        name: request.name.clone(),
        kind,
        subject: request.subject.clone(),
        scopes: scopes(&request.scopes, profile)?,
        audiences: audiences(&request.audiences, profile)?,
        ttl,
        max_lifetime: rules.lifetimes(kind).map(|lifetimes| lifetimes.max_lifetime),
        not_before: request.not_before,
        max_uses: match request.max_uses {
            Some(0) => return Err(Invalid::ZeroUses),
            uses => uses,
        },
        rate: request.rate.map(rate).transpose()?,
        allow_from: networks(&request.allow_from)?,
        allow_units: units(&request.allow_units)?,
        allow_uids: bounded("uids", sorted(request.allow_uids.clone()), BINDINGS_MAX)?,
        labels: labels(&request.labels, profile)?,
        profile: request.profile.clone(),
    })
}

fn kind(asked: Option<Kind>, profile: Option<&Profile>) -> Result<Kind, Invalid> {
    match (asked, profile.and_then(|profile| profile.kind)) {
        (Some(asked), Some(given)) if asked != given => Err(Invalid::BeyondProfile("kind")),
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
        (None, None) => Ok(Kind::Machine),
    }
}

fn ttl(
    asked: Option<Duration>,
    kind: Kind,
    profile: Option<&Profile>,
    rules: &Rules,
) -> Result<Option<Duration>, Invalid> {
    let Some(lifetimes) = rules.lifetimes(kind) else {
        return if asked.is_some() { Err(Invalid::CanaryTtl) } else { Ok(None) };
    };
    let given = profile.and_then(|profile| profile.ttl);
    if let (Some(asked), Some(given)) = (asked, given)
        && asked > given
    {
        return Err(Invalid::BeyondProfile("ttl"));
    }
    let ttl = asked.or(given).unwrap_or(lifetimes.default_ttl);
    let max = lifetimes.max_ttl.min(lifetimes.max_lifetime);
    if ttl.is_zero() {
        return Err(Invalid::ZeroTtl);
    }
    if ttl > max {
        return Err(Invalid::TtlTooLong { ttl, max, kind });
    }
    Ok(Some(ttl))
}

fn scopes(asked: &[String], profile: Option<&Profile>) -> Result<ScopeSet, Invalid> {
    let asked = ScopeSet::parse(asked)?;
    match profile {
        Some(profile) if asked.is_empty() => Ok(profile.scopes.clone()),
        Some(profile) if asked.iter().any(|scope| !profile.scopes.covers(scope.as_str())) => {
            Err(Invalid::BeyondProfile("scope"))
        }
        _ => Ok(asked),
    }
}

fn audiences(asked: &[String], profile: Option<&Profile>) -> Result<Vec<String>, Invalid> {
    for audience in asked {
        check_text("audience", audience, NAME_MAX)?;
    }
    let asked = bounded("audiences", sorted(asked.to_vec()), AUDIENCES_MAX)?;
    match profile {
        Some(profile) if asked.is_empty() => Ok(profile.audiences.clone()),
        Some(profile) if !profile.audiences.is_empty() && asked.iter().any(|a| !profile.audiences.contains(a)) => {
            Err(Invalid::BeyondProfile("audience"))
        }
        _ => Ok(asked),
    }
}

fn rate(asked: message::Rate) -> Result<Rate, Invalid> {
    const LONGEST: Duration = Duration::from_secs(366 * 86_400);
    if asked.count == 0 || asked.per < Duration::from_millis(1) || asked.per > LONGEST {
        return Err(Invalid::Rate);
    }
    Ok(Rate { count: asked.count, per: asked.per })
}

pub(super) fn networks(asked: &[String]) -> Result<Vec<IpNet>, Invalid> {
    let networks = asked.iter().map(|text| parse_network(text)).collect::<Result<Vec<_>, _>>()?;
    bounded("networks", sorted(networks), BINDINGS_MAX)
}

pub(super) fn units(asked: &[String]) -> Result<Vec<String>, Invalid> {
    for unit in asked {
        check_text("unit", unit, NAME_MAX)?;
        let stem = unit.strip_suffix(".service").or_else(|| unit.strip_suffix(".scope"));
        if stem.is_none_or(|stem| stem.is_empty() || stem.contains(['/', ' '])) {
            return Err(Invalid::Unit);
        }
    }
    bounded("units", sorted(asked.to_vec()), BINDINGS_MAX)
}

fn labels(asked: &BTreeMap<String, String>, profile: Option<&Profile>) -> Result<BTreeMap<String, String>, Invalid> {
    let mut labels = asked.clone();
    if let Some(profile) = profile {
        // The profile's win: who may issue by it only must not take its mark off.
        labels.extend(profile.labels.clone());
    }
    check_labels(&labels)?;
    Ok(labels)
}

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Invalid> {
    for (key, value) in labels {
        check_text("label's key", key, LABEL_KEY_MAX).map_err(|_| Invalid::LabelKey)?;
        if key.contains('=') {
            return Err(Invalid::LabelKey);
        }
        if !value.is_empty() {
            check_text("label's value", value, LABEL_VALUE_MAX)?;
        }
    }
    if labels.len() > LABELS_MAX {
        return Err(Invalid::TooMany { field: "labels", max: LABELS_MAX });
    }
    Ok(())
}

pub(super) fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values.dedup();
    values
}

pub(super) fn bounded<T>(field: &'static str, values: Vec<T>, max: usize) -> Result<Vec<T>, Invalid> {
    if values.len() > max { Err(Invalid::TooMany { field, max }) } else { Ok(values) }
}

impl Plan {
    /// The record of the new token.
    ///
    /// # Errors
    /// [`Invalid::NeverValid`] when it would have expired before it begins.
    pub fn record(
        self,
        id: TokenId,
        prefix: Prefix,
        digest: Digest,
        parties: Parties,
        now: UnixTime,
    ) -> Result<TokenRecord, Invalid> {
        let expires_at = self.ttl.map(|ttl| now.saturating_add(ttl));
        if let (Some(begins), Some(ends)) = (self.not_before, expires_at)
            && begins >= ends
        {
            return Err(Invalid::NeverValid);
        }
        Ok(TokenRecord {
            version: 1,
            order: 0,
            id,
            kind: self.kind,
            prefix: Some(prefix.as_str().to_owned()),
            digest,
            name: self.name,
            subject: parties.subject,
            subject_uid: parties.subject_uid,
            issuer: parties.issuer,
            issuer_uid: parties.issuer_uid,
            scopes: self.scopes,
            audiences: self.audiences,
            issued_at: now,
            not_before: self.not_before,
            expires_at,
            max_expires_at: self.max_lifetime.map(|lifetime| now.saturating_add(lifetime)),
            ttl: self.ttl,
            labels: self.labels,
            profile: self.profile,
            max_uses: self.max_uses,
            uses: 0,
            rate: self.rate,
            allow_from: self.allow_from,
            allow_units: self.allow_units,
            allow_uids: self.allow_uids,
            family: id,
            predecessor: None,
            successor: None,
            rotation: None,
            first_used_at: None,
            replaced: false,
            revoked: None,
            suspended: None,
            warned: None,
            expiry_told: false,
        })
    }
}
