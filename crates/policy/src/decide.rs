//! The decision: what the CA itself has proven about an agent, what it wants, and the state, give a Grant or a Denial.

use std::{sync::Arc, time::Duration};

use mintage_attest::Attested;
use mintage_identity::{EntryName, UnixTime};

use crate::grant::{Denial, DenialKind, Grant, GrantedAgent, GrantedEntry, Profile};
use crate::view::{AgentStatus, EntryView, IssuancePolicy, not_before_floor};

/// Oldest proof a decision rests on: proofs are made per message, so an older one was kept where it should not be.
const PROOF_AGE_MAX: Duration = Duration::from_secs(120);

/// What an attested agent asks for. It names an entry, never an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A certificate by this entry.
    Entry(EntryName),
    /// The agent's own certificate.
    AgentItself,
}

/// Decides whether `attested` gets what it wants.
///
/// # Errors
/// The one thing that failed.
pub fn decide(
    attested: &Attested,
    want: &Want,
    view: &impl EntryView,
    now: UnixTime,
    policy: &IssuancePolicy,
) -> Result<Grant, Denial> {
    let agent = standing_agent(attested, view, now)?;
    match want {
        Want::Entry(name) => by_entry(agent, name, view, now, policy),
        Want::AgentItself => {
            let spiffe_id = agent.id.clone();
            Ok(Grant {
                not_before_floor: not_before_floor(&spiffe_id, view, now)?,
                spiffe_id,
                ttl: policy.agent_ttl,
                dns_names: Vec::new(),
                common_name: None,
                entry: None,
                agent: Some(agent),
                decided_at: view.control_index(),
                profile: Profile::Agent,
                rule: "agent-itself",
            })
        }
    }
}

/// The agent, if the state still knows it as it was attested.
fn standing_agent(attested: &Attested, view: &impl EntryView, now: UnixTime) -> Result<GrantedAgent, Denial> {
    let refuse = |code, why: String| Err(Denial::new(DenialKind::Unauthenticated, code, why));
    let id = attested.agent();
    let age = now.since(attested.proven_at());
    if age > PROOF_AGE_MAX {
        return refuse(
            "proof-too-old",
            format!("{id} was proven {} s ago; prove it again", age.as_secs()),
        );
    }
    let Some(state) = view.agent(attested.name()) else {
        return refuse("agent-unknown", format!("{id} is not registered; join with a token"));
    };
    if state.instance != attested.instance() {
        let why = format!(
            "{id} was joined anew; this is its former instance {}",
            attested.instance()
        );
        return refuse("agent-superseded", why);
    }
    match state.status {
        AgentStatus::Active => Ok(GrantedAgent {
            id: id.clone(),
            instance: state.instance,
            attestation: attested.kind(),
            evidence: *attested.evidence(),
            proven_at: attested.proven_at(),
        }),
        AgentStatus::Banned => refuse("agent-banned", format!("{id} is banned")),
        AgentStatus::Evicted => refuse("agent-evicted", format!("{id} was evicted; join with a new token")),
    }
}

