//! Revoking: a scope is resolved to serials and rules on one view, recorded, and reaches every verifier as one delta.

use std::{collections::BTreeSet, sync::Arc};

use mintage_identity::{AgentName, EntryName, RevocationReason};
use mintage_ledger::{Body, LiveQuery};
use mintage_policy::AgentStatus;
use mintage_state::{
    View,
    command::{self, Resolved, RevokeRequest, Scope, ban_agent, disable_entries, resolve, revoke},
    limits::REVOKE_TARGETS_MAX,
};
use tonic::Code;
use tracing::info;

use crate::{
    control::{Origin, command},
    desk::Desk,
    pusher::wait_for_index,
    scope::{entries_in, is_last_issuer, live_in},
    status::Refusal,
    struck_keys,
};

/// What a revocation strikes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Struck {
    pub(crate) certificates: u64,
    pub(crate) agents: BTreeSet<String>,
    pub(crate) entries: BTreeSet<String>,
    /// The first of the serials, for people.
    pub(crate) serials: Vec<String>,
    /// Public keys that are blocked with it.
    pub(crate) keys: u64,
    /// Entries that hold no certificate afterwards and get none.
    pub(crate) left_without: BTreeSet<String>,
}

/// Certificates of its own by which an agent may speak, beside what it obtained: the last one, and the few that count beside it.
const OWN_CERTIFICATES_MAX: usize = 8;
/// Serials shown to people.
const SERIALS_SHOWN: usize = 100;

fn struck(rows: &[mintage_ledger::LiveCertificate]) -> Struck {
    let text = |name: &Option<Arc<str>>| name.as_deref().filter(|name| !name.is_empty()).map(str::to_owned);
    Struck {
        certificates: rows.len() as u64,
        agents: rows.iter().filter_map(|row| text(&row.agent)).collect(),
        entries: rows.iter().filter_map(|row| text(&row.entry)).collect(),
        serials: rows
            .iter()
            .take(SERIALS_SHOWN)
            .map(|row| row.serial.to_string())
            .collect(),
        ..Struck::default()
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) scope: Scope,
    pub(crate) reason: RevocationReason,
    pub(crate) note: String,
    /// Disable the entries in scope as well.
    pub(crate) and_disable: bool,
    /// Revoke an issuer although no other one is active.
    pub(crate) force_last: bool,
}

impl Order {
    pub(crate) fn new(scope: Scope, reason: RevocationReason, note: impl Into<String>) -> Self {
        Self {
            scope,
            reason,
            note: note.into(),
            and_disable: false,
            force_last: false,
        }
    }
}

/// Drafts the records of an order on one view, beside what it strikes: certificates recorded before `before`, or all.
fn draft(desk: &Desk, view: &View, order: &Order, before: Option<u64>) -> Result<(Vec<Body>, Struck), Refusal> {
    let mut rows = live_in(desk, view, &order.scope)?;
    rows.retain(|row| before.is_none_or(|before| row.index < before));
    draft_of(desk, view, order, &rows)
}

/// Drafts the records that strike what a banned agent still has: what it obtained and its own certificates, as far as they are not
/// revoked. More than one command may name are left to the next look for orphans.
pub(crate) fn draft_of_banned(desk: &Desk, view: &View, agent: &AgentName) -> Result<(Vec<Body>, u64), Refusal> {
    let Some(record) = view.agent(agent).filter(|agent| agent.status == AgentStatus::Banned) else {
        return Ok((Vec::new(), 0));
    };
    // The ban tells why; what an operator wrote in its place is told as it stands.
    let reason = record.reason.parse().unwrap_or(RevocationReason::PrivilegeWithdrawn);
    let order = of_agent(agent, reason, "the agent was banned");
    let mut rows = live_in(desk, view, &order.scope)?;
    rows.retain(|row| view.revoked().revoked(&row.issuer, &row.serial).is_none());
    rows.truncate(REVOKE_TARGETS_MAX - OWN_CERTIFICATES_MAX);
    let (bodies, struck) = draft_of(desk, view, &order, &rows)?;
    Ok((bodies, struck.certificates))
}

/// Drafts the records that strike what a deleted entry left behind: its certificates recorded before `before` that are
/// not revoked yet. More than one command may name are left to the next look for orphans.
pub(crate) fn draft_of_gone(
    desk: &Desk,
    view: &View,
    entry: &EntryName,
    before: Option<u64>,
) -> Result<(Vec<Body>, u64), Refusal> {
    let reason = RevocationReason::CessationOfOperation;
    let order = Order::new(Scope::Entry(entry.clone()), reason, "the entry was deleted");
    let mut rows = live_in(desk, view, &order.scope)?;
    rows.retain(|row| before.is_none_or(|before| row.index < before));
    rows.retain(|row| view.revoked().revoked(&row.issuer, &row.serial).is_none());
    rows.truncate(REVOKE_TARGETS_MAX);
    if rows.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let (bodies, struck) = draft_of(desk, view, &order, &rows)?;
    Ok((bodies, struck.certificates))
}

