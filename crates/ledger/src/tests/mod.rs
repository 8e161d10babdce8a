//! Tests of the whole: what a crash, a bad disk or a second writer may do to a ledger.

mod batch;
mod closing;
mod committer;
mod cosigned;
mod crash;
mod damage;
mod faults;
mod follow;
mod given_up;
pub(crate) mod kit;
mod power;
mod removal;
mod revocations;
mod sealed_index;
mod search;
mod segments;
mod served;
mod shards;
mod store;
mod tile_dir;
mod upper_tiles;
mod verify;
