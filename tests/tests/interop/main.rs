//! Outside programs, as they come, before ours: see `tests/interop/README.md`.
//!
//! One program for all of them: linking one for each costs more than running them.

mod envoy;
mod envoy_sds;
mod files;
mod hooks;
mod ledger;
mod nginx;
mod postgres;
mod revocation;
mod rotation;
mod systemd;
mod workload;
