//! One JWT-SVID against everything that stood when it was recorded. The token is not here; its claims are.

use mintage_identity::{Audiences, Selector, SpiffeId, Ttl, UnixTime};
use mintage_ledger::{Record, wire};

use super::{Meaning, issue::AHEAD_MAX};

impl Meaning {
    /// A record of a token: who asked, by which entry, for whom, for how long, and by which key.
    pub(super) fn issue_jwt(&self, record: &Record, issue: &wire::IssueJwt) -> Result<(), String> {
        if record.control_seen < self.control_head {
            let (seen, last) = (record.control_seen, self.control_head - 1);
            return Err(format!(
                "it was decided at {seen}, before record {last}, which restricts"
            ));
        }
        let agent = self.asking_agent(record)?;
        let id = SpiffeId::parse(&issue.spiffe_id).map_err(|error| error.to_string())?;
        if !id.is_member_of(self.domain()?) || id.reserved().is_some() {
            return Err(format!("{id} is no workload of this trust domain"));
        }
        let longest = self.check_jwt_entry(agent, &id, issue)?;
        let ttl = granted(record.time, issue)?;
        if ttl > longest {
            return Err(format!(
                "its lifetime {ttl} is over the {longest} of entry {}",
                issue.entry
            ));
        }
        self.check_ttl(ttl)?;
        self.strikes.check_jwt(&id, UnixTime::from_seconds(issue.issued_s))?;
        self.keys.jwt(&issue.kid)
    }

    /// That the entry gives this token. Returns the longest lifetime that it gives.
    fn check_jwt_entry(&self, agent: &SpiffeId, id: &SpiffeId, issue: &wire::IssueJwt) -> Result<Ttl, String> {
        let name = &issue.entry;
        let standing = self.standing.entry(name)?;
        let entry = &standing.entry;
        if standing.revision != issue.entry_revision {
            let (given, stands) = (issue.entry_revision, standing.revision);
            return Err(format!(
                "it was issued by revision {given} of entry {name}, where revision {stands} stood"
            ));
        }
        if entry.is_disabled() {
            return Err(format!("entry {name} was disabled"));
        }
        if !entry.is_for_agent(agent) {
            return Err(format!("entry {name} is not for {agent}"));
        }
        if entry.spiffe_id() != id {
            return Err(format!("its identity is not what entry {name} says"));
        }
        let selectors = entry.selectors().iter().map(Selector::as_str);
        if !selectors.eq(issue.selectors.iter().map(String::as_str)) {
            return Err(format!("its list of selectors is not what entry {name} says"));
        }
        let audiences = Audiences::parse(&issue.audiences).map_err(|error| error.to_string())?;
        match entry.why_no_jwt(&audiences) {
            Some(why) => Err(format!("entry {name} does not allow it: {why}")),
            None => Ok(entry.ttl()),
        }
    }
}

/// The lifetime of a token that was issued when it was recorded.
fn granted(recorded: UnixTime, issue: &wire::IssueJwt) -> Result<Ttl, String> {
    let (issued, expires) = (
        UnixTime::from_seconds(issue.issued_s),
        UnixTime::from_seconds(issue.expires_s),
    );
    let now = recorded.floor_to_second();
    if issued < now || issued > now.plus(AHEAD_MAX) {
        return Err("its token was not issued when it was recorded".into());
    }
    let seconds = issue.expires_s.saturating_sub(issue.issued_s);
    match Ttl::from_seconds(seconds) {
        Ok(ttl) if expires > issued => Ok(ttl),
        _ => Err(format!("its token lives for {seconds} s, which no JWT-SVID does")),
    }
}
