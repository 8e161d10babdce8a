//! The decision on a JWT-SVID: what a certificate by the same entry needs, and the audiences that the entry allows.

use mintage_attest::Attested;
use mintage_identity::{Audiences, EntryName, SpiffeId, Ttl, UnixTime};

use crate::decide::{Want, decide};
use crate::grant::{Denial, DenialKind, GrantedAgent, GrantedEntry};
use crate::view::{EntryView, IssuancePolicy};

/// A decision in favour: the whole content of a JWT-SVID but its dates and its own name. A [`crate::Grant`] is none and does
/// not become one, nor the other way round.
///
/// ```
/// fn once(grant: mintage_policy::JwtGrant) -> mintage_policy::JwtGrant {
///     grant
/// }
/// ```
///
/// ```compile_fail,E0599
/// fn twice(grant: mintage_policy::JwtGrant) -> (mintage_policy::JwtGrant, mintage_policy::JwtGrant) {
///     (grant.clone(), grant)
/// }
/// ```
///
/// ```compile_fail,E0451
/// fn widen(grant: mintage_policy::JwtGrant, audiences: mintage_identity::Audiences) -> mintage_policy::JwtGrant {
///     mintage_policy::JwtGrant { audiences, ..grant }
/// }
/// ```
#[derive(Debug)]
pub struct JwtGrant {
    spiffe_id: SpiffeId,
    ttl: Ttl,
    audiences: Audiences,
    entry: GrantedEntry,
    agent: GrantedAgent,
    decided_at: u64,
    floor: Option<UnixTime>,
}

/// Decides whether `attested` gets a JWT-SVID by the entry `name` for all of `audiences`.
///
/// # Errors
/// As [`decide`], and `jwt-audience` for what the entry does not allow.
pub fn decide_jwt(
    attested: &Attested,
    name: &EntryName,
    audiences: Audiences,
    view: &impl EntryView,
    now: UnixTime,
    policy: &IssuancePolicy,
) -> Result<JwtGrant, Denial> {
    let grant = decide(attested, &Want::Entry(name.clone()), view, now, policy)?;
    let (Some(entry), Some(agent), Some((standing, _))) = (grant.entry, grant.agent, view.entry(name)) else {
        let why = format!("there is no entry {name}");
        return Err(Denial::new(DenialKind::NotFound, "entry-unknown", why));
    };
    if let Some(why) = standing.why_no_jwt(&audiences) {
        let why = format!("entry {name}: {why}");
        return Err(Denial::new(DenialKind::PermissionDenied, "jwt-audience", why));
    }
    Ok(JwtGrant {
        spiffe_id: grant.spiffe_id,
        ttl: grant.ttl.min(policy.jwt_ttl),
        audiences,
        entry,
        agent,
        decided_at: grant.decided_at,
        floor: grant.not_before_floor,
    })
}

impl JwtGrant {
    /// The identity.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.spiffe_id
    }

    /// The lifetime.
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }

    /// Whom the token is for.
    pub fn audiences(&self) -> &Audiences {
        &self.audiences
    }

    /// The entry it was given by.
    pub fn entry(&self) -> &GrantedEntry {
        &self.entry
    }

    /// The agent that asked.
    pub fn agent(&self) -> &GrantedAgent {
        &self.agent
    }

    /// The control index of the state this was decided on.
    pub fn decided_at(&self) -> u64 {
        self.decided_at
    }

    /// The cut of the rules that speak of the identity: a token that they would strike is not made.
    pub fn floor(&self) -> Option<UnixTime> {
        self.floor
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> &'static str {
        "entry"
    }
}

#[cfg(test)]
mod tests {
    use mintage_identity::{AgentInstance, AgentName};

    use super::*;
    use crate::samples::{NOW, attested, entry, raw};
    use crate::{AgentState, AgentStatus, Entry, Floor, RawEntry};

    struct One(Entry, Floor);

    impl EntryView for One {
        fn entry(&self, name: &EntryName) -> Option<(&Entry, u64)> {
            (name.as_str() == "web").then_some((&self.0, 40))
        }
        fn agent(&self, _: &AgentName) -> Option<AgentState> {
            Some(AgentState {
                instance: AgentInstance(9),
                status: AgentStatus::Active,
            })
        }
        fn floor(&self, _: &SpiffeId) -> Floor {
            self.1
        }
        fn control_index(&self) -> u64 {
            77
        }
    }

    fn ask(raw: &RawEntry, floor: Floor, name: &str, audiences: &[&str]) -> Result<JwtGrant, Denial> {
        let audiences: Vec<String> = audiences.iter().map(|text| (*text).to_owned()).collect();
        decide_jwt(
            &attested("n1", 9, NOW),
            &EntryName::parse(name).unwrap(),
            Audiences::parse(&audiences).unwrap(),
            &One(entry(raw), floor),
            NOW,
            &IssuancePolicy::default(),
        )
    }

    #[test]
    fn a_grant_says_for_whom_and_lives_no_longer_than_the_policys_tokens() {
        let grant = ask(&raw("web"), Floor::Open, "web", &["b", "a"]).unwrap();
        assert_eq!(grant.spiffe_id().as_str(), "spiffe://dev.test/web");
        assert_eq!(grant.audiences().to_vec(), ["a", "b"]);
        assert_eq!(
            (grant.ttl().seconds(), grant.decided_at(), grant.floor()),
            (300, 77, None)
        );
        assert_eq!(
            (grant.entry().revision(), grant.agent().instance()),
            (40, AgentInstance(9))
        );
        let short = RawEntry {
            ttl_seconds: 60,
            ..raw("web")
        };
        assert_eq!(ask(&short, Floor::Open, "web", &["a"]).unwrap().ttl().seconds(), 60);
        let long = RawEntry {
            ttl_seconds: 86_400,
            ..raw("web")
        };
        assert_eq!(ask(&long, Floor::Open, "web", &["a"]).unwrap().ttl().seconds(), 300);
    }

    #[test]
    fn what_the_entry_forbids_is_refused_and_says_what_it_allows() {
        let only = RawEntry {
            jwt_audiences: vec!["db".into()],
            ..raw("web")
        };
        assert!(ask(&only, Floor::Open, "web", &["db"]).is_ok());
        let refused = ask(&only, Floor::Open, "web", &["db", "cache"]).unwrap_err();
        assert_eq!(
            (refused.code(), refused.kind()),
            ("jwt-audience", DenialKind::PermissionDenied)
        );
        assert!(
            refused.why().contains("entry web") && refused.why().contains("\"cache\""),
            "{refused}"
        );
        let none = RawEntry {
            jwt_forbidden: true,
            ..raw("web")
        };
        assert_eq!(
            ask(&none, Floor::Open, "web", &["db"]).unwrap_err().code(),
            "jwt-audience"
        );
        let off = RawEntry {
            disabled: true,
            ..raw("web")
        };
        assert_eq!(
            ask(&off, Floor::Open, "web", &["db"]).unwrap_err().code(),
            "entry-disabled"
        );
        assert_eq!(
            ask(&raw("web"), Floor::Open, "db", &["db"]).unwrap_err().code(),
            "entry-unknown"
        );
        assert_eq!(
            ask(&raw("web"), Floor::Blocked, "web", &["db"]).unwrap_err().code(),
            "identity-blocked"
        );
    }
}
