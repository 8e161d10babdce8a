//! `audit diff`: two copies of a ledger side by side, each as a CA keeps it or as it was exported, and verified while it is
//! read.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::{Path, PathBuf},
};

use clap::Args;
use mintage_ledger::{Hash, Policy};
use serde::Serialize;

use super::{
    progress::Progress,
    source::{Leaf, Offline},
    trust::Trust,
    verify::{Form, Shard},
};
use crate::{
    cli::Context,
    failure::Failure,
    output::{fields, table},
    text::count,
};

/// `audit diff`.
#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// The data directory of one CA or a copy of it, or what `audit export-tiles` or an auditor's copy has written.
    a: PathBuf,
    /// The other one.
    b: PathBuf,
    /// File with the verifier keys you trust for both; without it each folder's own list is taken.
    #[arg(long, value_name = "FILE")]
    vkey: Option<PathBuf>,
}

/// One of the two.
#[derive(Debug, Serialize)]
struct Whole {
    dir: PathBuf,
    /// Its logs, oldest first.
    origins: Vec<String>,
    records: u64,
    /// Root of the last of them.
    root: String,
}

/// Records of one kind that one ledger alone holds.
#[derive(Debug, Serialize)]
struct Only {
    records: u64,
    first: u64,
    last: u64,
}

type ByKind = BTreeMap<&'static str, Only>;

/// How far the two agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Relation {
    /// Record for record.
    Equal,
    /// The first is a beginning of the second.
    AIsPrefixOfB,
    /// The second is a beginning of the first.
    BIsPrefixOfA,
    /// They begin alike and then each goes its own way: one of them is no honest copy.
    Forked,
    /// They have not even the first record in common.
    Unrelated,
}

#[derive(Debug, Serialize)]
struct Difference {
    relation: Relation,
    equal: bool,
    /// Both begin with the same record.
    same_log: bool,
    /// Records that both hold at the same places, from the first on.
    common: u64,
    /// Where the first difference lies: log and index in it.
    first_difference: Option<Place>,
    a: Whole,
    b: Whole,
    only_in_a: ByKind,
    only_in_b: ByKind,
}

#[derive(Clone, Debug, Serialize)]
struct Place {
    origin: String,
    index: u64,
}

/// A ledger that is read.
struct Side {
    dir: PathBuf,
    offline: Offline<Shard>,
    /// Records that it says it holds.
    total: Option<u64>,
    waiting: VecDeque<Leaf>,
    /// What stands after the first difference, by its hash.
    rest: HashMap<Hash, (&'static str, u64)>,
}

impl Side {
    fn open(dir: &Path, policy: Option<Policy>) -> Result<Self, Failure> {
        let form = Form::of(dir)?.with_key(policy.as_ref())?;
        Ok(Self {
            dir: dir.to_owned(),
            total: form.total(),
            offline: Offline::start(move |check| form.verify(policy.as_ref(), check, Progress::hidden())),
            waiting: VecDeque::new(),
            rest: HashMap::new(),
        })
    }

    async fn next(&mut self) -> Option<Leaf> {
        if self.waiting.is_empty() {
            self.waiting.extend(self.offline.next().await?);
        }
        self.waiting.pop_front()
    }

    fn keep(&mut self, leaf: &Leaf) {
        let kind = leaf.stored.kind().map_or("unknown", mintage_ledger::Kind::name);
        self.rest.insert(leaf.hash(), (kind, leaf.index()));
    }

    async fn keep_rest(&mut self, looked: &mut u64, progress: &mut Progress) {
        while let Some(leaf) = self.next().await {
            self.keep(&leaf);
            *looked += 1;
            progress.tell(*looked);
        }
    }

    /// What it holds in all, once it is proven.
    async fn whole(self) -> Result<Whole, Failure> {
        let dir = self.dir;
        let shards = self.offline.end().await.map_err(|failure| match failure {
            Failure::No(text) => Failure::No(format!("{}: {text}", dir.display())),
            other => other,
        })?;
        Ok(Whole {
            origins: shards.iter().map(|shard| shard.origin.clone()).collect(),
            records: shards.iter().map(|shard| shard.size).sum(),
            root: shards.last().map(|shard| shard.root.clone()).unwrap_or_default(),
            dir,
        })
    }
}

/// The records of `one` that `other` has nowhere.
fn only(one: &HashMap<Hash, (&'static str, u64)>, other: &HashMap<Hash, (&'static str, u64)>) -> ByKind {
    let mut kinds = ByKind::new();
    for (kind, index) in one
        .iter()
        .filter(|(hash, _)| !other.contains_key(hash))
        .map(|(_, found)| *found)
    {
        let only = kinds.entry(kind).or_insert(Only {
            records: 0,
            first: index,
            last: index,
        });
        only.records += 1;
        only.first = only.first.min(index);
        only.last = only.last.max(index);
    }
    kinds
}

/// Reads both to their ends.
async fn compare(mut a: Side, mut b: Side) -> Result<Difference, Failure> {
    let (mut common, mut first_difference, mut ended) = (0, None, (false, false));
    let total = a.total.zip(b.total).map(|(a, b)| a.saturating_add(b));
    let (mut looked, mut progress) = (0, Progress::start(total));
    let place = |leaf: &Leaf| Place {
        origin: leaf.origin.clone(),
        index: leaf.index(),
    };
    loop {
        let (one, other) = (a.next().await, b.next().await);
        looked += u64::from(one.is_some()) + u64::from(other.is_some());
        progress.tell(looked);
        match (&one, &other) {
            (Some(one), Some(other)) if one.origin == other.origin && one.hash() == other.hash() => {
                common += 1;
                continue;
            }
            (None, None) => break,
            _ => ended = (one.is_none(), other.is_none()),
        }
        first_difference = one.as_ref().or(other.as_ref()).map(place);
        one.iter().for_each(|leaf| a.keep(leaf));
        other.iter().for_each(|leaf| b.keep(leaf));
        a.keep_rest(&mut looked, &mut progress).await;
        b.keep_rest(&mut looked, &mut progress).await;
        break;
    }
    let relation = match (&first_difference, ended) {
        (None, _) => Relation::Equal,
        (_, (true, _)) => Relation::AIsPrefixOfB,
        (_, (_, true)) => Relation::BIsPrefixOfA,
        _ if common == 0 => Relation::Unrelated,
        _ => Relation::Forked,
    };
    let (only_in_a, only_in_b) = (only(&a.rest, &b.rest), only(&b.rest, &a.rest));
    Ok(Difference {
        relation,
        equal: relation == Relation::Equal,
        same_log: common > 0,
        common,
        first_difference,
        a: a.whole().await?,
        b: b.whole().await?,
        only_in_a,
        only_in_b,
    })
}

impl Difference {
    /// The answer in one sentence.
    fn sentence(&self) -> String {
        let records = |whole: &Whole| count(whole.records, "record", "records");
        match self.relation {
            Relation::Equal => format!("equal: {} each, the same in every place", records(&self.a)),
            Relation::AIsPrefixOfB => format!("A ({}) is a beginning of B ({})", records(&self.a), records(&self.b)),
            Relation::BIsPrefixOfA => format!("B ({}) is a beginning of A ({})", records(&self.b), records(&self.a)),
            Relation::Forked => format!(
                "forked: the first {} are the same, then each goes its own way",
                count(self.common, "record", "records")
            ),
            Relation::Unrelated => "two logs that have nothing in common".to_owned(),
        }
    }

