//! `mintage-agent doctor`: what an agent of this node needs, looked at one by one without changing anything; whatever is
//! not right comes with what to do about it.

mod bundle_map;
mod ca;
mod capabilities;
mod folders;
mod hooks;
mod node;
mod notes;
mod own;
mod socket;

use mintage_identity::TrustDomain;

use crate::{Config, Deps, bundle::Bundle, store::Membership, store::Store};
use notes::Notes;
pub use notes::{Finding, Level, Report};

/// What an agent left in its data directory.
struct Kept {
    store: Store,
    membership: Option<Membership>,
    bundle: Option<Bundle>,
}

impl Kept {
    fn domain(&self) -> Option<&TrustDomain> {
        self.membership.as_ref().map(|membership| &membership.trust_domain)
    }
}

/// Looks at everything that this configuration names. It asks the running agent and the CA's TLS, each within seconds, and
/// joins nothing.
pub async fn examine(config: &Config, deps: &Deps) -> Report {
    let mut notes = Notes::default();
    notes.ok("config", format!("valid, {} deliveries", config.deliveries().len()));
    node::kernel(&mut notes);
    let kept = own::data_dir(&mut notes, config.data_dir());
    let now = deps.wall();
    let running = match config.socket() {
        Some(path) => socket::examine(&mut notes, path).await,
        None => None,
    };
    capabilities::examine(&mut notes, config, running);
    if let Some(kept) = &kept {
        let signed = own::identity(&mut notes, kept, now);
        if let Some(path) = config.bundle_map() {
            bundle_map::examine(&mut notes, path, kept);
        }
        let heartbeat = own::map(&mut notes, kept, config, now);
        node::clock(&mut notes, signed.into_iter().chain(heartbeat), now);
        ca::examine(&mut notes, kept, config, deps).await;
    }
    folders::examine(&mut notes, config, kept.as_ref(), now);
    hooks::examine(&mut notes, config).await;
    notes.report()
}