pub(crate) fn draft_of(
    desk: &Desk,
    view: &View,
    order: &Order,
    rows: &[mintage_ledger::LiveCertificate],
) -> Result<(Vec<Body>, Struck), Refusal> {
    let now = desk.clock.now()?;
    let last_issuer = check_issuer(view, order)?;
    let disabled = disabled_by(view, order)?;
    let blocked = struck_keys::rules(desk, view, order, rows)?;
    let resolved = match resolve(view, &order.scope, rows, order.reason.as_str(), now) {
        // A key can be lost after its certificate has expired, and an entry disabled before it has one.
        Err(command::Refusal::NothingLive(_)) if !blocked.is_empty() || !disabled.is_empty() => Resolved::default(),
        Ok(resolved) if order.and_disable => resolved.for_good(),
        resolved => resolved?,
    };
    let mut rules = resolved.rules;
    rules.extend(blocked.iter().cloned());
    let request = RevokeRequest {
        serials: &resolved.serials,
        rules: &rules,
        reason: order.reason,
        note: &order.note,
        scope: &order.scope,
    };
    let mut bodies: Vec<Body> = resolved.ban.into_iter().collect();
    bodies.extend(disable_entries(view, &disabled)?);
    bodies.extend(revoke(view, &request)?);
    let mut struck = struck(rows);
    struck.keys = blocked.len() as u64;
    struck.left_without = match &order.scope {
        Scope::Agent(name) => only_of(desk, view, name, &struck.entries)?,
        Scope::Issuer(_) if last_issuer => struck.entries.clone(),
        _ => left_by(desk, view, rows, &disabled)?,
    };
    Ok((bodies, struck))
}

/// Whether the order takes the last issuing key, which has to be wanted.
fn check_issuer(view: &View, order: &Order) -> Result<bool, Refusal> {
    let Scope::Issuer(issuer) = &order.scope else {
        return Ok(false);
    };
    let last = is_last_issuer(view, issuer)?;
    if last && !order.force_last {
        let text = format!(
            "issuer {issuer}: no other issuing key is active, so nothing is issued after it, and every certificate that it \
             signed ends, the agents' and this CA's own among them; if that is meant, say --force-last (force_last)"
        );
        return Err(Refusal::new(Code::FailedPrecondition, "last-issuer", text));
    }
    Ok(last)
}

/// The entries that the order disables.
fn disabled_by(view: &View, order: &Order) -> Result<Vec<EntryName>, Refusal> {
    if !order.and_disable {
        return Ok(Vec::new());
    }
    if !matches!(
        order.scope,
        Scope::Identity(_) | Scope::Prefix(_) | Scope::Entry(_) | Scope::Selector(_)
    ) {
        let text = "and_disable: goes with a SPIFFE ID, a prefix, an entry or a selector; name one of these";
        return Err(Refusal::invalid(text));
    }
    let names = entries_in(view, &order.scope).map(|standing| standing.entry.name().clone());
    Ok(names.collect())
}

/// The entries that an order disables, and those that it strikes which were disabled or deleted before, where it leaves them
/// nothing.
fn left_by(
    desk: &Desk,
    view: &View,
    rows: &[mintage_ledger::LiveCertificate],
    disabled: &[EntryName],
) -> Result<BTreeSet<String>, Refusal> {
    let mut left: BTreeSet<String> = disabled.iter().map(ToString::to_string).collect();
    let taken: BTreeSet<_> = rows.iter().map(|row| (row.issuer, row.serial)).collect();
    for entry in struck(rows).entries {
        let standing = EntryName::parse(&entry).ok();
        let standing = standing.and_then(|name| view.entry(&name).map(|found| !found.entry.is_disabled()));
        if standing == Some(true) || left.contains(&entry) {
            continue;
        }
        let query = LiveQuery {
            entry: Some(entry.clone()),
            ..LiveQuery::default()
        };
        let live = desk.index.live(&query, desk.clock.unguarded())?;
        let stays = live.iter().any(|row| {
            !taken.contains(&(row.issuer, row.serial)) && view.revoked().revoked(&row.issuer, &row.serial).is_none()
        });
        if !stays {
            left.insert(entry);
        }
    }
    Ok(left)
}

/// Those of the entries by which no other agent holds a certificate.
fn only_of(
    desk: &Desk,
    view: &View,
    agent: &AgentName,
    entries: &BTreeSet<String>,
) -> Result<BTreeSet<String>, Refusal> {
    let mut only = BTreeSet::new();
    for entry in entries {
        let query = LiveQuery {
            entry: Some(entry.clone()),
            ..LiveQuery::default()
        };
        let rows = desk.index.live(&query, desk.clock.unguarded())?;
        let elsewhere = rows.iter().any(|row| {
            row.agent.as_deref() != Some(agent.as_str()) && view.revoked().revoked(&row.issuer, &row.serial).is_none()
        });
        if !elsewhere {
            only.insert(entry.clone());
        }
    }
    Ok(only)
}

