//! Revocation: from what an operator names to serials and rules, and from those to records.

use std::collections::BTreeSet;
use std::fmt;

use mintage_identity::{
    AgentName, EntryName, IdPrefix, IssuerKeyId, RevocationReason, Selector, Serial, SpiffeId, SpkiHash, UnixTime,
};
use mintage_ledger::{Body, LiveCertificate, wire};
use mintage_policy::Floor;
use mintage_revocation::{RevokedSerial, Rule, RuleTarget, limits as revocation_limits};

use crate::command::{Refusal, agents::ban_agent, plain_line, within};
use crate::convert::{rule_to_wire, serial_to_wire};
use crate::limits::{CUT_BEFORE_NOW, REVOKE_TARGETS_MAX, RULES_PER_RECORD_MAX, SERIALS_PER_RECORD_MAX};
use crate::view::View;

/// What an operator names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One certificate.
    Serial(Serial),
    /// Every certificate of an identity.
    Identity(SpiffeId),
    /// Every certificate below a prefix, agents and replicas of the CA included when it reaches them.
    Prefix(IdPrefix),
    /// Everything an agent obtained, its own certificates included; its current instance is banned.
    Agent(AgentName),
    /// Everything that was obtained by an entry.
    Entry(EntryName),
    /// Everything that was obtained by entries that hold this selector, or held it when it was issued.
    Selector(Selector),
    /// Every certificate of a public key, which may not come back.
    Key(SpkiHash),
    /// Everything an issuing key has signed.
    Issuer(IssuerKeyId),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial {serial}"),
            Self::Identity(id) => write!(f, "spiffe-id {id}"),
            Self::Prefix(prefix) => write!(f, "prefix {prefix}"),
            Self::Agent(name) => write!(f, "agent {name}"),
            Self::Entry(name) => write!(f, "entry {name}"),
            Self::Selector(selector) => write!(f, "selector {selector}"),
            Self::Key(key) => write!(f, "key {key}"),
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
        }
    }
}

/// What a scope comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// Single certificates.
    pub serials: Vec<RevokedSerial>,
    /// Rules.
    pub rules: Vec<Rule>,
    /// The ban that goes with it. It is appended first, and what is live is asked for again once it stands: until then
    /// the agent may obtain one more certificate, afterwards none.
    pub ban: Option<Body>,
}

impl Resolved {
    /// The same for good: no later certificate of a named identity is good either, until its entry is enabled again. A
    /// prefix keeps its cut, because nothing lifts a rule on a prefix.
    #[must_use]
    pub fn for_good(mut self) -> Self {
        let of_identity = |rule: &&mut Rule| matches!(rule.target, RuleTarget::Identity(_));
        self.rules
            .iter_mut()
            .filter(of_identity)
            .for_each(|rule| rule.cut = None);
        self
    }
}

/// A revocation to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokeRequest<'a> {
    /// Single certificates.
    pub serials: &'a [RevokedSerial],
    /// Rules.
    pub rules: &'a [Rule],
    /// Why (RFC 5280, section 5.3.1).
    pub reason: RevocationReason,
    /// The operator's words.
    pub note: &'a str,
    /// What was asked for.
    pub scope: &'a Scope,
}

/// The cut that kills everything issued until `now`: not before what the live certificates show, and not later than it
/// must be, so that a replacement need not begin in the future.
pub fn cut_at(now: UnixTime, not_befores: impl IntoIterator<Item = UnixTime>) -> UnixTime {
    not_befores.into_iter().fold(now.minus(CUT_BEFORE_NOW), UnixTime::max)
}

/// Resolves a scope. `live` are the live certificates in it, out of the ledger's index; `reason` goes into a ban.
///
/// # Errors
/// An identity of another trust domain, an agent that does not exist, and a scope of serials with nothing live in it.
pub fn resolve(
    view: &View,
    scope: &Scope,
    live: &[LiveCertificate],
    reason: &str,
    now: UnixTime,
) -> Result<Resolved, Refusal> {
    let rule = |target, cut| Resolved {
        rules: vec![Rule { target, cut }],
        ..Resolved::default()
    };
    let cut = || Some(cut_at(now, live.iter().map(|certificate| certificate.not_before)));
    let ours = |id: &SpiffeId| match id.is_member_of(view.domain()) {
        true => Ok(()),
        false => Err(Refusal::ForeignIdentity(id.to_string())),
    };
    match scope {
        Scope::Serial(_) | Scope::Entry(_) | Scope::Selector(_) if live.is_empty() => {
            Err(Refusal::NothingLive(scope.to_string()))
        }
        Scope::Serial(_) | Scope::Entry(_) | Scope::Selector(_) => Ok(Resolved {
            serials: serials_of(live),
            ..Resolved::default()
        }),
        Scope::Identity(id) => ours(id).map(|()| rule(RuleTarget::Identity(id.clone()), cut())),
        Scope::Prefix(prefix) => ours(prefix.stem()).map(|()| rule(RuleTarget::Prefix(prefix.clone()), cut())),
        Scope::Key(key) => Ok(rule(RuleTarget::Key(*key), None)),
        Scope::Issuer(issuer) => Ok(rule(RuleTarget::Issuer(*issuer), None)),
        Scope::Agent(name) => {
            let ban = ban_agent(view, name, None, reason)?;
            let mut serials = serials_of(live);
            let own = view
                .agent(name)
                .into_iter()
                .flat_map(|agent| agent.current.iter().chain(&agent.earlier));
            let own = own
                .filter(|certificate| certificate.not_after > now)
                .map(|certificate| RevokedSerial {
                    issuer: certificate.issuer,
                    serial: certificate.serial,
                    not_after: certificate.not_after,
                });
            serials.extend(own);
            Ok(Resolved {
                serials,
                ban,
                ..Resolved::default()
            })
        }
    }
}

