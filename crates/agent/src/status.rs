//! How the agent is, as one value: for the readiness page, the Status verb and whoever holds the handle.

use std::{path::PathBuf, time::Duration};

use mintage_identity::{Serial, SpiffeId, UnixTime};

use crate::limits::WORKLOAD_PROBLEMS_MAX;

/// A snapshot of the agent's state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentStatus {
    /// The agent's own SPIFFE ID, once it joined.
    pub spiffe_id: Option<SpiffeId>,
    /// End of its own certificate.
    pub not_after: Option<UnixTime>,
    /// Its own certificate has not ended.
    pub own_valid: bool,
    /// The stream to the CA is open.
    pub connected: bool,
    /// Why it is not.
    pub disconnected_because: Option<String>,
    /// The CA named this agent's entries since the start.
    pub entries_known: bool,
    /// Sequence of the trust bundle in force.
    pub bundle_sequence: Option<u64>,
    /// Sequence of the revocation set in force; 0 for none.
    pub revocation_sequence: u64,
    /// Age of the last revocation heartbeat; `None` without a filter.
    pub revocation_age: Option<Duration>,
    /// Trust bundle or revoked set that the CA offers and that is older than what is held: refused.
    pub refused_older: Vec<String>,
    /// Why no caller of the socket can be taken now: there is no file descriptor for it.
    pub no_descriptors: Option<String>,
    /// Which lists of revoked certificates callers of the socket do not get, since they do not fit into an answer.
    pub lists_left_out: Option<String>,
    /// The folders.
    pub deliveries: Vec<HeldStatus>,
    /// What is held in memory for socket callers.
    pub workloads: Vec<HeldStatus>,
}

/// One identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldStatus {
    /// The entry's name.
    pub entry: String,
    /// The folder; `None` in memory.
    pub directory: Option<PathBuf>,
    /// The identity in hand.
    pub spiffe_id: Option<SpiffeId>,
    /// Its serial.
    pub serial: Option<Serial>,
    /// Its end.
    pub not_after: Option<UnixTime>,
    /// A certificate is in place that has not ended.
    pub serving: bool,
    /// What went wrong last, with its stage.
    pub problem: Option<String>,
}

/// What the socket's services can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Serving {
    /// As `/ready` says: [`AgentStatus::not_ready_because`] is empty.
    pub(crate) ready: bool,
    /// Identities can be given: the CA named this agent's entries, and its own certificate has not ended.
    pub(crate) identities: bool,
    /// There is a revoked set to look up in.
    pub(crate) lookups: bool,
}

impl AgentStatus {
    /// Why the agent does not do all it should; empty when it is ready. A CA that cannot be reached is no reason as long
    /// as everything is served.
    pub fn not_ready_because(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.spiffe_id.is_none() {
            reasons.push("the agent has not joined".to_owned());
        } else if !self.own_valid {
            reasons.push("the agent's own certificate has ended".to_owned());
        }
        if !self.connected && !self.own_valid {
            reasons.extend(self.disconnected_because.clone());
        }
        if let Some(why) = &self.no_descriptors {
            reasons.push(format!("no caller of the socket is taken: {why}"));
        }
        for delivery in self.deliveries.iter().filter(|delivery| !delivery.serving) {
            reasons.push(delivery.told(delivery.problem.as_deref().unwrap_or("no certificate yet")));
        }
        reasons
    }

    /// What went wrong last and is not mended, though what is in place may serve for a while yet: what to look at before
    /// it becomes a reason.
    pub fn problems(&self) -> Vec<String> {
        let connection = self.disconnected_because.clone().filter(|_| !self.connected);
        let deliveries = self.deliveries.iter();
        let deliveries = deliveries.filter_map(|delivery| Some(delivery.told(delivery.problem.as_deref()?)));
        let older = self.refused_older.iter().cloned();
        let workloads = self.workload_problems();
        connection
            .into_iter()
            .chain(older)
            .chain(self.lists_left_out.clone())
            .chain(deliveries)
            .chain(workloads)
            .collect()
    }

