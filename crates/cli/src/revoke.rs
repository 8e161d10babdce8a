//! `mintage revoke`: strikes certificates and watches the news reach the agents.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Args;
use mintage_identity::{
    AgentName, EntryName, IdPrefix, IssuerKeyId, RevocationReason, Selector, Serial, SpiffeId, SpkiHash, parse_duration,
};
use mintage_proto::v1::{
    RevocationStatusRequest, RevocationStatusResponse, RevokeRequest, RevokeResponse, revoke_request::Target as Wire,
};
use serde::Serialize;

use crate::{
    cli::Context,
    client::Ca,
    failure::Failure,
    limits::{ENFORCE_WAIT_DEFAULT, STATUS_WAIT_MAX},
    output::{fields, notice},
    revoke_from,
    text::count,
};

/// `revoke`.
#[derive(Args, Debug)]
pub(crate) struct Revoke {
    #[command(flatten)]
    target: Target,
    /// Why: unspecified, key-compromise (blocks the public keys as well), ca-compromise, affiliation-changed, superseded,
    /// cessation-of-operation or privilege-withdrawn [default: unspecified, with --from key-compromise].
    #[arg(long, value_name = "REASON")]
    pub(crate) reason: Option<RevocationReason>,
    /// A line for the record.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) note: String,
    /// Says what would be struck; nothing is changed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Disables the entries in scope too, until they are applied as enabled: with --spiffe-id, --id-prefix, --entry or
    /// --selector.
    #[arg(long)]
    and_disable: bool,
    /// With --issuer: also when no other issuing key is active. Nothing is issued afterwards.
    #[arg(long, requires = "issuer")]
    force_last: bool,
    /// Do not ask the agents to fetch replacements.
    #[arg(long)]
    pub(crate) no_renew: bool,
    /// Waits so long for every connected agent, and exits with 3 when some did not follow [default: 5s, and 0 then]
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub(crate) wait: Option<Duration>,
}

/// What is revoked: exactly one of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Target {
    /// One certificate, by its serial in hexadecimal.
    #[arg(long, value_name = "SERIAL")]
    serial: Option<Serial>,
    /// Every certificate of an identity; a replacement issued later is good.
    #[arg(long, value_name = "ID")]
    spiffe_id: Option<SpiffeId>,
    /// Every certificate below a prefix that ends in /*.
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<IdPrefix>,
    /// Everything an agent obtained; its present life is banned.
    #[arg(long, value_name = "NAME")]
    agent: Option<AgentName>,
    /// Everything obtained through an entry.
    #[arg(long, value_name = "NAME")]
    entry: Option<EntryName>,
    /// Everything obtained through entries that hold this selector, or held it when it was issued.
    #[arg(long, value_name = "SELECTOR", value_parser = selector)]
    selector: Option<Selector>,
    /// Every certificate that one of the CA's issuing keys has signed, now and later (see `ca status`).
    #[arg(long, value_name = "KEYID")]
    issuer: Option<IssuerKeyId>,
    /// What a scanner found: JSON of gitleaks or trufflehog, or a list of SHA-256 fingerprints of certificates or public
    /// keys. No secret is printed.
    #[arg(long, value_name = "FILE", conflicts_with = "and_disable")]
    from: Option<PathBuf>,
    /// Every certificate of a public key (SHA-256 of its SubjectPublicKeyInfo), which may not come back.
    #[arg(long, value_name = "SHA256")]
    key: Option<SpkiHash>,
}

fn selector(text: &str) -> Result<Selector, String> {
    Selector::parse(text).map_err(|error| error.to_string())
}

fn wait(text: &str) -> Result<Duration, String> {
    parse_duration("wait", text).map_err(|error| error.to_string())
}

impl Target {
    fn wire(&self) -> Option<Wire> {
        let text = |value: &dyn ToString| value.to_string();
        None.or_else(|| self.serial.as_ref().map(|value| Wire::Serial(text(value))))
            .or_else(|| self.spiffe_id.as_ref().map(|value| Wire::SpiffeId(text(value))))
            .or_else(|| self.id_prefix.as_ref().map(|value| Wire::IdPrefix(text(value))))
            .or_else(|| self.agent.as_ref().map(|value| Wire::Agent(text(value))))
            .or_else(|| self.entry.as_ref().map(|value| Wire::Entry(text(value))))
            .or_else(|| self.selector.as_ref().map(|value| Wire::Selector(text(value))))
            .or_else(|| self.issuer.as_ref().map(|value| Wire::Issuer(text(value))))
            .or_else(|| self.key.as_ref().map(|value| Wire::Key(text(value))))
    }
}

