//! The import table, the homes of outside crates and the bans, held against `cargo metadata`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::sync::LazyLock;

use mintage_tests::layers::deny::Deny;
use mintage_tests::layers::house::{self, House, workspace_root};
use mintage_tests::layers::rules;
use mintage_tests::tidy::tree;

static HOUSE: LazyLock<House> = LazyLock::new(|| house::read(&workspace_root()).expect("cargo metadata answers"));

fn deny() -> Deny {
    let text = fs::read_to_string(workspace_root().join("deny.toml")).expect("deny.toml is there");
    Deny::parse(&text).expect("deny.toml reads")
}

#[track_caller]
fn none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn every_crate_has_its_row() {
    none(&rules::rooms(&HOUSE));
}

#[test]
fn nobody_imports_what_its_row_does_not_name() {
    none(&rules::imports(&HOUSE));
}

#[test]
fn what_must_never_be_reached_is_not() {
    none(&rules::never(&HOUSE));
}

#[test]
fn outside_crates_stay_at_home() {
    none(&rules::homes(&HOUSE));
}

#[test]
fn who_answers_from_memory_brings_in_no_runtime_and_no_network() {
    none(&rules::without(&HOUSE));
}

#[test]
fn the_house_is_not_deep() {
    none(&rules::depth(&HOUSE));
}

#[test]
fn unsafe_code_stays_in_its_two_rooms() {
    none(&rules::unsafe_code(&HOUSE, &tree::files(&workspace_root())));
}

#[test]
fn no_banned_crate_is_in_the_graph() {
    assert!(HOUSE.packages.len() > 100, "the graph was not read");
    none(&deny().bans(&HOUSE));
}

#[test]
fn every_licence_is_on_the_list() {
    none(&deny().licenses(&HOUSE));
}

#[test]
fn every_package_comes_from_an_allowed_source() {
    none(&deny().sources(&HOUSE));
}
