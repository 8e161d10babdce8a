//! The agent: its socket, what it delivers, what it survives, and what it tells its operator.
//!
//! One program for all of them: linking one for each costs more than running them.

mod abuse;
mod crash;
mod credential;
mod doctor;
mod entitlement;
mod exec;
mod explain;
mod federation;
mod files;
mod jwt_svids;
mod lookups;
mod made_anew;
mod own_certificate;
mod receipts;
mod rejoin;
mod released;
mod restart;
mod sds;
mod socket;
mod svid_verbs;
mod two_agents;
mod withdrawn;
mod workload_rows;
