//! However a view was built (one by one, in batches, out of the store at any point, from scratch), it is the same.

use std::collections::BTreeMap;

use mintage_identity::SpiffeId;
use mintage_ledger::{Body, Record, wire};
use mintage_policy::EntryView;
use proptest::prelude::*;

use super::samples::*;
use crate::View;
use crate::apply::Writes;
use crate::load::view_of;
use crate::sum::ContentSum;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const AGENTS: [&str; 3] = ["n1", "n2", "n3"];

/// One step of a history. What a record must name (a revision, an instance) is taken from the view when `right`, and
/// made up otherwise.
#[derive(Clone, Debug)]
struct Step {
    kind: u8,
    name: usize,
    agent: usize,
    byte: u8,
    flag: bool,
    right: bool,
    seconds: i64,
}

fn step() -> impl Strategy<Value = Step> {
    let right = prop::bool::weighted(0.85);
    let when = prop_oneof![4 => 0_i64..600, 1 => 0_i64..400_000];
    (
        0_u8..17,
        0..NAMES.len(),
        0..AGENTS.len(),
        0_u8..5,
        any::<bool>(),
        right,
        when,
    )
        .prop_map(|(kind, name, agent, byte, flag, right, seconds)| Step {
            kind,
            name,
            agent,
            byte,
            flag,
            right,
            seconds,
        })
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 0..60)
}

fn record_of(step: &Step, view: &View) -> Record {
    let (name, agent) = (NAMES[step.name], AGENTS[step.agent]);
    let revision = View::entry(view, &name.parse().unwrap()).map_or(0, |standing| standing.revision);
    let instance = View::agent(view, &agent.parse().unwrap()).map_or(0, |agent| agent.instance.0);
    let wrong = u64::from(!step.right);
    let id = format!("spiffe://dev.test/{name}");
    let body = match step.kind {
        0 | 1 => {
            let mut body = put(name, agent, 60 + u32::from(step.byte), revision + wrong);
            if let Body::EntryPut(put) = &mut body {
                put.disabled = step.flag;
                if step.byte == 4 {
                    put.agents.push("spiffe://dev.test/mintage/agent/*".into());
                }
            }
            body
        }
        2 => delete(name, revision + wrong),
        3 => token(step.byte, agent, 60),
        4 => Body::TokenDelete(wire::TokenDelete {
            token_hash: vec![step.byte; 32],
            agent: agent.into(),
        }),
        5 | 6 => consume(step.byte, agent, step.byte),
        7 => Body::AgentAttest(attest(agent, step.byte, if step.flag { instance + wrong } else { 0 })),
        8 => ban(agent, instance + wrong),
        9 => evict(agent, instance + wrong),
        10 => return agent_issue(step.seconds, agent, instance + wrong, step.byte),
        11 => return workload_issue(step.seconds, step.byte),
        12 => {
            let stage = wire::CaEventKind::try_from(i32::from(step.byte)).unwrap();
            let role = [wire::CaRole::Intermediate, wire::CaRole::Log][usize::from(step.flag)];
            ca_event(stage, role, 0xca, step.seconds)
        }
        13 => bundle(u64::from(step.byte) + 1),
        14 | 15 => {
            let domain = format!("{name}.test");
            let stands = view.federated_with(&domain.parse().unwrap());
            let revision = stands.map_or(0, |stands| stands.revision) + wrong;
            match step.kind {
                14 => Body::BundleFederatedSet(wire::BundleFederatedSet {
                    trust_domain: domain,
                    sequence: u64::from(step.byte),
                    roots_der: vec![vec![step.byte]],
                    revocation_unchecked: step.flag,
                    replaces_revision: revision,
                    ..Default::default()
                }),
                _ => Body::BundleFederatedRemove(wire::BundleFederatedRemove {
                    trust_domain: domain,
                    revision,
                }),
            }
        }
        _ => {
            let cut = step.right.then_some(NOW.seconds() + step.seconds);
            let rules = if step.flag {
                vec![identity_rule(&id, cut)]
            } else {
                Vec::new()
            };
            revoke(&[step.byte, step.byte + 10], rules)
        }
    };
    record(step.seconds, body)
}

/// The store as a plain map.
#[derive(Clone, Default)]
struct Content(BTreeMap<Vec<u8>, Vec<u8>>);

impl Content {
    fn take(&mut self, writes: Writes) {
        for (key, value) in writes {
            match value {
                Some(value) => _ = self.0.insert(key.to_bytes(), value),
                None => _ = self.0.remove(&key.to_bytes()),
            }
        }
    }

    fn view(&self, like: &View) -> View {
        view_of(&domain(), (like.applied(), like.control_head()), &self.0).unwrap()
    }

    fn sum(&self) -> ContentSum {
        let mut sum = ContentSum::default();
        self.0.iter().for_each(|(name, value)| sum.add(name, value));
        sum
    }
}