fn serials_of(live: &[LiveCertificate]) -> Vec<RevokedSerial> {
    live.iter()
        .map(|c| RevokedSerial {
            issuer: c.issuer,
            serial: c.serial,
            not_after: c.not_after,
        })
        .collect()
}

/// Drafts the records of a revocation, in parts when it is large. What is revoked already is left out; none at all are
/// needed when everything is.
///
/// # Errors
/// More than one command may name, more than the revoked set may hold, a note that is not one plain line.
pub fn revoke(view: &View, request: &RevokeRequest<'_>) -> Result<Vec<Body>, Refusal> {
    plain_line("the note", request.note)?;
    let named = request.serials.len() + request.rules.len();
    within(
        "certificates and rules in one command",
        named,
        REVOKE_TARGETS_MAX,
        "revoke by identity or prefix",
    )?;
    let unique: BTreeSet<&RevokedSerial> = request.serials.iter().collect();
    let new = unique
        .into_iter()
        .filter(|s| view.revoked().revoked(&s.issuer, &s.serial).is_none());
    let serials: Vec<wire::RevokedSerial> = new.map(serial_to_wire).collect();
    let unique: BTreeSet<&Rule> = request.rules.iter().collect();
    let new_rules: Vec<&Rule> = unique.into_iter().filter(|rule| !stands(view, rule)).collect();
    let rules: Vec<wire::RevocationRule> = new_rules.iter().copied().map(rule_to_wire).collect();
    let held = view.revoked().serial_count() + serials.len();
    within(
        "revoked certificates",
        held,
        revocation_limits::SERIALS_MAX,
        "revoke by identity or prefix",
    )?;
    let targets: BTreeSet<&RuleTarget> = new_rules.iter().map(|rule| &rule.target).collect();
    let more = targets.iter().filter(|target| view.revoked().rule(target).is_none());
    within(
        "revocation rules",
        view.revoked().rule_count() + more.count(),
        revocation_limits::RULES_MAX,
        "revoke by serial, entry, agent or selector, which need none, and for another reason than key-compromise, which \
         blocks each key by one",
    )?;
    let issuers: BTreeSet<&[u8]> = serials.iter().map(|serial| serial.issuer_key_id.as_slice()).collect();
    within(
        "issuers in one revocation",
        issuers.len(),
        revocation_limits::ISSUERS_MAX,
        "revoke in several commands",
    )?;
    Ok(parts(&serials, &rules, request))
}

/// True when a rule that stands kills all that this one kills.
fn stands(view: &View, rule: &Rule) -> bool {
    let wanted = rule.cut.map_or(Floor::Blocked, Floor::Above);
    view.floors.of_target(&rule.target) >= wanted
}

fn parts(serials: &[wire::RevokedSerial], rules: &[wire::RevocationRule], request: &RevokeRequest<'_>) -> Vec<Body> {
    let count = serials
        .len()
        .div_ceil(SERIALS_PER_RECORD_MAX)
        .max(rules.len().div_ceil(RULES_PER_RECORD_MAX));
    let mut serials = serials.chunks(SERIALS_PER_RECORD_MAX);
    let mut rules = rules.chunks(RULES_PER_RECORD_MAX);
    let part = |part: usize| {
        Body::Revoke(wire::Revoke {
            serials: serials.next().unwrap_or_default().to_vec(),
            rules: rules.next().unwrap_or_default().to_vec(),
            reason: u32::from(request.reason.code()),
            note: request.note.to_owned(),
            scope: request.scope.to_string(),
            // At most 100,000 targets make far fewer parts than 32 bits count.
            part: u32::try_from(part).unwrap_or(u32::MAX),
            parts: u32::try_from(count).unwrap_or(u32::MAX),
        })
    };
    (1..=count).map(part).collect()
}
