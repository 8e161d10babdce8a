//! One identity's place: its rotation, the pair in hand, the ask under way and what went wrong last.

use std::{path::Path, sync::Arc, time::Duration};

use mintage_identity::{EntryName, RequestId, Serial, UnixTime};
use mintage_proto::v1;
use tonic::Code;
use zeroize::Zeroizing;

use super::{boot, hooks::Acting};
use crate::{
    config::Delivery,
    federation::Foreign,
    held::Held,
    hook::Pinned,
    limits::{LISTS_PLACE_AGAIN_AFTER, PLACE_AGAIN_AFTER},
    receipt::{Chase, Proof, Receipt},
    rotation::{Now, Rotation},
    write::SlotFolder,
};

/// Whose identity a slot holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum SlotKey {
    /// The agent's own.
    Own,
    /// A folder's.
    Delivery(Arc<Path>),
    /// A socket caller's, in memory alone; shared by all callers who may have the entry.
    Workload(EntryName),
}

/// What the slot is filled for.
pub(crate) enum Purpose {
    Own,
    Delivery { delivery: Delivery, folder: SlotFolder },
    Workload { entry: EntryName },
}

impl Purpose {
    /// The processes that the hooks of a delivery name by number, as they run now.
    pub(crate) fn pinned(&self) -> Pinned {
        match self {
            Self::Delivery { delivery, .. } => Pinned::of(delivery),
            _ => Pinned::default(),
        }
    }
}

/// An ask that has no answer yet. The same key and request id are sent again for a while: a lost answer is then found in
/// the CA's records instead of making a second certificate.
pub(crate) struct Pending {
    pub(crate) id: RequestId,
    pub(crate) csr: Vec<u8>,
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// Time since boot when it was first sent.
    pub(crate) since: Duration,
}

/// A verified pair that is not in place yet.
#[derive(Clone)]
pub(crate) struct Unplaced {
    pub(crate) held: Arc<Held>,
    /// Where its record stands, when the CA said so.
    pub(crate) receipt: Option<Receipt>,
    /// Time since boot when it was asked for.
    pub(crate) asked: Duration,
}

/// What went wrong last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) stage: &'static str,
    pub(crate) message: String,
}

/// Whether a refusal is the CA's last word on an ask: it is the ask that is wrong, not the moment and not the CA.
pub(crate) fn is_final(refusal: &v1::Refusal) -> bool {
    let code = Code::from_i32(refusal.grpc_code.cast_signed());
    !refusal.retry && !matches!(code, Code::Internal | Code::Unknown | Code::DataLoss)
}

/// The place of one identity.
pub(crate) struct Slot {
    pub(crate) purpose: Purpose,
    pub(crate) rotation: Rotation,
    /// The pair in place.
    pub(crate) held: Option<Arc<Held>>,
    /// The certificate that was in place before, and its end: it may be good for a while.
    pub(crate) former: Option<(Serial, UnixTime)>,
    /// Where the record of the pair in place stands.
    pub(crate) receipt: Option<Receipt>,
    /// The proof of that receipt.
    pub(crate) proof: Option<Proof>,
    /// When the proof is asked for.
    pub(crate) chase: Chase,
    pub(crate) pending: Option<Pending>,
    pub(crate) unplaced: Option<Unplaced>,
    /// A task is putting a pair in place; one at a time.
    pub(crate) placing: bool,
    /// Time since boot when putting a pair in place was last begun.
    pub(crate) tried: Duration,
    /// The pair in place must be written again, with another bundle.
    pub(crate) rewrite: bool,
    /// Why the lists of revoked certificates in the folder are not those in force.
    pub(crate) lists_behind: Option<Trouble>,
    /// The bundles of other trust domains that were written last, or are being written.
    pub(crate) federated: Vec<Arc<Foreign>>,
    /// The identity was taken away while a task was placing it; the folder is emptied when the task ends.
    pub(crate) clear: bool,
    pub(crate) trouble: Option<Trouble>,
    /// The CA's last answer was a no that asking again does not change.
    pub(crate) refused: bool,
    /// Where the hooks stand.
    pub(crate) acting: Acting,
    /// The processes that they name by number.
    pub(crate) pinned: Arc<Pinned>,
    /// The last serial in hand that was found revoked; its replacement is asked for once.
    pub(crate) struck: Option<Serial>,
}

impl Slot {
    pub(crate) fn new(purpose: Purpose) -> Self {
        Self {
            pinned: Arc::new(purpose.pinned()),
            purpose,
            rotation: Rotation::new(),
            held: None,
            former: None,
            receipt: None,
            proof: None,
            chase: Chase::Over,
            pending: None,
            unplaced: None,
            placing: false,
            tried: Duration::ZERO,
            rewrite: false,
            lists_behind: None,
            federated: Vec::new(),
            clear: false,
            trouble: None,
            refused: false,
            acting: Acting::default(),
            struck: None,
        }
    }

    /// A certificate is in place that has not ended.
    pub(crate) fn serving(&self, now: Now) -> bool {
        self.held.is_some() && self.rotation.serving(now)
    }

    /// How long until its hooks run; `None` while there is nothing for them to do.
    pub(crate) fn hooks_due_in(&self, now: Now) -> Option<Duration> {
        self.acting.due_in(self.delivery().and_then(Delivery::window), now)
    }

    /// When what could not be put in place is tried again, whether or not the CA can be reached, in time since boot.
    pub(crate) fn place_again_at(&self) -> Option<Duration> {
        let wait = match self.unplaced.is_some() || self.rewrite && self.held.is_some() {
            true => Some(PLACE_AGAIN_AFTER),
            false => self.owes_lists().then_some(LISTS_PLACE_AGAIN_AFTER),
        };
        wait.filter(|_| !self.placing).map(|wait| self.tried + wait)
    }

    /// The lists of revoked certificates in force could not be put beside the pair in place.
    pub(crate) fn owes_lists(&self) -> bool {
        self.lists_behind.is_some() && self.held.is_some()
    }

    /// When something is to be done about it by itself, beside its receipt, in time since boot.
    pub(crate) fn wake_at(&self, now: Now) -> Option<Duration> {
        let hooks = self.hooks_due_in(now).map(|wait| boot(now) + wait);
        let times = [self.rotation.wake_at(now), self.place_again_at(), hooks];
        times.into_iter().flatten().min()
    }

    /// The entry asked for; `None` for the agent's own identity.
    pub(crate) fn entry(&self) -> Option<&EntryName> {
        match &self.purpose {
            Purpose::Own => None,
            Purpose::Delivery { delivery, .. } => Some(delivery.entry()),
            Purpose::Workload { entry } => Some(entry),
        }
    }

    pub(crate) fn delivery(&self) -> Option<&Delivery> {
        match &self.purpose {
            Purpose::Delivery { delivery, .. } => Some(delivery),
            _ => None,
        }
    }

    /// What log lines and events call it.
    pub(crate) fn subject(&self) -> String {
        match &self.purpose {
            Purpose::Own => "agent".to_owned(),
            Purpose::Delivery { delivery, .. } => format!("{} in {}", delivery.entry(), delivery.directory().display()),
            Purpose::Workload { entry } => entry.to_string(),
        }
    }
}