    /// Those of identities for callers of the socket, of whom one must not make the page endless. They are no reason: each
    /// caller is told of its own, and the node serves all others.
    fn workload_problems(&self) -> Vec<String> {
        let workloads = self.workloads.iter();
        let mut told: Vec<String> = workloads
            .filter_map(|workload| Some(workload.told(workload.problem.as_deref()?)))
            .collect();
        let more = told.len().saturating_sub(WORKLOAD_PROBLEMS_MAX);
        if more > 0 {
            told.truncate(WORKLOAD_PROBLEMS_MAX);
            told.push(format!("and {more} more entries for callers of the socket"));
        }
        told
    }
}

impl HeldStatus {
    /// A problem with the place it is about.
    fn told(&self, problem: &str) -> String {
        match self.directory.as_deref() {
            Some(directory) => format!("{} in {}: {problem}", self.entry, directory.display()),
            None => format!("{} for callers of the socket: {problem}", self.entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> AgentStatus {
        AgentStatus {
            spiffe_id: SpiffeId::parse("spiffe://dev.test/mintage/agent/a").ok(),
            not_after: None,
            own_valid: true,
            connected: false,
            disconnected_because: Some("refused".to_owned()),
            entries_known: false,
            bundle_sequence: Some(1),
            revocation_sequence: 0,
            revocation_age: None,
            refused_older: Vec::new(),
            no_descriptors: None,
            lists_left_out: None,
            deliveries: vec![HeldStatus {
                entry: "web".to_owned(),
                directory: Some("/run/web".into()),
                spiffe_id: None,
                serial: None,
                not_after: None,
                serving: true,
                problem: Some("deliver: disk full".to_owned()),
            }],
            workloads: Vec::new(),
        }
    }

    #[test]
    fn what_goes_wrong_is_told_and_is_no_reason_while_everything_is_served() {
        let mut status = status();
        assert!(status.not_ready_because().is_empty());
        assert_eq!(status.problems(), ["refused", "web in /run/web: deliver: disk full"]);
        status.refused_older = vec!["older".to_owned()];
        assert_eq!(status.problems()[1], "older");
        status.lists_left_out = Some("too long".to_owned());
        assert_eq!(status.problems()[2], "too long");
        assert!(status.not_ready_because().is_empty());
        status.lists_left_out = None;
        status.connected = true;
        status.refused_older.clear();
        status.deliveries[0].problem = None;
        assert!(status.problems().is_empty());
    }

    #[test]
    fn what_callers_of_the_socket_cannot_have_is_told_in_part_and_is_no_reason() {
        let mut status = status();
        status.connected = true;
        let mut refused = status.deliveries.pop().unwrap();
        refused.directory = None;
        refused.serving = false;
        status.workloads = vec![refused; WORKLOAD_PROBLEMS_MAX + 3];
        assert!(status.not_ready_because().is_empty());
        let problems = status.problems();
        assert_eq!(problems.len(), WORKLOAD_PROBLEMS_MAX + 1);
        assert_eq!(problems[0], "web for callers of the socket: deliver: disk full");
        assert!(problems[WORKLOAD_PROBLEMS_MAX].contains("3 more"));
    }

    #[test]
    fn a_delivery_without_a_valid_certificate_and_an_ended_agent_are_reasons() {
        let mut status = status();
        status.deliveries[0].serving = false;
        status.own_valid = false;
        status.no_descriptors = Some("9 of 9 are in use".to_owned());
        let reasons = status.not_ready_because().join("; ");
        for part in [
            "has ended",
            "refused",
            "9 of 9 are in use",
            "web in /run/web: deliver: disk full",
        ] {
            assert!(reasons.contains(part), "{reasons}");
        }
        status.spiffe_id = None;
        assert!(status.not_ready_because()[0].contains("not joined"));
    }
}
