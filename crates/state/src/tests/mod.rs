//! What the state must withstand: any order and batching of records, crashes at any point, damaged files, races.

mod applying;
mod commands;
mod crash;
mod damage;
mod equality;
mod federated;
mod following;
mod samples;
mod snapshots;