#[derive(Serialize)]
struct Revoked {
    sequence: u64,
    certificates: u64,
    agents: Vec<String>,
    entries: Vec<String>,
    serials: Vec<String>,
    blocked_keys: u64,
    left_without: Vec<String>,
    /// Of all, also beyond the names above.
    agent_count: u64,
    entry_count: u64,
    left_without_count: u64,
    dry_run: bool,
    #[serde(flatten)]
    followed: Followed,
}

/// How far the news had come when the command ended.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Followed {
    /// Absent where nothing was revoked, null where nobody could tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    enforced: Option<Option<Enforced>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Enforced {
    agents: u64,
    agents_current: u64,
    acks: u64,
    p50_ack_ms: f64,
    p99_ack_ms: f64,
    slowest_ack_ms: f64,
    missing: Vec<String>,
    not_connected: u64,
}

impl From<RevocationStatusResponse> for Enforced {
    fn from(status: RevocationStatusResponse) -> Self {
        Self {
            agents: status.agents,
            agents_current: status.agents_current,
            acks: status.acks,
            p50_ack_ms: status.p50_ack_ms,
            p99_ack_ms: status.p99_ack_ms,
            slowest_ack_ms: status.slowest_ack_ms,
            missing: status.missing,
            not_connected: status.not_connected,
        }
    }
}

impl Enforced {
    fn everywhere(&self) -> bool {
        self.agents_current >= self.agents
    }

    fn line(&self) -> String {
        let enforced = format!(
            "enforced on {} of {}",
            self.agents_current,
            count(self.agents, "agent", "agents")
        );
        let line = match (self.agents, self.acks) {
            (0, _) => "no agent is connected; each takes it when it comes back".to_owned(),
            // An agent that came only afterwards had it from the start, and a CA of the previous version measures less.
            (_, 0) => enforced,
            _ => format!("{enforced}, p50/p99 {:.1}/{:.1} ms", self.p50_ack_ms, self.p99_ack_ms),
        };
        let line = match self.agents.saturating_sub(self.agents_current) {
            0 => line,
            behind => line + &self.missing(behind),
        };
        match self.not_connected {
            0 => line,
            away => format!("{line}; {away} not connected"),
        }
    }

    /// Who has not answered; a CA of the previous version tells no names.
    fn missing(&self, behind: u64) -> String {
        let named = self.missing.join(", ");
        match behind.saturating_sub(self.missing.len() as u64) {
            _ if self.missing.is_empty() => String::new(),
            0 => format!("; missing: {named}"),
            more => format!("; missing: {named} and {more} more"),
        }
    }
}

impl Revoked {
    fn text(&self) -> String {
        let done = if self.dry_run { "would revoke" } else { "revoked" };
        let names = |names: &[String], of: u64| match of.saturating_sub(names.len() as u64) {
            0 => names.join(", "),
            more => format!("{} and {more} more", names.join(", ")),
        };
        let shown = |number: u64| if number == 0 { String::new() } else { number.to_string() };
        let head = format!(
            "{done} {} of {} through {}\n",
            count(self.certificates, "certificate", "certificates"),
            count(self.agent_count, "agent", "agents"),
            count(self.entry_count, "entry", "entries"),
        );
        head + &fields(&[
            ("agents", names(&self.agents, self.agent_count)),
            ("entries", names(&self.entries, self.entry_count)),
            ("serials", names(&self.serials, self.certificates)),
            ("blocked keys", shown(self.blocked_keys)),
            (
                "left without identity",
                names(&self.left_without, self.left_without_count),
            ),
        ])
    }
}

/// Runs the verb.
pub(crate) async fn run(context: &Context, revoke: &Revoke) -> Result<(), Failure> {
    if let Some(file) = &revoke.target.from {
        return revoke_from::run(context, revoke, file).await;
    }
    let ca = context.ca().await?;
    let request = RevokeRequest {
        target: revoke.target.wire(),
        reason: revoke.reason.unwrap_or_default().to_string(),
        note: revoke.note.clone(),
        dry_run: revoke.dry_run,
        no_renew: revoke.no_renew,
        and_disable: revoke.and_disable,
        force_last: revoke.force_last,
    };
    let answer: RevokeResponse = ca.revocation().revoke(request).await?.into_inner();
    let (followed, settled) = match revoke.dry_run {
        true => (Followed::default(), Ok(())),
        false => settled(&ca, answer.sequence, revoke).await,
    };
    // A CA of the previous version tells all names and no counts.
    let of = |told: u64, names: &[String]| told.max(names.len() as u64);
    let revoked = Revoked {
        sequence: answer.sequence,
        certificates: answer.certificates,
        agent_count: of(answer.agent_count, &answer.agents),
        entry_count: of(answer.entry_count, &answer.entries),
        left_without_count: of(answer.left_without_count, &answer.left_without),
        agents: answer.agents,
        entries: answer.entries,
        serials: answer.serials,
        blocked_keys: answer.blocked_keys,
        left_without: answer.left_without,
        dry_run: revoke.dry_run,
        followed,
    };
    context.output.object(&revoked, || revoked.text())?;
    settled
}

