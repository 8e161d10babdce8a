//! An honest ledger is proven; each lie in it is named with its record.

mod control;
mod issuance;
pub(crate) mod kit;
mod revocations;
mod shards;
mod tokens;

use mintage_ledger::Body;

use self::kit::Story;
use crate::{audit::verify::VerifyArgs, failure::Failure};

/// Verifies the story and expects record `index` to be named, with these words.
#[track_caller]
fn offends(story: &Story, index: u64, words: &str) {
    let args = VerifyArgs {
        signatures: true,
        ..VerifyArgs::default()
    };
    let refused = story.verify(&args).expect_err(words);
    let told = refused.failure.to_string();
    assert!(matches!(refused.failure, Failure::No(_)), "{told}");
    assert!(told.contains(words), "{told}");
    assert_eq!(refused.index, Some(index), "{told}");
}

/// Appends one record and expects it to be named.
#[track_caller]
fn last_offends(mut story: Story, body: Body, words: &str) {
    story.admin(body);
    offends(&story, story.last(), words);
}

#[test]
fn an_honest_ledger_is_proven() {
    let story = Story::honest();
    let args = VerifyArgs {
        signatures: true,
        ..VerifyArgs::default()
    };
    let verified = story.verify(&args).map_err(|refused| refused.failure).unwrap();
    let json = serde_json::to_value(&verified).unwrap();
    assert_eq!(json["proven"], true);
    assert_eq!(
        (json["certificates"].as_u64(), json["records"]["revoke"].as_u64()),
        (Some(3), Some(1))
    );
    assert_eq!(json["shards"][0]["size"].as_u64(), Some(story.records.len() as u64));
}

/// More records than wait between the threads of a verification.
fn long(mut story: Story, records: usize) -> Story {
    for _ in 0..records {
        let reason = "a stop among thousands".into();
        story.push(
            kit::replica(),
            Body::LogClose(mintage_ledger::wire::LogClose { reason }),
        );
    }
    story
}

#[test]
fn of_a_long_ledger_every_record_is_judged_and_the_first_that_offends_is_named() {
    const MANY: usize = 9_000;
    let mut story = long(Story::honest(), MANY);
    let honest = story.records.len();
    let verified = story.verify(&VerifyArgs::default()).map_err(|refused| refused.failure);
    let json = serde_json::to_value(verified.unwrap()).unwrap();
    assert_eq!(json["records"]["log.close"].as_u64(), Some(MANY as u64 + 1));

    for _ in 0..2 {
        let stranger = mintage_ledger::wire::EntryDelete {
            name: "web".into(),
            ..Default::default()
        };
        story.push(kit::agent(9), Body::EntryDelete(stranger));
        story = long(story, MANY);
    }
    offends(&story, honest as u64, "who may not");
}
