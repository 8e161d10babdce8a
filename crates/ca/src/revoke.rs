//! Revoking: a scope is resolved to serials and rules on one view, recorded, and reaches every verifier as one delta.

use std::{collections::BTreeSet, sync::Arc};

use mintage_identity::{AgentName, EntryName, RevocationReason};
use mintage_ledger::{Body, LiveQuery};
use mintage_state::{
    View,
    command::{RevokeRequest, Scope, ban_agent, resolve, revoke},
    limits::REVOKE_TARGETS_MAX,
};
use tracing::info;

use crate::{
    control::{Origin, command},
    desk::Desk,
    status::Refusal,
};

/// What a revocation strikes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Struck {
    pub(crate) certificates: u64,
    pub(crate) agents: BTreeSet<String>,
    pub(crate) entries: BTreeSet<String>,
    /// The first of the serials, for people.
    pub(crate) serials: Vec<String>,
}

/// Serials shown to people.
const SERIALS_SHOWN: usize = 100;

/// The live certificates in a scope.
fn live_in(desk: &Desk, scope: &Scope) -> Result<Vec<mintage_ledger::LiveCertificate>, Refusal> {
    let now = desk.clock.unguarded();
    let all = LiveQuery::default();
    let query = match scope {
        Scope::Serial(_) => all,
        Scope::Identity(id) => LiveQuery {
            spiffe_id: Some(id.clone()),
            ..all
        },
        Scope::Prefix(prefix) => LiveQuery {
            id_prefix: Some(prefix.clone()),
            ..all
        },
        Scope::Agent(name) => LiveQuery {
            agent: Some(name.to_string()),
            ..all
        },
        Scope::Entry(name) => LiveQuery {
            entry: Some(name.to_string()),
            ..all
        },
        Scope::Key(key) => LiveQuery {
            spki_sha256: Some(*key),
            ..all
        },
        Scope::Issuer(issuer) => LiveQuery {
            issuer: Some(*issuer),
            ..all
        },
    };
    match scope {
        Scope::Serial(serial) => {
            // One certificate is looked up by its serial, not searched for among all.
            let Some(issued) = desk.index.certificate(serial)? else {
                return Ok(Vec::new());
            };
            let query = LiveQuery {
                spki_sha256: Some(issued.facts.spki_sha256),
                ..LiveQuery::default()
            };
            let mut rows = desk.index.live(&query, now)?;
            rows.retain(|row| row.serial == *serial);
            Ok(rows)
        }
        _ => Ok(desk.index.live(&query, now)?),
    }
}

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
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) scope: Scope,
    pub(crate) reason: RevocationReason,
    pub(crate) note: String,
}

/// Drafts the records of an order on one view, beside what it strikes: certificates recorded before `before`, or all.
fn draft(desk: &Desk, view: &View, order: &Order, before: Option<u64>) -> Result<(Vec<Body>, Struck), Refusal> {
    let mut rows = live_in(desk, &order.scope)?;
    rows.retain(|row| before.is_none_or(|before| row.index < before));
    draft_of(desk, view, order, &rows)
}

/// Drafts the records that strike what a deleted entry left behind: its certificates recorded before `before` that are
/// not revoked yet. More than one command may name are left to the next look for orphans.
pub(crate) fn draft_of_gone(
    desk: &Desk,
    view: &View,
    entry: &EntryName,
    before: Option<u64>,
) -> Result<(Vec<Body>, u64), Refusal> {
    let order = Order {
        scope: Scope::Entry(entry.clone()),
        reason: RevocationReason::CessationOfOperation,
        note: "the entry was deleted".to_owned(),
    };
    let mut rows = live_in(desk, &order.scope)?;
    rows.retain(|row| before.is_none_or(|before| row.index < before));
    rows.retain(|row| view.revoked().revoked(&row.issuer, &row.serial).is_none());
    rows.truncate(REVOKE_TARGETS_MAX);
    if rows.is_empty() {
        return Ok((Vec::new(), 0));
    }
    let (bodies, struck) = draft_of(desk, view, &order, &rows)?;
    Ok((bodies, struck.certificates))
}

fn draft_of(
    desk: &Desk,
    view: &View,
    order: &Order,
    rows: &[mintage_ledger::LiveCertificate],
) -> Result<(Vec<Body>, Struck), Refusal> {
    let now = desk.clock.now()?;
    let resolved = resolve(view, &order.scope, rows, order.reason.as_str(), now)?;
    let request = RevokeRequest {
        serials: &resolved.serials,
        rules: &resolved.rules,
        reason: order.reason,
        note: &order.note,
        scope: &order.scope,
    };
    let mut bodies: Vec<Body> = resolved.ban.into_iter().collect();
    bodies.extend(revoke(view, &request)?);
    Ok((bodies, struck(rows)))
}

/// Records an order (or, for a dry run, only says what it would strike); returns the index of the last record.
///
/// What is struck by serial is looked up and recorded in two steps, and an issuance may come in between. So an agent is
/// banned first, after which nothing more is recorded for it, and an entry's certificates are looked up once more after
/// the first record: those recorded before it are struck too, those after it are the replacements.
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
    let mut last = None;
    if let Scope::Agent(name) = &order.scope {
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
    if let (Scope::Entry(_), Some(index)) = (&order.scope, index) {
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
    Order {
        scope: Scope::Agent(name.clone()),
        reason,
        note: note.to_owned(),
    }
}
