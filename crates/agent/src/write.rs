//! Putting a verified pair in place: first into the agent's own directory, then, as one durable swap, into the folder.
//! Whatever fails, the generation that was in place stays. Runs on threads that may wait for a disk.

use std::{
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError},
};

use mintage_sys::swap::{Folder, FolderRules, GenerationFile};

use crate::{
    bundle::Bundle,
    config::Delivery,
    crls::Crls,
    federation::Foreign,
    held::Held,
    hook::Content,
    layout::{FederatedRoots, Material},
    receipt::{Proof, Receipt},
    store::Store,
};

/// Permission bits of a folder that the agent makes: owner and group may look into it.
const FOLDER_MODE: u32 = 0o750;
/// Permission bits of files without a key; the folder guards them.
const PUBLIC_MODE: u32 = 0o644;

/// A folder, once it was opened: later writes find out when another directory has taken its place.
#[derive(Clone, Default)]
pub(crate) struct SlotFolder(Arc<Mutex<Option<Opened>>>);

struct Opened {
    folder: Folder,
    /// Device and inode of the directory that it lies in.
    parent: Option<(u64, u64)>,
}

impl Opened {
    fn open(delivery: &Delivery, trust_domain: &str) -> Result<Self, String> {
        // Looked at first: should another one take its place meanwhile, the folder is not made anew in that.
        let parent = parent_of(delivery);
        let folder = Folder::open(delivery.directory(), rules(delivery, trust_domain));
        let folder = folder.map_err(|error| error.to_string())?;
        Ok(Self { folder, parent })
    }
}

/// Which directory a delivery's folder lies in now.
fn parent_of(delivery: &Delivery) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(delivery.directory().parent()?).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Nothing is there any more, not even another thing.
fn is_gone(delivery: &Delivery) -> bool {
    let looked = std::fs::symlink_metadata(delivery.directory());
    looked.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// What is written where.
pub(crate) struct Write {
    pub(crate) delivery: Delivery,
    pub(crate) folder: SlotFolder,
    pub(crate) held: Arc<Held>,
    /// Where the record of this very pair stands, and its proof.
    pub(crate) receipt: Option<Receipt>,
    pub(crate) proof: Option<Proof>,
    pub(crate) bundle: Arc<Bundle>,
    /// Of other trust domains, those that lie beside it.
    pub(crate) federated: Vec<Arc<Foreign>>,
    pub(crate) crls: Arc<Crls>,
    pub(crate) store: Arc<Store>,
}

/// Whose the folder of a delivery is.
pub(crate) fn rules(delivery: &Delivery, trust_domain: &str) -> FolderRules {
    FolderRules {
        tag: format!("{trust_domain}/{}", delivery.entry()),
        owner: Some(delivery.owner()),
        group: Some(delivery.group()),
        mode: FOLDER_MODE,
    }
}

impl SlotFolder {
    /// The folder as it was first opened, or opened now; one that was removed is made again.
    fn open(&self, delivery: &Delivery, trust_domain: &str) -> Result<Folder, String> {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &*opened {
            if !is_gone(delivery) {
                return Ok(before.folder.clone());
            }
            if parent_of(delivery) != before.parent {
                return Err(format!(
                    "{}: is gone, and what it lay in is another directory than before (was a mount removed?); put it back, \
                     or SIGHUP the agent to begin anew there",
                    delivery.directory().display()
                ));
            }
            // Made anew where it was, by the rules of a start: nobody else's place is written to.
        }
        let anew = Opened::open(delivery, trust_domain)?;
        Ok(opened.insert(anew).folder.clone())
    }

    /// Takes away what was delivered.
    pub(crate) fn clear(&self, delivery: &Delivery, trust_domain: &str) -> Result<(), String> {
        let left = self
            .open(delivery, trust_domain)?
            .clear()
            .map_err(|error| error.to_string())?;
        match left.is_empty() {
            true => Ok(()),
            false => Err(left.join("; ")),
        }
    }
}

impl Write {
    /// Writes; what lies in the folder then. An error says which of the two places failed.
    pub(crate) fn run(&self) -> Result<Content, (&'static str, String)> {
        self.store
            .save_delivery(&self.delivery, &self.held.to_pem())
            .map_err(|error| ("store", error.to_string()))?;
        let content = self.swap().map_err(|problem| ("deliver", problem))?;
        self.keep_receipt();
        Ok(content)
    }

    /// After the swap, so that no delivery waits for it: what a crash loses here is the proof of one certificate.
    fn keep_receipt(&self) {
        let Some(receipt) = self.receipt.as_ref().filter(|_| self.delivery.receipt()) else {
            return;
        };
        let saved = self
            .store
            .save_receipt(&self.delivery, &self.held.chain()[0], receipt, self.proof.as_ref());
        if let Err(error) = saved {
            let directory = self.delivery.directory().display();
            tracing::warn!(%directory, %error, "the receipt could not be kept; after a restart its proof is not asked for");
        }
    }

    fn swap(&self) -> Result<Content, String> {
        let trust_domain = self.bundle.trust_domain().as_str();
        let folder = self.folder.open(&self.delivery, trust_domain)?;
        let crls = self.delivery.crl().then(|| self.crls.to_pem()).flatten();
        let federated = self.federated.iter().map(|foreign| FederatedRoots {
            trust_domain: foreign.domain().as_str(),
            roots: foreign.roots(),
        });
        let federated: Vec<FederatedRoots<'_>> = federated.collect();
        let files = self.delivery.layout().files(&Material {
            trust_domain,
            key: self.held.key(),
            chain: self.held.chain(),
            roots: self.bundle.roots(),
            federated: &federated,
            proof: self
                .proof
                .as_ref()
                .filter(|_| self.delivery.receipt())
                .map(Proof::octets),
            crls: crls.as_deref(),
            password: self.delivery.password(),
        })?;
        let generation: Vec<GenerationFile<'_>> = files
            .iter()
            .map(|file| GenerationFile {
                name: &file.name,
                bytes: &file.content,
                mode: if file.secret { self.delivery.mode() } else { PUBLIC_MODE },
                owner: Some(self.delivery.owner()),
                group: Some(self.delivery.group()),
            })
            .collect();
        let swapped = folder.swap(&generation).map_err(|error| error.to_string())?;
        for left in swapped.leftovers {
            tracing::warn!(
                directory = %self.delivery.directory().display(),
                problem = left,
                "something in the delivery folder could not be tidied up"
            );
        }
        Ok(Content::of(&self.delivery, &files, crls.as_deref()))
    }
}