/// Everything that can be asked of a view, compared.
fn same(one: &View, other: &View) -> Result<(), TestCaseError> {
    prop_assert_eq!(one.digest(), other.digest());
    prop_assert_eq!(
        (one.applied(), one.control_head()),
        (other.applied(), other.control_head())
    );
    prop_assert!(one.entries().eq(other.entries()));
    prop_assert!(one.agents().eq(other.agents()));
    prop_assert!(one.tokens().eq(other.tokens()));
    prop_assert!(one.ca_keys().eq(other.ca_keys()));
    prop_assert_eq!(one.bundle(), other.bundle());
    prop_assert!(one.federated().eq(other.federated()));
    prop_assert_eq!(one.revoked().hash(), other.revoked().hash());
    prop_assert_eq!(one.revoked().serial_count(), other.revoked().serial_count());
    prop_assert!(one.revoked().rules().eq(other.revoked().rules()));
    for name in NAMES {
        let id = SpiffeId::parse(&format!("spiffe://dev.test/{name}")).unwrap();
        prop_assert_eq!(one.floor(&id), other.floor(&id));
        prop_assert!(one.entries_for_identity(&id).eq(other.entries_for_identity(&id)));
    }
    for agent in AGENTS {
        prop_assert_eq!(
            one.entries_for_agent(&agent_id(agent)),
            other.entries_for_agent(&agent_id(agent))
        );
    }
    Ok(())
}

/// Applies a history one by one, and gives the records, the view and the store after each.
fn play(history: &[Step]) -> (Vec<Record>, Vec<(View, Content)>) {
    let mut view = View::new(&domain());
    let mut content = Content::default();
    let mut records = Vec::new();
    let mut after = vec![(view.clone(), content.clone())];
    for step in std::iter::once(&Step {
        kind: 13,
        name: 0,
        agent: 0,
        byte: 0,
        flag: false,
        right: true,
        seconds: 0,
    })
    .chain(history)
    {
        let record = record_of(step, &view);
        content.take(view.step(view.applied(), &record).unwrap());
        after.push((view.clone(), content.clone()));
        records.push(record);
    }
    (records, after)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(rounds(2_000)))]

    #[test]
    fn the_store_at_any_point_gives_the_view_and_goes_on_to_the_same_end(history in history(), cut in any::<prop::sample::Index>()) {
        let (records, after) = play(&history);
        let (end, end_content) = after.last().unwrap();
        prop_assert_eq!(end_content.sum(), end.sum, "kept step by step, and made anew");
        let at = cut.index(after.len());
        let (then, content) = &after[at];
        let mut loaded = content.view(then);
        same(&loaded, then)?;
        let mut content = content.clone();
        for record in &records[at..] {
            content.take(loaded.step(loaded.applied(), record).unwrap());
        }
        same(&loaded, end)?;
        prop_assert_eq!(&content.0, &end_content.0);
    }

    #[test]
    fn writes_of_any_batching_lead_to_the_same_store(history in history(), lens in prop::collection::vec(1_usize..9, 1..60)) {
        let (records, after) = play(&history);
        let (end, end_content) = after.last().unwrap();
        let (mut view, mut content) = (View::new(&domain()), Content::default());
        let mut rest = records.as_slice();
        for len in lens.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            let (batch, later) = rest.split_at(len.min(rest.len()));
            // As the writer does: of several values of one object the last one counts.
            let mut coalesced = BTreeMap::new();
            for record in batch {
                coalesced.extend(view.step(view.applied(), record).unwrap());
            }
            content.take(coalesced.into_iter().collect());
            rest = later;
        }
        same(&view, end)?;
        prop_assert_eq!(&content.0, &end_content.0);
    }

    #[test]
    fn what_the_search_index_keeps_changes_only_the_count(history in history()) {
        let mut view = View::new(&domain());
        for step in &history {
            let record = record_of(step, &view);
            let before = view.clone();
            let writes = view.step(view.applied(), &record).unwrap();
            let unchanged = view.sum == before.sum;
            prop_assert_eq!(unchanged, writes.is_empty(), "the sum moves with what is written and with nothing else");
            if step.kind == 11 || view.ignored(before.applied()).is_some_and(|why| why != crate::Ignored::Unreadable) {
                prop_assert!(unchanged || matches!(record.body, Body::TokenCreate(_)));
            }
        }
    }

    #[test]
    fn changes_between_two_views_lead_from_one_to_the_other(history in history(), from in any::<prop::sample::Index>()) {
        let (_, after) = play(&history);
        let (older, newer) = (&after[from.index(after.len())].0, &after.last().unwrap().0);
        let mut entries: BTreeMap<_, _> = older.entries().map(|s| (s.entry.name().clone(), s.clone())).collect();
        for change in newer.entry_changes_since(older) {
            if let Some(before) = change.before {
                prop_assert_eq!(entries.remove(before.entry.name()), Some(before));
            }
            if let Some(after) = change.after {
                prop_assert!(entries.insert(after.entry.name().clone(), after).is_none());
            }
        }
        prop_assert!(entries.values().eq(newer.entries()));
    }
}

#[test]
fn the_digest_of_a_known_history_stays_what_it_is() {
    let mut view = View::new(&domain());
    let records = [
        bundle(1),
        put("web", "n1", 300, 0),
        token(7, "n1", 60),
        consume(7, "n1", 1),
        revoke(&[1], Vec::new()),
    ];
    for (index, body) in records.into_iter().enumerate() {
        view.apply(index as u64, &record(index as i64, body)).unwrap();
    }
    let digest: String = view.digest().iter().map(|octet| format!("{octet:02x}")).collect();
    // A change of this value means that stores of the version before are rebuilt: raise the store's version with it.
    assert_eq!(
        digest,
        "b2f0456638a4ea48f2bf222db8eb71e35eee50dde329b57a62b8846301428810"
    );
}
