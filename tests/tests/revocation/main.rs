//! Revocation: from the command to every verifier.
//!
//! One program for all of them: linking one for each costs more than running them.

mod crls;
mod first_octets;
mod listing;
mod outside;
mod reach;
mod revoke_from;
mod revoke_scopes;
mod revoke_told;
mod subscriber;
mod watching;
