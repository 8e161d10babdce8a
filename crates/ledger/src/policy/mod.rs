//! Trust policies (C2SP tlog-policy): which logs, which witnesses, and how many of them a checkpoint needs.

mod read;

use mintage_identity::UnixTime;

use crate::{
    CosignerKey, LedgerError,
    foreign::ForeignCheckpoint,
    limits::POLICY_LOGS_MAX,
    note::{SignedNote, Vkey},
};

/// A policy, read or made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<PolicyLog>,
    witnesses: Vec<PolicyWitness>,
    groups: Vec<Group>,
    quorum: Option<Member>,
}

/// A log whose checkpoints are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyLog {
    /// Its key, named like its origin line.
    pub vkey: Vkey,
    /// Where it can be reached.
    pub url: Option<String>,
}

/// A witness whose cosignatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyWitness {
    /// Its name in the policy, as far as it is text.
    pub name: String,
    /// Its key.
    pub key: CosignerKey,
    /// Where it can be reached.
    pub url: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Witness(usize),
    Group(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    needed: usize,
    members: Vec<Member>,
}

/// What a policy says of a checkpoint that one of its logs signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// The log.
    pub log: &'a PolicyLog,
    /// What it signed.
    pub checkpoint: ForeignCheckpoint,
    /// The known witnesses that cosigned it, and when.
    pub witnesses: Vec<(&'a PolicyWitness, UnixTime)>,
    /// Whether they are enough.
    pub quorum: bool,
}

impl Policy {
    /// A policy that accepts these logs and asks for no witness.
    ///
    /// # Errors
    /// Refuses no log at all, and one public key under two names.
    pub fn trusting(logs: impl IntoIterator<Item = Vkey>) -> Result<Self, LedgerError> {
        let mut policy = Self::empty();
        for vkey in logs {
            policy
                .add_log(vkey, None)
                .map_err(|problem| LedgerError::format("policy", problem))?;
        }
        match policy.logs.is_empty() {
            true => Err(LedgerError::format("policy", "lists no log")),
            false => Ok(policy),
        }
    }

    fn empty() -> Self {
        Self {
            logs: Vec::new(),
            witnesses: Vec::new(),
            groups: Vec::new(),
            quorum: None,
        }
    }

    /// This policy, and this log trusted as those in it are.
    ///
    /// # Errors
    /// Refuses a log whose key is another's, and more than a policy has.
    pub fn with_log(&self, vkey: Vkey) -> Result<Self, LedgerError> {
        if self.logs.iter().any(|log| log.vkey == vkey) {
            return Ok(self.clone());
        }
        let mut more = self.clone();
        more.add_log(vkey, None)
            .map_err(|problem| LedgerError::format("policy", problem))?;
        Ok(more)
    }

    /// The logs, in the order of their lines.
    pub fn logs(&self) -> &[PolicyLog] {
        &self.logs
    }

    /// The witnesses, in the order of their lines.
    pub fn witnesses(&self) -> &[PolicyWitness] {
        &self.witnesses
    }

    /// Whether a checkpoint needs any cosignature.
    pub fn asks_for_witnesses(&self) -> bool {
        self.quorum.is_some()
    }

    /// Holds a note against the policy: which log signed it, which known witnesses cosigned it, and whether they are
    /// enough. Lines of unknown keys are ignored.
    ///
    /// # Errors
    /// Refuses a note that is no checkpoint, one that no listed log signed for its own origin, and a bad line of a known
    /// key.
    pub fn check(&self, note: &SignedNote) -> Result<Checked<'_>, LedgerError> {
        let checkpoint = ForeignCheckpoint::parse(note.text())?;
        let mut signer = None;
        for log in self.logs.iter().filter(|log| log.vkey.name() == checkpoint.origin()) {
            if note.lines_of(log.vkey.named()).next().is_some() {
                note.verify(&log.vkey)?;
                signer = signer.or(Some(log));
            }
        }
        let log = signer.ok_or_else(|| {
            let origin = checkpoint.origin();
            LedgerError::Signature(format!("no log of the policy has signed this checkpoint of {origin:?}"))
        })?;
        let mut witnesses = Vec::new();
        for witness in &self.witnesses {
            witnesses.extend(witness.key.time_on(note)?.map(|time| (witness, time)));
        }
        let cosigned: Vec<bool> = self
            .witnesses
            .iter()
            .map(|witness| witnesses.iter().any(|(known, _)| known.key == witness.key))
            .collect();
        Ok(Checked {
            log,
            quorum: self.holds(&cosigned),
            checkpoint,
            witnesses,
        })
    }

    /// Whether the quorum is met by these witnesses.
    fn holds(&self, cosigned: &[bool]) -> bool {
        let mut groups: Vec<bool> = Vec::with_capacity(self.groups.len());
        let met = |groups: &[bool], member: &Member| match member {
            Member::Witness(at) => cosigned.get(*at).copied().unwrap_or(false),
            Member::Group(at) => groups.get(*at).copied().unwrap_or(false),
        };
        // A group has only members of earlier lines, so one pass knows them all.
        for group in &self.groups {
            let count = group.members.iter().filter(|member| met(&groups, member)).count();
            groups.push(count >= group.needed);
        }
        self.quorum.is_none_or(|member| met(&groups, &member))
    }

    fn add_log(&mut self, vkey: Vkey, url: Option<String>) -> Result<(), String> {
        if self.logs.iter().any(|log| log.vkey.public_key() == vkey.public_key()) {
            return Err(format!("the key of {:?} is listed twice", vkey.name()));
        }
        if self.logs.len() >= POLICY_LOGS_MAX {
            return Err(format!("has over {POLICY_LOGS_MAX} logs"));
        }
        self.logs.push(PolicyLog { vkey, url });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
