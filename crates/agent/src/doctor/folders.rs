//! The folders of the deliveries: whether the agent may write them, and what was delivered last.

use mintage_identity::UnixTime;
use mintage_svid::LeafInfo;
use mintage_sys::swap::{Folder, Standing};

use super::{
    Kept,
    notes::{Notes, span},
};
use crate::{Config, config::Delivery, write};

/// One line for each folder that is not as it should be, and one for all others.
pub(super) fn examine(notes: &mut Notes, config: &Config, kept: Option<&Kept>, now: UnixTime) {
    let deliveries = config.deliveries();
    let good = deliveries
        .iter()
        .filter(|delivery| folder(notes, delivery, kept, now))
        .count();
    if good > 0 {
        notes.ok(
            "folders",
            format!("{good} of {} are the agent's, with a certificate", deliveries.len()),
        );
    }
}

/// True when nothing is to be said of it.
fn folder(notes: &mut Notes, delivery: &Delivery, kept: Option<&Kept>, now: UnixTime) -> bool {
    let shown = delivery.directory().display();
    // Without a trust domain the marker of any is another's; so nothing is known of its tag.
    let domain = kept.and_then(Kept::domain);
    let tag = domain.map_or_else(String::new, ToString::to_string);
    match Folder::look(delivery.directory(), &write::rules(delivery, &tag)) {
        Ok(Standing::Ours) => {}
        Ok(Standing::Missing) => {
            notes.warn(
                "folder",
                format!("{shown} is not there yet"),
                "the agent makes it with the first delivery",
            );
            return false;
        }
        Ok(Standing::Empty) => {
            notes.warn(
                "folder",
                format!("{shown} is empty"),
                "the agent takes it with the first delivery",
            );
            return false;
        }
        Err(error) => {
            let unknown = domain.is_none();
            let advice = match unknown {
                true => "it may be this delivery's: that is known once the agent has joined",
                false => "nothing is delivered there; mend it or name another folder",
            };
            match unknown {
                true => notes.warn("folder", error.to_string(), advice),
                false => notes.fail("folder", error.to_string(), advice),
            }
            return false;
        }
    }
    let pair = kept.and_then(|kept| kept.store.delivery(delivery));
    let leaf = pair.and_then(|pair| LeafInfo::parse(pair.chain.first()?).ok());
    match leaf {
        Some(leaf) if now <= leaf.not_after() => true,
        Some(leaf) => {
            let told = format!(
                "{shown}: its certificate has ended {} ago",
                span(now.since(leaf.not_after()))
            );
            notes.fail("folder", told, "see the lines about agent and CA");
            false
        }
        None => {
            notes.warn(
                "folder",
                format!("{shown} has nothing of this agent's yet"),
                "see the lines about the agent",
            );
            false
        }
    }
}