    fn text(&self) -> String {
        let side = |name: &'static str, whole: &Whole| {
            let text = format!(
                "{}, {} of {}",
                whole.dir.display(),
                whole.records,
                whole.origins.join(", ")
            );
            (name, text)
        };
        let place = self.first_difference.as_ref();
        let place = place.map(|place| format!("record {} of {}", place.index, place.origin));
        let mut text = format!("{}\n\n", self.sentence());
        text.push_str(&fields(&[
            side("A", &self.a),
            side("B", &self.b),
            ("first difference", place.unwrap_or_default()),
        ]));
        for (name, kinds) in [("A", &self.only_in_a), ("B", &self.only_in_b)] {
            if kinds.is_empty() {
                continue;
            }
            text.push_str(&format!("\nOnly in {name}\n"));
            let rows = kinds.iter().map(|(kind, only)| {
                let numbers = [only.records, only.first, only.last].map(|number| number.to_string());
                [vec![(*kind).to_owned()], numbers.to_vec()].concat()
            });
            text.push_str(&table(&["KIND", "RECORDS", "FIRST", "LAST"], rows));
        }
        text
    }
}

/// Runs the verb.
pub(super) async fn run(context: &Context, args: &DiffArgs) -> Result<(), Failure> {
    let trusted = Trust {
        vkey: args.vkey.clone(),
        policy: None,
    };
    let policy = trusted.read()?;
    let (a, b) = (Side::open(&args.a, policy.clone())?, Side::open(&args.b, policy)?);
    let difference = compare(a, b).await?;
    context.output.object(&difference, || difference.text())?;
    match difference.equal {
        true => Ok(()),
        false => Err(Failure::No(difference.sentence())),
    }
}

#[cfg(test)]
mod tests {
    use mintage_ledger::{Body, wire};

    use super::*;
    use crate::meaning::tests::kit::Story;

    fn written(story: &Story) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        story.write(&dir.path().join("ledger"));
        dir
    }

    async fn difference(a: &tempfile::TempDir, b: &tempfile::TempDir) -> Difference {
        let side = |dir: &tempfile::TempDir| Side::open(dir.path(), None).unwrap();
        compare(side(a), side(b)).await.unwrap()
    }

    #[tokio::test]
    async fn beginnings_forks_and_strangers_are_told_apart() {
        let mut story = Story::honest();
        let (short, size) = (written(&story), story.records.len() as u64);
        assert_eq!(difference(&short, &written(&story)).await.relation, Relation::Equal);
        story.admin(Body::EntryDelete(wire::EntryDelete {
            name: "web".into(),
            revision: story.find("entry.put") as u64,
        }));
        let long = written(&story);
        let found = difference(&short, &long).await;
        assert_eq!(
            (found.relation, found.common, found.same_log),
            (Relation::AIsPrefixOfB, size, true)
        );
        assert_eq!(found.first_difference.as_ref().unwrap().index, size);
        assert!(found.only_in_a.is_empty() && found.only_in_b["entry.delete"].records == 1);
        assert!(found.text().contains("Only in B\nKIND"), "{}", found.text());
        assert_eq!(difference(&long, &short).await.relation, Relation::BIsPrefixOfA);

        let last = story.records.len() - 1;
        story.records[last].salt = [9; 16];
        let found = difference(&long, &written(&story)).await;
        assert_eq!((found.relation, found.common), (Relation::Forked, size));
        assert_eq!((found.only_in_a.len(), found.only_in_b.len()), (1, 1));

        story.records[0].salt = [9; 16];
        let found = difference(&long, &written(&story)).await;
        assert_eq!((found.relation, found.same_log), (Relation::Unrelated, false));
        // Everything but the two that were changed stands in both, if not in the same log.
        assert_eq!(found.only_in_a.values().map(|only| only.records).sum::<u64>(), 2);
    }
}
