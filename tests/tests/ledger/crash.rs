//! The real CA killed with `kill -9` at random points, again and again, while agents ask and an administrator revokes:
//! no certificate without its record and a valid proof of it, no serial twice, nothing revoked comes back to life. In the middle
//! of it a log of the ledger ends and the next begins, and the same is promised of both.
//!
//! Seeded: `MINTAGE_SEED` repeats a run's moments of death. Thirty rounds, three hundred with `MINTAGE_FULL=1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, time::Duration};

use mintage_proto::v1::{RollRequest, ledger_client::LedgerClient};
use mintage_tests::kit::{
    ca::{self, CaProcess},
    client::admin,
    dice::{Dice, full},
    load::{Shared, agents, live},
    promises::{compare, verify_offline},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_killed_at_any_moment_forgets_nothing_it_has_said() {
    let mut dice = Dice::from_env();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("ca");
    ca::make(&dir);
    let shared = Shared::default();

    let mut running = CaProcess::start(&dir, 0);
    let agents = agents(&running.admin_socket()).await;
    let rounds = if full() { 300 } else { 30 };
    for round in 0..rounds {
        let before = shared.serials();
        if round == rounds / 2 {
            let ledger = admin(&running.admin_socket()).await.unwrap();
            let rolled = LedgerClient::new(ledger).roll(RollRequest::default()).await;
            rolled.expect("the log ends and the next begins");
        }
        let dies_after = Duration::from_millis(dice.below(1400));
        live(running, &agents, &shared, Some(dies_after)).await;
        running = CaProcess::start(&dir, 0);
        compare(&running.admin_socket(), &shared, &before, &mut dice).await;
    }
    live(running, &agents, &shared, None).await;

    // A second log, and in each of them something that was promised.
    let reports = verify_offline(&dir.join("ledger"), &shared);
    assert!(
        reports
            .iter()
            .all(|report| !report.unfinished_tail && report.checkpoint.size == report.size),
        "{reports:?}"
    );
    let logs: BTreeSet<String> = shared.look(|told| {
        let receipts = told.certificates.values();
        receipts.map(|receipt| receipt.origin.clone()).collect()
    });
    assert_eq!((reports.len(), logs.len()), (2, 2));
}