/// Records an order (or, for a dry run, only says what it would strike); returns the index of the last record.
///
/// What is struck by serial is looked up and recorded in two steps, and an issuance may come in between. So an agent is
/// banned first, after which nothing more is recorded for it, and the certificates of entries are looked up once more after
/// the first record: those recorded before it are struck too, those after it are the replacements.
///
/// The steps are a task of their own: a caller that hangs up after the first gets all of them. What a crash between them leaves
/// good is found by [`crate::orphans`].
pub(crate) async fn carry_out(
    desk: &Arc<Desk>,
    origin: &Origin,
    order: &Order,
    dry_run: bool,
) -> Result<(Struck, u64), Refusal> {
    if dry_run {
        let (_, struck) = draft(desk, &desk.state.view(), order, None)?;
        return Ok((struck, 0));
    }
    let (desk, origin, order) = (desk.clone(), origin.clone(), order.clone());
    let steps = tokio::spawn(async move { take_steps(&desk, &origin, &order).await });
    steps
        .await
        .unwrap_or_else(|_| Err(Refusal::bug("a revocation ended before its answer")))
}

async fn take_steps(desk: &Arc<Desk>, origin: &Origin, order: &Order) -> Result<(Struck, u64), Refusal> {
    let mut last = None;
    // What a rule strikes reaches as far as the last certificate that the index knows, and keys are blocked of what it knows.
    wait_for_index(desk, &desk.state.view()).await;
    if let Scope::Agent(name) = &order.scope {
        // What is refused is refused before the ban.
        draft(desk, &desk.state.view(), order, None)?;
        let ban = |view: &View| {
            Ok((
                ban_agent(view, name, None, order.reason.as_str())?
                    .into_iter()
                    .collect(),
                (),
            ))
        };
        last = command(desk, origin, ban).await?.1;
    }
    let (struck, index) = command(desk, origin, |view| draft(desk, view, order, None)).await?;
    if let (Scope::Entry(_) | Scope::Selector(_), Some(index)) = (&order.scope, index) {
        match command(desk, origin, |view| draft(desk, view, order, Some(index))).await {
            Ok((_, more)) => last = more,
            // Everything that was live has ended meanwhile.
            Err(refusal) if refusal.code == "nothing-live" => {}
            Err(refusal) => return Err(refusal),
        }
    }
    desk.metrics.revoked(order.reason.as_str());
    info!(scope = %order.scope, reason = %order.reason, certificates = struck.certificates, "revoked");
    Ok((
        struck,
        last.max(index)
            .unwrap_or_else(|| desk.state.view().revoked().sequence()),
    ))
}

/// Everything an agent obtained, and the agent itself.
pub(crate) fn of_agent(name: &AgentName, reason: RevocationReason, note: &str) -> Order {
    Order::new(Scope::Agent(name.clone()), reason, note)
}

#[cfg(test)]
mod tests {
    use mintage_identity::{IdPrefix, SpiffeId};
    use mintage_proto::v1::{ApplyEntriesRequest, Entry};

    use super::*;
    use crate::{entries, trial::Trial};

    #[tokio::test(flavor = "multi_thread")]
    async fn entries_that_were_disabled_before_are_left_without_identity_too() {
        let trial = Trial::open().await;
        trial.entries(["web", "db", "idle"]).await;
        let agent = trial.agent("n1").await;
        let web = trial.certificate(&agent, "web").await;
        trial.certificate(&agent, "web").await;
        trial.certificate(&agent, "db").await;
        let off = |name: &str| Entry {
            name: name.to_owned(),
            spiffe_id: format!("spiffe://dev.test/{name}"),
            agents: vec!["spiffe://dev.test/mintage/agent/*".to_owned()],
            selectors: vec!["unix:uid:1".to_owned()],
            disabled: true,
            ..Entry::default()
        };
        let request = ApplyEntriesRequest {
            entries: vec![off("web"), off("idle")],
            ..ApplyEntriesRequest::default()
        };
        entries::apply(&trial.desk, &trial.origin(), request).await.unwrap();
        let left = async |scope| {
            let order = Order::new(scope, RevocationReason::Superseded, "");
            let (struck, _) = carry_out(&trial.desk, &trial.origin(), &order, true).await.unwrap();
            struck.left_without.into_iter().collect::<Vec<_>>()
        };
        let id = SpiffeId::parse("spiffe://dev.test/web").unwrap();
        assert_eq!(left(Scope::Identity(id)).await, ["web"]);
        let below = IdPrefix::parse("spiffe://dev.test/*").unwrap();
        assert_eq!(
            left(Scope::Prefix(below)).await,
            ["web"],
            "the others get new ones, or had none"
        );
        assert!(left(Scope::Serial(*web.serial())).await.is_empty(), "one stays");
    }
}
