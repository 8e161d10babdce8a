//! The ledger for auditors: the paths of C2SP tlog-tiles over HTTPS, for the identities that the configuration names. A
//! reader needs a certificate of this CA, and is looked at again with each request; what he reads is signed by the log,
//! so he need not believe this listener either.

mod answer;
mod server;
mod settings;
mod shelf;

pub(crate) use self::{
    server::{Listener, start},
    settings::{AuditSettings, Auditors, RawAudit},
};
