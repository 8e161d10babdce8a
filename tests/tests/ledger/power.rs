//! The power cut under the real CA, again and again, while agents ask and an administrator revokes. Afterwards the disk
//! holds what the CA had made durable and nothing else, or that and whatever chance spared of the rest; and the CA that
//! starts there has forgotten nothing it has said.
//!
//! Seeded: `MINTAGE_SEED` repeats a run's moments and what is spared. Two rounds, twenty with `MINTAGE_FULL=1`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{process::Command, time::Duration};

use mintage_tests::kit::{
    bins::binary,
    ca::CaProcess,
    dice::{Dice, full},
    load::{Shared, agents, live},
    power::PowerDisk,
    promises::{compare, verify_offline},
};

fn init(disk: &PowerDisk) {
    let output = Command::new(binary("mintage-ca"))
        .args(["init", "--trust-domain", "dev.test", "--data-dir"])
        .arg(disk.root().join("ca"))
        .envs(disk.env())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn start(disk: &PowerDisk) -> CaProcess {
    CaProcess::start_with(&disk.root().join("ca"), 0, disk.env())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ca_whose_power_is_cut_forgets_nothing_it_has_said() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut disk) = PowerDisk::new(folder.path()) else {
        return;
    };
    let mut dice = Dice::from_env();
    let shared = Shared::default();

    // What `init` has made is durable when it says so.
    init(&disk);
    disk.cut(|| false);
    let mut running = start(&disk);
    let agents = agents(&running.admin_socket()).await;
    for round in 0..if full() { 20 } else { 2 } {
        let before = shared.serials();
        let dies_after = Duration::from_millis(300 + dice.below(1200));
        live(running, &agents, &shared, Some(dies_after)).await;
        // The worst that may happen, and something in between, by turns.
        let worst = round % 2 == 0;
        disk.cut(|| !worst && dice.below(2) == 0);
        running = start(&disk);
        compare(&running.admin_socket(), &shared, &before, &mut dice).await;
    }
    live(running, &agents, &shared, None).await;
    // A clean stop, too, is durable when the program has ended.
    disk.cut(|| false);
    let reports = verify_offline(&disk.root().join("ca/ledger"), &shared);
    assert!(
        reports
            .iter()
            .all(|report| !report.unfinished_tail && report.checkpoint.size == report.size),
        "{reports:?}"
    );
}