fn by_entry(
    agent: GrantedAgent,
    name: &EntryName,
    view: &impl EntryView,
    now: UnixTime,
    policy: &IssuancePolicy,
) -> Result<Grant, Denial> {
    let Some((entry, revision)) = view.entry(name) else {
        return Err(Denial::new(
            DenialKind::NotFound,
            "entry-unknown",
            format!("there is no entry {name}"),
        ));
    };
    if !entry.is_for_agent(&agent.id) {
        let why = format!("entry {name} is not for {}", agent.id);
        return Err(Denial::new(DenialKind::PermissionDenied, "entry-not-for-agent", why));
    }
    if entry.is_disabled() {
        let why = format!("entry {name} is disabled");
        return Err(Denial::new(DenialKind::PermissionDenied, "entry-disabled", why));
    }
    Ok(Grant {
        not_before_floor: not_before_floor(entry.spiffe_id(), view, now)?,
        spiffe_id: entry.spiffe_id().clone(),
        ttl: entry.ttl().min(policy.max_ttl),
        dns_names: entry.dns_names().to_vec(),
        common_name: entry.common_name().map(str::to_owned),
        entry: Some(GrantedEntry {
            name: name.clone(),
            revision,
            selectors: Arc::clone(&entry.selectors),
        }),
        agent: Some(agent),
        decided_at: view.control_index(),
        profile: Profile::Workload,
        rule: "entry",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mintage_identity::{AgentInstance, AgentName, SpiffeId, SpkiHash, Ttl};

    use super::*;
    use crate::samples::{NOW, agent_id, attested, domain, entry, raw};
    use crate::{
        AgentState, DenialKind, Entry, Floor, KeyView, NothingYet, RawEntry, check_holders, check_key_for,
        grant_replica,
    };

    struct Table {
        entries: BTreeMap<EntryName, (Entry, u64)>,
        agent: Option<AgentState>,
        floor: Floor,
    }

    impl EntryView for Table {
        fn entry(&self, name: &EntryName) -> Option<(&Entry, u64)> {
            self.entries.get(name).map(|(entry, revision)| (entry, *revision))
        }
        fn agent(&self, name: &AgentName) -> Option<AgentState> {
            self.agent.filter(|_| name.as_str() == "n1")
        }
        fn floor(&self, _: &SpiffeId) -> Floor {
            self.floor
        }
        fn control_index(&self) -> u64 {
            77
        }
    }

    impl KeyView for Table {
        fn key_blocked(&self, key: &SpkiHash) -> bool {
            key.as_bytes()[0] == 0xbb
        }
        fn key_of_ca(&self, key: &SpkiHash) -> bool {
            key.as_bytes()[0] == 0xca
        }
    }

    fn table(raws: &[RawEntry]) -> Table {
        let entries = raws.iter().map(entry).map(|entry| (entry.name().clone(), (entry, 40)));
        let agent = Some(AgentState {
            instance: AgentInstance(9),
            status: AgentStatus::Active,
        });
        Table {
            entries: entries.collect(),
            agent,
            floor: Floor::Open,
        }
    }

    fn want(name: &str) -> Want {
        Want::Entry(EntryName::parse(name).unwrap())
    }

    fn denial(table: &Table, name: &str) -> (&'static str, DenialKind) {
        let denial = decide(
            &attested("n1", 9, NOW),
            &want(name),
            table,
            NOW,
            &IssuancePolicy::default(),
        )
        .unwrap_err();
        assert!(!denial.why().is_empty());
        (denial.code(), denial.kind())
    }

    #[test]
    fn a_grant_says_what_the_entry_says_and_where_it_comes_from() {
        let table = table(&[raw("web")]);
        let grant = decide(
            &attested("n1", 9, NOW),
            &want("web"),
            &table,
            NOW,
            &IssuancePolicy::default(),
        )
        .unwrap();
        assert_eq!(grant.spiffe_id().as_str(), "spiffe://dev.test/web");
        assert_eq!((grant.ttl_seconds(), grant.dns_names().len()), (300, 2));
        assert_eq!((grant.common_name(), grant.rule()), (Some("web.dev.test"), "entry"));
        assert_eq!((grant.decided_at(), grant.not_before_floor()), (77, None));
        assert_eq!((grant.profile(), grant.attestation_kind()), (Profile::Workload, "svid"));
        let by = grant.entry().unwrap();
        assert_eq!(
            (by.name().as_str(), by.revision(), by.selectors().len()),
            ("web", 40, 2)
        );
        assert_eq!(grant.agent().unwrap().instance(), AgentInstance(9));
    }

    #[test]
    fn an_agent_gets_only_what_its_own_entries_allow() {
        let other = RawEntry {
            agents: vec![agent_id("n2").to_string()],
            ..raw("db")
        };
        let off = RawEntry {
            disabled: true,
            ..raw("off")
        };
        let table = table(&[raw("web"), other, off]);
        assert_eq!(
            denial(&table, "db"),
            ("entry-not-for-agent", DenialKind::PermissionDenied)
        );
        assert_eq!(denial(&table, "gone"), ("entry-unknown", DenialKind::NotFound));
        assert_eq!(denial(&table, "off"), ("entry-disabled", DenialKind::PermissionDenied));
    }

    #[test]
    fn banned_evicted_superseded_and_unknown_agents_get_nothing_not_even_their_own() {
        let policy = IssuancePolicy::default();
        let mut table = table(&[raw("web")]);
        for (state, code) in [
            (Some((9, AgentStatus::Banned)), "agent-banned"),
            (Some((9, AgentStatus::Evicted)), "agent-evicted"),
            (Some((10, AgentStatus::Active)), "agent-superseded"),
            (Some((10, AgentStatus::Banned)), "agent-superseded"),
            (None, "agent-unknown"),
        ] {
            table.agent = state.map(|(instance, status)| AgentState {
                instance: AgentInstance(instance),
                status,
            });
            for want in [want("web"), Want::AgentItself] {
                let denial = decide(&attested("n1", 9, NOW), &want, &table, NOW, &policy).unwrap_err();
                assert_eq!((denial.code(), denial.kind()), (code, DenialKind::Unauthenticated));
            }
        }
    }

    #[test]
    fn a_proof_that_was_kept_is_too_old() {
        let table = table(&[raw("web")]);
        let decide_after = |seconds| {
            let now = NOW.plus(Duration::from_secs(seconds));
            decide(
                &attested("n1", 9, NOW),
                &want("web"),
                &table,
                now,
                &IssuancePolicy::default(),
            )
        };
        assert!(decide_after(120).is_ok());
        assert_eq!(decide_after(121).unwrap_err().code(), "proof-too-old");
    }

    #[test]
    fn the_servers_limit_cuts_the_lifetime_and_agents_have_their_own() {
        let table = table(&[RawEntry {
            ttl_seconds: 86_400,
            ..raw("web")
        }]);
        let ttl = |seconds| Ttl::from_seconds(seconds).unwrap();
        let policy = IssuancePolicy {
            max_ttl: ttl(600),
            agent_ttl: ttl(1_800),
            ..IssuancePolicy::default()
        };
        let agent = attested("n1", 9, NOW);
        assert_eq!(
            decide(&agent, &want("web"), &table, NOW, &policy)
                .unwrap()
                .ttl_seconds(),
            600
        );
        let own = decide(&agent, &Want::AgentItself, &table, NOW, &policy).unwrap();
        assert_eq!(
            (own.ttl_seconds(), own.profile(), own.entry()),
            (1_800, Profile::Agent, None)
        );
        assert_eq!(own.spiffe_id(), &agent_id("n1"));
        assert!(own.dns_names().is_empty());
    }

    #[test]
    fn a_requested_lifetime_is_cut_to_the_granted_or_refused_and_never_overflows() {
        let table = table(&[raw("web")]);
        let grant = || {
            decide(
                &attested("n1", 9, NOW),
                &want("web"),
                &table,
                NOW,
                &IssuancePolicy::default(),
            )
            .unwrap()
        };
        for (asked, given) in [(60, 60), (299, 299), (300, 300), (301, 300), (i64::MAX, 300)] {
            assert_eq!(grant().shortened(asked).unwrap().ttl_seconds(), given);
        }
        for bad in [0, -1, 1, 59, i64::MIN] {
            let denial = grant().shortened(bad).unwrap_err();
            assert_eq!(
                (denial.code(), denial.kind()),
                ("lifetime", DenialKind::InvalidArgument)
            );
        }
    }

    #[test]
    fn revocation_rules_raise_the_floor_or_block() {
        let mut table = table(&[raw("web")]);
        let ahead = |seconds| Floor::Above(NOW.plus(Duration::from_secs(seconds)));
        let decide = |table: &Table| {
            decide(
                &attested("n1", 9, NOW),
                &want("web"),
                table,
                NOW,
                &IssuancePolicy::default(),
            )
        };
        table.floor = ahead(1);
        assert_eq!(
            decide(&table).unwrap().not_before_floor(),
            Some(NOW.plus(Duration::from_secs(1)))
        );
        table.floor = ahead(61);
        assert_eq!(decide(&table).unwrap_err().code(), "cut-ahead");
        table.floor = Floor::Blocked;
        assert_eq!(decide(&table).unwrap_err().code(), "identity-blocked");
        let replica = "r1".parse().unwrap();
        assert!(grant_replica(&domain(), &replica, Ttl::DEFAULT, &table, NOW).is_err());
        let grant = grant_replica(&domain(), &replica, Ttl::DEFAULT, &NothingYet, NOW).unwrap();
        assert_eq!((grant.spiffe_id().path(), grant.decided_at()), ("/mintage/ca/r1", 0));
        assert_eq!((grant.profile(), grant.agent()), (Profile::Replica, None));
    }

    #[test]
    fn keys_that_are_blocked_the_cas_own_under_another_id_or_reused_are_refused() {
        let table = table(&[raw("web")]);
        let policy = IssuancePolicy::default();
        let grant = decide(&attested("n1", 9, NOW), &want("web"), &table, NOW, &policy).unwrap();
        let (web, db) = (
            grant.spiffe_id().clone(),
            SpiffeId::parse("spiffe://dev.test/db").unwrap(),
        );
        let check = |first: u8, holders: &[&SpiffeId], policy: &IssuancePolicy| {
            let key = SpkiHash::new([first; 32]);
            check_key_for(grant.spiffe_id(), &key, &table, [])
                .and_then(|_| check_holders(&grant, &key, holders.iter().copied(), policy))
                .map_err(|d| (d.code(), d.kind()))
        };
        assert_eq!(check(1, &[], &policy), Ok(()));
        assert_eq!(
            check(0xbb, &[], &policy),
            Err(("key-blocked", DenialKind::PermissionDenied))
        );
        assert_eq!(
            check(0xca, &[], &policy),
            Err(("key-of-ca", DenialKind::PermissionDenied))
        );
        assert_eq!(
            check(1, &[&db], &policy),
            Err(("key-under-other-id", DenialKind::PermissionDenied))
        );
        assert_eq!(
            check(1, &[&web, &db], &policy),
            Err(("key-under-other-id", DenialKind::PermissionDenied))
        );
        assert_eq!(
            check(1, &[&web], &policy),
            Err(("key-reused", DenialKind::FailedPrecondition))
        );
        assert_eq!(
            check(
                1,
                &[&web],
                &IssuancePolicy {
                    rotate_keys: false,
                    ..policy
                }
            ),
            Ok(())
        );
    }
}