/// Watches a revocation that stands, and says whether who asked to wait for every agent has what was asked for. What goes
/// wrong meanwhile takes nothing back, so it comes beside what is to be printed.
pub(crate) async fn settled(ca: &Ca, sequence: u64, revoke: &Revoke) -> (Followed, Result<(), Failure>) {
    let told = |enforced| Followed {
        enforced: Some(enforced),
    };
    match follow(ca, sequence, revoke.wait.unwrap_or(ENFORCE_WAIT_DEFAULT)).await {
        Ok(enforced) if revoke.wait.is_some() && !enforced.everywhere() => {
            let told_no = "the revocation stands, but not every connected agent enforces it yet; look at `mintage revocation status`";
            (told(Some(enforced)), Err(Failure::No(told_no.into())))
        }
        Ok(enforced) => (told(Some(enforced)), Ok(())),
        Err(failure) => {
            let stands = format!(
                "the revocation stands as sequence {sequence}; `mintage revocation status` tells who enforces it"
            );
            (told(None), Err(failure.and(&stands)))
        }
    }
}

/// Tells on standard error how the news spreads, until all have it or the time is over.
async fn follow(ca: &Ca, sequence: u64, wait: Duration) -> Result<Enforced, Failure> {
    let begun = Instant::now();
    let mut told = None;
    loop {
        let left = wait.saturating_sub(begun.elapsed());
        let step = left.min(STATUS_WAIT_MAX);
        let request = RevocationStatusRequest {
            wait_for: sequence,
            wait_ms: u32::try_from(step.as_millis()).unwrap_or(u32::MAX),
        };
        let enforced: Enforced = ca.revocation().revocation_status(request).await?.into_inner().into();
        if told.as_ref() != Some(&enforced) {
            notice(&enforced.line());
        }
        if enforced.everywhere() || left <= step {
            return Ok(enforced);
        }
        told = Some(enforced);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enforced(agents: u64, agents_current: u64) -> Enforced {
        Enforced {
            agents,
            agents_current,
            acks: agents_current,
            p50_ack_ms: 4.0,
            p99_ack_ms: 12.345,
            slowest_ack_ms: 13.0,
            missing: (agents_current..agents)
                .take(2)
                .map(|number| format!("n{number}"))
                .collect(),
            not_connected: 0,
        }
    }

    #[test]
    fn progress_is_one_line() {
        let line = |agents, current| enforced(agents, current).line();
        assert_eq!(
            line(5, 3),
            "enforced on 3 of 5 agents, p50/p99 4.0/12.3 ms; missing: n3, n4"
        );
        assert_eq!(line(1, 1), "enforced on 1 of 1 agent, p50/p99 4.0/12.3 ms");
        assert_eq!(line(9, 0), "enforced on 0 of 9 agents; missing: n0, n1 and 7 more");
        let older = Enforced {
            missing: Vec::new(),
            ..enforced(2, 0)
        };
        assert_eq!(older.line(), "enforced on 0 of 2 agents");
        let away = Enforced {
            not_connected: 3,
            ..enforced(2, 2)
        };
        assert_eq!(
            away.line(),
            "enforced on 2 of 2 agents, p50/p99 4.0/12.3 ms; 3 not connected"
        );
        assert!(enforced(0, 0).line().contains("no agent is connected") && enforced(0, 0).everywhere());
        assert!(!enforced(5, 3).everywhere());
    }

    #[test]
    fn a_dry_run_tells_the_affected_set() {
        let revoked = Revoked {
            sequence: 0,
            certificates: 37,
            agents: vec!["n1".into(), "n2".into()],
            entries: vec!["web".into()],
            serials: vec!["4f".into()],
            blocked_keys: 3,
            left_without: vec!["web".into()],
            agent_count: 2,
            entry_count: 1,
            left_without_count: 4,
            dry_run: true,
            followed: Followed::default(),
        };
        let text = revoked.text();
        assert!(
            text.starts_with("would revoke 37 certificates of 2 agents through 1 entry\n"),
            "{text}"
        );
        assert!(text.contains("4f and 36 more"), "{text}");
        assert!(text.contains("left without identity  web and 3 more"), "{text}");
        assert!(serde_json::to_value(&revoked).unwrap().get("enforced").is_none());
        let followed = Followed { enforced: Some(None) };
        let unknown = serde_json::to_value(Revoked { followed, ..revoked }).unwrap();
        assert_eq!(unknown.get("enforced"), Some(&serde_json::Value::Null));
    }
}
