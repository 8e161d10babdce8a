//! The real CA killed with `kill -9` at random points, again and again, while agents ask and an administrator revokes:
//! no certificate without its record and a valid proof of it, no serial twice, nothing revoked comes back to life.
//!
//! Seeded: `MINTAGE_SEED` repeats a run's moments of death. Thirty rounds, three hundred with `MINTAGE_FULL=1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use mintage_tests::kit::{
    ca::{self, CaProcess},
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
    for _ in 0..if full() { 300 } else { 30 } {
        let before = shared.serials();
        let dies_after = Duration::from_millis(dice.below(1400));
        live(running, &agents, &shared, Some(dies_after)).await;
        running = CaProcess::start(&dir, 0);
        compare(&running.admin_socket(), &shared, &before, &mut dice).await;
    }
    live(running, &agents, &shared, None).await;

    let reports = verify_offline(&dir.join("ledger"), &shared);
    assert!(
        reports
            .iter()
            .all(|report| !report.unfinished_tail && report.checkpoint.size == report.size),
        "{reports:?}"
    );
}
